package path

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/quic"
)

// The kinds of paths, in Info.Kind.
const (
	KindTLS    = "tls"
	KindQUIC   = "quic"
	KindWebRTC = "webrtc"
)

// A Path carries streams of bytes between two endpoints, each opened by the side that will ask on it. All methods may be called by many goroutines at
// once.
//
// A stream is a net.Conn whose bytes cannot be read or changed on the way (tell the carrier that it is Trusted). Deadlines end blocked calls, and
// a read that one has ended loses nothing. Close ends both directions. The end of the Path ends its streams.
type Path interface {
	// Open returns a stream on which this side is the native client, and writes first: with some kinds the peer sees the stream only then. The caller closes
	// it. Where there are as many streams as the peer allows it waits for one to end. ctx bounds this call, not the stream. Errors match
	// transport.ErrUnavailable if the Path is broken, ErrClosed after Close, or are ctx's own.
	Open(ctx context.Context) (net.Conn, error)
	// Accept returns the next stream on which the peer is the client. The caller closes it. Errors are as with Open. Streams that nobody accepts are bounded
	// by the limit of streams.
	Accept(ctx context.Context) (net.Conn, error)
	// Widen has the Path get along with n bulk streams at once: where streams share a congestion window, as those of one QUIC connection do, it makes more of
	// those if there are fewer than n. Errors match errors.ErrUnsupported if this Path cannot; then all is as before. ctx bounds the call.
	Widen(ctx context.Context, n int) error
	// Info says what the Path is, and how long a round trip takes now.
	Info() Info
	// Done is closed when the Path has ended, which within some 15 s is also noticed if the peer vanished without a word.
	Done() <-chan struct{}
	// Err returns why Done is closed, nil before: ErrClosed after Close, else an ErrUnavailable.
	Err() error
	// Close ends the Path with all streams and tells the peer. It waits for its goroutines. Idempotent.
	Close() error
}

// Info describes a Path.
type Info struct {
	Kind          string // KindTLS, KindQUIC or KindWebRTC
	Local, Remote string // "ip:port" of both ends, as this side sees them
	Relayed       bool   // a TURN server is on the way
	Conns         int    // of TCP or QUIC that it consists of now; 1 with data channels
	RTT           time.Duration
	Since         time.Time // when it was established
}

// Details of a Path that its connection does not know.
type Details struct {
	Local, Remote string // "ip:port" of the ICE pair; empty: what the connection says
	Relayed       bool
	// More dials another connection to the same peer, at to, for Widen of a QUIC Path. nil: it cannot be widened.
	More func(ctx context.Context, to net.Addr) (*quic.Conn, error)
}

var errClosed = fmt.Errorf("path: %w", transport.ErrClosed)

func orDefault[T ~int | ~int64](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

func orDiscard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
