package link

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/faultnet"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// TestGuess reads objects whose lengths are other than the ones before made likely.
func TestGuess(t *testing.T) {
	leaks(t)
	p := newPair(t, pairOptions{})
	ctx := testContext(t)
	sizes := []int{0, 1, shortPiece, shortPiece + 1, minSegment, firstSegment, firstSegment + shortPiece, maxGuess, maxGuess + 1, 3 << 20}
	data := payload(3<<20, 1)
	for _, n := range sizes {
		p.mustPut(ctx, fmt.Sprint(n), data[:n])
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		if i%10 == 0 {
			if _, err := p.link.Get(ctx, "none", 0, -1); !errors.Is(err, transport.ErrNotFound) {
				t.Fatal(err)
			}
		}
		n := sizes[rng.IntN(len(sizes))]
		off, count := 0, -1
		if i%3 > 0 {
			off = rng.IntN(n + 1)
		}
		if i%3 > 1 {
			count = rng.IntN(2 << 20)
		}
		end := n
		if count >= 0 {
			end = min(n, off+count)
		}
		got, err := p.read(ctx, fmt.Sprint(n), int64(off), int64(count))
		if err != nil {
			t.Fatalf("%d bytes from %d of %d: %v", count, off, n, err)
		}
		same(t, fmt.Sprintf("%d bytes from %d of %d", count, off, n), got, data[off:end])
		if i%7 == 0 { // who closes early leaves nothing behind
			r, err := p.link.Get(ctx, fmt.Sprint(3<<20), 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
		}
	}
	if st := p.link.Stats(); st.Retries != 0 || st.Transfers != 0 {
		t.Fatalf("%+v", st)
	}
}

// TestOneRoundTrip shows that what follows the first piece is asked for before that has come.
func TestOneRoundTrip(t *testing.T) {
	leaks(t)
	table, err := objects.NewTable(objects.TableOptions{Memory: 64 << 20, IdleMemory: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	ctx := testContext(t)
	s := &together{Store: table, both: make(chan struct{}), late: ctx.Done()}
	p := newPair(t, pairOptions{store: s})
	p.mustPut(ctx, "k", payload(firstSegment+1, 1)) // lanes for gets open on the way
	for !p.ready(get) {
		if _, err := p.link.Ping(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s.on.Store(true)
	got, err := p.read(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "k", got, payload(firstSegment+1, 1))
}

// TestShare: on a long wire all lanes carry a part of one object, however short; on a short one it is one request.
func TestShare(t *testing.T) {
	leaks(t)
	for _, latency := range []time.Duration{0, 2 * longTrip} {
		f := &faulty{dial: overTCP, plan: func(int) (p faultnet.Plan) {
			p.Read.Latency = latency
			return p
		}}
		p := newPair(t, pairOptions{dial: f.open})
		l, ctx, data := p.link, testContext(t), payload(100_000, 1)
		for l.Stats().Lanes < 2*DefaultLanes+1 { // all for bulk, one for small requests
			if _, err := l.Ping(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 { // the last time it is known how long it is likely to be
			p.mustPut(ctx, "k", data)
			got, err := p.copyOut(ctx, "k", 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "k", got, data)
		}
		l.mu.Lock()
		for dir, want := range [...]int{get: 3, put: 4} { // a get's first piece goes over a lane for small requests
			used := 0
			for _, ln := range l.wire.lanes[dir] {
				if ln.flow.delivered > 0 {
					used++
				}
			}
			if latency > 0 && used < want || dir == put && latency == 0 && used > 0 {
				t.Errorf("latency %v, direction %d: %d lanes were used", latency, dir, used)
			}
		}
		if n := l.wire.share(put, 100_000); latency > 0 && n != minShare {
			t.Error(n)
		}
		for range 2 * DefaultLanes {
			l.transfers[&transfer{}] = struct{}{}
		}
		if n := l.wire.share(put, 100_000); n != MaxSegment {
			t.Errorf("pieces of %d bytes where many objects are on their way", n)
		}
		clear(l.transfers)
		l.mu.Unlock()
		p.close()
	}
}

// ready reports whether a lane of that group is open.
func (p *pair) ready(group int) bool {
	p.link.mu.Lock()
	defer p.link.mu.Unlock()
	return p.link.wire != nil && p.link.wire.roomy(group) != nil && p.link.wire.lanes[group][0].c != nil
}

// together is a Store that answers the first request only when a second is there.
type together struct {
	objects.Store
	on    atomic.Bool
	asked atomic.Int64
	both  chan struct{}
	late  <-chan struct{} // nobody else asks
}

func (s *together) Stat(key string) (objects.Info, error) {
	if s.on.Load() {
		if s.asked.Add(1) == 2 {
			close(s.both)
		}
		select {
		case <-s.both:
		case <-s.late:
			return objects.Info{}, transport.ErrNotFound
		}
	}
	return s.Store.Stat(key)
}

// TestUploadMemory sends segments that are never complete, as many peers and in the shortest pieces: what they take is bounded all the same.
func TestUploadMemory(t *testing.T) {
	leaks(t)
	var total atomic.Int64
	o := ServerOptions{Memory: 20 << 20, TotalMemory: 30 << 20}.withDefaults()
	table, err := objects.NewTable(objects.TableOptions{Memory: 64 << 20, IdleMemory: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	for range 3 { // peers
		us := newUploads(table, &o, &total)
		defer us.close()
		id := segmentID{upload: uuid.New(), size: -1, key: "k"}
		for id.off = 1; ; id.off += 2 {
			err := send(us, id, []byte{1})
			var remote *native.RemoteError
			if errors.As(err, &remote) && remote.Status == native.StatusBusy {
				break
			}
			if err != nil || id.off > 100_000 {
				t.Fatal(id.off, err)
			}
		}
	}
	if n := total.Load(); n > o.TotalMemory*3/4 || n < o.TotalMemory/2 {
		t.Errorf("%d bytes are held", n)
	}
	// There is room for what is in order, whole objects and what was there already.
	us := newUploads(table, &o, &total)
	whole := segmentID{upload: uuid.New(), size: 1000, key: "whole"}
	for range 2 {
		if err := send(us, whole, make([]byte, 1000)); err != nil {
			t.Error(err)
		}
	}
	us.close()
	if n := us.bytes.Load(); n != 0 {
		t.Errorf("%d bytes", n)
	}
}
