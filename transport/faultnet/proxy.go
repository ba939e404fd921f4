package faultnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of a Proxy, in each direction of each connection.
const (
	pieceSize = 32 << 10
	maxQueued = 128 // pieces on their way; a sender that is faster is held back
)

// Proxy forwards connections to a target, with faults. Methods may be called by many goroutines at once.
type Proxy struct {
	l      net.Listener
	addr   string
	target [2]string // network, address
	ctx    context.Context
	stop   context.CancelFunc
	wg     sync.WaitGroup
	count  counters
	once   sync.Once
	err    error // of Close

	mu     sync.Mutex
	plan   Plan
	n      uint64
	pairs  map[*pair]struct{}
	gate   chan struct{} // closed while bytes may pass
	paused bool
	closed bool
}

// pair is one forwarded connection.
type pair struct {
	p        *Proxy
	client   net.Conn
	target   net.Conn // nil until it is reached
	up, down *flow
	done     chan struct{}
	once     sync.Once
	ends     sync.WaitGroup
}

// NewProxy listens on addr and forwards every connection to target. Addresses are "tcp://host:port" or plain "host:port", and "unix:///path" or
// "ipc:///path". Port 0 takes a free one: see Addr. The caller must Close the Proxy.
func NewProxy(addr, target string, plan Plan) (*Proxy, error) {
	network, address, scheme, err := split(addr)
	if err != nil {
		return nil, err
	}
	p := &Proxy{plan: plan, pairs: map[*pair]struct{}{}, gate: make(chan struct{})}
	close(p.gate)
	if p.target[0], p.target[1], _, err = split(target); err != nil {
		return nil, err
	}
	if p.l, err = net.Listen(network, address); err != nil {
		return nil, err
	}
	p.addr = scheme + p.l.Addr().String()
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	return p, nil
}

func split(addr string) (network, address, scheme string, err error) {
	scheme, address, found := strings.Cut(addr, "://")
	switch {
	case !found:
		return "tcp", addr, "", nil
	case scheme == "tcp":
		return "tcp", address, "tcp://", nil
	case scheme == "unix" || scheme == "ipc":
		return "unix", address, scheme + "://", nil
	}
	return "", "", "", fmt.Errorf("faultnet: address %q: want tcp://host:port, host:port, unix:///path or ipc:///path", addr)
}

// Addr is where clients dial, in the form that NewProxy was given.
func (p *Proxy) Addr() string { return p.addr }

// Stats returns the counts of all connections so far.
func (p *Proxy) Stats() Stats { return p.count.stats() }

// Conns returns how many connections are open now.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pairs)
}

// Set changes what goes wrong, with open connections and with new ones. Seeds of open connections stay what they were.
func (p *Proxy) Set(plan Plan) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan = plan
	for c := range p.pairs {
		c.up.set(plan.Read)
		c.down.set(plan.Write)
	}
}

// BlackHole begins or ends Drop in both directions; the rest of the plan stays. Connections that lost bytes stay dead.
func (p *Proxy) BlackHole(on bool) {
	p.mu.Lock()
	plan := p.plan
	p.mu.Unlock()
	plan.Read.Drop, plan.Write.Drop = on, on
	p.Set(plan)
}

// Pause holds everything back, without losing a byte; connections are still accepted. Senders are blocked when the buffers on the way are full.
func (p *Proxy) Pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.paused {
		p.paused, p.gate = true, make(chan struct{})
	}
}

// Resume ends Pause.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused {
		p.paused = false
		close(p.gate)
	}
}

// CutAll ends all open connections, on both sides, by a reset if it is set. New ones may come.
func (p *Proxy) CutAll(reset bool) {
	for _, c := range p.open() {
		p.count.cuts.Add(1)
		c.close(reset)
	}
}

func (p *Proxy) open() []*pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.pairs))
}

// Close ends everything and waits for it. Idempotent.
func (p *Proxy) Close() error {
	p.once.Do(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.stop()
		p.err = p.l.Close()
		for _, c := range p.open() {
			c.close(false)
		}
	})
	p.wg.Wait()
	return p.err
}

func (p *Proxy) accept() {
	for {
		client, err := p.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say
			if !sleep(p.ctx.Done(), 10*time.Millisecond) {
				return
			}
			continue
		}
		p.mu.Lock()
		seed := p.plan.Seed + p.n
		p.n++
		p.count.conns.Add(1)
		c := &pair{
			p: p, client: client, done: make(chan struct{}), up: newFlow(seed, 0, p.plan.Read, &p.count), down: newFlow(seed, 1, p.plan.Write, &p.count),
		}
		if p.closed {
			p.mu.Unlock()
			_ = client.Close()
			return
		}
		p.pairs[c] = struct{}{}
		p.mu.Unlock()
		p.wg.Go(c.run)
	}
}

// sleep waits, and reports false if done came first.
func sleep(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	}
}

func (c *pair) run() {
	defer func() {
		c.close(false)
		c.ends.Wait()
		c.p.mu.Lock()
		delete(c.p.pairs, c)
		c.p.mu.Unlock()
	}()
	if !c.pass() { // a paused network does not connect either
		return
	}
	var d net.Dialer
	ctx, cancel := context.WithCancel(c.p.ctx)
	defer cancel()
	c.ends.Go(func() {
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	})
	target, err := d.DialContext(ctx, c.p.target[0], c.p.target[1])
	if err != nil {
		return // the client sees that nobody is there
	}
	c.p.mu.Lock()
	c.target = target
	c.p.mu.Unlock()
	select {
	case <-c.done: // close may have missed the target
		_ = target.Close()
		return
	default:
	}
	var both sync.WaitGroup
	both.Go(func() { c.forward(c.client, target, c.up, &c.p.count.bytesRead) })
	both.Go(func() { c.forward(target, c.client, c.down, &c.p.count.bytesWritten) })
	both.Wait()
	cancel()
}

// close ends both sides.
func (c *pair) close(reset bool) {
	c.once.Do(func() {
		close(c.done)
		c.p.mu.Lock()
		target := c.target
		c.p.mu.Unlock()
		for _, side := range []net.Conn{c.client, target} {
			if side == nil {
				continue
			}
			if l, ok := side.(interface{ SetLinger(int) error }); ok && reset {
				_ = l.SetLinger(0)
			}
			_ = side.Close()
		}
	})
}

// pass waits while the proxy is paused, and reports false when the connection has ended.
func (c *pair) pass() bool {
	for {
		c.p.mu.Lock()
		gate := c.p.gate
		c.p.mu.Unlock()
		select {
		case <-c.done:
			return false
		default:
		}
		select {
		case <-gate:
			c.p.mu.Lock()
			open := gate == c.p.gate
			c.p.mu.Unlock()
			if open {
				return true
			}
		case <-c.done:
			return false
		}
	}
}

// piece is bytes on their way, or the end of them.
type piece struct {
	data []byte
	due  time.Time // zero is now
	end  end
}

type end uint8

const (
	goesOn   end = iota
	closed       // the sender has no more
	cut          // as planned
	reset        // as planned, or because the sender did so
	vanished     // the end was dropped, like the bytes before it
)

// forward moves bytes one way until an end, a cut or an error. The end of one direction is passed on alone; the other goes on.
func (c *pair) forward(from, to net.Conn, w *flow, count *atomic.Int64) {
	pieces := make(chan piece, maxQueued)
	var wg sync.WaitGroup
	wg.Go(func() { c.deliver(pieces, to, count) })
	defer wg.Wait()
	defer close(pieces)
	send := func(p piece) bool {
		select {
		case pieces <- p:
			return p.end == goesOn
		case <-c.done:
			return false
		}
	}
	buf := make([]byte, pieceSize)
	for {
		n, err := from.Read(buf)
		for data, continued := buf[:n], false; len(data) > 0; continued = true {
			v := w.next(len(data), continued)
			switch {
			case v.cut || v.err != nil:
				c.p.count.cuts.Add(1)
				send(piece{end: cutBy(v.reset)})
				return
			case v.drop:
				w.lose(len(data))
				data = nil
				continue
			}
			p := piece{data: append([]byte(nil), data[:v.n]...)}
			if d := w.pass(p.data); d > 0 {
				p.due = time.Now().Add(d)
			}
			if !send(p) {
				return
			}
			data = data[v.n:]
			if now, hard := w.atCut(); now {
				c.p.count.cuts.Add(1)
				send(piece{end: cutBy(hard)})
				return
			}
		}
		switch {
		case err == nil:
			continue
		case w.dropping():
			send(piece{end: vanished})
		case errors.Is(err, io.EOF):
			send(piece{end: closed})
		default:
			send(piece{end: reset})
		}
		return
	}
}

func cutBy(hard bool) end {
	if hard {
		return reset
	}
	return cut
}

// deliver writes pieces when their time has come.
func (c *pair) deliver(pieces <-chan piece, to net.Conn, count *atomic.Int64) {
	for {
		var p piece
		var open bool
		select {
		case p, open = <-pieces:
		case <-c.done:
			return
		}
		if !open || !c.pass() {
			return
		}
		if d := time.Until(p.due); !p.due.IsZero() && d > 0 && (!sleep(c.done, d) || !c.pass()) {
			return
		}
		switch p.end {
		case closed:
			if h, ok := to.(interface{ CloseWrite() error }); !ok || h.CloseWrite() != nil {
				c.close(false)
			}
			return
		case vanished:
			<-c.done
			return
		case cut, reset:
			c.close(p.end == reset)
			return
		}
		n, err := to.Write(p.data)
		count.Add(int64(n))
		if err != nil {
			c.close(false)
			return
		}
	}
}
