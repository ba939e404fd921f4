package tcp_test

import (
	"context"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/connectors/tcp"
	"github.com/proxyplane/proxyplane/transport/objects"
	transport "github.com/proxyplane/proxyplane/transport/tcp"
)

var capabilities = []string{"Deferrer", "BatchPutter", "BatchGetter", "BatchEvicter", "RangeGetter", "BytesGetter", "StreamPutter", "StreamGetter", "Mapper",
	"Stater", "Waiter"}

func registry() *connectors.Registry {
	r := &connectors.Registry{}
	r.Register(tcp.Driver())
	return r
}

// open opens a connector that the test closes at its end, if it has not before.
func open(t testing.TB, opts tcp.Options) *dim.Connector {
	t.Helper()
	c, err := tcp.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// serve starts a server as another process would.
func serve(t testing.TB, addr string, o transport.ListenOptions) (*transport.Server, *objects.Table) {
	t.Helper()
	table, err := objects.NewTable(objects.TableOptions{Memory: 2 << 30})
	if err != nil {
		t.Fatal(err)
	}
	s, err := transport.Listen(t.Context(), addr, table, o)
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
	return s, table
}

// at returns options for the server at an address as Server.Addr has it.
func at(addr string) (o tcp.Options) {
	if strings.HasPrefix(addr, "unix://") {
		o.Address = addr
		return o
	}
	scheme, rest, _ := strings.Cut(addr, "://")
	o.TLS = scheme == "tls"
	colon := strings.LastIndexByte(rest, ':')
	o.Address = strings.Trim(rest[:colon], "[]")
	for _, c := range rest[colon+1:] {
		o.Port = o.Port*10 + int(c-'0')
	}
	return o
}

func hostile(host string, port int) []connectors.Key {
	key := func(id, host string, port int64) connectors.DIMKey {
		return connectors.DIMKey{DIMType: "tcp", ObjID: id, Size: 1 << 62, PeerHost: host, PeerPort: port}
	}
	return []connectors.Key{connectors.DIMKey{}, key("", host, int64(port)), key("x", "", 1), key("x", "127.0.0.1", 0), key("x", "127.0.0.1", 1<<40),
		key("x", "127.0.0.1:1/", 1), key("x\x00", host, int64(port)), key(strings.Repeat("x", 1<<16), host, int64(port)),
		key("../../etc/passwd", host, int64(port)), key("x", "unix:///\x00", 0), key("x", "unix:///etc/passwd", 1)}
}

// harness is that of connectors to a server of another process.
func harness(addr string, lo transport.ListenOptions, change func(*tcp.Options)) func(testing.TB) connectortest.Harness {
	return func(t testing.TB) connectortest.Harness {
		s, table := serve(t, strings.ReplaceAll(addr, "DIR", t.TempDir()), lo)
		opts := at(s.Addr())
		if change != nil {
			change(&opts)
		}
		h := connectortest.Harness{Want: capabilities, Registry: registry(), OutlivesClose: true, HostileKeys: hostile(opts.Address, opts.Port),
			Open:    func(t testing.TB) connectors.Connector { return open(t, opts) },
			Objects: func(testing.TB) int { return int(table.Stats().Objects) }}
		return h
	}
}

// maybeMap is for what is not reached through a unix socket.
func maybeMap(newHarness func(testing.TB) connectortest.Harness) func(testing.TB) connectortest.Harness {
	return func(t testing.TB) connectortest.Harness {
		h := newHarness(t)
		h.Want = append([]string{"Mapper?"}, capabilities...)
		h.Want = append(h.Want[:9:9], h.Want[10:]...)
		return h
	}
}

func TestConformanceSameHost(t *testing.T) {
	connectortest.Run(t, harness("tcp://127.0.0.1:0", transport.ListenOptions{}, nil))
}

func TestConformanceTCP(t *testing.T) {
	connectortest.Run(t, maybeMap(harness("tcp://127.0.0.1:0", transport.ListenOptions{NoSameHost: true}, func(o *tcp.Options) { o.NoSameHost = true })))
}

func TestConformanceUnix(t *testing.T) {
	connectortest.Run(t, harness("unix://DIR/s", transport.ListenOptions{}, nil))
}

// TestConformanceInside is a server within the process, at a port that the system picks.
func TestConformanceInside(t *testing.T) {
	connectortest.Run(t, func(t testing.TB) connectortest.Harness {
		keep := open(t, tcp.Options{})
		port := int(keep.Config().Options["port"].(int64))
		opts := tcp.Options{}
		opts.Port = port
		return connectortest.Harness{Want: capabilities, Registry: registry(), OutlivesClose: true, HostileKeys: hostile("127.0.0.1", port),
			Open: func(t testing.TB) connectors.Connector { return open(t, opts) }}
	})
}
