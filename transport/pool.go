package transport

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/internal/invariants"
	"github.com/proxyplane/proxyplane/internal/rawmem"
)

// Size classes of Go memory are powers of two. Smaller requests are cheaper from the garbage collector than from any shared list; larger ones
// come from outside the Go heap.
const (
	minClassBits = 10 // 1 KiB
	maxClassBits = 19 // 512 KiB
)

// A Pool hands out Buffers whose memory is used again: touching fresh pages costs several times the copy into warm ones. Memory is not cleared. The
// zero Pool keeps nothing idle; make one with [NewPool]. All methods may be called by many goroutines at once.
//
// Buffers of more than 512 KiB stand on memory outside the Go heap where the system has it, in steps of at most a quarter and without an upper
// limit: the collector neither sees nor counts them. Idle memory of that kind goes back to the system when nobody wanted it for half a minute.
//
// A Buffer that is dropped without Release is a leak that no collector mends: its bytes may still be read by whoever kept a slice of them, so they
// are never unmapped. [Live] and [PoolStats].Held show such leaks.
type Pool struct {
	maxIdle int64
	free    func([]byte) // put, as a function made once: each use of a method value allocates
	idle    atomic.Int64 // in classes
	gets    atomic.Int64
	misses  atomic.Int64
	held    atomic.Int64
	classes [maxClassBits - minClassBits + 1]class
	pages   rawmem.Pages
}

// class is the free list of one size. A stack, not a ring: the memory used last is the warmest.
type class struct {
	mu   sync.Mutex
	free [][]byte
}

// NewPool returns a Pool that keeps at most maxIdle bytes of unused memory, and beyond that, for half a minute, one Buffer from outside the Go heap,
// however large: the next one is often as large. A maxIdle of 0 keeps nothing.
func NewPool(maxIdle int64) *Pool {
	p := &Pool{maxIdle: maxIdle}
	p.free = p.put
	return p
}

// DefaultPool serves whoever was not given a Pool. It keeps at most 256 MiB idle, all but the small Buffers only for half a minute, and as long one Buffer
// beyond that. (16 gets of 10 MB in flight took twice as long with 64 MiB.)
var DefaultPool = NewPool(256 << 20)

// Get returns a Buffer of exactly n bytes with undefined content. The caller owns it, may write its bytes until it hands it on, and must
// Release it.
func (p *Pool) Get(n int) *Buffer {
	p.gets.Add(1)
	p.held.Add(1)
	free := p.free
	if free == nil { // the zero Pool
		free = p.put
	}
	return NewBuffer(p.memory(n), Pooled, free)
}

func (p *Pool) memory(n int) []byte {
	if n > 1<<maxClassBits {
		mem, again := p.pages.Get(n)
		if !again {
			p.misses.Add(1)
		}
		return mem
	}
	c := classOf(n)
	if c < 0 {
		p.misses.Add(1)
		return nil
	}
	if mem := p.classes[c].pop(); mem != nil {
		p.idle.Add(-int64(cap(mem)))
		return mem[:n]
	}
	p.misses.Add(1)
	return rawmem.Make(1 << (c + minClassBits))[:n]
}

// put takes memory back. It is the free function of the Pool's Buffers, so it runs exactly once for each.
func (p *Pool) put(mem []byte) {
	p.held.Add(-1)
	if cap(mem) > 1<<maxClassBits {
		invariants.Poison(mem) // not to its capacity: nobody has touched the rest
		if p.maxIdle <= 0 {
			rawmem.Free(mem)
			return
		}
		p.pages.Put(mem)
		p.pages.Shrink(p.maxIdle - p.idle.Load())
		return
	}
	mem = mem[:cap(mem)]
	invariants.Poison(mem)
	c := classOf(len(mem))
	if c < 0 {
		return
	}
	idle := p.idle.Add(int64(len(mem)))
	if idle > p.maxIdle {
		p.idle.Add(-int64(len(mem)))
		return
	}
	p.classes[c].push(mem)
	p.pages.Shrink(p.maxIdle - idle)
}

// PoolStats is what a Pool has done so far.
type PoolStats struct {
	Gets      int64 // calls of Get
	Misses    int64 // those that had to allocate
	Held      int64 // Buffers handed out and not released yet
	IdleBytes int64 // memory waiting to be used again
}

// Stats returns the counts so far. Under concurrent use they need not be of one instant.
func (p *Pool) Stats() PoolStats {
	return PoolStats{Gets: p.gets.Load(), Misses: p.misses.Load(), Held: p.held.Load(), IdleBytes: p.idle.Load() + p.pages.Idle()}
}

// Trim gives all idle memory back, to the system or the garbage collector.
func (p *Pool) Trim() {
	for i := range p.classes {
		for mem := p.classes[i].pop(); mem != nil; mem = p.classes[i].pop() {
			p.idle.Add(-int64(cap(mem)))
		}
	}
	p.pages.Trim(0)
}

// classOf returns the index of the smallest class that holds n bytes, or -1 for 0 bytes, which need no memory. n is at most that of
// the largest class.
func classOf(n int) int {
	if n <= 0 {
		return -1
	}
	return max(bits.Len(uint(n-1)), minClassBits) - minClassBits
}

func (c *class) pop() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.free) == 0 {
		return nil
	}
	mem := c.free[len(c.free)-1]
	c.free[len(c.free)-1] = nil
	c.free = c.free[:len(c.free)-1]
	return mem
}

func (c *class) push(mem []byte) {
	c.mu.Lock()
	c.free = append(c.free, mem)
	c.mu.Unlock()
}
