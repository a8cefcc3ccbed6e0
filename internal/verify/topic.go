package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

// DeltaCounts are the deltas of a view up to a cut, by what they were.
type DeltaCounts struct {
	Total  int64            `json:"total"`
	ByOp   map[string]int64 `json:"by_op"`
	Causes map[string]int64 `json:"by_cause"`
	// After is the deltas past the cut. Their order is checked too.
	After int64 `json:"after"`
}

// Schemas finds the Avro schema of an id: topic.Registry.
type Schemas interface {
	Schema(ctx context.Context, id uint32) (subject, schema string, err error)
}

// DeltaTopic reads a view's delta topic as any subscriber may, read_committed, from its start to its
// present end, and compares what a subscriber who stops at the cut knows: the last delta of each
// entity, where a deletion, or an expiry, is no row. Along the way sequence must be contiguous, from 1,
// in each partition, and version count up by one for each entity, through all generations of the view. Of a group that has
// grown the topics of the generations before come first: who has read all of them knows every entity.
func DeltaTopic(ctx context.Context, topics *topic.Client, schemas Schemas, v *feature.View, cut change.CutRecord, expected *Expected) (*Report, error) {
	f := &follower{
		view: v, schemas: schemas, known: map[uint32]*feature.View{}, cut: cut.Position,
		sequences: map[stream]uint64{}, entities: map[string]*followed{}, comparer: NewComparer(v, DeltaTopicPlace, cut, expected),
		counts: &DeltaCounts{ByOp: map[string]int64{}, Causes: map[string]int64{}},
	}
	group := *v.Group
	if f.group = max(v.Group.Since, 1); f.group > 1 {
		f.comparer.report.Error = fmt.Sprintf("deltas of before the group's generation %d are no longer kept", f.group)
	}
	for ; f.group <= max(v.Group.Generation, 1); f.group++ {
		group.Generation = f.group
		if err := f.follow(ctx, topics, topics.Delta(group.In(v.Name))); err != nil {
			return nil, fault.Wrap(fault.ClassOf(err), err, "the deltas of view %s cannot be read", v.Name)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(f.entities)) {
		if e := f.entities[id]; e.values != nil {
			f.comparer.Row(e.key, e.values)
		}
	}
	r := f.comparer.Done()
	r.Counts = f.counts
	return r, nil
}

type stream struct {
	group     uint32 // its generation
	partition int32
}

type followed struct {
	version uint64
	key     []feature.Value
	values  []feature.Value // nil: absent
}

// follower is what a subscriber knows.
type follower struct {
	view      *feature.View
	schemas   Schemas
	group     uint32                   // generation of the group that is read
	known     map[uint32]*feature.View // the generation that writes a schema
	cut       position.Position
	sequences map[stream]uint64
	entities  map[string]*followed
	comparer  *Comparer
	counts    *DeltaCounts
}

// follow reads to the last record that is committed now: past it there may be nothing more to come.
func (f *follower) follow(ctx context.Context, topics *topic.Client, name string) error {
	from, err := topics.Starts(ctx, name)
	if err != nil {
		return err
	}
	tails, err := topics.Tails(ctx, name)
	if err != nil || len(tails) == 0 {
		return err
	}
	reading := map[int32]int64{}
	for p := range tails {
		reading[p] = from[p]
	}
	r, err := topics.NewReader(topic.ReaderOptions{Topic: name, From: reading, Committed: true})
	if err != nil {
		return err
	}
	defer r.Close()
	for len(tails) > 0 {
		batches, err := r.Poll(ctx)
		if err != nil {
			return err
		}
		for _, b := range batches {
			for i := range b.Records {
				if t := tails[b.Partition]; t == nil || b.Records[i].Offset > t.Offset {
					break // written since we began
				}
				if err := f.record(ctx, &b.Records[i].Record); err != nil {
					return fmt.Errorf("%s/%d at %d: %w", name, b.Partition, b.Records[i].Offset, err)
				}
				if b.Records[i].Offset == tails[b.Partition].Offset {
					delete(tails, b.Partition)
				}
			}
		}
	}
	return nil
}

func (f *follower) record(ctx context.Context, r *topic.Record) error {
	id, payload, err := change.Unframe(r.Value)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	if f.known[id] == nil {
		_, schema, err := f.schemas.Schema(ctx, id)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		all := append(slices.Clone(f.view.Before), f.view)
		at := slices.IndexFunc(all, func(v *feature.View) bool { return change.DeltaCodec{View: v}.Schema() == schema })
		if at < 0 {
			return fault.New(fault.Failed, "it has schema %d, which is of another definition of the view", id)
		}
		f.known[id] = all[at]
	}
	d, err := change.DeltaCodec{View: f.known[id]}.Decode(payload)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	d.Features = f.now(f.known[id], d.Features)
	f.delta(r.Partition, d)
	return nil
}

// now gives features of a generation as a reader knows them by the columns of the newest.
func (f *follower) now(of *feature.View, features []feature.Value) []feature.Value {
	if of == f.view || features == nil {
		return features
	}
	var out []feature.Value
	for _, o := range f.view.Outputs() {
		at := of.Output(o.Name)
		if at < 0 {
			out = append(out, feature.Value{})
			continue
		}
		out = append(out, features[at])
	}
	return out
}

// delta takes the next delta of a partition.
func (f *follower) delta(partition int32, d *change.Delta) {
	report := f.comparer.report
	s := stream{f.group, partition}
	last, began := f.sequences[s]
	if !began && d.Sequence > 1 && report.Error == "" {
		report.Error = fmt.Sprintf("partition %d of the topic begins at sequence %d: what came before is no longer kept, or was never written", partition, d.Sequence)
	}
	if began && d.Sequence != last+1 {
		report.differ("partition "+strconv.Itoa(int(partition)), "_sequence", strconv.FormatUint(last+1, 10), strconv.FormatUint(d.Sequence, 10))
	}
	f.sequences[s] = d.Sequence
	id := keyBytes(d.Key)
	e := f.entities[id]
	if e == nil {
		e = &followed{key: d.Key}
		f.entities[id] = e
	}
	if d.Version != e.version+1 && report.Error == "" {
		report.differ(feature.KeyText(d.Key), "_version", strconv.FormatUint(e.version+1, 10), strconv.FormatUint(d.Version, 10))
	}
	e.version = d.Version
	if d.Position.After(f.cut) {
		f.counts.After++
		return
	}
	f.counts.Total++
	f.counts.ByOp[d.Op.String()]++
	f.counts.Causes[d.Cause.String()]++
	e.values = d.Features
	if d.Op == change.Remove {
		e.values = nil
	}
}
