package cache

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/proxyplane/proxyplane/transport"
)

// memory makes Buffers that count how often each is given back.
type memory struct {
	made, freed atomic.Int64
	twice       atomic.Int64
}

// buffer returns n bytes of value b. When they are freed they change, so that a reader who still holds them sees it.
func (m *memory) buffer(n int, b byte) *transport.Buffer {
	m.made.Add(1)
	data := make([]byte, n)
	for i := range data {
		data[i] = b
	}
	var once atomic.Bool
	return transport.NewBuffer(data, transport.CMemory, func(data []byte) {
		if once.Swap(true) {
			m.twice.Add(1)
		}
		m.freed.Add(1)
		for i := range data {
			data[i] = ^b
		}
	})
}

// check fails unless each Buffer was given back exactly once.
func (m *memory) check(t *testing.T) {
	t.Helper()
	if made, freed := m.made.Load(), m.freed.Load(); made != freed || m.twice.Load() != 0 {
		t.Errorf("%d buffers made, %d freed, %d of them twice", made, freed, m.twice.Load())
	}
}

func TestSetGetEvict(t *testing.T) {
	var m memory
	c := newCache(t, mib)
	buf := m.buffer(100, 'a')
	if !c.Set("k", Entry{Value: "v", Buf: buf, Size: 100}) {
		t.Fatal("Set refused 100 bytes")
	}
	buf.Release() // Set only borrowed it
	for range 3 {
		e, ok := c.Get("k")
		if !ok || e.Value != "v" || e.Size != 100 || e.Buf.Bytes()[99] != 'a' {
			t.Fatalf("Get = %+v, %v", e, ok)
		}
		e.Buf.Release()
	}
	if _, ok := c.Get("other"); ok {
		t.Error("Get found a key that was never set")
	}
	held, _ := c.Get("k")
	c.Evict("k")
	c.Evict("k")
	c.Evict("never")
	if _, ok := c.Get("k"); ok {
		t.Error("Get found an evicted key")
	}
	if held.Buf.Bytes()[0] != 'a' {
		t.Error("Evict freed memory that a reader holds")
	}
	if m.freed.Load() != 0 {
		t.Error("freed too early")
	}
	held.Buf.Release()
	m.check(t)
	s := c.Stats()
	want := Stats{Hits: 4, Misses: 2, Sets: 1, MaxBytes: mib}
	if s != want {
		t.Errorf("Stats = %+v, want %+v", s, want)
	}
	if r := s.HitRatio(); r < 0.66 || r > 0.67 {
		t.Errorf("HitRatio = %v", r)
	}
	if (Stats{}).HitRatio() != 0 {
		t.Error("HitRatio of nothing")
	}
}

// A value that is set again while ristretto still has the first in its queue is the one ristretto loses.
func TestSetAgainKeepsTheNewest(t *testing.T) {
	c := newCache(t, mib)
	for i := range 2000 {
		key := uuidKey(i % 50)
		size := int64(1000)
		if i%3 == 0 {
			size = 300_000 // past the window, so that the policy has it at once
		}
		if i%50 == 0 {
			c.Clear()
		}
		c.Set(key, Entry{Value: -i, Size: 100})
		c.Set(key, Entry{Value: i, Size: size})
		if e, ok := c.Get(key); ok && e.Value != i || !ok && size < 300_000 {
			t.Fatalf("Get after two Sets = %v, %v, want %d", e.Value, ok, i)
		}
	}
}

func TestEverythingThatFitsStays(t *testing.T) {
	c := newCache(t, 10*mib)
	for i := range 5000 { // 5000 * (1024 + 36 + 256) bytes; the window holds a part of them
		c.Set(uuidKey(i), Entry{Value: i, Size: 1024})
	}
	for i := range 5000 {
		if e, ok := c.Get(uuidKey(i)); !ok || e.Value != i {
			t.Fatalf("key %d: %v, %v", i, e.Value, ok)
		}
	}
	if s := c.Stats(); s.Entries != 5000 || s.Evictions+s.Rejected != 0 || s.Bytes != 5000*(1024+36+overhead) {
		t.Errorf("Stats = %+v", s)
	}
}

func TestBound(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, bound := range []int64{1, 1000, 64 << 10, mib} {
		t.Run(fmt.Sprint(bound), func(t *testing.T) {
			var m memory
			c := newCache(t, bound)
			for i := range 3000 {
				size := r.Int64N(max(bound>>r.IntN(12), 1) + 1)
				buf := m.buffer(1, 'x')
				kept := c.Set(uuidKey(i), Entry{Buf: buf, Size: size})
				buf.Release()
				if cost := size + 36 + overhead; kept != (cost <= bound-bound/4-bound/16) {
					t.Fatalf("Set of %d bytes into %d = %v", size, bound, kept)
				}
				if s := c.Stats(); s.Bytes > bound || s.Bytes < 0 {
					t.Fatalf("after Set %d of %d bytes: %+v", i, size, s)
				}
			}
			c.await(0)
			s := c.Stats()
			if live := m.made.Load() - m.freed.Load(); live != s.Entries {
				t.Errorf("%d buffers live, %d entries", live, s.Entries)
			}
			if bound >= 64<<10 && (s.Entries == 0 || s.Evictions+s.Rejected == 0) {
				t.Errorf("Stats = %+v", s)
			}
			c.Clear()
			m.check(t)
			if s := c.Stats(); s.Bytes != 0 || s.Entries != 0 {
				t.Errorf("after Clear: %+v", s)
			}
		})
	}
}

func TestTooLargeLeavesNoOldEntry(t *testing.T) {
	for _, size := range []int64{mib, 1 << 62, 1<<63 - 1} {
		c := newCache(t, mib)
		c.Set("k", Entry{Value: "old", Size: 1})
		if c.Set("k", Entry{Value: "new", Size: size}) {
			t.Errorf("Set kept %d bytes in %d", size, mib)
		}
		if e, ok := c.Get("k"); ok {
			t.Errorf("Get = %v after its successor was refused", e.Value)
		}
		if s := c.Stats(); s.Rejected != 1 || s.Bytes != 0 {
			t.Errorf("Stats = %+v", s)
		}
	}
	c := newCache(t, mib)
	if !c.Set("k", Entry{Size: -5}) {
		t.Error("a negative size was refused")
	}
}

func TestKeepsNothing(t *testing.T) {
	for _, bound := range []int64{0, -1} {
		var m memory
		c := newCache(t, bound)
		buf := m.buffer(1, 'a')
		if c.Set("k", Entry{Buf: buf, Size: 1}) {
			t.Error("Set kept something")
		}
		buf.Release()
		if _, ok := c.Get("k"); ok {
			t.Error("Get found something")
		}
		c.Evict("k")
		c.Clear()
		c.Close()
		m.check(t)
	}
}

// Frequently read entries survive a scan of others that are read once.
func TestScanResistance(t *testing.T) {
	c := newCache(t, mib)
	for i := range 200 {
		c.Set(uuidKey(i), Entry{Size: 1024})
	}
	for i := range 200 * 400 {
		c.Get(uuidKey(i % 200))
		if i%64 == 0 {
			runtime.Gosched() // the policy listens in a goroutine of its own, and does not hear what comes too fast
		}
	}
	for i := range 5000 {
		key := uuidKey(1000 + i)
		c.Get(key)
		c.Set(key, Entry{Size: 1024})
	}
	left := 0
	for i := range 200 {
		if _, ok := c.Get(uuidKey(i)); ok {
			left++
		}
	}
	if left < 100 {
		t.Errorf("%d of 200 hot entries survived", left)
	}
}

// Two keys of one 64-bit hash do not happen, but nothing may break if they do.
func TestHashCollision(t *testing.T) {
	var m memory
	c := newCache(t, mib)
	set := func(key string, b byte) {
		buf := m.buffer(1, b)
		n := c.newNode(42, key, Entry{Buf: buf, Size: 300_000}) // past the window
		tab := c.table(42)
		tab.mu.Lock()
		kept, old := c.place(tab, n, 42, key)
		tab.mu.Unlock()
		c.settle(kept, old)
		buf.Release()
	}
	for i := range 200 {
		key := fmt.Sprint(i % 3)
		set(key, byte(i))
		for k := range 3 {
			if e, ok := c.lookup(42, fmt.Sprint(k)); ok {
				if got := int(e.Buf.Bytes()[0]); got%3 != k || got > i || got < i-2 {
					t.Fatalf("key %d has value %d after %d", k, got, i)
				}
				e.Buf.Release()
			}
		}
	}
	c.Close()
	m.check(t)
	if s := c.Stats(); s.Bytes != 0 || s.Entries != 0 {
		t.Errorf("Stats = %+v", s)
	}
}

func TestTable(t *testing.T) {
	var tab table
	r := rand.New(rand.NewPCG(3, 4))
	model := map[string]*node{}
	for range 20_000 {
		key := fmt.Sprint(r.IntN(300))
		hash := uint64(len(key)) * 8 // few chains, long ones
		if r.IntN(2) == 0 {
			n := &node{hash: hash, key: key}
			if old := tab.swap(n); old != model[key] {
				t.Fatalf("swap(%s) = %v, want %v", key, old, model[key])
			}
			model[key] = n
		} else if n := model[key]; n != nil {
			if !tab.remove(n) || tab.remove(n) {
				t.Fatal("remove did not remove once")
			}
			delete(model, key)
		}
		if got := tab.get(hash, key); got != model[key] {
			t.Fatalf("get(%s) = %v, want %v", key, got, model[key])
		}
		if tab.size != len(model) {
			t.Fatalf("size %d, want %d", tab.size, len(model))
		}
	}
	if all := tab.clear(); len(all) != len(model) || tab.get(8, "1") != nil || tab.remove(&node{}) {
		t.Errorf("clear returned %d nodes of %d", len(all), len(model))
	}
}

// A random history on the cache and on a map: the cache may have forgotten a key, and may never know better than the map.
func TestMetamorphic(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		var m memory
		bound := int64(1) << (12 + r.IntN(10))
		c := newCache(t, bound)
		model := map[string]byte{}
		var history []string
		fail := func(format string, args ...any) {
			t.Fatalf("seed %d, bound %d: %s\nlast calls: %v", seed, bound, fmt.Sprintf(format, args...), history[max(0, len(history)-20):])
		}
		for range 2000 {
			key := uuidKey(r.IntN(40))
			op := r.IntN(100)
			history = append(history, fmt.Sprintf("%d(%s)", op, key[:8]))
			switch {
			case op < 40:
				b := byte(r.IntN(256))
				buf := m.buffer(1, b)
				size := r.Int64N(bound / 2)
				if !c.Set(key, Entry{Buf: buf, Size: size}) && size+36+overhead <= c.mainBytes() {
					fail("Set refused %d bytes", size)
				}
				buf.Release()
				model[key] = b
				if size+36+overhead <= c.window.limit { // in the window: found for certain
					e, ok := c.Get(key)
					if !ok || e.Buf.Bytes()[0] != b {
						fail("Get after Set = %v", ok)
					}
					e.Buf.Release()
				}
			case op < 80:
				if e, ok := c.Get(key); ok {
					if want, ok := model[key]; !ok || e.Buf.Bytes()[0] != want {
						fail("Get = %d, want %d, %v", e.Buf.Bytes()[0], want, ok)
					}
					e.Buf.Release()
				}
			case op < 98:
				c.Evict(key)
				delete(model, key)
			case op < 99:
				c.Clear()
				clear(model)
			default:
				c.await(0)
			}
			if s := c.Stats(); s.Bytes > bound {
				fail("%+v", s)
			}
			if op%4 != 0 {
				continue
			}
			c.await(0) // so that the policy does not change the numbers between two looks
			if s := c.Stats(); s.Entries != m.made.Load()-m.freed.Load() {
				fail("%+v with %d buffers live", s, m.made.Load()-m.freed.Load())
			}
		}
		c.Close()
		m.check(t)
	}
}

// Everything at once, by 8 goroutines: what a reader holds stays what it was, and every reference comes back once.
func TestConcurrent(t *testing.T) {
	var m memory
	_, before := transport.Live(transport.CMemory)
	c := newCache(t, 256<<10)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 7))
			for range 4000 {
				k := r.IntN(64)
				key := uuidKey(k)
				switch op := r.IntN(100); {
				case op < 50:
					if e, ok := c.Get(key); ok {
						for _, b := range e.Buf.Bytes() {
							if b != byte(k) {
								t.Errorf("key %d holds %d", k, b)
								break
							}
						}
						e.Buf.Release()
					}
				case op < 85:
					buf := m.buffer(64, byte(k))
					c.Set(key, Entry{Buf: buf, Size: int64(r.IntN(24 << 10))})
					buf.Release()
				case op < 99:
					c.Evict(key)
				default:
					c.Clear()
				}
			}
		})
	}
	wg.Wait()
	c.await(0)
	if s := c.Stats(); s.Bytes > s.MaxBytes || s.Entries != m.made.Load()-m.freed.Load() {
		t.Errorf("%+v with %d buffers live", s, m.made.Load()-m.freed.Load())
	}
	c.Close()
	m.check(t)
	if _, after := transport.Live(transport.CMemory); after != before {
		t.Errorf("%d bytes leaked", after-before)
	}
}

func TestConcurrentClose(t *testing.T) {
	for round := range 30 {
		var m memory
		c := newCache(t, 128<<10)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 200 {
					key := uuidKey(i % 16)
					buf := m.buffer(1, 1)
					c.Set(key, Entry{Buf: buf, Size: 20 << 10})
					buf.Release()
					if e, ok := c.Get(key); ok {
						e.Buf.Release()
					}
					if i == 20+round && g < 2 {
						c.Close()
					}
					if i%7 == 0 {
						c.Evict(key)
					}
				}
			})
		}
		wg.Wait()
		m.check(t)
		if c.Set("k", Entry{Size: 1}) {
			t.Error("Set kept something after Close")
		}
		c.Clear()
	}
}

// The bubble fails the test if a goroutine is left in it.
func TestCloseStopsGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(mib)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			c.Set(uuidKey(i), Entry{Size: 100_000})
			c.Get(uuidKey(i))
		}
		c.Close()
		c.Close()
	})
}
