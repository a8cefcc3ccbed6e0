package pgwire

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
)

// TestGoldenOfTheServer: a server sends what reads as the recorded stream does. UPDATE=1 records it again.
func TestGoldenOfTheServer(t *testing.T) {
	testkit.PostgresSince(t, 16, "debug_logical_replication_streaming")
	now, frames := record(t)
	if os.Getenv("UPDATE") != "" {
		write(t, "stream.bin", frames)
		write(t, "stream.txt", []byte(now))
	}
	if want := string(golden(t, "stream.txt")); now != want {
		t.Errorf("the server sends\n%s\nwant\n%s", now, want)
	}
}

// TestGolden: a stream recorded from a server is read as it was when a human looked at it.
func TestGolden(t *testing.T) {
	want := string(golden(t, "stream.txt"))
	r := newRenderer()
	var b strings.Builder
	replay(t, golden(t, "stream.bin"), func(m *Message) { b.WriteString(r.line(m) + "\n") })
	if got := settled(b.String()); got != want {
		t.Errorf("the recorded stream is read as\n%s\nwant\n%s", got, want)
	}
	for _, k := range []Kind{Begin, Commit, Relation, Type, Origin, Insert, Update, Delete, Truncate, Logical, StreamStart, StreamStop, StreamCommit, StreamAbort} {
		if !strings.Contains("\n"+want, "\n"+string(rune(k))) {
			t.Errorf("no message of kind %c was recorded", k)
		}
	}
}

// TestASlotWithTwoPhase sends other messages, and the error says that it is the slot.
func TestASlotWithTwoPhase(t *testing.T) {
	v := serve(t, map[string]string{"max_prepared_transactions": "5"}, "create table a (id int primary key)")
	v.s.Slot = "two_phase"
	v.exec("select pg_create_logical_replication_slot('two_phase', 'pgoutput', false, true)")
	if st, err := v.s.SlotState(t.Context(), v.conn); err != nil || !st.TwoPhase {
		t.Errorf("the slot is %+v, %v", st, err)
	}
	v.exec("begin; insert into a values (1); prepare transaction 'p'")
	v.exec("commit prepared 'p'")
	if testkit.PostgresVersion(t) < 15 { // pgoutput knows nothing of it
		rows := 0
		v.read(StartOptions{Streaming: true}, func(m *Message) {
			if m.Kind == Insert {
				rows++
			}
		})
		if rows != 1 {
			t.Errorf("%d rows came", rows)
		}
		return
	}
	st, err := v.s.Stream(t.Context(), 0, StartOptions{Streaming: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for err == nil {
		_, err = st.Next()
	}
	if !strings.Contains(err.Error(), "it was made with two_phase") || !strings.Contains(err.Error(), "--new-snapshot") {
		t.Error(err)
	}
}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("testdata", name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// record has a server write every kind of message, whole and in pieces, and gives them as text and as frames.
func record(t *testing.T) (text string, out []byte) {
	t.Helper()
	v := serve(t, map[string]string{"debug_logical_replication_streaming": "immediate"}, `
		create type mood as enum ('sad', 'ok'); create domain percent as numeric(5,2);
		create table plain (id int primary key, big text, n numeric(12,2)); alter table plain alter big set storage external;
		create table whole (id bigint, m mood, p percent, at timestamptz, gone int); alter table whole replica identity full;
		alter table whole drop gone;
		select pg_replication_origin_create('elsewhere')`)
	v.exec("insert into plain values (1, repeat('x', 2500), 1.5), (2, '', null)")
	v.exec("update plain set n = 2 where id = 1")
	v.exec("update plain set id = 3 where id = 1")
	v.exec("delete from plain where id = 2")
	v.exec("insert into whole values (1, 'sad', 99.5, '2026-01-02 03:04:05.6+00')")
	v.exec("update whole set m = 'ok'; delete from whole")
	v.exec("truncate plain, whole restart identity cascade; truncate whole")
	v.exec("select pg_logical_emit_message(true, 'now', 'in'), pg_logical_emit_message(false, 'now', 'at once')")
	v.exec(`begin; insert into plain values (4, 'four', 4); savepoint s; insert into plain values (5, 'five', 5);
		select pg_logical_emit_message(true, 'in a savepoint', ''); rollback to s;
		alter table plain add more int; insert into plain values (6, 'six', 6, 6); commit`)
	v.exec("begin; insert into plain values (7, 'seven', 7, 7); rollback")
	v.exec("select pg_replication_origin_session_setup('elsewhere'); insert into plain values (8, 'eight', 8, 8)")
	v.exec("select pg_replication_origin_session_reset()")
	var b strings.Builder
	r := newRenderer()
	for _, streaming := range []bool{false, true} {
		v.read(StartOptions{Streaming: streaming}, func(m *Message) {
			b.WriteString(r.line(m) + "\n")
			if got := encode(m); !bytes.Equal(got, m.Raw) {
				t.Errorf("%s: written again it is\n%x, read was\n%x", r.line(m), got, m.Raw)
			}
			out = append(append(out, 'd'), binary.BigEndian.AppendUint32(nil, uint32(4+25+len(m.Raw)))...)
			out = append(append(append(out, 'w'), make([]byte, 24)...), m.Raw...)
		})
	}
	return settled(b.String()), out
}

// settled leaves pieces out that nothing is in: how many there are is the server's affair.
func settled(s string) string {
	return regexp.MustCompile(`S x\d+ first false\nE\n`).ReplaceAllString(s, "")
}

// replay reads recorded frames as a stream.
func replay(t testing.TB, b []byte, fn func(*Message)) {
	t.Helper()
	s := &Stream{frames: newFrames(bytes.NewReader(b), 0)}
	for {
		m, err := s.Next()
		if err != nil {
			if fault.ClassOf(err) != fault.Unreachable || !strings.Contains(err.Error(), "closed the replication stream") {
				t.Fatal(err)
			}
			return
		}
		fn(m)
	}
}

// each gives the recorded messages, each with its Streamed.
func each(t testing.TB) (raw [][]byte, streamed []bool) {
	t.Helper()
	replay(t, golden(t, "stream.bin"), func(m *Message) {
		raw, streamed = append(raw, slices.Clone(m.Raw)), append(streamed, m.Streamed)
	})
	return raw, streamed
}

// TestEveryTruncationIsAnError: no message reads as one when a byte is missing or there is one more.
func TestEveryTruncationIsAnError(t *testing.T) {
	raw, streamed := each(t)
	var m Message
	for i, b := range raw {
		if err := m.Parse(b, streamed[i]); err != nil {
			t.Fatal(err)
		}
		for n := range b {
			if err := m.Parse(b[:n], streamed[i]); err == nil {
				t.Errorf("message %d (%c) reads without error when only %d of %d bytes are there", i, b[0], n, len(b))
			}
		}
		if err := m.Parse(append(slices.Clone(b), 0), streamed[i]); err == nil {
			t.Errorf("message %d (%c) reads without error with a byte more", i, b[0])
		}
	}
	for _, b := range [][]byte{nil, {'w'}, {'k', 1}, {'x'}, append([]byte{'w'}, make([]byte, 24)...), append([]byte{'w'}, append(make([]byte, 24), 'Z')...)} {
		if err := m.envelope(b, false); err == nil || fault.ClassOf(err) != fault.Failed {
			t.Errorf("%q reads as a message: %v", b, err)
		}
	}
	if err := m.envelope([]byte("k\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x01"), false); err != nil || m.LSN != 1<<32|2 || !m.Reply {
		t.Errorf("a keepalive reads as %+v, %v", m, err)
	}
}

// TestABinaryValueIsRefused: nobody asked for it, and to skip it would make it NULL.
func TestABinaryValueIsRefused(t *testing.T) {
	var m Message
	if err := m.Parse([]byte("I\x00\x00\x00\x01N\x00\x01t\x00\x00\x00\x01x"), false); err != nil {
		t.Fatal(err)
	}
	if err := m.Parse([]byte("I\x00\x00\x00\x01N\x00\x01b\x00\x00\x00\x01x"), false); err == nil {
		t.Error("it is taken")
	}
}

// FuzzParse: whatever comes, Parse does not panic, and what it takes is what it says, byte by byte.
func FuzzParse(f *testing.F) {
	raw, streamed := each(f)
	for i, b := range raw {
		f.Add(b, streamed[i])
	}
	f.Fuzz(func(t *testing.T, b []byte, streamed bool) {
		var m Message
		if m.Parse(b, streamed) != nil {
			return
		}
		if m.Shape != nil && m.Shape.Schema == "pg_catalog" || m.TypeOf != nil && m.TypeOf.Schema == "pg_catalog" {
			return // it may be written in two ways
		}
		if got := encode(&m); !bytes.Equal(got, b) {
			t.Errorf("%x was read, written again it is %x", b, got)
		}
	})
}

// dribble gives a stream in pieces of random size, as a socket does.
type dribble struct {
	b    []byte
	next func(int) int
}

func (d *dribble) Read(p []byte) (int, error) {
	if len(d.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), d.next(4000))], d.b)
	d.b = d.b[n:]
	return n, nil
}

// BenchmarkNext reads rows as a server sends them: six columns, replica identity full, 800 inserts and 200
// updates of each 1000.
func BenchmarkNext(b *testing.B) {
	tuple := func(tag byte, amount string) []byte {
		t := &Tuple{}
		for _, x := range []string{"123456", "account 1234", "2026-01-01 10:17:36+00", amount, "17636.571428571428", "a note of this event"} {
			t.Kinds, t.Texts = append(t.Kinds, Text), append(t.Texts, []byte(x))
		}
		m := &Message{Kind: Insert, New: t}
		return append([]byte{tag}, encode(m)[6:]...)
	}
	frame := func(parts ...[]byte) []byte {
		body := append(append([]byte{'w'}, make([]byte, 24)...), bytes.Join(parts, nil)...)
		return append(binary.BigEndian.AppendUint32([]byte{'d'}, uint32(4+len(body))), body...)
	}
	var all []byte
	for i := range 1000 {
		if i < 800 {
			all = append(all, frame([]byte("I\x00\x00\x40\x01"), tuple('N', "12.34"))...)
		} else {
			all = append(all, frame([]byte("U\x00\x00\x40\x01"), tuple('O', "12.34"), tuple('N', "13.34"))...)
		}
	}
	in := &again{b: all}
	s := &Stream{frames: newFrames(in, 0)}
	b.SetBytes(int64(len(all) / 1000))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

// again gives the same bytes for ever.
type again struct {
	b  []byte
	at int
}

func (a *again) Read(p []byte) (int, error) {
	n := copy(p, a.b[a.at:])
	a.at = (a.at + n) % len(a.b)
	return n, nil
}
