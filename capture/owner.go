package capture

import (
	"context"
	"maps"
	"slices"

	"github.com/freshet-io/freshet/internal/fault"
)

// ownerPrefix is followed by a topic's name; the value is the slot whose capture writes it.
const ownerPrefix = "owner/"

// own notes which topics this slot writes. Where capture is to go on, one that another slot has written is
// refused: its end says how far that one was, and taken for ours, changes of our other topics would pass
// for published. A new epoch stands above it. A topic without a note is ours: there was one slot only.
func (s *session) own(ctx context.Context, state resumeState, goesOn bool) error {
	for _, name := range slices.Sorted(maps.Keys(state.filled)) {
		key := ownerPrefix + name
		owner, ok := s.o.Registry.Get(key)
		if string(owner) == s.o.Source.Slot {
			continue
		}
		if ok && goesOn && state.filled[name] {
			return fault.New(fault.Usage, "topic %s was written through slot %s, and slot %s has topics of its own", name, owner, s.o.Source.Slot).At("source.postgres").
				ToMend("let slot %s read it again; or end every capture, and begin a new epoch of slot %s with a snapshot of its tables: freshet capture --slot %s --new-snapshot",
					owner, s.o.Source.Slot, s.o.Source.Slot)
		}
		if err := s.o.Registry.Put(ctx, key, []byte(s.o.Source.Slot)); err != nil {
			return err
		}
	}
	return nil
}
