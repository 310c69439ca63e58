# A fresh machine with Rust and a C compiler is enough; what is missing besides is installed and named.

CARGO ?= cargo
BIN   := target/debug/testudo

.PHONY: demo build test fmt lint check-tools bench deny

## The sample mesh with its users and attackers, live in this terminal.
demo: build
	@$(BIN) demo $(DEMO_ARGS)

## The binary and the sample services.
build:
	@$(CARGO) build --workspace --bins

## Everything that CI checks: format, lints, unit, integration and end-to-end tests on real sockets.
# All targets at once: one set of features for lints, the sample services and tests, so that nothing is built twice.
test: check-tools fmt lint
	@$(CARGO) build --workspace --all-targets
	@$(CARGO) test --workspace --no-fail-fast

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
