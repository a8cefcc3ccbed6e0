package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/capture/spool"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/featurestore"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/peers"
	"github.com/freshet-io/freshet/internal/pipeline"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/topic"
	"github.com/freshet-io/freshet/scoring"
	"github.com/freshet-io/freshet/snapshots/gate"
	"github.com/freshet-io/freshet/snapshots/merge"
	"github.com/freshet-io/freshet/snapshots/raw"
)

// roles says what a process does. up does both.
type roles struct {
	capture, node bool
	newSnapshot   bool
	allowDrop     bool   // of what readers may use
	slot          string // "": all
	quiet         bool   // no schedule of pipelines by itself
}

// system is one process of freshet: its parts, wired. What a role does not have is nil.
type system struct {
	cfg      *config.Config
	log      *slog.Logger
	roles    roles
	source   pgwire.Source
	wanted   *wanted
	defs     *feature.Definitions
	catalog  *feature.Catalog            // of what nodes work on
	written  *feature.Catalog            // of what capture writes: a group may be a generation ahead there
	grown    map[string]topic.Generation // of groups that have grown, or are to
	added    map[string]bool             // views that are new since the epoch began
	topics   *topic.Client
	registry *topic.Registry
	runner   *capture.Several
	captures []*captured // of each slot
	node     *delta.Node
	store    store.Store
	records  gate.Records
	merger   *merge.Merger
	raw      map[string]*raw.Log // by group
	scorer   *scoring.Scorer
	graphs   map[string]*scheduled
	lookups  *featurestore.Server
	kept     *keptMetrics
	peers    *peers.Cluster // the partitions of all nodes
	metrics  *prometheus.Registry
	grpcAddr string
	point    func(string) // named places, for tests that kill the process there

	jobs    sync.Mutex // one pipeline, merge or scoring by hand at a time
	turn    sync.Mutex // of what puts a cut and then works at it in steps: a pipeline's run, a verification
	listen  net.Listener
	web     net.Listener
	closers []func()
}

// scheduled is a pipeline with its schedule; last is the log time it was looked at.
type scheduled struct {
	graph    *pipeline.Graph
	schedule *pipeline.Schedule // nil: by hand only
	last     time.Time
}

// open reads the configuration and wires a process; run makes it go.
func open(ctx context.Context, file string, r roles, log *slog.Logger) (*system, error) {
	dir, err := definitionsDir(file, "")
	if err != nil {
		return nil, err
	}
	defs, errs := outlined(dir)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	cfg, err := config.Load(file, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	s := &system{cfg: cfg, defs: defs, log: log, roles: r, graphs: map[string]*scheduled{}, metrics: prometheus.NewRegistry(), point: crashPoint()}
	if s.point == nil {
		s.point = func(string) {}
	}
	for _, step := range []func(context.Context) error{s.openSource, s.openTopics, s.openCatalog, s.openCapture, s.openNode, s.openListener} {
		if err := step(ctx); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *system) onClose(f func()) { s.closers = append(s.closers, f) }

func (s *system) close() {
	for _, f := range slices.Backward(s.closers) {
		f()
	}
	s.closers = nil
}

// openSource takes data_dir.
func (s *system) openSource(context.Context) error {
	defs := s.defs
	lock, err := embedded.LockDir(s.cfg.DataDir)
	if err != nil {
		return err
	}
	s.onClose(func() { lock.Close() }) //nolint:errcheck // the kernel drops it at the latest when the process ends
	s.source = sourceOf(s.cfg)
	if s.wanted, err = wants(s.cfg, defs); err != nil {
		return err
	}
	for i := range defs.Pipelines {
		def := &defs.Pipelines[i]
		g, err := pipeline.Plan(def)
		if err != nil {
			return err
		}
		entry := &scheduled{graph: g}
		if def.Schedule != "" {
			sched, err := pipeline.ParseSchedule(def.Schedule, def.Timezone)
			if err != nil {
				return fault.Wrap(fault.Usage, err, "pipeline %s", def.Name).At("%s", def.Meta)
			}
			entry.schedule = &sched
		}
		s.graphs[def.Name] = entry
	}
	return nil
}

// openTopics finds Kafka, or starts it inside this process.
func (s *system) openTopics(ctx context.Context) error {
	brokers := s.cfg.Kafka.Brokers
	if len(brokers) == 0 {
		if !s.roles.capture || !s.roles.node {
			return fault.New(fault.Usage, "kafka.brokers is not set").At("%s", "kafka").
				ToMend("name the brokers: capture and node as processes of their own cannot share an embedded Kafka")
		}
		k, err := embedded.StartKafka(embedded.KafkaOptions{
			Dir: filepath.Join(s.cfg.DataDir, "kafka"), Listen: s.cfg.Embedded.Kafka, Warn: func(m string) { s.log.Warn(m) },
			Settle: func(brokers []string) ([]string, error) { return s.endUnmarked(ctx, brokers) },
		})
		if err != nil {
			return err
		}
		s.onClose(k.Close)
		brokers = k.Brokers()
	}
	var err error
	if s.topics, err = topic.Dial(ctx, topic.Config{Brokers: brokers, Prefix: s.cfg.Name, Replication: s.cfg.Kafka.Replication}); err != nil {
		return err
	}
	s.onClose(s.topics.Close)
	if s.registry, err = topic.OpenRegistry(ctx, s.topics); err != nil {
		return err
	}
	s.onClose(s.registry.Close)
	return nil
}

// endUnmarked ends what a process that was killed left open in the embedded Kafka.
func (s *system) endUnmarked(ctx context.Context, brokers []string) ([]string, error) {
	c, err := topic.Dial(ctx, topic.Config{Brokers: brokers, Prefix: s.cfg.Name})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ended, err := c.EndUnmarked(ctx)
	if len(ended) > 0 {
		s.log.Info("transactions of a killed process were ended", "partitions", len(ended))
	}
	return ended, err
}

func (s *system) openCapture(ctx context.Context) error {
	if !s.roles.capture {
		return nil
	}
	sources, err := chosen(s.cfg, s.roles.slot)
	if err != nil {
		return err
	}
	c, err := s.source.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	tables, err := s.wanted.describe(ctx, c)
	if err != nil {
		return err
	}
	if err := s.wanted.complete(ctx, c); err != nil {
		return err
	}
	var runners []*capture.Runner
	point := crashPoint() // it counts the passages of all slots
	for _, source := range sources {
		at := slices.IndexFunc(s.wanted.parts, func(p feature.SlotPart) bool { return p.Slot == source.Slot })
		one, err := s.openSlot(ctx, c, source, s.wanted.parts[at], tables.raw, point)
		if err != nil {
			return err
		}
		s.captures = append(s.captures, one)
		runners = append(runners, one.runner)
	}
	s.runner = capture.NewSeveral(0, runners...)
	s.metrics.MustRegister(&captureMetrics{s.captures})
	return nil
}

// openSlot wires what captures through one slot.
func (s *system) openSlot(ctx context.Context, c *pgx.Conn, source pgwire.Source, part feature.SlotPart, shapes []*feature.Table, point func(string)) (*captured, error) {
	w, src, log := s.wanted.of(part), s.cfg.Source, s.log
	dir := filepath.Join(s.cfg.DataDir, "spool")
	var slots []string
	if len(s.wanted.parts) > 1 {
		for _, p := range s.wanted.parts {
			slots = append(slots, p.Slot)
		}
		dir, log = filepath.Join(s.cfg.DataDir, "spools", source.Slot), log.With("slot", source.Slot)
	}
	shapes = slices.DeleteFunc(slices.Clone(shapes), func(t *feature.Table) bool { return !slices.Contains(w.names, t.FullName()) })
	// A table that is gone is no part of any publication; the views that use it stand where they are.
	there := slices.DeleteFunc(w.published(), func(p pgwire.PublishedTable) bool {
		return !slices.ContainsFunc(shapes, func(t *feature.Table) bool { return t.FullName() == p.Name })
	})
	if err := source.EnsurePublished(ctx, c, there); err != nil {
		return nil, err
	}
	told := &watched{}
	r, err := capture.New(capture.Options{
		Name: s.cfg.Name, Source: source, Slots: slots, Clock: src.Clock, Catalog: s.written.Part(part.Groups), Topics: s.topics, Registry: s.registry,
		Dir: dir, SpoolBytes: int64(src.Spool), Workers: src.Snapshot.Workers, ChunkBytes: int64(src.Snapshot.Chunk),
		Tables: w.tables, Guard: limits(src.SlotGuard), Heartbeat: time.Duration(src.Heartbeat), JoinedBytes: int64(src.JoinedTables),
		NewSnapshot: s.roles.newSnapshot, Address: s.cfg.Advertise.GRPC, Folded: s.folded, Events: told.over(captureEvents(log)), Point: point,
	}, shapes)
	return &captured{r, told}, err
}

func (s *system) openNode(context.Context) error {
	if !s.roles.node {
		return s.openPeers()
	}
	s.kept = newKeptMetrics(s.metrics)
	var err error
	if s.store, err = store.Open(s.cfg.Storage.Hot); err != nil {
		return fault.Wrap(fault.Usage, err, "storage.hot %q", s.cfg.Storage.Hot)
	}
	s.node, err = delta.OpenNode(s.nodeOptions())
	if err != nil {
		return err
	}
	s.onClose(func() { s.node.Close() }) //nolint:errcheck // what was not synced is folded again
	if err := s.openPeers(); err != nil {
		return err
	}
	s.records = gate.Records{Store: s.store}
	s.merger = merge.New(merge.Options{
		Deltas: s.peers.Deltas(), Away: s.peers.Away, Catalog: s.catalog, Store: s.store, LocalDir: s.localDir(), Point: crashPoint(),
		Events: merge.Events{Finished: func(r *gate.Run) { s.log.Info("merge", "run", r.ID, "outcome", r.Outcome) }},
	})
	s.onClose(func() { s.merger.Close() }) //nolint:errcheck // it only reads and what it wrote is synced
	s.openRaw()
	s.scorer = scoring.New(scoring.Options{Store: s.store, LocalDir: s.localDir(), Models: s.model, Point: crashPoint()})
	return nil
}

// localDir is where this node keeps the tables' files of its own partitions.
func (s *system) localDir() string { return filepath.Join(s.cfg.DataDir, "tables") }

func (s *system) openListener(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Listen.GRPC)
	if err != nil {
		return fault.Wrap(fault.Usage, err, "cannot listen at %s", s.cfg.Listen.GRPC).At("listen.grpc").
			ToMend("end what listens there, or set listen: {grpc: HOST:PORT}")
	}
	s.listen, s.grpcAddr = l, l.Addr().String()
	s.onClose(func() { l.Close() }) //nolint:errcheck // the server has closed it by then
	if s.node != nil {
		s.lookups = featurestore.New(featurestore.Options{Node: s.node, Name: s.nodeName(), Topics: s.topics, Registry: s.registry, Metrics: s.metrics})
		s.onClose(s.lookups.Close)
	}
	w, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Listen.HTTP)
	if err != nil {
		return fault.Wrap(fault.Usage, err, "cannot listen at %s", s.cfg.Listen.HTTP).At("listen.http").
			ToMend("end what listens there, or set listen: {http: HOST:PORT}")
	}
	s.web = w
	s.onClose(func() { w.Close() }) //nolint:errcheck // the server has closed it by then
	return nil
}

// run makes the process go until ctx ends or a part fails.
func (s *system) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if s.runner != nil {
		g.Go(func() error { return s.capture(ctx) })
	}
	g.Go(func() error { return s.keepGenerations(ctx) })
	if s.node != nil {
		g.Go(func() error { return s.node.Run(ctx) })
		g.Go(func() error { return s.recover(ctx) })
	} else {
		g.Go(func() error { return s.keepSchedules(ctx) })
	}
	g.Go(func() error { return s.serve(ctx) })
	g.Go(func() error { return s.serveHTTP(ctx) })
	return g.Wait()
}

func (s *system) serve(ctx context.Context) error {
	srv := grpc.NewServer()
	if s.node != nil {
		freshetv1.RegisterFeatureStoreServer(srv, s.lookups)
		freshetv1.RegisterPeersServer(srv, &peers.Server{Node: s.node, Merger: s.merger})
	}
	freshetv1.RegisterAdminServer(srv, admin{s: s})
	healthv1.RegisterHealthServer(srv, health.NewServer())
	reflection.Register(srv)
	stop := context.AfterFunc(ctx, srv.Stop)
	defer stop()
	if err := srv.Serve(s.listen); err != nil && ctx.Err() == nil {
		return fmt.Errorf("grpc: %w", err)
	}
	return nil
}

// serveHTTP answers /livez, /readyz, /metrics and, with a node, a schema registry's read calls.
func (s *system) serveHTTP(ctx context.Context) error {
	handler := s.captureHTTP()
	if s.lookups != nil {
		handler = s.lookups.HTTP()
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(s.web); err != nil && ctx.Err() == nil {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}

// openCatalog resolves the definitions against the source's tables as they were when what is kept was computed,
// grown by what they have more since: a view that does not fit a table as it is now stands still by itself.
// A new epoch computes everything anew, from the tables as they are.
func (s *system) openCatalog(ctx context.Context) error {
	tables, err := s.describe(ctx)
	if err != nil {
		return err
	}
	var kept []*feature.Table
	if !s.roles.newSnapshot {
		if kept, err = s.registry.Shapes(); err != nil {
			return err
		}
	} else if kept, err = s.keptByOthers(); err != nil {
		return err
	}
	catalog, pinned, err := feature.ResolvePinned(s.defs, kept, tables.after)
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range catalog.Views {
		errs = append(errs, delta.Check(v))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for name, why := range feature.Unfit(s.defs, tables.after) {
		s.log.Warn("a view does not fit the source as it is now: it stands still from the first change on that shows it", "view", name, "error", why)
	}
	if err := s.admit(ctx, pinned); err != nil {
		return err
	}
	if len(s.defs.Earlier) > 0 { // which the registry knows
		if catalog, err = feature.Resolve(s.defs, pinned); err != nil {
			return err
		}
	}
	if err := s.inGenerations(catalog); err != nil {
		return err
	}
	return s.registry.KeepShapes(ctx, pinned)
}

// keptByOthers gives the shapes of the tables that this process's slots do not read: where one slot begins a new
// epoch, what was computed through the others stays.
func (s *system) keptByOthers() ([]*feature.Table, error) {
	kept, err := s.registry.Shapes()
	if err != nil || s.roles.slot == "" {
		return nil, err
	}
	return slices.DeleteFunc(kept, func(t *feature.Table) bool {
		return !slices.ContainsFunc(s.wanted.parts, func(p feature.SlotPart) bool {
			return p.Slot != s.roles.slot && slices.Contains(p.Tables, t.FullName())
		})
	}), nil
}

// describe asks the source for its tables.
func (s *system) describe(ctx context.Context) (*described, error) {
	c, err := s.source.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	return s.wanted.describe(ctx, c)
}

func captureEvents(log *slog.Logger) capture.Events {
	return capture.Events{
		Taken: func(from position.Position, snapshot bool) {
			log.Info("capture", "from", from.String(), "snapshot", snapshot)
		},
		Table: func(table string, rows uint64, done bool) {
			log.Info("snapshot", "table", table, "rows", rows, "done", done)
		},
		Guard: func(r slotguard.Report) {
			for _, a := range r.Actions {
				level := slog.LevelInfo
				if a.Kind == slotguard.Raised && a.Stage < slotguard.Page || a.Kind == slotguard.Blind {
					level = slog.LevelWarn
				} else if a.Kind == slotguard.Raised || a.Kind == slotguard.Gone || a.Kind == slotguard.Dropped {
					level = slog.LevelError
				}
				log.Log(context.Background(), level, a.What, "slot", a.Where, "stage", a.Stage.String(), "mend", a.Mend)
			}
		},
		Mute: func(err error) { log.Warn("no heartbeats are written into the source's log", "error", err) },
		Dead: func(d *change.Dead) {
			log.Warn("a row could not be decoded", "what", d.What, "why", d.Why, "at", d.From)
		},
		SpoolFull: func(full *spool.Full) {
			log.Warn("the spool of transactions in progress is full: from now on the server keeps them until they are committed", "dir", full.Dir, "bytes", full.Limit)
		},
		Waits: func(id, what string) {
			if what == "" {
				log.Info("a snapshot beside the stream does not wait any more", "snapshot", id)
				return
			}
			log.Warn("a snapshot beside the stream goes as nodes do", "snapshot", id, "why", what)
		},
		Gone: func(table, why string) {
			log.Error("nothing more comes of a table: the views that use it stand still", "table", table, "why", why)
		},
		Lost: func(err error, wait time.Duration) { log.Warn("the source went away", "error", err, "again", wait) },
	}
}
