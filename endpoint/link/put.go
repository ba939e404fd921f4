package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// abortTimeout bounds the message to the peer that an upload will not go on.
const abortTimeout = 10 * time.Second

// maxOrphans is of how many uploads that were given up a Link knows at most while the peer could not be told.
const maxOrphans = 4096

// writer is a put of more than one segment. All of it is under Link.mu.
type writer struct {
	*transfer
	id    segmentID // off and acked change
	parts []*part   // read and not acknowledged yet, in order
	ready []*part   // those among them that are not in flight
	held  int64     // their bytes
	peer  string    // the instance of the server that has acknowledged segments
}

// part is a segment in memory.
type part struct {
	off      int64
	buf      *transport.Buffer
	last     bool // it says how long the object is
	acked    bool
	flying   bool
	attempts int
}

func (l *Link) put(ctx context.Context, key string, size int64, body io.Reader) error {
	whole := min(firstSegment, int64(l.o.Segment))
	n := whole
	if size >= 0 {
		l.mu.Lock()
		if l.wire != nil {
			whole = min(whole, l.wire.share(put, size))
		}
		l.mu.Unlock()
		n = min(whole, size)
	}
	first := l.o.Pool.Get(int(n))
	got, err := io.ReadFull(body, first.Bytes())
	switch {
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
	case size >= 0 && int64(got) < n:
		err = shortBody(int64(got), size)
	case err != nil: // the end of an object of unknown length
		size, err = int64(got), nil
	}
	if err != nil {
		first.Release()
		return err
	}
	id := segmentID{upload: uuid.New(), size: size, key: key}
	if size >= 0 && size <= whole {
		defer first.Release()
		return l.do(ctx, false, func(c *native.Client) error {
			return c.Put(ctx, id.String(), transport.Slices{first.Bytes()[:got]}, objects.PutOptions{})
		})
	}
	l.requests.Add(1)
	w := &writer{id: id}
	w.transfer = l.newTransfer(put, w)
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		w.fail(ctx.Err())
	})
	defer stop()
	l.mu.Lock()
	w.start()
	l.mu.Unlock()
	err = w.run(body, first)
	if err != nil {
		l.abort(id.upload)
	}
	return err
}

func shortBody(got, size int64) error {
	return fmt.Errorf("%w: the source ended after %d of %d bytes", transport.ErrCorrupt, got, size)
}

// run reads body and sends it, the first part of which is read already. It takes first.
func (w *writer) run(body io.Reader, first *transport.Buffer) error {
	size := w.id.size
	err := w.add(&part{buf: first})
	read := int64(first.Len())
	for err == nil && read != size {
		var n int64
		if n, err = w.room(read); err != nil {
			break
		}
		buf := w.l.o.Pool.Get(int(n))
		got, rerr := io.ReadFull(body, buf.Bytes())
		ended := errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF)
		switch {
		case rerr == nil:
		case ended && size < 0:
			size = read + int64(got)
			if got < buf.Len() {
				whole := buf
				buf = whole.Slice(0, got)
				whole.Release()
			}
			rerr = nil
		case ended:
			rerr = shortBody(read+int64(got), size)
		}
		if rerr != nil {
			buf.Release()
			w.l.mu.Lock()
			w.fail(rerr)
			err = w.err
			w.l.mu.Unlock()
			break
		}
		p := &part{off: read, buf: buf}
		read += int64(got)
		p.last = read == size
		err = w.add(p)
	}
	if err != nil {
		return err
	}
	return w.finish()
}

// room waits until there may be another part from off on, and returns how long it may be.
func (w *writer) room(off int64) (int64, error) {
	l := w.l
	for {
		l.mu.Lock()
		if w.err != nil {
			l.mu.Unlock()
			return 0, w.err
		}
		n, lanes := min(firstSegment, int64(l.o.Segment)), l.o.Lanes
		if l.wire != nil {
			lanes = len(l.wire.using(put))
			for _, ln := range l.wire.using(put) {
				if ln.c != nil {
					n = max(n, ln.segment())
				}
			}
		}
		n = min(n, max(w.limit()/2, minSegment))
		if rest := w.id.size - off; w.id.size >= 0 {
			n = min(n, rest)
			if l.wire != nil {
				n = min(n, l.wire.share(put, rest))
			}
		}
		base := off
		if len(w.parts) > 0 {
			base = w.parts[0].off
		}
		// A few that wait keep the lanes busy; the rest of the window is for those in flight.
		fits := w.held == 0 || w.held+n <= w.limit() && len(w.ready) < 2*lanes && off+n-base <= uploadWindow
		if !fits && len(w.ready) == 0 && w.held+n > w.limit() {
			w.grow()
			fits = w.held+n <= w.limit() && off+n-base <= uploadWindow
		}
		l.mu.Unlock()
		if fits {
			return max(n, 1), nil
		}
		<-w.wake
	}
}

// add takes a part to be sent.
func (w *writer) add(p *part) error {
	l := w.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.err != nil {
		p.buf.Release()
		return w.err
	}
	w.parts = append(w.parts, p)
	w.ready = append(w.ready, p)
	w.held += int64(p.buf.Len())
	w.want()
	l.dispatch(put)
	return nil
}

// finish waits until the peer has all.
func (w *writer) finish() error {
	l := w.l
	for {
		l.mu.Lock()
		if w.err != nil || len(w.parts) == 0 {
			defer l.mu.Unlock()
			w.transfer.end()
			return w.err
		}
		l.mu.Unlock()
		<-w.wake
	}
}

// issue implements kind.
func (w *writer) issue(ln *lane) func(*request) {
	if len(w.ready) == 0 {
		return nil
	}
	at := 0
	for i, p := range w.ready { // those to be sent again come first
		if p.off < w.ready[at].off {
			at = i
		}
	}
	p := w.ready[at]
	w.ready = slices.Delete(w.ready, at, at+1)
	w.signal() // there is room for another
	if w.peer != "" && w.peer != ln.c.Welcome().Instance {
		w.fail(errRestarted())
		return nil
	}
	p.flying = true
	id := w.id
	id.off, id.acked = p.off, w.peer != ""
	if p.last {
		id.size = p.off + int64(p.buf.Len())
	}
	ln.takes(int64(p.buf.Len()))
	return func(q *request) { w.send(q, p, id) }
}

func errRestarted() error {
	return fmt.Errorf("%w: the peer restarted while the object was on its way, and has lost its beginning; put it again", transport.ErrUnavailable)
}

// send sends one part. It goes on when the put has ended meanwhile: half a frame would cost the session.
func (w *writer) send(q *request, p *part, id segmentID) {
	l := w.l
	if p.attempts > 0 {
		l.retries.Add(1)
	}
	n := int64(p.buf.Len())
	err := q.c.Put(q.ln.w.ctx, id.String(), transport.Slices{p.buf.Bytes()}, objects.PutOptions{})
	if errors.Is(err, context.Canceled) { // the wire has ended
		err = fmt.Errorf("%w: the path ended", transport.ErrUnavailable)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	what := q.landed(n, n, err)
	p.flying = false
	instance := q.c.Welcome().Instance
	switch {
	case w.ended:
		p.buf.Release()
	case err == nil && w.peer != "" && w.peer != instance:
		p.acked = true
		p.buf.Release()
		w.fail(errRestarted())
	case err == nil:
		w.peer = instance
		p.acked = true
		p.buf.Release()
		w.held -= n
		for len(w.parts) > 0 && w.parts[0].acked {
			w.parts[0] = nil
			w.parts = w.parts[1:]
		}
		w.signal()
	case l.closed:
		w.fail(errClosed)
	default:
		if p.attempts++; what == final || p.attempts > attempts {
			if errors.Is(err, transport.ErrClosed) {
				err = fmt.Errorf("%w: the paths to the peer break one after the other", transport.ErrUnavailable)
			}
			w.fail(err)
			break
		}
		w.afterPause(p.attempts, func() {
			w.ready = append(w.ready, p)
			w.want()
		})
	}
	l.dispatch(put)
}

// drop implements kind.
func (w *writer) drop() {
	for _, p := range w.parts {
		if !p.flying && !p.acked { // who sends it releases it
			p.buf.Release()
		}
	}
	w.parts, w.ready, w.held = nil, nil, 0
}

// abort lets the peer know that nothing more of an upload will come: now, or when there is a Path again. A peer that is told never, or too late, finds out by
// itself.
func (l *Link) abort(upload uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if len(l.orphans) == maxOrphans {
		l.orphans = slices.Delete(l.orphans, 0, 1)
	}
	l.orphans = append(l.orphans, upload)
	l.tellOrphans()
}

// tellOrphans tells the peer of uploads that were given up. Under mu.
func (l *Link) tellOrphans() {
	for len(l.orphans) > 0 && l.wire != nil && !l.closed {
		ln := l.wire.forSmall(false)
		if ln == nil {
			return
		}
		upload := l.orphans[0]
		l.orphans = slices.Delete(l.orphans, 0, 1)
		c := ln.begin(false)
		l.wg.Go(func() {
			ctx, cancel := context.WithTimeout(l.ctx, abortTimeout)
			defer cancel()
			err := c.Evict(ctx, abortID(upload))
			l.mu.Lock()
			defer l.mu.Unlock()
			what := judge(err)
			if what == again && len(l.orphans) < maxOrphans {
				l.orphans = append(l.orphans, upload) // until the lane is open again
			}
			ln.done(c, false, what == again)
		})
	}
}
