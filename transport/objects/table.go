package objects

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// unknownMemory is the default limit where the machine's memory is not known.
const unknownMemory = 1 << 30

func defaultMemory() int64 {
	if n := machineMemory() / 2; n > 0 {
		return n
	}
	return unknownMemory
}

// TableOptions of a [Table]. The zero value is useful.
type TableOptions struct {
	// Memory is how many bytes the Table holds at most: those of its objects, those that arriving objects have announced, and those of deleted
	// objects that a reader still holds. 0 is half of what the machine has, or the control group of the process if that
	// is less; 1 GiB where that is not known.
	Memory int64
	// MaxObject is the length of the largest object. 0 is Memory.
	MaxObject int64
	// MaxObjects is how many objects there may be, so that tiny ones cannot take memory without limit. 0 is one for each 512 bytes of Memory,
	// but at least 65,536.
	MaxObjects int64
	// IdleMemory is how much memory of deleted objects is kept for the next ones, for half a minute; never more than Memory leaves room for. 0
	// is a quarter of Memory, less than 0 keeps nothing.
	IdleMemory int64

	// SpillDir is a directory for the least recently used objects when memory is full. Empty: such a put is refused. It is made if it does not
	// exist, and several servers may share one. Nobody else should have access: whoever shortens a file there kills the process that reads it. A
	// server that starts removes what dead ones of the same host name have left.
	SpillDir string
	// SpillBytes is how many bytes go there at most. 0 is as many as the disk takes.
	SpillBytes int64

	// TTL is how long an object lives that was put without one. 0 is for ever.
	TTL time.Duration

	// Logger is told what nobody else is: that spilling failed, that leftovers were removed. nil is silence.
	Logger *slog.Logger
}

// Stats is what a [Table] holds and has done so far. Under concurrent use the numbers need not be of one instant.
type Stats struct {
	Limit       int64 // TableOptions.Memory, or its default
	Objects     int64 // in memory and spilled
	Bytes       int64 // of objects in memory
	Reserved    int64 // bytes that arriving objects have announced or taken
	Lent        int64 // bytes of deleted, replaced or spilled objects that a reader still holds
	Idle        int64 // bytes kept for the next objects
	Spilled     int64 // objects on disk
	SpilledSize int64 // their bytes
	Puts        int64
	Hits        int64
	Misses      int64
	Evictions   int64 // by Evict
	Expirations int64 // by TTL
	Spills      int64
	Refusals    int64 // for lack of room, or too large
	Waiting     int64 // calls of Wait that wait now
}

const numShards = 64

// A Table is the [Store] of object servers: it holds objects in memory, outside the Go heap unless they are tiny. What it holds ends with the
// process; a server that is killed loses its objects, spilled ones too.
//
// A Table never deletes on its own to make room, since it is not a cache: who is refused room gets ErrFull. With a SpillDir, the least recently
// used objects go to disk instead and are read from there, through the page cache.
type Table struct {
	o       TableOptions
	mem     memory
	spill   *spill // nil without a SpillDir
	ttl     expiry
	seed    maphash.Seed
	clock   atomic.Int64 // counts puts: what "recently used" is measured in
	objects atomic.Int64
	evicted atomic.Int64
	expired atomic.Int64
	refused atomic.Int64
	shares  atomic.Int64 // open memory files
	maxOpen int64        // the most of them
	closed  atomic.Bool
	done    chan struct{}
	shards  [numShards]shard
}

type shard struct {
	mu      sync.RWMutex
	m       map[string]*entry
	waiters map[string]*waiters
	waiting int64 // calls
	puts    int64
	bytes   atomic.Int64 // in memory
	hits    atomic.Int64
	misses  atomic.Int64
	_       [64]byte // the next shard is on another cache line
}

// entry is one object. What may change is guarded by its shard's mutex, where nothing else is said.
type entry struct {
	id      string
	size    int64
	mod     int64 // Unix nanoseconds
	expires int64 // on the clock of Table.ttl; 0 is never
	heapAt  int   // place in Table.ttl's heap; guarded by its mutex
	used    atomic.Int64
	buf     *transport.Buffer // nil if spilled
	foreign bool              // buf is the caller's memory, or a peer's: the Table itself gives its bytes back
	file    spilled           // where it is, if spilled
	mapped  *transport.Buffer // the latest mapping of file, perhaps released already; no reference of ours
	share   *os.File          // the memory file that buf maps, if a peer may map it too
	convert sync.Mutex        // held while share is made
}

type waiters struct {
	ch chan struct{} // closed when the object appears
	n  int
}

var _ Store = (*Table)(nil)

// NewTable returns an empty Table. It fails only for a SpillDir that cannot be used.
func NewTable(o TableOptions) (*Table, error) {
	if o.Memory <= 0 {
		o.Memory = defaultMemory()
	}
	if o.MaxObject <= 0 {
		o.MaxObject = o.Memory
	}
	if o.MaxObjects <= 0 {
		o.MaxObjects = max(o.Memory/512, 1<<16)
	}
	if o.IdleMemory == 0 {
		o.IdleMemory = o.Memory / 4
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Table{o: o, seed: maphash.MakeSeed(), maxOpen: maxShares(), done: make(chan struct{})}
	t.mem.init(o.Memory, o.IdleMemory)
	t.ttl.start, t.ttl.expire = time.Now(), t.expire
	for i := range t.shards {
		t.shards[i].m = map[string]*entry{}
		t.shards[i].waiters = map[string]*waiters{}
	}
	if o.SpillDir != "" {
		s, err := openSpill(o)
		if err != nil {
			return nil, fmt.Errorf("spill directory: %w", err)
		}
		t.spill = s
	}
	return t, nil
}

func (t *Table) shard(id string) *shard { return &t.shards[maphash.String(t.seed, id)%numShards] }

// find returns the object, or nil. The shard's lock is held.
func (t *Table) find(s *shard, id string) *entry {
	e := s.m[id]
	if e == nil || e.expires != 0 && e.expires <= t.ttl.now() {
		return nil
	}
	return e
}

// touch notes that e was used. Where nothing was put since it was last, no cache line is written.
func (t *Table) touch(e *entry) {
	if now := t.clock.Load(); e.used.Load() != now {
		e.used.Store(now)
	}
}

// Get implements [Store].
func (t *Table) Get(id string) (*transport.Buffer, error) {
	s := t.shard(id)
	for {
		s.mu.RLock()
		e := t.find(s, id)
		if e == nil {
			s.mu.RUnlock()
			if t.closed.Load() {
				return nil, transport.ErrClosed
			}
			s.misses.Add(1)
			return nil, transport.ErrNotFound
		}
		t.touch(e)
		if e.buf != nil {
			b := e.buf.Retain()
			s.mu.RUnlock()
			s.hits.Add(1)
			return b, nil
		}
		if e.mapped != nil && e.mapped.TryRetain() {
			b := e.mapped
			s.mu.RUnlock()
			s.hits.Add(1)
			return b, nil
		}
		file := e.file
		s.mu.RUnlock()

		b, err := t.spill.read(file, e.size)
		s.mu.Lock()
		same := s.m[id] == e && e.buf == nil && e.file == file
		if same && err == nil {
			e.mapped = b
		}
		s.mu.Unlock()
		switch {
		case err == nil:
			s.hits.Add(1)
			return b, nil
		case same:
			return nil, err
		} // else it was deleted or replaced meanwhile, and its file with it
	}
}

// Stat implements [Store].
func (t *Table) Stat(id string) (Info, error) {
	s := t.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := t.find(s, id)
	switch {
	case e != nil:
		return Info{Size: e.size, ModTime: time.Unix(0, e.mod)}, nil
	case t.closed.Load():
		return Info{}, transport.ErrClosed
	}
	return Info{}, transport.ErrNotFound
}

// Exists implements [Store].
func (t *Table) Exists(id string) bool {
	s := t.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return t.find(s, id) != nil
}

// Evict implements [Store].
func (t *Table) Evict(id string) bool {
	s := t.shard(id)
	s.mu.Lock()
	e := t.find(s, id)
	if e == nil {
		s.mu.Unlock() // one that has expired is deleted by its timer
		return false
	}
	gone := t.remove(s, e)
	s.mu.Unlock()
	t.evicted.Add(1)
	t.drop(gone)
	return true
}

// dropped is what an object leaves behind; see drop.
type dropped struct {
	buf     *transport.Buffer
	foreign bool
	file    spilled
	size    int64 // of file
	share   *os.File
}

// remove takes e out of the shard, whose lock is held. What it leaves is dropped when the lock is not held any more: that may take long.
func (t *Table) remove(s *shard, e *entry) dropped {
	delete(s.m, e.id)
	t.objects.Add(-1)
	t.ttl.remove(e)
	if e.buf != nil {
		s.bytes.Add(-e.size)
	}
	gone := dropped{e.buf, e.foreign, e.file, e.size, e.share}
	e.buf, e.share, e.mapped = nil, nil, nil // spill's queue may know e for long
	return gone
}

func (t *Table) drop(d dropped) {
	if d.buf != nil {
		n := d.buf.Len()
		d.buf.Release()
		if d.foreign {
			t.mem.giveBack(int64(n))
		}
	}
	if d.file != (spilled{}) {
		t.spill.remove(d.file, d.size)
	}
	if d.share != nil {
		_ = d.share.Close() // nothing is written to it
		t.shares.Add(-1)
	}
}

// expire deletes e, whose time has come, unless it is gone already.
func (t *Table) expire(e *entry) {
	s := t.shard(e.id)
	s.mu.Lock()
	if s.m[e.id] != e {
		s.mu.Unlock()
		return
	}
	gone := t.remove(s, e)
	s.mu.Unlock()
	t.expired.Add(1)
	t.drop(gone)
}

// publish makes e visible and wakes who waits for it. On error e's memory is still the caller's.
func (t *Table) publish(e *entry, o PutOptions) error {
	e.mod = time.Now().UnixNano()
	ttl := o.TTL
	if ttl <= 0 {
		ttl = t.o.TTL
	}
	if now := t.ttl.now(); ttl > 0 && int64(ttl) < math.MaxInt64-now { // longer is for ever
		e.expires = now + int64(ttl)
	}
	e.heapAt = -1
	s := t.shard(e.id)
	s.mu.Lock()
	if t.closed.Load() {
		s.mu.Unlock()
		return transport.ErrClosed
	}
	old := s.m[e.id]
	if old == nil && t.objects.Add(1) > t.o.MaxObjects {
		t.objects.Add(-1)
		s.mu.Unlock()
		return t.tooMany()
	}
	e.used.Store(t.clock.Add(1))
	var gone dropped
	if old != nil {
		gone = t.remove(s, old)
		t.objects.Add(1)
	}
	s.m[e.id] = e
	s.bytes.Add(e.size)
	s.puts++
	if e.expires != 0 {
		t.ttl.add(e)
	}
	if w := s.waiters[e.id]; w != nil {
		close(w.ch)
		delete(s.waiters, e.id)
	}
	s.mu.Unlock()
	t.drop(gone)
	return nil
}

// admit checks an object before any memory is taken for it.
func (t *Table) admit(id string, size int64) error {
	if t.closed.Load() {
		return transport.ErrClosed
	}
	if len(id) == 0 || len(id) > MaxID {
		return fmt.Errorf("%w: %d bytes long, not 1 to %d", transport.ErrInvalidKey, len(id), MaxID)
	}
	if t.objects.Load() >= t.o.MaxObjects && !t.Exists(id) {
		return t.tooMany()
	}
	return t.fits(size)
}

func (t *Table) tooMany() error {
	t.refused.Add(1)
	return fmt.Errorf("%w: there are %d objects, the most there may be; evict some, or raise the limit", transport.ErrFull, t.o.MaxObjects)
}

// fits checks that an object of that size could be stored at all.
func (t *Table) fits(size int64) error {
	switch {
	case size > t.o.MaxObject:
		t.refused.Add(1)
		return fmt.Errorf("%w: an object of %d bytes, the server takes at most %d; cut it, or raise the server's limit", transport.ErrTooLarge,
			size, t.o.MaxObject)
	case size > t.o.Memory:
		t.refused.Add(1)
		return fmt.Errorf("%w: an object of %d bytes, the server has %d bytes of memory in all; cut it, or raise --memory (storage.quota of an endpoint)", transport.ErrTooLarge,
			size, t.o.Memory)
	}
	return nil
}

// reserve counts n more bytes against the limit, after spilling if need be.
func (t *Table) reserve(n int64) error {
	if t.mem.take(n) {
		return nil
	}
	why := "give --spill-dir"
	if t.spill != nil {
		err := t.makeRoom(n)
		if err == nil {
			return nil
		}
		if errors.Is(err, transport.ErrClosed) {
			return err
		}
		why = "spilling does not help: " + err.Error()
	}
	t.refused.Add(1)
	return fmt.Errorf("%w: %d bytes of %d are taken, and %d more were asked for; evict objects, raise --memory (storage.quota of an endpoint), or %s",
		transport.ErrFull, t.mem.used.Load(), t.o.Memory, n, why)
}

// ownFrom is the size up to which Put copies memory that is not the garbage collector's: it may be a small part of something large.
const ownFrom = 64 << 10

// Put implements [Store]. Large memory stays where it is, so that nothing is copied; it counts against the limit while the Table keeps it, and not
// for readers that hold it longer.
func (t *Table) Put(id string, b *transport.Buffer, o PutOptions) error {
	size := int64(b.Len())
	err := t.admit(id, size)
	if err == nil {
		err = t.reserve(size)
	}
	if err != nil {
		b.Release()
		return err
	}
	e := &entry{id: id, size: size, buf: b, foreign: true}
	if b.Backing() != transport.GC && size <= ownFrom {
		mem := t.mem.alloc(int(size))
		copy(mem, b.Bytes())
		b.Release()
		e.buf, e.foreign = t.mem.buffer(mem), false
	}
	if err := t.publish(e, o); err != nil {
		t.drop(dropped{buf: e.buf, foreign: e.foreign})
		return err
	}
	return nil
}

// Wait implements [Store].
func (t *Table) Wait(ctx context.Context, id string) error {
	s := t.shard(id)
	s.mu.Lock()
	if t.find(s, id) != nil {
		s.mu.Unlock()
		return nil
	}
	if t.closed.Load() {
		s.mu.Unlock()
		return transport.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		s.mu.Unlock()
		return err
	}
	w := s.waiters[id]
	if w == nil {
		w = &waiters{ch: make(chan struct{})}
		s.waiters[id] = w
	}
	w.n++
	s.waiting++
	s.mu.Unlock()

	var err error
	select {
	case <-w.ch:
	case <-ctx.Done():
		err = ctx.Err()
	case <-t.done:
		err = transport.ErrClosed
	}
	s.mu.Lock()
	s.waiting--
	if w.n--; w.n == 0 && s.waiters[id] == w {
		delete(s.waiters, id)
	}
	s.mu.Unlock()
	return err
}

// Stats returns what t holds and has done so far.
func (t *Table) Stats() Stats {
	st := Stats{
		Limit:   t.o.Memory,
		Objects: t.objects.Load(), Reserved: t.mem.reserved.Load(), Idle: t.mem.idle(), Evictions: t.evicted.Load(), Expirations: t.expired.Load(),
		Refusals: t.refused.Load(),
	}
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		st.Waiting += s.waiting
		st.Puts += s.puts
		s.mu.RUnlock()
		st.Bytes += s.bytes.Load()
		st.Hits += s.hits.Load()
		st.Misses += s.misses.Load()
	}
	st.Lent = max(t.mem.used.Load()-st.Reserved-st.Bytes, 0)
	if t.spill != nil {
		st.Spilled, st.SpilledSize, st.Spills = t.spill.objects.Load(), t.spill.bytes.Load(), t.spill.spills.Load()
	}
	return st
}

// Close deletes all objects and their files, and wakes who waits. Buffers that were handed out stay valid. Later calls, and objects that are still on
// their way in, fail with ErrClosed. Idempotent.
func (t *Table) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	close(t.done)
	t.ttl.close()
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock() // whoever publishes later sees that t is closed
		var gone []dropped
		for _, e := range s.m {
			gone = append(gone, t.remove(s, e))
		}
		s.mu.Unlock()
		for _, d := range gone {
			t.drop(d)
		}
	}
	t.mem.close()
	if t.spill != nil {
		return t.spill.close()
	}
	return nil
}
