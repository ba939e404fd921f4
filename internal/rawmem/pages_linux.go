package rawmem

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// noReserve lets large pieces be mapped whose pages may never be touched: they are bounded by whoever asks for them.
const noReserve = unix.MAP_NORESERVE

// hugePage is where advice about huge pages begins to matter.
const hugePage = 2 << 20

// maxMappings leaves three quarters of what vm.max_map_count is by default to others, the Go runtime first: without a mapping to be had it dies.
const maxMappings = 16 << 10

// dontNeed gives the memory behind mem back, but not the addresses. Where the pages are locked it stays.
func dontNeed(mem []byte) { _ = unix.Madvise(mem, unix.MADV_DONTNEED) }

// advise asks for huge pages: one fault for 2 MiB instead of 512. A system without them says no, which changes nothing else.
func advise(mem []byte) {
	if len(mem) >= hugePage {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	}
}

// remapPages moves the pages of mem, not their bytes, to a mapping of n bytes. It returns nil if that cannot be done; then mem is as it was.
func remapPages(mem []byte, n int) []byte {
	if onHeapCount.Load() > 0 {
		if _, ok := onHeap.Load(address(mem)); ok {
			return nil
		}
	}
	if crowded(len(mem)) {
		return nil
	}
	base, err := unix.MremapPtr(unsafe.Pointer(unsafe.SliceData(mem)), uintptr(len(mem)), nil, uintptr(n), unix.MREMAP_MAYMOVE)
	if err != nil {
		return nil
	}
	moved := unsafe.Slice((*byte)(base), n)
	if len(mem) < hugePage {
		advise(moved)
	}
	return moved
}
