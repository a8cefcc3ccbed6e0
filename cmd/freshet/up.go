package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/featurestore"
	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

func upCommand() *cobra.Command {
	var file string
	var fresh bool
	c := &cobra.Command{
		Use: "up -c FILE", Short: "Run capture, node and lookups in one process",
		Example: "  freshet up -c freshet.yaml", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return up(c.Context(), file, fresh) },
	}
	c.Flags().StringVarP(&file, "config", "c", "freshet.yaml", "the configuration")
	c.Flags().BoolVar(&fresh, "new-snapshot", false, "begin a new epoch with a snapshot of every table")
	return c
}

func up(ctx context.Context, file string, fresh bool) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cfg, err := config.Load(file, os.LookupEnv)
	if err != nil {
		return err
	}
	defs, err := definitions.Load(os.DirFS(cfg.Definitions), cfg.Definitions)
	if err != nil {
		return err
	}
	lock, err := embedded.LockDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // the kernel drops it at the latest when the process ends
	source := pgwire.Source{URL: cfg.Source.Postgres.URL, Slot: cfg.Source.Postgres.Slot, Publication: cfg.Source.Postgres.Publication}
	shapes, catalog, err := resolve(ctx, cfg, source, defs)
	if err != nil {
		return err
	}
	brokers := cfg.Kafka.Brokers
	if len(brokers) == 0 {
		k, err := embedded.StartKafka(embedded.KafkaOptions{
			Dir: filepath.Join(cfg.DataDir, "kafka"), Listen: cfg.Embedded.Kafka, Warn: func(m string) { log.Warn(m) },
		})
		if err != nil {
			return err
		}
		defer k.Close()
		brokers = k.Brokers()
	}
	topics, err := topic.Dial(ctx, topic.Config{Brokers: brokers, Prefix: cfg.Name, Replication: cfg.Kafka.Replication})
	if err != nil {
		return err
	}
	defer topics.Close()
	registry, err := topic.OpenRegistry(ctx, topics)
	if err != nil {
		return err
	}
	defer registry.Close()
	runner, err := capture.New(capture.Options{
		Name: cfg.Name, Source: source, Clock: cfg.Source.Clock, Catalog: catalog, Topics: topics, Registry: registry,
		NewSnapshot: fresh, Events: captureEvents(log),
	}, shapes)
	if err != nil {
		return err
	}
	node, err := delta.OpenNode(delta.NodeOptions{
		Name: cfg.Name, Dir: filepath.Join(cfg.DataDir, "state"), Catalog: catalog, Topics: topics, Registry: registry,
		Memory: int64(cfg.State.Memory), Retention: time.Duration(cfg.Kafka.Retention),
		// Pebble cannot go on after this: end, and recover at the next start.
		Events: delta.Events{Fatal: func(m string) { log.Error("state", "error", m); os.Exit(1) }},
	})
	if err != nil {
		return err
	}
	defer node.Close() //nolint:errcheck // what was not synced is folded again
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen.GRPC)
	if err != nil {
		return fmt.Errorf("listen.grpc: %w", err)
	}
	log.Info("serving", "grpc", listener.Addr().String(), "kafka", brokers)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return runner.Run(ctx) })
	g.Go(func() error { return node.Run(ctx) })
	g.Go(func() error { return serve(ctx, listener, node, runner, cfg.Name) })
	return g.Wait()
}

// resolve reads the source's shapes and checks the definitions against them.
func resolve(ctx context.Context, cfg *config.Config, source pgwire.Source, defs *feature.Definitions) ([]*feature.Table, *feature.Catalog, error) {
	c, err := source.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	names := capture.Tables(defs, cfg.Source.Clock)
	shapes, err := pgwire.Describe(ctx, c, names)
	if err != nil {
		return nil, nil, err
	}
	catalog, err := feature.Resolve(defs, shapes)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range catalog.Views {
		if err := delta.Check(v); err != nil {
			return nil, nil, err
		}
	}
	return shapes, catalog, source.EnsurePublication(ctx, c, names)
}

func captureEvents(log *slog.Logger) capture.Events {
	return capture.Events{
		Taken: func(from position.Position, snapshot bool) {
			log.Info("capture", "from", from.String(), "snapshot", snapshot)
		},
		Table: func(table string, rows uint64, done bool) {
			log.Info("snapshot", "table", table, "rows", rows, "done", done)
		},
	}
}

// admin implements what there is of the Admin service.
type admin struct {
	freshetv1.UnimplementedAdminServer
	runner *capture.Runner
}

// Cut puts a cut at the next commit boundary.
func (a admin) Cut(ctx context.Context, in *freshetv1.CutRequest) (*freshetv1.CutResponse, error) {
	if in.Sql {
		return nil, status.Error(codes.Unimplemented, "a cut with an exported snapshot has no remote reader yet")
	}
	cut, err := a.runner.Cut(ctx, false)
	if err != nil {
		return nil, status.Error(codes.DeadlineExceeded, err.Error())
	}
	return &freshetv1.CutResponse{Id: cut.ID, Ordinal: cut.Ordinal, Position: cut.Position.String(), LogTime: cut.LogTime}, nil
}

func serve(ctx context.Context, l net.Listener, node *delta.Node, runner *capture.Runner, name string) error {
	s := grpc.NewServer()
	freshetv1.RegisterFeatureStoreServer(s, featurestore.New(featurestore.Options{Node: node, Name: name}))
	freshetv1.RegisterAdminServer(s, admin{runner: runner})
	healthv1.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("grpc: %w", err)
	}
	return nil
}
