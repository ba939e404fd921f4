//go:build unix

package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// target is one connector to measure: how we open it, where Python opens its own, and what the machine needs at least.
type target struct {
	conn   string
	where  func(b *testing.B) string
	cfg    func(where string) connectors.Config
	put    func(b *testing.B, where string, obj []byte) time.Duration // floor: b.N puts
	get    func(b *testing.B, where string, obj []byte) time.Duration // floor: b.N gets of all bytes
	python bool                                                       // ProxyStore has such a connector
}

var targets = []target{
	{"local", func(*testing.B) string { return "" }, func(string) connectors.Config { return proxyplane.LocalConnector() }, memcpy, mapLookup, true},
	{"file", fileDir, func(dir string) connectors.Config { return proxyplane.FileConnector(filepath.Join(dir, "ours")) }, writeFile, mapAndTouch, true},
	{"redis", redisAddr, func(addr string) connectors.Config { h, p := splitAddr(addr); return proxyplane.RedisConnector(h, p) }, rawSet, rawGet, true},
	{"multi", fileDir, multiConfig, nil, nil, true},
	{"tcp", ourServer("tcp"), serverConfig("tcp"), rawSocket("raw-tcp", opPut), rawSocket("raw-tcp", opGet), false},
	{"unix", ourServer("unix"), serverConfig("tcp"), rawSocket("raw-unix", opPut), rawSocket("raw-unix", opGet), false},
	{"zmq", ourServer("zmq"), serverConfig("zmq"), rawSocket("raw-tcp", opPut), rawSocket("raw-tcp", opGet), true},
}

// ourServer is an object server in a process of its own.
func ourServer(carrier string) func(b *testing.B) string {
	return func(b *testing.B) string { return serverAt(b, "ours "+carrier) }
}

// serverConfig is the connector of that kind, with its objects at that address.
func serverConfig(kind string) func(addr string) connectors.Config {
	return func(addr string) connectors.Config {
		options := map[string]any{"address": addr, "connect_only": true}
		if at, ok := strings.CutPrefix(addr, "tcp://"); ok {
			host, port := splitAddr(at)
			options["address"], options["port"] = host, int64(port)
		}
		return connectors.Config{Kind: kind, Options: options}
	}
}

// rawSocket is the same by a bare socket.
func rawSocket(role string, op byte) func(b *testing.B, _ string, obj []byte) time.Duration {
	return func(b *testing.B, _ string, obj []byte) time.Duration {
		r, err := dialSocket(serverAt(b, role), obj)
		if err != nil {
			b.Fatal(err)
		}
		defer r.close()
		return timed(b, func() (time.Duration, error) {
			start := time.Now()
			err := r.exchange(op)
			return time.Since(start), err
		})
	}
}

// multiConfig keeps small objects in memory and large ones in files, as the Python peer does.
func multiConfig(dir string) connectors.Config {
	policy := func(low, high int64) map[string]any {
		return map[string]any{"priority": int64(0), "min_size_bytes": low, "max_size_bytes": high, "subset_tags": []any{}, "superset_tags": []any{}}
	}
	return connectors.Config{Kind: "multi", Options: map[string]any{
		"small": []any{"proxystore.connectors.local.LocalConnector", map[string]any{}, policy(0, 50_000)},
		"large": []any{"proxystore.connectors.file.FileConnector", map[string]any{"store_dir": filepath.Join(dir, "ours-multi"), "clear": false}, policy(50_001, 1<<62)},
	}}
}

func fileDir(b *testing.B) string {
	base := *dirFlag
	if base == "" {
		base = os.TempDir()
		if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
			base = "/dev/shm"
		}
	}
	dir, err := os.MkdirTemp(base, "proxyplane-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func open(b *testing.B, t target, where string, opts ...proxyplane.Option) *proxyplane.Store {
	b.Helper()
	s, err := proxyplane.Open(b.Context(), proxyplane.NewConfig("", t.cfg(where)), append([]proxyplane.Option{
		proxyplane.WithStores(proxyplane.NewStores()), proxyplane.WithPopulateTarget(false)}, opts...)...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// payload is random, so that nothing can compress or deduplicate it.
func payload(size int) []byte {
	block := make([]byte, min(size, 1<<20))
	r := rand.NewChaCha8([32]byte{1})
	r.Read(block)
	obj := make([]byte, 0, size)
	for len(obj) < size {
		obj = append(obj, block[:min(len(block), size-len(obj))]...)
	}
	return obj
}

// compare runs one row: our operation, the floor if there is one, and Python's.
func compare(b *testing.B, op, pyOp string, run func(b *testing.B, t target, where string, obj []byte) time.Duration, floorOf func(t target) func(*testing.B, string, []byte) time.Duration) {
	for _, t := range targets {
		b.Run("conn="+t.conn, func(b *testing.B) {
			for _, size := range sizes() {
				b.Run("size="+sizeName(size), func(b *testing.B) {
					where := t.where(b)
					obj := payload(size)
					column := func(impl string, f func(b *testing.B) time.Duration) {
						b.Run("impl="+impl, func(b *testing.B) {
							b.ReportAllocs()
							report(b, cell{t.conn, op, size, impl}, f(b))
						})
					}
					column(ours, func(b *testing.B) time.Duration { return run(b, t, where, obj) })
					if f := floorOf(t); f != nil {
						column(floor, func(b *testing.B) time.Duration { return f(b, where, obj) })
					}
					if !t.python {
						return
					}
					column(python, func(b *testing.B) time.Duration { return pythonOp(b, t.conn, where, pyOp, size, b.N) })
				})
			}
		})
	}
}

// timed adds up what f takes, b.N times; before and after each f untimed work may stand.
func timed(b *testing.B, f func() (took time.Duration, err error)) time.Duration {
	var total time.Duration
	b.ResetTimer()
	for range b.N {
		d, err := f()
		if err != nil {
			b.Fatal(err)
		}
		total += d
	}
	b.StopTimer()
	return total
}

// BenchmarkPut is Store.Put of bytes, the object evicted again outside the time.
func BenchmarkPut(b *testing.B) {
	compare(b, "put", "put", func(b *testing.B, t target, where string, obj []byte) time.Duration {
		s := open(b, t, where, proxyplane.WithCacheBytes(0))
		ctx := b.Context()
		return timed(b, func() (time.Duration, error) {
			start := time.Now()
			key, err := s.Put(ctx, obj)
			took := time.Since(start)
			if err != nil {
				return took, err
			}
			return took, s.Evict(ctx, key)
		})
	}, func(t target) func(*testing.B, string, []byte) time.Duration { return t.put })
}

// BenchmarkGet is Get of all bytes by reference, without the cache: a view of the connector's own memory. The floor touches every page.
func BenchmarkGet(b *testing.B) { benchmarkGet[*transport.Buffer](b, "get") }

// BenchmarkGetBytes is Get of a []byte that the garbage collector owns, without the cache: what a caller pays who does not want to Release.
func BenchmarkGetBytes(b *testing.B) { benchmarkGet[[]byte](b, "get-bytes") }

func benchmarkGet[T any](b *testing.B, op string) {
	compare(b, op, "get", func(b *testing.B, t target, where string, obj []byte) time.Duration {
		s := open(b, t, where, proxyplane.WithCacheBytes(0))
		ctx := b.Context()
		key := put(b, s, obj)
		return timed(b, func() (time.Duration, error) {
			start := time.Now()
			v, err := proxyplane.Get[T](ctx, s, key)
			took := time.Since(start)
			if err != nil {
				return took, err
			}
			return took, verify(v, obj)
		})
	}, func(t target) func(*testing.B, string, []byte) time.Duration { return t.get })
}

// BenchmarkGetTouch is Get by reference and then a read of every page, which is where a mapping pays.
func BenchmarkGetTouch(b *testing.B) {
	compare(b, "get-touch", "get", func(b *testing.B, t target, where string, obj []byte) time.Duration {
		s := open(b, t, where, proxyplane.WithCacheBytes(0))
		ctx := b.Context()
		key := put(b, s, obj)
		return timed(b, func() (time.Duration, error) {
			start := time.Now()
			v, err := proxyplane.Get[*transport.Buffer](ctx, s, key)
			if err != nil {
				return 0, err
			}
			touch(v.Bytes())
			took := time.Since(start)
			return took, verify(v, obj)
		})
	}, func(t target) func(*testing.B, string, []byte) time.Duration { return t.get })
}

// BenchmarkResolveCold resolves a fresh proxy of an object that is not cached.
func BenchmarkResolveCold(b *testing.B) {
	compare(b, "resolve-cold", "resolve-cold", func(b *testing.B, t target, where string, obj []byte) time.Duration {
		return resolve(b, open(b, t, where, proxyplane.WithCacheBytes(0)), obj)
	}, func(t target) func(*testing.B, string, []byte) time.Duration { return t.get })
}

// BenchmarkResolveCached resolves a fresh proxy of a cached object.
func BenchmarkResolveCached(b *testing.B) {
	compare(b, "resolve-cached", "resolve-cached", func(b *testing.B, t target, where string, obj []byte) time.Duration {
		s := open(b, t, where)
		ctx := b.Context()
		key := put(b, s, obj)
		if _, err := proxyplane.Get[[]byte](ctx, s, key); err != nil {
			b.Fatal(err)
		}
		// Fresh proxies are made outside the time, many at once: a clock reading would cost as much as a resolve.
		const batch = 1024
		proxies := make([]*proxyplane.Proxy[[]byte], batch)
		var total time.Duration
		b.ResetTimer()
		for done := 0; done < b.N; done += batch {
			n := min(batch, b.N-done)
			for i := range n {
				proxies[i], _ = proxyplane.ProxyFromKey[[]byte](s, key)
			}
			start := time.Now()
			for _, p := range proxies[:n] {
				if v, err := p.Resolve(ctx); err != nil || len(v) != len(obj) {
					b.Fatal(err, len(v))
				}
			}
			total += time.Since(start)
		}
		b.StopTimer()
		return total
	}, func(t target) func(*testing.B, string, []byte) time.Duration { return mapLookup })
}

func resolve(b *testing.B, s *proxyplane.Store, obj []byte) time.Duration {
	ctx := b.Context()
	key := put(b, s, obj)
	return timed(b, func() (time.Duration, error) {
		p, err := proxyplane.ProxyFromKey[[]byte](s, key)
		if err != nil {
			return 0, err
		}
		start := time.Now()
		v, err := p.Resolve(ctx)
		took := time.Since(start)
		if err != nil {
			return took, err
		}
		return took, verify(v, obj)
	})
}

func put(b *testing.B, s *proxyplane.Store, obj []byte) proxyplane.Key {
	b.Helper()
	key, err := s.Put(b.Context(), obj)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Evict(context.Background(), key) })
	return key
}

// verify compares a sample of what we got, and gives a view back.
func verify[T any](v T, want []byte) error {
	var got []byte
	switch v := any(v).(type) {
	case []byte:
		got = v
	case *transport.Buffer:
		defer v.Release()
		got = v.Bytes()
	}
	if len(got) != len(want) || got[0] != want[0] || got[len(got)/2] != want[len(want)/2] || got[len(got)-1] != want[len(want)-1] {
		return fmt.Errorf("wrong content: %d bytes of %d", len(got), len(want))
	}
	return nil
}

var sink byte

// touch reads one byte of every page.
func touch(b []byte) {
	for i := 0; i < len(b); i += 4096 {
		sink += b[i]
	}
}
