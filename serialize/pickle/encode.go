package pickle

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/big"
	"reflect"
	"slices"
	"unicode/utf8"
	"unsafe"
)

// Marshaler is implemented by types that say what to pickle in their place: a structural value such as an *Object, or any
// other value that can be encoded.
type Marshaler interface{ MarshalPickle() (any, error) }

// Encoder writes pickles that every Unpickler of Python 3.4 (protocol 4) or 3.8 (protocol 5) on reads. The zero value is
// ready for use. It holds no state, so it may be used from many goroutines at once while its fields are left alone.
//
// Structural values are written as what they stand for, and Go values so:
//
//	Go                                       Python
//	nil, nil pointer                         None
//	bool, integers, *big.Int, big.Int        bool, int
//	floats, complex                          float, complex
//	string                                   str
//	[]byte and byte arrays                   bytes (nil too)
//	other slices and arrays                  list (nil too)
//	maps                                     dict (nil too), keys sorted; map[K]struct{} a set
//	structs                                  dict of the exported fields
//	pointers                                 what they point to
//	*big.Rat                                 fractions.Fraction
//	time.Time                                datetime.datetime with the zone's offset, to the microsecond
//	time.Duration                            datetime.timedelta, to the microsecond
//	Marshaler                                what MarshalPickle returns
//
// A struct field has the name of its tag `pickle:"name"`, else its Go name; "-" leaves it out, "omitempty" leaves it out when
// it is zero or an empty string, slice or map; embedded structs without a tag are part of the outer one.
//
// References shared in the value stay shared in the pickle. *List, *Dict, *Set and *Object may contain themselves; Go
// pointers, maps and slices may not (ErrCycle). Nesting is limited to 20,000 levels (ErrTooLarge). Channels, functions and
// strings that are neither UTF-8 nor surrogatepass are ErrType.
type Encoder struct {
	// Protocol is 4 or 5; 0 means 5.
	Protocol int
	// InlineMax is the largest []byte or string, in bytes, that is copied into a frame. Longer ones become parts of their
	// own, which alias the value. 0 means 4096, negative means no limit.
	InlineMax int
}

const (
	defaultInlineMax = 4096
	frameTarget      = 64 << 10 // _Framer._FRAME_SIZE_TARGET
	frameMin         = 4        // _Framer._FRAME_SIZE_MIN
	frameHeader      = 9
	batchSize        = 1000   // _Pickler._BATCHSIZE
	shareMin         = 64     // bytes from which equal references to one string, bytes or int are written once
	globalMax        = 256    // bytes of a class's name up to which it is written once
	encodeMaxDepth   = 20_000 // twice what Decode accepts
)

// Marshal returns v as one protocol 5 pickle. Encode avoids its copy of large values.
func Marshal(v any) ([]byte, error) {
	parts, err := new(Encoder).Encode(v)
	if err != nil {
		return nil, err
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	return bytes.Join(parts, nil), nil
}

// Encode returns the pickle of v as parts in order; together they are one pickle. It borrows v's large []byte and string
// values for as long as the parts live, so the parts are read-only. A LargeBytes value is an error: EncodeTo streams it.
func (e *Encoder) Encode(v any) ([][]byte, error) {
	s, err := e.start(nil)
	if err != nil {
		return nil, err
	}
	if err := s.pickle(v); err != nil {
		return nil, err
	}
	parts := make([][]byte, len(s.segments))
	for i, g := range s.segments {
		if g.borrowed != nil {
			parts[i] = g.borrowed
		} else {
			parts[i] = s.buf[g.from:g.to:g.to]
		}
	}
	return parts, nil
}

// EncodeTo writes the pickle of v to w as it is made, holding no more than one frame. It reads each LargeBytes value once, to
// its size. After an error w has part of a pickle.
func (e *Encoder) EncodeTo(w io.Writer, v any) error {
	s, err := e.start(w)
	if err != nil {
		return err
	}
	return s.pickle(v)
}

func (e *Encoder) start(w io.Writer) (*encoding, error) {
	s := &encoding{protocol: e.Protocol, inlineMax: e.InlineMax, w: w, frame: -1}
	switch s.protocol {
	case 0:
		s.protocol = 5
	case 4, 5:
	default:
		return nil, fmt.Errorf("pickle: cannot write protocol %d, expected 4 or 5", e.Protocol)
	}
	switch {
	case s.inlineMax == 0:
		s.inlineMax = defaultInlineMax
	case s.inlineMax < 0:
		s.inlineMax = math.MaxInt
	}
	return s, nil
}

// segment is a piece of the output: borrowed, or a range of buf, which moves as it grows.
type segment struct {
	from, to int
	borrowed []byte
}

// shareKey identifies a reference: where its data is, how long it is and what it is.
type shareKey struct {
	p unsafe.Pointer
	n int
	t reflect.Type
}

// open marks a Go value that is being encoded, in place of its memo index.
const open = -1

// encoding is the state of one Encode.
type encoding struct {
	protocol  int
	inlineMax int
	w         io.Writer

	buf      []byte
	start    int // of what is in no segment yet
	frame    int // start of the open frame's header; -1 when no frame is open
	segments []segment

	depth    int
	memoized int
	strings  map[string]int
	globals  map[Global]int
	shared   map[shareKey]int
	buffers  int // out-of-band buffers written
}

func (s *encoding) pickle(v any) error {
	s.buf = append(s.buf, opProto, byte(s.protocol))
	if err := s.value(v); err != nil {
		return err
	}
	s.op(opStop)
	return s.cut()
}

// room opens a frame if none is open.
func (s *encoding) room() {
	if s.frame < 0 {
		s.frame = len(s.buf)
		s.buf = append(s.buf, make([]byte, frameHeader)...)
	}
}

// endFrame fills in the frame's header, or removes it from a frame that is not worth one.
func (s *encoding) endFrame() {
	if s.frame < 0 {
		return
	}
	body := s.buf[s.frame+frameHeader:]
	if len(body) >= frameMin {
		s.buf[s.frame] = opFrame
		binary.LittleEndian.PutUint64(s.buf[s.frame+1:], uint64(len(body)))
	} else {
		s.buf = append(s.buf[:s.frame], body...)
	}
	s.frame = -1
}

// cut ends the frame and makes what is in buf a segment, or writes it.
func (s *encoding) cut() error {
	s.endFrame()
	if s.w != nil {
		if len(s.buf) > 0 {
			if _, err := s.w.Write(s.buf); err != nil {
				return fmt.Errorf("pickle: writing: %w", err)
			}
		}
		s.buf = s.buf[:0]
		return nil
	}
	if s.start < len(s.buf) {
		s.segments = append(s.segments, segment{from: s.start, to: len(s.buf)})
		s.start = len(s.buf)
	}
	return nil
}

// large writes header and b outside of any frame, as _Framer.write_large_bytes does, without copying b.
func (s *encoding) large(header, b []byte) error {
	s.endFrame()
	s.buf = append(s.buf, header...)
	if err := s.cut(); err != nil {
		return err
	}
	if s.w == nil {
		s.segments = append(s.segments, segment{borrowed: b[:len(b):len(b)]})
		return nil
	}
	if _, err := s.w.Write(b); err != nil {
		return fmt.Errorf("pickle: writing: %w", err)
	}
	return nil
}

func (s *encoding) op(b ...byte) {
	s.room()
	s.buf = append(s.buf, b...)
}

// sized returns the opcode and length of a value of n bytes, by the smallest of three opcodes.
func sized(out []byte, short, medium, long byte, n int64) []byte {
	switch {
	case n <= math.MaxUint8 && short != 0:
		return append(out, short, byte(n))
	case n <= math.MaxUint32 && medium != 0:
		return binary.LittleEndian.AppendUint32(append(out, medium), uint32(n))
	}
	return binary.LittleEndian.AppendUint64(append(out, long), uint64(n))
}

// blob writes a header and its data, inline or as a part.
func (s *encoding) blob(header, b []byte) error {
	if len(b) > s.inlineMax {
		return s.large(header, b)
	}
	s.room()
	s.buf = append(append(s.buf, header...), b...)
	return nil
}

// memoize stores the value just written and returns its index.
func (s *encoding) memoize() int {
	s.op(opMemoize)
	s.memoized++
	return s.memoized - 1
}

func (s *encoding) get(i int) {
	if i <= math.MaxUint8 {
		s.op(opBinget, byte(i))
		return
	}
	s.room()
	s.buf = binary.LittleEndian.AppendUint32(append(s.buf, opLongBinget), uint32(i))
}

// seen writes a reference to what k identifies if that was written before.
func (s *encoding) seen(k shareKey) bool {
	i, ok := s.shared[k]
	if ok {
		s.get(i)
	}
	return ok
}

func (s *encoding) remember(k shareKey) {
	if s.shared == nil {
		s.shared = make(map[shareKey]int)
	}
	s.shared[k] = s.memoize()
}

var (
	stringType    = reflect.TypeFor[string]()
	bytesType     = reflect.TypeFor[[]byte]()
	byteArrayType = reflect.TypeFor[ByteArray]()
	tupleType     = reflect.TypeFor[Tuple]()
	listType      = reflect.TypeFor[*List]()
	dictType      = reflect.TypeFor[*Dict]()
	setType       = reflect.TypeFor[*Set]()
	objectType    = reflect.TypeFor[*Object]()
	bigIntType    = reflect.TypeFor[*big.Int]()
	bufferType    = reflect.TypeFor[OutOfBand]()
)

// enough ends a frame that is large enough, as _Framer.commit_frame does before each value.
func (s *encoding) enough() error {
	if s.frame < 0 || len(s.buf)-s.frame-frameHeader < frameTarget {
		return nil
	}
	if s.w != nil {
		return s.cut()
	}
	s.endFrame()
	return nil
}

// descend goes one level down; depth-- goes up again.
func (s *encoding) descend() error {
	if s.depth >= encodeMaxDepth {
		return fmt.Errorf("pickle: %w: values nest deeper than %d", ErrTooLarge, encodeMaxDepth)
	}
	s.depth++
	return nil
}

// value writes any value.
func (s *encoding) value(v any) error {
	if err := s.enough(); err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
		s.op(opNone)
		return nil
	case bool:
		if v {
			s.op(opNewtrue)
		} else {
			s.op(opNewfalse)
		}
		return nil
	case int64:
		s.integer(v)
		return nil
	case int:
		s.integer(int64(v))
		return nil
	case float64:
		s.float(v)
		return nil
	case string:
		return s.text(v)
	case []byte:
		return s.bytes(v)
	case ByteArray:
		return s.byteArray(v)
	case *big.Int:
		return s.bigInt(v)
	case Global:
		return s.global(v)
	}
	if err := s.descend(); err != nil {
		return err
	}
	err := s.container(v)
	s.depth--
	return err
}

// container writes values that may hold others.
func (s *encoding) container(v any) error {
	switch v := v.(type) {
	case Tuple:
		return s.tuple(v)
	case *List:
		if v == nil {
			s.op(opNone)
			return nil
		}
		k := shareKey{unsafe.Pointer(v), 0, listType}
		if s.seen(k) {
			return nil
		}
		s.op(opEmptyList)
		s.remember(k)
		return s.appends(v.Items)
	case []Pair: // what ToGo makes of a dict whose keys Go cannot compare
		return s.pairList(v)
	case *Dict:
		if v == nil {
			s.op(opNone)
			return nil
		}
		k := shareKey{unsafe.Pointer(v), 0, dictType}
		if s.seen(k) {
			return nil
		}
		s.op(opEmptyDict)
		s.remember(k)
		return s.setItems(v)
	case *Set:
		return s.set(v)
	case *Object:
		return s.object(v)
	case PersistentID:
		if err := s.value(v.ID); err != nil {
			return err
		}
		s.op(opBinpersid)
		return nil
	case OutOfBand:
		return s.outOfBand(v)
	case Extension:
		switch {
		case v.Code <= 0:
			return fmt.Errorf("pickle: %w: extension code %d, expected at least 1", ErrType, v.Code)
		case v.Code <= math.MaxUint8:
			s.op(opExt1, byte(v.Code))
		case v.Code <= math.MaxUint16:
			s.op(opExt2, byte(v.Code), byte(v.Code>>8))
		default:
			s.op(opExt4, byte(v.Code), byte(v.Code>>8), byte(v.Code>>16), byte(v.Code>>24))
		}
		return nil
	case LargeBytes:
		return s.largeBytes(v)
	}
	return s.goValue(v)
}

func (s *encoding) integer(n int64) {
	s.room()
	switch {
	case n >= 0 && n <= math.MaxUint8:
		s.buf = append(s.buf, opBinint1, byte(n))
	case n >= 0 && n <= math.MaxUint16:
		s.buf = append(s.buf, opBinint2, byte(n), byte(n>>8))
	case n >= math.MinInt32 && n <= math.MaxInt32:
		s.buf = binary.LittleEndian.AppendUint32(append(s.buf, opBinint), uint32(n))
	default:
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], uint64(n))
		l := 8
		for l > 1 && (b[l-1] == 0 && b[l-2] < 0x80 || b[l-1] == 0xFF && b[l-2] >= 0x80) {
			l--
		}
		s.buf = append(append(s.buf, opLong1, byte(l)), b[:l]...)
	}
}

func (s *encoding) bigInt(n *big.Int) error {
	if n == nil {
		s.op(opNone)
		return nil
	}
	if n.IsInt64() {
		s.integer(n.Int64())
		return nil
	}
	l := n.BitLen()/8 + 1
	if l > math.MaxInt32 {
		return fmt.Errorf("pickle: %w: an integer of %d bytes, at most %d can be written", ErrTooLarge, l, math.MaxInt32)
	}
	k := shareKey{unsafe.Pointer(n), 0, bigIntType}
	if l > shareMin && s.seen(k) {
		return nil
	}
	b := make([]byte, l)
	if n.Sign() >= 0 {
		n.FillBytes(b)
	} else {
		new(big.Int).Not(n).FillBytes(b)
		for i := range b {
			b[i] = ^b[i]
		}
	}
	slices.Reverse(b)
	if l > 1 && b[l-1] == 0xFF && b[l-2] >= 0x80 {
		b = b[:l-1]
	}
	s.room()
	s.buf = append(sized(s.buf, opLong1, opLong4, 0, int64(len(b))), b...)
	if l > shareMin {
		s.remember(k)
	}
	return nil
}

func (s *encoding) float(f float64) {
	s.room()
	s.buf = binary.BigEndian.AppendUint64(append(s.buf, opBinfloat), math.Float64bits(f))
}

// text writes a string that is a value.
func (s *encoding) text(v string) error {
	k := shareKey{unsafe.Pointer(unsafe.StringData(v)), len(v), stringType}
	if len(v) > shareMin && s.seen(k) {
		return nil // and was checked then
	}
	b := unsafe.Slice(unsafe.StringData(v), len(v)) // read only
	if !utf8.Valid(b) && !validText(v) {
		return fmt.Errorf("pickle: %w: the string %.40q is neither UTF-8 nor surrogatepass; use []byte for bytes", ErrType, v)
	}
	var header [frameHeader]byte
	if err := s.blob(sized(header[:0], opShortBinunicode, opBinunicode, opBinunicode8, int64(len(v))), b); err != nil {
		return err
	}
	if len(v) > shareMin {
		s.remember(k)
	}
	return nil
}

// name writes a string that is likely to repeat: a key or a module's name.
func (s *encoding) name(v string) error {
	if len(v) < 2 || len(v) > shareMin {
		return s.text(v)
	}
	if i, ok := s.strings[v]; ok {
		s.get(i)
		return nil
	}
	if err := s.text(v); err != nil {
		return err
	}
	if s.strings == nil {
		s.strings = make(map[string]int)
	}
	s.strings[v] = s.memoize()
	return nil
}

func (s *encoding) bytes(v []byte) error {
	k := shareKey{unsafe.Pointer(unsafe.SliceData(v)), len(v), bytesType}
	if len(v) > shareMin && s.seen(k) {
		return nil
	}
	var header [frameHeader]byte
	if err := s.blob(sized(header[:0], opShortBinbytes, opBinbytes, opBinbytes8, int64(len(v))), v); err != nil {
		return err
	}
	if len(v) > shareMin {
		s.remember(k)
	}
	return nil
}

func (s *encoding) byteArray(v ByteArray) error {
	k := shareKey{unsafe.Pointer(unsafe.SliceData(v)), len(v), byteArrayType}
	if len(v) > shareMin && s.seen(k) {
		return nil
	}
	if s.protocol >= 5 {
		var header [frameHeader]byte
		if err := s.blob(sized(header[:0], 0, 0, opBytearray8, int64(len(v))), v); err != nil {
			return err
		}
	} else {
		if err := s.global(Global{"builtins", "bytearray"}); err != nil {
			return err
		}
		if len(v) == 0 {
			s.op(opEmptyTuple, opReduce)
			return nil
		}
		var header [frameHeader]byte
		if err := s.blob(sized(header[:0], opShortBinbytes, opBinbytes, opBinbytes8, int64(len(v))), v); err != nil {
			return err
		}
		s.op(opTuple1, opReduce)
	}
	if len(v) > shareMin {
		s.remember(k)
	}
	return nil
}

// largeBytes streams a value.
func (s *encoding) largeBytes(v LargeBytes) error {
	if s.w == nil {
		return fmt.Errorf("pickle: %w: LargeBytes can only be streamed, use EncodeTo", ErrType)
	}
	if v.Size < 0 || v.R == nil {
		return fmt.Errorf("pickle: %w: LargeBytes of %d bytes, expected a size and a reader", ErrType, v.Size)
	}
	s.endFrame()
	s.buf = sized(s.buf, opShortBinbytes, opBinbytes, opBinbytes8, v.Size)
	if err := s.cut(); err != nil {
		return err
	}
	n, err := io.Copy(s.w, io.LimitReader(v.R, v.Size))
	if err != nil {
		return fmt.Errorf("pickle: streaming LargeBytes: %w", err)
	}
	if n != v.Size {
		return fmt.Errorf("pickle: LargeBytes ended after %d of %d bytes: %w", n, v.Size, io.ErrUnexpectedEOF)
	}
	return nil
}

func (s *encoding) global(g Global) error {
	// A long name is not hashed for each of its uses: text knows it by its address, and the class is named again.
	known := len(g.Module)+len(g.Name) <= globalMax
	if known {
		if i, ok := s.globals[g]; ok {
			s.get(i)
			return nil
		}
	}
	if err := s.name(g.Module); err != nil {
		return err
	}
	if err := s.name(g.Name); err != nil {
		return err
	}
	s.op(opStackGlobal)
	if !known {
		return nil
	}
	if s.globals == nil {
		s.globals = make(map[Global]int)
	}
	s.globals[g] = s.memoize()
	return nil
}

// outOfBand writes NEXT_BUFFER, which counts by itself: buffers can only be written in order.
func (s *encoding) outOfBand(v OutOfBand) error {
	ro := 0
	if v.ReadOnly {
		ro = 1
	}
	k := shareKey{nil, 2*v.Index + ro, bufferType}
	if s.seen(k) {
		return nil
	}
	if v.Index != s.buffers {
		return fmt.Errorf("pickle: %w: out-of-band buffer %d where %d is next", ErrType, v.Index, s.buffers)
	}
	s.buffers++
	s.op(opNextBuffer)
	if v.ReadOnly {
		s.op(opReadonlyBuffer)
	}
	s.remember(k)
	return nil
}

func (s *encoding) tuple(t Tuple) error {
	if len(t) == 0 {
		s.op(opEmptyTuple)
		return nil
	}
	k := shareKey{unsafe.Pointer(unsafe.SliceData(t)), len(t), tupleType}
	if s.seen(k) {
		return nil
	}
	if len(t) > 3 {
		s.op(opMark)
	}
	for i, v := range t {
		if err := s.value(v); err != nil {
			return err
		}
		// A tuple that contains itself, through a list say, is in the memo once the inner one is complete (_Pickler.save_tuple).
		if at, ok := s.shared[k]; ok {
			if len(t) > 3 {
				s.op(opPopMark)
			} else {
				for range i + 1 {
					s.op(opPop)
				}
			}
			s.get(at)
			return nil
		}
	}
	switch len(t) {
	case 1:
		s.op(opTuple1)
	case 2:
		s.op(opTuple2)
	case 3:
		s.op(opTuple3)
	default:
		s.op(opTuple)
	}
	s.remember(k)
	return nil
}

// appends writes items for the list on the stack.
func (s *encoding) appends(items []any) error {
	for batch := range slices.Chunk(items, batchSize) {
		if len(batch) > 1 {
			s.op(opMark)
		}
		for _, v := range batch {
			if err := s.value(v); err != nil {
				return err
			}
		}
		if len(batch) > 1 {
			s.op(opAppends)
		} else {
			s.op(opAppend)
		}
	}
	return nil
}

// setItems writes pairs for the dict on the stack.
func (s *encoding) setItems(d *Dict) error {
	if d == nil {
		return nil
	}
	for batch := range slices.Chunk(d.pairs, batchSize) {
		if len(batch) > 1 {
			s.op(opMark)
		}
		for i := range batch {
			if err := s.key(batch[i].k); err != nil {
				return err
			}
			if err := s.value(batch[i].v); err != nil {
				return err
			}
		}
		if len(batch) > 1 {
			s.op(opSetitems)
		} else {
			s.op(opSetitem)
		}
	}
	return nil
}

func (s *encoding) key(k any) error {
	if name, ok := k.(string); ok {
		return s.name(name)
	}
	return s.value(k)
}

func (s *encoding) set(v *Set) error {
	if v == nil {
		s.op(opNone)
		return nil
	}
	k := shareKey{unsafe.Pointer(v), 0, setType}
	if s.seen(k) {
		return nil
	}
	if v.Frozen {
		s.op(opMark)
		for _, item := range v.Items {
			if err := s.value(item); err != nil {
				return err
			}
			if at, ok := s.shared[k]; ok { // as for tuples
				s.op(opPopMark)
				s.get(at)
				return nil
			}
		}
		s.op(opFrozenset)
		s.remember(k)
		return nil
	}
	s.op(opEmptySet)
	s.remember(k)
	for batch := range slices.Chunk(v.Items, batchSize) {
		s.op(opMark)
		for _, item := range batch {
			if err := s.value(item); err != nil {
				return err
			}
		}
		s.op(opAdditems)
	}
	return nil
}

func (s *encoding) object(o *Object) error {
	if o == nil {
		s.op(opNone)
		return nil
	}
	k := shareKey{unsafe.Pointer(o), 0, objectType}
	if s.seen(k) {
		return nil
	}
	switch o.Callable.(type) {
	case Global, *Object, PersistentID, Extension:
	default:
		return fmt.Errorf("pickle: %w: Object.Callable is %s, expected a Global or an *Object", ErrType, describe(o.Callable))
	}
	// An object whose arguments contain it is in the memo once the inner one is made (_Pickler.save_reduce).
	operands := [3]any{o.Callable, o.Args, o.Kwargs}
	n := 2
	if o.Kwargs != nil {
		if !o.New {
			return fmt.Errorf("pickle: %w: Object.Kwargs wants Object.New", ErrType)
		}
		n = 3
	}
	for i, v := range operands[:n] {
		if err := s.value(v); err != nil {
			return err
		}
		if at, ok := s.shared[k]; ok {
			for range i + 1 {
				s.op(opPop)
			}
			s.get(at)
			return nil
		}
	}
	switch {
	case n == 3:
		s.op(opNewobjEx)
	case o.New:
		s.op(opNewobj)
	default:
		s.op(opReduce)
	}
	s.remember(k)
	if err := s.appends(o.Items); err != nil {
		return err
	}
	if err := s.setItems(o.Pairs); err != nil {
		return err
	}
	if o.HasState {
		if err := s.value(o.State); err != nil {
			return err
		}
		s.op(opBuild)
	}
	return nil
}
