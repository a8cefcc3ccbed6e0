package capture

import (
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/capture/dead"
	"github.com/freshet-io/freshet/capture/pgtype"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// event is what the stream gives to the publisher.
type event struct {
	kind     eventKind
	table    *table
	change   *change.Change
	targets  []target
	lsn      position.LSN // commit: of the commit; idle: where the server has read to; begin: of the commit to come
	logTime  int64
	time     int64 // commit time
	xid      uint32
	seq      uint32
	controls []change.Control
	tables   []*table     // of each control
	reread   []*table     // those that a truncation has changed nobody knows how
	dead     *change.Dead // instead of the change, which could not be read
	touched  *touched     // for a snapshot beside the stream; nil: nobody asks
	asked    *asked       // a cut to put at the end of the transaction
	bytes    int
}

type eventKind uint8

const (
	evRow eventKind = iota
	evBegin
	evCommit
	evIdle
	evTruncate
	evShape // the table has another shape from here on
	evAsked // a cut is asked for
	evNothing
)

// HeartbeatPrefix marks the logical messages that capture itself emits, so that a source without writes
// of its own still moves on. Other messages, of applications among themselves, are passed over.
const HeartbeatPrefix = "freshet"

// decoder turns messages into events. It is a pure step function: no clock, no I/O; its state is
// what the messages so far have said.
type decoder struct {
	epoch   uint32
	tables  *tables
	watch   *watch
	clock   bool // a table carries log time; otherwise it is commit time
	logTime int64
	commit  position.LSN
	time    int64
	xid     uint32
	seq     uint32
}

// step takes one message. The event does not alias the message.
func (d *decoder) step(m *pgwire.Message) (event, error) {
	switch m.Kind {
	case pgwire.Begin:
		d.commit, d.time, d.xid, d.seq = m.LSN, m.CommitTime, m.XID, 0
		return event{kind: evBegin, lsn: m.LSN}, nil
	case pgwire.Commit:
		return event{kind: evCommit, lsn: d.commit, logTime: d.logTime, time: d.time}, nil
	case pgwire.Keepalive:
		return event{kind: evIdle, lsn: m.LSN, logTime: d.logTime}, nil
	case pgwire.Relation:
		t, err := d.tables.relation(m.Shape)
		if err != nil || t == nil {
			return event{kind: evNothing}, err
		}
		return event{kind: evShape, table: t, lsn: d.commit, bytes: 1 << 10}, nil
	case pgwire.Truncate:
		return d.truncate(m)
	case pgwire.Insert, pgwire.Update, pgwire.Delete:
		return d.row(m)
	case pgwire.Logical:
		// One outside of transactions comes when everything committed before it has come.
		if m.Transactional && string(m.Prefix) == cutPrefix {
			if a := parseAsked(m.Content); a != nil {
				return event{kind: evAsked, asked: a, lsn: d.commit}, nil
			}
		}
		if m.Transactional || string(m.Prefix) != HeartbeatPrefix {
			return event{kind: evNothing}, nil
		}
		return event{kind: evIdle, lsn: m.LSN, logTime: d.logTime}, nil
	default: // types, origins
		return event{kind: evNothing}, nil
	}
}

// truncate gives one control per captured table. Each takes a seq of its own, so that it stands
// between the rows before and after it in its transaction. Of a leaf that is published by itself it is
// not known which rows are gone: its table is to be read again.
func (d *decoder) truncate(m *pgwire.Message) (event, error) {
	e := event{kind: evTruncate, lsn: d.commit, logTime: d.logTime, time: d.time, xid: d.xid}
	for _, oid := range m.Relations {
		d.seq++
		t := d.tables.byOID[oid]
		if t == nil || !t.ours() {
			continue
		}
		if _, ok := d.tables.leaf[oid]; ok {
			if !slices.ContainsFunc(e.reread, func(x *table) bool { return x.raw.FullName() == t.raw.FullName() }) {
				e.reread = append(e.reread, t)
			}
			continue
		}
		e.tables = append(e.tables, t)
		e.controls = append(e.controls, change.Control{
			Kind: change.Truncate, Table: t.shape.FullName(), LogTime: d.logTime, CommitTime: d.time,
			Position: position.Position{Epoch: d.epoch, LSN: d.commit, Seq: d.seq},
		})
	}
	if len(e.controls)+len(e.reread) == 0 {
		e.kind = evNothing
	}
	return e, nil
}

func (d *decoder) row(m *pgwire.Message) (event, error) {
	d.seq++
	t := d.tables.byOID[m.Relation]
	if t == nil {
		return event{}, fault.New(fault.Failed, "the stream has a row of relation %d before its description", m.Relation)
	}
	if !d.clock {
		d.logTime = max(d.logTime, d.time)
	}
	if !t.ours() { // published, but not ours
		return event{kind: evNothing}, nil
	}
	pos := position.Position{Epoch: d.epoch, LSN: d.commit, Seq: d.seq}
	ch := &change.Change{Position: pos, CommitTime: d.time, Op: change.Insert}
	switch m.Kind {
	case pgwire.Update:
		ch.Op = change.Update
	case pgwire.Delete:
		ch.Op = change.Delete
	default: // an insert, as set above
	}
	e := event{kind: evRow, table: t, change: ch, seq: d.seq, lsn: d.commit, time: d.time, xid: d.xid}
	if err := e.read(m); err != nil {
		return d.poison(e, m, err)
	}
	if k, ok := d.watch.of(t.raw.FullName()); ok {
		var err error
		if e.touched, err = touch(k, t, m, len(ch.Unchanged) > 0); err != nil {
			e.touched = &touched{err: err} // the snapshot fails, and the stream goes on
		}
	}
	if ch := e.change; t.clock >= 0 && ch.After != nil && ch.After[t.clock].Kind == feature.Timestamp {
		d.logTime = max(d.logTime, ch.After[t.clock].I)
	}
	e.change.LogTime, e.logTime = d.logTime, d.logTime
	var err error
	if e.targets, err = t.route(e.change, nil); err != nil {
		return d.poison(e, m, err)
	}
	if len(e.targets) == 0 && t.output == nil && e.touched == nil {
		e.kind = evNothing
	}
	return e, nil
}

// read takes the images of a row from its message, as they are after the filter.
func (e *event) read(m *pgwire.Message) error {
	ch, t := e.change, e.table
	var err error
	if m.Old != nil {
		if ch.Before, _, err = values(t.raw, m.Old, nil); err != nil {
			return err
		}
		e.bytes += size(m.Old)
	}
	if m.New != nil {
		if ch.After, ch.Unchanged, err = values(t.raw, m.New, ch.Before); err != nil {
			return err
		}
		e.bytes += size(m.New)
	}
	if t.filter != nil {
		e.change = t.filter.Change(ch)
	}
	return nil
}

// poison makes a dead letter of a row that cannot be decoded or routed: it is kept, its count is
// visible, and the rows after it go on.
func (d *decoder) poison(e event, m *pgwire.Message, cause error) (event, error) {
	raw := m.Raw
	if m.Streamed { // without the transaction that stands between kind and rest
		raw = append([]byte{raw[0]}, raw[5:]...)
	}
	letter, err := dead.Of(&dead.Row{Position: e.change.Position, Table: e.table.raw, Form: dead.Message, Raw: raw}, cause)
	if err != nil {
		return event{}, err
	}
	e.dead, e.targets, e.bytes = letter, nil, len(raw)
	e.change.LogTime, e.logTime = d.logTime, d.logTime
	return e, nil
}

func size(t *pgwire.Tuple) int {
	n := 0
	for _, x := range t.Texts {
		n += len(x) + valueBytes
	}
	return n
}

// values reads a tuple. Under a full identity an unchanged TOAST value is in the before-image and
// is taken from there; otherwise its bit is set and the value is NULL, which is not the value.
func values(t *feature.Table, in *pgwire.Tuple, before []feature.Value) (out []feature.Value, unchanged []byte, err error) {
	if len(in.Kinds) != len(t.Columns) {
		return nil, nil, fmt.Errorf("%d columns were sent, table %s has %d", len(in.Kinds), t.FullName(), len(t.Columns))
	}
	out = make([]feature.Value, len(in.Kinds))
	for i, k := range in.Kinds {
		switch {
		case k == 't':
			if out[i], err = value(t.Columns[i], in.Texts[i]); err != nil {
				return nil, nil, err
			}
		case k == 'u' && before != nil && t.Identity == feature.IdentityFull:
			out[i] = before[i]
		case k == 'u':
			if unchanged == nil {
				unchanged = make([]byte, (len(in.Kinds)+7)/8)
			}
			unchanged[i/8] |= 1 << (i % 8)
		}
	}
	return out, unchanged, nil
}

func value(c feature.Column, text []byte) (feature.Value, error) {
	v, err := pgtype.Parse(c.Type, text)
	if err != nil {
		return v, fmt.Errorf("column %s: %w", c.Name, err)
	}
	return v, nil
}
