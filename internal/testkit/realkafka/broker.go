package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

const (
	version  = "4.3.1"
	java     = 17 // the oldest that runs it
	startMax = 90 * time.Second
	stopMax  = 30 * time.Second
	cluster  = "NlYyc2hldEZyZXNoZXRfXw" // 16 bytes, base64: any
)

//go:embed pom.xml
var pom []byte

//go:embed log4j2.properties
var logging []byte

// broker is a running Apache Kafka.
type broker struct {
	dir     string
	classes string // of Java
	least   string // memory
	cmd     *exec.Cmd
	address string // host:port
	log     string // its file
	ended   context.Context
}

// jars gives the directory with the broker's jars, fetched if it is not in the cache.
func jars(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "java", "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: Java %d or later (%w)\n  to mend: apt-get install openjdk-17-jre-headless, or put java on PATH", errMissing, java, err)
	}
	m := regexp.MustCompile(`version "(\d+)`).FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("java -version says nothing of a version: %s", out)
	}
	if major, err := strconv.Atoi(string(m[1])); err != nil || major < java {
		return "", fmt.Errorf("%w: Java %d or later; the java on PATH is version %s", errMissing, java, m[1])
	}
	cache := os.Getenv("FRESHET_CACHE")
	if cache == "" {
		if cache, err = os.UserCacheDir(); err != nil {
			return "", err
		}
		cache = filepath.Join(cache, "freshet")
	}
	dir := filepath.Join(cache, "kafka-"+version)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	return dir, fetch(ctx, cache, dir)
}

// fetch lets Maven copy the jars beside dir and renames them when all are there.
func fetch(ctx context.Context, cache, dir string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("%w: Maven, which fetches Apache Kafka the first time (%w)\n  to mend: apt-get install maven, or put mvn on PATH", errMissing, err)
	}
	tmp, err := os.MkdirTemp(cache, ".kafka-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := os.WriteFile(filepath.Join(tmp, "pom.xml"), pom, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "realkafka: fetching Apache Kafka %s\n", version)
	cmd := exec.CommandContext(ctx, mvn, "--quiet", "--batch-mode", "--file", filepath.Join(tmp, "pom.xml"),
		"org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies",
		"-DoutputDirectory="+filepath.Join(tmp, "libs"), "-DincludeScope=runtime")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("maven could not fetch Apache Kafka: %w\n%s", err, out)
	}
	if err := os.Rename(filepath.Join(tmp, "libs"), dir); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// format makes the broker's directory one of Kafka's, if it is not.
func (b *broker) format(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "java", "-XX:TieredStopAtLevel=1", "-cp", b.classes, "kafka.tools.StorageTool",
		"format", "--ignore-formatted", "--cluster-id", cluster, "--config", b.properties())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("formatting %s: %w\n%s", b.dir, err, out)
	}
	return nil
}

func (b *broker) properties() string { return filepath.Join(b.dir, "server.properties") }

// launch starts the broker's process; ready waits until it serves.
func (b *broker) launch() error {
	log, err := os.Create(b.log)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the broker has its own descriptor
	// No context: it is stopped after the command has ended, not with it.
	b.cmd = exec.Command("java", "-Xms"+b.least, "-Xmx512m", "-XX:TieredStopAtLevel=1",
		"-Dkafka.logs.dir="+b.dir, "-cp", b.classes, "kafka.Kafka", b.properties())
	b.cmd.Stdout, b.cmd.Stderr = log, log
	b.cmd.SysProcAttr = ofItsOwn()
	if err := b.cmd.Start(); err != nil {
		return err
	}
	ended, end := context.WithCancelCause(context.Background())
	b.ended = ended
	go func(cmd *exec.Cmd) { // ends with the process, which stop waits for
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exit status 0")
		}
		end(err)
	}(b.cmd)
	return nil
}

// kill ends the broker as a lost machine would.
func (b *broker) kill() error {
	if err := b.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing the broker: %w", err)
	}
	<-b.ended.Done()
	return nil
}

// ready waits for the line of the log that says that the broker serves; its socket opens earlier.
func (b *broker) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		said, err := os.ReadFile(b.log)
		if err != nil {
			return err
		}
		if bytes.Contains(said, []byte("Kafka Server started")) {
			return nil
		}
		select {
		case <-b.ended.Done():
			return fmt.Errorf("the broker did not start: %w\n%s", context.Cause(b.ended), b.tail())
		case <-ctx.Done():
			return fmt.Errorf("the broker did not start in time: %w\n%s", ctx.Err(), b.tail())
		case <-tick.C:
		}
	}
}

// stop asks the broker to shut down, kills it after 30 s, and waits for its end.
func (b *broker) stop() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		<-b.ended.Done()
		return nil
	} else if err != nil {
		return fmt.Errorf("stopping the broker: %w", err)
	}
	late := time.NewTimer(stopMax)
	defer late.Stop()
	select {
	case <-b.ended.Done():
		return nil
	case <-late.C:
	}
	if err := b.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing the broker: %w", err)
	}
	<-b.ended.Done()
	return fmt.Errorf("the broker did not stop within %v and was killed", stopMax)
}

// tail gives the end of the broker's log.
func (b *broker) tail() []byte {
	said, err := os.ReadFile(b.log)
	if err != nil {
		return []byte(err.Error())
	}
	return said[max(0, len(said)-4096):]
}
