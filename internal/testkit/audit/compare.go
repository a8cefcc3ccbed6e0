package audit

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

func entry(c *change.Codec, ch *change.Change) Entry {
	t := c.Table
	e := Entry{Op: ch.Op.String(), Table: t.FullName(), Before: text(ch.Before, nil), After: text(ch.After, ch)}
	row := ch.After
	if row == nil {
		row = ch.Before
	}
	if at := t.Index("id"); at >= 0 && row != nil {
		e.ID = row[at].Text()
	}
	return e
}

// text writes a row as PostgreSQL does, of values whose text needs no quotes but what the server quotes.
func text(row []feature.Value, ch *change.Change) string {
	if row == nil {
		return ""
	}
	parts := make([]string, len(row))
	for i, v := range row {
		switch {
		case ch != nil && ch.IsUnchanged(i):
			parts[i] = "?"
		case v.IsNull():
		default:
			parts[i] = quote(written(v))
		}
	}
	return "(" + strings.Join(parts, ",") + ")"
}

// written is a value as PostgreSQL writes it in zone UTC.
func written(v feature.Value) string {
	if v.Kind == feature.Timestamp {
		return time.UnixMicro(v.I).UTC().Format("2006-01-02 15:04:05.999999-07")
	}
	return v.Text()
}

func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, "\"\\(), \t\n\r\v\f") {
		return s
	}
	return `"` + strings.NewReplacer(`"`, `""`, `\`, `\\`).Replace(s) + `"`
}

// Difference says how what was seen differs from what was logged; empty: not at all. Every change must
// be there once, and those of one row in their order.
func Difference(logged []Entry, seen []Seen) string {
	want, got := sorted(logged, seen)
	var out []string
	rows := differing(want, got)
	for i, row := range rows {
		if i == 10 {
			out = append(out, fmt.Sprintf("and %d rows more", len(rows)-i))
			break
		}
		w, g := want[row], got[row]
		said := fmt.Sprintf("%d changes logged", len(w))
		if len(w) == 0 {
			said = "never logged"
		}
		out = append(out, fmt.Sprintf("%s: %s, %d seen%s", row, said, len(g), first(w, g)))
	}
	return strings.Join(out, "\n")
}

// Differing gives the rows that [Difference] tells of, all of them.
func Differing(logged []Entry, seen []Seen) []string { return differing(sorted(logged, seen)) }

func sorted(logged []Entry, seen []Seen) (want, got map[string][]Entry) {
	return byRow(logged, func(e Entry) Entry { return e }), byRow(seen, func(s Seen) Entry { return s.Entry })
}

func differing(want, got map[string][]Entry) []string {
	var out []string
	for row, w := range want {
		if !slices.Equal(w, got[row]) {
			out = append(out, row)
		}
	}
	for row := range got {
		if _, ok := want[row]; !ok {
			out = append(out, row)
		}
	}
	slices.Sort(out)
	return out
}

func first(want, got []Entry) string {
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("; the first missing: %v", want[i])
		case i >= len(want):
			return fmt.Sprintf("; the first too many: %v", got[i])
		case want[i] != got[i]:
			return fmt.Sprintf("; at %d logged %v, seen %v", i, want[i], got[i])
		}
	}
	return ""
}

func byRow[T any](in []T, of func(T) Entry) map[string][]Entry {
	out := map[string][]Entry{}
	for _, x := range in {
		e := of(x)
		key := e.Table + " " + e.ID
		out[key] = append(out[key], e)
	}
	return out
}
