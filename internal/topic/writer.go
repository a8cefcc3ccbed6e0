package topic

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/freshet-io/freshet/internal/change"
)

const (
	fetchWait = 500 * time.Millisecond
	linger    = time.Millisecond
	// transactionTimeout bounds how long a killed writer's open transaction hides what others
	// committed after it; a takeover ends it at once.
	transactionTimeout = 60 * time.Second
	maxRecordBytes     = 8 << 20
	recordOverhead     = 4 << 10 // of a batch and of a record besides key and value
	// What waits to be acknowledged. A small record takes five times its bytes in memory, so both are bounded.
	bufferedBytes   = 32 << 20
	bufferedRecords = 16 << 10
)

// MaxValue bounds key and value of a record together, in bytes.
const MaxValue = maxRecordBytes - recordOverhead

// Writer writes inside Kafka transactions under one fixed transactional id. It is not for
// concurrent use. After any error it is dead: every later call fails and the process must end.
type Writer struct {
	kafka   *kgo.Client
	id      string
	began   time.Time // of the open transaction
	mu      sync.Mutex
	err     error
	records sync.Pool // *kgo.Record, with the headers it had
	done    func(*kgo.Record, error)
}

// NewWriter initialises the transactional id, which fences every predecessor and aborts what it
// left open, before it returns.
func (c *Client) NewWriter(ctx context.Context, transactionalID string) (*Writer, error) {
	k, err := kgo.NewClient(c.options(
		kgo.TransactionalID(transactionalID),
		kgo.TransactionTimeout(transactionTimeout),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(linger),
		kgo.WithCompressor(&frames{}),
		kgo.ProducerBatchMaxBytes(maxRecordBytes),
		kgo.MaxBufferedBytes(bufferedBytes),
		kgo.MaxBufferedRecords(bufferedRecords),
	)...)
	if err != nil {
		return nil, fmt.Errorf("writer %s: %w", transactionalID, err)
	}
	if _, _, err := k.ProducerID(ctx); err != nil {
		k.Close()
		return nil, fmt.Errorf("writer %s: initialising its transactional id: %w", transactionalID, err)
	}
	w := &Writer{kafka: k, id: transactionalID}
	w.done = w.put
	return w, nil
}

// Identity gives the producer id and epoch that Kafka knows the writer by: among writers of one
// transactional id, a later one has a higher epoch, or another, higher id.
func (w *Writer) Identity(ctx context.Context) (id int64, epoch int16, err error) {
	id, epoch, err = w.kafka.ProducerID(ctx)
	if err != nil {
		return 0, 0, w.fail(err)
	}
	return id, epoch, nil
}

// Begin starts a transaction.
func (w *Writer) Begin() error {
	if err := w.failed(); err != nil {
		return err
	}
	w.began = time.Now() //nolint:forbidigo // Kafka's own clock of records, for its retention; in no value
	return w.fail(w.kafka.BeginTransaction())
}

// Put adds a record to the open transaction. It blocks while 32 MiB or 16,384 records wait to be acknowledged.
func (w *Writer) Put(ctx context.Context, r Record) {
	rec, ok := w.records.Get().(*kgo.Record)
	if !ok {
		rec = &kgo.Record{}
	}
	headers := rec.Headers[:0]
	*rec = kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Timestamp: w.began}
	if r.Position != "" {
		headers = appendHeader(headers, change.Header, r.Position)
	}
	for _, h := range r.Headers {
		headers = appendHeader(headers, h.Key, string(h.Value))
	}
	rec.Headers = headers
	w.kafka.Produce(ctx, rec, w.done)
}

// appendHeader appends a header with memory that is there from an earlier record.
func appendHeader(to []kgo.RecordHeader, key, value string) []kgo.RecordHeader {
	if len(to) == cap(to) {
		return append(to, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	to = to[:len(to)+1]
	h := &to[len(to)-1]
	h.Key, h.Value = key, append(h.Value[:0], value...)
	return to
}

// put is told when a record is acknowledged, and then nobody looks at it any more, or is not: a request that
// was given up may still be written.
func (w *Writer) put(rec *kgo.Record, err error) {
	if err != nil {
		_ = w.fail(err)
		return
	}
	rec.Key, rec.Value = nil, nil
	w.records.Put(rec)
}

// Flush sends what is left and waits until it is acknowledged; the transaction stays open.
func (w *Writer) Flush(ctx context.Context) error {
	if err := w.kafka.Flush(ctx); err != nil {
		return w.fail(err)
	}
	return w.failed()
}

// Commit sends what is left and commits the transaction. Any error is final.
func (w *Writer) Commit(ctx context.Context) error {
	if err := w.Flush(ctx); err != nil {
		return err
	}
	return w.fail(w.kafka.EndTransaction(ctx, kgo.TryCommit))
}

// Failed gives the error that ended the writer, or nil.
func (w *Writer) Failed() error { return w.failed() }

func (w *Writer) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *Writer) fail(err error) error {
	if err == nil {
		return nil
	}
	// The last: our transaction was ended, which a successor does before its epoch is the one in force.
	if errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) || errors.Is(err, kerr.TransactionalIDNotFound) ||
		errors.Is(err, kerr.InvalidTxnState) {
		err = fmt.Errorf("%w: %w", ErrFenced, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = fmt.Errorf("writer %s: %w", w.id, err)
	}
	return w.err
}

// Close ends the writer without committing what is open.
func (w *Writer) Close() { w.kafka.Close() }
