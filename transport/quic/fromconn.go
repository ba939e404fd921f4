package quic

import (
	"net"
	"sync"
	"time"
)

// FromConn returns c, on which each Write sends one packet and each Read receives one, as a net.PacketConn with one peer: wherever a packet is sent, it
// goes there, and all packets come from [RelayedPeer]. It takes c. A pair of ICE candidates that a TURN server relays is such a connection.
//
// Dial needs an address all the same: give it c.RemoteAddr(), or RelayedPeer.
func FromConn(c net.Conn) net.PacketConn {
	return &connected{c: c}
}

// RelayedPeer is the address of the one peer of a FromConn. It never changes, even where the connection below moves to another route, so that QUIC does not
// take that for a migration.
var RelayedPeer net.Addr = peerAddr{}

type peerAddr struct{}

func (peerAddr) Network() string { return "udp" }
func (peerAddr) String() string  { return "relayed" }

type connected struct {
	c     net.Conn
	close sync.Once
	err   error
}

func (p *connected) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := p.c.Read(b)
	return n, RelayedPeer, err
}

func (p *connected) WriteTo(b []byte, _ net.Addr) (int, error) { return p.c.Write(b) }

func (p *connected) Close() error {
	p.close.Do(func() { p.err = p.c.Close() })
	return p.err
}

func (p *connected) LocalAddr() net.Addr                { return p.c.LocalAddr() }
func (p *connected) SetDeadline(t time.Time) error      { return p.c.SetDeadline(t) }
func (p *connected) SetReadDeadline(t time.Time) error  { return p.c.SetReadDeadline(t) }
func (p *connected) SetWriteDeadline(t time.Time) error { return p.c.SetWriteDeadline(t) }
