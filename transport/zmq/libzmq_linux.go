//go:build cgo && zmq

package zmq

import "golang.org/x/sys/unix"

// received returns how many bytes have come over a TCP connection, if the system counts them.
func received(fd int) (uint64, bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return info.Bytes_received, true
}
