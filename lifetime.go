package proxyplane

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrLifetimeEnded is the error of adding an object to a lifetime that is over.
var ErrLifetimeEnded = errors.New("lifetime has ended")

// evictTimeout bounds an eviction that no caller waits for.
const evictTimeout = 30 * time.Second

// A Lifetime evicts the objects that were added to it when it ends. [ContextLifetime], [LeaseLifetime] and [StaticLifetime] return ProxyStore's
// three.
type Lifetime interface {
	// Add ties objects of a store to the lifetime. It fails with ErrLifetimeEnded once that is over.
	Add(s *Store, keys ...Key) error
	// Done reports whether the lifetime is over.
	Done() bool
	// Close ends the lifetime and evicts its objects. Those that could not be evicted are kept for a second Close; once all are gone it does
	// nothing.
	Close(ctx context.Context) error
}

// AddProxy ties the objects of proxies to a lifetime. ctx bounds opening the store of a received one.
func AddProxy(ctx context.Context, l Lifetime, proxies ...AnyProxy) error {
	for _, p := range proxies {
		s, err := p.Store(ctx)
		if err != nil {
			return err
		}
		if err := l.Add(s, p.Key()); err != nil {
			return err
		}
	}
	return nil
}

// objects is the set of objects of a lifetime; all three kinds embed it.
type objects struct {
	mu   sync.Mutex
	keys map[*Store]map[Key]struct{}
	done bool
}

func (l *objects) Add(s *Store, keys ...Key) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return ErrLifetimeEnded
	}
	l.hold(s, keys)
	return nil
}

// hold notes keys, with the lock held.
func (l *objects) hold(s *Store, keys []Key) {
	if l.keys == nil {
		l.keys = map[*Store]map[Key]struct{}{}
	}
	if l.keys[s] == nil {
		l.keys[s] = map[Key]struct{}{}
	}
	for _, k := range keys {
		l.keys[s][k] = struct{}{}
	}
}

func (l *objects) Done() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

func (l *objects) Close(ctx context.Context) error {
	l.mu.Lock()
	keys := l.keys
	l.keys, l.done = nil, true
	l.mu.Unlock()
	var errs []error
	for s, set := range keys {
		all := make([]Key, 0, len(set))
		for k := range set {
			all = append(all, k)
		}
		if err := s.evictAll(ctx, all); err != nil {
			errs = append(errs, fmt.Errorf("end of lifetime, store %s: %w", s.name, err))
			l.mu.Lock()
			l.hold(s, all) // for a second Close
			l.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// closeUnattended ends a lifetime that nobody is waiting for. ctx must not be over.
func (l *objects) closeUnattended() {
	ctx, cancel := context.WithTimeout(context.Background(), evictTimeout)
	defer cancel()
	l.mu.Lock()
	stores := make([]*Store, 0, len(l.keys))
	for s := range l.keys {
		stores = append(stores, s)
	}
	l.mu.Unlock()
	if err := l.Close(ctx); err != nil {
		for _, s := range stores {
			s.log.Warn("lifetime ended, but not all of its objects are evicted", "store", s.name, "error", err)
		}
	}
}

// contextLifetime ends with its context.
type contextLifetime struct {
	objects
	stop func() bool
}

// ContextLifetime returns a lifetime that ends with ctx, or with Close if that is called before. With a context that never ends it is
// ProxyStore's ContextLifetime: defer its Close.
func ContextLifetime(ctx context.Context) Lifetime {
	l := &contextLifetime{}
	l.stop = context.AfterFunc(ctx, l.closeUnattended)
	return l
}

func (l *contextLifetime) Close(ctx context.Context) error {
	l.stop()
	return l.objects.Close(ctx)
}

// Lease is a lifetime that ends at a time, which can be moved.
type Lease struct {
	objects
	timer  *time.Timer
	expiry time.Time // guarded by objects.mu
}

// LeaseLifetime returns a lifetime that ends after d, unless it is extended or closed before. It is ProxyStore's LeaseLifetime.
func LeaseLifetime(d time.Duration) *Lease {
	l := &Lease{expiry: time.Now().Add(d)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(d, l.expired)
	return l
}

// Extend moves the end of the lease by d from where it was.
func (l *Lease) Extend(d time.Duration) error {
	return l.move(func() time.Time { return l.expiry.Add(d) })
}

// ExtendTo moves the end of the lease to t, which may be earlier than it was.
func (l *Lease) ExtendTo(t time.Time) error { return l.move(func() time.Time { return t }) }

func (l *Lease) move(to func() time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return ErrLifetimeEnded
	}
	l.expiry = to()
	l.timer.Reset(time.Until(l.expiry))
	return nil
}

// Expiry returns when the lease ends.
func (l *Lease) Expiry() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expiry
}

// expired runs when the timer fires, which may be just when the lease is being extended.
func (l *Lease) expired() {
	l.mu.Lock()
	over := !l.done && !time.Now().Before(l.expiry)
	l.mu.Unlock()
	if over {
		l.closeUnattended()
	}
}

// Close ends the lease now.
func (l *Lease) Close(ctx context.Context) error {
	l.mu.Lock()
	l.timer.Stop()
	l.mu.Unlock()
	return l.objects.Close(ctx)
}

var staticLifetime = sync.OnceValue(func() *objects { return &objects{} })

// StaticLifetime returns the process's one lifetime that lasts until the program ends. Go runs nothing at exit, so main must defer its Close; the
// stores it holds objects of must still be open then.
func StaticLifetime() Lifetime { return staticLifetime() }
