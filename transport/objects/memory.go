package objects

import (
	"sync/atomic"

	"github.com/proxyplane/proxyplane/internal/invariants"
	"github.com/proxyplane/proxyplane/internal/rawmem"
	"github.com/proxyplane/proxyplane/transport"
)

// memory is a Table's: how much of it may be taken, and the bytes themselves.
type memory struct {
	limit    int64
	used     atomic.Int64 // bytes counted against limit
	reserved atomic.Int64 // those of objects on their way in
	maxIdle  atomic.Int64
	pages    rawmem.Pages
	slabs    rawmem.Slabs
	free     func([]byte)
}

func (h *memory) init(limit, idle int64) {
	h.limit = limit
	h.maxIdle.Store(idle)
	h.slabs.Pages = &h.pages
	h.free = func(mem []byte) {
		n := int64(len(mem))
		h.recycle(mem)
		h.giveBack(n)
	}
}

// take counts n bytes against the limit, or reports false.
func (h *memory) take(n int64) bool {
	for {
		used := h.used.Load()
		if n > h.limit-used {
			return false
		}
		if h.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

func (h *memory) giveBack(n int64) { h.used.Add(-n) }

// alloc returns n bytes with undefined content that are counted already, or nil where the system has no large n in one run.
func (h *memory) alloc(n int) []byte {
	var mem []byte
	switch {
	case rawmem.Slotted(n):
		mem = h.slabs.Get(n)
	case n <= rawmem.MinPages:
		return make([]byte, n)
	default:
		mem = h.pages.Try(n)
	}
	if over := h.used.Load() + h.pages.Idle() - h.limit; over > 0 {
		h.pages.Trim(h.pages.Idle() - over)
	}
	return mem
}

// recycle takes memory of alloc or resize back.
func (h *memory) recycle(mem []byte) {
	if collected(mem) { // its bytes may outlive its Buffer
		return
	}
	invariants.Poison(mem)
	if rawmem.Slotted(cap(mem)) {
		h.slabs.Put(mem)
	} else {
		h.pages.Put(mem)
	}
	h.pages.Trim(h.maxIdle.Load())
}

// resize returns n bytes that begin with those of mem, which it takes; or nil, as alloc, and takes nothing.
func (h *memory) resize(mem []byte, n int) []byte {
	if cap(mem) > rawmem.MinPages && n > rawmem.MinPages {
		return h.pages.Resize(mem, n)
	}
	fresh := h.alloc(n)
	if fresh == nil {
		return nil
	}
	copy(fresh, mem)
	h.recycle(mem)
	return fresh
}

// fit returns mem in memory that wastes little. It takes mem.
func (h *memory) fit(mem []byte) []byte {
	if cap(mem)-len(mem) <= cap(mem)/4 {
		return mem
	}
	if fitting := h.resize(mem, len(mem)); fitting != nil {
		return fitting
	}
	return mem
}

// collected reports whether mem is the garbage collector's.
func collected(mem []byte) bool { return !rawmem.Slotted(cap(mem)) && cap(mem) <= rawmem.MinPages }

// buffer returns a Buffer over mem, which it takes. The bytes are given back with its last reference.
func (h *memory) buffer(mem []byte) *transport.Buffer {
	if len(mem) == 0 {
		h.recycle(mem)
		return transport.FromBytes(nil)
	}
	if collected(mem) {
		return transport.NewBuffer(mem, transport.GC, h.free)
	}
	return transport.NewBuffer(mem, transport.Pooled, h.free)
}

func (h *memory) idle() int64 { return h.pages.Idle() }

// close keeps no unused memory from now on.
func (h *memory) close() {
	h.maxIdle.Store(0)
	h.pages.Trim(0)
}
