package transport

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/internal/invariants"
	"github.com/proxyplane/proxyplane/internal/rawmem"
)

// Size classes are powers of two. Smaller requests are cheaper from the garbage collector than from any shared list; larger ones are rare
// and would pin too much memory.
const (
	minClassBits = 10 // 1 KiB
	maxClassBits = 26 // 64 MiB
)

// A Pool hands out Buffers whose memory is used again: touching fresh pages costs an order of magnitude more than copying into warm ones.
// Memory is not cleared. The zero Pool keeps nothing idle; make one with [NewPool]. All methods may be called by many goroutines at once.
type Pool struct {
	maxIdle int64
	free    func([]byte) // put, as a function made once: each use of a method value allocates
	idle    atomic.Int64
	gets    atomic.Int64
	misses  atomic.Int64
	held    atomic.Int64
	classes [maxClassBits - minClassBits + 1]class
}

// class is the free list of one size. A stack, not a ring: the memory used last is the warmest.
type class struct {
	mu   sync.Mutex
	free [][]byte
}

// NewPool returns a Pool that keeps at most maxIdle bytes of unused memory.
func NewPool(maxIdle int64) *Pool {
	p := &Pool{maxIdle: maxIdle}
	p.free = p.put
	return p
}

// DefaultPool serves whoever was not given a Pool. It keeps at most 64 MiB idle.
var DefaultPool = NewPool(64 << 20)

// Get returns a Buffer of exactly n bytes with undefined content. The caller owns it, may write its bytes until it hands it on, and must
// Release it.
func (p *Pool) Get(n int) *Buffer {
	p.gets.Add(1)
	p.held.Add(1)
	c := classOf(n)
	var mem []byte
	if c >= 0 {
		mem = p.classes[c].pop()
	}
	switch {
	case mem != nil:
		p.idle.Add(-int64(cap(mem)))
	case c >= 0:
		p.misses.Add(1)
		mem = rawmem.Make(1 << (c + minClassBits))
	default:
		p.misses.Add(1)
		mem = rawmem.Make(n)
	}
	free := p.free
	if free == nil { // the zero Pool
		free = p.put
	}
	return NewBuffer(mem[:n], Pooled, free)
}

// put takes memory back. It is the free function of the Pool's Buffers, so it runs exactly once for each.
func (p *Pool) put(mem []byte) {
	p.held.Add(-1)
	mem = mem[:cap(mem)]
	invariants.Poison(mem)
	c := classOf(len(mem))
	if c < 0 || len(mem) != 1<<(c+minClassBits) {
		return
	}
	if p.idle.Add(int64(len(mem))) > p.maxIdle {
		p.idle.Add(-int64(len(mem)))
		return
	}
	p.classes[c].push(mem)
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
	return PoolStats{Gets: p.gets.Load(), Misses: p.misses.Load(), Held: p.held.Load(), IdleBytes: p.idle.Load()}
}

// Trim drops all idle memory, for the garbage collector to return.
func (p *Pool) Trim() {
	for i := range p.classes {
		for mem := p.classes[i].pop(); mem != nil; mem = p.classes[i].pop() {
			p.idle.Add(-int64(cap(mem)))
		}
	}
}

// classOf returns the index of the smallest class that holds n bytes, or -1 if the pool does not keep such sizes.
func classOf(n int) int {
	if n <= 0 || n > 1<<maxClassBits {
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
