package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// inline is the longest body that the reader sends itself while others are being sent.
const inline = 64 << 10

// linger is how long a drained session waits for the client to close it: closing first could cut an answer that is still on its way.
const linger = time.Second

// session is the server's side of one connection. One goroutine reads and answers what is short; senders answer the rest, a chunk of each request in
// turn. The reader must always come back to reading, see [Client].
type session struct {
	link
	srv   *Server
	car   Carrier
	files FilePasser
	taker BodyTaker
	ctx   context.Context //nolint:containedctx // lives as long as the session
	wg    sync.WaitGroup

	// The watchdog's view.
	frames, wrote, pieces            atomic.Uint64
	writing                          atomic.Int32
	inBody, busy, draining, late     atomic.Bool
	watchWrite, watchBody, watchIdle progress

	// The reader's.
	h       Header
	req     reqMeta
	dig     xxhash.Digest
	packed  []byte // memory for compressed bodies
	raw     []byte // memory for decompressed ones
	scratch []byte // memory for what nobody wants
	quick   request

	mu         sync.Mutex
	room       sync.Cond // fewer plain downloads
	open       bool
	lingering  *time.Timer
	err        error               // why it ended
	reqs       map[uint32]*request // by the numbers that are taken
	live       int                 // requests that are not answered to the end
	first      *request            // queue of downloads that can go on
	last       *request
	senders    int
	maxSenders int
	sendNext   func() // sender, as a function made once: credit starts one all the time
	downs      int    // downloads that need no credit
	streams    int
	uploads    int
	waits      int
}

// request is one that could not be answered at once: a download, an upload or a wait.
type request struct {
	id   uint32
	op   Op
	next *request

	// A download. h, meta, one and pack belong to who sends.
	buf      *transport.Buffer
	size     int64 // of the object
	off, end int64
	modTime  int64
	deadline time.Time
	answered bool
	h        Header
	meta     []byte
	one      [1][]byte
	pack     packer

	// Under session.mu.
	credited  bool
	credit    int64
	queued    bool // in the queue or with a sender
	cancelled bool

	// An upload; belongs to the reader.
	in   objects.Incoming // nil if it failed: what comes is dropped
	up   int64
	want int64
	fail error

	// Under session.mu.
	moved  bool      // a frame of the upload came since the watchdog looked
	paused time.Time // when the watchdog found that none had come
	late   bool      // that was too long ago

	// A wait.
	cancel context.CancelFunc
}

var requestPool = sync.Pool{New: func() any { return new(request) }}

func (r *request) recycle() {
	meta, pack := r.meta[:0], r.pack
	if cap(pack.out) > 2*DefaultChunk {
		pack = packer{}
	}
	pack.one[0] = nil
	*r = request{meta: meta, pack: pack}
	requestPool.Put(r)
}

// answer is the memory of a short frame.
type answer struct {
	h    Header
	meta []byte
}

var answerPool = sync.Pool{New: func() any { return new(answer) }}

func badFrame(format string, args ...any) error {
	return fmt.Errorf("%w: %s", transport.ErrCorrupt, fmt.Sprintf(format, args...))
}

// run serves until the session is over, and leaves nothing behind.
func (s *session) run() error {
	o := &s.srv.o
	timer := time.AfterFunc(o.HandshakeTimeout, func() { s.car.Close() })
	feats, err := greetClient(s.car, o, &s.link)
	if !timer.Stop() {
		err = fmt.Errorf("%w: the client did not finish the handshake within %v", transport.ErrUnavailable, o.HandshakeTimeout)
	}
	if err != nil {
		s.srv.refused.Add(1)
		s.car.Close()
		return err
	}
	s.srv.accepted.Add(1)
	if feats&FeatureFiles != 0 {
		s.files, _ = s.car.(FilePasser)
	}
	s.taker, _ = s.car.(BodyTaker)
	s.maxSenders = 1 // writes take turns anyhow
	if s.sums || s.compress != CompressNone {
		s.maxSenders = min(runtime.GOMAXPROCS(0), 4) // the next chunk is summed while one is written
	}
	s.sendNext = func() {
		defer s.wg.Done()
		s.sender()
	}
	ctx, cancel := context.WithCancel(s.ctx)
	s.ctx = ctx
	s.mu.Lock()
	s.open = true
	s.mu.Unlock()

	err = s.read()
	s.end(err)
	cancel()
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.reqs {
		r.buf.Release()
		if r.in != nil {
			r.in.Abort()
		}
		s.srv.inFlight.Add(-1)
	}
	s.reqs = nil
	if s.lingering != nil {
		s.lingering.Stop()
	}
	return s.err
}

// end ends the session. The first reason counts.
func (s *session) end(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.room.Broadcast()
	s.mu.Unlock()
	s.car.Close()
}

func (s *session) read() error {
	for {
		if s.late.Swap(false) {
			if err := s.expire(); err != nil {
				return err
			}
		}
		meta, err := s.car.ReadFrame(&s.h)
		if errors.Is(err, ErrInterrupted) {
			continue
		}
		if err != nil {
			return err
		}
		s.busy.Store(true)
		s.frames.Add(1)
		if err = s.validate(&s.h, meta); err == nil {
			err = s.handle(meta)
		}
		if err != nil {
			if errors.Is(err, transport.ErrCorrupt) { // say what was wrong, for who debugs the other side; it may not get there
				s.notify(TypeError, StatusCorrupt, err.Error())
			}
			return err
		}
		s.busy.Store(false)
		if s.draining.Load() {
			s.drained()
		}
	}
}

// drain tells the client to go elsewhere. Under Server.mu.
func (s *session) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Swap(true) || s.err != nil {
		return
	}
	if !s.open {
		s.car.Close()
		return
	}
	idle := !s.busy.Load() && s.live == 0
	for _, r := range s.reqs {
		if r.op == OpWait { // what it waits for may never come
			r.cancel()
		}
	}
	s.wg.Go(func() {
		s.notify(TypeGoAway, StatusDraining, "")
		if idle {
			s.car.Close()
		} else {
			s.drained()
		}
	})
}

// drained ends a draining session once nothing is in flight.
func (s *session) drained() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.linger()
}

// linger gives the client of a draining session a while to hang up once nothing is in flight. Under mu.
func (s *session) linger() {
	if s.live == 0 && s.lingering == nil && !s.busy.Load() {
		s.lingering = time.AfterFunc(linger, func() { s.car.Close() })
	}
}

// notify sends a frame that belongs to no request.
func (s *session) notify(t Type, st Status, text string) {
	h := Header{Type: t, Flags: FlagLast, Code: uint16(st)}
	_ = s.write(&h, appendText(nil, tagText, text, maxText), nil) // the session ends anyhow
}

// write sends one frame. An error has ended the session.
func (s *session) write(h *Header, meta []byte, body transport.Slices) error {
	s.writing.Add(1)
	err := s.writeFrame(s.car, h, meta, body)
	s.wrote.Add(1)
	s.writing.Add(-1)
	if err != nil {
		s.end(broken(err))
		return err
	}
	if h.Body > 0 {
		s.srv.chunksOut.Add(1)
		s.srv.bytesOut.Add(int64(h.Body))
	}
	return nil
}

// reply sends an answer of one frame: err, or size and modTime.
func (s *session) reply(id uint32, err error, size, modTime int64) error {
	a := answerPool.Get().(*answer)
	defer answerPool.Put(a)
	a.h = Header{Type: TypeResponse, Flags: FlagLast, ID: id, Size: uint64(size)}
	a.meta = a.meta[:0]
	if err != nil {
		a.fail(err)
		s.srv.errs.Add(1)
	} else if modTime != 0 {
		a.meta = appendUint(a.meta, tagModTime, uint64(modTime))
	}
	return s.write(&a.h, a.meta, nil)
}

func (a *answer) fail(err error) {
	st, text := statusOf(err)
	a.h.Code, a.h.Size = uint16(st), 0
	a.meta = appendText(a.meta, tagText, text, maxText)
}

// handle does one frame. An error ends the session.
func (s *session) handle(meta []byte) error {
	switch s.h.Type {
	case TypeRequest:
		return s.request(meta)
	case TypeData:
		return s.data()
	case TypeCredit:
		s.credited()
	case TypeCancel:
		if err := s.cancelled(); err != nil {
			return err
		}
	default:
		return badFrame("%s is nothing that a client sends within a session", s.h.Type)
	}
	if s.h.Body != 0 {
		return badFrame("%s with a body", s.h.Type)
	}
	return nil
}

func (s *session) request(meta []byte) error {
	h, m := &s.h, &s.req
	if err := m.decode(meta); err != nil {
		return err
	}
	op := Op(h.Code)
	if op >= numOps {
		op = 0
	}
	s.srv.ops[op].Add(1)
	s.mu.Lock()
	taken, n := s.reqs[h.ID] != nil, len(s.reqs)
	s.mu.Unlock()
	switch {
	case h.ID == 0 || taken:
		return badFrame("request number %d is taken", h.ID)
	case n > 8*s.srv.o.MaxRequests+64: // refusals too cost memory while the client does not take note of them
		return badFrame("%d requests at once", n)
	case op != OpPut && (h.Body != 0 || h.Flags&FlagLast == 0):
		return badFrame("%s with a body", op)
	}
	id := string(m.id)
	if op == OpPut {
		return s.put(id)
	}
	if s.draining.Load() {
		return s.reply(h.ID, &RemoteError{StatusDraining, ""}, 0, 0)
	}
	if id == "" && op != OpPing && op != 0 {
		return s.reply(h.ID, fmt.Errorf("%w: an empty id", transport.ErrInvalidKey), 0, 0)
	}
	store := s.srv.store
	switch op {
	case OpPing:
		return s.reply(h.ID, nil, 0, 0)
	case OpGet:
		return s.get(id)
	case OpStat:
		info, err := store.Stat(id)
		return s.reply(h.ID, err, info.Size, unixNano(info.ModTime))
	case OpExists:
		n := int64(0)
		if store.Exists(id) {
			n = 1
		}
		return s.reply(h.ID, nil, n, 0)
	case OpEvict:
		n := int64(0)
		if store.Evict(id) {
			n = 1
		}
		return s.reply(h.ID, nil, n, 0)
	case OpWait:
		if store.Exists(id) {
			return s.reply(h.ID, nil, 0, 0)
		}
		return s.wait(id)
	case OpMap:
		return s.share(id)
	case OpAdopt:
		return s.adopt(id)
	}
	return s.reply(h.ID, fmt.Errorf("%w: %s", errors.ErrUnsupported, Op(h.Code)), 0, 0)
}

func (m *reqMeta) until() time.Time {
	if m.deadline == 0 {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(m.deadline) * time.Millisecond)
}

// busyErr refuses what the client could have known to be too much.
func busyErr(what string, n int) error {
	return &RemoteError{StatusBusy, fmt.Sprintf("%d %s are open on this connection; end some first", n, what)}
}

// lookup returns the object, and which version it is if the client must know.
func (s *session) lookup(id string) (b *transport.Buffer, modTime int64, err error) {
	store := s.srv.store
	if s.h.Flags&FlagInfo == 0 {
		b, err = store.Get(id)
		return b, 0, err
	}
	for range 8 { // an object that is replaced all the time has no version that could be told
		before, err := store.Stat(id)
		if err != nil {
			return nil, 0, err
		}
		if b, err = store.Get(id); err != nil {
			return nil, 0, err
		}
		after, err := store.Stat(id)
		if err == nil && after == before && int64(b.Len()) == after.Size {
			return b, unixNano(after.ModTime), nil
		}
		b.Release()
	}
	b, err = store.Get(id)
	return b, 0, err
}

func (s *session) get(id string) error {
	h := &s.h
	buf, modTime, err := s.lookup(id)
	if err != nil {
		return s.reply(h.ID, err, 0, 0)
	}
	size := int64(buf.Len())
	if h.Off > uint64(size) {
		buf.Release()
		return s.reply(h.ID, fmt.Errorf("%w: from byte %d of %d", transport.ErrInvalidRange, h.Off, size), 0, 0)
	}
	off := int64(h.Off)
	n := size - off
	if h.Size < uint64(n) {
		n = int64(h.Size)
	}
	credited := h.Flags&FlagCredit != 0
	s.mu.Lock()
	quiet := s.senders == 0
	s.mu.Unlock()
	r := &s.quick
	now := n <= s.single() && (!credited || n <= s.req.window) && (quiet || n <= inline)
	if !now {
		r = requestPool.Get().(*request)
	}
	r.id, r.op, r.buf, r.size, r.off, r.end, r.modTime = h.ID, OpGet, buf, size, off, off+n, modTime
	r.credited, r.credit, r.answered = credited, s.req.window, false
	r.pack.reset(&s.link)
	if now {
		err := s.send(r, n)
		r.buf = nil
		r.one[0] = nil
		buf.Release()
		return err
	}
	r.deadline = s.req.until()
	s.mu.Lock()
	if credited && s.streams >= s.srv.o.MaxRequests {
		s.mu.Unlock()
		buf.Release()
		r.recycle()
		return s.reply(h.ID, busyErr("streams", s.srv.o.MaxRequests), 0, 0)
	}
	for !credited && s.downs >= s.srv.o.MaxRequests && s.err == nil { // they end by themselves: the client has to read them
		s.room.Wait()
	}
	if credited {
		s.streams++
	} else {
		s.downs++
	}
	s.register(r)
	r.queued = true
	s.enqueue(r)
	s.mu.Unlock()
	return nil
}

// register counts a request that is not answered at once. Under mu.
func (s *session) register(r *request) {
	s.reqs[r.id] = r
	s.live++
	s.srv.inFlight.Add(1)
}

// send writes the next n bytes of a download.
func (s *session) send(r *request, n int64) error {
	r.h = Header{Type: TypeData, ID: r.id, Off: uint64(r.off)}
	r.meta = r.meta[:0]
	if !r.answered {
		r.h.Type, r.h.Size = TypeResponse, uint64(r.size)
		if r.modTime != 0 {
			r.meta = appendUint(r.meta, tagModTime, uint64(r.modTime))
		}
		r.answered = true
	}
	if r.off+n == r.end {
		r.h.Flags = FlagLast
	}
	var body transport.Slices
	if n > 0 {
		r.one[0] = r.buf.Bytes()[r.off : r.off+n]
		body = r.pack.pack(&s.link, &r.h, r.one[:])
	}
	r.off += n
	return s.write(&r.h, r.meta, body)
}

// stop tells the client that a download ends early.
func (s *session) stop(r *request, err error) {
	s.srv.errs.Add(1)
	a := answer{h: Header{Type: TypeData, Flags: FlagLast, ID: r.id}}
	if !r.answered {
		a.h.Type = TypeResponse
	}
	a.fail(err)
	_ = s.write(&a.h, a.meta, nil) // a failed write has ended the session
}

// push appends r to the queue. Under mu.
func (s *session) push(r *request) {
	r.next = nil
	if s.first == nil {
		s.first = r
	} else {
		s.last.next = r
	}
	s.last = r
}

// enqueue lets a sender go on with r. Under mu.
func (s *session) enqueue(r *request) {
	s.push(r)
	if s.senders < s.maxSenders {
		s.senders++
		s.wg.Add(1)
		go s.sendNext()
	}
}

// sender sends chunks of the queued downloads in turn until none can go on.
func (s *session) sender() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.first != nil && s.err == nil {
		r := s.first
		s.first = r.next
		n := r.end - r.off
		if n > s.single() {
			n = int64(s.chunk)
		}
		if r.credited {
			n = min(n, r.credit)
			r.credit -= n
		}
		stop := StatusOK
		if r.cancelled {
			stop = StatusCancelled
		} else if !r.deadline.IsZero() && time.Now().After(r.deadline) {
			stop = StatusDeadline
		}
		last := stop != StatusOK || r.off+n == r.end
		if last { // who gets that frame may use the number again before this goroutine goes on
			delete(s.reqs, r.id)
		}
		s.mu.Unlock()
		var err error
		if stop != StatusOK {
			s.stop(r, &RemoteError{stop, ""})
		} else {
			err = s.send(r, n)
		}
		s.mu.Lock()
		switch {
		case last:
			s.finish(r)
		case err != nil: // the session has ended and cleans up
		case r.credited && r.credit == 0 && !r.cancelled:
			r.queued = false
		default:
			s.push(r)
		}
	}
	s.senders--
}

// finish ends a download that was answered. Under mu.
func (s *session) finish(r *request) {
	if r.credited {
		s.streams--
	} else {
		s.downs--
		s.room.Signal()
	}
	r.buf.Release()
	r.recycle()
	s.finished()
}

// finished counts the end of a request that was in flight. Under mu.
func (s *session) finished() {
	s.live--
	s.srv.inFlight.Add(-1)
	if s.draining.Load() {
		s.linger()
	}
}

// credited lets a stream go on.
func (s *session) credited() {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.reqs[s.h.ID]
	if r == nil || !r.credited { // it has just ended
		return
	}
	r.credit += int64(min(s.h.Size, math.MaxInt64/4))
	r.credit = min(r.credit, math.MaxInt64/4)
	if !r.queued && r.credit > 0 {
		r.queued = true
		s.enqueue(r)
	}
}

// cancelled stops what nobody waits for.
func (s *session) cancelled() error {
	s.mu.Lock()
	r := s.reqs[s.h.ID]
	if r == nil { // it has just ended
		s.mu.Unlock()
		return nil
	}
	switch r.op {
	case OpGet:
		r.cancelled = true
		if !r.queued {
			r.queued = true
			s.enqueue(r)
		}
		s.mu.Unlock()
	case OpPut:
		s.mu.Unlock()
		return s.endUpload(r, &RemoteError{StatusCancelled, ""}, true)
	default:
		s.mu.Unlock()
		r.cancel()
	}
	return nil
}

// wait answers when the object is there.
func (s *session) wait(id string) error {
	h := &s.h
	var ctx context.Context
	r := &request{id: h.ID, op: OpWait}
	if until := s.req.until(); until.IsZero() {
		ctx, r.cancel = context.WithCancel(s.ctx)
	} else {
		ctx, r.cancel = context.WithDeadline(s.ctx, until)
	}
	s.mu.Lock()
	if s.waits >= s.srv.o.MaxRequests {
		s.mu.Unlock()
		r.cancel()
		return s.reply(h.ID, busyErr("waits", s.srv.o.MaxRequests), 0, 0)
	}
	s.waits++
	s.register(r)
	if s.draining.Load() { // since it was asked
		r.cancel()
	}
	s.mu.Unlock()
	s.wg.Go(func() {
		err := s.srv.store.Wait(ctx, id)
		r.cancel()
		if errors.Is(err, context.Canceled) && s.draining.Load() {
			err = &RemoteError{StatusDraining, ""}
		}
		if s.ctx.Err() != nil {
			return // nobody is there to be told
		}
		s.mu.Lock()
		delete(s.reqs, r.id)
		s.mu.Unlock()
		_ = s.reply(r.id, err, 0, 0) // a failed write has ended the session
		s.mu.Lock()
		s.waits--
		s.finished()
		s.mu.Unlock()
	})
	return nil
}

// share answers with a descriptor of the object's memory.
func (s *session) share(id string) error {
	h := &s.h
	if s.files == nil {
		return s.reply(h.ID, fmt.Errorf("map: %w over this connection", errors.ErrUnsupported), 0, 0)
	}
	f, size, err := s.srv.store.Share(id)
	if err != nil || f == nil {
		return s.reply(h.ID, err, size, 0)
	}
	defer f.Close()
	a := answerPool.Get().(*answer)
	defer answerPool.Put(a)
	a.h = Header{Type: TypeResponse, Flags: FlagLast, ID: h.ID, Size: uint64(size)}
	a.h.seal(nil, 0)
	s.writing.Add(1)
	err = s.files.WriteFrameFile(&a.h, nil, f)
	s.wrote.Add(1)
	s.writing.Add(-1)
	return err
}

func (s *session) adopt(id string) error {
	h := &s.h
	if s.files == nil {
		return s.reply(h.ID, fmt.Errorf("put by descriptor: %w over this connection", errors.ErrUnsupported), 0, 0)
	}
	f := s.files.TakeFile()
	switch {
	case f == nil: // the kernel drops it where this process has too many
		return s.reply(h.ID, fmt.Errorf("put by descriptor: %w: none came; the server may have too many open (ulimit -n)", errors.ErrUnsupported), 0, 0)
	case h.Size > math.MaxInt64:
		f.Close()
		return badFrame("a put of %d bytes", h.Size)
	}
	return s.reply(h.ID, s.srv.store.Adopt(id, f, int64(h.Size), objects.PutOptions{TTL: s.req.ttl}), 0, 0)
}

// put does the first frame of an upload, which may be all of it.
func (s *session) put(id string) error {
	h := &s.h
	o := objects.PutOptions{TTL: s.req.ttl}
	last, n := h.Flags&FlagLast != 0, int64(h.bodyLen())
	want := int64(-1)
	switch {
	case h.Size <= math.MaxInt64:
		want = int64(h.Size)
	case h.Size != unknown:
		return badFrame("an upload of %d bytes", h.Size)
	case last:
		want = n
	}
	if !last && n == 0 {
		return badFrame("an empty chunk")
	}
	s.mu.Lock()
	uploads := s.uploads
	s.mu.Unlock()
	var err error
	switch limit := 2 * s.srv.o.MaxRequests; {
	case s.draining.Load():
		err = &RemoteError{StatusDraining, ""}
	case id == "":
		err = fmt.Errorf("%w: an empty id", transport.ErrInvalidKey)
	case !last && uploads >= limit:
		err = busyErr("uploads", uploads)
	case want >= 0 && n > want, last && n != want:
		err = badFrame("%d bytes of %d that were announced", n, want)
	}
	if err == nil && last && s.taker != nil && !h.packed() && n > 0 {
		if b, ok := s.taker.TakeBody(); ok {
			s.took()
			if int64(b.Len()) != n || h.Flags&FlagSum != 0 && xxhash.Sum64(b.Bytes()) != h.Sum {
				b.Release()
				return s.reply(h.ID, badSum(), 0, 0)
			}
			return s.reply(h.ID, s.srv.store.Put(id, b, o), 0, 0)
		}
	}
	r := &s.quick
	if !last {
		r = requestPool.Get().(*request)
	}
	r.id, r.op, r.want, r.up, r.in, r.fail, r.answered = h.ID, OpPut, want, 0, nil, err, false
	if err == nil {
		r.in, r.fail = s.srv.store.Create(id, want, o)
		if r.fail != nil {
			r.in = nil
		}
	}
	if !last {
		s.mu.Lock()
		s.uploads++
		r.moved = true
		s.register(r)
		s.mu.Unlock()
	}
	return s.part(r, last)
}

// data does a later frame of an upload.
func (s *session) data() error {
	h := &s.h
	s.mu.Lock()
	r := s.reqs[h.ID]
	upload := r != nil && r.op == OpPut // a download may be gone, and its memory another's, after this
	if upload {
		r.moved, r.late = true, false
	}
	s.mu.Unlock()
	switch {
	case !upload:
		return badFrame("DATA for request %d, which is no upload", h.ID)
	case h.Off != uint64(r.up):
		return badFrame("bytes from %d on, want %d", h.Off, r.up)
	case h.Body == 0 && h.Flags&FlagLast == 0:
		return badFrame("an empty chunk")
	}
	return s.part(r, h.Flags&FlagLast != 0)
}

// part receives the body of a frame of r, and answers when r is complete or has failed.
func (s *session) part(r *request, last bool) error {
	if r.in == nil {
		if err := s.discard(int(s.h.Body)); err != nil {
			return err
		}
	} else {
		failed, err := s.receive(r)
		if err != nil {
			s.abortQuick(r)
			return err
		}
		r.fail = failed
	}
	r.up += int64(s.h.bodyLen())
	if r.fail == nil && r.in != nil {
		switch {
		case r.want >= 0 && r.up > r.want, last && r.want >= 0 && r.up != r.want:
			r.fail = badFrame("%d bytes of %d that were announced", r.up, r.want)
		case last:
			r.fail = r.in.Commit()
			r.in = nil
			return s.endUpload(r, r.fail, true)
		default:
			return nil
		}
	}
	return s.endUpload(r, r.fail, last)
}

// abortQuick aborts an upload that nobody but the reader knows, as the session ends.
func (s *session) abortQuick(r *request) {
	if r == &s.quick && r.in != nil {
		r.in.Abort()
		r.in = nil
	}
}

// endUpload answers an upload unless that was done, and forgets it unless more frames of it are to come.
func (s *session) endUpload(r *request, outcome error, forget bool) error {
	if r.in != nil {
		r.in.Abort()
		r.in = nil
	}
	id, answered := r.id, r.answered
	r.answered = true
	if forget && r != &s.quick {
		s.mu.Lock()
		delete(s.reqs, r.id)
		s.uploads--
		s.finished()
		s.mu.Unlock()
		r.recycle()
	} else if forget {
		r.answered, r.fail = false, nil
	}
	if answered {
		return nil
	}
	return s.reply(id, outcome, 0, 0)
}

// overdue finds uploads that have paused for too long. The watchdog calls it; what they hold is the reader's, who is told.
func (s *session) overdue(now time.Time, limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for _, r := range s.reqs {
		switch {
		case r.op != OpPut, r.late:
		case r.moved:
			r.moved, r.paused = false, now
		case now.Sub(r.paused) >= limit:
			r.late, found = true, true
		}
	}
	if found {
		s.late.Store(true)
		s.car.Interrupt()
	}
}

// expire drops what came of the uploads that are late. They stay known until the client has taken note.
func (s *session) expire() error {
	s.mu.Lock()
	var late []*request
	for _, r := range s.reqs {
		if r.op == OpPut && r.late {
			late = append(late, r)
		}
	}
	s.mu.Unlock()
	for _, r := range late {
		r.fail = fmt.Errorf("%w: no part of the object came for %v (the server's UploadTimeout)", transport.ErrUnavailable, s.srv.o.UploadTimeout)
		if err := s.endUpload(r, r.fail, false); err != nil {
			return err
		}
	}
	return nil
}

// took counts a body that came.
func (s *session) took() {
	s.srv.chunksIn.Add(1)
	s.srv.bytesIn.Add(int64(s.h.Body))
}

// fill reads dst from the body of the current frame, and hashes it on the way.
func (s *session) fill(dst []byte) error {
	s.inBody.Store(true)
	defer s.inBody.Store(false)
	for len(dst) > 0 {
		n, err := s.car.ReadBody(dst[:min(len(dst), s.atOnce())])
		s.pieces.Add(1)
		if s.h.Flags&FlagSum != 0 {
			s.dig.Write(dst[:n])
		}
		dst = dst[n:]
		if err != nil && !errors.Is(err, ErrInterrupted) {
			if errors.Is(err, io.EOF) { // in the middle of a frame that is no proper end
				err = io.ErrUnexpectedEOF
			}
			return broken(err)
		}
	}
	return nil
}

func (s *session) discard(n int) error {
	if n == 0 {
		return nil
	}
	if s.scratch == nil {
		s.scratch = make([]byte, inline)
	}
	for n > 0 {
		part := s.scratch[:min(n, len(s.scratch))]
		if err := s.fill(part); err != nil {
			return err
		}
		n -= len(part)
	}
	return nil
}

// receive reads the body of the current frame into the memory of r. failed is why r cannot go on; then the whole body is read all the same.
func (s *session) receive(r *request) (failed, err error) {
	h := &s.h
	if h.Body == 0 {
		return nil, nil
	}
	s.took()
	s.dig.Reset()
	if h.packed() {
		if cap(s.packed) < int(h.Body) {
			s.packed = make([]byte, h.Body)
		}
		src := s.packed[:h.Body]
		if err := s.fill(src); err != nil {
			return nil, err
		}
		if h.Flags&FlagSum != 0 && s.dig.Sum64() != h.Sum {
			return badSum(), nil
		}
		return s.inflate(r, src), nil
	}
	for left := int(h.Body); left > 0; {
		mem, err := r.in.Next(left)
		if err != nil {
			return err, s.discard(left)
		}
		mem = mem[:min(len(mem), left)]
		if err := s.fill(mem); err != nil {
			return nil, err
		}
		left -= len(mem)
	}
	if h.Flags&FlagSum != 0 && s.dig.Sum64() != h.Sum {
		return badSum(), nil
	}
	return nil, nil
}

// inflate decompresses a body into the memory of r, straight if that is one run.
func (s *session) inflate(r *request, src []byte) error {
	n := int(s.h.Raw)
	mem, err := r.in.Next(n)
	if err != nil {
		return err
	}
	if len(mem) >= n {
		return unpack(&s.h, mem[:n], src)
	}
	if cap(s.raw) < n {
		s.raw = make([]byte, n)
	}
	raw := s.raw[:n]
	if err := unpack(&s.h, raw, src); err != nil {
		return err
	}
	for {
		raw = raw[copy(mem, raw):]
		if len(raw) == 0 {
			return nil
		}
		if mem, err = r.in.Next(len(raw)); err != nil {
			return err
		}
	}
}
