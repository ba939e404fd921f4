package serialize_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/pickle"
	"github.com/proxyplane/proxyplane/transport"
)

func encode(t testing.TB, v any) []byte {
	t.Helper()
	s, err := serialize.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return s.Join()
}

func array[T serialize.Element](t testing.TB, data []T, shape ...int) *serialize.Array {
	t.Helper()
	a, err := serialize.NewArray(data, shape...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestRoundTrip(t *testing.T) {
	for _, f := range []serialize.Format{serialize.ProxyStore11, serialize.ProxyStore06} {
		for _, v := range []any{
			[]byte("x"), []byte{}, "text", "", nil, true, int64(-5), 2.5, []any{int64(1), "a", nil},
			map[string]any{"k": []any{map[string]any{"deep": []byte("b")}}},
		} {
			s, err := serialize.Default.EncodeFormat(v, f)
			if err != nil {
				t.Fatal(err)
			}
			if got := decode(t, "pool", s.Join()); !reflect.DeepEqual(got, v) {
				t.Errorf("format %d: %#v comes back as %#v", f, v, got)
			}
		}
	}
}

func TestTag(t *testing.T) {
	for _, tag := range []string{"BS", "US", "NP", "PD", "PL", "PK", "CP", "01", "02", "03", "04"} {
		got, body, err := serialize.Tag([]byte(tag + "\nbody\n"))
		if err != nil || got != tag || string(body) != "body\n" {
			t.Errorf("%s: %q %q %v", tag, got, body, err)
		}
		if got, off, err := serialize.PayloadOffset([]byte(tag + "\n")); err != nil || got != tag || off != serialize.TagLen {
			t.Errorf("%s: %q %d %v", tag, got, off, err)
		}
	}
	for _, obj := range []string{"", "B", "BS", "BS ", "bs\n", "05\n", "BSx\n", "\nBS\n", "\x80\x05N."} {
		if _, _, err := serialize.Tag([]byte(obj)); !errors.Is(err, serialize.ErrUnknownTag) {
			t.Errorf("%q: %v", obj, err)
		}
		if _, err := serialize.Decode(transport.FromBytes([]byte(obj))); !errors.Is(err, serialize.ErrUnknownTag) {
			t.Errorf("%q: %v", obj, err)
		}
	}
	if serialize.BytesTag != "BS\n" || serialize.StringTag != "US\n" {
		t.Error("the constants for streams are wrong")
	}
}

func TestEncodeBorrows(t *testing.T) {
	b := []byte("some bytes")
	s, err := serialize.Encode(b)
	if err != nil || len(s) != 2 || &s[1][0] != &b[0] {
		t.Errorf("[]byte is copied: %q, %v", s, err)
	}
	text := "some text"
	if s, err := serialize.Encode(text); err != nil || unsafe.SliceData(s[1]) != unsafe.StringData(text) {
		t.Errorf("string is copied: %v", err)
	}
	data := []float64{1, 2}
	if s, err := serialize.Encode(array(t, data)); err != nil || len(s) != 2 || unsafe.Pointer(&s[1][0]) != unsafe.Pointer(&data[0]) {
		t.Errorf("array is copied: %v", err)
	}
	buf := transport.FromBytes(b)
	if s, err := serialize.Encode(buf); err != nil || &s[1][0] != &b[0] {
		t.Errorf("Buffer is copied: %v", err)
	}
	if s, err := serialize.Encode(transport.Slices{b, b}); err != nil || len(s) != 3 || &s[2][0] != &b[0] {
		t.Errorf("Slices are copied: %v", err)
	}
}

func TestDecodeAliases(t *testing.T) {
	obj := []byte("BS\nsome bytes")
	buf := transport.FromBytes(obj)
	b, err := serialize.DecodeAs[[]byte](serialize.Default, buf)
	if err != nil || &b[0] != &obj[3] {
		t.Errorf("[]byte of GC memory is copied: %v", err)
	}
	if s, err := serialize.DecodeAs[string](serialize.Default, buf); err != nil || unsafe.StringData(s) != &obj[3] {
		t.Errorf("string of GC memory is copied: %v", err)
	}
	for memory := range memories {
		buf := memories[memory](obj)
		v, err := serialize.DecodeAs[*transport.Buffer](serialize.Default, buf)
		if err != nil || &v.Bytes()[0] != &buf.Bytes()[3] || v.Len() != 10 {
			t.Errorf("view: %v", err)
		}
		buf.Release()
		if string(v.Bytes()) != "some bytes" {
			t.Error("the view does not hold a reference")
		}
		v.Release()
	}
	npy := encode(t, array(t, []int32{1, 2, 3}))
	buf = memories["pool"](npy)
	a, err := serialize.DecodeAs[*serialize.Array](serialize.Default, buf)
	if err != nil || &a.Bytes()[11] != &buf.Bytes()[len(npy)-1] {
		t.Errorf("array is copied: %v", err)
	}
	buf.Release()
	v, err := serialize.View[int32](a)
	if err != nil || !slices.Equal(v, []int32{1, 2, 3}) {
		t.Errorf("%v, %v", v, err)
	}
	a.Release()
	if n, _ := transport.Live(transport.Pooled); n != 0 {
		t.Errorf("%d buffers leaked", n)
	}
}

// TestMapping views an array in a file mapping, where the tag leaves it at 3 modulo 8.
func TestMapping(t *testing.T) {
	want := make([]float64, 10000)
	for i := range want {
		want[i] = float64(i)
	}
	name := filepath.Join(t.TempDir(), "object")
	if err := os.WriteFile(name, encode(t, array(t, want)), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	buf, err := transport.Map(f, 0, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	v, err := serialize.Decode(buf)
	if err != nil {
		t.Fatal(err)
	}
	buf.Release()
	a := v.(*serialize.Array)
	if uintptr(unsafe.Pointer(&a.Bytes()[0]))%8 != 3 {
		t.Error("the test no longer tests unaligned memory")
	}
	got, err := serialize.View[float64](a)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("view of a mapping differs: %v", err)
	}
	if c, err := serialize.View[int64](a); !errors.Is(err, serialize.ErrType) {
		t.Errorf("floats as %T: %v", c, err)
	}
	a.Release()
}

func TestDecodeAs(t *testing.T) {
	type point struct {
		X, Y int
		Name string `pickle:"label"`
	}
	p := decodeAs[point](t, encode(t, map[string]any{"x": 1, "y": 2, "label": "here"}))
	if p != (point{1, 2, "here"}) {
		t.Errorf("%+v", p)
	}
	if m := decodeAs[map[string]int](t, encode(t, map[string]int{"a": 1})); m["a"] != 1 {
		t.Errorf("%v", m)
	}
	if v := decodeAs[[]float64](t, encode(t, []float64{1, 2.5})); !slices.Equal(v, []float64{1, 2.5}) {
		t.Errorf("%v", v)
	}
	if v := decodeAs[int](t, encode(t, 7)); v != 7 {
		t.Errorf("%v", v)
	}
	if v := decodeAs[any](t, encode(t, "s")); v != "s" {
		t.Errorf("%v", v)
	}
	type text string
	if v := decodeAs[text](t, encode(t, "s")); v != "s" {
		t.Errorf("%v", v)
	}
	if v := decodeAs[string](t, []byte("BS\n\xff")); v != "\xff" {
		t.Errorf("%q", v)
	}
}

func TestDecodeAsArrays(t *testing.T) {
	obj := encode(t, array(t, []float32{1, 2, 3, 4, 5, 6}, 2, 3))
	if v := decodeAs[[][]float32](t, obj); !reflect.DeepEqual(v, [][]float32{{1, 2, 3}, {4, 5, 6}}) {
		t.Errorf("%v", v)
	}
	if v := decodeAs[[2][3]float64](t, obj); v[1][2] != 6 {
		t.Errorf("%v", v)
	}
	if v := decodeAs[[]any](t, obj); !reflect.DeepEqual(v[1], []any{4.0, 5.0, 6.0}) {
		t.Errorf("%v", v)
	}
	wrong[[]float32](t, obj)
	wrong[[]float64](t, obj)
	wrong[[][]float64](t, obj)
	wrong[[][][]float32](t, obj)
	wrong[float32](t, obj)
	wrong[string](t, obj)
	wrong[map[string]any](t, obj)
	f := array(t, []int16{1, 2, 3, 4, 5, 6}, 2, 3)
	f.Fortran = true
	if v := decodeAs[[][]int16](t, encode(t, f)); !reflect.DeepEqual(v, [][]int16{{1, 3, 5}, {2, 4, 6}}) {
		t.Errorf("%v", v)
	}
	d, err := serialize.ParseDType(">u4")
	if err != nil {
		t.Fatal(err)
	}
	a, err := serialize.NewRawArray(d, []byte{0, 0, 1, 2})
	if err != nil {
		t.Fatal(err)
	}
	if v := decodeAs[uint32](t, encode(t, a)); v != 258 {
		t.Errorf("scalar %v", v)
	}
	if v := decodeAs[[]int64](t, encode(t, array(t, []int64{}))); len(v) != 0 {
		t.Errorf("%v", v)
	}
	type half serialize.Float16
	if _, err := serialize.View[half](array(t, []serialize.Float16{1})); err != nil {
		t.Errorf("uint16 bits of float16: %v", err)
	}
}

func wrong[T any](t *testing.T, obj []byte) {
	t.Helper()
	buf := memories["pool"](obj)
	v, err := serialize.DecodeAs[T](serialize.Default, buf)
	buf.Release()
	if !errors.Is(err, serialize.ErrType) || !strings.Contains(err.Error(), string(obj[:2])) ||
		!strings.Contains(err.Error(), reflect.TypeFor[T]().String()) {
		t.Errorf("%s as %T: %v, want an ErrType that names both", obj[:2], v, err)
	}
}

func TestWrongType(t *testing.T) {
	wrong[int](t, encode(t, "text"))
	wrong[*serialize.Array](t, encode(t, []byte("b")))
	wrong[*serialize.Array](t, encode(t, []int{1}))
	wrong[[]byte](t, encode(t, 5))
	wrong[*transport.Buffer](t, encode(t, 5))
	wrong[json.RawMessage](t, encode(t, "{"))
	wrong[map[string]any](t, []byte("PD\n"))
	wrong[map[string]any](t, []byte("PL\n"))
	for _, v := range []any{"\xff", json.RawMessage("{"), make(chan int)} {
		if _, err := serialize.Encode(v); !errors.Is(err, serialize.ErrType) {
			t.Errorf("encode %T: %v", v, err)
		}
	}
	if n, _ := transport.Live(transport.Pooled); n != 0 {
		t.Errorf("%d buffers leaked", n)
	}
}

func TestJSON(t *testing.T) {
	want := json.RawMessage(`{"a": [1, 2]}`)
	obj := encode(t, want)
	if string(obj) != "US\n"+string(want) {
		t.Errorf("%q", obj)
	}
	if got := decodeAs[json.RawMessage](t, obj); !bytes.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestOpaque06(t *testing.T) {
	for from, to := range map[string]string{"PK": "03", "CP": "04", "PD": "03", "BS": "01", "US": "02", "04": "04"} {
		o := serialize.NewOpaque(from, transport.FromBytes([]byte("N.")))
		s, err := serialize.Default.EncodeFormat(o, serialize.ProxyStore06)
		if err != nil || string(s.Join()) != to+"\nN." {
			t.Errorf("%s: %q, %v", from, s.Join(), err)
		}
	}
	o := serialize.NewOpaque("PL", transport.FromBytes(nil))
	if _, err := serialize.Default.EncodeFormat(o, serialize.ProxyStore06); !errors.Is(err, serialize.ErrType) {
		t.Errorf("polars for 0.6.5: %v", err)
	}
}

type celsius struct{ degrees float64 }

func TestRegister(t *testing.T) {
	c := serialize.NewCodecs()
	codec := serialize.TypeCodec("C1", "temperature",
		func(v celsius) (transport.Slices, error) {
			return transport.Slices{fmt.Appendf(nil, "%g", v.degrees)}, nil
		},
		func(b *transport.Buffer) (v celsius, err error) {
			_, err = fmt.Sscanf(string(b.Bytes()), "%g", &v.degrees)
			return v, err
		})
	if err := c.Register(codec); err != nil {
		t.Fatal(err)
	}
	s, err := c.Encode(celsius{21.5})
	if err != nil || string(s.Join()) != "C1\n21.5" {
		t.Fatalf("%q, %v", s, err)
	}
	buf := transport.FromBytes(s.Join())
	if v, err := c.Decode(buf); err != nil || v != (celsius{21.5}) {
		t.Errorf("%v, %v", v, err)
	}
	if v, err := serialize.DecodeAs[celsius](c, buf); err != nil || v != (celsius{21.5}) {
		t.Errorf("%v, %v", v, err)
	}
	if v, err := serialize.DecodeAs[int](c, buf); !errors.Is(err, serialize.ErrType) {
		t.Errorf("%v, %v", v, err)
	}
	if tag, body, err := c.Tag([]byte("C1\nx")); err != nil || tag != "C1" || string(body) != "x" {
		t.Errorf("%q %q %v", tag, body, err)
	}
	if _, err := serialize.Decode(buf); !errors.Is(err, serialize.ErrUnknownTag) {
		t.Errorf("without the codec: %v", err)
	}
	for _, tag := range []string{"C1", "BS", "NP", "03", "", "C", "C1\n", "ÄÖ", "C\n"} {
		codec.Tag = tag
		if err := c.Register(codec); err == nil {
			t.Errorf("tag %q can be registered", tag)
		}
	}
	for _, tag := range []string{"PL", "PD"} {
		codec.Tag = tag
		if err := c.Register(codec); err != nil {
			t.Errorf("tag %q: %v", tag, err)
		}
		if err := c.Register(codec); err == nil {
			t.Errorf("tag %q can be registered twice", tag)
		}
	}
	if err := c.Register(serialize.Codec{Tag: "ZZ"}); err == nil {
		t.Error("a codec without Decode can be registered")
	}
}

func TestNestedArraysForPython(t *testing.T) {
	a := array(t, []float64{1, 2, 3, 4}, 2, 2)
	m := decode(t, "pool", encode(t, map[string]any{"a": a, "list": []*serialize.Array{a, nil}})).(map[string]any)
	got := m["a"].(*serialize.Array)
	if v, err := serialize.View[float64](got); err != nil || !slices.Equal(v, []float64{1, 2, 3, 4}) || !slices.Equal(got.Shape, []int{2, 2}) {
		t.Errorf("%v %v", v, err)
	}
	if l := m["list"].([]any); l[1] != nil || l[0].(*serialize.Array).Len() != 4 {
		t.Errorf("%v", l)
	}
}

func TestArrayAccess(t *testing.T) {
	a := array(t, []int32{1, 2, 3, 4, 5, 6}, 2, 3)
	if v, err := serialize.At[int32](a, 1, 0); err != nil || v != 4 {
		t.Errorf("%v, %v", v, err)
	}
	for _, index := range [][]int{{}, {1}, {2, 0}, {0, 3}, {-1, 0}, {0, 0, 0}} {
		if _, err := serialize.At[int32](a, index...); !errors.Is(err, serialize.ErrType) {
			t.Errorf("index %v: %v", index, err)
		}
	}
	a.Shape = []int{3, 2} // reshaping is allowed
	if v, err := serialize.At[int32](a, 1, 0); err != nil || v != 3 {
		t.Errorf("%v, %v", v, err)
	}
	a.Fortran = true
	if v, err := serialize.At[int32](a, 1, 0); err != nil || v != 2 || !slices.Equal(a.Strides(), []int{4, 12}) {
		t.Errorf("%v, %v", v, err)
	}
	a.Shape = []int{7}
	if _, err := serialize.View[int32](a); !errors.Is(err, serialize.ErrType) {
		t.Errorf("a shape larger than the data: %v", err)
	}
	if _, err := serialize.Encode(a); !errors.Is(err, serialize.ErrType) {
		t.Errorf("a shape larger than the data: %v", err)
	}
	if _, err := serialize.NewArray([]int32{1}, 2); !errors.Is(err, serialize.ErrType) {
		t.Errorf("NewArray of a wrong shape: %v", err)
	}
	if _, err := serialize.NewArray([]int32{}, math.MaxInt, math.MaxInt); err == nil {
		t.Error("NewArray of an impossible shape")
	}
	d := serialize.DType{Kind: serialize.KindBool, Size: 1}
	b, err := serialize.NewRawArray(d, []byte{0, 2}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serialize.View[bool](b); !errors.Is(err, serialize.ErrCorrupt) {
		t.Errorf("a bool of 2: %v", err)
	}
	if v, err := serialize.View[uint8](b); err != nil || v[1] != 2 {
		t.Errorf("%v, %v", v, err)
	}
	if c := b.Clone(); !slices.Equal(c.Bytes(), b.Bytes()) || &c.Bytes()[0] == &b.Bytes()[0] {
		t.Error("Clone does not copy")
	}
}

func TestFloat16(t *testing.T) {
	for bits := range 1 << 16 {
		h := serialize.Float16(bits)
		f := h.Float32()
		if back := serialize.ToFloat16(f); back != h && f == f {
			t.Fatalf("%#x is %v, which is %#x", bits, f, back)
		} else if f != f && !(back&0x7c00 == 0x7c00 && back&0x3ff != 0) {
			t.Fatalf("NaN %#x becomes %#x", bits, back)
		}
	}
	for f, want := range map[float32]uint16{
		1: 0x3c00, -2: 0xc000, 65504: 0x7bff, 65519.996: 0x7bff, 65520: 0x7c00, 1e10: 0x7c00, 5.9604645e-08: 1, 2.9802322e-08: 0,
		2.9802326e-08: 1, 0.33325195: 0x3555, 1.00048828125: 0x3c00, 1.00146484375: 0x3c02,
	} {
		if got := serialize.ToFloat16(f); uint16(got) != want {
			t.Errorf("%v: %#x, want %#x", f, got, want)
		}
	}
}

// npy returns an NP object of version 1.0 with any header text.
func npy(header string, body int) []byte {
	b := []byte("NP\n\x93NUMPY\x01\x00")
	b = append(b, byte(len(header)), byte(len(header)>>8))
	return append(append(b, header...), make([]byte, body)...)
}

func TestNpyHeaders(t *testing.T) {
	for _, good := range []struct {
		header string
		body   int
		want   string
	}{
		{"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", 24, "ndarray(dtype <f8, shape [3])"},
		{`{"shape":(),"descr":"|u1","fortran_order":True}`, 1, "ndarray(dtype |u1, shape [])"},
		{"{'descr': '<i4', 'fortran_order': False, 'shape': (2L, 1L)}\n", 8, "ndarray(dtype <i4, shape [2 1])"},
		{"{'descr': ('<i4', (2,)), 'fortran_order': False, 'shape': (3,)}", 24, "ndarray(dtype <i4, shape [3 2])"},
		{"{'descr': [('a', '<i2'), ('', '|V2'), ('b', '|S1')], 'fortran_order': False, 'shape': (1,)}", 5,
			"ndarray(dtype [('a', '<i2'), ('', '|V2'), ('b', '|S1')], shape [1])"},
		{`{'descr': [('it\'s \xe9\u4e16', '?')], 'fortran_order': False, 'shape': (1,)}`, 1, `ndarray(dtype [("it's é世", '|b1')], shape [1])`},
		{"{'descr': '|S0', 'fortran_order': False, 'shape': (5,)}", 0, "ndarray(dtype |S0, shape [5])"},
		{"{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4611686018427387904)}", 0, ""},
	} {
		v, err := serialize.Decode(transport.FromBytes(npy(good.header, good.body)))
		if good.want == "" {
			if err == nil {
				t.Errorf("%s decodes", good.header)
			}
		} else if err != nil || fmt.Sprint(v) != good.want {
			t.Errorf("%s: %v, %v", good.header, v, err)
		}
	}
	for _, bad := range []string{
		"", "{", "}", "[]", "()", "'x'", "{}", "{'descr': '<f8', 'fortran_order': False}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (3,)} x",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), 'more': 1}",
		"{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': (3,)}",
		"{'descr': '<f8', 'fortran_order': 0, 'shape': (3,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': [3]}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': 3}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (3)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (-3,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (4,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (3037000500, 3037000500, 2)}",
		"{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000000,)}",
		"{'descr': '<f9', 'fortran_order': False, 'shape': (3,)}",
		"{'descr': '<q8', 'fortran_order': False, 'shape': (3,)}",
		"{'descr': '<f', 'fortran_order': False, 'shape': (3,)}",
		"{'descr': '<M8[xx]', 'fortran_order': False, 'shape': (3,)}",
		"{'descr': '<f8 ', 'fortran_order': False, 'shape': (3,)}",
		"{'descr': '<U999999999', 'fortran_order': False, 'shape': (1,)}",
		"{'descr': [('a',)], 'fortran_order': False, 'shape': (3,)}",
		"{'descr': [('a', '<f8'), ('a', '<f8')], 'fortran_order': False, 'shape': (3,)}",
		"{'descr': [('a', '<f8', (999999999, 999999999))], 'fortran_order': False, 'shape': (3,)}",
		"{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (3,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (" + strings.Repeat("1,", 65) + ")}",
		strings.Repeat("(", 60000), strings.Repeat("[", 60000) + strings.Repeat("]", 5000),
	} {
		if v, err := serialize.Decode(transport.FromBytes(npy(bad, 24))); !errors.Is(err, serialize.ErrCorrupt) {
			t.Errorf("%.100s: %v, %v", bad, v, err)
		}
	}
	good := encode(t, array(t, []float64{1, 2, 3}))
	for n := 3; n < len(good); n++ {
		if v, err := serialize.Decode(transport.FromBytes(good[:n])); !errors.Is(err, serialize.ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v, %v", n, v, err)
		}
	}
	if v, err := serialize.Decode(transport.FromBytes(append(good, 0))); !errors.Is(err, serialize.ErrCorrupt) {
		t.Errorf("one byte more: %v, %v", v, err)
	}
	huge := append([]byte("NP\n\x93NUMPY\x02\x00"), 0xff, 0xff, 0xff, 0xff)
	if _, err := serialize.Decode(transport.FromBytes(huge)); !errors.Is(err, serialize.ErrCorrupt) {
		t.Errorf("a header of 4 GiB: %v", err)
	}
}

// TestHostileRows asks for nested slices of an array whose rows have no elements.
func TestHostileRows(t *testing.T) {
	obj := npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 0)}", 0)
	if v, err := serialize.DecodeAs[[][]float64](serialize.Default, transport.FromBytes(obj)); !errors.Is(err, serialize.ErrTooLarge) {
		t.Errorf("%d rows, %v", len(v), err)
	}
	if v, err := serialize.DecodeAs[[]any](serialize.Default, transport.FromBytes(obj)); !errors.Is(err, serialize.ErrTooLarge) {
		t.Errorf("%d rows, %v", len(v), err)
	}
}

// TestHostilePickles shares and nests NumPy objects so that naive code would take exponential time or memory.
func TestHostilePickles(t *testing.T) {
	global := func(m, n string) pickle.Global { return pickle.Global{Module: m, Name: n} }
	f8 := &pickle.Object{Callable: global("numpy", "dtype"), Args: pickle.Tuple{"<f8"}}
	// A structure whose two fields are one structure, and so on, 40 levels deep.
	struct2 := func(inner *pickle.Object) *pickle.Object {
		fields := pickle.NewDict()
		fields.Set("a", pickle.Tuple{inner, int64(0)})
		fields.Set("b", pickle.Tuple{inner, int64(0)})
		return &pickle.Object{
			Callable: global("numpy", "dtype"), Args: pickle.Tuple{"V8"}, HasState: true,
			State: pickle.Tuple{int64(3), "|", nil, pickle.Tuple{"a", "b"}, fields, int64(8), int64(1), int64(16)},
		}
	}
	deep := f8
	for range 40 {
		deep = struct2(deep)
	}
	ndarray := func(dtype any, shape pickle.Tuple, data []byte) *pickle.Object {
		return &pickle.Object{Callable: global("numpy._core.numeric", "_frombuffer"), Args: pickle.Tuple{data, dtype, shape, "C"}}
	}
	cyclic := struct2(f8)
	cyclic.State.(pickle.Tuple)[4].(*pickle.Dict).Set("a", pickle.Tuple{cyclic, int64(0)})
	// 65,536 elements, shared by a thousand permuted arrays.
	big := make([]byte, 8<<16)
	many := pickle.NewList()
	for range 1000 {
		many.Items = append(many.Items, &pickle.Object{
			Callable: global("numpy._core.numeric", "_frombuffer"),
			Args:     pickle.Tuple{big, f8, pickle.Tuple{int64(256), int64(256)}, "K", pickle.Tuple{int64(1), int64(0)}},
		})
	}
	items := pickle.NewList()
	self := &pickle.Object{
		Callable: global("numpy._core.multiarray", "_reconstruct"),
		Args:     pickle.Tuple{global("numpy", "ndarray"), pickle.Tuple{int64(0)}, []byte("b")}, HasState: true,
		State: pickle.Tuple{int64(1), pickle.Tuple{int64(1)}, &pickle.Object{Callable: global("numpy", "dtype"), Args: pickle.Tuple{"O8"}}, false, items},
	}
	items.Items = []any{self}
	for name, v := range map[string]any{
		"deep dtype": ndarray(deep, pickle.Tuple{int64(1)}, make([]byte, 8)), "cyclic dtype": ndarray(cyclic, pickle.Tuple{int64(1)}, make([]byte, 8)),
		"permuted": many, "array in itself": self, "array in a list in itself": pickle.NewList(self),
		"short": ndarray(f8, pickle.Tuple{int64(1 << 40)}, make([]byte, 8)),
	} {
		body, err := pickle.Marshal(v)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		buf := memories["pool"](append([]byte("PK\n"), body...))
		got, err := serialize.Decode(buf)
		if err == nil {
			if r, ok := got.(interface{ Release() }); ok {
				r.Release()
			}
		}
		for _, into := range []func() error{
			func() error { _, err := serialize.DecodeAs[[]float64](serialize.Default, buf); return err },
			func() error { _, err := serialize.DecodeAs[[][][]string](serialize.Default, buf); return err },
		} {
			if err := into(); err == nil {
				t.Errorf("%s converts", name)
			}
		}
		buf.Release()
	}
	if n, _ := transport.Live(transport.Pooled); n != 0 {
		t.Errorf("%d buffers leaked", n)
	}
}

// TestNothingIsMadeUp: a pickled dict must not become a Buffer, an Array or an Opaque, whose zero values hold no memory.
func TestNothingIsMadeUp(t *testing.T) {
	obj, err := serialize.Encode(map[string]any{"Shape": []int{1 << 40}, "Fortran": true, "data": "x"})
	if err != nil {
		t.Fatal(err)
	}
	buf := transport.FromBytes(obj.Join())
	if v, err := serialize.DecodeAs[*transport.Buffer](serialize.Default, buf); !errors.Is(err, serialize.ErrType) || v != nil {
		t.Errorf("a dict as a Buffer: %v, %v", v, err)
	}
	if v, err := serialize.DecodeAs[*serialize.Array](serialize.Default, buf); !errors.Is(err, serialize.ErrType) || v != nil {
		t.Errorf("a dict as an Array: %v, %v", v, err)
	}
	outer, err := serialize.Encode(map[string]any{"A": map[string]any{"Shape": []int{3}}})
	if err != nil {
		t.Fatal(err)
	}
	buf = transport.FromBytes(outer.Join())
	if v, err := serialize.DecodeAs[struct{ A serialize.Array }](serialize.Default, buf); !errors.Is(err, serialize.ErrType) {
		t.Errorf("a dict as an Array inside: %+v, %v", v, err)
	}
	if v, err := serialize.DecodeAs[struct{ A *transport.Buffer }](serialize.Default, buf); !errors.Is(err, serialize.ErrType) {
		t.Errorf("a dict as a Buffer inside: %+v, %v", v, err)
	}
	if v, err := serialize.DecodeAs[struct{ A *serialize.Opaque }](serialize.Default, buf); !errors.Is(err, serialize.ErrType) {
		t.Errorf("a dict as an Opaque inside: %+v, %v", v, err)
	}
}

// TestSharedValuesAreBounded: what a few bytes of pickle share 12^6 times does not become that many Go values, and a grid of one row does.
func TestSharedValuesAreBounded(t *testing.T) {
	repeat := func(v any, n int) *pickle.List {
		return pickle.NewList(slices.Repeat([]any{v}, n)...)
	}
	var bomb any = pickle.NewList(int64(1))
	for range 6 {
		bomb = repeat(bomb, 12)
	}
	obj := encode(t, bomb)
	if _, err := serialize.DecodeAs[[][][][][][][]int](serialize.Default, transport.FromBytes(obj)); !errors.Is(err, serialize.ErrTooLarge) {
		t.Errorf("%d bytes of pickle: %v", len(obj), err)
	}
	if _, err := serialize.DecodeAs[any](serialize.Default, transport.FromBytes(obj)); err != nil { // there it stays shared
		t.Errorf("%d bytes of pickle as any: %v", len(obj), err)
	}
	grid := decodeAs[[][]int](t, encode(t, repeat(repeat(int64(7), 1000), 1000)))
	if len(grid) != 1000 || len(grid[999]) != 1000 || grid[999][999] != 7 {
		t.Error("the grid is not that")
	}
}
