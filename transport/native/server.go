package native

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// Server answers from one Store on any number of sessions.
type Server struct {
	store objects.Store
	o     ServerOptions
	wg    sync.WaitGroup // sessions and the watchdog

	accepted, refused, errs, inFlight, bytesIn, bytesOut, chunksIn, chunksOut atomic.Int64
	ops                                                                       [numOps]atomic.Int64

	mu       sync.Mutex
	sessions map[*session]struct{}
	unwatch  chan struct{} // ends the watchdog
	draining bool
	closed   bool
}

// NewServer returns a Server. It needs no Close before its first session.
func NewServer(store objects.Store, o ServerOptions) *Server {
	o = o.withDefaults()
	if o.Instance == "" {
		o.Instance = rand.Text()
	}
	return &Server{store: store, o: o, sessions: map[*session]struct{}{}}
}

// ServeCarrier runs one session and returns when it is over, nil if the client ended it. It takes c. When ctx ends the session does.
func (s *Server) ServeCarrier(ctx context.Context, c Carrier) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ses := &session{srv: s, car: c, ctx: ctx, reqs: map[uint32]*request{}}
	ses.room.L = &ses.mu
	s.mu.Lock()
	if s.closed || s.draining {
		s.mu.Unlock()
		c.Close()
		return fmt.Errorf("%w: this server", transport.ErrClosed)
	}
	s.sessions[ses] = struct{}{}
	s.wg.Add(1)
	s.watch()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		if delete(s.sessions, ses); len(s.sessions) == 0 && s.unwatch != nil {
			close(s.unwatch)
			s.unwatch = nil
		}
		s.mu.Unlock()
		s.wg.Done()
	}()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	err := ses.run()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	s.mu.Lock()
	ended := s.closed || s.draining
	s.mu.Unlock()
	if ended {
		return nil
	}
	s.o.Logger.Debug("session ended", "err", err)
	return err
}

// Shutdown drains: all sessions are told, new requests refused with StatusDraining, those in flight answered. When ctx ends first it closes and
// returns the context's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	for ses := range s.sessions {
		ses.drain()
	}
	s.mu.Unlock()
	over := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(over)
	}()
	select {
	case <-over:
		return s.Close()
	case <-ctx.Done():
		s.Close()
		<-over
		return ctx.Err()
	}
}

// Close ends all sessions at once and waits for them. It does not close the Store. Idempotent.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for ses := range s.sessions {
		ses.car.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Stats returns the counts so far. They need not be of one instant.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	n := len(s.sessions)
	s.mu.Unlock()
	st := Stats{Sessions: int64(n), Accepted: s.accepted.Load(), Refused: s.refused.Load(), Errors: s.errs.Load(), InFlight: s.inFlight.Load(),
		BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(), ChunksIn: s.chunksIn.Load(), ChunksOut: s.chunksOut.Load(),
		Requests: make(map[string]int64, numOps)}
	for op := range s.ops {
		if n := s.ops[op].Load(); n > 0 {
			st.Requests[opNames[op]] = n
		}
	}
	return st
}

// watch starts the watchdog while there are sessions: one goroutine for all, so that no frame costs a timer. Under mu.
func (s *Server) watch() {
	every := time.Duration(math.MaxInt64)
	for _, limit := range [...]time.Duration{s.o.StallTimeout, s.o.UploadTimeout, s.o.IdleTimeout} {
		if limit > 0 {
			every = min(every, limit)
		}
	}
	if s.unwatch != nil || every == math.MaxInt64 {
		return
	}
	stop := make(chan struct{})
	s.unwatch = stop
	s.wg.Go(func() {
		tick := time.NewTicker(max(every/4, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case now := <-tick.C:
				s.mu.Lock()
				for ses := range s.sessions {
					ses.inspect(now)
				}
				s.mu.Unlock()
			}
		}
	})
}

// progress is what the watchdog compares.
type progress struct {
	seen  uint64
	since time.Time
}

// stuck reports for how long count has been the same while active.
func (p *progress) stuck(now time.Time, active bool, count uint64) time.Duration {
	if !active || count != p.seen || p.since.IsZero() {
		p.seen, p.since = count, now
	}
	return now.Sub(p.since)
}

// inspect closes a session whose peer does not do its part. Only the watchdog calls it.
func (s *session) inspect(now time.Time) {
	o := &s.srv.o
	if o.StallTimeout > 0 {
		if s.watchWrite.stuck(now, s.writing.Load() > 0, s.wrote.Load()) >= o.StallTimeout {
			s.end(fmt.Errorf("%w: the client read nothing of its answer for %v", transport.ErrUnavailable, o.StallTimeout))
		}
		if s.watchBody.stuck(now, s.inBody.Load(), s.pieces.Load()) >= o.StallTimeout {
			s.end(fmt.Errorf("%w: the client sent nothing of a body that it announced for %v", transport.ErrUnavailable, o.StallTimeout))
		}
	}
	if o.UploadTimeout > 0 {
		s.overdue(now, o.UploadTimeout)
	}
	if o.IdleTimeout > 0 {
		s.mu.Lock()
		idle := s.open && !s.busy.Load() && s.writing.Load() == 0
		for _, r := range s.reqs { // an upload that does not go on keeps nobody alive
			idle = idle && r.op == OpPut
		}
		s.mu.Unlock()
		if s.watchIdle.stuck(now, idle, s.frames.Load()) >= o.IdleTimeout {
			s.end(fmt.Errorf("%w: the client asked for nothing for %v", transport.ErrUnavailable, o.IdleTimeout))
		}
	}
}
