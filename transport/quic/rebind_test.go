package quic

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// forwarder is a NAT on loopback: who sends to its front is seen by the target as coming from its back.
type forwarder struct {
	t      testing.TB
	target net.Addr
	front  net.PacketConn
	drop   atomic.Bool // all packets
	wg     sync.WaitGroup

	mu     sync.Mutex
	client net.Addr
	back   net.PacketConn
	closed bool
}

func forward(t testing.TB, target net.Addr) *forwarder {
	front, err := net.ListenPacket("udp", loopback0)
	must(t, err)
	f := &forwarder{t: t, target: target, front: front}
	f.rebind()
	f.wg.Go(func() {
		b := make([]byte, 2000)
		for {
			n, from, err := front.ReadFrom(b)
			if err != nil {
				return
			}
			f.mu.Lock()
			f.client = from
			back := f.back
			f.mu.Unlock()
			if !f.drop.Load() {
				back.WriteTo(b[:n], f.target) // the target may be gone
			}
		}
	})
	t.Cleanup(func() {
		front.Close()
		f.mu.Lock()
		f.closed = true
		f.back.Close()
		f.mu.Unlock()
		f.wg.Wait()
	})
	return f
}

func (f *forwarder) addr() net.Addr { return f.front.LocalAddr() }

// rebind forgets the old binding: packets to it are lost, and later ones come from another port.
func (f *forwarder) rebind() {
	back, err := net.ListenPacket("udp", loopback0)
	must(f.t, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.back != nil {
		f.back.Close()
	}
	f.back = back
	f.wg.Go(func() {
		b := make([]byte, 2000)
		for {
			n, _, err := back.ReadFrom(b)
			if err != nil {
				return
			}
			f.mu.Lock()
			client := f.client
			f.mu.Unlock()
			if !f.drop.Load() {
				f.front.WriteTo(b[:n], client)
			}
		}
	})
}

// TestClientRebinding changes the dialer's address in the middle of transfers, in either direction.
func TestClientRebinding(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, nil)
	f := forward(t, b.Addr())
	ac, bc := connect(t, a, b, f.addr())
	for _, dir := range []struct {
		name     string
		from, to *Conn
	}{{"dialer sends", ac, bc}, {"dialer receives", bc, ac}} {
		t.Run(dir.name, func(t *testing.T) {
			as, bs := streams(t, dir.from, dir.to)
			before := bc.RemoteAddr().String()
			data := payload(3, 16<<20)
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := as.Write(data); err != nil {
					t.Error(err)
				}
			})
			got := make([]byte, len(data))
			for i, cut := 0, len(data)/4; i < len(data); i += cut {
				_, err := io.ReadFull(bs, got[i:i+cut])
				must(t, err)
				if i < len(data)-cut {
					f.rebind()
				}
			}
			wg.Wait()
			if !bytes.Equal(got, data) {
				t.Error("other bytes")
			}
			if after := bc.RemoteAddr().String(); after == before {
				t.Error("the address is the same; was there a rebinding?")
			}
		})
	}
}

// TestServerRebinding: a change of the acceptor's address is not followed. What still comes through is used, and if nothing does, the connection ends,
// and a new one can be dialed.
func TestServerRebinding(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, func(o *Options) { o.IdleTimeout = time.Second })
	// b's packets to a pass through f, so that a sees them come from f; b is the dialer towards f, and thus a the acceptor. From a's side the peer's address
	// changes, which is TestClientRebinding. Here the dialer is a, and what b sends comes from f's new port.
	f := forwardBoth(t, b.Addr())
	ac, bc := connect(t, a, b, f.front.LocalAddr())
	as, bs := streams(t, ac, bc)
	f.moveFront(true)
	// Packets of a still arrive by the old address, those of b come from the new one: both ways work.
	_, err := as.Write([]byte("ping"))
	must(t, err)
	got := make([]byte, 4)
	_, err = io.ReadFull(bs, got)
	must(t, err)
	_, err = bs.Write([]byte("pong"))
	must(t, err)
	_, err = io.ReadFull(as, got)
	must(t, err)
	if string(got) != "pong" {
		t.Errorf("got %q", got)
	}
	// The old one goes away.
	f.moveFront(false)
	<-ac.Done()
	<-bc.Done()
	wantErr(t, ac.Err(), transport.ErrUnavailable)
	connect(t, a, b, f.newAddr())
}

// bothForwarder stands before a server whose own address changes.
type bothForwarder struct {
	forwarder
	fresh net.PacketConn
	moved atomic.Int32
}

func forwardBoth(t testing.TB, target net.Addr) *bothForwarder {
	f := &bothForwarder{}
	var err error
	f.t, f.target = t, target
	f.front, err = net.ListenPacket("udp", loopback0)
	must(t, err)
	f.fresh, err = net.ListenPacket("udp", loopback0)
	must(t, err)
	f.back, err = net.ListenPacket("udp", loopback0)
	must(t, err)
	in := func(front net.PacketConn) {
		b := make([]byte, 2000)
		for {
			n, from, err := front.ReadFrom(b)
			if err != nil {
				return
			}
			if front == f.front && f.moved.Load() == 2 {
				continue
			}
			f.mu.Lock()
			f.client = from
			f.mu.Unlock()
			f.back.WriteTo(b[:n], target)
		}
	}
	f.wg.Go(func() { in(f.front) })
	f.wg.Go(func() { in(f.fresh) })
	f.wg.Go(func() {
		b := make([]byte, 2000)
		for {
			n, _, err := f.back.ReadFrom(b)
			if err != nil {
				return
			}
			f.mu.Lock()
			client := f.client
			f.mu.Unlock()
			out := f.front
			if f.moved.Load() > 0 {
				out = f.fresh
			}
			out.WriteTo(b[:n], client)
		}
	})
	t.Cleanup(func() {
		f.front.Close()
		f.fresh.Close()
		f.back.Close()
		f.wg.Wait()
	})
	return f
}

// moveFront makes what the server sends come from another address; the old one goes on working as a destination, or not.
func (f *bothForwarder) moveFront(oldWorks bool) {
	if oldWorks {
		f.moved.Store(1)
	} else {
		f.moved.Store(2)
	}
}

func (f *bothForwarder) newAddr() net.Addr { return f.fresh.LocalAddr() }
