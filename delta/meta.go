package delta

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/freshet-io/freshet/delta/hop"
	"github.com/freshet-io/freshet/internal/position"
)

// metaVersion is that of the whole state: 1 had served rows, lifetime tiles and deltas by themselves.
const metaVersion = 2

// Meta is what a partition knows about itself, kept as JSON under 06|meta in the same batch as the
// state it describes.
type Meta struct {
	Version    int                `json:"version"` // metaVersion
	Position   position.Position  `json:"position"`
	Offset     int64              `json:"offset"` // next record of the changes topic
	LogTime    int64              `json:"log_time"`
	CommitTime int64              `json:"commit_time"`
	Resume     position.LSN       `json:"resume"`    // everything committed below it is folded
	Sequences  map[string]uint64  `json:"sequences"` // by view, over all its generations
	Moves      map[string]uint64  `json:"moves"`     // rows that went to another entity, by view
	Snapshot   string             `json:"snapshot"`
	Chunk      uint32             `json:"chunk"`
	N          uint64             `json:"n"`
	Done       bool               `json:"snapshot_done"`
	Beside     map[string]Beside  `json:"beside,omitempty"`  // snapshots beside the stream, by table
	Stopped    map[string]Stopped `json:"stopped,omitempty"` // views that stand still
	Added      map[string]bool    `json:"added,omitempty"`   // views that were new to this state once; never written to
	// Compared is what came of comparing two generations of a view last, by view.
	Compared map[string]Compared `json:"compared,omitempty"`
	// Hops are the senders of views whose rows are here and whose entities are elsewhere; Hop is how far senders have been
	// heard where it is the other way round. Neither is ever written to.
	Hops map[string]hop.SenderState `json:"hops,omitempty"`
	Hop  *hop.ReceiverState         `json:"hop,omitempty"`
	// Joined is what views keep of the tables they join, by view and table; Bound is how many bytes that may be of each, as
	// the log says: 0 where it does not.
	Joined  map[string]Joined `json:"joined,omitempty"`
	Bound   int64             `json:"joined_bound,omitempty"`
	LastCut string            `json:"last_cut"`
	Stats   Stats             `json:"stats"`
}

// Stats counts what happened in a partition since its state began.
type Stats struct {
	Changes   uint64 `json:"changes"`
	Cells     uint64 `json:"cells"`
	Deltas    uint64 `json:"deltas"`
	Deletes   uint64 `json:"deletes"`
	Entries   uint64 `json:"entries"`
	Expiries  uint64 `json:"expiries"`
	Rebuilds  uint64 `json:"rebuilds"`
	NullKeys  uint64 `json:"null_keys"`
	DeadRows  uint64 `json:"dead_rows"`
	Overflows uint64 `json:"overflows"`
	NotFinite uint64 `json:"not_finite"`
	Dropped   uint64 `json:"dropped"`    // already folded
	Skipped   uint64 `json:"skipped"`    // of views that stand still
	Awaited   uint64 `json:"awaited"`    // came in part before the snapshot being taken brought the row
	Late      uint64 `json:"late"`       // events older than lateness
	Rejoined  uint64 `json:"rejoined"`   // rows joined anew because a row they joined changed
	NotEvents uint64 `json:"not_events"` // updates, deletes and truncations of tables of events
}

// CutInfo is what a partition remembers of a cut, under 06|cut/<id>.
type CutInfo struct {
	ID        string            `json:"id"`
	Position  position.Position `json:"position"`
	LogTime   int64             `json:"log_time"`
	Offset    int64             `json:"offset"`
	Sequences map[string]uint64 `json:"sequences"` // last delta of each view at the cut
	// Stopped views' rows and deltas are not those of the cut but of where they stand still.
	Stopped map[string]Stopped `json:"stopped,omitempty"`
	// Generations of the views whose rows at the cut are of another one than the first.
	Generations map[string]uint32 `json:"generations,omitempty"`
}

// StandStill counts the views that stand still, without what is built beside the view it follows, or was replaced.
func (m *Meta) StandStill() int {
	n := 0
	for _, s := range m.Stopped {
		if !s.Replaced && !(s.Added && s.Generation > 1) {
			n++
		}
	}
	return n
}

// clone gives a copy that shares nothing that changes.
func (m *Meta) clone() Meta {
	c := *m
	c.Sequences, c.Moves = maps.Clone(m.Sequences), maps.Clone(m.Moves)
	c.Beside, c.Stopped, c.Hops = maps.Clone(m.Beside), maps.Clone(m.Stopped), maps.Clone(m.Hops)
	c.Compared = cloneCompared(m.Compared)
	c.Joined = maps.Clone(m.Joined)
	return c
}

func encodeJSON(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return b, nil
}
