package delta

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// pausesCatalog has a view of two sessions, of which one has its gap as long as the hop of a window is.
func pausesCatalog(t *testing.T) *feature.Catalog {
	t.Helper()
	hour := feature.Duration(time.Hour)
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "plane", Key: feature.GroupKey{Name: "plane", Type: "string"}, Partitions: 1}},
		Views: []feature.FeatureView{{
			Name: "pauses", Group: "plane", Entity: []string{"plane"}, Source: "public.trips", Key: map[string]string{"plane": "plane"}, EventTime: "at",
			Features: []feature.FeatureDef{
				{Name: "n", Agg: "count", Session: []feature.Duration{hour / 2, hour}, Windows: []feature.Duration{24 * hour}},
			},
		}},
	}, []*feature.Table{trips()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Tiles lie where testdata/tiles.txt says, and it says of what each is: the gap of a session, negative, or a hop; and
// the start. A state of another layout would give an entity too many or too few of them without a word.
func TestKeysOfTilesGolden(t *testing.T) {
	at := []int64{-90 * minute, 0, 999*day + 10*minute, 1000*day - 25*minute, 1000*day - 24*minute, 1000 * day}
	l := &log{}
	var changes []*change.Change
	for i, us := range at {
		for j, plane := range []string{"A", "A\x00B"} {
			row := []feature.Value{feature.OfInt(int64(10*i + j)), feature.OfString(plane), feature.OfMicros(us), feature.OfInt(1)}
			changes = append(changes, &change.Change{Op: change.Insert, After: row})
		}
	}
	l.commit(1000*day, changes, func(int) uint32 { return 1 })
	l.cut("end", 1000*day)
	dir := filepath.Join(t.TempDir(), "p")
	p := open(t, pausesCatalog(t), dir)
	if err := lent(t.Context(), p, p.Fold, l.records); err != nil {
		t.Fatal(err)
	}
	v := p.views["pauses"]
	var got []string
	err := p.store.Scan(v.tilePrefix, successor(v.tilePrefix), func(key, _ []byte) bool {
		got = append(got, tileLine(t, v, key))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/tiles.txt")
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Split(strings.TrimSpace(string(golden)), "\n"); !slices.Equal(got, want) {
		t.Errorf("tiles lie at\n%s\nand not at\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// tileLine gives a key in hex, and what it says.
func tileLine(t *testing.T, v *view, key []byte) string {
	t.Helper()
	rest := key[len(v.tilePrefix):]
	if len(rest) < 16 {
		t.Fatalf("a key of %d bytes: %x", len(key), key)
	}
	id, place, start := rest[:len(rest)-16], unsigned(rest[len(rest)-16:]), unsigned(rest[len(rest)-8:])
	plane := "A"
	if bytes.Equal(id, entityKey([]feature.Value{feature.OfString("A\x00B")})) {
		plane = "A0B"
	} else if !bytes.Equal(id, entityKey([]feature.Value{feature.OfString("A")})) {
		t.Fatalf("a key of nobody: %x", key)
	}
	what := "hop"
	if place < 0 {
		what, place = "gap", -place
	}
	return fmt.Sprintf("%s %s %s %s start %s", hex.EncodeToString(key), plane, what,
		time.Duration(place)*time.Microsecond, time.UnixMicro(start).UTC().Format("2006-01-02T15:04"))
}
