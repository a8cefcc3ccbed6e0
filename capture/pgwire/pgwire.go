// Package pgwire is how capture talks to PostgreSQL: the catalogue, publication and slot, and the
// logical replication stream (pgoutput protocols 1 and 2, decoded here).
//
// Values travel as PostgreSQL's text in the stream and in COPY alike, under the same pinned session
// settings, so that a row is the same row whichever way it came.
package pgwire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
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
		"lc_monetary": "C", "quote_all_identifiers": "off", // money; the names that reg… types are
	}
}

func (s Source) config() (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(s.URL)
	if err != nil {
		return nil, unreadable(err)
	}
	s.fromPassfile(cfg)
	maps.Copy(cfg.RuntimeParams, pinned())
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	return cfg, nil
}

// fromPassfile looks further hosts up in the passfile, where the driver looks for the first one only. It
// knows one password for all hosts, so the first one found is it.
func (s Source) fromPassfile(cfg *pgx.ConnConfig) {
	for _, f := range cfg.Fallbacks {
		if cfg.Password != "" {
			return
		}
		one := s.URL + fmt.Sprintf(" host='%s' port=%d", f.Host, f.Port) // of keywords the last one counts
		if u, err := url.Parse(s.URL); err == nil && u.Scheme != "" {
			q := u.Query()
			q.Set("host", f.Host)
			q.Set("port", strconv.Itoa(int(f.Port)))
			u.RawQuery = q.Encode()
			one = u.String()
		}
		if c, err := pgx.ParseConfig(one); err == nil {
			cfg.Password = c.Password
		}
	}
}

// unreadable says what is wrong with the address. The address itself, which may hold a password, is not
// in it, and neither is what a parser says of an address that it cannot take apart.
func unreadable(err error) error {
	e := fault.New(fault.Usage, "source.postgres.url is not a PostgreSQL address").At("source.postgres.url").
		ToMend("write it as postgres://user@host:5432/database")
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		e.What = "a file that source.postgres.url names cannot be read: " + file.Error()
		return e.ToMend("correct sslcert, sslkey, sslrootcert or servicefile there")
	}
	text := err.Error()
	if at := strings.LastIndex(text, "`: "); at >= 0 && !strings.Contains(text[at:], "failed to parse as") {
		e.What = "the address is not understood: " + text[at+len("`: "):]
		return e.ToMend("correct the parameter there")
	}
	return e
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
	pace(&cfg.Config)
	c, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	if err != nil {
		return nil, explain(err, cfg)
	}
	return c, nil
}

// explain says what a failed connection means, without the password.
func explain(err error, cfg *pgx.ConnConfig) error {
	where := fmt.Sprintf("source.postgres %s/%s as %s", hosts(cfg), cfg.Database, cfg.User)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && strings.Contains(pg.Message, "client certificate"):
		return fault.New(fault.Permission, "the server refuses the login: %s", pg.Message).At("%s", where).
			ToMend("add sslcert=FILE&sslkey=FILE to source.postgres.url, of a certificate that the server's authority has signed")
	case errors.As(err, &pg) && strings.Contains(pg.Message, "pg_hba.conf"):
		return fault.New(fault.Permission, "the server refuses the login: %s", pg.Message).At("%s", where).
			ToMend("add a line for this user, host and database to the server's pg_hba.conf; if it has one for hostssl, sslmode=require here")
	case errors.As(err, &pg) && (pg.Code == "28P01" || pg.Code == "28000"):
		return fault.New(fault.Permission, "the server refuses the login: %s", pg.Message).At("%s", where).
			ToMend("correct user and password in the file or environment variable that source.postgres.url names")
	case errors.As(err, &pg) && passing(pg.Code):
		return fault.New(fault.Unreachable, "the server does not take connections now: %s (%s)", pg.Message, pg.Code).At("%s", where)
	case errors.As(err, &pg):
		return fault.New(fault.Failed, "the server refuses the connection: %s (%s)", pg.Message, pg.Code).At("%s", where)
	}
	if e := explainTLS(err); e != nil {
		return e.At("%s", where)
	}
	for _, wrong := range []error{pgconn.ErrReadOnlyConnection, pgconn.ErrStandbyConnection, pgconn.ErrReadWriteConnection, pgconn.ErrPrimaryConnection} {
		if errors.Is(err, wrong) {
			return fault.New(fault.Unreachable, "no server of these is what target_session_attrs asks for: %s", wrong).At("%s", where).
				ToMend("wait until one is, or correct the hosts or target_session_attrs in source.postgres.url")
		}
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		if cfg.TLSConfig != nil && len(cfg.TLSConfig.Certificates) > 0 && (errors.Is(op, syscall.ECONNRESET) || errors.Is(op, syscall.EPIPE)) {
			// A refusal may be lost when the server closes at once; so may a server.
			return fault.Wrap(fault.Unreachable, op, "the server broke the connection off").At("%s", where).
				ToMend("look whether it runs; if it does, the server refuses our certificate: its authority (ssl_ca_file) must have signed that of sslcert in source.postgres.url")
		}
		return fault.Wrap(fault.Unreachable, op, "no PostgreSQL server answers").At("%s", where).
			ToMend("start it, or correct source.postgres.url")
	}
	return fault.Wrap(fault.Unreachable, err, "cannot connect").At("%s", where)
}

func explainTLS(err error) *fault.Error {
	if cert, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fault.New(fault.Permission, "the server's certificate is not trusted: %s", cert.Err).
			ToMend("name the certificate of the authority that signed it: sslrootcert=FILE in source.postgres.url; sslmode=verify-ca if its name may differ from the host's")
	}
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" {
		return fault.New(fault.Permission, "the server refuses our certificate: %s", alert.Err).
			ToMend("correct sslcert and sslkey in source.postgres.url: the server's authority (ssl_ca_file) must have signed it")
	}
	if strings.Contains(err.Error(), "server refused TLS connection") {
		return fault.New(fault.Failed, "the server speaks no TLS").
			ToMend("ALTER SYSTEM SET ssl = on with a certificate, or on a network that is trusted sslmode=disable in source.postgres.url")
	}
	return nil
}

// hosts gives every host that may be tried, once.
func hosts(cfg *pgx.ConnConfig) string {
	out := []string{fmt.Sprintf("%s:%d", cfg.Host, cfg.Port)}
	for _, f := range cfg.Fallbacks {
		if h := fmt.Sprintf("%s:%d", f.Host, f.Port); !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return strings.Join(out, ",")
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
		return Identity{}, broken(err, "identify system")
	}
	return Identity{r.SystemID, r.Timeline, r.DBName, position.LSN(r.XLogPos)}, nil
}
