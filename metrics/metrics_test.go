package metrics

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRecordAndQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // for exact timestamps
		m := New(0)
		start := time.Now()
		m.AddTime(Put, "k", 2*time.Millisecond)
		time.Sleep(time.Second)
		m.AddTime(Put, "k", 500*time.Microsecond)
		m.AddCounter(CacheHits, "k", 1)
		m.AddCounter(CacheHits, "k", 2)
		m.AddAttribute(PutObjectSize, "k", 10)
		m.AddAttribute(PutObjectSize, "k", 20)
		m.AddTime(Put, "other", 8*time.Millisecond)
		m.AddAttribute("mood", "other", "good")

		got, ok := m.GetMetrics("k")
		want := Metrics{
			Attributes: map[string]any{PutObjectSize: 20},
			Counters:   map[string]int64{CacheHits: 3},
			Times:      map[string]TimeStats{Put: {2, 1.25, 0.5, 2, 0.5, float64(start.Unix() + 1)}},
		}
		if !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("GetMetrics = %+v, %v\nwant %+v", got, ok, want)
		}
		if _, ok := m.GetMetrics("never"); ok {
			t.Error("GetMetrics of an unknown key")
		}
		times := m.AggregateTimes()[Put]
		if times.Count != 3 || times.MinTimeMS != 0.5 || times.MaxTimeMS != 8 || math.Abs(times.AvgTimeMS-3.5) > 1e-9 {
			t.Errorf("AggregateTimes = %+v", times)
		}
		totals := m.Totals()
		if totals.Counters[CacheHits] != 3 || totals.Sizes[PutObjectSize] != (SizeStats{2, 30}) || len(totals.Sizes) != 1 {
			t.Errorf("Totals = %+v", totals)
		}
		begin := m.Start()
		time.Sleep(3 * time.Millisecond)
		m.AddSince(Get, "k", begin)
		if got, _ := m.GetMetrics("k"); got.Times[Get].LastTimeMS != 3 {
			t.Errorf("AddSince: %+v", got.Times[Get])
		}
	})
}

// The field names are those of dataclasses.asdict(proxystore.store.metrics.Metrics).
func TestJSON(t *testing.T) {
	m := Metrics{
		Attributes: map[string]any{GetObjectSize: 5},
		Counters:   map[string]int64{CacheMisses: 1},
		Times:      map[string]TimeStats{Get: {2, 1.5, 1, 2, 2, 1700000000.25}},
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"attributes":{"store.get.object_size":5},"counters":{"store.get.cache_misses":1},` +
		`"times":{"store.get":{"count":2,"avg_time_ms":1.5,"min_time_ms":1,"max_time_ms":2,"last_time_ms":2,"last_timestamp":1700000000.25}}}`
	if string(b) != want {
		t.Errorf("JSON = %s\nwant   %s", b, want)
	}
	var back Metrics
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back.Times, m.Times) {
		t.Errorf("back from JSON: %+v, %v", back, err)
	}
	if _, err := json.Marshal(TimeStats{}); err != nil {
		t.Errorf("the zero value: %v", err)
	}
}

func TestTimeStatsAdd(t *testing.T) {
	a, b := TimeStats{1, 4, 4, 4, 4, 100}, TimeStats{3, 8, 2, 20, 6, 50}
	want := TimeStats{4, 7, 2, 20, 4, 100}
	for _, got := range []TimeStats{a.Add(b), b.Add(a)} {
		if got != want {
			t.Errorf("Add = %+v, want %+v", got, want)
		}
	}
	if a.Add(TimeStats{}) != a || (TimeStats{}).Add(a) != a {
		t.Error("the zero value is not neutral")
	}
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		value any
		want  SizeStats
	}{
		{7, SizeStats{1, 7}}, {int64(8), SizeStats{1, 8}}, {[]int{1, 2}, SizeStats{2, 3}}, {[]int64{4}, SizeStats{1, 4}},
		{"text", SizeStats{}}, {nil, SizeStats{}}, {1.5, SizeStats{}}, {[]int{}, SizeStats{}},
	} {
		if got := sizesOf(c.value); got != c.want {
			t.Errorf("sizesOf(%v) = %+v, want %+v", c.value, got, c.want)
		}
	}
}

func TestKeyOf(t *testing.T) {
	seen := map[string][]string{"a": {"the key a"}, "": {"the empty key"}}
	for _, keys := range [][]string{nil, {""}, {"a"}, {"a", "b"}, {"b", "a"}, {"ab"}, {"a", "", "b"}, {"a1:b"}, {"a", "1:b"}, {"", ""}} {
		k := KeyOf(keys)
		if other, ok := seen[k]; ok {
			t.Errorf("%q and %q have the same key %q", keys, other, k)
		}
		seen[k] = keys
	}
}

func TestBoundDropsTheOldest(t *testing.T) {
	m := New(3)
	for _, key := range []string{"a", "b", "c", "a", "d"} { // b is the oldest when d comes
		m.AddCounter(CacheHits, key, 1)
		m.AddAttribute("key", key, key)
	}
	for key, want := range map[string]int64{"a": 2, "b": 0, "c": 1, "d": 1} {
		got, ok := m.GetMetrics(key)
		if ok != (want > 0) || got.Counters[CacheHits] != want {
			t.Errorf("key %s: %+v, %v, want %d", key, got, ok, want)
		}
		if ok && (got.Attributes["key"] != key || len(got.Times) != 0) {
			t.Errorf("key %s has the record of another: %+v", key, got)
		}
	}
	if n := m.Totals().Counters[CacheHits]; n != 5 || m.Keys() != 3 {
		t.Errorf("%d counted, %d keys", n, m.Keys())
	}
}

func TestBoundOfManyKeys(t *testing.T) {
	for _, limit := range []int{1, 127, 128, 1000, DefaultMaxKeys} {
		m := New(limit)
		for i := range 3 * limit {
			m.AddTime(Get, fmt.Sprint(i), time.Millisecond)
		}
		if n := m.Keys(); n > limit || n < limit*3/4 {
			t.Errorf("%d keys of at most %d", n, limit)
		}
		if n := m.AggregateTimes()[Get].Count; n != int64(3*limit) {
			t.Errorf("%d of %d counted", n, 3*limit)
		}
	}
}

func TestNil(t *testing.T) {
	var m *StoreMetrics
	start := m.Start()
	m.AddSince(Get, "k", start)
	m.AddTime(Get, "k", 1)
	m.AddCounter(CacheHits, "k", 1)
	m.AddAttribute(PutObjectSize, "k", 1)
	_, ok := m.GetMetrics("k")
	if !start.IsZero() || ok || len(m.AggregateTimes()) != 0 || m.Keys() != 0 || m.Totals().Counters == nil {
		t.Error("nil metrics have recorded something")
	}
}

func TestConcurrent(t *testing.T) {
	m := New(64)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				key := fmt.Sprint(i % 100)
				m.AddTime(Get, key, time.Duration(g+1)*time.Millisecond)
				m.AddCounter(CacheHits, key, 2)
				m.AddAttribute(GetObjectSize, key, i)
				if i%100 == 0 {
					m.Totals()
					m.GetMetrics(key)
				}
			}
		})
	}
	wg.Wait()
	s := m.AggregateTimes()[Get]
	if s.Count != 8000 || s.MinTimeMS != 1 || s.MaxTimeMS != 8 || math.Abs(s.AvgTimeMS-4.5) > 1e-6 {
		t.Errorf("times %+v", s)
	}
	if n := m.Totals().Counters[CacheHits]; n != 16000 {
		t.Errorf("counter %d", n)
	}
}

func TestReturnedMapsAreCopies(t *testing.T) {
	m := New(1000) // of several shards
	m.AddCounter(CacheHits, "k", 1)
	got, _ := m.GetMetrics("k")
	got.Counters[CacheHits] = 99
	m.Totals().Counters[CacheHits] = 99
	got, _ = m.GetMetrics("k")
	if got.Counters[CacheHits] != 1 || m.Totals().Counters[CacheHits] != 1 {
		t.Error("a returned map is the recorder's own")
	}
	var sum Totals
	sum.Add(m.Totals())
	sum.Add(m.Totals())
	if sum.Counters[CacheHits] != 2 || m.Totals().Counters[CacheHits] != 1 {
		t.Errorf("sum of two: %+v", sum)
	}
}

func BenchmarkAddTime(b *testing.B) {
	for name, m := range map[string]*StoreMetrics{"metrics=on": New(0), "metrics=nil": nil} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.AddTime(Get, "00000000-0000-4000-8000-000000000000", time.Millisecond)
			}
		})
	}
	b.Run("metrics=on/par=8", func(b *testing.B) {
		m := New(0)
		b.ReportAllocs()
		b.SetParallelism(4)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				m.AddTime(Get, "00000000-0000-4000-8000-000000000000", time.Millisecond)
			}
		})
	})
}
