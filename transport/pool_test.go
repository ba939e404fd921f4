package transport_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/internal/invariants"
	"github.com/proxyplane/proxyplane/transport"
)

func TestPoolClasses(t *testing.T) {
	mib := 1 << 20
	for _, c := range []struct{ n, class int }{ // class 0: nothing to keep
		{0, 0}, {1, 1024}, {1023, 1024}, {1024, 1024}, {1025, 2048}, {2048, 2048}, {2049, 4096}, {4096, 4096},
		{mib / 2, mib / 2}, {mib/2 + 1, mib / 8 * 5}, {mib, mib}, {mib + 1, mib / 4 * 5}, {64*mib - 1, 64 * mib}, {64 * mib, 64 * mib},
		{64*mib + 1, 80 * mib}, {200 * mib, 224 * mib}, // outside the Go heap
	} {
		t.Run(fmt.Sprintf("size=%d", c.n), func(t *testing.T) {
			p := transport.NewPool(1 << 40)
			b := p.Get(c.n)
			if b.Len() != c.n || b.Backing() != transport.Pooled {
				t.Errorf("%d bytes, %v", b.Len(), b.Backing())
			}
			if s := p.Stats(); s != (transport.PoolStats{Gets: 1, Misses: 1, Held: 1}) {
				t.Errorf("after Get: %+v", s)
			}
			b.Release()
			if s := p.Stats(); s != (transport.PoolStats{Gets: 1, Misses: 1, IdleBytes: int64(c.class)}) {
				t.Errorf("after Release: %+v", s)
			}
			if c.class == 0 {
				return
			}
			again := p.Get(c.class) // the largest request that this memory serves
			if s := p.Stats(); s != (transport.PoolStats{Gets: 2, Misses: 1, Held: 1}) {
				t.Errorf("after another Get: %+v", s)
			}
			again.Release()
			p.Get(c.class + 1).Release()
			if s := p.Stats(); s.Misses != 2 {
				t.Errorf("memory of %d bytes served %d: %+v", c.class, c.class+1, s)
			}
			p.Trim()
			if s := p.Stats(); s.IdleBytes != 0 {
				t.Errorf("after Trim: %+v", s)
			}
			p.Get(c.n).Release()
			if s := p.Stats(); s.Misses != 3 {
				t.Errorf("Trim kept memory: %+v", s)
			}
		})
	}
}

func TestPoolUsesTheWarmestMemory(t *testing.T) {
	p := transport.NewPool(1 << 20)
	a, b := p.Get(1024), p.Get(1024)
	last := &b.Bytes()[0]
	a.Release()
	b.Release()
	c := p.Get(1)
	defer c.Release()
	if &c.Bytes()[0] != last {
		t.Error("Get did not return the memory that was released last")
	}
}

func TestPoolIdleBound(t *testing.T) {
	for _, bound := range []int64{0, 1023, 1024, 10_000} {
		p := transport.NewPool(bound)
		var all []*transport.Buffer
		for range 20 {
			all = append(all, p.Get(1000))
		}
		for _, b := range all {
			b.Release()
		}
		if s := p.Stats(); s.IdleBytes != bound/1024*1024 || s.Held != 0 {
			t.Errorf("bound %d: %+v", bound, s)
		}
	}
	var zero transport.Pool
	zero.Get(1000).Release()
	if s := zero.Stats(); s != (transport.PoolStats{Gets: 1, Misses: 1}) {
		t.Errorf("the zero Pool: %+v", s)
	}
}

func TestPoolConcurrent(t *testing.T) {
	p := transport.NewPool(1 << 20)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for i := range 1000 {
				b := p.Get(r.IntN(20_000))
				for j := range b.Bytes() {
					b.Bytes()[j] = byte(g)
				}
				if i%100 == 0 {
					p.Trim()
				}
				for _, v := range b.Bytes() {
					if v != byte(g) {
						t.Errorf("memory was handed out twice")
						break
					}
				}
				b.Release()
				if s := p.Stats(); s.IdleBytes > 2<<20 {
					t.Errorf("%+v", s)
				}
			}
		})
	}
	wg.Wait()
	s := p.Stats()
	if s.Gets != 8000 || s.Held != 0 || s.IdleBytes > 1<<20 || s.Misses == s.Gets {
		t.Errorf("%+v", s)
	}
	p.Trim()
	if s := p.Stats(); s.IdleBytes != 0 {
		t.Errorf("after Trim: %+v", s)
	}
}

// What is kept idle beyond the limit is at most one large Buffer, and that for some seconds only.
func TestPoolIdleLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const mib = 1 << 20
		p := transport.NewPool(10 * mib)
		idle := func(want int64) {
			t.Helper()
			if s := p.Stats(); s.IdleBytes != want || s.Held != 0 {
				t.Errorf("%+v, want %d bytes idle", s, want)
			}
		}
		get := func(sizes ...int) {
			var all []*transport.Buffer
			for _, n := range sizes {
				all = append(all, p.Get(n))
			}
			for _, b := range all {
				b.Release()
			}
		}
		get(4*mib, 4*mib, 4*mib)
		idle(8 * mib)
		get(2 * mib)
		idle(10 * mib)
		get(20 * mib) // alone
		idle(20 * mib)
		get(1000, 1000) // small memory comes from elsewhere, and has its own place
		idle(20*mib + 2048)
		get(mib)
		idle(mib + 2048)
		time.Sleep(29 * time.Second)
		get(2 * mib)
		idle(3*mib + 2048)
		time.Sleep(2 * time.Second)
		idle(2*mib + 2048) // the piece of 1 MiB was unused for half a minute
		time.Sleep(2 * time.Minute)
		idle(2048)
		get(20 * mib)
		p.Trim()
		idle(0)
		none := transport.NewPool(0)
		none.Get(mib).Release()
		if s := none.Stats(); s.IdleBytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Large Buffers are neither on the Go heap nor limited by it, and memory that nobody touches is none.
func TestPoolLargeIsOffHeap(t *testing.T) {
	if invariants.Enabled {
		return // half of it is Go memory there, for the race detector
	}
	p := transport.NewPool(1 << 20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b := p.Get(4 << 30)
	b.Bytes()[4<<30-1] = 1
	runtime.ReadMemStats(&after)
	if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > 1<<20 && runtime.GOOS == "linux" {
		t.Errorf("the Go heap took %d bytes", grown)
	}
	b.Release()
	p.Trim()
}

// Large memory is handed out once at a time too, to many goroutines.
func TestPoolConcurrentLarge(t *testing.T) {
	p := transport.NewPool(8 << 20)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 2))
			for i := range 100 {
				b := p.Get(512<<10 + 1 + r.IntN(2<<20))
				data := b.Bytes()
				for j := 0; j < len(data); j += 4096 {
					data[j] = byte(g)
				}
				if i%20 == 0 {
					p.Trim()
				}
				for j := 0; j < len(data); j += 4096 {
					if data[j] != byte(g) {
						t.Error("memory was handed out twice")
						break
					}
				}
				b.Release()
			}
		})
	}
	wg.Wait()
	if s := p.Stats(); s.Held != 0 || s.IdleBytes > 8<<20 {
		t.Errorf("%+v", s)
	}
	p.Trim()
}
