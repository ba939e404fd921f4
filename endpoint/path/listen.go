package path

import (
	"container/list"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
)

// TLSOptions of a TLSListener. Certificate and Peer are required.
type TLSOptions struct {
	// Certificate is shown to every peer.
	Certificate tls.Certificate
	// Peer says whose certificate that is, in DER, or that it is nobody's who is expected now: then the handshake fails, and not a byte of ours is read. It is
	// asked for each connection, so a peer must be expected as long as it has a Path, by many goroutines at once, after the peer has proved that it has the
	// key. It must not keep der.
	Peer func(der []byte) (peer uuid.UUID, err error)

	// Advertise replaces what Addrs returns: "host:port", or "host", which gets the listener's port.
	Advertise []string
	// Loopback makes Addrs include the loopback addresses, for peers on the same machine.
	Loopback bool
	// HandshakeTimeout is how long a connection may take until its preamble is there. Default 10 s.
	HandshakeTimeout time.Duration
	// MaxHandshakes is how many connections may be on their way to that. One more ends the oldest, as somebody who means it needs two round
	// trips only. Default 128.
	MaxHandshakes int
	// MaxPaths is how many Paths there may be, those nobody has accepted yet included. Default 1024, and of one peer MaxPeerPaths, default 8.
	MaxPaths, MaxPeerPaths int
	// Streams is how many streams there may be in either direction on a Path. Default 64.
	Streams int
	// Ping is how often the control connection is used; 4 pings unanswered are the end. Default 3 s.
	Ping time.Duration
	// Logger is told who was turned away, at Debug, and that accept fails, at Warn. Default: none.
	Logger *slog.Logger
}

// ListenStats counts what a TLSListener has done so far.
type ListenStats struct {
	Paths       int64 // now
	Connections int64 // accepted since the start
	Denied      int64 // handshakes that failed, unexpected certificates among them
	Refused     int64 // connections hung up on after it: a wrong preamble, an unknown path, too many of something
	Pushed      int64 // ended for newer ones, as MaxHandshakes were waiting
	AcceptFails int64 // errors of accept: descriptors or memory ran out, for example
}

// TLSListener accepts Paths of TLS connections. All methods may be called by many goroutines at once.
type TLSListener struct {
	o    TLSOptions
	l    net.Listener
	conf *tls.Config

	ready  chan accepted
	done   chan struct{}
	wg     sync.WaitGroup
	closes sync.Once

	mu      sync.Mutex
	paths   map[pathKey]*tlsPath
	peers   map[uuid.UUID]int // paths of each
	pending *list.List        // of net.Conn, the oldest first

	connections, denied, refused, pushed, acceptFails atomic.Int64
}

type accepted struct {
	peer uuid.UUID
	p    *tlsPath
}

// pathKey names a path: nobody can join one with another certificate.
type pathKey struct {
	cert [sha256.Size]byte
	id   pathID
}

// ListenTLS listens at addr, "host:port"; no host is all addresses of the machine, port 0 any free one.
func ListenTLS(addr string, o TLSOptions) (*TLSListener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("path: %w: choose another listen address, or \"off\" for none", err)
	}
	return newTLSListener(l, o)
}

func newTLSListener(nl net.Listener, o TLSOptions) (*TLSListener, error) {
	if len(o.Certificate.Certificate) == 0 || o.Peer == nil {
		nl.Close()
		return nil, errors.New("path: TLSOptions.Certificate and Peer are required")
	}
	o.HandshakeTimeout = orDefault(o.HandshakeTimeout, DefaultHandshakeTimeout)
	o.MaxHandshakes = orDefault(o.MaxHandshakes, 128)
	o.MaxPaths = orDefault(o.MaxPaths, 1024)
	o.MaxPeerPaths = orDefault(o.MaxPeerPaths, 8)
	o.Streams = orDefault(o.Streams, DefaultStreams)
	o.Ping = orDefault(o.Ping, DefaultPing)
	o.Logger = orDiscard(o.Logger)
	l := &TLSListener{o: o, l: nl, ready: make(chan accepted, 16), done: make(chan struct{}), paths: make(map[pathKey]*tlsPath),
		peers: make(map[uuid.UUID]int), pending: list.New()}
	l.wg.Go(l.acceptLoop)
	return l, nil
}

// acceptLoop runs until Close. A failing accept is no reason to stop: descriptors that ran out come back.
func (l *TLSListener) acceptLoop() {
	var wait time.Duration
	for {
		nc, err := l.l.Accept()
		if err == nil {
			wait = 0
			l.connections.Add(1)
			l.begin(nc)
			continue
		}
		select {
		case <-l.done:
			return
		default:
		}
		l.acceptFails.Add(1)
		if wait == 0 {
			l.o.Logger.Warn("path: accepting connections fails; raise the limit of open files if they ran out", "address", l.l.Addr(), "error", err)
		}
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-l.done:
			t.Stop()
			return
		}
	}
}

// begin greets a connection in a goroutine, and ends the oldest that waits if there are too many.
func (l *TLSListener) begin(nc net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paths == nil {
		nc.Close()
		return
	}
	if l.pending.Len() >= l.o.MaxHandshakes {
		oldest := l.pending.Remove(l.pending.Front()).(net.Conn)
		oldest.Close()
		l.pushed.Add(1)
		l.o.Logger.Debug("path: too many handshakes, ended the oldest", "peer", oldest.RemoteAddr())
	}
	e := l.pending.PushBack(nc)
	l.wg.Go(func() { l.greet(nc, e) })
}

// greet does the handshake, reads the preamble and gives the connection to its path.
func (l *TLSListener) greet(nc net.Conn, e *list.Element) {
	tune(nc)
	nc.SetDeadline(time.Now().Add(l.o.HandshakeTimeout))
	var peer uuid.UUID
	// One configuration per connection: what Peer says belongs to this one.
	c := tls.Server(&batchConn{Conn: nc}, tlsConfig(l.o.Certificate, func(der []byte) (err error) {
		peer, err = l.o.Peer(der)
		return err
	}))
	role, key, err := handshake(c)
	if err != nil && !c.ConnectionState().HandshakeComplete {
		l.denied.Add(1)
		linger(nc)
	}
	var p *tlsPath
	if err == nil && role != roleControl {
		if p, err = l.find(key); err == nil && role == roleClient {
			err = p.await(l.o.HandshakeTimeout)
		}
	}
	l.mu.Lock()
	l.pending.Remove(e) // does nothing if it was pushed out
	l.mu.Unlock()
	if err == nil {
		nc.SetDeadline(time.Time{})
		switch role {
		case roleControl:
			err = l.establish(c, peer, key)
		case roleSpare:
			err = p.addSpare(c)
		case roleClient:
			if s, err := p.stream(c, p.accepted); err == nil {
				p.accepts <- s // has room for all slots
			}
		}
	}
	if err != nil {
		if c.ConnectionState().HandshakeComplete {
			l.refused.Add(1)
		}
		l.o.Logger.Debug("path: turned a connection away", "from", nc.RemoteAddr(), "peer", peer, "error", err)
		hangUp(c)
	}
}

// handshake returns what a connection is for, and to which path it belongs.
func handshake(c *tls.Conn) (role byte, key pathKey, err error) {
	if err := c.Handshake(); err != nil {
		return 0, key, err
	}
	var b [preambleSize]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, key, err
	}
	role, key.id, err = parsePreamble(b[:])
	key.cert = sha256.Sum256(c.ConnectionState().PeerCertificates[0].Raw)
	return role, key, err
}

// linger lets the alert that says why a handshake failed reach the peer: closing with bytes unread would make the system send a reset, which overtakes it.
func linger(nc net.Conn) {
	if tc, ok := nc.(interface{ CloseWrite() error }); ok && tc.CloseWrite() == nil {
		nc.SetReadDeadline(time.Now().Add(time.Second))
		io.CopyN(io.Discard, nc, 64<<10)
	}
}

var errListenerClosed = fmt.Errorf("path: the listener is closed: %w", transport.ErrClosed)

func (l *TLSListener) find(key pathKey) (*tlsPath, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.paths[key]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%w: a connection of a path that is not there", transport.ErrDenied)
}

// await waits for a slot for a stream of the peer's, who may have closed another one that this side has not closed yet.
func (p *tlsPath) await(timeout time.Duration) error {
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) <= int64(cap(p.accepted)) {
		ctx, cancel := context.WithTimeout(p.ctx, timeout)
		defer cancel()
		if acquire(ctx, p, p.accepted) == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: more than %d streams", transport.ErrFull, cap(p.accepted))
}

// establish makes a path of a control connection.
func (l *TLSListener) establish(c *tls.Conn, peer uuid.UUID, key pathKey) error {
	p := newTLSPath(c, l.o.Streams, l.o.Ping, l.o.Logger)
	p.spares = make(chan *tls.Conn, 2*maxSpares)
	p.open = p.takeSpare
	p.onEnd = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.paths, key)
		if l.peers[peer]--; l.peers[peer] <= 0 {
			delete(l.peers, peer)
		}
	}
	l.mu.Lock()
	var err error
	switch {
	case l.paths == nil:
		err = errListenerClosed
	case l.paths[key] != nil:
		err = fmt.Errorf("%w: the id of this path is in use", transport.ErrDenied)
	case len(l.paths) >= l.o.MaxPaths || l.peers[peer] >= l.o.MaxPeerPaths:
		err = fmt.Errorf("%w: too many paths", transport.ErrFull)
	default:
		l.paths[key] = p
		l.peers[peer]++
	}
	l.mu.Unlock()
	if err != nil {
		p.cancel()
		return err
	}
	c.SetWriteDeadline(time.Now().Add(l.o.HandshakeTimeout))
	if _, err := c.Write(append([]byte(magic), roleControl)); err != nil {
		p.end(fmt.Errorf("path: %w: %w", transport.ErrUnavailable, err))
		return nil
	}
	p.start()
	select {
	case l.ready <- accepted{peer, p}:
	default: // nobody accepts
		l.refused.Add(1)
		p.end(errListenerClosed)
	}
	return nil
}

// Accept returns the next Path and whose it is. It fails with ErrClosed after Close, or with ctx's error.
func (l *TLSListener) Accept(ctx context.Context) (peer uuid.UUID, p Path, err error) {
	for {
		select {
		case <-l.done:
			return uuid.UUID{}, nil, errListenerClosed
		default:
		}
		select {
		case a := <-l.ready:
			if a.p.Err() == nil {
				return a.peer, a.p, nil
			}
		case <-l.done:
			return uuid.UUID{}, nil, errListenerClosed
		case <-ctx.Done():
			return uuid.UUID{}, nil, context.Cause(ctx)
		}
	}
}

// Addr returns the address it listens at.
func (l *TLSListener) Addr() net.Addr { return l.l.Addr() }

// Addrs returns the addresses for peers to dial, "ip:port", at most 16: those of TLSOptions.Advertise, or that it listens at, or if that is all of them, those
// of the machine's interfaces that are up, without link-local ones and, unless asked for, loopback. Public ones come first. It looks each time, as
// interfaces come and go.
func (l *TLSListener) Addrs() []string {
	var at netip.AddrPort
	if a, ok := l.l.Addr().(*net.TCPAddr); ok {
		at = a.AddrPort()
		at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	if len(l.o.Advertise) > 0 {
		return advertised(l.o.Advertise, at.Port())
	}
	if at.IsValid() && !at.Addr().IsUnspecified() {
		return []string{at.String()}
	}
	ifs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var ips []netip.Addr
	for _, a := range ifs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				ips = append(ips, ip.Unmap())
			}
		}
	}
	only4 := at.IsValid() && at.Addr().Is4()
	var out []string
	for _, ip := range worthAnnouncing(ips, l.o.Loopback, only4) {
		out = append(out, netip.AddrPortFrom(ip, at.Port()).String())
	}
	return out
}

// maxAddrs bounds what is announced and what is dialed.
const maxAddrs = 16

func advertised(list []string, port uint16) []string {
	var out []string
	for _, a := range list {
		if _, _, err := net.SplitHostPort(a); err != nil {
			host := a
			if n := len(a); n > 2 && a[0] == '[' && a[n-1] == ']' {
				host = a[1 : n-1]
			}
			a = net.JoinHostPort(host, strconv.Itoa(int(port)))
		}
		out = append(out, a)
	}
	return out[:min(len(out), maxAddrs)]
}

// worthAnnouncing filters and sorts the addresses of interfaces.
func worthAnnouncing(ips []netip.Addr, loopback, only4 bool) []netip.Addr {
	ips = slices.DeleteFunc(slices.Clone(ips), func(ip netip.Addr) bool {
		return !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip.IsLoopback() && !loopback || only4 && !ip.Is4()
	})
	rank := func(ip netip.Addr) int {
		switch {
		case ip.IsLoopback():
			return 2
		case ip.IsPrivate():
			return 1
		}
		return 0
	}
	slices.SortStableFunc(ips, func(a, b netip.Addr) int { return rank(a) - rank(b) })
	ips = slices.Compact(ips)
	return ips[:min(len(ips), maxAddrs)]
}

// Stats returns the counts so far.
func (l *TLSListener) Stats() ListenStats {
	l.mu.Lock()
	n := len(l.paths)
	l.mu.Unlock()
	return ListenStats{Paths: int64(n), Connections: l.connections.Load(), Denied: l.denied.Load(), Refused: l.refused.Load(), Pushed: l.pushed.Load(),
		AcceptFails: l.acceptFails.Load()}
}

// Close stops listening, closes the Paths that came of it, and waits for all goroutines. Idempotent.
func (l *TLSListener) Close() error {
	l.closes.Do(func() {
		close(l.done)
		l.l.Close()
		l.mu.Lock()
		paths := l.paths
		l.paths = nil
		for e := l.pending.Front(); e != nil; e = e.Next() {
			e.Value.(net.Conn).Close()
		}
		l.mu.Unlock()
		for _, p := range paths {
			p.Close()
		}
		l.wg.Wait()
	})
	return nil
}

// addSpare takes a connection for a later Open. It takes c unless there is an error.
func (p *tlsPath) addSpare(c *tls.Conn) error {
	if p.keep(c) != nil {
		return nil // closed with the path
	}
	select {
	case p.spares <- c:
		return nil
	default:
		p.mu.Lock()
		delete(p.idle, c)
		p.mu.Unlock()
		return fmt.Errorf("%w: more than %d spare connections", transport.ErrFull, cap(p.spares))
	}
}

// takeSpare is Open of the listener's side.
func (p *tlsPath) takeSpare(ctx context.Context) (*tls.Conn, error) {
	for {
		var c *tls.Conn
		select {
		case c = <-p.spares:
		case <-ctx.Done():
			return nil, fmt.Errorf("path: waiting for a connection from %s: %w", p.control.RemoteAddr(), context.Cause(ctx))
		}
		c.SetWriteDeadline(time.Now().Add(silence * p.ping))
		_, err := c.Write([]byte{taken})
		if err == nil {
			c.SetWriteDeadline(time.Time{})
			return c, nil
		}
		p.drop(c) // it broke while nobody looked; the dialer sends another
	}
}
