package peer

import (
	"fmt"
	"io"
	"sync"

	"github.com/proxyplane/proxyplane/endpoint/link"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// reader is a Reader whose end is seen.
type reader struct {
	link.Reader
	once sync.Once
	done func()
}

func (r *reader) Close() error {
	err := r.Reader.Close()
	r.once.Do(r.done)
	return err
}

// wholeReader reads a range of an object that is in memory.
type wholeReader struct {
	*transport.BufferReader
	info objects.Info
}

func (r wholeReader) Size() int64        { return r.info.Size }
func (r wholeReader) Info() objects.Info { return r.info }

// cut returns a Reader of a range of b, which it takes.
func cut(b *transport.Buffer, off, n int64) (link.Reader, error) {
	size := int64(b.Len())
	if off < 0 || off > size {
		b.Release()
		return nil, fmt.Errorf("peer: %w: %d of an object of %d bytes", transport.ErrInvalidRange, off, size)
	}
	if n < 0 || n > size-off {
		n = size - off
	}
	part := b
	if n < size {
		part = b.Slice(int(off), int(n))
		b.Release()
	}
	return wholeReader{transport.NewReader(part), objects.Info{Size: size}}, nil
}

// onceReader knows whether something was read of it, after which what is left is no whole object any more.
type onceReader struct {
	io.Reader
	read bool
}

func (r *onceReader) Read(b []byte) (int, error) {
	r.read = true
	return r.Reader.Read(b)
}

// errHalf is for a body that cannot be sent from its beginning again.
var errHalf = fmt.Errorf("peer: %w: the connection was replaced while the object was on its way: put it again", transport.ErrUnavailable)

// collect reads an object whole, for peers that can be sent nothing else. The caller owns the Buffer.
func (m *Manager) collect(size int64, body io.Reader) (*transport.Buffer, error) {
	tooLarge := func(n int64) error {
		return fmt.Errorf("peer: %w: an object of %d bytes or more for a Python endpoint, whose objects are held in memory: at most %d (raise storage.max_object_size)",
			transport.ErrTooLarge, n, m.o.MaxObject)
	}
	if size > m.o.MaxObject {
		return nil, tooLarge(size)
	}
	if size >= 0 {
		b := m.o.Pool.Get(int(size))
		if _, err := io.ReadFull(body, b.Bytes()); err != nil {
			b.Release()
			return nil, fmt.Errorf("peer: the body ended before its %d bytes: %w", size, err)
		}
		return b, nil
	}
	// Of unknown length: it moves into twice the memory whenever it outgrows it.
	b, n := m.o.Pool.Get(64<<10), 0
	for {
		if n == b.Len() {
			if int64(n) > m.o.MaxObject {
				b.Release()
				return nil, tooLarge(int64(n))
			}
			more := m.o.Pool.Get(2 * n)
			copy(more.Bytes(), b.Bytes())
			b.Release()
			b = more
		}
		k, err := body.Read(b.Bytes()[n:])
		n += k
		if err == io.EOF {
			break
		}
		if err != nil {
			b.Release()
			return nil, err
		}
	}
	if int64(n) > m.o.MaxObject {
		b.Release()
		return nil, tooLarge(int64(n))
	}
	part := b.Slice(0, n)
	b.Release()
	return part, nil
}
