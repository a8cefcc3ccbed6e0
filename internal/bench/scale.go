package bench

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	lookEvery  = 100 * time.Millisecond // at the tails of the delta topic
	clockTicks = 100                    // of /proc, per second
)

// scaled measures D2: the changes are in the topic before, and one node, and then two, each pinned to a core of
// its own, fold them. What is compared begins when every partition has deltas: neither a process's start nor
// the group's first plan is held against either.
func (r *run) scaled(ctx context.Context, w *deltaWorld) error {
	l := w.line("D2", "changes/s", spent{})
	l.Size = fmt.Sprintf("%d changes of %d accounts, %d partitions, in the topic before", r.changes, r.accounts, fan)
	if _, err := exec.LookPath("taskset"); err != nil {
		l.Peer = "one node: not run here: taskset, which pins a process to a core, is not in PATH"
		return r.write(l)
	}
	var one, two scaledOnce
	err := r.withTable(ctx, "D2", func(url string, _ *feature.Table) error {
		for range r.folding {
			for _, nodes := range []int{1, 2} {
				got, err := r.scaleOnce(ctx, w, url, nodes)
				if err != nil {
					return err
				}
				if best := map[int]*scaledOnce{1: &one, 2: &two}[nodes]; got.rate() > best.rate() {
					*best = got
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.Value, l.PerCPU, l.PeerPerCPU, l.RSS = two.rate(), two.perCPU(), one.perCPU(), two.rss
	l.Peer, l.CPU, l.Versions["postgresql"] = "one node on one core", two.cpu, embedded.PostgresVersion
	l.note(fmt.Sprintf("two nodes, on cores 0 and 1 of %d: they took %.1f CPU-s and everything else on the machine, Kafka above all, %.1f; one node %.1f and %.1f",
		r.m.Cores, two.cpu, two.rest, one.cpu, one.rest),
		fmt.Sprintf("counted from when every partition has deltas: the last %.0f %% with two nodes and %.0f %% with one", 100*two.share, 100*one.share),
		"peak RSS of the larger node")
	if r.m.Cores < 4 {
		l.note("nodes and Kafka compete for the same cores: per CPU-second is the comparison that holds")
	}
	per := l
	l.versus(one.rate())
	if err := r.write(l); err != nil {
		return err
	}
	per.Variant, per.Unit, per.Value, per.PerCPU, per.PeerPerCPU = "per CPU-second of the nodes", "changes/CPU-s", two.perCPU(), 0, 0
	per.versus(one.perCPU())
	return r.write(per)
}

// scaledOnce is a run of one or two nodes.
type scaledOnce struct {
	changes, seconds float64 // of what is counted
	cpu, rest        float64 // CPU-seconds of the nodes, and of everything else, in the same time
	share            float64 // of all that is counted
	rss              float64
}

func (s scaledOnce) rate() float64   { return s.changes / math.Max(s.seconds, 1e-3) }
func (s scaledOnce) perCPU() float64 { return s.changes / math.Max(s.cpu, 1e-3) }

// scaleOnce writes the changes for so many nodes and lets them fold.
func (r *run) scaleOnce(ctx context.Context, w *deltaWorld, source string, nodes int) (out scaledOnce, err error) {
	k, err := w.apart(ctx)
	if err != nil {
		return out, err
	}
	defer k.close()
	r.tell(fmt.Sprintf("D2, %s: writing %d changes", plural(nodes, "node"), r.changes))
	p, err := newPaidWriter(ctx, k, paidTable(), fan)
	if err != nil {
		return out, err
	}
	p.peer = ""
	err = p.write(ctx, newHistory(r.changes, r.accounts, false), r.changes)
	p.close()
	if err != nil {
		return out, err
	}
	total := pairs(newHistory(r.changes, r.accounts, false), r.changes)
	var all []*nodeProcess
	defer func() {
		for _, n := range all {
			n.kill()
		}
	}()
	r.tell(fmt.Sprintf("D2, %s", plural(nodes, "node")))
	project, err := r.project(ctx, k, source, fan, "")
	if err != nil {
		return out, err
	}
	for i := range nodes {
		if i > 0 {
			if project, err = project.another(ctx, fmt.Sprintf("node-%d", i+1)); err != nil {
				return out, err
			}
		}
		n, err := project.start(ctx, "taskset", "-c", strconv.Itoa(i%r.m.Cores))
		if err != nil {
			return out, err
		}
		all = append(all, n)
	}
	return out, r.watchScaled(ctx, k, all, total, &out)
}

// watchScaled looks at the tails of the delta topic until everything is there.
func (r *run) watchScaled(ctx context.Context, k *kafkaSide, all []*nodeProcess, total uint64, out *scaledOnce) error {
	ctx, cancel := context.WithTimeout(ctx, foldWait)
	defer cancel()
	catalog, err := paidCatalog("paid", modeEvents, fan)
	if err != nil {
		return err
	}
	codec := change.DeltaCodec{View: catalog.Views[0]}
	name := k.topics.Delta("paid")
	if err := k.topics.Ensure(ctx, []topic.Spec{{Topic: name, Partitions: fan}}); err != nil {
		return err
	}
	// Where all is there before some of it was seen, everything counts.
	began, first := false, uint64(0)
	start, cpu, busy := r.Now(), nodesCPU(all), machineCPU()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		tails, err := k.topics.Tails(ctx, name)
		if err != nil {
			return err
		}
		now := r.Now()
		done, err := sequences(codec, name, tails)
		if err != nil {
			return err
		}
		if !began && len(tails) == fan && done < total {
			began, start, first, cpu, busy = true, now, done, nodesCPU(all), machineCPU()
		}
		if done > total {
			return fault.New(fault.Failed, "%s has %d deltas, and its changes come to %d", name, done, total)
		}
		if done == total {
			out.share = 1 - float64(first)/float64(total)
			out.changes, out.seconds = out.share*float64(r.changes), now.Sub(start).Seconds()
			out.cpu = nodesCPU(all) - cpu
			out.rest = math.Max(machineCPU()-busy-out.cpu, 0)
			for _, n := range all {
				out.rss = max(out.rss, n.rss())
			}
			return nil
		}
		select {
		case <-tick.C:
		case <-all[0].ended:
			return all[0].gone()
		case <-all[len(all)-1].ended:
			return all[len(all)-1].gone()
		case <-ctx.Done():
			return fault.Wrap(fault.Timeout, ctx.Err(), "%d of %d deltas came", done, total)
		}
	}
}

// sequences adds up the sequences of the last deltas of partitions: there are as many deltas.
func sequences(codec change.DeltaCodec, name string, tails map[int32]*topic.Record) (out uint64, err error) {
	for i, t := range tails {
		_, b, err := change.Unframe(t.Value)
		if err != nil {
			return 0, fault.Wrap(fault.Failed, err, "%s/%d", name, i)
		}
		d, err := codec.Decode(b)
		if err != nil {
			return 0, fault.Wrap(fault.Failed, err, "%s/%d", name, i)
		}
		out += d.Sequence
	}
	return out, nil
}

// pairs counts the deltas that inserts come to, one of each account per cell: no timer fires within the day that
// windows reach back.
func pairs(h *history, changes int) uint64 {
	out, seen := uint64(0), map[int32]bool{}
	for i := range changes {
		// The writer begins anew with each transaction, whose cells are whole but for the very last.
		if i%paidCell == 0 {
			clear(seen)
		}
		if a := h.next().account(); !seen[a] {
			seen[a] = true
			out++
		}
	}
	return out
}

// nodesCPU gives the seconds of user and system time of processes so far; 0 where there is no /proc.
func nodesCPU(all []*nodeProcess) (out float64) {
	for _, n := range all {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest) // from the third on
		if len(f) < 13 {
			continue
		}
		out += ticks(f[11]) + ticks(f[12])
	}
	return out
}

// machineCPU gives the seconds that all cores were busy so far; 0 where there is no /proc.
func machineCPU() (out float64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(first)
	for i, s := range f {
		if i > 0 && i < 9 && i != 4 && i != 5 { // neither idle nor waiting for a disk
			out += ticks(s)
		}
	}
	return out
}

func ticks(s string) float64 {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0
	}
	return v / clockTicks
}
