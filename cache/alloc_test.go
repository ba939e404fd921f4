//go:build !race && !invariants

package cache

import (
	"context"
	"testing"
)

// The numbers differ under the race detector, which allocates by itself.
func TestAllocs(t *testing.T) {
	value := Entry{Value: "v", Size: 100}
	fn := func(context.Context) (Entry, error) { return value, nil }
	for _, held := range []string{"value", "buffer"} {
		c := newCache(t, mib)
		key := fill(c, held, 1)[0]
		ctx := t.Context()
		for what, f := range map[string]func(){
			"Get":       func() { e, _ := c.Get(key); e.Buf.Release() },
			"Get, miss": func() { c.Get("absent") },
			"Fetch": func() {
				e, err := c.Fetch(ctx, key, fn)
				if err != nil {
					t.Fatal(err)
				}
				e.Buf.Release()
			},
		} {
			if n := testing.AllocsPerRun(1000, f); n != 0 {
				t.Errorf("%s of a %s: %v allocations", what, held, n)
			}
		}
	}
	none := newCache(t, 0)
	if n := testing.AllocsPerRun(1000, func() { none.Fetch(t.Context(), "k", fn) }); n > 1 {
		t.Errorf("Fetch of a cache that keeps nothing: %v allocations, want the flight only", n)
	}
	c := newCache(t, mib)
	if n := testing.AllocsPerRun(1000, func() { c.Set("k", value) }); n > 2 {
		t.Errorf("Set: %v allocations, want the node and its cell", n)
	}
}
