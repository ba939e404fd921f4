package peer

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/relay"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

func encoded(v any) string {
	b, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(b)
}

func TestAnnouncement(t *testing.T) {
	in := announcement{V: 1, TLS: []string{"192.0.2.1:4000", "[2001:db8::1]:4000", "127.0.0.1:1", "0.0.0.0:5", "192.0.2.1:0", "224.0.0.1:9", "169.254.169.254:80",
		"[fe80::1]:5", "255.255.255.255:5", "[::ffff:127.0.0.1]:5", "[::ffff:192.0.2.2]:5"}, QUIC: true, Instance: newInstance(time.Now())}
	got, addrs, err := parseAnnouncement(in.encode(), false)
	if err != nil || got.Instance != in.Instance || !got.QUIC {
		t.Fatal(got, err)
	}
	if want := []string{"192.0.2.1:4000", "[2001:db8::1]:4000", "192.0.2.2:5"}; !slices.Equal(addrs, want) {
		t.Errorf("%v; want %v", addrs, want)
	}
	if _, addrs, _ = parseAnnouncement(in.encode(), true); len(addrs) != 5 {
		t.Errorf("%v", addrs)
	}
	if a, b := newInstance(time.Now()), newInstance(time.Now().Add(time.Second)); a >= b {
		t.Errorf("instance %s is not before %s", a, b)
	}
	if _, _, err := parseAnnouncement(encoded(map[string]any{"v": 1, "tls": nil, "quic": true, "instance": "x", "later": 5}), true); err != nil {
		t.Error(err)
	}
	for name, s := range map[string]string{
		"empty": "", "no base64": "***", "no JSON": base64.RawURLEncoding.EncodeToString([]byte("{")), "long": strings.Repeat("A", maxAnnouncement+1),
		"version":      encoded(map[string]any{"v": 2, "instance": "x"}),
		"no version":   encoded(map[string]any{"instance": "x"}),
		"no instance":  encoded(map[string]any{"v": 1}),
		"instance":     encoded(map[string]any{"v": 1, "instance": "a b"}),
		"long name":    encoded(map[string]any{"v": 1, "instance": strings.Repeat("x", maxInstance+1)}),
		"many":         encoded(map[string]any{"v": 1, "instance": "x", "tls": slices.Repeat([]string{"192.0.2.1:4"}, maxAddrs+1)}),
		"host name":    encoded(map[string]any{"v": 1, "instance": "x", "tls": []string{"localhost:4"}}),
		"no port":      encoded(map[string]any{"v": 1, "instance": "x", "tls": []string{"192.0.2.1"}}),
		"not strings":  encoded(map[string]any{"v": 1, "instance": "x", "tls": []int{1}}),
		"not a number": encoded(map[string]any{"v": "1", "instance": "x"}),
		"an array":     encoded([]int{1}),
	} {
		if _, _, err := parseAnnouncement(s, true); !errors.Is(err, transport.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzAnnouncement(f *testing.F) {
	f.Add(announcement{V: 1, TLS: []string{"192.0.2.1:4"}, Instance: "x"}.encode())
	f.Add(encoded(map[string]any{"v": 1, "instance": "x", "tls": []any{nil, 1, "::"}}))
	f.Add("e30")
	f.Fuzz(func(t *testing.T, s string) {
		a, addrs, err := parseAnnouncement(s, false)
		if err != nil {
			if !errors.Is(err, transport.ErrCorrupt) || len(err.Error()) > 1000 {
				t.Fatal(err)
			}
			return
		}
		if len(addrs) > maxAddrs || a.Instance == "" {
			t.Fatal(a)
		}
		for _, s := range addrs {
			if ap, err := netip.ParseAddrPort(s); err != nil || !plausible(ap, false) || ap.Addr().IsLoopback() {
				t.Fatal(s, err)
			}
		}
		if b, again, err := parseAnnouncement(a.encode(), false); err != nil || b.Instance != a.Instance || !slices.Equal(addrs, again) {
			t.Fatal(b, again, err)
		}
	})
}

// offerOf returns a real offer that a hostile client may change.
func offerOf(t testing.TB, attrs map[string]string) webrtc.Description {
	t.Helper()
	cert, err := webrtc.NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	a, err := webrtc.NewAgent(webrtc.Config{Certificate: cert, Attributes: attrs, Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	d, err := a.Offer(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Whatever comes from the relay: nothing happens, and the Manager goes on.
func TestHostileMessages(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	h, a, b := pair(t, func(o *Options) { o.MaxPeers = 20 })
	b.put(t, "k", 10)
	good := offerOf(t, map[string]string{attribute: announcement{V: 1, Instance: "x"}.encode()})
	bad := func(old, new string) string {
		return webrtc.Description{Type: "offer", SDP: strings.Replace(good.SDP, old, new, 1)}.String()
	}
	evil := uuid.UUID{7}
	before := a.refused.Load()
	descriptions := []string{"", "{}", "null", "[]", `{"sdp":1,"type":"offer"}`, `{"sdp":"","type":"offer"}`, `{"sdp":"v=0","type":"offer","more":1}`,
		strings.Repeat("x", maxDescription+1), webrtc.Description{Type: "answer", SDP: good.SDP}.String(), bad("a=fingerprint", "a=fingerprinx"),
		bad("a=proxyplane:", "a=proxyplane:!"), bad("a=fingerprint:sha-256 ", "a=fingerprint:sha-256 zz")}
	for i, d := range descriptions {
		id := evil
		id[1] = byte(i)
		if err := a.handle(relay.PeerConnection{SourceUUID: id, SourceName: "evil\n\x00", PeerUUID: a.id, DescriptionType: "offer", Description: d}); err == nil {
			t.Errorf("%.60q was taken", d)
		}
	}
	for _, m := range []relay.PeerConnection{
		{SourceUUID: evil, PeerUUID: b.id, DescriptionType: "offer", Description: good.String()},                        // for somebody else
		{SourceUUID: a.id, PeerUUID: a.id, DescriptionType: "offer", Description: good.String()},                        // from ourselves
		{PeerUUID: a.id, DescriptionType: "offer", Description: good.String()},                                          // from nobody
		{SourceUUID: evil, PeerUUID: a.id, DescriptionType: "candidate", Description: good.String()},                    // no such type
		{SourceUUID: evil, PeerUUID: a.id, DescriptionType: "answer", Description: good.String()},                       // to no offer
		{SourceUUID: evil, PeerUUID: a.id, DescriptionType: "offer", Description: good.String(), Error: "you are dead"}, // an error from a peer
	} {
		if err := a.handle(m); err == nil {
			t.Errorf("%v was taken", m)
		}
	}
	// Many offers of one, and of many, with nobody behind them.
	taken := 0
	for range 100 {
		if a.handle(relay.PeerConnection{SourceUUID: evil, PeerUUID: a.id, DescriptionType: "offer", Description: good.String()}) == nil {
			taken++
		}
	}
	if taken > 20 {
		t.Errorf("%d of 100 offers of one peer at once were taken", taken)
	}
	for i := range 100 {
		a.handle(relay.PeerConnection{SourceUUID: uuid.UUID{8, byte(i)}, PeerUUID: a.id, DescriptionType: "offer", Description: good.String()})
	}
	if n := len(a.Status().Peers); n > 20 {
		t.Errorf("%d peers are known; at most 20", n)
	}
	// One certificate does not speak for two peers.
	until(t, "only one of them is let in", func() bool {
		a.certs.mu.Lock()
		defer a.certs.mu.Unlock()
		for _, gs := range a.certs.by {
			for _, g := range gs {
				if g.p != gs[0].p {
					t.Fatal("one certificate speaks for two")
				}
			}
		}
		return true
	})
	for _, p := range a.Status().Peers { // they take all the room there is until they fail
		if q := a.find(p.UUID); q != nil && p.UUID != b.id {
			q.close()
		}
	}
	if a.refused.Load() == before && h == nil {
		t.Error("nothing was counted")
	}
	if ok, err := a.Exists(ctx, b.id, "k"); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

// A hostile answer ends the attempt, with an error that says so.
func TestHostileAnswer(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	h, a, _ := pair(t, nil)
	for i, text := range []string{"{}", offerOf(t, nil).String(), strings.Repeat("x", 100)} {
		id := uuid.UUID{9, byte(i)}
		c := h.client(id)
		go func() {
			m, err := c.Receive(ctx)
			if err != nil {
				return
			}
			c.Send(ctx, relay.PeerConnection{SourceUUID: id, PeerUUID: m.SourceUUID, DescriptionType: "answer", Description: text})
		}()
		if _, err := a.Exists(ctx, id, "k"); !errors.Is(err, transport.ErrCorrupt) {
			t.Errorf("%.60q: %v", text, err)
		}
	}
}

func TestMeter(t *testing.T) {
	var m meter
	if in, out := m.rates(); in != 0 || out != 0 {
		t.Error(in, out)
	}
	start := time.Now()
	for i := range 20 { // the first seconds are slow, and forgotten
		n := int64(i) * 10
		if i > 10 {
			n = 100 + int64(i-10)*1000
		}
		m.tell(start.Add(time.Duration(i)*time.Second), n, 2*n)
	}
	if in, out := m.rates(); in != 1000 || out != 2000 {
		t.Error(in, out)
	}
}

func FuzzHandle(f *testing.F) {
	d := offerOf(f, map[string]string{attribute: announcement{V: 1, Instance: "x"}.encode()})
	f.Add("offer", d.String(), "")
	f.Add("answer", d.String(), "")
	f.Add("offer", "{}", "error")
	f.Add("offer", fmt.Sprintf(`{"sdp":%q,"type":"offer"}`, "v=0\r\n"), "")
	h, id := newHub(), ids(1)
	m := newNode(f, h.client(id[0]), id[0], func(o *Options) { o.MaxPeers = 4 })
	f.Fuzz(func(t *testing.T, typ, description, text string) {
		m.handle(relay.PeerConnection{SourceUUID: uuid.UUID{1}, PeerUUID: m.id, DescriptionType: typ, Description: description, Error: text})
	})
}
