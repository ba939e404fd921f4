//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package tcp

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockDir keeps others that use it out of a directory until unlock is called.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "flock", Path: dir, Err: err}
	}
	return func() { f.Close() }, nil
}
