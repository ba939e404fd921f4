package quic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/proxyplane/proxyplane/transport"
)

// A Conn is one connection. All methods may be called by many goroutines at once.
type Conn struct {
	s      *Socket
	qc     *quic.Conn
	stop   func() bool
	closed atomic.Bool
	opened atomic.Int64
}

func newConn(s *Socket, qc *quic.Conn) *Conn {
	c := &Conn{s: s, qc: qc}
	c.stop = context.AfterFunc(qc.Context(), func() { s.forget(c) })
	return c
}

// Open opens a stream. Where the peer allows no more of them it waits for one to end, as long as ctx. The peer sees it with the first byte that
// is written to it, not before. The caller closes it. Errors match ErrUnavailable if the connection is broken and ErrClosed after Close.
func (c *Conn) Open(ctx context.Context) (net.Conn, error) {
	c.opened.Add(1)
	s, err := c.qc.OpenStreamSync(ctx)
	if err != nil {
		c.opened.Add(-1)
		return nil, fmt.Errorf("quic: opening a stream: %w", c.failure(ctx, err))
	}
	return &stream{c: c, s: s, ours: true}, nil
}

// Accept returns the next stream that the peer has opened and written to. The caller closes it. Errors are as with Open.
func (c *Conn) Accept(ctx context.Context) (net.Conn, error) {
	s, err := c.qc.AcceptStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("quic: accepting a stream: %w", c.failure(ctx, err))
	}
	return &stream{c: c, s: s}, nil
}

// Opened returns how many streams are open, or about to be, that Open opened.
func (c *Conn) Opened() int { return int(c.opened.Load()) }

// More reports whether it is one beside others to the same peer, made by DialMore.
func (c *Conn) More() bool { return c.qc.ConnectionState().TLS.NegotiatedProtocol == ALPNMore }

// PeerCertificate lends the certificate that Verify accepted, in DER.
func (c *Conn) PeerCertificate() []byte { return leaf(c.qc.ConnectionState().TLS.PeerCertificates) }

// LocalAddr returns the local address.
func (c *Conn) LocalAddr() net.Addr { return c.qc.LocalAddr() }

// RemoteAddr returns where the peer is now.
func (c *Conn) RemoteAddr() net.Addr { return c.qc.RemoteAddr() }

// RTT returns the smoothed round trip time, which is never zero once there is a Conn.
func (c *Conn) RTT() time.Duration { return c.qc.ConnectionStats().SmoothedRTT }

// Done is closed when the connection has ended, for whatever reason.
func (c *Conn) Done() <-chan struct{} { return c.qc.Context().Done() }

// Err returns why Done is closed, nil before: ErrClosed after Close, else an ErrUnavailable.
func (c *Conn) Err() error {
	if c.qc.Context().Err() == nil {
		return nil
	}
	if c.closed.Load() {
		return errConnClosed
	}
	return fmt.Errorf("quic: %w", classify(context.Cause(c.qc.Context())))
}

// Close ends the connection and all streams at once, and tells the peer. What was written to streams and has not arrived may be lost. Idempotent.
func (c *Conn) Close() error {
	c.closed.Store(true)
	c.qc.CloseWithError(codeClosed, "")
	if c.stop() {
		c.s.forget(c)
	}
	return nil
}

var errConnClosed = fmt.Errorf("quic: the connection is closed: %w", transport.ErrClosed)

func (c *Conn) failure(ctx context.Context, err error) error {
	if c.closed.Load() {
		return errConnClosed
	}
	if cause := context.Cause(ctx); cause != nil && (errors.Is(err, cause) || errors.Is(err, ctx.Err())) {
		return cause
	}
	return classify(err)
}

// stream is a net.Conn over one stream. Reads by one goroutine at a time, writes by one at a time, as with any net.Conn of bytes; Close and the deadlines at
// any time.
type stream struct {
	c       *Conn
	s       *quic.Stream
	ours    bool // opened here
	closed  atomic.Bool
	writing sync.Mutex // held by a Write: quic.Stream.Close must not run beside one
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.s.Read(p)
	if err == nil {
		return n, nil
	}
	return n, s.failure("reading from", err)
}

func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	n, err := s.s.Write(p)
	if err == nil {
		return n, nil
	}
	return n, s.failure("writing to", err)
}

// failure leaves alone what net.Conn's callers look for, and says of the rest what it means.
func (s *stream) failure(doing string, err error) error {
	var se *quic.StreamError
	switch {
	case s.closed.Load():
		return fmt.Errorf("quic: %s a stream that was closed here: %w", doing, net.ErrClosed)
	case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded): // nolint: both come unwrapped
		return err
	case s.c.closed.Load():
		return errConnClosed
	case errors.As(err, &se):
		return fmt.Errorf("quic: %s %s: %w: the peer closed the stream", doing, s.c.RemoteAddr(), transport.ErrUnavailable)
	}
	return fmt.Errorf("quic: %s %s: %w", doing, s.c.RemoteAddr(), classify(err))
}

// Close ends both directions. What was written arrives, unless a Write was still under way: then the peer's reads fail.
func (s *stream) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	if s.ours {
		s.c.opened.Add(-1)
	}
	s.s.CancelRead(codeClosed)
	if s.writing.TryLock() {
		defer s.writing.Unlock()
		s.s.Close()
		return nil
	}
	s.s.CancelWrite(codeClosed)
	return nil
}

// CloseWrite ends what is written, as that of a *net.TCPConn. It must not be called beside a Write.
func (s *stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.s.Close()
}

func (s *stream) LocalAddr() net.Addr                { return s.c.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr               { return s.c.RemoteAddr() }
func (s *stream) SetDeadline(t time.Time) error      { return s.s.SetDeadline(t) }
func (s *stream) SetReadDeadline(t time.Time) error  { return s.s.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.s.SetWriteDeadline(t) }
