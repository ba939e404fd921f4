package native_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

// withFiles is a setup whose Carrier passes files.
func withFiles(adoptAbove int64, store objects.Store) setup {
	return setup{store: store, c: native.ClientOptions{AdoptAbove: adoptAbove}, wrap: func(c, s native.Carrier) (native.Carrier, native.Carrier) {
		return tcp.NewCarrier(c.(*connCarrier).nc, tcp.CarrierOptions{}), tcp.NewCarrier(s.(*connCarrier).nc, tcp.CarrierOptions{})
	}}
}

func TestMap(t *testing.T) {
	checkLeaks(t)
	fds := openFiles(t)
	p := withFiles(1, nil).start(t)
	ctx := t.Context()
	if p.Welcome().Features&native.FeatureFiles == 0 {
		t.Fatal("files are not passed")
	}
	for _, n := range []int{0, 1, 4096, 5 << 20} {
		id := fmt.Sprint(n)
		want := payload(id, n)
		must(t, p.Put(ctx, id, transport.Slices{want[:n/2], want[n/2:]}, objects.PutOptions{}))
		getEqual(t, p, id, 0, -1, -1, want)
		b, err := p.Map(ctx, id)
		must(t, err)
		must(t, p.Evict(ctx, id))
		if !bytes.Equal(b.Bytes(), want) {
			t.Errorf("mapping of %d bytes differs", n)
		}
		if n > 0 && b.Backing() != transport.Mapped {
			t.Errorf("backing %v", b.Backing())
		}
		b.Release()
	}
	if n := p.server.Stats().Requests["adopt"]; n != 3 {
		t.Errorf("%d objects were adopted, want 3", n)
	}
	_, err := p.Map(ctx, "nothing")
	wantErr(t, err, transport.ErrNotFound)
	p.Close()
	p.server.Close()
	if n := openFiles(t); n > fds {
		t.Errorf("%d files are open, %d before", n, fds)
	}
}

func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

// sharing is a Store that shares what a hostile server might.
type sharing struct {
	objects.Store
	f    func() *os.File
	size int64
}

func (s sharing) Share(string) (*os.File, int64, error) { return s.f(), s.size, nil }

// TestMapRefuses: a descriptor that could kill the process is never mapped.
func TestMapRefuses(t *testing.T) {
	checkLeaks(t)
	fds := openFiles(t)
	memfile := func(size int64, seals int) func() *os.File {
		return func() *os.File {
			fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
			must(t, err)
			must(t, unix.Ftruncate(fd, size))
			_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
			must(t, err)
			return os.NewFile(uintptr(fd), "test")
		}
	}
	for _, v := range []struct {
		name string
		f    func() *os.File
		size int64
		want error
	}{
		{"may shrink", memfile(100, unix.F_SEAL_GROW), 100, transport.ErrDenied},
		{"too short", memfile(100, unix.F_SEAL_SHRINK), 101, transport.ErrCorrupt},
		{"absurd", memfile(100, unix.F_SEAL_SHRINK), 1 << 62, transport.ErrCorrupt},
		{"no memory file", func() *os.File { f, err := os.Open("/proc/self/exe"); must(t, err); return f }, 10, transport.ErrDenied},
		{"nothing", func() *os.File { return nil }, 10, errors.ErrUnsupported},
		{"huge pages", func() *os.File {
			fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_HUGETLB) // none are reserved, none are needed
			must(t, err)
			_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK)
			must(t, err)
			return os.NewFile(uintptr(fd), "test")
		}, 10, transport.ErrDenied},
	} {
		p := withFiles(-1, sharing{table(t), v.f, v.size}).start(t)
		_, err := p.Map(t.Context(), "x")
		if !errors.Is(err, v.want) {
			t.Errorf("%s: %v", v.name, err)
		}
		must(t, p.Ping(t.Context()))
		p.Close()
		p.server.Close()
	}
	if n := openFiles(t); n > fds {
		t.Errorf("%d files are open, %d before", n, fds)
	}
}

// BenchmarkSameHost compares what one host can do: a mapping, a copy through the socket, and a put by descriptor.
func BenchmarkSameHost(b *testing.B) {
	ctx := context.Background()
	for _, size := range []int{64 << 10, 1 << 20, 16 << 20, 256 << 20} {
		store, err := objects.NewTable(objects.TableOptions{Memory: 2 << 30})
		must(b, err)
		b.Cleanup(func() { store.Close() })
		obj := transport.Slices{[]byte("BS\n"), payload("x", size)}
		for _, put := range []struct {
			name  string
			above int64
		}{{"put", -1}, {"put-adopt", 1}} {
			p := withFiles(put.above, store).start(b)
			run := func(op string, f func()) {
				b.Run(fmt.Sprintf("op=%s/size=%d", op, size), func(b *testing.B) {
					b.SetBytes(int64(size))
					b.ReportAllocs()
					for b.Loop() {
						f()
					}
				})
			}
			run(put.name, func() { must(b, p.Put(ctx, "x", obj, objects.PutOptions{})) })
			if put.above > 0 {
				run("map", func() {
					buf, err := p.Map(ctx, "x")
					must(b, err)
					buf.Release()
				})
				run("map-touch", func() {
					buf, err := p.Map(ctx, "x")
					must(b, err)
					for i := 0; i < buf.Len(); i += 4096 {
						sinkByte += buf.Bytes()[i]
					}
					buf.Release()
				})
				continue
			}
			run("get", func() {
				buf, err := p.Get(ctx, "x", 0, -1, int64(size+3))
				must(b, err)
				buf.Release()
			})
		}
	}
}

var sinkByte byte
