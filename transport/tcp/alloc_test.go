//go:build !race && !invariants

package tcp

import (
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// A frame there and a frame back allocate nothing, whatever their size.
func TestFramesDoNotAllocate(t *testing.T) {
	for kind, open := range kinds {
		if kind == "tls" { // crypto/tls has its own
			continue
		}
		for _, n := range []int{0, 1000, 1_000_000} {
			a, b := open(t, CarrierOptions{})
			go func() {
				var h native.Header
				dst := make([]byte, n)
				body := transport.Slices{dst[:n/2], dst[n/2:]}
				for {
					meta, err := b.ReadFrame(&h)
					if err != nil {
						return
					}
					if _, err := b.ReadBody(dst); err != nil {
						return
					}
					if err := b.WriteFrame(&h, meta, body); err != nil {
						return
					}
				}
			}()
			var h native.Header
			meta, dst := make([]byte, 36), make([]byte, n)
			body := transport.Slices{dst}
			got := testing.AllocsPerRun(200, func() {
				if err := a.WriteFrame(&h, meta, body); err != nil {
					t.Error(err)
				}
				if _, err := a.ReadFrame(&h); err != nil {
					t.Error(err)
				}
				if _, err := a.ReadBody(dst); err != nil {
					t.Error(err)
				}
			})
			if got >= 1 {
				t.Errorf("over=%s/size=%d: %v allocations", kind, n, got)
			}
			a.Close()
		}
	}
}

// A get into pooled memory costs a few small allocations, client and server together: none for each frame, nothing of the object's size.
func TestGetAllocations(t *testing.T) {
	for name, w := range map[string]way{"tcp": ways["tcp"], "unix": ways["unix"]} {
		s := listen(t, w.address(t), table(t), w.listen)
		c := dial(t, s.Addr(), w.dial)
		ctx := background(t)
		for _, n := range []int{1000, 1_000_000, 12_000_000} {
			if err := c.Put(ctx, "x", transport.Slices{make([]byte, n)}, objects.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			got := testing.AllocsPerRun(20, func() {
				b, err := c.Get(ctx, "x", 0, -1, int64(n))
				if err != nil {
					t.Fatal(err)
				}
				b.Release()
			})
			if got > 10 {
				t.Errorf("over=%s/size=%d: %v allocations", name, n, got)
			}
		}
	}
}
