package capture

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/semaphore"

	"github.com/freshet-io/freshet/capture/pgtype"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/spool"
)

const (
	// queueBytes bounds the decoded changes that wait for the publisher: what it takes of a second. More would
	// be memory that the garbage collector doubles.
	queueBytes   = 8 << 20
	batchEvents  = 256
	spareBatches = 8   // kept to be filled again
	eventBytes   = 448 // of an event beside its values: itself, the change, where it goes
	valueBytes   = 48  // of a value beside its text
)

// reader is the stream's goroutine: messages in, batches of events out. Transactions that the server
// streams before they end wait in the spool.
type reader struct {
	stream  *pgwire.Stream
	spool   *spool.Spool // nil: the server sends whole transactions only
	decoder *decoder
	source  pgwire.Source // says what is not known
	dead    <-chan uint32 // transactions that were rolled back though the stream did not say so
	queue   chan<- []event
	spare   <-chan []event      // batches that were published
	room    *semaphore.Weighted // bytes of the queue
	wake    func(reply bool)

	piece uint32 // the transaction of which the server is sending a piece, or 0
	again pgwire.Message
	batch []event
	bytes int
}

func (r *reader) run(ctx context.Context) error {
	for {
		m, err := r.stream.Next()
		if err != nil {
			return err
		}
		if m.Kind == pgwire.Keepalive && m.Reply {
			r.wake(false)
		}
		if err := r.message(ctx, m); err != nil {
			return err
		}
		if len(r.dead) > 0 && r.spool != nil {
			xid := <-r.dead
			r.spool.AbortSub(xid, xid)
		}
	}
}

// message takes pieces of transactions into the spool, and decodes what is committed.
func (r *reader) message(ctx context.Context, m *pgwire.Message) error {
	switch m.Kind {
	case pgwire.StreamStart:
		r.piece = m.XID
		return nil
	case pgwire.StreamStop:
		r.piece = 0
		return nil
	case pgwire.StreamAbort:
		if r.spool != nil { // some servers tell of aborts though nothing comes in pieces
			r.spool.AbortSub(m.XID, m.SubXID)
		}
		return nil
	case pgwire.StreamCommit:
		return r.replay(ctx, m)
	default:
		if m.Streamed {
			return r.spool.Append(r.piece, m.XID, m.Raw)
		}
		return r.step(ctx, m)
	}
}

// replay decodes a transaction that came in pieces as if it came whole now: what subtransactions took
// back is not in it, so that its rows have the numbers they would have had, whether the stream has told
// of that or not.
func (r *reader) replay(ctx context.Context, end *pgwire.Message) error {
	xid := end.XID
	begin := pgwire.Message{Kind: pgwire.Begin, XID: xid, LSN: end.LSN, CommitTime: end.CommitTime}
	commit := pgwire.Message{Kind: pgwire.Commit, LSN: end.LSN, EndLSN: end.EndLSN, CommitTime: end.CommitTime}
	if err := r.step(ctx, &begin); err != nil {
		return err
	}
	tx, err := r.spool.Transaction(xid)
	if err != nil {
		return err
	}
	if tx != nil {
		if err := errors.Join(r.records(ctx, tx, xid), tx.Close()); err != nil {
			return err
		}
		if err := r.spool.Drop(xid); err != nil {
			return err
		}
	}
	return r.step(ctx, &commit)
}

func (r *reader) records(ctx context.Context, tx *spool.Reader, xid uint32) error {
	of := fates{source: r.source}
	defer of.close(ctx)
	for {
		sub, raw, err := tx.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.again.Parse(raw, true); err != nil {
			return err
		}
		if sub != xid && r.again.Kind != pgwire.Relation && r.again.Kind != pgwire.Type { // shapes are not sent again
			gone, err := of.rolledBack(ctx, sub)
			if err != nil {
				return err
			}
			if gone {
				continue
			}
		}
		if err := r.step(ctx, &r.again); err != nil {
			return err
		}
	}
}

// step decodes one message of a committed transaction, or one between transactions.
func (r *reader) step(ctx context.Context, m *pgwire.Message) error {
	e, err := r.decoder.step(m)
	for err != nil {
		ts := r.decoder.tables
		if unknown, ok := errors.AsType[*pgtype.UnknownError](err); ok {
			err = r.source.LoadTypes(ctx, ts.types, unknown.OID)
		} else if unknown, ok := errors.AsType[*unknownTableError](err); ok {
			ts.roots[unknown.name], err = r.source.Root(ctx, unknown.name)
		}
		if err != nil {
			return err
		}
		e, err = r.decoder.step(m)
	}
	return r.give(ctx, e)
}

// give hands an event on, in batches; a batch ends with a commit at the latest.
func (r *reader) give(ctx context.Context, e event) error {
	if e.kind == evNothing {
		return nil
	}
	e.bytes = min(e.bytes+eventBytes, queueBytes/2)
	if r.batch == nil {
		select {
		case r.batch = <-r.spare:
		default:
			r.batch = make([]event, 0, batchEvents)
		}
	}
	r.batch = append(r.batch, e)
	r.bytes += e.bytes
	if e.kind == evBegin || e.kind == evRow && len(r.batch) < batchEvents && r.bytes < queueBytes/8 {
		return nil
	}
	// The bound is on bytes: a batch may not be larger than the queue.
	if err := r.room.Acquire(ctx, int64(min(r.bytes, queueBytes))); err != nil {
		return fmt.Errorf("%w", err)
	}
	select {
	case r.queue <- r.batch:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.batch, r.bytes = nil, 0
	return nil
}
