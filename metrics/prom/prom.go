// Package prom shows stores to Prometheus: what their metrics and caches have counted.
//
// # Metrics
//
// Each has the label store; names of operations, counters and sizes are ProxyStore's (package metrics).
//
//	proxyplane_store_operation_duration_seconds{operation}  summary without quantiles: _count and _sum
//	proxyplane_store_object_size_bytes{operation}           the same for object sizes: operation is that without ".object_size(s)"
//	proxyplane_store_events_total{event}                    counters
//	proxyplane_cache_hits_total, _misses_total              lookups in the resolve cache
//	proxyplane_cache_sets_total, _rejected_total, _evictions_total   entries taken in, refused, dropped for room
//	proxyplane_cache_bytes, _max_bytes, _entries            what it holds, may hold
//	proxyplane_cache_fetches_in_flight                      fetches running now
package prom

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/proxyplane/proxyplane/cache"
	"github.com/proxyplane/proxyplane/metrics"
)

// Source is a store to be shown. Its methods must be fit for concurrent use.
type Source interface {
	// Name returns the label of the store.
	Name() string
	// Metrics returns the store's metrics, nil if it records none.
	Metrics() *metrics.StoreMetrics
	// CacheStats returns the counts of its cache.
	CacheStats() cache.Stats
}

var (
	durations = desc("store_operation_duration_seconds", "Time that operations of the store and their steps took.", "operation")
	sizes     = desc("store_object_size_bytes", "Serialized size of the objects of an operation.", "operation")
	events    = desc("store_events_total", "Events that the store counts.", "event")

	cacheMetrics = []struct {
		desc  *prometheus.Desc
		kind  prometheus.ValueType
		value func(cache.Stats) int64
	}{
		{desc("cache_hits_total", "Lookups that found their object in the cache."), prometheus.CounterValue, func(s cache.Stats) int64 { return s.Hits }},
		{desc("cache_misses_total", "Lookups that did not."), prometheus.CounterValue, func(s cache.Stats) int64 { return s.Misses }},
		{desc("cache_sets_total", "Entries taken into the cache."), prometheus.CounterValue, func(s cache.Stats) int64 { return s.Sets }},
		{desc("cache_rejected_total", "Entries refused, as too large or less wanted than others."), prometheus.CounterValue, func(s cache.Stats) int64 { return s.Rejected }},
		{desc("cache_evictions_total", "Entries dropped for others to have room."), prometheus.CounterValue, func(s cache.Stats) int64 { return s.Evictions }},
		{desc("cache_bytes", "Cost of the entries in the cache."), prometheus.GaugeValue, func(s cache.Stats) int64 { return s.Bytes }},
		{desc("cache_max_bytes", "Bound of the cache."), prometheus.GaugeValue, func(s cache.Stats) int64 { return s.MaxBytes }},
		{desc("cache_entries", "Entries in the cache."), prometheus.GaugeValue, func(s cache.Stats) int64 { return s.Entries }},
		{desc("cache_fetches_in_flight", "Fetches running now."), prometheus.GaugeValue, func(s cache.Stats) int64 { return s.InFlight }},
	}
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("proxyplane_"+name, help, append([]string{"store"}, labels...), nil)
}

type collector struct{ sources func() []Source }

// NewCollector returns a collector that shows these stores.
func NewCollector(sources ...Source) prometheus.Collector {
	return NewCollectorFunc(func() []Source { return sources })
}

// NewCollectorFunc returns a collector that shows the stores which sources returns at the time of each collection. It may be called by many
// goroutines at once. Stores of one name are shown as one, with their numbers added.
func NewCollectorFunc(sources func() []Source) prometheus.Collector { return &collector{sources} }

// Describe sends the descriptions of everything that Collect may send.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- durations
	ch <- sizes
	ch <- events
	for _, m := range cacheMetrics {
		ch <- m.desc
	}
}

// Collect sends the numbers as they are now.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	totals := make(map[string]*metrics.Totals)
	caches := make(map[string][]cache.Stats)
	for _, s := range c.sources() {
		// The registry refuses a whole collection that contains other bytes.
		name := strings.ToValidUTF8(s.Name(), "\uFFFD")
		if totals[name] == nil {
			totals[name] = new(metrics.Totals)
		}
		totals[name].Add(s.Metrics().Totals())
		caches[name] = append(caches[name], s.CacheStats())
	}
	for name, t := range totals {
		for operation, s := range t.Times {
			seconds := s.AvgTimeMS * float64(s.Count) / 1e3
			ch <- prometheus.MustNewConstSummary(durations, uint64(s.Count), seconds, nil, name, operation)
		}
		for attribute, s := range t.Sizes {
			operation := strings.TrimSuffix(strings.TrimSuffix(attribute, "s"), ".object_size")
			ch <- prometheus.MustNewConstSummary(sizes, uint64(s.Count), float64(s.Bytes), nil, name, operation)
		}
		for event, n := range t.Counters {
			ch <- prometheus.MustNewConstMetric(events, prometheus.CounterValue, float64(n), name, event)
		}
	}
	for name, stats := range caches {
		for _, m := range cacheMetrics {
			var sum int64
			for _, s := range stats {
				sum += m.value(s)
			}
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(sum), name)
		}
	}
}
