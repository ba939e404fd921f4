package tcp

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// sizes of the benchmarks' objects.
var sizes = []struct {
	name string
	n    int
}{{"1kB", 1000}, {"100kB", 100_000}, {"1MB", 1_000_000}, {"10MB", 10_000_000}, {"100MB", 100_000_000}}

func benchConns(b *testing.B, network string) (x, y net.Conn) {
	addr := "127.0.0.1:0"
	if network == "tls" {
		cx, cy := kinds["tls"](b, CarrierOptions{})
		return cx.nc, cy.nc
	}
	if network == "unix" {
		addr = filepath.Join(b.TempDir(), "s")
	}
	return connect(b, network, addr)
}

// raw answers each 64 bytes with 64 and the payload, by one writev: what any protocol must do at least.
func raw(y net.Conn, payload []byte) {
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
}

func rawGet(x net.Conn, dst []byte) error {
	if _, err := x.Write(dst[:64]); err != nil {
		return err
	}
	_, err := io.ReadFull(x, dst)
	return err
}

// parallel runs f on par goroutines until b is done.
func parallel(b *testing.B, par int, f func(worker int) error) {
	b.ReportAllocs()
	if par == 1 {
		for b.Loop() {
			if err := f(0); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
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
}

func benchSession(b *testing.B, network string) *Client {
	addr := network + "://127.0.0.1:0"
	if network == "unix" {
		addr = "unix://" + filepath.Join(b.TempDir(), "objects")
	}
	s := listen(b, addr, table(b), ListenOptions{NoSameHost: true, TLS: serverTLS(false)})
	return dial(b, s.Addr(), DialOptions{TLS: clientTLS(false)})
}

// BenchmarkGet is a get beside the same bytes over bare connections, one per worker, into memory that is there already. All workers of ours share one
// connection. mode=get: into pooled memory; map: the server's memory itself.
func BenchmarkGet(b *testing.B) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		c := benchSession(b, network)
		ctx := context.Background()
		for _, size := range sizes {
			payload := pattern(1, size.n)
			if err := c.Put(ctx, size.name, transport.Slices{payload}, objects.PutOptions{}); err != nil {
				b.Fatal(err)
			}
			for _, par := range []int{1, 16} {
				if par > 1 && size.n > 10_000_000 {
					continue
				}
				name := fmt.Sprintf("net=%s/size=%s/par=%d", network, size.name, par)
				b.Run(name+"/mode=raw", func(b *testing.B) {
					var conns []net.Conn
					var dst [][]byte
					for range par {
						x, y := benchConns(b, network)
						go raw(y, payload)
						conns, dst = append(conns, x), append(dst, make([]byte, 64+size.n))
						if err := rawGet(x, dst[len(dst)-1]); err != nil {
							b.Fatal(err)
						}
					}
					b.SetBytes(int64(size.n))
					parallel(b, par, func(i int) error { return rawGet(conns[i], dst[i]) })
				})
				b.Run(name+"/mode=get", func(b *testing.B) {
					b.SetBytes(int64(size.n))
					parallel(b, par, func(int) error {
						buf, err := c.Get(ctx, size.name, 0, -1, int64(size.n))
						if err == nil && buf.Len() != size.n {
							err = io.ErrUnexpectedEOF
						}
						buf.Release()
						return err
					})
				})
				if network == "unix" && par == 1 {
					b.Run(name+"/mode=map", func(b *testing.B) {
						buf, err := c.Map(ctx, size.name) // the first one may cost the server a copy
						if err != nil {
							b.Fatal(err)
						}
						buf.Release()
						parallel(b, par, func(int) error {
							buf, err := c.Map(ctx, size.name)
							buf.Release()
							return err
						})
					})
				}
			}
			c.Evict(ctx, size.name)
		}
	}
}

// BenchmarkPut is the same the other way.
func BenchmarkPut(b *testing.B) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		c := benchSession(b, network)
		ctx := context.Background()
		for _, size := range sizes {
			obj := transport.Slices{pattern(1, size.n)}
			for _, par := range []int{1, 16} {
				if par > 1 && size.n > 10_000_000 {
					continue
				}
				b.Run(fmt.Sprintf("net=%s/size=%s/par=%d", network, size.name, par), func(b *testing.B) {
					b.SetBytes(int64(size.n))
					var ids [16]string
					for i := range ids {
						ids[i] = fmt.Sprint("put", i)
					}
					parallel(b, par, func(i int) error { return c.Put(ctx, ids[i], obj, objects.PutOptions{}) })
				})
			}
		}
	}
}

// BenchmarkCarrier is a request and an answer of that size, frame against frame, beside the same over the bare connection: 64 bytes there, then
// 64 and the size back by one writev, into memory that is there already.
func BenchmarkCarrier(b *testing.B) {
	for _, network := range []string{"tcp", "unix"} {
		for _, size := range sizes[:3] {
			payload := pattern(1, size.n)
			name := fmt.Sprintf("net=%s/size=%s", network, size.name)
			b.Run(name+"/impl=raw", func(b *testing.B) {
				x, y := benchConns(b, network)
				go raw(y, payload)
				dst := make([]byte, 64+size.n)
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				for b.Loop() {
					if err := rawGet(x, dst); err != nil {
						b.Fatal(err)
					}
				}
			})
			for _, poll := range []time.Duration{0, 50 * time.Microsecond} {
				b.Run(fmt.Sprintf("%s/impl=carrier/poll=%v", name, poll), func(b *testing.B) {
					x, y := benchConns(b, network)
					o := CarrierOptions{BusyPoll: poll}
					cx, cy := newCarrier(x, o), newCarrier(y, o)
					meta := make([]byte, 16)
					body := transport.Slices{payload}
					go func() {
						var h native.Header
						for {
							if _, err := cy.ReadFrame(&h); err != nil {
								return
							}
							if err := cy.WriteFrame(&h, meta, body); err != nil {
								return
							}
						}
					}()
					dst := make([]byte, size.n)
					b.SetBytes(int64(size.n))
					b.ReportAllocs()
					var h native.Header
					for b.Loop() {
						if err := cx.WriteFrame(&h, meta, nil); err != nil {
							b.Fatal(err)
						}
						if _, err := cx.ReadFrame(&h); err != nil {
							b.Fatal(err)
						}
						if _, err := cx.ReadBody(dst); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// BenchmarkRoundTrip is what polling gains: a ping, and a get of 1 kB, with the server in a process of its own.
func BenchmarkRoundTrip(b *testing.B) {
	for _, network := range []string{"tcp", "unix"} {
		for _, poll := range []time.Duration{0, 50 * time.Microsecond} {
			addr := "tcp://127.0.0.1:0"
			if network == "unix" {
				addr = "unix://" + filepath.Join(b.TempDir(), "objects")
			}
			p := startProcess(b, addr, b.TempDir(), poll)
			c := dial(b, p.addr, DialOptions{BusyPoll: poll, NoSameHost: true})
			ctx := context.Background()
			if err := c.Put(ctx, "x", transport.Slices{pattern(1, 1000)}, objects.PutOptions{}); err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("net=%s/poll=%v/op=ping", network, poll), func(b *testing.B) {
				parallel(b, 1, func(int) error { return c.Ping(ctx) })
			})
			b.Run(fmt.Sprintf("net=%s/poll=%v/op=get/size=1kB", network, poll), func(b *testing.B) {
				parallel(b, 1, func(int) error {
					buf, err := c.Get(ctx, "x", 0, -1, 1000)
					buf.Release()
					return err
				})
			})
			c.Close()
			p.in.Close()
		}
	}
}
