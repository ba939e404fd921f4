package ucx

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/proxyplane/proxyplane/transport"
)

// A lease lets the peer read our memory for as long as we hold it. In shared memory a long body is copied by its receiver, out of the memory of the
// sender (CMA, XPMEM, KNEM), which takes no part in it and learns of it only afterwards. A sender that must go before that, as the peer
// stands still and Close does not wait for ever, gives its memory back, and the peer, when it goes on, would take whatever is there then for the body.
// So the sender ends its lease first, and the receiver looks, by the same way as the bytes came, whether the lease was still good after it had them all.
// That costs a system call for each body, and nobody waits.
type lease struct {
	word atomic.Uint64 // id, or 0 when it has ended
	id   uint64
}

// grant is what the peer is told of a lease.
type grant struct {
	pid  uint32
	addr uint64
	id   uint64
}

const grantSize = 4 + 8 + 8

// newLease makes one that is good until end. The address of its word does not change, as nothing on Go's heap moves; the carrier holds it.
func newLease() *lease {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	l := &lease{id: binary.LittleEndian.Uint64(b[:]) | 1}
	l.word.Store(l.id)
	return l
}

func (l *lease) grant() grant {
	return grant{uint32(os.Getpid()), uint64(uintptr(unsafe.Pointer(&l.word))), l.id}
}

// end revokes it: what the peer copies from here on it does not use. Only after that may memory be reused that the peer may still read.
func (l *lease) end() {
	if l != nil {
		l.word.Store(0)
	}
}

func (g *grant) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, g.pid)
	dst = binary.LittleEndian.AppendUint64(dst, g.addr)
	return binary.LittleEndian.AppendUint64(dst, g.id)
}

// parseGrant returns nil where there is none.
func parseGrant(b []byte) (*grant, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) < grantSize {
		return nil, fmt.Errorf("%w: a lease of %d bytes", transport.ErrCorrupt, len(b))
	}
	g := &grant{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint64(b[4:]), binary.LittleEndian.Uint64(b[12:])}
	if g.pid == 0 || g.pid > 1<<30 || g.addr == 0 || g.id == 0 {
		return nil, fmt.Errorf("%w: a lease that cannot be", transport.ErrCorrupt)
	}
	return g, nil
}

// good reports whether the peer still held its memory when good was called: nil.
func (g *grant) good() error {
	word, err := peek(int(g.pid), uintptr(g.addr))
	if err == nil && word != g.id {
		err = errors.New("it has closed the connection")
	}
	if err != nil {
		return fmt.Errorf("%w: the peer's memory may have changed while it was read: %w", transport.ErrUnavailable, err)
	}
	return nil
}

// readsPeer reports whether some of the transports read the sender's memory without the sender.
func readsPeer(transports []string) bool {
	for _, t := range transports {
		switch name, _, _ := strings.Cut(t, "/"); name {
		case "cma", "xpmem", "knem":
			return true
		}
	}
	return false
}
