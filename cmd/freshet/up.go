package main

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"

	"github.com/spf13/cobra"
)

func upCommand() *cobra.Command {
	r := roles{capture: true, node: true}
	c := role("up", "Run capture, node and lookups in one process", &r)
	c.Flags().BoolVar(&r.newSnapshot, "new-snapshot", false, "begin a new epoch with a snapshot of every table")
	c.Flags().BoolVar(&r.allowDrop, "allow-drop", false, "start with definitions that lack what readers may use")
	return c
}

func captureCommand() *cobra.Command {
	r := roles{capture: true}
	c := role("capture", "Run capture by itself, for a cluster", &r)
	c.Flags().StringVar(&r.slot, "slot", "", "capture through this slot of source.postgres.slots only; left out: through all")
	c.Flags().BoolVar(&r.newSnapshot, "new-snapshot", false, "begin a new epoch with a snapshot of every table")
	c.Flags().BoolVar(&r.allowDrop, "allow-drop", false, "start with definitions that lack what readers may use")
	return c
}

func nodeCommand() *cobra.Command {
	return role("node", "Run a node by itself: fold, lookups, merges, scoring", &roles{node: true})
}

func role(name, short string, r *roles) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: name + " [-c FILE]", Short: short, Example: "  freshet " + name + " -c freshet.yaml", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runRole(c.Context(), file, *r) },
	}
	configFlag(c, &file)
	return c
}

func runRole(ctx context.Context, file string, r roles) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if limit := r.memory(); limit < math.MaxInt64 {
		log.Info("memory is limited", "bytes", limit)
	}
	for {
		err := runOnce(ctx, file, r, log)
		if !errors.Is(err, errAgain) {
			return err
		}
		log.Info("the process begins again with the next generation of a group")
		r.newSnapshot = false
	}
}

func runOnce(ctx context.Context, file string, r roles, log *slog.Logger) error {
	s, err := open(ctx, file, r, log)
	if err != nil {
		return err
	}
	defer s.close()
	log.Info("serving", "grpc", s.grpcAddr)
	return s.run(ctx)
}
