package pgwire

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// pair gives two ends of a TCP connection, the first one paced.
func pair(t *testing.T) (ours net.Conn, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // one connection is enough
	cfg := &pgconn.Config{DialFunc: (&net.Dialer{}).DialContext}
	pace(cfg)
	ours, err = cfg.DialFunc(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	begin(ours)
	return ours, theirs
}

// TestPacedReadsGiveEverything: a flood of small writes comes as it was sent, in large pieces, whatever is asked
// for at a time; a byte alone comes at once after it; and so does the end.
func TestPacedReadsGiveEverything(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux paces")
	}
	for _, ask := range []int{517, paceBuffer, frameBuffer} {
		ours, theirs := pair(t)
		sent := make([]byte, 24<<20)
		if _, err := rand.Read(sent); err != nil {
			t.Fatal(err)
		}
		go func() {
			for at := 0; at < len(sent); at += 512 {
				if _, err := theirs.Write(sent[at : at+512]); err != nil {
					return
				}
			}
		}()
		var got []byte
		flooded, b := false, make([]byte, ask)
		for len(got) < len(sent) {
			n, err := ours.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, b[:n]...)
			flooded = flooded || ours.(*paced).set == paceBytes
		}
		if !bytes.Equal(got, sent) {
			t.Fatal("other bytes came than were sent")
		}
		if !flooded {
			t.Error("it was never read in large pieces")
		}
		for range 3 { // nothing more comes: the next byte may not wait for others
			time.AfterFunc(paceWithin, func() { _, _ = theirs.Write([]byte{7}) }) // the reader has waited in vain by then
			if n, err := ours.Read(b); n != 1 || err != nil || b[0] != 7 {
				t.Fatalf("%d bytes, %v", n, err)
			}
		}
		if p := ours.(*paced); p.flood || p.set != 1 {
			t.Error("a byte by itself is still waited for")
		}
		_ = theirs.Close()
		if _, err := ours.Read(b); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	}
}
