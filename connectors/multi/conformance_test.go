package multi

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/file"
	"github.com/proxyplane/proxyplane/connectors/local"
)

// The suite runs over a fast child for small objects beside a file child for large ones, over the same opened as a received configuration, and over a
// child that has the six methods and can clear.
func TestConformance(t *testing.T) {
	for name, open := range map[string]func(t testing.TB, cfg connectors.Config) connectors.Connector{
		"local+file": func(t testing.TB, cfg connectors.Config) connectors.Connector { return openMulti(t, cfg) },
		"received": func(t testing.TB, cfg connectors.Config) connectors.Connector {
			c := openMulti(t, cfg)
			defer c.Close(t.Context())
			return openReceived(t, c.Config())
		},
		"six methods": func(t testing.TB, cfg connectors.Config) connectors.Connector {
			storage := cfg.Options["small"].([]any)[1].(map[string]any)["storage"].(string)
			m, err := New(map[string]Child{"six": {&clearing{failing{Connector: local.New(local.Options{Storage: storage})}}, Policy{}}})
			if err != nil {
				t.Fatal(err)
			}
			return m
		},
	} {
		t.Run(name, func(t *testing.T) {
			connectortest.Run(t, func(t testing.TB) connectortest.Harness { return harness(t, name, open) })
		})
	}
}

// clearing has seven methods: with six, nobody could close and clear.
type clearing struct{ failing }

func (c *clearing) CloseClear(ctx context.Context, clear bool) error {
	return connectors.CloseClear(ctx, c.Connector, clear)
}

func openMulti(t testing.TB, cfg connectors.Config) connectors.Connector {
	c, err := registryWithFile().Open(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// openReceived opens the configuration as one from a proxy, but the local child as one of this process: the suite opens it again to find its objects,
// and a received local connector has its storage to itself.
func openReceived(t testing.TB, cfg connectors.Config) connectors.Connector {
	d := local.Driver()
	open := d.Open
	d.Open = func(ctx context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
		trusted := *env
		trusted.Received = false
		return open(ctx, o, &trusted)
	}
	r := &connectors.Registry{}
	r.Register(d)
	r.Register(file.Driver())
	r.Register(Driver())
	c, err := r.Open(t.Context(), cfg, &connectors.Env{Received: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func registryWithFile() *connectors.Registry {
	r := registry()
	r.Register(file.Driver())
	return r
}

func harness(t testing.TB, name string, open func(testing.TB, connectors.Config) connectors.Connector) connectortest.Harness {
	dir := t.TempDir()
	keeper := local.New(local.Options{Storage: "multi-conformance-" + t.Name(), IncludeDataInConfig: true}) // holds the storage between Opens
	t.Cleanup(func() { keeper.Close(context.Background()) })
	cfg := connectors.Config{Kind: "multi", Options: map[string]any{
		"small": entryOf("local", map[string]any{"storage": "multi-conformance-" + t.Name()}, Policy{Priority: 1, MaxSizeBytes: 64 << 10}.options()),
		"large": entryOf("file", map[string]any{"store_dir": dir, "clear": false}, Policy{}.options()),
	}}
	h := connectortest.Harness{
		Open:          func(t testing.TB) connectors.Connector { return open(t, cfg) },
		Want:          connectortest.AllCapabilities(),
		Registry:      registryWithFile(),
		OutlivesClose: true,
		HostileKeys: []connectors.Key{
			connectors.MultiKey{},
			connectors.MultiKey{ConnectorName: "small"},
			connectors.MultiKey{ConnectorName: "nosuch", ConnectorKey: connectors.LocalKey{ID: "x"}},
			connectors.MultiKey{ConnectorName: "small", ConnectorKey: connectors.FileKey{Filename: "x"}},
			connectors.MultiKey{ConnectorName: "large", ConnectorKey: connectors.FileKey{Filename: "../x"}},
			connectors.MultiKey{ConnectorName: "large", ConnectorKey: connectors.MultiKey{ConnectorName: "large", ConnectorKey: connectors.FileKey{Filename: "x"}}},
		},
		Objects: func(t testing.TB) int {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			n := count(keeper)
			for _, e := range entries {
				if !strings.HasSuffix(e.Name(), ".ready") {
					n++
				}
			}
			return n
		},
	}
	if name == "six methods" {
		h.Want = []string{"BatchPutter", "BatchGetter", "BatchEvicter", "RangeGetter", "BytesGetter", "StreamPutter", "StreamGetter", "Stater", "Tagger",
			"ClearCloser",
			"Deferrer?", "Mapper?", "Waiter?"}
		h.Registry = nil // its configuration is the local connector's
	}
	return h
}
