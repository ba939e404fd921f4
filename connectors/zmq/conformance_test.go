package zmq_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/connectors/dim/rpc"
	"github.com/proxyplane/proxyplane/connectors/zmq"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	transport "github.com/proxyplane/proxyplane/transport/zmq"
)

var capabilities = []string{"Deferrer", "BatchPutter", "BatchGetter", "BatchEvicter", "RangeGetter", "BytesGetter", "StreamPutter", "StreamGetter", "Mapper?",
	"Stater", "Waiter"}

func registry() *connectors.Registry {
	r := &connectors.Registry{}
	r.Register(zmq.Driver())
	return r
}

// open opens a connector that the test closes at its end, if it has not before.
func open(t testing.TB, opts zmq.Options) *dim.Connector {
	t.Helper()
	c, err := zmq.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// serve starts a server as another process would, and returns its port.
func serve(t testing.TB, o transport.ListenOptions) (int, *objects.Table) {
	t.Helper()
	table, err := objects.NewTable(objects.TableOptions{Memory: 2 << 30})
	if err != nil {
		t.Fatal(err)
	}
	o.Python = rpc.NewHandler(table, rpc.HandlerOptions{})
	s, err := transport.Listen(t.Context(), "tcp://127.0.0.1:0", table, o)
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
		return connectors.DIMKey{DIMType: "zmq", ObjID: id, Size: 1 << 62, PeerHost: host, PeerPort: port}
	}
	const host = "127.0.0.1"
	return []connectors.Key{connectors.DIMKey{}, key("", host, int64(port)), key("x", "", 1), key("x", host, 0), key("x", host, 1<<40),
		key("x", "127.0.0.1:1/", 1), key("x\x00", host, int64(port)), key(strings.Repeat("x", 1<<16), host, int64(port)),
		key("../../etc/passwd", host, int64(port)), key("x", "unix:///etc/passwd", 0), connectors.DIMKey{DIMType: "tcp", ObjID: "x", PeerHost: host, PeerPort: 1}}
}

// harness is that of connectors to a server of another process.
func harness(lo transport.ListenOptions, opts zmq.Options) func(testing.TB) connectortest.Harness {
	return func(t testing.TB) connectortest.Harness {
		port, table := serve(t, lo)
		opts := opts
		opts.Address, opts.Port = "127.0.0.1", port
		return connectortest.Harness{Want: capabilities, Registry: registry(), OutlivesClose: true, HostileKeys: hostile(port),
			Open:    func(t testing.TB) connectors.Connector { return open(t, opts) },
			Objects: func(testing.TB) int { return int(table.Stats().Objects) }}
	}
}

// forms calls test for each form of ZeroMQ that this program has.
func forms(t *testing.T, test func(t *testing.T, libzmq bool)) {
	t.Run("Go", func(t *testing.T) { test(t, false) })
	if transport.HasLibzmq() {
		t.Run("libzmq", func(t *testing.T) { test(t, true) })
	}
}

func TestConformance(t *testing.T) {
	forms(t, func(t *testing.T, libzmq bool) {
		connectortest.Run(t, harness(transport.ListenOptions{Libzmq: libzmq}, zmq.Options{Libzmq: libzmq}))
	})
}

// keys makes a pair of keys, the secret one in a file.
func keys(t testing.TB) (public transport.CurveKey, secret transport.CurveKey, file string) {
	t.Helper()
	public, secret, err := transport.NewCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret.Z85()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return public, secret, file
}

func TestConformanceCurve(t *testing.T) {
	public, secret, _ := keys(t)
	client, _, file := keys(t)
	forms(t, func(t *testing.T, libzmq bool) {
		lo := transport.ListenOptions{ServerOptions: native.ServerOptions{Token: []byte("token")}, Libzmq: libzmq,
			Curve: &transport.CurveServer{PublicKey: public, SecretKey: secret, AllowedClients: []transport.CurveKey{client}}}
		opts := zmq.Options{CurveServerKey: public.Z85(), CurveSecretFile: file, Libzmq: libzmq}
		opts.Token = "token"
		connectortest.Run(t, harness(lo, opts))
	})
}

// TestConformanceInside is a server within the process, at a port that the system picks.
func TestConformanceInside(t *testing.T) {
	forms(t, func(t *testing.T, libzmq bool) {
		connectortest.Run(t, func(t testing.TB) connectortest.Harness {
			opts := zmq.Options{Libzmq: libzmq}
			opts.Address = "127.0.0.1"
			keep := open(t, opts)
			opts.Port = int(keep.Config().Options["port"].(int64))
			return connectortest.Harness{Want: capabilities, Registry: registry(), OutlivesClose: true, HostileKeys: hostile(opts.Port),
				Open: func(t testing.TB) connectors.Connector { return open(t, opts) }}
		})
	})
}
