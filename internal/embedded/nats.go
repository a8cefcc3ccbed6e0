package embedded

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/freshet-io/freshet/internal/fault"
)

const (
	natsStart     = 30 * time.Second // to be ready: it reads its store first
	natsMaxMemory = 64 << 20         // bytes of streams kept in memory only
	natsMaxStore  = 4 << 30          // bytes of streams on disk
)

// NATSOptions say what server to start. Only Dir must be set.
type NATSOptions struct {
	Dir    string // holds the streams
	Listen string // host:port; "": a free port on 127.0.0.1
	// Warn is called, if set, with what the server reports as wrong.
	Warn func(message string)
}

// NATS is a NATS server with JetStream inside this process. Every write to a stream is on disk before
// it is acknowledged. It is one server without replicas, authentication or encryption.
type NATS struct {
	server *server.Server
	lock   *Lock
	url    string
}

// StartNATS starts the server on o.Dir, with all that was in it, and gives it back when it is ready.
func StartNATS(o NATSOptions) (*NATS, error) {
	listen, err := listenAddress("NATS", o.Listen)
	if err != nil {
		return nil, err
	}
	if o.Dir == "" {
		return nil, fault.New(fault.Usage, "the embedded NATS needs a directory")
	}
	lock, err := LockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	n, err := startNATS(o, listen)
	if err != nil {
		return nil, errors.Join(startFault("NATS", err, o.Dir, listen), lock.Close())
	}
	n.lock = lock
	return n, nil
}

func startNATS(o NATSOptions, listen string) (*NATS, error) {
	host, p, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return nil, fmt.Errorf("the port of %s: %w", listen, err)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	store := filepath.Join(o.Dir, "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, err
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "freshet-embedded", Host: host, Port: port,
		JetStream: true, StoreDir: store, SyncAlways: true,
		JetStreamMaxMemory: natsMaxMemory, JetStreamMaxStore: natsMaxStore,
		NoSigs: true, // signals are for the process to handle
	})
	if err != nil {
		return nil, fmt.Errorf("its options: %w", err)
	}
	log := &natsLogger{warn: o.Warn}
	s.SetLoggerV2(log, false, false, false)
	s.Start()
	if err := log.first(); err == nil && s.ReadyForConnections(natsStart) && s.JetStreamEnabled() {
		host, port := host, s.Addr().(*net.TCPAddr).Port
		return &NATS{server: s, url: "nats://" + net.JoinHostPort(host, strconv.Itoa(port))}, nil
	}
	s.Shutdown()
	s.WaitForShutdown()
	if err := log.first(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("it was not ready after %v", natsStart)
}

// URL gives the address for clients.
func (n *NATS) URL() string { return n.url }

// Close stops the server, waits for its end and gives its directory back; a second call does nothing.
func (n *NATS) Close() {
	n.server.Shutdown()
	n.server.WaitForShutdown()
	_ = n.lock.Close() // the kernel would do it at our end; nothing is lost by a failure
}

// natsLogger passes on what is wrong and keeps the first fatal message, after which a server of its
// own process would have exited.
type natsLogger struct {
	warn  func(string)
	mu    sync.Mutex
	fatal error
}

func (l *natsLogger) first() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

func (l *natsLogger) say(format string, args []any) string {
	s := fmt.Sprintf(format, args...)
	if l.warn != nil {
		l.warn(s)
	}
	return s
}

// Fatalf keeps the message for StartNATS.
func (l *natsLogger) Fatalf(format string, args ...any) {
	s := l.say(format, args)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == nil {
		l.fatal = errors.New(s)
	}
}

// Errorf passes the message on.
func (l *natsLogger) Errorf(format string, args ...any) { l.say(format, args) }

// Warnf passes the message on.
func (l *natsLogger) Warnf(format string, args ...any) { l.say(format, args) }

// Noticef drops the message.
func (l *natsLogger) Noticef(string, ...any) {}

// Debugf drops the message.
func (l *natsLogger) Debugf(string, ...any) {}

// Tracef drops the message.
func (l *natsLogger) Tracef(string, ...any) {}
