package connectortest

import (
	"errors"
	"math"
	"slices"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

func checkSet(s *suite) {
	a, b := s.open(), s.open()
	if !s.defers(a) {
		return
	}
	before := s.count()
	seen := map[connectors.Key]bool{}
	for range 50 {
		key := s.newKey(a)
		if seen[key] {
			s.Fatalf("NewKey gave %s twice", connectors.FormatKey(key))
		}
		seen[key] = true
		if ok, err := b.Exists(s.ctx, key); ok || err != nil {
			s.Errorf("Exists of a new key = %t, %v", ok, err)
		}
	}
	key := s.newKey(a)
	s.lacks(a, key)
	for _, n := range s.upTo([]int{1000, 100_000, 10, 0, 5000, 1 << 20, 1}) { // growing and shrinking
		data := payload(n, n)
		s.set(a, key, data)
		s.holds(a, key, data)
		s.holds(b, key, data)
	}
	s.evict(b, key)
	s.lacks(a, key)
	s.set(b, key, []byte("again")) // an evicted key is a new key
	s.holds(a, key, []byte("again"))

	put := s.put(a, []byte("first")) // the key of a Put may be Set, too
	s.set(b, put, []byte("second"))
	s.holds(a, put, []byte("second"))

	many := payload(5000, 9)
	if err := connectors.Set(s.ctx, a, put, split(many, 1, 0, 100)); err != nil {
		s.Errorf("Set of many parts: %v", err)
	}
	s.holds(b, put, many)
	s.evict(a, key)
	s.evict(a, put)
	s.counted(before, "after all objects were evicted")
}

func checkBatch(s *suite) {
	a, b := s.open(), s.open()
	before := s.count()
	const n = 200
	objs := make([]transport.Slices, n)
	datas := make([][]byte, n)
	for i := range n {
		datas[i] = payload(i*31%997, i)
		if i%2 == 0 {
			objs[i] = one(datas[i])
		} else {
			objs[i] = split(datas[i], 3, 0, 100)
		}
	}
	keys, err := connectors.PutBatch(s.ctx, a, objs)
	if err != nil || len(keys) != n {
		s.Fatalf("PutBatch of %d objects: %d keys, %v", n, len(keys), err)
	}
	for i, key := range keys {
		if key == nil {
			s.Fatalf("PutBatch: key %d is nil", i)
		}
	}
	for _, i := range []int{0, 1, n / 2, n - 1} {
		s.holds(b, keys[i], datas[i])
	}

	// Some missing, one twice, and all in another order.
	gone := map[int]bool{3: true, 77: true, n - 2: true}
	for i := range gone {
		s.evict(b, keys[i])
	}
	order := make([]int, 0, n+1)
	for i := range n {
		order = append(order, (i*7+5)%n)
	}
	order = append(order, 0)
	asked := make([]connectors.Key, len(order))
	for i, o := range order {
		asked[i] = keys[o]
	}
	bufs, err := connectors.GetBatch(s.ctx, b, asked)
	if err != nil || len(bufs) != len(asked) {
		s.Fatalf("GetBatch of %d keys: %d buffers, %v", len(asked), len(bufs), err)
	}
	for i, buf := range bufs {
		switch o := order[i]; {
		case gone[o] && buf != nil:
			s.Errorf("GetBatch: a Buffer for a missing object at %d", i)
		case gone[o]:
		case buf == nil:
			s.Errorf("GetBatch: nil for an object that is there, at %d", i)
		default:
			if d := differ(buf.Bytes(), datas[o]); d != "" {
				s.Errorf("GetBatch: wrong object at %d: %s", i, d)
			}
		}
	}
	for _, buf := range bufs {
		buf.Release()
	}

	if keys, err := connectors.PutBatch(s.ctx, a, nil); err != nil || len(keys) != 0 {
		s.Errorf("PutBatch of nothing = %v, %v", keys, err)
	}
	if bufs, err := connectors.GetBatch(s.ctx, a, nil); err != nil || len(bufs) != 0 {
		s.Errorf("GetBatch of nothing = %v, %v", bufs, err)
	}
	if err := connectors.EvictBatch(s.ctx, a, nil); err != nil {
		s.Errorf("EvictBatch of nothing: %v", err)
	}
	if bufs, err := connectors.GetBatch(s.ctx, a, []connectors.Key{keys[0], nil, keys[1]}); !errors.Is(err, connectors.ErrInvalidKey) {
		s.Errorf("GetBatch with a nil key: %v, %v; want ErrInvalidKey", bufs, err)
		for _, buf := range bufs {
			buf.Release()
		}
	}
	if err := connectors.EvictBatch(s.ctx, a, asked); err != nil { // with missing ones and one twice
		s.Errorf("EvictBatch: %v", err)
	}
	for _, i := range []int{0, 1, n / 2, n - 1} {
		s.lacks(b, keys[i])
	}
	s.counted(before, "after all objects were evicted")
}

func checkRange(s *suite) {
	c := s.open()
	for _, size := range []int{0, 1, 10_000, 200_000} {
		data := payload(size, size)
		key := s.put(c, data)
		end := int64(size)
		for _, off := range []int64{0, 1, 2, 4095, 4096, 4097, 65_537, end / 2, end - 1, end} {
			if off < 0 || off > end {
				continue
			}
			for _, n := range []int64{0, 1, 2, 100, 4096, end - off - 1, end - off, end - off + 1, 2 * end, math.MaxInt64, -1, -2, math.MinInt64} {
				b, err := connectors.GetRange(s.ctx, c, key, off, n)
				if err != nil {
					s.Errorf("GetRange(%d, %d) of %d bytes: %v", off, n, size, err)
					continue
				}
				want := data[off:]
				if n >= 0 && n < end-off {
					want = data[off : off+n]
				}
				if d := differ(b.Bytes(), want); d != "" {
					s.Errorf("GetRange(%d, %d) of %d bytes: %s", off, n, size, d)
				}
				b.Release()
			}
		}
		for _, off := range []int64{-1, math.MinInt64, end + 1, math.MaxInt64} {
			for _, n := range []int64{0, 1, -1, math.MaxInt64} {
				b, err := connectors.GetRange(s.ctx, c, key, off, n)
				if why := isErr(c, err, connectors.ErrInvalidRange); why != "" {
					s.Errorf("GetRange(%d, %d) of %d bytes: %s", off, n, size, why)
				}
				if b != nil {
					s.Errorf("GetRange(%d, %d) of %d bytes gives a Buffer", off, n, size)
					b.Release()
				}
			}
		}
		if size > 100 {
			b, err := connectors.GetRange(s.ctx, c, key, 5, 50)
			if err != nil {
				s.Fatalf("GetRange: %v", err)
			}
			s.evict(c, key)
			if d := differ(b.Bytes(), data[5:55]); d != "" {
				s.Errorf("GetRange, after Evict: %s", d)
			}
			b.Release()
		}
		s.evict(c, key)
	}
}

// checkTags puts without tags, which every connector can, and with tags, which only a Tagger can. Policies are the Tagger's own tests' matter.
func checkTags(s *suite) {
	c := s.open()
	key, err := connectors.PutTagged(s.ctx, c, one([]byte("data")), connectors.Tags{})
	if err != nil {
		s.Fatalf("PutTagged without tags: %v", err)
	}
	s.holds(c, key, []byte("data"))
	if s.wants("Tagger") || slices.Contains(s.Want, "Tagger?") {
		return
	}
	if _, err := connectors.PutTagged(s.ctx, c, nil, connectors.Tags{Subset: []string{"x"}}); !errors.Is(err, errors.ErrUnsupported) {
		s.Errorf("PutTagged of a connector without policies: %v, want errors.ErrUnsupported", err)
	}
}
