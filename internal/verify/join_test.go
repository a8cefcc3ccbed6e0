package verify_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/verify"
)

// audited is audit.log as internal/demo/schema.sql has it, over a fact table and a dimension.
const audited = `
create table public.planes (tail text, leg int, seats int, fee numeric(6,2), maker char(3), primary key (tail, leg));
create table public.makers (maker char(3) primary key, size bigint);
create table public.t (id bigint primary key, e bigint, at timestamptz, plane text, leg bigint);
alter table public.t replica identity full;
create schema audit;
create table audit.log (n bigserial primary key, xid bigint not null, table_name text not null, op text not null, at timestamptz not null, before jsonb, after jsonb);
create function audit.record() returns trigger language plpgsql set timezone = 'UTC' as $$
begin
	insert into audit.log (xid, table_name, op, at, before, after)
	values (1, tg_table_name, lower(tg_op), now(), case when tg_op <> 'INSERT' then to_jsonb(old) end, case when tg_op <> 'DELETE' then to_jsonb(new) end);
	return null;
end $$;
create trigger audit after insert or update or delete on public.t      for each row execute function audit.record();
create trigger audit after insert or update or delete on public.planes for each row execute function audit.record();`

func joined(where string) *feature.Definitions {
	v := view(where, feature.FeatureDef{Name: "seats", Agg: "last", Of: "plane.seats"}, feature.FeatureDef{Name: "fee", Agg: "sum", Of: "plane.fee"},
		feature.FeatureDef{Name: "rows", Agg: "count"})
	v.Join = []feature.JoinDef{{Table: "public.planes", As: "plane", On: map[string]string{"leg": "leg", "tail": "plane"}}}
	v.Derived = []feature.DerivedDef{{Name: "twice", Type: "int64", Expr: "seats * 2"}, {Name: "more", Type: "int64", Expr: "rows + 1"}}
	return &feature.Definitions{Groups: group("int64"), Views: []feature.FeatureView{v}}
}

func truth(t *testing.T, c *pgx.Conn, d *feature.Definitions) (*verify.Expected, map[string]string) {
	t.Helper()
	e := must(verify.Truth(t.Context(), c, resolve(t, c, d).Views[0], now))(t)
	got := map[string]string{}
	for _, r := range e.Rows {
		got[r.Key[0].Text()] = strings.Join(texts(r.Values), " ")
	}
	return e, got
}

func equal(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for k, w := range want {
		if got[k] != w {
			t.Errorf("%s: %s is %q, want %q", what, k, got[k], w)
		}
		delete(got, k)
	}
	if len(got) > 0 {
		t.Errorf("%s: there is also %q", what, got)
	}
}

// A row joins the dimension's row that was there when it last changed itself, whatever became of the
// dimension before or after, in its own transaction or another.
func TestJoinsAreAsOfTheRowsOwnChange(t *testing.T) {
	_, c := source(t)
	exec(t, c, audited)
	insert := func(id, plane string) string {
		return "insert into public.t values (" + id + ", " + id + ", '2013-01-10 10:00:00+00', " + plane + ", 1);"
	}
	for _, transaction := range []string{
		"insert into public.planes values ('P', 1, 50, 1.25), ('P', 2, 5, 0), ('Q', 1, 7, null)",
		insert("1", "'P'") + insert("2", "'P'"),
		"update public.planes set seats = 60 where tail = 'P' and leg = 1",
		insert("3", "'P'") + insert("12", "'P'"),
		// 2 changes between two changes of its dimension, 4 comes before one, all in one transaction.
		insert("4", "'P'") + "update public.planes set seats = 70 where tail = 'P' and leg = 1; update public.t set at = at where id = 2; update public.planes set seats = 80 where tail = 'P' and leg = 1;",
		"delete from public.planes where tail = 'P' and leg = 1",
		insert("5", "'P'"),
		"insert into public.planes values ('P', 1, 90, 3)",
		insert("6", "'P'"),
		"update public.planes set tail = 'R', seats = seats + 1 where tail = 'P' and leg = 1",
		insert("7", "'P'") + insert("8", "'R'") + insert("9", "null") + insert("10", "'nobody'"),
		"update public.t set plane = 'Q' where id = 3",
		"delete from public.t where id = 12;" + insert("12", "'Q'") + "update public.planes set seats = 8 where tail = 'Q'",
		insert("11", "'R'") + "delete from public.t where id = 11",
	} {
		exec(t, c, "begin; "+transaction+"; commit")
		exec(t, c, "begin; update public.t set plane = 'x'; update public.planes set seats = -1; rollback")
	}
	e, got := truth(t, c, joined(""))
	if len(e.NotComparable) > 0 {
		t.Error(e.NotComparable)
	}
	equal(t, "all", got, map[string]string{
		"1": "50 1.25 1 100 2", "2": "70 1.25 1 140 2", "3": "7 NULL 1 14 2", "4": "60 1.25 1 120 2", "5": "NULL NULL 1 NULL 2", "6": "90 3.00 1 180 2",
		"7": "NULL NULL 1 NULL 2", "8": "91 3.00 1 182 2", "9": "NULL NULL 1 NULL 2", "10": "NULL NULL 1 NULL 2", "12": "7 NULL 1 14 2",
	})
	_, got = truth(t, c, joined("plane.seats > 60"))
	equal(t, "where", got, map[string]string{"2": "70 1.25 1 140 2", "6": "90 3.00 1 180 2", "8": "91 3.00 1 182 2"})

	// To one who took a snapshot after everything, the dimension was as it is now all the time.
	v := resolve(t, c, joined("")).Views[0]
	e = must(verify.TruthWith(t.Context(), c, v, now, verify.SQLOptions{Audit: true, Since: 1 << 40}))(t)
	snapshot := map[string]string{"3": "8", "8": "91", "12": "8"}
	for _, r := range e.Rows {
		id, seats := r.Key[0].Text(), texts(r.Values)[0]
		if want := snapshot[id]; want != "" && seats != want {
			t.Errorf("after a snapshot %s has %s seats, want %s", id, seats, want)
		}
	}
}

// What audit.log does not know is said to be not comparable, and only that.
func TestWithoutAuditJoinsAreNotComparable(t *testing.T) {
	_, c := source(t)
	exec(t, c, audited+`
		insert into public.planes values ('P', 1, 50, 1);
		insert into public.t values (1, 1, '2013-01-10 10:00:00+00', 'P', 1);`)
	for _, step := range []struct{ sql, why string }{
		{"alter table public.t disable trigger audit; insert into public.t values (2, 2, '2013-01-10 10:00:00+00', 'P', 1); alter table public.t enable trigger audit", "audit.log does not know 1 rows"},
		{"truncate public.planes", "audit.log does not know 2 rows"},
		{"alter table public.planes disable trigger audit", "no audit.log of its tables"},
		{"drop schema audit cascade", "no audit.log of its tables"},
	} {
		exec(t, c, step.sql)
		e, got := truth(t, c, joined(""))
		for _, column := range []string{"seats", "fee", "twice"} {
			if !strings.Contains(e.NotComparable[column], step.why) {
				t.Errorf("%s: %s is not comparable because %q", step.sql, column, e.NotComparable[column])
			}
		}
		if len(e.NotComparable) != 3 || len(got) != 2 || !strings.HasSuffix(got["1"], "1 NULL 2") && !strings.HasSuffix(got["1"], "1 100 2") {
			t.Errorf("%s: %v, %q", step.sql, e.NotComparable, got)
		}
		e, got = truth(t, c, joined("plane.seats > 0"))
		if !strings.Contains(e.Whole, step.why) || len(got) > 0 || len(e.NotComparable) != 5 {
			t.Errorf("%s: with where %q, %d rows, %v", step.sql, e.Whole, len(got), e.NotComparable)
		}
	}
}

const auditedMakers = "create trigger audit after insert or update or delete on public.makers for each row execute function audit.record();"

// chain joins makers by what was joined of planes.
func chain(planes, makers, where string) *feature.Definitions {
	d := joined(where)
	v := &d.Views[0]
	v.Features[1], v.Derived = feature.FeatureDef{Name: "size", Agg: "sum", Of: "maker.size"}, nil
	v.Join[0].AsOf = planes
	v.Join = append(v.Join, feature.JoinDef{Table: "public.makers", As: "maker", On: map[string]string{"maker": "plane.maker"}, AsOf: makers})
	return d
}

// A join that is as of now joins what there is now, and one by a joined row's column what that row has: as
// of the row's own change, now, or a maker of now by what the plane had then.
func TestJoinsAsOfNowAndChains(t *testing.T) {
	_, c := source(t)
	exec(t, c, audited+auditedMakers)
	for _, transaction := range []string{
		"insert into public.makers values ('M', 1000), ('N', 2000)",
		"insert into public.planes values ('P', 1, 50, 1, 'M'), ('Q', 1, 7, 1, 'N'), ('R', 1, 9, 1, 'O'), ('S', 1, 10, 1, null)",
		"insert into public.t select n, n, '2013-01-10 10:00:00+00', (array['P', 'Q', 'R', 'S', 'T', null])[n], 1 from generate_series(1, 6) n",
		"update public.planes set seats = 60, maker = 'N' where tail = 'P'",
		"delete from public.planes where tail = 'Q'; insert into public.planes values ('T', 1, 70, 1, 'M')",
		"insert into public.makers values ('O', 3000); update public.makers set size = size + 1 where maker <> 'O'",
		"insert into public.t values (7, 7, '2013-01-10 10:00:00+00', 'P', 1)",
		"update public.makers set size = size + 10",
	} {
		exec(t, c, "begin; "+transaction+"; commit")
	}
	for _, one := range []struct {
		planes, makers, where string
		want                  map[string]string
	}{
		{"", "", "", map[string]string{"1": "50 1000 1", "2": "7 2000 1", "3": "9 NULL 1", "4": "10 NULL 1", "5": "NULL NULL 1", "6": "NULL NULL 1", "7": "60 2001 1"}},
		{"current", "current", "", map[string]string{"1": "60 2011 1", "2": "NULL NULL 1", "3": "9 3010 1", "4": "10 NULL 1", "5": "70 1011 1", "6": "NULL NULL 1", "7": "60 2011 1"}},
		{"change", "current", "", map[string]string{"1": "50 1011 1", "2": "7 2011 1", "3": "9 3010 1", "4": "10 NULL 1", "5": "NULL NULL 1", "6": "NULL NULL 1", "7": "60 2011 1"}},
		{"current", "current", "maker.size > 2000", map[string]string{"1": "60 2011 1", "3": "9 3010 1", "7": "60 2011 1"}},
	} {
		e, got := truth(t, c, chain(one.planes, one.makers, one.where))
		if len(e.NotComparable) > 0 {
			t.Error(e.NotComparable)
		}
		equal(t, one.planes+", "+one.makers+" "+one.where, got, one.want)
	}

	// As of now nothing but the tables is needed; a chain that begins as of the row's change needs more.
	exec(t, c, "drop schema audit cascade")
	e, got := truth(t, c, chain("current", "current", "plane.seats > 9"))
	if len(e.NotComparable) > 0 {
		t.Error(e.NotComparable)
	}
	equal(t, "without audit.log", got, map[string]string{"1": "60 2011 1", "4": "10 NULL 1", "5": "70 1011 1", "7": "60 2011 1"})
	e, _ = truth(t, c, chain("change", "current", ""))
	for _, column := range []string{"seats", "size"} {
		if !strings.Contains(e.NotComparable[column], "no audit.log of its tables") {
			t.Errorf("%s: %q", column, e.NotComparable[column])
		}
	}
}
