package interop

import (
	"bytes"
	"fmt"
	"math/big"
	"reflect"
	"strconv"
	"strings"

	"github.com/proxyplane/proxyplane/serialize"
)

// value is one of worker.py's VALUES on our side.
type value struct {
	put   any  // what we put so that Python gets its value, nil if Go has no such type
	get   any  // what we get for Python's value, in its natural form; nil: same as put
	loose bool // Python gets a list where it has a tuple or a set
}

var allBytes = func() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}()

func array[T serialize.Element](data []T, shape ...int) *serialize.Array {
	a, err := serialize.NewArray(data, shape...)
	if err != nil {
		panic(err)
	}
	return a
}

func count[T int64 | float64](from, n int) []T {
	s := make([]T, n)
	for i := range s {
		s[i] = T(from + i)
	}
	return s
}

var values = map[string]value{
	"bytes":         {put: bytes.Repeat(allBytes, 10)},
	"bytes-empty":   {put: []byte{}},
	"bytes-1M":      {put: bytes.Repeat(allBytes, 4096)},
	"str":           {put: "plain text"},
	"str-unicode":   {put: "κόσμε \U0001f30d \x00 end"},
	"str-empty":     {put: ""},
	"int":           {put: 42, get: int64(42)},
	"int-negative":  {put: int64(-(1 << 40))},
	"int-big":       {put: new(big.Int).Lsh(big.NewInt(1), 100)},
	"float":         {put: 3.25},
	"list":          {put: []any{1, "two", 3.0, nil, true, []byte("four")}, get: []any{int64(1), "two", 3.0, nil, true, []byte("four")}},
	"tuple":         {put: []any{1, "two", []any{3.0}}, get: []any{int64(1), "two", []any{3.0}}, loose: true},
	"dict":          {put: map[string]any{"a": 1, "b": []int{1, 2, 3}, "c": map[string]string{"d": "e"}}, get: map[string]any{"a": int64(1), "b": []any{int64(1), int64(2), int64(3)}, "c": map[string]any{"d": "e"}}},
	"dict-int-keys": {put: map[int]string{1: "one", 2: "two"}, get: map[any]any{int64(1): "one", int64(2): "two"}},
	"nested":        {put: nested(false), get: nested(true)},
	"set":           {put: []int{1, 2, 3}, get: []any{int64(1), int64(2), int64(3)}, loose: true},
	"f8":            {put: array(count[float64](0, 24), 2, 3, 4)},
	"i8":            {put: array(count[int64](-5, 10), 10)},
	"u1":            {put: array(allBytes, 16, 16)},
	"c16":           {put: array([]complex128{1 + 2i, 3 - 4i}, 2)},
	"scalar-array":  {put: zeroDim(7.5)},
	"empty-array":   {put: array([]float64{}, 0, 3)},
	"f8-1M":         {put: array(count[float64](0, 1<<17), 1<<17)},
	"strided":       {put: array([]float64{0, 2, 4, 10, 12, 14}, 2, 3)},
	"arrays":        {put: map[string]any{"x": array(count[float64](0, 3), 3), "label": "xyz"}, loose: true},
	"f4-fortran":    {},
	"i4-big-endian": {},
	"bool":          {},
	"custom":        {},
}

// zeroDim is NumPy's array without dimensions.
func zeroDim(f float64) *serialize.Array {
	a := array([]float64{f}, 1)
	a.Shape = []int{}
	return a
}

// nested is worker.py's nested value, with Go's own types or as they come back.
func nested(natural bool) any {
	rows := make([]any, 20)
	for i := range rows {
		rows[i] = map[string]any{"id": i, "tags": []string{"x", strconv.Itoa(i)}, "blob": bytes.Repeat([]byte{byte(i)}, 5000)}
		if natural {
			rows[i] = map[string]any{"id": int64(i), "tags": []any{"x", strconv.Itoa(i)}, "blob": bytes.Repeat([]byte{byte(i)}, 5000)}
		}
	}
	if natural {
		return map[string]any{"rows": rows, "meta": map[string]any{"n": int64(20), "ok": true}}
	}
	type meta struct {
		N  int  `pickle:"n"`
		OK bool `pickle:"ok"`
	}
	return map[string]any{"rows": rows, "meta": meta{20, true}}
}

// check compares what we got with Python's value of that name.
func check(name string, got any) error {
	switch name { // those that Go cannot put
	case "f4-fortran":
		a, ok := got.(*serialize.Array)
		if !ok || !a.Fortran || a.DType.String() != "<f4" || fmt.Sprint(a.Shape) != "[3 4]" {
			return fmt.Errorf("got %v", got)
		}
		for i := range 3 {
			for j := range 4 {
				if v, err := serialize.At[float32](a, i, j); err != nil || v != float32(4*i+j) {
					return fmt.Errorf("[%d,%d] = %v, %v", i, j, v, err)
				}
			}
		}
		return nil
	case "i4-big-endian":
		a, ok := got.(*serialize.Array)
		if !ok {
			return fmt.Errorf("got %T", got)
		}
		v, err := serialize.Copy[int32](a)
		if err != nil || !reflect.DeepEqual(v, []int32{0, 1, 2, 3, 4, 5}) {
			return fmt.Errorf("got %v, %v", v, err)
		}
		return nil
	case "bool":
		a, ok := got.(*serialize.Array)
		if !ok {
			return fmt.Errorf("got %T", got)
		}
		v, err := serialize.Copy[bool](a)
		if err != nil || !reflect.DeepEqual(v, []bool{true, false, true}) {
			return fmt.Errorf("got %v, %v", v, err)
		}
		return nil
	case "custom": // opaque, but not mute
		o, ok := got.(*serialize.Opaque)
		if !ok {
			return fmt.Errorf("got %T", got)
		}
		var b strings.Builder
		if err := o.Dump(&b); err != nil {
			return err
		}
		s := b.String()
		for _, want := range []string{"Custom", "abc", "7"} {
			if !strings.Contains(s, want) {
				return fmt.Errorf("%q does not mention %s", s, want)
			}
		}
		return nil
	}
	want := values[name].get
	if want == nil {
		want = values[name].put
	}
	if name == "set" {
		if l, ok := got.([]any); !ok || len(l) != 3 {
			return fmt.Errorf("got %#v", got)
		}
		return nil
	}
	return same(want, got)
}

// same is reflect.DeepEqual that understands arrays and big integers.
func same(want, got any) error {
	switch w := want.(type) {
	case *serialize.Array:
		g, ok := got.(*serialize.Array)
		if !ok || w.DType.String() != g.DType.String() || fmt.Sprint(w.Shape) != fmt.Sprint(g.Shape) || !bytes.Equal(w.Bytes(), g.Bytes()) {
			return fmt.Errorf("want %v, got %v", want, got)
		}
		return nil
	case *big.Int:
		if g, ok := got.(*big.Int); !ok || w.Cmp(g) != 0 {
			return fmt.Errorf("want %v, got %v", want, got)
		}
		return nil
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok || len(g) != len(w) {
			return fmt.Errorf("want %v, got %T %v", want, got, got)
		}
		for k, v := range w {
			if err := same(v, g[k]); err != nil {
				return fmt.Errorf("%s: %w", k, err)
			}
		}
		return nil
	}
	if !reflect.DeepEqual(want, got) {
		return fmt.Errorf("want %T %.300v, got %T %.300v", want, want, got, got)
	}
	return nil
}
