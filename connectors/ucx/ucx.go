package ucx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	var pythons sync.Map // addresses of servers of Python
	d := ucx.DialOptions{ClientOptions: dial, BusyPoll: opts.BusyPoll, NoSharedMemory: opts.NoSharedMemory}
	over := dim.Dialer{DIMType: kind, Dial: func(ctx context.Context, host string, port int) (objects.Client, error) {
		// Python's server does not take it well to be spoken to in the native protocol: once it is known it is spared that.
		if _, known := pythons.Load(address(host, port)); known {
			if c, err := dialPython(ctx, host, port, d); err == nil {
				return c, nil
			}
			pythons.Delete(address(host, port))
		}
		c, err := dialPeer(ctx, host, port, d)
		if _, ok := c.(*rpc.Client); ok {
			pythons.Store(address(host, port), true)
		}
		return c, err
	}}
	if !Built {
		t.Dialers = append(t.Dialers, over)
		return t, nil
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

// patience is how long a server may take to answer in the native protocol before it is asked in Python's. Python's server does not answer the former at all.
const patience = 300 * time.Millisecond

// dialPeer connects to a server of ours or of Python's. Ours answers in both protocols, so that only its silence in the native one tells.
func dialPeer(ctx context.Context, host string, port int, d ucx.DialOptions) (objects.Client, error) {
	if !Built || len(d.Token) > 0 { // Python's server knows no tokens
		return result(ucx.Dial(ctx, address(host, port), d))
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		client objects.Client
		err    error
	}
	native := make(chan answer, 1)
	go func() {
		c, err := result(ucx.Dial(inner, address(host, port), d))
		native <- answer{c, err}
	}()
	wait := time.NewTimer(patience)
	defer wait.Stop()
	var first *answer
	select {
	case a := <-native:
		if a.err == nil || ctx.Err() != nil || errors.Is(a.err, connectors.ErrDenied) || errors.Is(a.err, connectors.ErrNotBuilt) {
			return a.client, a.err
		}
		first = &a
	case <-wait.C:
	}
	python, perr := dialPython(ctx, host, port, d)
	if first == nil && perr == nil {
		wait.Reset(patience)
		select {
		case a := <-native:
			first = &a
		case <-wait.C:
			cancel()
		}
	}
	if first == nil {
		a := <-native // at once if it was cancelled; else it is the only hope
		first = &a
	}
	switch {
	case first.err == nil:
		if perr == nil {
			python.Close()
		}
		return first.client, nil
	case perr == nil:
		return python, nil
	}
	return nil, first.err
}

// result keeps a nil *ucx.Client from becoming an objects.Client.
func result(c *ucx.Client, err error) (objects.Client, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// dialPython connects to a server in Python's protocol.
func dialPython(ctx context.Context, host string, port int, d ucx.DialOptions) (objects.Client, error) {
	x, err := ucx.DialExchanger(ctx, address(host, port), d)
	if err != nil {
		return nil, err
	}
	c := rpc.NewClient(&queue{x: x, turn: make(chan struct{}, 1)}, kind, rpc.ClientOptions{Host: host, Port: port})
	if err := c.Ping(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
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
