package delta

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// An index is a map: the same puts and removals, in clumps that grow and go, and every key is asked for, whether it is there
// or not.
func TestIndexIsAMap(t *testing.T) {
	s := seed(t)
	rng := rand.New(rand.NewPCG(s, 1))
	var x index
	model := map[string]*entity{}
	keys := make([][]byte, 300)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "%d", i)
		if i%3 == 0 { // longer than what lies in the entity, and the same up to there
			keys[i] = fmt.Appendf(nil, "the same beginning %d", i)
		}
	}
	for step := range 3_100 {
		k := keys[rng.IntN(1+step%len(keys))]
		switch e := model[string(k)]; {
		case e == nil:
			e = &entity{id: string(k), order: orderOf(k)}
			model[e.id] = e
			x.put(e)
		case rng.IntN(2) == 0:
			delete(model, e.id)
			x.remove(e)
		}
		if step%500 == 499 {
			x.clear()
			clear(model)
		}
		for _, k := range keys {
			want := model[string(k)]
			if got := x.get(k); got != want {
				t.Fatalf("SEED=%d, step %d: %q is %v, want %v", s, step, k, got, want)
			}
			if got := x.likely(x.hash(k)); got != want {
				t.Fatalf("SEED=%d, step %d: %q is likely %v, want %v", s, step, k, got, want)
			}
		}
	}
	if len(model) == 0 {
		t.Fatal("it was empty in the end")
	}
}
