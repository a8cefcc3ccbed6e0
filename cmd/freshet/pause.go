package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/change"
)

// turnedView is what pause and resume answer.
type turnedView struct {
	View     string       `json:"view"`
	Action   string       `json:"action"`
	Snapshot *snapshotRow `json:"snapshot,omitempty"` // that a resumed view waits for
	Position string       `json:"position,omitempty"` // where it switched, or was compared
	// Generations are those of the view when that was done, or is shown.
	Generations *generations `json:"generations,omitempty"`
}

// View pauses a view, or lets it go on, or does something with its generations. What only the process that captures can do, that one does.
func (a admin) View(in *freshetv1.ViewRequest, out freshetv1.Admin_ViewServer) error {
	if in.Action == showGenerations {
		return a.show(in, out)
	}
	var r *capture.Runner
	if a.s.runner != nil {
		r = a.s.runner.OfView(in.View)
	}
	if r == nil {
		if done, err := a.passOn(in, out); done || err != nil {
			return err
		}
		if err := a.needsCapture(); err != nil {
			return err
		}
		return status.Errorf(codes.NotFound, "there is no view %q here: freshet views shows them", in.View)
	}
	turned := turnedView{View: in.View, Action: in.Action}
	switch in.Action {
	case change.Pause:
		return finish(out, turned, r.ViewPause(out.Context(), in.View))
	case change.Switch, change.Compare:
		return a.turnHeld(r, turned, out)
	case change.Resume:
	default:
		return unknownAction(in.Action, "pause, resume, switch, compare, show")
	}
	j, err := r.ViewResume(out.Context(), in.View)
	if err == nil && in.Wait {
		err = a.s.followSnapshot(out, j.ID)
	}
	if err != nil {
		return answer(err)
	}
	row := rowOf(a.s.snapshotJob(j.ID))
	turned.Snapshot = &row
	return finish(out, turned, nil)
}

func turnCommand(action string, wait *bool, c *cobra.Command) *cobra.Command {
	return remoteFor(c, 0, func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error {
		r, err := freshetv1.NewAdminClient(conn).View(ctx, &freshetv1.ViewRequest{Action: action, View: args[0], Wait: wait != nil && !*wait})
		if err != nil {
			return err
		}
		b, err := followPace(r)
		if err != nil {
			if c.Context().Err() != nil && action == change.Resume {
				fmt.Fprintln(os.Stderr, "the view goes on all the same: freshet snapshot list shows how far it is")
			}
			return err
		}
		if output != "table" {
			return writeJSON(c.OutOrStdout(), b, output)
		}
		var t turnedView
		if err := json.Unmarshal(b, &t); err != nil {
			return err
		}
		if t.Snapshot == nil {
			fmt.Fprintf(c.OutOrStdout(), "%s is paused. It goes on with: freshet resume %s\n", t.View, t.View)
		} else {
			fmt.Fprintf(c.OutOrStdout(), "%s goes on with the end of %s, which is %s: %d rows read\n", t.View, t.Snapshot.ID, t.Snapshot.Status, t.Snapshot.Read)
		}
		return nil
	})
}

func pauseCommand() *cobra.Command {
	return turnCommand(change.Pause, nil, &cobra.Command{
		Use: "pause VIEW", Short: "Let a view stand still; everything else goes on", Example: "  freshet pause plane_delays\n  freshet pause plane_delays -c freshet.yaml", Args: cobra.ExactArgs(1),
		Long: "Lets a view stand still from one commit on, in every partition at the same one, also over restarts.\n" +
			"Lookups say UNAVAILABLE with the reason, no deltas come, and merges of the view are held. A new epoch (up --new-snapshot) ends a pause.",
	})
}

func resumeCommand() *cobra.Command {
	noWait := false
	c := &cobra.Command{
		Use: "resume VIEW", Short: "Let a view go on that was paused", Example: "  freshet resume plane_delays\n  freshet resume plane_delays --no-wait\n  freshet resume plane_delays -c freshet.yaml", Args: cobra.ExactArgs(1),
		Long: "Reads the view's source again while the stream goes on. With its end the view has every row, in all partitions at one place,\n" +
			"and one delta comes of each entity that is another than it was.",
	}
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not follow it until its end")
	return turnCommand(change.Resume, &noWait, c)
}
