package ucx

import (
	"encoding/binary"
	"fmt"

	"github.com/proxyplane/proxyplane/transport"
)

// amID is the id of our active messages.
const amID = 0x50

// clientID is what our clients say in their connection requests, by which a listener tells them from ucx-py: "pxplane1".
const clientID = 0x7078706c616e6531

// A frame of the native protocol travels as one or more active messages. What it consists of, its metadata and its body, is a run of bytes that
// each message carries a piece of: first what follows the prefix in the message's header, up to head; then the message's data; then the rest of the
// header. So a body's short first and last parts go along with a long one in the middle that is sent from, and received into, where it belongs.
const (
	kindHello = 1 + iota // the first of each side: what it is, and where else it can be reached
	kindFrame            // begins a frame: the native header follows the prefix
	kindMore             // goes on with a frame
	kindBye              // nothing comes any more
)

const prefixSize = 8

// prefix begins the header of each active message. Numbers are little-endian.
type prefix struct {
	kind uint8
	head uint16 // bytes of the rest of the header that come before the data
	seq  uint32 // counts the messages of one direction: UCX delivers them, but not always in order
}

func (p prefix) append(dst []byte) []byte {
	dst = append(dst, p.kind, 0)
	dst = binary.LittleEndian.AppendUint16(dst, p.head)
	return binary.LittleEndian.AppendUint32(dst, p.seq)
}

// parsePrefix takes the prefix off a header.
func parsePrefix(b []byte) (p prefix, rest []byte, err error) {
	if len(b) < prefixSize {
		return p, nil, fmt.Errorf("%w: an active message with %d bytes of header", transport.ErrCorrupt, len(b))
	}
	p.kind, p.head, p.seq = b[0], binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
	if p.kind < kindHello || p.kind > kindBye {
		return p, nil, fmt.Errorf("%w: an active message of kind %d", transport.ErrCorrupt, p.kind)
	}
	return p, b[prefixSize:], nil
}

const (
	helloVersion = 1
	maxHost      = 256
	maxAddress   = 64 << 10
	maxLease     = 256
)

// hello is the data of a kindHello: version, and three runs of bytes, each after its length in two bytes.
type hello struct {
	host    []byte // names the booted system, so that two sides know that they may share memory
	address []byte // of the worker, for shared memory; empty if there is to be none
	lease   []byte // a grant; empty if there is none
}

func (h *hello) append(dst []byte) []byte {
	dst = append(dst, helloVersion)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(h.host)))
	dst = append(dst, h.host...)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(h.address)))
	dst = append(dst, h.address...)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(h.lease)))
	return append(dst, h.lease...)
}

// parse lends from b. What follows the three is for later versions.
func (h *hello) parse(b []byte) error {
	if len(b) < 1 || b[0] != helloVersion {
		return fmt.Errorf("%w: the peer speaks another version of this transport", transport.ErrCorrupt)
	}
	rest := b[1:]
	for _, f := range []struct {
		to    *[]byte
		limit int
	}{{&h.host, maxHost}, {&h.address, maxAddress}, {&h.lease, maxLease}} {
		if len(rest) < 2 {
			return fmt.Errorf("%w: a hello of %d bytes", transport.ErrCorrupt, len(b))
		}
		n := int(binary.LittleEndian.Uint16(rest))
		if n > f.limit || n > len(rest)-2 {
			return fmt.Errorf("%w: a hello of %d bytes with a field of %d", transport.ErrCorrupt, len(b), n)
		}
		*f.to, rest = rest[2:2+n:2+n], rest[2+n:]
	}
	return nil
}
