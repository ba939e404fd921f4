package link

import (
	"context"
	"time"

	"github.com/proxyplane/proxyplane/transport/native"
)

const (
	// minSegment is the shortest piece that an object is cut into on the slowest paths.
	minSegment = 64 << 10
	// firstSegment is the length of pieces as long as nothing is known of the path, and the longest object that one request moves.
	firstSegment = 256 << 10
	// longTrip is the round trip from which on all lanes share what is left of an object, in pieces of at least minShare.
	longTrip = 5 * time.Millisecond
	minShare = 32 << 10
	// shortPiece is what a get asks for first, on a lane for small requests: it leaves in the first round trip of a TCP connection, and holds up no other.
	shortPiece = 14 << 10
	// maxGuess is how much of an object is asked for before its length is known.
	maxGuess = 1 << 20
	// segmentTime is how long a lane should have to do for one piece.
	segmentTime = 40 * time.Millisecond
	// The bounds of what one lane has in flight.
	minFlight   = 512 << 10
	firstFlight = 1 << 20
	maxFlight   = 16 << 20
	// firstWindow is how far a transfer reads ahead at first.
	firstWindow = 8 << 20
	// rateAge is for how long the best rate of a lane is remembered, once or twice.
	rateAge = time.Second
)

// A transfer is a get or put of more than one request. All of it is under Link.mu but for what its own kind says.
//
// Who is to send the next request is decided here: transfers that could send one stand in a ring, and whenever a lane has room the first of them sends one and
// goes to the end. So the wire is shared evenly, however many requests each could send, and each lane always has the next ones before it has ended the last.
type transfer struct {
	l      *Link
	dir    int
	kind   kind
	ctx    context.Context //nolint:containedctx // of the transfer's requests
	cancel context.CancelFunc
	window int64 // bytes that may be in flight or wait, in steps of doubling
	queued bool  // in the ring
	ended  bool
	err    error         // why it cannot go on
	wake   chan struct{} // has room for one token
}

// kind is what gets and puts do in their own ways. Both under Link.mu.
type kind interface {
	// issue takes the next request of the transfer, for that lane, and returns the function that does it, which ends with landed. nil: there is none now.
	issue(ln *lane) func(r *request)
	// drop releases what is held once the transfer has failed.
	drop()
}

// request is one segment that is in flight.
type request struct {
	ln    *lane
	c     *native.Client
	n     int64
	began time.Time
	at    int64 // flow.delivered then
}

func (l *Link) newTransfer(dir int, k kind) *transfer {
	return &transfer{l: l, dir: dir, kind: k, window: firstWindow, wake: make(chan struct{}, 1)}
}

// start makes t known, which has no effect after Close but its failure. Under mu.
func (t *transfer) start() {
	t.ended = false
	t.ctx, t.cancel = context.WithCancel(t.l.ctx)
	if t.l.closed {
		t.fail(errClosed)
		return
	}
	t.l.transfers[t] = struct{}{}
}

// end forgets t. Under mu.
func (t *transfer) end() {
	t.ended = true
	delete(t.l.transfers, t)
	if t.cancel != nil {
		t.cancel()
	}
}

// fail ends t with an error, the first that counts. Under mu.
func (t *transfer) fail(err error) {
	if t.err == nil && !t.ended {
		t.err = err
		t.end()
		t.kind.drop()
	}
	t.signal()
}

// signal wakes who waits for t.
func (t *transfer) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// limit is the window as it is now: all transfers share Memory. Under mu.
func (t *transfer) limit() int64 {
	o := &t.l.o
	share := o.Memory / int64(max(len(t.l.transfers), 1))
	return max(min(t.window, o.Window, share), 2*minSegment)
}

// grow widens the window if the lanes could carry more than it allows. Under mu.
func (t *transfer) grow() {
	if t.window < t.l.o.Window && t.l.wire != nil && t.l.wire.roomy(t.dir) != nil {
		t.window *= 2
	}
}

// afterPause calls back, under mu, before the attempt of that number, if t goes on.
func (t *transfer) afterPause(attempt int, back func()) {
	if attempt < patient {
		back()
		return
	}
	time.AfterFunc(pauseFor(attempt), func() {
		t.l.mu.Lock()
		defer t.l.mu.Unlock()
		if !t.ended {
			back()
			t.l.dispatch(t.dir)
		}
	})
}

// want puts t into the ring. Under mu.
func (t *transfer) want() {
	if !t.queued && !t.ended && !t.l.closed {
		t.queued = true
		t.l.rings[t.dir] = append(t.l.rings[t.dir], t)
	}
}

// dispatch sends requests for as long as there are lanes with room and transfers with requests. Under mu.
func (l *Link) dispatch(dir int) {
	for len(l.rings[dir]) > 0 && !l.closed {
		if l.wire == nil {
			l.connect()
			return
		}
		ln := l.wire.roomy(dir)
		if ln == nil {
			return
		}
		ring := l.rings[dir]
		t := ring[0]
		copy(ring, ring[1:])
		ring[len(ring)-1] = t
		r := &request{ln: ln, c: ln.c}
		var job func(*request)
		if !t.ended {
			job = t.kind.issue(ln)
		}
		if job == nil {
			t.queued = false
			ring[len(ring)-1] = nil
			l.rings[dir] = ring[:len(ring)-1]
			continue
		}
		ln.begin(false)
		r.began, r.at = time.Now(), ln.flow.delivered
		l.wg.Go(func() { job(r) })
	}
}

// takes counts n bytes that go over the lane as one request. Under mu; issue calls it.
func (ln *lane) takes(n int64) { ln.flow.out += n }

// landed counts the end of a request of n bytes, of which some came. Under mu.
func (r *request) landed(n, came int64, err error) verdict {
	what := judge(err)
	ln := r.ln
	if ln.c == r.c { // else its flow is another's already
		ln.flow.out -= n
		if err == nil {
			ln.flow.landed(came, r)
			ln.w.gauge(ln.group, came)
		}
	}
	ln.done(r.c, false, what == again)
	return what
}

// flow is what a lane has in flight, and how fast it is.
type flow struct {
	out       int64 // bytes asked for or sent, and not here or acknowledged yet
	delivered int64
	best      [2]float64 // the highest rate of this and of the last period, in bytes per second
	since     time.Time
}

// landed takes a sample: what came between the beginning of a request and its end came at the rate of the wire, if the wire was never idle.
func (f *flow) landed(n int64, r *request) {
	f.delivered += n
	now := time.Now()
	took := now.Sub(r.began)
	if took <= 0 {
		return
	}
	if now.Sub(f.since) > rateAge {
		f.best = [2]float64{0, f.best[0]}
		f.since = now
	}
	f.best[0] = max(f.best[0], float64(f.delivered-r.at)/took.Seconds())
}

// rate returns bytes per second, 0 if unknown.
func (f *flow) rate() float64 { return max(f.best[0], f.best[1]) }

// flight is how many bytes the lane may have in flight: twice what is on the wire, so that the rate can show whether there is room for more, and two pieces.
func (ln *lane) flight() int64 {
	rate := ln.flow.rate()
	if rate == 0 {
		return firstFlight
	}
	return min(max(int64(2*rate*ln.w.rtt.Seconds())+2*ln.segment(), minFlight), maxFlight)
}

// segment is how long a piece should be: the slower the lane the shorter.
func (ln *lane) segment() int64 {
	rate := ln.flow.rate()
	if rate == 0 {
		return min(firstSegment, int64(ln.w.l.o.Segment))
	}
	n := int64(rate*segmentTime.Seconds()) / minSegment * minSegment
	return min(max(n, minSegment), int64(ln.w.l.o.Segment))
}

// share returns how long a piece may be when rest bytes are left of an object, where no others keep the lanes busy. On a long wire a lane that is behind costs
// round trips, and one that has rested carries only so much in the first of them: so each gets a share of what is left, and they end together. Under mu.
func (w *wire) share(dir int, rest int64) int64 {
	lanes := len(w.using(dir))
	if w.rtt < longTrip || len(w.l.transfers) > lanes {
		return MaxSegment
	}
	return max(rest/int64(lanes), minShare)
}

// roomy returns the lane that would be done first with another piece, nil if none has room. Under mu.
func (w *wire) roomy(dir int) *lane {
	open := 0
	for _, ln := range w.using(dir) {
		if ln.c != nil {
			open++
		} else {
			ln.open()
		}
	}
	if open == 0 { // none yet, or the Path has no room for so many streams
		dir = small
	}
	var best *lane
	var soonest float64
	for _, ln := range w.using(dir) {
		if ln.c == nil {
			continue
		}
		n := ln.segment()
		if ln.flow.out > 0 && ln.flow.out+n > ln.flight() || ln.requests >= full {
			continue
		}
		rate := ln.flow.rate()
		if rate == 0 {
			rate = firstFlight / segmentTime.Seconds()
		}
		if at := float64(ln.flow.out+n) / rate; best == nil || at < soonest {
			best, soonest = ln, at
		}
	}
	return best
}
