//go:build !race && !invariants

package zmq_test

import (
	"testing"

	"github.com/proxyplane/proxyplane/connectors/zmq"
	"github.com/proxyplane/proxyplane/internal/dimtest"
	transport "github.com/proxyplane/proxyplane/transport/zmq"
)

func TestAllocations(t *testing.T) {
	port, _ := serve(t, transport.ListenOptions{})
	near, far := zmq.Options{}, zmq.Options{}
	near.Address, far.Address, far.Port = "127.0.0.1", "127.0.0.1", port
	dimtest.Allocations(t, open(t, near), open(t, far))
}
