package pgwire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

// confirmMax is how long a status update may wait for the socket to take it. The server reads them
// whenever it writes, so one that is stuck longer is of a server that has stopped.
const confirmMax = 30 * time.Second

// StartOptions say how to stream. The zero value streams whole transactions.
type StartOptions struct {
	// Streaming asks the server to send large transactions in pieces while they run (protocol 2), from
	// its version 14 on; an older one sends whole ones.
	//
	// Protocols 3 and 4 are not spoken, as they give nothing to a reader that keeps pieces on disk until
	// the commit. 3 sends a prepared transaction at PREPARE instead of at COMMIT PREPARED, and only of a
	// slot made for it: its rows may not be published earlier for that, they would only wait here instead
	// of at the server. 4 adds to 2 the LSN and time of an abort, and only if streaming is 'parallel',
	// for subscribers that apply a piece before its transaction has ended; the pieces are the same.
	Streaming bool
	// MaxMessage bounds one message of the stream, and so the memory for it, in bytes; 0: 1 GiB, more than
	// PostgreSQL can send.
	MaxMessage int
	// Now is for the server's statistics only; nil: the epoch is sent.
	Now func() time.Time
}

// Stream is a running logical replication stream. Next is for one goroutine; Confirm may be called
// from another, also while Next waits.
type Stream struct {
	conn     net.Conn
	frames   *frames
	stop     func() bool
	msg      Message
	streamed bool // between StreamStart and StreamStop

	write sync.Mutex
	now   func() time.Time
	takes time.Duration // the longest that the socket may take to take what is written
}

// Stream begins to stream from a position the slot still has. When ctx ends the stream does.
func (s Source) Stream(ctx context.Context, from position.LSN, o StartOptions) (*Stream, error) {
	c, err := s.replication(ctx)
	if err != nil {
		return nil, err
	}
	return s.streamOn(ctx, c, from, o)
}

func (s Source) streamOn(ctx context.Context, c *pgconn.PgConn, from position.LSN, o StartOptions) (*Stream, error) {
	version := major(c.ParameterStatus("server_version"))
	h, err := c.Hijack()
	if err != nil {
		_ = c.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("start replication: %w", err)
	}
	st := &Stream{conn: h.Conn, frames: newFrames(h.Conn, o.MaxMessage), now: o.Now, takes: confirmMax}
	if st.now == nil {
		st.now = func() time.Time { return time.UnixMicro(postgresEpoch) }
	}
	st.stop = context.AfterFunc(ctx, func() { _ = h.Conn.Close() })
	// The query is sent by ourselves, as pgconn's reader could read on into the stream.
	err = alone(h)
	if err == nil {
		err = st.start(s.startSQL(from, version, o))
	}
	if err != nil {
		st.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	begin(h.Conn)
	return st, nil
}

// alone waits until nobody else reads from a connection. When a write seems to take long pgconn reads in the
// background, and on a busy machine still does when the connection is ready: it would take what the stream begins
// with. A deadline that has passed ends that, and only a read through the frontend waits for its end.
func alone(h *pgconn.HijackedConn) error {
	err := h.Conn.SetReadDeadline(time.Unix(1, 0))
	for err == nil {
		_, err = h.Frontend.Receive() // a notice, if anything
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = h.Conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return fault.Wrap(fault.Unreachable, err, "the replication connection broke")
	}
	return nil
}

// major gives the first number of server_version: 17 of "17.11 (Debian …)" and of "17beta1".
func major(version string) int {
	n := 0
	for _, x := range version {
		if x < '0' || x > '9' {
			break
		}
		n = n*10 + int(x-'0')
	}
	return n
}

func (s Source) startSQL(from position.LSN, version int, o StartOptions) string {
	args := []string{"proto_version '1'", "publication_names " + literal(pgx.Identifier{s.Publication}.Sanitize())}
	if version >= streamingSince {
		args = append(args, "messages 'true'")
		if o.Streaming {
			args[0] = "proto_version '2'"
			args = append(args, "streaming 'on'")
		}
	}
	return fmt.Sprintf("START_REPLICATION SLOT %s LOGICAL %s (%s)", pgx.Identifier{s.Slot}.Sanitize(), from, strings.Join(args, ", "))
}

// streamingSince is the first version of PostgreSQL that knows protocol 2 and logical messages.
const streamingSince = 14

// literal writes a text as the replication grammar reads it.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// start sends the query and waits until the stream is open.
func (s *Stream) start(sql string) error {
	b := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(4+len(sql)+1))
	if err := s.send(append(append(b, sql...), 0)); err != nil {
		return err
	}
	for {
		kind, body, err := s.frames.next()
		switch {
		case err != nil:
			return fault.Wrap(fault.Unreachable, err, "the server does not begin the replication stream")
		case kind == 'W': // CopyBothResponse
			return nil
		case kind == 'E':
			code, text := serverError(body)
			return startFault(code, text)
		case kind != 'N' && kind != 'S':
			return fault.New(fault.Failed, "the server answers to START_REPLICATION with message %q", kind)
		}
	}
}

func startFault(code, text string) error {
	e := fault.New(fault.Failed, "the server does not stream: %s (%s)", text, code).At("source.postgres.slot")
	if passing(code) {
		e.Class = fault.Unreachable
	}
	switch code {
	case "42704":
		return e.ToMend("create what is missing, or correct source.postgres.slot and source.postgres.publication")
	case "55006":
		return e.ToMend("stop the other reader of the slot, or wait until the server has noticed that it is gone")
	}
	return e
}

// Next reads one message. What it gives is valid until the next call.
func (s *Stream) Next() (*Message, error) {
	for {
		kind, body, err := s.frames.next()
		if err != nil {
			return nil, s.broken(err)
		}
		switch kind {
		case 'd': // CopyData
			if err := s.msg.envelope(body, s.streamed); err != nil {
				return nil, err
			}
			return &s.msg, s.piece()
		case 'E': // ErrorResponse
			code, text := serverError(body)
			class := fault.Failed
			if passing(code) {
				class = fault.Unreachable
			}
			return nil, fault.New(class, "the server ended the replication stream: %s (%s)", text, code)
		case 'c', 'C': // CopyDone; CommandComplete, at the server's shutdown
			return nil, fault.New(fault.Unreachable, "the server ended the replication stream")
		case 'N', 'S':
			// NoticeResponse; ParameterStatus: the settings that matter are this session's own
		default:
			return nil, fault.New(fault.Failed, "message %q of the server is not of a replication stream", kind)
		}
	}
}

// piece follows where pieces of transactions begin and end, as messages differ inside.
func (s *Stream) piece() error {
	switch s.msg.Kind {
	case StreamStart:
		if s.streamed {
			return fault.New(fault.Failed, "a piece of transaction %d begins inside another", s.msg.XID).At("replication stream")
		}
		s.streamed, s.msg.Streamed = true, false
	case StreamStop:
		if !s.streamed {
			return fault.New(fault.Failed, "a piece of a transaction ends that has not begun").At("replication stream")
		}
		s.streamed, s.msg.Streamed = false, false
	default:
	}
	return nil
}

func (s *Stream) broken(err error) error {
	if long, ok := errors.AsType[*tooLongError](err); ok {
		e := fault.New(fault.Failed, "%s", long.Error()).At("replication stream")
		if oid := relationOf(long.head, s.streamed); oid != 0 {
			return e.ToMend("raise the bound on one message, or publish the table without its long columns: SELECT %d::regclass names it", oid)
		}
		return e.ToMend("raise the bound on one message")
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	if errors.Is(err, io.EOF) {
		return fault.New(fault.Unreachable, "the server closed the replication stream")
	}
	return fault.Wrap(fault.Unreachable, err, "the replication stream broke")
}

// Confirm tells the server that everything below lsn is safe; with reply it is asked where it is.
// A server that takes nothing for confirmMax has the stream ended, so that it never blocks for ever.
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
	return s.send(b)
}

func (s *Stream) send(b []byte) error {
	s.write.Lock()
	defer s.write.Unlock()
	late := time.AfterFunc(s.takes, func() { _ = s.conn.Close() })
	defer late.Stop()
	if _, err := s.conn.Write(b); err != nil {
		return fault.Wrap(fault.Unreachable, err, "the replication stream broke")
	}
	return nil
}

// Close ends the stream; Next returns.
func (s *Stream) Close() {
	s.stop()
	_ = s.conn.Close()
}
