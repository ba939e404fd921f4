//go:build !race && !invariants

package file

import (
	"context"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

// TestAllocs holds what one call may allocate. The race detector's own allocations would count, hence the build tag.
func TestAllocs(t *testing.T) {
	c, _ := open1(t)
	ctx := context.Background()
	small := transport.Slices{make([]byte, 4), make([]byte, 1000)}
	key := mustPut(t, c, small)
	large := mustPut(t, c, transport.Slices{make([]byte, 1<<20)})
	for _, tc := range []struct {
		name string
		most float64
		f    func()
	}{
		{"put", 5, func() {
			if _, err := c.Put(ctx, small); err != nil {
				t.Fatal(err)
			}
		}},
		{"get", 6, func() {
			b, err := c.Get(ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
		}},
		{"get-mapped", 10, func() {
			b, err := c.Get(ctx, large)
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
		}},
		{"exists", 4, func() {
			if ok, err := c.Exists(ctx, key); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}},
	} {
		if got := testing.AllocsPerRun(100, tc.f); got > tc.most {
			t.Errorf("%s: %v allocations, at most %v", tc.name, got, tc.most)
		} else {
			t.Logf("%s: %v allocations", tc.name, got)
		}
	}
}
