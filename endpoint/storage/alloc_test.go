//go:build !race && !invariants

package storage

import "testing"

// Asking for what is not there is what peers and proxies do all the time.
func TestAllocations(t *testing.T) {
	s := mustOpen(t, small(t))
	mustPut(t, s, "k", content(1, 1000))
	mustPut(t, s, "file", content(1, 10_000))
	held, err := s.Get("file")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	get := func(id string) func() {
		return func() {
			b, err := s.Get(id)
			if err == nil {
				b.Release()
			}
		}
	}
	for _, c := range []struct {
		name string
		most float64
		call func()
	}{
		{"Stat", 0, func() { _, _ = s.Stat("k") }},
		{"Stat of nothing", 0, func() { _, _ = s.Stat("none") }},
		{"Exists", 0, func() { s.Exists("none") }},
		{"Evict of nothing", 0, func() { s.Evict("none") }},
		{"Get of nothing", 2, get("none")},
		{"Get of a mapping", 2, get("file")},
		{"Get", 16, get("k")}, // the driver's, but for the value and its Buffer
	} {
		if n := testing.AllocsPerRun(50, c.call); n > c.most {
			t.Errorf("%s: %v allocations, at most %v", c.name, n, c.most)
		}
	}
}
