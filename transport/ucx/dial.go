package ucx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"

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

// Dial connects to the Server at "host:port". ctx bounds only that. An error matches transport.ErrUnavailable if nobody answers there,
// transport.ErrDenied if the two do not trust each other, transport.ErrNotBuilt in a program without UCX; an end of ctx passes as it is.
func Dial(ctx context.Context, addr string, o DialOptions) (*Client, error) {
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
		c, err := dial(ctx, a, &o)
		if err == nil {
			return c, nil
		}
		if outer.Err() != nil {
			return nil, outer.Err()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: no answer within %v", transport.ErrUnavailable, o.ConnectTimeout)
		}
		errs = append(errs, fmt.Errorf("dialing %v: %w", a, err))
	}
	return nil, errors.Join(errs...)
}

func dial(ctx context.Context, a netip.AddrPort, o *DialOptions) (*Client, error) {
	c, err := connect(ctx, a, o)
	if err != nil {
		return nil, err
	}
	c.e.lock()
	transports := c.tx.Transports()
	c.devices = accessesMemory(transports)
	c.e.unlock()
	n, err := native.NewClient(ctx, c, o.ClientOptions)
	if err != nil {
		return nil, err
	}
	return &Client{n, transports}, nil
}

// connect makes a context, a worker and a connection.
func connect(ctx context.Context, a netip.AddrPort, o *DialOptions) (*carrier, error) {
	uc, err := openContext(a, o.Config, o.Keepalive, 0)
	if err != nil {
		return nil, err
	}
	e, err := newEngine(uc, ucx.WorkerOptions{ClientID: clientID}, o.BusyPoll)
	if err != nil {
		uc.Close()
		return nil, err
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
		return nil, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	e.only = c
	err = c.greet(ctx, share, true)
	e.unlock()
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// attach makes p the carrier's connection. Under mu.
func (c *carrier) attach(p *endpoint) {
	c.control, c.tx = p, p.ep
	c.header = min(maxHeader, c.e.w.MaxHeader())
}

// greeted is what waits for the peer's hello.
type greeted carrier

func (c *greeted) ready() bool { return c.greeting != nil || c.err != nil || c.eof }

// greet exchanges hellos, and adds shared memory if both sides have it in common. The client speaks first. Under mu.
func (c *carrier) greet(ctx context.Context, share, first bool) error {
	stop := context.AfterFunc(ctx, func() {
		c.e.lock()
		if c.greeting == nil {
			c.fail(ctx.Err())
		}
		c.e.unlock()
	})
	defer stop()
	mine := hello{host: bootID()}
	share = share && len(mine.host) > 0 && c.own
	if first {
		if share {
			mine.address, _ = c.e.w.Address()
		}
		if err := c.say(&mine); err != nil {
			return err
		}
	}
	if err := c.e.wait((*greeted)(c)); err != nil {
		return err
	}
	if c.greeting == nil {
		if c.err != nil {
			return c.err
		}
		return fmt.Errorf("%w: %s closed the connection", transport.ErrUnavailable, c.remote)
	}
	var theirs hello
	if err := theirs.parse(c.greeting); err != nil {
		return err
	}
	share = share && len(theirs.address) > 0 && bytes.Equal(theirs.host, mine.host)
	if share {
		token := c.e.next()
		if ep, err := c.e.w.ConnectWorker(theirs.address, false, token); err == nil {
			c.fast = c.e.watch(ep, token, c.lost)
			mine.address, _ = c.e.w.Address()
		} else {
			share = false
		}
	}
	if !first {
		if !share {
			mine.address = nil
		}
		if err := c.say(&mine); err != nil {
			return err
		}
	}
	if c.fast != nil {
		c.tx, c.trusted = c.fast.ep, true
		c.e.peers[c.fast.handle] = c
	}
	return nil
}

// say sends a hello. Under mu.
func (c *carrier) say(h *hello) error {
	o := &outgoing{c: c}
	c.post(o, prefix{kind: kindHello, seq: c.sent}.append(o.buffer()), h.append(nil))
	return c.flushed(o)
}
