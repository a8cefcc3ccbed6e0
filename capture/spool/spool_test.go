package spool

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
)

type record struct {
	sub uint32
	raw []byte
}

// read gives all records of a transaction; known is false where there is no such transaction.
func read(s *Spool, xid uint32) (out []record, known bool, err error) {
	r, err := s.Transaction(xid)
	if r == nil || err != nil {
		return nil, false, err
	}
	for {
		sub, raw, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, true, r.Close()
		}
		if err != nil {
			_ = r.Close()
			return nil, true, err
		}
		out = append(out, record{sub, bytes.Clone(raw)})
	}
}

func same(a, b []record) bool {
	return slices.EqualFunc(a, b, func(x, y record) bool { return x.sub == y.sub && bytes.Equal(x.raw, y.raw) })
}

func open(t testing.TB, o Options) *Spool {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
			t.Errorf("Close left %v, %v", left, err)
		}
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// history makes random operations on a spool and on plain maps.
type history struct {
	t     *testing.T
	r     *rand.Rand
	s     *Spool
	model map[uint32][]record
	dead  map[uint32]map[uint32]bool // subtransactions that were aborted, by transaction
	stack map[uint32][]uint32        // open savepoints of the nested kind, innermost last
	next  uint32                     // xid to be assigned next
	full  int
}

func (h *history) raw() []byte {
	n := h.r.IntN(120)
	if h.r.IntN(60) == 0 {
		n = h.r.IntN(200_000)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(h.r.Uint32())
	}
	return b
}

func (h *history) append(xid, sub uint32) {
	raw := h.raw()
	lent := bytes.Clone(raw)
	err := h.s.Append(xid, sub, lent)
	clear(lent) // the spool has a copy
	if err == nil {
		h.model[xid] = append(h.model[xid], record{sub, raw})
		return
	}
	full, ok := errors.AsType[*Full](err)
	if !ok {
		h.t.Fatal(err)
	}
	h.full++
	st := h.s.Stats()
	if full.Memory {
		if h.s.aborts <= h.s.o.Memory {
			h.t.Fatalf("refused for memory with %d bytes of aborts: %v", h.s.aborts, err)
		}
		return
	}
	if st.Disk+st.Buffered+int64(headerBytes+lengthBytes+len(raw)) <= h.s.o.Bytes {
		h.t.Fatalf("refused %d bytes at %+v: %v", len(raw), st, err)
	}
}

func (h *history) abort(xid, sub uint32) {
	h.s.AbortSub(xid, sub)
	if sub == xid {
		delete(h.model, xid)
		delete(h.dead, xid)
		delete(h.stack, xid)
		return
	}
	if h.dead[xid] == nil {
		h.dead[xid] = map[uint32]bool{}
	}
	h.dead[xid][sub] = true
	if log, ok := h.model[xid]; ok {
		h.model[xid] = slices.DeleteFunc(log, func(r record) bool { return r.sub == sub })
	}
}

func (h *history) drop(xid uint32) {
	must(h.t, h.s.Drop(xid))
	delete(h.model, xid)
	delete(h.dead, xid)
	delete(h.stack, xid)
}

func (h *history) pick() (uint32, bool) {
	xids := make([]uint32, 0, len(h.model))
	for x := range h.model {
		xids = append(xids, x)
	}
	slices.Sort(xids)
	if len(xids) == 0 {
		return 0, false
	}
	return xids[h.r.IntN(len(xids))], true
}

// anyOrder: subtransactions write, and abort, in an order that no server would send.
func (h *history) anyOrder() {
	xid, ok := h.pick()
	if !ok || h.r.IntN(30) == 0 {
		xid = h.next + h.r.Uint32N(3)
		h.next += 10
	}
	sub := xid + h.r.Uint32N(8)
	switch n := h.r.IntN(100); {
	case n < 85:
		if !h.dead[xid][sub] {
			h.append(xid, sub)
		}
	case n < 97:
		if sub != xid || h.r.IntN(10) == 0 {
			h.abort(xid, sub)
		}
	default:
		h.drop(xid)
	}
}

// nested: savepoints as PostgreSQL has them. A savepoint rolled back aborts the children released into
// it, in the order of their ids, then itself.
func (h *history) nested() {
	xid, ok := h.pick()
	if !ok || h.r.IntN(40) == 0 {
		xid = h.next
		h.next++
		h.stack[xid] = []uint32{xid}
		h.append(xid, xid)
	}
	if _, ok := h.model[xid]; !ok {
		return // it did not fit
	}
	st := h.stack[xid]
	switch n := h.r.IntN(100); {
	case n < 60:
		h.append(xid, st[len(st)-1])
	case n < 75 && len(st) < 6:
		h.stack[xid] = append(st, h.next)
		h.next++
	case n < 90 && len(st) > 1:
		to := 1 + h.r.IntN(len(st)-1)
		if h.r.IntN(2) == 0 {
			h.stack[xid] = st[:len(st)-1] // released: a rollback of the parent finds it by its id
			return
		}
		// All of larger ids are children, some open, some released.
		var subs []uint32
		for _, r := range h.model[xid] {
			if r.sub-xid > st[to]-xid && !slices.Contains(subs, r.sub) {
				subs = append(subs, r.sub)
			}
		}
		slices.SortFunc(subs, func(a, b uint32) int { return cmp.Compare(a-xid, b-xid) })
		for _, sub := range append(subs, st[to]) {
			h.abort(xid, sub)
		}
		h.stack[xid] = st[:to]
		if h.s.aborts != 0 {
			h.t.Fatalf("%d bytes remembered after all messages of an abort", h.s.aborts)
		}
	case n >= 99:
		h.drop(xid)
	case n >= 98:
		h.abort(xid, xid)
	}
}

func (h *history) check() {
	h.t.Helper()
	h.invariants()
	for x, want := range h.model {
		got, known, err := read(h.s, x)
		if err != nil || !known || !same(got, want) {
			h.t.Fatalf("transaction %d: %d records, expected %d, known %v: %v", x, len(got), len(want), known, err)
		}
	}
	if n := h.s.Stats().Transactions; n != len(h.model) {
		h.t.Fatalf("%d transactions, expected %d", n, len(h.model))
	}
	if got, known, err := read(h.s, 1<<31); got != nil || known || err != nil {
		h.t.Fatalf("an unknown transaction is %v %v %v", got, known, err)
	}
}

// invariants checks what must hold at any time, against the files themselves.
func (h *history) invariants() {
	h.t.Helper()
	st := h.s.Stats()
	var disk, buffered int64
	buffers, handles, aborts := 0, 0, 0
	for _, t := range h.s.txs {
		buffers += cap(t.buf)
		buffered += int64(len(t.buf))
		aborts += len(t.aborted) * rangeBytes
		if t.file != nil {
			handles++
		}
	}
	entries, err := os.ReadDir(h.s.o.Dir)
	must(h.t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(h.t, err)
		disk += info.Size()
	}
	if disk != st.Disk || buffered != st.Buffered || int64(buffers) != st.Memory || aborts != h.s.aborts {
		h.t.Fatalf("files have %d bytes, buffers %d of %d, aborts %d; counted are %+v, %d", disk, buffered, buffers, aborts, st, h.s.aborts)
	}
	if disk+buffered > h.s.o.Bytes || buffers > h.s.o.Memory || handles > h.s.o.handles || handles != len(h.s.holders) {
		h.t.Fatalf("beyond a bound: %+v, %d handles", st, handles)
	}
}

func TestRandomHistories(t *testing.T) {
	r := testkit.Seed(t)
	for i := range 60 {
		o := Options{
			Dir:     t.TempDir(),
			Bytes:   []int64{0, 3000, 100_000, 2_000_000}[r.IntN(4)],
			Memory:  []int{0, 100, 3000, 70_000}[r.IntN(4)],
			segment: []int64{0, 1, 2000, 100_000}[r.IntN(4)],
			handles: 1 + r.IntN(4),
		}
		nested := i%2 == 0
		t.Run(fmt.Sprintf("%d nested %v Bytes %d Memory %d segment %d", i, nested, o.Bytes, o.Memory, o.segment), func(t *testing.T) {
			h := &history{
				t: t, r: r, s: open(t, o), model: map[uint32][]record{}, dead: map[uint32]map[uint32]bool{},
				stack: map[uint32][]uint32{}, next: []uint32{700, 1<<32 - 40}[r.IntN(2)],
			}
			for n := range 1500 {
				if nested {
					h.nested()
				} else {
					h.anyOrder()
				}
				if n%100 == 99 {
					h.check()
				}
			}
			if o.Bytes == 3000 && h.full == 0 {
				t.Error("the bound was never met")
			}
		})
	}
}

func TestTheBoundIsExact(t *testing.T) {
	// Two records of one subtransaction share a header, the third has its own, the fourth is longer
	// than a block.
	need := int64(headerBytes + 2*(lengthBytes+10) + headerBytes + lengthBytes + headerBytes + lengthBytes + blockBytes)
	for _, spare := range []int64{-1, 0} {
		s := open(t, Options{Bytes: need + spare})
		must(t, s.Append(5, 5, make([]byte, 10)))
		must(t, s.Append(5, 5, make([]byte, 10)))
		must(t, s.Append(5, 6, nil))
		err := s.Append(7, 7, make([]byte, blockBytes))
		full, ok := errors.AsType[*Full](err)
		if ok != (spare < 0) || (err != nil) != ok {
			t.Fatalf("%d bytes spare: %v", spare, err)
		}
		if !ok {
			continue
		}
		if full.XID != 7 || full.Limit != need-1 || !strings.Contains(err.Error(), s.o.Dir) || !strings.Contains(err.Error(), "backend_xid = '5'") {
			t.Errorf("%v", err)
		}
		if st := s.Stats(); st.Transactions != 1 || st.Disk != 0 || st.Oldest != 5 || st.Appended != 3 {
			t.Errorf("after a refusal: %+v", st)
		}
		must(t, s.Drop(5))
		must(t, s.Append(7, 7, make([]byte, blockBytes)))
	}
}

func TestASmallTransactionNeverTouchesTheDisk(t *testing.T) {
	s := open(t, Options{})
	for xid := range uint32(100) {
		for range 600 {
			must(t, s.Append(xid+1, xid+1, make([]byte, 100)))
		}
	}
	if st := s.Stats(); st.Disk != 0 || st.Buffered != 100*(headerBytes+600*104) {
		t.Errorf("%+v", st)
	}
	for range 100 {
		must(t, s.Append(1, 1, make([]byte, 100)))
	}
	if st := s.Stats(); st.Disk == 0 {
		t.Errorf("a large one is not on disk: %+v", st)
	}
}

func TestAnAbortFreesTheDisk(t *testing.T) {
	s := open(t, Options{segment: 200_000})
	must(t, s.Append(1, 1, make([]byte, 100_000)))
	before := s.Stats()
	for sub := uint32(2); sub < 5; sub++ { // released into 2, or open in it
		for range 5000 {
			must(t, s.Append(1, sub, make([]byte, 100)))
		}
	}
	for _, sub := range []uint32{3, 4, 2} {
		s.AbortSub(1, sub)
		s.AbortSub(1, sub)
	}
	if st := s.Stats(); st.Disk != before.Disk || st.Buffered != 0 || s.aborts != 0 {
		t.Errorf("%+v, %d bytes remembered; before: %+v", st, s.aborts, before)
	}
	s.AbortSub(9, 9)
	s.AbortSub(1, 77)
	s.AbortSub(1, 1)
	s.AbortSub(1, 1)
	if st := s.Stats(); st.Disk != 0 || st.Transactions != 0 || st.Dropped != 1 || st.Oldest != 0 {
		t.Errorf("%+v", st)
	}
}

// TestReadersAndChanges: what is read stays as it is until it is closed.
func TestReadersAndChanges(t *testing.T) {
	s := open(t, Options{Memory: 1000, segment: 1000})
	for i := range uint32(3) { // two on disk, one in memory
		must(t, s.Append(1, 1+i, bytes.Repeat([]byte{byte(i)}, 2000-900*int(i))))
	}
	r, err := s.Transaction(1)
	must(t, err)
	if err := s.Append(1, 1, nil); err == nil {
		t.Error("a transaction grew while it was read")
	}
	if err := s.Drop(1); err == nil {
		t.Error("a transaction was dropped while it was read")
	}
	for range 3000 { // another transaction goes on, and needs the memory
		must(t, s.Append(2, 2, make([]byte, 100)))
	}
	s.AbortSub(1, 2)
	s.AbortSub(1, 3)
	s.AbortSub(1, 1)
	for i := range uint32(3) {
		if sub, raw, err := r.Next(); err != nil || sub != 1+i || !bytes.Equal(raw, bytes.Repeat([]byte{byte(i)}, 2000-900*int(i))) {
			t.Errorf("%d, %d bytes: %v", sub, len(raw), err)
		}
	}
	for range 2 {
		if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	must(t, r.Close())
	must(t, r.Close())
	if _, _, err := r.Next(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a closed reader says %v", err)
	}
	if r, err := s.Transaction(1); r != nil || err != nil {
		t.Errorf("an aborted transaction has a reader: %v", err)
	}
	if st := s.Stats(); st.Transactions != 1 || st.Oldest != 2 || st.Dropped != 1 {
		t.Errorf("%+v", st)
	}
	// A subtransaction aborted while it was read is gone for the next reader.
	for sub, raw := range []string{"a", "b", "c", "d"} {
		must(t, s.Append(3, 3+uint32(sub), []byte(raw)))
	}
	s.AbortSub(3, 5)
	r, err = s.Transaction(3)
	must(t, err)
	s.AbortSub(3, 4)
	s.AbortSub(3, 6)
	for _, want := range []string{"a", "b", "d"} {
		if _, raw, err := r.Next(); err != nil || string(raw) != want {
			t.Errorf("%q, expected %q: %v", raw, want, err)
		}
	}
	must(t, r.Close())
	if err := s.Append(3, 4, nil); err == nil {
		t.Error("an aborted subtransaction wrote")
	}
	if got, _, err := read(s, 3); err != nil || !same(got, []record{{3, []byte("a")}}) {
		t.Errorf("%v %v", got, err)
	}
}

// TestMemoryForAbortsIsBounded: nobody sends such histories, but nothing grows without a bound.
func TestMemoryForAbortsIsBounded(t *testing.T) {
	s := open(t, Options{Memory: 1000})
	must(t, s.Append(1, 2, nil))
	for i := range uint32(200) {
		must(t, s.Append(1, 10+2*i, nil))
	}
	must(t, s.Append(1, 10_000, nil))
	for i := range uint32(200) {
		s.AbortSub(1, 10+2*i)
	}
	full, ok := errors.AsType[*Full](s.Append(1, 3, nil))
	if !ok || !full.Memory || full.Used != 1600 || full.Limit != 1000 || !strings.Contains(full.Error(), "memory") {
		t.Fatalf("%+v", full)
	}
	s.AbortSub(1, 10_000)
	must(t, s.Append(1, 3, nil))
	must(t, s.Drop(1))
}

func TestOpenWipesOnlyItsOwn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "spool")
	s, err := Open(Options{Dir: dir, Memory: 100})
	must(t, err)
	must(t, s.Append(1, 1, make([]byte, 1000)))
	must(t, s.Append(2, 2, make([]byte, 1000)))
	foreign := []string{"spool-1-2.seg.bak", "spool-01-2.seg", "spool-x-1.seg", "notes"}
	for _, name := range foreign {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	for _, h := range slices.Clone(s.holders) {
		s.release(h) // as the end of the process would
	}
	s, err = Open(Options{Dir: dir})
	must(t, err)
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(foreign)
	if !slices.Equal(names, foreign) {
		t.Errorf("left are %v", names)
	}
	must(t, s.Close())
	if err := s.Append(1, 1, nil); err == nil {
		t.Error("a closed spool takes records")
	}
	if _, err := s.Transaction(1); err == nil {
		t.Error("a closed spool gives records")
	}
	for _, o := range []Options{{}, {Dir: dir, Bytes: -1}, {Dir: dir, Memory: -1}, {Dir: filepath.Join(dir, "notes", "x")}} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v was opened", o)
		}
	}
}

// TestAbortedSet against a plain map, and that it has as few spans as can be.
func TestAbortedSet(t *testing.T) {
	r := testkit.Seed(t)
	for range 300 {
		var a aborted
		model := map[uint32]bool{}
		base := []uint32{0, 1<<32 - 40}[r.IntN(2)]
		for range 60 {
			id := base + r.Uint32N(40)
			if r.IntN(10) == 0 {
				a = a.upTo(id)
				for m := range model {
					if m > id {
						delete(model, m)
					}
				}
			} else {
				a = a.add(id)
				model[id] = true
			}
			for i := range uint32(40) {
				if a.has(base+i) != model[base+i] {
					t.Fatalf("%v has %d: %v", a, base+i, a.has(base+i))
				}
			}
			for i := range len(a) - 1 {
				if uint64(a[i].last)+1 >= uint64(a[i+1].first) {
					t.Fatalf("%v has spans that touch", a)
				}
			}
		}
	}
}

// TestHandlesInUseStayOpen: the one that was not used for longest goes.
func TestHandlesInUseStayOpen(t *testing.T) {
	f := &faulty{}
	s := open(t, Options{Memory: 100, handles: 2, files: f})
	raw := make([]byte, 200)
	for xid := range uint32(50) { // one is written to all the time, the others once
		must(t, s.Append(1000, 1000, raw))
		must(t, s.Append(1+xid, 1+xid, raw))
	}
	if n := len(f.ops) - len(slices.DeleteFunc(slices.Clone(f.ops), func(op string) bool { return op == "open" })); n != 0 {
		t.Errorf("a file in use was opened again %d times", n)
	}
}
