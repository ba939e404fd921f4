package transport_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/proxyplane/proxyplane/transport"
)

// shapes are objects in parts.
func shapes() map[string]transport.Slices {
	large := make([]byte, 3<<20)
	for i := range large {
		large[i] = byte(i * 7)
	}
	many := make(transport.Slices, 3000) // more than one writev takes
	for i := range many {
		many[i] = large[i : i+i%5] // some are empty
	}
	empties := make(transport.Slices, 2500)
	return map[string]transport.Slices{
		"parts=none":      nil,
		"parts=1":         {[]byte("hello")},
		"parts=1/empty":   {{}},
		"parts=2":         {[]byte("BS\n"), []byte("hello")},
		"parts=2/large":   {[]byte("BS\n"), large},
		"parts=5/empties": {nil, []byte("a"), {}, []byte("b"), nil},
		"parts=3000":      many,
		"parts=2500/zero": empties,
	}
}

// sink is somewhere to write to, and what has arrived there when the writer is done.
type sink func(t *testing.T) (w io.WriteCloser, arrived func() []byte)

func sinks() map[string]sink {
	return map[string]sink{
		"buffer": func(t *testing.T) (io.WriteCloser, func() []byte) {
			var b bytes.Buffer
			return nopCloser{&b}, b.Bytes
		},
		"file": func(t *testing.T) (io.WriteCloser, func() []byte) {
			name := filepath.Join(t.TempDir(), "f")
			f, err := os.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			return f, func() []byte {
				b, err := os.ReadFile(name)
				if err != nil {
					t.Error(err)
				}
				return b
			}
		},
		"pipe": func(t *testing.T) (io.WriteCloser, func() []byte) { // takes 64 KiB at a time
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			return w, collect(t, r)
		},
		"tcp":     connected("tcp", func(*testing.T) string { return "127.0.0.1:0" }),
		"unix":    connected("unix", func(t *testing.T) string { return filepath.Join(t.TempDir(), "s") }),
		"io.Pipe": func(t *testing.T) (io.WriteCloser, func() []byte) { r, w := io.Pipe(); return w, collect(t, r) },
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// collect reads r slowly, in small and odd pieces, so that writers find their way blocked.
func collect(t *testing.T, r io.ReadCloser) func() []byte {
	done := make(chan []byte)
	go func() {
		defer r.Close()
		var all []byte
		piece := make([]byte, 3001)
		for {
			n, err := r.Read(piece)
			all = append(all, piece[:n]...)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				done <- all
				return
			}
		}
	}()
	return func() []byte { return <-done }
}

func connected(network string, address func(*testing.T) string) sink {
	return func(t *testing.T) (io.WriteCloser, func() []byte) {
		l, err := net.Listen(network, address(t))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		accepted := make(chan net.Conn, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- c
		}()
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c, collect(t, <-accepted)
	}
}

func TestSlicesWriteTo(t *testing.T) {
	for to, open := range sinks() {
		for name, s := range shapes() {
			t.Run("to="+to+"/"+name, func(t *testing.T) {
				before := slices.Clone(s)
				w, arrived := open(t)
				n, err := s.WriteTo(w)
				if err != nil || n != s.Len() {
					t.Errorf("WriteTo = %d, %v, want %d", n, err, s.Len())
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
				if got := arrived(); !bytes.Equal(got, s.Join()) {
					t.Errorf("%d bytes arrived, and are not the %d sent", len(got), s.Len())
				}
				same(t, s, before)
			})
		}
	}
}

// same checks that s was neither consumed nor changed: its parts are the same memory.
func same(t *testing.T, s, before transport.Slices) {
	t.Helper()
	if !slices.EqualFunc(s, before, func(a, b []byte) bool {
		return len(a) == len(b) && cap(a) == cap(b) && (len(a) == 0 || &a[0] == &b[0])
	}) {
		t.Error("the slices were changed")
	}
}

// A writer that fails at any place: the count is what it took, and the slices stay whole.
func TestSlicesWriteToError(t *testing.T) {
	s := transport.Slices{[]byte("abc"), nil, []byte("defg"), []byte("h")}
	before := slices.Clone(s)
	broken := errors.New("broken")
	for limit := range 8 {
		w := &limitedWriter{left: limit, err: broken}
		n, err := s.WriteTo(w)
		if n != int64(limit) || !errors.Is(err, broken) {
			t.Errorf("limit %d: WriteTo = %d, %v", limit, n, err)
		}
		same(t, s, before)
	}
}

// limitedWriter fails after so many bytes.
type limitedWriter struct {
	left int
	err  error
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if len(p) <= w.left {
		w.left -= len(p)
		return len(p), nil
	}
	n := w.left
	w.left = 0
	return n, w.err
}

func TestSlicesWriteToClosed(t *testing.T) {
	s := transport.Slices{[]byte("a"), []byte("b")}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if n, err := s.WriteTo(f); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("WriteTo of a closed file = %d, %v", n, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	if n, err := s.WriteTo(w); n != 0 || err == nil {
		t.Errorf("WriteTo of a pipe that nobody reads = %d, %v", n, err)
	}
	if f, err = os.Open(os.DevNull); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var pe *os.PathError
	if _, err := s.WriteTo(f); !errors.As(err, &pe) || pe.Path != os.DevNull {
		t.Errorf("WriteTo of a file open for reading: %v", err)
	}
}

// The reader of a pipe goes away in the middle: an error, and a count between nothing and all.
func TestSlicesWriteToPipeBreaks(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	go func() {
		io.ReadFull(r, make([]byte, 100_000))
		r.Close()
	}()
	s := shapes()["parts=2/large"]
	n, err := s.WriteTo(w)
	if err == nil || n < 100_000 || n >= s.Len() {
		t.Errorf("WriteTo = %d, %v", n, err)
	}
}

func TestSlicesJoin(t *testing.T) {
	for name, s := range shapes() {
		t.Run(name, func(t *testing.T) {
			var want []byte
			for _, p := range s {
				want = append(want, p...)
			}
			if got := s.Join(); !bytes.Equal(got, want) || int64(len(got)) != s.Len() {
				t.Errorf("Join = %d bytes, want %d", len(got), len(want))
			}
			if got := s.AppendTo([]byte("x")); !bytes.Equal(got, append([]byte("x"), want...)) {
				t.Error("AppendTo differs")
			}
			before := slices.Clone(s)
			if err := iotest.TestReader(s.Reader(), want); len(want) < 1<<16 && err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(s.Reader()); err != nil || !bytes.Equal(got, want) {
				t.Errorf("Reader: %d bytes, %v", len(got), err)
			}
			same(t, s, before)
		})
	}
	one := transport.Slices{[]byte("one")}
	if &one.Join()[0] != &one[0][0] {
		t.Error("Join of one part copied it")
	}
}

// However an object is cut into parts, every way to read it agrees.
func FuzzSlices(f *testing.F) {
	f.Add([]byte("hello world"), []byte{5, 0, 1})
	f.Add([]byte(""), []byte{0, 0})
	f.Add([]byte("x"), []byte{})
	f.Add(bytes.Repeat([]byte("ab"), 2000), bytes.Repeat([]byte{1}, 1500))
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		var s transport.Slices
		rest := data
		for _, c := range cuts {
			n := min(int(c), len(rest))
			s = append(s, rest[:n])
			rest = rest[n:]
		}
		s = append(s, rest)
		before := slices.Clone(s)
		if s.Len() != int64(len(data)) {
			t.Errorf("Len = %d, want %d", s.Len(), len(data))
		}
		check := func(how string, got []byte, err error) {
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s of %d parts: %q, %v, want %q", how, len(s), got, err, data)
			}
		}
		check("Join", s.Join(), nil)
		check("AppendTo", s.AppendTo(nil), nil)
		got, err := io.ReadAll(iotest.OneByteReader(s.Reader()))
		check("Reader by bytes", got, err)
		got, err = io.ReadAll(s.Reader())
		check("Reader", got, err)
		var b bytes.Buffer
		_, err = s.WriteTo(&b)
		check("WriteTo", b.Bytes(), err)
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		n, err := s.WriteTo(file)
		if err != nil || n != int64(len(data)) {
			t.Errorf("WriteTo a file = %d, %v", n, err)
		}
		got, err = os.ReadFile(file.Name())
		check("WriteTo a file", got, err)
		same(t, s, before)
	})
}

func ExampleSlices() {
	object := transport.Slices{[]byte("BS\n"), []byte("the caller's own bytes\n")}
	fmt.Println(object.Len())
	object.WriteTo(os.Stdout)
	// Output:
	// 26
	// BS
	// the caller's own bytes
}
