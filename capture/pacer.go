package capture

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// What is committed while a snapshot is read beside the stream stands behind the snapshot's rows in the log of each
// partition, so it is as late as it takes to fold those. Capture reads and publishes rows faster than they are folded: so
// it waits for the nodes, and has at most chunksAhead chunks in the log that are not folded. No value depends on it.

const (
	chunksAhead  = 2                      // chunks in the log that are not folded: one is folded while the next is read
	foldAim      = 200 * time.Millisecond // a chunk has about as many rows as are folded in this
	foldLook     = 20 * time.Millisecond  // between two looks at what is folded
	foldPatience = time.Minute            // for a partition that folds nothing
	foldTell     = 5 * time.Second        // of waiting before it is told
	leastRows    = 100                    // of a chunk
	firstRows    = 1_000
	mostRows     = 10_000
	namedSpots   = 3 // that a message names
)

// spot is a partition of a group.
type spot struct {
	group     string
	partition int
}

func (s spot) String() string { return fmt.Sprintf("%s/%d", s.group, s.partition) }

func compareSpots(a, b spot) int {
	return cmp.Or(strings.Compare(a.group, b.group), cmp.Compare(a.partition, b.partition))
}

// pacer says when the next chunk may be published, and of how many rows it is to be. It is pure: it is told what is
// published, what is folded, and the time. The zero value is ready for use.
type pacer struct {
	patience time.Duration  // 0: foldPatience
	out      []unfolded     // at most chunksAhead
	since    time.Time      // the first of out is folded since then
	held     time.Time      // no chunk may be published since then; zero: one may
	rows     int            // of the next chunk; 0: firstRows
	ends     map[spot]int64 // of the log after the last chunk
	at       map[spot]folding
}

// unfolded is a chunk that was published, and where the log ended then.
type unfolded struct {
	rows int
	ends map[spot]int64
}

// folding is how far a partition is: the record that it is to fold next, since when, and whether that is behind ends.
type folding struct {
	next   int64
	since  time.Time
	behind bool
}

// size is how many rows the next chunk is to have.
func (p *pacer) size() int { return cmp.Or(p.rows, firstRows) }

// published notes a chunk. If nothing is waited for, chunks may be more than are kept apart: then the last two are one.
func (p *pacer) published(now time.Time, rows int, ends map[spot]int64) {
	if len(p.out) == 0 {
		p.since = now
	}
	p.ends = ends
	if n := len(p.out); n == chunksAhead {
		p.out[n-1] = unfolded{p.out[n-1].rows + rows, ends}
		return
	}
	p.out = append(p.out, unfolded{rows, ends})
}

// look tells whether the next chunk may be published. folded says which record each partition is to fold next; one that
// is left out, or does not move on, is waited for as long as patience allows, and then no more until it does. What is
// told of waiting is "" while there is nothing to tell.
func (p *pacer) look(now time.Time, folded map[spot]int64) (may bool, told string) {
	behind, stuck := p.behind(now, folded)
	rows := 0
	for len(p.out) > 0 && !slices.ContainsFunc(behind, func(s spot) bool { return p.at[s].next < p.out[0].ends[s] }) {
		rows += p.out[0].rows
		p.out = p.out[1:]
	}
	if rows > 0 {
		p.aim(rows, now.Sub(p.since))
		p.since = now
	}
	switch may = len(p.out) < chunksAhead; {
	case may:
		p.held = time.Time{}
	case p.held.IsZero():
		p.held = now
	}
	var says []string
	if !may && now.Sub(p.held) >= foldTell {
		says = append(says, "it waits for "+spots(behind)+" to fold what was read")
	}
	if len(stuck) > 0 {
		says = append(says, fmt.Sprintf("it does not wait for %s, where nothing was folded for %s", spots(stuck), p.allows()))
	}
	return may, strings.Join(says, "; ")
}

// behind gives the partitions that have not folded all that was published, and apart from them those that are stuck.
func (p *pacer) behind(now time.Time, folded map[spot]int64) (behind, stuck []spot) {
	if p.at == nil {
		p.at = map[spot]folding{}
	}
	for _, s := range slices.SortedFunc(maps.Keys(p.ends), compareSpots) {
		next, known := folded[s]
		if !known {
			next = math.MinInt64
		}
		is, was := folding{next, now, next < p.ends[s]}, p.at[s]
		if was.behind && was.next == next {
			is.since = was.since
		}
		p.at[s] = is
		switch {
		case !is.behind:
		case now.Sub(is.since) < p.allows():
			behind = append(behind, s)
		default:
			stuck = append(stuck, s)
		}
	}
	return behind, stuck
}

func (p *pacer) allows() time.Duration { return cmp.Or(p.patience, foldPatience) }

// aim makes the next chunk so large that it is folded in foldAim, by what the last ones took. It changes by a factor of two at most.
func (p *pacer) aim(rows int, took time.Duration) {
	size := p.size()
	if rows < size/2 && took < 2*foldAim { // the last of a table, or what is read again, says little
		return
	}
	want := float64(mostRows)
	if took > 0 {
		want = float64(rows) * foldAim.Seconds() / took.Seconds()
	}
	p.rows = int(min(max(want, float64(size)/2, leastRows), float64(size)*2, mostRows))
}

// spots names some partitions.
func spots(all []spot) string {
	var names []string
	for _, s := range all[:min(len(all), namedSpots)] {
		names = append(names, s.String())
	}
	out := strings.Join(names, ", ")
	if n := len(all) - namedSpots; n > 0 {
		out += fmt.Sprintf(" and %d more", n)
	}
	return out
}

// paces tells whether a job waits for the nodes. What is left of a first snapshot does not: nobody reads before it is whole.
func (b *backfill) paces(j Job) bool {
	return b.o.Folded != nil && j.Initial == "" && len(b.known.groups) > 0
}

// may tells whether the next chunk may be published.
func (b *backfill) may(ctx context.Context, j Job) bool {
	if !b.paces(j) {
		return true
	}
	folded := map[spot]int64{}
	err := b.o.Folded(ctx, func(group string, partition int, next int64) { folded[spot{group, partition}] = next })
	may, told := b.pacer.look(b.o.Now(), folded)
	if told != "" && err != nil {
		told += "; nodes do not say how far they are: " + err.Error()
	}
	if b.jobs.waits(b.id, told) && b.o.Events.Waits != nil {
		b.o.Events.Waits(b.id, told)
	}
	return may
}

// noteEnds notes where the log ends after a chunk.
func (b *backfill) noteEnds(ctx context.Context, j Job, rows int) error {
	if !b.paces(j) {
		return nil
	}
	ends, logged := map[spot]int64{}, b.o.Catalog.Logged()
	for _, i := range b.known.groups {
		g := logged[i]
		of, err := b.o.Topics.Ends(ctx, b.o.Topics.Changes(g.Log()))
		if err != nil {
			return fmt.Errorf("%w: %w", errPublisher, err)
		}
		for partition, end := range of {
			ends[spot{g.Name, int(partition)}] = end
		}
	}
	b.pacer.published(b.o.Now(), rows, ends)
	return nil
}
