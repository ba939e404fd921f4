package zmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// Exchanger sends messages as Python's clients do and returns the answers. Many may be in flight at once on its one connection; the server answers
// them in order. Whoever waits for an answer reads the connection himself: of several, one reads for all, until his own answer has come.
//
// When the connection breaks, or has to be closed since a call was given up in the middle of sending, the calls in flight fail with
// transport.ErrUnavailable, and the next one connects again.
type Exchanger struct {
	a    address
	o    *DialOptions
	last atomic.Int64 // see collector

	turn chan struct{} // holds a token while somebody sends: requests go into the queue in the order in which they leave

	mu     sync.Mutex
	s      *session // nil: connect again
	closed bool
	ctx    context.Context // of connecting; ends with Close
	end    context.CancelFunc
}

var _ objects.Exchanger = (*Exchanger)(nil)

// session is one connection of an Exchanger. All but l and in belongs to who holds the Exchanger's mu.
type session struct {
	l       link
	queue   []*exchange // whose answers are to come, in order
	reading *exchange   // who reads
	err     error       // it is broken

	// These belong to who reads.
	in      collector
	between bool  // no part of the next answer was read
	head    bool  // the delimiter was, and nothing else
	expect  int64 // how long the caller of the next answer expects it to be
}

// exchange is one call.
type exchange struct {
	size    int64         // how long the caller expects the answer to be
	wake    chan struct{} // made when it waits: its answer is there, or it is to read
	sending bool
	hurried bool // its send must not wait any more
	gone    bool // nobody waits for the answer
	reply   *transport.Buffer
	done    bool
	err     error
}

func newExchanger(a address, o *DialOptions, l link) *Exchanger {
	e := &Exchanger{a: a, o: o, turn: make(chan struct{}, 1)}
	e.ctx, e.end = context.WithCancel(context.Background())
	e.s = e.newSession(l)
	return e
}

func (e *Exchanger) newSession(l link) *session {
	pool := e.o.Pool
	if pool == nil {
		pool = transport.DefaultPool
	}
	return &session{l: l, between: true, in: collector{max: e.o.MaxMessage, pool: pool, last: &e.last}}
}

// Exchange implements objects.Exchanger.
func (e *Exchanger) Exchange(ctx context.Context, req transport.Slices) (*transport.Buffer, error) {
	return e.ExchangeSize(ctx, req, 0)
}

// ExchangeSize is Exchange where the caller expects an answer of about size bytes, so that memory for it can be had at once.
func (e *Exchanger) ExchangeSize(ctx context.Context, req transport.Slices, size int64) (*transport.Buffer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case e.turn <- struct{}{}:
	default:
		select {
		case e.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := ctx.Err(); err != nil { // it ended while we waited
		<-e.turn
		return nil, err
	}
	x := &exchange{size: min(size, e.trust())}
	s, err := e.enqueue(ctx, x)
	if err != nil {
		<-e.turn
		return nil, err
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { e.cancel(s, x) })
		defer stop()
	}
	err = s.l.send(nil, nil, req, e.o.ChunkLength)
	e.mu.Lock()
	x.sending = false
	switch {
	case err != nil && ctx.Err() != nil:
		e.fail(s, errGivenUp)
	case err != nil:
		e.fail(s, err)
	case x.hurried:
		s.l.(hurrier).calm()
	}
	e.mu.Unlock()
	<-e.turn
	return e.await(ctx, s, x)
}

func (e *Exchanger) trust() int64 {
	if e.o.Trust > 0 {
		return e.o.Trust
	}
	return 64 << 20
}

// enqueue puts x into the queue of a session that works. The caller holds the turn.
func (e *Exchanger) enqueue(ctx context.Context, x *exchange) (*session, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.s; s != nil && len(s.queue) == 0 {
		if l, ok := s.l.(staler); ok && l.stale() {
			e.fail(s, transport.ErrUnavailable) // the server was started again, say; nobody's request is lost by that
		}
	}
	if e.s == nil && !e.closed {
		e.mu.Unlock()
		l, err := e.connect(ctx)
		e.mu.Lock()
		switch {
		case err == nil && e.closed:
			l.close()
		case err == nil:
			e.s = e.newSession(l)
		case !e.closed:
			return nil, err
		}
	}
	if e.closed {
		return nil, errExchangerClosed
	}
	x.sending = true
	e.s.queue = append(e.s.queue, x)
	return e.s, nil
}

// errGivenUp is what the other calls on a connection get.
var errGivenUp = fmt.Errorf("zmq: %w: the connection was closed: a request on it was given up in the middle of sending", transport.ErrUnavailable)

var errExchangerClosed = fmt.Errorf("zmq: exchanger: %w", transport.ErrClosed)

func (e *Exchanger) connect(ctx context.Context) (link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	return e.o.connect(ctx, e.a, e.o, nil)
}

// cancel is called when the context of x ends.
func (e *Exchanger) cancel(s *session, x *exchange) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case x.sending:
		// What follows would be taken for the rest of the request, unless all of it has left.
		if h, ok := s.l.(hurrier); ok {
			x.hurried = true
			h.hurry()
		} else {
			s.l.close()
		}
	case s.reading == x:
		s.l.interrupt()
	}
}

// await returns the answer to x.
func (e *Exchanger) await(ctx context.Context, s *session, x *exchange) (*transport.Buffer, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		switch {
		case x.done && x.err == nil:
			return x.reply, nil
		case ctx.Err() != nil:
			e.leave(s, x)
			return nil, ctx.Err()
		case x.done:
			return nil, x.err
		case s.reading == nil || s.reading == x:
			s.reading = x
			s.expect = s.queue[0].size
			e.mu.Unlock()
			reply, err := s.readReply()
			e.mu.Lock()
			e.arrived(s, reply, err)
		default:
			if x.wake == nil {
				x.wake = make(chan struct{}, 1)
			}
			e.mu.Unlock()
			select {
			case <-x.wake:
			case <-ctx.Done():
			}
			e.mu.Lock()
		}
	}
}

// arrived says what the reader of s has read: an answer, or why there is none. The caller holds mu.
func (e *Exchanger) arrived(s *session, reply *transport.Buffer, err error) {
	switch {
	case err == native.ErrInterrupted:
		if s.err != nil {
			s.in.drop()
		}
		return // the reader looks at its context
	case err != nil:
		e.fail(s, err)
		return
	case s.err != nil || len(s.queue) == 0:
		reply.Release() // it was closed just now
		return
	}
	x := s.queue[0]
	s.queue = slices.Delete(s.queue, 0, 1) // it is short, and its memory is used again
	if x.gone {
		reply.Release()
		return
	}
	x.reply, x.done = reply, true
	if x == s.reading {
		s.reading = nil
		s.rouse()
	} else {
		x.signal()
	}
}

// signal makes x look again. It does not block.
func (x *exchange) signal() {
	if x.wake == nil {
		return // it does not wait
	}
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// rouse makes one of those who wait read.
func (s *session) rouse() {
	for _, x := range s.queue {
		if !x.gone && x.wake != nil {
			x.signal()
			return
		}
	}
}

// leave ends x before its answer has come. The caller holds mu.
func (e *Exchanger) leave(s *session, x *exchange) {
	if x.done {
		x.reply.Release()
		return
	}
	x.gone = true
	if s.reading == x {
		s.reading = nil
	}
	for _, other := range s.queue {
		if !other.gone {
			if s.reading == nil { // x read, or was about to
				s.rouse()
			}
			return // somebody else waits for answers on this connection, and will read ours away
		}
	}
	// A new connection costs less than to read away what nobody wants.
	e.fail(s, fmt.Errorf("zmq: %w: the connection was closed", transport.ErrUnavailable))
}

// fail ends s and all calls on it. The caller holds mu.
func (e *Exchanger) fail(s *session, err error) {
	if s.err == nil {
		s.err = err
		s.l.close()
	}
	if e.s == s {
		e.s = nil
	}
	if e.closed {
		err = errExchangerClosed
	}
	if s.reading == nil {
		s.in.drop() // else who reads does
	}
	for _, x := range s.queue {
		if x.done = true; x.err == nil {
			x.err = err
		}
		x.signal()
	}
	s.queue = nil
}

// Close implements objects.Exchanger.
func (e *Exchanger) Close() error {
	e.end()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if e.s != nil {
		e.fail(e.s, errExchangerClosed)
	}
	return nil
}

// readReply reads the next message. After native.ErrInterrupted the next call, whoever makes it, goes on. On any other error nothing is left in memory.
func (s *session) readReply() (*transport.Buffer, error) {
	reply, err := s.tryReply()
	if err != nil && err != native.ErrInterrupted {
		s.in.drop()
		if err == io.EOF {
			err = fmt.Errorf("zmq: %s: %w: the server hung up", s.l.remote(), transport.ErrUnavailable)
		}
	}
	return reply, err
}

func (s *session) tryReply() (*transport.Buffer, error) {
	if s.between {
		n, more, err := s.l.next()
		if err != nil {
			return nil, err
		}
		if n != 0 || !more {
			return nil, corrupt("%s: an answer without a delimiter", s.l.remote())
		}
		s.between, s.head = false, true
	}
	if s.head {
		n, more, err := s.l.next()
		if err != nil {
			if err == io.EOF {
				err = errors.Join(transport.ErrUnavailable, io.ErrUnexpectedEOF)
			}
			return nil, err
		}
		s.in.begin(n, more, s.expect)
		s.head = false
	}
	if err := s.in.run(s.l); err != nil {
		return nil, err
	}
	s.between = true
	return s.in.message(), nil
}
