package store

import (
	"context"
	"errors"
	"iter"
	"sync"
)

// The errors of a Faulty store.
var (
	ErrInjected = errors.New("injected fault")
	ErrCrashed  = errors.New("injected crash: the process is gone")
)

// FaultMode is what a Faulty store does at its operation.
type FaultMode int

// The modes. After a crash every further operation fails too. The modes with "After" do the work and
// then deny it: the answer was lost on its way.
const (
	FailBefore FaultMode = iota
	FailAfter
	CrashBefore
	CrashAfter
)

// FaultModes are all modes, for tests that walk them.
func FaultModes() []FaultMode { return []FaultMode{FailBefore, FailAfter, CrashBefore, CrashAfter} }

// Faulty is a Store that fails or "crashes" at its At-th operation (from 1; 0: never). A List counts
// as one operation. It is for tests of what stands on a store.
type Faulty struct {
	Store Store
	At    int
	Mode  FaultMode

	mu   sync.Mutex
	ops  []string
	dead bool
}

// Operations gives what was asked so far, as "put name", in order.
func (f *Faulty) Operations() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.ops...)
}

// do runs one operation, or not.
func (f *Faulty) do(op, name string, work func() error) error {
	f.mu.Lock()
	if f.dead {
		f.mu.Unlock()
		return ErrCrashed
	}
	f.ops = append(f.ops, op+" "+name)
	hit := len(f.ops) == f.At
	crash := hit && (f.Mode == CrashBefore || f.Mode == CrashAfter)
	f.dead = crash
	f.mu.Unlock()
	if !hit {
		return work()
	}
	if f.Mode == FailAfter || f.Mode == CrashAfter {
		_ = work() // whatever it says is lost
	}
	if crash {
		return ErrCrashed
	}
	return ErrInjected
}

// Put is Store.Put.
func (f *Faulty) Put(ctx context.Context, name string, data []byte) error {
	return f.do("put", name, func() error { return f.Store.Put(ctx, name, data) })
}

// PutIfAbsent is Store.PutIfAbsent.
func (f *Faulty) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	return f.do("create", name, func() error { return f.Store.PutIfAbsent(ctx, name, data) })
}

// PutFile is Store.PutFile.
func (f *Faulty) PutFile(ctx context.Context, name, localPath string) error {
	return f.do("putfile", name, func() error { return f.Store.PutFile(ctx, name, localPath) })
}

// Get is Store.Get.
func (f *Faulty) Get(ctx context.Context, name string) (b []byte, err error) {
	err = f.do("get", name, func() error { b, err = f.Store.Get(ctx, name); return err })
	return b, err
}

// GetRange is Store.GetRange.
func (f *Faulty) GetRange(ctx context.Context, name string, offset, length int64) (b []byte, err error) {
	err = f.do("range", name, func() error { b, err = f.Store.GetRange(ctx, name, offset, length); return err })
	return b, err
}

// List is Store.List.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := f.do("list", prefix, func() error { return nil }); err != nil {
			yield(Info{}, err)
			return
		}
		f.Store.List(ctx, prefix)(yield)
	}
}

// Delete is Store.Delete.
func (f *Faulty) Delete(ctx context.Context, name string) error {
	return f.do("delete", name, func() error { return f.Store.Delete(ctx, name) })
}

// Stat is Store.Stat.
func (f *Faulty) Stat(ctx context.Context, name string) (i Info, err error) {
	err = f.do("stat", name, func() error { i, err = f.Store.Stat(ctx, name); return err })
	return i, err
}
