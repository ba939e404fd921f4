package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/proxyplane/proxyplane/endpoint/link"
	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/transport"
)

const (
	// headStart is how long known addresses are dialed again before a new offer goes out.
	headStart = time.Second
	// keepLost is how long a connection without paths is kept for dialing its peer again.
	keepLost = time.Minute
	// pythonGone is after how long a Python endpoint has given up an offer or an answer of its own: its timeout, and a little.
	pythonGone = 31 * time.Second
	// yield is how long Python's offer may come first after a connection broke that it owed responses on.
	yield = 1500 * time.Millisecond

	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 10 * time.Second
)

// errDialect says that the peer now speaks the other protocol than the one that was about to be spoken.
var errDialect = fmt.Errorf("peer: %w: the peer now runs another kind of endpoint", transport.ErrUnavailable)

// errIdle ends a connection that nobody used.
var errIdle = fmt.Errorf("peer: %w: closed as there were no requests; the next one connects again", transport.ErrUnavailable)

// peer is what is known of one UUID.
//
// Its connections are peerings. cur is the one in use: it is up, or it has lost its paths and may find them again. next is the one in negotiation, of which there is at most one;
// it takes cur's place when it is up.
type peer struct {
	m      *Manager
	id     uuid.UUID
	refs   int // under m.mu: who uses this peer now; it is not forgotten before
	offers *rate.Limiter

	asking  atomic.Int64 // requests of ours under way, open Readers included
	in, out atomic.Int64 // bytes from and to the peer, over all its connections but a Python endpoint's that is up

	mu      sync.Mutex
	changed chan struct{} // closed, and made anew, whenever something below changes
	closed  bool
	name    string
	cur     *peering
	next    *peering
	link    *link.Link
	python  bool      // what the peer was last
	known   bool      // python is known
	waiters int       // calls that wait for a connection
	used    time.Time // when a request was last under way
	seen    [2]int64  // bytes in and out, when tend last looked
	fails   int       // attempts in a row that failed
	ended   uint64    // how many attempts failed
	err     error     // the last failure
	errAt   time.Time
	final   bool      // no later attempt within a request's time will fare better
	retry   time.Time // no offer before
	up      time.Time // when there was a path last
	rate    meter
}

func newPeer(m *Manager, id uuid.UUID) *peer {
	return &peer{m: m, id: id, changed: make(chan struct{}), used: time.Now(),
		// Each of the two sides may lose its paths, restart or change its mind a few times in a row.
		offers: rate.NewLimiter(rate.Every(time.Second), 8)}
}

// broadcast wakes who waits for a change. p.mu is held.
func (p *peer) broadcast() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *peer) wake() {
	p.mu.Lock()
	p.broadcast()
	p.mu.Unlock()
}

func (p *peer) begin() { p.asking.Add(1) }

func (p *peer) end() {
	p.mu.Lock()
	p.used = time.Now()
	p.mu.Unlock()
	p.asking.Add(-1)
}

// idleSince returns when the peer was used last, and whether nothing is left of its connections.
func (p *peer) idleSince() (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used, p.cur == nil && p.next == nil && p.waiters == 0
}

// open returns the Link to a peer of our kind.
func (p *peer) open() (*link.Link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fmt.Errorf("peer: %w", transport.ErrClosed)
	}
	if p.link == nil {
		p.link = link.New(p.source, link.Options{Lanes: p.m.o.Lanes, Compress: p.m.o.Compress, Pool: p.m.o.Pool, Logger: p.m.log.With("peer", p.id)})
	}
	return p.link, nil
}

func (p *peer) takeLink() *link.Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.link
	p.link = nil
	return l
}

// upgrade moves new requests to a better path than the one in use.
func (p *peer) upgrade(r *route) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != nil && !p.closed {
		p.link.Upgrade(r)
	}
}

// source is the Link's link.Source.
func (p *peer) source(ctx context.Context) (path.Path, error) {
	for {
		g, err := p.ready(ctx)
		if err != nil {
			return nil, err
		}
		if !g.ours {
			return nil, errDialect
		}
		if best := g.best(); best != nil {
			return best, nil
		}
		// Its last path ended just now, which is about to be noticed.
		if !p.m.sleep(ctx, time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

// ready returns the connection to the peer. Where there is none it has one made, and waits. All callers share the attempts; ctx ends only this wait.
func (p *peer) ready(ctx context.Context) (*peering, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur != nil && p.cur.isUp() && !p.closed {
		return p.cur, nil
	}
	p.waiters++
	defer func() { p.waiters-- }()
	ended, began := p.ended, time.Now()
	// An attempt has the same time. Where this call began it, its end says more than ours would.
	deadline := time.NewTimer(p.m.o.Timeout + max(p.m.o.Timeout/8, 2*time.Second))
	defer deadline.Stop()
	for {
		switch {
		case p.closed || p.m.ctx.Err() != nil:
			return nil, fmt.Errorf("peer: %w", transport.ErrClosed)
		case p.cur != nil && p.cur.isUp():
			return p.cur, nil
		case p.ended != ended && p.final && p.next == nil: // else the peer itself has made an offer since
			return nil, p.err
		}
		ended = p.ended
		pause := time.NewTimer(p.ensure())
		changed := p.changed
		p.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-pause.C:
		case <-ctx.Done():
			err = ctx.Err()
		case <-deadline.C:
			err = fmt.Errorf("%w: not connected within %v", transport.ErrUnavailable, time.Since(began).Round(100*time.Millisecond))
		}
		pause.Stop()
		p.mu.Lock()
		if err != nil {
			return nil, fmt.Errorf("peer: %s: %w (%s)", p.id, err, p.progress())
		}
	}
}

// progress says how far a connection has come, for errors. p.mu is held.
func (p *peer) progress() string {
	var now string
	switch {
	case p.next != nil:
		now = p.next.progress()
	case p.cur != nil:
		now = p.cur.progress()
	default:
		now = "waiting before the next attempt"
	}
	if p.err != nil {
		now += "; before: " + p.err.Error()
	}
	return now
}

// ensure has a connection made, as somebody waits for one, and returns after how long to call it again if nothing changes. p.mu is held, and there is no
// connection that is up.
func (p *peer) ensure() time.Duration {
	now := time.Now()
	if g := p.cur; g != nil {
		g.redial()
		if head := headStart - now.Sub(g.lostSince()); head > 0 {
			return head
		}
	}
	if p.next != nil {
		return time.Minute
	}
	if wait := p.retry.Sub(now); wait > 0 {
		return wait
	}
	p.next = newPeering(p, nil)
	p.m.wg.Go(p.next.run)
	p.broadcast()
	return time.Minute
}

// promote makes g, which is up, the connection in use. It reports whether it still may be.
func (p *peer) promote(g *peering) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch {
	case p.closed:
		return false
	case p.cur == g:
	case p.next == g:
		p.next = nil
		if p.cur != nil {
			if best := g.best(); best != nil && p.link != nil {
				p.link.Upgrade(best)
			}
			p.keepBytes(p.cur)
			p.cur.stop(fmt.Errorf("peer: %w: replaced by a newer connection", transport.ErrUnavailable))
		}
		p.cur = g
	default:
		return false
	}
	p.fails, p.final, p.retry, p.up = 0, false, time.Time{}, now
	p.known, p.python = true, !g.ours
	p.used = now
	p.broadcast()
	return true
}

// lost notes that g has no path left, if it is the one in use, and has it look for new ones if somebody waits.
func (p *peer) lost(g *peering) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur != g {
		return
	}
	p.up = time.Now()
	if p.waiters > 0 || p.asking.Load() > 0 {
		g.redial()
	}
	p.broadcast()
}

// keepBytes counts what went over g, which is about to be forgotten. p.mu is held.
func (p *peer) keepBytes(g *peering) {
	if g.session != nil {
		st := g.session.Stats()
		p.in.Add(st.BytesIn)
		p.out.Add(st.BytesOut)
	}
}

// over notes that g is at its end, and why.
func (p *peer) over(g *peering, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch g {
	case p.cur:
		p.cur = nil
		p.up = now
		p.keepBytes(g)
		if g.owed.Load() > 0 {
			p.retry = now.Add(yield)
		}
		if !errors.Is(err, errIdle) {
			p.err, p.errAt = err, now
		}
	case p.next:
		p.next = nil
		p.err, p.errAt = err, now
		if g.offerer {
			p.fails++
			p.ended++
			p.final = p.hopeless(err)
			p.retry = now.Add(p.backoff(err))
		} else if !g.ours && !g.sent {
			// Our own offer would end the process that waits for an answer of ours.
			p.retry = g.began.Add(pythonGone)
		} else {
			p.retry = now.Add(firstBackoff)
		}
	default:
		return
	}
	p.broadcast()
}

// backoff returns how long to wait before the next attempt. Those that fail at once, and cost next to nothing, are not put off for long, as somebody
// may wait for the answer.
func (p *peer) backoff(err error) time.Duration {
	if p.m.o.Relay.State().Final {
		return 0
	}
	d := min(firstBackoff<<min(p.fails-1, 10), lastBackoff)
	if r := (*refusal)(nil); errors.As(err, &r) {
		d = min(d, time.Second)
	}
	return d/2 + rand.N(d) // two peers that try at once should not do so for ever
}

// unknownFor is how long after the relay came back, or a connection to the peer was lost, it may take the peer to register again.
const unknownFor = 8 * time.Second

// hopeless reports whether an attempt that failed so should fail who waits for it. p.mu is held.
func (p *peer) hopeless(err error) bool {
	var r *refusal
	if errors.As(err, &r) {
		// After a restart of the relay, or of the peer, it is only a matter of seconds until it is registered. Else it is just not there.
		return !r.transient() || time.Since(p.up) >= unknownFor && !p.m.relayCameBack(unknownFor)
	}
	return !errors.Is(err, errAnew)
}

// errAnew is an attempt's end after which another one is made at once.
var errAnew = errors.New("negotiated anew")

// stopIdle ends the peer's connections if there was no request either way for so long, and no trace of one now.
func (p *peer) stopIdle(now time.Time, idle time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in, out := p.bytes()
	seen := [2]int64{in, out}
	// Nothing is sent over streams without a request; paths keep themselves alive beside them.
	if seen != p.seen || p.asking.Load() > 0 || p.waiters > 0 {
		p.used = now
	}
	p.seen = seen
	if g := p.cur; g != nil && !g.isUp() && p.waiters == 0 && now.Sub(g.lostSince()) > keepLost {
		g.stop(fmt.Errorf("peer: %w: the connection was lost", transport.ErrUnavailable))
	}
	if idle <= 0 || now.Sub(p.used) < idle {
		return
	}
	if p.cur != nil {
		p.cur.stop(errIdle)
	}
	if l := p.link; l != nil {
		p.link = nil
		p.m.wg.Go(func() { l.Close() })
	}
}

// close ends everything of the peer, for good, and waits for it. Requests see that first, and not the connection's end.
func (p *peer) close() {
	p.mu.Lock()
	p.closed = true
	l := p.link
	p.link = nil
	gs := []*peering{p.cur, p.next}
	p.broadcast()
	p.mu.Unlock()
	if l != nil {
		l.Close()
	}
	for _, g := range gs {
		if g != nil {
			g.stop(fmt.Errorf("peer: %w", transport.ErrClosed))
		}
	}
	for _, g := range gs {
		if g != nil {
			<-g.done
		}
	}
}

// owes reports whether the peer is a connected Python endpoint that has a response to send to us.
func (p *peer) owes() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cur != nil && p.cur.owed.Load() > 0
}
