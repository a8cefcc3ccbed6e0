package initial

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
)

// The model: a table of rows with a small value and a big one, which the stream leaves out where an
// update leaves it unchanged. A transaction locks the keys it changes; its commit gets its place in
// the log, and only some time later do others see it and are its locks released.

type modelRow struct{ small, big int }

type modelOp struct {
	kind    byte // insert, update, delete, move, truncate
	key, to int
	row     modelRow
	partial bool
}

type modelTx struct {
	xid    uint32
	ops    []modelOp
	view   map[int]modelRow // what it sees itself of the keys it has locked
	logged bool
}

type flaws struct{ noFence, noEarlyTouch, noAgain, early bool }

type model struct {
	*rand.Rand
	flaws
	standby bool
	next    uint32
	ended   uint32 // one past the last transaction that has
	visible map[int]modelRow
	running []*modelTx
	locked  map[int]*modelTx
	log     []*modelTx
	history []map[int]modelRow // the table after each entry of the log
}

func apply(m map[int]modelRow, o modelOp, whole bool) {
	old, known := m[o.key]
	switch o.kind {
	case 'i':
		m[o.key] = o.row
	case 'd':
		delete(m, o.key)
	case 't':
		clear(m)
	case 'u', 'm':
		row := o.row
		delete(m, o.key)
		if o.partial && !whole {
			if !known {
				return // downstream there is no row to complete it by
			}
			row.big = old.big
		}
		if o.kind == 'm' {
			m[o.to] = row
			return
		}
		m[o.key] = row
	}
}

const modelKeys = 24

func (m *model) see(tx *modelTx, key int) (modelRow, bool) {
	if m.locked[key] == tx {
		r, ok := tx.view[key]
		return r, ok
	}
	r, ok := m.visible[key]
	return r, ok
}

// act lets the source do one thing.
func (m *model) act() {
	switch n := m.IntN(10); {
	case n < 2 && len(m.running) < 6:
		m.running = append(m.running, &modelTx{xid: m.next, view: map[int]modelRow{}})
		m.next++
	case len(m.running) == 0:
	case n < 7:
		if tx := m.running[m.IntN(len(m.running))]; !tx.logged {
			m.change(tx)
		}
	case n < 8:
		if tx := m.running[m.IntN(len(m.running))]; !tx.logged {
			if m.IntN(5) == 0 {
				m.end(tx)
				return
			}
			tx.logged = true
			after := maps.Clone(m.history[len(m.history)-1])
			for _, o := range tx.ops {
				apply(after, o, true)
			}
			m.log, m.history = append(m.log, tx), append(m.history, after)
		}
	default:
		if tx := m.running[m.IntN(len(m.running))]; tx.logged {
			for _, o := range tx.ops {
				apply(m.visible, o, true)
			}
			m.end(tx)
		}
	}
}

func (m *model) end(tx *modelTx) {
	if wide(tx.xid) >= wide(m.ended) {
		m.ended = tx.xid + 1
	}
	m.running = slices.DeleteFunc(m.running, func(x *modelTx) bool { return x == tx })
	maps.DeleteFunc(m.locked, func(_ int, x *modelTx) bool { return x == tx })
}

func (m *model) lock(tx *modelTx, key int) bool {
	if held := m.locked[key]; held != nil {
		return held == tx
	}
	if row, ok := m.visible[key]; ok {
		tx.view[key] = row
	}
	m.locked[key] = tx
	return true
}

func (m *model) change(tx *modelTx) {
	if m.IntN(40) == 0 { // needs the table to itself
		for key := range modelKeys {
			if held := m.locked[key]; held != nil && held != tx {
				return
			}
		}
		for key := range modelKeys {
			m.locked[key] = tx
		}
		tx.ops, tx.view = append(tx.ops, modelOp{kind: 't'}), map[int]modelRow{}
		return
	}
	o := modelOp{key: m.IntN(modelKeys), to: m.IntN(modelKeys), row: modelRow{m.IntN(1000), m.IntN(1000)}}
	old, ok := m.see(tx, o.key)
	_, taken := m.see(tx, o.to)
	if !m.lock(tx, o.key) {
		return
	}
	switch n := m.IntN(10); {
	case !ok:
		o.kind = 'i'
	case n < 2:
		o.kind = 'd'
	case n < 4 && !taken && o.to != o.key && m.lock(tx, o.to):
		o.kind = 'm'
	default:
		o.kind = 'u'
	}
	if (o.kind == 'u' || o.kind == 'm') && m.IntN(2) == 0 {
		o.partial, o.row.big = true, old.big
	}
	tx.ops = append(tx.ops, o)
	apply(tx.view, o, true)
}

// wide numbers transactions of a model, whose ids begin anew on the way.
func wide(xid uint32) uint64 {
	if xid < 1<<31 {
		return 8<<32 + uint64(xid)
	}
	return 7<<32 + uint64(xid)
}

func (m *model) snapshot() Snapshot {
	s := Snapshot{Max: wide(m.ended)}
	s.Min = s.Max
	for _, tx := range m.running {
		if x := wide(tx.xid); x < s.Max { // the end of a snapshot is not beyond all that run
			s.Running, s.Min = append(s.Running, x), min(s.Min, x)
		}
	}
	slices.Sort(s.Running)
	if s.Standby = m.standby; s.Standby {
		s.Running = nil
	}
	return s
}

// publisher is what the package comment says of a publisher, and what is downstream of it.
type publisher struct {
	m        *model
	w        *Window
	at       int // entries of the log that are published
	lag      int // how seldom it publishes
	rows     map[int]modelRow
	frontier int // keys below are covered
	again    map[string]bool
	chunk    *modelChunk
	fence    uint64
	fenced   bool
	bad      string
}

type modelChunk struct {
	snapshot Snapshot
	high     int
	rows     map[int]modelRow
	keys     []int
	last     int
	again    bool
}

func modelKey(k int) []byte { return fmt.Appendf(nil, "%02d", k) }

func (p *publisher) publish() {
	tx := p.m.log[p.at]
	p.at++
	for _, o := range tx.ops {
		if p.m.noEarlyTouch && p.chunk == nil {
			apply(p.rows, o, false)
			continue
		}
		switch o.kind {
		case 'm':
			p.w.Move(tx.xid, modelKey(o.key), modelKey(o.to), o.partial)
		case 't':
			p.w.Truncate(tx.xid)
		default:
			p.w.Touch(tx.xid, modelKey(o.key), o.partial)
		}
		apply(p.rows, o, false)
	}
	p.keepAgain()
	for p.w.Full() {
		p.chunk = nil
		p.w.Open(p.m.snapshot())
		if p.w.Full() {
			p.m.act()
		}
	}
}

func (p *publisher) keepAgain() {
	for _, k := range p.w.TakeAgain() {
		p.again[k] = !p.m.noAgain
	}
	if p.m.noAgain {
		clear(p.again)
	}
}

func (p *publisher) read() {
	m := p.m
	c := &modelChunk{snapshot: m.snapshot(), high: len(m.log), rows: map[int]modelRow{}, last: p.frontier}
	if c.again = len(p.again) > 0 && (p.frontier >= modelKeys || m.IntN(3) == 0); c.again {
		for k := range p.again {
			n, _ := strconv.Atoi(k)
			c.keys = append(c.keys, n)
		}
	} else {
		c.last = p.frontier + 1 + m.IntN(8)
		for k := p.frontier; k < c.last; k++ {
			c.keys = append(c.keys, k)
		}
	}
	for _, k := range c.keys {
		if row, ok := m.visible[k]; ok {
			c.rows[k] = row
		}
	}
	p.chunk = c
}

func (p *publisher) emit() {
	c := p.chunk
	p.chunk = nil
	if !p.w.Open(c.snapshot) {
		return
	}
	if c.again {
		for _, k := range c.keys {
			delete(p.again, string(modelKey(k)))
		}
	}
	for _, k := range c.keys { // also those asked for and not found
		row, found := c.rows[k]
		if (found || c.again) && p.w.Keep(modelKey(k)) && found {
			p.rows[k] = row
		}
	}
	p.keepAgain()
	if p.frontier < modelKeys && c.last >= modelKeys {
		p.frontier = c.last
		p.covered()
	}
	p.frontier = c.last
}

func (p *publisher) covered() {
	var but [][]byte
	for k := range p.again {
		but = append(but, []byte(k))
	}
	p.w.Covered(but)
}

// restart is a kill and a takeover: what is durable is left.
func (p *publisher) restart(limit int64) {
	p.w, p.chunk, p.fenced, p.fence = NewWindow(limit), nil, false, wide(p.m.next)
	if p.frontier >= modelKeys {
		p.covered()
	}
}

func (p *publisher) step() {
	if !p.fenced {
		p.fenced = p.m.noFence || !slices.ContainsFunc(p.m.running, func(tx *modelTx) bool { return wide(tx.xid) < p.fence })
	}
	done := p.frontier >= modelKeys && len(p.again) == 0
	switch n := p.m.IntN(6); {
	case n < 2 && p.fenced && p.chunk == nil && !done:
		p.read()
	case p.chunk != nil && (p.at >= p.chunk.high || p.m.early) && n < 4:
		p.emit()
	case p.at < len(p.m.log) && p.m.IntN(p.lag) == 0:
		p.publish()
	}
	p.check()
}

// check compares what is covered with the table as it is at the position published up to.
func (p *publisher) check() {
	want := p.m.history[p.at]
	for k := range modelKeys {
		a, inA := want[k]
		b, inB := p.rows[k]
		if k < p.frontier && !p.again[string(modelKey(k))] && (inA != inB || a != b) && p.bad == "" {
			p.bad = fmt.Sprintf("key %d at %d: %v %v instead of %v %v", k, p.at, b, inB, a, inA)
		}
	}
}

// simulate runs one history and says what was wrong at first.
func simulate(random *rand.Rand, f flaws) string {
	m := &model{
		Rand: random, flaws: f, standby: random.IntN(4) == 0, next: 1<<32 - 60, ended: 1<<32 - 60, visible: map[int]modelRow{},
		locked: map[int]*modelTx{}, history: []map[int]modelRow{{}},
	}
	for range 100 {
		m.act()
	}
	p := &publisher{m: m, at: len(m.log), lag: 1 + random.IntN(8), rows: map[int]modelRow{}, again: map[string]bool{}}
	limit := int64(300 + random.IntN(3000))
	p.restart(limit)
	steps := 0
	for ; steps < 20_000 && (p.frontier < modelKeys || len(p.again) > 0); steps++ {
		if random.IntN(3) > 0 {
			m.act()
		}
		if random.IntN(400) == 0 {
			p.restart(limit)
		}
		p.step()
	}
	for range 200 {
		m.act()
		p.step()
	}
	for p.at < len(m.log) {
		p.publish()
		p.check()
	}
	if p.bad == "" && (p.frontier < modelKeys || steps == 20_000) {
		return "the snapshot does not end"
	}
	return p.bad
}

func TestChunksBetweenWatermarksEqualTheTable(t *testing.T) {
	n := 1000
	if s := os.Getenv("HISTORIES"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	random := testkit.Seed(t)
	for i := range n {
		if bad := simulate(random, flaws{}); bad != "" {
			t.Fatalf("history %d: %s", i, bad)
		}
	}
}

// Each rule is needed: without it some history goes wrong.
func TestEachRuleOfTheWindowIsNeeded(t *testing.T) {
	for name, f := range map[string]flaws{
		"no wait for what ran before the run":    {noFence: true},
		"touches before the chunk are forgotten": {noEarlyTouch: true},
		"rows that are not whole are left":       {noAgain: true},
		"published before the high watermark":    {early: true},
	} {
		random := testkit.Seed(t)
		wrong := 0
		for range 300 {
			if bad := simulate(random, f); strings.HasPrefix(bad, "key") {
				wrong++
			}
		}
		t.Logf("%s: %d of 300 histories go wrong", name, wrong)
		if wrong == 0 {
			t.Errorf("%s: nothing went wrong", name)
		}
	}
}
