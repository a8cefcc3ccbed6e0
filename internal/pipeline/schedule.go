package pipeline

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/netresearch/go-cron"

	"github.com/freshet-io/freshet/internal/fault"
)

// searchYears bounds how far a schedule looks: the 29th of February on a given weekday comes every 28
// years, and after 40 where a century has no leap year.
const searchYears = 41

// starBit is what the parser sets in a field that was written as *.
const starBit = 1 << 63

// none is no instant.
const none = int64(math.MinInt64)

// Schedule is a cron expression in a time zone. The zero Schedule is never due.
//
// Where a zone's clock jumps, days stay whole:
//   - A time that the clock skips is due once, at the first instant after the jump: 02:30 at 03:00.
//     Several skipped times of one day are due together, once.
//   - A time that comes twice is due the first time only.
//   - When the hour is *, it means every hour that really passes: nothing is made up for skipped
//     hours, and both of two like-named hours count.
//
// When both the day of the month and the day of the week are restricted, either suffices, as in cron.
type Schedule struct {
	fields *cron.SpecSchedule
	zone   *time.Location
	text   string
}

// ParseSchedule reads five fields (minute, hour, day of month, month, day of week) or @hourly, @daily,
// @weekly, @monthly, @yearly, in an IANA time zone; an empty one is UTC.
func ParseSchedule(expr, timezone string) (Schedule, error) {
	zone, err := time.LoadLocation(timezone)
	if err != nil || timezone == "Local" {
		return Schedule{}, fault.New(fault.Usage, "timezone %q is not known", timezone).ToMend("use a name as Europe/Berlin or UTC")
	}
	bad := func(why string) error {
		return fault.New(fault.Usage, "schedule %q: %s", expr, why).
			ToMend("write five fields, minute hour day-of-month month day-of-week, as in '0 2 * * *'")
	}
	if strings.Contains(expr, "TZ=") {
		return Schedule{}, bad("the zone belongs under timezone")
	}
	p := cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.DowOrDom | cron.Descriptor)
	parsed, err := p.Parse(expr)
	if err != nil {
		return Schedule{}, bad(err.Error())
	}
	fields, ok := parsed.(*cron.SpecSchedule)
	if !ok { // @every counts from whenever it was started
		return Schedule{}, bad("it does not name instants")
	}
	s := Schedule{fields, zone, expr}
	if s.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Schedule{}, bad("it is never due")
	}
	return s, nil
}

// String gives the expression and the zone.
func (s Schedule) String() string {
	if s.fields == nil {
		return "never"
	}
	return s.text + " " + s.zone.String()
}

// Next gives the first instant after another, in UTC; the zero Time if there is none within 41 years.
func (s Schedule) Next(after time.Time) time.Time {
	return s.search(after, 1, func(due []int64, best int64) int64 {
		i, _ := slices.BinarySearch(due, after.Unix()+1)
		if i == len(due) || (best != none && best <= due[i]) {
			return best
		}
		return due[i]
	})
}

// Last gives the latest instant that is not after another, in UTC; the zero Time if there is none
// within 41 years.
func (s Schedule) Last(at time.Time) time.Time {
	return s.search(at, -1, func(due []int64, best int64) int64 {
		i, found := slices.BinarySearch(due, at.Unix())
		if !found {
			i--
		}
		if i < 0 || (best != none && best >= due[i]) {
			return best
		}
		return due[i]
	})
}

// Due gives the instant that is due at now when last was the previous one to run: the latest that is
// after last and not after now. Earlier ones that were missed are not made up for.
func Due(s Schedule, last, now time.Time) (time.Time, bool) {
	t := s.Last(now)
	return t, !t.IsZero() && t.After(last)
}

// search goes over dates from that of an instant, forwards or backwards, with pick choosing from the
// sorted instants of a date. A jump can put the instants of neighbouring dates out of order, so it
// starts a date early and, once something is found, looks at one date more.
func (s Schedule) search(from time.Time, step int, pick func(due []int64, best int64) int64) time.Time {
	if s.fields == nil {
		return time.Time{}
	}
	year, month, day := from.In(s.zone).Date()
	best, more := none, 1
	for i := -1; i < searchYears*366 && more > 0; i++ {
		date := time.Date(year, month, day+i*step, 0, 0, 0, 0, time.UTC)
		if !s.onDay(date) {
			if best != none {
				more--
			}
			continue
		}
		found := best != none
		best = pick(s.instants(date), best)
		if found {
			more--
		}
	}
	if best == none {
		return time.Time{}
	}
	return time.Unix(best, 0).UTC()
}

// onDay tells whether the schedule has instants on a date (at midnight UTC).
func (s Schedule) onDay(date time.Time) bool {
	f := s.fields
	dom, dow := f.Dom&(1<<date.Day()) != 0, f.Dow&(1<<date.Weekday()) != 0
	if f.Dom&starBit == 0 && f.Dow&starBit == 0 {
		dom, dow = dom || dow, true
	}
	return f.Month&(1<<date.Month()) != 0 && dom && dow
}

// instants gives the instants of a date, in Unix seconds, ascending and each once.
func (s Schedule) instants(date time.Time) []int64 {
	var out []int64
	noon := time.Unix(date.Unix()+43_200, 0)
	for h := range 24 {
		if s.fields.Hour&(1<<h) == 0 {
			continue
		}
		for m := range 60 {
			if s.fields.Minute&(1<<m) == 0 {
				continue
			}
			out = s.resolve(out, date.Unix()+int64(h*3600+m*60), noon)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// resolve appends the instants at which the zone's clock shows wall, which is the clock's time as if it
// were UTC, or the end of the jump that skips it.
func (s Schedule) resolve(out []int64, wall int64, noon time.Time) []int64 {
	everyHour := s.fields.Hour&starBit != 0
	offset := func(unix int64) int64 {
		_, o := time.Unix(unix, 0).In(s.zone).Zone()
		return int64(o)
	}
	_, o := noon.In(s.zone).Zone()
	t := time.Unix(wall-int64(o), 0).In(s.zone)
	start, end := t.ZoneBounds()
	offsets := []int64{int64(o), offset(t.Unix())}
	for _, jump := range []time.Time{start, end} {
		if jump.IsZero() {
			continue
		}
		before, after := offset(jump.Unix()-1), offset(jump.Unix())
		offsets = append(offsets, before, after)
		if !everyHour && jump.Unix()+before <= wall && wall < jump.Unix()+after {
			return append(out, jump.Unix())
		}
	}
	var at []int64
	for _, o := range offsets {
		if offset(wall-o) == o {
			at = append(at, wall-o)
		}
	}
	slices.Sort(at)
	at = slices.Compact(at)
	if len(at) > 1 && !everyHour {
		at = at[:1]
	}
	return append(out, at...)
}
