package tcp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/faultnet"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// table returns a store for one test.
func table(t testing.TB) *objects.Table {
	t.Helper()
	s, err := objects.NewTable(objects.TableOptions{Memory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func listen(t testing.TB, addr string, store objects.Store, o ListenOptions) *Server {
	t.Helper()
	if o.RuntimeDir == "" {
		o.RuntimeDir = t.TempDir()
	}
	s, err := Listen(background(t), addr, store, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func dial(t testing.TB, addr string, o DialOptions) *Client {
	t.Helper()
	c, err := Dial(background(t), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func serverTLS(mutual bool) *tls.Config {
	certs := certificates()
	cfg := &tls.Config{Certificates: []tls.Certificate{certs.server}}
	if mutual {
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, certs.pool
	}
	return cfg
}

func clientTLS(mutual bool) *tls.Config {
	certs := certificates()
	cfg := &tls.Config{RootCAs: certs.pool}
	if mutual {
		cfg.Certificates = []tls.Certificate{certs.client}
	}
	return cfg
}

// ways are the kinds of addresses and options that clients and servers meet by.
type way struct {
	addr    string // %s: a directory
	listen  ListenOptions
	dial    DialOptions
	network string
}

var ways = map[string]way{
	"tcp":       {"tcp://127.0.0.1:0", ListenOptions{NoSameHost: true}, DialOptions{}, "tcp"},
	"tcp6":      {"tcp://[::1]:0", ListenOptions{}, DialOptions{NoSameHost: true}, "tcp"},
	"bare":      {"localhost:0", ListenOptions{}, DialOptions{NoSameHost: true}, "tcp"},
	"unix":      {"unix://%s/s", ListenOptions{}, DialOptions{}, "unix"},
	"samehost":  {"tcp://:0", ListenOptions{}, DialOptions{}, sameHostNetwork("tcp")},
	"tls":       {"tls://127.0.0.1:0", ListenOptions{TLS: serverTLS(false)}, DialOptions{TLS: clientTLS(false), NoSameHost: true}, "tls"},
	"tls6":      {"tls://[::1]:0", ListenOptions{TLS: serverTLS(false)}, DialOptions{TLS: clientTLS(false), NoSameHost: true}, "tls"},
	"tls/local": {"tls://127.0.0.1:0", ListenOptions{TLS: serverTLS(false)}, DialOptions{TLS: clientTLS(false)}, sameHostNetwork("tls")},
	"mutual":    {"tls://127.0.0.1:0", ListenOptions{TLS: serverTLS(true)}, DialOptions{TLS: clientTLS(true)}, "tls"},
	"token": {"tcp://127.0.0.1:0", ListenOptions{ServerOptions: native.ServerOptions{Token: []byte("secret")}},
		DialOptions{ClientOptions: native.ClientOptions{Token: []byte("secret")}}, sameHostNetwork("tcp")},
	"poll": {"tcp://127.0.0.1:0", ListenOptions{BusyPoll: 20 * time.Microsecond}, DialOptions{BusyPoll: 20 * time.Microsecond, NoSameHost: true}, "tcp"},
	"buffers": {"unix://%s/s", ListenOptions{SendBuffer: 1 << 20, ReceiveBuffer: 1 << 20}, DialOptions{SendBuffer: 1 << 20, ReceiveBuffer: 1 << 20},
		"unix"},
}

func sameHostNetwork(otherwise string) string {
	if bootID() != "" {
		return "unix"
	}
	return otherwise
}

func (w way) address(t testing.TB) string { return strings.Replace(w.addr, "%s", t.TempDir(), 1) }

// Every method, over every kind of connection.
func TestSessions(t *testing.T) {
	for name, w := range ways {
		t.Run("way="+name, func(t *testing.T) {
			checkLeaks(t)
			s := listen(t, w.address(t), table(t), w.listen)
			c := dial(t, s.Addr(), w.dial)
			if c.Network() != w.network {
				t.Errorf("over %s, want %s", c.Network(), w.network)
			}
			ctx := background(t)
			for i, n := range []int{0, 1, 1000, 100_000, 3_000_001, 9_000_000} {
				id, obj := fmt.Sprint("object", i), pattern(i, n)
				if ok, err := c.Exists(ctx, id); ok || err != nil {
					t.Fatalf("Exists = %v, %v", ok, err)
				}
				if err := c.Put(ctx, id, transport.Slices{obj[:n/3], nil, obj[n/3:]}, objects.PutOptions{}); err != nil {
					t.Fatal(err)
				}
				if err := c.Wait(ctx, id); err != nil {
					t.Error(err)
				}
				if info, err := c.Stat(ctx, id); err != nil || info.Size != int64(n) {
					t.Errorf("Stat = %+v, %v", info, err)
				}
				b, err := c.Get(ctx, id, 0, -1, int64(n))
				if err != nil || !bytes.Equal(b.Bytes(), obj) {
					t.Fatalf("Get of %d bytes: %v", n, err)
				}
				b.Release()
				got, err := c.GetBytes(ctx, id, -1)
				if err != nil || !bytes.Equal(got, obj) {
					t.Errorf("GetBytes of %d bytes: %v", n, err)
				}
				if b, err = c.Get(ctx, id, int64(n/2), 10, -1); err != nil || !bytes.Equal(b.Bytes(), obj[n/2:min(n, n/2+10)]) {
					t.Errorf("Get of a range: %v", err)
				}
				b.Release()
				b, err = c.Map(ctx, id)
				if c.Network() != "unix" || bootID() == "" {
					if !errors.Is(err, errors.ErrUnsupported) {
						t.Errorf("Map: %v", err)
					}
				} else if err == nil {
					if !bytes.Equal(b.Bytes(), obj) {
						t.Error("Map gives another object")
					}
					b.Release()
				} else if !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("Map of %d bytes: %v", n, err)
				}
				r, err := c.GetStream(ctx, id, int64(n/4))
				if err != nil {
					t.Fatal(err)
				}
				if got, err = io.ReadAll(r); err != nil || !bytes.Equal(got, obj[n/4:]) || r.Size() != int64(n) {
					t.Errorf("GetStream of %d bytes: %v", n, err)
				}
				r.Close()
				if err := c.Evict(ctx, id); err != nil {
					t.Error(err)
				}
				if _, err := c.Get(ctx, id, 0, -1, -1); !errors.Is(err, transport.ErrNotFound) {
					t.Errorf("Get of an evicted object: %v", err)
				}
			}
			w, err := c.PutStream(ctx, "stream", -1, objects.PutOptions{})
			if err != nil {
				t.Fatal(err)
			}
			obj := pattern(9, 5_000_000)
			if _, err := w.ReadFrom(bytes.NewReader(obj)); err != nil {
				t.Error(err)
			}
			if err := w.Commit(); err != nil {
				t.Error(err)
			}
			if got, err := c.GetBytes(ctx, "stream", -1); err != nil || !bytes.Equal(got, obj) {
				t.Errorf("a streamed object: %v", err)
			}
			if err := c.Ping(ctx); err != nil {
				t.Error(err)
			}
			if st := s.Stats(); st.Conns < 1 || st.Requests["put"] == 0 {
				t.Errorf("Stats = %+v", st)
			}
			c.Close()
			if err := c.Ping(ctx); !errors.Is(err, transport.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	for addr, want := range map[string]address{
		"tcp://127.0.0.1:4100": {"tcp", "tcp", "127.0.0.1:4100", "127.0.0.1"},
		"tcp://[::1]:4100/":    {"tcp", "tcp", "[::1]:4100", "::1"},
		"tls://host:1":         {"tls", "tcp", "host:1", "host"},
		"host:1":               {"tcp", "tcp", "host:1", "host"},
		":1":                   {"tcp", "tcp", ":1", ""},
		"unix:///run/x.sock":   {"unix", "unix", "/run/x.sock", ""},
	} {
		if a, err := parseAddress(addr); err != nil || a != want {
			t.Errorf("%s: %+v, %v", addr, a, err)
		}
	}
	for _, addr := range []string{"", "host", "http://host:1", "tcp://host", "tcp://host:", "tcp://::1:4", "unix://", "unix:///a\x00b", "unix://@a", "tcp://u@host:1",
		"tcp://host:1?x=y", "redis://h:1"} {
		if a, err := parseAddress(addr); err == nil {
			t.Errorf("%s: %+v", addr, a)
		}
		if _, err := Dial(background(t), addr, DialOptions{}); err == nil {
			t.Errorf("Dial %s succeeded", addr)
		}
		if _, err := Listen(background(t), addr, table(t), ListenOptions{}); err == nil {
			t.Errorf("Listen on %s succeeded", addr)
		}
	}
}

// A server that others could reach is not open to all by mistake.
func TestListenIsNotOpen(t *testing.T) {
	token := native.ServerOptions{Token: []byte("x")}
	for _, c := range []struct {
		addr string
		o    ListenOptions
		ok   bool
	}{
		{"tcp://0.0.0.0:0", ListenOptions{}, false},
		{"tcp://[::]:0", ListenOptions{}, false},
		{"tls://0.0.0.0:0", ListenOptions{TLS: serverTLS(false)}, false},
		{"tcp://0.0.0.0:0", ListenOptions{ServerOptions: token}, true},
		{"tcp://0.0.0.0:0", ListenOptions{Insecure: true}, true},
		{"tls://0.0.0.0:0", ListenOptions{TLS: serverTLS(true)}, true},
		{"tcp://:0", ListenOptions{}, true},
		{"tls://:0", ListenOptions{}, false}, // no certificate
	} {
		c.o.RuntimeDir = t.TempDir()
		s, err := Listen(background(t), c.addr, table(t), c.o)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.addr, err)
		}
		if err == nil {
			s.Close()
		} else if c.addr[:3] == "tcp" && (!errors.Is(err, transport.ErrDenied) || !strings.Contains(err.Error(), "Token")) {
			t.Errorf("%s: %v: it does not say what to do", c.addr, err)
		}
	}
}

// Who may not come learns why.
func TestRefusedClients(t *testing.T) {
	ctx := background(t)
	secret := native.ClientOptions{Token: []byte("secret")}
	for name, c := range map[string]struct {
		listen ListenOptions
		addr   string
		dial   DialOptions
		scheme string
		want   error
	}{
		"token/none": {ListenOptions{ServerOptions: native.ServerOptions{Token: []byte("secret")}}, "tcp://:0", DialOptions{}, "", transport.ErrDenied},
		"token/wrong": {ListenOptions{ServerOptions: native.ServerOptions{Token: []byte("other")}}, "tcp://:0", DialOptions{ClientOptions: secret}, "",
			transport.ErrDenied},
		"authority": {ListenOptions{TLS: serverTLS(false)}, "tls://:0", DialOptions{}, "", transport.ErrDenied},
		"name": {ListenOptions{TLS: serverTLS(false)}, "tls://:0", DialOptions{TLS: &tls.Config{RootCAs: certificates().pool, ServerName: "elsewhere"}}, "",
			transport.ErrDenied},
		"certificate": {ListenOptions{TLS: serverTLS(true)}, "tls://:0", DialOptions{TLS: clientTLS(false)}, "", transport.ErrDenied},
		"tls to tcp":  {ListenOptions{}, "tcp://:0", DialOptions{TLS: clientTLS(false)}, "tls", transport.ErrUnavailable},
		"tcp to tls":  {ListenOptions{TLS: serverTLS(false)}, "tls://:0", DialOptions{}, "tcp", transport.ErrUnavailable},
		"other protocol": {ListenOptions{TLS: &tls.Config{Certificates: serverTLS(false).Certificates, NextProtos: []string{"h2"}}}, "tls://:0",
			DialOptions{TLS: clientTLS(false)}, "", transport.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			s := listen(t, c.addr, table(t), c.listen)
			addr := s.Addr()
			if c.scheme != "" {
				addr = c.scheme + addr[3:]
			}
			cl, err := Dial(ctx, addr, c.dial)
			if !errors.Is(err, c.want) {
				t.Errorf("Dial: %v, want %v", err, c.want)
			}
			if err == nil {
				cl.Close()
			}
			if st := s.Stats(); st.Refused+st.TLSFailures == 0 {
				// The client may know before the server: it does when the connection is gone.
				s.Close()
				if st = s.Stats(); st.Refused+st.TLSFailures == 0 {
					t.Errorf("nothing counted: %+v", st)
				}
			}
		})
	}
	if _, err := Dial(ctx, "tcp://127.0.0.1:1", DialOptions{}); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := Dial(ctx, "unix://"+t.TempDir()+"/none", DialOptions{}); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("no socket there: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Dial(cancelled, "tcp://127.0.0.1:1", DialOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A server that accepts and says nothing does not hold Dial longer than its context.
func TestDialSilence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, scheme := range []string{"tcp", "tls"} {
		checkLeaks(t)
		ctx, cancel := context.WithTimeout(background(t), 20*time.Millisecond)
		if _, err := Dial(ctx, scheme+"://"+l.Addr().String(), DialOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", scheme, err)
		}
		cancel()
	}
}

// Garbage, half a frame, nothing at all: the server closes, counts, and goes on.
func TestHostilePeers(t *testing.T) {
	checkLeaks(t)
	s := listen(t, "tcp://:0", table(t), ListenOptions{ServerOptions: native.ServerOptions{HandshakeTimeout: 50 * time.Millisecond}})
	hello := native.Header{Type: native.TypeHello, Meta: 1 << 31, Body: 1 << 31}
	hello2 := native.Header{Type: native.TypeHello, Meta: 60000}
	for i, p := range [][]byte{
		[]byte("GET / HTTP/1.0\r\n\r\n"), []byte("\x16\x03\x01\x02\x00\x01\x00"), {0}, bytes.Repeat([]byte{0xff}, 1<<16), hello.Append(nil),
		hello2.Append(nil), {byte(native.TypeHello)}, {}, bytes.Repeat([]byte{1}, 48), bytes.Repeat([]byte{1, 0}, 1<<16),
	} {
		nc, err := net.Dial("tcp", strings.TrimPrefix(s.Addr(), "tcp://"))
		if err != nil {
			t.Fatal(err)
		}
		nc.Write(p)
		nc.SetDeadline(time.Now().Add(20 * time.Second))
		if answer, err := io.ReadAll(nc); len(answer) > 4096 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("peer %d: %d bytes of answer, %v", i, len(answer), err)
		}
		nc.Close()
	}
	c := dial(t, s.Addr(), DialOptions{NoSameHost: true})
	if err := c.Ping(background(t)); err != nil {
		t.Error(err)
	}
	s.Close() // the last peer may know before the server counts it
	if st := s.Stats(); st.Refused < 10 {
		t.Errorf("%d handshakes were counted as failed", st.Refused)
	}
}

// The connections beyond the limit are told so, and make room when they go.
func TestMaxConns(t *testing.T) {
	checkLeaks(t)
	ctx := background(t)
	s := listen(t, "tcp://:0", table(t), ListenOptions{MaxConns: 3, NoSameHost: true})
	var open []*Client
	for range 3 {
		open = append(open, dial(t, s.Addr(), DialOptions{}))
	}
	for range 5 {
		_, err := Dial(ctx, s.Addr(), DialOptions{})
		if !errors.Is(err, transport.ErrUnavailable) || !strings.Contains(err.Error(), "MaxConns") {
			t.Errorf("one too many: %v", err)
		}
	}
	if st := s.Stats(); st.Turned != 5 {
		t.Errorf("%d were turned away", st.Turned)
	}
	open[0].Close()
	for {
		c, err := Dial(ctx, s.Addr(), DialOptions{})
		if err == nil {
			c.Close()
			break
		}
		if !errors.Is(err, transport.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	// A flood of connections that say nothing.
	var flood []net.Conn
	for range 300 {
		nc, err := net.Dial("tcp", strings.TrimPrefix(s.Addr(), "tcp://"))
		if err != nil {
			t.Fatal(err)
		}
		flood = append(flood, nc)
	}
	if err := open[1].Ping(ctx); err != nil {
		t.Error(err)
	}
	for _, nc := range flood {
		nc.Close()
	}
}

// failing is a listener that runs out of descriptors again and again.
type failing struct {
	net.Listener
	fails atomic.Int32
}

func (f *failing) Accept() (net.Conn, error) {
	if f.fails.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept", syscall.EMFILE)}
	}
	return f.Listener.Accept()
}

func TestAcceptErrors(t *testing.T) {
	checkLeaks(t)
	s := listen(t, "tcp://:0", table(t), ListenOptions{NoSameHost: true})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &failing{Listener: l}
	f.fails.Store(3)
	s.mu.Lock()
	s.listeners = append(s.listeners, f)
	s.wg.Go(func() { s.accept(f, false) })
	s.mu.Unlock()
	if err := dial(t, l.Addr().String(), DialOptions{}).Ping(background(t)); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.AcceptFails != 3 {
		t.Errorf("%d errors of accept", st.AcceptFails)
	}
}

func TestUnixSocketFile(t *testing.T) {
	checkLeaks(t)
	path := filepath.Join(t.TempDir(), "s")
	addr := "unix://" + path
	// What a killed server left is replaced.
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	s := listen(t, addr, table(t), ListenOptions{})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	// A server that answers is not.
	if _, err := Listen(background(t), addr, table(t), ListenOptions{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second server: %v", err)
	}
	if err := dial(t, addr, DialOptions{}).Ping(background(t)); err != nil {
		t.Error(err)
	}
	s.Close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after Close: %v", err)
	}
	// Close leaves the socket of a successor alone.
	s = listen(t, addr, table(t), ListenOptions{SocketMode: 0o660})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	os.Remove(path)
	next := listen(t, addr, table(t), ListenOptions{})
	s.Close()
	if err := dial(t, addr, DialOptions{}).Ping(background(t)); err != nil {
		t.Error(err)
	}
	next.Close()
	// Nor is any other file.
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(background(t), addr, table(t), ListenOptions{}); err == nil {
		t.Error("a file was replaced")
	}
	if _, err := Listen(background(t), "unix:///no/such/directory/s", table(t), ListenOptions{}); err == nil {
		t.Error("a socket without a directory")
	}
}

// Many clients, many requests in flight on each, all sizes: every answer is the right one, and system calls are shared.
func TestManyClients(t *testing.T) {
	checkLeaks(t)
	ctx := background(t)
	store := table(t)
	s := listen(t, "tcp://:0", store, ListenOptions{})
	const clients, inFlight, rounds = 64, 16, 4
	var wg sync.WaitGroup
	for i := range clients {
		c := dial(t, s.Addr(), DialOptions{NoSameHost: i%2 == 0})
		for j := range inFlight {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), uint64(j)))
				for k := range rounds {
					id, obj := fmt.Sprint(i, j, k), pattern(i+j+k, rnd.IntN(20_000))
					if err := c.Put(ctx, id, transport.Slices{obj}, objects.PutOptions{}); err != nil {
						t.Error(err)
						return
					}
					b, err := c.Get(ctx, id, 0, -1, -1)
					if err != nil || !bytes.Equal(b.Bytes(), obj) {
						t.Errorf("Get: %v", err)
						return
					}
					b.Release()
					if err := c.Evict(ctx, id); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	if st := s.Stats(); st.Requests["get"] != clients*inFlight*rounds {
		t.Errorf("%d gets were counted", st.Requests["get"])
	}
}

// The server ends and comes back, again and again, under load: calls fail with ErrUnavailable or succeed, and no byte is ever wrong.
func TestRestartUnderLoad(t *testing.T) {
	checkLeaks(t)
	ctx := background(t)
	store := table(t)
	start := func(addr string) *Server {
		for {
			s, err := Listen(ctx, addr, store, ListenOptions{RuntimeDir: t.TempDir()})
			if err == nil {
				return s
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Error(err)
				return nil
			}
		}
	}
	s := start("tcp://:0")
	addr := s.Addr()
	obj := pattern(5, 300_000)
	if err := store.Put("fixed", transport.FromBytes(obj), objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var fine, broken atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var c *Client
			defer func() {
				if c != nil {
					c.Close()
				}
			}()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				var err error
				if c == nil {
					if c, err = Dial(ctx, addr, DialOptions{NoSameHost: i%2 == 0}); err != nil {
						c = nil
					}
				}
				if err == nil {
					var b *transport.Buffer
					if n%3 == 0 {
						err = c.Put(ctx, fmt.Sprint("put", i), transport.Slices{pattern(n, 5000)}, objects.PutOptions{})
					} else if b, err = c.Get(ctx, "fixed", 0, -1, -1); err == nil {
						if !bytes.Equal(b.Bytes(), obj) {
							t.Error("another object")
						}
						b.Release()
					}
				}
				if err == nil {
					fine.Add(1)
					continue
				}
				if broken.Add(1); !errors.Is(err, transport.ErrUnavailable) {
					t.Errorf("client %d: %v", i, err)
				}
				if c != nil {
					c.Close()
					c = nil
				}
			}
		})
	}
	for i := range 6 {
		for before := fine.Load(); fine.Load() < before+100 && ctx.Err() == nil; {
			time.Sleep(time.Millisecond)
		}
		if i%2 == 0 {
			s.Close()
		} else if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if s = start(addr); s == nil {
			break
		}
	}
	close(stop)
	wg.Wait()
	s.Close()
	if broken.Load() == 0 {
		t.Error("nobody noticed")
	}
}

// The connection is cut, or a bit flips, at every byte of a session: whatever a call returns without error is right.
func TestFaultsAtEveryByte(t *testing.T) {
	checkLeaks(t)
	ctx := background(t)
	store := table(t)
	s := listen(t, "tcp://:0", store, ListenOptions{ServerOptions: native.ServerOptions{Hash: native.HashAlways, StallTimeout: 100 * time.Millisecond,
		HandshakeTimeout: 100 * time.Millisecond}})
	obj := pattern(3, 200)
	run := func(plan faultnet.Plan) (fc *faultnet.Conn, err error) {
		o := DialOptions{Stall: 100 * time.Millisecond, Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			fc = faultnet.Wrap(nc, plan)
			return fc, nil
		}}
		o.Hash, o.HandshakeTimeout = native.HashAlways, 100*time.Millisecond
		c, err := Dial(ctx, s.Addr(), o)
		if err != nil {
			return fc, err
		}
		defer c.Close()
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		if err := c.Put(short, "x", transport.Slices{obj}, objects.PutOptions{}); err != nil {
			return fc, err
		}
		if b, err := store.Get("x"); err != nil || !bytes.Equal(b.Bytes(), obj) {
			t.Errorf("%+v: the server has another object: %v", plan, err)
		} else {
			b.Release()
		}
		b, err := c.Get(short, "x", 0, -1, -1)
		if err != nil {
			return fc, err
		}
		defer b.Release()
		if !bytes.Equal(b.Bytes(), obj) {
			t.Errorf("%+v: another object", plan)
		}
		return fc, nil
	}
	fc, err := run(faultnet.Plan{})
	if err != nil {
		t.Fatal(err)
	}
	in, out := fc.Stats().BytesRead, fc.Stats().BytesWritten
	for _, c := range []struct {
		total int64
		put   func(p *faultnet.Plan, f faultnet.Faults)
	}{{in, func(p *faultnet.Plan, f faultnet.Faults) { p.Read = f }}, {out, func(p *faultnet.Plan, f faultnet.Faults) { p.Write = f }}} {
		for at := int64(1); at < c.total; at++ {
			var p faultnet.Plan
			c.put(&p, faultnet.Faults{CutAfter: at, Reset: at%2 == 0})
			if _, err := run(p); err == nil {
				t.Errorf("%+v: no error", p)
			} else if !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("%+v: %v", p, err)
			}
			if at%8 == 0 { // a flipped bit may cost a time limit
				p = faultnet.Plan{}
				c.put(&p, faultnet.Faults{CorruptAt: []int64{at}})
				if _, err := run(p); err != nil && !errors.Is(err, transport.ErrUnavailable) && !errors.Is(err, transport.ErrCorrupt) &&
					!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, transport.ErrDenied) && !errors.Is(err, transport.ErrNotFound) {
					t.Errorf("%+v: %v", p, err)
				}
			}
		}
		var p faultnet.Plan
		c.put(&p, faultnet.Faults{Short: 1})
		if _, err := run(p); err != nil {
			t.Errorf("by single bytes: %v", err)
		}
	}
}

// Shutdown lets what is in flight end, and leaves nothing behind.
func TestShutdown(t *testing.T) {
	checkLeaks(t)
	ctx := background(t)
	dir := t.TempDir()
	s := listen(t, "tcp://:0", table(t), ListenOptions{RuntimeDir: dir})
	c := dial(t, s.Addr(), DialOptions{})
	if err := c.Put(ctx, "x", transport.Slices{pattern(1, 100)}, objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Ping(ctx); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("after Shutdown: %v", err)
	}
	if _, err := Dial(ctx, s.Addr(), DialOptions{}); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("Dial after Shutdown: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A server that is killed: clients get ErrUnavailable, and what it leaves behind harms nobody.
func TestKilledServer(t *testing.T) {
	checkLeaks(t)
	ctx := background(t)
	dir := t.TempDir()
	for _, addr := range []string{"tcp://127.0.0.1:0", "unix://" + dir + "/objects"} {
		p := startProcess(t, addr, dir, 0)
		var wg sync.WaitGroup
		var begun sync.WaitGroup
		for i := range 6 {
			begun.Add(1)
			wg.Go(func() {
				c, err := Dial(ctx, p.addr, DialOptions{NoSameHost: i%2 == 0})
				first := true
				for ; err == nil; err = c.Put(ctx, fmt.Sprint(i), transport.Slices{pattern(i, 1_000_000)}, objects.PutOptions{}) {
					if first {
						begun.Done()
						first = false
					}
				}
				if first {
					begun.Done()
				}
				if !errors.Is(err, transport.ErrUnavailable) {
					t.Errorf("client %d: %v", i, err)
				}
				if c != nil {
					c.Close()
				}
			})
		}
		begun.Wait()
		p.Process.Kill()
		wg.Wait()
		p.Wait()
		if _, err := Dial(ctx, p.addr, DialOptions{}); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("Dial: %v", err)
		}
		sockets, _ := filepath.Glob(filepath.Join(dir, "*", "*.sock")) // the pattern is right
		for _, path := range sockets {
			hourAgo := time.Now().Add(-time.Hour) // young ones may belong to servers that are about to start
			if err := os.Chtimes(path, hourAgo, hourAgo); err != nil {
				t.Error(err)
			}
		}
		s := listen(t, p.addr, table(t), ListenOptions{RuntimeDir: dir})
		if err := dial(t, p.addr, DialOptions{}).Ping(ctx); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Shutdown does not wait longer than its context for what does not end.
func TestShutdownGivesUp(t *testing.T) {
	checkLeaks(t)
	ctx := background(t)
	s := listen(t, "tcp://:0", table(t), ListenOptions{})
	c := dial(t, s.Addr(), DialOptions{})
	waits := make(chan error, 1)
	go func() { waits <- c.Wait(ctx, "never") }()
	for s.Stats().Requests["wait"] == 0 {
		time.Sleep(time.Millisecond)
	}
	// A connection that has not said anything does not count.
	silent, err := net.Dial("tcp", strings.TrimPrefix(s.Addr(), "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(short); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-waits; !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("Wait: %v", err)
	}
}

// A session that breaks in the middle of a large transfer leaves no memory, no goroutine and no descriptor behind, on either side.
func TestCutTransfers(t *testing.T) {
	checkLeaks(t)
	ctx := background(t)
	pooled, _ := transport.Live(transport.Pooled)
	store := table(t)
	s := listen(t, "tcp://:0", store, ListenOptions{})
	obj := pattern(1, 8<<20)
	if err := store.Put("x", transport.FromBytes(obj), objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := faultnet.NewProxy("tcp://127.0.0.1:0", s.Addr(), faultnet.Plan{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range 12 {
		var plan faultnet.Plan
		cut := faultnet.Faults{CutAfter: int64(1000 + i*700_000), Reset: i%2 == 0}
		if i%3 == 0 {
			plan.Read = cut
		} else {
			plan.Write = cut
		}
		p.Set(plan)
		c, err := Dial(ctx, p.Addr(), DialOptions{NoSameHost: true})
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			if err := c.Put(ctx, "y", transport.Slices{obj}, objects.PutOptions{}); err == nil || !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("Put: %v", err)
			}
			if store.Exists("y") {
				t.Error("an object that did not come whole")
			}
		} else if b, err := c.Get(ctx, "x", 0, -1, int64(len(obj))); !errors.Is(err, transport.ErrUnavailable) {
			b.Release()
			t.Errorf("Get: %v", err)
		}
		c.Close()
	}
	p.Close()
	s.Close()
	if now, _ := transport.Live(transport.Pooled); now != pooled {
		t.Errorf("%d pooled buffers are left", now-pooled)
	}
}
