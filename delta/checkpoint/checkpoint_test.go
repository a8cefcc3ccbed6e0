package checkpoint

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
)

// world is the storage of a system and the life of one partition: files that stay, come and go, and
// files that change under their name.
type world struct {
	t      *testing.T
	r      *rand.Rand
	root   string
	files  map[string]string
	next   int
	offset int64
	was    map[int64]map[string]string // the files at each checkpoint, by offset
}

func newWorld(t *testing.T) *world {
	return &world{t: t, r: testkit.Seed(t), root: t.TempDir(), files: map[string]string{"CURRENT": "0"}, was: map[int64]map[string]string{}}
}

func (w *world) store() store.Store {
	s, err := store.OpenDir(w.root)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	return s
}

func (w *world) set(o Options) *Set {
	if o.Store == nil {
		o.Store = w.store()
	}
	return NewSet(o, "tail", 7)
}

// live lets the state move on and gives its directory as a checkpoint would.
func (w *world) live() string {
	w.next++
	w.offset += 1 + w.r.Int64N(100)
	w.files[fmt.Sprintf("%06d.sst", w.next)] = strings.Repeat(fmt.Sprint("content ", w.r.Uint64()), w.r.IntN(200))
	w.files["CURRENT"] = fmt.Sprint(w.next)
	w.files[fmt.Sprintf("%06d.log", w.next)] = fmt.Sprint("log ", w.r.Uint64())
	for name := range w.files {
		if name != "CURRENT" && w.r.IntN(4) == 0 {
			delete(w.files, name)
		}
	}
	w.was[w.offset] = maps.Clone(w.files)
	dir := w.t.TempDir()
	for name, content := range w.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

func (w *world) at() Manifest {
	return Manifest{Generation: 1, Epoch: 1, Position: "1:0/1:1", Offset: w.offset, TopicID: "topic", Owner: "n", OwnerEpoch: 3}
}

func (w *world) upload(s *Set) Uploaded {
	w.t.Helper()
	up, err := s.Upload(w.t.Context(), w.live(), w.at())
	if err != nil {
		w.t.Fatal(err)
	}
	return up
}

var whole = Log{TopicID: "topic", End: 1 << 40}

// restored restores and compares with what the files were at the manifest's offset.
func (w *world) restored(s *Set) *Manifest {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "p")
	m, err := s.Restore(w.t.Context(), dir, whole)
	if err != nil {
		w.t.Fatal(err)
	}
	w.equal(dir, m)
	return m
}

func (w *world) equal(dir string, m *Manifest) {
	w.t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			w.t.Fatal(err)
		}
		got[e.Name()] = string(b)
	}
	if want := w.was[m.Offset]; !maps.Equal(got, want) {
		w.t.Fatalf("checkpoint %d at %d: %d files restored, %d were there, or others", m.Number, m.Offset, len(got), len(want))
	}
}

func (w *world) names(prefix string) []string {
	w.t.Helper()
	var out []string
	for info, err := range w.store().List(w.t.Context(), prefix) {
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, info.Name)
	}
	return out
}

func TestOnlyNewFilesAreUploadedAndOldOnesGo(t *testing.T) {
	w := newWorld(t)
	s := w.set(Options{})
	for range 20 {
		before := maps.Clone(w.files)
		up := w.upload(s)
		sent := 0
		for name, content := range w.files {
			if before[name] != content {
				sent++
			}
		}
		if up.Sent > sent || up.Files != len(w.files) {
			t.Fatalf("checkpoint %d: %d files sent, %d are new; %+v of %d", up.Number, up.Sent, sent, up, len(w.files))
		}
		if err := s.Clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m := w.restored(s); m.Number != up.Number || m.Offset != w.offset {
			t.Fatalf("restored %+v", m)
		}
	}
	if got := w.names(s.dir + "/manifest-"); len(got) != 3 {
		t.Errorf("manifests %q", got)
	}
	// What is there is named by a kept manifest, and all that those name is there.
	kept, _, err := s.whole(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, m := range kept {
		for _, f := range m.Files {
			named[s.fileName(f)] = true
		}
	}
	there := w.names(s.dir + "/files/")
	for _, name := range there {
		if !named[name] {
			t.Errorf("%s is left", name)
		}
	}
	if len(there) != len(named) {
		t.Errorf("%d files are there, %d are named", len(there), len(named))
	}
	oldest, err := s.Oldest(t.Context())
	if err != nil || oldest.Number != 18 {
		t.Errorf("oldest %+v, %v", oldest, err)
	}
}

// Every operation of storage fails, or is the last before a crash, with its effect or without: what was
// put before can still be restored, or the new one can, whole; and the next try gets through.
func TestFaultsAtEveryOperation(t *testing.T) {
	for _, mode := range store.FaultModes() {
		for at := 1; ; at++ {
			w := newWorld(t)
			first := w.set(Options{Keep: 1})
			for range 3 {
				w.upload(first)
			}
			last := w.offset
			f := &store.Faulty{Store: w.store(), At: at, Mode: mode}
			faulty := w.set(Options{Store: f, Keep: 1})
			_, err := faulty.Upload(t.Context(), w.live(), w.at())
			if err == nil {
				err = faulty.Clean(t.Context())
			}
			if m := w.restored(w.set(Options{})); m.Offset != last && m.Offset != w.offset {
				t.Fatalf("mode %d at %d: restored %+v", mode, at, m)
			}
			next := w.set(Options{Keep: 1})
			up := w.upload(next)
			if err := next.Clean(t.Context()); err != nil {
				t.Fatal(err)
			}
			if m := w.restored(next); m.Number != up.Number || len(w.names(next.dir+"/manifest-")) != 1 || len(w.names(next.dir+"/files/")) > len(w.files) {
				t.Fatalf("mode %d at %d: after the next try %+v", mode, at, m)
			}
			if err == nil {
				if at < 8 || len(f.Operations()) >= at {
					t.Fatalf("mode %d: a fault at operation %d of %q went unnoticed", mode, at, f.Operations())
				}
				break
			}
		}
	}
}

// Restoring fails at every operation of storage or step on the disk: there is no directory, or the whole
// one, and the next try gets it.
func TestRestoringStopsAnywhere(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		w.upload(w.set(Options{}))
	}
	try := func(what string, s *Set) bool {
		dir := filepath.Join(t.TempDir(), "p")
		m, err := s.Restore(t.Context(), dir, whole)
		if err == nil {
			w.equal(dir, m)
			return true
		}
		if _, serr := os.Stat(dir); serr == nil {
			w.equal(dir, &Manifest{Offset: w.offset})
			return false
		}
		if m, err = w.set(Options{}).Restore(t.Context(), dir, whole); err != nil || m.Offset != w.offset {
			t.Fatalf("%s: then %+v, %v", what, m, err)
		}
		w.equal(dir, m)
		return false
	}
	for _, mode := range store.FaultModes() {
		at := 1
		for ; !try(fmt.Sprint("mode ", mode, " at ", at), w.set(Options{Store: &store.Faulty{Store: w.store(), At: at, Mode: mode}})); at++ {
		}
		if at < 4 {
			t.Fatalf("only %d operations", at)
		}
	}
	stop := errors.New("stop here")
	at := 1
	for ; ; at++ {
		var n atomic.Int32
		if try(fmt.Sprint("step ", at), w.set(Options{step: func(string, string) error {
			if n.Add(1) == int32(at) {
				return stop
			}
			return nil
		}})) {
			break
		}
	}
	if at < 8 {
		t.Fatalf("only %d steps", at)
	}
}

// Several files are fetched at once, and no more than the bound, beginning with the largest.
func TestFilesAreFetchedBesideEachOther(t *testing.T) {
	w := newWorld(t)
	for i := range 3 * filesAtOnce {
		w.files[fmt.Sprintf("more%02d.sst", i)] = strings.Repeat("x", 100*(i+1))
	}
	w.files["largest.sst"] = strings.Repeat("y", 1<<20)
	for range 2 { // some of them go again
		w.upload(w.set(Options{}))
	}
	patience, cancel := testkit.Patience(t)
	defer cancel()
	var mu sync.Mutex
	var begun []string
	under, most := 0, 0
	full := make(chan struct{})
	m := w.restored(w.set(Options{step: func(op, name string) error {
		mu.Lock()
		switch op {
		case "create":
			begun = append(begun, filepath.Base(name))
			if under++; under > most {
				most = under
			}
			if under == filesAtOnce && len(begun) == filesAtOnce {
				close(full)
			}
		case "sync":
			under--
		}
		mu.Unlock()
		if op != "create" {
			return nil
		}
		select {
		case <-full:
			return nil
		case <-patience.Done():
			return errors.New("never as many at once")
		}
	}}))
	if most > filesAtOnce {
		t.Errorf("%d files at once", most)
	}
	if want := largest(m, filesAtOnce); !slices.Equal(slices.Sorted(slices.Values(begun[:filesAtOnce])), want) {
		t.Errorf("it begins with %v, and the largest are %v", begun[:filesAtOnce], want)
	}
}

// largest gives the names of a checkpoint's largest files, in the order of the names.
func largest(m *Manifest, n int) []string {
	files := slices.SortedStableFunc(slices.Values(m.Files), func(a, b File) int { return cmp.Compare(b.Size, a.Size) })
	var names []string
	for _, f := range files[:n] {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return names
}

func TestWhatIsDamagedIsPassedOverLoudly(t *testing.T) {
	damages := map[string]func(t *testing.T, s *Set, m *Manifest, file string){
		"manifest cut off": func(t *testing.T, s *Set, m *Manifest, _ string) {
			b, err := s.o.Store.Get(t.Context(), s.manifestName(m.Number))
			if err == nil {
				err = s.o.Store.Put(t.Context(), s.manifestName(m.Number), b[:len(b)/2])
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"file missing": func(t *testing.T, s *Set, _ *Manifest, file string) {
			if err := s.o.Store.Delete(t.Context(), file); err != nil {
				t.Fatal(err)
			}
		},
		"file of another content": func(t *testing.T, s *Set, _ *Manifest, file string) {
			b, err := s.o.Store.Get(t.Context(), file)
			if err == nil {
				b[len(b)/2] ^= 1
				err = s.o.Store.Put(t.Context(), file, b)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"file cut off": func(t *testing.T, s *Set, _ *Manifest, file string) {
			b, err := s.o.Store.Get(t.Context(), file)
			if err == nil {
				err = s.o.Store.Put(t.Context(), file, b[:len(b)-1])
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, damage := range damages {
		w := newWorld(t)
		var passed []uint64
		s := w.set(Options{Passed: func(_ string, _ int, n uint64, _ error) { passed = append(passed, n) }})
		w.upload(s)
		before := w.offset
		w.upload(s)
		m, err := s.Newest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		own := ""
		for _, f := range m.Files {
			if f.In == m.Number && f.Size > 0 {
				own = s.fileName(f)
			}
		}
		damage(t, s, m, own)
		passed = nil
		if got := w.restored(s); got.Offset != before || len(passed) != 1 || passed[0] != 2 {
			t.Errorf("%s: restored %+v, passed over %d", name, got, passed)
		}
		// The next checkpoint does not build on what is missing.
		w.upload(s)
		if got := w.restored(s); name != "file of another content" && got.Offset != w.offset {
			t.Errorf("%s: after the next checkpoint %+v", name, got)
		}
	}
	w := newWorld(t)
	if _, err := w.set(Options{}).Restore(t.Context(), filepath.Join(t.TempDir(), "p"), whole); !errors.Is(err, ErrNone) {
		t.Errorf("of nothing: %v", err)
	}
}

// Two nodes take themselves for the owner: one manifest wins each number, the other is told, offsets never
// go back, and nothing that a manifest names is deleted.
func TestTwoOwners(t *testing.T) {
	w := newWorld(t)
	a, b := w.set(Options{Keep: 2}), w.set(Options{Keep: 2})
	old, oldAt := w.live(), w.at()
	w.upload(a)
	if _, err := b.Upload(t.Context(), old, oldAt); !errors.Is(err, ErrBehind) {
		t.Fatalf("an older state was put: %v", err)
	}
	// b has seen number 1 and uploads for number 2, slowly: meanwhile a puts 2 to 6, and cleans.
	slowDir, slowAt := w.live(), w.at()
	interrupted := false
	inner := w.store()
	slow := w.set(Options{Keep: 2, Store: hooked{inner, func() {
		if interrupted {
			return
		}
		interrupted = true
		for range 5 {
			w.upload(a)
			if err := a.Clean(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}}})
	if _, err := slow.Upload(t.Context(), slowDir, slowAt); !errors.Is(err, ErrBehind) || !interrupted {
		t.Fatalf("the slow one got %v", err)
	}
	if m := w.restored(b); m.Number != 6 || m.Offset != w.offset {
		t.Fatalf("restored %+v", m)
	}
	w.upload(b)
	if err := b.Clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.names(a.dir + "/manifest-"); len(got) != 2 {
		t.Errorf("manifests %q", got)
	}
	w.restored(a)
}

// hooked calls before at the first manifest that is created.
type hooked struct {
	store.Store
	before func()
}

func (h hooked) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	h.before()
	return h.Store.PutIfAbsent(ctx, name, data)
}

func TestALogThatCannotGoOn(t *testing.T) {
	w := newWorld(t)
	s := w.set(Options{})
	w.upload(s)
	w.upload(s)
	for want, log := range map[string]Log{
		"its records are others":                 {TopicID: "another", End: 1 << 40},
		"changes it has not folded are gone":     {TopicID: "topic", Start: w.offset + 1, End: 1 << 40},
		"the topic has lost records":             {TopicID: "topic", End: w.offset - 1},
		"--new-snapshot":                         {TopicID: "topic", Start: w.offset + 1, End: 1 << 40},
		fmt.Sprintf("needs record %d", w.offset): {TopicID: "topic", Start: 1 << 30, End: 1 << 40},
	} {
		dir := filepath.Join(t.TempDir(), "p")
		_, err := s.Restore(t.Context(), dir, log)
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ErrNone) {
			t.Errorf("%+v: %v, want %q", log, err, want)
		}
		if _, serr := os.Stat(dir); !errors.Is(serr, os.ErrNotExist) {
			t.Errorf("%+v: a directory was left", log)
		}
	}
	exact := Log{TopicID: "topic", Start: w.offset, End: w.offset}
	if m, err := s.Restore(t.Context(), filepath.Join(t.TempDir(), "p"), exact); err != nil || m.Offset != w.offset {
		t.Errorf("at the edge: %+v, %v", m, err)
	}
}

func golden() *Manifest {
	return &Manifest{
		Version: 1, Number: 42, Group: "tail", Partition: 7, Generation: 1, Epoch: 2, Position: "2:0/16B3748:5", Offset: 1234, LogTime: 1357000000000000,
		TopicID: "00112233-4455-6677-8899-aabbccddeeff", Owner: "node-1", OwnerEpoch: 9, Definitions: "d1",
		Files: []File{
			{Name: "000004.sst", Size: 5, SHA256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", In: 40},
			{Name: "MANIFEST-000001", Size: 0, SHA256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", In: 42},
		},
	}
}

func TestGoldenManifest(t *testing.T) {
	want, err := os.ReadFile("testdata/manifest")
	if err != nil {
		t.Fatal(err)
	}
	b, err := golden().encode()
	if err != nil || !bytes.Equal(b, want) {
		t.Errorf("encoded %s, %v", b, err)
	}
	m, err := decode(want)
	if err != nil || fmt.Sprint(m) != fmt.Sprint(golden()) {
		t.Errorf("decoded %+v, %v", m, err)
	}
	for n := range want {
		if _, err := decode(want[:n]); err == nil {
			t.Errorf("%d bytes of it were taken", n)
		}
		other := bytes.Clone(want)
		other[n] ^= 1
		if _, err := decode(other); err == nil {
			t.Errorf("one with byte %d changed was taken", n)
		}
	}
}

func TestManifestsThatAreRefused(t *testing.T) {
	for want, change := range map[string]func(*Manifest){
		"has version 2": func(m *Manifest) { m.Version = 2 },
		"no plain name": func(m *Manifest) { m.Files[0].Name = "../x" },
		"no plain":      func(m *Manifest) { m.Files[0].Name = ".." },
		"is no plain":   func(m *Manifest) { m.Files[0].Name = "" },
		"names 0 files": func(m *Manifest) { m.Files = nil },
		"cannot be":     func(m *Manifest) { m.Files[0].In = 43 },
		"what cannot":   func(m *Manifest) { m.Files[0].SHA256 = "../../../x" },
		"what cannot b": func(m *Manifest) { m.Files[0].Size = -1 },
	} {
		m := golden()
		change(m)
		b, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, err := golden().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decode(again); err != nil || fmt.Sprint(back) != fmt.Sprint(m) {
			t.Errorf("%+v came back as %+v, %v", m, back, err)
		}
	})
}

func TestClassesOfErrors(t *testing.T) {
	w := newWorld(t)
	_, err := w.set(Options{}).Newest(t.Context())
	if !errors.Is(err, ErrNone) || fault.ClassOf(err) != fault.Failed {
		t.Errorf("%v", err)
	}
}
