package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/doctor"
	"github.com/freshet-io/freshet/internal/fault"
)

// slotReport is what the source says of the slot. Sizes are in bytes.
type slotReport struct {
	Slot         string   `json:"slot"`
	Exists       bool     `json:"exists"`
	Stage        string   `json:"stage"`
	Active       bool     `json:"active"`
	ActivePID    int32    `json:"active_pid,omitempty"`
	Status       string   `json:"wal_status"`
	Retained     int64    `json:"retained_bytes"`
	Safe         *int64   `json:"safe_bytes"`       // null: not bounded, or lost
	Rate         *float64 `json:"bytes_per_second"` // null: not measured
	Left         *float64 `json:"seconds_left"`     // until the slot is lost; null: not known
	Restart      string   `json:"restart_lsn"`
	Confirmed    string   `json:"confirmed_lsn"`
	Current      string   `json:"current_lsn"`
	Plugin       string   `json:"plugin"`
	Database     string   `json:"database"`
	Temporary    bool     `json:"temporary"`
	Failover     bool     `json:"failover"`
	Synced       bool     `json:"synced"`
	Invalidation string   `json:"invalidation,omitempty"`
	Inactive     string   `json:"inactive_since,omitempty"`
	Advice       []advice `json:"advice"`
}

// advice is one thing to know about the slot, and what to do.
type advice struct {
	What string `json:"what"`
	Mend string `json:"mend,omitempty"`
}

func slotCommand() *cobra.Command {
	var file, output, name string
	var over time.Duration
	c := &cobra.Command{
		Use: "slot [-c FILE]", Short: "What each replication slot costs its server, and what to do about it; nothing needs to run", Args: cobra.NoArgs,
		Example: "  freshet slot -c freshet.yaml\n  freshet slot -c freshet.yaml --over 30s    # with its rate, and the time left until it is lost",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			cfg, err := config.Load(file, os.LookupEnv)
			if err != nil {
				return err
			}
			sources, err := chosen(cfg, name)
			if err != nil {
				return err
			}
			reports, err := lookAtSlots(c.Context(), cfg, sources, over)
			if err != nil {
				return err
			}
			if output == "table" {
				err = printSlots(c.OutOrStdout(), reports)
			} else {
				var b []byte
				if b, err = json.Marshal(reports); err == nil {
					err = writeJSON(c.OutOrStdout(), b, output)
				}
			}
			if err != nil {
				return err
			}
			return verdict(reports)
		},
	}
	configFlag(c, &file)
	outputFlag(c, &output)
	c.Flags().StringVar(&name, "slot", "", "this one of source.postgres.slots; left out: each")
	c.Flags().DurationVar(&over, "over", 0, "measure for so long, to tell the rate and the time left")
	return c
}

const slotLooks = 10 // while the rate is measured

// lookAtSlots asks the source, once or for a while, for all slots at the same time.
func lookAtSlots(ctx context.Context, cfg *config.Config, sources []pgwire.Source, over time.Duration) ([]*slotReport, error) {
	out := make([]*slotReport, len(sources))
	g, ctx := errgroup.WithContext(ctx)
	for i, source := range sources {
		g.Go(func() (err error) {
			out[i], err = lookAtSlot(ctx, cfg, source, over)
			return err
		})
	}
	return out, g.Wait()
}

func lookAtSlot(ctx context.Context, cfg *config.Config, source pgwire.Source, over time.Duration) (*slotReport, error) {
	c, err := source.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	l := limits(cfg.Source.SlotGuard)
	if err := l.Check(); err != nil {
		return nil, err
	}
	l.HalfLife = over * 9 / 10 // what was measured for all of it is sure
	look := func(s slotguard.State) (pgwire.SlotState, slotguard.State, error) {
		st, err := source.SlotState(ctx, c)
		if err != nil {
			return st, s, err
		}
		s, _ = slotguard.Step(s, doctor.Measured(source.Slot, st, time.Now()), l) //nolint:forbidigo // a rate for people
		return st, s, nil
	}
	st, state, err := look(slotguard.State{})
	if err != nil {
		return nil, err
	}
	if over > 0 && st.Exists {
		tick := time.NewTicker(max(over/slotLooks, time.Millisecond))
		defer tick.Stop()
		for range slotLooks {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if st, state, err = look(state); err != nil {
				return nil, err
			}
		}
	}
	return reportOf(ctx, c, source.Slot, st, state, l, over > 0)
}

func reportOf(ctx context.Context, c *pgx.Conn, slot string, st pgwire.SlotState, state slotguard.State, l slotguard.Limits, rated bool) (*slotReport, error) {
	m := state.Last
	r := &slotReport{
		Slot: slot, Exists: st.Exists, Stage: state.Stage.String(), Active: m.Active, ActivePID: st.ActivePID, Status: st.Status,
		Retained: st.Retained, Safe: st.SafeWAL, Restart: m.Restart.String(), Confirmed: m.Confirmed.String(), Current: m.Current.String(),
		Plugin: st.Plugin, Database: st.Database, Temporary: st.Temporary, Failover: st.Failover, Synced: st.Synced, Invalidation: st.Invalidation,
	}
	if !m.InactiveSince.IsZero() {
		r.Inactive = m.InactiveSince.Format(time.RFC3339)
	}
	if rated {
		r.Rate = &state.Rate
		if left, ok := state.Left(); ok {
			r.Left = new(left.Seconds())
		}
	}
	if st.Exists {
		_, actions := slotguard.Step(slotguard.State{}, m, l) // as at the first look: what is, not what has changed
		if n := len(actions); n > 0 {                         // the last one is of the highest stage
			r.Advice = append(r.Advice, advice{actions[n-1].What, actions[n-1].Mend})
		}
	}
	p, err := slotguard.ReadPrimary(ctx, c, slot)
	if err != nil {
		return nil, err
	}
	for _, f := range slotguard.Failover(p, nil) {
		r.Advice = append(r.Advice, advice{f.Where + ": " + f.What, doctor.Mend(f)})
	}
	return r, nil
}

func printSlots(out io.Writer, reports []*slotReport) error {
	for i, r := range reports {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if err := r.print(out); err != nil {
			return err
		}
	}
	return nil
}

func (r *slotReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	row("slot", "%s", r.Slot)
	row("exists", "%t", r.Exists)
	if r.Exists {
		row("stage", "%s", r.Stage)
		switch {
		case r.Active:
			row("active", "true, process %d of the server", r.ActivePID)
		case r.Inactive != "":
			row("active", "false, since %s", r.Inactive)
		default:
			row("active", "false")
		}
		row("wal_status", "%s", r.Status)
		if r.Invalidation != "" {
			row("invalidation", "%s", r.Invalidation)
		}
		row("retained", "%s", mib(r.Retained))
		if r.Safe != nil {
			row("safe", "%s", mib(*r.Safe))
		} else {
			row("safe", "not bounded by the server")
		}
		if r.Rate != nil {
			row("rate", "%s/s", mib(int64(*r.Rate)))
		}
		if r.Left != nil {
			row("time left", "%s", time.Duration(*r.Left*float64(time.Second)).Round(time.Second))
		}
		row("restart_lsn", "%s", r.Restart)
		row("confirmed_lsn", "%s", r.Confirmed)
		row("current_lsn", "%s", r.Current)
		row("database", "%s", r.Database)
		row("plugin", "%s", r.Plugin)
		row("failover", "%t, synced %t", r.Failover, r.Synced)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, a := range r.Advice {
		fmt.Fprintf(out, "\n%s\n", a.What)
		if a.Mend != "" {
			fmt.Fprintf(out, "  to mend: %s\n", a.Mend)
		}
	}
	return nil
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// verdict is the error of the first slot that does not serve.
func verdict(reports []*slotReport) error {
	for _, r := range reports {
		if err := r.verdict(); err != nil {
			return err
		}
	}
	return nil
}

func (r *slotReport) verdict() error {
	switch {
	case !r.Exists:
		return fault.New(fault.NotFound, "there is no slot %s", r.Slot).At("source.postgres.slot").
			ToMend("start capture, which makes it; if there was one, what was committed since is in no topic: freshet capture --new-snapshot")
	case r.Stage == slotguard.Lost.String():
		return fault.New(fault.Failed, "slot %s is lost", r.Slot).At("source.postgres.slot").ToMend("see above")
	}
	return nil
}
