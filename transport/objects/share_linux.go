package objects

import (
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/transport"
)

// sealed is what a memory file must be before two processes that do not trust each other map it: nobody can shrink it, which would kill
// whoever reads past the new end, and nobody can write to it, through mappings made earlier either. Against growth too: memory beyond the end is not
// seen in its size.
const sealed = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// maxShares leaves half of the descriptors to connections, and three quarters of the mappings that a process may have by default to others: each
// memory file takes one of both.
func maxShares() int64 {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 256
	}
	return int64(min(lim.Cur/2, 16<<10))
}

// Share implements [Store]. The first Share of an object that no peer brought by Adopt moves it to a memory file, which costs a copy; later ones
// cost nothing. Where there is no room for the copy, or too many objects are shared, it is errors.ErrUnsupported: Get still works.
func (t *Table) Share(id string) (*os.File, int64, error) {
	s := t.shard(id)
	for {
		s.mu.RLock()
		e := t.find(s, id)
		s.mu.RUnlock()
		if e == nil {
			_, err := t.Stat(id) // which counts no miss
			if err == nil {
				continue // put in this moment
			}
			return nil, 0, err
		}
		f, err := t.shareEntry(s, e)
		if f != nil || err != nil {
			return f, e.size, err
		}
	}
}

// shareEntry returns nothing if e is not the object any more.
func (t *Table) shareEntry(s *shard, e *entry) (*os.File, error) {
	e.convert.Lock()
	defer e.convert.Unlock()
	s.mu.RLock()
	if s.m[e.id] != e {
		s.mu.RUnlock()
		return nil, nil
	}
	t.touch(e)
	if e.share != nil {
		defer s.mu.RUnlock()
		return dup(e.share)
	}
	s.mu.RUnlock()

	b, err := t.Get(e.id) // spilled or not
	if err != nil {
		return nil, err
	}
	defer b.Release()
	if int64(b.Len()) != e.size { // replaced
		return nil, nil
	}
	if t.shares.Add(1) > t.maxOpen {
		t.shares.Add(-1)
		return nil, fmt.Errorf("%w: %d objects are shared already, the most that descriptors and mappings allow", errors.ErrUnsupported, t.maxOpen)
	}
	f, shared, err := t.memoryFile(b.Bytes())
	if err != nil {
		t.shares.Add(-1)
		return nil, err
	}
	gone := dropped{buf: shared, share: f}
	defer func() { t.drop(gone) }()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m[e.id] != e {
		return nil, nil
	}
	d, err := dup(f)
	if err != nil {
		return nil, err
	}
	gone = dropped{buf: e.buf, foreign: e.foreign, file: e.file, size: e.size}
	if e.buf == nil {
		s.bytes.Add(e.size)
	}
	e.buf, e.foreign, e.file, e.mapped, e.share = shared, false, spilled{}, nil, f
	return d, nil
}

// memoryFile returns a sealed memory file that holds data, and a Buffer that maps it and counts against the limit.
func (t *Table) memoryFile(data []byte) (_ *os.File, _ *transport.Buffer, err error) {
	size := int64(len(data))
	if err := t.reserve(size); err != nil {
		return nil, nil, fmt.Errorf("%w: no room for a shared copy: %v", errors.ErrUnsupported, err)
	}
	defer func() {
		if err != nil {
			t.mem.giveBack(size)
		}
	}()
	fd, err := unix.MemfdCreate("proxyplane object", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL) // some systems insist on it
	if errors.Is(err, unix.EINVAL) {                                                                               // before Linux 6.3
		fd, err = unix.MemfdCreate("proxyplane object", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, os.NewSyscallError("memfd_create", err))
	}
	f := os.NewFile(uintptr(fd), "proxyplane object")
	if _, err = f.Write(data); err == nil { // cheaper than through a mapping: the pages are not cleared first
		_, err = control(f, func(fd int) (int, error) {
			return unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, sealed|unix.F_SEAL_SEAL)
		})
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	b, err := t.mapShared(f, size, size)
	if err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return f, b, nil
}

// mapShared returns a Buffer over the first size bytes of f. counted bytes are given back with it.
func (t *Table) mapShared(f *os.File, size, counted int64) (*transport.Buffer, error) {
	if size == 0 {
		return transport.NewBuffer(nil, transport.Mapped, func([]byte) { t.mem.giveBack(counted) }), nil
	}
	var base unsafe.Pointer
	_, err := control(f, func(fd int) (_ int, err error) {
		base, err = unix.MmapPtr(fd, 0, nil, uintptr(size), unix.PROT_READ, unix.MAP_PRIVATE) // shared mappings of sealed files need Linux 6.7
		return 0, err
	})
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return transport.NewBuffer(unsafe.Slice((*byte)(base), size), transport.Mapped, func([]byte) {
		if err := unix.MunmapPtr(base, uintptr(size)); err != nil {
			panic(fmt.Sprintf("objects: munmap of our own mapping failed: %v", err))
		}
		t.mem.giveBack(counted)
	}), nil
}

// Adopt implements [Store]. The memory counts with all its pages, used by the object or not.
func (t *Table) Adopt(id string, f *os.File, size int64, o PutOptions) error {
	err := t.adopt(id, f, size, o)
	if err != nil {
		_ = f.Close()
	}
	return err
}

func (t *Table) adopt(id string, f *os.File, size int64, o PutOptions) error {
	if err := t.admit(id, size); err != nil {
		return err
	}
	length, held, err := checkMemoryFile(f, size)
	if err != nil {
		return err
	}
	if err := t.fits(length); err != nil {
		return err
	}
	if held > t.o.Memory {
		t.refused.Add(1)
		return fmt.Errorf("%w: a memory file that holds %d bytes, the server has %d in all", transport.ErrTooLarge, held, t.o.Memory)
	}
	if t.shares.Add(1) > t.maxOpen {
		t.shares.Add(-1)
		return t.adoptCopy(id, f, size, o)
	}
	if err := t.adoptMapped(id, f, size, held, o); err != nil {
		t.shares.Add(-1)
		return err
	}
	return nil
}

func (t *Table) adoptMapped(id string, f *os.File, size, held int64, o PutOptions) error {
	if err := t.reserve(held); err != nil {
		return err
	}
	b, err := t.mapShared(f, size, held)
	if err != nil {
		t.mem.giveBack(held)
		if errors.Is(err, unix.EACCES) {
			return fmt.Errorf("%w: the memory file is not open for reading: %w", transport.ErrDenied, err)
		}
		return fmt.Errorf("%w: the memory file cannot be mapped: %w", transport.ErrUnavailable, err)
	}
	if err := t.publish(&entry{id: id, size: size, buf: b, share: f}, o); err != nil {
		b.Release()
		return err
	}
	return nil
}

// adoptCopy stores the content of f and closes it.
func (t *Table) adoptCopy(id string, f *os.File, size int64, o PutOptions) error {
	in, err := t.Create(id, size, o)
	if err != nil {
		return err
	}
	for off := int64(0); off < size; {
		mem, err := in.Next(int(min(size-off, math.MaxInt32)))
		if err == nil {
			if _, err = f.ReadAt(mem, off); err != nil {
				err = fmt.Errorf("%w: the memory file: %w", transport.ErrDenied, err)
			}
		}
		if err != nil {
			in.Abort()
			return err
		}
		off += int64(len(mem))
	}
	if err := in.Commit(); err != nil {
		return err
	}
	_ = f.Close() // only read
	return nil
}

// checkMemoryFile checks that f is memory of at least size bytes that nobody can change, and returns its length and how much it may really hold.
func checkMemoryFile(f *os.File, size int64) (length, held int64, err error) {
	if size < 0 {
		return 0, 0, fmt.Errorf("%w: a size of %d bytes", transport.ErrInvalidRange, size)
	}
	seals, err := control(f, func(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0) })
	if err != nil {
		return 0, 0, fmt.Errorf("%w: what was handed over is not a memory file (memfd_create): %w", transport.ErrDenied,
			os.NewSyscallError("fcntl F_GET_SEALS", err))
	}
	if seals&sealed != sealed {
		const how = "%w: the memory file can still be changed (seals %#x): unmap it, then seal it by F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_WRITE"
		return 0, 0, fmt.Errorf(how, transport.ErrDenied, seals)
	}
	var fs unix.Statfs_t
	if _, err := control(f, func(fd int) (int, error) { return 0, unix.Fstatfs(fd, &fs) }); err != nil {
		return 0, 0, os.NewSyscallError("fstatfs", err)
	}
	if uint32(fs.Type) == unix.HUGETLBFS_MAGIC { // its pages may run out when they are touched, and its mappings end at whole huge pages only
		return 0, 0, fmt.Errorf("%w: the memory file stands on reserved huge pages: make it without MFD_HUGETLB", transport.ErrDenied)
	}
	var st unix.Stat_t
	if _, err := control(f, func(fd int) (int, error) { return 0, unix.Fstat(fd, &st) }); err != nil {
		return 0, 0, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size < size {
		return 0, 0, fmt.Errorf("%w: the memory file has %d bytes, the object %d", transport.ErrCorrupt, st.Size, size)
	}
	return st.Size, max((st.Size+4095)&^4095, st.Blocks*512), nil
}

func dup(f *os.File) (*os.File, error) {
	fd, err := control(f, func(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, os.NewSyscallError("dup", err))
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// control calls fn with f's descriptor, which stays open meanwhile.
func control(f *os.File, fn func(fd int) (int, error)) (n int, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := conn.Control(func(fd uintptr) { n, err = fn(int(fd)) })
	if cerr != nil {
		err = cerr
	}
	return n, err
}
