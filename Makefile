# A fresh machine with Rust and a C compiler is enough; what is missing besides is installed and named.

CARGO ?= cargo
BIN   := target/debug/testudo

.PHONY: demo build test fmt lint check-tools bench deny ui ui-if-possible ui-check ui-test ui-pictures

## The sample mesh with its users and attackers, live in this terminal.
demo: build
	@$(BIN) demo $(DEMO_ARGS)

## The binary and the sample services; with the dashboard where npm is there or can be installed.
build: ui-if-possible
	@$(CARGO) build --workspace --bins

## The dashboard, which the next build puts into the binary. Built anew only when something in ui/ changed.
ui: ui/dist/index.html

UI_SOURCES := $(shell find ui/src ui/public -type f 2>/dev/null) ui/index.html ui/vite.config.ts ui/svelte.config.js ui/tsconfig.json

ui/dist/index.html: ui/node_modules/.package-lock.json $(UI_SOURCES)
	@cd ui && npm run --silent build

ui/node_modules/.package-lock.json: ui/package-lock.json
	@$(MAKE) --no-print-directory check-node
	@echo "dashboard: fetching its libraries"
	@cd ui && npm ci --no-audit --no-fund --silent
	@touch $@

ui-if-possible:
	@$(MAKE) --no-print-directory ui || echo "dashboard: not built, see above; going on without it (GET / says how to get it)"

NODE_IS_NEW_ENOUGH = node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' 2>/dev/null
# Where the system's Node is older, one from the npm registry goes into ui/.node and before it.
export PATH := $(CURDIR)/ui/.node/node_modules/.bin:$(PATH)

.PHONY: check-node check-chromium
check-node:
	@command -v npm >/dev/null || { echo "npm is missing: installing it with Node"; apt-get update -qq && apt-get install -y -qq nodejs npm; }
	@$(NODE_IS_NEW_ENOUGH) || { echo "the dashboard needs Node 20 or newer, this is $$(node --version): installing one in ui/.node"; npm install --silent --no-audit --no-fund --no-save --prefix ui/.node node@22; }
	@$(NODE_IS_NEW_ENOUGH) || { echo "the dashboard needs Node 20 or newer; this is $$(node --version)"; exit 1; }

check-chromium:
	@command -v chromium >/dev/null || { echo "chromium is missing: installing it"; apt-get update -qq && apt-get install -y -qq chromium; }

## Everything that CI checks: format, lints, unit, integration and end-to-end tests on real sockets.
# All targets at once: one set of features for lints, the sample services and tests, so that nothing is built twice.
test: check-tools fmt ui-if-possible lint
	@$(CARGO) build --workspace --all-targets
	@$(CARGO) test --workspace --no-fail-fast
	@$(MAKE) --no-print-directory check-node >/dev/null 2>&1 || { echo "dashboard: NOT TESTED, there is no Node 20 here, and none could be installed"; exit 0; }; $(MAKE) --no-print-directory ui-test

## The dashboard alone: types, then headless Chromium before a mesh that really runs and before an invented large one.
ui-test: ui check-chromium
	@cd ui && npm run --silent check && npm test --silent

## The pictures in docs/, from the running demo.
ui-pictures: build check-chromium
	@cd ui && node tests/pictures.mjs

fmt: check-tools
	@$(CARGO) fmt --all --check

lint: check-tools
	@$(CARGO) clippy --workspace --all-targets -- -D warnings

check-tools:
	@command -v cc >/dev/null || { echo "a C compiler is missing: installing gcc"; apt-get update -qq && apt-get install -y -qq gcc; }
	@$(CARGO) fmt --version >/dev/null 2>&1 || { echo "rustfmt is missing: installing it"; rustup component add rustfmt; }
	@$(CARGO) clippy --version >/dev/null 2>&1 || { echo "clippy is missing: installing it"; rustup component add clippy; }

## What guard costs for a request, with allocation counts; then the whole proxy beside its peers (bench/README.md).
bench:
	@$(CARGO) bench --workspace --benches
	@bench/all.sh

## Licences, duplicate and banned crates, sources.
deny:
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: installing it"; $(CARGO) install --locked cargo-deny; }
	@cargo deny check licenses bans sources
