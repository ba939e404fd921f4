package pickle

import (
	"bytes"
	"io"
	"iter"
	"math"
	"math/big"
)

// Tuple is a Python tuple.
type Tuple []any

// ByteArray is a Python bytearray. A decoded one aliases the input, as []byte does: copy it before changing it.
type ByteArray []byte

// List is a Python list. It is a pointer in values, because lists have identity: one list may appear in many places.
type List struct{ Items []any }

// NewList returns a list of items, which it takes.
func NewList(items ...any) *List { return &List{Items: items} }

// Set is a Python set or, when Frozen, a frozenset. Items are in the order of the pickle; a hostile pickle may repeat them.
type Set struct {
	Items  []any
	Frozen bool
}

// Global names a Python class or function. It is never looked up or imported. Names of nested classes have dots.
type Global struct{ Module, Name string }

// String returns "module.name".
func (g Global) String() string { return g.Module + "." + g.Name }

// clipped is String in n bytes at most. It copies no more than that of names of hostile length.
func (g Global) clipped(n int) string {
	if len(g.Module)+1+len(g.Name) <= n {
		return g.String()
	}
	head := g.Module[:min(len(g.Module), n)] + "." + g.Name[:min(len(g.Name), n)]
	return head[:n-3] + "..."
}

// Object is what a pickle would have made by calling something, and what it would then have done to the result. Nothing
// was called.
type Object struct {
	Callable any   // Global, or another *Object; PersistentID and Extension where a pickle has those
	Args     Tuple // positional arguments
	Kwargs   *Dict // keyword arguments; only from NEWOBJ_EX, else nil
	New      bool  // Callable.__new__(Callable, *Args) rather than Callable(*Args)
	State    any   // the argument of BUILD
	HasState bool  // a BUILD was there; State may still be nil
	Items    []any // items appended, as to a list subclass or a deque
	Pairs    *Dict // items set, as in a dict subclass; nil when there are none
}

// Is reports whether the object is made by the Global module.name.
func (o *Object) Is(module, name string) bool {
	if o == nil {
		return false
	}
	g, ok := o.Callable.(Global)
	return ok && g.Module == module && g.Name == name
}

// Class returns what makes the object when that is a Global.
func (o *Object) Class() (Global, bool) {
	if o == nil {
		return Global{}, false
	}
	g, ok := o.Callable.(Global)
	return g, ok
}

// Fields returns the object's attributes as BUILD would have set them: the state dictionary; for a class with __slots__ the
// dictionary and the slots together; for a pydantic model its __dict__. It lends the state's own Dict where it can. It
// reports false when there is no state of such a form.
func (o *Object) Fields() (*Dict, bool) {
	if o == nil || !o.HasState {
		return nil, false
	}
	switch s := o.State.(type) {
	case *Dict:
		if inner, ok := s.GetString("__dict__"); ok {
			if _, pydantic := s.GetString("__pydantic_fields_set__"); pydantic {
				d, ok := inner.(*Dict)
				return d, ok
			}
		}
		return s, true
	case Tuple:
		if len(s) != 2 {
			return nil, false
		}
		slots, ok := s[1].(*Dict)
		if !ok && s[1] != nil {
			return nil, false
		}
		attrs, ok := s[0].(*Dict)
		if !ok && s[0] != nil {
			return nil, false
		}
		switch {
		case attrs.Len() == 0 && slots != nil:
			return slots, true
		case slots.Len() == 0:
			return attrs, attrs != nil
		}
		both := NewDict()
		for k, v := range attrs.All() {
			both.Set(k, v)
		}
		for k, v := range slots.All() {
			both.Set(k, v)
		}
		return both, true
	}
	return nil, false
}

// PersistentID stands for an object that lives outside the pickle.
type PersistentID struct{ ID any }

// OutOfBand stands for the Index-th buffer that travels beside the pickle (protocol 5).
type OutOfBand struct {
	Index    int
	ReadOnly bool
}

// Extension is a class or function named by a code of Python's copyreg extension registry, which only the process that
// wrote the pickle knows. Code is at least 1.
type Extension struct{ Code int32 }

// LargeBytes is a bytes value that Encoder.EncodeTo streams: exactly Size bytes are read from R. It is not a decoded value.
type LargeBytes struct {
	Size int64
	R    io.Reader
}

// Dict is a Python dictionary in insertion order. The zero value is empty and ready for use, and a nil *Dict reads as empty.
// It may be read by many goroutines at once, but not while one changes it.
//
// Scalar keys (nil, bool, integers, floats, strings, bytes, Global) are equal as in Python, where 1, 1.0 and True are one
// key. Other keys, such as tuples, are kept in order but never compared: Get does not find them and Set appends them.
type Dict struct {
	pairs []pair
	index map[any]int // normalised key to position; nil while pairs is short
}

type pair struct{ k, v any }

// indexFrom is the length from which a Dict keeps an index. Below it a scan is faster and smaller.
const indexFrom = 9

// NewDict returns an empty Dict.
func NewDict() *Dict { return &Dict{} }

// Len returns the number of pairs.
func (d *Dict) Len() int {
	if d == nil {
		return 0
	}
	return len(d.pairs)
}

// Get returns the value of a scalar key. Any Go integer or float type may be used.
func (d *Dict) Get(k any) (any, bool) {
	if d == nil {
		return nil, false
	}
	if i := d.find(k); i >= 0 {
		return d.pairs[i].v, true
	}
	return nil, false
}

// GetString returns the value of a string key.
func (d *Dict) GetString(k string) (any, bool) {
	if d == nil {
		return nil, false
	}
	if d.index == nil {
		for i := range d.pairs {
			if s, ok := d.pairs[i].k.(string); ok && s == k {
				return d.pairs[i].v, true
			}
		}
		return nil, false
	}
	if i, ok := d.index[k]; ok {
		return d.pairs[i].v, true
	}
	return nil, false
}

// Set sets the value of k, which keeps its place when it is already there. It takes both.
func (d *Dict) Set(k, v any) {
	if i := d.find(k); i >= 0 {
		d.pairs[i].v = v
		return
	}
	d.pairs = append(d.pairs, pair{k, v})
	if d.index != nil {
		if n, ok := scalarKey(k); ok {
			d.index[n] = len(d.pairs) - 1
		}
		return
	}
	if len(d.pairs) >= indexFrom {
		d.index = make(map[any]int, 2*len(d.pairs))
		for i := range d.pairs {
			if n, ok := scalarKey(d.pairs[i].k); ok {
				d.index[n] = i
			}
		}
	}
}

// All iterates over the pairs in insertion order.
func (d *Dict) All() iter.Seq2[any, any] {
	return func(yield func(any, any) bool) {
		if d == nil {
			return
		}
		for i := range d.pairs {
			if !yield(d.pairs[i].k, d.pairs[i].v) {
				return
			}
		}
	}
}

// find returns the position of a scalar key, or -1.
func (d *Dict) find(k any) int {
	if len(d.pairs) == 0 {
		return -1
	}
	if d.index == nil {
		return d.scan(k)
	}
	n, ok := scalarKey(k)
	if !ok {
		return -1
	}
	if i, ok := d.index[n]; ok {
		return i
	}
	return -1
}

// scan is find without an index. It copies no key, however long: a small dict may have a long one and many look-ups.
func (d *Dict) scan(k any) int {
	switch u := k.(type) {
	case uint:
		k = normalUint(uint64(u))
	case uint64:
		k = normalUint(u)
	}
	switch k := k.(type) {
	case string:
		for i := range d.pairs {
			if t, ok := d.pairs[i].k.(string); ok && k == t {
				return i
			}
		}
		return -1
	case []byte:
		for i := range d.pairs {
			if t, ok := d.pairs[i].k.([]byte); ok && bytes.Equal(k, t) {
				return i
			}
		}
		return -1
	case *big.Int:
		if k.IsInt64() {
			break
		}
		for i := range d.pairs {
			switch t := d.pairs[i].k.(type) {
			case *big.Int:
				if k.Cmp(t) == 0 {
					return i
				}
			case uint64:
				if k.IsUint64() && k.Uint64() == t {
					return i
				}
			case uint:
				if k.IsUint64() && k.Uint64() == uint64(t) {
					return i
				}
			}
		}
		return -1
	}
	n, ok := scalarKey(k)
	if !ok {
		return -1
	}
	for i := range d.pairs {
		switch t := d.pairs[i].k.(type) {
		case string, []byte:
			continue
		case *big.Int:
			if !t.IsInt64() {
				continue
			}
		}
		if m, ok := scalarKey(d.pairs[i].k); ok && m == n {
			return i
		}
	}
	return -1
}

// normalUint returns a number as Decode would: an int64, or a big.Int for one that is larger.
func normalUint(u uint64) any {
	if u <= math.MaxInt64 {
		return int64(u)
	}
	return new(big.Int).SetUint64(u)
}

type (
	bytesKey string // a bytes key: b"a" and "a" are different keys
	bigKey   string // an int key outside int64
)

// scalarKey returns a comparable Go value that is equal for equal Python keys, or false for keys that are never compared.
func scalarKey(k any) (any, bool) {
	switch k := k.(type) {
	case nil, string, int64, Global:
		return k, true
	case bool:
		if k {
			return int64(1), true
		}
		return int64(0), true
	case float64:
		// Integers and floats of equal value are one key; the bound is the first float that no int64 reaches.
		if k == math.Trunc(k) && k >= -(1<<63) && k < 1<<63 {
			return int64(k), true
		}
		return k, true
	case []byte:
		return bytesKey(k), true
	case *big.Int:
		if k.IsInt64() {
			return k.Int64(), true
		}
		if k.Sign() < 0 {
			return bigKey("-" + string(k.Bytes())), true
		}
		return bigKey(k.Bytes()), true
	case int:
		return int64(k), true
	case int8:
		return int64(k), true
	case int16:
		return int64(k), true
	case int32:
		return int64(k), true
	case uint8:
		return int64(k), true
	case uint16:
		return int64(k), true
	case uint32:
		return int64(k), true
	case uint:
		return scalarKey(uint64(k))
	case uint64:
		if k <= math.MaxInt64 {
			return int64(k), true
		}
		return scalarKey(new(big.Int).SetUint64(k))
	case float32:
		return scalarKey(float64(k))
	}
	return nil, false
}

// keyCost returns what hashing a key costs beyond a constant, in bytes. Without this charge one long key fetched from the
// memo n times would cost n times its length.
func keyCost(k any) int64 {
	var n int
	switch k := k.(type) {
	case string:
		n = len(k)
	case []byte:
		n = len(k)
	case *big.Int:
		n = k.BitLen() / 8
	case Global:
		n = len(k.Module) + len(k.Name)
	}
	if n <= 256 {
		return 0
	}
	return int64(n)
}
