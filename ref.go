package proxyplane

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// What ownership forbids. The rules are Rust's, and ProxyStore's: an object has one owner; it is borrowed either by many readers or by one
// writer; the owner cannot go while it is borrowed. What Go's types cannot check is checked when it runs.
var (
	// ErrBorrowed is the error of doing to a borrowed object what only an unborrowed one allows.
	ErrBorrowed = errors.New("object is borrowed")
	// ErrInvalidRef is the error of using a reference that was released, closed, or sent to another process.
	ErrInvalidRef = errors.New("reference is no longer valid")
)

// Owned is a proxy that owns its object: Close evicts it. Should the last pointer to an Owned go without Close, the object is evicted some time
// after. All methods may be called from many goroutines at once. It is ProxyStore's OwnedProxy.
type Owned[T any] struct {
	p       *Proxy[T]
	st      *ownership
	cleanup runtime.Cleanup
}

// ownership is the state that an owner shares with those who borrow from it.
type ownership struct {
	mu      sync.Mutex
	refs    int
	mutable bool
	gone    bool
}

// NewOwned stores v and returns its owner. It borrows v.
func NewOwned[T any](ctx context.Context, s *Store, v T, opts ...PutOption) (*Owned[T], error) {
	p, err := NewProxy(ctx, s, v, opts...)
	if err != nil {
		return nil, err
	}
	return IntoOwned(p)
}

// IntoOwned makes the owner of a plain proxy's object. It takes p, and unsets its Evict. That nobody else holds a copy of p is for the caller to
// know. A received OwnedProxy becomes an owner here in the same way; a borrowed reference never does ([ErrInvalidRef]).
func IntoOwned[T any](p *Proxy[T]) (*Owned[T], error) {
	if f := p.ref.flavour; f == RefFlavour || f == RefMutFlavour {
		return nil, fmt.Errorf("%w: a %s cannot become the owner", ErrInvalidRef, f)
	}
	if p.ref.key == nil {
		return nil, errEmptyProxy
	}
	p.ref.evict = false
	p.ref.flavour = OwnedFlavour
	o := &Owned[T]{p: p, st: &ownership{}}
	// The cleanup must not hold o or p. It finds the store as p would.
	ref, st := p.ref, o.st
	o.cleanup = runtime.AddCleanup(o, func(st *ownership) { go abandon(ref, st) }, st)
	return o, nil
}

// abandon evicts the object of an owner that was dropped without Close.
func abandon(ref reference, st *ownership) {
	st.mu.Lock()
	gone := st.gone
	st.gone = true
	st.mu.Unlock()
	if gone {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), evictTimeout)
	defer cancel()
	s, err := (&Proxy[any]{ref: ref}).Store(ctx)
	if err == nil {
		err = s.Evict(ctx, ref.key)
	}
	if err != nil && s != nil && !errors.Is(err, connectors.ErrClosed) {
		s.log.Warn("object of a dropped owner not evicted", "store", s.name, "key", logKey{ref.key}, "error", err)
	}
}

// Key returns the key of the object.
func (o *Owned[T]) Key() Key { return o.p.ref.key }

// Resolve returns the object.
func (o *Owned[T]) Resolve(ctx context.Context) (T, error) {
	defer runtime.KeepAlive(o) // or its object could be evicted while it is on its way
	if err := o.st.valid(); err != nil {
		var none T
		return none, err
	}
	return o.p.Resolve(ctx)
}

func (st *ownership) valid() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.gone {
		return ErrInvalidRef
	}
	return nil
}

// unborrowed reports an error unless the owner is valid and nobody borrows; with the lock held, so that then may change the state.
func (st *ownership) unborrowed(then func()) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.gone:
		return ErrInvalidRef
	case st.mutable:
		return fmt.Errorf("%w: by a RefMut", ErrBorrowed)
	case st.refs > 0:
		return fmt.Errorf("%w: by %d Refs", ErrBorrowed, st.refs)
	}
	then()
	return nil
}

// Borrow returns a reader of the object. There may be many at once, but none beside a RefMut ([ErrBorrowed]).
func (o *Owned[T]) Borrow() (*Ref[T], error) {
	o.st.mu.Lock()
	defer o.st.mu.Unlock()
	if o.st.gone {
		return nil, ErrInvalidRef
	}
	if o.st.mutable {
		return nil, fmt.Errorf("%w: by a RefMut", ErrBorrowed)
	}
	o.st.refs++
	return &Ref[T]{borrowed[T]{p: o.p.share(RefFlavour), owner: o, back: func() { o.st.refs-- }}}, nil
}

// MutBorrow returns a writer of the object. There may be one, and no reader beside it ([ErrBorrowed]).
func (o *Owned[T]) MutBorrow() (*RefMut[T], error) {
	err := o.st.unborrowed(func() { o.st.mutable = true })
	if err != nil {
		return nil, err
	}
	return &RefMut[T]{borrowed[T]{p: o.p.share(RefMutFlavour), owner: o, back: func() { o.st.mutable = false }}}, nil
}

// share returns a proxy of the same object in another flavour, resolved if p is.
func (p *Proxy[T]) share(f Flavour) *Proxy[T] {
	p.mu.Lock()
	q := &Proxy[T]{ref: p.ref}
	p.mu.Unlock()
	q.ref.flavour = f
	if t := p.target.Load(); t != nil && t.obj == nil {
		q.target.Store(t)
	}
	return q
}

// Clone copies the object in its store, byte for byte, and returns the copy's owner.
func (o *Owned[T]) Clone(ctx context.Context) (*Owned[T], error) {
	defer runtime.KeepAlive(o)
	if err := o.st.valid(); err != nil {
		return nil, err
	}
	s, err := o.p.Store(ctx)
	if err != nil {
		return nil, err
	}
	obj, err := s.GetObject(ctx, o.Key())
	if err != nil {
		return nil, err
	}
	defer obj.Release()
	key, err := s.conn.Put(ctx, transport.Slices{obj.Bytes()})
	if err != nil {
		return nil, err
	}
	return IntoOwned(&Proxy[T]{ref: reference{key: key, class: o.p.ref.class, foreign: o.p.ref.foreign, store: s, stores: o.p.ref.stores}})
}

// Update replaces the object by v, in the store and in this owner. It needs an unborrowed owner ([ErrBorrowed]) and a connector that can set a
// key (errors.ErrUnsupported). What other processes have resolved or cached stays as it was. It borrows v, and keeps it if it is no view.
func (o *Owned[T]) Update(ctx context.Context, v T) error {
	defer runtime.KeepAlive(o)
	if err := o.st.unborrowed(func() { o.st.mutable = true }); err != nil { // so that nobody borrows or closes meanwhile
		return err
	}
	defer o.st.change(func() { o.st.mutable = false })
	return update(ctx, o.p, v)
}

// change runs f with the lock held.
func (st *ownership) change(f func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	f()
}

func update[T any](ctx context.Context, p *Proxy[T], v T) error {
	s, err := p.Store(ctx)
	if err != nil {
		return err
	}
	if err := s.set(ctx, p.ref.key, v, putOptions{}); err != nil {
		return err
	}
	if keepable(v) {
		p.become(&target[T]{v: v})
	} else {
		p.become(nil)
	}
	return nil
}

// Close evicts the object and ends the ownership. It fails with [ErrBorrowed] while somebody borrows. If the object cannot be evicted it is still
// owned, and Close may be called again. Once it has succeeded, a second Close does nothing.
func (o *Owned[T]) Close(ctx context.Context) error {
	defer runtime.KeepAlive(o)
	if err := o.st.valid(); err != nil {
		return nil
	}
	if err := o.st.unborrowed(func() { o.st.gone = true }); err != nil {
		return err
	}
	s, err := o.p.Store(ctx)
	if err == nil {
		err = s.Evict(ctx, o.Key())
	}
	if err != nil {
		o.st.change(func() { o.st.gone = false })
		return err
	}
	o.cleanup.Stop()
	return nil
}

// Release gives the object up without evicting it and returns its plain proxy: from now on nobody owns it.
func (o *Owned[T]) Release() (*Proxy[T], error) {
	if err := o.st.unborrowed(func() { o.st.gone = true }); err != nil {
		return nil, err
	}
	o.cleanup.Stop()
	return o.p.share(Plain), nil
}

// Pickle hands the ownership to whoever unpickles the result: an OwnedProxy in Python, an Owned here. This Owned is invalid afterwards. It fails
// while somebody borrows.
func (o *Owned[T]) Pickle(opts ...PickleOption) ([]byte, error) {
	if err := o.st.unborrowed(func() {}); err != nil {
		return nil, err
	}
	data, err := o.p.Pickle(opts...)
	if err != nil {
		return nil, err
	}
	if err := o.st.unborrowed(func() { o.st.gone = true }); err != nil {
		return nil, err
	}
	o.cleanup.Stop()
	return data, nil
}

// borrowed is what Ref and RefMut have in common.
type borrowed[T any] struct {
	p     *Proxy[T]
	owner *Owned[T] // keeps the owner, and so the object, alive
	back  func()    // returns the borrow, with the owner's lock held
	once  sync.Once
	over  bool       // guarded by the owner's lock
	write sync.Mutex // held while a RefMut updates: the borrow goes back after that
}

// Key returns the key of the object.
func (b *borrowed[T]) Key() Key { return b.p.ref.key }

// Resolve returns the object.
func (b *borrowed[T]) Resolve(ctx context.Context) (T, error) {
	defer runtime.KeepAlive(b.owner)
	if err := b.valid(); err != nil {
		var none T
		return none, err
	}
	return b.p.Resolve(ctx)
}

func (b *borrowed[T]) valid() error {
	b.owner.st.mu.Lock()
	defer b.owner.st.mu.Unlock()
	if b.over || b.owner.st.gone {
		return ErrInvalidRef
	}
	return nil
}

// Release returns the borrow; the reference is invalid afterwards. A second Release does nothing.
func (b *borrowed[T]) Release() {
	b.once.Do(func() {
		b.write.Lock()
		defer b.write.Unlock()
		b.owner.st.mu.Lock()
		defer b.owner.st.mu.Unlock()
		b.over = true
		b.back()
	})
}

// Pickle returns the reference for another process, which this process's owner cannot see: until it is known to be done, do not Close the
// owner. The borrow itself stays, and is the caller's to Release.
func (b *borrowed[T]) Pickle(opts ...PickleOption) ([]byte, error) {
	defer runtime.KeepAlive(b.owner)
	if err := b.valid(); err != nil {
		return nil, err
	}
	return b.p.Pickle(opts...)
}

// Ref reads a borrowed object. It is ProxyStore's RefProxy.
type Ref[T any] struct{ borrowed[T] }

// RefMut reads and writes a borrowed object. It is ProxyStore's RefMutProxy.
type RefMut[T any] struct{ borrowed[T] }

// Update replaces the object by v. It borrows v, and keeps it if it is no view. The owner resolves to the new object too.
func (r *RefMut[T]) Update(ctx context.Context, v T) error {
	defer runtime.KeepAlive(r.owner)
	r.write.Lock()
	defer r.write.Unlock()
	if err := r.valid(); err != nil {
		return err
	}
	if err := update(ctx, r.p, v); err != nil {
		return err
	}
	r.owner.p.Forget()
	return nil
}
