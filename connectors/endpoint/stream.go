package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// copyChunk is what goes through memory at once between a connection and another reader or writer.
const copyChunk = 256 << 10

// lifetime returns a context that ends with ctx, by cancel, or when the connector closes.
func (c *Connector) lifetime(ctx context.Context) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-c.gone:
			cancel()
		case <-inner.Done():
		}
	}()
	return inner, cancel
}

// ended is what a stream's error really is.
func (c *Connector) ended(ctx context.Context, err error) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case c.gate.Closed():
		return connectors.ErrClosed
	}
	return err
}

// reader reads one answer as it comes.
type reader struct {
	c      *Connector
	ctx    context.Context // the stream's lifetime, as GetStream says
	key    connectors.Key
	resp   *http.Response
	cancel context.CancelFunc
	left   int64
	closed bool
}

// GetStream implements [connectors.StreamGetter]. It has a connection of its own until its end or Close. With an endpoint of ProxyStore's it is
// errors.ErrUnsupported: that does not say how long the object is.
func (c *Connector) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	if err := c.enter(ctx, "get_stream", key); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	if !c.home.ours {
		if _, err := query(key); err != nil {
			return nil, wrap("get_stream", key, err)
		}
		return nil, fmt.Errorf("%w: ProxyStore's endpoints do not tell an object's size", errors.ErrUnsupported)
	}
	inner, cancel := c.lifetime(ctx)
	resp, err := c.get(inner, key, nil, http.StatusOK)
	if err == nil && resp.ContentLength < 0 {
		resp.Body.Close()
		err = fmt.Errorf("%w: the endpoint does not tell the object's size", errors.ErrUnsupported)
	}
	if err != nil {
		cancel()
		return nil, wrap("get_stream", key, c.ended(ctx, err))
	}
	return &reader{c: c, ctx: ctx, key: key, resp: resp, cancel: cancel, left: resp.ContentLength}, nil
}

func (r *reader) Size() int64 { return r.resp.ContentLength }

func (r *reader) Read(p []byte) (int, error) {
	if err := r.c.enter(r.ctx, "get_stream", r.key); err != nil {
		return 0, err
	}
	defer r.c.gate.Leave()
	if r.closed {
		return 0, wrap("get_stream", r.key, fmt.Errorf("%w: this reader", connectors.ErrClosed))
	}
	n, err := r.resp.Body.Read(p)
	r.left -= int64(n)
	if err != nil && err != io.EOF {
		err = wrap("get_stream", r.key, r.c.ended(r.ctx, r.c.broken(r.ctx, fmt.Errorf("%d bytes before the end: %w", r.left, err))))
	}
	return n, err
}

// WriteTo implements io.WriterTo.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	buf := transport.DefaultPool.Get(copyChunk)
	defer buf.Release()
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf.Bytes())
}

// Close gives the connection back. A second Close does nothing.
func (r *reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	if r.left == 0 {
		discard(r.resp) // reads the end, so that the connection is used again
	}
	r.cancel()
	r.resp.Body.Close()
	return nil
}

// writer sends one object as it is written.
type writer struct {
	c       *Connector
	ctx     context.Context // the stream's lifetime, as PutStream says
	key     connectors.EndpointKey
	size    int64 // announced, or negative
	written int64
	last    byte           // of an announced size, which only Commit sends
	pipe    *io.PipeWriter // nil before the first byte
	sent    *atomic.Bool   // all of it
	cancel  context.CancelFunc
	answer  chan error // of the request
	err     error      // why it failed, or that it is over
}

// PutStream implements [connectors.StreamPutter]. Nothing is sent before the first byte is written.
func (c *Connector) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	if err := c.enter(ctx, "put_stream", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	return &writer{c: c, ctx: ctx, key: c.newKey(), size: size}, nil
}

// enter begins a call on the Writer; without error the caller must call c.gate.Leave.
func (w *writer) enter() error {
	if err := w.c.enter(w.ctx, "put_stream", nil); err != nil {
		return err
	}
	if w.err != nil {
		w.c.gate.Leave()
		return w.err
	}
	return nil
}

// start sends the request's head.
func (w *writer) start() error {
	q, err := query(w.key)
	if err != nil {
		return err
	}
	if err := w.c.fits(q, w.size); err != nil {
		return err
	}
	w.sent = &atomic.Bool{}
	inner, cancel := guard(w.ctx, w.sent)
	go func() { // the connector's Close ends it too; a Commit under way holds that up
		select {
		case <-w.c.gone:
			if !w.sent.Load() {
				cancel()
			}
		case <-inner.Done():
		}
	}()
	pr, pw := io.Pipe()
	req, err := w.c.request(inner, http.MethodPost, "/set", q, pr)
	if err != nil {
		cancel()
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.ContentLength = max(w.size, -1)
	w.pipe, w.cancel, w.answer = pw, cancel, make(chan error, 1)
	go func() {
		resp, err := w.c.send(req, http.StatusOK)
		if err == nil {
			discard(resp)
		}
		reason := err
		if reason == nil {
			reason = io.ErrClosedPipe
		}
		pr.CloseWithError(reason) // ends a Write that nobody reads any more
		w.answer <- err
	}()
	return nil
}

// fail ends the Writer, whose object will never be.
func (w *writer) fail(err error) error {
	err = wrap("put_stream", nil, w.c.ended(w.ctx, err))
	w.end(err)
	return err
}

// end ends the request, if it is not over.
func (w *writer) end(err error) {
	w.err = err
	if w.pipe != nil {
		w.pipe.CloseWithError(err)
		w.cancel()
		<-w.answer
		w.pipe = nil
	}
}

func (w *writer) Write(p []byte) (int, error) {
	if err := w.enter(); err != nil {
		return 0, err
	}
	defer w.c.gate.Leave()
	if len(p) == 0 {
		return 0, nil
	}
	if w.size >= 0 && w.written+int64(len(p)) > w.size {
		return 0, w.fail(fmt.Errorf("%w: more than the %d bytes that were announced", connectors.ErrCorrupt, w.size))
	}
	if w.pipe == nil {
		if err := w.start(); err != nil {
			return 0, w.fail(err)
		}
	}
	held := 0
	if w.written+int64(len(p)) == w.size { // with all that was announced the endpoint would keep it without a Commit
		held, w.last = 1, p[len(p)-1]
	}
	n, err := w.pipe.Write(p[:len(p)-held])
	w.written += int64(n)
	if err != nil {
		return n, w.fail(err)
	}
	w.written += int64(held)
	return n + held, nil
}

// ReadFrom implements io.ReaderFrom.
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	buf := transport.DefaultPool.Get(copyChunk)
	defer buf.Release()
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{src}, buf.Bytes())
}

func (w *writer) Commit() (connectors.Key, error) {
	if err := w.enter(); err != nil {
		return nil, err
	}
	defer w.c.gate.Leave()
	switch {
	case w.size >= 0 && w.written != w.size:
		return nil, w.fail(fmt.Errorf("%w: %d bytes were announced and %d written", connectors.ErrCorrupt, w.size, w.written))
	case w.pipe == nil:
		if err := w.c.put(w.ctx, w.key, nil); err != nil {
			return nil, w.fail(err)
		}
	default:
		w.sent.Store(true)
		if w.size > 0 {
			w.pipe.Write([]byte{w.last}) // that it failed, the answer says too
		}
		w.pipe.Close()
		err := errors.Join(<-w.answer, w.ctx.Err())
		w.cancel()
		w.pipe = nil
		if err != nil {
			w.c.undo(w.ctx, w.key) // the endpoint may have it all the same
			return nil, w.fail(err)
		}
	}
	w.err = wrap("put_stream", nil, fmt.Errorf("%w: this writer", connectors.ErrClosed))
	return w.key, nil
}

func (w *writer) Abort() error {
	if w.err == nil {
		w.end(wrap("put_stream", nil, fmt.Errorf("%w: this writer", connectors.ErrClosed)))
	}
	return nil
}
