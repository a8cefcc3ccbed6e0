package featurestore

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

// withoutDelay drops the column delay, which trips and delays use, legs does not.
func (w *world) withoutDelay() {
	w.table = trips()
	w.table.Columns = slices.DeleteFunc(w.table.Columns, func(c feature.Column) bool { return c.Name == "delay" })
}

// commit puts one row of the table as it is now, in a cell of its own.
func (w *world) commit(r trip) {
	w.t.Helper()
	must(0, w.writer.Begin())(w.t)
	row := w.row(r)
	if w.table != nil {
		row = slices.Delete(row, 4, 5)
	}
	w.at.LSN, w.at.Seq = w.at.LSN+0x100, 1
	w.at.Ordinal = 0
	w.change(&change.Change{Op: change.Insert, After: row})
	must(0, w.writer.Commit(w.t.Context()))(w.t)
	w.heartbeat()
}

// TestAViewThatStandsStill: its rows are UNAVAILABLE with the reason in the partition where it stands
// still and only there; other views answer; Describe tells of it.
func TestAViewThatStandsStill(t *testing.T) {
	w := fill(t)
	in := &freshetv1.GetRequest{Selections: append(of("delays"), of("trips", "n")...), Keys: keys("A", "B", "C", "nobody"), ReturnStale: true}
	before := w.get(in)
	w.withoutDelay()
	w.commit(trip{id: 20, tail: "A", dest: "JFK"})
	out := w.get(in)
	where := must(w.node.For(w.node.Catalog().View("delays"), []feature.Value{feature.OfString("A")}))(t)
	for i, row := range out.Rows {
		key := in.Keys[i/2].Values[0].GetString_()
		p := must(w.node.For(w.node.Catalog().View("delays"), []feature.Value{feature.OfString(key)}))(t)
		if p != where {
			if row.Status != before.Rows[i].Status || row.Reason != "" {
				t.Errorf("%s, row %d: %v, before %v", key, i, row, before.Rows[i])
			}
			continue
		}
		if row.Status != freshetv1.Status_UNAVAILABLE || len(row.Values) > 0 || row.Version > 0 {
			t.Errorf("%s, row %d: %v", key, i, row)
		}
		for _, part := range []string{"stands still since 1:0/", "column delay of public.trips", "to mend: ", "freshet snapshot run public.trips"} {
			if !strings.Contains(row.Reason, part) {
				t.Errorf("%s, row %d: the reason lacks %q: %s", key, i, part, row.Reason)
			}
		}
	}
	legs := w.get(&freshetv1.GetRequest{Selections: of("legs"), Keys: []*freshetv1.Key{key("A", "JFK")}})
	if row := legs.Rows[0]; row.Status != freshetv1.Status_PRESENT || row.Values[0].GetInt64() != 2 {
		t.Errorf("a view that does not use the column: %v", row)
	}
	_, metrics := fetch(t, w.http(t)+"/metrics")
	if want := fmt.Sprintf(`freshet_partition_stopped_views{group="tail",partition="%d"} 2`, where.Number()); !strings.Contains(metrics, want) {
		t.Errorf("/metrics lacks %s", want)
	}
	d := must(w.client.Describe(t.Context(), &freshetv1.DescribeRequest{}))(t)
	for _, v := range d.Views {
		stands := v.Name == "delays" || v.Name == "trips"
		if (len(v.Stopped) == 1) != stands {
			t.Fatalf("%s stands still in %v", v.Name, v.Stopped)
		}
		if stands && (v.Stopped[0].Partition != int32(where.Number()) || v.Stopped[0].Reason == "" || v.Stopped[0].Mend == "" || v.Stopped[0].LogTime != w.now) {
			t.Errorf("%s: %v", v.Name, v.Stopped[0])
		}
	}
}

// TestAViewThatIsMended is REBUILDING where it stood still, from when its source is read whole until that ends, and
// not while some rows are read that do not mend it.
func TestAViewThatIsMended(t *testing.T) {
	w := fill(t)
	in := &freshetv1.GetRequest{Selections: of("delays"), Keys: keys("A", "B", "C", "nobody"), ReturnStale: true}
	before := w.get(in)
	w.withoutDelay()
	w.commit(trip{id: 20, tail: "A", dest: "JFK"})
	w.table = nil
	delays := w.node.Catalog().View("delays")
	where := must(w.node.For(delays, []feature.Value{feature.OfString("A")}))(t)
	is := func(want freshetv1.Status, parts ...string) {
		t.Helper()
		w.heartbeat()
		for i, row := range w.get(in).Rows {
			p := must(w.node.For(delays, []feature.Value{feature.OfString(in.Keys[i].Values[0].GetString_())}))(t)
			if p != where {
				if row.Status != before.Rows[i].Status || row.Reason != "" {
					t.Errorf("row %d: %v, before %v", i, row, before.Rows[i])
				}
				continue
			}
			if row.Status != want || len(row.Values) > 0 {
				t.Errorf("row %d is to be %s: %v", i, want, row)
			}
			for _, part := range parts {
				if !strings.Contains(row.Reason, part) {
					t.Errorf("row %d: the reason lacks %q: %s", i, part, row.Reason)
				}
			}
		}
	}
	read := func(kind change.ControlKind, id, detail string) {
		w.control(change.Control{Kind: kind, ID: id, Table: "public.trips", Detail: detail})
	}
	is(freshetv1.Status_UNAVAILABLE, "stands still since 1:0/", "freshet snapshot run public.trips")
	read(change.SnapshotBegin, "some", `{"where":"id = 20"}`)
	is(freshetv1.Status_UNAVAILABLE)
	read(change.SnapshotBegin, "all", "")
	is(freshetv1.Status_REBUILDING, "is being rebuilt, as public.trips is read again; it stood still since 1:0/", "column delay of public.trips", "to mend: wait for it")
	w.commit(trip{id: 20, tail: "A", dest: "JFK", delay: 5})
	is(freshetv1.Status_REBUILDING)
	read(change.SnapshotEnd, "all", `{"cancelled":true}`)
	is(freshetv1.Status_UNAVAILABLE, "stands still since 1:0/", "freshet snapshot run public.trips")

	read(change.SnapshotBegin, "again", "")
	w.commit(trip{id: 20, tail: "A", dest: "JFK", delay: 5})
	is(freshetv1.Status_REBUILDING)
	read(change.SnapshotEnd, "again", "")
	w.heartbeat()
	if row := w.get(in).Rows[0]; row.Status != freshetv1.Status_PRESENT || row.Reason != "" {
		t.Errorf("it was read whole: %v", row)
	}
}

// TestSubscribeEndsWhereAViewStandsStill, after the deltas before that place and not before them; at
// once for who has them all; and goes on for partitions where the view goes on.
func TestSubscribeEndsWhereAViewStandsStill(t *testing.T) {
	w := fill(t)
	where := must(w.node.For(w.node.Catalog().View("trips"), []feature.Value{feature.OfString("A")}))(t)
	number := int32(where.Number())
	var others []int32
	for i := range int32(parts) {
		if i != number {
			others = append(others, i)
		}
	}
	w.readable("trips", 6)
	live := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips"})
	elsewhere := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", Partitions: others})
	w.commit(trip{id: 19, tail: "A", dest: "JFK", delay: 1})
	w.withoutDelay()
	w.commit(trip{id: 20, tail: "A", dest: "JFK"})

	if got := live.next(1)[0]; got.Partition != number || got.Version != 3 {
		t.Errorf("the last delta is %v", got)
	}
	live.ends(number)
	late := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", FromStart: true, Partitions: []int32{number}})
	all := int(where.Meta().Sequences["trips"])
	checkSequences(t, late.next(all), map[int32]uint64{})
	late.ends(number)
	w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips"}).ends(number)

	// Somewhere else the view goes on.
	w.table = nil
	for i := range 40 {
		tail := string(rune('a' + i))
		if must(w.node.For(w.node.Catalog().View("trips"), []feature.Value{feature.OfString(tail)}))(t) != where {
			w.commit(trip{id: 30, tail: tail, dest: "JFK", delay: 1})
			break
		}
	}
	if got := elsewhere.next(1)[0]; got.Partition == number || got.Version != 1 {
		t.Errorf("elsewhere %v", got)
	}
}

// ends checks that nothing more comes but the error.
func (s *subscriber) ends(partition int32) {
	s.t.Helper()
	ctx, cancel := testkit.Patience(s.t)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.stream.Recv()
		done <- err
	}()
	select {
	case err := <-done:
		text := status.Convert(err).Message()
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(text, "view trips stands still since") || !strings.Contains(text, "to mend: ") {
			s.t.Errorf("partition %d ends with %v", partition, err)
		}
	case <-ctx.Done():
		s.t.Errorf("partition %d: the subscription does not end", partition)
	}
}
