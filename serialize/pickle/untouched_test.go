//go:build linux || darwin

package pickle

import (
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// guarded is memory that can be made unreadable: the exact proof that code which may not look at a long name, for each of its
// uses, does not.
type guarded struct{ data []byte }

// guard returns n bytes of 'g'.
func guard(t *testing.T, n int) *guarded {
	t.Helper()
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(b); err != nil {
			t.Error(err)
		}
	})
	for i := range b {
		b[i] = 'g'
	}
	return &guarded{b}
}

func (g *guarded) text() string { return unsafe.String(unsafe.SliceData(g.data), len(g.data)) }

// untouched runs f while the memory, but for its first keep bytes, is unreadable.
func (g *guarded) untouched(t *testing.T, keep int, f func()) {
	t.Helper()
	if err := syscall.Mprotect(g.data[keep:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		t.Helper()
		r := recover()
		if err := syscall.Mprotect(g.data[keep:], syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
			t.Fatal(err)
		}
		if r != nil {
			t.Errorf("it reads what it should not: %v", r)
		}
	}()
	f()
}

// TestLongNamesAreNotRead: what one byte of a pickle refers to again costs no more than that byte, however long it is.
func TestLongNamesAreNotRead(t *testing.T) {
	const size = 1 << 20
	g := guard(t, size)
	long := g.text()

	t.Run("rename", func(t *testing.T) {
		g.untouched(t, 0, func() {
			m := machine{proto: 2}
			for _, in := range []Global{{long, "name"}, {"itertools", long}, {"Queue", long}, {long, long}} {
				want := in
				if in.Module == "Queue" {
					want.Module = "queue"
				}
				if got := m.rename(in); len(got.Module) != len(want.Module) || len(got.Name) != len(want.Name) {
					t.Errorf("renamed to names of %d and %d bytes", len(got.Module), len(got.Name))
				}
			}
			if v, ok := reduceDill("_load_type", Tuple{long}).(Global); !ok || len(v.Name) != size {
				t.Error("_load_type is no global of its argument")
			}
		})
	})
	t.Run("encode", func(t *testing.T) {
		// Encoding reads everything once.
		s, err := new(Encoder).start(nil)
		if err != nil {
			t.Fatal(err)
		}
		values := []any{long, Global{"m", long}, Global{long, "n"}}
		for _, v := range values {
			if err := s.value(v); err != nil {
				t.Fatal(err)
			}
		}
		before := len(s.buf)
		g.untouched(t, 0, func() {
			for _, v := range values {
				if err := s.value(v); err != nil {
					t.Error(err)
				}
			}
		})
		if n := len(s.buf) - before; n > 64 {
			t.Errorf("again they take %d bytes", n)
		}
	})
	t.Run("struct", func(t *testing.T) {
		g.untouched(t, 0, func() {
			var into []struct{ A, B, C, D, E, F, G, H, I, J int }
			if err := Convert(NewList(dictOf(long, int64(1), "b", int64(2))), &into); err != nil || into[0].B != 2 {
				t.Errorf("%v %v", into, err)
			}
		})
	})
	t.Run("dict", func(t *testing.T) {
		g.untouched(t, 0, func() {
			d := dictOf(g.data, "bytes", long, "text")
			for _, k := range []any{int64(1), true, 1.5, "g", []byte("g"), uint64(1 << 63), Global{"a", "b"}, nil} {
				if _, ok := d.Get(k); ok {
					t.Errorf("%v is a key", k)
				}
				d.Set(int64(1), k)
				d.Set(int64(1), nil)
				*d = Dict{pairs: d.pairs[:2]}
			}
		})
		if v, _ := dictOf(g.data, "bytes").Get([]byte(long)); v != "bytes" {
			t.Errorf("the key is not found: %v", v)
		}
	})
	t.Run("numpy", func(t *testing.T) {
		for i := range g.data {
			g.data[i] = "g\x00\x00\x00"[i%4]
		}
		dtype := &Object{Callable: Global{"numpy", "dtype"}, Args: Tuple{"U9"}}
		scalar := func() *Object {
			return &Object{Callable: Global{"numpy._core.multiarray", "scalar"}, Args: Tuple{dtype, g.data}}
		}
		b := budget{lim: Limits{}.withDefaults(0)}
		first, _, err := b.numpyScalar(scalar())
		if err != nil || first != strings.Repeat("g", size/4) {
			t.Fatalf("a text of %d characters, %v", len(first.(string)), err)
		}
		if b.used < size/16 {
			t.Errorf("%d bytes cost %d values", size, b.used)
		}
		g.untouched(t, 0, func() {
			again, _, err := b.numpyScalar(scalar())
			if s, ok := again.(string); !ok || err != nil || unsafe.StringData(s) != unsafe.StringData(first.(string)) {
				t.Errorf("another text: %v", err)
			}
		})
	})
}

// TestLongNamesAreClipped: messages and dumps read the beginning of a name only.
func TestLongNamesAreClipped(t *testing.T) {
	page := syscall.Getpagesize()
	g := guard(t, 64*page)
	long := g.text()
	g.untouched(t, page, func() {
		for _, name := range []Global{{long, "n"}, {"m", long}, {long, long}} {
			for _, v := range []any{name, &Object{Callable: name}} {
				if s := describe(v); len(s) > 100 || !strings.Contains(s, "gggg...") {
					t.Errorf("described as %q", s)
				}
			}
			if s := globalText(name); len(s) > dumpMaxText || !strings.HasSuffix(s, "gggg...") {
				t.Errorf("dumped as %q", s)
			}
			var out strings.Builder
			if err := Dump(&out, NewList(name, &Object{Callable: name, Args: Tuple{long}}, dictOf(name, long))); err != nil || out.Len() > 8*dumpMaxText {
				t.Errorf("a dump of %d bytes, %v", out.Len(), err)
			}
		}
	})
	for _, s := range []string{"m.n", strings.Repeat("m", 80)} {
		if got := (Global{"x", s}).clipped(len(s) + 2); got != "x."+s {
			t.Errorf("clipped to %q", got)
		}
		if got := (Global{s, "x"}).clipped(len(s) + 1); len(got) != len(s)+1 || !strings.HasSuffix(got, "...") {
			t.Errorf("clipped to %q", got)
		}
	}
}
