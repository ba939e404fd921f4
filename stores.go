package proxyplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

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
	log     *slog.Logger

	mu       sync.Mutex
	named    map[string]*Store
	open     map[*Store]struct{} // all that are open here, so that a proxy that comes back finds the store that made it
	received map[string]*opening // opened for received proxies, by name and canonical configuration
	closed   bool
}

// opening is a store that a proxy asked for. Whoever comes second waits for the first.
type opening struct {
	done  chan struct{}
	store *Store
	err   error
}

// StoresOption changes how a Stores works.
type StoresOption func(*Stores)

// WithPolicy sets what received proxies may open. The default is the zero [Policy].
func WithPolicy(p Policy) StoresOption { return func(r *Stores) { r.policy = p } }

// WithStoreOptions sets the options of stores that received proxies open: a cache size, a logger, a decorator.
func WithStoreOptions(opts ...Option) StoresOption { return func(r *Stores) { r.options = opts } }

// WithRegistry sets the drivers that open connectors. The default has every driver of this module.
func WithRegistry(d *connectors.Registry) StoresOption { return func(r *Stores) { r.drivers = d } }

// NewStores returns an empty set.
func NewStores(opts ...StoresOption) *Stores {
	r := &Stores{drivers: defaultDrivers(), named: map[string]*Store{}, open: map[*Store]struct{}{}, received: map[string]*opening{}}
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
		name, err := uniqueName(cfg.Connector)
		if err != nil {
			return nil, err
		}
		cfg.Name = name
	}
	if s, ok := r.Get(cfg.Name); ok {
		if !s.is(cfg.Connector) {
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

// is reports whether cfg, as it came in a proxy or as it was opened, describes this store's connector.
func (s *Store) is(cfg connectors.Config) bool {
	return slices.ContainsFunc(travellingForms(s.drivers, cfg), func(id string) bool { return slices.Contains(s.identity(), id) })
}

// receivedStore returns the store of a received proxy: one of that name and connector that is open here, or one opened under the policy.
func (r *Stores) receivedStore(ctx context.Context, cfg Config) (*Store, error) {
	if s := r.find(cfg); s != nil {
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
		r.mu.Unlock()
		if !ok {
			return r.openFor(ctx, id, o, cfg)
		}
		select {
		case <-o.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if o.err == nil {
			return o.store, nil
		}
		// It failed for somebody else, perhaps because of their context; try on our own account.
	}
}

// find returns an open store of that name and connector, the registered one first.
func (r *Stores) find(cfg Config) *Store {
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
		if s.is(cfg.Connector) {
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
	if err != nil {
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
	opts := append([]Option{WithStores(r), func(so *storeOptions) error {
		so.received, so.secrets = true, r.policy.Secrets
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
		<-o.done
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
