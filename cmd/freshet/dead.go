package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/dead"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	deltaStage   = "delta"
	listLetters  = 1000     // at most, of one listing
	listWhy      = 200      // characters of why in a listing
	letterAnswer = 64 << 20 // bytes of an answer with a letter
)

// letterLine is a dead letter in a listing.
type letterLine struct {
	Stage  string `json:"stage"`
	Offset int64  `json:"offset"`
	From   string `json:"from"`
	What   string `json:"what"`
	Why    string `json:"why"`
	Bytes  int    `json:"bytes"` // of the row as it came
}

// letterWhole is one dead letter with everything in it.
type letterWhole struct {
	Stage  string             `json:"stage"`
	Offset int64              `json:"offset"`
	From   string             `json:"from"`
	What   string             `json:"what"`
	Reason string             `json:"why"`
	Replay string             `json:"replay"`
	Table  string             `json:"table,omitempty"`
	Before map[string]*string `json:"before,omitempty"`
	After  map[string]*string `json:"after,omitempty"`
	Broken string             `json:"unreadable,omitempty"` // why the row cannot be read
	Raw    []byte             `json:"raw,omitempty"`
}

// letterAt is a letter and where it is.
type letterAt struct {
	stage  string // in the topic's name
	offset int64
	*change.Dead
}

// letters calls fn for each letter of a stage from an offset on, oldest first, until it gives false.
func (s *system) letters(ctx context.Context, stage string, from int64, fn func(letterAt) (bool, error)) error {
	name := s.topics.Dead(stage)
	if len(s.wanted.parts) > 1 && stage != deltaStage { // somebody may not have captured through a slot yet
		if err := s.topics.Ensure(ctx, []topic.Spec{{Topic: name, Partitions: 1}}); err != nil {
			return err
		}
	}
	tails, err := s.topics.Tails(ctx, name)
	if err != nil || tails[0] == nil {
		return err
	}
	last := tails[0].Offset
	starts, err := s.topics.Starts(ctx, name)
	if err != nil || from > last {
		return err
	}
	r, err := s.topics.NewReader(topic.ReaderOptions{Topic: name, From: map[int32]int64{0: max(from, starts[0])}, Committed: true})
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		batches, err := r.Poll(ctx)
		if err != nil {
			return err
		}
		for _, b := range batches {
			for _, rec := range b.Records {
				_, payload, err := change.Unframe(rec.Value)
				if err != nil {
					return fmt.Errorf("%s at %d: %w", name, rec.Offset, err)
				}
				d, err := change.DecodeDead(payload)
				if err != nil {
					return fmt.Errorf("%s at %d: %w", name, rec.Offset, err)
				}
				if more, err := fn(letterAt{stage, rec.Offset, d}); err != nil || !more {
					return err
				}
				if rec.Offset >= last {
					return nil
				}
			}
		}
	}
}

// stages gives those that are asked for, of which this process knows the topics. Where there are several slots,
// each has a stage of capture's, beside the one from when there was one slot.
func (s *system) stages(stage string) ([]string, error) {
	of := []string{dead.Stage}
	if len(s.wanted.parts) > 1 {
		for _, p := range s.wanted.parts {
			of = append(of, dead.StageOf(p.Slot))
		}
	}
	switch {
	case stage == "" && s.node != nil:
		return append(of, deltaStage), nil
	case stage == "" || stage == dead.Stage:
		return of, nil
	case stage == deltaStage || slices.Contains(of, stage):
		return []string{stage}, nil
	}
	return nil, fault.New(fault.Usage, "there is no stage %q", stage).ToMend("--stage %s", strings.Join(append(of, deltaStage), " or --stage "))
}

// listLetters gives the newest letters of the stages, or those from an offset on.
func (s *system) listLetters(ctx context.Context, in *freshetv1.DeadRequest) ([]letterLine, error) {
	stages, err := s.stages(in.Stage)
	if err != nil {
		return nil, err
	}
	out := []letterLine{}
	for _, stage := range stages {
		var lines []letterLine
		err := s.letters(ctx, stage, in.Offset, func(l letterAt) (bool, error) {
			lines = append(lines, letterLine{stage, l.offset, l.From, l.What, short(l.Why, listWhy), len(l.Value)})
			if in.Offset == 0 && len(lines) == 2*listLetters { // the newest are wanted
				lines = slices.Clone(lines[listLetters:])
			}
			return in.Offset == 0 || len(lines) < listLetters, nil
		})
		if err != nil {
			return nil, err
		}
		out = append(out, lines[max(len(lines)-listLetters, 0):]...)
	}
	return out, nil
}

func short(s string, n int) string {
	s = strings.Join(strings.Fields(s), " ")
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n]) + "…"
}

// findLetters gives the letters that a request names: the one at an offset, or all of one place.
func (s *system) findLetters(ctx context.Context, in *freshetv1.DeadRequest) ([]letterAt, error) {
	stages, err := s.stages(in.Stage)
	if err != nil {
		return nil, err
	}
	var out []letterAt
	for _, stage := range stages {
		err := s.letters(ctx, stage, in.Offset, func(l letterAt) (bool, error) {
			if in.Place == "" {
				if l.offset == in.Offset {
					out = append(out, l)
				}
				return false, nil
			}
			if l.From == in.Place {
				out = append(out, l)
			}
			return len(out) < listLetters, nil
		})
		if err != nil {
			return nil, err
		}
	}
	name := in.Place
	if name == "" {
		name = fmt.Sprintf("at offset %d", in.Offset)
	}
	if len(out) == 0 {
		return nil, fault.New(fault.NotFound, "there is no dead letter %s", name).ToMend("freshet dead list")
	}
	if in.Place == "" && len(out) > 1 {
		return nil, fault.New(fault.Usage, "there is a dead letter %s in several stages", name).ToMend("name one: --stage %s", strings.Join(stagesOf(out), " or --stage "))
	}
	return out, nil
}

func stagesOf(letters []letterAt) []string {
	var out []string
	for _, l := range letters {
		if !slices.Contains(out, l.stage) {
			out = append(out, l.stage)
		}
	}
	return out
}

func (s *system) showLetters(ctx context.Context, in *freshetv1.DeadRequest) ([]letterWhole, error) {
	found, err := s.findLetters(ctx, in)
	if err != nil {
		return nil, err
	}
	var out []letterWhole
	for _, l := range found {
		w := letterWhole{Stage: l.stage, Offset: l.offset, From: l.From, What: l.What, Reason: l.Why, Replay: l.Replay}
		if row, err := readLetter(ctx, s.registry, l.Dead); err != nil {
			w.Broken, w.Raw = err.Error(), l.Value
		} else {
			w.Table, w.Raw, w.Before, w.After = row.table.FullName(), row.raw, row.image(row.before), row.image(row.after)
		}
		out = append(out, w)
	}
	return out, nil
}

// replayLetters takes the rows of letters from the source again: a snapshot beside the stream, of the one row.
func (s *system) replayLetters(ctx context.Context, in *freshetv1.DeadRequest) ([]snapshotRow, error) {
	found, err := s.findLetters(ctx, in)
	if err != nil {
		return nil, err
	}
	out := []snapshotRow{}
	done := map[string]bool{} // several views may have refused one row
	for _, l := range found {
		row, err := readLetter(ctx, s.registry, l.Dead)
		if err != nil {
			return nil, fault.Wrap(fault.Failed, err, "the letter cannot be read").At("%s", l.From).
				ToMend("take the whole table again: freshet snapshot run TABLE, of %s", l.What)
		}
		table := row.table.FullName()
		var hashed []string
		if f := s.wanted.tables[table].Filter; f != nil && l.Stage == deltaStage {
			hashed = slices.Collect(maps.Keys(f.Hash))
		}
		where, err := row.where(s.wanted.keys[table], hashed)
		if errors.Is(err, errWhole) {
			return nil, fault.Wrap(fault.Usage, err, "%s cannot be replayed", l.What).At("%s", l.From).
				ToMend("take the whole table again: freshet snapshot run %s", table)
		}
		if err != nil {
			return nil, err
		}
		if done[table+where] {
			continue
		}
		done[table+where] = true
		var j capture.Job
		if j, err = s.runner.SnapshotRun(ctx, table, where); err != nil {
			return nil, err
		}
		out = append(out, rowOf(capture.SlotJob{Job: j, Slot: s.runner.Of(table).Slot()}))
	}
	return out, nil
}

// Dead lists, shows or replays dead letters.
func (a admin) Dead(in *freshetv1.DeadRequest, out freshetv1.Admin_DeadServer) error {
	ctx := out.Context()
	switch in.Action {
	case "list":
		lines, err := a.s.listLetters(ctx, in)
		return finish(out, lines, err)
	case "show":
		whole, err := a.s.showLetters(ctx, in)
		return finish(out, whole, err)
	case "replay":
		if err := a.needsCapture(); err != nil {
			return err
		}
		rows, err := a.s.replayLetters(ctx, in)
		for _, r := range rows {
			if err == nil {
				err = a.s.followSnapshot(out, r.ID)
			}
		}
		for i := range rows {
			rows[i] = rowOf(a.s.snapshotJob(rows[i].ID))
		}
		return finish(out, rows, err)
	}
	return unknownAction(in.Action, "list, show, replay")
}

func deadCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "dead", Short: "Rows that could not be processed: list them, show one, take them again",
		Long: `Dead letters are rows that could not be decoded (stage capture) or not be computed with (stage delta).
They are kept for ever in the topics <name>.dead.<stage>, with why, and are no part of any view.

A letter is named by its offset in its topic, or by the place it came from, as "dead list" shows both.`,
		Example: "  freshet dead list\n  freshet dead show 12 --stage delta\n  freshet dead replay --stage capture '1:0/16B3748:2'",
	}
	var stage string
	var from int64
	sub := func(action, use, short, example string, args cobra.PositionalArgs, write func(out io.Writer, b []byte) error) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Example: example, Args: args}
		c.Flags().StringVar(&stage, "stage", "", "capture or delta; left out: both, where the process has both")
		return remoteLong(c, func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error {
			in := &freshetv1.DeadRequest{Action: action, Stage: stage, Offset: from}
			if len(args) > 0 {
				var err error
				if in.Offset, err = strconv.ParseInt(args[0], 10, 64); err != nil {
					in.Offset, in.Place = 0, args[0]
				}
			}
			r, err := freshetv1.NewAdminClient(conn).Dead(ctx, in, grpc.MaxCallRecvMsgSize(letterAnswer))
			if err != nil {
				return err
			}
			b, err := followPace(r)
			if err != nil {
				return err
			}
			if output == "table" && write != nil {
				return write(c.OutOrStdout(), b)
			}
			return writeJSON(c.OutOrStdout(), b, output)
		})
	}
	list := sub("list", "list", "List dead letters, the newest last", "  freshet dead list\n  freshet dead list --stage delta --from 100 -o jsonl", cobra.NoArgs, nil)
	list.Flags().Int64Var(&from, "from", 0, fmt.Sprintf("the first offset; 0: the newest %d", listLetters))
	replay := sub("replay", "replay OFFSET|PLACE", "Take the row of a dead letter from the source again", "  freshet dead replay 12 --stage capture\n  freshet dead replay '1:0/16B3748:2'",
		cobra.ExactArgs(1), nil)
	replay.Long = `Takes the row of a dead letter from the source again, as it is there now: a snapshot beside the stream of
this one row, found by its primary key. Mend first what made it a dead letter, the value, the definition or
the version of freshet, or it becomes one again. Where the row as it was before must be taken back, the
whole table has to be read: then it says so.`
	c.AddCommand(list, replay, sub("show", "show OFFSET|PLACE", "Show a dead letter whole, with the row's bytes",
		"  freshet dead show 12 --stage capture\n  freshet dead show '1:0/16B3748:2' -o json", cobra.ExactArgs(1), printLetters))
	return c
}

func printLetters(out io.Writer, b []byte) error {
	var all []letterWhole
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for n, l := range all {
		if n > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "stage   %s, offset %d\nfrom    %s\nwhat    %s\nwhy     %s\nreplay  %s\n", l.Stage, l.Offset, l.From, l.What, l.Reason, l.Replay)
		if l.Broken != "" {
			fmt.Fprintf(out, "the row cannot be read: %s\n", l.Broken)
		}
		for _, image := range []struct {
			name string
			row  map[string]*string
		}{{"before", l.Before}, {"after", l.After}} {
			for _, name := range slices.Sorted(maps.Keys(image.row)) {
				text := "NULL, or not sent"
				if v := image.row[name]; v != nil {
					text = strconv.Quote(*v)
				}
				fmt.Fprintf(out, "%s %s = %s\n", image.name, name, text)
			}
		}
		printRaw(out, l.Raw)
	}
	return nil
}

// printRaw writes bytes as the text they are, or as hexadecimal digits beside what of them is text.
func printRaw(out io.Writer, raw []byte) {
	fmt.Fprintf(out, "raw, %d bytes:\n", len(raw))
	if utf8.Valid(raw) && !strings.ContainsFunc(string(raw), func(r rune) bool { return !unicode.IsPrint(r) && r != '\t' && r != '\n' }) {
		fmt.Fprintf(out, "%s\n", raw)
		return
	}
	fmt.Fprint(out, hex.Dump(raw))
}
