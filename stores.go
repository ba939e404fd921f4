package proxyplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/connectors"
)

// ErrStoreExists is the error of registering a second store under one name.
var ErrStoreExists = errors.New("a store of that name is registered already")

// Stores is a set of stores by name, and the place where received proxies find theirs. A process has a default one ([DefaultStores]); a program
// that keeps users apart makes its own. All methods may be called from many goroutines at once.
type Stores struct {
	drivers *connectors.Registry
	policy  Policy
	options []Option // for the stores that proxies open
	most    int      // stores that proxies may hold open at once

	mu       sync.Mutex
	named    map[string]*Store
	open     map[*Store]struct{} // all that are open here, so that a proxy that comes back finds the store that made it
	received map[string]*opening // opened for received proxies, by name and canonical configuration
	closed   bool
}

// opening is a store that a proxy asked for. Whoever comes second waits for the first.
type opening struct {
	done  chan struct{}
	store *Store // with err, valid once done is closed
	err   error
}

// clock counts uses of received stores, to tell which one was used last.
var clock atomic.Int64

// touch notes that a proxy uses the store, if it was opened for proxies.
func (s *Store) touch() {
	if s.received {
		s.used.Store(clock.Add(1))
	}
}

// maxReceived bounds the stores that received proxies hold open, and receivedCacheBytes each one's cache: whoever sends many proxies of many stores
// must not take all descriptors and memory.
const (
	maxReceived        = 64
	receivedCacheBytes = 32 << 20
)

// StoresOption changes how a Stores works.
type StoresOption func(*Stores)

// WithPolicy sets what received proxies may open. The default is the zero [Policy].
func WithPolicy(p Policy) StoresOption { return func(r *Stores) { r.policy = p } }

// WithStoreOptions sets the options of stores that received proxies open: a cache size, a logger, a decorator.
func WithStoreOptions(opts ...Option) StoresOption { return func(r *Stores) { r.options = opts } }

// WithMaxReceived bounds how many stores received proxies hold open at once. The one that was not used for longest is closed for the next; its proxies
// open it again when they need it. The default is 64.
func WithMaxReceived(n int) StoresOption { return func(r *Stores) { r.most = max(n, 1) } }

// WithRegistry sets the drivers that open connectors. The default has every driver of this module.
func WithRegistry(d *connectors.Registry) StoresOption { return func(r *Stores) { r.drivers = d } }

// NewStores returns an empty set.
func NewStores(opts ...StoresOption) *Stores {
	r := &Stores{drivers: defaultDrivers(), most: maxReceived, named: map[string]*Store{}, open: map[*Store]struct{}{}, received: map[string]*opening{}}
	for _, opt := range opts {
		opt(r)
	}
	return r
}

var defaultStores = sync.OnceValue(func() *Stores { return NewStores() })

// DefaultStores returns the process's own set, which everything uses that was not given another.
func DefaultStores() *Stores { return defaultStores() }

// Register makes a store known by its name, also to received proxies. A name that is taken by another store is [ErrStoreExists].
func (r *Stores) Register(s *Store) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.named[s.name]; ok && old != s {
		return fmt.Errorf("%w: %q; use Get, or another name", ErrStoreExists, s.name)
	}
	r.named[s.name] = s
	return nil
}

// track makes an open store known to received proxies, though not by name.
func (r *Stores) track(s *Store) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[s] = struct{}{}
}

// Unregister forgets a name. An unknown one is not an error.
func (r *Stores) Unregister(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.named, name)
}

// forget removes a store that is being closed.
func (r *Stores) forget(s *Store) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, s)
	if r.named[s.name] == s {
		delete(r.named, s.name)
	}
	for id, o := range r.received {
		if o.store == s {
			delete(r.received, id)
		}
	}
}

// Get returns the store registered under a name.
func (r *Stores) Get(name string) (*Store, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.named[name]
	return s, ok
}

// Names returns the names of the registered stores, sorted.
func (r *Stores) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, len(r.named))
	for n := range r.named {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// GetOrCreate returns the store registered under cfg's name, or opens and registers one. The configuration is trusted: the policy for received
// proxies does not apply. Unlike in Python, a registered store with another connector is an error and not a silent surprise.
func (r *Stores) GetOrCreate(ctx context.Context, cfg Config, opts ...Option) (*Store, error) {
	if cfg.Name == "" {
		name, err := uniqueName(r.drivers, cfg.Connector)
		if err != nil {
			return nil, err
		}
		cfg.Name = name
	}
	if s, ok := r.Get(cfg.Name); ok {
		if !s.is(cfg.Connector, false) && !s.is(cfg.Connector, true) {
			return nil, fmt.Errorf("%w: %q has another connector (%s)", ErrStoreExists, cfg.Name, s.conn.Config().Kind)
		}
		return s, nil
	}
	cfg.AutoRegister = true
	s, err := Open(ctx, cfg, append([]Option{WithStores(r)}, opts...)...)
	if errors.Is(err, ErrStoreExists) { // somebody was faster
		return r.GetOrCreate(ctx, cfg, opts...)
	}
	return s, err
}

// is reports whether cfg describes this store's connector, as a proxy written by Go or by Python carries it.
func (s *Store) is(cfg connectors.Config, python bool) bool {
	form := 0
	if python {
		form = 1
	}
	id := travellingForm(s.drivers, cfg, python)
	return id != "" && slices.Contains(s.identity()[form], id)
}

// receivedStore returns the store of a received proxy: one of that name and connector that is open here, or one opened under the policy. python says
// that Python wrote the configuration, or that it was written for Python.
func (r *Stores) receivedStore(ctx context.Context, cfg Config, python bool) (*Store, error) {
	if s := r.find(cfg, python); s != nil {
		s.touch()
		return s, nil
	}
	canonical, err := cfg.Connector.Canonical()
	if err != nil {
		return nil, err
	}
	id := cfg.Name + "\x00" + string(canonical)
	for {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return nil, fmt.Errorf("stores: %w", connectors.ErrClosed)
		}
		o, ok := r.received[id]
		if !ok {
			o = &opening{done: make(chan struct{})}
			r.received[id] = o
		}
		oldest := r.surplus()
		r.mu.Unlock()
		if oldest != nil { // calls in flight end first; its proxies will look again
			if err := oldest.CloseClear(context.WithoutCancel(ctx), false); err != nil {
				oldest.log.Warn("store of received proxies not closed cleanly", "store", oldest.name, "error", err)
			}
		}
		if !ok {
			return r.openFor(ctx, id, o, cfg)
		}
		select {
		case <-o.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if o.err == nil && !o.store.closed.Load() {
			return o.store, nil
		}
		// It failed for somebody else, perhaps because of their context, or is closed by now; try on our own account.
		r.mu.Lock()
		if r.received[id] == o {
			delete(r.received, id)
		}
		r.mu.Unlock()
	}
}

// surplus returns the store that was not used for longest if there are too many, and forgets it. With the lock held.
func (r *Stores) surplus() *Store {
	if len(r.received) <= r.most {
		return nil
	}
	var oldest string
	for id, o := range r.received {
		if o.store != nil && (oldest == "" || o.store.used.Load() < r.received[oldest].store.used.Load()) {
			oldest = id
		}
	}
	if oldest == "" {
		return nil // all are just being opened
	}
	s := r.received[oldest].store
	delete(r.received, oldest)
	return s
}

// find returns an open store of that name and connector, the registered one first.
func (r *Stores) find(cfg Config, python bool) *Store {
	r.mu.Lock()
	candidates := make([]*Store, 0, 2)
	if s, ok := r.named[cfg.Name]; ok {
		candidates = append(candidates, s)
	}
	for s := range r.open {
		if s.name == cfg.Name {
			candidates = append(candidates, s)
		}
	}
	r.mu.Unlock()
	for _, s := range candidates {
		if !s.closed.Load() && s.is(cfg.Connector, python) {
			return s
		}
	}
	return nil
}

// openFor opens a store for a received proxy. A failure is not remembered.
func (r *Stores) openFor(ctx context.Context, id string, o *opening, cfg Config) (*Store, error) {
	defer close(o.done)
	s, err := r.openReceived(ctx, cfg)
	r.mu.Lock()
	defer r.mu.Unlock()
	o.store, o.err = s, err
	if err != nil || s.closed.Load() {
		delete(r.received, id)
	}
	return s, err
}

func (r *Stores) openReceived(ctx context.Context, cfg Config) (*Store, error) {
	places, err := r.drivers.Locations(cfg.Connector, &connectors.Env{Received: true})
	if err != nil {
		return nil, err
	}
	if err := r.policy.Check(places); err != nil {
		return nil, err
	}
	if len(places) == 1 && places[0].Kind == "local" && cfg.Connector.Options["store_dict"] == nil {
		return nil, errLocalElsewhere
	}
	cfg.AutoRegister = false // a stranger's proxy must not take a name
	opts := append([]Option{WithStores(r), WithCacheBytes(receivedCacheBytes), func(so *storeOptions) error {
		so.received, so.secrets = true, r.policy.Secrets
		so.confirm = func(l connectors.Location) error { return r.policy.Check([]connectors.Location{l}) }
		return nil
	}}, r.options...)
	return Open(ctx, cfg, opts...)
}

// Close closes the stores that received proxies opened, keeping all objects, and forgets the registered ones, which are their makers' to close.
func (r *Stores) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	opened := make([]*opening, 0, len(r.received))
	for _, o := range r.received {
		opened = append(opened, o)
	}
	clear(r.named)
	clear(r.open)
	r.mu.Unlock()
	var errs []error
	for _, o := range opened {
		select {
		case <-o.done:
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("a store that is just being opened: %w", ctx.Err()))
			continue
		}
		if o.err == nil {
			errs = append(errs, o.store.CloseClear(ctx, false))
		}
	}
	return errors.Join(errs...)
}

// GetStore returns the store that a proxy's object is in, opening it if need be.
func GetStore(ctx context.Context, p AnyProxy) (*Store, error) { return p.Store(ctx) }

// GetOrCreate is [Stores.GetOrCreate] of the default Stores.
func GetOrCreate(ctx context.Context, cfg Config, opts ...Option) (*Store, error) {
	return DefaultStores().GetOrCreate(ctx, cfg, opts...)
}
