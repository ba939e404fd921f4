package transport_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

// sizes are around what other buffers treat as special, and what a pool keeps at most.
var sizes = []int{0, 1, 1023, 1024, 1025, 4096, 64 << 20}

// maker makes Buffers of one backing and tells how many of them were given back.
type maker struct {
	name    string
	backing transport.Backing
	make    func(t *testing.T, n int) (b *transport.Buffer, freed func() int)
}

// makers covers every backing.
func makers() []maker {
	counted := func(backing transport.Backing) func(*testing.T, int) (*transport.Buffer, func() int) {
		return func(t *testing.T, n int) (*transport.Buffer, func() int) {
			var freed atomic.Int32
			return transport.NewBuffer(make([]byte, n), backing, func(b []byte) {
				if len(b) != n {
					t.Errorf("free got %d bytes of %d", len(b), n)
				}
				freed.Add(1)
			}), func() int { return int(freed.Load()) }
		}
	}
	return []maker{
		{"gc", transport.GC, counted(transport.GC)},
		{"c", transport.CMemory, counted(transport.CMemory)},
		{"registered", transport.Registered, counted(transport.Registered)},
		{"pool", transport.Pooled, func(t *testing.T, n int) (*transport.Buffer, func() int) {
			p := transport.NewPool(128 << 20)
			return p.Get(n), func() int { return 1 - int(p.Stats().Held) }
		}},
		{"mmap", transport.Mapped, func(t *testing.T, n int) (*transport.Buffer, func() int) {
			f, err := os.Create(filepath.Join(t.TempDir(), "f"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(int64(n)); err != nil {
				t.Fatal(err)
			}
			before, _ := transport.Live(transport.Mapped)
			b, err := transport.Map(f, 0, int64(n))
			if err != nil {
				t.Fatal(err)
			}
			released := 0
			return b, func() int {
				if b.Backing() == transport.GC { // an empty file, or a platform without mappings: nothing to give back
					if recovered(func() { b.Bytes() }) != nil {
						released = 1
					}
					return released
				}
				now, _ := transport.Live(transport.Mapped)
				return 1 - int(now-before)
			}
		}},
	}
}

// recovered returns what f panics with.
func recovered(f func()) (r any) {
	defer func() { r = recover() }()
	f()
	return nil
}

func TestReleasedExactlyOnce(t *testing.T) {
	for _, m := range makers() {
		for _, n := range sizes {
			t.Run(fmt.Sprintf("backing=%s/size=%d", m.name, n), func(t *testing.T) {
				buffers, held := transport.Live(m.backing)
				b, freed := m.make(t, n)
				if b.Len() != n || len(b.Bytes()) != n {
					t.Fatalf("%d bytes, want %d", b.Len(), n)
				}
				if b.Backing() != transport.GC {
					if now, bytes := transport.Live(m.backing); now != buffers+1 || bytes != held+int64(n) {
						t.Errorf("Live = %d, %d; before %d, %d", now, bytes, buffers, held)
					}
				}
				b.Retain()
				if !b.TryRetain() {
					t.Error("TryRetain of a live buffer")
				}
				v := b.Slice(n/2, n-n/2)
				w := v.Slice(0, v.Len())
				v.Release()
				for range 3 {
					b.Release()
				}
				if freed() != 0 {
					t.Error("freed while a view of a view lives")
				}
				if w.Len() != n-n/2 || w.Backing() != b.Backing() || n > 0 && len(w.Bytes()) != w.Len() {
					t.Errorf("view of %d bytes, %v", w.Len(), w.Backing())
				}
				w.Release()
				if freed() != 1 {
					t.Errorf("freed %d times", freed())
				}
				if b.TryRetain() || v.TryRetain() || w.TryRetain() {
					t.Error("TryRetain of a released buffer")
				}
				if now, bytes := transport.Live(m.backing); now != buffers || bytes != held {
					t.Errorf("Live = %d, %d; before %d, %d", now, bytes, buffers, held)
				}
			})
		}
	}
}

func TestViewsInEveryOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		freed := 0
		all := []*transport.Buffer{transport.NewBuffer([]byte("0123456789"), transport.CMemory, func([]byte) { freed++ })}
		offsets := []int{0}
		for range r.IntN(10) {
			i := r.IntN(len(all))
			off := r.IntN(all[i].Len() + 1)
			all = append(all, all[i].Slice(off, r.IntN(all[i].Len()-off+1)))
			offsets = append(offsets, offsets[i]+off)
		}
		for len(all) > 0 {
			if freed != 0 {
				t.Fatal("freed too early")
			}
			i := r.IntN(len(all))
			if want := "0123456789"[offsets[i]:][:all[i].Len()]; string(all[i].Bytes()) != want {
				t.Fatalf("view is %q, want %q", all[i].Bytes(), want)
			}
			all[i].Release()
			all, offsets = slices.Delete(all, i, i+1), slices.Delete(offsets, i, i+1)
		}
		if freed != 1 {
			t.Fatalf("freed %d times", freed)
		}
	}
}

func TestView(t *testing.T) {
	memory := make([]byte, 30)
	for i := range memory {
		memory[i] = byte(i)
	}
	b := transport.FromBytes(memory[10:20:20])
	defer b.Release()
	for _, c := range []struct {
		part []byte
		ok   bool
	}{
		{memory[10:20], true}, {memory[10:11], true}, {memory[19:20], true}, {memory[12:15], true}, {nil, true}, {memory[25:25], true},
		{memory[9:12], false}, {memory[19:21], false}, {memory[5:25], false}, {memory[0:5], false}, {memory[20:25], false}, {[]byte{10, 11}, false},
	} {
		v, ok := b.View(c.part)
		if ok != c.ok || ok && string(v.Bytes()) != string(c.part) {
			t.Errorf("%v: %v", c.part, ok)
		}
		v.Release()
	}
	empty := transport.FromBytes(nil)
	if _, ok := empty.View(memory[:1]); ok {
		t.Error("a part of nothing")
	}
}

func TestSliceRange(t *testing.T) {
	b := transport.FromBytes(make([]byte, 10))
	for _, r := range [][2]int{{-1, 1}, {0, 11}, {11, 0}, {5, -1}, {5, 6}, {1 << 62, 1 << 62}} {
		if recovered(func() { b.Slice(r[0], r[1]) }) == nil {
			t.Errorf("Slice(%d, %d) of 10 bytes", r[0], r[1])
		}
	}
	v := b.Slice(2, 3)
	if c := cap(v.Bytes()); c != 3 {
		t.Errorf("the view's capacity is %d: appending would write into the parent", c)
	}
	v.Release()
	b.Release()
	if b.TryRetain() {
		t.Error("a failed Slice kept a reference")
	}
}

func TestTryRetainRace(t *testing.T) {
	for range 500 {
		var freed atomic.Int32
		b := transport.NewBuffer(make([]byte, 16), transport.CMemory, func(p []byte) {
			freed.Add(1)
			clear(p) // under the race detector a reader who comes later is found out
		})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for b.TryRetain() {
					if freed.Load() != 0 {
						t.Error("freed while held")
					}
					_ = b.Bytes()[0]
					b.Release()
				}
			})
		}
		b.Release()
		wg.Wait()
		if freed.Load() != 1 {
			t.Fatalf("freed %d times", freed.Load())
		}
	}
}

func TestDetach(t *testing.T) {
	for _, m := range makers() {
		t.Run("backing="+m.name, func(t *testing.T) {
			b, freed := m.make(t, 4096)
			inside := &b.Bytes()[0]
			got := b.Detach()
			if len(got) != 4096 || &got[0] == inside {
				t.Errorf("%d bytes; Detach lends memory that was given back", len(got))
			}
			if freed() != 1 {
				t.Errorf("freed %d times", freed())
			}
		})
	}
	data := []byte("plain")
	if got := transport.FromBytes(data).Detach(); &got[0] != &data[0] {
		t.Error("Detach copied memory of the garbage collector")
	}
	b := transport.FromBytes(data)
	if got := b.Slice(1, 2).Detach(); &got[0] != &data[1] {
		t.Error("Detach copied a view of such memory")
	}
	b.Release()
	p := transport.NewPool(1 << 20)
	pb := p.Get(10)
	copy(pb.Bytes(), "0123456789")
	v := pb.Slice(2, 3)
	pb.Release()
	if got := v.Detach(); string(got) != "234" || p.Stats().Held != 0 {
		t.Errorf("Detach of a pooled view = %q, %d held", got, p.Stats().Held)
	}
}

func TestMisuse(t *testing.T) {
	for op, f := range map[string]func(b *transport.Buffer){
		"Bytes":   func(b *transport.Buffer) { b.Bytes() },
		"Retain":  func(b *transport.Buffer) { b.Retain() },
		"Release": func(b *transport.Buffer) { b.Release() },
		"Slice":   func(b *transport.Buffer) { b.Slice(0, 0) },
		"Detach":  func(b *transport.Buffer) { b.Detach() },
	} {
		t.Run(op, func(t *testing.T) {
			freed := 0
			b := transport.NewBuffer(make([]byte, 7), transport.Registered, func([]byte) { freed++ })
			b.Release()
			for range 2 { // somebody recovers and goes on
				text := fmt.Sprint(recovered(func() { f(b) }))
				if op == "Slice" || op == "Detach" {
					op = "Bytes"
				}
				for _, want := range []string{"Buffer." + op, "after the last Release", "registered", "7 bytes"} {
					if !strings.Contains(text, want) {
						t.Errorf("panic %q lacks %q", text, want)
					}
				}
			}
			if b.TryRetain() || freed != 1 {
				t.Errorf("misuse made it live again, or freed it %d times", freed)
			}
			if b.Len() != 7 {
				t.Errorf("Len after release = %d", b.Len())
			}
		})
	}
	(*transport.Buffer)(nil).Release()
}

func TestBackingString(t *testing.T) {
	for b, want := range map[transport.Backing]string{
		transport.GC: "gc", transport.Pooled: "pool", transport.Mapped: "mmap", transport.CMemory: "c", transport.Registered: "registered", 77: "backing(77)",
	} {
		if b.String() != want {
			t.Errorf("Backing %d = %q, want %q", b, b.String(), want)
		}
	}
}

func TestReader(t *testing.T) {
	freed := 0
	b := transport.NewBuffer([]byte("0123456789"), transport.CMemory, func(p []byte) {
		freed++
		clear(p)
	})
	r := transport.NewReader(b)
	if r.Size() != 10 {
		t.Errorf("Size = %d", r.Size())
	}
	head := make([]byte, 3)
	if _, err := io.ReadFull(r, head); err != nil || string(head) != "012" {
		t.Errorf("Read = %q, %v", head, err)
	}
	if _, err := r.Seek(-2, io.SeekEnd); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "89" {
		t.Errorf("after Seek: %q, %v", rest, err)
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("Seek before the start")
	}
	if n, err := r.ReadAt(head, 5); n != 3 || err != nil || string(head) != "567" {
		t.Errorf("ReadAt = %q, %v", head, err)
	}
	r.Seek(4, io.SeekStart)
	var w countingWriter
	if n, err := r.WriteTo(&w); n != 6 || err != nil || w.String() != "456789" || w.writes != 1 {
		t.Errorf("WriteTo = %d, %v: %q in %d writes", n, err, w.String(), w.writes)
	}
	r.Seek(0, io.SeekStart)
	if freed != 0 {
		t.Error("freed before Close")
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if freed != 1 {
		t.Errorf("freed %d times", freed)
	}
	if n, err := r.Read(head); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read after Close = %d, %v", n, err)
	}
	if n, err := r.ReadAt(head, 0); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt after Close = %d, %v", n, err)
	}
	if n, err := r.WriteTo(&w); n != 0 || err != nil {
		t.Errorf("WriteTo after Close = %d, %v", n, err)
	}
}

func TestReaderCloseRace(t *testing.T) {
	var freed atomic.Int32
	r := transport.NewReader(transport.NewBuffer(nil, transport.CMemory, func([]byte) { freed.Add(1) }))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { r.Close() })
	}
	wg.Wait()
	if freed.Load() != 1 {
		t.Errorf("freed %d times", freed.Load())
	}
}

type countingWriter struct {
	bytes.Buffer
	writes int
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.writes++
	return w.Buffer.Write(p)
}

// TestStatic: what stands on a static Buffer is shared without counting.
func TestStatic(t *testing.T) {
	b := transport.Static([]byte("0123456789"))
	v := b.Slice(2, 3)
	for range 3 {
		v.Release()
		b.Release()
	}
	if !v.TryRetain() || string(v.Retain().Bytes()) != "234" || string(b.Bytes()) != "0123456789" {
		t.Error("a static Buffer was released")
	}
	if got := v.Detach(); &got[0] != &b.Bytes()[2] {
		t.Error("Detach copied memory that the garbage collector owns")
	}
}
