package tcp

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout bounds how long sent bytes may stay without an answer. Keepalive alone does not see a peer that vanished while something is under way.
func userTimeout(c *net.TCPConn, d time.Duration) {
	if rc, err := c.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		})
	}
}

// chmodSocket gives the file that a unix socket will become its permissions before it exists, so that there is no moment with others.
func chmodSocket(rc syscall.RawConn, mode uint32) error {
	var err error
	if cerr := rc.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), mode) }); cerr != nil {
		return cerr
	}
	return err
}
