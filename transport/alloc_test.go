//go:build !race && !invariants

package transport_test

import (
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

// The numbers differ under the race detector, which allocates by itself, and with recorded stacks.
func TestAllocs(t *testing.T) {
	p := transport.NewPool(1 << 20)
	p.Get(4096).Release()
	large := transport.NewPool(64 << 20)
	large.Get(32 << 20).Release()
	b := transport.FromBytes(make([]byte, 100))
	data := make([]byte, 100)
	s := transport.Slices{data, data}
	var sink []byte
	for what, c := range map[string]struct {
		want float64
		f    func()
	}{
		"Pool.Get, warm":    {1, func() { p.Get(4096).Release() }}, // the header, which is never used again
		"Pool.Get, large":   {1, func() { large.Get(32 << 20).Release() }},
		"FromBytes":         {1, func() { transport.FromBytes(data).Release() }},
		"Slice":             {1, func() { b.Slice(10, 20).Release() }},
		"Retain, Release":   {0, func() { b.Retain().Release() }},
		"TryRetain":         {0, func() { b.TryRetain(); b.Release() }},
		"Bytes":             {0, func() { sink = b.Bytes() }},
		"Detach":            {1, func() { sink = transport.FromBytes(data).Detach() }},
		"Slices.Len":        {0, func() { s.Len() }},
		"Join of one":       {0, func() { sink = s[:1].Join() }},
		"Join of two":       {1, func() { sink = s.Join() }},
		"NewReader":         {2, func() { transport.NewReader(transport.FromBytes(data)).Close() }},
		"AppendTo, in room": {0, func() { sink = s.AppendTo(sink[:0]) }},
	} {
		sink = make([]byte, 0, 1000)
		if n := testing.AllocsPerRun(200, c.f); n > c.want {
			t.Errorf("%s: %v allocations, at most %v", what, n, c.want)
		}
	}
	_ = sink
}
