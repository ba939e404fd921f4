package native_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// hurtConn cuts the connection after that many bytes were read, or flips one bit of that byte.
type hurtConn struct {
	net.Conn
	at   int64 // counts down
	flip byte  // 0 cuts
	hit  atomic.Bool
}

func (c *hurtConn) Read(p []byte) (int, error) {
	if !c.hit.Load() && c.flip == 0 && c.at < int64(len(p)) {
		p = p[:max(c.at, 1)]
	}
	n, err := c.Conn.Read(p)
	if c.hit.Load() || n == 0 {
		return n, err
	}
	if c.at < int64(n) || c.flip == 0 && c.at == 0 {
		c.hit.Store(true)
		if c.flip == 0 {
			c.Conn.Close()
			return 0, io.ErrUnexpectedEOF
		}
		p[c.at] ^= c.flip
	}
	c.at -= int64(n)
	return n, err
}

// hurt is a wire on which one side's reads are hurt.
func hurt(server bool, at int64, flip byte, hit **hurtConn) wire {
	return func(t testing.TB) (net.Conn, net.Conn) {
		c, s := overNet("unix")(t)
		if server {
			h := &hurtConn{Conn: s, at: at, flip: flip}
			*hit = h
			return c, h
		}
		h := &hurtConn{Conn: c, at: at, flip: flip}
		*hit = h
		return h, s
	}
}

// known reports whether err is one that a client may see when its connection is damaged.
func known(err error) bool {
	return errors.Is(err, transport.ErrUnavailable) || errors.Is(err, transport.ErrCorrupt) || errors.Is(err, transport.ErrDenied)
}

// story does one of everything, and checks every byte that comes.
func story(c objects.Client, fatal func(string, ...any)) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	a, b := payload("a", 700), payload("b", 5000)
	check := func(what string, got, want []byte) {
		if !bytes.Equal(got, want) {
			fatal("%s: wrong bytes", what)
		}
	}
	if err := c.Put(ctx, "a", transport.Slices{a}, objects.PutOptions{}); err != nil {
		return err
	}
	if err := c.Put(ctx, "b", transport.Slices{b[:100], b[100:]}, objects.PutOptions{}); err != nil {
		return err
	}
	for _, o := range []struct {
		id   string
		want []byte
	}{{"a", a}, {"b", b}} {
		got, err := c.Get(ctx, o.id, 0, -1, -1)
		if err != nil {
			return err
		}
		check("get", got.Bytes(), o.want)
		got.Release()
		r, err := c.GetStream(ctx, o.id, 10)
		if err != nil {
			return err
		}
		var buf bytes.Buffer
		_, err = r.WriteTo(&buf)
		check("stream", buf.Bytes(), o.want[10:][:buf.Len()])
		r.Close()
		if err != nil {
			return err
		}
		if buf.Len() != len(o.want)-10 {
			fatal("a stream ended after %d bytes", buf.Len())
		}
	}
	info, err := c.Stat(ctx, "b")
	if err != nil {
		return err
	}
	if info.Size != int64(len(b)) {
		fatal("stat: %d bytes", info.Size)
	}
	w, err := c.PutStream(ctx, "c", -1, objects.PutOptions{})
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(b); err != nil {
		return err
	}
	if err := w.Commit(); err != nil {
		return err
	}
	return c.Evict(ctx, "a")
}

// TestFaults hurts the connection at byte 0, 1, 2, ... until the story ends before that byte comes.
// Whatever happens, no byte that anybody gets or that
// the server publishes is wrong, nothing hangs and nothing is left behind.
func TestFaults(t *testing.T) {
	checkLeaks(t)
	for _, side := range []bool{false, true} {
		for _, how := range []string{"cut", "flip", "flip-packed"} {
			t.Run(fmt.Sprintf("server=%v/%s", side, how), func(t *testing.T) {
				store := table(t)
				step := int64(1)
				if how != "cut" { // these may have to wait for the watchdog
					step = 5
				}
				for at := rand.Int64N(step); ; at += step {
					if at > 400 && at%100 > 5 { // bodies are long
						continue
					}
					o := setup{store: store, untrust: true, maxBody: 2048,
						c: native.ClientOptions{Chunk: 1024, Window: 3000}, s: native.ServerOptions{Chunk: 1024}}
					flip := byte(0)
					if how != "cut" {
						flip = 1 << rand.IntN(8)
					}
					if how == "flip-packed" {
						o.c.Compress = native.CompressS2
					}
					var hit *hurtConn
					o.wire = hurt(side, at, flip, &hit)
					o.c.HandshakeTimeout, o.s.HandshakeTimeout = 100*time.Millisecond, 100*time.Millisecond
					p, err := o.try(t)
					if err == nil {
						if flip != 0 { // who misreads a length waits for ever: bytes stop, as a watchdog would find
							time.AfterFunc(100*time.Millisecond, func() { hit.Conn.Close() })
						}
						err = story(p, t.Fatalf)
						p.Close()
					}
					p.server.Close()
					<-p.served
					if err != nil && !known(err) {
						t.Fatalf("at %d: %v", at, err)
					}
					if err == nil && !hit.hit.Load() {
						return
					}
					for id, want := range map[string][]byte{"a": payload("a", 700), "b": payload("b", 5000), "c": payload("b", 5000)} {
						if b, err := store.Get(id); err == nil {
							if !bytes.Equal(b.Bytes(), want) {
								t.Fatalf("at %d: the server has published wrong bytes under %s", at, id)
							}
							b.Release()
						}
						store.Evict(id)
					}
				}
			})
		}
	}
}

// TestCancel ends the context of every operation after every number of bytes that the client reads; the session goes on and gives right answers.
func TestCancel(t *testing.T) {
	checkLeaks(t)
	p := setup{wire: overNet("tcp"), c: native.ClientOptions{Chunk: 10_000, Window: 30_000}, s: native.ServerOptions{Chunk: 10_000}}.start(t)
	big := payload("big", 300_000)
	must(t, p.Put(t.Context(), "big", transport.Slices{big}, objects.PutOptions{}))
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 150 {
				ctx, cancel := context.WithCancel(context.Background())
				after := r.IntN(4)
				go func() {
					for range after {
						p.Ping(ctx)
					}
					cancel()
				}()
				var err error
				switch worker % 5 {
				case 0:
					var b *transport.Buffer
					if b, err = p.Get(ctx, "big", 0, -1, -1); err == nil && !bytes.Equal(b.Bytes(), big) {
						t.Error("wrong bytes")
					}
					b.Release()
				case 1:
					err = p.Put(ctx, "up", transport.Slices{big}, objects.PutOptions{})
				case 2:
					var s objects.Reader
					if s, err = p.GetStream(ctx, "big", 0); err == nil {
						var buf bytes.Buffer
						_, err = s.WriteTo(&buf)
						if !bytes.Equal(buf.Bytes(), big[:buf.Len()]) {
							t.Error("wrong bytes")
						}
						s.Close()
					}
				case 3:
					var w objects.Writer
					if w, err = p.PutStream(ctx, "up", -1, objects.PutOptions{}); err == nil {
						if _, err = w.Write(big); err == nil {
							err = w.Commit()
						}
						w.Abort()
					}
				case 4:
					err = p.Wait(ctx, "never")
				}
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("worker %d: %v", worker, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	getEqual(t, p, "big", 0, -1, -1, big)
	for p.server.Stats().InFlight > 0 {
		must(t, p.Ping(t.Context()))
	}
	if b, err := p.store.Get("up"); err == nil {
		if !bytes.Equal(b.Bytes(), big) {
			t.Error("a cancelled put was published in part")
		}
		b.Release()
	}
}

// cancelCarrier ends a context in the middle of the first long body, and reads no more until CANCEL has left.
type cancelCarrier struct {
	native.Carrier
	cancel context.CancelFunc
	reads  int
	out    chan struct{} // the reader is asked to leave
	told   chan struct{} // CANCEL has left
}

func (c *cancelCarrier) Interrupt() {
	c.Carrier.Interrupt()
	close(c.out)
}

func (c *cancelCarrier) ReadBody(dst []byte) (int, error) {
	if c.reads++; c.reads == 2 {
		c.cancel()
		<-c.out
	} else if c.reads == 3 {
		<-c.told
	}
	return c.Carrier.ReadBody(dst)
}

func (c *cancelCarrier) WriteFrame(h *native.Header, meta []byte, body transport.Slices) error {
	err := c.Carrier.WriteFrame(h, meta, body)
	if h.Type == native.TypeCancel {
		close(c.told)
	}
	return err
}

// TestCancelStopsTheServer: after a cancel the server sends at most what it had begun and what fits in between.
func TestCancelStopsTheServer(t *testing.T) {
	checkLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	p := setup{wrap: func(c, s native.Carrier) (native.Carrier, native.Carrier) {
		return &cancelCarrier{Carrier: c, cancel: cancel, out: make(chan struct{}), told: make(chan struct{})}, s
	}, s: native.ServerOptions{Chunk: 256 << 10}}.start(t)
	const size = 100 << 20
	must(t, p.store.Put("big", transport.FromBytes(make([]byte, size)), objects.PutOptions{}))
	_, err := p.Get(ctx, "big", 0, -1, -1)
	wantErr(t, err, context.Canceled)
	for p.server.Stats().InFlight > 0 {
		must(t, p.Ping(t.Context()))
	}
	if n := p.server.Stats().BytesOut; n > size*9/10 {
		t.Errorf("the server sent %d MiB after all", n>>20)
	}
}

// TestBothWaysAtOnce moves large objects both ways over small socket buffers, beside a stream that nobody reads and one that is read slowly.
func TestBothWaysAtOnce(t *testing.T) {
	for _, via := range []string{"tcp", "unix", "pipe"} {
		t.Run(via, func(t *testing.T) {
			checkLeaks(t)
			w := overNet("tcp")
			if via == "unix" {
				w = overNet("unix")
			}
			o := setup{untrust: via == "tcp", wire: func(t testing.TB) (net.Conn, net.Conn) {
				if via == "pipe" {
					return overPipe(t)
				}
				size := 4096
				if via == "tcp" { // less than a segment of the loopback's makes it wait for acknowledgements
					size = 128 << 10
				}
				c, s := w(t)
				for _, c := range []net.Conn{c, s} {
					b := c.(interface {
						SetReadBuffer(int) error
						SetWriteBuffer(int) error
					})
					must(t, b.SetReadBuffer(size))
					must(t, b.SetWriteBuffer(size))
				}
				return c, s
			}, c: native.ClientOptions{Chunk: 128 << 10, Window: 256 << 10}, s: native.ServerOptions{Chunk: 128 << 10}}
			p := o.start(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			n := 4 << 20
			data := payload("data", n)
			must(t, p.Put(ctx, "data", transport.Slices{data}, objects.PutOptions{}))
			unread, err := p.GetStream(ctx, "data", 0)
			must(t, err)
			var wg sync.WaitGroup
			for i := range 6 {
				wg.Go(func() {
					for range 2 {
						switch i % 3 {
						case 0:
							if err := p.Put(ctx, fmt.Sprint("up", i), transport.Slices{data}, objects.PutOptions{}); err != nil {
								t.Error(err)
							}
						case 1:
							b, err := p.Get(ctx, "data", 0, -1, -1)
							if err != nil || !bytes.Equal(b.Bytes(), data) {
								t.Errorf("get: %v", err)
							}
							b.Release()
						case 2:
							r, err := p.GetStream(ctx, "data", 0)
							if err != nil {
								t.Error(err)
								return
							}
							var got bytes.Buffer
							for err == nil {
								_, err = io.CopyN(&got, r, 100_000)
								if perr := p.Put(ctx, "between", transport.Slices{data[:300_000]}, objects.PutOptions{}); perr != nil {
									t.Error(perr)
								}
							}
							if !errors.Is(err, io.EOF) || !bytes.Equal(got.Bytes(), data) {
								t.Errorf("stream: %v after %d", err, got.Len())
							}
							r.Close()
						}
					}
				})
			}
			wg.Wait()
			got, err := io.ReadAll(unread)
			must(t, err)
			if !bytes.Equal(got, data) {
				t.Error("the stream that waited differs")
			}
			must(t, unread.Close())
		})
	}
}

// TestManyGets: 10,000 gets at once over 64 clients of one server.
func TestManyGets(t *testing.T) {
	checkLeaks(t)
	first := setup{s: native.ServerOptions{MaxRequests: 100}}.start(t)
	want := payload("x", 5000)
	must(t, first.Put(t.Context(), "x", transport.Slices{want}, objects.PutOptions{}))
	clients := []*native.Client{first.Client}
	for len(clients) < 64 {
		cc, sc, _, _ := setup{}.carriers(t)
		go first.server.ServeCarrier(context.Background(), sc)
		c, err := native.NewClient(t.Context(), cc, native.ClientOptions{})
		must(t, err)
		t.Cleanup(func() { c.Close() })
		clients = append(clients, c)
	}
	var wg sync.WaitGroup
	var bad atomic.Int64
	for i := range 10_000 {
		wg.Go(func() {
			b, err := clients[i%len(clients)].Get(context.Background(), "x", 0, -1, 5000)
			if err != nil || !bytes.Equal(b.Bytes(), want) {
				bad.Add(1)
			}
			b.Release()
		})
	}
	wg.Wait()
	if n := bad.Load(); n > 0 {
		t.Errorf("%d gets failed", n)
	}
}

// turnCarrier lets frames leave in the order in which they were to be written, and tells when that of number watch came.
type turnCarrier struct {
	native.Carrier
	mu    sync.Mutex
	last  chan struct{}
	watch uint32
	seen  chan struct{}
}

func (c *turnCarrier) WriteFrame(h *native.Header, meta []byte, body transport.Slices) error {
	done := make(chan struct{})
	defer close(done)
	c.mu.Lock()
	before := c.last
	c.last = done
	c.mu.Unlock()
	if h.ID == c.watch {
		close(c.seen)
	}
	if before != nil {
		<-before
	}
	return c.Carrier.WriteFrame(h, meta, body)
}

// TestFairness: the chunks of long answers take turns, and a short answer waits for the one that is just being written only.
func TestFairness(t *testing.T) {
	checkLeaks(t)
	turns := &turnCarrier{watch: 3, seen: make(chan struct{})}
	h, p := byHand(t, setup{wire: overPipe, s: native.ServerOptions{Chunk: 10_000}, wrap: func(c, s native.Carrier) (native.Carrier, native.Carrier) {
		turns.Carrier = s
		return c, turns
	}})
	must(t, p.store.Put("big", transport.FromBytes(make([]byte, 1<<20)), objects.PutOptions{}))
	must(t, p.store.Put("small", transport.FromBytes(make([]byte, 1000)), objects.PutOptions{}))
	get := func(id uint32, object string) {
		head := native.Header{Type: native.TypeRequest, Code: uint16(native.OpGet), Flags: native.FlagLast, ID: id, Size: 1 << 20}
		must(t, h.send(head, requestMeta(object), nil))
	}
	get(1, "big")
	get(2, "big")
	for p.server.Stats().InFlight < 2 { // nothing was read yet, so both are far from their end
		runtime.Gosched()
	}
	var order []uint32
	for range 21 {
		head, _, err := h.next()
		must(t, err)
		order = append(order, head.ID)
	}
	for i, id := range order[1:] {
		if id == order[i] {
			t.Fatalf("the chunks of two downloads came in the order %v", order)
		}
	}
	get(3, "small")
	<-turns.seen
	for before := 0; ; before++ {
		head, _, err := h.next()
		must(t, err)
		if head.ID == 3 {
			if before > 1 {
				t.Errorf("%d chunks came before a short answer", before)
			}
			return
		}
	}
}

// TestResumer: a reader goes on where a broken connection left it, and notices another version.
func TestResumer(t *testing.T) {
	checkLeaks(t)
	store := table(t)
	data := payload("data", 2<<20)
	must(t, store.Put("data", transport.FromBytes(bytes.Clone(data)), objects.PutOptions{}))
	for _, copyTo := range []bool{true, false} {
		opened := 0
		var p *pair
		open := func(ctx context.Context, off int64) (objects.Reader, error) {
			if p != nil {
				p.Close()
				p.server.Close()
			}
			opened++
			var hit *hurtConn
			o := setup{store: store, c: native.ClientOptions{Chunk: 1 << 16, Window: 1 << 18}, s: native.ServerOptions{Chunk: 1 << 16}}
			o.wire = hurt(false, 300_000, 0, &hit)
			p = o.start(t)
			return p.GetStream(ctx, "data", off)
		}
		r, err := native.NewResumer(t.Context(), 100, open, native.ResumeOptions{})
		must(t, err)
		if r.Size() != int64(len(data)) {
			t.Fatal(r.Size())
		}
		var got bytes.Buffer
		if copyTo {
			_, err = r.WriteTo(&got)
		} else {
			_, err = io.Copy(&got, struct{ io.Reader }{r})
		}
		must(t, err)
		if !bytes.Equal(got.Bytes(), data[100:]) || opened < 5 {
			t.Fatalf("%d bytes differ, after %d openings", got.Len(), opened)
		}
		must(t, r.Close())

		r, err = native.NewResumer(t.Context(), 0, open, native.ResumeOptions{})
		must(t, err)
		must(t, store.Put("data", transport.FromBytes(bytes.Clone(data)), objects.PutOptions{}))
		_, err = io.Copy(io.Discard, r)
		wantErr(t, err, transport.ErrCorrupt)
		must(t, r.Close())
		p.Close()
	}
	fail := fmt.Errorf("%w: no", transport.ErrUnavailable)
	tries := 0
	never := func(context.Context, int64) (objects.Reader, error) {
		tries++
		return nil, fail
	}
	_, err := native.NewResumer(t.Context(), 0, never, native.ResumeOptions{Attempts: 3})
	wantErr(t, err, transport.ErrUnavailable)
	if tries != 3 {
		t.Errorf("%d attempts", tries)
	}
}

// TestCancelBeforeSending: a call whose context ends before its request has left, of which the server will never hear, leaves nothing open.
func TestCancelBeforeSending(t *testing.T) {
	checkLeaks(t)
	p := setup{c: native.ClientOptions{Compress: native.CompressZstd}, s: native.ServerOptions{MaxRequests: 1}}.start(t)
	body := bytes.Repeat(payload("body", 1<<10), 1<<10)
	for i := range 60 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel() // most likely while the body is being compressed
		var err error
		if i%2 == 0 {
			err = p.Put(ctx, "x", transport.Slices{body}, objects.PutOptions{})
		} else {
			var w objects.Writer
			if w, err = p.PutStream(ctx, "x", -1, objects.PutOptions{}); err == nil {
				if _, err = w.Write(body); err == nil {
					err = w.Commit()
				}
				w.Abort()
			}
		}
		if err != nil {
			wantErr(t, err, context.Canceled)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	must(t, p.Ping(ctx)) // there is room for one request
}

// TestCancelledStreams: opening streams and giving them up at once, while another call reads.
func TestCancelledStreams(t *testing.T) {
	checkLeaks(t)
	p := setup{c: native.ClientOptions{Chunk: 1000, Window: 3000}, s: native.ServerOptions{Chunk: 1000}}.start(t)
	data := payload("x", 20_000)
	must(t, p.Put(t.Context(), "x", transport.Slices{data}, objects.PutOptions{}))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				getEqual(t, p, "x", 0, -1, -1, data)
			}
		})
		wg.Go(func() {
			for range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				go cancel()
				if r, err := p.GetStream(ctx, "x", 0); err == nil {
					r.Close()
				} else if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestFailDuringCalls: a write that fails ends calls whose answers are just being read.
func TestFailDuringCalls(t *testing.T) {
	checkLeaks(t)
	for range 20 {
		p := setup{c: native.ClientOptions{Chunk: 1000}, s: native.ServerOptions{Chunk: 1000}}.start(t)
		must(t, p.Put(t.Context(), "x", transport.Slices{make([]byte, 1<<20)}, objects.PutOptions{}))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					b, err := p.Get(context.Background(), "x", 0, -1, -1)
					b.Release()
					if err != nil {
						return
					}
				}
			})
		}
		for p.server.Stats().InFlight < 4 {
			p.Ping(t.Context())
		}
		p.Close()
		wg.Wait()
	}
}

// versionless is a Reader whose server cannot tell versions of the object apart, and whose connection breaks after a byte.
type versionless struct {
	objects.Reader
	given bool
}

func (r *versionless) Info() objects.Info { return objects.Info{Size: 2} }
func (r *versionless) Size() int64        { return 2 }
func (r *versionless) Close() error       { return nil }

func (r *versionless) Read(p []byte) (int, error) {
	if r.given {
		return 0, fmt.Errorf("%w: broken", transport.ErrUnavailable)
	}
	r.given = true
	return copy(p, "x"), nil
}

// TestResumerNeedsVersions: what may be of another version is not appended to what was read already.
func TestResumerNeedsVersions(t *testing.T) {
	open := func(context.Context, int64) (objects.Reader, error) { return &versionless{}, nil }
	r, err := native.NewResumer(t.Context(), 0, open, native.ResumeOptions{})
	must(t, err)
	_, err = io.ReadAll(r)
	wantErr(t, err, transport.ErrUnavailable)
	must(t, r.Close())
}
