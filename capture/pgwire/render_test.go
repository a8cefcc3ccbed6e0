package pgwire

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/freshet-io/freshet/internal/position"
)

// renderer writes messages as text that is the same on each server: transactions are numbered as they
// come, relations and types have their names, and positions and times are left out.
type renderer struct {
	xids  map[uint32]int
	names map[uint32]string
}

func newRenderer() *renderer {
	return &renderer{xids: map[uint32]int{0: 0}, names: map[uint32]string{}}
}

func (r *renderer) xid(x uint32) string {
	if _, ok := r.xids[x]; !ok {
		r.xids[x] = len(r.xids)
	}
	return fmt.Sprintf("x%d", r.xids[x])
}

func (r *renderer) name(oid uint32) string {
	if n, ok := r.names[oid]; ok {
		return n
	}
	return fmt.Sprintf("%d", oid)
}

func (r *renderer) line(m *Message) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%c", m.Kind)
	if m.Streamed {
		b.WriteString(" streamed")
	}
	if m.XID != 0 {
		b.WriteString(" " + r.xid(m.XID))
	}
	switch m.Kind {
	case Begin, Commit, StreamStop, StreamCommit, Keepalive: // that is all
	case StreamAbort:
		b.WriteString(" sub " + r.xid(m.SubXID))
	case StreamStart:
		fmt.Fprintf(&b, " first %t", m.First)
	case Relation:
		r.names[m.Shape.OID] = m.Shape.Schema + "." + m.Shape.Name
		fmt.Fprintf(&b, " %s.%s identity %c", m.Shape.Schema, m.Shape.Name, m.Shape.Identity)
		for _, c := range m.Shape.Columns {
			fmt.Fprintf(&b, " %s:%s:%d:%t", c.Name, r.name(c.OID), c.Mod, c.Key)
		}
	case Type:
		r.names[m.TypeOf.OID] = m.TypeOf.Schema + "." + m.TypeOf.Name
		fmt.Fprintf(&b, " %s.%s", m.TypeOf.Schema, m.TypeOf.Name)
	case Origin:
		fmt.Fprintf(&b, " %q", m.Prefix)
	case Logical:
		fmt.Fprintf(&b, " transactional %t %q %q", m.Transactional, m.Prefix, m.Content)
	case Truncate:
		fmt.Fprintf(&b, " cascade %t restart %t", m.Cascade, m.RestartIdentity)
		for _, oid := range m.Relations {
			b.WriteString(" " + r.name(oid))
		}
	case Insert, Update, Delete:
		b.WriteString(" " + r.name(m.Relation) + tupleText(m))
	}
	return b.String()
}

// tupleText is the rows of a message: what is the same in pieces and whole.
func tupleText(m *Message) string {
	var b strings.Builder
	tuple := func(label string, t *Tuple) {
		b.WriteString(" " + label + "(")
		for i, k := range t.Kinds {
			if i > 0 {
				b.WriteString(", ")
			}
			switch {
			case k == Text && len(t.Texts[i]) > 60:
				fmt.Fprintf(&b, "%q… %d bytes", t.Texts[i][:10], len(t.Texts[i]))
			case k == Text:
				fmt.Fprintf(&b, "%q", t.Texts[i])
			default:
				fmt.Fprintf(&b, "%c", k)
			}
		}
		b.WriteString(")")
	}
	if m.Old != nil && m.OldKey {
		tuple("key", m.Old)
	} else if m.Old != nil {
		tuple("old", m.Old)
	}
	if m.New != nil {
		tuple("new", m.New)
	}
	return b.String()
}

// encode writes a message as pgoutput does, for what Parse takes.
func encode(m *Message) []byte {
	b := []byte{byte(m.Kind)}
	be := binary.BigEndian
	text := func(s string) { b = append(append(b, s...), 0) }
	schema := func(s string) {
		if s == "pg_catalog" {
			s = ""
		}
		text(s)
	}
	flag := func(x bool) {
		b = append(b, map[bool]byte{true: 1}[x])
	}
	lsn := func(x position.LSN) { b = be.AppendUint64(b, uint64(x)) }
	when := func() { b = be.AppendUint64(b, uint64(m.CommitTime-postgresEpoch)) }
	tuple := func(tag byte, t *Tuple) {
		b = be.AppendUint16(append(b, tag), uint16(len(t.Kinds)))
		for i, k := range t.Kinds {
			b = append(b, k)
			if k == Text {
				b = append(be.AppendUint32(b, uint32(len(t.Texts[i]))), t.Texts[i]...)
			}
		}
	}
	switch m.Kind {
	case Insert, Update, Delete, Truncate, Relation, Type, Logical:
		if m.Streamed {
			b = be.AppendUint32(b, m.XID)
		}
	default:
	}
	switch m.Kind {
	case Begin:
		lsn(m.LSN)
		when()
		b = be.AppendUint32(b, m.XID)
	case Commit, StreamCommit:
		if m.Kind == StreamCommit {
			b = be.AppendUint32(b, m.XID)
		}
		b = append(b, 0)
		lsn(m.LSN)
		lsn(m.EndLSN)
		when()
	case Relation:
		s := m.Shape
		b = be.AppendUint32(b, s.OID)
		schema(s.Schema)
		text(s.Name)
		b = be.AppendUint16(append(b, byte(s.Identity)), uint16(len(s.Columns)))
		for _, c := range s.Columns {
			flag(c.Key)
			text(c.Name)
			b = be.AppendUint32(be.AppendUint32(b, c.OID), uint32(c.Mod))
		}
	case Type:
		b = be.AppendUint32(b, m.TypeOf.OID)
		schema(m.TypeOf.Schema)
		text(m.TypeOf.Name)
	case Origin:
		lsn(m.LSN)
		text(string(m.Prefix))
	case Insert, Update, Delete:
		b = be.AppendUint32(b, m.Relation)
		if m.Old != nil {
			tuple(map[bool]byte{true: 'K', false: 'O'}[m.OldKey], m.Old)
		}
		if m.New != nil {
			tuple('N', m.New)
		}
	case Truncate:
		b = be.AppendUint32(b, uint32(len(m.Relations)))
		b = append(b, map[bool]byte{true: 1}[m.Cascade]|map[bool]byte{true: 2}[m.RestartIdentity])
		for _, oid := range m.Relations {
			b = be.AppendUint32(b, oid)
		}
	case Logical:
		flag(m.Transactional)
		lsn(m.LSN)
		text(string(m.Prefix))
		b = append(be.AppendUint32(b, uint32(len(m.Content))), m.Content...)
	case StreamStart:
		b = be.AppendUint32(b, m.XID)
		flag(m.First)
	case StreamAbort:
		b = be.AppendUint32(be.AppendUint32(b, m.XID), m.SubXID)
	default: // StreamStop
	}
	return b
}
