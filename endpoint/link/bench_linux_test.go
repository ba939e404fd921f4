package link

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/internal/netlab"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/quic"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// BenchmarkIntersite compares a Link over real Paths with one plain TCP connection over the same network, all warm: the median time of each, and their
// ratio. Both sites are processes of their own. LINK_LANES changes the number of lanes, LINK_CONNS (default 1) that
// of a QUIC path's connections.
func BenchmarkIntersite(b *testing.B) {
	for _, network := range []struct {
		name string
		o    netlab.Options
	}{
		{"1Gbit-20ms", netlab.Options{Delay: 10 * time.Millisecond, Rate: 1e9}},
		{"200Mbit-20ms-loss", netlab.Options{Delay: 10 * time.Millisecond, Rate: 200e6, Loss: 0.001}},
		{"20Mbit-100ms", netlab.Options{Delay: 50 * time.Millisecond, Rate: 20e6}},
	} {
		b.Run("net="+network.name, func(b *testing.B) {
			lab := netlab.Start(b, network.o)
			server := startSite(b, lab, "B", "serve")
			addrs := server.line(b)
			for _, kind := range []string{path.KindTLS, path.KindQUIC} {
				client := startSite(b, lab, "A", "ask", fmt.Sprint(lab.Addr("B")), addrs, kind)
				for _, size := range []int64{1000, 100_000, 1_000_000, 10_000_000, 100_000_000} {
					if size > 1e7 && network.o.Rate < 1e8 {
						continue
					}
					for _, op := range []string{"get", "put"} {
						b.Run(fmt.Sprintf("path=%s/op=%s/size=%d", kind, op, size), func(b *testing.B) {
							b.SetBytes(size)
							fmt.Fprintln(client.in, op, size, b.N)
							var plain, link float64
							if n, err := fmt.Sscan(client.line(b), &plain, &link); n != 2 {
								b.Fatal(err)
							}
							b.ReportMetric(0, "ns/op") // with the pauses between
							b.ReportMetric(plain, "plain-ms")
							b.ReportMetric(link, "link-ms")
							b.ReportMetric(plain/link, "ratio")
						})
					}
				}
			}
		})
	}
}

// site is this program in one of the network's sites.
type site struct {
	in  io.WriteCloser
	out *bufio.Scanner
}

func startSite(b *testing.B, lab *netlab.Lab, name string, role ...string) site {
	cmd := lab.Command(name, os.Args[0], role...)
	cmd.Env = append(os.Environ(), siteEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // it ends with its standard input
	})
	return site{in, bufio.NewScanner(out)}
}

func (s site) line(b *testing.B) string {
	if !s.out.Scan() {
		b.Fatal("the site has ended")
	}
	return s.out.Text()
}

const siteEnv = "PROXYPLANE_LINK_SITE"

func TestMain(m *testing.M) {
	if os.Getenv(siteEnv) == "" {
		os.Exit(m.Run())
	}
	var err error
	if os.Args[1] == "serve" {
		err = serveSite()
	} else {
		err = askSite(os.Args[2], os.Args[3], os.Args[4])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func anybody([]byte) error { return nil }

// serveSite listens for plain transfers, TLS and QUIC, whose ports it prints.
func serveSite() error {
	ctx := context.Background()
	cert, err := webrtc.NewCertificate()
	if err != nil {
		return err
	}
	plain, err := net.Listen("tcp", ":0")
	if err != nil {
		return err
	}
	id := uuid.New()
	tl, err := path.ListenTLS(":0", path.TLSOptions{Certificate: cert, Peer: func([]byte) (uuid.UUID, error) { return id, nil }})
	if err != nil {
		return err
	}
	qs, err := quic.Listen(":0", quic.Options{Certificate: cert, Verify: anybody})
	if err != nil {
		return err
	}
	s := NewServer(generated{}, ServerOptions{})
	go func() {
		for {
			c, err := plain.Accept()
			if err != nil {
				return
			}
			go servePlain(c)
		}
	}()
	go func() {
		for {
			_, p, err := tl.Accept(ctx)
			if err != nil {
				return
			}
			go s.Serve(ctx, id, "", p)
		}
	}()
	go func() {
		for {
			c, err := qs.Accept(ctx)
			if err != nil {
				return
			}
			go s.Serve(ctx, id, "", path.QUIC(c, path.Details{}))
		}
	}()
	fmt.Println(plain.Addr().(*net.TCPAddr).Port, tl.Addr().(*net.TCPAddr).Port, qs.Addr().(*net.UDPAddr).Port)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// askSite does the transfers that it reads of, by turns plain and by a Link over the kind of path, and prints the median milliseconds of both.
func askSite(host, ports, kind string) error {
	ctx := context.Background()
	var plainPort, tlsPort, quicPort string
	if _, err := fmt.Sscan(ports, &plainPort, &tlsPort, &quicPort); err != nil {
		return err
	}
	cert, err := webrtc.NewCertificate()
	if err != nil {
		return err
	}
	plain, err := net.Dial("tcp", net.JoinHostPort(host, plainPort))
	if err != nil {
		return err
	}
	var p path.Path
	if kind == path.KindTLS {
		p, err = path.DialTLS(ctx, []string{net.JoinHostPort(host, tlsPort)}, path.DialOptions{Certificate: cert, Verify: anybody})
	} else {
		var s *quic.Socket
		if s, err = quic.Listen(":0", quic.Options{Certificate: cert, Verify: anybody}); err != nil {
			return err
		}
		to, err := net.ResolveUDPAddr("udp", net.JoinHostPort(host, quicPort))
		if err != nil {
			return err
		}
		conns, _ := strconv.Atoi(os.Getenv("LINK_CONNS"))
		var group *path.Group
		for range max(conns, 1) {
			c, err := s.Dial(ctx, to)
			if err != nil {
				return err
			}
			if group == nil {
				group = path.QUIC(c, path.Details{})
			} else if !group.Add(c) {
				return group.Err()
			}
		}
		p = group
	}
	if err != nil {
		return err
	}
	lanes, _ := strconv.Atoi(os.Getenv("LINK_LANES")) // 0: the default
	link := New(func(context.Context) (path.Path, error) { return p, nil }, Options{Lanes: lanes})
	if _, err := link.Ping(ctx); err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var op string
		var size int64
		var n int
		if _, err := fmt.Sscan(in.Text(), &op, &size, &n); err != nil {
			return err
		}
		var times [2][]float64
		for i := range 2 * n {
			time.Sleep(betweenTransfers)
			began := time.Now()
			if i%2 == 0 {
				err = plainTransfer(plain, size, op)
			} else {
				err = linkTransfer(ctx, link, size, op)
			}
			if err != nil {
				return err
			}
			times[i%2] = append(times[i%2], time.Since(began).Seconds()*1e3)
		}
		for _, t := range times {
			slices.Sort(t)
		}
		fmt.Println(times[0][n/2], times[1][n/2])
		if os.Getenv("LINK_STATS") != "" {
			fmt.Fprintf(os.Stderr, "%.0f\n%.0f\n%+v\n", times[0], times[1], link.Stats())
		}
	}
	return nil
}

const betweenTransfers = 250 * time.Millisecond

func linkTransfer(ctx context.Context, l *Link, size int64, op string) error {
	key := strconv.FormatInt(size, 10)
	if op == "put" {
		return l.Put(ctx, key, size, io.LimitReader(zeros{}, size))
	}
	r, err := l.Get(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, r)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return err
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

// generated is a Store that has every object, as long as its key says, and keeps none.
type generated struct{ objects.Store }

var generatedMemory = make([]byte, 100_000_000)

func (generated) Stat(key string) (objects.Info, error) {
	n, err := strconv.ParseInt(key, 10, 64)
	return objects.Info{Size: n, ModTime: time.Unix(1, 0)}, err
}

func (g generated) Get(key string) (*transport.Buffer, error) {
	info, err := g.Stat(key)
	if err != nil {
		return nil, err
	}
	return transport.Static(generatedMemory[:info.Size]), nil
}

func (generated) Create(_ string, size int64, _ objects.PutOptions) (objects.Incoming, error) {
	return nowhere{make([]byte, 1<<20)}, nil
}

// nowhere is an Incoming that keeps nothing.
type nowhere struct{ mem []byte }

func (n nowhere) Next(want int) ([]byte, error) { return n.mem[:min(want, len(n.mem))], nil }
func (nowhere) Commit() error                   { return nil }
func (nowhere) Abort()                          {}
