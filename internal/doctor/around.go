package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	patience = 5 * time.Second
	spaceMin = 2 << 30 // bytes free, below which a disk is worth a warning
)

func (r *report) kafka(ctx context.Context) {
	brokers := r.cfg.Kafka.Brokers
	if len(brokers) == 0 {
		r.ok("kafka", "embedded, in data_dir")
		return
	}
	c, err := topic.Dial(ctx, topic.Config{Brokers: brokers, Prefix: r.cfg.Name, Timeout: patience})
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
	s, err := store.Open(r.cfg.Storage.Hot)
	if err != nil {
		r.fail(name, err)
		return
	}
	object := "_freshet/doctor/" + rand.Text()
	if err := s.PutIfAbsent(ctx, object, []byte("doctor")); err != nil {
		r.add(name, Fail, "make it writable for this user, or name another storage: {hot: …}", "%s is not writable: %s", r.cfg.Storage.Hot, err)
		return
	}
	again := s.PutIfAbsent(ctx, object, []byte("doctor"))
	if err := s.Delete(ctx, object); err != nil {
		r.fail(name, err)
		return
	}
	if !errors.Is(again, store.ErrExists) {
		r.add(name, Fail, "use a local file system, or one with hard links", "%s lets two writers create one name", r.cfg.Storage.Hot)
		return
	}
	r.ok(name, "%s is writable, and creates a name once", r.cfg.Storage.Hot)
}

// directory checks data_dir and the ports. Where freshet itself runs, they are taken by it.
func (r *report) directory(ctx context.Context) {
	dir, taken := r.cfg.DataDir, false
	if _, err := os.Stat(dir); err == nil {
		lock, err := embedded.LockDir(dir)
		if err == nil {
			err = lock.Close()
		}
		if err != nil {
			taken = true
			r.fail("data_dir", err)
		} else {
			r.ok("data_dir", "%s is free", dir)
		}
	} else {
		r.ok("data_dir", "%s is made at the first start", dir)
	}
	r.space(dir)
	ports := []struct{ name, at string }{{"listen.grpc", r.cfg.Listen.GRPC}, {"listen.http", r.cfg.Listen.HTTP}}
	if len(r.cfg.Kafka.Brokers) == 0 {
		ports = append(ports, struct{ name, at string }{"embedded.kafka", r.cfg.Embedded.Kafka})
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
	if free < spaceMin {
		r.add("disk", Warn, "free some, or move data_dir", "%.1f GiB free at %s", free/(1<<30), dir)
		return
	}
	r.ok("disk", "%.1f GiB free at %s", free/(1<<30), dir)
}
