package native

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/proxyplane/proxyplane/internal/rawmem"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// Client is one session with a server. It implements [objects.Client].
//
// # Who reads
//
// A goroutine that has to be woken costs more than a short answer takes on the wire. So there is no reader goroutine: of the callers that wait, one
// holds the read token and reads the Carrier itself, the others' frames too, until its own answer is complete; then it passes the token on. Only
// while the session has loose calls (open streams, uploads in parts, cancelled calls whose last frame is still to come) a goroutine of the Client
// holds the token.
//
// # Why nothing can wait in a circle
//
//  1. Whenever the server may have more to send than the one short answer to a request whose frame is just being written, somebody here holds the
//     token: a caller that waits, or the background reader. A request of one frame is answered only when all of it has been read.
//  2. Who holds the token waits for nothing but the Carrier. It never writes (credit is given by who consumes a stream, CANCEL by a goroutine of its
//     own) and never waits for a consumer: what a stream may queue is bounded by the credit that was given. So what the server writes is always read.
//  3. Hence the server's writes end, and its reader, which waits only for the Carrier and its own writes, always comes back to reading: it takes
//     uploads straight into memory, has no queue that only itself can empty, and never waits for credit.
//  4. Hence the client's writes end.
//
// A peer that breaks these rules blocks its own session only; the server cuts it after StallTimeout, a client's caller leaves when its context ends.
type Client struct {
	link
	car     Carrier
	files   FilePasser // nil if files cannot be passed
	taker   BodyTaker  // nil if the Carrier always copies
	o       ClientOptions
	welcome Welcome
	done    chan struct{}
	wg      sync.WaitGroup
	ended   sync.Pool // calls to be used again; not shared with others, as a channel of one synctest bubble must not get into another

	mu      sync.Mutex
	err     error // why done is closed
	away    bool  // the server wants no more requests here
	calls   map[uint32]*call
	lastID  uint32
	plain   int      // calls that count against Welcome.MaxRequests
	loose   int      // calls that nobody need be waiting for
	waiting callList // parked until something happens, or the token comes
	slots   callList // parked until fewer plain calls are in flight
	reading bool     // somebody holds the token
	leader  *call    // whose caller that is, nil for the background reader
	cancels []uint32 // CANCEL frames to be sent by a goroutine that runs while there are some
	sending bool     // it runs

	in incoming // belongs to who holds the token
}

// incoming is the frame that is being read. It survives interrupts, so that another caller can go on in the middle of a body.
type incoming struct {
	active  bool
	h       Header
	call    *call
	err     error  // the call's, if the frame carries one
	body    []byte // where the object's bytes go
	dst     []byte // where the next bytes of the frame go
	left    int    // bytes of the frame that are still to be read
	piece   *transport.Buffer
	taken   *transport.Buffer
	discard bool
	dig     xxhash.Digest
	packed  []byte // memory for compressed bodies
	scratch []byte // memory for what nobody wants
}

// sink is what becomes of a body.
type sink uint8

const (
	sinkNone sink = iota
	sinkBuffer
	sinkBytes
	sinkStream
)

// call is one request. Those that ended in order are used again.
type call struct {
	wake chan struct{} // has room for the one token that unpark sends

	// Under Client.mu.
	id         uint32
	list       *callList // where it is parked
	prev, next *call
	registered bool
	isPlain    bool
	isLoose    bool
	lead       bool // woken with the token
	slot       bool // woken with a slot
	writing    bool
	cancelled  bool // its context has ended
	abandoned  bool // the caller has gone; what comes is dropped
	finished   bool // err is set, and the result complete if it is nil
	signal     bool // something came for a stream
	err        error
	stop       func() bool

	// The request.
	ctx    context.Context //nolint:containedctx // lives as long as the call
	op     Op
	sink   sink
	share  *os.File // goes along with the request
	sent   bool     // the server may know of it
	off, n int64    // range; n < 0 is all
	expect int64
	up     int64 // bytes of the object that were sent
	h      Header
	meta   []byte
	pack   packer
	cut    cutter

	// The answer, by who holds the token.
	answered bool
	size     int64
	modTime  int64
	file     *os.File
	total    int64 // bytes of body that will come
	got      int64
	buf      *transport.Buffer
	mem      []byte
	stream   *Reader
}

// callList is a queue of parked calls.
type callList struct{ head, tail *call }

func (l *callList) push(k *call) {
	k.list, k.prev, k.next = l, l.tail, nil
	if l.tail == nil {
		l.head = k
	} else {
		l.tail.next = k
	}
	l.tail = k
}

func (l *callList) remove(k *call) {
	if k.prev == nil {
		l.head = k.next
	} else {
		k.prev.next = k.next
	}
	if k.next == nil {
		l.tail = k.prev
	} else {
		k.next.prev = k.prev
	}
	k.list, k.prev, k.next = nil, nil, nil
}

// unpark wakes a parked call's goroutine. Under Client.mu.
func (k *call) unpark() {
	if k.list != nil {
		k.list.remove(k)
		k.wake <- struct{}{}
	}
}

var (
	errClosed   = fmt.Errorf("%w: this client", transport.ErrClosed)
	errDraining = fmt.Errorf("%w: the server is shutting down; connect again, perhaps to another", transport.ErrUnavailable)
)

// NewClient opens a session over c. It takes c, on error too. ctx bounds the handshake only.
func NewClient(ctx context.Context, c Carrier, o ClientOptions) (*Client, error) {
	o = o.withDefaults()
	late := fmt.Errorf("%w: no answer to the handshake within %v", transport.ErrUnavailable, o.HandshakeTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, o.HandshakeTimeout, late)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	cl := &Client{car: c, o: o, done: make(chan struct{}), calls: map[uint32]*call{}}
	w, err := greetServer(ctx, c, &o, &cl.link)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		if ctx.Err() != nil { // which of the two ended it, and not what the server said: that may match a context's error too
			if err = ctx.Err(); context.Cause(ctx) == late {
				err = late
			}
		}
		return nil, err
	}
	cl.welcome = w
	if w.Features&FeatureFiles != 0 {
		cl.files, _ = c.(FilePasser)
	}
	cl.taker, _ = c.(BodyTaker)
	return cl, nil
}

// Welcome returns what the server said of itself.
func (c *Client) Welcome() Welcome { return c.welcome }

// Done is closed when the session is broken or closed, or when a draining server has answered everything. As nobody reads while nothing is asked, a
// connection that breaks while it is idle is noticed by the next call only, which fails with ErrUnavailable.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why Done is closed, nil before.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the session. Calls in flight fail with ErrClosed. Idempotent.
func (c *Client) Close() error {
	c.fail(errClosed)
	c.wg.Wait()
	return nil
}

// fail ends the session for everybody. The first reason counts.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	close(c.done)
	for _, k := range c.calls {
		if !k.finished && !k.abandoned {
			k.finished, k.err = true, err
			k.unpark()
		}
	}
	for c.slots.head != nil {
		c.slots.head.unpark()
	}
	if !c.reading {
		c.reap()
	}
	c.mu.Unlock()
	c.car.Close()
	if !errors.Is(err, transport.ErrClosed) {
		c.o.Logger.Debug("session ended", "err", err)
	}
}

// reap releases what unfinished calls hold. Under mu, with the token in hand: nobody writes into their memory any more.
func (c *Client) reap() {
	for id, k := range c.calls {
		k.drop()
		delete(c.calls, id)
	}
	c.in.drop()
}

// drop releases what has been received for k so far.
func (k *call) drop() {
	k.buf.Release()
	k.buf, k.mem = nil, nil
	if k.file != nil {
		k.file.Close()
		k.file = nil
	}
}

// drop releases what belongs to the frame itself.
func (in *incoming) drop() {
	in.piece.Release()
	in.taken.Release()
	in.piece, in.taken, in.body, in.dst, in.call, in.left, in.active = nil, nil, nil, nil, nil, 0, false
}

// open registers a call. A plain one ends by itself, given that the connection works, so it may wait until fewer are in flight. A loose one need not
// have anybody waiting for it.
func (c *Client) open(ctx context.Context, op Op, id string, plain, loose bool) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if op != OpPing && (id == "" || len(id) > objects.MaxID) {
		return nil, fmt.Errorf("%w: an id has 1 to %d bytes, this has %d", transport.ErrInvalidKey, objects.MaxID, len(id))
	}
	k, _ := c.ended.Get().(*call)
	if k == nil {
		k = &call{wake: make(chan struct{}, 1)}
	}
	k.ctx, k.op, k.isPlain, k.isLoose, k.n, k.expect = ctx, op, plain, loose, -1, -1
	k.pack.reset(&c.link)
	k.meta = appendRequest(ctx, k.meta[:0], id)
	if ctx.Done() != nil {
		k.stop = context.AfterFunc(ctx, func() { c.cancel(k) })
	}
	c.mu.Lock()
	if plain && c.err == nil && !c.away && (c.plain >= c.welcome.MaxRequests || c.slots.head != nil) && !k.cancelled {
		c.slots.push(k)
		c.mu.Unlock()
		<-k.wake
		c.mu.Lock()
	} else if plain {
		c.plain++
		k.slot = true
	}
	var err error
	switch {
	case c.err != nil:
		err = c.err
	case c.away:
		err = errDraining
	case k.cancelled:
		err = ctx.Err()
	}
	if err != nil {
		c.freeSlot(k)
		c.mu.Unlock()
		c.recycle(k)
		return nil, err
	}
	for c.lastID++; c.lastID == 0 || c.calls[c.lastID] != nil; {
		c.lastID++
	}
	k.id, k.registered = c.lastID, true
	c.calls[k.id] = k
	if loose {
		c.loose++
		c.ensureReader()
	}
	c.mu.Unlock()
	return k, nil
}

// freeSlot lets the next plain call begin. Under mu.
func (c *Client) freeSlot(k *call) {
	if !k.slot {
		return
	}
	k.slot = false
	c.plain--
	if next := c.slots.head; next != nil && c.plain < c.welcome.MaxRequests {
		c.plain++
		next.slot = true
		next.unpark()
	}
}

// recycle makes k ready for another use. k has ended in order, or was never registered.
func (c *Client) recycle(k *call) {
	if k.stop != nil && !k.stop() {
		return // cancel has k, or is about to
	}
	meta, pack, cut := k.meta[:0], k.pack, k.cut
	pack.one[0], cut.src = nil, nil
	clear(cut.out[:cap(cut.out)])
	if cap(pack.out) > 2*DefaultChunk || cap(pack.joined) > 2*DefaultChunk {
		pack = packer{}
	}
	*k = call{wake: k.wake, meta: meta, pack: pack, cut: cut}
	c.ended.Put(k)
}

// settle ends the caller's part of k, which has waited for it. Under mu, which it unlocks. Only a call that ended in order is used again: others may
// still be known to who holds the token.
func (c *Client) settle(k *call) {
	again := !k.registered && !k.abandoned
	if again {
		k.drop() // an answer that came although its request could not be sent
	} else if k.stop != nil {
		k.stop()
	}
	c.mu.Unlock()
	if again {
		c.recycle(k)
	}
}

// cancel is called when the context of k has ended. Then k is not used again.
func (c *Client) cancel(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.cancelled = true
	switch {
	case k.list != nil:
		k.unpark()
	case c.leader == k:
		c.car.Interrupt()
	case k.writing:
		time.AfterFunc(c.o.CancelGrace, func() {
			c.mu.Lock()
			stuck := k.writing
			c.mu.Unlock()
			if stuck {
				c.fail(fmt.Errorf("%w: the server took no bytes for %v after a call was cancelled", transport.ErrUnavailable, c.o.CancelGrace))
			}
		})
	}
}

// write sends one frame of k. An error ends the session, but for the context's.
func (c *Client) write(k *call, meta []byte, body transport.Slices) error {
	k.h.ID = k.id
	body = k.pack.pack(&c.link, &k.h, body)
	if k.stop == nil {
		k.sent = true
		return c.sent(c.frame(k, meta, body))
	}
	c.mu.Lock()
	if k.cancelled {
		c.mu.Unlock()
		return k.ctx.Err()
	}
	k.writing, k.sent = true, true
	c.mu.Unlock()
	err := c.frame(k, meta, body)
	c.mu.Lock()
	k.writing = false
	left := err != nil && k.cancelled
	c.mu.Unlock()
	if err = c.sent(err); left {
		return k.ctx.Err()
	}
	return err
}

// frame sends one frame, with the file that belongs to k.
func (c *Client) frame(k *call, meta []byte, body transport.Slices) error {
	if k.share == nil {
		return c.writeFrame(c.car, &k.h, meta, body)
	}
	k.h.seal(meta, 0)
	return c.files.WriteFrameFile(&k.h, meta, k.share)
}

// sent ends the session if a frame could not be sent, and returns why it has ended.
func (c *Client) sent(err error) error {
	if err == nil {
		return nil
	}
	c.fail(broken(err))
	return c.Err()
}

// abandon leaves k to the background reader and tells the server, if that knows of it. Under mu.
func (c *Client) abandon(k *call) {
	if k.abandoned || !k.registered || c.err != nil {
		return
	}
	k.abandoned = true
	if k.sent {
		c.orphan(k)
	} else { // there will be no answer
		c.remove(k)
	}
}

// orphan makes a registered call loose and sends CANCEL. Under mu.
func (c *Client) orphan(k *call) {
	if !k.isLoose {
		k.isLoose = true
		c.loose++
	}
	c.ensureReader()
	c.sendCancel(k.id)
}

func (c *Client) sendCancel(id uint32) {
	c.cancels = append(c.cancels, id)
	if c.sending || c.err != nil {
		return
	}
	c.sending = true
	c.wg.Go(func() {
		var h Header
		c.mu.Lock()
		for len(c.cancels) > 0 && c.err == nil {
			id := c.cancels[0]
			c.cancels = c.cancels[1:]
			c.mu.Unlock()
			h = Header{Type: TypeCancel, Flags: FlagLast, ID: id}
			h.seal(nil, 0)
			if err := c.car.WriteFrame(&h, nil, nil); err != nil {
				c.fail(broken(err))
			}
			c.mu.Lock()
		}
		c.sending, c.cancels = false, nil
		c.mu.Unlock()
	})
}

// wait returns when k is finished, has a signal, or its context has ended. Under mu, which it gives up in between.
func (c *Client) wait(k *call) {
	for !k.finished && !k.signal && !k.cancelled {
		if !c.reading {
			c.reading = true
			c.lead(k)
			continue
		}
		c.waiting.push(k)
		c.mu.Unlock()
		<-k.wake
		c.mu.Lock()
		if k.lead {
			k.lead = false
			c.lead(k)
		}
	}
}

// lead reads until k has what it waits for, and passes the token on. Under mu, which it gives up in between.
func (c *Client) lead(k *call) {
	c.leader = k
	for !k.finished && !k.signal && !k.cancelled && c.err == nil {
		c.mu.Unlock()
		err := c.step()
		if err != nil && !errors.Is(err, ErrInterrupted) {
			c.fail(broken(err))
		}
		c.mu.Lock()
	}
	c.leader = nil
	c.pass()
}

// pass hands the token on, or lays it down. Under mu.
func (c *Client) pass() {
	switch {
	case c.err != nil:
		c.reading = false
		c.reap()
	case c.loose > 0:
		c.wg.Go(c.background)
	case c.waiting.head != nil:
		c.waiting.head.lead = true
		c.waiting.head.unpark()
	default:
		c.reading = false
		if c.away && len(c.calls) == 0 {
			c.wg.Go(func() { c.fail(errDraining) })
		}
	}
}

// ensureReader starts the background reader if it is needed. Under mu.
func (c *Client) ensureReader() {
	if c.loose > 0 && !c.reading && c.err == nil {
		c.reading = true
		c.wg.Go(c.background)
	}
}

// background holds the token while there are loose calls.
func (c *Client) background() {
	for {
		err := c.step()
		if err != nil && !errors.Is(err, ErrInterrupted) {
			c.fail(broken(err))
		}
		c.mu.Lock()
		if c.loose == 0 || c.err != nil {
			c.pass()
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
}

// step reads one frame, or goes on with one. Only who holds the token calls it.
func (c *Client) step() error {
	in := &c.in
	if !in.active {
		meta, err := c.car.ReadFrame(&in.h)
		if err == nil {
			err = c.validate(&in.h, meta)
		}
		if err == nil {
			err = c.begin(meta)
		}
		if err != nil || !in.active {
			return err
		}
	}
	for in.left > 0 {
		part := in.dst
		if in.discard {
			part = in.scratch
		}
		part = part[:min(len(part), in.left)]
		if in.h.Flags&FlagSum != 0 {
			part = part[:min(len(part), c.atOnce())]
		}
		n, err := c.car.ReadBody(part)
		in.left -= n
		if !in.discard {
			in.dst = in.dst[n:]
			if in.h.Flags&FlagSum != 0 {
				in.dig.Write(part[:n])
			}
		}
		if err != nil {
			return err
		}
	}
	return c.end()
}

// begin looks at a frame that has just come, and prepares memory for its body.
func (c *Client) begin(meta []byte) error {
	in := &c.in
	h := &in.h
	switch h.Type {
	case TypeResponse, TypeData:
	case TypeGoAway:
		c.turnedAway()
		return c.noBody()
	case TypeError:
		var a ansMeta
		if err := a.decode(meta); err != nil {
			return err
		}
		return &RemoteError{Status(h.Code), clean(a.text, maxText)}
	default:
		return fmt.Errorf("%w: %s is nothing that a server sends within a session", transport.ErrCorrupt, h.Type)
	}
	c.mu.Lock()
	k := c.calls[h.ID]
	dead := k != nil && k.abandoned
	c.mu.Unlock()
	if k == nil {
		return fmt.Errorf("%w: %s for request %d, which is not open", transport.ErrCorrupt, h.Type, h.ID)
	}
	in.err = nil
	if err := k.accept(h, meta, in); err != nil {
		return err
	}
	if in.err != nil && Status(h.Code) == StatusDraining {
		c.turnedAway() // GOAWAY may be still to come, when nobody reads any more
	}
	in.active, in.call, in.discard = true, k, dead
	if k.op == OpMap && in.err == nil && c.files != nil {
		k.file = c.files.TakeFile()
	}
	if h.Body == 0 {
		return c.end()
	}
	in.dig.Reset()
	return c.place(k)
}

// turnedAway notes that the server wants no more requests. The session ends with the last one that is open.
func (c *Client) turnedAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = true
	for c.slots.head != nil {
		c.slots.head.unpark()
	}
}

func (c *Client) noBody() error {
	if c.in.h.Body != 0 {
		return fmt.Errorf("%w: %s with a body", transport.ErrCorrupt, c.in.h.Type)
	}
	return nil
}

// accept checks an answer's frame against the request and what has come so far.
func (k *call) accept(h *Header, meta []byte, in *incoming) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: request %d (%s): %s", transport.ErrCorrupt, h.ID, k.op, fmt.Sprintf(format, args...))
	}
	if first := h.Type == TypeResponse; first == k.answered {
		return bad("%s at the wrong time", h.Type)
	}
	if h.Code != 0 || h.Type == TypeResponse {
		var a ansMeta
		if err := a.decode(meta); err != nil {
			return err
		}
		if h.Code != 0 {
			if h.Body != 0 || h.Flags&FlagLast == 0 {
				return bad("an error that is not the end")
			}
			in.err = &RemoteError{Status(h.Code), clean(a.text, maxText)}
			return nil
		}
		k.modTime = a.modTime
	}
	last := h.Flags&FlagLast != 0
	if h.Type == TypeResponse {
		k.answered = true
		if h.Size > math.MaxInt64 {
			return bad("a size of %d bytes", h.Size)
		}
		k.size = int64(h.Size)
		if k.op == OpGet {
			if k.off > k.size {
				return bad("an object of %d bytes from byte %d", k.size, k.off)
			}
			k.total = k.size - k.off
			if k.n >= 0 {
				k.total = min(k.total, k.n)
			}
		} else if h.Body != 0 || !last {
			return bad("a body where none belongs")
		}
	}
	n := int64(h.bodyLen())
	switch {
	case k.op == OpGet && h.Off != uint64(k.off+k.got):
		return bad("bytes from %d on, want %d", h.Off, k.off+k.got)
	case n > k.total-k.got, last && n != k.total-k.got:
		return bad("%d bytes after %d, %d in all were announced", n, k.got, k.total)
	case !last && n == 0 && h.Type == TypeData:
		return bad("an empty chunk")
	}
	if k.sink == sinkStream {
		if left := k.stream.credit.Add(-n); left < 0 {
			return bad("%d bytes more than the reader has room for", -left)
		}
	}
	return nil
}

// place finds memory for the body of the frame that was accepted for k.
func (c *Client) place(k *call) error {
	in := &c.in
	h := &in.h
	in.body = nil
	if in.discard {
		if in.scratch == nil {
			in.scratch = make([]byte, 64<<10)
		}
		in.left = int(h.Body)
		return nil
	}
	n := h.bodyLen()
	whole := k.got == 0 && int64(n) == k.total
	if c.taker != nil && !h.packed() && (whole || k.sink == sinkStream) {
		if b, ok := c.taker.TakeBody(); ok {
			if b.Len() != n {
				b.Release()
				return fmt.Errorf("%w: the carrier took %d bytes for %d", transport.ErrCorrupt, b.Len(), n)
			}
			in.taken = b
			if h.Flags&FlagSum != 0 {
				in.dig.Write(b.Bytes())
			}
			return nil
		}
	}
	switch k.sink {
	case sinkStream:
		c.mu.Lock()
		many := k.stream.crowded()
		if !many {
			in.piece = k.stream.memory(n)
		}
		c.mu.Unlock()
		if many {
			return fmt.Errorf("%w: request %d: the server sends a stream in pieces of a few bytes", transport.ErrCorrupt, h.ID)
		}
		in.body = in.piece.Bytes()[:n]
	case sinkBytes:
		if need := k.got + int64(n); need > int64(len(k.mem)) {
			mem := rawmem.Make(int(c.room(k, need)))
			copy(mem, k.mem[:k.got])
			k.mem = mem
		}
		in.body = k.mem[k.got:][:n]
	default:
		if need := k.got + int64(n); k.buf == nil || need > int64(k.buf.Len()) {
			buf := c.o.Pool.Get(int(c.room(k, need)))
			if k.buf != nil { // more came than the caller expected, and than may be believed
				copy(buf.Bytes(), k.buf.Bytes()[:k.got])
				k.buf.Release()
			}
			k.buf = buf
		}
		in.body = k.buf.Bytes()[k.got:][:n]
	}
	in.dst = in.body
	if h.packed() {
		if cap(in.packed) < int(h.Body) {
			in.packed = make([]byte, h.Body)
		}
		in.packed = in.packed[:h.Body]
		in.dst = in.packed
	}
	in.left = len(in.dst)
	return nil
}

// maxAtOnce is the longest object that memory is taken for at once even if caller and server agree on its length.
const maxAtOnce = 4 << 30

// room decides how much memory a body gets that is going to have k.total bytes, and needs need now. What the server announces is believed as far as
// the caller expected it too, or up to Trust; beyond, memory doubles as bytes come, so that lies cost what was sent.
func (c *Client) room(k *call, need int64) int64 {
	believed := min(max(k.expect, c.o.Trust), maxAtOnce)
	if k.total <= believed {
		return k.total
	}
	return min(max(believed, 2*need), k.total)
}

// end delivers the frame whose body is complete.
func (c *Client) end() error {
	in := &c.in
	h, k := &in.h, in.call
	n := int64(h.bodyLen())
	if h.Body > 0 && !in.discard && in.err == nil {
		if h.Flags&FlagSum != 0 && in.dig.Sum64() != h.Sum {
			in.err = badSum()
		} else if h.packed() {
			in.err = unpack(h, in.body, in.packed)
		}
	}
	last := h.Flags&FlagLast != 0
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil { // after Close, k's owner may look at it, and give it back
		k.got += n
	}
	if in.err == nil && !k.abandoned && c.err == nil {
		c.deliver(k, int(n))
	}
	if last {
		c.remove(k)
	}
	switch {
	case k.abandoned || c.err != nil || in.err != nil:
		if last || in.err != nil || k.abandoned {
			k.drop()
		}
		if in.err != nil && !k.abandoned && c.err == nil {
			k.finished, k.err = true, in.err
			k.unpark()
			if !last { // the rest of the answer is of no use
				k.abandoned = true
				c.orphan(k)
			}
		}
	case last:
		k.finished = true
		k.unpark()
	case k.sink == sinkStream:
		k.signal = true
		k.unpark()
	}
	in.drop()
	return nil
}

// deliver gives the bytes of a frame to their call. Under mu.
func (c *Client) deliver(k *call, n int) {
	in := &c.in
	switch {
	case n == 0:
	case k.sink == sinkStream && in.taken != nil:
		k.stream.push(chunk{in.taken, n, false})
		in.taken = nil
	case k.sink == sinkStream:
		k.stream.push(chunk{in.piece, n, true})
		in.piece = nil
	case in.taken != nil && k.sink == sinkBytes:
		k.mem = in.taken.Detach()
		in.taken = nil
	case in.taken != nil:
		k.buf = in.taken
		in.taken = nil
	}
}

// remove forgets k: nothing more will come for it. Under mu.
func (c *Client) remove(k *call) {
	delete(c.calls, k.id)
	k.registered = false
	if k.isLoose {
		k.isLoose = false
		c.loose--
	}
	c.freeSlot(k)
}
