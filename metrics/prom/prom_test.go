package prom_test

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/proxyplane/proxyplane/cache"
	"github.com/proxyplane/proxyplane/metrics"
	"github.com/proxyplane/proxyplane/metrics/prom"
)

type source struct {
	name    string
	metrics *metrics.StoreMetrics
	stats   cache.Stats
}

func (s source) Name() string                   { return s.name }
func (s source) Metrics() *metrics.StoreMetrics { return s.metrics }
func (s source) CacheStats() cache.Stats        { return s.stats }

func filled() *metrics.StoreMetrics {
	m := metrics.New(0)
	m.AddTime(metrics.Put, "k", 1500*time.Millisecond)
	m.AddTime(metrics.Put, "l", 500*time.Millisecond)
	m.AddTime(metrics.PutSerialize, "k", 250*time.Millisecond)
	m.AddCounter(metrics.CacheHits, "k", 7)
	m.AddAttribute(metrics.PutObjectSize, "k", 1000)
	m.AddAttribute(metrics.PutBatchObjectSizes, metrics.KeyOf([]string{"k", "l"}), []int{10, 20})
	return m
}

func TestCollector(t *testing.T) {
	stats := cache.Stats{Hits: 3, Misses: 4, Sets: 5, Rejected: 6, Evictions: 7, Bytes: 8, Entries: 9, MaxBytes: 10, InFlight: 11}
	c := prom.NewCollector(
		source{"one", filled(), stats},
		source{"without metrics", nil, cache.Stats{Hits: 1}},
		source{"not \xff UTF-8", nil, cache.Stats{}},
	)
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) != 0 {
		t.Fatalf("lint: %v, %v", problems, err)
	}
	want := `
# HELP proxyplane_store_operation_duration_seconds Time that operations of the store and their steps took.
# TYPE proxyplane_store_operation_duration_seconds summary
proxyplane_store_operation_duration_seconds_sum{operation="store.put",store="one"} 2
proxyplane_store_operation_duration_seconds_count{operation="store.put",store="one"} 2
proxyplane_store_operation_duration_seconds_sum{operation="store.put.serialize",store="one"} 0.25
proxyplane_store_operation_duration_seconds_count{operation="store.put.serialize",store="one"} 1
# HELP proxyplane_store_object_size_bytes Serialized size of the objects of an operation.
# TYPE proxyplane_store_object_size_bytes summary
proxyplane_store_object_size_bytes_sum{operation="store.put",store="one"} 1000
proxyplane_store_object_size_bytes_count{operation="store.put",store="one"} 1
proxyplane_store_object_size_bytes_sum{operation="store.put_batch",store="one"} 30
proxyplane_store_object_size_bytes_count{operation="store.put_batch",store="one"} 2
# HELP proxyplane_store_events_total Events that the store counts.
# TYPE proxyplane_store_events_total counter
proxyplane_store_events_total{event="store.get.cache_hits",store="one"} 7
# HELP proxyplane_cache_hits_total Lookups that found their object in the cache.
# TYPE proxyplane_cache_hits_total counter
proxyplane_cache_hits_total{store="one"} 3
proxyplane_cache_hits_total{store="not � UTF-8"} 0
proxyplane_cache_hits_total{store="without metrics"} 1
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), "proxyplane_store_operation_duration_seconds",
		"proxyplane_store_object_size_bytes", "proxyplane_store_events_total", "proxyplane_cache_hits_total"); err != nil {
		t.Error(err)
	}
	for name, m := range map[string]struct{ kind, help, value string }{
		"proxyplane_cache_misses_total":      {"counter", "Lookups that did not.", "4"},
		"proxyplane_cache_sets_total":        {"counter", "Entries taken into the cache.", "5"},
		"proxyplane_cache_rejected_total":    {"counter", "Entries refused, as too large or less wanted than others.", "6"},
		"proxyplane_cache_evictions_total":   {"counter", "Entries dropped for others to have room.", "7"},
		"proxyplane_cache_bytes":             {"gauge", "Cost of the entries in the cache.", "8"},
		"proxyplane_cache_entries":           {"gauge", "Entries in the cache.", "9"},
		"proxyplane_cache_max_bytes":         {"gauge", "Bound of the cache.", "10"},
		"proxyplane_cache_fetches_in_flight": {"gauge", "Fetches running now.", "11"},
	} {
		want := "# HELP " + name + " " + m.help + "\n# TYPE " + name + " " + m.kind + "\n" + name + `{store="one"} ` + m.value + "\n"
		one := prom.NewCollector(source{"one", nil, stats})
		if err := testutil.CollectAndCompare(one, strings.NewReader(want), name); err != nil {
			t.Error(err)
		}
	}
}

// Two stores of one name would make the registry refuse everything.
func TestSameName(t *testing.T) {
	var sources []prom.Source
	c := prom.NewCollectorFunc(func() []prom.Source { return sources })
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	if n, err := testutil.GatherAndCount(r); err != nil || n != 0 {
		t.Errorf("no stores: %d metrics, %v", n, err)
	}
	sources = []prom.Source{source{"s", filled(), cache.Stats{Hits: 1}}, source{"s", filled(), cache.Stats{Hits: 2}}}
	want := `
# HELP proxyplane_cache_hits_total Lookups that found their object in the cache.
# TYPE proxyplane_cache_hits_total counter
proxyplane_cache_hits_total{store="s"} 3
# HELP proxyplane_store_events_total Events that the store counts.
# TYPE proxyplane_store_events_total counter
proxyplane_store_events_total{event="store.get.cache_hits",store="s"} 14
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "proxyplane_cache_hits_total", "proxyplane_store_events_total"); err != nil {
		t.Error(err)
	}
}

func TestRealCache(t *testing.T) {
	c, err := cache.New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Set("k", cache.Entry{Size: 100})
	c.Get("k")
	if n := testutil.CollectAndCount(prom.NewCollector(source{"s", nil, c.Stats()}), "proxyplane_cache_entries"); n != 1 {
		t.Errorf("%d metrics", n)
	}
}
