//go:build cgo && zmq && unix

package zmq

/*
#include "shim.h"
*/
import "C"

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrWoken is what Wait returns after Wake.
var ErrWoken = errors.New("woken")

// Ready lets a goroutine wait for a socket without holding a thread.
type Ready struct {
	f     *os.File
	rc    syscall.RawConn
	try   func() bool
	again func(uintptr) bool // calls try; made once, since each would allocate

	mu    sync.Mutex // what Wake does to the deadline, and what Wait does about it
	woken bool

	waiting, closed atomic.Bool
}

var past = time.Unix(1, 0)

// Ready returns a Ready of the socket. The caller must Close it, after or before the socket.
//
// The socket's descriptor (ZMQ_FD) becomes readable when the state may have changed since the last call, and only then: Wait's function must
// have found nothing to do by a call on the socket.
func (s *Socket) Ready() (*Ready, error) {
	var v C.int
	n := C.size_t(unsafe.Sizeof(v))
	if err := wrap("get FD", C.pp_get(s.ptr, C.ZMQ_FD, unsafe.Pointer(&v), &n)); err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(uintptr(v), unix.F_DUPFD_CLOEXEC, 0) // libzmq closes its own
	if err != nil {
		return nil, err
	}
	r := &Ready{f: os.NewFile(uintptr(fd), "zmq")}
	if err := r.f.SetReadDeadline(time.Time{}); err != nil { // not in Go's poller
		r.f.Close()
		return nil, err
	}
	if r.rc, err = r.f.SyscallConn(); err != nil {
		r.f.Close()
		return nil, err
	}
	r.again = func(uintptr) bool { return r.try() }
	return r, nil
}

// Wait calls try, and again each time the socket's state may have changed, until it returns true. It returns ErrWoken after Wake, os.ErrClosed after
// Close. One goroutine at a time may wait.
func (r *Ready) Wait(try func() bool) error {
	r.try = try
	r.waiting.Store(true)
	defer r.waiting.Store(false)
	for {
		err := r.rc.Read(r.again)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			if err != nil && r.closed.Load() {
				err = os.ErrClosed
			}
			return err
		}
		r.mu.Lock()
		r.f.SetReadDeadline(time.Time{})
		woken := r.woken
		r.woken = false
		r.mu.Unlock()
		if woken {
			return ErrWoken
		}
	}
}

// Wake makes the Wait of now, or else the next one, return ErrWoken.
func (r *Ready) Wake() {
	r.mu.Lock()
	r.woken = true
	r.f.SetReadDeadline(past)
	r.mu.Unlock()
}

// Nudge makes the Wait of now, if there is one, call try again: for who has done something on the socket, and so may have swallowed its signal.
func (r *Ready) Nudge() {
	if !r.waiting.Load() {
		return // who begins to wait tries first
	}
	r.mu.Lock()
	r.f.SetReadDeadline(past)
	r.mu.Unlock()
}

// Close ends a Wait.
func (r *Ready) Close() error {
	r.closed.Store(true)
	return r.f.Close()
}
