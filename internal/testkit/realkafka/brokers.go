package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// brokers is a running Kafka.
type brokers struct {
	all   []*broker
	mu    sync.Mutex
	meant map[context.Context]bool // ends that we have brought about
	lost  context.CancelCauseFunc
}

// start formats dir if it is new, starts n brokers there and waits until all serve.
func start(ctx context.Context, libs, dir string, n int, lost context.CancelCauseFunc) (*brokers, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &brokers{meant: map[context.Context]bool{}, lost: lost}
	if s.all, err = configure(ctx, libs, dir, n); err != nil {
		return nil, err
	}
	for _, b := range s.all {
		if err := b.format(ctx); err != nil {
			return nil, err
		}
	}
	for i, b := range s.all { // here, as a broker dies with the thread that started it
		if err := b.launch(); err != nil {
			return nil, errors.Join(err, (&brokers{all: s.all[:i], meant: s.meant}).stop())
		}
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	for _, b := range s.all {
		s.watch(b)
	}
	return s, nil
}

func (s *brokers) ready(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, b := range s.all {
		g.Go(func() error { return b.ready(ctx) })
	}
	return g.Wait()
}

// watch ends the command when a broker ends that it has not killed.
func (s *brokers) watch(b *broker) {
	ended := b.ended
	context.AfterFunc(ended, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.meant[ended] {
			s.lost(fmt.Errorf("the broker ended: %w\n%s", context.Cause(ended), b.tail()))
		}
	})
}

func (s *brokers) addresses() string {
	var out []string
	for _, b := range s.all {
		out = append(out, b.address)
	}
	return strings.Join(out, ",")
}

// stop stops all, the last one first.
func (s *brokers) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := errgroup.Group{}
	for _, b := range s.all {
		if !s.meant[b.ended] {
			s.meant[b.ended] = true
			g.Go(b.stop)
		}
	}
	return g.Wait()
}

// control answers the command, one line for one line: "kill N" ends broker N as a lost machine would, "start N"
// starts it again and answers when it serves. The answer is "ok", or why not.
func (s *brokers) control(ctx context.Context, l net.Listener, work chan<- func()) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		in := bufio.NewScanner(c)
		for in.Scan() {
			done := make(chan error, 1)
			line := in.Text()
			work <- func() { done <- s.obey(ctx, line) }
			answer := "ok"
			if err := <-done; err != nil {
				answer = strings.ReplaceAll(err.Error(), "\n", " ")
			}
			fmt.Fprintln(c, answer)
		}
		c.Close() //nolint:errcheck // as above
	}
}

func (s *brokers) obey(ctx context.Context, line string) error {
	var what string
	var n int
	if _, err := fmt.Sscanf(line, "%s %d", &what, &n); err != nil || n < 1 || n > len(s.all) {
		return fmt.Errorf("%q: expected kill N or start N, N from 1 to %d", line, len(s.all))
	}
	b := s.all[n-1]
	s.mu.Lock()
	down := s.meant[b.ended]
	if what == "kill" {
		s.meant[b.ended] = true
	}
	s.mu.Unlock()
	switch {
	case what == "kill" && !down:
		return b.kill()
	case what == "start" && down:
		if err := b.launch(); err != nil {
			return err
		}
		s.watch(b)
		return b.ready(ctx)
	}
	return fmt.Errorf("%q: it is so, or unknown", line)
}

// with runs a command while the brokers live. What it asks of them is done by this thread.
func (s *brokers) with(ctx context.Context, command []string) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 1, err
	}
	defer l.Close() //nolint:errcheck // nobody asks any more
	work := make(chan func())
	go s.control(ctx, l, work)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "FRESHET_TEST_KAFKA="+s.addresses(), "FRESHET_TEST_KAFKA_CONTROL="+l.Addr().String())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = waitDelay
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case f := <-work:
			f()
			continue
		case err = <-ended:
		}
		break
	}
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
