package pickle

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"
	"testing/iotest"
)

//go:embed testdata/golden.json
var goldenJSON []byte

type goldenEntry struct {
	Name, Writer string
	Pickle       []byte
}

func golden(t testing.TB) []goldenEntry {
	t.Helper()
	var entries []goldenEntry
	if err := json.Unmarshal(goldenJSON, &entries); err != nil {
		t.Fatalf("testdata/golden.json: %v; record it again with python3 testdata/record.py", err)
	}
	return entries
}

// goldenValues spells out what the recorded values decode to.
func goldenValues() map[string]any {
	shape := func(name string) Global { return Global{"shapes", name} }
	builtin := func(name string) Global { return Global{"builtins", name} }
	ints := func(from, to int64) []any {
		var out []any
		for i := from; i < to; i++ {
			out = append(out, i)
		}
		return out
	}
	selfList := NewList(int64(1))
	selfList.Items = append(selfList.Items, selfList)
	selfDict := NewDict()
	selfDict.Set("me", selfDict)
	inner := NewList()
	selfTuple := Tuple{inner}
	inner.Items = append(inner.Items, selfTuple)
	selfObject := &Object{Callable: shape("Plain"), Args: Tuple{}, New: true, HasState: true}
	selfObject.State = dictOf("me", selfObject)
	two := NewList(int64(1), int64(2))
	longDict := NewDict()
	for i := range 12 {
		longDict.Set(fmt.Sprint(i), int64(i))
	}
	pow := func(n uint) *big.Int { return new(big.Int).Lsh(big.NewInt(1), n) }
	neg := func(n *big.Int) *big.Int { return new(big.Int).Neg(n) }
	stamp := func(b ...byte) []byte { return b }
	leap := stamp(7, 232, 2, 29, 23, 59, 58, 1, 226, 64)
	delta := func(days, seconds, us int64) *Object {
		return &Object{Callable: Global{"datetime", "timedelta"}, Args: Tuple{days, seconds, us}}
	}
	zone := func(d *Object) *Object { return &Object{Callable: Global{"datetime", "timezone"}, Args: Tuple{d}} }
	datetime := func(args ...any) *Object { return &Object{Callable: Global{"datetime", "datetime"}, Args: args} }
	call := func(module, name string, args ...any) *Object {
		if args == nil {
			args = Tuple{}
		}
		return &Object{Callable: Global{module, name}, Args: args}
	}
	v := map[string]any{
		"none": nil, "true": true, "false": false,
		"ints": NewList(int64(0), int64(1), int64(255), int64(256), int64(65535), int64(65536), int64(-1), int64(-128), int64(-129),
			int64(math.MaxInt32), int64(math.MinInt32), int64(math.MaxInt32+1), int64(math.MaxInt64), int64(math.MinInt64)),
		"big_ints": NewList(pow(63), new(big.Int).Sub(neg(pow(63)), big.NewInt(1)), pow(64),
			bigOf("1"+strings.Repeat("0", 40)), bigOf("-1"+strings.Repeat("0", 40)), pow(2100), neg(pow(2047))),
		"floats":    NewList(0.0, math.Copysign(0, -1), 1.5, -2.25, 1e300, 5e-324, math.Inf(1), math.Inf(-1)),
		"nan":       math.NaN(),
		"strings":   NewList("", "a", "abc", "é", "日本語", "😀", `a\b`, `\u0041`, "new\nline", "\r", "\x00", strings.Repeat("x", 300)),
		"surrogate": "a\xED\xA0\x80b",
		"bytes":     NewList([]byte{}, []byte("a"), []byte{0, 255, 128}, bytes.Repeat([]byte("x"), 300)),
		"bytearray": NewList(ByteArray{}, ByteArray("a"), ByteArray(bytes.Repeat([]byte{0, 255}, 150))),
		"tuples": NewList(Tuple{}, Tuple{int64(1)}, Tuple{int64(1), int64(2)}, Tuple{int64(1), int64(2), int64(3)},
			Tuple{int64(1), int64(2), int64(3), int64(4)}, Tuple{Tuple{}, Tuple{Tuple{}}}),
		"lists":           NewList(NewList(), NewList(int64(1)), NewList(NewList(), NewList(NewList())), NewList(ints(0, 1002)...)),
		"dicts":           NewList(dictOf(), dictOf("a", int64(1)), dictOf("a", int64(1), "b", dictOf("c", nil)), dictOf(int64(1), "x", nil, "y", Tuple{int64(1), int64(2)}, "z", []byte("k"), int64(0))),
		"long_dict":       longDict,
		"set":             &Set{Items: []any{int64(7)}},
		"empty_set":       &Set{},
		"frozenset":       &Set{Items: []any{int64(7)}, Frozen: true},
		"empty_frozenset": &Set{Frozen: true},
		"self_list":       selfList, "self_dict": selfDict, "self_tuple": selfTuple, "self_object": selfObject,
		"shared":          NewList(two, two, dictOf("x", two)),
		"global_class":    shape("Plain"),
		"global_nested":   shape("Outer.Inner"),
		"global_builtins": NewList(builtin("int"), builtin("len"), builtin("ValueError"), builtin("range"), builtin("zip"), builtin("set"), builtin("bytes")),
		"plain":           &Object{Callable: shape("Plain"), Args: Tuple{}, New: true, HasState: true, State: dictOf("x", int64(1), "y", "two")},
		"plain_empty":     &Object{Callable: shape("Plain"), Args: Tuple{}, New: true},
		"data": &Object{Callable: shape("Data"), Args: Tuple{}, New: true, HasState: true,
			State: dictOf("obj_id", "id-1", "size", int64(42), "tags", NewList("a", "b"))},
		"namedtuple":     &Object{Callable: shape("Point"), Args: Tuple{int64(1), "b"}, New: true},
		"my_list":        &Object{Callable: shape("MyList"), Args: Tuple{}, New: true, Items: []any{int64(1), int64(2)}, HasState: true, State: dictOf("note", "n")},
		"my_dict":        &Object{Callable: shape("MyDict"), Args: Tuple{}, New: true, Pairs: dictOf("a", int64(1)), HasState: true, State: dictOf("note", "n")},
		"my_str":         &Object{Callable: shape("MyStr"), Args: Tuple{"abc"}, New: true},
		"my_int":         &Object{Callable: shape("MyInt"), Args: Tuple{int64(5)}, New: true},
		"enum":           call("shapes", "Color", int64(1)),
		"ordered_dict":   &Object{Callable: Global{"collections", "OrderedDict"}, Args: Tuple{}, Pairs: dictOf("b", int64(1), "a", int64(2))},
		"default_dict":   &Object{Callable: Global{"collections", "defaultdict"}, Args: Tuple{builtin("list")}, Pairs: dictOf("a", NewList(int64(1)))},
		"counter":        call("collections", "Counter", dictOf("a", int64(2), "b", int64(1))),
		"deque":          &Object{Callable: Global{"collections", "deque"}, Args: Tuple{}, Items: []any{int64(1), int64(2), int64(3)}},
		"datetime_naive": datetime(leap),
		"datetime_utc":   datetime(leap, zone(delta(0, 0, 0))),
		"datetime_zone":  datetime(stamp(7, 207, 12, 31, 1, 2, 3, 0, 0, 0), zone(delta(-1, 77400, 0))),
		"date":           call("datetime", "date", stamp(7, 232, 2, 29)),
		"timedelta":      delta(-1, 5, 7),
		"decimal":        call("decimal", "Decimal", "-1.50"),
		"uuid": &Object{Callable: Global{"uuid", "UUID"}, Args: Tuple{}, New: true, HasState: true,
			State: dictOf("int", bigOf("0x12345678123456789abcdef012345678"))},
		"complex":        call("builtins", "complex", 1.5, -2.0),
		"fraction":       call("fractions", "Fraction", int64(-3), int64(4)),
		"exception":      call("builtins", "ValueError", "bad", int64(3)),
		"range":          call("builtins", "range", int64(1), int64(10), int64(2)),
		"slots":          &Object{Callable: shape("Slots"), Args: Tuple{}, New: true, HasState: true, State: Tuple{nil, dictOf("a", int64(1), "b", NewList(int64(2)))}},
		"slots_and_dict": &Object{Callable: shape("SlotsAndDict"), Args: Tuple{}, New: true, HasState: true, State: Tuple{dictOf("c", int64(3)), dictOf("a", int64(1), "b", int64(2))}},
		"kwargs":         &Object{Callable: shape("Kw"), Args: Tuple{}, New: true, Kwargs: dictOf("a", int64(1))},
		"out_of_band":    NewList(OutOfBand{Index: 0}, OutOfBand{Index: 1, ReadOnly: true}),
		"dill_type":      NewList(builtin("bytes"), builtin("str"), builtin("list"), builtin("builtin_function_or_method"), builtin("function")),
	}
	return v
}

// TestGolden decodes what Python wrote, by slice, by stream in pieces of every size, and again after encoding.
func TestGolden(t *testing.T) {
	want := goldenValues()
	seen := make(map[string]bool)
	for _, e := range golden(t) {
		seen[e.Name] = true
		t.Run(e.Name+"/"+e.Writer, func(t *testing.T) {
			got, err := Decode(e.Pickle)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(e.Name, "numpy_") { // those are read by Convert, see TestConvertNumpy
				w, ok := want[e.Name]
				if !ok {
					t.Fatalf("no expectation for %q: add it to goldenValues", e.Name)
				}
				if d := differ(got, w); d != "" {
					t.Fatalf("decoded value differs %s", d)
				}
			}
			streamed, err := NewDecoder(iotest.OneByteReader(bytes.NewReader(e.Pickle)), Limits{}).Decode()
			if err != nil {
				t.Fatal(err)
			}
			if d := differ(streamed, got); d != "" {
				t.Fatalf("streamed value differs %s", d)
			}
			for _, protocol := range []int{4, 5} {
				parts, err := (&Encoder{Protocol: protocol, InlineMax: 64}).Encode(got)
				if err != nil {
					t.Fatal(err)
				}
				again, err := Decode(bytes.Join(parts, nil))
				if err != nil {
					t.Fatal(err)
				}
				if d := differ(again, got); d != "" {
					t.Fatalf("value differs after encoding with protocol %d %s", protocol, d)
				}
			}
			var out strings.Builder
			if err := Dump(&out, got); err != nil || out.Len() == 0 {
				t.Fatalf("Dump: %q, %v", out.String(), err)
			}
		})
	}
	for name := range want {
		if !seen[name] {
			t.Errorf("%q is expected but not recorded; run python3 testdata/record.py", name)
		}
	}
}

// TestGoldenTruncated cuts every recorded pickle at every byte: each prefix is an error, and never a value.
func TestGoldenTruncated(t *testing.T) {
	for _, e := range golden(t) {
		for n := 0; n < len(e.Pickle); n += 1 + len(e.Pickle)/200 {
			if v, err := Decode(e.Pickle[:n]); err == nil {
				t.Fatalf("%s/%s cut to %d of %d bytes decodes to %v", e.Name, e.Writer, n, len(e.Pickle), v)
			}
			if v, err := NewDecoder(bytes.NewReader(e.Pickle[:n]), Limits{}).Decode(); err == nil {
				t.Fatalf("%s/%s cut to %d of %d bytes streams to %v", e.Name, e.Writer, n, len(e.Pickle), v)
			}
		}
	}
}
