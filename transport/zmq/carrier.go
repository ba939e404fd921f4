package zmq

import (
	"fmt"
	"io"
	"sync"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

// carrier moves native frames over a link. A frame is a message of two parts: header and metadata, and the body; the second is absent if there is no
// body.
type carrier struct {
	l link

	// The first part of the next message has begun already: who told native peers from others had to look.
	begun bool
	size  int64
	more  bool

	stage int    // how far ReadFrame has come, for when it is interrupted
	head  []byte // the first part
	got   int    // of it
	h     native.Header

	writing sync.Mutex
	out     []byte
}

// Stages of ReadFrame.
const (
	atMessage = iota // the next message's first part has not begun
	atHead           // it has; its bytes are being read
	atBody           // the second part has not begun
)

var _ interface {
	native.Carrier
	native.BodyTaker
} = (*carrier)(nil)

// newCarrier returns a Carrier over l. If begun, the first part of the first message has begun, and has these properties.
func newCarrier(l link, begun bool, size int64, more bool) *carrier {
	return &carrier{l: l, begun: begun, size: size, more: more}
}

// ReadFrame implements native.Carrier.
func (c *carrier) ReadFrame(h *native.Header) ([]byte, error) {
	if c.stage == atMessage {
		if !c.begun {
			size, more, err := c.l.next()
			if err != nil {
				return nil, err
			}
			c.size, c.more = size, more
		}
		c.begun = false
		if c.size < native.HeaderSize || c.size > native.HeaderSize+native.MaxMeta {
			return nil, corrupt("%s: a frame's header and metadata of %d bytes", c.l.remote(), c.size)
		}
		if int64(cap(c.head)) < c.size {
			c.head = make([]byte, c.size)
		}
		c.head, c.got, c.stage = c.head[:c.size], 0, atHead
	}
	if c.stage == atHead {
		n, err := c.l.read(c.head[c.got:])
		c.got += n
		if err != nil {
			return nil, err
		}
		c.h.Decode(c.head)
		switch {
		case int64(c.h.Meta) != c.size-native.HeaderSize:
			return nil, corrupt("%s: a frame with %d bytes of metadata says %d", c.l.remote(), c.size-native.HeaderSize, c.h.Meta)
		case int64(c.h.Body) > int64(c.l.maxBody()):
			return nil, corrupt("%s: a frame with a body of %d bytes", c.l.remote(), c.h.Body)
		case c.more != (c.h.Body > 0):
			return nil, corrupt("%s: a frame's body is missing, or there is one that should not be", c.l.remote())
		}
		c.stage = atBody
	}
	if c.h.Body > 0 {
		n, more, err := c.l.next()
		if err == io.EOF {
			err = fmt.Errorf("zmq: %s: %w: the connection broke: %w", c.l.remote(), transport.ErrUnavailable, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return nil, err
		}
		if n != int64(c.h.Body) || more {
			return nil, corrupt("%s: a frame's body has %d bytes instead of %d", c.l.remote(), n, c.h.Body)
		}
	}
	c.stage = atMessage
	*h = c.h
	return c.head[native.HeaderSize:], nil
}

// ReadBody implements native.Carrier.
func (c *carrier) ReadBody(dst []byte) (int, error) { return c.l.read(dst) }

// TakeBody implements native.BodyTaker.
func (c *carrier) TakeBody() (*transport.Buffer, bool) { return c.l.take() }

// WriteFrame implements native.Carrier.
func (c *carrier) WriteFrame(h *native.Header, meta []byte, body transport.Slices) error {
	n := body.Len()
	if n > int64(c.l.maxBody()) || len(meta) > native.MaxMeta {
		return fmt.Errorf("zmq: %w: a frame of %d and %d bytes", transport.ErrTooLarge, len(meta), n)
	}
	h.Meta, h.Body = uint32(len(meta)), uint32(n)
	c.writing.Lock()
	defer c.writing.Unlock()
	c.out = h.Append(c.out[:0])
	return c.l.send(c.out, meta, body, whole)
}

// Interrupt implements native.Carrier.
func (c *carrier) Interrupt() { c.l.interrupt() }

// MaxBody implements native.Carrier.
func (c *carrier) MaxBody() int { return c.l.maxBody() }

// Trusted implements native.Carrier.
func (c *carrier) Trusted() bool { return c.l.trusted() }

// Close implements native.Carrier.
func (c *carrier) Close() error {
	c.l.close()
	return nil
}
