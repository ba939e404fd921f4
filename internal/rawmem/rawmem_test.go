package rawmem

import (
	"bytes"
	"runtime"
	"testing"
)

func TestMake(t *testing.T) {
	var kept [][]byte
	for _, n := range []int{0, 1, minSize - 1, minSize, minSize + 1, 1 << 20, 3<<20 + 7} {
		b := Make(n)
		if len(b) != n {
			t.Fatalf("%d bytes, want %d", len(b), n)
		}
		for i := range b {
			b[i] = byte(n)
		}
		kept = append(kept, b)
	}
	runtime.GC()
	for _, b := range kept { // nobody else got the same memory
		if want := bytes.Repeat([]byte{byte(len(b))}, len(b)); !bytes.Equal(b, want) {
			t.Errorf("%d bytes changed", len(b))
		}
	}
}

func BenchmarkCopy(b *testing.B) {
	src := make([]byte, 1<<20)
	heap := make([]byte, 512<<20) // so that the collector does not run all the time
	var sink []byte
	for _, bench := range []struct {
		name string
		dst  func() []byte
	}{
		{"into=make", func() []byte { return make([]byte, len(src)) }}, {"into=rawmem", func() []byte { return Make(len(src)) }},
		{"into=warm", func() func() []byte { d := make([]byte, len(src)); return func() []byte { return d } }()},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				sink = bench.dst()
				copy(sink, src)
			}
		})
	}
	runtime.KeepAlive(heap)
}
