package webrtc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	pion "github.com/pion/transport/v4"
	"github.com/pion/transport/v4/stdnet"
)

// socketBuffer is what is asked of the system for UDP sockets, each way: of 1 Gbit/s some 30 ms, which is how long a program can be kept from
// reading. The system may give less (Linux: net.core.rmem_max). With the usual 208 KiB a data channel over 1 Gbit/s and 20 ms got a third of
// what it gets with 4 MiB.
const socketBuffer = 4 << 20

func enlarge(c any) {
	if c, ok := c.(interface{ SetReadBuffer(int) error }); ok {
		c.SetReadBuffer(socketBuffer)
	}
	if c, ok := c.(interface{ SetWriteBuffer(int) error }); ok {
		c.SetWriteBuffer(socketBuffer)
	}
}

// network is what pion sees of the system: sockets with large buffers, and no name look-up or connection attempt that outlives the Agent. Pion waits
// for all of them when an Agent is closed, and cannot stop them itself.
type network struct {
	*stdnet.Net
	ctx context.Context // of the Agent

	mu      sync.Mutex
	sockets map[*socket]struct{}
	closed  bool
}

func newNetwork(ctx context.Context) (*network, error) {
	n, err := stdnet.NewNet()
	if err != nil {
		return nil, fmt.Errorf("listing the network interfaces: %w", err)
	}
	return &network{Net: n, ctx: ctx, sockets: make(map[*socket]struct{})}, nil
}

// socket is one of a network that forgets it when it is closed.
type socket struct {
	*net.UDPConn
	n *network
}

func (s *socket) Close() error {
	s.n.mu.Lock()
	delete(s.n.sockets, s)
	s.n.mu.Unlock()
	return s.UDPConn.Close()
}

func (n *network) adopt(c *net.UDPConn) (*socket, error) {
	enlarge(c)
	s := &socket{c, n}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		c.Close()
		return nil, net.ErrClosed
	}
	n.sockets[s] = struct{}{}
	return s, nil
}

// close ends what still waits for a packet.
func (n *network) close() {
	n.mu.Lock()
	n.closed = true
	open := n.sockets
	n.sockets = nil
	n.mu.Unlock()
	for s := range open {
		s.UDPConn.Close()
	}
}

func (n *network) ListenUDP(network string, a *net.UDPAddr) (pion.UDPConn, error) {
	c, err := net.ListenUDP(network, a)
	if err != nil {
		return nil, err
	}
	return n.adopt(c)
}

func (n *network) ListenPacket(network, address string) (net.PacketConn, error) {
	c, err := new(net.ListenConfig).ListenPacket(n.ctx, network, address)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		return c, nil
	}
	return n.adopt(u)
}

func (n *network) DialUDP(network string, local, remote *net.UDPAddr) (pion.UDPConn, error) {
	c, err := net.DialUDP(network, local, remote)
	if err != nil {
		return nil, err
	}
	return n.adopt(c)
}

func (n *network) DialTCP(network string, local, remote *net.TCPAddr) (pion.TCPConn, error) {
	d := net.Dialer{}
	if local != nil {
		d.LocalAddr = local
	}
	c, err := d.DialContext(n.ctx, network, remote.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (n *network) Dial(network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(n.ctx, network, address)
}

func (n *network) ResolveUDPAddr(network, address string) (*net.UDPAddr, error) {
	a, err := resolve(n.ctx, network, address)
	if err != nil {
		return nil, err
	}
	return net.UDPAddrFromAddrPort(a), nil
}

func (n *network) ResolveTCPAddr(network, address string) (*net.TCPAddr, error) {
	a, err := resolve(n.ctx, network, address)
	if err != nil {
		return nil, err
	}
	return net.TCPAddrFromAddrPort(a), nil
}

// resolve looks up a host and port. network ends in "4" or "6" where only such addresses are wanted; else IPv4 is preferred, as in package net.
func resolve(ctx context.Context, network, address string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q: %w", port, err)
	}
	family := "ip"
	switch network[len(network)-1] {
	case '4':
		family = "ip4"
	case '6':
		family = "ip6"
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, family, host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if len(ips) == 0 {
		return netip.AddrPort{}, &net.DNSError{Err: "no suitable address", Name: host, IsNotFound: true}
	}
	best := ips[0].Unmap()
	for _, ip := range ips {
		if ip = ip.Unmap(); ip.Is4() {
			best = ip
			break
		}
	}
	return netip.AddrPortFrom(best, uint16(p)), nil
}

// localAddresses lists those of this machine that a peer may reach: of interfaces that are up, no link-local ones (IPv6: RFC 8445, section 5.1.1.1)
// and none of loopback unless asked for. At most max.
func localAddresses(loopback bool, max int) ([]netip.Addr, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing the network interfaces: %w", err)
	}
	var out []netip.Addr
	for _, i := range ifs {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 && !loopback {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			ip, ok := netip.AddrFromSlice(n.IP)
			if ip = ip.Unmap(); !ok || !usable(ip, loopback) || ip.IsLinkLocalUnicast() {
				continue
			}
			if len(out) < max {
				out = append(out, ip)
			}
		}
	}
	return out, nil
}

// usable reports whether packets may be sent to an address that somebody names. Loopback is refused so that a peer cannot have this program talk to
// what listens there and trusts its own host.
func usable(ip netip.Addr, loopback bool) bool {
	return ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && (loopback || !ip.IsLoopback())
}
