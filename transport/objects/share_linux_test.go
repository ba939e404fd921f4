package objects

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/internal/rawmem"
	"github.com/proxyplane/proxyplane/transport"
)

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// memfd returns a memory file of n bytes with these seals.
func memfd(t *testing.T, n int64, seals int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "test")
	if err := f.Truncate(n); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return f
}

// What a peer gets can neither be changed nor shortened, by anybody, and Get gives the same bytes before, during and after.
func TestShare(t *testing.T) {
	files := openFiles(t)
	table := newTable(t, TableOptions{Memory: 8 << 20})
	for _, n := range []int{0, 1, 4096, 5000, 1 << 20} {
		data := content(uint64(n), n)
		check(t, put(table, "a", int64(n), data, 1<<20, PutOptions{}))
		before, err := table.Get("a")
		check(t, err)
		f, size, err := table.Share("a")
		if err != nil || size != int64(n) {
			t.Fatal(size, err)
		}
		if st := table.Stats(); st.Lent != int64(n) || st.Bytes != int64(n) {
			t.Errorf("while the first copy is read: %+v", st)
		}
		if !bytes.Equal(before.Bytes(), data) {
			t.Error("other bytes in the first copy")
		}
		before.Release()
		if used := table.mem.used.Load(); used != int64(n) {
			t.Errorf("%d bytes are counted for %d", used, n)
		}
		if st, err := f.Stat(); err != nil || st.Size() != int64(n) {
			t.Errorf("%d bytes shared, want %d: %v", st.Size(), n, err)
		}
		if _, err := f.WriteAt([]byte("x"), 0); err == nil {
			t.Error("a shared object can be written to")
		}
		if err := f.Truncate(int64(n) / 2); err == nil && n > 0 {
			t.Error("a shared object can be shortened")
		}
		if err := f.Truncate(int64(n) + 1); err == nil {
			t.Error("a shared object can grow")
		}
		if again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0); err == nil {
			if _, err := again.WriteAt([]byte("x"), 0); err == nil {
				t.Error("opened again, a shared object can be written to")
			}
			again.Close()
		}
		if n > 0 {
			if _, err := unix.Mmap(int(f.Fd()), 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
				t.Error("a shared object can be mapped for writing")
			}
			m, err := transport.Map(f, 0, int64(n))
			if err != nil || !bytes.Equal(m.Bytes(), data) {
				t.Errorf("mapped: %v, or other bytes", err)
			}
			m.Release()
		}
		second, _, err := table.Share("a")
		check(t, err)
		b, err := table.Get("a")
		check(t, err)
		if !bytes.Equal(b.Bytes(), data) || b.Backing() != transport.Mapped {
			t.Error("other bytes after Share")
		}
		table.Evict("a")
		if !bytes.Equal(b.Bytes(), data) {
			t.Error("other bytes after Evict")
		}
		b.Release()

		check(t, table.Adopt("b", second, size, PutOptions{})) // and back
		b, err = table.Get("b")
		check(t, err)
		if !bytes.Equal(b.Bytes(), data) {
			t.Error("other bytes after Adopt")
		}
		b.Release()
		third, _, err := table.Share("b")
		check(t, err)
		table.Evict("b")
		check(t, f.Close(), third.Close())
		if used := table.mem.used.Load(); used != 0 || table.shares.Load() != 0 {
			t.Errorf("%d bytes, %d files", used, table.shares.Load())
		}
	}
	_, _, err := table.Share("missing")
	check(t, wants(err, transport.ErrNotFound))
	if n := openFiles(t); n != files {
		t.Errorf("%d files are open, %d before", n, files)
	}
	check(t, table.Close())
	_, _, err = table.Share("missing")
	check(t, wants(err, transport.ErrClosed))
}

// Where there is no room for a second copy, or too many are shared, Share says that it cannot, and the object stays as it is.
func TestShareRefused(t *testing.T) {
	table := newTable(t, TableOptions{Memory: 1 << 20})
	check(t, put(table, "a", 600_000, make([]byte, 600_000), 1<<20, PutOptions{}))
	_, _, err := table.Share("a")
	check(t, wants(err, errors.ErrUnsupported, "no room"))
	if errors.Is(err, transport.ErrFull) {
		t.Error("ErrFull would look like a failed put")
	}
	check(t, put(table, "b", 1000, make([]byte, 1000), 1<<20, PutOptions{}))
	table.maxOpen = 0
	_, _, err = table.Share("b")
	check(t, wants(err, errors.ErrUnsupported, "descriptors"))
	check(t, table.Adopt("c", memfd(t, 10_000, sealed), 9_999, PutOptions{})) // copied: mappings are as scarce as descriptors
	if n := table.shares.Load(); n != 0 || table.mem.used.Load() != 600_000+1000+9_999 {
		t.Errorf("%d files, %d bytes", n, table.mem.used.Load())
	}
	check(t, table.Adopt("d", memfd(t, 10_000, sealed), 0, PutOptions{}))
	for id, n := range map[string]int{"b": 1000, "c": 9_999, "d": 0} {
		b, err := table.Get(id)
		check(t, err)
		if b.Backing() == transport.Mapped || !bytes.Equal(b.Bytes(), make([]byte, n)) {
			t.Errorf("%s: %d bytes of %s memory, or other ones", id, b.Len(), b.Backing())
		}
		b.Release()
	}
	check(t, wants(table.Adopt("e", memfd(t, 500_000, sealed), 500_000, PutOptions{}), transport.ErrFull))
	if n := newTable(t, TableOptions{}).maxOpen; n > 16<<10 {
		t.Errorf("%d objects may be mapped, of 65,530 mappings that a process may have", n)
	}
}

func TestAdoptRefuses(t *testing.T) {
	files := openFiles(t)
	table := newTable(t, TableOptions{Memory: 1 << 20, MaxObject: 500_000})
	regular, err := os.Create(filepath.Join(t.TempDir(), "f"))
	check(t, err)
	if _, err := regular.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	shm, err := os.CreateTemp("/dev/shm", "proxyplane-test")
	check(t, err)
	check(t, os.Remove(shm.Name()), shm.Truncate(1000))
	r, w, err := os.Pipe()
	check(t, err, w.Close())
	dir, err := os.Open(t.TempDir())
	check(t, err)
	gone := memfd(t, 1000, sealed)
	check(t, gone.Close())
	writable := memfd(t, 1000, 0) // sealed against new writers only: one of before is still there
	m, err := unix.Mmap(int(writable.Fd()), 0, 1000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, err)
	defer unix.Munmap(m)
	const futureWrite = 0x10
	_, err = unix.FcntlInt(writable.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|futureWrite)
	check(t, err)
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_HUGETLB) // such a mapping ends at whole huge pages only
	check(t, err)
	huge := os.NewFile(uintptr(fd), "huge")
	check(t, huge.Truncate(512<<20))
	_, err = unix.FcntlInt(huge.Fd(), unix.F_ADD_SEALS, sealed)
	check(t, err)
	plain := memfd(t, 1000, sealed)
	unreadable, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", plain.Fd()), os.O_WRONLY, 0)
	check(t, err, plain.Close())
	for name, c := range map[string]struct {
		f    *os.File
		size int64
		kind error
		says string
	}{
		"regular":     {regular, 1000, transport.ErrDenied, "memfd_create"},
		"tmpfs":       {shm, 1000, transport.ErrDenied, "seal"},
		"pipe":        {r, 1000, transport.ErrDenied, "memfd_create"},
		"directory":   {dir, 1000, transport.ErrDenied, "memfd_create"},
		"null":        {mustOpen(t, os.DevNull), 0, transport.ErrDenied, "memfd_create"},
		"closed":      {gone, 1000, transport.ErrDenied, "closed"},
		"no seals":    {memfd(t, 1000, 0), 1000, transport.ErrDenied, "F_SEAL_WRITE"},
		"writable":    {memfd(t, 1000, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW), 1000, transport.ErrDenied, "F_SEAL_WRITE"},
		"shrinks":     {memfd(t, 1000, unix.F_SEAL_WRITE|unix.F_SEAL_GROW), 1000, transport.ErrDenied, "F_SEAL_SHRINK"},
		"grows":       {memfd(t, 1000, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK), 1000, transport.ErrDenied, "F_SEAL_GROW"},
		"writer":      {writable, 1000, transport.ErrDenied, "F_SEAL_WRITE"},
		"huge pages":  {huge, 1000, transport.ErrDenied, "MFD_HUGETLB"},
		"not to read": {unreadable, 1000, transport.ErrDenied, "reading"},
		"short":       {memfd(t, 999, sealed), 1000, transport.ErrCorrupt, "999"},
		"negative":    {memfd(t, 1000, sealed), -1, transport.ErrInvalidRange, "-1"},
		"too large":   {memfd(t, 600_000, sealed), 600_000, transport.ErrTooLarge, "600000"},
		"holds more":  {memfd(t, 600_000, sealed), 1, transport.ErrTooLarge, "600000"},
		"beyond full": {memfd(t, 1<<40, sealed), 1 << 40, transport.ErrTooLarge, ""},
	} {
		err := table.Adopt(name, c.f, c.size, PutOptions{})
		if e := wants(err, c.kind, c.says); e != nil {
			t.Errorf("%s: %v", name, e)
		}
		if table.Exists(name) {
			t.Errorf("%s: stored", name)
		}
		if _, err := c.f.Stat(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: the file stays open", name)
		}
	}
	if st := table.Stats(); table.mem.used.Load() != 0 || st.Objects != 0 {
		t.Errorf("%+v", st)
	}
	if n := openFiles(t); n != files {
		t.Errorf("%d files are open, %d before", n, files)
	}
	check(t, table.Adopt("fine", memfd(t, 1000, sealed), 999, PutOptions{}))
	check(t, wants(table.Adopt("", memfd(t, 1000, sealed), 999, PutOptions{}), transport.ErrInvalidKey))
	check(t, table.Close())
	check(t, wants(table.Adopt("closed", memfd(t, 1000, sealed), 999, PutOptions{}), transport.ErrClosed))
}

func mustOpen(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// BenchmarkShare is the first Share of an object, against the copy that it costs, and later ones.
func BenchmarkShare(b *testing.B) {
	const n = 64 << 20
	table := newTable(b, TableOptions{Memory: 1 << 30})
	data := rawmem.Make(n)
	b.Run("op=put", func(b *testing.B) {
		b.SetBytes(n)
		for b.Loop() {
			if err := put(table, "a", n, data, 1<<20, PutOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, again := range []bool{false, true} {
		b.Run(map[bool]string{false: "op=put+share", true: "op=share/again=true"}[again], func(b *testing.B) {
			b.SetBytes(n)
			for b.Loop() {
				if !again {
					if err := put(table, "a", n, data, 1<<20, PutOptions{}); err != nil {
						b.Fatal(err)
					}
				}
				f, _, err := table.Share("a")
				if err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
		})
	}
}

// An adopted file counts with whole pages: where those are more than all memory, nothing is spilled for it.
func TestAdoptBeyondMemory(t *testing.T) {
	table, _ := spilling(t, TableOptions{})
	check(t, putN(table, 0))
	check(t, wants(table.Adopt("a", memfd(t, 350_000, sealed), 350_000, PutOptions{}), transport.ErrTooLarge))
	if n := table.Stats().Spills; n != 0 {
		t.Errorf("%d objects were spilled", n)
	}
}

// A spilled object that cannot be read just now is not corrupt.
func TestSpillNoDescriptors(t *testing.T) {
	table, _ := spilling(t, TableOptions{})
	for i := range 4 {
		check(t, putN(table, i))
	}
	var lim unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &lim))
	low := lim
	low.Cur = 3
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
	_, err := table.Get("0")
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &lim))
	check(t, wants(err, transport.ErrUnavailable, "descriptors"))
	if errors.Is(err, transport.ErrCorrupt) {
		t.Error(err)
	}
	wantN(t, table, 0)
}
