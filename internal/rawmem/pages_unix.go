//go:build unix

package rawmem

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/internal/invariants"
)

// onHeap holds the addresses of pieces that are Go memory. In normal builds that is none, unless mapping failed.
var (
	onHeap      sync.Map
	onHeapCount atomic.Int64
	turns       atomic.Int64
)

// mappings counts the pieces that are mappings, parked ones too.
var mappings atomic.Int64

// parked holds pieces whose memory went back to the system but whose address space did not, by size. Unmapping the middle of what the system sees as
// one mapping makes two of it, and a process may have so many and no more: beyond maxMappings pieces none is unmapped any more, but those of manySize
// and more, of which there cannot be many.
var parked struct {
	mu     sync.Mutex
	count  atomic.Int64
	bySize map[int][]unsafe.Pointer
}

const manySize = 64 << 20

// crowded reports whether there are so many pieces that one of n bytes must neither split nor end a mapping.
func crowded(n int) bool { return n < manySize && mappings.Load() > maxMappings }

func park(mem []byte) {
	dontNeed(mem)
	parked.mu.Lock()
	defer parked.mu.Unlock()
	if parked.bySize == nil {
		parked.bySize = map[int][]unsafe.Pointer{}
	}
	parked.bySize[len(mem)] = append(parked.bySize[len(mem)], unsafe.Pointer(unsafe.SliceData(mem)))
	parked.count.Add(1)
}

// unpark returns a parked piece of n bytes, or nil.
func unpark(n int) []byte {
	if parked.count.Load() == 0 {
		return nil
	}
	parked.mu.Lock()
	defer parked.mu.Unlock()
	list := parked.bySize[n]
	if len(list) == 0 {
		return nil
	}
	base := list[len(list)-1]
	parked.bySize[n] = list[:len(list)-1]
	parked.count.Add(-1)
	return unsafe.Slice((*byte)(base), n)
}

// mapPages returns n bytes that nobody has touched, or nil where the system refuses.
func mapPages(n int) []byte {
	if invariants.Enabled && turns.Add(1)%2 == 0 { // the race detector sees Go memory only
		return goMemory(n)
	}
	if mem := unpark(n); mem != nil {
		return mem
	}
	base, err := unix.MmapPtr(-1, 0, nil, uintptr(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|noReserve)
	if err != nil {
		return nil
	}
	mappings.Add(1)
	mem := unsafe.Slice((*byte)(base), n)
	if !crowded(n) { // advice for one piece keeps it a mapping of its own
		advise(mem)
	}
	return mem
}

func goMemory(n int) []byte {
	mem := Make(n)
	onHeap.Store(address(mem), struct{}{})
	onHeapCount.Add(1)
	return mem[:n:n]
}

func unmapPages(mem []byte) {
	if onHeapCount.Load() > 0 {
		if _, ok := onHeap.LoadAndDelete(address(mem)); ok {
			onHeapCount.Add(-1)
			return
		}
	}
	if crowded(len(mem)) {
		park(mem)
		return
	}
	switch err := unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(mem)), uintptr(len(mem))); {
	case err == nil:
		mappings.Add(-1)
	case errors.Is(err, unix.ENOMEM): // others have made as many mappings as there may be
		park(mem)
	default:
		panic(fmt.Sprintf("rawmem: munmap of our own mapping failed: %v", err)) // a corrupted header; going on would unmap at random
	}
}
