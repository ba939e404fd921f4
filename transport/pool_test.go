package transport_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

func TestPoolClasses(t *testing.T) {
	for _, c := range []struct{ n, class int }{ // class 0: not kept
		{0, 0}, {1, 1024}, {1023, 1024}, {1024, 1024}, {1025, 2048}, {2048, 2048}, {2049, 4096}, {4096, 4096},
		{1<<20 + 1, 2 << 20}, {64<<20 - 1, 64 << 20}, {64 << 20, 64 << 20}, {64<<20 + 1, 0},
	} {
		t.Run(fmt.Sprintf("size=%d", c.n), func(t *testing.T) {
			p := transport.NewPool(1 << 30)
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
