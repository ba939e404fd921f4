package native

import (
	"context"
	"errors"
	"fmt"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

var _ objects.Client = (*Client)(nil)

// ask does a request of one frame and waits for the answer. Under mu if err is nil: the caller takes the result from k and calls settle.
func (c *Client) ask(k *call, h Header, body transport.Slices) error {
	k.h = h
	k.h.Type, k.h.Flags = TypeRequest, k.h.Flags|FlagLast
	if err := c.write(k, k.meta, body); err != nil {
		return c.leave(k, err)
	}
	c.mu.Lock()
	return c.await(k)
}

// await waits for k to be finished. Under mu; if it returns an error that is undone and k is gone.
func (c *Client) await(k *call) error {
	c.wait(k)
	if k.finished && k.err == nil {
		return nil
	}
	err := k.err
	if !k.finished {
		err = k.ctx.Err()
		c.abandon(k)
	} else if k.got > 0 {
		err = fmt.Errorf("got %d of %d bytes: %w", k.got, k.total, err)
	}
	c.settle(k)
	return err
}

// leave gives k up before or while its request is sent. What was sent is cancelled.
func (c *Client) leave(k *call, err error) error {
	c.mu.Lock()
	c.abandon(k)
	c.settle(k)
	return err
}

// simple is a request without a body either way.
func (c *Client) simple(ctx context.Context, op Op, id string, plain bool) (objects.Info, error) {
	k, err := c.open(ctx, op, id, plain, false)
	if err != nil {
		return objects.Info{}, err
	}
	if err := c.ask(k, Header{Code: uint16(op)}, nil); err != nil {
		return objects.Info{}, err
	}
	info := objects.Info{Size: k.size, ModTime: unixTime(k.modTime)}
	c.settle(k)
	return info, nil
}

// Ping does one round trip.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.simple(ctx, OpPing, "", true)
	return err
}

// Exists reports whether the server has the object.
func (c *Client) Exists(ctx context.Context, id string) (bool, error) {
	info, err := c.simple(ctx, OpExists, id, true)
	return info.Size != 0, err
}

// Stat returns what the server knows of the object.
func (c *Client) Stat(ctx context.Context, id string) (objects.Info, error) {
	return c.simple(ctx, OpStat, id, true)
}

// Evict deletes the object. A missing one is not an error.
func (c *Client) Evict(ctx context.Context, id string) error {
	_, err := c.simple(ctx, OpEvict, id, true)
	return err
}

// Wait returns nil as soon as the object exists.
func (c *Client) Wait(ctx context.Context, id string) error {
	_, err := c.simple(ctx, OpWait, id, false)
	return err
}

// get does the request of Get and GetBytes. Under mu if err is nil.
func (c *Client) get(ctx context.Context, id string, off, n, size int64, to sink) (*call, error) {
	if off < 0 {
		return nil, fmt.Errorf("%w: from byte %d", transport.ErrInvalidRange, off)
	}
	k, err := c.open(ctx, OpGet, id, true, false)
	if err != nil {
		return nil, err
	}
	k.sink, k.off, k.n = to, off, n
	switch {
	case size >= 0:
		k.expect = size - off
	case n >= 0:
		k.expect = min(n, 1<<30)
	}
	h := Header{Code: uint16(OpGet), Off: uint64(off), Size: unknown}
	if n >= 0 {
		h.Size = uint64(n)
	}
	return k, c.ask(k, h, nil)
}

// Get returns n bytes from off, or all from off if n < 0. size is the length that the caller expects of the whole object, or -1. The caller owns the
// Buffer. A connection that breaks on the way gives an ErrUnavailable that says how far it came: the rest can be asked for elsewhere, by range.
func (c *Client) Get(ctx context.Context, id string, off, n, size int64) (*transport.Buffer, error) {
	k, err := c.get(ctx, id, off, n, size, sinkBuffer)
	if err != nil {
		return nil, err
	}
	b := k.buf
	k.buf = nil
	c.settle(k)
	if b == nil {
		b = transport.FromBytes(nil)
	}
	return b, nil
}

// GetBytes is Get of a whole object into memory that the garbage collector owns.
func (c *Client) GetBytes(ctx context.Context, id string, size int64) ([]byte, error) {
	k, err := c.get(ctx, id, 0, -1, size, sinkBytes)
	if err != nil {
		return nil, err
	}
	mem := k.mem
	k.mem = nil
	c.settle(k)
	if mem == nil {
		mem = []byte{}
	}
	return mem, nil
}

// Put stores the object, replacing an earlier one of that id. It borrows obj until it returns.
func (c *Client) Put(ctx context.Context, id string, obj transport.Slices, o objects.PutOptions) error {
	size := obj.Len()
	if c.files != nil && c.o.AdoptAbove > 0 && size >= c.o.AdoptAbove {
		if err := c.putFile(ctx, id, obj, size, o); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	whole := size <= c.single()
	k, err := c.open(ctx, OpPut, id, true, !whole)
	if err != nil {
		return err
	}
	k.appendPut(o)
	if whole {
		if err := c.ask(k, Header{Code: uint16(OpPut), Size: uint64(size)}, obj); err != nil {
			return err
		}
		c.settle(k)
		return nil
	}
	k.cut.src, k.cut.off = obj, 0
	for k.up < size {
		n := size - k.up
		if n > c.single() {
			n = int64(c.chunk)
		}
		if stop, err := c.upload(k, uint64(size), k.cut.next(n), n, k.up+n == size); stop || err != nil {
			return err
		}
	}
	return c.uploaded(k)
}

func (k *call) appendPut(o objects.PutOptions) {
	if o.TTL > 0 {
		k.meta = appendUint(k.meta, tagTTL, uint64(o.TTL))
	}
}

// upload sends the next n bytes of a PUT; k.up counts them. stop says that k is gone, with err: also if the server answered early.
func (c *Client) upload(k *call, size uint64, body transport.Slices, n int64, last bool) (stop bool, err error) {
	c.mu.Lock()
	switch {
	case k.finished:
		err := k.err
		if err == nil {
			err = fmt.Errorf("%w: the server answered before it had the object", transport.ErrCorrupt)
		}
		if c.err == nil {
			c.sendCancel(k.id) // the server drops what is still coming; this says that nothing is
		}
		c.settle(k)
		return true, err
	case k.cancelled:
		err := k.ctx.Err()
		c.abandon(k)
		c.settle(k)
		return true, err
	}
	c.mu.Unlock()
	var meta []byte
	k.h = Header{Type: TypeData, Off: uint64(k.up)}
	if k.up == 0 {
		k.h = Header{Type: TypeRequest, Code: uint16(OpPut), Size: size}
		meta = k.meta
	}
	if last {
		k.h.Flags = FlagLast
	}
	if err := c.write(k, meta, body); err != nil {
		return true, c.leave(k, err)
	}
	k.up += n
	return false, nil
}

// uploaded waits for the answer to a PUT in parts.
func (c *Client) uploaded(k *call) error {
	c.mu.Lock()
	if k.isLoose {
		k.isLoose = false
		c.loose--
	}
	if err := c.await(k); err != nil {
		return err
	}
	c.settle(k)
	return nil
}

// Map is Get of a whole object that copies nothing: a mapping of the server's own memory, on the same host. errors.ErrUnsupported otherwise.
func (c *Client) Map(ctx context.Context, id string) (*transport.Buffer, error) {
	if c.files == nil {
		return nil, fmt.Errorf("map: %w over this connection: it needs a unix socket and Linux on both sides", errors.ErrUnsupported)
	}
	k, err := c.open(ctx, OpMap, id, true, false)
	if err != nil {
		return nil, err
	}
	if err := c.ask(k, Header{Code: uint16(OpMap)}, nil); err != nil {
		return nil, err
	}
	f, size := k.file, k.size
	k.file = nil
	c.settle(k)
	if size == 0 {
		if f != nil {
			f.Close()
		}
		return transport.FromBytes(nil), nil
	}
	if f == nil {
		return nil, fmt.Errorf("map: %w: no descriptor came with the answer; this process may have too many open (ulimit -n)", errors.ErrUnsupported)
	}
	defer f.Close()
	return mapShared(f, size)
}

// putFile is Put by descriptor.
func (c *Client) putFile(ctx context.Context, id string, obj transport.Slices, size int64, o objects.PutOptions) error {
	f, err := sharedCopy(obj, size)
	if err != nil {
		return err
	}
	defer f.Close()
	k, err := c.open(ctx, OpAdopt, id, true, false)
	if err != nil {
		return err
	}
	k.appendPut(o)
	k.share = f
	if err := c.ask(k, Header{Code: uint16(OpAdopt), Size: uint64(size)}, nil); err != nil {
		return err
	}
	c.settle(k)
	return nil
}
