package embedded

import (
	"archive/tar"
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/xi2/xz"

	"github.com/freshet-io/freshet/internal/fault"
)

// PostgresVersion is the version of the embedded PostgreSQL. Tests can have others, see [PostgresOptions].
const PostgresVersion = "17.11.0"

const (
	mavenCentral = "https://repo1.maven.org/maven2"
	maxArchive   = 256 << 20 // bytes of a jar
	maxExtracted = 1 << 30   // bytes of all files of a jar
)

// digests are the SHA-256 of the jars by version and platform. Versions beside PostgresVersion are for
// tests, on the platforms where those run.
//
//nolint:gochecknoglobals // a table of constants
var digests = map[string]map[string]string{
	PostgresVersion: {
		"linux-amd64":        "0dd7b72b6f335b8ecfb355fa24c5781e8a93edd09880bb77eb52ebbf29b3e96d",
		"linux-arm64v8":      "8b042e0ea418b1927d95399207950da0734d27fe01e29503ade3bdc464ad4c2b",
		"linux-amd64-alpine": "ace9a6f95b1c98ce84c9841267cd04ebee5d7de5dc7b8fea148ead44f145afbd",
		"darwin-amd64":       "d464ff178e9860ba204662ac23fa547504b7fd392392ff2fb92e3fd73b5bdb64",
		"darwin-arm64v8":     "a1c2786acb0c398f9b2d76806fc52f5dc8b222cbc8e9383a9b9702084daaf3a5",
	},
	"14.24.0": {"linux-amd64": "2722d05eb22c671104c9918d59d8ba9f5656898f5452a0207bb4cce21eef5dc4"},
	"15.19.0": {"linux-amd64": "95f0b66fe72d4ca66c815773c44cb1196ea38552463e89a35f18114b3ed1565f"},
	"16.15.0": {"linux-amd64": "653abc065c682b85d3da50168fb95dc524bd85426cdec9ce3695a550ef431df2"},
	"18.4.0":  {"linux-amd64": "401d4e69baba9072d3772607710df0d47b39a7632c6b01b2a5f5d85a9514e212"},
}

// versionOf gives the version of a major version, "" being that of PostgresVersion.
func versionOf(major string) (string, error) {
	if major == "" {
		return PostgresVersion, nil
	}
	for version := range digests {
		if majorOf(version) == major {
			return version, nil
		}
	}
	return "", fault.New(fault.Usage, "there is no embedded PostgreSQL %s", major).ToMend("choose one of 14 to 18")
}

func majorOf(version string) string {
	major, _, _ := strings.Cut(version, ".")
	return major
}

// archive is one jar with the binaries of one platform.
type archive struct {
	version  string
	platform string
	digest   string // SHA-256, hexadecimal
}

func (a archive) name() string {
	return "embedded-postgres-binaries-" + a.platform + "-" + a.version + ".jar"
}

func (a archive) url() string {
	repository := mavenCentral
	if r := os.Getenv("FRESHET_MAVEN"); r != "" {
		repository = strings.TrimRight(r, "/")
	}
	return fmt.Sprintf("%s/io/zonky/test/postgres/embedded-postgres-binaries-%s/%s/%s",
		repository, a.platform, a.version, a.name())
}

// archiveFor gives the jar for an operating system and architecture as Go names them.
func archiveFor(version, goos, arch string, alpine bool) (archive, error) {
	if arch == "arm64" {
		arch = "arm64v8"
	}
	platform := goos + "-" + arch
	if alpine {
		platform += "-alpine"
	}
	digest, ok := digests[version][platform]
	if !ok {
		return archive{}, fault.New(fault.Unreachable, "there is no embedded PostgreSQL %s for %s", version, platform).
			ToMend("run a PostgreSQL 14 or later of your own and use `freshet up -c FILE` with source.postgres.url")
	}
	return archive{version: version, platform: platform, digest: digest}, nil
}

// binaries gives the directory that holds bin, lib and share of PostgreSQL, and fetches it first if
// it is not in the cache.
func binaries(ctx context.Context, version string, progress func(step string, done, total int64)) (string, error) {
	_, alpineErr := os.Stat("/etc/alpine-release")
	a, err := archiveFor(version, runtime.GOOS, runtime.GOARCH, alpineErr == nil)
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "postgres-"+a.version+"-"+a.platform)
	if present(dir) {
		return dir, nil
	}
	lock, err := lockWait(ctx, dir+".LOCK")
	if err != nil {
		return "", fault.Wrap(fault.Failed, err, "cannot lock the cache %s", cache).
			ToMend("set FRESHET_CACHE to a directory that you may write")
	}
	defer lock.Close() //nolint:errcheck // the kernel drops it at the latest when the process ends
	if present(dir) {  // another process was first
		return dir, nil
	}
	if err := fetchInto(ctx, a, cache, dir, progress); err != nil {
		return "", err
	}
	return dir, nil
}

func present(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "bin", "postgres"))
	return err == nil
}

// fetchInto puts the content of the jar at dir: downloaded and extracted beside it, renamed when
// whole and on disk.
func fetchInto(ctx context.Context, a archive, cache, dir string, progress func(string, int64, int64)) error {
	tmp, err := os.MkdirTemp(cache, ".fetch-")
	if err != nil {
		return diskFault(err, cache)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	jar := filepath.Join(cache, a.name())
	if sum, err := fileDigest(jar); err != nil || sum != a.digest {
		jar = filepath.Join(tmp, a.name())
		if err := download(ctx, a, jar, progress); err != nil {
			return err
		}
	}
	out := filepath.Join(tmp, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return diskFault(err, cache)
	}
	if err := extractJar(ctx, jar, out, progress); err != nil {
		return diskFault(err, cache)
	}
	if !present(out) {
		return fault.New(fault.Failed, "%s holds no bin/postgres", a.name())
	}
	syscall.Sync() // a thousand small files: one sync of everything before the name that says they are whole
	if err := os.RemoveAll(dir); err != nil {
		return diskFault(err, cache)
	}
	if err := os.Rename(out, dir); err != nil {
		return diskFault(err, cache)
	}
	return nil
}

func diskFault(err error, cache string) error {
	mend := "set FRESHET_CACHE to a directory that you may write"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		mend = "free 200 MiB there, or set FRESHET_CACHE to a directory on another disk"
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		mend = "start again: nothing half done is kept"
	}
	return fault.Wrap(fault.Failed, err, "cannot extract PostgreSQL into %s", cache).ToMend("%s", mend)
}

// download writes the jar to path and checks its digest.
func download(ctx context.Context, a archive, path string, progress func(string, int64, int64)) error {
	unreachable := func(err error) error {
		return fault.Wrap(fault.Unreachable, err, "cannot download PostgreSQL %s from %s", a.version, a.url()).
			ToMend("let this machine reach it, or set FRESHET_MAVEN to a mirror of Maven Central, or put the file (sha256 %s) into %s",
				a.digest, filepath.Dir(filepath.Dir(path)))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true // one request; no connection outlives it
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url(), nil)
	if err != nil {
		return unreachable(err)
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return unreachable(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return unreachable(fmt.Errorf("the answer was %s", res.Status))
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return diskFault(err, filepath.Dir(path))
	}
	defer f.Close() //nolint:errcheck // its digest is checked before it is used
	sum := sha256.New()
	body := &counter{r: io.LimitReader(res.Body, maxArchive), total: res.ContentLength, step: "download", progress: progress}
	if _, err := io.Copy(io.MultiWriter(f, sum), body); err != nil {
		if _, ok := errors.AsType[*os.PathError](err); ok {
			return diskFault(err, filepath.Dir(path))
		}
		return unreachable(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != a.digest {
		return fault.New(fault.Failed, "%s has the wrong content: sha256 %s, not %s", a.url(), got, a.digest).
			ToMend("try again, or set FRESHET_MAVEN to a mirror that serves it unchanged")
	}
	return nil
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, maxArchive)); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// counter reports what passes through it, at most once per percent.
type counter struct {
	r                 io.Reader
	done, total, said int64
	step              string
	progress          func(string, int64, int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.progress != nil && (c.done-c.said > c.total/100 || err != nil) {
		c.said = c.done
		c.progress(c.step, c.done, c.total)
	}
	return n, err //nolint:wrapcheck // io.EOF must stay itself
}

// extractJar extracts the one .txz inside a jar into the existing directory out.
func extractJar(ctx context.Context, jar, out string, progress func(string, int64, int64)) error {
	z, err := zip.OpenReader(jar)
	if err != nil {
		return fmt.Errorf("opening %s: %w", jar, err)
	}
	defer z.Close()
	for _, member := range z.File {
		if !strings.HasSuffix(member.Name, ".txz") {
			continue
		}
		f, err := member.Open()
		if err != nil {
			return fmt.Errorf("opening %s in %s: %w", member.Name, jar, err)
		}
		defer f.Close()
		body := &counter{r: f, total: int64(member.UncompressedSize64), step: "extract", progress: progress}
		unpacked, err := xz.NewReader(body, 0)
		if err != nil {
			return fmt.Errorf("unpacking %s in %s: %w", member.Name, jar, err)
		}
		return extractTar(ctx, tar.NewReader(unpacked), out)
	}
	return fmt.Errorf("%s holds no .txz", jar)
}

// extractTar extracts files, folders and links; os.Root refuses names and links that lead out of out.
func extractTar(ctx context.Context, r *tar.Reader, out string) error {
	root, err := os.OpenRoot(out)
	if err != nil {
		return err
	}
	defer root.Close()
	var total int64
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("unpacking: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if total += h.Size; total > maxExtracted {
			return fmt.Errorf("the archive holds more than %d bytes", maxExtracted)
		}
		if err := extractOne(root, h, r); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func extractOne(root *os.Root, h *tar.Header, r io.Reader) error {
	name := filepath.Clean(h.Name)
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		// The server runs as another user than the one that extracts: everyone may read.
		mode := os.FileMode(0o644 | h.Mode&0o111)
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Chmod(mode), f.Close())
	default:
		return fmt.Errorf("an entry of type %q", h.Typeflag)
	}
}

// cacheDir gives the cache directory, made if it was not there. Root's own (/root/.cache) is of no
// use to the user that the server runs as, so root has another.
func cacheDir() (string, error) {
	var candidates []string
	if dir := os.Getenv("FRESHET_CACHE"); dir != "" {
		candidates = []string{dir}
	} else {
		if os.Geteuid() == 0 {
			candidates = append(candidates, "/var/cache/freshet")
		} else if dir, err := os.UserCacheDir(); err == nil {
			candidates = append(candidates, filepath.Join(dir, "freshet"))
		}
		candidates = append(candidates, filepath.Join(os.TempDir(), fmt.Sprintf("freshet-cache-%d", os.Geteuid())))
	}
	var errs []error
	for _, dir := range candidates {
		dir, err := filepath.Abs(dir)
		if err == nil {
			err = usableCache(dir)
		}
		if err == nil {
			return dir, nil
		}
		errs = append(errs, err)
	}
	return "", fault.Wrap(fault.Failed, errors.Join(errs...), "no usable cache directory").
		ToMend("set FRESHET_CACHE to a directory that you own and every user may enter")
}

// usableCache makes dir and tells why binaries can't be kept there: programs run from it, so nobody
// else may be able to write it.
func usableCache(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d", dir, st.Uid)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is writable by others (%v)", dir, info.Mode().Perm())
	}
	probe, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return err
	}
	return enterable(dir)
}
