package dim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// network is a network within the test, on which each address has one server at most.
type network struct {
	mu      sync.Mutex
	servers map[string]*server
	dials   atomic.Int64
	clients atomic.Int64 // open
	calls   atomic.Int64
	cut     atomic.Int64 // every so manieth call breaks its connection; 0 is never
	python  atomic.Bool  // servers answer as Python's do
	refuse  atomic.Pointer[error]
	next    int
}

func newNetwork() *network { return &network{servers: map[string]*server{}, next: 20000} }

// server is one on the network.
type server struct {
	net   *network
	addr  string
	store objects.Store
	gone  chan struct{}
	once  sync.Once
}

func (n *network) listen(_ context.Context, host string, port int, store objects.Store) (objects.Server, error) {
	if host == "192.0.2.1" {
		return nil, fmt.Errorf("%w: listen: %w", transport.ErrUnavailable, syscall.EADDRNOTAVAIL)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == 0 {
		n.next++
		port = n.next
	}
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	if n.servers[addr] != nil {
		return nil, fmt.Errorf("listen %s: %w", addr, syscall.EADDRINUSE)
	}
	s := &server{net: n, addr: addr, store: store, gone: make(chan struct{})}
	n.servers[addr] = s
	return s, nil
}

func (s *server) Addr() string                   { return "fake://" + s.addr }
func (s *server) Shutdown(context.Context) error { return s.Close() }
func (s *server) Close() error {
	s.once.Do(func() {
		s.net.mu.Lock()
		defer s.net.mu.Unlock()
		delete(s.net.servers, s.addr)
		close(s.gone)
	})
	return nil
}

func (n *network) dial(ctx context.Context, host string, port int) (objects.Client, error) {
	n.dials.Add(1)
	if err := n.refuse.Load(); err != nil {
		return nil, *err
	}
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	n.mu.Lock()
	s := n.servers[addr]
	n.mu.Unlock()
	if s == nil {
		return nil, fmt.Errorf("%w: dial %s: %w", transport.ErrUnavailable, addr, syscall.ECONNREFUSED)
	}
	if s.store == nil { // it takes the connection and says nothing
		<-ctx.Done()
		return nil, ctx.Err()
	}
	n.clients.Add(1)
	life, end := context.WithCancelCause(context.Background())
	return &client{local: local{s.store}, s: s, life: life, end: end}, nil
}

// client is a local one behind a connection that can break.
type client struct {
	local
	s    *server
	life context.Context
	end  context.CancelCauseFunc
	once sync.Once
}

var errCut = fmt.Errorf("%w: the connection was cut", transport.ErrUnavailable)

// call runs fn unless, or until, the connection breaks.
func (c *client) call(ctx context.Context, fn func(context.Context) error) error {
	if n := c.s.net.cut.Load(); n > 0 && c.s.net.calls.Add(1)%n == 0 {
		c.end(errCut)
	}
	select {
	case <-c.s.gone:
		c.end(fmt.Errorf("%w: the server is gone", transport.ErrUnavailable))
	default:
	}
	if c.life.Err() != nil {
		return context.Cause(c.life)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(c.life, func() { cancel(context.Cause(c.life)) })
	defer stop()
	if err := fn(ctx); err != nil {
		if c.life.Err() != nil && errors.Is(err, context.Canceled) {
			return context.Cause(c.life)
		}
		return err
	}
	return nil
}

func (c *client) Close() error {
	c.once.Do(func() {
		c.s.net.clients.Add(-1)
		c.end(transport.ErrClosed)
	})
	return nil
}

func (c *client) foreign() error {
	if c.s.net.python.Load() {
		return errors.ErrUnsupported
	}
	return nil
}

func (c *client) Put(ctx context.Context, id string, obj transport.Slices, o objects.PutOptions) error {
	return c.call(ctx, func(ctx context.Context) error { return c.local.Put(ctx, id, obj, o) })
}

func (c *client) Get(ctx context.Context, id string, off, n, size int64) (b *transport.Buffer, err error) {
	err = c.call(ctx, func(ctx context.Context) (err error) {
		b, err = c.local.Get(ctx, id, off, n, size)
		return err
	})
	return b, err
}

func (c *client) GetBytes(ctx context.Context, id string, size int64) (p []byte, err error) {
	err = c.call(ctx, func(ctx context.Context) (err error) {
		p, err = c.local.GetBytes(ctx, id, size)
		return err
	})
	return p, err
}

func (c *client) Map(ctx context.Context, id string) (b *transport.Buffer, err error) {
	if err := c.foreign(); err != nil {
		return nil, err
	}
	return c.Get(ctx, id, 0, -1, -1)
}

func (c *client) Exists(ctx context.Context, id string) (ok bool, err error) {
	err = c.call(ctx, func(ctx context.Context) (err error) {
		ok, err = c.local.Exists(ctx, id)
		return err
	})
	return ok, err
}

func (c *client) Stat(ctx context.Context, id string) (info objects.Info, err error) {
	if err := c.foreign(); err != nil {
		return info, err
	}
	err = c.call(ctx, func(ctx context.Context) (err error) {
		info, err = c.local.Stat(ctx, id)
		return err
	})
	return info, err
}

func (c *client) Evict(ctx context.Context, id string) error {
	return c.call(ctx, func(ctx context.Context) error { return c.local.Evict(ctx, id) })
}

func (c *client) Wait(ctx context.Context, id string) error {
	if err := c.foreign(); err != nil {
		return err
	}
	return c.call(ctx, func(ctx context.Context) error { return c.local.Wait(ctx, id) })
}

func (c *client) Ping(ctx context.Context) error {
	return c.call(ctx, func(ctx context.Context) error { return ctx.Err() })
}

func (c *client) PutStream(ctx context.Context, id string, size int64, o objects.PutOptions) (w objects.Writer, err error) {
	if err := c.foreign(); err != nil {
		return nil, err
	}
	err = c.call(ctx, func(context.Context) (err error) {
		w, err = c.local.PutStream(ctx, id, size, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &brittleWriter{w, c}, nil
}

func (c *client) GetStream(ctx context.Context, id string, off int64) (r objects.Reader, err error) {
	if err := c.foreign(); err != nil {
		return nil, err
	}
	var info objects.Info
	err = c.call(ctx, func(context.Context) (err error) {
		if info, err = c.local.Stat(ctx, id); err == nil {
			r, err = c.local.GetStream(ctx, id, off)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &brittleReader{r, c, info, ctx}, nil
}

type brittleWriter struct {
	objects.Writer
	c *client
}

func (w *brittleWriter) Write(p []byte) (n int, err error) {
	err = w.c.call(context.Background(), func(context.Context) (err error) {
		n, err = w.Writer.Write(p)
		return err
	})
	return n, err
}

func (w *brittleWriter) Commit() error {
	return w.c.call(context.Background(), func(context.Context) error { return w.Writer.Commit() })
}

type brittleReader struct {
	objects.Reader
	c    *client
	info objects.Info
	ctx  context.Context
}

func (r *brittleReader) Info() objects.Info { return r.info }

func (r *brittleReader) Read(p []byte) (n int, err error) {
	err = r.c.call(r.ctx, func(ctx context.Context) (err error) {
		if err = ctx.Err(); err == nil {
			n, err = r.Reader.Read(p[:min(len(p), 100_000)])
		}
		return err
	})
	return n, err
}

// transport returns a Transport over the network.
func (n *network) transport() *Transport {
	return &Transport{Kind: "zmq", Dialers: []Dialer{{"zmq", n.dial}, {"tcp", func(ctx context.Context, host string, port int) (objects.Client, error) {
		return nil, fmt.Errorf("%w: build with -tags none", connectors.ErrNotBuilt)
	}}}, Listen: n.listen, NewStore: NewTable}
}

var zmqClass = connectors.Class{Module: "proxystore_ex.connectors.dim.zmq", Name: "ZeroMQConnector"}

func config(o Options) connectors.Config {
	return connectors.Config{Kind: zmqClass.String(), Options: o.Values()}
}

// registry returns one with a driver for the network.
func (n *network) registry() *connectors.Registry {
	r := &connectors.Registry{}
	r.Register(connectors.Driver{Kind: "zmq", Class: zmqClass, PythonOptions: []string{"address", "interface", "port", "timeout"}, Secret: SecretOptions,
		Open: func(ctx context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
			opts := Parse(o, Defaults{Loopback: true})
			if err := o.Err(); err != nil {
				return nil, err
			}
			return New(ctx, n.transport(), opts, env, config)
		},
		Locations: func(o *connectors.Options, env *connectors.Env) ([]connectors.Location, error) {
			opts := Parse(o, Defaults{Loopback: true})
			if err := o.Err(); err != nil {
				return nil, err
			}
			return opts.Locations("zmq")
		}})
	return r
}

// open opens a connector that the test closes at its end, if it has not before.
func (n *network) open(t testing.TB, opts Options) *Connector {
	t.Helper()
	opts.loopback = true
	c, err := New(t.Context(), n.transport(), opts, nil, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// serve starts a server as another process would.
func (n *network) serve(t testing.TB, port int) (*server, *objects.Table) {
	t.Helper()
	table, err := objects.NewTable(objects.TableOptions{Memory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	s, err := n.listen(t.Context(), "127.0.0.1", port, table)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		table.Close()
	})
	return s.(*server), table
}

var _ io.Reader = (*brittleReader)(nil)

const huge = math.MaxInt64
