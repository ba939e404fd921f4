# make alone prints the targets.
GO ?= go
PYTHON ?= python3

.PHONY: help demo setup test check race tags lint fuzz bench bench-quick bench-sites soak clean

help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: ## the main job on the shipped dataset: no server, no cgo
	$(GO) run ./cmd/proxyplane demo

setup: ## install what the tests need and is missing (redis-server, Python packages)
	./scripts/setup

test: ## install what is missing, then build, lint and test everything: what CI runs
	./scripts/test

check: ## the tests that need nothing but Go, and the interop tests if the Python environments are there
	CGO_ENABLED=0 $(GO) test ./...

tags: ## build with each tag and with all (needs gcc, libzmq3-dev, libucx-dev)
	CGO_ENABLED=1 $(GO) build -tags zmq ./... && CGO_ENABLED=1 $(GO) build -tags ucx ./... && CGO_ENABLED=1 $(GO) build -tags zmq,ucx ./...

race: ## all tests under the race detector
	$(GO) test -race ./...

lint: ## formatting, vet, module file
	./scripts/lint

fuzz: ## every fuzz target for FUZZTIME each (default 10s)
	./scripts/fuzz

bench: ## ours beside ProxyStore and beside the floor, all sizes, with the report
	$(GO) test -run '^$$' -bench . -timeout 60m ./bench/...

bench-quick: ## the same with 1 kB and 1 MB only
	$(GO) test -run '^$$' -bench . -benchtime 100x ./bench -args -quick

bench-sites: ## endpoints of two sites beside ProxyStore's and plain TCP, over emulated links (needs root; 20 minutes)
	$(GO) run ./bench/intersite

soak: ## the long runs: 10 GB through each connector, kill -9 in a loop, fuzzing for minutes
	./scripts/soak

clean: ## remove build outputs and the Python environments
	rm -rf bin .venv-* *.test *.prof
