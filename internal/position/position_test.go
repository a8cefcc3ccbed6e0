package position

import (
	"bytes"
	"encoding/hex"
	"testing"

	"pgregory.net/rapid"
)

func draw(t *rapid.T, name string) Position {
	p := Position{
		Epoch: rapid.Uint32().Draw(t, name+".epoch"),
		LSN:   LSN(rapid.Uint64().Draw(t, name+".lsn")),
		Seq:   rapid.Uint32Range(0, Max-1).Draw(t, name+".seq"),
	}
	if rapid.Bool().Draw(t, name+".control") {
		return p.Control(rapid.Uint32().Draw(t, name+".ordinal"))
	}
	return p
}

func TestTextAndBytesRoundTripAndKeepOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, q := draw(t, "p"), draw(t, "q")
		if back, err := Parse(p.String()); err != nil || back != p {
			t.Fatalf("Parse(%q) = %v, %v", p.String(), back, err)
		}
		if back, err := ParseText([]byte(p.String())); err != nil || back != p {
			t.Fatalf("ParseText(%q) = %v, %v", p.String(), back, err)
		}
		pb, qb := p.Append(nil), q.Append(nil)
		if back, err := Decode(pb); err != nil || back != p {
			t.Fatalf("Decode = %v, %v; want %v", back, err, p)
		}
		if got, want := bytes.Compare(pb, qb), p.Compare(q); got != want {
			t.Fatalf("bytes of %v and %v compare %d, positions %d", p, q, got, want)
		}
	})
}

func TestGolden(t *testing.T) {
	p := Position{Epoch: 1, LSN: 0x16B3748, Seq: 2}
	if got := p.String(); got != "1:0/16B3748:2" {
		t.Errorf("String = %q", got)
	}
	if got := hex.EncodeToString(p.Append(nil)); got != "0000000100000000016b37480000000200000000" {
		t.Errorf("bytes = %s", got)
	}
	if got := p.Control(3).String(); got != "1:0/16B3748:c3" {
		t.Errorf("control = %q", got)
	}
	for n := range Size {
		if _, err := Decode(p.Append(nil)[:n]); err == nil {
			t.Errorf("%d bytes were accepted", n)
		}
	}
}

func TestRefusesWhatIsNoPosition(t *testing.T) {
	for _, s := range []string{"", "1", "1:0/1", "1:01:2", "x:0/1:2", "1:0/1:y", "1:0/1:-1", "1:0/1:4294967295", "1:0/G:1"} {
		if p, err := ParseText([]byte(s)); err == nil {
			t.Errorf("ParseText(%q) = %v", s, p)
		}
		if p, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %v", s, p)
		}
	}
}
