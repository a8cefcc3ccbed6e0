package embedded

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/freshet-io/freshet/internal/fault"
)

// KafkaOptions say what broker to start. Only Dir must be set.
type KafkaOptions struct {
	Dir    string // holds topics, groups and transactions
	Listen string // host:port, told to clients as it is; "": a free port on 127.0.0.1
	// Settle, if set, ends the transactions that a killed process left open, before anybody else uses
	// the broker, and names their partitions as topic-number (topic.Client.EndUnmarked).
	Settle func(brokers []string) (partitions []string, err error)
	// Warn is called, if set, with what the broker reports as wrong: writes that failed, for one.
	Warn func(message string)
}

// Kafka is a Kafka broker inside this process, with its data on disk and fsynced before a produce
// request is acknowledged. It is one broker without replicas, authentication or encryption.
type Kafka struct {
	cluster *kfake.Cluster
	lock    *Lock
	brokers []string
}

// StartKafka starts the broker on o.Dir, with all that was in it. Transactions that were open when
// the process before was killed are aborted.
func StartKafka(o KafkaOptions) (*Kafka, error) {
	listen, err := listenAddress("Kafka", o.Listen)
	if err != nil {
		return nil, err
	}
	if o.Dir == "" {
		return nil, fault.New(fault.Usage, "the embedded Kafka needs a directory")
	}
	lock, err := LockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	store := filepath.Join(o.Dir, "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, errors.Join(fault.Wrap(fault.Failed, err, "cannot make %s", store), lock.Close())
	}
	start := func() (*kfake.Cluster, error) {
		if err := mendIndexes(store); err != nil {
			return nil, err
		}
		cluster, err := kfake.NewCluster(
			kfake.NumBrokers(1),
			kfake.ClusterID("freshet-embedded"),
			kfake.DataDir(store),
			kfake.SyncWrites(),
			// There is nothing between it and its clients that would make a member silent for long.
			kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "500"}),
			kfake.ListenFn(func(network, _ string) (net.Listener, error) { return listenAs(network, listen) }),
			kfake.WithLogger(kafkaLogger{o.Warn}),
		)
		if err == nil {
			BoundFetches(cluster)
		}
		return cluster, err //nolint:wrapcheck // startFault does
	}
	var cluster *kfake.Cluster
	if o.Settle == nil {
		cluster, err = start()
	} else {
		cluster, err = settle(start, store, filepath.Join(o.Dir, "settling"), o.Settle)
	}
	if err != nil {
		return nil, errors.Join(startFault("Kafka", err, o.Dir, listen), lock.Close())
	}
	return &Kafka{cluster: cluster, lock: lock, brokers: cluster.ListenAddrs()}, nil
}

// BoundFetches makes fetches end at the bounds of their partitions only. Where the broker ends one at
// the bound of the whole, it leaves out which transactions of the last partition were aborted, and a
// reader of committed records gets records that are not.
func BoundFetches(cluster *kfake.Cluster) {
	cluster.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if fetch, ok := r.(*kmsg.FetchRequest); ok {
			fetch.MaxBytes = math.MaxInt32
		}
		return nil, nil, false
	})
}

// settle starts the broker and ends what a killed process left open; if there was any, the broker is
// started again, and reads its logs anew: it has judged them without the markers that they have now. The
// file mark says that this goes on. A death in between leaves it, and then the judgements that the
// broker kept, its snapshots, are not believed.
func settle(start func() (*kfake.Cluster, error), store, mark string, end func([]string) ([]string, error)) (*kfake.Cluster, error) {
	if _, err := os.Stat(mark); err == nil {
		if err := forget(store); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return nil, err
	}
	cluster, err := start()
	if err != nil {
		return nil, err
	}
	ended, err := end(cluster.ListenAddrs())
	if err != nil {
		cluster.Close()
		return nil, err
	}
	if len(ended) > 0 {
		cluster.Close()
		if err := forget(store); err != nil {
			return nil, err
		}
		if cluster, err = start(); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(mark); err != nil {
		cluster.Close()
		return nil, err
	}
	return cluster, nil
}

// forget removes what the broker kept of its partitions beside their logs.
func forget(store string) error {
	names, err := filepath.Glob(filepath.Join(store, "partitions", "*", "snapshot.json"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// Brokers gives the addresses for clients to start from.
func (k *Kafka) Brokers() []string { return k.brokers }

// Close stops the broker and gives its directory back; a second call does nothing.
func (k *Kafka) Close() {
	k.cluster.Close()
	_ = k.lock.Close() // the kernel would do it at our end; nothing is lost by a failure
}

type kafkaLogger struct{ warn func(string) }

// Logf passes errors on; kfake's warnings are of requests that a client got an error for.
func (l kafkaLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	if l.warn != nil && level <= kfake.LogLevelError {
		l.warn(fmt.Sprintf(format, args...))
	}
}

// named is a listener that goes by the address it was asked for: what the broker tells its clients.
type named struct {
	net.Listener
	host string
}

type namedAddr struct {
	net.Addr
	name string
}

func (a namedAddr) String() string { return a.name }

// Addr gives the host as it was asked for and the port as it is.
func (n named) Addr() net.Addr {
	_, port, err := net.SplitHostPort(n.Listener.Addr().String())
	if err != nil {
		return n.Listener.Addr()
	}
	return namedAddr{n.Listener.Addr(), net.JoinHostPort(n.host, port)}
}

func listenAs(network, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return named{l, host}, nil
}

// listenAddress checks the address of a service, which is also the one that clients are told.
func listenAddress(service, listen string) (string, error) {
	if listen == "" {
		return "127.0.0.1:0", nil
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fault.Wrap(fault.Usage, err, "the embedded %s cannot listen on %q", service, listen).
			ToMend("give host:port, such as 127.0.0.1:7402")
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "", fault.New(fault.Usage, "the embedded %s tells its clients the address it listens on, and %q is none they can reach", service, listen).
			ToMend("give one address of this host")
	}
	return listen, nil
}

func startFault(service string, err error, dir, listen string) error {
	f := fault.Wrap(fault.Failed, err, "the embedded %s did not start", service).At("%s", dir)
	var op *net.OpError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		f = f.ToMend("stop what listens on %s, or choose another address under `embedded`", listen)
	case errors.As(err, &op):
		f = f.ToMend("choose an address of this host under `embedded`")
	case errors.Is(err, syscall.ENOSPC):
		f = f.ToMend("free disk space")
	}
	return f
}
