package cache

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/proxyplane/proxyplane/transport"
)

// Entry is what the cache holds under a key: a decoded value, or reference-counted memory, or both. Value must be fit to be shared by many
// goroutines, that is, never changed.
type Entry struct {
	Value any               // decoded Go value, or nil
	Buf   *transport.Buffer // or the memory it stands on; the cache holds its own reference
	Size  int64             // cost in bytes; negative counts as 0
}

// release drops one reference of an entry.
func (e Entry) release() { e.Buf.Release() }

const (
	tableBits = 5   // 32 tables: writers of different keys seldom meet
	overhead  = 256 // bytes of a node, its cell, its bucket and its policy records, rounded up
	stripes   = 16
	sampling  = 4 // one Get in so many tells the policy
)

// Cache is described in the package comment. All methods may be called by many goroutines at once, Close included. It must not be copied.
type Cache struct {
	seed maphash.Seed
	max  int64
	// undecided is how many bytes the policy may have been offered without a decision.
	undecided int64
	tables    [1 << tableBits]table
	reads     [stripes]struct {
		hits, misses atomic.Int64
		_            [112]byte // no two stripes on one cache line or on two neighbouring ones
	}
	bytes, entries, sets, rejected, evictions, inFlight atomic.Int64

	// Lock order: no lock of this package is held while ristretto is called, but life and waiting, since ristretto calls back (exit), and
	// exit takes table.mu and then window.mu.
	window  window
	life    sync.RWMutex                    // held shared while policy is used; exclusively to clear and to close it
	policy  *ristretto.Cache[uint64, *node] // nil: nothing is kept
	closed  atomic.Bool
	waiting sync.Mutex   // one waits for the policy, on behalf of all who queue behind it
	offered atomic.Int64 // bytes given to the policy since the start
	decided atomic.Int64 // those it has decided on
}

// node is one entry in the table. All but the window's fields stay as made, since readers have no lock.
type node struct {
	hash  uint64
	key   string
	entry Entry
	cost  int64

	where      place // guarded by window.mu, as are the links
	prev, next *node
}

// New returns a cache that holds at most maxBytes. With maxBytes <= 0 it keeps nothing, and still merges concurrent fetches. Close it to stop
// its goroutines.
func New(maxBytes int64) (*Cache, error) {
	c := &Cache{seed: maphash.MakeSeed(), max: max(maxBytes, 0)}
	c.window.limit = c.max / 4
	c.undecided = c.max / 16
	if c.max == 0 {
		return c, nil
	}
	policy, err := ristretto.NewCache(&ristretto.Config[uint64, *node]{
		MaxCost: c.mainBytes(),
		// Many counters know more keys apart, few are halved sooner, which is how the policy forgets. This many were best on loads of both
		// kinds (BenchmarkZipf), for some 5% of the bound; the limits are for tiny caches, and 4 MiB.
		NumCounters: min(max(c.max>>6, 1<<10), 1<<20),
		// Only one Get in four comes here, so a batch of 16 is as many Gets as ristretto's usual 64.
		BufferItems:        64 / sampling,
		IgnoreInternalCost: true, // overhead counts it
		KeyToHash:          func(hash uint64) (uint64, uint64) { return hash, 0 },
		OnEvict:            func(i *ristretto.Item[*node]) { c.count(i.Value, &c.evictions) },
		OnReject:           func(i *ristretto.Item[*node]) { c.count(i.Value, &c.rejected) },
		OnExit:             c.exit,
	})
	if err != nil {
		return nil, fmt.Errorf("cache of %d bytes: %w", maxBytes, err)
	}
	c.policy = policy
	return c, nil
}

// mainBytes is what the policy rules over: all but the window and the offers it has not decided on.
func (c *Cache) mainBytes() int64 { return c.max - c.window.limit - c.undecided }

func (c *Cache) hash(key string) uint64   { return maphash.String(c.seed, key) }
func (c *Cache) table(hash uint64) *table { return &c.tables[hash>>(64-tableBits)] }
func (c *Cache) cost(key string, size int64) int64 {
	size = max(size, 0)
	if extra := int64(len(key)) + overhead; size <= c.max {
		return size + extra
	}
	return size // far too large, and adding could overflow
}

// Get returns the entry of key. The caller owns a reference to its Buf and must Release it. It does not wait for fetches under way.
func (c *Cache) Get(key string) (Entry, bool) {
	hash := c.hash(key)
	e, ok := c.lookup(hash, key)
	stripe := &c.reads[stripe()]
	if ok {
		stripe.hits.Add(1)
	} else {
		stripe.misses.Add(1)
	}
	if rand.Uint32()%sampling == 0 {
		c.touch(hash)
	}
	return e, ok
}

// Has reports whether Get would find key. It is no lookup for Stats and the policy.
func (c *Cache) Has(key string) bool {
	hash := c.hash(key)
	return c.table(hash).get(hash, key) != nil
}

func (c *Cache) lookup(hash uint64, key string) (Entry, bool) {
	n := c.table(hash).get(hash, key)
	// No lock: the node may be gone by now and its reference with it, which is a miss.
	if n == nil || n.entry.Buf != nil && !n.entry.Buf.TryRetain() {
		return Entry{}, false
	}
	return n.entry, true
}

// touch tells the policy that somebody asked for a key, there or not.
func (c *Cache) touch(hash uint64) {
	if c.policy == nil || !c.life.TryRLock() {
		return
	}
	if !c.closed.Load() {
		c.policy.Get(hash)
	}
	c.life.RUnlock()
}

// stripe spreads counters by goroutine: stacks are at least 2 KiB apart, so their addresses differ.
func stripe() uint64 {
	var here byte
	return uint64(uintptr(unsafe.Pointer(&here))>>11) * 0x9e3779b97f4a7c15 >> 60 // 4 bits for 16 stripes
}

// Set puts an entry under key in place of an earlier one and reports whether it is kept. It borrows e and takes a reference of its own. A
// fetch that runs meanwhile is not cached. If the entry is too large the key is left without one, never with the old one.
func (c *Cache) Set(key string, e Entry) bool {
	hash := c.hash(key)
	t := c.table(hash)
	n := c.newNode(hash, key, e)
	t.mu.Lock()
	t.detach(key)
	kept, old := c.place(t, n, hash, key)
	t.mu.Unlock()
	c.settle(kept, old)
	return kept != nil
}

// newNode returns a node for an entry with a reference of its own, or nil if it is not to be kept.
func (c *Cache) newNode(hash uint64, key string, e Entry) *node {
	cost := c.cost(key, e.Size)
	if c.policy == nil || cost > c.mainBytes() {
		return nil
	}
	if e.Buf != nil {
		e.Buf.Retain()
	}
	return &node{hash: hash, key: key, entry: e, cost: cost}
}

// place puts n into the table, or, if it is nil or the cache closed, makes sure that there is no other. The caller holds t.mu, and calls settle
// with the results when it has let go of it.
func (c *Cache) place(t *table, n *node, hash uint64, key string) (kept, old *node) {
	if n != nil && !t.closed {
		c.bytes.Add(n.cost)
		c.entries.Add(1)
		c.sets.Add(1)
		return n, t.swap(n)
	}
	if n != nil {
		n.entry.release()
	} else if c.policy != nil {
		c.rejected.Add(1)
	}
	if old = t.get(hash, key); old != nil {
		t.remove(old)
	}
	return nil, old
}

// settle finishes what place began.
func (c *Cache) settle(kept, old *node) {
	if old != nil {
		c.drop(old, true)
	}
	if kept == nil {
		return
	}
	first := c.window.push(kept)
	for n := first; n != nil; {
		next := n.next
		n.next = nil
		c.offer(n)
		n = next
	}
	if first != nil {
		c.await(c.undecided)
	}
}

// drop ends a node that the caller has taken out of the table, which makes it the only one to do so.
func (c *Cache) drop(n *node, tell bool) {
	was := c.window.leave(n)
	c.bytes.Add(-n.cost)
	c.entries.Add(-1)
	n.entry.release()
	if was == offered && tell {
		c.withdraw(n.hash)
	}
}

// offer gives a node that has left the window to the policy, which calls exit when it does not want it, now or later.
func (c *Cache) offer(n *node) {
	c.life.RLock()
	defer c.life.RUnlock()
	if c.closed.Load() {
		return // Close empties the tables
	}
	ok := c.policy.Set(n.hash, n, n.cost)
	if !ok { // the queue is full
		c.policy.Wait()
		ok = c.policy.Set(n.hash, n, n.cost)
	}
	c.offered.Add(n.cost)
	switch {
	case !ok: // full again; it says nothing about what it drops
		c.count(n, &c.rejected)
		c.exit(n)
	case c.window.at(n) == gone:
		// Evicted meanwhile, perhaps before the policy had heard of it. If this takes out a newer node of the same key, that one is lost to
		// the cache, through exit, and nothing worse.
		c.policy.Del(n.hash)
	}
}

// withdraw tells the policy that a node it was offered is no more.
func (c *Cache) withdraw(hash uint64) {
	c.life.RLock()
	defer c.life.RUnlock()
	if !c.closed.Load() {
		c.policy.Del(hash)
	}
}

// await returns when the policy has decided on all but limit bytes of what it was offered.
func (c *Cache) await(limit int64) {
	if c.offered.Load()-c.decided.Load() <= limit {
		return
	}
	c.waiting.Lock()
	defer c.waiting.Unlock()
	before := c.offered.Load()
	if before-c.decided.Load() <= limit { // who held the lock waited for us as well
		return
	}
	c.life.RLock()
	defer c.life.RUnlock()
	if !c.closed.Load() {
		c.policy.Wait()
		c.decided.Store(before)
	}
}

// exit is called by ristretto for every node that it no longer counts, whatever the reason, more than once for some and with nil for keys it
// never had.
func (c *Cache) exit(n *node) {
	if n == nil {
		return
	}
	t := c.table(n.hash)
	t.mu.Lock()
	removed := t.remove(n)
	t.mu.Unlock()
	if removed {
		c.drop(n, false)
	}
}

// count counts a node that the policy throws out, unless somebody has taken it out before.
func (c *Cache) count(n *node, counter *atomic.Int64) {
	if n != nil && c.window.at(n) != gone {
		counter.Add(1)
	}
}

// Evict drops the entry of key, if any. No Get that begins after it returns finds it, and no fetch that began before it puts it back.
func (c *Cache) Evict(key string) {
	hash := c.hash(key)
	t := c.table(hash)
	t.mu.Lock()
	t.detach(key)
	n := t.get(hash, key)
	if n != nil {
		t.remove(n)
	}
	t.mu.Unlock()
	if n != nil {
		c.drop(n, true)
	}
}

// Clear drops all entries, as Evict does, and what the policy has learnt. The counts of Stats go on.
func (c *Cache) Clear() { c.empty(false) }

// Close drops all entries and stops the cache's goroutines. Afterwards the cache keeps nothing: Get misses, Set refuses, and Fetch still works
// and merges. A second Close does nothing.
func (c *Cache) Close() { c.empty(true) }

func (c *Cache) empty(close bool) {
	for i := range c.tables {
		t := &c.tables[i]
		t.mu.Lock()
		t.closed = t.closed || close
		for key := range t.flight {
			t.detach(key)
		}
		all := t.clear()
		t.mu.Unlock()
		for _, n := range all {
			c.drop(n, false)
		}
	}
	if c.policy == nil {
		return
	}
	c.life.Lock()
	defer c.life.Unlock()
	if c.closed.Load() {
		return
	}
	if close {
		c.closed.Store(true)
		c.policy.Close()
	} else {
		c.policy.Clear()
	}
	c.decided.Store(c.offered.Load())
}

// Stats is what a cache has done and holds.
type Stats struct {
	Hits      int64 // Gets and Fetches that found their key
	Misses    int64 // those that did not
	Sets      int64 // entries taken in, by Set or by Fetch
	Rejected  int64 // entries refused: too large at once, or less wanted than others later
	Evictions int64 // entries dropped for others to have room
	Bytes     int64 // cost of the entries held now
	Entries   int64 // their number
	MaxBytes  int64 // the bound
	InFlight  int64 // fetches running now
}

// HitRatio returns the share of lookups that hit, 0 if there were none.
func (s Stats) HitRatio() float64 {
	if s.Hits+s.Misses == 0 {
		return 0
	}
	return float64(s.Hits) / float64(s.Hits+s.Misses)
}

// Stats returns the counts so far. Under concurrent use they need not be of one instant.
func (c *Cache) Stats() Stats {
	s := Stats{
		Sets: c.sets.Load(), Rejected: c.rejected.Load(), Evictions: c.evictions.Load(),
		Bytes: c.bytes.Load(), Entries: c.entries.Load(), MaxBytes: c.max, InFlight: c.inFlight.Load(),
	}
	for i := range c.reads {
		s.Hits += c.reads[i].hits.Load()
		s.Misses += c.reads[i].misses.Load()
	}
	return s
}
