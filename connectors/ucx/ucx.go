package ucx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/connectors/dim/rpc"
	"github.com/proxyplane/proxyplane/connectors/tcp"
	buffers "github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/ucx"
)

const kind = "ucx"

var class = connectors.Class{Module: "proxystore_ex.connectors.dim.ucx", Name: "UCXConnector"}

// Options configure a connector. The zero value has a server of this process, at this machine's address and a port that the system picks.
type Options struct {
	dim.Options
	BusyPoll       time.Duration // how long to look for messages before waiting for them, which is faster and costs a processor; default: not at all
	NoSharedMemory bool          // stay on the network even to servers on this host
}

// New returns a connector. It looks for a server at the address, and starts one if there is none.
func New(ctx context.Context, opts Options) (*dim.Connector, error) { return open(ctx, opts, nil) }

func open(ctx context.Context, opts Options, env *connectors.Env) (*dim.Connector, error) {
	if strings.Contains(opts.Address, "://") {
		return nil, fmt.Errorf("%w: option address: name a host; UCX has no unix sockets", connectors.ErrConfig)
	}
	if opts.BusyPoll < 0 || opts.BusyPoll > time.Second {
		return nil, fmt.Errorf("%w: option busy_poll must be from 0 to 1 second; some 50 µs are much", connectors.ErrConfig)
	}
	opts.BusyPoll = opts.BusyPoll.Round(time.Microsecond) // so that seconds as a float64, and back, are the same
	t, err := transport(&opts)
	if err != nil {
		return nil, err
	}
	return dim.New(ctx, t, opts.Options, env, func(o dim.Options) connectors.Config {
		now := opts
		now.Options = o
		return connectors.Config{Kind: class.String(), Options: now.values()}
	})
}

// transport returns what new objects move over, UCX if it is built in, and how to get to those that moved over the other.
func transport(opts *Options) (*dim.Transport, error) {
	t, err := tcp.Transport(kind, &tcp.Options{Options: opts.Options, BusyPoll: opts.BusyPoll, NoSameHost: opts.NoSharedMemory})
	if err != nil {
		return nil, err
	}
	t.KeepServer = true
	token, err := opts.Secret()
	if err != nil {
		return nil, err
	}
	serve, dial := opts.Native(token)
	d := ucx.DialOptions{ClientOptions: dial, BusyPoll: opts.BusyPoll, NoSharedMemory: opts.NoSharedMemory}
	over := dim.Dialer{DIMType: kind, Dial: func(ctx context.Context, host string, port int) (objects.Client, error) {
		return dialPeer(ctx, host, port, d)
	}}
	if !Built {
		t.Dialers = append(t.Dialers, over)
		return t, nil
	}
	for i, d := range t.Dialers {
		t.Dialers[i].Dial = impatient(d.Dial)
	}
	t.Dialers = append([]dim.Dialer{over}, t.Dialers...)
	o := *opts // as they are now
	t.Listen = func(ctx context.Context, host string, port int, store objects.Store) (objects.Server, error) {
		l := ucx.ListenOptions{ServerOptions: serve, Insecure: o.Insecure, BusyPoll: o.BusyPoll, NoSharedMemory: o.NoSharedMemory}
		if len(token) == 0 {
			l.Python = rpc.NewHandler(store, rpc.HandlerOptions{Put: objects.PutOptions{TTL: o.TTL}})
		}
		s, err := ucx.Listen(ctx, address(host, port), store, l)
		if errors.Is(err, connectors.ErrDenied) {
			return nil, fmt.Errorf("%w; those are options token and insecure", err)
		}
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	return t, nil
}

// silence is how long a server may take to answer over TCP. A UCX listener takes such connections, too, and never answers: without this who looked for a
// server just when it was started, over UCX too early and over TCP too late, would wait for the time limit of the handshake.
const silence = 2 * time.Second

func impatient(dial func(ctx context.Context, host string, port int) (objects.Client, error)) func(ctx context.Context, host string, port int) (objects.Client, error) {
	return func(ctx context.Context, host string, port int) (objects.Client, error) {
		limited, cancel := context.WithTimeout(ctx, silence)
		defer cancel()
		c, err := dial(limited, host, port)
		if err != nil && limited.Err() != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("%w: %s does not answer over TCP within %v; a server with UCX does not", connectors.ErrUnavailable, address(host, port), silence)
		}
		return c, err
	}
}

// dialPeer connects to a server of ours or of Python's.
func dialPeer(ctx context.Context, host string, port int, d ucx.DialOptions) (objects.Client, error) {
	c, err := ucx.Connect(ctx, address(host, port), d)
	if err != nil {
		return nil, err
	}
	defer c.Close() // does nothing once c is in use
	if c.Peer() == ucx.PeerPython {
		if len(d.Token) > 0 {
			return nil, fmt.Errorf("%w: a server of Python answers at %s, which knows no tokens; drop option token to talk to it all the same",
				connectors.ErrDenied, address(host, port))
		}
		x, err := c.Exchanger()
		if err != nil {
			return nil, err
		}
		return rpc.NewClient(&queue{x: x, turn: make(chan struct{}, 1)}, kind, rpc.ClientOptions{Host: host, Port: port}), nil
	}
	client, err := c.Client(ctx)
	if err != nil {
		return nil, err // and not a nil *ucx.Client
	}
	return client, nil
}

// queue lets one exchange at a time through: each is an endpoint of its own, and ucx-py's listener loses some of many that come at once.
type queue struct {
	x    objects.Exchanger
	turn chan struct{}
}

func (q *queue) Exchange(ctx context.Context, req buffers.Slices) (*buffers.Buffer, error) {
	select {
	case q.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-q.turn }()
	return q.x.Exchange(ctx, req)
}

func (q *queue) Close() error { return q.x.Close() }

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// values is the inverse of parse.
func (o *Options) values() map[string]any {
	m := o.Values()
	if o.BusyPoll != 0 {
		m["busy_poll"] = o.BusyPoll.Seconds()
	}
	if o.NoSharedMemory {
		m["no_shared_memory"] = true
	}
	return m
}

func parse(o *connectors.Options) Options {
	return Options{Options: dim.Parse(o, dim.Defaults{}), BusyPoll: o.Seconds("busy_poll", 0), NoSharedMemory: o.Bool("no_shared_memory", false)}
}

// Driver returns the driver of this connector, for a [connectors.Registry]. Its options are Python's address, interface, port and timeout; those of
// package dim; busy_poll and no_shared_memory.
func Driver() connectors.Driver {
	return connectors.Driver{
		Kind:          kind,
		Class:         class,
		PythonOptions: []string{"address", "interface", "port", "timeout"},
		Essential:     []string{"token", "token_file"},
		Secret:        slices.Clone(dim.SecretOptions),
		Open: func(ctx context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
			opts := parse(o)
			if err := o.Err(); err != nil {
				return nil, err
			}
			if env.Received {
				opts.Receive()
				opts.BusyPoll = 0
			}
			c, err := open(ctx, opts, env)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Locations: func(o *connectors.Options, _ *connectors.Env) ([]connectors.Location, error) {
			opts := parse(o)
			if err := o.Err(); err != nil {
				return nil, err
			}
			return opts.Locations(kind)
		},
	}
}
