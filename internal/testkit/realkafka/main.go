// Command realkafka runs a command against an Apache Kafka of its own:
//
//	realkafka [-dir DIR] -- COMMAND ARGS...
//
// It starts one broker (KRaft, version 4.3.1, loopback only, on free ports), sets FRESHET_TEST_KAFKA
// to its address, runs the command, stops the broker and exits as the command did. It needs Java 17
// or later and, the first time, Maven, which fetches the broker from Maven Central into the cache
// directory (FRESHET_CACHE, else the user's). Where one of them is missing it says so and runs
// nothing: exit 0, or 1 if CI=true.
//
//	<cache>/kafka-4.3.1/    the jars; complete as soon as it is there (renamed)
//	<dir>/server.properties the broker's settings
//	<dir>/log               what the broker said
//	<dir>/data/             its topics
//
// Without -dir everything is in a temporary directory and gone at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// errMissing says that something that must be installed is not.
var errMissing = errors.New("missing")

func main() {
	// The broker dies with the thread that started it (Linux), so that thread must be ours to the end.
	runtime.LockOSThread()
	dir := flag.String("dir", "", "keep the broker's files here")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: realkafka [-dir DIR] -- COMMAND ARGS...")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, *dir, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "realkafka:", err)
	}
	if errors.Is(err, errMissing) && os.Getenv("CI") != "true" {
		fmt.Fprintln(os.Stderr, "realkafka: nothing was run")
		code = 0
	}
	os.Exit(code)
}

// run gives the exit code of the command, and 1 with an error for everything else.
func run(ctx context.Context, dir string, command []string) (code int, err error) {
	libs, err := jars(ctx)
	if err != nil {
		return 1, err
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "freshet-kafka-"); err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	began := time.Now()
	b, err := start(ctx, libs, dir)
	if err != nil {
		return 1, err
	}
	fmt.Fprintf(os.Stderr, "realkafka: Apache Kafka %s at %s after %v, process %d\n",
		version, b.address, time.Since(began).Round(100*time.Millisecond), b.cmd.Process.Pid)
	code, err = b.with(ctx, command)
	if stopErr := b.stop(); stopErr != nil {
		return max(code, 1), errors.Join(err, stopErr)
	}
	return code, err
}

// with runs a command while the broker lives.
func (b *broker) with(ctx context.Context, command []string) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.ended, func() { cancel(fmt.Errorf("the broker ended: %w\n%s", context.Cause(b.ended), b.tail())) })()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "FRESHET_TEST_KAFKA="+b.address)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	err := cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		return 1, cause
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
