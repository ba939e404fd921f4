package tcp_test

import (
	"testing"

	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/internal/dimtest"
	transport "github.com/proxyplane/proxyplane/transport/tcp"
)

func TestConformanceFaults(t *testing.T) {
	dimtest.Faults(t, capabilities, func(t testing.TB, through func(string) string) dimtest.Site {
		s, table := serve(t, "tcp://127.0.0.1:0", transport.ListenOptions{NoSameHost: true})
		opts := at(through(s.Addr()))
		opts.NoSameHost, opts.Hash = true, "always"
		return dimtest.Site{Hostile: hostile(opts.Address, opts.Port),
			Open:    func(t testing.TB) *dim.Connector { return open(t, opts) },
			Objects: func() int { return int(table.Stats().Objects) }}
	})
}
