package path

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/faultnet"
)

// raw dials l as somebody with that certificate, who says that.
func raw(t testing.TB, l *TLSListener, cert tls.Certificate, say []byte) (*tls.Conn, error) {
	t.Helper()
	d := net.Dialer{Timeout: 10 * time.Second}
	nc, err := d.Dial("tcp", l.Addr().String())
	must(t, err)
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	c := tls.Client(nc, tlsConfig(cert, func([]byte) error { return nil }))
	if err := c.Handshake(); err != nil {
		return c, err
	}
	_, err = c.Write(say)
	return c, err
}

// hungUp reads until the peer ends the connection.
func hungUp(t testing.TB, c net.Conn) error {
	t.Helper()
	got, err := io.ReadAll(c)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		t.Fatalf("still connected; got %q", got)
	}
	if len(got) > 0 {
		t.Errorf("got %q", got)
	}
	return err
}

func TestUnexpectedCertificates(t *testing.T) {
	checkLeaks(t)
	l := listen(t, nil)
	ctx := background(t)

	// The dialer is told that it was not expected, and why.
	o := dialOptions()
	o.Certificate = certOther()
	_, err := DialTLS(ctx, []string{l.Addr().String()}, o)
	wantErr(t, err, transport.ErrDenied)
	wantErr(t, err, transport.ErrUnavailable)

	// The listener is somebody else: the dialer shows nothing of itself.
	o = dialOptions()
	o.Verify = expect(certOther())
	_, err = DialTLS(ctx, []string{l.Addr().String()}, o)
	wantErr(t, err, transport.ErrDenied)
	wantErr(t, err, errUnexpected)

	// No certificate at all, no TLS at all, TLS 1.2.
	for _, conf := range []*tls.Config{
		{InsecureSkipVerify: true},
		{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certDial()}},
	} {
		c, err := tls.Dial("tcp", l.Addr().String(), conf)
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if err == nil {
			t.Errorf("%+v: let in", conf)
		}
	}
	nc, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	nc.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	io.Copy(io.Discard, nc)
	nc.Close()

	for l.Stats().Denied < 5 {
		time.Sleep(time.Millisecond) // a dialer knows before it is counted
	}
	if s := l.Stats(); s.Denied != 5 || s.Paths != 0 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
	tlsPair(t, l, l.Addr().String(), nil)
}

func TestHostilePreambles(t *testing.T) {
	checkLeaks(t)
	l := listen(t, func(o *TLSOptions) { o.HandshakeTimeout = 500 * time.Millisecond })
	id := pathID{1, 2, 3}
	for name, say := range map[string][]byte{
		"garbage":         bytes.Repeat([]byte{0xff}, 100),
		"short":           preamble(roleControl, id)[:10],
		"unknown role":    preamble('X', id),
		"unknown path":    preamble(roleClient, id),
		"unknown path, S": preamble(roleSpare, id),
		"another version": append([]byte("PPLANE2C"), id[:]...),
		"nothing":         nil,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := raw(t, l, certDial(), say)
			must(t, err)
			hungUp(t, c)
		})
	}
	for l.Stats().Refused < 7 {
		time.Sleep(time.Millisecond)
	}
	if s := l.Stats(); s.Paths != 0 || s.Refused != 7 {
		t.Errorf("%+v", s)
	}
	tlsPair(t, l, l.Addr().String(), nil)
}

// TestPathIDs: a path's id belongs to who made it, and is one path's at a time.
func TestPathIDs(t *testing.T) {
	checkLeaks(t)
	l := listen(t, func(o *TLSOptions) {
		o.Peer = func(der []byte) (uuid.UUID, error) {
			if bytes.Equal(der, certOther().Certificate[0]) {
				return uuid.Max, nil
			}
			return dialerID, expect(certDial())(der)
		}
	})
	ctx := background(t)
	id := pathID{7}
	control, err := raw(t, l, certDial(), preamble(roleControl, id))
	must(t, err)
	welcome := make([]byte, welcomeSize)
	_, err = io.ReadFull(control, welcome)
	must(t, err)
	_, p, err := l.Accept(ctx)
	must(t, err)

	again, err := raw(t, l, certDial(), preamble(roleControl, id))
	must(t, err)
	hungUp(t, again)
	thief, err := raw(t, l, certOther(), preamble(roleClient, id))
	must(t, err)
	hungUp(t, thief)
	if p.Err() != nil {
		t.Fatal(p.Err())
	}
	// Another peer may have the same id.
	other, err := raw(t, l, certOther(), preamble(roleControl, id))
	must(t, err)
	_, err = io.ReadFull(other, welcome)
	must(t, err)
	peer, op, err := l.Accept(ctx)
	must(t, err)
	if peer != uuid.Max || op == p {
		t.Errorf("got the path of %v", peer)
	}
	// Once the path has ended its id may come again.
	must(t, control.Close())
	<-p.Done()
	must(t, p.Close())
	control, err = raw(t, l, certDial(), preamble(roleControl, id))
	must(t, err)
	_, err = io.ReadFull(control, welcome)
	must(t, err)
}

// TestHostileDialer sends what the listener's side of a path must not fall for.
func TestHostileDialer(t *testing.T) {
	checkLeaks(t)
	l := listen(t, func(o *TLSOptions) { o.Streams, o.MaxPeerPaths, o.HandshakeTimeout = 2, 2, 300*time.Millisecond })
	ctx := background(t)
	id := pathID{9}
	dial := func(role byte, id pathID) *tls.Conn {
		c, err := raw(t, l, certDial(), preamble(role, id))
		must(t, err)
		return c
	}
	control := dial(roleControl, id)
	_, err := io.ReadFull(control, make([]byte, welcomeSize))
	must(t, err)
	_, p, err := l.Accept(ctx)
	must(t, err)

	// Frames of unknown kinds, pongs that were never asked for, with absurd times.
	for _, kind := range []byte{0, framePong, 'x', framePong} {
		_, err := control.Write(append([]byte{kind}, bytes.Repeat([]byte{0xfe}, 8)...))
		must(t, err)
	}
	if rtt := p.Info().RTT; rtt < 0 || rtt > time.Minute {
		t.Errorf("believed in a round trip of %v", rtt)
	}
	// More streams than there may be: the third waits, and is hung up on.
	s := []*tls.Conn{dial(roleClient, id), dial(roleClient, id)}
	for range s {
		nc, err := p.Accept(ctx)
		must(t, err)
		defer nc.Close()
	}
	hungUp(t, dial(roleClient, id))
	// More spares.
	spares := make([]*tls.Conn, 2*maxSpares)
	for i := range spares {
		spares[i] = dial(roleSpare, id)
	}
	for len(p.(*tlsPath).spares) < len(spares) {
		time.Sleep(time.Millisecond)
	}
	hungUp(t, dial(roleSpare, id))
	// Spares that have gone are passed over.
	for _, c := range spares[:8] {
		c.NetConn().(*net.TCPConn).SetLinger(0)
		c.NetConn().Close()
	}
	nc, err := p.Open(ctx)
	must(t, err)
	nc.Close()
	// More paths.
	_, err = io.ReadFull(dial(roleControl, pathID{10}), make([]byte, welcomeSize))
	must(t, err)
	hungUp(t, dial(roleControl, pathID{11}))
	if p.Err() != nil {
		t.Error(p.Err())
	}
}

// TestHostileListener gives a dialer what it must not fall for.
func TestHostileListener(t *testing.T) {
	checkLeaks(t)
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	conf := tlsConfig(certListen(), expect(certDial()))
	var answer atomic.Pointer[[]byte] // to a control connection
	var spares atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := nl.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				c := tls.Server(nc, conf)
				var b [preambleSize]byte
				if _, err := io.ReadFull(c, b[:]); err != nil {
					return
				}
				if b[len(magic)] == roleSpare {
					spares.Add(1)
					c.Write([]byte{'X'}) // not what it should be
				} else {
					c.Write(*answer.Load())
				}
				io.Copy(io.Discard, c)
			})
		}
	})
	t.Cleanup(func() {
		nl.Close()
		wg.Wait()
	})
	o := dialOptions()
	o.AttemptTimeout = 300 * time.Millisecond
	for _, a := range []string{"HTTP/1.1 400 ", "PPLANE1", "PPLANE1C", ""} {
		b := []byte(a)
		answer.Store(&b)
		_, err := DialTLS(background(t), []string{nl.Addr().String()}, o)
		wantErr(t, err, transport.ErrUnavailable)
	}
	b := []byte("PPLANE1P")
	answer.Store(&b)
	p, err := DialTLS(background(t), []string{nl.Addr().String()}, o)
	must(t, err)
	for spares.Load() < 3 { // they are replaced, not at once
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = p.Accept(ctx)
	wantErr(t, err, context.DeadlineExceeded)
	must(t, p.Close())
}

// TestSlowHandshakes: who does not get on with it is pushed out by those who do, or times out.
func TestSlowHandshakes(t *testing.T) {
	checkLeaks(t)
	l := listen(t, func(o *TLSOptions) { o.MaxHandshakes, o.HandshakeTimeout = 3, time.Second })
	slow := make([]net.Conn, 10)
	for i := range slow {
		nc, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer nc.Close()
		slow[i] = nc
	}
	for l.Stats().Pushed < 7 {
		time.Sleep(time.Millisecond)
	}
	tlsPair(t, l, l.Addr().String(), func(o *DialOptions) { o.Spares = 1 })
	for _, nc := range slow {
		nc.SetReadDeadline(time.Now().Add(20 * time.Second))
		hungUp(t, nc)
	}
}

// failingListener fails as one does that has no descriptors left.
type failingListener struct {
	net.Listener
	fails atomic.Int64
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.fails.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestAcceptFails(t *testing.T) {
	checkLeaks(t)
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	fl := &failingListener{Listener: nl}
	fl.fails.Store(4)
	l := listenOn(t, fl, nil)
	tlsPair(t, l, l.Addr().String(), nil)
	if s := l.Stats(); s.AcceptFails != 4 {
		t.Errorf("%+v", s)
	}
	fl.fails.Store(1 << 40)
	must(t, l.Close()) // while it fails
}

// TestVanishedPeer: nothing comes through any more, and nobody says so.
func TestVanishedPeer(t *testing.T) {
	checkLeaks(t)
	l := listen(t, func(o *TLSOptions) { o.Ping = 200 * time.Millisecond })
	proxy, err := faultnet.NewProxy("tcp://127.0.0.1:0", "tcp://"+l.Addr().String(), faultnet.Plan{})
	must(t, err)
	defer proxy.Close()
	a, b := tlsPair(t, l, strings.TrimPrefix(proxy.Addr(), "tcp://"), func(o *DialOptions) { o.Ping = 200 * time.Millisecond })
	c, s := pair(t, a, b)
	time.Sleep(time.Second) // longer than a dead one would last
	if a.Err() != nil || b.Err() != nil {
		t.Fatalf("%v and %v", a.Err(), b.Err())
	}
	proxy.Set(faultnet.Plan{Read: faultnet.Faults{Drop: true}, Write: faultnet.Faults{Drop: true}})
	for _, p := range []Path{a, b} {
		<-p.Done()
		wantErr(t, p.Err(), transport.ErrUnavailable)
	}
	for _, nc := range []net.Conn{c, s} {
		if _, err := nc.Read(make([]byte, 1)); err == nil {
			t.Error("a stream outlived its path")
		}
	}
}

// TestKilledPeer: the system closes the connections of a process that dies.
func TestKilledPeer(t *testing.T) {
	checkLeaks(t)
	l := listen(t, nil)
	a, b := tlsPair(t, l, l.Addr().String(), nil)
	c, s := pair(t, a, b)
	a.(*tlsPath).control.NetConn().(*batchConn).Conn.(*net.TCPConn).SetLinger(0)
	a.(*tlsPath).control.NetConn().Close()
	<-b.Done()
	wantErr(t, b.Err(), transport.ErrUnavailable)
	<-a.Done()
	c.Close()
	s.Close()
}

// TestStreamLimitWaits: Open waits for room, on either side.
func TestStreamLimitWaits(t *testing.T) {
	checkLeaks(t)
	l := listen(t, func(o *TLSOptions) { o.Streams = 3 })
	a, b := tlsPair(t, l, l.Addr().String(), func(o *DialOptions) { o.Streams = 3 })
	for _, d := range [][2]Path{{a, b}, {b, a}} {
		var cs []net.Conn
		for range 3 {
			c, s := pair(t, d[0], d[1])
			cs = append(cs, c, s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		_, err := d[0].Open(ctx)
		wantErr(t, err, context.DeadlineExceeded)
		cancel()
		// The client's end goes first, and the next stream comes before the server has noticed.
		cs[0].Close()
		next := make(chan net.Conn)
		go func() {
			nc, err := d[0].Open(background(t))
			if err != nil {
				t.Error(err)
			}
			next <- nc
		}()
		cs[1].Close()
		nc := <-next
		if nc == nil {
			t.FailNow()
		}
		nc.Close()
		for _, c := range cs {
			c.Close()
		}
	}
}

// TestListenerClose ends what came of it, what nobody has accepted and what is on its way, too.
func TestListenerClose(t *testing.T) {
	checkLeaks(t)
	l := listen(t, nil)
	a, b := tlsPair(t, l, l.Addr().String(), nil)
	waiting, err := DialTLS(background(t), []string{l.Addr().String()}, dialOptions())
	must(t, err)
	defer waiting.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer nc.Close()
	failed := make(chan error)
	for range 2 { // one may get the path that waits
		go func() {
			_, _, err := l.Accept(context.Background())
			failed <- err
		}()
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
	must(t, l.Close())
	must(t, l.Close())
	wantErr(t, <-failed, transport.ErrClosed)
	<-a.Done()
	<-b.Done()
	<-waiting.Done()
	_, _, err = l.Accept(context.Background())
	wantErr(t, err, transport.ErrClosed)
	_, err = DialTLS(background(t), []string{l.Addr().String()}, dialOptions())
	wantErr(t, err, transport.ErrUnavailable)
	if s := l.Stats(); s.Paths != 0 {
		t.Errorf("%+v", s)
	}
}

func TestNobodyAcceptsPaths(t *testing.T) {
	checkLeaks(t)
	l := listen(t, func(o *TLSOptions) { o.MaxPeerPaths = 100 })
	o := dialOptions()
	o.Spares = 1
	refused := make(chan struct{}, cap(l.ready)+1)
	for range cap(l.ready) + 1 {
		p, err := DialTLS(background(t), []string{l.Addr().String()}, o)
		must(t, err)
		defer p.Close()
		go func() { // it need not be the last one: the listener queues a path a moment after the dialer has it
			<-p.Done()
			refused <- struct{}{}
		}()
	}
	<-refused
	if s := l.Stats(); s.Paths != int64(cap(l.ready)) {
		t.Errorf("%+v", s)
	}
}

func TestDialTLSAddresses(t *testing.T) {
	checkLeaks(t)
	l := listen(t, nil)
	nl, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	must(t, err)
	defer nl.Close()
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	dead.Close()
	other := listen(t, func(o *TLSOptions) { o.Certificate = certOther() })
	p, err := DialTLS(background(t), []string{dead.Addr().String(), nl.Addr().String(), other.Addr().String(), "bad", l.Addr().String()}, dialOptions())
	must(t, err)
	if p.Info().Remote != l.Addr().String() {
		t.Errorf("connected to %s", p.Info().Remote)
	}
	must(t, p.Close())

	_, err = DialTLS(background(t), nil, dialOptions())
	wantErr(t, err, transport.ErrUnavailable)
	_, err = DialTLS(background(t), []string{l.Addr().String()}, DialOptions{})
	if err == nil {
		t.Error("dialed without a certificate")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	_, err = DialTLS(ctx, []string{nl.Addr().String()}, dialOptions())
	wantErr(t, err, why)
}

func TestRace(t *testing.T) {
	type step struct {
		takes time.Duration
		fails bool
	}
	for _, c := range []struct {
		name  string
		steps map[string]step
		addrs string // in order
		won   string
		after time.Duration
		tried int
	}{
		{"the first at once", map[string]step{"a": {}, "b": {}}, "ab", "a", 0, 1},
		{"the first, though slow", map[string]step{"a": {takes: 200 * time.Millisecond}, "b": {}}, "ab", "a", 200 * time.Millisecond, 1},
		{"the second overtakes", map[string]step{"a": {takes: time.Hour}, "b": {takes: 10 * time.Millisecond}}, "ab", "b", 260 * time.Millisecond, 2},
		{"a failure brings the next", map[string]step{"a": {takes: time.Millisecond, fails: true}, "b": {takes: time.Millisecond}}, "ab", "b", 2 * time.Millisecond, 2},
		{"all fail", map[string]step{"a": {takes: time.Second, fails: true}, "b": {fails: true}}, "ab", "", time.Second, 2},
		{"at most four", map[string]step{"a": {takes: time.Hour}, "b": {takes: time.Hour}, "c": {takes: time.Hour}, "d": {takes: 3 * time.Second, fails: true},
			"e": {}}, "abcde", "e", 3750 * time.Millisecond, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var lost, tried, running atomic.Int64
				begun := time.Now()
				got, err := race(t.Context(), strings.Split(c.addrs, ""), func(ctx context.Context, addr string) (string, error) {
					tried.Add(1)
					if running.Add(1) > maxAttempts {
						t.Error("too many at once")
					}
					defer running.Add(-1)
					s := c.steps[addr]
					timer := time.NewTimer(s.takes)
					defer timer.Stop()
					select {
					case <-timer.C:
					case <-ctx.Done():
						return "", ctx.Err()
					}
					if s.fails {
						return "", fmt.Errorf("%w: %s failed", transport.ErrDenied, addr)
					}
					return addr, nil
				}, func(string) { lost.Add(1) })
				if got != c.won || time.Since(begun) != c.after || int(tried.Load()) != c.tried {
					t.Errorf("%q after %v and %d attempts, %v", got, time.Since(begun), tried.Load(), err)
				}
				if c.won == "" {
					wantErr(t, err, transport.ErrUnavailable)
					wantErr(t, err, transport.ErrDenied)
				}
			})
		})
	}
	t.Run("two win", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var lost string
			got, err := race(t.Context(), []string{"a", "b"}, func(ctx context.Context, addr string) (string, error) {
				time.Sleep(300 * time.Millisecond) // does not look at ctx
				return addr, nil
			}, func(s string) { lost = s })
			must(t, err)
			if got != "a" || lost != "b" {
				t.Errorf("%q won, %q lost", got, lost)
			}
		})
	})
	t.Run("given up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := race(ctx, []string{"a", "b"}, func(ctx context.Context, addr string) (string, error) {
				<-ctx.Done()
				return "", ctx.Err()
			}, func(string) {})
			wantErr(t, err, context.DeadlineExceeded)
		})
	})
}

func TestOrder(t *testing.T) {
	got := order([]string{"10.0.0.1:1", "10.0.0.2:1", "[2001:db8::1]:1", "name.example:443", "0.0.0.0:1", "[::]:1", "224.0.0.1:5", "10.0.0.3:0", "10.0.0.3",
		":7", "x:y", "10.0.0.4:65536", strings.Repeat("x", 300) + ":1"})
	want := []string{"[2001:db8::1]:1", "10.0.0.1:1", "10.0.0.2:1", "name.example:443"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if n := len(order(slices.Repeat([]string{"10.0.0.1:1"}, 1000))); n != maxAddrs {
		t.Errorf("%d addresses", n)
	}
}

func TestAddrs(t *testing.T) {
	checkLeaks(t)
	l := listen(t, nil)
	if got := l.Addrs(); len(got) != 1 || got[0] != l.Addr().String() {
		t.Errorf("%q", got)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l = listen(t, func(o *TLSOptions) {
		o.Advertise = []string{"dtn.example.org:7000", "192.0.2.1", "2001:db8::1", "[2001:db8::2]"}
	})
	_, port, _ = net.SplitHostPort(l.Addr().String())
	if got, want := l.Addrs(), []string{"dtn.example.org:7000", "192.0.2.1:" + port, "[2001:db8::1]:" + port, "[2001:db8::2]:" + port}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	all, err := ListenTLS(":0", TLSOptions{Certificate: certListen(), Peer: func([]byte) (uuid.UUID, error) { return dialerID, nil }, Loopback: true})
	must(t, err)
	defer all.Close()
	_, port, _ = net.SplitHostPort(all.Addr().String())
	if got := all.Addrs(); !slices.Contains(got, "127.0.0.1:"+port) {
		t.Errorf("%q", got)
	}
	if _, err := ListenTLS(":0", TLSOptions{}); err == nil {
		t.Error("listens without a certificate")
	}
	_, err = ListenTLS(all.Addr().String(), TLSOptions{})
	if err == nil {
		t.Error("took a port that is in use")
	}

	ips := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	some := ips("127.0.0.1", "::1", "10.1.2.3", "fe80::1", "169.254.7.7", "8.8.8.8", "fd00::1", "2001:db8::1", "0.0.0.0", "ff02::1")
	for _, c := range []struct {
		loopback, only4 bool
		want            []netip.Addr
	}{
		{false, false, ips("8.8.8.8", "2001:db8::1", "10.1.2.3", "fd00::1")},
		{true, false, ips("8.8.8.8", "2001:db8::1", "10.1.2.3", "fd00::1", "127.0.0.1", "::1")},
		{false, true, ips("8.8.8.8", "10.1.2.3")},
	} {
		if got := worthAnnouncing(some, c.loopback, c.only4); !slices.Equal(got, c.want) {
			t.Errorf("%v, want %v", got, c.want)
		}
	}
}

func FuzzPreamble(f *testing.F) {
	f.Add(preamble(roleControl, pathID{1}))
	f.Add(preamble(roleSpare, pathID{1})[:23])
	f.Add([]byte("PPLANE1X0123456789abcdef"))
	f.Fuzz(func(t *testing.T, b []byte) {
		role, id, err := parsePreamble(b)
		if err != nil {
			wantErr(t, err, transport.ErrCorrupt)
		} else if !bytes.Equal(preamble(role, id), b) {
			t.Errorf("%q is not what it was read from", preamble(role, id))
		}
	})
}

func FuzzOrder(f *testing.F) {
	f.Add("10.0.0.1:80,[::1]:2,host:5")
	f.Add("[::ffff:10.0.0.1]:80,%:1")
	f.Fuzz(func(t *testing.T, s string) {
		in := strings.Split(s, ",")
		for _, a := range order(in) {
			if _, _, err := net.SplitHostPort(a); err != nil || !slices.Contains(in, a) {
				t.Errorf("%q of %q: %v", a, s, err)
			}
		}
	})
}
