package bench

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/fault"
)

const paidDefinitions = `apiVersion: freshet/v1
kind: PartitionGroup
name: account
key: {name: account, type: string}
partitions: %d
---
apiVersion: freshet/v1
kind: FeatureView
name: paid
group: account
entity: [account]
source: public.payments
key: {account: account}
mode: events
lateness: 1h
event_time: at
features:
  - {name: n, agg: count}
  - {name: total, agg: sum, of: amount}
  - {name: latest, agg: last, of: amount}
  - {name: recent, agg: count, windows: [1d]}
  - {name: spent, agg: sum, of: amount, windows: [1d]}
`

// nodeProject is a directory with a configuration and definitions, for processes of freshet node.
type nodeProject struct {
	binary string // of freshet
	id     string
	dir    string
	data   string // data_dir
	config string
	listen string // gRPC
	starts int
}

// project writes a configuration of a node by itself, with more lines of settings.
func (r *run) project(ctx context.Context, k *kafkaSide, source string, partitions int, settings string) (*nodeProject, error) {
	p := &nodeProject{id: "node-1", binary: r.Binary, dir: filepath.Join(r.dir, k.prefix)}
	p.config = filepath.Join(p.dir, "freshet.yaml")
	if p.binary == "" {
		var err error
		if p.binary, err = os.Executable(); err != nil {
			return nil, fault.Wrap(fault.Failed, err, "cannot tell which program this is")
		}
	}
	if err := p.place(ctx); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"source.url":                   source,
		"definitions/definitions.yaml": fmt.Sprintf(paidDefinitions, partitions),
		"freshet.yaml": fmt.Sprintf("name: %s\nsource: {postgres: {url: file:source.url}}\nkafka: {brokers: [\"%s\"]}\nstorage: {hot: %q}\n"+
			"listen: {http: \"127.0.0.1:0\"}\ndefinitions: definitions\n%s",
			k.prefix, strings.Join(k.addresses, `", "`), "file://"+filepath.ToSlash(filepath.Join(p.dir, "storage")), settings),
	} {
		file := filepath.Join(p.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, fault.Wrap(fault.Failed, err, "cannot make a project")
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, fault.Wrap(fault.Failed, err, "cannot make a project")
		}
	}
	return p, nil
}

// place gives the node a directory and an address of its own.
func (p *nodeProject) place(ctx context.Context) error {
	p.data = filepath.Join(p.dir, p.id)
	var err error
	for range 100 {
		// Those above the system gives to outgoing connections, also while a node that was killed is not there yet again.
		var l net.Listener
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000)))
		if err != nil {
			continue
		}
		was := p.listen
		p.listen = l.Addr().String()
		l.Close() //nolint:errcheck // the node listens there
		if p.listen != was {
			return nil
		}
	}
	return fault.Wrap(fault.Failed, err, "cannot listen")
}

// another gives a second node of the same system.
func (p *nodeProject) another(ctx context.Context, id string) (*nodeProject, error) {
	q := *p
	q.id, q.starts = id, 0
	return &q, q.place(ctx)
}

// nodeProcess is a process of freshet node.
type nodeProcess struct {
	cmd    *exec.Cmd
	log    string // the file of what it says
	ended  chan struct{}
	failed error // valid once it has ended
}

// start starts a process; before are the words before its command line.
func (p *nodeProject) start(ctx context.Context, before ...string) (*nodeProcess, error) {
	p.starts++
	words := append(slices.Clone(before), p.binary, "node", "-c", p.config)
	n := &nodeProcess{
		cmd: exec.CommandContext(ctx, words[0], words[1:]...), log: filepath.Join(p.dir, p.id+"-"+strconv.Itoa(p.starts)+".log"), ended: make(chan struct{}),
	}
	out, err := os.Create(n.log)
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot keep what a node says")
	}
	defer out.Close() //nolint:errcheck // the process has it open by itself
	n.cmd.Stdout, n.cmd.Stderr = out, out
	n.cmd.Env = append(os.Environ(), "FRESHET_NODE_ID="+p.id, "FRESHET_DATA_DIR="+p.data, "FRESHET_LISTEN_GRPC="+p.listen)
	if err := n.cmd.Start(); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot start %s", p.binary)
	}
	go func() {
		n.failed = n.cmd.Wait()
		close(n.ended)
	}()
	return n, nil
}

// kill ends it as a lost machine would.
func (n *nodeProcess) kill() {
	n.cmd.Process.Signal(syscall.SIGKILL) //nolint:errcheck // it may have ended by itself
	<-n.ended
}

// logged gives what it has said so far; nothing where that cannot be read.
func (n *nodeProcess) logged() []byte {
	b, err := os.ReadFile(n.log)
	if err != nil {
		return nil
	}
	return b
}

// takeover is what a node said of the partitions that it took over.
type takeover struct {
	restored         int           // partitions, from checkpoints
	youngest, oldest time.Duration // how far behind the kill those were
	bytes            int64         // of those
	restore          time.Duration // the longest
	replayed, caught int           // records that were folded before it answered; partitions
	replay           time.Duration // the longest
}

func takenOver(logged []byte, killed time.Time) (out takeover) {
	for _, m := range regexp.MustCompile(`msg=restored .* log_time=(\S+) bytes=(\d+) took=(\S+)`).FindAllSubmatch(logged, -1) {
		of, _ := time.Parse(time.RFC3339, string(m[1])) // as it was printed, like took
		n, _ := strconv.ParseInt(string(m[2]), 10, 64)  // digits
		took, _ := time.ParseDuration(string(m[3]))
		age := killed.Sub(of)
		if out.oldest = max(out.oldest, age); out.restored == 0 || age < out.youngest {
			out.youngest = age
		}
		out.restored, out.bytes, out.restore = out.restored+1, out.bytes+n, max(out.restore, took)
	}
	for _, m := range regexp.MustCompile(`msg=partition .* owned=true replayed=(\d+) took=(\S+)`).FindAllSubmatch(logged, -1) {
		n, _ := strconv.Atoi(string(m[1]))          // digits
		took, _ := time.ParseDuration(string(m[2])) // as it was printed
		out.replayed, out.caught, out.replay = out.replayed+n, out.caught+1, max(out.replay, took)
	}
	return out
}

func (t takeover) String() string {
	age := ""
	if t.restored > 0 {
		age = fmt.Sprintf(" %.1f to %.1f s old at the kill,", t.youngest.Seconds(), t.oldest.Seconds())
	}
	return fmt.Sprintf("checkpoints of %d partitions fetched,%s %.1f MB, the longest in %.2f s; %d records folded again in %d, the longest in %.2f s",
		t.restored, age, float64(t.bytes)/1e6, t.restore.Seconds(), t.replayed, t.caught, t.replay.Seconds())
}

// gone is why a process that ought to run does not: what it said last.
func (n *nodeProcess) gone() error {
	b, err := os.ReadFile(n.log)
	if err != nil {
		b = []byte(err.Error())
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return fault.New(fault.Failed, "a node ended by itself: %v: %s", n.failed, lines[len(lines)-1])
}

// rss gives its peak resident memory in MB; 0 where there is no /proc.
func (n *nodeProcess) rss() float64 {
	kb, _, _ := strings.Cut(procField(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid), "VmHWM"), " ")
	v, err := strconv.ParseFloat(kb, 64)
	if err != nil {
		return 0
	}
	return math.Round(v * 1024 / 1e6)
}

// freshness asks a node, one account of each partition in one request.
type freshness struct {
	conn *grpc.ClientConn
	stub freshetv1.FeatureStoreClient
	keys []*freshetv1.Key
}

func (p *nodeProject) freshness(accounts []string) (*freshness, error) {
	// A connection to a node that starts again is tried at once.
	often := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: askEvery, Multiplier: 1, MaxDelay: askEvery}, MinConnectTimeout: time.Second}
	conn, err := grpc.NewClient(p.listen, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(often))
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot call %s", p.listen)
	}
	f := &freshness{conn: conn, stub: freshetv1.NewFeatureStoreClient(conn)}
	for _, a := range accounts {
		f.keys = append(f.keys, &freshetv1.Key{Values: []*freshetv1.Value{{Kind: &freshetv1.Value_String_{String_: a}}}})
	}
	return f, nil
}

// seen is what one question to all partitions came to.
type seen struct {
	answers, fresh int           // partitions with a row; of those, with one from commits of the last second
	lag            time.Duration // since the last commit of the oldest of those
}

// look asks for a row of every partition, however old.
func (f *freshness) look(ctx context.Context, r *run) (out seen) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	in, err := f.stub.Get(ctx, &freshetv1.GetRequest{Selections: []*freshetv1.Selection{{View: "paid"}}, Keys: f.keys})
	if err != nil {
		return out
	}
	now, commits := r.Now().UnixMicro(), map[int32]int64{}
	for _, l := range in.Lags {
		commits[l.Partition] = l.CommitTime
	}
	for i, row := range in.Rows { // the key of partition i is the i-th
		if row.Status != freshetv1.Status_PRESENT {
			continue
		}
		out.answers++
		age := time.Duration(now-commits[int32(i)]) * time.Microsecond
		if age <= fresh {
			out.fresh++
		}
		out.lag = max(out.lag, age)
	}
	return out
}

// ask tells whether a row of every partition is answered, by partitions whose last commit is at most so old.
func (f *freshness) ask(ctx context.Context, age time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	out, err := f.stub.Get(ctx, &freshetv1.GetRequest{Selections: []*freshetv1.Selection{{View: "paid"}}, Keys: f.keys, MaxAgeUs: age.Microseconds()})
	if err != nil || len(out.Rows) != len(f.keys) {
		return false
	}
	for _, row := range out.Rows {
		if row.Status != freshetv1.Status_PRESENT {
			return false
		}
	}
	return true
}

// within asks until it is so.
func (f *freshness) within(ctx context.Context, r *run, n *nodeProcess, age time.Duration) error {
	start := r.Now()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for !f.ask(ctx, age) {
		select {
		case <-tick.C:
		case <-n.ended:
			return n.gone()
		case <-ctx.Done():
			return ctx.Err()
		}
		if r.since(start) > freshWait.Seconds() {
			what := "answers"
			if age > 0 {
				what = fmt.Sprintf("answers with what is at most %s old", age)
			}
			return fault.New(fault.Timeout, "a node did not give %s within %s, at %d changes/s", what, freshWait, r.pace)
		}
	}
	return nil
}
