package rawmem

import (
	"cmp"
	"math/bits"
	"slices"
	"sync"
)

// What Slabs are for: below, the collector's own size classes are as tight, and above, Pages.
const (
	minSlot = 512
	maxSlot = 256 << 10
)

// Slabs is memory outside the Go heap for very many small objects: pieces of Pages, cut into slots of one size. Sizes are rounded up to four steps
// per power of two; the mean waste is a tenth. A piece goes back to Pages when its last slot is free.
//
// It must not be copied. The methods may be called by many goroutines at once.
type Slabs struct {
	Pages   *Pages
	classes [4*9 + 1]slabClass // 512 bytes to 256 KiB
}

type slabClass struct {
	mu      sync.Mutex
	all     []*slab // by address
	partial []*slab // those with a free slot
}

type slab struct {
	mem    []byte
	at     uintptr
	free   []uint16 // slots that were used before
	fresh  int      // from this one on none was
	inUse  int
	listed bool // in partial
}

// slot returns the index of the class and the size of its slots, for 0 < n <= maxSlot.
func slot(n int) (class, size int) {
	n = max(n, minSlot)
	step := bits.Len(uint(n-1)) - 3 // 6 for 257 to 512
	size = (n + 1<<step - 1) &^ (1<<step - 1)
	return 4*(step-6) + size>>step - 8, size
}

// slabSize is at least eight slots, and small where slots are, so that few objects of many sizes do not take much.
func slabSize(slot int) int { return min(max(64*slot, MinPages), 2<<20) }

// Slotted reports whether memory for n bytes comes from Slabs.
func Slotted(n int) bool { return n >= minSlot && n <= maxSlot }

// Get returns n bytes with undefined content, for an n that is Slotted. The capacity is that of the slot.
func (s *Slabs) Get(n int) []byte {
	class, size := slot(n)
	c := &s.classes[class]
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.partial) == 0 {
		mem, _ := s.Pages.Get(slabSize(size))
		b := &slab{mem: mem, at: address(mem), listed: true}
		i, _ := slices.BinarySearchFunc(c.all, b.at, byAddress)
		c.all = slices.Insert(c.all, i, b)
		c.partial = append(c.partial, b)
	}
	b := c.partial[len(c.partial)-1]
	var at int
	if last := len(b.free) - 1; last >= 0 {
		at = int(b.free[last])
		b.free = b.free[:last]
	} else {
		at = b.fresh
		b.fresh++
	}
	b.inUse++
	if len(b.free) == 0 && b.fresh == len(b.mem)/size {
		c.partial = c.partial[:len(c.partial)-1]
		b.listed = false
	}
	return b.mem[at*size : at*size+n : (at+1)*size]
}

// Put takes back what Get gave, whatever its length is now.
func (s *Slabs) Put(mem []byte) {
	size := cap(mem)
	class, _ := slot(size)
	c := &s.classes[class]
	at := address(mem)
	c.mu.Lock()
	i, found := slices.BinarySearchFunc(c.all, at, byAddress)
	if !found {
		i-- // the slab that begins before it
	}
	b := c.all[i]
	b.free = append(b.free, uint16(int(at-b.at)/size))
	b.inUse--
	if !b.listed {
		b.listed = true
		c.partial = append(c.partial, b)
	}
	if b.inUse > 0 {
		c.mu.Unlock()
		return
	}
	c.all = slices.Delete(c.all, i, i+1)
	j := slices.Index(c.partial, b)
	c.partial = slices.Delete(c.partial, j, j+1)
	c.mu.Unlock()
	s.Pages.Put(b.mem)
}

func byAddress(b *slab, at uintptr) int { return cmp.Compare(b.at, at) }
