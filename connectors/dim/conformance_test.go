package dim

import (
	"slices"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// capabilities are what every connector of this engine has.
var capabilities = []string{"Deferrer", "BatchPutter", "BatchGetter", "BatchEvicter", "RangeGetter", "BytesGetter", "StreamPutter", "StreamGetter", "Mapper",
	"Stater", "Waiter"}

// hostile are keys that go nowhere, or to nobody.
func hostile(port int) []connectors.Key {
	at := func(id, host string, port int64) connectors.DIMKey {
		return connectors.DIMKey{DIMType: "zmq", ObjID: id, Size: 1 << 62, PeerHost: host, PeerPort: port}
	}
	return []connectors.Key{connectors.DIMKey{}, at("", "127.0.0.1", int64(port)), at("x", "", 1), at("x", "127.0.0.1", 0), at("x", "127.0.0.1", 1<<16),
		at("x", "127.0.0.1", -1), at("x", "a b", 1), at("x", "127.0.0.1:1/", 1), at("x", "[::1]", 1), at("x\x00", "127.0.0.1", int64(port)),
		at(strings.Repeat("x", 1<<16), "127.0.0.1", int64(port)), at("../../etc/passwd", "127.0.0.1", int64(port)), at("x", "unix:///var/run/docker.sock", 0),
		connectors.DIMKey{DIMType: "margo", ObjID: "x", PeerHost: "127.0.0.1", PeerPort: 1}}
}

// TestConformanceInside is a connector whose server is in its process, and reached without the network.
func TestConformanceInside(t *testing.T) {
	n := newNetwork()
	connectortest.Run(t, func(t testing.TB) connectortest.Harness {
		keep := n.open(t, Options{Port: 5555}) // the server lives as long as the check
		return connectortest.Harness{Want: capabilities, Registry: n.registry(), OutlivesClose: true, HostileKeys: hostile(5555),
			Open:    func(t testing.TB) connectors.Connector { return n.open(t, Options{Port: 5555}) },
			Objects: func(t testing.TB) int { return int(keep.node.store.Store.(*objects.Table).Stats().Objects) }}
	})
}

// over is the harness of connectors whose server is another's.
func over(n *network) func(testing.TB) connectortest.Harness {
	return func(t testing.TB) connectortest.Harness {
		_, table := n.serve(t, 5556)
		return connectortest.Harness{Want: capabilities, Registry: n.registry(), OutlivesClose: true, HostileKeys: hostile(5556),
			Open:    func(t testing.TB) connectors.Connector { return n.open(t, Options{Port: 5556}) },
			Objects: func(t testing.TB) int { return int(table.Stats().Objects) }}
	}
}

func TestConformanceOver(t *testing.T) { connectortest.Run(t, over(newNetwork())) }

// TestConformancePython has a server that can only do what Python's can.
func TestConformancePython(t *testing.T) {
	n := newNetwork()
	n.python.Store(true)
	connectortest.Run(t, func(t testing.TB) connectortest.Harness {
		h := over(n)(t)
		h.Want = slices.Clone(h.Want)
		for i, name := range h.Want {
			if slices.Contains([]string{"StreamPutter", "StreamGetter", "Mapper", "Stater", "Waiter"}, name) {
				h.Want[i] += "?"
			}
		}
		return h
	})
}

// TestConformanceFaults has every 97th call break its connection. A Writer then fails, as it must, and so does a Reader whose object is replaced: those
// have tests of their own.
func TestConformanceFaults(t *testing.T) {
	n := newNetwork()
	n.cut.Store(97)
	connectortest.Run(t, func(t testing.TB) connectortest.Harness {
		h := over(n)(t)
		h.Want = slices.DeleteFunc(slices.Clone(h.Want), func(name string) bool { return strings.HasPrefix(name, "Stream") })
		h.Open = func(t testing.TB) connectors.Connector { return noStreams{n.open(t, Options{Port: 5556})} }
		h.Registry = nil
		return h
	})
}

// noStreams hides Reader and Writer.
type noStreams struct{ *Connector }

func (noStreams) PutStream() {}
func (noStreams) GetStream() {}
