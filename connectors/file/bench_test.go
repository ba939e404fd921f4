package file

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

var benchSizes = []struct {
	name string
	n    int
}{{"1KiB", 1 << 10}, {"100KiB", 100 << 10}, {"1MiB", 1 << 20}, {"100MiB", 100 << 20}}

// BenchmarkFile has the floors (op=floor-...) beside the operations. Everything that is stored is removed again, within the time for writes and
// floors alike, since memory must not grow.
func BenchmarkFile(b *testing.B) {
	c, dir := open1(b)
	ctx := context.Background()
	check := func(b *testing.B, err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	touch := func(p []byte) {
		s := byte(0)
		for i := 0; i < len(p); i += 4096 {
			s += p[i]
		}
		touched = s
	}
	for _, size := range benchSizes {
		data := bytes.Repeat([]byte("x"), size.n)
		o := transport.Slices{data}
		key := mustPut(b, c, o)
		path := filepath.Join(dir, "floor")
		buf := make([]byte, size.n)
		drop := func(k connectors.Key, err error) {
			if err == nil {
				err = c.Evict(ctx, k)
			}
			check(b, err)
		}
		get := func(buf *transport.Buffer, err error) *transport.Buffer { check(b, err); return buf }
		open := func() *os.File { f, err := os.Open(filepath.Join(dir, key.Filename)); check(b, err); return f }
		deferred, err := c.NewKey(ctx)
		check(b, err)
		for _, op := range []struct {
			name string
			f    func()
		}{
			{"put+evict", func() { drop(c.Put(ctx, o)) }},
			{"set-replace", func() { check(b, c.Set(ctx, deferred, o)) }},
			{"floor-write+remove", func() {
				f, err := os.Create(path)
				check(b, err)
				f.Write(data)
				f.Close()
				os.Remove(path)
			}},
			{"get", func() { get(c.Get(ctx, key)).Release() }},
			{"get-touch", func() { p := get(c.Get(ctx, key)); touch(p.Bytes()); p.Release() }},
			{"getbytes", func() { p, err := c.GetBytes(ctx, key); check(b, err); touch(p) }},
			{"floor-read", func() { f := open(); f.Read(buf); f.Close() }},
			{"floor-mmap-touch", func() {
				f := open()
				p := get(transport.Map(f, 0, int64(size.n)))
				f.Close()
				touch(p.Bytes())
				p.Release()
			}},
			{"range", func() { get(c.GetRange(ctx, key, int64(size.n/2), 1000)).Release() }},
			{"exists", func() { _, err := c.Exists(ctx, key); check(b, err) }},
			{"stream-get", func() {
				r, err := c.GetStream(ctx, key)
				check(b, err)
				_, err = r.WriteTo(struct{ io.Writer }{io.Discard})
				check(b, err)
				r.Close()
			}},
			{"stream-put+evict", func() {
				w, err := c.PutStream(ctx, int64(size.n))
				check(b, err)
				_, err = w.ReadFrom(struct{ io.Reader }{bytes.NewReader(data)})
				check(b, err)
				drop(w.Commit())
			}},
		} {
			b.Run(fmt.Sprintf("op=%s/size=%s", op.name, size.name), func(b *testing.B) {
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				for b.Loop() {
					op.f()
				}
			})
		}
		check(b, c.Evict(ctx, key))
		check(b, c.Evict(ctx, deferred))
	}
}

// BenchmarkPut is put alone; what is stored is removed in between, in large portions.
func BenchmarkPut(b *testing.B) {
	for _, size := range benchSizes {
		b.Run("size="+size.name, func(b *testing.B) {
			c, dir := open1(b)
			o := transport.Slices{bytes.Repeat([]byte("x"), size.n)}
			b.SetBytes(int64(size.n))
			b.ReportAllocs()
			stored := 0
			for b.Loop() {
				mustPut(b, c, o)
				if stored += max(size.n, 64<<10); stored > 256<<20 {
					b.StopTimer() // once in 4,096 objects or a quarter of a gigabyte
					for _, n := range list(b, dir) {
						os.Remove(filepath.Join(dir, n))
					}
					stored = 0
					b.StartTimer()
				}
			}
		})
	}
}

// BenchmarkBatch is 16 objects at once and one after the other.
func BenchmarkBatch(b *testing.B) {
	for _, size := range benchSizes[:3] {
		for _, batch := range []bool{false, true} {
			b.Run(fmt.Sprintf("op=put+get+evict/n=16/batch=%t/size=%s", batch, size.name), func(b *testing.B) {
				c, _ := open1(b)
				ctx := context.Background()
				o := transport.Slices{bytes.Repeat([]byte("x"), size.n)}
				objs := make([]transport.Slices, 16)
				for i := range objs {
					objs[i] = o
				}
				b.SetBytes(int64(16 * size.n))
				b.ReportAllocs()
				for b.Loop() {
					keys := make([]connectors.Key, 16)
					bufs := make([]*transport.Buffer, 16)
					var err error
					if batch {
						if keys, err = c.PutBatch(ctx, objs); err == nil {
							bufs, err = c.GetBatch(ctx, keys)
						}
					} else {
						for i := range objs {
							keys[i] = mustPut(b, c, objs[i])
						}
						for i := range keys {
							if bufs[i], err = c.Get(ctx, keys[i]); err != nil {
								break
							}
						}
					}
					if err != nil {
						b.Fatal(err)
					}
					for _, buf := range bufs {
						buf.Release()
					}
					if err := c.EvictBatch(ctx, keys); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkWait is the way from Set in one connector to the return of Wait in another.
func BenchmarkWait(b *testing.B) {
	c, dir := open1(b)
	d := newConnector(b, Options{StoreDir: dir})
	defer d.Close(context.Background())
	ctx := context.Background()
	done := make(chan error)
	b.ReportAllocs()
	for b.Loop() {
		k, err := c.NewKey(ctx)
		if err != nil {
			b.Fatal(err)
		}
		go func() { done <- c.Wait(ctx, k) }()
		if err := d.Set(ctx, k, obj("x")); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		if err := d.Evict(ctx, k); err != nil {
			b.Fatal(err)
		}
	}
}

var touched byte
