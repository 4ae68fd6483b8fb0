#!/usr/bin/env bash
# Builds everything and runs the whole comparison.
#   ./run.sh            all cells, 3 rounds (about 30 minutes)
#   ./run.sh --quick    1 KiB cells only, 1 round (2 to 3 minutes)
#   ./run.sh --parts floor,peers --only seawal,home,raft-engine --rounds 5
#   ./run.sh --parts peers --only seawal --payloads 100,1024 --appenders 1,16,256 --rounds 9
# Any option of `peers run` may follow. Environment: OUT (results folder,
# default ./results), DIR (data folder, default ./bench-data; it must lie on the
# disk to be measured, not on tmpfs), FEATURES (default "rocksdb"; empty leaves
# RocksDB out), CARGO_TARGET_DIR.
set -euo pipefail
cd "$(dirname "$0")"

quick=() rest=() parts=floor,peers,batch,replay,redis,etcd
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=(--quick true) ;;
    --parts) parts=${2?--parts needs a value} rest+=("$1" "$2"); shift ;;
    *) rest+=("$1") ;;
  esac
  shift
done

OUT=${OUT:-./results}
DIR=${DIR:-./bench-data}
FEATURES=${FEATURES-rocksdb}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${TMPDIR:-/tmp}/peers-target}
mkdir -p "$OUT" "$DIR"

has() { [[ ",$parts," == *",$1,"* ]]; }

need=()
if has redis; then
  command -v redis-server >/dev/null && command -v redis-benchmark >/dev/null || need+=(redis-server redis-tools)
fi
# etcd's WAL is also replayed.
etcd=
if has etcd || has replay; then
  etcd=yes
  command -v go >/dev/null || need+=(golang-go)
  [ -d /usr/share/gocode/src/go.etcd.io/etcd/wal ] || need+=(golang-etcd-server-dev)
fi
if [ -n "$FEATURES" ]; then
  command -v clang >/dev/null || need+=(clang libclang-dev)
  [ -e /usr/include/rocksdb/c.h ] || need+=(librocksdb-dev)
fi
if [ ${#need[@]} -gt 0 ]; then
  apt-get -o DPkg::Lock::Timeout=300 update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -o DPkg::Lock::Timeout=300 install -qy \
    --no-install-recommends "${need[@]}" >/dev/null
fi

if [ -n "$FEATURES" ]; then
  # Debian's library and headers instead of the bundled C++ (half an hour here).
  ROCKSDB_LIB_DIR=$(dirname "$(dpkg -L librocksdb-dev | grep -m1 'librocksdb\.so$')")
  export ROCKSDB_LIB_DIR ROCKSDB_INCLUDE_DIR=/usr/include
fi
cargo build --release --locked ${FEATURES:+--features "$FEATURES"}
etcd_args=()
if [ -n "$etcd" ]; then
  etcd_bin="$CARGO_TARGET_DIR/etcd-wal-bench"
  (cd etcd-go && GO111MODULE=off GOFLAGS='' GOPATH=/usr/share/gocode \
    GOCACHE="$CARGO_TARGET_DIR/go-cache" go build -o "$etcd_bin" .)
  etcd_args=(--etcd-bin "$etcd_bin")
fi

if [ "$(stat -f -c %T "$DIR")" = tmpfs ]; then
  echo "the data folder lies on tmpfs: nothing durable to measure there" >&2
  exit 1
fi

load=$(cut -d' ' -f1 /proc/loadavg)
echo "load average before the run: $load" >&2
"$CARGO_TARGET_DIR/release/peers" run "${quick[@]}" --dir "$DIR" --out "$OUT/results.jsonl" \
  "${etcd_args[@]}" "${rest[@]}" | tee "$OUT/results.md"
