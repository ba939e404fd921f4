//go:build cgo && ucx

package ucx

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// TestManyDrivers has many callers on one connection and on several, who take turns at driving the worker while the others sleep: small objects, for
// which the wheel changes hands all the time, and long ones, for which a driver sleeps on the descriptor in the middle of its own transfer. A wakeup
// that is lost stops everything. The server is another process, so that nothing on this side wakes whoever should have been woken by the peer.
func TestManyDrivers(t *testing.T) {
	small, big := random(1000), random(1<<20)
	forVariants(t, func(t *testing.T, tls string) {
		leaks(t)
		_, addr := process(t, "server", "127.0.0.1:0", tls)
		for _, conns := range []int{1, 4} {
			var clients []*Client
			for range conns {
				clients = append(clients, dialTo(t, addr, DialOptions{Config: config(tls)}))
			}
			for _, c := range clients {
				for name, obj := range map[string][]byte{"small": small, "big": big} {
					if err := c.Put(t.Context(), name, transport.Slices{obj}, objects.PutOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			}
			var wg sync.WaitGroup
			for g := range 16 {
				c := clients[g%conns]
				wg.Go(func() {
					for i := range 120 {
						name, want := "small", small
						if (i+g)%8 == 0 {
							name, want = "big", big
						}
						if i%5 == 4 {
							if err := c.Put(t.Context(), fmt.Sprint(name, g), transport.Slices{want}, objects.PutOptions{}); err != nil {
								t.Error(err)
								return
							}
						}
						b, err := c.Get(t.Context(), name, 0, -1, int64(len(want)))
						if err != nil || !bytes.Equal(b.Bytes(), want) {
							t.Errorf("got other bytes, %v", err)
							return
						}
						b.Release()
					}
				})
			}
			wg.Wait()
		}
	})
}
