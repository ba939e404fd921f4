package metrics

import (
	"maps"
	"time"
)

// TimeStats sums up the times of one operation. The zero value stands for none, in which case MinTimeMS means nothing (it is infinite in
// Python, and 0 here, since JSON has no infinity).
type TimeStats struct {
	Count         int64   `json:"count"`
	AvgTimeMS     float64 `json:"avg_time_ms"`
	MinTimeMS     float64 `json:"min_time_ms"`
	MaxTimeMS     float64 `json:"max_time_ms"`
	LastTimeMS    float64 `json:"last_time_ms"`
	LastTimestamp float64 `json:"last_timestamp"` // when the last one was recorded, Unix seconds
}

// Add returns the statistics of both: TimeStats.__add__.
func (s TimeStats) Add(o TimeStats) TimeStats {
	switch {
	case o.Count == 0:
		return s
	case s.Count == 0:
		return o
	}
	sum := TimeStats{
		Count:         s.Count + o.Count,
		AvgTimeMS:     (s.AvgTimeMS*float64(s.Count) + o.AvgTimeMS*float64(o.Count)) / float64(s.Count+o.Count),
		MinTimeMS:     min(s.MinTimeMS, o.MinTimeMS),
		MaxTimeMS:     max(s.MaxTimeMS, o.MaxTimeMS),
		LastTimeMS:    o.LastTimeMS,
		LastTimestamp: o.LastTimestamp,
	}
	if s.LastTimestamp > o.LastTimestamp {
		sum.LastTimeMS, sum.LastTimestamp = s.LastTimeMS, s.LastTimestamp
	}
	return sum
}

// one returns the statistics of a single time.
func one(d time.Duration, at time.Time) TimeStats {
	ms := float64(d) / float64(time.Millisecond)
	return TimeStats{1, ms, ms, ms, ms, float64(at.UnixNano()) / 1e9}
}

// SizeStats sums up the sizes in one attribute.
type SizeStats struct {
	Count int64 `json:"count"` // objects
	Bytes int64 `json:"bytes"` // in all of them
}

// Add returns the statistics of both.
func (s SizeStats) Add(o SizeStats) SizeStats {
	return SizeStats{s.Count + o.Count, s.Bytes + o.Bytes}
}

// sizesOf returns the sizes in an attribute's value, if that is what it holds.
func sizesOf(value any) (s SizeStats) {
	switch v := value.(type) {
	case int:
		return SizeStats{1, int64(v)}
	case int64:
		return SizeStats{1, v}
	case []int:
		for _, n := range v {
			s = s.Add(SizeStats{1, int64(n)})
		}
	case []int64:
		for _, n := range v {
			s = s.Add(SizeStats{1, n})
		}
	}
	return s
}

// Metrics is what is recorded for one key, by name. It is the caller's own copy, except that attribute values are as they were given.
type Metrics struct {
	Attributes map[string]any       `json:"attributes"`
	Counters   map[string]int64     `json:"counters"`
	Times      map[string]TimeStats `json:"times"`
}

// Totals is what is recorded over all keys, by name.
type Totals struct {
	Times    map[string]TimeStats `json:"times"`
	Counters map[string]int64     `json:"counters"`
	Sizes    map[string]SizeStats `json:"sizes"` // of the attributes that hold sizes
}

// Add adds o's numbers to t's maps, which it makes if there are none.
func (t *Totals) Add(o Totals) {
	t.Times = merge(t.Times, o.Times, TimeStats.Add)
	t.Counters = merge(t.Counters, o.Counters, func(a, b int64) int64 { return a + b })
	t.Sizes = merge(t.Sizes, o.Sizes, SizeStats.Add)
}

func merge[V any](dst, src map[string]V, add func(a, b V) V) map[string]V {
	if dst == nil {
		return maps.Clone(src)
	}
	for name, v := range src {
		dst[name] = add(dst[name], v) // the zero value is neutral
	}
	return dst
}
