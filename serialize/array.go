package serialize

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/proxyplane/proxyplane/serialize/pickle"
	"github.com/proxyplane/proxyplane/transport"
)

// Array is a NumPy array, contiguous in C or Fortran order. Its elements are read with [View] (no copy), [Copy], [At] and [Array.Strings], or
// raw with [Array.Bytes].
//
// A decoded Array stands on the memory of the object and is read-only; it holds a reference, so Release it when done. One made by [NewArray]
// borrows the slice it was given for as long as it is used, and needs no Release. Shape may be changed to another of the same number of
// elements before the Array is shared. Reading from many goroutines at once is safe.
type Array struct {
	DType   DType
	Shape   []int // no dimensions for a scalar
	Fortran bool  // column-major order

	data    []byte            // the elements, if buf is nil
	buf     *transport.Buffer // a view of exactly the elements
	objects []any             // of object arrays, in C order
}

// Float16 is an IEEE 754 half-precision number, numpy.float16, as its bits.
type Float16 uint16

// Float32 returns the number, exactly.
func (f Float16) Float32() float32 {
	sign, exp, frac := uint32(f)>>15<<31, uint32(f)>>10&0x1f, uint32(f)&0x3ff
	switch exp {
	case 0:
		// Subnormal: frac * 2**-24, which is exact in float32.
		return math.Float32frombits(math.Float32bits(float32(frac)/(1<<24)) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0xff<<23 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+127-15)<<23 | frac<<13)
}

// ToFloat16 returns the half-precision number nearest to f, ties to even, as numpy.float16 does. Too large numbers become infinite.
func ToFloat16(f float32) Float16 {
	bits := math.Float32bits(f)
	sign := uint16(bits >> 16 & 0x8000)
	mag := bits &^ (1 << 31)
	switch {
	case mag > 0xff<<23: // NaN: keep the payload's upper bits, and some bit set
		frac := uint16(mag >> 13 & 0x3ff)
		if frac == 0 {
			frac = 1
		}
		return Float16(sign | 0x7c00 | frac)
	case mag >= 0x477ff000: // 65520, half-way to what would follow 65504
		return Float16(sign | 0x7c00)
	case mag < 0x38800000: // below 2**-14: count units of 2**-24
		u := math.RoundToEven(float64(math.Float32frombits(mag)) * (1 << 24))
		return Float16(sign | uint16(u))
	}
	// Rounding may carry into the exponent, which is right.
	mag -= (127 - 15) << 23
	mag += 0xfff + mag>>13&1
	return Float16(sign | uint16(mag>>13))
}

// Element is a Go type that array elements can have. Float16 is the type of float16; datetime64 and timedelta64 are int64.
type Element interface {
	~bool | ~int8 | ~int16 | ~int32 | ~int64 | ~int | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uint |
		~float32 | ~float64 | ~complex64 | ~complex128
}

// nativeBig is this machine's byte order.
var nativeBig = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// unaligned says that this machine loads numbers from any address. The three bytes of the tag leave a mapped array's elements unaligned.
const unaligned = runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64" || runtime.GOARCH == "386" || runtime.GOARCH == "ppc64" ||
	runtime.GOARCH == "ppc64le" || runtime.GOARCH == "s390x" || runtime.GOARCH == "wasm"

// elementOf returns the dtype of a Go type, in this machine's byte order, or false if arrays cannot have it.
func elementOf(t reflect.Type) (DType, bool) {
	d := DType{Size: int(t.Size()), Big: nativeBig && t.Size() > 1}
	switch t.Kind() {
	case reflect.Bool:
		d.Kind = KindBool
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Int:
		d.Kind = KindInt
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		d.Kind = KindUint
		if t == reflect.TypeFor[Float16]() {
			d.Kind = KindFloat
		}
	case reflect.Float32, reflect.Float64:
		d.Kind = KindFloat
	case reflect.Complex64, reflect.Complex128:
		d.Kind = KindComplex
	default:
		return DType{}, false
	}
	return d, true
}

// NewArray returns an array in C order over data, which it borrows for as long as the Array is used; nothing is copied. Without a shape it has
// one dimension. The shape must have as many elements as data.
func NewArray[T Element](data []T, shape ...int) (*Array, error) {
	d, _ := elementOf(reflect.TypeFor[T]())
	if len(shape) == 0 {
		shape = []int{len(data)}
	}
	raw := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(data))), len(data)*d.Size)
	return NewRawArray(d, raw, shape...)
}

// NewRawArray returns an array in C order of any type without objects over its bytes, which it borrows for as long as the Array is used. Without
// a shape it is a scalar. Set Fortran for column-major data.
func NewRawArray(d DType, data []byte, shape ...int) (*Array, error) {
	if d.HasObject() {
		return nil, fmt.Errorf("serialize: %w: elements of dtype %v are no bytes (see NewObjectArray)", ErrType, d)
	}
	n, err := checkShape(d, shape)
	if err != nil {
		return nil, err
	}
	if n != len(data) {
		return nil, fmt.Errorf("serialize: %w: shape %v of dtype %v takes %d bytes, data has %d", ErrType, shape, d, n, len(data))
	}
	return &Array{DType: d, Shape: slices.Clone(shape), data: data}, nil
}

// NewObjectArray returns an array of Python objects, which will be pickled. It borrows values. Without a shape it has one dimension.
func NewObjectArray(values []any, shape ...int) (*Array, error) {
	if len(shape) == 0 {
		shape = []int{len(values)}
	}
	d := DType{Kind: KindObject, Size: 8}
	n, err := checkShape(d, shape)
	if err != nil {
		return nil, err
	}
	if n != len(values)*d.Size {
		return nil, fmt.Errorf("serialize: %w: shape %v has %d elements, %d values are given", ErrType, shape, n/d.Size, len(values))
	}
	return &Array{DType: d, Shape: slices.Clone(shape), objects: values}, nil
}

// maxEmptyItems bounds arrays whose elements have no bytes (dtype S0, say): their length is backed by nothing.
const maxEmptyItems = 1 << 16

// checkShape returns the bytes of such an array.
func checkShape(d DType, shape []int) (int, error) {
	if d.Size == 0 {
		if n, err := product(shape, 1); err != nil || n > maxEmptyItems {
			return 0, fmt.Errorf("serialize: %w: shape %v of elements of no bytes, the limit is %d elements", ErrCorrupt, shape, maxEmptyItems)
		}
	}
	n, err := product(shape, d.Size)
	if err != nil {
		return 0, fmt.Errorf("serialize: %w", err)
	}
	return n, nil
}

// checkRows bounds what nesting an array in slices or lists takes when it has no elements: (1<<40, 0) is a shape too.
func checkRows(shape []int) error {
	rows := 1
	for _, s := range shape {
		if s == 0 {
			return nil
		}
		if rows *= s; rows > maxEmptyItems && slices.Contains(shape, 0) {
			return fmt.Errorf("serialize: %w: shape %v has more rows without elements than %d", ErrTooLarge, shape, maxEmptyItems)
		}
	}
	return nil
}

// Len returns the number of elements: the product of Shape.
func (a *Array) Len() int {
	n := 1
	for _, s := range a.Shape {
		n *= s
	}
	return n
}

// Bytes lends the elements in memory order and in the byte order of DType, until Release. They are read-only. It is nil for object arrays.
func (a *Array) Bytes() []byte {
	if a.buf != nil {
		return a.buf.Bytes()
	}
	return a.data
}

// Objects returns the elements of an object array in C order, each in its natural Go form.
func (a *Array) Objects() ([]any, error) {
	if !a.DType.HasObject() {
		return nil, fmt.Errorf("serialize: %w: elements of dtype %v are no Python objects", ErrType, a.DType)
	}
	v, err := pickle.ToGo(pickle.Tuple(a.objects))
	if err != nil {
		return nil, wrapPickle("elements of an object array", err)
	}
	items, _ := v.([]any)
	return items, nil
}

// Release drops the reference on the object's memory. The Array and what View returned must not be used any more. It does nothing for arrays
// that hold none, and for nil.
func (a *Array) Release() {
	if a != nil {
		a.buf.Release()
	}
}

// Clone returns a copy that the garbage collector owns and that needs no Release. Elements of object arrays stay shared.
func (a *Array) Clone() *Array {
	return &Array{DType: a.DType, Shape: slices.Clone(a.Shape), Fortran: a.Fortran, data: slices.Clone(a.Bytes()), objects: a.objects}
}

// String describes the array without its elements.
func (a *Array) String() string {
	if a == nil {
		return "<nil>"
	}
	order := ""
	if a.columnMajor() {
		order = ", fortran order"
	}
	return fmt.Sprintf("ndarray(dtype %v, shape %v%s)", a.DType, a.Shape, order)
}

// Strides returns the distance in bytes between neighbours along each dimension.
func (a *Array) Strides() []int {
	st := make([]int, len(a.Shape))
	step := a.DType.Size
	for k := range a.Shape {
		i := len(a.Shape) - 1 - k
		if a.Fortran {
			i = k
		}
		st[i] = step
		step *= a.Shape[i]
	}
	return st
}

// columnMajor reports whether memory order differs from C order. As in NumPy, an array with at most one long dimension is in both orders.
func (a *Array) columnMajor() bool {
	if !a.Fortran {
		return false
	}
	long := 0
	for _, s := range a.Shape {
		if s == 0 {
			return false
		}
		if s > 1 {
			long++
		}
	}
	return long > 1
}

// valid checks what users can break: the exported fields against the memory that is there.
func (a *Array) valid() error {
	n, err := checkShape(a.DType, a.Shape)
	if err != nil {
		return err
	}
	have := len(a.Bytes())
	if a.objects != nil {
		have = len(a.objects) * a.DType.Size
	}
	if n != have {
		return fmt.Errorf("serialize: %w: shape %v of dtype %v takes %d bytes, the array has %d", ErrType, a.Shape, a.DType, n, have)
	}
	return nil
}

// offsets calls yield with the memory offset of each element, in C order.
func (a *Array) offsets(yield func(off int)) {
	if !a.columnMajor() {
		for i := range a.Len() {
			yield(i * a.DType.Size)
		}
		return
	}
	walk(a.Shape, a.Strides(), yield)
}

// walk calls yield with the memory offset of each element of a shape with such strides, in C order.
func walk(shape, strides []int, yield func(off int)) {
	n := 1
	for _, s := range shape {
		n *= s
	}
	index := make([]int, len(shape))
	off := 0
	for range n {
		yield(off)
		for i := len(index) - 1; i >= 0; i-- {
			off += strides[i]
			if index[i]++; index[i] < shape[i] {
				break
			}
			off -= strides[i] * shape[i]
			index[i] = 0
		}
	}
}

// holds reports whether elements can be read as t, whatever their byte order.
func (a *Array) holds(t reflect.Type) error {
	if err := a.valid(); err != nil {
		return err
	}
	d, ok := elementOf(t)
	if ok && d.Size == a.DType.Size && a.DType.Fields == nil {
		switch a.DType.Kind {
		case d.Kind:
			return nil
		case KindDatetime, KindTimedelta:
			ok = d.Kind == KindInt
		case KindFloat: // of 16 bits
			ok = d.Kind == KindUint && d.Size == 2
		case KindBool:
			ok = d.Kind == KindUint
		default:
			ok = false
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("serialize: %w: elements of dtype %v are no %v", ErrType, a.DType, t)
}

// checkBools refuses bytes that are neither 0 nor 1, which a Go bool must never be.
func checkBools(raw []byte) error {
	for i, c := range raw {
		if c > 1 {
			return fmt.Errorf("serialize: %w: element %d of a bool array is %#x (View[uint8] reads it)", ErrCorrupt, i, c)
		}
	}
	return nil
}

// View lends the elements in memory order as Go values without a copy: valid until Release, and read-only. The type must be that of the
// elements, in this machine's byte order; int64 views datetime64 and timedelta64, uint16 views float16, uint8 views bool. Where the machine
// cannot load unaligned numbers and they are unaligned, it is a copy. Errors unwrap to ErrType.
func View[T Element](a *Array) ([]T, error) {
	t := reflect.TypeFor[T]()
	if err := a.holds(t); err != nil {
		return nil, err
	}
	if !a.DType.Native() {
		return nil, fmt.Errorf("serialize: %w: dtype %v has the other byte order; use Copy", ErrType, a.DType)
	}
	return viewRaw[T](a.Bytes(), t.Kind() == reflect.Bool)
}

// viewRaw reinterprets bytes that are known to be elements of the size of T.
func viewRaw[T Element](raw []byte, isBool bool) ([]T, error) {
	size := int(unsafe.Sizeof(*new(T)))
	if len(raw) == 0 {
		return []T{}, nil
	}
	if isBool {
		if err := checkBools(raw); err != nil {
			return nil, err
		}
	}
	p := unsafe.Pointer(unsafe.SliceData(raw))
	if !unaligned && uintptr(p)%unsafe.Alignof(*new(T)) != 0 {
		out := make([]T, len(raw)/size)
		copy(rawOf(out), raw)
		return out, nil
	}
	return unsafe.Slice((*T)(p), len(raw)/size), nil
}

// rawOf returns the memory of a slice.
func rawOf[T Element](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(*new(T))))
}

// Copy returns the elements in C order and in this machine's byte order, in new memory. The types are those of [View].
func Copy[T Element](a *Array) ([]T, error) {
	t := reflect.TypeFor[T]()
	if err := a.holds(t); err != nil {
		return nil, err
	}
	out := make([]T, a.Len())
	if err := a.copyInto(rawOf(out), t.Kind() == reflect.Bool); err != nil {
		return nil, err
	}
	return out, nil
}

// copyInto copies all elements to dst in C order and native byte order.
func (a *Array) copyInto(dst []byte, isBool bool) error {
	src, size := a.Bytes(), a.DType.Size
	if isBool {
		if err := checkBools(src); err != nil {
			return err
		}
	}
	switch {
	case !a.columnMajor():
		copy(dst, src)
	default:
		at := 0
		// A copy of constant length is one load and one store, of variable length a call.
		switch size {
		case 8:
			a.offsets(func(off int) { *(*[8]byte)(dst[at:]) = *(*[8]byte)(src[off:]); at += 8 })
		case 4:
			a.offsets(func(off int) { *(*[4]byte)(dst[at:]) = *(*[4]byte)(src[off:]); at += 4 })
		default:
			a.offsets(func(off int) { at += copy(dst[at:at+size], src[off:]) })
		}
	}
	if !a.DType.Native() {
		swapBytes(dst, a.DType.swapUnit())
	}
	return nil
}

// swapBytes reverses every n bytes of b.
func swapBytes(b []byte, n int) {
	switch n {
	case 2:
		for i := 0; i+2 <= len(b); i += 2 {
			binary.BigEndian.PutUint16(b[i:], binary.LittleEndian.Uint16(b[i:]))
		}
	case 4:
		for i := 0; i+4 <= len(b); i += 4 {
			binary.BigEndian.PutUint32(b[i:], binary.LittleEndian.Uint32(b[i:]))
		}
	case 8:
		for i := 0; i+8 <= len(b); i += 8 {
			binary.BigEndian.PutUint64(b[i:], binary.LittleEndian.Uint64(b[i:]))
		}
	default:
		for i := 0; n > 1 && i+n <= len(b); i += n {
			slices.Reverse(b[i : i+n])
		}
	}
}

// At returns one element, whatever the orders of dimensions and bytes. It takes one index per dimension, none for a scalar.
func At[T Element](a *Array, index ...int) (T, error) {
	var v T
	t := reflect.TypeFor[T]()
	if err := a.holds(t); err != nil {
		return v, err
	}
	if len(index) != len(a.Shape) {
		return v, fmt.Errorf("serialize: %w: %d indexes for %d dimensions", ErrType, len(index), len(a.Shape))
	}
	off := 0
	for i, st := range a.Strides() {
		if index[i] < 0 || index[i] >= a.Shape[i] {
			return v, fmt.Errorf("serialize: %w: index %v is outside shape %v", ErrType, index, a.Shape)
		}
		off += index[i] * st
	}
	raw := a.Bytes()[off : off+a.DType.Size]
	if t.Kind() == reflect.Bool {
		if err := checkBools(raw); err != nil {
			return v, err
		}
	}
	dst := unsafe.Slice((*byte)(unsafe.Pointer(&v)), len(raw))
	copy(dst, raw)
	if !a.DType.Native() {
		swapBytes(dst, a.DType.swapUnit())
	}
	return v, nil
}

// Strings returns the elements of an array of dtype U or S in C order, without the zeros that pad them.
func (a *Array) Strings() ([]string, error) {
	if err := a.valid(); err != nil {
		return nil, err
	}
	raw, size := a.Bytes(), a.DType.Size
	out := make([]string, 0, a.Len())
	var err error
	switch a.DType.Kind {
	case KindBytes:
		a.offsets(func(off int) {
			out = append(out, strings.TrimRight(string(raw[off:off+size]), "\x00"))
		})
	case KindUnicode:
		var order binary.ByteOrder = binary.LittleEndian
		if a.DType.Big {
			order = binary.BigEndian
		}
		text := make([]byte, 0, 64)
		a.offsets(func(off int) {
			text = text[:0]
			end := off + size
			for end > off && order.Uint32(raw[end-4:]) == 0 {
				end -= 4
			}
			for at := off; at < end; at += 4 {
				c := order.Uint32(raw[at:])
				if c > utf8.MaxRune || !utf8.ValidRune(rune(c)) {
					err = fmt.Errorf("serialize: %w: %#x in an array of dtype %v is no character", ErrCorrupt, c, a.DType)
				}
				text = utf8.AppendRune(text, rune(c&0x1fffff))
			}
			out = append(out, string(text))
		})
	default:
		err = fmt.Errorf("serialize: %w: elements of dtype %v are no strings", ErrType, a.DType)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Field returns one field of a structured array as an array of its own, in C order and in new memory. A subarray adds its dimensions.
func (a *Array) Field(name string) (*Array, error) {
	if err := a.valid(); err != nil {
		return nil, err
	}
	f, ok := a.DType.Field(name)
	if !ok || a.objects != nil {
		return nil, fmt.Errorf("serialize: %w: dtype %v has no field %q that is bytes", ErrType, a.DType, name)
	}
	shape := append(slices.Clone(a.Shape), f.Shape...)
	size := f.size()
	if n, err := checkShape(f.DType, shape); err != nil || n != a.Len()*size {
		return nil, fmt.Errorf("serialize: %w: field %q of shape %v in an array of shape %v", ErrCorrupt, name, f.Shape, a.Shape)
	}
	raw := a.Bytes()
	data := make([]byte, 0, a.Len()*size)
	a.offsets(func(off int) { data = append(data, raw[off+f.Offset:off+f.Offset+size]...) })
	return &Array{DType: f.DType, Shape: shape, data: data}, nil
}
