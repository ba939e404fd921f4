//go:build !race && !invariants

package redis_test

import (
	"context"
	"runtime"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/redistest"
	"github.com/proxyplane/proxyplane/transport"
)

// TestAllocations bounds what the hot calls allocate: no memory for a value that goes out, and pooled memory for one that comes in.
func TestAllocations(t *testing.T) {
	s := redistest.Start(t)
	c := open(t, at(s))
	ctx, cancel := context.WithCancel(t.Context()) // as in a service: a context that can end costs a few
	defer cancel()
	obj := transport.Slices{[]byte("BS\n"), random(1<<20, 1)}
	key := connectors.Key(connectors.RedisKey{RedisKey: "3f2504e0-4f89-41d3-9a0c-0305e82c3301"})
	for _, call := range []struct {
		name   string
		budget float64
		run    func() error
	}{
		{"set", 5, func() error { return c.Set(ctx, key, obj) }},
		{"get", 8, func() error {
			b, err := c.Get(ctx, key)
			b.Release()
			return err
		}},
		{"exists", 6, func() error {
			_, err := c.Exists(ctx, key)
			return err
		}},
		{"range", 8, func() error {
			b, err := c.GetRange(ctx, key, 1, 1<<19)
			b.Release()
			return err
		}},
	} {
		var err error
		got := testing.AllocsPerRun(50, func() {
			if e := call.run(); e != nil {
				err = e
			}
		})
		t.Logf("%s: %.0f allocations", call.name, got)
		if err != nil || got > call.budget {
			t.Errorf("%s makes %.0f allocations, want at most %.0f (%v)", call.name, got, call.budget, err)
		}
	}
	const rounds = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		if err := c.Set(ctx, key, obj); err != nil {
			t.Fatal(err)
		}
		buf, err := c.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		buf.Release()
	}
	runtime.ReadMemStats(&after)
	if size := (after.TotalAlloc - before.TotalAlloc) / rounds; size > 64<<10 {
		t.Errorf("set and get of 1 MiB allocate %d bytes: the value is copied somewhere", size)
	}
}
