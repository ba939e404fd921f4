package dim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/uuid4"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
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
)

// window is how many calls of a batch are under way at once: enough to hide the round trip.
const window = 16

// NewKey implements [connectors.Deferrer]. The object will be at this connector's own server. It asks nobody.
func (c *Connector) NewKey(ctx context.Context) (connectors.Key, error) {
	if err := c.enter(ctx, "new_key", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	at, err := c.home(ctx)
	if err != nil {
		return nil, c.wrap("new_key", nil, err)
	}
	return newKey(at, uuid4.New(), 0), nil
}

// Set implements [connectors.Deferrer]. The object goes to the server that the key names.
func (c *Connector) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	k, at, err := c.start(ctx, "set", key)
	if err != nil {
		return err
	}
	defer c.gate.Leave()
	return c.wrap("set", key, c.do(ctx, at, func(cl objects.Client) error { return cl.Put(ctx, k.ObjID, obj, c.puts) }))
}

// GetRange implements [connectors.RangeGetter].
func (c *Connector) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	return c.get(ctx, "get_range", key, off, n)
}

// GetBytes implements [connectors.BytesGetter].
func (c *Connector) GetBytes(ctx context.Context, key connectors.Key) (p []byte, err error) {
	k, at, err := c.start(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	err = c.do(ctx, at, func(cl objects.Client) (err error) {
		p, err = cl.GetBytes(ctx, k.ObjID, sizeHint(k))
		return err
	})
	return p, c.wrap("get", key, err)
}

// Map implements [connectors.Mapper]: a mapping of the server's memory, on the same host and over a transport that passes files; the stored bytes
// themselves, if the server is in this process.
func (c *Connector) Map(ctx context.Context, key connectors.Key) (b *transport.Buffer, err error) {
	k, at, err := c.start(ctx, "map", key)
	if err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	err = c.do(ctx, at, func(cl objects.Client) (err error) {
		b, err = cl.Map(ctx, k.ObjID)
		return err
	})
	return b, c.wrap("map", key, err)
}

// Stat implements [connectors.Stater].
func (c *Connector) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	k, at, err := c.start(ctx, "stat", key)
	if err != nil {
		return connectors.Info{}, err
	}
	defer c.gate.Leave()
	var info objects.Info
	err = c.do(ctx, at, func(cl objects.Client) (err error) {
		info, err = cl.Stat(ctx, k.ObjID)
		return err
	})
	return connectors.Info(info), c.wrap("stat", key, err)
}

// Wait implements [connectors.Waiter]. The server tells when the object is there.
func (c *Connector) Wait(ctx context.Context, key connectors.Key) error {
	k, at, err := c.start(ctx, "wait", key)
	if err != nil {
		return err
	}
	defer c.gate.Leave()
	inner, cancel := c.bound(ctx)
	defer cancel()
	return c.wrap("wait", key, c.ended(ctx, c.explain(at, c.wait(inner, at, k.ObjID))))
}

// wait waits as long as the server can be reached: connections may break as often as they like.
func (c *Connector) wait(ctx context.Context, at peer, id string) error {
	if l, ok := c.inside(at); ok {
		return l.Wait(ctx, id)
	}
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		cn, err := c.pool.get(ctx, at)
		if err != nil {
			return err
		}
		err = cn.client.Wait(ctx, id)
		c.pool.put(at, cn, err)
		if !broken(err) || ctx.Err() != nil {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// bound returns a context that ends with ctx, and when the connector's Close begins.
func (c *Connector) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.life, cancel)
	return inner, func() {
		stop()
		cancel()
	}
}

// ended gives an error the cause that it had: the caller's context, or the connector's Close.
func (c *Connector) ended(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case c.life.Err() != nil:
		return connectors.ErrClosed
	}
	return err
}

// each calls fn for 0 to n-1, some at the same time, and returns the first error. After one it begins no more.
func each(n int, fn func(i int) error) error {
	if n == 1 {
		return fn(0)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	next, failed := 0, error(nil)
	for range min(n, window) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := i >= n || failed != nil
				mu.Unlock()
				if stop {
					return
				}
				if err := fn(i); err != nil {
					mu.Lock()
					if failed == nil {
						failed = err
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return failed
}

// PutBatch implements [connectors.BatchPutter]: many puts at the same time, taken back on error.
func (c *Connector) PutBatch(ctx context.Context, objs []transport.Slices) ([]connectors.Key, error) {
	if err := c.enter(ctx, "put_batch", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	at, err := c.home(ctx)
	if err != nil {
		return nil, c.wrap("put_batch", nil, err)
	}
	keys := make([]connectors.Key, len(objs))
	err = each(len(objs), func(i int) error {
		key, err := c.put(ctx, at, objs[i])
		if err != nil {
			return fmt.Errorf("object %d: %w", i, err)
		}
		keys[i] = key
		return nil
	})
	if err == nil {
		return keys, nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
	defer cancel()
	undone := each(len(keys), func(i int) error {
		if keys[i] == nil {
			return nil
		}
		return c.evict(undo, at, keys[i].(connectors.DIMKey).ObjID)
	})
	if undone != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w; what was stored of the batch stays behind: %w", err, undone)
	}
	return nil, c.wrap("put_batch", nil, contextError(ctx, err))
}

// contextError returns the context's error where that is what ended a call.
func contextError(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// places returns where the objects of keys are.
func (c *Connector) places(op string, keys []connectors.Key) ([]connectors.DIMKey, []peer, error) {
	ks, ats := make([]connectors.DIMKey, len(keys)), make([]peer, len(keys))
	for i, key := range keys {
		var err error
		if ks[i], ats[i], err = c.place(key); err != nil {
			return nil, nil, c.wrap(op, key, err)
		}
	}
	return ks, ats, nil
}

// GetBatch implements [connectors.BatchGetter]: many gets at the same time, from as many servers as the keys name.
func (c *Connector) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	if err := c.enter(ctx, "get_batch", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	ks, ats, err := c.places("get_batch", keys)
	if err != nil {
		return nil, err
	}
	bufs := make([]*transport.Buffer, len(keys))
	err = each(len(keys), func(i int) error {
		b, err := c.fetch(ctx, ats[i], ks[i], 0, -1)
		if errors.Is(err, connectors.ErrNotFound) {
			return nil
		}
		bufs[i] = b
		return c.wrap("get_batch", keys[i], err)
	})
	if err != nil {
		for _, b := range bufs {
			b.Release()
		}
		return nil, err
	}
	return bufs, nil
}

// EvictBatch implements [connectors.BatchEvicter]. A bad key fails the call before anything is deleted.
func (c *Connector) EvictBatch(ctx context.Context, keys []connectors.Key) error {
	if err := c.enter(ctx, "evict_batch", nil); err != nil {
		return err
	}
	defer c.gate.Leave()
	ks, ats, err := c.places("evict_batch", keys)
	if err != nil {
		return err
	}
	return each(len(keys), func(i int) error { return c.wrap("evict_batch", keys[i], c.evict(ctx, ats[i], ks[i].ObjID)) })
}
