// Package pgtype says what a type of PostgreSQL is here: of an oid and a modifier, as relation
// messages and the catalogue give them, the [feature.Type] of a column and the type's name; and of a
// value's text the value.
//
// Values come as PostgreSQL's text from the stream and from COPY alike (docs/decisions/0006). What has
// a type of ours is read; decimals and arrays are checked when a feature uses them and travel as their
// exact text, as does everything that has no type of ours: docs/types.md is the table.
//
// The oid of a built-in type is enough. Others (domains, enums, composites, ranges, those of
// extensions) are looked up in a [Catalogue], which is read by oid, as needed: a relation message can
// name a type that was made after the catalogue was read, and [Of] says so with [UnknownError].
package pgtype
