package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/pipeline"
	"github.com/freshet-io/freshet/internal/verify"
)

const (
	demoDays   = 3
	truthEvery = 3 // hours: 24 cuts in three days
)

// demoStart is where streaming begins; the month before it is the first snapshot.
//
//nolint:gochecknoglobals // a constant
var demoStart = time.Date(2013, 1, 29, 0, 0, 0, 0, time.UTC)

func demoCommand() *cobra.Command {
	var dir string
	var speed float64
	var once bool
	c := &cobra.Command{
		Use: "demo [--once] [--dir DIR]", Short: "The whole system on real flights, everything embedded",
		Long: "Loads the flights of January 2013 up to the 29th as the first snapshot, streams the last three days with\n" +
			"hourly merges and the nightly pipeline, and shows where to look. With --once it runs as fast as it can,\n" +
			"compares everything with the database, keeps DIR, and exits 0 only if nothing differs.",
		Example: "  freshet demo --once\n  freshet demo --dir /tmp/flights --speed 600", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if once {
				speed = 0
			}
			ctx, stop := untilNobodyReads(c.Context())
			defer stop()
			return runDemo(ctx, c.ErrOrStderr(), dir, speed, once)
		},
	}
	c.Flags().BoolVar(&once, "once", false, "as fast as possible, verify, end")
	source := &cobra.Command{
		Use: "source [--dir DIR]", Short: "Only PostgreSQL with the flights, and the replayer of the last three days",
		Example: "  freshet demo source --dir /tmp/flights --speed 600\n  freshet up -c /tmp/flights/freshet.yaml     # in another terminal",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := untilNobodyReads(c.Context())
			defer stop()
			return demoSource(ctx, c.ErrOrStderr(), dir, speed)
		},
	}
	for _, f := range []*cobra.Command{c, source} {
		f.Flags().StringVar(&dir, "dir", "demo-data", "where everything is kept; as root every parent must be enterable by others")
		f.Flags().Float64Var(&speed, "speed", 600, "simulated seconds per second; 0: as fast as possible")
	}
	c.AddCommand(source)
	return c
}

// startSource starts PostgreSQL in dir and writes the project beside it.
func startSource(ctx context.Context, out io.Writer, dir string) (*embedded.Postgres, *pgx.Conn, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	step := ""
	pg, err := embedded.StartPostgres(ctx, embedded.PostgresOptions{
		Dir: filepath.Join(dir, "postgres"), Database: "flights", Fsync: true,
		Progress: func(s string, _, _ int64) {
			if s != step {
				step = s
				fmt.Fprintln(out, "PostgreSQL:", s)
			}
		},
	})
	if err != nil {
		return nil, nil, err
	}
	conn, err := pgx.Connect(ctx, pg.URL())
	if err == nil {
		err = demo.Install(ctx, conn)
	}
	if err == nil {
		err = writeProject(dir, pg.URL())
	}
	if err != nil {
		return nil, nil, errors.Join(err, pg.Stop(context.WithoutCancel(ctx)))
	}
	return pg, conn, nil
}

func demoSource(ctx context.Context, out io.Writer, dir string, speed float64) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	pg, conn, err := startSource(ctx, out, dir)
	if err != nil {
		return err
	}
	defer pg.Stop(context.WithoutCancel(ctx)) //nolint:errcheck // a server that is left is replaced at the next start
	data, err := demo.Load("")
	if err != nil {
		return err
	}
	r := demo.New(data, demo.Options{
		From: demoStart, To: demoStart.Add(demoDays * 24 * time.Hour), Speed: speed, Events: demo.Events{Committed: hourly(out)},
	})
	if err := loadMonth(ctx, r, conn); err != nil {
		return err
	}
	fmt.Fprintf(out, "PostgreSQL listens at port %d; now run: freshet up -c %s\n", pg.Port(), filepath.Join(dir, "freshet.yaml"))
	if err := r.Run(ctx, conn); err != nil {
		return err
	}
	fmt.Fprintln(out, "the three days are replayed; the database stays up until you interrupt")
	<-ctx.Done()
	return nil
}

// loadMonth loads what lies before the streaming, unless a database used before is past it.
func loadMonth(ctx context.Context, r *demo.Replayer, conn *pgx.Conn) error {
	var begun bool
	if err := conn.QueryRow(ctx, "select next > 0 and loading is null from demo.progress").Scan(&begun); err != nil || begun {
		return err
	}
	return r.LoadInitial(ctx, conn, demoStart)
}

// hourly tells the simulated time whenever a whole hour has passed.
func hourly(out io.Writer) func(demo.Progress) {
	var hour time.Time
	return func(p demo.Progress) {
		if h := p.Clock.UTC().Truncate(time.Hour); h.After(hour) {
			hour = h
			fmt.Fprintf(out, "simulated time %s, %d of %d transactions\n", h.Format(time.RFC3339), p.Next, p.End)
		}
	}
}

// writeProject puts freshet.yaml, the file with the source's address, and the definitions.
func writeProject(dir, url string) error {
	secret := filepath.Join(dir, "source.url")
	if err := os.WriteFile(secret, []byte(url+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "freshet.yaml"), []byte(demo.Config(dir, "file:"+secret)), 0o644); err != nil {
		return err
	}
	project, err := demo.Project()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "definitions")); err == nil {
		return nil // the user's own by now
	}
	return os.CopyFS(dir, project)
}

// showing is one demo run.
type showing struct {
	*system
	out    io.Writer
	dir    string
	once   bool
	begin  time.Time
	merges int
	cuts   int
}

func (d *showing) say(format string, args ...any) {
	//nolint:forbidigo // progress on the terminal; it is in no value
	fmt.Fprintf(d.out, "%6.1fs  %s\n", time.Since(d.begin).Seconds(), fmt.Sprintf(format, args...))
}

func runDemo(ctx context.Context, out io.Writer, dir string, speed float64, once bool) error {
	d := &showing{out: out, once: once, begin: time.Now()} //nolint:forbidigo // progress on the terminal
	var err error
	if d.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	pg, conn, err := startSource(ctx, out, d.dir)
	if err != nil {
		return err
	}
	defer pg.Stop(context.WithoutCancel(ctx)) //nolint:errcheck // a server that is left is replaced at the next start
	data, err := demo.Load("")
	if err != nil {
		return err
	}
	replayer := demo.New(data, demo.Options{
		From: demoStart, To: demoStart.Add(demoDays * 24 * time.Hour), Speed: speed, Hook: d.hour,
	})
	d.say("PostgreSQL %s is up; loading the flights of January 2013 up to the 29th", embedded.PostgresVersion)
	if err := loadMonth(ctx, replayer, conn); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	d.system, err = open(ctx, filepath.Join(d.dir, "freshet.yaml"), roles{capture: true, node: true, quiet: true}, log)
	if err != nil {
		return err
	}
	defer d.close()
	g, ctx := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(ctx)
	g.Go(func() error { return d.run(running) })
	g.Go(func() error {
		defer stop()
		return d.play(ctx, replayer, conn)
	})
	return g.Wait()
}

// play is the demonstration itself.
func (d *showing) play(ctx context.Context, r *demo.Replayer, conn *pgx.Conn) error {
	if err := d.snapshotted(ctx); err != nil {
		return err
	}
	d.say("the first snapshot is folded; first lookup:")
	if err := d.firstLookup(ctx); err != nil {
		return err
	}
	if err := r.Run(ctx, conn); err != nil {
		return err
	}
	c := r.Progress().Counts
	d.say("all is streamed, here: %d changes in %d transactions (%d rolled back), %d moves, %d cancellations, %d dimension changes",
		c.Changes(), c.Transactions, c.RolledBack, c.Moves, c.Cancellations, c.DimensionInserts+c.DimensionUpdates+c.DimensionDeletes)
	if !d.once {
		d.say("look around: freshet views · freshet get plane_delays N14228 · freshet table list -c %s; interrupt to end", filepath.Join(d.dir, "freshet.yaml"))
		<-ctx.Done()
		return nil
	}
	return d.compare(ctx)
}

// snapshotted waits until every partition has folded the first snapshot.
func (d *showing) snapshotted(ctx context.Context) error {
	for _, g := range d.catalog.Groups {
		for _, p := range d.node.Partitions(g.Name) {
			for {
				moved := p.Moved()
				if p.Meta().Done {
					break
				}
				select {
				case <-moved:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
	}
	return nil
}

// firstLookup asks over gRPC, as any client does, for the first plane that the source has.
func (d *showing) firstLookup(ctx context.Context) error {
	c, err := d.source.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	var plane string
	if err := c.QueryRow(ctx, "select tailnum from public.flights where arr_delay is not null order by sched_dep desc, id limit 1").Scan(&plane); err != nil {
		return err
	}
	conn, err := grpc.NewClient(d.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing depends on a clean goodbye
	r, err := freshetv1.NewFeatureStoreClient(conn).Get(ctx, &freshetv1.GetRequest{
		Selections: []*freshetv1.Selection{{View: "plane_delays"}},
		Keys:       []*freshetv1.Key{{Values: []*freshetv1.Value{{Kind: &freshetv1.Value_String_{String_: plane}}}}},
	})
	if err != nil {
		return err
	}
	var parts []string
	for i, v := range r.Rows[0].Values {
		parts = append(parts, fmt.Sprintf("%s=%v", r.Columns[0].Names[i], plain(v)))
	}
	d.say("plane_delays %s: %s %s", plane, r.Rows[0].Status, strings.Join(parts, " "))
	return nil
}

// hour is called at each simulated hour, when nothing of it is committed: it merges every view at one
// cut, runs what is due, and every third hour keeps what the source says at that cut.
func (d *showing) hour(ctx context.Context, hour time.Time) error {
	var cut change.CutRecord
	if d.once && hour.Hour()%truthEvery == 0 {
		t, err := d.ask(ctx, d.catalog.Views)
		if err != nil {
			return err
		}
		if err := d.keep(t); err != nil {
			return err
		}
		cut = t.cut
		d.cuts++
	} else {
		var err error
		if cut, err = d.cut(ctx); err != nil {
			return err
		}
	}
	for _, v := range d.catalog.Views {
		if _, err := d.merge(ctx, v.Name, cut); err != nil {
			return err
		}
		d.merges++
	}
	if err := d.tick(ctx, time.UnixMicro(cut.LogTime).UTC()); err != nil {
		return err
	}
	if hour.Hour()%6 == 0 || !d.once {
		d.say("simulated %s: %s, %d merges so far", hour.Format("2006-01-02 15:04"), cut.ID, d.merges)
	}
	return nil
}

func (d *showing) truthDir() string { return filepath.Join(d.dir, "truth") }

// kept is a truth as a file.
type kept struct {
	Cut  change.CutRecord            `json:"cut"`
	Rows map[string]*verify.Expected `json:"rows"`
}

// keep writes what the source said, so that history can be compared when all is streamed.
func (d *showing) keep(t truth) error {
	if err := os.MkdirAll(d.truthDir(), 0o755); err != nil {
		return err
	}
	b, err := json.Marshal(kept{t.cut, t.rows})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.truthDir(), fmt.Sprintf("%010d.json", t.cut.Ordinal)), b, 0o644)
}

// compare is the end of demo --once: every place at one cut, then history as of every kept cut.
func (d *showing) compare(ctx context.Context) error {
	reports, err := d.verify(ctx, nil, func(m string) { d.say("%s", m) })
	if err != nil {
		return err
	}
	for _, r := range reports {
		if c := r.Counts; c != nil {
			d.say("%s: %d deltas: %d of the snapshot, %d changes, %d retractions, %d entries into windows, %d expiries out of them; %d are deletions; %d rows moved to another entity",
				r.View, c.Total, c.Causes["snapshot"], c.Causes["change"], c.Causes["retraction"], c.Causes["entry"], c.Causes["expiry"], c.ByOp["delete"], d.moves(r.View))
		}
	}
	past, err := d.compareHistory(ctx)
	if err != nil {
		return err
	}
	d.summary(ctx, reports)
	return verify.Judge(slices.Concat(reports, past))
}

func (d *showing) compareHistory(ctx context.Context) ([]*verify.Report, error) {
	names, err := filepath.Glob(filepath.Join(d.truthDir(), "*.json"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	files := verify.Files{Store: d.store, LocalDir: d.localDir()}
	var reports []*verify.Report
	rows := map[string]int{}
	for _, name := range names {
		var k kept
		b, err := os.ReadFile(name)
		if err == nil {
			err = json.Unmarshal(b, &k)
		}
		if err != nil {
			return nil, fault.Wrap(fault.Failed, err, "what the source said cannot be read").At("%s", name)
		}
		for _, v := range d.catalog.Views {
			r, err := verify.History(ctx, files, v, k.Cut, k.Rows[v.Name])
			if err != nil {
				return nil, err
			}
			rows[v.Name] += r.Rows
			if !r.Equal() {
				d.say("%s: %s", k.Cut.ID, line(r))
			}
			reports = append(reports, r)
		}
	}
	d.say("history as of %d hourly cuts against the source at each: %v rows compared", len(names), rows)
	return reports, nil
}

// moves gives how many rows of a view went to another entity.
func (d *showing) moves(view string) uint64 {
	n := uint64(0)
	for _, g := range d.catalog.Groups {
		for _, p := range d.node.Partitions(g.Name) {
			n += p.Meta().Moves[view]
		}
	}
	return n
}

// summary prints what happened and where to look.
func (d *showing) summary(ctx context.Context, reports []*verify.Report) {
	if rs, err := d.pipelineRecords(ctx, ""); err == nil {
		ok := 0
		for _, r := range rs {
			if r.Outcome == pipeline.OK {
				ok++
			}
		}
		d.say("nightly pipelines: %d of %d went well", ok, len(rs))
	}
	places := map[string]int{}
	for _, r := range reports {
		places[r.Place] += r.Rows
	}
	d.say("rows compared by place: %v; %d merges, truth kept at %d cuts", places, d.merges, d.cuts)
	d.say("kept in %s: freshet table list -c %s", d.dir, filepath.Join(d.dir, "freshet.yaml"))
	d.say("peak memory %d MB (without PostgreSQL)", cmp.Or(peakMB(), 0))
}
