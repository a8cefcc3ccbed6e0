// Package layering holds the test that enforces who may import whom.
package layering

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/freshet-io/freshet/"

// level gives a package's level: a package imports only lower levels. Inside level 0 the order is
// the order of the table. The longest matching prefix counts.
var levels = []struct {
	prefix string
	level  float64
}{
	{"internal/position", 0}, {"internal/fault", 0}, {"internal/strict", 0.05}, {"internal/feature", 0.1},
	{"internal/partition", 0.2}, {"internal/feature/definitions", 0.2}, {"internal/change", 0.3}, {"internal/config", 0.3},
	{"internal/topic/assign", 0.5}, {"internal/topic", 1}, {"internal/control", 1}, {"internal/pipeline", 1}, {"internal/watch", 1},
	{"internal/store", 1}, {"internal/embedded", 1}, {"internal/demo", 1}, {"api", 0.4}, {"client", 1.1},
	{"delta/state", 2}, {"delta/expression", 2}, {"delta/aggregate", 2}, {"delta/checkpoint", 2}, {"delta/hop", 2.2}, {"delta", 2.5},
	{"capture/pgtype", 1.9}, {"capture/pgwire", 2}, {"capture/spool", 2}, {"capture/slotguard", 2}, {"capture/initial", 2.2}, {"capture/debezium", 2}, {"capture/filter", 2}, {"capture/dead", 2}, {"capture", 2.5},
	{"featurestore", 3}, {"internal/fixture", 3}, {"internal/plan", 1}, {"snapshots/table", 3}, {"snapshots/layout", 3.1}, {"snapshots/gate", 3.1}, {"snapshots", 3.5},
	{"scoring/model", 4}, {"scoring/registry", 4.1}, {"scoring", 4.5},
	{"internal/peers", 4}, {"internal/verify", 5}, {"internal/bench", 5}, {"internal/doctor", 5}, {"internal/layering", 5}, {"dashboard", 5},
	{"cmd", 6}, {"integration", 6},
}

// separate lists pairs that never import each other, whatever their levels.
var separate = [][2]string{
	{"capture", "delta"}, {"featurestore", "snapshots"}, {"internal/verify", "delta"},
}

// owners lists third-party modules and the one folder that may import them.
var owners = map[string]string{
	"github.com/cockroachdb/pebble":    "delta/state",
	"github.com/twmb/franz-go/pkg/kgo": "internal/topic",
	"github.com/nats-io/nats.go":       "internal/control",
	"github.com/jackc/pglogrepl":       "capture/pgwire",
}

func levelOf(pkg string) (float64, bool) {
	best, level := -1, 0.0
	for _, l := range levels {
		if (pkg == l.prefix || strings.HasPrefix(pkg, l.prefix+"/")) && len(l.prefix) > best {
			best, level = len(l.prefix), l.level
		}
	}
	return level, best >= 0
}

func under(pkg, folder string) bool { return pkg == folder || strings.HasPrefix(pkg, folder+"/") }

func TestPackagesImportOnlyLowerLevels(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		check(t, strings.TrimPrefix(p.ImportPath, module), p.Imports)
	}
	if seen < 10 {
		t.Fatalf("only %d packages were seen", seen)
	}
}

func check(t *testing.T, pkg string, imports []string) {
	t.Helper()
	if under(pkg, "internal/testkit") || under(pkg, "docs/examples") { // the latter import nothing of ours
		return
	}
	mine, ok := levelOf(pkg)
	if !ok {
		t.Errorf("%s has no level: give it one in the table", pkg)
		return
	}
	for _, imp := range imports {
		for third, owner := range owners {
			if strings.HasPrefix(imp, third) && !under(pkg, owner) {
				t.Errorf("%s imports %s, which only %s may", pkg, imp, owner)
			}
		}
		theirs, inside := strings.CutPrefix(imp, module)
		if !inside {
			continue
		}
		for _, pair := range separate {
			if (under(pkg, pair[0]) && under(theirs, pair[1])) || (under(pkg, pair[1]) && under(theirs, pair[0]) && pair[0] != "internal/verify") {
				t.Errorf("%s imports %s: the two never meet", pkg, theirs)
			}
		}
		if level, _ := levelOf(theirs); level >= mine {
			t.Errorf("%s (level %g) imports %s (level %g): only lower levels", pkg, mine, theirs, level)
		}
	}
}
