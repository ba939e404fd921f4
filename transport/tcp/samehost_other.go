//go:build !linux

package tcp

import (
	"context"
	"errors"
	"net"

	"github.com/proxyplane/proxyplane/transport/native"
)

// Files are passed on Linux only, and without that a unix socket of its own would gain a TCP server little.

func bootID() string { return "" }

func listenLocal(string) (*net.UnixListener, error) { return nil, errors.ErrUnsupported }

func removeLocal(string) {}

func sameHost(context.Context, native.Welcome, *DialOptions) *native.Client { return nil }
