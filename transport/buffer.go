package transport

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/proxyplane/proxyplane/internal/invariants"
	"github.com/proxyplane/proxyplane/internal/rawmem"
)

// Backing says what memory a Buffer stands on.
type Backing uint8

// The kinds of memory behind a Buffer.
const (
	GC         Backing = iota // Go memory; the garbage collector frees it, so its bytes may outlive the Buffer
	Pooled                    // from a Pool; used again after the last Release
	Mapped                    // a file mapping
	CMemory                   // allocated by C
	Registered                // registered with a network device
	numBackings
)

// String returns the backing's name in lower case.
func (b Backing) String() string {
	names := [numBackings]string{"gc", "pool", "mmap", "c", "registered"}
	if b < numBackings {
		return names[b]
	}
	return fmt.Sprintf("backing(%d)", uint8(b))
}

// live counts, by backing, the memory that somebody still holds. GC memory is not counted.
var live [numBackings]struct{ buffers, bytes atomic.Int64 }

// Live returns how many buffers of that backing exist whose last reference is not released yet, and their bytes. Views do not count. Tests
// use it to prove that nothing leaks; it is always 0 for GC.
func Live(b Backing) (buffers, bytes int64) {
	return live[b].buffers.Load(), live[b].bytes.Load()
}

// A Buffer is a reference-counted run of bytes. It is made with one reference, which its maker owns; [Buffer.Retain] adds one and
// [Buffer.Release] drops one. When the last is dropped the memory goes back where it came from, exactly once, whatever the length.
//
// The bytes are read-only as soon as a second party can see them. Only who just made the Buffer (from a Pool, say) may fill it, before handing
// it on.
//
// All methods may be called by many goroutines at once, as long as each holds a reference. The header itself is ordinary Go memory and is
// never recycled, so that [Buffer.TryRetain] on a released Buffer is safe and reports false.
type Buffer struct {
	refs    atomic.Int32
	backing Backing
	static  bool // never released: references do not count
	data    []byte
	parent  *Buffer      // a view holds one reference on its parent and has no free of its own
	free    func([]byte) // nil for plain GC memory
	freed   invariants.Stack
}

// NewBuffer returns a Buffer over data. It takes data: nobody else may write it any more. When the last reference goes, free is called
// once with data, from whatever goroutine released last; free may be nil for GC memory.
func NewBuffer(data []byte, backing Backing, free func([]byte)) *Buffer {
	if backing != GC {
		live[backing].buffers.Add(1)
		live[backing].bytes.Add(int64(len(data)))
	}
	b := &Buffer{data: data, backing: backing, free: free}
	b.refs.Store(1)
	return b
}

// FromBytes returns a Buffer over GC memory. It takes data. Releasing it is still right, and costs nothing.
func FromBytes(data []byte) *Buffer { return NewBuffer(data, GC, nil) }

// Static returns a Buffer over GC memory that is never released: Retain and Release do nothing, for it and for its views, so that any number
// of parties may share what stands on it without keeping count. It takes data.
func Static(data []byte) *Buffer {
	b := &Buffer{data: data, static: true}
	b.refs.Store(1)
	return b
}

// Bytes lends the bytes until the caller's reference is released. It panics if the Buffer has been released for good.
func (b *Buffer) Bytes() []byte {
	if b.refs.Load() <= 0 {
		b.misuse("Bytes")
	}
	return b.data
}

// Len returns the number of bytes. It is valid after release too.
func (b *Buffer) Len() int { return len(b.data) }

// Backing returns the kind of memory; that of a view is its parent's.
func (b *Buffer) Backing() Backing { return b.backing }

// Retain adds a reference and returns b. The caller must hold one already; it panics if there is none left.
func (b *Buffer) Retain() *Buffer {
	if b.static {
		return b
	}
	if b.refs.Add(1) <= 1 {
		b.refs.Add(-1) // who recovers from the panic must not find a freed Buffer alive
		b.misuse("Retain")
	}
	return b
}

// TryRetain adds a reference unless the last one is gone. Unlike Retain it may be called without holding one, which is what a cache needs
// whose entry may be dropped while a reader looks at it.
func (b *Buffer) TryRetain() bool {
	for !b.static {
		n := b.refs.Load()
		if n <= 0 {
			return false
		}
		if b.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return true
}

// Release drops the caller's reference; with the last one the memory goes back and its bytes may no longer be touched. Releasing more often
// than retaining panics. Release of a nil Buffer does nothing, so that error paths need no check.
func (b *Buffer) Release() {
	if b == nil || b.static {
		return
	}
	switch n := b.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		b.misuse("Release")
	}
	b.freed.Record()
	if b.parent != nil {
		b.parent.Release()
		return
	}
	if b.backing != GC {
		live[b.backing].buffers.Add(-1)
		live[b.backing].bytes.Add(-int64(len(b.data)))
	}
	if b.free != nil {
		b.free(b.data)
	}
}

// Slice returns a view of n bytes from off, as a Buffer of its own that keeps b's memory alive. The caller owns it and must Release it;
// b's own reference is untouched. It panics if the range is outside b, as slicing does.
func (b *Buffer) Slice(off, n int) *Buffer {
	data := b.Bytes()[off : off+n : off+n]
	b.Retain()
	v := &Buffer{data: data, backing: b.backing, static: b.static, parent: b}
	v.refs.Store(1)
	return v
}

// View returns part, which somebody found in b's bytes, as Slice would. It reports false if part does not lie in b whole: a decoder may have computed it
// instead of pointing at it. An empty part lies anywhere.
func (b *Buffer) View(part []byte) (*Buffer, bool) {
	whole := b.Bytes()
	if len(part) == 0 {
		return b.Slice(0, 0), true
	}
	off := uintptr(unsafe.Pointer(unsafe.SliceData(part))) - uintptr(unsafe.Pointer(unsafe.SliceData(whole)))
	if len(part) > len(whole) || off > uintptr(len(whole)-len(part)) {
		return nil, false
	}
	return b.Slice(int(off), len(part)), true
}

// Detach takes b and returns its bytes as memory that the garbage collector owns and that never becomes invalid. GC memory is returned as it
// is; any other is copied, since that memory is about to go back.
func (b *Buffer) Detach() []byte {
	data := b.Bytes()
	if !b.collected() {
		data = append(rawmem.Make(len(data))[:0], data...)
	}
	b.Release()
	return data
}

// collected reports whether the bytes stay valid after the last Release.
func (b *Buffer) collected() bool {
	root := b
	for root.parent != nil {
		root = root.parent
	}
	return root.backing == GC && root.free == nil
}

func (b *Buffer) misuse(op string) {
	panic(fmt.Sprintf("transport: Buffer.%s after the last Release (%s memory, %d bytes)%s", op, b.backing, len(b.data), b.freed.String()))
}
