//go:build !race && !invariants

package tcp_test

import (
	"testing"

	"github.com/proxyplane/proxyplane/connectors/tcp"
	"github.com/proxyplane/proxyplane/internal/dimtest"
	transport "github.com/proxyplane/proxyplane/transport/tcp"
)

func TestAllocations(t *testing.T) {
	s, _ := serve(t, "tcp://127.0.0.1:0", transport.ListenOptions{NoSameHost: true})
	far := at(s.Addr())
	far.NoSameHost = true
	dimtest.Allocations(t, open(t, tcp.Options{}), open(t, far))
}
