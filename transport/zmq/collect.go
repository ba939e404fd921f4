package zmq

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/transport"
)

const (
	// promised is how much memory a message gets because its first parts say so, or messages before it were as long; more comes as its bytes do.
	promised = 1 << 20
	// foresight is how many times what has come may be had at once, if the last message was as long. Then the bytes before are copied once,
	// and are few. Memory that was not written to costs next to nothing.
	foresight = 128
	// stride is the most that is read without a word that there is progress.
	stride = 4 << 20
	// slack is more than what a message holds beside its object. Lengths of objects are often powers of two: the last doubling would be for little.
	slack = 4 << 10
	// tiny messages are cheaper from the garbage collector.
	tiny = 1 << 10
)

// collector reads the parts of one message into one run of memory, each straight to where it stays. How long the message is nobody says before its
// end; so memory at least doubles when it is full, and is right at once where messages are as long as the ones before.
type collector struct {
	max  int64           // longest message
	pool *transport.Pool // whence memory comes
	last *atomic.Int64   // the length of the last message of several parts

	progress func() // called now and then while bytes come; may be nil

	expect int64 // how long the message will be, if somebody said
	buf    *transport.Buffer
	n      int   // bytes of the message in buf
	left   int64 // bytes of the current part that are to come
	more   bool  // parts follow
	parts  int
}

// begin starts a message whose first part has begun.
func (c *collector) begin(n int64, more bool, expect int64) {
	c.expect, c.n, c.left, c.more, c.parts = expect, 0, n, more, 1
}

// run reads to the end of the message. After native.ErrInterrupted it may be called again, to go on.
func (c *collector) run(l link) error {
	for {
		if c.left > c.max-int64(c.n) { // their sum may be beyond int64
			return fmt.Errorf("zmq: %s: %w: a message of more than %d bytes (MaxMessage)", l.remote(), transport.ErrTooLarge, c.max)
		}
		if c.buf == nil && !c.more && c.left > 0 {
			if b, ok := l.take(); ok {
				c.buf, c.n, c.left = b, b.Len(), 0
				return nil
			}
		}
		for c.left > 0 {
			if c.buf == nil || c.n == c.buf.Len() {
				c.grow()
			}
			mem := c.buf.Bytes()[c.n:]
			mem = mem[:min(int64(len(mem)), c.left, stride)]
			if c.progress != nil {
				c.progress()
			}
			n, err := l.read(mem)
			c.n += n
			c.left -= int64(n)
			if err != nil {
				return err
			}
		}
		if !c.more {
			return nil
		}
		n, more, err := l.next()
		if err != nil {
			if err == io.EOF {
				err = fmt.Errorf("zmq: %s: %w: the connection broke: %w", l.remote(), transport.ErrUnavailable, io.ErrUnexpectedEOF)
			}
			return err
		}
		c.left, c.more = n, more
		c.parts++
	}
}

// grow makes room for more.
func (c *collector) grow() {
	var size int64
	if c.buf == nil {
		switch {
		case !c.more && c.left <= tiny:
			c.buf = transport.FromBytes(make([]byte, c.left))
			return
		case c.more:
			size = max(4*min(c.left, promised)+slack, c.foreseen())
		default:
			size = c.left
		}
		size = max(min(size, promised), c.expect)
	} else {
		n := int64(c.n)
		known := n + c.left
		if c.more {
			known = max(known, c.foreseen())
		}
		size = max(2*n, min(known, foresight*n))
	}
	buf := c.pool.Get(int(min(size, max(c.max, 1))))
	if c.buf != nil {
		copy(buf.Bytes(), c.buf.Bytes()[:c.n])
		c.buf.Release()
	}
	c.buf = buf
}

// foreseen is how long the message is if it is like the last one. Their keys may differ by some bytes.
func (c *collector) foreseen() int64 { return c.last.Load() + slack }

// message returns what run has read; the caller owns it.
func (c *collector) message() *transport.Buffer {
	b := c.buf
	c.buf = nil
	if c.parts > 1 {
		c.last.Store(int64(c.n))
	}
	switch {
	case b == nil:
		return transport.FromBytes(nil)
	case c.n == b.Len():
		return b
	case c.n < b.Len()/2: // whoever keeps it, in a store perhaps, must not keep much more
		small := c.pool.Get(c.n)
		copy(small.Bytes(), b.Bytes())
		b.Release()
		return small
	}
	v := b.Slice(0, c.n)
	b.Release()
	return v
}

// drop forgets what was read.
func (c *collector) drop() {
	c.buf.Release()
	c.buf = nil
}
