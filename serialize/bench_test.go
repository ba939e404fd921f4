package serialize_test

import (
	"fmt"
	"testing"

	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

var sizes = []struct {
	name string
	n    int
}{{"1KiB", 1 << 10}, {"1MiB", 1 << 20}, {"64MiB", 64 << 20}}

func BenchmarkEncode(b *testing.B) {
	for _, size := range sizes {
		floats := make([]float64, size.n/8)
		a, err := serialize.NewArray(floats)
		if err != nil {
			b.Fatal(err)
		}
		for _, v := range []struct {
			kind  string
			value any
		}{{"bytes", make([]byte, size.n)}, {"array", a}, {"dict", map[string]any{"data": make([]byte, size.n), "array": a}}} {
			b.Run(fmt.Sprintf("kind=%s/size=%s", v.kind, size.name), func(b *testing.B) {
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := serialize.Encode(v.value); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, size := range sizes {
		a, err := serialize.NewArray(make([]float64, size.n/8))
		if err != nil {
			b.Fatal(err)
		}
		list := make([]any, size.n/16)
		for i := range list {
			list[i] = float64(i)
		}
		for _, v := range []struct {
			kind  string
			value any
		}{{"bytes", make([]byte, size.n)}, {"array", a}, {"dict", map[string]any{"data": make([]byte, size.n)}}, {"list", list}} {
			if v.kind == "list" && size.n > 1<<20 {
				continue // millions of boxed numbers measure the garbage collector
			}
			obj := encode(b, v.value)
			for _, backing := range []transport.Backing{transport.GC, transport.Mapped} {
				buf := transport.NewBuffer(obj, backing, nil)
				b.Run(fmt.Sprintf("kind=%s/size=%s/mem=%v", v.kind, size.name, backing), func(b *testing.B) {
					b.SetBytes(int64(buf.Len()))
					b.ReportAllocs()
					for b.Loop() {
						v, err := serialize.Decode(buf)
						if err != nil {
							b.Fatal(err)
						}
						if a, ok := v.(*serialize.Array); ok {
							a.Release()
						}
					}
				})
				buf.Release()
			}
		}
	}
}

func BenchmarkCopy(b *testing.B) {
	data := make([]float64, 1<<20)
	big, err := serialize.ParseDType(">f8")
	if err != nil {
		b.Fatal(err)
	}
	for _, order := range []string{"C", "F", "big"} {
		a, err := serialize.NewArray(data, 1024, 1024)
		if err != nil {
			b.Fatal(err)
		}
		a.Fortran = order == "F"
		if order == "big" {
			a.DType = big
		}
		b.Run("order="+order, func(b *testing.B) {
			b.SetBytes(8 << 20)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := serialize.Copy[float64](a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
