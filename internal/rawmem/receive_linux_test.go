package rawmem

import (
	"fmt"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BenchmarkReceive receives objects from a unix socket into memory of several kinds, fresh or used before: what Pages is made of, and why.
func BenchmarkReceive(b *testing.B) {
	anon := func(huge bool) func(int) ([]byte, func()) {
		return func(n int) ([]byte, func()) {
			m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				b.Fatal(err)
			}
			if huge {
				if err := unix.Madvise(m, unix.MADV_HUGEPAGE); err != nil {
					b.Fatal(err)
				}
			} else {
				unix.Madvise(m, unix.MADV_NOHUGEPAGE)
			}
			return m, func() { unix.Munmap(m) }
		}
	}
	memfd := func(n int) ([]byte, func()) {
		fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Ftruncate(fd, int64(n)); err != nil {
			b.Fatal(err)
		}
		m, err := unix.Mmap(fd, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			b.Fatal(err)
		}
		return m, func() { unix.Munmap(m); unix.Close(fd) }
	}
	for _, size := range []int{64 << 10, 1 << 20, 16 << 20, 256 << 20, 1 << 30} {
		for _, kind := range []struct {
			name string
			get  func(int) ([]byte, func())
		}{{"heap", func(n int) ([]byte, func()) { return Make(n), func() {} }}, {"anon", anon(false)}, {"huge", anon(true)}, {"memfd", memfd}} {
			for _, again := range []bool{false, true} {
				b.Run(fmt.Sprintf("size=%d/mem=%s/again=%v", size, kind.name, again), func(b *testing.B) {
					fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
					if err != nil {
						b.Fatal(err)
					}
					unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
					go func() {
						src := make([]byte, 1<<20)
						for {
							if _, err := unix.Write(fds[1], src); err != nil {
								return
							}
						}
					}()
					defer unix.Close(fds[0])
					b.SetBytes(int64(size))
					var mem []byte
					free := func() {}
					for b.Loop() {
						if !again || mem == nil {
							free()
							mem, free = kind.get(size)
						}
						for off := 0; off < size; {
							n, err := unix.Read(fds[0], mem[off:min(off+1<<20, size)])
							if err != nil || n == 0 {
								b.Fatal(n, os.NewSyscallError("read", err))
							}
							off += n
						}
					}
					free()
					_ = unsafe.Pointer(nil)
				})
			}
		}
	}
}
