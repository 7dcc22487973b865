//go:build tools

// Package tests holds the programs that build-tools.sh builds, so that go.mod pins them.
package tests

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
