package faultnet

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrInjected matches every error that a Plan asks for. The error of a cut matches syscall.ECONNRESET (read of a reset) or syscall.EPIPE
// (write) besides; a connection that is cut without Reset ends with plain io.EOF for its reader.
var ErrInjected = errors.New("injected fault")

// Plan says what goes wrong with a connection. The zero Plan changes nothing.
type Plan struct {
	// Seed of everything random. Connection number n of a listener or proxy, counted from 0, uses Seed+n.
	Seed uint64
	// Read is for the bytes that come in: through Read of a wrapped connection, or from the client of a Proxy to its target.
	Read Faults
	// Write is for the bytes that go out: through Write of a wrapped connection, or from the target of a Proxy to its client.
	Write Faults
}

// Faults of one direction. Several may be combined. Bytes and calls are counted from the start of the connection, also if the plan came later.
type Faults struct {
	// Latency is added to everything, and up to Jitter more; order is kept. A wrapped connection makes each call take that much longer; a Proxy
	// delays bytes without slowing their flow.
	Latency, Jitter time.Duration
	// Bandwidth is how many bytes a second pass. 0 is no limit.
	Bandwidth int64

	// Short is the most bytes that one call moves: a read returns no more, a write becomes several. 0 is no limit. With ShortRandom the
	// number is drawn anew each time, from 1 to Short.
	Short       int
	ShortRandom bool

	// Drop makes a black hole: what is sent is accepted and vanishes, and nothing ever comes. A connection that lost bytes so never works again.
	Drop bool
	// DropAfter is Drop from that byte on; the bytes before it pass. 0 is never.
	DropAfter int64

	// CutAfter ends the connection when that many bytes have passed. 0 is never.
	CutAfter int64
	// CutCall ends the connection at that call, the first being 1, before it moves anything. 0 is never. A Proxy counts reads of up to 32 KiB.
	CutCall int64
	// Reset makes a cut hard: the peer of a TCP connection sees a reset instead of an end.
	Reset bool

	// CorruptAt lists the offsets of bytes in which one bit is flipped.
	CorruptAt []int64
	// CorruptRate is how likely it is for each byte that one of its bits is flipped.
	CorruptRate float64

	// ErrCall is the call that fails, the first being 1, without moving anything; the connection stays usable. 0 is none. Err is its error, by
	// default a bare ErrInjected. A Proxy has no calls that could fail, and ends the connection.
	ErrCall int64
	Err     error
}

// Stats counts what passed and what was done to it.
type Stats struct {
	Conns        int64 // connections so far
	BytesRead    int64 // in the direction Plan.Read, as the reader got them
	BytesWritten int64 // in the direction Plan.Write, as the peer will get them
	Dropped      int64 // bytes
	Corrupted    int64 // bits
	Delayed      int64 // calls, or pieces, that had to wait
	Cuts         int64 // connections
	Errors       int64 // calls that failed as planned
}

// counters are shared by all connections of a listener or proxy.
type counters struct {
	conns, bytesRead, bytesWritten, dropped, corrupted, delayed, cuts, errors atomic.Int64
}

func (c *counters) stats() Stats {
	return Stats{
		Conns: c.conns.Load(), BytesRead: c.bytesRead.Load(), BytesWritten: c.bytesWritten.Load(), Dropped: c.dropped.Load(),
		Corrupted: c.corrupted.Load(), Delayed: c.delayed.Load(), Cuts: c.cuts.Load(), Errors: c.errors.Load(),
	}
}

// flow applies Faults to one direction of one connection.
type flow struct {
	count *counters

	mu      sync.Mutex
	f       Faults
	call    *rand.Rand // lengths and delays, drawn by call
	bits    *rand.Rand // flips, drawn by byte, so that they do not depend on how the bytes are cut
	off     int64      // bytes that passed
	calls   int64
	flip    int64 // next offset to flip by CorruptRate
	lost    bool  // bytes were dropped: nothing passes any more
	free    time.Time
	changed chan struct{} // closed and replaced by set
}

func newFlow(seed, direction uint64, f Faults, count *counters) *flow {
	w := &flow{
		count: count, call: rand.New(rand.NewPCG(seed, direction)), bits: rand.New(rand.NewPCG(seed, direction+2)), changed: make(chan struct{}),
	}
	w.use(f)
	return w
}

func (w *flow) use(f Faults) {
	f.CorruptAt = slices.Clone(f.CorruptAt)
	w.f = f
	w.nextFlip(w.off)
}

// set changes the faults and wakes who waits because of the old ones.
func (w *flow) set(f Faults) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.use(f)
	close(w.changed)
	w.changed = make(chan struct{})
}

// verdict is what happens to the next bytes.
type verdict struct {
	n       int   // how many may move, at least 1 unless one of the following is set
	err     error // fail
	cut     bool  // end the connection
	reset   bool
	drop    bool // lose the n bytes
	changed <-chan struct{}
}

// next begins a call (unless it continues one) that would move up to n bytes, n > 0.
func (w *flow) next(n int, continued bool) verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := &w.f
	if !continued {
		w.calls++
	}
	v := verdict{n: n, reset: f.Reset, changed: w.changed}
	switch {
	case w.lost || f.Drop || f.DropAfter > 0 && w.off >= f.DropAfter:
		v.drop = true
		return v
	case f.CutAfter > 0 && w.off >= f.CutAfter, f.CutCall > 0 && w.calls == f.CutCall && !continued:
		v.cut = true
		return v
	case f.ErrCall > 0 && w.calls == f.ErrCall && !continued:
		v.err = ErrInjected
		if f.Err != nil {
			v.err = injected{f.Err}
		}
		w.count.errors.Add(1)
		return v
	}
	if f.Short > 0 {
		short := f.Short
		if f.ShortRandom {
			short = 1 + w.call.IntN(f.Short)
		}
		v.n = min(v.n, short)
	}
	for _, end := range [...]int64{f.CutAfter, f.DropAfter} {
		if end > 0 {
			v.n = int(min(int64(v.n), end-w.off))
		}
	}
	return v
}

// dropping reports whether bytes vanish now.
func (w *flow) dropping() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost || w.f.Drop || w.f.DropAfter > 0 && w.off >= w.f.DropAfter
}

// lose counts n bytes that vanish.
func (w *flow) lose(n int) {
	w.mu.Lock()
	w.lost = true
	w.mu.Unlock()
	w.count.dropped.Add(int64(n))
}

// atCut reports whether nothing more passes, and the connection has to end now.
func (w *flow) atCut() (cut, reset bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.f.CutAfter > 0 && w.off >= w.f.CutAfter, w.f.Reset
}

// damages reports whether pass would change bytes among the next n.
func (w *flow) damages(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := w.off + int64(n)
	return w.flip < end || slices.ContainsFunc(w.f.CorruptAt, func(at int64) bool { return at >= w.off && at < end })
}

// pass moves p, flipping its bits as planned, and returns how long it takes.
func (w *flow) pass(p []byte) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := w.off + int64(len(p))
	for _, at := range w.f.CorruptAt {
		if at >= w.off && at < end {
			w.flipBit(p, at)
		}
	}
	for w.flip < end {
		w.flipBit(p, w.flip)
		w.nextFlip(w.flip + 1)
	}
	w.off = end
	d := w.f.Latency
	if w.f.Jitter > 0 {
		d += time.Duration(w.call.Int64N(int64(w.f.Jitter) + 1))
	}
	if w.f.Bandwidth > 0 {
		now := time.Now()
		if w.free.Before(now) {
			w.free = now
		}
		w.free = w.free.Add(time.Duration(float64(len(p)) / float64(w.f.Bandwidth) * float64(time.Second)))
		d += w.free.Sub(now)
	}
	if d > 0 {
		w.count.delayed.Add(1)
	}
	return d
}

// flipBit flips a bit that depends on the offset alone.
func (w *flow) flipBit(p []byte, at int64) {
	p[at-w.off] ^= 1 << (uint64(at) * 0x9e3779b97f4a7c15 >> 61)
	w.count.corrupted.Add(1)
}

// nextFlip draws the next offset to flip, from offset on: distances between events of equal probability are geometric.
func (w *flow) nextFlip(from int64) {
	switch rate := w.f.CorruptRate; {
	case rate <= 0:
		w.flip = math.MaxInt64
	case rate >= 1:
		w.flip = from
	default:
		skip := math.Log(1-w.bits.Float64()) / math.Log1p(-rate)
		w.flip = from + int64(min(skip, 1<<60))
	}
}

// injected is an error that the Plan names; it matches ErrInjected too.
type injected struct{ err error }

func (e injected) Error() string        { return "injected: " + e.err.Error() }
func (e injected) Unwrap() error        { return e.err }
func (e injected) Is(target error) bool { return target == ErrInjected }
