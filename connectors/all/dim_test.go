package all_test

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
)

// elsewhere parses a proxy as a process would that knows nothing but its text.
func elsewhere[T any](t *testing.T, p encoding.TextMarshaler) *proxyplane.Proxy[T] {
	t.Helper()
	text, err := p.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	received, err := proxyplane.ParseProxy[T](text)
	if err != nil {
		t.Fatal(err)
	}
	stores := proxyplane.NewStores()
	t.Cleanup(func() {
		if err := stores.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	received.Bind(stores)
	return received
}

func openStore(t *testing.T, c connectors.Config) *proxyplane.Store {
	t.Helper()
	s, err := proxyplane.Open(t.Context(), proxyplane.NewConfig("", c), proxyplane.WithStores(proxyplane.NewStores()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// TestDIMStores: stores over object servers of this process, at ports that the system picked, and what travels from them: proxies, futures, lifetimes,
// and the end of the server.
func TestDIMStores(t *testing.T) {
	address := map[string]any{"address": "127.0.0.1"}
	for name, cfg := range map[string]connectors.Config{
		"tcp": {Kind: "tcp"},
		"zmq": {Kind: "zmq", Options: address},
		"ucx": {Kind: "ucx", Options: address},
		"multi": {Kind: "multi", Options: map[string]any{
			"small": []any{"zmq", map[string]any{"address": "127.0.0.1", "port": int64(0)}, map[string]any{"max_size_bytes": int64(1000)}},
			"large": []any{"tcp", map[string]any{"port": int64(0)}, map[string]any{"min_size_bytes": int64(1001)}}}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			s := openStore(t, cfg)
			var proxies []*proxyplane.Proxy[string]
			for _, value := range []string{"small", strings.Repeat("large", 1000)} {
				p, err := proxyplane.NewProxy(ctx, s, value)
				if err != nil {
					t.Fatal(err)
				}
				if text := fmt.Sprint(s.Config().Connector.Options); strings.Contains(text, "port:0") {
					t.Errorf("the configuration has no real port: %s", text)
				}
				if got, err := elsewhere[string](t, p).Resolve(ctx); err != nil || got != value {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				proxies = append(proxies, elsewhere[string](t, p))
			}

			// A future that is waited for before it is set. A multi connector cannot make keys in advance.
			if name != "multi" {
				f, err := proxyplane.NewFuture[string](ctx, s, proxyplane.Polling{})
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				for range 3 {
					p := elsewhere[string](t, f.Proxy())
					wg.Go(func() {
						if got, err := p.Resolve(ctx); err != nil || got != "at last" {
							t.Errorf("future: %q, %v", got, err)
						}
					})
				}
				if err := f.Set(ctx, "at last"); err != nil {
					t.Fatal(err)
				}
				wg.Wait()
			}

			// A lifetime takes its objects along, for everybody.
			life := proxyplane.ContextLifetime(ctx)
			brief, err := proxyplane.NewProxy(ctx, s, "brief")
			if err != nil {
				t.Fatal(err)
			}
			if err := proxyplane.AddProxy(ctx, life, brief); err != nil {
				t.Fatal(err)
			}
			if err := life.Close(ctx); err != nil {
				t.Fatal(err)
			}
			if got, err := elsewhere[string](t, brief).Resolve(ctx); !errors.Is(err, proxyplane.ErrNotFound) {
				t.Errorf("after the end of its lifetime: %q, %v", got, err)
			}

			// With the store the server ends, and who comes later is told so.
			if err := s.Close(ctx); err != nil {
				t.Fatal(err)
			}
			if name == "ucx" {
				return // its server stays, as Python's does
			}
			for _, p := range proxies {
				if got, err := p.Resolve(ctx); err == nil || !strings.Contains(err.Error(), "objects are gone") {
					t.Errorf("without a server: %q, %v", got, err)
				}
			}
		})
	}
}
