package serialize

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"
	"unsafe"

	"github.com/proxyplane/proxyplane/serialize/pickle"
	"github.com/proxyplane/proxyplane/transport"
)

// Format is a generation of ProxyStore's tags. Reading understands them all; a Format says what to write.
type Format int

// The formats.
const (
	ProxyStore11 Format = iota // 1.1.0: two letters
	ProxyStore06               // 0.6.5: two digits; arrays are pickled
)

// Codec reads and writes the objects of one tag. Its functions may be called by many goroutines at once.
type Codec struct {
	// Tag is two ASCII letters or digits. Tags of ProxyStore are taken, except that PL and PD have no reader here unless one is registered.
	Tag string
	// Name says in errors what the codec is for.
	Name string
	// Encodes reports whether Encode takes v. If it is nil the codec only reads.
	Encodes func(v any) bool
	// Encode returns the body of v in parts, without the tag. It borrows v for as long as the parts live.
	Encode func(v any) (transport.Slices, error)
	// Decode reads a body, which it borrows until it returns: a result that stands on its memory holds a reference (Retain, Slice). want is
	// the type that the caller asked for, nil for the natural one; a result of another type becomes an ErrType, and is released if it has a
	// Release method.
	Decode func(body *transport.Buffer, want reflect.Type) (any, error)
}

// TypeCodec returns the Codec of one Go type. Ownership is as in the functions of Codec.
func TypeCodec[T any](tag, name string, encode func(T) (transport.Slices, error), decode func(*transport.Buffer) (T, error)) Codec {
	return Codec{
		Tag:     tag,
		Name:    name,
		Encodes: func(v any) bool { _, ok := v.(T); return ok },
		Encode:  func(v any) (transport.Slices, error) { return encode(v.(T)) },
		Decode:  func(body *transport.Buffer, _ reflect.Type) (any, error) { return decode(body) },
	}
}

// Codecs is a set of codecs: ProxyStore's, and those registered. All methods may be called by many goroutines at once.
type Codecs struct {
	mu    sync.Mutex // of Register
	added atomic.Pointer[[]*Codec]

	base  *Codecs // whose registered codecs these are; nil for itself
	owner any     // of what is decoded
}

// NewCodecs returns ProxyStore's codecs.
func NewCodecs() *Codecs { return &Codecs{} }

// For returns the same codecs, decoding on behalf of owner: values within an object that want to know (pickle.OwnedUnmarshaler) are told.
func (c *Codecs) For(owner any) *Codecs { return &Codecs{base: c.root(), owner: owner} }

func (c *Codecs) root() *Codecs {
	if c.base != nil {
		return c.base
	}
	return c
}

// Default is used by the functions Encode, Decode, Tag and PayloadOffset.
var Default = NewCodecs()

// Register adds a codec. Registered codecs are asked in order, before values are pickled; []byte, string, *Array and *Opaque never reach them.
// A tag that is taken is refused.
func (c *Codecs) Register(codec Codec) error {
	c = c.root()
	valid := len(codec.Tag) == 2
	for i := range len(codec.Tag) {
		b := codec.Tag[i]
		valid = valid && (b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z')
	}
	switch {
	case !valid:
		return fmt.Errorf("serialize: cannot register codec %q: tag %q is not two ASCII letters or digits", codec.Name, codec.Tag)
	case codec.Decode == nil || (codec.Encodes != nil && codec.Encode == nil):
		return fmt.Errorf("serialize: cannot register codec %q: it lacks Decode, or Encode while it has Encodes", codec.Name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, taken := builtin[codec.Tag]
	if codec.Tag == TagPolars || codec.Tag == TagPandas {
		taken = false
	}
	if other := c.byTag(codec.Tag); taken || other != nil {
		name := "ProxyStore"
		if other != nil {
			name = other.Name
		}
		return fmt.Errorf("serialize: cannot register codec %q: tag %s belongs to %s", codec.Name, codec.Tag, name)
	}
	list := append(slices.Clone(c.registered()), &codec)
	c.added.Store(&list)
	return nil
}

// registered returns the added codecs; the slice is never changed.
func (c *Codecs) registered() []*Codec {
	if p := c.root().added.Load(); p != nil {
		return *p
	}
	return nil
}

func (c *Codecs) byTag(tag string) *Codec {
	for _, codec := range c.registered() {
		if codec.Tag == tag {
			return codec
		}
	}
	return nil
}

// Encode is [Codecs.Encode] of [Default].
func Encode(v any) (transport.Slices, error) { return Default.Encode(v) }

// Encode returns v as an object of ProxyStore 1.1.0, tag and body in parts, and borrows v: large []byte, string, Array and Buffer memory is not
// copied and must not change for as long as the parts are used. The parts are read-only.
//
//	Go                                   object
//	[]byte, *transport.Buffer, Slices    bytes
//	string, json.RawMessage              str; a string that is not UTF-8 is ErrType, since Python could not read it
//	*Array                               numpy.ndarray
//	*Opaque                              what it was
//	types of registered codecs           theirs
//	anything else                        a pickle, see pickle.Encoder: maps are dicts, slices lists, structs dicts, ...
//
// So a []float64 becomes a Python list, number by number; wrap it by [NewArray] to store it as an ndarray, without a copy.
func (c *Codecs) Encode(v any) (transport.Slices, error) { return c.EncodeFormat(v, ProxyStore11) }

// EncodeFormat is Encode for readers of another generation. In ProxyStore06 arrays are pickled, registered codecs are not used, and an Opaque
// with a tag that has no counterpart (polars) is ErrType.
func (c *Codecs) EncodeFormat(v any, f Format) (transport.Slices, error) {
	if f != ProxyStore11 && f != ProxyStore06 {
		return nil, fmt.Errorf("serialize: format %d is unknown, expected ProxyStore11 or ProxyStore06", f)
	}
	bytesTag, stringTag, pickleTag := TagBytes, TagString, TagPickle
	if f == ProxyStore06 {
		bytesTag, stringTag, pickleTag = TagBytes06, TagString06, TagPickle06
	}
	switch v := v.(type) {
	case []byte:
		return transport.Slices{builtin[bytesTag].line, v}, nil
	case string:
		if !utf8.ValidString(v) {
			return nil, fmt.Errorf("serialize: %w: the string is not UTF-8, which Python's str must be; store it as []byte", ErrType)
		}
		return transport.Slices{builtin[stringTag].line, unsafe.Slice(unsafe.StringData(v), len(v))}, nil
	case *transport.Buffer:
		if v != nil {
			return transport.Slices{builtin[bytesTag].line, v.Bytes()}, nil
		}
	case transport.Slices:
		return tagged(builtin[bytesTag].line, v), nil
	case json.RawMessage:
		if !json.Valid(v) {
			return nil, fmt.Errorf("serialize: %w: the json.RawMessage is not JSON", ErrType)
		}
		return transport.Slices{builtin[stringTag].line, v}, nil
	case *Array:
		if v != nil && f == ProxyStore11 {
			return v.encode()
		}
	case *Opaque:
		if v != nil {
			return c.encodeOpaque(v, f)
		}
	}
	if f == ProxyStore11 {
		for _, codec := range c.registered() {
			if codec.Encodes == nil || !codec.Encodes(v) {
				continue
			}
			body, err := codec.Encode(v)
			if err != nil {
				return nil, fmt.Errorf("serialize: encode %T by codec %s: %w", v, codec.Name, err)
			}
			return tagged([]byte(codec.Tag+"\n"), body), nil
		}
	}
	return encodePickle(pickleTag, v)
}

// tagged puts the tag before a body.
func tagged(line []byte, body [][]byte) transport.Slices {
	return append(append(make(transport.Slices, 0, 1+len(body)), line), body...)
}

func encodePickle(tag string, v any) (transport.Slices, error) {
	body, err := new(pickle.Encoder).Encode(v)
	if err != nil {
		return nil, wrapPickle(fmt.Sprintf("encode %T", v), err)
	}
	return tagged(builtin[tag].line, body), nil
}

func (c *Codecs) encodeOpaque(o *Opaque, f Format) (transport.Slices, error) {
	tag := o.tag
	if f == ProxyStore06 {
		switch tag {
		case TagBytes:
			tag = TagBytes06
		case TagString:
			tag = TagString06
		case TagPickle, TagPandas: // to_pickle writes a plain pickle
			tag = TagPickle06
		case TagCloudPickle:
			tag = TagCloudPickle06
		case TagBytes06, TagString06, TagPickle06, TagCloudPickle06:
		default:
			return nil, fmt.Errorf("serialize: %w: ProxyStore 0.6.5 cannot read a %s object", ErrType, tag)
		}
	}
	return transport.Slices{[]byte(tag + "\n"), o.body.Bytes()}, nil
}

// encode returns the array as numpy.save writes it: one part with tag and header, and the elements borrowed.
func (a *Array) encode() (transport.Slices, error) {
	if err := a.valid(); err != nil {
		return nil, err
	}
	if !a.DType.sequential() {
		return nil, fmt.Errorf("serialize: %w: fields of dtype %v overlap or are out of order, which .npy cannot say", ErrType, a.DType)
	}
	head := append(make([]byte, 0, 192), builtin[TagNumPy].line...)
	head = appendNpy(head, a.DType, a.Shape, a.columnMajor())
	if !a.DType.HasObject() {
		return transport.Slices{head, a.Bytes()}, nil
	}
	// Elements that are Python objects follow as a pickle of the whole array, of the protocol that write_array uses.
	body, err := (&pickle.Encoder{Protocol: 4}).Encode(a)
	if err != nil {
		return nil, wrapPickle("encode "+a.String(), err)
	}
	return tagged(head, body), nil
}
