package zmq

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

var benchSizes = []struct {
	name string
	n    int
}{{"1KiB", 1 << 10}, {"64KiB", 64 << 10}, {"1MiB", 1 << 20}, {"16MiB", 16 << 20}}

// BenchmarkGet fetches objects, with the floor beside it: Go's TCP with a request of as many bytes and a pooled buffer for the answer.
func BenchmarkGet(b *testing.B) {
	ctx := context.Background()
	for _, size := range benchSizes {
		obj := random(size.n)
		b.Run("conn=raw/size="+size.name, func(b *testing.B) { benchRaw(b, obj) })
		b.Run("conn=native/size="+size.name, func(b *testing.B) {
			s := serve(b, "tcp://127.0.0.1:0", ListenOptions{})
			c, err := Dial(ctx, s.Addr(), DialOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			if err := c.Put(ctx, "x", transport.Slices{obj}, objects.PutOptions{}); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size.n))
			b.ReportAllocs()
			for b.Loop() {
				buf, err := c.Get(ctx, "x", 0, -1, int64(size.n))
				if err != nil || buf.Len() != size.n {
					b.Fatal(err)
				}
				buf.Release()
			}
		})
		b.Run("conn=exchange/size="+size.name, func(b *testing.B) {
			s := serve(b, "tcp://127.0.0.1:0", ListenOptions{Python: func(_ context.Context, req *transport.Buffer) (transport.Slices, func(), error) {
				req.Release()
				return transport.Slices{obj}, nil, nil
			}})
			e, err := DialExchanger(ctx, s.Addr(), DialOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			benchExchange(b, e, transport.Slices{make([]byte, 200)}, size.n)
		})
	}
}

// BenchmarkPut sends a request of that size in frames of 64 KiB, as Python's put does.
func BenchmarkPut(b *testing.B) {
	for _, size := range benchSizes {
		b.Run("conn=exchange/size="+size.name, func(b *testing.B) {
			s := serve(b, "tcp://127.0.0.1:0", ListenOptions{Python: func(_ context.Context, req *transport.Buffer) (transport.Slices, func(), error) {
				req.Release()
				return transport.Slices{make([]byte, 200)}, nil, nil
			}})
			e, err := DialExchanger(context.Background(), s.Addr(), DialOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			benchExchange(b, e, transport.Slices{random(size.n)}, 200)
		})
	}
}

func benchExchange(b *testing.B, e *Exchanger, req transport.Slices, want int) {
	b.SetBytes(req.Len() + int64(want))
	b.ReportAllocs()
	for b.Loop() {
		buf, err := e.ExchangeSize(context.Background(), req, int64(want))
		if err != nil || buf.Len() != want {
			b.Fatal(err)
		}
		buf.Release()
	}
}

// BenchmarkLink moves messages of one large part there and back, over the wire and over CURVE.
func BenchmarkLink(b *testing.B) {
	for _, curve := range []bool{false, true} {
		for _, size := range benchSizes[:3] {
			if curve && size.n > maxBoxed {
				continue // no native frame is as long
			}
			b.Run(fmt.Sprintf("curve=%v/size=%s", curve, size.name), func(b *testing.B) {
				server, client := pair(b, curve)
				go func() {
					body := make([]byte, size.n)
					for server.skip() == nil {
						server.send([]byte("answer"), nil, transport.Slices{body}, whole)
					}
				}()
				dst := make([]byte, size.n)
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				for b.Loop() {
					client.send([]byte("request"), nil, nil, whole)
					for range 2 {
						n, _, err := client.next()
						if err != nil {
							b.Fatal(err)
						}
						client.read(dst[:n])
					}
				}
			})
		}
	}
}

// skip reads a message and forgets it.
func (w *wire) skip() error {
	for {
		if _, more, err := w.next(); err != nil || !more {
			return err
		}
	}
}

func benchRaw(b *testing.B, obj []byte) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		req := make([]byte, 60)
		for {
			if _, err := io.ReadFull(c, req); err != nil {
				return
			}
			c.Write(obj)
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	req := make([]byte, 60)
	b.SetBytes(int64(len(obj)))
	b.ReportAllocs()
	for b.Loop() {
		c.Write(req)
		buf := transport.DefaultPool.Get(len(obj))
		if _, err := io.ReadFull(c, buf.Bytes()); err != nil {
			b.Fatal(err)
		}
		buf.Release()
	}
}
