package endpoint

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// chmodSocket gives the file that a unix socket will become its permissions before it exists, so that there is no moment with others.
func chmodSocket(rc syscall.RawConn, mode uint32) error {
	var err error
	if cerr := rc.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), mode) }); cerr != nil {
		return cerr
	}
	return err
}
