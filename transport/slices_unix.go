//go:build darwin || linux || openbsd

package transport

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxIovecs is IOV_MAX, the most parts that one writev takes.
const maxIovecs = 1024

// writeFile writes all parts by writev, so that a tag and a body cost one system call.
func (s Slices) writeFile(f *os.File) (int64, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	rest := append(make([][]byte, 0, len(s)), s...)
	var total int64
	for {
		for len(rest) > 0 && len(rest[0]) == 0 {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return total, nil
		}
		var n int
		var werr error
		err := conn.Write(func(fd uintptr) bool {
			for {
				n, werr = unix.Writev(int(fd), rest[:min(len(rest), maxIovecs)])
				if !errors.Is(werr, unix.EINTR) {
					return !errors.Is(werr, unix.EAGAIN)
				}
			}
		})
		switch {
		case err == nil:
			err = werr
		case errors.Is(checkOpen(f), os.ErrClosed): // conn has a private error for it
			err = os.ErrClosed
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return total, &os.PathError{Op: "writev", Path: f.Name(), Err: err}
		}
		total += int64(n)
		for n > 0 {
			if n < len(rest[0]) {
				rest[0] = rest[0][n:]
				break
			}
			n -= len(rest[0])
			rest = rest[1:]
		}
	}
}

// checkOpen returns the error that writing to f has for an f that was closed.
func checkOpen(f *os.File) error {
	_, err := f.Write(nil)
	return err
}
