package zmq_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/connectors/zmq"
	"github.com/proxyplane/proxyplane/transport"
	zmqtransport "github.com/proxyplane/proxyplane/transport/zmq"
)

func fails(t testing.TB, err, sentinel error, words ...string) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Errorf("%v; want one that is %q", err, sentinel)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q says nothing of %q", err, w)
		}
	}
}

func TestOptions(t *testing.T) {
	public, _, file := keys(t)
	other, _, _ := keys(t)
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	local := dim.Options{Address: "127.0.0.1"}
	for words, o := range map[string]zmq.Options{
		"chunk_length":              {ChunkLength: -1},
		"name a host":               {Options: dim.Options{Address: "unix:///x"}},
		"needs curve_server_key":    {CurveSecretFile: file},
		"option curve_server_key":   {CurveServerKey: "short", Options: local},
		"option curve_secret_file":  {CurveServerKey: public.Z85(), CurveSecretFile: bad, Options: local},
		"must be the public key":    {CurveServerKey: other.Z85(), CurveServerSecretFile: file, Options: local},
		"option curve_clients":      {CurveServerKey: public.Z85(), CurveServerSecretFile: file, CurveClients: []string{"x"}, Options: local},
		"curve_server_secret_file,": {CurveServerKey: public.Z85(), Options: local},
	} {
		_, err := zmq.New(t.Context(), o)
		fails(t, err, connectors.ErrConfig, words)
	}

	// Every option comes back as it was, from a server that has them all; another process of the same configuration finds it.
	opts := map[string]any{"address": "127.0.0.1", "timeout": 2.5, "chunk_length": int64(1000), "token": "secret", "curve_server_key": public.Z85(),
		"curve_server_secret_file": file, "memory": int64(1 << 26)}
	c, err := registry().Open(t.Context(), connectors.Config{Kind: "zmq", Options: opts}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	cfg := c.Config()
	opts["port"] = cfg.Options["port"]
	if !cfg.Equal(connectors.Config{Kind: "zmq", Options: opts}) {
		t.Errorf("the configuration is %v, opened with %v", cfg.Options, opts)
	}
	opts["connect_only"] = true
	visitor, err := registry().Open(t.Context(), connectors.Config{Kind: "zmq", Options: opts}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer visitor.Close(context.Background())
	key, err := visitor.Put(t.Context(), transport.Slices{[]byte("object")})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := connectors.GetBytes(t.Context(), c, key); err != nil || string(b) != "object" {
		t.Errorf("%q, %v", b, err)
	}
	// Without the key nobody gets anything.
	plain := open(t, zmq.Options{Options: local})
	if _, err := plain.Get(t.Context(), key); err == nil {
		t.Error("a server with CURVE serves who does not speak it")
	}
}

// TestLibzmq: the option is for who has libzmq. It travels to Go, and means nothing where it is not built in; Python's connector has no such thing.
func TestLibzmq(t *testing.T) {
	cfg := connectors.Config{Kind: "zmq", Options: map[string]any{"address": "127.0.0.1", "libzmq": true}}
	c, err := registry().Open(t.Context(), cfg, nil)
	if zmqtransport.HasLibzmq() {
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		if c.Config().Options["libzmq"] != true {
			t.Errorf("the configuration is %v", c.Config().Options)
		}
	} else {
		fails(t, err, connectors.ErrNotBuilt, "option libzmq", "-tags zmq")
	}
	received, err := registry().Open(t.Context(), cfg, &connectors.Env{Received: true})
	if err != nil {
		t.Fatal(err)
	}
	defer received.Close(context.Background())
	if on := received.Config().Options["libzmq"] == true; on != zmqtransport.HasLibzmq() {
		t.Errorf("a received configuration: libzmq is %v", on)
	}
	for python, want := range map[bool]any{false: true, true: nil} {
		out, err := registry().Travelling(cfg, python)
		if err != nil || out.Options["libzmq"] != want {
			t.Errorf("what travels (Python %v): %v, %v", python, out.Options, err)
		}
	}
}

// TestBeyondLoopback: a server that others could reach wants a word about who may.
func TestBeyondLoopback(t *testing.T) {
	_, err := zmq.New(t.Context(), zmq.Options{Options: dim.Options{Address: "0.0.0.0"}})
	fails(t, err, connectors.ErrConfig, "option address")
}

// TestForPython: what Python would miss does not become a proxy for Python, unless the server lets Python in all the same.
func TestForPython(t *testing.T) {
	r := registry()
	travel := func(opts map[string]any) (connectors.Config, error) {
		opts["port"] = int64(1)
		return r.Travelling(connectors.Config{Kind: "zmq", Options: opts}, true)
	}
	for _, name := range []string{"token", "token_file", "curve_server_key"} {
		_, err := travel(map[string]any{name: "x"})
		fails(t, err, connectors.ErrNotForPython, name)
	}
	out, err := travel(map[string]any{"token": "x", "insecure": true, "memory": int64(5), "chunk_length": int64(6)})
	if err != nil || len(out.Options) != 2 {
		t.Errorf("what travels: %v, %v", out.Options, err)
	}
}
