package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// reader is an open get. What is read belongs to the caller's goroutine, the rest is under Link.mu.
type reader struct {
	*transfer
	key    string
	user   context.Context //nolint:containedctx // documented: it lives as long as the Reader
	stop   func() bool
	info   objects.Info
	end    int64
	closed bool
	known  chan struct{} // closed once the first answer has said what info and end are; until then end is a guess

	cur *segment // the one that is read; the caller's own

	// Under Link.mu.
	segs    []*segment // what was asked for and is not read yet, in order
	missing []*segment // those among them that are to be asked for again
	issued  int64      // where the next new one begins
	base    int64      // where the first one begins
}

// segment is a part of the object.
type segment struct {
	off, n   int64
	r        *native.Reader // once it is coming; it holds what came
	attempts int
}

func (l *Link) get(ctx context.Context, key string, off, n int64) (Reader, error) {
	likely := n
	if n < 0 {
		likely = l.likely.Load()
	}
	r := &reader{key: key, user: ctx, base: off, end: off + min(likely, maxGuess), known: make(chan struct{})}
	r.transfer = l.newTransfer(get, r)
	want := int64(shortPiece)
	if n >= 0 {
		want = min(want, n)
	}
	r.issued = off + want
	r.segs = []*segment{{off: off, n: want}}
	guessed := r.guess()
	id := objectID(key)
	var first *native.Reader
	err := l.do(ctx, false, func(c *native.Client) (err error) {
		first, err = c.OpenRange(ctx, id, off, want)
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(r.known)
	if err != nil {
		r.abandon(guessed)
		return nil, err
	}
	r.info, r.end = first.Info(), first.Info().Size
	if n >= 0 && n < r.end-off {
		r.end = off + n
	}
	l.likely.Store(max(min(r.end-off, maxGuess), l.likely.Load()/2))
	r.segs[0].r = first
	if r.end <= off+want { // nothing else to be asked for, unless the first part breaks
		r.segs[0].n = r.end - off
		r.issued = r.end
		r.abandon(guessed)
		return r, nil
	}
	if r.info.ModTime.IsZero() {
		r.abandon(guessed)
		first.Close()
		l.mu.Unlock()
		defer l.mu.Lock()
		return l.single(ctx, id, off, n)
	}
	if r.err != nil { // the Path broke under the guess, but not under this
		r.abandon(guessed)
		guessed, r.issued = false, off+want
	}
	r.cut()
	r.stop = context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		r.fail(ctx.Err())
	})
	if !guessed {
		r.start()
	}
	r.want()
	l.dispatch(get)
	return r, nil
}

// guess begins to ask for what follows the first piece if there is likely to be more, so that an object whose length is not known yet takes no round trip more.
// What was asked for beyond the end comes back as a short refusal.
func (r *reader) guess() bool {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.issued >= r.end || l.wire == nil || l.wire.roomy(get) == nil {
		return false
	}
	r.start()
	r.want()
	l.dispatch(get)
	return true
}

// abandon gives up what was guessed. Under mu.
func (r *reader) abandon(guessed bool) {
	if guessed {
		r.transfer.end()
		r.segs = r.segs[:1]
		r.err = nil
	}
	r.ended = true
}

// cut drops what was asked for beyond the end. Under mu.
func (r *reader) cut() {
	for i, s := range r.segs {
		if s.off >= r.end {
			r.segs = r.segs[:i]
			break
		}
		s.n = min(s.n, r.end-s.off)
	}
	r.issued = min(r.issued, r.end)
}

// single reads all in one stream, that cannot be resumed: the peer cannot tell one version of the object from another.
func (l *Link) single(ctx context.Context, id string, off, n int64) (Reader, error) {
	var s *native.Reader
	err := l.do(ctx, false, func(c *native.Client) (err error) {
		s, err = c.OpenRange(ctx, id, off, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// issue implements kind.
func (r *reader) issue(ln *lane) func(*request) {
	var s *segment
	switch {
	case len(r.missing) > 0: // the first in order: it is what the caller waits for
		at := 0
		for i := range r.missing {
			if r.missing[i].off < r.missing[at].off {
				at = i
			}
		}
		s = r.missing[at]
		r.missing = slices.Delete(r.missing, at, at+1)
	case r.issued < r.end:
		limit := r.limit()
		n := min(ln.segment(), ln.w.share(get, r.end-r.issued), max(limit/2, minSegment), r.end-r.issued)
		if r.issued > r.base && r.issued+n-r.base > limit {
			return nil
		}
		s = &segment{off: r.issued, n: n}
		r.issued += n
		r.segs = append(r.segs, s)
	default:
		return nil
	}
	ln.takes(s.n)
	ctx, off, n := r.ctx, s.off, s.n
	return func(q *request) { r.fetch(ctx, q, s, off, n) }
}

// fetch asks for a segment.
func (r *reader) fetch(ctx context.Context, q *request, s *segment, off, n int64) {
	l := r.l
	if s.attempts > 0 {
		l.retries.Add(1)
	}
	in, err := q.c.OpenRange(ctx, objectID(r.key), off, n)
	came := int64(0)
	if err == nil {
		came = min(n, in.Info().Size-off)
	}
	l.mu.Lock()
	what := q.landed(n, came, err)
	l.dispatch(get)
	l.mu.Unlock()
	select { // what an answer means depends on the first
	case <-r.known:
	case <-ctx.Done():
	}
	l.mu.Lock()
	switch {
	case ctx.Err() != nil || off >= r.end:
	case err == nil && in.Info() != r.info:
		r.fail(fmt.Errorf("%w: %.100q was replaced while it was read, at byte %d; get it again", transport.ErrCorrupt, r.key, off))
	case err == nil:
		s.r = in
		in = nil
		if s == r.segs[0] {
			r.signal()
		}
	default:
		r.lost(s, what, err)
		l.dispatch(get)
	}
	l.mu.Unlock()
	if in != nil {
		in.Close()
	}
}

// lost decides what becomes of a segment that could not be had. Under mu.
func (r *reader) lost(s *segment, what verdict, err error) {
	if s.attempts++; what == final || s.attempts > attempts {
		switch {
		case errors.Is(err, transport.ErrNotFound):
			err = fmt.Errorf("%w any more: %.100q was deleted while it was read", transport.ErrNotFound, r.key)
		case errors.Is(err, transport.ErrInvalidRange): // the object is shorter now
			err = fmt.Errorf("%w: %.100q was replaced while it was read, at byte %d; get it again", transport.ErrCorrupt, r.key, s.off)
		case errors.Is(err, transport.ErrClosed):
			err = fmt.Errorf("%w: the paths to the peer break one after the other", transport.ErrUnavailable)
		}
		r.fail(err)
		return
	}
	r.afterPause(s.attempts, func() {
		r.missing = append(r.missing, s)
		r.want()
	})
}

// next makes cur the segment with the next bytes; io.EOF at the end.
func (r *reader) next() error {
	if r.cur != nil {
		return nil
	}
	l := r.l
	for {
		l.mu.Lock()
		switch {
		case r.closed:
			l.mu.Unlock()
			return fmt.Errorf("%w: this reader", transport.ErrClosed)
		case r.err != nil:
			l.mu.Unlock()
			return r.err
		case r.base == r.end:
			if !r.ended {
				r.transfer.end()
			}
			l.mu.Unlock()
			return io.EOF
		}
		if len(r.segs) > 0 && r.segs[0].r != nil {
			r.cur = r.segs[0]
			l.mu.Unlock()
			return nil
		}
		if r.issued < r.end && !r.queued { // the window is what holds it up
			r.grow()
			r.want()
			l.dispatch(get)
		}
		l.mu.Unlock()
		select {
		case <-r.wake:
		case <-r.user.Done():
			return r.user.Err()
		}
	}
}

// took counts n bytes of cur as read. err is what its reader said. It returns what is wrong with all.
func (r *reader) took(n int64, err error) error {
	s, l := r.cur, r.l
	s.off += n
	s.n -= n
	if n > 0 {
		s.attempts = 0
	}
	if s.n > 0 && err == nil {
		return nil
	}
	if s.n > 0 && errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: the peer sent %d bytes too few", transport.ErrCorrupt, s.n)
	}
	in := s.r
	l.mu.Lock()
	r.base = s.off
	r.cur, s.r = nil, nil
	switch what := judge(err); {
	case s.n == 0:
		r.segs[0] = nil
		r.segs = r.segs[1:]
		if r.issued < r.end {
			r.want()
			l.dispatch(get)
		}
		err = nil
	case r.err != nil:
		err = r.err
	case l.closed:
		err = errClosed
	default:
		if r.ended { // the whole range was in the first request
			r.start()
		}
		r.lost(s, what, err)
		l.dispatch(get)
		err = r.err
	}
	l.mu.Unlock()
	in.Close()
	return err
}

// Read reads what has come, or waits for more.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if err := r.next(); err != nil {
			return 0, err
		}
		n, err := r.cur.r.Read(p[:min(int64(len(p)), r.cur.n)])
		err = r.took(int64(n), err)
		if n > 0 {
			return n, nil // a fault comes with the next call
		}
		if err != nil {
			return 0, err
		}
	}
}

// sink tells a fault of the destination from one of the source.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	s.err = err
	return n, err
}

// WriteTo writes the rest to w without copying it: what came in one frame is lent to one Write.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	to := &sink{w: w}
	for {
		if err := r.next(); errors.Is(err, io.EOF) {
			return total, nil
		} else if err != nil {
			return total, err
		}
		n, err := r.cur.r.WriteTo(to)
		total += n
		if to.err != nil {
			r.cur.off += n
			r.cur.n -= n
			return total, to.err
		}
		if err == nil && n < r.cur.n {
			err = io.EOF
		}
		if err := r.took(n, err); err != nil {
			return total, err
		}
	}
}

// Size returns the object's whole length in bytes.
func (r *reader) Size() int64 { return r.info.Size }

// Info returns what the peer knows of the version that is read.
func (r *reader) Info() objects.Info { return r.info }

// drop implements kind.
func (r *reader) drop() {
	r.missing = nil
	for _, s := range r.segs {
		if s != r.cur && s.r != nil {
			s.r.Close()
			s.r = nil
		}
	}
}

// Close gives the memory back and stops what is still coming. A second Close does nothing.
func (r *reader) Close() error {
	if r.closed {
		return nil
	}
	l := r.l
	l.mu.Lock()
	r.closed = true
	r.cur = nil
	r.transfer.end()
	segs := r.segs
	r.segs, r.missing = nil, nil
	l.mu.Unlock()
	if r.stop != nil {
		r.stop()
	}
	for _, s := range segs {
		if s.r != nil {
			s.r.Close()
		}
	}
	return nil
}
