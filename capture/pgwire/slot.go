package pgwire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

// SlotState is what the server says of a slot. What its version does not know stays zero.
type SlotState struct {
	Exists    bool
	Plugin    string
	Database  string
	Temporary bool
	ActivePID int32
	Restart   position.LSN // decoding begins here after a start
	Confirmed position.LSN
	Retained  int64  // bytes of WAL held by it
	SafeWAL   *int64 // bytes of WAL that can be written before it may be lost; nil: no bound is set, or it is lost
	Status    string // wal_status: reserved, extended, unreserved, lost
	TwoPhase  bool   // prepared transactions are decoded at PREPARE (14), and sent then (pgoutput: 15)
	// Failover: a standby that synchronizes slots keeps a copy of it (17).
	Failover bool
	// Synced: it is such a copy, on the standby (17).
	Synced bool
	// Invalidation is why it is lost: wal_removed, rows_removed, wal_level_insufficient, idle_timeout (17).
	Invalidation string
	// InactiveSince is when its last reader went, in microseconds since 1970 (17); 0: it is read, or not known.
	InactiveSince int64
}

// slotRow is a row of pg_replication_slots as JSON: a server of any version says what it has.
type slotRow struct {
	Plugin        string     `json:"plugin"`
	Database      string     `json:"database"`
	Temporary     bool       `json:"temporary"`
	ActivePID     int32      `json:"active_pid"`
	Restart       string     `json:"restart_lsn"`
	Confirmed     string     `json:"confirmed_flush_lsn"`
	SafeWAL       *int64     `json:"safe_wal_size"`
	Status        string     `json:"wal_status"`
	TwoPhase      bool       `json:"two_phase"`
	Failover      bool       `json:"failover"`
	Synced        bool       `json:"synced"`
	Invalidation  string     `json:"invalidation_reason"`
	InactiveSince *time.Time `json:"inactive_since"`
}

// broken gives the class of what went wrong with a query: a server that went away may come back.
func broken(err error, what string) error {
	if err == nil {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && !passing(pg.Code) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fault.Wrap(fault.Unreachable, err, "%s", what)
}

// SlotState looks the slot up, on a primary or a standby.
func (s Source) SlotState(ctx context.Context, c *pgx.Conn) (SlotState, error) {
	var text string
	var retained *int64
	err := c.QueryRow(ctx, `select to_jsonb(s)::text, pg_wal_lsn_diff(
		case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, restart_lsn)::bigint
		from pg_replication_slots s where slot_name = $1`, s.Slot).Scan(&text, &retained)
	if errors.Is(err, pgx.ErrNoRows) {
		return SlotState{}, nil
	}
	var st SlotState
	if err == nil {
		st, err = slotState([]byte(text))
	}
	if err != nil {
		return SlotState{}, broken(err, "slot "+s.Slot)
	}
	if retained != nil {
		st.Retained = *retained
	}
	return st, nil
}

func slotState(text []byte) (SlotState, error) {
	var r slotRow
	if err := json.Unmarshal(text, &r); err != nil {
		return SlotState{}, fmt.Errorf("pg_replication_slots: %w", err)
	}
	st := SlotState{
		Exists: true, Plugin: r.Plugin, Database: r.Database, Temporary: r.Temporary, ActivePID: r.ActivePID, SafeWAL: r.SafeWAL,
		Status: r.Status, TwoPhase: r.TwoPhase, Failover: r.Failover, Synced: r.Synced, Invalidation: r.Invalidation,
	}
	if r.InactiveSince != nil {
		st.InactiveSince = r.InactiveSince.UnixMicro()
	}
	var err error
	if st.Restart, err = slotLSN(r.Restart); err != nil {
		return SlotState{}, err
	}
	st.Confirmed, err = slotLSN(r.Confirmed)
	return st, err
}

func slotLSN(text string) (position.LSN, error) {
	if text == "" {
		return 0, nil
	}
	return position.ParseLSN(text)
}

// Terminate ends whoever reads the slot now and waits until it is free.
func (s Source) Terminate(ctx context.Context, c *pgx.Conn) error {
	for {
		st, err := s.SlotState(ctx, c)
		if err != nil || st.ActivePID == 0 {
			return err
		}
		if _, err := c.Exec(ctx, "select pg_terminate_backend($1)", st.ActivePID); fault.ClassOf(broken(err, "")) == fault.Unreachable {
			return broken(err, "ending who reads slot "+s.Slot)
		} else if err != nil {
			return fault.Wrap(fault.Permission, err, "slot %s is read by process %d of the server and may not be taken over", s.Slot, st.ActivePID).
				ToMend("stop the other capture, or GRANT pg_signal_backend to this user")
		}
		// The wait is the server's: pg_sleep ends when the query is cancelled.
		if _, err := c.Exec(ctx, "select pg_sleep(0.02)"); err != nil {
			return broken(err, "waiting for slot "+s.Slot)
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

const (
	// duplicatePause is between two tries to make a temporary slot whose predecessor is about to go.
	duplicatePause = 20 * time.Millisecond
	// failoverSince is the first version whose standbys can keep copies of slots.
	failoverSince = 17
	// flushSince is the first version where a logical message can be flushed at once, by an argument more.
	flushSince = 17
)

// CreateSlot makes the source's slot, or a temporary one of another name, with an exported snapshot.
// It waits for the transactions that run now. One that is to stay has failover, from version 17 on, if
// the server is a primary.
func (s Source) CreateSlot(ctx context.Context, name string, temporary bool) (*Export, error) {
	c, err := s.replication(ctx)
	if err != nil {
		return nil, err
	}
	primary := c.ParameterStatus("in_hot_standby") != "on"
	sql := createSQL(name, temporary, primary, major(c.ParameterStatus("server_version")))
	create := func() (pglogrepl.CreateReplicationSlotResult, error) {
		return pglogrepl.ParseCreateReplicationSlot(c.Exec(ctx, sql))
	}
	r, err := create()
	for (temporary && isDuplicate(err) || isTooLarge(err)) && ctx.Err() == nil {
		// The one before has been closed, and the server drops it when it notices; or more subtransactions
		// run just now than a snapshot can list.
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

// createSQL gives the statement; that of before version 15 has no options in parentheses, and a temporary
// slot cannot have failover.
func createSQL(name string, temporary, failover bool, version int) string {
	kind, options := "LOGICAL", "EXPORT_SNAPSHOT"
	if temporary {
		kind = "TEMPORARY LOGICAL"
	}
	if version >= failoverSince && failover && !temporary {
		options = "(SNAPSHOT 'export', FAILOVER true)"
	}
	return "CREATE_REPLICATION_SLOT " + pgx.Identifier{name}.Sanitize() + " " + kind + " pgoutput " + options
}

func isDuplicate(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "42710"
}

// isTooLarge tells of a moment with too many subtransactions for a snapshot to be exported.
func isTooLarge(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && strings.Contains(pg.Message, "snapshot too large")
}

func slotFault(err error, name string) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return fmt.Errorf("create slot %s: %w", name, err)
	}
	e := fault.New(fault.Failed, "slot %s cannot be made: %s", name, pg.Message).At("source.postgres.slot")
	switch pg.Code {
	case "42602":
		return e.ToMend("name it with lower-case letters, digits and underscores, at most 63")
	case "42710":
		return e.ToMend("choose another name, or if nobody needs it: SELECT pg_drop_replication_slot('%s')", name)
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

// EmitMessage writes a logical message into the log, which every slot's stream then has: at once, or as
// part of the connection's transaction. It needs no right on any table, and moves what slots wait for in
// a database where nothing else is written. A prefix says whose it is.
func EmitMessage(ctx context.Context, c *pgx.Conn, transactional bool, prefix string, content []byte) error {
	if content == nil {
		content = []byte{}
	}
	if _, err := c.Exec(ctx, "select pg_logical_emit_message($1, $2, $3::bytea)", transactional, prefix, content); err != nil {
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42501" {
			arguments := "boolean, text, bytea"
			if major(c.PgConn().ParameterStatus("server_version")) >= flushSince {
				arguments += ", boolean"
			}
			return fault.New(fault.Permission, "logical messages may not be written: %s", pg.Message).
				ToMend("GRANT EXECUTE ON FUNCTION pg_logical_emit_message(%s) TO this user, or do without: an idle slot then waits for other writers", arguments)
		}
		return fmt.Errorf("logical message %s: %w", prefix, err)
	}
	return nil
}
