package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/internal/fault"
)

const progressEvery = 500 * time.Millisecond

// snapshotRow is a snapshot beside the stream in a listing.
type snapshotRow struct {
	ID       string `json:"id"`
	Slot     string `json:"slot"`
	Table    string `json:"table"`
	Status   string `json:"status"`
	Rows     uint64 `json:"rows"` // published
	Read     uint64 `json:"read"`
	Estimate *int64 `json:"estimate"` // of the table's rows; null: not known
	Where    string `json:"where,omitempty"`
	Why      string `json:"why,omitempty"`
	Initial  string `json:"initial,omitempty"`
	Error    string `json:"error,omitempty"`
	Waits    string `json:"waits,omitempty"` // for which nodes it waits, or no more
}

func rowOf(j capture.SlotJob) snapshotRow {
	r := snapshotRow{
		ID: j.ID, Slot: j.Slot, Table: j.Table, Status: string(j.Status), Rows: j.Rows, Read: j.Read,
		Where: j.Where, Why: j.Why, Initial: j.Initial, Error: j.Error, Waits: j.Waits,
	}
	if j.Estimate > 0 {
		r.Estimate = &j.Estimate
	}
	return r
}

// needsCapture refuses what only the process that captures can do.
func (a admin) needsCapture() error {
	if a.s.runner == nil {
		return status.Error(codes.FailedPrecondition, "this process does not capture: ask the one that does, with --server CAPTURE")
	}
	return nil
}

// Snapshot runs, pauses, resumes, cancels or lists snapshots beside the stream.
func (a admin) Snapshot(in *freshetv1.SnapshotRequest, out freshetv1.Admin_SnapshotServer) error {
	if err := a.needsCapture(); err != nil {
		return err
	}
	ctx, r, id := out.Context(), a.s.runner, in.Id
	var err error
	switch in.Action {
	case "list":
		rows := []snapshotRow{}
		for _, j := range r.Snapshots() {
			if in.Table == "" || in.Table == j.Table {
				rows = append(rows, rowOf(j))
			}
		}
		return finish(out, rows, nil)
	case "run":
		var j capture.Job
		if j, err = r.SnapshotRun(ctx, in.Table, in.Where); err == nil {
			id = j.ID
		}
	case "pause":
		err = r.HasJob(id).SnapshotPause(ctx, id)
	case "resume":
		err = r.HasJob(id).SnapshotResume(ctx, id)
	case "cancel":
		err = r.HasJob(id).SnapshotCancel(ctx, id)
	default:
		return unknownAction(in.Action, "run, pause, resume, cancel, list")
	}
	if err != nil {
		return answer(err)
	}
	if in.Wait && (in.Action == "run" || in.Action == "resume") {
		err = a.s.followSnapshot(out, id)
	}
	if err != nil {
		return answer(err)
	}
	return finish(out, []snapshotRow{rowOf(a.s.snapshotJob(id))}, nil)
}

func (s *system) snapshotJob(id string) capture.SlotJob {
	r := s.runner.HasJob(id)
	jobs := r.Snapshots()
	if i := slices.IndexFunc(jobs, func(j capture.Job) bool { return j.ID == id }); i >= 0 {
		return capture.SlotJob{Job: jobs[i], Slot: r.Slot()}
	}
	return capture.SlotJob{Job: capture.Job{ID: id}}
}

// followSnapshot tells how far a snapshot is, until it does not run any more. It goes on when the caller is
// gone.
func (s *system) followSnapshot(p progress, id string) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var pace pace
	for {
		j := s.snapshotJob(id)
		guard := s.runner.HasJob(id).Guarded()
		message := pace.line(j.Job, time.Now()) //nolint:forbidigo // progress on the terminal
		if guard != nil && guard.State.Stage >= slotguard.Shed && j.Status == capture.JobRunning {
			message += "; it waits until the slot holds less of the source's log: freshet slot"
		}
		if j.Waits != "" {
			message += "; " + j.Waits + ": freshet nodes"
		}
		if err := p.Send(&freshetv1.Progress{Step: id, Count: int64(j.Read), Total: j.Estimate, Message: message}); err != nil {
			return err
		}
		switch j.Status {
		case capture.JobRunning:
		case capture.JobFailed:
			return fault.New(fault.Failed, "%s", j.Error).At("snapshot %s", id).ToMend("when that is mended: freshet snapshot resume '%s'; with another condition: freshet snapshot run %s --where …", id, j.Table)
		default:
			return nil
		}
		select {
		case <-tick.C:
		case <-p.Context().Done():
			return p.Context().Err()
		}
	}
}

// pace tells the rate of a snapshot over the last while, and what time is left at it.
type pace struct {
	at   []time.Time
	read []uint64
}

const paceSamples = 20

// line takes a look in and says how things stand.
func (p *pace) line(j capture.Job, now time.Time) string {
	p.at, p.read = append(p.at, now), append(p.read, j.Read)
	if len(p.at) > paceSamples {
		p.at, p.read = p.at[1:], p.read[1:]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d rows read", j.Status, j.Read)
	left := int64(0)
	if j.Estimate > 0 && j.Where == "" {
		fmt.Fprintf(&b, " of about %d", max(j.Estimate, int64(j.Read)))
		left = j.Estimate - int64(j.Read)
	}
	fmt.Fprintf(&b, ", %d published", j.Rows)
	seconds := now.Sub(p.at[0]).Seconds()
	if seconds <= 0 || j.Status != capture.JobRunning || j.Read < p.read[0] {
		return b.String()
	}
	rate := float64(j.Read-p.read[0]) / seconds
	fmt.Fprintf(&b, ", %.0f rows/s", rate)
	if left > 0 && rate >= 1 {
		fmt.Fprintf(&b, ", %s left", (time.Duration(float64(left)/rate) * time.Second).Round(time.Second))
	}
	return b.String()
}

// followPace is follow for messages that come often: on a terminal they overwrite each other, elsewhere
// there is one now and then.
func followPace(r receiver) ([]byte, error) {
	stat, err := os.Stderr.Stat()
	terminal := err == nil && stat.Mode()&os.ModeCharDevice != 0
	const rare = 20
	for n := 0; ; n++ {
		p, err := r.Recv()
		if terminal && n > 0 && (err != nil || p.Done) {
			fmt.Fprintln(os.Stderr)
		}
		switch {
		case err != nil:
			return nil, err
		case p.Done:
			return p.ResultJson, nil
		case terminal:
			fmt.Fprintf(os.Stderr, "\r\x1b[K%s: %s", p.Step, p.Message)
		case n%rare == 0:
			fmt.Fprintln(os.Stderr, p.Step+":", p.Message)
		}
	}
}

func snapshotCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "snapshot", Short: "Read tables of the source again while the stream goes on",
		Example: "  freshet snapshot run public.orders\n  freshet snapshot list",
	}
	var where string
	var noWait bool
	sub := func(action, use, short, example string, args cobra.PositionalArgs) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Example: example, Args: args}
		return remoteFor(c, 0, func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error {
			in := &freshetv1.SnapshotRequest{Action: action, Where: where, Wait: !noWait}
			if action == "run" || action == "list" {
				in.Table = arg(args)
			} else {
				in.Id = arg(args)
			}
			r, err := freshetv1.NewAdminClient(conn).Snapshot(ctx, in)
			if err != nil {
				return err
			}
			b, err := followPace(r)
			if err != nil {
				if c.Context().Err() != nil && in.Wait && action != "list" {
					fmt.Fprintln(os.Stderr, "the snapshot goes on: freshet snapshot list shows how far it is, freshet snapshot cancel ends it")
				}
				return err
			}
			if action == "list" || output != "table" {
				return writeJSON(c.OutOrStdout(), b, output)
			}
			var rows []snapshotRow
			if err := json.Unmarshal(b, &rows); err != nil {
				return err
			}
			for _, r := range rows {
				fmt.Fprintf(c.OutOrStdout(), "%s is %s: %d rows read, %d published\n", r.ID, r.Status, r.Read, r.Rows)
			}
			return nil
		})
	}
	run := sub("run", "run TABLE", "Read a table again, whole or the rows of a condition",
		"  freshet snapshot run public.orders\n  freshet snapshot run public.orders --where \"ordered_at >= '2024-01-01'\"\n  freshet snapshot run public.orders --no-wait",
		cobra.ExactArgs(1))
	run.Long = `Reads a table of the source again while the stream goes on, and puts each row into its place in
the order of commits. A row replaces what there is of it. A whole snapshot also takes back rows that the
source does not have any more; one with --where does not.`
	run.Flags().StringVar(&where, "where", "", "only rows that fulfil this, in SQL")
	resume := sub("resume", "resume ID", "Let a snapshot go on that was paused, or that failed", "  freshet snapshot resume 'public.orders#2'", cobra.ExactArgs(1))
	for _, c := range []*cobra.Command{run, resume} {
		c.Flags().BoolVar(&noWait, "no-wait", false, "do not follow it until it ends")
	}
	c.AddCommand(run, resume,
		sub("pause", "pause ID", "Let a snapshot wait, also over restarts", "  freshet snapshot pause 'public.orders#2'", cobra.ExactArgs(1)),
		sub("cancel", "cancel ID", "Give a snapshot up; what was read stays", "  freshet snapshot cancel 'public.orders#2'", cobra.ExactArgs(1)),
		sub("list", "list [TABLE]", "List the snapshots beside the stream", "  freshet snapshot list\n  freshet snapshot list public.orders -o json", cobra.MaximumNArgs(1)))
	return c
}
