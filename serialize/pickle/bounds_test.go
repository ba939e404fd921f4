package pickle

import (
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"
)

// TestNaNKeys: a NaN is a key that no look-up finds.
func TestNaNKeys(t *testing.T) {
	nan := math.NaN()
	plain, err := ToGo(dictOf(nan, int64(1)))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{
		"from a pickle": plain,
		"two":           map[any]any{nan: 1, math.Float64frombits(math.Float64bits(nan) + 1): 1},
		"mixed":         map[any]any{nan: 1, "a": 1, 2: 1},
		"floats":        map[float64]int{nan: 1, 2: 1},
		"arrays":        map[[2]float64]int{{nan, 1}: 1, {2, 3}: 1},
		"maps":          map[float64]map[float64]int{nan: {nan: 1}},
	} {
		pickled, err := Marshal(v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		back, err := Decode(pickled)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for k, x := range back.(*Dict).All() {
			if _, inner := x.(*Dict); !inner && x != int64(1) {
				t.Errorf("%s: the value of %v is %v", name, k, x)
			}
		}
	}
	pickled, err := Marshal(map[float64]struct{}{nan: {}, 1: {}})
	if err != nil {
		t.Fatal(err)
	}
	if back, err := Decode(pickled); err != nil || len(back.(*Set).Items) != 2 {
		t.Errorf("a set with NaN: %v, %v", back, err)
	}
}

// TestSharedPairs: a dict that ToGo makes []Pair is written once, or 2^n references in the value would be 2^n in the pickle.
func TestSharedPairs(t *testing.T) {
	length := func(levels int) int {
		var v any = int64(1)
		for range levels {
			v = dictOf([]byte("a"), v, []byte("b"), v)
		}
		plain, err := ToGo(v)
		if err != nil {
			t.Fatal(err)
		}
		pickled, err := Marshal(plain)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(pickled)
		if err != nil {
			t.Fatal(err)
		}
		d := back.(*Dict)
		a, _ := d.Get([]byte("a"))
		if b, _ := d.Get([]byte("b")); levels > 1 && a != b {
			t.Error("the shared dict is no longer shared")
		}
		return len(pickled)
	}
	if once, twice := length(10), length(20); twice > 2*once+32 {
		t.Errorf("10 levels take %d bytes, 20 take %d", once, twice)
	}
	loop := []Pair{{"self", nil}}
	loop[0].Value = loop
	if _, err := Marshal(loop); !errors.Is(err, ErrCycle) {
		t.Errorf("pairs that contain themselves: %v", err)
	}
}

// TestDecimalExponent: a short text may be a long number.
func TestDecimalExponent(t *testing.T) {
	decimal := func(s string) *Object { return &Object{Callable: Global{"decimal", "Decimal"}, Args: Tuple{s}} }
	cost := func(s string) int {
		c := conversion{budget: budget{lim: Limits{}.withDefaults(0)}}
		r, err := c.decimalRat(s)
		if err != nil || r == nil {
			t.Fatalf("%s: %v %v", s, r, err)
		}
		return c.used
	}
	if short, long := cost("1e-50"), cost("1e-5000"); long < 100*max(short, 1) {
		t.Errorf("1e-50 costs %d values, 1e-5000 %d", short, long)
	}
	list := NewList()
	for range 100 {
		list.Items = append(list.Items, decimal("1e-5000"))
	}
	var into []*big.Rat
	if err := ConvertWith(list, &into, Limits{MaxValues: 1 << 18}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("100 numbers of 5000 digits: %v", err)
	}
	// Prices cost next to nothing.
	for i := range list.Items {
		list.Items[i] = decimal("12345678901234567890.12345678")
	}
	if err := ConvertWith(list, &into, Limits{MaxValues: 1000}); err != nil {
		t.Error(err)
	}
}

// TestZonesAreLoadedOnce, also those that do not exist, and names that no zone has are not even tried.
func TestZonesAreLoadedOnce(t *testing.T) {
	at := func(zone string) *Object {
		return &Object{Callable: Global{"datetime", "datetime"}, Args: Tuple{
			[]byte("\x07\xe4\x01\x01\x00\x00\x00\x00\x00\x00"),
			&Object{Callable: Global{"zoneinfo", "ZoneInfo._unpickle"}, Args: Tuple{zone, true}},
		}}
	}
	b := budget{lim: Limits{}.withDefaults(0)}
	var first time.Time
	for i := range 3 {
		got, _, err := b.datetime(at("Europe/Paris"))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = got
		} else if got.Location() != first.Location() {
			t.Error("the zone was loaded again")
		}
		if _, _, err := b.datetime(at("Europe/Nowhere")); err == nil {
			t.Error("a zone that does not exist")
		}
		if _, _, err := b.datetime(at(strings.Repeat("z", maxZoneName+1))); !errors.Is(err, ErrType) || len(err.Error()) > 300 {
			t.Errorf("a long name: %v", err)
		}
	}
	if len(b.zones) != 2 {
		t.Errorf("%d zones were tried, expected 2", len(b.zones))
	}
}

// TestLongKeysAreCharged where reading an object's fields hashes them.
func TestLongKeysAreCharged(t *testing.T) {
	key := strings.Repeat("k", 1<<20)
	slots := &Object{Callable: Global{"a", "b"}, New: true, HasState: true, State: Tuple{dictOf("x", int64(1)), dictOf(key, int64(2))}}
	ordered := &Object{Callable: Global{"collections", "OrderedDict"}, Args: Tuple{NewList(NewList(key, int64(1)))}}
	for name, o := range map[string]*Object{"slots": slots, "ordered": ordered} {
		if n := pairsCost(o); n < len(key)/16 {
			t.Errorf("%s: a key of %d bytes costs %d values", name, len(key), n)
		}
	}
}

// TestForInput: a short pickle may not make more than so much, an honest one of any length may.
func TestForInput(t *testing.T) {
	for _, c := range []struct{ n, want int }{
		{0, 1 << 21}, {1 << 10, 1 << 21}, {1 << 16, 1 << 22}, {1 << 20, 1 << 24}, {1 << 22, 1 << 24}, {1 << 25, 1 << 27}, {math.MaxInt, math.MaxInt / 4 * 4},
	} {
		if got := (Limits{}).ForInput(c.n).MaxValues; got != c.want {
			t.Errorf("%d bytes: %d values, expected %d", c.n, got, c.want)
		}
	}
	if got := (Limits{MaxValues: 5, Owner: t}).ForInput(1 << 20); got.MaxValues != 5 || got.Owner != t {
		t.Errorf("limits that were given are changed: %v", got)
	}

	// The same row a thousand times, which Python's [[0] * 1000] * 1000 is.
	row := NewList()
	grid := NewList()
	for range 1000 {
		row.Items = append(row.Items, int64(0))
		grid.Items = append(grid.Items, row)
	}
	pickled, err := Marshal(grid)
	if err != nil {
		t.Fatal(err)
	}
	var ints [][]int
	if err := ConvertWith(grid, &ints, Limits{}.ForInput(len(pickled))); err != nil {
		t.Error(err)
	}
	// One text a hundred thousand times.
	texts := make([]any, 100_000)
	word := strings.Repeat("w", 1000)
	for i := range texts {
		texts[i] = map[string]any{"k": word}
	}
	if pickled, err = Marshal(texts); err != nil {
		t.Fatal(err)
	}
	v, err := Decode(pickled)
	if err != nil {
		t.Fatal(err)
	}
	var maps []map[string]string
	if err := ConvertWith(v, &maps, Limits{}.ForInput(len(pickled))); err != nil {
		t.Error(err)
	}
	if _, err := ToGoWith(v, Limits{}.ForInput(len(pickled))); err != nil {
		t.Error(err)
	}
	if _, err := ToGoWith(v, Limits{MaxValues: 1000}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("ToGoWith of more than its limit: %v", err)
	}
	if _, err := ToGoWith(NewList(NewList()), Limits{MaxDepth: 1}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("ToGoWith of what is deeper than its limit: %v", err)
	}
	// Convert into an interface{} has as many levels as ToGo.
	var x any
	if err := ConvertWith(NewList(NewList()), &x, Limits{MaxDepth: 2}); err != nil {
		t.Error(err)
	}
	if err := ConvertWith(NewList(NewList(NewList())), &x, Limits{MaxDepth: 2}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("three levels where two are allowed: %v", err)
	}
}

// TestKeysInErrors are shown by kind unless they are short.
func TestKeysInErrors(t *testing.T) {
	deep := Tuple{nil}
	for range 100 {
		deep = Tuple{deep, deep} // 2^100 references
	}
	for _, c := range []struct {
		into any
		key  any
		want string
	}{
		{&map[string]int{}, "name", `(at ["name"])`},
		{&map[string]int{}, strings.Repeat("x", 1000), `(at ["` + strings.Repeat("x", 40) + `"])`},
		{&map[int]int{}, int64(5), "(at [5])"},
		{&map[*Object]int{}, &Object{Callable: Global{"a", "b"}, Args: deep}, "(at [an object of a.b])"},
	} {
		if err := Convert(dictOf(c.key, "no number"), c.into); err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%v, expected %s", err, c.want)
		}
	}
}
