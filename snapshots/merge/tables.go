package merge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// AppID gives the name under which a view's tables keep the ordinal of their cut (table.Txn).
func AppID(view string) string { return "freshet.merge." + view }

// tables are the two of a view.
type tables struct{ history, current *table.Table }

func (t *tables) close() error {
	var errs []error
	for _, one := range []*table.Table{t.history, t.current} {
		if one != nil {
			errs = append(errs, one.Close())
		}
	}
	return errors.Join(errs...)
}

// remote gives the bytes that were not on this machine so far.
func (t *tables) remote() int64 { return t.history.RemoteBytes() + t.current.RemoteBytes() }

// openTables opens a view's tables; those that are missing are made, at a log time in milliseconds.
func openTables(ctx context.Context, st store.Store, local string, v *feature.View, millis int64, e table.Events) (*tables, error) {
	t := &tables{}
	open := func(path string, schema table.Schema) (*table.Table, error) {
		o := table.Options{LocalDir: local, Events: e}
		one, err := table.Open(ctx, st, path, o)
		if errors.Is(err, table.ErrNoTable) {
			one, err = table.Create(ctx, st, path, table.Spec{Schema: schema, Time: millis}, o)
		}
		return one, err
	}
	var err error
	if t.history, err = open(layout.HistoryPath(v.Name), layout.History(v)); err == nil {
		t.current, err = open(layout.CurrentPath(v.Name), layout.Current(v))
	}
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// head is the newest version of a table, and what brought it there.
type head struct {
	snap    *table.Snapshot
	merged  *merged       // the newest merge; nil: none
	foreign []table.Entry // what changed data after it and was no merge
}

// ordinal is that of the newest merge's cut; 0 before the first.
func (h *head) ordinal() int64 {
	if h.merged == nil {
		return 0
	}
	return h.merged.cut.Ordinal
}

// heads gives both tables' heads; history's is read later, so that it is never behind.
func (t *tables) heads(ctx context.Context, view string) (history, current *head, err error) {
	if current, err = headOf(ctx, t.current, view); err != nil {
		return nil, nil, err
	}
	history, err = headOf(ctx, t.history, view)
	return history, current, err
}

func headOf(ctx context.Context, t *table.Table, view string) (*head, error) {
	s, err := t.Snapshot(ctx, -1)
	if err != nil {
		return nil, err
	}
	h := &head{snap: s}
	at, ok := s.Txn[AppID(view)]
	if s.Version == 0 && !ok {
		return h, nil
	}
	entries := []table.Entry{s.Entry}
	if !hasTxn(s.Entry, view, at) {
		if entries, err = t.Versions(ctx); err != nil {
			return nil, err
		}
		entries = entries[:min(len(entries), int(s.Version)+1)]
	}
	for _, e := range slices.Backward(entries) {
		if ok && hasTxn(e, view, at) {
			if h.merged, err = mergedOf(e); err != nil {
				return nil, fault.Wrap(fault.Failed, err, "version %d", e.Version).At("table %s", t.Path())
			}
			break
		}
		if e.DataChange {
			h.foreign = append(h.foreign, e)
		}
	}
	return h, nil
}

func hasTxn(e table.Entry, view string, ordinal int64) bool {
	return slices.Contains(e.Txns, table.Txn{AppID: AppID(view), Version: ordinal})
}

// find gives what the merge of a cut made of a table; nil when there is none.
func find(ctx context.Context, t *table.Table, h *head, view string, ordinal int64) (*merged, error) {
	if h.ordinal() == ordinal {
		return h.merged, nil
	}
	entries, err := t.Versions(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if hasTxn(e, view, ordinal) {
			return mergedOf(e)
		}
	}
	return nil, nil //nolint:nilnil // not there
}

// merged is what the commit of a merge says.
type merged struct {
	entry         table.Entry
	run           string
	cut           change.CutRecord
	parentOrdinal int64
	generation    uint32   // of the view
	sequences     []uint64 // by partition: the last delta
}

// continues tells whether the deltas of a view go on with those that were merged; else its group has grown since, and
// they begin anew.
func (m *merged) continues(v *feature.View) bool { return len(m.sequences) == v.Group.Partitions }

// shared names the members of commitInfo that are the same in both tables.
func shared() []string {
	return []string{"run", "cut", "ordinal", "position", "log_time", "parent_ordinal", "sequences", "offsets", "generation", "gates", "evidence",
		"deltas", "inserts", "updates", "deletes", "rows"}
}

func mergedOf(e table.Entry) (*merged, error) {
	m := &merged{entry: e}
	m.run, _ = e.Info["run"].(string)
	m.cut.ID, _ = e.Info["cut"].(string)
	at, _ := e.Info["position"].(string)
	var err error
	if m.cut.Position, err = position.Parse(at); err != nil {
		return nil, fmt.Errorf("commitInfo: %w", err)
	}
	for name, to := range map[string]*int64{"ordinal": &m.cut.Ordinal, "log_time": &m.cut.LogTime, "parent_ordinal": &m.parentOrdinal} {
		if *to, err = whole(e.Info[name]); err != nil {
			return nil, fmt.Errorf("commitInfo: %s: %w", name, err)
		}
	}
	generation, err := whole(e.Info["generation"])
	if err != nil {
		return nil, fmt.Errorf("commitInfo: generation: %w", err)
	}
	m.generation = uint32(generation)
	list, _ := e.Info["sequences"].([]any)
	for _, one := range list {
		n, err := whole(one)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("commitInfo: sequences: %v is none: %w", one, err)
		}
		m.sequences = append(m.sequences, uint64(n))
	}
	return m, nil
}

// count gives a number of commitInfo; 0 if it is not there.
func (m *merged) count(name string) int64 {
	n, err := whole(m.entry.Info[name])
	if err != nil {
		return 0
	}
	return n
}

func whole(v any) (int64, error) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, fmt.Errorf("%v is no number", v)
	}
	i, err := n.Int64()
	if err != nil {
		return 0, fmt.Errorf("not a whole number: %w", err)
	}
	return i, nil
}
