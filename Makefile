.DEFAULT_GOAL := help

GOLANGCI := bin/golangci-lint-v2.15.0
PYTHON ?= python3
FUZZTIME ?= 5s
VERSIONS ?= 14 15 16 17 18
TIMEOUT ?= 30m

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the binary, bin/freshet
	CGO_ENABLED=0 go build -trimpath -o bin/freshet ./cmd/freshet

demo: build ## the whole system on a month of flights, verified, in ./demo-data
	bin/freshet demo --once --dir demo-data

test: ## all tests that need only Go; they wait as long as TIMEOUT lets them
	go test -timeout $(TIMEOUT) ./...

test-readers: ## DuckDB and Polars read our tables (needs Python 3.11; makes .venv)
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -r snapshots/readers/requirements.txt
	FRESHET_READERS_PYTHON=$(CURDIR)/.venv/bin/python go test -count=1 -run TestReaders ./snapshots/table ./integration

test-kafka: ## what speaks Kafka, on a real Apache Kafka, and KILLS of three brokers and two nodes (Java 17; Maven the first time)
	go build -o bin/realkafka ./internal/testkit/realkafka
	@# those of delta that read and write Kafka; of integration not those with the embedded one, which `make test` has, nor one that takes minutes
	bin/realkafka -- sh -c "go test -count=1 -timeout $(TIMEOUT) -p 1 ./internal/topic && \
		go test -count=1 -timeout $(TIMEOUT) -run 'Node|Elsewhere|WarmCopy|Checkpoint|Takeover|38Digits|DeadTopic|FarBehind|CatchesUp|GrewFrom|LostAfter|Input|LastRecord|LogIsGone|MadeOfRaw' ./delta && \
		go test -count=1 -timeout $(TIMEOUT) -skip 'IsKilled|KillsOverAHop|TestCaptureKills|OneVeryLarge|ZombieChangesNothing|DoNotTakeTurns|TestKillsLoseNothing|TestCompose' ./integration"
	bin/realkafka -- go test -count=1 -run KafkaStreams ./internal/bench
	bin/realkafka -brokers 3 -- go test -count=1 -timeout 0 -run TestKillsOverNodesAndBrokers -v ./integration

test-debezium: ## Kafka Connect, Debezium and confluent-kafka read our envelope (Java 17, Maven, Python)
	mvn -q -B -f capture/debezium/testdata/java/pom.xml org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/bin/debezium
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -r capture/debezium/testdata/requirements.txt
	FRESHET_DEBEZIUM_CLASSPATH='$(CURDIR)/bin/debezium/*' FRESHET_DEBEZIUM_PYTHON=$(CURDIR)/.venv/bin/python go test -count=1 -run TestRead ./capture/debezium

test-examples: ## the consumers of docs/examples follow a real system (Java 17, Maven, Python)
	mvn -q -B -f docs/examples/java/pom.xml org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/bin/examples
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -r docs/examples/python/requirements.txt
	FRESHET_EXAMPLES_CLASSPATH='$(CURDIR)/bin/examples/*' FRESHET_EXAMPLES_PYTHON=$(CURDIR)/.venv/bin/python go test -count=1 -run TestExamples ./integration

test-versions: ## capture, its parts, the doctor and a cut through the binary on PostgreSQL 14 to 18 (VERSIONS)
	@set -e; for v in $(VERSIONS); do echo "PostgreSQL $$v"; export FRESHET_TEST_POSTGRES=$$v; \
		go test -count=1 -p 1 ./capture/... ./internal/doctor; \
		go test -count=1 -run TestACutThatWasCutOffIsRecordedAtTakeover ./integration; done

lint: $(GOLANGCI) ## linters and formatting (.golangci.yml), go.mod tidy
	$(GOLANGCI) config verify
	$(GOLANGCI) run
	go mod tidy -diff

# About five minutes on two cores the first time; the version is in the name, so a new one is built.
$(GOLANGCI):
	GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(@:bin/golangci-lint-%=%)
	mv bin/golangci-lint $@

layering: ## who may import whom
	go test -count=1 ./internal/layering

generate: ## api/freshet/v1/*.pb.go from the proto
	go run ./api/gen

check-generated: ## what is checked in is what the proto generates
	go run ./api/gen -check

# Go's fuzzer sometimes fails at its own deadline ("context deadline exceeded", without an input). An input that
# fails is kept in testdata, so the second run fails too.
fuzz: ## every fuzz target for FUZZTIME (5s)
	@git grep -ohE '^func Fuzz[A-Za-z0-9]+' -- '*_test.go' >/dev/null || { echo "no fuzz target"; exit 1; }
	@set -e; git grep -oE '^func Fuzz[A-Za-z0-9]+' -- '*_test.go' | sed 's/:func /:/' | while IFS=: read -r file target; do \
		run() { go test -run '^$$' -fuzz "^$$target$$" -fuzzminimizetime 10x -fuzztime $(FUZZTIME) "./$$(dirname "$$file")"; }; \
		run || run; \
	done

bench-%: build ## one benchmark of `freshet bench`, by name
	bin/freshet bench $*

clean: ## what the targets above have made
	rm -rf bin demo-data .venv

.PHONY: help build demo test test-readers test-kafka test-debezium test-examples test-versions lint layering generate check-generated fuzz clean
