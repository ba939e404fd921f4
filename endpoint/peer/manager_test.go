package peer

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/proxyplane/proxyplane/endpoint/link"
	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/transport"
)

// Every kind of path, alone and in choice, both ways.
func TestKinds(t *testing.T) {
	for _, tc := range []struct {
		name  string
		kinds Kinds
		want  string
	}{{"tls", TLS, "tls"}, {"quic", QUIC, "quic"}, {"webrtc", WebRTC, "webrtc"}, {"all", AllKinds, ""}} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			ctx := testContext(t)
			_, a, b := pair(t, func(o *Options) { o.Paths = tc.kinds })
			small, large := b.put(t, "small", 1), b.put(t, "large", 2<<20)
			if got := get(t, ctx, a, b.id, "small", 0, -1); !bytes.Equal(got, small) {
				t.Fatal("small object differs")
			}
			if got := get(t, ctx, a, b.id, "large", 0, -1); !bytes.Equal(got, large) {
				t.Fatal("large object differs")
			}
			if got := get(t, ctx, a, b.id, "large", 1<<20, 1<<19); !bytes.Equal(got, large[1<<20:1<<20+1<<19]) {
				t.Fatal("range differs")
			}
			if err := b.Put(ctx, a.id, "up", int64(len(large)), bytes.NewReader(large)); err != nil {
				t.Fatal(err)
			}
			if got, err := a.store.Get("up"); err != nil || !bytes.Equal(got.Bytes(), large) {
				t.Fatal("what was put differs", err)
			} else {
				got.Release()
			}
			if ok, err := b.Exists(ctx, a.id, "up"); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if err := b.Evict(ctx, a.id, "up"); err != nil {
				t.Fatal(err)
			}
			if ok, err := b.Exists(ctx, a.id, "up"); ok || err != nil {
				t.Fatal(ok, err)
			}
			if _, err := tryGet(ctx, b, a.id, "up", 0, -1); !isErr(err, transport.ErrNotFound) {
				t.Fatal(err)
			}
			if info, err := a.Stat(ctx, b.id, "large"); err != nil || info.Size != int64(len(large)) {
				t.Fatal(info, err)
			}
			for _, s := range []PeerStatus{a.peer(b.id), b.peer(a.id)} {
				if s.State != StateConnected || s.Dialect != DialectProxyplane || len(s.Paths) == 0 || s.BytesIn == 0 || s.BytesOut == 0 {
					t.Errorf("status %+v", s)
				}
				if tc.want != "" && s.Paths[0].Kind != tc.want {
					t.Errorf("path %+v; want %s", s.Paths[0], tc.want)
				}
			}
		})
	}
}

func isErr(err, target error) bool { return errors.Is(err, target) }

// The connections of one QUIC path are grouped by both sides; one that comes later is another path.
func TestQUICConns(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	_, a, b := pair(t, func(o *Options) { o.Paths = QUIC })
	if err := a.Connect(ctx, b.id); err != nil {
		t.Fatal(err)
	}
	if err := b.Connect(ctx, a.id); err != nil {
		t.Fatal(err)
	}
	current := func(n *node, peer *node) *peering {
		p := n.find(peer.id)
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.cur
	}
	ga, gb := current(a, b), current(b, a)
	routes := func(g *peering) int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.routes)
	}
	gb.mu.Lock()
	j := gb.joining
	gb.mu.Unlock()
	<-j.full // dialed by a, since it offered
	if na, nb := routes(ga), routes(gb); na != 1 || nb != 1 {
		t.Fatalf("%d and %d paths", na, nb)
	}
	// More connections join that path, whichever side wants them.
	for i, n := range []*peering{ga, gb} {
		want := 2 * quicConns * (1 + i)
		if err := n.best().Widen(ctx, want); err != nil {
			t.Fatal(err)
		}
		for _, g := range []*peering{ga, gb} {
			until(t, "the connections", func() bool { return g.best().Info().Conns == want })
		}
	}
	if err := ga.best().Widen(ctx, 99); err != nil {
		t.Fatal(err)
	}
	c, err := a.sock.DialMore(ctx, b.sock.Addr())
	if err == nil {
		<-c.Done() // there is no room for it
	}
	if na, nb := routes(ga), routes(gb); na != 1 || nb != 1 || ga.best().Info().Conns != path.MaxConns {
		t.Fatalf("%d and %d paths; %+v", na, nb, ga.best().Info())
	}
	if c, err = a.sock.Dial(ctx, b.sock.Addr()); err != nil {
		t.Fatal(err)
	}
	p := path.QUIC(c, path.Details{})
	defer p.Close()
	l := link.New(func(context.Context) (path.Path, error) { return p, nil }, link.Options{})
	defer l.Close()
	if _, err := l.Ping(ctx); err != nil { // served, whether others come or not
		t.Fatal(err)
	}
	until(t, "a second path", func() bool { return routes(gb) == 2 })
	gb.mu.Lock()
	if gb.joining == j || gb.joining.n != 1 {
		t.Errorf("%d connections in the second path", gb.joining.n)
	}
	gb.mu.Unlock()
	p.Close()
	until(t, "the second path's end", func() bool { return routes(gb) == 1 })
	// One that ends before it was used counts as no loss.
	if c, err = a.sock.Dial(ctx, b.sock.Addr()); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if s := b.peer(a.id); s.State != StateConnected || len(s.Paths) == 0 {
		t.Errorf("%+v", s)
	}
	want := b.put(t, "k", 1<<20)
	if got := get(t, ctx, a, b.id, "k", 0, -1); !bytes.Equal(got, want) {
		t.Error("the object differs")
	}
}
