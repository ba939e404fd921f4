package prom

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/proxyplane/proxyplane/endpoint/relay"
)

func TestCollector(t *testing.T) {
	c := NewCollector(func() relay.Stats {
		return relay.Stats{
			Connections: 1, Clients: 2, Users: 3, QueuedBytes: 4, Handshakes: 5, RateLimited: 6, Refused: 7, Registrations: 8, Replaced: 9, Denied: 10, Malformed: 11,
			Forwarded: 12, ForwardedBytes: 13, Undeliverable: 14, Slow: 15, Dead: 16, ThrottledEvents: 17,
		}
	})
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	const want = `
# HELP proxyplane_relay_clients Registered clients.
# TYPE proxyplane_relay_clients gauge
proxyplane_relay_clients 2
# HELP proxyplane_relay_closed_total Connections that the relay refused or closed.
# TYPE proxyplane_relay_closed_total counter
proxyplane_relay_closed_total{reason="dead"} 16
proxyplane_relay_closed_total{reason="denied"} 10
proxyplane_relay_closed_total{reason="full"} 7
proxyplane_relay_closed_total{reason="malformed"} 11
proxyplane_relay_closed_total{reason="rate"} 6
proxyplane_relay_closed_total{reason="replaced"} 9
proxyplane_relay_closed_total{reason="slow"} 15
# HELP proxyplane_relay_messages_total Messages passed on.
# TYPE proxyplane_relay_messages_total counter
proxyplane_relay_messages_total 12
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "proxyplane_relay_clients", "proxyplane_relay_closed_total", "proxyplane_relay_messages_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(registry); err != nil || n != 10+7 {
		t.Errorf("%d, %v", n, err)
	}
}
