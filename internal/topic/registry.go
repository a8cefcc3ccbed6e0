package topic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/freshet-io/freshet/internal/fault"
)

const schemaPrefix = "schema/"

// schemaRecord is the value of a registry record under "schema/…".
type schemaRecord struct {
	Subject string `json:"subject"`
	Schema  string `json:"schema"`
}

// KV is one entry of the registry.
type KV struct {
	Key   string
	Value []byte
}

// Registry is the compacted topic with one partition that is the truth about definitions, schemas,
// epochs and cuts. A schema's id is the offset of its first record. Safe for concurrent use.
type Registry struct {
	client *Client
	kafka  *kgo.Client

	mu      sync.Mutex
	reader  *Reader
	next    int64
	entries map[string][]byte
	schemas map[uint32]schemaRecord
	ids     map[schemaRecord]uint32
	order   []uint32
}

// OpenRegistry creates the topic if needed and reads it to its end.
func OpenRegistry(ctx context.Context, c *Client) (*Registry, error) {
	if err := c.Ensure(ctx, []Spec{{Topic: c.Registry(), Partitions: 1, Compacted: true}}); err != nil {
		return nil, err
	}
	k, err := kgo.NewClient(c.options(
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(maxRecordBytes))...)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	r := &Registry{
		client: c, kafka: k,
		entries: map[string][]byte{}, schemas: map[uint32]schemaRecord{}, ids: map[schemaRecord]uint32{},
	}
	starts, err := c.Starts(ctx, c.Registry())
	if err == nil {
		r.next = starts[0]
		r.reader, err = c.NewReader(ReaderOptions{Topic: c.Registry(), From: map[int32]int64{0: r.next}})
	}
	if err == nil {
		err = r.Refresh(ctx)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close ends the registry's connections.
func (r *Registry) Close() {
	r.kafka.Close()
	if r.reader != nil {
		r.reader.Close()
	}
}

// Refresh reads the topic to its present end.
func (r *Registry) Refresh(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refresh(ctx)
}

func (r *Registry) refresh(ctx context.Context) error {
	ends, err := r.client.Ends(ctx, r.client.Registry())
	if err != nil {
		return err
	}
	for r.next < ends[0] {
		batches, err := r.reader.Poll(ctx)
		if err != nil {
			return fmt.Errorf("reading the registry: %w", err)
		}
		for _, b := range batches {
			for _, rec := range b.Records {
				if err := r.apply(rec.Record); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (r *Registry) apply(rec Record) error {
	r.next = rec.Offset + 1
	key := string(rec.Key)
	if !strings.HasPrefix(key, schemaPrefix) {
		if rec.Value == nil {
			delete(r.entries, key)
		} else {
			r.entries[key] = rec.Value
		}
		return nil
	}
	var s schemaRecord
	if err := json.Unmarshal(rec.Value, &s); err != nil {
		return fmt.Errorf("registry record %d (%s) is damaged: %w", rec.Offset, key, err)
	}
	if rec.Offset > math.MaxInt32 {
		return fmt.Errorf("registry offset %d does not fit a schema id", rec.Offset)
	}
	id := uint32(rec.Offset)
	if _, known := r.ids[s]; !known { // two writers may race; the first offset is the id
		r.ids[s] = id
		r.order = append(r.order, id)
	}
	r.schemas[id] = s
	return nil
}

// SchemaID gives the id of a schema under a subject, registering it at its first appearance; the
// record is acknowledged before it returns.
func (r *Registry) SchemaID(ctx context.Context, subject, schema string) (uint32, error) {
	s := schemaRecord{subject, schema}
	r.mu.Lock()
	defer r.mu.Unlock()
	if id, ok := r.ids[s]; ok {
		return id, nil
	}
	if err := r.refresh(ctx); err != nil {
		return 0, err
	}
	if id, ok := r.ids[s]; ok {
		return id, nil
	}
	value, err := json.Marshal(s)
	if err != nil {
		return 0, fmt.Errorf("schema of %s: %w", subject, err)
	}
	n := 0
	for known := range r.ids {
		if known.Subject == subject {
			n++
		}
	}
	// The key carries the version, so compaction keeps every version of a subject.
	if err := r.put(ctx, fmt.Sprintf("%s%s/%d", schemaPrefix, subject, n+1), value); err != nil {
		return 0, err
	}
	id, ok := r.ids[s]
	if !ok {
		return 0, fmt.Errorf("schema of %s was written but not read back", subject)
	}
	return id, nil
}

// Schema gives the subject and schema of an id. An unknown id reads the registry to its end first.
func (r *Registry) Schema(ctx context.Context, id uint32) (subject, schema string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.schemas[id]
	if !ok {
		if err := r.refresh(ctx); err != nil {
			return "", "", err
		}
		s, ok = r.schemas[id]
	}
	if !ok {
		return "", "", fault.New(fault.NotFound, "schema id %d is not in the registry topic", id).At("%s", r.client.Registry())
	}
	return s.Subject, s.Schema, nil
}

// Subjects gives the subjects of schemas, in order of first appearance.
func (r *Registry) Subjects() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, id := range r.order {
		if s := r.schemas[id].Subject; !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Versions gives the schema ids of a subject, oldest first.
func (r *Registry) Versions(subject string) []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []uint32
	for _, id := range r.order {
		if r.schemas[id].Subject == subject {
			out = append(out, id)
		}
	}
	return out
}

// Put writes an entry, acknowledged before it returns; a nil value deletes.
func (r *Registry) Put(ctx context.Context, key string, value []byte) error {
	if strings.HasPrefix(key, schemaPrefix) {
		return fmt.Errorf("registry key %q is reserved for schemas", key)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.put(ctx, key, value)
}

func (r *Registry) put(ctx context.Context, key string, value []byte) error {
	rec := &kgo.Record{Topic: r.client.Registry(), Key: []byte(key), Value: value}
	if err := r.kafka.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return fmt.Errorf("writing %s to the registry: %w", key, err)
	}
	return r.refresh(ctx)
}

// Get gives an entry as of the last refresh.
func (r *Registry) Get(key string) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.entries[key]
	return bytes.Clone(v), ok
}

// List gives the entries whose keys start with prefix, in key order.
func (r *Registry) List(prefix string) []KV {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []KV
	for k, v := range r.entries {
		if strings.HasPrefix(k, prefix) {
			out = append(out, KV{k, bytes.Clone(v)})
		}
	}
	slices.SortFunc(out, func(a, b KV) int { return strings.Compare(a.Key, b.Key) })
	return out
}
