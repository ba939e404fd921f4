//go:build !race && !invariants

package tcp_test

import (
	"fmt"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/tcp"
	"github.com/proxyplane/proxyplane/transport"
	tcptransport "github.com/proxyplane/proxyplane/transport/tcp"
)

// TestAllocations holds the connector to its budget, client and server together: it does not grow with the object.
func TestAllocations(t *testing.T) {
	ctx := t.Context()
	s, _ := serve(t, "tcp://127.0.0.1:0", tcptransport.ListenOptions{NoSameHost: true})
	far := at(s.Addr())
	far.NoSameHost = true
	budgets := map[string]map[string]float64{"near": {"Get": 2, "GetBytes": 3, "Put": 8, "Set": 4, "Exists": 1},
		"far": {"Get": 6, "GetBytes": 6, "Put": 15, "Set": 8, "Exists": 5}}
	for where, opts := range map[string]tcp.Options{"near": {}, "far": far} {
		c := open(t, opts)
		for _, size := range []int{1 << 10, 1 << 20} {
			obj := transport.Slices{[]byte("BS\n"), make([]byte, size)}
			key, err := c.Put(ctx, obj)
			if err != nil {
				t.Fatal(err)
			}
			check := func(err error) {
				if err != nil {
					t.Fatal(err)
				}
			}
			for name, op := range map[string]func(){
				"Get":      func() { b, err := c.Get(ctx, key); check(err); b.Release() },
				"GetBytes": func() { _, err := connectors.GetBytes(ctx, c, key); check(err) },
				"Put":      func() { k, err := c.Put(ctx, obj); check(err); check(c.Evict(ctx, k)) },
				"Set":      func() { check(c.Set(ctx, key, obj)) },
				"Exists":   func() { _, err := c.Exists(ctx, key); check(err) },
			} {
				t.Run(fmt.Sprintf("server=%s/op=%s/size=%d", where, name, size), func(t *testing.T) {
					if n := testing.AllocsPerRun(50, op); n > budgets[where][name] {
						t.Errorf("%v allocations, budget %v", n, budgets[where][name])
					}
				})
			}
		}
	}
}
