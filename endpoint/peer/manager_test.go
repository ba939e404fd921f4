package peer

import (
	"bytes"
	"errors"
	"testing"

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
