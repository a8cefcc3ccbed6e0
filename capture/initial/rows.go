package initial

import (
	"context"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/fault"
)

// Rows gives a chunk's rows one after another, for one goroutine:
//
//	for rows.Next() { use(rows.Tuple()) }
//	return rows.Err()
type Rows struct {
	next    func() ([]byte, error) // the next block of whole lines; nil at the end
	columns int
	rest    []byte
	tuple   pgwire.Tuple
	rows    int64
	err     error
}

// Next reads the next row and tells whether there was one.
func (r *Rows) Next() bool {
	for len(r.rest) == 0 {
		if r.err != nil {
			return false
		}
		if r.rest, r.err = r.next(); r.err != nil || r.rest == nil {
			return false
		}
	}
	var err error
	if r.rest, err = split(&r.tuple, r.rest, r.columns); err != nil {
		r.rest, r.err = nil, err
		return false
	}
	r.rows++
	return true
}

// Tuple is the row last read. It is valid until the next call of Next.
func (r *Rows) Tuple() *pgwire.Tuple { return &r.tuple }

// N is the ordinal of the row last read, from 1.
func (r *Rows) N() int64 { return r.rows }

// Err tells why Next has stopped; nil at the end of the chunk.
func (r *Rows) Err() error { return r.err }

// drain reads to the end, so that what follows the sink does not depend on how far it read.
func (r *Rows) drain(ctx context.Context) error {
	for r.err == nil && ctx.Err() == nil {
		if r.rest, r.err = r.next(); r.rest == nil {
			break
		}
	}
	return r.err
}

// split takes the first row off a block of whole lines of COPY's text form: a line per row, tabs
// between fields, \N for NULL, a backslash before what would be taken for one of these. Fields lie in
// the block itself, unescaped in place.
func split(t *pgwire.Tuple, b []byte, columns int) ([]byte, error) {
	t.Kinds, t.Texts = t.Kinds[:0], t.Texts[:0]
	start, escaped := 0, -1
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			if escaped < 0 {
				escaped = i
			}
			i++ // whatever follows is part of the value
		case '\t', '\n':
			field := b[start:i:i]
			kind := byte('t')
			if escaped >= 0 {
				if len(field) == 2 && field[1] == 'N' {
					kind, field = 'n', nil
				} else {
					field = unescape(field, escaped-start)
				}
				escaped = -1
			}
			t.Kinds, t.Texts = append(t.Kinds, kind), append(t.Texts, field)
			if b[i] == '\t' {
				start = i + 1
				continue
			}
			// A table without columns that matter still has a line, empty, per row.
			if columns == 0 && i == 0 {
				t.Kinds, t.Texts = t.Kinds[:0], t.Texts[:0]
			}
			if len(t.Kinds) != columns {
				return nil, fault.New(fault.Failed, "the server sent a row of %d columns instead of %d", len(t.Kinds), columns)
			}
			return b[i+1:], nil
		}
	}
	return nil, fault.New(fault.Failed, "the server sent a row that has no end: %d bytes", len(b))
}

// unescape rewrites a field whose first backslash is at from. What is written never passes what is read.
func unescape(b []byte, from int) []byte {
	out := b[:from]
	for i := from; i < len(b); i++ {
		x := b[i]
		if x == '\\' && i+1 < len(b) {
			i++
			switch x = b[i]; x {
			case 'b':
				x = '\b'
			case 'f':
				x = '\f'
			case 'n':
				x = '\n'
			case 'r':
				x = '\r'
			case 't':
				x = '\t'
			case 'v':
				x = '\v'
			}
		}
		out = append(out, x)
	}
	return out
}
