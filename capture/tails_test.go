package capture

import (
	"testing"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// TestTailsOfAnEarlierEpoch: a topic that nothing was written to since a new epoch began, on a server whose log
// is younger, says nothing of how far the new one is.
func TestTailsOfAnEarlierEpoch(t *testing.T) {
	for _, order := range [][]position.Position{
		{{Epoch: 1, LSN: 500, Seq: 3}, {Epoch: 2, LSN: 40, Seq: 1}},
		{{Epoch: 2, LSN: 40, Seq: 1}, {Epoch: 1, LSN: 500, Seq: 3}},
	} {
		var r resumeState
		for _, p := range order {
			r.reached(p, 0)
		}
		if r.token != 40 || r.last.LSN != 40 {
			t.Errorf("%v: to be resumed at %s, after %s", order, r.token, r.last)
		}
	}
}

// TestShedEndsWithItsReason: a new session's guard begins anew.
func TestShedEndsWithItsReason(t *testing.T) {
	s := &session{Runner: &Runner{drop: make(chan slotguard.Action, 1), jobs: newJobs(nil, "s")}}
	limits := slotguard.Limits{Shed: slotguard.Limit{Bytes: 100}}
	step := func(state slotguard.State, retained int64) slotguard.State {
		state, actions := slotguard.Step(state, slotguard.Measure{Exists: true, Retained: retained}, limits)
		s.guarded(slotguard.Report{State: state, Actions: actions})
		return state
	}
	step(slotguard.State{}, 1000)
	if !s.shed.Load() {
		t.Fatal("nothing was shed")
	}
	step(slotguard.State{}, 1) // after a reconnection
	if s.shed.Load() {
		t.Error("optional work is shed for ever")
	}
}

// TestWhatIsJoinedIsReadFirst: a table that is the source of one view and joined by another comes before the
// source of the other, whose rows must find it.
func TestWhatIsJoinedIsReadFirst(t *testing.T) {
	text := feature.Type{Kind: feature.String}
	table := func(name string) *feature.Table {
		return &feature.Table{Schema: "public", Name: name, Identity: feature.IdentityFull, Columns: []feature.Column{
			{Name: "id", Type: text, Key: true, NotNull: true, InIdentity: true}, {Name: "account", Type: text, InIdentity: true},
			{Name: "at", Type: feature.Type{Kind: feature.Timestamp}, InIdentity: true},
		}}
	}
	shapes := []*feature.Table{table("orders"), table("users")}
	view := func(name, source string) feature.FeatureView {
		return feature.FeatureView{
			Name: name, Group: "account", Entity: []string{"account"}, Source: source, Key: map[string]string{"account": "account"}, EventTime: "at",
			Features: []feature.FeatureDef{{Name: "n", Agg: "count"}},
		}
	}
	d := &feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "account", Key: feature.GroupKey{Name: "account", Type: "string"}, Partitions: 4}},
		Views:  []feature.FeatureView{view("spent", "public.orders"), view("known", "public.users")},
	}
	d.Views[0].Join = []feature.JoinDef{{Table: "public.users", As: "u", On: map[string]string{"id": "account"}}}
	c, err := feature.Resolve(d, shapes)
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Options{Catalog: c, Source: pgwire.Source{Slot: "s"}}, shapes)
	if err != nil {
		t.Fatal(err)
	}
	order, err := r.snapshotOrder()
	if err != nil || len(order) != 2 || order[0].raw.Name != "users" {
		t.Errorf("%v, read first is %s", err, order[0].raw.Name)
	}
}
