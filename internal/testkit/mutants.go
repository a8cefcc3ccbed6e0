package testkit

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Mutants holds that with any one rule broken some test of the package fails, of those whose names match run. A
// mutant is what it breaks, a file of the package or below it, what stands once in it, and what would stand there instead. The
// package is built anew for each, so it runs only where MUTANTS is set: to 1, or to a part of what one breaks.
func Mutants(t *testing.T, mutants [][4]string, run string, env ...string) {
	t.Helper()
	for _, m := range mutants { // whoever changes such a place is told at once, without a long run
		source, err := os.ReadFile(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), m[2]); n != 1 {
			t.Errorf("%s: the place is %d times in %s", m[0], n, m[1])
		}
	}
	only := os.Getenv("MUTANTS")
	if only == "" {
		t.Skip("set MUTANTS=1, or to a part of one's name: all take some minutes")
	}
	for _, m := range mutants {
		if only == "1" || strings.Contains(m[0], only) {
			try(t, m[0], m[1], m[2], m[3], run, env)
		}
	}
}

func try(t *testing.T, what, name, from, to, run string, env []string) {
	t.Helper()
	source, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mutant := filepath.Join(dir, filepath.Base(name))
	if err := os.WriteFile(mutant, []byte(strings.Replace(string(source), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	original, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-overlay", file, "-run", run, "-timeout", "5m", ".")
	cmd.Env = append(append(os.Environ(), "MUTANTS="), env...)
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		t.Errorf("%s: no test fails", what)
	case strings.Contains(string(out), "[build failed]"):
		t.Errorf("%s: it does not build:\n%s", what, out)
	default:
		t.Logf("found: %s", what)
	}
}
