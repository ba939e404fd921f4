//go:build unix

package rawmem

import (
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

// mapPages returns n bytes that nobody has touched.
func mapPages(n int) []byte {
	if invariants.Enabled && turns.Add(1)%2 == 0 { // the race detector sees Go memory only
		return goMemory(n)
	}
	base, err := unix.MmapPtr(-1, 0, nil, uintptr(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|noReserve)
	if err != nil { // no address space, or too many mappings: the runtime may still have memory, or say clearly that there is none
		return goMemory(n)
	}
	mem := unsafe.Slice((*byte)(base), n)
	advise(mem)
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
	if err := unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(mem)), uintptr(len(mem))); err != nil {
		panic(fmt.Sprintf("rawmem: munmap of our own mapping failed: %v", err)) // a corrupted header; going on would unmap at random
	}
}
