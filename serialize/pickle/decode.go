package pickle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// Limits bounds what a pickle may make this package do. A zero field means its default.
type Limits struct {
	// MaxDepth bounds how deeply values nest. Default 10,000. A cycle counts as a leaf where it closes.
	MaxDepth int
	// MaxValues bounds the values, marks and memo fetches of one pickle, and separately its memo entries, and so memory at
	// roughly 100 bytes each; in Convert and ToGo it bounds the values visited, of which costly ones count for several.
	// Default 1<<24; ForInput gives one that fits the input.
	MaxValues int
	// MaxBytes bounds bytes copied (strings, big integers, everything read from a stream) and bytes of long dictionary keys
	// hashed. Default for Decode 64 MiB and four times the input, for a Decoder 1 GiB. Bytes values that alias the input
	// and large values given to OnLargeBytes are not counted.
	MaxBytes int64
	// MaxIntDigits bounds integers written as text, whose conversion is not linear. Default 4300, as in Python.
	MaxIntDigits int
	// Owner is handed to every [OwnedUnmarshaler] that Convert meets. It bounds nothing; it is here because it goes where the limits go.
	Owner any
}

// ForInput returns the limits with MaxValues, where it is zero, in proportion to a pickle of n bytes: for ConvertWith and ToGoWith,
// which count a shared value each time, and which cannot see from the value how long its pickle was. An honest pickle takes two
// or three bytes for each reference to a shared value. 64 values a byte leave room for references to small containers, the
// least of 1<<21 for a grid of 1000 times the same row of 1000; where 64 a byte exceed the default of MaxValues, that default
// holds, or 4 a byte.
func (l Limits) ForInput(n int) Limits {
	if l.MaxValues <= 0 {
		l.MaxValues = max(minInputValues, min(64*min(n, defaultMaxValues), defaultMaxValues), 4*min(n, math.MaxInt/4))
	}
	return l
}

const (
	minInputValues      = 1 << 21
	defaultMaxDepth     = 10_000
	defaultMaxValues    = 1 << 24
	defaultMaxIntDigits = 4300
	baseMaxBytes        = 64 << 20
	streamMaxBytes      = 1 << 30
	maxFloatText        = 4096 // characters of a float written as text; Python writes at most 24
	maxProtocol         = 5
)

func (l Limits) withDefaults(maxBytes int64) Limits {
	if l.MaxDepth <= 0 {
		l.MaxDepth = defaultMaxDepth
	}
	if l.MaxValues <= 0 {
		l.MaxValues = defaultMaxValues
	}
	if l.MaxBytes <= 0 {
		l.MaxBytes = maxBytes
	}
	if l.MaxIntDigits <= 0 {
		l.MaxIntDigits = defaultMaxIntDigits
	}
	return l
}

// Decode reads one pickle that is all of data, with default limits. It borrows data for as long as the result lives, since
// []byte and ByteArray values alias it; neither may be changed. Errors are *SyntaxError.
func Decode(data []byte) (any, error) { return DecodeWith(data, Limits{}) }

// DecodeWith is Decode with limits.
func DecodeWith(data []byte, lim Limits) (any, error) {
	v, rest, err := DecodePrefix(data, lim)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, &SyntaxError{
			Offset: int64(len(data) - len(rest)), kind: ErrCorrupt,
			Msg: fmt.Sprintf("%d bytes after STOP, expected none (DecodePrefix reads one pickle of several)", len(rest)),
		}
	}
	return v, nil
}

// DecodePrefix reads the pickle at the start of data and returns what follows it. It borrows data as Decode does.
func DecodePrefix(data []byte, lim Limits) (v any, rest []byte, err error) {
	m := machine{buf: data, lim: lim.withDefaults(baseMaxBytes + 4*int64(len(data)))}
	if v, err = m.run(); err != nil {
		return nil, nil, err
	}
	return v, data[m.pos:], nil
}

// machine is the pickle stack machine, with calls replaced by structure. It reads a slice or, when r is set, a stream: then
// buf is a window of it, and views of buf are valid until the next read.
type machine struct {
	buf  []byte
	pos  int
	base int64 // offset of buf[0] in the input
	r    io.Reader
	rerr error // error of r, reported once buf is used up

	filled bool // the last read filled buf: there is likely more than fits

	largeMin int64 // sizes from here go to large; no effect when large is nil
	large    func(size int64, r io.Reader) (any, error)

	lim      Limits
	values   int
	copied   int64
	op       byte
	opAt     int64
	proto    int
	frameEnd int64
	buffers  int // NEXT_BUFFER opcodes seen

	stack []any
	marks []int
	memo  memo

	containers int  // containers made: a bound of the depth
	shared     bool // a container was fetched from the memo or duplicated, so the result may not be a tree
}

// memo maps indexes to values. Python numbers densely from 0, so that is a slice; an index that would leave a gap goes to a
// map, so that a huge index costs one entry.
type memo struct {
	dense  []any
	sparse map[uint64]any
}

func (m *memo) len() int { return len(m.dense) + len(m.sparse) }

func (m *memo) get(i uint64) (any, bool) {
	if i < uint64(len(m.dense)) {
		return m.dense[i], true
	}
	v, ok := m.sparse[i]
	return v, ok
}

func (m *memo) put(i uint64, v any) {
	switch n := uint64(len(m.dense)); {
	case i < n:
		m.dense[i] = v
	case i == n:
		m.dense = append(m.dense, v)
		delete(m.sparse, i)
	default:
		if m.sparse == nil {
			m.sparse = make(map[uint64]any)
		}
		m.sparse[i] = v
	}
}

func (m *machine) offset() int64 { return m.base + int64(m.pos) }

func (m *machine) fail(kind error, format string, args ...any) error {
	return &SyntaxError{Offset: m.opAt, Op: m.op, Msg: fmt.Sprintf(format, args...), kind: kind}
}

// charge accounts for n bytes that are about to be copied or hashed.
func (m *machine) charge(n int64) error {
	if n > m.lim.MaxBytes-m.copied {
		return m.fail(ErrTooLarge, "%d more bytes would exceed Limits.MaxBytes (%d)", n, m.lim.MaxBytes)
	}
	m.copied += n
	return nil
}

// count accounts for n values that are about to be made.
func (m *machine) count(n int) error {
	if n > m.lim.MaxValues-m.values {
		return m.fail(ErrTooLarge, "more values than Limits.MaxValues (%d)", m.lim.MaxValues)
	}
	m.values += n
	return nil
}

// need makes n bytes available at buf[pos:]. For streams n is small or data that was already limited.
func (m *machine) need(n int) error {
	for len(m.buf)-m.pos < n {
		if err := m.more(); err != nil {
			return err
		}
	}
	return nil
}

// take returns the next n bytes, to be used before the next read.
func (m *machine) take(n int) ([]byte, error) {
	if err := m.need(n); err != nil {
		return nil, err
	}
	b := m.buf[m.pos : m.pos+n : m.pos+n]
	m.pos += n
	return b, nil
}

func (m *machine) truncated() error {
	return m.fail(ErrTruncated, "the input ends at offset %d", m.base+int64(len(m.buf)))
}

// line returns the text up to the next newline, without it, to be used before the next read.
func (m *machine) line() ([]byte, error) {
	scanned := 0
	for {
		if i := bytes.IndexByte(m.buf[m.pos+scanned:], '\n'); i >= 0 {
			b := m.buf[m.pos : m.pos+scanned+i : m.pos+scanned+i]
			m.pos += scanned + i + 1
			return b, nil
		}
		scanned = len(m.buf) - m.pos
		if m.r != nil && int64(scanned) > m.lim.MaxBytes-m.copied {
			return nil, m.fail(ErrTooLarge, "a line longer than Limits.MaxBytes (%d) allows", m.lim.MaxBytes)
		}
		if err := m.need(scanned + 1); err != nil {
			return nil, err
		}
	}
}

// size reads a length of 1, 4 or 8 bytes.
func (m *machine) size(width int) (int64, error) {
	b, err := m.take(width)
	if err != nil {
		return 0, err
	}
	switch width {
	case 1:
		return int64(b[0]), nil
	case 4:
		return int64(binary.LittleEndian.Uint32(b)), nil
	}
	n := binary.LittleEndian.Uint64(b)
	if n > math.MaxInt64 {
		return 0, m.fail(ErrCorrupt, "length %d is above 2^63", n)
	}
	return int64(n), nil
}

// payload reads n bytes that the result keeps: a view of a slice input, a copy from a stream.
func (m *machine) payload(n int64) ([]byte, error) {
	if m.r != nil {
		if err := m.charge(n); err != nil {
			return nil, err
		}
		return m.streamPayload(n)
	}
	if n > int64(len(m.buf)-m.pos) {
		return nil, m.fail(ErrTruncated, "%d bytes claimed, %d left", n, len(m.buf)-m.pos)
	}
	b := m.buf[m.pos : m.pos+int(n) : m.pos+int(n)]
	m.pos += int(n)
	return b, nil
}

// text reads n bytes of surrogatepass UTF-8.
func (m *machine) text(n int64) (string, error) {
	var s string
	if m.r != nil {
		b, err := m.payload(n)
		if err != nil {
			return "", err
		}
		s = unsafe.String(unsafe.SliceData(b), len(b)) // the copy is ours alone
	} else {
		b, err := m.payload(n)
		if err != nil {
			return "", err
		}
		if err := m.charge(n); err != nil {
			return "", err
		}
		s = string(b)
	}
	if !validText(s) {
		return "", m.fail(ErrCorrupt, "the string is not UTF-8")
	}
	return s, nil
}

// validText reports whether s is UTF-8, surrogates allowed: what Python's "surrogatepass" reads.
func validText(s string) bool {
	if utf8.ValidString(s) {
		return true
	}
	for len(s) > 0 {
		if s[0] < utf8.RuneSelf {
			s = s[1:]
			continue
		}
		r, w := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && w == 1 {
			if w = surrogateLen(s); w == 0 {
				return false
			}
		}
		s = s[w:]
	}
	return true
}

// surrogateLen returns 3 if s starts with a surrogate as three bytes, else 0.
func surrogateLen(s string) int {
	if len(s) >= 3 && s[0] == 0xED && s[1] >= 0xA0 && s[1] <= 0xBF && s[2] >= 0x80 && s[2] <= 0xBF {
		return 3
	}
	return 0
}

func (m *machine) push(v any) error {
	if m.values >= m.lim.MaxValues {
		return m.count(1)
	}
	m.values++
	m.stack = append(m.stack, v)
	return nil
}

// fence returns the height below which opcodes may not reach: the last mark.
func (m *machine) fence() int {
	if n := len(m.marks); n > 0 {
		return m.marks[n-1]
	}
	return 0
}

// operands returns the top n values, in the order they were pushed, and leaves them.
func (m *machine) operands(n int) ([]any, error) {
	if len(m.stack)-m.fence() < n {
		return nil, m.fail(ErrCorrupt, "stack underflow: %d operands wanted, %d there", n, len(m.stack)-m.fence())
	}
	return m.stack[len(m.stack)-n:], nil
}

func (m *machine) drop(n int) {
	clear(m.stack[len(m.stack)-n:])
	m.stack = m.stack[:len(m.stack)-n]
}

// popMark removes the last mark and returns the values above it, which the caller must drop.
func (m *machine) popMark() ([]any, error) {
	n := len(m.marks)
	if n == 0 {
		return nil, m.fail(ErrCorrupt, "no MARK on the stack")
	}
	at := m.marks[n-1]
	m.marks = m.marks[:n-1]
	return m.stack[at:], nil
}

// fetch pushes a value that is elsewhere already.
func (m *machine) fetch(v any) error {
	switch v.(type) {
	case Tuple, *List, *Dict, *Set, *Object, PersistentID:
		m.shared = true
	}
	return m.push(v)
}

// run executes one pickle and returns its value.
func (m *machine) run() (any, error) {
	m.frameEnd = -1
	for {
		m.opAt = m.offset()
		if m.pos == len(m.buf) {
			m.op = 0
			if err := m.need(1); err != nil {
				return nil, err
			}
		}
		m.op = m.buf[m.pos]
		m.pos++
		if m.op == opStop {
			break
		}
		if err := m.step(); err != nil {
			return nil, err
		}
	}
	if m.offset() < m.frameEnd {
		return nil, m.fail(ErrCorrupt, "STOP inside a frame that ends at offset %d", m.frameEnd)
	}
	top, err := m.operands(1)
	if err != nil {
		return nil, err
	}
	if m.containers > m.lim.MaxDepth && !depthWithin(top[0], m.lim.MaxDepth, m.shared) {
		return nil, m.fail(ErrTooLarge, "values nest deeper than Limits.MaxDepth (%d)", m.lim.MaxDepth)
	}
	return top[0], nil
}

// step executes the opcode m.op.
func (m *machine) step() error {
	switch m.op {
	case opProto:
		b, err := m.take(1)
		if err != nil {
			return err
		}
		if b[0] > maxProtocol {
			return m.fail(ErrCorrupt, "protocol %d, expected 0 to %d", b[0], maxProtocol)
		}
		m.proto = int(b[0])
		return nil
	case opFrame:
		n, err := m.size(8)
		if err != nil {
			return err
		}
		at := m.offset()
		if at < m.frameEnd {
			return m.fail(ErrCorrupt, "FRAME inside a frame that ends at offset %d", m.frameEnd)
		}
		if m.r == nil && n > int64(len(m.buf)-m.pos) {
			return m.fail(ErrTruncated, "a frame of %d bytes, %d left", n, len(m.buf)-m.pos)
		}
		if n > math.MaxInt64-at {
			return m.fail(ErrCorrupt, "a frame of %d bytes", n)
		}
		m.frameEnd = at + n
		return nil

	case opNone:
		return m.push(nil)
	case opNewtrue:
		return m.push(true)
	case opNewfalse:
		return m.push(false)
	case opInt:
		return m.textInt(true)
	case opLong:
		return m.textInt(false)
	case opBinint:
		b, err := m.take(4)
		if err != nil {
			return err
		}
		return m.push(int64(int32(binary.LittleEndian.Uint32(b))))
	case opBinint1:
		b, err := m.take(1)
		if err != nil {
			return err
		}
		return m.push(int64(b[0]))
	case opBinint2:
		b, err := m.take(2)
		if err != nil {
			return err
		}
		return m.push(int64(binary.LittleEndian.Uint16(b)))
	case opLong1:
		return m.binaryInt(1)
	case opLong4:
		return m.binaryInt(4)
	case opFloat:
		return m.textFloat()
	case opBinfloat:
		b, err := m.take(8)
		if err != nil {
			return err
		}
		return m.push(math.Float64frombits(binary.BigEndian.Uint64(b)))

	case opString:
		b, err := m.line()
		if err != nil {
			return err
		}
		return m.python2String(b)
	case opBinstring:
		return m.python2Binary(4)
	case opShortBinstring:
		return m.python2Binary(1)
	case opUnicode:
		b, err := m.line()
		if err != nil {
			return err
		}
		s, err := m.rawUnicode(b)
		if err != nil {
			return err
		}
		return m.push(s)
	case opShortBinunicode:
		return m.binary(1, kindText)
	case opBinunicode:
		return m.binary(4, kindText)
	case opBinunicode8:
		return m.binary(8, kindText)
	case opShortBinbytes:
		return m.binary(1, kindBytes)
	case opBinbytes:
		return m.binary(4, kindBytes)
	case opBinbytes8:
		return m.binary(8, kindBytes)
	case opBytearray8:
		return m.binary(8, kindByteArray)
	case opNextBuffer:
		m.buffers++
		return m.push(OutOfBand{Index: m.buffers - 1})
	case opReadonlyBuffer:
		top, err := m.operands(1)
		if err != nil {
			return err
		}
		switch v := top[0].(type) {
		case OutOfBand:
			v.ReadOnly = true
			top[0] = v
		case []byte, ByteArray:
		default:
			return m.fail(ErrCorrupt, "%s is no buffer", describe(v))
		}
		return nil

	case opEmptyTuple:
		m.containers++
		return m.push(Tuple{})
	case opTuple1:
		return m.tuple(1)
	case opTuple2:
		return m.tuple(2)
	case opTuple3:
		return m.tuple(3)
	case opTuple:
		items, err := m.popMark()
		if err != nil {
			return err
		}
		t := append(make(Tuple, 0, len(items)), items...)
		m.drop(len(items))
		m.containers++
		return m.push(t)
	case opEmptyList:
		m.containers++
		return m.push(&List{})
	case opList:
		items, err := m.popMark()
		if err != nil {
			return err
		}
		l := &List{Items: slices.Clone(items)}
		m.drop(len(items))
		m.containers++
		return m.push(l)
	case opAppend:
		pair, err := m.operands(2)
		if err != nil {
			return err
		}
		if err := m.appendItems(pair[0], pair[1:]); err != nil {
			return err
		}
		m.drop(1)
		return nil
	case opAppends:
		target, items, err := m.popItems()
		if err != nil {
			return err
		}
		if err := m.appendItems(target, items); err != nil {
			return err
		}
		m.drop(len(items))
		return nil
	case opEmptyDict:
		m.containers++
		return m.push(&Dict{})
	case opDict:
		items, err := m.popMark()
		if err != nil {
			return err
		}
		d := &Dict{}
		if err := m.setItems(d, items); err != nil {
			return err
		}
		m.drop(len(items))
		m.containers++
		return m.push(d)
	case opSetitem:
		three, err := m.operands(3)
		if err != nil {
			return err
		}
		if err := m.setItems(three[0], three[1:]); err != nil {
			return err
		}
		m.drop(2)
		return nil
	case opSetitems:
		target, items, err := m.popItems()
		if err != nil {
			return err
		}
		if err := m.setItems(target, items); err != nil {
			return err
		}
		m.drop(len(items))
		return nil
	case opEmptySet:
		m.containers++
		return m.push(&Set{})
	case opAdditems:
		target, items, err := m.popItems()
		if err != nil {
			return err
		}
		s, ok := target.(*Set)
		if !ok || s.Frozen {
			return m.fail(ErrCorrupt, "items added to %s, expected a set", describe(target))
		}
		s.Items = append(s.Items, items...)
		m.drop(len(items))
		return nil
	case opFrozenset:
		items, err := m.popMark()
		if err != nil {
			return err
		}
		s := &Set{Items: slices.Clone(items), Frozen: true}
		m.drop(len(items))
		m.containers++
		return m.push(s)

	case opPop:
		if len(m.stack) > m.fence() {
			m.drop(1)
			return nil
		}
		// As in Python, POP at a mark removes the mark.
		_, err := m.popMark()
		return err
	case opPopMark:
		items, err := m.popMark()
		if err != nil {
			return err
		}
		m.drop(len(items))
		return nil
	case opDup:
		top, err := m.operands(1)
		if err != nil {
			return err
		}
		return m.fetch(top[0])
	case opMark:
		if err := m.count(1); err != nil {
			return err
		}
		m.marks = append(m.marks, len(m.stack))
		return nil

	case opGet, opPut:
		b, err := m.line()
		if err != nil {
			return err
		}
		if len(b) > 20 {
			return m.fail(ErrCorrupt, "memo index of %d digits", len(b))
		}
		i, err := strconv.ParseUint(string(b), 10, 64)
		if err != nil {
			return m.fail(ErrCorrupt, "memo index %q is no decimal number", b)
		}
		if m.op == opGet {
			return m.get(i)
		}
		return m.put(i)
	case opBinget, opBinput:
		b, err := m.take(1)
		if err != nil {
			return err
		}
		if m.op == opBinget {
			return m.get(uint64(b[0]))
		}
		return m.put(uint64(b[0]))
	case opLongBinget, opLongBinput:
		b, err := m.take(4)
		if err != nil {
			return err
		}
		i := uint64(binary.LittleEndian.Uint32(b))
		if m.op == opLongBinget {
			return m.get(i)
		}
		return m.put(i)
	case opMemoize:
		return m.put(uint64(m.memo.len()))

	case opExt1, opExt2, opExt4:
		var code int64
		b, err := m.take(1 << (m.op - opExt1))
		if err != nil {
			return err
		}
		switch len(b) {
		case 1:
			code = int64(b[0])
		case 2:
			code = int64(binary.LittleEndian.Uint16(b))
		default:
			code = int64(int32(binary.LittleEndian.Uint32(b)))
		}
		if code <= 0 {
			return m.fail(ErrCorrupt, "extension code %d, expected at least 1", code)
		}
		return m.push(Extension{Code: int32(code)})
	case opGlobal:
		g, err := m.globalLines()
		if err != nil {
			return err
		}
		return m.push(g)
	case opStackGlobal:
		two, err := m.operands(2)
		if err != nil {
			return err
		}
		module, ok1 := two[0].(string)
		name, ok2 := two[1].(string)
		if !ok1 || !ok2 {
			return m.fail(ErrCorrupt, "the operands are %s and %s, expected two strings", describe(two[0]), describe(two[1]))
		}
		g := m.rename(Global{module, name})
		m.drop(2)
		return m.push(g)
	case opInst:
		g, err := m.globalLines()
		if err != nil {
			return err
		}
		items, err := m.popMark()
		if err != nil {
			return err
		}
		args := append(make(Tuple, 0, len(items)), items...)
		m.drop(len(items))
		return m.instance(g, args)
	case opObj:
		items, err := m.popMark()
		if err != nil {
			return err
		}
		if len(items) == 0 {
			return m.fail(ErrCorrupt, "no class between MARK and OBJ")
		}
		class := items[0]
		args := append(make(Tuple, 0, len(items)-1), items[1:]...)
		m.drop(len(items))
		return m.instance(class, args)
	case opReduce:
		two, err := m.operands(2)
		if err != nil {
			return err
		}
		args, err := m.callArgs(two[0], two[1])
		if err != nil {
			return err
		}
		v, err := m.reduce(two[0], args)
		if err != nil {
			return err
		}
		m.drop(2)
		return m.push(v)
	case opNewobj:
		two, err := m.operands(2)
		if err != nil {
			return err
		}
		args, err := m.callArgs(two[0], two[1])
		if err != nil {
			return err
		}
		o := &Object{Callable: two[0], Args: args, New: true}
		m.drop(2)
		m.containers++
		return m.push(o)
	case opNewobjEx:
		three, err := m.operands(3)
		if err != nil {
			return err
		}
		args, err := m.callArgs(three[0], three[1])
		if err != nil {
			return err
		}
		kwargs, ok := three[2].(*Dict)
		if !ok {
			return m.fail(ErrCorrupt, "keyword arguments are %s, expected a dict", describe(three[2]))
		}
		o := &Object{Callable: three[0], Args: args, Kwargs: kwargs, New: true}
		m.drop(3)
		m.containers++
		return m.push(o)
	case opBuild:
		two, err := m.operands(2)
		if err != nil {
			return err
		}
		o, ok := two[0].(*Object)
		if !ok {
			return m.fail(ErrCorrupt, "state for %s, expected an object", describe(two[0]))
		}
		if o.HasState {
			return m.fail(ErrCorrupt, "a second state for one object")
		}
		o.State, o.HasState = two[1], true
		m.drop(1)
		return nil

	case opPersid:
		b, err := m.line()
		if err != nil {
			return err
		}
		for _, c := range b {
			if c >= utf8.RuneSelf {
				return m.fail(ErrCorrupt, "persistent id %q is not ASCII", b)
			}
		}
		if err := m.charge(int64(len(b))); err != nil {
			return err
		}
		m.containers++
		return m.push(PersistentID{ID: string(b)})
	case opBinpersid:
		top, err := m.operands(1)
		if err != nil {
			return err
		}
		id := PersistentID{ID: top[0]}
		m.drop(1)
		m.containers++
		return m.push(id)
	}
	return m.fail(ErrCorrupt, "unknown opcode")
}

// popItems removes the topmost mark and returns the values above it, which stay on the stack, and the container under it that they are for.
func (m *machine) popItems() (target any, items []any, err error) {
	if items, err = m.popMark(); err != nil {
		return nil, nil, err
	}
	if at := len(m.stack) - len(items) - 1; at >= m.fence() {
		return m.stack[at], items, nil
	}
	return nil, nil, m.fail(ErrCorrupt, "stack underflow: nothing under the mark")
}

func (m *machine) get(i uint64) error {
	v, ok := m.memo.get(i)
	if !ok {
		return m.fail(ErrCorrupt, "memo entry %d was never stored", i)
	}
	return m.fetch(v)
}

func (m *machine) put(i uint64) error {
	top, err := m.operands(1)
	if err != nil {
		return err
	}
	if m.memo.len() >= m.lim.MaxValues {
		return m.fail(ErrTooLarge, "more memo entries than Limits.MaxValues (%d)", m.lim.MaxValues)
	}
	m.memo.put(i, top[0])
	return nil
}

func (m *machine) tuple(n int) error {
	items, err := m.operands(n)
	if err != nil {
		return err
	}
	t := append(make(Tuple, 0, n), items...)
	m.drop(n)
	m.containers++
	return m.push(t)
}

func (m *machine) appendItems(target any, items []any) error {
	switch t := target.(type) {
	case *List:
		t.Items = append(t.Items, items...)
	case *Object:
		t.Items = append(t.Items, items...)
	default:
		return m.fail(ErrCorrupt, "items appended to %s, expected a list or an object", describe(target))
	}
	return nil
}

func (m *machine) setItems(target any, items []any) error {
	if len(items)%2 != 0 {
		return m.fail(ErrCorrupt, "a key without a value")
	}
	var d *Dict
	switch t := target.(type) {
	case *Dict:
		d = t
	case *Object:
		if t.Pairs == nil {
			t.Pairs = &Dict{}
		}
		d = t.Pairs
	default:
		return m.fail(ErrCorrupt, "pairs set in %s, expected a dict or an object", describe(target))
	}
	if d.pairs == nil {
		d.pairs = make([]pair, 0, len(items)/2)
	}
	for i := 0; i < len(items); i += 2 {
		if c := keyCost(items[i]); c > 0 {
			if err := m.charge(c); err != nil {
				return err
			}
		}
		d.Set(items[i], items[i+1])
	}
	return nil
}

// callArgs checks the operands of a call.
func (m *machine) callArgs(callable, args any) (Tuple, error) {
	if err := m.checkCallable(callable); err != nil {
		return nil, err
	}
	t, ok := args.(Tuple)
	if !ok {
		return nil, m.fail(ErrCorrupt, "arguments are %s, expected a tuple", describe(args))
	}
	return t, nil
}

func (m *machine) checkCallable(v any) error {
	switch v.(type) {
	case Global, *Object, PersistentID, Extension:
		return nil
	}
	return m.fail(ErrCorrupt, "%s is called, expected a class or function", describe(v))
}

// instance makes what INST and OBJ make.
func (m *machine) instance(class any, args Tuple) error {
	if err := m.checkCallable(class); err != nil {
		return err
	}
	m.containers++
	return m.push(&Object{Callable: class, Args: args, New: len(args) == 0})
}

type binaryKind uint8

const (
	kindBytes binaryKind = iota
	kindByteArray
	kindText
)

// binary reads a length of the given width and a value of that length.
func (m *machine) binary(width int, kind binaryKind) error {
	n, err := m.size(width)
	if err != nil {
		return err
	}
	if m.large != nil && n >= m.largeMin {
		v, err := m.handOut(n)
		if err != nil {
			return err
		}
		return m.push(v)
	}
	if kind == kindText {
		s, err := m.text(n)
		if err != nil {
			return err
		}
		return m.push(s)
	}
	b, err := m.payload(n)
	if err != nil {
		return err
	}
	if kind == kindByteArray {
		return m.push(ByteArray(b))
	}
	return m.push(b)
}

func (m *machine) globalLines() (Global, error) {
	var parts [2]string
	for i := range parts {
		b, err := m.line()
		if err != nil {
			return Global{}, err
		}
		if err := m.charge(int64(len(b))); err != nil {
			return Global{}, err
		}
		if parts[i] = string(b); !validText(parts[i]) {
			return Global{}, m.fail(ErrCorrupt, "the name %q is not UTF-8", b)
		}
	}
	return m.rename(Global{parts[0], parts[1]}), nil
}

// textInt reads INT or LONG: Python's int(text, 0), with "00" and "01" as booleans for INT.
func (m *machine) textInt(bools bool) error {
	b, err := m.line()
	if err != nil {
		return err
	}
	if bools && len(b) == 2 && b[0] == '0' && (b[1] == '0' || b[1] == '1') {
		return m.push(b[1] == '1')
	}
	if len(b) > m.lim.MaxIntDigits+8 { // room for a sign, a prefix, spaces and the L
		return m.fail(ErrTooLarge, "an integer of %d characters exceeds Limits.MaxIntDigits (%d)", len(b), m.lim.MaxIntDigits)
	}
	t := bytes.TrimSpace(b)
	if !bools {
		t = bytes.TrimSuffix(t, []byte("L"))
	}
	digits := bytes.TrimLeft(t, "+-")
	if len(t)-len(digits) > 1 || len(digits) == 0 ||
		len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' && len(bytes.Trim(digits, "0")) > 0 {
		return m.fail(ErrCorrupt, "%.40q is no integer", b)
	}
	if n, err := strconv.ParseInt(string(t), 0, 64); err == nil {
		return m.push(n)
	}
	n, ok := new(big.Int).SetString(string(t), 0)
	if !ok {
		return m.fail(ErrCorrupt, "%.40q is no integer", b)
	}
	return m.push(n)
}

// binaryInt reads LONG1 or LONG4: little-endian two's complement.
func (m *machine) binaryInt(width int) error {
	n, err := m.size(width)
	if err != nil {
		return err
	}
	if n > math.MaxInt32 {
		return m.fail(ErrCorrupt, "negative length")
	}
	b, err := m.payload(n)
	if err != nil {
		return err
	}
	if n <= 8 {
		var u uint64
		for i := len(b) - 1; i >= 0; i-- {
			u = u<<8 | uint64(b[i])
		}
		if n > 0 && n < 8 && b[n-1] >= 0x80 {
			u |= math.MaxUint64 << (8 * n)
		}
		return m.push(int64(u))
	}
	if err := m.charge(n); err != nil {
		return err
	}
	be := slices.Clone(b)
	slices.Reverse(be)
	negative := be[0] >= 0x80
	if negative { // magnitude is the complement plus one
		for i := range be {
			be[i] = ^be[i]
		}
	}
	x := new(big.Int).SetBytes(be)
	if negative {
		x.Not(x)
	}
	if x.IsInt64() {
		return m.push(x.Int64())
	}
	return m.push(x)
}

func (m *machine) textFloat() error {
	b, err := m.line()
	if err != nil {
		return err
	}
	if len(b) > maxFloatText {
		return m.fail(ErrTooLarge, "a float of %d characters, expected at most %d", len(b), maxFloatText)
	}
	s := strings.TrimSpace(string(b))
	f, err := strconv.ParseFloat(s, 64)
	// Out of range is infinity in Python too; what strconv reads beyond Python's syntax is refused.
	if err != nil && !errors.Is(err, strconv.ErrRange) || strings.ContainsAny(s, "xXpP") {
		return m.fail(ErrCorrupt, "%.40q is no float", b)
	}
	return m.push(f)
}

// python2Binary reads BINSTRING or SHORT_BINSTRING.
func (m *machine) python2Binary(width int) error {
	n, err := m.size(width)
	if err != nil {
		return err
	}
	if width == 4 && n > math.MaxInt32 {
		return m.fail(ErrCorrupt, "negative length")
	}
	if m.large != nil && n >= m.largeMin {
		v, err := m.handOut(n)
		if err != nil {
			return err
		}
		return m.push(v)
	}
	b, err := m.payload(n)
	if err != nil {
		return err
	}
	return m.pushPython2(b)
}

// pushPython2 pushes a Python 2 str: text if it reads as text, else bytes. It takes b.
func (m *machine) pushPython2(b []byte) error {
	if !utf8.Valid(b) {
		return m.push(b)
	}
	if err := m.charge(int64(len(b))); err != nil {
		return err
	}
	return m.push(string(b))
}

// python2String reads the argument of STRING, a quoted literal with escapes (codecs.escape_decode).
func (m *machine) python2String(b []byte) error {
	b = bytes.TrimRight(b, "\r")
	if len(b) < 2 || b[0] != b[len(b)-1] || b[0] != '\'' && b[0] != '"' {
		return m.fail(ErrCorrupt, "the literal %.40q is not quoted", b)
	}
	b = b[1 : len(b)-1]
	if err := m.charge(int64(len(b))); err != nil {
		return err
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			out = append(out, b[i])
			continue
		}
		if i++; i == len(b) {
			return m.fail(ErrCorrupt, "the literal ends in a backslash")
		}
		switch c := b[i]; c {
		case '\\', '\'', '"':
			out = append(out, c)
		case 'a':
			out = append(out, 7)
		case 'b':
			out = append(out, 8)
		case 'f':
			out = append(out, 12)
		case 'n':
			out = append(out, 10)
		case 'r':
			out = append(out, 13)
		case 't':
			out = append(out, 9)
		case 'v':
			out = append(out, 11)
		case 'x':
			if i+2 >= len(b) {
				return m.fail(ErrCorrupt, "the escape \\x wants two hexadecimal digits")
			}
			x, err := strconv.ParseUint(string(b[i+1:i+3]), 16, 8)
			if err != nil {
				return m.fail(ErrCorrupt, "the escape \\x wants two hexadecimal digits")
			}
			out = append(out, byte(x))
			i += 2
		case '0', '1', '2', '3', '4', '5', '6', '7':
			x := 0
			j := i
			for ; j < len(b) && j < i+3 && b[j] >= '0' && b[j] <= '7'; j++ {
				x = x<<3 | int(b[j]-'0')
			}
			out = append(out, byte(x))
			i = j - 1
		default:
			out = append(out, '\\', c)
		}
	}
	return m.pushPython2(out)
}

// rawUnicode reads the argument of UNICODE, Python's raw-unicode-escape: Latin-1 with \uXXXX and \UXXXXXXXX.
func (m *machine) rawUnicode(b []byte) (string, error) {
	// Latin-1 above ASCII doubles; escapes shrink.
	if err := m.charge(2 * int64(len(b))); err != nil {
		return "", err
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c != '\\' {
			out = appendScalar(out, uint32(c))
			continue
		}
		if i+1 == len(b) {
			out = append(out, '\\')
			break
		}
		i++
		width := 0
		switch b[i] {
		case 'u':
			width = 4
		case 'U':
			width = 8
		default:
			out = append(out, '\\')
			out = appendScalar(out, uint32(b[i]))
			continue
		}
		if i+width >= len(b) {
			return "", m.fail(ErrCorrupt, "the escape \\%c wants %d hexadecimal digits", b[i], width)
		}
		x, err := strconv.ParseUint(string(b[i+1:i+1+width]), 16, 32)
		if err != nil || x > utf8.MaxRune {
			return "", m.fail(ErrCorrupt, "the escape \\%s is no character", b[i:i+1+width])
		}
		out = appendScalar(out, uint32(x))
		i += width
	}
	return unsafe.String(unsafe.SliceData(out), len(out)), nil // out is ours alone
}

// appendScalar appends a code point as UTF-8, surrogates as three bytes.
func appendScalar(b []byte, x uint32) []byte {
	if x >= 0xD800 && x <= 0xDFFF {
		return append(b, 0xE0|byte(x>>12), 0x80|byte(x>>6)&0x3F, 0x80|byte(x)&0x3F)
	}
	return utf8.AppendRune(b, rune(x))
}

// describeMax bounds the names in messages.
const describeMax = 80

// describe names the Python kind of a value, for messages.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "a bool"
	case int64, *big.Int:
		return "an int"
	case float64:
		return "a float"
	case string:
		return "a str"
	case []byte:
		return "bytes"
	case ByteArray:
		return "a bytearray"
	case Tuple:
		return "a tuple"
	case *List:
		return "a list"
	case *Dict:
		return "a dict"
	case *Set:
		if v != nil && v.Frozen {
			return "a frozenset"
		}
		return "a set"
	case Global:
		return "the global " + v.clipped(describeMax)
	case *Object:
		if g, ok := v.Class(); ok {
			return "an object of " + g.clipped(describeMax)
		}
		return "an object"
	case PersistentID:
		return "a persistent id"
	case OutOfBand:
		return "an out-of-band buffer"
	case Extension:
		return "an extension"
	}
	return fmt.Sprintf("a Go %T", v)
}
