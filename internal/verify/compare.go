package verify

import (
	"math"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// The places that are compared.
const (
	Served           = "served"
	DeltaTopicPlace  = "delta topic"
	CurrentPlace     = "current"
	HistoryPlace     = "history"
	PredictionsPlace = "predictions"
)

// maxDifferences bounds the differences that a report holds; all are counted.
const maxDifferences = 20

// nearness is how far apart doubles may be whose rounding depends on the order of adding.
const nearness = 1e-9

// Report is the outcome for one view, or model, in one place.
type Report struct {
	View            string            `json:"view"` // or model
	Place           string            `json:"place"`
	Cut             string            `json:"cut"`
	CutPause        int64             `json:"cut_pause"`            // for which capture published nothing, microseconds
	CutWaited       string            `json:"cut_waited,omitempty"` // the transaction that was waited for, if it took long
	Rows            int               `json:"rows"`
	Expected        int               `json:"expected"`
	Compared        []string          `json:"compared"`                 // columns
	NotComparable   map[string]string `json:"not_comparable,omitempty"` // column: why
	Differences     []Difference      `json:"differences,omitempty"`    // the first 20
	DifferenceCount int               `json:"difference_count"`
	Counts          *DeltaCounts      `json:"counts,omitempty"` // delta topic only
	// Error is why the place cannot be judged: it is at another cut, or has lost its beginning.
	Error string `json:"error,omitempty"`
}

// Equal tells that the place could be judged and no difference was found. What is not comparable is
// not compared: see NotComparable.
func (r *Report) Equal() bool { return r.Error == "" && r.DifferenceCount == 0 }

// Difference is one value that is not what it must be. Column is empty when the entity itself is
// missing, or is there and must not be; _sequence and _version are about the order of deltas.
type Difference struct {
	Key    string `json:"key"`
	Column string `json:"column,omitempty"`
	Want   string `json:"want"`
	Got    string `json:"got"`
}

func (r *Report) differ(key, column, want, got string) {
	if r.DifferenceCount++; len(r.Differences) < maxDifferences {
		r.Differences = append(r.Differences, Difference{key, column, want, got})
	}
}

// Comparer compares the rows of a place, in any order, with what they must be.
type Comparer struct {
	report  *Report
	want    []Row
	at      map[string]int
	seen    []bool
	surplus map[string]bool
	columns []column
}

type column struct {
	name string
	at   int
	near bool
}

// NewComparer starts a comparison of a view in a place.
func NewComparer(v *feature.View, place string, cut change.CutRecord, expected *Expected) *Comparer {
	c := &Comparer{
		report: &Report{View: v.Name, Place: place, Cut: cut.ID, Expected: len(expected.Rows), NotComparable: expected.NotComparable},
		want:   expected.Rows, at: make(map[string]int, len(expected.Rows)), seen: make([]bool, len(expected.Rows)), surplus: map[string]bool{},
	}
	switch {
	case expected.View != v.Name || !slices.Equal(expected.Outputs, v.Outputs()):
		c.report.Error = "what is expected was asked for another definition, of view " + expected.View
	case expected.LogTime != cut.LogTime:
		c.report.Error = "what is expected is of another log time: " + feature.OfMicros(expected.LogTime).Text() + ", the cut's is " + feature.OfMicros(cut.LogTime).Text()
	case expected.Whole != "":
		c.report.Error = "nothing of the view is comparable: " + expected.Whole
	}
	for i, o := range v.Outputs() {
		if _, not := expected.NotComparable[o.Name]; !not {
			c.columns = append(c.columns, column{o.Name, i, expected.Near[o.Name]})
			c.report.Compared = append(c.report.Compared, o.Name)
		}
	}
	for i := range expected.Rows {
		c.at[keyBytes(expected.Rows[i].Key)] = i
	}
	return c
}

// Row compares one entity that is there. values are by the view's Outputs; nothing is kept.
func (c *Comparer) Row(key, values []feature.Value) {
	c.report.Rows++
	if c.report.Error != "" {
		return
	}
	id, text := keyBytes(key), feature.KeyText(key)
	i, ok := c.at[id]
	switch {
	case !ok && c.surplus[id], ok && c.seen[i]:
		c.report.differ(text, "", "once", "again")
		return
	case !ok:
		c.surplus[id] = true
		c.report.differ(text, "", "absent", "present")
		return
	}
	c.seen[i] = true
	for _, col := range c.columns {
		want := c.want[i].Values[col.at]
		if col.at >= len(values) {
			c.report.differ(text, col.name, show(want), "no value")
			continue
		}
		if got := values[col.at]; !same(want, got, col.near) {
			c.report.differ(text, col.name, show(want), show(got))
		}
	}
}

// Done gives the report; entities that never came are differences.
func (c *Comparer) Done() *Report {
	if c.report.Error == "" {
		for i, seen := range c.seen {
			if !seen {
				c.report.differ(feature.KeyText(c.want[i].Key), "", "present", "absent")
			}
		}
	}
	c.want, c.seen = nil, nil
	return c.report
}

func show(v feature.Value) string {
	if v.IsNull() {
		return "NULL"
	}
	return v.Text()
}

// same compares two values: of one kind, and equal. -0.0 is 0.0, NaN is NaN.
func same(a, b feature.Value, near bool) bool {
	switch {
	case a.Kind != b.Kind:
		return false
	case a.Kind == feature.List:
		return sameLists(a, b, near)
	case a.Kind != feature.Double || !near:
		return a.Compare(b) == 0
	}
	x, y := a.Float(), b.Float()
	if x == y || (math.IsNaN(x) && math.IsNaN(y)) {
		return true
	}
	limit := nearness * max(1, min(math.Abs(x), math.Abs(y)))
	return !math.IsInf(x, 0) && !math.IsInf(y, 0) && math.Abs(x-y) <= limit
}

func sameLists(a, b feature.Value, near bool) bool {
	x, errX := a.Elements()
	y, errY := b.Elements()
	return errX == nil && errY == nil && slices.EqualFunc(x, y, func(a, b feature.Value) bool { return same(a, b, near) })
}

// ServedRows compares what scan gives: the served rows of a view that are present at the cut.
func ServedRows(v *feature.View, cut change.CutRecord, expected *Expected, scan func(fn func(key, values []feature.Value) error) error) (*Report, error) {
	c := NewComparer(v, Served, cut, expected)
	err := scan(func(key, values []feature.Value) error {
		c.Row(key, values)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.Done(), nil
}
