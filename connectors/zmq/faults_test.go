package zmq_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/connectors/zmq"
	"github.com/proxyplane/proxyplane/internal/dimtest"
	transport "github.com/proxyplane/proxyplane/transport/zmq"
)

func TestConformanceFaults(t *testing.T) {
	dimtest.Faults(t, capabilities, func(t testing.TB, through func(string) string) dimtest.Site {
		port, table := serve(t, transport.ListenOptions{})
		addr := through(fmt.Sprint("tcp://127.0.0.1:", port))
		opts := zmq.Options{}
		opts.Address, opts.Hash = "127.0.0.1", "always"
		var err error
		if opts.Port, err = strconv.Atoi(addr[strings.LastIndexByte(addr, ':')+1:]); err != nil {
			t.Fatal(err)
		}
		return dimtest.Site{Hostile: hostile(opts.Port),
			Open:    func(t testing.TB) *dim.Connector { return open(t, opts) },
			Objects: func() int { return int(table.Stats().Objects) }}
	})
}
