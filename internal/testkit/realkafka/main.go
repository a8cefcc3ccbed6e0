// Command realkafka runs a command against an Apache Kafka of its own:
//
//	realkafka [-dir DIR] [-brokers N] -- COMMAND ARGS...
//
// It starts one broker, or N (KRaft, version 4.3.1, loopback only, on free ports), sets FRESHET_TEST_KAFKA
// to the addresses, runs the command, stops the brokers and exits as the command did. It needs Java 17
// or later and, the first time, Maven, which fetches the broker from Maven Central into the cache
// directory (FRESHET_CACHE, else the user's). Where one of them is missing it says so and runs
// nothing: exit 0, or 1 if CI=true.
//
//	<cache>/kafka-4.3.1/    the jars; complete as soon as it is there (renamed)
//	<dir>/server.properties the broker's settings
//	<dir>/log               what the broker said
//	<dir>/data/             its topics
//
// The command may kill brokers and start them again: FRESHET_TEST_KAFKA_CONTROL is an address that takes a line
// "kill N" or "start N" and answers "ok" when it is done. Files of several brokers are in <dir>/node1 and on.
//
// Without -dir everything is in a temporary directory and gone at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

const waitDelay = 30 * time.Second

// errMissing says that something that must be installed is not.
var errMissing = errors.New("missing")

func main() {
	// The broker dies with the thread that started it (Linux), so that thread must be ours to the end.
	runtime.LockOSThread()
	dir := flag.String("dir", "", "keep the brokers' files here")
	n := flag.Int("brokers", 1, "how many; of several, topics have three copies")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: realkafka [-dir DIR] [-brokers N] -- COMMAND ARGS...")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, *dir, *n, flag.Args())
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
func run(ctx context.Context, dir string, n int, command []string) (code int, err error) {
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
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	s, err := start(ctx, libs, dir, n, lost)
	if err != nil {
		return 1, err
	}
	fmt.Fprintf(os.Stderr, "realkafka: Apache Kafka %s at %s after %v\n", version, s.addresses(), time.Since(began).Round(100*time.Millisecond))
	code, err = s.with(ctx, command)
	if stopErr := s.stop(); stopErr != nil {
		return max(code, 1), errors.Join(err, stopErr)
	}
	return code, err
}
