//go:build unix

package transport_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

// patterned returns an open file of n bytes and its content.
func patterned(t testing.TB, n int) (*os.File, []byte) {
	t.Helper()
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i ^ i>>8)
	}
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, data
}

func TestMap(t *testing.T) {
	page := os.Getpagesize()
	f, data := patterned(t, 5*page+17)
	buffers, held := transport.Live(transport.Mapped)
	for _, r := range [][2]int{
		{0, 1}, {0, page}, {0, len(data)}, {1, 1}, {1, page - 1}, {1, page}, {page - 1, 2}, {page, page}, {page + 1, 3 * page},
		{len(data) - 1, 1}, {len(data) - 17, 17}, {4096, 4097}, {3, len(data) - 3},
	} {
		off, n := r[0], r[1]
		b, err := transport.Map(f, int64(off), int64(n))
		if err != nil {
			t.Errorf("Map %d bytes at %d: %v", n, off, err)
			continue
		}
		if !bytes.Equal(b.Bytes(), data[off:off+n]) || b.Backing() != transport.Mapped {
			t.Errorf("Map %d bytes at %d: wrong bytes", n, off)
		}
		if c := cap(b.Bytes()); c != n {
			t.Errorf("capacity %d of %d bytes", c, n)
		}
		v := b.Slice(n-1, 1)
		b.Release()
		if v.Bytes()[0] != data[off+n-1] {
			t.Error("wrong byte in a view")
		}
		v.Release()
	}
	if n, size := transport.Live(transport.Mapped); n != buffers || size != held {
		t.Errorf("%d mappings and %d bytes leaked", n-buffers, size-held)
	}
}

func TestMapNothing(t *testing.T) {
	f, _ := patterned(t, 10)
	for _, off := range []int64{0, 5, 10, 1 << 40} {
		b, err := transport.Map(f, off, 0)
		if err != nil || b.Len() != 0 || b.Backing() != transport.GC {
			t.Errorf("Map of nothing at %d: %v", off, err)
			continue
		}
		b.Release()
	}
}

func TestMapImpossible(t *testing.T) {
	f, _ := patterned(t, 10)
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, 1<<63 - 1}, {-4096, 4096}, {1<<63 - 1, 1}, {1 << 62, 1 << 62}} {
		if b, err := transport.Map(f, r[0], r[1]); err == nil {
			t.Errorf("Map %d bytes at %d", r[1], r[0])
			b.Release()
		}
	}
	f.Close()
	if b, err := transport.Map(f, 0, 1); err == nil {
		t.Error("Map of a closed file")
		b.Release()
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if b, err := transport.Map(dir, 0, 1); err == nil {
		t.Error("Map of a directory")
		b.Release()
	}
}

func TestMapOutlivesTheFile(t *testing.T) {
	f, data := patterned(t, 10_000)
	b, err := transport.Map(f, 0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	f.Close()
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), data) {
		t.Error("wrong bytes after close and unlink")
	}
}

// The documented limits of a mapping: it is read-only, and pages past the end of the file are not there.
func TestMapFaults(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	page := os.Getpagesize()
	f, _ := patterned(t, page)
	b, err := transport.Map(f, 0, int64(3*page))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	if recovered(func() { _ = b.Bytes()[page-1] }) != nil {
		t.Error("the last byte of the file cannot be read")
	}
	var sink byte
	if recovered(func() { sink = b.Bytes()[2*page] }) == nil {
		t.Errorf("read %d past the end of the file", sink)
	}
	if recovered(func() { b.Bytes()[0] = 1 }) == nil {
		t.Error("a mapping could be written to")
	}
}
