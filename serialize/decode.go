package serialize

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"unicode/utf8"
	"unsafe"

	"github.com/proxyplane/proxyplane/serialize/pickle"
	"github.com/proxyplane/proxyplane/transport"
)

// Decode is [Codecs.Decode] of [Default].
func Decode(buf *transport.Buffer) (any, error) { return Default.Decode(buf) }

// Decode returns an object in its natural Go form, which the package comment lists. It borrows buf: the caller still has to Release it, and may
// do so at once. An *Array or *Opaque holds a reference of its own and wants a Release; everything else is the garbage collector's.
//
// Errors unwrap to ErrUnknownTag, ErrCorrupt or ErrTooLarge.
func (c *Codecs) Decode(buf *transport.Buffer) (any, error) {
	tag, off, err := c.PayloadOffset(buf.Bytes())
	if err != nil {
		return nil, err
	}
	body := buf.Slice(off, buf.Len()-off)
	defer body.Release()
	if codec := c.byTag(tag); codec != nil {
		v, err := codec.Decode(body, nil)
		if err != nil {
			return nil, codecError(codec, err)
		}
		return v, nil
	}
	switch tag {
	case TagBytes, TagBytes06:
		return body.Retain().Detach(), nil
	case TagString, TagString06:
		return textOf(tag, body)
	case TagNumPy:
		return decodeNpy(body)
	case TagPandas, TagPolars:
		return NewOpaque(tag, body.Retain()), nil
	}
	p, err := openPickle(tag, body)
	if err != nil {
		return nil, err
	}
	if p.array != nil {
		return p.array, nil
	}
	v, err := pickle.ToGoWith(p.value, pickle.Limits{}.ForInput(body.Len()))
	switch o, isObject := v.(*pickle.Object); {
	case errors.Is(err, pickle.ErrCycle): // no Go value contains itself; the structure can still be looked at
		return NewOpaque(tag, body.Retain()), nil
	case err != nil:
		return nil, wrapPickle(tag+" object", err)
	case isObject:
		opaque := NewOpaque(tag, body.Retain())
		opaque.class = className(o)
		return opaque, nil
	}
	return v, nil
}

func codecError(codec *Codec, err error) error {
	return fmt.Errorf("serialize: decode %s object by codec %s: %w", codec.Tag, codec.Name, err)
}

// textOf returns the text of a str object, without a copy of what the garbage collector owns: bytes in Buffers are never written again.
func textOf(tag string, body *transport.Buffer) (string, error) {
	if !utf8.Valid(body.Bytes()) {
		return "", fmt.Errorf("serialize: %w: %s object is not UTF-8", ErrCorrupt, tag)
	}
	return stringOf(body), nil
}

func stringOf(body *transport.Buffer) string {
	b := body.Retain().Detach()
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// decodeNpy returns the array of an .npy body; it holds a reference. Where the body is a pickle of something else it is an *Opaque.
func decodeNpy(body *transport.Buffer) (any, error) {
	raw := body.Bytes()
	h, err := parseNpy(raw)
	if err != nil {
		return nil, fmt.Errorf("serialize: %s object: %w", TagNumPy, err)
	}
	if h.dtype.HasObject() {
		rest := body.Slice(h.size, len(raw)-h.size)
		defer rest.Release()
		p, err := openPickle(TagNumPy, rest)
		switch {
		case err != nil:
			return nil, err
		case p.array != nil:
			return p.array, nil
		}
		return NewOpaque(TagNumPy, body.Retain()), nil
	}
	n, err := checkShape(h.dtype, h.shape)
	if err != nil {
		return nil, err
	}
	if have := len(raw) - h.size; have != n {
		return nil, fmt.Errorf("serialize: %w: %s object: shape %v of dtype %v takes %d bytes, %d are there", ErrCorrupt, TagNumPy,
			h.shape, h.dtype, n, have)
	}
	return &Array{DType: h.dtype, Shape: h.shape, Fortran: h.fortran, buf: body.Slice(h.size, n)}, nil
}

// opened is a decoded pickle. Nothing in it aliases memory that may go away, except that array holds a reference.
type opened struct {
	value  any
	array  *Array // if the pickle is an ndarray; value is then not set
	arrays bool   // there are arrays in value
}

// openPickle decodes a body, which it borrows.
func openPickle(tag string, body *transport.Buffer) (opened, error) {
	raw, lent := body.Bytes(), true
	if body.Backing() == transport.GC {
		raw, lent = body.Retain().Detach(), false // what the garbage collector owns may be aliased
	}
	v, err := pickle.Decode(raw)
	if err != nil {
		return opened{}, wrapPickle(tag+" object", err)
	}
	n := newNumpyDecoder(lent)
	n.copyRoom = len(raw) // what arrays that share no bytes need at most
	if o, ok := v.(*pickle.Object); ok {
		if a, ok := n.array(o); ok {
			if lent {
				if view, ok := body.View(a.data); ok {
					a.buf, a.data = view, nil
				}
			}
			return opened{array: a}, nil
		}
	}
	return opened{value: n.value(v), arrays: n.arrays}, nil
}

// DecodeAs returns an object as a T. It borrows buf, as [Codecs.Decode] does.
//
//	T                         from
//	any                       everything: the natural form, as Decode
//	*Opaque                   everything, undecoded; Release it
//	*transport.Buffer         bytes and str: a view of the payload without a copy; Release it
//	[]byte, string            bytes and str, also when pickled (string: str only); no copy of GC memory, else one
//	json.RawMessage           bytes and str that hold JSON
//	*Array                    ndarrays, also when pickled, without a copy; Release it
//	[]float64, [][]int32, ... ndarrays of exactly that element type and as many dimensions, in new memory, C order and native byte order;
//	                          datetime64 and timedelta64 are int64; [][]string from dtypes U and S; float64 and so on without dimensions
//	[]struct                  ndarrays of structured type, by name
//	types of a codec          objects with its tag
//	any other type            pickles, by pickle.Convert; arrays inside go into *Array and any, or else into slices as numbers
//
// A T that the object does not fit is an error that names both and unwraps to ErrType; other errors are those of Decode.
func DecodeAs[T any](c *Codecs, buf *transport.Buffer) (T, error) {
	var v T
	if err := c.decodeInto(buf, &v); err != nil {
		var none T
		return none, err
	}
	return v, nil
}

// decodeInto is DecodeAs of the type that into points to. On error *into may be partly set, and holds nothing to release.
func (c *Codecs) decodeInto(buf *transport.Buffer, into any) error {
	if p, ok := into.(*any); ok {
		v, err := c.Decode(buf)
		*p = v
		return err
	}
	tag, off, err := c.PayloadOffset(buf.Bytes())
	if err != nil {
		return err
	}
	body := buf.Slice(off, buf.Len()-off)
	defer body.Release()
	if p, ok := into.(**Opaque); ok {
		*p = NewOpaque(tag, body.Retain())
		return nil
	}
	if codec := c.byTag(tag); codec != nil {
		return codec.into(body, into)
	}
	switch tag {
	case TagBytes, TagBytes06, TagString, TagString06:
		return bytesInto(tag, body, into)
	case TagNumPy:
		v, err := decodeNpy(body)
		if err != nil {
			return err
		}
		a, ok := v.(*Array)
		if !ok {
			v.(*Opaque).Release()
			return mismatch(tag, "a pickled array of a custom dtype", into)
		}
		return arrayInto(tag, a, into)
	case TagPandas:
		return mismatch(tag, "a pandas.DataFrame", into)
	case TagPolars:
		return mismatch(tag, "a polars.DataFrame, which only a registered codec reads (package arrowipc)", into)
	}
	return pickleInto(tag, body, into, c.owner)
}

// mismatch is the error of an object, described by what, that is no *into.
func mismatch(tag, what string, into any) error {
	return fmt.Errorf("serialize: %w: %s object is %s, not a Go %v", ErrType, tag, what, reflect.TypeOf(into).Elem())
}

func (codec *Codec) into(body *transport.Buffer, into any) error {
	dst := reflect.ValueOf(into).Elem()
	v, err := codec.Decode(body, dst.Type())
	if err != nil {
		return codecError(codec, err)
	}
	if v == nil {
		dst.SetZero()
		return nil
	}
	if !reflect.TypeOf(v).AssignableTo(dst.Type()) {
		if r, ok := v.(interface{ Release() }); ok {
			r.Release()
		}
		return mismatch(codec.Tag, fmt.Sprintf("a %T", v), into)
	}
	dst.Set(reflect.ValueOf(v))
	return nil
}

// bytesInto stores the payload of a bytes or str object.
func bytesInto(tag string, body *transport.Buffer, into any) error {
	isText := tag == TagString || tag == TagString06
	switch p := into.(type) {
	case **transport.Buffer:
		*p = body.Retain()
		return nil
	case *json.RawMessage:
		if !json.Valid(body.Bytes()) {
			return mismatch(tag, "no valid JSON", into)
		}
		*p = body.Retain().Detach()
		return nil
	}
	dst := reflect.ValueOf(into).Elem()
	switch t := dst.Type(); {
	case t.Kind() == reflect.String:
		if isText && !utf8.Valid(body.Bytes()) {
			return fmt.Errorf("serialize: %w: %s object is not UTF-8", ErrCorrupt, tag)
		}
		dst.SetString(stringOf(body))
		return nil
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		dst.SetBytes(body.Retain().Detach())
		return nil
	}
	if isText {
		return mismatch(tag, "a str", into)
	}
	return mismatch(tag, "bytes", into)
}

// arrayInto stores an array, which it takes.
func arrayInto(tag string, a *Array, into any) error {
	if p, ok := into.(**Array); ok {
		*p = a
		return nil
	}
	defer a.Release()
	if err := a.valid(); err != nil {
		return err
	}
	if err := checkRows(a.Shape); err != nil {
		return err
	}
	dst := reflect.ValueOf(into).Elem()
	// The element type below as many slices as there are dimensions.
	elem, depth := dst.Type(), 0
	for elem.Kind() == reflect.Slice && depth < len(a.Shape) {
		elem, depth = elem.Elem(), depth+1
	}
	if _, number := elementOf(elem); depth == len(a.Shape) && a.DType.Fields == nil && !a.DType.HasObject() &&
		(number || elem.Kind() == reflect.String) {
		if elem.Kind() == reflect.String {
			if a.DType.Kind != KindUnicode && a.DType.Kind != KindBytes {
				return mismatch(tag, a.String(), into)
			}
			items, err := a.Strings()
			if err != nil {
				return err
			}
			flat := reflect.MakeSlice(reflect.SliceOf(elem), len(items), len(items))
			for i, s := range items {
				flat.Index(i).SetString(s)
			}
			dst.Set(nestSlices(dst.Type(), flat, a.Shape))
			return nil
		}
		if a.holds(elem) != nil {
			return mismatch(tag, a.String(), into)
		}
		flat := reflect.MakeSlice(reflect.SliceOf(elem), a.Len(), a.Len())
		raw := unsafe.Slice((*byte)(flat.UnsafePointer()), a.Len()*a.DType.Size)
		if err := a.copyInto(raw, elem.Kind() == reflect.Bool); err != nil {
			return err
		}
		dst.Set(nestSlices(dst.Type(), flat, a.Shape))
		return nil
	}
	if _, ok := elementOf(elem); ok {
		return mismatch(tag, a.String(), into) // a number type, but too many or too few dimensions
	}
	list, err := a.list(maxListItems)
	if err != nil {
		return err
	}
	n := newNumpyDecoder(a.buf != nil) // elements of dtype S alias the array
	if err := pickle.Convert(n.value(list), into); err != nil {
		return wrapPickle(fmt.Sprintf("%s object is %v, not a Go %v", tag, a, dst.Type()), err)
	}
	return nil
}

// nestSlices cuts a flat slice into slices of slices of type t; without dimensions it is the only element.
func nestSlices(t reflect.Type, flat reflect.Value, shape []int) reflect.Value {
	switch len(shape) {
	case 0:
		return flat.Index(0).Convert(t)
	case 1:
		return flat.Slice3(0, flat.Len(), flat.Len()).Convert(t)
	}
	out := reflect.MakeSlice(t, shape[0], shape[0])
	for i := range shape[0] {
		n := flat.Len() / shape[0]
		out.Index(i).Set(nestSlices(t.Elem(), flat.Slice3(i*n, (i+1)*n, (i+1)*n), shape[1:]))
	}
	return out
}

// pickleInto stores a pickled object.
func pickleInto(tag string, body *transport.Buffer, into, owner any) error {
	lim := pickle.Limits{Owner: owner}.ForInput(body.Len())
	p, err := openPickle(tag, body)
	if err != nil {
		return err
	}
	if p.array != nil {
		return arrayInto(tag, p.array, into)
	}
	err = pickle.ConvertWith(p.value, into, lim)
	if errors.Is(err, pickle.ErrType) && p.arrays {
		// Perhaps the type wants an array's numbers rather than an *Array.
		reflect.ValueOf(into).Elem().SetZero()
		n := newNumpyDecoder(false)
		n.lists, n.room = make(map[*Array]any), min(body.Len(), maxListItems)
		err = pickle.ConvertWith(n.value(p.value), into, lim)
	}
	if err != nil {
		return wrapPickle(fmt.Sprintf("%s object into a Go %v", tag, reflect.TypeOf(into).Elem()), err)
	}
	return nil
}
