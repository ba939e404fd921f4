package cache

import (
	"container/list"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

const mib = 1 << 20

// uuidKey is a key as connectors make them: 36 bytes.
func uuidKey(i int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", i, i) }

func newCache(tb testing.TB, maxBytes int64) *Cache {
	tb.Helper()
	c, err := New(maxBytes)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

func BenchmarkGet(b *testing.B) {
	for _, held := range []string{"value", "buffer"} {
		for _, keys := range []int{1, 1024} {
			b.Run(fmt.Sprintf("held=%s/keys=%d", held, keys), func(b *testing.B) {
				c := newCache(b, 64*mib)
				names := fill(c, held, keys)
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					e, ok := c.Get(names[i&(keys-1)])
					if !ok {
						b.Fatal("miss")
					}
					e.Buf.Release()
					i++
				}
			})
		}
	}
}

func BenchmarkGetParallel(b *testing.B) {
	for _, held := range []string{"value", "buffer"} {
		for _, keys := range []int{1, 1024} {
			b.Run(fmt.Sprintf("held=%s/keys=%d/par=8", held, keys), func(b *testing.B) {
				c := newCache(b, 64*mib)
				names := fill(c, held, keys)
				b.ReportAllocs()
				b.SetParallelism(max(1, 8/runtime.GOMAXPROCS(0)))
				b.RunParallel(func(pb *testing.PB) {
					i := rand.Int()
					for pb.Next() {
						e, ok := c.Get(names[i&(keys-1)])
						if !ok {
							b.Error("miss")
							return
						}
						e.Buf.Release()
						i++
					}
				})
			})
		}
	}
}

func fill(c *Cache, held string, keys int) []string {
	names := make([]string, keys)
	for i := range names {
		names[i] = uuidKey(i)
		e := Entry{Value: i, Size: 1024}
		if held == "buffer" {
			e = Entry{Buf: transport.FromBytes(make([]byte, 1024)), Size: 1024}
		}
		c.Set(names[i], e)
	}
	return names
}

func BenchmarkFetch(b *testing.B) {
	value := Entry{Value: "v", Size: 1024}
	fn := func(context.Context) (Entry, error) { return value, nil }
	b.Run("case=hit", func(b *testing.B) {
		c := newCache(b, 64*mib)
		key := uuidKey(1)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Fetch(b.Context(), key, fn); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, bound := range []int64{0, mib, 64 * mib} {
		b.Run(fmt.Sprintf("case=miss/bound=%d", bound), func(b *testing.B) {
			c := newCache(b, bound)
			keys := make([]string, 1<<18) // more than either bound holds
			for i := range keys {
				keys[i] = uuidKey(i)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := c.Fetch(b.Context(), keys[i&(len(keys)-1)], fn); err != nil {
					b.Fatal(err)
				}
				i++
			}
			b.ReportMetric(c.Stats().HitRatio(), "hits/op")
		})
	}
}

func BenchmarkSet(b *testing.B) {
	for _, size := range []int64{1 << 10, 8 * mib} { // in the window, and past it with a wait for the policy
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			c := newCache(b, 64*mib)
			keys := make([]string, 1<<12)
			for i := range keys {
				keys[i] = uuidKey(i)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				c.Set(keys[i&(len(keys)-1)], Entry{Size: size})
				i++
			}
		})
	}
}

// BenchmarkZipf reports the hit ratio on a skewed load that does not fit, for our policy and for that of ProxyStore's cache, least recently
// used, with the same bound. Beside the load runs nothing, a scan of keys that come once, or time: every 50,000 lookups other keys are the hot ones.
func BenchmarkZipf(b *testing.B) {
	type policy interface {
		get(key string) bool
		set(key string, size int64)
	}
	for _, beside := range []string{"nothing", "scan", "time"} {
		for _, name := range []string{"ours", "lru"} {
			b.Run(fmt.Sprintf("policy=%s/beside=%s", name, beside), func(b *testing.B) {
				var c policy = ours{newCache(b, mib)}
				if name == "lru" {
					c = &lru{left: mib, at: make(map[string]*list.Element)}
				}
				r := rand.New(rand.NewPCG(1, 2))
				z := rand.NewZipf(r, 1.1, 1, 1<<14)
				keys := make([]string, 1<<14+1)
				for i := range keys {
					keys[i] = uuidKey(i)
				}
				hits, lookups, once := 0, 0, 1<<20
				b.ReportAllocs()
				for b.Loop() {
					i := int(z.Uint64())
					if beside == "time" {
						i = (i + lookups/50_000*1000) % len(keys)
					}
					key := keys[i]
					lookups++
					if c.get(key) {
						hits++
					} else {
						c.set(key, 1024)
					}
					if beside == "scan" {
						once++
						key := uuidKey(once)
						c.get(key)
						c.set(key, 1024)
					}
				}
				b.ReportMetric(float64(hits)/float64(lookups), "hits/op")
			})
		}
	}
}

type ours struct{ c *Cache }

func (o ours) get(key string) bool        { _, ok := o.c.Get(key); return ok }
func (o ours) set(key string, size int64) { o.c.Set(key, Entry{Size: size}) }

type lru struct {
	left int64
	list list.List
	at   map[string]*list.Element
}

func (l *lru) get(key string) bool {
	e := l.at[key]
	if e != nil {
		l.list.MoveToFront(e)
	}
	return e != nil
}

func (l *lru) set(key string, size int64) {
	l.at[key] = l.list.PushFront(key)
	for l.left -= size + int64(len(key)) + overhead; l.left < 0; l.left += size + int64(len(key)) + overhead {
		delete(l.at, l.list.Remove(l.list.Back()).(string))
	}
}
