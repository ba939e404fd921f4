package path

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
	"math/big"
	mrand "math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/quic"
)

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

func payload(seed byte, n int) []byte {
	b := make([]byte, n)
	mrand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// checkLeaks fails the test if goroutines or buffers outlive it. Call it first, so that it is checked last.
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
		if i > 0 && (strings.Contains(g, "proxyplane/") || strings.Contains(g, "quic-go")) && !strings.Contains(g, "testing.(*T).Run") &&
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
	certListen = sync.OnceValue(func() tls.Certificate { return certificate("listener") })
	certDial   = sync.OnceValue(func() tls.Certificate { return certificate("dialer") })
	certOther  = sync.OnceValue(func() tls.Certificate { return certificate("other") })

	dialerID      = uuid.MustParse("11111111-2222-4333-8444-555555555555")
	errUnexpected = errors.New("an unexpected certificate")
)

func expect(c tls.Certificate) func(der []byte) error {
	return func(der []byte) error {
		if !bytes.Equal(der, c.Certificate[0]) {
			return errUnexpected
		}
		return nil
	}
}

// listen starts a listener that expects certDial's peer only.
func listen(t testing.TB, change func(o *TLSOptions)) *TLSListener {
	t.Helper()
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	return listenOn(t, nl, change)
}

func listenOn(t testing.TB, nl net.Listener, change func(o *TLSOptions)) *TLSListener {
	t.Helper()
	o := TLSOptions{Certificate: certListen(), Peer: func(der []byte) (uuid.UUID, error) { return dialerID, expect(certDial())(der) }}
	if change != nil {
		change(&o)
	}
	l, err := newTLSListener(nl, o)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func dialOptions() DialOptions {
	return DialOptions{Certificate: certDial(), Verify: expect(certListen())}
}

// tlsPair dials l, directly or through another address.
func tlsPair(t testing.TB, l *TLSListener, addr string, change func(o *DialOptions)) (dialed, accepted Path) {
	t.Helper()
	ctx := background(t)
	o := dialOptions()
	if change != nil {
		change(&o)
	}
	dialed, err := DialTLS(ctx, []string{addr}, o)
	must(t, err)
	t.Cleanup(func() { dialed.Close() })
	peer, accepted, err := l.Accept(ctx)
	must(t, err)
	t.Cleanup(func() { accepted.Close() })
	if peer != dialerID {
		t.Errorf("the peer is %v", peer)
	}
	return dialed, accepted
}

func quicPair(t testing.TB) (dialed, accepted Path) {
	t.Helper()
	d, a := quicConns(t, 1)
	dialed, accepted = QUIC(d[0], Details{}), QUIC(a[0], Details{})
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed, accepted
}

// quicConns makes n connections between two sockets; both ends are in the same order.
func quicConns(t testing.TB, n int) (dialed, accepted []*quic.Conn) {
	t.Helper()
	a, b := quicSocketPair(t)
	for range n {
		d, c := quicConn(t, a, b, b.Addr())
		dialed, accepted = append(dialed, d), append(accepted, c)
	}
	return dialed, accepted
}

// quicSocketPair is two sockets on loopback that let each other in.
func quicSocketPair(t testing.TB) (a, b *quic.Socket) {
	t.Helper()
	a, err := quic.Listen("127.0.0.1:0", quic.Options{Certificate: certDial(), Verify: expect(certListen())})
	must(t, err)
	t.Cleanup(func() { a.Close() })
	b, err = quic.Listen("127.0.0.1:0", quic.Options{Certificate: certListen(), Verify: expect(certDial())})
	must(t, err)
	t.Cleanup(func() { b.Close() })
	return a, b
}

// groupPair is two Paths of n connections each.
func groupPair(t testing.TB, n int) (dialed, accepted *Group, conns []*quic.Conn) {
	t.Helper()
	d, a := quicConns(t, n)
	dialed, accepted = QUIC(d[0], Details{}), QUIC(a[0], Details{})
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	for i := 1; i < n; i++ {
		if !dialed.Add(d[i]) || !accepted.Add(a[i]) {
			t.Fatal("a connection was not taken")
		}
	}
	return dialed, accepted, d
}

// quicSockets connects a to b.
func quicSockets(t testing.TB, a, b *quic.Socket, to net.Addr, d Details) (dialed, accepted Path) {
	t.Helper()
	ac, bc := quicConn(t, a, b, to)
	dialed, accepted = QUIC(ac, d), QUIC(bc, d)
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed, accepted
}

func quicConn(t testing.TB, a, b *quic.Socket, to net.Addr) (dialed, accepted *quic.Conn) {
	t.Helper()
	ctx := background(t)
	got := make(chan *quic.Conn, 1)
	go func() {
		c, err := b.Accept(ctx)
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	dialed, err := a.Dial(ctx, to)
	must(t, err)
	if accepted = <-got; accepted == nil {
		t.FailNow()
	}
	return dialed, accepted
}

// fakeChannels are data channels over TCP: without any buffer, as net.Pipe is, a native session may wait for its StallTimeout after a call was cancelled.
type fakeChannels struct {
	incoming chan *fakeChannel
	peer     *fakeChannels
	done     chan struct{}
	close    *sync.Once
}

type fakeChannel struct {
	label string
	nc    net.Conn
}

func (c *fakeChannel) Label() string    { return c.label }
func (c *fakeChannel) Stream() net.Conn { return c.nc }
func (c *fakeChannel) Close() error     { return c.nc.Close() }

func (c *fakeChannels) Open(ctx context.Context, label string, ordered bool) (*fakeChannel, error) {
	if !ordered {
		return nil, errors.New("unordered bytes")
	}
	a, b, err := loopback()
	if err != nil {
		return nil, err
	}
	context.AfterFunc(c.ctx(), func() { a.Close(); b.Close() })
	select {
	case c.peer.incoming <- &fakeChannel{label, b}:
		return &fakeChannel{label, a}, nil
	case <-c.done:
		return nil, errors.New("ended")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *fakeChannels) ctx() context.Context { return doneContext{context.Background(), c.done} }

type doneContext struct {
	context.Context
	done chan struct{}
}

func (d doneContext) Done() <-chan struct{} { return d.done }
func (d doneContext) Err() error {
	select {
	case <-d.done:
		return context.Canceled
	default:
		return nil
	}
}

func (c *fakeChannels) Accept(ctx context.Context) (*fakeChannel, error) {
	select {
	case ch := <-c.incoming:
		return ch, nil
	case <-c.done:
		return nil, errors.New("ended")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *fakeChannels) Done() <-chan struct{} { return c.done }
func (c *fakeChannels) Err() error            { return nil }
func (c *fakeChannels) RTT() time.Duration    { return time.Millisecond }
func (c *fakeChannels) Close() error {
	c.close.Do(func() { close(c.done) })
	return nil
}

func fakePair(t testing.TB) (dialed, accepted Path, a, b *fakeChannels) {
	done, once := make(chan struct{}), new(sync.Once)
	a = &fakeChannels{incoming: make(chan *fakeChannel, 4), done: done, close: once}
	b = &fakeChannels{incoming: make(chan *fakeChannel, 4), done: done, close: once, peer: a}
	a.peer = b
	pa, pb := newChannelPath[*fakeChannel](a, Details{Relayed: true, Remote: "192.0.2.1:1"}), newChannelPath[*fakeChannel](b, Details{})
	t.Cleanup(func() { pa.Close(); pb.Close() })
	return pa, pb, a, b
}

// loopback returns both ends of a TCP connection.
func loopback() (client, server net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if server, err = l.Accept(); err != nil {
		client.Close()
		return nil, nil, err
	}
	return client, server, nil
}
