package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/pickle"
)

// maxJSONDepth bounds nesting, as Python's json module is bounded by its recursion limit.
const maxJSONDepth = 1000

// parseJSON returns the Python value that json.loads would return: dicts keep their order, the last of equal keys wins, integers are exact at any
// size.
func parseJSON(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("JSON must be UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := jsonValue(dec, 0)
	if err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = errors.New("it ends too early")
		}
		return nil, fmt.Errorf("not JSON (at byte %d): %w", dec.InputOffset(), err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("not JSON: more after the value that ends at byte %d", dec.InputOffset())
	}
	return v, nil
}

func jsonValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("nested more than %d deep", maxJSONDepth)
	}
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		return jsonNumber(string(t))
	case json.Delim:
		if t == '[' {
			l := &pickle.List{}
			for dec.More() {
				v, err := jsonValue(dec, depth+1)
				if err != nil {
					return nil, err
				}
				l.Items = append(l.Items, v)
			}
			_, err := dec.Token()
			return l, err
		}
		d := pickle.NewDict()
		for dec.More() {
			k, err := dec.Token()
			if err != nil {
				return nil, err
			}
			v, err := jsonValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			d.Set(k, v)
		}
		_, err := dec.Token()
		return d, err
	}
	return t, nil // string, bool, nil
}

// jsonNumber returns an int of Python if the number has neither point nor exponent, else a float.
func jsonNumber(s string) (any, error) {
	if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, fmt.Errorf("number %.40s does not fit a float", s)
		}
		return f, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	// Conversion from decimal is not linear; this is Python's own limit.
	if len(s) > 4301 {
		return nil, fmt.Errorf("an integer of %d digits; Python takes at most 4300", len(s))
	}
	n, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return nil, fmt.Errorf("number %.40s", s)
	}
	return n, nil
}

// formatJSON returns a decoded value as one line of JSON. Keys are sorted; scalar keys that are no strings become strings, as by Python's
// json.dumps; bytes become base64, tuples and sets lists, arrays nested lists, complex numbers [re, im], times RFC 3339, durations seconds. Other
// values, NaN and infinities are errors that say where they are.
func formatJSON(v any) ([]byte, error) {
	w := jsonWriter{}
	if err := w.value(v, 0); err != nil {
		return nil, err
	}
	w.b.WriteByte('\n')
	return w.b.Bytes(), nil
}

type jsonWriter struct {
	b    bytes.Buffer
	path []string
}

func (w *jsonWriter) errorf(format string, args ...any) error {
	where := ""
	if len(w.path) > 0 {
		where = fmt.Sprintf(" (at %.200s)", strings.Join(w.path, ""))
	}
	return fmt.Errorf("%s has no form in JSON%s", fmt.Sprintf(format, args...), where)
}

func (w *jsonWriter) value(v any, depth int) error {
	if depth > maxJSONDepth {
		return w.errorf("a value nested more than %d deep", maxJSONDepth)
	}
	switch v := v.(type) {
	case nil:
		w.b.WriteString("null")
	case bool:
		w.b.WriteString(strconv.FormatBool(v))
	case int64:
		w.b.WriteString(strconv.FormatInt(v, 10))
	case uint64:
		w.b.WriteString(strconv.FormatUint(v, 10))
	case *big.Int:
		w.b.WriteString(v.String())
	case float64:
		return w.float(v)
	case float32:
		return w.float(float64(v))
	case complex128:
		return w.list(2, depth, func(i int) any { return []float64{real(v), imag(v)}[i] })
	case *big.Rat:
		w.text(v.String())
	case string:
		if !utf8.ValidString(v) {
			return w.errorf("a string with lone surrogates")
		}
		w.text(v)
	case []byte:
		w.text(base64.StdEncoding.EncodeToString(v))
	case time.Time:
		w.text(v.Format(time.RFC3339Nano))
	case time.Duration:
		return w.float(v.Seconds())
	case []any:
		return w.list(len(v), depth, func(i int) any { return v[i] })
	case pickle.Tuple:
		return w.list(len(v), depth, func(i int) any { return v[i] })
	case map[string]any:
		return w.dict(v, depth)
	case map[any]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			name, ok := keyName(k)
			if _, twice := m[name]; !ok || twice {
				return w.errorf("a dict with the key %v", k)
			}
			m[name] = e
		}
		return w.dict(m, depth)
	case []pickle.Pair:
		return w.errorf("a dict with keys such as %T", v[0].Key)
	case *serialize.Array:
		return w.array(v, depth)
	case *serialize.Opaque:
		return w.errorf("a %s", v)
	case *pickle.Object:
		class, _ := v.Class()
		return w.errorf("an object of class %s", class)
	default:
		return w.errorf("a %s", strings.TrimPrefix(fmt.Sprintf("%T", v), "*"))
	}
	return nil
}

// keyName returns a dict key as json.dumps does.
func keyName(k any) (string, bool) {
	switch k := k.(type) {
	case nil:
		return "null", true
	case bool:
		return strconv.FormatBool(k), true
	case int64:
		return strconv.FormatInt(k, 10), true
	case float64:
		w := jsonWriter{}
		err := w.float(k)
		return w.b.String(), err == nil
	case string:
		return k, utf8.ValidString(k)
	}
	return "", false
}

// float writes a number that reads back as a float, also a whole one.
func (w *jsonWriter) float(f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return w.errorf("%v", f)
	}
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	w.b.WriteString(s)
	return nil
}

func (w *jsonWriter) text(s string) {
	enc := json.NewEncoder(&w.b)
	enc.SetEscapeHTML(false)
	enc.Encode(s)               // cannot fail: a string into memory
	w.b.Truncate(w.b.Len() - 1) // its newline
}

func (w *jsonWriter) list(n, depth int, at func(i int) any) error {
	w.b.WriteByte('[')
	for i := range n {
		if i > 0 {
			w.b.WriteByte(',')
		}
		w.path = append(w.path, fmt.Sprintf("[%d]", i))
		if err := w.value(at(i), depth+1); err != nil {
			return err
		}
		w.path = w.path[:len(w.path)-1]
	}
	w.b.WriteByte(']')
	return nil
}

func (w *jsonWriter) dict(m map[string]any, depth int) error {
	keys := make([]string, 0, len(m))
	for k := range m {
		if !utf8.ValidString(k) {
			return w.errorf("a key with lone surrogates")
		}
		keys = append(keys, k)
	}
	slices.Sort(keys)
	w.b.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			w.b.WriteByte(',')
		}
		w.text(k)
		w.b.WriteByte(':')
		w.path = append(w.path, fmt.Sprintf("[%.40q]", k))
		if err := w.value(m[k], depth+1); err != nil {
			return err
		}
		w.path = w.path[:len(w.path)-1]
	}
	w.b.WriteByte('}')
	return nil
}

// array writes an array as ndarray.tolist would have it.
func (w *jsonWriter) array(a *serialize.Array, depth int) error {
	items, err := elements(a)
	if err == nil && len(items) == 0 && slices.Max(append(a.Shape, 0)) > 1<<20 {
		return w.errorf("an empty array of shape %v", a.Shape) // its lists would take memory that the object does not have
	}
	if err != nil {
		return w.errorf("an array of dtype %v", a.DType)
	}
	var nest func(shape []int, items []any) any
	nest = func(shape []int, items []any) any {
		if len(shape) == 0 {
			return items[0]
		}
		step := 1
		for _, n := range shape[1:] {
			step *= n
		}
		l := make([]any, shape[0])
		for i := range l {
			l[i] = nest(shape[1:], items[i*step:(i+1)*step])
		}
		return l
	}
	return w.value(nest(a.Shape, items), depth)
}

// elements returns the elements in C order, as values that value writes.
func elements(a *serialize.Array) ([]any, error) {
	d := a.DType
	switch d.Kind {
	case serialize.KindObject:
		return a.Objects()
	case serialize.KindUnicode, serialize.KindBytes:
		return boxAll(a.Strings())
	case serialize.KindBool:
		b, err := serialize.Copy[uint8](a)
		out := make([]any, len(b))
		for i, v := range b {
			out[i] = v != 0
		}
		return out, err
	case serialize.KindInt:
		switch d.Size {
		case 1:
			return signed(serialize.Copy[int8](a))
		case 2:
			return signed(serialize.Copy[int16](a))
		case 4:
			return signed(serialize.Copy[int32](a))
		case 8:
			return signed(serialize.Copy[int64](a))
		}
	case serialize.KindUint:
		switch d.Size {
		case 1:
			return unsigned(serialize.Copy[uint8](a))
		case 2:
			return unsigned(serialize.Copy[uint16](a))
		case 4:
			return unsigned(serialize.Copy[uint32](a))
		case 8:
			return unsigned(serialize.Copy[uint64](a))
		}
	case serialize.KindFloat:
		switch d.Size {
		case 4:
			return boxAll(serialize.Copy[float32](a))
		case 8:
			return boxAll(serialize.Copy[float64](a))
		}
	case serialize.KindComplex:
		if d.Size == 16 {
			return boxAll(serialize.Copy[complex128](a))
		}
	}
	return nil, serialize.ErrType
}

func boxAll[T any](s []T, err error) ([]any, error) {
	out := make([]any, len(s))
	for i, v := range s {
		out[i] = v
	}
	return out, err
}

func signed[T int8 | int16 | int32 | int64](s []T, err error) ([]any, error) {
	out := make([]any, len(s))
	for i, v := range s {
		out[i] = int64(v)
	}
	return out, err
}

func unsigned[T uint8 | uint16 | uint32 | uint64](s []T, err error) ([]any, error) {
	out := make([]any, len(s))
	for i, v := range s {
		out[i] = uint64(v)
	}
	return out, err
}
