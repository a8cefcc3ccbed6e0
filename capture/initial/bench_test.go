package initial

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

func cpuSeconds(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// BenchmarkCopy reads a table like that of the capture benchmark into a sink that splits each row and
// discards it. ROWS sets its size; 200,000 without.
func BenchmarkCopy(b *testing.B) {
	n := 200_000
	if s := os.Getenv("ROWS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	s, c := database(b)
	execute(b, c, `create table public.big (id bigint primary key, account text not null, at timestamptz not null,
		amount numeric(12,2) not null, score float8, note text)`)
	execute(b, c, fmt.Sprintf(`insert into public.big select i, 'account ' || i %% 10007, '2026-01-01'::timestamptz + i * interval '1 second',
		i %% 100000 / 100.0, i / 7.0, 'a note of this event' from generate_series(1, %d::bigint) i`, n))
	execute(b, c, "vacuum analyze public.big")
	export, err := s.CreateSlot(b.Context(), "s", true)
	if err != nil {
		b.Fatal(err)
	}
	defer export.Close()
	chunks, err := Plan(b.Context(), c, describe(b, c, "public.big"), PlanOptions{ChunkBytes: 16 << 20})
	if err != nil {
		b.Fatal(err)
	}
	for _, workers := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			copier := NewCopier(CopierOptions{
				Workers: workers,
				Open:    func(ctx context.Context) (*pgx.Conn, error) { return s.Adopt(ctx, export.Name) },
			})
			before, rows := cpuSeconds(b), 0
			for b.Loop() {
				err := copier.Run(b.Context(), chunks, func(_ context.Context, _ Chunk, r *Rows) error {
					for r.Next() {
						rows++
					}
					return r.Err()
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			if rows != n*b.N {
				b.Fatalf("%d rows", rows)
			}
			b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(rows)/(cpuSeconds(b)-before), "rows/CPU-s")
		})
	}
}
