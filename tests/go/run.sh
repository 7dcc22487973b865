#!/bin/sh
# Build and run the tests that compare drover with etcd. Environment:
#   DROVER_BIN      the binary under test; default build/drover; "etcd": etcd in its place
#   DROVER_SEED     first seed of everything generated; default 1
#   DROVER_LONG     1: the full sizes
#   DROVER_ENGINES  default "sqlite postgres"
#   DROVER_TEST_TMP where data lives; default: in memory if there is plenty and the run is short
# Arguments go to the test binary: tests/go/run.sh -test.run Crash
set -eu
cd "$(dirname "$0")"
export GOFLAGS=-buildvcs=false
if [ "${DROVER_BIN:-}" != "" ] && [ "$DROVER_BIN" != etcd ]; then
    case $DROVER_BIN in
    /*) ;;
    *) DROVER_BIN=$(cd "${OLDPWD:-.}" && pwd)/$DROVER_BIN ;;
    esac
    export DROVER_BIN
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/drover-go.XXXXXX")
memory=
# A write that waits seven seconds for a slow disk ends with an error, as it should; and nothing
# here can tell whether a sync has reached a disk. So a short run stays away from it.
free=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
if [ -z "${DROVER_TEST_TMP:-}" ] && [ "${DROVER_LONG:-0}" != 1 ] &&
    [ "${free:-0}" -ge 8388608 ]; then
    memory=$(mktemp -d /dev/shm/drover-go.XXXXXX)
    chmod 755 "$memory"
    export DROVER_TEST_TMP="$memory"
fi
export DROVER_TEST_PIDS="$work/pids" DROVER_TOOLS="${DROVER_TOOLS:-$work/tools}"

# End what a test that died has left behind: our own children, by id, if the id is still theirs.
clean_up() {
    if [ -f "$DROVER_TEST_PIDS" ]; then
        while read -r pid name; do
            if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ]; then
                kill -9 "$pid" 2>/dev/null || true
            fi
        done <"$DROVER_TEST_PIDS"
    fi
    rm -rf "$work" ${memory:+"$memory"}
}
trap clean_up EXIT
trap 'exit 130' INT TERM

[ -x "$DROVER_TOOLS/etcdctl" ] || ./build-tools.sh "$DROVER_TOOLS"
go vet ./...
go test -c -o "$work/tests" .
limit=50m # Of a hang: ten times what it takes.
if [ "${DROVER_LONG:-0}" = 1 ]; then
    limit=120m
fi
"$work/tests" -test.v -test.timeout "$limit" "$@"
