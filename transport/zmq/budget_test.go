//go:build !race && !invariants

package zmq

import (
	"context"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

// TestLinkAllocations: moving messages takes no memory.
func TestLinkAllocations(t *testing.T) {
	for _, curve := range []bool{false, true} {
		server, client := pair(t, curve)
		head, body := make([]byte, 50), transport.Slices{make([]byte, 20_000), make([]byte, 100_000)}
		dst := make([]byte, body.Len())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for server.skip() == nil {
				server.send(head, nil, nil, whole)
			}
		}()
		for _, cut := range []int{whole, 64 << 10} {
			if n := testing.AllocsPerRun(100, func() {
				if err := client.send(head, nil, body, cut); err != nil {
					t.Fatal(err)
				}
				n, _, err := client.next()
				if err != nil {
					t.Fatal(err)
				}
				client.read(dst[:n])
			}); n > 0 {
				t.Errorf("curve=%v: %v allocations for each message", curve, n)
			}
		}
		client.close()
		<-done
	}
}

// TestExchangeAllocations: an exchange takes its Buffer, a view of it, and little more, whatever the number of frames.
func TestExchangeAllocations(t *testing.T) {
	obj := transport.Slices{make([]byte, 5<<20)}
	s := serve(t, "tcp://127.0.0.1:0", ListenOptions{Python: func(_ context.Context, req *transport.Buffer) (transport.Slices, func(), error) {
		req.Release()
		return obj, nil, nil
	}, listen: listenPure})
	e, err := DialExchanger(context.Background(), s.Addr(), DialOptions{connect: connectPure})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	req := transport.Slices{make([]byte, 200)}
	if n := testing.AllocsPerRun(50, func() {
		b, err := e.Exchange(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
	}); n > 9 {
		t.Errorf("%v allocations for each exchange, both sides", n)
	}
}
