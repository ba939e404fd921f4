package tcp

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

const (
	// readBuffer holds what is read ahead: headers, metadata, small bodies. Of 8 to 64 KiB, with bodies from 1 kB to 1 MB, this was as good as any, and
	// a tenth better than 16 KiB at 20 kB. Reading into the body's memory and this buffer at once (readv) was no better than one after the other.
	readBuffer = 32 << 10
	// gather is the size up to which a frame is copied behind its header: cheaper than one more part of a writev.
	gather = 4 << 10
	// maxQueue bounds the small frames that wait for a write under way.
	maxQueue = 64 << 10
	// maxBody is the longest body of a frame. Longer ones would gain nothing, and keep others waiting.
	maxBody = 16 << 20
	// defaultStall is how long a peer may stop in the middle of a frame, or take no byte of one.
	defaultStall = 30 * time.Second
	// closeGrace is how long Close waits at most for TLS's last alert to leave.
	closeGrace = 100 * time.Millisecond
)

// CarrierOptions of one connection. The zero value is useful.
type CarrierOptions struct {
	// BusyPoll is how long a read looks for bytes before it waits to be woken. 0: not at all. See the package's text.
	BusyPoll time.Duration
	// Stall is how long the peer may make no progress in the middle of a frame, in either direction, before the connection counts as broken.
	// Default: 30 s; negative: for ever.
	Stall time.Duration
	// Trusted says that bytes on nc cannot be damaged or read unnoticed. For TLS, unix sockets and loopback addresses that is found out.
	Trusted bool
}

// NewCarrier returns a Carrier over nc, which it takes. A TLS connection should have done its handshake. On Linux the Carrier of a *net.UnixConn
// passes files.
func NewCarrier(nc net.Conn, o CarrierOptions) native.Carrier {
	return newCarrier(nc, o).carrier()
}

func newCarrier(nc net.Conn, o CarrierOptions) *carrier {
	c := &carrier{nc: nc, stall: o.Stall, trusted: o.Trusted || trusted(nc), buf: make([]byte, readBuffer)}
	if c.stall == 0 {
		c.stall = defaultStall
	}
	if c.io = newRawIO(nc, o.BusyPoll); c.io != nil {
		c.files = c.io.files
	}
	return c
}

// carrier is a native.Carrier over a stream of bytes.
type carrier struct {
	nc      net.Conn
	io      *rawIO // our own system calls; nil: those of nc
	stall   time.Duration
	trusted bool
	closed  atomic.Bool

	// Reading, by one goroutine at a time.
	buf    []byte
	r, w   int           // buf[r:w] is not consumed yet
	pos    uint64        // bytes received so far: the place in the stream of buf[w]
	head   native.Header // of the current frame
	headed bool          // head was read, its metadata was not yet
	long   []byte        // metadata that does not fit into buf
	got    int           // how much of it came
	left   int           // bytes of the body that were not read
	first  byte          // what the very first byte must be, if not 0: servers hang up on others without waiting for a whole header
	ready  func()        // called once the first frame's header and metadata came
	files  *fileQueue    // received, for frames that are not done; nil where none can come
	gate   readGate      // the read deadline

	// Writing, by who has the turn.
	turn     sync.Mutex
	out      []byte      // header, metadata and small bodies
	parts    [][]byte    // what one write sends
	step     [][]byte    // the part of it that goes to nc's writev at once
	iov      net.Buffers // the same, which that eats
	glue     []byte      // small parts for nc's write
	werr     error       // the first error, which is that of all later writes
	deadline time.Time   // the write deadline that is set, or zero

	// Small frames that came while somebody else had the turn.
	queue struct {
		mu    sync.Mutex
		n     atomic.Int64 // len(buf)
		buf   []byte
		spare []byte
		err   error
	}
}

func trusted(nc net.Conn) bool {
	switch nc := nc.(type) {
	case *tls.Conn:
		return true
	case *net.UnixConn:
		return true
	case *net.TCPConn:
		a, ok := nc.RemoteAddr().(*net.TCPAddr)
		return ok && a.IP.IsLoopback()
	}
	return false
}

func (c *carrier) MaxBody() int  { return maxBody }
func (c *carrier) Trusted() bool { return c.trusted }

// Close ends the connection and closes the files that nobody took.
func (c *carrier) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if tc, ok := c.nc.(*tls.Conn); ok {
		// It says good-bye first, for which it would wait 5 s where the peer does not read.
		defer time.AfterFunc(closeGrace, func() { tc.NetConn().Close() }).Stop()
	}
	err := c.nc.Close()
	if c.files != nil {
		c.files.close()
	}
	return err
}

// ReadFrame implements native.Carrier.
func (c *carrier) ReadFrame(h *native.Header) (meta []byte, err error) {
	if c.left > 0 {
		return nil, fmt.Errorf("%d bytes of the last frame's body were not read", c.left)
	}
	if !c.headed {
		if c.files != nil {
			c.files.drop()
		}
		for c.w-c.r < native.HeaderSize {
			if err := c.fill(native.HeaderSize); err != nil {
				return nil, err
			}
			if c.first != 0 && c.buf[c.r] != c.first {
				return nil, fmt.Errorf("%w: the peer does not speak this protocol", transport.ErrCorrupt)
			}
		}
		c.head.Decode(c.buf[c.r:])
		if c.head.Meta > native.MaxMeta || c.head.Body > maxBody {
			return nil, fmt.Errorf("%w: a frame with %d bytes of metadata and %d of body", transport.ErrCorrupt, c.head.Meta, c.head.Body)
		}
		c.r += native.HeaderSize
		c.headed, c.got = true, 0
		if c.files != nil {
			at := c.pos - uint64(c.w-c.r)
			c.files.begin(at-native.HeaderSize, at+uint64(c.head.Meta)+uint64(c.head.Body))
		}
	}
	n := int(c.head.Meta)
	if n <= len(c.buf) {
		for c.w-c.r < n {
			if err := c.fill(n); err != nil {
				return nil, err
			}
		}
		meta = c.buf[c.r : c.r+n : c.r+n]
		c.r += n
	} else if meta, err = c.readLong(n); err != nil {
		return nil, err
	}
	c.headed = false
	c.left = int(c.head.Body)
	*h = c.head
	if c.ready != nil {
		c.ready()
		c.first, c.ready = 0, nil
	}
	if c.left == 0 {
		c.gate.rest(c.nc)
	}
	return meta, nil
}

// readLong reads metadata that the buffer is too small for.
func (c *carrier) readLong(n int) ([]byte, error) {
	if cap(c.long) < n {
		c.long = make([]byte, n) // at most native.MaxMeta
	}
	m := c.long[:n]
	for c.got < n {
		k, err := c.readInto(m[c.got:])
		c.got += k
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

// ReadBody implements native.Carrier.
func (c *carrier) ReadBody(dst []byte) (int, error) {
	if len(dst) > c.left {
		return 0, fmt.Errorf("%d bytes asked for, where %d of the body are left", len(dst), c.left)
	}
	n := 0
	for n < len(dst) {
		k, err := c.readInto(dst[n:])
		n += k
		c.left -= k
		if err != nil {
			return n, err
		}
	}
	if c.left == 0 {
		c.gate.rest(c.nc)
	}
	return n, nil
}

// fill reads more into the buffer, which shall hold n unconsumed bytes in the end. It may move them.
func (c *carrier) fill(n int) error {
	switch {
	case c.r == c.w:
		c.r, c.w = 0, 0
	case c.r+n > len(c.buf):
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	k, err := c.recv(c.buf[c.w:])
	c.w += k
	return err
}

// readInto gives at least one byte to dst, which is not empty: from the buffer, or else from the socket; a short one by way of the buffer, so that
// the next frames come with the same system call. It moves nothing in the buffer, where metadata may be lent.
func (c *carrier) readInto(dst []byte) (int, error) {
	if c.r == c.w {
		tail := c.buf[c.w:]
		if len(dst) > len(tail)/2 {
			return c.recv(dst)
		}
		n, err := c.recv(tail)
		c.w += n
		if err != nil {
			return 0, err
		}
	}
	n := copy(dst, c.buf[c.r:c.w])
	c.r += n
	return n, nil
}

// recv reads at least one byte into p.
func (c *carrier) recv(p []byte) (int, error) {
	for {
		var n int
		var err error
		waited := true
		if c.io == nil {
			if c.midFrame() {
				c.gate.limit(c.nc, c.stall)
			}
			n, err = c.nc.Read(p)
		} else if n, err = c.io.read(p, !c.midFrame() || c.stall < 0); err == errWouldBlock { // our own, never wrapped
			c.gate.limit(c.nc, c.stall)
			n, err = c.io.read(p, true)
		} else {
			waited = !c.midFrame()
		}
		if n > 0 {
			c.pos += uint64(n)
			if c.files != nil {
				c.files.arrived(c.pos)
			}
			return n, nil // if there was an error too, it comes again
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := c.gate.expired(c.nc, waited); err != nil {
				return 0, err
			}
		case errors.Is(err, io.EOF) && !c.midFrame():
			return 0, io.EOF
		default:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, fmt.Errorf("%w: reading from %s: %w", transport.ErrUnavailable, peerName(c.nc), err)
		}
	}
}

// midFrame reports whether the peer owes us the rest of a frame.
func (c *carrier) midFrame() bool { return c.left > 0 || c.headed || c.w > c.r }

func peerName(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil && a.String() != "" {
		return a.String()
	}
	return "the peer"
}

// Interrupt implements native.Carrier.
func (c *carrier) Interrupt() { c.gate.interrupt(c.nc) }

// readGate owns the read deadline of a connection. It is in the past while an interrupt is pending; that state and the flag change together.
type readGate struct {
	mu      sync.Mutex
	pending bool
	mark    time.Time // when the present limit was set
	limited bool      // used by the reader alone
}

var past = time.Unix(1, 0)

func (g *readGate) interrupt(nc net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.pending {
		g.pending = true
		nc.SetReadDeadline(past)
	}
}

// limit makes a read that gets nothing for that long fail.
func (g *readGate) limit(nc net.Conn, stall time.Duration) {
	if stall < 0 {
		return
	}
	now := time.Now()
	if g.limited && now.Sub(g.mark) < stall/8 {
		return
	}
	g.limited, g.mark = true, now
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.pending {
		nc.SetReadDeadline(now.Add(stall))
	}
}

// rest takes the limit away: between frames the peer may be silent.
func (g *readGate) rest(nc net.Conn) {
	if !g.limited {
		return
	}
	g.limited = false
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.pending {
		nc.SetReadDeadline(time.Time{})
	}
}

// expired says why a read met its deadline, and removes it. nil: for no reason that still holds, such as a limit that passed before the read waited.
func (g *readGate) expired(nc net.Conn, waited bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	nc.SetReadDeadline(time.Time{})
	limited := g.limited
	g.limited = false
	switch {
	case g.pending:
		g.pending = false
		return native.ErrInterrupted
	case limited && waited:
		return fmt.Errorf("%w: %s stopped in the middle of a frame", transport.ErrUnavailable, peerName(nc))
	}
	return nil
}

// WriteFrame implements native.Carrier.
func (c *carrier) WriteFrame(h *native.Header, meta []byte, body transport.Slices) error {
	total, err := frameSize(h, meta, body)
	if err != nil {
		return err
	}
	if !c.turn.TryLock() {
		if total <= gather {
			switch queued, err := c.enqueue(h, meta, body, total); {
			case err != nil:
				return err
			case !queued:
			case c.turn.TryLock(): // who had the turn may have ended it before our frame was there
				return c.pass(c.werr)
			default:
				return nil
			}
		}
		c.turn.Lock()
	}
	if c.werr != nil {
		return c.pass(c.werr)
	}
	c.takeQueue()
	c.out = append(h.Append(c.out[:0]), meta...)
	if total <= gather {
		c.out = body.AppendTo(c.out)
		c.parts = append(c.parts, c.out)
	} else {
		c.parts = append(append(c.parts, c.out), body...)
	}
	return c.pass(c.send(nil))
}

// frameSize sets the frame's lengths, and returns their sum.
func frameSize(h *native.Header, meta []byte, body transport.Slices) (int, error) {
	n := body.Len()
	if len(meta) > native.MaxMeta || n > maxBody {
		return 0, fmt.Errorf("%w: a frame with %d bytes of metadata and %d of body", transport.ErrTooLarge, len(meta), n)
	}
	h.Meta, h.Body = uint32(len(meta)), uint32(n)
	return native.HeaderSize + len(meta) + int(n), nil
}

// enqueue copies a small frame for who has the turn. It does not if there is no room.
func (c *carrier) enqueue(h *native.Header, meta []byte, body transport.Slices, total int) (bool, error) {
	q := &c.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil || len(q.buf)+total > maxQueue {
		return false, q.err
	}
	q.buf = body.AppendTo(append(h.Append(q.buf), meta...))
	q.n.Store(int64(len(q.buf)))
	return true, nil
}

// takeQueue makes the queued frames the first part of the next write. They must go before any frame of who has the turn, who may have queued an
// earlier one.
func (c *carrier) takeQueue() {
	q := &c.queue
	if q.n.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	c.parts = append(c.parts, q.buf)
	q.buf, q.spare = q.spare[:0], q.buf
	q.n.Store(0)
}

// pass ends the caller's turn, after sending what others queued meanwhile: whoever finds the turn free again sends it, so that nothing waits for a
// next frame. It returns err, or the error of that sending: the connection is of no more use to anybody.
func (c *carrier) pass(err error) error {
	for {
		for c.werr == nil && c.queue.n.Load() > 0 {
			c.takeQueue()
			if serr := c.send(nil); err == nil {
				err = serr
			}
		}
		c.turn.Unlock()
		if c.queue.n.Load() == 0 || !c.turn.TryLock() {
			return err
		}
	}
}

// send writes all of c.parts, f with the first byte if not nil.
func (c *carrier) send(f *os.File) error {
	var err error
	if c.io != nil {
		err = c.sendRaw(f)
	} else {
		err = c.sendConn()
	}
	clear(c.parts)
	c.parts = c.parts[:0]
	if err == nil {
		return nil
	}
	return c.sendFailed(err)
}

// sendFailed makes err what all later writes return, too.
func (c *carrier) sendFailed(err error) error {
	var unsent notSentError
	if errors.As(err, &unsent) {
		return err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: %s took no byte for %v", transport.ErrUnavailable, peerName(c.nc), c.stall)
	} else {
		err = fmt.Errorf("%w: writing to %s: %w", transport.ErrUnavailable, peerName(c.nc), err)
	}
	c.werr = err
	q := &c.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err, q.buf, q.spare = err, nil, nil
	q.n.Store(0)
	return err
}

// notSentError says that a file could not be sent, and nothing with it: the connection is as good as before.
type notSentError struct{ err error }

func (e notSentError) Error() string { return "sending a file: " + e.err.Error() }
func (e notSentError) Unwrap() error { return e.err }

// limitWrite sets the write deadline if the one that is set is getting old.
func (c *carrier) limitWrite() {
	if c.stall < 0 {
		return
	}
	if now := time.Now(); c.deadline.Sub(now) < c.stall-c.stall/8 {
		c.deadline = now.Add(c.stall)
		c.nc.SetWriteDeadline(c.deadline)
	}
}

// sendRaw writes by our own system calls. A deadline is set only when the socket is full.
func (c *carrier) sendRaw(f *os.File) error {
	rest := c.parts
	if !c.deadline.IsZero() {
		c.deadline = time.Time{}
		c.nc.SetWriteDeadline(c.deadline)
	}
	for {
		for len(rest) > 0 && len(rest[0]) == 0 {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return nil
		}
		n, err := c.io.write(rest, f, c.stall < 0)
		if err == errWouldBlock { // our own, never wrapped
			c.limitWrite()
			n, err = c.io.write(rest, f, true)
		}
		if err != nil {
			return err
		}
		f = nil
		rest = advance(rest, n)
	}
}

// advance drops the first n bytes of parts, which it changes.
func advance(parts [][]byte, n int) [][]byte {
	for n > 0 {
		if n < len(parts[0]) {
			parts[0] = parts[0][n:]
			break
		}
		n -= len(parts[0])
		parts = parts[1:]
	}
	return parts
}

// sendStep is how much goes out under one write deadline where we do not see the single system calls.
const sendStep = 256 << 10

// sendConn writes by nc: vectored where it can, else with small parts put together, since each write becomes a TLS record.
func (c *carrier) sendConn() error {
	switch c.nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return c.sendVector()
	}
	if c.glue == nil {
		c.glue = make([]byte, 0, 16<<10) // a TLS record
	}
	glue := c.glue
	for _, p := range c.parts {
		for len(p) > 0 {
			n := min(len(p), sendStep)
			if len(glue) > 0 || n < cap(glue) {
				n = copy(glue[len(glue):cap(glue)], p)
				glue = glue[:len(glue)+n]
				if len(glue) == cap(glue) {
					if err := c.writeStep(glue); err != nil {
						return err
					}
					glue = glue[:0]
				}
			} else if err := c.writeStep(p[:n]); err != nil {
				return err
			}
			p = p[n:]
		}
	}
	if len(glue) == 0 {
		return nil
	}
	return c.writeStep(glue)
}

func (c *carrier) writeStep(p []byte) error {
	c.limitWrite()
	_, err := c.nc.Write(p)
	return err
}

func (c *carrier) sendVector() error {
	rest := c.parts
	for {
		step, size := c.step[:0], 0
		for _, p := range rest {
			p = p[:min(len(p), sendStep-size)]
			step, size = append(step, p), size+len(p)
			if size == sendStep {
				break
			}
		}
		if size == 0 {
			return nil
		}
		c.limitWrite()
		c.step, c.iov = step, step
		_, err := c.iov.WriteTo(c.nc) // eats c.iov
		clear(c.step)
		if err != nil {
			return err
		}
		rest = advance(rest, size)
	}
}
