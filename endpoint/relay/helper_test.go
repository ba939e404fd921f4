package relay

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
)

// checkLeaks fails the test if it leaves goroutines. It must be called before what it watches is made.
func checkLeaks(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for start := time.Now(); time.Since(start) < 5*time.Second; time.Sleep(5 * time.Millisecond) {
			if runtime.NumGoroutine() <= before {
				return
			}
		}
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
	})
}

// testContext ends a minute after the test should have.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// testLog writes to the test's log.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// startServer runs a server on a loopback port until the test ends, and returns its address as host:port.
func startServer(t testing.TB, o ServerOptions) (*Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, o), l.Addr().String()
}

func serveOn(t testing.TB, l net.Listener, o ServerOptions) *Server {
	t.Helper()
	if o.Logger == nil {
		o.Logger = testLog(t)
	}
	s, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// rawClient is a WebSocket client that knows no protocol.
type rawClient struct {
	t    testing.TB
	ctx  context.Context
	conn *websocket.Conn
	id   uuid.UUID
}

func dialRaw(t testing.TB, addr string, header http.Header) *rawClient {
	t.Helper()
	ctx := testContext(t)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	conn, _, err := websocket.Dial(ctx, "ws://"+addr, &websocket.DialOptions{HTTPHeader: header, HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(-1)
	t.Cleanup(func() { conn.CloseNow() })
	return &rawClient{t: t, ctx: ctx, conn: conn}
}

func (c *rawClient) send(m Message) {
	c.t.Helper()
	data, err := Encode(m)
	if err != nil {
		c.t.Fatal(err)
	}
	c.text(string(data))
}

func (c *rawClient) text(s string) {
	c.t.Helper()
	if err := c.conn.Write(c.ctx, websocket.MessageText, []byte(s)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) receive() Message {
	c.t.Helper()
	_, data, err := c.conn.Read(c.ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	m, err := Decode(data)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

// closed waits for the server to close, and checks how.
func (c *rawClient) closed(code websocket.StatusCode, reason string) {
	c.t.Helper()
	_, data, err := c.conn.Read(c.ctx)
	closed, ok := errors.AsType[websocket.CloseError](err)
	if !ok {
		c.t.Fatalf("got %q, %v; want close code %d", data, err, code)
	}
	if closed.Code != code || !strings.Contains(closed.Reason, reason) {
		c.t.Fatalf("closed with %d %q, want %d %q", closed.Code, closed.Reason, code, reason)
	}
}

func (c *rawClient) register(id uuid.UUID) *rawClient {
	c.t.Helper()
	c.id = id
	c.send(Registration{Name: "raw", UUID: id})
	if m := c.receive(); m != (Response{Success: true}) {
		c.t.Fatalf("registration: %+v", m)
	}
	return c
}

func (c *rawClient) offer(to uuid.UUID) PeerConnection {
	return PeerConnection{SourceUUID: c.id, SourceName: "raw", PeerUUID: to, DescriptionType: "offer", Description: "v=0\r\n é𝄞"}
}

// userHeader authenticates with byName.
func userHeader(name string) http.Header { return http.Header{"Authorization": {"Bearer " + name}} }

// byName is an authenticator for which the token is the user's name.
type byName struct{}

func (byName) Authenticate(_ context.Context, h http.Header) (User, error) {
	token, err := bearer(h)
	switch token {
	case "bad":
		return User{}, &ForbiddenError{"Token is expired or has been revoked."}
	case "broken":
		return User{}, errors.New("no answer")
	}
	return User{ID: token, Name: token}, err
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for start := time.Now(); time.Since(start) < 30*time.Second; time.Sleep(2 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}
