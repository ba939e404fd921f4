package quic

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

const gsoExpected = true

func receiveBuffer(t testing.TB, c *net.UDPConn) (size int) {
	rc, err := c.SyscallConn()
	must(t, err)
	must(t, rc.Control(func(fd uintptr) { size, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF) }))
	must(t, err)
	return size
}
