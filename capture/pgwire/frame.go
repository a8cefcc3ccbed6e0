package pgwire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/freshet-io/freshet/internal/fault"
)

const (
	frameBuffer = 256 << 10
	frameHead   = 5
	// frameMax is what a message can have at most: PostgreSQL builds it in one piece of memory of less than 1 GiB.
	frameMax = 1 << 30
	// rowHead is as much of a frame as says which relation a row is of: XLogData's header, kind, xid, relation.
	rowHead = frameHead + 25 + 1 + 4 + 4
)

// tooLongError says that a message is longer than the bound; head is how it begins.
type tooLongError struct {
	size, max int
	head      []byte
}

func (e *tooLongError) Error() string {
	return fmt.Sprintf("a message of %d bytes comes from the server, at most %d are taken", e.size, e.max)
}

// frames reads the messages of PostgreSQL's protocol in place:
//
//	kind 1 B | length 4 B, with itself, without the kind | body
//
// The buffer grows for a message that does not fit, as far as its bytes really come, and shrinks after it.
type frames struct {
	in       io.Reader
	buf      []byte
	from, to int // what was read and not yet given out
	max      int // of a body
}

func newFrames(in io.Reader, limit int) *frames {
	if limit <= 0 || limit > frameMax {
		limit = frameMax
	}
	return &frames{in: in, buf: make([]byte, frameBuffer), max: limit}
}

// next gives one message; its body is valid until the next call. At the end between two messages the
// error is io.EOF, inside one it is io.ErrUnexpectedEOF.
func (f *frames) next() (kind byte, body []byte, err error) {
	if f.from == f.to {
		f.from, f.to = 0, 0
		if len(f.buf) > frameBuffer {
			f.buf = make([]byte, frameBuffer)
		}
	}
	if err := f.need(frameHead); err != nil {
		return 0, nil, err
	}
	kind = f.buf[f.from]
	n := int(binary.BigEndian.Uint32(f.buf[f.from+1:])) + 1
	if n < frameHead {
		return 0, nil, fault.New(fault.Failed, "the server sent a message %q of length %d: it is not PostgreSQL's protocol", kind, n-1)
	}
	if n-frameHead > f.max {
		if err := f.need(min(n, rowHead)); err != nil {
			return 0, nil, err
		}
		return 0, nil, &tooLongError{size: n - frameHead, max: f.max, head: f.buf[f.from+frameHead : f.from+min(n, rowHead)]}
	}
	if err := f.need(n); err != nil {
		return 0, nil, err
	}
	body = f.buf[f.from+frameHead : f.from+n : f.from+n]
	f.from += n
	return kind, body, nil
}

// need reads until n bytes from f.from on are there.
func (f *frames) need(n int) error {
	if f.from+n > len(f.buf) {
		f.to = copy(f.buf, f.buf[f.from:f.to])
		f.from = 0
	}
	for f.to-f.from < n {
		if f.to == len(f.buf) { // full of this message alone
			grown := make([]byte, min(2*len(f.buf), n))
			f.to = copy(grown, f.buf[:f.to])
			f.buf = grown
		}
		got, err := f.in.Read(f.buf[f.to:])
		f.to += got
		if f.to-f.from >= n {
			break
		}
		if errors.Is(err, io.EOF) && f.to > f.from {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err //nolint:wrapcheck // the caller knows what was read and says so
		}
	}
	return nil
}

// serverError reads an ErrorResponse: fields of a kind byte and a text that ends with 0, and a 0.
func serverError(body []byte) (code, message string) {
	c := &cursor{b: body}
	var detail, hint string
	for k := c.u8(); k != 0; k = c.u8() {
		switch text := c.string(); k {
		case 'C':
			code = text
		case 'M':
			message = text
		case 'D':
			detail = "; " + text
		case 'H':
			hint = "; " + text
		}
	}
	return code, message + detail + hint
}
