//go:build cgo && ucx

package soak

import (
	"context"
	"testing"

	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/ucx"
)

func init() {
	kindsOfServers["ucx"] = kindOfServer{"ucx", func(*testing.T) string { return "127.0.0.1:0" }, func(addr string, store objects.Store) (objects.Server, error) {
		return ucx.Listen(context.Background(), addr, store, ucx.ListenOptions{})
	}}
}
