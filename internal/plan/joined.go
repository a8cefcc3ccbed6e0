package plan

import (
	"slices"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// Joined is a table that a view joins in every partition, and what is kept of it there.
type Joined struct {
	Table      string   `json:"table"`
	Columns    []string `json:"columns"` // that the view reads, and that are kept
	Rows       int64    `json:"rows"`
	Bytes      int64    `json:"bytes"` // in each partition, about
	Partitions int      `json:"partitions"`
	Bound      int64    `json:"bound,omitempty"`   // of Bytes
	Unknown    bool     `json:"unknown,omitempty"` // the table was never analyzed
	// Refused: the view does not join the table so yet, and it would be more than the bound.
	Refused bool         `json:"refused,omitempty"`
	At      feature.Meta `json:"-"`
}

// PriceJoined prices what a view, which is new or another, keeps of a table in each partition. The columns are ordinals,
// join is that of the view's joins by which the table is joined. running is the view as it runs; nil: it is new.
func PriceJoined(v *feature.View, join int, columns []int, running *feature.FeatureView, stats map[string]TableStats, bound int64) Joined {
	t := v.Joins[join].Table
	rows, _ := v.Routed()
	j := Joined{Table: t.FullName(), Partitions: rows.Partitions, Bound: bound, At: v.Def.Place("join." + strconv.Itoa(join))}
	s, known := stats[j.Table]
	j.Rows, j.Unknown = max(s.Rows, 0), !known || s.Rows < 0
	row := int64(1)
	for _, c := range slices.Sorted(slices.Values(columns)) {
		col := t.Columns[c]
		j.Columns = append(j.Columns, col.Name)
		size, ok := stored(col, s)
		j.Unknown = j.Unknown || !ok && j.Rows > 0
		row += size + 1
		if col.Key {
			row += size
		}
	}
	j.Bytes = j.Rows * row
	joins := running != nil && slices.ContainsFunc(running.Join, func(d feature.JoinDef) bool { return d.Table == j.Table && !d.Colocated })
	j.Refused = bound > 0 && !joins && !j.Unknown && j.Bytes > bound
	return j
}

// stored is about how many bytes a value of a column takes; ok is false where that is not known.
func stored(c feature.Column, s TableStats) (size int64, ok bool) {
	switch c.Type.Kind {
	case feature.Bool:
		return 2, true
	case feature.Decimal:
		return 18, true
	case feature.UUID:
		return 2 + 16, true
	case feature.String, feature.Bytes, feature.List:
		w, known := s.Widths[c.Name]
		return 1 + int64(w), known
	default:
		return 9, true
	}
}

// Refuse gives the error of one that is refused.
func (j *Joined) Refuse(view string, text func(int64) string) error {
	return fault.New(fault.Usage, "view %s joins %s in every partition: about %s of it would be kept in each of %d (%d rows), and the bound is %s",
		view, j.Table, text(j.Bytes), j.Partitions, j.Rows, text(j.Bound)).At("%s", j.At).
		ToMend("join it with colocated: true, if by the column that the group is by; or read fewer columns of it than %s; or raise source.joined_tables", strings.Join(j.Columns, ", "))
}
