package serialize

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	npyMagic = "\x93NUMPY"
	npyAlign = 64 // numpy.lib.format.ARRAY_ALIGN
	// npyGrowth is GROWTH_AXIS_MAX_DIGITS: room that NumPy leaves for the growing dimension.
	npyGrowth = 21
	// maxNpyHeader bounds a header. NumPy's own default is 10,000 characters; wide tables need more.
	maxNpyHeader = 256 << 10
)

// npyHeader is what an .npy header says.
type npyHeader struct {
	dtype   DType
	shape   []int
	fortran bool
	size    int // of the whole header: where data starts
}

// parseNpy parses the header of an .npy file. It looks at nothing after the header and allocates in proportion to it.
func parseNpy(b []byte) (npyHeader, error) {
	var h npyHeader
	bad := func(format string, args ...any) (npyHeader, error) {
		return h, fmt.Errorf("%w: npy header: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	if len(b) < 8 || string(b[:6]) != npyMagic {
		return bad("starts with %q, expected %q and a version", b[:min(8, len(b))], npyMagic)
	}
	major, minor := b[6], b[7]
	n, lead := 0, 12
	switch {
	case minor == 0 && major == 1 && len(b) >= 10:
		n, lead = int(binary.LittleEndian.Uint16(b[8:])), 10
	case minor == 0 && (major == 2 || major == 3) && len(b) >= 12:
		u := binary.LittleEndian.Uint32(b[8:])
		if u > maxNpyHeader {
			return bad("claims %d bytes, the limit is %d", u, maxNpyHeader)
		}
		n = int(u)
	case minor != 0 || major < 1 || major > 3:
		return bad("version %d.%d, expected 1.0, 2.0 or 3.0", major, minor)
	default:
		return bad("is truncated after %d bytes", len(b))
	}
	if n > len(b)-lead {
		return bad("claims %d bytes, %d are there", n, len(b)-lead)
	}
	text := string(b[lead : lead+n])
	h.size = lead + n
	if major == 3 {
		if !utf8.ValidString(text) {
			return bad("is not UTF-8, which version 3.0 is")
		}
	} else {
		text = latin1(text)
	}
	v, err := parseLiteral(text)
	if err != nil {
		return h, fmt.Errorf("npy header: %w", err)
	}
	dict, ok := v.(litDict)
	if !ok {
		return bad("is no dictionary")
	}
	var descr, order, shape any
	for _, kv := range dict {
		var into *any
		switch kv.key {
		case "descr":
			into = &descr
		case "fortran_order":
			into = &order
		case "shape":
			into = &shape
		}
		if into == nil || *into != nil {
			return bad("key %v is unknown or occurs twice", kv.key)
		}
		*into = kv.value
	}
	if descr == nil || order == nil || shape == nil {
		return bad("lacks one of descr, fortran_order and shape")
	}
	if h.fortran, ok = order.(bool); !ok {
		return bad("fortran_order is not a bool")
	}
	if _, ok := shape.(litTuple); !ok {
		return bad("shape is not a tuple")
	}
	if h.shape, err = litShape(shape); err != nil {
		return h, fmt.Errorf("npy header: %w", err)
	}
	count := 0
	var sub []int
	if h.dtype, sub, err = descrOf(descr, 0, &count); err != nil {
		return h, fmt.Errorf("npy header: %w", err)
	}
	h.shape = append(h.shape, sub...)
	if sub != nil && h.fortran {
		return bad("subarrays in Fortran order are not defined")
	}
	if _, err := product(h.shape, h.dtype.Size); err != nil {
		return h, fmt.Errorf("npy header: %w", err)
	}
	return h, nil
}

// latin1 decodes the encoding of versions 1.0 and 2.0.
func latin1(s string) string {
	ascii := true
	for i := range len(s) {
		ascii = ascii && s[i] < 0x80
	}
	if ascii {
		return s
	}
	b := make([]byte, 0, len(s)+16)
	for i := range len(s) {
		b = utf8.AppendRune(b, rune(s[i]))
	}
	return string(b)
}

// appendNpy appends the header that numpy.save writes for such an array.
func appendNpy(b []byte, d DType, shape []int, fortran bool) []byte {
	text := append(make([]byte, 0, 128), "{'descr': "...)
	text = d.appendDescr(text)
	text = append(text, ", 'fortran_order': "...)
	if fortran {
		text = append(text, "True"...)
	} else {
		text = append(text, "False"...)
	}
	text = append(text, ", 'shape': "...)
	text = appendShape(text, shape)
	text = append(text, ", }"...)
	if len(shape) > 0 {
		grow := shape[0]
		if fortran {
			grow = shape[len(shape)-1]
		}
		for range npyGrowth - len(strconv.Itoa(grow)) {
			text = append(text, ' ')
		}
	}
	// The lowest version that can hold it, as _wrap_header_guess_version does.
	version, lead := byte(1), 10
	narrow, ok := toLatin1(text)
	if ok {
		text = narrow
	}
	padded := func() int { return npyAlign - (lead+len(text)+1)%npyAlign }
	if n := len(text) + 1 + padded(); !ok || n > 0xffff {
		version, lead = 2, 12
		if !ok {
			version = 3
		}
	}
	pad := padded()
	b = append(b, npyMagic...)
	b = append(b, version, 0)
	n := len(text) + 1 + pad
	if version == 1 {
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
	} else {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	b = append(b, text...)
	for range pad {
		b = append(b, ' ')
	}
	return append(b, '\n')
}

// toLatin1 encodes UTF-8 text as Latin-1, or reports false if it has other characters.
func toLatin1(text []byte) ([]byte, bool) {
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		if r > 0xff {
			return nil, false
		}
		out = append(out, byte(r))
	}
	return out, true
}

// The values of the Python literals that a header may have, beside string, int64 and bool.
type (
	litTuple []any
	litList  []any
	litDict  []litPair
	litPair  struct {
		key   any
		value any
	}
)

// litShape returns the ints of a tuple, or of a single int.
func litShape(v any) ([]int, error) {
	if n, ok := v.(int64); ok {
		v = litTuple{n}
	}
	t, ok := v.(litTuple)
	if !ok {
		return nil, fmt.Errorf("%w: shape is no tuple of integers", ErrCorrupt)
	}
	if len(t) > maxDims {
		return nil, fmt.Errorf("%w: %d dimensions, NumPy has at most %d", ErrCorrupt, len(t), maxDims)
	}
	shape := make([]int, len(t))
	for i, e := range t {
		n, ok := e.(int64)
		if !ok || int64(int(n)) != n {
			return nil, fmt.Errorf("%w: dimension %v is no possible length", ErrCorrupt, e)
		}
		shape[i] = int(n)
	}
	return shape, nil
}

// litParser parses the few Python literals that headers are made of: dictionaries, lists, tuples, strings, non-negative integers, True and
// False. It is no ast.literal_eval: everything else is refused, and depth is bounded.
type litParser struct {
	s     string
	at    int
	depth int
}

// maxLitDepth bounds nesting: each structure level takes a list and a tuple.
const maxLitDepth = 2*maxDTypeDepth + 8

// parseLiteral parses s, which must be one literal and white space.
func parseLiteral(s string) (any, error) {
	p := &litParser{s: s}
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	if p.peek() != 0 || p.at != len(p.s) {
		return nil, p.bad("expected the end")
	}
	return v, nil
}

func (p *litParser) bad(why string) error {
	rest := p.s[min(p.at, len(p.s)):]
	if len(rest) > 20 {
		rest = rest[:20]
	}
	return fmt.Errorf("%w: literal: %s at %d (%q)", ErrCorrupt, why, p.at, rest)
}

// peek skips white space and returns the next byte, 0 at the end.
func (p *litParser) peek() byte {
	for p.at < len(p.s) {
		switch c := p.s[p.at]; c {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return c
		}
	}
	return 0
}

func (p *litParser) value() (any, error) {
	if p.depth++; p.depth > maxLitDepth {
		return nil, p.bad("nests too deeply")
	}
	defer func() { p.depth-- }()
	switch c := p.peek(); {
	case c == '\'' || c == '"':
		return p.str()
	case c >= '0' && c <= '9':
		start := p.at
		for p.at < len(p.s) && p.s[p.at] >= '0' && p.s[p.at] <= '9' {
			p.at++
		}
		n, err := strconv.ParseInt(p.s[start:p.at], 10, 64)
		if err != nil {
			return nil, p.bad("the integer is too large")
		}
		if p.at < len(p.s) && p.s[p.at] == 'L' { // as Python 2 wrote long integers
			p.at++
		}
		return n, nil
	case strings.HasPrefix(p.s[p.at:], "True"):
		p.at += len("True")
		return true, nil
	case strings.HasPrefix(p.s[p.at:], "False"):
		p.at += len("False")
		return false, nil
	case c == '(':
		items, comma, err := p.items(')')
		if err != nil {
			return nil, err
		}
		if len(items) == 1 && !comma {
			return items[0], nil // only parentheses
		}
		return litTuple(items), nil
	case c == '[':
		items, _, err := p.items(']')
		return litList(items), err
	case c == '{':
		return p.dict()
	}
	return nil, p.bad("expected a value")
}

// items parses up to the closing bracket. comma reports a comma after the last item.
func (p *litParser) items(end byte) (items []any, comma bool, err error) {
	p.at++
	for {
		if p.peek() == end {
			p.at++
			return items, comma, nil
		}
		if len(items) > 0 && !comma {
			return nil, false, p.bad("expected a comma or " + strconv.Quote(string(end)))
		}
		v, err := p.value()
		if err != nil {
			return nil, false, err
		}
		items = append(items, v)
		if comma = p.peek() == ','; comma {
			p.at++
		}
	}
}

func (p *litParser) dict() (any, error) {
	p.at++
	d := litDict{}
	for comma := true; ; {
		if p.peek() == '}' {
			p.at++
			return d, nil
		}
		if !comma {
			return nil, p.bad("expected a comma or '}'")
		}
		if c := p.peek(); c != '\'' && c != '"' {
			return nil, p.bad("expected a string as key")
		}
		k, err := p.str()
		if err != nil {
			return nil, err
		}
		if p.peek() != ':' {
			return nil, p.bad("expected ':'")
		}
		p.at++
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		d = append(d, litPair{k, v})
		if comma = p.peek() == ','; comma {
			p.at++
		}
	}
}

// str parses a quoted string with the escapes that repr writes.
func (p *litParser) str() (string, error) {
	quote := p.s[p.at]
	p.at++
	start := p.at
	var b []byte // what came before the last escape, once there is one
	for p.at < len(p.s) {
		switch c := p.s[p.at]; c {
		case quote:
			s := p.s[start:p.at]
			p.at++
			if b != nil {
				return string(append(b, s...)), nil
			}
			return s, nil
		case '\n':
			return "", p.bad("the string has no end")
		case '\\':
			b = append(b, p.s[start:p.at]...)
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			b = utf8.AppendRune(b, r)
			start = p.at
		default:
			p.at++
		}
	}
	return "", p.bad("the string has no end")
}

func (p *litParser) escape() (rune, error) {
	p.at++
	if p.at == len(p.s) {
		return 0, p.bad("the escape has no end")
	}
	c := p.s[p.at]
	p.at++
	digits := 0
	switch c {
	case '\\', '\'', '"':
		return rune(c), nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		return 0, p.bad("the escape is unknown")
	}
	if digits > len(p.s)-p.at {
		return 0, p.bad("the escape has no end")
	}
	n, err := strconv.ParseUint(p.s[p.at:p.at+digits], 16, 32)
	if err != nil || n > utf8.MaxRune || n >= 0xd800 && n < 0xe000 {
		return 0, p.bad("the escape is no character")
	}
	p.at += digits
	return rune(n), nil
}
