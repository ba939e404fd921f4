package webrtc_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// aiortcOffer is what aiortc 1.16 makes, with the addresses changed.
const aiortcOffer = "v=0\r\no=- 3973000000 3973000000 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\na=msid-semantic:WMS *\r\n" +
	"m=application 47610 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 192.0.2.2\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n" +
	"a=candidate:f6d0cc4bfd55bbd4bbd86aa3e9c2f9d8 1 udp 2130706431 192.0.2.2 47610 typ host\r\n" +
	"a=candidate:8f4e2bb5a1ffcc3d6f6bd51ce6e5ea22 1 udp 2130706431 2001:db8::2 39437 typ host\r\n" +
	"a=candidate:0f3a4c5b1ffcc3d6f6bd51ce6e5ea221 1 udp 1694498815 198.51.100.7 39437 typ srflx raddr 192.0.2.2 rport 47610\r\n" +
	"a=end-of-candidates\r\na=ice-ufrag:f8yM\r\na=ice-pwd:Y5ZCqRVKDQTkxUXbyHC4hZ\r\n" +
	"a=fingerprint:sha-256 60:89:29:AA:8D:39:84:26:88:CB:8E:CE:DE:7D:2D:BD:B1:C6:7D:99:7E:6F:4B:20:DE:46:CD:C7:E7:62:4E:BB\r\n" +
	"a=fingerprint:sha-384 00:11\r\na=setup:actpass\r\n"

func offerOf(sdp string) webrtc.Description { return webrtc.Description{Type: "offer", SDP: sdp} }

func newAgent(t testing.TB) *webrtc.Agent {
	t.Helper()
	a, err := webrtc.NewAgent(webrtc.Config{Loopback: true, Certificate: certificates()[0]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func TestAnswerShape(t *testing.T) {
	noLeaks(t)
	for _, c := range []struct {
		setup   string
		passive bool
		want    string
	}{
		{"actpass", false, "active"}, {"actpass", true, "passive"},
		{"active", false, "passive"}, {"active", true, "passive"},
		{"passive", false, "active"}, {"passive", true, "active"},
	} {
		sdp := strings.ReplaceAll(aiortcOffer, "setup:actpass", "setup:"+c.setup)
		sdp = strings.ReplaceAll(strings.ReplaceAll(sdp, "mid:0", "mid:data"), "BUNDLE 0", "BUNDLE data")
		d, err := newAgent(t).Answer(testContext(t), offerOf(sdp), webrtc.AnswerOptions{Passive: c.passive})
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"a=setup:" + c.want, "a=mid:data", "a=group:BUNDLE data", "a=sctp-port:5000", "a=max-message-size:262144", "a=end-of-candidates",
			"a=fingerprint:sha-256 " + webrtc.Fingerprint(certificates()[0].Certificate[0]),
		} {
			if !strings.Contains(d.SDP, "\r\n"+line+"\r\n") {
				t.Errorf("offer with setup:%s, Passive %v: no line %s in\n%s", c.setup, c.passive, line, d.SDP)
			}
		}
	}
}

func TestHostileSDP(t *testing.T) {
	noLeaks(t)
	replace := func(old, new string) string {
		if !strings.Contains(aiortcOffer, old) {
			t.Fatalf("no %q", old)
		}
		return strings.ReplaceAll(aiortcOffer, old, new)
	}
	video := "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\n"
	for name, sdp := range map[string]string{
		"empty":                "",
		"no media":             aiortcOffer[:strings.Index(aiortcOffer, "m=")],
		"video":                replace("m=application 47610 UDP/DTLS/SCTP webrtc-datachannel", "m=video 9 UDP/TLS/RTP/SAVPF 96"),
		"data and video":       aiortcOffer + video,
		"two":                  aiortcOffer + aiortcOffer[strings.Index(aiortcOffer, "m="):],
		"refused":              replace("application 47610", "application 0"),
		"old protocol":         replace("UDP/DTLS/SCTP webrtc-datachannel", "DTLS/SCTP 5000"),
		"format":               replace("webrtc-datachannel", "other"),
		"lite":                 replace("a=mid:0", "a=ice-lite\r\na=mid:0"),
		"session lite":         replace("a=group", "a=ice-lite\r\na=group"),
		"no user":              replace("a=ice-ufrag:f8yM\r\n", ""),
		"short user":           replace("f8yM", "f8y"),
		"long user":            replace("f8yM", strings.Repeat("x", 257)),
		"odd user":             replace("f8yM", "f8yM:x"),
		"short password":       replace("Y5ZCqRVKDQTkxUXbyHC4hZ", "Y5ZCqRVKDQTkxUXbyHC4h"),
		"no fingerprint":       replace("a=fingerprint:", "a=x:"),
		"only others":          replace("sha-256", "sha-1"),
		"short fingerprint":    replace("60:89:", ""),
		"odd fingerprint":      replace("60:89", "60-89"),
		"several fingerprints": replace("a=fingerprint:sha-384 00:11", "a=fingerprint:sha-256 61:89:29:AA:8D:39:84:26:88:CB:8E:CE:DE:7D:2D:BD:B1:C6:7D:99:7E:6F:4B:20:DE:46:CD:C7:E7:62:4E:BB"),
		"no setup":             replace("a=setup:actpass\r\n", ""),
		"setup":                replace("setup:actpass", "setup:holdconn"),
		"port":                 replace("sctp-port:5000", "sctp-port:5001"),
		"message size":         replace("max-message-size:262144", "max-message-size:-1"),
		"small messages":       replace("max-message-size:262144", "max-message-size:1"),
		"mid":                  replace("a=mid:0", "a=mid:a b"),
		"long mid":             replace("a=mid:0", "a=mid:"+strings.Repeat("m", 100)),
		"too long":             aiortcOffer + strings.Repeat("a=x:y\r\n", 20_000),
		"binary":               "\x00\xff\x80v=0",
		"truncated":            aiortcOffer[:200],
	} {
		_, err := newAgent(t).Answer(testContext(t), offerOf(sdp), webrtc.AnswerOptions{})
		if !errors.Is(err, transport.ErrCorrupt) && !errors.Is(err, transport.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, typ := range []string{"answer", "bye", ""} {
		if _, err := newAgent(t).Answer(testContext(t), webrtc.Description{Type: typ, SDP: aiortcOffer}, webrtc.AnswerOptions{}); !errors.Is(err, transport.ErrCorrupt) {
			t.Errorf("type %q: %v", typ, err)
		}
	}
	// An answer must have chosen.
	a := newAgent(t)
	if _, err := a.Offer(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for _, sdp := range []string{aiortcOffer, replace("setup:actpass", "setup:active\r\na=x:y") + video, strings.ReplaceAll(replace("setup:actpass", "setup:active"), "mid:0", "mid:1")} {
		if err := a.Accept(webrtc.Description{Type: "answer", SDP: sdp}); !errors.Is(err, transport.ErrCorrupt) {
			t.Error(err)
		}
	}
	if err := a.Accept(webrtc.Description{Type: "answer", SDP: replace("setup:actpass", "setup:active")}); err != nil {
		t.Error(err)
	}
	if err := a.Accept(webrtc.Description{Type: "answer", SDP: replace("setup:actpass", "setup:active")}); err == nil {
		t.Error("a second answer was accepted")
	}
}

// TestHostileCandidates has an offer with candidates of all sorts, none of which may be fatal, and far too many.
func TestHostileCandidates(t *testing.T) {
	noLeaks(t)
	lines := []string{
		"x", "1 1 udp 1 192.0.2.1", "1 1 udp 1 224.0.0.1 99 typ host", "1 1 udp 1 0.0.0.0 99 typ host", "1 1 udp 1 127.0.0.1 22 typ host", "1 1 udp 1 x.local 99 typ host",
		"1 1 udp 1 host.example 99 typ host", "1 1 udp 1 192.0.2.1 99999 typ host", "1 1 udp 99999999999 192.0.2.1 1 typ host", "1 2 udp 1 192.0.2.1 1 typ host",
		"1 1 tcp 1 192.0.2.1 1 typ host tcptype passive", "1 1 udp 1 192.0.2.1 1 typ x", "1 1 udp 1 192.0.2.1 1 typ srflx raddr", "1 1 udp 1 fe80::1%eth0 1 typ host",
		strings.Repeat("f", 5000) + " 1 udp 1 192.0.2.1 1 typ host", "1 1 udp 1 192.0.2.1 1 typ host " + strings.Repeat("k v ", 500), "1 1 udp 1 192.0.2.1 1 typ prflx",
	}
	for i := range 1000 {
		lines = append(lines, fmt.Sprintf("1 1 udp 1 198.51.100.1 %d typ host", 1000+i))
	}
	sdp := aiortcOffer
	for _, l := range lines {
		if len(sdp) < 60_000 {
			sdp += "a=candidate:" + l + "\r\n"
		}
	}
	a, err := webrtc.NewAgent(webrtc.Config{Certificate: certificates()[0], GatherTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Answer(testContext(t), offerOf(sdp), webrtc.AnswerOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestDescription(t *testing.T) {
	for _, s := range []string{
		"", "x", "null", "[]", "{}", `{"type": "offer"}`, `{"sdp": "x"}`, `{"sdp": "x", "type": "bye"}`, `{"sdp": 1, "type": "offer"}`,
		`{"type": "candidate", "candidate": "candidate:1", "id": "0", "label": 0}`,
	} {
		if d, err := webrtc.ParseDescription(s); !errors.Is(err, transport.ErrCorrupt) {
			t.Errorf("%s: %v, %v", s, d, err)
		}
	}
	if _, err := webrtc.ParseDescription(`{"type": "offer", "sdp": "` + strings.Repeat("x", 70_000) + `"}`); !errors.Is(err, transport.ErrTooLarge) {
		t.Error(err)
	}
	d := offerOf("a\r\n\"\\é𝄞\x7f\t")
	if got, want := d.String(), `{"sdp": "a\r\n\"\\\u00e9\ud834\udd1e\u007f\t", "type": "offer"}`; got != want {
		t.Errorf("%s instead of %s", got, want)
	}
	if back, err := webrtc.ParseDescription(d.String()); err != nil || back != d {
		t.Errorf("%q, %v", back, err)
	}
	f, err := offerOf(aiortcOffer).Fingerprint()
	if err != nil || !strings.HasPrefix(f, "60:89:29:AA:") {
		t.Error(f, err)
	}
	if f, err := offerOf(strings.ReplaceAll(aiortcOffer, "60:89:29:AA", "60:89:29:aa")).Fingerprint(); err != nil || !strings.HasPrefix(f, "60:89:29:AA:") {
		t.Error(f, err)
	}
}

func FuzzDescription(f *testing.F) {
	f.Add(offerOf(aiortcOffer).String())
	f.Add(webrtc.Description{Type: "answer", SDP: strings.ReplaceAll(aiortcOffer, "actpass", "active")}.String())
	f.Add(`{"sdp": "v=0\r\no=- 1 1 IN IP6 ::\r\ns=-\r\nt=0 0\r\na=x\r\nm=application 9/2 UDP/DTLS/SCTP webrtc-datachannel\r\n", "type": "offer"}`)
	f.Fuzz(func(t *testing.T, s string) {
		d, err := webrtc.ParseDescription(s)
		if err != nil {
			return
		}
		if back, err := webrtc.ParseDescription(d.String()); err != nil || back != d && strings.ToValidUTF8(d.SDP, "") == d.SDP {
			t.Fatalf("%q came back as %q: %v", d, back, err)
		}
		d.Attribute("proxyplane")
		if p, err := d.Fingerprint(); err == nil && len(p) != 95 {
			t.Fatalf("fingerprint %q", p)
		}
	})
}

// FuzzSDP reads SDPs without their JSON, which hides most from the fuzzer.
func FuzzSDP(f *testing.F) {
	f.Add(aiortcOffer)
	f.Add(strings.ReplaceAll(aiortcOffer, "\r\n", "\n"))
	f.Fuzz(func(t *testing.T, s string) {
		for _, typ := range []string{"offer", "answer"} {
			d := webrtc.Description{Type: typ, SDP: s}
			d.Attribute("group")
			if _, err := d.Fingerprint(); err != nil && !errors.Is(err, transport.ErrCorrupt) && !errors.Is(err, transport.ErrTooLarge) {
				t.Fatal(err)
			}
		}
	})
}
