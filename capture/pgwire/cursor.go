package pgwire

import (
	"bytes"
	"encoding/binary"
)

// cursor reads big-endian fields; after a truncated or malformed one everything reads as zero and bad
// is set.
type cursor struct {
	b       []byte
	bad     bool
	unknown bool // the kind of message is not known
}

func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.b) || c.bad {
		c.bad = true
		c.b = nil
		return nil
	}
	out := c.b[:n:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) u8() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

// flag reads a byte that is 0 or 1.
func (c *cursor) flag() bool {
	x := c.u8()
	c.bad = c.bad || x > 1
	return x == 1
}

func (c *cursor) u16() int {
	if b := c.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// time reads PostgreSQL's microseconds since 2000 as microseconds since 1970.
func (c *cursor) time() int64 { return int64(c.u64()) + postgresEpoch }

// text reads up to a 0.
func (c *cursor) text() []byte {
	end := bytes.IndexByte(c.b, 0)
	if end < 0 || c.bad {
		c.bad = true
		return nil
	}
	return c.take(end + 1)[:end:end]
}

func (c *cursor) string() string { return string(c.text()) }

// schema reads a schema's name; pg_catalog is sent as nothing.
func (c *cursor) schema() string {
	if s := c.text(); len(s) > 0 || c.bad {
		return string(s)
	}
	return "pg_catalog"
}

// tuple reads a row image into t, whose memory is used again.
func (c *cursor) tuple(t *Tuple) *Tuple {
	n := c.u16()
	b, kinds, texts := c.b, t.Kinds[:0], t.Texts[:0]
	for range n {
		if len(b) == 0 {
			c.bad = true
			break
		}
		k := b[0]
		b = b[1:]
		var text []byte
		switch k {
		case Text:
			if len(b) < 4 {
				c.bad = true
				break
			}
			size := int(binary.BigEndian.Uint32(b))
			if size > len(b)-4 {
				c.bad = true
				break
			}
			text, b = b[4:4+size:4+size], b[4+size:]
		case Null, Unchanged:
		default:
			c.bad = true
		}
		if c.bad {
			break
		}
		kinds, texts = append(kinds, k), append(texts, text)
	}
	c.b, t.Kinds, t.Texts = b, kinds, texts
	return t
}
