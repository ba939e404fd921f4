package ucx_test

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/connectors/ucx"
	"github.com/proxyplane/proxyplane/transport/objects"
	tcptransport "github.com/proxyplane/proxyplane/transport/tcp"
	transport "github.com/proxyplane/proxyplane/transport/ucx"
)

var capabilities = []string{"Deferrer", "BatchPutter", "BatchGetter", "BatchEvicter", "RangeGetter", "BytesGetter", "StreamPutter", "StreamGetter", "Mapper?",
	"Stater", "Waiter"}

func registry() *connectors.Registry {
	r := &connectors.Registry{}
	r.Register(ucx.Driver())
	return r
}

// open opens a connector that the test closes at its end, if it has not before.
func open(t testing.TB, opts ucx.Options) *dim.Connector {
	t.Helper()
	c, err := ucx.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// dimType is what the keys of this build have.
func dimType() string {
	if ucx.Built {
		return "ucx"
	}
	return "tcp"
}

// serve starts a server as another process of the same build would, and returns its port.
func serve(t testing.TB) (int, *objects.Table) {
	t.Helper()
	table, err := objects.NewTable(objects.TableOptions{Memory: 2 << 30})
	if err != nil {
		t.Fatal(err)
	}
	var s objects.Server
	if ucx.Built {
		s, err = transport.Listen(t.Context(), "127.0.0.1:0", table, transport.ListenOptions{})
	} else {
		s, err = tcptransport.Listen(t.Context(), "tcp://127.0.0.1:0", table, tcptransport.ListenOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	port, err := strconv.Atoi(s.Addr()[strings.LastIndexByte(s.Addr(), ':')+1:])
	if err != nil {
		t.Fatal(err)
	}
	return port, table
}

func hostile(port int) []connectors.Key {
	key := func(id, host string, port int64) connectors.DIMKey {
		return connectors.DIMKey{DIMType: dimType(), ObjID: id, Size: 1 << 62, PeerHost: host, PeerPort: port}
	}
	const host = "127.0.0.1"
	return []connectors.Key{connectors.DIMKey{}, key("", host, int64(port)), key("x", "", 1), key("x", host, 0), key("x", host, 1<<40),
		key("x\x00", host, int64(port)), key(strings.Repeat("x", 1<<16), host, int64(port)), key("../../etc/passwd", host, int64(port)),
		connectors.DIMKey{DIMType: "zmq", ObjID: "x", PeerHost: host, PeerPort: 1}}
}

func TestConformance(t *testing.T) {
	connectortest.Run(t, func(t testing.TB) connectortest.Harness {
		port, table := serve(t)
		opts := ucx.Options{}
		opts.Address, opts.Port = "127.0.0.1", port
		return connectortest.Harness{Want: capabilities, Registry: registry(), OutlivesClose: true, HostileKeys: hostile(port),
			Open:    func(t testing.TB) connectors.Connector { return open(t, opts) },
			Objects: func(testing.TB) int { return int(table.Stats().Objects) }}
	})
}

// TestConformanceInside is a server within the process, at a port that the system picks, which stays when connectors are closed.
func TestConformanceInside(t *testing.T) {
	connectortest.Run(t, func(t testing.TB) connectortest.Harness {
		t.Cleanup(func() {
			if err := dim.StopServers(context.Background()); err != nil {
				t.Error(err)
			}
		})
		opts := ucx.Options{}
		opts.Address = "127.0.0.1"
		first := open(t, opts)
		opts.Port = int(first.Config().Options["port"].(int64))
		if err := first.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		return connectortest.Harness{Want: capabilities, Registry: registry(), OutlivesClose: true, HostileKeys: hostile(opts.Port),
			Open: func(t testing.TB) connectors.Connector { return open(t, opts) }}
	})
}
