// Package prom shows a relay server to Prometheus.
//
// # Metrics
//
//	proxyplane_relay_connections, _clients, _users     now: connections, registered clients, their users
//	proxyplane_relay_queued_bytes                      now: waiting for clients
//	proxyplane_relay_handshakes_total                  connections accepted
//	proxyplane_relay_registrations_total               clients registered
//	proxyplane_relay_messages_total, _bytes_total      messages passed on
//	proxyplane_relay_undeliverable_total               messages sent back with an error
//	proxyplane_relay_throttled_total                   messages that had to wait because their client sends too many
//	proxyplane_relay_closed_total{reason}              connections refused or closed by the server: rate, full, replaced, denied, malformed, slow, dead
package prom

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/proxyplane/proxyplane/endpoint/relay"
)

var closed = prometheus.NewDesc("proxyplane_relay_closed_total", "Connections that the relay refused or closed.", []string{"reason"}, nil)

var reasons = []struct {
	name  string
	value func(relay.Stats) uint64
}{
	{"rate", func(s relay.Stats) uint64 { return s.RateLimited }},
	{"full", func(s relay.Stats) uint64 { return s.Refused }},
	{"replaced", func(s relay.Stats) uint64 { return s.Replaced }},
	{"denied", func(s relay.Stats) uint64 { return s.Denied }},
	{"malformed", func(s relay.Stats) uint64 { return s.Malformed }},
	{"slow", func(s relay.Stats) uint64 { return s.Slow }},
	{"dead", func(s relay.Stats) uint64 { return s.Dead }},
}

var metrics = []struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(relay.Stats) float64
}{
	gauge("connections", "Connections, registered or not.", func(s relay.Stats) float64 { return float64(s.Connections) }),
	gauge("clients", "Registered clients.", func(s relay.Stats) float64 { return float64(s.Clients) }),
	gauge("users", "Users with a registered client.", func(s relay.Stats) float64 { return float64(s.Users) }),
	gauge("queued_bytes", "Bytes that wait for clients.", func(s relay.Stats) float64 { return float64(s.QueuedBytes) }),
	counter("handshakes_total", "Connections accepted.", func(s relay.Stats) uint64 { return s.Handshakes }),
	counter("registrations_total", "Clients registered.", func(s relay.Stats) uint64 { return s.Registrations }),
	counter("messages_total", "Messages passed on.", func(s relay.Stats) uint64 { return s.Forwarded }),
	counter("bytes_total", "Bytes of the messages passed on.", func(s relay.Stats) uint64 { return s.ForwardedBytes }),
	counter("undeliverable_total", "Messages sent back with an error.", func(s relay.Stats) uint64 { return s.Undeliverable }),
	counter("throttled_total", "Messages that had to wait because their client sends too many.", func(s relay.Stats) uint64 { return s.ThrottledEvents }),
}

type metric = struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(relay.Stats) float64
}

func gauge(name, help string, value func(relay.Stats) float64) metric {
	return metric{prometheus.NewDesc("proxyplane_relay_"+name, help, nil, nil), prometheus.GaugeValue, value}
}

func counter(name, help string, value func(relay.Stats) uint64) metric {
	return metric{prometheus.NewDesc("proxyplane_relay_"+name, help, nil, nil), prometheus.CounterValue, func(s relay.Stats) float64 { return float64(value(s)) }}
}

type collector struct{ stats func() relay.Stats }

// NewCollector returns a collector that shows what stats, usually the Stats method of a server, returns at the time of each collection.
func NewCollector(stats func() relay.Stats) prometheus.Collector { return collector{stats} }

// Describe sends the descriptions of everything that Collect sends.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- closed
	for _, m := range metrics {
		ch <- m.desc
	}
}

// Collect sends the numbers of now.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	for _, m := range metrics {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(s))
	}
	for _, r := range reasons {
		ch <- prometheus.MustNewConstMetric(closed, prometheus.CounterValue, float64(r.value(s)), r.name)
	}
}
