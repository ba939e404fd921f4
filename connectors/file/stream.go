package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

const (
	readBuf  = 256 << 10 // for a stream out of a file: stays in the processor's cache
	writeBuf = 1 << 20   // for a stream into a file
	// kernelChunk is how much is handed to the kernel to copy by itself: between two of them a cancelled context is seen.
	kernelChunk = 64 << 20
)

// PutStream starts an object in a file that nobody sees until Commit. The Writer holds one descriptor until Commit or Abort, one of which must
// be called. After the connector's Close it can only be aborted.
func (c *Connector) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	if err := c.begin(ctx); err != nil {
		return nil, c.fail("put", nil, err)
	}
	defer c.gate.Leave()
	t, err := c.dir.newTemp()
	if err != nil {
		return nil, c.fail("put", nil, err)
	}
	t.f = t.h.file()
	return &writer{ctx: ctx, c: c, t: t, size: size}, nil
}

type writer struct {
	ctx  context.Context // the Writer's lifetime, as PutStream says
	c    *Connector
	t    temp
	size int64 // announced, or negative
	n    int64 // written
	err  error // the first failure; Commit returns it
	done bool
}

// begin starts a write. The caller leaves the gate unless there is an error.
func (w *writer) begin() error {
	if w.done {
		return fmt.Errorf("write after Commit or Abort: %w", connectors.ErrClosed)
	}
	if w.err != nil {
		return w.err
	}
	err := w.c.begin(w.ctx)
	if err == nil {
		if err = w.c.dir.faults.at("write"); err != nil {
			w.c.gate.Leave()
		}
	}
	return w.note(err)
}

// note remembers the first failure: half an object must not be committed after it.
func (w *writer) note(err error) error {
	err = w.c.fail("put", nil, err)
	if w.err == nil {
		w.err = err
	}
	return err
}

// room fails if n more bytes are more than announced.
func (w *writer) room(n int64) error {
	if w.size >= 0 && n > w.size-w.n {
		return connectors.CheckSize(w.size, w.n+n)
	}
	return nil
}

// Write borrows p.
func (w *writer) Write(p []byte) (int, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	defer w.c.gate.Leave()
	n, err := w.write(p)
	return n, w.note(err)
}

func (w *writer) write(p []byte) (int, error) {
	if err := w.room(int64(len(p))); err != nil {
		return 0, err
	}
	if slowCopy(p, w.n) {
		return w.writeStaged(p)
	}
	n, err := w.t.f.Write(p)
	w.n += int64(n)
	return n, err
}

// writeStaged writes p from where it is fast to write from.
func (w *writer) writeStaged(p []byte) (total int, err error) {
	var st stage
	defer st.release()
	for total < len(p) && err == nil {
		var n int
		n, err = w.t.f.Write(st.gather([][]byte{p[total:]}, w.n))
		w.n += int64(n)
		total += n
	}
	return total, err
}

// ReadFrom takes everything that r gives: from files and sockets within the kernel (copy_file_range, splice), from a reader that has its bytes in
// memory without another copy, else through a pooled buffer.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	if src, ok := r.(*reader); ok {
		return src.copyTo(w) // a file connector's stream: file to file
	}
	if src, ok := r.(io.WriterTo); ok && !inKernel(r) {
		return src.WriteTo(onlyWriter{w})
	}
	if err := w.begin(); err != nil {
		return 0, err
	}
	defer w.c.gate.Leave()
	var n int64
	var err error
	if inKernel(r) {
		n, err = w.readKernel(r)
	} else {
		n, err = w.readBuffered(r)
	}
	return n, w.note(err)
}

// onlyWriter hides ReadFrom, lest WriteTo and ReadFrom call each other for ever.
type onlyWriter struct{ io.Writer }

// inKernel reports whether os.File.ReadFrom can have the kernel move the bytes of r.
func inKernel(r io.Reader) bool {
	switch r := r.(type) {
	case *os.File, *net.TCPConn, *net.UnixConn:
		return true
	case *io.LimitedReader:
		return inKernel(r.R)
	}
	return false
}

func (w *writer) readKernel(r io.Reader) (int64, error) {
	var total int64
	for {
		n, err := w.t.f.ReadFrom(io.LimitReader(r, kernelChunk))
		w.n += n
		total += n
		if err == nil {
			err = w.ctx.Err()
		}
		if err == nil {
			err = w.room(0)
		}
		if err != nil || n < kernelChunk {
			return total, err
		}
	}
}

func (w *writer) readBuffered(r io.Reader) (int64, error) {
	size := writeBuf
	if w.size >= 0 {
		size = int(min(max(w.size-w.n, 512)+1, writeBuf)) // one more, to see the end or too much at once
	}
	b := transport.DefaultPool.Get(size)
	defer b.Release()
	var total int64
	for {
		buf := b.Bytes()
		if len(buf) > minStaged {
			buf = placed(buf, w.n)
		}
		// Not io.ReadFull: it says ErrUnexpectedEOF where the source ends, as a broken source does.
		n := 0
		var err error
		for n < len(buf) && err == nil {
			var k int
			k, err = r.Read(buf[n:])
			n += k
		}
		if n > 0 {
			m, werr := w.write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err == nil {
			err = w.ctx.Err()
		}
		if err != nil {
			return total, err
		}
	}
}

// Commit publishes the object.
func (w *writer) Commit() (connectors.Key, error) {
	if w.done {
		return nil, fmt.Errorf("second Commit, or Commit after Abort: %w", connectors.ErrClosed)
	}
	w.done = true
	err := w.err
	if err == nil {
		err = w.c.begin(w.ctx)
		if err == nil {
			defer w.c.gate.Leave()
			err = connectors.CheckSize(w.size, w.n)
		}
	}
	if err == nil {
		// The last write may be long ago, and another process's Sweep must not take the object before it has its marker.
		err = w.t.touch()
	}
	if err == nil && w.c.opts.Sync {
		err = w.t.h.sync()
	}
	if err != nil {
		return nil, w.c.fail("put", nil, also(err, w.t.drop()))
	}
	name := w.c.newName()
	if err := w.t.publish(name); err != nil {
		return nil, w.c.fail("put", nil, err)
	}
	if err := w.c.publish(name); err != nil {
		return nil, w.c.fail("put", nil, also(err, w.c.discard(name)))
	}
	return connectors.FileKey{Filename: name}, nil
}

// Abort drops the object. After Commit or another Abort it does nothing.
func (w *writer) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	return w.c.fail("put", nil, w.t.drop())
}

// GetStream opens an object for reading. The Reader holds one descriptor until its Close, and stays valid after the connector's.
func (c *Connector) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	name, err := c.beginKey(ctx, key)
	if err != nil {
		return nil, c.fail("get", key, err)
	}
	defer c.gate.Leave()
	h, st, err := c.open(name)
	if err != nil {
		return nil, c.fail("get", key, err)
	}
	return &reader{ctx: ctx, c: c, key: key, f: h.file(), size: st.size}, nil
}

type reader struct {
	ctx  context.Context // the Reader's lifetime, as GetStream says
	c    *Connector
	key  connectors.Key
	f    *os.File
	size int64
	off  int64
}

func (r *reader) Size() int64 { return r.size }

func (r *reader) Close() error {
	err := r.f.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.read(p)
	if err == io.EOF {
		return n, err
	}
	return n, r.c.fail("get", r.key, err)
}

func (r *reader) read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if rest := r.size - r.off; int64(len(p)) > rest {
		if rest == 0 {
			return 0, io.EOF
		}
		p = p[:rest] // what a Python writer appends meanwhile is not ours
	}
	n, err := r.f.Read(p)
	r.off += int64(n)
	return n, shrunk(err)
}

// WriteTo writes the rest of the object to w: within the kernel if w is a file or a socket (copy_file_range, sendfile), else through a pooled
// buffer.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	n, err := r.copyTo(w)
	return n, r.c.fail("get", r.key, err)
}

func (r *reader) copyTo(w io.Writer) (int64, error) {
	var copyChunk func(n int64) (int64, error)
	switch w := w.(type) {
	case *writer:
		return r.copyWriter(w)
	case *net.UnixConn: // its ReadFrom is a datagram's
		copyChunk = func(n int64) (int64, error) { return sendFile(w, r.f, n) }
	case io.ReaderFrom:
		copyChunk = func(n int64) (int64, error) { return w.ReadFrom(&io.LimitedReader{R: r.f, N: n}) }
	default:
		return r.copyBuffered(w)
	}
	var total int64
	for r.off < r.size {
		if err := r.ctx.Err(); err != nil {
			return total, err
		}
		n, err := copyChunk(min(r.size-r.off, kernelChunk))
		r.off += n
		total += n
		if errors.Is(err, errors.ErrUnsupported) && n == 0 {
			n, err := r.copyBuffered(w)
			return total + n, err
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			r.seek()
			return total, shrunk(err)
		}
	}
	return total, nil
}

// seek puts the file where the Reader is: a failed write leaves bytes that were read and have not arrived.
func (r *reader) seek() { r.f.Seek(r.off, io.SeekStart) }

// copyWriter copies to a stream of a file connector, file to file.
func (r *reader) copyWriter(w *writer) (int64, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	defer w.c.gate.Leave()
	if err := w.room(r.size - r.off); err != nil {
		return 0, w.note(err)
	}
	n, err := r.copyTo(w.t.f)
	w.n += n
	return n, w.note(err)
}

func (r *reader) copyBuffered(w io.Writer) (int64, error) {
	b := transport.DefaultPool.Get(int(min(max(r.size-r.off, 1), readBuf)))
	defer b.Release()
	var total int64
	for {
		n, err := r.read(b.Bytes())
		if n > 0 {
			m, werr := w.Write(b.Bytes()[:n])
			total += int64(m)
			if werr == nil && m < n {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				r.off -= int64(n - m)
				r.seek()
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
