package webrtc_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v3"
	"github.com/pion/turn/v5"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// shared is a UDP socket of which another protocol has a part, as a Mux gets it: packets that begin with 64 or more are the other's. Its addresses are of
// a type of its own.
type shared struct {
	*net.UDPConn
	cut    atomic.Bool // no packet passes any more
	others chan []byte
}

type address string

func (address) Network() string  { return "udp" }
func (a address) String() string { return string(a) }

func newShared(t testing.TB, listen string) *shared {
	t.Helper()
	c, err := net.ListenPacket("udp", listen)
	if err != nil {
		t.Fatal(err)
	}
	return &shared{UDPConn: c.(*net.UDPConn), others: make(chan []byte, 16)}
}

func (s *shared) LocalAddr() net.Addr { return address(s.UDPConn.LocalAddr().String()) }

func (s *shared) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := s.UDPConn.ReadFrom(b)
		switch {
		case err != nil:
			return n, from, err
		case s.cut.Load():
		case n > 0 && b[0] >= 64:
			s.others <- append([]byte(nil), b[:n]...)
		default:
			return n, address(from.String()), nil
		}
	}
}

func (s *shared) WriteTo(b []byte, to net.Addr) (int, error) {
	if s.cut.Load() {
		return len(b), nil
	}
	return s.UDPConn.WriteTo(b, to)
}

func newMux(t testing.TB, listen string) (*webrtc.Mux, *shared) {
	t.Helper()
	s := newShared(t, listen)
	m, err := webrtc.NewMux(s, webrtc.MuxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, s
}

// muxed are two Agents with a Mux each.
func muxed(t testing.TB, listen string, change func(i int, c *webrtc.Config)) (pair, [2]*shared) {
	t.Helper()
	var sockets [2]*shared
	return agents(t, func(i int, c *webrtc.Config) {
		c.Mux, sockets[i] = newMux(t, listen)
		if change != nil {
			change(i, c)
		}
	}), sockets
}

func TestMux(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0", ":0"} {
		t.Run(listen, func(t *testing.T) {
			noLeaks(t)
			p, sockets := muxed(t, listen, nil)
			p.signal(t, webrtc.AnswerOptions{Passive: true})
			a, b := p.connect(t)
			if a.Relayed || b.Relayed || a.Remote.Port() != netip.MustParseAddrPort(sockets[1].LocalAddr().String()).Port() {
				t.Errorf("paths %v, %v", a, b)
			}
			x, y := p.channels(t)
			c, d := channel(t, x, y, "l", true)
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 10)
			if n, err := d.Read(buf); err != nil || string(buf[:n]) != "hello" {
				t.Fatal(string(buf[:n]), err)
			}
			// The other protocol goes to the same address, and has its own packets.
			if _, err := sockets[0].WriteTo([]byte("QUIC"), net.UDPAddrFromAddrPort(a.Remote)); err != nil {
				t.Fatal(err)
			}
			if got := string(<-sockets[1].others); got != "QUIC" {
				t.Fatal(got)
			}
		})
	}
}

// TestMuxMany has several peers on one socket.
func TestMuxMany(t *testing.T) {
	noLeaks(t)
	hub, _ := newMux(t, "127.0.0.1:0")
	var wg sync.WaitGroup
	for range 4 {
		p := agents(t, func(i int, c *webrtc.Config) {
			if i == 0 {
				c.Mux = hub
			}
		})
		wg.Go(func() {
			p.signal(t, webrtc.AnswerOptions{})
			p.connect(t)
			p.channels(t)
		})
	}
	wg.Wait()
}

func TestMuxRefuses(t *testing.T) {
	noLeaks(t)
	l, err := net.ListenPacket("unixgram", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := webrtc.NewMux(l, webrtc.MuxOptions{}); err == nil {
		t.Fatal("a unix socket was taken")
	}
	if _, err := l.WriteTo(nil, l.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("NewMux did not take the socket: %v", err)
	}
}

// TestConn sends packets that are neither STUN nor DTLS over the path.
func TestConn(t *testing.T) {
	noLeaks(t)
	p := agents(t, nil)
	p.signal(t, webrtc.AnswerOptions{})
	p.connect(t)
	a, b := p.offerer.Conn(), p.answerer.Conn()
	exchange := func() {
		t.Helper()
		if _, err := a.Write([]byte{64, 1}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		if n, err := b.Read(buf); err != nil || n != 2 || buf[0] != 64 {
			t.Fatal(n, err)
		}
	}
	exchange()
	b.SetReadDeadline(time.Now())
	if _, err := b.Read(make([]byte, 10)); !isTimeout(err) {
		t.Fatalf("at the deadline: %v", err)
	}
	b.SetReadDeadline(time.Time{})
	exchange()
	if a.RemoteAddr().String() == "" || b.LocalAddr().String() == "" {
		t.Error("no addresses")
	}
	b.Close()
	if _, err := b.Read(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
	b = p.answerer.Conn()
	exchange()
	// Data channels have the same path at the same time.
	x, y := p.channels(t)
	channel(t, x, y, "l", true)
	exchange()
	p.answerer.Close()
	if _, err := b.Read(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("after the Agent's Close: %v", err)
	}
	if _, err := b.Write([]byte{64}); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("after the Agent's Close: %v", err)
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout() || errors.Is(err, os.ErrDeadlineExceeded)
}

func TestAttributes(t *testing.T) {
	noLeaks(t)
	p := agents(t, func(i int, c *webrtc.Config) {
		c.Attributes = map[string]string{"proxyplane": []string{"from-offerer=", "from-answerer"}[i], "x-other": "a b:c"}
	})
	ctx := testContext(t)
	offer, err := p.offerer.Offer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := offer.Attribute("proxyplane"); !ok || v != "from-offerer=" {
		t.Errorf("%q, %v", v, ok)
	}
	if v, _ := offer.Attribute("x-other"); v != "a b:c" {
		t.Errorf("%q", v)
	}
	if _, ok := offer.Attribute("none"); ok {
		t.Error("an attribute that is not there")
	}
	if f, err := offer.Fingerprint(); err != nil || f != webrtc.Fingerprint(certificates()[0].Certificate[0]) {
		t.Error(f, err)
	}
	answer, err := p.answerer.Answer(ctx, offer, webrtc.AnswerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := p.answerer.PeerAttribute("proxyplane"); !ok || v != "from-offerer=" {
		t.Errorf("%q, %v", v, ok)
	}
	if _, ok := p.offerer.PeerAttribute("proxyplane"); ok || p.offerer.PeerFingerprint() != "" {
		t.Error("something is known of the peer before it answered")
	}
	if err := p.offerer.Accept(answer); err != nil {
		t.Fatal(err)
	}
	if v, _ := p.offerer.PeerAttribute("proxyplane"); v != "from-answerer" {
		t.Errorf("%q", v)
	}
	if f := p.offerer.PeerFingerprint(); f != webrtc.Fingerprint(certificates()[1].Certificate[0]) {
		t.Error(f)
	}
}

func TestConfig(t *testing.T) {
	noLeaks(t)
	good := webrtc.Config{Certificate: certificates()[0]}
	for name, change := range map[string]func(*webrtc.Config){
		"no certificate":  func(c *webrtc.Config) { c.Certificate = tls.Certificate{} },
		"server":          func(c *webrtc.Config) { c.Servers = []webrtc.Server{{URLs: []string{"http://x"}}} },
		"stuns":           func(c *webrtc.Config) { c.Servers = []webrtc.Server{{URLs: []string{"stuns:x"}}} },
		"turn user":       func(c *webrtc.Config) { c.Servers = []webrtc.Server{{URLs: []string{"turn:x"}}} },
		"relay only":      func(c *webrtc.Config) { c.RelayOnly = true },
		"negative":        func(c *webrtc.Config) { c.ConsentTimeout = -1 },
		"tuning":          func(c *webrtc.Config) { c.Tuning.MTU = 9000 },
		"attribute name":  func(c *webrtc.Config) { c.Attributes = map[string]string{"a b": ""} },
		"reserved":        func(c *webrtc.Config) { c.Attributes = map[string]string{"fingerprint": ""} },
		"attribute value": func(c *webrtc.Config) { c.Attributes = map[string]string{"a": "\r\na=setup:active"} },
		"attribute size":  func(c *webrtc.Config) { c.Attributes = map[string]string{"a": strings.Repeat("x", 20<<10)} },
	} {
		c := good
		change(&c)
		if a, err := webrtc.NewAgent(c); err == nil {
			a.Close()
			t.Errorf("%s: no error", name)
		} else {
			t.Log(err)
		}
	}
}

// TestFingerprint puts itself between the two: each gets the fingerprint of a third certificate for the other.
func TestFingerprint(t *testing.T) {
	wrong, err := webrtc.NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	for _, side := range []string{"offer", "answer"} {
		t.Run(side, func(t *testing.T) {
			noLeaks(t)
			p := agents(t, nil)
			ctx := testContext(t)
			swap := func(i int, d *webrtc.Description) {
				old, bad := webrtc.Fingerprint(certificates()[i].Certificate[0]), webrtc.Fingerprint(wrong.Certificate[0])
				if !strings.Contains(d.SDP, old) {
					t.Fatal("no fingerprint")
				}
				d.SDP = strings.ReplaceAll(d.SDP, old, bad)
			}
			offer, err := p.offerer.Offer(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if side == "offer" {
				swap(0, &offer)
			}
			answer, err := p.answerer.Answer(ctx, offer, webrtc.AnswerOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if side == "answer" {
				swap(1, &answer)
			}
			if err := p.offerer.Accept(answer); err != nil {
				t.Fatal(err)
			}
			p.connect(t)
			cheated, other := p.answerer, p.offerer
			if side == "answer" {
				cheated, other = other, cheated
			}
			short, cancel := context.WithCancel(ctx)
			var wg sync.WaitGroup
			wg.Go(func() {
				if c, err := other.Channels(short); err == nil {
					// The other side knows no better, but cannot do anything.
					<-c.Done()
				}
			})
			if _, err := cheated.Channels(ctx); !errors.Is(err, transport.ErrDenied) {
				t.Errorf("the wrong certificate: %v", err)
			}
			cancel()
			cheated.Close()
			other.Close()
			wg.Wait()
		})
	}
}

func TestSelf(t *testing.T) {
	noLeaks(t)
	p := agents(t, func(i int, c *webrtc.Config) { c.Certificate = certificates()[0] })
	offer, err := p.offerer.Offer(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.answerer.Answer(testContext(t), offer, webrtc.AnswerOptions{}); !errors.Is(err, transport.ErrDenied) {
		t.Fatal(err)
	}
}

// TestBatches sends over Muxes on plain sockets, where packets leave and come by short cuts.
func TestBatches(t *testing.T) {
	noLeaks(t)
	p := agents(t, func(_ int, c *webrtc.Config) {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if c.Mux, err = webrtc.NewMux(pc, webrtc.MuxOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Mux.Close() })
	})
	p.signal(t, webrtc.AnswerOptions{})
	p.connect(t)
	a, b := p.channels(t)
	x, y := channel(t, a, b, "l", true)
	data := make([]byte, 4<<20)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	xs, ys := x.Stream(), y.Stream()
	var wg sync.WaitGroup
	for _, d := range [][2]net.Conn{{xs, ys}, {ys, xs}} {
		wg.Go(func() {
			if _, err := d[0].Write(data); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			got := make([]byte, len(data))
			if _, err := io.ReadFull(d[1], got); err != nil || !bytes.Equal(got, data) {
				t.Errorf("other bytes came, error %v", err)
			}
		})
	}
	wg.Wait()
	a.Close()
	b.Close()
}

// TestDeadPeer cuts the path.
func TestDeadPeer(t *testing.T) {
	noLeaks(t)
	p, sockets := muxed(t, "127.0.0.1:0", func(_ int, c *webrtc.Config) {
		c.Keepalive, c.ConsentTimeout = 50*time.Millisecond, time.Second
		c.Tuning.SendBuffer = 64 << 10
	})
	p.signal(t, webrtc.AnswerOptions{})
	p.connect(t)
	a, b := p.channels(t)
	x, y := channel(t, a, b, "l", true)
	sockets[0].cut.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := y.Read(make([]byte, 1<<10)); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("Read: %d, %v", n, err)
		}
	})
	for {
		if _, err := x.Write(make([]byte, 10<<10)); err != nil {
			if !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("Write: %v", err)
			}
			break
		}
	}
	<-p.offerer.Failed()
	<-p.answerer.Failed()
	<-a.Done()
	<-b.Done()
	for _, err := range []error{p.offerer.Err(), p.answerer.Err(), a.Err(), b.Err()} {
		if !errors.Is(err, transport.ErrUnavailable) {
			t.Error(err)
		}
	}
	if _, err := a.Open(testContext(t), "m", true); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("Open: %v", err)
	}
	if _, err := b.Accept(testContext(t)); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("Accept: %v", err)
	}
	wg.Wait()
}

// TestIdle has a path that nothing but keepalives use for longer than the consent lasts.
func TestIdle(t *testing.T) {
	noLeaks(t)
	p, _ := muxed(t, "127.0.0.1:0", func(_ int, c *webrtc.Config) {
		c.Keepalive, c.ConsentTimeout = 20*time.Millisecond, 800*time.Millisecond
	})
	p.signal(t, webrtc.AnswerOptions{})
	p.connect(t)
	timer := time.NewTimer(1300 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.offerer.Failed():
		t.Error(p.offerer.Err())
	case <-p.answerer.Failed():
		t.Error(p.answerer.Err())
	}
}

// TestClose closes Agents in each state.
func TestClose(t *testing.T) {
	ctx := testContext(t)
	bg := func(wg *sync.WaitGroup, f func() error) {
		wg.Go(func() {
			if err := f(); !errors.Is(err, transport.ErrClosed) {
				t.Errorf("at Close: %v", err)
			}
		})
	}
	for name, f := range map[string]func(t *testing.T, p pair, wg *sync.WaitGroup){
		"new": func(*testing.T, pair, *sync.WaitGroup) {},
		"offered": func(t *testing.T, p pair, wg *sync.WaitGroup) {
			if _, err := p.offerer.Offer(ctx); err != nil {
				t.Fatal(err)
			}
		},
		"signalled": func(t *testing.T, p pair, wg *sync.WaitGroup) { p.signal(t, webrtc.AnswerOptions{}) },
		"connecting": func(t *testing.T, p pair, wg *sync.WaitGroup) {
			p.signal(t, webrtc.AnswerOptions{})
			bg(wg, func() error { _, err := p.offerer.Connect(ctx); return err })
		},
		"connected": func(t *testing.T, p pair, wg *sync.WaitGroup) {
			p.signal(t, webrtc.AnswerOptions{})
			p.connect(t)
		},
		"waiting for DTLS": func(t *testing.T, p pair, wg *sync.WaitGroup) {
			p.signal(t, webrtc.AnswerOptions{Passive: true})
			p.connect(t)
			bg(wg, func() error { _, err := p.answerer.Channels(ctx); return err })
		},
		"beginning DTLS": func(t *testing.T, p pair, wg *sync.WaitGroup) {
			p.signal(t, webrtc.AnswerOptions{Passive: true})
			p.connect(t)
			bg(wg, func() error { _, err := p.offerer.Channels(ctx); return err })
		},
		"in use": func(t *testing.T, p pair, wg *sync.WaitGroup) {
			p.signal(t, webrtc.AnswerOptions{})
			p.connect(t)
			a, b := p.channels(t)
			x, _ := channel(t, a, b, "l", true)
			bg(wg, func() error { _, err := a.Accept(ctx); return err })
			bg(wg, func() error { _, err := x.Read(make([]byte, 10)); return err })
		},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			p := agents(t, nil)
			var wg sync.WaitGroup
			f(t, p, &wg)
			time.Sleep(20 * time.Millisecond)
			p.offerer.Close()
			p.answerer.Close()
			wg.Wait()
			p.offerer.Close()
			if _, err := p.offerer.Offer(ctx); !errors.Is(err, transport.ErrClosed) {
				t.Errorf("Offer: %v", err)
			}
			if _, err := p.offerer.Connect(ctx); !errors.Is(err, transport.ErrClosed) {
				t.Errorf("Connect: %v", err)
			}
			if _, err := p.offerer.Channels(ctx); !errors.Is(err, transport.ErrClosed) {
				t.Errorf("Channels: %v", err)
			}
			select {
			case <-p.offerer.Failed():
			default:
				t.Error("Failed is open")
			}
		})
	}
}

// TestOrder calls methods before their turn.
func TestOrder(t *testing.T) {
	noLeaks(t)
	p := agents(t, nil)
	ctx := testContext(t)
	if _, err := p.offerer.Connect(ctx); err == nil {
		t.Error("Connect before all else")
	}
	if _, err := p.offerer.Channels(ctx); err == nil {
		t.Error("Channels before all else")
	}
	p.signal(t, webrtc.AnswerOptions{})
	if _, err := p.offerer.Offer(ctx); err == nil {
		t.Error("a second Offer")
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := p.offerer.Connect(short); !errors.Is(err, context.Canceled) {
		t.Errorf("Connect at the end of ctx: %v", err)
	}
	p.connect(t)
	// Channels may be tried again.
	if _, err := p.offerer.Channels(short); !errors.Is(err, context.Canceled) {
		t.Errorf("Channels at the end of ctx: %v", err)
	}
	p.channels(t)
	if _, err := p.offerer.Channels(ctx); err == nil {
		t.Error("Channels twice")
	}
}

// stunServer answers with an address of its own making, but not to the first request, and says how many came.
func stunServer(t testing.TB, addr string) (url string, asked *atomic.Int32) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked = new(atomic.Int32)
	mapped := netip.MustParseAddrPort(addr)
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			m := &stun.Message{Raw: b[:n]}
			if m.Decode() != nil || asked.Add(1) == 1 {
				continue
			}
			r, err := stun.Build(m, stun.BindingSuccess, &stun.XORMappedAddress{IP: mapped.Addr().AsSlice(), Port: int(mapped.Port())}, stun.Fingerprint)
			if err == nil {
				c.WriteTo(r.Raw, from)
			}
		}
	})
	t.Cleanup(func() {
		c.Close()
		wg.Wait()
	})
	return "stun:" + c.LocalAddr().String(), asked
}

func TestSTUN(t *testing.T) {
	noLeaks(t)
	url, asked := stunServer(t, "203.0.113.5:4321")
	mux, _ := newMux(t, ":0")
	a, err := webrtc.NewAgent(webrtc.Config{Mux: mux, Loopback: true, Certificate: certificates()[0], Servers: []webrtc.Server{{URLs: []string{url}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	d, err := a.Offer(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(d.SDP, " 203.0.113.5 4321 typ srflx ") {
		t.Errorf("the STUN server's address is missing after %d requests:\n%s", asked.Load(), d.SDP)
	}
}

// TestSilentServers has servers that do not answer and names that do not resolve: the offer goes out without.
func TestSilentServers(t *testing.T) {
	for _, mux := range []bool{false, true} {
		noLeaks(t)
		silent, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		addr := silent.LocalAddr().String()
		c := webrtc.Config{Loopback: true, Certificate: certificates()[0], GatherTimeout: 200 * time.Millisecond, Servers: []webrtc.Server{
			{URLs: []string{"stun:" + addr, "stun:stun.invalid:3478"}},
			{URLs: []string{"turn:" + addr, "turn:turn.invalid:3478?transport=tcp"}, Username: "u", Credential: "c"},
		}}
		if mux {
			c.Mux, _ = newMux(t, "127.0.0.1:0")
		}
		a, err := webrtc.NewAgent(c)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := a.Offer(testContext(t)); err != nil || !strings.Contains(d.SDP, "typ host") || !strings.Contains(d.SDP, "a=end-of-candidates") {
			t.Errorf("%v\n%s", err, d.SDP)
		}
		a.Close()
	}
}

// turnServer is a real one, by UDP and TCP.
func turnServer(t testing.TB) (udp, tcp string) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	relay := &turn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	s, err := turn.NewServer(turn.ServerConfig{
		Realm: "test",
		AuthHandler: func(a *turn.RequestAttributes) (string, []byte, bool) {
			return a.Username, turn.GenerateAuthKey(a.Username, a.Realm, "secret"), a.Username == "user"
		},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: pc, RelayAddressGenerator: relay}},
		ListenerConfigs:   []turn.ListenerConfig{{Listener: l, RelayAddressGenerator: relay}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return "turn:" + pc.LocalAddr().String(), "turn:" + l.Addr().String() + "?transport=tcp"
}

func TestTURN(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		for _, mux := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/mux=%v", network, mux), func(t *testing.T) {
				noLeaks(t)
				udp, tcp := turnServer(t)
				url := udp
				if network == "tcp" {
					url = tcp
				}
				var sockets [2]*shared
				p := agents(t, func(i int, c *webrtc.Config) {
					c.RelayOnly = i == 0
					c.Servers = []webrtc.Server{{URLs: []string{url}, Username: "user", Credential: "secret"}}
					if mux {
						c.Mux, sockets[i] = newMux(t, "127.0.0.1:0")
					}
				})
				p.signal(t, webrtc.AnswerOptions{})
				a, b := p.connect(t)
				if !a.Relayed || a.LocalType != "relay" || !b.Relayed && b.RemoteType != "prflx" {
					t.Errorf("paths %v, %v", a, b)
				}
				x, y := p.channels(t)
				c, d := channel(t, x, y, "l", true)
				msg := make([]byte, 100_000)
				if _, err := c.Write(msg); err != nil {
					t.Fatal(err)
				}
				if n, err := d.Read(make([]byte, len(msg))); err != nil || n != len(msg) {
					t.Fatal(n, err)
				}
				p.offerer.Conn().Write([]byte("QUIC"))
				buf := make([]byte, 10)
				if mux { // the TURN server sends to the socket of the side that is not relayed
					if got := string(<-sockets[1].others); got != "QUIC" {
						t.Fatal(got)
					}
					return
				}
				if n, err := p.answerer.Conn().Read(buf); err != nil || string(buf[:n]) != "QUIC" {
					t.Fatal(n, err)
				}
			})
		}
	}
}

func TestTURNRefuses(t *testing.T) {
	noLeaks(t)
	udp, _ := turnServer(t)
	a, err := webrtc.NewAgent(webrtc.Config{
		RelayOnly: true, Loopback: true, Certificate: certificates()[0], GatherTimeout: time.Second,
		Servers: []webrtc.Server{{URLs: []string{udp}, Username: "user", Credential: "wrong"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Offer(testContext(t)); !errors.Is(err, transport.ErrUnavailable) {
		t.Fatal(err)
	}
}
