package pgwire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/feature"
)

const maxRow = 64 << 20

// Copy reads a whole table in text form and calls fn for each row; the tuple is valid during the call.
func Copy(ctx context.Context, c *pgx.Conn, t *feature.Table, fn func(*Tuple) error) error {
	cols := make([]string, len(t.Columns))
	for i, col := range t.Columns {
		cols[i] = pgx.Identifier{col.Name}.Sanitize()
	}
	sql := "copy (select " + strings.Join(cols, ", ") + " from " + pgx.Identifier{t.Schema, t.Name}.Sanitize() + ") to stdout"
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := c.PgConn().CopyTo(ctx, w, sql)
		_ = w.CloseWithError(err)
		done <- err
	}()
	err := rows(r, len(cols), fn)
	_ = r.CloseWithError(err)
	if copyErr := <-done; err == nil {
		err = copyErr
	}
	if err != nil {
		return fmt.Errorf("copy of %s: %w", t.FullName(), err)
	}
	return nil
}

// rows splits COPY's text form: a line per row, tabs between, \N for NULL, backslash escapes.
func rows(r io.Reader, columns int, fn func(*Tuple) error) error {
	in := bufio.NewReaderSize(r, 1<<16)
	var t Tuple
	var long []byte
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			if long = append(long, line...); len(long) > maxRow {
				return fmt.Errorf("a row is longer than %d bytes", maxRow)
			}
			continue
		}
		if errors.Is(err, io.EOF) && len(line)+len(long) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		if len(long) > 0 {
			line = append(long, line...)
			long = nil
		}
		if err := t.line(line[:len(line)-1], columns); err != nil {
			return err
		}
		if err := fn(&t); err != nil {
			return err
		}
	}
}

func (t *Tuple) line(line []byte, columns int) error {
	t.Kinds, t.Texts = t.Kinds[:0], t.Texts[:0]
	rest := line
	for i := range columns {
		end := len(rest)
		for j, x := range rest {
			if x == '\t' { // a tab inside a value is written \t
				end = j
				break
			}
		}
		field := rest[:end]
		if last := end == len(rest); last != (i == columns-1) {
			return fmt.Errorf("a row does not have %d columns", columns)
		}
		if end < len(rest) {
			rest = rest[end+1:]
		}
		if string(field) == `\N` {
			t.Kinds, t.Texts = append(t.Kinds, 'n'), append(t.Texts, nil)
			continue
		}
		t.Kinds, t.Texts = append(t.Kinds, 't'), append(t.Texts, unescape(field))
	}
	return nil
}

func unescape(b []byte) []byte {
	out := b[:0] // what is written never passes what is read
	for i := 0; i < len(b); i++ {
		x := b[i]
		if x == '\\' && i+1 < len(b) {
			i++
			switch x = b[i]; x {
			case 'b':
				x = '\b'
			case 'f':
				x = '\f'
			case 'n':
				x = '\n'
			case 'r':
				x = '\r'
			case 't':
				x = '\t'
			case 'v':
				x = '\v'
			}
		}
		out = append(out, x)
	}
	return out
}
