//go:build cgo && zmq

package zmq

import (
	"io"
	"testing"

	pebbe "github.com/pebbe/zmq4"

	"github.com/proxyplane/proxyplane/transport"
)

// BenchmarkForms asks for a part of that size by a part of 100 bytes: over ZMTP in Go, over libzmq as it is bound here, over pebbe/zmq4 (its ROUTER
// in a goroutine, a DEALER), and over a plain TCP connection.
func BenchmarkForms(b *testing.B) {
	ask := make([]byte, 100)
	for _, size := range benchSizes {
		obj := random(size.n)
		answer := transport.Slices{obj}
		for _, form := range []string{"pure", "libzmq"} {
			b.Run("conn="+form+"/size="+size.name, func(b *testing.B) {
				lo, _ := ListenOptions{}.complete()
				do, _ := DialOptions{}.complete()
				acc, err := listenForms[form](b.Context(), address{"tcp", "127.0.0.1:0"}, lo, func(l link) {
					for {
						if _, _, err := l.next(); err != nil {
							return
						}
						if l.send(nil, nil, answer, whole) != nil {
							return
						}
					}
				})
				if err != nil {
					b.Fatal(err)
				}
				defer acc.close()
				a, _ := parseAddress(acc.address())
				l, err := connectForms[form](b.Context(), a, do, nil)
				if err != nil {
					b.Fatal(err)
				}
				defer l.close()
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				for b.Loop() {
					if err := l.send(ask, nil, nil, whole); err != nil {
						b.Fatal(err)
					}
					var n int64
					for more := true; more; {
						if n, more, err = l.next(); err != nil {
							b.Fatal(err)
						}
					}
					buf, ok := l.take()
					if !ok { // as native clients do
						buf = transport.DefaultPool.Get(int(n))
						if _, err := l.read(buf.Bytes()); err != nil && err != io.EOF {
							b.Fatal(err)
						}
					}
					if buf.Len() != size.n {
						b.Fatal(buf.Len())
					}
					buf.Release()
				}
			})
		}
		b.Run("conn=pebbe/size="+size.name, func(b *testing.B) { benchPebbe(b, ask, obj) })
		b.Run("conn=raw/size="+size.name, func(b *testing.B) { benchRaw(b, obj) })
	}
}

func benchPebbe(b *testing.B, ask, obj []byte) {
	ctx, err := pebbe.NewContext()
	if err != nil {
		b.Fatal(err)
	}
	router, err := ctx.NewSocket(pebbe.ROUTER)
	if err != nil {
		b.Fatal(err)
	}
	if err := router.Bind("tcp://127.0.0.1:*"); err != nil {
		b.Fatal(err)
	}
	at, _ := router.GetLastEndpoint()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer router.Close()
		for {
			m, err := router.RecvMessageBytes(0)
			if err != nil || len(m[1]) == 0 {
				return
			}
			router.SendBytes(m[0], pebbe.SNDMORE)
			router.SendBytes(obj, 0)
		}
	}()
	dealer, err := ctx.NewSocket(pebbe.DEALER)
	if err != nil {
		b.Fatal(err)
	}
	if err := dealer.Connect(at); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(obj)))
	b.ReportAllocs()
	for b.Loop() {
		dealer.SendBytes(ask, 0)
		if got, err := dealer.RecvBytes(0); err != nil || len(got) != len(obj) {
			b.Fatal(err)
		}
	}
	dealer.SendBytes(nil, 0)
	<-done
	dealer.Close()
	ctx.Term()
}
