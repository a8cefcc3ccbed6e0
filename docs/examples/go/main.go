// Command go follows a delta topic: brokers, topic, address of a node's HTTP port, and after how many deltas to stop.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: BROKERS TOPIC REGISTRY [DELTAS]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	limit := -1
	if len(os.Args) > 4 {
		limit, _ = strconv.Atoi(os.Args[4])
	}
	if err := follow(ctx, strings.Split(os.Args[1], ","), os.Args[2], os.Args[3], limit); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// delta is what is read of a record.
type delta struct {
	Key        map[string]any  `avro:"key"`
	Generation int             `avro:"generation"`
	Sequence   int64           `avro:"sequence"`
	Version    int64           `avro:"version"`
	Op         string          `avro:"op"`
	Features   *map[string]any `avro:"features"` // nil when the entity is deleted
}

// place is where a sequence is counted.
type place struct {
	partition  int32
	generation int
}

func follow(ctx context.Context, brokers []string, topic, registry string, limit int) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	schemas, last, rows := map[uint32]avro.Schema{}, map[place]int64{}, map[string]map[string]any{}
	out := json.NewEncoder(os.Stdout)
	for limit != 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		for it := fetches.RecordIter(); !it.Done() && limit != 0; {
			r := it.Next()
			d, err := decode(ctx, registry, schemas, r.Value)
			if err != nil {
				return fmt.Errorf("partition %d, offset %d: %w", r.Partition, r.Offset, err)
			}
			at := place{r.Partition, d.Generation}
			switch before := last[at]; {
			case d.Sequence <= before:
				continue // we have it
			case before > 0 && d.Sequence > before+1:
				return fmt.Errorf("partition %d: deltas %d to %d are missing", r.Partition, before+1, d.Sequence-1)
			}
			last[at] = d.Sequence
			if d.Op == "delete" {
				delete(rows, string(r.Key))
			} else {
				rows[string(r.Key)] = *d.Features
			}
			if err := out.Encode(map[string]any{
				"partition": r.Partition, "sequence": d.Sequence, "version": d.Version, "op": d.Op, "key": d.Key, "features": plain(d.Features), "rows": len(rows),
			}); err != nil {
				return err
			}
			limit--
		}
	}
	return nil
}

// decode reads a record: a zero, the schema's id in four bytes, Avro.
func decode(ctx context.Context, registry string, schemas map[uint32]avro.Schema, value []byte) (*delta, error) {
	if len(value) < 5 || value[0] != 0 {
		return nil, fmt.Errorf("no schema's frame: %x", value)
	}
	id := binary.BigEndian.Uint32(value[1:])
	if schemas[id] == nil {
		schema, err := fetch(ctx, fmt.Sprintf("%s/schemas/ids/%d", registry, id))
		if err != nil {
			return nil, err
		}
		schemas[id] = schema
	}
	d := &delta{}
	return d, avro.Unmarshal(schemas[id], value[5:], d)
}

func fetch(ctx context.Context, url string) (avro.Schema, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var body struct{ Schema string }
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s, %w", url, resp.Status, err)
	}
	return avro.Parse(body.Schema)
}

// plain gives decimals as text, with all their digits.
func plain(features *map[string]any) map[string]any {
	if features == nil {
		return nil
	}
	out := map[string]any{}
	for name, v := range *features {
		if r, ok := v.(*big.Rat); ok {
			v = r.FloatString(2)
		}
		out[name] = v
	}
	return out
}
