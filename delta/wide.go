package delta

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// A row of a joined table may be joined by any number of rows, and they are all joined anew in the cell of
// its change; and a view that stood still serves all its entities in the cell in which it goes on. Such a cell is wide: it is applied in pieces, each of about fanBytes of rows, then each of
// fanServed entities. Until the last piece is applied the partition shows itself as it was before the cell:
// 06|meta and what is served stay. How far the cell is lies under 06|wide, and the entities that it has
// touched are marked, to be served once, at its end:
//
//	0B | view | entity…      1 B version, 1 B the cause
//
// Pieces end where the log says, as what tiles are like inside depends on when they are rebuilt. A process
// that is lost in the middle reads the cell again, drops its changes, and goes on with the next piece.
const (
	fanBytes  = 4 << 20
	fanServed = 1000
)

// wide is how far a wide cell is: the value under 06|wide, as JSON.
type wide struct {
	Meta Meta               `json:"meta"` // as the pieces leave it; its offset is that of the cell's begin
	Fans []fan              `json:"fans,omitempty"`
	Show []show             `json:"show,omitempty"`
	Was  map[string]Stopped `json:"was,omitempty"` // views that stood still before the cell
	// Comparing is the generation that is compared in the cell; see compare.go.
	Comparing string `json:"comparing,omitempty"`
}

func (w *wide) clone() *wide {
	return &wide{Meta: w.Meta.clone(), Fans: slices.Clone(w.Fans), Show: slices.Clone(w.Show), Was: maps.Clone(w.Was), Comparing: w.Comparing}
}

func (p *Partition) loadWide() (*wide, error) {
	b, err := p.store.Get(metaKey("wide"))
	if err != nil || b == nil {
		return nil, err
	}
	var w wide
	if err := json.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("stored cell in pieces: %w", err)
	}
	if w.Meta.Version != metaVersion {
		return nil, fmt.Errorf("stored cell in pieces: version %d", w.Meta.Version)
	}
	maps.DeleteFunc(w.Meta.Stopped, p.outdated)
	maps.DeleteFunc(w.Was, p.outdated)
	return &w, nil
}

// spillRows ends a piece of rows, if they are enough.
func (f *fold) spillRows() error {
	if f.fanned < f.o.fanBytes {
		return nil
	}
	return f.spill()
}

// spill applies what there is of the cell and makes ready for its next piece.
func (f *fold) spill() error {
	f.fanned = 0
	if err := f.endSending(); err != nil {
		return err
	}
	for _, e := range f.touched {
		if err := f.markEntity(e); err != nil {
			return err
		}
	}
	f.touched = f.touched[:0]
	if err := f.keepAll(); err != nil {
		return err
	}
	if err := f.out.end(f.emits); err != nil {
		return err
	}
	f.keepHops()
	w := &wide{Meta: f.meta, Fans: f.fans, Show: f.shows, Was: f.was, Comparing: f.comparing}
	b, err := encodeJSON(w)
	if err != nil {
		return err
	}
	if err := f.batch.Set(metaKey("wide"), b); err != nil {
		return err
	}
	f.point("delta.before-piece")
	if err := f.apply(); err != nil {
		return err
	}
	f.Partition.wide = w.clone()
	f.dropHanded()
	f.cleared()
	f.worked, f.full, f.pieces = true, true, true
	f.point("delta.after-piece")
	return nil
}

// dropHanded leaves the deltas of a wide cell to the store: the publisher finds them there.
func (f *fold) dropHanded() {
	clear(f.out.handed)
	f.out.handed = f.out.handed[:0]
	f.mu.Lock()
	f.hand.drop(f.o.Memory)
	f.mu.Unlock()
}

// markEntity notes in the store that an entity is to be served at the end of the cell; of several causes the
// strongest stays.
func (f *fold) markEntity(e *entity) error {
	e.cell = 0
	key := append(keyOf(spaceMark, e.view.Name), e.id...)
	old, err := f.get(key)
	if err != nil {
		return err
	}
	cause := e.cause
	if len(old) == 2 && strength(change.Cause(old[1])) < strength(cause) {
		cause = change.Cause(old[1])
	}
	return f.set(key, []byte{rowVersion, byte(cause)})
}

// serveMarked serves what a wide cell touched, in key order, some entities in each piece.
func (f *fold) serveMarked() error {
	for {
		if err := f.spill(); err != nil {
			return err
		}
		keys, values, err := f.marked()
		if err != nil || len(keys) == 0 {
			return err
		}
		for i, key := range keys {
			if err := f.serveMark(key, values[i]); err != nil {
				return err
			}
		}
	}
}

func (f *fold) serveMark(key, value []byte) error {
	if err := f.batch.Delete(key); err != nil {
		return err
	}
	if len(value) != 2 || value[0] != rowVersion {
		return errors.New("mark of an entity: unknown version")
	}
	name, id, err := feature.DecodeKey(key[1:])
	if err != nil {
		return fmt.Errorf("mark of an entity: %w", err)
	}
	v := f.views[name.S]
	if v == nil {
		return nil
	}
	e, err := f.entity(v, id)
	if err != nil {
		return err
	}
	e.cell, e.cause = f.cells, change.Cause(value[1])
	return f.serveEntity(e)
}

// marked gives the next marks.
func (f *fold) marked() (keys, values [][]byte, err error) {
	err = f.store.Scan([]byte{spaceMark}, []byte{spaceMark + 1}, func(key, value []byte) bool {
		keys, values = append(keys, bytes.Clone(key)), append(values, bytes.Clone(value))
		return len(keys) < f.o.fanServed
	})
	return keys, values, err
}
