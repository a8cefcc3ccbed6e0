package demo

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
)

//go:embed data/*.csv.gz
var embedded embed.FS

// Data is a set of flights with their dimensions, and the plan of transactions that replays them.
// It does not change after Load and may be shared.
type Data struct {
	flights  []flight
	planes   []plane
	airports []airport
	airlines []airline
	plan     plan
}

// flight is one row as it will be in the end. Times are Unix seconds; NaN is NULL.
type flight struct {
	id                             int64
	carrier, tailnum, origin, dest string // tailnum "" is NULL
	first                          string // tail number it is first scheduled under, when moved
	number, distance               int32
	schedDep, schedArr             int64
	depDelay, arrDelay, airTime    float64 // minutes
	moved, announced               bool
	operator                       string  // airline it is first scheduled with, when handed over
	foreseen                       float64 // minutes of departure delay, when announced
	fare, reduced                  int64   // cents at first, and after the repricing
}

func (f *flight) cancelled() bool { return math.IsNaN(f.depDelay) }
func (f *flight) diverted() bool  { return math.IsNaN(f.arrDelay) }
func (f *flight) departs() int64  { return f.schedDep + int64(f.depDelay*60) }

// arrives gives the recorded arrival. Should a record contradict itself, it is departure, time in
// the air and 20 minutes of taxiing.
func (f *flight) arrives() int64 {
	dep := f.departs()
	if f.diverted() {
		return dep + 6*3600
	}
	if at := f.schedArr + int64(f.arrDelay*60); at > dep {
		return at
	}
	return dep + int64(f.airTime*60) + 20*60
}

type plane struct {
	tailnum, kind, manufacturer, model, engine string
	year, engines, seats                       float64
}

type airport struct {
	faa, name          string
	lat, lon, alt, tz  float64
	daylightSavingTime bool
}

type airline struct{ carrier, name string }

// Load reads the original files of nycflights13 from a folder (flights, planes, airports, airlines,
// each as .csv, .csv.gz or .csv.zip) and plans their replay. Without a folder it gives the month
// that is built in.
func Load(fullDir string) (*Data, error) {
	if fullDir != "" {
		return load(os.DirFS(fullDir), fullDir)
	}
	month, err := fs.Sub(embedded, "data")
	if err != nil {
		return nil, fmt.Errorf("built-in data: %w", err)
	}
	return load(month, "built-in data")
}

func load(dir fs.FS, where string) (*Data, error) {
	d := &Data{}
	offsets := map[string]func(local int64) int64{}
	for _, s := range []struct {
		name string
		row  func(*row)
	}{
		{"airlines", func(r *row) { d.airlines = append(d.airlines, airline{r.text("carrier"), r.text("name")}) }},
		{"airports", func(r *row) {
			a := airport{r.text("faa"), r.text("name"), r.number("lat"), r.number("lon"), r.number("alt"), r.number("tz"), r.text("dst") == "A"}
			d.airports = append(d.airports, a)
			offsets[a.faa] = a.offset
		}},
		{"planes", func(r *row) {
			d.planes = append(d.planes, plane{
				r.text("tailnum"), r.text("type"), r.text("manufacturer"), r.text("model"), r.text("engine"),
				r.number("year"), r.number("engines"), r.number("seats"),
			})
		}},
		{"flights", func(r *row) { d.flights = append(d.flights, readFlight(r, int64(len(d.flights)+1), offsets)) }},
	} {
		if err := readCSV(dir, s.name, s.row); err != nil {
			return nil, fault.Wrap(fault.Usage, err, "cannot read the flights data").At("%s/%s", where, s.name).
				ToMend("unpack nycflights13 0.0.3 and name its data folder")
		}
	}
	if len(d.flights) == 0 || len(d.planes) == 0 {
		return nil, fault.New(fault.Usage, "no flights or no planes").At("%s", where)
	}
	d.schedule()
	d.plan = makePlan(d)
	return d, nil
}

// readFlight computes the instants of one record. time_hour is the scheduled hour in UTC; the
// scheduled arrival is local time at the destination, on the day of departure or the next.
func readFlight(r *row, id int64, offsets map[string]func(int64) int64) flight {
	f := flight{
		id: id, carrier: r.text("carrier"), tailnum: r.text("tailnum"), origin: r.text("origin"), dest: r.text("dest"),
		number: int32(r.number("flight")), distance: int32(r.number("distance")),
		depDelay: r.number("dep_delay"), arrDelay: r.number("arr_delay"), airTime: r.number("air_time"),
	}
	f.schedDep = r.time("time_hour").Unix() + int64(r.number("minute"))*60
	midnight := time.Date(int(r.number("year")), time.Month(r.number("month")), int(r.number("day")), 0, 0, 0, 0, time.UTC).Unix()
	hhmm := int64(r.number("sched_arr_time"))
	local := midnight + hhmm/100*3600 + hhmm%100*60
	offset, ok := offsets[f.dest]
	if !ok { // Puerto Rico and the Virgin Islands are not in the list of airports
		offset = func(int64) int64 { return -4 * 3600 }
	}
	f.schedArr = local - offset(local)
	if f.schedArr <= f.schedDep {
		f.schedArr += 24 * 3600
	}
	return f
}

// offset gives the seconds that local time is ahead of UTC, with the daylight saving rule of the
// United States: from the second Sunday of March to the first of November, at 2:00.
func (a airport) offset(local int64) int64 {
	off := int64(a.tz * 3600)
	year := time.Unix(local, 0).UTC().Year()
	sunday := func(month time.Month, nth int) int64 {
		first := time.Date(year, month, 1, 2, 0, 0, 0, time.UTC)
		return first.AddDate(0, 0, (7-int(first.Weekday()))%7+7*(nth-1)).Unix()
	}
	if a.daylightSavingTime && local >= sunday(time.March, 2) && local < sunday(time.November, 1) {
		off += 3600
	}
	return off
}

// schedule makes up what the record does not have: fares, and the plane a flight is first planned with.
func (d *Data) schedule() {
	fleet := map[string][]string{}
	for i := range d.flights {
		if f := &d.flights[i]; f.tailnum != "" {
			fleet[f.carrier] = append(fleet[f.carrier], f.tailnum)
		}
	}
	for c, tails := range fleet {
		slices.Sort(tails)
		fleet[c] = slices.Compact(tails)
	}
	for i := range d.flights {
		f := &d.flights[i]
		id := uint64(f.id)
		f.fare = 4900 + int64(f.distance)*11 + int64(draw(saltFare, id)%997)
		f.reduced = f.fare + int64(draw(saltReprice, id)%5001) - 1500
		d.foresee(f)
		tails := fleet[f.carrier]
		if f.tailnum == "" || len(tails) < 2 || draw(saltMove, id)%10 != 0 {
			continue
		}
		f.moved = true
		at := int(draw(saltTail, id) % uint64(len(tails)))
		if f.first = tails[at]; f.first == f.tailnum {
			f.first = tails[(at+1)%len(tails)]
		}
	}
}

// announcedGain is how many minutes of an announced delay are made good in the air.
const announcedGain = 10

// foresee makes up the delays that are announced before departure, of which some come otherwise (a
// diverted flight never arrives, a cancelled one never leaves), and the flights that another airline
// was to operate.
func (d *Data) foresee(f *flight) {
	id := uint64(f.id)
	one := uint64(12)
	if f.cancelled() || f.diverted() {
		one = 2
	}
	f.announced = draw(saltAnnounce, id)%one == 0
	f.foreseen = float64(15 + 5*(draw(saltAnnounced, id)%16))
	one = 60
	if f.announced {
		one = 8
	}
	if draw(saltHandOver, id)%one != 0 {
		return
	}
	if other := d.airlines[draw(saltOperator, id)%uint64(len(d.airlines))].carrier; other != f.carrier {
		f.operator = other
	}
}

// row is one CSV record by column names; the first error sticks.
type row struct {
	columns map[string]int
	values  []string
	strings map[string]string
	err     error
}

// text gives a column; NA is empty. Equal strings share memory.
func (r *row) text(column string) string {
	i, ok := r.columns[column]
	if !ok {
		r.err = errors.Join(r.err, fmt.Errorf("no column %s", column))
		return ""
	}
	s := r.values[i]
	if s == "NA" {
		return ""
	}
	if kept, ok := r.strings[s]; ok {
		return kept
	}
	s = string([]byte(s))
	r.strings[s] = s
	return s
}

// number gives a column; NA is NaN.
func (r *row) number(column string) float64 {
	s := r.text(column)
	if s == "" {
		return math.NaN()
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		r.err = errors.Join(r.err, fmt.Errorf("column %s: %w", column, err))
	}
	return f
}

func (r *row) time(column string) time.Time {
	t, err := time.Parse(time.RFC3339, r.text(column))
	if err != nil {
		r.err = errors.Join(r.err, fmt.Errorf("column %s: %w", column, err))
	}
	return t
}

func readCSV(dir fs.FS, name string, each func(*row)) error {
	in, err := openCSV(dir, name)
	if err != nil {
		return err
	}
	c := csv.NewReader(in)
	c.ReuseRecord = true
	header, err := c.Read()
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	r := &row{columns: map[string]int{}, strings: map[string]string{}}
	for i, h := range header {
		r.columns[h] = i
	}
	for line := 2; ; line++ {
		r.values, err = c.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		if each(r); r.err != nil {
			return fmt.Errorf("line %d: %w", line, r.err)
		}
	}
}

// openCSV finds name in one of the forms it comes in.
func openCSV(dir fs.FS, name string) (io.Reader, error) {
	if b, err := fs.ReadFile(dir, name+".csv"); err == nil {
		return bytes.NewReader(b), nil
	}
	if b, err := fs.ReadFile(dir, name+".csv.gz"); err == nil {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		return z, nil
	}
	b, err := fs.ReadFile(dir, name+".csv.zip")
	if err != nil {
		return nil, fmt.Errorf("neither .csv nor .csv.gz nor .csv.zip: %w", err)
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, fmt.Errorf("zip: %w", err)
	}
	f, err := z.Open(name + ".csv")
	if err != nil {
		return nil, fmt.Errorf("zip: %w", err)
	}
	return f, nil
}
