package state

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

// Cursor reads many keys of the store, as it was at the first read since the last Renew. It costs less than the
// store itself, which finds its way to a file anew for each key, and it looks at the filters of the last level too:
// a key that is in no file is most often told without reading a block. It is not for concurrent use. What it sees
// is kept until Renew.
type Cursor struct {
	db     *pebble.DB
	points *pebble.Iterator // nil: not asked yet
	spans  *pebble.Iterator // the same
	busy   bool             // spans is in a scan
}

// Cursor makes one.
func (s *Store) Cursor() *Cursor { return &Cursor{db: s.db} }

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
		c.points, err = c.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
	}
	return wrap(err)
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
