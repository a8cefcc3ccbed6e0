package capture

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/testkit"
)

func at(next ...int64) map[spot]int64 {
	out := map[spot]int64{}
	for i, n := range next {
		out[spot{"account", i}] = n
	}
	return out
}

// pacing is a pacer whose time a test makes.
type pacing struct {
	t *testing.T
	pacer
	now time.Time
}

func newPacing(t *testing.T) *pacing {
	return &pacing{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
}

func (p *pacing) after(d time.Duration) *pacing {
	p.now = p.now.Add(d)
	return p
}

func (p *pacing) publish(rows int, ends ...int64) { p.published(p.now, rows, at(ends...)) }

func (p *pacing) want(may bool, told string, next ...int64) {
	p.t.Helper()
	m, s := p.look(p.now, at(next...))
	if m != may || s != told {
		p.t.Errorf("it says %v, %q, and not %v, %q", m, s, may, told)
	}
}

func (p *pacing) wantSize(rows int) {
	p.t.Helper()
	if got := p.size(); got != rows {
		p.t.Errorf("the next chunk is of %d rows, and not of %d", got, rows)
	}
}

func TestChunksWaitForTheSlowestPartition(t *testing.T) {
	p := newPacing(t)
	p.want(true, "", 5, 5)
	p.publish(1000, 10, 10)
	p.want(true, "", 5, 5) // one is folded while the next is read
	p.publish(1000, 20, 20)
	p.want(false, "", 5, 5)
	p.after(100*time.Millisecond).want(false, "", 25, 9)
	p.after(100*time.Millisecond).want(true, "", 25, 10)
	p.publish(1000, 30, 30)
	p.after(time.Second).want(false, "", 30, 15)
	p.after(time.Second).want(true, "", 40, 40)
	p.publish(1000, 50, 50)
	p.publish(1000, 60, 60)
	p.after(time.Second).want(false, "", 40, 40)
	p.after(foldTell).want(false, "it waits for account/0, account/1 to fold what was read", 40, 40)
	p.want(false, "it waits for account/0 to fold what was read", 41, 60)
	p.want(true, "", 50, 60)
}

func TestChunksAreFoldedInAboutTheSameTime(t *testing.T) {
	p := newPacing(t)
	end := int64(0)
	chunk := func(took time.Duration, rows int) {
		end += int64(rows)
		p.publish(rows, end)
		p.after(took).want(true, "", end)
	}
	p.wantSize(firstRows)
	chunk(foldAim, 1000)
	p.wantSize(1000)
	chunk(foldAim/2, 1000)
	p.wantSize(2000)
	chunk(foldAim/100, 2000) // by two at most
	p.wantSize(4000)
	chunk(0, 4000)
	chunk(0, 8000)
	p.wantSize(mostRows)
	chunk(foldAim*100, 10000)
	p.wantSize(5000)
	chunk(foldAim*2, 5000)
	p.wantSize(2500)
	chunk(foldAim/10, 20) // the last of a table
	p.wantSize(2500)
	for range 10 {
		chunk(time.Minute/2, p.size())
	}
	p.wantSize(leastRows)
	p.publish(leastRows, end+100)
	p.publish(leastRows, end+200)
	p.after(foldAim).want(true, "", end+200) // both were folded in it
	p.wantSize(2 * leastRows)
}

// TestNobodyIsWaitedForForEver: partitions that fold nothing, or of which nothing is told, are waited for as long as
// patience allows, the others go on to be waited for, and so are those when they move.
func TestNobodyIsWaitedForForEver(t *testing.T) {
	const stuck = "it does not wait for account/1, where nothing was folded for 1m0s"
	p := newPacing(t)
	p.publish(1000, 10, 10)
	p.publish(1000, 20, 20)
	p.want(false, "", 5)
	p.after(foldPatience/2).want(false, "it waits for account/1 to fold what was read", 20)
	p.after(foldPatience/2).want(true, stuck, 30)
	for i := int64(3); i < 9; i++ { // the one that folds is waited for as before
		p.publish(1000, 10*i, 10*i)
		p.publish(1000, 10*i+5, 10*i+5)
		p.after(foldAim).want(false, stuck, 10*i-1)
		p.after(foldAim).want(true, stuck, 10*i)
		p.after(foldAim).want(true, stuck, 10*i+5)
	}
	p.publish(1000, 90, 90)
	p.publish(1000, 95, 95)
	p.want(true, stuck, 95, -1<<63) // as if nothing was told
	p.publish(1000, 100, 100)
	p.after(time.Second).want(true, "", 95, 1) // it folds again: it has this long, and all it has missed
	p.publish(1000, 105, 105)
	p.want(false, "", 105, 1)
	p.after(foldTell).want(false, "it waits for account/1 to fold what was read", 105, 50)
	p.after(foldPatience).want(true, stuck, 105, 50)
	p.want(true, "", 105, 200)
	if len(p.out) != 0 {
		t.Errorf("%d chunks are not folded", len(p.out))
	}
}

// TestWhatIsNotFoldedIsBounded: whatever partitions do, no more than chunksAhead chunks are ahead of one that is waited
// for, what is kept is bounded, and a table is read to its end.
func TestWhatIsNotFoldedIsBounded(t *testing.T) {
	r := testkit.Seed(t)
	p := newPacing(t)
	p.patience = 10 * time.Second
	const partitions = 3
	end, next := make([]int64, partitions), make([]int64, partitions)
	var chunks [][]int64                                                     // where each ended
	dead, told, free := make([]bool, partitions), 0, make([]int, partitions) // free: the chunk at which it was not waited for
	for step := 0; len(chunks) < 400; step++ {
		if step > 1_000_000 {
			t.Fatal("it does not end")
		}
		p.after(time.Duration(r.IntN(2000)) * time.Millisecond)
		folded := map[spot]int64{}
		for i := range partitions {
			if r.IntN(50) == 0 {
				dead[i] = !dead[i]
			}
			if !dead[i] {
				next[i] = min(end[i], next[i]+int64(r.IntN(1500)))
			}
			if r.IntN(100) > 0 {
				folded[spot{"account", i}] = next[i]
			}
		}
		may, says := p.look(p.now, maps.Clone(folded))
		if says != "" {
			told++
		}
		if len(p.out) > chunksAhead || len(p.at) > partitions {
			t.Fatalf("it keeps %d chunks", len(p.out))
		}
		_, without, _ := strings.Cut(says, "it does not wait for ")
		for i := range partitions {
			if strings.Contains(without, spot{"account", i}.String()) {
				free[i] = len(chunks)
			}
		}
		if !may {
			continue
		}
		for i := range partitions {
			n := len(chunks)
			if at, told := folded[spot{"account", i}]; n > chunksAhead && n-free[i] > chunksAhead && told && at < chunks[n-chunksAhead][i] {
				t.Fatalf("after %d chunks partition %d is at %d of %d", n, i, at, chunks[n-chunksAhead][i])
			}
		}
		rows := p.size()
		for i := range partitions {
			end[i] += int64(rows/partitions + r.IntN(3))
		}
		chunks = append(chunks, append([]int64(nil), end...))
		p.publish(rows, end...)
	}
	if told == 0 {
		t.Error("nothing was told of waiting")
	}
}
