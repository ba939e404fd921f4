package ucx

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/proxyplane/proxyplane/cgo/ucx"
	"github.com/proxyplane/proxyplane/transport"
)

// An engine is one libucp worker and who waits for it. There is no goroutine of its own: whoever waits for something drives the worker until it
// has it, one at a time, and the others sleep until the driver has found what is theirs, or hands the wheel over. So a call on an idle connection
// needs no other goroutine: it sends, polls, and has its answer.
type engine struct {
	w    *ucx.Worker
	busy time.Duration // how long the driver polls before it sleeps

	want     atomic.Int32 // how many wait for mu: the driver, who has it nearly always, then gives it up
	mu       sync.Mutex   // guards the worker, all that belongs to it, and all below
	driving  bool
	sleeping bool  // the driver does, with the worker armed
	driver   ready // what the driver waits for
	parked   []*parked
	ops      map[uint64]*op
	only     *carrier // whom all active messages belong to, or nil: then see peers
	peers    map[ucx.Handle]*carrier
	eps      map[uint64]*endpoint
	token    uint64
	conn     func(ucx.Event) // takes connection requests
	probing  int             // how many wait for something that is no event
	ended    []*ucx.Endpoint // closed, or abandoned, but for the memory of their callbacks
	err      error           // why the worker is of no use any more
}

// ready is something to wait for. It is asked under the engine's mu.
type ready interface{ ready() bool }

type parked struct {
	for_ ready
	wake chan struct{}
}

var parkedPool = sync.Pool{New: func() any { return &parked{wake: make(chan struct{}, 1)} }}

// An op is an operation of libucp under way.
type op struct {
	done   bool
	err    error
	length int
	result ucx.Result
	pin    runtime.Pinner
}

func (o *op) ready() bool { return o.done }

// An endpoint is one of libucp's, with what became of it.
type endpoint struct {
	e      *engine
	ep     *ucx.Endpoint
	handle ucx.Handle
	token  uint64
	err    error  // set when libucp says that it is broken
	fail   func() // called under mu when that happens; may be nil
}

func newEngine(c *ucx.Context, o ucx.WorkerOptions, busy time.Duration) (*engine, error) {
	w, err := c.NewWorker(o)
	if err != nil {
		return nil, err
	}
	if w.FD() < 0 {
		w.Close()
		return nil, fmt.Errorf("%w: UCX has no event descriptor for the transports it was told to use", transport.ErrUnavailable)
	}
	return &engine{w: w, busy: busy, ops: map[uint64]*op{}, peers: map[ucx.Handle]*carrier{}, eps: map[uint64]*endpoint{}}, nil
}

// lock takes mu, which the driver gives up when it sees that somebody wants it.
func (e *engine) lock() {
	if e.mu.TryLock() {
		return
	}
	e.want.Add(1)
	e.mu.Lock()
	e.want.Add(-1)
}

func (e *engine) unlock() { e.mu.Unlock() }

// next returns a token for an operation or an endpoint. Under mu.
func (e *engine) next() uint64 {
	e.token++
	return e.token
}

// wait returns when r is ready or the engine has failed. Under mu, which it gives up in between.
func (e *engine) wait(r ready) error {
	for !r.ready() {
		if e.err != nil {
			return e.err
		}
		if !e.driving {
			e.drive(r)
			continue
		}
		e.kick() // what r waits for may need a push before anything can happen
		p := parkedPool.Get().(*parked)
		p.for_ = r
		e.parked = append(e.parked, p)
		e.mu.Unlock()
		<-p.wake
		e.lock()
		p.for_ = nil
		parkedPool.Put(p)
	}
	if !e.driving && len(e.parked) > 0 { // r was handed the wheel and needs it no more
		e.unpark(0)
	}
	return nil
}

// drive progresses the worker until r is ready, and hands the wheel over. Under mu, which it gives up in between.
func (e *engine) drive(r ready) {
	e.driving, e.driver = true, r
	var since time.Time // when it began to find nothing
	for rounds := 0; !r.ready() && e.err == nil; rounds++ {
		active := e.progress(spins)
		if r.ready() {
			break
		}
		if active {
			since = time.Time{}
			e.yield()
			continue
		}
		if e.busy > 0 {
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			if now.Sub(since) < e.busy {
				e.yield()
				if rounds%16 == 15 { // somebody else on this thread may be what everything waits for
					e.mu.Unlock()
					runtime.Gosched()
					e.lock()
				}
				continue
			}
		}
		armed, err := e.w.Arm()
		if err != nil {
			e.fail(err)
			break
		}
		if !armed {
			e.yield()
			continue
		}
		e.sleeping = true
		e.mu.Unlock()
		err = sleep(e.w.FD())
		e.lock()
		e.sleeping = false
		since = time.Time{}
		if err != nil {
			e.fail(err)
		}
	}
	e.driving, e.driver = false, nil
	if len(e.parked) > 0 { // any of them will do; it goes on where this one stopped
		e.unpark(0)
	}
}

// spins is how often one call into C looks for events before it comes back: it makes a round cheaper, and keeps others waiting so much longer.
const spins = 8

// yield lets those in who wait for mu.
func (e *engine) yield() {
	for e.want.Load() > 0 {
		e.mu.Unlock()
		runtime.Gosched()
		e.lock()
	}
}

func (e *engine) unpark(i int) {
	p := e.parked[i]
	last := len(e.parked) - 1
	copy(e.parked[i:], e.parked[i+1:])
	e.parked[last] = nil
	e.parked = e.parked[:last]
	p.wake <- struct{}{}
}

// changed wakes whoever has become ready by something else than the driver's own progress. Under mu.
func (e *engine) changed() {
	for i := 0; i < len(e.parked); {
		if e.err != nil || e.parked[i].for_.ready() {
			e.unpark(i)
		} else {
			i++
		}
	}
	if e.sleeping && (e.err != nil || e.driver.ready()) {
		e.kick()
	}
}

// kick makes a sleeping driver look again. Under mu.
func (e *engine) kick() {
	if e.sleeping {
		if err := e.w.Signal(); err != nil {
			e.err = err // the driver would not wake otherwise, and sees this when it does
		}
	}
}

// fail makes the whole engine useless. Under mu.
func (e *engine) fail(err error) {
	if e.err == nil {
		e.stop(fmt.Errorf("%w: %w", transport.ErrUnavailable, err))
	}
}

// progress does one round and hands out its events. Under mu.
func (e *engine) progress(idle int) (active bool) {
	events, active, err := e.w.Progress(idle)
	var failed []*endpoint
	for i := range events {
		ev := &events[i]
		switch ev.Kind {
		case ucx.OpDone:
			if o := e.ops[ev.Token]; o != nil {
				delete(e.ops, ev.Token)
				o.done, o.err, o.length = true, ev.Err, ev.Length
				o.unpin()
			}
		case ucx.ActiveMessage:
			c := e.only
			if c == nil && ev.From != 0 {
				c = e.peers[ev.From]
			}
			if c != nil {
				c.received(ev)
			} else if ev.Message.Valid() {
				e.w.ReleaseMessage(ev.Message)
			}
		case ucx.Connection:
			e.conn(*ev)
		case ucx.EndpointError:
			if p := e.eps[ev.Token]; p != nil && p.err == nil {
				p.err = ev.Err
				failed = append(failed, p)
			}
		}
	}
	if len(events) > 0 || active && e.probing > 0 {
		e.changed()
	}
	if err != nil {
		e.fail(err)
	}
	if len(failed) > 0 { // the peer's last words may still lie in shared memory: hear them first
		for n := 0; n < 1000 && err == nil && e.progress(spins); n++ {
		}
		for _, p := range failed {
			if p.fail != nil {
				p.fail()
			}
		}
		e.changed()
	}
	return active
}

// drain does what can be done without a peer. Under mu.
func (e *engine) drain() {
	for n := 0; n < 1<<16 && e.progress(spins); n++ {
	}
}

// started keeps track of an operation: o is filled now, or when its event comes. Under mu.
func (e *engine) started(o *op, token uint64, r ucx.Result, err error) {
	o.result, o.err = r, err
	if r.Done || err != nil {
		o.done, o.length = true, r.Length
		return
	}
	e.ops[token] = o
}

// hold pins memory that libucp goes on using after the call that started o. Nothing moves between that call and this one, and the caller still
// holds the memory; memory that is not Go's needs no pin, and cannot have one.
func (o *op) hold(p []byte) {
	if len(p) > 0 && !o.done {
		defer func() { _ = recover() }()
		o.pin.Pin(unsafe.SliceData(p))
	}
}

func (o *op) unpin() { o.pin.Unpin() }

// finish waits for an operation, whatever happens: its memory is in libucp's hands until then. If the engine has failed, libucp will not touch it
// any more, as nobody progresses it. Under mu.
func (e *engine) finish(o *op) error {
	if err := e.wait(o); err != nil {
		return err
	}
	return o.err
}

// watch registers an endpoint that was made with that token. Under mu.
func (e *engine) watch(ep *ucx.Endpoint, token uint64, fail func()) *endpoint {
	p := &endpoint{e: e, ep: ep, handle: ep.Handle(), token: token, fail: fail}
	e.eps[token] = p
	return p
}

// close ends an endpoint and waits for that, so that no event of it comes later. What is under way on it ends, too. Under mu.
func (p *endpoint) close() {
	if p.ep == nil {
		return
	}
	ep := p.ep
	p.ep = nil
	var o op
	token := p.e.next()
	r, err := ep.Close(true, token)
	p.e.started(&o, token, r, err)
	if p.e.finish(&o) != nil && !o.done { // the engine has failed: it ends with the worker
		p.e.ended = append(p.e.ended, ep)
		return
	}
	delete(p.e.eps, p.token)
	ep.Free()
	p.e.kick() // its connections are closed in the next rounds, and libucp does not wake anybody for that
}

// abandon leaves an endpoint that cannot be closed by force to the end of the worker. Under mu.
func (p *endpoint) abandon() {
	if p.ep != nil {
		p.e.ended = append(p.e.ended, p.ep)
		p.ep = nil
	}
}

// stop makes every wait return. Under mu.
func (e *engine) stop(err error) {
	if e.err == nil {
		e.err = err
	}
	e.changed()
}

// shut frees the worker. All that was made from it must have ended, or been abandoned, and nobody may come any more. It waits for those who are
// still leaving. Under mu.
func (e *engine) shut() {
	e.stop(transport.ErrClosed)
	for e.driving || len(e.parked) > 0 || e.want.Load() > 0 {
		e.changed()
		e.mu.Unlock()
		runtime.Gosched()
		e.lock()
	}
	for _, ep := range e.ended {
		defer ep.Free()
	}
	e.ended = nil
	e.w.Close()
	for token, o := range e.ops { // only those of abandoned endpoints are left
		delete(e.ops, token)
		o.done, o.err = true, e.err
		o.unpin()
	}
}
