package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func open(t *testing.T, dir string) *Dir {
	t.Helper()
	s, err := Open("file://" + dir)
	if err != nil {
		t.Fatal(err)
	}
	d := s.(*Dir)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func localFile(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func names(t *testing.T, s Store, prefix string) []string {
	t.Helper()
	got := []string{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Name)
	}
	return got
}

// conformance is what every Store must do.
func conformance(t *testing.T, s Store) {
	ctx := t.Context()
	get := func(name, want string) {
		t.Helper()
		b, err := s.Get(ctx, name)
		if err != nil || string(b) != want {
			t.Errorf("get %s: %q, %v; want %q", name, b, err, want)
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	for name, err := range map[string]error{
		"get":   func() error { _, err := s.Get(ctx, "none"); return err }(),
		"range": func() error { _, err := s.GetRange(ctx, "a/none", 0, 1); return err }(),
		"stat":  func() error { _, err := s.Stat(ctx, "none"); return err }(),
		"open":  func() error { _, err := OpenAt(ctx, s, "none"); return err }(),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s of nothing: %v", name, err)
		}
	}
	check(s.Delete(ctx, "none"))
	check(s.Put(ctx, "a/x", []byte("one")))
	check(s.Put(ctx, "a/x", []byte("second")))
	get("a/x", "second")
	check(s.PutIfAbsent(ctx, "a/b/c", nil))
	get("a/b/c", "")
	for name, err := range map[string]error{
		"create": s.PutIfAbsent(ctx, "a/x", []byte("third")), "put file": s.PutFile(ctx, "a/x", localFile(t, "third")),
	} {
		if !errors.Is(err, ErrExists) {
			t.Errorf("%s over an object: %v", name, err)
		}
	}
	get("a/x", "second")
	check(s.PutFile(ctx, "f/g", localFile(t, "content of a file")))
	get("f/g", "content of a file")
	if info, err := s.Stat(ctx, "f/g"); err != nil || info != (Info{"f/g", 17}) {
		t.Errorf("stat: %v, %v", info, err)
	}
	if b, err := s.GetRange(ctx, "f/g", 8, 4); err != nil || string(b) != "of a" {
		t.Errorf("range: %q, %v", b, err)
	}
	if b, err := s.GetRange(ctx, "f/g", 17, 0); err != nil || len(b) != 0 {
		t.Errorf("empty range: %q, %v", b, err)
	}
	if _, err := s.GetRange(ctx, "f/g", 8, 10); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("range past the end: %v", err)
	}
	o, err := OpenAt(ctx, s, "f/g")
	check(err)
	b, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size+5))
	if err != nil || string(b) != "content of a file" || o.Size != 17 {
		t.Errorf("open: %q of %d, %v", b, o.Size, err)
	}
	check(o.Close())
	for _, name := range []string{"a.b", "a/b.c", "a/bc", "ab/c"} {
		check(s.Put(ctx, name, []byte(name)))
	}
	for prefix, want := range map[string][]string{
		"":     {"a.b", "a/b.c", "a/b/c", "a/bc", "a/x", "ab/c", "f/g"},
		"a":    {"a.b", "a/b.c", "a/b/c", "a/bc", "a/x", "ab/c"},
		"a/":   {"a/b.c", "a/b/c", "a/bc", "a/x"},
		"a/b":  {"a/b.c", "a/b/c", "a/bc"},
		"a/b/": {"a/b/c"},
		"z/":   {},
	} {
		if got := names(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("list %q: %q, want %q", prefix, got, want)
		}
	}
	check(s.Delete(ctx, "a/x"))
	if _, err := s.Get(ctx, "a/x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("get of a deleted object: %v", err)
	}
	for _, name := range []string{"", ".", "..", "../x", "/x", "a/../../x", "a//b", "a/", "./a", `a\b`, "a\x00", ".tmp/x"} {
		_, gerr := s.Get(ctx, name)
		if s.Put(ctx, name, nil) == nil || gerr == nil || s.PutIfAbsent(ctx, name, nil) == nil ||
			s.PutFile(ctx, name, localFile(t, "")) == nil || s.Delete(ctx, name) == nil {
			t.Errorf("name %q taken", name)
		}
	}
	oneWinner(t, s)
}

// oneWinner races creators of one name.
func oneWinner(t *testing.T, s Store) {
	t.Helper()
	for round := range 20 {
		name := fmt.Sprint("race/", round)
		errs := make([]error, 16)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = s.PutIfAbsent(t.Context(), name, bytes.Repeat([]byte{byte(i)}, 1000)) })
		}
		wg.Wait()
		won := -1
		for i, err := range errs {
			switch {
			case err == nil && won < 0:
				won = i
			case err == nil:
				t.Errorf("round %d: %d and %d both created it", round, won, i)
			case !errors.Is(err, ErrExists):
				t.Errorf("round %d: %v", round, err)
			}
		}
		if b, err := s.Get(t.Context(), name); err != nil || won < 0 || !bytes.Equal(b, bytes.Repeat([]byte{byte(won)}, 1000)) {
			t.Errorf("round %d: %d won, and another's content is there (%v)", round, won, err)
		}
	}
}

func TestConformance(t *testing.T) {
	t.Run("dir", func(t *testing.T) { conformance(t, open(t, t.TempDir())) })
	// Faulty hides the descriptor, so this walks the ranged reads too.
	t.Run("faulty", func(t *testing.T) { conformance(t, &Faulty{Store: open(t, t.TempDir())}) })
}

// TestPutFileAcrossFileSystems: where a hard link is impossible, the content is copied.
func TestPutFileAcrossFileSystems(t *testing.T) {
	elsewhere, err := os.MkdirTemp("/dev/shm", "freshet-test-")
	if err != nil {
		t.Skipf("no second file system to copy from: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(elsewhere) })
	name := filepath.Join(elsewhere, "x")
	dir := t.TempDir()
	d := open(t, dir)
	if err := os.WriteFile(name, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(name, filepath.Join(dir, "probe")); err == nil {
		t.Skip("/dev/shm is on the file system of the temporary directory")
	}
	if err := d.PutFile(t.Context(), "a/x", name); err != nil {
		t.Fatal(err)
	}
	if err := d.PutFile(t.Context(), "a/x", name); !errors.Is(err, ErrExists) {
		t.Errorf("over an object: %v", err)
	}
	if b, err := d.Get(t.Context(), "a/x"); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for url, want := range map[string]string{
		"s3://bucket/prefix": "only file:// here; s3 comes later",
		"file://host/x":      "absolute path",
		"file:relative":      "absolute path",
		"/srv/x":             "only file://",
		"file:///x?y=1":      "absolute path",
		"://":                "not a URL",
	} {
		if _, err := Open(url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
	file := localFile(t, "")
	if _, err := Open("file://" + file); err == nil {
		t.Error("a file taken for a directory")
	}
}

// TestNoWayOut: symbolic links that lead out of the root are not followed.
func TestNoWayOut(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, root)
	ctx := t.Context()
	_, gerr := d.Get(ctx, "out/secret")
	if gerr == nil || d.Put(ctx, "out/y", nil) == nil || d.PutFile(ctx, "out/z", localFile(t, "")) == nil || d.Delete(ctx, "out/secret") == nil {
		t.Error("a way out of the root")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside changed: %v, %v", left, err)
	}
}

var errStop = errors.New("stop here")

// TestStopAtEveryStep stops each kind of write before each of its steps on the disk, as a crash would:
// the object is there whole or not at all, and once the write has said that it is there, its content
// and its name were synced before, in that order.
func TestStopAtEveryStep(t *testing.T) {
	writes := map[string]func(t *testing.T, d *Dir) error{
		"put":    func(t *testing.T, d *Dir) error { return d.Put(t.Context(), "a/b/c", []byte("new")) },
		"create": func(t *testing.T, d *Dir) error { return d.PutIfAbsent(t.Context(), "a/b/c", []byte("new")) },
		"file":   func(t *testing.T, d *Dir) error { return d.PutFile(t.Context(), "a/b/c", localFile(t, "new")) },
	}
	for kind, write := range writes {
		var steps []string
		d := open(t, t.TempDir())
		d.step = func(op, _ string) error { steps = append(steps, op); return nil }
		if err := write(t, d); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(steps, " ")
		publish := map[string]string{"put": "rename", "create": "link", "file": "link"}[kind]
		if i, j := strings.Index(text, "sync"), strings.Index(text, publish); i < 0 || j < i || !strings.HasSuffix(text, publish+" syncdir") ||
			strings.Count(text, "mkdir syncdir") != 2 {
			t.Errorf("%s: steps %s", kind, text)
		}
		for stop := range steps {
			dir := t.TempDir()
			d, n := open(t, dir), 0
			d.step = func(string, string) error {
				if n++; n > stop {
					return errStop
				}
				return nil
			}
			if err := write(t, d); !errors.Is(err, errStop) {
				t.Fatalf("%s stopped before step %d: %v", kind, stop, err)
			}
			after := open(t, dir)
			b, err := after.Get(t.Context(), "a/b/c")
			published := slices.Contains(steps[:stop], publish)
			if published != (err == nil && string(b) == "new") || !published && !errors.Is(err, ErrNotFound) {
				t.Errorf("%s stopped before step %d (%s): %q, %v", kind, stop, steps[stop], b, err)
			}
			if err := write(t, after); err != nil && !(published && errors.Is(err, ErrExists)) {
				t.Errorf("%s stopped before step %d, again: %v", kind, stop, err)
			}
		}
	}
}

func TestFaulty(t *testing.T) {
	for _, mode := range FaultModes() {
		d := open(t, t.TempDir())
		f := &Faulty{Store: d, At: 2, Mode: mode}
		first := f.Put(t.Context(), "1", nil)
		second := f.Put(t.Context(), "2", nil)
		third := f.Put(t.Context(), "3", nil)
		crash := mode == CrashBefore || mode == CrashAfter
		if first != nil || errors.Is(second, ErrCrashed) != crash || errors.Is(second, ErrInjected) == crash || (third == nil) == crash {
			t.Errorf("mode %d: %v, %v, %v", mode, first, second, third)
		}
		want := []string{"1"}
		if mode == FailAfter || mode == CrashAfter {
			want = append(want, "2")
		}
		if !crash {
			want = append(want, "3")
		}
		if got := names(t, d, ""); !slices.Equal(got, want) {
			t.Errorf("mode %d: %q, want %q", mode, got, want)
		}
	}
}
