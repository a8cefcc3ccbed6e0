package doctor

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	patience = 5 * time.Second
	spaceMin = 2 << 30 // bytes free, below which a disk is worth a warning
	// defaultSpool is capture's.
	defaultSpool = 8 << 30
)

func (r *report) kafka(ctx context.Context) {
	brokers := r.Config.Kafka.Brokers
	if len(brokers) == 0 {
		r.ok("kafka", "embedded, in data_dir")
		return
	}
	c, err := topic.Dial(ctx, topic.Config{Brokers: brokers, Prefix: r.Config.Name, Timeout: patience})
	if err != nil {
		r.fail("kafka", err)
		return
	}
	c.Close()
	r.ok("kafka", "a broker answers at %s", strings.Join(brokers, ", "))
}

// storage tries what every commit of a table rests on: of two that create a name, one is refused.
func (r *report) storage(ctx context.Context) {
	const name = "storage.hot"
	defer tidy(r.Config.Storage.Hot)()
	s, err := store.Open(r.Config.Storage.Hot)
	if err != nil {
		r.fail(name, err)
		return
	}
	object := "_freshet/doctor/" + rand.Text()
	if err := s.PutIfAbsent(ctx, object, []byte("doctor")); err != nil {
		r.add(name, Fail, "make it writable for this user, or name another storage: {hot: …}", "%s is not writable: %s", r.Config.Storage.Hot, err)
		return
	}
	again := s.PutIfAbsent(ctx, object, []byte("doctor"))
	if err := s.Delete(ctx, object); err != nil {
		r.fail(name, err)
		return
	}
	if !errors.Is(again, store.ErrExists) {
		r.add(name, Fail, "use a local file system, or one with hard links", "%s lets two writers create one name", r.Config.Storage.Hot)
		return
	}
	r.ok(name, "%s is writable, and creates a name once", r.Config.Storage.Hot)
}

// directory checks data_dir and the ports. Where freshet itself runs, they are taken by it.
func (r *report) directory(ctx context.Context) {
	dir, taken := r.Config.DataDir, false
	if _, err := os.Stat(dir); err == nil {
		if err := free(dir); err != nil {
			taken = true
			r.fail("data_dir", err)
		} else {
			r.ok("data_dir", "%s is free", dir)
		}
	} else {
		r.ok("data_dir", "%s is made at the first start", dir)
	}
	r.space(dir)
	ports := []struct{ name, at string }{{"listen.grpc", r.Config.Listen.GRPC}, {"listen.http", r.Config.Listen.HTTP}}
	if len(r.Config.Kafka.Brokers) == 0 {
		ports = append(ports, struct{ name, at string }{"embedded.kafka", r.Config.Embedded.Kafka})
	}
	for _, p := range ports {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.at)
		switch {
		case err == nil:
			l.Close() //nolint:errcheck // nobody connected
			r.ok(p.name, "%s is free", p.at)
		case taken:
			r.add(p.name, Warn, "", "%s is taken, as it is when freshet runs here", p.at)
		default:
			section, key, _ := strings.Cut(p.name, ".")
			r.add(p.name, Fail, "end what listens there, or set "+section+": {"+key+": HOST:PORT}", "%s: %s", p.at, err)
		}
	}
}

// free tells whether nobody has a data directory. It only looks: the lock itself is taken by who then writes
// its name into it.
func free(dir string) error {
	f, err := os.Open(filepath.Join(dir, "LOCK"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nobody ever had it
	}
	if err != nil {
		return fault.Wrap(fault.Permission, err, "data directory %s cannot be used", dir).ToMend("make it this user's own, or use another data_dir")
	}
	defer f.Close() //nolint:errcheck // it was only read
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
		return nil // and given back with the file
	}
	lock, err := embedded.LockDir(dir) // says who has it
	if err == nil {
		err = lock.Close()
	}
	return err
}

// tidy remembers which directories of a storage there are, and gives what removes the others, as far as
// they are empty.
func tidy(url string) func() {
	root, ok := strings.CutPrefix(url, "file://")
	if !ok {
		return func() {}
	}
	there := func(dir string) bool {
		_, err := os.Stat(dir)
		return err == nil
	}
	own := filepath.Join(root, "_freshet")
	dirs := []string{filepath.Join(own, "doctor"), own, filepath.Join(root, ".tmp")} // the last one is where the store prepares its files
	for dir := root; !there(dir) && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
	}
	dirs = slices.DeleteFunc(dirs, there)
	return func() {
		for _, dir := range dirs {
			_ = os.Remove(dir) // one that is used by now stays
		}
	}
}

// space looks at the disk of dir, or of the nearest directory above it that is there.
func (r *report) space(dir string) {
	var st syscall.Statfs_t
	for syscall.Statfs(dir, &st) != nil {
		up := filepath.Dir(dir)
		if up == dir {
			return
		}
		dir = up
	}
	free := float64(st.Bavail) * float64(st.Bsize)
	spool := cmp.Or(int64(r.Config.Source.Spool), defaultSpool) * int64(len(r.sources())) // each slot has its own
	switch {
	case free < spaceMin:
		r.add("disk", Warn, "free some, or move data_dir", "%.1f GiB free at %s", free/(1<<30), dir)
	case free < float64(spool):
		r.add("disk", Warn, fmt.Sprintf("free some, move data_dir, or set source: {spool: %dGiB}", int64(free/2)>>30), "%.1f GiB free at %s, and transactions that are not committed yet may take %.1f GiB there",
			free/(1<<30), dir, float64(spool)/(1<<30))
	default:
		r.ok("disk", "%.1f GiB free at %s, of which transactions that are not committed yet may take %.1f GiB", free/(1<<30), dir, float64(spool)/(1<<30))
	}
}
