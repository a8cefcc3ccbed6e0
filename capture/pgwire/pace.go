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
	paceWait   = 5 * time.Millisecond // and nothing waits longer than this for more to come
	paceWindow = 256 << 10            // a flood is so much
	paceWithin = 100 * time.Millisecond
	paceBuffer = 64 << 10
)

// paced is a connection that is read in large pieces while much comes.
//
// PostgreSQL sends each row by itself. A reader that is waiting is woken for each, which costs it more than
// the row does (docs/decisions/0005). So when paceWindow bytes have come within paceWithin, the socket is
// told to report data only from paceBytes on (SO_RCVLOWAT), and what is less is fetched after paceWait. When
// less than paceWindow comes within paceWithin, each byte is reported at once again.
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
		if err := p.report(1, time.Time{}); err != nil {
			return 0, err
		}
		n, err := p.Conn.Read(b)
		p.count(n)
		return n, err
	}
	if err := p.report(paceBytes, now().Add(paceWait)); err != nil {
		return 0, err
	}
	n, err := p.Conn.Read(b)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		if err := p.report(1, time.Time{}); err != nil {
			return 0, err
		}
		n, err = p.Conn.Read(b)
	}
	p.count(n)
	return n, err
}

// count looks whether much comes. A pause by itself is no sign that it does not: on a busy machine the
// server has to wait for its turn.
func (p *paced) count(n int) {
	p.got += n
	if !p.flood && p.got < paceWindow {
		return
	}
	t := now()
	within := t.Sub(p.since) < paceWithin
	if p.flood && within {
		return
	}
	p.flood = within || p.flood && p.got >= paceWindow
	p.got, p.since = 0, t
}

func (p *paced) report(bytes int, deadline time.Time) error {
	if p.set == bytes && bytes == 1 {
		return nil
	}
	err := p.Conn.SetReadDeadline(deadline)
	if p.set != bytes {
		p.set = bytes
		err = errors.Join(err, p.lowat(bytes))
	}
	return err
}

// now paces reads; no value has it.
func now() time.Time { return time.Now() } //nolint:forbidigo // deadlines of a socket are in real time
