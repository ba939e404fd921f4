package ucx_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/connectors/tcp"
	"github.com/proxyplane/proxyplane/connectors/ucx"
	"github.com/proxyplane/proxyplane/transport"
)

// TestKeys: with the tag and without, a key says what its object moves over, and who cannot speak that says what to build.
func TestKeys(t *testing.T) {
	t.Cleanup(func() { dim.StopServers(context.Background()) })
	opts := ucx.Options{}
	opts.Address = "127.0.0.1"
	c := open(t, opts)
	key, err := c.Put(t.Context(), transport.Slices{[]byte("object")})
	if err != nil {
		t.Fatal(err)
	}
	k := key.(connectors.DIMKey)
	if k.DIMType != dimType() {
		t.Errorf("key %v, want type %s", k, dimType())
	}
	// An object at a server of the native TCP transport, of a build with or without the tag.
	other := serveTCP(t)
	native, err := other.Put(t.Context(), transport.Slices{[]byte("native")})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := c.GetBytes(t.Context(), native); err != nil || string(b) != "native" {
		t.Errorf("an object with a tcp key: %q, %v", b, err)
	}
	if ucx.Built {
		return
	}
	_, err = c.Get(t.Context(), connectors.DIMKey{DIMType: "ucx", ObjID: "x", PeerHost: "127.0.0.1", PeerPort: 1})
	if !errors.Is(err, connectors.ErrNotBuilt) || connectors.Retryable(err) || !strings.Contains(err.Error(), "-tags ucx") || !strings.Contains(err.Error(), "libucx-dev") {
		t.Errorf("a ucx key without the tag: %v", err)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []ucx.Options{{BusyPoll: time.Minute}, {Options: dim.Options{Address: "unix:///x"}}, {Options: dim.Options{Token: "a", TokenFile: "b"}}} {
		if c, err := ucx.New(t.Context(), o); !errors.Is(err, connectors.ErrConfig) {
			t.Errorf("%+v: %v", o, err)
			if err == nil {
				c.Close(t.Context())
			}
		}
	}
}

func serveTCP(t *testing.T) connectors.Connector {
	t.Helper()
	c, err := tcp.New(t.Context(), tcp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}
