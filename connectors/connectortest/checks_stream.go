package connectortest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing/iotest"

	"github.com/proxyplane/proxyplane/connectors"
)

// plain hides every method of a reader but Read, so that io.Copy must use the Writer's ReadFrom, and never fills more than a little.
type plain struct{ r io.Reader }

func (p plain) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), 10_007)]) }

func (s *suite) putStream(ctx context.Context, c connectors.Connector, size int64) connectors.Writer {
	s.Helper()
	w, err := connectors.PutStream(ctx, c, size)
	if err != nil {
		s.Fatalf("PutStream(%d): %v", size, err)
	}
	return w
}

func checkPutStream(s *suite) {
	a, b := s.open(), s.open()
	before := s.count()
	feeds := map[string]func(w connectors.Writer, data []byte) error{
		"one Write": func(w connectors.Writer, data []byte) error {
			n, err := w.Write(data)
			if err == nil && n != len(data) {
				err = io.ErrShortWrite
			}
			return err
		},
		"many Writes": func(w connectors.Writer, data []byte) error {
			for _, p := range split(data, 1, 0, 4096, 5, 65_536, 100_001) {
				if n, err := w.Write(p); err != nil || n != len(p) {
					return errors.Join(err, io.ErrShortWrite)
				}
			}
			return nil
		},
		"ReadFrom": func(w connectors.Writer, data []byte) error {
			return readFrom(w, plain{bytes.NewReader(data)}, len(data))
		},
		"ReadFrom of one byte at a time": func(w connectors.Writer, data []byte) error {
			n := min(len(data), 2000)
			if err := readFrom(w, iotest.OneByteReader(bytes.NewReader(data[:n])), n); err != nil {
				return err
			}
			return readFrom(w, bytes.NewReader(data[n:]), len(data)-n)
		},
		"ReadFrom with data and EOF at once": func(w connectors.Writer, data []byte) error {
			return readFrom(w, iotest.DataErrReader(bytes.NewReader(data)), len(data))
		},
		"Write, ReadFrom, Write": func(w connectors.Writer, data []byte) error {
			i, j := len(data)/3, len(data)/2
			if _, err := w.Write(data[:i]); err != nil {
				return err
			}
			if err := readFrom(w, plain{bytes.NewReader(data[i:j])}, j-i); err != nil {
				return err
			}
			_, err := w.Write(data[j:])
			return err
		},
	}
	for name, feed := range feeds {
		for _, n := range s.upTo([]int{0, 1, 4096, 65_537, 3<<20 + 1}) {
			data := payload(n, n)
			for _, size := range []int64{int64(n), -1} {
				w := s.putStream(s.ctx, a, size)
				if err := feed(w, data); err != nil {
					s.Errorf("%s, size %d: %v", name, size, err)
					w.Abort()
					continue
				}
				key, err := w.Commit()
				if err != nil {
					s.Errorf("%s, size %d: Commit after %d bytes: %v", name, size, n, err)
					continue
				}
				s.holds(b, key, data)
				if err := w.Abort(); err != nil {
					s.Errorf("Abort after Commit: %v; it does nothing there", err)
				}
				s.holds(a, key, data)
				s.evict(b, key)
			}
		}
	}
	w := s.putStream(s.ctx, a, -1) // nothing written, nothing announced
	key, err := w.Commit()
	if err != nil {
		s.Fatalf("Commit of nothing: %v", err)
	}
	s.holds(a, key, nil)
	s.evict(a, key)
	s.counted(before, "after all objects were evicted")
}

func readFrom(w connectors.Writer, r io.Reader, want int) error {
	n, err := w.ReadFrom(r)
	if err == nil && n != int64(want) {
		err = io.ErrShortWrite
	}
	return err
}

// errSource is what a source fails with.
var errSource = errors.New("the source failed")

// checkPutStreamFaults gives up in every way that there is, and looks for what stays behind.
func checkPutStreamFaults(s *suite) {
	c := s.open()
	before := s.count()
	data := payload(int(min(200_000, s.MaxSize)), 1)
	n := int64(len(data))

	for _, size := range []int64{n, -1} {
		w := s.putStream(s.ctx, c, size)
		if _, err := w.Write(data[:n/2]); err != nil {
			s.Fatalf("Write: %v", err)
		}
		for i := range 2 {
			if err := w.Abort(); err != nil {
				s.Errorf("Abort number %d: %v", i+1, err)
			}
		}
		if _, err := w.Write(data[n/2:]); err == nil {
			s.Error("Write after Abort succeeds")
		}
		if key, err := w.Commit(); err == nil {
			s.Errorf("Commit after Abort succeeds: %v", key)
		}
		s.counted(before, "after Abort")

		w = s.putStream(s.ctx, c, size)
		got, err := w.ReadFrom(io.MultiReader(bytes.NewReader(data[:n/2]), iotest.ErrReader(errSource)))
		if !errors.Is(err, errSource) || got > n/2 {
			s.Errorf("ReadFrom a source that fails half way = %d, %v", got, err)
		}
		if err := w.Abort(); err != nil {
			s.Errorf("Abort after a source that failed: %v", err)
		}
		s.counted(before, "after a source that failed")

		w = s.putStream(s.ctx, c, size)
		s.Cleanup(func() { w.Abort() })
		if _, err := w.Write(data); err != nil {
			s.Fatalf("Write: %v", err)
		}
		key, err := w.Commit()
		if err != nil {
			s.Fatalf("Commit: %v", err)
		}
		if _, err := w.Write(data); err == nil {
			s.Error("Write after Commit succeeds")
		}
		if _, err := w.ReadFrom(bytes.NewReader(data)); err == nil {
			s.Error("ReadFrom after Commit succeeds")
		}
		if again, err := w.Commit(); err == nil {
			s.Errorf("second Commit succeeds: %v", again)
		}
		s.holds(c, key, data)
		s.evict(c, key)
		s.counted(before, "after Evict")

		ctx, cancel := context.WithCancel(s.ctx)
		w = s.putStream(ctx, c, size)
		if _, err := w.Write(data); err != nil {
			s.Fatalf("Write: %v", err)
		}
		cancel()
		if key, err := w.Commit(); !errors.Is(err, context.Canceled) {
			s.Errorf("Commit after its context was cancelled = %v, %v", key, err)
		}
		w.Abort()
		s.counted(before, "after a cancelled Commit")
	}

	for name, wrong := range map[string]int64{"one byte less": n - 1, "one byte more": n + 1, "none": 0, "far more": 1 << 40} {
		for _, how := range []string{"Write", "ReadFrom"} {
			w, err := connectors.PutStream(s.ctx, c, wrong)
			if err != nil {
				if wrong != 1<<40 || !errors.Is(err, connectors.ErrTooLarge) {
					s.Errorf("PutStream(%d): %v", wrong, err)
				}
				continue
			}
			if how == "Write" {
				_, err = w.Write(data)
			} else {
				_, err = w.ReadFrom(plain{bytes.NewReader(data)})
			}
			if err == nil {
				_, err = w.Commit()
			}
			if !errors.Is(err, connectors.ErrCorrupt) && !errors.Is(err, connectors.ErrTooLarge) {
				s.Errorf("%s of %d bytes, %s announced: %v; want ErrCorrupt", how, n, name, err)
			}
			if err := w.Abort(); err != nil {
				s.Errorf("Abort after a wrong size: %v", err)
			}
			s.counted(before, "after a wrong size")
		}
	}
}

// failingWriter takes a little.
type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		n := w.left
		w.left = 0
		return n, errSource
	}
	w.left -= len(p)
	return len(p), nil
}

func checkGetStream(s *suite) {
	c := s.open()
	open := func(key connectors.Key) connectors.Reader {
		s.Helper()
		r, err := connectors.GetStream(s.ctx, c, key)
		if err != nil {
			s.Fatalf("GetStream: %v", err)
		}
		return r
	}
	for _, n := range s.upTo([]int{0, 1, 4097, 300_000, 2<<20 + 1}) {
		data := payload(n, n)
		key := s.put(c, data)

		r := open(key)
		if r.Size() != int64(n) {
			s.Errorf("Size = %d, want %d", r.Size(), n)
		}
		got, err := io.ReadAll(plain{r})
		if d := differ(got, data); err != nil || d != "" {
			s.Errorf("Read to the end: %v %s", err, d)
		}
		if k, err := r.Read(make([]byte, 1)); k != 0 || err != io.EOF {
			s.Errorf("Read at the end = %d, %v", k, err)
		}
		s.closeReader(r)

		r = open(key)
		var whole bytes.Buffer
		if k, err := r.WriteTo(&whole); err != nil || k != int64(n) {
			s.Errorf("WriteTo = %d, %v; want %d", k, err, n)
		}
		if d := differ(whole.Bytes(), data); d != "" {
			s.Errorf("WriteTo: %s", d)
		}
		s.closeReader(r)

		r = open(key)
		head := make([]byte, n/3)
		if _, err := io.ReadFull(r, head); err != nil {
			s.Errorf("Read of the first third: %v", err)
		}
		whole.Reset()
		if k, err := r.WriteTo(&whole); err != nil || k != int64(n-n/3) {
			s.Errorf("WriteTo after Read = %d, %v; want %d", k, err, n-n/3)
		}
		if d := differ(append(head, whole.Bytes()...), data); d != "" {
			s.Errorf("Read and WriteTo: %s", d)
		}
		s.closeReader(r)

		if n > 100 {
			r = open(key)
			if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
				s.Errorf("Read of 100 bytes: %v", err)
			}
			s.closeReader(r) // far from the end

			r = open(key)
			if _, err := r.WriteTo(&failingWriter{left: n / 2}); !errors.Is(err, errSource) {
				s.Errorf("WriteTo a writer that fails: %v", err)
			}
			s.closeReader(r)
		}
		if n <= 4097 {
			r = open(key)
			if err := iotest.TestReader(struct{ io.Reader }{r}, data); err != nil {
				s.Errorf("iotest.TestReader: %v", err)
			}
			s.closeReader(r)
		}

		ctx, cancel := context.WithCancel(s.ctx)
		r, err = connectors.GetStream(ctx, c, key)
		if err != nil {
			s.Fatalf("GetStream: %v", err)
		}
		cancel()
		if got, err := io.ReadAll(r); err != nil && !errors.Is(err, context.Canceled) {
			s.Errorf("Read after the context was cancelled: %v; want the bytes or context.Canceled", err)
		} else if d := differ(got, data[:min(len(got), n)]); d != "" {
			s.Errorf("Read after the context was cancelled: %s", d)
		}
		s.closeReader(r)
		s.evict(c, key)
	}
}

// closeReader closes twice, and then must get no bytes.
func (s *suite) closeReader(r connectors.Reader) {
	s.Helper()
	for i := range 2 {
		if err := r.Close(); err != nil {
			s.Errorf("Close number %d of a Reader: %v", i+1, err)
		}
	}
	if n, err := r.Read(make([]byte, 10)); n != 0 || err == nil {
		s.Errorf("Read after Close of a Reader = %d, %v", n, err)
	}
}
