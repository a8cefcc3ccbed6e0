package state

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

// Cursor reads many keys of the store, as it was at the first read since the last Renew. It costs less than the
// store itself, which finds its way to a file anew for each key, and, while the cache has room for them, it looks at the
// filters of the last level too: a key that is in no file is most often told without reading a block. It is not for
// concurrent use. What it sees is kept until Renew.
type Cursor struct {
	store  *Store
	points *pebble.Iterator // nil: not asked yet
	spans  *pebble.Iterator // the same
	busy   bool             // spans is in a scan
	opened int
	last   bool // filters of the last level are looked at
}

// Cursor makes one.
func (s *Store) Cursor() *Cursor { return &Cursor{store: s} }

// Get implements Reader.
func (c *Cursor) Get(key []byte) ([]byte, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	if !c.points.SeekPrefixGE(key) {
		return nil, wrap(c.points.Error())
	}
	v, err := c.points.ValueAndErr()
	if err != nil {
		return nil, wrap(err)
	}
	return append(make([]byte, 0, len(v)), v...), nil
}

func (c *Cursor) open() (err error) {
	if c.points == nil {
		if c.opened%judged == 0 {
			c.last = c.store.filtersFit()
		}
		c.opened++
		c.points, err = c.store.db.NewIter(&pebble.IterOptions{UseL6Filters: c.last})
	}
	return wrap(err)
}

const (
	judged = 64 // once in so many views it is judged whether the filters fit
	fits   = 40 // times its share of the cache a store may be so that they do
)

// filtersFit tells whether the cache holds the filters of the last level. One is read whole for a key, half a megabyte
// where a block is 4 KB: of 3 M keys of 107 bytes, 4 MB of filters, one that is new took 60 bytes of the disk with 8 MB
// for blocks, 7 KB with 4 MB, 47 KB with 2 MB and 93 KB with 1 MB; without those of the last level 3, 3, 5 and 22 KB. A filter has
// 1.25 bytes of a key, and half of the cache is blocks.
func (s *Store) filtersFit() bool {
	m := s.db.Metrics()
	size := int64(0)
	for i := range m.Levels {
		size += m.Levels[i].TablesSize
	}
	return size <= fits*s.cache.c.MaxSize()/max(1, s.cache.stores.Load())
}

// between gives an iterator over the keys in [from, to), and what ends its use.
func (c *Cursor) between(from, to []byte) (*pebble.Iterator, func() error, error) {
	if err := c.open(); err != nil {
		return nil, nil, err
	}
	opts := &pebble.IterOptions{LowerBound: from, UpperBound: to}
	if c.busy {
		it, err := c.points.Clone(pebble.CloneOptions{IterOptions: opts})
		if err != nil {
			return nil, nil, wrap(err)
		}
		return it, it.Close, nil
	}
	if c.spans == nil {
		it, err := c.points.Clone(pebble.CloneOptions{IterOptions: opts})
		if err != nil {
			return nil, nil, wrap(err)
		}
		c.spans = it
	} else {
		c.spans.SetBounds(from, to)
	}
	c.busy = true
	return c.spans, func() error {
		c.busy = false
		return c.spans.Error()
	}, nil
}

// Scan implements Reader; f may read by the cursor too.
func (c *Cursor) Scan(from, to []byte, f func(key, value []byte) bool) error {
	it, done, err := c.between(from, to)
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return wrap(errors.Join(err, done()))
		}
		if !f(it.Key(), v) {
			break
		}
	}
	return wrap(errors.Join(it.Error(), done()))
}

// Last implements Reader.
func (c *Cursor) Last(from, to []byte) ([]byte, error) {
	it, done, err := c.between(from, to)
	if err != nil {
		return nil, err
	}
	var key []byte
	if it.Last() {
		key = append(key, it.Key()...)
	}
	return key, wrap(errors.Join(it.Error(), done()))
}

// Renew gives the view up; the next read takes a new one.
func (c *Cursor) Renew() error {
	var err error
	if c.spans != nil {
		err = c.spans.Close()
	}
	if c.points != nil {
		err = errors.Join(err, c.points.Close())
	}
	c.points, c.spans = nil, nil
	return wrap(err)
}
