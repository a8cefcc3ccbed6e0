package pgwire

import (
	"fmt"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// postgresEpoch is 2000-01-01 UTC in microseconds since 1970.
const postgresEpoch = 946_684_800_000_000

// Kind is a kind of message of the stream.
type Kind byte

// The kinds of messages. All but Keepalive are pgoutput's own bytes.
const (
	Begin        Kind = 'B'
	Commit       Kind = 'C'
	Relation     Kind = 'R'
	Type         Kind = 'Y'
	Origin       Kind = 'O'
	Insert       Kind = 'I'
	Update       Kind = 'U'
	Delete       Kind = 'D'
	Truncate     Kind = 'T'
	Logical      Kind = 'M' // of pg_logical_emit_message
	StreamStart  Kind = 'S' // a piece of a transaction that has not ended begins
	StreamStop   Kind = 'E'
	StreamCommit Kind = 'c'
	StreamAbort  Kind = 'A'
	Keepalive    Kind = 'k'
)

// Kinds of a Tuple's columns. Binary values are not asked for, and refused.
const (
	Null      = 'n'
	Unchanged = 'u' // a TOASTed value that the update left alone, which is not sent
	Text      = 't'
)

// Tuple is one row image as sent: per column a kind byte (Null, Unchanged, Text) and text.
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

// ShapeColumn is one column of a Shape. Key tells whether it is in the replica identity, OID and Mod are its
// type and the type's modifier (-1: none): package pgtype says what they are.
type ShapeColumn struct {
	Name string
	Key  bool
	OID  uint32
	Mod  int32
}

// TypeName names a type that is not built in, before the first Shape that uses it. For a domain it is
// the name of the type below it.
type TypeName struct {
	OID    uint32
	Schema string
	Name   string
}

// Message is one message of the stream. Slices are valid until the next one is read.
type Message struct {
	Kind Kind
	// Streamed tells that the message belongs to a piece of a transaction that may still be rolled back.
	Streamed bool
	// XID is the transaction: of Begin and the Stream kinds the top one; of what is Streamed the one that
	// wrote it, which is a subtransaction's inside a savepoint. A Logical message carries the top one even
	// inside a savepoint. 0 of everything else.
	XID        uint32
	SubXID     uint32       // StreamAbort: what is rolled back; XID itself: everything
	First      bool         // StreamStart: of the transaction's first piece
	LSN        position.LSN // Begin, Commit, StreamCommit: of the commit; Keepalive: where the server has read to; Logical, Origin: its own
	EndLSN     position.LSN // Commit, StreamCommit: one past the commit record
	CommitTime int64        // Begin, Commit, StreamCommit: microseconds since 1970
	Reply      bool         // Keepalive: the server wants to hear from us

	Relation        uint32   // rows
	Relations       []uint32 // Truncate
	Cascade         bool     // Truncate
	RestartIdentity bool     // Truncate

	Old     *Tuple // before-image, or with OldKey the key's columns alone (the others are Null), or nil
	OldKey  bool
	New     *Tuple
	Shape   *Shape    // Relation
	TypeOf  *TypeName // Type
	Prefix  []byte    // Logical: the prefix; Origin: the origin's name
	Content []byte    // Logical
	// Transactional tells of a Logical message that it is part of its transaction; one that is not comes
	// at once, also from a transaction that is rolled back later.
	Transactional bool

	// Raw is the message as pgoutput wrote it, for [Message.Parse]; nil of a Keepalive.
	Raw []byte

	old, new Tuple
}

// envelope reads the payload of one CopyData message of the stream:
//
//	'w' 1 B | start of WAL 8 B | end of WAL 8 B | server's clock 8 B | pgoutput's message
//	'k' 1 B | end of WAL 8 B | server's clock 8 B | 1: reply now 1 B
//
// Streamed is whether a piece of a transaction is open.
func (m *Message) envelope(b []byte, streamed bool) error {
	c := cursor{b: b}
	switch tag := c.u8(); tag {
	case 'k':
		m.reset()
		m.Kind, m.LSN = Keepalive, position.LSN(c.u64())
		c.u64()
		m.Reply = c.flag()
		return c.done(tag, len(b))
	case 'w':
		c.take(24)
		if c.bad {
			return c.done(tag, len(b))
		}
		return m.Parse(c.b, streamed)
	default:
		return fault.New(fault.Failed, "message %q is not known", tag).At("replication stream")
	}
}

// reset empties the message and keeps what it can use again.
func (m *Message) reset() {
	*m = Message{Relations: m.Relations[:0], old: m.old, new: m.new}
}

// Parse reads a message as pgoutput wrote it, again: what [Message.Raw] was, and Streamed with it. The
// message has slices of raw. A message that is cut off, has bytes too many or says what protocols 1
// and 2 do not know is an error.
//
// All numbers are big-endian, texts end with a 0, and [xid 4 B] is there in a streamed piece:
//
//	B  commit LSN 8 | commit time 8 | xid 4
//	C  0 1 | commit LSN 8 | end LSN 8 | commit time 8
//	R  [xid] | oid 4 | schema text | name text | identity 1 | n 2 | n × (1: key 1 | name text | type 4 | modifier 4)
//	Y  [xid] | oid 4 | schema text | name text
//	O  LSN 8 | name text
//	I  [xid] | oid 4 | 'N' | tuple
//	U  [xid] | oid 4 | ('K' | tuple)? or ('O' | tuple)? | 'N' | tuple
//	D  [xid] | oid 4 | 'K' or 'O' | tuple
//	T  [xid] | n 4 | 1: cascade, 2: restart identity 1 | n × oid 4
//	M  [xid] | 1: transactional 1 | LSN 8 | prefix text | length 4 | content
//	S  xid 4 | 1: first piece 1
//	E
//	c  xid 4 | 0 1 | commit LSN 8 | end LSN 8 | commit time 8
//	A  xid 4 | subtransaction's xid 4
//
// with tuple: n 2 | n × ('n' | 'u' | 't' length 4 text).
func (m *Message) Parse(raw []byte, streamed bool) error {
	m.reset()
	c := cursor{b: raw}
	m.Raw, m.Streamed, m.Kind = raw, streamed, Kind(c.u8())
	switch m.Kind {
	case Insert, Update, Delete:
		m.owner(&c)
		m.row(&c)
	case Relation, Type, Truncate, Logical:
		m.owner(&c)
		m.about(&c)
	default:
		m.border(&c)
	}
	return c.done(raw0(raw), len(raw))
}

func raw0(raw []byte) byte {
	if len(raw) == 0 {
		return 0
	}
	return raw[0]
}

func (m *Message) owner(c *cursor) {
	if m.Streamed {
		m.XID = c.u32()
	}
}

func (m *Message) row(c *cursor) {
	m.Relation = c.u32()
	tag := c.u8()
	if tag != 'N' && m.Kind != Insert {
		if tag != 'O' && tag != 'K' {
			c.bad = true
			return
		}
		m.OldKey = tag == 'K'
		m.Old = c.tuple(&m.old)
		if m.Kind == Delete {
			return
		}
		tag = c.u8()
	}
	if tag != 'N' || m.Kind == Delete {
		c.bad = true
		return
	}
	m.New = c.tuple(&m.new)
}

// about reads what is no row and belongs to a transaction.
func (m *Message) about(c *cursor) {
	switch m.Kind {
	case Relation:
		m.shape(c)
	case Type:
		m.TypeOf = &TypeName{OID: c.u32(), Schema: c.schema(), Name: c.string()}
	case Truncate:
		n := c.u32()
		flags := c.u8()
		c.bad = c.bad || flags > 3
		m.Cascade, m.RestartIdentity = flags&1 != 0, flags&2 != 0
		for i := uint32(0); i < n && !c.bad; i++ {
			m.Relations = append(m.Relations, c.u32())
		}
	default: // Logical
		m.Transactional = c.flag()
		m.LSN = position.LSN(c.u64())
		m.Prefix = c.text()
		m.Content = c.take(int(c.u32()))
	}
}

// border reads where transactions and their pieces begin and end.
func (m *Message) border(c *cursor) {
	switch m.Kind {
	case Begin:
		m.LSN = position.LSN(c.u64())
		m.CommitTime = c.time()
		m.XID = c.u32()
	case StreamCommit:
		m.XID = c.u32()
		m.end(c)
	case Commit:
		m.end(c)
	case StreamStart:
		m.XID = c.u32()
		m.First = c.flag()
	case StreamStop:
	case StreamAbort:
		m.XID, m.SubXID = c.u32(), c.u32()
	case Origin:
		m.LSN = position.LSN(c.u64())
		m.Prefix = c.text()
	default:
		c.unknown = true
	}
}

func (m *Message) end(c *cursor) {
	c.bad = c.u8() != 0 || c.bad
	m.LSN = position.LSN(c.u64())
	m.EndLSN = position.LSN(c.u64())
	m.CommitTime = c.time()
}

func (m *Message) shape(c *cursor) {
	s := &Shape{OID: c.u32(), Schema: c.schema(), Name: c.string(), Identity: feature.Identity(c.u8())}
	n := c.u16()
	for i := 0; i < n && !c.bad; i++ {
		col := ShapeColumn{Key: c.flag(), Name: c.string(), OID: c.u32(), Mod: int32(c.u32())}
		s.Columns = append(s.Columns, col)
	}
	m.Shape = s
}

// relationOf gives the relation that the head of a row's envelope names, or 0.
func relationOf(head []byte, streamed bool) uint32 {
	c := cursor{b: head}
	if c.u8() != 'w' {
		return 0
	}
	c.take(24)
	switch Kind(c.u8()) {
	case Insert, Update, Delete:
		if streamed {
			c.u32()
		}
		return c.u32()
	default:
		return 0
	}
}

// twoPhase are the messages of protocol 3, which a slot that was made for them sends in any protocol:
// begin of a prepared transaction, PREPARE, COMMIT PREPARED, ROLLBACK PREPARED, PREPARE of one in pieces.
const twoPhase = "bPKrp"

func micros(t time.Time) uint64 { return uint64(t.UnixMicro() - postgresEpoch) }

// done gives the error of a message that was not read to its end without fault.
func (c *cursor) done(kind byte, size int) error {
	var why string
	switch {
	case c.unknown && strings.IndexByte(twoPhase, kind) >= 0:
		return fault.New(fault.Failed, "the slot sends transactions when they are prepared: it was made with two_phase").At("source.postgres.slot").
			ToMend("SELECT pg_drop_replication_slot(…); then start with --new-snapshot: capture makes its own slot")
	case c.unknown:
		why = "is not of protocol 1 or 2"
	case c.bad:
		why = "is cut off or malformed"
	case len(c.b) > 0:
		why = fmt.Sprintf("has %d bytes too many", len(c.b))
	default:
		return nil
	}
	return fault.New(fault.Failed, "message %q of %d bytes %s", kind, size, why).At("replication stream")
}
