package endpoint

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics of one Endpoint, in a registry of their own. Methods on nil do nothing.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
	inFlight prometheus.Gauge
	handler  http.Handler
}

func newMetrics(e *Endpoint) *metrics {
	const prefix = "proxyplane_endpoint_"
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "requests_total", Help: "Requests that were answered, by HTTP status."},
			[]string{"op", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + "request_seconds", Help: "Time from a request's header to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 4, 12)}, []string{"op"}), // 0.1 ms to 7 minutes
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "body_bytes_total", Help: "Bytes of requests' (in) and answers' (out) bodies."},
			[]string{"direction"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "requests_in_flight", Help: "Requests that are being answered."}),
	}
	r := prometheus.NewRegistry()
	r.MustRegister(m.requests, m.seconds, m.bytes, m.inFlight, &stateCollector{e})
	m.handler = promhttp.HandlerFor(r, promhttp.HandlerOpts{Registry: r})
	return m
}

func (m *metrics) begin() {
	if m != nil {
		m.inFlight.Inc()
	}
}

func (m *metrics) end(op, status string, took time.Duration, in, out int64) {
	if m == nil {
		return
	}
	m.inFlight.Dec()
	m.requests.WithLabelValues(op, status).Inc()
	m.seconds.WithLabelValues(op).Observe(took.Seconds())
	m.bytes.WithLabelValues("in").Add(float64(in))
	m.bytes.WithLabelValues("out").Add(float64(out))
}

// stateCollector shows what Status says at the time of each collection.
type stateCollector struct{ e *Endpoint }

var stateMetrics = []struct {
	desc  *prometheus.Desc
	value func(Status) (float64, bool)
}{
	{stateDesc("objects", "Objects that are stored here."), func(s Status) (float64, bool) { return float64(s.Storage.Objects), true }},
	{stateDesc("object_bytes", "Their bytes."), func(s Status) (float64, bool) { return float64(s.Storage.Bytes), true }},
	{stateDesc("quota_bytes", "How many bytes all objects may have; absent where there is no limit."), func(s Status) (float64, bool) {
		return float64(s.Storage.Quota), s.Storage.Quota > 0
	}},
	{stateDesc("relay_connected", "Whether the endpoint is registered at its relay; absent without one."), func(s Status) (float64, bool) {
		if s.Relay == nil {
			return 0, false
		}
		if s.Relay.Connected {
			return 1, true
		}
		return 0, true
	}},
	{stateDesc("peers", "Peers that are connected now."), func(s Status) (float64, bool) { return float64(s.PeersConnected), true }},
}

func stateDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("proxyplane_endpoint_"+name, help, nil, nil)
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range stateMetrics {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.e.Status()
	for _, m := range stateMetrics {
		if v, ok := m.value(s); ok {
			ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, v)
		}
	}
}

func (x *exchange) metricsText() {
	if x.e.metrics == nil {
		x.text(http.StatusNotFound, "metrics are turned off")
		return
	}
	x.code = http.StatusOK
	x.e.metrics.handler.ServeHTTP(x.w, x.r)
}
