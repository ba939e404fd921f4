package zmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxyplane/proxyplane/internal/gate"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// A client that wants to know who the server is sends ping and an empty part. Python's server joins the parts to "ping", which it answers with "pong".
// Ours answers with a second part, marker. What follows is native frames, or, with empty delimiters, messages as Python's clients send them.
const marker = "proxyplane/1"

var (
	ping  = []byte("ping")
	hello = [][]byte{ping, nil}
	pongs = transport.Slices{[]byte("pong"), []byte(marker)}
)

// Server serves a Store. It implements objects.Server.
type Server struct {
	o      *ListenOptions
	engine *native.Server
	acc    acceptor
	ctx    context.Context // of the handlers and sessions; ends with Close
	end    context.CancelFunc
	peers  *gate.Gate
	last   atomic.Int64 // see collector

	mu       sync.Mutex
	idle     map[link]struct{} // links that are not with the engine
	draining atomic.Bool
}

var _ objects.Server = (*Server)(nil)

// Listen serves the store at addr, "tcp://host:port" or "ipc:///path", from when it returns. ctx bounds only the start.
func Listen(ctx context.Context, addr string, store objects.Store, o ListenOptions) (*Server, error) {
	op, err := o.complete()
	if err != nil {
		return nil, err
	}
	a, err := parseAddress(addr)
	if err != nil {
		return nil, err
	}
	a, loopback, err := a.resolve(ctx)
	if err != nil {
		return nil, err
	}
	if !loopback && op.Curve == nil && len(op.Token) == 0 && !op.Insecure {
		return nil, fmt.Errorf("zmq: listen on %s: %w: anybody who reaches that address could read, change and delete the objects: listen on 127.0.0.1, "+
			"set a token or CURVE (Python's connector can use neither), or say with Insecure that the network is safe", a, transport.ErrDenied)
	}
	s := &Server{o: op, engine: native.NewServer(store, op.ServerOptions), peers: gate.New(), idle: map[link]struct{}{}}
	s.ctx, s.end = context.WithCancel(context.Background())
	if s.acc, err = op.listen(ctx, a, op, s.serve); err != nil {
		s.end()
		return nil, errors.Join(err, s.engine.Close())
	}
	return s, nil
}

// Addr implements objects.Server.
func (s *Server) Addr() string { return s.acc.address() }

// Stats returns what native clients did so far.
func (s *Server) Stats() native.Stats { return s.engine.Stats() }

// Shutdown implements objects.Server.
func (s *Server) Shutdown(ctx context.Context) error {
	s.acc.stop()
	s.mu.Lock()
	s.draining.Store(true)
	for l := range s.idle {
		l.interrupt()
	}
	s.mu.Unlock()
	s.peers.Shut()
	err := s.engine.Shutdown(ctx)
	select {
	case <-s.peers.Drained():
	case <-ctx.Done():
		err = ctx.Err()
	}
	if e := s.Close(); err == nil {
		err = e
	}
	return err
}

// Close implements objects.Server.
func (s *Server) Close() error {
	s.end()
	s.peers.Shut()
	err := s.engine.Close()
	s.acc.close()
	return err
}

// serve is called for each peer, in a goroutine of its own.
func (s *Server) serve(l link) {
	if !s.peers.Enter() {
		return
	}
	defer s.peers.Leave()
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		return
	}
	s.idle[l] = struct{}{}
	s.mu.Unlock()
	err := s.talk(l)
	s.engaged(l)
	if err == nil || err == io.EOF || s.ctx.Err() != nil {
		return
	}
	level := slog.LevelWarn
	if errors.Is(err, transport.ErrUnavailable) {
		level = slog.LevelDebug // peers come and go
	}
	s.o.Logger.Log(s.ctx, level, "zmq: a peer was hung up on", "peer", l.remote(), "error", err)
}

// engaged says that l is not to be interrupted any more.
func (s *Server) engaged(l link) {
	s.mu.Lock()
	delete(s.idle, l)
	s.mu.Unlock()
}

// errDrained ends the conversation with a peer that wants nothing just now.
var errDrained = fmt.Errorf("%w: the server is shutting down", transport.ErrUnavailable)

// talk finds out who the peer is, and serves it.
func (s *Server) talk(l link) error {
	p := python{s: s, l: l, in: collector{max: s.o.MaxMessage, pool: transport.DefaultPool, last: &s.last}, guard: guard{l: l}}
	p.in.progress = func() { p.guard.arm(s.o.StallTimeout) }
	defer p.in.drop()
	defer p.guard.stop()
	err := s.converse(l, &p)
	if late := p.guard.fired.Load(); late != 0 && err != nil {
		err = fmt.Errorf("zmq: %s: %w: nothing came or went for %v", l.remote(), transport.ErrUnavailable, time.Duration(late))
	}
	return err
}

func (s *Server) converse(l link, p *python) error {
	greeted := false // the peer has said hello
	for {
		p.guard.arm(p.patience())
		n, more, err := s.next(l)
		p.guard.arm(s.o.StallTimeout)
		switch {
		case err != nil:
			return err
		case n == 0 && more:
			err = p.one()
		case greeted:
			s.engaged(l)
			p.guard.stop()
			return s.engine.ServeCarrier(s.ctx, newCarrier(l, true, n, more))
		default:
			err = s.hello(l, n, more)
			greeted = true
		}
		if err != nil {
			return err
		}
		greeted = greeted || p.hello
	}
}

// next waits for the next message.
func (s *Server) next(l link) (int64, bool, error) {
	for {
		if s.draining.Load() {
			return 0, false, errDrained
		}
		n, more, err := l.next()
		if err != native.ErrInterrupted {
			return n, more, err
		}
	}
}

// hello answers a hello without delimiter, whose first part has begun.
func (s *Server) hello(l link, n int64, more bool) error {
	var b [4]byte
	if n == int64(len(b)) && more {
		if err := persist(func() error {
			k, err := l.read(b[4-n:])
			n -= int64(k)
			return err
		}); err != nil {
			return err
		}
		n, more, err := persistNext(l)
		if err != nil {
			return err
		}
		if n == 0 && !more && bytes.Equal(b[:], ping) {
			return l.send(pongs[0], nil, pongs[1:], asParts)
		}
	}
	return corrupt("%s: the first message is neither a hello nor a request of ProxyStore's Python clients", l.remote())
}

// persist calls f until it is not interrupted: Shutdown lets go on what has begun.
func persist(f func() error) error {
	for {
		if err := f(); err != native.ErrInterrupted {
			return err
		}
	}
}

func persistNext(l link) (n int64, more bool, err error) {
	err = persist(func() (err error) {
		n, more, err = l.next()
		return err
	})
	return n, more, err
}

// python is the conversation with a peer that sends requests as Python's clients do: one at a time.
type python struct {
	s     *Server
	l     link
	in    collector
	hello bool // it was a client of ours that asked who we are
	known bool // it had a request answered
	guard guard
}

// patience is how long the next message may take to begin. Strangers, who may not be allowed to ask for anything, must not sit on all connections.
func (p *python) patience() time.Duration {
	idle, stall := p.s.o.IdleTimeout, p.s.o.StallTimeout
	if !p.known && stall > 0 && (idle <= 0 || idle > stall) {
		return stall
	}
	return idle
}

// guard closes a link on which there is no progress. It belongs to one goroutine, which arms it again and again.
type guard struct {
	l     link
	t     *time.Timer
	fired atomic.Int64 // the time that ran out
	d     atomic.Int64
}

// arm allows so much time until it is armed or stopped again. None, or a negative one, is any.
func (g *guard) arm(d time.Duration) {
	g.d.Store(int64(d))
	switch {
	case d <= 0:
		g.stop()
	case g.t == nil:
		g.t = time.AfterFunc(d, func() {
			g.fired.Store(g.d.Load())
			g.l.close()
		})
	default:
		g.t.Reset(d)
	}
}

func (g *guard) stop() {
	if g.t != nil {
		g.t.Stop()
	}
}

// one reads and answers a message whose delimiter was read.
func (p *python) one() error {
	n, more, err := persistNext(p.l)
	if err != nil {
		return err
	}
	o := p.s.o
	refused := ""
	switch {
	case o.Python == nil:
		refused = "this server serves native clients only"
	case len(o.Token) > 0 && !o.Insecure:
		refused = "this server wants a token, which Python's connector cannot send (Insecure serves Python all the same)"
	}
	if refused != "" && n > int64(len(ping)) {
		return fmt.Errorf("zmq: %w: a request of a Python client: %s", transport.ErrDenied, refused)
	}
	p.in.begin(n, more, 0)
	if refused != "" {
		p.in.max = int64(len(ping))
	}
	if err := persist(func() error { return p.in.run(p.l) }); err != nil {
		return err
	}
	parts := p.in.parts
	req := p.in.message()
	if req.Len() == len(ping) && bytes.Equal(req.Bytes(), ping) {
		req.Release()
		switch {
		case parts == 2:
			p.hello = true
			return p.l.send(nil, nil, pongs, asParts)
		case refused == "":
			return p.l.send(nil, nil, pongs[:1], asParts)
		}
	} else if refused == "" {
		return p.answer(req)
	} else {
		req.Release()
	}
	// It must not believe that this is a server for it: no answer is what Python's connector reports, after a time, as ServerTimeoutError.
	return fmt.Errorf("zmq: %w: a Python client: %s", transport.ErrDenied, refused)
}

// answer takes req.
func (p *python) answer(req *transport.Buffer) error {
	p.guard.stop()
	reply, release, err := p.s.o.Python(p.s.ctx, req)
	if release != nil {
		defer release()
	}
	if err != nil {
		return fmt.Errorf("zmq: a request of a Python client: %w", err)
	}
	p.known = true
	n, stall := reply.Len(), p.s.o.StallTimeout
	if l, ok := p.l.(pacer); ok && n >= stride { // else the guard is as good
		l.pace(stall)
		defer l.pace(0)
	}
	p.guard.arm(stall * time.Duration(1+n/stride))
	return p.l.send(nil, nil, reply, p.s.o.ChunkLength)
}

// backoff waits a little longer each time.
type backoff struct{ d time.Duration }

func (b *backoff) reset() { b.d = 0 }

// wait reports false if ctx ended.
func (b *backoff) wait(ctx context.Context) bool {
	b.d = min(max(2*b.d, 5*time.Millisecond), time.Second)
	t := time.NewTimer(b.d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
