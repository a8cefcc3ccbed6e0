package bench

import (
	"context"
	_ "embed" // the peer's program
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/topic"
)

//go:embed kafkastreams/Aggregate.java
var streamsProgram string

const (
	streamsHeap = "2g"
	streamsWait = 30 * time.Minute // for one run
)

// kafkaStreams is the peer of delta, where it can run.
type kafkaStreams struct {
	jvm
	brokers []string
	count   int // of applications so far
}

// aggregated is what one process of the peer did. Without a figure, why says why.
type aggregated struct {
	drained
	Outputs int `json:"outputs"` // records of its output topic
}

// told is how the figures with the start of the JVM, and its memory, are told.
func (a aggregated) told() string {
	return fmt.Sprintf("kafka streams is counted from its first record to the commit of its last; with its start %.0f rows/s and %.0f rows/CPU-s; its peak RSS %.0f MB at -Xmx%s",
		float64(a.Rows)/math.Max(a.SecondsWhole, 1e-3), float64(a.Rows)/math.Max(a.CPUWhole, 1e-3), a.RSS, streamsHeap)
}

func (r *run) findStreams(ctx context.Context, k *kafkaSide) *kafkaStreams {
	s := &kafkaStreams{jvm: jvm{dir: filepath.Join(r.dir, "kafkastreams")}, brokers: k.addresses}
	if k.embedded {
		s.why = "it does not understand how the embedded Kafka describes topics: name another one by --brokers"
		return s
	}
	s.why = s.compile(ctx, r.KafkaStreams, program{
		variable: "FRESHET_BENCH_KAFKASTREAMS", artifact: "kafka-streams", class: "Aggregate", source: streamsProgram,
	})
	if s.why != "" {
		r.tell("without kafka streams: " + s.why)
	}
	return s
}

// application is one application of the peer: it has an id, and topics and a directory of that name.
type application struct {
	s         *kafkaStreams
	id        string
	input     string
	output    string
	records   int
	cacheless bool // every change of a total is an output
}

// application makes the topics that the totals, and the changes of its stores, go to. By itself it would make
// the latter with retention by event time, which empties them while they are written.
func (s *kafkaStreams) application(ctx context.Context, k *kafkaSide, partitions, records int, cacheless bool) (*application, error) {
	s.count++
	name := "streams" + strconv.Itoa(s.count)
	a := &application{
		s: s, id: k.topics.Changes(name), input: k.topics.Changes("peer"), output: k.topics.Delta(name), records: records, cacheless: cacheless,
	}
	specs := []topic.Spec{{Topic: a.output, Partitions: partitions}}
	for _, store := range []string{"totals", "tiles"} {
		specs = append(specs, topic.Spec{Topic: a.id + "-" + store + "-changelog", Partitions: partitions, Compacted: true})
	}
	return a, k.topics.Ensure(ctx, specs)
}

// settings are the peer's own defaults wherever we do not have to say something; what is faster than its
// default is set too.
func (a *application) settings(state string) map[string]string {
	out := map[string]string{
		"application.id": a.id, "bootstrap.servers": strings.Join(a.s.brokers, ","), "processing.guarantee": "exactly_once_v2",
		"state.dir": filepath.Join(a.s.dir, state), "num.stream.threads": strconv.Itoa(runtime.NumCPU()), "auto.offset.reset": "earliest",
		// A process that comes back is known by it: otherwise it waits for the end of the session of the one before.
		"group.instance.id": a.id,
		"max.poll.records":  "5000", "producer.linger.ms": "10", "producer.compression.type": "lz4",
	}
	if a.cacheless {
		out["statestore.cache.max.bytes"] = "0"
	}
	return out
}

// run runs the application once: how is fold or restore; the state lies in a directory of its own.
func (a *application) run(ctx context.Context, how string) (out aggregated) {
	ctx, cancel := context.WithTimeout(ctx, streamsWait)
	defer cancel()
	a.s.count++
	name := how + strconv.Itoa(a.s.count)
	file := filepath.Join(a.s.dir, name+".properties")
	if err := writeProperties(file, a.settings(name)); err != nil {
		return aggregated{drained: drained{why: err.Error()}}
	}
	e, err := a.s.launch(ctx, streamsHeap, how, file, a.input, a.output, strconv.Itoa(a.records))
	if err != nil {
		return aggregated{drained: drained{why: err.Error()}}
	}
	defer e.stdin.Close() //nolint:errcheck // it has ended
	out.why = e.answer(&out)
	return out
}
