package link

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

// The groups of lanes. Directions have lanes of their own, as a request that waits behind an upload would arrive late.
const (
	get   = 0
	put   = 1
	small = 2
)

const (
	// crowd is how many requests a lane for small ones has before another is opened: at the server each has one goroutine that answers.
	crowd = 8
	// full is how many requests one lane takes; further ones wait here.
	full = 512
	// openTimeout bounds the opening of a lane.
	openTimeout = 15 * time.Second
	// reopenAfter and reopenMax are when a lane that could not be opened is tried again, while others work: ever later.
	reopenAfter = 50 * time.Millisecond
	reopenMax   = 10 * time.Second
	// maxBarren is on how many Paths in a row no session could be opened until those who wait are told.
	maxBarren = 5
	// cancelGrace is how long a cancelled request may still take to leave before its session is given up.
	cancelGrace = 10 * time.Second
)

// wire is a Path with the sessions on it. Fields are under Link.mu where nothing else is said.
type wire struct {
	l      *Link
	p      path.Path
	ctx    context.Context //nolint:containedctx // ends with the wire
	cancel context.CancelFunc
	lanes  [3][]*lane
	widths [2]width      // of the directions
	rtt    time.Duration // the shortest handshake: one round trip without a queue

	seq      int64 // when it was adopted
	inflight int
	stood    bool // a session has been open on it
	retired  bool // new requests go elsewhere
	dead     bool

	heard atomic.Int64 // when the last byte came, as nanoseconds since Link.start
	watch *time.Timer  // runs while something is in flight
	armed bool
}

// lane is one session.
type lane struct {
	w        *wire
	group    int
	c        *native.Client // nil while there is none
	opening  bool
	failures int         // openings in a row that failed
	reopen   *time.Timer // runs after one
	requests int
	waits    int
	flow     flow
}

// adopt begins to open p; it becomes the wire once a session stands, or at once if there is no other. Under mu.
func (l *Link) adopt(p path.Path) {
	w := &wire{l: l, p: p, seq: l.paths.Add(1)}
	w.ctx, w.cancel = context.WithCancel(l.ctx)
	w.watch = time.AfterFunc(time.Hour, w.check)
	w.watch.Stop()
	for group := range w.lanes {
		for range l.o.Lanes {
			w.lanes[group] = append(w.lanes[group], &lane{w: w, group: group})
		}
	}
	for dir := range w.widths {
		w.widths[dir] = width{n: l.o.Lanes, most: l.o.widest}
	}
	l.wires[w] = struct{}{}
	if l.wire == nil {
		l.wire = w
	}
	w.lanes[small][0].open()
	l.wg.Go(func() {
		select {
		case <-p.Done():
			l.mu.Lock()
			err := p.Err()
			if err == nil {
				err = fmt.Errorf("%w: the path ended", transport.ErrUnavailable)
			}
			w.end(err, true)
			l.mu.Unlock()
		case <-w.ctx.Done():
		}
	})
}

// promote makes w the wire for new requests. Under mu.
func (w *wire) promote() {
	l := w.l
	w.stood, l.barren = true, 0
	if old := l.wire; old != w {
		if old != nil && old.seq > w.seq { // a still better one came while this was opened
			w.retired = true
			w.settle()
			return
		}
		l.wire = w
		if old != nil {
			old.retired = true
			old.settle()
		}
	}
	for _, group := range [...]int{get, put} {
		for _, ln := range w.lanes[group] {
			ln.open()
		}
	}
}

// settle lets go of a retired wire that has nothing in flight. Under mu.
func (w *wire) settle() {
	if w.retired && w.inflight == 0 {
		w.end(nil, false)
	}
}

// end ends w: what is in flight on it fails and is asked elsewhere. Under mu.
func (w *wire) end(err error, closePath bool) {
	if w.dead {
		return
	}
	l := w.l
	w.dead = true
	w.cancel()
	w.watch.Stop()
	delete(l.wires, w)
	if l.wire == w {
		l.wire = nil
	}
	var clients []*native.Client
	for _, group := range w.lanes {
		for _, ln := range group {
			if ln.c != nil {
				clients = append(clients, ln.c)
				ln.c = nil
			}
			if ln.reopen != nil {
				ln.reopen.Stop()
			}
		}
	}
	if err != nil {
		l.lastErr = err
		l.o.Logger.Debug("path ended", "path", w.p.Info(), "err", err)
	}
	if !w.stood && closePath {
		l.wasBarren(err)
	}
	l.wg.Go(func() {
		if closePath { // first, as it wakes who is blocked in a write
			w.p.Close()
		}
		for _, c := range clients {
			c.Close()
		}
	})
	if !l.closed {
		l.tell()
	}
}

// wasBarren counts the Paths in a row on which not one session could be opened, and tells those who wait when there were too many. Under mu.
func (l *Link) wasBarren(err error) {
	if l.barren++; l.barren%maxBarren != 0 {
		return
	}
	l.given.seq++
	l.given.err = fmt.Errorf("%w: paths to the peer come up, but no session on them: %w", transport.ErrUnavailable, err)
	l.failWaiting(l.given.err)
}

// failWaiting fails the transfers that could send a request. Under mu.
func (l *Link) failWaiting(err error) {
	for dir := range l.rings {
		ring := l.rings[dir]
		l.rings[dir] = nil
		for _, t := range ring {
			t.queued = false
			t.fail(err)
		}
	}
}

// moved implements traffic.
func (w *wire) moved(in, out int64) {
	now := time.Now()
	if in > 0 {
		w.heard.Store(int64(now.Sub(w.l.start)))
		w.l.in.add(in, now)
	}
	if out > 0 {
		w.l.out.add(out, now)
	}
}

func (w *wire) silent() time.Duration { return time.Since(w.l.start) - time.Duration(w.heard.Load()) }

// check runs while something is in flight, and looks whether the peer is still there.
func (w *wire) check() {
	l := w.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.dead || l.closed || w.inflight == 0 {
		w.armed = false
		return
	}
	quiet := w.silent()
	switch {
	case quiet < l.o.Quiet:
		w.watch.Reset(l.o.Quiet - quiet)
		return
	case quiet >= 2*l.o.Quiet:
		w.armed = false
		w.end(fmt.Errorf("%w: the peer has not answered for %v", transport.ErrUnavailable, quiet.Round(time.Second/10)), true)
		return
	}
	for _, ln := range w.lanes[small] { // the answer itself is the sign of life
		if c := ln.c; c != nil {
			l.wg.Go(func() {
				ctx, cancel := context.WithTimeout(w.ctx, 2*l.o.Quiet)
				defer cancel()
				_ = c.Ping(ctx)
			})
			break
		}
	}
	w.watch.Reset(2*l.o.Quiet - quiet)
}

// forSmall returns the lane for a small request, nil if none is open or all are full. Under mu.
func (w *wire) forSmall(waits bool) *lane {
	var best, spare *lane
	load := func(ln *lane) int {
		if waits {
			return ln.waits
		}
		return ln.requests
	}
	for _, ln := range w.lanes[small] {
		switch {
		case ln.c == nil:
			if spare == nil {
				spare = ln
			}
		case best == nil || load(ln) < load(best):
			best = ln
		}
	}
	if spare != nil && (best == nil || load(best) >= crowd) {
		spare.open()
	}
	if best != nil && load(best) >= full {
		return nil
	}
	return best
}

// begin counts a request on the lane. Under mu.
func (ln *lane) begin(waits bool) *native.Client {
	w := ln.w
	if waits {
		ln.waits++
	} else {
		ln.requests++
	}
	if w.inflight++; !w.armed && w.l.o.Quiet > 0 {
		w.armed = true
		w.heard.Store(int64(time.Since(w.l.start)))
		w.watch.Reset(w.l.o.Quiet)
	}
	return ln.c
}

// done counts the end of a request that began on session c, which is given up if it is broken. Under mu.
func (ln *lane) done(c *native.Client, waits, broken bool) {
	w, l := ln.w, ln.w.l
	was := ln.requests
	if waits {
		was = ln.waits
		ln.waits--
	} else {
		ln.requests--
	}
	w.inflight--
	if broken && ln.c == c {
		ln.c = nil
		l.wg.Go(func() { c.Close() })
		if !w.dead && !w.retired && !l.closed {
			ln.open()
		}
	}
	w.settle()
	if was == full && !l.closed {
		l.tell()
	}
}

// open opens the lane's session in the background, unless there is one. Under mu.
func (ln *lane) open() {
	w, l := ln.w, ln.w.l
	if ln.c != nil || ln.opening || ln.reopen != nil || w.dead || l.closed {
		return
	}
	ln.opening = true
	l.wg.Go(func() {
		c, rtt, err := w.session()
		l.mu.Lock()
		defer l.mu.Unlock()
		ln.opening = false
		switch {
		case err != nil:
			l.o.Logger.Debug("lane", "group", ln.group, "err", err)
			if w.dead {
				return
			}
			if w.open() == 0 {
				w.end(err, true)
				return
			}
			ln.reopen = time.AfterFunc(min(reopenAfter<<min(ln.failures, 16), reopenMax), func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				ln.reopen = nil
				ln.open()
			})
			ln.failures++
		case w.dead || l.closed:
			l.wg.Go(func() { c.Close() })
		default:
			ln.c, ln.flow, ln.failures = c, flow{}, 0
			if w.rtt == 0 || rtt < w.rtt {
				w.rtt = rtt
			}
			if !w.retired {
				w.promote()
			}
			l.tell()
		}
	})
}

// open counts the open lanes. Under mu.
func (w *wire) open() int {
	n := 0
	for _, group := range w.lanes {
		for _, ln := range group {
			if ln.c != nil {
				n++
			}
		}
	}
	return n
}

// session opens one on the Path.
func (w *wire) session() (*native.Client, time.Duration, error) {
	o := &w.l.o
	ctx, cancel := context.WithTimeout(w.ctx, openTimeout)
	defer cancel()
	conn, err := w.p.Open(ctx)
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	car := &counted{tcp.NewCarrier(conn, tcp.CarrierOptions{Trusted: !o.Untrusted}), w}
	c, err := native.NewClient(ctx, car, native.ClientOptions{Hash: o.Hash, Compress: o.Compress, Chunk: o.Segment,
		Window: max(int64(o.Segment), native.DefaultWindow), Pool: o.Pool, Logger: o.Logger, CancelGrace: cancelGrace})
	if err != nil {
		return nil, 0, err
	}
	return c, time.Since(began), nil
}
