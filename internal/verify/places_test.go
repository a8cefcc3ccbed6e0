package verify_test

import (
	"iter"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
	"github.com/freshet-io/freshet/internal/verify"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// small is a view with two keys and one output of each way of comparing.
func small() *feature.View {
	field := func(name string, k feature.Kind) feature.Field {
		return feature.Field{Name: name, Type: feature.Type{Kind: k}}
	}
	return &feature.View{
		Name: "v", Group: &feature.PartitionGroup{Name: "g", Partitions: 2}, Generation: 1,
		Entity:   []feature.Field{field("e", feature.String), field("leg", feature.Int64)},
		Features: []feature.Feature{{Field: field("n", feature.Int64)}, {Field: field("d", feature.Double)}, {Field: field("s", feature.String)}},
		Derived:  []feature.Derived{{Field: field("x", feature.Double)}},
	}
}

func values(n int64, d float64, s string) []feature.Value {
	out := []feature.Value{feature.OfInt(n), feature.OfDouble(d), feature.OfString(s), {}}
	if s == "" {
		out[2] = feature.Value{}
	}
	return out
}

func key(e string) []feature.Value { return []feature.Value{feature.OfString(e), feature.OfInt(1)} }

const theCut = 0x20

func cutRecord() change.CutRecord {
	return change.CutRecord{ID: "cut-3", Ordinal: 3, LogTime: now, Position: position.Position{Epoch: 1, LSN: theCut}.Control(1), SQL: true}
}

// deltas is what two partitions said: C's two deltas are of one snapshot, B has expired, the last one is
// of after the cut.
func deltas() [][]*change.Delta {
	at := func(lsn position.LSN, seq uint32) position.Position {
		return position.Position{Epoch: 1, LSN: lsn, Seq: seq}
	}
	remove := &change.Delta{Key: key("B"), Version: 2, Op: change.Remove, Cause: change.CauseExpiry, Position: cutRecord().Position}
	all := [][]*change.Delta{{
		{Key: key("A"), Version: 1, Position: at(0x10, 1), Features: values(1, 0.5, "a")},
		{Key: key("B"), Version: 1, Position: at(0x10, 2), Features: values(2, 0.25, "")},
		{Key: key("A"), Version: 2, Position: at(0x20, 1), Features: values(3, 0.1, "b"), Cause: change.CauseRetraction},
		remove,
		{Key: key("A"), Version: 3, Position: at(0x30, 1), Features: values(9, 0.5, "later")},
	}, {
		{Key: key("C"), Version: 1, Position: at(0x5, 0), Features: values(5, -1, "c"), Cause: change.CauseSnapshot},
		{Key: key("C"), Version: 2, Position: at(0x5, 0), Features: values(7, 0, "c"), Cause: change.CauseSnapshot},
	}}
	for _, p := range all {
		for i, d := range p {
			d.Generation, d.Sequence, d.LogTime, d.CommitTime = 1, uint64(i+1), now, now
		}
	}
	return all
}

func expected() *verify.Expected {
	return &verify.Expected{
		View: "v", LogTime: now, Outputs: small().Outputs(), Near: map[string]bool{"d": true},
		NotComparable: map[string]string{"x": "for a reason"},
		Rows:          []verify.Row{{Key: key("A"), Values: values(3, 0.1, "b")}, {Key: key("C"), Values: values(7, math.Copysign(0, -1), "c")}},
	}
}

// places is every place with one and the same content.
type places struct {
	t      *testing.T
	view   *feature.View
	files  verify.Files
	deltas [][]*change.Delta
}

func (p *places) topic() *verify.Report {
	p.t.Helper()
	ctx := p.t.Context()
	topics := must(topic.Dial(ctx, topic.Config{Brokers: testkit.Kafka(p.t), Prefix: testkit.Prefix(p.t)}))(p.t)
	defer topics.Close()
	registry := must(topic.OpenRegistry(ctx, topics))(p.t)
	defer registry.Close()
	name, codec := topics.Delta("v"), change.DeltaCodec{View: p.view}
	must(0, topics.Ensure(ctx, []topic.Spec{{Topic: name, Partitions: 2}}))(p.t)
	id := must(registry.SchemaID(ctx, codec.Subject(name), codec.Schema()))(p.t)
	w := must(topics.NewWriter(ctx, "w"))(p.t)
	must(0, w.Begin())(p.t)
	for i, partition := range p.deltas {
		for _, d := range partition {
			w.Put(ctx, topic.Record{Topic: name, Partition: int32(i), Value: codec.Append(change.AppendFrame(nil, id), d)})
		}
	}
	must(0, w.Commit(ctx))(p.t)
	// What nobody has committed is not there.
	must(0, w.Begin())(p.t)
	w.Put(ctx, topic.Record{Topic: name, Partition: 0, Value: []byte("open")})
	defer w.Close()
	limited, cancel := testkit.Patience(p.t)
	defer cancel()
	return must(verify.DeltaTopic(limited, topics, registry, p.view, cutRecord(), expected()))(p.t)
}

// write makes one version of a table, one file per bucket.
func (p *places) write(path string, schema table.Schema, cut change.CutRecord, rows [][]func(*table.Batch)) int64 {
	p.t.Helper()
	ctx := p.t.Context()
	tab := must(table.Create(ctx, p.files.Store, path, table.Spec{Schema: schema}, table.Options{}))(p.t)
	defer func() { must(0, tab.Close())(p.t) }()
	head := must(tab.Snapshot(ctx, -1))(p.t)
	c := table.Changes{Remove: head.Files, Info: map[string]any{"cut": cut.ID, "ordinal": cut.Ordinal}}
	for bucket, some := range rows {
		b := table.NewBatch(schema.Columns)
		for _, fill := range some {
			fill(b)
		}
		if b.Done().Rows > 0 {
			one := func(yield func(*table.Batch, error) bool) { yield(b, nil) }
			at := table.Partition{Bucket: int32(bucket)}
			if schema.HasDay() {
				at.Day = 15715
			}
			c.Add = append(c.Add, must(tab.WriteFile(ctx, schema, at, iter.Seq2[*table.Batch, error](one)))(p.t))
		}
	}
	return must(tab.Commit(ctx, head.Version, c))(p.t)
}

// fill puts a delta into a batch as a merge does.
func (p *places) fill(d *change.Delta, history bool) func(b *table.Batch) {
	return func(b *table.Batch) {
		row := append([]feature.Value{}, d.Key...)
		if d.Features == nil {
			row = append(row, make([]feature.Value, len(p.view.Outputs()))...)
		}
		row = append(row, d.Features...)
		if history {
			row = append(row, feature.OfMicros(d.LogTime), feature.OfString(d.Op.String()), feature.OfString(d.Cause.String()))
		}
		row = append(row, feature.OfInt(int64(d.Version)), feature.Value{}, feature.OfMicros(d.CommitTime), feature.OfMicros(d.LogTime), feature.OfString(d.Position.String()))
		for i, v := range row {
			must(0, layout.Append(&b.Columns[i], v))(p.t)
		}
	}
}

func (p *places) history() *verify.Report {
	p.t.Helper()
	var rows [][]func(*table.Batch)
	for _, partition := range p.deltas {
		var some []func(*table.Batch)
		for i := range partition { // the order in a file is not the order of time
			some = append(some, p.fill(partition[len(partition)-1-i], true))
		}
		rows = append(rows, some)
	}
	later := cutRecord()
	later.ID, later.Ordinal = "cut-4", 4
	p.write(layout.HistoryPath("v"), layout.History(p.view), later, rows)
	return must(verify.History(p.t.Context(), p.files, p.view, cutRecord(), expected()))(p.t)
}

func (p *places) current() *verify.Report {
	p.t.Helper()
	rows := make([][]func(*table.Batch), len(p.deltas))
	for i, partition := range p.deltas {
		last := map[string]*change.Delta{}
		for _, d := range partition {
			if !d.Position.After(cutRecord().Position) {
				last[feature.KeyText(d.Key)] = d
			}
		}
		for _, d := range last {
			if d.Features != nil {
				rows[i] = append(rows[i], p.fill(d, false))
			}
		}
	}
	version := p.write(layout.CurrentPath("v"), layout.Current(p.view), cutRecord(), rows)
	return must(verify.Current(p.t.Context(), p.files, p.view, version, cutRecord(), expected()))(p.t)
}

func (p *places) served() *verify.Report {
	p.t.Helper()
	return must(verify.ServedRows(p.view, cutRecord(), expected(), func(fn func(key, values []feature.Value) error) error {
		for _, partition := range p.deltas {
			last := map[string]*change.Delta{}
			for _, d := range partition {
				if !d.Position.After(cutRecord().Position) {
					last[feature.KeyText(d.Key)] = d
				}
			}
			for _, d := range last {
				if d.Features != nil {
					must(0, fn(d.Key, d.Features))(p.t)
				}
			}
		}
		return nil
	}))(p.t)
}

func world(t *testing.T) *places {
	t.Helper()
	st := must(store.OpenDir(t.TempDir()))(t)
	t.Cleanup(func() { _ = st.Close() })
	return &places{t: t, view: small(), files: verify.Files{Store: st}, deltas: deltas()}
}

// One value that is wrong, in any place, is named; what is right is equal.
func TestOneWrongValueIsNamedInEachPlace(t *testing.T) {
	type diff = verify.Difference
	for name, test := range map[string]struct {
		spoil func(d [][]*change.Delta)
		want  []diff
	}{
		"nothing":        {func([][]*change.Delta) {}, nil},
		"int":            {func(d [][]*change.Delta) { d[0][2].Features[0] = feature.OfInt(4) }, []diff{{Key: `["A","1"]`, Column: "n", Want: "3", Got: "4"}}},
		"NULL":           {func(d [][]*change.Delta) { d[1][1].Features[2] = feature.Value{} }, []diff{{Key: `["C","1"]`, Column: "s", Want: "c", Got: "NULL"}}},
		"near":           {func(d [][]*change.Delta) { d[0][2].Features[1] = feature.OfDouble(0.1 + 9e-10) }, nil},
		"not near":       {func(d [][]*change.Delta) { d[0][2].Features[1] = feature.OfDouble(0.1 + 2e-9) }, []diff{{Key: `["A","1"]`, Column: "d", Want: "0.1", Got: "0.100000002"}}},
		"NaN":            {func(d [][]*change.Delta) { d[0][2].Features[1] = feature.OfDouble(math.NaN()) }, []diff{{Key: `["A","1"]`, Column: "d", Want: "0.1", Got: "NaN"}}},
		"not comparable": {func(d [][]*change.Delta) { d[0][2].Features[3] = feature.OfDouble(5) }, nil},
		"surplus":        {func(d [][]*change.Delta) { d[0][3].Op, d[0][3].Features = change.Upsert, values(1, 1, "") }, []diff{{Key: `["B","1"]`, Want: "absent", Got: "present"}}},
		"missing":        {func(d [][]*change.Delta) { d[1][1].Op, d[1][1].Features = change.Remove, nil }, []diff{{Key: `["C","1"]`, Want: "present", Got: "absent"}}},
		"too late":       {func(d [][]*change.Delta) { d[0][4].Position = cutRecord().Position }, []diff{{Key: `["A","1"]`, Column: "n", Want: "3", Got: "9"}, {Key: `["A","1"]`, Column: "d", Want: "0.1", Got: "0.5"}, {Key: `["A","1"]`, Column: "s", Want: "b", Got: "later"}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := world(t)
			test.spoil(p.deltas)
			for _, r := range []*verify.Report{p.served(), p.topic(), p.current(), p.history()} {
				if r.Error != "" || !reflect.DeepEqual(r.Differences, test.want) || r.DifferenceCount != len(test.want) || r.Equal() != (test.want == nil) {
					t.Errorf("%s: %q, differences %+v, want %+v", r.Place, r.Error, r.Differences, test.want)
				}
				if r.View != "v" || r.Cut != "cut-3" || r.Expected != 2 || strings.Join(r.Compared, " ") != "n d s" || r.NotComparable["x"] == "" {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}

func TestDeltaTopicKnowsGaps(t *testing.T) {
	p := world(t)
	r := p.topic()
	want := &verify.DeltaCounts{Total: 6, After: 1, ByOp: map[string]int64{"upsert": 5, "delete": 1}, Causes: map[string]int64{"change": 2, "retraction": 1, "expiry": 1, "snapshot": 2}}
	if !reflect.DeepEqual(r.Counts, want) {
		t.Errorf("%+v", r.Counts)
	}
	p.deltas[0] = append(p.deltas[0][:1:1], p.deltas[0][2:]...) // B's first
	p.deltas[1] = append(p.deltas[1], p.deltas[1][1])           // C's second again
	got := p.topic().Differences
	if !reflect.DeepEqual(got, []verify.Difference{
		{Key: "partition 0", Column: "_sequence", Want: "2", Got: "3"}, {Key: `["B","1"]`, Column: "_version", Want: "1", Got: "2"},
		{Key: "partition 1", Column: "_sequence", Want: "3", Got: "2"}, {Key: `["C","1"]`, Column: "_version", Want: "3", Got: "2"},
	}) && !reflect.DeepEqual(got, []verify.Difference{ // partitions come in any order
		{Key: "partition 1", Column: "_sequence", Want: "3", Got: "2"}, {Key: `["C","1"]`, Column: "_version", Want: "3", Got: "2"},
		{Key: "partition 0", Column: "_sequence", Want: "2", Got: "3"}, {Key: `["B","1"]`, Column: "_version", Want: "1", Got: "2"},
	}) {
		t.Errorf("%+v", got)
	}
	p.deltas = deltas()
	p.deltas[1] = p.deltas[1][1:]
	if r = p.topic(); !strings.Contains(r.Error, "partition 1 of the topic begins at sequence 2") || r.Equal() {
		t.Errorf("%+v", r)
	}
}

// A place that is at another cut is not judged by this one.
func TestStalePlaces(t *testing.T) {
	p := world(t)
	for _, path := range []string{"current", "history"} {
		if r := p.at(path, 3); !strings.Contains(r.Error, "there is no table yet") || r.Equal() {
			t.Errorf("%s: %q", path, r.Error)
		}
	}
	p.current()
	p.history() // through cut-4
	for ordinal, want := range map[int64][2]string{3: {"", ""}, 4: {"it is at cut-3, verify is at cut-4: merge first", ""}, 5: {"it is at cut-3, verify is at cut-5: merge first", "it ends at cut-4, verify is at cut-5: merge first"}} {
		for i, path := range []string{"current", "history"} {
			if r := p.at(path, ordinal); r.Error != want[i] {
				t.Errorf("%s at %d: %q, want %q", path, ordinal, r.Error, want[i])
			}
		}
	}
	later := cutRecord()
	later.ID, later.Ordinal = "cut-9", 9
	p.write(layout.CurrentPath("v"), layout.Current(p.view), later, nil)
	if r := p.at("current", 3); r.Rows != 2 || !r.Equal() {
		t.Errorf("an older version is not found: %+v", r)
	}
	if r := must(verify.Current(t.Context(), p.files, p.view, 2, cutRecord(), expected()))(t); r.Error != "it is at cut-9, verify is at cut-3: merge first" {
		t.Errorf("%q", r.Error)
	}
	e := expected()
	e.LogTime++
	if r := must(verify.Current(t.Context(), p.files, p.view, -1, cutRecord(), e))(t); !strings.Contains(r.Error, "another log time") {
		t.Errorf("%q", r.Error)
	}
}

func (p *places) at(path string, ordinal int64) *verify.Report {
	p.t.Helper()
	cut := cutRecord()
	cut.ID, cut.Ordinal = "cut-"+string(rune('0'+ordinal)), ordinal
	if path == "history" {
		return must(verify.History(p.t.Context(), p.files, p.view, cut, expected()))(p.t)
	}
	return must(verify.Current(p.t.Context(), p.files, p.view, -1, cut, expected()))(p.t)
}

// halves predicts n/2 + d, and what is not finite where n is 7.
type halves struct{}

func (halves) Inputs() []string { return []string{"n", "d"} }
func (halves) Outputs() int     { return 1 }
func (halves) Predict(in [][]float64, rows int, out []float64) {
	for r := range rows {
		out[r] = in[0][r]/2 + in[1][r]
		if in[0][r] == 7 {
			out[r] = math.Inf(1)
		}
	}
}

func TestOneWrongPredictionIsNamed(t *testing.T) {
	p := world(t)
	p.current() // version 1
	m := &verify.Model{
		Name: "m", SHA256: "abc", Evaluator: halves{}, View: p.view, Inputs: []feature.SetField{{View: p.view, Output: 0}, {View: p.view, Output: 1}},
		Outputs: []feature.Field{{Name: "risk", Type: feature.Type{Kind: feature.Double}}},
	}
	predict := func() *verify.Report {
		return must(verify.Predictions(t.Context(), p.files, m, cutRecord()))(t)
	}
	if r := predict(); !strings.Contains(r.Error, "score first") {
		t.Errorf("%q", r.Error)
	}
	row := func(e string, risk feature.Value, sha string, version int64) func(b *table.Batch) {
		return func(b *table.Batch) {
			for i, v := range append(key(e), risk, feature.OfString(sha), feature.OfInt(version), feature.OfString("run")) {
				must(0, layout.Append(&b.Columns[i], v))(t)
			}
		}
	}
	a, c := row("A", feature.OfDouble(1.6), "abc", 1), row("C", feature.Value{}, "abc", 1)
	for name, test := range map[string]struct {
		rows []func(*table.Batch)
		want []verify.Difference
	}{
		"right":   {[]func(*table.Batch){a, c}, nil},
		"one bit": {[]func(*table.Batch){row("A", feature.OfDouble(math.Nextafter(1.6, 2)), "abc", 1), c}, []verify.Difference{{Key: `["A","1"]`, Column: "risk", Want: "1.6", Got: "1.6000000000000003"}}},
		"missing": {[]func(*table.Batch){a}, []verify.Difference{{Key: `["C","1"]`, Want: "present", Got: "absent"}}},
		"none":    {nil, []verify.Difference{{Key: `["A","1"]`, Want: "present", Got: "absent"}, {Key: `["C","1"]`, Want: "present", Got: "absent"}}},
		"surplus": {[]func(*table.Batch){a, c, row("B", feature.OfDouble(0), "abc", 1)}, []verify.Difference{{Key: `["B","1"]`, Want: "absent", Got: "present"}}},
		"twice":   {[]func(*table.Batch){a, c, c}, []verify.Difference{{Key: `["C","1"]`, Want: "once", Got: "again"}}},
		"another": {[]func(*table.Batch){a, row("C", feature.Value{}, "xyz", 1)}, []verify.Difference{{Key: `["C","1"]`, Column: "model_sha256", Want: "abc", Got: "xyz"}}},
	} {
		p.write(layout.PredictionsPath("m"), layout.Predictions(p.view, m.Outputs), cutRecord(), [][]func(*table.Batch){test.rows})
		if r := predict(); r.Error != "" || !reflect.DeepEqual(r.Differences, test.want) || r.View != "m" || r.Equal() != (test.want == nil) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	m.Inputs[1].View = small()
	if r := predict(); !strings.Contains(r.Error, "reads view v too") {
		t.Errorf("%q", r.Error)
	}
}
