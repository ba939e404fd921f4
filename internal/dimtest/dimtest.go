// Package dimtest has the tests that the connectors over package connectors/dim share beyond connectortest: a bad network, and the allocation budget.
package dimtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/faultnet"
)

// Site is a server behind a bad network.
type Site struct {
	Open    func(t testing.TB) *dim.Connector
	Hostile []connectors.Key
	Objects func() int // on the server
}

// brittle hides Reader and Writer: a Writer whose connection breaks fails, as it must, and so does a Reader whose object is replaced. It hides Map,
// which the network does not have.
type brittle struct{ *dim.Connector }

func (brittle) PutStream() {}
func (brittle) GetStream() {}
func (brittle) Map()       {}

// Faults runs the conformance suite with a bad network between connector and server: calls are made again until they come through. capabilities are
// those over a good one. serve starts a server and reaches it through the address that through returns for the server's own.
func Faults(t *testing.T, capabilities []string, serve func(t testing.TB, through func(target string) (addr string)) Site) {
	networked := slices.DeleteFunc(slices.Clone(capabilities), func(name string) bool { return strings.TrimSuffix(name, "?") == "Mapper" })
	for name, plan := range map[string]faultnet.Plan{
		"Cut":     {Read: faultnet.Faults{CutAfter: 6 << 20, Reset: true}, Write: faultnet.Faults{CutAfter: 7 << 20}},
		"Slow":    {Read: faultnet.Faults{Short: 5000, ShortRandom: true}, Write: faultnet.Faults{Latency: 20 * time.Microsecond}},
		"Corrupt": {Seed: 1, Read: faultnet.Faults{CorruptRate: 5e-8}, Write: faultnet.Faults{CorruptRate: 5e-8}},
	} {
		t.Run(name, func(t *testing.T) {
			var faults faultnet.Stats
			connectortest.Run(t, func(t testing.TB) connectortest.Harness {
				site := serve(t, func(target string) string {
					p, err := faultnet.NewProxy("tcp://127.0.0.1:0", target, plan)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() {
						stats := p.Stats()
						faults.Cuts += stats.Cuts
						faults.Corrupted += stats.Corrupted
						faults.Delayed += stats.Delayed
						p.Close()
					})
					return p.Addr()
				})
				h := connectortest.Harness{MaxSize: 2 << 20, OutlivesClose: true, HostileKeys: site.Hostile,
					Want:    slices.DeleteFunc(slices.Clone(networked), func(name string) bool { return strings.HasPrefix(name, "Stream") }),
					Open:    func(t testing.TB) connectors.Connector { return brittle{site.Open(t)} },
					Objects: func(testing.TB) int { return site.Objects() }}
				if name == "Slow" {
					h.MaxSize = 256 << 10
					h.Want = append(slices.Clone(networked), "Mapper?")
					h.Open = func(t testing.TB) connectors.Connector { return site.Open(t) }
				}
				return h
			})
			if faults == (faultnet.Stats{}) {
				t.Error("nothing went wrong")
			}
			t.Logf("%d cuts, %d flipped bits, %d delays", faults.Cuts, faults.Corrupted, faults.Delayed)
		})
	}
}

// Allocations holds connectors to their budgets, client and server together, which do not grow with the object: near has its server within the process,
// far elsewhere. It needs a build without race detector and invariants.
func Allocations(t *testing.T, near, far *dim.Connector) {
	ctx := t.Context()
	for _, v := range []struct {
		where  string
		c      *dim.Connector
		budget map[string]float64
	}{
		{"near", near, map[string]float64{"Get": 2, "GetBytes": 3, "Put": 8, "Set": 4, "Exists": 1}},
		{"far", far, map[string]float64{"Get": 6, "GetBytes": 6, "Put": 15, "Set": 8, "Exists": 5}},
	} {
		c := v.c
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
				t.Run(fmt.Sprintf("server=%s/op=%s/size=%d", v.where, name, size), func(t *testing.T) {
					if n := testing.AllocsPerRun(50, op); n > v.budget[name] {
						t.Errorf("%v allocations, budget %v", n, v.budget[name])
					}
				})
			}
		}
	}
}
