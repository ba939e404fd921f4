package metrics

import (
	"hash/maphash"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultMaxKeys is how many keys have records of their own unless [New] is told otherwise.
const DefaultMaxKeys = 4096

// StoreMetrics records the operations of one store. All methods may be called by many goroutines at once, and on nil, where they do nothing
// and return nothing.
type StoreMetrics struct {
	seed   maphash.Seed
	shards []shard // by key; their number is a power of two
}

// shard keeps the records of some keys, and totals of all that ever came its way.
type shard struct {
	mu      sync.Mutex
	maxKeys int
	records map[string]*record
	oldest  record // the ring's anchor: next is the record updated longest ago, prev the newest
	totals  Totals
	_       [64]byte // the next shard's mutex is not on this one's cache line
}

// record is the metrics of one key. There are few names, so lists do, and take less memory than maps.
type record struct {
	key        string
	attributes []named[any]
	counters   []named[int64]
	times      []named[TimeStats]
	prev, next *record
}

type named[V any] struct {
	name  string
	value V
}

// at returns the place of a name, which it appends if there is none.
func at[V any](list *[]named[V], name string) *V {
	for i := range *list {
		if (*list)[i].name == name {
			return &(*list)[i].value
		}
	}
	*list = append(*list, named[V]{name: name})
	return &(*list)[len(*list)-1].value
}

func toMap[V any](list []named[V]) map[string]V {
	m := make(map[string]V, len(list))
	for _, e := range list {
		m[e.name] = e.value
	}
	return m
}

// New returns a StoreMetrics that keeps records of at most maxKeys keys, [DefaultMaxKeys] if it is not positive. When there are more, those
// updated longest ago are dropped; above 127 that is decided among a part of the keys at a time.
func New(maxKeys int) *StoreMetrics {
	if maxKeys <= 0 {
		maxKeys = DefaultMaxKeys
	}
	shards := 1
	for shards < 16 && maxKeys/shards >= 128 {
		shards *= 2
	}
	m := &StoreMetrics{seed: maphash.MakeSeed(), shards: make([]shard, shards)}
	for i := range m.shards {
		s := &m.shards[i]
		s.maxKeys = maxKeys / shards
		s.records = make(map[string]*record)
		s.oldest.prev, s.oldest.next = &s.oldest, &s.oldest
		s.totals = Totals{make(map[string]TimeStats), make(map[string]int64), make(map[string]SizeStats)}
	}
	return m
}

// KeyOf returns the key of a batch: different batches have different ones, and none equals that of a single key it consists of.
func KeyOf(keys []string) string {
	var b strings.Builder
	n := 1
	for _, k := range keys {
		n += len(k) + 8
	}
	b.Grow(n)
	b.WriteByte('[')
	for _, k := range keys {
		b.WriteString(strconv.Itoa(len(k)))
		b.WriteByte(':')
		b.WriteString(k)
	}
	return b.String()
}

// Start returns the time now, for [StoreMetrics.AddSince], and on nil no time, without asking the clock.
func (m *StoreMetrics) Start() (start time.Time) {
	if m != nil {
		start = time.Now()
	}
	return start
}

// AddSince is AddTime of what has passed since Start.
func (m *StoreMetrics) AddSince(name, key string, start time.Time) {
	if m != nil {
		now := time.Now()
		m.addTime(name, key, now.Sub(start), now)
	}
}

// AddTime records that the operation called name took d for the object of key: for a connector's key its Identity, for a batch [KeyOf] of them.
func (m *StoreMetrics) AddTime(name, key string, d time.Duration) {
	if m != nil {
		m.addTime(name, key, d, time.Now())
	}
}

func (m *StoreMetrics) addTime(name, key string, d time.Duration, now time.Time) {
	t := one(d, now)
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.totals.Times[name] = s.totals.Times[name].Add(t)
	p := at(&s.record(key).times, name)
	*p = p.Add(t)
}

// AddCounter adds n to a counter.
func (m *StoreMetrics) AddCounter(name, key string, n int64) {
	if m == nil {
		return
	}
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.totals.Counters[name] += n
	*at(&s.record(key).counters, name) += n
}

// AddAttribute sets an attribute of the key. It keeps value, which nobody may change afterwards. Integers and slices of them are taken for
// sizes and summed up over all keys too.
func (m *StoreMetrics) AddAttribute(name, key string, value any) {
	if m == nil {
		return
	}
	sizes := sizesOf(value)
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if sizes.Count > 0 {
		s.totals.Sizes[name] = s.totals.Sizes[name].Add(sizes)
	}
	*at(&s.record(key).attributes, name) = value
}

func (m *StoreMetrics) shard(key string) *shard {
	if len(m.shards) == 1 {
		return &m.shards[0]
	}
	return &m.shards[maphash.String(m.seed, key)&uint64(len(m.shards)-1)]
}

// record returns the record of key as the newest, dropping the oldest to make room. The caller holds s.mu.
func (s *shard) record(key string) *record {
	r := s.records[key]
	switch {
	case r != nil:
		r.prev.next, r.next.prev = r.next, r.prev
	case len(s.records) >= s.maxKeys:
		r = s.oldest.next
		r.prev.next, r.next.prev = r.next, r.prev
		delete(s.records, r.key)
		// Its lists are used again: a store does the same things to each of its objects.
		clear(r.attributes)
		*r = record{key: key, attributes: r.attributes[:0], counters: r.counters[:0], times: r.times[:0]}
		s.records[key] = r
	default:
		r = &record{key: key}
		s.records[key] = r
	}
	newest := s.oldest.prev
	r.prev, r.next = newest, &s.oldest
	newest.next, s.oldest.prev = r, r
	return r
}

// GetMetrics returns what is recorded for a key (for a batch: [KeyOf]), and whether there is anything.
func (m *StoreMetrics) GetMetrics(key string) (Metrics, bool) {
	if m == nil {
		return Metrics{}, false
	}
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[key]
	if r == nil {
		return Metrics{}, false
	}
	return Metrics{toMap(r.attributes), toMap(r.counters), toMap(r.times)}, true
}

// AggregateTimes returns the times of each operation over all keys, dropped ones included.
func (m *StoreMetrics) AggregateTimes() map[string]TimeStats { return m.Totals().Times }

// Totals returns everything recorded over all keys, dropped ones included. The maps are the caller's. Under concurrent use the numbers need not
// be of one instant.
func (m *StoreMetrics) Totals() Totals {
	t := Totals{make(map[string]TimeStats), make(map[string]int64), make(map[string]SizeStats)}
	if m == nil {
		return t
	}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		t.Add(s.totals)
		s.mu.Unlock()
	}
	return t
}

// Keys returns how many keys have records now.
func (m *StoreMetrics) Keys() int {
	if m == nil {
		return 0
	}
	n := 0
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += len(s.records)
		s.mu.Unlock()
	}
	return n
}
