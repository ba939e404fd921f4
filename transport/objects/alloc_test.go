//go:build !race && !invariants

package objects

import (
	"fmt"
	"testing"
)

// What the hot calls allocate. The numbers differ under the race detector, and with recorded stacks.
func TestAllocs(t *testing.T) {
	table := newTable(t, TableOptions{Memory: 1 << 30})
	for _, n := range []int{100, 4096, 1 << 20, 64 << 20} {
		id := fmt.Sprint(n)
		data := make([]byte, min(n, 1<<20))
		store := func() {
			in, err := table.Create(id, int64(n), PutOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for left := n; left > 0; {
				p, err := in.Next(len(data))
				if err != nil {
					t.Fatal(err)
				}
				left -= len(p)
			}
			if err := in.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		store()
		small := 0.0
		if n < 512 {
			small = 1 // the garbage collector's memory
		}
		for what, c := range map[string]struct {
			want float64
			f    func()
		}{
			"Get": {0, func() {
				b, err := table.Get(id)
				if err != nil {
					t.Fatal(err)
				}
				b.Release()
			}},
			"Stat":   {0, func() { _, _ = table.Stat(id) }},
			"Exists": {0, func() { table.Exists(id) }},
			"miss":   {0, func() { _, _ = table.Get("missing") }},
			// However many pieces: the incoming object, its entry, its Buffer; a slab for a size that nobody else uses.
			"put": {3 + small, store},
		} {
			if got := testing.AllocsPerRun(100, c.f); got > c.want {
				t.Errorf("%s of %d bytes: %v allocations, at most %v", what, n, got, c.want)
			}
		}
	}
}
