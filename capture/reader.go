package capture

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"

	"github.com/freshet-io/freshet/capture/pgwire"
)

const (
	queueBytes  = 32 << 20 // decoded changes that wait for the publisher
	batchEvents = 256
	eventBytes  = 256 // of an event beside its values
)

// reader is the stream's goroutine: messages in, batches of events out. Transactions that the server
// streams before they end wait in the spool.
type reader struct {
	stream  *pgwire.Stream
	decoder *decoder
	queue   chan<- []event
	room    *semaphore.Weighted // bytes of the queue
	wake    func(reply bool)

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
		if err := r.step(ctx, m); err != nil {
			return err
		}
	}
}

// step decodes one message of a committed transaction, or one between transactions.
func (r *reader) step(ctx context.Context, m *pgwire.Message) error {
	e, err := r.decoder.step(m)
	if err != nil {
		return err
	}
	return r.give(ctx, e)
}

// give hands an event on, in batches; a batch ends with a commit at the latest.
func (r *reader) give(ctx context.Context, e event) error {
	if e.kind == evNothing {
		return nil
	}
	e.bytes = min(e.bytes+eventBytes, queueBytes/2)
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
