package proxyplane

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/metrics"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// Flavour is which of ProxyStore's proxy classes a proxy is.
type Flavour uint8

// The flavours. All but Plain follow ProxyStore's ownership rules; see [Owned].
const (
	Plain Flavour = iota
	OwnedFlavour
	RefFlavour
	RefMutFlavour
)

// String returns Python's class name.
func (f Flavour) String() string {
	names := [...]string{"Proxy", "OwnedProxy", "RefProxy", "RefMutProxy"}
	if int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("flavour(%d)", uint8(f))
}

// reference is all of a proxy but its target: what travels, and the store once it is known. It is the same for every T.
type reference struct {
	key     Key
	evict   bool
	flavour Flavour
	class   connectors.Class    // Python class of the target, empty if unknown
	polling *connectors.Polling // of a future's proxy
	foreign string              // a Python deserializer that the object needs, empty for ProxyStore's own

	store    *Store  // nil until the proxy is resolved, if it was received
	stores   *Stores // where to look for it; nil means the default
	received *Config // as it came; nil if the proxy was made here
	form     string  // in which form it came
}

// A Proxy stands for an object of type T that is in a store. It is small, travels in many forms (see [Proxy.Pickle], [Proxy.MarshalJSON]), and
// fetches its object when Resolve is called. Use it by pointer. All methods may be called from many goroutines at once, except those that decode
// into it.
type Proxy[T any] struct {
	ref    reference
	target atomic.Pointer[target[T]]

	mu     sync.Mutex
	flight *flight // of whoever is fetching, else nil
	age    int     // counts what made an older fetch worthless: Forget, an update
}

// flight is one fetch on behalf of all who ask meanwhile.
type flight struct {
	done chan struct{} // made by the first who waits
	err  error         // set before done is closed
}

// target is a resolved proxy's object. One target may be in the cache and in many proxies at once, so it does not change.
type target[T any] struct {
	v       T
	size    int64             // of the object in bytes
	obj     *transport.Buffer // for views instead of v: the object that each resolver gets a view of
	codecs  *serialize.Codecs // that make the view
	cleanup runtime.Cleanup   // for views, which are never shared: gives obj back with the proxy
}

// NewProxy stores v and returns a proxy of it. It borrows v, except that with PopulateTarget (ProxyStore's default) the proxy keeps v as its
// resolved target, so that v must not change any more. nil and bool are [ErrNotProxiable], as in ProxyStore.
func NewProxy[T any](ctx context.Context, s *Store, v T, opts ...PutOption) (*Proxy[T], error) {
	o := putOpts(opts)
	if err := checkProxiable(v, o); err != nil {
		return nil, err
	}
	ctx, op := s.begin(ctx, metrics.Proxy)
	key, err := s.Put(ctx, v, opts...)
	op.end(ctx, key, -1, err)
	if err != nil {
		return nil, err
	}
	return proxyOf(s, key, v, o), nil
}

// ProxyBatch stores many values at once and returns their proxies in order.
func ProxyBatch[T any](ctx context.Context, s *Store, values []T, opts ...PutOption) ([]*Proxy[T], error) {
	o := putOpts(opts)
	objs := make([]any, len(values))
	for i, v := range values {
		if err := checkProxiable(v, o); err != nil {
			return nil, fmt.Errorf("value %d of the batch: %w", i, err)
		}
		objs[i] = v
	}
	start := s.now()
	keys, err := s.PutBatch(ctx, objs, opts...)
	if err != nil {
		return nil, err
	}
	if s.metrics != nil {
		defer func() { s.metrics.AddTime(metrics.ProxyBatch, keysID(keys), time.Since(start)) }()
	}
	proxies := make([]*Proxy[T], len(keys))
	for i, key := range keys {
		proxies[i] = proxyOf(s, key, values[i], o)
	}
	return proxies, nil
}

// ProxyFromKey returns a proxy of an object that is in the store already; it contacts nothing. Of the options only Evict and InLifetime apply.
func ProxyFromKey[T any](s *Store, key Key, opts ...PutOption) (*Proxy[T], error) {
	if key == nil {
		return nil, fmt.Errorf("%w: nil", connectors.ErrInvalidKey)
	}
	o := putOpts(opts)
	if o.evict && o.lifetime != nil {
		return nil, errEvictAndLifetime
	}
	if o.lifetime != nil {
		if err := o.lifetime.Add(s, key); err != nil {
			return nil, err
		}
	}
	return &Proxy[T]{ref: reference{key: key, evict: o.evict, store: s, stores: s.stores}}, nil
}

var errEvictAndLifetime = fmt.Errorf("%w: Evict and InLifetime exclude each other; use one of them", ErrConfig)

func checkProxiable(v any, o putOptions) error {
	if o.evict && o.lifetime != nil {
		return errEvictAndLifetime
	}
	r := reflect.ValueOf(v)
	for r.Kind() == reflect.Pointer && !r.IsNil() {
		r = r.Elem()
	}
	switch {
	case v == nil, r.Kind() == reflect.Bool, r.Kind() == reflect.Pointer:
		return fmt.Errorf("%w: %T, since a proxy of Python's None, True or False would be true for every test; put it by value", ErrNotProxiable, v)
	}
	return nil
}

// proxyOf makes the proxy of a value that was just put.
func proxyOf[T any](s *Store, key Key, v T, o putOptions) *Proxy[T] {
	p := &Proxy[T]{ref: reference{key: key, evict: o.evict, store: s, stores: s.stores}}
	if t := reflect.TypeFor[T](); t.Kind() == reflect.Interface { // what T does not tell when the proxy travels
		p.ref.class = pythonClass(reflect.TypeOf(v))
	}
	populate := s.cfg.PopulateTarget
	if o.populate != nil {
		populate = *o.populate
	}
	if populate && !o.raw && keepable(v) {
		p.target.Store(&target[T]{v: v})
	}
	return p
}

// keepable reports whether a proxy may hold v itself: a view is its maker's to release.
func keepable(v any) bool {
	_, counted := v.(releaser)
	return !counted
}

// LockedProxy stores v and returns its proxy locked, so that passing it through code that resolves whatever it can does not resolve this one.
func LockedProxy[T any](ctx context.Context, s *Store, v T, opts ...PutOption) (Locked[T], error) {
	p, err := NewProxy(ctx, s, v, opts...)
	return Locked[T]{p}, err
}

// Locked holds a proxy that cannot be resolved by accident. It is ProxyStore's ProxyLocker.
type Locked[T any] struct{ p *Proxy[T] }

// Unlock returns the proxy.
func (l Locked[T]) Unlock() *Proxy[T] { return l.p }

// Key returns the key of the proxy's object.
func (p *Proxy[T]) Key() Key { return p.ref.key }

// Evicts reports whether resolving the proxy evicts its object.
func (p *Proxy[T]) Evicts() bool { return p.ref.evict }

// Flavour tells which of ProxyStore's proxy classes the proxy is.
func (p *Proxy[T]) Flavour() Flavour { return p.ref.flavour }

// Resolved reports whether Resolve would return at once, without store or network.
func (p *Proxy[T]) Resolved() bool { return p.target.Load() != nil }

// Bind makes a received proxy find its store in r instead of in the process's default Stores. Call it before Resolve.
func (p *Proxy[T]) Bind(r *Stores) { p.ref.stores = r }

// Store returns the store that the proxy's object is in: the one that made it, one that is open here under its name with an equal connector, or else
// one opened now if the policy for received proxies allows it. It stays open until its Stores are closed, or need the place for another.
func (p *Proxy[T]) Store(ctx context.Context) (*Store, error) {
	p.mu.Lock()
	ref := p.ref
	p.mu.Unlock()
	var s *Store
	var err error
	switch {
	case ref.store != nil && !ref.store.closed.Load():
		ref.store.touch()
		return ref.store, nil
	case ref.received != nil:
		s, err = ref.home().receivedStore(ctx, *ref.received, strings.HasPrefix(ref.form, "pickle"))
	case ref.store == nil:
		return nil, errEmptyProxy
	default: // it was closed, and perhaps opened again
		if s = ref.home().find(ref.store.Config(), false); s == nil {
			return ref.store, nil // whose errors say that it is closed
		}
	}
	if err != nil {
		return nil, fmt.Errorf("proxy of %s: %w", connectors.FormatKey(ref.key), err)
	}
	p.mu.Lock()
	p.ref.store = s
	p.mu.Unlock()
	return s, nil
}

func (r *reference) home() *Stores {
	if r.stores == nil {
		return DefaultStores()
	}
	return r.stores
}

var errEmptyProxy = errors.New("empty proxy: decode one into it, or make it with NewProxy")

// Resolve returns the object, fetching it the first time. Concurrent calls fetch once; a caller whose ctx ends leaves the others alone. Later
// calls return the same value (a view gets a reference of its own each time, which the caller must Release). A proxy made with Evict evicts
// its object after the first fetch; should that fail, the value is returned all the same and the store's logger warned.
func (p *Proxy[T]) Resolve(ctx context.Context) (T, error) {
	for {
		if t := p.target.Load(); t != nil {
			if v, ok, err := p.lend(t); ok {
				return v, err
			}
			continue // forgotten at this moment
		}
		if t := p.glance(); t != nil {
			return t.v, nil
		}
		p.mu.Lock()
		f := p.flight
		if f == nil {
			f = &flight{}
			p.flight = f
			age := p.age
			p.mu.Unlock()
			return p.lead(ctx, f, age)
		}
		if f.done == nil {
			f.done = make(chan struct{})
		}
		done := f.done
		p.mu.Unlock()
		var none T
		select {
		case <-done:
		case <-ctx.Done():
			return none, ctx.Err()
		}
		if f.err != nil && !errors.Is(f.err, context.Canceled) && !errors.Is(f.err, context.DeadlineExceeded) {
			return none, f.err // but if only its caller gave up, it is our turn
		}
	}
}

// glance resolves the proxy if its store has the object cached and nothing but reading it is to be done.
func (p *Proxy[T]) glance() *target[T] {
	p.mu.Lock()
	s, age := p.ref.store, p.age
	p.mu.Unlock()
	if s == nil || p.ref.evict || isView[T]() || s.traced() {
		return nil
	}
	t := cached[T](s, p.ref.key)
	if t != nil {
		p.settle(t, age)
	}
	return t
}

// settle makes t the resolved object, unless that was forgotten or replaced since the proxy had this age.
func (p *Proxy[T]) settle(t *target[T], age int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.age != age {
		return false
	}
	p.target.Store(t)
	return true
}

// lead resolves on behalf of everybody who waits.
func (p *Proxy[T]) lead(ctx context.Context, f *flight, age int) (v T, err error) {
	defer func() {
		p.mu.Lock()
		f.err = err
		done := f.done
		p.flight = nil
		p.mu.Unlock()
		if done != nil {
			close(done)
		}
	}()
	if t := p.target.Load(); t != nil { // somebody else was faster
		if v, ok, err := p.lend(t); ok {
			return v, err
		}
	}
	t, err := p.fetch(ctx)
	if errors.Is(err, connectors.ErrClosed) && p.ref.received != nil {
		t, err = p.fetch(ctx) // its store gave way to another's between two steps: open it again
	}
	if err != nil {
		return v, err
	}
	v, _, err = p.lend(t)  // before anybody can Forget it
	if !p.settle(t, age) { // right for us, who asked before, and for nobody after
		t.drop()
	}
	return v, err
}

// drop gives back what a target holds.
func (t *target[T]) drop() {
	if t.obj != nil {
		t.cleanup.Stop()
		t.obj.Release()
	}
}

// fetch gets the object from the store.
func (p *Proxy[T]) fetch(ctx context.Context) (*target[T], error) {
	s, err := p.Store(ctx)
	if err != nil {
		return nil, err
	}
	if p.ref.foreign != "" {
		return nil, fmt.Errorf("proxy of %s: %w: its objects need the Python deserializer %s; read them with Store.GetObject, or put them with ProxyStore's own",
			connectors.FormatKey(p.ref.key), serialize.ErrType, p.ref.foreign)
	}
	name := metrics.Resolve
	if p.ref.polling != nil {
		name = metrics.PollingResolve
	}
	start := s.now()
	ctx, op := s.begin(ctx, name)
	t, err := fetchTarget[T](ctx, s, p.ref.key)
	for errors.Is(err, ErrNotFound) && p.ref.polling != nil {
		if werr := connectors.Wait(ctx, s.conn, p.ref.key, *p.ref.polling); werr != nil {
			err = werr
			break
		}
		t, err = fetchTarget[T](ctx, s, p.ref.key)
	}
	op.end(ctx, p.ref.key, -1, err)
	s.stage(metrics.Call, p.ref.key, start)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("resolve from store %s: %w (often because it was evicted while proxies of it still exist)", s.name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("resolve from store %s: %w", s.name, err)
	}
	if p.ref.evict {
		if err := s.Evict(ctx, p.ref.key); err != nil {
			s.log.Warn("object not evicted after its proxy was resolved", "store", s.name, "key", logKey{p.ref.key}, "error", err)
		}
	}
	if t.obj != nil {
		// The proxy's own reference goes back with the proxy; every view that was handed out has one of its own.
		t.cleanup = runtime.AddCleanup(p, func(b *transport.Buffer) { b.Release() }, t.obj)
	}
	return t, nil
}

func fetchTarget[T any](ctx context.Context, s *Store, key Key) (*target[T], error) {
	if s.closed.Load() {
		return nil, fmt.Errorf("get from store %s: %w", s.name, connectors.ErrClosed)
	}
	if !isView[T]() {
		t, err := valueOf[T](ctx, s, key)
		if err != nil || !counts(t.v) {
			return t, err
		}
		any(t.v).(releaser).Release() // an any that counts references: each resolver gets one of its own, as of a view
	}
	obj, err := s.object(ctx, key)
	if err != nil {
		return nil, err
	}
	v, err := decode[T](s, key, obj) // what cannot be decoded should fail now, once
	if err != nil {
		obj.Release()
		return nil, err
	}
	any(v).(releaser).Release()
	return &target[T]{obj: obj, codecs: s.codecs}, nil
}

// lend returns a target's value, for a view with a reference of the caller's own. It reports false if the target was forgotten meanwhile.
func (p *Proxy[T]) lend(t *target[T]) (v T, ok bool, err error) {
	if t.obj == nil {
		return t.v, true, nil
	}
	if !t.obj.TryRetain() {
		return v, false, nil
	}
	defer t.obj.Release()
	v, err = serialize.DecodeAs[T](t.codecs, t.obj)
	return v, true, err
}

// ResolveAsync starts resolving, so that a later Resolve finds the object there or on its way. An error is not kept: the later Resolve tries
// again. ctx bounds the attempt.
func (p *Proxy[T]) ResolveAsync(ctx context.Context) {
	if p.Resolved() {
		return
	}
	go func() {
		v, err := p.Resolve(ctx)
		if r, ok := any(v).(releaser); ok && err == nil && (isView[T]() || counts(v)) {
			r.Release()
		}
	}()
}

// Forget drops the resolved object, so that the next Resolve fetches it again. Values and views handed out stay valid.
func (p *Proxy[T]) Forget() { p.become(nil) }

// become replaces the resolved object, if any, by t, also for a fetch that is under way. t may be nil.
func (p *Proxy[T]) become(t *target[T]) {
	p.mu.Lock()
	p.age++
	old := p.target.Swap(t)
	p.mu.Unlock()
	if old != nil {
		old.drop()
	}
}

// arrived returns the proxy's store, for the proxy of a future once its value is there.
func (p *Proxy[T]) arrived(ctx context.Context) (*Store, error) {
	s, err := p.Store(ctx)
	if err == nil && p.ref.polling != nil {
		err = connectors.Wait(ctx, s.conn, p.ref.key, *p.ref.polling)
	}
	return s, err
}

// ReadRange returns n bytes of the object's body from off, fewer at its end, all to the end if n < 0, without resolving the proxy; of a future's proxy it waits
// for the value. The caller owns the Buffer.
func (p *Proxy[T]) ReadRange(ctx context.Context, off, n int64) (*transport.Buffer, error) {
	s, err := p.arrived(ctx)
	if err != nil {
		return nil, err
	}
	return s.GetRange(ctx, p.ref.key, off, n)
}

// Open opens the object's body for reading in bounded memory, without resolving the proxy; of a future's proxy it waits for the value. ctx lives as
// long as the reader.
func (p *Proxy[T]) Open(ctx context.Context) (*ObjectReader, error) {
	s, err := p.arrived(ctx)
	if err != nil {
		return nil, err
	}
	return s.OpenReader(ctx, p.ref.key)
}

// Evict deletes the proxy's object. Resolved values stay.
func (p *Proxy[T]) Evict(ctx context.Context) error {
	s, err := p.Store(ctx)
	if err != nil {
		return err
	}
	return s.Evict(ctx, p.ref.key)
}

// String describes the proxy without resolving it.
func (p *Proxy[T]) String() string {
	if p == nil || p.ref.key == nil {
		return "Proxy(empty)"
	}
	state := "unresolved"
	if p.Resolved() {
		state = "resolved"
	}
	return fmt.Sprintf("%s[%s](%s, %s)", p.ref.flavour, reflect.TypeFor[T](), connectors.FormatKey(p.ref.key), state)
}

// reference lends the type-independent part. It makes every Proxy[T] an [AnyProxy].
func (p *Proxy[T]) reference() *reference { return &p.ref }

// AnyProxy is a *Proxy[T] of any T.
type AnyProxy interface {
	Key() Key
	Store(ctx context.Context) (*Store, error)
	reference() *reference
}

// travelling returns the reference as it leaves the process: with the class that T tells.
func (p *Proxy[T]) travelling() *reference {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.ref
	if r.class == (connectors.Class{}) && r.received == nil {
		r.class = pythonClass(reflect.TypeFor[T]())
	}
	return &r
}

// pythonClass returns the Python class that a target of Go type t unpickles to, empty if that depends on the value or is unknown. A proxy
// carries it so that isinstance, and Parsl at submit, need not resolve the proxy.
func pythonClass(t reflect.Type) connectors.Class {
	if t == nil || t.Kind() == reflect.Interface {
		return connectors.Class{}
	}
	switch t {
	case reflect.TypeFor[*serialize.Array]():
		return connectors.Class{Module: "numpy", Name: "ndarray"}
	case reflect.TypeFor[*transport.Buffer](), reflect.TypeFor[transport.Slices]():
		return connectors.Class{Module: "builtins", Name: "bytes"}
	}
	name := ""
	switch t.Kind() {
	case reflect.String:
		name = "str"
	case reflect.Slice, reflect.Array:
		name = "list"
		if t.Elem().Kind() == reflect.Uint8 {
			name = "bytes"
		}
	case reflect.Map:
		name = "dict"
	case reflect.Float32, reflect.Float64:
		name = "float"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		name = "int"
	case reflect.Complex64, reflect.Complex128:
		name = "complex"
	}
	if name == "" || t.PkgPath() != "" && t.Kind() != reflect.Struct && t.NumMethod() > 0 {
		return connectors.Class{} // a named type may pickle as anything
	}
	return connectors.Class{Module: "builtins", Name: name}
}
