package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errBroken = errors.New("broken")

// forBounds runs f in a bubble for a cache that keeps entries and for one that keeps none.
func forBounds(t *testing.T, f func(t *testing.T, c *Cache, m *memory)) {
	for name, bound := range map[string]int64{"keeps=all": mib, "keeps=none": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := New(bound)
				if err != nil {
					t.Fatal(err)
				}
				var m memory
				f(t, c, &m)
				synctest.Wait()
				if s := c.Stats(); s.InFlight != 0 {
					t.Errorf("%d fetches still in flight", s.InFlight)
				}
				for i := range c.tables {
					if n := len(c.tables[i].flight); n != 0 {
						t.Errorf("%d flights left behind", n)
					}
				}
				c.Close()
				m.check(t)
			})
		})
	}
}

// slowly returns a fetch of a buffer of b after a second of its context, and counts its runs.
func slowly(m *memory, b byte, runs *atomic.Int64) func(context.Context) (Entry, error) {
	return func(ctx context.Context) (Entry, error) {
		runs.Add(1)
		select {
		case <-time.After(time.Second):
			return Entry{Buf: m.buffer(8, b), Size: 8}, nil
		case <-ctx.Done():
			return Entry{}, ctx.Err()
		}
	}
}

// want checks a result and releases it.
func want(t *testing.T, e Entry, err error, b byte) {
	t.Helper()
	if err != nil {
		t.Errorf("Fetch: %v", err)
		return
	}
	if got := e.Buf.Bytes()[0]; got != b {
		t.Errorf("Fetch = %q, want %q", got, b)
	}
	e.Buf.Release()
}

func TestFetchOnce(t *testing.T) {
	forBounds(t, func(t *testing.T, c *Cache, m *memory) {
		var runs atomic.Int64
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				e, err := c.Fetch(t.Context(), "k", slowly(m, 'a', &runs))
				want(t, e, err, 'a')
			})
		}
		synctest.Wait()
		if s := c.Stats(); s.InFlight != 1 {
			t.Errorf("%d fetches in flight", s.InFlight)
		}
		wg.Wait()
		if runs.Load() != 1 {
			t.Errorf("%d runs for 10 callers", runs.Load())
		}
		e, err := c.Fetch(t.Context(), "k", slowly(m, 'a', &runs))
		want(t, e, err, 'a')
		if again := runs.Load() - 1; again == 0 != (c.max > 0) {
			t.Errorf("%d runs more, bound %d", again, c.max)
		}
	})
}

func TestFetchOtherKeysDoNotWait(t *testing.T) {
	forBounds(t, func(t *testing.T, c *Cache, m *memory) {
		var runs atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 10 {
			wg.Go(func() {
				e, err := c.Fetch(t.Context(), uuidKey(i), slowly(m, 'a', &runs))
				want(t, e, err, 'a')
			})
		}
		wg.Wait()
		if d := time.Since(start); d != time.Second || runs.Load() != 10 {
			t.Errorf("%d runs in %v", runs.Load(), d)
		}
	})
}

func TestFetchErrorIsShared(t *testing.T) {
	forBounds(t, func(t *testing.T, c *Cache, m *memory) {
		var runs atomic.Int64
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				_, err := c.Fetch(t.Context(), "k", func(context.Context) (Entry, error) {
					runs.Add(1)
					time.Sleep(time.Second)
					return Entry{}, errBroken
				})
				if !errors.Is(err, errBroken) {
					t.Errorf("Fetch: %v", err)
				}
			})
		}
		wg.Wait()
		if runs.Load() != 1 {
			t.Errorf("%d runs", runs.Load())
		}
		e, err := c.Fetch(t.Context(), "k", slowly(m, 'a', &runs)) // the error was not cached
		want(t, e, err, 'a')
	})
}

// An error of fn's own timeout is like any other: the caller's context goes on.
func TestFetchInnerTimeoutIsShared(t *testing.T) {
	forBounds(t, func(t *testing.T, c *Cache, m *memory) {
		var runs atomic.Int64
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := c.Fetch(t.Context(), "k", func(ctx context.Context) (Entry, error) {
					ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
					defer cancel()
					return slowly(m, 'a', &runs)(ctx)
				})
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Fetch: %v", err)
				}
			})
		}
		wg.Wait()
		if runs.Load() != 1 {
			t.Errorf("%d runs", runs.Load())
		}
	})
}

func TestFetchTakeover(t *testing.T) {
	forBounds(t, func(t *testing.T, c *Cache, m *memory) {
		var runs atomic.Int64
		var wg sync.WaitGroup
		for i := range 4 { // the first runs for 100 ms, the next ones would for 200 and 300 ms, the last for ever
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*100*time.Millisecond)
			if i == 3 {
				ctx = t.Context()
			}
			wg.Go(func() {
				defer cancel()
				e, err := c.Fetch(ctx, "k", slowly(m, byte('0'+i), &runs))
				if i < 3 {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("caller %d: %v", i, err)
					}
					return
				}
				want(t, e, err, '3')
			})
			synctest.Wait()
		}
		wg.Wait()
		if n := runs.Load(); n < 2 || n > 4 {
			t.Errorf("%d runs", n)
		}
	})
}

// The error of a connection whose deadline came from ctx may arrive before ctx itself ends.
func TestFetchTakeoverAtDeadline(t *testing.T) {
	forBounds(t, func(t *testing.T, c *Cache, m *memory) {
		var runs atomic.Int64
		first, cancel := context.WithDeadline(pastDeadline{t.Context()}, time.Now().Add(time.Hour))
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := c.Fetch(first, "k", func(context.Context) (Entry, error) {
				time.Sleep(time.Second)
				return Entry{}, errBroken
			})
			if !errors.Is(err, errBroken) {
				t.Errorf("Fetch: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			e, err := c.Fetch(t.Context(), "k", slowly(m, 'b', &runs))
			want(t, e, err, 'b')
		})
		wg.Wait()
	})
}

// pastDeadline is a context whose deadline is over and that has not noticed.
type pastDeadline struct{ context.Context }

func (pastDeadline) Deadline() (time.Time, bool) { return time.Unix(0, 0), true }
func (pastDeadline) Done() <-chan struct{}       { return nil }
func (pastDeadline) Err() error                  { return nil }

func TestFetchAllCancelled(t *testing.T) {
	forBounds(t, func(t *testing.T, c *Cache, m *memory) {
		var runs atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := c.Fetch(ctx, "k", slowly(m, 'a', &runs)); !errors.Is(err, context.Canceled) {
					t.Errorf("Fetch: %v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		if _, err := c.Fetch(ctx, "k", slowly(m, 'a', &runs)); !errors.Is(err, context.Canceled) || runs.Load() != 1 {
			t.Errorf("Fetch with an ended context: %v, %d runs", err, runs.Load())
		}
		e, err := c.Fetch(t.Context(), "k", slowly(m, 'b', &runs))
		want(t, e, err, 'b')
	})
}

// Waiters leave in every order while the turn goes round; the flight must neither wedge nor leak.
func TestFetchRandomCancellation(t *testing.T) {
	forBounds(t, func(t *testing.T, c *Cache, m *memory) {
		var runs, failed, found atomic.Int64
		r := rand.New(rand.NewPCG(1, 2))
		var wg sync.WaitGroup
		for range 300 {
			d := time.Duration(r.IntN(40)) * 100 * time.Millisecond
			wait := time.Duration(r.IntN(50)) * 100 * time.Millisecond
			evict := r.IntN(20) == 0
			wg.Go(func() {
				time.Sleep(wait)
				ctx, cancel := context.WithTimeout(t.Context(), d)
				defer cancel()
				e, err := c.Fetch(ctx, "k", slowly(m, 'a', &runs))
				if err != nil {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("Fetch: %v", err)
					}
					failed.Add(1)
					return
				}
				found.Add(1)
				want(t, e, err, 'a')
				if evict {
					c.Evict("k")
				}
			})
		}
		wg.Wait()
		if found.Load() == 0 || failed.Load() == 0 {
			t.Errorf("%d found, %d failed", found.Load(), failed.Load())
		}
	})
}

func TestFetchPanicAndGoexit(t *testing.T) {
	for name, die := range map[string]func(){"panic": func() { panic("boom") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			forBounds(t, func(t *testing.T, c *Cache, m *memory) {
				var runs atomic.Int64
				var wg sync.WaitGroup
				var recovered any
				wg.Go(func() {
					defer func() { recovered = recover() }()
					c.Fetch(t.Context(), "k", func(context.Context) (Entry, error) {
						time.Sleep(time.Second)
						die()
						return Entry{}, nil
					})
				})
				synctest.Wait()
				for range 3 {
					wg.Go(func() {
						e, err := c.Fetch(t.Context(), "k", slowly(m, 'a', &runs))
						want(t, e, err, 'a')
					})
				}
				wg.Wait()
				if runs.Load() != 1 || (recovered == "boom") != (name == "panic") {
					t.Errorf("%d runs after it, recovered %v", runs.Load(), recovered)
				}
			})
		})
	}
}

// What interrupts a fetch keeps it from being cached and from being joined; who waited for it is still served.
func TestFetchInterrupted(t *testing.T) {
	for name, interrupt := range map[string]func(c *Cache){
		"evict": func(c *Cache) { c.Evict("k") },
		"clear": func(c *Cache) { c.Clear() },
		"close": func(c *Cache) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			forBounds(t, func(t *testing.T, c *Cache, m *memory) {
				var runs atomic.Int64
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						e, err := c.Fetch(t.Context(), "k", slowly(m, 'a', &runs))
						want(t, e, err, 'a')
					})
				}
				synctest.Wait()
				interrupt(c)
				wg.Go(func() { // begins after it, and so may not see the old object
					e, err := c.Fetch(t.Context(), "k", slowly(m, 'b', &runs))
					want(t, e, err, 'b')
				})
				wg.Wait()
				if e, ok := c.Get("k"); ok {
					want(t, e, nil, 'b')
				} else if c.max > 0 && name != "close" {
					t.Error("the second fetch was not cached")
				}
				if runs.Load() != 2 {
					t.Errorf("%d runs", runs.Load())
				}
			})
		})
	}
}

func TestFetchDoesNotOverwriteSet(t *testing.T) {
	forBounds(t, func(t *testing.T, c *Cache, m *memory) {
		var runs atomic.Int64
		var wg sync.WaitGroup
		wg.Go(func() {
			e, err := c.Fetch(t.Context(), "k", slowly(m, 'a', &runs))
			want(t, e, err, 'a')
		})
		synctest.Wait()
		buf := m.buffer(8, 'b')
		kept := c.Set("k", Entry{Buf: buf, Size: 8})
		buf.Release()
		wg.Wait()
		e, ok := c.Get("k")
		if ok != kept {
			t.Fatalf("Get = %v after Set = %v", ok, kept)
		}
		if ok {
			want(t, e, nil, 'b')
		}
	})
}

// An evicted fetch whose runner is cancelled is finished by those who wait for it, and still not cached.
func TestFetchTakeoverAfterEvict(t *testing.T) {
	forBounds(t, func(t *testing.T, c *Cache, m *memory) {
		var runs atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Fetch(ctx, "k", slowly(m, 'a', &runs)); !errors.Is(err, context.Canceled) {
				t.Errorf("Fetch: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			e, err := c.Fetch(t.Context(), "k", slowly(m, 'b', &runs))
			want(t, e, err, 'b')
		})
		synctest.Wait()
		c.Evict("k")
		cancel()
		wg.Wait()
		if _, ok := c.Get("k"); ok {
			t.Error("a fetch that began before Evict was cached")
		}
	})
}

func TestFetchConcurrent(t *testing.T) {
	for _, bound := range []int64{0, 64 << 10} {
		var m memory
		c := newCache(t, bound)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(g), 9))
				for i := range 3000 {
					k := r.IntN(32)
					switch r.IntN(30) {
					case 0:
						c.Evict(uuidKey(k))
						continue
					case 1:
						buf := m.buffer(16, byte(k))
						c.Set(uuidKey(k), Entry{Buf: buf, Size: 1000})
						buf.Release()
						continue
					}
					ctx, cancel := context.WithCancel(t.Context())
					if i%5 == 0 {
						go cancel()
					}
					e, err := c.Fetch(ctx, uuidKey(k), func(ctx context.Context) (Entry, error) {
						runtime.Gosched()
						if i%11 == 0 {
							return Entry{}, errBroken
						}
						if err := ctx.Err(); err != nil {
							return Entry{}, err
						}
						return Entry{Buf: m.buffer(16, byte(k)), Size: int64(r.IntN(4000))}, nil
					})
					cancel()
					if err != nil {
						if !errors.Is(err, errBroken) && !errors.Is(err, context.Canceled) {
							t.Errorf("Fetch: %v", err)
						}
						continue
					}
					for _, b := range e.Buf.Bytes() {
						if b != byte(k) {
							t.Errorf("key %d holds %d", k, b)
							break
						}
					}
					e.Buf.Release()
				}
			})
		}
		wg.Wait()
		if s := c.Stats(); s.InFlight != 0 {
			t.Errorf("%d fetches in flight", s.InFlight)
		}
		c.Close()
		m.check(t)
	}
}

// A Get that misses and the FetchMissed after it are one lookup; Has is none.
func TestFetchMissedCountsOnce(t *testing.T) {
	c := newCache(t, mib)
	if _, ok := c.Get("k"); ok || c.Has("k") {
		t.Error("found in an empty cache")
	}
	fn := func(context.Context) (Entry, error) { return Entry{Value: 1}, nil }
	for range 2 { // the second finds it
		if e, err := c.FetchMissed(t.Context(), "k", fn); err != nil || e.Value != 1 {
			t.Errorf("FetchMissed = %v, %v", e.Value, err)
		}
	}
	if !c.Has("k") {
		t.Error("not cached")
	}
	if s := c.Stats(); s.Hits != 0 || s.Misses != 1 || s.Sets != 1 {
		t.Errorf("Stats = %+v", s)
	}
}

func ExampleCache_Fetch() {
	c, err := New(64 << 20)
	if err != nil {
		panic(err)
	}
	defer c.Close()
	fetch := func(context.Context) (Entry, error) {
		fmt.Println("fetching")
		return Entry{Value: "the object", Size: 10}, nil
	}
	for range 2 {
		e, err := c.Fetch(context.Background(), "key", fetch)
		fmt.Println(e.Value, err)
	}
	// Output:
	// fetching
	// the object <nil>
	// the object <nil>
}
