package multi

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// Every capability is here: what a child lacks, the helpers of package connectors replace, or the method answers errors.ErrUnsupported
// so that the caller's helper does.
var (
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

// NewKey implements connectors.Deferrer; Python's MultiConnector cannot do it. Nothing is known of the object yet, so the key is of the best child
// that has no upper size limit, needs no superset tags, and can defer. Without one it fails with errors.ErrUnsupported.
func (m *Connector) NewKey(ctx context.Context) (connectors.Key, error) {
	if !m.calls.Enter() {
		return nil, connectors.WrapError("new key", "multi", nil, connectors.ErrClosed)
	}
	defer m.calls.Leave()
	for _, c := range m.unsized() {
		conn, err := c.get(ctx)
		if err != nil {
			return nil, connectors.WrapError("new key", "multi", nil, err)
		}
		k, err := connectors.NewKey(ctx, conn)
		if errors.Is(err, errors.ErrUnsupported) {
			continue
		}
		return c.key("new key", k, err)
	}
	return nil, fmt.Errorf("multi new key: no child without max_size_bytes and superset_tags has deferred keys: %w; %s", errors.ErrUnsupported,
		m.describe())
}

// Set implements connectors.Deferrer. The key says which child gets the object. One above that child's max_size_bytes is
// [connectors.ErrTooLarge]. One below min_size_bytes is stored: the minimum says which child suits better, and by now the choice is made; refusing
// would lose the result that somebody waits for.
func (m *Connector) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	_, err := onKey(ctx, m, "set", key, func(c connectors.Connector, k connectors.Key) (nothing, error) {
		name := key.(connectors.MultiKey).ConnectorName
		if limit := m.children[name].policy.maxSize(); obj.Len() > limit {
			return nothing{}, fmt.Errorf("%w: %d bytes; the policy of child %q allows %d", connectors.ErrTooLarge, obj.Len(), name, limit)
		}
		return nothing{}, connectors.Set(ctx, c, k, obj)
	})
	return err
}

// group is the part of a batch that one child gets.
type group struct {
	child *child
	at    []int // positions in the batch
}

// groupBy sorts n things by the child that pick gives for each, in order of first use.
func groupBy(n int, pick func(i int) (*child, error)) ([]*group, error) {
	var groups []*group
	find := map[*child]*group{}
	for i := range n {
		c, err := pick(i)
		if err != nil {
			return nil, err
		}
		g := find[c]
		if g == nil {
			g = &group{child: c}
			find[c] = g
			groups = append(groups, g)
		}
		g.at = append(g.at, i)
	}
	return groups, nil
}

// each runs f for every group, for all at once if there are several, since they go to different places. It returns their errors joined.
func each(ctx context.Context, groups []*group, f func(g *group, conn connectors.Connector) error) error {
	errs := make([]error, len(groups))
	run := func(i int) {
		conn, err := groups[i].child.get(ctx)
		if err == nil {
			err = f(groups[i], conn)
		}
		errs[i] = err
	}
	var wg sync.WaitGroup
	for i := 1; i < len(groups); i++ {
		wg.Go(func() { run(i) })
	}
	if len(groups) > 0 {
		run(0)
	}
	wg.Wait()
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// PutBatch implements connectors.BatchPutter. Each object goes where its own size says. If no policy takes one of them, or a child fails, nothing
// of the batch stays behind that can be removed.
func (m *Connector) PutBatch(ctx context.Context, objs []transport.Slices) ([]connectors.Key, error) {
	if !m.calls.Enter() {
		return nil, connectors.WrapError("put batch", "multi", nil, connectors.ErrClosed)
	}
	defer m.calls.Leave()
	groups, err := groupBy(len(objs), func(i int) (*child, error) { return m.route(objs[i].Len(), connectors.Tags{}) })
	if err != nil {
		return nil, connectors.WrapError("put batch", "multi", nil, err)
	}
	keys := make([]connectors.Key, len(objs))
	err = each(ctx, groups, func(g *group, conn connectors.Connector) error {
		part := make([]transport.Slices, len(g.at))
		for j, i := range g.at {
			part[j] = objs[i]
		}
		inner, err := connectors.PutBatch(ctx, conn, part)
		for j, k := range inner {
			keys[g.at[j]] = connectors.MultiKey{ConnectorName: g.child.name, ConnectorKey: k}
		}
		return err
	})
	if err == nil {
		return keys, nil
	}
	stored := keys[:0]
	for _, k := range keys {
		if k != nil {
			stored = append(stored, k)
		}
	}
	// What is stored must not stay behind even if ctx is what ended the batch.
	err = errors.Join(err, m.evictBatch(context.WithoutCancel(ctx), stored))
	return nil, connectors.WrapError("put batch", "multi", nil, err)
}

// GetBatch implements connectors.BatchGetter.
func (m *Connector) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	if !m.calls.Enter() {
		return nil, connectors.WrapError("get batch", "multi", nil, connectors.ErrClosed)
	}
	defer m.calls.Leave()
	inner := make([]connectors.Key, len(keys))
	groups, err := groupBy(len(keys), func(i int) (*child, error) {
		c, k, err := m.owner(keys[i])
		inner[i] = k
		return c, err
	})
	if err != nil {
		return nil, connectors.WrapError("get batch", "multi", nil, err)
	}
	bufs := make([]*transport.Buffer, len(keys))
	err = each(ctx, groups, func(g *group, conn connectors.Connector) error {
		got, err := connectors.GetBatch(ctx, conn, g.keys(inner))
		for j, b := range got {
			bufs[g.at[j]] = b
		}
		return err
	})
	if err != nil {
		for _, b := range bufs {
			b.Release()
		}
		return nil, connectors.WrapError("get batch", "multi", nil, err)
	}
	return bufs, nil
}

// EvictBatch implements connectors.BatchEvicter. It tries every child, and every key that has one.
func (m *Connector) EvictBatch(ctx context.Context, keys []connectors.Key) error {
	if !m.calls.Enter() {
		return connectors.WrapError("evict batch", "multi", nil, connectors.ErrClosed)
	}
	defer m.calls.Leave()
	return connectors.WrapError("evict batch", "multi", nil, m.evictBatch(ctx, keys))
}

func (m *Connector) evictBatch(ctx context.Context, keys []connectors.Key) error {
	var inner []connectors.Key
	var owners []*child
	var errs []error
	for _, key := range keys {
		c, k, err := m.owner(key)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		owners, inner = append(owners, c), append(inner, k)
	}
	groups, _ := groupBy(len(owners), func(i int) (*child, error) { return owners[i], nil })
	errs = append(errs, each(ctx, groups, func(g *group, conn connectors.Connector) error {
		return connectors.EvictBatch(ctx, conn, g.keys(inner))
	}))
	return errors.Join(errs...)
}

func (g *group) keys(all []connectors.Key) []connectors.Key {
	part := make([]connectors.Key, len(g.at))
	for j, i := range g.at {
		part[j] = all[i]
	}
	return part
}

// GetRange implements connectors.RangeGetter.
func (m *Connector) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	return onKey(ctx, m, "get range", key, func(c connectors.Connector, k connectors.Key) (*transport.Buffer, error) {
		return connectors.GetRange(ctx, c, k, off, n)
	})
}

// GetBytes implements connectors.BytesGetter.
func (m *Connector) GetBytes(ctx context.Context, key connectors.Key) ([]byte, error) {
	return onKey(ctx, m, "get", key, func(c connectors.Connector, k connectors.Key) ([]byte, error) { return connectors.GetBytes(ctx, c, k) })
}

// Map implements connectors.Mapper. It is errors.ErrUnsupported if the child cannot map.
func (m *Connector) Map(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	return onKey(ctx, m, "map", key, func(c connectors.Connector, k connectors.Key) (*transport.Buffer, error) {
		if mapper, ok := connectors.As[connectors.Mapper](c); ok {
			return mapper.Map(ctx, k)
		}
		return nil, errors.ErrUnsupported // not connectors.Map: its fallback may copy, which Map promises not to
	})
}

// Stat implements connectors.Stater.
func (m *Connector) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	return onKey(ctx, m, "stat", key, func(c connectors.Connector, k connectors.Key) (connectors.Info, error) {
		return connectors.Stat(ctx, c, k)
	})
}

// Wait implements connectors.Waiter. It is errors.ErrUnsupported if the child knows no event: connectors.Wait then polls as its caller asked.
func (m *Connector) Wait(ctx context.Context, key connectors.Key) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(m.closing, func() { cancel(connectors.ErrClosed) })()
	_, err := onKey(ctx, m, "wait", key, func(c connectors.Connector, k connectors.Key) (nothing, error) {
		if w, ok := connectors.As[connectors.Waiter](c); ok {
			return nothing{}, w.Wait(ctx, k)
		}
		return nothing{}, errors.ErrUnsupported
	})
	if err != nil && errors.Is(context.Cause(ctx), connectors.ErrClosed) {
		return connectors.WrapError("wait", "multi", key, connectors.ErrClosed)
	}
	return err
}

// GetStream implements connectors.StreamGetter.
func (m *Connector) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	return onKey(ctx, m, "get stream", key, func(c connectors.Connector, k connectors.Key) (connectors.Reader, error) {
		return connectors.GetStream(ctx, c, k)
	})
}

// PutStream implements connectors.StreamPutter. An object of unknown size goes to the best child without an upper size limit; if there is none,
// the caller must say the size, and gets [connectors.ErrNoPolicy].
func (m *Connector) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	if !m.calls.Enter() {
		return nil, connectors.WrapError("put stream", "multi", nil, connectors.ErrClosed)
	}
	defer m.calls.Leave()
	w, err := m.putStream(ctx, size)
	if err != nil {
		return nil, connectors.WrapError("put stream", "multi", nil, err)
	}
	return w, nil
}

func (m *Connector) putStream(ctx context.Context, size int64) (connectors.Writer, error) {
	var c *child
	if size >= 0 {
		var err error
		if c, err = m.route(size, connectors.Tags{}); err != nil {
			return nil, err
		}
	} else if list := m.unsized(); len(list) > 0 {
		c = list[0]
	} else {
		return nil, fmt.Errorf("%w: an object of unknown size, and every child has a largest one; say the size at PutStream; %s",
			connectors.ErrNoPolicy, m.describe())
	}
	conn, err := c.get(ctx)
	if err != nil {
		return nil, err
	}
	w, err := connectors.PutStream(ctx, conn, size)
	if err != nil {
		return nil, err
	}
	return &writer{w, c}, nil
}

// writer is a child's Writer whose key is ours.
type writer struct {
	connectors.Writer
	child *child
}

// Commit implements connectors.Writer.
func (w *writer) Commit() (connectors.Key, error) {
	k, err := w.Writer.Commit()
	return w.child.key("put stream", k, err)
}
