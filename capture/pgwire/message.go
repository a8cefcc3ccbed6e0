package pgwire

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// postgresEpoch is 2000-01-01 UTC in microseconds since 1970.
const postgresEpoch = 946_684_800_000_000

// Kind is a kind of message of the stream.
type Kind byte

// The kinds of messages that matter here.
const (
	Begin     Kind = 'B'
	Commit    Kind = 'C'
	Relation  Kind = 'R'
	Insert    Kind = 'I'
	Update    Kind = 'U'
	Delete    Kind = 'D'
	Truncate  Kind = 'T'
	Keepalive Kind = 'k'
	Other     Kind = 'o'
)

// Tuple is one row image as sent: per column a kind byte ('n' NULL, 'u' unchanged TOAST, 't' text) and text.
type Tuple struct {
	Kinds []byte
	Texts [][]byte
}

// Shape is a table as the stream describes it before its first row.
type Shape struct {
	OID      uint32
	Schema   string
	Name     string
	Identity feature.Identity
	Columns  []ShapeColumn
}

// ShapeColumn is one column of a Shape. Key tells whether it is in the replica identity.
type ShapeColumn struct {
	Name string
	Key  bool
	Type feature.Type
	OID  uint32
}

// Message is one message of the stream. Slices are valid until the next one is read.
type Message struct {
	Kind       Kind
	LSN        position.LSN // Begin: of the commit; Commit: likewise; Keepalive: where the server has read to
	CommitTime int64        // Begin: microseconds
	Reply      bool         // Keepalive: the server wants to hear from us
	Relation   uint32       // rows
	Relations  []uint32     // Truncate
	Old        *Tuple       // before-image, or the key alone, or nil
	New        *Tuple
	Shape      *Shape
	old, new   Tuple
}

// cursor reads big-endian fields; after a truncated one everything reads as zero and bad is set.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.bad = true
		c.b = nil
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) u8() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
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

func (c *cursor) text() string {
	for i, x := range c.b {
		if x == 0 {
			s := string(c.b[:i])
			c.b = c.b[i+1:]
			return s
		}
	}
	c.bad = true
	return ""
}

func (c *cursor) tuple(t *Tuple) *Tuple {
	n := c.u16()
	t.Kinds, t.Texts = t.Kinds[:0], t.Texts[:0]
	for i := 0; i < n && !c.bad; i++ {
		k := c.u8()
		var text []byte
		if k == 't' || k == 'b' {
			text = c.take(int(c.u32()))
		}
		t.Kinds, t.Texts = append(t.Kinds, k), append(t.Texts, text)
	}
	return t
}

// parse reads the payload of one CopyData message of the stream ('w' data or 'k' keepalive) into m.
// Layout: PostgreSQL documentation, "Streaming Replication Protocol" and "Logical Replication Message Formats".
func (m *Message) parse(b []byte) error {
	c := &cursor{b: b}
	tag := c.u8()
	m.Kind, m.Old, m.New, m.Shape, m.Relations = Other, nil, nil, nil, nil
	switch tag {
	case 'k':
		m.Kind, m.LSN = Keepalive, position.LSN(c.u64())
		c.u64()
		m.Reply = c.u8() == 1
	case 'w':
		c.take(24)
		m.data(c)
	default:
		return fmt.Errorf("replication stream: message %q is not known", tag)
	}
	if c.bad {
		return fmt.Errorf("replication stream: message %q of %d bytes is cut off", tag, len(b))
	}
	return nil
}

func (m *Message) data(c *cursor) {
	m.Kind = Kind(c.u8())
	switch m.Kind {
	case Begin:
		m.LSN = position.LSN(c.u64())
		m.CommitTime = int64(c.u64()) + postgresEpoch
	case Commit:
		c.u8()
		m.LSN = position.LSN(c.u64())
	case Relation:
		m.shape(c)
	case Insert:
		m.Relation = c.u32()
		c.u8()
		m.New = c.tuple(&m.new)
	case Update, Delete:
		m.Relation = c.u32()
		if tag := c.u8(); tag == 'O' || tag == 'K' {
			m.Old = c.tuple(&m.old)
			if m.Kind == Update {
				c.u8()
			}
		}
		if m.Kind == Update {
			m.New = c.tuple(&m.new)
		}
	case Truncate:
		n := c.u32()
		c.u8()
		for i := uint32(0); i < n && !c.bad; i++ {
			m.Relations = append(m.Relations, c.u32())
		}
	default:
		m.Kind = Other
	}
}

func (m *Message) shape(c *cursor) {
	s := &Shape{OID: c.u32(), Schema: c.text(), Name: c.text(), Identity: feature.Identity(c.u8())}
	if s.Schema == "" {
		s.Schema = "pg_catalog"
	}
	n := c.u16()
	for i := 0; i < n && !c.bad; i++ {
		col := ShapeColumn{Key: c.u8()&1 == 1, Name: c.text(), OID: c.u32()}
		col.Type = typeOf(col.OID, int32(c.u32()))
		s.Columns = append(s.Columns, col)
	}
	m.Shape = s
}

func micros(t time.Time) uint64 { return uint64(t.UnixMicro() - postgresEpoch) }
