package serialize

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kind is the kind of a NumPy element: the character of numpy.dtype.kind.
type Kind byte

// The kinds of elements.
const (
	KindBool      Kind = 'b'
	KindInt       Kind = 'i'
	KindUint      Kind = 'u'
	KindFloat     Kind = 'f' // of 2, 4, 8, 12 or 16 bytes
	KindComplex   Kind = 'c' // two floats
	KindTimedelta Kind = 'm' // int64, counted in DType.Unit
	KindDatetime  Kind = 'M' // int64, counted in DType.Unit since 1970
	KindBytes     Kind = 'S' // fixed length, padded with zeros
	KindUnicode   Kind = 'U' // fixed length, 4 bytes per character, padded with zeros
	KindVoid      Kind = 'V' // raw bytes, or a structure if there are Fields
	KindObject    Kind = 'O' // Python objects, pickled
)

// DType is a NumPy element type. The zero DType is none. It is a value; its Fields are shared and must not be changed.
type DType struct {
	Kind Kind
	Size int    // bytes per element
	Big  bool   // big-endian; false where byte order has no meaning
	Unit string // of KindDatetime and KindTimedelta: "D", "us", "25s", ...; empty for NumPy's generic unit
	// Fields of a structured type, ordered by Offset unless Python chose otherwise; nil for all other types.
	Fields []Field
}

// Field is a member of a structured DType.
type Field struct {
	Name   string
	Title  string // NumPy's second name, rarely there
	DType  DType
	Shape  []int // of a subarray; nil for one element
	Offset int   // within the element
}

const (
	// maxItem is the largest element accepted; NumPy's own is a C int.
	maxItem = math.MaxInt32
	// maxFields bounds a structured type, nested ones together.
	maxFields = 1 << 16
	// maxDTypeDepth bounds how deeply structured types nest.
	maxDTypeDepth = 32
	// maxDims is NumPy's limit on dimensions.
	maxDims = 64
)

// ParseDType parses a type as an .npy header has it and [DType.String] returns it: "<f8", "|S5", "<M8[ns]", or for structures a list of tuples
// such as [('a', '<i4'), ('b', '>f8', (2, 3))]. Errors unwrap to ErrCorrupt.
func ParseDType(descr string) (DType, error) {
	if !strings.HasPrefix(descr, "[") {
		return parseSimple(descr)
	}
	v, err := parseLiteral(descr)
	if err != nil {
		return DType{}, err
	}
	n := 0
	d, shape, err := descrOf(v, 0, &n)
	if err == nil && shape != nil {
		err = badDescr(descr, "a subarray is possible in a field only")
	}
	return d, err
}

func badDescr(descr any, why string) error {
	var s string
	switch d := descr.(type) {
	case string:
		s = d
	case litTuple, litList:
		s = fmt.Sprint(d)
	default: // a pickled value may be cyclic, or print without end
		s = fmt.Sprintf("%T", d)
	}
	if len(s) > 80 {
		s = s[:80] + "..."
	}
	return fmt.Errorf("%w: dtype %q: %s", ErrCorrupt, s, why)
}

// parseSimple parses a type that has no fields.
func parseSimple(descr string) (DType, error) {
	var d DType
	s := descr
	if s != "" {
		switch s[0] {
		case '>':
			d.Big, s = true, s[1:]
		case '=':
			d.Big, s = nativeBig, s[1:]
		case '<', '|':
			s = s[1:]
		}
	}
	if s == "" {
		return d, badDescr(descr, "expected a kind and a size")
	}
	d.Kind, s = Kind(s[0]), s[1:]
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	size := -1
	if digits > 0 {
		n, err := strconv.ParseInt(s[:digits], 10, 32)
		if err != nil {
			return d, badDescr(descr, "the size is too large")
		}
		size = int(n)
	}
	unit := s[digits:]
	switch d.Kind {
	case '?':
		d.Kind, size = KindBool, 1
	case 'a':
		d.Kind = KindBytes // its old name
	case KindObject:
		size = 8 // in memory a pointer; in .npy there are none
	case KindUnicode:
		if size > maxItem/4 {
			return d, badDescr(descr, "the size is too large")
		}
		size *= 4
	}
	if size < 0 {
		return d, badDescr(descr, "there is no size")
	}
	d.Size = size
	if d.Kind == KindDatetime || d.Kind == KindTimedelta {
		if unit != "" {
			inner, ok := strings.CutPrefix(unit, "[")
			inner, ok2 := strings.CutSuffix(inner, "]")
			if !ok || !ok2 || !validUnit(inner) {
				return d, badDescr(descr, "the time unit is unknown")
			}
			d.Unit, unit = inner, ""
		}
	}
	if unit != "" {
		return d, badDescr(descr, "there is something after the size")
	}
	if err := d.check(); err != nil {
		return d, badDescr(descr, err.Error())
	}
	return d, nil
}

func validUnit(u string) bool {
	u = strings.TrimLeft(u, "0123456789")
	switch u {
	case "Y", "M", "W", "D", "h", "m", "s", "ms", "us", "μs", "ns", "ps", "fs", "as", "generic":
		return true
	}
	return false
}

// check validates kind and size of a type without fields, and clears a byte order that has no meaning.
func (d *DType) check() error {
	ok := false
	switch d.Kind {
	case KindBool:
		ok = d.Size == 1
	case KindInt, KindUint:
		ok = d.Size == 1 || d.Size == 2 || d.Size == 4 || d.Size == 8
	case KindFloat:
		ok = d.Size == 2 || d.Size == 4 || d.Size == 8 || d.Size == 12 || d.Size == 16
	case KindComplex:
		ok = d.Size == 8 || d.Size == 16 || d.Size == 24 || d.Size == 32
	case KindTimedelta, KindDatetime:
		ok = d.Size == 8
	case KindUnicode:
		ok = d.Size >= 0 && d.Size <= maxItem && d.Size%4 == 0
	case KindBytes, KindVoid:
		ok = d.Size >= 0 && d.Size <= maxItem
	case KindObject:
		ok = d.Size == 4 || d.Size == 8
	default:
		return fmt.Errorf("kind %q is unknown", string(d.Kind))
	}
	if !ok {
		return fmt.Errorf("kind %q has no size %d", string(d.Kind), d.Size)
	}
	if d.swapUnit() == 1 {
		d.Big = false
	}
	return nil
}

// swapUnit returns how many bytes are reversed together to change the byte order; 1 if there is no order.
func (d DType) swapUnit() int {
	switch d.Kind {
	case KindInt, KindUint, KindFloat, KindTimedelta, KindDatetime:
		return d.Size
	case KindComplex:
		return d.Size / 2
	case KindUnicode:
		return 4
	}
	return 1
}

// Native reports whether elements are in this machine's byte order, or have none. It is false for structures.
func (d DType) Native() bool { return d.Fields == nil && (d.swapUnit() == 1 || d.Big == nativeBig) }

// HasObject reports whether elements are or contain Python objects; such arrays travel as pickles.
func (d DType) HasObject() bool {
	return d.Kind == KindObject || slices.ContainsFunc(d.Fields, func(f Field) bool { return f.DType.HasObject() })
}

// Field returns the field of that name or title.
func (d DType) Field(name string) (Field, bool) {
	for _, f := range d.Fields {
		if f.Name == name || (f.Title != "" && f.Title == name) {
			return f, true
		}
	}
	return Field{}, false
}

// String returns the type as an .npy header has it: numpy.dtype.str, or for structures the Python literal of numpy.dtype.descr.
func (d DType) String() string {
	if d.Fields == nil {
		return d.simple()
	}
	return string(d.appendDescr(nil))
}

func (d DType) simple() string {
	order := "|"
	if d.swapUnit() > 1 || d.Kind == KindUnicode {
		order = "<"
		if d.Big {
			order = ">"
		}
	}
	switch d.Kind {
	case KindObject:
		return "|O"
	case KindUnicode:
		return order + "U" + strconv.Itoa(d.Size/4)
	case KindDatetime, KindTimedelta:
		if d.Unit != "" && d.Unit != "generic" {
			return order + string(d.Kind) + strconv.Itoa(d.Size) + "[" + d.Unit + "]"
		}
	}
	return order + string(d.Kind) + strconv.Itoa(d.Size)
}

// appendDescr appends repr(dtype.descr), or repr(dtype.str) for simple types. Gaps between fields become unnamed void fields, as in NumPy.
func (d DType) appendDescr(b []byte) []byte {
	if d.Fields == nil {
		return appendRepr(b, d.simple())
	}
	b = append(b, '[')
	at := 0
	pad := func(to int) {
		if to > at {
			if b[len(b)-1] != '[' {
				b = append(b, ", "...)
			}
			b = append(b, "('', '|V"...)
			b = strconv.AppendInt(b, int64(to-at), 10)
			b = append(b, "')"...)
		}
	}
	for _, f := range d.Fields {
		pad(f.Offset)
		if b[len(b)-1] != '[' {
			b = append(b, ", "...)
		}
		b = append(b, '(')
		if f.Title != "" {
			b = append(b, '(')
			b = appendRepr(b, f.Title)
			b = append(b, ", "...)
			b = appendRepr(b, f.Name)
			b = append(b, ')')
		} else {
			b = appendRepr(b, f.Name)
		}
		b = append(b, ", "...)
		b = f.DType.appendDescr(b)
		if f.Shape != nil {
			b = append(b, ", "...)
			b = appendShape(b, f.Shape)
		}
		b = append(b, ')')
		at = f.Offset + f.size()
	}
	pad(d.Size)
	return append(b, ']')
}

// size returns the bytes of a field. Every Field that this package makes has been checked to fit its element.
func (f Field) size() int {
	n := f.DType.Size
	for _, s := range f.Shape {
		n *= s
	}
	return n
}

// sequential reports whether fields follow each other without overlapping, which is what .npy can say.
func (d DType) sequential() bool {
	at := 0
	for _, f := range d.Fields {
		if f.Offset < at || !f.DType.sequential() {
			return false
		}
		at = f.Offset + f.size()
	}
	return d.Fields == nil || at <= d.Size
}

// appendShape appends repr of a tuple of ints.
func appendShape(b []byte, shape []int) []byte {
	b = append(b, '(')
	for i, n := range shape {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	if len(shape) == 1 {
		b = append(b, ',')
	}
	return append(b, ')')
}

// appendRepr appends Python's repr of a str.
func appendRepr(b []byte, s string) []byte {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	b = append(b, quote)
	for _, r := range s {
		switch {
		case r == rune(quote) || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r < 0x100:
			b = fmt.Appendf(b, `\x%02x`, r)
		case r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = fmt.Appendf(b, `\U%08x`, r)
		}
	}
	return append(b, quote)
}

// descrOf turns the literal of a header's descr into a type, as descr_to_dtype does. shape is that of a subarray, else nil. It counts fields
// in n.
func descrOf(v any, depth int, n *int) (d DType, shape []int, err error) {
	if depth > maxDTypeDepth {
		return d, nil, badDescr("", "structures nest too deeply")
	}
	switch v := v.(type) {
	case string:
		d, err = parseSimple(v)
		return d, nil, err
	case litTuple: // (type, shape)
		if len(v) != 2 {
			return d, nil, badDescr(v, "expected (type, shape)")
		}
		d, inner, err := descrOf(v[0], depth+1, n)
		if err != nil {
			return d, nil, err
		}
		shape, err := litShape(v[1])
		if err != nil {
			return d, nil, err
		}
		return d, append(shape, inner...), nil
	case litList:
		fields := make([]Field, 0, len(v))
		off := 0
		for _, item := range v {
			f, ok := item.(litTuple)
			if !ok || (len(f) != 2 && len(f) != 3) {
				return d, nil, badDescr(item, "expected (name, type) or (name, type, shape)")
			}
			var field Field
			var named bool
			switch name := f[0].(type) {
			case string:
				field.Name, named = name, true
			case litTuple:
				if len(name) == 2 {
					var ok bool
					field.Title, named = name[0].(string)
					field.Name, ok = name[1].(string)
					named = named && ok
				}
			}
			if !named {
				return d, nil, badDescr(item, "expected a name, or (title, name)")
			}
			if *n++; *n > maxFields {
				return d, nil, badDescr("", "there are too many fields")
			}
			if field.DType, field.Shape, err = descrOf(f[1], depth+1, n); err != nil {
				return d, nil, err
			}
			if len(f) == 3 {
				outer, err := litShape(f[2])
				if err != nil {
					return d, nil, err
				}
				field.Shape = append(outer, field.Shape...)
			}
			size, err := product(field.Shape, field.DType.Size)
			if err != nil || size > maxItem-off {
				return d, nil, badDescr(item, "the structure is too large")
			}
			field.Offset = off
			off += size
			pad := field.Name == "" && field.Title == "" && field.DType.Kind == KindVoid && field.DType.Fields == nil
			if !pad {
				fields = append(fields, field)
			}
		}
		d = DType{Kind: KindVoid, Size: off, Fields: fields}
		return d, nil, d.checkNames()
	}
	return d, nil, badDescr(v, "expected a string or a list of fields")
}

// checkNames refuses fields of one name, as NumPy does.
func (d DType) checkNames() error {
	seen := make(map[string]bool, len(d.Fields))
	for _, f := range d.Fields {
		if seen[f.Name] {
			return badDescr("", fmt.Sprintf("field %q occurs twice", f.Name))
		}
		seen[f.Name] = true
	}
	return nil
}

// product multiplies the dimensions of a shape with the size of an element. Zero dimensions do not excuse overflow in the others: strides are
// computed from those too.
func product(shape []int, size int) (int, error) {
	n, zero := max(size, 1), size == 0
	if len(shape) > maxDims {
		return 0, fmt.Errorf("%w: %d dimensions, NumPy has at most %d", ErrCorrupt, len(shape), maxDims)
	}
	for _, s := range shape {
		switch {
		case s < 0:
			return 0, fmt.Errorf("%w: negative dimension %d", ErrCorrupt, s)
		case s == 0:
			zero = true
		case n > math.MaxInt/s:
			return 0, fmt.Errorf("%w: shape %v of elements of %d bytes is larger than memory can be", ErrCorrupt, shape, size)
		default:
			n *= s
		}
	}
	if zero {
		return 0, nil
	}
	return n, nil
}
