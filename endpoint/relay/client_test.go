package relay

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
)

// startClient runs a client until the test ends.
func startClient(t testing.TB, address string, change func(*ClientOptions)) *Client {
	t.Helper()
	o := ClientOptions{Address: address, Name: "go", UUID: uuid.New(), Logger: testLog(t)}
	if change != nil {
		change(&o)
	}
	c, err := NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestClients(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	s, addr := startServer(t, ServerOptions{})
	a, b := startClient(t, "ws://"+addr, nil), startClient(t, "ws://"+addr, nil)
	if err := b.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := a.Send(ctx, PeerConnection{PeerUUID: b.o.UUID, DescriptionType: "offer", Description: "sdp"}); err != nil {
			t.Fatal(err)
		}
		want := PeerConnection{a.o.UUID, "go", b.o.UUID, "offer", "sdp", ""}
		if m, err := b.Receive(ctx); err != nil || m != want {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	if err := a.Send(ctx, PeerConnection{PeerUUID: uuid.New()}); err != nil {
		t.Fatal(err)
	}
	if m, err := a.Receive(ctx); err != nil || !strings.Contains(m.Error, "not registered") {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := a.Send(ctx, PeerConnection{PeerUUID: b.o.UUID, Description: strings.Repeat("x", DefaultMaxMessage)}); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if st := a.State(); !st.Connected || st.Final || st.Err != nil || st.Since.IsZero() {
		t.Errorf("%+v", st)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if _, err := a.Receive(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	a.Close()
	if err := a.Send(ctx, PeerConnection{PeerUUID: b.o.UUID}); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("send after Close: %v", err)
	}
	if _, err := a.Receive(ctx); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("receive after Close: %v", err)
	}
	if err := a.Wait(ctx); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("wait after Close: %v", err)
	}
	eventually(t, "a is unregistered", func() bool { return s.Stats().Clients == 1 })
}

func TestClientOptions(t *testing.T) {
	for _, o := range []ClientOptions{
		{}, {Address: "http://x", UUID: one}, {Address: "ws://", UUID: one}, {Address: "ws://x"}, {Address: "ws://x", UUID: one, Timeout: -1}, {Address: "ws://x", UUID: one, Name: "\xff"},
	} {
		if c, err := NewClient(o); err == nil {
			c.Close()
			t.Errorf("%+v was taken", o)
		}
	}
	if d := backoff(100); d < maxBackoff*3/4 || d > maxBackoff*5/4 {
		t.Errorf("backoff ends at %v", d)
	}
	for n, total := 0, time.Duration(0); n < 3; n++ {
		if total += backoff(n); total > 2*time.Second {
			t.Errorf("the first %d attempts take %v", n+1, total)
		}
	}
}

// TestRelayRestart: clients come back by themselves, and what is sent meanwhile arrives.
func TestRelayRestart(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	s := serveOn(t, l, ServerOptions{})
	a, b := startClient(t, "ws://"+addr, nil), startClient(t, "ws://"+addr, nil)
	for _, c := range []*Client{a, b} {
		if err := c.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, gracefully := range []bool{true, false} {
		if gracefully {
			if err := s.Shutdown(ctx); err != nil {
				t.Fatal(err)
			}
		} else if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "both notice", func() bool { return !a.State().Connected && !b.State().Connected })
		if err := a.State().Err; !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("state: %v", err)
		}
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		if err := a.Send(short, PeerConnection{PeerUUID: b.o.UUID}); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("send without a relay: %v", err)
		}
		cancel()
		sent := make(chan error, 1)
		go func() { sent <- a.Send(ctx, PeerConnection{PeerUUID: a.o.UUID, Description: "while it is away"}) }()
		if l, err = net.Listen("tcp", addr); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		s = serveOn(t, l, ServerOptions{})
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if err := b.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("healed after %v", time.Since(start))
		if m, err := a.Receive(ctx); err != nil || m.Description != "while it is away" || m.Error != "" {
			t.Errorf("%+v, %v", m, err)
		}
		if err := a.Send(ctx, PeerConnection{PeerUUID: b.o.UUID, Description: "after it"}); err != nil {
			t.Fatal(err)
		}
		if m, err := b.Receive(ctx); err != nil || m.Description != "after it" {
			t.Errorf("%+v, %v", m, err)
		}
	}
}

func TestRefused(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	_, addr := startServer(t, ServerOptions{Authenticator: byName{}})
	header := func(h http.Header) func(context.Context) (http.Header, error) {
		return func(context.Context) (http.Header, error) { return h, nil }
	}
	t.Run("without credentials", func(t *testing.T) {
		c := startClient(t, "ws://"+addr, nil)
		for _, err := range []error{c.Wait(ctx), c.Send(ctx, PeerConnection{}), c.State().Err} {
			if !errors.Is(err, transport.ErrDenied) || !strings.Contains(err.Error(), "proxystore-globus-auth login") || !strings.Contains(err.Error(), "UnauthorizedError") {
				t.Errorf("%v", err)
			}
		}
		if _, err := c.Receive(ctx); !errors.Is(err, transport.ErrDenied) {
			t.Errorf("%v", err)
		}
		if !c.State().Final {
			t.Error("not final")
		}
	})
	t.Run("with bad credentials", func(t *testing.T) {
		c := startClient(t, "ws://"+addr, func(o *ClientOptions) { o.Header = header(userHeader("bad")) })
		eventually(t, "refused", func() bool { return errors.Is(c.State().Err, transport.ErrDenied) })
		if c.State().Final {
			t.Error("final, although the credentials may become better")
		}
	})
	t.Run("a UUID twice", func(t *testing.T) {
		first := startClient(t, "ws://"+addr, func(o *ClientOptions) { o.Header = header(userHeader("alice")) })
		if err := first.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		second := startClient(t, "ws://"+addr, func(o *ClientOptions) { o.Header, o.UUID = header(userHeader("alice")), first.o.UUID })
		if err := second.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := first.Receive(ctx); err == nil || !strings.Contains(err.Error(), "runs in two places") || !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		if st := first.State(); !st.Final {
			t.Errorf("%+v", st)
		}
		third := startClient(t, "ws://"+addr, func(o *ClientOptions) { o.Header, o.UUID = header(userHeader("bob")), first.o.UUID })
		eventually(t, "refused", func() bool {
			err := third.State().Err
			return err != nil && strings.Contains(err.Error(), "already registered to another user") && strings.Contains(err.Error(), "configure a new endpoint")
		})
	})
}

// pipes is a listener whose connections are net.Pipes, for bubbles of synctest.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }
func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestRetriesOverTime: ever more slowly, with other credentials down to once a minute, and without a relay.
func TestRetriesOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		s, err := NewServer(ServerOptions{Authenticator: byName{}})
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		var asked, dialed atomic.Int64
		c, err := NewClient(ClientOptions{Address: "ws://relay", Name: "x", UUID: one, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialed.Add(1)
			return l.dial(ctx, network, addr)
		}, Header: func(context.Context) (http.Header, error) {
			switch n := asked.Add(1); {
			case n == 1:
				return nil, errors.New("not logged in")
			case n < 20:
				return userHeader("bad"), nil
			default:
				return userHeader("alice"), nil
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if st := c.State(); st.Connected || st.Final || st.Err == nil || asked.Load() != 1 || dialed.Load() != 0 {
			t.Errorf("%+v, asked %d", st, asked.Load())
		}
		time.Sleep(4 * time.Second)
		if asked.Load() != 1 {
			t.Errorf("asked for credentials %d times within 4 s", asked.Load())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if st := c.State(); st.Connected || st.Final || !errors.Is(st.Err, transport.ErrDenied) || asked.Load() != 2 {
			t.Errorf("%+v, asked %d", st, asked.Load())
		}
		time.Sleep(10 * time.Minute)
		if n := asked.Load(); n < 11 || n > 14 {
			t.Errorf("asked for credentials %d times within ten minutes", n)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if st := c.State(); !st.Connected || st.Err != nil {
			t.Errorf("%+v", st)
		}
		time.Sleep(time.Hour) // pings keep it
		if st := c.State(); !st.Connected || time.Since(st.Since) < time.Hour {
			t.Errorf("%+v", st)
		}
		if st := s.Stats(); st.Dead != 0 || st.Clients != 1 {
			t.Errorf("%+v", st)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		dialed.Store(0)
		time.Sleep(time.Second)
		if n := dialed.Load(); n < 3 || n > 6 {
			t.Errorf("%d attempts in the first second", n)
		}
		time.Sleep(time.Hour - time.Second)
		if n := dialed.Load(); n < 50 || n > 90 {
			t.Errorf("%d attempts in the first hour", n)
		}
		if st := c.State(); st.Connected || st.Final || !errors.Is(st.Err, transport.ErrUnavailable) {
			t.Errorf("%+v", st)
		}
		c.Close()
	})
}

// silentRelay accepts a registration and then says and reads nothing more.
func silentRelay(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wg.Add(1)
		defer wg.Done()
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		if _, _, err := conn.Read(ctx); err != nil {
			return
		}
		if conn.Write(ctx, websocket.MessageText, []byte(golden[1].text)) == nil {
			<-ctx.Done()
		}
	})}
	wg.Go(func() { server.Serve(l) })
	t.Cleanup(func() {
		cancel()
		server.Close()
		wg.Wait()
	})
	return "ws://" + l.Addr().String()
}

func TestSilentRelay(t *testing.T) {
	checkLeaks(t)
	address := silentRelay(t)
	c := startClient(t, address, func(o *ClientOptions) { o.KeepAlive = 50 * time.Millisecond })
	eventually(t, "the silence is noticed", func() bool {
		err := c.State().Err
		return err != nil && strings.Contains(err.Error(), "did not answer a ping")
	})
	patient := startClient(t, address, nil)
	if err := patient.Wait(testContext(t)); err != nil {
		t.Fatal(err)
	}
	patient.Close() // does not wait for ever
}

// TestStrangeRelay: whatever answers, the client says what is wrong and goes on.
func TestStrangeRelay(t *testing.T) {
	checkLeaks(t)
	var mu sync.Mutex
	answer := ""
	var kind websocket.MessageType
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		text, k := answer, kind
		mu.Unlock()
		if text == "404" {
			http.NotFound(w, r)
			return
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		if _, _, err := conn.Read(r.Context()); err == nil {
			conn.Write(r.Context(), k, []byte(text))
			conn.Read(r.Context())
		}
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	defer func() { server.Close(); <-done }()
	for text, want := range map[string]string{
		"404":          "is there a relay at this address?",
		"x":            "unable to decode response message",
		golden[2].text: "failed to register as peer with the relay server",
		golden[3].text: "unexpected message",
	} {
		mu.Lock()
		answer, kind = text, websocket.MessageText
		mu.Unlock()
		c := startClient(t, "ws://"+l.Addr().String(), nil)
		eventually(t, want, func() bool { err := c.State().Err; return err != nil && strings.Contains(err.Error(), want) })
		if c.State().Final {
			t.Errorf("%s: gave up", want)
		}
		c.Close()
	}
}

func TestDroppedMessages(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	_, addr := startServer(t, ServerOptions{})
	c := startClient(t, "ws://"+addr, func(o *ClientOptions) { o.Queue = 2 })
	if err := c.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	raw := dialRaw(t, addr, nil).register(uuid.New())
	for _, text := range []string{"1", "2", "3", "4"} {
		m := raw.offer(c.o.UUID)
		m.Description = text
		raw.send(m)
	}
	eventually(t, "two are dropped", func() bool { return c.State().Dropped == 2 })
	for _, want := range []string{"3", "4"} {
		if m, err := c.Receive(ctx); err != nil || m.Description != want {
			t.Errorf("%+v, %v", m, err)
		}
	}
}

// TestProxy: wss:// goes through the proxy of the environment. That is read once per process, so that the client is another one.
func TestProxy(t *testing.T) {
	if address := os.Getenv("PROXYPLANE_RELAY_TEST_PROXIED"); address != "" {
		cfg, err := ClientTLS(false, "")
		if err != nil {
			t.Fatal(err)
		}
		c := startClient(t, address, func(o *ClientOptions) { o.TLS = cfg })
		if err := c.Wait(testContext(t)); err != nil {
			t.Fatal(err)
		}
		return
	}
	checkLeaks(t)
	certFile, keyFile := writeCertificate(t, t.TempDir(), "relay.invalid")
	cfg, err := ServerTLS(certFile, keyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, addr := startServer(t, ServerOptions{TLS: cfg})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	var connected atomic.Value
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(in)
			request, err := http.ReadRequest(r)
			if err != nil {
				in.Close()
				continue
			}
			connected.Store(request.Method + " " + request.Host)
			out, err := net.Dial("tcp", addr)
			if err != nil {
				in.Close()
				return
			}
			io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
			wg.Go(func() { io.Copy(out, r); out.Close(); in.Close() })
			wg.Go(func() { io.Copy(in, out); out.Close(); in.Close() })
		}
	})
	cmd := exec.Command(os.Args[0], "-test.run", "^TestProxy$")
	cmd.Env = append(os.Environ(), "PROXYPLANE_RELAY_TEST_PROXIED=wss://relay.invalid:8700", "HTTPS_PROXY=http://"+l.Addr().String(), "NO_PROXY=", "no_proxy=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := connected.Load(); got != "CONNECT relay.invalid:8700" {
		t.Errorf("%v", got)
	}
	if st := s.Stats(); st.Registrations != 1 {
		t.Errorf("%+v", st)
	}
}
