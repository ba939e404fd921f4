//go:build unix

package transport

import (
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Map returns n bytes of f from off as a Buffer over a private read-only mapping: no byte is read before it is touched. f may be closed or
// unlinked afterwards. Nobody may truncate the file while the mapping lives: touching a page past the end is a fault that Go cannot recover
// from. The range must lie inside the file. n of 0 needs no mapping and gives an empty Buffer.
func Map(f *os.File, off, n int64) (*Buffer, error) {
	if n == 0 {
		return FromBytes(nil), nil
	}
	if off < 0 || n < 0 || n > math.MaxInt-int64(os.Getpagesize()) {
		return nil, fmt.Errorf("map %s: range of %d bytes at %d is impossible", f.Name(), n, off)
	}
	lead := off % int64(os.Getpagesize()) // the kernel maps whole pages
	var base unsafe.Pointer
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := conn.Control(func(fd uintptr) {
		base, err = unix.MmapPtr(int(fd), off-lead, nil, uintptr(n+lead), unix.PROT_READ, unix.MAP_PRIVATE)
	})
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: f.Name(), Err: err}
	}
	data := unsafe.Slice((*byte)(unsafe.Add(base, lead)), n)
	return NewBuffer(data, Mapped, func([]byte) {
		if err := unix.MunmapPtr(base, uintptr(n+lead)); err != nil {
			panic(fmt.Sprintf("transport: munmap of our own mapping failed: %v", err)) // a corrupted header; going on would unmap at random
		}
	}), nil
}
