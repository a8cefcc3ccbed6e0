.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: ## all tests that need only Go
	go test ./...

lint: ## formatting, vet, tidy
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "not gofmt-ed:"; echo "$$out"; exit 1; }
	go vet ./...
	go mod tidy -diff

layering: ## who may import whom
	go test -count=1 ./internal/layering

test-readers: ## DuckDB and Polars read our tables (needs Python 3.11; makes .venv)
	test -x .venv/bin/python || python3 -m venv .venv
	.venv/bin/pip install --quiet -r snapshots/readers/requirements.txt
	FRESHET_READERS_PYTHON=$(CURDIR)/.venv/bin/python go test -count=1 -run TestReaders ./snapshots/table

.PHONY: help test lint layering test-readers
