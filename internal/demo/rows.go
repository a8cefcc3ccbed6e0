package demo

import (
	"fmt"
	"math"
	"math/big"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// statement is one SQL statement of a batch. rows is how many it must change; -1: any number.
type statement struct {
	sql  string
	args []any
	rows int64
}

const (
	insertAirline = `insert into public.airlines (carrier, name) values ($1, $2)`
	insertAirport = `insert into public.airports (faa, name, lat, lon, alt, tz) values ($1, $2, $3, $4, $5, $6)`
	insertPlane   = `insert into public.planes (tailnum, year, type, manufacturer, model, engines, seats, engine)
values ($1, $2, $3, $4, $5, $6, $7, $8)`
	insertFlight = `insert into public.flights (id, carrier, flight, tailnum, origin, dest, sched_dep, sched_arr, distance, fare)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`
	updatePlane   = `update public.planes set seats = $2 where tailnum = $1`
	deletePlane   = `delete from public.planes where tailnum = $1`
	updateAirline = `update public.airlines set name = $2 where carrier = $1`
	updateAirport = `update public.airports set alt = $2 where faa = $1`
	// A delay is announced when nothing has happened yet: what is foreseen stands where the record will.
	announceDelay = `update public.flights set dep_delay = $2, arr_delay = $3 where id = $1`
	handOver      = `update public.flights set carrier = $2 where id = $1`
	moveFlight    = `update public.flights set tailnum = $2 where id = $1`
	repriceFlight = `update public.flights set fare = $2 where id = $1`
	departFlight  = `update public.flights set dep_time = $2, dep_delay = $3 where id = $1`
	arriveFlight  = `update public.flights set arr_time = $2, arr_delay = $3, air_time = $4 where id = $1`
	cancelFlight  = `delete from public.flights where id = $1`

	setClock = `update public.simulation_clock set now = $1`
	advance  = `select demo.advance($1, $2)`

	junkInsert = `insert into public.flights (id, carrier, flight, tailnum, origin, dest, sched_dep, distance, fare)
values ($1, '??', 0, 'JUNK', 'XXX', 'XXX', $2, 1, 99999.99)`
	junkUpdate = `update public.flights set tailnum = 'JUNK', dep_delay = 99999, arr_delay = -99999 where id between $1 and $2`
	junkDelete = `delete from public.flights where id between $1 and $2`
	junkPlane  = `update public.planes set seats = -1 where tailnum = $1`
)

// statement gives the SQL of one event.
func (d *Data) statement(e event) statement {
	one := func(sql string, args ...any) statement { return statement{sql, args, 1} }
	switch e.kind {
	case airlineInsert:
		return one(insertAirline, d.airlineRow(e.of, 0)...)
	case airlineUpdate:
		return one(updateAirline, d.airlineRow(e.of, e.to)...)
	case airportInsert:
		return one(insertAirport, d.airportRow(e.of, e.to)...)
	case airportUpdate:
		return one(updateAirport, d.airports[e.of].faa, e.to)
	case planeInsert:
		return one(insertPlane, d.planeRow(e.of, e.to)...)
	case planeUpdate:
		return one(updatePlane, d.planes[e.of].tailnum, e.to)
	case planeDelete:
		return one(deletePlane, d.planes[e.of].tailnum)
	default: // of a flight
	}
	f := &d.flights[e.of]
	switch e.kind {
	case flightAnnounce:
		return one(announceDelay, f.id, f.foreseen, f.foreseen-announcedGain)
	case flightHandOver:
		return one(handOver, f.id, f.carrier)
	case flightMove:
		return one(moveFlight, f.id, f.tailnum)
	case flightReprice:
		return one(repriceFlight, f.id, cents(f.reduced))
	case flightDepart:
		return one(departFlight, f.id, at(f.departs()), number(f.depDelay))
	case flightArrive, flightDivert:
		return one(arriveFlight, f.id, at(f.arrives()), number(f.arrDelay), number(f.airTime))
	case flightCancel:
		return one(cancelFlight, f.id)
	default:
		r := d.flightRow(e.of, isThere)
		return one(insertFlight, r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[9], r[13], r[14])
	}
}

// statements gives those of transaction n, from begin to commit, with the one that is rolled back
// before it.
func (d *Data) statements(n int64) []statement {
	t := d.plan.transactions[n]
	clock := statement{setClock, []any{at(t.clock)}, 1}
	var out []statement
	word := func(sql string) { out = append(out, statement{sql, nil, -1}) }
	if t.junk {
		word("begin")
		out = append(out, clock)
		out = append(out, d.junk(n, t.clock, 1)...)
		word("rollback")
	}
	word("begin")
	out = append(out, clock)
	if t.variant == takeBack {
		word("savepoint junk")
		out = append(out, d.junk(n, t.clock, 2)...)
		word("rollback to savepoint junk")
	}
	if t.variant == nested {
		word("savepoint inner_changes")
	}
	for _, e := range d.plan.events[t.from:t.until] {
		out = append(out, d.statement(e))
	}
	if t.variant == nested {
		word("release savepoint inner_changes")
	}
	out = append(out, statement{advance, []any{n, n + 1}, -1})
	word("commit")
	return out
}

// junk gives changes that must never be seen: whoever applies them is wrong loudly.
func (d *Data) junk(n, clock int64, salt uint64) []statement {
	id := int64(draw(saltJunkRow, uint64(n), salt) % uint64(len(d.flights)))
	tail := d.planes[draw(saltJunkRow, uint64(n), salt, 1)%uint64(len(d.planes))].tailnum
	return []statement{
		{junkInsert, []any{-n - 1, at(clock)}, 1},
		{junkUpdate, []any{id, id + 10}, -1},
		{junkDelete, []any{id + 5, id + 15}, -1},
		{junkPlane, []any{tail}, -1},
	}
}

// What has happened to a flight.
const (
	isThere = 1 << iota
	hasMoved
	isAnnounced
	isHandedOver
	isRepriced
	hasDeparted
	hasArrived
)

// state is the database at one point of the plan, without the database. seats is 0 for a plane
// that is not there, and one more than its seats otherwise.
type state struct {
	flights  []uint8
	seats    []int32
	airlines []int32
	airports []int32
}

// stateAt gives what the first n transactions leave.
func (d *Data) stateAt(n int64) state {
	s := state{
		make([]uint8, len(d.flights)), make([]int32, len(d.planes)),
		make([]int32, len(d.airlines)), make([]int32, len(d.airports)),
	}
	if n == 0 {
		return s
	}
	for _, e := range d.plan.events[:d.plan.transactions[n-1].until] {
		switch e.kind {
		case airlineInsert, airlineUpdate:
			s.airlines[e.of] = e.to
		case airportInsert, airportUpdate:
			s.airports[e.of] = e.to
		case planeInsert, planeUpdate:
			s.seats[e.of] = e.to + 1
		case planeDelete:
			s.seats[e.of] = 0
		case flightInsert:
			s.flights[e.of] |= isThere
		case flightAnnounce:
			s.flights[e.of] |= isAnnounced
		case flightHandOver:
			s.flights[e.of] |= isHandedOver
		case flightMove:
			s.flights[e.of] |= hasMoved
		case flightReprice:
			s.flights[e.of] |= isRepriced
		case flightDepart:
			s.flights[e.of] |= hasDeparted
		case flightArrive, flightDivert:
			s.flights[e.of] |= hasArrived
		case flightCancel:
			s.flights[e.of] = 0
		}
	}
	return s
}

// flightRow gives a flight's columns in the table's order, after what has happened to it.
func (d *Data) flightRow(of int32, happened uint8) []any {
	f := &d.flights[of]
	r := []any{
		f.id, f.carrier, f.number, text(f.tailnum), f.origin, f.dest, at(f.schedDep), nil, nil,
		at(f.schedArr), nil, nil, nil, f.distance, cents(f.fare),
	}
	if f.moved && happened&hasMoved == 0 {
		r[3] = f.first
	}
	if f.operator != "" && happened&isHandedOver == 0 {
		r[1] = f.operator
	}
	if happened&isAnnounced != 0 {
		r[8], r[11] = f.foreseen, f.foreseen-announcedGain
	}
	if happened&isRepriced != 0 {
		r[14] = cents(f.reduced)
	}
	if happened&hasDeparted != 0 {
		r[7], r[8] = at(f.departs()), number(f.depDelay)
	}
	if happened&hasArrived != 0 {
		r[10], r[11], r[12] = at(f.arrives()), number(f.arrDelay), number(f.airTime)
	}
	return r
}

func (d *Data) planeRow(of, seats int32) []any {
	p := &d.planes[of]
	return []any{
		p.tailnum, integer(p.year), text(p.kind), text(p.manufacturer), text(p.model), integer(p.engines), seats, text(p.engine),
	}
}

func (d *Data) airportRow(of, altitude int32) []any {
	a := &d.airports[of]
	return []any{a.faa, a.name, number(a.lat), number(a.lon), altitude, integer(a.tz)}
}

// airlineRow gives an airline under its name after a renaming; 0 is its own.
func (d *Data) airlineRow(of, renaming int32) []any {
	a := d.airlines[of]
	if renaming > 0 {
		a.name = fmt.Sprintf("%s (renamed %d)", a.name, renaming)
	}
	return []any{a.carrier, a.name}
}

func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func number(f float64) any {
	if math.IsNaN(f) {
		return nil
	}
	return f
}

func integer(f float64) any {
	if math.IsNaN(f) {
		return nil
	}
	return int32(f)
}

func at(unix int64) time.Time { return time.Unix(unix, 0).UTC() }

func cents(c int64) pgtype.Numeric { return pgtype.Numeric{Int: big.NewInt(c), Exp: -2, Valid: true} }
