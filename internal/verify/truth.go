package verify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// Expected is what a view must be at one log time, as the source says. It can be kept as JSON.
type Expected struct {
	View    string          `json:"view"`
	LogTime int64           `json:"log_time"` // microseconds
	Outputs []feature.Field `json:"outputs"`
	// NotComparable says, per output, why the source cannot say it. Its values in Rows mean nothing.
	NotComparable map[string]string `json:"not_comparable,omitempty"`
	// Whole, if set, is why nothing can be said, not even which entities there are. There are no rows then.
	Whole string `json:"whole,omitempty"`
	// Near are the outputs whose rounding depends on the order of adding.
	Near map[string]bool `json:"near,omitempty"`
	Rows []Row           `json:"rows"` // in the order of the keys' bytes
}

// Row is one entity. As JSON it is the values' stored form (feature.AppendValue), one after the other,
// in base64: the number of keys, the keys, the event time, the outputs.
type Row struct {
	Key       []feature.Value
	EventTime feature.Value // newest; NULL when no row of the entity has one
	Values    []feature.Value
}

// As gives what is expected by an earlier generation of a view as readers have it, who know the columns of the newest: one that the earlier has
// not is NULL.
func (e *Expected) As(earlier, newest *feature.View) *Expected {
	out := *e
	out.Outputs, out.NotComparable, out.Near, out.Rows = newest.Outputs(), map[string]string{}, map[string]bool{}, slices.Clone(e.Rows)
	from := make([]int, len(out.Outputs))
	for i, o := range out.Outputs {
		from[i] = earlier.Output(o.Name)
		if why, not := e.NotComparable[o.Name]; not {
			out.NotComparable[o.Name] = why
		}
		out.Near[o.Name] = e.Near[o.Name]
	}
	for i, r := range e.Rows {
		values := make([]feature.Value, len(from))
		for k, at := range from {
			if at >= 0 {
				values[k] = r.Values[at]
			}
		}
		out.Rows[i].Values = values
	}
	return &out
}

// MarshalJSON writes the row.
func (r Row) MarshalJSON() ([]byte, error) {
	b := []byte{byte(len(r.Key))}
	for _, v := range slices.Concat(r.Key, []feature.Value{r.EventTime}, r.Values) {
		b = feature.AppendValue(b, v)
	}
	out, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("row: %w", err)
	}
	return out, nil
}

// UnmarshalJSON reads the form of MarshalJSON.
func (r *Row) UnmarshalJSON(text []byte) error {
	var b []byte
	if err := json.Unmarshal(text, &b); err != nil {
		return fmt.Errorf("row: %w", err)
	}
	if len(b) == 0 {
		return fmt.Errorf("row: %w", feature.ErrTruncated)
	}
	keys := int(b[0])
	var all []feature.Value
	for b = b[1:]; len(b) > 0; {
		v, rest, err := feature.DecodeValue(b)
		if err != nil {
			return fmt.Errorf("row: %w", err)
		}
		all, b = append(all, v), rest
	}
	if len(all) <= keys {
		return fmt.Errorf("row: %w", feature.ErrTruncated)
	}
	*r = Row{Key: all[:keys:keys], EventTime: all[keys], Values: all[keys+1:]}
	return nil
}

// keyBytes gives the ordered form of an entity key.
func keyBytes(key []feature.Value) string {
	var b []byte
	for _, k := range key {
		b = feature.AppendKey(b, k)
	}
	return string(b)
}

// Truth asks the source what a view is at a log time (microseconds), over the rows that conn sees:
// those of a cut's snapshot, when it is of pgwire's Source.Adopt. It looks for audit.log itself.
func Truth(ctx context.Context, conn *pgx.Conn, v *feature.View, logTime int64) (*Expected, error) {
	o, err := Probe(ctx, conn, v)
	if err != nil {
		return nil, err
	}
	return TruthWith(ctx, conn, v, logTime, o)
}

// settle pins how values are written as text, and how the statement is planned: compiling it would take
// longer than it does, and where statistics are missing, as in a new table, hash joins are the safe choice.
const settle = `select set_config(s.name, s.value, false) from (values ('timezone', 'UTC'), ('datestyle', 'ISO, YMD'),
	('intervalstyle', 'postgres'), ('extra_float_digits', '3'), ('bytea_output', 'hex'), ('search_path', 'pg_catalog'),
	('jit', 'off'), ('work_mem', '64MB'), ('enable_mergejoin', 'off'), ('enable_nestloop', 'off')) s(name, value)`

const probe = `select exists(select from pg_catalog.pg_collation where collname = 'pg_c_utf8'),
	(select count(*) from pg_catalog.pg_attribute where attrelid = to_regclass('audit.log') and not attisdropped
		and attname in ('n', 'table_name', 'before', 'after')) = 4,
	array(select n.nspname || '.' || c.relname from pg_catalog.pg_trigger t
		join pg_catalog.pg_class c on c.oid = t.tgrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		join pg_catalog.pg_proc p on p.oid = t.tgfoid
		where not t.tgisinternal and t.tgenabled in ('O', 'A') and p.pronamespace = to_regnamespace('audit'))`

// Probe finds what the source has of what the statement of a view can use: audit.log with triggers on
// every table of the view, and collations.
func Probe(ctx context.Context, conn *pgx.Conn, v *feature.View) (SQLOptions, error) {
	var o SQLOptions
	var tables []string
	if err := conn.QueryRow(ctx, probe).Scan(&o.Unicode, &o.Audit, &tables); err != nil {
		return o, fault.Wrap(fault.Failed, err, "the source does not say what it has").At("source.postgres")
	}
	o.Audit = o.Audit && slices.Contains(tables, v.Source.FullName())
	for _, j := range v.Joins {
		o.Audit = o.Audit && (j.Current || slices.Contains(tables, j.Table.FullName()))
	}
	return o, nil
}

// TruthWith is Truth for a source of which it is known what it has.
func TruthWith(ctx context.Context, conn *pgx.Conn, v *feature.View, logTime int64, o SQLOptions) (*Expected, error) {
	s := build(v, o)
	e := &Expected{View: v.Name, LogTime: logTime, Outputs: v.Outputs(), Whole: s.whole, NotComparable: s.reasons(v), Near: s.near}
	if s.whole != "" {
		return e, nil
	}
	if _, err := conn.Exec(ctx, settle); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "the session's settings cannot be changed").At("source.postgres")
	}
	unknown, err := e.guarded(ctx, conn, v, s.sql)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && unfit(pg.Code) {
		e.Whole = fmt.Sprintf("its definition does not fit the source as it is now: %s (SQLSTATE %s)", pg.Message, pg.Code)
		e.Rows = nil
		return e, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "the source does not answer for view %s", v.Name).At("source.postgres")
	}
	if unknown > 0 {
		e.distrust(v, o, unknown)
	}
	slices.SortFunc(e.Rows, func(a, b Row) int { return cmp.Compare(keyBytes(a.Key), keyBytes(b.Key)) })
	return e, nil
}

// unfit tells whether an error says that tables or columns are not what the statement takes them for.
func unfit(code string) bool {
	return slices.Contains([]string{"42703", "42P01", "3F000", "42883", "42804", "42846", "22P02"}, code)
}

// guarded reads, and leaves a transaction that conn may be in as usable as it was: other views ask in it.
func (e *Expected) guarded(ctx context.Context, conn *pgx.Conn, v *feature.View, sql string) (int64, error) {
	if conn.PgConn().TxStatus() != 'T' {
		return e.read(ctx, conn, v, sql)
	}
	if _, err := conn.Exec(ctx, "savepoint truth"); err != nil {
		return 0, fmt.Errorf("truth: %w", err)
	}
	unknown, err := e.read(ctx, conn, v, sql)
	if _, failed := conn.Exec(ctx, "rollback to savepoint truth"); failed != nil && err == nil {
		return 0, fmt.Errorf("truth: %w", failed)
	}
	return unknown, err
}

// distrust takes back what was said through joins.
func (e *Expected) distrust(v *feature.View, o SQLOptions, unknown int64) {
	o.Audit, o.why = false, fmt.Sprintf("audit.log does not know %d rows of its tables, so the dimension's row of that time is not known", unknown)
	s := build(v, o)
	maps.Copy(e.NotComparable, s.reasons(v))
	if e.Whole = s.whole; e.Whole != "" {
		e.Rows = nil
	}
}

func (e *Expected) read(ctx context.Context, conn *pgx.Conn, v *feature.View, sql string) (unknown int64, err error) {
	rows, err := conn.Query(ctx, sql, e.LogTime)
	if err != nil {
		return 0, fmt.Errorf("truth: %w", err)
	}
	defer rows.Close()
	types := make([]feature.Type, 0, 2+len(v.Entity)+len(e.Outputs))
	types = append(types, feature.Type{Kind: feature.Int64})
	for _, k := range v.Entity {
		types = append(types, k.Type)
	}
	types = append(types, feature.Type{Kind: feature.Timestamp})
	for _, o := range e.Outputs {
		types = append(types, o.Type)
	}
	for rows.Next() {
		all := make([]feature.Value, len(types))
		for i, raw := range rows.RawValues() {
			if raw == nil {
				continue
			}
			if all[i], err = feature.ParseText(types[i], string(raw)); err != nil {
				return 0, fmt.Errorf("truth: %w", err)
			}
		}
		unknown = all[0].I
		n := 1 + len(v.Entity)
		if !all[1].IsNull() {
			e.Rows = append(e.Rows, Row{Key: all[1:n:n], EventTime: all[n], Values: all[n+1:]})
		}
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("truth: %w", err)
	}
	return unknown, nil
}
