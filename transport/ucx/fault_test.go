//go:build cgo && ucx

package ucx

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/faultnet"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// TestFaults puts a proxy in the way of the connection that UCX makes first, by which the two workers find each other, and which stays. Frames go over
// connections that the workers then make by themselves, which no proxy can be in the way of.
func TestFaults(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{})
	proxy, err := faultnet.NewProxy("127.0.0.1:0", s.Addr(), faultnet.Plan{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	c := dialTo(t, proxy.Addr(), DialOptions{})
	if err := c.Put(t.Context(), "o", transport.Slices{random(3 << 20)}, objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- c.Wait(t.Context(), "never") }()
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxy.CutAll(true)
	if err := <-done; !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("the connection was cut: %v", err)
	}
	// A start that is cut at any byte is an error or no harm.
	for at := int64(1); at < 400; at += 13 {
		for _, plan := range []faultnet.Plan{{Read: faultnet.Faults{CutAfter: at}}, {Write: faultnet.Faults{CutAfter: at, Reset: true}}} {
			proxy.Set(plan)
			c, err := Dial(t.Context(), proxy.Addr(), DialOptions{ConnectTimeout: 500 * time.Millisecond})
			if err == nil {
				c.Close()
			} else if !errors.Is(err, transport.ErrUnavailable) {
				t.Fatalf("cut after %d bytes: %v", at, err)
			}
		}
	}
	// The server forgets them all, and goes on.
	proxy.Set(faultnet.Plan{})
	c = dialTo(t, proxy.Addr(), DialOptions{})
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestStrangers connects with what speaks no UCX at all.
func TestStrangers(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{})
	for _, say := range []string{"", "GET / HTTP/1.1\r\n\r\n", string(random(4096))} {
		nc, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write([]byte(say)); err != nil {
			t.Log(err) // it may have hung up
		}
		nc.Close()
	}
	c := dialTo(t, s.Addr(), DialOptions{})
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestToken(t *testing.T) {
	leaks(t)
	var o ListenOptions
	o.Token = []byte("secret")
	s := serve(t, o)
	var good, bad DialOptions
	good.Token, bad.Token = o.Token, []byte("other")
	c := dialTo(t, s.Addr(), good)
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	for _, o := range []DialOptions{bad, {}} {
		if _, err := Dial(t.Context(), s.Addr(), o); !errors.Is(err, transport.ErrDenied) {
			t.Errorf("without the token: %v", err)
		}
	}
}

// TestShutdown lets what is in flight end.
func TestShutdown(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{})
	var wg sync.WaitGroup
	for range 4 {
		c := dialTo(t, s.Addr(), DialOptions{})
		wg.Go(func() {
			for {
				if err := c.Put(t.Context(), "o", transport.Slices{random(1 << 20)}, objects.PutOptions{}); err != nil {
					if !errors.Is(err, transport.ErrUnavailable) {
						t.Errorf("the server drains: %v", err)
					}
					return
				}
			}
		})
	}
	for s.Stats().BytesIn < 8<<20 {
		runtime.Gosched()
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := Dial(t.Context(), s.Addr(), DialOptions{}); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("after shutdown: %v", err)
	}
}

func TestTooMany(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{MaxConns: 2})
	for range 2 {
		dialTo(t, s.Addr(), DialOptions{})
	}
	if _, err := Dial(t.Context(), s.Addr(), DialOptions{}); !errors.Is(err, transport.ErrUnavailable) || s.Stats().Turned != 1 {
		t.Errorf("one too many: %v, %d turned away", err, s.Stats().Turned)
	}
}
