package dim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

const (
	// maxPeers bounds the servers that a connector has connections to: keys may name any number. It is more than the nodes that a program reads from at once.
	maxPeers = 512
	// idleAfter is how long a connection may go unused.
	idleAfter = time.Minute
	// crowded is how many calls a connection has before another one is opened beside it.
	crowded = 2
	// A server that could not be reached is dialed again after minPause, doubling up to maxPause.
	minPause, maxPause = 10 * time.Millisecond, 500 * time.Millisecond
)

// peer is a server as keys name it. A unix socket is a host "unix:///path" with port 0.
type peer struct {
	dimType, host string
	port          int
}

const unixScheme = "unix://"

func (p peer) String() string {
	if strings.HasPrefix(p.host, unixScheme) {
		return p.host
	}
	return net.JoinHostPort(p.host, strconv.Itoa(p.port))
}

// location is what a policy is asked about.
func (p peer) location(kind string) connectors.Location {
	if path, ok := strings.CutPrefix(p.host, unixScheme); ok {
		return connectors.Location{Kind: kind, Dir: path}
	}
	return connectors.Location{Kind: kind, Host: p.host}
}

// refused is an error of the policy: it passes as it is, and nothing is tried again.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// conn is one connection to a peer. All its fields but client belong to the pool's lock.
type conn struct {
	client objects.Client
	users  int
	used   time.Time
	dead   bool // nobody new uses it
}

// host is what a pool knows of one peer.
type host struct {
	peer    peer
	conns   []*conn
	flight  *flight // the dial under way
	waiters int
	used    time.Time
	pause   time.Duration // until the next dial; 0 after a success
	next    time.Time     // not before
}

// flight is one dial. err is set before done is closed.
type flight struct {
	done chan struct{}
	err  error
}

// pool keeps connections to peers.
type pool struct {
	dial    func(ctx context.Context, p peer) (objects.Client, error)
	perPeer int
	timeout time.Duration // of a dial

	life  context.Context // ends dials
	end   context.CancelFunc
	wg    sync.WaitGroup // dials and closes under way
	mu    sync.Mutex
	hosts map[peer]*host
	sweep *time.Timer
	shut  bool
}

func newPool(perPeer int, timeout time.Duration, dial func(context.Context, peer) (objects.Client, error)) *pool {
	p := &pool{dial: dial, perPeer: perPeer, timeout: timeout, hosts: map[peer]*host{}}
	p.life, p.end = context.WithCancel(context.Background())
	return p
}

// get returns the connection to use for one more call; the caller gives it back by put.
func (p *pool) get(ctx context.Context, at peer) (*conn, error) {
	for {
		p.mu.Lock()
		if p.shut {
			p.mu.Unlock()
			return nil, connectors.ErrClosed
		}
		h, err := p.host(at)
		if err != nil {
			p.mu.Unlock()
			return nil, err
		}
		c, n := h.least()
		if h.flight == nil && (c == nil || c.users >= crowded && n < p.perPeer && !time.Now().Before(h.next)) {
			p.launch(h)
		}
		if c != nil { // do not wait for the other one
			c.users++
			p.mu.Unlock()
			return c, nil
		}
		f := h.flight
		h.waiters++
		p.mu.Unlock()
		err = nil
		select {
		case <-f.done:
			err = f.err
		case <-ctx.Done():
			err = ctx.Err()
		}
		p.mu.Lock()
		h.waiters--
		p.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// host returns the entry of a peer, making room for it. The lock is held.
func (p *pool) host(at peer) (*host, error) {
	h := p.hosts[at]
	if h == nil {
		if len(p.hosts) >= maxPeers && !p.dropOldest() {
			return nil, fmt.Errorf("%w: calls to %d servers are in flight already, and a connector goes to no more at once; try again when some have ended",
				connectors.ErrUnavailable, maxPeers)
		}
		h = &host{peer: at}
		p.hosts[at] = h
		if p.sweep == nil {
			p.sweep = time.AfterFunc(idleAfter, p.dropIdle)
		}
	}
	h.used = time.Now()
	return h, nil
}

// busy reports whether anybody uses h or waits for it.
func (h *host) busy() bool {
	if h.flight != nil || h.waiters > 0 {
		return true
	}
	for _, c := range h.conns {
		if c.users > 0 {
			return true
		}
	}
	return false
}

// least returns the connection with the fewest calls, and how many connections there are.
func (h *host) least() (best *conn, n int) {
	for _, c := range h.conns {
		if c.dead {
			continue
		}
		n++
		if best == nil || c.users < best.users {
			best = c
		}
	}
	return best, n
}

// dropOldest forgets the peer that was not used for longest. The lock is held.
func (p *pool) dropOldest() bool {
	var oldest *host
	for _, h := range p.hosts {
		if !h.busy() && (oldest == nil || h.used.Before(oldest.used)) {
			oldest = h
		}
	}
	if oldest == nil {
		return false
	}
	delete(p.hosts, oldest.peer)
	p.hangUp(oldest.conns...)
	return true
}

// hangUp closes connections that nobody uses. The lock is held.
func (p *pool) hangUp(conns ...*conn) {
	for _, c := range conns {
		p.wg.Go(func() { c.client.Close() }) // it may wait for its goroutines
	}
}

// dropIdle closes what was not used lately. It runs again while there is anything left.
func (p *pool) dropIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return
	}
	old := time.Now().Add(-idleAfter)
	for at, h := range p.hosts {
		kept := h.conns[:0]
		for _, c := range h.conns {
			if c.users == 0 && !c.used.After(old) {
				p.hangUp(c)
			} else {
				kept = append(kept, c)
			}
		}
		clear(h.conns[len(kept):])
		h.conns = kept
		if len(kept) == 0 && !h.busy() && !h.used.After(old) {
			delete(p.hosts, at)
		}
	}
	p.sweep = nil
	if len(p.hosts) > 0 {
		p.sweep = time.AfterFunc(idleAfter, p.dropIdle)
	}
}

// launch dials. Who waits for the flight does not own it: one caller's cancelled context fails nobody else, and the connection serves the next call.
// The lock is held.
func (p *pool) launch(h *host) {
	f := &flight{done: make(chan struct{})}
	h.flight = f
	wait := time.Until(h.next)
	p.wg.Go(func() {
		var client objects.Client
		err := p.sleep(wait)
		if err == nil {
			ctx, cancel := context.WithTimeout(p.life, p.timeout)
			client, err = p.dial(ctx, h.peer)
			if err != nil && ctx.Err() == context.DeadlineExceeded {
				// %v, not %w: it is our own time limit, not the caller's context.
				err = fmt.Errorf("%w: %s did not answer within %v (%v); see that an object server runs there, or raise option timeout",
					connectors.ErrUnavailable, h.peer, p.timeout, err)
			}
			cancel()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		h.flight = nil
		switch {
		case p.shut:
			if err == nil {
				p.hangUp(&conn{client: client})
			}
			f.err = connectors.ErrClosed
		case err != nil:
			f.err = err
			if errors.As(err, new(refused)) {
				break
			}
			h.pause = min(max(2*h.pause, minPause), maxPause)
			h.next = time.Now().Add(h.pause)
		default:
			h.pause, h.next = 0, time.Time{}
			h.conns = append(h.conns, &conn{client: client, used: time.Now()})
		}
		close(f.done)
	})
}

// sleep waits for d, or for the end of the pool.
func (p *pool) sleep(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-p.life.Done():
		return connectors.ErrClosed
	}
}

// put gives a connection back after a call that ended with err.
func (p *pool) put(at peer, c *conn, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.users--
	c.used = time.Now()
	c.dead = c.dead || broken(err)
	if !c.dead || c.users > 0 || p.shut { // others may be in the middle of a transfer, on a server that drains
		return
	}
	h := p.hosts[at] // it was in use until now, and so it is there
	h.conns = slices.DeleteFunc(h.conns, func(other *conn) bool { return other == c })
	p.hangUp(c)
}

// broken reports whether err means that the connection should not be used again.
func broken(err error) bool {
	return errors.Is(err, transport.ErrUnavailable) && !errors.Is(err, transport.ErrNotBuilt) || errors.Is(err, transport.ErrCorrupt) ||
		errors.Is(err, transport.ErrClosed)
}

// close hangs up everywhere. Calls in flight fail.
func (p *pool) close() {
	p.mu.Lock()
	if !p.shut {
		p.shut = true
		p.end()
		if p.sweep != nil {
			p.sweep.Stop()
		}
		for _, h := range p.hosts {
			p.hangUp(h.conns...)
			h.conns = nil
		}
	}
	p.mu.Unlock()
	p.wg.Wait()
}
