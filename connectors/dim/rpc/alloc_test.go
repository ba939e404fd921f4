//go:build !race && !invariants

package rpc

import (
	"runtime"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

// TestAllocations: what a message costs does not depend on its object.
func TestAllocations(t *testing.T) {
	s := newStore(t)
	h := NewHandler(s, HandlerOptions{})
	obj := make([]byte, 8<<20)
	put := EncodeRequest(OpPut, key, transport.Slices{obj}).Join()
	get := EncodeRequest(OpGet, key, nil).Join()
	answer := (&reply{op: OpGet, key: &key}).encode(obj, true).Join()
	for _, c := range []struct {
		name   string
		allocs float64
		bytes  uint64
		run    func() error
	}{
		{"encode put", 4, 1 << 10, func() error { EncodeRequest(OpPut, key, transport.Slices{obj}); return nil }},
		{"decode answer", 50, 4 << 10, func() error {
			msg := transport.FromBytes(answer)
			r, err := DecodeResponse(msg)
			r.Release()
			return err
		}},
		{"serve put", 60, 5 << 10, func() error { _, _, err := h(t.Context(), transport.FromBytes(put)); return err }},
		{"serve get", 60, 5 << 10, func() error {
			_, release, err := h(t.Context(), transport.FromBytes(get))
			release()
			return err
		}},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const rounds = 50
		allocs := testing.AllocsPerRun(rounds, func() {
			if err := c.run(); err != nil {
				t.Fatal(err)
			}
		})
		runtime.ReadMemStats(&after)
		size := (after.TotalAlloc - before.TotalAlloc) / (rounds + 1)
		t.Logf("%s: %.0f allocations, %d bytes", c.name, allocs, size)
		if allocs > c.allocs || size > c.bytes {
			t.Errorf("%s makes %.0f allocations of %d bytes, want at most %.0f and %d", c.name, allocs, size, c.allocs, c.bytes)
		}
	}
}
