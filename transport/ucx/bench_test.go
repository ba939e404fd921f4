//go:build cgo && ucx

package ucx

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// BenchmarkUCX measures a client and a server in one process, which both poll. Beside it, in the same run of the machine, go the figures of UCX's own
// tool: for T in tcp posix,self posix,cma,self; do UCX_TLS=$T ucx_perftest & UCX_TLS=$T ucx_perftest localhost -t ucp_am_lat -s 1000 -n 20000 -f; done
// (ucp_am_bw for throughput). What it calls latency is half a round trip; a get is a whole one.
func BenchmarkUCX(b *testing.B) {
	for _, via := range []string{"tcp", "posix", "cma"} {
		s := serve(b, ListenOptions{Config: config(variants[via]), BusyPoll: 200 * time.Microsecond})
		c := dialTo(b, s.Addr(), DialOptions{Config: config(variants[via]), BusyPoll: 200 * time.Microsecond})
		for _, size := range []struct {
			name string
			n    int
		}{{"1kB", 1000}, {"64KiB", 64 << 10}, {"1MB", 1e6}, {"64MiB", 64 << 20}} {
			obj := transport.Slices{[]byte("BS\n"), random(size.n)}
			n := obj.Len()
			put := func(b *testing.B, id string) {
				if err := c.Put(b.Context(), id, obj, objects.PutOptions{}); err != nil {
					b.Fatal(err)
				}
			}
			get := func(b *testing.B, id string) {
				buf, err := c.Get(b.Context(), id, 0, -1, n)
				if err != nil {
					b.Fatal(err)
				}
				buf.Release()
			}
			for _, op := range []struct {
				name string
				f    func(*testing.B, string)
			}{{"put", put}, {"get", get}} {
				for _, par := range []int{1, 8} {
					b.Run(fmt.Sprintf("via=%s/op=%s/size=%s/par=%d", via, op.name, size.name, par), func(b *testing.B) {
						for g := range par {
							put(b, fmt.Sprint(g))
						}
						b.SetBytes(n)
						b.ReportAllocs()
						if par == 1 {
							var took []time.Duration
							for b.Loop() {
								start := time.Now()
								op.f(b, "0")
								took = append(took, time.Since(start))
							}
							slices.Sort(took)
							b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
							b.ReportMetric(float64(took[len(took)/20].Nanoseconds()), "p5-ns") // of a machine that others use, too
							return
						}
						var wg sync.WaitGroup
						b.ResetTimer()
						for g := range par {
							wg.Go(func() {
								for range (b.N + par - 1) / par {
									op.f(b, fmt.Sprint(g))
								}
							})
						}
						wg.Wait()
					})
				}
			}
		}
	}
}
