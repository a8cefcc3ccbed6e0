package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
)

func compareCommand() *cobra.Command {
	anew := false
	c := &cobra.Command{
		Use: "compare VIEW", Short: "Say how the generation of a view that is built differs from the one that is shown", Args: cobra.ExactArgs(1),
		Example: "  freshet compare plane_delays\n  freshet compare plane_delays --anew -o json\n  freshet compare plane_delays --anew --timeout 5m",
		Long: "Shows what came of comparing the two generations of a view last, entity by entity: at the end of the snapshot by which the later one was built,\n" +
			"and, once it is shown, where it took the place of the other. --anew compares one that is held (freshet apply --hold) as it is now, at one commit.\n" +
			"Adds up the partitions of all nodes, whichever process is asked, and says which are missing and why: exit 7 where a node does not answer.\n" +
			"--anew waits until all partitions have compared, and tells which are awaited; --timeout bounds that.",
	}
	c.Flags().BoolVar(&anew, "anew", false, "compare them as they are now")
	return remoteLong(c, func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error {
		action := showGenerations
		if anew {
			action = change.Compare
		}
		t, err := turnView(ctx, conn, action, args[0])
		if err != nil {
			return err
		}
		if output != "table" {
			err = json.NewEncoder(c.OutOrStdout()).Encode(t.Generations)
		} else {
			fmt.Fprint(c.OutOrStdout(), t.Generations.text())
		}
		return errors.Join(err, t.Generations.silent())
	})
}

func switchCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "switch VIEW", Short: "Let the generation of a view that is held take the place of the one that is shown", Args: cobra.ExactArgs(1),
		Example: "  freshet compare plane_delays\n  freshet switch plane_delays\n  freshet switch plane_delays --timeout 5m",
		Long: "A view that freshet apply --hold has changed is built beside the one that is shown, and compared with it, and not shown. This shows it, in every\n" +
			"partition from one commit on; where it is not built yet, as soon as it is. Waits until all partitions of all nodes have passed that commit, and tells which are\n" +
			"awaited. When --timeout ends the waiting they switch all the same.",
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

// turnView has something done to a view, and follows it.
func turnView(ctx context.Context, conn *grpc.ClientConn, action, view string) (t turnedView, err error) {
	r, err := freshetv1.NewAdminClient(conn).View(ctx, &freshetv1.ViewRequest{Action: action, View: view})
	if err != nil {
		return t, err
	}
	waits := &lastMessage{receiver: r}
	b, err := follow(waits)
	if err != nil && status.Code(err) == codes.DeadlineExceeded && waits.text != "" {
		return t, fault.New(fault.Timeout, "not all partitions of %s answered in time: %s", view, waits.text).
			ToMend("it comes to pass all the same where it is folded: freshet compare %s shows how far that is; or give it longer with --timeout", view)
	}
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	return t, err
}

// lastMessage remembers what a long call told last.
type lastMessage struct {
	receiver
	text string
}

func (m *lastMessage) Recv() (*freshetv1.Progress, error) {
	p, err := m.receiver.Recv()
	if err == nil {
		m.text = p.Message
	}
	return p, err
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
