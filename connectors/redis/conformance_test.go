package redis_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/redis"
	"github.com/proxyplane/proxyplane/internal/redistest"
)

// capabilities are what every configuration has.
var capabilities = []string{"Deferrer", "BatchPutter", "BatchGetter", "BatchEvicter", "RangeGetter", "BytesGetter", "StreamPutter", "StreamGetter",
	"Stater", "Waiter", "ClearCloser"}

// harness returns the suite's harness for connectors with these options on servers that live as long as the outer test.
func harness(opts redis.Options, servers ...*redistest.Server) func(testing.TB) connectortest.Harness {
	return func(t testing.TB) connectortest.Harness {
		for _, s := range servers {
			s.Do("FLUSHALL")
		}
		registry := &connectors.Registry{}
		registry.Register(redis.Driver())
		return connectortest.Harness{
			Open:     func(t testing.TB) connectors.Connector { return open(t, opts) },
			Want:     capabilities,
			Registry: registry, OutlivesClose: !opts.Clear && !opts.ClearAll,
			HostileKeys: []connectors.Key{connectors.RedisKey{}, connectors.RedisKey{RedisKey: "a\r\nFLUSHALL\r\n"},
				connectors.RedisKey{RedisKey: "$-1\r\n\x00\xff"}, connectors.RedisKey{RedisKey: strings.Repeat("k", 1<<17)}},
			Objects: func(t testing.TB) int {
				n := 0
				for _, s := range servers {
					size, err := strconv.Atoi(strings.TrimPrefix(s.Do("DBSIZE"), ":"))
					if err != nil {
						t.Fatal(err)
					}
					n += size
				}
				return n
			},
		}
	}
}

// open opens a connector that the test closes at its end, if it has not before.
func open(t testing.TB, opts redis.Options) *redis.Connector {
	t.Helper()
	c, err := redis.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(t.Context()) })
	return c
}

func TestConformance(t *testing.T) {
	s := redistest.Start(t)
	h := harness(redis.Options{Hostname: s.Host, Port: s.Port}, s)
	connectortest.Run(t, func(t testing.TB) connectortest.Harness {
		h := h(t)
		h.Want = append(slices.DeleteFunc(slices.Clone(h.Want), func(name string) bool { return name == "ClearCloser" }), "ClearCloser?")
		return h
	})
}

func TestConformanceUnixSocket(t *testing.T) {
	s := redistest.Start(t)
	connectortest.Run(t, harness(redis.Options{Socket: s.Socket, DB: 0, ClearAll: true}, s))
}

func TestConformanceTLS(t *testing.T) {
	s := redistest.StartTLS(t, "--requirepass", "secret")
	s.Password = "secret"
	opts := redis.Options{Hostname: s.Host, Port: s.Port, Password: "secret", TLS: true, CAFile: s.TLS.CA, CertFile: s.TLS.Cert, KeyFile: s.TLS.Key,
		ClearAll: true, TTL: time.Hour}
	connectortest.Run(t, harness(opts, s))
}

// TestCluster has all tests that need a cluster use the same one, since one takes seconds to come up.
func TestCluster(t *testing.T) {
	nodes := redistest.StartCluster(t, 3)
	t.Run("Conformance", func(t *testing.T) {
		opts := redis.Options{Addrs: []string{nodes[0].Addr(), nodes[1].Addr()}, Cluster: true, ClearAll: true}
		connectortest.Run(t, harness(opts, nodes...))
	})
	for _, part := range []struct {
		name string
		run  func(*testing.T, []*redistest.Server)
	}{{"Moves", testClusterMoves}, {"Asks", testClusterAsks}} {
		for _, s := range nodes {
			s.Do("FLUSHALL")
		}
		t.Run(part.name, func(t *testing.T) { part.run(t, nodes) })
	}
}
