package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
)

const saidBytes = 1 << 10 // of what a peer's process has to say

// program is a peer's program of ours, and the jars that it needs.
type program struct {
	variable string // names the directory of the jars
	artifact string // the one among them that tells the version
	class    string
	source   string
}

// jvm runs a peer's program, where that is possible. A bench without it goes on; why then says why not.
type jvm struct {
	why     string
	java    string
	classes string // the class path
	class   string
	dir     string
	version string
}

// compile compiles the program against its jars.
func (j *jvm) compile(ctx context.Context, jars string, p program) (why string) {
	if jars == "" {
		return "name a directory with its jars in " + p.variable
	}
	found, err := filepath.Glob(filepath.Join(jars, p.artifact+"-*.jar"))
	if err != nil || len(found) == 0 {
		return fmt.Sprintf("there is no %s-*.jar in %s, which %s names", p.artifact, jars, p.variable)
	}
	j.class, j.version = p.class, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), p.artifact+"-"), ".jar")
	if j.java, err = exec.LookPath("java"); err != nil {
		return "there is no java in PATH"
	}
	javac, err := exec.LookPath("javac")
	if err != nil {
		return "there is no javac in PATH"
	}
	classes := filepath.Join(j.dir, "classes")
	source := filepath.Join(j.dir, p.class+".java")
	if err := os.MkdirAll(classes, 0o755); err != nil {
		return err.Error()
	}
	if err := os.WriteFile(source, []byte(p.source), 0o644); err != nil {
		return err.Error()
	}
	j.classes = filepath.Join(jars, "*")
	var wrong said
	compile := exec.CommandContext(ctx, javac, "-d", classes, "-cp", j.classes, source)
	compile.Stderr = &wrong
	if err := compile.Run(); err != nil {
		return fmt.Sprintf("javac: %v: %s", err, &wrong)
	}
	j.classes = classes + string(os.PathListSeparator) + j.classes
	return ""
}

// launch starts the program.
func (j *jvm) launch(ctx context.Context, heap string, args ...string) (*engine, error) {
	args = append([]string{"-Xmx" + heap, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", j.classes, j.class}, args...)
	e := &engine{cmd: exec.CommandContext(ctx, j.java, args...)}
	e.cmd.Dir = j.dir
	return e, e.begin()
}

// said keeps the first of what a process says: in Java the reason comes first, and a stack after it.
type said struct{ kept []byte }

func (s *said) Write(b []byte) (int, error) {
	s.kept = append(s.kept, b[:min(len(b), saidBytes-len(s.kept))]...)
	return len(b), nil
}

// String is all of it on one line.
func (s *said) String() string { return strings.Join(strings.Fields(string(s.kept)), " ") }

// engine is a process under way.
type engine struct {
	cmd      *exec.Cmd
	stdin    io.WriteCloser // it runs as long as this is open
	out, err said
	ended    chan struct{}
	failed   error // valid once it has ended
}

func (e *engine) begin() (err error) {
	e.ended, e.cmd.Stdout, e.cmd.Stderr = make(chan struct{}), &e.out, &e.err
	if e.stdin, err = e.cmd.StdinPipe(); err == nil {
		err = e.cmd.Start()
	}
	if err != nil {
		return fault.Wrap(fault.Failed, err, "cannot start %s", e.cmd.Path)
	}
	go func() {
		e.failed = e.cmd.Wait()
		close(e.ended)
	}()
	return nil
}

// answer waits until the process ends, and decodes what it answers; without an answer, why says why.
func (e *engine) answer(into any) (why string) {
	if <-e.ended; e.failed != nil {
		return fmt.Sprintf("it failed: %v: %s", e.failed, &e.err)
	}
	if err := json.Unmarshal(e.out.kept, into); err != nil {
		return fmt.Sprintf("it answered %q", &e.out)
	}
	return ""
}

// writeProperties writes a file of Java properties, which only we may read: there may be a password in it.
func writeProperties(file string, p map[string]string) error {
	var b strings.Builder
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)
	for _, k := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&b, "%s=%s\n", k, escape.Replace(p[k]))
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return fault.Wrap(fault.Failed, err, "cannot write the peer's settings")
	}
	return nil
}
