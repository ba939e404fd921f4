package faultnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is a connection with faults. It has none of the shortcuts of the connection below (no SyscallConn, no ReadFrom), so that every byte
// passes through it. Deadlines work as usual, and wake calls that a fault holds up.
type Conn struct {
	inner net.Conn
	count *counters
	in    *flow
	out   *flow

	reading sync.Mutex
	pending []byte    // was read from below, but its delay is not over
	due     time.Time // when it is
	writing sync.Mutex
	copied  []byte // writing's, for bytes that are changed

	readBy  deadline
	writeBy deadline
	ended   atomic.Pointer[verdict] // cut
	once    sync.Once
	done    chan struct{}
	err     error // of Close
}

// Wrap returns c with the faults of plan. It takes c.
func Wrap(c net.Conn, plan Plan) *Conn { return wrap(c, plan, new(counters)) }

func wrap(c net.Conn, plan Plan, count *counters) *Conn {
	count.conns.Add(1)
	return &Conn{
		inner: c, count: count, in: newFlow(plan.Seed, 0, plan.Read, count), out: newFlow(plan.Seed, 1, plan.Write, count),
		readBy: makeDeadline(), writeBy: makeDeadline(), done: make(chan struct{}),
	}
}

// Set changes what goes wrong from now on; the seed stays what it was.
func (c *Conn) Set(plan Plan) {
	c.in.set(plan.Read)
	c.out.set(plan.Write)
}

// Stats returns the counts so far; those of a listener's connection are the listener's.
func (c *Conn) Stats() Stats { return c.count.stats() }

// Cut ends the connection now, as a plan would.
func (c *Conn) Cut(reset bool) { c.cut(verdict{cut: true, reset: reset}) }

func (c *Conn) cut(v verdict) {
	if c.ended.CompareAndSwap(nil, &v) {
		c.count.cuts.Add(1)
	}
	_ = c.close(v.reset)
}

// cutError is what calls on a connection that was cut return.
type cutError struct{ syscall.Errno }

func (e cutError) Error() string        { return "injected cut: " + e.Errno.Error() }
func (e cutError) Unwrap() error        { return e.Errno }
func (e cutError) Is(target error) bool { return target == ErrInjected }

func (c *Conn) fail(op string, err error) error {
	if errors.Is(err, io.EOF) {
		return err
	}
	var oe *net.OpError
	if errors.As(err, &oe) {
		return err
	}
	return &net.OpError{Op: op, Net: c.RemoteAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// over returns the error of a call on a connection that was cut or closed, or nil.
func (c *Conn) over(op string) error {
	if v := c.ended.Load(); v != nil {
		switch {
		case op == "write" && !v.reset:
			return c.fail(op, cutError{syscall.EPIPE})
		case v.reset:
			return c.fail(op, cutError{syscall.ECONNRESET})
		}
		return io.EOF
	}
	select {
	case <-c.done:
		return c.fail(op, net.ErrClosed)
	default:
		return nil
	}
}

// Read implements [net.Conn].
func (c *Conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for continued := false; ; continued = true {
		if err := c.over("read"); err != nil {
			return 0, err
		}
		if len(p) == 0 {
			return c.inner.Read(p)
		}
		if len(c.pending) > 0 {
			return c.give(p)
		}
		v := c.in.next(len(p), continued)
		switch {
		case v.err != nil:
			return 0, c.fail("read", v.err)
		case v.cut:
			c.cut(v)
			continue
		case v.drop:
			if err := c.wait("read", &c.readBy, time.Time{}, v.changed); err != nil {
				return 0, err
			}
			continue
		}
		n, err := c.inner.Read(p[:v.n])
		if n == 0 {
			if over := c.over("read"); over != nil {
				err = over
			}
			return 0, err
		}
		if c.in.dropping() { // since it began to wait
			c.in.lose(n)
			continue
		}
		d := c.in.pass(p[:n])
		if d > 0 {
			c.pending, c.due = append(c.pending[:0], p[:n]...), time.Now().Add(d)
			return c.give(p)
		}
		c.count.bytesRead.Add(int64(n))
		return n, nil // an error of below comes again
	}
}

// give returns pending bytes when their time has come.
func (c *Conn) give(p []byte) (int, error) {
	if err := c.wait("read", &c.readBy, c.due, nil); err != nil {
		return 0, err
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	c.count.bytesRead.Add(int64(n))
	return n, nil
}

// Write implements [net.Conn].
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if len(p) == 0 {
		return c.inner.Write(p)
	}
	for continued := false; n < len(p); continued = true {
		if err := c.over("write"); err != nil {
			return n, err
		}
		if c.writeBy.passed() {
			return n, c.fail("write", os.ErrDeadlineExceeded)
		}
		v := c.out.next(len(p)-n, continued)
		switch {
		case v.err != nil:
			return n, c.fail("write", v.err)
		case v.cut:
			c.cut(v)
			continue
		case v.drop:
			c.out.lose(len(p) - n)
			return len(p), nil
		}
		piece := p[n : n+v.n]
		if c.out.damages(len(piece)) { // the caller's bytes are not ours to change
			c.copied = append(c.copied[:0], piece...)
			piece = c.copied
		}
		if d := c.out.pass(piece); d > 0 {
			if err := c.wait("write", &c.writeBy, time.Now().Add(d), nil); err != nil {
				return n, err
			}
		}
		m, err := c.inner.Write(piece)
		n += m
		c.count.bytesWritten.Add(int64(m))
		if err != nil {
			if over := c.over("write"); over != nil {
				err = over
			}
			return n, err
		}
		if cut, reset := c.out.atCut(); cut {
			c.cut(verdict{cut: true, reset: reset})
		}
	}
	return n, nil
}

// wait returns nil at the given time (never, if it is zero) or when changed is closed, and an error on deadline and Close.
func (c *Conn) wait(op string, by *deadline, until time.Time, changed <-chan struct{}) error {
	var fire <-chan time.Time
	if !until.IsZero() {
		d := time.Until(until)
		if d <= 0 && !by.passed() {
			return nil
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		fire = timer.C
	}
	for {
		passed, moved := by.wait()
		select {
		case <-passed:
			return c.fail(op, os.ErrDeadlineExceeded)
		default:
		}
		select {
		case <-fire:
			return nil
		case <-changed:
			return nil
		case <-passed:
			return c.fail(op, os.ErrDeadlineExceeded)
		case <-moved:
		case <-c.done:
			return c.over(op)
		}
	}
}

// Close implements [net.Conn].
func (c *Conn) Close() error { return c.close(false) }

func (c *Conn) close(reset bool) error {
	c.once.Do(func() {
		close(c.done)
		if reset {
			if l, ok := c.inner.(interface{ SetLinger(int) error }); ok {
				_ = l.SetLinger(0) // where there is no reset, it is an end
			}
		}
		c.err = c.inner.Close()
		c.readBy.set(time.Time{}) // no timer stays
		c.writeBy.set(time.Time{})
	})
	return c.err
}

// CloseWrite ends the outgoing direction, if the connection below can.
func (c *Conn) CloseWrite() error {
	if h, ok := c.inner.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// LocalAddr implements [net.Conn].
func (c *Conn) LocalAddr() net.Addr { return c.inner.LocalAddr() }

// RemoteAddr implements [net.Conn].
func (c *Conn) RemoteAddr() net.Addr { return c.inner.RemoteAddr() }

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return c.inner.SetReadDeadline(t)
}

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return c.inner.SetWriteDeadline(t)
}

// deadline is a point in time that may be moved while somebody waits for it.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	ch    chan struct{} // closed when the deadline has passed
	moved chan struct{} // closed when it is another
}

func makeDeadline() deadline { return deadline{ch: make(chan struct{}), moved: make(chan struct{})} }

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	close(d.moved)
	passed := make(chan struct{})
	d.ch, d.moved = passed, make(chan struct{})
	if t.IsZero() {
		return
	}
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(passed) })
		return
	}
	close(passed)
}

func (d *deadline) wait() (passed, moved <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ch, d.moved
}

func (d *deadline) passed() bool {
	ch, _ := d.wait()
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// Listener gives connections with faults.
type Listener struct {
	net.Listener
	count counters
	mu    sync.Mutex
	plan  Plan
	n     uint64
}

// WrapListener returns l, whose connections get the faults of plan. It takes l.
func WrapListener(l net.Listener, plan Plan) *Listener { return &Listener{Listener: l, plan: plan} }

// Accept implements [net.Listener]. The connection is a *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	plan := l.plan
	plan.Seed += l.n
	l.n++
	l.mu.Unlock()
	return wrap(c, plan, &l.count), nil
}

// Set changes the plan of connections that are accepted from now on.
func (l *Listener) Set(plan Plan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plan = plan
}

// Stats returns the counts of all connections so far.
func (l *Listener) Stats() Stats { return l.count.stats() }
