package pgwire

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	paceBytes  = 32 << 10             // under a flood the socket tells of this much at once
	paceWait   = 2 * time.Millisecond // and nothing waits longer than this for more to come
	paceLeast  = 4 << 10              // less within paceWait is no flood any more
	paceWindow = 256 << 10            // so much
	paceWithin = 100 * time.Millisecond
	paceBuffer = 64 << 10
)

// paced is a connection that is read in large pieces while much comes.
//
// PostgreSQL sends each row by itself. A reader that is waiting is woken for each, and the waking costs both
// sides more than the row: of the walsender it is a third of its time or more (docs/decisions/0005). So when
// paceWindow bytes have come within paceWithin, the socket is told to report data only from paceBytes on
// (SO_RCVLOWAT), and what is less is fetched after paceWait. When less than paceLeast comes in that time, each
// byte is reported at once again.
type paced struct {
	net.Conn
	lowat func(bytes int) error
	on    bool // Start has been called
	flood bool
	set   int // what lowat was last told
	got   int // bytes of the window
	since time.Time

	// TLS asks for few bytes at a time: they come from here.
	buf      []byte
	from, to int
}

// pace has the connections of a configuration paced; they are as without until begin.
func pace(cfg *pgconn.Config) {
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if lowat := lowatOf(c); lowat != nil {
			return &paced{Conn: c, lowat: lowat}, nil
		}
		return c, nil
	}
}

// begin paces the connection from now on, if it can be; nobody else may set its read deadline then.
func begin(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if p, ok := c.(*paced); ok {
		p.on, p.set, p.since = true, 1, now()
	}
}

// Read gives what has come.
func (p *paced) Read(b []byte) (int, error) {
	if p.from < p.to {
		n := copy(b, p.buf[p.from:p.to])
		p.from += n
		return n, nil
	}
	switch {
	case !p.on:
		return p.Conn.Read(b)
	case len(b) >= paceBuffer:
		return p.read(b)
	}
	if p.buf == nil {
		p.buf = make([]byte, paceBuffer)
	}
	n, err := p.read(p.buf)
	p.from, p.to = copy(b, p.buf[:n]), n
	return p.from, err
}

func (p *paced) read(b []byte) (int, error) {
	if !p.flood {
		n, err := p.Conn.Read(b)
		p.count(n)
		return n, err
	}
	if err := errors.Join(p.report(paceBytes), p.Conn.SetReadDeadline(now().Add(paceWait))); err != nil {
		return 0, err
	}
	n, err := p.Conn.Read(b)
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	if err := errors.Join(p.report(1), p.Conn.SetReadDeadline(time.Time{})); err != nil {
		return 0, err
	}
	n, err = p.Conn.Read(b)
	if n < paceLeast {
		p.flood, p.got, p.since = false, 0, now()
	}
	return n, err
}

// count looks whether much comes.
func (p *paced) count(n int) {
	if p.got += n; p.got < paceWindow {
		return
	}
	t := now()
	p.flood = t.Sub(p.since) < paceWithin
	p.got, p.since = 0, t
}

func (p *paced) report(bytes int) error {
	if p.set == bytes {
		return nil
	}
	p.set = bytes
	return p.lowat(bytes)
}

// now paces reads; no value has it.
func now() time.Time { return time.Now() } //nolint:forbidigo // deadlines of a socket are in real time
