package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/featurestore"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/peers"
	"github.com/freshet-io/freshet/internal/position"
)

// showGenerations is the action of a ViewRequest that does nothing.
const showGenerations = "show"

// askAgain is how often partitions are asked how far they are.
const askAgain = 100 * time.Millisecond

// generations are those of one view, over the partitions of all nodes.
type generations struct {
	*freshetv1.View
	Missing []missing `json:"missing,omitempty"`
}

// missing is a partition that is no part of the sums.
type missing struct {
	Partition int    `json:"partition"`
	Node      string `json:"node,omitempty"` // whose it is
	Silent    bool   `json:"silent"`         // nothing is known of it; else it has not compared where the others have
	Reason    string `json:"reason"`
}

// sumOf adds up what is known of a view's partitions.
func sumOf(v *feature.View, all []peers.Generation) *generations {
	out := &generations{View: &freshetv1.View{
		Name: v.Name, Group: v.Group.Name, Partitions: int32(v.Group.Partitions), Source: v.Source.FullName(), Generation: v.Generation,
	}}
	var compared []delta.Compared
	for _, g := range all {
		if g.Missing != nil {
			continue
		}
		if out.Shown == 0 || g.Shown < out.Shown {
			out.Shown = g.Shown
		}
		out.Held = out.Held || g.Held
		if g.Compared != nil {
			compared = append(compared, *g.Compared)
		}
	}
	sum, n := delta.Furthest(compared)
	out.Compared = featurestore.Comparison(sum, n)
	for i, g := range all {
		m := missing{Partition: i, Node: g.Node}
		switch {
		case g.Missing != nil:
			m.Silent, m.Reason = true, g.Missing.Error()
		case n == 0 || g.Compared != nil && g.Compared.Position == sum.Position:
			continue
		case g.Newest < v.Generation:
			m.Reason = fmt.Sprintf("its node runs definitions with generation %d of the view", g.Newest)
		case g.Compared == nil:
			m.Reason = fmt.Sprintf("it has compared nothing yet; it is at %s", g.Position)
		default:
			m.Reason = fmt.Sprintf("it has compared at %s only; it is at %s", g.Compared.Position, g.Position)
		}
		out.Missing = append(out.Missing, m)
	}
	return out
}

// text is all of it for people.
func (g *generations) text() string {
	text := generationText(g.View)
	switch {
	case text != "":
	case g.Shown == 0:
		text = g.Name + ": nothing is known of its generations"
	default:
		text = fmt.Sprintf("%s: generation %d is shown; no two were compared", g.Name, g.Shown)
	}
	if n := len(g.Missing); n > 0 {
		text += fmt.Sprintf("\n%s: %d of %d partitions are missing in this: %s", g.Name, n, g.Partitions, strings.Join(together(g.Missing), "; "))
	}
	return text + "\n"
}

// together puts partitions that are missing for one reason together.
func together(all []missing) (out []string) {
	var reasons []string
	parts := map[string][]string{}
	for _, m := range all {
		why := m.Reason
		if m.Node != "" && !m.Silent {
			why = "of node " + m.Node + ", " + why
		}
		if parts[why] == nil {
			reasons = append(reasons, why)
		}
		parts[why] = append(parts[why], fmt.Sprint(m.Partition))
	}
	for _, why := range reasons {
		out = append(out, strings.Join(parts[why], ", ")+" ("+why+")")
	}
	return out
}

// silent is an error where nothing is known of some partitions: sums over the others are no answer.
func (g *generations) silent() error {
	if !slices.ContainsFunc(g.Missing, func(m missing) bool { return m.Silent }) {
		return nil
	}
	return fault.New(fault.Unreachable, "not all partitions of %s answer", g.Name).ToMend("ask again when their nodes do: freshet nodes shows who owns what")
}

// show answers what is known of a view's generations.
func (a admin) show(in *freshetv1.ViewRequest, out freshetv1.Admin_ViewServer) error {
	v := a.s.catalog.View(in.View)
	if v == nil {
		return status.Errorf(codes.NotFound, "there is no view %q here: freshet views shows them", in.View)
	}
	return finish(out, turnedView{View: in.View, Action: in.Action, Generations: sumOf(v, a.s.peers.Generations(out.Context(), v))}, nil)
}

// turnHeld switches to a generation that is held, or has it compared, and waits until all partitions have done it, wherever they are.
func (a admin) turnHeld(r *capture.Runner, turned turnedView, out freshetv1.Admin_ViewServer) error {
	do := r.ViewSwitch
	if turned.Action == change.Compare {
		do = r.ViewCompare
	}
	at, err := do(out.Context(), turned.View)
	if err == nil {
		turned.Position = at.String()
		turned.Generations, err = a.awaitFolded(out, a.s.catalog.View(turned.View), at)
	}
	return finish(out, turned, err)
}

// awaitFolded waits until all partitions of a view have folded a control record, and tells which are awaited whenever that changes.
func (a admin) awaitFolded(out progress, v *feature.View, at position.Position) (*generations, error) {
	ctx, told := out.Context(), ""
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		all := a.s.peers.Generations(ctx, v)
		awaits := awaited(all, at)
		if len(awaits) == 0 {
			return sumOf(v, all), nil
		}
		message := fmt.Sprintf("it is in the log at %s; %d of %d partitions have folded that, awaited are: %s", at, len(all)-len(awaits), len(all), strings.Join(together(awaits), "; "))
		if message != told {
			told = message
			if err := out.Send(&freshetv1.Progress{Step: v.Name, Message: message}); err != nil {
				return nil, err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fault.Wrap(fault.Timeout, ctx.Err(), "%s", message)
		}
	}
}

// awaited gives the partitions that have not folded a record.
func awaited(all []peers.Generation, at position.Position) (out []missing) {
	for i, g := range all {
		m := missing{Partition: i, Node: g.Node}
		switch {
		case g.Missing != nil:
			m.Silent, m.Reason = true, g.Missing.Error()
		case at.After(g.Position):
			m.Reason = "it is behind that" // where does not belong here: it would be told again and again
		default:
			continue
		}
		out = append(out, m)
	}
	return out
}

// passOn has the process that captures a view do what this one cannot. false: it is not known, or this was passed on already.
func (a admin) passOn(in *freshetv1.ViewRequest, out freshetv1.Admin_ViewServer) (bool, error) {
	address, err := a.capturing(out.Context(), in.View)
	if err != nil || address == "" || in.PassedOn {
		return false, err
	}
	conn, err := a.s.peers.Conn(address)
	if err != nil {
		return false, answer(err)
	}
	stream, err := freshetv1.NewAdminClient(conn).View(out.Context(), &freshetv1.ViewRequest{Action: in.Action, View: in.View, Wait: in.Wait, PassedOn: true})
	for err == nil {
		var p *freshetv1.Progress
		if p, err = stream.Recv(); err == nil {
			err = out.Send(p)
		}
	}
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	s := status.Convert(err)
	return true, status.Errorf(s.Code(), "the process that captures, at %s, was asked: %s", address, s.Message())
}

// capturing gives where the process is that captured a view last; "": it is not known.
func (a admin) capturing(ctx context.Context, view string) (string, error) {
	v := a.s.catalog.View(view)
	if v == nil {
		return "", status.Errorf(codes.NotFound, "there is no view %q here: freshet views shows them", view)
	}
	if err := a.s.registry.Refresh(ctx); err != nil {
		return "", answer(err)
	}
	for _, part := range a.s.wanted.parts {
		if slices.Contains(part.Groups, v.Group.Name) {
			address, _ := capture.Address(a.s.registry, part.Slot)
			return address, nil
		}
	}
	return "", nil
}
