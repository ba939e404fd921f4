package zmq

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// vectored reads from a connection into two places with one system call: the rest of a frame where it belongs, and what follows, which begins with the
// next frame's head, beside it. Without it each frame takes two reads, or copying.
type vectored struct {
	rc   syscall.RawConn
	try  func(fd uintptr) bool // made once, since it is called for each read
	into [2][]byte
	n    int
	err  error
}

func (v *vectored) init(nc net.Conn) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return
	}
	v.rc = rc
	v.try = func(fd uintptr) bool {
		for {
			v.n, v.err = unix.Readv(int(fd), v.into[:])
			if v.err != unix.EINTR {
				return v.err != unix.EAGAIN
			}
		}
	}
}

func (v *vectored) ready() bool { return v.rc != nil }

// read waits for bytes, as a net.Conn does, and returns how many came.
func (v *vectored) read(a, b []byte) (int, error) {
	v.into = [2][]byte{a, b}
	err := v.rc.Read(v.try)
	v.into = [2][]byte{}
	if err == nil {
		err = v.err
	}
	switch {
	case err != nil:
		return 0, err
	case v.n <= 0:
		return 0, io.EOF
	}
	return v.n, nil
}

// dead reports whether the peer has hung up, as far as can be seen without waiting.
func (v *vectored) dead() bool {
	if v.rc == nil {
		return false
	}
	dead := false
	err := v.rc.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		dead = err == nil && n == 0 || err != nil && err != unix.EAGAIN && err != unix.EINTR
	})
	return err != nil || dead
}
