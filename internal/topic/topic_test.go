package topic

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/internal/testkit"
)

func dial(t *testing.T) *Client {
	t.Helper()
	c, err := Dial(t.Context(), Config{Brokers: testkit.Kafka(t), Prefix: testkit.Prefix(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func write(t *testing.T, w *Writer, commit bool, recs ...Record) {
	t.Helper()
	if err := w.Begin(); err != nil {
		t.Fatal(err)
	}
	for _, r := range recs {
		w.Put(t.Context(), r)
	}
	if commit {
		if err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	} else if err := w.kafka.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestTailsSkipMarkersAndWhatWasAborted(t *testing.T) {
	c := dial(t)
	x, id := c.cfg.Prefix+".x", c.cfg.Prefix+".w"
	if err := c.Ensure(t.Context(), []Spec{{Topic: x, Partitions: 3}}); err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		write(t, w, true, Record{Topic: x, Partition: 1, Value: []byte{byte(i)}, Position: "1:0/1:1"})
	}
	write(t, w, false, Record{Topic: x, Partition: 1, Value: []byte("open")}, Record{Topic: x, Partition: 2, Value: []byte("open")})
	w2, err := c.NewWriter(t.Context(), id) // aborts what w left open
	if err != nil {
		t.Fatal(err)
	}
	defer w2.Close()
	tails, err := c.Tails(t.Context(), x)
	if err != nil {
		t.Fatal(err)
	}
	if len(tails) != 1 || tails[1] == nil || tails[1].Value[0] != 19 || tails[1].Position != "1:0/1:1" {
		t.Fatalf("tails = %+v", tails)
	}
	err = w.Begin()
	if err == nil {
		w.Put(t.Context(), Record{Topic: x, Value: []byte("zombie")})
		err = w.Commit(t.Context())
	}
	if err == nil {
		t.Fatal("a fenced writer committed")
	}
	w.Close()
}

// Capture and node make the same topics at the same time, and use them at once.
func TestTopicsMadeByTwoAtOnceAreThere(t *testing.T) {
	c := dial(t)
	for round := range 10 {
		spec := Spec{Topic: fmt.Sprintf("%s.x%d", c.cfg.Prefix, round), Partitions: 4}
		var g errgroup.Group
		for range 3 {
			g.Go(func() error {
				if err := c.Ensure(t.Context(), []Spec{spec}); err != nil {
					return err
				}
				ends, err := c.Ends(t.Context(), spec.Topic)
				if err == nil && len(ends) != spec.Partitions {
					err = fmt.Errorf("the ends of %d partitions", len(ends))
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	spec := Spec{Topic: c.cfg.Prefix + ".x0", Partitions: 8}
	if err := c.Ensure(t.Context(), []Spec{spec}); err == nil || !strings.Contains(err.Error(), "has 4 partitions") {
		t.Errorf("another number of partitions: %v", err)
	}
}

func TestRegistryIDsAreOffsetsOfFirstAppearance(t *testing.T) {
	c := dial(t)
	a, err := OpenRegistry(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Put(t.Context(), "cut/1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	id, err := a.SchemaID(t.Context(), "s", `"long"`)
	if err != nil || id != 1 {
		t.Fatalf("id %d, %v", id, err)
	}
	b, err := OpenRegistry(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if id2, err := b.SchemaID(t.Context(), "s", `"long"`); err != nil || id2 != id {
		t.Fatalf("id %d, %v", id2, err)
	}
	id3, err := b.SchemaID(t.Context(), "s", `"string"`)
	if err != nil {
		t.Fatal(err)
	}
	if _, schema, err := a.Schema(t.Context(), id3); err != nil || schema != `"string"` {
		t.Fatalf("schema %q, %v", schema, err)
	}
	if v := a.Versions("s"); len(v) != 2 || v[0] != id || v[1] != id3 {
		t.Fatalf("versions %v", v)
	}
	if _, _, err := a.Schema(t.Context(), 99); err == nil {
		t.Fatal("an unknown id was found")
	}
}

func TestDialSaysWhereNoKafkaIs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Dial(ctx, Config{Brokers: []string{"127.0.0.1:1"}})
	if err == nil || errors.Is(err, ErrFenced) {
		t.Fatal(err)
	}
}
