package connectortest

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// benchSizes are those of every table of ours.
var benchSizes = []struct {
	name string
	n    int
}{{"1KiB", 1 << 10}, {"100KiB", 100 << 10}, {"1MiB", 1 << 20}, {"64MiB", 64 << 20}}

// benchBatch is how many objects op=batch moves at once.
const benchBatch = 16

// Bench runs the benchmarks that every connector has, named op=get/size=1MiB and so on, so that benchstat can put connectors side by side.
//
//   - put: Put and Evict of the object before; metrics put-ns/op and evict-ns/op tell them apart.
//   - get: Get, one byte of each page looked at, Release. set: Set of one key, where there are deferred keys.
//   - exists, stat: of an object that is there. range: 4 KiB from the middle.
//   - putstream, getstream: whole objects through ReadFrom and WriteTo.
//   - batch: PutBatch, GetBatch and EvictBatch of 16 objects, up to 1 MiB each.
//
// get, set and exists also report the 50th and 99th percentile, of a sample.
func Bench(b *testing.B, newHarness func(t testing.TB) Harness) {
	for _, size := range benchSizes {
		for _, bm := range benchmarks {
			if bm.op == "batch" && size.n > 1<<20 {
				continue // a gigabyte at once
			}
			b.Run(fmt.Sprintf("op=%s/size=%s", bm.op, size.name), func(b *testing.B) {
				h := newHarness(b)
				if h.MaxSize == 0 {
					h.MaxSize = defaultMaxSize
				}
				s := &suite{TB: b, Harness: h, ctx: b.Context()}
				if int64(size.n) > h.MaxSize {
					b.ReportMetric(0, "ns/op") // not of this connector; the row stays, and says so
					return
				}
				c := h.Open(b)
				defer c.Close(b.Context())
				if bm.op == "set" && !s.defers(c) {
					b.ReportMetric(0, "ns/op")
					return
				}
				data := payload(size.n, 1)
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				bm.run(b, s, c, data)
			})
		}
	}
}

var benchmarks = []struct {
	op  string
	run func(b *testing.B, s *suite, c connectors.Connector, data []byte)
}{
	{"put", benchPut},
	{"set", func(b *testing.B, s *suite, c connectors.Connector, data []byte) {
		key := s.newKey(c)
		obj := one(data)
		sampled(b, func() error { return connectors.Set(s.ctx, c, key, obj) })
		s.holds(c, key, data)
		s.evict(c, key)
	}},
	{"get", func(b *testing.B, s *suite, c connectors.Connector, data []byte) {
		key := s.put(c, data)
		s.holds(c, key, data)
		var sum byte
		sampled(b, func() error {
			buf, err := c.Get(s.ctx, key)
			if err != nil {
				return err
			}
			got := buf.Bytes()
			for i := 0; i < len(got); i += 4096 {
				sum += got[i]
			}
			buf.Release()
			return nil
		})
		sink = sum
		s.evict(c, key)
	}},
	{"exists", func(b *testing.B, s *suite, c connectors.Connector, data []byte) {
		b.SetBytes(0)
		key := s.put(c, data)
		sampled(b, func() error {
			_, err := c.Exists(s.ctx, key)
			return err
		})
		s.evict(c, key)
	}},
	{"stat", func(b *testing.B, s *suite, c connectors.Connector, data []byte) {
		b.SetBytes(0)
		key := s.put(c, data)
		for b.Loop() {
			if _, err := connectors.Stat(s.ctx, c, key); err != nil {
				b.Fatal(err)
			}
		}
		s.evict(c, key)
	}},
	{"range", func(b *testing.B, s *suite, c connectors.Connector, data []byte) {
		key := s.put(c, data)
		off := int64(len(data) / 2)
		b.SetBytes(min(4096, int64(len(data))-off))
		for b.Loop() {
			buf, err := connectors.GetRange(s.ctx, c, key, off, 4096)
			if err != nil {
				b.Fatal(err)
			}
			buf.Release()
		}
		s.evict(c, key)
	}},
	{"putstream", func(b *testing.B, s *suite, c connectors.Connector, data []byte) {
		for b.Loop() {
			w, err := connectors.PutStream(s.ctx, c, int64(len(data)))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := w.ReadFrom(bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
			key, err := w.Commit()
			if err != nil {
				b.Fatal(err)
			}
			if err := c.Evict(s.ctx, key); err != nil {
				b.Fatal(err)
			}
		}
	}},
	{"getstream", func(b *testing.B, s *suite, c connectors.Connector, data []byte) {
		key := s.put(c, data)
		for b.Loop() {
			r, err := connectors.GetStream(s.ctx, c, key)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := r.WriteTo(io.Discard); err != nil {
				b.Fatal(err)
			}
			r.Close()
		}
		s.evict(c, key)
	}},
	{"batch", func(b *testing.B, s *suite, c connectors.Connector, data []byte) {
		objs := slices.Repeat([]transport.Slices{one(data)}, benchBatch)
		b.SetBytes(int64(len(data)) * benchBatch)
		for b.Loop() {
			keys, err := connectors.PutBatch(s.ctx, c, objs)
			if err != nil {
				b.Fatal(err)
			}
			bufs, err := connectors.GetBatch(s.ctx, c, keys)
			if err != nil {
				b.Fatal(err)
			}
			for _, buf := range bufs {
				buf.Release()
			}
			if err := connectors.EvictBatch(s.ctx, c, keys); err != nil {
				b.Fatal(err)
			}
		}
	}},
}

// sink keeps what a benchmark has read alive.
var sink byte

// benchPut evicts, so that the storage does not fill; the clock is read in between, which costs less than either.
func benchPut(b *testing.B, s *suite, c connectors.Connector, data []byte) {
	obj := one(data)
	var puts, evicts time.Duration
	n := 0
	for b.Loop() {
		start := time.Now()
		key, err := c.Put(s.ctx, obj)
		if err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		if err := c.Evict(s.ctx, key); err != nil {
			b.Fatal(err)
		}
		puts += middle.Sub(start)
		evicts += time.Since(middle)
		n++
	}
	b.ReportMetric(float64(puts.Nanoseconds())/float64(n), "put-ns/op")
	b.ReportMetric(float64(evicts.Nanoseconds())/float64(n), "evict-ns/op")
}

// sampled runs f in the benchmark's loop, and times one call in 16 by itself.
func sampled(b *testing.B, f func() error) {
	times := make([]time.Duration, 0, 1<<14)
	n := 0
	for b.Loop() {
		var start time.Time
		timed := n%16 == 0
		if timed {
			start = time.Now()
		}
		if err := f(); err != nil {
			b.Fatal(err)
		}
		if timed {
			if t := time.Since(start); len(times) < cap(times) {
				times = append(times, t)
			} else {
				times[n/16%cap(times)] = t
			}
		}
		n++
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2]), "p50-ns")
	b.ReportMetric(float64(times[len(times)*99/100]), "p99-ns")
}
