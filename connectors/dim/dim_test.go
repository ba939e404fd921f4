package dim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

func put(t testing.TB, c connectors.Connector, data string) connectors.DIMKey {
	t.Helper()
	key, err := c.Put(t.Context(), transport.Slices{[]byte(data)})
	if err != nil {
		t.Fatal(err)
	}
	return key.(connectors.DIMKey)
}

func holds(t testing.TB, c connectors.Connector, key connectors.Key, want string) {
	t.Helper()
	b, err := c.Get(t.Context(), key)
	if err != nil || string(b.Bytes()) != want {
		t.Errorf("Get: %v", err)
	}
	b.Release()
}

// fails checks an error's sentinel and some of its words.
func fails(t testing.TB, err, sentinel error, words ...string) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Errorf("%v; want one that is %q", err, sentinel)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q says nothing of %q", err, w)
		}
	}
}

// try opens a connector that may fail.
func (n *network) try(t testing.TB, opts Options) (*Connector, error) {
	opts.loopback = true
	c, err := New(t.Context(), n.transport(), opts, nil, config)
	if err == nil {
		t.Cleanup(func() { c.Close(context.Background()) })
	}
	return c, err
}

// TestServerOfTheNode: it is used if it answers, else started, shared within the process, and ends with the last who uses it.
func TestServerOfTheNode(t *testing.T) {
	n := newNetwork()
	_, table := n.serve(t, 5001)
	c := n.open(t, Options{Port: 5001})
	key := put(t, c, "elsewhere")
	if addr, inside := c.Address(); inside || addr != "127.0.0.1:5001" || table.Stats().Objects != 1 {
		t.Errorf("the server that is there is not used: %s, %v", addr, inside)
	}
	if want := (connectors.DIMKey{DIMType: "zmq", ObjID: key.ObjID, Size: 9, PeerHost: "127.0.0.1", PeerPort: 5001}); key != want {
		t.Errorf("key %v, want %v", key, want)
	}

	a, b := n.open(t, Options{Port: 5002}), n.open(t, Options{Port: 5002})
	if _, inside := b.Address(); !inside || a.node != b.node {
		t.Error("two connectors of a process with one address have not one server")
	}
	key = put(t, a, "shared")
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	holds(t, b, key, "shared")
	holds(t, c, key, "shared") // over the network
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := c.Get(t.Context(), key)
	fails(t, err, connectors.ErrUnavailable, "127.0.0.1:5002")

	// A port that the system picks: key and configuration have the real one.
	d := n.open(t, Options{})
	key = put(t, d, "anywhere")
	if port := d.Config().Options["port"]; port != key.PeerPort || key.PeerPort == 0 {
		t.Errorf("port %v in the configuration, %d in the key", port, key.PeerPort)
	}
	again, err := n.registry().Open(t.Context(), d.Config(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(t.Context())
	if again.(*Connector).node != d.node {
		t.Error("the configuration with the real port opens another server")
	}
	holds(t, again, key, "anywhere")
	holds(t, c, key, "anywhere")
}

func TestKeptServer(t *testing.T) {
	n := newNetwork()
	tr := n.transport()
	tr.KeepServer = true
	open := func() *Connector {
		c, err := New(t.Context(), tr, Options{Address: "127.0.0.1", Port: 5010}, nil, config)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := open()
	key := put(t, c, "kept")
	c.Close(t.Context())
	c = open()
	holds(t, c, key, "kept")
	if err := StopServers(t.Context()); err != nil {
		t.Error(err)
	}
	_, err := c.Get(t.Context(), key)
	fails(t, err, connectors.ErrUnavailable, "has ended")
	c.Close(t.Context())
	if len(n.servers) > 0 {
		t.Errorf("%d servers are left", len(n.servers))
	}
}

// TestOpenFails: each message says what to do next.
func TestOpenFails(t *testing.T) {
	n := newNetwork()
	_, err := n.open(t, Options{Port: 5020, ConnectOnly: true}).Put(t.Context(), nil)
	fails(t, err, connectors.ErrUnavailable, "proxyplane serve --transport zmq", "connect_only")
	_, err = n.open(t, Options{ConnectOnly: true}).Put(t.Context(), nil)
	fails(t, err, connectors.ErrConfig, "port is 0")
	_, err = n.try(t, Options{Address: "192.0.2.1", Port: 5020})
	fails(t, err, connectors.ErrUnavailable, "no address of this machine", "proxyplane serve")
	_, err = n.try(t, Options{Address: "0.0.0.0", Port: 5020})
	fails(t, err, connectors.ErrConfig, "option interface")
	_, err = n.try(t, Options{Interface: "no-such-interface", Port: 5020})
	fails(t, err, connectors.ErrConfig, "no-such-interface")
	for _, opts := range []Options{{Address: "a b"}, {Address: "[::1]"}, {Address: "unix://relative"}, {Address: "unix:///x", Port: 1}, {Port: 1 << 16},
		{Token: "x", TokenFile: "y"}, {SpillBytes: 1}, {TTL: -1}} {
		_, err = n.try(t, opts)
		fails(t, err, connectors.ErrConfig, "option")
	}

	// Something takes the port and says nothing, or the wrong thing.
	n.servers["127.0.0.1:5021"] = &server{}
	_, err = n.try(t, Options{Port: 5021, Timeout: time.Millisecond})
	fails(t, err, connectors.ErrUnavailable, "127.0.0.1:5021 is taken by something", "set another port")
	for sentinel, words := range map[error]string{connectors.ErrCorrupt: "no zmq object server", connectors.ErrDenied: "option token"} {
		wrong := fmt.Errorf("dial: %w", sentinel)
		n.refuse.Store(&wrong)
		_, err = n.try(t, Options{Port: 5021})
		fails(t, err, sentinel, words, "127.0.0.1:5021")
		n.refuse.Store(nil)
	}

	// This process has a server there, with another token.
	n.open(t, Options{Port: 5022})
	tr := n.transport()
	tr.Scope = Scope("token")
	c, err := New(t.Context(), tr, Options{Address: "127.0.0.1", Port: 5022, Token: "x"}, nil, config)
	if err != nil { // the network would refuse; this one does not ask for tokens
		t.Fatal(err)
	}
	if c.node != nil {
		t.Error("a connector with another token got into the server past the network")
	}
	c.Close(t.Context())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(ctx, n.transport(), Options{Address: "127.0.0.1", Port: 5023}, nil, config); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
}

// TestStartRace: another process takes the port between the look and the start.
func TestStartRace(t *testing.T) {
	n := newNetwork()
	tr := n.transport()
	first := true
	tr.Listen = func(ctx context.Context, host string, port int, store objects.Store) (objects.Server, error) {
		if first {
			first = false
			n.serve(t, port)
		}
		return n.listen(ctx, host, port, store)
	}
	c, err := New(t.Context(), tr, Options{Address: "127.0.0.1", Port: 5030}, nil, config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if _, inside := c.Address(); inside {
		t.Error("two servers at one address")
	}
	holds(t, c, put(t, c, "x"), "x")
}

// TestStartTogether: connectors of one process that open at the same time start one server, also when the first gives up.
func TestStartTogether(t *testing.T) {
	n := newNetwork()
	tr := n.transport()
	began, listens := make(chan struct{}), atomic.Int32{}
	tr.Listen = func(ctx context.Context, host string, port int, store objects.Store) (objects.Server, error) {
		if listens.Add(1) == 1 {
			close(began)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return n.listen(ctx, host, port, store)
	}
	opts := Options{Address: "127.0.0.1", Port: 5031}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := New(ctx, tr, opts, nil, config); !errors.Is(err, context.Canceled) {
			t.Errorf("the one that gave up: %v", err)
		}
	})
	<-began
	for range 8 {
		wg.Go(func() {
			c, err := New(t.Context(), tr, opts, nil, config)
			if err != nil {
				t.Error(err)
				return
			}
			put(t, c, "x")
			if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	cancel()
	wg.Wait()
	if len(n.servers) > 0 {
		t.Errorf("%d servers are left", len(n.servers))
	}
}

// TestReceived: a stranger's configuration starts nothing and goes only where it may.
func TestReceived(t *testing.T) {
	n := newNetwork()
	own := n.open(t, Options{Port: 5040})
	key := put(t, own, "object")
	var mu sync.Mutex
	var asked []connectors.Location
	errNo := fmt.Errorf("%w: not that host", connectors.ErrDenied)
	open := func(opts map[string]any, allow bool) *Connector {
		asked = nil
		c, err := n.registry().Open(t.Context(), connectors.Config{Kind: "zmq", Options: opts}, &connectors.Env{Received: true,
			Confirm: func(l connectors.Location) error {
				mu.Lock()
				defer mu.Unlock()
				if asked = append(asked, l); allow {
					return nil
				}
				return errNo
			}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(context.Background()) })
		return c.(*Connector)
	}
	opts := map[string]any{"port": int64(5041), "address": "127.0.0.1"}
	c := open(opts, false)
	before := n.dials.Load()
	_, err := c.Get(t.Context(), key)
	fails(t, err, errNo)
	if n.dials.Load() != before || len(asked) != 1 || asked[0] != (connectors.Location{Kind: "zmq", Host: "127.0.0.1"}) {
		t.Errorf("%d dials, asked about %v", n.dials.Load()-before, asked)
	}
	if connectors.Retryable(err) {
		t.Error("a refusal of the policy can be tried again")
	}
	c = open(opts, true)
	holds(t, c, key, "object")
	if c.node != nil {
		t.Error("a received configuration sees the process's own server")
	}
	_, err = c.Put(t.Context(), transport.Slices{[]byte("x")})
	fails(t, err, connectors.ErrUnavailable)
	if n.servers["127.0.0.1:5041"] != nil {
		t.Error("a received configuration started a server")
	}
	n.serve(t, 5041) // now there is one
	holds(t, c, put(t, c, "more"), "more")
	c = open(map[string]any{"port": int64(0)}, true)
	_, err = c.Put(t.Context(), transport.Slices{[]byte("x")})
	fails(t, err, connectors.ErrConfig)

	out, err := n.registry().Travelling(connectors.Config{Kind: "zmq", Options: map[string]any{"port": int64(1), "token": "secret", "connect_only": true}}, false)
	if err != nil || len(out.Options) != 1 {
		t.Errorf("what travels: %v, %v", out.Options, err)
	}
	places, err := n.registry().Locations(connectors.Config{Kind: "zmq", Options: map[string]any{"address": "10.0.0.1", "port": int64(1), "token_file": "/t"}}, nil)
	if err != nil || len(places) != 2 || places[0].Host != "10.0.0.1" || places[1].File != "/t" {
		t.Errorf("locations: %v, %v", places, err)
	}
	if at := (peer{host: "unix:///run/x"}).location("tcp"); at != (connectors.Location{Kind: "tcp", Dir: "/run/x"}) {
		t.Errorf("location of a unix socket: %v", at)
	}
}

// TestBrokenConnections: calls are repeated, readers go on, and whatever fails says so.
func TestBrokenConnections(t *testing.T) {
	n := newNetwork()
	s, table := n.serve(t, 5050)
	c := n.open(t, Options{Port: 5050, Connections: 1})
	key := put(t, c, "object")
	n.cut.Store(2)
	for range 20 {
		holds(t, c, key, "object")
	}
	n.cut.Store(1)
	_, err := c.Get(t.Context(), key)
	fails(t, err, connectors.ErrUnavailable, "cut", "127.0.0.1:5050")
	n.cut.Store(0)

	data := strings.Repeat("0123456789", 100_000)
	big := put(t, c, data)
	n.cut.Store(4)
	r, err := c.GetStream(t.Context(), big)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != data {
		t.Errorf("a Reader whose connections break: %d bytes, %v", len(got), err)
	}
	n.cut.Store(0)
	for what, change := range map[string]func(){"replaced": func() { c.Set(t.Context(), big, transport.Slices{[]byte(data)}) },
		"evicted": func() { c.Evict(t.Context(), big) }} {
		r, err := c.GetStream(t.Context(), big)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		change()
		if rest, err := io.ReadAll(io.LimitReader(r, 5000)); err != nil || !strings.HasPrefix(data[1000:], string(rest)) {
			t.Errorf("an object that is %s while it is read: %v", what, err)
		}
		r.(*reader).cn.client.(*client).end(errCut)
		_, err = io.ReadAll(r)
		fails(t, err, connectors.ErrUnavailable, "replaced or evicted")
		r.Close()
		c.Set(t.Context(), big, transport.Slices{[]byte(data)})
	}

	w, err := c.PutStream(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	before := table.Stats().Objects
	w.(*writer).cn.client.(*client).end(errCut)
	_, err = w.Write([]byte("x"))
	fails(t, err, connectors.ErrUnavailable)
	_, err = w.Commit()
	fails(t, err, connectors.ErrUnavailable)
	w.Abort()
	if after := table.Stats().Objects; after != before {
		t.Errorf("%d objects, %d before", after, before)
	}

	s.Close()
	_, err = c.Get(t.Context(), key)
	fails(t, err, connectors.ErrUnavailable, "127.0.0.1:5050")
	if !connectors.Retryable(err) {
		t.Error("a server that is down is not worth another try")
	}
	n.serve(t, 5050) // anew, without its objects
	_, err = c.Get(t.Context(), key)
	fails(t, err, connectors.ErrNotFound, "started anew")
	key = put(t, c, "again")
	holds(t, c, key, "again")
	c.Close(t.Context())
	if left := n.clients.Load(); left != 0 {
		t.Errorf("%d connections are open after Close", left)
	}
}

// TestDials: many calls wait for one dial, one's context is nobody else's, and a server that is down is not dialed all the time.
func TestDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.serve(t, 5060)
		n.serve(t, 5061)
		c := n.open(t, Options{Port: 5060})
		key := put(t, n.open(t, Options{Port: 5061}), "x")

		before := n.dials.Load()
		down := fmt.Errorf("%w: %w", transport.ErrUnavailable, syscall.ECONNREFUSED)
		n.refuse.Store(&down)
		for range 100 {
			_, err := c.Get(t.Context(), key)
			fails(t, err, connectors.ErrUnavailable, "refused")
		}
		if dials, took := n.dials.Load()-before, time.Duration(0); dials != 100 || took > 0 {
			t.Errorf("%d dials", dials)
		}
		began := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { c.Get(t.Context(), key) })
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Get(ctx, key); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call with a deadline: %v", err)
		}
		wg.Wait()
		if dials := n.dials.Load() - before; dials != 101 || time.Since(began) != maxPause {
			t.Errorf("%d dials for 100 calls at once, after %v", dials-100, time.Since(began))
		}
		n.refuse.Store(nil)
		holds(t, c, key, "x")

		// What is not used is closed.
		if n.clients.Load() != 3 {
			t.Errorf("%d connections", n.clients.Load())
		}
		time.Sleep(3 * idleAfter)
		synctest.Wait()
		if n.clients.Load() != 0 {
			t.Errorf("%d connections after %v without use", n.clients.Load(), 3*idleAfter)
		}
		holds(t, c, key, "x")
	})
}

// TestPeers: keys may name any number of servers, and connections are bounded.
func TestPeers(t *testing.T) {
	n := newNetwork()
	c := n.open(t, Options{Port: 5070})
	keys := make([]connectors.Key, 2*maxPeers)
	for i := range keys {
		s, table := n.serve(t, 0)
		b := transport.FromBytes([]byte(s.addr))
		if err := table.Put("x", b, objects.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		var port int64
		fmt.Sscanf(s.addr, "127.0.0.1:%d", &port)
		keys[i] = connectors.DIMKey{DIMType: "zmq", ObjID: "x", PeerHost: "127.0.0.1", PeerPort: port}
	}
	for range 2 {
		bufs, err := c.GetBatch(t.Context(), keys)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range bufs {
			if !strings.HasSuffix(string(b.Bytes()), fmt.Sprint(keys[i].(connectors.DIMKey).PeerPort)) {
				t.Errorf("key %d: %s", i, b.Bytes())
			}
			b.Release()
		}
	}
	if len(c.pool.hosts) > maxPeers {
		t.Errorf("%d peers", len(c.pool.hosts))
	}
	var readers []connectors.Reader
	for _, key := range keys[:maxPeers] {
		r, err := c.GetStream(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		readers = append(readers, r)
	}
	_, err := c.Get(t.Context(), keys[maxPeers])
	fails(t, err, connectors.ErrUnavailable, fmt.Sprint(maxPeers, " servers"))
	for _, r := range readers {
		r.Close()
	}
	if _, err := c.Exists(t.Context(), keys[maxPeers]); err != nil {
		t.Error(err)
	}
}

// TestFull: the server's refusal says what to do, and a batch that fails leaves nothing.
func TestFull(t *testing.T) {
	n := newNetwork()
	c := n.open(t, Options{Port: 5080, Memory: 1 << 20, MaxObject: 700 << 10})
	half := bytes.Repeat([]byte("x"), 600<<10)
	_, err := c.PutBatch(t.Context(), []transport.Slices{{[]byte("a")}, {half}, {half}, {[]byte("b")}})
	fails(t, err, connectors.ErrFull, "spill-dir", "--memory")
	if n := c.node.store.Store.(*objects.Table).Stats().Objects; n != 0 {
		t.Errorf("%d objects of a batch that failed are left", n)
	}
	_, err = c.Put(t.Context(), transport.Slices{half, half})
	fails(t, err, connectors.ErrTooLarge)
	_, err = c.PutStream(t.Context(), 1<<40)
	fails(t, err, connectors.ErrTooLarge)
}

func TestTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.serve(t, 5090)
		c := n.open(t, Options{Port: 5090, TTL: time.Minute})
		key := put(t, c, "x")
		holds(t, c, key, "x")
		time.Sleep(2 * time.Minute)
		if ok, err := c.Exists(t.Context(), key); ok || err != nil {
			t.Errorf("after its time: %v, %v", ok, err)
		}
	})
}

// TestCloseCutsOff: a Close whose context ends does not wait for a server that hangs.
func TestCloseCutsOff(t *testing.T) {
	n := newNetwork()
	c := n.open(t, Options{Port: 5095})
	n.servers["127.0.0.1:5096"] = &server{}
	done := make(chan error)
	go func() {
		_, err := c.Get(context.Background(), connectors.DIMKey{DIMType: "zmq", ObjID: "x", PeerHost: "127.0.0.1", PeerPort: 5096})
		done <- err
	}()
	for n.dials.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v", err)
	}
	fails(t, <-done, connectors.ErrClosed)
	if len(n.servers) != 1 {
		t.Error("the server goes on after its last connector")
	}
}
