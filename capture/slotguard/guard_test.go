package slotguard

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
)

func TestTheGuardMeasuresAtOnceAndThenEverySoOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports []Report
		var at []time.Duration
		begin := time.Now()
		g := Guard{
			Slot: "s",
			Read: func(context.Context) (Measure, error) {
				n := int64(len(reports))
				return Measure{At: time.Now(), Slot: "s", Exists: true, Retained: n * 4 * gib}, nil
			},
			Tell: func(r Report) {
				reports = append(reports, r)
				at = append(at, time.Since(begin))
			},
		}
		ctx, cancel := context.WithTimeout(t.Context(), 55*time.Second)
		defer cancel()
		if err := g.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if len(reports) != 6 || at[0] != 0 || at[5] != 50*time.Second {
			t.Fatalf("reports at %v", at)
		}
		for i, want := range []Stage{OK, OK, Warn, Shed, Shed, Page} {
			if reports[i].State.Stage != want || reports[i].Err != nil || (len(reports[i].Actions) > 0) != (i == 2 || i == 3 || i == 5) {
				t.Errorf("report %d: %+v", i, reports[i])
			}
		}
	})
}

func TestTheGuardOutlivesAServerThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("connection refused")
		n := 0
		var reports []Report
		g := Guard{
			Slot:  "s",
			Every: time.Second,
			Read: func(ctx context.Context) (Measure, error) {
				n++
				switch n {
				case 1, 8, 10:
					return Measure{At: time.Now(), Slot: "s", Exists: true, Retained: 6 * gib}, nil
				case 5:
					<-ctx.Done() // no answer at all
					return Measure{}, ctx.Err()
				}
				return Measure{}, down
			},
			Tell: func(r Report) { reports = append(reports, r) },
		}
		ctx, cancel := context.WithTimeout(t.Context(), 9500*time.Millisecond)
		defer cancel()
		if err := g.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if len(reports) != 10 {
			t.Fatalf("%d reports", len(reports))
		}
		for i, r := range reports {
			if r.State.Stage != Warn || (r.Err == nil) != (i == 0 || i == 7 || i == 9) {
				t.Errorf("report %d: %+v", i, r)
			}
			kinds := ""
			for _, a := range r.Actions {
				kinds += string(a.Kind)
			}
			if want := map[int]string{0: "raised", 3: "blind", 7: "sighted"}[i]; kinds != want {
				t.Errorf("report %d: actions %q, expected %q", i, kinds, want)
			}
		}
		if text := reports[3].Actions[0].String(); !strings.Contains(text, "slot s") || !strings.Contains(text, "refused") || !strings.Contains(text, "to mend") {
			t.Error(text)
		}
		if text := reports[4].Err.Error(); !strings.Contains(text, "within 1s") {
			t.Error(text)
		}
	})
}

func TestAGuardWithWrongLimitsDoesNotStart(t *testing.T) {
	g := Guard{Limits: Limits{Release: 2}}
	if err := g.Run(t.Context()); fault.ClassOf(err) != fault.Usage || err == nil {
		t.Error(err)
	}
}
