//go:build unix && !solaris && !illumos && !aix

package objects

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// canLock says that a lock is gone when its process dies, so that leftovers of dead servers can be told from the files of others.
const canLock = true

// lockFile locks f against other processes until it is closed. If somebody else has it, lockFile waits or
// fails.
func lockFile(f *os.File, wait bool) error {
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		for {
			if err = unix.Flock(int(fd), how); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return &os.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	return nil
}
