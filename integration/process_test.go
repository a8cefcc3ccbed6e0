package integration

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/demo"
)

var build struct {
	once sync.Once
	path string
	err  error
}

// binary builds freshet once for all tests of the package, into a directory of the test binary's own
// lifetime.
func binary(t *testing.T) string {
	t.Helper()
	build.once.Do(func() {
		dir, err := os.MkdirTemp("", "freshet-bin-")
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(dir, "freshet")
		out, err := exec.Command("go", "build", "-o", build.path, "../cmd/freshet").CombinedOutput()
		if err != nil {
			build.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv(brokerEnv); ok {
		os.Exit(serveBroker(dir, os.Getenv(brokerListenEnv)))
	}
	code := m.Run()
	if build.path != "" {
		_ = os.RemoveAll(filepath.Dir(build.path))
	}
	os.Exit(code)
}

// project is a directory with the demo's project, for processes of freshet.
type project struct {
	t      *testing.T
	dir    string
	config string
	grpc   string
}

func newProject(t *testing.T, source string) *project {
	t.Helper()
	p := &project{t: t, dir: t.TempDir(), grpc: freePort(t)}
	t.Cleanup(func() { // what a failure left, to look at
		if keep := os.Getenv("FRESHET_TEST_KEEP"); keep != "" && t.Failed() {
			if err := os.CopyFS(keep, os.DirFS(p.dir)); err != nil {
				t.Log(err)
			}
		}
	})
	p.config = filepath.Join(p.dir, "freshet.yaml")
	files := must(demo.Project())(t)
	if err := os.CopyFS(p.dir, files); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(p.dir, "source.url")
	text := demo.Config(p.dir, "file:"+secret) + fmt.Sprintf("listen: {grpc: %s, http: %s}\nembedded: {kafka: %s, nats: %s}\n",
		p.grpc, freePort(t), freePort(t), freePort(t))
	for name, content := range map[string]string{secret: source, p.config: text} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// given are the addresses that freePort has given.
var given sync.Map

// freePort gives an address that nobody listens on, below the ports that the system gives to outgoing
// connections: one of those could take it while a killed process is not there yet again. It gives none twice.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000)))
		if err != nil {
			continue
		}
		_ = l.Close()
		if _, twice := given.LoadOrStore(l.Addr().String(), true); !twice {
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// process is one freshet, or another program of a test's.
type process struct {
	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan struct{}
	err  error
}

func (p *project) up(env ...string) *process {
	p.t.Helper()
	return launch(p.t, env, binary(p.t), "up", "-c", p.config)
}

// launch starts a process that ends with the test at the latest.
func launch(t *testing.T, env []string, command string, args ...string) *process {
	t.Helper()
	x := &process{cmd: exec.Command(command, args...), log: &bytes.Buffer{}, done: make(chan struct{})}
	x.cmd.Env = append(os.Environ(), env...)
	x.cmd.Stderr = x.log
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		x.err = x.cmd.Wait()
		close(x.done)
	}()
	t.Cleanup(func() {
		_ = x.cmd.Process.Kill()
		<-x.done
	})
	return x
}

// killed tells whether the process ended by SIGKILL, and not by an error of its own.
func (x *process) killed() bool {
	<-x.done
	s, ok := x.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && s.Signaled() && s.Signal() == syscall.SIGKILL
}

// ready waits until the process serves and its first snapshot is folded, or until it has ended.
func (p *project) ready(ctx context.Context, x *process) error {
	conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-x.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	// A lookup that waits for a position ends when the partition is folded beyond it.
	_, err = freshetv1.NewFeatureStoreClient(conn).Get(ctx, &freshetv1.GetRequest{
		Selections:  []*freshetv1.Selection{{View: "plane_schedule"}},
		Keys:        []*freshetv1.Key{{Values: []*freshetv1.Value{{Kind: &freshetv1.Value_String_{String_: "N14228"}}}}},
		MinPosition: "0/1",
	}, grpc.WaitForReady(true))
	return err
}

// cli runs a command of freshet and gives its output and exit code.
func (p *project) cli(ctx context.Context, args ...string) (string, int) {
	c := exec.CommandContext(ctx, binary(p.t), args...)
	c.Env = append(os.Environ(), "FRESHET_SERVER="+p.grpc)
	c.Dir = p.dir
	c.WaitDelay = time.Second
	out, _ := c.CombinedOutput()
	return string(out), c.ProcessState.ExitCode()
}
