package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/position"
)

// turnHeld switches to a generation that is held, or has it compared, and waits until the partitions that are here have done it.
func (a admin) turnHeld(r *capture.Runner, turned turnedView, out freshetv1.Admin_ViewServer) error {
	do := r.ViewSwitch
	if turned.Action == change.Compare {
		do = r.ViewCompare
	}
	at, err := do(out.Context(), turned.View)
	if err == nil {
		turned.Position = at.String()
		err = a.s.waitFolded(out.Context(), a.s.catalog.View(turned.View).Group.Name, at)
	}
	return finish(out, turned, err)
}

// waitFolded waits until the partitions of a group that are here have folded a control record.
func (s *system) waitFolded(ctx context.Context, group string, at position.Position) error {
	if s.node == nil {
		return nil
	}
	for _, p := range s.node.Partitions(group) {
		for {
			moved := p.Moved()
			if !at.After(p.Position()) {
				break
			}
			select {
			case <-moved:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

func compareCommand() *cobra.Command {
	anew := false
	c := &cobra.Command{
		Use: "compare VIEW", Short: "Say how the generation of a view that is built differs from the one that is shown", Args: cobra.ExactArgs(1),
		Example: "  freshet compare plane_delays\n  freshet compare plane_delays --anew -o json",
		Long: "Shows what came of comparing the two generations of a view last, entity by entity: at the end of the snapshot by which the later one was built,\n" +
			"and, once it is shown, where it took the place of the other. --anew compares one that is held (freshet apply --hold) as it is now, at one commit.",
	}
	c.Flags().BoolVar(&anew, "anew", false, "compare them as they are now")
	return remoteLong(c, func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error {
		if anew {
			if _, err := turnView(ctx, conn, change.Compare, args[0]); err != nil {
				return err
			}
		}
		r, err := freshetv1.NewFeatureStoreClient(conn).Describe(ctx, &freshetv1.DescribeRequest{View: args[0]})
		if err != nil {
			return err
		}
		if output != "table" {
			return json.NewEncoder(c.OutOrStdout()).Encode(r.Views[0])
		}
		text := generationText(r.Views[0])
		if text == "" {
			text = fmt.Sprintf("%s: generation %d is shown; no two were compared", args[0], r.Views[0].Shown)
		}
		fmt.Fprintln(c.OutOrStdout(), text)
		return nil
	})
}

func switchCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "switch VIEW", Short: "Let the generation of a view that is held take the place of the one that is shown", Args: cobra.ExactArgs(1),
		Example: "  freshet compare plane_delays\n  freshet switch plane_delays",
		Long: "A view that freshet apply --hold has changed is built beside the one that is shown, and compared with it, and not shown. This shows it, in every\n" +
			"partition from one commit on; where it is not built yet, as soon as it is.",
	}
	return remoteLong(c, func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error {
		t, err := turnView(ctx, conn, change.Switch, args[0])
		if err != nil {
			return err
		}
		if output != "table" {
			return json.NewEncoder(c.OutOrStdout()).Encode(t)
		}
		fmt.Fprintf(c.OutOrStdout(), "%s switches at %s. What came of it: freshet compare %s\n", t.View, t.Position, t.View)
		return nil
	})
}

// turnView has the capture do something to a view.
func turnView(ctx context.Context, conn *grpc.ClientConn, action, view string) (t turnedView, err error) {
	r, err := freshetv1.NewAdminClient(conn).View(ctx, &freshetv1.ViewRequest{Action: action, View: view})
	if err != nil {
		return t, err
	}
	b, err := followPace(r)
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	return t, err
}

// generationText says which generation of a view is shown, if another one is built, and how the two differ that were compared
// last. Empty: there is nothing to say.
func generationText(v *freshetv1.View) string {
	var lines []string
	if v.Shown > 0 && v.Shown < v.Generation {
		text := fmt.Sprintf("%s: generation %d is built beside generation %d, which is shown until then", v.Name, v.Generation, v.Shown)
		if v.Held {
			text = fmt.Sprintf("%s: generation %d is held, and generation %d is shown until: freshet switch %s", v.Name, v.Generation, v.Shown, v.Name)
		}
		lines = append(lines, text)
	}
	if c := v.Compared; c != nil {
		lines = append(lines, v.Name+": "+comparisonText(c, v.Partitions))
	}
	return strings.Join(lines, "\n")
}

func comparisonText(c *freshetv1.Comparison, partitions int32) string {
	text := fmt.Sprintf("generation %d compared with %d at %s, log time %v: %d entities are equal, %d differ only in columns that are new, %d in others, %d are not shown any more, %d are shown now",
		c.To, c.From, c.Position, instant(&c.LogTime), c.Equal, c.Wider, c.Differ, c.OnlyOld, c.OnlyNew)
	if c.Partitions < partitions {
		text += fmt.Sprintf(" (%d of %d partitions)", c.Partitions, partitions)
	}
	names := slices.SortedFunc(maps.Keys(c.Columns), func(a, b string) int {
		return cmp.Or(-cmp.Compare(c.Columns[a], c.Columns[b]), strings.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", name, c.Columns[name])
	}
	if len(names) > 0 {
		text += "\n  columns, in how many of both: " + strings.Join(names, ", ")
	}
	return text
}
