package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/faultnet"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// faulty makes connections over pipes, or TCP, whose client ends get the plan that plan says for the n-th stream of all Paths.
type faulty struct {
	dial    func(int) (net.Conn, net.Conn, error)
	streams atomic.Int64
	plan    func(n int) faultnet.Plan
}

func (f *faulty) open(int) (net.Conn, net.Conn, error) {
	a, b, err := f.dial(0)
	if err != nil {
		return nil, nil, err
	}
	return faultnet.Wrap(a, f.plan(int(f.streams.Add(1)))), b, nil
}

// TestCutStreams cuts each of the first streams after some bytes, at the edges of frames and within them.
func TestCutStreams(t *testing.T) {
	leaks(t)
	data := payload(3<<20+11, 1)
	handshake := int64(native.HeaderSize + 60)
	for _, at := range []int64{1, native.HeaderSize - 1, native.HeaderSize, handshake, handshake + 1, handshake + native.HeaderSize, 1 << 10, 64 << 10, firstSegment,
		firstSegment + 300, 300_000, 1 << 20} {
		for _, reset := range []bool{at%2 == 0} {
			f := &faulty{dial: overTCP, plan: func(n int) (p faultnet.Plan) {
				if n > 2 && n < 7 { // the first few must do, or the Path would be of no use; the next fail both ways
					p.Read.CutAfter, p.Write.CutAfter = at*int64(n)/4+1, at*int64(n)/3+1
					p.Read.Reset = reset
				}
				return p
			}}
			p := newPair(t, pairOptions{dial: f.open})
			ctx := testContext(t)
			for i := range 3 {
				key := fmt.Sprint("k", i)
				p.mustPut(ctx, key, data)
				got, err := p.read(ctx, key, 0, -1)
				if err != nil {
					t.Fatalf("cut at %d: %v", at, err)
				}
				same(t, fmt.Sprint("cut at ", at), got, data)
				p.mustPut(ctx, key, data[:100])
			}
			p.close()
		}
	}
}

// TestCutPath cuts the whole Path when so many bytes of an object have come or gone.
func TestCutPath(t *testing.T) {
	leaks(t)
	const size = 12 << 20 // more than firstWindow, or all may be here before the cut
	data := payload(size, 2)
	for at := range 12 {
		p := newPair(t, pairOptions{})
		ctx := testContext(t)
		cutAt := at*size/12 + at*1000
		// a put whose source cuts the path, once there is one, which is of use for the rest
		src := &hookReader{r: bytes.NewReader(data), at: cutAt, hook: func() {
			for at > 0 && p.link.Stats().Paths == 0 {
				time.Sleep(time.Millisecond)
			}
			p.cut()
		}}
		if err := p.link.Put(ctx, "k", size, src); err != nil {
			t.Fatalf("put, cut at %d: %v", cutAt, err)
		}
		r, err := p.link.Get(ctx, "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(&hookReader{r: r, at: cutAt, hook: p.cut})
		if err != nil {
			t.Fatalf("get, cut at %d: %v", cutAt, err)
		}
		same(t, "get", got, data)
		r.Close()
		if st := p.link.Stats(); at > 0 && st.Paths < 2 {
			t.Fatalf("%+v", st)
		}
		p.close()
	}
}

// hookReader calls hook once it has given at bytes.
type hookReader struct {
	r    io.Reader
	at   int
	hook func()
}

func (h *hookReader) Read(p []byte) (int, error) {
	if h.at > 0 && len(p) > h.at {
		p = p[:h.at]
	}
	n, err := h.r.Read(p)
	if h.at -= n; h.at <= 0 && h.hook != nil {
		h.hook()
		h.hook = nil
	}
	return n, err
}

// TestDamage flips bits under sums: nothing wrong may ever be read or stored.
func TestDamage(t *testing.T) {
	leaks(t)
	f := &faulty{dial: overTCP, plan: func(n int) (p faultnet.Plan) {
		p.Seed = uint64(n)
		if n > 1 && n < 60 {
			p.Read.CorruptRate, p.Write.CorruptRate = 1e-6, 1e-6
		}
		return p
	}}
	p := newPair(t, pairOptions{dial: f.open, link: Options{Untrusted: true}, server: ServerOptions{Untrusted: true}})
	ctx := testContext(t)
	data := payload(6<<20, 3)
	for i := range 6 {
		key := fmt.Sprint("k", i)
		if err := p.link.Put(ctx, key, int64(len(data)), bytes.NewReader(data)); err != nil {
			if !errors.Is(err, transport.ErrCorrupt) && !errors.Is(err, transport.ErrUnavailable) {
				t.Fatal(err)
			}
			continue
		}
		b, err := p.store.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "stored", b.Bytes(), data)
		b.Release()
		got, err := p.read(ctx, key, 0, -1)
		if err != nil && !errors.Is(err, transport.ErrCorrupt) && !errors.Is(err, transport.ErrUnavailable) {
			t.Fatal(err)
		}
		same(t, "read", got, data[:len(got)])
	}
}

func TestReplacedWhileRead(t *testing.T) {
	leaks(t)
	p := newPair(t, pairOptions{link: Options{Window: 2 << 20}})
	ctx := testContext(t)
	for _, n := range []int{20 << 20, 1 << 20} {
		p.mustPut(ctx, "k", payload(20<<20, 1))
		r, err := p.link.Get(ctx, "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		p.mustPut(ctx, "k", payload(n, 2))
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, transport.ErrCorrupt) {
			t.Fatalf("replaced by %d bytes: %v", n, err)
		}
		r.Close()
	}
	p.mustPut(ctx, "k", payload(20<<20, 1))
	r, err := p.link.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := p.link.Evict(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, transport.ErrNotFound) {
		t.Fatal(err)
	}
}

// TestRestart puts through a server that restarts in the middle.
func TestRestart(t *testing.T) {
	leaks(t)
	p := newPair(t, pairOptions{})
	ctx := testContext(t)
	data := payload(40<<20, 1)
	err := p.link.Put(ctx, "k", int64(len(data)), &hookReader{r: bytes.NewReader(data), at: 35 << 20, hook: p.restart})
	if !errors.Is(err, transport.ErrUnavailable) {
		t.Fatal(err)
	}
	t.Log(err)
	if ok, err := p.link.Exists(ctx, "k"); ok || err != nil {
		t.Fatal(ok, err)
	}
	p.restart()
	p.mustPut(ctx, "k", data[:100])
	p.mustPut(ctx, "k", data)
	r, err := p.link.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(&hookReader{r: r, at: 20 << 20, hook: p.restart}) // the store has survived
	if err != nil {
		t.Fatal(err)
	}
	same(t, "get", got, data)
}

func TestNoPath(t *testing.T) {
	leaks(t)
	p := newPair(t, pairOptions{})
	ctx := testContext(t)
	p.mustPut(ctx, "k", payload(20<<20, 1))
	r, err := p.link.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	bad := fmt.Errorf("%w: the peer is not registered at the relay; start it", transport.ErrUnavailable)
	p.mu.Lock()
	p.refuse = bad
	p.mu.Unlock()
	p.cut()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, bad) {
		t.Fatal(err)
	}
	for _, err := range []error{p.link.Evict(ctx, "k"), p.link.Put(ctx, "k", -1, bytes.NewReader(payload(5<<20, 1))), second(p.link.Get(ctx, "k", 0, -1))} {
		if !errors.Is(err, bad) {
			t.Fatal(err)
		}
	}
	if st := p.link.Stats(); st.Connected || !errors.Is(st.Err, bad) {
		t.Fatalf("%+v", st)
	}
	p.mu.Lock()
	p.refuse = nil
	p.mu.Unlock()
	if got, err := p.copyOut(ctx, "k", 0, -1); err != nil || len(got) != 20<<20 {
		t.Fatal(len(got), err)
	}
}

// TestGivenUp gives puts up while there is a Path and while there is none: in the end the peer keeps nothing of them.
func TestGivenUp(t *testing.T) {
	leaks(t)
	p := newPair(t, pairOptions{})
	data := payload(20<<20, 1)
	away := fmt.Errorf("%w: the peer is away", transport.ErrUnavailable)
	for _, cut := range []bool{false, true} {
		ctx, cancel := context.WithCancel(testContext(t))
		err := p.link.Put(ctx, "k", int64(len(data)), &hookReader{r: bytes.NewReader(data), at: 10 << 20, hook: func() {
			for p.uploads() == 0 {
				time.Sleep(time.Millisecond)
			}
			if cut {
				p.mu.Lock()
				p.refuse = away
				p.mu.Unlock()
				p.cut()
			}
			cancel()
		}})
		if err == nil {
			t.Fatal("a put that was given up")
		}
		if cut && p.uploads() != 1 {
			t.Error("the server does not wait for the upload to go on")
		}
		p.mu.Lock()
		p.refuse = nil
		p.mu.Unlock()
		if err := p.link.Evict(testContext(t), "k"); err != nil { // whatever is asked next
			t.Fatal(err)
		}
		for start := time.Now(); p.uploads() != 0; time.Sleep(time.Millisecond) {
			if time.Since(start) > 20*time.Second {
				t.Fatalf("cut %v: %d uploads are left", cut, p.uploads())
			}
		}
	}
}

// TestRestartedAsker: what the client's process had under way goes when the next one comes.
func TestRestartedAsker(t *testing.T) {
	leaks(t)
	p := newPair(t, pairOptions{})
	p.instance = "1"
	ctx := testContext(t)
	data := payload(20<<20, 1)
	err := p.link.Put(ctx, "k", int64(len(data)), &hookReader{r: bytes.NewReader(data), at: 10 << 20, hook: func() {
		for p.uploads() == 0 {
			time.Sleep(time.Millisecond)
		}
		p.cut()
		if n := p.uploads(); n != 1 {
			t.Errorf("%d uploads after a cut", n)
		}
		for _, instance := range []string{"2", "1"} { // the latter may still come, too late
			p.mu.Lock()
			p.instance = instance
			p.mu.Unlock()
			next := New(p.source, Options{})
			if found, err := next.Exists(ctx, "k"); found || err != nil {
				t.Errorf("half an object: %v, %v", found, err)
			}
			next.Close()
		}
		if n := p.uploads(); n != 0 {
			t.Errorf("%d uploads after a restart", n)
		}
	}})
	if !errors.Is(err, transport.ErrUnavailable) || !strings.Contains(err.Error(), "is it running twice?") {
		t.Error(err)
	}
}

// TestImpatient is about callers that leave while the Source is still looking for a Path: it may stop, and others are not told that.
func TestImpatient(t *testing.T) {
	leaks(t)
	asked := make(chan context.Context, 10)
	let := make(chan struct{})
	p := newPair(t, pairOptions{})
	l := New(func(ctx context.Context) (path.Path, error) {
		asked <- ctx
		select {
		case <-let:
			return p.source(ctx)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, Options{})
	defer l.Close()
	ctx := testContext(t)
	hurried, leave := context.WithCancel(ctx)
	first := make(chan error)
	go func() { first <- l.Evict(hurried, "k") }()
	dial := <-asked
	l.mu.Lock()
	l.tell() // anything that wakes who waits does not end the search
	l.mu.Unlock()
	time.Sleep(10 * time.Millisecond)
	if dial.Err() != nil {
		t.Fatal("the search was given up")
	}
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	<-dial.Done()
	close(let)
	if err := l.Evict(ctx, "k"); err != nil {
		t.Fatal(err)
	}
}

// TestBarren is about Paths on which no session can be opened.
func TestBarren(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pairOptions{dial: func(int) (net.Conn, net.Conn, error) {
			a, b := net.Pipe()
			b.Close()
			return a, b, nil
		}})
		ctx := testContext(t)
		if err := p.link.Evict(ctx, "k"); !errors.Is(err, transport.ErrUnavailable) {
			t.Fatal(err)
		}
		if err := p.link.Put(ctx, "k", -1, bytes.NewReader(payload(5<<20, 1))); !errors.Is(err, transport.ErrUnavailable) {
			t.Fatal(err)
		}
		if p.asked < maxBarren || p.asked > 3*maxBarren {
			t.Fatal(p.asked)
		}
	})
}

// TestSilence is about a Path that no longer answers, without an end.
func TestSilence(t *testing.T) {
	leaks(t)
	var dropping atomic.Bool
	var mu sync.Mutex
	var conns []*faultnet.Conn
	p := newPair(t, pairOptions{link: Options{Quiet: 100 * time.Millisecond}, dial: func(int) (net.Conn, net.Conn, error) {
		a, b, err := overTCP(0)
		if err != nil {
			return nil, nil, err
		}
		c := faultnet.Wrap(a, faultnet.Plan{})
		mu.Lock()
		defer mu.Unlock()
		if dropping.Load() {
			conns = append(conns, c)
		}
		return c, b, nil
	}})
	dropping.Store(true)
	ctx := testContext(t)
	data := payload(30<<20, 1)
	p.mustPut(ctx, "k", data)
	dropping.Store(false) // later streams work
	r, err := p.link.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(&hookReader{r: r, at: 5 << 20, hook: func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Set(faultnet.Plan{Read: faultnet.Faults{Drop: true}, Write: faultnet.Faults{Drop: true}})
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "get", got, data)
	if st := p.link.Stats(); st.Paths < 2 || !errors.Is(st.Err, transport.ErrUnavailable) {
		t.Fatalf("%+v", st)
	}
	// A wait is silent for as long as it takes, and the Path lives.
	paths := p.link.Stats().Paths
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if err := p.link.Wait(short, "never"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if st := p.link.Stats(); st.Paths != paths {
		t.Fatalf("%+v", st)
	}
}

// TestUpgrade moves to another Path in the middle of transfers.
func TestUpgrade(t *testing.T) {
	leaks(t)
	p := newPair(t, pairOptions{link: Options{Window: 2 << 20}})
	ctx := testContext(t)
	data := payload(40<<20, 1)
	var second *fakePath
	upgrade := func() {
		p.mu.Lock()
		second = p.newPath()
		p.mu.Unlock()
		second.kind = "better"
		p.link.Upgrade(second)
		p.link.Upgrade(second)
	}
	if err := p.link.Put(ctx, "k", int64(len(data)), &hookReader{r: bytes.NewReader(data), at: 10 << 20, hook: upgrade}); err != nil {
		t.Fatal(err)
	}
	first := p.paths[0]
	deadline := time.Now().Add(10 * time.Second)
	for p.link.Stats().Path.Kind != "better" && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if st := p.link.Stats(); st.Path.Kind != "better" || st.Retries > 2 {
		t.Fatalf("%+v", st)
	}
	if first.Err() != nil {
		t.Fatal("the old path was closed")
	}
	r, err := p.link.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(&hookReader{r: r, at: 10 << 20, hook: upgrade})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "get", got, data)
	// one that does not work changes nothing
	dead, _ := newPaths(overPipe)
	dead.Close()
	p.link.Upgrade(dead)
	if err := p.link.Evict(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if st := p.link.Stats(); st.Path.Kind != "better" {
		t.Fatalf("%+v", st)
	}
}

// TestModel does random things while streams and paths break, and compares with a map.
func TestModel(t *testing.T) {
	leaks(t)
	for seed := range uint64(4) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		dial := overTCP
		if seed%2 == 1 {
			dial = overPipe
		}
		p := newPair(t, pairOptions{dial: dial, link: Options{Lanes: 1 + int(seed)}})
		ctx := testContext(t)
		stop := make(chan struct{})
		var cutter sync.WaitGroup
		cutter.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 8))
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(5+rnd.IntN(60)) * time.Millisecond):
				}
				if rnd.IntN(3) == 0 {
					p.cut()
					continue
				}
				p.mu.Lock()
				if len(p.paths) > 0 {
					p.paths[len(p.paths)-1].cutStreams()
				}
				p.mu.Unlock()
			}
		})
		model := map[string][]byte{}
		for range 60 {
			key := fmt.Sprint("k", rnd.IntN(4))
			want, there := model[key]
			switch rnd.IntN(5) {
			case 0, 1:
				n := []int{rnd.IntN(1000), rnd.IntN(1 << 20), rnd.IntN(6 << 20)}[rnd.IntN(3)]
				data := payload(n, rnd.Uint64())
				size := int64(n)
				if rnd.IntN(2) == 0 {
					size = -1
				}
				if err := p.link.Put(ctx, key, size, bytes.NewReader(data)); err != nil {
					t.Fatalf("seed %d: put: %v", seed, err)
				}
				model[key] = data
			case 2:
				if err := p.link.Evict(ctx, key); err != nil {
					t.Fatalf("seed %d: evict: %v", seed, err)
				}
				delete(model, key)
			case 3:
				got, err := p.copyOut(ctx, key, 0, -1)
				if there != (err == nil) || !there && !errors.Is(err, transport.ErrNotFound) {
					t.Fatalf("seed %d: get: %v, there: %v", seed, err, there)
				}
				same(t, "get", got, want)
			case 4:
				if !there {
					continue
				}
				off, n := int64(rnd.IntN(len(want)+1)), int64(rnd.IntN(2<<20))
				got, err := p.read(ctx, key, off, n)
				if err != nil {
					t.Fatalf("seed %d: range: %v", seed, err)
				}
				same(t, "range", got, want[off:min(off+n, int64(len(want)))])
			}
		}
		close(stop)
		cutter.Wait()
		p.close()
	}
}

// TestThousand moves that many objects at once, some long.
func TestThousand(t *testing.T) {
	leaks(t)
	p := newPair(t, pairOptions{})
	ctx := testContext(t)
	big := payload(1<<20+5, 1)
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			data := big[:1+i*7]
			if i%10 == 0 {
				data = big[i:]
			}
			key := fmt.Sprint("k", i)
			if err := p.link.Put(ctx, key, int64(len(data)), bytes.NewReader(data)); err != nil {
				t.Errorf("put %d: %v", i, err)
				return
			}
			got, err := p.copyOut(ctx, key, 0, -1)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("get %d: %d bytes of %d, %v", i, len(got), len(data), err)
			}
		})
	}
	wg.Wait()
	if st := p.link.Stats(); st.Retries > 100 {
		t.Errorf("%+v", st)
	}
}

// TestSlowReader is about a reader that takes nothing for a while: memory stays bounded, and others go on.
func TestSlowReader(t *testing.T) {
	leaks(t)
	p := newPair(t, pairOptions{})
	ctx := testContext(t)
	data := payload(64<<20, 1)
	p.mustPut(ctx, "k", data)
	r, err := p.link.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	time.Sleep(100 * time.Millisecond)
	if got, err := p.copyOut(ctx, "k", 0, -1); err != nil || len(got) != len(data) {
		t.Fatal(len(got), err)
	}
	if in := p.link.Stats().BytesIn; in > int64(len(data))+firstWindow+(1<<20) {
		t.Fatalf("%d bytes came for a reader that takes none", in-int64(len(data)))
	}
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "slow", got, data)
}

// timeless is a Store that cannot tell versions apart.
type timeless struct{ objects.Store }

func (s timeless) Stat(id string) (objects.Info, error) {
	info, err := s.Store.Stat(id)
	info.ModTime = time.Time{}
	return info, err
}

func TestTimeless(t *testing.T) {
	leaks(t)
	table, err := objects.NewTable(objects.TableOptions{Memory: 1 << 28, IdleMemory: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	p := newPair(t, pairOptions{store: timeless{table}})
	ctx := testContext(t)
	data := payload(20<<20, 1)
	p.mustPut(ctx, "k", data)
	got, err := p.read(ctx, "k", 5, -1)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "one stream", got, data[5:])
}

var _ path.Path = (*fakePath)(nil)
