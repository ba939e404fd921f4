package webrtc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/pion/datachannel"
	"github.com/proxyplane/proxyplane/transport"
)

// streamMessage is the longest message of a Stream. Longer ones would save little, and would keep other channels waiting.
const streamMessage = 60 << 10

// A Channel carries messages, of which none is lost. One goroutine may read while others write; messages of concurrent writes do not mix.
type Channel struct {
	c       *Channels
	dc      *datachannel.DataChannel
	ordered bool

	reading sync.Mutex // one reader at a time

	mu      sync.Mutex
	low     chan struct{} // closed when there is room again, and then replaced
	closed  bool
	readErr error         // the first that ended reading for good
	ended   chan struct{} // closed by Close

	deadline deadline // of writes
}

func newChannel(c *Channels, dc *datachannel.DataChannel) *Channel {
	ch := &Channel{c: c, dc: dc, ordered: dc.ChannelType == datachannel.ChannelTypeReliable, low: make(chan struct{}), ended: make(chan struct{})}
	dc.SetBufferedAmountLowThreshold(uint64(c.a.c.Tuning.SendBuffer) / 2)
	dc.OnBufferedAmountLow(ch.wake)
	return ch
}

// wake lets all writers look again.
func (ch *Channel) wake() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	close(ch.low)
	ch.low = make(chan struct{})
}

// Label returns the name that the channel was opened with.
func (ch *Channel) Label() string { return ch.dc.Label }

// Ordered reports whether messages arrive in the order in which they were written.
func (ch *Channel) Ordered() bool { return ch.ordered }

// Buffered returns how many bytes were written that the peer has not acknowledged.
func (ch *Channel) Buffered() int { return int(ch.dc.BufferedAmount()) }

// Write sends a message, which it borrows. It waits while more than Tuning.SendBuffer bytes were not acknowledged, and does not wait for the
// acknowledgement. An error matches transport.ErrTooLarge if the peer takes no such long messages, transport.ErrClosed after Close, and
// transport.ErrUnavailable if the peer is gone or closed the channel.
func (ch *Channel) Write(msg []byte) (int, error) {
	if err := ch.send(msg); err != nil {
		return 0, err
	}
	return len(msg), nil
}

// WriteSlices sends one message that is made of parts, which it borrows. A message of one part is copied once, by SCTP, which keeps it until it is
// acknowledged; several parts are put together before.
func (ch *Channel) WriteSlices(parts ...[]byte) error {
	if len(parts) == 1 {
		return ch.send(parts[0])
	}
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > ch.c.max {
		return ch.tooLarge(size)
	}
	buf := ch.c.scratch.Get().(*[]byte)
	b := (*buf)[:0]
	for _, p := range parts {
		b = append(b, p...)
	}
	err := ch.send(b)
	if *buf = b; cap(b) <= ourMaxMessage {
		ch.c.scratch.Put(buf)
	}
	return err
}

func (ch *Channel) tooLarge(size int) error {
	return fmt.Errorf("%w: a message of %d bytes on data channel %q; the peer takes %d: send several", transport.ErrTooLarge, size, ch.Label(), ch.c.max)
}

func (ch *Channel) send(msg []byte) error {
	if len(msg) > ch.c.max {
		return ch.tooLarge(len(msg))
	}
	for {
		ch.mu.Lock()
		low, closed := ch.low, ch.closed // taken before the look at the amount, so that no wake is missed
		ch.mu.Unlock()
		if closed {
			return ch.errClosed()
		}
		expired := ch.deadline.wait()
		select {
		case <-ch.c.done:
			return ch.c.err
		case <-expired:
			return os.ErrDeadlineExceeded
		default:
		}
		if ch.dc.BufferedAmount() <= uint64(ch.c.a.c.Tuning.SendBuffer) {
			break
		}
		select {
		case <-low:
		case <-ch.c.done:
		case <-ch.ended:
		case <-expired:
			return os.ErrDeadlineExceeded
		}
	}
	if _, err := ch.dc.Write(msg); err != nil {
		return ch.failed("writing to", err)
	}
	return nil
}

func (ch *Channel) errClosed() error {
	return fmt.Errorf("%w: data channel %q", errChannelClosed, ch.Label())
}

// errChannelClosed is net.ErrClosed, too, for users of Stream.
var errChannelClosed = fmt.Errorf("%w: %w", transport.ErrClosed, net.ErrClosed)

// failed explains an error of pion's that ended the channel.
func (ch *Channel) failed(doing string, err error) error {
	ch.mu.Lock()
	closed := ch.closed
	ch.mu.Unlock()
	if closed {
		return ch.errClosed()
	}
	select {
	case <-ch.c.done:
		return ch.c.err
	default:
	}
	return fmt.Errorf("%w: %s data channel %q: %s", transport.ErrUnavailable, doing, ch.Label(), errorText(err))
}

// Read waits for the next message and puts it into p. If p is too short the error matches transport.ErrTooLarge and io.ErrShortBuffer, and the message
// waits for a longer one. The error is io.EOF if the peer closed the channel, matches transport.ErrClosed after Close, and transport.ErrUnavailable if
// the peer is gone.
func (ch *Channel) Read(p []byte) (int, error) {
	ch.reading.Lock()
	defer ch.reading.Unlock()
	return ch.read(p)
}

func (ch *Channel) read(p []byte) (int, error) {
	ch.mu.Lock()
	err := ch.readErr
	if ch.closed {
		err = ch.errClosed()
	}
	ch.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := ch.dc.Read(p)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.ErrShortBuffer):
		return 0, fmt.Errorf("%w: %w: a message on data channel %q is longer than %d bytes", transport.ErrTooLarge, io.ErrShortBuffer, ch.Label(), len(p))
	case errors.Is(err, os.ErrDeadlineExceeded):
		ch.mu.Lock()
		defer ch.mu.Unlock()
		if ch.closed {
			return 0, ch.errClosed()
		}
		return 0, os.ErrDeadlineExceeded
	case err == io.EOF: // the peer closed this channel, and pion our direction of it
	default:
		select { // the association has ended, or is about to
		case <-ch.c.done:
		case <-ch.ended:
		}
		err = ch.failed("reading from", err)
	}
	ch.mu.Lock()
	if ch.readErr == nil {
		ch.readErr = err
	}
	ch.mu.Unlock()
	ch.c.forget(ch)
	return 0, err
}

// Close closes the channel for both sides. What was written before arrives; what the peer sent and nobody has read is dropped.
func (ch *Channel) Close() error {
	ch.mu.Lock()
	if ch.closed {
		ch.mu.Unlock()
		return nil
	}
	ch.closed = true
	over := ch.readErr != nil
	ch.mu.Unlock()
	close(ch.ended)
	ch.dc.Close() // its error says that the association has ended
	ch.dc.SetReadDeadline(past)
	if over {
		return nil
	}
	// What still comes must be read, or else it would take its part of the receive buffer for ever, until the peer has closed its direction, too.
	ch.c.drain(ch)
	return nil
}

var past = time.Unix(1, 0)

// drain reads what nobody wants any more.
func (c *Channels) drain(ch *Channel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.done:
		return
	default:
	}
	// acceptStreams, which closes done under c.mu, has not ended. As it is one of wg's, Close cannot be through with waiting.
	c.wg.Go(func() {
		ch.reading.Lock() // the reader leaves, because of the deadline
		defer ch.reading.Unlock()
		ch.dc.SetReadDeadline(time.Time{})
		b := make([]byte, 4<<10)
		for {
			_, err := ch.dc.Read(b)
			if errors.Is(err, io.ErrShortBuffer) && len(b) < c.a.c.Tuning.ReceiveBuffer {
				b = make([]byte, 4*len(b))
				continue
			}
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				c.forget(ch)
				return
			}
		}
	})
}

// Stream makes a stream of bytes of an ordered channel, which it takes: nobody else may use it any more. Deadlines work as on every net.Conn; one that
// passed during a Read loses nothing. Close lets what was written arrive.
func (ch *Channel) Stream() net.Conn { return &stream{ch: ch, chunk: min(streamMessage, ch.c.max)} }

type stream struct {
	ch    *Channel
	chunk int

	writing sync.Mutex // so that concurrent writes do not mix

	rest []byte // read, but not given out; guarded by ch.reading
	buf  []byte
}

func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.ch.reading.Lock()
	defer s.ch.reading.Unlock()
	for len(s.rest) == 0 {
		if len(p) >= streamMessage {
			n, err := s.ch.read(p)
			if n > 0 || err != nil && !errors.Is(err, io.ErrShortBuffer) {
				return n, err
			}
			if err == nil {
				continue // an empty message
			}
		}
		if s.buf == nil {
			s.buf = make([]byte, streamMessage)
		}
		n, err := s.ch.read(s.buf)
		if errors.Is(err, io.ErrShortBuffer) && len(s.buf) < ourMaxMessage {
			s.buf = make([]byte, ourMaxMessage) // the peer is none of ours
			continue
		}
		if err != nil {
			return 0, err
		}
		s.rest = s.buf[:n]
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	done := 0
	for done < len(p) {
		n := min(len(p)-done, s.chunk)
		if err := s.ch.send(p[done : done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (s *stream) Close() error         { return s.ch.Close() }
func (s *stream) LocalAddr() net.Addr  { return (&port{a: s.ch.c.a}).LocalAddr() }
func (s *stream) RemoteAddr() net.Addr { return s.ch.c.a.peer() }

func (s *stream) SetDeadline(t time.Time) error {
	s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

func (s *stream) SetReadDeadline(t time.Time) error {
	s.ch.mu.Lock()
	defer s.ch.mu.Unlock()
	if s.ch.closed {
		return s.ch.errClosed()
	}
	return s.ch.dc.SetReadDeadline(t)
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	s.ch.mu.Lock()
	defer s.ch.mu.Unlock()
	if s.ch.closed {
		return s.ch.errClosed()
	}
	s.ch.deadline.set(t)
	return nil
}

// deadline is a time that may be waited for and changed meanwhile. The zero value is never reached.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{} // closed when it passes; nil: there is none
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	// Who waits now waits for the old channel: if that has not been closed, it stays in use.
	old := d.passed
	if old != nil {
		select {
		case <-old:
			old = nil
		default:
		}
	}
	if old == nil {
		old = make(chan struct{})
	}
	d.passed = old
	if t.IsZero() {
		return
	}
	var timer *time.Timer
	fire := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == timer {
			close(old)
			d.timer = nil
		}
	}
	if wait := time.Until(t); wait <= 0 {
		close(old)
	} else {
		timer = time.AfterFunc(wait, fire)
		d.timer = timer
	}
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}
