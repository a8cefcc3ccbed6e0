package embedded

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestAFetchThatEndsInsideAPartition: whatever the bounds of a fetch, a reader of committed records gets
// none of an aborted transaction.
func TestAFetchThatEndsInsideAPartition(t *testing.T) {
	const partitions, records = 4, 40
	k, err := StartKafka(KafkaOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	ctx := t.Context()
	w, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers()...), kgo.TransactionalID("w"), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(64<<10), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.DefaultProduceTopic("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := kadm.NewClient(w).CreateTopic(ctx, partitions, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	for _, end := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		if err := w.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for i := range partitions * records {
			value := make([]byte, 30<<10)
			if end {
				value[0] = 1
			}
			w.Produce(ctx, &kgo.Record{Partition: int32(i % partitions), Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := w.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if err := w.EndTransaction(ctx, end); err != nil {
			t.Fatal(err)
		}
	}
	r, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers()...), kgo.ConsumeTopics("t"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(300<<10), kgo.FetchMaxPartitionBytes(200<<10), kgo.MaxConcurrentFetches(1))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	committed := 0
	for committed < partitions*records {
		fetches := r.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if rec.Value[0] != 1 {
				t.Fatalf("partition %d, offset %d is of an aborted transaction", rec.Partition, rec.Offset)
			}
			committed++
		})
	}
}
