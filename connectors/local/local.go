package local

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/uuid4"
	"github.com/proxyplane/proxyplane/transport"
)

const kind = "local"

// Options configure a Connector. The zero value is a connector with a storage of its own.
type Options struct {
	// Storage names the storage to share with other connectors of this process; default: a new one under a random name.
	Storage string
	// StoreDict is the first content, by id, of a storage that does not exist yet; that of one that does is newer, and is left alone. New
	// copies it.
	StoreDict map[string][]byte
	// IncludeDataInConfig makes Config carry all objects (as store_dict). Very inefficient, only for tests: as in ProxyStore.
	IncludeDataInConfig bool
	// MaxBytes bounds what the storage holds: a put through this connector that would exceed it is ErrTooLarge. 0 or less: no bound.
	MaxBytes int64
}

// Connector stores objects in this process's memory. All methods may be called by many goroutines at once.
type Connector struct {
	st     *storage
	opts   Options       // without StoreDict
	closed atomic.Bool   // looked at under a shard's lock, which is what lets Close drain without counting calls
	gone   chan struct{} // closed with closed, for waiters
	once   sync.Once
	waits  sync.WaitGroup // calls of Wait that are asleep
}

// New returns a connector. It borrows opts.
func New(opts Options) *Connector {
	if opts.Storage == "" {
		opts.Storage = uuid4.New()
	}
	c := &Connector{st: openStorage(opts.Storage, opts.StoreDict), opts: opts, gone: make(chan struct{})}
	c.opts.StoreDict = nil
	return c
}

// start begins an operation on a key.
func start(ctx context.Context, op string, key connectors.Key) (string, error) {
	k, ok := key.(connectors.LocalKey)
	if !ok {
		_, err := connectors.KeyAs[connectors.LocalKey](kind, key)
		return "", connectors.WrapError(op, kind, key, err)
	}
	return k.ID, ctx.Err()
}

func closedError(op string, key connectors.Key) error {
	return &connectors.OpError{Op: op, Kind: kind, Key: key, Err: connectors.ErrClosed}
}

// read lends the bytes of an object; they stay valid for ever. op is for errors.
func (c *Connector) read(ctx context.Context, op string, key connectors.Key) ([]byte, error) {
	id, err := start(ctx, op, key)
	if err != nil {
		return nil, c.orClosed(op, key, err)
	}
	s := c.st.shard(id)
	s.mu.RLock()
	closed := c.closed.Load()
	data, ok := s.objs[id]
	s.mu.RUnlock()
	switch {
	case closed:
		return nil, closedError(op, key)
	case !ok:
		return nil, &connectors.OpError{Op: op, Kind: kind, Key: key, Err: fmt.Errorf(
			"%w in storage %s of this process; it was evicted, or put by another process", connectors.ErrNotFound, c.opts.Storage)}
	}
	return data[:len(data):len(data)], nil
}

// orClosed gives ErrClosed precedence over err.
func (c *Connector) orClosed(op string, key connectors.Key, err error) error {
	if c.closed.Load() {
		return closedError(op, key)
	}
	return err
}

// write stores data, which it takes, under id.
func (c *Connector) write(op, id string, key connectors.Key, data []byte) error {
	s := c.st.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.closed.Load() {
		return closedError(op, key)
	}
	if err := c.account(op, key, int64(len(data)-len(s.objs[id]))); err != nil {
		return err
	}
	if s.objs == nil {
		s.objs = map[string][]byte{}
	}
	s.objs[id] = data
	if w := s.waits[id]; w != nil {
		delete(s.waits, id)
		close(w.set)
	}
	return nil
}

// account adds delta to the storage's size, unless that exceeds the bound.
func (c *Connector) account(op string, key connectors.Key, delta int64) error {
	total := c.st.bytes.Add(delta)
	if c.opts.MaxBytes > 0 && delta > 0 && total > c.opts.MaxBytes {
		c.st.bytes.Add(-delta)
		return c.tooLarge(op, key, total)
	}
	return nil
}

func (c *Connector) tooLarge(op string, key connectors.Key, total int64) error {
	return &connectors.OpError{Op: op, Kind: kind, Key: key, Err: fmt.Errorf(
		"%w: storage %s would hold %d bytes and max_bytes is %d; evict objects or raise max_bytes",
		connectors.ErrTooLarge, c.opts.Storage, total, c.opts.MaxBytes)}
}

// keep copies an object that was only lent.
func (c *Connector) keep(op string, key connectors.Key, obj transport.Slices) ([]byte, error) {
	n := obj.Len()
	if c.opts.MaxBytes > 0 && n > c.opts.MaxBytes {
		return nil, c.tooLarge(op, key, n) // before memory is taken for it
	}
	return bytes.Join(obj, nil), nil // one allocation that is not cleared first
}

// Put implements [connectors.Connector]. It copies obj once.
func (c *Connector) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	if err := c.ready(ctx, "put"); err != nil {
		return nil, err
	}
	data, err := c.keep("put", nil, obj)
	if err != nil {
		return nil, err
	}
	return c.put(data)
}

// PutOwned is Put without the copy: it takes obj, which nobody may write any more, unless it fails.
func (c *Connector) PutOwned(ctx context.Context, obj []byte) (connectors.Key, error) {
	if err := c.ready(ctx, "put"); err != nil {
		return nil, err
	}
	return c.put(obj)
}

func (c *Connector) put(data []byte) (connectors.Key, error) {
	id := uuid4.New()
	if err := c.write("put", id, nil, data); err != nil {
		return nil, err
	}
	return connectors.LocalKey{ID: id}, nil
}

// ready checks what an operation without a key checks.
func (c *Connector) ready(ctx context.Context, op string) error {
	if c.closed.Load() {
		return closedError(op, nil)
	}
	return ctx.Err()
}

// Get implements [connectors.Connector]. The Buffer stands on the stored bytes.
func (c *Connector) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	data, err := c.read(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	return transport.FromBytes(data), nil
}

// Exists implements [connectors.Connector].
func (c *Connector) Exists(ctx context.Context, key connectors.Key) (bool, error) {
	id, err := start(ctx, "exists", key)
	if err != nil {
		return false, c.orClosed("exists", key, err)
	}
	s := c.st.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c.closed.Load() {
		return false, closedError("exists", key)
	}
	_, ok := s.objs[id]
	return ok, nil
}

// Evict implements [connectors.Connector]. Buffers over the object stay valid.
func (c *Connector) Evict(ctx context.Context, key connectors.Key) error {
	id, err := start(ctx, "evict", key)
	if err != nil {
		return c.orClosed("evict", key, err)
	}
	s := c.st.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.closed.Load() {
		return closedError("evict", key)
	}
	c.st.bytes.Add(-int64(len(s.objs[id])))
	delete(s.objs, id)
	return nil
}

// Config implements [connectors.Connector]. With include_data_in_config it copies every object, as they are now.
func (c *Connector) Config() connectors.Config {
	opts := map[string]any{"include_data_in_config": c.opts.IncludeDataInConfig, "storage": c.opts.Storage}
	if c.opts.MaxBytes > 0 {
		opts["max_bytes"] = c.opts.MaxBytes
	}
	if c.opts.IncludeDataInConfig {
		opts["store_dict"] = c.st.snapshot()
	}
	return connectors.Config{Kind: Driver().Class.String(), Options: opts}
}

// Close implements [connectors.Connector]. It never blocks for long, so that it does without ctx.
func (c *Connector) Close(ctx context.Context) error { return c.CloseClear(ctx, false) }

// CloseClear implements [connectors.ClearCloser]. With clear the storage is emptied for its other connectors too.
func (c *Connector) CloseClear(_ context.Context, clear bool) error {
	c.once.Do(func() {
		c.closed.Store(true)
		close(c.gone)
		c.st.drain(clear)
		c.waits.Wait()
		c.st.release()
	})
	return nil
}

// numShards keeps goroutines on many cores out of each other's way. A power of two.
const numShards = 32

// storage is a named set of objects of this process.
type storage struct {
	name   string
	refs   int // under storages.mu
	bytes  atomic.Int64
	shards [numShards]shard
}

type shard struct {
	mu    sync.RWMutex
	objs  map[string][]byte  // the bytes are never written
	waits map[string]*waiter // who waits for objects that are not there
	_     [64]byte           // locks of two shards do not share a cache line
}

// waiter is what all calls of Wait for one id wait on.
type waiter struct {
	set chan struct{} // closed when the object is there
	n   int           // calls, under the shard's lock
}

var storages = struct {
	mu     sync.Mutex
	byName map[string]*storage
}{byName: map[string]*storage{}}

func openStorage(name string, first map[string][]byte) *storage {
	storages.mu.Lock()
	defer storages.mu.Unlock()
	st := storages.byName[name]
	if st == nil {
		st = &storage{name: name}
		for id, data := range first {
			s := st.shard(id)
			if s.objs == nil {
				s.objs = map[string][]byte{}
			}
			s.objs[id] = append(make([]byte, 0, len(data)), data...)
			st.bytes.Add(int64(len(data)))
		}
		storages.byName[name] = st
	}
	st.refs++
	return st
}

// shard returns where id belongs. FNV-1a: ids are 36 random bytes at most, and an uneven spread costs speed only.
func (st *storage) shard(id string) *shard {
	h := uint32(2166136261)
	for i := range min(len(id), 16) {
		h = (h ^ uint32(id[i])) * 16777619
	}
	return &st.shards[h%numShards]
}

// drain returns when every operation that began before it has left its shard.
func (st *storage) drain(clear bool) {
	for i := range st.shards {
		s := &st.shards[i]
		s.mu.Lock()
		if clear {
			s.drop(st)
		}
		s.mu.Unlock()
	}
}

func (s *shard) drop(st *storage) {
	for _, data := range s.objs {
		st.bytes.Add(-int64(len(data)))
	}
	s.objs = nil
}

// release drops one connector's hold. With the last one all objects go, even if somebody still holds the closed connector.
func (st *storage) release() {
	storages.mu.Lock()
	defer storages.mu.Unlock()
	if st.refs--; st.refs == 0 {
		delete(storages.byName, st.name)
		st.drain(true)
	}
}

// snapshot copies all objects, by id.
func (st *storage) snapshot() map[string]any {
	all := map[string]any{}
	for i := range st.shards {
		s := &st.shards[i]
		s.mu.RLock()
		objs := maps.Clone(s.objs)
		s.mu.RUnlock()
		for id, data := range objs {
			all[id] = append(make([]byte, 0, len(data)), data...)
		}
	}
	return all
}
