package serialize

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unsafe"

	"github.com/proxyplane/proxyplane/serialize/pickle"
)

// UnmarshalPickle makes a the array that v is. Only arrays are: a dict with the names of an Array's fields is none.
func (a *Array) UnmarshalPickle(v any) error {
	src, ok := v.(*Array)
	if !ok || src == nil {
		return fmt.Errorf("serialize: %w: a pickled %T is no ndarray", ErrType, v)
	}
	*a = *src
	return nil
}

// MarshalPickle pickles the array by NumPy's public names only, which every NumPy since 1.0 can load: numpy.ndarray over a bytearray, and
// numpy.dtype of a string or a dictionary. NumPy's own pickles name private modules that moved in NumPy 2. It lends the array's memory.
func (a *Array) MarshalPickle() (any, error) {
	if err := a.valid(); err != nil {
		return nil, err
	}
	shape := make(pickle.Tuple, len(a.Shape))
	for i, n := range a.Shape {
		shape[i] = int64(n)
	}
	dtype := a.DType.pickleValue()
	ndarray := pickle.Global{Module: "numpy", Name: "ndarray"}
	if a.DType.HasObject() {
		if a.objects == nil && a.Len() > 0 {
			return nil, fmt.Errorf("serialize: %w: an array of dtype %v without its objects", ErrType, a.DType)
		}
		return &pickle.Object{
			Callable: ndarray,
			Args:     pickle.Tuple{pickle.Tuple{int64(0)}, dtype},
			HasState: true,
			State:    pickle.Tuple{int64(1), shape, dtype, false, pickle.NewList(a.objects...)},
		}, nil
	}
	order := "C"
	if a.columnMajor() {
		order = "F"
	}
	return &pickle.Object{
		Callable: ndarray,
		Args:     pickle.Tuple{shape, dtype, pickle.ByteArray(a.Bytes()), int64(0), nil, order},
	}, nil
}

// pickleValue returns the call of numpy.dtype that makes d.
func (d DType) pickleValue() *pickle.Object {
	dtype := &pickle.Object{Callable: pickle.Global{Module: "numpy", Name: "dtype"}}
	if d.Fields == nil {
		dtype.Args = pickle.Tuple{d.simple()}
		return dtype
	}
	names, formats, offsets, titles := pickle.NewList(), pickle.NewList(), pickle.NewList(), pickle.NewList()
	for _, f := range d.Fields {
		names.Items = append(names.Items, f.Name)
		var format any = f.DType.pickleValue()
		if f.Shape != nil {
			shape := make(pickle.Tuple, len(f.Shape))
			for i, n := range f.Shape {
				shape[i] = int64(n)
			}
			format = pickle.Tuple{format, shape}
		}
		formats.Items = append(formats.Items, format)
		offsets.Items = append(offsets.Items, int64(f.Offset))
		var title any
		if f.Title != "" {
			title = f.Title
		}
		titles.Items = append(titles.Items, title)
	}
	spec := pickle.NewDict()
	spec.Set("names", names)
	spec.Set("formats", formats)
	spec.Set("offsets", offsets)
	spec.Set("titles", titles)
	spec.Set("itemsize", int64(d.Size))
	dtype.Args = pickle.Tuple{spec}
	return dtype
}

// numpyDecoder rewrites a decoded pickle so that NumPy's arrays and scalars become *Array and Go numbers, and, where the pickle's memory is
// about to go away, so that no bytes alias it. Everything shared is rewritten once and stays shared, so that time and memory are linear in the
// pickle whatever it claims.
type numpyDecoder struct {
	detach bool // copy bytes
	seen   map[any]any
	tuples map[*any]pickle.Tuple
	copies map[*byte][]byte
	dtypes map[*pickle.Object]dtypeResult
	arrays bool // some were met
	// lists, if not nil, has what arrays are replaced with: a second pass for Go types that have no Array.
	lists map[*Array]any
	room  int // elements that lists may still have
	// copyRoom is how many bytes may be copied to bring arrays of neither order into C order: many arrays may share one run of bytes.
	copyRoom int
}

func newNumpyDecoder(detach bool) *numpyDecoder {
	return &numpyDecoder{
		detach: detach, seen: make(map[any]any), tuples: make(map[*any]pickle.Tuple), copies: make(map[*byte][]byte),
		dtypes: make(map[*pickle.Object]dtypeResult),
	}
}

type dtypeResult struct {
	d      DType
	shape  []int // of a subarray
	fields int   // nested ones together
	err    error
}

// isNumpy reports whether a Global is in one of NumPy's homes of its private C functions.
func isNumpy(g pickle.Global, name string) bool {
	return g.Name == name && (g.Module == "numpy._core.multiarray" || g.Module == "numpy.core.multiarray" ||
		g.Module == "numpy._core.numeric" || g.Module == "numpy.core.numeric")
}

// value returns v rewritten. Containers are changed in place and keep their identity.
func (n *numpyDecoder) value(v any) any {
	switch v := v.(type) {
	case []byte:
		return n.bytes(v)
	case pickle.ByteArray:
		return pickle.ByteArray(n.bytes(v))
	case pickle.Tuple:
		return n.tuple(v)
	case *pickle.List:
		if n.first(v) {
			for i, item := range v.Items {
				v.Items[i] = n.value(item)
			}
		}
	case *pickle.Set:
		if n.first(v) {
			for i, item := range v.Items {
				v.Items[i] = n.value(item)
			}
		}
	case *pickle.Dict:
		n.dict(v)
	case *pickle.Object:
		return n.object(v)
	case *Array:
		return n.list(v)
	case pickle.PersistentID:
		return pickle.PersistentID{ID: n.value(v.ID)}
	}
	return v
}

// first reports whether v has not been met before.
func (n *numpyDecoder) first(v any) bool {
	if _, ok := n.seen[v]; ok {
		return false
	}
	n.seen[v] = v
	return true
}

func (n *numpyDecoder) bytes(b []byte) []byte {
	if !n.detach || len(b) == 0 {
		return b
	}
	// One bytes object may be fetched from the memo a million times; two different ones never start at the same address.
	p := unsafe.SliceData(b)
	if c, ok := n.copies[p]; ok && len(c) == len(b) {
		return c
	}
	c := append(make([]byte, 0, len(b)), b...)
	n.copies[p] = c
	return c
}

// tuple rewrites in place too: nothing else holds the decoded pickle.
func (n *numpyDecoder) tuple(t pickle.Tuple) pickle.Tuple {
	if len(t) == 0 {
		return t
	}
	p := unsafe.SliceData(t)
	if done, ok := n.tuples[p]; ok && len(done) == len(t) {
		return done
	}
	n.tuples[p] = t
	for i, item := range t {
		t[i] = n.value(item)
	}
	return t
}

func (n *numpyDecoder) dict(d *pickle.Dict) {
	if d == nil || !n.first(d) {
		return
	}
	fresh := pickle.NewDict()
	for k, v := range d.All() {
		fresh.Set(n.value(k), n.value(v))
	}
	*d = *fresh
}

func (n *numpyDecoder) object(o *pickle.Object) any {
	if o == nil {
		return o
	}
	if done, ok := n.seen[o]; ok {
		return done
	}
	n.seen[o] = o // a cycle through an array of objects meets the object itself
	if v, ok := n.numpy(o); ok {
		n.seen[o] = v
		return v
	}
	o.Callable = n.value(o.Callable)
	o.Args = n.tuple(o.Args)
	n.dict(o.Kwargs)
	n.dict(o.Pairs)
	for i, item := range o.Items {
		o.Items[i] = n.value(item)
	}
	o.State = n.value(o.State)
	return o
}

// numpy turns a NumPy object into its Go form. It reports false for other objects, and for NumPy's where something is not as NumPy writes it:
// they stay what the pickle says.
func (n *numpyDecoder) numpy(o *pickle.Object) (any, bool) {
	g, ok := o.Class()
	if !ok || !strings.HasPrefix(g.Module, "numpy") {
		return nil, false
	}
	if isNumpy(g, "scalar") && len(o.Args) == 2 {
		return n.scalar(o)
	}
	a, ok := n.array(o)
	if !ok {
		return nil, false
	}
	a.data = n.bytes(a.data)
	n.arrays = true
	return a, true
}

// array decodes the ways in which an ndarray is pickled. The result's data aliases the pickle.
func (n *numpyDecoder) array(o *pickle.Object) (*Array, bool) {
	g, ok := o.Class()
	if !ok {
		return nil, false
	}
	a := &Array{}
	var shape, dtype, data any
	var axes []int // if the array is a permutation of one in C order
	switch args := o.Args; {
	case isNumpy(g, "_frombuffer") && (len(args) == 4 || len(args) == 5): // (buffer, dtype, shape, order[, axis_order])
		data, dtype, shape = args[0], args[1], args[2]
		switch args[3] {
		case "C":
		case "F":
			a.Fortran = true
		case "K":
			if len(args) != 5 {
				return nil, false
			}
			t, ok := args[4].(pickle.Tuple)
			if !ok {
				return nil, false
			}
			if axes, ok = intsOf(t); !ok {
				return nil, false
			}
		default:
			return nil, false
		}
	case isNumpy(g, "_reconstruct") && len(args) == 3, // _reconstruct(ndarray, (0,), b"b"), then __setstate__
		g.Module == "numpy" && g.Name == "ndarray" && len(args) == 2:
		if cls, ok := args[0].(pickle.Global); ok && isNumpy(g, "_reconstruct") && !isArrayClass(cls) {
			return nil, false
		}
		st, ok := o.State.(pickle.Tuple) // (version, shape, dtype, is_fortran, data)
		if !ok || len(st) != 5 {
			return nil, false
		}
		shape, dtype, data = st[1], st[2], st[4]
		a.Fortran, ok = truth(st[3])
		if !ok {
			return nil, false
		}
	case g.Module == "numpy" && g.Name == "ndarray" && len(args) == 6: // (shape, dtype, buffer, offset, strides, order): see MarshalPickle
		shape, dtype, data = args[0], args[1], args[2]
		if args[3] != any(int64(0)) || args[4] != nil {
			return nil, false
		}
		switch args[5] {
		case "C":
		case "F":
			a.Fortran = true
		default:
			return nil, false
		}
	default:
		return nil, false
	}
	t, ok := shape.(pickle.Tuple)
	if !ok {
		return nil, false
	}
	if a.Shape, ok = intsOf(t); !ok {
		return nil, false
	}
	r := n.dtype(dtype, 0)
	if r.err != nil || r.shape != nil {
		return nil, false
	}
	a.DType = r.d
	size, err := checkShape(a.DType, a.Shape)
	if err != nil {
		return nil, false
	}
	if a.DType.HasObject() {
		items, ok := data.(*pickle.List)
		if !ok || len(items.Items)*max(a.DType.Size, 1) != size {
			return nil, false
		}
		n.value(items)
		a.objects = items.Items
		if a.objects == nil {
			a.objects = []any{}
		}
		a.Fortran = false // the list is in C order always
		return a, true
	}
	switch data := data.(type) {
	case []byte:
		a.data = data
	case pickle.ByteArray:
		a.data = data
	case string: // a str of Python 2
		a.data = []byte(data)
	default:
		return nil, false
	}
	if len(a.data) != size {
		return nil, false
	}
	if axes != nil {
		return n.permute(a, axes)
	}
	return a, true
}

// permute does what ndarray.transpose(axes) does, and brings the result into C order, which takes a copy.
func (n *numpyDecoder) permute(a *Array, axes []int) (*Array, bool) {
	if len(axes) != len(a.Shape) || len(a.data) > n.copyRoom {
		return nil, false
	}
	n.copyRoom -= len(a.data)
	st, seen := a.Strides(), make([]bool, len(axes))
	shape, strides := make([]int, len(axes)), make([]int, len(axes))
	for i, axis := range axes {
		if axis >= len(axes) || seen[axis] {
			return nil, false
		}
		seen[axis] = true
		shape[i], strides[i] = a.Shape[axis], st[axis]
	}
	data := make([]byte, 0, len(a.data))
	walk(shape, strides, func(off int) { data = append(data, a.data[off:off+a.DType.Size]...) })
	return &Array{DType: a.DType, Shape: shape, data: data}, true
}

// isArrayClass reports whether instances of a class hold nothing but what ndarray's state says.
func isArrayClass(g pickle.Global) bool {
	switch g.String() {
	case "numpy.ndarray", "numpy.matrix", "numpy.memmap", "numpy.matrixlib.defmatrix.matrix", "numpy.core.memmap.memmap",
		"numpy.rec.recarray", "numpy.recarray":
		return true
	}
	return false
}

// truth reads a bool, which NumPy also writes as 0 and 1.
func truth(v any) (b, ok bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case int64:
		return v == 1, v == 0 || v == 1
	}
	return false, false
}

func intsOf(t pickle.Tuple) ([]int, bool) {
	if len(t) > maxDims {
		return nil, false
	}
	out := make([]int, len(t))
	for i, v := range t {
		n, ok := v.(int64)
		if !ok || n < 0 || int64(int(n)) != n {
			return nil, false
		}
		out[i] = int(n)
	}
	return out, true
}

// maxListItems bounds the elements of all arrays of one object that become lists, each of which takes some 32 bytes.
const maxListItems = 1 << 24

// list returns an array as nested lists in the second pass, and as it is otherwise or when there is no room.
func (n *numpyDecoder) list(a *Array) any {
	if n.lists == nil {
		return a
	}
	if l, ok := n.lists[a]; ok {
		return l
	}
	var l any = a
	if v, err := a.list(n.room); err == nil {
		l = v
		n.room -= a.weight()
	}
	n.lists[a] = l
	return l
}

// weight is the number of values that list makes.
func (a *Array) weight() int {
	per := 1
	var count func(d DType)
	count = func(d DType) {
		for _, f := range d.Fields {
			n := 1
			for _, s := range f.Shape {
				n *= s
			}
			per += max(n, 1)
			count(f.DType)
		}
	}
	count(a.DType)
	if n := a.Len(); n == 0 || per <= math.MaxInt/n {
		return per * n
	}
	return math.MaxInt
}

// list returns the elements as nested lists of numbers, strings or, of structures, dictionaries: what pickle.Convert takes.
func (a *Array) list(limit int) (any, error) {
	if err := a.valid(); err != nil {
		return nil, err
	}
	if a.weight() > limit {
		return nil, fmt.Errorf("serialize: %w: %v has too many elements to become single Go values, the limit is %d", ErrTooLarge, a, limit)
	}
	if err := checkRows(a.Shape); err != nil {
		return nil, err
	}
	items := a.objects
	if items == nil {
		raw := a.Bytes()
		items = make([]any, 0, a.Len())
		a.offsets(func(off int) { items = append(items, a.DType.value(raw[off:off+a.DType.Size])) })
	}
	return nest(items, a.Shape), nil
}

// nest cuts items into lists of lists; without dimensions it is the only item.
func nest(items []any, shape []int) any {
	if len(shape) == 0 {
		return items[0]
	}
	if len(shape) == 1 {
		return pickle.NewList(items...)
	}
	out := make([]any, shape[0])
	for i := range out {
		n := len(items) / shape[0]
		out[i] = nest(items[i*n:(i+1)*n], shape[1:])
	}
	return pickle.NewList(out...)
}

// value returns one element as a pickle value.
func (d DType) value(raw []byte) any {
	if d.Fields == nil {
		return scalarOf(&Array{DType: d, Shape: []int{}, data: raw})
	}
	dict := pickle.NewDict()
	for _, f := range d.Fields {
		at := raw[f.Offset : f.Offset+f.size()]
		if f.Shape == nil {
			dict.Set(f.Name, f.DType.value(at))
			continue
		}
		var items []any
		if f.DType.Size > 0 {
			for i := 0; i < len(at); i += f.DType.Size {
				items = append(items, f.DType.value(at[i:i+f.DType.Size]))
			}
			dict.Set(f.Name, nest(items, f.Shape))
		}
	}
	return dict
}

// scalar decodes numpy._core.multiarray.scalar(dtype, bytes): to bool, int64, *big.Int, float64, complex128, string or []byte, and to an Array
// without dimensions where Go has no such type.
func (n *numpyDecoder) scalar(o *pickle.Object) (any, bool) {
	r := n.dtype(o.Args[0], 0)
	if r.err != nil || r.shape != nil || r.d.HasObject() {
		return nil, false
	}
	var raw []byte
	switch v := o.Args[1].(type) {
	case []byte:
		raw = v
	case string: // a str of Python 2
		raw = []byte(v)
	default:
		return nil, false
	}
	if len(raw) != r.d.Size {
		return nil, false
	}
	return scalarOf(&Array{DType: r.d, Shape: []int{}, data: n.bytes(raw)}), true
}

// scalarOf returns the Go form of an array's only element.
func scalarOf(a *Array) any {
	switch a.DType.Kind {
	case KindBool:
		if v, err := At[bool](a); err == nil {
			return v
		}
	case KindInt:
		return signed(a)
	case KindUint:
		if v := unsigned(a); v <= math.MaxInt64 {
			return int64(v)
		} else {
			return new(big.Int).SetUint64(v)
		}
	case KindFloat:
		switch a.DType.Size {
		case 2:
			v, _ := At[Float16](a)
			return float64(v.Float32())
		case 4:
			v, _ := At[float32](a)
			return float64(v)
		case 8:
			v, _ := At[float64](a)
			return v
		}
	case KindComplex:
		switch a.DType.Size {
		case 8:
			v, _ := At[complex64](a)
			return complex128(v)
		case 16:
			v, _ := At[complex128](a)
			return v
		}
	case KindUnicode:
		if s, err := a.Strings(); err == nil {
			return s[0]
		}
	case KindBytes:
		return a.data
	}
	return a
}

func signed(a *Array) int64 {
	switch a.DType.Size {
	case 1:
		v, _ := At[int8](a)
		return int64(v)
	case 2:
		v, _ := At[int16](a)
		return int64(v)
	case 4:
		v, _ := At[int32](a)
		return int64(v)
	}
	v, _ := At[int64](a)
	return v
}

func unsigned(a *Array) uint64 {
	switch a.DType.Size {
	case 1:
		v, _ := At[uint8](a)
		return uint64(v)
	case 2:
		v, _ := At[uint16](a)
		return uint64(v)
	case 4:
		v, _ := At[uint32](a)
		return uint64(v)
	}
	v, _ := At[uint64](a)
	return v
}

// dtype decodes a pickled numpy.dtype: a call with a type string (or our dictionary), then __setstate__. Each object is decoded once, and the
// fields of nested ones are counted, so that sharing cannot blow up what prints them.
func (n *numpyDecoder) dtype(v any, depth int) dtypeResult {
	o, ok := v.(*pickle.Object)
	if !ok || !o.Is("numpy", "dtype") || len(o.Args) == 0 {
		return dtypeResult{err: badDescr(v, "expected a call of numpy.dtype")}
	}
	if r, ok := n.dtypes[o]; ok {
		return r
	}
	n.dtypes[o] = dtypeResult{err: badDescr("", "the dtype contains itself")}
	r := n.dtypeOf(o, depth)
	if r.err == nil && r.fields > maxFields {
		r = dtypeResult{err: badDescr("", "there are too many fields")}
	}
	n.dtypes[o] = r
	return r
}

func (n *numpyDecoder) dtypeOf(o *pickle.Object, depth int) (r dtypeResult) {
	if depth > maxDTypeDepth {
		r.err = badDescr("", "structures nest too deeply")
		return r
	}
	if spec, ok := o.Args[0].(*pickle.Dict); ok {
		return n.dtypeSpec(spec, depth)
	}
	name, ok := o.Args[0].(string)
	if !ok {
		r.err = badDescr(o.Args[0], "expected a string")
		return r
	}
	if !o.HasState {
		r.d, r.err = parseSimple(name)
		return r
	}
	// (version, order, subdtype, names, fields, itemsize, alignment, flags[, metadata]); see arraydescr_reduce.
	st, ok := o.State.(pickle.Tuple)
	if !ok || len(st) < 8 {
		r.err = badDescr(name, "the state is not one of dtype.__setstate__")
		return r
	}
	order, _ := st[1].(string)
	if order != "<" && order != ">" && order != "|" && order != "=" {
		r.err = badDescr(name, "the byte order is unknown")
		return r
	}
	if sub, ok := st[2].(pickle.Tuple); ok && len(sub) == 2 {
		base := n.dtype(sub[0], depth+1)
		if base.err != nil {
			return base
		}
		dims, ok := sub[1].(pickle.Tuple)
		if !ok {
			dims = pickle.Tuple{sub[1]}
		}
		shape, ok := intsOf(dims)
		if !ok {
			r.err = badDescr(name, "the subarray has no shape")
			return r
		}
		shape = append(shape, base.shape...)
		if size, err := product(shape, base.d.Size); err != nil || size > maxItem {
			r.err = badDescr(name, "the subarray is too large")
			return r
		}
		return dtypeResult{d: base.d, shape: shape, fields: base.fields}
	}
	if names, ok := st[3].(pickle.Tuple); ok {
		fields, ok := st[4].(*pickle.Dict)
		size, ok2 := st[5].(int64)
		if !ok || !ok2 || size < 0 || size > maxItem {
			r.err = badDescr(name, "the state has no fields")
			return r
		}
		r.d = DType{Kind: KindVoid, Size: int(size), Fields: make([]Field, 0, len(names))}
		for _, key := range names {
			fieldName, ok := key.(string)
			if !ok {
				r.err = badDescr(name, "a field has no name")
				return r
			}
			spec, _ := fields.GetString(fieldName)
			t, ok := spec.(pickle.Tuple) // (dtype, offset[, title])
			if !ok || len(t) < 2 {
				r.err = badDescr(name, "a field is not (dtype, offset)")
				return r
			}
			title := ""
			if len(t) > 2 {
				title, _ = t[2].(string)
			}
			if r.addField(fieldName, title, n.dtype(t[0], depth+1), t[1]); r.err != nil {
				return r
			}
		}
		r.err = r.d.checkNames()
		return r
	}
	if order == "|" {
		order = "<" // no order; the kinds that have one always say it
	}
	r.d, r.err = parseSimple(order + strings.TrimLeft(name, "<>=|"))
	if r.err != nil {
		return r
	}
	if len(st) > 8 && (r.d.Kind == KindDatetime || r.d.Kind == KindTimedelta) {
		// metadata is (dict, (unit, count, denominator, events))
		if meta, ok := st[8].(pickle.Tuple); ok && len(meta) == 2 {
			if u, ok := meta[1].(pickle.Tuple); ok && len(u) >= 2 {
				unit := ""
				switch s := u[0].(type) {
				case []byte:
					unit = string(s)
				case string:
					unit = s
				}
				count, ok := u[1].(int64)
				if !ok || !validUnit(unit) {
					r.err = badDescr(name, "the time unit is unknown")
					return r
				}
				if count != 1 {
					unit = strconv.FormatInt(count, 10) + unit
				}
				r.d.Unit = unit
			}
		}
	}
	return r
}

// addField checks a field and appends it.
func (r *dtypeResult) addField(name, title string, f dtypeResult, offset any) {
	if f.err != nil {
		r.err = f.err
		return
	}
	off, ok := offset.(int64)
	field := Field{Name: name, Title: title, DType: f.d, Shape: f.shape, Offset: int(off)}
	size, err := product(f.shape, f.d.Size)
	if !ok || err != nil || off < 0 || off > int64(r.d.Size) || int64(size) > int64(r.d.Size)-off {
		r.err = badDescr(name, "the field lies outside its element")
		return
	}
	// Long names count more: what prints a type repeats them.
	if r.fields += 1 + f.fields + (len(name)+len(title))/64; r.fields > maxFields {
		r.err = badDescr(name, "there are too many fields")
		return
	}
	r.d.Fields = append(r.d.Fields, field)
}

// dtypeSpec decodes the dictionary that pickleValue writes.
func (n *numpyDecoder) dtypeSpec(spec *pickle.Dict, depth int) (r dtypeResult) {
	list := func(key string) []any {
		v, _ := spec.GetString(key)
		if l, ok := v.(*pickle.List); ok {
			return l.Items
		}
		return nil
	}
	names, formats, offsets, titles := list("names"), list("formats"), list("offsets"), list("titles")
	v, _ := spec.GetString("itemsize")
	size, ok := v.(int64)
	if !ok || size < 0 || size > maxItem || len(formats) != len(names) || len(offsets) != len(names) ||
		(titles != nil && len(titles) != len(names)) {
		r.err = badDescr("", "the dictionary of a dtype is not complete")
		return r
	}
	r.d = DType{Kind: KindVoid, Size: int(size), Fields: make([]Field, 0, len(names))}
	for i := range names {
		name, ok := names[i].(string)
		if !ok {
			r.err = badDescr("", "a field has no name")
			return r
		}
		title := ""
		if titles != nil {
			title, _ = titles[i].(string)
		}
		var f dtypeResult
		if sub, ok := formats[i].(pickle.Tuple); ok && len(sub) == 2 {
			f = n.dtype(sub[0], depth+1)
			dims, ok := sub[1].(pickle.Tuple)
			shape, ok2 := intsOf(dims)
			if !ok || !ok2 {
				r.err = badDescr(name, "the subarray has no shape")
				return r
			}
			f.shape = append(shape, f.shape...)
		} else {
			f = n.dtype(formats[i], depth+1)
		}
		if r.addField(name, title, f, offsets[i]); r.err != nil {
			return r
		}
	}
	r.err = r.d.checkNames()
	return r
}
