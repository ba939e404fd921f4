package webrtc_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pion/stun/v3"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

const (
	// mtu and probed are the lengths of SCTP packets, ordinarily and where the path carries it.
	mtu, probed = 1192, 1432
	dtls        = 37
)

// narrow is a socket on a path that may be narrow. It looks at what is sent.
type narrow struct {
	*shared
	limit   atomic.Int64 // longer packets are lost
	refuse  bool         // with an error
	longest atomic.Int64 // of DTLS
	probes  atomic.Int64 // long STUN messages
	// probe, if not nil, gets the probes instead of the path.
	probe func(b []byte, to net.Addr)
}

func (n *narrow) WriteTo(b []byte, to net.Addr) (int, error) {
	if b[0] == 0 && len(b) > mtu {
		n.probes.Add(1)
		if n.probe != nil {
			n.probe(b, to)
			return len(b), nil
		}
	}
	if int64(len(b)) > n.limit.Load() {
		if n.refuse {
			return 0, &net.OpError{Op: "write", Net: "udp", Err: syscall.EMSGSIZE}
		}
		return len(b), nil
	}
	if b[0] >= 20 && b[0] < 64 {
		n.longest.Store(max(n.longest.Load(), int64(len(b))))
	}
	return n.shared.WriteTo(b, to)
}

// newNarrow returns a socket through which packets of up to 1500 bytes pass, less IPv4 and UDP, and a Mux on it.
func newNarrow(t testing.TB, addr string) (*webrtc.Mux, *narrow) {
	t.Helper()
	n := &narrow{shared: newShared(t, addr)}
	n.limit.Store(1500 - 28)
	m, err := webrtc.NewMux(n, webrtc.MuxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, n
}

// probing are two connected Agents of which the one that offers, or the other, probes the path.
func probing(t testing.TB, who int, change func(n *narrow)) (pair, [2]*narrow, [2]*webrtc.Mux) {
	t.Helper()
	var sockets [2]*narrow
	var muxes [2]*webrtc.Mux
	p := agents(t, func(i int, c *webrtc.Config) {
		muxes[i], sockets[i] = newNarrow(t, "127.0.0.1:0")
		c.Mux = muxes[i]
		if i == who {
			c.Tuning.ProbeMTU = probed
			if change != nil {
				change(sockets[i])
			}
		}
	})
	p.signal(t, webrtc.AnswerOptions{})
	p.connect(t)
	return p, sockets, muxes
}

// exchange sends messages of several packets both ways.
func exchange(t testing.TB, a, b *webrtc.Channels) {
	t.Helper()
	x, y := channel(t, a, b, "l", true)
	msg := make([]byte, 200<<10)
	for i := range msg {
		msg[i] = byte(rand.Uint32())
	}
	buf := make([]byte, len(msg))
	for _, d := range [][2]*webrtc.Channel{{x, y}, {y, x}} {
		if _, err := d[0].Write(msg); err != nil {
			t.Fatal(err)
		}
		if n, err := d[1].Read(buf); err != nil || !bytes.Equal(buf[:n], msg) {
			t.Fatalf("%d bytes came as %d: %v", len(msg), n, err)
		}
	}
}

func TestProbe(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(n *narrow)
		probes  int64 // 0: of some number
		longest int64
	}{
		"wide":    {longest: probed + dtls},
		"narrow":  {func(n *narrow) { n.limit.Store(1280 - 28) }, 3, mtu + dtls},
		"refused": {func(n *narrow) { n.limit.Store(1280 - 28); n.refuse = true }, 1, mtu + dtls},
	} {
		for who := range 2 {
			t.Run(fmt.Sprintf("%s/answerer=%v", name, who == 1), func(t *testing.T) {
				noLeaks(t)
				p, sockets, muxes := probing(t, who, test.change)
				a, b := p.channels(t)
				exchange(t, a, b)
				if got := sockets[who].longest.Load(); got != test.longest {
					t.Errorf("the longest packet had %d bytes, want %d", got, test.longest)
				}
				if got := sockets[who].probes.Load(); got != test.probes && (test.probes != 0 || got == 0) {
					t.Errorf("%d probes were sent, want %d", got, test.probes)
				}
				if got := sockets[1-who].longest.Load(); got != mtu+dtls || sockets[1-who].probes.Load() != 0 {
					t.Errorf("the other side sent %d bytes and %d probes", got, sockets[1-who].probes.Load())
				}
				if n := webrtc.Probes(muxes[who]); n != 0 {
					t.Errorf("%d probes wait for ever", n)
				}
			})
		}
	}
}

// TestProbeForged answers probes that never arrive.
func TestProbeForged(t *testing.T) {
	for name, test := range map[string]struct {
		id, key, from bool // are right
		kind          stun.MessageType
		used          bool
	}{
		"as the peer":        {true, true, true, stun.BindingSuccess, true},
		"by another address": {true, true, false, stun.BindingSuccess, false},
		"with another key":   {true, false, true, stun.BindingSuccess, false},
		"to another request": {false, true, true, stun.BindingSuccess, false},
		"with an error":      {true, true, true, stun.BindingError, false},
		"with an echo":       {true, true, true, stun.BindingRequest, false},
		"of another method":  {true, true, true, stun.MessageType{Method: stun.MethodRefresh, Class: stun.ClassSuccessResponse}, false},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			p, sockets, muxes := probing(t, 0, nil)
			stranger := newShared(t, "127.0.0.1:0")
			defer stranger.Close()
			key := webrtc.PeerKey(p.offerer)
			if !test.key {
				key = stun.NewShortTermIntegrity("wrong")
			}
			us := sockets[0].UDPConn.LocalAddr()
			sockets[0].probe = func(b []byte, to net.Addr) {
				m := &stun.Message{Raw: bytes.Clone(b)}
				if err := m.Decode(); err != nil {
					t.Error(err)
				}
				if !test.id {
					m.TransactionID[0]++
				}
				answer, err := stun.Build(stun.NewTransactionIDSetter(m.TransactionID), test.kind, key, stun.Fingerprint)
				if err != nil {
					t.Error(err)
				}
				from := sockets[1].shared
				if !test.from {
					from = stranger
				}
				for _, raw := range [][]byte{answer.Raw[:20], answer.Raw} { // cut off, and whole
					if _, err := from.UDPConn.WriteTo(raw, us); err != nil {
						t.Error(err)
					}
				}
			}
			a, b := p.channels(t)
			exchange(t, a, b)
			want := int64(mtu + dtls)
			if test.used {
				want = probed + dtls
			}
			if got := sockets[0].longest.Load(); got != want {
				t.Errorf("the longest packet had %d bytes, want %d", got, want)
			}
			if n := webrtc.Probes(muxes[0]); n != 0 {
				t.Errorf("%d probes wait for ever", n)
			}
		})
	}
}

// TestProbeMoved changes from a path that was probed to another one.
func TestProbeMoved(t *testing.T) {
	for _, wide := range []bool{true, false} {
		t.Run(fmt.Sprintf("wide=%v", wide), func(t *testing.T) {
			noLeaks(t)
			p, sockets, _ := probing(t, 0, nil)
			a, b := p.channels(t)
			exchange(t, a, b)
			before := sockets[0].probes.Load()
			asked := make(chan struct{})
			var once sync.Once
			if wide {
				other := sockets[0].shared
				sockets[0].probe = func(b []byte, to net.Addr) {
					other.WriteTo(b, to)
					once.Do(func() { close(asked) })
				}
			} else {
				sockets[0].limit.Store(1280 - 28)
			}
			webrtc.Moved(a)
			if wide {
				<-asked
				exchange(t, a, b)
				return
			}
			select {
			case <-a.Done():
			case <-testContext(t).Done():
				t.Fatal("the channels stay")
			}
			if err := a.Err(); !errors.Is(err, transport.ErrUnavailable) || sockets[0].probes.Load() == before {
				t.Errorf("after %d more probes: %v", sockets[0].probes.Load()-before, err)
			}
		})
	}
}

func TestProbeTuning(t *testing.T) {
	a, err := webrtc.NewAgent(webrtc.Config{Certificate: certificates()[0]})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, tuning := range []webrtc.Tuning{{ProbeMTU: -1}, {ProbeMTU: mtu - 4}, {ProbeMTU: 8001}, {MTU: 1300, ProbeMTU: 1200}} {
		if err := a.Tune(tuning); err == nil {
			t.Errorf("%+v is taken", tuning)
		}
	}
	if err := a.Tune(webrtc.Tuning{ProbeMTU: mtu}); err != nil {
		t.Error(err)
	}
}

// TestProbePython probes the path to aiortc, which answers and takes long packets.
func TestProbePython(t *testing.T) {
	for _, offers := range []bool{false, true} {
		t.Run(fmt.Sprintf("offers=%v", offers), func(t *testing.T) {
			noLeaks(t)
			m, n := newNarrow(t, "0.0.0.0:0")
			c, channels, p := withPython(t, offers, 2, webrtc.Tuning{ProbeMTU: probed}, m)
			wholeThereAndBack(t, channels, 6)
			if l, k := n.longest.Load(), n.probes.Load(); l != probed+dtls || k == 0 {
				t.Errorf("the longest packet had %d bytes after %d probes", l, k)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if l := p.line(); l != "closed" {
				t.Errorf("after Close python says %q", l)
			}
		})
	}
}
