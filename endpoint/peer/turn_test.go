package peer

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/proxyplane/proxyplane/endpoint/relay/turn"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// Nothing but a TURN server leads to the peer, for both sides or for one.
func TestTURN(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	s, err := turn.New(turn.Options{Address: "127.0.0.1:0", RelayAddress: "127.0.0.1", Users: map[string]string{"u": "p"},
		AllowPeers: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, tc := range []struct {
		name  string
		a, b  bool // RelayOnly
		kinds Kinds
		want  string
	}{{"both", true, true, QUIC | WebRTC, "quic"}, {"offerer", true, false, QUIC, "quic"}, {"answerer", false, true, QUIC, "quic"}, {"channels", true, true, WebRTC, "webrtc"}} {
		t.Run(tc.name, func(t *testing.T) {
			h, id := newHub(), ids(2)
			options := func(only bool) func(*Options) {
				return func(o *Options) {
					o.Paths, o.RelayOnly = tc.kinds, only
					o.Servers = []webrtc.Server{{URLs: []string{"turn:" + s.Addr().String() + "?transport=udp"}, Username: "u", Credential: "p"}}
				}
			}
			a, b := newNode(t, h.client(id[0]), id[0], options(tc.a)), newNode(t, h.client(id[1]), id[1], options(tc.b))
			want := b.put(t, "k", 200_000)
			if got := get(t, ctx, a, b.id, "k", 0, -1); !bytes.Equal(got, want) {
				t.Fatal("the object differs")
			}
			if st := a.peer(b.id); len(st.Paths) == 0 || st.Paths[0].Kind != tc.want || !st.Paths[0].Relayed {
				t.Errorf("%+v", st)
			}
			a.Close()
			b.Close()
		})
	}
}
