//go:build !race && !invariants

package local_test

import (
	"fmt"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/local"
	"github.com/proxyplane/proxyplane/transport"
)

// TestAllocations holds the connector to its budget: one copy in, no copy out, whatever the size.
func TestAllocations(t *testing.T) {
	ctx := t.Context()
	c := local.New(local.Options{})
	defer c.Close(ctx)
	for _, size := range []int{0, 1, 1 << 10, 1 << 20, 16 << 20} {
		data := make([]byte, size)
		obj := transport.Slices{[]byte("BS\n"), data}
		key, err := c.Put(ctx, obj)
		if err != nil {
			t.Fatal(err)
		}
		id := key.(connectors.LocalKey)
		check := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		for name, op := range map[string]struct {
			budget float64
			f      func()
		}{
			"Get":      {1, func() { b, err := c.Get(ctx, key); check(err); b.Release() }},            // the Buffer's header
			"GetRange": {1, func() { b, err := c.GetRange(ctx, key, 0, 1); check(err); b.Release() }}, // the same
			"GetBytes": {0, func() { _, err := c.GetBytes(ctx, key); check(err) }},
			"Exists":   {0, func() { _, err := c.Exists(ctx, key); check(err) }},
			"Stat":     {0, func() { _, err := c.Stat(ctx, key); check(err) }},
			"Wait":     {0, func() { check(c.Wait(ctx, key)) }},
			"Set":      {1, func() { check(c.Set(ctx, key, obj)) }},                                   // the copy
			"Put":      {4, func() { k, err := c.Put(ctx, obj); check(err); check(c.Evict(ctx, k)) }}, // copy, id, key, now and then the map
			"PutOwned": {3, func() { k, err := c.PutOwned(ctx, data); check(err); check(c.Evict(ctx, k)) }},
			"Evict":    {0, func() { check(c.Evict(ctx, nobody)) }},
		} {
			t.Run(fmt.Sprintf("op=%s/size=%d", name, size), func(t *testing.T) {
				if n := testing.AllocsPerRun(20, op.f); n > op.budget {
					t.Errorf("%s of %d bytes makes %v allocations, budget %v", name, size, n, op.budget)
				}
			})
		}
		check(c.Evict(ctx, id))
	}
}

// nobody is a key without an object, boxed once.
var nobody connectors.Key = connectors.LocalKey{ID: "nobody"}
