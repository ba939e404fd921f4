package zmq

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// Defaults of the options.
const (
	DefaultChunkLength      = 64 << 10 // as Python's
	DefaultMaxMessage       = 8 << 30
	DefaultMaxConnections   = 4096
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultStallTimeout     = 30 * time.Second
)

// ListenOptions of a server. The zero value listens on loopback and refuses Python peers. IdleTimeout and StallTimeout hold for Python's clients as
// for native ones: within a StallTimeout 4 MiB must come, or the rest of a frame, and 4 MiB of an answer be taken, or all of it. Who has asked
// for nothing yet is hung up on after a StallTimeout.
type ListenOptions struct {
	native.ServerOptions

	// Python answers the messages of Python clients. They are bytes of proxystore_ex's RPCs; connectors/dim/rpc understands them. nil refuses such
	// clients. It may be called by as many goroutines at once as there are connections.
	Python objects.Handler

	// ChunkLength is how long the frames of answers to Python are. 0 is DefaultChunkLength.
	ChunkLength int

	// MaxMessage is the longest message of a Python client, in bytes; a longer one ends the connection. 0 is DefaultMaxMessage. Memory grows as
	// bytes arrive, never because a length says so.
	MaxMessage int64

	// Curve makes the server speak CURVE, and nothing else. nil is NULL: neither encryption nor proof of who the peer is.
	Curve *CurveServer

	// Insecure lifts two rules for those who know their network: that a server without CURVE and token listens on loopback only, and that
	// a server with a token refuses Python clients, which can present none.
	Insecure bool

	// MaxConnections is how many peers are served at once; more are hung up on. 0 is DefaultMaxConnections.
	MaxConnections int

	// Libzmq serves by libzmq's sockets, which costs a hand-over to its threads for each message. It needs build tag zmq; see the package comment.
	Libzmq bool

	listen listenFunc // set by tests
}

// complete returns a copy with defaults filled in.
func (o ListenOptions) complete() (*ListenOptions, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.ChunkLength = cmp.Or(o.ChunkLength, DefaultChunkLength)
	o.MaxMessage = cmp.Or(o.MaxMessage, DefaultMaxMessage)
	o.MaxConnections = cmp.Or(o.MaxConnections, DefaultMaxConnections)
	o.HandshakeTimeout = cmp.Or(o.HandshakeTimeout, DefaultHandshakeTimeout)
	o.StallTimeout = cmp.Or(o.StallTimeout, DefaultStallTimeout)
	switch {
	case o.listen != nil:
	case !o.Libzmq:
		o.listen = defaultListen
	case libzmqListen != nil:
		o.listen = libzmqListen
	default:
		return nil, errNoLibzmq
	}
	if o.Curve != nil {
		if err := o.Curve.check(); err != nil {
			return nil, err
		}
	}
	if o.ChunkLength < 0 || o.MaxMessage < 0 || o.MaxConnections < 0 || o.HandshakeTimeout < 0 {
		return nil, errors.New("zmq: ListenOptions: lengths, counts and times must not be negative")
	}
	return &o, nil
}

// DialOptions of a client. The zero value is useful.
type DialOptions struct {
	native.ClientOptions

	// Curve makes the client speak CURVE, and prove that the server is the one with that key.
	Curve *CurveClient

	// ChunkLength is how long the frames of requests to a Python server are. 0 is DefaultChunkLength.
	ChunkLength int

	// MaxMessage is the longest answer of a Python server, in bytes. 0 is DefaultMaxMessage.
	MaxMessage int64

	// Libzmq connects by libzmq's sockets. It needs build tag zmq.
	Libzmq bool

	connect connectFunc // set by tests
}

func (o DialOptions) complete() (*DialOptions, error) {
	o.ChunkLength = cmp.Or(o.ChunkLength, DefaultChunkLength)
	o.MaxMessage = cmp.Or(o.MaxMessage, DefaultMaxMessage)
	o.HandshakeTimeout = cmp.Or(o.HandshakeTimeout, DefaultHandshakeTimeout)
	switch {
	case o.connect != nil:
	case !o.Libzmq:
		o.connect = defaultConnect
	case libzmqConnect != nil:
		o.connect = libzmqConnect
	default:
		return nil, errNoLibzmq
	}
	if o.ChunkLength < 0 || o.MaxMessage < 0 || o.HandshakeTimeout < 0 {
		return nil, errors.New("zmq: DialOptions: lengths and times must not be negative")
	}
	if o.Curve != nil {
		if err := o.Curve.check(); err != nil {
			return nil, err
		}
	}
	return &o, nil
}

// corrupt is an error for bytes that cannot be ZMTP, or cannot be our protocol.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("zmq: %w: %s", transport.ErrCorrupt, fmt.Sprintf(format, args...))
}
