package ucx

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/cgo/ucx"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

var (
	_ native.Carrier     = (*carrier)(nil)
	_ native.WholeReader = (*carrier)(nil)
)

const (
	small      = 1 << 10   // parts up to so long are copied into a message's header
	maxHeader  = 4 << 10   // bytes of header per message, if UCX allows as many
	maxStage   = 64 << 10  // bytes of short parts that are gathered into one message
	maxEarly   = 4 << 10   // messages that may overtake another
	maxBacklog = 256 << 20 // bytes that a peer may have sent beyond what was read, its messages counted with some more than they are long
	maxUnheard = 1 << 20   // the same before its hello
	maxFree    = 1 << 10   // messages whose memory is kept for others
	lingering  = time.Second
)

// A carrier moves native frames over one connection.
type carrier struct {
	e       *engine
	control *endpoint // the connection; its end is noticed
	fast    *endpoint // shared memory to the same peer, or nil; its end is not noticed
	tx      *ucx.Endpoint
	flags   ucx.SendFlags
	header  int    // bytes of header per message
	own     bool   // the engine is this connection's alone
	ended   func() // called once, under mu, at the end of Close; may be nil
	trusted bool   // the peer is on this host
	devices bool   // the connection may use devices that access memory by themselves
	lease   *lease // of our memory, if there is shared memory
	theirs  *grant // of the peer's, if it is read without the peer
	pool    *transport.Pool
	remote  string

	// Under the engine's mu.
	err         error // why nothing can be read or written any more
	closing     bool
	eof         bool
	interrupted bool
	calls       int // of methods, inside the engine
	pending     int // sends under way
	sent        uint32
	expected    uint32
	queue       []*message // arrived, in order
	first       int        // index of its first
	early       map[uint32]*message
	backlog     int
	free        *message
	kept        int    // messages in free
	greeting    []byte // the data of the peer's hello

	// The reader's.
	cur   *message // the message that is read
	done  *message // the first of the frame, which the metadata is lent from
	stage *transport.Buffer
	part  int // of cur: its head, data, tail
	off   int // in that part
	left  int // bytes of the frame
	meta  []byte
	once  sync.Once
}

// message is one that has arrived. Its header and short data are copied, since they are lent only until the next round of the worker.
type message struct {
	prefix
	next    *message
	copied  []byte
	fields  []byte // the native header
	inline  []byte // the rest of the header
	data    []byte // in copied, or libucp's
	foreign ucx.Message
}

func (m *message) size() int {
	if m.foreign.Valid() {
		return len(m.inline) + m.foreign.Len()
	}
	return len(m.inline) + len(m.data)
}

// received takes an active message. Under mu.
func (c *carrier) received(ev *ucx.Event) {
	m := c.free
	if m != nil {
		c.free = m.next
		c.kept--
	} else {
		m = new(message)
	}
	m.next, m.foreign = nil, ev.Message
	m.copied = append(append(m.copied[:0], ev.Header...), ev.Inline...)
	m.data = m.copied[len(ev.Header):]
	err := c.enqueue(m, m.copied[:len(ev.Header)])
	if err != nil {
		c.release(m)
		c.fail(err)
	}
}

func (c *carrier) enqueue(m *message, header []byte) (err error) {
	m.prefix, m.inline, err = parsePrefix(header)
	if err != nil {
		return err
	}
	if c.err != nil || c.closing || c.eof {
		c.release(m)
		return nil
	}
	m.fields = nil
	if m.kind == kindFrame {
		if len(m.inline) < native.HeaderSize {
			return fmt.Errorf("%w: a frame without a header", transport.ErrCorrupt)
		}
		m.fields, m.inline = m.inline[:native.HeaderSize], m.inline[native.HeaderSize:]
	}
	if int(m.head) > len(m.inline) {
		return fmt.Errorf("%w: a message whose header is %d bytes long claims %d", transport.ErrCorrupt, len(m.inline), m.head)
	}
	if m.foreign.Valid() && !m.foreign.Remote() {
		m.data = c.e.w.MessageBytes(m.foreign)
	}
	limit := maxBacklog
	if c.greeting == nil {
		limit = maxUnheard
	}
	if c.backlog += cost(m); c.backlog > limit {
		return fmt.Errorf("%w: the peer sends much more than is read", transport.ErrCorrupt)
	}
	if m.seq != c.expected {
		if m.seq-c.expected > maxEarly || c.early[m.seq] != nil {
			return fmt.Errorf("%w: message %d where %d is due", transport.ErrCorrupt, m.seq, c.expected)
		}
		if c.early == nil {
			c.early = map[uint32]*message{}
		}
		c.early[m.seq] = m
		return nil
	}
	for m != nil {
		c.expected++
		c.push(m)
		next := c.early[c.expected]
		delete(c.early, c.expected)
		m = next
	}
	return nil
}

// cost is what a message counts towards maxBacklog: the memory that it holds here.
func cost(m *message) int {
	n := cap(m.copied) + maxBacklog>>20
	if m.foreign.Valid() && !m.foreign.Remote() {
		n += m.foreign.Len()
	}
	return n
}

func (c *carrier) push(m *message) {
	if c.greeting == nil && m.kind != kindHello && m.kind != kindBye {
		c.release(m)
		c.fail(fmt.Errorf("%w: %s does not say hello first", transport.ErrCorrupt, c.remote))
		return
	}
	switch m.kind {
	case kindHello:
		if c.greeting == nil && !m.foreign.Remote() {
			c.greeting = append(append(make([]byte, 0, len(m.data)+1), m.inline...), m.data...)
		}
		c.release(m)
		return
	case kindBye:
		c.eof = true
		c.release(m)
		return
	}
	if c.first > 0 && len(c.queue) == cap(c.queue) {
		n := copy(c.queue, c.queue[c.first:])
		clear(c.queue[n:])
		c.queue, c.first = c.queue[:n], 0
	}
	c.queue = append(c.queue, m)
}

// release drops a message and keeps its memory for another one. Under mu.
func (c *carrier) release(m *message) {
	if m == nil {
		return
	}
	c.backlog = max(c.backlog-cost(m), 0)
	if m.foreign.Valid() {
		c.e.w.ReleaseMessage(m.foreign)
		m.foreign = ucx.Message{}
	}
	m.data = nil
	if c.kept < maxFree {
		m.next = c.free
		c.free = m
		c.kept++
	}
}

// fail ends the connection for readers and writers; who Closes it does the rest. Under mu.
func (c *carrier) fail(err error) {
	if c.err == nil {
		c.err = err
		c.e.changed()
	}
}

// lost is what libucp's error handler comes to. Under mu.
func (c *carrier) lost() {
	if !c.closing {
		c.fail(fmt.Errorf("%w: the connection to %s broke: %w", transport.ErrUnavailable, c.remote, c.control.err))
	}
}

// readable is what a reader waits for.
type readable carrier

func (c *readable) ready() bool {
	return c.first < len(c.queue) || c.interrupted || c.err != nil || c.eof || c.closing
}

// pull waits for the next message. Under mu.
func (c *carrier) pull() (*message, error) {
	if err := c.e.wait((*readable)(c)); err != nil {
		return nil, err
	}
	switch {
	case c.closing:
		return nil, transport.ErrClosed
	case c.first < len(c.queue): // also after the peer has gone
		m := c.queue[c.first]
		c.queue[c.first] = nil
		if c.first++; c.first == len(c.queue) {
			c.queue, c.first = c.queue[:0], 0
		}
		return m, nil
	case c.eof:
		return nil, io.EOF
	case c.err != nil:
		return nil, c.err
	}
	c.interrupted = false
	return nil, native.ErrInterrupted
}

// ReadFrame implements native.Carrier.
func (c *carrier) ReadFrame(h *native.Header) ([]byte, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	if c.left > 0 {
		return nil, fmt.Errorf("%w: a frame that was not read to its end", transport.ErrCorrupt)
	}
	c.recycle()
	m, err := c.pull()
	if err != nil {
		return nil, err
	}
	c.cur, c.part, c.off = m, 0, 0
	if m.kind != kindFrame {
		return nil, c.corrupt("a piece of no frame")
	}
	h.Decode(m.fields)
	if h.Meta > native.MaxMeta || int64(h.Body) > int64(c.MaxBody()) {
		return nil, c.corrupt(fmt.Sprintf("a frame of %d and %d bytes", h.Meta, h.Body))
	}
	c.left = int(h.Meta) + int(h.Body)
	if m.size() > c.left {
		return nil, c.corrupt(fmt.Sprintf("a frame of %d bytes with %d", c.left, m.size()))
	}
	if int(h.Meta) <= int(m.head) {
		c.left -= int(h.Meta)
		c.off = int(h.Meta)
		return m.inline[:h.Meta:h.Meta], nil
	}
	if cap(c.meta) < int(h.Meta) {
		c.meta = make([]byte, h.Meta)
	}
	c.meta = c.meta[:h.Meta]
	for n := 0; n < len(c.meta); {
		k, err := c.read(c.meta[n:])
		if n += k; err != nil && err != native.ErrInterrupted {
			return nil, err
		}
	}
	return c.meta, nil
}

func (c *carrier) corrupt(what string) error {
	c.left = 0
	c.fail(fmt.Errorf("%w: %s from %s", transport.ErrCorrupt, what, c.remote))
	return c.err
}

// recycle drops what the last frame was read from. Under mu.
func (c *carrier) recycle() {
	if c.cur != c.done {
		c.release(c.cur)
	}
	c.release(c.done)
	c.cur, c.done = nil, nil
	c.stage.Release()
	c.stage = nil
}

// ReadBody implements native.Carrier.
func (c *carrier) ReadBody(dst []byte) (int, error) {
	if err := c.enter(); err != nil {
		return 0, err
	}
	defer c.leave()
	for n := 0; ; {
		k, err := c.read(dst[n:])
		if n += k; err != nil || n == len(dst) {
			return n, err
		}
	}
}

// read moves some bytes of the frame into dst. Under mu.
func (c *carrier) read(dst []byte) (int, error) {
	if len(dst) > c.left {
		return 0, fmt.Errorf("%w: a frame shorter than what is read of it", transport.ErrCorrupt)
	}
	for len(dst) > 0 {
		var src []byte
		switch m := c.cur; {
		case m == nil || c.part == 3:
			if c.done == nil {
				c.done = m
			} else {
				c.release(m)
			}
			c.cur = nil
			c.stage.Release()
			c.stage = nil
			next, err := c.pull()
			if err == io.EOF {
				err = fmt.Errorf("%w: %s closed the connection in the middle of a frame", transport.ErrUnavailable, c.remote)
			}
			if err != nil {
				return 0, err
			}
			c.cur, c.part, c.off = next, 0, 0
			if next.kind != kindMore || next.size() > c.left || next.size() == 0 {
				return 0, c.corrupt("a message that does not go on with its frame")
			}
			continue
		case c.part == 0:
			src = m.inline[c.off:m.head]
		case c.part == 2:
			src = m.inline[int(m.head)+c.off:]
		case m.foreign.Valid() && m.foreign.Remote():
			n := m.foreign.Len()
			if c.off == 0 && n <= len(dst) {
				if err := c.fetch(dst[:n]); err != nil {
					return 0, err
				}
				c.left -= n
				c.part, c.off = 2, 0
				return n, nil
			}
			c.stage = c.pool.Get(n)
			if err := c.fetch(c.stage.Bytes()); err != nil {
				return 0, err
			}
			m.data = c.stage.Bytes()
			src = m.data
		default:
			src = m.data[c.off:]
		}
		if len(src) == 0 {
			c.part++
			c.off = 0
			continue
		}
		n := copy(dst, src)
		c.off += n
		c.left -= n
		return n, nil
	}
	return 0, nil
}

// fetch receives the current message's data, which is still with the peer, into dst. Under mu.
func (c *carrier) fetch(dst []byte) error {
	var o op
	m := c.cur.foreign
	c.cur.foreign = ucx.Message{}
	token := c.e.next()
	r, err := c.e.w.RecvMessage(m, dst, token)
	c.e.started(&o, token, r, err)
	o.hold(dst)
	err = c.e.wait(&fetched{&o, c})
	if err == nil {
		err = o.err
	}
	if !o.done {
		c.sever()
		_ = c.e.finish(&o)
	}
	if err != nil || !o.done {
		if c.closing {
			return transport.ErrClosed
		}
		if c.err == nil {
			c.fail(fmt.Errorf("%w: fetching %d bytes from %s: %w", transport.ErrUnavailable, len(dst), c.remote, err))
		}
		return c.err
	}
	if o.length != len(dst) {
		return c.corrupt(fmt.Sprintf("%d bytes instead of %d", o.length, len(dst)))
	}
	if c.theirs != nil {
		if err := c.theirs.good(); err != nil {
			c.fail(fmt.Errorf("fetching %d bytes from %s: %w", len(dst), c.remote, err))
			return c.err
		}
	}
	if registers(c) {
		ucx.Forget(dst)
	}
	return nil
}

// fetched is what fetch waits for: libucp ends a receive whose sender is gone only when the endpoint is closed.
type fetched struct {
	o *op
	c *carrier
}

func (f *fetched) ready() bool { return f.o.done || f.c.err != nil }

// sever makes operations end whose peer is gone. Over shared memory only the end of the worker does; from here on our side does not touch their memory
// any more, and the peer, if it lives, reads what we send in vain: see lease. What we copy ourselves out of the peer ends first, by itself: libucp
// aborts the process if a worker is destroyed in the middle of it. That drain is for the first caller only: all others are still in their calls then. When it
// has returned, its memory may be gone, and no further progress may read or write it. Under mu.
func (c *carrier) sever() {
	if c.fast == nil {
		c.tx = nil
		c.control.close()
		return
	}
	if c.e.err == nil {
		c.e.stop(c.err)
		c.e.drain()
	}
}

// outgoing is the memory of one WriteFrame.
type outgoing struct {
	c       *carrier
	headers [][]byte // of the messages, one after the other
	used    int
	ops     []*op
	err     error
	kept    bool // libucp still has some of it
	stages  []*transport.Buffer
	forget  [][]byte
}

var outgoingPool = sync.Pool{New: func() any { return new(outgoing) }}

// ready reports whether all messages have left, or never will.
func (o *outgoing) ready() bool { return o.left() || o.c.err != nil && o.c.fast != nil }

func (o *outgoing) left() bool {
	for _, p := range o.ops {
		if !p.done {
			return false
		}
	}
	return true
}

// buffer returns an empty header buffer.
func (o *outgoing) buffer() []byte {
	if o.used == len(o.headers) {
		o.headers = append(o.headers, make([]byte, 0, maxHeader))
	}
	o.used++
	return o.headers[o.used-1][:0]
}

// WriteFrame implements native.Carrier. All messages of the frame are given to libucp at once; then it waits until they have left.
func (c *carrier) WriteFrame(h *native.Header, meta []byte, body transport.Slices) error {
	n := body.Len()
	if len(meta) > native.MaxMeta || n > int64(c.MaxBody()) {
		return fmt.Errorf("%w: a frame of %d and %d bytes", transport.ErrTooLarge, len(meta), n)
	}
	h.Meta, h.Body = uint32(len(meta)), uint32(n)
	o := outgoingPool.Get().(*outgoing)
	o.c = c
	err := c.enter()
	if err == nil {
		c.compose(o, h, meta, body)
		err = c.flushed(o)
		if o.kept = !o.left(); o.kept || err != nil {
			c.lease.end() // the caller gets its memory back, and the peer may not have read it yet
		}
		c.leave()
	}
	for _, s := range o.stages {
		s.Release()
	}
	if o.kept { // an abandoned endpoint still has its headers
		return err
	}
	clear(o.ops)
	clear(o.stages)
	clear(o.forget)
	o.c, o.used, o.ops, o.stages, o.forget, o.err = nil, 0, o.ops[:0], o.stages[:0], o.forget[:0], nil
	outgoingPool.Put(o)
	return err
}

// enter begins a call. Under mu from then on, if there is no error.
func (c *carrier) enter() error {
	c.e.lock()
	if c.closing {
		c.e.unlock()
		return transport.ErrClosed
	}
	c.calls++
	return nil
}

func (c *carrier) leave() {
	c.calls--
	c.e.unlock()
}

// flushed waits for what o has sent. Under mu.
func (c *carrier) flushed(o *outgoing) error {
	if len(o.ops) > 0 {
		c.pending++
		err := c.e.wait(o)
		c.pending--
		if err == nil && !o.left() {
			err = c.err
			c.sever()
		}
		for _, p := range o.ops {
			if err == nil {
				err = p.err
			}
		}
		if o.err == nil {
			o.err = err
		}
		for _, p := range o.forget {
			ucx.Forget(p)
		}
	}
	if o.err == nil {
		return nil
	}
	if c.closing {
		return transport.ErrClosed
	}
	if c.err == nil {
		c.fail(fmt.Errorf("%w: sending to %s: %w", transport.ErrUnavailable, c.remote, o.err))
	}
	return c.err
}

// compose cuts a frame into messages and sends them. Under mu.
func (c *carrier) compose(o *outgoing, h *native.Header, meta []byte, body transport.Slices) {
	if o.err = c.err; o.err != nil || c.tx == nil {
		return
	}
	hdr := h.Append(append(o.buffer(), make([]byte, prefixSize)...))
	kind, head, room := uint8(kindFrame), 0, c.header-prefixSize-native.HeaderSize
	var data []byte
	flush := func() {
		p := prefix{kind: kind, head: uint16(head), seq: c.sent}
		p.append(hdr[:0])
		c.post(o, hdr, data)
		kind, head, room, data = kindMore, 0, c.header-prefixSize, nil
		hdr = append(o.buffer(), make([]byte, prefixSize)...)
	}
	add := func(p []byte, more transport.Slices) (taken int) {
		if len(p) <= min(room, small) {
			hdr = append(hdr, p...)
			room -= len(p)
			if data == nil {
				head += len(p)
			}
			return 1
		}
		if data != nil {
			flush()
		}
		if len(p) <= small { // many short parts: gather them
			b := c.pool.Get(maxStage)
			o.stages = append(o.stages, b)
			s := append(b.Bytes()[:0], p...)
			taken = 1
			for _, q := range more {
				if len(q) > small || len(q) > maxStage-len(s) {
					break
				}
				s = append(s, q...)
				taken++
			}
			data = s
			return taken
		}
		data = p
		return 1
	}
	add(meta, nil)
	for i := 0; i < len(body); {
		i += add(body[i], body[i+1:])
	}
	if kind == kindFrame || data != nil || len(hdr) > prefixSize {
		flush()
	}
}

// post sends one message. Under mu.
func (c *carrier) post(o *outgoing, hdr, data []byte) {
	if o.err != nil {
		return
	}
	c.sent++
	token := c.e.next()
	r, err := c.tx.SendMessage(amID, hdr, data, c.flags, token)
	if err != nil {
		o.err = err
		return
	}
	if len(data) >= registered && registers(c) {
		o.forget = append(o.forget, data)
	}
	if r.Done {
		return
	}
	p := new(op)
	c.e.started(p, token, r, nil)
	p.hold(hdr)
	p.hold(data)
	o.ops = append(o.ops, p)
}

// registered is from what length on UCX may register memory with a device.
const registered = 1 << 10

// registers reports whether the connection may use a device that reads and writes registered memory by itself.
func registers(c *carrier) bool { return c.devices && c.fast == nil }

// Interrupt implements native.Carrier.
func (c *carrier) Interrupt() {
	c.e.lock()
	c.interrupted = true
	c.e.changed()
	c.e.unlock()
}

// MaxBody implements native.Carrier.
func (c *carrier) MaxBody() int { return native.MaxFrame }

// ReadsWhole implements native.WholeReader: a rendezvous delivers all of a message, or nothing.
func (c *carrier) ReadsWhole() bool { return true }

// Trusted implements native.Carrier: on one host there is nothing on the way, and devices check what they transport.
func (c *carrier) Trusted() bool { return c.trusted }

// Close implements native.Carrier. It tells the peer, if it can.
func (c *carrier) Close() error {
	c.once.Do(func() {
		c.e.lock()
		defer c.e.unlock()
		well := c.err == nil && c.e.err == nil && !c.eof
		if well {
			o := new(outgoing)
			c.post(o, prefix{kind: kindBye, seq: c.sent}.append(o.buffer()), nil)
		}
		c.closing = true
		c.e.changed()
		if well {
			c.linger()
		}
		if c.fast != nil {
			delete(c.e.peers, c.fast.handle)
			c.fast.abandon()
		}
		delete(c.e.peers, c.control.handle)
		c.control.close()
		for n := 0; c.own && c.e.err == nil && c.e.w.Pending() > 0 && n < 64; n++ { // what ended with it may need a round more
			c.e.progress(spins)
		}
		if c.own { // whatever still waits for the abandoned endpoint
			c.e.stop(transport.ErrClosed)
		}
		for c.calls > 0 {
			c.departing()
		}
		c.drop()
		if c.own {
			c.e.shut()
		}
		if c.ended != nil {
			c.ended()
		}
	})
	return nil
}

// departing lets the calls go that are on their way out. Under mu, which it gives up in between.
func (c *carrier) departing() {
	c.e.changed()
	c.e.mu.Unlock()
	runtime.Gosched()
	c.e.lock()
}

// linger waits until the peer has all that was sent, but not for long. Under mu.
func (c *carrier) linger() {
	g := &gone{c: c, o: new(op)}
	token := c.e.next()
	r, err := c.tx.Flush(token)
	c.e.started(g.o, token, r, err)
	t := time.AfterFunc(lingering, func() {
		c.e.lock()
		g.stop = true
		c.e.changed()
		c.e.unlock()
	})
	_ = c.e.wait(g)
	t.Stop()
}

// gone is what Close waits for: that what was sent has left.
type gone struct {
	c    *carrier
	o    *op
	stop bool
}

func (g *gone) ready() bool { return g.stop || g.c.err != nil || g.o.done && g.c.pending == 0 }

// drop releases what was not read. Under mu.
func (c *carrier) drop() {
	c.recycle()
	for _, m := range c.queue[c.first:] {
		c.release(m)
	}
	for _, m := range c.early {
		c.release(m)
	}
	c.queue, c.first, c.early, c.left = nil, 0, nil, 0
}
