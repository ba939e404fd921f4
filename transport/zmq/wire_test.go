package zmq

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// script is a connection on which a peer has sent in already, and then hung up.
type script struct {
	in    []byte
	step  int  // most bytes per read; 0 is any
	shaky bool // every other read is interrupted
	turn  bool
	out   bytes.Buffer
}

func (c *script) Read(p []byte) (int, error) {
	if c.turn = !c.turn; c.shaky && c.turn {
		return 0, os.ErrDeadlineExceeded
	}
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	if c.step > 0 && len(p) > c.step {
		p = p[:c.step]
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	return n, nil
}

func (c *script) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *script) Close() error                     { return nil }
func (c *script) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "local", Net: "unix"} }
func (c *script) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "peer", Net: "unix"} }
func (c *script) SetDeadline(time.Time) error      { return nil }
func (c *script) SetReadDeadline(time.Time) error  { return nil }
func (c *script) SetWriteDeadline(time.Time) error { return nil }

func frameBytes(flags byte, body []byte) []byte {
	if len(body) <= 255 {
		return append([]byte{flags, byte(len(body))}, body...)
	}
	return append(binary.BigEndian.AppendUint64([]byte{flags | flagLong}, uint64(len(body))), body...)
}

func message(parts ...[]byte) (b []byte) {
	for i, p := range parts {
		flags := byte(flagMore)
		if i == len(parts)-1 {
			flags = 0
		}
		b = append(b, frameBytes(flags, p)...)
	}
	return b
}

func clientHandshake(socket string) []byte {
	return appendCommand(greeting("NULL", false), []byte("\x05READY"), metadata(socket))
}

func serverHandshake(socket string) []byte { return clientHandshake(socket) }

// scripted returns a Server whose peers the test makes up.
func scripted(t testing.TB, o ListenOptions) *Server {
	t.Helper()
	o.listen = func(context.Context, address, *ListenOptions, func(link)) (acceptor, error) { return noAcceptor{}, nil }
	table, err := objects.NewTable(objects.TableOptions{Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(context.Background(), "tcp://127.0.0.1:0", table, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		table.Close()
	})
	return s
}

type noAcceptor struct{}

func (noAcceptor) address() string { return "" }
func (noAcceptor) stop()           {}
func (noAcceptor) close()          {}

// converse lets the server answer what the peer has sent, and returns what it answers after the handshake.
func converse(s *Server, c *script) ([]byte, error) {
	w := newWire(c)
	if err := persist(func() error { return w.accept(nil) }); err != nil {
		return nil, err
	}
	err := s.talk(w)
	out := c.out.Bytes()
	return out[len(serverHandshake("ROUTER")):], err
}

// TestEveryByte: what arrives byte by byte, or with an interruption at each, is the same as what arrives at once.
func TestEveryByte(t *testing.T) {
	leakCheck(t)
	s := scripted(t, ListenOptions{Python: echo})
	big := random(70000)
	in := clientHandshake("REQ")
	in = append(in, message(nil, ping)...)
	in = append(in, frameBytes(flagCommand, []byte("\x04PING\x00\x01abc"))...)
	in = append(in, frameBytes(flagMore, nil)...)
	in = append(in, frameBytes(flagMore, big)...)
	in = append(in, frameBytes(flagCommand, []byte("\x04PING\x00\x01"))...) // libzmq sends commands between the parts of a message
	in = append(in, frameBytes(flagMore, []byte{})...)
	in = append(in, frameBytes(0, []byte("end"))...)
	in = append(in, message(nil, ping, nil)...)
	want := message(nil, []byte("pong"))
	want = append(want, frameBytes(flagCommand, []byte("\x04PONGabc"))...)
	want = append(want, frameBytes(flagCommand, []byte("\x04PONG"))...)
	want = append(want, message(nil, big[:65536], append(slices.Clone(big[65536:]), "end"...))...)
	want = append(want, message(nil, []byte("pong"), []byte(marker))...)
	for _, step := range []int{0, 1, 3, 8191} {
		for _, shaky := range []bool{false, true} {
			// The handshake is never interrupted.
			c := &script{in: in, step: step}
			w := newWire(c)
			if err := w.accept(nil); err != nil {
				t.Fatal(err)
			}
			c.shaky = shaky
			c.out.Reset()
			if err := s.talk(w); err != io.EOF {
				t.Errorf("%d: %v", step, err)
			}
			if !bytes.Equal(c.out.Bytes(), want) {
				t.Errorf("%d, %v: the answers are %d bytes, want %d", step, shaky, c.out.Len(), len(want))
			}
		}
	}
	// Cut anywhere, it ends with an error, or with io.EOF between two messages, and leaves nothing behind.
	for n := range in {
		if n > 500 && n < len(in)-500 && n%997 != 0 {
			continue
		}
		if _, err := converse(s, &script{in: in[:n]}); err != io.EOF && !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

// TestCarrierEveryByte: frames of the native protocol, interrupted at each byte.
func TestCarrierEveryByte(t *testing.T) {
	leakCheck(t)
	out := &script{}
	w := newCarrier(newWire(out), false, 0, false)
	type frame struct {
		h    native.Header
		meta string
		body []byte
	}
	frames := []frame{
		{h: native.Header{Type: 1, ID: 7, Off: 9, Size: 1 << 40}},
		{h: native.Header{Type: 2}, meta: "meta"},
		{h: native.Header{Type: 3}, body: random(300)},
		{h: native.Header{Type: 4, Sum: 77}, meta: "and", body: random(100_000)},
		{h: native.Header{Type: 5}, meta: "end"},
	}
	for i := range frames {
		f := &frames[i]
		if err := w.WriteFrame(&f.h, []byte(f.meta), transport.Slices{f.body[:len(f.body)/2], f.body[len(f.body)/2:]}); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []int{0, 1, 1000} {
		for _, shaky := range []bool{false, true} {
			r := newCarrier(newWire(&script{in: out.out.Bytes(), step: step, shaky: shaky}), false, 0, false)
			for _, want := range frames {
				var h native.Header
				var meta []byte
				if err := persist(func() (err error) { meta, err = r.ReadFrame(&h); return }); err != nil {
					t.Fatal(err)
				}
				body := make([]byte, h.Body)
				for at := 0; at < len(body); {
					n, err := r.ReadBody(body[at:])
					if at += n; err != nil && err != native.ErrInterrupted {
						t.Fatal(err)
					}
				}
				if h != want.h || string(meta) != want.meta || !bytes.Equal(body, want.body) {
					t.Errorf("%+v came as %+v", want.h, h)
				}
			}
			var h native.Header
			if err := persist(func() error { _, err := r.ReadFrame(&h); return err }); err != io.EOF {
				t.Errorf("the end: %v", err)
			}
		}
	}
	for n := range out.out.Bytes()[:1000] {
		r := newCarrier(newWire(&script{in: out.out.Bytes()[:n]}), false, 0, false)
		for {
			var h native.Header
			_, err := r.ReadFrame(&h)
			if err == nil {
				_, err = r.ReadBody(make([]byte, h.Body))
			}
			if err != nil {
				if err != io.EOF && !errors.Is(err, transport.ErrUnavailable) {
					t.Errorf("cut at %d: %v", n, err)
				}
				break
			}
		}
	}
	if err := w.WriteFrame(&native.Header{}, make([]byte, native.MaxMeta+1), nil); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("too much metadata: %v", err)
	}
}

func TestHostileFrames(t *testing.T) {
	leakCheck(t)
	o := ListenOptions{Python: echo, MaxMessage: 1 << 20}
	s := scripted(t, o)
	head := func(h native.Header) []byte { return h.Append(nil) }
	hi := message(ping, nil)
	long := func(flags byte, n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{flags | flagLong}, n) }
	before, _ := transport.Live(transport.Pooled)
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"http":                 {[]byte("GET / HTTP/1.1\r\n\r\n"), transport.ErrCorrupt},
		"zmtp 2":               {[]byte("\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x01\x05\x00\x00"), transport.ErrCorrupt},
		"zmtp 1":               {[]byte("\xff\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00"), transport.ErrCorrupt},
		"plain":                {greeting("PLAIN", false), transport.ErrDenied},
		"no ready":             {append(greeting("NULL", false), message(ping)...), transport.ErrCorrupt},
		"other command":        {append(greeting("NULL", false), appendCommand(nil, []byte("\x05HELLO"))...), transport.ErrCorrupt},
		"error":                {append(greeting("NULL", false), appendCommand(nil, []byte("\x05ERROR\x03bad"))...), transport.ErrUnavailable},
		"sub socket":           {clientHandshake("SUB"), transport.ErrUnavailable},
		"cut metadata":         {appendCommand(greeting("NULL", false), []byte("\x05READY\x0bSocket-Type\xff\xff\xff\xff")), transport.ErrCorrupt},
		"long command":         {append(clientHandshake("REQ"), long(flagCommand, 1<<40)...), transport.ErrCorrupt},
		"command with more":    {append(clientHandshake("REQ"), 5, 0), transport.ErrCorrupt},
		"command without name": {append(clientHandshake("REQ"), 4, 1, 9), transport.ErrCorrupt},
		"reserved bits":        {append(clientHandshake("REQ"), 8, 0), transport.ErrCorrupt},
		"negative length":      {append(clientHandshake("REQ"), long(0, 1<<63)...), transport.ErrCorrupt},
		"long ping":            {append(clientHandshake("REQ"), frameBytes(4, append([]byte("\x04PING\x00\x00"), make([]byte, 17)...))...), transport.ErrCorrupt},
		"short ping":           {append(clientHandshake("REQ"), frameBytes(4, []byte("\x04PING\x00"))...), transport.ErrCorrupt},
		"late error":           {append(clientHandshake("REQ"), frameBytes(4, []byte("\x05ERROR\x01x"))...), transport.ErrUnavailable},
		"huge request":         {slices.Concat(clientHandshake("REQ"), []byte{1, 0}, long(1, 1<<40)), transport.ErrTooLarge},
		"requests in sum":      {slices.Concat(clientHandshake("REQ"), []byte{1, 0}, frameBytes(1, make([]byte, 1<<20)), frameBytes(0, []byte{1})), transport.ErrTooLarge},
		"sum beyond int64":     {slices.Concat(clientHandshake("REQ"), []byte{1, 0, 1, 1, 'x'}, long(0, 1<<63-1), make([]byte, 2<<20)), transport.ErrTooLarge},
		"promised":             {slices.Concat(clientHandshake("REQ"), []byte{1, 0}, long(0, 1<<20)), transport.ErrUnavailable},
		"no hello":             {slices.Concat(clientHandshake("DEALER"), message(head(native.Header{}))), transport.ErrCorrupt},
		"a hello cut":          {slices.Concat(clientHandshake("DEALER"), message(ping)), transport.ErrCorrupt},
		"native too short":     {slices.Concat(clientHandshake("DEALER"), hi, message([]byte("short"))), transport.ErrCorrupt},
		"native too long":      {slices.Concat(clientHandshake("DEALER"), hi, long(0, native.MaxMeta+native.HeaderSize+1)), transport.ErrCorrupt},
		"native meta":          {slices.Concat(clientHandshake("DEALER"), hi, message(head(native.Header{Meta: 1}))), transport.ErrCorrupt},
		"native no body":       {slices.Concat(clientHandshake("DEALER"), hi, message(head(native.Header{Body: 1}))), transport.ErrCorrupt},
		"native body":          {slices.Concat(clientHandshake("DEALER"), hi, message(head(native.Header{}), []byte("x"))), transport.ErrCorrupt},
		"native short body":    {slices.Concat(clientHandshake("DEALER"), hi, message(head(native.Header{Body: 2}), []byte("x"))), transport.ErrCorrupt},
		"native three parts":   {slices.Concat(clientHandshake("DEALER"), hi, message(head(native.Header{Body: 1}), []byte("x"), nil)), transport.ErrCorrupt},
		"native huge body":     {slices.Concat(clientHandshake("DEALER"), hi, message(head(native.Header{Body: 1 << 31}), []byte("x"))), transport.ErrCorrupt},
	} {
		if _, err := converse(s, &script{in: c.in}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if after, _ := transport.Live(transport.Pooled); after != before {
		t.Errorf("%d buffers are left", after-before)
	}
}

// TestGrowth: memory follows the bytes that come, not what the peer promises.
func TestGrowth(t *testing.T) {
	leakCheck(t)
	pool := transport.NewPool(0)
	var last = &scripted(t, ListenOptions{}).last
	for _, sizes := range [][]int{{0}, {1}, {1000}, {65536, 65536, 3}, {1 << 20, 1 << 20, 1}, slices.Repeat([]int{65536}, 100), {3, 5 << 20}, {1, 0, 1}} {
		var parts [][]byte
		for _, n := range sizes {
			parts = append(parts, random(n))
		}
		want := bytes.Join(parts, nil)
		w := newWire(&script{in: message(parts...)})
		c := collector{max: 64 << 20, pool: pool, last: last}
		n, more, err := w.next()
		if err != nil {
			t.Fatal(err)
		}
		c.begin(n, more, 0)
		if err := c.run(w); err != nil {
			t.Fatal(err)
		}
		b := c.message()
		if !bytes.Equal(b.Bytes(), want) || c.parts != len(sizes) {
			t.Errorf("%v came otherwise", sizes)
		}
		b.Release()
	}
	// An object whose length is a power of two: what surrounds it must not double the memory, which copies all of it once more.
	w := newWire(&script{in: message(append(slices.Repeat([][]byte{make([]byte, 65536)}, 64), make([]byte, 200))...)})
	c := collector{max: 64 << 20, pool: pool, last: new(atomic.Int64)}
	n, more, _ := w.next()
	c.begin(n, more, 0)
	if err := c.run(w); err != nil {
		t.Error(err)
	}
	if c.buf.Len() > 5<<20 {
		t.Errorf("%d bytes of memory for 4 MiB and 200 bytes", c.buf.Len())
	}
	c.drop()
	// A promise of 32 MiB of which little comes.
	w = newWire(&script{in: append(binary.BigEndian.AppendUint64([]byte{2}, 32<<20), make([]byte, 4096)...)})
	c = collector{max: 64 << 20, pool: pool, last: last}
	n, more, _ = w.next()
	c.begin(n, more, 0)
	if err := c.run(w); !errors.Is(err, transport.ErrUnavailable) {
		t.Error(err)
	}
	if c.buf.Len() > promised {
		t.Errorf("%d bytes of memory for 4096", c.buf.Len())
	}
	c.drop()
}

// pair returns two links that are connected, a server's and a client's.
func pair(t testing.TB, curve bool) (server, client *wire) {
	t.Helper()
	var cs *CurveServer
	var cc *CurveClient
	if curve {
		public, secret, _ := NewCurveKeys()
		cs = &CurveServer{PublicKey: public, SecretKey: secret, AnyClient: true}
		cc = &CurveClient{ServerKey: public, PublicKey: public, SecretKey: secret}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan error, 1)
	go func() {
		nc, err := ln.Accept()
		if err == nil {
			server = newWire(nc)
			err = server.accept(cs)
		}
		got <- err
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client = newWire(nc)
	if err := client.introduce(cc, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.close()
		client.close()
	})
	return server, client
}

// TestInterrupt: an interrupt ends one read, also one that is to come, and loses nothing.
func TestInterrupt(t *testing.T) {
	for _, curve := range []bool{false, true} {
		t.Run(fmt.Sprint("curve=", curve), func(t *testing.T) {
			leakCheck(t)
			server, client := pair(t, curve)
			server.interrupt()
			if _, _, err := server.next(); err != native.ErrInterrupted {
				t.Fatal(err)
			}
			want := random(1 << 20)
			go func() {
				for range 20 {
					client.send([]byte("head"), nil, transport.Slices{want}, 100_000)
				}
			}()
			var stop sync.WaitGroup
			done := make(chan struct{})
			stop.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						server.interrupt()
					}
				}
			})
			got := make([]byte, 0, len(want))
			for range 20 {
				got = got[:0]
				for more := true; more; {
					var n int64
					if err := persist(func() (err error) { n, more, err = server.next(); return }); err != nil {
						t.Fatal(err)
					}
					part := make([]byte, n)
					for at := 0; at < len(part); {
						k, err := server.read(part[at:])
						if at += k; err != nil && err != native.ErrInterrupted {
							t.Fatal(err)
						}
					}
					got = append(got, part...)
				}
				if !bytes.Equal(got[4:], want) {
					t.Fatal("the message came otherwise")
				}
			}
			close(done)
			stop.Wait()
		})
	}
}

// TestPingWhileSending: a PING is answered although somebody is sending and the peer does not read.
func TestPingWhileSending(t *testing.T) {
	leakCheck(t)
	server, client := pair(t, false)
	big := make([]byte, 64<<20)
	sent := make(chan error)
	go func() { sent <- server.send(nil, nil, transport.Slices{big}, whole) }()
	for server.writing.TryLock() {
		server.writing.Unlock()
	}
	client.writing.Lock()
	client.begin()
	client.writeCommand([]byte("\x04PING\x00\x00again"))
	client.flush()
	client.writing.Unlock()
	if err := client.send([]byte("x"), nil, nil, whole); err != nil {
		t.Fatal(err)
	}
	if n, _, err := server.next(); n != 1 || err != nil { // it does not wait for the sender
		t.Fatal(n, err)
	}
	for range 2 {
		if _, _, err := client.next(); err != nil {
			t.Fatal(err)
		}
	}
	n, flags, err := client.frame() // skips the body
	if err != nil || flags != flagCommand || string(client.rbuf[client.r:][:n]) != "\x04PONGagain" {
		t.Error(n, flags, err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func FuzzServer(f *testing.F) {
	hs := clientHandshake("DEALER")
	f.Add(hs, byte(0))
	f.Add(slices.Concat(hs, message(nil, ping), message(nil, []byte("request"), []byte("of two"))), byte(1))
	f.Add(slices.Concat(hs, message(ping, nil), message((&native.Header{Type: 1}).Append(nil))), byte(0))
	f.Add(slices.Concat(hs, frameBytes(flagCommand, []byte("\x04PING\x00\x01abc")), message(nil, make([]byte, 70000))), byte(2))
	f.Add(greeting("CURVE", false), byte(4))
	s := scripted(f, ListenOptions{Python: echo, MaxMessage: 1 << 20})
	public, secret, _ := NewCurveKeys()
	curve := &CurveServer{PublicKey: public, SecretKey: secret, AnyClient: true}
	f.Fuzz(func(t *testing.T, in []byte, how byte) {
		before, _ := transport.Live(transport.Pooled)
		c := &script{in: in, step: int(how & 1), shaky: how&2 != 0}
		w := newWire(c)
		var keys *CurveServer
		if how&4 != 0 {
			keys = curve
		}
		if w.accept(keys) == nil {
			s.talk(w)
		}
		if after, _ := transport.Live(transport.Pooled); after > before {
			t.Errorf("%d buffers are left", after-before)
		}
	})
}

func FuzzClient(f *testing.F) {
	hs := serverHandshake("ROUTER")
	pong := message(nil, pongs[0], pongs[1])
	f.Add(slices.Concat(hs, pong), byte(0))
	f.Add(slices.Concat(hs, message(nil, pongs[0]), message(nil, []byte("answer"), make([]byte, 300))), byte(1))
	f.Add(slices.Concat(hs, pong, message((&native.Header{Type: 1, Body: 3}).Append(nil), []byte("abc"))), byte(0))
	f.Add(greeting("CURVE", true), byte(4))
	public, secret, _ := NewCurveKeys()
	curve := &CurveClient{ServerKey: public, PublicKey: public, SecretKey: secret}
	f.Fuzz(func(t *testing.T, in []byte, how byte) {
		before, _ := transport.Live(transport.Pooled)
		o := DialOptions{MaxMessage: 1 << 20}
		if how&4 != 0 {
			o.Curve = curve
		}
		dials := 0
		o.connect = func(ctx context.Context, a address, o *DialOptions, hello [][]byte) (link, error) {
			if dials++; dials > 1 {
				return nil, transport.ErrUnavailable
			}
			w := newWire(&script{in: in, step: int(how & 1), shaky: how&2 != 0})
			return w, w.introduce(o.Curve, hello)
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		c, err := Connect(ctx, "tcp://127.0.0.1:1", o)
		if err != nil {
			return
		}
		if c.Peer() == PeerPython {
			e, _ := c.Exchanger()
			for range 3 {
				if b, err := e.Exchange(ctx, transport.Slices{[]byte("x")}); err == nil {
					b.Release()
				}
			}
			e.Close()
		} else if n, err := c.Client(ctx); err == nil {
			n.Close()
		}
		if after, _ := transport.Live(transport.Pooled); after > before {
			t.Errorf("%d buffers are left", after-before)
		}
	})
}

// FuzzCurve gives bytes to who opens boxes, behind a handshake that was right.
func FuzzCurve(f *testing.F) {
	key := &[32]byte{1}
	box := func(flags byte, body string) []byte {
		s := sealer{seal: key, prefix: "CurveZMQMESSAGEC"}
		s.begin(flags, 0)
		s.add([]byte(body))
		return frameBytes(0, s.end(nil))
	}
	f.Add(box(0, "message"))
	f.Add(box(flagMore, ""))
	f.Add(box(boxedCommand, "\x04PING\x00\x00ctx"))
	f.Add(append(binary.BigEndian.AppendUint64([]byte{2}, 1<<25), make([]byte, 1000)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		w := newWire(&script{in: in, shaky: true})
		w.box = sealed{open: key, prefix: "CurveZMQMESSAGEC"}
		w.seal = sealer{seal: key, prefix: "CurveZMQMESSAGES"}
		for {
			var n int64
			if err := persist(func() (err error) { n, _, err = w.next(); return }); err != nil {
				break
			}
			if _, err := w.read(make([]byte, n)); err != nil {
				t.Fatal(err)
			}
		}
		if cap(w.box.box) > 4*len(in)+256<<10 {
			t.Errorf("%d bytes of memory for %d", cap(w.box.box), len(in))
		}
	})
}
