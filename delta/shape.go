package delta

import (
	"fmt"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// shape is one schema of the log: how its records are read, whom they concern, and which views
// they cannot be folded into. It is worked out once per schema, not per change.
type shape struct {
	control bool
	codec   change.Codec    // of the table as it was when the record was written
	decoder *change.Decoder // of what is read of it; nil when pick is needed
	name    string          // of the table
	table   *feature.Table
	pick    []int   // column of the record for each column of table, -1: it has none; nil: the same columns
	sources []*view // whose rows these are
	joins   []*view // that join them
	kept    []bool  // by column of table: a view joins it
	// unfit tells why changes of this shape cannot be folded into a view, old why its updates and
	// deletes cannot; both by view, for sources and joins.
	unfit, old map[string]string
}

func (p *Partition) newShape(from *feature.Table) *shape {
	s := &shape{codec: change.Codec{Table: from}, name: from.FullName(), unfit: map[string]string{}, old: map[string]string{}}
	if s.table = p.o.Catalog.Tables[s.name]; s.table == nil {
		s.table = from
	}
	n := len(s.table.Columns)
	s.kept = make([]bool, n)
	if len(from.Columns) < n || !slices.EqualFunc(from.Columns[:n], s.table.Columns, func(a, b feature.Column) bool { return a.Name == b.Name && a.Type == b.Type }) {
		s.pick = make([]int, len(s.table.Columns))
		for i, col := range s.table.Columns {
			s.pick[i] = from.Index(col.Name)
		}
	}
	for _, v := range p.order {
		if v.Past {
			continue
		}
		if v.Source.FullName() == s.name {
			s.sources = append(s.sources, v)
			s.judge(v, v.needs, -1)
		}
		for j := range v.Joins {
			if v.Joins[j].Table.FullName() == s.name {
				s.joins = append(s.joins, v)
				s.judge(v, v.joined[j], j)
				for _, c := range v.joined[j] {
					s.kept[c] = true
				}
			}
		}
	}
	if s.pick == nil {
		s.decoder = s.codec.NewDecoder(s.wanted())
	}
	return s
}

// wanted tells which columns of a record are read: those that views use or join, and the primary key.
func (s *shape) wanted() []bool {
	want := make([]bool, len(s.codec.Table.Columns))
	for i := range s.table.Columns {
		want[i] = s.kept[i] || s.table.Columns[i].Key
	}
	for _, v := range s.sources {
		for _, c := range v.needs {
			want[c] = true
		}
	}
	return want
}

// judge notes why rows of this shape do not fit a view that uses some of the table's columns; join is
// -1 for the view's source.
func (s *shape) judge(v *view, uses []int, join int) {
	from := s.codec.Table
	keys := func(t *feature.Table) string {
		var names []string
		for _, k := range t.KeyColumns() {
			names = append(names, t.Columns[k].Name)
		}
		slices.Sort(names)
		return strings.Join(names, ", ")
	}
	for _, c := range slices.Concat(s.table.KeyColumns(), uses) {
		col := s.table.Columns[c]
		at := from.Index(col.Name)
		switch {
		case at < 0:
			s.unfit[v.Name] = fmt.Sprintf("column %s of %s, which the view uses, is gone: it was dropped or renamed", col.Name, s.name)
		case !fits(col.Type, from.Columns[at].Type, v.exposes(feature.Ref{Join: join, Column: c})):
			s.unfit[v.Name] = fmt.Sprintf("column %s of %s, which the view uses, is %s now and was %s", col.Name, s.name, from.Columns[at].Type, col.Type)
		default:
			continue
		}
		return
	}
	if was, is := keys(s.table), keys(from); was != is {
		s.unfit[v.Name] = fmt.Sprintf("the primary key of %s is (%s) now and was (%s)", s.name, is, was)
		return
	}
	s.judgeIdentity(v, join)
}

// judgeIdentity notes why updates and deletes do not fit: their old images must name the row and,
// where it may have moved, its entity. (Inserts have no old image: under the identity NOTHING
// PostgreSQL lets nothing else happen.)
func (s *shape) judgeIdentity(v *view, join int) {
	if v.Events && join < 0 {
		return
	}
	carried := s.table.KeyColumns()
	if join < 0 {
		carried = append(carried, v.Carried()...)
	}
	for _, c := range carried {
		name := s.table.Columns[c].Name
		if at := s.codec.Table.Index(name); !s.codec.Table.CarriesOld(at) {
			s.old[v.Name] = fmt.Sprintf("updates and deletes of %s do not carry the old value of %s any more: its replica identity changed", s.name, name)
			return
		}
	}
}

// fits tells whether values of one type can be folded where another was expected. A decimal of the
// same scale and a floating point number may get longer, unless it comes out of the view as it went in.
func fits(want, got feature.Type, exposed bool) bool {
	if want.Kind == feature.Decimal && got.Kind == feature.Decimal && want.Scale == got.Scale && want.Precision > 0 && got.Precision > 0 {
		return got.Precision <= want.Precision || !exposed
	}
	if want.Kind == feature.Double && got.Kind == feature.Double { // real and double precision
		return want == got || !exposed
	}
	return want == got // without a zone or with one is not the same instant, so that counts
}

// misfit tells why a change cannot be folded into a view; empty: it can.
func (s *shape) misfit(v *view, op change.Op) string {
	if why := s.unfit[v.Name]; why != "" || op == change.Insert || op == change.Snapshot {
		return why
	}
	return s.old[v.Name]
}

// decode reads a record and puts its columns into the catalogue's order: an added column is carried
// by the log and not yet used. What did not travel because it did not change is taken from the
// before-image where that has it.
func (s *shape) decode(p *pending, payload []byte) error {
	ch, n := &p.ch, len(s.codec.Table.Columns)
	if s.decoder != nil {
		if cap(p.before) < n {
			p.before, p.after = make([]feature.Value, n), make([]feature.Value, n)
		}
		if err := s.decoder.Decode(ch, payload, p.before, p.after); err != nil {
			return fmt.Errorf("%w", err)
		}
		if len(ch.Unchanged) > 0 { // it is the record's
			p.bits = append(p.bits[:0], ch.Unchanged...)
			ch.Unchanged = p.bits
		}
	} else {
		whole, err := s.codec.Decode(payload)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		*ch = *whole
	}
	if ch.Before != nil && ch.After != nil && len(ch.Unchanged) > 0 {
		for i := range ch.After {
			if ch.IsUnchanged(i) && s.codec.Table.CarriesOld(i) {
				ch.After[i] = ch.Before[i]
				ch.Unchanged[i/8] &^= 1 << (i % 8)
			}
		}
	}
	if s.pick == nil {
		n = len(s.table.Columns)
		ch.Before, ch.After = ch.Before[:min(n, len(ch.Before))], ch.After[:min(n, len(ch.After))]
		return nil
	}
	s.reorder(ch)
	return nil
}

// reorder brings a change into the catalogue's order of columns.
func (s *shape) reorder(ch *change.Change) {
	pick := func(row []feature.Value) []feature.Value {
		if row == nil {
			return nil
		}
		out := make([]feature.Value, len(s.pick))
		for i, at := range s.pick {
			if at >= 0 {
				out[i] = row[at]
			}
		}
		return out
	}
	var bits []byte
	if len(ch.Unchanged) > 0 {
		bits = make([]byte, (len(s.pick)+7)/8)
		for i, at := range s.pick {
			if at >= 0 && ch.IsUnchanged(at) {
				bits[i/8] |= 1 << (i % 8)
			}
		}
	}
	ch.Before, ch.After, ch.Unchanged = pick(ch.Before), pick(ch.After), bits
}
