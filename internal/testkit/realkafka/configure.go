package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// configure writes the settings of n brokers, of one in dir itself and of several in dir/node1 and on, and gives
// them, not started.
func configure(ctx context.Context, libs, dir string, n int) ([]*broker, error) {
	listen := make([][2]string, n)
	for i := range listen {
		for j := range listen[i] {
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			listen[i][j] = l.Addr().String()
			defer l.Close() //nolint:errcheck // nothing was accepted; all are held until all are known
		}
	}
	var voters []string
	for i, l := range listen {
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, l[1]))
	}
	var out []*broker
	for i, l := range listen {
		b := &broker{dir: dir, address: l[0], least: "256m"}
		if n > 1 {
			b.dir, b.least = filepath.Join(dir, fmt.Sprintf("node%d", i+1)), "128m"
		}
		b.log, b.classes = filepath.Join(b.dir, "log"), b.dir+string(filepath.ListSeparator)+filepath.Join(libs, "*")
		text := settings(i+1, n, l, strings.Join(voters, ","), filepath.Join(b.dir, "data"))
		err := errors.Join(os.MkdirAll(b.dir, 0o755),
			os.WriteFile(b.properties(), []byte(text), 0o644),
			os.WriteFile(filepath.Join(b.dir, "log4j2.properties"), logging, 0o644))
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// settings of broker i of n. Of several, every record is on three before it is acknowledged by two, and the others
// notice within seconds that one is gone.
func settings(i, n int, listen [2]string, voters, data string) string {
	copies, least := 1, 1
	if n > 1 {
		copies, least = min(n, 3), 2
	}
	s := fmt.Sprintf(`process.roles=broker,controller
node.id=%[1]d
controller.quorum.voters=%[2]s
listeners=PLAINTEXT://%[3]s,CONTROLLER://%[4]s
advertised.listeners=PLAINTEXT://%[3]s
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=%[5]s
auto.create.topics.enable=false
default.replication.factor=%[6]d
min.insync.replicas=%[7]d
offsets.topic.replication.factor=%[6]d
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=%[6]d
transaction.state.log.min.isr=%[7]d
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=%[6]d
share.coordinator.state.topic.min.isr=%[7]d
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=100
log.cleaner.dedupe.buffer.size=16777216
`, i, voters, listen[0], listen[1], data, copies, least)
	if n > 1 {
		s += "broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\nreplica.lag.time.max.ms=5000\n"
	}
	return s
}
