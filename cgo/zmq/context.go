//go:build cgo && zmq

package zmq

/*
#cgo pkg-config: libzmq
#cgo noescape pp_ctx_new
#cgo nocallback pp_ctx_new
#cgo nocallback pp_ctx_shutdown
#cgo nocallback pp_ctx_term
#cgo nocallback pp_queue_new
#cgo nocallback pp_queue_take
#cgo nocallback pp_ticket_new
#cgo nocallback pp_ticket_begin
#cgo nocallback pp_ticket_end
#cgo nocallback pp_ticket_held
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"os"
	"runtime"
	"runtime/cgo"
	"sync/atomic"
	"time"
	"unsafe"
)

func free(s *C.char) { C.free(unsafe.Pointer(s)) }

// Counts is what lives in C, or is pinned for it.
type Counts struct {
	Contexts int64
	Sockets  int64
	Tickets  int64
	Messages int64 // received parts that are not closed
	Bytes    int64 // of them
	Pinned   int64 // bytes of parts that are being sent by reference
}

var live struct{ contexts, sockets, tickets, messages, bytes, pinned atomic.Int64 }

// Live returns the counts. Tests use it to prove that nothing leaks.
func Live() Counts {
	return Counts{live.contexts.Load(), live.sockets.Load(), live.tickets.Load(), live.messages.Load(), live.bytes.Load(), live.pinned.Load()}
}

// Context is libzmq's threads and the queue of what they have sent. All methods may be called by many goroutines at once.
type Context struct {
	ptr   unsafe.Pointer
	queue *C.pp_queue
	r, w  *os.File
	ended chan struct{} // closed when the goroutine that reads r has ended
}

// NewContext starts a context with so many I/O threads, each good for about one GB/s, and room for so many sockets.
//
// Implements: void *zmq_ctx_new (), int zmq_ctx_set (void *context, int option, int optval)
func NewContext(ioThreads, maxSockets int) (*Context, error) {
	if err := CheckVersion(); err != nil {
		return nil, err
	}
	c := &Context{ended: make(chan struct{})}
	var err error
	if c.r, c.w, err = os.Pipe(); err != nil {
		return nil, err
	}
	fail := func(err error) (*Context, error) {
		c.r.Close()
		c.w.Close()
		return nil, err
	}
	fd, err := descriptor(c.w)
	if err != nil {
		return fail(err)
	}
	if err := wrap("new context", C.pp_ctx_new(C.int(ioThreads), C.int(maxSockets), &c.ptr)); err != nil {
		return fail(err)
	}
	if c.queue = C.pp_queue_new(C.int(fd)); c.queue == nil {
		C.pp_ctx_term(c.ptr)
		return fail(errors.New("libzmq: out of memory"))
	}
	live.contexts.Add(1)
	go c.complete()
	return c, nil
}

// descriptor returns f's, which stays in Go's poller, as f.Fd would not have it.
func descriptor(f *os.File) (fd uintptr, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = rc.Control(func(n uintptr) { fd = n })
	return fd, err
}

// complete wakes who waits for a Ticket.
func (c *Context) complete() {
	defer close(c.ended)
	var b [64]byte
	for {
		if _, err := c.r.Read(b[:]); err != nil {
			return
		}
		for t := C.pp_queue_take(c.queue); t != nil; {
			next := t.next // its owner may use it again as soon as it knows
			cgo.Handle(t.handle).Value().(*Ticket).done <- struct{}{}
			t = next
		}
	}
}

// Shutdown makes every call on every socket of the context fail with ErrTerm.
//
// Implements: int zmq_ctx_shutdown (void *context)
func (c *Context) Shutdown() error { return wrap("shut down", C.pp_ctx_shutdown(c.ptr)) }

// Close waits until all sockets are closed and what lingers is sent or given up, then ends the threads. It must be called once, and with no Ticket
// in use.
//
// Implements: int zmq_ctx_term (void *context)
func (c *Context) Close() error {
	err := wrap("close context", C.pp_ctx_term(c.ptr)) // no part is left after that, and so no callback
	c.w.Close()
	<-c.ended
	c.r.Close()
	C.free(unsafe.Pointer(c.queue))
	live.contexts.Add(-1)
	return err
}

// A Ticket tells when libzmq has let go of the parts of a message that were sent by reference. It is for one message at a time:
//
//	t.Begin()
//	t.Pin(body)
//	err := sock.SendRef(body[:n], false, t) // any number of parts
//	t.Wait()                            // also if a send has failed
//
// Between Begin and Wait the parts must not change.
type Ticket struct {
	ptr    *C.pp_ticket
	handle cgo.Handle
	done   chan struct{}
	pins   runtime.Pinner
	pinned int64
	ended  bool // all parts are sent
	free   bool // and libzmq had let go of them by then
}

// NewTicket makes a Ticket for sockets of the context.
func (c *Context) NewTicket() (*Ticket, error) {
	t := &Ticket{done: make(chan struct{}, 1)}
	t.handle = cgo.NewHandle(t)
	if t.ptr = C.pp_ticket_new(c.queue, C.uintptr_t(t.handle)); t.ptr == nil {
		t.handle.Delete()
		return nil, errors.New("libzmq: out of memory")
	}
	live.tickets.Add(1)
	return t, nil
}

// Begin starts counting.
func (t *Ticket) Begin() {
	t.ended = false
	C.pp_ticket_begin(t.ptr)
}

// Pin keeps p, if it is Go's memory, where it is until Wait returns.
func (t *Ticket) Pin(p []byte) {
	if len(p) == 0 {
		return
	}
	t.pins.Pin(unsafe.SliceData(p))
	t.pinned += int64(len(p))
	live.pinned.Add(int64(len(p)))
}

// End says that no part follows. Wait says so too.
func (t *Ticket) End() {
	if !t.ended {
		t.ended, t.free = true, C.pp_ticket_end(t.ptr) != 0
	}
}

// Held returns how many parts libzmq has not let go of. It may be called from End until the next Begin, by any goroutine.
func (t *Ticket) Held() int { return int(C.pp_ticket_held(t.ptr)) }

// Wait returns when libzmq has let go of every part since Begin. That is soon, or when the peer reads on, or when the connection ends.
func (t *Ticket) Wait() { t.WaitUnless(nil) }

// WaitUnless is Wait, but reports false if c receives before. Then Wait must be called again.
func (t *Ticket) WaitUnless(c <-chan time.Time) bool {
	if t.End(); !t.free {
		select {
		case <-t.done:
			t.free = true
		case <-c:
			return false
		}
	}
	if t.pinned > 0 {
		t.pins.Unpin()
		live.pinned.Add(-t.pinned)
		t.pinned = 0
	}
	return true
}

// Close frees the Ticket, which nobody may be waiting for.
func (t *Ticket) Close() {
	t.handle.Delete()
	C.free(unsafe.Pointer(t.ptr))
	t.ptr = nil
	live.tickets.Add(-1)
}
