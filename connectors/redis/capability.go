package redis

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

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
	_ connectors.Stater       = (*Connector)(nil)
	_ connectors.Waiter       = (*Connector)(nil)
	_ connectors.ClearCloser  = (*Connector)(nil)
)

const (
	// window is how many commands of a batch are under way at once: enough to hide the round trip, few enough for the server to buffer their
	// replies.
	window = 64
	// msetBytes is the most that goes into one MSET. The server holds a command whole, and cuts off who sends more than its
	// client-query-buffer-limit (1 GB).
	msetBytes = 256 << 20
)

// GetBytes implements [connectors.BytesGetter].
func (c *Connector) GetBytes(ctx context.Context, key connectors.Key) ([]byte, error) {
	id, err := c.start(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	var p []byte
	var found bool
	err = c.query(ctx, "GET", id, func(cn *conn) (err error) {
		p, found, err = cn.bytes(c.opts.MaxBytes)
		return err
	})
	if err != nil {
		return nil, wrap("get", key, err)
	}
	if !found {
		return nil, c.missing("get", key)
	}
	return p, nil
}

// size reads the answers to STRLEN and EXISTS, which together tell an empty object from none.
func size(cn *conn) (n int64, found bool, err error) {
	n, err = cn.int()
	if cn.broken {
		return 0, false, err
	}
	exists, err2 := cn.int()
	if err == nil {
		err = err2
	}
	return n, exists > 0, err
}

// writeSize adds the commands that size reads the answers of.
func writeSize(cn *conn, id string) {
	cn.command(2, "STRLEN")
	cn.arg(id)
	cn.command(2, "EXISTS")
	cn.arg(id)
}

// Stat implements [connectors.Stater], in one round trip. Redis does not know the time.
func (c *Connector) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	id, err := c.start(ctx, "stat", key)
	if err != nil {
		return connectors.Info{}, err
	}
	defer c.gate.Leave()
	var n int64
	var found bool
	err = c.exec(ctx, id, func(cn *conn) (err error) {
		writeSize(cn, id)
		if err := cn.flush(); err != nil {
			return err
		}
		n, found, err = size(cn)
		return err
	})
	if err != nil {
		return connectors.Info{}, wrap("stat", key, err)
	}
	if !found {
		return connectors.Info{}, c.missing("stat", key)
	}
	return connectors.Info{Size: n}, nil
}

// errChanged means that the object was replaced between two commands of one call.
var errChanged = fmt.Errorf("%w: the object is replaced again and again while a part of it is read", connectors.ErrUnavailable)

// GetRange implements [connectors.RangeGetter], in one round trip.
func (c *Connector) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	id, err := c.start(ctx, "get_range", key)
	if err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	for range maxHops {
		b, err := c.part(ctx, id, key, off, n)
		if err != errChanged {
			return b, wrap("get_range", key, err)
		}
	}
	return nil, wrap("get_range", key, errChanged)
}

func (c *Connector) part(ctx context.Context, id string, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	last := int64(-1) // to the end
	switch {
	case n >= 0 && off >= 0 && n <= math.MaxInt64-off:
		last = max(off+n-1, 0)
	}
	var b *transport.Buffer
	var length int64
	var found bool
	err := c.exec(ctx, id, func(cn *conn) error {
		writeSize(cn, id)
		ask := off >= 0 && n != 0
		if ask {
			cn.command(4, "GETRANGE")
			cn.arg(id)
			cn.number(off)
			cn.number(last)
		}
		if err := cn.flush(); err != nil {
			return err
		}
		var err error
		length, found, err = size(cn)
		if cn.broken || !ask {
			return err
		}
		var err2 error
		b, _, err2 = cn.buffer(c.opts.MaxBytes)
		if err == nil {
			err = err2
		}
		if err != nil {
			b.Release()
			b = nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if !found {
		b.Release()
		return nil, c.missing("get_range", key)
	}
	want, err := connectors.ClipRange(length, off, n)
	if err != nil {
		b.Release()
		return nil, err
	}
	if b == nil {
		return transport.FromBytes(nil), nil
	}
	if int64(b.Len()) != want {
		b.Release()
		return nil, errChanged
	}
	return b, nil
}

// masters returns the servers that hold objects.
func (c *Connector) masters(ctx context.Context) ([]string, error) {
	if cl, ok := c.router.(*cluster); ok {
		return cl.masters(ctx)
	}
	addr, err := c.router.addr(ctx, "")
	if err != nil {
		return nil, explain(err, "")
	}
	return []string{addr}, nil
}

// many runs one command per id, pipelined, on each id's server. write adds the i-th command and read reads its one reply; both may run again for
// an i whose reply did not come. It returns the first error, after the replies of all other commands were read if the connection allows that.
func (c *Connector) many(ctx context.Context, ids []string, write func(cn *conn, i int), read func(cn *conn, i int) error) error {
	groups, err := c.group(ctx, ids)
	if err != nil {
		return explain(err, "")
	}
	if len(groups) == 1 {
		for addr, group := range groups {
			return c.pipeline(ctx, addr, ids, group, write, read)
		}
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(groups))
	for addr, group := range groups {
		wg.Go(func() { errs <- c.pipeline(ctx, addr, ids, group, write, read) })
	}
	wg.Wait()
	close(errs)
	for e := range errs {
		if err == nil {
			err = e
		}
	}
	return err
}

// group returns the indexes of ids by server.
func (c *Connector) group(ctx context.Context, ids []string) (map[string][]int, error) {
	groups := map[string][]int{}
	_, split := c.router.(*cluster)
	addr := ""
	for i, id := range ids {
		if split || i == 0 {
			var err error
			if addr, err = c.router.addr(ctx, id); err != nil {
				return nil, err
			}
		}
		groups[addr] = append(groups[addr], i)
	}
	return groups, nil
}

// pipeline is many on one server.
func (c *Connector) pipeline(ctx context.Context, addr string, ids []string, group []int, write func(*conn, int), read func(*conn, int) error) error {
	var moved []int
	var failed error
	err := c.pool.turn(ctx)
	if err != nil {
		return err
	}
	err = c.execAt(ctx, nil, addr, func(cn *conn) error {
		moved, failed = nil, nil
		for sent, got := 0, 0; got < len(group); {
			for ; sent < len(group) && sent-got < window; sent++ {
				write(cn, group[sent])
			}
			if len(cn.out) > 0 {
				if err := cn.flush(); err != nil {
					return err
				}
			}
			// Half of them, so that the server has the next ones before it is done.
			for enough := min(got+window/2, len(group)); got < enough; got++ {
				err := read(cn, group[got])
				var se *serverError
				switch {
				case cn.broken:
					return err
				case errors.As(err, &se):
					if _, _, ok := redirect(se, addr); ok && c.opts.Cluster {
						moved = append(moved, group[got])
						continue
					}
					err = explain(err, addr)
				}
				if failed == nil {
					failed = err
				}
			}
		}
		return nil
	})
	c.pool.endTurn()
	if err != nil {
		return err
	}
	for _, i := range moved {
		if failed != nil {
			break
		}
		failed = c.exec(ctx, ids[i], func(cn *conn) error {
			write(cn, i)
			if err := cn.flush(); err != nil {
				return err
			}
			return read(cn, i)
		})
	}
	return failed
}

// PutBatch implements [connectors.BatchPutter]. On one server a batch of up to 256 MiB without ttl is one MSET: all or nothing. Otherwise it is
// pipelined, and taken back on error.
func (c *Connector) PutBatch(ctx context.Context, objs []transport.Slices) ([]connectors.Key, error) {
	if err := c.enter(ctx, "put_batch", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	ids := make([]string, len(objs))
	keys := make([]connectors.Key, len(objs))
	var total int64
	for i, obj := range objs {
		n := obj.Len()
		if err := c.checkSize(n); err != nil {
			return nil, wrap("put_batch", nil, fmt.Errorf("object %d: %w", i, err))
		}
		total += n
		ids[i] = uuid4.New()
		keys[i] = connectors.RedisKey{RedisKey: ids[i]}
	}
	for _, id := range ids {
		c.made.add(id)
	}
	var err error
	switch {
	case len(objs) == 0:
	case !c.opts.Cluster && c.opts.TTL == 0 && total <= msetBytes:
		err = c.exec(ctx, ids[0], func(cn *conn) error {
			cn.command(1+2*len(ids), "MSET")
			for i, id := range ids {
				cn.arg(id)
				cn.value(objs[i])
			}
			if err := cn.flush(); err != nil {
				return err
			}
			err := cn.status("OK")
			if cn.broken {
				cn.takeBack(ids...)
			}
			return err
		})
	default:
		err = c.many(ctx, ids, func(cn *conn, i int) { c.writeSet(cn, ids[i], objs[i]) }, func(cn *conn, i int) error {
			err := cn.status("OK")
			if cn.broken {
				cn.takeBack(ids...) // also those that went before on this connection; another server ignores what is not its own
			}
			return err
		})
	}
	if err != nil {
		undo, cancel := afterwards(ctx)
		defer cancel()
		if e := c.evictMany(undo, ids); e != nil {
			err = fmt.Errorf("%w; what was stored of the batch stays behind: %w", err, e)
		}
		return nil, wrap("put_batch", nil, err)
	}
	return keys, nil
}

// ids returns the Redis keys of keys.
func (c *Connector) ids(op string, keys []connectors.Key) ([]string, error) {
	ids := make([]string, len(keys))
	for i, key := range keys {
		id, err := idOf(key)
		if err != nil {
			return nil, wrap(op, key, err)
		}
		ids[i] = id
	}
	return ids, nil
}

// GetBatch implements [connectors.BatchGetter]: pipelined GETs, each value in memory of its own. The objects need not be of one instant.
func (c *Connector) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	if err := c.enter(ctx, "get_batch", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	ids, err := c.ids("get_batch", keys)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	bufs := make([]*transport.Buffer, len(ids))
	err = c.many(ctx, ids, func(cn *conn, i int) {
		cn.command(2, "GET")
		cn.arg(ids[i])
	}, func(cn *conn, i int) (err error) {
		bufs[i], _, err = cn.buffer(c.opts.MaxBytes)
		return err
	})
	if err != nil {
		for _, b := range bufs {
			b.Release()
		}
		return nil, wrap("get_batch", nil, err)
	}
	return bufs, nil
}

// EvictBatch implements [connectors.BatchEvicter]. A bad key fails the call before anything is deleted.
func (c *Connector) EvictBatch(ctx context.Context, keys []connectors.Key) error {
	if err := c.enter(ctx, "evict_batch", nil); err != nil {
		return err
	}
	defer c.gate.Leave()
	ids, err := c.ids("evict_batch", keys)
	if err != nil {
		return err
	}
	return wrap("evict_batch", nil, c.evictMany(ctx, ids))
}

func (c *Connector) evictMany(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	err := c.many(ctx, ids, func(cn *conn, i int) {
		cn.command(2, "DEL")
		cn.arg(ids[i])
	}, func(cn *conn, _ int) error {
		_, err := cn.int()
		return err
	})
	if err == nil {
		for _, id := range ids {
			c.made.remove(id)
		}
	}
	return err
}
