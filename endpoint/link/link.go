package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// A Source returns the best Path to the peer now; it establishes one if there is none. A Link calls it when it has something to ask and no Path, again after
// a Path has ended, one call at a time. ctx ends when nobody waits any more. The Path stays its maker's, but for one thing: a Link that finds it dead closes it.
type Source func(ctx context.Context) (path.Path, error)

// The defaults of Options.
const (
	DefaultLanes   = 4
	DefaultSegment = 1 << 20
	DefaultWindow  = 64 << 20
	DefaultMemory  = 256 << 20
)

// Options of a Link. The zero value is useful.
type Options struct {
	// Lanes is how many sessions carry bulk in each direction; up to as many more carry what is small. At most 16. Default: 4 to begin with, and up to 16
	// where that turns out to be faster.
	Lanes int
	// Segment is the most bytes of an object that one request moves; less on slow paths. Default 1 MiB, at most MaxSegment.
	Segment int
	// Window is how many bytes of one transfer may be on their way or wait for its reader; it begins much smaller. Default 64 MiB.
	Window int64
	// Memory bounds that of all transfers together; each may have two segments in any case. Default 256 MiB.
	Memory int64
	// Quiet is how long a Path may be silent while something is asked; then there is a ping, and when nothing came for as long again, the Path is closed.
	// Default 5 s; negative: never.
	Quiet time.Duration
	// Hash is whether bodies carry sums. By default not: TLS, QUIC and DTLS verify what they carry.
	Hash native.HashMode
	// Untrusted says that Paths may damage what they carry: then HashAuto means sums.
	Untrusted bool
	// Compress bodies. Default: CompressNone.
	Compress native.Compression
	// Pool is the memory of what is received and sent. Default transport.DefaultPool.
	Pool *transport.Pool
	// Logger is told of lanes and Paths, at debug level. Default: none.
	Logger *slog.Logger

	widest int // how many lanes there may become
}

func (o Options) withDefaults() Options {
	if o.Lanes <= 0 {
		o.Lanes, o.widest = DefaultLanes, maxLanes
	} else {
		o.Lanes = min(o.Lanes, maxLanes)
		o.widest = o.Lanes
	}
	def(&o.Segment, DefaultSegment)
	def(&o.Window, DefaultWindow)
	def(&o.Memory, DefaultMemory)
	o.Segment = min(max(o.Segment, minSegment), MaxSegment)
	o.Window = min(max(o.Window, 2*int64(o.Segment)), uploadWindow)
	if o.Quiet == 0 {
		o.Quiet = 5 * time.Second
	}
	if o.Pool == nil {
		o.Pool = transport.DefaultPool
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func def[T int | int64](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// A Reader gives a range of an object piece by piece, in order. It belongs to one goroutine at a time. Size is that of the whole object.
type Reader interface {
	objects.Reader
	// Info returns what the peer knows of the version that is read.
	Info() objects.Info
}

// A Link asks one peer for objects. All methods may be called concurrently. Errors match the sentinels of package transport, as those of objects.Client do;
// what the peer refused is a *native.RemoteError. Calls go on over the next Path when one ends; only when the Source has none, or several in a row were of
// no use, they fail, with ErrUnavailable or what the Source said.
type Link struct {
	src    Source
	o      Options
	ctx    context.Context //nolint:containedctx // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	start  time.Time

	in, out                  meter
	requests, retries, paths atomic.Int64
	likely                   atomic.Int64 // how long the next object may well be: as long as the last, or half of one before

	mu        sync.Mutex
	closed    bool
	wire      *wire              // where requests go; nil if there is none
	wires     map[*wire]struct{} // that and those that still have something in flight
	dial      *dialing
	changed   chan struct{}          // closed when a wire or lane has come or gone; who waits takes it under mu
	rings     [2][]*transfer         // those that could send a request, by direction
	transfers map[*transfer]struct{} // of more than one request, that are under way
	orphans   []uuid.UUID            // uploads that were given up, of which the peer is to be told
	barren    int                    // Paths in a row on which no session stood
	given     struct {               // the last time that waiting was given up for that
		seq int64
		err error
	}
	lastErr error
}

// dialing is one call of the Source.
type dialing struct {
	done    chan struct{}
	err     error // once done is closed
	waiting int   // callers
	cancel  context.CancelFunc
}

// New returns a Link. It asks src for nothing before somebody asks it.
func New(src Source, o Options) *Link {
	l := &Link{src: src, o: o.withDefaults(), start: time.Now(), wires: map[*wire]struct{}{}, changed: make(chan struct{}),
		transfers: map[*transfer]struct{}{}}
	l.likely.Store(firstSegment)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

var errClosed = fmt.Errorf("%w: this link", transport.ErrClosed)

// Close ends everything: calls in flight and open Readers fail with ErrClosed. It waits for all goroutines, and leaves the Path to its owner. Idempotent.
func (l *Link) Close() error {
	l.mu.Lock()
	l.closed = true
	for w := range l.wires {
		w.end(errClosed, false)
	}
	for t := range l.transfers {
		t.fail(errClosed)
	}
	l.tell()
	l.mu.Unlock()
	l.cancel()
	l.wg.Wait()
	return nil
}

// Upgrade makes p the Path for new requests as soon as a session stands on it; what is in flight ends on the old one, which is then let go but not closed.
// If no session can be opened on p it is closed, and nothing else changes. It does not block.
func (l *Link) Upgrade(p path.Path) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.wire != nil && l.wire.p == p {
		return
	}
	l.adopt(p)
}

// tell wakes who waits for a wire or a lane, and lets the Link's own requests go on. Under mu.
func (l *Link) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
	l.tellOrphans()
	l.dispatch(get)
	l.dispatch(put)
}

// connect asks the Source unless that is under way. Under mu, not after Close.
func (l *Link) connect() *dialing {
	if l.dial != nil {
		return l.dial
	}
	ctx, cancel := context.WithCancel(l.ctx)
	d := &dialing{done: make(chan struct{}), cancel: cancel}
	l.dial = d
	barren := l.barren
	l.wg.Go(func() {
		defer cancel()
		var p path.Path
		err := pause(ctx, barren+patient-1) // none before the first
		if err == nil {
			p, err = l.src(ctx)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		given := l.dial != d // up, as nobody waited any more
		if !given {
			l.dial = nil
		}
		switch {
		case l.closed:
			err = errClosed
		case err == nil && p == nil:
			err = fmt.Errorf("%w: there is no path to the peer", transport.ErrUnavailable)
		case err == nil && l.wire == nil:
			l.adopt(p)
		}
		if d.err = err; err != nil && !given {
			l.lastErr = err
			l.o.Logger.Debug("no path", "err", err)
			l.failWaiting(err)
		}
		close(d.done)
		l.tell()
	})
	return d
}

const (
	// attempts is how often something is asked again when a Path or a session broke under it, before the caller is told.
	attempts = 10
	// patient is which attempt has the first pause before it: a new Path should be there at once.
	patient = 3
)

// pauseFor returns how long to wait before an attempt.
func pauseFor(attempt int) time.Duration {
	if attempt < patient {
		return 0
	}
	return min(25*time.Millisecond<<(attempt-patient), time.Second)
}

// pause waits before an attempt.
func pause(ctx context.Context, attempt int) error {
	if attempt < patient {
		return ctx.Err()
	}
	t := time.NewTimer(pauseFor(attempt))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// verdict is what to do after an error.
type verdict uint8

const (
	final verdict = iota // it is the answer
	again                // the session is of no use any more, another may be
	later                // the peer has no room now
)

// judge looks at what a session's call returned.
func judge(err error) verdict {
	var remote *native.RemoteError
	switch {
	case err == nil:
		return final
	case errors.As(err, &remote):
		switch remote.Status {
		case native.StatusDraining, native.StatusCorrupt: // the latter of a body that was damaged on the way there
			return again
		case native.StatusBusy:
			return later
		}
		return final
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return final
	case errors.Is(err, transport.ErrUnavailable), errors.Is(err, transport.ErrClosed), errors.Is(err, transport.ErrCorrupt):
		return again
	}
	return final
}

// do runs fn on a session for small requests, again on another if that breaks. waits says that the request may take as long as it likes.
func (l *Link) do(ctx context.Context, waits bool, fn func(c *native.Client) error) error {
	l.requests.Add(1)
	for attempt := 0; ; attempt++ {
		if err := pause(ctx, attempt); err != nil {
			return err
		}
		ln, c, err := l.small(ctx, waits)
		if err != nil {
			return err
		}
		err = fn(c)
		l.mu.Lock()
		closed := l.closed
		what := judge(err)
		ln.done(c, waits, what == again)
		l.mu.Unlock()
		switch {
		case what == final:
			return err
		case closed:
			return errClosed
		case attempt == attempts:
			if errors.Is(err, transport.ErrClosed) {
				err = fmt.Errorf("%w: the paths to the peer break one after the other", transport.ErrUnavailable)
			}
			return err
		}
		l.retries.Add(1)
	}
}

// small returns an open lane for a small request, which the caller gives back by done.
func (l *Link) small(ctx context.Context, waits bool) (*lane, *native.Client, error) {
	since := int64(-1)
	for {
		l.mu.Lock()
		if since < 0 {
			since = l.given.seq
		}
		if l.closed || l.given.seq != since {
			err := l.given.err
			if l.closed {
				err = errClosed
			}
			l.mu.Unlock()
			return nil, nil, err
		}
		var dialed chan struct{}
		var d *dialing
		if l.wire == nil {
			d = l.connect()
			d.waiting++
			dialed = d.done
		} else if ln := l.wire.forSmall(waits); ln != nil {
			c := ln.begin(waits)
			l.mu.Unlock()
			return ln, c, nil
		}
		changed := l.changed
		l.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-dialed:
			err = d.err
		case <-ctx.Done():
			err = ctx.Err()
		}
		if d != nil {
			l.mu.Lock()
			d.waiting--
			if ctx.Err() != nil && d.waiting == 0 && len(l.rings[get])+len(l.rings[put]) == 0 && l.dial == d {
				d.cancel()
				l.dial = nil // who comes now asks anew
			}
			l.mu.Unlock()
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// Exists reports whether the peer has the object.
func (l *Link) Exists(ctx context.Context, key string) (found bool, err error) {
	if err := checkKey(key); err != nil {
		return false, err
	}
	err = l.do(ctx, false, func(c *native.Client) error {
		found, err = c.Exists(ctx, objectID(key))
		return err
	})
	return found, err
}

// Evict deletes the object. A missing one is not an error.
func (l *Link) Evict(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return l.do(ctx, false, func(c *native.Client) error { return c.Evict(ctx, objectID(key)) })
}

// Stat returns what the peer knows of the object.
func (l *Link) Stat(ctx context.Context, key string) (info objects.Info, err error) {
	if err := checkKey(key); err != nil {
		return info, err
	}
	err = l.do(ctx, false, func(c *native.Client) error {
		info, err = c.Stat(ctx, objectID(key))
		return err
	})
	return info, err
}

// Wait returns nil as soon as the object exists.
func (l *Link) Wait(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return l.do(ctx, true, func(c *native.Client) error { return c.Wait(ctx, objectID(key)) })
}

// Ping does one round trip, over a new Path if there is none, and returns how long it took.
func (l *Link) Ping(ctx context.Context) (took time.Duration, err error) {
	err = l.do(ctx, false, func(c *native.Client) error {
		began := time.Now()
		err := c.Ping(ctx)
		took = time.Since(began)
		return err
	})
	return took, err
}

// Stats of a Link since it was made.
type Stats struct {
	Connected bool          // there is a Path
	Path      path.Info     // of the Path for new requests, if Connected
	RTT       time.Duration // the shortest that was seen on it; 0 if unknown
	Lanes     int           // sessions that are open on it
	InFlight  int           // requests, on all Paths

	BytesIn, BytesOut int64   // on the wire, with the frames' own headers, without those of the carrier below
	RateIn, RateOut   float64 // bytes per second lately

	Transfers int   // gets and puts of more than one request that are under way
	Requests  int64 // gets, puts and others so far
	Retries   int64 // requests and segments that were asked again
	Paths     int64 // that were used so far
	Err       error // why the last Path ended or could not be had
}

// Stats returns the counts so far. They need not be of one instant.
func (l *Link) Stats() Stats {
	now := time.Now()
	st := Stats{Requests: l.requests.Load(), Retries: l.retries.Load(), Paths: l.paths.Load()}
	st.BytesIn, st.RateIn = l.in.read(now)
	st.BytesOut, st.RateOut = l.out.read(now)
	l.mu.Lock()
	defer l.mu.Unlock()
	st.Transfers, st.Err = len(l.transfers), l.lastErr
	for w := range l.wires {
		st.InFlight += w.inflight
	}
	if w := l.wire; w != nil {
		st.Connected, st.Path, st.RTT = true, w.p.Info(), w.rtt
		for _, group := range w.lanes {
			for _, ln := range group {
				if ln.c != nil {
					st.Lanes++
				}
			}
		}
	}
	return st
}

// Get opens n bytes of an object from off for reading, or all from off if n < 0; fewer if the object ends before. An off beyond the end is ErrInvalidRange. ctx
// lives as long as the Reader, which must be closed. The Reader fails with ErrCorrupt if the object is replaced while it is read and with ErrNotFound if it
// is deleted, unless what was asked for is here already.
func (l *Link) Get(ctx context.Context, key string, off, n int64) (Reader, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("%w: from byte %d", transport.ErrInvalidRange, off)
	}
	return l.get(ctx, key, off, n)
}

// Put stores an object, replacing an earlier one. size is its length, negative if unknown: then body is read to its end, else exactly size bytes of it. It
// borrows body until it returns, and reads ahead of what the peer has by no more than Window. When it has returned without error the peer's store holds the
// object; after an error it was stored only if the answer was lost, or ctx ended while it was on its way.
func (l *Link) Put(ctx context.Context, key string, size int64, body io.Reader) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return l.put(ctx, key, size, body)
}
