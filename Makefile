# The front door. `make` prints this list; CI calls the same targets people do.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build fmt lint test test-quick test-fault fuzz bench bench-ingest bench-processor bench-peers bench-sink schemas up down demo doc audit ci

CARGO ?= cargo
BIN := $(or $(CARGO_TARGET_DIR),target)/debug
TOOLS := $(or $(MARKETFLOW_TOOLS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/marketflow/tools)
export PATH := $(PATH):$(HOME)/.cargo/bin:$(TOOLS)/promtool
export MARKETFLOW_COMMIT := $(shell git rev-parse --short=12 HEAD 2>/dev/null)

PURE := model providers pacing contract engine oracle

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: ## install what a fresh machine lacks; offline and instant the second time
	@scripts/setup.sh

build:
	@scripts/setup.sh --to-run
	@$(CARGO) build --workspace --bins

fmt: ## format the Rust sources
	@$(CARGO) fmt --all

lint: setup ## formatting, clippy, documentation links, Prometheus rules; warnings are errors
	@$(CARGO) fmt --all --check
	@promtool check config prometheus/prometheus.yml && promtool test rules prometheus/alerts.test.yml
	@$(CARGO) clippy --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

test: setup ## every tier, at most 55 minutes; what fails once and passes when repeated is named unstable
	@$(CARGO) build --workspace --bins --tests
	@CARGO="$(CARGO)" timeout --kill-after=30s 55m scripts/test.sh

test-quick: ## the tiers that need no services, a couple of minutes
	@timeout --kill-after=30s 10m $(CARGO) test $(PURE:%=-p marketflow-%)

test-fault: setup build ## crashes and broken networks, of the processor and the sink; SEED=n repeats a run, SOAK=1 runs the full counts
	@timeout --kill-after=30s $(if $(SOAK),6h,20m) env SEED=$(or $(SEED),$$RANDOM) $(if $(SOAK),SOAK=$(SOAK)) \
	    $(CARGO) test --workspace --test fault --test sink_faults -- --nocapture

fuzz: setup ## any bytes as records and as venues' messages, a minute each; SECONDS=n longer
	@fuzz/run.sh decode $(or $(SECONDS),60)
	@fuzz/run.sh frames $(or $(SECONDS),60)

bench: setup ## throughput and cost of the whole path, in release; appends to docs/benchmarks.md
	@$(CARGO) build --release --workspace --bins
	@$(or $(CARGO_TARGET_DIR),target)/release/marketflow-benches

bench-processor: setup ## the processor's memory, restore, processes and latency, in release; appends to docs/benchmarks.md
	@$(CARGO) build --release --workspace --bins
	@$(or $(CARGO_TARGET_DIR),target)/release/marketflow-benches processor

bench-ingest: setup ## one tick-producer on one core, thousands of instruments and a burst, in release; appends to docs/benchmarks.md
	@$(CARGO) build --release --workspace --bins
	@$(or $(CARGO_TARGET_DIR),target)/release/marketflow-benches ingest

bench-sink: setup ## the sink beside its floors and ClickHouse's Kafka engine, in release; appends to docs/benchmarks.md
	@$(CARGO) build --release --workspace --bins
	@$(or $(CARGO_TARGET_DIR),target)/release/marketflow-benches sink

schemas: ## schemas compatible with the last committed version, examples and generated files fresh
	@$(CARGO) test -p marketflow-contract
	@$(CARGO) test -p marketflow-tests --test contract

bench-peers: setup ## the processor beside Kafka Streams, Flink and the floor; ROUNDS=1 SIZES="1000000 2000000" for a quick look
	@benches/peers/peers.py

up: build ## start the local stack in the background
	@$(BIN)/marketflow up

down: ## stop the local stack; data stays
	@if [[ -x $(BIN)/marketflow ]]; then $(BIN)/marketflow down; else echo "nothing was built here, so nothing runs"; fi

demo: build ## a recorded session through the whole path, checked at the end; MARKET=krx a Korean day, MARKET=flows six markets, LIVE=1 a live one, KEEP=1 leaves it running
	@$(BIN)/marketflow demo $(if $(MARKET),--market $(MARKET)) $(if $(LIVE),--live) $(if $(KEEP),--keep)

doc: ## build the API documentation
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

audit: ## licences and sources of all dependencies, offline; advisories when the tool is there
	@scripts/audit.py

ci: setup lint test ## what CI runs
