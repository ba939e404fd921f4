package cache

import (
	"sync"
	"sync/atomic"
)

// table is a hash table that is read without a lock. Who changes it holds the mutex; a reader sees a chain as it was or as it is.
type table struct {
	buckets atomic.Pointer[[]atomic.Pointer[cell]]

	mu     sync.Mutex
	size   int
	flight map[string]*flight // fetches that newcomers join
	closed bool
	_      [64]byte // the next table's mutex is not on this one's cache line
}

// cell is a link of a chain. It is apart from the node so that growing the table leaves the chains alone that readers are walking.
type cell struct {
	hash uint64
	node *node
	next atomic.Pointer[cell]
}

const minBuckets = 8 // a power of two, as is every number of buckets

// get finds a key without a lock.
func (t *table) get(hash uint64, key string) *node {
	b := t.buckets.Load()
	if b == nil {
		return nil
	}
	for c := (*b)[bucketOf(hash, len(*b))].Load(); c != nil; c = c.next.Load() {
		if c.hash == hash && c.node.key == key {
			return c.node
		}
	}
	return nil
}

// swap makes n the node of its key and returns the one it replaces. The caller holds t.mu.
func (t *table) swap(n *node) (old *node) {
	b := t.buckets.Load()
	if b == nil || t.size >= len(*b) {
		b = t.grow()
	}
	head := &(*b)[bucketOf(n.hash, len(*b))]
	c := &cell{hash: n.hash, node: n}
	c.next.Store(head.Load())
	head.Store(c) // before the old one goes: a reader finds one of the two
	t.size++
	for link := &c.next; ; {
		next := link.Load()
		if next == nil {
			return nil
		}
		if next.hash == n.hash && next.node.key == n.key {
			link.Store(next.next.Load())
			t.size--
			return next.node
		}
		link = &next.next
	}
}

// remove takes n out and reports whether it was there. The caller holds t.mu.
func (t *table) remove(n *node) bool {
	b := t.buckets.Load()
	if b == nil {
		return false
	}
	link := &(*b)[bucketOf(n.hash, len(*b))]
	for c := link.Load(); c != nil; c = link.Load() {
		if c.node == n {
			link.Store(c.next.Load())
			t.size--
			return true
		}
		link = &c.next
	}
	return false
}

// clear takes all nodes out and returns them. The caller holds t.mu.
func (t *table) clear() (all []*node) {
	if b := t.buckets.Swap(nil); b != nil {
		for i := range *b {
			for c := (*b)[i].Load(); c != nil; c = c.next.Load() {
				all = append(all, c.node)
			}
		}
	}
	t.size = 0
	return all
}

// grow publishes twice the buckets, with cells of their own.
func (t *table) grow() *[]atomic.Pointer[cell] {
	old := t.buckets.Load()
	if old == nil {
		fresh := make([]atomic.Pointer[cell], minBuckets)
		t.buckets.Store(&fresh)
		return &fresh
	}
	fresh := make([]atomic.Pointer[cell], 2*len(*old))
	for i := range *old {
		for c := (*old)[i].Load(); c != nil; c = c.next.Load() {
			head := &fresh[bucketOf(c.hash, len(fresh))]
			moved := &cell{hash: c.hash, node: c.node}
			moved.next.Store(head.Load())
			head.Store(moved)
		}
	}
	t.buckets.Store(&fresh)
	return &fresh
}

// bucketOf uses the low bits; the high ones have chosen the table.
func bucketOf(hash uint64, buckets int) uint64 { return hash & uint64(buckets-1) }
