package multi

import (
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/local"
	"github.com/proxyplane/proxyplane/transport"
)

// BenchmarkGet shows what routing adds: conn=local is the child alone.
func BenchmarkGet(b *testing.B) {
	child := local.New(local.Options{})
	m := newMulti(b, map[string]Child{"child": {child, Policy{}}})
	for name, c := range map[string]connectors.Connector{"local": child, "multi": m} {
		b.Run("conn="+name+"/size=1KiB", func(b *testing.B) {
			key, err := c.Put(b.Context(), sized(1<<10))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(1 << 10)
			b.ReportAllocs()
			for b.Loop() {
				buf, err := c.Get(b.Context(), key)
				if err != nil {
					b.Fatal(err)
				}
				buf.Release()
			}
		})
	}
}

// BenchmarkPut stores into the last of ten children.
func BenchmarkPut(b *testing.B) {
	children := map[string]Child{}
	for i := range 10 {
		children[string(rune('a'+i))] = Child{local.New(local.Options{}), Policy{Priority: -i, MaxSizeBytes: int64(100 * (i + 1))}}
	}
	m := newMulti(b, children)
	obj := transport.Slices{make([]byte, 950)}
	b.SetBytes(950)
	b.ReportAllocs()
	for b.Loop() {
		k, err := m.Put(b.Context(), obj)
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Evict(b.Context(), k); err != nil {
			b.Fatal(err)
		}
	}
}
