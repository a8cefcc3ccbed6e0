package pipeline

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
)

func at(t testing.TB, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v.UTC()
}

func schedule(t testing.TB, expr, zone string) Schedule {
	t.Helper()
	s, err := ParseSchedule(expr, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNextInstants(t *testing.T) {
	for _, c := range []struct{ what, expr, zone, after, want string }{
		{"the demo's nights", "0 2 * * *", "UTC", "2013-01-29T02:00:00Z", "2013-01-30T02:00:00Z 2013-01-31T02:00:00Z"},
		{"an empty zone is UTC", "@daily", "", "2013-01-29T02:00:00Z", "2013-01-30T00:00:00Z"},
		{"strictly after, seconds too", "* * * * *", "UTC", "2013-01-29T02:00:30.5Z", "2013-01-29T02:01:00Z"},
		{"a skipped time is due after the jump", "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z",
			"2026-03-29T01:00:00Z 2026-03-30T00:30:00Z"},
		{"several skipped ones together", "*/10 2,3 * * *", "Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29T01:00:00Z 2026-03-29T01:10:00Z"},
		{"a time that comes twice is due the first time", "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z",
			"2026-10-25T00:30:00Z 2026-10-26T01:30:00Z"},
		{"every hour really passes: none is made up", "30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z",
			"2026-03-29T00:30:00Z 2026-03-29T01:30:00Z"},
		{"every hour really passes: both count", "30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z",
			"2026-10-25T00:30:00Z 2026-10-25T01:30:00Z 2026-10-25T02:30:00Z"},
		{"half an hour is skipped", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "2026-10-03T15:30:00Z"},
		{"midnight is skipped", "0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", "2018-11-04T03:00:00Z 2018-11-05T02:00:00Z"},
		{"a day is skipped", "0 12 * * *", "Pacific/Apia", "2011-12-30T00:00:00Z", "2011-12-30T10:00:00Z 2011-12-30T22:00:00Z"},
		{"midnight comes before the evening", "0,30 * * * *", "America/St_Johns", "2006-10-29T01:59:00Z",
			"2006-10-29T02:00:00Z 2006-10-29T02:30:00Z 2006-10-29T03:00:00Z 2006-10-29T03:30:00Z 2006-10-29T04:00:00Z"},
		{"either day suffices", "0 0 13 * 5", "UTC", "2026-02-01T00:00:00Z", "2026-02-06T00:00:00Z 2026-02-13T00:00:00Z 2026-02-20T00:00:00Z"},
		{"a leap day on a Monday", "0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"},
		{"Sunday is 0 and 7", "0 0 * * 7", "UTC", "2026-11-25T00:00:00Z", "2026-11-29T00:00:00Z"},
		{"the start of time", "0 0 * * *", "UTC", "1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s, now := schedule(t, c.expr, c.zone), at(t, c.after)
			for want := range strings.FieldsSeq(c.want) {
				now = s.Next(now)
				if got := now.Format(time.RFC3339); got != want {
					t.Fatalf("got %s, expected %s", got, want)
				}
				if last := s.Last(now.Add(time.Second)); !last.Equal(now) {
					t.Errorf("the last one is %s, expected %s", last, now)
				}
			}
		})
	}
}

func TestRefusedSchedules(t *testing.T) {
	for _, c := range []struct{ expr, zone, says string }{
		{"0 2 * *", "UTC", "five fields"},
		{"0 25 * * *", "UTC", "25"},
		{"0 0 30 2 *", "UTC", "never due"},
		{"@every 1h", "UTC", "does not name instants"},
		{"CRON_TZ=Europe/Berlin 0 2 * * *", "UTC", "under timezone"},
		{"0 2 * * *", "Europe/Belrin", "Europe/Belrin"},
		{"0 2 * * *", "Local", "not known"},
		{"", "UTC", "five fields"},
	} {
		if _, err := ParseSchedule(c.expr, c.zone); fault.ClassOf(err) != fault.Usage || err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q in %q: %v", c.expr, c.zone, err)
		}
	}
}

// plain gives the instants of a window as the documentation says them, a minute at a time.
func plain(t testing.TB, minute, hour, dom, dow string, zone *time.Location, from, to time.Time) []time.Time {
	t.Helper()
	matches := func(wall time.Time) bool {
		in := func(field string, v int) bool {
			if field == "*" {
				return true
			}
			for p := range strings.SplitSeq(field, ",") {
				if p == fmt.Sprint(v) {
					return true
				}
			}
			return false
		}
		day, week := in(dom, wall.Day()), in(dow, int(wall.Weekday()))
		if dom != "*" && dow != "*" {
			day, week = day || week, true
		}
		return in(minute, wall.Minute()) && in(hour, wall.Hour()) && day && week
	}
	wall := func(u time.Time) time.Time { // as if it were UTC
		_, o := u.In(zone).Zone()
		return u.Add(time.Duration(o) * time.Second).UTC()
	}
	var out []time.Time
	seen := map[time.Time]bool{}
	for u := from.Add(-72 * time.Hour); u.Before(to); u = u.Add(time.Minute) {
		w, due := wall(u), false
		for skipped := wall(u.Add(-time.Minute)).Add(time.Minute); hour != "*" && skipped.Before(w); skipped = skipped.Add(time.Minute) {
			due = due || matches(skipped)
		}
		if matches(w) && (hour == "*" || !seen[w]) {
			due = true
		}
		seen[w] = true
		if due && u.After(from) {
			out = append(out, u)
		}
	}
	return out
}

func TestRandomSchedulesAroundJumps(t *testing.T) {
	r := testkit.Seed(t)
	jumps := map[string][]string{
		"Europe/Berlin":       {"2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z"},
		"America/New_York":    {"2013-03-10T07:00:00Z", "2013-11-03T06:00:00Z"},
		"Australia/Lord_Howe": {"2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z"},
		"America/Sao_Paulo":   {"2018-02-18T02:00:00Z", "2018-11-04T03:00:00Z"},
		"Pacific/Apia":        {"2011-12-30T10:00:00Z"},
		"America/St_Johns":    {"2006-10-29T02:31:00Z", "2007-03-11T03:31:00Z"}, // a minute past midnight
		"UTC":                 {"2026-01-01T00:00:00Z"},
	}
	few := func(n int) string {
		var parts []string
		for range 1 + r.IntN(3) {
			parts = append(parts, fmt.Sprint(r.IntN(n)))
		}
		return strings.Join(parts, ",")
	}
	star := func(p float64, s string) string {
		if r.Float64() < p {
			return "*"
		}
		return s
	}
	for zone, when := range jumps {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		for range 12 {
			jump := at(t, when[r.IntN(len(when))])
			minute, hour := star(0.2, few(60)), star(0.3, few(5)+","+fmt.Sprint(20+r.IntN(4)))
			dom, dow := star(0.6, fmt.Sprint(1+r.IntN(28))+",4,25,29,30"), star(0.6, few(7))
			from := jump.Add(-time.Duration(r.IntN(40*60)) * time.Minute)
			checkSchedule(t, r, minute, hour, dom, dow, loc, from)
		}
	}
}

func checkSchedule(t *testing.T, r *rand.Rand, minute, hour, dom, dow string, loc *time.Location, from time.Time) {
	t.Helper()
	expr := strings.Join([]string{minute, hour, dom, "*", dow}, " ")
	s := schedule(t, expr, loc.String())
	want := plain(t, minute, hour, dom, dow, loc, from, from.Add(80*time.Hour))
	now := from
	for i, w := range want {
		if minute == "*" && i > 200 {
			break // slow, and no different
		}
		if now = s.Next(now); !now.Equal(w) {
			t.Fatalf("%s %s: after %d from %s comes %s, expected %s", expr, loc, i, from, now, w)
		}
		if later := w.Add(time.Duration(r.IntN(60)) * time.Second); !s.Last(later).Equal(w) {
			t.Fatalf("%s %s: last at %s is %s, expected %s", expr, loc, later, s.Last(later), w)
		}
	}
}

func TestOnlyTheLatestMissedInstantIsDue(t *testing.T) {
	s := schedule(t, "0 2 * * *", "UTC")
	for _, c := range []struct{ last, now, want string }{
		{"2013-01-29T02:00:00Z", "2013-01-30T01:59:59Z", ""},
		{"2013-01-29T02:00:00Z", "2013-01-30T02:00:00Z", "2013-01-30T02:00:00Z"},
		{"2013-01-29T02:00:00Z", "2013-02-03T12:00:00Z", "2013-02-03T02:00:00Z"}, // five missed
		{"2013-02-03T02:00:00Z", "2013-02-03T12:00:00Z", ""},
		{"2013-02-03T02:00:00Z", "2013-01-03T12:00:00Z", ""}, // log time never goes back, but a caller may
	} {
		got, ok := Due(s, at(t, c.last), at(t, c.now))
		if ok != (c.want != "") || (ok && got.Format(time.RFC3339) != c.want) {
			t.Errorf("last %s, now %s: %s, %v; expected %q", c.last, c.now, got, ok, c.want)
		}
	}
	if _, ok := Due(Schedule{}, time.Time{}, at(t, "2013-02-03T12:00:00Z")); ok {
		t.Error("the zero schedule is due")
	}
}
