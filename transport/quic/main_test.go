package quic

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// TestMain fails if quic-go says something through package log, as it does about a socket's buffers when it is not kept from it.
func TestMain(m *testing.M) {
	var said bytes.Buffer
	log.SetOutput(&said)
	code := m.Run()
	if said.Len() > 0 {
		fmt.Fprintf(os.Stderr, "printed to the log: %s", said.String())
		code = max(code, 1)
	}
	os.Exit(code)
}

func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

// checkLeaks fails the test if goroutines of this package or of quic-go, or buffers, outlive it. Call it first, so that it is checked last.
func checkLeaks(t testing.TB) {
	t.Helper()
	buffers := func() int64 {
		n, _ := transport.Live(transport.Pooled)
		return n
	}
	live := buffers()
	t.Cleanup(func() {
		var left []string
		for range 400 {
			if left = ours(); len(left) == 0 && buffers() == live {
				return
			}
			time.Sleep(5 * time.Millisecond) // goroutines that are ending have no event to wait for
		}
		t.Errorf("%d buffers more than before; %d goroutines are left:\n%s", buffers()-live, len(left), strings.Join(left, "\n\n"))
	})
}

func ours() (left []string) {
	buf := make([]byte, 1<<20)
	for i, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if i > 0 && (strings.Contains(g, "proxyplane/transport/") || strings.Contains(g, "quic-go")) && !strings.Contains(g, "testing.(*T).Run") &&
			!strings.Contains(g, "testing.(*B)") {
			left = append(left, g)
		}
	}
	return left
}

func certificate(name string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

var (
	certA     = sync.OnceValue(func() tls.Certificate { return certificate("a") })
	certB     = sync.OnceValue(func() tls.Certificate { return certificate("b") })
	errSomeC  = errors.New("some other certificate")
	loopback0 = "127.0.0.1:0"
)

func expect(c tls.Certificate) func(der []byte) error {
	return func(der []byte) error {
		if !bytes.Equal(der, c.Certificate[0]) {
			return errSomeC
		}
		return nil
	}
}

// sockets returns two that expect each other.
func sockets(t testing.TB, change func(o *Options)) (a, b *Socket) {
	t.Helper()
	open := func(o Options) *Socket {
		if change != nil {
			change(&o)
		}
		s, err := Listen(loopback0, o)
		must(t, err)
		t.Cleanup(func() { s.Close() })
		return s
	}
	return open(Options{Certificate: certA(), Verify: expect(certB())}), open(Options{Certificate: certB(), Verify: expect(certA())})
}

// connect dials from a to b.
func connect(t testing.TB, a, b *Socket, to net.Addr) (ac, bc *Conn) {
	t.Helper()
	ctx := background(t)
	got := make(chan *Conn, 1)
	go func() {
		c, err := b.Accept(ctx)
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	ac, err := a.Dial(ctx, to)
	must(t, err)
	if bc = <-got; bc == nil {
		t.FailNow()
	}
	t.Cleanup(func() { ac.Close(); bc.Close() })
	return ac, bc
}

// streams returns both ends of a stream that ac opened, with one byte gone over it.
func streams(t testing.TB, ac, bc *Conn) (as, bs net.Conn) {
	t.Helper()
	ctx := background(t)
	as, err := ac.Open(ctx)
	must(t, err)
	_, err = as.Write([]byte{1})
	must(t, err)
	bs, err = bc.Accept(ctx)
	must(t, err)
	var b [1]byte
	_, err = bs.Read(b[:])
	must(t, err)
	t.Cleanup(func() { as.Close(); bs.Close() })
	return as, bs
}
