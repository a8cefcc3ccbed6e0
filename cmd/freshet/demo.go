package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/embedded"
)

func demoCommand() *cobra.Command {
	c := &cobra.Command{Use: "demo", Short: "Real flight data to try freshet on"}
	var dir string
	var speed float64
	source := &cobra.Command{
		Use: "source --dir DIR", Short: "Run PostgreSQL with the flights of January 2013 and replay the last three days",
		Example: "  freshet demo source --dir /tmp/flights --speed 600\n  freshet up -c /tmp/flights/freshet.yaml     # in another terminal",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return demoSource(c, dir, speed) },
	}
	source.Flags().StringVar(&dir, "dir", "demo-data", "where everything is kept; as root every parent must be enterable by others")
	source.Flags().Float64Var(&speed, "speed", 600, "simulated seconds per second; 0: as fast as possible")
	c.AddCommand(source)
	return c
}

func demoSource(c *cobra.Command, dir string, speed float64) error {
	ctx, out := c.Context(), c.ErrOrStderr()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
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
		return err
	}
	defer pg.Stop(c.Root().Context()) //nolint:errcheck // a server that is left is replaced at the next start
	if err := writeProject(dir, pg.URL()); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, pg.URL())
	if err != nil {
		return err
	}
	if err := demo.Install(ctx, conn); err != nil {
		return err
	}
	data, err := demo.Load("")
	if err != nil {
		return err
	}
	from := time.Date(2013, 1, 29, 0, 0, 0, 0, time.UTC)
	r := demo.New(data, demo.Options{
		From: from, To: from.Add(72 * time.Hour), Speed: speed,
		Events: demo.Events{Committed: hourly(c)},
	})
	fmt.Fprintf(out, "PostgreSQL listens at port %d; now run: freshet up -c %s\n", pg.Port(), filepath.Join(dir, "freshet.yaml"))
	if err := r.Run(ctx, conn); err != nil {
		return err
	}
	fmt.Fprintln(out, "the three days are replayed; the database stays up until you interrupt")
	<-ctx.Done()
	return nil
}

// hourly tells the simulated time whenever a whole hour has passed.
func hourly(c *cobra.Command) func(demo.Progress) {
	var hour time.Time
	return func(p demo.Progress) {
		if h := p.Clock.UTC().Truncate(time.Hour); h.After(hour) {
			hour = h
			fmt.Fprintf(c.ErrOrStderr(), "simulated time %s, %d of %d transactions\n", h.Format(time.RFC3339), p.Next, p.End)
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
