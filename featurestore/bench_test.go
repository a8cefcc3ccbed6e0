package featurestore

import (
	"fmt"
	"testing"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
)

// What a lookup costs without gRPC.
func BenchmarkGet(b *testing.B) {
	w := newWorld(b)
	var rows []trip
	for i := range 1_000 {
		rows = append(rows, trip{id: int64(i), tail: fmt.Sprint("t", i), dest: "JFK", delay: float64(i), fare: "1.00"})
	}
	w.insert(rows...)
	w.heartbeat()
	for _, n := range []int{1, 100} {
		in := &freshetv1.GetRequest{Selections: of("trips")}
		for i := range n {
			in.Keys = append(in.Keys, key(fmt.Sprint("t", i)))
		}
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.server.Get(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
