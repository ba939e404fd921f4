package pickle

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/big"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unsafe"
)

type marshaled struct{ n int }

func (m marshaled) MarshalPickle() (any, error) {
	if m.n < 0 {
		return nil, errNegative
	}
	return &Object{Callable: Global{"m", "C"}, Args: Tuple{m.n}}, nil
}

type marshaledPointer struct{ n int }

func (m *marshaledPointer) MarshalPickle() (any, error) { return Tuple{m.n}, nil }

var errNegative = errors.New("negative")

type embedded struct{ E, Name string }

type record struct {
	embedded
	Name    string `pickle:"name"`
	Count   int
	Skip    int    `pickle:"-"`
	Empty   string `pickle:",omitempty"`
	Zero    int    `pickle:"zero,omitempty"`
	private int
	Inner   *record `pickle:"inner"`
	P       marshaledPointer
}

type named []byte

func TestEncodeGoValues(t *testing.T) {
	seven := 7
	for name, c := range map[string]struct{ in, want any }{
		"int8":            {int8(-1), int64(-1)},
		"uint16":          {uint16(65535), int64(65535)},
		"uint64":          {uint64(math.MaxUint64), bigOf("18446744073709551615")},
		"uint64 small":    {uint64(5), int64(5)},
		"named int":       {time.March, int64(3)},
		"float32":         {float32(1.5), 1.5},
		"complex64":       {complex64(1 - 2i), &Object{Callable: Global{"builtins", "complex"}, Args: Tuple{1.0, -2.0}}},
		"big.Int value":   {*bigOf("0x1ffffffffffffffff"), bigOf("0x1ffffffffffffffff")},
		"big.Int fits":    {big.NewInt(5), int64(5)},
		"big.Rat":         {big.NewRat(-3, 6), &Object{Callable: Global{"fractions", "Fraction"}, Args: Tuple{int64(-1), int64(2)}}},
		"nil big.Int":     {(*big.Int)(nil), nil},
		"pointer":         {&seven, int64(7)},
		"nil pointer":     {(*int)(nil), nil},
		"nil list":        {(*List)(nil), nil},
		"nil dict":        {(*Dict)(nil), nil},
		"nil set":         {(*Set)(nil), nil},
		"nil object":      {(*Object)(nil), nil},
		"[]any":           {[]any{1, "x"}, NewList(int64(1), "x")},
		"nil slice":       {[]int(nil), NewList()},
		"[]int":           {[]int{1, 2}, NewList(int64(1), int64(2))},
		"array":           {[2]bool{true, false}, NewList(true, false)},
		"nil bytes":       {[]byte(nil), []byte{}},
		"byte array":      {[3]byte{1, 2, 3}, []byte{1, 2, 3}},
		"named bytes":     {named("x"), []byte("x")},
		"map":             {map[string]int{"b": 2, "a": 1}, dictOf("a", int64(1), "b", int64(2))},
		"map of ints":     {map[int]string{2: "b", -1: "a"}, dictOf(int64(-1), "a", int64(2), "b")},
		"map of any":      {map[any]any{"x": 1, 2: 3, nil: 4, true: 5}, dictOf(nil, int64(4), true, int64(5), int64(2), int64(3), "x", int64(1))},
		"map of arrays":   {map[[2]int]int{{1, 2}: 3}, dictOf(Tuple{int64(1), int64(2)}, int64(3))},
		"nil map":         {map[string]int(nil), NewDict()},
		"set":             {map[string]struct{}{"b": {}, "a": {}}, &Set{Items: []any{"a", "b"}}},
		"Marshaler":       {marshaled{3}, &Object{Callable: Global{"m", "C"}, Args: Tuple{int64(3)}}},
		"nil Marshaler":   {(*marshaledPointer)(nil), nil},
		"Marshaler inner": {[]marshaledPointer{{1}}, NewList(Tuple{int64(1)})},
		"struct": {&record{embedded{"e", "hidden"}, "n", 1, 2, "", 0, 3, nil, marshaledPointer{4}},
			dictOf("name", "n", "Count", int64(1), "inner", nil, "P", Tuple{int64(4)}, "E", "e", "Name", "hidden")},
		"duration": {-time.Second / 2, &Object{Callable: Global{"datetime", "timedelta"}, Args: Tuple{int64(-1), int64(86399), int64(500000)}}},
		"time": {time.Date(2024, 2, 29, 23, 59, 58, 123456789, time.UTC), &Object{Callable: Global{"datetime", "datetime"},
			Args: Tuple{[]byte{7, 232, 2, 29, 23, 59, 58, 1, 226, 64}, &Object{Callable: Global{"datetime", "timezone"},
				Args: Tuple{&Object{Callable: Global{"datetime", "timedelta"}, Args: Tuple{int64(0), int64(0), int64(0)}}}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := Marshal(c.in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if d := differ(got, c.want); d != "" {
				t.Fatal(d)
			}
			again, _ := Marshal(c.in)
			if !bytes.Equal(b, again) {
				t.Fatal("two encodings differ")
			}
		})
	}
}

func TestEncodeErrors(t *testing.T) {
	type node struct{ Next *node }
	ring := &node{}
	ring.Next = ring
	selfMap := map[string]any{}
	selfMap["x"] = selfMap
	selfSlice := make([]any, 1)
	selfSlice[0] = selfSlice
	selfObject := &Object{Callable: Global{"a", "b"}}
	selfObject.Args = Tuple{selfObject}
	selfTuple := make(Tuple, 1)
	selfTuple[0] = selfTuple
	var deep any
	for range encodeMaxDepth + 10 {
		deep = Tuple{deep}
	}
	for name, c := range map[string]struct {
		in   any
		want error
	}{
		"chan":           {make(chan int), ErrType},
		"func":           {[]any{func() {}}, ErrType},
		"pointer ring":   {ring, ErrCycle},
		"map in itself":  {selfMap, ErrCycle},
		"slice in self":  {selfSlice, ErrCycle},
		"own argument":   {selfObject, ErrTooLarge},
		"tuple in self":  {selfTuple, ErrTooLarge},
		"deep":           {deep, ErrTooLarge},
		"bad string":     {"a\xff", ErrType},
		"struct key":     {map[struct{ A int }]int{{1}: 1}, ErrType},
		"LargeBytes":     {LargeBytes{1, strings.NewReader("x")}, ErrType},
		"bad callable":   {&Object{Callable: 5}, ErrType},
		"kwargs, no New": {&Object{Callable: Global{"a", "b"}, Kwargs: NewDict()}, ErrType},
		"extension 0":    {Extension{}, ErrType},
		"buffer order":   {OutOfBand{Index: 1}, ErrType},
		"year 10000":     {time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), ErrType},
		"Marshaler":      {marshaled{-1}, errNegative},
	} {
		if _, err := Marshal(c.in); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := (&Encoder{Protocol: 3}).Encode(nil); err == nil {
		t.Error("protocol 3 is written")
	}
}

// TestEncodeSharing encodes a structure whose expansion would have 2^100 leaves.
func TestEncodeSharing(t *testing.T) {
	for name, grow := range map[string]func(any) any{
		"tuples":  func(v any) any { return Tuple{v, v} },
		"lists":   func(v any) any { return NewList(v, v) },
		"slices":  func(v any) any { return []any{v, v} },
		"objects": func(v any) any { return &Object{Callable: Global{"a", "b"}, Args: Tuple{v, v}} },
		"maps":    func(v any) any { return map[string]any{"a": v, "b": v} },
		"sets":    func(v any) any { return &Set{Items: []any{v, v}, Frozen: true} },
	} {
		v := any(strings.Repeat("leaf", 100))
		for range 100 {
			v = grow(v)
		}
		b, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 10_000 {
			t.Errorf("%s: %d bytes", name, len(b))
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if name == "maps" || name == "slices" {
			continue
		}
		if d := differ(got, v); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestEncodeRecursive(t *testing.T) {
	list := NewList()
	for _, v := range []any{
		Tuple{list}, Tuple{1, list, 2, 3, list}, &Object{Callable: Global{"a", "b"}, Args: Tuple{list}},
		&Object{Callable: Global{"a", "b"}, Args: Tuple{}, Kwargs: dictOf("k", list), New: true},
		&Set{Items: []any{Tuple{list}}, Frozen: true}, PersistentID{list},
	} {
		list.Items = []any{v, "x"}
		for range 2 {
			b, err := Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			b2, err := Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, b2) {
				t.Fatalf("%T: two encodings differ:\n%q\n%q", v, b, b2)
			}
		}
	}
}

func TestEncodeParts(t *testing.T) {
	large := bytes.Repeat([]byte("b"), 5000)
	text := strings.Repeat("t", 5000)
	parts, err := new(Encoder).Encode([]any{"a", large, text, "z", large})
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) != 5 {
		t.Fatalf("%d parts, want 5", len(parts))
	}
	if &parts[1][0] != &large[0] || unsafe.StringData(text) != &parts[3][0] {
		t.Fatal("large values are copied")
	}
	parts, err = (&Encoder{InlineMax: -1}).Encode([]any{"a", large, text})
	if err != nil || len(parts) != 1 {
		t.Fatalf("%d parts, %v; want 1", len(parts), err)
	}
}

// framesOf checks that every byte between large values is in a frame, as Python's framer does, and returns the sizes.
func framesOf(t *testing.T, b []byte) (sizes []int) {
	t.Helper()
	for rest := b[2:]; len(rest) > 0; {
		switch rest[0] {
		case opFrame:
			n := int(rest[1]) | int(rest[2])<<8 | int(rest[3])<<16
			sizes = append(sizes, n)
			rest = rest[frameHeader+n:]
		case opBinbytes:
			rest = rest[5+(int(rest[1])|int(rest[2])<<8|int(rest[3])<<16):]
		default: // too little for a frame
			n := bytes.IndexAny(rest[:min(len(rest), frameMin)], string([]byte{opBinbytes}))
			if n < 0 {
				n = len(rest)
			}
			if n >= frameMin {
				t.Fatalf("%d bytes outside of a frame, from %q", n, rest[:min(n, 20)])
			}
			rest = rest[n:]
		}
	}
	return sizes
}

func TestEncodeFrames(t *testing.T) {
	for _, v := range []any{
		nil, []any{1, 2, 3}, make([]float64, 100_000), bytes.Repeat([]byte("x"), 10_000),
		[]any{bytes.Repeat([]byte("x"), 10_000), "between", bytes.Repeat([]byte("y"), 10_000), 5},
	} {
		b, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range framesOf(t, b) {
			if n < frameMin || n > frameTarget+1000 {
				t.Errorf("a frame of %d bytes", n)
			}
		}
	}
}

func TestEncodeTo(t *testing.T) {
	v := []any{make([]float64, 50_000), bytes.Repeat([]byte("x"), 10_000), strings.Repeat("y", 10_000), map[string]int{"a": 1}}
	want, err := Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := new(Encoder).EncodeTo(&got, v); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Fatal("EncodeTo and Encode differ")
	}
	for n := 0; n < len(want); n += 10_000 {
		w := iotest.TruncateWriter(io.Discard, int64(n))
		if err := new(Encoder).EncodeTo(&failAfter{w: w, n: n}, v); !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("writer failing after %d bytes: %v", n, err)
		}
	}
}

// failAfter fails once n bytes were written.
type failAfter struct {
	w io.Writer
	n int
}

func (f *failAfter) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, io.ErrShortWrite
	}
	return f.w.Write(p)
}

func TestEncodeLargeBytes(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 30_000)
	for _, size := range []int{0, 1, 255, 256, len(data)} {
		var out bytes.Buffer
		v := []any{"before", LargeBytes{int64(size), bytes.NewReader(data)}, "after"}
		if err := new(Encoder).EncodeTo(&out, v); err != nil {
			t.Fatal(err)
		}
		got, err := Decode(out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if d := differ(got, NewList("before", data[:size], "after")); d != "" {
			t.Fatal(d)
		}
	}
	err := new(Encoder).EncodeTo(io.Discard, LargeBytes{10, strings.NewReader("short")})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("a short reader: %v", err)
	}
	if err := new(Encoder).EncodeTo(io.Discard, LargeBytes{-1, nil}); !errors.Is(err, ErrType) {
		t.Fatalf("a negative size: %v", err)
	}
}

func TestEncodeMemo(t *testing.T) {
	var rows []any
	for range 1000 {
		rows = append(rows, map[string]any{"identifier": 1, "store_config": nil, "c": Global{"proxystore.store", "Store"}})
	}
	b, err := Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"identifier", "store_config", "proxystore.store"} {
		if n := bytes.Count(b, []byte(s)); n != 1 {
			t.Errorf("%q is written %d times", s, n)
		}
	}
	if n := bytes.Count(b, []byte{opStackGlobal}); n != 1 {
		t.Errorf("the class is written %d times", n)
	}
}

func TestEncodeIntegers(t *testing.T) {
	for shift := range uint(200) {
		for _, delta := range []int64{-2, -1, 0, 1, 2} {
			for _, sign := range []int64{1, -1} {
				n := new(big.Int).Lsh(big.NewInt(sign), shift)
				n.Add(n, big.NewInt(delta))
				b, err := Marshal(n)
				if err != nil {
					t.Fatal(err)
				}
				got, err := Decode(b)
				if err != nil {
					t.Fatal(err)
				}
				m, ok := bigInteger(got)
				if !ok || m.Cmp(n) != 0 {
					t.Fatalf("%v reads back as %v", n, got)
				}
			}
		}
	}
}

func TestDump(t *testing.T) {
	v, err := Decode([]byte("cposix\nsystem\n(S'rm -rf /'\ntR}(S'k\\n'\nNC\x02\xff\"K\x01ub."))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Dump(&out, v); err != nil {
		t.Fatal(err)
	}
	want := "call posix.system #1\n  arg 0: \"rm -rf /\"\n  state: dict of 2 #2\n    \"k\\n\": None\n    b\"\\xff\\\"\": 1\n"
	if out.String() != want {
		t.Fatalf("got\n%swant\n%s", out.String(), want)
	}
	huge := NewList()
	for range 5000 {
		huge.Items = append(huge.Items, huge, strings.Repeat("x", 10_000), NewList(make([]any, 5000)...))
	}
	out.Reset()
	if err := Dump(&out, huge); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 4<<20 || !strings.Contains(out.String(), "shown as #1") || !strings.Contains(out.String(), "cut after") {
		t.Fatalf("%d bytes", out.Len())
	}
	if err := Dump(&failAfter{}, huge); !errors.Is(err, io.ErrShortWrite) {
		t.Fatal(err)
	}
}

// TestPairs: what ToGo makes of a dict with keys that Go cannot compare is a dict again.
func TestPairs(t *testing.T) {
	d := NewDict()
	d.Set([]byte("k"), int64(1))
	d.Set(Tuple{int64(1), "x"}, "two")
	plain, err := ToGo(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := plain.([]Pair); !ok {
		t.Fatalf("ToGo gives %T", plain)
	}
	data, err := Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if again, ok := back.(*Dict); !ok || again.Len() != 2 {
		t.Errorf("came back as %T", back)
	}
}
