package main

import (
	"bytes"
	"testing"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
)

func TestPrintDelta(t *testing.T) {
	text := func(s string) *freshetv1.Value {
		return &freshetv1.Value{Kind: &freshetv1.Value_String_{String_: s}}
	}
	c := &freshetv1.Columns{View: "v", KeyNames: []string{"k"}, Names: []string{"price", "old", "new"}}
	upsert := &freshetv1.Delta{
		Key: &freshetv1.Key{Values: []*freshetv1.Value{text("A")}}, Generation: 1, Sequence: 7, Version: 2, Op: "upsert", Cause: "change",
		Position: "1:0/10:1", Partition: 3, Changed: []string{"price", "old"},
		Features: []*freshetv1.Value{
			{Kind: &freshetv1.Value_Decimal{Decimal: "12345678901234567890.10"}}, {Kind: &freshetv1.Value_Null{Null: true}}, {},
		},
	}
	remove := &freshetv1.Delta{Key: upsert.Key, Generation: 1, Sequence: 8, Version: 3, Op: "delete", Cause: "retraction", Position: "1:0/20:1", Partition: 3}
	const epoch = "1970-01-01T00:00:00Z"
	head := `{"cause":"change","changed":["price","old"],"commit_time":"` + epoch + `","event_time":null,`
	for _, x := range []struct {
		name, output string
		delta        *freshetv1.Delta
		want         string
	}{
		{"all digits, null is null, absent is left out", "jsonl", upsert, head +
			`"features":{"old":null,"price":12345678901234567890.10},"generation":1,"key":{"k":"A"},"log_time":"` + epoch +
			`","op":"upsert","partition":3,"position":"1:0/10:1","sequence":7,"version":2}`},
		{"a deletion has no features", "json", remove, `{"cause":"retraction","changed":[],"commit_time":"` + epoch +
			`","event_time":null,"generation":1,"key":{"k":"A"},"log_time":"` + epoch +
			`","op":"delete","partition":3,"position":"1:0/20:1","sequence":8,"version":3}`},
		{"what changed, for people", "table", upsert, epoch + " p3 #7 A v2 upsert (change) price=12345678901234567890.10 old=-"},
	} {
		var b bytes.Buffer
		if err := printDelta(&b, c, x.delta, x.output); err != nil {
			t.Fatal(err)
		}
		if got := b.String(); got != x.want+"\n" {
			t.Errorf("%s:\n got  %s want %s", x.name, got, x.want)
		}
	}
}
