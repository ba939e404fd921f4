package local

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/uuid4"
	"github.com/proxyplane/proxyplane/transport"
)

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
	_ connectors.ClearCloser  = (*Connector)(nil)
)

// NewKey implements [connectors.Deferrer].
func (c *Connector) NewKey(ctx context.Context) (connectors.Key, error) {
	if err := c.ready(ctx, "new_key"); err != nil {
		return nil, err
	}
	return connectors.LocalKey{ID: uuid4.New()}, nil
}

// Set implements [connectors.Deferrer]. It copies obj once. Readers of the object that it replaces keep that one.
func (c *Connector) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	id, err := start(ctx, "set", key)
	if err != nil {
		return c.orClosed("set", key, err)
	}
	if err := c.ready(ctx, "set"); err != nil {
		return err
	}
	data, err := c.keep("set", key, obj)
	if err != nil {
		return err
	}
	return c.write("set", id, key, data)
}

// PutBatch implements [connectors.BatchPutter].
func (c *Connector) PutBatch(ctx context.Context, objs []transport.Slices) ([]connectors.Key, error) {
	if err := c.ready(ctx, "put_batch"); err != nil {
		return nil, err
	}
	keys := make([]connectors.Key, len(objs))
	for i, obj := range objs {
		data, err := c.keep("put_batch", nil, obj)
		if err == nil {
			keys[i], err = c.put(data)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			c.forget(keys[:i+1])
			return nil, err
		}
	}
	return keys, nil
}

// forget takes back what a batch has put, also if the connector was closed meanwhile: the storage may live on.
func (c *Connector) forget(keys []connectors.Key) {
	for _, key := range keys {
		if key, ok := key.(connectors.LocalKey); ok {
			s := c.st.shard(key.ID)
			s.mu.Lock()
			c.st.bytes.Add(-int64(len(s.objs[key.ID])))
			delete(s.objs, key.ID)
			s.mu.Unlock()
		}
	}
}

// GetBatch implements [connectors.BatchGetter]. The objects need not be of one instant.
func (c *Connector) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	if err := c.ready(ctx, "get_batch"); err != nil {
		return nil, err
	}
	bufs := make([]*transport.Buffer, len(keys))
	for i, key := range keys {
		id, err := start(ctx, "get_batch", key)
		if err != nil {
			return nil, err // the buffers so far are GC memory that nobody else has seen
		}
		s := c.st.shard(id)
		s.mu.RLock()
		closed := c.closed.Load()
		data, ok := s.objs[id]
		s.mu.RUnlock()
		if closed {
			return nil, closedError("get_batch", key)
		}
		if ok {
			bufs[i] = transport.FromBytes(data[:len(data):len(data)])
		}
	}
	return bufs, nil
}

// EvictBatch implements [connectors.BatchEvicter]. A bad key fails the call before anything is deleted.
func (c *Connector) EvictBatch(ctx context.Context, keys []connectors.Key) error {
	if err := c.ready(ctx, "evict_batch"); err != nil {
		return err
	}
	for _, key := range keys {
		if _, err := start(ctx, "evict_batch", key); err != nil {
			return err
		}
	}
	for _, key := range keys {
		if err := c.Evict(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// GetRange implements [connectors.RangeGetter]. The Buffer stands on the stored bytes.
func (c *Connector) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	data, err := c.read(ctx, "get_range", key)
	if err != nil {
		return nil, err
	}
	n, err = connectors.ClipRange(int64(len(data)), off, n)
	if err != nil {
		return nil, connectors.WrapError("get_range", kind, key, err)
	}
	return transport.FromBytes(data[off : off+n : off+n]), nil
}

// GetBytes implements [connectors.BytesGetter]: it lends the stored bytes, for ever.
func (c *Connector) GetBytes(ctx context.Context, key connectors.Key) ([]byte, error) {
	return c.read(ctx, "get", key)
}

// Map implements [connectors.Mapper]; it is Get.
func (c *Connector) Map(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	data, err := c.read(ctx, "map", key)
	if err != nil {
		return nil, err
	}
	return transport.FromBytes(data), nil
}

// Stat implements [connectors.Stater]. The time is not known.
func (c *Connector) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	data, err := c.read(ctx, "stat", key)
	if err != nil {
		return connectors.Info{}, err
	}
	return connectors.Info{Size: int64(len(data))}, nil
}

// Wait implements [connectors.Waiter]. It sees objects that any connector of the storage puts.
func (c *Connector) Wait(ctx context.Context, key connectors.Key) error {
	id, err := start(ctx, "wait", key)
	if err != nil {
		return c.orClosed("wait", key, err)
	}
	s := c.st.shard(id)
	s.mu.Lock()
	if c.closed.Load() {
		s.mu.Unlock()
		return closedError("wait", key)
	}
	if _, ok := s.objs[id]; ok {
		s.mu.Unlock()
		return nil
	}
	w := s.waits[id]
	if w == nil {
		if s.waits == nil {
			s.waits = map[string]*waiter{}
		}
		w = &waiter{set: make(chan struct{})}
		s.waits[id] = w
	}
	w.n++
	c.waits.Add(1) // Close drains this shard before it waits for us
	s.mu.Unlock()
	defer c.waits.Done()

	select {
	case <-w.set:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-c.gone:
		err = closedError("wait", key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.n--; w.n == 0 && s.waits[id] == w {
		delete(s.waits, id)
	}
	return err
}

// GetStream implements [connectors.StreamGetter]. The Reader reads the stored bytes, and goes on after Evict and Close.
func (c *Connector) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	data, err := c.read(ctx, "get_stream", key)
	if err != nil {
		return nil, err
	}
	return transport.NewReader(transport.FromBytes(data)), nil
}

// PutStream implements [connectors.StreamPutter]. The object is collected in memory; one of known size is not copied again.
func (c *Connector) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	if err := c.ready(ctx, "put_stream"); err != nil {
		return nil, err
	}
	if c.opts.MaxBytes > 0 && size > c.opts.MaxBytes {
		return nil, c.tooLarge("put_stream", nil, size)
	}
	return &writer{ctx: ctx, c: c, size: size, data: make([]byte, 0, min(max(size, minGrow), maxFirst))}, nil
}

const (
	minGrow  = 512     // the least that a Writer of unknown size begins with
	maxFirst = 1 << 30 // the most that an announced size makes us take before any byte has come
)

// writer collects an object.
type writer struct {
	ctx  context.Context // the Writer's lifetime, as PutStream says
	c    *Connector
	size int64
	data []byte
	done bool
}

// check is asked before n more bytes are taken.
func (w *writer) check(n int) error {
	if w.done {
		return closedWriter("put_stream")
	}
	if err := w.c.ready(w.ctx, "put_stream"); err != nil {
		return err
	}
	if total := int64(len(w.data) + n); w.c.opts.MaxBytes > 0 && total > w.c.opts.MaxBytes {
		return w.c.tooLarge("put_stream", nil, total)
	}
	return nil
}

func closedWriter(op string) error {
	return connectors.WrapError(op, kind, nil, fmt.Errorf("the Writer was committed or aborted: %w", connectors.ErrClosed))
}

func (w *writer) Write(p []byte) (int, error) {
	if err := w.check(len(p)); err != nil {
		return 0, err
	}
	w.data = append(w.data, p...)
	return len(p), nil
}

// ReadFrom reads straight into the object's memory.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	for {
		if err := w.check(0); err != nil {
			return total, err
		}
		if len(w.data) == cap(w.data) {
			if int64(len(w.data)) == w.size {
				// All announced bytes are here, most likely: look for the end without growing.
				var one [1]byte
				n, err := r.Read(one[:])
				w.data, total = append(w.data, one[:n]...), total+int64(n)
				if err == io.EOF {
					return total, nil
				} else if err != nil {
					return total, err
				}
				continue
			}
			w.data = slices.Grow(w.data, minGrow)
		}
		n, err := r.Read(w.data[len(w.data):cap(w.data)])
		w.data, total = w.data[:len(w.data)+n], total+int64(n)
		if err == io.EOF {
			return total, w.check(0)
		}
		if err != nil {
			return total, err
		}
	}
}

func (w *writer) Commit() (connectors.Key, error) {
	if w.done {
		return nil, closedWriter("put_stream")
	}
	data := w.data
	w.done, w.data = true, nil
	if err := w.c.ready(w.ctx, "put_stream"); err != nil {
		return nil, err
	}
	if err := connectors.CheckSize(w.size, int64(len(data))); err != nil {
		return nil, connectors.WrapError("put_stream", kind, nil, err)
	}
	if cap(data)-len(data) > len(data)/8 {
		data = append(make([]byte, 0, len(data)), data...) // rather one copy than a third of the memory idle for the object's life
	}
	return w.c.put(data)
}

func (w *writer) Abort() error {
	w.done, w.data = true, nil
	return nil
}
