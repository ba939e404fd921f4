package native_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

func BenchmarkR3(b *testing.B) {
	for _, via := range []string{"tcp", "unix"} {
		for _, size := range []int{1_000_000, 10_000_000} {
			for _, par := range []int{1, 16} {
				for _, conns := range []int{0, 1, 2, 4} {
					if par == 1 && conns > 1 {
						continue
					}
					b.Run(fmt.Sprintf("via=%s/size=%d/par=%d/conns=%d", via, size, par, conns), func(b *testing.B) {
						b.SetBytes(int64(size))
						payload := make([]byte, size)
						var left atomic.Int64
						run := func(f func(i int) error) {
							left.Store(int64(4 * par))
							for range 2 {
								var wg sync.WaitGroup
								for i := range par {
									wg.Go(func() {
										for left.Add(-1) >= 0 {
											if err := f(i); err != nil {
												b.Error(err)
												return
											}
										}
									})
								}
								wg.Wait()
								left.Store(int64(b.N))
								b.ResetTimer()
							}
						}
						if conns == 0 {
							var xs []net.Conn
							var dst [][]byte
							for range par {
								x, y := overNet(via)(b)
								defer x.Close()
								defer y.Close()
								go func() {
									head := make([]byte, 64)
									for {
										if _, err := io.ReadFull(y, head); err != nil {
											return
										}
										bufs := net.Buffers{head, payload}
										if _, err := bufs.WriteTo(y); err != nil {
											return
										}
									}
								}()
								xs, dst = append(xs, x), append(dst, make([]byte, size+64))
							}
							run(func(i int) error {
								if _, err := xs[i].Write(dst[i][:64]); err != nil {
									return err
								}
								_, err := io.ReadFull(xs[i], dst[i])
								return err
							})
							return
						}
						store, err := objects.NewTable(objects.TableOptions{Memory: 2 << 30})
						must(b, err)
						defer store.Close()
						srv := native.NewServer(store, native.ServerOptions{})
						defer srv.Close()
						ctx := context.Background()
						pool := transport.NewPool(1 << 30)
						var cs []*native.Client
						for range conns {
							cn, sn := overNet(via)(b)
							go srv.ServeCarrier(ctx, tcp.NewCarrier(sn, tcp.CarrierOptions{}))
							c, err := native.NewClient(ctx, tcp.NewCarrier(cn, tcp.CarrierOptions{}), native.ClientOptions{Pool: pool})
							must(b, err)
							defer c.Close()
							cs = append(cs, c)
						}
						must(b, cs[0].Put(ctx, "x", transport.Slices{payload}, objects.PutOptions{}))
						run(func(i int) error {
							buf, err := cs[i%conns].Get(ctx, "x", 0, -1, int64(size))
							buf.Release()
							return err
						})
					})
				}
			}
		}
	}
}
