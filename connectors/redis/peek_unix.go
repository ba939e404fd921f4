//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package redis

import (
	"net"
	"syscall"
)

// peek looks into a socket without taking anything out, waiting, or minding deadlines.
type peek struct {
	rc    syscall.RawConn
	look  func(fd uintptr)
	b     [1]byte
	quiet bool
}

func (p *peek) init(raw net.Conn) {
	sc, ok := raw.(syscall.Conn)
	if !ok {
		return
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return
	}
	p.rc = rc
	p.look = func(fd uintptr) { // made once, since it is called for each use of the connection
		_, _, err := syscall.Recvfrom(int(fd), p.b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		p.quiet = err == syscall.EAGAIN || err == syscall.EINTR
	}
}

// silent reports whether the socket is open and has nothing to read.
func (p *peek) silent() bool {
	if p.rc == nil {
		return true
	}
	p.quiet = false
	return p.rc.Control(p.look) == nil && p.quiet
}
