package faultnet_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/transport/faultnet"
)

// echo serves a network on which every byte comes back, and returns its address. It ends, and has no goroutine left, with the test.
func echo(t testing.TB, network, addr string) string {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<16)
				t.Errorf("goroutines are left:\n%s", buf[:runtime.Stack(buf, true)])
				return
			}
		}
	})
	return l.Addr().String()
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 ^ i>>8)
	}
	return b
}

// pipe returns two ends of a connection in memory, the first with faults.
func pipe(plan faultnet.Plan) (*faultnet.Conn, net.Conn) {
	a, b := net.Pipe()
	return faultnet.Wrap(a, plan), b
}

// received writes data through a wrapped connection, in pieces of step bytes, and returns what arrives.
func received(t *testing.T, plan faultnet.Plan, data []byte, step int) ([]byte, error) {
	t.Helper()
	c, peer := pipe(plan)
	defer peer.Close()
	all := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(peer)
		all <- b
	}()
	var werr error
	for rest := data; len(rest) > 0 && werr == nil; {
		n := min(step, len(rest))
		_, werr = c.Write(rest[:n])
		rest = rest[n:]
	}
	c.Close()
	return <-all, werr
}

func TestNothing(t *testing.T) {
	data := pattern(100_000)
	got, err := received(t, faultnet.Plan{}, data, 7000)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// The same bits flip, however the bytes are cut into calls, in either direction, and the caller's bytes stay as they are.
func TestCorruptIsReproducible(t *testing.T) {
	data := pattern(200_000)
	plan := faultnet.Plan{Seed: 7, Write: faultnet.Faults{CorruptRate: 1e-3, CorruptAt: []int64{0, 199_999}}}
	var first []byte
	for _, step := range []int{200_000, 1, 777} {
		sent := bytes.Clone(data)
		got, err := received(t, plan, sent, step)
		if err != nil || !bytes.Equal(sent, data) {
			t.Fatalf("step %d: %v, or the caller's bytes changed", step, err)
		}
		if first == nil {
			first = got
		}
		if !bytes.Equal(got, first) {
			t.Errorf("step %d: other bits flipped", step)
		}
	}
	flips := 0
	for i := range data {
		if first[i] != data[i] {
			flips++
		}
	}
	if flips < 100 || flips > 400 || first[0] == data[0] || first[199_999] == data[199_999] {
		t.Errorf("%d bytes of %d changed", flips, len(data))
	}
	plan.Seed++
	if got, _ := received(t, plan, data, 1000); bytes.Equal(got, first) {
		t.Error("another seed flips the same bits")
	}
	plan.Read, plan.Write = plan.Write, faultnet.Faults{}
	c, peer := pipe(plan)
	defer c.Close()
	go func() { peer.Write(data); peer.Close() }()
	got, err := io.ReadAll(c)
	if err != nil || len(got) != len(data) || bytes.Equal(got, data) || c.Stats().Corrupted == 0 {
		t.Errorf("%d bytes, %v, %+v", len(got), err, c.Stats())
	}
}

func TestCut(t *testing.T) {
	data := pattern(10_000)
	for _, hard := range []bool{false, true} {
		plan := faultnet.Plan{Write: faultnet.Faults{CutAfter: 5001, Reset: hard}, Read: faultnet.Faults{Reset: hard}}
		got, err := received(t, plan, data, 2000)
		want := syscall.EPIPE
		if hard {
			want = syscall.ECONNRESET
		}
		if !bytes.Equal(got, data[:5001]) || !errors.Is(err, faultnet.ErrInjected) || !errors.Is(err, want) {
			t.Errorf("cut after %d bytes: %v", len(got), err)
		}

		c, peer := pipe(faultnet.Plan{Read: faultnet.Faults{CutCall: 3, Reset: hard}})
		go peer.Write(data)
		var n int
		for err = nil; err == nil; n++ {
			_, err = c.Read(make([]byte, 10))
		}
		if n != 3 || hard != errors.Is(err, faultnet.ErrInjected) || hard == errors.Is(err, io.EOF) {
			t.Errorf("call %d: %v", n, err)
		}
		if _, again := c.Read(make([]byte, 1)); !errors.Is(again, err) && again.Error() != err.Error() {
			t.Errorf("then %v, before %v", again, err)
		}
		if s := c.Stats(); s.Cuts != 1 || s.Conns != 1 || s.BytesRead != 20 {
			t.Errorf("%+v", s)
		}
		peer.Close()
	}
	c, peer := pipe(faultnet.Plan{})
	failed := make(chan error)
	go func() { _, err := c.Read(make([]byte, 1)); failed <- err }()
	c.Cut(true)
	if err := <-failed; !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	if _, err := peer.Read(make([]byte, 1)); err == nil {
		t.Error("the peer sees nothing of it")
	}
}

func TestErrCall(t *testing.T) {
	broken := errors.New("broken")
	data := pattern(100)
	c, peer := pipe(faultnet.Plan{Read: faultnet.Faults{ErrCall: 2, Err: broken}, Write: faultnet.Faults{ErrCall: 1}})
	defer c.Close()
	go io.Copy(io.Discard, io.TeeReader(peer, peer)) // echo
	if n, err := c.Write(data); n != 0 || !errors.Is(err, faultnet.ErrInjected) {
		t.Errorf("Write = %d, %v", n, err)
	}
	if n, err := c.Write(data); n != 100 || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
	got := make([]byte, 100)
	if _, err := io.ReadFull(c, got[:50]); err != nil {
		t.Error(err)
	}
	if n, err := c.Read(got[50:]); n != 0 || !errors.Is(err, broken) || !errors.Is(err, faultnet.ErrInjected) {
		t.Errorf("Read = %d, %v", n, err)
	}
	if _, err := io.ReadFull(c, got[50:]); err != nil || !bytes.Equal(got, data) {
		t.Errorf("then %v", err)
	}
	if c.Stats().Errors != 2 {
		t.Errorf("%+v", c.Stats())
	}
}

func TestShort(t *testing.T) {
	data := pattern(1000)
	for _, random := range []bool{false, true} {
		f := faultnet.Faults{Short: 7, ShortRandom: random}
		c, peer := pipe(faultnet.Plan{Read: f, Write: f})
		go func() { peer.Write(data); peer.Close() }()
		var got []byte
		lengths := map[int]bool{}
		for {
			b := make([]byte, 100)
			n, err := c.Read(b)
			got = append(got, b[:n]...)
			if err != nil {
				break
			}
			lengths[n] = true
			if n > 7 {
				t.Errorf("a read of %d bytes", n)
			}
		}
		if !bytes.Equal(got, data) || random == (len(lengths) < 3) {
			t.Errorf("%d bytes, in lengths %v", len(got), lengths)
		}
		c.Close()
		if got, err := received(t, faultnet.Plan{Write: f}, data, 1000); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

func TestBlackHole(t *testing.T) {
	c, peer := pipe(faultnet.Plan{Read: faultnet.Faults{Drop: true}, Write: faultnet.Faults{DropAfter: 10}})
	got := make(chan []byte)
	go func() { b, _ := io.ReadAll(peer); got <- b }()
	for range 3 {
		if n, err := c.Write(pattern(8)); n != 8 || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
	}
	c.SetReadDeadline(time.Now())
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	failed := make(chan error)
	go func() { _, err := c.Read(make([]byte, 1)); failed <- err }()
	c.Close()
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	if b := <-got; len(b) != 10 || c.Stats().Dropped != 14 {
		t.Errorf("%d bytes arrived, %+v", len(b), c.Stats())
	}
}

func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(faultnet.Plan{
			Read:  faultnet.Faults{Latency: 5 * time.Second},
			Write: faultnet.Faults{Bandwidth: 100, Latency: time.Second},
		})
		defer peer.Close()
		go func() { io.ReadFull(peer, make([]byte, 200)); peer.Write([]byte("answer")) }()
		start := time.Now()
		c.Write(make([]byte, 200))
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("200 bytes at 100 a second and a second of latency took %v", d)
		}
		start = time.Now()
		c.SetReadDeadline(start.Add(2 * time.Second))
		if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 2*time.Second {
			t.Errorf("Read = %d, %v after %v", n, err, time.Since(start))
		}
		c.SetReadDeadline(time.Time{})
		b := make([]byte, 4)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "answ" || time.Since(start) != 5*time.Second {
			t.Errorf("%q, %v after %v", b, err, time.Since(start))
		}
		if _, err := io.ReadFull(c, b[:2]); err != nil || string(b[:2]) != "er" || time.Since(start) != 5*time.Second {
			t.Errorf("%q, %v after %v", b, err, time.Since(start))
		}
		start = time.Now()
		failed := make(chan error)
		go func() { _, err := c.Write(make([]byte, 1e6)); failed <- err }()
		time.Sleep(time.Second)
		c.SetWriteDeadline(time.Now().Add(time.Minute)) // moved while it waits
		if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 61*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		c.Close()
	})
}

// A plan that is set later concerns a call that already waits.
func TestSetWakes(t *testing.T) {
	c, peer := pipe(faultnet.Plan{Read: faultnet.Faults{Drop: true}})
	defer c.Close()
	got := make(chan string)
	go func() { b := make([]byte, 5); n, _ := c.Read(b); got <- string(b[:n]) }()
	c.Set(faultnet.Plan{})
	peer.Write([]byte("hello"))
	if s := <-got; s != "hello" {
		t.Errorf("%q", s)
	}
}

// A read that waits for bytes when the black hole opens gets none.
func TestBlackHoleOpensLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(faultnet.Plan{})
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(time.Hour))
		failed := make(chan error)
		go func() { _, err := c.Read(make([]byte, 5)); failed <- err }()
		synctest.Wait()
		c.Set(faultnet.Plan{Read: faultnet.Faults{Drop: true}})
		peer.Write([]byte("lost"))
		synctest.Wait()
		c.Set(faultnet.Plan{}) // too late for this connection
		go peer.Write([]byte("lost too"))
		if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) || c.Stats().Dropped != 4 {
			t.Errorf("%v, %+v", err, c.Stats())
		}
		peer.Close()
	})
}

func TestListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := faultnet.WrapListener(inner, faultnet.Plan{Write: faultnet.Faults{CutAfter: 3, Reset: true}})
	defer l.Close()
	for i := range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := s.(syscall.Conn); ok {
			t.Error("a wrapped connection lets its descriptor be had")
		}
		n, err := s.Write([]byte("hello"))
		if i == 0 && (n != 3 || !errors.Is(err, syscall.ECONNRESET)) || i == 1 && err != nil {
			t.Errorf("%d, %v", n, err)
		}
		s.Close()
		b, err := io.ReadAll(c)
		if i == 1 && string(b) != "hello" || i == 0 && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q, %v", b, err)
		}
		c.Close()
		l.Set(faultnet.Plan{})
	}
	if s := l.Stats(); s.Conns != 2 || s.BytesWritten != 8 || s.Cuts != 1 {
		t.Errorf("%+v", s)
	}
}

// proxies runs a test through TCP and through unix sockets.
func proxies(t *testing.T, plan faultnet.Plan, f func(t *testing.T, p *faultnet.Proxy, dial func() net.Conn)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			listen, target := "127.0.0.1:0", "tcp://"+echo(t, "tcp", "127.0.0.1:0")
			if network == "unix" {
				dir := t.TempDir()
				listen, target = "unix://"+filepath.Join(dir, "p"), "ipc://"+echo(t, "unix", filepath.Join(dir, "s"))
			}
			p, err := faultnet.NewProxy(listen, target, plan)
			if err != nil {
				t.Fatal(err)
			}
			f(t, p, func() net.Conn {
				addr := p.Addr()
				if network == "unix" {
					addr = addr[len("unix://"):]
				}
				c, err := net.Dial(network, addr)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			})
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if err := p.Close(); err != nil || p.Conns() != 0 {
				t.Errorf("Close again: %v, %d connections", err, p.Conns())
			}
		})
	}
}

// exchange sends data and returns what comes back until the end.
func exchange(c net.Conn, data []byte) ([]byte, error) {
	go func() {
		c.Write(data)
		c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	return io.ReadAll(c)
}

func TestProxy(t *testing.T) {
	data := pattern(3 << 20)
	proxies(t, faultnet.Plan{}, func(t *testing.T, p *faultnet.Proxy, dial func() net.Conn) {
		for range 3 {
			if got, err := exchange(dial(), data); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
		}
		if s := p.Stats(); s.Conns != 3 || s.BytesRead != 3*3<<20 || s.BytesWritten != 3*3<<20 {
			t.Errorf("%+v", s)
		}
		c := dial()
		c.Write([]byte("x"))
		io.ReadFull(c, make([]byte, 1)) // it is through
		p.CutAll(false)
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after CutAll: %d, %v", n, err)
		}
		c = dial()
		c.Write([]byte("x"))
		io.ReadFull(c, make([]byte, 1))
		p.Set(faultnet.Plan{Read: faultnet.Faults{CorruptAt: []int64{2}}, Write: faultnet.Faults{CutAfter: 5}})
		got, err := exchange(c, []byte("yyyyyyyyyyy"))
		if len(got) != 4 || got[1] == 'y' || got[0] != 'y' {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestProxyPause(t *testing.T) {
	proxies(t, faultnet.Plan{}, func(t *testing.T, p *faultnet.Proxy, dial func() net.Conn) {
		c := dial()
		p.Pause()
		p.Pause()
		c.Write([]byte("hello"))
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("while paused: %d, %v", n, err)
		}
		c.SetReadDeadline(time.Time{})
		p.Resume()
		p.Resume()
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
			t.Errorf("%q, %v", b, err)
		}
		p.BlackHole(true)
		c.Write([]byte("lost"))
		for p.Stats().Dropped != 4 {
			runtime.Gosched()
		}
		p.BlackHole(false)
		c.Write([]byte("lost too"))
		for p.Stats().Dropped != 12 {
			runtime.Gosched()
		}
		fresh := dial()
		if got, err := exchange(fresh, []byte("fine")); err != nil || string(got) != "fine" {
			t.Errorf("a new connection: %q, %v", got, err)
		}
		p.Pause()
		dial()
	})
}

// Bytes that a slow link delays still flow: many are on their way at once.
func TestProxyLatency(t *testing.T) {
	data := pattern(1 << 20)
	plan := faultnet.Plan{
		Read:  faultnet.Faults{Latency: 5 * time.Millisecond, Jitter: time.Millisecond},
		Write: faultnet.Faults{Bandwidth: 500 << 20, Short: 5000},
	}
	proxies(t, plan, func(t *testing.T, p *faultnet.Proxy, dial func() net.Conn) {
		if got, err := exchange(dial(), data); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if p.Stats().Delayed == 0 {
			t.Error("nothing was delayed")
		}
	})
}

func TestProxyReset(t *testing.T) {
	addr := echo(t, "tcp", "127.0.0.1:0")
	p, err := faultnet.NewProxy("tcp://127.0.0.1:0", addr, faultnet.Plan{Read: faultnet.Faults{CutCall: 1, Reset: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp", p.Addr()[len("tcp://"):])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

func TestProxyWithoutTarget(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p, err := faultnet.NewProxy("127.0.0.1:0", l.Addr().String(), faultnet.Plan{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("somebody answers")
	}
	for _, addrs := range [][2]string{{"quic://x:1", "x:1"}, {"127.0.0.1:0", "udp://x:1"}, {"256.0.0.1:x", "127.0.0.1:1"}} {
		if p, err := faultnet.NewProxy(addrs[0], addrs[1], faultnet.Plan{}); err == nil {
			t.Errorf("%v", addrs)
			p.Close()
		}
	}
}

func ExampleNewProxy() {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer server.Close()
	go func() {
		c, err := server.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte("a long answer"))
	}()
	proxy, err := faultnet.NewProxy("127.0.0.1:0", server.Addr().String(), faultnet.Plan{Write: faultnet.Faults{CutAfter: 6}})
	if err != nil {
		panic(err)
	}
	defer proxy.Close()
	c, err := net.Dial("tcp", proxy.Addr())
	if err != nil {
		panic(err)
	}
	defer c.Close()
	got, _ := io.ReadAll(c)
	fmt.Printf("%q, %d cut\n", got, proxy.Stats().Cuts)
	// Output: "a long", 1 cut
}

func ExampleWrap() {
	a, b := net.Pipe()
	defer b.Close()
	c := faultnet.Wrap(a, faultnet.Plan{Write: faultnet.Faults{CorruptAt: []int64{1}}})
	go func() { _, _ = c.Write([]byte("abc")); c.Close() }()
	got, _ := io.ReadAll(b)
	fmt.Println(got[0] == 'a', got[1] == 'b', got[2] == 'c')
	// Output: true false true
}

// What arrives depends on the plan and the bytes alone, not on calls, in a wrapped connection as through a Proxy.
func TestPlanIsAboutBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for range 60 {
		data := pattern(1 + r.IntN(30_000))
		n := int64(len(data))
		var f faultnet.Faults
		keep := n
		if r.IntN(2) == 0 {
			f.CutAfter = 1 + r.Int64N(n)
			keep = f.CutAfter
		} else if r.IntN(2) == 0 {
			f.DropAfter = 1 + r.Int64N(n)
			keep = f.DropAfter
		}
		if r.IntN(2) == 0 {
			f.CorruptRate = 0.01
		}
		f.Short, f.ShortRandom = r.IntN(5000), r.IntN(2) == 0
		plan := faultnet.Plan{Seed: r.Uint64(), Write: f}
		first, _ := received(t, plan, data, len(data))
		if int64(len(first)) != keep || f.CorruptRate == 0 && !bytes.Equal(first, data[:keep]) {
			t.Fatalf("%d bytes of %d with %+v", len(first), n, f)
		}
		if again, _ := received(t, plan, data, 1+r.IntN(len(data))); !bytes.Equal(first, again) {
			t.Fatalf("other bytes in other calls with %+v", f)
		}
		plan.Read = plan.Write
		c, peer := pipe(plan)
		go func() { peer.Write(data); peer.Close() }()
		step := 1 + r.IntN(len(data))
		var got []byte
		for int64(len(got)) < keep {
			b := make([]byte, step)
			m, err := c.Read(b)
			got = append(got, b[:m]...)
			if err != nil {
				break
			}
		}
		c.Close()
		peer.Close()
		if int64(len(got)) != keep || f.CorruptRate == 0 && !bytes.Equal(got, data[:keep]) {
			t.Fatalf("read %d bytes of %d with %+v", len(got), n, f)
		}
	}
}
