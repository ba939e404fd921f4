package webrtc

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/transport/v4/packetio"
)

const (
	// packetSize is the longest packet that pion's ICE, DTLS and SCTP handle.
	packetSize = 8 << 10
	// portBuffer is what waits for a port's reader at most, and earlyBuffer while it has none yet: enough for a first flight.
	portBuffer  = 4 << 20
	earlyBuffer = 32 << 10
)

// port is one of the two protocols that may run over an Agent's path: a net.Conn, and a net.PacketConn whose only peer is the Agent's. It has one
// reader, until it is closed; whoever comes then gets another.
type port struct {
	a     *Agent
	slot  *atomic.Pointer[port] // where packets find the present one
	buf   *packetio.Buffer
	batch batch
}

func newPort(a *Agent, slot *atomic.Pointer[port]) *port {
	p := &port{a: a, slot: slot, buf: packetio.NewBuffer()}
	p.buf.SetLimitSize(earlyBuffer)
	return p
}

// open returns the port in the slot. More may wait for its reader, which comes now.
func open(slot *atomic.Pointer[port]) *port {
	p := slot.Load()
	p.buf.SetLimitSize(portBuffer)
	return p
}

// Close ends what reads now. Later packets wait for the next reader.
func (p *port) Close() error {
	err := p.buf.Close()
	next := newPort(p.a, p.slot)
	if p.slot.CompareAndSwap(p, next) && p.a.ctx.Err() != nil {
		next.buf.Close()
	}
	return err
}

func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := p.buf.Read(b)
		if errors.Is(err, io.ErrShortBuffer) {
			continue // a packet longer than anybody sends
		}
		if errors.Is(err, io.EOF) {
			return 0, net.ErrClosed
		}
		return n, err
	}
}

func (p *port) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := p.Read(b)
	return n, p.a.peer(), err
}

// Write sends a packet over the path. Where there is none now it is lost, as packets are.
func (p *port) Write(b []byte) (int, error) {
	if p.a.ctx.Err() == nil && p.add(b) {
		return len(b), nil
	}
	return p.send(b)
}

func (p *port) send(b []byte) (int, error) {
	c := p.a.conn.Load()
	if p.a.ctx.Err() != nil {
		return 0, net.ErrClosed
	}
	if c == nil {
		return len(b), nil
	}
	n, err := c.Write(b)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, ice.ErrClosed) || errors.Is(err, io.ErrClosedPipe):
		return 0, net.ErrClosed
	}
	return len(b), nil
}

func (p *port) WriteTo(b []byte, _ net.Addr) (int, error) { return p.Write(b) }

func (p *port) LocalAddr() net.Addr {
	pair, _ := p.a.Pair()
	return net.UDPAddrFromAddrPort(pair.Local)
}

func (p *port) RemoteAddr() net.Addr { return p.a.peer() }

func (p *port) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

func (p *port) SetReadDeadline(t time.Time) error { return p.buf.SetReadDeadline(t) }

// SetWriteDeadline has nothing to do: writes do not wait.
func (p *port) SetWriteDeadline(time.Time) error { return nil }

// receive deals out what comes over the path (RFC 7983, RFC 9443).
func (a *Agent) receive(c *ice.Conn) {
	b := make([]byte, packetSize)
	for {
		n, err := c.Read(b)
		if errors.Is(err, io.ErrShortBuffer) {
			continue
		}
		if err != nil {
			return
		}
		switch {
		case n == 0:
		case b[0] >= 20 && b[0] < 64:
			a.dtls.Load().buf.Write(b[:n]) // dropped where too many wait, as a socket does
		case b[0] >= 64:
			a.other.Load().buf.Write(b[:n])
		}
	}
}
