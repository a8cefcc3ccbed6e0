package spool

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
)

// faulty is a disk whose operation number at fails, once, or for as long as stays says so. Writes may
// get half done before they fail.
type faulty struct {
	osFiles
	at, n int
	half  bool
	stays bool
	err   error
	ops   []string
}

func (f *faulty) fails(op string) bool {
	f.n++
	f.ops = append(f.ops, op)
	return f.n == f.at || (f.stays && f.at > 0 && f.n > f.at)
}

func (f *faulty) mkdir(dir string) error {
	if f.fails("mkdir") {
		return f.err
	}
	return f.osFiles.mkdir(dir)
}

func (f *faulty) list(dir string) ([]string, error) {
	if f.fails("list") {
		return nil, f.err
	}
	return f.osFiles.list(dir)
}

func (f *faulty) create(path string) (file, error) {
	if f.fails("create") {
		return nil, f.err
	}
	return f.wrap(f.osFiles.create(path))
}

func (f *faulty) open(path string, write bool) (file, error) {
	if f.fails("open") {
		return nil, f.err
	}
	return f.wrap(f.osFiles.open(path, write))
}

func (f *faulty) remove(path string) error {
	if f.fails("remove") {
		return f.err
	}
	return f.osFiles.remove(path)
}

func (f *faulty) wrap(file file, err error) (file, error) {
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f}, nil
}

type faultyFile struct {
	file
	f *faulty
}

func (f *faultyFile) WriteAt(b []byte, at int64) (int, error) {
	if f.f.fails("write") {
		n := 0
		if f.f.half {
			n, _ = f.file.WriteAt(b[:len(b)/2], at)
		}
		return n, f.f.err
	}
	return f.file.WriteAt(b, at)
}

func (f *faultyFile) ReadAt(b []byte, at int64) (int, error) {
	if f.f.fails("read") {
		return 0, f.f.err
	}
	return f.file.ReadAt(b, at)
}

func (f *faultyFile) Truncate(n int64) error {
	if f.f.fails("truncate") {
		return f.f.err
	}
	return f.file.Truncate(n)
}

func (f *faultyFile) Close() error {
	err := f.file.Close()
	if f.f.fails("close") {
		return f.f.err
	}
	return err
}

// script does everything a spool can on a disk, and whatever fails once more.
func script(t *testing.T, f *faulty) (failed error) {
	t.Helper()
	again := func(what func() error) {
		t.Helper()
		err := what()
		if err == nil {
			return
		}
		failed = err
		if fault.ClassOf(err) != fault.Failed || !errors.Is(err, f.err) {
			t.Errorf("operation %d, %s: %v", f.at, f.ops[f.at-1], err)
		}
		if err := what(); err != nil {
			t.Fatalf("operation %d, %s: not even the second time: %v", f.at, f.ops[f.at-1], err)
		}
	}
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/"+segmentName(1, 0), []byte("left behind"), 0o600))
	var s *Spool
	again(func() (err error) {
		s, err = Open(Options{Dir: dir, Memory: 300, files: f, segment: 500, handles: 1})
		return err
	})
	want := map[uint32][]record{}
	put := func(xid, sub uint32, n int) {
		t.Helper()
		raw := bytes.Repeat([]byte{byte(sub)}, n)
		again(func() error { return s.Append(xid, sub, raw) })
		want[xid] = append(want[xid], record{sub, raw})
	}
	for round := range uint32(3) {
		for xid := uint32(10); xid <= 20; xid += 10 {
			for _, n := range []int{50, 1000, 3, 3, 100, 100, 0, 400} {
				put(xid, xid, n)
			}
			mark := len(want[xid])
			for _, n := range []int{100, 120, 1000, 120, 600, 30} {
				put(xid, xid+1+round, n) // cut off across segments
			}
			s.AbortSub(xid, xid+1+round)
			want[xid] = want[xid][:mark]
		}
	}
	for xid := uint32(50); xid <= 70; xid += 10 { // cut off within a segment, and written over
		put(xid, xid, 320)
		put(xid, xid+1, 320)
		s.AbortSub(xid, xid+1)
		want[xid] = want[xid][:1]
		put(xid, xid, 310)
	}
	put(10, 15, 100) // skipped by the reader
	want[10] = want[10][:len(want[10])-1]
	put(10, 10, 700)
	s.AbortSub(10, 15)
	for xid, records := range want {
		again(func() error {
			got, known, err := read(s, xid)
			if err == nil && (!known || !same(got, records)) {
				t.Fatalf("operation %d, %s: transaction %d has %d records, expected %d", f.at, f.ops[min(f.at, f.n)-1], xid, len(got), len(records))
			}
			return err
		})
	}
	for _, xid := range []uint32{10, 50, 60, 70} {
		again(func() error { return s.Drop(xid) })
	}
	s.AbortSub(20, 20)
	put(30, 30, 1000) // an occasion to remove what resisted
	again(func() error { return s.Drop(30) })
	if st := s.Stats(); st.Disk != 0 || st.Buffered != 0 || st.Memory != 0 || st.Transactions != 0 || len(s.holders) != 0 {
		t.Errorf("operation %d: %+v, %d handles", f.at, st, len(s.holders))
	}
	put(40, 40, 1000)
	again(s.Close)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("operation %d, %s: left are %v, %v", f.at, f.ops[max(f.at, 1)-1], left, err)
	}
	return failed
}

// TestAFaultAtEachOperation: whatever the disk refuses once, nothing is lost, doubled, resurrected or
// left behind.
func TestAFaultAtEachOperation(t *testing.T) {
	clean := &faulty{}
	must(t, script(t, clean))
	seen := map[string]bool{}
	for _, half := range []bool{false, true} {
		for at := 1; at <= clean.n; at++ {
			f := &faulty{at: at, half: half, err: syscall.EIO}
			err := script(t, f)
			op := clean.ops[at-1]
			if err == nil && (op == "create" || op == "write" || op == "mkdir" || op == "list") {
				t.Errorf("nobody heard of the failure of operation %d, %s", at, op)
			}
			seen[op] = true
		}
	}
	if len(seen) != 9 {
		t.Errorf("only %v were seen of %d operations", seen, clean.n)
	}
	t.Logf("%d operations", clean.n)
}

// TestAFullDiskSaysWhatToDo, and is no reason to start again: the same record is taken when there is room.
func TestAFullDiskSaysWhatToDo(t *testing.T) {
	f := &faulty{err: &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}}
	s := open(t, Options{files: f})
	must(t, s.Append(1, 1, make([]byte, 60_000)))
	f.at, f.stays = f.n+1, true
	for range 3 {
		err := s.Append(1, 1, make([]byte, 60_000))
		if fault.ClassOf(err) != fault.Failed || !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		for _, part := range []string{s.o.Dir, "transaction 1", "free disk space", "8589934592", "Nothing is lost"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is missing: %v", part, err)
			}
		}
	}
	f.at, f.stays = 0, false
	must(t, s.Append(1, 1, make([]byte, 60_000)))
	if got, _, err := read(s, 1); err != nil || len(got) != 2 {
		t.Errorf("%d records: %v", len(got), err)
	}
}
