package zmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

// Peer says who answers at an address.
type Peer int

// The servers that we talk with.
const (
	PeerNative Peer = iota // ours
	PeerPython             // that of ProxyStore's ZeroMQConnector, or one of the same protocol
)

// String returns "native" or "python".
func (p Peer) String() string {
	if p == PeerPython {
		return "python"
	}
	return "native"
}

// ErrPythonPeer is what Dial returns where a server of ProxyStore's ZeroMQConnector answers: use Connect, and Conn.Exchanger.
var ErrPythonPeer = fmt.Errorf("zmq: %w: the server is Python's, which does not speak the native protocol", errors.ErrUnsupported)

// Conn is a connection to a server, before it is put to use: by Client, by Exchanger, or by Close.
type Conn struct {
	a    address
	o    *DialOptions
	peer Peer

	mu sync.Mutex
	l  link // nil once used
}

// Connect connects to the server at addr, "tcp://host:port" or "ipc:///path", and asks who it is, in a way that harms neither kind.
func Connect(ctx context.Context, addr string, o DialOptions) (*Conn, error) {
	op, err := o.complete()
	if err != nil {
		return nil, err
	}
	a, err := parseAddress(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, op.HandshakeTimeout, fmt.Errorf("zmq: %s: %w: the server did not say who it is within %v", a,
		transport.ErrUnavailable, op.HandshakeTimeout))
	defer cancel()
	l, err := op.connect(ctx, a, op, hello)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	stop := context.AfterFunc(ctx, l.interrupt)
	peer, err := whoIs(ctx, l)
	stop()
	if err != nil {
		l.close()
		return nil, causeOf(ctx, err)
	}
	return &Conn{a: a, o: op, peer: peer, l: l}, nil
}

// causeOf returns why ctx ended if that is what err says, else err.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// whoIs reads the answer to the hello.
func whoIs(ctx context.Context, l link) (Peer, error) {
	part := func(limit int64) (b []byte, more bool, err error) {
		retry := func(f func() error) error {
			for {
				err := f()
				if err == native.ErrInterrupted && ctx.Err() == nil {
					continue
				}
				if ctx.Err() != nil && err != nil {
					return ctx.Err()
				}
				return err
			}
		}
		var n int64
		if err = retry(func() (err error) { n, more, err = l.next(); return }); err != nil {
			return nil, false, err
		}
		if n > limit {
			return nil, false, corrupt("%s: the answer to a hello has a part of %d bytes", l.remote(), n)
		}
		b = make([]byte, n)
		for at := 0; at < len(b) && err == nil; {
			err = retry(func() error {
				k, err := l.read(b[at:])
				at += k
				return err
			})
		}
		return b, more, err
	}
	var parts []string
	for more := true; more && len(parts) < 4; {
		var b []byte
		var err error
		if b, more, err = part(256); err != nil {
			if err == io.EOF {
				err = fmt.Errorf("zmq: %s: %w: the server hung up instead of answering", l.remote(), transport.ErrUnavailable)
			}
			return 0, err
		}
		parts = append(parts, string(b))
	}
	switch {
	case len(parts) == 3 && parts[0] == "" && parts[1] == string(pongs[0]) && parts[2] == marker:
		return PeerNative, nil
	case len(parts) == 2 && parts[0] == "" && parts[1] == string(pongs[0]):
		return PeerPython, nil
	}
	return 0, corrupt("%s: this is neither our server nor that of ProxyStore's ZeroMQConnector: it answers a ping with %q", l.remote(), parts)
}

// Peer says who answered.
func (c *Conn) Peer() Peer { return c.peer }

// use gives the link away, once.
func (c *Conn) use() (link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.l
	c.l = nil
	if l == nil {
		return nil, fmt.Errorf("zmq: %w: the connection is closed, or in use already", transport.ErrClosed)
	}
	return l, nil
}

// Client puts the connection to use for native requests, and gives it to the client that it returns, whose Close ends it. Where the server is Python's
// it returns ErrPythonPeer, and the connection stays. On any other error it is closed.
func (c *Conn) Client(ctx context.Context) (*native.Client, error) {
	if c.peer != PeerNative {
		return nil, ErrPythonPeer
	}
	l, err := c.use()
	if err != nil {
		return nil, err
	}
	client, err := native.NewClient(ctx, newCarrier(l, false, 0, false), c.o.ClientOptions)
	if err != nil {
		l.close()
		return nil, err
	}
	return client, nil
}

// Exchanger puts the connection to use for the messages of Python's protocol, and gives it to the Exchanger that it returns, whose Close ends it. Both
// kinds of servers understand it, ours if it serves Python clients.
func (c *Conn) Exchanger() (*Exchanger, error) {
	l, err := c.use()
	if err != nil {
		return nil, err
	}
	return newExchanger(c.a, c.o, l), nil
}

// Close ends the connection if it is not in use. Idempotent.
func (c *Conn) Close() error {
	if l, err := c.use(); err == nil {
		l.close()
	}
	return nil
}

// Dial connects to a server of ours. Where Python's server answers it returns ErrPythonPeer.
func Dial(ctx context.Context, addr string, o DialOptions) (*native.Client, error) {
	c, err := Connect(ctx, addr, o)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Client(ctx)
}

// DialExchanger connects to any server that speaks Python's protocol: that of ProxyStore's ZeroMQConnector, or ours if it serves Python clients.
func DialExchanger(ctx context.Context, addr string, o DialOptions) (*Exchanger, error) {
	c, err := Connect(ctx, addr, o)
	if err != nil {
		return nil, err
	}
	return c.Exchanger()
}
