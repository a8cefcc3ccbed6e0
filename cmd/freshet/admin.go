package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/pipeline"
	"github.com/freshet-io/freshet/snapshots/gate"
)

// admin implements what there is of the Admin service.
type admin struct {
	freshetv1.UnimplementedAdminServer
	s *system
}

// progress is the sending half of every long call.
type progress interface {
	Send(*freshetv1.Progress) error
	Context() context.Context
}

// classes maps the classes of failures to gRPC codes; held has its own member in Progress.
//
//nolint:gochecknoglobals // a table of constants
var classes = map[fault.Class]codes.Code{
	fault.Usage: codes.InvalidArgument, fault.NotFound: codes.NotFound, fault.Permission: codes.PermissionDenied,
	fault.Timeout: codes.DeadlineExceeded, fault.Unreachable: codes.Unavailable, fault.Held: codes.FailedPrecondition,
}

// answer turns an error of ours into one that keeps its class on the way.
func answer(err error) error {
	if err == nil {
		return nil
	}
	code, ok := classes[fault.ClassOf(err)]
	if !ok {
		code = codes.Internal
	}
	return status.Error(code, err.Error())
}

// finish sends the last message of a long call: the result as JSON, and why it did not go well. A
// refusal by a gate is a result too: its evidence must reach the caller.
func finish(p progress, result any, err error) error {
	last := &freshetv1.Progress{Done: true}
	if err != nil {
		if fault.ClassOf(err) != fault.Held {
			return answer(err)
		}
		last.Held, last.Message = true, err.Error()
	}
	b, jsonErr := json.Marshal(result)
	if jsonErr != nil {
		return answer(jsonErr)
	}
	last.ResultJson = b
	return p.Send(last)
}

func (a admin) needsNode() error {
	if a.s.node == nil {
		return status.Error(codes.FailedPrecondition, "this process captures only: ask a node with --server NODE")
	}
	return nil
}

func unknownAction(action, known string) error {
	return status.Errorf(codes.InvalidArgument, "unknown action %q: expected one of %s", action, known)
}

// Cut puts a cut at the next commit boundary.
func (a admin) Cut(ctx context.Context, in *freshetv1.CutRequest) (*freshetv1.CutResponse, error) {
	if in.Sql {
		return nil, status.Error(codes.Unimplemented, "a cut with an exported snapshot has no remote reader yet: use verify")
	}
	cut, err := a.s.putCut(ctx)
	if err != nil {
		return nil, answer(err)
	}
	return &freshetv1.CutResponse{
		Id: cut.ID, Ordinal: cut.Ordinal, Position: cut.Position.String(), LogTime: cut.LogTime, Pause: cut.Pause.Microseconds(),
	}, nil
}

// Merge runs, lists or shows merges.
func (a admin) Merge(in *freshetv1.MergeRequest, out freshetv1.Admin_MergeServer) error {
	ctx := out.Context()
	if a.s.node == nil && in.Action == "run" && in.Cut == "" { // here is where cuts are put
		cut, err := a.s.cut(ctx)
		if err != nil {
			return answer(err)
		}
		in.Cut = cut.ID
	}
	if done, err := relay(a, in, out, func(c freshetv1.AdminClient, ctx context.Context, in *freshetv1.MergeRequest) (freshetv1.Admin_MergeClient, error) {
		return c.Merge(ctx, in)
	}); done {
		return err
	}
	switch in.Action {
	case "run":
		cut, err := a.s.findCut(ctx, in.Cut)
		if err != nil {
			return answer(err)
		}
		var runs []*gate.Run
		for _, v := range a.s.catalog.Views {
			if in.View != "" && in.View != v.Name {
				continue
			}
			if err := out.Send(&freshetv1.Progress{Step: "merge", Message: fmt.Sprintf("%s at %s", v.Name, cut.ID)}); err != nil {
				return err
			}
			run, err := a.s.merge(ctx, v.Name, cut)
			if run != nil {
				runs = append(runs, run)
			}
			if err != nil {
				return finish(out, runs, err)
			}
		}
		if len(runs) == 0 {
			return status.Errorf(codes.NotFound, "there is no view %q", in.View)
		}
		return finish(out, runs, nil)
	case "list":
		runs, err := a.s.merger.List(ctx, in.View)
		return finish(out, runs, err)
	case "show":
		run, err := a.s.merger.Show(ctx, in.Run)
		return finish(out, []*gate.Run{run}, err)
	}
	return unknownAction(in.Action, "run, list, show")
}

// Gate acknowledges, discards or rebuilds a held run. The reason travels in view, "who: why".
func (a admin) Gate(ctx context.Context, in *freshetv1.GateRequest) (*freshetv1.GateResponse, error) {
	if a.s.node == nil {
		conn, err := a.s.peers.Any(ctx)
		if err != nil {
			return nil, answer(err)
		}
		return freshetv1.NewAdminClient(conn).Gate(ctx, in)
	}
	a.s.jobs.Lock()
	defer a.s.jobs.Unlock()
	isScore := strings.HasPrefix(in.Run, "score-")
	var run *gate.Run
	var err error
	switch in.Action {
	case "ack":
		who, why, ok := strings.Cut(in.View, ": ")
		if !ok || why == "" {
			return nil, status.Error(codes.InvalidArgument, "an acknowledgement needs a reason: gate ack RUN --why '…'")
		}
		if isScore {
			run, err = a.s.scorer.Ack(ctx, in.Run, who, why)
		} else {
			run, err = a.s.merger.Ack(ctx, in.Run, who, why)
		}
	case "discard":
		if isScore {
			run, err = a.s.scorer.Discard(ctx, in.Run)
		} else {
			run, err = a.s.merger.Discard(ctx, in.Run)
		}
	case "rebuild":
		run, err = a.s.merger.Rebuild(ctx, in.Run)
	default:
		return nil, unknownAction(in.Action, "ack, discard, rebuild")
	}
	if err != nil {
		return nil, answer(err)
	}
	return &freshetv1.GateResponse{Message: fmt.Sprintf("%s is %s", run.ID, run.Outcome)}, nil
}

// Model lists the defined models, or judges one by its parity file and puts it into the store.
func (a admin) Model(ctx context.Context, in *freshetv1.ModelRequest) (*freshetv1.ModelResponse, error) {
	if err := a.needsNode(); err != nil {
		return nil, err
	}
	if in.Action == "add" {
		if err := a.s.addModels(ctx); err != nil {
			return nil, answer(err)
		}
	}
	type row struct {
		Name    string   `json:"name"`
		Format  string   `json:"format"`
		SHA256  string   `json:"sha256"`
		Inputs  []string `json:"inputs"`
		Outputs []string `json:"outputs"`
	}
	var rows []row
	for _, d := range a.s.catalog.Definitions.Models {
		if in.Name != "" && in.Name != d.Name {
			continue
		}
		m, err := a.s.model(ctx, d.Name)
		if err != nil {
			return nil, answer(err)
		}
		r := row{Name: m.Name, Format: d.Format, SHA256: m.SHA256, Inputs: m.Evaluator.Inputs()}
		for _, o := range m.Outputs {
			r.Outputs = append(r.Outputs, o.Name)
		}
		rows = append(rows, r)
	}
	if in.Name != "" && len(rows) == 0 {
		return nil, status.Errorf(codes.NotFound, "there is no model %q", in.Name)
	}
	b, err := json.Marshal(rows)
	if err != nil {
		return nil, answer(err)
	}
	return &freshetv1.ModelResponse{ResultJson: b}, nil
}

// Score runs, lists or shows scoring. Without a cut of its own it runs at the newest merged cut of the
// model's view, whose rows are there.
func (a admin) Score(in *freshetv1.ScoreRequest, out freshetv1.Admin_ScoreServer) error {
	if done, err := relay(a, in, out, func(c freshetv1.AdminClient, ctx context.Context, in *freshetv1.ScoreRequest) (freshetv1.Admin_ScoreClient, error) {
		return c.Score(ctx, in)
	}); done {
		return err
	}
	ctx := out.Context()
	switch in.Action {
	case "run":
		if in.Changed {
			return status.Error(codes.Unimplemented, "score run --changed is not there yet: leave --changed out")
		}
		cut, err := a.s.scoredCut(ctx, in)
		if err != nil {
			return answer(err)
		}
		run, err := a.s.score(ctx, in.Model, cut)
		return finish(out, []*gate.Run{run}, err)
	case "list":
		runs, err := a.s.scorer.List(ctx, in.Model)
		return finish(out, runs, err)
	case "show":
		run, err := a.s.scorer.Show(ctx, in.Run)
		return finish(out, []*gate.Run{run}, err)
	}
	return unknownAction(in.Action, "run, list, show")
}

// Pipeline runs pipelines by hand, or lists or shows their runs.
func (a admin) Pipeline(in *freshetv1.PipelineRequest, out freshetv1.Admin_PipelineServer) error {
	if err := a.needsStore(); err != nil {
		return err
	}
	ctx := out.Context()
	switch in.Action {
	case "run":
		now, err := a.s.logTime(ctx)
		if err != nil {
			return answer(err)
		}
		r, err := a.s.runPipeline(ctx, in.Name, now.Truncate(time.Second))
		if err == nil && r.Outcome == pipeline.Held {
			err = fault.New(fault.Held, "%s is held: %s", r.ID, firstReason(r))
		}
		return finish(out, []pipeline.Record{r}, err)
	case "list":
		rs, err := a.s.pipelineRecords(ctx, in.Name)
		return finish(out, rs, err)
	case "show":
		r, err := a.s.pipelineRecord(ctx, in.Run)
		return finish(out, []pipeline.Record{r}, err)
	case "pause", "resume", "cancel":
		return status.Errorf(codes.Unimplemented, "pipeline %s is not there yet", in.Action)
	}
	return unknownAction(in.Action, "run, list, show")
}

func firstReason(r pipeline.Record) string {
	for _, s := range r.Steps {
		if s.Reason != "" {
			return s.Reason
		}
	}
	return "no reason was kept"
}

// Table lists tables and their versions.
func (a admin) Table(in *freshetv1.TableRequest, out freshetv1.Admin_TableServer) error {
	if err := a.needsStore(); err != nil {
		return err
	}
	var result any
	var err error
	switch in.Action {
	case "list":
		result, err = listTables(out.Context(), a.s.catalog, a.s.store)
	case "versions":
		result, err = tableVersions(out.Context(), a.s.store, in.Table)
	default:
		return unknownAction(in.Action, "list, versions")
	}
	return finish(out, result, err)
}

// Verify compares everything with the source at a new cut.
func (a admin) Verify(in *freshetv1.VerifyRequest, out freshetv1.Admin_VerifyServer) error {
	if err := a.needsStore(); err != nil {
		return err
	}
	reports, err := a.s.verify(out.Context(), in.Views, func(msg string) {
		_ = out.Send(&freshetv1.Progress{Step: "verify", Message: msg}) // the last message tells if the caller is gone
	})
	if err != nil {
		return answer(err)
	}
	return finish(out, reports, nil)
}

// classOf gives the class that an answer of the service carried.
func classOf(err error) fault.Class {
	s, ok := status.FromError(err)
	if !ok || errors.Is(err, context.Canceled) {
		return fault.ClassOf(err)
	}
	for class, code := range classes {
		if code == s.Code() {
			return class
		}
	}
	return fault.Failed
}
