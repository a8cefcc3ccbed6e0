package bench

import (
	"cmp"
	"context"
	_ "embed" // the peer's program
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	saidBytes    = 1 << 10          // of what it has to say
)

// debezium is the peer, where it can run: the embedded engine in a JVM, with a producer. A bench without it
// goes on; why then says why not.
type debezium struct {
	why      string
	java     string
	classes  string // the class path
	dir      string
	version  string
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
	d := &debezium{dir: filepath.Join(r.dir, "debezium"), brokers: k.addresses, embedded: k.embedded, topics: k.topics}
	if d.why = d.find(ctx, r.Debezium); d.why != "" {
		r.tell("without debezium: " + d.why)
	}
	return d
}

func (d *debezium) find(ctx context.Context, jars string) (why string) {
	if jars == "" {
		return "name a directory with its jars in FRESHET_BENCH_DEBEZIUM"
	}
	const connector = "debezium-connector-postgres-"
	found, err := filepath.Glob(filepath.Join(jars, connector+"*.jar"))
	if err != nil || len(found) == 0 {
		return fmt.Sprintf("there is no %s*.jar in %s, which FRESHET_BENCH_DEBEZIUM names", connector, jars)
	}
	d.version = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), connector), ".jar")
	if d.java, err = exec.LookPath("java"); err != nil {
		return "there is no java in PATH"
	}
	javac, err := exec.LookPath("javac")
	if err != nil {
		return "there is no javac in PATH"
	}
	classes := filepath.Join(d.dir, "classes")
	source := filepath.Join(d.dir, "Drain.java")
	if err := os.MkdirAll(classes, 0o755); err != nil {
		return err.Error()
	}
	if err := os.WriteFile(source, []byte(debeziumProgram), 0o644); err != nil {
		return err.Error()
	}
	d.classes = filepath.Join(jars, "*")
	var wrong said
	compile := exec.CommandContext(ctx, javac, "-d", classes, "-cp", d.classes, source)
	compile.Stderr = &wrong
	if err := compile.Run(); err != nil {
		return fmt.Sprintf("javac: %v: %s", err, &wrong)
	}
	d.classes = classes + string(os.PathListSeparator) + d.classes
	return ""
}

// said keeps the first of what a process says: in Java the reason comes first, and a stack after it.
type said struct{ kept []byte }

func (s *said) Write(b []byte) (int, error) {
	s.kept = append(s.kept, b[:min(len(b), saidBytes-len(s.kept))]...)
	return len(b), nil
}

// String is all of it on one line.
func (s *said) String() string { return strings.Join(strings.Fields(string(s.kept)), " ") }

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

// engine is a process under way.
type engine struct {
	cmd      *exec.Cmd
	stdin    io.WriteCloser // it runs as long as this is open
	out, err said
	ended    chan struct{}
	failed   error // valid once it has ended
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
	e := &engine{cmd: exec.CommandContext(ctx, d.java, "-Xmx"+debeziumHeap, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", d.classes,
		"Drain", engineFile, producerFile, to, strconv.Itoa(j.rows))}
	e.cmd.Dir = d.dir
	return e, e.begin()
}

func (e *engine) begin() (err error) {
	e.ended, e.cmd.Stdout, e.cmd.Stderr = make(chan struct{}), &e.out, &e.err
	if e.stdin, err = e.cmd.StdinPipe(); err == nil {
		err = e.cmd.Start()
	}
	if err != nil {
		return fault.Wrap(fault.Failed, err, "cannot start %s", e.cmd.Path)
	}
	go func() {
		e.failed = e.cmd.Wait()
		close(e.ended)
	}()
	return nil
}

// stop ends a process that ends when it is told to.
func (e *engine) stop() drained {
	e.stdin.Close() //nolint:errcheck // it may have ended by itself, which it then says
	return e.wait()
}

func (e *engine) wait() (out drained) {
	if <-e.ended; e.failed != nil {
		return drained{why: fmt.Sprintf("it failed: %v: %s", e.failed, &e.err)}
	}
	if err := json.Unmarshal(e.out.kept, &out); err != nil {
		return drained{why: fmt.Sprintf("it answered %q", &e.out)}
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

// writeProperties writes a file of Java properties, which only we may read: there is a password in it.
func writeProperties(file string, p map[string]string) error {
	var b strings.Builder
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)
	for _, k := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&b, "%s=%s\n", k, escape.Replace(p[k]))
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return fault.Wrap(fault.Failed, err, "cannot write the peer's settings")
	}
	return nil
}
