package main

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/capture/spool"
	"github.com/freshet-io/freshet/internal/position"
)

// watched is what capture has told so far. Safe for concurrent use.
type watched struct {
	mu     sync.Mutex
	stats  capture.Stats
	at     position.Position // published up to here
	tables map[string]tableRead
	lost   uint64 // connections
	muted  bool
	full   bool // the spool was
	cuts   uint64
	failed uint64        // cuts that no consistent point was given for
	paused time.Duration // for cuts, all together
	last   time.Duration // for the last of them
}

type tableRead struct {
	rows uint64
	done bool
}

// over gives events that are kept, and go on to what there was.
func (w *watched) over(e capture.Events) capture.Events {
	w.tables = map[string]tableRead{}
	locked := func(f func()) {
		w.mu.Lock()
		defer w.mu.Unlock()
		f()
	}
	next := e
	e.Taken = func(from position.Position, snapshot bool) {
		locked(func() { w.at = from })
		next.Taken(from, snapshot)
	}
	e.Table = func(table string, rows uint64, done bool) {
		locked(func() { w.tables[table] = tableRead{rows, done} })
		next.Table(table, rows, done)
	}
	e.Published = func(at position.Position, s capture.Stats) {
		locked(func() { w.at, w.stats = at, s })
	}
	e.Mute = func(err error) {
		locked(func() { w.muted = true })
		next.Mute(err)
	}
	e.Lost = func(err error, wait time.Duration) {
		locked(func() { w.lost++ })
		next.Lost(err, wait)
	}
	e.Cut = func(c capture.Cut) {
		locked(func() { w.cuts, w.paused, w.last = w.cuts+1, w.paused+c.Pause, c.Pause })
		if next.Cut != nil {
			next.Cut(c)
		}
	}
	e.CutFailed = func(pause time.Duration, err error) {
		locked(func() { w.failed, w.paused, w.last = w.failed+1, w.paused+pause, pause })
		if next.CutFailed != nil {
			next.CutFailed(pause, err)
		}
	}
	e.SpoolFull = func(full *spool.Full) {
		locked(func() { w.full = true })
		next.SpoolFull(full)
	}
	return e
}

// captureMetrics shows what a process that captures knows, as of the scrape. It asks nobody: what the source
// says is of the guard's last measurement.
type captureMetrics struct{ slots []*captured }

// captureView is everything the figures are taken from.
type captureView struct {
	*watched // locked
	spool    spool.Stats
	guard    slotguard.State // its Last.At is zero before the first measurement
	streamed bool
}

// figure is one figure of capture without labels but its slot; what is not known is not shown.
type figure struct {
	name, help string
	kind       prometheus.ValueType
	of         func(v *captureView) (float64, bool)
}

func count(name, help string, of func(v *captureView) float64) figure {
	return figure{name, help, prometheus.CounterValue, func(v *captureView) (float64, bool) { return of(v), true }}
}

func gauge(name, help string, of func(v *captureView) float64) figure {
	return figure{name, help, prometheus.GaugeValue, func(v *captureView) (float64, bool) { return of(v), true }}
}

// ofSlot is a gauge of what the guard measured last.
func ofSlot(name, help string, of func(s slotguard.State) (float64, bool)) figure {
	return figure{name, help, prometheus.GaugeValue, func(v *captureView) (float64, bool) {
		if v.guard.Last.At.IsZero() {
			return 0, false
		}
		return of(v.guard)
	}}
}

func captureFigures() []figure {
	return append([]figure{
		count("changes_total", "Row events published.", func(v *captureView) float64 { return float64(v.stats.Changes) }),
		count("records_total", "Their copies in partitions.", func(v *captureView) float64 { return float64(v.stats.Records) }),
		count("cells_total", "Cells published.", func(v *captureView) float64 { return float64(v.stats.Cells) }),
		count("dropped_total", "Row events that the source sent again and that were published before.", func(v *captureView) float64 { return float64(v.stats.Dropped) }),
		count("dead_total", "Rows that could not be decoded and went to the dead topic.", func(v *captureView) float64 { return float64(v.stats.Dead) }),
		count("connections_lost_total", "Times the source went away and was waited for.", func(v *captureView) float64 { return float64(v.lost) }),
		count("cuts_total", "Cuts put.", func(v *captureView) float64 { return float64(v.cuts) }),
		count("cuts_failed_total", "Cuts that were not put, because the source gave no consistent point in time.", func(v *captureView) float64 { return float64(v.failed) }),
		count("cut_pause_seconds_total", "For which publishing stood still until the source gave a cut its consistent point.", func(v *captureView) float64 { return v.paused.Seconds() }),
		gauge("cut_pause_seconds", "The same, of the last cut.", func(v *captureView) float64 { return v.last.Seconds() }),
		gauge("heartbeats_refused", "1 when heartbeats may not be written into the source's log.", func(v *captureView) float64 { return flag(v.muted) }),
		gauge("ready", "1 when the source's log has been read: the first snapshot, if one was needed, is over.", func(v *captureView) float64 { return flag(v.streamed) }),
		gauge("published_lsn", "The last commit published, as a byte of the source's log.", func(v *captureView) float64 { return float64(v.at.LSN) }),
		gauge("spool_bytes", "Of transactions that are not committed yet, on disk and in memory.", func(v *captureView) float64 { return float64(v.spool.Disk + v.spool.Buffered) }),
		gauge("spool_transactions", "Transactions in the spool.", func(v *captureView) float64 { return float64(v.spool.Transactions) }),
		gauge("spool_full", "1 when the spool was full once, since when the server keeps transactions until they are committed.", func(v *captureView) float64 { return flag(v.full) }),
		{"lag_bytes", "Of the source's log that is neither published nor confirmed, when the slot was measured last.", prometheus.GaugeValue, func(v *captureView) (float64, bool) {
			m := v.guard.Last
			done := max(v.at.LSN, m.Confirmed)
			return float64(max(m.Current, done) - done), !m.At.IsZero() && m.Exists
		}},
	}, slotFigures()...)
}

func slotFigures() []figure {
	return []figure{
		ofSlot("slot_retained_bytes", "Of log that the slot makes the server keep.", func(s slotguard.State) (float64, bool) { return float64(s.Last.Retained), true }),
		ofSlot("slot_safe_bytes", "Of log that can be written before the slot may be lost; not there where that is not bounded.", func(s slotguard.State) (float64, bool) {
			if s.Last.Safe == nil {
				return 0, false
			}
			return float64(*s.Last.Safe), true
		}),
		ofSlot("slot_stage", "How bad it is: 0 ok, 1 warn, 2 shed, 3 page, 4 drop, 5 lost.", func(s slotguard.State) (float64, bool) { return float64(s.Stage), true }),
		ofSlot("slot_growth_bytes_per_second", "By which what the slot retains grows, a mean of late.", func(s slotguard.State) (float64, bool) { return s.Rate, true }),
		ofSlot("slot_left_seconds", "Until the slot is lost at that rate; not there where it is not known, or not bounded.", func(s slotguard.State) (float64, bool) {
			left, ok := s.Left()
			return left.Seconds(), ok
		}),
		ofSlot("slot_active", "1 while the slot is read.", func(s slotguard.State) (float64, bool) { return flag(s.Last.Active), true }),
		ofSlot("slot_confirmed_lsn", "The server needs not send again what lies below, as a byte of its log.", func(s slotguard.State) (float64, bool) { return float64(s.Last.Confirmed), true }),
		ofSlot("slot_measured_seconds", "When the slot was measured last, in seconds since 1970.", func(s slotguard.State) (float64, bool) { return float64(s.Last.At.UnixMilli()) / 1000, true }),
		ofSlot("source_lsn", "The end of the source's log.", func(s slotguard.State) (float64, bool) { return float64(s.Last.Current), true }),
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

const captureSpace = "freshet_capture_"

func (f figure) desc() *prometheus.Desc {
	return prometheus.NewDesc(captureSpace+f.name, f.help, []string{"slot"}, nil)
}

// labelled are the figures that a table or a snapshot has.
type labelled struct{ first, firstDone, read, rows, estimate, waits, status *prometheus.Desc }

func labelledDescs() labelled {
	of := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(captureSpace+name, help, append([]string{"slot"}, labels...), nil)
	}
	return labelled{
		of("first_snapshot_rows", "Rows of the first snapshot that were read since this process began.", "table"),
		of("first_snapshot_done", "1 when the first snapshot has the table whole.", "table"),
		of("snapshot_read_rows", "Rows read by a snapshot beside the stream.", "snapshot"),
		of("snapshot_published_rows", "Of them published.", "snapshot"),
		of("snapshot_estimated_rows", "Rows that the table has by the planner's statistics.", "snapshot"),
		of("snapshot_waits", "1 while a snapshot beside the stream waits for nodes to fold what it has read, or waits for some no more.", "snapshot"),
		of("snapshots", "Snapshots beside the stream, by status.", "status"),
	}
}

// Describe implements prometheus.Collector.
func (c *captureMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, f := range captureFigures() {
		out <- f.desc()
	}
	l := labelledDescs()
	for _, d := range []*prometheus.Desc{l.first, l.firstDone, l.read, l.rows, l.estimate, l.waits, l.status} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *captureMetrics) Collect(out chan<- prometheus.Metric) {
	for _, s := range c.slots {
		s.collect(out)
	}
}

func (c *captured) collect(out chan<- prometheus.Metric) {
	v := &captureView{watched: c.told, spool: c.runner.Spooled()}
	if r := c.runner.Guarded(); r != nil {
		v.guard, v.streamed = r.State, true // it measures from when the stream begins
	}
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, value, append([]string{c.runner.Slot()}, labels...)...)
	}
	l := labelledDescs()
	c.told.mu.Lock()
	for _, f := range captureFigures() {
		if value, ok := f.of(v); ok {
			send(f.desc(), f.kind, value)
		}
	}
	for table, read := range c.told.tables {
		send(l.first, prometheus.GaugeValue, float64(read.rows), table)
		send(l.firstDone, prometheus.GaugeValue, flag(read.done), table)
	}
	c.told.mu.Unlock()
	statuses := map[capture.JobStatus]int{capture.JobRunning: 0, capture.JobPaused: 0, capture.JobFailed: 0, capture.JobCancelled: 0, capture.JobDone: 0}
	for _, j := range c.runner.Snapshots() {
		statuses[j.Status]++
		if j.Status == capture.JobDone || j.Status == capture.JobCancelled { // those that ended are many in time
			continue
		}
		send(l.read, prometheus.GaugeValue, float64(j.Read), j.ID)
		send(l.rows, prometheus.GaugeValue, float64(j.Rows), j.ID)
		send(l.estimate, prometheus.GaugeValue, float64(j.Estimate), j.ID)
		send(l.waits, prometheus.GaugeValue, flag(j.Waits != ""), j.ID)
	}
	for status, n := range statuses {
		send(l.status, prometheus.GaugeValue, float64(n), string(status))
	}
}

// captureHTTP answers /livez, /readyz and /metrics of a process that only captures.
func (s *system) captureHTTP() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		for _, r := range s.runner.Runners() {
			if r.Guarded() == nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Fprintf(w, "the source's stream is not read yet through slot %s\n", r.Slot())
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}))
	return mux
}
