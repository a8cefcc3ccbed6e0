package featurestore

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
)

// metrics are what the server counts itself.
type metrics struct {
	requests *prometheus.CounterVec // code
	ok       prometheus.Counter     // of requests
	seconds  prometheus.Histogram
	keys     prometheus.Counter
	rows     []prometheus.Counter // by status
	stale    prometheus.Counter
	deltas   prometheus.Counter
}

// newMetrics registers everything that /metrics shows of a server and its node.
func newMetrics(o Options, subscriptions func() float64) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshet_lookup_requests_total", Help: "Get requests, those of streams included, by gRPC code.",
		}, []string{"code"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "freshet_lookup_seconds", Help: "Time to answer a Get, waiting for min_position included.",
			Buckets: prometheus.ExponentialBuckets(16e-6, 4, 9), // 16 µs to 1 s
		}),
		keys: prometheus.NewCounter(prometheus.CounterOpts{Name: "freshet_lookup_keys_total", Help: "Keys asked for."}),
		stale: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "freshet_lookup_stale_rows_total", Help: "Rows answered that are marked stale: from a warm copy, or older than max_age.",
		}),
		deltas: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "freshet_subscribe_deltas_total", Help: "Deltas sent to subscribers.",
		}),
	}
	m.ok = m.requests.WithLabelValues(codes.OK.String())
	rows := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "freshet_lookup_rows_total", Help: "Rows answered, by status.",
	}, []string{"status"})
	for i := range len(freshetv1.Status_name) {
		m.rows = append(m.rows, rows.WithLabelValues(freshetv1.Status(i).String()))
	}
	o.Metrics.MustRegister(m.requests, m.seconds, m.keys, m.stale, m.deltas, rows, &partitions{o}, &copies{o},
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "freshet_subscriptions", Help: "Subscriptions that are open."}, subscriptions))
	return m
}

// looked counts one answered Get.
func (m *metrics) looked(took time.Duration, in *freshetv1.GetRequest, out *freshetv1.GetResponse, err error) {
	if err == nil {
		m.ok.Inc()
	} else {
		m.requests.WithLabelValues(status.Code(err).String()).Inc()
	}
	m.seconds.Observe(took.Seconds())
	m.keys.Add(float64(len(in.Keys)))
	rows := out.GetRows()
	for i := 0; i < len(rows); {
		from := i
		for i < len(rows) && rows[i].Status == rows[from].Status { // mostly one run
			i++
		}
		m.rows[rows[from].Status].Add(float64(i - from))
	}
	if !in.ReturnStale {
		return
	}
	for _, row := range rows {
		if row.Stale != nil {
			m.stale.Inc()
		}
	}
}

// partitions shows what every partition of the node knows about itself, as of the scrape.
type partitions struct{ o Options }

// gauge is one figure of a partition.
type gauge struct {
	name, help string
	kind       prometheus.ValueType
	of         func(m *delta.Meta, now time.Time) float64
}

func gauges() []gauge {
	const micros = 1e6
	counter := func(name, help string, of func(s *delta.Stats) uint64) gauge {
		return gauge{name, help, prometheus.CounterValue, func(m *delta.Meta, _ time.Time) float64 { return float64(of(&m.Stats)) }}
	}
	return []gauge{
		{"lag_seconds", "Age of the last commit folded, as max_age judges it; it grows while the source is idle.", prometheus.GaugeValue,
			func(m *delta.Meta, now time.Time) float64 { return float64(now.UnixMicro()-m.CommitTime) / micros }},
		{"log_time_seconds", "Log time, in seconds since 1970.", prometheus.GaugeValue,
			func(m *delta.Meta, _ time.Time) float64 { return float64(m.LogTime) / micros }},
		{"resume_lsn", "Everything committed below this byte of the source's log is folded.", prometheus.GaugeValue,
			func(m *delta.Meta, _ time.Time) float64 { return float64(m.Resume) }},
		{"offset", "Next record of the changes topic.", prometheus.GaugeValue,
			func(m *delta.Meta, _ time.Time) float64 { return float64(m.Offset) }},
		{"ready", "1 when the snapshot is folded.", prometheus.GaugeValue, func(m *delta.Meta, _ time.Time) float64 {
			if m.Done {
				return 1
			}
			return 0
		}},
		{"stopped_views", "Views that stand still: a change of a table does not fit them, or a joined table is over the bound.", prometheus.GaugeValue,
			func(m *delta.Meta, _ time.Time) float64 { return float64(m.StandStill()) }},
		{"joined_bytes", "The most that a view keeps of one table that it joins in every partition.", prometheus.GaugeValue,
			func(m *delta.Meta, _ time.Time) float64 { return float64(m.JoinedMost()) }},
		{"joined_bound_bytes", "What that may be: past it the view stands still. 0 where the log says nothing.", prometheus.GaugeValue,
			func(m *delta.Meta, _ time.Time) float64 { return float64(m.Bound) }},
		{"hop_waiting_bytes", "What some senders of a hop have brought and waits for the others.", prometheus.GaugeValue,
			func(m *delta.Meta, _ time.Time) float64 {
				if m.Hop == nil {
					return 0
				}
				return float64(m.Hop.Bytes)
			}},
		counter("changes_total", "Changes folded.", func(s *delta.Stats) uint64 { return s.Changes }),
		counter("cells_total", "Cells folded, control records included.", func(s *delta.Stats) uint64 { return s.Cells }),
		counter("deltas_total", "Deltas made.", func(s *delta.Stats) uint64 { return s.Deltas }),
		counter("dead_rows_total", "Rows that could not be evaluated and went to the dead topic.", func(s *delta.Stats) uint64 { return s.DeadRows }),
		counter("null_keys_total", "Rows that belong to no entity: a key is NULL.", func(s *delta.Stats) uint64 { return s.NullKeys }),
		counter("awaited_total", "Rows that came in part and wait for the snapshot that is being taken.", func(s *delta.Stats) uint64 { return s.Awaited }),
		counter("skipped_total", "Changes of views that stand still.", func(s *delta.Stats) uint64 { return s.Skipped }),
		counter("expiries_total", "Entities that passed their ttl.", func(s *delta.Stats) uint64 { return s.Expiries }),
		counter("rebuilds_total", "Tiles computed anew from rows.", func(s *delta.Stats) uint64 { return s.Rebuilds }),
	}
}

func (g gauge) desc() *prometheus.Desc {
	return prometheus.NewDesc("freshet_partition_"+g.name, g.help, []string{"group", "partition"}, nil)
}

// Describe implements prometheus.Collector.
func (c *partitions) Describe(out chan<- *prometheus.Desc) {
	for _, g := range gauges() {
		out <- g.desc()
	}
	out <- hotShare()
	out <- generationEntities()
}

// generationEntities are how the two generations of a view that were compared last differ.
func generationEntities() *prometheus.Desc {
	return prometheus.NewDesc("freshet_generation_entities", "Entities by how two generations of a view that were compared last differ: equal, wider, differ, only_old, only_new.",
		[]string{"group", "partition", "view", "result"}, nil)
}

// hotShare is told without the key, which would be a label of any number of values: freshet nodes names it.
func hotShare() *prometheus.Desc {
	return gauge{name: "hot_key_share", help: "Part of the partition's changes of late that its most frequent key has, 0 to 1."}.desc()
}

// Collect implements prometheus.Collector.
func (c *partitions) Collect(out chan<- prometheus.Metric) {
	now := c.o.Now()
	for _, g := range gauges() {
		desc := g.desc()
		for _, group := range c.o.Node.Catalog().Groups {
			for _, p := range c.o.Node.Partitions(group.Name) {
				m := p.Meta()
				out <- prometheus.MustNewConstMetric(desc, g.kind, g.of(&m, now), group.Name, strconv.Itoa(p.Number()))
			}
		}
	}
	for _, group := range c.o.Node.Catalog().Groups {
		for _, p := range c.o.Node.Partitions(group.Name) {
			share := 0.0
			if hot := p.HotKeys(); len(hot) > 0 {
				share = hot[0].Share
			}
			out <- prometheus.MustNewConstMetric(hotShare(), prometheus.GaugeValue, share, group.Name, strconv.Itoa(p.Number()))
			for view, c := range p.Meta().Compared {
				for result, n := range map[string]uint64{"equal": c.Equal, "wider": c.Wider, "differ": c.Differ, "only_old": c.OnlyOld, "only_new": c.OnlyNew} {
					out <- prometheus.MustNewConstMetric(generationEntities(), prometheus.GaugeValue, float64(n), group.Name, strconv.Itoa(p.Number()), view, result)
				}
			}
		}
	}
}

// copies shows the warm copies that the node keeps for others, as of the scrape.
type copies struct{ o Options }

func copyDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("freshet_copy_"+name, help, []string{"group", "partition"}, nil)
}

func copyDescs() (ready, lag, offset *prometheus.Desc) {
	return copyDesc("ready", "1 when the warm copy answers lookups with return_stale if its owner does not: it has been at the end of the log."),
		copyDesc("lag_seconds", "Age of the last commit that the warm copy has folded."),
		copyDesc("offset", "Next record of the changes topic that the warm copy folds.")
}

// Describe implements prometheus.Collector.
func (c *copies) Describe(out chan<- *prometheus.Desc) {
	ready, lag, offset := copyDescs()
	out <- ready
	out <- lag
	out <- offset
}

// Collect implements prometheus.Collector.
func (c *copies) Collect(out chan<- prometheus.Metric) {
	ready, lag, offset := copyDescs()
	now := c.o.Now()
	for _, g := range c.o.Node.Catalog().Groups {
		for i := range g.Partitions {
			p, fit := c.o.Node.Copy(g.Name, i)
			if _, err := c.o.Node.Partition(g.Name, i); err == nil || p == nil {
				continue
			}
			tell := func(d *prometheus.Desc, x float64) {
				out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, x, g.Name, strconv.Itoa(i))
			}
			m, yes := p.Meta(), 0.0
			if fit {
				yes = 1
			}
			tell(ready, yes)
			tell(lag, now.Sub(time.UnixMicro(m.CommitTime)).Seconds())
			tell(offset, float64(m.Offset))
		}
	}
}
