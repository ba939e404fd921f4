package faulty

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// Connector is a connector with errors. All methods may be called by many goroutines at once, as far as the Injector bears it.
type Connector struct {
	inner connectors.Connector
	inj   Injector
	kind  string
}

// Wrap returns inner with the errors of inj. It takes inner: Close closes it.
func Wrap(inner connectors.Connector, inj Injector) *Connector {
	kind := inner.Config().Kind
	if k, ok := connectors.LookupKind(kind); ok {
		kind = k.Kind
	}
	return &Connector{inner, inj, kind}
}

var (
	_ connectors.Connector    = (*Connector)(nil)
	_ connectors.Deferrer     = (*Connector)(nil)
	_ connectors.BatchPutter  = (*Connector)(nil)
	_ connectors.BatchGetter  = (*Connector)(nil)
	_ connectors.BatchEvicter = (*Connector)(nil)
	_ connectors.RangeGetter  = (*Connector)(nil)
	_ connectors.BytesGetter  = (*Connector)(nil)
	_ connectors.StreamPutter = (*Connector)(nil)
	_ connectors.StreamGetter = (*Connector)(nil)
	_ connectors.Mapper       = (*Connector)(nil)
	_ connectors.Stater       = (*Connector)(nil)
	_ connectors.Waiter       = (*Connector)(nil)
	_ connectors.Tagger       = (*Connector)(nil)
	_ connectors.ClearCloser  = (*Connector)(nil)
)

// inject asks about a call and returns the error as the connector's own.
func (c *Connector) inject(call Call) error {
	err := c.inj.Inject(call)
	var s *short
	if err == nil || errors.As(err, &s) {
		return err // a piece's error is wrapped when its first bytes have gone through
	}
	return connectors.WrapError(string(call.Op), c.kind, call.Key, err)
}

// around makes a call between two questions. undo drops what the call gave if its answer gets lost.
func around[R any](c *Connector, op Op, key connectors.Key, call func() (R, error), undo func(R)) (R, error) {
	var none R
	if err := c.inject(Call{Op: op, Key: key}); err != nil {
		return none, err
	}
	r, err := call()
	if err != nil {
		return r, err
	}
	if err := c.inject(Call{Op: op, Key: key, After: true}); err != nil {
		undo(r)
		return none, err
	}
	return r, nil
}

// plain is around for calls that give nothing but an error.
func (c *Connector) plain(op Op, key connectors.Key, call func() error) error {
	_, err := around(c, op, key, func() (struct{}, error) { return struct{}{}, call() }, keep)
	return err
}

// keep is the undo of results that hold nothing.
func keep[R any](R) {}

// capability finds one of the inner connector.
func capability[T any](c *Connector, op Op) (T, error) {
	t, ok := connectors.As[T](c.inner)
	if !ok {
		return t, fmt.Errorf("connector %s below faulty has no %s: %w", c.kind, op, errors.ErrUnsupported)
	}
	return t, nil
}

// Put implements [connectors.Connector]. After a lost answer the object is stored and its key is lost.
func (c *Connector) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	return around(c, Put, nil, func() (connectors.Key, error) { return c.inner.Put(ctx, obj) }, keep)
}

// Get implements [connectors.Connector].
func (c *Connector) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	return around(c, Get, key, func() (*transport.Buffer, error) { return c.inner.Get(ctx, key) }, (*transport.Buffer).Release)
}

// Exists implements [connectors.Connector].
func (c *Connector) Exists(ctx context.Context, key connectors.Key) (bool, error) {
	return around(c, Exists, key, func() (bool, error) { return c.inner.Exists(ctx, key) }, keep)
}

// Evict implements [connectors.Connector].
func (c *Connector) Evict(ctx context.Context, key connectors.Key) error {
	return c.plain(Evict, key, func() error { return c.inner.Evict(ctx, key) })
}

// Config implements [connectors.Connector]; it is the inner connector's, for errors do not travel.
func (c *Connector) Config() connectors.Config { return c.inner.Config() }

// Close implements [connectors.Connector]. If the Injector fails it before it begins the inner connector stays open: close again.
func (c *Connector) Close(ctx context.Context) error {
	return c.plain(Close, nil, func() error { return c.inner.Close(ctx) })
}

// NewKey implements [connectors.Deferrer].
func (c *Connector) NewKey(ctx context.Context) (connectors.Key, error) {
	d, err := capability[connectors.Deferrer](c, NewKey)
	if err != nil {
		return nil, err
	}
	return around(c, NewKey, nil, func() (connectors.Key, error) { return d.NewKey(ctx) }, keep)
}

// Set implements [connectors.Deferrer].
func (c *Connector) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	d, err := capability[connectors.Deferrer](c, Set)
	if err != nil {
		return err
	}
	return c.plain(Set, key, func() error { return d.Set(ctx, key, obj) })
}

// PutBatch implements [connectors.BatchPutter]. After a lost answer all objects are stored and their keys are lost.
func (c *Connector) PutBatch(ctx context.Context, objs []transport.Slices) ([]connectors.Key, error) {
	b, err := capability[connectors.BatchPutter](c, PutBatch)
	if err != nil {
		return nil, err
	}
	return around(c, PutBatch, nil, func() ([]connectors.Key, error) { return b.PutBatch(ctx, objs) }, keep)
}

// GetBatch implements [connectors.BatchGetter].
func (c *Connector) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	b, err := capability[connectors.BatchGetter](c, GetBatch)
	if err != nil {
		return nil, err
	}
	return around(c, GetBatch, nil, func() ([]*transport.Buffer, error) { return b.GetBatch(ctx, keys) }, func(bufs []*transport.Buffer) {
		for _, b := range bufs {
			b.Release()
		}
	})
}

// EvictBatch implements [connectors.BatchEvicter].
func (c *Connector) EvictBatch(ctx context.Context, keys []connectors.Key) error {
	b, err := capability[connectors.BatchEvicter](c, EvictBatch)
	if err != nil {
		return err
	}
	return c.plain(EvictBatch, nil, func() error { return b.EvictBatch(ctx, keys) })
}

// GetRange implements [connectors.RangeGetter].
func (c *Connector) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	r, err := capability[connectors.RangeGetter](c, GetRange)
	if err != nil {
		return nil, err
	}
	return around(c, GetRange, key, func() (*transport.Buffer, error) { return r.GetRange(ctx, key, off, n) }, (*transport.Buffer).Release)
}

// GetBytes implements [connectors.BytesGetter].
func (c *Connector) GetBytes(ctx context.Context, key connectors.Key) ([]byte, error) {
	g, err := capability[connectors.BytesGetter](c, GetBytes)
	if err != nil {
		return nil, err
	}
	return around(c, GetBytes, key, func() ([]byte, error) { return g.GetBytes(ctx, key) }, keep)
}

// Map implements [connectors.Mapper].
func (c *Connector) Map(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	m, err := capability[connectors.Mapper](c, Map)
	if err != nil {
		return nil, err
	}
	return around(c, Map, key, func() (*transport.Buffer, error) { return m.Map(ctx, key) }, (*transport.Buffer).Release)
}

// Stat implements [connectors.Stater].
func (c *Connector) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	s, err := capability[connectors.Stater](c, Stat)
	if err != nil {
		return connectors.Info{}, err
	}
	return around(c, Stat, key, func() (connectors.Info, error) { return s.Stat(ctx, key) }, keep)
}

// Wait implements [connectors.Waiter].
func (c *Connector) Wait(ctx context.Context, key connectors.Key) error {
	w, err := capability[connectors.Waiter](c, Wait)
	if err != nil {
		return err
	}
	return c.plain(Wait, key, func() error { return w.Wait(ctx, key) })
}

// PutTagged implements [connectors.Tagger].
func (c *Connector) PutTagged(ctx context.Context, obj transport.Slices, tags connectors.Tags) (connectors.Key, error) {
	t, err := capability[connectors.Tagger](c, PutTagged)
	if err != nil {
		return nil, err
	}
	return around(c, PutTagged, nil, func() (connectors.Key, error) { return t.PutTagged(ctx, obj, tags) }, keep)
}

// CloseClear implements [connectors.ClearCloser].
func (c *Connector) CloseClear(ctx context.Context, clear bool) error {
	cc, err := capability[connectors.ClearCloser](c, CloseClear)
	if err != nil {
		return err
	}
	return c.plain(CloseClear, nil, func() error { return cc.CloseClear(ctx, clear) })
}

// PutStream implements [connectors.StreamPutter].
func (c *Connector) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	p, err := capability[connectors.StreamPutter](c, PutStream)
	if err != nil {
		return nil, err
	}
	w, err := around(c, PutStream, nil, func() (connectors.Writer, error) { return p.PutStream(ctx, size) },
		func(w connectors.Writer) { w.Abort() })
	if err != nil {
		return nil, err
	}
	return &writer{inner: w, pieces: pieces{c: c, op: Write}}, nil
}

// GetStream implements [connectors.StreamGetter].
func (c *Connector) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	g, err := capability[connectors.StreamGetter](c, GetStream)
	if err != nil {
		return nil, err
	}
	r, err := around(c, GetStream, key, func() (connectors.Reader, error) { return g.GetStream(ctx, key) },
		func(r connectors.Reader) { r.Close() })
	if err != nil {
		return nil, err
	}
	return &reader{inner: r, pieces: pieces{c: c, op: Read, key: key}}, nil
}

// pieces counts the bytes of one stream and asks about each piece.
type pieces struct {
	c   *Connector
	op  Op
	key connectors.Key
	off int64
}

// pass moves one piece of n bytes by move, which is called for as many of them as the Injector lets through. reads says that move may find
// fewer: then the byte to fail at must be there before it fails.
func (p *pieces) pass(n int, reads bool, move func(n int) (int, error)) (int, error) {
	call := Call{Op: p.op, Key: p.key, Off: p.off, Len: int64(n)}
	limit := n
	fault := p.c.inject(call)
	if fault != nil {
		var s *short
		if !errors.As(fault, &s) {
			return 0, fault
		}
		limit, fault = int(s.n), connectors.WrapError(string(p.op), p.c.kind, p.key, s.err)
		if limit == 0 {
			if reads {
				if k, err := move(1); k == 0 {
					return 0, err
				}
			}
			return 0, fault
		}
	}
	k, err := move(limit)
	p.off += int64(k)
	if err != nil {
		return k, err
	}
	if fault == nil {
		call.After = true
		return k, p.c.inject(call)
	}
	if reads {
		return k, nil // the next piece begins at the byte, if there is one
	}
	return k, fault
}

// writer is a Writer with errors.
type writer struct {
	pieces
	inner connectors.Writer
}

func (w *writer) Write(p []byte) (int, error) {
	return w.pass(len(p), false, func(n int) (int, error) { return w.inner.Write(p[:n]) })
}

// ReadFrom asks about each piece that the inner Writer reads.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	return w.inner.ReadFrom(pieceReader{&w.pieces, r})
}

// pieceReader reads a source with errors.
type pieceReader struct {
	*pieces
	src io.Reader
}

// Read asks about the piece as long as it was asked for: how much of it comes is not known before.
func (r pieceReader) Read(p []byte) (int, error) {
	return r.pass(len(p), true, func(n int) (int, error) { return r.src.Read(p[:n]) })
}

func (w *writer) Commit() (connectors.Key, error) {
	key, err := around(w.c, Commit, nil, w.inner.Commit, keep)
	if err != nil {
		w.inner.Abort() // a Commit that fails leaves nothing; after one whose answer got lost this does nothing
	}
	return key, err
}

func (w *writer) Abort() error { return w.c.plain(Abort, nil, w.inner.Abort) }

// reader is a Reader with errors.
type reader struct {
	pieces
	inner connectors.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	return r.pass(len(p), true, func(n int) (int, error) { return r.inner.Read(p[:n]) })
}

// WriteTo asks about each piece that the inner Reader writes.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	return r.inner.WriteTo(pieceWriter{&r.pieces, w})
}

// pieceWriter writes to a destination with errors.
type pieceWriter struct {
	*pieces
	dst io.Writer
}

func (w pieceWriter) Write(p []byte) (int, error) {
	return w.pass(len(p), false, func(n int) (int, error) { return w.dst.Write(p[:n]) })
}

func (r *reader) Close() error { return r.c.plain(CloseRead, r.key, r.inner.Close) }

func (r *reader) Size() int64 { return r.inner.Size() }
