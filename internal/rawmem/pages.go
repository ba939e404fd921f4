package rawmem

import (
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// MinPages is the least capacity that Pages gives.
const MinPages = 256 << 10

// keepFor is how long unused memory is kept, at least; at most twice as long.
const keepFor = 30 * time.Second

// Pages is memory outside the Go heap for large objects: anonymous mappings that are used again. On a warm machine, receiving 16 MiB from a unix
// socket into used pages runs at 7 GB/s, into fresh huge pages at 5, into fresh small ones at 1.6, and into those of a fresh memory file at 1.1
// (go test -bench Receive ./internal/rawmem). Where the system gives no mapping it is Go memory.
//
// Sizes are rounded up to four steps per power of two, so that what is used again wastes at most a quarter; what was never touched costs
// nothing. Unused memory is kept for half a minute. A timer exists only while there is some, and no goroutine at all.
//
// The zero Pages is ready to use, and must not be copied. The methods may be called by many goroutines at once. Memory that nobody puts back
// is never unmapped: its bytes stay valid for whoever still reads them.
type Pages struct {
	mu      sync.Mutex
	idle    map[int][]spare // by size; the last is the warmest
	turn    int64
	armed   bool // a timer is set
	armedAt time.Time
	// What is in idle, changed under mu.
	bytes, pieces atomic.Int64
}

type spare struct {
	mem   []byte
	since time.Time
	turn  int64 // counts pieces: time alone does not tell which of two is older
}

// ClassOf returns the capacity of the memory that Get(n) gives.
func ClassOf(n int) int {
	n = max(n, MinPages)
	step := 1 << (bits.Len(uint(n-1)) - 3)
	return (n + step - 1) &^ (step - 1)
}

// Get returns n bytes with undefined content, and whether they were used before. The capacity is ClassOf(n).
func (p *Pages) Get(n int) (mem []byte, again bool) {
	size := ClassOf(n)
	if mem := p.pop(size); mem != nil {
		return mem[:n], true
	}
	mem = mapPages(size)
	if mem == nil { // the runtime may still have memory, or say clearly that there is none
		mem = goMemory(size)
	}
	return mem[:n], false
}

// maxPiece is more than any system maps; ClassOf does not overflow below.
const maxPiece = 1 << 46

// Try is Get for an n that somebody else chose: where the system refuses it returns nil, and the program goes on.
func (p *Pages) Try(n int) []byte {
	if uint64(n) > maxPiece {
		return nil
	}
	size := ClassOf(n)
	mem := p.pop(size)
	if mem == nil {
		mem = mapPages(size)
	}
	return mem[:min(n, len(mem))]
}

func (p *Pages) pop(size int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[size]
	if len(list) == 0 {
		return nil
	}
	mem := list[len(list)-1].mem
	p.remove(size, len(list)-1)
	return mem
}

// remove takes one piece off the list.
func (p *Pages) remove(size, i int) {
	p.idle[size] = slices.Delete(p.idle[size], i, i+1) // an empty list keeps its memory
	p.bytes.Add(-int64(size))
	p.pieces.Add(-1)
}

// Put takes back what Get or Resize gave, whatever its length is now, and keeps it: see Shrink and Trim.
func (p *Pages) Put(mem []byte) {
	mem = mem[:cap(mem)]
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle == nil {
		p.idle = map[int][]spare{}
	}
	p.idle[len(mem)] = append(p.idle[len(mem)], spare{mem, now, p.turn})
	p.turn++
	p.bytes.Add(int64(len(mem)))
	p.pieces.Add(1)
	p.arm(now)
}

// Free gives what Get or Resize gave back to the system.
func Free(mem []byte) { unmapPages(mem[:cap(mem)]) }

// oldest takes the piece that was unused for longest off the lists. There is one.
func (p *Pages) oldest() []byte {
	var size int
	for s, list := range p.idle {
		if len(list) > 0 && (size == 0 || list[0].turn < p.idle[size][0].turn) {
			size = s
		}
	}
	mem := p.idle[size][0].mem
	p.remove(size, 0)
	return mem
}

// arm makes sure that unused memory is looked at again. In tests with fake time, one Pages serves goroutines of several clocks: a timer belongs to
// the clock that made it, and is neither stopped nor reset, and it never fires if that clock stops; so one that is overdue does not count.
func (p *Pages) arm(now time.Time) {
	if p.bytes.Load() == 0 || p.armed && now.Sub(p.armedAt).Abs() < 2*keepFor {
		return
	}
	p.armed, p.armedAt = true, now
	time.AfterFunc(keepFor, p.expire)
}

func (p *Pages) expire() {
	var drop [][]byte
	now := time.Now()
	p.mu.Lock()
	p.armed = false
	for size, list := range p.idle {
		for ; len(list) > 0 && now.Sub(list[0].since) >= keepFor; list = p.idle[size] {
			drop = append(drop, list[0].mem)
			p.remove(size, 0)
		}
	}
	p.arm(now)
	p.mu.Unlock()
	unmapAll(drop)
}

// Trim gives unused memory back to the system, what was unused for longest first, until at most keep bytes are left.
func (p *Pages) Trim(keep int64) { p.shrink(keep, 0) }

// Shrink is Trim, but leaves one piece, however large: the one that was used last.
func (p *Pages) Shrink(keep int64) { p.shrink(keep, 1) }

func (p *Pages) shrink(keep, pieces int64) {
	if p.bytes.Load() <= max(keep, 0) || p.pieces.Load() <= pieces {
		return
	}
	var drop [][]byte
	p.mu.Lock()
	for p.bytes.Load() > max(keep, 0) && p.pieces.Load() > pieces {
		drop = append(drop, p.oldest())
	}
	p.mu.Unlock()
	unmapAll(drop)
}

// Idle returns how many bytes are unused.
func (p *Pages) Idle() int64 { return p.bytes.Load() }

func unmapAll(pieces [][]byte) {
	for _, mem := range pieces {
		unmapPages(mem)
	}
}

// Resize returns n bytes that begin with those of mem, which it takes. Into memory that was used before it copies, which is cheaper than fresh pages;
// else, where the system can, pages move and no byte is copied. Where the system refuses it returns nil, and mem stays the caller's.
func (p *Pages) Resize(mem []byte, n int) []byte {
	size := ClassOf(n)
	if size == cap(mem) {
		return mem[:n]
	}
	var other []byte
	if size > cap(mem) {
		other = p.pop(size)
	}
	if other == nil {
		if moved := remapPages(mem[:cap(mem)], size); moved != nil {
			return moved[:n]
		}
		if other = p.Try(n); other == nil {
			return nil
		}
	}
	copy(other, mem)
	p.Put(mem)
	return other[:n]
}

func address(mem []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mem))) }
