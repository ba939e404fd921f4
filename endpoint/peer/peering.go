package peer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/p2p"
	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/endpoint/relay"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/quic"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

const (
	// lastResort is after how long without TLS or QUIC data channels are opened, from the moment that ICE has a pair.
	lastResort = 3 * time.Second
	// tieBreak is how long the greater UUID waits for the other one's TLS connection before it dials.
	tieBreak = 250 * time.Millisecond
	// dialTime bounds one attempt to dial.
	dialTime = 5 * time.Second
	// improveEvery is how often a better path is looked for.
	improveEvery = 30 * time.Second
	// probeTime is how long a peer may take for a sign of life.
	probeTime = 1500 * time.Millisecond
	// grace is how long the peer's own attempts may still take when all of ours have failed.
	grace = 3 * time.Second
	// quicConns is how many connections a direct QUIC path has. Each has a congestion window of its own, as TLS's streams have: see quic's "Speed".
	quicConns = 4
	// dialRest is how long the others may take once one of them is there, joinRest how long the side that accepts waits for them before it asks on the path.
	dialRest = time.Second
	joinRest = 300 * time.Millisecond
)

// peering is one negotiation with one instance of a peer, and the connection that comes of it: an ICE agent, and paths or a Python endpoint's session.
type peering struct {
	p       *peer
	offerer bool
	began   time.Time
	ctx     context.Context // until its end
	stop    context.CancelCauseFunc
	done    chan struct{} // closed when nothing of it is left
	answers chan relay.PeerConnection
	owed    atomic.Int64     // responses of a Python endpoint that are to come
	session *p2p.Session     // with a Python endpoint; set before it is up
	conn    *webrtc.Channels // below session
	agent   *webrtc.Agent
	settled sync.Once
	timeout time.Duration
	before  *peering // the negotiation that this one took the place of, if that is still ending

	// Under p.mu.
	local    webrtc.Description
	sent     bool // local is with the world
	remote   *remote
	ours     bool // the peer is of our kind; settled before it is up
	expected bool // remote's certificate is let in

	mu        sync.Mutex
	closed    bool
	live      bool // there is a path, or a session
	lostAt    time.Time
	upped     chan struct{} // closed when it was up first
	routes    []*route      // the best one first
	joining   *joining      // the QUIC path that the peer dialed last
	pair      *webrtc.Pair
	relayed   *quic.Socket // over the agent's connection, where that leads through a TURN server of ours
	step      string
	tried     map[string]error // by what; nil: it is being tried
	redialing bool
	wg        sync.WaitGroup
}

// newPeering returns a peering that answers r, or offers if r is nil. run runs it.
func newPeering(p *peer, r *remote) *peering {
	g := &peering{p: p, offerer: r == nil, began: time.Now(), done: make(chan struct{}), answers: make(chan relay.PeerConnection, 1), remote: r,
		upped: make(chan struct{}), tried: map[string]error{}, step: "starting"}
	g.timeout = p.m.o.Timeout
	if r != nil {
		g.ours = r.ours
	}
	g.ctx, g.stop = context.WithCancelCause(p.m.ctx)
	return g
}

// settle gives back the room of a negotiation that the peer began, once.
func (g *peering) settle() {
	if !g.offerer {
		g.settled.Do(func() { <-g.p.m.busy })
	}
}

func (g *peering) at(step string) {
	g.mu.Lock()
	g.step = step
	g.mu.Unlock()
}

// note notes how an attempt has ended, or with nil that it goes on.
func (g *peering) note(what string, err error) {
	g.mu.Lock()
	g.tried[what] = err
	g.mu.Unlock()
}

// unnote forgets an attempt, as it went well.
func (g *peering) unnote(what string) {
	g.mu.Lock()
	delete(g.tried, what)
	g.mu.Unlock()
}

// progress says what was tried and how it went.
func (g *peering) progress() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.tried) == 0 {
		return g.step
	}
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(g.tried)) {
		text := "not there yet"
		if err := g.tried[what]; err != nil {
			text = err.Error()
		}
		parts = append(parts, what+": "+text)
	}
	return strings.Join(parts, "; ")
}

func (g *peering) isUp() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.live && g.ctx.Err() == nil
}

func (g *peering) lostSince() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lostAt
}

// run runs the peering from its first message to its end.
func (g *peering) run() {
	err := g.connect()
	if g.ctx.Err() != nil {
		err = context.Cause(g.ctx) // whoever stopped it knows better
	}
	if g.p.m.ctx.Err() != nil {
		err = fmt.Errorf("peer: %w", transport.ErrClosed)
	}
	g.stop(err)
	g.mu.Lock()
	g.closed, g.live = true, false
	routes, relayed := g.routes, g.relayed
	g.routes = nil
	g.mu.Unlock()
	g.p.over(g, err)
	g.settle()
	g.p.m.log.Debug("connection over", "peer", g.p.id, "offerer", g.offerer, "reason", err)
	var wg sync.WaitGroup
	for _, r := range routes {
		wg.Go(func() { r.Close() })
	}
	wg.Wait()
	if g.session != nil {
		g.session.Close()
	}
	if relayed != nil {
		relayed.Close()
	}
	if g.agent != nil {
		g.agent.Close()
	}
	g.wg.Wait()
	if g.expected {
		g.p.m.certs.remove(g.remote.fp, g)
	}
	g.before = nil // or a row of negotiations that replace each other would hold them all
	close(g.done)
}

// connect negotiates, and returns when the connection is over.
func (g *peering) connect() error {
	ctx, cancel := context.WithTimeout(g.ctx, g.timeout)
	defer cancel()
	if err := g.signal(ctx); err != nil {
		if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
			hint := ""
			if g.sent && g.offerer {
				hint = ": the relay knows the peer, but no answer came; is its endpoint stuck, or another one with the same UUID running?"
			}
			return fmt.Errorf("peer: %s: %w: %s took more than %v%s", g.p.id, transport.ErrUnavailable, g.progress(), g.timeout, hint)
		}
		return err
	}
	if g.ours {
		return g.race(ctx)
	}
	return g.python(ctx)
}

// alone ends the ICE agents of earlier negotiations with the peer. Packets are given to agents by the address that they come from, which is one and
// the same for all agents of a peer of our kind. TLS and QUIC paths outlive their agent.
func (g *peering) alone(ctx context.Context) error {
	g.p.mu.Lock()
	old := g.p.cur
	g.p.mu.Unlock()
	if old != nil && old != g && old.ours {
		old.agent.Close()
	}
	if g.before == nil {
		return nil
	}
	select {
	case <-g.before.done:
		g.before = nil // and what it holds
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// noPath is the error of a connection that did not come about.
func (g *peering) noPath(after time.Duration) error {
	return fmt.Errorf("peer: %s: %w: no path found within %v: %s", g.p.id, transport.ErrUnavailable, after.Round(100*time.Millisecond), g.progress())
}

// race tries all ways to a peer of our kind at once and keeps what comes of it. ctx ends with the time for the first path.
func (g *peering) race(ctx context.Context) (err error) {
	m := g.p.m
	g.at("looking for a path")
	if err := g.alone(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	if m.o.Paths&TLS != 0 {
		g.note(path.KindTLS, nil)
		wg.Go(func() { g.tryTLS(ctx) })
	}
	g.note("ice", nil)
	wg.Go(func() { g.tryICE(ctx) })
	all := make(chan struct{})
	g.wg.Go(func() { wg.Wait(); close(all) })
	failed := all // nil once it does not matter
	defer wg.Wait()
	defer func() { g.stop(err) }()

	up := g.upped
	var last <-chan time.Time
	improve := time.NewTicker(improveEvery)
	defer improve.Stop()
	for {
		select {
		case <-up:
			up, failed = nil, nil
			g.settle()
		case <-failed:
			failed = nil
			wait := grace
			if !g.offerer {
				wait += lastResort // it is the peer that dials QUIC, and begins data channels later
			}
			t := time.NewTimer(wait)
			defer t.Stop()
			last = t.C
		case <-last:
			if up != nil {
				return g.noPath(time.Since(g.began))
			}
		case <-ctx.Done():
			if g.ctx.Err() != nil {
				return context.Cause(g.ctx)
			}
			if up != nil {
				return g.noPath(g.timeout)
			}
			ctx = g.ctx
		case <-improve.C:
			if up == nil {
				g.improve()
			}
		}
	}
}

// tryTLS dials the peer's TLS addresses until there is a TLS path. The peer may not expect us yet: its answer to us is faster than ours to it.
func (g *peering) tryTLS(ctx context.Context) {
	if len(g.remote.addrs) == 0 {
		g.note(path.KindTLS, errors.New("the peer announces no address that could be dialed"))
		return
	}
	if g.p.m.o.UUID.String() > g.p.id.String() && g.p.m.tls != nil && !g.p.m.sleep(ctx, tieBreak) {
		return
	}
	for pause := 100 * time.Millisecond; !g.has(path.KindTLS); pause = min(2*pause, 2*time.Second) {
		if err := g.dialTLS(ctx); err == nil || !g.p.m.sleep(ctx, pause) {
			return
		}
	}
}

// dialTLS dials once.
func (g *peering) dialTLS(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	pt, err := path.DialTLS(ctx, g.remote.addrs, path.DialOptions{Certificate: g.p.m.cert, Verify: g.verify, Logger: g.p.m.o.Logger})
	if err != nil {
		g.note(path.KindTLS, err)
		return err
	}
	g.add(pt)
	return nil
}

// verify lets in the certificate of this very peer.
func (g *peering) verify(der []byte) error {
	if fp := webrtc.Fingerprint(der); fp != g.remote.fp {
		return fmt.Errorf("peer: %w: it shows the certificate %.23s..., and not the one that %s announced", transport.ErrDenied, fp, g.p.id)
	}
	return nil
}

// tryICE looks for a pair of UDP addresses and makes a path over it.
func (g *peering) tryICE(ctx context.Context) {
	m := g.p.m
	pair, err := g.agent.Connect(ctx)
	g.note("ice", err)
	if err != nil {
		return
	}
	useQUIC := m.o.Paths&QUIC != 0 && g.remote.ann.QUIC
	useTLS := m.o.Paths&TLS != 0 && (len(g.remote.addrs) > 0 || m.tls != nil)
	// Where our side of the pair is a TURN server's, QUIC takes the agent's connection for itself, and there is none left for data channels.
	channels := m.o.Paths&WebRTC != 0
	sock := m.sock
	if pair.LocalType == "relay" && useQUIC {
		channels = false
		sock, err = quic.NewSocket(quic.FromConn(g.agent.Conn()), quic.Options{Certificate: m.cert, Verify: g.verify, Logger: m.o.Logger})
		if err != nil {
			g.note(path.KindQUIC, err)
			return
		}
	}
	g.mu.Lock()
	delete(g.tried, "ice")
	g.pair = &pair
	closed := g.closed
	if sock != m.sock && !closed {
		g.relayed = sock
	}
	g.mu.Unlock()
	if closed {
		if sock != m.sock {
			sock.Close()
		}
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if sock != m.sock {
		g.wg.Go(func() { g.acceptOwn(sock) })
	}
	if useQUIC {
		g.note(path.KindQUIC, nil)
	} else {
		g.note(path.KindQUIC, errors.New("one side does not use it"))
	}
	if !g.offerer {
		if channels {
			g.wg.Go(func() { g.openChannels(g.ctx) })
		}
		return
	}
	if useQUIC {
		wg.Go(func() {
			for pause := 100 * time.Millisecond; !g.has(path.KindTLS) && !g.has(path.KindQUIC); pause = min(2*pause, 2*time.Second) {
				if err := g.dialQUIC(ctx); err == nil || !m.sleep(ctx, pause) {
					return
				}
			}
		})
	}
	if channels {
		if useQUIC || useTLS {
			t := time.NewTimer(lastResort)
			defer t.Stop()
			select {
			case <-t.C:
			case <-g.upped:
				return
			case <-ctx.Done():
				return
			}
			if g.isUp() {
				return
			}
		}
		g.openChannels(ctx)
	}
}

// dialQUIC dials once, over the pair that ICE chose: several connections at once, which are one path. Where a TURN server is on the way
// there is only one, as others share that server. What the peer asks meanwhile is served from the first one on.
func (g *peering) dialQUIC(ctx context.Context) error {
	g.mu.Lock()
	pair, sock := g.pair, g.relayed
	g.mu.Unlock()
	if pair == nil {
		return errors.New("no pair of UDP addresses")
	}
	if sock == nil {
		sock = g.p.m.sock
	}
	n := quicConns
	if pair.Relayed {
		n = 1
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	type result struct {
		c   *quic.Conn
		err error
	}
	results := make(chan result)
	for range n {
		go func() {
			c, err := sock.Dial(ctx, net.UDPAddrFromAddrPort(pair.Remote))
			c, err = g.verified(c, err)
			results <- result{c, err}
		}()
	}
	var group *path.Group
	var r *route
	var err error
	var late <-chan time.Time
	for left := n; left > 0; {
		select {
		case d := <-results:
			left--
			switch {
			case d.err != nil:
				err = d.err
			case group == nil:
				group = path.QUIC(d.c, g.details())
				r = g.take(group)
				t := time.NewTimer(dialRest)
				defer t.Stop()
				late = t.C
			case !group.Add(d.c):
				d.c.Close()
			}
		case <-late:
			cancel() // the others
		}
	}
	if r != nil && g.use(r) {
		return nil
	}
	if group != nil {
		err = fmt.Errorf("%w: the connections ended at once", transport.ErrUnavailable)
	}
	g.note(path.KindQUIC, err)
	return err
}

// verified returns a QUIC connection that was dialed, if its certificate is the peer's.
func (g *peering) verified(c *quic.Conn, err error) (*quic.Conn, error) {
	if err == nil {
		if err = g.verify(c.PeerCertificate()); err == nil {
			return c, nil
		}
		c.Close()
	}
	return nil, err
}

// more dials another connection for a direct QUIC path, whichever side has dialed the others.
func (g *peering) more(ctx context.Context, to net.Addr) (*quic.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	return g.verified(g.p.m.sock.DialMore(ctx, to))
}

// details of a path over the pair that ICE chose.
func (g *peering) details() path.Details {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pair == nil {
		return path.Details{More: g.more}
	}
	d := path.Details{Local: g.pair.Local.String(), Remote: g.pair.Remote.String(), Relayed: g.pair.Relayed}
	if !d.Relayed {
		d.More = g.more
	}
	return d
}

// acceptOwn accepts QUIC over the agent's connection.
func (g *peering) acceptOwn(sock *quic.Socket) {
	for {
		c, err := sock.Accept(g.ctx)
		if err != nil {
			return
		}
		g.join(c, g.details())
	}
}

// joining is a QUIC path that the peer has dialed.
type joining struct {
	path  *path.Group
	began time.Time
	n     int           // connections so far
	full  chan struct{} // closed when all have come
}

// join takes a connection that the peer has dialed. Those that come together are one path, which is served at once, but taken into use when all are there or
// joinRest has passed, as a Link opens its streams in one go. One that comes when the peer has given up the rest is the first of another path.
func (g *peering) join(c *quic.Conn, d path.Details) {
	if c.More() {
		if group := g.group(); group == nil || !group.Add(c) {
			c.Close()
		}
		return
	}
	g.mu.Lock()
	if j := g.joining; j != nil && j.n < quicConns && time.Since(j.began) < 2*dialRest && j.path.Add(c) {
		if j.n++; j.n == quicConns {
			close(j.full)
		}
		g.mu.Unlock()
		return
	}
	j := &joining{path: path.QUIC(c, d), began: time.Now(), n: 1, full: make(chan struct{})}
	g.joining = j
	g.mu.Unlock()
	r := g.take(j.path)
	if r == nil {
		return
	}
	if d.Relayed {
		g.use(r)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed { // and g.wg waited for
		return
	}
	g.wg.Go(func() {
		t := time.NewTimer(joinRest)
		defer t.Stop()
		select {
		case <-j.full:
		case <-t.C:
		case <-r.Done():
		case <-g.ctx.Done():
		}
		g.use(r)
	})
}

// group returns the best QUIC path, nil if there is none.
func (g *peering) group() *path.Group {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.routes {
		if group, ok := r.Path.(*path.Group); ok && !r.over() {
			return group
		}
	}
	return nil
}

// openChannels makes a path of data channels: the last resort. The answerer waits here for the offerer to want it.
func (g *peering) openChannels(ctx context.Context) {
	if g.offerer {
		g.note(path.KindWebRTC, nil)
	}
	c, err := g.agent.Channels(ctx)
	if err != nil {
		if g.ctx.Err() == nil && (g.offerer || !errors.Is(err, context.Canceled)) {
			g.note(path.KindWebRTC, err)
		}
		return
	}
	g.add(path.WebRTC(c, g.details()))
}

// has reports whether there is a path of that kind.
func (g *peering) has(kind string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.routes, func(r *route) bool { return r.kind == kind })
}

// best returns the best path, nil if there is none.
func (g *peering) best() path.Path {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.routes {
		if !r.over() {
			return r
		}
	}
	return nil
}

// add takes a path and uses it.
func (g *peering) add(pt path.Path) {
	if r := g.take(pt); r != nil {
		g.use(r)
	}
}

// take takes a path, nil if it is too late for any. Streams that the peer opens on it are served until it ends; use has it used for what is asked here.
func (g *peering) take(pt path.Path) *route {
	info := pt.Info()
	r := &route{Path: pt, p: g.p, kind: info.Kind, rank: rank(info)}
	g.mu.Lock()
	closed := g.closed
	if !closed {
		g.wg.Go(func() { g.serve(r) })
	}
	g.mu.Unlock()
	if closed {
		pt.Close()
		return nil
	}
	return r
}

// use asks on a path from now on, if there is no better one. It reports whether the path is still there.
func (g *peering) use(r *route) bool {
	info := r.Info()
	g.mu.Lock()
	if g.closed || r.over() {
		g.mu.Unlock()
		return false
	}
	first := !g.live
	g.live = true
	g.step = "connected"
	delete(g.tried, info.Kind)
	g.routes = append(g.routes, r)
	slices.SortStableFunc(g.routes, func(a, b *route) int { return a.rank - b.rank })
	better := !first && g.routes[0] == r
	g.mu.Unlock()
	g.p.m.log.Info("path", "peer", g.p.id, "kind", info.Kind, "remote", info.Remote, "relayed", info.Relayed)
	if first && !g.p.promote(g) {
		g.stop(fmt.Errorf("peer: %w: another connection came first", errAnew))
		return false
	}
	if better {
		g.p.upgrade(r)
	}
	g.mu.Lock()
	select {
	case <-g.upped:
	default:
		close(g.upped)
	}
	g.mu.Unlock()
	return true
}

// serve serves what the peer asks on a path, until that ends.
func (g *peering) serve(r *route) {
	err := g.p.m.server.Serve(g.ctx, g.p.id, g.remote.ann.Instance, r)
	if !r.over() && g.ctx.Err() == nil {
		g.p.m.log.Warn("a path cannot be served", "peer", g.p.id, "kind", r.kind, "error", err)
		select {
		case <-r.Done():
		case <-g.ctx.Done():
		}
	}
	reason := r.Err()
	r.Close()
	g.mu.Lock()
	if !slices.Contains(g.routes, r) { // it ended before it was used, or everything does
		g.mu.Unlock()
		return
	}
	g.routes = slices.DeleteFunc(g.routes, func(x *route) bool { return x == r })
	lost := len(g.routes) == 0 && !g.closed
	if left := slices.Clone(g.routes); len(left) > 0 && !g.closed {
		g.wg.Go(func() { g.probe(left) })
	}
	if lost {
		g.live, g.lostAt, g.step = false, time.Now(), fmt.Sprintf("the last path, %s, was lost: %v", r.kind, reason)
	}
	g.mu.Unlock()
	if g.ctx.Err() == nil {
		g.p.m.log.Info("path lost", "peer", g.p.id, "kind", r.kind, "error", reason)
	}
	if lost {
		g.p.lost(g)
	}
}

// probe asks the peer for a sign of life, as a path to it has ended, and ends the other paths if none comes: they would take longer to notice.
func (g *peering) probe(left []*route) {
	g.p.mu.Lock()
	l := g.p.link
	g.p.mu.Unlock()
	if l == nil || g.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(g.ctx, probeTime)
	defer cancel()
	if _, err := l.Ping(ctx); err == nil || g.ctx.Err() != nil {
		return
	}
	for _, r := range left {
		r.Close()
	}
}

// redial has known addresses dialed again while somebody waits. p.mu may be held.
func (g *peering) redial() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.redialing || g.closed || g.live {
		return
	}
	g.redialing = true
	g.wg.Go(g.redialed)
}

func (g *peering) redialed() {
	defer func() {
		g.mu.Lock()
		g.redialing = false
		g.mu.Unlock()
	}()
	m := g.p.m
	for pause := firstBackoff; g.ctx.Err() == nil && !g.isUp(); pause = min(2*pause, 2*time.Second) {
		canTLS := m.o.Paths&TLS != 0 && len(g.remote.addrs) > 0
		canQUIC := m.o.Paths&QUIC != 0 && g.remote.ann.QUIC && !failed(g.agent)
		if !canTLS && !canQUIC || time.Since(g.lostSince()) > max(m.o.Timeout, keepLost) {
			g.stop(fmt.Errorf("peer: %w: the connection was lost, and cannot be made again without a new offer", transport.ErrUnavailable))
			return
		}
		var wg sync.WaitGroup
		if canTLS {
			wg.Go(func() { g.dialTLS(g.ctx) })
		}
		if canQUIC {
			wg.Go(func() { g.dialQUIC(g.ctx) })
		}
		wg.Wait()
		if g.isUp() || !m.sleep(g.ctx, pause) || !g.p.wanted() {
			return
		}
	}
}

// wanted reports whether somebody waits for the peer.
func (p *peer) wanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiters > 0 || p.asking.Load() > 0
}

func failed(a *webrtc.Agent) bool {
	select {
	case <-a.Failed():
		return true
	default:
		return false
	}
}

// improve looks for a better path than there is. It does not wait.
func (g *peering) improve() {
	m := g.p.m
	if g.has(path.KindTLS) || !g.isUp() {
		return
	}
	g.wg.Go(func() {
		if m.o.Paths&TLS != 0 && len(g.remote.addrs) > 0 && g.dialTLS(g.ctx) == nil {
			return
		}
		if g.offerer && m.o.Paths&QUIC != 0 && g.remote.ann.QUIC && !g.has(path.KindQUIC) && !failed(g.agent) {
			g.dialQUIC(g.ctx)
		}
	})
}

// acceptQUIC hands connections to the negotiations that expect them.
func (m *Manager) acceptQUIC() {
	for {
		c, err := m.sock.Accept(m.ctx)
		if err != nil {
			return
		}
		if g, err := m.certs.find(c.PeerCertificate()); err == nil && g.ours && m.o.Paths&QUIC != 0 {
			d := g.details()
			d.Local, d.Remote = "", "" // the connection's own
			g.join(c, d)
		} else {
			c.Close()
		}
	}
}

// acceptTLS does so with TLS paths.
func (m *Manager) acceptTLS() {
	for {
		id, pt, err := m.tls.Accept(m.ctx)
		if err != nil {
			return
		}
		if g := m.expecting(id); g != nil {
			g.add(pt)
		} else {
			pt.Close()
		}
	}
}

// expecting returns the negotiation with the peer that a TLS path is for. Those of one peer share the certificate, unless it has just been restarted.
func (m *Manager) expecting(id uuid.UUID) *peering {
	p := m.find(id)
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range []*peering{p.next, p.cur} {
		if g != nil && g.expected && g.ours {
			return g
		}
	}
	return nil
}
