package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/proxyplane/proxyplane/endpoint/link"
	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/endpoint/relay"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/quic"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// The defaults of Options.
const (
	DefaultTimeout   = 30 * time.Second
	DefaultIdle      = 10 * time.Minute
	DefaultMaxObject = 100_000_000 // ProxyStore's max_object_size
	DefaultMaxPeers  = 1024
)

// Relay is what a Manager needs of a *relay.Client: see there.
type Relay interface {
	Send(ctx context.Context, m relay.PeerConnection) error
	Receive(ctx context.Context) (relay.PeerConnection, error)
	State() relay.ClientState
}

// Kinds is a set of kinds of paths.
type Kinds uint8

// The kinds of paths between two of our endpoints.
const (
	TLS Kinds = 1 << iota
	QUIC
	WebRTC

	AllKinds = TLS | QUIC | WebRTC
)

// Options of a Manager. UUID, Relay and Store are required.
type Options struct {
	UUID  uuid.UUID     // under which the Relay has registered
	Name  string        // what peers show for us; the Relay's messages carry it
	Relay Relay         // borrowed: it must live as long as the Manager, which is the only one to call Receive
	Store objects.Store // what peers ask for; borrowed until Close has returned

	// MaxObject is the longest object, in bytes, that a Python peer may send or be sent, since those are held whole in memory. Default: DefaultMaxObject.
	// Between our endpoints it bounds nothing: their Stores do.
	MaxObject int64
	// Servers are the STUN and TURN servers for ICE. None: only addresses of this machine are offered.
	Servers []webrtc.Server
	// Channels is how many data channels are opened to a Python peer that we offer to: ProxyStore's peer_channels. Default 1.
	Channels int
	// Listen is the address for peers of our kind, TCP for TLS and UDP for ICE and QUIC: "host:port". "" is any address and any port, "off" no TLS listener
	// and any UDP port.
	Listen string
	// Advertise is what peers are told to dial, besides the listener's own addresses: "host:port" or "host" (the listener's port), for forwarded ports.
	Advertise []string
	// Lanes is how many streams carry a peer's objects; 0 is link's default, which adapts.
	Lanes int
	// Compress is how objects are compressed on the way to our endpoints. Default: not.
	Compress native.Compression
	// Loopback offers and dials loopback addresses too.
	Loopback bool
	// RelayOnly lets ICE use nothing but TURN servers.
	RelayOnly bool
	// Timeout bounds the time to reach a peer, from the first request to the first path. Default: DefaultTimeout, which is also Python's.
	Timeout time.Duration
	// Idle is how long a peer's connection is kept without a request either way. Default: DefaultIdle; negative: for ever.
	Idle time.Duration
	// MaxPeers bounds the peers that are known at once, connected or not. Default: DefaultMaxPeers.
	MaxPeers int
	// Paths restricts the kinds of paths to our endpoints, for tests and benches. Default: AllKinds. Python peers have data channels in any case.
	Paths Kinds

	Pool   *transport.Pool // memory of objects under way; default transport.DefaultPool
	Logger *slog.Logger    // default: none
}

// Manager has the connections of one endpoint to all its peers. A peer is connected when it is first asked for something, or when it offers to connect;
// then requests go both ways. All methods may be called by many goroutines at once.
//
// Errors of requests match the sentinels of package transport as those of objects.Client do. ErrUnavailable says that the peer could not be reached, and
// its text which ways were tried and why each failed.
type Manager struct {
	o        Options
	log      *slog.Logger
	instance string
	cert     tls.Certificate
	sock     *quic.Socket
	mux      *webrtc.Mux
	tls      *path.TLSListener // nil: off
	tlsPort  string
	server   *link.Server
	certs    registry

	ctx     context.Context // the Manager's life, for its goroutines
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	busy    chan struct{} // one token per negotiation that a peer has begun
	refused atomic.Int64  // messages that were ignored
	loud    *rate.Limiter // for the log about them

	relayFirst atomic.Int64 // since when the first connection to the relay that was seen was up, in ns; 0: none was

	mu     sync.Mutex
	peers  map[uuid.UUID]*peer
	closed bool
}

// maxBusy bounds the negotiations under way that peers have begun.
const maxBusy = 128

// New returns a Manager that answers offers from now on. It opens the sockets of Options.Listen, and fails if that is not possible or the Options make no
// sense. The caller closes it.
func New(o Options) (*Manager, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	m := &Manager{o: o, log: o.Logger.With("endpoint", o.UUID), instance: newInstance(time.Now()), busy: make(chan struct{}, maxBusy),
		peers: map[uuid.UUID]*peer{}, loud: rate.NewLimiter(1, 10)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	if err := m.open(); err != nil {
		m.cancel()
		m.release()
		return nil, err
	}
	m.wg.Go(m.receive)
	m.wg.Go(m.acceptQUIC)
	if m.tls != nil {
		m.wg.Go(m.acceptTLS)
	}
	m.wg.Go(m.tend)
	return m, nil
}

func (o *Options) check() error {
	switch {
	case o.UUID == uuid.Nil || o.Relay == nil || o.Store == nil:
		return errors.New("peer: Options need a UUID, a Relay and a Store")
	case o.Channels < 0 || o.Channels > maxChannels:
		return fmt.Errorf("peer: %d channels per peer; 1 to %d are possible", o.Channels, maxChannels)
	case o.Paths&^AllKinds != 0:
		return fmt.Errorf("peer: unknown kinds of paths %#x", o.Paths)
	case o.Listen == "off" && len(o.Advertise) > 0:
		return errors.New("peer: addresses are advertised, but there is no listener for them: configure a listen address, or advertise nothing")
	case len(o.Advertise) > maxAddrs:
		return fmt.Errorf("peer: %d advertised addresses; at most %d", len(o.Advertise), maxAddrs)
	}
	for _, a := range o.Advertise {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			host, port = a, "1"
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
			return fmt.Errorf("peer: advertised address %q is neither host:port nor host", a)
		}
	}
	o.Channels = max(o.Channels, 1)
	def(&o.MaxObject, DefaultMaxObject)
	def(&o.Timeout, DefaultTimeout)
	def(&o.MaxPeers, DefaultMaxPeers)
	def(&o.Paths, AllKinds)
	if o.Idle == 0 {
		o.Idle = DefaultIdle
	}
	if o.Listen == "" {
		o.Listen = ":0"
	}
	if o.Pool == nil {
		o.Pool = transport.DefaultPool
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func def[T ~int | ~int64 | ~uint8](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

func (m *Manager) open() (err error) {
	if m.cert, err = webrtc.NewCertificate(); err != nil {
		return err
	}
	udp := m.o.Listen
	if udp == "off" {
		udp = ":0"
	} else if m.o.Paths&TLS != 0 {
		if m.tls, err = path.ListenTLS(m.o.Listen, path.TLSOptions{Certificate: m.cert, Peer: m.certs.peer, Loopback: m.o.Loopback,
			Logger: m.o.Logger}); err != nil {
			return fmt.Errorf("peer: listening for peers at %s: %w", m.o.Listen, err)
		}
		for _, a := range m.tls.Addrs() {
			if _, port, err := net.SplitHostPort(a); err == nil {
				m.tlsPort = port
				break
			}
		}
	}
	if m.sock, err = quic.Listen(udp, quic.Options{Certificate: m.cert, Verify: m.certs.verify, MaxConns: quicConns * max(m.o.MaxPeers, 64),
		Logger: m.o.Logger}); err != nil {
		return fmt.Errorf("peer: opening a UDP socket at %s: %w", udp, err)
	}
	// Nothing around Packets: the Mux asks it for the socket, to send several packets at once.
	if m.mux, err = webrtc.NewMux(m.sock.Packets(), webrtc.MuxOptions{Logger: m.o.Logger}); err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	m.server = link.NewServer(m.o.Store, link.ServerOptions{Compress: m.o.Compress, Logger: m.o.Logger, Pool: m.o.Pool})
	return nil
}

// release closes what open opened.
func (m *Manager) release() {
	if m.server != nil {
		m.server.Close()
	}
	if m.mux != nil {
		m.mux.Close()
	}
	if m.sock != nil {
		m.sock.Close()
	}
	if m.tls != nil {
		m.tls.Close()
	}
}

// farewell is how long Close waits for Python peers to answer requests under way: one that cannot deliver a response ends its process.
const farewell = 1500 * time.Millisecond

// Close ends all connections and waits for all goroutines, for a second or two at most, whatever peers do. Requests in flight fail with ErrClosed. It
// leaves the Relay and the Store open. Idempotent.
func (m *Manager) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		m.wg.Wait()
		return nil
	}
	m.closed = true
	peers := m.list()
	m.mu.Unlock()
	m.await(peers)
	var wg sync.WaitGroup
	for _, p := range peers {
		wg.Go(p.close)
	}
	wg.Wait()
	m.cancel()
	m.release()
	m.wg.Wait()
	return nil
}

func (m *Manager) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

// list returns all peers. m.mu is held.
func (m *Manager) list() []*peer {
	out := make([]*peer, 0, len(m.peers))
	for _, p := range m.peers {
		out = append(out, p)
	}
	return out
}

// await waits until no Python peer owes us a response, but not for long.
func (m *Manager) await(peers []*peer) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(farewell); time.Now().Before(end); <-tick.C {
		owing := false
		for _, p := range peers {
			owing = owing || p.owes()
		}
		if !owing {
			return
		}
	}
}

// acquire returns the peer, which stays known until release. Offers make room by forgetting idle peers no more than requests do.
func (m *Manager) acquire(id uuid.UUID) (*peer, error) {
	if id == m.o.UUID || id == uuid.Nil {
		return nil, fmt.Errorf("peer: %s is no peer of this endpoint", id)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("peer: %w", transport.ErrClosed)
	}
	p := m.peers[id]
	if p == nil {
		if len(m.peers) >= m.o.MaxPeers && !m.forget() {
			return nil, fmt.Errorf("peer: %w: %d peers are connected or being asked, the most that this endpoint keeps", transport.ErrFull, len(m.peers))
		}
		p = newPeer(m, id)
		m.peers[id] = p
	}
	p.refs++
	return p, nil
}

func (m *Manager) letGo(p *peer) {
	m.mu.Lock()
	p.refs--
	m.mu.Unlock()
}

// forget drops the peer that was used longest ago among those without a connection. m.mu is held.
func (m *Manager) forget() bool {
	var oldest *peer
	var used time.Time
	for _, p := range m.peers {
		if p.refs > 0 {
			continue
		}
		if u, idle := p.idleSince(); idle && (oldest == nil || u.Before(used)) {
			oldest, used = p, u
		}
	}
	if oldest == nil {
		return false
	}
	delete(m.peers, oldest.id)
	if l := oldest.takeLink(); l != nil {
		m.wg.Go(func() { l.Close() })
	}
	return true
}

// call runs f on the peer once it is connected. f gets the Link of a peer of our kind or the connection to a Python peer. Where a Python peer's connection ends under f
// it is run once more on a new one, as all requests may be repeated.
func (m *Manager) call(ctx context.Context, id uuid.UUID, ours func(*link.Link) error, python func(*peering) error) error {
	p, err := m.acquire(id)
	if err != nil {
		return err
	}
	defer m.letGo(p)
	p.begin()
	defer p.end()
	for try := 0; ; try++ {
		g, err := p.ready(ctx)
		if err != nil {
			return err
		}
		if g.ours {
			var l *link.Link
			if l, err = p.open(); err == nil {
				err = ours(l)
			}
			if !errors.Is(err, errDialect) || try > 0 {
				return m.closing(err)
			}
			continue
		}
		g.owed.Add(1)
		err = python(g)
		if g.session.Err() == nil && ctx.Err() == nil {
			g.owed.Add(-1) // else its response is still to come, and cannot
		}
		if err == nil || try > 0 || ctx.Err() != nil || g.session.Err() == nil || !errors.Is(err, transport.ErrUnavailable) && !errors.Is(err, transport.ErrClosed) {
			return m.closing(err)
		}
		select {
		case <-g.done: // it ended under us
		case <-ctx.Done():
			return ctx.Err()
		case <-m.ctx.Done():
			return m.closing(err)
		}
	}
}

// closing turns what requests fail with while the Manager closes into ErrClosed.
func (m *Manager) closing(err error) error {
	if err != nil && m.isClosed() && !errors.Is(err, transport.ErrClosed) {
		return fmt.Errorf("peer: %w (%v)", transport.ErrClosed, err)
	}
	return err
}

// Get opens an object of the peer for reading n bytes from off, or all from there if n is negative. The caller closes the Reader; ctx lives as long as it. A Python
// peer's protocol knows only whole objects: the object is got before Get returns, and the range is cut out of it.
func (m *Manager) Get(ctx context.Context, id uuid.UUID, key string, off, n int64) (link.Reader, error) {
	var r link.Reader
	p, err := m.acquire(id)
	if err != nil {
		return nil, err
	}
	err = m.call(ctx, id, func(l *link.Link) (err error) {
		r, err = l.Get(ctx, key, off, n)
		return err
	}, func(g *peering) error {
		b, err := g.session.Get(ctx, key)
		if err == nil {
			r, err = cut(b, off, n)
		}
		return err
	})
	if err != nil {
		m.letGo(p)
		return nil, err
	}
	p.begin() // the Reader's request goes on until it is closed
	return &reader{Reader: r, done: func() { p.end(); m.letGo(p) }}, nil
}

// Put stores an object of the peer, replacing an earlier one. It reads size bytes from body, or all if size is negative. For a Python peer they are all
// read first, at most MaxObject of them.
func (m *Manager) Put(ctx context.Context, id uuid.UUID, key string, size int64, body io.Reader) error {
	var whole *transport.Buffer
	defer func() { whole.Release() }()
	once := &onceReader{Reader: body}
	return m.call(ctx, id, func(l *link.Link) error {
		switch {
		case whole != nil: // it was a Python endpoint a moment ago
			return l.Put(ctx, key, int64(whole.Len()), transport.Slices{whole.Bytes()}.Reader())
		case once.read:
			return errHalf
		}
		return l.Put(ctx, key, size, once)
	}, func(g *peering) (err error) {
		if whole == nil {
			if once.read { // part of it went to an endpoint of ours, which has been replaced since
				return errHalf
			}
			if whole, err = m.collect(size, once); err != nil {
				return err
			}
		}
		return g.session.Set(ctx, key, transport.Slices{whole.Bytes()})
	})
}

// Exists reports whether the peer has the object.
func (m *Manager) Exists(ctx context.Context, id uuid.UUID, key string) (bool, error) {
	var ok bool
	err := m.call(ctx, id, func(l *link.Link) (err error) {
		ok, err = l.Exists(ctx, key)
		return err
	}, func(g *peering) (err error) {
		ok, err = g.session.Exists(ctx, key)
		return err
	})
	return ok, err
}

// Evict deletes the peer's object. A missing one is not an error.
func (m *Manager) Evict(ctx context.Context, id uuid.UUID, key string) error {
	return m.call(ctx, id, func(l *link.Link) error { return l.Evict(ctx, key) }, func(g *peering) error { return g.session.Evict(ctx, key) })
}

// Stat returns the size and time of the peer's object. From a Python peer, whose protocol has no such request, it gets the whole object, and knows no time.
func (m *Manager) Stat(ctx context.Context, id uuid.UUID, key string) (objects.Info, error) {
	var info objects.Info
	err := m.call(ctx, id, func(l *link.Link) (err error) {
		info, err = l.Stat(ctx, key)
		return err
	}, func(g *peering) error {
		b, err := g.session.Get(ctx, key)
		if err == nil {
			info = objects.Info{Size: int64(b.Len())}
			b.Release()
		}
		return err
	})
	return info, err
}

// Wait returns nil as soon as the peer has the object. A Python peer is asked again and again, at most once a second.
func (m *Manager) Wait(ctx context.Context, id uuid.UUID, key string) error {
	pause := 50 * time.Millisecond
	for {
		var found, ours bool
		err := m.call(ctx, id, func(l *link.Link) error {
			ours = true
			return l.Wait(ctx, key)
		}, func(g *peering) (err error) {
			found, err = g.session.Exists(ctx, key)
			return err
		})
		if err != nil || ours || found {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-m.ctx.Done():
			t.Stop()
			return fmt.Errorf("peer: %w", transport.ErrClosed)
		}
		pause = min(2*pause, time.Second)
	}
}

// Connect returns nil once there is a connection to the peer, as every request makes one: for tests of reachability.
func (m *Manager) Connect(ctx context.Context, id uuid.UUID) error {
	p, err := m.acquire(id)
	if err != nil {
		return err
	}
	defer m.letGo(p)
	p.begin()
	defer p.end()
	_, err = p.ready(ctx)
	return err
}
