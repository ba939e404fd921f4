package peer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/relay"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport"
)

// relayServer is a relay of ours that can be restarted at the same address.
type relayServer struct {
	t    testing.TB
	addr string
	s    *relay.Server
	auth relay.Authenticator
}

func startRelay(t testing.TB, auth relay.Authenticator) *relayServer {
	t.Helper()
	r := &relayServer{t: t, addr: "127.0.0.1:0", auth: auth}
	r.start()
	t.Cleanup(func() { r.s.Close() })
	return r
}

func (r *relayServer) start() {
	r.t.Helper()
	var l net.Listener
	until(r.t, "the relay's address is free", func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", r.addr)
		return err == nil
	})
	r.addr = l.Addr().String()
	var err error
	if r.s, err = relay.NewServer(relay.ServerOptions{Authenticator: r.auth, Logger: logger(r.t, "relay")}); err != nil {
		r.t.Fatal(err)
	}
	go r.s.Serve(l)
}

func (r *relayServer) client(id uuid.UUID) *relay.Client {
	r.t.Helper()
	c, err := relay.NewClient(relay.ClientOptions{Address: "ws://" + r.addr, Name: "go", UUID: id, Logger: logger(r.t, "client")})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// python is a real ProxyStore endpoint.
type python struct {
	t    testing.TB
	id   uuid.UUID
	in   *os.File
	cmd  *exec.Cmd
	log  *bytes.Buffer
	gone chan struct{} // closed when the process has ended

	mu      sync.Mutex
	next    int
	waiting map[int]chan response
}

type request struct {
	ID       int    `json:"id"`
	Op       string `json:"op"`
	Key      string `json:"key,omitempty"`
	Size     int    `json:"size,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
}

type response struct {
	ID     int    `json:"id"`
	Size   int    `json:"size"`
	SHA    string `json:"sha"`
	Exists bool   `json:"exists"`
	Error  string `json:"error"`
}

// startPython starts testdata/endpoint.py and waits until it is registered.
func startPython(t testing.TB, relay string, id uuid.UUID, channels int) *python {
	t.Helper()
	p := &python{t: t, id: id, log: &bytes.Buffer{}, gone: make(chan struct{}), waiting: map[int]chan response{}, next: 1}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in = w
	p.cmd = exec.Command(testenv.Python(t, testenv.ProxyStore11), "-W", "ignore", filepath.Join("testdata", "endpoint.py"), "ws://"+relay, id.String(), fmt.Sprint(channels))
	p.cmd.Stdin, p.cmd.Stderr = r, p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ready := p.expect(0)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	go func() {
		defer close(p.gone)
		defer p.cmd.Wait()
		for s := bufio.NewScanner(out); s.Scan(); {
			var a response
			if err := json.Unmarshal(s.Bytes(), &a); err != nil {
				continue
			}
			p.mu.Lock()
			c := p.waiting[a.ID]
			delete(p.waiting, a.ID)
			p.mu.Unlock()
			if c != nil {
				c <- a
			}
		}
	}()
	t.Cleanup(func() {
		p.in.Close()
		select {
		case <-p.gone:
		case <-time.NewTimer(5 * time.Second).C:
			p.cmd.Process.Kill()
			<-p.gone
		}
		if t.Failed() {
			t.Logf("Python said:\n%s", p.log)
		}
	})
	select {
	case <-ready:
	case <-p.gone:
		t.Fatalf("Python ended")
	}
	return p
}

func (p *python) expect(id int) chan response {
	c := make(chan response, 1)
	p.mu.Lock()
	p.waiting[id] = c
	p.mu.Unlock()
	return c
}

func (p *python) start(q request) chan response {
	p.mu.Lock()
	q.ID = p.next
	p.next++
	p.mu.Unlock()
	c := p.expect(q.ID)
	b, _ := json.Marshal(q)
	if _, err := p.in.Write(append(b, '\n')); err != nil {
		p.t.Fatalf("Python: %v", err)
	}
	return c
}

func (p *python) do(q request) response {
	p.t.Helper()
	select {
	case a := <-p.start(q):
		return a
	case <-p.gone:
		p.t.Fatalf("Python died at %+v", q)
	case <-time.NewTimer(time.Minute).C:
		p.t.Fatalf("Python does not answer %+v", q)
	}
	return response{}
}

func (p *python) kill() {
	p.cmd.Process.Kill()
	<-p.gone
}

func (p *python) alive() bool {
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

func sha(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// sizes are of the objects that go to and from Python's endpoint.
func sizes(large int) []int { return []int{1, 32 << 10, 100_000, large} }

// ours asks for everything of Python's endpoint.
func askPython(t *testing.T, ctx context.Context, n *node, py *python, large int) {
	t.Helper()
	for _, size := range sizes(large) {
		key := fmt.Sprint("py-", size)
		want := py.do(request{Op: "set", Key: key, Size: size})
		got := get(t, ctx, n, py.id, key, 0, -1)
		if sha(got) != want.SHA {
			t.Fatalf("%d bytes differ", size)
		}
		if size == 100_000 {
			if part := get(t, ctx, n, py.id, key, 3, 5); !bytes.Equal(part, got[3:8]) {
				t.Fatal("range differs")
			}
		}
		key = fmt.Sprint("up-", size)
		b := content(size)
		if err := n.Put(ctx, py.id, key, int64(size), bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		if a := py.do(request{Op: "get", Key: key}); a.SHA != sha(b) {
			t.Fatalf("%d bytes put differ: %+v", size, a)
		}
		if ok, err := n.Exists(ctx, py.id, key); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if size < 1e6 {
			if info, err := n.Stat(ctx, py.id, key); info.Size != int64(size) || err != nil {
				t.Fatal(info, err)
			}
		}
		if err := n.Evict(ctx, py.id, key); err != nil {
			t.Fatal(err)
		}
		if ok, err := n.Exists(ctx, py.id, key); ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if _, err := tryGet(ctx, n, py.id, "missing", 0, -1); !errors.Is(err, transport.ErrNotFound) {
		t.Fatal(err)
	}
}

// askOurs has Python's endpoint ask for everything of ours.
func askOurs(t *testing.T, py *python, n *node, large int) {
	t.Helper()
	for _, size := range sizes(large) {
		key := fmt.Sprint("go-", size)
		b := n.put(t, key, size)
		if a := py.do(request{Op: "get", Key: key, Endpoint: n.id.String()}); a.SHA != sha(b) {
			t.Fatalf("%d bytes differ: %+v", size, a)
		}
		key = fmt.Sprint("in-", size)
		want := py.do(request{Op: "set", Key: key, Size: size, Endpoint: n.id.String()})
		got, err := n.store.Get(key)
		if err != nil || sha(got.Bytes()) != want.SHA {
			t.Fatalf("%d bytes differ: %v %+v", size, err, want)
		}
		got.Release()
		if a := py.do(request{Op: "exists", Key: key, Endpoint: n.id.String()}); !a.Exists {
			t.Fatalf("%+v", a)
		}
		py.do(request{Op: "evict", Key: key, Endpoint: n.id.String()})
		if n.store.Exists(key) {
			t.Fatal("not evicted")
		}
	}
	if a := py.do(request{Op: "get", Key: "missing", Endpoint: n.id.String()}); a.Size != -1 || a.Error != "" {
		t.Fatalf("%+v", a)
	}
}

// A real Python endpoint over our relay: whoever offers, requests go both ways on the connection. Then it closes the connection, is asked again, is killed and
// replaced, and at the end sees us go.
func TestPython(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		offerer  bool
		channels int
		large    int // size of the largest object
	}{{"we offer", true, 3, largePython}, {"Python offers", false, 2, 1_000_000}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			began := time.Now()
			step := func(what string) { t.Logf("%s after %v", what, time.Since(began)) }
			r := startRelay(t, nil)
			id := uuid.New()
			n := newNode(t, r.client(id), id, func(o *Options) {
				o.Channels = tc.channels
				o.Listen = ":0" // Python offers no loopback addresses
			})
			py := startPython(t, r.addr, uuid.New(), tc.channels)
			if tc.offerer {
				askPython(t, ctx, n, py, tc.large)
				askOurs(t, py, n, tc.large)
			} else {
				askOurs(t, py, n, tc.large)
				askPython(t, ctx, n, py, tc.large)
			}
			step("asked both ways")
			s := n.peer(py.id)
			if s.Dialect != DialectProxyStore || s.State != StateConnected || s.Name != "python" || len(s.Paths) != 1 || s.Paths[0].Kind != "webrtc" || s.BytesIn < int64(tc.large) || s.BytesOut < int64(tc.large) {
				t.Errorf("status %+v", s)
			}
			// It closes, and we ask again.
			py.do(request{Op: "set", Key: "k", Size: 5})
			py.do(request{Op: "disconnect", Endpoint: n.id.String()})
			if ok, err := n.Exists(ctx, py.id, "k"); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if !py.alive() {
				t.Fatal("Python is dead")
			}
			if !tc.offerer {
				return
			}
			step("reconnected")
			// It is killed, and another one takes its place, which asks us.
			py.kill()
			py = startPython(t, r.addr, py.id, 1)
			n.put(t, "mine", 10)
			if a := py.do(request{Op: "exists", Key: "mine", Endpoint: n.id.String()}); !a.Exists {
				t.Fatalf("%+v", a)
			}
			py.do(request{Op: "set", Key: "k", Size: 5})
			if ok, err := n.Exists(ctx, py.id, "k"); !ok || err != nil {
				t.Fatal(ok, err)
			}
			step("replaced")
			// It must survive that we go.
			n.Close()
			if py.do(request{Op: "exists", Key: "k"}); !py.alive() {
				t.Fatal("Python is dead")
			}
		})
	}
}

// crossing is a relay client whose first offer leaves when the peer's is on its way.
type crossing struct {
	*relay.Client
	once     sync.Once
	came, ok chan struct{}
}

func (c *crossing) Send(ctx context.Context, m relay.PeerConnection) (err error) {
	if m.DescriptionType == "offer" {
		c.once.Do(func() {
			<-c.came
			err = c.Client.Send(context.Background(), m)
			close(c.ok)
			time.Sleep(100 * time.Millisecond) // that it has arrived cannot be seen from here
		})
		select {
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
	}
	return c.Client.Send(ctx, m)
}

func (c *crossing) Receive(ctx context.Context) (relay.PeerConnection, error) {
	m, err := c.Client.Receive(ctx)
	if err == nil && m.DescriptionType == "offer" {
		select {
		case <-c.came:
		default:
			close(c.came)
			<-c.ok
		}
	}
	return m, err
}

// Offers that cross end a stock Python endpoint, whatever we do. When it is back, all is well, and our request was not in vain.
func TestPythonGlare(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	r := startRelay(t, nil)
	id := uuid.New()
	c := &crossing{Client: r.client(id), came: make(chan struct{}), ok: make(chan struct{})}
	n := newNode(t, c, id, func(o *Options) { o.Listen, o.Timeout = ":0", time.Minute })
	py := startPython(t, r.addr, uuid.New(), 1)
	done := make(chan error, 1)
	go func() {
		_, err := n.Exists(ctx, py.id, "k")
		done <- err
	}()
	until(t, "our offer is ready", func() bool { return strings.Contains(n.peer(py.id).Detail, "relay") })
	py.start(request{Op: "get", Key: "k", Endpoint: id.String()})
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
		t.Log("Python has survived")
		return
	case <-py.gone:
	}
	startPython(t, r.addr, py.id, 1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
