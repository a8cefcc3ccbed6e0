package demo_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/demo"
)

func month(t *testing.T) *demo.Data {
	t.Helper()
	d, err := demo.Load("")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func run(t *testing.T, d *demo.Data, url string, o demo.Options) {
	t.Helper()
	if err := demo.New(d, o).Run(t.Context(), connect(t, url)); err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Fatalf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func TestInitialLoadEqualsReplay(t *testing.T) {
	d, r := month(t), random(t)
	from, _ := d.Span()
	replayed := database(t)
	moment := from
	for range 3 {
		moment = moment.Add(time.Duration(1 + r.IntN(int(40*time.Hour))))
		run(t, d, replayed, demo.Options{To: moment})
		loaded := database(t)
		if err := demo.New(d, demo.Options{}).LoadInitial(t.Context(), connect(t, loaded), moment); err != nil {
			t.Fatal(err)
		}
		same(t, "loaded at "+moment.String(), dump(t, loaded), dump(t, replayed))
		// and both go on alike
		moment = moment.Add(time.Duration(r.IntN(int(5 * time.Hour))))
		run(t, d, replayed, demo.Options{To: moment})
		run(t, d, loaded, demo.Options{To: moment})
		same(t, "gone on to "+moment.String(), dump(t, loaded), dump(t, replayed))
	}
}

func TestRunGoesOnAfterBeingCutOffAnywhere(t *testing.T) {
	d, r := month(t), random(t)
	from, _ := d.Span()
	o := demo.Options{From: from.Add(100 * time.Hour), To: from.Add(112 * time.Hour)}
	straight, broken := database(t), database(t)
	run(t, d, straight, o)
	admin := connect(t, straight)
	cuts, rounds := 0, 0
	for done := false; !done; rounds++ {
		ctx, cancel := context.WithCancel(t.Context())
		conn := connect(t, broken)
		pid := conn.PgConn().PID()
		left, kill, beside := 1+r.IntN(3), r.IntN(2) == 0, r.IntN(2) == 0
		if rounds < 3 { // a run has few batches without a hook: the first blows must hit
			left, beside = 1, false
		}
		var struck sync.WaitGroup
		strike := func() {
			if !kill {
				cancel()
			} else if _, err := admin.Exec(t.Context(), `select pg_terminate_backend($1)`, pid); err != nil {
				t.Error(err)
			}
		}
		// The blow falls before the work that follows or beside it, wherever that is by then.
		blow := func() {
			if left--; left == 0 && beside {
				struck.Go(strike)
			} else if left == 0 {
				strike()
			}
		}
		o.Events = demo.Events{
			Loaded:    func(int, string, int64) { blow() },
			Committed: func(demo.Progress) { blow() },
		}
		o.Hook = nil
		if rounds < 3 || r.IntN(4) > 0 { // a hook makes batches end at each hour
			o.Hook = func(context.Context, time.Time) error { return nil }
		}
		err := demo.New(d, o).Run(ctx, conn)
		struck.Wait()
		cancel()
		if done = err == nil; !done {
			cuts++
		}
	}
	if cuts < 3 {
		t.Errorf("only %d cuts in %d rounds: nothing was tried", cuts, rounds)
	}
	t.Logf("%d cuts", cuts)
	same(t, "after cuts", dump(t, broken), dump(t, straight))
	count := `select count(*) from audit.log`
	if got, want := one[int](t, connect(t, broken), count), one[int](t, connect(t, straight), count); got != want {
		t.Errorf("%d changes were committed, want %d: something was done twice or never", got, want)
	}
}

// The server ends the session itself at drawn row changes: of flights, of planes, of the clock (a
// transaction's first) and of the progress (its last).
func TestRunGoesOnAfterDyingInsideATransaction(t *testing.T) {
	d, r := month(t), random(t)
	from, _ := d.Span()
	o := demo.Options{From: from.Add(60 * time.Hour), To: from.Add(70 * time.Hour)}
	straight, broken := database(t), database(t)
	run(t, d, straight, o)
	c := connect(t, broken)
	exec(t, c, `create schema chaos; create sequence chaos.s; create table chaos.deaths (n bigint);
create function chaos.die() returns trigger language plpgsql as $$
declare turn bigint := nextval('chaos.s');
begin
    if exists (select from chaos.deaths where n = turn) then perform pg_terminate_backend(pg_backend_pid()); end if;
    return coalesce(new, old);
end $$;
create trigger a_die before insert or update or delete on public.flights for each row execute function chaos.die();
create trigger a_die before insert or update or delete on public.planes for each row execute function chaos.die();
create trigger a_die before update on public.simulation_clock for each row execute function chaos.die();
create trigger z_die after update on demo.progress for each row execute function chaos.die()`)
	// phase runs on until it is done, dying at turns that are up to gap apart.
	phase := func(o demo.Options, deaths int, gap int64) {
		turn := one[int64](t, c, `select last_value from chaos.s`)
		for range deaths {
			turn += 1 + r.Int64N(gap)
			exec(t, c, `insert into chaos.deaths values ($1)`, turn)
		}
		died := 0
		for demo.New(d, o).Run(t.Context(), connect(t, broken)) != nil {
			if died++; died > deaths {
				t.Fatal("it fails without being killed")
			}
		}
		if died < deaths*3/4 {
			t.Errorf("it died %d times, should have %d times", died, deaths)
		}
		t.Logf("%d deaths up to transaction %s", died, dump(t, broken)["progress"])
	}
	load := o
	load.To = o.From
	phase(load, 3, 2500)
	phase(o, 25, 100) // the ten hours have about 2,000 turns
	same(t, "after deaths", dump(t, broken), dump(t, straight))
	count := `select count(*) from audit.log`
	if got, want := one[int](t, connect(t, broken), count), one[int](t, connect(t, straight), count); got != want {
		t.Errorf("%d changes were committed, want %d: something was done twice or never", got, want)
	}
}

func TestAuditLogReplaysToTheTables(t *testing.T) {
	d := month(t)
	from, _ := d.Span()
	url := database(t)
	to := from.Add(80 * time.Hour)
	o := demo.Options{From: from.Add(49 * time.Hour), To: to}
	run(t, d, url, o)
	c := connect(t, url)
	for table, key := range map[string]string{"flights": "id", "planes": "tailnum", "airports": "faa", "airlines": "carrier"} {
		diff := one[int](t, c, `with last as (
    select distinct on (coalesce(after, before)->>'`+key+`') after from audit.log where table_name = '`+table+`'
    order by coalesce(after, before)->>'`+key+`', n desc),
  logged as (select after from last where after is not null),
  actual as (select to_jsonb(r) as after from public.`+table+` r)
select (select count(*) from (table logged except table actual) a) + (select count(*) from (table actual except table logged) b)`)
		if diff != 0 {
			t.Errorf("%s: %d rows differ between audit log and table", table, diff)
		}
		broken := one[int](t, c, `select count(*) from (select before, lag(after) over (partition by coalesce(after, before)->>'`+key+`' order by n) as previous
    from audit.log where table_name = '`+table+`') x where before is distinct from previous`)
		if broken != 0 {
			t.Errorf("%s: %d entries do not follow from the one before", table, broken)
		}
	}
	if n := one[int](t, c, `select count(*) from audit.log where coalesce(after->>'tailnum', '') = 'JUNK' or after->>'seats' = '-1'`); n != 0 {
		t.Errorf("%d entries of what was rolled back", n)
	}
	if n := one[int](t, c, `select count(*) from (select xid, at, lag(xid) over w as px, lag(at) over w as pt from audit.log window w as (order by n)) x
    where xid < px or at < pt`); n != 0 {
		t.Errorf("%d entries out of commit order", n)
	}
	counts := d.Counts(o.From, to)
	initial := one[int](t, c, `select count(*) from audit.log where at < $1`, o.From)
	if got := one[int](t, c, `select count(*) from audit.log`) - initial; got != counts.Changes() {
		t.Errorf("%d changes logged, want %d", got, counts.Changes())
	}
	moves := one[int](t, c, `select count(*) from audit.log where table_name = 'flights' and op = 'update' and before->>'tailnum' <> after->>'tailnum'`)
	if moves != counts.Moves || moves == 0 {
		t.Errorf("%d moves, want %d", moves, counts.Moves)
	}
}

func TestHookSeesEachHourBetweenTransactions(t *testing.T) {
	d := month(t)
	from, _ := d.Span()
	url := database(t)
	c := connect(t, url)
	start, end := from.Add(30*time.Hour), from.Add(40*time.Hour)
	var hours []time.Time
	o := demo.Options{From: start, To: end, Hook: func(_ context.Context, h time.Time) error {
		hours = append(hours, h)
		now := one[time.Time](t, c, `select now from public.simulation_clock`)
		if !now.Before(h) || h.Sub(now) > 5*time.Minute {
			t.Errorf("at %s the clock is %s", h, now)
		}
		return nil
	}}
	run(t, d, url, o)
	for i, h := range hours {
		if want := start.Add(time.Duration(i) * time.Hour); !h.Equal(want) {
			t.Errorf("call %d is for %s, want %s", i, h, want)
		}
	}
	if len(hours) != 10 {
		t.Errorf("%d calls, want 10", len(hours))
	}
	stop := errors.New("stop")
	o.To = end.Add(time.Hour)
	o.Hook = func(context.Context, time.Time) error { return stop }
	before := dump(t, url)
	if err := demo.New(d, o).Run(t.Context(), c); !errors.Is(err, stop) {
		t.Fatalf("got %v", err)
	}
	same(t, "after a refusing hook", dump(t, url), before)
}

func TestSpeedWaitsForSimulatedTime(t *testing.T) {
	d := month(t)
	from, _ := d.Span()
	url := database(t)
	wall := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	began := wall
	run(t, d, url, demo.Options{
		From: from.Add(24 * time.Hour), To: from.Add(25 * time.Hour), Speed: 60,
		Now:  func() time.Time { return wall },
		Wait: func(_ context.Context, d time.Duration) error { wall = wall.Add(d); return nil },
	})
	if took := wall.Sub(began); took < 55*time.Second || took > time.Minute {
		t.Errorf("an hour at 60 took %s", took)
	}
}

func TestTwoReplayersStopEachOther(t *testing.T) {
	d := month(t)
	from, _ := d.Span()
	url := database(t)
	o := demo.Options{From: from.Add(48 * time.Hour), To: from.Add(50 * time.Hour)}
	var once bool
	other := connect(t, url)
	o.Hook = func(ctx context.Context, _ time.Time) error {
		if once {
			return nil
		}
		once = true
		return demo.New(d, demo.Options{To: from.Add(49 * time.Hour)}).Run(ctx, other)
	}
	conn := connect(t, url)
	if err := demo.New(d, o).Run(t.Context(), conn); err == nil {
		t.Fatal("the first replayer did not notice the second")
	}
	o.Hook = nil
	if err := demo.New(d, o).Run(t.Context(), conn); err != nil {
		t.Fatalf("the same connection again: %v", err)
	}
	straight := database(t)
	run(t, d, straight, o)
	same(t, "after two replayers", dump(t, url), dump(t, straight))
}

func TestBadBeginningsAreRefused(t *testing.T) {
	d := month(t)
	from, _ := d.Span()
	url := database(t)
	c := connect(t, url)
	if err := demo.Install(t.Context(), c); err != nil {
		t.Errorf("a second Install: %v", err)
	}
	r := demo.New(d, demo.Options{})
	if err := r.LoadInitial(t.Context(), c, from.Add(26*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := r.LoadInitial(t.Context(), c, from.Add(26*time.Hour)); err != nil {
		t.Errorf("the same load again: %v", err)
	}
	if err := r.LoadInitial(t.Context(), c, from.Add(27*time.Hour)); err == nil {
		t.Error("another load into the same database was accepted")
	}
	exec(t, c, `update demo.progress set plan = 'other'`)
	if err := r.Run(t.Context(), c); err == nil {
		t.Error("a database of other data was accepted")
	}
	if _, err := demo.Load(t.TempDir()); err == nil {
		t.Error("an empty folder was accepted as data")
	}
}

// The three days that the demo streams must hold everything it wants to show.
func TestLastThreeDays(t *testing.T) {
	d := month(t)
	from, to := d.Span()
	if want := time.Date(2012, 12, 31, 0, 0, 0, 0, time.UTC); !from.Equal(want) {
		t.Errorf("begins %s, want %s as in schema.sql", from, want)
	}
	c := d.Counts(to.Add(-72*time.Hour), to)
	t.Logf("last three days: %+v: %d changes", c, c.Changes())
	t.Logf("all of it %s to %s: %+v", from, to, d.Counts(from, to))
	for name, n := range map[string]int{
		"flights": c.Flights, "moves": c.Moves, "announcements": c.Announcements, "hand-overs": c.HandOvers, "fares": c.Fares, "departures": c.Departures, "arrivals": c.Arrivals,
		"diversions": c.Diversions, "cancellations": c.Cancellations, "dimension inserts": c.DimensionInserts,
		"dimension updates": c.DimensionUpdates, "dimension deletes": c.DimensionDeletes,
		"rolled back": c.RolledBack, "savepoints": c.Savepoints,
	} {
		if n == 0 {
			t.Errorf("no %s", name)
		}
	}
	if c.LargestTransactionRows < 100 {
		t.Errorf("the largest transaction has %d rows", c.LargestTransactionRows)
	}
	if all := d.Counts(from, to); all.Flights != 27004 || all.Cancellations != 521 || all.Diversions != 85 {
		t.Errorf("the month has %+v, want 27004 flights, 521 cancelled, 85 diverted", all)
	}
}

// The end of the month in the database is what the record says: the wanted sums were computed by a
// Python script from the original flights.csv.zip.
func TestMonthIsTheRecord(t *testing.T) {
	d := month(t)
	_, to := d.Span()
	url := database(t)
	c := connect(t, url)
	began := time.Now()
	if err := demo.New(d, demo.Options{}).LoadInitial(t.Context(), c, to); err != nil {
		t.Fatal(err)
	}
	t.Logf("loaded in %s", time.Since(began))
	got := one[string](t, c, `select concat_ws(' ', count(*), count(arr_delay), sum(arr_delay), sum(dep_delay), sum(air_time), sum(distance),
    count(*) filter (where tailnum is null)) from public.flights`)
	if want := "26483 26398 161819 265801 4070239 26859611 0"; got != want {
		t.Errorf("got  %s\nwant %s (flights, with arr_delay, sums of arr_delay, dep_delay, air_time, distance, no tailnum)", got, want)
	}
	// First record of the file: UA 1545 EWR-IAH, 5:15 EST, 2 min late, due 8:19 CST, 11 min late.
	got = one[string](t, c, `select concat_ws(' ', carrier, flight, tailnum, origin, dest, sched_dep at time zone 'UTC', dep_time at time zone 'UTC',
    sched_arr at time zone 'UTC', arr_time at time zone 'UTC') from public.flights where id = 1`)
	if want := "UA 1545 N14228 EWR IAH 2013-01-01 10:15:00 2013-01-01 10:17:00 2013-01-01 14:19:00 2013-01-01 14:30:00"; got != want {
		t.Errorf("flight 1\n got %s\nwant %s", got, want)
	}
	if n := one[int](t, c, `select count(*) from public.flights where arr_time <= dep_time or arr_time - dep_time < make_interval(mins => air_time::int)`); n != 0 {
		t.Errorf("%d flights were faster than their time in the air", n)
	}
	if n := one[int](t, c, `select count(distinct fare) from public.flights where fare > 0`); n < 5000 {
		t.Errorf("only %d fares", n)
	}
}
