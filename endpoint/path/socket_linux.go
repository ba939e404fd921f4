package path

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout is how long bytes may be under way unacknowledged before a connection counts as broken.
const userTimeout = 15 * time.Second

func setUserTimeout(c *net.TCPConn) {
	rc, err := c.SyscallConn()
	if err != nil {
		return
	}
	rc.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond)) // best effort: the control connection's pings notice too
	})
}
