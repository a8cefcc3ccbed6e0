// Package pgwire is how capture talks to PostgreSQL: the catalogue, publication and slot, the
// logical replication stream (pgoutput protocols 1 and 2, decoded here), and COPY of whole tables.
//
// Values travel as PostgreSQL's text in the stream and in COPY alike, under the same pinned session
// settings, so that a row is the same row whichever way it came.
package pgwire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

// Source is one PostgreSQL database and the slot through which it is read.
type Source struct {
	URL         string
	Slot        string
	Publication string
}

// pinned are the settings that decide how values are written as text.
func pinned() map[string]string {
	return map[string]string{
		"datestyle": "ISO, YMD", "intervalstyle": "postgres", "timezone": "UTC", "extra_float_digits": "3",
		"bytea_output": "hex", "client_encoding": "UTF8", "application_name": "freshet", "search_path": "pg_catalog",
	}
}

func (s Source) config() (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(s.URL)
	if err != nil {
		return nil, fault.New(fault.Usage, "source.postgres.url is not a PostgreSQL address").
			At("source.postgres.url").ToMend("write it as postgres://user@host:5432/database")
	}
	maps.Copy(cfg.RuntimeParams, pinned())
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	return cfg, nil
}

// Connect opens an ordinary connection.
func (s Source) Connect(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, explain(err, cfg)
	}
	return c, nil
}

// replication opens a connection that speaks the replication protocol.
func (s Source) replication(ctx context.Context) (*pgconn.PgConn, error) {
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["replication"] = "database"
	c, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	if err != nil {
		return nil, explain(err, cfg)
	}
	return c, nil
}

// explain says what a failed connection means, without the password.
func explain(err error, cfg *pgx.ConnConfig) error {
	where := fmt.Sprintf("source.postgres %s:%d/%s as %s", cfg.Host, cfg.Port, cfg.Database, cfg.User)
	var pg *pgconn.PgError
	var op *net.OpError
	switch {
	case errors.As(err, &pg) && (pg.Code == "28P01" || pg.Code == "28000"):
		return fault.New(fault.Permission, "the server refuses the login: %s", pg.Message).At("%s", where).
			ToMend("correct user and password in the file or environment variable that source.postgres.url names")
	case errors.As(err, &pg) && passing(pg.Code):
		return fault.New(fault.Unreachable, "the server does not take connections now: %s (%s)", pg.Message, pg.Code).At("%s", where)
	case errors.As(err, &pg):
		return fault.New(fault.Failed, "the server refuses the connection: %s (%s)", pg.Message, pg.Code).At("%s", where)
	case errors.As(err, &op):
		return fault.Wrap(fault.Unreachable, op, "no PostgreSQL server answers").At("%s", where).
			ToMend("start it, or correct source.postgres.url")
	}
	return fault.Wrap(fault.Unreachable, err, "cannot connect").At("%s", where)
}

// passing tells of an error that is over by itself: the server shuts down, starts up, has no connection
// left, ended this one because somebody asked for it, or the slot's reader has not gone yet.
func passing(code string) bool {
	return strings.HasPrefix(code, "57P") || code == "53300" || code == "55006"
}

// Identity tells one history of one server from another.
type Identity struct {
	System   string
	Timeline int32
	Database string
	WAL      position.LSN // where the log ends now
}

// Identify asks the server who it is.
func (s Source) Identify(ctx context.Context) (Identity, error) {
	c, err := s.replication(ctx)
	if err != nil {
		return Identity{}, err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	r, err := pglogrepl.IdentifySystem(ctx, c)
	if err != nil {
		return Identity{}, fmt.Errorf("identify system: %w", err)
	}
	return Identity{r.SystemID, r.Timeline, r.DBName, position.LSN(r.XLogPos)}, nil
}

// SlotState is what the server says of a slot.
type SlotState struct {
	Exists    bool
	ActivePID int32
	Confirmed position.LSN
	Retained  int64  // bytes of WAL held by it
	Status    string // wal_status
}

// SlotState looks the slot up.
func (s Source) SlotState(ctx context.Context, c *pgx.Conn) (SlotState, error) {
	var st SlotState
	var confirmed *string
	var pid *int32
	var retained *int64
	var status *string
	err := c.QueryRow(ctx, `select active_pid, confirmed_flush_lsn::text, wal_status,
		pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
		from pg_replication_slots where slot_name = $1`, s.Slot).Scan(&pid, &confirmed, &status, &retained)
	if errors.Is(err, pgx.ErrNoRows) {
		return st, nil
	}
	if err != nil {
		return st, fmt.Errorf("slot %s: %w", s.Slot, err)
	}
	st.Exists = true
	if pid != nil {
		st.ActivePID = *pid
	}
	if retained != nil {
		st.Retained = *retained
	}
	if status != nil {
		st.Status = *status
	}
	if confirmed != nil {
		if st.Confirmed, err = position.ParseLSN(*confirmed); err != nil {
			return st, fmt.Errorf("slot %s: %w", s.Slot, err)
		}
	}
	return st, nil
}

// Terminate ends whoever reads the slot now and waits until it is free.
func (s Source) Terminate(ctx context.Context, c *pgx.Conn) error {
	for {
		st, err := s.SlotState(ctx, c)
		if err != nil || st.ActivePID == 0 {
			return err
		}
		if _, err := c.Exec(ctx, "select pg_terminate_backend($1)", st.ActivePID); err != nil {
			return fault.Wrap(fault.Permission, err, "slot %s is read by process %d of the server and may not be taken over", s.Slot, st.ActivePID).
				ToMend("stop the other capture, or GRANT pg_signal_backend to this user")
		}
		// The wait is the server's: pg_sleep ends when the query is cancelled.
		if _, err := c.Exec(ctx, "select pg_sleep(0.02)"); err != nil {
			return fmt.Errorf("waiting for slot %s: %w", s.Slot, err)
		}
	}
}

// DropSlot removes the slot if it exists.
func (s Source) DropSlot(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1", s.Slot)
	if err != nil {
		return fmt.Errorf("drop slot %s: %w", s.Slot, err)
	}
	return nil
}

// Export is a snapshot of the database that other connections can adopt while it is held.
type Export struct {
	// Consistent is the point C: commits with LSN < C are in the snapshot, the others are not.
	Consistent position.LSN
	// Name is for SET TRANSACTION SNAPSHOT.
	Name string
	conn *pgconn.PgConn
}

// Close gives the snapshot up; a temporary slot goes with it.
func (e *Export) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = e.conn.Close(ctx)
}

// duplicatePause is between two tries to make a temporary slot whose predecessor is about to go.
const duplicatePause = 20 * time.Millisecond

// CreateSlot makes the source's slot, or a temporary one of another name, with an exported snapshot.
// It waits for the transactions that run now.
func (s Source) CreateSlot(ctx context.Context, name string, temporary bool) (*Export, error) {
	c, err := s.replication(ctx)
	if err != nil {
		return nil, err
	}
	create := func() (pglogrepl.CreateReplicationSlotResult, error) {
		return pglogrepl.CreateReplicationSlot(ctx, c, name, "pgoutput", pglogrepl.CreateReplicationSlotOptions{
			Temporary: temporary, SnapshotAction: "EXPORT_SNAPSHOT", Mode: pglogrepl.LogicalReplication,
		})
	}
	r, err := create()
	for temporary && isDuplicate(err) && ctx.Err() == nil {
		// The one before has been closed, and the server drops it when it notices.
		pause := time.NewTimer(duplicatePause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
		r, err = create()
	}
	var lsn position.LSN
	if err == nil {
		lsn, err = position.ParseLSN(r.ConsistentPoint)
	}
	if err != nil {
		_ = c.Close(context.WithoutCancel(ctx))
		return nil, slotFault(err, name)
	}
	return &Export{Consistent: lsn, Name: r.SnapshotName, conn: c}, nil
}

func isDuplicate(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "42710"
}

func slotFault(err error, name string) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return fmt.Errorf("create slot %s: %w", name, err)
	}
	e := fault.New(fault.Failed, "slot %s cannot be made: %s", name, pg.Message).At("source.postgres.slot")
	switch pg.Code {
	case "55000":
		return e.ToMend("ALTER SYSTEM SET wal_level = logical; then restart the server")
	case "53400":
		return e.ToMend("ALTER SYSTEM SET max_replication_slots = 20; then restart the server, or drop unused slots")
	case "42501":
		e.Class = fault.Permission
		return e.ToMend("ALTER ROLE … REPLICATION")
	}
	return e
}

// Adopt opens a read-only transaction on an exported snapshot.
func (s Source) Adopt(ctx context.Context, snapshot string) (*pgx.Conn, error) {
	c, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if _, err = c.Exec(ctx, "begin isolation level repeatable read read only"); err == nil {
		_, err = c.Exec(ctx, "set transaction snapshot '"+snapshot+"'")
	}
	if err != nil {
		_ = c.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("adopting snapshot %s: %w", snapshot, err)
	}
	return c, nil
}
