package serialize_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// known reports whether an error is of a class that callers can tell.
func known(err error) bool {
	return errors.Is(err, serialize.ErrCorrupt) || errors.Is(err, serialize.ErrUnknownTag) || errors.Is(err, serialize.ErrTooLarge) ||
		errors.Is(err, serialize.ErrType)
}

// use reads everything that a decoded array or opaque object offers.
func use(v any) {
	switch v := v.(type) {
	case *serialize.Array:
		_ = v.String()
		_, _ = serialize.View[float64](v)
		_, _ = serialize.Copy[int32](v)
		_, _ = serialize.Copy[bool](v)
		_, _ = v.Strings()
		_, _ = v.Objects()
		for _, f := range v.DType.Fields {
			_, _ = v.Field(f.Name)
		}
		_ = v.Clone()
	case *serialize.Opaque:
		_ = v.String()
	case []any:
		for _, x := range v[:min(len(v), 16)] {
			if a, ok := x.(*serialize.Array); ok {
				use(a)
			}
		}
	}
	if r, ok := v.(interface{ Release() }); ok {
		r.Release()
	}
}

// FuzzDecode decodes anything in every way: no panic, no leak, the same answer whatever memory the object is in, and what decodes to an array
// encodes to the same array.
func FuzzDecode(f *testing.F) {
	for _, version := range []string{"1.1.0", "0.6.5"} {
		for _, r := range recordings(f, version) {
			if len(r.Object) < 4<<10 {
				f.Add(r.Object)
			}
		}
	}
	f.Fuzz(func(t *testing.T, obj []byte) {
		buf := memories["pool"](obj)
		v, err := serialize.Decode(buf)
		gc := transport.FromBytes(slices.Clone(obj))
		w, err2 := serialize.Decode(gc)
		if (err == nil) != (err2 == nil) || fmt.Sprintf("%T", v) != fmt.Sprintf("%T", w) {
			t.Fatalf("%T, %v from pooled memory, %T, %v from GC memory", v, err, w, err2)
		}
		if err != nil && !known(err) {
			t.Fatalf("error of no class: %v", err)
		}
		if a, ok := v.(*serialize.Array); ok && !a.DType.HasObject() {
			if s, err := serialize.Encode(a); err == nil {
				again, err := serialize.Decode(transport.FromBytes(s.Join()))
				b, ok := again.(*serialize.Array)
				if err != nil || !ok || b.DType.String() != a.DType.String() || !slices.Equal(b.Shape, a.Shape) || !bytes.Equal(b.Bytes(), a.Bytes()) {
					t.Fatalf("%v encodes to %v, %v", a, again, err)
				}
			}
		}
		use(v)
		use(w)
		type target struct {
			A, B  []float64
			Array *serialize.Array
			M     map[string]any
		}
		for _, into := range []func() error{
			func() error { _, err := serialize.DecodeAs[[]byte](serialize.Default, buf); return err },
			func() error { _, err := serialize.DecodeAs[string](serialize.Default, buf); return err },
			func() error { _, err := serialize.DecodeAs[json.RawMessage](serialize.Default, buf); return err },
			func() error { _, err := serialize.DecodeAs[[]float64](serialize.Default, buf); return err },
			func() error { _, err := serialize.DecodeAs[[][]string](serialize.Default, buf); return err },
			func() error { _, err := serialize.DecodeAs[target](serialize.Default, buf); return err },
			func() error { _, err := serialize.DecodeAs[[]target](serialize.Default, buf); return err },
			func() error {
				a, err := serialize.DecodeAs[*serialize.Array](serialize.Default, buf)
				a.Release()
				return err
			},
			func() error {
				o, err := serialize.DecodeAs[*serialize.Opaque](serialize.Default, buf)
				use(o)
				return err
			},
		} {
			if err := into(); err != nil && !known(err) {
				t.Fatalf("error of no class: %v", err)
			}
		}
		buf.Release()
		if n, _ := transport.Live(transport.Pooled); n != 0 {
			t.Fatalf("%d buffers leaked", n)
		}
	})
}

// FuzzNpyHeader feeds header texts of each version to the parser; what it accepts must be written so that it reads the same.
func FuzzNpyHeader(f *testing.F) {
	for _, r := range recordings(f, "1.1.0") {
		if r.Descr != "" && len(r.Descr) < 4<<10 {
			f.Add(byte(1), fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (0, 3), }", r.Descr))
			f.Add(byte(3), fmt.Sprintf("{'descr': %s, 'fortran_order': True, 'shape': (0,), }", r.Descr))
		}
	}
	f.Fuzz(func(t *testing.T, version byte, header string) {
		obj := []byte("NP\n\x93NUMPY")
		if version == 1 {
			obj = append(obj, 1, 0, byte(len(header)), byte(len(header)>>8))
		} else {
			obj = append(obj, version, 0, byte(len(header)), byte(len(header)>>8), byte(len(header)>>16), byte(len(header)>>24))
		}
		obj = append(obj, header...)
		v, err := serialize.Decode(transport.FromBytes(obj))
		if err != nil {
			if !known(err) {
				t.Fatalf("error of no class: %v", err)
			}
			return
		}
		a, ok := v.(*serialize.Array)
		if !ok {
			return
		}
		d, err := serialize.ParseDType(a.DType.String())
		if err != nil || d.String() != a.DType.String() || d.Size != a.DType.Size {
			t.Fatalf("dtype %v parses as %v, %v", a.DType, d, err)
		}
		s, err := serialize.Encode(a)
		if err != nil {
			t.Fatalf("cannot encode %v: %v", a, err)
		}
		again, err := serialize.Decode(transport.FromBytes(s.Join()))
		if b, ok := again.(*serialize.Array); err != nil || !ok || b.String() != a.String() {
			t.Fatalf("%v encodes to %v, %v", a, again, err)
		}
	})
}

// FuzzTag checks that Tag, PayloadOffset and Decode agree on what an object is.
func FuzzTag(f *testing.F) {
	for _, s := range []string{"", "BS\n", "US\nx", "04\n", "XX\n", "BS", "\n\n\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, obj []byte) {
		tag, body, err := serialize.Tag(obj)
		tag2, off, err2 := serialize.PayloadOffset(obj[:min(len(obj), serialize.TagLen)])
		if (err == nil) != (err2 == nil) || tag != tag2 || err == nil && (len(body) != len(obj)-off || string(obj[:off]) != tag+"\n") {
			t.Fatalf("%q %q %v, %q %d %v", tag, body, err, tag2, off, err2)
		}
		o, err3 := serialize.DecodeAs[*serialize.Opaque](serialize.Default, transport.FromBytes(obj))
		if (err == nil) != (err3 == nil) || err != nil && !errors.Is(err, serialize.ErrUnknownTag) {
			t.Fatalf("%v, %v", err, err3)
		}
		if err == nil {
			s, err := serialize.Encode(o)
			if err != nil || !bytes.Equal(s.Join(), obj) {
				t.Fatalf("%q, %v", s.Join(), err)
			}
		}
	})
}
