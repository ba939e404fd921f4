//go:build cgo && ucx && !race && !invariants

package ucx

import (
	"runtime"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// TestAllocations bounds what calls allocate, and that no memory goes into the bytes of an object.
func TestAllocations(t *testing.T) {
	for _, tls := range []string{variants["tcp"], variants["cma"]} {
		s := serve(t, ListenOptions{Config: config(tls)})
		c := dialTo(t, s.Addr(), DialOptions{Config: config(tls)})
		for _, n := range []int{1000, 1 << 20} {
			obj := transport.Slices{[]byte("BS\n"), random(n)}
			for _, call := range []struct {
				name   string
				budget float64 // of client and server together
				run    func() error
			}{
				{"put", 14, func() error { return c.Put(t.Context(), "o", obj, objects.PutOptions{}) }},
				{"get", 12, func() error {
					b, err := c.Get(t.Context(), "o", 0, -1, obj.Len())
					b.Release()
					return err
				}},
				{"ping", 6, func() error { return c.Ping(t.Context()) }},
			} {
				var err error
				run := func() {
					if e := call.run(); e != nil {
						err = e
					}
				}
				got := testing.AllocsPerRun(100, run)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				for range 50 {
					run()
				}
				runtime.ReadMemStats(&after)
				bytes := (after.TotalAlloc - before.TotalAlloc) / 50
				t.Logf("%s, %s of %d bytes: %.0f allocations, %d bytes", tls, call.name, n, got, bytes)
				if err != nil || got > call.budget || bytes > 16<<10 {
					t.Errorf("%s, %s of %d bytes makes %.0f allocations of %d bytes, want at most %.0f of 16 KiB (%v)", tls, call.name, n, got, bytes, call.budget, err)
				}
			}
		}
	}
}
