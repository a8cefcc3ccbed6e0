package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/plan"
	"github.com/freshet-io/freshet/internal/topic"
)

// A process computes by the definitions it starts with, and keeps them in the registry topic. So the next
// start knows by what definitions all that is kept was computed, and refuses what would mix two meanings: features of
// another layout, a view that has not seen the log before now. docs/decisions/0014 says what can be made how.

func applyCommand() *cobra.Command {
	var o planOptions
	var dryRun, allowDrop, hold bool
	c := &cobra.Command{
		Use: "apply [-f DIR] [-c FILE]", Short: "Check definitions and keep them as those that the next start runs",
		Long: "Check definitions, show the plan, and keep them in the registry topic as those that the next start of up, capture or node runs.\n" +
			"This version makes changes at a start: one that needs more is refused, with the way. A view more is read beside the stream, and one that is defined anew is built there, while it is shown as it was.",
		Example: "  freshet apply -c freshet.yaml --dry-run\n  freshet apply -f next/definitions -c freshet.yaml --allow-drop", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := planned(c.Context(), o)
			if err != nil {
				return err
			}
			cfg, err := config.Load(o.file, os.LookupEnv)
			if err != nil {
				return err
			}
			if err := p.print(c.OutOrStdout(), p.items()); err != nil {
				return err
			}
			if err := admissible(p.steps, false, allowDrop); err != nil || dryRun {
				return err
			}
			if hold && !slices.ContainsFunc(p.steps, func(s plan.Step) bool { return s.Kind == "view" && s.Way == plan.NextGeneration }) {
				return fault.New(fault.Usage, "--hold is of views that are defined anew and built beside what is shown, and there is none").ToMend("freshet plan shows what changes; without --hold it is kept")
			}
			wanted, err := wants(cfg, p.catalog.Definitions)
			if err != nil {
				return err
			}
			there, err := withRegistry(c.Context(), cfg, func(_ string, r *topic.Registry) error {
				return keepDefinitions(c.Context(), r, p.catalog.Definitions, p.steps, keeping{parts: wanted.parts, hold: hold})
			})
			if err != nil {
				return err
			}
			if !there {
				return fault.New(fault.Unreachable, "nothing runs, so there is no registry to keep the definitions in").
					ToMend("freshet up -c %s  starts with them and keeps them itself", o.file)
			}
			if hold {
				fmt.Fprintln(c.OutOrStdout(), "Views that are defined anew are held when they are built: freshet compare VIEW says how they differ, freshet switch VIEW shows them.")
			}
			fmt.Fprintln(c.OutOrStdout(), "Kept. The next start of freshet up, capture or node runs them.")
			return nil
		},
	}
	configFlag(c, &o.file)
	definitionsFlag(c, &o.dir)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be done, and whether it is refused")
	c.Flags().BoolVar(&hold, "hold", false, "views that are defined anew are built and compared, and not shown before freshet switch VIEW")
	c.Flags().BoolVar(&allowDrop, "allow-drop", false, "keep definitions that lack what readers may use")
	c.Flags().Float64Var(&o.rate, "rate", plan.DefaultRate, "rows a second that are read and folded, for the times")
	return c
}

// admit refuses definitions that do not go with what is kept, and keeps those that do, for the next start.
func (s *system) admit(ctx context.Context, tables []*feature.Table) error {
	kept, err := s.registry.Definitions()
	if err != nil {
		return err
	}
	var steps []plan.Step
	if kept != nil {
		steps = plan.Compare(plan.Set{Definitions: kept, Tables: tables}, plan.Set{Definitions: s.defs, Tables: tables}, plan.Options{Slots: len(s.wanted.parts)})
		if err := admissible(steps, s.roles.newSnapshot, s.roles.allowDrop); err != nil {
			return err
		}
	}
	if s.roles.newSnapshot {
		if err := s.forgetAdded(ctx); err != nil {
			return err
		}
	}
	if err := keepDefinitions(ctx, s.registry, s.defs, steps, keeping{parts: s.wanted.parts, begins: s.begins, point: s.point}); err != nil {
		return err
	}
	if len(steps) > 0 {
		s.point("definitions.kept")
	}
	s.added = s.registry.Added()
	return leaveCopy(s.cfg, s.defs)
}

func stepText(s plan.Step) string {
	return fmt.Sprintf("%s %s (%s)", s.Kind, s.Name, strings.Join(append([]string{string(s.Effect)}, s.Reasons...), "; "))
}

// admissible tells whether a start can make a change: with a new snapshot, and with what is dropped.
func admissible(steps []plan.Step, newSnapshot, allowDrop bool) error {
	var told, mend []string
	var where string
	dropped, of := false, ""
	for _, s := range steps {
		if s.Kind == "feature" && of != "" && strings.HasPrefix(s.Name, of+".") {
			told = append(told, stepText(s))
			continue
		}
		of = ""
		drop := s.Effect == plan.Destructive && (s.Way == plan.AtStart || s.Way == plan.NextGeneration) && !allowDrop
		if !drop && (s.Way == "" || s.Way == plan.AtStart || s.Way == plan.Backfill || s.Way == plan.NextGeneration || s.Way == plan.Grow && !newSnapshot || s.Way == plan.NewSnapshot && newSnapshot) {
			continue
		}
		dropped = dropped || drop
		if where == "" {
			where = s.Where
		}
		told, of = append(told, stepText(s)), s.Name
		if s.Way == plan.Grow {
			s.ToMend = "Let group " + s.Name + " grow first, by a start without --new-snapshot"
		}
		if s.ToMend != "" {
			mend = append(mend, s.ToMend+".")
		}
	}
	if told == nil {
		return nil
	}
	e := fault.New(fault.Held, "the definitions differ from those that run in what a start cannot make: %s", strings.Join(told, ", ")).At("%s", where)
	switch way := plan.Hardest(steps); {
	case mend != nil:
		return e.ToMend("%s", strings.Join(mend, " "))
	case way == plan.Beside:
		return e.ToMend("freshet plan shows the change. Put the definitions back; or run the new ones beside what runs, with another name: and data_dir:, and let readers change over")
	case way == plan.NewSnapshot && !newSnapshot:
		return e.ToMend("freshet plan shows the change and its price; freshet up --new-snapshot computes everything anew by the new definitions")
	case dropped:
		return e.ToMend("freshet plan shows the change; --allow-drop makes it, for up, capture and apply")
	default:
		return e.ToMend("freshet plan shows the change")
	}
}
