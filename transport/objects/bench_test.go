package objects

import (
	"errors"
	"fmt"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

func BenchmarkGet(b *testing.B) {
	table := newTable(b, TableOptions{Memory: 1 << 30})
	ids := make([]string, 10_000)
	for i := range ids {
		ids[i] = fmt.Sprintf("3f2504e0-4f89-41d3-9a0c-%012d", i)
		if err := put(table, ids[i], 1024, make([]byte, 1024), 1024, PutOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	for name, id := range map[string]func(int) string{
		"one": func(int) string { return ids[0] }, "many": func(i int) string { return ids[i*7919%len(ids)] }, "missing": func(int) string { return "x" },
	} {
		get := func(i int) {
			buf, err := table.Get(id(i))
			if err != nil && !errors.Is(err, transport.ErrNotFound) {
				b.Error(err)
			}
			buf.Release()
		}
		b.Run("id="+name+"/par=1", func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				get(i)
			}
		})
		b.Run("id="+name+"/par=2", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					get(i)
				}
			})
		})
	}
}

// BenchmarkPut replaces an object, whose memory the next one gets.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{100, 1 << 10, 64 << 10, 1 << 20, 64 << 20} {
		for _, how := range []string{"memcpy", "announced", "unknown"} {
			b.Run(fmt.Sprintf("size=%d/how=%s", size, how), func(b *testing.B) {
				table := newTable(b, TableOptions{Memory: 1 << 30})
				data, dst := make([]byte, size), make([]byte, size)
				announced := int64(size)
				if how == "unknown" {
					announced = -1
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if how == "memcpy" {
						copy(dst, data)
					} else if err := put(table, "a", announced, data, 1<<20, PutOptions{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkSpill puts objects into a Table whose memory is full, and reads one that was spilled.
func BenchmarkSpill(b *testing.B) {
	const n = 1 << 20
	table := newTable(b, TableOptions{Memory: 16 << 20, SpillDir: b.TempDir()})
	data := make([]byte, n)
	i := 0
	b.Run("op=put", func(b *testing.B) {
		b.SetBytes(n)
		for b.Loop() {
			i++
			if err := put(table, fmt.Sprint(i%100), n, data, n, PutOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	for range 100 { // so that there are spilled ones in any case
		i++
		if err := put(table, fmt.Sprint(i%100), n, data, n, PutOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	for _, hold := range []bool{false, true} {
		b.Run(fmt.Sprintf("op=get/mapped=%v", hold), func(b *testing.B) {
			id := fmt.Sprint((i + 1) % 100) // the oldest
			if hold {
				buf, err := table.Get(id)
				if err != nil {
					b.Fatal(err)
				}
				defer buf.Release()
			}
			for b.Loop() {
				buf, err := table.Get(id)
				if err != nil {
					b.Fatal(err)
				}
				buf.Release()
			}
		})
	}
}
