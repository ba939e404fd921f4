//go:build !race && !invariants

package native_test

import (
	"context"
	"io"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// TestAllocations bounds what calls allocate on both sides together, and shows that chunks cost nothing: 16 times the length, no more allocations.
func TestAllocations(t *testing.T) {
	for _, v := range []struct {
		name string
		o    setup
	}{
		{"plain", setup{}},
		{"sums", setup{untrust: true}},
		{"s2", setup{c: native.ClientOptions{Compress: native.CompressS2}}},
		{"zstd", setup{c: native.ClientOptions{Compress: native.CompressZstd}}},
	} {
		t.Run(v.name, func(t *testing.T) {
			v.o.c.Chunk, v.o.s.Chunk, v.o.c.Window = 8<<10, 8<<10, 64<<10
			p := v.o.start(t)
			ctx := context.Background()
			live, cancel := context.WithCancel(ctx)
			defer cancel()
			const short, long = 128 << 10, 2 << 20
			text := make([]byte, long)
			for i := range text {
				text[i] = byte(i >> 4)
			}
			per := func(name string, f func(n int), budget float64) {
				measure := func(n int) float64 {
					for range 3 {
						f(n)
					}
					return testing.AllocsPerRun(10, func() { f(n) })
				}
				few, many := measure(short), measure(long)
				t.Logf("%s: %.0f allocations for 16 chunks, %.0f for 256", name, few, many)
				if many > few+budget {
					t.Errorf("%s: allocations grow with the chunks: %.0f, %.0f", name, few, many)
				}
			}
			must(t, p.Put(ctx, "1", transport.Slices{text[:short]}, objects.PutOptions{}))
			must(t, p.Put(ctx, "16", transport.Slices{text}, objects.PutOptions{}))
			id := func(n int) string {
				if n == short {
					return "1"
				}
				return "16"
			}
			per("get", func(n int) {
				b, err := p.Get(ctx, id(n), 0, -1, int64(n))
				must(t, err)
				b.Release()
			}, 24)
			per("put", func(n int) {
				must(t, p.Put(ctx, "up", transport.Slices{text[:n]}, objects.PutOptions{}))
			}, 24)
			per("stream get", func(n int) {
				r, err := p.GetStream(ctx, id(n), 0)
				must(t, err)
				m, err := r.WriteTo(io.Discard)
				must(t, err)
				if m != int64(n) {
					t.Fatal(m)
				}
				must(t, r.Close())
			}, 24)
			per("stream put", func(n int) {
				w, err := p.PutStream(live, "up", int64(n), objects.PutOptions{})
				must(t, err)
				_, err = w.Write(text[:n])
				must(t, err)
				must(t, w.Commit())
			}, 24)
		})
	}
	p := setup{}.start(t)
	ctx := context.Background()
	live, cancel := context.WithCancel(ctx)
	defer cancel()
	must(t, p.Put(ctx, "x", transport.Slices{make([]byte, 1000)}, objects.PutOptions{}))
	small := transport.Slices{make([]byte, 1000)}
	for _, call := range []struct {
		name   string
		budget float64
		f      func(ctx context.Context) error
	}{
		{"ping", 0, func(ctx context.Context) error { return p.Ping(ctx) }},
		{"exists", 1, func(ctx context.Context) error { _, err := p.Exists(ctx, "x"); return err }},
		{"get", 3, func(ctx context.Context) error {
			b, err := p.Get(ctx, "x", 0, -1, 1000)
			b.Release()
			return err
		}},
		{"put", 5, func(ctx context.Context) error { return p.Put(ctx, "y", small, objects.PutOptions{}) }},
	} {
		for extra, ctx := range []context.Context{ctx, live} {
			got := testing.AllocsPerRun(100, func() { must(t, call.f(ctx)) })
			t.Logf("%s: %.0f allocations", call.name, got)
			if got > call.budget+float64(3*extra) {
				t.Errorf("%s makes %.0f allocations, want at most %.0f", call.name, got, call.budget+float64(3*extra))
			}
		}
	}
}
