package path

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

// BenchmarkPath moves 64 MiB over loopback: the bare streams of each kind, then gets of package native on them, with bare TCP beside it.
func BenchmarkPath(b *testing.B) {
	const size = 64 << 20
	for _, k := range []struct {
		name string
		pair func(b *testing.B) (client, server net.Conn)
	}{
		{"tcp", func(b *testing.B) (client, server net.Conn) {
			client, server, err := loopback()
			must(b, err)
			b.Cleanup(func() { client.Close(); server.Close() })
			return client, server
		}},
		{KindTLS, func(b *testing.B) (client, server net.Conn) {
			l := listen(b, nil)
			p, q := tlsPair(b, l, l.Addr().String(), nil)
			return pair(b, p, q)
		}},
		{KindQUIC, func(b *testing.B) (client, server net.Conn) {
			p, q := quicPair(b)
			return pair(b, p, q)
		}},
	} {
		b.Run(fmt.Sprintf("path=%s/what=bytes/size=64MiB", k.name), func(b *testing.B) {
			w, r := k.pair(b)
			data, into := payload(1, 1<<20), make([]byte, 1<<20)
			done := make(chan error, 1)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				go func() {
					for left := size; left > 0; {
						n, err := r.Read(into)
						if err != nil {
							done <- err
							return
						}
						left -= n
					}
					_, err := r.Write(into[:1])
					done <- err
				}()
				for range size / len(data) {
					if _, err := w.Write(data); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := io.ReadFull(w, make([]byte, 1)); err != nil {
					b.Fatal(err)
				}
				must(b, <-done)
			}
		})
		for _, s := range []struct {
			name string
			n    int
		}{{"1KiB", 1 << 10}, {"64MiB", size}} {
			b.Run(fmt.Sprintf("path=%s/what=get/size=%s", k.name, s.name), func(b *testing.B) {
				cn, sn := k.pair(b)
				tab, err := objects.NewTable(objects.TableOptions{Memory: 1 << 30})
				must(b, err)
				defer tab.Close()
				srv := native.NewServer(tab, native.ServerOptions{})
				go srv.ServeCarrier(context.Background(), tcp.NewCarrier(sn, tcp.CarrierOptions{Trusted: true}))
				defer srv.Close()
				ctx := background(b)
				c, err := native.NewClient(ctx, tcp.NewCarrier(cn, tcp.CarrierOptions{Trusted: true}), native.ClientOptions{})
				must(b, err)
				defer c.Close()
				must(b, c.Put(ctx, "k", transport.Slices{payload(1, s.n)}, objects.PutOptions{}))
				b.SetBytes(int64(s.n))
				b.ReportAllocs()
				for b.Loop() {
					got, err := c.Get(ctx, "k", 0, -1, int64(s.n))
					must(b, err)
					got.Release()
				}
			})
		}
	}
}
