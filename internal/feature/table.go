package feature

import (
	"fmt"
	"slices"
	"strings"
)

// Identity is a table's REPLICA IDENTITY: which old values updates and deletes carry.
type Identity byte

// The replica identities, by their letters in pg_class.relreplident.
const (
	IdentityDefault Identity = 'd'
	IdentityFull    Identity = 'f'
	IdentityIndex   Identity = 'i'
	IdentityNothing Identity = 'n'
)

// Column is one column of a source table. Source is PostgreSQL's name of its type. A column whose
// Type is Decimal or List travels as exact text in changes and becomes a decimal or list when a
// feature uses it; source types without a type of ours are String and carry PostgreSQL's text.
type Column struct {
	Name       string `json:"name"`
	Source     string `json:"source"`
	Type       Type   `json:"type"`
	Key        bool   `json:"key,omitempty"`        // part of the primary key
	InIdentity bool   `json:"inIdentity,omitempty"` // part of the replica identity
	NotNull    bool   `json:"notNull,omitempty"`
}

// Table is the shape of one source table.
type Table struct {
	Schema   string   `json:"schema"`
	Name     string   `json:"name"`
	Identity Identity `json:"identity"`
	Columns  []Column `json:"columns"`
}

// FullName gives schema.name.
func (t *Table) FullName() string { return t.Schema + "." + t.Name }

// Index gives the ordinal of a column, or -1.
func (t *Table) Index(name string) int {
	return slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name })
}

// KeyColumns gives the ordinals of the primary key's columns, in table order.
func (t *Table) KeyColumns() []int {
	var out []int
	for i, c := range t.Columns {
		if c.Key {
			out = append(out, i)
		}
	}
	return out
}

// CarriesOld tells whether the before-image of updates and deletes holds the column.
func (t *Table) CarriesOld(column int) bool {
	return t.Identity == IdentityFull || t.Columns[column].InIdentity
}

// Fingerprint is a text that differs whenever the shape does.
func (t *Table) Fingerprint() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %c", t.FullName(), t.Identity)
	for _, c := range t.Columns {
		fmt.Fprintf(&b, " %q:%s:%s:%t:%t", c.Name, c.Source, c.Type, c.Key, c.InIdentity)
	}
	return b.String()
}

// FromRow gives the typed value of a column as a feature uses it: a change carries decimals and
// arrays as exact text, which becomes a Decimal of the column's scale or a List. It is an error when
// the column's type does not hold the value: NaN, an array of two dimensions.
func FromRow(c Column, v Value) (Value, error) {
	if v.Kind != String || c.Type.Kind == String || !c.Type.IsText() {
		return v, nil
	}
	if c.Type.Kind == Decimal && c.Type.Precision == 0 {
		d, err := Numeric(v.S)
		if err != nil {
			return Value{}, fmt.Errorf("column %s: %w", c.Name, err)
		}
		return d, nil
	}
	d, err := ParseText(c.Type, v.S)
	if err != nil {
		return Value{}, fmt.Errorf("column %s: %w", c.Name, err)
	}
	return d, nil
}

// Comparable gives the value of a column as comparisons take it, in primary keys, joins and
// expressions: as FromRow, but decimals are numbers of any length, equal if they are equal as numbers,
// and arrays stay text.
func Comparable(c Column, v Value) (Value, error) {
	if v.Kind != String || c.Type.Kind != Decimal {
		return v, nil
	}
	d, err := Numeric(v.S)
	if err != nil {
		return Value{}, fmt.Errorf("column %s: %w", c.Name, err)
	}
	return d, nil
}
