package bench

import (
	"cmp"
	"context"
	_ "embed" // the peer's program
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/topic"
)

//go:embed debezium/Drain.java
var debeziumProgram string

const (
	debeziumHeap = "2g"
	debeziumWait = 30 * time.Minute // for one drain
)

// debezium is the peer, where it can run: the embedded engine in a JVM, with a producer. A bench without it
// goes on; why then says why not.
type debezium struct {
	jvm
	brokers  []string
	embedded bool // the Kafka is in this process
	topics   *topic.Client
	count    int // of processes so far
}

// drained is what one process of the peer did. Without a figure, why says why.
type drained struct {
	why          string
	Rows         int     `json:"rows"`
	Seconds      float64 `json:"seconds"`       // from the first batch to the last acknowledgement
	SecondsWhole float64 `json:"seconds_whole"` // from the start of the engine
	CPU          float64 `json:"cpu_s"`         // from the first batch
	CPUWhole     float64 `json:"cpu_s_whole"`   // from the start of the JVM
	RSS          float64 `json:"rss_mb"`        // peak
	BytesPerRow  float64 `json:"bytes_per_row"`
	Java         string  `json:"java"`
	kafka        float64 // CPU-seconds of this process meanwhile: of the embedded Kafka
}

func (d drained) rate() float64   { return float64(d.Rows) / math.Max(d.Seconds, 1e-3) }
func (d drained) perCPU() float64 { return float64(d.Rows) / math.Max(d.CPU, 1e-3) }

// told is how the figures with the start of the JVM, and its memory, are told.
func (d drained) told() string {
	if d.why != "" {
		return ""
	}
	out := fmt.Sprintf("debezium is counted from its first batch; with its start %.0f rows/s and %.0f rows/CPU-s; its peak RSS %.0f MB at -Xmx%s, %.0f bytes of JSON a row",
		float64(d.Rows)/math.Max(d.SecondsWhole, 1e-3), float64(d.Rows)/math.Max(d.CPUWhole, 1e-3), d.RSS, debeziumHeap, d.BytesPerRow)
	if d.kafka > 0 {
		out += fmt.Sprintf("; the embedded Kafka spent %.1f CPU-s for it, which are not counted", d.kafka)
	}
	return out
}

// versus sets a line's peer to debezium; of gives its value.
func (d *debezium) versus(l *Line, what drained, of func(drained) float64) {
	if what.why != "" {
		l.Peer = "debezium: not run here: " + what.why
		return
	}
	l.Peer, l.PeerPerCPU = "debezium's embedded engine into the same Kafka, JSON without schemas, acks=all", what.perCPU()
	l.versus(of(what))
	d.versions(l, what)
}

// versions adds the peer's to a line's.
func (d *debezium) versions(l *Line, what drained) {
	l.Versions = maps.Clone(l.Versions)
	l.Versions["debezium"] = d.version
	if what.Java != "" {
		l.Versions["java"] = what.Java
	}
}

// findDebezium compiles our program against the jars, if there are any.
func (r *run) findDebezium(ctx context.Context, k *kafkaSide) *debezium {
	d := &debezium{jvm: jvm{dir: filepath.Join(r.dir, "debezium")}, brokers: k.addresses, embedded: k.embedded, topics: k.topics}
	if d.why = d.find(ctx, r.Debezium); d.why != "" {
		r.tell("without debezium: " + d.why)
	}
	return d
}

func (d *debezium) find(ctx context.Context, jars string) (why string) {
	return d.compile(ctx, jars, program{
		variable: "FRESHET_BENCH_DEBEZIUM", artifact: "debezium-connector-postgres", class: "Drain", source: debeziumProgram,
	})
}

// job is what a process of the peer does.
type job struct {
	source   pgwire.Source // its slot is there and is the process's own, unless it takes a snapshot
	table    string
	snapshot bool // the table's rows, once, instead of the slot's
	rows     int  // it ends when they are acknowledged; 0: when it is told to
}

// drain runs a process to its end.
func (d *debezium) drain(ctx context.Context, j job) drained {
	if d.why != "" {
		return drained{why: d.why}
	}
	ctx, cancel := context.WithTimeout(ctx, debeziumWait)
	defer cancel()
	before := cpu()
	p, err := d.start(ctx, j)
	if err != nil {
		return drained{why: err.Error()}
	}
	defer p.stdin.Close() //nolint:errcheck // it has ended
	out := p.wait()
	if d.embedded {
		out.kafka = cpu() - before
	}
	return out
}

func (d *debezium) start(ctx context.Context, j job) (*engine, error) {
	d.count++
	name := "drain" + strconv.Itoa(d.count)
	// Its topic lies beside ours, with as many partitions.
	to := d.topics.Changes("debezium." + name)
	if err := d.topics.Ensure(ctx, []topic.Spec{{Topic: to, Partitions: fan}}); err != nil {
		return nil, err
	}
	settings, err := engineSettings(name, j)
	if err != nil {
		return nil, err
	}
	engineFile, producerFile := filepath.Join(d.dir, name+".engine"), filepath.Join(d.dir, name+".producer")
	if err := writeProperties(engineFile, settings); err != nil {
		return nil, err
	}
	err = writeProperties(producerFile, map[string]string{
		"bootstrap.servers": strings.Join(d.brokers, ","), "acks": "all", "enable.idempotence": "true",
		"linger.ms": "20", "batch.size": "262144",
	})
	if err != nil {
		return nil, err
	}
	return d.launch(ctx, debeziumHeap, engineFile, producerFile, to, strconv.Itoa(j.rows))
}

// stop ends a process that ends when it is told to.
func (e *engine) stop() drained {
	e.stdin.Close() //nolint:errcheck // it may have ended by itself, which it then says
	return e.wait()
}

func (e *engine) wait() (out drained) {
	if why := e.answer(&out); why != "" {
		return drained{why: why}
	}
	return out
}

// engineSettings are the connector's own defaults wherever we do not have to say something.
func engineSettings(name string, j job) (map[string]string, error) {
	cfg, err := pgconn.ParseConfig(j.source.URL)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err, "the source's address")
	}
	mode := "no_data"
	if j.snapshot {
		mode = "initial_only"
	}
	return map[string]string{
		"name": name, "connector.class": "io.debezium.connector.postgresql.PostgresConnector", "topic.prefix": name,
		"offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore", "snapshot.mode": mode,
		"database.hostname": cfg.Host, "database.port": strconv.Itoa(int(cfg.Port)), "database.dbname": cfg.Database,
		"database.user": cfg.User, "database.password": cmp.Or(cfg.Password, "none"),
		"plugin.name": "pgoutput", "slot.name": j.source.Slot, "publication.name": j.source.Publication,
		"publication.autocreate.mode": "disabled", "table.include.list": j.table,
		"key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false",
	}, nil
}
