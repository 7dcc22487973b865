#!/bin/sh
# Build etcd and etcdctl, at the versions that go.mod pins, into a folder.
# usage: tests/go/build-tools.sh OUTDIR
set -eu
if [ $# -ne 1 ]; then
    echo "usage: $0 OUTDIR" >&2
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")"
export GOFLAGS=-buildvcs=false CGO_ENABLED=0
go build -o "$out/etcd" go.etcd.io/etcd/server/v3
go build -o "$out/etcdctl" go.etcd.io/etcd/etcdctl/v3
