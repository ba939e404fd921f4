package ucx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"

	"github.com/proxyplane/proxyplane/cgo/ucx"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// A Server serves one Store. It implements objects.Server.
type Server struct {
	o      ListenOptions
	log    *slog.Logger
	native *native.Server
	addr   netip.AddrPort
	uc     *ucx.Context
	e      *engine // of the listener, of Python's connections, and of native ones beyond Workers
	l      *ucx.Listener
	share  bool
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // of connections
	driver sync.WaitGroup
	once   sync.Once

	mu      sync.Mutex
	closing bool
	conns   int // all
	engines int // connections that have a worker of their own
	open    map[*carrier][]string
	stats   Stats
}

var _ objects.Server = (*Server)(nil)

// Stats of a Server since it was made.
type Stats struct {
	native.Stats
	Conns  int64 // connections now
	Turned int64 // connection requests that were refused: MaxConns were open, or it was Python's and there is no handler for those
	Python int64 // connections of Python's that there ever were
}

// Listen serves store at "host:port" from now on; no host is loopback, port 0 is any. ctx bounds only the start. In a program without UCX the error
// matches transport.ErrNotBuilt.
func Listen(ctx context.Context, addr string, store objects.Store, o ListenOptions) (*Server, error) {
	o = o.withDefaults()
	addrs, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%w: %s has no address", transport.ErrUnavailable, addr)
	}
	a := addrs[0]
	if !a.Addr().IsLoopback() && !o.Insecure && len(o.Token) == 0 {
		return nil, fmt.Errorf("%w: %s can be reached from other hosts: set a Token, or Insecure, if everybody may read and write all objects",
			transport.ErrDenied, addr)
	}
	if o.Python != nil && len(o.Token) > 0 {
		return nil, fmt.Errorf("%w: Python's clients cannot show a token: serve them at an address of their own", transport.ErrDenied)
	}
	uc, err := openContext(a, o.Config, o.Keepalive, 0)
	if err != nil {
		return nil, err
	}
	e, err := newEngine(uc, ucx.WorkerOptions{}, o.BusyPoll)
	if err != nil {
		uc.Close()
		return nil, err
	}
	s := &Server{o: o, log: o.Logger, native: native.NewServer(store, o.ServerOptions), uc: uc, e: e, open: map[*carrier][]string{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.share = !o.NoSharedMemory && sharesMemory(uc)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	e.lock()
	e.conn = s.requested
	err = e.w.HandleMessages(amID)
	if err == nil {
		if s.l, err = e.w.Listen(a, 0); errors.Is(err, ucx.ErrBusy) {
			err = fmt.Errorf("%w: %w", syscall.EADDRINUSE, err) // what UCX means by it, and callers look for
		}
	}
	if err == nil {
		if s.addr, err = s.l.Addr(); err != nil {
			s.l.Close()
		}
	}
	if err != nil {
		s.cancel()
		e.shut()
		e.unlock()
		uc.Close()
		return nil, errors.Join(fmt.Errorf("%w: %w", transport.ErrUnavailable, err), s.native.Close())
	}
	e.unlock()
	s.driver.Go(s.drive)
	return s, nil
}

// never is what the listener's goroutine waits for.
type never struct{}

func (never) ready() bool { return false }

// drive keeps the listener's worker going until it is shut.
func (s *Server) drive() {
	s.e.lock()
	defer s.e.unlock()
	if err := s.e.wait(never{}); !errors.Is(err, transport.ErrClosed) {
		s.log.Error("the UCX listener has failed", "addr", s.Addr(), "error", err)
	}
}

// requested takes a connection request. Under the engine's mu.
func (s *Server) requested(ev ucx.Event) {
	isNative := ev.Tag == clientID
	s.mu.Lock()
	ok := !s.closing && s.conns < s.o.MaxConns && (isNative || s.o.Python != nil)
	own := ok && isNative && s.engines < s.o.Workers
	if ok {
		s.conns++
		if own {
			s.engines++
		}
		if !isNative {
			s.stats.Python++
		}
		s.wg.Add(1)
	} else {
		s.stats.Turned++
	}
	s.mu.Unlock()
	if !ok {
		if err := s.l.Reject(ev.Conn); err != nil {
			s.log.Debug("rejecting a UCX connection", "error", err)
		}
		return
	}
	go func() {
		defer s.wg.Done()
		var err error
		if isNative {
			err = s.serve(ev.Conn, own)
		} else {
			err = s.python(ev.Conn)
		}
		if err != nil && !errors.Is(err, transport.ErrClosed) && !errors.Is(err, io.EOF) {
			s.log.Debug("a UCX connection ended", "error", err)
		}
		s.mu.Lock()
		s.conns--
		if own {
			s.engines--
		}
		s.mu.Unlock()
	}()
}

// serve runs one native session. It takes conn.
func (s *Server) serve(conn ucx.Conn, own bool) error {
	e := s.e
	if own {
		var err error
		if e, err = newEngine(s.uc, ucx.WorkerOptions{}, s.o.BusyPoll); err != nil {
			s.log.Warn("no UCX worker for a connection: it shares one", "error", err)
			e, own = s.e, false
		}
	}
	c := &carrier{e: e, own: own, pool: transport.DefaultPool}
	s.e.lock() // a request belongs to the listener's worker until it is accepted
	if from, err := conn.Addr(); err == nil {
		c.remote, c.trusted = from.String(), from.Addr().IsLoopback()
	}
	if own {
		e.lock()
	}
	token := e.next()
	ep, err := e.w.Accept(conn, token)
	if err == nil {
		c.attach(e.watch(ep, token, c.lost))
		if own {
			e.only = c
			err = e.w.HandleMessages(amID)
		} else {
			e.peers[c.control.handle] = c
		}
	}
	if own {
		s.e.unlock()
	}
	if err != nil && c.control == nil {
		if own {
			e.shut()
		}
		e.unlock()
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.o.HandshakeTimeout)
	if err == nil {
		_, err = c.greet(ctx, s.share, false)
	}
	cancel()
	var transports []string
	if err == nil {
		transports = c.tx.Transports()
		c.devices = accessesMemory(transports)
	}
	e.unlock()
	if err != nil {
		c.Close()
		return err
	}
	s.mu.Lock()
	s.open[c] = transports
	s.mu.Unlock()
	err = s.native.ServeCarrier(s.ctx, c)
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	return err
}

// Addr implements objects.Server.
func (s *Server) Addr() string { return s.addr.String() }

// Transports returns what UCX chose for the sessions that are open, and how many have it: "tcp/eth0", "posix/memory", "rc_mlx5/mlx5_0:1".
func (s *Server) Transports() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for _, transports := range s.open {
		for _, t := range transports {
			out[t]++
		}
	}
	return out
}

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	st := s.stats
	st.Conns = int64(s.conns)
	s.mu.Unlock()
	st.Stats = s.native.Stats()
	return st
}

// Shutdown implements objects.Server.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true // requests are rejected from now on, and the listener stays for that until Close
	s.mu.Unlock()
	err := s.native.Shutdown(ctx)
	return errors.Join(err, s.Close())
}

// Close implements objects.Server. It does not close the Store.
func (s *Server) Close() (err error) {
	s.once.Do(func() {
		s.mu.Lock()
		s.closing = true
		s.mu.Unlock()
		s.e.lock()
		s.l.Close()
		s.e.unlock()
		s.cancel()
		err = s.native.Close()
		s.wg.Wait()
		s.e.lock()
		s.e.stop(transport.ErrClosed)
		s.e.unlock()
		s.driver.Wait()
		s.e.lock()
		s.e.shut()
		s.e.unlock()
		s.uc.Close()
	})
	return err
}
