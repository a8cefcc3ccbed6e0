package main

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshet-io/freshet/delta"
)

// keptMetrics shows what Kafka has of the changes of the partitions that this node owns.
type keptMetrics struct{ records, bytes *prometheus.GaugeVec }

func newKeptMetrics(r *prometheus.Registry) *keptMetrics {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help + ", as of the last checkpoint."}, []string{"group", "partition"})
	}
	m := &keptMetrics{
		records: gauge("freshet_changes_kept_records", "Records of a partition's changes that Kafka has"),
		bytes:   gauge("freshet_changes_kept_bytes", "Bytes of a partition's changes on one broker"),
	}
	r.MustRegister(m.records, m.bytes)
	return m
}

func (m *keptMetrics) tell(group string, partition int, k delta.Kept) {
	labels := []string{group, strconv.Itoa(partition)}
	m.records.WithLabelValues(labels...).Set(float64(k.Records))
	if k.Bytes >= 0 {
		m.bytes.WithLabelValues(labels...).Set(float64(k.Bytes))
	}
}
