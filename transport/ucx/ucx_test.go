//go:build cgo && ucx

package ucx

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	cucx "github.com/proxyplane/proxyplane/cgo/ucx"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

func TestMain(m *testing.M) {
	if os.Getenv("UCX_LOG_LEVEL") == "" {
		os.Setenv("UCX_LOG_LEVEL", "error")
	}
	os.Setenv("UCX_WARN_UNUSED_ENV_VARS", "n")
	if role := os.Getenv("PROXYPLANE_UCX_ROLE"); role != "" {
		other(role)
		return
	}
	os.Exit(m.Run())
}

func config(tls string) map[string]string { return map[string]string{"TLS": tls} }

// variants of what UCX may use. Shared memory comes in addition to a network transport.
var variants = map[string]string{"tcp": "tcp", "posix": "tcp,posix,self", "sysv": "tcp,sysv,self", "cma": "tcp,posix,cma,self", "all": "all"}

func forVariants(t *testing.T, f func(t *testing.T, tls string)) {
	for name, tls := range variants {
		t.Run(name, func(t *testing.T) { f(t, tls) })
	}
}

func newTable(t testing.TB) *objects.Table {
	t.Helper()
	table, err := objects.NewTable(objects.TableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

// leaks makes the test fail if something of UCX's is left when it ends.
func leaks(t testing.TB) {
	t.Helper()
	goroutines := runtime.NumGoroutine()
	buffers, _ := transport.Live(transport.Pooled)
	t.Cleanup(func() {
		for p := cucx.Contexts; p <= cucx.RemoteKeys; p++ {
			if h, b := cucx.Live(p); h != 0 || b != 0 {
				t.Errorf("%d %v with %d bytes are left", h, p, b)
			}
		}
		if b, _ := transport.Live(transport.Pooled); b != buffers {
			t.Errorf("%d pooled buffers are left, %d were there before", b, buffers)
		}
		for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines; runtime.Gosched() {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("goroutines are left:\n%s", stacks[:runtime.Stack(stacks, true)])
			}
		}
	})
}

func serve(t testing.TB, o ListenOptions) *Server {
	t.Helper()
	o.Workers = cmp.Or(o.Workers, 64) // so that there is shared memory
	s, err := Listen(t.Context(), "127.0.0.1:0", newTable(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func dialTo(t testing.TB, addr string, o DialOptions) *Client {
	t.Helper()
	c, err := Dial(t.Context(), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func random(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(p)
	return p
}

var sizes = []int{0, 1, 100, 1 << 10, 3000, 9000, 64 << 10, 1<<20 - 1, 1 << 20, 1<<20 + 1, 9<<20 + 5}

func TestRoundTrips(t *testing.T) {
	forVariants(t, func(t *testing.T, tls string) {
		leaks(t)
		s := serve(t, ListenOptions{Config: config(tls)})
		c := dialTo(t, s.Addr(), DialOptions{Config: config(tls)})
		t.Log(c.Transports(), s.Transports())
		for _, n := range sizes {
			p := random(n)
			for _, obj := range []transport.Slices{{p}, {[]byte("BS\n"), p}, {p[:n/2], []byte("x"), p[n/2:], []byte("yz")}} {
				id := fmt.Sprint("object ", n, len(obj))
				want := obj.Join()
				if err := c.Put(t.Context(), id, obj, objects.PutOptions{}); err != nil {
					t.Fatal(err)
				}
				for _, size := range []int64{-1, int64(len(want))} {
					b, err := c.Get(t.Context(), id, 0, -1, size)
					if err != nil || !bytes.Equal(b.Bytes(), want) {
						t.Fatalf("%d bytes: got others, %v", n, err)
					}
					b.Release()
				}
				got, err := c.GetBytes(t.Context(), id, -1)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes: got others, %v", n, err)
				}
			}
		}
		if _, err := c.Get(t.Context(), "none", 0, -1, -1); !errors.Is(err, transport.ErrNotFound) {
			t.Errorf("a missing object: %v", err)
		}
	})
}

func TestManyCalls(t *testing.T) {
	forVariants(t, func(t *testing.T, tls string) {
		leaks(t)
		s := serve(t, ListenOptions{Config: config(tls), Workers: 2})
		var clients [4]*Client
		for i := range clients {
			clients[i] = dialTo(t, s.Addr(), DialOptions{Config: config(tls)})
		}
		var wg sync.WaitGroup
		for g := range 32 {
			wg.Go(func() {
				c := clients[g%len(clients)]
				for i := range 20 {
					n := sizes[(g+i)%8]
					id := fmt.Sprint(g)
					p := random(n)
					if err := c.Put(t.Context(), id, transport.Slices{p}, objects.PutOptions{}); err != nil {
						t.Error(err)
						return
					}
					got, err := c.GetBytes(t.Context(), id, -1)
					if err != nil || !bytes.Equal(got, p) {
						t.Errorf("%d bytes: got others, %v", n, err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestCancel(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{})
	c := dialTo(t, s.Addr(), DialOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Wait(ctx, "never") }()
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("after a cancelled call: %v", err)
	}
	if _, err := Dial(ctx, s.Addr(), DialOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled dial: %v", err)
	}
}
