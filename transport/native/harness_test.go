package native_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// connCarrier is the plainest Carrier: frames over a net.Conn.
type connCarrier struct {
	nc      net.Conn
	maxBody int
	trusted bool

	mu   sync.Mutex // of interrupts
	intr bool

	r    *bufio.Reader
	head [native.HeaderSize]byte
	got  int
	meta []byte
	have int
	open bool // head is read, meta is not
	h    native.Header
	left int

	wmu  sync.Mutex
	out  []byte
	two  [2][]byte
	bufs net.Buffers
}

func newConnCarrier(nc net.Conn, maxBody int, trusted bool) *connCarrier {
	return &connCarrier{nc: nc, maxBody: maxBody, trusted: trusted, r: bufio.NewReaderSize(nc, 4<<10)}
}

func (c *connCarrier) MaxBody() int  { return c.maxBody }
func (c *connCarrier) Trusted() bool { return c.trusted }
func (c *connCarrier) Close() error  { return c.nc.Close() }

func (c *connCarrier) Interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.intr = true
	c.nc.SetReadDeadline(time.Unix(1, 0))
}

// read fills p from *n on.
func (c *connCarrier) read(p []byte, n *int) error {
	for *n < len(p) {
		k, err := c.r.Read(p[*n:])
		*n += k
		if err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.mu.Lock()
			c.intr = false
			c.nc.SetReadDeadline(time.Time{})
			c.mu.Unlock()
			return native.ErrInterrupted
		}
		if errors.Is(err, io.EOF) && (*n > 0 || c.open || c.left > 0) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

func (c *connCarrier) ReadFrame(h *native.Header) ([]byte, error) {
	if c.left != 0 {
		return nil, fmt.Errorf("%d bytes of body unread", c.left)
	}
	if !c.open {
		if err := c.read(c.head[:], &c.got); err != nil {
			return nil, err
		}
		c.got = 0
		c.h.Decode(c.head[:])
		if c.h.Meta > native.MaxMeta || int64(c.h.Body) > int64(c.maxBody) {
			return nil, fmt.Errorf("%w: lengths %d, %d", transport.ErrCorrupt, c.h.Meta, c.h.Body)
		}
		if cap(c.meta) < int(c.h.Meta) {
			c.meta = make([]byte, c.h.Meta)
		}
		c.open, c.have, c.meta = true, 0, c.meta[:c.h.Meta]
	}
	if err := c.read(c.meta, &c.have); err != nil {
		return nil, err
	}
	c.open, c.left = false, int(c.h.Body)
	*h = c.h
	return c.meta, nil
}

func (c *connCarrier) ReadBody(dst []byte) (int, error) {
	if len(dst) > c.left {
		return 0, fmt.Errorf("%d bytes of a body of %d", len(dst), c.left)
	}
	n := 0
	err := c.read(dst, &n)
	c.left -= n
	return n, err
}

func (c *connCarrier) WriteFrame(h *native.Header, meta []byte, body transport.Slices) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if int64(h.Body) != body.Len() || int(h.Meta) != len(meta) || int(h.Body) > c.maxBody {
		panic(fmt.Sprintf("frame with %d and %d, meta %d, body %d", h.Meta, h.Body, len(meta), body.Len()))
	}
	h.Meta, h.Body = uint32(len(meta)), uint32(body.Len())
	c.out = append(h.Append(c.out[:0]), meta...)
	if len(body) == 1 && len(body[0]) > 4<<10 {
		c.two = [2][]byte{c.out, body[0]}
		c.bufs = c.two[:]
		_, err := c.bufs.WriteTo(c.nc)
		return err
	}
	c.out = body.AppendTo(c.out)
	_, err := c.nc.Write(c.out)
	return err
}

// takeCarrier is a Carrier that has messages in memory already.
type takeCarrier struct{ *connCarrier }

func (c takeCarrier) TakeBody() (*transport.Buffer, bool) {
	b := transport.DefaultPool.Get(c.left)
	for n := 0; n < b.Len(); {
		k, err := c.ReadBody(b.Bytes()[n:])
		n += k
		if err != nil && !errors.Is(err, native.ErrInterrupted) {
			b.Release()
			c.left = 0
			c.nc.Close()
			return transport.FromBytes(make([]byte, n)), true
		}
	}
	return b, true
}

// wire makes both ends of a connection.
type wire func(t testing.TB) (client, server net.Conn)

func overNet(network string) wire {
	return func(t testing.TB) (client, server net.Conn) {
		addr := "127.0.0.1:0"
		if network == "unix" {
			addr = filepath.Join(t.TempDir(), "s")
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		done := make(chan net.Conn)
		go func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
			}
			done <- c
		}()
		client, err = net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return client, <-done
	}
}

func overPipe(testing.TB) (client, server net.Conn) { return net.Pipe() }

// setup is how a test runs both sides. The zero value is a unix socket, trusted, with the defaults.
type setup struct {
	wire    wire
	c       native.ClientOptions
	s       native.ServerOptions
	maxBody int
	untrust bool
	take    bool
	store   objects.Store
	wrap    func(client, server native.Carrier) (native.Carrier, native.Carrier)
}

type pair struct {
	*native.Client
	server *native.Server
	store  objects.Store
	served chan error // what ServeCarrier returned
	nc     net.Conn   // of the client
	snc    net.Conn
}

func table(t testing.TB) *objects.Table {
	tab, err := objects.NewTable(objects.TableOptions{Memory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
	})
	return tab
}

func (o setup) carriers(t testing.TB) (cc, sc native.Carrier, cn, sn net.Conn) {
	if o.wire == nil {
		o.wire = overNet("unix")
	}
	if o.maxBody == 0 {
		o.maxBody = 16 << 20
	}
	cn, sn = o.wire(t)
	cc, sc = newConnCarrier(cn, o.maxBody, !o.untrust), newConnCarrier(sn, o.maxBody, !o.untrust)
	if o.take {
		cc, sc = takeCarrier{cc.(*connCarrier)}, takeCarrier{sc.(*connCarrier)}
	}
	if o.wrap != nil {
		cc, sc = o.wrap(cc, sc)
	}
	return cc, sc, cn, sn
}

// start runs a session, and checks in the end that it leaves nothing.
func (o setup) start(t testing.TB) *pair {
	t.Helper()
	p, err := o.try(t)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (o setup) try(t testing.TB) (*pair, error) {
	if o.store == nil {
		o.store = table(t)
	}
	cc, sc, cn, sn := o.carriers(t)
	p := &pair{store: o.store, served: make(chan error, 1), nc: cn, snc: sn, server: native.NewServer(o.store, o.s)}
	go func() { p.served <- p.server.ServeCarrier(context.Background(), sc) }()
	t.Cleanup(func() { p.server.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := native.NewClient(ctx, cc, o.c)
	if err != nil {
		return p, err
	}
	p.Client = c
	t.Cleanup(func() { c.Close() })
	return p, nil
}

// checkLeaks fails the test if it leaves goroutines or buffers. It must be called before what it watches is made.
func checkLeaks(t testing.TB) {
	t.Helper()
	buffers := func() int64 {
		n, _ := transport.Live(transport.Pooled)
		m, _ := transport.Live(transport.Mapped)
		return n + m
	}
	before, live := goroutines(), buffers()
	t.Cleanup(func() {
		var after string
		var n int
		for range 200 {
			n, after = countGoroutines()
			if n <= before && buffers() == live {
				return
			}
			time.Sleep(5 * time.Millisecond) // the last ones are on their way out
		}
		t.Errorf("%d goroutines, %d before; %d buffers, %d before\n%s", n, before, buffers(), live, after)
	})
}

func goroutines() int {
	n, _ := countGoroutines()
	return n
}

// countGoroutines counts those of this module.
func countGoroutines() (int, string) {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var mine []string
	for _, g := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(g, "transport/native.") {
			mine = append(mine, g)
		}
	}
	return len(mine), strings.Join(mine, "\n\n")
}

// payload returns n bytes that belong to id.
func payload(id string, n int) []byte {
	var seed [32]byte
	copy(seed[:], id)
	r := rand.NewChaCha8(seed)
	b := make([]byte, n)
	r.Read(b)
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func getEqual(t testing.TB, c objects.Client, id string, off, n, size int64, want []byte) {
	t.Helper()
	b, err := c.Get(context.Background(), id, off, n, size)
	if err != nil {
		t.Fatalf("get %q: %v", id, err)
	}
	defer b.Release()
	if !bytes.Equal(b.Bytes(), want) {
		t.Fatalf("get %q from %d: %d bytes that are not the %d put", id, off, b.Len(), len(want))
	}
}
