package link

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// uploadWindow is how far beyond what it has in order a server takes segments, and hence how much of an upload a client has under way.
const uploadWindow = 64 << 20

// MaxSegment is the longest segment that a server takes, in bytes.
const MaxSegment = 4 << 20

// outcome is how an upload ended.
type outcome struct {
	err error
	at  time.Time
}

// uploads are those of one peer.
type uploads struct {
	store objects.Store
	o     *ServerOptions
	bytes atomic.Int64  // memory of segments that are coming or wait for earlier ones
	total *atomic.Int64 // that of all peers

	mu     sync.Mutex
	open   map[uuid.UUID]*upload
	ended  map[uuid.UUID]outcome
	order  []uuid.UUID // of ended, oldest first
	closed bool
}

func newUploads(store objects.Store, o *ServerOptions, total *atomic.Int64) *uploads {
	return &uploads{store: store, o: o, total: total, open: map[uuid.UUID]*upload{}, ended: map[uuid.UUID]outcome{}}
}

// upload is an object that comes in segments.
type upload struct {
	us  *uploads
	id  uuid.UUID
	key string

	mu      sync.Mutex // held while the store takes bytes
	size    int64      // -1 while unknown
	in      objects.Incoming
	next    int64 // all before it is in the store
	held    map[int64]*transport.Buffer
	coming  int // segments that are being received
	touched bool
	idle    *time.Timer
	over    bool
	result  outcome
}

// remember keeps how an upload ended, for who asks again. Under mu.
func (us *uploads) remember(id uuid.UUID, err error) {
	now := time.Now()
	if _, ok := us.ended[id]; !ok {
		us.order = append(us.order, id)
	}
	us.ended[id] = outcome{err, now}
	us.prune(now)
}

// prune forgets what is too old or too much. Under mu.
func (us *uploads) prune(now time.Time) {
	for len(us.order) > 0 && (len(us.order) > us.o.MaxEnded || now.Sub(us.ended[us.order[0]].at) > us.o.Idle) {
		delete(us.ended, us.order[0])
		us.order = us.order[1:]
	}
}

func errUnknown() error {
	return fmt.Errorf("%w: the peer does not know this upload: it restarted, or nothing of it came for too long; put the object again", transport.ErrUnavailable)
}

func badSegment(format string, args ...any) error {
	return &native.RemoteError{Status: native.StatusInvalidRange, Text: "a segment that " + fmt.Sprintf(format, args...)}
}

// overhead is what a segment costs beside its bytes: many short ones must not take more memory than few long ones.
const overhead = 1 << 10

// reserve counts the memory of a segment of n bytes; the error says that there is none. Segments that wait for others leave room for what they wait for.
func (us *uploads) reserve(n int64, waits bool) error {
	mine, all := us.o.Memory, us.o.TotalMemory
	if waits {
		mine, all = mine-mine/4, all-all/4
	}
	n += overhead
	if us.bytes.Add(n) <= mine {
		if us.total.Add(n) <= all {
			return nil
		}
		us.total.Add(-n)
	}
	us.bytes.Add(-n)
	return &native.RemoteError{Status: native.StatusBusy, Text: "segments take all memory there is for them; try again"}
}

// free ends what reserve began.
func (us *uploads) free(n int64) {
	us.bytes.Add(-n - overhead)
	us.total.Add(-n - overhead)
}

// begin decides on a segment of n bytes before it comes.
func (us *uploads) begin(id string, n int64) (objects.Incoming, error) {
	s, err := parseSegment(id)
	switch {
	case err != nil:
		return nil, err
	case n < 0:
		return nil, badSegment("does not say how long it is")
	case n > MaxSegment:
		return nil, fmt.Errorf("%w: a segment of %d bytes; the limit is %d", transport.ErrTooLarge, n, int64(MaxSegment))
	case s.off+n < 0 || s.size >= 0 && s.off+n > s.size:
		return nil, badSegment("ends beyond the object")
	case n == 0 && s.size != s.off:
		return nil, badSegment("is empty")
	}
	us.mu.Lock()
	if us.closed {
		us.mu.Unlock()
		return nil, errServerClosed
	}
	if out, ok := us.ended[s.upload]; ok {
		us.mu.Unlock()
		return us.discard(n, out.err)
	}
	u := us.open[s.upload]
	if u != nil {
		us.mu.Unlock()
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.begin(s, n)
	}
	if s.acked {
		us.mu.Unlock()
		return nil, errUnknown()
	}
	if s.off == 0 && n == s.size {
		us.mu.Unlock()
		if err := us.reserve(n, false); err != nil {
			return nil, err
		}
		in, err := us.store.Create(s.key, n, objects.PutOptions{})
		if err != nil {
			us.free(n)
			return nil, err
		}
		return &wholeObject{in: in, us: us, id: s.upload, n: n}, nil
	}
	if len(us.open) >= us.o.MaxUploads {
		us.mu.Unlock()
		return nil, &native.RemoteError{Status: native.StatusBusy, Text: fmt.Sprintf("%d uploads are under way; end some first", us.o.MaxUploads)}
	}
	u = &upload{us: us, id: s.upload, key: s.key, size: -1, held: map[int64]*transport.Buffer{}}
	u.mu.Lock()
	defer u.mu.Unlock()
	us.open[s.upload] = u
	us.mu.Unlock()
	// size is s.size only if the first to arrive says so: the last of an object of unknown length does too, and is as good.
	if u.in, err = us.store.Create(s.key, s.size, objects.PutOptions{}); err != nil {
		u.in = nil
		u.end(err)
		return nil, err
	}
	u.idle = time.AfterFunc(us.o.Idle, u.expire)
	return u.begin(s, n)
}

// begin is under mu.
func (u *upload) begin(s segmentID, n int64) (objects.Incoming, error) {
	us := u.us
	u.touched = true
	switch {
	case u.over:
		return us.discard(n, u.result.err)
	case s.key != u.key:
		return nil, badSegment("belongs to another key than those before it")
	case s.size >= 0 && u.size >= 0 && s.size != u.size:
		return nil, badSegment("says that the object has %d bytes; it had %d before", s.size, u.size)
	case s.off < u.next && s.off+n > u.next || u.size >= 0 && s.off+n > u.size:
		return nil, badSegment("does not fit to those before it: from %d to %d, have %d of %d", s.off, s.off+n, u.next, u.size)
	case s.off < u.next: // its acknowledgement was lost
		return us.discard(n, nil)
	case s.off-u.next > uploadWindow-n:
		return nil, badSegment("is too far ahead: from %d to %d, have %d", s.off, s.off+n, u.next)
	}
	if have, ok := u.held[s.off]; ok {
		if int64(have.Len()) != n {
			return nil, badSegment("has %d bytes; it had %d before", n, have.Len())
		}
		return us.discard(n, nil)
	}
	if err := us.reserve(n, s.off != u.next); err != nil {
		return nil, err
	}
	u.coming++
	return &segmentIn{u: u, s: s, buf: us.o.Pool.Get(int(n))}, nil
}

// segmentIn receives one segment.
type segmentIn struct {
	u     *upload
	s     segmentID
	buf   *transport.Buffer
	fill  int
	ended bool
}

func (in *segmentIn) Next(n int) ([]byte, error) {
	mem := in.buf.Bytes()
	if in.fill == len(mem) {
		return nil, fmt.Errorf("%w: more bytes than the %d that were announced", transport.ErrTooLarge, len(mem))
	}
	mem = mem[in.fill:min(in.fill+max(n, 1), len(mem))]
	in.fill += len(mem)
	return mem, nil
}

func (in *segmentIn) Commit() error {
	if in.fill != in.buf.Len() {
		in.Abort()
		return fmt.Errorf("%w: %d bytes of a segment came, %d were announced", transport.ErrCorrupt, in.fill, in.buf.Len())
	}
	in.ended = true
	return in.u.add(in.s, in.buf)
}

func (in *segmentIn) Abort() {
	if in.ended {
		return
	}
	in.ended = true
	u := in.u
	u.mu.Lock()
	u.coming--
	u.mu.Unlock()
	u.us.drop(in.buf)
}

// drop releases a segment's memory.
func (us *uploads) drop(b *transport.Buffer) {
	us.free(int64(b.Len()))
	b.Release()
}

// add takes a segment that has come whole.
func (u *upload) add(s segmentID, buf *transport.Buffer) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.coming--
	u.touched = true
	n := int64(buf.Len())
	if u.over {
		u.us.drop(buf)
		return u.result.err
	}
	if s.size >= 0 {
		if u.size >= 0 && u.size != s.size || u.ahead() > s.size {
			u.us.drop(buf)
			return badSegment("says that the object has %d bytes; there are others beyond", s.size)
		}
		u.size = s.size
	}
	switch _, have := u.held[s.off]; {
	case have || s.off+n <= u.next && n > 0: // it came twice
		u.us.drop(buf)
		return nil
	case s.off < u.next || u.size >= 0 && s.off+n > u.size:
		u.us.drop(buf)
		return badSegment("does not fit to those before it")
	case s.off > u.next:
		u.held[s.off] = buf
		return nil
	}
	for buf != nil {
		if err := u.write(buf); err != nil {
			u.end(err)
			return err
		}
		if buf = u.held[u.next]; buf != nil {
			delete(u.held, u.next)
		}
	}
	for off, b := range u.held { // what a confused client cut in another way
		if off < u.next {
			delete(u.held, off)
			u.us.drop(b)
		}
	}
	if u.next != u.size {
		return nil
	}
	in := u.in
	u.in = nil
	err := in.Commit()
	u.end(err)
	return err
}

// ahead returns where the farthest segment that came ends. Under mu.
func (u *upload) ahead() int64 {
	end := u.next
	for off, b := range u.held {
		end = max(end, off+int64(b.Len()))
	}
	return end
}

// write gives a segment to the store, and releases it. Under mu.
func (u *upload) write(buf *transport.Buffer) error {
	defer u.us.drop(buf)
	for src := buf.Bytes(); len(src) > 0; {
		mem, err := u.in.Next(len(src))
		if err != nil {
			return err
		}
		n := copy(mem, src)
		src = src[n:]
		u.next += int64(n)
	}
	return nil
}

// end ends u with what its segments are answered from now on. Under mu.
func (u *upload) end(err error) {
	if u.over {
		return
	}
	us := u.us
	u.over, u.result = true, outcome{err: err}
	if u.idle != nil {
		u.idle.Stop()
	}
	if u.in != nil {
		u.in.Abort()
		u.in = nil
	}
	for _, b := range u.held {
		us.drop(b)
	}
	u.held = nil
	us.mu.Lock()
	defer us.mu.Unlock()
	delete(us.open, u.id)
	us.remember(u.id, err)
}

// expire ends an upload of which nothing comes any more.
func (u *upload) expire() {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.over:
	case u.touched || u.coming > 0:
		u.touched = false
		u.idle.Reset(u.us.o.Idle)
	default:
		u.end(errUnknown())
	}
}

var (
	errAborted  = fmt.Errorf("%w: the upload was given up by its sender", transport.ErrClosed)
	errReplaced = fmt.Errorf("%w: a later instance of the endpoint has connected; is it running twice?", transport.ErrUnavailable)
)

// abort ends an upload that its sender gave up, and reports whether there was one.
func (us *uploads) abort(id uuid.UUID) bool {
	us.mu.Lock()
	u := us.open[id]
	if _, known := us.ended[id]; u == nil && !known && !us.closed { // segments may still come
		us.remember(id, errAborted)
	}
	us.mu.Unlock()
	if u == nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.end(errAborted)
	return true
}

// endAll ends those that are under way.
func (us *uploads) endAll(err error) {
	us.mu.Lock()
	all := slices.Collect(maps.Values(us.open))
	us.mu.Unlock()
	for _, u := range all {
		u.mu.Lock()
		u.end(err)
		u.mu.Unlock()
	}
}

// close ends all, and lets none begin.
func (us *uploads) close() {
	us.mu.Lock()
	us.closed = true
	us.mu.Unlock()
	us.endAll(errServerClosed)
}

// wholeObject is an upload of one segment, which goes straight to the store.
type wholeObject struct {
	in    objects.Incoming
	us    *uploads
	id    uuid.UUID
	n     int64
	ended bool
}

func (w *wholeObject) Next(n int) ([]byte, error) { return w.in.Next(n) }

func (w *wholeObject) Commit() error {
	us := w.us
	us.mu.Lock()
	out, again := us.ended[w.id]
	us.mu.Unlock()
	if again {
		w.Abort()
		return out.err
	}
	w.end()
	if err := w.in.Commit(); err != nil {
		return err
	}
	us.mu.Lock()
	defer us.mu.Unlock()
	us.remember(w.id, nil)
	return nil
}

func (w *wholeObject) Abort() {
	w.end()
	w.in.Abort()
}

func (w *wholeObject) end() {
	if !w.ended {
		w.ended = true
		w.us.free(w.n)
	}
}

// discard receives what is here already.
func (us *uploads) discard(n int64, err error) (objects.Incoming, error) {
	if err == nil {
		err = us.reserve(min(n, discardAtOnce), false)
	}
	if err != nil {
		return nil, err
	}
	return &discarded{us: us, n: n, left: n}, nil
}

const discardAtOnce = 64 << 10

type discarded struct {
	us      *uploads
	n, left int64
	mem     []byte
	ended   bool
}

func (d *discarded) Next(n int) ([]byte, error) {
	if d.left == 0 {
		return nil, fmt.Errorf("%w: more bytes than were announced", transport.ErrTooLarge)
	}
	if d.mem == nil {
		d.mem = make([]byte, min(d.left, discardAtOnce))
	}
	k := min(int64(max(n, 1)), d.left, int64(len(d.mem)))
	d.left -= k
	return d.mem[:k], nil
}

func (d *discarded) Commit() error {
	d.Abort()
	return nil
}

func (d *discarded) Abort() {
	if !d.ended {
		d.ended = true
		d.us.free(min(d.n, discardAtOnce))
	}
}
