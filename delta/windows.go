package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/feature"
)

// What windows come to lies behind the served row of an entity that has rows, so that reading that one value is enough
// to go on; the lifetime tile follows. Only levels have it whose tiles can be subtracted from a total, and not
// sessions: the tiles of others are read in any case.
//
//	+---------+----------+----------------------------------------------------------------+
//	| length  | log time | per such level: runs uvarint · per run: hops since the end of  |
//	| uvarint | 8 B      | the run before (the first: since 1970) varint, tiles uvarint   |
//	|         |          | · totals 1 B · if 1, per window: length uvarint · tile         |
//	+---------+----------+----------------------------------------------------------------+
//
// length is of what follows it, 0 where there is no such level. Tiles are those that have rows, none that left all
// windows; windows are as of the log time. totals is 0 where the view stood still since a row came.

var errWindows = errors.New("served row: its windows are not what is written")

// appendWindows appends what an entity has of its windows.
func (f *fold) appendWindows(b []byte, e *entity) []byte {
	if !e.view.resumes {
		return append(b, 0)
	}
	w := binary.BigEndian.AppendUint64(f.span[:0], uint64(e.at))
	for i := range e.spans {
		l, s := &e.view.levels[i+1], &e.spans[i]
		if l.resumes {
			w = s.append(w, l, &f.tile)
		}
	}
	f.span = w
	b = binary.AppendUvarint(b, uint64(len(w)))
	return append(b, w...)
}

// append appends one level; of starts those that windows may still reach are in it.
func (s *span) append(b []byte, l *level, buf *[]byte) []byte {
	runs := 0
	for i, start := range s.starts {
		if i == 0 || start != s.starts[i-1]+l.hop {
			runs++
		}
	}
	b = binary.AppendUvarint(b, uint64(runs))
	last := int64(0)
	for i := 0; i < len(s.starts); {
		first, n := s.starts[i], 1
		for i+n < len(s.starts) && s.starts[i+n] == first+int64(n)*l.hop {
			n++
		}
		b = binary.AppendVarint(b, (first-last)/l.hop)
		b = binary.AppendUvarint(b, uint64(n))
		last = first + int64(n)*l.hop
		i += n
	}
	if !s.valid {
		return append(b, 0)
	}
	b = append(b, 1)
	for j := range s.totals {
		*buf = s.totals[j].Append((*buf)[:0], l.ops)
		b = binary.AppendUvarint(b, uint64(len(*buf)))
		b = append(b, *buf...)
	}
	return b
}

// cutWindows takes the windows off what follows a served row.
func cutWindows(b []byte) (windows, life []byte, err error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, fmt.Errorf("served row: %w", feature.ErrTruncated)
	}
	b = b[size:]
	return b[:n], b[n:], nil
}

// decodeWindows reads the levels that are stored with the row; others are left alone.
func (e *entity) decodeWindows(b []byte) error {
	if !e.view.resumes {
		if len(b) > 0 {
			return errWindows
		}
		return nil
	}
	if len(b) < 8 {
		return fmt.Errorf("served row: %w", feature.ErrTruncated)
	}
	e.at, b = int64(binary.BigEndian.Uint64(b)), b[8:]
	for i := range e.spans {
		l := &e.view.levels[i+1]
		if !l.resumes {
			continue
		}
		s := &e.spans[i]
		s.empty(l, e.at)
		var err error
		if b, err = s.decode(b, l); err != nil {
			return err
		}
	}
	if len(b) > 0 {
		return errWindows
	}
	return nil
}

func (s *span) decode(b []byte, l *level) ([]byte, error) {
	number := func() (n uint64, err error) {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return 0, fmt.Errorf("served row: %w", feature.ErrTruncated)
		}
		b = b[size:]
		return n, nil
	}
	runs, err := number()
	if err != nil {
		return nil, err
	}
	last := int64(0)
	for range runs {
		gap, size := binary.Varint(b)
		if size <= 0 {
			return nil, fmt.Errorf("served row: %w", feature.ErrTruncated)
		}
		b = b[size:]
		n, err := number()
		if err != nil {
			return nil, err
		}
		first := last + gap*l.hop
		if n == 0 || n > maxTiles || len(s.starts) > 0 && gap <= 0 {
			return nil, errWindows
		}
		s.starts = slices.Grow(s.starts, int(n))
		for k := range int64(n) {
			s.starts = append(s.starts, first+k*l.hop)
		}
		last = first + int64(n)*l.hop
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("served row: %w", feature.ErrTruncated)
	}
	s.valid = b[0] == 1
	if b = b[1:]; !s.valid {
		return b, nil
	}
	for j := range s.totals {
		n, err := number()
		if err != nil {
			return nil, err
		}
		if n > uint64(len(b)) {
			return nil, fmt.Errorf("served row: %w", feature.ErrTruncated)
		}
		if err := s.totals[j].DecodeFrom(l.ops, b[:n]); err != nil {
			return nil, fmt.Errorf("%w", err)
		}
		b = b[n:]
	}
	return b, nil
}

// maxTiles is more than the windows of any level have tiles: 700 days of a day's hop, and rows that are to come.
const maxTiles = 1 << 20

// empty makes it the level of no rows as of a log time.
func (s *span) empty(l *level, now int64) {
	n, k := len(l.windows), len(l.ops)
	*s = span{totals: make([]aggregate.Tile, n), froms: make([]int64, n), valid: true}
	accs := make([]aggregate.Acc, n*k)
	for j := range s.totals {
		s.totals[j].Accs = accs[j*k : (j+1)*k : (j+1)*k]
	}
	s.bounds(l, now)
	s.low = s.froms[n-1]
}

// search gives where a start is among those that have rows, or would be.
func (s *span) search(start int64) int {
	n := len(s.starts)
	if n == 0 || s.starts[n-1] < start { // most often behind the last
		return n
	}
	if s.starts[n-1] == start {
		return n - 1
	}
	at, _ := slices.BinarySearch(s.starts, start)
	return at
}

// has tells whether a tile is known to have rows.
func (s *span) has(start int64) bool {
	at := s.search(start)
	return at < len(s.starts) && s.starts[at] == start
}

// mark notes whether a tile has rows.
func (f *fold) mark(e *entity, s *span, r *ref) {
	at := s.search(r.start)
	has := at < len(s.starts) && s.starts[at] == r.start
	switch {
	case r.tile.Rows > 0 && !has:
		s.starts = slices.Insert(s.starts, at, r.start)
		f.resize(e, 8)
	case r.tile.Rows == 0 && has:
		s.starts = slices.Delete(s.starts, at, at+1)
		f.resize(e, -8)
	default: // it is as noted
	}
}
