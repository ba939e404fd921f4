package transport_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

var benchSizes = []int{1 << 10, 1 << 20, 16 << 20}

// BenchmarkFill is taking memory and copying an object into it: from a warm pool, from the garbage collector, and, as the floor, into memory
// that is there already.
func BenchmarkFill(b *testing.B) {
	for _, n := range benchSizes {
		src := make([]byte, n)
		p := transport.NewPool(64 << 20)
		dst := make([]byte, n)
		for into, f := range map[string]func(){
			"memcpy": func() { copy(dst, src) },
			"pool": func() {
				buf := p.Get(n)
				copy(buf.Bytes(), src)
				buf.Release()
			},
			"make": func() {
				fresh := make([]byte, n)
				copy(fresh, src)
				dst = fresh
			},
		} {
			b.Run(fmt.Sprintf("into=%s/size=%d", into, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
			})
		}
	}
}

func BenchmarkBuffer(b *testing.B) {
	buf := transport.FromBytes(make([]byte, 1<<20))
	p := transport.NewPool(64 << 20)
	for op, f := range map[string]func(){
		"retain":    func() { buf.Retain().Release() },
		"tryretain": func() { buf.TryRetain(); buf.Release() },
		"slice":     func() { buf.Slice(10, 100).Release() },
		"pool":      func() { p.Get(4096).Release() },
	} {
		b.Run("op="+op, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
		b.Run("op="+op+"/par=8", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					f()
				}
			})
		})
	}
}

// BenchmarkWriteTo compares one vectored write of header and body with gluing them first.
func BenchmarkWriteTo(b *testing.B) {
	for _, n := range benchSizes {
		s := transport.Slices{[]byte("BS\n"), make([]byte, n)}
		for to, w := range writers(b) {
			for how, f := range map[string]func() error{
				"vectored": func() error { _, err := s.WriteTo(w); return err },
				"joined":   func() error { _, err := w.Write(s.Join()); return err },
				"twice": func() error {
					for _, p := range s {
						if _, err := w.Write(p); err != nil {
							return err
						}
					}
					return nil
				},
			} {
				b.Run(fmt.Sprintf("to=%s/how=%s/size=%d", to, how, n), func(b *testing.B) {
					b.SetBytes(s.Len())
					b.ReportAllocs()
					for b.Loop() {
						if file, ok := w.(*os.File); ok {
							if _, err := file.Seek(0, io.SeekStart); err != nil {
								b.Fatal(err)
							}
						}
						if err := f(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// writers returns a file, and connections whose other ends throw everything away.
func writers(b *testing.B) map[string]io.Writer {
	file, err := os.Create(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { file.Close() })
	all := map[string]io.Writer{"file": file}
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(b.TempDir(), "s")} {
		l, err := net.Listen(network, address)
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			l.Close()
			if err == nil {
				buf := make([]byte, 1<<20)
				for err == nil {
					_, err = c.Read(buf)
				}
				c.Close()
			}
		}()
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		all[network] = c
	}
	return all
}
