package p2p

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// wire is a Channel in memory. Messages leave in the order of shuffle, if there is one.
type wire struct {
	label   string
	out, in chan []byte
	shuffle bool
	held    [][]byte
	close   func()
	closed  <-chan struct{}
}

// wires returns n channels and their other ends.
func wires(n int, shuffle bool) (a, b []Channel) {
	closed := make(chan struct{})
	var once sync.Once
	end := func() { once.Do(func() { close(closed) }) }
	for i := range n {
		there, back := make(chan []byte, 16), make(chan []byte, 16)
		label := fmt.Sprintf("p2p-%d-%d", i, n)
		a = append(a, &wire{label: label, out: there, in: back, shuffle: shuffle, close: end, closed: closed})
		b = append(b, &wire{label: label, out: back, in: there, shuffle: shuffle, close: end, closed: closed})
	}
	return a, b
}

func (w *wire) Label() string { return w.label }

func (w *wire) WriteSlices(parts ...[]byte) error {
	msg := bytes.Join(parts, nil)
	select {
	case <-w.closed:
		return io.ErrClosedPipe
	case w.out <- msg:
		return nil
	}
}

func (w *wire) Read(p []byte) (int, error) {
	for len(w.held) < 8 && w.shuffle {
		select {
		case m := <-w.in:
			w.held = append(w.held, m)
			continue
		case <-time.After(time.Millisecond):
		}
		break
	}
	if len(w.held) > 0 {
		i := rand.IntN(len(w.held))
		m := w.held[i]
		w.held = append(w.held[:i], w.held[i+1:]...)
		return copy(p, m), nil
	}
	var m []byte
	select {
	case m = <-w.in:
	case <-w.closed:
		select {
		case m = <-w.in: // what was sent before the end
		default:
			return 0, io.EOF
		}
	}
	if len(m) > len(p) {
		return 0, io.ErrShortBuffer
	}
	return copy(p, m), nil
}

func (w *wire) Close() error {
	w.close()
	return nil
}

func table(t testing.TB) *objects.Table {
	t.Helper()
	s, err := objects.NewTable(objects.TableOptions{Memory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// noLeaks checks at the end of the test that its goroutines and pooled buffers are gone.
func noLeaks(t *testing.T, pool *transport.Pool) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for i := 0; runtime.NumGoroutine() > before || pool.Stats().Held > 0; i++ {
			if i == 500 {
				buf := make([]byte, 1<<16)
				t.Fatalf("%d goroutines, %d before; %d buffers held\n%s", runtime.NumGoroutine(), before, pool.Stats().Held, buf[:runtime.Stack(buf, true)])
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

func pair(t *testing.T, n int, shuffle bool, o Options) (a, b *Session) {
	t.Helper()
	o.Pool = transport.NewPool(0)
	noLeaks(t, o.Pool)
	ca, cb := wires(n, shuffle)
	a, b = New(ca, table(t), o), New(cb, table(t), o)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestRoundTrips(t *testing.T) {
	for _, c := range []struct {
		channels int
		shuffle  bool
	}{{1, false}, {1, true}, {4, true}, {7, true}} {
		t.Run(fmt.Sprint(c.channels, c.shuffle), func(t *testing.T) {
			a, b := pair(t, c.channels, c.shuffle, Options{})
			ctx := t.Context()
			var wg sync.WaitGroup
			for i, n := range []int{0, 1, 255, 256, 4096, chunkSize - 1, chunkSize, chunkSize + 1, 65_537, 1 << 20, 3<<20 + 17} {
				wg.Go(func() {
					s := a
					if i%2 == 1 {
						s = b
					}
					key := fmt.Sprint("key", n)
					data := make([]byte, n)
					for i := range data {
						data[i] = byte(i * 7)
					}
					if _, err := s.Get(ctx, key); !errors.Is(err, transport.ErrNotFound) {
						t.Errorf("missing: %v", err)
					}
					if err := s.Set(ctx, key, transport.Slices{data[:n/3], data[n/3:]}); err != nil {
						t.Errorf("%d bytes: %v", n, err)
						return
					}
					if ok, err := s.Exists(ctx, key); !ok || err != nil {
						t.Errorf("exists: %v %v", ok, err)
					}
					got, err := s.Get(ctx, key)
					if err != nil {
						t.Errorf("%d bytes: %v", n, err)
						return
					}
					if !bytes.Equal(got.Bytes(), data) {
						t.Errorf("%d bytes came back as %d others", n, got.Len())
					}
					got.Release()
					if err := s.Evict(ctx, key); err != nil {
						t.Error(err)
					}
					if ok, err := s.Exists(ctx, key); ok || err != nil {
						t.Errorf("exists after evict: %v %v", ok, err)
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestLimits(t *testing.T) {
	a, b := pair(t, 2, true, Options{MaxObject: 1 << 20})
	big := make([]byte, 1<<20+1)
	if err := a.Set(t.Context(), "k", transport.Slices{big}); !errors.Is(err, transport.ErrTooLarge) {
		t.Fatal(err)
	}
	// A peer that does not know our limit hears why, and nothing of it is kept.
	a.o.MaxObject = 1 << 40
	for _, n := range []int{1<<20 + 1, 5 << 20, 5<<20 + chunkSize/2} {
		err := a.Set(t.Context(), "k", transport.Slices{make([]byte, n)})
		if !errors.Is(err, transport.ErrTooLarge) || !strings.Contains(err.Error(), "ObjectSizeExceededError") {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if b.in.used != 0 || len(b.in.streams) != 0 {
		t.Fatalf("%d bytes of %d messages are kept", b.in.used, len(b.in.streams))
	}
	// So does who asks for what is too large for himself.
	if err := b.store.Put("big", transport.FromBytes(make([]byte, 3<<20)), objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Get(t.Context(), "big"); !errors.Is(err, transport.ErrTooLarge) {
		t.Fatal(err)
	}
	for _, key := range []string{"", strings.Repeat("k", objects.MaxID+1), "\xff"} {
		if err := a.Evict(t.Context(), key); !errors.Is(err, transport.ErrInvalidKey) {
			t.Fatalf("key %.10q: %v", key, err)
		}
	}
	if err := a.Set(t.Context(), "k", transport.Slices{make([]byte, 1<<20)}); err != nil { // goes on as before
		t.Fatal(err)
	}
}

func TestBudget(t *testing.T) {
	a, b := pair(t, 1, false, Options{MaxObject: 8 << 20, Budget: 2 << 20})
	if err := a.Set(t.Context(), "k", transport.Slices{make([]byte, 4<<20)}); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Fatal(err)
	}
	if b.in.used != 0 || b.in.kept != 0 {
		t.Fatal(b.in.used, b.in.kept)
	}
	if err := a.Set(t.Context(), "k", transport.Slices{make([]byte, 1<<20)}); err != nil {
		t.Fatal(err)
	}
}

// TestSlowStore: a peer that sends objects faster than they are stored is held up, and all of them arrive in the end.
func TestSlowStore(t *testing.T) {
	const budget, size, n = 1 << 20, 256 << 10, 64
	pool := transport.NewPool(0)
	noLeaks(t, pool)
	ca, cb := wires(1, false)
	a := New(ca, table(t), Options{})
	defer a.Close()
	gate := make(chan struct{})
	b := New(cb, &gatedStore{table(t), gate}, Options{Pool: pool, Budget: budget, MaxObject: size})
	defer b.Close()
	sent := make(chan error, 1)
	go func() { // one after the other, without waiting for answers
		for i := range n {
			msg, err := (&request{kind: kindRequest, op: opSet, id: fmt.Sprint(i), key: fmt.Sprint(i)}).encode(make([]byte, size), true)
			if err == nil {
				err = a.send(t.Context(), msg)
			}
			if err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for b.Stats().Served < 4 { // of requests: fewer would fit
		time.Sleep(time.Millisecond)
	}
	for last := int64(-1); last != b.Stats().BytesIn; time.Sleep(20 * time.Millisecond) { // until it reads no more
		last = b.Stats().BytesIn
	}
	if in := b.Stats().BytesIn; in > budget+3*size {
		t.Errorf("%d bytes were read while nothing could be stored", in)
	}
	close(gate)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := b.store.Wait(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	b.Close() // nothing is being served any more
	b.in.Lock()
	defer b.in.Unlock()
	if b.in.used != 0 || b.in.kept != 0 || b.in.served != 0 {
		t.Fatal(b.in.used, b.in.kept, b.in.served)
	}
}

// TestKept: what is left of messages that are not kept is bounded too, however many a peer begins.
func TestKept(t *testing.T) {
	const budget = 1 << 20
	a := newAssembler(transport.NewPool(0), 64<<10, budget)
	defer a.close()
	for stream := range uint32(maxStreams) {
		_, _, err := a.add(header{typeBytes, headerSize + chunkSize, stream, 0, 100}, make([]byte, chunkSize))
		if err != nil {
			if !errors.Is(err, transport.ErrCorrupt) || a.kept > budget+2*chunkSize {
				t.Fatal(err, a.kept)
			}
			return
		}
	}
	t.Fatalf("%d messages were begun, of which %d bytes are kept", maxStreams, a.kept)
}

// TestEnds: whichever end closes, callers hear of it, and later calls too.
func TestEnds(t *testing.T) {
	a, b := pair(t, 2, false, Options{})
	blocked := make(chan struct{})
	b.store = &gatedStore{Store: b.store, gate: blocked}
	failed := make(chan error)
	go func() {
		_, err := a.Get(context.Background(), "k")
		failed <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := a.Get(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	go func() { close(blocked) }()
	b.Close()
	if err := <-failed; !errors.Is(err, transport.ErrUnavailable) && !errors.Is(err, transport.ErrNotFound) {
		t.Fatal(err)
	}
	<-a.Done()
	if _, err := a.Exists(t.Context(), "k"); !errors.Is(err, transport.ErrUnavailable) {
		t.Fatal(err)
	}
	if _, err := b.Exists(t.Context(), "k"); !errors.Is(err, transport.ErrClosed) {
		t.Fatal(err)
	}
	if s := New(nil, b.store, Options{}); s.Err() == nil {
		t.Fatal("a session without channels lives")
	}
}

// failing is a Channel that can be read, but not written.
type failing struct{ Channel }

func (failing) WriteSlices(...[]byte) error { return transport.ErrTooLarge }

// A write that fails leaves half a message at the peer: the Session ends, so that nobody waits for the rest or the answer.
func TestFailedWrite(t *testing.T) {
	a, b := wires(1, false)
	s := New([]Channel{failing{a[0]}}, table(t), Options{})
	defer s.Close()
	defer b[0].Close()
	if err := s.Evict(t.Context(), "k"); !errors.Is(err, transport.ErrUnavailable) || !errors.Is(err, transport.ErrTooLarge) {
		t.Fatal(err)
	}
	<-s.Done()
}

type gatedStore struct {
	objects.Store
	gate <-chan struct{}
}

func (g *gatedStore) Put(id string, b *transport.Buffer, o objects.PutOptions) error {
	<-g.gate
	return g.Store.Put(id, b, o)
}

func (g *gatedStore) Get(id string) (*transport.Buffer, error) {
	<-g.gate
	return g.Store.Get(id)
}

// TestCancelledSet: a message that is given up on the way does not stay with the peer for ever. Python's receiver takes chunks of any length; so does this.
func TestCancelledSet(t *testing.T) {
	ca, cb := wires(1, false)
	a := New(ca, table(t), Options{})
	defer a.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		if err := a.Set(ctx, "k", transport.Slices{make([]byte, 100*chunkSize)}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		cb[0].Close()
	}()
	buf := make([]byte, maxChunk)
	var indexes, long int
	for {
		n, err := cb[0].Read(buf)
		if err != nil {
			break
		}
		if binary.BigEndian.Uint32(buf[10:]) != uint32(indexes) {
			t.Fatal("out of order")
		}
		if n > headerSize+1 {
			long++
		}
		if indexes++; indexes == 10 {
			cancel()
		}
	}
	if indexes != 101 || long > 50 {
		t.Fatalf("%d chunks, of which %d had data", indexes, long)
	}
}

func TestHostile(t *testing.T) {
	good, err := (&request{kind: kindRequest, op: opGet, id: "i", key: "k"}).encode(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	chunk := func(h header, data []byte) []byte {
		if h.dtype == 0 {
			h.dtype = typeBytes
		}
		if h.length == 0 {
			h.length = headerSize + uint32(len(data))
		}
		return append(h.append(nil), data...)
	}
	k := make([]byte, 1<<10)
	for name, c := range map[string]struct {
		chunks [][]byte
		ends   bool // the session
	}{
		"count of 2^32":          {[][]byte{chunk(header{count: 1<<32 - 1}, k)}, true},
		"count of 2^24":          {[][]byte{chunk(header{count: 1 << 24}, k)}, false},
		"index beyond":           {[][]byte{chunk(header{count: 2, index: 2}, k)}, true},
		"count of 0":             {[][]byte{chunk(header{}, k)}, true},
		"far ahead":              {[][]byte{chunk(header{count: 1 << 24, index: 1 << 23}, k)}, true},
		"twice":                  {[][]byte{chunk(header{count: 3}, k), chunk(header{count: 3}, k)}, true},
		"last twice":             {[][]byte{chunk(header{count: 3, index: 2}, k), chunk(header{count: 3, index: 2}, k)}, true},
		"last twice, placed":     {[][]byte{chunk(header{count: 3}, k), chunk(header{count: 3, index: 2}, k), chunk(header{count: 3, index: 2}, k)}, true},
		"other count":            {[][]byte{chunk(header{count: 3}, k), chunk(header{count: 4, index: 1}, k)}, true},
		"other length":           {[][]byte{chunk(header{count: 4}, k), chunk(header{count: 4, index: 1}, make([]byte, 1025))}, true},
		"longer last":            {[][]byte{chunk(header{count: 4}, k), chunk(header{count: 4, index: 3}, make([]byte, 1025))}, true},
		"longer last, first":     {[][]byte{chunk(header{count: 4, index: 3}, make([]byte, 1025)), chunk(header{count: 4}, k)}, true},
		"short chunks":           {[][]byte{chunk(header{count: 4}, k[:10])}, true},
		"no data":                {[][]byte{chunk(header{count: 1}, nil)}, true},
		"length beyond":          {[][]byte{chunk(header{count: 1, length: 5000}, k)}, true},
		"length short":           {[][]byte{chunk(header{count: 1, length: 5}, k)}, true},
		"type":                   {[][]byte{chunk(header{count: 1, dtype: 3}, k)}, true},
		"no header":              {[][]byte{{1, 2, 3}}, true},
		"no pickle":              {[][]byte{chunk(header{count: 1}, k)}, false},
		"code":                   {[][]byte{chunk(header{count: 1}, []byte("PK\ncos\nsystem\n(S'true'\ntR."))}, false},
		"an answer nobody asked": {[][]byte{chunk(header{count: 1}, bytes.Replace(good.Join(), []byte("\x07request"), []byte("\x08response"), 1))}, false},
	} {
		t.Run(name, func(t *testing.T) {
			pool := transport.NewPool(0)
			noLeaks(t, pool)
			ca, cb := wires(1, false)
			s := New(ca, table(t), Options{Pool: pool})
			defer s.Close()
			for _, b := range c.chunks {
				if err := cb[0].WriteSlices(b); err != nil && !c.ends {
					t.Fatal(err)
				}
			}
			if c.ends {
				<-s.Done()
				if !errors.Is(s.Err(), transport.ErrCorrupt) {
					t.Fatal(s.Err())
				}
				return
			}
			if err := cb[0].WriteSlices(chunk(header{count: 1, stream: 9}, good.Join())); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, maxChunk)
			n, err := cb[0].Read(buf) // the answer to the good request
			if err != nil {
				t.Fatal(err)
			}
			r, err := decode(transport.FromBytes(buf[headerSize:n]))
			if err != nil || r.id != "i" || r.kind != kindResponse || r.data != nil {
				t.Fatal(r, err)
			}
			if used := s.in.used; used > firstCapacity+chunkSize {
				t.Fatalf("%d bytes for a message of which nothing came", used)
			}
		})
	}
}

// FuzzChunks gives a Session's assembler any sequence of chunks, which must neither panic nor hold memory that did not come, and compares complete messages.
func FuzzChunks(f *testing.F) {
	f.Add(uint64(1), []byte{})
	f.Add(uint64(2), chunkOf(header{typeBytes, 0, 1, 0, 1}, 100))
	f.Add(uint64(3), append(chunkOf(header{typeBytes, 0, 1, 1, 2}, 50), chunkOf(header{typeBytes, 0, 1, 0, 2}, 1024)...))
	f.Fuzz(func(t *testing.T, seed uint64, raw []byte) {
		pool := transport.NewPool(0)
		a := newAssembler(pool, 1<<20, 4<<20)
		for at := 0; at+headerSize <= len(raw); {
			n := int(min(uint32(len(raw)-at), max(binary.BigEndian.Uint32(raw[at+2:]), headerSize)))
			h, data, err := parseChunk(raw[at : at+n])
			at += n
			if err != nil {
				continue
			}
			msg, _, err := a.add(h, data)
			msg.Release()
			if err != nil {
				break
			}
		}
		a.close()
		// A true message in any order, cut at any multiple that senders may use, comes out as it went in.
		rnd := rand.New(rand.NewPCG(seed, 1))
		a = newAssembler(pool, 1<<20, 4<<20)
		size := minSize + rnd.IntN(3*minSize)
		msg := make([]byte, 1+rnd.IntN(1<<18))
		for i := range msg {
			msg[i] = byte(rnd.Uint32())
		}
		count := (len(msg) + size - 1) / size
		for i, j := range rnd.Perm(count) {
			data := msg[j*size : min((j+1)*size, len(msg))]
			got, gone, err := a.add(header{typeBytes, headerSize + uint32(len(data)), 7, uint32(j), uint32(count)}, data)
			if err != nil || gone != nil || (got != nil) != (i == count-1) {
				t.Fatal(got, gone, err)
			}
			if got != nil && !bytes.Equal(got.Bytes(), msg) {
				t.Fatal("changed")
			}
			got.Release()
		}
		if a.used != 0 || pool.Stats().Held != 0 {
			t.Fatalf("%d bytes used, %d held", a.used, pool.Stats().Held)
		}
	})
}

func chunkOf(h header, n int) []byte {
	h.length = headerSize + uint32(n)
	return append(h.append(nil), make([]byte, n)...)
}

// FuzzDecode reads any message, whole and with its middle lost.
func FuzzDecode(f *testing.F) {
	for _, r := range []request{
		{kind: kindRequest, op: opSet, id: "i", key: "k"}, {kind: kindResponse, op: opGet, id: "i", key: "k", err: transport.ErrFull},
		{kind: kindResponse, op: opExists, id: "i", key: "k", exists: true}, {kind: kindRequest, op: opSet, id: "i", key: "k", tag06: true},
	} {
		for _, n := range []int{0, 10, 100_000} {
			msg, err := r.encode(make([]byte, n), n > 0)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(msg.Join())
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		msg := transport.FromBytes(raw)
		r, err := decode(msg)
		if len(raw) > 2*chunkSize {
			d := &dropped{int64(len(raw)), raw[:chunkSize], raw[len(raw)-chunkSize:], transport.ErrTooLarge}
			if got, err2 := decodeDropped(d); err == nil && err2 == nil && (got.id != r.id || got.key != r.key) {
				t.Fatal(got, r)
			}
		}
		if err != nil {
			return
		}
		defer r.release()
		var data []byte
		if r.data != nil {
			data = r.data.Bytes()
		}
		out, err := r.encode(data, r.data != nil)
		if err != nil {
			return // a string that is no UTF-8
		}
		again, err := decode(transport.FromBytes(out.Join()))
		if err != nil {
			t.Fatal(err)
		}
		defer again.release()
		if again.kind != r.kind || again.op != r.op || again.id != r.id || again.key != r.key || again.exists != r.exists {
			t.Fatal(again, r)
		}
	})
}
