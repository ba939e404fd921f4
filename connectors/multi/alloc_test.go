//go:build !race && !invariants

package multi

import (
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/local"
)

// TestAllocations: routing adds nothing to a child's reads, and to its Put only the key around the key.
func TestAllocations(t *testing.T) {
	ctx := t.Context()
	child := local.New(local.Options{})
	m := newMulti(t, map[string]Child{"child": {child, Policy{}}})
	measure := func(c connectors.Connector) (put, get, exists float64) {
		obj := sized(100)
		var key connectors.Key
		put = testing.AllocsPerRun(200, func() {
			var err error
			if key, err = c.Put(ctx, obj); err != nil {
				t.Fatal(err)
			}
			if err := c.Evict(ctx, key); err != nil {
				t.Fatal(err)
			}
		})
		key, err := c.Put(ctx, obj)
		if err != nil {
			t.Fatal(err)
		}
		get = testing.AllocsPerRun(200, func() {
			b, err := c.Get(ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
		})
		exists = testing.AllocsPerRun(200, func() {
			if _, err := c.Exists(ctx, key); err != nil {
				t.Fatal(err)
			}
		})
		return put, get, exists
	}
	p0, g0, e0 := measure(child)
	p1, g1, e1 := measure(m)
	if p1 > p0+1 || g1 > g0 || e1 > e0 {
		t.Errorf("put %v, get %v, exists %v; the child alone %v, %v, %v", p1, g1, e1, p0, g0, e0)
	}
}
