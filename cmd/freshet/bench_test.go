package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
)

// TestABenchThatIsEndedLeavesNothing: neither its directory nor a process of it, whatever ends it. It is ended while its
// PostgreSQL starts, and by a reader that goes after the first figure.
func TestABenchThatIsEndedLeavesNothing(t *testing.T) {
	hangups := make(chan os.Signal, 1) // under nohup a process begins with them ignored: not one that was started by who takes them
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for _, end := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT} {
		t.Run(end.String(), func(t *testing.T) {
			b := startBench(t, "capture", "--quick", "--only", "C6")
			for said := bufio.NewScanner(b.stderr); said.Scan(); {
				if strings.Contains(said.Text(), "PostgreSQL") {
					break
				}
			}
			if err := b.Process.Signal(end); err != nil {
				t.Fatal(err)
			}
			b.endsCleanly(t)
		})
	}
	t.Run("a reader that goes", func(t *testing.T) {
		b := startBench(t, "scoring", "--quick")
		b.stdout.Close() //nolint:errcheck // only read
		b.endsCleanly(t)
	})
}

// A connection that its peer has closed ends no bench: nodes are killed in some. What nobody reads does.
func TestABenchGoesOnWithoutANode(t *testing.T) {
	ctx, stop := untilNobodyReads(t.Context())
	defer stop()
	node, goes, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	defer goes.Close() //nolint:errcheck // nobody reads it
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, syscall.SIGPIPE)
	defer signal.Stop(arrived)
	if _, err := goes.WriteString("x"); err == nil {
		t.Fatal("it was written")
	}
	<-arrived
	if ctx.Err() != nil {
		t.Fatalf("it ended: %v", context.Cause(ctx))
	}
	if _, err := (reads{goes, stop}).Write([]byte("x")); err == nil {
		t.Fatal("it was written")
	}
	if ctx.Err() == nil {
		t.Error("it goes on, and nobody reads it")
	}
}

// benchProcess is freshet bench as a process of its own, with temporary files where nobody else has some.
type benchProcess struct {
	*exec.Cmd
	tmp            string
	stdout, stderr *os.File
}

func startBench(t *testing.T, args ...string) *benchProcess {
	t.Helper()
	b := &benchProcess{Cmd: exec.CommandContext(t.Context(), os.Args[0], append([]string{"bench"}, args...)...), tmp: testkit.Dir(t)}
	b.Env = append(os.Environ(), "FRESHET_TEST_AS_COMMAND=1", "TMPDIR="+b.tmp)
	var out, said *os.File
	var err error
	if b.stdout, out, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	if b.stderr, said, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	b.Stdout, b.Stderr = out, said
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	out.Close()                                              //nolint:errcheck // the process has it
	said.Close()                                             //nolint:errcheck // the process has it
	t.Cleanup(func() { b.stdout.Close(); b.stderr.Close() }) //nolint:errcheck // only read
	return b
}

func (b *benchProcess) endsCleanly(t *testing.T) {
	t.Helper()
	var rest bytes.Buffer
	if _, err := rest.ReadFrom(b.stderr); err != nil { // until its end, and that of children that have it too
		t.Fatal(err)
	}
	if err := b.Wait(); err == nil || b.ProcessState.ExitCode() <= 0 {
		t.Errorf("it ended with %v: %s", b.ProcessState, rest.String())
	}
	left, err := os.ReadDir(b.tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("it left %v %v: %s", left, err, rest.String())
	}
	others, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range others {
		if line, err := os.ReadFile(name); err == nil && bytes.Contains(line, []byte(b.tmp)) {
			t.Errorf("it left a process: %q", line)
		}
	}
}
