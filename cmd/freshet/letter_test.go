package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/dead"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

func TestWhereOfALetter(t *testing.T) {
	table := &feature.Table{Schema: "public", Name: "t", Identity: feature.IdentityFull, Columns: []feature.Column{
		{Name: "Id", Key: true, NotNull: true}, {Name: "name", Key: true, NotNull: true}, {Name: "account"}, {Name: "note"},
	}}
	row := func(texts ...string) []cellOf {
		out := make([]cellOf, len(texts))
		for i, s := range texts {
			out[i] = cellOf{s, s != "NULL"}
		}
		return out
	}
	for _, c := range []struct {
		before, after []cellOf
		hashed, want  string // want: the condition, or a part of the error
	}{
		{nil, row("1", "it's", "a", "NULL"), "", `"Id" = '1' and "name" = 'it''s'`},
		{row("1", "x", "a", "old"), row("1", "x", "a", "new"), "", `"Id" = '1' and "name" = 'x'`},
		{row("1", "x", "NULL", "n"), row("1", "x", "a", "n"), "", `"Id" = '1' and "name" = 'x'`},
		{row("1", "x", "a", "n"), row("1", "x", "NULL", "n"), "", "!account changed"},
		{row("1", "x", "a", "n"), row("1", "x", "b", "n"), "", "!account changed"},
		{row("2", "x", "a", "n"), row("1", "x", "a", "n"), "", "!Id changed"},
		{row("1", "x", "a", "n"), nil, "", "!it was deleted"},
		{nil, row("NULL", "x", "a", "n"), "", "!its key Id is not in the letter"},
		{nil, row("1", "x", "a", "n"), "name", "!its key name is hashed"},
	} {
		r := &letterRow{table: table, before: c.before, after: c.after}
		got, err := r.where([]string{"account"}, []string{c.hashed})
		if part, fails := strings.CutPrefix(c.want, "!"); fails {
			if !errors.Is(err, errWhole) || !strings.Contains(err.Error(), part) {
				t.Errorf("%v: %q, %v, want %q", c, got, err, part)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%v: %q, %v", c, got, err)
		}
	}
}

// The line of a letter is read as COPY writes it.
func TestCopyOfALetter(t *testing.T) {
	table := &feature.Table{Schema: "public", Name: "t", Columns: []feature.Column{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}}}
	of := func(line string) (*letterRow, error) {
		d, err := dead.Of(&dead.Row{Table: table, Form: dead.CopyText, Raw: []byte(line)}, errors.New("why"))
		if err != nil {
			t.Fatal(err)
		}
		return readLetter(t.Context(), nil, d)
	}
	r, err := of(`a\tb\\t\n` + "\t" + `\N` + "\t\t" + `\\N`)
	if err != nil {
		t.Fatal(err)
	}
	want := []cellOf{{"a\tb\\t\n", true}, {`\N`, false}, {"", true}, {`\N`, true}}
	for i := range want {
		if r.after[i] != want[i] {
			t.Errorf("%d: %+v, want %+v", i, r.after[i], want[i])
		}
	}
	if _, err := of("a\tb"); !errors.Is(err, dead.ErrDamaged) {
		t.Error(err)
	}
	if _, err := readLetter(t.Context(), nil, &change.Dead{Stage: dead.Stage, Value: []byte("x")}); err == nil {
		t.Error("a letter of another layout is read")
	}
	if _, err := readLetter(t.Context(), nil, &change.Dead{Stage: deltaStage, Value: []byte("x")}); err == nil {
		t.Error("a change without a frame is read")
	}
}

func TestPace(t *testing.T) {
	var p pace
	at := time.Unix(1000, 0)
	for _, c := range []struct {
		after time.Duration
		j     capture.Job
		want  string
	}{
		{0, capture.Job{Status: capture.JobRunning}, "running, 0 rows read, 0 published"},
		{time.Second, capture.Job{Status: capture.JobRunning, Read: 500, Rows: 400, Estimate: 2000}, "running, 500 rows read of about 2000, 400 published, 500 rows/s, 3s left"},
		{2 * time.Second, capture.Job{Status: capture.JobRunning, Read: 3000, Rows: 2000, Estimate: 2000}, "running, 3000 rows read of about 3000, 2000 published, 1500 rows/s"},
		{3 * time.Second, capture.Job{Status: capture.JobRunning, Read: 3000, Estimate: 2000, Where: "x"}, "running, 3000 rows read, 0 published, 1000 rows/s"},
		{4 * time.Second, capture.Job{Status: capture.JobDone, Read: 3000, Rows: 3000}, "done, 3000 rows read, 3000 published"},
	} {
		if got := p.line(c.j, at.Add(c.after)); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	for range 100 {
		p.line(capture.Job{}, at)
	}
	if len(p.at) != paceSamples || len(p.read) != paceSamples {
		t.Error("it grows")
	}
}
