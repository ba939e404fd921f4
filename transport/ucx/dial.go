package ucx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/cgo/ucx"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// A Client is one session with a server. It implements objects.Client.
type Client struct {
	*native.Client
	transports []string
}

var _ objects.Client = (*Client)(nil)

// Transports returns what UCX chose for the frames of this session: "tcp/eth0", "posix/memory", "rc_mlx5/mlx5_0:1".
func (c *Client) Transports() []string { return c.transports }

// Peer says who answers at an address.
type Peer int

// The servers that we talk with.
const (
	PeerNative Peer = iota // ours
	PeerPython             // that of ProxyStore's UCXConnector, or one of the same protocol
)

// String returns "native" or "python".
func (p Peer) String() string {
	if p == PeerPython {
		return "python"
	}
	return "native"
}

// ErrPythonPeer is what Dial returns where a server of ProxyStore's UCXConnector answers: use Connect, and Conn.Exchanger.
var ErrPythonPeer = fmt.Errorf("ucx: %w: the server is Python's, which does not speak the native protocol", errors.ErrUnsupported)

// Conn is a connection to a server, before it is put to use: by Client, by Exchanger, or by Close.
type Conn struct {
	o    DialOptions
	addr netip.AddrPort

	mu   sync.Mutex
	used bool
	c    *carrier   // to a server of ours, or
	x    *exchanger // to one of Python's
}

// Connect connects to the server at "host:port" and sees who it is, in a way that harms neither kind: both speak first. ctx bounds only that. An error
// matches transport.ErrUnavailable if nobody answers there, transport.ErrNotBuilt in a program without UCX; an end of ctx passes as it is.
func Connect(ctx context.Context, addr string, o DialOptions) (*Conn, error) {
	o = o.withDefaults()
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
	defer cancel()
	addrs, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range addrs {
		conn := &Conn{o: o, addr: a}
		err := conn.connect(ctx)
		if err == nil {
			return conn, nil
		}
		if outer.Err() != nil {
			return nil, outer.Err()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: no answer within %v", transport.ErrUnavailable, o.ConnectTimeout)
		}
		if status := ucx.Status(0); errors.As(err, &status) && !errors.Is(err, transport.ErrUnavailable) {
			err = fmt.Errorf("%w: %w", transport.ErrUnavailable, err) // a server that was killed while it answered gives ErrEndpointTimeout, among others
		}
		errs = append(errs, fmt.Errorf("dialing %v: %w", a, err))
	}
	return nil, errors.Join(errs...)
}

// connect makes a context, a worker and a connection.
func (conn *Conn) connect(ctx context.Context) error {
	a, o := conn.addr, &conn.o
	uc, err := openContext(a, o.Config, o.Keepalive, 0)
	if err != nil {
		return err
	}
	e, err := newEngine(uc, ucx.WorkerOptions{ClientID: clientID}, o.BusyPoll)
	if err != nil {
		uc.Close()
		return err
	}
	share := !o.NoSharedMemory && sharesMemory(uc)
	c := &carrier{e: e, own: true, pool: o.Pool, remote: a.String(), flags: ucx.SendReply, ended: uc.Close, trusted: a.Addr().IsLoopback()}
	e.lock()
	err = e.w.HandleMessages(amID)
	if err == nil {
		token := e.next()
		var ep *ucx.Endpoint
		if ep, err = e.w.Connect(a, true, token); err == nil {
			c.attach(e.watch(ep, token, c.lost))
		}
	}
	if err != nil {
		e.shut()
		e.unlock()
		uc.Close()
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	e.only = c
	python, err := c.greet(ctx, share, true)
	if python && err == nil {
		e.only = nil
		conn.x = newExchanger(*o, uc, e, []netip.AddrPort{a})
		if conn.x.first, err = conn.x.adopt(ctx, c.control); err != nil {
			e.unlock()
			conn.x.Close()
			return err
		}
	}
	e.unlock()
	if err != nil {
		c.Close()
		return err
	}
	if !python {
		conn.c = c
	}
	return nil
}

// Peer says who answered.
func (conn *Conn) Peer() Peer {
	if conn.x != nil {
		return PeerPython
	}
	return PeerNative
}

// use gives the connection away, once.
func (conn *Conn) use() (*carrier, *exchanger, error) {
	conn.mu.Lock()
	defer conn.mu.Unlock()
	if conn.used {
		return nil, nil, fmt.Errorf("ucx: %w: the connection is closed, or in use already", transport.ErrClosed)
	}
	conn.used = true
	return conn.c, conn.x, nil
}

// Client puts the connection to use for native requests, and gives it to the Client that it returns, whose Close ends it. ctx bounds only that. Where the
// server is Python's it returns ErrPythonPeer, and the connection stays. On any other error it is closed; it matches transport.ErrDenied if the
// two do not trust each other.
func (conn *Conn) Client(ctx context.Context) (*Client, error) {
	if conn.Peer() != PeerNative {
		return nil, ErrPythonPeer
	}
	c, _, err := conn.use()
	if err != nil {
		return nil, err
	}
	c.e.lock()
	transports := c.tx.Transports()
	c.devices = accessesMemory(transports)
	c.e.unlock()
	n, err := native.NewClient(ctx, c, conn.o.ClientOptions)
	if err != nil {
		return nil, err
	}
	return &Client{n, transports}, nil
}

// Exchanger puts the connection to use for the messages of Python's protocol, and gives it to the Exchanger that it returns, whose Close ends it. Our
// server understands them, too, if it serves Python clients; that takes another connection then, and this one is closed.
func (conn *Conn) Exchanger() (objects.Exchanger, error) {
	c, x, err := conn.use()
	if err != nil {
		return nil, err
	}
	if x != nil {
		return x, nil
	}
	c.Close()
	return dialExchanger(conn.o, []netip.AddrPort{conn.addr})
}

// Close ends the connection if it is not in use. Idempotent.
func (conn *Conn) Close() error {
	c, x, err := conn.use()
	switch {
	case err != nil:
		return nil
	case x != nil:
		return x.Close()
	}
	return c.Close()
}

// Dial connects to the Server at "host:port". ctx bounds only that. Errors are those of Connect and of Conn.Client.
func Dial(ctx context.Context, addr string, o DialOptions) (*Client, error) {
	conn, err := Connect(ctx, addr, o)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Client(ctx)
}

// attach makes p the carrier's connection. Under mu.
func (c *carrier) attach(p *endpoint) {
	c.control, c.tx = p, p.ep
	c.header = min(maxHeader, c.e.w.MaxHeader())
}

// patience is how long a client whose context has ended still waits for the server's first words. UCX (1.13) does not bear a client that hangs up in the
// middle of being accepted: server or client may crash (see the package comment). A server that is there answers within milliseconds.
const patience = time.Second

// greeted is what waits for the server's first words, or the client's hello.
type greeted struct {
	c      *carrier
	probe  bool
	python bool // it has sent bytes over the stream
}

func (g *greeted) ready() bool {
	c := g.c
	if g.probe && c.e.w.StreamReady() != 0 {
		g.python = true
	}
	return g.python || c.greeting != nil || c.err != nil || c.eof
}

// greet exchanges hellos, and adds shared memory if both sides have it in common. The server speaks first, as Python's does: that one, however, over the
// stream. Under mu.
func (c *carrier) greet(ctx context.Context, share, client bool) (python bool, err error) {
	over := make(chan struct{})
	defer close(over)
	stop := context.AfterFunc(ctx, func() {
		if client {
			t := time.NewTimer(patience)
			defer t.Stop()
			select {
			case <-over:
				return
			case <-t.C:
			}
		}
		c.e.lock()
		if c.greeting == nil {
			c.fail(ctx.Err())
		}
		c.e.unlock()
	})
	defer stop()
	mine := hello{host: bootID()}
	share = share && len(mine.host) > 0 && c.own
	if share {
		mine.address, _ = c.e.w.Address()
		c.lease = newLease()
		g := c.lease.grant()
		mine.lease = g.append(nil)
	}
	if !client {
		if err := c.say(&mine); err != nil {
			return false, err
		}
	}
	g := &greeted{c: c, probe: client}
	if err := c.e.wait(g); err != nil {
		return false, err
	}
	switch {
	case g.python:
		return true, nil
	case c.greeting != nil:
	case c.err != nil:
		return false, c.err
	default:
		return false, fmt.Errorf("%w: %s closed the connection", transport.ErrUnavailable, c.remote)
	}
	var theirs hello
	if err := theirs.parse(c.greeting); err != nil {
		return false, err
	}
	if share && len(theirs.address) > 0 && bytes.Equal(theirs.host, mine.host) {
		if err := c.shareWith(&theirs); err == nil {
			mine.address, _ = c.e.w.Address()
		} else if !client {
			return false, fmt.Errorf("%w: shared memory, which the client is going to use, set NoSharedMemory: %w", transport.ErrUnavailable, err)
		}
	}
	if client {
		if c.fast == nil {
			mine.address, mine.lease = nil, nil
		}
		if err := c.say(&mine); err != nil {
			return false, err
		}
	}
	if c.fast != nil {
		c.tx, c.trusted = c.fast.ep, true
		c.e.peers[c.fast.handle] = c
	}
	return false, nil
}

// shareWith makes the endpoint over shared memory, if its memory can be read safely. Under mu.
func (c *carrier) shareWith(peer *hello) error {
	g, err := parseGrant(peer.lease)
	if err != nil {
		return err
	}
	token := c.e.next()
	ep, err := c.e.w.ConnectWorker(peer.address, false, token)
	if err != nil {
		return err
	}
	fast := c.e.watch(ep, token, c.lost)
	if readsPeer(ep.Transports()) {
		err = fmt.Errorf("%w: the peer grants no lease of its memory", transport.ErrUnavailable)
		if g != nil {
			err = g.good()
		}
		if err != nil {
			fast.abandon()
			return err
		}
		c.theirs = g
	}
	c.fast = fast
	return nil
}

// say sends a hello, without waiting for that. Under mu.
func (c *carrier) say(h *hello) error {
	o := &outgoing{c: c}
	c.post(o, prefix{kind: kindHello, seq: c.sent}.append(o.buffer()), h.append(nil))
	return o.err
}
