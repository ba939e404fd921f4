package link

import (
	"bytes"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// endless is a Store whose objects are of one length and made of a pattern, without being anywhere: those that come are checked and dropped.
type endless struct {
	objects.Store
	size     int64
	mem      *transport.Buffer // size bytes, sparse
	received atomic.Int64
	wrong    atomic.Int64
}

func newEndless(t *testing.T, size int64) *endless {
	f, err := os.Create(t.TempDir() + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	mem, err := transport.Map(f, 0, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mem.Release)
	return &endless{size: size, mem: mem}
}

func (e *endless) Stat(string) (objects.Info, error) {
	return objects.Info{Size: e.size, ModTime: time.Unix(7, 0)}, nil
}
func (e *endless) Get(string) (*transport.Buffer, error) { return e.mem.Retain(), nil }
func (e *endless) Exists(string) bool                    { return true }
func (e *endless) Create(string, int64, objects.PutOptions) (objects.Incoming, error) {
	return &endlessIn{e: e, mem: make([]byte, len(zero))}, nil
}

var (
	zero = make([]byte, 100<<10)
	ones = bytes.Repeat([]byte{0xff}, 100<<10)
)

type endlessIn struct {
	e    *endless
	mem  []byte
	last []byte
}

func (in *endlessIn) check() {
	if !bytes.Equal(in.last, zero[:len(in.last)]) {
		in.e.wrong.Add(1)
	}
	copy(in.last, ones) // whoever does not write it is found out
	in.e.received.Add(int64(len(in.last)))
}

func (in *endlessIn) Next(n int) ([]byte, error) {
	in.check()
	in.last = in.mem[:min(n, len(in.mem))]
	return in.last, nil
}

func (in *endlessIn) Commit() error { in.check(); return nil }
func (in *endlessIn) Abort()        {}

// TestMemory moves more than memory may hold, both ways: LINK_MEMORY_TEST is how many GB, by default some that are quick.
func TestMemory(t *testing.T) {
	leaks(t)
	size := int64(512 << 20)
	if s := os.Getenv("LINK_MEMORY_TEST"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		size = n << 30
	}
	e := newEndless(t, size)
	p := newPair(t, pairOptions{store: e})
	ctx := t.Context()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	buffers, held := transport.Live(transport.Pooled)
	var most atomic.Int64
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, now := transport.Live(transport.Pooled)
			most.Store(max(most.Load(), now-held))
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	r, err := p.link.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	n, err := r.WriteTo(io.Discard)
	if err != nil || n != size {
		t.Fatal(n, err)
	}
	r.Close()
	if err := p.link.Put(ctx, "k", -1, io.LimitReader(nothing{}, size)); err != nil {
		t.Fatal(err)
	}
	close(stop)
	<-done
	if e.received.Load() != size || e.wrong.Load() != 0 {
		t.Fatalf("%d bytes of %d came, %d pieces of them wrong", e.received.Load(), size, e.wrong.Load())
	}
	p.o.link.Pool.Trim() // short buffers are on the heap
	p.o.server.Pool.Trim()
	runtime.GC()
	runtime.ReadMemStats(&after)
	// Two windows: what the Link reads ahead or has not been acknowledged, and what the Server holds.
	if limit := int64(2*DefaultWindow + 16<<20); most.Load() > limit {
		t.Errorf("%d bytes in pooled buffers, want at most %d", most.Load(), limit)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	t.Logf("at most %d bytes in buffers, %d buffers before", most.Load(), buffers)
}

// nothing reads as zeros.
type nothing struct{}

func (nothing) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
