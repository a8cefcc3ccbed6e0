package initial

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
)

func TestASnapshotSees(t *testing.T) {
	for text, want := range map[string]map[uint32]bool{
		"10:20:10,15": {9: true, 10: false, 11: true, 15: false, 19: true, 20: false, 21: false},
		"20:20:":      {19: true, 20: false},
		"4294967290:4294967300:4294967290,4294967297": { // the stream's ids have begun anew
			4294967289: true, 4294967290: false, 4294967295: true, 0: true, 1: false, 2: true, 4: false,
		},
		"30064771072:30064771072:": {4294967295: true, 0: false, 2147483648: true, 2147483647: false},
	} {
		s, err := ParseSnapshot(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		for xid, seen := range want {
			if s.Sees(xid) != seen {
				t.Errorf("%s and %d: %t", text, xid, !seen)
			}
		}
	}
	for _, text := range []string{"", "1:2", "1:2:3:4", "2:1:", "a:2:", "1:b:", "1:5:7", "3:5:2", "1:5:3,3", "1:5:3,", "1:5:4,3", "-1:5:", "1:5:,"} {
		if s, err := ParseSnapshot(text); err == nil {
			t.Errorf("%q was taken for %v", text, s)
		}
	}
}

func TestWhatAStandbyDoesNotListIsNotSeen(t *testing.T) {
	s := Snapshot{Min: 10, Max: 20, Standby: true}
	for xid, seen := range map[uint32]bool{9: true, 10: false, 15: false, 20: false} {
		if s.Sees(xid) != seen {
			t.Errorf("%d: %t", xid, !seen)
		}
	}
}

// A snapshot covers another if it sees all that the other sees, here over all ids there are. The end
// never goes back: one that ends earlier was taken earlier.
func TestASnapshotCoversAnEarlierOne(t *testing.T) {
	random := testkit.Seed(t)
	draw := func() Snapshot {
		s := Snapshot{Min: 5 + random.Uint64N(5)}
		s.Max = s.Min + random.Uint64N(5)
		for x := s.Min; x < s.Max; x++ {
			if x == s.Min || random.IntN(2) == 0 {
				s.Running = append(s.Running, x)
			}
		}
		return s
	}
	both := map[bool]int{}
	for range 20_000 {
		a, b := draw(), draw()
		want := b.Max >= a.Max
		for x := range uint64(20) {
			want = want && (!a.sees(x) || b.sees(x))
		}
		both[want]++
		if b.covers(a) != want {
			t.Fatalf("%v covers %v: %t", b, a, !want)
		}
	}
	if both[true] < 100 || both[false] < 100 {
		t.Fatal(both)
	}
}

func FuzzSnapshot(f *testing.F) {
	f.Add("10:20:10,15")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSnapshot(text)
		if err != nil {
			return
		}
		out := fmt.Sprintf("%d:%d:", s.Min, s.Max)
		for i, x := range s.Running {
			out += map[bool]string{true: ","}[i > 0] + fmt.Sprint(x)
		}
		if again, err := ParseSnapshot(out); err != nil || !reflect.DeepEqual(s, again) {
			t.Fatalf("%q and %q: %v", text, out, err)
		}
	})
}
