package native_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

// floor is the least that fetching an object can cost: a request of 64 bytes, an answer of a header and the body, read into memory that is there.
type floor struct {
	nc  net.Conn
	req [64]byte
}

func newFloor(b *testing.B, network string, size int) *floor {
	cn, sn := overNet(network)(b)
	b.Cleanup(func() { cn.Close(); sn.Close() })
	go func() {
		var req, head [64]byte
		body := make([]byte, size)
		for {
			if _, err := io.ReadFull(sn, req[:]); err != nil {
				return
			}
			bufs := net.Buffers{head[:], body}
			if binary.LittleEndian.Uint64(req[:]) == 1 { // put
				if _, err := io.ReadFull(sn, body); err != nil {
					return
				}
				bufs = bufs[:1]
			}
			if _, err := bufs.WriteTo(sn); err != nil {
				return
			}
		}
	}()
	return &floor{nc: cn}
}

func (f *floor) get(b *testing.B, into []byte) {
	f.req[0] = 0
	if _, err := f.nc.Write(f.req[:]); err != nil {
		b.Fatal(err)
	}
	f.read(b, f.req[:])
	f.read(b, into)
}

func (f *floor) put(b *testing.B, body []byte) {
	f.req[0] = 1
	bufs := net.Buffers{f.req[:], body}
	if _, err := bufs.WriteTo(f.nc); err != nil {
		b.Fatal(err)
	}
	f.read(b, f.req[:])
}

func (f *floor) read(b *testing.B, p []byte) {
	if _, err := io.ReadFull(f.nc, p); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkNative compares the engine, over the Carrier of package tcp, with floor.
func BenchmarkNative(b *testing.B) {
	ctx := context.Background()
	for _, via := range []string{"tcp", "unix"} {
		for _, size := range []struct {
			name string
			n    int
		}{{"1KiB", 1 << 10}, {"64KiB", 64 << 10}, {"1MiB", 1 << 20}, {"100MiB", 100 << 20}} {
			cn, sn := overNet(via)(b)
			store, err := objects.NewTable(objects.TableOptions{Memory: 2 << 30})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { store.Close() })
			srv := native.NewServer(store, native.ServerOptions{})
			b.Cleanup(func() { srv.Close() })
			go srv.ServeCarrier(ctx, tcp.NewCarrier(sn, tcp.CarrierOptions{}))
			c, err := native.NewClient(ctx, tcp.NewCarrier(cn, tcp.CarrierOptions{}), native.ClientOptions{})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { c.Close() })
			body := payload(size.name, size.n)
			obj := transport.Slices{[]byte("BS\n"), body}
			must(b, c.Put(ctx, "x", obj, objects.PutOptions{}))
			warm := make([]byte, size.n+3)
			f := newFloor(b, via, size.n+3)
			bench := func(op, by string, par int, f func(b *testing.B)) {
				b.Run(fmt.Sprintf("via=%s/op=%s/size=%s/par=%d/by=%s", via, op, size.name, par, by), func(b *testing.B) {
					f(b)
					b.SetBytes(int64(size.n + 3))
					b.ReportAllocs()
					if par == 1 {
						for b.Loop() {
							f(b)
						}
						return
					}
					var wg sync.WaitGroup
					for i := range par {
						n := b.N / par
						if i == 0 {
							n += b.N % par
						}
						wg.Go(func() {
							for range n {
								f(b)
							}
						})
					}
					wg.Wait()
				})
			}
			get := func(ctx context.Context) func(b *testing.B) {
				return func(b *testing.B) {
					buf, err := c.Get(ctx, "x", 0, -1, int64(size.n+3))
					must(b, err)
					buf.Release()
				}
			}
			live, cancel := context.WithCancel(ctx)
			defer cancel()
			bench("get", "floor", 1, func(b *testing.B) { f.get(b, warm) })
			bench("get", "native", 1, get(ctx))
			bench("get", "native-cancelable", 1, get(live))
			bench("get", "native", 16, get(ctx))
			bench("getbytes", "native", 1, func(b *testing.B) {
				_, err := c.GetBytes(ctx, "x", int64(size.n+3))
				must(b, err)
			})
			bench("put", "floor", 1, func(b *testing.B) { f.put(b, warm) })
			bench("put", "native", 1, func(b *testing.B) { must(b, c.Put(ctx, "x", obj, objects.PutOptions{})) })
			bench("stream-get", "native", 1, func(b *testing.B) {
				r, err := c.GetStream(ctx, "x", 0)
				must(b, err)
				_, err = r.WriteTo(io.Discard)
				must(b, err)
				must(b, r.Close())
			})
			bench("stream-put", "native", 1, func(b *testing.B) {
				w, err := c.PutStream(ctx, "y", int64(size.n), objects.PutOptions{})
				must(b, err)
				_, err = w.Write(body)
				must(b, err)
				must(b, w.Commit())
			})
		}
	}
}
