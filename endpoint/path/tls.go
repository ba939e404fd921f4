package path

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// The defaults of TLSOptions and DialOptions.
const (
	DefaultStreams          = 64
	DefaultSpares           = 2
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultPing             = 3 * time.Second
)

const (
	magic        = "PPLANE1"
	idSize       = 16
	preambleSize = len(magic) + 1 + idSize
	welcomeSize  = len(magic) + 1
	frameSize    = 9
	recordSize   = 16 << 10 // of TLS, at most

	roleControl = 'P'
	roleClient  = 'C'
	roleSpare   = 'S'

	framePing = 'p'
	framePong = 'q'
	taken     = 'T' // the listener's first byte on a spare

	// silence is how many pings may go unanswered, and nothing else come, before the path counts as dead.
	silence = 4
	// closeGrace is how long a TLS connection has for its last alert.
	closeGrace = 100 * time.Millisecond
)

type pathID [idSize]byte

func preamble(role byte, id pathID) []byte {
	return append(append([]byte(magic), role), id[:]...)
}

// parsePreamble reads the first bytes of a connection.
func parsePreamble(b []byte) (role byte, id pathID, err error) {
	if len(b) != preambleSize || string(b[:len(magic)]) != magic {
		return 0, id, fmt.Errorf("%w: no preamble of a path", transport.ErrCorrupt)
	}
	role = b[len(magic)]
	if role != roleControl && role != roleClient && role != roleSpare {
		return 0, id, fmt.Errorf("%w: a connection with the unknown role %q", transport.ErrCorrupt, role)
	}
	copy(id[:], b[len(magic)+1:])
	return role, id, nil
}

// tlsConfig is what both sides have in common.
func tlsConfig(cert tls.Certificate, verify func(der []byte) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true,
		DynamicRecordSizingDisabled: true, // records of 16 KiB from the start: these streams carry bulk
		InsecureSkipVerify:          true, // there is no authority and no name: VerifyConnection decides, in both roles
		ClientAuth:                  tls.RequireAnyClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return fmt.Errorf("%w: the peer showed no certificate", transport.ErrDenied)
			}
			if err := verify(cs.PeerCertificates[0].Raw); err != nil {
				return fmt.Errorf("%w: %w", transport.ErrDenied, err)
			}
			return nil
		},
	}
}

// keepAlive finds a peer that vanished while a stream is idle.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3}

// tune sets a connection's options. TCP_NODELAY is Go's default.
func tune(nc net.Conn) {
	if tc, ok := nc.(*net.TCPConn); ok {
		tc.SetKeepAliveConfig(keepAlive)
		setUserTimeout(tc)
	}
}

// hangUp closes a TLS connection, with good-bye if that takes no time. tls.Conn.Close would wait 5 s for a peer that does not read.
func hangUp(c *tls.Conn) error {
	defer time.AfterFunc(closeGrace, func() { c.NetConn().Close() }).Stop()
	return c.Close()
}

// tlsPath is either side of a path of TCP connections.
type tlsPath struct {
	control *tls.Conn
	ping    time.Duration
	since   time.Time
	log     *slog.Logger
	open    func(ctx context.Context) (*tls.Conn, error) // by role; the caller has a slot

	opened   chan struct{}   // a slot for each stream this side opened, and
	accepted chan struct{}   // for each that the peer did, with those nobody has accepted yet
	accepts  chan *tlsStream // those
	spares   chan *tls.Conn  // the listener's side: what Open takes
	waiting  atomic.Int64    // connections that wait for one of accepted
	rtt      atomic.Int64    // smoothed, in ns

	ctx    context.Context // ends with the path: that of dials in its name
	cancel context.CancelFunc
	done   chan struct{}
	wg     sync.WaitGroup
	onEnd  func()

	write sync.Mutex // frames of the control connection

	mu      sync.Mutex
	err     error
	streams map[*tlsStream]struct{}
	idle    map[*tls.Conn]struct{} // connections that are no streams yet: spares
}

func newTLSPath(control *tls.Conn, streams int, ping time.Duration, log *slog.Logger) *tlsPath {
	p := &tlsPath{control: control, ping: ping, since: time.Now(), log: log, opened: make(chan struct{}, streams), accepted: make(chan struct{}, streams),
		accepts: make(chan *tlsStream, streams), done: make(chan struct{}), streams: make(map[*tlsStream]struct{}), idle: make(map[*tls.Conn]struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// start runs the control connection, unless the path has ended already.
func (p *tlsPath) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.wg.Go(p.readControl)
		p.wg.Go(p.sendPings)
	}
}

func (p *tlsPath) readControl() {
	var f [frameSize]byte
	limit := silence * p.ping
	for {
		p.control.SetReadDeadline(time.Now().Add(limit))
		if _, err := io.ReadFull(p.control, f[:]); err != nil {
			var ne net.Error
			switch {
			case errors.Is(err, io.EOF):
				p.end(fmt.Errorf("path: %w: %s closed the path", transport.ErrUnavailable, p.control.RemoteAddr()))
			case errors.As(err, &ne) && ne.Timeout():
				p.end(fmt.Errorf("path: %w: nothing came from %s for %v", transport.ErrUnavailable, p.control.RemoteAddr(), limit))
			default:
				p.end(fmt.Errorf("path: %w: %w", transport.ErrUnavailable, err))
			}
			return
		}
		switch f[0] {
		case framePing:
			f[0] = framePong
			p.send(f)
		case framePong:
			p.measured(time.Since(p.since) - time.Duration(binary.BigEndian.Uint64(f[1:])))
		}
	}
}

func (p *tlsPath) sendPings() {
	t := time.NewTicker(p.ping)
	defer t.Stop()
	for {
		f := [frameSize]byte{framePing}
		binary.BigEndian.PutUint64(f[1:], uint64(time.Since(p.since)))
		p.send(f)
		select {
		case <-t.C:
		case <-p.done:
			return
		}
	}
}

func (p *tlsPath) send(f [frameSize]byte) {
	p.write.Lock()
	defer p.write.Unlock()
	p.control.SetWriteDeadline(time.Now().Add(silence * p.ping))
	if _, err := p.control.Write(f[:]); err != nil {
		p.end(fmt.Errorf("path: %w: %w", transport.ErrUnavailable, err))
	}
}

// measured takes a round trip into account. The peer chose what it echoed, so it may be nonsense.
func (p *tlsPath) measured(d time.Duration) {
	if d <= 0 || d > silence*p.ping {
		return
	}
	if old := p.rtt.Load(); old > 0 {
		d = time.Duration(old) + (d-time.Duration(old))/4
	}
	p.rtt.Store(int64(d))
}

// Open implements Path.
func (p *tlsPath) Open(ctx context.Context) (net.Conn, error) {
	if err := acquire(ctx, p, p.opened); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	c, err := p.open(ctx)
	if err != nil {
		<-p.opened
		if e := p.Err(); e != nil {
			return nil, e
		}
		return nil, err
	}
	s, err := p.stream(c, p.opened)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func acquire(ctx context.Context, p *tlsPath, slots chan struct{}) error {
	select {
	case <-p.done:
		return p.Err()
	default:
	}
	select {
	case slots <- struct{}{}:
		return nil
	case <-p.done:
		return p.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stream makes c one of the path's streams, which holds one of slots. It takes c and the slot, on error too.
func (p *tlsPath) stream(c *tls.Conn, slots chan struct{}) (*tlsStream, error) {
	s := &tlsStream{Conn: c, p: p, slots: slots}
	p.mu.Lock()
	err := p.err
	delete(p.idle, c)
	if err == nil {
		p.streams[s] = struct{}{}
	}
	p.mu.Unlock()
	if err != nil {
		<-slots
		hangUp(c)
		return nil, err
	}
	return s, nil
}

// keep makes c one of the connections that end with the path. It takes c on error.
func (p *tlsPath) keep(c *tls.Conn) error {
	p.mu.Lock()
	err := p.err
	if err == nil {
		p.idle[c] = struct{}{}
	}
	p.mu.Unlock()
	if err != nil {
		hangUp(c)
	}
	return err
}

// drop closes a connection that keep has taken.
func (p *tlsPath) drop(c *tls.Conn) {
	p.mu.Lock()
	delete(p.idle, c)
	p.mu.Unlock()
	hangUp(c)
}

// Accept implements Path.
func (p *tlsPath) Accept(ctx context.Context) (net.Conn, error) {
	select {
	case <-p.done:
		return nil, p.Err()
	default:
	}
	select {
	case s := <-p.accepts:
		return s, nil
	case <-p.done:
		return nil, p.Err()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Widen implements Path: each stream is a connection of its own already.
func (p *tlsPath) Widen(context.Context, int) error { return nil }

// Info implements Path.
func (p *tlsPath) Info() Info {
	p.mu.Lock()
	n := 1 + len(p.streams) + len(p.idle)
	p.mu.Unlock()
	return Info{Kind: KindTLS, Conns: n, Local: p.control.LocalAddr().String(), Remote: p.control.RemoteAddr().String(), RTT: time.Duration(p.rtt.Load()),
		Since: p.since}
}

// Done implements Path.
func (p *tlsPath) Done() <-chan struct{} { return p.done }

// Err implements Path.
func (p *tlsPath) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close implements Path.
func (p *tlsPath) Close() error {
	p.end(errClosed)
	p.wg.Wait()
	return nil
}

// end closes everything, and waits for nobody: the path's own goroutines call it, too.
func (p *tlsPath) end(err error) {
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return
	}
	p.err = err
	streams, idle := p.streams, p.idle
	p.streams, p.idle = nil, nil
	close(p.done)
	p.cancel()
	p.wg.Go(func() { // side by side, as each may take closeGrace
		var wg sync.WaitGroup
		wg.Go(func() { hangUp(p.control) })
		for c := range idle {
			wg.Go(func() { hangUp(c) })
		}
		for s := range streams {
			wg.Go(func() { s.Close() })
		}
		wg.Wait()
	})
	p.mu.Unlock()
	if p.onEnd != nil {
		p.onEnd()
	}
	p.log.Debug("path: ended", "kind", KindTLS, "peer", p.control.RemoteAddr(), "error", err)
}

// tlsStream is a net.Conn of a path.
type tlsStream struct {
	*tls.Conn
	p      *tlsPath
	slots  chan struct{}
	closed atomic.Bool
}

// Write implements net.Conn. One of several records is one of few system calls.
func (s *tlsStream) Write(p []byte) (int, error) {
	below, ok := s.NetConn().(*batchConn)
	if !ok || len(p) <= recordSize {
		return s.Conn.Write(p)
	}
	below.hold()
	n, err := s.Conn.Write(p)
	if ferr := below.release(); err == nil && ferr != nil {
		return 0, ferr // how much of it went is not known; the connection is of no more use
	}
	return n, err
}

// Close ends both directions.
func (s *tlsStream) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	err := hangUp(s.Conn)
	s.p.mu.Lock()
	delete(s.p.streams, s)
	s.p.mu.Unlock()
	<-s.slots
	return err
}
