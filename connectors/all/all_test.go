package all

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// TestRegistry: every driver is found by each of its names, and agrees with what package connectors knows of the kind.
func TestRegistry(t *testing.T) {
	r := Registry()
	for _, kind := range []string{"file", "local", "multi", "redis", "tcp", "ucx", "zmq"} {
		if !slices.Contains(r.Kinds(), kind) {
			t.Errorf("%s is missing", kind)
		}
	}
	for _, kind := range r.Kinds() {
		d, err := r.Driver(kind)
		if err != nil {
			t.Fatal(err)
		}
		known, ok := connectors.LookupKind(kind)
		if !ok || known.Kind != kind || known.Class != d.Class {
			t.Errorf("%s: the driver has class %s, package connectors %s", kind, d.Class, known.Class)
		}
		for _, name := range []string{d.Class.Name, d.Class.String(), known.Path()} {
			if d.Class == (connectors.Class{}) && name != kind {
				continue // one that Python does not have is found by its kind alone
			}
			if by, err := r.Driver(name); err != nil || by != d {
				t.Errorf("%s: not found as %s: %v", kind, name, err)
			}
		}
	}
	// Each call returns a Registry of its own.
	own := Registry()
	like, err := r.Driver("local")
	if err != nil {
		t.Fatal(err)
	}
	own.Register(connectors.Driver{Kind: "own", Open: like.Open, Locations: like.Locations})
	if _, err := Registry().Driver("own"); err == nil {
		t.Error("registering in one Registry changed another")
	}
}

// TestNotForPython: a configuration that Python cannot open does not become a proxy for Python, and the error says what to use.
func TestNotForPython(t *testing.T) {
	r := Registry()
	port := map[string]any{"port": int64(1)}
	for _, cfg := range []connectors.Config{{Kind: "tcp", Options: port}, {Kind: "multi", Options: map[string]any{
		"t": []any{"tcp", port, map[string]any{}}}}} {
		_, err := r.Travelling(cfg, true)
		if !errors.Is(err, connectors.ErrNotForPython) || !strings.Contains(err.Error(), "use connector zmq") {
			t.Errorf("%v for Python: %v", cfg, err)
		}
		if out, err := r.Travelling(cfg, false); err != nil || out.Kind != cfg.Kind && cfg.Kind == "tcp" {
			t.Errorf("%v for Go: %v, %v", cfg, out, err)
		}
	}
	for _, kind := range []string{"zmq", "ucx"} {
		out, err := r.Travelling(connectors.Config{Kind: kind, Options: map[string]any{"port": int64(1), "memory": int64(1), "insecure": true}}, true)
		if err != nil || len(out.Options) != 1 {
			t.Errorf("%s for Python: %v, %v", kind, out.Options, err)
		}
		if _, err := r.Travelling(connectors.Config{Kind: kind, Options: map[string]any{"port": int64(1), "token": "x"}}, true); !errors.Is(err, connectors.ErrNotForPython) {
			t.Errorf("%s with a token for Python: %v", kind, err)
		}
	}
}

// TestDownSibling: a proxy of the file child resolves while the Redis child is down.
func TestDownSibling(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	cfg := connectors.Config{Kind: "multi", Options: map[string]any{
		"f": []any{"file", map[string]any{"store_dir": dir, "clear": false}, map[string]any{"priority": int64(1)}},
		"r": []any{"redis", map[string]any{"hostname": "127.0.0.1", "port": int64(1)}, map[string]any{}},
	}}
	c, err := Registry().Open(ctx, cfg, &connectors.Env{Received: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	key, err := c.Put(ctx, transport.Slices{[]byte("object")})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := connectors.GetBytes(ctx, c, key); err != nil || string(b) != "object" {
		t.Errorf("%q, %v", b, err)
	}
	down := connectors.MultiKey{ConnectorName: "r", ConnectorKey: connectors.RedisKey{RedisKey: "x"}}
	if _, err := c.Get(ctx, down); err == nil || !connectors.Retryable(err) {
		t.Errorf("the child that is down: %v", err)
	}
}

// TestFixedPoint: what a connector says of itself opens an equal one, multi with every kind inside included.
func TestFixedPoint(t *testing.T) {
	ctx := t.Context()
	r := Registry()
	entry := func(kind string, opts map[string]any) []any {
		return []any{kind, opts, map[string]any{}}
	}
	cfg := connectors.Config{Kind: "multi", Options: map[string]any{
		"f": entry("file", map[string]any{"store_dir": t.TempDir()}),
		"l": entry("local", map[string]any{}),
	}}
	c, err := r.Open(ctx, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	first := c.Config()
	again, err := r.Open(ctx, first, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(ctx)
	if !again.Config().Equal(first) {
		t.Errorf("%v became %v", first, again.Config())
	}
	for _, python := range []bool{true, false} {
		out, err := r.Travelling(first, python)
		if err != nil {
			t.Fatal(err)
		}
		if l, err := r.Locations(out, &connectors.Env{Received: true}); err != nil || len(l) != 2 {
			t.Errorf("as it travels (Python %v): locations %v, %v", python, l, err)
		}
	}
}
