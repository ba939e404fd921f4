package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// chunk is a piece of a stream that has come and is not read yet. Memory of the stream's own is used again.
type chunk struct {
	buf *transport.Buffer
	n   int
	own bool
}

// Reader is an open GetStream. It implements [objects.Reader].
type Reader struct {
	c    *Client
	k    *call
	ctx  context.Context //nolint:containedctx // documented: it lives as long as the Reader
	id   string
	info objects.Info
	off  int64 // of the next byte that Read returns
	cur  chunk
	at   int   // within cur
	owed int64 // bytes that were read and not credited yet
	err  error // for all further reads

	credit atomic.Int64 // bytes that may still come

	// Under Client.mu.
	queue  []chunk
	head   int
	spare  []*transport.Buffer
	closed bool
}

// GetStream opens an object for reading from off, in bounded memory: at most Window bytes are ahead of the reader. ctx lives as long as the Reader.
// If the connection breaks, the error matches ErrUnavailable and says how far it came; see [NewResumer].
func (c *Client) GetStream(ctx context.Context, id string, off int64) (objects.Reader, error) {
	r, err := c.OpenReader(ctx, id, off)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// OpenReader is GetStream with the Reader's own type.
func (c *Client) OpenReader(ctx context.Context, id string, off int64) (*Reader, error) {
	return c.OpenRange(ctx, id, off, -1)
}

// OpenRange is OpenReader of n bytes from off, or of all from off if n < 0; the stream is shorter where the object ends before. Size and Info are those of
// the whole object. A range that is no longer than Window and a chunk costs one frame each way, and nothing of it waits for the reader.
func (c *Client) OpenRange(ctx context.Context, id string, off, n int64) (*Reader, error) {
	if off < 0 {
		return nil, fmt.Errorf("%w: from byte %d", transport.ErrInvalidRange, off)
	}
	want := uint64(unknown)
	if n >= 0 {
		want = uint64(n)
	}
	k, err := c.open(ctx, OpGet, id, false, false)
	if err != nil {
		return nil, err
	}
	window := max(c.o.Window, 1)
	r := &Reader{c: c, k: k, ctx: ctx, id: id, off: off}
	r.credit.Store(window)
	k.sink, k.off, k.n, k.stream = sinkStream, off, n, r
	k.meta = appendUint(k.meta, tagWindow, uint64(window))
	k.h = Header{Type: TypeRequest, Flags: FlagLast | FlagCredit | FlagInfo, Code: uint16(OpGet), Off: uint64(off), Size: want}
	if err := c.write(k, k.meta, nil); err != nil {
		c.mu.Lock()
		r.drop() // there may be an answer, if the connection broke after the request had left
		c.mu.Unlock()
		return nil, c.leave(k, err)
	}
	c.mu.Lock()
	c.wait(k)
	switch { // what came before a failure is not worth a Reader
	case k.finished && k.err != nil:
		err = k.err
	case !k.finished && !k.signal:
		err = ctx.Err()
		c.abandon(k)
	}
	if err != nil {
		r.drop()
		c.settle(k)
		return nil, err
	}
	r.info = objects.Info{Size: k.size, ModTime: unixTime(k.modTime)}
	k.signal = false
	if k.registered && !k.isLoose { // what came with the answer is not all: from now on it comes whether anybody waits or not
		k.isLoose = true
		c.loose++
		c.ensureReader()
	}
	c.mu.Unlock()
	return r, nil
}

// memory returns room for n bytes, from what was read already if that fits. Under mu.
func (r *Reader) memory(n int) *transport.Buffer {
	for len(r.spare) > 0 {
		b := r.spare[len(r.spare)-1]
		r.spare = r.spare[:len(r.spare)-1]
		if b.Len() >= n && b.Len() <= 4*max(n, 4<<10) {
			return b
		}
		b.Release()
	}
	return r.c.o.Pool.Get(n)
}

// crowded reports whether so many chunks wait that credit no longer bounds their memory, of which even one byte takes some. Under mu.
func (r *Reader) crowded() bool { return int64(len(r.queue)-r.head) > 64+r.c.o.Window/512 }

// push appends a chunk that came. Under mu.
func (r *Reader) push(c chunk) {
	if r.closed {
		c.buf.Release()
		return
	}
	if r.head > 0 && len(r.queue) == cap(r.queue) { // reuse the room of what was taken off
		n := copy(r.queue, r.queue[r.head:])
		clear(r.queue[n:])
		r.queue, r.head = r.queue[:n], 0
	}
	r.queue = append(r.queue, c)
}

// next makes cur the next chunk.
func (r *Reader) next() error {
	if r.err != nil {
		return r.err
	}
	c, k := r.c, r.k
	c.mu.Lock()
	if r.closed {
		c.mu.Unlock()
		return fmt.Errorf("%w: this reader", transport.ErrClosed)
	}
	r.recycle()
	for {
		if r.head < len(r.queue) && !k.cancelled {
			r.cur, r.at = r.queue[r.head], 0
			r.queue[r.head] = chunk{}
			if r.head++; r.head == len(r.queue) {
				r.queue, r.head = r.queue[:0], 0
			}
			c.mu.Unlock()
			return nil
		}
		switch {
		case k.cancelled:
			r.err = r.ctx.Err()
			c.abandon(k)
		case k.finished && k.err != nil:
			r.err = fmt.Errorf("the stream of %q stopped at byte %d of %d: %w", r.id, r.off, r.info.Size, k.err)
		case k.finished:
			r.err = io.EOF
		}
		if r.err != nil {
			c.mu.Unlock()
			return r.err
		}
		k.signal = false
		if r.owed > 0 && r.credit.Load() == 0 { // a window so small that no part of it is worth waiting for
			c.mu.Unlock()
			r.grant()
			c.mu.Lock()
			if k.signal || k.finished {
				continue
			}
		}
		c.wait(k)
	}
}

// recycle keeps the memory of cur for chunks to come. Under mu.
func (r *Reader) recycle() {
	b := r.cur.buf
	if b == nil {
		return
	}
	if r.cur.own && !r.k.finished && int64(len(r.spare)*b.Len()) < r.c.o.Window {
		r.spare = append(r.spare, b)
	} else {
		b.Release()
	}
	r.cur, r.at = chunk{}, 0
}

// took counts n bytes as read, and lets the server send as many more once that is worth a frame.
func (r *Reader) took(n int) {
	r.at += n
	r.off += int64(n)
	r.owed += int64(n)
	if r.owed >= (r.c.o.Window+3)/4 {
		r.grant()
	}
}

// grant credits what was read. If that fails the next read says why, after what has come.
func (r *Reader) grant() {
	c, k := r.c, r.k
	n := r.owed
	r.owed = 0
	c.mu.Lock()
	over := k.finished || k.cancelled
	c.mu.Unlock()
	if over {
		return
	}
	r.credit.Add(n)
	k.h = Header{Type: TypeCredit, Flags: FlagLast, Size: uint64(n)}
	_ = c.write(k, nil, nil)
}

// Read reads what has come, or waits for more.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.at == r.cur.n {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.cur.buf.Bytes()[r.at:r.cur.n])
	r.took(n)
	return n, nil
}

// WriteTo writes the rest of the stream to w without copying it: each chunk is lent to one Write.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if r.at == r.cur.n {
			if err := r.next(); errors.Is(err, io.EOF) {
				return total, nil
			} else if err != nil {
				return total, err
			}
			continue
		}
		n, err := w.Write(r.cur.buf.Bytes()[r.at:r.cur.n])
		total += int64(n)
		r.took(n)
		if err != nil {
			return total, err
		}
	}
}

// Size returns the object's whole length in bytes.
func (r *Reader) Size() int64 { return r.info.Size }

// Info returns what the server knows of the version that is read. Two versions of an object differ in Size or ModTime; a zero ModTime means that the
// server cannot tell versions apart.
func (r *Reader) Info() objects.Info { return r.info }

// drop gives the memory back. Under mu.
func (r *Reader) drop() {
	r.closed = true
	r.cur.buf.Release()
	for _, q := range r.queue[r.head:] {
		q.buf.Release()
	}
	for _, b := range r.spare {
		b.Release()
	}
	r.cur, r.at, r.queue, r.spare = chunk{}, 0, nil, nil
}

// Close gives the memory back and, before the end of the stream, stops the server. A second Close does nothing.
func (r *Reader) Close() error {
	c, k := r.c, r.k
	c.mu.Lock()
	if r.closed {
		c.mu.Unlock()
		return nil
	}
	r.drop()
	if !k.finished {
		c.abandon(k)
	}
	if k.stop != nil {
		k.stop()
	}
	c.mu.Unlock()
	return nil
}

// Writer is an open PutStream. It implements [objects.Writer].
type Writer struct {
	c    *Client
	ctx  context.Context //nolint:containedctx // documented: it lives as long as the Writer
	id   string
	opts objects.PutOptions
	size int64 // announced, or negative
	n    int64 // written
	buf  *transport.Buffer
	fill int
	one  [1][]byte
	k    *call // once something was sent
	err  error // why the object will not be stored
	done bool
}

// PutStream starts an object that is written piece by piece; size is negative if unknown. ctx lives as long as the Writer. Nothing is sent before
// there is a whole chunk, so that a small object costs one frame. A server drops what came of an object that pauses for too long, by default 10 minutes;
// then the Writer fails with ErrUnavailable.
func (c *Client) PutStream(ctx context.Context, id string, size int64, o objects.PutOptions) (objects.Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if id == "" || len(id) > objects.MaxID {
		return nil, fmt.Errorf("%w: an id has 1 to %d bytes, this has %d", transport.ErrInvalidKey, objects.MaxID, len(id))
	}
	c.mu.Lock()
	err := c.err
	if err == nil && c.away {
		err = errDraining
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return &Writer{c: c, ctx: ctx, id: id, opts: o, size: max(size, -1)}, nil
}

// send uploads p, which is all there is if last.
func (w *Writer) send(p []byte, last bool) error {
	if w.k == nil {
		k, err := w.c.open(w.ctx, OpPut, w.id, false, !last)
		if err != nil {
			w.err = err
			return err
		}
		k.appendPut(w.opts)
		w.k = k
	}
	size := uint64(unknown)
	if w.size >= 0 {
		size = uint64(w.size)
	}
	w.one[0] = p
	stop, err := w.c.upload(w.k, size, w.one[:], int64(len(p)), last)
	w.one[0] = nil
	if stop {
		w.k, w.err = nil, err
	}
	return err
}

// usable returns why nothing can be written.
func (w *Writer) usable() error {
	switch {
	case w.err != nil:
		return w.err
	case w.done:
		return fmt.Errorf("%w: this writer", transport.ErrClosed)
	}
	return w.ctx.Err()
}

// room returns the free part of the chunk that is being filled, and sends it first if it is full.
func (w *Writer) room() ([]byte, error) {
	if w.buf == nil {
		n := w.c.chunk
		if w.size >= 0 {
			n = int(min(int64(n), max(w.size, 1)))
		}
		w.buf = w.c.o.Pool.Get(n)
	}
	mem := w.buf.Bytes()
	if w.fill == len(mem) {
		if err := w.send(mem, false); err != nil {
			return nil, err
		}
		w.fill = 0
	}
	return mem[w.fill:], nil
}

// grow counts n more bytes.
func (w *Writer) grow(n int) error {
	w.n += int64(n)
	if w.size >= 0 && w.n > w.size {
		w.fail(fmt.Errorf("%w: more bytes were written than the %d announced", transport.ErrTooLarge, w.size))
		return w.err
	}
	return nil
}

// Write borrows p until it returns. Whole chunks leave without being copied.
func (w *Writer) Write(p []byte) (int, error) {
	if err := w.usable(); err != nil {
		return 0, err
	}
	if err := w.grow(len(p)); err != nil {
		return 0, err
	}
	written := 0
	for len(p) > 0 {
		var n int
		if w.fill == 0 && len(p) > w.c.chunk { // the last chunk stays here: Commit sends it with the end
			n = w.c.chunk
			if err := w.send(p[:n], false); err != nil {
				return written, err
			}
		} else {
			room, err := w.room()
			if err != nil {
				return written, err
			}
			n = copy(room, p)
			w.fill += n
		}
		p = p[n:]
		written += n
	}
	return written, nil
}

// ReadFrom reads r straight into the memory that chunks are sent from.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	for {
		if err := w.usable(); err != nil {
			return total, err
		}
		room, err := w.room()
		if err != nil {
			return total, err
		}
		n, err := r.Read(room)
		total += int64(n)
		if gerr := w.grow(n); gerr != nil {
			return total, gerr
		}
		w.fill += n
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Commit publishes the object. It fails if a size was announced and another number of bytes written.
func (w *Writer) Commit() error {
	if err := w.usable(); err != nil {
		w.fail(err)
		return err
	}
	if w.size >= 0 && w.n != w.size {
		w.fail(fmt.Errorf("%w: %d bytes were written, %d announced", transport.ErrCorrupt, w.n, w.size))
		return w.err
	}
	var rest []byte
	if w.buf != nil {
		rest = w.buf.Bytes()[:w.fill]
	}
	if w.k == nil && w.size < 0 {
		w.size = w.n // all of it goes in one frame
	}
	err := w.send(rest, true)
	if err == nil {
		err = w.c.uploaded(w.k)
		w.k = nil
	}
	if err != nil {
		w.fail(err)
		return err
	}
	w.end()
	return nil
}

// Abort drops the object. After Commit it does nothing.
func (w *Writer) Abort() error {
	if !w.done {
		w.fail(fmt.Errorf("%w: this writer was aborted", transport.ErrClosed))
	}
	return nil
}

// fail ends the Writer without an object.
func (w *Writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
	if w.k != nil {
		c, k := w.c, w.k
		w.k = nil
		c.mu.Lock()
		if k.finished && c.err == nil {
			c.sendCancel(k.id)
		} else {
			c.abandon(k)
		}
		c.settle(k)
	}
	w.end()
}

func (w *Writer) end() {
	w.done = true
	w.buf.Release()
	w.buf, w.fill = nil, 0
}
