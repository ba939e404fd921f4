package faults

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/netlab"
	"github.com/proxyplane/proxyplane/internal/testenv"
)

// network makes the sites A, B and R, where a relay runs. 100 Mbit/s: what is in the middle stays there for a while.
func network(t *testing.T, nat netlab.NAT) (l *netlab.Lab, r *relay, a, b site) {
	t.Helper()
	testenv.Netns(t)
	l = netlab.Start(t, netlab.Options{Sites: []netlab.Site{{Name: "A", NAT: nat}, {Name: "B"}, {Name: "R"}}, Delay: 2 * time.Millisecond, Rate: 100e6})
	r = startRelay(t, site{l, "R"})
	return l, r, site{l, "A"}, site{l, "B"}
}

// pathKind returns over what n reaches other, "" if it does not.
func (n *node) pathKind(other *node) string {
	if p := n.peer(other); len(p.Paths) > 0 {
		return p.Paths[0].Kind
	}
	return ""
}

// gets waits until n reaches other over that kind of path.
func (n *node) gets(other *node, kind string) {
	n.t.Helper()
	eventually(n.t, "a path by "+kind, func() error {
		if k := n.pathKind(other); k != kind {
			return fmt.Errorf("%q", k)
		}
		return nil
	})
}

// during runs a get and a put between a and b at once, calls fault when both are in their middle, and wants both to end well.
func during(t *testing.T, a, b *node, fault func()) {
	t.Helper()
	const size = large / 2
	data, other := content(20, size), content(21, size)
	b.mustPut("there", nil, data)
	get, put := a.download("there", b, data), a.upload("here", b, other)
	if err := get.take(1_000_000); err != nil {
		t.Fatal(err)
	}
	if !put.send(size / 6) {
		t.Fatal("a put ended early")
	}
	var wg sync.WaitGroup
	var got answer
	var err error
	wg.Go(func() { got = put.finish() })
	wg.Go(func() { err = get.rest() })
	fault()
	wg.Wait()
	if err != nil {
		t.Errorf("a get of %d bytes ended after %d: %v", size, get.off, err)
	}
	if got.code != 200 {
		t.Errorf("a put of %d bytes ended: %v", size, got)
	}
	if t.Failed() {
		t.Logf("A: %s", a.statusText())
		t.FailNow()
	}
	b.mustGet("here", nil, other)
}

// TestEndpointLinkCut: a link that is dead for some seconds stops transfers, and does not end them. By TLS, where TCP goes on by itself or is replaced, and by QUIC.
func TestEndpointLinkCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind string
		args []string
	}{{"tls", nil}, {"quic", []string{"--peer-listen", "off"}}} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			l, r, sa, sb := network(t, netlab.NoNAT)
			a, b := startNode(t, sa, r, "a", c.args...), startNode(t, sb, r, "b", c.args...)
			a.comes("first", b, []byte("first"))
			a.gets(b, c.kind)
			if c.kind == "tls" { // QUIC has that in TestEndpointRebinding
				during(t, a, b, func() {
					if err := l.Cut("B"); err != nil {
						t.Fatal(err)
					}
					time.Sleep(3 * time.Second) // shorter than any patience
					if err := l.Heal("B"); err != nil {
						t.Fatal(err)
					}
				})
			}
			during(t, a, b, func() {
				if err := l.Cut("A", "B"); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the loss is noticed", func() error {
					if k := a.pathKind(b); k != "" {
						return fmt.Errorf("still over %s", k)
					}
					return nil
				})
				if err := l.Heal("A", "B"); err != nil {
					t.Fatal(err)
				}
			})
			a.mustGet("first", b, []byte("first"))
		})
	}
}

// TestEndpointRebinding: a NAT that forgets its mappings in the middle of transfers, once with the same address and once with a new one. QUIC may survive it; TCP connections
// are dead then and hear nothing.
func TestEndpointRebinding(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind string
		args []string
	}{{"tls", nil}, {"quic", []string{"--peer-listen", "off"}}} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			l, r, sa, sb := network(t, netlab.PortRestricted)
			a, b := startNode(t, sa, r, "a", c.args...), startNode(t, sb, r, "b", c.args...)
			a.comes("first", b, []byte("first"))
			a.gets(b, c.kind)
			rebind := func(addr string) {
				if err := l.Rebind("A", netip.MustParseAddr(addr)); err != nil {
					t.Fatal(err)
				}
			}
			for _, addr := range []string{l.Addr("A").String(), "10.77.0.200"} {
				during(t, a, b, func() { rebind(addr) })
			}
			// The other way: who is behind the NAT is asked, also when it has been silent since the NAT forgot it.
			a.mustPut("at a", nil, content(22, 3_000_000))
			b.mustGet("at a", a, content(22, 3_000_000))
			rebind("10.77.0.201")
			eventually(t, "a get from behind the NAT", func() error {
				if got := b.do("GET", "/get"+where("at a", a), nil, nil); got.code != 200 || got.text != string(content(22, 3_000_000)) {
					t.Logf("not yet: %.300v", got)
					return errors.New(got.String())
				}
				return nil
			})
			a.connected()
			a.mustPut("last", b, content(23, 3_000_000))
		})
	}
}
