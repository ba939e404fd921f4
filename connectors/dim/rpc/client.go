package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// ClientOptions say what the keys in a Client's requests hold beside the id: where the server is, as ProxyStore spells it.
type ClientOptions struct {
	Host string
	Port int
}

// Client reaches a server that speaks only Python's protocol: the one that a Python connector started. Such a server holds every object in memory and
// gives it only whole, so a range costs as much as the object; streams, Map, Stat and Wait are errors.ErrUnsupported.
type Client struct {
	x      objects.Exchanger
	key    connectors.DIMKey // of every request, but for the id and the size
	closed atomic.Bool
}

var _ objects.Client = (*Client)(nil)

// A sizer is an Exchanger that has memory for an answer at once if it knows how long that will be.
type sizer interface {
	ExchangeSize(ctx context.Context, req transport.Slices, size int64) (*transport.Buffer, error)
}

// answerHead is more than what an answer holds beside the object, but for keys of an unusual length.
const answerHead = 4 << 10

// NewClient returns a Client over x, which it takes: Close closes it. kind is the dim_type of the keys: "zmq", "ucx" or "margo".
func NewClient(x objects.Exchanger, kind string, o ClientOptions) *Client {
	return &Client{x: x, key: connectors.DIMKey{DIMType: kind, PeerHost: o.Host, PeerPort: int64(o.Port)}}
}

// call does one exchange and checks that the answer belongs to the request. The caller releases the Response.
func (c *Client) call(ctx context.Context, op, id string, size int64, obj transport.Slices) (Response, error) {
	if c.closed.Load() {
		return Response{}, transport.ErrClosed
	}
	key := c.key
	key.ObjID, key.Size = id, size
	if err := checkID(id, 1<<16); err != nil {
		return Response{}, err
	}
	req := EncodeRequest(op, key, obj)
	var msg *transport.Buffer
	var err error
	if x, ok := c.x.(sizer); ok && op == OpGet && size > 0 {
		msg, err = x.ExchangeSize(ctx, req, size+answerHead)
	} else {
		msg, err = c.x.Exchange(ctx, req)
	}
	if err != nil {
		return Response{}, err
	}
	defer msg.Release()
	r, err := DecodeResponse(msg)
	switch {
	case err != nil:
		return Response{}, fmt.Errorf("the server's answer to %s: %w", op, err)
	case r.Err != nil:
		return Response{}, fmt.Errorf("%s: %w", op, r.Err)
	case r.Op != op || r.Key != key:
		r.Release()
		return Response{}, corrupt("the server answered %.20q for %v to %s for %v", r.Op, r.Key, op, key)
	}
	return r, nil
}

// Put stores the object. It borrows obj until it returns. o.TTL is not known to such servers: one that is not zero is errors.ErrUnsupported.
func (c *Client) Put(ctx context.Context, id string, obj transport.Slices, o objects.PutOptions) error {
	if o.TTL != 0 {
		return fmt.Errorf("%w: a server of ProxyStore keeps objects until they are evicted; leave the TTL zero", errors.ErrUnsupported)
	}
	if obj == nil {
		obj = transport.Slices{}
	}
	r, err := c.call(ctx, OpPut, id, obj.Len(), obj)
	r.Release()
	return err
}

// Get returns a range of the object, which is fetched whole. The caller owns the Buffer, a view into the server's message.
func (c *Client) Get(ctx context.Context, id string, off, n, size int64) (*transport.Buffer, error) {
	r, err := c.call(ctx, OpGet, id, max(size, 0), nil)
	if err != nil {
		return nil, err
	}
	if r.Data == nil {
		return nil, fmt.Errorf("%w: %.100q", transport.ErrNotFound, id)
	}
	have := int64(r.Data.Len())
	if off < 0 || off > have {
		r.Release()
		return nil, fmt.Errorf("%w: offset %d of an object of %d bytes", transport.ErrInvalidRange, off, have)
	}
	if n < 0 || n > have-off {
		n = have - off
	}
	if n == have {
		return r.Data, nil
	}
	defer r.Release()
	return r.Data.Slice(int(off), int(n)), nil
}

// GetBytes returns the object as memory of the garbage collector.
func (c *Client) GetBytes(ctx context.Context, id string, size int64) ([]byte, error) {
	b, err := c.Get(ctx, id, 0, -1, size)
	if err != nil {
		return nil, err
	}
	return b.Detach(), nil
}

// Exists reports whether there is such an object.
func (c *Client) Exists(ctx context.Context, id string) (bool, error) {
	r, err := c.call(ctx, OpExists, id, 0, nil)
	r.Release()
	return r.Exists, err
}

// Evict deletes the object. A missing one is not an error.
func (c *Client) Evict(ctx context.Context, id string) error {
	r, err := c.call(ctx, OpEvict, id, 0, nil)
	r.Release()
	return err
}

// Ping does one round trip.
func (c *Client) Ping(ctx context.Context) error {
	if c.closed.Load() {
		return transport.ErrClosed
	}
	msg, err := c.x.Exchange(ctx, transport.Slices{[]byte("ping")})
	if err != nil {
		return err
	}
	defer msg.Release()
	if string(msg.Bytes()) != "pong" {
		return corrupt("the server answered %.20q to a ping", msg.Bytes())
	}
	return nil
}

// Close closes the Exchanger. Idempotent.
func (c *Client) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return c.x.Close()
}

// Map is not in the protocol.
func (c *Client) Map(context.Context, string) (*transport.Buffer, error) {
	return nil, errors.ErrUnsupported
}

// Stat is not in the protocol, and a get of the whole object is too dear for it.
func (c *Client) Stat(context.Context, string) (objects.Info, error) {
	return objects.Info{}, errors.ErrUnsupported
}

// Wait is not in the protocol.
func (c *Client) Wait(context.Context, string) error { return errors.ErrUnsupported }

// PutStream is not in the protocol.
func (c *Client) PutStream(context.Context, string, int64, objects.PutOptions) (objects.Writer, error) {
	return nil, errors.ErrUnsupported
}

// GetStream is not in the protocol.
func (c *Client) GetStream(context.Context, string, int64) (objects.Reader, error) {
	return nil, errors.ErrUnsupported
}
