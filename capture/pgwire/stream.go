package pgwire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

// Stream is a running logical replication stream. Next is for one goroutine; Confirm may be called
// from another, also while Next waits.
type Stream struct {
	conn *pgconn.HijackedConn
	stop func() bool
	msg  Message

	write sync.Mutex
	now   func() time.Time
}

// Start begins to stream from a position the slot still has. Values of now travel to the server for
// its statistics only.
func (s Source) Start(ctx context.Context, from position.LSN, now func() time.Time) (*Stream, error) {
	c, err := s.replication(ctx)
	if err != nil {
		return nil, err
	}
	err = pglogrepl.StartReplication(ctx, c, s.Slot, pglogrepl.LSN(from), pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names '" + s.Publication + "'"},
	})
	if err != nil {
		_ = c.Close(context.WithoutCancel(ctx))
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
			return nil, fault.New(fault.Failed, "the server does not stream slot %s: %s", s.Slot, pg.Message).At("source.postgres.slot")
		}
		return nil, fmt.Errorf("start replication of slot %s: %w", s.Slot, err)
	}
	h, err := c.Hijack()
	if err != nil {
		return nil, fmt.Errorf("start replication: %w", err)
	}
	st := &Stream{conn: h, now: now}
	st.stop = context.AfterFunc(ctx, func() { _ = h.Conn.Close() })
	return st, nil
}

// Next reads one message. What it gives is valid until the next call.
func (s *Stream) Next() (*Message, error) {
	for {
		raw, err := s.conn.Frontend.Receive()
		if err != nil {
			return nil, fault.Wrap(fault.Unreachable, err, "the replication stream broke")
		}
		switch m := raw.(type) {
		case *pgproto3.CopyData:
			if err := s.msg.parse(m.Data); err != nil {
				return nil, err
			}
			return &s.msg, nil
		case *pgproto3.ErrorResponse:
			return nil, fault.New(fault.Failed, "the server ended the replication stream: %s (%s)", m.Message, m.Code)
		case *pgproto3.CopyDone:
			return nil, fault.New(fault.Unreachable, "the server ended the replication stream")
		}
	}
}

// Confirm tells the server that everything below lsn is safe; with reply it is asked where it is.
func (s *Stream) Confirm(lsn position.LSN, reply bool) error {
	b := make([]byte, 0, 39)
	b = append(b, 'd', 0, 0, 0, 38, 'r')
	for range 3 {
		b = binary.BigEndian.AppendUint64(b, uint64(lsn))
	}
	b = binary.BigEndian.AppendUint64(b, micros(s.now()))
	if reply {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	s.write.Lock()
	defer s.write.Unlock()
	if _, err := s.conn.Conn.Write(b); err != nil {
		return fault.Wrap(fault.Unreachable, err, "the replication stream broke")
	}
	return nil
}

// Close ends the stream; Next returns.
func (s *Stream) Close() {
	s.stop()
	_ = s.conn.Conn.Close()
}
