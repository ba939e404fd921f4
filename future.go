package proxyplane

import (
	"context"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/metrics"
)

// Polling is how a future's proxy waits for its object where the connector knows no event, and for how long in any case: ProxyStore's four
// polling options. Python readers use exactly these.
type Polling = connectors.Polling

// A Future is a value that does not exist yet. Its proxy can be handed out at once and resolves as soon as somebody, in whatever process,
// calls Set. All methods may be called from many goroutines at once.
type Future[T any] struct {
	ref reference
	put putOptions
}

// NewFuture returns a future of an object in s, whose connector must be able to make keys before objects (errors.ErrUnsupported otherwise). Of
// the options Evict applies to its proxies, and As to Set.
func NewFuture[T any](ctx context.Context, s *Store, p Polling, opts ...PutOption) (*Future[T], error) {
	o := putOpts(opts)
	if o.evict && o.lifetime != nil {
		return nil, errEvictAndLifetime
	}
	ctx, op := s.begin(ctx, metrics.Future)
	start := s.now()
	key, err := connectors.NewKey(ctx, s.conn)
	s.stage(metrics.FutureConnector, key, start)
	if err == nil && o.lifetime != nil {
		err = o.lifetime.Add(s, key)
	}
	op.end(ctx, key, -1, err)
	if err != nil {
		return nil, err
	}
	return &Future[T]{put: o, ref: reference{key: key, evict: o.evict, polling: &p, store: s, stores: s.stores}}, nil
}

// Key returns the key that the object will have.
func (f *Future[T]) Key() Key { return f.ref.key }

// Set stores the value. It borrows v. Setting again replaces the object, but not what others have resolved already.
func (f *Future[T]) Set(ctx context.Context, v T) error {
	if err := f.ref.store.set(ctx, f.ref.key, v, f.put); err != nil {
		return err
	}
	if f.put.lifetime != nil { // which may have ended before there was anything to evict
		return f.ref.store.attach(ctx, f.put.lifetime, f.ref.key)
	}
	return nil
}

// Done reports whether the value is there.
func (f *Future[T]) Done(ctx context.Context) (bool, error) {
	return f.ref.store.Exists(ctx, f.ref.key)
}

// Result waits for the value: by event where the connector can, else by polling; no longer than Polling.Timeout ([ErrNotFound]) or ctx. If the
// future was made with Evict, it evicts the object.
func (f *Future[T]) Result(ctx context.Context) (T, error) { return f.Proxy().Resolve(ctx) }

// Proxy returns a proxy that resolves once the value is there.
func (f *Future[T]) Proxy() *Proxy[T] { return &Proxy[T]{ref: f.ref} }
