package quic

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
)

// BenchmarkStream sends 64 MiB over loopback: one stream of QUIC, and beside it what the same machine does with bare TCP and with TLS over it.
func BenchmarkStream(b *testing.B) {
	const size = 64 << 20
	for _, k := range []struct {
		name string
		pair func(b *testing.B) (w, r net.Conn)
	}{
		{"tcp", func(b *testing.B) (w, r net.Conn) { return tcpPair(b) }},
		{"tls", func(b *testing.B) (w, r net.Conn) {
			w, r = tcpPair(b)
			conf := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certA()}, InsecureSkipVerify: true}
			return tls.Client(w, conf), tls.Server(r, conf)
		}},
		{"quic", func(b *testing.B) (w, r net.Conn) {
			s1, s2 := sockets(b, nil)
			c1, c2 := connect(b, s1, s2, s2.Addr())
			return streams(b, c1, c2)
		}},
	} {
		b.Run(fmt.Sprintf("conn=%s/size=64MiB", k.name), func(b *testing.B) {
			w, r := k.pair(b)
			data, into := payload(1, 1<<20), make([]byte, 1<<20)
			ack := []byte{1}
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
					_, err := r.Write(ack)
					done <- err
				}()
				for range size / len(data) {
					if _, err := w.Write(data); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := io.ReadFull(w, ack); err != nil {
					b.Fatal(err)
				}
				must(b, <-done)
			}
		})
	}
}

func tcpPair(b *testing.B) (a, c net.Conn) {
	l, err := net.Listen("tcp", loopback0)
	must(b, err)
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	must(b, err)
	c, err = l.Accept()
	must(b, err)
	b.Cleanup(func() { a.Close(); c.Close() })
	return a, c
}
