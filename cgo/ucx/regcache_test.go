package ucx

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// registry is a device that only counts.
type registry struct {
	made int
	fail bool
}

func (r *registry) cache(limit int64) *Cache {
	return &Cache{limit: limit, register: func(mem []byte) (*Memory, error) {
		if r.fail {
			return nil, errors.New("no more")
		}
		r.made++
		return &Memory{}, nil
	}}
}

func TestCache(t *testing.T) {
	r := &registry{}
	c := r.cache(1000)
	mem := make([]byte, 4096)
	acquire := func(from, to, made int) func() {
		t.Helper()
		_, back, err := c.Acquire(mem[from:to])
		if err != nil || r.made != made {
			t.Fatalf("%d to %d: %d registrations, want %d, %v", from, to, r.made, made, err)
		}
		return back
	}
	idle := func(n int, bytes int64) {
		t.Helper()
		if gotN, gotBytes := c.Idle(); gotN != n || gotBytes != bytes {
			t.Fatalf("%d idle with %d bytes, want %d with %d", gotN, gotBytes, n, bytes)
		}
	}
	a := acquire(0, 500, 1)
	b := acquire(100, 200, 1) // within the first
	idle(0, 0)
	a()
	idle(0, 0)
	b()
	b() // once is enough
	idle(1, 500)
	acquire(400, 600, 2)() // not within
	idle(2, 700)
	acquire(0, 500, 2)() // now the one used last
	acquire(1000, 1400, 3)()
	idle(2, 900) // 400 to 600 had to go
	acquire(400, 600, 4)()
	idle(2, 600) // and then 0 to 500
	c.Invalidate(mem[599:700])
	idle(1, 400)
	c.Invalidate(mem[600:1000]) // touches nothing
	idle(1, 400)
	used := acquire(1000, 1400, 4)
	c.Invalidate(mem[1200:1201]) // in use: it is not handed out again
	acquire(1000, 1400, 5)()
	used()
	idle(1, 400)
	r.fail = true
	if _, _, err := c.Acquire(mem[:10]); err == nil {
		t.Error("a registration that failed")
	}
	idle(0, 0) // it had been tried with less
	r.fail = false
	last := acquire(0, 10, 6)
	c.Close()
	last()
	idle(0, 0)
	if _, _, err := c.Acquire(mem[:10]); err == nil {
		t.Error("a closed cache")
	}
}

// TestCacheHistories compares a cache with a list.
func TestCacheHistories(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		r := &registry{}
		c := r.cache(2000)
		mem := make([]byte, 1024)
		var backs []func()
		for range 300 {
			from := rnd.IntN(1000)
			p := mem[from : from+1+rnd.IntN(24)]
			switch rnd.IntN(4) {
			case 0, 1:
				_, back, err := c.Acquire(p)
				if err != nil {
					t.Fatal(err)
				}
				made := r.made
				_, again, err := c.Acquire(p[len(p)/2:])
				if err != nil || r.made != made {
					t.Fatalf("seed %d: a part of what is registered was registered again, %v", seed, err)
				}
				again()
				backs = append(backs, back)
			case 2:
				c.Invalidate(p)
				from, to := span(p)
				for _, e := range c.ranges {
					if e.from < to && from < e.to {
						t.Fatalf("seed %d: a range that was invalidated", seed)
					}
				}
			case 3:
				if len(backs) > 0 {
					i := rnd.IntN(len(backs))
					backs[i]()
					backs[i] = func() {}
				}
			}
			if _, bytes := c.Idle(); bytes > 2000 || bytes < 0 {
				t.Fatalf("seed %d: %d idle bytes", seed, bytes)
			}
		}
		for _, back := range backs {
			back()
		}
		c.Close()
		if n, bytes := c.Idle(); n != 0 || bytes != 0 || len(c.ranges) != 0 {
			t.Fatalf("seed %d: %d left with %d bytes", seed, n, bytes)
		}
	}
}
