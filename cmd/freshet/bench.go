package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/internal/bench"
	"github.com/freshet-io/freshet/internal/fault"
)

func benchCommand() *cobra.Command {
	o := bench.Options{
		Python: os.Getenv("FRESHET_BENCH_PYTHON"), Debezium: os.Getenv("FRESHET_BENCH_DEBEZIUM"),
		KafkaStreams: os.Getenv("FRESHET_BENCH_KAFKASTREAMS"),
	}
	var profile string
	c := &cobra.Command{
		Use: "bench NAME", Short: "Measure freshet against peers on this machine; one line of JSON per figure",
		Long: "Names: " + strings.Join(bench.Names(), ", ") + ". A peer that is not here leaves the ratio null: LightGBM is asked\n" +
			"through the Python that FRESHET_BENCH_PYTHON names, Redis is the redis-server in PATH, Debezium and Kafka\n" +
			"Streams run from the jars in the directories that FRESHET_BENCH_DEBEZIUM and FRESHET_BENCH_KAFKASTREAMS\n" +
			"name, with the java and javac in PATH.",
		Example: "  freshet bench scoring --quick\n  FRESHET_BENCH_PYTHON=.venv/bin/python freshet bench scoring\n  freshet bench capture --brokers kafka:9092 --only C3",
		Args:    cobra.ExactArgs(1), ValidArgs: bench.Names(),
	}
	c.Flags().BoolVar(&o.Quick, "quick", false, "a smaller size, for a first look")
	c.Flags().StringVar(&o.Dir, "dir", "", "where servers and files live, kept afterwards (a temporary directory, removed)")
	c.Flags().StringSliceVar(&o.Brokers, "brokers", nil, "a Kafka instead of the embedded one")
	c.Flags().StringSliceVar(&o.Only, "only", nil, "of capture (C1, C2, C3, C4, C6) and delta (D1, D2, D3, D3-removed): these figures only")
	c.Flags().StringVar(&profile, "cpuprofile", "", "write a CPU profile to this file")
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if profile != "" {
			f, err := os.Create(profile)
			if err != nil {
				return fault.Wrap(fault.Usage, err, "--cpuprofile %s", profile)
			}
			if err := pprof.StartCPUProfile(f); err != nil {
				return errors.Join(fault.Wrap(fault.Failed, err, "--cpuprofile %s", profile), f.Close())
			}
			defer func() {
				pprof.StopCPUProfile()
				err = errors.Join(err, f.Close())
			}()
		}
		if args[0] == "delta" {
			collectLess() // it has a node in this process
		}
		ctx, stop := untilNobodyReads(c.Context())
		defer stop()
		o.Out = reads{os.Stdout, stop}
		said := reads{os.Stderr, stop}
		o.Progress = func(s string) { fmt.Fprintln(said, s) }
		return bench.Run(ctx, args[0], o)
	}
	return c
}

// untilNobodyReads ends also where the terminal goes, and where stop is called: a process that dies of SIGHUP or SIGPIPE would
// leave its children and its temporary files. SIGPIPE itself ends nothing: it also comes of a connection to a node that was killed,
// which is what some figures are about. What is printed goes through [reads].
func untilNobodyReads(ctx context.Context) (_ context.Context, stop context.CancelFunc) {
	piped := make(chan os.Signal, 1)
	signal.Notify(piped, syscall.SIGPIPE) // taken, and not looked at
	stopHangups := func() {}
	if !signal.Ignored(syscall.SIGHUP) { // by nohup
		ctx, stopHangups = signal.NotifyContext(ctx, syscall.SIGHUP)
	}
	ctx, cancel := context.WithCancel(ctx)
	return ctx, func() {
		cancel()
		stopHangups()
	}
}

// reads ends what is going on when nobody reads what is written, as when head has had its lines.
type reads struct {
	to  io.Writer
	end func()
}

func (r reads) Write(b []byte) (int, error) {
	n, err := r.to.Write(b)
	if err != nil {
		r.end()
	}
	return n, err
}
