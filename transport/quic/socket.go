package quic

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"

	"github.com/proxyplane/proxyplane/transport"
)

// ALPN is the protocol that both sides name in the TLS handshake.
const ALPN = "proxyplane-quic/1"

// ALPNMore is that of connections that DialMore makes.
const ALPNMore = "proxyplane-quic-more/1"

// The defaults of Options.
const (
	DefaultIdleTimeout      = 10 * time.Second
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultStreamWindow     = 32 << 20
	DefaultConnWindow       = 64 << 20
	DefaultStreams          = 256
	DefaultMaxConns         = 4096
)

const (
	// handshakeRate is how many handshakes a second begin without the round trip that proves the other side's address.
	handshakeRate = 64
	// firstStreamWindow and firstConnWindow are what a stream and a connection begin with; quic-go doubles them as the reader keeps up. quic-go's own, 512
	// KiB, cost one round trip more at the start of each large object on a path of 1 Gbit/s and 20 ms.
	firstStreamWindow = 2 << 20
	firstConnWindow   = 4 << 20
	codeClosed        = 0 // the application error codes of a connection: the peer called Close
	codeRefused       = 1 // or did not do as agreed
)

// Options of a Socket. Certificate and Verify are required.
type Options struct {
	// Certificate is shown to every peer, in both roles.
	Certificate tls.Certificate
	// Verify says whether that certificate, the first that the other side showed, in DER, is one of a peer that is expected now. It is called once per
	// connection, by many goroutines at once, after the peer's proof of its key and before anything else of it is read. An error ends the handshake. It must
	// not keep der or change it.
	Verify func(der []byte) error

	// Logger is told of peers that were turned away and of buffers that are too small, at Debug. Default: none.
	Logger *slog.Logger
	// IdleTimeout is how long nothing may arrive, pings included, before a connection counts as dead. The smaller one of both sides holds. Default 10 s.
	IdleTimeout time.Duration
	// HandshakeTimeout is how long a handshake may take. Default 10 s.
	HandshakeTimeout time.Duration
	// StreamWindow and ConnWindow are how many bytes a stream, and a connection with all its streams, may be ahead of the reader. Default 32 and 64 MiB.
	StreamWindow, ConnWindow int64
	// Streams is how many streams a peer may have open at once on one connection. Default 256.
	Streams int
	// MaxConns is how many accepted connections there may be, those in their handshake included. More are refused. Default 4096.
	MaxConns int
}

func (o *Options) defaults() error {
	if len(o.Certificate.Certificate) == 0 || o.Certificate.PrivateKey == nil {
		return errors.New("quic: Options.Certificate is required")
	}
	if o.Verify == nil {
		return errors.New("quic: Options.Verify is required: nobody else decides whom to trust")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.IdleTimeout = orDefault(o.IdleTimeout, DefaultIdleTimeout)
	o.HandshakeTimeout = orDefault(o.HandshakeTimeout, DefaultHandshakeTimeout)
	o.StreamWindow = orDefault(o.StreamWindow, DefaultStreamWindow)
	o.ConnWindow = orDefault(o.ConnWindow, DefaultConnWindow)
	o.Streams = orDefault(o.Streams, DefaultStreams)
	o.MaxConns = orDefault(o.MaxConns, DefaultMaxConns)
	return nil
}

func orDefault[T ~int | ~int64](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// A Socket is one UDP socket (or another net.PacketConn) for any number of QUIC connections, dialed and accepted, beside packets that are not QUIC. All
// methods may be called by many goroutines at once.
type Socket struct {
	o        Options
	pc       net.PacketConn // what was given
	tr       *quic.Transport
	listener *quic.Listener
	client   *tls.Config
	more     *tls.Config // client's, for DialMore
	conf     *quic.Config
	other    *packets
	admitted atomic.Int64

	mu     sync.Mutex
	conns  map[*Conn]struct{}
	closed bool
	closes sync.Once
	pairs  sync.WaitGroup // dials and accepts that have a connection and have not registered it yet
}

// Listen opens a UDP socket at addr, "host:port"; "" as host is every address of the machine, IPv4 and IPv6, port 0 any free one.
func Listen(addr string, o Options) (*Socket, error) {
	a, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("quic: %w: give host:port with an IP address of this machine, or no host", err)
	}
	pc, err := net.ListenUDP("udp", a)
	if err != nil {
		return nil, fmt.Errorf("quic: %w", err)
	}
	return NewSocket(pc, o)
}

// NewSocket runs QUIC over pc, which it takes, on error too: nobody else may read from it or close it. Over a *net.UDPConn packets go in and out in batches
// (recvmmsg, UDP_SEGMENT where the system has them); others, such as FromConn's, carry one packet per call.
func NewSocket(pc net.PacketConn, o Options) (*Socket, error) {
	if err := o.defaults(); err != nil {
		pc.Close()
		return nil, err
	}
	s := &Socket{o: o, pc: pc, conns: make(map[*Conn]struct{})}
	s.other = newPackets(pc)
	verify := func(cs tls.ConnectionState) error { // unlike VerifyPeerCertificate, for every handshake
		if len(cs.PeerCertificates) == 0 {
			return errors.New("no certificate")
		}
		if err := o.Verify(cs.PeerCertificates[0].Raw); err != nil {
			return fmt.Errorf("%w: %w", transport.ErrDenied, err)
		}
		return nil
	}
	base := tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN}, Certificates: []tls.Certificate{o.Certificate}, VerifyConnection: verify,
		SessionTicketsDisabled: true}
	s.client = base.Clone()
	s.client.InsecureSkipVerify = true // there is no authority and no name: VerifyConnection decides
	s.more = s.client.Clone()
	s.more.NextProtos = []string{ALPNMore}
	server := base.Clone()
	server.NextProtos = []string{ALPN, ALPNMore}
	server.ClientAuth = tls.RequireAnyClientCert
	s.conf = &quic.Config{
		Versions:                       []quic.Version{quic.Version1},
		HandshakeIdleTimeout:           o.HandshakeTimeout / 2, // quic-go gives up after twice this
		MaxIdleTimeout:                 o.IdleTimeout,
		KeepAlivePeriod:                o.IdleTimeout / 4,
		InitialStreamReceiveWindow:     uint64(min(firstStreamWindow, o.StreamWindow)),
		MaxStreamReceiveWindow:         uint64(o.StreamWindow),
		InitialConnectionReceiveWindow: uint64(min(firstConnWindow, o.ConnWindow)),
		MaxConnectionReceiveWindow:     uint64(o.ConnWindow),
		MaxIncomingStreams:             int64(o.Streams),
		MaxIncomingUniStreams:          1,
	}
	accepting := s.conf.Clone()
	accepting.MaxIncomingUniStreams = -1
	newcomers := rate.NewLimiter(handshakeRate, handshakeRate)
	s.tr = &quic.Transport{
		Conn:                s.other.source(),
		VerifySourceAddress: func(net.Addr) bool { return !newcomers.Allow() },
		ConnContext:         s.admit,
	}
	var err error
	if s.listener, err = s.tr.Listen(server, accepting); err != nil {
		s.tr.Close()
		pc.Close()
		return nil, fmt.Errorf("quic: %w", err)
	}
	return s, nil
}

// admit counts the connections that were accepted or are about to be.
func (s *Socket) admit(ctx context.Context, i *quic.ClientInfo) (context.Context, error) {
	if s.admitted.Add(1) > int64(s.o.MaxConns) {
		s.admitted.Add(-1)
		s.o.Logger.Debug("quic: refused a connection: there are too many", "peer", i.RemoteAddr, "limit", s.o.MaxConns)
		return nil, transport.ErrFull
	}
	context.AfterFunc(ctx, func() { s.admitted.Add(-1) })
	return ctx, nil
}

// Packets returns the packets that are not QUIC. Its reads obey deadlines; what arrives before the first call is dropped, and what nobody reads
// in time too, so that QUIC never waits. A packet of more than 1452 bytes is dropped. Closing it ends its reads and writes and leaves the Socket alone. Each call
// returns the same one.
func (s *Socket) Packets() net.PacketConn {
	s.other.want()
	return s.other
}

// Addr returns the local address.
func (s *Socket) Addr() net.Addr { return s.pc.LocalAddr() }

// Dial connects to a Socket at that address. ctx bounds the handshake. Errors match transport.ErrUnavailable if nobody answers, ErrDenied if one side did not
// accept the other's certificate, ErrClosed after Close, or ctx's own.
func (s *Socket) Dial(ctx context.Context, to net.Addr) (*Conn, error) {
	return s.dial(ctx, to, s.client)
}

// DialMore does as Dial, and says that there is a connection to that peer already, beside which this one is to carry streams: see Conn.More.
func (s *Socket) DialMore(ctx context.Context, to net.Addr) (*Conn, error) {
	return s.dial(ctx, to, s.more)
}

func (s *Socket) dial(ctx context.Context, to net.Addr, conf *tls.Config) (*Conn, error) {
	if !s.enter() {
		return nil, errSocketClosed
	}
	defer s.pairs.Done()
	addr, err := udpAddr(to)
	if err != nil {
		return nil, err
	}
	qc, err := s.tr.Dial(ctx, addr, conf, s.conf)
	if err == nil {
		err = awaitAccepted(ctx, qc)
	}
	if err != nil {
		return nil, fmt.Errorf("quic: dialing %s: %w", to, s.failure(ctx, err))
	}
	return s.register(qc)
}

// awaitAccepted waits until the server has seen and accepted our certificate.
func awaitAccepted(ctx context.Context, qc *quic.Conn) error {
	str, err := qc.AcceptUniStream(ctx)
	if err == nil {
		str.CancelRead(codeClosed)
		return nil
	}
	qc.CloseWithError(codeRefused, "not accepted in time")
	return err
}

// Accept returns the next connection of a peer that Verify let in. One that is no longer alive may come, too. It fails with ErrClosed after Close, or with
// ctx's error.
func (s *Socket) Accept(ctx context.Context) (*Conn, error) {
	for {
		if !s.enter() {
			return nil, errSocketClosed
		}
		c, err := s.accept(ctx)
		s.pairs.Done()
		if c != nil || err != nil {
			return c, err
		}
	}
}

func (s *Socket) accept(ctx context.Context) (*Conn, error) {
	qc, err := s.listener.Accept(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, quic.ErrServerClosed) || s.isClosed() {
			return nil, errSocketClosed
		}
		return nil, fmt.Errorf("quic: accepting: %w", s.failure(ctx, err))
	}
	str, err := qc.OpenUniStream()
	if err == nil {
		err = str.Close()
	}
	if err != nil { // it allows no such stream, or has gone already
		s.o.Logger.Debug("quic: turned a connection away", "peer", qc.RemoteAddr(), "error", err)
		qc.CloseWithError(codeRefused, "does not take the greeting")
		return nil, nil
	}
	return s.register(qc)
}

func (s *Socket) register(qc *quic.Conn) (*Conn, error) {
	c := newConn(s, qc)
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.conns[c] = struct{}{}
	}
	s.mu.Unlock()
	if closed {
		c.Close()
		return nil, errSocketClosed
	}
	return c, nil
}

func (s *Socket) forget(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *Socket) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.pairs.Add(1)
	return true
}

func (s *Socket) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Close closes all connections, telling the peers, and the socket, and waits for all goroutines. Dial and Accept fail with ErrClosed. Idempotent.
func (s *Socket) Close() error {
	s.closes.Do(func() {
		s.mu.Lock()
		s.closed = true
		conns := make([]*Conn, 0, len(s.conns))
		for c := range s.conns {
			conns = append(conns, c)
		}
		s.mu.Unlock()
		var wg sync.WaitGroup
		for _, c := range conns {
			wg.Go(func() { c.Close() })
		}
		wg.Wait()
		s.listener.Close()
		s.other.Close()
		s.pc.Close() // ends the read loop also where SetReadDeadline does nothing
		s.tr.Close() // ends dials
		s.pairs.Wait()
	})
	return nil
}

var errSocketClosed = fmt.Errorf("quic: the socket is closed: %w", transport.ErrClosed)

// failure says what an error of quic-go means.
func (s *Socket) failure(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && (errors.Is(err, cause) || errors.Is(err, ctx.Err())) {
		return cause
	}
	if s.isClosed() {
		return errSocketClosed
	}
	return classify(err)
}

// classify makes err match one of package transport's sentinels.
func classify(err error) error {
	var te *quic.TransportError
	var ae *quic.ApplicationError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, transport.ErrDenied), errors.Is(err, transport.ErrClosed), errors.Is(err, transport.ErrUnavailable):
		return err
	case errors.As(err, &te) && te.ErrorCode.IsCryptoError():
		if te.Remote {
			return fmt.Errorf("%w: the peer refuses the TLS handshake, as it does when it does not expect our certificate: %w", transport.ErrDenied, err)
		}
		return fmt.Errorf("%w: the TLS handshake failed: %w", transport.ErrDenied, err)
	case errors.As(err, &ae) && ae.ErrorCode == codeClosed:
		if ae.Remote {
			return fmt.Errorf("%w: the peer closed the connection", transport.ErrUnavailable)
		}
		return fmt.Errorf("%w: the connection was closed here", transport.ErrClosed)
	}
	return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
}

// udpAddr returns a as quic-go needs it: a *net.UDPAddr, wherever it can be one.
func udpAddr(a net.Addr) (net.Addr, error) {
	switch a := a.(type) {
	case nil:
		return nil, errors.New("quic: no address to dial")
	case *net.UDPAddr:
		return a, nil
	case interface{ AddrPort() netip.AddrPort }:
		return net.UDPAddrFromAddrPort(a.AddrPort()), nil
	}
	if ap, err := netip.ParseAddrPort(a.String()); err == nil {
		return net.UDPAddrFromAddrPort(ap), nil
	}
	return a, nil
}

// leaf returns the certificate that the peer showed.
func leaf(certs []*x509.Certificate) []byte {
	if len(certs) == 0 {
		return nil
	}
	return certs[0].Raw
}
