package pickle

import (
	"errors"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
)

// goldenValue decodes a recorded pickle.
func goldenValue(t *testing.T, name string) any {
	t.Helper()
	for _, e := range golden(t) {
		if e.Name == name {
			v, err := Decode(e.Pickle)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("%q is not recorded", name)
	return nil
}

type data struct {
	ObjID string
	Size  int
	Tags  []string
}

type point struct {
	X int
	Y string
}

type slots struct{ A, B, C any }

func TestConvertGolden(t *testing.T) {
	leap := time.Date(2024, 2, 29, 23, 59, 58, 123456000, time.UTC)
	id := [16]byte{0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x12, 0x34, 0x56, 0x78}
	zone := time.FixedZone("", -9000)
	for _, c := range []struct {
		name string
		want any // Convert goes into a new value of this type
	}{
		{"true", true},
		{"none", 0}, {"none", ""}, {"none", (*int)(nil)}, {"none", []int(nil)}, {"none", data{}},
		{"data", data{"id-1", 42, []string{"a", "b"}}},
		{"data", map[string]any{"obj_id": "id-1", "size": int64(42), "tags": []any{"a", "b"}}},
		{"plain", map[string]any{"x": int64(1), "y": "two"}},
		{"plain_empty", data{}},
		{"slots", slots{A: int64(1), B: []any{int64(2)}}},
		{"slots_and_dict", slots{int64(1), int64(2), int64(3)}},
		{"namedtuple", point{1, "b"}},
		{"namedtuple", &point{1, "b"}},
		{"namedtuple", []any{int64(1), "b"}},
		{"namedtuple", [2]any{int64(1), "b"}},
		{"my_list", []int{1, 2}},
		{"my_dict", map[string]int{"a": 1}},
		{"ordered_dict", map[string]int8{"b": 1, "a": 2}},
		{"ordered_dict", []Pair{{"b", int64(1)}, {"a", int64(2)}}},
		{"ordered_dict", struct{ A, B int }{2, 1}},
		{"default_dict", map[string][]float64{"a": {1}}},
		{"counter", map[string]uint{"a": 2, "b": 1}},
		{"deque", []int64{1, 2, 3}},
		{"set", map[int]struct{}{7: {}}},
		{"set", []int{7}},
		{"frozenset", [1]uint8{7}},
		{"datetime_utc", leap}, {"datetime_naive", leap}, {"datetime_zone", time.Date(1999, 12, 31, 1, 2, 3, 0, zone)},
		{"date", time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)},
		{"timedelta", -24*time.Hour + 5*time.Second + 7*time.Microsecond},
		{"decimal", "-1.50"}, {"decimal", -1.5}, {"decimal", *big.NewRat(-3, 2)},
		{"fraction", *big.NewRat(-3, 4)}, {"fraction", -0.75},
		{"uuid", id}, {"uuid", "12345678-1234-5678-9abc-def012345678"}, {"uuid", id[:]},
		{"complex", 1.5 - 2i}, {"complex", complex64(1.5 - 2i)},
		{"global_class", Global{"shapes", "Plain"}},
		{"shared", []any{[]any{int64(1), int64(2)}, []any{int64(1), int64(2)}, map[string]any{"x": []any{int64(1), int64(2)}}}},
		{"dill_type", []Global{{"builtins", "bytes"}, {"builtins", "str"}, {"builtins", "list"}, {"builtins", "builtin_function_or_method"}, {"builtins", "function"}}},
	} {
		p := reflect.New(reflect.TypeOf(c.want))
		if err := Convert(goldenValue(t, c.name), p.Interface()); err != nil {
			t.Errorf("%s into %T: %v", c.name, c.want, err)
			continue
		}
		got := p.Elem().Interface()
		if w, ok := c.want.(time.Time); ok {
			if !w.Equal(got.(time.Time)) || w.Format(time.RFC3339Nano) != got.(time.Time).Format(time.RFC3339Nano) {
				t.Errorf("%s: %v, want %v", c.name, got, w)
			}
			continue
		}
		if w, ok := c.want.(big.Rat); ok {
			if r := got.(big.Rat); w.Cmp(&r) != 0 {
				t.Errorf("%s: %v, want %v", c.name, &r, &w)
			}
			continue
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %#v, want %#v", c.name, got, c.want)
		}
	}
}

func TestConvertNumpy(t *testing.T) {
	seen := 0
	for _, e := range golden(t) {
		code, ok := strings.CutPrefix(e.Name, "numpy_")
		if !ok {
			continue
		}
		seen++
		v, err := Decode(e.Pickle)
		if err != nil {
			t.Fatal(err)
		}
		switch code {
		case "str":
			var s string
			if err := Convert(v, &s); err != nil || s != "é!" {
				t.Errorf("%s/%s: %q %v", e.Name, e.Writer, s, err)
			}
			continue
		case "?":
			var b bool
			if err := Convert(v, &b); err != nil || !b {
				t.Errorf("%s/%s: %v %v", e.Name, e.Writer, b, err)
			}
			continue
		case "c8", "c16":
			var z complex128
			if err := Convert(v, &z); err != nil || z != 1 {
				t.Errorf("%s/%s: %v %v", e.Name, e.Writer, z, err)
			}
			continue
		}
		var f float64
		if err := Convert(v, &f); err != nil || f != 1 {
			t.Errorf("%s/%s: %v %v", e.Name, e.Writer, f, err)
		}
		if code[0] == 'i' || code[0] == 'u' {
			var i int8
			var u uint8
			var b big.Int
			if err := errors.Join(Convert(v, &i), Convert(v, &u), Convert(v, &b)); err != nil || i != 1 || u != 1 || b.Int64() != 1 {
				t.Errorf("%s/%s: %v %v %v %v", e.Name, e.Writer, i, u, &b, err)
			}
		}
	}
	if seen < 17 {
		t.Errorf("%d numpy pickles are recorded; run python3 testdata/record.py with numpy", seen)
	}
}

func TestFloat16(t *testing.T) {
	for bits, want := range map[uint16]float64{
		0x3C00: 1, 0xC000: -2, 0x7BFF: 65504, 0x0001: math.Ldexp(1, -24), 0x0400: math.Ldexp(1, -14), 0x7C00: math.Inf(1), 0xFC00: math.Inf(-1),
	} {
		if got := float16(bits); got != want {
			t.Errorf("%#04x: %v, want %v", bits, got, want)
		}
	}
	if !math.IsNaN(float16(0x7E00)) {
		t.Error("NaN")
	}
}

type custom struct{ got any }

func (c *custom) UnmarshalPickle(v any) error {
	if v == int64(13) {
		return errNegative
	}
	c.got = v
	return nil
}

type outer struct {
	*Embedded
	Named  string `pickle:"other_name"`
	Custom custom
	Keep   int
}

// Embedded is exported so that reflection can make it.
type Embedded struct{ FromEmbedded int }

func TestConvertStruct(t *testing.T) {
	got := outer{Keep: 5}
	in := dictOf("from_embedded", int64(1), "other_name", "n", "custom", Tuple{}, "unknown", nil, int64(3), nil)
	if err := Convert(in, &got); err != nil {
		t.Fatal(err)
	}
	if got.Embedded == nil || got.FromEmbedded != 1 || got.Named != "n" || got.Keep != 5 {
		t.Fatalf("%+v", got)
	}
	if _, ok := got.Custom.got.(Tuple); !ok {
		t.Fatalf("UnmarshalPickle got %v", got.Custom.got)
	}
	if err := Convert(dictOf("Custom", int64(13)), &got); !errors.Is(err, errNegative) || !strings.Contains(err.Error(), ".Custom") {
		t.Fatalf("%v, want the method's error and the place", err)
	}
	var l *List
	if err := Convert(NewList(nil), &l); err != nil || len(l.Items) != 1 {
		t.Fatalf("%v %v", l, err)
	}
	pydantic := &Object{Callable: Global{"m", "C"}, Args: Tuple{}, New: true, HasState: true, State: dictOf(
		"__dict__", dictOf("named", "x", "keep", int64(9)), "__pydantic_fields_set__", &Set{}, "__pydantic_extra__", nil)}
	var model struct {
		Named string
		Keep  int
	}
	if err := Convert(pydantic, &model); err != nil || model.Keep != 9 || model.Named != "x" {
		t.Fatalf("%+v %v", model, err)
	}
}

func TestConvertErrors(t *testing.T) {
	cyclic := NewList()
	cyclic.Items = []any{cyclic}
	type rec []rec
	for name, c := range map[string]struct {
		v    any
		into any
		want error
	}{
		"no pointer":          {nil, 5, ErrType},
		"nil pointer":         {nil, (*int)(nil), ErrType},
		"str into int":        {"5", new(int), ErrType},
		"int into str":        {int64(5), new(string), ErrType},
		"float into int":      {1.0, new(int), ErrType},
		"bool into int":       {true, new(int), ErrType},
		"int8 range":          {int64(200), new(int8), ErrType},
		"uint range":          {int64(-1), new(uint), ErrType},
		"big into int":        {bigOf("0x10000000000000000"), new(int64), ErrType},
		"big into float":      {new(big.Int).Lsh(big.NewInt(1), 5000), new(float64), ErrType},
		"float32 range":       {1e300, new(float32), ErrType},
		"list into map":       {NewList(), new(map[string]int), ErrType},
		"dict into slice":     {NewDict(), new([]int), ErrType},
		"list into struct":    {NewList(), new(point), ErrType},
		"long tuple":          {Tuple{nil, nil, nil}, new(point), ErrType},
		"array length":        {NewList(nil), new([2]int), ErrType},
		"bytes length":        {[]byte("abc"), new([2]byte), ErrType},
		"unhashable key":      {dictOf(NewList(), nil), new(map[any]int), ErrType},
		"func":                {nil, new(func()), nil},
		"value into func":     {int64(1), new(func()), ErrType},
		"inner":               {NewList(NewList("x")), new([][]int), ErrType},
		"cycle":               {cyclic, new(rec), ErrCycle},
		"cycle into any":      {cyclic, new(any), ErrCycle},
		"system into str":     {&Object{Callable: Global{"os", "system"}, Args: Tuple{"rm"}}, new(string), ErrType},
		"bad datetime":        {&Object{Callable: Global{"datetime", "datetime"}, Args: Tuple{[]byte("xx")}}, new(time.Time), ErrType},
		"bad month":           {&Object{Callable: Global{"datetime", "datetime"}, Args: Tuple{make([]byte, 10)}}, new(time.Time), ErrType},
		"bad zone":            {&Object{Callable: Global{"datetime", "datetime"}, Args: Tuple{[]byte{7, 232, 2, 29, 1, 1, 1, 0, 0, 0}, "UTC"}}, new(time.Time), ErrType},
		"huge timedelta":      {&Object{Callable: Global{"datetime", "timedelta"}, Args: Tuple{int64(999999999)}}, new(time.Duration), ErrType},
		"decimal of exponent": {&Object{Callable: Global{"decimal", "Decimal"}, Args: Tuple{"1e-99999999"}}, new(big.Rat), ErrType},
		"fraction over zero":  {&Object{Callable: Global{"fractions", "Fraction"}, Args: Tuple{int64(1), int64(0)}}, new(big.Rat), ErrType},
	} {
		if err := Convert(c.v, c.into); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	err := Convert(NewList(dictOf("k", NewList("x"))), new([]map[string][]int))
	if err == nil || !strings.Contains(err.Error(), `[0]["k"][0]`) {
		t.Errorf("%v does not say where", err)
	}
}

// TestConvertLaughs converts a value that would have 2^100 leaves.
func TestConvertLaughs(t *testing.T) {
	v := any(Tuple{"ha", "ha"})
	for range 100 {
		v = Tuple{v, v}
	}
	type rec []rec
	empty := any(Tuple{})
	for range 100 {
		empty = Tuple{empty, empty}
	}
	if err := ConvertWith(empty, new(rec), Limits{MaxValues: 1 << 18}); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("%v, want ErrTooLarge", err)
	}
	var x any
	if err := Convert(v, &x); err != nil { // into any, sharing stays
		t.Fatal(err)
	}
	for range 101 {
		x = x.([]any)[1]
	}
	if x != "ha" {
		t.Fatalf("%v at the bottom", x)
	}
	if err := ConvertWith(NewList(nil, nil, nil), new([]any), Limits{MaxValues: 3}); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("%v, want ErrTooLarge", err)
	}
}

func TestToGo(t *testing.T) {
	for name, c := range map[string]struct{ in, want any }{
		"scalar":      {int64(5), int64(5)},
		"bytearray":   {ByteArray("x"), []byte("x")},
		"containers":  {Tuple{NewList(int64(1)), &Set{Items: []any{"x"}}}, []any{[]any{int64(1)}, []any{"x"}}},
		"string keys": {dictOf("a", NewList()), map[string]any{"a": []any{}}},
		"mixed keys":  {dictOf("a", nil, int64(1), nil, Global{"m", "n"}, nil), map[any]any{"a": nil, int64(1): nil, Global{"m", "n"}: nil}},
		"tuple keys":  {dictOf(Tuple{int64(1)}, "x", "b", Tuple{}), []Pair{{[]any{int64(1)}, "x"}, {"b", []any{}}}},
		"global":      {Global{"m", "n"}, Global{"m", "n"}},
	} {
		got, err := ToGo(c.in)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %#v, %v; want %#v", name, got, err, c.want)
		}
	}
	for name, want := range map[string]any{
		"ordered_dict": map[string]any{"a": int64(2), "b": int64(1)},
		"default_dict": map[string]any{"a": []any{int64(1)}},
		"counter":      map[string]any{"a": int64(2), "b": int64(1)},
		"deque":        []any{int64(1), int64(2), int64(3)},
		"complex":      1.5 - 2i,
		"fraction":     big.NewRat(-3, 4),
		"timedelta":    -24*time.Hour + 5*time.Second + 7*time.Microsecond,
		"numpy_f4":     1.0,
		"numpy_u8":     uint64(1),
	} {
		got, err := ToGo(goldenValue(t, name))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v, %v; want %#v", name, got, err, want)
		}
	}
	if o, err := ToGo(goldenValue(t, "plain")); err != nil || reflect.TypeOf(o) != objectType {
		t.Errorf("an unknown object becomes %T, %v", o, err)
	}
	if _, err := ToGo(goldenValue(t, "self_dict")); !errors.Is(err, ErrCycle) {
		t.Errorf("a cycle: %v", err)
	}
	two := NewList(int64(1))
	got, err := ToGo(Tuple{two, two})
	if err != nil {
		t.Fatal(err)
	}
	if s := got.([]any); &s[0].([]any)[0] != &s[1].([]any)[0] {
		t.Error("sharing is lost")
	}
}
