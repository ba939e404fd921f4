//go:build !race && !invariants

package proxyplane

import (
	"fmt"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

// TestAllocationBudgets: what a hot path may allocate. The race detector allocates on its own, so these are not counted there.
func TestAllocationBudgets(t *testing.T) {
	ctx := t.Context()
	for _, size := range []int{1000, 8 << 20} { // not a matter of size
		t.Run(fmt.Sprint("size=", size), func(t *testing.T) {
			s := newTestStore(t, fileConfig(t))
			key, err := s.Put(ctx, make([]byte, size))
			if err != nil {
				t.Fatal(err)
			}
			p, err := ProxyFromKey[[]byte](s, key)
			if err != nil {
				t.Fatal(err)
			}
			budget := func(what string, most float64, f func() error) {
				t.Helper()
				if n := testing.AllocsPerRun(50, func() {
					if err := f(); err != nil {
						t.Fatal(err)
					}
				}); n > most {
					t.Errorf("%s of %d bytes: %.0f allocations, at most %.0f", what, size, n, most)
				}
			}
			budget("cached get", 0, func() error { return second(Get[[]byte](ctx, s, key)) })
			budget("resolved proxy", 0, func() error { return second(p.Resolve(ctx)) })
			budget("cached resolve of a fresh proxy", 1, func() error { // the proxy
				p, err := ProxyFromKey[[]byte](s, key)
				if err != nil {
					return err
				}
				return second(p.Resolve(ctx))
			})
			budget("cached view", 2, func() error { // the view's header, and what decoding points it with
				v, err := Get[*transport.Buffer](ctx, s, key)
				v.Release()
				return err
			})
		})
	}
}
