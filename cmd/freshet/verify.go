package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/peers"
	"github.com/freshet-io/freshet/internal/verify"
	"github.com/freshet-io/freshet/scoring"
)

// truth is what the source says at one cut.
type truth struct {
	cut  change.CutRecord
	put  capture.Cut
	rows map[string]*verify.Expected // by view
	by   map[string]uint32           // the generation of the view that it was asked by
}

// asks is how often the source is asked at most where generations of a view take each other's place before the cut.
const asks = 5

// ask puts a cut that equals a snapshot of the source and asks the source under that snapshot, by what is shown of each
// view there.
func (s *system) ask(ctx context.Context, views []*feature.View) (t truth, err error) {
	for range asks {
		if t, err = s.askOnce(ctx, views); err != nil {
			return t, err
		}
		over, err := s.overtaken(ctx, views, t)
		if err != nil || !over {
			return t, err
		}
	}
	return t, nil // the views of which that is true are told
}

// overtaken tells whether a later generation of a view than the source was asked by is shown at the cut.
func (s *system) overtaken(ctx context.Context, views []*feature.View, t truth) (bool, error) {
	for _, v := range views {
		if t.by[v.Name] == v.Generation {
			continue
		}
		reached, err := s.peers.WaitCuts(ctx, v, t.cut.ID)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(reached, func(r peers.Reached) bool { return max(r.Generations[v.Name], 1) > t.by[v.Name] }) {
			return true, nil
		}
	}
	return false, nil
}

func (s *system) askOnce(ctx context.Context, views []*feature.View) (truth, error) {
	t := truth{rows: map[string]*verify.Expected{}, by: map[string]uint32{}}
	if s.runner == nil {
		return t, fault.New(fault.Usage, "this process does not capture, so it cannot cut where the source stands").
			ToMend("ask the process that captures, or up: freshet verify --server CAPTURE")
	}
	if err := s.steady(); err != nil {
		return t, err
	}
	by := map[string]*feature.View{}
	for _, v := range views {
		by[v.Name] = s.shownBy(ctx, v)
		t.by[v.Name] = by[v.Name].Generation
	}
	cut, err := s.runner.Cut(ctx, true)
	if err != nil {
		return t, err
	}
	defer cut.Export.Close()
	t.cut, t.put = cut.CutRecord, cut
	conn, err := s.source.Adopt(ctx, cut.Export.Name)
	if err != nil {
		return t, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	for _, v := range views {
		cut := cut.In(v.Group.Name)
		if why := s.wanted.altered(v); why != "" {
			t.rows[v.Name] = &verify.Expected{View: v.Name, LogTime: cut.LogTime, Outputs: v.Outputs(), Whole: why}
			continue
		}
		if t.rows[v.Name], err = verify.Truth(ctx, conn, by[v.Name], cut.LogTime); err != nil {
			return t, err
		}
		if by[v.Name] != v {
			t.rows[v.Name] = t.rows[v.Name].As(by[v.Name], v)
		}
	}
	return t, nil
}

// shownBy gives the definition of a view that is shown in all partitions, while another one is built or held; the newest where they do not agree.
func (s *system) shownBy(ctx context.Context, v *feature.View) *feature.View {
	if len(v.Before) == 0 {
		return v
	}
	all := s.peers.Generations(ctx, v)
	for _, g := range all {
		if g.Missing != nil || g.Shown != all[0].Shown {
			return v
		}
	}
	if i := slices.IndexFunc(v.Before, func(old *feature.View) bool { return old.Generation == all[0].Shown }); i >= 0 {
		return v.Before[i]
	}
	return v
}

// verify compares served rows, delta topics, tables and predictions with the source at a new cut. The
// views are merged and the models that read them scored at that cut first, so that all places have it.
func (s *system) verify(ctx context.Context, names []string, tell func(string)) ([]*verify.Report, error) {
	var views []*feature.View
	for _, v := range s.catalog.Views {
		if len(names) == 0 || slices.Contains(names, v.Name) {
			views = append(views, v)
		}
	}
	for _, n := range names {
		if s.catalog.View(n) == nil {
			return nil, fault.New(fault.NotFound, "there is no view %q", n)
		}
	}
	// A later cut that is merged and scored meanwhile would leave nothing to compare at this one.
	s.turn.Lock()
	defer s.turn.Unlock()
	start := time.Now() //nolint:forbidigo // progress on the terminal
	t, err := s.ask(ctx, views)
	if err != nil {
		return nil, err
	}
	took := time.Since(start).Round(time.Millisecond) //nolint:forbidigo // progress on the terminal
	tell(fmt.Sprintf("%s at %s: the source answered, %s; %s", t.cut.ID, t.cut.Position, took, stoodStill(t.put.Pause, waited(t.put))))
	var reports []*verify.Report
	for _, v := range views {
		r, err := s.verifyView(ctx, v, t)
		if err != nil {
			return reports, err
		}
		reports = append(reports, r...)
		for _, x := range r {
			tell(line(x))
		}
	}
	for _, def := range s.catalog.Definitions.Models {
		m, err := s.model(ctx, def.Name)
		if fault.ClassOf(err) == fault.NotFound {
			continue // nothing was ever scored with it
		}
		if err != nil {
			return reports, err
		}
		if t.rows[m.View.Name] == nil {
			continue
		}
		t := truth{cut: t.cut.In(m.View.Group.Name), rows: t.rows, by: t.by}
		reached, err := s.peers.WaitCuts(ctx, m.View, t.cut.ID)
		if err != nil {
			return reports, err
		}
		if why := standsStill(m.View, reached, t.by[m.View.Name]); why != "" {
			reports = append(reports, verify.PredictionsStandStill(modelOf(m), t.cut, why))
			tell(line(reports[len(reports)-1]))
			continue
		}
		if _, err := s.score(ctx, def.Name, t.cut); err != nil && fault.ClassOf(err) != fault.Held && fault.ClassOf(err) != fault.NotFound {
			return reports, err
		}
		r, err := s.verifyModel(ctx, m, t.cut)
		if err != nil {
			return reports, err
		}
		reports = append(reports, r)
		tell(line(r))
	}
	for _, r := range reports {
		r.CutPause, r.CutWaited = t.put.Pause.Microseconds(), waited(t.put)
	}
	return reports, nil
}

// stoodStill says what a cut cost the stream.
func stoodStill(pause time.Duration, waited string) string {
	s := fmt.Sprintf("publishing stood still for %s", pause.Round(time.Millisecond))
	if waited != "" {
		s += ", waiting for " + waited
	}
	return s
}

func waited(c capture.Cut) string {
	if c.Waited == nil {
		return ""
	}
	return c.Waited.String()
}

// verifyView compares the four places of one view.
func (s *system) verifyView(ctx context.Context, v *feature.View, t truth) ([]*verify.Report, error) {
	t.cut = t.cut.In(v.Group.Name)
	reached, err := s.peers.WaitCuts(ctx, v, t.cut.ID) // and has its deltas published
	if err != nil {
		return nil, err
	}
	if why := standsStill(v, reached, t.by[v.Name]); why != "" {
		return verify.StandsStill(v, t.cut, why), nil
	}
	expected := t.rows[v.Name]
	served, err := verify.ServedRows(v, t.cut, expected, func(fn func(key, values []feature.Value) error) error {
		return s.peers.Rows(ctx, v, t.cut.ID, fn)
	})
	if err != nil {
		return nil, err
	}
	kept, err := s.deltasKept(v)
	if err != nil {
		return nil, err
	}
	deltas, err := verify.DeltaTopic(ctx, s.topics, s.registry, kept, t.cut, expected)
	if err != nil {
		return nil, err
	}
	// A table that a gate holds is told as being at another cut: what is served is judged all the same.
	if _, err := s.merge(ctx, v.Name, t.cut); err != nil && fault.ClassOf(err) != fault.Held {
		return nil, err
	}
	files := verify.Files{Store: s.store, LocalDir: s.localDir()}
	current, err := verify.Current(ctx, files, v, -1, t.cut, expected)
	if err != nil {
		return nil, err
	}
	history, err := verify.History(ctx, files, v, t.cut, expected)
	return []*verify.Report{served, deltas, current, history}, err
}

func (s *system) verifyModel(ctx context.Context, m *scoring.Model, cut change.CutRecord) (*verify.Report, error) {
	return verify.Predictions(ctx, verify.Files{Store: s.store, LocalDir: s.localDir()}, modelOf(m), cut)
}

func modelOf(m *scoring.Model) *verify.Model {
	return &verify.Model{Name: m.Name, SHA256: m.SHA256, Evaluator: m.Evaluator, Inputs: m.Inputs, Outputs: m.Outputs, View: m.View}
}

// standsStill says why a view cannot be compared with the source: it was not folded up to a cut somewhere, or
// its events are not all that the source has, or another generation is shown there than the source was asked by. Empty: it can.
func standsStill(v *feature.View, reached []peers.Reached, asked uint32) string {
	var late, others uint64
	for _, r := range reached {
		if at, stands := r.Stopped[v.Name]; stands {
			return at.Fault(v.Name).Error()
		}
		switch g := max(r.Generations[v.Name], 1); {
		case g < asked:
			return fmt.Sprintf("its generation %d is built beside generation %d, which is shown until then", v.Generation, g)
		case g > asked:
			return fmt.Sprintf("its generation %d took the place of generation %d before the cut: run it again", g, asked)
		}
		late, others = late+r.Late, others+r.NotEvents
	}
	if !v.Events || late+others == 0 {
		return ""
	}
	// Which ones is in the dead letters, not in the source.
	return fmt.Sprintf("it is a view of events, and %d came later than its lateness, %d were no insertions: they are dead letters and no part of it, and the source has them all the same", late, others)
}

// line is one report for people.
func line(r *verify.Report) string {
	switch {
	case r.Error != "":
		return fmt.Sprintf("%s, %s: cannot be judged: %s", r.View, r.Place, r.Error)
	case !r.Equal():
		d := r.Differences[0]
		return fmt.Sprintf("%s, %s: %d differences in %d rows, first: key %s, column %s: want %s, got %s",
			r.View, r.Place, r.DifferenceCount, r.Rows, d.Key, d.Column, d.Want, d.Got)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%s, %s: %d rows equal", r.View, r.Place, r.Rows)
	for _, column := range slices.Sorted(maps.Keys(r.NotComparable)) {
		fmt.Fprintf(&s, "; %s not comparable: %s", column, r.NotComparable[column])
	}
	return s.String()
}

func verifyCommand() *cobra.Command {
	var views []string
	c := &cobra.Command{
		Use: "verify", Short: "Compare served rows, delta topics, tables and predictions with the source at one cut",
		Long: "Puts a cut that equals a snapshot of the source, merges and scores at it, asks the source by SQL made\n" +
			"from the definitions, and compares row by row. Prints differences; exit 1 on any. Of a view that is defined\n" +
			"anew it judges what is shown, by the definition of that, until the new one takes its place.",
		Example: "  freshet verify\n  freshet verify --view plane_delays -o json", Args: cobra.NoArgs,
	}
	c.Flags().StringSliceVar(&views, "view", nil, "only these views")
	return remoteLong(c, func(ctx context.Context, conn *grpc.ClientConn, _ []string, output string) error {
		stream, err := freshetv1.NewAdminClient(conn).Verify(ctx, &freshetv1.VerifyRequest{Views: views})
		if err != nil {
			return err
		}
		b, err := follow(stream)
		if err != nil {
			return err
		}
		var reports []*verify.Report
		if err := json.Unmarshal(b, &reports); err != nil {
			return err
		}
		if output == "table" {
			if len(reports) > 0 {
				fmt.Println(reports[0].Cut+":", stoodStill(time.Duration(reports[0].CutPause)*time.Microsecond, reports[0].CutWaited))
			}
			for _, r := range reports {
				fmt.Println(line(r))
				for _, d := range r.Differences {
					fmt.Printf("  key %s, column %s: want %s, got %s\n", d.Key, d.Column, d.Want, d.Got)
				}
			}
		} else if err := showJSON(b, output); err != nil {
			return err
		}
		return verify.Judge(reports)
	})
}

// receiver is the receiving half of every long call.
type receiver interface {
	Recv() (*freshetv1.Progress, error)
}

// follow shows the progress of a long call on stderr and gives its result.
func follow(r receiver) ([]byte, error) {
	for {
		p, err := r.Recv()
		if err != nil {
			return nil, err
		}
		if !p.Done {
			fmt.Fprintln(os.Stderr, p.Step+":", p.Message)
			continue
		}
		if p.Held {
			return p.ResultJson, fault.New(fault.Held, "%s", p.Message)
		}
		return p.ResultJson, nil
	}
}
