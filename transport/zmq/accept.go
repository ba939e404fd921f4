package zmq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/proxyplane/proxyplane/transport"
)

// pureAcceptor is the acceptor in Go: a goroutine that accepts, and one for each connection.
type pureAcceptor struct {
	ln    net.Listener
	o     *ListenOptions
	serve func(link)
	ctx   context.Context // of the handshakes; ends with close
	end   context.CancelFunc
	gone  sync.WaitGroup

	mu      sync.Mutex
	links   map[*wire]struct{}
	stopped bool
}

// listenPure is listenFunc in Go.
func listenPure(ctx context.Context, a address, o *ListenOptions, serve func(link)) (acceptor, error) {
	if a.network == "unix" {
		if err := clearSocket(a.host); err != nil {
			return nil, fmt.Errorf("zmq: listen on %s: %w", a, err)
		}
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, a.network, a.host)
	if err != nil {
		return nil, fmt.Errorf("zmq: listen on %s: %w", a, err)
	}
	if a.network == "unix" && !strings.HasPrefix(a.host, "@") {
		if err := os.Chmod(a.host, 0o600); err != nil { // whoever may connect may read and write every object
			ln.Close()
			return nil, fmt.Errorf("zmq: listen on %s: %w", a, err)
		}
	}
	p := &pureAcceptor{ln: ln, o: o, serve: serve, links: map[*wire]struct{}{}}
	p.ctx, p.end = context.WithCancel(context.Background())
	p.gone.Go(p.run)
	return p, nil
}

func (p *pureAcceptor) address() string {
	a := address{"unix", p.ln.Addr().String()}
	if p.ln.Addr().Network() == "tcp" {
		a.network = "tcp"
	}
	return a.String()
}

func (p *pureAcceptor) run() {
	var pause backoff
	for {
		nc, err := p.ln.Accept()
		switch {
		case err == nil:
			pause.reset()
			p.admit(nc)
		case errors.Is(err, net.ErrClosed) || p.ctx.Err() != nil:
			return
		default: // too many open files, or a peer that was gone before it was here
			p.o.Logger.Warn("zmq: accept failed", "address", p.address(), "error", err)
			if !pause.wait(p.ctx) {
				return
			}
		}
	}
}

func (p *pureAcceptor) admit(nc net.Conn) {
	w := newWire(nc)
	p.mu.Lock()
	full := len(p.links) >= p.o.MaxConnections
	if !p.stopped && !full {
		p.links[w] = struct{}{}
		p.gone.Go(func() { p.one(w) })
		p.mu.Unlock()
		return
	}
	stopped := p.stopped
	p.mu.Unlock()
	nc.Close()
	if !stopped {
		p.o.Logger.Warn("zmq: a peer was turned away: too many connections", "peer", w.remote(), "limit", p.o.MaxConnections)
	}
}

func (p *pureAcceptor) one(w *wire) {
	defer func() {
		w.close()
		p.mu.Lock()
		delete(p.links, w)
		p.mu.Unlock()
	}()
	err := w.bounded(p.ctx, p.o.HandshakeTimeout, func() error { return w.accept(p.o.Curve) })
	switch {
	case err == nil:
		p.serve(w)
	case errors.Is(err, transport.ErrDenied):
		p.o.Logger.Warn("zmq: a peer was refused", "peer", w.remote(), "error", err)
	default:
		p.o.Logger.Debug("zmq: a handshake failed", "peer", w.remote(), "error", err)
	}
}

func (p *pureAcceptor) stop() {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.ln.Close()
}

func (p *pureAcceptor) close() {
	p.stop()
	p.end()
	p.mu.Lock()
	for w := range p.links {
		w.close()
	}
	p.mu.Unlock()
	p.gone.Wait()
}
