package delta

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// A block keeps its bytes, gives what is asked of it, and is refused at any length but its own.
func TestOutboxBlockGoldenAndTruncation(t *testing.T) {
	store, err := state.Open(t.TempDir(), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	var o outbox
	b := store.Blind(0, 0)
	into := func() *state.Batch { return b }
	for i, avro := range []string{"one", "two", ""} {
		if err := o.put(into, "v", uint64(7+i), []byte(avro)); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmpErr(o.end(into), b.Apply()); err != nil {
		t.Fatal(err)
	}
	got, err := store.Get(sequenceKey("v", 9))
	if err != nil || hex.EncodeToString(got) != "0103036f6e650374776f00" {
		t.Fatalf("block %x, %v", got, err)
	}
	seen := ""
	err = eachInBlock(9, got, 7, 8, func(sequence uint64, avro []byte) error {
		seen += string(avro) + string(rune('0'+sequence))
		return nil
	})
	if err != nil || seen != "two8" {
		t.Errorf("%q, %v", seen, err)
	}
	none := func(uint64, []byte) error { return nil }
	for n := range got {
		if eachInBlock(9, got[:n], 0, 9, none) == nil {
			t.Errorf("%d of %d bytes were accepted", n, len(got))
		}
	}
	for _, bad := range [][]byte{append(bytes.Clone(got), 0), append([]byte{2}, got[1:]...), {1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}} {
		if eachInBlock(9, bad, 0, 9, none) == nil {
			t.Errorf("%x was accepted", bad)
		}
	}
}

// A served row keeps its bytes, and what follows it is the lifetime tile.
func TestServedRowGoldenAndTruncation(t *testing.T) {
	s := Served{
		Status: Present, Version: 3, Position: position.Position{Epoch: 1, LSN: 2, Seq: 3}, CommitTime: 4, LogTime: 5,
		EventTime: feature.OfMicros(6), Values: []feature.Value{feature.OfInt(7), {}}, wake: 8, wakeFor: 3,
	}
	b := s.encode(nil, true)
	const golden = "03810000000000000003" + "0000000100000000000000020000000300000000" + "0000000000000004" + "0000000000000005" +
		"080000000000000006" + "0000000000000008" + "03" + "020000000000000007" + "00"
	if hex.EncodeToString(b) != golden {
		t.Errorf("bytes %x", b)
	}
	var got Served
	life, err := got.decode(append(bytes.Clone(b), 9, 9), 2)
	if err != nil || got.Version != 3 || got.Status != Present || got.wake != 8 || got.Values[0].I != 7 || !bytes.Equal(life, []byte{9, 9}) {
		t.Errorf("%+v, %x, %v", got, life, err)
	}
	for n := 1; n < len(b); n++ {
		if _, err := got.decode(b[:n], 2); err == nil {
			t.Errorf("%d of %d bytes were accepted", n, len(b))
		}
	}
	b[0] = 1
	if _, err := got.decode(b, 2); err == nil {
		t.Error("version 1 was accepted")
	}
}

// What is handed over keeps its bytes until it is published, whatever memory is used again meanwhile: two views in turn,
// records of many sizes, publishing in steps, and a memory that is full at times.
func TestHandedRecordsKeepTheirBytes(t *testing.T) {
	s := seed(t)
	rng := rand.New(rand.NewPCG(s, 2))
	views := []string{"a", "b"}
	sequences, published := map[string]uint64{}, map[string]uint64{}
	text := func(view string, sequence uint64) []byte {
		return bytes.Repeat(fmt.Appendf(nil, "%s%d.", view, sequence), int(1+sequence%97))
	}
	p := &Partition{o: PartitionOptions{Memory: NewMemory(8 << 20)}}
	p.hand.on = true
	var o outbox
	again := 0
	for step := range 2_000 {
		view := views[rng.IntN(2)]
		for range rng.IntN(40) {
			sequences[view]++
			avro := text(view, sequences[view])
			if step%100 == 99 {
				avro = bytes.Repeat(avro, 1+blockBytes/len(avro)) // larger than a chunk
			}
			before := len(o.free)
			o.hand(view, sequences[view], nil, "", avro)
			again += before - len(o.free)
		}
		p.hand.add(&o, p.o.Memory)
		if step%400 == 399 {
			p.hand.drop(p.o.Memory)
			published = maps.Clone(sequences)
		}
		for _, view := range views {
			records := p.take(view, published[view])
			for i := range records[:rng.IntN(len(records)+1)] {
				r := &records[i]
				if published[view]++; r.sequence != published[view] {
					t.Fatalf("SEED=%d, step %d: %s has %d, want %d", s, step, view, r.sequence, published[view])
				}
				if want := text(view, r.sequence); !bytes.HasPrefix(r.framed[frameSize:], want) {
					t.Fatalf("SEED=%d, step %d: %s %d is %.40q, want %.40q", s, step, view, r.sequence, r.framed[frameSize:], want)
				}
			}
			p.taken(view, published[view])
		}
	}
	if again < 100 {
		t.Errorf("memory was used again %d times only", again)
	}
}
