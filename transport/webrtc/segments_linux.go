package webrtc

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// canSegment reports whether the system cuts a long datagram into packets (UDP_SEGMENT, Linux 4.18). One that does not know it would send it as it is.
func canSegment() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, err = unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	return err == nil
}

// writeSegments sends b as packets of size bytes, the last of which may be shorter.
func (p *packets) writeSegments(b []byte, size int, to netip.AddrPort) error {
	if p.udp == nil {
		return errors.ErrUnsupported
	}
	var oob [32]byte
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], uint16(size))
	_, _, err := p.udp.WriteMsgUDPAddrPort(b, oob[:unix.CmsgSpace(2)], to)
	return err
}

// segmentsRefused reports whether an error means that it will not work next time, either: the network device cannot do it, or a packet does not fit into it.
func segmentsRefused(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EMSGSIZE)
}
