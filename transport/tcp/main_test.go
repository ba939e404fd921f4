package tcp

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// TestMain makes the test's program a server where a test wants one in a process of its own: it says where, serves until its input ends, and keeps
// nothing else.
func TestMain(m *testing.M) {
	addr := os.Getenv("PROXYPLANE_TCP_TEST_SERVER")
	if addr == "" {
		os.Exit(m.Run())
	}
	store, err := objects.NewTable(objects.TableOptions{Memory: 1 << 30})
	if err != nil {
		panic(err)
	}
	poll, err := time.ParseDuration(os.Getenv("PROXYPLANE_TCP_TEST_POLL"))
	if err != nil {
		panic(err)
	}
	s, err := Listen(context.Background(), addr, store, ListenOptions{RuntimeDir: os.Getenv("PROXYPLANE_TCP_TEST_DIR"), BusyPoll: poll})
	if err != nil {
		panic(err)
	}
	fmt.Println(s.Addr())
	io.Copy(io.Discard, os.Stdin)
	s.Close()
}

// process is a server in a process of its own.
type process struct {
	*exec.Cmd
	addr string
	in   io.Closer
}

func startProcess(t testing.TB, addr, dir string, poll time.Duration) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(os.Environ(), "PROXYPLANE_TCP_TEST_SERVER="+addr, "PROXYPLANE_TCP_TEST_DIR="+dir, "PROXYPLANE_TCP_TEST_POLL="+poll.String())
	p.Stderr = os.Stderr
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.in = in
	t.Cleanup(func() {
		in.Close()
		p.Wait()
	})
	if p.addr, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	p.addr = strings.TrimSpace(p.addr)
	return p
}

// background returns a context that ends with the test, and long before the test's own limit if something hangs.
func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// checkLeaks fails the test if goroutines of this package outlive it. Call it first, so that it is checked last.
func checkLeaks(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		var left []string
		for range 200 {
			if left = ours(); len(left) == 0 {
				return
			}
			runtime.Gosched()
			time.Sleep(time.Millisecond) // goroutines that are ending have no event to wait for
		}
		t.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
	})
}

func ours() (left []string) {
	buf := make([]byte, 1<<20)
	for i, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if i > 0 && strings.Contains(g, "proxyplane/transport/") && !strings.Contains(g, "testing.(*T).Run") && !strings.Contains(g, "testing.(*B)") {
			left = append(left, g)
		}
	}
	return left
}

// certificates are those of a server on loopback and of a client, of one authority.
var certificates = sync.OnceValue(func() (c struct {
	server, client tls.Certificate
	pool           *x509.CertPool
}) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	ca, err = x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	c.pool = x509.NewCertPool()
	c.pool.AddCert(ca)
	issue := func(n int64) tls.Certificate {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		cert := &x509.Certificate{SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: "peer"}, NotAfter: time.Now().Add(24 * time.Hour),
			DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		der, err := x509.CreateCertificate(rand.Reader, cert, ca, &k.PublicKey, key)
		if err != nil {
			panic(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
	}
	c.server, c.client = issue(2), issue(3)
	return c
})

// connect returns both ends of a connection.
func connect(t testing.TB, network, addr string) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	a, err = net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b = <-accepted
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// plain hides what a connection is, so that only its methods are used.
type plain struct{ net.Conn }

// kinds are the connections that carriers stand on.
var kinds = map[string]func(t testing.TB, o CarrierOptions) (a, b *carrier){
	"tcp":  func(t testing.TB, o CarrierOptions) (a, b *carrier) { return carriers(t, "tcp", "127.0.0.1:0", o) },
	"tcp6": func(t testing.TB, o CarrierOptions) (a, b *carrier) { return carriers(t, "tcp", "[::1]:0", o) },
	"unix": func(t testing.TB, o CarrierOptions) (a, b *carrier) {
		return carriers(t, "unix", filepath.Join(t.TempDir(), "s"), o)
	},
	"portable": func(t testing.TB, o CarrierOptions) (a, b *carrier) { // as it is where there are no system calls of our own
		a, b = carriers(t, "tcp", "127.0.0.1:0", o)
		a.io, b.io, a.files, b.files = nil, nil, nil, nil
		return a, b
	},
	"other": func(t testing.TB, o CarrierOptions) (a, b *carrier) {
		x, y := connect(t, "tcp", "127.0.0.1:0")
		return newCarrier(plain{x}, o), newCarrier(plain{y}, o)
	},
	"tls": func(t testing.TB, o CarrierOptions) (a, b *carrier) {
		x, y := connect(t, "tcp", "127.0.0.1:0")
		certs := certificates()
		cx := tls.Client(polling(x, o.BusyPoll), &tls.Config{RootCAs: certs.pool, ServerName: "localhost"})
		cy := tls.Server(polling(y, o.BusyPoll), &tls.Config{Certificates: []tls.Certificate{certs.server}})
		done := make(chan error, 1)
		go func() { done <- cy.Handshake() }()
		if err := cx.Handshake(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return newCarrier(cx, o), newCarrier(cy, o)
	},
}

func carriers(t testing.TB, network, addr string, o CarrierOptions) (a, b *carrier) {
	x, y := connect(t, network, addr)
	a, b = newCarrier(x, o), newCarrier(y, o)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// each runs f over every kind of connection.
func each(t *testing.T, o CarrierOptions, f func(t *testing.T, a, b *carrier)) {
	for kind, open := range kinds {
		t.Run("over="+kind, func(t *testing.T) {
			checkLeaks(t)
			a, b := open(t, o)
			defer a.Close()
			defer b.Close()
			f(t, a, b)
		})
	}
}

var _ native.Carrier = (*carrier)(nil)
