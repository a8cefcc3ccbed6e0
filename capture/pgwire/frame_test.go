package pgwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
)

func framed(kind byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
}

// TestFramesComeAsTheyWereSent: messages of any length, around the buffer's length too, whatever pieces the
// socket gives them in; and the buffer does not stay long.
func TestFramesComeAsTheyWereSent(t *testing.T) {
	random := testkit.Seed(t)
	var all []byte
	var want [][]byte
	for range 300 {
		n := random.IntN(300)
		switch random.IntN(10) {
		case 0:
			n = frameBuffer - frameHead - 3 + random.IntN(6)
		case 1:
			n = random.IntN(3 * frameBuffer)
		}
		body := bytes.Repeat([]byte{byte(random.IntN(256))}, n)
		want = append(want, body)
		all = append(all, framed(byte('A'+len(want)%26), body)...)
	}
	f := newFrames(&dribble{b: all, next: func(n int) int { return 1 + random.IntN(n*50) }}, 0)
	for i, w := range want {
		kind, body, err := f.next()
		if err != nil || kind != byte('A'+(i+1)%26) || !bytes.Equal(body, w) {
			t.Fatalf("message %d of %d bytes comes as %q with %d bytes, %v", i, len(w), kind, len(body), err)
		}
		if len(f.buf) > frameBuffer+3*frameBuffer {
			t.Fatalf("the buffer has %d bytes", len(f.buf))
		}
	}
	if _, _, err := f.next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last message: %v", err)
	}
	if len(f.buf) != frameBuffer {
		t.Errorf("the buffer stays at %d bytes", len(f.buf))
	}
}

// TestAFrameThatIsCutOff is an error at each byte, and a bound holds before memory is taken.
func TestAFrameThatIsCutOff(t *testing.T) {
	whole := framed('d', []byte("body"))
	for n := 1; n < len(whole); n++ {
		if _, _, err := newFrames(bytes.NewReader(whole[:n]), 0).next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	if _, _, err := newFrames(strings.NewReader("d\x00\x00\x00\x03xxx"), 0).next(); fault.ClassOf(err) != fault.Failed || err == nil {
		t.Errorf("a length of 3: %v", err)
	}
	f := newFrames(strings.NewReader("d\x3f\xff\xff\xff"+strings.Repeat("x", 1000)), 0)
	if _, _, err := f.next(); !errors.Is(err, io.ErrUnexpectedEOF) || len(f.buf) > frameBuffer {
		t.Errorf("a length of 1 GiB and 1000 bytes: %v, the buffer has %d", err, len(f.buf))
	}
	f = newFrames(strings.NewReader("d\x00\x01\x00\x00"+strings.Repeat("x", 1000)), 1000)
	if _, _, err := f.next(); err == nil || !strings.Contains(err.Error(), "65532 bytes comes from the server, at most 1000 are taken") {
		t.Errorf("over the bound: %v", err)
	}
}

// TestWhatTheServerSaysAtTheEnd: errors with their code, the end of the stream, and what is no stream.
func TestWhatTheServerSaysAtTheEnd(t *testing.T) {
	for _, c := range []struct {
		name  string
		sent  []byte
		class fault.Class
		want  string
	}{
		{"error", framed('E', []byte("SERROR\x00CXX000\x00Mbroken\x00Dby a test\x00Hcome back\x00\x00")), fault.Failed, "broken; by a test; come back (XX000)"},
		{"error cut off", framed('E', []byte("SERROR\x00C57P01\x00Mterm")), fault.Unreachable, "(57P01)"},
		{"notice, status, end", append(append(framed('N', []byte("Mx\x00\x00")), framed('S', []byte("a\x00b\x00"))...), framed('c', nil)...), fault.Unreachable, "the server ended the replication stream"},
		{"shutdown", framed('C', []byte("COPY 0\x00")), fault.Unreachable, "the server ended the replication stream"},
		{"closed", nil, fault.Unreachable, "the server closed the replication stream"},
		{"cut off", []byte("d\x00\x00"), fault.Unreachable, "the replication stream broke: unexpected EOF"},
		{"a query's answer", framed('T', nil), fault.Failed, `message 'T' of the server is not of a replication stream`},
		{"a piece in a piece", append(framed('d', []byte("w"+strings.Repeat("\x00", 24)+"S\x00\x00\x00\x01\x01")), framed('d', []byte("w"+strings.Repeat("\x00", 24)+"S\x00\x00\x00\x02\x01"))...), fault.Failed, "a piece of transaction 2 begins inside another"},
		{"a piece that has not begun", framed('d', []byte("w"+strings.Repeat("\x00", 24)+"E")), fault.Failed, "ends that has not begun"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &Stream{frames: newFrames(bytes.NewReader(c.sent), 0)}
			var err error
			for err == nil {
				_, err = s.Next()
			}
			if fault.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.want) {
				t.Errorf("class %d: %v", fault.ClassOf(err), err)
			}
		})
	}
}
