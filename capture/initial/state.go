package initial

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/internal/fault"
)

const (
	stateVersion = 1
	// A chunk's number is not used again by a later life of the publisher, which reads the chunk anew and
	// may find other rows: readers that do not wait for Kafka's commit know rows by (snapshot, chunk, n).
	// This many are skipped, more than one Kafka transaction holds.
	skipped = 1 << 10
	// AgainBytes bounds the keys of a table that wait to be read again.
	AgainBytes = 1 << 20
)

// Kind is why a snapshot is taken.
type Kind string

// The kinds of snapshots.
const (
	First Kind = "first"  // of all tables, with the slot
	Added Kind = "added"  // of tables that have come later
	AdHoc Kind = "ad_hoc" // because somebody has asked for it
)

// Status is where a snapshot stands.
type Status string

// The statuses. Cancelled and Done are final.
const (
	Running   Status = "running"
	Paused    Status = "paused"
	Cancelled Status = "cancelled"
	Done      Status = "done"
)

// Way is how a table's rows are read.
type Way string

// The ways to read a table.
const (
	ByExport Way = "export" // by blocks, of the exported snapshot
	ByBlocks Way = "blocks" // by blocks, between watermarks
	ByKeys   Way = "keys"   // by primary key, between watermarks
)

// State is what must be durable of a snapshot: a value, changed by its methods alone, which give the
// next one. It becomes durable together with the rows that it tells of, or they come twice or never.
type State struct {
	Version int          `json:"version"`
	ID      string       `json:"id"`
	Kind    Kind         `json:"kind"`
	Status  Status       `json:"status"`
	Where   string       `json:"where,omitempty"`
	Started int64        `json:"started"` // log time, microseconds since 1970
	Lives   uint32       `json:"lives"`   // publishers that have worked on it
	Chunk   uint32       `json:"chunk"`   // the last number used
	Tables  []TableState `json:"tables"`  // in the order they are read
}

// TableState is how far a table is.
type TableState struct {
	Table string   `json:"table"`
	Way   Way      `json:"way"`
	Leaf  *Leaf    `json:"leaf,omitempty"`  // by blocks: where the next chunk begins; nil at the first leaf
	Block uint32   `json:"block,omitempty"` // by blocks: the first one that is not read
	Last  []byte   `json:"last,omitempty"`  // by keys: of the last row read, in the layout of keys
	Again [][]byte `json:"again,omitempty"` // keys of rows to be read again, ascending
	Read  bool     `json:"read,omitempty"`  // to the end, but for Again
	Rows  uint64   `json:"rows"`
	Bytes uint64   `json:"bytes"`
}

// Done tells that nothing of the table is left to do.
func (t TableState) Done() bool { return t.Read && len(t.Again) == 0 }

// NewState begins a snapshot; started is log time.
func NewState(id string, kind Kind, way Way, tables []string, where string, started int64) State {
	s := State{Version: stateVersion, ID: id, Kind: kind, Status: Running, Where: where, Started: started, Lives: 1}
	for _, t := range tables {
		s.Tables = append(s.Tables, TableState{Table: t, Way: way})
	}
	return s
}

// DecodeState reads what Encode wrote. What a newer version wrote is refused.
func DecodeState(b []byte) (State, error) {
	var s State
	in := json.NewDecoder(bytes.NewReader(b))
	in.DisallowUnknownFields()
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return s, fault.Wrap(fault.Failed, err, "the state of a snapshot cannot be read")
	}
	if version.Version != stateVersion {
		return s, fault.New(fault.Failed, "the state of a snapshot has version %d, and %d is known", version.Version, stateVersion).
			ToMend("run the version of freshet that wrote it, or a newer one")
	}
	if err := in.Decode(&s); err != nil {
		return s, fault.Wrap(fault.Failed, err, "the state of a snapshot cannot be read")
	}
	return s, nil
}

// Encode writes the state as JSON.
func (s State) Encode() ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("state of snapshot %s: %w", s.ID, err)
	}
	return b, nil
}

// Next gives the table that is to be read next, or nil: nothing is left, or the snapshot does not run.
func (s State) Next() *TableState {
	if s.Status != Running {
		return nil
	}
	for i := range s.Tables {
		if !s.Tables[i].Done() {
			return &s.Tables[i]
		}
	}
	return nil
}

// Pause lets a snapshot rest. What is so already stays so, for Resume and Cancel too.
func (s State) Pause() (State, error) { return s.to(Paused) }

// Resume lets a paused snapshot go on.
func (s State) Resume() (State, error) { return s.to(Running) }

// Cancel ends a snapshot. What it has published stays.
func (s State) Cancel() (State, error) { return s.to(Cancelled) }

func (s State) to(next Status) (State, error) {
	if s.Status == next {
		return s, nil
	}
	if s.Status == Done || s.Status == Cancelled {
		return s, fault.New(fault.Usage, "snapshot %s is %s", s.ID, s.Status).ToMend("freshet snapshot run TABLE takes a new one")
	}
	if s.Kind == First && next == Cancelled {
		return s, fault.New(fault.Usage, "without its first snapshot nothing can be computed, so %s is not cancelled", s.ID).
			ToMend("freshet snapshot pause %s", s.ID)
	}
	s.Status = next
	return s, nil
}

// Takeover is for a publisher that finds the state, before it publishes anything: the exported snapshot
// has gone with the publisher before. What of the tables is not read yet is read between watermarks,
// on by blocks where whole tells that this is right for the table (see [WholeImages]), else by keys
// from the first row on.
func (s State) Takeover(whole func(table string) bool) State {
	s.Lives++
	s.Chunk += skipped
	s.Tables = slices.Clone(s.Tables)
	for i, t := range s.Tables {
		switch {
		case t.Way != ByExport || t.Done():
		case whole(t.Table):
			s.Tables[i].Way = ByBlocks
		default:
			s.Tables[i].Way, s.Tables[i].Leaf, s.Tables[i].Block = ByKeys, nil, 0
		}
	}
	return s
}

// Piece is a chunk that is published.
type Piece struct {
	Table string
	// Number is its number: of a plan, or the state's Chunk + 1.
	Number      uint32
	Rows, Bytes int64
	Leaf        *Leaf    // by blocks: where the next one begins
	Block       uint32   // likewise
	Last        string   // by keys: Batch.Last
	End         bool     // the table is read to its end
	ReadAgain   []string // keys that were asked for again
	Again       []string // Window.TakeAgain, after it was published
}

// Published gives the state after a chunk. It becomes durable with the chunk's rows.
func (s State) Published(p Piece) (State, error) {
	i := slices.IndexFunc(s.Tables, func(t TableState) bool { return t.Table == p.Table })
	if i < 0 {
		return s, fault.New(fault.Failed, "snapshot %s has no table %s", s.ID, p.Table)
	}
	if p.Number <= s.Chunk {
		return s, fault.New(fault.Failed, "chunk %d of snapshot %s comes after chunk %d", p.Number, s.ID, s.Chunk)
	}
	s.Chunk = p.Number
	s.Tables = slices.Clone(s.Tables)
	t := &s.Tables[i]
	t.Rows += uint64(p.Rows)
	t.Bytes += uint64(p.Bytes)
	if len(p.ReadAgain) > 0 {
		t.Again = slices.DeleteFunc(slices.Clone(t.Again), func(key []byte) bool { return slices.Contains(p.ReadAgain, string(key)) })
	} else {
		t.Leaf, t.Block, t.Read = p.Leaf, p.Block, t.Read || p.End
		if p.Last != "" {
			t.Last = []byte(p.Last)
		}
	}
	var err error
	if *t, err = t.again(p.Again); err != nil {
		return s, err
	}
	if s.Status != Cancelled && !slices.ContainsFunc(s.Tables, func(t TableState) bool { return !t.Done() }) {
		s.Status = Done
	}
	return s, nil
}

// AddAgain gives the state after changes were published whose rows must be read again. It becomes
// durable with the changes.
func (s State) AddAgain(table string, keys []string) (State, error) {
	i := slices.IndexFunc(s.Tables, func(t TableState) bool { return t.Table == table })
	if i < 0 || len(keys) == 0 || s.Status == Done || s.Status == Cancelled {
		return s, nil
	}
	s.Tables = slices.Clone(s.Tables)
	var err error
	s.Tables[i], err = s.Tables[i].again(keys)
	return s, err
}

func (t TableState) again(keys []string) (TableState, error) {
	if len(keys) == 0 {
		return t, nil
	}
	t.Again = slices.Clone(t.Again)
	for _, key := range keys {
		if at, found := slices.BinarySearchFunc(t.Again, []byte(key), bytes.Compare); !found {
			t.Again = slices.Insert(t.Again, at, []byte(key))
		}
	}
	size := 0
	for _, key := range t.Again {
		size += len(key)
	}
	if size > AgainBytes {
		return t, fault.New(fault.Failed, "too many rows change their key while the table is read, and the log does not have them whole").
			At("table %s", t.Table).ToMend("ALTER TABLE %s REPLICA IDENTITY FULL, at least until the snapshot is done", t.Table)
	}
	return t, nil
}
