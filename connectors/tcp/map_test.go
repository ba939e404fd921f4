package tcp_test

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/proxyplane/proxyplane/connectors/tcp"
	"github.com/proxyplane/proxyplane/transport"
	tcptransport "github.com/proxyplane/proxyplane/transport/tcp"
)

// TestMapped: on the server's host an object is mapped, whoever put it and however.
func TestMapped(t *testing.T) {
	inside := open(t, tcp.Options{})
	opts := tcp.Options{}
	opts.Port = int(inside.Config().Options["port"].(int64))
	opts.Token = "another" // so that the server is reached from outside
	_, _ = inside, opts
	s, _ := serve(t, "tcp://127.0.0.1:0", tcptransport.ListenOptions{})
	c := open(t, at(s.Addr()))
	object := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	key, err := c.Put(t.Context(), transport.Slices{object})
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Map(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	if !bytes.Equal(b.Bytes(), object) || runtime.GOOS == "linux" && b.Backing() != transport.Mapped {
		t.Errorf("%s memory", b.Backing())
	}
}
