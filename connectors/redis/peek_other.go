//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package redis

import "net"

// peek does nothing where sockets cannot be looked into without waiting: there bytes that come while a connection is idle are not noticed before its
// next use.
type peek struct{}

func (*peek) init(net.Conn) {}

func (*peek) silent() bool { return true }
