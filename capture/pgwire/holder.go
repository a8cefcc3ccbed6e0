package pgwire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Holder is a transaction that a slot which is being made waits for.
type Holder struct {
	PID         int           `json:"pid,omitempty"`      // 0: it is prepared
	Prepared    string        `json:"prepared,omitempty"` // its name
	User        string        `json:"user"`
	Application string        `json:"application,omitempty"`
	State       string        `json:"state,omitempty"` // as pg_stat_activity has it
	Age         time.Duration `json:"age_ns"`
	Query       string        `json:"query,omitempty"` // the first 200 characters; others' are hidden from those who may not see them
}

// String is for people.
func (h *Holder) String() string {
	if h.PID == 0 {
		return fmt.Sprintf("the prepared transaction %s of user %s, prepared %s ago", h.Prepared, h.User, h.Age.Round(time.Second))
	}
	var more []string
	for _, x := range []string{h.Application, h.State} {
		if x != "" {
			more = append(more, x)
		}
	}
	more = append(more, "begun "+h.Age.Round(time.Second).String()+" ago")
	return fmt.Sprintf("the transaction of process %d of user %s (%s): %s", h.PID, h.User, strings.Join(more, ", "), h.Query)
}

// Mend is the statement that ends it.
func (h *Holder) Mend() string {
	if h.PID == 0 {
		return fmt.Sprintf("COMMIT PREPARED '%[1]s', or ROLLBACK PREPARED '%[1]s'", strings.ReplaceAll(h.Prepared, "'", "''"))
	}
	return fmt.Sprintf("let it end, or: SELECT pg_terminate_backend(%d)", h.PID)
}

// holder asks which transaction the process that makes a slot waits for. Whose lock it is everybody may see.
const holder = `select coalesce(h.pid, 0), coalesce(p.gid, ''), coalesce(a.usename, p.owner, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
		extract(epoch from clock_timestamp() - coalesce(a.xact_start, p.prepared, clock_timestamp()))::float8, left(coalesce(a.query, ''), 200)
	from pg_stat_activity maker
	join pg_locks w on w.pid = maker.pid and not w.granted and w.locktype = 'transactionid'
	join pg_locks h on h.locktype = 'transactionid' and h.transactionid = w.transactionid and h.granted and h.mode = 'ExclusiveLock'
	left join pg_stat_activity a on a.pid = h.pid
	left join pg_prepared_xacts p on h.pid is null and p.transaction = h.transactionid
	where maker.query like $1 escape '\' and maker.pid <> pg_backend_pid() limit 1`

// HolderOf gives the transaction that CreateSlot of a slot waits for just now; nil: for none.
func HolderOf(ctx context.Context, c *pgx.Conn, slot string) (*Holder, error) {
	var h Holder
	var seconds float64
	like := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace("CREATE_REPLICATION_SLOT "+pgx.Identifier{slot}.Sanitize()) + " %"
	err := c.QueryRow(ctx, holder, like).Scan(&h.PID, &h.Prepared, &h.User, &h.Application, &h.State, &seconds, &h.Query)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("what slot %s waits for: %w", slot, err)
	}
	h.Age = time.Duration(seconds * float64(time.Second))
	return &h, nil
}
