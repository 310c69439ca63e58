#!/bin/sh
# watch.sh [SEED:HOURS]: the detectors on labelled traffic of our own: 20 services with daily seasons, noise, deploys and harmless
# bursts; 16 kinds of attack at three strengths. Prints recall, false incidents and who was contained; fails below the floors of the
# test that it runs (crates/testudo-control/tests/labelled). Left out: a day of a seed that nothing was tuned on.
cd "$(dirname "$0")/.." && TESTUDO_LABELLED=${1:-31337:24} exec cargo test --workspace --test labelled -- --nocapture
