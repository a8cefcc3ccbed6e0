// Package verify proves that what freshet says equals what the source database says, at one cut: the
// rows served, the delta topic, the tables current and history, and predictions.
//
// It is the independent path: nothing of the fold is used. A view becomes one SQL statement ([SQL]),
// which the source evaluates over its own rows under the cut's snapshot ([Truth]):
//
//	facts    the source's rows, each value in the form it has in a change; with joins, the dimension's
//	         row as of the row's own last change, found in audit.log, or as of now
//	rows     those of an entity for which where is true, and whose inputs are values
//	totals   per entity, one aggregate per feature, over the rows of its window
//	served   totals as features, less what ttl hides; then a layer per derived feature
//
// What cannot be said in SQL with the same meaning is not comparable: it is named with its reason,
// and never taken for equal.
//
// A place is compared row by row ([Comparer]). Doubles that come from sums of doubles may differ by
// 1e-9, relative, or absolute below 1, since their rounding depends on the order of adding. All other
// values must be the same, where -0.0 is 0.0 and NaN is NaN.
//
// Three things the statement takes from how freshet is built, not from SQL: a row whose where has an
// integer overflow, or an input of which is a numeric NaN, is an error row and no part of the view; an
// int64 sum that overflows is NULL; the mean of doubles is their sum as a double, which may be
// infinite, divided by their count.
package verify
