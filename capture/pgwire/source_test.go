package pgwire

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
)

// authority signs certificates and writes them to files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir}
	a.cert, a.key = a.issue(name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue writes NAME.crt and NAME.key.
func (a *authority) issue(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	must := func(err error) {
		if err != nil {
			a.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.Subject = pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	must(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	must(os.WriteFile(a.file(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	must(os.WriteFile(a.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	out, err := x509.ParseCertificate(der)
	must(err)
	return out, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// guarded starts a server with TLS where the role "certified" needs a certificate of the authority with
// its name, and its password by SCRAM.
func guarded(t *testing.T) (a *authority, port int) {
	t.Helper()
	a = newAuthority(t, testkit.Dir(t), "authority")
	a.issue("server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	a.issue("certified", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if os.Getuid() == 0 { // the server is nobody then, and its key must be its own
		if err := os.Chown(a.file("server.key"), 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	hba := "hostssl all certified 127.0.0.1/32 scram-sha-256 clientcert=verify-full\nhost all freshet 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(a.file("hba.conf"), []byte(hba), 0o644); err != nil {
		t.Fatal(err)
	}
	p := testkit.PostgresWith(t, map[string]string{
		"wal_level": "logical", "ssl": "on", "ssl_cert_file": a.file("server.crt"), "ssl_key_file": a.file("server.key"),
		"ssl_ca_file": a.file("authority.crt"), "hba_file": a.file("hba.conf"),
	})
	c, err := pgx.Connect(t.Context(), p.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing depends on a clean goodbye
	if _, err := c.Exec(t.Context(), "create role certified login superuser password 'mellon'"); err != nil {
		t.Fatal(err)
	}
	return a, p.Port()
}

// closedPort gives a port where nobody listens.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // only its number is wanted
	return l.Addr().(*net.TCPAddr).Port
}

// TestSecuredSource: TLS with certificates on both sides, a SCRAM password from a passfile, and two hosts of
// which one refuses, all from the address; and what each mistake is answered with.
func TestSecuredSource(t *testing.T) {
	a, port := guarded(t)
	shut := closedPort(t)
	if err := os.WriteFile(a.file("pass"), fmt.Appendf(nil, "127.0.0.1:%d:freshet:certified:mellon\n", port), 0o600); err != nil {
		t.Fatal(err)
	}
	stranger := newAuthority(t, testkit.Dir(t), "authority")
	stranger.issue("certified", &x509.Certificate{})
	tlsArgs := fmt.Sprintf("sslmode=verify-full&sslrootcert=%s&sslcert=%s&sslkey=%s", a.file("authority.crt"), a.file("certified.crt"), a.file("certified.key"))
	good := fmt.Sprintf("postgres://certified@127.0.0.1:%d,127.0.0.1:%d/freshet?target_session_attrs=read-write&passfile=%s&%s", shut, port, a.file("pass"), tlsArgs)
	t.Run("streams", func(t *testing.T) {
		v := serveURL(t, good, "create table a (id int primary key, x text)")
		v.exec("insert into a select i, repeat('x', 1000) from generate_series(1, 2000) i")
		rows := 0
		v.read(StartOptions{Streaming: true}, func(m *Message) {
			if m.Kind == Insert {
				rows++
			}
		})
		if rows != 2000 {
			t.Errorf("%d rows came", rows)
		}
		st, err := v.s.Stream(t.Context(), 0, StartOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		if _, ok := st.conn.(*tls.Conn); !ok {
			t.Errorf("the stream goes over a %T", st.conn)
		}
		var issuer string
		if err := v.conn.QueryRow(t.Context(), "select client_dn from pg_stat_ssl where pid = pg_backend_pid()").Scan(&issuer); err != nil || issuer != "/CN=certified" {
			t.Errorf("the server knows us as %q, %v", issuer, err)
		}
	})
	at := func(user, rest string) string {
		return fmt.Sprintf("postgres://%s@127.0.0.1:%d/freshet?%s", user, port, rest)
	}
	plain := noTLS(t)
	for name, c := range map[string]struct {
		url   string
		class fault.Class
		want  []string
	}{
		"another authority":     {at("certified:mellon", strings.Replace(tlsArgs, a.file("authority.crt"), stranger.file("authority.crt"), 1)), fault.Permission, []string{"the server's certificate is not trusted", "sslrootcert=FILE"}},
		"no client certificate": {at("certified:mellon", "sslmode=verify-full&sslrootcert="+a.file("authority.crt")), fault.Permission, []string{"client certificate", "sslcert=FILE"}},
		"a stranger's certificate": {
			at("certified:mellon", fmt.Sprintf("sslmode=verify-full&sslrootcert=%s&sslcert=%s&sslkey=%s", a.file("authority.crt"), stranger.file("certified.crt"), stranger.file("certified.key"))),
			fault.Permission, []string{"the server refuses our certificate", "ssl_ca_file"},
		},
		"no TLS where it must be":   {at("certified:mellon", "sslmode=disable"), fault.Permission, []string{"pg_hba.conf", "sslmode=require"}},
		"a wrong password":          {at("certified:mellon2", tlsArgs), fault.Permission, []string{"password authentication failed", "correct user and password"}},
		"a file that is absent":     {at("certified:mellon", "sslmode=verify-full&sslrootcert="+a.file("absent.crt")), fault.Usage, []string{"absent.crt: no such file", "correct sslcert"}},
		"two hosts that refuse":     {fmt.Sprintf("postgres://certified:mellon@127.0.0.1:%d,localhost:%d/freshet", shut, shut), fault.Unreachable, []string{fmt.Sprintf("127.0.0.1:%d,localhost:%d", shut, shut), "start it"}},
		"no standby":                {at("certified:mellon", "target_session_attrs=standby&"+tlsArgs), fault.Unreachable, []string{"what target_session_attrs asks for"}},
		"an attribute that is none": {at("certified:mellon", "target_session_attrs=mellow"), fault.Usage, []string{"target_session_attrs", "correct the parameter"}},
		"a server without TLS":      {fmt.Sprintf("postgres://certified:mellon@%s/freshet?sslmode=require", plain), fault.Failed, []string{"speaks no TLS", "ssl = on"}},
		"no address":                {"postgres://certified:mellon@[127.0.0.1/freshet", fault.Usage, []string{"is not a PostgreSQL address"}},
		"a password in the port":    {"postgres://certified:mel:lon@x:mellon/freshet", fault.Usage, []string{"not understood: invalid port"}},
	} {
		t.Run(name, func(t *testing.T) {
			for what, connect := range map[string]func(Source) error{
				"a connection": func(s Source) error {
					_, err := s.Connect(t.Context())
					return err
				},
				"a stream": func(s Source) error {
					_, err := s.Stream(t.Context(), 0, StartOptions{})
					return err
				},
			} {
				err := connect(Source{URL: c.url, Slot: "s", Publication: "p"})
				// The server's refusal may get lost, as it closes at once.
				lost := err != nil && strings.Contains(err.Error(), "broke the connection off") && slices.Contains(c.want, "ssl_ca_file")
				if err == nil || fault.ClassOf(err) != c.class && !lost {
					t.Errorf("%s: class %d: %v", what, fault.ClassOf(err), err)
					continue
				}
				for _, want := range c.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %v: there is no %q", what, err, want)
					}
				}
				if strings.Contains(err.Error(), "mellon") {
					t.Errorf("%s: the password is told: %v", what, err)
				}
			}
		})
	}
}

// noTLS answers every request for TLS with no, as a server without it does.
func noTLS(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := io.ReadFull(c, make([]byte, 8)); err == nil {
				_, _ = c.Write([]byte{'N'})
			}
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}

// relay passes what comes on a listener on to a server.
func relay(t *testing.T, l net.Listener, to string) {
	t.Helper()
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				_ = c.Close()
				return
			}
			for _, way := range [][2]net.Conn{{c, s}, {s, c}} {
				go func() {
					_, _ = io.Copy(way[0], way[1])
					_, _ = c.Close(), s.Close()
				}()
			}
		}
	}()
}

// TestStreamOverAUnixSocket: the address may name a directory of sockets.
func TestStreamOverAUnixSocket(t *testing.T) {
	p := testkit.PostgresWith(t, map[string]string{"wal_level": "logical"})
	dir := testkit.Dir(t)
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	relay(t, l, fmt.Sprintf("127.0.0.1:%d", p.Port()))
	v := serveURL(t, "postgres://freshet:freshet@/freshet?host="+dir+"&port=5432&sslmode=disable", "create table a (id int primary key)")
	v.exec("insert into a values (1)")
	rows := 0
	v.read(StartOptions{}, func(m *Message) {
		if m.Kind == Insert {
			rows++
		}
	})
	if rows != 1 {
		t.Errorf("%d rows came", rows)
	}
}

// slowly is a connection whose writes seem to take long, as on a busy machine: pgconn reads in the background then.
type slowly struct{ net.Conn }

func (c slowly) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	<-time.After(50 * time.Millisecond) //nolint:forbidigo // longer than pgconn's patience
	return n, err
}

// TestAStreamHasItsConnectionAlone: nobody else reads what it begins with.
func TestAStreamHasItsConnectionAlone(t *testing.T) {
	v := serve(t, nil, "create table a (id int primary key)")
	cfg, err := v.s.config()
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["replication"] = "database"
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		return slowly{c}, err
	}
	c, err := pgconn.ConnectConfig(t.Context(), &cfg.Config)
	if err != nil {
		t.Fatal(err)
	}
	st, err := v.s.streamOn(t.Context(), c, 0, StartOptions{Streaming: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	v.exec("insert into a values (1)")
	for rows := 0; rows == 0; {
		m, err := st.Next()
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == Insert {
			rows++
		}
	}
}

// TestConfirmIsNotBlockedForEver: a server that takes nothing any more ends the stream, after a time or when
// its context ends, with Confirm waiting in the socket and Next beside it.
func TestConfirmIsNotBlockedForEver(t *testing.T) {
	for name, takes := range map[string]time.Duration{"context": time.Hour, "time": time.Millisecond} {
		ours, theirs := net.Pipe() // takes nothing that is not read
		s := &Stream{conn: ours, frames: newFrames(ours, 0), now: time.Now, takes: takes}
		ctx, cancel := context.WithCancel(t.Context())
		s.stop = context.AfterFunc(ctx, func() { _ = ours.Close() })
		ended := make(chan error, 2)
		go func() { ended <- s.Confirm(1, false) }()
		go func() {
			_, err := s.Next()
			ended <- err
		}()
		if name == "context" {
			cancel()
		}
		for range 2 {
			if err := <-ended; fault.ClassOf(err) != fault.Unreachable || err == nil {
				t.Errorf("%s: it ended with %v", name, err)
			}
		}
		cancel()
		_ = theirs.Close()
	}
}
