package path

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/transport/quic"
)

// QUIC returns a Path over c, which it takes, and to which others may be added. Streams are bounded by quic.Options.Streams, on each connection.
func QUIC(c *quic.Conn, d Details) *Group {
	p := &Group{d: d, since: time.Now(), accepts: make(chan net.Conn), done: make(chan struct{}), first: c}
	p.Add(c)
	return p
}

// MaxConns is how many connections Widen makes a Group have at most, and how many Add takes.
const MaxConns = 16

// A Group is a Path of one or several QUIC connections to the same peer, each of which has a congestion window of its own. A stream is opened on the one
// with the fewest, the first one on the first connection. One that ends takes its own streams with it and no others; the Path has ended when all have.
type Group struct {
	d       Details
	since   time.Time
	accepts chan net.Conn
	done    chan struct{}
	wg      sync.WaitGroup
	widen   sync.Mutex // one at a time

	mu    sync.Mutex
	conns []*quic.Conn // that have not ended
	first *quic.Conn   // of those, or what ended last
	turn  int
	err   error // it has ended, or is being closed
}

// Add adds a connection, and takes it. It reports false if the Path has ended, or has MaxConns: then c stays the caller's.
func (p *Group) Add(c *quic.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || len(p.conns) >= MaxConns {
		return false
	}
	p.conns = append(p.conns, c)
	p.wg.Go(func() { p.accept(c) })
	return true
}

// accept hands on the streams of one connection until that ends.
func (p *Group) accept(c *quic.Conn) {
	for {
		s, err := c.Accept(context.Background()) // ends with c
		if err != nil {
			break
		}
		select {
		case p.accepts <- s:
		case <-c.Done():
			s.Close()
		}
	}
	<-c.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(x *quic.Conn) bool { return x == c })
	if len(p.conns) > 0 {
		p.first = p.conns[0]
		return
	}
	if p.err == nil {
		p.err = c.Err()
	}
	close(p.done)
}

// Open is Path's. A connection that has ended is passed over.
func (p *Group) Open(ctx context.Context) (net.Conn, error) {
	for {
		c, err := p.next()
		if err != nil {
			return nil, err
		}
		s, err := c.Open(ctx)
		if err == nil || ctx.Err() != nil {
			return s, err
		}
		select {
		case <-c.Done(): // about to be, as there is no other reason
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Widen is Path's. It dials what is missing to n connections, or to MaxConns, all at once.
func (p *Group) Widen(ctx context.Context, n int) error {
	if p.d.More == nil {
		return fmt.Errorf("path: more connections: %w", errors.ErrUnsupported)
	}
	p.widen.Lock()
	defer p.widen.Unlock()
	p.mu.Lock()
	to, err := p.first.RemoteAddr(), p.err
	errs := make([]error, max(min(n, MaxConns)-len(p.conns), 0))
	p.mu.Unlock()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			c, err := p.d.More(ctx, to)
			if err == nil && !p.Add(c) {
				c.Close()
				err = errClosed
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// next returns the connection with the fewest streams, among equals that whose turn it is.
func (p *Group) next() (*quic.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	var best *quic.Conn
	for i := range p.conns {
		c := p.conns[(p.turn+i)%len(p.conns)]
		if !over(c) && (best == nil || c.Opened() < best.Opened()) {
			best = c
		}
	}
	p.turn++
	if best == nil {
		return nil, p.first.Err() // all have ended, which accept is about to notice
	}
	return best, nil
}

func over(c *quic.Conn) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// Accept is Path's.
func (p *Group) Accept(ctx context.Context) (net.Conn, error) {
	select {
	case s := <-p.accepts:
		return s, nil
	case <-p.done:
		return nil, p.Err()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Done is Path's.
func (p *Group) Done() <-chan struct{} { return p.done }

// Err is Path's.
func (p *Group) Err() error {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.err
	default:
		return nil
	}
}

// Close is Path's.
func (p *Group) Close() error {
	p.mu.Lock()
	if p.err == nil {
		p.err = errClosed
	}
	conns := slices.Clone(p.conns)
	p.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	p.wg.Wait()
	return nil
}

// Info is Path's: addresses and round trip are the first connection's.
func (p *Group) Info() Info {
	p.mu.Lock()
	c, n := p.first, len(p.conns)
	p.mu.Unlock()
	i := Info{Kind: KindQUIC, Conns: n, Local: p.d.Local, Remote: p.d.Remote, Relayed: p.d.Relayed, RTT: c.RTT(), Since: p.since}
	if i.Local == "" {
		i.Local = c.LocalAddr().String()
	}
	if i.Remote == "" || !i.Relayed { // where it is now, if the peer's address has changed
		i.Remote = c.RemoteAddr().String()
	}
	return i
}
