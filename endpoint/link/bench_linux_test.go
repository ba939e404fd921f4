package link

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/netlab"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// BenchmarkIntersite compares a Link with one plain TCP connection over the same network, both warm: the time of each and their ratio.
func BenchmarkIntersite(b *testing.B) {
	for _, net := range []struct {
		name string
		o    netlab.Options
	}{
		{"1Gbit-20ms", netlab.Options{Delay: 10 * time.Millisecond, Rate: 1e9}},
		{"200Mbit-20ms-loss", netlab.Options{Delay: 10 * time.Millisecond, Rate: 200e6, Loss: 0.001}},
		{"20Mbit-100ms", netlab.Options{Delay: 50 * time.Millisecond, Rate: 20e6}},
	} {
		b.Run("net="+net.name, func(b *testing.B) {
			lab := netlab.Start(b, net.o)
			for _, size := range []int64{1, 1 << 20, 100_000_000} {
				if size > 1<<20 && net.o.Rate < 1e8 {
					size = 20_000_000
				}
				for _, op := range []string{"get", "put"} {
					b.Run(fmt.Sprintf("size=%d/op=%s", size, op), func(b *testing.B) { benchIntersite(b, lab, size, op) })
				}
			}
		})
	}
}

func benchIntersite(b *testing.B, lab *netlab.Lab, size int64, op string) {
	ctx := context.Background()
	ln, err := lab.Listen("B", "tcp", ":0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	addr := fmt.Sprintf("%v:%d", lab.Addr("B"), port)
	dial := func(int) (net.Conn, net.Conn, error) {
		c, err := lab.Dial(ctx, "A", "tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		s, err := ln.Accept()
		return c, s, err
	}
	plainC, plainS, err := dial(0)
	if err != nil {
		b.Fatal(err)
	}
	defer plainC.Close()
	go servePlain(plainS)
	lanes, _ := strconv.Atoi(os.Getenv("LINK_LANES")) // 0: the default
	p := newPair(b, pairOptions{dial: dial, store: &generated{size: size}, link: Options{Lanes: lanes}})
	warm, err := p.link.Get(ctx, "k", 0, 1)
	if err != nil {
		b.Fatal(err)
	}
	warm.Close()
	time.Sleep(300 * time.Millisecond) // the lanes open
	var plain, link time.Duration
	b.SetBytes(size)
	b.ResetTimer()
	for range b.N {
		began := time.Now()
		if err := plainTransfer(plainC, size, op); err != nil {
			b.Fatal(err)
		}
		plain += time.Since(began)
		time.Sleep(300 * time.Millisecond)
		began = time.Now()
		if op == "put" {
			err = p.link.Put(ctx, "k", size, io.LimitReader(zeros{}, size))
		} else {
			var r Reader
			if r, err = p.link.Get(ctx, "k", 0, -1); err == nil {
				_, err = io.Copy(io.Discard, r)
				r.Close()
			}
		}
		if err != nil {
			b.Fatal(err)
		}
		link += time.Since(began)
		time.Sleep(300 * time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(plain.Seconds()*1e3/float64(b.N), "plain-ms")
	b.ReportMetric(link.Seconds()*1e3/float64(b.N), "link-ms")
	b.ReportMetric(float64(plain)/float64(link), "ratio")
	if os.Getenv("LINK_STATS") != "" {
		b.Logf("%+v", p.link.Stats())
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// servePlain answers requests of 9 bytes: 1 for a get, and a length.
func servePlain(c net.Conn) {
	defer c.Close()
	var head [9]byte
	buf := make([]byte, 1<<20)
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		n := int64(binary.LittleEndian.Uint64(head[1:]))
		if head[0] == 1 {
			for n > 0 {
				k, err := c.Write(buf[:min(n, int64(len(buf)))])
				if err != nil {
					return
				}
				n -= int64(k)
			}
			continue
		}
		for n > 0 {
			k, err := c.Read(buf[:min(n, int64(len(buf)))])
			if err != nil {
				return
			}
			n -= int64(k)
		}
		if _, err := c.Write(head[:1]); err != nil {
			return
		}
	}
}

func plainTransfer(c net.Conn, n int64, op string) error {
	var head [9]byte
	binary.LittleEndian.PutUint64(head[1:], uint64(n))
	if op == "get" {
		head[0] = 1
		if _, err := c.Write(head[:]); err != nil {
			return err
		}
		_, err := io.CopyN(struct{ io.Writer }{io.Discard}, c, n)
		return err
	}
	if _, err := c.Write(head[:]); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for n > 0 {
		k, err := c.Write(buf[:min(n, int64(len(buf)))])
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	_, err := io.ReadFull(c, head[:1])
	return err
}

// generated is a Store that has every object, of one length, and keeps none.
type generated struct {
	objects.Store
	size int64
}

var generatedMemory = make([]byte, 100_000_000)

func (g *generated) Stat(string) (objects.Info, error) {
	return objects.Info{Size: g.size, ModTime: time.Unix(1, 0)}, nil
}

func (g *generated) Get(string) (*transport.Buffer, error) {
	return transport.Static(generatedMemory[:g.size]), nil
}

func (g *generated) Create(_ string, size int64, _ objects.PutOptions) (objects.Incoming, error) {
	return discard(max(size, 1<<40), nil)
}
