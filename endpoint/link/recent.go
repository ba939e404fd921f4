package link

import (
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

const (
	// recentFor is how long an object's memory is kept for the next segment.
	recentFor = time.Second
	// maxRecent is how many objects.
	maxRecent = 64
)

// recent keeps the memory of objects that are being got, as each is asked for once per segment, and opening it may mean to read all of it from a database.
type recent struct {
	store objects.Store

	mu     sync.Mutex
	m      map[string]*recentObject
	sweep  *time.Timer // runs while m is not empty
	closed bool
}

type recentObject struct {
	mu   sync.Mutex // held while the store is asked, so that several lanes ask once
	info objects.Info
	buf  *transport.Buffer
	used time.Time // under recent.mu
	gone bool      // under mu
}

func newRecent(store objects.Store) *recent {
	return &recent{store: store, m: map[string]*recentObject{}}
}

// worth is the length from which on an object is kept: shorter ones come in one piece.
const worth = minSegment

// get returns the object as it is now.
func (r *recent) get(key string) (*transport.Buffer, error) {
	info, err := r.store.Stat(key)
	if err != nil {
		return nil, err
	}
	if info.Size < worth || info.ModTime.IsZero() {
		return r.store.Get(key)
	}
	r.mu.Lock()
	o := r.m[key]
	if o == nil {
		if len(r.m) >= maxRecent || r.closed {
			r.mu.Unlock()
			return r.store.Get(key)
		}
		o = &recentObject{}
		r.m[key] = o
		if r.sweep == nil {
			r.sweep = time.AfterFunc(recentFor, r.expire)
		}
	}
	o.used = time.Now()
	r.mu.Unlock()

	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf != nil && o.info == info { // it is the version that Stat has just seen
		return o.buf.Retain(), nil
	}
	b, err := r.store.Get(key)
	if err != nil || o.gone {
		return b, err
	}
	o.buf.Release()
	o.buf = nil
	after, err := r.store.Stat(key)
	if err == nil && after == info && int64(b.Len()) == info.Size {
		o.info, o.buf = info, b.Retain()
	}
	return b, nil
}

// drop forgets an object.
func (r *recent) drop(key string) {
	r.mu.Lock()
	o := r.m[key]
	delete(r.m, key)
	r.mu.Unlock()
	if o != nil {
		o.release()
	}
}

func (o *recentObject) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone = true
	o.buf.Release()
	o.buf = nil
}

// expire forgets what nobody asked for lately.
func (r *recent) expire() {
	now := time.Now()
	var old []*recentObject
	r.mu.Lock()
	for key, o := range r.m {
		if r.closed || now.Sub(o.used) >= recentFor {
			delete(r.m, key)
			old = append(old, o)
		}
	}
	if r.sweep = nil; len(r.m) > 0 {
		r.sweep = time.AfterFunc(recentFor, r.expire)
	}
	r.mu.Unlock()
	for _, o := range old {
		o.release()
	}
}

func (r *recent) close() {
	r.mu.Lock()
	r.closed = true
	if r.sweep != nil {
		r.sweep.Stop()
	}
	r.mu.Unlock()
	r.expire()
}
