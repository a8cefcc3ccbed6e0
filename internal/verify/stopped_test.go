package verify_test

import (
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/verify"
)

// TestAViewThatStandsStillIsNotJudged: every place says why, none counts differences, and the verdict is
// a failure that names them as what they are.
func TestAViewThatStandsStillIsNotJudged(t *testing.T) {
	why := "view v stands still since 1:0/77:3: column s is gone"
	still := verify.StandsStill(small(), cutRecord(), why)
	still = append(still, verify.PredictionsStandStill(&verify.Model{Name: "m", View: small(), Outputs: small().Outputs()[:1]}, cutRecord(), why))
	places := map[string]bool{}
	for _, r := range still {
		places[r.Place] = true
		if r.Equal() || r.Error != why || r.DifferenceCount != 0 || len(r.Compared) != 0 || r.NotComparable["n"] != why || r.Cut != "cut-3" {
			t.Errorf("%+v", r)
		}
	}
	if len(places) != 5 || len(still) != 5 {
		t.Errorf("places %v", places)
	}
	good, bad := &verify.Report{View: "w", Place: "served"}, &verify.Report{View: "w", Place: "current", DifferenceCount: 2}
	for _, c := range []struct {
		reports []*verify.Report
		want    string
	}{
		{[]*verify.Report{good}, ""},
		{append(still, good), "5 of 6 places cannot be judged, first v, served: " + why},
		{[]*verify.Report{good, bad}, "1 of 2 places differ from the source"},
		{append(still, good, bad), "1 of 7 places differ from the source, 5 more cannot be judged, first v, served: " + why},
	} {
		err := verify.Judge(c.reports)
		if (err == nil) != (c.want == "") || (err != nil && (err.Error() != c.want || fault.ClassOf(err) != fault.Failed)) {
			t.Errorf("%d reports: %v, want %q", len(c.reports), err, c.want)
		}
	}
}

// TestTruthOfAViewThatDoesNotFit: a column that is gone from the source, a column of another type, and a
// table that is gone make their view not comparable, and other views are answered in the same snapshot.
func TestTruthOfAViewThatDoesNotFit(t *testing.T) {
	s, c := source(t)
	exec(t, c, `create table public.t (id bigint primary key, e text not null, at timestamptz, n int, s text);
		create table public.u (like public.t including all);
		alter table public.t replica identity full; alter table public.u replica identity full;
		insert into public.t values (1, 'A', '2013-01-09 10:00:00+00', 5, 'x')`)
	sum := feature.FeatureDef{Name: "n", Agg: "sum", Of: "n"}
	all := &feature.Definitions{Groups: group("string"), Views: []feature.FeatureView{
		view("", sum), view("", feature.FeatureDef{Name: "k", Agg: "count"}), view("", feature.FeatureDef{Name: "k", Agg: "count"}),
	}}
	all.Views[1].Name, all.Views[1].Source, all.Views[2].Name = "gone", "public.u", "fits"
	cat := resolve(t, c, all)
	for _, change := range []string{"alter table public.t drop column n", "alter table public.t add column n text default 'x'"} {
		exec(t, c, change+"; drop table if exists public.u")
		for _, transaction := range []bool{true, false} {
			conn := c
			if transaction {
				conn = must(s.Connect(t.Context()))(t)
				exec(t, conn, "begin isolation level repeatable read read only")
			}
			for _, v := range cat.Views {
				e := must(verify.Truth(t.Context(), conn, v, now))(t)
				fits := v.Name == "fits"
				if (e.Whole == "") != fits || (fits && (len(e.Rows) != 1 || e.Rows[0].Values[0].I != 1)) || (!fits && len(e.Rows) > 0) {
					t.Errorf("%s, transaction %v: %s is %+v", change, transaction, v.Name, e)
				}
				if !fits && !strings.Contains(e.Whole, "does not fit the source as it is now: ") {
					t.Errorf("%s: %s", v.Name, e.Whole)
				}
				cut := cutRecord()
				r := verify.NewComparer(v, verify.Served, cut, e).Done()
				if r.Equal() && !fits {
					t.Errorf("%s is judged equal", v.Name)
				}
			}
			if transaction {
				_ = conn.Close(t.Context())
			}
		}
	}
}
