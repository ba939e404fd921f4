package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/relay"
	"github.com/proxyplane/proxyplane/transport"
)

func wantErr(t *testing.T, err, is error, texts ...string) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Fatalf("error %v is not %v", err, is)
	}
	for _, s := range texts {
		if !strings.Contains(err.Error(), s) {
			t.Fatalf("error %q does not say %q", err, s)
		}
	}
}

// A peer that the relay does not know is refused at once, however young the relay connection is.
func TestUnknownPeer(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	h, a, _ := pair(t, nil)
	h.setDown(false)
	unknown := uuid.New()
	_, err := a.Exists(ctx, unknown, "k")
	wantErr(t, err, transport.ErrUnavailable, "not registered", "is the peer's endpoint running")
	if n := h.count("offer", a.id, unknown); n != 1 {
		t.Errorf("it was tried %d times", n)
	}
	if _, err := a.Exists(ctx, a.id, "k"); err == nil {
		t.Fatal("an endpoint is its own peer")
	}
	for _, s := range a.Status().Peers {
		if s.State != StateFailed || s.Error == "" {
			t.Errorf("%+v", s)
		}
	}
}

// An offer that was refused, as the peer had not registered, does not count as crossing the offer that the peer makes right then.
func TestRefusedThenOffered(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	h, a, b := pair(t, nil)
	b.put(t, "k", 10)
	a.put(t, "k", 10)
	h.mu.Lock()
	h.filter = func(m relay.PeerConnection) bool { return m.DescriptionType != "offer" }
	h.mu.Unlock()
	first, second := make(chan error, 1), make(chan error, 1)
	ask := func(from, to *node, errs chan<- error) {
		_, err := from.Exists(ctx, to.id, "k")
		errs <- err
	}
	go ask(a, b, first)
	go ask(b, a, second)
	until(t, "both have made offers", func() bool { return h.count("offer", a.id, b.id) > 0 && h.count("offer", b.id, a.id) > 0 })
	h.mu.Lock()
	refused, offer := h.held[0], h.held[1]
	if refused.SourceUUID != a.id {
		refused, offer = offer, refused
	}
	refused.Error = "Cannot forward peer connection message to peer " + b.id.String() + " because this peer is not registered this relay server."
	h.held, h.filter = nil, nil
	h.clients[a.id].in <- refused
	h.clients[a.id].in <- offer
	h.mu.Unlock()
	began := time.Now()
	if err := <-first; err != nil && !strings.Contains(err.Error(), "not registered") { // which it was
		t.Error(err)
	}
	if err := <-second; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// After the relay was lost peers get the time to register again.
func TestUnknownYet(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	h, a, _ := pair(t, nil)
	if _, err := a.Exists(ctx, uuid.New(), "k"); err == nil {
		t.Fatal("an unknown peer answers")
	}
	h.setDown(true)
	h.setDown(false)
	id := uuid.New()
	done := make(chan error, 1)
	go func() {
		_, err := a.Exists(ctx, id, "k")
		done <- err
	}()
	until(t, "it was refused, and tried again", func() bool { return h.count("offer", a.id, id) > 1 })
	newNode(t, h.client(id), id, nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Without a relay requests wait for it, as long as they may; then they say so. When it comes back in time, all is well.
func TestRelayDown(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	h, a, b := pair(t, func(o *Options) { o.Timeout = 400 * time.Millisecond })
	b.put(t, "k", 10)
	h.setDown(true)
	_, err := a.Exists(ctx, b.id, "k")
	wantErr(t, err, transport.ErrUnavailable, "relay not connected", "connection refused")
	a.o.Timeout = 20 * time.Second
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := a.Exists(ctx, b.id, "k")
		done <- err
	}()
	if _, err := a.Exists(short, b.id, "k"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	h.setDown(false)
	if err := <-done; err != nil { // the attempt is not the impatient caller's
		t.Fatal(err)
	}
}

// A message that was lost with the relay is sent again when that is back.
func TestLostOffer(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	h, a, b := pair(t, nil)
	b.put(t, "k", 10)
	lost := make(chan struct{}, 1)
	h.filter = func(relay.PeerConnection) bool {
		select {
		case lost <- struct{}{}:
		default:
		}
		return false
	}
	done := make(chan error, 1)
	go func() {
		_, err := a.Exists(ctx, b.id, "k")
		done <- err
	}()
	<-lost
	h.mu.Lock()
	h.filter, h.held = nil, nil
	h.mu.Unlock()
	h.setDown(true)
	h.setDown(false)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Offers that cross. Both sides must get what they asked for, over one connection.
func TestGlare(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	h, a, b := pair(t, nil)
	a.put(t, "k", 10)
	b.put(t, "k", 10)
	var mu sync.Mutex
	offers := 0
	both := make(chan struct{})
	h.filter = func(m relay.PeerConnection) bool {
		mu.Lock()
		defer mu.Unlock()
		if m.DescriptionType != "offer" {
			return true
		}
		if offers++; offers == 2 {
			close(both)
		}
		return false
	}
	done := make(chan error, 2)
	for _, n := range []*node{a, b} {
		other := a.id
		if n == a {
			other = b.id
		}
		go func() {
			ok, err := n.Exists(ctx, other, "k")
			if err == nil && !ok {
				err = errors.New("not there")
			}
			done <- err
		}()
	}
	<-both
	h.letGo()
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := h.count("answer", a.id, b.id); n != 0 {
		t.Errorf("the winner has answered %d times", n)
	}
	if n := h.count("offer", b.id, a.id); n != 1 {
		t.Errorf("the loser has offered %d times", n)
	}
}

// Offers that cross, of which the winner's is lost: the winner sends it again when it sees the loser's.
func TestGlareLost(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	h, a, b := pair(t, nil)
	a.put(t, "k", 10)
	b.put(t, "k", 10)
	lost := make(chan struct{})
	var once sync.Once
	h.filter = func(m relay.PeerConnection) (pass bool) {
		pass = true
		if m.SourceUUID == a.id {
			once.Do(func() { pass = false; close(lost) })
		}
		return pass
	}
	done := make(chan error, 2)
	go func() { _, err := a.Exists(ctx, b.id, "k"); done <- err }()
	<-lost
	go func() { _, err := b.Exists(ctx, a.id, "k"); done <- err }()
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// cutPaths ends all paths of n to the peer, as a broken network does, but at once.
func (n *node) cutPaths(id uuid.UUID) int {
	p := n.find(id)
	p.mu.Lock()
	g := p.cur
	p.mu.Unlock()
	if g == nil {
		return 0
	}
	g.mu.Lock()
	routes := append([]*route(nil), g.routes...)
	g.mu.Unlock()
	for _, r := range routes {
		r.Path.Close()
	}
	return len(routes)
}

// cutter reads and cuts the paths when so many bytes have passed.
type cutter struct {
	io.Reader
	at, n int
	cut   func()
}

func (c *cutter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	if c.n += n; c.cut != nil && c.n >= c.at {
		c.cut()
		c.cut = nil
	}
	return n, err
}

// A path that ends in the middle of a large get and put, by either side's doing.
func TestCut(t *testing.T) {
	for _, tc := range []struct {
		name  string
		kinds Kinds
		relay bool // the relay is there
	}{{"tls", TLS, false}, {"quic", QUIC, false}, {"webrtc", WebRTC, true}} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			ctx := testContext(t)
			h, a, b := pair(t, func(o *Options) { o.Paths = tc.kinds })
			size := large
			if tc.kinds == WebRTC {
				size /= 5
			}
			want := b.put(t, "get", size)
			if err := a.Connect(ctx, b.id); err != nil {
				t.Fatal(err)
			}
			h.setDown(!tc.relay) // known addresses need no relay
			r, err := a.Get(ctx, b.id, "get", 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(&cutter{Reader: struct{ io.Reader }{r}, at: size / 3, cut: func() { a.cutPaths(b.id) }})
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			r.Close()
			body := &cutter{Reader: bytes.NewReader(want), at: size / 3, cut: func() { b.cutPaths(a.id) }}
			if err := a.Put(ctx, b.id, "put", int64(size), body); err != nil {
				t.Fatal(err)
			}
			buf, err := b.store.Get("put")
			if err != nil || !bytes.Equal(buf.Bytes(), want) {
				t.Fatal("what was put differs", err)
			}
			buf.Release()
		})
	}
}

// A peer that comes back as a new instance, with its old one's connection still there.
func TestNewInstance(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	h, a, b := pair(t, nil)
	a.put(t, "k", 10)
	b.put(t, "k", 10)
	if ok, err := a.Exists(ctx, b.id, "k"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	old := h.clients[b.id]
	b2 := newNode(t, h.client(b.id), b.id, nil)
	b2.put(t, "new", 10)
	// It asks first: its offer takes the place of the old connection.
	if ok, err := b2.Exists(ctx, a.id, "k"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	until(t, "the new instance is asked", func() bool {
		ok, err := a.Exists(ctx, b.id, "new")
		return ok && err == nil
	})
	if s := a.peer(b.id); s.Instance != b2.instance {
		t.Errorf("%+v", s)
	}
	// The old one has lost its connection, or is about to, and its offers do not count.
	h.mu.Lock()
	h.clients[uuid.Nil] = old
	h.mu.Unlock()
	until(t, "the old one is left out", func() bool {
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		err := b.Connect(short, a.id)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the old instance got %v", err)
		}
		return err != nil
	})
	if s := a.peer(b.id); s.Instance != b2.instance || s.State != StateConnected {
		t.Errorf("%+v", s)
	}
	if a.refused.Load() == 0 {
		t.Error("nothing was refused")
	}
	// A new one that is asked only, while the old one is dead.
	b2.Close()
	b3 := newNode(t, h.client(b.id), b.id, nil)
	b3.put(t, "newer", 10)
	if ok, err := a.Exists(ctx, b.id, "newer"); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

// A better path that comes later takes over.
func TestBetterPath(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	h, id := newHub(), ids(2)
	a := newNode(t, h.client(id[0]), id[0], func(o *Options) { o.Paths = QUIC })
	b := newNode(t, h.client(id[1]), id[1], nil)
	b.put(t, "k", 1<<20)
	get(t, ctx, a, b.id, "k", 0, -1)
	if s := a.peer(b.id); len(s.Paths) != 1 || s.Paths[0].Kind != "quic" {
		t.Fatalf("%+v", s)
	}
	p := a.find(b.id)
	p.mu.Lock()
	g := p.cur
	p.mu.Unlock()
	if err := g.dialTLS(ctx); err != nil {
		t.Fatal(err)
	}
	until(t, "the better path is used", func() bool {
		get(t, ctx, a, b.id, "k", 0, -1)
		return p.link.Stats().Path.Kind == "tls"
	})
	if s := a.peer(b.id); len(s.Paths) != 2 || s.Paths[0].Kind != "tls" {
		t.Fatalf("%+v", s)
	}
}

// Peers without requests are closed, and come back when they are asked.
func TestIdle(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, a, b := pair(t, func(o *Options) { o.Idle = 100 * time.Millisecond })
	b.put(t, "k", 10)
	if ok, err := a.Exists(ctx, b.id, "k"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	until(t, "the idle peers are closed", func() bool { return a.peer(b.id).State != StateConnected && b.peer(a.id).State != StateConnected })
	// A Reader that is open keeps it.
	r, err := a.Get(ctx, b.id, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if p := a.peer(b.id); p.Asking != 1 {
		t.Errorf("%+v", p)
	}
	a.find(b.id).stopIdle(time.Now().Add(time.Hour), time.Minute)
	if p := a.peer(b.id); p.State != StateConnected {
		t.Errorf("%+v", p)
	}
	r.Close()
}

// Three endpoints over a real relay, which restarts.
func TestRelayRestart(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	r := startRelay(t, nil)
	id := ids(3)
	var n []*node
	for i := range 3 {
		n = append(n, newNode(t, r.client(id[i]), id[i], nil))
		n[i].put(t, "k", 100_000)
	}
	registered := func() bool { return r.s.Stats().Clients == len(n) }
	until(t, "all are registered", registered)
	get(t, ctx, n[0], id[1], "k", 0, -1)
	r.s.Close()
	get(t, ctx, n[0], id[1], "k", 0, -1) // what is connected needs none
	// Who asks while there is no relay waits for it; that the peer comes back to it later than the asker is an error of its own.
	done := make(chan error)
	go func() {
		_, err := tryGet(ctx, n[0], id[2], "k", 0, -1)
		done <- err
	}()
	r.start()
	until(t, "all are registered again", registered)
	if err := <-done; err != nil && !strings.Contains(err.Error(), "not registered") {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 3 {
		for j := range 3 {
			if i != j {
				for range 5 {
					wg.Go(func() {
						if _, err := tryGet(ctx, n[i], id[j], "k", 0, -1); err != nil {
							t.Error(err)
						}
					})
				}
			}
		}
	}
	wg.Wait()
}

// denied turns everybody away, as for an expired token.
type denied struct{}

func (denied) Authenticate(context.Context, http.Header) (relay.User, error) {
	return relay.User{}, &relay.ForbiddenError{Text: "the token has expired"}
}

func TestExpiredToken(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	r := startRelay(t, denied{})
	id := uuid.New()
	n := newNode(t, r.client(id), id, nil)
	_, err := n.Exists(ctx, uuid.New(), "k")
	wantErr(t, err, transport.ErrDenied, "the token has expired")
	for range 10 { // later requests are not put off
		if _, err := n.Exists(ctx, uuid.UUID{5}, "k"); !errors.Is(err, transport.ErrDenied) {
			t.Fatal(err)
		}
	}
	if s := n.Status().Relay; s.Connected || !s.Final || s.Error == "" {
		t.Errorf("%+v", s)
	}
}

// Close with requests under way, to a peer that does not answer.
func TestClose(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	h, a, b := pair(t, nil)
	b.put(t, "k", 1<<20)
	get(t, ctx, a, b.id, "k", 0, -1)
	h.client(uuid.UUID{9}) // registered, and silent
	errs := make(chan error, 3)
	go func() { errs <- a.Wait(ctx, b.id, "never") }()
	go func() { errs <- a.Connect(ctx, uuid.UUID{9}) }()
	r, err := a.Get(ctx, b.id, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "requests are under way", func() bool { return a.peer(b.id).Asking == 2 && a.peer(uuid.UUID{9}).Detail != "" })
	began := time.Now()
	a.Close()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("Close took %v", took)
	}
	for range 2 {
		if err := <-errs; !errors.Is(err, transport.ErrClosed) {
			t.Errorf("a request under way got %v", err)
		}
	}
	r.Close()
	if _, err := a.Exists(ctx, b.id, "k"); !errors.Is(err, transport.ErrClosed) {
		t.Error(err)
	}
	a.Close()
}

// A silent peer is given up after Timeout.
func TestSilentPeer(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	h, a, _ := pair(t, func(o *Options) { o.Timeout = 300 * time.Millisecond })
	h.client(uuid.UUID{9})
	_, err := a.Exists(ctx, uuid.UUID{9}, "k")
	wantErr(t, err, transport.ErrUnavailable, "no answer came")
}

// No kind of path in common: the error says what was tried.
func TestNoPath(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	h, id := newHub(), ids(2)
	a := newNode(t, h.client(id[0]), id[0], func(o *Options) { o.Paths, o.Timeout = QUIC, time.Second })
	b := newNode(t, h.client(id[1]), id[1], func(o *Options) { o.Paths, o.Timeout = WebRTC, time.Second })
	_, err := a.Exists(ctx, b.id, "k")
	wantErr(t, err, transport.ErrUnavailable, "no path found within", "quic: one side does not use it")
}
