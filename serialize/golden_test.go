package serialize_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/pickle"
	"github.com/proxyplane/proxyplane/transport"
)

// recording is one object that testdata/record.py recorded.
type recording struct {
	Name    string
	Object  []byte
	Descr   string
	Shape   []int
	Fortran bool
	Values  []byte // in C order, little-endian
}

func recordings(t testing.TB, version string) map[string]recording {
	t.Helper()
	f, err := os.Open("testdata/objects-" + version + ".json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var list []recording
	if err := json.NewDecoder(z).Decode(&list); err != nil {
		t.Fatal(err)
	}
	m := make(map[string]recording)
	for _, r := range list {
		m[r.Name] = r
	}
	return m
}

// memories are the kinds of Buffer that a decoder must treat differently. Each is given back and overwritten after the last Release.
var memories = map[string]func(obj []byte) *transport.Buffer{
	"gc": func(obj []byte) *transport.Buffer { return transport.FromBytes(slices.Clone(obj)) },
	"pool": func(obj []byte) *transport.Buffer {
		return transport.NewBuffer(slices.Clone(obj), transport.Pooled, func(b []byte) { clear(b) })
	},
	"gc with a free function": func(obj []byte) *transport.Buffer {
		return transport.NewBuffer(slices.Clone(obj), transport.GC, func(b []byte) { clear(b) })
	},
}

// decode decodes an object and releases its buffer at once, so that whatever the result wrongly aliases is gone.
func decode(t testing.TB, memory string, obj []byte) any {
	t.Helper()
	buf := memories[memory](obj)
	v, err := serialize.Decode(buf)
	if err != nil {
		t.Fatal(err)
	}
	buf.Release()
	return v
}

func decodeAs[T any](t testing.TB, obj []byte) T {
	t.Helper()
	buf := memories["pool"](obj)
	v, err := serialize.DecodeAs[T](serialize.Default, buf)
	if err != nil {
		t.Fatal(err)
	}
	buf.Release()
	return v
}

// natural is what Decode must return for the recordings that are no arrays, in both versions.
var natural = map[string]any{
	"bytes":         []byte("some bytes\n\x00\xff"),
	"bytes-empty":   []byte{},
	"str":           "grüße, 世界\n",
	"str-empty":     "",
	"none":          nil,
	"true":          true,
	"int":           int64(42),
	"int-big":       new(big.Int).Lsh(big.NewInt(1), 100),
	"float":         1.5,
	"list":          []any{int64(1), "two", 3.0, nil, []byte("four")},
	"tuple":         []any{int64(1), []any{int64(2), int64(3)}},
	"dict":          map[string]any{"a": int64(1), "b": map[string]any{"c": []any{int64(1), int64(2), map[string]any{"d": []byte("e")}}}, "f": []any{nil, true}},
	"dict-int-keys": map[any]any{int64(1): "a", int64(2): "b"},
	"set":           []any{int64(7)},
	"bytearray":     []byte("abc"),
	"complex":       1 + 2i,
	"datetime":      time.Date(2024, 2, 29, 12, 30, 15, 500000, time.UTC),
	"fraction":      big.NewRat(1, 3),
	"shared":        []any{[]any{int64(1)}, []any{int64(1)}},
}

func TestGoldenNatural(t *testing.T) {
	for _, version := range []string{"1.1.0", "0.6.5"} {
		all := recordings(t, version)
		for memory := range memories {
			for name, want := range natural {
				got := decode(t, memory, all[name].Object)
				if when, ok := want.(time.Time); ok {
					if g, ok := got.(time.Time); !ok || !g.Equal(when) {
						t.Errorf("%s %s (%s memory): got %v, want %v", version, name, memory, got, want)
					}
				} else if !reflect.DeepEqual(got, want) {
					t.Errorf("%s %s (%s memory): got %#v, want %#v", version, name, memory, got, want)
				}
			}
		}
	}
}

func TestGoldenOpaque(t *testing.T) {
	for version, want := range map[string]map[string]string{
		"1.1.0": {
			"decimal": "decimal.Decimal", "uuid": "uuid.UUID", "pandas": "pandas.DataFrame", "series": "pandas.Series",
			"polars": "polars.DataFrame", "unknown": "", "lambda": "", "cycle": "",
		},
		"0.6.5": {"decimal": "decimal.Decimal", "uuid": "uuid.UUID", "unknown": "", "lambda": "", "cycle": ""},
	} {
		all := recordings(t, version)
		for name, class := range want {
			obj := all[name].Object
			o, ok := decode(t, "pool", obj).(*serialize.Opaque)
			if !ok {
				t.Errorf("%s %s: not opaque", version, name)
				continue
			}
			if o.Class() != class && class != "" || o.Tag() != string(obj[:2]) || !strings.Contains(o.String(), o.Class()) {
				t.Errorf("%s %s: %v of class %q, want %q", version, name, o, o.Class(), class)
			}
			if v, err := o.Structure(); name == "polars" {
				if !errors.Is(err, serialize.ErrType) {
					t.Errorf("structure of a polars object: %v", err)
				}
			} else if err != nil || v == nil {
				t.Errorf("%s %s: structure %v, %v", version, name, v, err)
			} else if err := o.Dump(&bytes.Buffer{}); err != nil {
				t.Errorf("%s %s: dump: %v", version, name, err)
			}
			again, err := serialize.Encode(o)
			if err != nil || !bytes.Equal(again.Join(), obj) {
				t.Errorf("%s %s: does not encode to itself: %v", version, name, err)
			}
			o.Release()
		}
	}
	if n, _ := transport.Live(transport.Pooled); n != 0 {
		t.Errorf("%d buffers leaked", n)
	}
}

// littleEndian returns the elements of an array as record.py has them.
func littleEndian(t *testing.T, a *serialize.Array) []byte {
	t.Helper()
	var out []byte
	var err error
	swap := func(n int) {
		for i := 0; a.DType.Big && i+n <= len(out); i += n {
			slices.Reverse(out[i : i+n])
		}
	}
	switch d := a.DType; {
	case d.Kind == serialize.KindBool, d.Kind == serialize.KindUint && d.Size == 1:
		out, err = serialize.Copy[uint8](a)
	case d.Kind == serialize.KindInt, d.Kind == serialize.KindDatetime, d.Kind == serialize.KindTimedelta:
		out, err = leOf[int8, int16, int32, int64](a)
	case d.Kind == serialize.KindUint:
		out, err = leOf[uint8, uint16, uint32, uint64](a)
	case d.Kind == serialize.KindFloat && d.Size <= 8:
		out, err = leOf[int8, serialize.Float16, float32, float64](a)
	case d.Kind == serialize.KindComplex && d.Size == 8:
		out, err = le[complex64](a)
	case d.Kind == serialize.KindComplex && d.Size == 16:
		out, err = le[complex128](a)
	default: // raw: go through a structure of one field, which puts elements in C order
		d := serialize.DType{Kind: serialize.KindVoid, Size: a.DType.Size, Fields: []serialize.Field{{Name: "x", DType: a.DType}}}
		var s, f *serialize.Array
		if s, err = serialize.NewRawArray(d, a.Bytes(), a.Shape...); err == nil {
			s.Fortran = a.Fortran
			if f, err = s.Field("x"); err == nil {
				out = f.Bytes()
				if d := a.DType; d.Kind == serialize.KindUnicode {
					swap(4)
				}
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func le[T serialize.Element](a *serialize.Array) ([]byte, error) {
	v, err := serialize.Copy[T](a)
	if err != nil {
		return nil, err
	}
	b, err := serialize.NewArray(v)
	if err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func leOf[A, B, C, D serialize.Element](a *serialize.Array) ([]byte, error) {
	switch a.DType.Size {
	case 1:
		return le[A](a)
	case 2:
		return le[B](a)
	case 4:
		return le[C](a)
	}
	return le[D](a)
}

func TestGoldenArrays(t *testing.T) {
	for _, version := range []string{"1.1.0", "0.6.5"} {
		n := 0
		for name, r := range recordings(t, version) {
			if r.Descr == "" {
				continue
			}
			n++
			t.Run(version+"/"+name, func(t *testing.T) {
				for memory := range memories {
					a, ok := decode(t, memory, r.Object).(*serialize.Array)
					if !ok {
						t.Fatalf("decodes to %T", decode(t, memory, r.Object))
					}
					if got := a.DType.String(); got != r.Descr {
						t.Errorf("dtype %s, want %s", got, r.Descr)
					}
					if !slices.Equal(a.Shape, r.Shape) {
						t.Errorf("shape %v, want %v", a.Shape, r.Shape)
					}
					if got := littleEndian(t, a); !bytes.Equal(got, r.Values) {
						t.Errorf("%s memory: elements differ", memory)
					}
					again, err := serialize.Encode(a)
					if err != nil {
						t.Fatal(err)
					}
					if version == "1.1.0" && !bytes.Equal(again.Join(), r.Object) {
						t.Errorf("encodes to\n%q, want\n%q", again.Join(), r.Object)
					}
					// As a pickle, too, it must come back the same.
					old, err := serialize.Default.EncodeFormat(a, serialize.ProxyStore06)
					if err != nil {
						t.Fatal(err)
					}
					b, ok := decode(t, "pool", old.Join()).(*serialize.Array)
					if !ok || b.DType.String() != r.Descr || !slices.Equal(b.Shape, r.Shape) || !bytes.Equal(littleEndian(t, b), r.Values) {
						t.Errorf("pickled and back: %v", b)
					} else {
						b.Release()
					}
					d, err := serialize.ParseDType(a.DType.String())
					if err != nil || d.String() != a.DType.String() || d.Size != a.DType.Size {
						t.Errorf("dtype parses back to %v, %v", d, err)
					}
					a.Release()
				}
			})
		}
		if n < 50 {
			t.Errorf("%s: only %d arrays recorded", version, n)
		}
	}
	if n, _ := transport.Live(transport.Pooled); n != 0 {
		t.Errorf("%d buffers leaked", n)
	}
}

func TestGoldenStrings(t *testing.T) {
	all := recordings(t, "1.1.0")
	for _, name := range []string{"np-U", "np-U-F"} {
		a := decodeAs[*serialize.Array](t, all[name].Object)
		s, err := a.Strings()
		if err != nil || len(s) != 24 || s[0] != "" || s[1] != "é1世" || s[5] != "é5世é5世" {
			t.Errorf("%s: %q, %v", name, s, err)
		}
		a.Release()
		if s := decodeAs[[][][]string](t, all[name].Object); s[0][1][1] != "é5世é5世" {
			t.Errorf("%s as nested slices: %q", name, s)
		}
	}
	if s := decodeAs[[][][]string](t, all["np-U-big"].Object); s[1][2][3] != "c世" {
		t.Errorf("big-endian text: %q", s)
	}
	if s := decodeAs[[][][]string](t, all["np-S-F"].Object); s[0][0][3] != "xxx" || s[1][0][0] != "" {
		t.Errorf("bytes: %q", s)
	}
}

func TestGoldenObjectArrays(t *testing.T) {
	for _, version := range []string{"1.1.0", "0.6.5"} {
		all := recordings(t, version)
		for name, last := range map[string]any{"np-object": map[string]any{"k": []any{int64(1)}}, "np-object-F": 2.5} {
			a := decode(t, "pool", all[name].Object).(*serialize.Array)
			want := []any{int64(1), "two", nil, last}
			if got, err := a.Objects(); err != nil || !reflect.DeepEqual(got, want) || !slices.Equal(a.Shape, []int{2, 2}) {
				t.Errorf("%s %s: %v of %v, %v", version, name, got, a, err)
			}
			again, err := serialize.Encode(a)
			if err != nil {
				t.Fatal(err)
			}
			b := decode(t, "pool", again.Join()).(*serialize.Array)
			if got, err := b.Objects(); err != nil || !reflect.DeepEqual(got, want) || !slices.Equal(b.Shape, []int{2, 2}) {
				t.Errorf("%s %s written again: %v of %v, %v", version, name, got, b, err)
			}
			a.Release()
			b.Release()
		}
	}
}

func TestGoldenPickledArrays(t *testing.T) {
	for _, version := range []string{"1.1.0", "0.6.5"} {
		all := recordings(t, version)
		for memory := range memories {
			m := decode(t, memory, all["pickled-arrays"].Object).(map[string]any)
			for name, want := range map[string]any{
				"f8": 1.5, "f4": 1.5, "i2": int64(-3), "u8": new(big.Int).SetUint64(math.MaxUint64), "bool": true, "c16": 1 + 2i,
				"str": "s", "bytes": []byte("s"),
			} {
				if !reflect.DeepEqual(m[name], want) {
					t.Errorf("%s %s: %#v, want %#v", version, name, m[name], want)
				}
			}
			for name, want := range map[string]string{
				"c": "ndarray(dtype <f8, shape [2 3])", "f": "ndarray(dtype >i4, shape [2 3], fortran order)",
				"strided": "ndarray(dtype <i8, shape [5])", "time": "ndarray(dtype <M8[D], shape [1])",
				"text": "ndarray(dtype <U2, shape [2])", "object": "ndarray(dtype |O, shape [3])", "M8": "ndarray(dtype <M8[D], shape [])",
			} {
				if a, ok := m[name].(*serialize.Array); !ok || a.String() != want {
					t.Errorf("%s %s: %v, want %s", version, name, m[name], want)
				}
			}
			f := m["f"].(*serialize.Array)
			if v, err := serialize.Copy[int32](f); err != nil || !slices.Equal(v, []int32{0, 1, 2, 3, 4, 5}) {
				t.Errorf("%s f: %v, %v", version, v, err)
			}
			if v, err := serialize.View[int64](m["strided"].(*serialize.Array)); err != nil || !slices.Equal(v, []int64{0, 2, 4, 6, 8}) {
				t.Errorf("%s strided: %v, %v", version, v, err)
			}
			s := m["struct"].(*serialize.Array)
			if y, err := s.Field("it's"); err != nil {
				t.Error(err)
			} else if y, err = y.Field("y"); err != nil {
				t.Error(err)
			} else if v, err := y.Strings(); err != nil || !slices.Equal(v, []string{"q", "rs", ""}) {
				t.Errorf("%s struct: %v, %v", version, v, err)
			}
			for _, p := range []string{"0", "2", "3", "4", "5"} {
				a := decode(t, memory, all["pickled-array-"+p].Object).(*serialize.Array)
				v, err := serialize.View[float64](a)
				if err != nil || !slices.Equal(v, []float64{0, 1, 2, 3, 4, 5}) || !slices.Equal(a.Shape, []int{2, 3}) {
					t.Errorf("%s protocol %s: %v %v, %v", version, p, a, v, err)
				}
				a.Release()
			}
		}
	}
	if n, _ := transport.Live(transport.Pooled); n != 0 {
		t.Errorf("%d buffers leaked", n)
	}
}

func TestDecodeAsStructOfArrays(t *testing.T) {
	obj := recordings(t, "1.1.0")["pickled-arrays"].Object
	type numbers struct {
		C       [][]float64
		F       [][]int
		Strided []float32
		Struct  []struct {
			A int
			B [2][2]float64
			C []byte
		}
		Object []any
		F8     float64
		I2     int
		Bool   bool
	}
	n := decodeAs[numbers](t, obj)
	if n.C[1][2] != 5 || n.F[1][0] != 3 || n.Strided[4] != 8 || n.Struct[1].B[1][0] != 3 || n.F8 != 1.5 || n.I2 != -3 || !n.Bool ||
		!reflect.DeepEqual(n.Object, []any{int64(1), nil, "x"}) {
		t.Errorf("%+v", n)
	}
	a := decodeAs[struct{ C, F *serialize.Array }](t, obj)
	if v, err := serialize.At[int32](a.F, 1, 0); err != nil || v != 3 {
		t.Errorf("%v, %v", v, err)
	}
	if d := decodeAs[*pickle.Dict](t, obj); d.Len() < 10 {
		t.Errorf("%d keys", d.Len())
	}
}
