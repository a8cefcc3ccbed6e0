package embedded

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const childEnv = "FRESHET_EMBEDDED_CHILD"

// TestMain lets this binary be the process that is killed: with childEnv set to "service dir" it
// runs that service, prints its address and waits for its end.
func TestMain(m *testing.M) {
	what, dir, ok := strings.Cut(os.Getenv(childEnv), " ")
	if !ok {
		os.Exit(m.Run())
	}
	address, err := serve(what, dir)
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println(address)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent kills us, or is gone itself
}

func serve(what, dir string) (string, error) {
	switch what {
	case "postgres":
		p, err := StartPostgres(context.Background(), PostgresOptions{Dir: dir, Fsync: true})
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d %s", p.PID(), p.URL()), nil
	case "kafka":
		k, err := StartKafka(KafkaOptions{Dir: dir})
		if err != nil {
			return "", err
		}
		return k.Brokers()[0], nil
	case "nats":
		n, err := StartNATS(NATSOptions{Dir: dir})
		if err != nil {
			return "", err
		}
		return n.URL(), nil
	case "lock":
		_, err := LockDir(dir)
		return "locked", err
	default:
		return "", fmt.Errorf("no service %q", what)
	}
}

// child runs a service in another process and gives the line it printed and a kill -9 that waits.
func child(t *testing.T, what, dir string) (line string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+what+" "+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			_ = stdin.Close()
		}
	}
	t.Cleanup(kill)
	line, err = bufio.NewReader(out).ReadString('\n')
	line = strings.TrimSpace(line)
	if err != nil || strings.HasPrefix(line, "failed:") {
		t.Fatalf("%s in a child process: %q, %v", what, line, err)
	}
	return line, kill
}
