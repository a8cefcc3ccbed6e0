package demo

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Salts of the hash that makes every choice; each choice has its own.
const (
	saltFare = iota + 1
	saltReprice
	saltRepriced
	saltMove
	saltTail
	saltLate
	saltSize
	saltVariant
	saltJunk
	saltJunkRow
	saltDimension
	saltAnnounce
	saltAnnounced
	saltHandOver
	saltOperator
)

// draw gives 64 well mixed bits for x (and more), the same for ever.
func draw(salt uint64, x ...uint64) uint64 {
	h := salt * 0x9e3779b97f4a7c15
	for _, v := range x {
		h += v + 0x9e3779b97f4a7c15
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
	}
	return h
}

type kind uint8

// The kinds of events, in the order in which those of one second happen.
const (
	airlineInsert kind = iota
	airportInsert
	planeInsert
	planeUpdate
	planeDelete
	airlineUpdate
	airportUpdate
	flightInsert
	flightAnnounce
	flightHandOver
	flightMove
	flightReprice
	flightDepart
	flightArrive
	flightDivert
	flightCancel
)

// event is one row change. of is the ordinal of the row in its slice of Data; to is the new value:
// seats of a plane, number of a renaming, altitude of an airport in feet.
type event struct {
	at   int64 // Unix seconds
	of   int32
	to   int32
	kind kind
}

type variant uint8

const (
	plain    variant = iota
	takeBack         // junk in a savepoint, taken back before the real changes
	nested           // the real changes inside a savepoint that is released
)

// transaction is events[from:until] at the clock of the last of them; none: only the clock moves.
type transaction struct {
	clock       int64 // Unix seconds
	from, until int32
	variant     variant
	junk        bool // a transaction that is rolled back comes before
}

type plan struct {
	from, to     int64 // Unix seconds, whole hours
	events       []event
	transactions []transaction
	name         string
}

const (
	step  = 300
	hour  = 3600
	day   = 24 * hour
	small = 50
	large = 500
)

func makePlan(d *Data) plan {
	p := plan{events: flightEvents(d.flights)}
	first, last := p.events[0].at, p.events[0].at
	for _, e := range p.events {
		first, last = min(first, e.at), max(last, e.at)
	}
	p.from, p.to = first/day*day, last/hour*hour+hour
	p.events = append(p.events, dimensionEvents(d, p.from, p.to)...)
	slices.SortFunc(p.events, inOrder)
	p.group()
	p.name = fmt.Sprintf("%d transactions %016x", len(p.transactions), p.hash())
	return p
}

func inOrder(a, b event) int {
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.kind, b.kind), cmp.Compare(a.of, b.of), cmp.Compare(a.to, b.to))
}

func (p *plan) hash() uint64 {
	h := xxhash.New()
	var b [17]byte
	for _, e := range p.events {
		binary.BigEndian.PutUint64(b[0:], uint64(e.at))
		binary.BigEndian.PutUint32(b[8:], uint32(e.of))
		binary.BigEndian.PutUint32(b[12:], uint32(e.to))
		b[16] = byte(e.kind)
		_, _ = h.Write(b[:])
	}
	return h.Sum64()
}

func flightEvents(flights []flight) []event {
	out := make([]event, 0, 4*len(flights))
	for i := range flights {
		f := &flights[i]
		add := func(at int64, k kind) { out = append(out, event{at: at, of: int32(i), kind: k}) }
		inserted := f.schedDep - day
		add(inserted, flightInsert)
		if f.announced {
			add(f.schedDep-3*hour, flightAnnounce)
		}
		if f.operator != "" {
			add(f.schedDep-5*hour/2, flightHandOver)
		}
		if f.moved {
			add(f.schedDep-2*hour, flightMove)
		}
		review := (inserted-8*hour+day)/day*day + 8*hour // the first 08:00 after the insertion
		if review < f.schedDep-2*hour && draw(saltRepriced, uint64(f.id))%2 == 0 {
			add(review, flightReprice)
		}
		if f.cancelled() {
			add(f.schedDep+4*hour, flightCancel)
			continue
		}
		add(f.departs(), flightDepart)
		if f.diverted() {
			add(f.arrives(), flightDivert)
		} else {
			add(f.arrives(), flightArrive)
		}
	}
	return out
}

// dimensionEvents makes up the life of planes, airports and airlines. What cannot be (a change of a
// plane that is away) is left out.
func dimensionEvents(d *Data, from, to int64) []event {
	var wish []event
	slots := uint64((to - from) / (6 * hour))
	for i := range d.airlines {
		wish = append(wish, event{at: from, of: int32(i), kind: airlineInsert})
	}
	for i := range d.airports {
		wish = append(wish, event{at: from, of: int32(i), kind: airportInsert, to: int32(d.airports[i].alt)})
	}
	for i, p := range d.planes {
		at := from
		if draw(saltLate, uint64(i))%33 == 0 && slots > 1 {
			at += int64(1+draw(saltLate, uint64(i), 1)%(slots-1)) * 6 * hour
		}
		wish = append(wish, event{at: at, of: int32(i), kind: planeInsert, to: int32(p.seats)})
	}
	for s := uint64(1); s < slots; s++ {
		start := from + int64(s)*6*hour
		pick := func(n int, x uint64) int32 { return int32(draw(saltDimension, s, x) % uint64(n)) }
		for i := range uint64(8) {
			of := pick(len(d.planes), 10*i)
			seats := max(1, int32(d.planes[of].seats)+pick(25, 10*i+1)-12)
			wish = append(wish, event{at: start + int64(pick(6*hour, 10*i+2)), of: of, kind: planeUpdate, to: seats})
		}
		away := pick(len(d.planes), 100)
		left := start + int64(pick(6*hour, 101))
		back := left + 2*hour + int64(pick(8*hour, 102))
		wish = append(wish, event{at: left, of: away, kind: planeDelete})
		if back < to {
			wish = append(wish, event{at: back, of: away, kind: planeInsert, to: int32(d.planes[away].seats)})
		}
		if s%4 == 2 {
			wish = append(wish, event{at: start + 7, of: pick(len(d.airlines), 103), kind: airlineUpdate, to: int32(s)})
		}
		if s%8 == 4 {
			of := pick(len(d.airports), 104)
			wish = append(wish, event{at: start + 11, of: of, kind: airportUpdate, to: int32(d.airports[of].alt) + 1 + pick(5, 105)})
		}
	}
	slices.SortFunc(wish, inOrder)
	present := make([]bool, len(d.planes))
	return slices.DeleteFunc(wish, func(e event) bool {
		switch e.kind {
		case planeInsert:
			if present[e.of] {
				return true
			}
			present[e.of] = true
		case planeUpdate:
			return !present[e.of]
		case planeDelete:
			if !present[e.of] {
				return true
			}
			present[e.of] = false
		default: // not of a plane
		}
		return false
	})
}

// group cuts the events into transactions.
func (p *plan) group() {
	next := int32(0)
	add := func(clock int64, until int32) {
		n := uint64(len(p.transactions))
		t := transaction{clock: clock, from: next, until: until}
		if v := draw(saltVariant, n) % 20; v == 0 && until > next {
			t.variant = takeBack
		} else if v == 1 && until > next {
			t.variant = nested
		}
		t.junk = draw(saltJunk, n)%20 == 0
		p.transactions = append(p.transactions, t)
		next = until
	}
	for at := p.from; at < p.to; at += step {
		end := next
		for int(end) < len(p.events) && p.events[end].at < at+step {
			end++
		}
		if at%hour == 0 || end == next {
			add(at, next)
		}
		for next < end {
			n := uint64(len(p.transactions))
			size := 1 + int32(draw(saltSize, n)%small)
			if end-next > small && draw(saltSize, n, 1)%2 == 0 {
				size = large
			}
			until := min(next+size, end)
			add(p.events[until-1].at, until)
		}
	}
}

// index gives the number of transactions with a clock before t.
func (p *plan) index(t time.Time) int64 {
	return int64(sort.Search(len(p.transactions), func(i int) bool { return p.transactions[i].clock >= ceil(t) }))
}

func ceil(t time.Time) int64 {
	if t.Nanosecond() > 0 {
		return t.Unix() + 1
	}
	return t.Unix()
}

// Span gives the simulated time in which something happens, [from, to), both whole hours in UTC.
func (d *Data) Span() (from, to time.Time) {
	return time.Unix(d.plan.from, 0).UTC(), time.Unix(d.plan.to, 0).UTC()
}

// Counts says what a stretch of the plan does.
type Counts struct {
	Transactions, RolledBack, Savepoints     int // committed; rolled back whole; with a savepoint of either kind
	Flights, Moves, Fares, Departures        int
	Announcements, HandOvers                 int
	Arrivals, Diversions, Cancellations      int
	DimensionInserts, DimensionUpdates       int
	DimensionDeletes, LargestTransactionRows int
}

// Changes gives the number of committed row changes, those of the clock not counted.
func (c Counts) Changes() int {
	return c.Flights + c.Announcements + c.HandOvers + c.Moves + c.Fares + c.Departures + c.Arrivals + c.Diversions + c.Cancellations +
		c.DimensionInserts + c.DimensionUpdates + c.DimensionDeletes
}

// Counts gives what happens in [from, to).
func (d *Data) Counts(from, to time.Time) Counts {
	return d.plan.count(d.plan.index(from), d.plan.index(to))
}

func (p *plan) count(from, until int64) Counts {
	var c Counts
	for _, t := range p.transactions[from:max(from, until)] {
		c.Transactions++
		if t.junk {
			c.RolledBack++
		}
		if t.variant != plain {
			c.Savepoints++
		}
		c.LargestTransactionRows = max(c.LargestTransactionRows, int(t.until-t.from))
		for _, e := range p.events[t.from:t.until] {
			*counter(&c, e.kind)++
		}
	}
	return c
}

func counter(c *Counts, k kind) *int {
	switch k {
	case flightInsert:
		return &c.Flights
	case flightAnnounce:
		return &c.Announcements
	case flightHandOver:
		return &c.HandOvers
	case flightMove:
		return &c.Moves
	case flightReprice:
		return &c.Fares
	case flightDepart:
		return &c.Departures
	case flightArrive:
		return &c.Arrivals
	case flightDivert:
		return &c.Diversions
	case flightCancel:
		return &c.Cancellations
	case planeDelete:
		return &c.DimensionDeletes
	case planeUpdate, airlineUpdate, airportUpdate:
		return &c.DimensionUpdates
	default:
		return &c.DimensionInserts
	}
}
