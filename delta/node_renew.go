package delta

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/freshet-io/freshet/delta/checkpoint"
	"github.com/freshet-io/freshet/internal/fault"
)

// lookupsEnd is how long a state that was replaced stays open: who looks something up in it, or reads a cut of it, has
// it without a lock, and is done long before.
const lookupsEnd = 10 * time.Minute

// retired is a state that was replaced by a newer one.
type retired struct {
	p     *Partition
	dir   string
	since time.Time
}

// fit has the state open, and such that the log can go on from it, and lets the group's reader fold on. A state that
// was nobody's concern for a while is open and stands still, and what it would have to fold next may be deleted.
func (s *slot) fit(ctx context.Context) error {
	s.n.mu.Lock()
	fits := s.fits
	s.n.mu.Unlock()
	switch {
	case fits:
		return nil
	case s.opened() == nil:
		if err := s.open(ctx); err != nil {
			return err
		}
	case s.copies != nil:
		log, err := s.log(ctx, s.n.input(s.group.Name))
		if err != nil {
			return err
		}
		if s.position() < log.Start && s.copied(ctx) {
			if err := s.renew(ctx); err != nil {
				return err
			}
		}
	}
	if err := s.refold(ctx); err != nil {
		return err
	}
	s.n.mu.Lock()
	s.fits = s.want != none
	s.n.mu.Unlock()
	s.n.reread()
	return nil
}

// copied tells whether there may be a checkpoint.
func (s *slot) copied(ctx context.Context) bool {
	s.copying.Lock()
	defer s.copying.Unlock()
	_, err := s.copies.Newest(ctx)
	return !errors.Is(err, checkpoint.ErrNone)
}

// renew fetches a newer state into a directory of its own.
func (s *slot) renew(ctx context.Context) error {
	s.copying.Lock()
	defer s.copying.Unlock()
	s.mu.Lock()
	old := s.p.Swap(nil)
	s.mu.Unlock()
	s.retired = append(s.retired, retired{old, s.dir(), s.n.o.Now()})
	s.renewed.Add(1)
	s.copies = s.newCopies() // the hashes that it knows are of the old files
	return s.open(ctx)
}

// closeRetired closes and removes what was replaced longer ago than that.
func (s *slot) closeRetired(age time.Duration) error {
	var errs []error
	var keep []retired
	for _, r := range s.retired {
		if age > 0 && s.n.o.Now().Sub(r.since) < age {
			keep = append(keep, r)
			continue
		}
		errs = append(errs, r.p.Close(), os.RemoveAll(r.dir), os.RemoveAll(r.dir+".json"))
	}
	s.retired = keep
	return errors.Join(errs...)
}

func (s *slot) dirOf(renewed int) string {
	dir := filepath.Join(s.n.o.Dir, s.group.Log(), fmt.Sprintf("p%04d", s.number))
	if renewed > 0 {
		dir += "." + strconv.Itoa(renewed)
	}
	return dir
}

// newest finds the newest of the partition's directories, and removes the others, which a process has left that was
// killed. A directory that was fetched is there when it is whole.
func (s *slot) newest() int {
	found, all := 0, []int{0}
	names, err := filepath.Glob(s.dirOf(0) + ".*")
	if err != nil {
		return 0
	}
	for _, name := range names {
		n, err := strconv.Atoi(strings.TrimPrefix(name, s.dirOf(0)+"."))
		if err == nil && n > 0 {
			found, all = max(found, n), append(all, n)
		}
	}
	for _, n := range all {
		if n < found {
			_ = errors.Join(os.RemoveAll(s.dirOf(n)), os.RemoveAll(s.dirOf(n)+".json")) // the next start tries again
		}
	}
	return found
}

// sweep closes what nobody reads any more.
func (s *slot) sweep() error {
	s.copying.Lock()
	defer s.copying.Unlock()
	if err := s.closeRetired(lookupsEnd); err != nil {
		return fault.Wrap(fault.Failed, err, "closing an old state of %s/%d", s.group.Name, s.number)
	}
	return nil
}
