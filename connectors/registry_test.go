package connectors_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
)

// TestLookupKind has every spelling that ConnectorConfig.get_connector_type of ProxyStore 1.1.0 takes, and the classes of proxystore_ex.
func TestLookupKind(t *testing.T) {
	for kind, names := range map[string][]string{
		"endpoint": {"endpoint", "EndpointConnector", "ENDPOINT", "proxystore.connectors.endpoint.EndpointConnector"},
		"file":     {"file", "fileconnector", "File", "proxystore.connectors.file.FileConnector"},
		"globus":   {"globus", "GlobusConnector", "proxystore.connectors.globus.GlobusConnector"},
		"local":    {"local", "LocalConnector", "proxystore.connectors.local.LocalConnector"},
		"multi":    {"multi", "MultiConnector", "proxystore.connectors.multi.MultiConnector"},
		"redis":    {"redis", "RedisConnector", "proxystore.connectors.redis.RedisConnector"},
		"zmq":      {"zmq", "ZeroMQConnector", "zeromq", "proxystore_ex.connectors.dim.zmq.ZeroMQConnector"},
		"ucx":      {"ucx", "UCXConnector", "proxystore_ex.connectors.dim.ucx.UCXConnector"},
		"margo":    {"margo", "MargoConnector", "proxystore_ex.connectors.dim.margo.MargoConnector"},
		"daos":     {"daos", "DAOSConnector", "proxystore_ex.connectors.daos.DAOSConnector"},
	} {
		for _, name := range names {
			if k, ok := connectors.LookupKind(name); !ok || k.Kind != kind {
				t.Errorf("%q: got %q, %v; want %q", name, k.Kind, ok, kind)
			}
		}
		if !slices.Contains(connectors.KnownKinds(), kind) {
			t.Errorf("KnownKinds lacks %q", kind)
		}
	}
	for _, name := range []string{"", "connector", "fil", "files", "proxystore.connectors.file", "proxystore.connectors.file.fileconnector", "x.FileConnector"} {
		if k, ok := connectors.LookupKind(name); ok {
			t.Errorf("%q is found as %q", name, k.Kind)
		}
	}
}

// driver returns a driver over m, and what its Open got.
func driver(kind string, m *memory) connectors.Driver {
	known, _ := connectors.LookupKind(kind)
	return connectors.Driver{
		Kind: kind, Class: known.Class, PythonOptions: []string{"host", "password"}, Essential: []string{"socket"}, Secret: []string{"password"},
		Open: func(ctx context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
			m.config.Kind = known.Class.String()
			m.config.Options = map[string]any{"host": o.String("host", "localhost"), "password": o.String("password", ""), "socket": o.String("socket", ""),
				"window": o.Int("window", 0, 0, 100)}
			m.env = env
			return m, o.Err()
		},
		Locations: func(o *connectors.Options, env *connectors.Env) ([]connectors.Location, error) {
			return []connectors.Location{{Kind: kind, Host: o.String("host", "localhost")}}, nil
		},
	}
}

func TestRegistryOpen(t *testing.T) {
	ctx := t.Context()
	var m memory
	r := &connectors.Registry{}
	r.Register(driver("redis", &m))
	for _, kind := range []string{"redis", "RedisConnector", "proxystore.connectors.redis.RedisConnector"} {
		opts := map[string]any{"host": "h", "window": 5}
		c, err := r.Open(ctx, connectors.Config{Kind: kind, Options: opts}, nil)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if m.env == nil || m.env.Registry != r || m.env.Logger == nil || m.env.Received {
			t.Errorf("%s: env %+v", kind, m.env)
		}
		if got := c.Config(); got.Options["window"] != int64(5) {
			t.Errorf("%s: options are not normalized: %v", kind, got)
		}
		// Config -> Open -> Config is a fixed point.
		first := c.Config()
		if c, err = r.Open(ctx, first, nil); err != nil || !c.Config().Equal(first) {
			t.Errorf("%s: opened again: %v, %v", kind, c.Config(), err)
		}
		if !reflect.DeepEqual(opts, map[string]any{"host": "h", "window": 5}) {
			t.Errorf("%s: Open changed the options to %v", kind, opts)
		}
	}
	env := &connectors.Env{Received: true, Secrets: func(kind string, c connectors.Config) map[string]any {
		return map[string]any{"password": kind + " of " + c.Options["host"].(string)}
	}}
	c, err := r.Open(ctx, connectors.Config{Kind: "redis", Options: map[string]any{"host": "h"}}, env)
	if err != nil || c.Config().Options["password"] != "redis of h" || !m.env.Received || env.Registry != nil {
		t.Errorf("secrets: %v, %v", c, err)
	}
	if l, err := r.Locations(connectors.Config{Kind: "redis", Options: map[string]any{"host": "x"}}, nil); err != nil ||
		!reflect.DeepEqual(l, []connectors.Location{{Kind: "redis", Host: "x"}}) {
		t.Errorf("locations: %v, %v", l, err)
	}
}

func TestRegistryErrors(t *testing.T) {
	ctx := t.Context()
	r := &connectors.Registry{}
	r.Register(driver("redis", &memory{}))
	r.Register(driver("file", &memory{}))
	for name, c := range map[string]struct {
		cfg  connectors.Config
		env  *connectors.Env
		is   error
		says string
	}{
		"unknown kind":   {connectors.Config{Kind: "rdis"}, nil, connectors.ErrConfig, `"rdis"; use one of file, redis`},
		"hostile kind":   {connectors.Config{Kind: strings.Repeat("x", 100_000)}, nil, connectors.ErrConfig, "use one of"},
		"not here":       {connectors.Config{Kind: "DAOSConnector"}, nil, connectors.ErrUnavailable, "no daos connector; it has file, redis"},
		"unknown option": {connectors.Config{Kind: "file", Options: map[string]any{"hots": "x"}}, nil, connectors.ErrConfig, "option hots is unknown"},
		"option type":    {connectors.Config{Kind: "file", Options: map[string]any{"host": struct{}{}}}, nil, connectors.ErrConfig, "host"},
		"not a secret": {connectors.Config{Kind: "file"}, &connectors.Env{Secrets: func(string, connectors.Config) map[string]any {
			return map[string]any{"host": "elsewhere"}
		}}, connectors.ErrConfig, "host is not a secret option"},
	} {
		_, err := r.Open(ctx, c.cfg, c.env)
		if !errors.Is(err, c.is) || !strings.Contains(fmt.Sprint(err), c.says) || len(err.Error()) > 1000 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, d := range map[string]connectors.Driver{
		"the kind again":  {Kind: "redis", Open: driver("redis", nil).Open, Locations: driver("redis", nil).Locations},
		"the class again": {Kind: "other", Class: driver("redis", nil).Class, Open: driver("redis", nil).Open, Locations: driver("redis", nil).Locations},
		"no Open":         {Kind: "new", Locations: driver("redis", nil).Locations},
		"no kind":         {Open: driver("redis", nil).Open, Locations: driver("redis", nil).Locations},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: Register did not panic", name)
				}
			}()
			r.Register(d)
		}()
	}
	if got := r.Kinds(); !slices.Equal(got, []string{"file", "redis"}) {
		t.Errorf("kinds are %v", got)
	}
	// A class of nobody's else is found by its full path alone.
	own := driver("redis", nil)
	own.Kind, own.Class = "own", connectors.Class{Module: "lab.store", Name: "OwnConnector"}
	r.Register(own)
	for _, name := range []string{"own", "lab.store.OwnConnector"} {
		if d, err := r.Driver(name); err != nil || d.Kind != "own" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTravelling(t *testing.T) {
	r := &connectors.Registry{}
	r.Register(driver("redis", &memory{}))
	full := map[string]any{"host": "h", "password": "p", "window": int64(5)}
	for name, c := range map[string]struct {
		opts   map[string]any
		python bool
		want   map[string]any
		is     error
	}{
		"to Go":                 {full, false, map[string]any{"host": "h", "window": int64(5)}, nil},
		"to Python":             {full, true, map[string]any{"host": "h"}, nil},
		"essential to Go":       {map[string]any{"socket": "/s"}, false, map[string]any{"socket": "/s"}, nil},
		"essential to Python":   {map[string]any{"socket": "/s"}, true, nil, connectors.ErrNotForPython},
		"unset essential":       {map[string]any{"socket": ""}, true, map[string]any{}, nil},
		"None for an essential": {map[string]any{"socket": nil}, true, map[string]any{}, nil},
	} {
		cfg := connectors.Config{Kind: "redis", Options: c.opts}
		before := cfg.Clone()
		got, err := r.Travelling(cfg, c.python)
		if !errors.Is(err, c.is) || err == nil && !reflect.DeepEqual(got.Options, c.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if want := driver("redis", nil).Class.String(); err == nil && c.python && got.Kind != want {
			t.Errorf("%s: kind %q, want %q", name, got.Kind, want)
		}
		if !reflect.DeepEqual(cfg, before) {
			t.Errorf("%s: the source became %v", name, cfg)
		}
	}
	// A login that must not travel is no less essential: Python, without it, would not get in.
	login := driver("zmq", nil)
	login.Essential = append(login.Essential, "password")
	login.PythonOptions = []string{"host"}
	r.Register(login)
	if got, err := r.Travelling(connectors.Config{Kind: "zmq", Options: full}, true); !errors.Is(err, connectors.ErrNotForPython) {
		t.Errorf("an essential secret to Python: %v, %v", got, err)
	}
	if got, err := r.Travelling(connectors.Config{Kind: "zmq", Options: full}, false); err != nil || got.Options["password"] != nil {
		t.Errorf("an essential secret to Go: %v, %v", got, err)
	}
	if _, err := r.Travelling(connectors.Config{Kind: "nosuch"}, false); !errors.Is(err, connectors.ErrConfig) {
		t.Errorf("unknown kind: %v", err)
	}
	hooked := driver("file", nil)
	hooked.Travel = func(_ *connectors.Registry, opts map[string]any, python bool) (map[string]any, error) {
		delete(opts, "x")
		opts["python"] = python
		return opts, nil
	}
	r.Register(hooked)
	cfg := connectors.Config{Kind: "file", Options: map[string]any{"x": "y"}}
	if got, err := r.Travelling(cfg, true); err != nil || !reflect.DeepEqual(got.Options, map[string]any{"python": true}) || cfg.Options["x"] != "y" {
		t.Errorf("hook: %v, %v, source %v", got, err, cfg)
	}
}
