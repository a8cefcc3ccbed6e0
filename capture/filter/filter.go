// Package filter makes of a table what may leave its source: columns are left out, masked, hashed or
// cut short, by rules compiled once per shape of the table into a pure function on rows.
//
// The same value gives the same result in every image of a row, in keys, and in every table under the
// same secret, so that what is hashed can still be joined and grouped. NULL stays NULL. A hashed or
// masked column is text from then on, and the shape after the filter says so.
package filter

import (
	"path"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/strict"
)

// Config is what is written about one table. Column patterns know * and ? and [a-z].
type Config struct {
	Include  []string        `yaml:"include"`  // patterns of the columns to take; none: all
	Exclude  []string        `yaml:"exclude"`  // patterns of columns to leave out of those
	Mask     map[string]Mask `yaml:"mask"`     // by column
	Hash     map[string]Hash `yaml:"hash"`     // by column
	Truncate map[string]int  `yaml:"truncate"` // by column: to so many characters
	Where    *string         `yaml:"where"`    // row filter of the publication, in SQL
}

// Mask hides a value. Exactly one of its fields is set.
type Mask struct {
	Fixed    *string `yaml:"fixed"`     // the text that every value becomes
	KeepLast int     `yaml:"keep_last"` // so many characters stay, after ****; of a value less than twice as long, none
}

// Hash replaces a value by HMAC-SHA-256 under the secret, in hexadecimal digits.
type Hash struct {
	Length int `yaml:"length"` // digits that are kept; 0: all 64
}

// Options are what the table's filter has to know beside its configuration.
type Options struct {
	Secret []byte   // for Hash; at least MinSecret bytes
	Keys   []string // columns that some view uses as an entity key
}

const (
	// MinSecret is the least length of the secret in bytes: shorter ones can be guessed.
	MinSecret = 16
	// MinKeyDigits is the least length of a hashed key: 128 bits, so that no two keys become one.
	MinKeyDigits = 32
	allDigits    = 64
	hidden       = "****"
)

// Filter is the compiled rules of one shape of one table. Safe for concurrent use.
type Filter struct {
	shape   *feature.Table
	where   string
	columns []column
}

// column is one column that is kept: its place before, and what becomes of its values.
type column struct {
	from int
	of   func(feature.Value) feature.Value // nil: as they are
}

// Compile checks the rules against the table and makes the filter. Errors are of class Usage and name
// the table, the column, and the nearest column there is.
func Compile(table *feature.Table, c Config, o Options) (*Filter, error) {
	b := builder{table: table, config: c, options: o}
	f := &Filter{shape: &feature.Table{Schema: table.Schema, Name: table.Name, Identity: table.Identity}}
	if c.Where != nil {
		f.where = strings.TrimSpace(*c.Where)
		if f.where == "" {
			return nil, b.fail("where is empty").ToMend("write a condition in SQL, or take the key out")
		}
	}
	kept, err := b.kept()
	if err != nil {
		return nil, err
	}
	rules, err := b.rules(kept)
	if err != nil {
		return nil, err
	}
	for _, i := range kept {
		col := table.Columns[i]
		r := rules[col.Name]
		if r.text {
			col.Source, col.Type = "text", feature.Type{Kind: feature.String}
		}
		f.shape.Columns = append(f.shape.Columns, col)
		f.columns = append(f.columns, column{i, r.of})
	}
	return f, nil
}

// Shape gives the table as it is after the filter.
func (f *Filter) Shape() *feature.Table { return f.shape }

// Where gives the row filter for the publication, or "".
func (f *Filter) Where() string { return f.where }

// Row gives an image of a row after the filter; nil stays nil.
func (f *Filter) Row(row []feature.Value) []feature.Value {
	if row == nil {
		return nil
	}
	out := make([]feature.Value, len(f.columns))
	for i, c := range f.columns {
		out[i] = row[c.from]
		if c.of != nil && !out[i].IsNull() {
			out[i] = c.of(out[i])
		}
	}
	return out
}

// Change gives a change after the filter. The original is not touched.
func (f *Filter) Change(ch *change.Change) *change.Change {
	out := *ch
	out.Before, out.After, out.Unchanged = f.Row(ch.Before), f.Row(ch.After), nil
	for i, c := range f.columns {
		if ch.IsUnchanged(c.from) {
			if out.Unchanged == nil {
				out.Unchanged = make([]byte, (len(f.columns)+7)/8)
			}
			out.Unchanged[i/8] |= 1 << (i % 8)
		}
	}
	return &out
}

// builder checks and compiles one configuration.
type builder struct {
	table   *feature.Table
	config  Config
	options Options
}

func (b *builder) fail(what string, args ...any) *fault.Error {
	return fault.New(fault.Usage, what, args...).At("table %s", b.table.FullName())
}

// isKey tells why a column has to stay what it is, or "".
func (b *builder) isKey(col feature.Column) string {
	switch {
	case col.Key:
		return "it is part of the primary key"
	case slices.Contains(b.options.Keys, col.Name):
		return "a view uses it as a key"
	case col.InIdentity && b.table.Identity == feature.IdentityIndex:
		return "it is part of the replica identity"
	}
	return ""
}

// kept gives the ordinals of the columns that stay.
func (b *builder) kept() ([]int, error) {
	for _, list := range []struct {
		key      string
		patterns []string
	}{{"include", b.config.Include}, {"exclude", b.config.Exclude}} {
		for _, p := range list.patterns {
			if _, err := path.Match(p, ""); err != nil {
				return nil, b.fail("%s: %q is not a pattern", list.key, p).ToMend("close the bracket, or write \\[")
			}
			if !slices.ContainsFunc(b.table.Columns, func(c feature.Column) bool { return matches(p, c.Name) }) {
				return nil, b.unknown(b.fail("%s: %q is no column", list.key, p), p)
			}
		}
	}
	var out []int
	for i, c := range b.table.Columns {
		match := func(p string) bool { return matches(p, c.Name) }
		if (len(b.config.Include) == 0 || slices.ContainsFunc(b.config.Include, match)) && !slices.ContainsFunc(b.config.Exclude, match) {
			out = append(out, i)
		} else if why := b.isKey(c); why != "" {
			return nil, b.fail("column %s cannot be left out: %s", c.Name, why).ToMend("include it, and hash it if its values must not leave the source")
		}
	}
	if len(out) == 0 {
		return nil, b.fail("no column is left").ToMend("include one")
	}
	return out, nil
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

// unknown adds the column that was probably meant.
func (b *builder) unknown(e *fault.Error, name string) *fault.Error {
	all := make([]string, len(b.table.Columns))
	for i, c := range b.table.Columns {
		all[i] = c.Name
	}
	if near := strict.Nearest(name, all); near != "" {
		return e.ToMend("did you mean %s?", near)
	}
	return e.ToMend("the columns are %s", strings.Join(all, ", "))
}
