package ucx

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/cgo/ucx"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

// TestNotBuilt holds in both kinds of program.
func TestNotBuilt(t *testing.T) {
	version, _ := ucx.Version()
	_, errListen := Listen(t.Context(), "127.0.0.1:0", nil, ListenOptions{Config: map[string]string{"TLS": "nonesuch"}})
	_, errDial := Dial(t.Context(), "127.0.0.1:1", DialOptions{Config: map[string]string{"TLS": "nonesuch"}})
	_, errExchange := DialExchanger(t.Context(), "127.0.0.1:1", DialOptions{Config: map[string]string{"TLS": "nonesuch"}})
	for what, err := range map[string]error{"listen": errListen, "dial": errDial, "exchange": errExchange} {
		if !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
		if errors.Is(err, transport.ErrNotBuilt) != (version == "") {
			t.Errorf("%s with version %q: %v", what, version, err)
		}
		if version == "" && !strings.Contains(err.Error(), "-tags ucx") {
			t.Errorf("%s: %q does not say what to do", what, err)
		}
	}
}

func TestDenied(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", "192.0.2.1:0", "[2001:db8::1]:0"} {
		if _, err := Listen(t.Context(), addr, nil, ListenOptions{}); !errors.Is(err, transport.ErrDenied) {
			t.Errorf("everybody may come to %s: %v", addr, err)
		}
	}
	o := ListenOptions{Python: echo}
	o.Token = []byte("secret")
	if _, err := Listen(t.Context(), "127.0.0.1:0", nil, o); !errors.Is(err, transport.ErrDenied) {
		t.Errorf("Python's clients with a token: %v", err)
	}
	for _, addr := range []string{"", "host", "host:port", "127.0.0.1:70000", "[::1"} {
		if _, err := Listen(t.Context(), addr, nil, ListenOptions{}); err == nil || errors.Is(err, transport.ErrDenied) {
			t.Errorf("listening at %q: %v", addr, err)
		}
	}
}

// echo answers with what came, in three parts.
func echo(_ context.Context, req *transport.Buffer) (transport.Slices, func(), error) {
	b := req.Bytes()
	if string(b) == "fail" {
		return nil, req.Release, errors.New("no sense")
	}
	return transport.Slices{b[:len(b)/2], b[len(b)/2:], []byte("!")}, req.Release, nil
}

// idle returns a carrier that no worker drives.
func idle() *carrier {
	e := &engine{ops: map[uint64]*op{}, peers: map[ucx.Handle]*carrier{}, eps: map[uint64]*endpoint{}}
	return &carrier{e: e, pool: transport.DefaultPool, remote: "a test", header: maxHeader, greeting: []byte{helloVersion}}
}

// message encodes an active message as a peer would send it.
func encoded(p prefix, h *native.Header, inline string) []byte {
	b := p.append(nil)
	if h != nil {
		b = h.Append(b)
	}
	return append(b, inline...)
}

// TestReceive feeds a carrier with messages out of order, of a frame in several pieces.
func TestReceive(t *testing.T) {
	c := idle()
	h := &native.Header{Type: 7, Meta: 4, Body: 11}
	messages := []ucx.Event{
		{Header: encoded(prefix{kindFrame, 6, 0}, h, "metabo!"), Inline: []byte("dy, ")},
		{Header: encoded(prefix{kindMore, 0, 1}, nil, "d"), Inline: []byte("en")},
		{Header: encoded(prefix{kindMore, 1, 2}, nil, "?")},
		{Header: encoded(prefix{kindFrame, 0, 3}, &native.Header{Type: 8}, "")},
		{Header: encoded(prefix{kindBye, 0, 4}, nil, "")},
	}
	for _, i := range []int{3, 1, 0, 4, 2} {
		c.received(&messages[i])
	}
	var got native.Header
	meta, err := c.ReadFrame(&got)
	if err != nil || string(meta) != "meta" || got.Type != 7 {
		t.Fatalf("%q, %v, %v", meta, got, err)
	}
	body := make([]byte, 11)
	for i := range body { // byte by byte
		if n, err := c.ReadBody(body[i : i+1]); n != 1 || err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	if string(body) != "body, !end?" {
		t.Errorf("body %q", body)
	}
	if _, err := c.ReadFrame(&got); err != nil || got.Type != 8 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := c.ReadFrame(&got); !errors.Is(err, io.EOF) {
		t.Errorf("after the last frame: %v", err)
	}
}

// TestUnheard: who has not said hello is not listened to, and soon hung up on, however his messages are numbered.
func TestUnheard(t *testing.T) {
	h := &native.Header{Type: 7}
	for _, first := range []uint32{0, 1} {
		c := idle()
		c.greeting = nil
		n := uint32(0)
		for ; c.err == nil && n < maxEarly; n++ {
			c.received(&ucx.Event{Header: encoded(prefix{kindFrame, 0, first + n}, h, ""), Inline: make([]byte, 2048)})
		}
		if !errors.Is(c.err, transport.ErrCorrupt) || n > 600 || c.first < len(c.queue) {
			t.Errorf("after %d messages from %d: %v, and %d are to be read", n, first, c.err, len(c.queue)-c.first)
		}
	}
}

// FuzzReceive: whatever a peer sends, the bytes of a frame are as many as it announced, or there is an error; and then memory is bounded.
func FuzzReceive(f *testing.F) {
	h := &native.Header{Type: 7, Meta: 4, Body: 8}
	f.Add(encoded(prefix{kindFrame, 6, 0}, h, "metabody"), []byte("more"), encoded(prefix{kindMore, 0, 1}, nil, ""), []byte("more"))
	f.Add(encoded(prefix{kindHello, 0, 0}, nil, ""), (&hello{[]byte("host"), []byte("address"), (&grant{1, 2, 3}).append(nil)}).append(nil),
		encoded(prefix{kindBye, 0, 1}, nil, ""), []byte{})
	f.Add(encoded(prefix{kindFrame, 0, 1}, &native.Header{}, ""), []byte{}, encoded(prefix{kindFrame, 9, 0}, h, "a"), []byte{})
	f.Fuzz(func(t *testing.T, h1, d1, h2, d2 []byte) {
		c := idle()
		c.greeting = nil
		c.received(&ucx.Event{Header: h1, Inline: d1})
		c = idle()
		for range 3 {
			c.received(&ucx.Event{Header: h1, Inline: d1})
			c.received(&ucx.Event{Header: h2, Inline: d2})
		}
		c.e.lock()
		c.fail(transport.ErrUnavailable) // nothing more comes
		c.e.unlock()
		if c.greeting != nil {
			var h hello
			if h.parse(c.greeting) == nil && len(h.host)+len(h.address) > len(c.greeting) {
				t.Error("a hello longer than it is")
			}
		}
		for range 10 {
			var h native.Header
			meta, err := c.ReadFrame(&h)
			if err != nil {
				return
			}
			if len(meta) != int(h.Meta) || h.Meta > native.MaxMeta {
				t.Fatalf("%d bytes of metadata, announced were %d", len(meta), h.Meta)
			}
			for left := int(h.Body); left > 0; {
				p := make([]byte, min(left, 100))
				n, err := c.ReadBody(p)
				if left -= n; err != nil {
					return
				}
			}
		}
	})
}

func TestPeerInfo(t *testing.T) {
	p := peerInfo{1, 1<<64 - 1}
	got, err := parsePeerInfo(p.append(nil))
	if err != nil || got != p {
		t.Errorf("%v, %v", got, err)
	}
	if p.sum() != wantSum {
		t.Errorf("checksum %x, Python says %x", p.sum(), uint64(wantSum))
	}
}

func FuzzPeerInfo(f *testing.F) {
	f.Add(peerInfo{1, 2}.append(nil))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parsePeerInfo(b); err == nil && string(p.append(nil)) != string(b) {
			t.Errorf("%x reads as %v", b, p)
		}
	})
}

const wantSum = 0x132166423acdd9cb // hash64bits(1, 2**64 - 1) in Python
