package pickle

import (
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Unmarshaler is implemented, by a pointer, by types that read a structural value themselves. v is lent as Convert's is.
type Unmarshaler interface{ UnmarshalPickle(v any) error }

// OwnedUnmarshaler is implemented instead, or as well, by types that must know on whose behalf they are made: owner is Limits.Owner.
type OwnedUnmarshaler interface {
	UnmarshalPickleFor(owner, v any) error
}

// Convert stores the structural value v in *into, by reflection and without calling anything a pickle names:
//
//   - an interface{} gets what ToGo returns; a structural type (*Dict, Tuple, Global, *Object, ...) gets the value as it is;
//   - None is the zero value of any type;
//   - numbers go into any number type that holds them exactly (floats are rounded to float32), numpy scalars too;
//   - bytes and bytearray go into []byte (lent: it aliases the pickle) and byte arrays, a str into string kinds;
//   - list, tuple, set, deque, list subclasses and namedtuples go into slices, arrays and, by position, structs;
//   - dicts, the dict types of collections and the state of objects go into maps and, by name, structs. A field has the name
//     of its tag (see Encoder); without one the Python name may differ in case and underscores (obj_id is ObjID). Keys
//     without a field are ignored, fields without a key keep their value;
//   - sets go into map[K]struct{} as well;
//   - datetime, date, timedelta, complex, Fraction, Decimal and UUID go into time.Time, time.Duration, complex numbers, big.Rat,
//     string (Decimal and UUID; Decimal also float64 and big.Rat) and [16]byte (UUID).
//
// The work is bounded by Limits' defaults: values reached many times through shared references count every time
// (ErrTooLarge), and cycles are ErrCycle. Anything that does not fit is ErrType. On error *into may be partly set.
func Convert(v any, into any) error { return ConvertWith(v, into, Limits{}) }

// ConvertWith is Convert with limits, of which it uses MaxDepth, MaxValues and Owner. Limits.ForInput gives those for a value whose
// pickle's length is known.
func ConvertWith(v any, into any, lim Limits) error {
	p := reflect.ValueOf(into)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return fmt.Errorf("pickle: %w: Convert into %T, expected a pointer", ErrType, into)
	}
	c := conversion{budget: budget{lim: lim.withDefaults(0)}}
	return c.convert(v, p.Elem())
}

var (
	unmarshalerType = reflect.TypeFor[Unmarshaler]()
	ownedType       = reflect.TypeFor[OwnedUnmarshaler]()
	anyType         = reflect.TypeFor[any]()
	pairsType       = reflect.TypeFor[[]Pair]()
)

// budget is what a Convert or a ToGo may do, and what it has done.
type budget struct {
	lim   Limits
	depth int
	used  int
	zones map[string]zone    // by name: reading a zone costs far more than naming it again
	texts map[textKey]string // what numpy's long str_ say
}

// textKey identifies the bytes of a numpy str_, which many may share.
type textKey struct {
	p         *byte
	n         int
	bigEndian bool
}

// spend counts n values, or work of that worth.
func (b *budget) spend(n int) error {
	if n > b.lim.MaxValues-b.used {
		return fmt.Errorf("pickle: %w: more values than Limits.MaxValues (%d), counting shared ones each time", ErrTooLarge, b.lim.MaxValues)
	}
	b.used += n
	return nil
}

// descend goes one level down; depth-- goes up again.
func (b *budget) descend() error {
	if b.depth >= b.lim.MaxDepth {
		return fmt.Errorf("pickle: %w: values nest deeper than Limits.MaxDepth (%d)", ErrTooLarge, b.lim.MaxDepth)
	}
	b.depth++
	return nil
}

// conversion is the state of one Convert.
type conversion struct {
	budget
	path map[any]bool // containers being converted, kept from pathFrom levels on: a cycle gets that deep
}

const pathFrom = 64

// cells is the cost of n elements of a type: its size in words of 16 bytes, as a value has.
func cells(n int, t reflect.Type) int {
	size := (t.Size() + 15) / 16
	if size > 1 && uintptr(n) > math.MaxInt/size {
		return math.MaxInt
	}
	return n * max(int(size), 1)
}

func (c *conversion) convert(v any, dst reflect.Value) error {
	if err := c.spend(1); err != nil {
		return err
	}
	if err := c.descend(); err != nil {
		return err
	}
	defer func() { c.depth-- }()
	if c.depth > pathFrom {
		if id := identity(v); id != nil {
			if c.path[id] {
				return fmt.Errorf("pickle: %w: cannot convert %s", ErrCycle, describe(v))
			}
			if c.path == nil {
				c.path = make(map[any]bool)
			}
			c.path[id] = true
			defer delete(c.path, id)
		}
	}

	t := dst.Type()
	if pt := reflect.PointerTo(t); dst.CanAddr() && (pt.Implements(unmarshalerType) || pt.Implements(ownedType)) {
		if t.Kind() == reflect.Pointer && dst.IsNil() && v != nil {
			dst.Set(reflect.New(t.Elem()))
		}
		if u, ok := dst.Addr().Interface().(OwnedUnmarshaler); ok {
			return u.UnmarshalPickleFor(c.lim.Owner, v)
		}
		return dst.Addr().Interface().(Unmarshaler).UnmarshalPickle(v)
	}
	if t == anyType {
		// The result holds each shared container once, but it is walked once per conversion: charge what it holds.
		g := goer{budget: &c.budget}
		c.depth-- // g counts this level itself
		x, err := g.value(v)
		c.depth++
		if err != nil {
			return err
		}
		if x == nil {
			dst.SetZero()
		} else {
			dst.Set(reflect.ValueOf(x))
		}
		return nil
	}
	if v == nil {
		dst.SetZero()
		return nil
	}
	// Structural targets, and interfaces that the value satisfies.
	if vt := reflect.TypeOf(v); vt == t || t.Kind() == reflect.Interface && vt.Implements(t) {
		dst.Set(reflect.ValueOf(v))
		return nil
	}
	switch t {
	case timeType, durationType, bigIntStruct, bigRatStruct:
		return c.special(v, dst)
	}
	switch t.Kind() {
	case reflect.Pointer:
		if t.Elem() == bigIntStruct {
			if n, ok := v.(*big.Int); ok {
				dst.Set(reflect.ValueOf(n))
				return nil
			}
		}
		if err := c.spend(cells(1, t.Elem())); err != nil {
			return err
		}
		p := dst
		if dst.IsNil() {
			p = reflect.New(t.Elem())
		}
		delete(c.path, identity(v)) // the pointer's target is the same value, not one inside it
		if err := c.convert(v, p.Elem()); err != nil {
			return err
		}
		if dst.IsNil() {
			dst.Set(p.Convert(t))
		}
		return nil
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return c.number(v, dst)
	case reflect.String:
		return c.text(v, dst)
	case reflect.Slice, reflect.Array:
		return c.sequence(v, dst)
	case reflect.Map:
		return c.mapping(v, dst)
	case reflect.Struct:
		return c.structure(v, dst)
	}
	return mismatch(v, t)
}

func mismatch(v any, t reflect.Type) error {
	return fmt.Errorf("pickle: %w: %s does not go into a Go %s", ErrType, describe(v), t)
}

// special converts into time.Time, time.Duration, big.Int and big.Rat.
func (c *conversion) special(v any, dst reflect.Value) error {
	if o, ok := v.(*Object); ok && o != nil {
		if err := c.spend(rationalCost(o)); err != nil {
			return err
		}
		switch p := dst.Addr().Interface().(type) {
		case *time.Time:
			if t, ok, err := c.datetime(o); ok {
				*p = t
				return err
			}
		case *time.Duration:
			if d, ok, err := asTimedelta(o); ok {
				*p = d
				return err
			}
		case *big.Rat:
			if r, ok := asFraction(o); ok {
				*p = *r
				return nil
			}
			if s, ok := asDecimal(o); ok {
				r, err := c.decimalRat(s)
				if err != nil {
					return err
				}
				if r != nil {
					*p = *r
					return nil
				}
			}
		case *big.Int:
			n, _, err := c.numpyScalar(o)
			if err != nil {
				return err
			}
			switch n := n.(type) {
			case int64:
				p.SetInt64(n)
				return nil
			case uint64:
				p.SetUint64(n)
				return nil
			}
		}
	}
	switch n := v.(type) {
	case int64:
		switch p := dst.Addr().Interface().(type) {
		case *big.Int:
			p.SetInt64(n)
			return nil
		case *big.Rat:
			p.SetInt64(n)
			return nil
		}
	case *big.Int:
		if err := c.spend(n.BitLen() / 128); err != nil {
			return err
		}
		switch p := dst.Addr().Interface().(type) {
		case *big.Int:
			p.Set(n)
			return nil
		case *big.Rat:
			p.SetInt(n)
			return nil
		}
	}
	return mismatch(v, dst.Type())
}

// decimalRat reads a finite decimal of reasonable exponent, and returns nil for any other. An exponent makes a short text a long
// number, whose digits are charged here: rationalCost has counted the text.
func (c *conversion) decimalRat(s string) (*big.Rat, error) {
	if len(s) > defaultMaxIntDigits {
		return nil, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) || f == 0 && len(s) > 64 {
		return nil, nil
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		exp, err := strconv.Atoi(s[i+1:])
		if err != nil || exp < -5000 || exp > 5000 {
			return nil, nil
		}
		if err := c.spend(digitsCost(max(exp, -exp))); err != nil {
			return nil, err
		}
	}
	r, _ := new(big.Rat).SetString(s) // nil when it is none
	return r, nil
}

func (c *conversion) number(v any, dst reflect.Value) error {
	t := dst.Type()
	if o, ok := v.(*Object); ok && o != nil {
		if err := c.spend(rationalCost(o)); err != nil {
			return err
		}
		n, ok, err := c.numpyScalar(o)
		if err != nil {
			return err
		}
		if ok {
			v = n
		} else if z, ok := asComplex(o); ok {
			v = z
		} else if dst.CanFloat() {
			if s, ok := asDecimal(o); ok && len(s) <= maxFloatText {
				f, err := strconv.ParseFloat(s, 64)
				if err != nil && f == 0 {
					return mismatch(v, t)
				}
				v = f
			} else if r, ok := asFraction(o); ok {
				v, _ = r.Float64()
			}
		}
	}
	switch n := v.(type) {
	case bool:
		if t.Kind() == reflect.Bool {
			dst.SetBool(n)
			return nil
		}
	case int64:
		switch {
		case dst.CanInt():
			if dst.OverflowInt(n) {
				return outOfRange(n, t)
			}
			dst.SetInt(n)
			return nil
		case dst.CanUint():
			if n < 0 || dst.OverflowUint(uint64(n)) {
				return outOfRange(n, t)
			}
			dst.SetUint(uint64(n))
			return nil
		case dst.CanFloat():
			dst.SetFloat(float64(n))
			return nil
		case dst.CanComplex():
			dst.SetComplex(complex(float64(n), 0))
			return nil
		}
	case uint64:
		switch {
		case dst.CanInt():
			if n > math.MaxInt64 || dst.OverflowInt(int64(n)) {
				return outOfRange(n, t)
			}
			dst.SetInt(int64(n))
			return nil
		case dst.CanUint():
			if dst.OverflowUint(n) {
				return outOfRange(n, t)
			}
			dst.SetUint(n)
			return nil
		case dst.CanFloat():
			dst.SetFloat(float64(n))
			return nil
		}
	case *big.Int:
		switch {
		case dst.CanUint() && n.IsUint64() && !dst.OverflowUint(n.Uint64()):
			dst.SetUint(n.Uint64())
			return nil
		case dst.CanFloat() && n.BitLen() <= 1024:
			f, _ := new(big.Float).SetInt(n).Float64()
			if dst.OverflowFloat(f) {
				return fmt.Errorf("pickle: %w: an int of %d bits is out of range of a Go %s", ErrType, n.BitLen(), t)
			}
			dst.SetFloat(f)
			return nil
		}
		return fmt.Errorf("pickle: %w: an int of %d bits is out of range of a Go %s", ErrType, n.BitLen(), t)
	case float64:
		switch {
		case dst.CanFloat():
			if dst.OverflowFloat(n) && !math.IsInf(n, 0) {
				return outOfRange(n, t)
			}
			dst.SetFloat(n)
			return nil
		case dst.CanComplex():
			dst.SetComplex(complex(n, 0))
			return nil
		}
	case complex128:
		if dst.CanComplex() {
			dst.SetComplex(n)
			return nil
		}
	}
	return mismatch(v, t)
}

// outOfRange is the error of a number. It is generic so that only the error puts n on the heap.
func outOfRange[N int64 | uint64 | float64](n N, t reflect.Type) error {
	return fmt.Errorf("pickle: %w: %v is out of range of a Go %s", ErrType, n, t)
}

func (c *conversion) text(v any, dst reflect.Value) error {
	switch s := v.(type) {
	case string:
		dst.SetString(s)
		return nil
	case *Object:
		if s == nil {
			break
		}
		if id, ok := asUUID(s); ok {
			dst.SetString(uuidString(id))
			return nil
		}
		if d, ok := asDecimal(s); ok {
			dst.SetString(d)
			return nil
		}
		n, _, err := c.numpyScalar(s)
		if err != nil {
			return err
		}
		if text, ok := n.(string); ok {
			dst.SetString(text)
			return nil
		}
	}
	return mismatch(v, dst.Type())
}

// sequence converts into slices and arrays.
func (c *conversion) sequence(v any, dst reflect.Value) error {
	t := dst.Type()
	if t.Elem().Kind() == reflect.Uint8 {
		var b []byte
		switch s := v.(type) {
		case []byte:
			b = s
		case ByteArray:
			b = s
		case string: // a Python 2 str that was bytes
			if err := c.spend(len(s) / 16); err != nil {
				return err
			}
			b = []byte(s)
		case *Object:
			if id, ok := asUUID(s); ok {
				b = id[:]
				break
			}
			n, _, err := c.numpyScalar(s)
			if err != nil {
				return err
			}
			b, _ = n.([]byte)
		}
		if b != nil {
			if t.Kind() == reflect.Slice {
				dst.SetBytes(b)
				return nil
			}
			if len(b) != t.Len() {
				return fmt.Errorf("pickle: %w: %d bytes do not go into a Go %s", ErrType, len(b), t)
			}
			for i, x := range b {
				dst.Index(i).SetUint(uint64(x))
			}
			return nil
		}
	}
	if t == pairsType {
		if d, ok := c.pairs(v); ok {
			return c.pairList(d, dst)
		}
	}
	items, ok := sequence(v)
	if o, isObject := v.(*Object); !ok && isObject && o != nil {
		items, ok = asSequence(o)
	}
	if !ok {
		return mismatch(v, t)
	}
	if t.Kind() == reflect.Array {
		if len(items) != t.Len() {
			return fmt.Errorf("pickle: %w: %d items do not go into a Go %s", ErrType, len(items), t)
		}
	} else {
		if err := c.spend(cells(len(items), t.Elem())); err != nil {
			return err
		}
		dst.Set(reflect.MakeSlice(t, len(items), len(items)))
	}
	for i, x := range items {
		if err := c.convert(x, dst.Index(i)); err != nil {
			return at(err, "[%d]", i)
		}
	}
	return nil
}

// pairList converts a dict into []Pair, in order.
func (c *conversion) pairList(d *Dict, dst reflect.Value) error {
	if err := c.spend(2 * d.Len()); err != nil {
		return err
	}
	out := make([]Pair, 0, d.Len())
	for k, x := range d.All() {
		var p Pair
		if err := c.convert(k, reflect.ValueOf(&p.Key).Elem()); err != nil {
			return err
		}
		if err := c.convert(x, reflect.ValueOf(&p.Value).Elem()); err != nil {
			return err
		}
		out = append(out, p)
	}
	dst.Set(reflect.ValueOf(out))
	return nil
}

// pairs returns the pairs of a dict, of a dict type, or of an object's state.
func (c *conversion) pairs(v any) (*Dict, bool) {
	switch v := v.(type) {
	case *Dict:
		return v, true
	case *Object:
		if v == nil {
			return nil, false
		}
		if c.spend(pairsCost(v)) != nil {
			return nil, false
		}
		if d, ok := asMapping(v); ok {
			return d, true
		}
		return v.Fields()
	}
	return nil, false
}

// pairsCost is the cost of reading an object's pairs where that copies them and hashes their keys.
func pairsCost(o *Object) int {
	n := 0
	if len(o.Args) == 1 {
		if rows, ok := sequence(o.Args[0]); ok {
			n += len(rows)
			for _, row := range rows {
				if kv, ok := sequence(row); ok && len(kv) == 2 {
					n += int(keyCost(kv[0]) / 16)
				}
			}
		}
	}
	if slots, ok := o.State.(Tuple); ok && len(slots) == 2 {
		for _, s := range slots {
			if d, ok := s.(*Dict); ok {
				n += d.Len()
				for k := range d.All() {
					n += int(keyCost(k) / 16)
				}
			}
		}
	}
	return n
}

// rationalCost is the cost of reading a Fraction or a Decimal, beyond a constant.
func rationalCost(o *Object) int {
	n := 0
	if o.Is("fractions", "Fraction") || o.Is("decimal", "Decimal") {
		for _, a := range o.Args {
			switch a := a.(type) {
			case *big.Int:
				n += digitsCost(a.BitLen() / 3)
			case string:
				n += digitsCost(len(a))
			}
		}
	}
	return n
}

// digitsCost is the cost of a number of n digits: converting and reducing are not linear.
func digitsCost(n int) int {
	n = min(n, 1<<20)
	return n/16 + n*n/2048
}

func (c *conversion) mapping(v any, dst reflect.Value) error {
	t := dst.Type()
	if s, ok := v.(*Set); ok && t.Elem() == emptyStruct {
		m := reflect.MakeMap(t)
		perItem := cells(1, t.Key())
		for _, x := range s.Items {
			if err := c.spend(perItem); err != nil {
				return err
			}
			k := reflect.New(t.Key()).Elem()
			if err := c.key(x, k); err != nil {
				return err
			}
			m.SetMapIndex(k, reflect.Zero(emptyStruct))
		}
		dst.Set(m)
		return nil
	}
	d, ok := c.pairs(v)
	if !ok {
		return mismatch(v, t)
	}
	m := reflect.MakeMap(t)
	perPair := cells(1, t.Key()) + cells(1, t.Elem())
	for key, x := range d.All() {
		if err := c.spend(perPair); err != nil {
			return err
		}
		k := reflect.New(t.Key()).Elem()
		if err := c.key(key, k); err != nil {
			return err
		}
		e := reflect.New(t.Elem()).Elem()
		if err := c.convert(x, e); err != nil {
			return at(err, "[%s]", keyText(key))
		}
		m.SetMapIndex(k, e)
	}
	dst.Set(m)
	return nil
}

// key converts a map key and makes sure that Go can hash it.
func (c *conversion) key(v any, k reflect.Value) error {
	if err := c.spend(int(keyCost(v) / 16)); err != nil {
		return err
	}
	if err := c.convert(v, k); err != nil {
		return err
	}
	if !k.Comparable() {
		return fmt.Errorf("pickle: %w: %s is no key of a Go map; convert into []Pair", ErrType, describe(v))
	}
	return nil
}

// keyText shows a dict's key in an error's path. It looks at no more than the key's beginning: a tuple may hold others 2^n times.
func keyText(k any) string {
	switch k := k.(type) {
	case string:
		return fmt.Sprintf("%.40q", k)
	case nil, bool, int64, float64:
		return scalarText(k)
	}
	return describe(k)
}

func (c *conversion) structure(v any, dst reflect.Value) error {
	t := dst.Type()
	f := fieldsOf(t)
	if len(f.list) == 0 && t.NumField() > 0 {
		return mismatch(v, t) // a type with a life of its own, which its zero value would not be
	}
	if d, ok := c.pairs(v); ok {
		for k, x := range d.All() {
			name, ok := k.(string)
			if !ok {
				continue
			}
			if err := c.spend(1); err != nil {
				return err
			}
			fd, ok := f.find(name)
			if !ok {
				continue
			}
			if err := c.convert(x, settable(dst, fd.index)); err != nil {
				return at(err, ".%s", fd.name)
			}
		}
		return nil
	}
	var items []any
	switch s := v.(type) {
	case Tuple:
		items = s
	case *Object:
		var ok bool
		if items, ok = asSequence(s); !ok {
			// An object without attributes has no state.
			if _, known := s.Class(); known && s.New && len(s.Args) == 0 && !s.HasState {
				return nil
			}
			return mismatch(v, t)
		}
	default:
		return mismatch(v, t)
	}
	if len(items) > len(f.list) {
		return fmt.Errorf("pickle: %w: %d items do not go into the %d fields of a Go %s", ErrType, len(items), len(f.list), t)
	}
	for i, x := range items {
		if err := c.convert(x, settable(dst, f.list[i].index)); err != nil {
			return at(err, ".%s", f.list[i].name)
		}
	}
	return nil
}

// settable returns a field, making embedded pointers on the way.
func settable(v reflect.Value, index []int) reflect.Value {
	for i, n := range index {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(n)
	}
	return v
}

// placed is an error with the path to the value, outermost first.
type placed struct {
	path string
	err  error
}

func (e *placed) Error() string { return fmt.Sprintf("%v (at %s)", e.err, e.path) }
func (e *placed) Unwrap() error { return e.err }

// at adds a step to the path of an error; long paths are cut.
func at(err error, format string, arg any) error {
	step := fmt.Sprintf(format, arg)
	if p, ok := err.(*placed); ok {
		if len(p.path) < 200 {
			p.path = step + p.path
		}
		return p
	}
	return &placed{step, err}
}

// Pair is a key and a value of a dict that is no Go map.
type Pair struct{ Key, Value any }

// ToGo returns v as plain Go: list, tuple, set and deque as []any; a dict with only string keys as map[string]any, one with
// other keys that Go can compare (None, bool, int64, float64, string, Global) as map[any]any, any other as []Pair in order;
// bytearray as []byte; datetime and date as time.Time, timedelta as time.Duration, complex as complex128, Fraction as
// *big.Rat, numpy scalars as numbers; OrderedDict, defaultdict and Counter as dicts. Scalars, Globals and all other Objects
// stay as they are. []byte values are lent. What is shared in v is shared in the result, so ToGo is linear; cycles are
// ErrCycle, and deep or large values ErrTooLarge as in Convert.
func ToGo(v any) (any, error) { return ToGoWith(v, Limits{}) }

// ToGoWith is ToGo with limits, of which it uses MaxDepth and MaxValues, as ConvertWith does.
func ToGoWith(v any, lim Limits) (any, error) {
	g := goer{budget: &budget{lim: lim.withDefaults(0)}}
	return g.value(v)
}

// goer is the state of one ToGo, or of the part of a Convert that goes into an interface{}.
type goer struct {
	*budget
	done map[any]any // results by identity; inProgress while a container is open
}

type inProgress struct{}

func (g *goer) value(v any) (any, error) {
	switch v := v.(type) {
	case ByteArray:
		return []byte(v), nil
	case Tuple, *List, *Dict, *Set, *Object:
	default:
		return v, nil
	}
	id := identity(v)
	if r, ok := g.done[id]; ok && id != nil {
		if _, open := r.(inProgress); open {
			return nil, fmt.Errorf("pickle: %w: %s", ErrCycle, describe(v))
		}
		return r, nil
	}
	if err := g.descend(); err != nil {
		return nil, err
	}
	if id != nil {
		if g.done == nil {
			g.done = make(map[any]any)
		}
		g.done[id] = inProgress{}
	}
	r, err := g.container(v)
	g.depth--
	if err != nil {
		return nil, err
	}
	if id != nil {
		g.done[id] = r
	}
	return r, nil
}

func (g *goer) container(v any) (any, error) {
	if items, ok := sequence(v); ok {
		return g.items(items)
	}
	switch v := v.(type) {
	case *Dict:
		return g.dict(v)
	case *Object:
		if v == nil {
			return nil, nil
		}
		if t, ok, err := g.datetime(v); ok && err == nil {
			return t, nil
		}
		if d, ok, err := asTimedelta(v); ok && err == nil {
			return d, nil
		}
		if z, ok := asComplex(v); ok {
			return z, nil
		}
		if err := g.spend(rationalCost(v)); err != nil {
			return nil, err
		}
		if r, ok := asFraction(v); ok {
			return r, nil
		}
		if n, ok, err := g.numpyScalar(v); ok || err != nil {
			return n, err
		}
		class, _ := v.Class()
		if class.Module == "collections" {
			if class.Name == "deque" {
				if items, ok := asSequence(v); ok {
					return g.items(items)
				}
			} else if err := g.spend(pairsCost(v)); err != nil {
				return nil, err
			} else if d, ok := asMapping(v); ok {
				return g.dict(d)
			}
		}
	}
	return v, nil
}

func (g *goer) items(items []any) (any, error) {
	if err := g.spend(len(items)); err != nil {
		return nil, err
	}
	out := make([]any, len(items))
	for i, x := range items {
		var err error
		if out[i], err = g.value(x); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (g *goer) dict(d *Dict) (any, error) {
	if err := g.spend(2 * d.Len()); err != nil {
		return nil, err
	}
	form := 0 // 0 map[string]any, 1 map[any]any, 2 []Pair
	for k := range d.All() {
		if c := keyCost(k); c > 0 {
			if err := g.spend(int(c / 16)); err != nil {
				return nil, err
			}
		}
		switch k.(type) {
		case string:
		case nil, bool, int64, float64, Global:
			form = max(form, 1)
		default:
			form = 2
		}
	}
	switch form {
	case 0:
		m := make(map[string]any, d.Len())
		for k, x := range d.All() {
			y, err := g.value(x)
			if err != nil {
				return nil, err
			}
			m[k.(string)] = y
		}
		return m, nil
	case 1:
		m := make(map[any]any, d.Len())
		for k, x := range d.All() {
			y, err := g.value(x)
			if err != nil {
				return nil, err
			}
			m[k] = y
		}
		return m, nil
	}
	pairs := make([]Pair, 0, d.Len())
	for k, x := range d.All() {
		key, err := g.value(k)
		if err != nil {
			return nil, err
		}
		y, err := g.value(x)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, Pair{key, y})
	}
	return pairs, nil
}
