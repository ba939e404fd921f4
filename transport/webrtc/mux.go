package webrtc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
)

// MuxOptions of a Mux. The zero value is useful.
type MuxOptions struct {
	Logger *slog.Logger // default: none
}

// A Mux runs the ICE of any number of Agents on one UDP socket: packets are told apart by the user name in their STUN messages, and then by where they
// come from. So one port serves all peers, and the address that a STUN server sees is the one that peers reach everything else on that socket by, such
// as QUIC. All methods may be called concurrently.
type Mux struct {
	pc  *packets
	ice *ice.UniversalUDPMuxDefault
	up  netip.AddrPort
	net *network

	cancel context.CancelFunc
	once   sync.Once
	err    error
}

// NewMux returns a Mux on pc, which it takes. That may be a UDP socket, or what another protocol on the same socket leaves over: it must deliver STUN
// and DTLS packets (RFC 7983: those that begin with 0 to 3 and 20 to 63), and may deliver others, which are dropped. Its addresses must be
// *net.UDPAddr or print as IP address and port. Several packets at once are sent if it is a *net.UDPConn, or has a method UDP() *net.UDPConn, which lends one. Where it listens on the wildcard address, candidates are those of all interfaces.
func NewMux(pc net.PacketConn, o MuxOptions) (*Mux, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	local, err := addrPort(pc.LocalAddr())
	if err != nil {
		pc.Close()
		return nil, fmt.Errorf("webrtc.NewMux: the local address is of no UDP socket: %w", err)
	}
	enlarge(pc)
	ctx, cancel := context.WithCancel(context.Background())
	n, err := newNetwork(ctx)
	if err != nil {
		cancel()
		pc.Close()
		return nil, fmt.Errorf("webrtc.NewMux: %w", err)
	}
	m := &Mux{pc: &packets{PacketConn: pc, udp: udpBelow(pc), local: net.UDPAddrFromAddrPort(local), ready: make(chan struct{})}, up: local, net: n, cancel: cancel}
	m.ice = ice.NewUniversalUDPMuxDefault(ice.UniversalUDPMuxParams{Logger: logs{o.Logger}.NewLogger("mux"), UDPConn: m.pc, Net: n})
	close(m.pc.ready)
	return m, nil
}

// udpBelow returns the UDP socket that pc is, or says it is: one that is merely embedded in it must not be written to behind its back.
func udpBelow(pc net.PacketConn) *net.UDPConn {
	if !canSegment() {
		return nil
	}
	if u, ok := pc.(interface{ UDP() *net.UDPConn }); ok {
		return u.UDP()
	}
	u, _ := pc.(*net.UDPConn)
	return u
}

// LocalAddr returns the socket's address.
func (m *Mux) LocalAddr() net.Addr { return m.pc.LocalAddr() }

// Close closes the socket. Agents that use it lose their peers; close them first.
func (m *Mux) Close() error {
	m.once.Do(func() {
		m.cancel()
		m.pc.closed.Store(true)
		m.err = m.ice.Close()
		// Pion does not say when its reader has gone; it may at most be on its way from here.
		m.pc.reading.Lock()
		m.pc.reading.Unlock()
	})
	return m.err
}

// view is the Mux as one Agent sees it: with the candidates that it may offer.
type view struct {
	*ice.UniversalUDPMuxDefault
	addrs []net.Addr
}

func (v view) GetListenAddresses() []net.Addr { return v.addrs }

func (m *Mux) view(loopback bool) (view, error) {
	v := view{UniversalUDPMuxDefault: m.ice}
	if ip := m.up.Addr(); !ip.IsUnspecified() {
		if usable(ip, loopback) {
			v.addrs = append(v.addrs, net.UDPAddrFromAddrPort(m.up))
		}
		return v, nil
	}
	ips, err := localAddresses(loopback, maxLocal)
	if err != nil {
		return view{}, err
	}
	for _, ip := range ips {
		if m.up.Addr().Is4() && !ip.Is4() {
			continue
		}
		v.addrs = append(v.addrs, net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, m.up.Port())))
	}
	return v, nil
}

// reflexive asks a STUN server which address it sees. It asks again and again, as the one packet may be lost, until ctx ends.
func (m *Mux) reflexive(ctx context.Context, server netip.AddrPort) (netip.AddrPort, error) {
	to := net.UDPAddrFromAddrPort(server)
	for wait := 250 * time.Millisecond; ; wait *= 2 {
		x, err := m.ice.GetXORMappedAddrContext(ctx, to, wait)
		if ctx.Err() != nil {
			return netip.AddrPort{}, ctx.Err()
		}
		if err == nil {
			ip, ok := netip.AddrFromSlice(x.IP)
			if ip = ip.Unmap(); !ok || x.Port < 1 || x.Port > 65535 || !usable(ip, true) {
				return netip.AddrPort{}, fmt.Errorf("STUN server %v answered with the address %v", server, x)
			}
			return netip.AddrPortFrom(ip, uint16(x.Port)), nil
		}
		if m.pc.closed.Load() {
			return netip.AddrPort{}, net.ErrClosed
		}
		if wait > 4*time.Second {
			return netip.AddrPort{}, err
		}
	}
}

// packets is the PacketConn below a Mux. Pion gives up after an error of reading, and expects *net.UDPAddr.
type packets struct {
	net.PacketConn
	udp     *net.UDPConn // the socket below, if several packets can be sent on it at once
	local   *net.UDPAddr
	ready   chan struct{} // closed when pion can stand a packet: it begins to read before it has set itself up
	closed  atomic.Bool
	routes  sync.Map   // netip.AddrPort -> *Agent whose selected pair leads there
	probes  sync.Map   // transaction id -> *pending
	reading sync.Mutex // held while a packet is waited for
}

func (p *packets) LocalAddr() net.Addr { return p.local }

func (p *packets) ReadFrom(b []byte) (int, net.Addr, error) {
	<-p.ready
	p.reading.Lock()
	defer p.reading.Unlock()
	for pause := time.Millisecond; !p.closed.Load(); {
		n, from, err := p.PacketConn.ReadFrom(b)
		switch {
		case err == nil:
		case p.closed.Load() || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || pause > time.Second:
			return 0, nil, io.EOF
		default:
			// An error that belongs to one packet (an ICMP message, one longer than b) must not end all peerings. If it stays, it is the socket's.
			time.Sleep(pause)
			pause *= 2
			continue
		}
		pause = time.Millisecond
		if n == 0 || b[0] > 3 && b[0] < 20 || b[0] > 63 {
			continue
		}
		a, err := addrPort(from)
		if err != nil {
			continue
		}
		if b[0] >= 20 {
			if agent, ok := p.routes.Load(a); ok {
				agent.(*Agent).dtls.Load().buf.Write(b[:n]) // see Agent.receive
				continue
			}
		} else if p.answer(b[:n], a) {
			continue
		}
		if _, ok := from.(*net.UDPAddr); !ok {
			from = net.UDPAddrFromAddrPort(a)
		}
		return n, from, nil
	}
	return 0, nil, io.EOF
}

func addrPort(a net.Addr) (netip.AddrPort, error) {
	if a == nil {
		return netip.AddrPort{}, errors.New("there is none")
	}
	var ap netip.AddrPort
	if u, ok := a.(*net.UDPAddr); ok {
		ap = u.AddrPort()
	} else {
		var err error
		if ap, err = netip.ParseAddrPort(a.String()); err != nil {
			return netip.AddrPort{}, err
		}
	}
	if !ap.Addr().IsValid() {
		return netip.AddrPort{}, fmt.Errorf("%v has no IP address", a)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}
