package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
)

// redisServer is a Redis of our own, in memory only, with the served entities: a hash e<id> of fields
// f0, f1, … whose values are eight bytes.
type redisServer struct {
	address string
	version string
	cmd     *exec.Cmd
}

func (r *run) startRedis(ctx context.Context) (*redisServer, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot find a port")
	}
	s := &redisServer{address: l.Addr().String()}
	l.Close() //nolint:errcheck // it was only to find a port
	_, port, _ := strings.Cut(s.address, ":")
	s.cmd = exec.CommandContext(ctx, "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", r.dir)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot start redis-server")
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot start redis-server")
	}
	// It says its version, then that it is ready, and little after that.
	said, ready := bufio.NewScanner(out), false
	for !ready && said.Scan() {
		if _, v, ok := strings.Cut(said.Text(), "Redis version="); ok {
			s.version, _, _ = strings.Cut(v, ",")
		}
		ready = strings.Contains(said.Text(), "Ready to accept connections")
	}
	if !ready {
		s.close()
		return nil, fault.New(fault.Failed, "redis-server did not start: %s", said.Text())
	}
	if err := s.load(r.entities); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *redisServer) close() {
	s.cmd.Process.Signal(os.Interrupt) //nolint:errcheck // it may have ended by itself
	s.cmd.Wait()                       //nolint:errcheck // nothing of it is read again
}

// cpu gives the CPU-seconds of the server so far; 0 if it does not tell.
func (s *redisServer) cpu() float64 {
	c, err := s.caller()
	if err != nil {
		return 0
	}
	defer c.close()
	c.command(2)
	c.bulk("INFO")
	c.bulk("cpu")
	if err := c.w.Flush(); err != nil {
		return 0
	}
	n, err := c.header('$')
	if err != nil {
		return 0
	}
	text := make([]byte, max(n, 0))
	if _, err := io.ReadFull(c.r, text); err != nil {
		return 0
	}
	sum := 0.0
	for line := range strings.FieldsSeq(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if v, err := strconv.ParseFloat(value, 64); err == nil && (name == "used_cpu_user" || name == "used_cpu_sys") {
			sum += v
		}
	}
	return sum
}

// load puts the entities in, in pipelines.
func (s *redisServer) load(entities int) error {
	c, err := s.caller()
	if err != nil {
		return err
	}
	defer c.close()
	for from := 0; from < entities; from += many {
		to := min(from+many, entities)
		for id := int64(from); id < int64(to); id++ {
			c.command(2 + 2*features)
			c.bulk("HSET")
			c.bulk("e" + strconv.FormatInt(id, 10))
			for i, v := range servedValues(id) {
				c.bulk(c.fields[i])
				c.bulk(string(binary.LittleEndian.AppendUint64(nil, math.Float64bits(v))))
			}
		}
		if err := c.w.Flush(); err != nil {
			return fault.Wrap(fault.Failed, err, "redis")
		}
		for range to - from {
			n, err := c.header(':')
			if err != nil {
				return err
			}
			if n != features {
				return fault.New(fault.Failed, "redis: HSET has set %d fields of %d", n, features)
			}
		}
	}
	return nil
}

// redisCaller speaks the server's protocol (RESP 2).
type redisCaller struct {
	conn   net.Conn
	r      *bufio.Reader
	w      *bufio.Writer
	fields [features]string
	values [features][]byte // of the last answer
}

func (s *redisServer) caller() (*redisCaller, error) {
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", s.address)
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot call redis")
	}
	c := &redisCaller{conn: conn, r: bufio.NewReaderSize(conn, 64<<10), w: bufio.NewWriterSize(conn, 64<<10)}
	for i := range c.fields {
		c.fields[i] = fmt.Sprintf("f%d", i)
	}
	return c, nil
}

func (c *redisCaller) close() {
	c.conn.Close() //nolint:errcheck // nothing depends on a clean goodbye
}

// ask sends an HMGET of all features for each key before the first answer is read.
func (c *redisCaller) ask(keys []int64) error {
	for _, k := range keys {
		c.command(2 + features)
		c.bulk("HMGET")
		c.bulk("e" + strconv.FormatInt(k, 10))
		for _, f := range c.fields {
			c.bulk(f)
		}
	}
	if err := c.w.Flush(); err != nil {
		return fault.Wrap(fault.Failed, err, "redis")
	}
	for _, k := range keys {
		if err := c.answer(); err != nil {
			return err
		}
		if got := math.Float64frombits(binary.LittleEndian.Uint64(c.values[0])); got != float64(k) {
			return fault.New(fault.Failed, "redis: entity %d is answered with %v", k, got)
		}
	}
	return nil
}

// answer reads one array of values of eight bytes.
func (c *redisCaller) answer() error {
	n, err := c.header('*')
	if err != nil {
		return err
	}
	if n != features {
		return fault.New(fault.Failed, "redis: %d values came for %d fields", n, features)
	}
	for i := range c.values {
		n, err := c.header('$')
		if err != nil {
			return err
		}
		if n != 8 {
			return fault.New(fault.Failed, "redis: a value has %d bytes", n)
		}
		value := make([]byte, n+2) // as any client gives it to its caller
		if _, err := io.ReadFull(c.r, value); err != nil {
			return fault.Wrap(fault.Failed, err, "redis")
		}
		c.values[i] = value[:n]
	}
	return nil
}

// header reads a line of a kind and gives its number.
func (c *redisCaller) header(kind byte) (int, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, fault.Wrap(fault.Failed, err, "redis")
	}
	if line[0] != kind || len(line) < 4 {
		return 0, fault.New(fault.Failed, "redis answers %q", line)
	}
	n := 0
	for _, d := range line[1 : len(line)-2] {
		if d == '-' { // there is no such value
			return -1, nil
		}
		n = 10*n + int(d-'0')
	}
	return n, nil
}

// command begins a command of so many words; what cannot be written shows at the flush.
func (c *redisCaller) command(words int) { c.number('*', words) }

func (c *redisCaller) bulk(s string) {
	c.number('$', len(s))
	c.w.WriteString(s)      //nolint:errcheck // shows at the flush
	c.w.WriteString("\r\n") //nolint:errcheck // shows at the flush
}

func (c *redisCaller) number(kind byte, n int) {
	b := append(c.w.AvailableBuffer(), kind)
	b = strconv.AppendInt(b, int64(n), 10)
	c.w.Write(append(b, '\r', '\n')) //nolint:errcheck // shows at the flush
}
