package zmq

import (
	"encoding/binary"
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
	// readBuffer holds the heads of frames, commands, and small frames whole. Of a larger frame only what comes in the same read as its head is copied
	// out of it.
	readBuffer = 8 << 10
	// gather is the size up to which pieces are copied behind the frame's head: cheaper than one more iovec.
	gather = 8 << 10
	// Beyond these, what is composed leaves although the message is not complete: a vectored write takes 1,024 pieces.
	maxCuts    = 500
	maxScratch = 64 << 10
)

// Bits of a frame's first byte.
const (
	flagMore    = 1
	flagLong    = 2
	flagCommand = 4
)

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// wire is a link over a net.Conn: ZMTP in Go.
type wire struct {
	nc net.Conn
	rv vectored // reads into two places at once, where the operating system can

	// These belong to who reads.
	rbuf   []byte
	r, w   int    // rbuf[r:w] is read from the connection, but not used
	left   int64  // bytes of the current part that were not read, neither by the caller nor into rbuf
	within bool   // more parts of the current message follow
	box    sealed // CURVE; its opener is nil without

	interrupting sync.Mutex // what interrupt and the read that notices it do to the deadline is one step each

	writing sync.Mutex // these belong to who holds it
	scratch []byte
	cuts    []cut
	vec, nb net.Buffers
	broken  error
	seal    sealer
	stall   time.Duration // see pacer
	large   int64         // bytes in cuts

	pong   sync.Mutex
	answer []byte      // the PONG that must be sent
	due    atomic.Bool // whether there is one
}

// cut is a large piece that is sent after scratch[:at].
type cut struct {
	at    int
	piece []byte
}

func newWire(nc net.Conn) *wire {
	w := &wire{nc: nc, rbuf: make([]byte, readBuffer)}
	w.rv.init(nc)
	return w
}

func (w *wire) remote() string {
	if a := w.nc.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return a.String()
	}
	return w.nc.LocalAddr().String() // of a unix socket only the server has a name
}

func (w *wire) trusted() bool { return w.box.open != nil || local(w.nc) }

func (w *wire) maxBody() int {
	if w.box.open != nil {
		return maxBoxed
	}
	return native.MaxFrame
}

// stale reports whether the peer has hung up on a link that nobody reads.
func (w *wire) stale() bool { return w.r == w.w && w.rv.dead() }

func (w *wire) close() {
	w.nc.Close()
}

func (w *wire) interrupt() {
	w.interrupting.Lock()
	w.nc.SetReadDeadline(past)
	w.interrupting.Unlock()
}

// hurry and calm implement hurrier.
func (w *wire) hurry() { w.nc.SetWriteDeadline(past) }
func (w *wire) calm()  { w.nc.SetWriteDeadline(time.Time{}) }

// pace implements pacer.
func (w *wire) pace(d time.Duration) {
	w.writing.Lock()
	defer w.writing.Unlock()
	if w.stall = max(d, 0); w.stall == 0 {
		w.nc.SetWriteDeadline(time.Time{})
	}
}

// readError says what err, which a read returned, means.
func (w *wire) readError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.interrupting.Lock()
		w.nc.SetReadDeadline(time.Time{})
		w.interrupting.Unlock()
		return native.ErrInterrupted
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF // who knows better says io.EOF
	}
	return fmt.Errorf("zmq: %s: %w: the connection broke: %w", w.remote(), transport.ErrUnavailable, err)
}

// fill reads until at least n bytes, which must fit, are in rbuf[r:w].
func (w *wire) fill(n int) error {
	for w.w-w.r < n {
		if w.r == w.w {
			w.r, w.w = 0, 0
		} else if len(w.rbuf)-w.r < n {
			w.w = copy(w.rbuf, w.rbuf[w.r:w.w])
			w.r = 0
		}
		m, err := w.nc.Read(w.rbuf[w.w:])
		w.w += m
		if err != nil && w.w-w.r < n {
			return w.readError(err)
		}
	}
	return nil
}

// direct reads the next bytes of the current part into dst, some at least, and reads ahead into rbuf if the operating system does both at once.
func (w *wire) direct(dst []byte) (int, error) {
	if n := copy(dst, w.rbuf[w.r:w.w]); n > 0 {
		w.r += n
		return n, nil
	}
	w.r, w.w = 0, 0
	n, err := 0, error(nil)
	switch {
	case w.rv.ready():
		n, err = w.rv.read(dst, w.rbuf)
		if n > len(dst) {
			w.w = n - len(dst)
			n = len(dst)
		}
	case len(dst) < len(w.rbuf)/2:
		n, err = w.nc.Read(w.rbuf)
		w.w = n
		n = copy(dst, w.rbuf[:n])
		w.r = n
	default:
		n, err = w.nc.Read(dst)
	}
	if n > 0 || err == nil {
		return n, nil // an error comes again
	}
	return 0, w.readError(err)
}

// next implements link.
func (w *wire) next() (int64, bool, error) {
	if w.box.open != nil {
		return w.nextBoxed()
	}
	for {
		n, flags, err := w.frame()
		if err != nil {
			return 0, false, err
		}
		if flags&flagCommand == 0 {
			return n, w.within, nil
		}
		if err := w.command(n); err != nil {
			return 0, false, err
		}
	}
}

// frame skips the rest of the current frame and reads the head of the next. The whole body of a command is in rbuf then.
func (w *wire) frame() (n int64, flags byte, err error) {
	for w.left > 0 {
		if w.r == w.w {
			if err := w.fill(1); err != nil {
				return 0, 0, err
			}
		}
		skip := min(w.left, int64(w.w-w.r))
		w.r += int(skip)
		w.left -= skip
	}
	if err := w.fill(1); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) && w.w == w.r && !w.within {
			err = io.EOF
		}
		return 0, 0, err
	}
	flags = w.rbuf[w.r]
	if flags&^(flagMore|flagLong|flagCommand) != 0 || flags&(flagMore|flagCommand) == flagMore|flagCommand {
		return 0, 0, corrupt("%s: a frame begins with %#02x", w.remote(), flags)
	}
	size := 2
	if flags&flagLong != 0 {
		size = 9
	}
	if err := w.fill(size); err != nil {
		return 0, 0, err
	}
	if n = int64(w.rbuf[w.r+1]); size == 9 {
		n = int64(binary.BigEndian.Uint64(w.rbuf[w.r+1:]))
	}
	if n < 0 {
		return 0, 0, corrupt("%s: a frame of %d bytes", w.remote(), uint64(n))
	}
	if flags&flagCommand != 0 {
		if n > int64(len(w.rbuf)-size) {
			return 0, 0, corrupt("%s: a command of %d bytes", w.remote(), n)
		}
		if err := w.fill(size + int(n)); err != nil {
			return 0, 0, err
		}
	} else {
		w.left = n
		w.within = flags&flagMore != 0
	}
	w.r += size
	return n, flags, nil
}

// command does what the command in the next n bytes of rbuf says.
func (w *wire) command(n int64) error {
	body := w.rbuf[w.r : w.r+int(n)]
	w.r += int(n)
	return w.obey(body)
}

func (w *wire) obey(body []byte) error {
	name, rest, ok := commandName(body)
	switch {
	case !ok:
		return corrupt("%s: a command without a name", w.remote())
	case string(name) == "PING":
		if len(rest) < 2 || len(rest) > 2+16 {
			return corrupt("%s: a PING of %d bytes", w.remote(), len(rest))
		}
		w.ponder(rest[2:]) // the time to live is for who closes silent connections, which TCP's keepalive does for us
	case string(name) == "ERROR":
		return fmt.Errorf("zmq: %s: %w: the peer says: %q", w.remote(), transport.ErrUnavailable, reason(rest))
	}
	return nil // PONG, and what a later version may bring
}

func commandName(body []byte) (name, rest []byte, ok bool) {
	if len(body) == 0 || int(body[0]) > len(body)-1 {
		return nil, nil, false
	}
	return body[1 : 1+body[0]], body[1+body[0]:], true
}

// reason is the text of an ERROR command.
func reason(rest []byte) []byte {
	if len(rest) == 0 || int(rest[0]) > len(rest)-1 {
		return nil
	}
	return rest[1 : 1+rest[0]]
}

// ponder answers a PING, at once or as soon as the message that is leaving has left. It does not wait for that: both peers could wait for each other.
func (w *wire) ponder(context []byte) {
	w.pong.Lock()
	w.answer = append(append(w.answer[:0], "\x04PONG"...), context...)
	w.due.Store(true)
	w.pong.Unlock()
	w.answerDue()
}

// answerDue sends the PONG that is due, unless somebody is sending, who calls this afterwards.
func (w *wire) answerDue() {
	for w.due.Load() && w.writing.TryLock() {
		w.pong.Lock()
		w.due.Store(false)
		var c [21]byte
		n := copy(c[:], w.answer)
		w.pong.Unlock()
		w.begin()
		w.writeCommand(c[:n])
		w.flush()
		w.writing.Unlock()
	}
}

// read implements link.
func (w *wire) read(dst []byte) (int, error) {
	if w.box.open != nil {
		return w.box.read(dst), nil
	}
	return w.readRaw(dst)
}

// readRaw reads from the frame as it is on the connection.
func (w *wire) readRaw(dst []byte) (int, error) {
	if int64(len(dst)) > w.left {
		return 0, corrupt("%s: %d bytes wanted of a frame that has %d", w.remote(), len(dst), w.left)
	}
	for n := 0; ; {
		if n == len(dst) {
			return n, nil
		}
		m, err := w.direct(dst[n:])
		n += m
		w.left -= int64(m)
		if err != nil {
			return n, err
		}
	}
}

// take implements link: there is never memory to give away, since reading is into the caller's.
func (w *wire) take() (*transport.Buffer, bool) { return nil, false }

// send implements link.
func (w *wire) send(first, meta []byte, body transport.Slices, cut int) error {
	w.writing.Lock()
	err := w.broken
	if err == nil {
		w.begin()
		err = w.compose(first, meta, body, cut)
		if e := w.flush(); err == nil {
			err = e
		}
	}
	w.writing.Unlock()
	w.answerDue()
	return err
}

func (w *wire) compose(first, meta []byte, body transport.Slices, cut int) error {
	total := body.Len()
	more := total > 0 || cut > 0 || cut == asParts && len(body) > 0
	if err := w.part(int64(len(first)+len(meta)), more, first, meta); err != nil {
		return err
	}
	switch {
	case cut == whole:
		if total == 0 {
			return nil
		}
		return w.part(total, false, body...)
	case cut == asParts:
		for i, p := range body {
			if err := w.part(int64(len(p)), i < len(body)-1, p); err != nil {
				return err
			}
		}
		return nil
	}
	for at := (cursor{body: body}); ; {
		n := min(total, int64(cut))
		total -= n
		if err := w.partHead(n, total > 0); err != nil {
			return err
		}
		for n > 0 {
			p := at.take(n)
			n -= int64(len(p))
			if err := w.piece(p); err != nil {
				return err
			}
		}
		if err := w.partEnd(); err != nil || total == 0 {
			return err
		}
	}
}

// cursor walks through Slices that others may be reading too.
type cursor struct {
	body transport.Slices
	off  int // within body[0]
}

// take returns the next bytes that are in one piece, at least one and at most n. There must be that many.
func (c *cursor) take(n int64) []byte {
	for c.off == len(c.body[0]) {
		c.body, c.off = c.body[1:], 0
	}
	p := c.body[0][c.off:]
	if int64(len(p)) > n {
		p = p[:n]
	}
	c.off += len(p)
	return p
}

// part sends one part that consists of pieces.
func (w *wire) part(n int64, more bool, pieces ...[]byte) error {
	if err := w.partHead(n, more); err != nil {
		return err
	}
	for _, p := range pieces {
		if err := w.piece(p); err != nil {
			return err
		}
	}
	return w.partEnd()
}

// begin starts composing. Who calls it and what follows, up to flush, holds writing.
func (w *wire) begin() { w.scratch, w.cuts, w.large = w.scratch[:0], w.cuts[:0], 0 }

func (w *wire) partHead(n int64, more bool) error {
	var flags byte
	if more {
		flags = flagMore
	}
	if w.seal.seal != nil {
		w.seal.begin(flags, n)
		return nil
	}
	w.frameHead(flags, n)
	return nil
}

func (w *wire) frameHead(flags byte, n int64) {
	if n <= 255 {
		w.scratch = append(w.scratch, flags, byte(n))
	} else {
		w.scratch = binary.BigEndian.AppendUint64(append(w.scratch, flags|flagLong), uint64(n))
	}
}

// piece sends some of a part. It borrows p until flush.
func (w *wire) piece(p []byte) error {
	switch {
	case w.seal.seal != nil:
		w.seal.add(p)
		return nil
	case len(p) <= gather:
		w.scratch = append(w.scratch, p...)
	default:
		w.cuts = append(w.cuts, cut{len(w.scratch), p})
		w.large += int64(len(p))
	}
	if len(w.cuts) < maxCuts && len(w.scratch) < maxScratch && (w.stall == 0 || w.large < stride) {
		return nil
	}
	return w.flush()
}

func (w *wire) partEnd() error {
	if w.seal.seal == nil {
		return nil
	}
	w.frameHead(0, w.seal.len())
	w.scratch = w.seal.end(w.scratch)
	if len(w.scratch) < maxScratch {
		return nil
	}
	return w.flush()
}

// writeCommand sends a command, once the handshake is done.
func (w *wire) writeCommand(body []byte) {
	if w.seal.seal == nil {
		w.frameHead(flagCommand, int64(len(body)))
		w.scratch = append(w.scratch, body...)
		return
	}
	w.seal.begin(boxedCommand, int64(len(body)))
	w.seal.add(body)
	w.partEnd()
}

// flush sends what is composed.
func (w *wire) flush() error {
	if w.broken != nil || len(w.scratch) == 0 && len(w.cuts) == 0 {
		return w.broken
	}
	var err error
	limit := w.stall * time.Duration(1+w.large/stride)
	if limit > 0 {
		w.nc.SetWriteDeadline(time.Now().Add(limit))
	}
	if len(w.cuts) == 0 {
		_, err = w.nc.Write(w.scratch)
	} else {
		vec, at := w.vec[:0], 0
		for _, c := range w.cuts {
			vec = append(vec, w.scratch[at:c.at], c.piece)
			at = c.at
		}
		if at < len(w.scratch) {
			vec = append(vec, w.scratch[at:])
		}
		w.vec, w.nb = vec, vec
		_, err = w.nb.WriteTo(w.nc) // eats nb
		clear(vec)
		clear(w.cuts)
	}
	w.begin()
	if err != nil {
		if limit > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("nothing came or went for %v", limit)
		}
		w.broken = fmt.Errorf("zmq: %s: %w: the connection broke: %w", w.remote(), transport.ErrUnavailable, err)
		w.nc.Close() // whatever follows would be taken for the rest of this message
	}
	return w.broken
}
