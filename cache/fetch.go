package cache

import (
	"context"
	"time"
)

// flight is one fetch and those who wait for it. The mutex of its key's table guards it.
type flight struct {
	detached bool          // not in the table's map any more: not to be cached, not to be joined
	waiters  int           // callers in wait
	done     chan struct{} // closed when the result stands; made by the first waiter, as is turn
	turn     chan struct{} // holds one token while the fetch waits for a waiter to run it
	finished bool
	entry    Entry // with one reference for each waiter
	err      error
}

// detach cuts the fetch of key off. The caller holds t.mu.
func (t *table) detach(key string) {
	if f := t.flight[key]; f != nil {
		f.detached = true
		delete(t.flight, key)
	}
}

// Fetch returns the entry of key, which the caller owns as with Get. If it is not cached, one caller at a time runs fn, in its own goroutine,
// and the others wait for that. What fn returns is taken: cached, unless Evict, Set or Clear came in between, and given to all who wait.
//
//   - A caller whose ctx ends leaves with ctx's error, and the others are not touched: if it was running fn, one of them runs its own.
//   - Any other error goes to all who wait, and nothing is cached. On error there is nothing to release.
//   - If fn panics, the panic goes on in its goroutine, and one of the others runs its own fn.
//
// fn must not Fetch the same key, which would wait for itself.
func (c *Cache) Fetch(ctx context.Context, key string, fn func(ctx context.Context) (Entry, error)) (Entry, error) {
	if e, ok := c.Get(key); ok {
		return e, nil
	}
	return c.FetchMissed(ctx, key, fn)
}

// FetchMissed is Fetch for a caller who has just called Get without success, so that Stats and the policy hear of one lookup and not of two.
func (c *Cache) FetchMissed(ctx context.Context, key string, fn func(ctx context.Context) (Entry, error)) (Entry, error) {
	if err := ctx.Err(); err != nil {
		return Entry{}, err
	}
	hash := c.hash(key)
	t := c.table(hash)
	t.mu.Lock()
	if e, ok := c.lookup(hash, key); ok { // somebody was quicker
		t.mu.Unlock()
		return e, nil
	}
	f := t.flight[key]
	if f == nil {
		f = &flight{}
		if t.flight == nil {
			t.flight = make(map[string]*flight)
		}
		t.flight[key] = f
		t.mu.Unlock()
		c.inFlight.Add(1)
		return c.run(ctx, t, f, hash, key, fn)
	}
	if f.done == nil {
		f.done, f.turn = make(chan struct{}), make(chan struct{}, 1)
	}
	f.waiters++
	t.mu.Unlock()

	select {
	case <-f.done:
		return f.entry, f.err
	case <-f.turn:
		t.mu.Lock()
		f.waiters--
		t.mu.Unlock()
		return c.run(ctx, t, f, hash, key, fn)
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.finished { // a moment ago, and our reference is counted
		return f.entry, f.err
	}
	f.waiters--
	if f.waiters == 0 {
		select {
		case <-f.turn: // the turn was ours and nobody else is there to take it
			c.abandon(t, f, key)
		default:
		}
	}
	return Entry{}, ctx.Err()
}

// run runs fn for a flight and hands on the result, or the turn.
func (c *Cache) run(ctx context.Context, t *table, f *flight, hash uint64, key string, fn func(context.Context) (Entry, error)) (Entry, error) {
	passed := true // until we know that the outcome is everybody's; so a panic passes the turn, too
	defer func() {
		if passed {
			c.pass(t, f, key)
		}
	}()
	if err := ctx.Err(); err != nil {
		return Entry{}, err
	}
	e, err := fn(ctx)
	if err != nil {
		if !ended(ctx) {
			passed = false
			c.finish(t, f, hash, key, Entry{}, err)
		}
		return Entry{}, err
	}
	passed = false
	c.finish(t, f, hash, key, e, nil)
	return e, nil
}

// ended reports whether ctx is over. A deadline may have ended what fn did (a connection takes it over, say) just before it ends ctx.
func ended(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// pass gives the turn to a waiter, or ends the flight if there is none.
func (c *Cache) pass(t *table, f *flight, key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.waiters > 0 {
		f.turn <- struct{}{} // has room: there is one runner, and the turn was with it
	} else {
		c.abandon(t, f, key)
	}
}

// abandon ends a flight that nobody waits for. The caller holds t.mu.
func (c *Cache) abandon(t *table, f *flight, key string) {
	if !f.detached {
		t.detach(key)
	}
	c.inFlight.Add(-1)
}

// finish publishes a result: one reference for each waiter, and one for the cache.
func (c *Cache) finish(t *table, f *flight, hash uint64, key string, e Entry, err error) {
	var n *node
	if err == nil {
		n = c.newNode(hash, key, e)
	}
	var kept, old *node
	t.mu.Lock()
	switch {
	case f.detached:
		if n != nil {
			n.entry.release()
		}
	case err == nil:
		kept, old = c.place(t, n, hash, key)
		t.detach(key)
	default:
		t.detach(key)
	}
	if e.Buf != nil {
		for range f.waiters {
			e.Buf.Retain()
		}
	}
	f.entry, f.err, f.finished = e, err, true
	if f.done != nil {
		close(f.done)
	}
	t.mu.Unlock()
	c.inFlight.Add(-1)
	c.settle(kept, old)
}
