package pickle

import (
	"cmp"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"
)

var (
	marshalerType = reflect.TypeFor[Marshaler]()
	timeType      = reflect.TypeFor[time.Time]()
	durationType  = reflect.TypeFor[time.Duration]()
	bigIntStruct  = reflect.TypeFor[big.Int]()
	bigRatStruct  = reflect.TypeFor[big.Rat]()
	emptyStruct   = reflect.TypeFor[struct{}]()
)

// goValue writes values that are not structural.
func (s *encoding) goValue(v any) error {
	switch v := v.(type) {
	case Marshaler:
		return s.marshaler(reflect.ValueOf(v))
	case []any:
		return s.anySlice(v)
	case map[string]any:
		return s.stringMap(v)
	}
	return s.reflect(reflect.ValueOf(v))
}

func (s *encoding) marshaler(v reflect.Value) error {
	if v.Kind() == reflect.Pointer && v.IsNil() {
		s.op(opNone)
		return nil
	}
	u, err := v.Interface().(Marshaler).MarshalPickle()
	if err != nil {
		return fmt.Errorf("pickle: %s.MarshalPickle: %w", v.Type(), err)
	}
	return s.value(u)
}

// element writes a value inside another, which may need its address for MarshalPickle.
func (s *encoding) element(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Struct, reflect.Array:
		t := v.Type()
		if !v.CanAddr() || t.Implements(marshalerType) || structural[t] {
			break
		}
		if reflect.PointerTo(t).Implements(marshalerType) {
			return s.value(v.Addr().Interface())
		}
		// Interface would copy it, and what is inside would have no address.
		if err := s.enough(); err != nil {
			return err
		}
		if err := s.descend(); err != nil {
			return err
		}
		err := s.reflect(v)
		s.depth--
		return err
	case reflect.Float64:
		if err := s.enough(); err != nil {
			return err
		}
		s.float(v.Float())
		return nil
	}
	return s.value(v.Interface())
}

// structural has the struct types that container writes.
var structural = map[reflect.Type]bool{
	reflect.TypeFor[Global](): true, reflect.TypeFor[PersistentID](): true, bufferType: true,
	reflect.TypeFor[Extension](): true, reflect.TypeFor[LargeBytes](): true,
}

func (s *encoding) reflect(v reflect.Value) error {
	switch v.Type() {
	case timeType:
		return s.time(v.Interface().(time.Time))
	case durationType:
		return s.duration(v.Interface().(time.Duration))
	case bigIntStruct:
		n := v.Interface().(big.Int)
		return s.bigInt(&n)
	case bigRatStruct:
		r := v.Interface().(big.Rat)
		return s.value(&Object{Callable: Global{"fractions", "Fraction"}, Args: Tuple{r.Num(), r.Denom()}})
	}
	switch v.Kind() {
	case reflect.Bool:
		return s.value(v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		s.integer(v.Int())
		return nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		if u := v.Uint(); u >= 1<<63 {
			return s.bigInt(new(big.Int).SetUint64(u))
		}
		s.integer(int64(v.Uint()))
		return nil
	case reflect.Float32, reflect.Float64:
		s.float(v.Float())
		return nil
	case reflect.Complex64, reflect.Complex128:
		c := v.Complex()
		if err := s.global(Global{"builtins", "complex"}); err != nil {
			return err
		}
		s.float(real(c))
		s.float(imag(c))
		s.op(opTuple2, opReduce)
		return nil
	case reflect.String:
		return s.text(v.String())
	case reflect.Pointer:
		return s.pointer(v)
	case reflect.Interface:
		return s.value(v.Elem().Interface())
	case reflect.Slice, reflect.Array:
		return s.slice(v)
	case reflect.Map:
		return s.goMap(v)
	case reflect.Struct:
		return s.goStruct(v)
	}
	return fmt.Errorf("pickle: %w: a Go %s has no pickle", ErrType, v.Type())
}

// enter starts a Go value that has an identity. It reports done when the value was written before; else leave must follow.
func (s *encoding) enter(k shareKey) (done bool, err error) {
	if i, ok := s.shared[k]; ok {
		if i == open {
			return false, fmt.Errorf("pickle: %w: a Go %s; *List, *Dict and *Object may contain themselves", ErrCycle, k.t)
		}
		s.get(i)
		return true, nil
	}
	if s.shared == nil {
		s.shared = make(map[shareKey]int)
	}
	s.shared[k] = open
	return false, nil
}

func (s *encoding) pointer(v reflect.Value) error {
	if v.IsNil() {
		s.op(opNone)
		return nil
	}
	elem := v.Elem()
	switch elem.Kind() {
	case reflect.Struct, reflect.Array, reflect.Pointer, reflect.Interface:
	default:
		return s.element(elem)
	}
	k := shareKey{v.UnsafePointer(), 0, v.Type()}
	if done, err := s.enter(k); done || err != nil {
		return err
	}
	if err := s.element(elem); err != nil {
		return err
	}
	s.shared[k] = s.memoize()
	return nil
}

func (s *encoding) slice(v reflect.Value) error {
	t := v.Type()
	isSlice := v.Kind() == reflect.Slice
	if t.Elem().Kind() == reflect.Uint8 {
		if isSlice {
			return s.bytes(v.Bytes())
		}
		b := make([]byte, v.Len())
		for i := range b {
			b[i] = byte(v.Index(i).Uint())
		}
		return s.bytes(b)
	}
	s.room()
	if v.Len() == 0 {
		s.op(opEmptyList)
		return nil
	}
	k := shareKey{t: t}
	if isSlice {
		k.p, k.n = v.UnsafePointer(), v.Len()
		if done, err := s.enter(k); done || err != nil {
			return err
		}
	}
	s.op(opEmptyList)
	at := s.memoize()
	n := v.Len()
	for from := 0; from < n; from += batchSize {
		to := min(n, from+batchSize)
		if to-from > 1 {
			s.op(opMark)
		}
		for i := from; i < to; i++ {
			if err := s.element(v.Index(i)); err != nil {
				return err
			}
		}
		if to-from > 1 {
			s.op(opAppends)
		} else {
			s.op(opAppend)
		}
	}
	if isSlice {
		s.shared[k] = at
	}
	return nil
}

var (
	anySliceType  = reflect.TypeFor[[]any]()
	stringMapType = reflect.TypeFor[map[string]any]()
)

// anySlice is slice without reflection.
func (s *encoding) anySlice(v []any) error {
	if len(v) == 0 {
		s.op(opEmptyList)
		return nil
	}
	k := shareKey{unsafe.Pointer(unsafe.SliceData(v)), len(v), anySliceType}
	if done, err := s.enter(k); done || err != nil {
		return err
	}
	s.op(opEmptyList)
	at := s.memoize()
	if err := s.appends(v); err != nil {
		return err
	}
	s.shared[k] = at
	return nil
}

// stringMap is goMap for the most common map, without reflection but for its address.
func (s *encoding) stringMap(v map[string]any) error {
	if len(v) == 0 {
		s.op(opEmptyDict)
		return nil
	}
	k := shareKey{reflect.ValueOf(v).UnsafePointer(), 0, stringMapType}
	if done, err := s.enter(k); done || err != nil {
		return err
	}
	s.op(opEmptyDict)
	at := s.memoize()
	keys := slices.AppendSeq(make([]string, 0, len(v)), maps.Keys(v))
	slices.Sort(keys)
	for batch := range slices.Chunk(keys, batchSize) {
		s.op(opMark)
		for _, name := range batch {
			if err := s.name(name); err != nil {
				return err
			}
			if err := s.value(v[name]); err != nil {
				return err
			}
		}
		s.op(opSetitems)
	}
	s.shared[k] = at
	return nil
}

// pairList writes a dict of pairs in their order. As in a Dict, the last of equal keys has the value and the first the place, by
// Python's own doing.
func (s *encoding) pairList(v []Pair) error {
	if len(v) == 0 {
		s.op(opEmptyDict)
		return nil
	}
	k := shareKey{unsafe.Pointer(unsafe.SliceData(v)), len(v), pairsType}
	if done, err := s.enter(k); done || err != nil {
		return err
	}
	s.op(opEmptyDict)
	at := s.memoize()
	for batch := range slices.Chunk(v, batchSize) {
		s.op(opMark)
		for i := range batch {
			if err := s.key(batch[i].Key); err != nil {
				return err
			}
			if err := s.value(batch[i].Value); err != nil {
				return err
			}
		}
		s.op(opSetitems)
	}
	s.shared[k] = at
	return nil
}

// goMap writes a dict, or a set for map[K]struct{}, in the order of the keys.
func (s *encoding) goMap(v reflect.Value) error {
	isSet := v.Type().Elem() == emptyStruct
	empty := opEmptyDict
	if isSet {
		empty = opEmptySet
	}
	if v.Len() == 0 {
		s.op(empty)
		return nil
	}
	k := shareKey{v.UnsafePointer(), 0, v.Type()}
	if done, err := s.enter(k); done || err != nil {
		return err
	}
	s.op(empty)
	at := s.memoize()
	// Pairs rather than keys: a key that is NaN, or holds one, cannot be looked up.
	type entry struct{ k, v reflect.Value }
	entries := make([]entry, 0, v.Len())
	for it := v.MapRange(); it.Next(); {
		e := entry{k: it.Key()}
		if !isSet {
			e.v = it.Value()
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return compareKeys(a.k, b.k) })
	for batch := range slices.Chunk(entries, batchSize) {
		s.op(opMark)
		for _, e := range batch {
			p, err := hashable(e.k)
			if err != nil {
				return err
			}
			if err := s.key(p); err != nil {
				return err
			}
			if isSet {
				continue
			}
			if err := s.element(e.v); err != nil {
				return err
			}
		}
		if isSet {
			s.op(opAdditems)
		} else {
			s.op(opSetitems)
		}
	}
	s.shared[k] = at
	return nil
}

// hashable returns a key in a form that Python can hash: arrays become tuples.
func hashable(k reflect.Value) (any, error) {
	for k.Kind() == reflect.Interface {
		if k.IsNil() {
			return nil, nil
		}
		k = k.Elem()
	}
	v := k.Interface()
	switch v.(type) {
	case Global, time.Time, Extension, Marshaler:
		return v, nil
	}
	switch k.Kind() {
	case reflect.Array:
		if k.Type().Elem().Kind() == reflect.Uint8 {
			return v, nil
		}
		t := make(Tuple, k.Len())
		for i := range t {
			var err error
			if t[i], err = hashable(k.Index(i)); err != nil {
				return nil, err
			}
		}
		return t, nil
	case reflect.Struct, reflect.Pointer, reflect.Chan:
		return nil, fmt.Errorf("pickle: %w: a map key of type %s has no hashable Python form", ErrType, k.Type())
	case reflect.String:
		return k.String(), nil
	}
	return v, nil
}

// compareKeys orders map keys: by kind, then by value; keys without an order stay as they come.
func compareKeys(a, b reflect.Value) int {
	for a.Kind() == reflect.Interface && !a.IsNil() {
		a = a.Elem()
	}
	for b.Kind() == reflect.Interface && !b.IsNil() {
		b = b.Elem()
	}
	ra, rb := keyRank(a), keyRank(b)
	if ra != rb {
		return cmp.Compare(ra, rb)
	}
	switch ra {
	case 1:
		switch {
		case a.Bool() == b.Bool():
			return 0
		case b.Bool():
			return -1
		}
		return 1
	case 2:
		return cmp.Compare(a.Int(), b.Int())
	case 3:
		return cmp.Compare(a.Uint(), b.Uint())
	case 4:
		return cmp.Compare(a.Float(), b.Float())
	case 5:
		return cmp.Compare(a.String(), b.String())
	case 6:
		for i := range min(a.Len(), b.Len()) {
			if c := compareKeys(a.Index(i), b.Index(i)); c != 0 {
				return c
			}
		}
		return cmp.Compare(a.Len(), b.Len())
	case 7:
		for i := range min(a.NumField(), b.NumField()) {
			if c := compareKeys(a.Field(i), b.Field(i)); c != 0 {
				return c
			}
		}
	}
	return 0
}

func keyRank(v reflect.Value) int {
	switch k := v.Kind(); {
	case k == reflect.Bool:
		return 1
	case v.CanInt():
		return 2
	case v.CanUint():
		return 3
	case v.CanFloat():
		return 4
	case k == reflect.String:
		return 5
	case k == reflect.Array:
		return 6
	case k == reflect.Struct:
		return 7
	case k == reflect.Interface: // nil
		return 0
	}
	return 8
}

func (s *encoding) goStruct(v reflect.Value) error {
	f := fieldsOf(v.Type())
	s.op(opEmptyDict)
	n := 0
	for _, field := range f.list {
		x, ok := fieldByIndex(v, field.index)
		if !ok || field.omitEmpty && isEmpty(x) {
			continue
		}
		if n == 0 {
			s.op(opMark)
		}
		n++
		if err := s.name(field.name); err != nil {
			return err
		}
		if err := s.element(x); err != nil {
			return err
		}
	}
	if n > 0 {
		s.op(opSetitems)
	}
	return nil
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String, reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

// fieldByIndex follows embedded pointers; it reports false when one is nil.
func fieldByIndex(v reflect.Value, index []int) (reflect.Value, bool) {
	for i, n := range index {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return reflect.Value{}, false
			}
			v = v.Elem()
		}
		v = v.Field(n)
	}
	return v, true
}

// field is one struct field as pickles name it.
type field struct {
	name      string
	index     []int
	omitEmpty bool
}

// fields are the fields of a struct type, in order of declaration.
type fields struct {
	list   []field
	byName map[string]int
	folded map[string]int // by foldName; -1 when two fields fold alike
	max    int            // length from which a name is not looked up
}

var fieldCache sync.Map // reflect.Type to *fields

// foldName lets obj_id find ObjID.
func foldName(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }

func fieldsOf(t reflect.Type) *fields {
	if f, ok := fieldCache.Load(t); ok {
		return f.(*fields)
	}
	f := &fields{byName: make(map[string]int), folded: make(map[string]int), max: 256}
	// Breadth first, so that an outer field hides an embedded one of the same name.
	type level struct {
		t     reflect.Type
		index []int
	}
	visited := map[reflect.Type]bool{t: true}
	for queue := []level{{t, nil}}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for i := range at.t.NumField() {
			sf := at.t.Field(i)
			tag, tagged := sf.Tag.Lookup("pickle")
			name, opts, _ := strings.Cut(tag, ",")
			if tag == "-" {
				continue
			}
			index := append(slices.Clone(at.index), i)
			if sf.Anonymous && name == "" {
				inner := sf.Type
				if inner.Kind() == reflect.Pointer && sf.IsExported() {
					inner = inner.Elem()
				}
				if inner.Kind() == reflect.Struct && inner != timeType && !inner.Implements(marshalerType) {
					if !visited[inner] {
						visited[inner] = true
						queue = append(queue, level{inner, index})
					}
					continue
				}
			}
			if !sf.IsExported() {
				continue
			}
			if !tagged || name == "" {
				name = sf.Name
			}
			if _, hidden := f.byName[name]; hidden {
				continue
			}
			f.max = max(f.max, len(name))
			f.byName[name] = len(f.list)
			fold := foldName(name)
			if _, twice := f.folded[fold]; twice {
				f.folded[fold] = -1
			} else {
				f.folded[fold] = len(f.list)
			}
			f.list = append(f.list, field{name, index, opts == "omitempty"})
		}
	}
	got, _ := fieldCache.LoadOrStore(t, f)
	return got.(*fields)
}

// find returns the field for a Python name: the exact name, else one that differs in case and underscores only.
func (f *fields) find(name string) (field, bool) {
	if len(name) > f.max { // before hashing it: one long key may be met many times
		return field{}, false
	}
	if i, ok := f.byName[name]; ok {
		return f.list[i], true
	}
	if i, ok := f.folded[foldName(name)]; ok && i >= 0 {
		return f.list[i], true
	}
	return field{}, false
}

// time writes datetime.datetime(state, timezone), as datetime.__reduce__ does.
func (s *encoding) time(t time.Time) error {
	y := t.Year()
	if y < 1 || y > 9999 {
		return fmt.Errorf("pickle: %w: the year %d, Python's datetime has 1 to 9999", ErrType, y)
	}
	_, offset := t.Zone()
	if offset <= -86400 || offset >= 86400 {
		return fmt.Errorf("pickle: %w: a zone offset of %d seconds, Python's must be less than a day", ErrType, offset)
	}
	us := t.Nanosecond() / 1000
	state := []byte{
		byte(y >> 8), byte(y), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()),
		byte(us >> 16), byte(us >> 8), byte(us),
	}
	zone := &Object{Callable: Global{"datetime", "timezone"}, Args: Tuple{timedelta(time.Duration(offset) * time.Second)}}
	return s.value(&Object{Callable: Global{"datetime", "datetime"}, Args: Tuple{state, zone}})
}

func (s *encoding) duration(d time.Duration) error { return s.value(timedelta(d)) }

// timedelta returns datetime.timedelta(days, seconds, microseconds), normalised as Python keeps it: only days is negative.
func timedelta(d time.Duration) *Object {
	us := d.Microseconds()
	const day = 24 * 60 * 60 * 1_000_000
	days, rest := us/day, us%day
	if rest < 0 {
		days, rest = days-1, rest+day
	}
	return &Object{
		Callable: Global{"datetime", "timedelta"},
		Args:     Tuple{days, rest / 1_000_000, rest % 1_000_000},
	}
}
