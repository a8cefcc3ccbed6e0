package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
)

// Lock is the exclusive hold of one directory. The kernel drops it when the process ends, however it
// ends, so a lock is never left behind.
type Lock struct{ file *os.File }

// LockDir creates dir if it is not there and takes it for this process. A directory that another
// process has, or another part of this one, is a fault that names the process.
func LockDir(dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot make the data directory %s", dir).
			ToMend("choose another data_dir, or make this one writable")
	}
	path := filepath.Join(dir, "LOCK")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot lock the data directory %s", dir).
			ToMend("choose another data_dir, or make this one writable")
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := holderOf(f)
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fault.New(fault.Failed, "data directory %s is in use by %s", dir, holder).
				ToMend("stop it, or use another data_dir")
		}
		return nil, fault.Wrap(fault.Failed, err, "cannot lock the data directory %s", dir).
			ToMend("put data_dir on a local file system")
	}
	if err := writeHolder(f); err != nil {
		_ = f.Close()
		return nil, fault.Wrap(fault.Failed, err, "cannot write %s", path)
	}
	return &Lock{file: f}, nil
}

// Close gives the directory back. The file stays: to remove it would let two processes hold two files
// of one name.
func (l *Lock) Close() error {
	if l == nil || l.file == nil {
		return nil
	}
	err := errors.Join(l.file.Truncate(0), l.file.Close())
	l.file = nil
	if err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

// holderOf says who has the lock, as far as its file tells.
func holderOf(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	if pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n]))); err == nil {
		return fmt.Sprintf("process %d", pid)
	}
	return "another process"
}

func writeHolder(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// flock is flock(2), begun again when a signal interrupts it.
func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err //nolint:wrapcheck // flock(2)'s own, as callers compare it
		}
	}
}

// lockWait takes an exclusive lock on path and waits for its holder as long as ctx allows. The file's
// descriptor is not inherited by children, so none of them keeps it.
func lockWait(ctx context.Context, path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, 50*time.Millisecond, func() (bool, error) {
		err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		holder := holderOf(f)
		_ = f.Close()
		return nil, fmt.Errorf("wait for %s, held by %s: %w", path, holder, err)
	}
	if err := writeHolder(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &Lock{file: f}, nil
}

// poll asks until the answer is yes, an error, or ctx ends: for what tells nobody when it happens
// (another process' lock or end).
func poll(ctx context.Context, every time.Duration, ask func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
