package zmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// forms are the ways in which a client and a server may be connected.
func forms(t *testing.T, test func(t *testing.T, addr string, lo ListenOptions, do DialOptions)) {
	public, secret, err := NewCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	clientPublic, clientSecret, _ := NewCurveKeys()
	lc := &CurveServer{PublicKey: public, SecretKey: secret, AllowedClients: []CurveKey{clientPublic}}
	dc := &CurveClient{ServerKey: public, PublicKey: clientPublic, SecretKey: clientSecret}
	token := native.ServerOptions{Token: []byte("a token of sufficient length")}
	for _, f := range []struct {
		name, addr string
		lo         ListenOptions
		do         DialOptions
	}{
		{"tcp", "tcp://127.0.0.1:0", ListenOptions{}, DialOptions{}},
		{"ipc", "ipc", ListenOptions{}, DialOptions{}},
		{"curve", "tcp://127.0.0.1:0", ListenOptions{Curve: lc}, DialOptions{Curve: dc}},
		{"token", "tcp://127.0.0.1:0", ListenOptions{ServerOptions: token}, DialOptions{ClientOptions: native.ClientOptions{Token: token.Token}}},
	} {
		t.Run(f.name, func(t *testing.T) {
			leakCheck(t)
			if f.addr == "ipc" {
				f.addr = "ipc://" + filepath.Join(t.TempDir(), "s")
			}
			test(t, f.addr, f.lo, f.do)
		})
	}
}

func TestNative(t *testing.T) {
	forms(t, func(t *testing.T, addr string, lo ListenOptions, do DialOptions) {
		ctx := testContext(t)
		s := serve(t, addr, lo)
		c, err := Dial(ctx, s.Addr(), do)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var _ objects.Client = c
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for _, n := range []int{0, 1, 1000, 65536, 1 << 20, 3<<20 + 1} {
					id, want := fmt.Sprint(g, "-", n), random(n)
					if err := c.Put(ctx, id, transport.Slices{want[:n/2], want[n/2:]}, objects.PutOptions{}); err != nil {
						t.Error(err)
						return
					}
					b, err := c.Get(ctx, id, 0, -1, int64(n))
					if err != nil {
						t.Error(err)
						return
					}
					if !bytes.Equal(b.Bytes(), want) {
						t.Errorf("%d bytes came back otherwise", n)
					}
					b.Release()
				}
			})
		}
		wg.Wait()
		if _, err := c.Get(ctx, "nothing", 0, -1, -1); !errors.Is(err, transport.ErrNotFound) {
			t.Errorf("Get of nothing: %v", err)
		}

		want := random(10<<20 + 7)
		w, err := c.PutStream(ctx, "stream", -1, objects.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.ReadFrom(bytes.NewReader(want)); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		r, err := c.GetStream(ctx, "stream", 5)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want[5:]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		r.Close()

		// A cancelled call leaves the connection as it was.
		cancelled, cancel := context.WithCancel(ctx)
		done := make(chan error)
		go func() { done <- c.Wait(cancelled, "later") }()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Wait: %v", err)
		}
		if err := c.Ping(ctx); err != nil {
			t.Errorf("Ping: %v", err)
		}
	})
}

func TestShutdown(t *testing.T) {
	forms(t, func(t *testing.T, addr string, lo ListenOptions, do DialOptions) {
		ctx := testContext(t)
		lo.Python = echo
		lo.Insecure = true
		s := serve(t, addr, lo)
		c, err := Dial(ctx, s.Addr(), do)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		e, err := DialExchanger(ctx, s.Addr(), do)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		b, err := e.Exchange(ctx, transport.Slices{[]byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := c.Ping(ctx); err == nil {
			t.Error("Ping works after Shutdown")
		}
		if _, err := e.Exchange(ctx, transport.Slices{[]byte("x")}); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("Exchange after Shutdown: %v", err)
		}
		if _, err := Dial(ctx, s.Addr(), do); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("Dial after Shutdown: %v", err)
		}
	})
}

// TestShutdownLetsFinish: a request that is being worked on is answered.
func TestShutdownLetsFinish(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	in, out := make(chan struct{}), make(chan struct{})
	s := serve(t, "tcp://127.0.0.1:0", ListenOptions{Python: func(ctx context.Context, req *transport.Buffer) (transport.Slices, func(), error) {
		close(in)
		<-out
		return echo(ctx, req)
	}})
	e, err := DialExchanger(ctx, s.Addr(), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	answered := make(chan error)
	go func() {
		b, err := e.Exchange(ctx, transport.Slices{[]byte("x")})
		b.Release()
		answered <- err
	}()
	<-in
	down := make(chan error)
	go func() { down <- s.Shutdown(ctx) }()
	for !s.draining.Load() {
	}
	close(out)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// TestShutdownGivesUp: when its context ends, Shutdown waits no longer.
func TestShutdownGivesUp(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	in := make(chan struct{})
	s := serve(t, "tcp://127.0.0.1:0", ListenOptions{Python: func(ctx context.Context, req *transport.Buffer) (transport.Slices, func(), error) {
		defer req.Release()
		close(in)
		<-ctx.Done()
		return nil, nil, ctx.Err()
	}})
	e, err := DialExchanger(ctx, s.Addr(), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	answered := make(chan error)
	go func() {
		_, err := e.Exchange(ctx, transport.Slices{[]byte("x")})
		answered <- err
	}()
	<-in
	soon, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Shutdown(soon); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-answered; !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("Exchange: %v", err)
	}
}

func TestCurveRefuses(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	public, secret, _ := NewCurveKeys()
	otherPublic, otherSecret, _ := NewCurveKeys()
	var l logs
	o := ListenOptions{Curve: &CurveServer{PublicKey: public, SecretKey: secret, AllowedClients: []CurveKey{public}}}
	o.Logger = l.logger()
	s := serve(t, "tcp://127.0.0.1:0", o)
	for _, c := range []struct {
		name string
		c    *CurveClient
	}{
		{"not allowed", &CurveClient{ServerKey: public, PublicKey: otherPublic, SecretKey: otherSecret}},
		{"wrong server", &CurveClient{ServerKey: otherPublic, PublicKey: public, SecretKey: secret}},
		{"no curve", nil},
	} {
		if _, err := Dial(ctx, s.Addr(), DialOptions{Curve: c.c}); !errors.Is(err, transport.ErrDenied) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := Dial(ctx, s.Addr(), DialOptions{Curve: &CurveClient{ServerKey: public, PublicKey: public, SecretKey: otherSecret}}); err == nil {
		t.Error("keys that are no pair were taken")
	}
	for want := otherPublic.Z85(); !strings.Contains(l.String(), want); {
		if ctx.Err() != nil {
			t.Fatalf("the key that was not allowed is not in the log:\n%s", l.String())
		}
		runtime.Gosched() // the client knows before it is logged
	}
	plain := serve(t, "tcp://127.0.0.1:0", ListenOptions{})
	if _, err := Dial(ctx, plain.Addr(), DialOptions{Curve: &CurveClient{ServerKey: public, PublicKey: public, SecretKey: secret}}); !errors.Is(err, transport.ErrDenied) {
		t.Errorf("a server without CURVE: %v", err)
	}
	any := serve(t, "tcp://127.0.0.1:0", ListenOptions{Curve: &CurveServer{PublicKey: public, SecretKey: secret, AnyClient: true}})
	c, err := Dial(ctx, any.Addr(), DialOptions{Curve: &CurveClient{ServerKey: public, PublicKey: otherPublic, SecretKey: otherSecret}})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestZ85(t *testing.T) {
	// RFC 26's test server key.
	const s = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
	k, err := ParseCurveKey(s)
	if err != nil || k.Z85() != s {
		t.Errorf("%q, %v", k.Z85(), err)
	}
	secret, err := ParseCurveKey("JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6")
	if err != nil || secret.Public() != k {
		t.Errorf("%v", err)
	}
	if fmt.Sprint(k, &k) != "CURVE key CURVE key" {
		t.Errorf("a key is printed: %v", k)
	}
	for _, bad := range []string{"", s[1:], strings.Repeat("#", 40), strings.Repeat("~", 40)} {
		if _, err := ParseCurveKey(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestListenRefuses(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	table := newTable(t)
	for _, every := range []string{"tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://[::ffff:0.0.0.0]:0", "tcp://:0", "tcp://*:*"} {
		if _, err := Listen(ctx, every, table, ListenOptions{}); !errors.Is(err, transport.ErrDenied) {
			t.Errorf("%s: %v", every, err)
		}
	}
	s, err := Listen(ctx, "tcp://*:*", table, ListenOptions{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, bad := range []string{"", "tcp://", "tcp://host", "udp://127.0.0.1:1", "ipc://", "127.0.0.1:1"} {
		if s, err := Listen(ctx, bad, table, ListenOptions{}); err == nil {
			s.Close()
			t.Errorf("%q was taken", bad)
		}
		if _, err := Dial(ctx, bad, DialOptions{}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := Listen(ctx, "tcp://127.0.0.1:0", table, ListenOptions{Curve: &CurveServer{}}); err == nil {
		t.Error("an empty CurveServer was taken")
	}
	if _, err := Listen(ctx, "tcp://127.0.0.1:0", table, ListenOptions{ChunkLength: -1}); err == nil {
		t.Error("a negative length was taken")
	}
	if _, err := Dial(ctx, "tcp://127.0.0.1:1", DialOptions{ChunkLength: -1}); err == nil {
		t.Error("a negative length was taken")
	}

	// Two servers at one address; a socket that was left behind; a file that is no socket.
	path := filepath.Join(t.TempDir(), "s")
	s = serve(t, "ipc://"+path, ListenOptions{})
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if _, err := Listen(ctx, "ipc://"+path, table, ListenOptions{}); err == nil {
		t.Error("a second server at one path")
	}
	s.Close()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	serve(t, "ipc://"+path, ListenOptions{})
	if err := os.WriteFile(path+"2", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ctx, "ipc://"+path+"2", table, ListenOptions{}); err == nil {
		t.Error("a file was taken for a socket")
	}
}

func TestMaxConnections(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	s := serve(t, "tcp://127.0.0.1:0", ListenOptions{MaxConnections: 1})
	c, err := Dial(ctx, s.Addr(), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := Dial(ctx, s.Addr(), DialOptions{}); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("a second client: %v", err)
	}
	if err := c.Ping(ctx); err != nil {
		t.Error(err)
	}
}

func TestDialFails(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	if _, err := Dial(ctx, "tcp://127.0.0.1:"+freePort(t), DialOptions{}); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
	// Somebody who says nothing.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := "tcp://" + ln.Addr().String()
	o := DialOptions{}
	o.HandshakeTimeout = 1
	if _, err := Dial(ctx, addr, o); !errors.Is(err, transport.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	go func() {
		c, err := ln.Accept()
		for err == nil {
			c.Close()
			if c, err = ln.Accept(); err == nil {
				cancel()
				c.Read(make([]byte, 64))
				c.Close()
				return
			}
		}
	}()
	Dial(ctx, addr, DialOptions{})
	if _, err := Dial(cancelled, addr, DialOptions{}); err != context.Canceled && !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := Dial(cancelled, addr, DialOptions{}); err != context.Canceled {
		t.Errorf("cancelled before: %v", err)
	}
}

// TestStall: a Python client that stops in the middle of a request, or does not take its answer, is hung up on; so is one that asks for nothing, if
// that is wanted.
func TestStall(t *testing.T) {
	leakCheck(t)
	for name, in := range map[string][]byte{
		"sending":   append([]byte{1, 0}, frameBytes(1, make([]byte, 5000))[:4000]...),
		"receiving": message(nil, []byte("give me much")),
		"idle":      nil,
		"hello":     message(ping, nil)[:3],
	} {
		t.Run(name, func(t *testing.T) {
			var l logs
			o := ListenOptions{Python: func(_ context.Context, req *transport.Buffer) (transport.Slices, func(), error) {
				req.Release()
				big := make([]byte, 3<<20)
				return transport.Slices{big, big, big}, nil, nil
			}}
			o.StallTimeout, o.Logger = 30*time.Millisecond, l.logger()
			o.listen = listenPure // libzmq says nothing of what is not whole
			if name == "idle" {
				o.IdleTimeout = o.StallTimeout
			}
			s := serve(t, "tcp://127.0.0.1:0", o)
			nc, err := net.Dial("tcp", strings.TrimPrefix(s.Addr(), "tcp://"))
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			nc.(*net.TCPConn).SetReadBuffer(4096)
			if _, err := nc.Write(append(clientHandshake("REQ"), in...)); err != nil {
				t.Fatal(err)
			}
			for ctx := testContext(t); !strings.Contains(l.String(), "nothing came or went"); {
				if ctx.Err() != nil {
					t.Fatal("it was not hung up on")
				}
				time.Sleep(time.Millisecond) // there is no other word of it
			}
		})
	}
}

// TestStrangers: who has not asked for anything yet may not sit on a connection for longer than a StallTimeout; who has, may.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scripted(t, ListenOptions{Python: echo})
		for name, c := range map[string]struct {
			in   []byte
			stay bool
		}{
			"silent":          {nil, false},
			"hello":           {message(ping, nil), false},
			"hello delimited": {message(nil, ping, nil), false},
			"ping":            {message(nil, ping), false},
			"request":         {message(nil, []byte("request")), true},
		} {
			server, client := net.Pipe()
			var done atomic.Bool
			go func() {
				s.talk(newWire(server))
				done.Store(true)
			}()
			go io.Copy(io.Discard, client)
			client.Write(c.in)
			time.Sleep(DefaultStallTimeout - time.Second)
			if done.Load() {
				t.Errorf("%s: it was hung up on too early", name)
			}
			time.Sleep(time.Hour)
			if done.Load() == c.stay {
				t.Errorf("%s: it was hung up on: %v", name, done.Load())
			}
			client.Close()
			synctest.Wait()
		}
	})
}

// TestDrip: parts without bytes, and commands, are no progress.
func TestDrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scripted(t, ListenOptions{Python: echo})
		for name, drip := range map[string][]byte{
			"empty parts": frameBytes(flagMore, nil),
			"commands":    frameBytes(flagCommand, []byte("\x04PING\x00\x00")),
		} {
			server, client := net.Pipe()
			var wg sync.WaitGroup
			wg.Go(func() { io.Copy(io.Discard, client) })
			wg.Go(func() {
				client.Write([]byte{flagMore, 0, flagMore, 1, 'x'})
				for range 3600 {
					time.Sleep(time.Second)
					if _, err := client.Write(drip); err != nil {
						return
					}
				}
				t.Errorf("%s: it was not hung up on", name)
				client.Close()
			})
			if err := s.talk(newWire(server)); !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
			client.Close()
			wg.Wait()
		}
	})
}

// TestTaking: who takes an answer slowly gets it, however long that takes; who stops taking it is hung up on, however long it is.
func TestTaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := slices.Repeat(transport.Slices{make([]byte, 1<<20)}, 400)
		s := scripted(t, ListenOptions{Python: func(_ context.Context, req *transport.Buffer) (transport.Slices, func(), error) {
			req.Release()
			return answer, nil, nil
		}})
		for _, c := range []struct {
			takes  int // MiB
			served bool
		}{{400, true}, {390, false}, {3, false}, {0, false}} {
			server, client := net.Pipe()
			var stopped time.Time
			var wg sync.WaitGroup
			wg.Go(func() {
				client.Write(message(nil, []byte("much")))
				for range c.takes {
					time.Sleep(6 * time.Second)
					if _, err := io.CopyN(io.Discard, client, 1<<20); err != nil {
						t.Error(err)
					}
				}
				if stopped = time.Now(); c.served {
					io.CopyN(io.Discard, client, 2+400*16*9) // the frames' heads
					client.Close()
				}
			})
			err := s.talk(newWire(server))
			server.Close()
			wg.Wait()
			client.Close()
			if took := time.Since(stopped); err == io.EOF != c.served || took > 2*DefaultStallTimeout {
				t.Errorf("%+v: %v after %v", c, err, took)
			}
		}
	})
}
