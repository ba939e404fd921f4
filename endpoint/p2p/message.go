package p2p

import (
	"errors"
	"io"
	"strings"

	"github.com/proxyplane/proxyplane/serialize/pickle"
	"github.com/proxyplane/proxyplane/transport"
)

const (
	messages   = "proxystore.endpoint.messages"
	exceptions = "proxystore.endpoint.exceptions"

	kindRequest  = "request"
	kindResponse = "response"

	opEvict  = "evict"
	opExists = "exists"
	opGet    = "get"
	opSet    = "set"
)

// overhead is more than a message has beside its object.
const overhead = 64 << 10

// limits of a message's structure. The object's bytes do not count where they alias the message. An honest message has 30 values.
var limits = pickle.Limits{MaxDepth: 32, MaxValues: 1 << 10, MaxBytes: 1 << 20}

// request is an EndpointRequest, which is a response too.
type request struct {
	kind, op, id, key string
	data              *transport.Buffer // nil for None; else a view that the request owns
	exists            any               // nil or a bool
	err               error             // the exception, nil for None
	tag06             bool              // written as ProxyStore 0.6 does, which reads nothing else
}

// release releases the data.
func (r *request) release() {
	r.data.Release()
	r.data = nil
}

// PeerError is an exception that the peer's endpoint answered with. It unwraps to transport.ErrTooLarge where that is what it says.
type PeerError struct {
	Class string // the Python class, with its module unless that is builtins
	Text  string // its arguments
}

// Error names the class and the text.
func (e *PeerError) Error() string {
	if e.Text == "" {
		return "the peer raised " + e.Class
	}
	return "the peer raised " + e.Class + ": " + e.Text
}

// Unwrap returns the sentinel, or nil.
func (e *PeerError) Unwrap() error {
	if e.Class == exceptions+".ObjectSizeExceededError" {
		return transport.ErrTooLarge
	}
	return nil
}

// decode reads a whole message, which it borrows; the request's data holds a reference of its own. Errors match transport.ErrCorrupt; then there is
// nothing to release.
func decode(msg *transport.Buffer) (*request, error) {
	r := &request{}
	body, err := r.untag(msg.Bytes())
	if err != nil {
		return nil, err
	}
	v, err := pickle.DecodeWith(body, limits)
	if err != nil {
		return nil, corrupt("%w", err)
	}
	data, err := r.fill(v)
	if err != nil {
		return nil, err
	}
	var raw []byte
	switch data := data.(type) {
	case nil:
		return r, nil
	case []byte:
		raw = data
	case pickle.ByteArray:
		raw = data
	default:
		return nil, corrupt("the data of an EndpointRequest is %T, not bytes", data)
	}
	if len(raw) > 0 {
		if view, ok := msg.View(raw); ok {
			r.data = view
			return r, nil
		}
	}
	r.data = transport.FromBytes(raw) // bytes of protocols before 3 are computed: they lie elsewhere, and are the collector's
	return r, nil
}

// decodeDropped reads what is left of a message whose middle was not kept: everything but the data.
func decodeDropped(d *dropped) (*request, error) {
	r := &request{}
	head, tail := d.head, d.tail
	if head == nil { // a single chunk
		head, tail = tail, nil
	}
	body, err := r.untag(head)
	if err != nil {
		return nil, err
	}
	gap := d.size - int64(len(head)) - int64(len(tail))
	dec := pickle.NewDecoder(io.MultiReader(strings.NewReader(string(body)), io.LimitReader(zeros{}, gap), strings.NewReader(string(tail))), limits)
	dec.OnLargeBytes(overhead/4, func(int64, io.Reader) (any, error) { return []byte{}, nil })
	v, err := dec.Decode()
	if err != nil {
		return nil, corrupt("a message that was not kept: %w", err)
	}
	_, err = r.fill(v)
	return r, err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// untag takes off what proxystore.serialize puts before the pickle.
func (r *request) untag(b []byte) ([]byte, error) {
	if len(b) < 3 || b[2] != '\n' {
		return nil, corrupt("the message has no tag of a pickled object")
	}
	switch tag := string(b[:2]); tag {
	case "PK", "CP":
	case "03", "04":
		r.tag06 = true
	default:
		return nil, corrupt("the message has the tag %.10q, not that of a pickled object", tag)
	}
	return b[3:], nil
}

// fill sets the request's fields but the data, which it returns.
func (r *request) fill(v any) (data any, err error) {
	obj, ok := v.(*pickle.Object)
	if !ok {
		return nil, corrupt("the message is %T, not an EndpointRequest", v)
	}
	if !obj.Is(messages, "EndpointRequest") {
		g, _ := obj.Class()
		return nil, corrupt("the message is a %.100q, not an EndpointRequest", g.String())
	}
	f, ok := obj.Fields()
	if !ok {
		return nil, corrupt("the EndpointRequest has no attributes")
	}
	for name, field := range map[string]*string{"kind": &r.kind, "op": &r.op, "uuid": &r.id, "key": &r.key} {
		v, _ := f.GetString(name)
		if *field, ok = v.(string); !ok {
			return nil, corrupt("%s of the EndpointRequest is %T, not a str", name, v)
		}
	}
	if r.exists, _ = f.GetString("exists"); r.exists != nil {
		if _, ok := r.exists.(bool); !ok {
			return nil, corrupt("exists of the EndpointRequest is %T, not a bool", r.exists)
		}
	}
	if e, _ := f.GetString("error"); e != nil {
		class, text := pickle.Exception(e)
		r.err = &PeerError{Class: class, Text: text}
	}
	data, _ = f.GetString("data")
	return data, nil
}

// exception returns what Python's endpoint would have raised for err, or something that its HTTP API reports with the text.
func exception(err error) *pickle.Object {
	class := pickle.Global{Module: exceptions, Name: "PeerRequestError"}
	if errors.Is(err, transport.ErrTooLarge) {
		class.Name = "ObjectSizeExceededError"
	}
	return &pickle.Object{Callable: class, Args: pickle.Tuple{strings.ToValidUTF8(err.Error(), "\uFFFD")}}
}

// encode returns the message. It borrows data for as long as the message lives.
func (r *request) encode(data []byte, has bool) (transport.Slices, error) {
	f := pickle.NewDict()
	f.Set("kind", r.kind)
	f.Set("op", r.op)
	f.Set("uuid", r.id)
	f.Set("key", r.key)
	if has {
		if data == nil {
			data = []byte{}
		}
		f.Set("data", data)
	} else {
		f.Set("data", nil)
	}
	f.Set("exists", r.exists)
	if r.err != nil {
		f.Set("error", exception(r.err))
	} else {
		f.Set("error", nil)
	}
	enc := pickle.Encoder{}
	parts, err := enc.Encode(&pickle.Object{
		Callable: pickle.Global{Module: messages, Name: "EndpointRequest"}, Args: pickle.Tuple{}, New: true, State: f, HasState: true,
	})
	if err != nil {
		return nil, err
	}
	tag := "PK\n"
	if r.tag06 {
		tag = "03\n"
	}
	return append(transport.Slices{[]byte(tag)}, parts...), nil
}
