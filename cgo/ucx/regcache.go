package ucx

import (
	"container/list"
	"slices"
	"sort"
	"sync"
	"unsafe"
)

// A Cache keeps registrations of memory that comes back: registering costs much more than using. It is keyed by the range of addresses, keeps the
// longest unused ones up to a bound, and must be told when memory goes away: Invalidate. All methods may be called by many goroutines at once.
type Cache struct {
	register func([]byte) (*Memory, error)
	limit    int64

	mu      sync.Mutex
	ranges  []*cached // by address; they may overlap
	longest uintptr   // of them
	idle    list.List // *cached that nobody uses, the one used last in front
	bytes   int64     // of the idle ones
	closed  bool
}

type cached struct {
	from, to uintptr
	mem      *Memory
	refs     int
	place    *list.Element // in idle
	stale    bool          // in ranges no more
}

// NewCache returns a Cache that keeps at most limit bytes registered that nobody uses.
func (c *Context) NewCache(limit int64) *Cache { return &Cache{register: c.Register, limit: limit} }

// Acquire returns a registration that covers mem, new or kept, and the function that gives it back, to be called once. mem must stay allocated until
// Invalidate is called with it.
func (c *Cache) Acquire(mem []byte) (*Memory, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, errCacheClosed
	}
	from, to := span(mem)
	for i := c.after(from) - 1; i >= 0 && c.ranges[i].from+c.longest >= to && len(mem) > 0; i-- {
		if e := c.ranges[i]; e.from <= from && to <= e.to {
			c.use(e)
			return e.mem, c.giveBack(e), nil
		}
	}
	m, err := c.register(mem)
	if err != nil && c.idle.Len() > 0 { // the limit of locked memory may be reached
		c.trim(0)
		m, err = c.register(mem)
	}
	if err != nil {
		return nil, nil, err
	}
	e := &cached{from: from, to: to, mem: m, refs: 1}
	c.ranges = slices.Insert(c.ranges, c.after(from), e)
	c.longest = max(c.longest, to-from)
	return m, c.giveBack(e), nil
}

func span(mem []byte) (from, to uintptr) {
	from = uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	return from, from + uintptr(len(mem))
}

// after returns the index of the first range that begins after addr.
func (c *Cache) after(addr uintptr) int {
	return sort.Search(len(c.ranges), func(i int) bool { return c.ranges[i].from > addr })
}

func (c *Cache) use(e *cached) {
	if e.refs++; e.place != nil {
		c.idle.Remove(e.place)
		e.place = nil
		c.bytes -= int64(e.to - e.from)
	}
}

func (c *Cache) giveBack(e *cached) func() {
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if e.refs--; e.refs > 0 {
			return
		}
		if e.stale || c.closed {
			_ = e.mem.Close()
			return
		}
		e.place = c.idle.PushFront(e)
		c.bytes += int64(e.to - e.from)
		c.trim(c.limit)
	})
}

// trim closes the registrations that were unused for longest.
func (c *Cache) trim(limit int64) {
	for c.bytes > limit && c.idle.Len() > 0 {
		e := c.idle.Back().Value.(*cached)
		c.remove(e)
	}
}

// remove takes e out, and closes it unless it is used; then that comes with its last use.
func (c *Cache) remove(e *cached) {
	if i := slices.Index(c.ranges, e); i >= 0 {
		c.ranges = slices.Delete(c.ranges, i, i+1)
	}
	e.stale = true
	if e.place != nil {
		c.idle.Remove(e.place)
		e.place = nil
		c.bytes -= int64(e.to - e.from)
	}
	if e.refs == 0 {
		_ = e.mem.Close()
	}
}

// Invalidate forgets all registrations that touch mem, which is about to be freed or used for something else. Those in use it can only keep from being
// handed out again: the caller sees to it that there are none.
func (c *Cache) Invalidate(mem []byte) {
	from, to := span(mem)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := sort.Search(len(c.ranges), func(i int) bool { return c.ranges[i].from >= to }) - 1; i >= 0 && c.ranges[i].from+c.longest > from; i-- {
		if c.ranges[i].to > from {
			c.remove(c.ranges[i])
		}
	}
}

// Idle returns how many registrations are kept that nobody uses, and their bytes.
func (c *Cache) Idle() (n int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idle.Len(), c.bytes
}

// Close ends all registrations that nobody uses, and the others when they are given back.
func (c *Cache) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.trim(-1)
	for c.idle.Len() > 0 {
		c.remove(c.idle.Back().Value.(*cached))
	}
}
