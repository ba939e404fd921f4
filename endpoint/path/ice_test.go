package path

import (
	"net"
	"sync"
	"testing"

	"github.com/proxyplane/proxyplane/transport/quic"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// site is one end of a peering as package peer makes it: a UDP socket for QUIC and ICE.
type site struct {
	s     *quic.Socket
	agent *webrtc.Agent
	pair  webrtc.Pair
}

// sites have agreed on a pair of addresses by ICE, on loopback. apart: the offerer's agent has sockets of its own.
func sites(t testing.TB, apart bool) (offerer, answerer *site) {
	t.Helper()
	ctx := background(t)
	make1 := func(own bool, o quic.Options) *site {
		s, err := quic.Listen("127.0.0.1:0", o)
		must(t, err)
		t.Cleanup(func() { s.Close() })
		var mux *webrtc.Mux
		if !own {
			mux, err = webrtc.NewMux(s.Packets(), webrtc.MuxOptions{})
			must(t, err)
			t.Cleanup(func() { mux.Close() })
		}
		a, err := webrtc.NewAgent(webrtc.Config{Mux: mux, Certificate: o.Certificate, Loopback: true})
		must(t, err)
		t.Cleanup(func() { a.Close() })
		return &site{s: s, agent: a}
	}
	offerer = make1(apart, quic.Options{Certificate: certDial(), Verify: expect(certListen())})
	answerer = make1(false, quic.Options{Certificate: certListen(), Verify: expect(certDial())})
	offer, err := offerer.agent.Offer(ctx)
	must(t, err)
	answer, err := answerer.agent.Answer(ctx, offer, webrtc.AnswerOptions{Passive: true})
	must(t, err)
	must(t, offerer.agent.Accept(answer))
	both(t, func(s *site) (err error) {
		s.pair, err = s.agent.Connect(ctx)
		return err
	}, offerer, answerer)
	return offerer, answerer
}

func both(t testing.TB, f func(s *site) error, sites ...*site) {
	t.Helper()
	var wg sync.WaitGroup
	for _, s := range sites {
		wg.Go(func() {
			if err := f(s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func channelPair(t testing.TB) (dialed, accepted Path) {
	a, b := sites(t, false)
	ctx := background(t)
	paths := make(map[*site]Path)
	var mu sync.Mutex
	both(t, func(s *site) error {
		c, err := s.agent.Channels(ctx)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		paths[s] = WebRTC(c, Details{Local: s.pair.Local.String(), Remote: s.pair.Remote.String(), Relayed: s.pair.Relayed})
		return nil
	}, a, b)
	t.Cleanup(func() { paths[a].Close(); paths[b].Close() })
	return paths[a], paths[b]
}

// TestSharedSocket has ICE, DTLS with data channels and QUIC on one UDP socket at each end, all at once.
func TestSharedSocket(t *testing.T) {
	checkLeaks(t)
	a, b := sites(t, false)
	if a.pair.Relayed || a.pair.Remote.String() != b.s.Addr().String() {
		t.Fatalf("%+v", a.pair)
	}
	qa, qb := quicSockets(t, a.s, b.s, net.UDPAddrFromAddrPort(a.pair.Remote), Details{})
	ctx := background(t)
	var ca, cb *webrtc.Channels
	both(t, func(s *site) error {
		c, err := s.agent.Channels(ctx)
		if s == a {
			ca = c
		} else {
			cb = c
		}
		return err
	}, a, b)
	wa, wb := WebRTC(ca, Details{}), WebRTC(cb, Details{})
	defer wb.Close()
	defer wa.Close()
	t.Run("at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for _, d := range [][2]Path{{qa, qb}, {wa, wb}} {
			wg.Go(func() { testNative(t, d[0], d[1], 1<<20) })
		}
		wg.Wait()
	})
}

// TestQUICOverAgent is the case of a relayed pair: where the local candidate is no address of the shared socket, QUIC goes over the agent's connection, while
// the other side, whose candidate is one, has it on its socket.
func TestQUICOverAgent(t *testing.T) {
	checkLeaks(t)
	a, b := sites(t, true)
	over, err := quic.NewSocket(quic.FromConn(a.agent.Conn()), quic.Options{Certificate: certDial(), Verify: expect(certListen())})
	must(t, err)
	defer over.Close()
	qa, qb := quicSockets(t, over, b.s, quic.RelayedPeer, Details{Local: "a", Remote: "b", Relayed: true})
	testNative(t, qa, qb, 2<<20)
	if i := qa.Info(); !i.Relayed || i.Local != "a" || i.Remote != "b" {
		t.Errorf("%+v", i)
	}
	// And the other way round: the side with the relay accepts.
	bc, ac := quicSockets(t, b.s, over, net.UDPAddrFromAddrPort(b.pair.Remote), Details{})
	pair(t, bc, ac)
}
