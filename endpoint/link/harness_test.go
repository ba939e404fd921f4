package link

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// fakePath is one end of a Path whose streams are made by dial.
type fakePath struct {
	dial     func(n int) (client, server net.Conn, err error) // n counts the streams of the pair
	accepts  chan net.Conn
	done     chan struct{}
	peer     *fakePath
	kind     string
	mu       sync.Mutex
	err      error
	streams  *int
	conns    []net.Conn
	openings sync.WaitGroup
}

// newPaths returns both ends of a Path.
func newPaths(dial func(n int) (client, server net.Conn, err error)) (a, b *fakePath) {
	a = &fakePath{dial: dial, accepts: make(chan net.Conn, 256), done: make(chan struct{}), streams: new(int)}
	b = &fakePath{dial: dial, accepts: make(chan net.Conn, 256), done: make(chan struct{}), streams: a.streams, peer: a}
	a.peer = b
	return a, b
}

func (p *fakePath) Open(ctx context.Context) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	*p.streams++
	mine, theirs, err := p.dial(*p.streams)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	p.conns = append(p.conns, mine, theirs)
	p.peer.accepts <- theirs
	return mine, nil
}

func (p *fakePath) Accept(ctx context.Context) (net.Conn, error) {
	select {
	case c := <-p.accepts:
		return c, nil
	case <-p.done:
		return nil, p.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *fakePath) Widen(context.Context, int) error { return nil }

func (p *fakePath) Info() path.Info       { return path.Info{Kind: p.kind} }
func (p *fakePath) Done() <-chan struct{} { return p.done }

func (p *fakePath) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *fakePath) Close() error {
	p.end(fmt.Errorf("%w: this path", transport.ErrClosed))
	p.peer.end(fmt.Errorf("%w: the peer closed the path", transport.ErrUnavailable))
	return nil
}

func (p *fakePath) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	p.err = err
	close(p.done)
	for _, c := range p.conns {
		c.Close()
	}
	for {
		select {
		case c := <-p.accepts:
			c.Close()
		default:
			return
		}
	}
}

// cutStreams ends the streams but not the Path.
func (p *fakePath) cutStreams() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func overPipe(int) (net.Conn, net.Conn, error) {
	a, b := net.Pipe()
	return a, b, nil
}

// overTCP makes connections over loopback.
func overTCP(int) (net.Conn, net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	b, err := l.Accept()
	if err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// pair is a Link and the Server that it asks, with a Source that makes a new Path whenever it is asked.
type pair struct {
	t     testing.TB
	store objects.Store
	link  *Link
	peer  uuid.UUID
	o     pairOptions

	mu       sync.Mutex
	instance string // of the client
	srv      *Server
	paths    []*fakePath // the client's ends
	wg       sync.WaitGroup
	refuse   error // of the Source
	asked    int
}

type pairOptions struct {
	dial   func(n int) (client, server net.Conn, err error)
	link   Options
	server ServerOptions
	store  objects.Store
}

func newPair(t testing.TB, o pairOptions) *pair {
	t.Helper()
	if o.dial == nil {
		o.dial = overTCP
	}
	p := &pair{t: t, store: o.store, peer: uuid.New(), o: o}
	if p.store == nil {
		table, err := objects.NewTable(objects.TableOptions{Memory: 1 << 30, IdleMemory: -1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { table.Close() })
		p.store = table
	}
	cp, sp := transport.NewPool(64<<20), transport.NewPool(64<<20)
	if o.link.Pool == nil {
		o.link.Pool = cp
	}
	if o.server.Pool == nil {
		o.server.Pool = sp
	}
	t.Cleanup(func() {
		for start := time.Now(); cp.Stats().Held+sp.Stats().Held != 0; time.Sleep(time.Millisecond) {
			if time.Since(start) > 5*time.Second {
				t.Errorf("buffers that are still held: %d by the link, %d by the server", cp.Stats().Held, sp.Stats().Held)
				break
			}
		}
	})
	p.o = o
	p.srv = NewServer(p.store, o.server)
	p.link = New(p.source, o.link)
	t.Cleanup(p.close)
	return p
}

func (p *pair) source(context.Context) (path.Path, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if p.refuse != nil {
		return nil, p.refuse
	}
	return p.newPath(), nil
}

// newPath makes a Path and serves it. Under mu.
func (p *pair) newPath() *fakePath {
	a, b := newPaths(p.o.dial)
	p.paths = append(p.paths, a)
	srv, instance := p.srv, p.instance
	p.wg.Go(func() { _ = srv.Serve(context.Background(), p.peer, instance, b) })
	return a
}

// uploads returns how many are under way at the Server.
func (p *pair) uploads() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.srv.Stats().Uploads
}

// cut ends the current Path as a broken network does.
func (p *pair) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.paths) > 0 {
		last := p.paths[len(p.paths)-1]
		last.end(fmt.Errorf("%w: cut", transport.ErrUnavailable))
		last.peer.end(fmt.Errorf("%w: cut", transport.ErrUnavailable))
	}
}

// restart replaces the Server, whose uploads are lost.
func (p *pair) restart() {
	p.mu.Lock()
	old := p.srv
	p.srv = NewServer(p.store, p.o.server)
	p.mu.Unlock()
	old.Close()
	p.cut()
}

func (p *pair) close() {
	p.link.Close()
	p.mu.Lock()
	for _, a := range p.paths {
		a.Close()
	}
	srv := p.srv
	p.mu.Unlock()
	srv.Close()
	p.wg.Wait()
}

func payload(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b)
	return b
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (p *pair) mustPut(ctx context.Context, key string, data []byte) {
	p.t.Helper()
	if err := p.link.Put(ctx, key, int64(len(data)), bytes.NewReader(data)); err != nil {
		p.t.Fatalf("put %q: %v", key, err)
	}
}

// read gets a range by Read, in odd pieces.
func (p *pair) read(ctx context.Context, key string, off, n int64) ([]byte, error) {
	r, err := p.link.Get(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out []byte
	buf := make([]byte, 77777)
	for {
		k, err := r.Read(buf)
		out = append(out, buf[:k]...)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

// copyOut gets a range by WriteTo.
func (p *pair) copyOut(ctx context.Context, key string, off, n int64) ([]byte, error) {
	r, err := p.link.Get(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out bytes.Buffer
	_, err = r.WriteTo(&out)
	return out.Bytes(), err
}

func same(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		t.Fatalf("%s: %d bytes, want %d; they differ from byte %d on", what, len(got), len(want), at)
	}
}

// leaks checks at the end of the test, after its other cleanups if it is called first, that no goroutine and no pooled buffer is left.
func leaks(t testing.TB) {
	buffers, _ := transport.Live(transport.Pooled)
	before := goroutines()
	t.Cleanup(func() {
		var left string
		for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
			left = ""
			for id, stack := range goroutines() {
				if before[id] == "" {
					left += stack + "\n\n"
				}
			}
			if n, bytes := transport.Live(transport.Pooled); n != buffers {
				left += fmt.Sprintf("%d pooled buffers, %d before; %d bytes\n", n, buffers, bytes)
			}
			if left == "" {
				return
			}
		}
		t.Errorf("left over:\n%s", left)
	})
}

func goroutines() map[string]string {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	all := map[string]string{}
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		if !strings.Contains(stack, "link.goroutines(") && !strings.Contains(stack, "testing.(*T).Run(") && !strings.Contains(stack, "created by runtime.") {
			all[id] = stack
		}
	}
	return all
}
