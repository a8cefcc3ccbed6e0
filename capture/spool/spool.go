package spool

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/freshet-io/freshet/internal/fault"
)

const (
	defaultBytes   = 8 << 30
	defaultMemory  = 8 << 20
	blockBytes     = 64 << 10
	segmentBytes   = 128 << 20
	defaultHandles = 64
	leastBuffer    = 512
)

// Options say where a spool lies and how large it may become. Only Dir is required.
type Options struct {
	Dir    string
	Bytes  int64 // of all transactions together, on disk or on their way there; 0: 8 GiB
	Memory int   // bytes of all write buffers together, and of all that is remembered of aborts; 0: 8 MiB

	files   files // the tests' own
	segment int64
	handles int
}

func (o *Options) defaults() {
	o.Bytes = cmp.Or(o.Bytes, defaultBytes)
	o.Memory = cmp.Or(o.Memory, defaultMemory)
	o.segment = cmp.Or(o.segment, segmentBytes)
	o.handles = cmp.Or(o.handles, defaultHandles)
	if o.files == nil {
		o.files = osFiles{}
	}
}

// Full says that a record would take the spool beyond its bound. Nothing of it was written; there is
// room again when a transaction is dropped.
type Full struct {
	Dir         string
	XID         uint32 // whose record it was
	Used, Limit int64  // bytes
	Memory      bool   // the bound is that of memory for aborted subtransactions, not that of disk
}

// Error says which bound it is.
func (f *Full) Error() string {
	what := "bytes"
	if f.Memory {
		what = "bytes of memory for aborted subtransactions"
	}
	return fmt.Sprintf("%d of %d %s are taken", f.Used, f.Limit, what)
}

// Stats is what a spool holds and has done.
type Stats struct {
	Disk         int64  // bytes in files
	Buffered     int64  // bytes in memory that count for the bound as well
	Memory       int64  // bytes of write buffers
	Transactions int    // that are held now
	Oldest       uint32 // the transaction held for longest; 0: none
	Appended     int64  // records, ever
	Dropped      int64  // transactions dropped or aborted, ever
}

// Spool holds the records of transactions in progress. All but Stats is for one goroutine.
type Spool struct {
	o       Options
	txs     map[uint32]*transaction
	order   []*transaction // by age; those that are gone are taken out now and then
	serial  uint64
	tick    uint64
	holders []*transaction // with open files
	orphans []orphan
	aborts  int // bytes of all aborted sets
	buffers int // bytes of all write buffers
	closed  bool

	disk, buffered, memory, transactions, appended, dropped atomic.Int64
	oldest                                                  atomic.Uint32
}

// Open makes the directory, if it is not there, and removes what an earlier spool left in it. Other
// files stay. One process at a time may use a directory.
func Open(o Options) (*Spool, error) {
	o.defaults()
	if o.Dir == "" || o.Bytes < 0 || o.Memory < 0 {
		return nil, fault.New(fault.Usage, "the spool needs a directory and bounds that are not negative").At("%s", o.Dir)
	}
	s := &Spool{o: o, txs: map[uint32]*transaction{}}
	err := o.files.mkdir(o.Dir)
	var names []string
	if err == nil {
		names, err = o.files.list(o.Dir)
	}
	for _, name := range names {
		if err == nil && ours(name) {
			err = o.files.remove(filepath.Join(o.Dir, name))
		}
	}
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "the spool of transactions in progress cannot be prepared").At("%s", o.Dir).
			ToMend("make %s a directory that this user may write in, or choose another data_dir", o.Dir)
	}
	return s, nil
}

// unwritable explains an error of the disk.
func (s *Spool) unwritable(xid uint32, err error) error {
	f := fault.Wrap(fault.Failed, err, "transaction %d, in progress, cannot be written to the spool", xid).At("%s", s.o.Dir)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return f.ToMend("free disk space where %s lies: transactions in progress may take up to %d bytes there. Nothing is lost, the server keeps them until they are confirmed",
			s.o.Dir, s.o.Bytes)
	}
	return f.ToMend("make %s writable, or choose another data_dir, and start again. Nothing is lost, the server sends what was not confirmed", s.o.Dir)
}

func (s *Spool) full(xid uint32, memory bool) error {
	f := &Full{Dir: s.o.Dir, XID: xid, Used: s.disk.Load() + s.buffered.Load(), Limit: s.o.Bytes, Memory: memory}
	if memory {
		f.Used, f.Limit = int64(s.aborts), int64(s.o.Memory)
	}
	return fault.Wrap(fault.Failed, f, "the spool of transactions in progress is full").At("%s", s.o.Dir).
		ToMend("wait until transactions end, end them (the oldest is %d: select * from pg_stat_activity where backend_xid = '%d'), or give the spool more",
			s.oldest.Load(), s.oldest.Load())
}

// Append adds a record that subtransaction sub of transaction xid wrote; sub is xid itself outside of
// any subtransaction. raw is copied. At the bound the error is a [Full]; whatever the error, nothing of
// the record was added and the same Append can be tried again.
func (s *Spool) Append(xid, sub uint32, raw []byte) error {
	if s.closed {
		return fault.New(fault.Failed, "the spool is closed").At("%s", s.o.Dir)
	}
	t, known := s.txs[xid]
	if !known {
		t = s.begin(xid)
	}
	if err := s.append(t, sub, raw); err != nil {
		if !known {
			_ = s.forget(t)
		}
		return err
	}
	s.appended.Add(1)
	if !known {
		s.publish()
	}
	return nil
}

func (s *Spool) append(t *transaction, sub uint32, raw []byte) error {
	switch {
	case t.readers > 0:
		return fault.New(fault.Failed, "transaction %d is being read from the spool and cannot grow", t.xid).At("%s", s.o.Dir)
	case len(raw) > math.MaxInt32:
		return fault.New(fault.Failed, "a record of %d bytes is longer than PostgreSQL sends", len(raw)).At("transaction %d", t.xid)
	case s.aborts > s.o.Memory:
		return s.full(t.xid, true)
	case t.aborted.has(sub - t.xid):
		return fault.New(fault.Failed, "subtransaction %d writes after it was aborted", sub).At("transaction %d", t.xid)
	}
	need := lengthBytes + len(raw)
	block := min(blockBytes, s.o.Memory)
	if need+headerBytes > block {
		if err := s.fits(t, need+headerBytes); err != nil {
			return err
		}
		if err := s.flush(t); err != nil {
			return err
		}
		return s.direct(t, sub, raw)
	}
	if err := s.fits(t, s.cost(t, sub, need)); err != nil {
		return err
	}
	if len(t.buf)+s.cost(t, sub, need) > block {
		if err := s.flush(t); err != nil {
			return err
		}
	}
	if err := s.room(t, len(t.buf)+s.cost(t, sub, need), block); err != nil {
		return err
	}
	// Making room may have ended the open run, so that the record needs a header now.
	cost := s.cost(t, sub, need)
	if err := s.fits(t, cost); err != nil {
		return err
	}
	t.add(sub, raw, cost > need)
	s.buffered.Add(int64(cost))
	return nil
}

// cost is what a record of so many bytes takes: with a header, if it begins a run.
func (s *Spool) cost(t *transaction, sub uint32, need int) int {
	if t.open && t.tail.sub == sub {
		return need
	}
	return need + headerBytes
}

// fits checks the bound.
func (s *Spool) fits(t *transaction, cost int) error {
	if s.disk.Load()+s.buffered.Load()+int64(cost) > s.o.Bytes {
		return s.full(t.xid, false)
	}
	return nil
}

// room makes t's buffer large enough. If the buffers together became too large by that, those that
// are not small are written to disk and given up.
func (s *Spool) room(t *transaction, size, block int) error {
	if size <= cap(t.buf) {
		return nil
	}
	next := min(max(size, 2*cap(t.buf), leastBuffer), block)
	for s.buffers-cap(t.buf)+next > s.o.Memory && s.buffers > 0 {
		if err := s.relieve(); err != nil {
			return err
		}
		next = min(max(size, leastBuffer), block)
	}
	s.buffers += next - cap(t.buf)
	s.memory.Store(int64(s.buffers))
	t.buf = append(make([]byte, 0, next), t.buf...)
	return nil
}

// relieve writes every buffer that is not smaller than the mean, which is at least one.
func (s *Spool) relieve() error {
	n := 0
	for _, t := range s.txs {
		if cap(t.buf) > 0 {
			n++
		}
	}
	mean := s.buffers / n
	for _, t := range s.txs {
		if cap(t.buf) == 0 || cap(t.buf) < mean {
			continue
		}
		if err := s.flush(t); err != nil {
			return err
		}
		s.give(t)
	}
	return nil
}

// give gives t's buffer up.
func (s *Spool) give(t *transaction) {
	s.buffers -= cap(t.buf)
	s.memory.Store(int64(s.buffers))
	t.buf = nil
}

func (s *Spool) begin(xid uint32) *transaction {
	s.serial++
	t := &transaction{xid: xid, serial: s.serial}
	s.txs[xid] = t
	s.order = append(s.order, t)
	return t
}

// forget lets go of a transaction and frees what it has.
func (s *Spool) forget(t *transaction) error {
	s.release(t)
	s.buffered.Add(-int64(len(t.buf)))
	s.give(t)
	s.aborts -= len(t.aborted) * rangeBytes
	t.gone = true
	delete(s.txs, t.xid)
	s.publish()
	return s.remove(s.orphaned(t, 0))
}

// publish brings the figures up to date that follow from which transactions there are.
func (s *Spool) publish() {
	for len(s.order) > 0 && s.order[0].gone {
		s.order = s.order[1:]
	}
	if len(s.order) > 2*len(s.txs)+16 {
		rest := make([]*transaction, 0, len(s.txs))
		for _, t := range s.order {
			if !t.gone {
				rest = append(rest, t)
			}
		}
		s.order = rest
	}
	s.transactions.Store(int64(len(s.txs)))
	s.oldest.Store(0)
	if len(s.order) > 0 {
		s.oldest.Store(s.order[0].xid)
	}
}

// AbortSub drops what subtransaction sub of transaction xid wrote, not what its children did, and the
// whole transaction if sub is xid. What is not there is dropped already. A [Reader] that is open goes
// on as if nothing had happened.
func (s *Spool) AbortSub(xid, sub uint32) {
	t, ok := s.txs[xid]
	switch {
	case !ok:
	case t.readers > 0 && sub == xid:
		t.doomed = true
	case sub == xid:
		s.dropped.Add(1)
		_ = s.forget(t) // files that could not be removed are tried again with the next ones
	case !t.empty():
		before := len(t.aborted)
		t.aborted = t.aborted.add(sub - xid)
		if t.readers == 0 {
			s.cut(t)
		}
		s.aborts += (len(t.aborted) - before) * rangeBytes
	}
}

// Drop forgets a transaction and frees its disk. One that is not there is dropped already; one that a
// Reader is open on is an error. If a file can't be removed that is an error too, but the transaction
// is gone; removing is tried again by the next Drop, AbortSub or Close.
func (s *Spool) Drop(xid uint32) error {
	t, ok := s.txs[xid]
	if ok && t.readers > 0 {
		return fault.New(fault.Failed, "transaction %d is being read from the spool and cannot be dropped", xid).At("%s", s.o.Dir)
	}
	remove := func() error { return s.remove(nil) }
	if ok {
		s.dropped.Add(1)
		remove = func() error { return s.forget(t) }
	}
	if err := remove(); err != nil {
		return fault.Wrap(fault.Failed, err, "the spool's files of transaction %d cannot be removed", xid).At("%s", s.o.Dir).
			ToMend("let this user remove files in %s", s.o.Dir)
	}
	return nil
}

// Stats gives the figures of now; for any goroutine.
func (s *Spool) Stats() Stats {
	return Stats{
		Disk: s.disk.Load(), Buffered: s.buffered.Load(), Memory: s.memory.Load(), Transactions: int(s.transactions.Load()),
		Oldest: s.oldest.Load(), Appended: s.appended.Load(), Dropped: s.dropped.Load(),
	}
}

// Close removes the files. Readers that are still open must not be used any more.
func (s *Spool) Close() error {
	s.closed = true
	var errs []error
	for _, t := range s.txs {
		errs = append(errs, s.forget(t))
	}
	// What forget could not remove it has tried again with every later transaction.
	if errors.Join(errs...) != nil {
		if err := s.remove(nil); err != nil {
			return fault.Wrap(fault.Failed, err, "the spool's files cannot be removed").At("%s", s.o.Dir).
				ToMend("let this user remove files in %s; the next start tries again", s.o.Dir)
		}
	}
	return nil
}
