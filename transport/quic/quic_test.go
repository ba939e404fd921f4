package quic

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/invariants"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

func payload(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func TestStreams(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, nil)
	ac, bc := connect(t, a, b, b.Addr())
	if !bytes.Equal(ac.PeerCertificate(), certB().Certificate[0]) || !bytes.Equal(bc.PeerCertificate(), certA().Certificate[0]) {
		t.Error("not the peer's certificate")
	}
	if ac.RTT() <= 0 || bc.RTT() <= 0 {
		t.Error("no round trip time")
	}
	for _, dir := range []struct{ from, to *Conn }{{ac, bc}, {bc, ac}} {
		as, bs := streams(t, dir.from, dir.to)
		data := payload(1, 3<<20)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := as.Write(data); err != nil {
				t.Error(err)
			}
			as.(interface{ CloseWrite() error }).CloseWrite()
		})
		got, err := io.ReadAll(bs)
		must(t, err)
		wg.Wait()
		if !bytes.Equal(got, data) {
			t.Fatal("other bytes")
		}
		_, err = bs.Write([]byte("answer"))
		must(t, err)
		must(t, bs.Close())
		got, err = io.ReadAll(as)
		must(t, err)
		if string(got) != "answer" {
			t.Fatalf("got %q", got)
		}
	}
}

// TestSocketOptions proves that the way the buffers are set leaves quic-go its batches.
func TestSocketOptions(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, nil)
	ac, _ := connect(t, a, b, b.Addr())
	if !ac.qc.ConnectionState().GSO && gsoExpected {
		t.Error("sent packet by packet")
	}
	if size := receiveBuffer(t, a.pc.(*net.UDPConn)); size < 400<<10 {
		t.Errorf("the receive buffer has %d bytes", size)
	}
}

func TestDeadlines(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, nil)
	ac, bc := connect(t, a, b, b.Addr())
	as, bs := streams(t, ac, bc)

	// A blocked read ends, and the bytes that come later are there.
	failed := make(chan error)
	go func() {
		_, err := as.Read(make([]byte, 10))
		failed <- err
	}()
	as.SetReadDeadline(time.Unix(1, 0))
	wantErr(t, <-failed, os.ErrDeadlineExceeded)
	as.SetReadDeadline(time.Time{})
	_, err := bs.Write([]byte("later"))
	must(t, err)
	got := make([]byte, 5)
	_, err = io.ReadFull(as, got)
	must(t, err)
	if string(got) != "later" {
		t.Errorf("got %q", got)
	}

	// A write that nobody reads ends, too.
	go func() {
		_, err := as.Write(make([]byte, 64<<20))
		failed <- err
	}()
	as.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	wantErr(t, <-failed, os.ErrDeadlineExceeded)
}

func TestStreamClose(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, nil)
	ac, bc := connect(t, a, b, b.Addr())

	t.Run("the peer reads what was written, then its end, and can write no more", func(t *testing.T) {
		as, bs := streams(t, ac, bc)
		_, err := as.Write([]byte("last words"))
		must(t, err)
		must(t, as.Close())
		must(t, as.Close())
		got, err := io.ReadAll(bs)
		must(t, err)
		if string(got) != "last words" {
			t.Errorf("got %q", got)
		}
		for err == nil {
			_, err = bs.Write(make([]byte, 1000))
		}
		wantErr(t, err, transport.ErrUnavailable)
		_, err = as.Read(make([]byte, 1))
		wantErr(t, err, net.ErrClosed)
		_, err = as.Write(make([]byte, 1))
		wantErr(t, err, net.ErrClosed)
	})
	t.Run("blocked calls end", func(t *testing.T) {
		as, bs := streams(t, ac, bc)
		errs := make(chan error, 2)
		go func() {
			_, err := as.Read(make([]byte, 1))
			errs <- err
		}()
		go func() {
			_, err := as.Write(make([]byte, 64<<20))
			errs <- err
		}()
		_, err := io.ReadFull(bs, make([]byte, 1000)) // the write has begun
		must(t, err)
		must(t, as.Close())
		wantErr(t, <-errs, net.ErrClosed)
		wantErr(t, <-errs, net.ErrClosed)
		_, err = io.Copy(io.Discard, bs)
		wantErr(t, err, transport.ErrUnavailable) // it was not the end
	})
	t.Run("streams end with the connection", func(t *testing.T) {
		as, bs := streams(t, ac, bc)
		errs := make(chan error, 2)
		for _, s := range []net.Conn{as, bs} {
			go func() {
				_, err := s.Read(make([]byte, 1))
				errs <- err
			}()
		}
		must(t, ac.Close())
		must(t, ac.Close())
		<-errs
		<-errs
		<-ac.Done()
		<-bc.Done()
		wantErr(t, ac.Err(), transport.ErrClosed)
		wantErr(t, bc.Err(), transport.ErrUnavailable)
		_, err := ac.Open(background(t))
		wantErr(t, err, transport.ErrClosed)
		_, err = bc.Accept(background(t))
		wantErr(t, err, transport.ErrUnavailable)
	})
}

func TestStreamLimit(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, func(o *Options) { o.Streams = 2 })
	ac, bc := connect(t, a, b, b.Addr())
	s1, r1 := streams(t, ac, bc)
	streams(t, ac, bc)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := ac.Open(ctx)
	wantErr(t, err, context.DeadlineExceeded)
	s1.Close()
	r1.Close()
	streams(t, ac, bc)
}

func TestMaxConns(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, func(o *Options) { o.MaxConns = 2 })
	ac, _ := connect(t, a, b, b.Addr())
	connect(t, a, b, b.Addr())
	_, err := a.Dial(background(t), b.Addr())
	wantErr(t, err, transport.ErrUnavailable)
	ac.Close()
	for b.admitted.Load() > 1 {
		time.Sleep(time.Millisecond) // until b has heard of it
	}
	connect(t, a, b, b.Addr())
}

// TestManyDials has more handshakes at once than begin without a proof of the address.
func TestManyDials(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, nil)
	ctx := background(t)
	var wg sync.WaitGroup
	const n = handshakeRate + 36
	for range n {
		wg.Go(func() {
			if _, err := a.Dial(ctx, b.Addr()); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := b.Accept(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestDualStack: a socket for both families carries IPv4, and the other protocols see IPv4 addresses.
func TestDualStack(t *testing.T) {
	checkLeaks(t)
	open := func(addr string, o Options) *Socket {
		s, err := Listen(addr, o)
		must(t, err)
		t.Cleanup(func() { s.Close() })
		return s
	}
	a := open(":0", Options{Certificate: certA(), Verify: expect(certB())})
	b := open(loopback0, Options{Certificate: certB(), Verify: expect(certA())})
	at := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: a.Addr().(*net.UDPAddr).Port}
	connect(t, a, b, b.Addr())
	connect(t, b, a, at)
	p := a.Packets()
	_, err := b.Packets().WriteTo(stunPacket, at)
	must(t, err)
	p.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, from, err := p.ReadFrom(make([]byte, 100))
	must(t, err)
	if from.String() != b.Addr().String() {
		t.Errorf("from %v, not %v", from, b.Addr())
	}
	_, err = p.WriteTo(stunPacket, from)
	must(t, err)
}

func TestCertificates(t *testing.T) {
	checkLeaks(t)
	open := func(o Options) *Socket {
		s, err := Listen(loopback0, o)
		must(t, err)
		t.Cleanup(func() { s.Close() })
		return s
	}
	a := open(Options{Certificate: certA(), Verify: expect(certB())})
	b := open(Options{Certificate: certB(), Verify: expect(certA())})
	other := open(Options{Certificate: certificate("c"), Verify: func([]byte) error { return nil }})
	ctx := background(t)

	_, err := a.Dial(ctx, other.Addr())
	wantErr(t, err, transport.ErrDenied)
	wantErr(t, err, errSomeC)
	_, err = other.Dial(ctx, a.Addr())
	wantErr(t, err, transport.ErrDenied)

	// Those did not keep the expected one out, nor did they come out of Accept.
	_, bc := connect(t, a, b, b.Addr())
	if !bytes.Equal(bc.PeerCertificate(), certA().Certificate[0]) {
		t.Error("accepted somebody else")
	}

	for _, o := range []Options{{}, {Certificate: certA()}, {Verify: expect(certA())}} {
		if _, err := Listen(loopback0, o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestDialNobody(t *testing.T) {
	checkLeaks(t)
	a, _ := sockets(t, func(o *Options) { o.HandshakeTimeout = 200 * time.Millisecond })
	mute, err := net.ListenPacket("udp", loopback0)
	must(t, err)
	defer mute.Close()
	_, err = a.Dial(background(t), mute.LocalAddr())
	wantErr(t, err, transport.ErrUnavailable)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	_, err = a.Dial(ctx, mute.LocalAddr())
	wantErr(t, err, why)
}

func TestSocketClose(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, nil)
	ac, bc := connect(t, a, b, b.Addr())
	mute, err := net.ListenPacket("udp", loopback0)
	must(t, err)
	defer mute.Close()
	errs := make(chan error)
	go func() {
		_, err := b.Accept(context.Background())
		errs <- err
	}()
	go func() {
		_, err := b.Dial(context.Background(), mute.LocalAddr())
		errs <- err
	}()
	go func() {
		_, _, err := b.Packets().ReadFrom(make([]byte, 10))
		errs <- err
	}()
	_, _, err = mute.ReadFrom(make([]byte, 2000)) // the dial has begun
	must(t, err)
	must(t, b.Close())
	must(t, b.Close())
	for range 3 {
		if err := <-errs; !errors.Is(err, transport.ErrClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("error %v", err)
		}
	}
	<-ac.Done() // it was told
	wantErr(t, ac.Err(), transport.ErrUnavailable)
	wantErr(t, bc.Err(), transport.ErrClosed)
	_, err = b.Dial(context.Background(), a.Addr())
	wantErr(t, err, transport.ErrClosed)
	_, err = b.Accept(context.Background())
	wantErr(t, err, transport.ErrClosed)
}

// session runs transport/native on a stream that ac opens.
func session(t testing.TB, ac, bc *Conn) *native.Client {
	t.Helper()
	tab, err := objects.NewTable(objects.TableOptions{Memory: 1 << 30})
	must(t, err)
	srv := native.NewServer(tab, native.ServerOptions{})
	ctx := background(t)
	var wg sync.WaitGroup
	t.Cleanup(func() {
		srv.Close()
		wg.Wait()
		must(t, tab.Close())
	})
	wg.Go(func() {
		s, err := bc.Accept(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		srv.ServeCarrier(context.Background(), tcp.NewCarrier(s, tcp.CarrierOptions{Trusted: true}))
	})
	s, err := ac.Open(ctx)
	must(t, err)
	c, err := native.NewClient(ctx, tcp.NewCarrier(s, tcp.CarrierOptions{Trusted: true}), native.ClientOptions{})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestNative(t *testing.T) {
	checkLeaks(t)
	large := 100_000_000
	if invariants.Enabled { // the race detector makes it ten times as slow
		large /= 5
	}
	a, b := sockets(t, nil)
	ac, bc := connect(t, a, b, b.Addr())
	ctx := background(t)
	for _, dir := range []struct {
		name     string
		from, to *Conn
		big      int
	}{{"dialer asks", ac, bc, large}, {"acceptor asks", bc, ac, 17 << 20}} {
		t.Run(dir.name, func(t *testing.T) {
			c := session(t, dir.from, dir.to)
			for _, n := range []int{0, 1, 1000, 1 << 20, 5<<20 + 1} {
				data := payload(byte(n), n)
				must(t, c.Put(ctx, "k", transport.Slices{data}, objects.PutOptions{}))
				got, err := c.GetBytes(ctx, "k", -1)
				must(t, err)
				if !bytes.Equal(got, data) {
					t.Fatalf("%d bytes: others came back", n)
				}
			}
			_, err := c.GetBytes(ctx, "missing", -1)
			wantErr(t, err, transport.ErrNotFound)

			// A large one as a stream, both ways.
			big := payload(7, dir.big)
			w, err := c.PutStream(ctx, "big", -1, objects.PutOptions{})
			must(t, err)
			_, err = w.Write(big)
			must(t, err)
			must(t, w.Commit())
			r, err := c.GetStream(ctx, "big", 0)
			must(t, err)
			got := make([]byte, len(big))
			_, err = io.ReadFull(r, got)
			must(t, err)
			must(t, r.Close())
			if !bytes.Equal(got, big) {
				t.Fatal("the stream has other bytes")
			}

			// A get that is given up leaves the session as it was.
			for range 5 {
				cctx, cancel := context.WithTimeout(ctx, 2*time.Millisecond)
				if b, err := c.Get(cctx, "big", 0, -1, -1); err == nil {
					b.Release()
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				cancel()
			}
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					for range 5 {
						got, err := c.Get(ctx, "big", int64(i)<<20, 1<<20, -1)
						if err != nil {
							t.Error(err)
							return
						}
						if !bytes.Equal(got.Bytes(), big[i<<20:(i+1)<<20]) {
							t.Error("other bytes")
						}
						got.Release()
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestIdlePeer(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, func(o *Options) { o.IdleTimeout = time.Second })
	f := forward(t, b.Addr())
	ac, bc := connect(t, a, b, f.addr())
	// It lives while nothing is sent,
	t0 := time.Now()
	time.Sleep(1500 * time.Millisecond)
	if ac.Err() != nil || bc.Err() != nil {
		t.Fatalf("%v after %v; %v", ac.Err(), time.Since(t0), bc.Err())
	}
	// and ends if nothing comes through any more.
	f.drop.Store(true)
	<-ac.Done()
	<-bc.Done()
	wantErr(t, ac.Err(), transport.ErrUnavailable)
	wantErr(t, bc.Err(), transport.ErrUnavailable)
}
