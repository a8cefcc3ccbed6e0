// Package featurestore is "what is": it answers lookups from the served rows of the node's own
// partitions, one read of Pebble per (key, view), singly (Get) or pipelined (Stream); it hands the
// deltas of a view to subscribers from the view's topic (Subscribe); and it answers over HTTP for
// health, metrics and a schema registry's read calls (HTTP).
package featurestore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

const maxKeys = 1_000

// Options configure a Server; Node and Name are needed.
type Options struct {
	Node *delta.Node
	Name string           // of this node, in lags
	Now  func() time.Time // for max_age; nil: time.Now
	// Topics and Registry are for Subscribe and for the schema registry's calls; without them those
	// are not there.
	Topics   *topic.Client
	Registry *topic.Registry
	// Metrics is where the server's metrics are registered and what /metrics shows; nil: one of its own.
	Metrics *prometheus.Registry
}

// Server implements the FeatureStore service; what it does not have answers UNIMPLEMENTED.
type Server struct {
	freshetv1.UnimplementedFeatureStoreServer
	o             Options
	metrics       *metrics
	views         map[string]*selected // every view with all its columns
	others        others
	subscriptions chan struct{} // one element per running Subscribe
}

// New makes a Server.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // judges an answer's age; it is in no value
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	s := &Server{o: o, views: map[string]*selected{}, subscriptions: make(chan struct{}, maxSubscriptions)}
	for _, v := range o.Node.Catalog().Views {
		x := &selected{view: v, outputs: v.Outputs(), columns: all(v)}
		x.message = columns(v, x.columns)
		s.views[v.Name] = x
	}
	s.metrics = newMetrics(o, func() float64 { return float64(len(s.subscriptions)) })
	return s
}

// selected is one resolved selection. It is shared between requests and does not change.
type selected struct {
	view    *feature.View
	outputs []feature.Field
	columns []int // ordinals of outputs
	// generation is the one that was asked for; 0: whichever is shown.
	generation uint32
	message    *freshetv1.Columns
}

// Get looks entities up (CONTRACT section 7).
func (s *Server) Get(ctx context.Context, in *freshetv1.GetRequest) (*freshetv1.GetResponse, error) {
	from := s.o.Now()
	out, err := s.get(ctx, in)
	s.metrics.looked(s.o.Now().Sub(from), in, out, err)
	return out, err
}

func (s *Server) get(ctx context.Context, in *freshetv1.GetRequest) (*freshetv1.GetResponse, error) {
	if n := len(in.Keys); n == 0 || n > maxKeys {
		return nil, status.Errorf(codes.InvalidArgument, "%d keys: expected 1 to %d", n, maxKeys)
	}
	if in.Encoding != freshetv1.Encoding_ENCODING_VALUES {
		return nil, status.Errorf(codes.Unimplemented, "encoding %s is not there yet: use ENCODING_VALUES", in.Encoding)
	}
	views, err := s.resolve(in)
	if err != nil {
		return nil, err
	}
	out := &freshetv1.GetResponse{Rows: make([]*freshetv1.Row, 0, len(in.Keys)*len(views))}
	for _, v := range views {
		out.Columns = append(out.Columns, v.message)
	}
	touched, away := map[*delta.Partition]int{}, away{}
	var lacks []lack
	for i, k := range in.Keys {
		key, err := keyOf(views[0].view, k)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "key %d: %s", i+1, err)
		}
		p, err := s.o.Node.For(views[0].view, key)
		if e, ok := errors.AsType[*delta.Elsewhere](err); ok {
			unavailable(len(views), e, out)
			if in.ReturnStale {
				lacks = append(lacks, lack{i: i, key: key, e: e})
			} else if e.Address != "" && !isForwarded(ctx) {
				away[e.Address] = append(away[e.Address], i)
			}
			continue
		}
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "key %d: %s", i+1, err)
		}
		if _, ok := touched[p]; !ok {
			if err := wait(ctx, p, in.MinPosition); err != nil {
				return nil, err
			}
			touched[p] = len(out.Lags)
			m := p.Meta()
			out.Lags = append(out.Lags, s.lag(p.Group(), p.Number(), &m))
		}
		lag := out.Lags[touched[p]]
		old := in.MaxAgeUs > 0 && lag.AgeUs > in.MaxAgeUs
		if old && !in.ReturnStale {
			refuse(len(views), out)
			continue
		}
		for _, v := range views {
			row, err := lookup(p, v, key)
			if err != nil {
				return nil, status.Errorf(codes.Internal, "%s", err)
			}
			if old {
				row.Stale = lag
			}
			out.Rows = append(out.Rows, row)
		}
	}
	if len(lacks) > 0 {
		if err := s.gather(ctx, in, views, lacks, out); err != nil {
			return nil, err
		}
	}
	if len(away) > 0 {
		s.forward(ctx, in, away, len(views), out)
	}
	return out, nil
}

// refuse is for a partition that is older than max_age.
func refuse(views int, out *freshetv1.GetResponse) {
	for range views {
		out.Rows = append(out.Rows, &freshetv1.Row{Status: freshetv1.Status_UNAVAILABLE, Reason: "the partition's last commit is older than max_age"})
	}
}

// reader is where lookups read: a partition, or what it was at one place.
type reader interface {
	Stopped(view string) (delta.Stopped, bool)
	Lookup(view string, key []feature.Value) (*delta.Served, error)
}

func lookup(p reader, v *selected, key []feature.Value) (*freshetv1.Row, error) {
	// Asked before the row is read: a view that goes on between the two has its new rows by then.
	// return_stale is about the partition's age, and does not give rows that stand still.
	if at, stands := p.Stopped(v.view.Name); stands && v.shown(p) {
		row := &freshetv1.Row{Status: freshetv1.Status_UNAVAILABLE, Reason: at.Fault(v.view.Name).Error()}
		if at.Mending { // nobody has to do anything
			row.Status = freshetv1.Status_REBUILDING
		}
		return row, nil
	}
	served, err := find(p, v, key)
	if e, ok := errors.AsType[*delta.NotShown](err); ok {
		row := &freshetv1.Row{Status: freshetv1.Status_UNAVAILABLE, Reason: e.Error()}
		if e.Building {
			row.Status = freshetv1.Status_REBUILDING
		}
		return row, nil
	}
	if err != nil {
		return nil, err
	}
	row := &freshetv1.Row{Version: served.Version}
	if served.Version > 0 || v.generation > 0 && served.LogTime > 0 { // who never was, or was EXPIRED from the start, has no delta to tell of
		row.Position, row.CommitTime, row.LogTime = served.Position.String(), &served.CommitTime, &served.LogTime
	}
	switch served.Status {
	case delta.Present:
		row.Status = freshetv1.Status_PRESENT
	case delta.Expired:
		row.Status = freshetv1.Status_EXPIRED
		return row, nil
	default:
		row.Status = freshetv1.Status_NOT_FOUND
		return row, nil
	}
	if !served.EventTime.IsNull() {
		row.EventTime = &served.EventTime.I
	}
	row.Values = toValues(served.Values, v)
	return row, nil
}

// shown tells whether it is of the generation that is shown.
func (v *selected) shown(p reader) bool {
	part, now := p.(*delta.Partition)
	if v.generation == 0 || !now {
		return v.generation == 0
	}
	shown, _, _ := part.Generation(v.view.Name)
	return v.generation == shown
}

func find(p reader, v *selected, key []feature.Value) (*delta.Served, error) {
	if v.generation == 0 {
		return p.Lookup(v.view.Name, key)
	}
	if part, now := p.(*delta.Partition); now {
		return part.LookupGeneration(v.view.Name, v.generation, key)
	}
	return nil, &delta.NotShown{Why: "a warm copy gives rows of whichever generation is shown, and of none that is named"}
}

// mark is what min_position asks for. An LSN alone is what a writer knows after COMMIT: everything committed below it must
// be folded.
type mark struct {
	lsn position.LSN // if at is not there
	at  *position.Position
}

// least reads min_position; nothing is asked for by "".
func least(text string) (mark, error) {
	if text == "" {
		return mark{}, nil
	}
	if lsn, err := position.ParseLSN(text); err == nil {
		return mark{lsn: lsn}, nil
	}
	at, err := position.Parse(text)
	if err != nil {
		return mark{}, status.Errorf(codes.InvalidArgument, "min_position %q: expected an LSN as in 0/16B3748, or epoch:LSN:seq", text)
	}
	return mark{at: &at}, nil
}

// wait blocks until the partition has everything up to the asked position, or the deadline passes.
func wait(ctx context.Context, p *delta.Partition, text string) error {
	m, err := least(text)
	switch {
	case text == "" || err != nil:
		return err
	case m.at == nil:
		return waited(p.WaitPosition(ctx, m.lsn))
	}
	at := *m.at
	for {
		// A partition that the commit did not touch passes it by a heartbeat's resume point.
		moved, m := p.Moved(), p.Meta()
		if !at.After(m.Position) || (at.Epoch == m.Position.Epoch && m.Resume > at.LSN) {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return waited(fault.Wrap(fault.Timeout, ctx.Err(), "partition %d is at %s", p.Number(), m.Position))
		}
	}
}

func waited(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return status.Errorf(codes.Canceled, "%s", err)
	default:
		return status.Errorf(codes.DeadlineExceeded, "%s", err)
	}
}

func (s *Server) lag(group string, partition int, m *delta.Meta) *freshetv1.PartitionLag {
	return &freshetv1.PartitionLag{
		Group: group, Partition: int32(partition), Position: m.Position.String(), LogTime: m.LogTime, CommitTime: m.CommitTime,
		Resume: m.Resume.String(), Node: s.o.Name, AgeUs: s.o.Now().UnixMicro() - m.CommitTime,
	}
}

// resolve finds views and columns; all views share the entity.
func (s *Server) resolve(in *freshetv1.GetRequest) ([]*selected, error) {
	catalog := s.o.Node.Catalog()
	selections := in.Selections
	if in.FeatureSet != "" {
		fields, err := catalog.Set(in.FeatureSet)
		if err != nil {
			return nil, status.Errorf(codes.NotFound, "%s", err)
		}
		selections = nil
		for _, f := range fields {
			name := f.View.Name
			i := slices.IndexFunc(selections, func(x *freshetv1.Selection) bool { return x.View == name })
			if i < 0 {
				i = len(selections)
				selections = append(selections, &freshetv1.Selection{View: name})
			}
			selections[i].Features = append(selections[i].Features, f.View.Outputs()[f.Output].Name)
		}
	}
	if len(selections) == 0 {
		return nil, status.Error(codes.InvalidArgument, "nothing is selected: name a view or a feature_set")
	}
	out := make([]*selected, 0, len(selections))
	for _, sel := range selections {
		v := s.views[sel.View]
		if v == nil {
			return nil, status.Errorf(codes.NotFound, "there is no view %q; there are: %s", sel.View, names(catalog))
		}
		if len(out) > 0 && !sameEntity(out[0].view, v.view) {
			return nil, status.Errorf(codes.InvalidArgument, "views %s and %s are about different entities: ask for them separately", out[0].view.Name, v.view.Name)
		}
		v, err := v.only(sel.Features)
		if err == nil {
			v, err = v.by(sel.Generation)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// only gives a selection of some features; none means all.
func (v *selected) only(features []string) (*selected, error) {
	if len(features) == 0 {
		return v, nil
	}
	x := &selected{view: v.view, outputs: v.outputs}
	for _, f := range features {
		c := slices.IndexFunc(v.outputs, func(o feature.Field) bool { return o.Name == f })
		if c < 0 {
			return nil, status.Errorf(codes.NotFound, "view %s has no feature %q; it has: %s", v.view.Name, f, strings.Join(v.message.Names, ", "))
		}
		x.columns = append(x.columns, c)
	}
	x.message = columns(v.view, x.columns)
	return x, nil
}

// by gives a selection by one generation of its view; 0: as it is.
func (v *selected) by(generation uint32) (*selected, error) {
	if generation == 0 {
		return v, nil
	}
	if newest := v.view.Generation; generation > newest {
		return nil, status.Errorf(codes.NotFound, "view %s has no generation %d; its newest is %d", v.view.Name, generation, newest)
	}
	x := *v
	x.generation = generation
	return &x, nil
}

func names(c *feature.Catalog) string {
	var out []string
	for _, v := range c.Views {
		out = append(out, v.Name)
	}
	return strings.Join(out, ", ")
}

func all(v *feature.View) []int {
	out := make([]int, len(v.Outputs()))
	for i := range out {
		out[i] = i
	}
	return out
}

func sameEntity(a, b *feature.View) bool {
	return a.Group == b.Group && slices.Equal(a.Entity, b.Entity)
}

func columns(v *feature.View, at []int) *freshetv1.Columns {
	out := &freshetv1.Columns{View: v.Name}
	for _, k := range v.Entity {
		out.KeyNames = append(out.KeyNames, k.Name)
	}
	outputs := v.Outputs()
	for _, c := range at {
		out.Names = append(out.Names, outputs[c].Name)
		out.Types = append(out.Types, outputs[c].Type.String())
	}
	return out
}

// keyOf reads a key; a string is accepted for any key type and read as that type's text.
func keyOf(v *feature.View, k *freshetv1.Key) ([]feature.Value, error) {
	if len(k.GetValues()) != len(v.Entity) {
		return nil, fault.New(fault.Usage, "%d values, entity of %s has %d", len(k.GetValues()), v.Name, len(v.Entity))
	}
	out := make([]feature.Value, len(v.Entity))
	for i, f := range v.Entity {
		value, err := FromValue(k.Values[i], f.Type)
		if err != nil {
			return nil, fault.Wrap(fault.Usage, err, "%s", f.Name)
		}
		out[i] = value
	}
	return out, nil
}

// Describe gives views and partitions.
func (s *Server) Describe(_ context.Context, in *freshetv1.DescribeRequest) (*freshetv1.DescribeResponse, error) {
	catalog := s.o.Node.Catalog()
	out := &freshetv1.DescribeResponse{}
	groups := map[string]bool{}
	for _, v := range catalog.Views {
		if in.View != "" && in.View != v.Name {
			continue
		}
		d := &freshetv1.View{
			Name: v.Name, Group: v.Group.Name, Partitions: int32(v.Group.Partitions), Source: v.Source.FullName(),
			Columns: columns(v, all(v)), Owner: v.Def.Owner, Description: v.Def.Description, Generation: v.Generation,
		}
		for _, p := range s.o.Node.Partitions(v.Group.Name) {
			d.Deltas += s.o.Node.Published(p, v.Name)
			shown, _, building := p.Generation(v.Name)
			if d.Shown == 0 || shown < d.Shown {
				d.Shown = shown
			}
			d.Held = d.Held || building.Hold
			if at, stands := p.Stopped(v.Name); stands {
				d.Stopped = append(d.Stopped, &freshetv1.StoppedView{
					Partition: int32(p.Number()), Position: at.Position.String(), LogTime: at.LogTime, Reason: at.Reason, Mend: at.Mend, Mending: at.Mending,
				})
			}
		}
		d.Compared = compared(s.o.Node.Partitions(v.Group.Name), v.Name)
		out.Views = append(out.Views, d)
		groups[v.Group.Name] = true
	}
	if len(out.Views) == 0 {
		return nil, status.Errorf(codes.NotFound, "there is no view %q; there are: %s", in.View, names(catalog))
	}
	for _, g := range catalog.Groups {
		for _, p := range s.o.Node.Partitions(g.Name) {
			if groups[g.Name] {
				m := p.Meta()
				out.Partitions = append(out.Partitions, s.lag(g.Name, p.Number(), &m))
			}
		}
	}
	return out, nil
}
