//go:build !race && !invariants

package metrics

import (
	"testing"
	"time"
)

// The numbers differ under the race detector, which allocates by itself.
func TestAllocs(t *testing.T) {
	m := New(0)
	for what, f := range map[string]func(){
		"AddTime":             func() { m.AddTime(Get, "k", time.Millisecond) },
		"AddCounter":          func() { m.AddCounter(CacheHits, "k", 1) },
		"AddAttribute":        func() { m.AddAttribute(GetObjectSize, "k", 5) },
		"AddTime on nil":      func() { (*StoreMetrics)(nil).AddTime(Get, "k", time.Millisecond) },
		"AddAttribute on nil": func() { (*StoreMetrics)(nil).AddAttribute(GetObjectSize, "k", 5) },
	} {
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}
