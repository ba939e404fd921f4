package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/proxyplane/proxyplane/connectors"
)

// pattern is n bytes that differ everywhere, made without holding them.
type pattern struct{ n, off int64 }

func (p *pattern) Read(b []byte) (int, error) {
	if p.off == p.n {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.n-p.off))
	for i := range n {
		o := p.off + int64(i)
		b[i] = byte(o ^ o>>8 ^ o>>16)
	}
	p.off += int64(n)
	return n, nil
}

func sum(t testing.TB, r io.Reader) [32]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(struct{ io.Writer }{h}, r); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func commit(t testing.TB, w connectors.Writer) connectors.Key {
	t.Helper()
	k, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestStreamMemory moves 256 MiB in and out and may allocate only the pooled buffers.
func TestStreamMemory(t *testing.T) {
	c, _ := open1(t)
	ctx := context.Background()
	const size = 256 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w, err := c.PutStream(ctx, -1)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.ReadFrom(&zeros{n: size}); n != size || err != nil {
		t.Fatal(n, err)
	}
	key := commit(t, w)
	r, err := c.GetStream(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Size() != size {
		t.Errorf("size %d", r.Size())
	}
	var n counter
	if m, err := r.WriteTo(&n); m != size || int64(n) != size || err != nil {
		t.Fatal(m, n, err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("%d bytes allocated for %d streamed", got, size)
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

type zeros struct{ n int64 }

func (z *zeros) Read(b []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(b)), z.n)
	z.n -= n
	return int(n), nil
}

// TestStreamSources takes and gives an object by every path: plain, kernel copy from and to files and sockets, stream to stream.
func TestStreamSources(t *testing.T) {
	c, dir := open1(t)
	ctx := context.Background()
	const size = 3<<20 + 17
	want := sum(t, &pattern{n: size})
	plain := filepath.Join(dir, "plain.bin")
	f, err := os.Create(plain)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, &pattern{n: size}); err != nil {
		t.Fatal(err)
	}
	socket := func(network, addr string) (client, server net.Conn) {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		client, err = net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err = l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return client, server
	}
	var first connectors.Key
	for name, src := range map[string]func() io.Reader{
		"plain":   func() io.Reader { return &pattern{n: size} },
		"one":     func() io.Reader { return iotest.HalfReader(&pattern{n: size}) },
		"memory":  func() io.Reader { b, _ := os.ReadFile(plain); return bytes.NewReader(b) },
		"file":    func() io.Reader { f.Seek(0, io.SeekStart); return f },
		"limited": func() io.Reader { f.Seek(0, io.SeekStart); return io.LimitReader(f, size) },
		"tcp": func() io.Reader {
			a, b := socket("tcp", "127.0.0.1:0")
			go func() { io.Copy(a, &pattern{n: size}); a.Close() }()
			t.Cleanup(func() { b.Close() })
			return b
		},
	} {
		for _, announced := range []int64{-1, size} {
			w, err := c.PutStream(ctx, announced)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := w.ReadFrom(src()); n != size || err != nil {
				t.Fatalf("%s: %d bytes, %v", name, n, err)
			}
			first = commit(t, w)
			if err := w.Abort(); err != nil {
				t.Error(err)
			}
			r, err := c.GetStream(ctx, first)
			if err != nil {
				t.Fatal(err)
			}
			if sum(t, r) != want {
				t.Errorf("%s: other bytes", name)
			}
			r.Close()
		}
	}
	for name, dst := range map[string]func(r connectors.Reader) io.Reader{
		"plain": func(r connectors.Reader) io.Reader {
			var b bytes.Buffer
			r.WriteTo(struct{ io.Writer }{&b})
			return &b
		},
		"memory": func(r connectors.Reader) io.Reader {
			var b bytes.Buffer
			r.WriteTo(&b)
			return &b
		},
		"file": func(r connectors.Reader) io.Reader {
			f, _ := os.Create(filepath.Join(dir, "out.bin"))
			t.Cleanup(func() { f.Close() })
			r.WriteTo(f)
			f.Seek(0, io.SeekStart)
			return f
		},
		"tcp": func(r connectors.Reader) io.Reader {
			a, b := socket("tcp", "127.0.0.1:0")
			go func() { r.WriteTo(a); a.Close() }()
			t.Cleanup(func() { b.Close() })
			return b
		},
		"unix": func(r connectors.Reader) io.Reader {
			a, b := socket("unix", filepath.Join(dir, "sock"))
			go func() { r.WriteTo(a); a.Close() }()
			t.Cleanup(func() { b.Close() })
			return b
		},
		"stream": func(r connectors.Reader) io.Reader {
			w, _ := c.PutStream(ctx, size)
			w.ReadFrom(r)
			r2, err := c.GetStream(ctx, commit(t, w))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r2.Close() })
			return r2
		},
		"rest": func(r connectors.Reader) io.Reader { // some bytes first, then the kernel's path
			var b bytes.Buffer
			io.CopyN(&b, r, 1000)
			f, _ := os.Create(filepath.Join(dir, "rest.bin"))
			t.Cleanup(func() { f.Close() })
			r.WriteTo(f)
			f.Seek(0, io.SeekStart)
			return io.MultiReader(&b, f)
		},
	} {
		r, err := c.GetStream(ctx, first)
		if err != nil {
			t.Fatal(err)
		}
		if sum(t, dst(r)) != want {
			t.Errorf("to %s: other bytes", name)
		}
		r.Close()
	}
}

// TestStreamFails ends streams in every way but Commit, and looks for what stays.
func TestStreamFails(t *testing.T) {
	for _, named := range []bool{false, true} {
		c, dir := open1(t)
		if named {
			c.dir.plain()
		}
		ctx, cancel := context.WithCancel(context.Background())
		boom := errors.New("boom")
		for name, f := range map[string]func(w connectors.Writer) error{
			"broken source": func(w connectors.Writer) error {
				_, err := w.ReadFrom(io.MultiReader(bytes.NewReader([]byte("abc")), iotest.ErrReader(boom)))
				if !errors.Is(err, boom) {
					t.Error(err)
				}
				_, err = w.Commit()
				return err
			},
			"truncated source": func(w connectors.Writer) error {
				_, err := w.ReadFrom(io.MultiReader(bytes.NewReader([]byte("abc")), iotest.ErrReader(io.ErrUnexpectedEOF)))
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Error(err)
				}
				_, err = w.Commit()
				return err
			},
			"too short": func(w connectors.Writer) error {
				w.Write([]byte("abc"))
				_, err := w.Commit()
				return err
			},
			"too long": func(w connectors.Writer) error {
				_, err := w.Write(make([]byte, 11))
				if !errors.Is(err, connectors.ErrCorrupt) {
					t.Error(err)
				}
				_, err = w.Commit()
				return err
			},
			"endless": func(w connectors.Writer) error {
				_, err := w.ReadFrom(&zeros{n: 1 << 50})
				if !errors.Is(err, connectors.ErrCorrupt) {
					t.Error(err)
				}
				_, err = w.Commit()
				return err
			},
			"aborted": func(w connectors.Writer) error {
				w.Write([]byte("abc"))
				if err := errors.Join(w.Abort(), w.Abort()); err != nil {
					t.Error(err)
				}
				_, err := w.Write([]byte("d"))
				_, err2 := w.Commit()
				if err2 == nil {
					return nil
				}
				return err
			},
		} {
			w, err := c.PutStream(ctx, 10)
			if err != nil {
				t.Fatal(err)
			}
			if f(w) == nil {
				t.Errorf("%s: committed", name)
			}
			if got := list(t, dir); len(got) != 0 {
				t.Errorf("%s: left %q", name, got)
			}
		}
		w, _ := c.PutStream(ctx, -1)
		w2, _ := c.PutStream(context.Background(), -1)
		cancel()
		if _, err := w.Write([]byte("x")); !errors.Is(err, context.Canceled) {
			t.Errorf("write after cancel: %v", err)
		}
		if _, err := w.Commit(); !errors.Is(err, context.Canceled) {
			t.Errorf("commit after cancel: %v", err)
		}
		if err := c.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if _, err := w2.Commit(); !errors.Is(err, connectors.ErrClosed) {
			t.Errorf("commit after Close: %v", err)
		}
		if got := list(t, dir); len(got) != 0 {
			t.Errorf("left %q", got)
		}
	}
}

// TestShrinks is a Python writer that sets a key again while it is read.
func TestShrinks(t *testing.T) {
	c, dir := open1(t)
	key := mustPut(t, c, obj("0123456789"))
	r, err := c.GetStream(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	os.Truncate(filepath.Join(dir, key.Filename), 4)
	if b, err := io.ReadAll(r); string(b) != "0123" || !errors.Is(err, connectors.ErrCorrupt) {
		t.Errorf("%q, %v", b, err)
	}
}

// TestStreamEndsAtSize appends to an object that is being read, as a Python writer might. No way of writing it out may pass that on.
func TestStreamEndsAtSize(t *testing.T) {
	c, dir := open1(t)
	ctx := context.Background()
	tmp := t.TempDir()
	local := func(name string) *net.UnixAddr { return &net.UnixAddr{Name: filepath.Join(tmp, name), Net: "unixgram"} }
	listen := func(network, addr string) func() (io.Writer, func() []byte) {
		return func() (io.Writer, func() []byte) {
			l, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			w, err := net.Dial(network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			return w, func() []byte {
				w.Close()
				r, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(r)
				if err := errors.Join(err, r.Close(), l.Close()); err != nil {
					t.Error(err)
				}
				return b
			}
		}
	}
	ways := map[string]func() (io.Writer, func() []byte){
		"memory": func() (io.Writer, func() []byte) { b := &bytes.Buffer{}; return b, b.Bytes },
		"tcp":    listen("tcp", "127.0.0.1:0"),
		"unix":   listen("unix", filepath.Join(tmp, "stream")),
		"file": func() (io.Writer, func() []byte) {
			f, err := os.Create(filepath.Join(tmp, "out"))
			if err != nil {
				t.Fatal(err)
			}
			return f, func() []byte {
				f.Close()
				b, _ := os.ReadFile(f.Name())
				return b
			}
		},
	}
	if runtime.GOOS == "linux" {
		ways["unixgram"] = func() (io.Writer, func() []byte) {
			r, err := net.ListenUnixgram("unixgram", local("datagrams"))
			if err != nil {
				t.Fatal(err)
			}
			w, err := net.DialUnix("unixgram", local("sender"), local("datagrams"))
			if err != nil {
				t.Fatal(err)
			}
			return w, func() []byte {
				b := make([]byte, 100)
				n, err := r.Read(b)
				if err := errors.Join(err, r.Close(), w.Close()); err != nil {
					t.Error(err)
				}
				return b[:n]
			}
		}
	}
	for name, way := range ways {
		key := mustPut(t, c, obj("hello"))
		r, err := c.GetStream(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(filepath.Join(dir, key.Filename), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(" and more")
		f.Close()
		w, end := way()
		n, err := r.WriteTo(w)
		if got := end(); n != r.Size() || string(got) != "hello" || err != nil {
			t.Errorf("%s: %d bytes of %d written (%v), %q arrived", name, n, r.Size(), err, got)
		}
		r.Close()
	}
}
