package delta

import (
	"fmt"
	"maps"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
)

// In the hop's histories the view stands still at times: paused in all senders at one place, or in those that
// a change reaches whose shape does not fit. A snapshot of the trips beside the stream mends it.

const hopTripsText = 4 // schema id of trips in a shape that does not fit

// hopStand is whether the view stands still in a sender, and whether a snapshot that mends it is being read.
type hopStand struct{ still, mending bool }

// hopRun is a snapshot beside the stream: keys are still to be read, seen are those read or touched since it began.
type hopRun struct {
	id    string
	keys  []int64
	n     uint64
	seen  [hopSenders]map[int64]bool
	unfit [hopSenders]bool // the view was stopped since it began
}

// change changes a row in the database and puts it into the log, seldom in a shape that does not fit.
func (h *hopHistory) change(pk int64, ch *change.Change) {
	schema := uint32(historyTrips)
	if ch.After == nil {
		delete(h.rows, pk)
	} else {
		h.rows[pk] = ch.After
		if h.r.IntN(60) == 0 {
			schema = hopTripsText
		}
	}
	before, after := hopPartition(h.t, ch.Before), hopPartition(h.t, ch.After)
	h.send(schema, ch)
	for i := range h.known {
		if before != i && after != i {
			continue
		}
		if h.run != nil && ch.After != nil {
			h.run.seen[i][pk] = true
		}
		switch stand := &h.stands[i]; {
		case schema == hopTripsText:
			stand.still, stand.mending = true, false
			if h.run != nil {
				h.run.unfit[i] = true
			}
			h.count["stopped"]++
		case stand.still && !stand.mending:
			h.count["missed"]++
		case after == i:
			h.known[i][pk] = hopTrip{ch.After, h.joins(ch.After)}
		default:
			delete(h.known[i], pk)
		}
	}
}

// forget lets the senders know no row.
func (h *hopHistory) forget() {
	for i := range h.known {
		clear(h.known[i])
	}
}

// show is what a control record shows of the makers: while the view stands still in any sender, what the control
// record before showed. Others may have told by then what that one could not.
func (h *hopHistory) show(c *change.Control) {
	if c.Kind == change.Heartbeat && c.LogTime <= h.passed.LogTime && c.Position.LSN <= h.passed.Position.LSN {
		return // it does not go on
	}
	h.passed = *c
	still := 0
	for i := range h.stands {
		if h.stands[i].still {
			still++
		}
	}
	switch {
	case still == 0:
		h.last, h.frozen = h.makers(), nil
	case h.frozen == nil:
		h.frozen = h.last
	}
	if still == 1 {
		h.count["stopped in one"]++
	}
}

// turn pauses the view, or lets it go on.
func (h *hopHistory) turn() {
	action := change.Pause
	switch {
	case !h.paused && h.r.IntN(15) == 0:
		for i := range h.stands {
			h.stands[i] = hopStand{still: true}
		}
		h.count["paused"]++
		if h.run != nil {
			h.count["paused inside"]++
		}
	case h.paused && h.r.IntN(4) == 0:
		action = change.Resume
		h.count["resumed"]++
	default:
		return
	}
	h.paused = action == change.Pause
	h.control(&change.Control{Kind: change.Activation, ID: fmt.Sprint("a", h.at.LSN), Detail: `{"view":"makers","action":"` + action + `"}`})
}

// reread takes the next step of a snapshot beside the stream: it begins, reads some keys, or ends.
func (h *hopHistory) reread() {
	x := h.run
	switch {
	case x == nil && h.r.IntN(5) > 0:
	case x == nil:
		x = &hopRun{id: fmt.Sprint("beside ", len(h.logs[0].records))}
		for i := range x.seen {
			x.seen[i] = map[int64]bool{}
			h.stands[i].mending = h.stands[i].still && !h.paused
		}
		for pk := range int64(20) {
			x.keys = append(x.keys, pk)
		}
		h.run = x
		h.control(&change.Control{Kind: change.SnapshotBegin, ID: x.id, Table: "public.trips"})
	case h.r.IntN(15) == 0:
		for i := range h.stands {
			h.stands[i].mending = false
		}
		h.run = nil
		h.control(&change.Control{Kind: change.SnapshotEnd, ID: x.id, Table: "public.trips", Detail: `{"cancelled":true}`})
	case len(x.keys) > 0:
		n := min(len(x.keys), 1+h.r.IntN(12))
		h.chunk(x.keys[:n])
		x.keys = x.keys[n:]
	default:
		h.mended()
		h.run = nil
		h.control(&change.Control{Kind: change.SnapshotEnd, ID: x.id, Table: "public.trips"})
	}
}

// chunk reads some rows and puts them behind what is in the log.
func (h *hopHistory) chunk(keys []int64) {
	at := h.at
	if h.ordinal > 0 {
		at = h.at.Control(h.ordinal)
	}
	for _, pk := range keys {
		row := h.rows[pk]
		i := hopPartition(h.t, row)
		if i < 0 {
			continue
		}
		h.run.n++
		h.cell = append(h.cell, sent{historyTrips, &change.Change{
			Op: change.Snapshot, Position: at, LogTime: h.now, CommitTime: h.now, SnapshotID: h.run.id, Chunk: 1, N: h.run.n, After: row,
		}})
		h.run.seen[i][pk] = true
		was, there := h.known[i][pk]
		switch {
		case h.stands[i].still && !h.stands[i].mending:
		case !there || !slices.Equal(was.row, row): // one that is the same joins what it joined
			h.known[i][pk] = hopTrip{row, h.joins(row)}
			h.count["mended"]++
		}
	}
	h.flush()
}

// mended ends a snapshot: what it has not seen is gone.
func (h *hopHistory) mended() {
	for i := range h.known {
		known := len(h.known[i])
		maps.DeleteFunc(h.known[i], func(pk int64, _ hopTrip) bool { return !h.run.seen[i][pk] })
		h.count["unseen"] += known - len(h.known[i])
		if h.stands[i].mending && !h.run.unfit[i] {
			h.stands[i] = hopStand{}
			h.count["goes on"]++
		}
	}
}
