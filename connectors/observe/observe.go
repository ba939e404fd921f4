// Package observe tells a [Hook] of every call on a connector: what metrics, traces and slow-call logs are made of. It depends on none of their
// libraries.
//
// A stream is one call, from PutStream to Commit or Abort and from GetStream to Close. A capability that the inner connector does not have is no
// call: it answers errors.ErrUnsupported, and what package connectors falls back to is observed instead. (An inner decorator may have a method and
// answer so itself. That call is observed, with errors.ErrUnsupported as its Err.)
package observe

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// Call is one call that is over.
type Call struct {
	Op       string         // "put", "get", "exists", "evict", "close", "new key", "set", "put batch", ...
	Key      connectors.Key // nil for batches, and for a put that failed
	Objects  int            // how many objects it was about: the batch's size, or 1
	Bytes    int64          // of objects that were moved, in either direction; 0 if the call failed, but for streams what they did move
	Duration time.Duration  // from its start to its return; of streams to their end
	Err      error          // what it returned; [ErrAborted] for a Writer that was aborted
}

// ErrAborted is the error of a Call for a stream that its writer gave up.
var ErrAborted = errors.New("stream aborted by its writer")

// Hook is told of calls, by many goroutines at once. Its functions run within the call, so they should be quick, and must not panic. Either
// may be nil.
type Hook struct {
	// Start is called before each call with its op and its key, if it has one. The call then has the context that Start returns, which a
	// tracer puts its span in.
	Start func(ctx context.Context, op string, key connectors.Key) context.Context
	// End is called once for every Start, with the context that it returned.
	End func(ctx context.Context, c Call)
}

// connector implements every capability and has no Unwrap: nothing reaches around it.
type connector struct {
	inner connectors.Connector
	hook  Hook
}

// Wrap returns a connector that tells hook of every call on inner. It takes inner: closing the result closes it. Capabilities are those of inner;
// the others answer errors.ErrUnsupported.
func Wrap(inner connectors.Connector, hook Hook) connectors.Connector { return &connector{inner, hook} }

// span is a call that is going on.
type span struct {
	ctx   context.Context // ends with the call
	hook  *Hook
	start time.Time
	call  Call
}

func (c *connector) start(ctx context.Context, op string, key connectors.Key, objects int) span {
	if c.hook.Start != nil {
		ctx = c.hook.Start(ctx, op, key)
	}
	return span{ctx, &c.hook, time.Now(), Call{Op: op, Key: key, Objects: objects}}
}

// end tells the hook, and returns err.
func (s *span) end(bytes int64, err error) error {
	if s.hook.End != nil {
		s.call.Bytes, s.call.Err, s.call.Duration = bytes, err, time.Since(s.start)
		s.hook.End(s.ctx, s.call)
	}
	return err
}

// size returns the length of a Buffer that may be nil.
func size(b *transport.Buffer) int64 {
	if b == nil {
		return 0
	}
	return int64(b.Len())
}

// putSize returns how many bytes a put moved.
func putSize(err error, objs ...transport.Slices) int64 {
	if err != nil {
		return 0
	}
	var n int64
	for _, o := range objs {
		n += o.Len()
	}
	return n
}

// Put implements connectors.Connector.
func (c *connector) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	s := c.start(ctx, "put", nil, 1)
	k, err := c.inner.Put(s.ctx, obj)
	s.call.Key = k
	return k, s.end(putSize(err, obj), err)
}

// Get implements connectors.Connector.
func (c *connector) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	s := c.start(ctx, "get", key, 1)
	b, err := c.inner.Get(s.ctx, key)
	return b, s.end(size(b), err)
}

// Exists implements connectors.Connector.
func (c *connector) Exists(ctx context.Context, key connectors.Key) (bool, error) {
	s := c.start(ctx, "exists", key, 1)
	ok, err := c.inner.Exists(s.ctx, key)
	return ok, s.end(0, err)
}

// Evict implements connectors.Connector.
func (c *connector) Evict(ctx context.Context, key connectors.Key) error {
	s := c.start(ctx, "evict", key, 1)
	return s.end(0, c.inner.Evict(s.ctx, key))
}

// Config implements connectors.Connector. It is the inner one's, and not observed.
func (c *connector) Config() connectors.Config { return c.inner.Config() }

// Close implements connectors.Connector.
func (c *connector) Close(ctx context.Context) error {
	s := c.start(ctx, "close", nil, 0)
	return s.end(0, c.inner.Close(s.ctx))
}

// CloseClear implements connectors.ClearCloser.
func (c *connector) CloseClear(ctx context.Context, clear bool) error {
	cc, ok := connectors.As[connectors.ClearCloser](c.inner)
	if !ok {
		return errors.ErrUnsupported
	}
	s := c.start(ctx, "close", nil, 0)
	return s.end(0, cc.CloseClear(s.ctx, clear))
}

// NewKey implements connectors.Deferrer.
func (c *connector) NewKey(ctx context.Context) (connectors.Key, error) {
	d, ok := connectors.As[connectors.Deferrer](c.inner)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	s := c.start(ctx, "new key", nil, 1)
	k, err := d.NewKey(s.ctx)
	s.call.Key = k
	return k, s.end(0, err)
}

// Set implements connectors.Deferrer.
func (c *connector) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	d, ok := connectors.As[connectors.Deferrer](c.inner)
	if !ok {
		return errors.ErrUnsupported
	}
	s := c.start(ctx, "set", key, 1)
	err := d.Set(s.ctx, key, obj)
	return s.end(putSize(err, obj), err)
}

// PutTagged implements connectors.Tagger.
func (c *connector) PutTagged(ctx context.Context, obj transport.Slices, tags connectors.Tags) (connectors.Key, error) {
	t, ok := connectors.As[connectors.Tagger](c.inner)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	s := c.start(ctx, "put", nil, 1)
	k, err := t.PutTagged(s.ctx, obj, tags)
	s.call.Key = k
	return k, s.end(putSize(err, obj), err)
}

// PutBatch implements connectors.BatchPutter.
func (c *connector) PutBatch(ctx context.Context, objs []transport.Slices) ([]connectors.Key, error) {
	b, ok := connectors.As[connectors.BatchPutter](c.inner)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	s := c.start(ctx, "put batch", nil, len(objs))
	keys, err := b.PutBatch(s.ctx, objs)
	return keys, s.end(putSize(err, objs...), err)
}

// GetBatch implements connectors.BatchGetter.
func (c *connector) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	b, ok := connectors.As[connectors.BatchGetter](c.inner)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	s := c.start(ctx, "get batch", nil, len(keys))
	bufs, err := b.GetBatch(s.ctx, keys)
	var n int64
	for _, buf := range bufs {
		n += size(buf)
	}
	return bufs, s.end(n, err)
}

// EvictBatch implements connectors.BatchEvicter.
func (c *connector) EvictBatch(ctx context.Context, keys []connectors.Key) error {
	b, ok := connectors.As[connectors.BatchEvicter](c.inner)
	if !ok {
		return errors.ErrUnsupported
	}
	s := c.start(ctx, "evict batch", nil, len(keys))
	return s.end(0, b.EvictBatch(s.ctx, keys))
}

// GetRange implements connectors.RangeGetter.
func (c *connector) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	r, ok := connectors.As[connectors.RangeGetter](c.inner)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	s := c.start(ctx, "get range", key, 1)
	b, err := r.GetRange(s.ctx, key, off, n)
	return b, s.end(size(b), err)
}

// GetBytes implements connectors.BytesGetter.
func (c *connector) GetBytes(ctx context.Context, key connectors.Key) ([]byte, error) {
	g, ok := connectors.As[connectors.BytesGetter](c.inner)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	s := c.start(ctx, "get", key, 1)
	b, err := g.GetBytes(s.ctx, key)
	return b, s.end(int64(len(b)), err)
}

// Map implements connectors.Mapper.
func (c *connector) Map(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	m, ok := connectors.As[connectors.Mapper](c.inner)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	s := c.start(ctx, "map", key, 1)
	b, err := m.Map(s.ctx, key)
	return b, s.end(size(b), err)
}

// Stat implements connectors.Stater.
func (c *connector) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	st, ok := connectors.As[connectors.Stater](c.inner)
	if !ok {
		return connectors.Info{}, errors.ErrUnsupported
	}
	s := c.start(ctx, "stat", key, 1)
	i, err := st.Stat(s.ctx, key)
	return i, s.end(0, err)
}

// Wait implements connectors.Waiter.
func (c *connector) Wait(ctx context.Context, key connectors.Key) error {
	w, ok := connectors.As[connectors.Waiter](c.inner)
	if !ok {
		return errors.ErrUnsupported
	}
	s := c.start(ctx, "wait", key, 1)
	return s.end(0, w.Wait(s.ctx, key))
}

// PutStream implements connectors.StreamPutter.
func (c *connector) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	p, ok := connectors.As[connectors.StreamPutter](c.inner)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	s := c.start(ctx, "put stream", nil, 1)
	w, err := p.PutStream(s.ctx, size)
	if err != nil {
		return nil, s.end(0, err)
	}
	return &writer{inner: w, span: s}, nil
}

// writer counts what goes through a Writer.
type writer struct {
	inner connectors.Writer
	span  span
	bytes int64
	over  bool
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.inner.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	n, err := w.inner.ReadFrom(r)
	w.bytes += n
	return n, err
}

func (w *writer) Commit() (connectors.Key, error) {
	k, err := w.inner.Commit()
	w.end(k, err)
	return k, err
}

func (w *writer) Abort() error {
	err := w.inner.Abort()
	w.end(nil, errors.Join(ErrAborted, err))
	return err
}

// end tells the hook the first time.
func (w *writer) end(k connectors.Key, err error) {
	if w.over {
		return
	}
	w.over = true
	w.span.call.Key = k
	w.span.end(w.bytes, err)
}

// GetStream implements connectors.StreamGetter.
func (c *connector) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	g, ok := connectors.As[connectors.StreamGetter](c.inner)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	s := c.start(ctx, "get stream", key, 1)
	r, err := g.GetStream(s.ctx, key)
	if err != nil {
		return nil, s.end(0, err)
	}
	return &reader{inner: r, span: s}, nil
}

// reader counts what comes out of a Reader, and keeps its first error.
type reader struct {
	inner connectors.Reader
	span  span
	bytes int64
	err   error
	over  bool
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.inner.Read(p)
	r.count(int64(n), err)
	return n, err
}

func (r *reader) WriteTo(w io.Writer) (int64, error) {
	n, err := r.inner.WriteTo(w)
	r.count(n, err)
	return n, err
}

func (r *reader) count(n int64, err error) {
	r.bytes += n
	if r.err == nil && err != io.EOF {
		r.err = err
	}
}

func (r *reader) Size() int64 { return r.inner.Size() }

func (r *reader) Close() error {
	err := r.inner.Close()
	if !r.over {
		r.over = true
		if r.err == nil {
			r.err = err
		}
		r.span.end(r.bytes, r.err)
	}
	return err
}
