package capture

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgwire"
)

// fates tells which subtransactions of a transaction that is committed were rolled back, by what the
// server's commit log says of them.
//
// The stream should have said so, and as a rule it has. But PostgreSQL tells of the end of a
// subtransaction only where it remembers that something of it was streamed, and it forgets that
// (reorderbuffer.c, ReorderBufferMaybeMarkTXNStreamed: a subtransaction without changes in memory is not
// marked) of one that had to go to the server's disk before it could be streamed: because its rows are
// wide and were half there (TOAST), or because the server had to read its log again up to where the
// stream goes on. Who believes the stream alone publishes rows that never were.
type fates struct {
	source pgwire.Source
	conn   *pgx.Conn
	pages  map[uint32]*[fatePage / 64]uint64 // a bit for each that was rolled back
}

const (
	fatePage  = 1024 // ids asked for at once: those of one transaction are close to each other
	fatePages = 4096 // remembered, 128 bytes each
)

// rolledBack asks for a subtransaction.
func (f *fates) rolledBack(ctx context.Context, sub uint32) (bool, error) {
	page, ok := f.pages[sub/fatePage]
	if !ok {
		if f.conn == nil {
			var err error
			if f.conn, err = f.source.Connect(ctx); err != nil {
				return false, err
			}
		}
		gone, err := pgwire.RolledBack(ctx, f.conn, sub/fatePage*fatePage, fatePage)
		if err != nil {
			return false, err
		}
		if page = new([fatePage / 64]uint64); len(f.pages) >= fatePages || f.pages == nil {
			f.pages = map[uint32]*[fatePage / 64]uint64{}
		}
		for _, i := range gone {
			page[i/64] |= 1 << (i % 64)
		}
		f.pages[sub/fatePage] = page
	}
	return page[sub%fatePage/64]>>(sub%64)&1 != 0, nil
}

func (f *fates) close(ctx context.Context) {
	if f.conn != nil {
		_ = f.conn.Close(context.WithoutCancel(ctx)) // nothing depends on a clean goodbye
	}
}
