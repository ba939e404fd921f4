package pickle

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"
)

// This file reads the objects of Python's standard library, and numpy's scalars, that have a Go counterpart.

// rawBytes returns bytes; a Python 2 str of ASCII characters that was bytes has been decoded as a string.
func rawBytes(v any) ([]byte, bool) {
	switch v := v.(type) {
	case []byte:
		return v, true
	case ByteArray:
		return v, true
	case string:
		if len(v) <= 64 {
			return []byte(v), true
		}
	}
	return nil, false
}

// datetime reads datetime.datetime and datetime.date. A naive datetime and a date are taken as UTC.
func (b *budget) datetime(o *Object) (time.Time, bool, error) {
	g, ok := o.Class()
	if !ok || g.Module != "datetime" || g.Name != "datetime" && g.Name != "date" {
		return time.Time{}, false, nil
	}
	bad := func() (time.Time, bool, error) {
		return time.Time{}, true, fmt.Errorf("pickle: %w: arguments of %s are not those that Python writes", ErrType, g)
	}
	if len(o.Args) < 1 || len(o.Args) > 2 {
		return bad()
	}
	s, ok := rawBytes(o.Args[0])
	if !ok {
		return bad()
	}
	if g.Name == "date" {
		if len(s) != 4 || len(o.Args) != 1 {
			return bad()
		}
		t := time.Date(int(s[0])<<8|int(s[1]), time.Month(s[2]), int(s[3]), 0, 0, 0, 0, time.UTC)
		if t.Day() != int(s[3]) {
			return bad()
		}
		return t, true, nil
	}
	if len(s) != 10 {
		return bad()
	}
	month := s[2] & 0x7F // the high bit is fold
	us := int(s[7])<<16 | int(s[8])<<8 | int(s[9])
	if month < 1 || month > 12 || s[3] < 1 || s[3] > 31 || s[4] > 23 || s[5] > 59 || s[6] > 59 || us > 999_999 {
		return bad()
	}
	loc := time.UTC
	if len(o.Args) == 2 && o.Args[1] != nil {
		var err error
		if loc, err = b.zone(o.Args[1]); err != nil {
			return time.Time{}, true, err
		}
	}
	return time.Date(int(s[0])<<8|int(s[1]), time.Month(month), int(s[3]), int(s[4]), int(s[5]), int(s[6]), us*1000, loc), true, nil
}

// zone is what became of loading a zone by its name.
type zone struct {
	loc *time.Location
	err error
}

// maxZoneName bounds names of zones, of which the longest known has 32 bytes.
const maxZoneName = 255

// zone reads datetime.timezone, zoneinfo.ZoneInfo and pytz's UTC. It loads each zone once.
func (b *budget) zone(v any) (*time.Location, error) {
	o, _ := v.(*Object)
	switch {
	case o.Is("datetime", "timezone") && len(o.Args) >= 1 && len(o.Args) <= 2:
		delta, ok := o.Args[0].(*Object)
		if !ok {
			break
		}
		d, ok, err := asTimedelta(delta)
		if err != nil {
			return nil, err
		}
		if !ok || d <= -24*time.Hour || d >= 24*time.Hour {
			break
		}
		if d == 0 && len(o.Args) == 1 {
			return time.UTC, nil
		}
		name := ""
		if len(o.Args) == 2 {
			if name, ok = o.Args[1].(string); !ok {
				break
			}
		}
		return time.FixedZone(name, int(d/time.Second)), nil
	case o.Is("zoneinfo", "ZoneInfo._unpickle") && len(o.Args) >= 1:
		name, ok := o.Args[0].(string)
		if !ok || name == "Local" || len(name) > maxZoneName {
			break
		}
		z, ok := b.zones[name]
		if !ok {
			z.loc, z.err = time.LoadLocation(name) // refuses names that leave the zone directory
			if z.err != nil {
				z.err = fmt.Errorf("pickle: zone %.80q: %w", name, z.err)
			}
			if b.zones == nil {
				b.zones = make(map[string]zone)
			}
			b.zones[name] = z
		}
		return z.loc, z.err
	case o.Is("pytz", "_UTC"):
		return time.UTC, nil
	}
	return nil, fmt.Errorf("pickle: %w: the time zone is %s, expected datetime.timezone or zoneinfo.ZoneInfo", ErrType, describe(v))
}

// asTimedelta reads datetime.timedelta.
func asTimedelta(o *Object) (time.Duration, bool, error) {
	if !o.Is("datetime", "timedelta") {
		return 0, false, nil
	}
	var part [3]int64
	if len(o.Args) > 3 {
		return 0, true, fmt.Errorf("pickle: %w: datetime.timedelta with %d arguments, expected at most 3", ErrType, len(o.Args))
	}
	for i, a := range o.Args {
		n, ok := a.(int64)
		if !ok {
			return 0, true, fmt.Errorf("pickle: %w: datetime.timedelta of %s, expected an int", ErrType, describe(a))
		}
		part[i] = n
	}
	total := new(big.Int).Mul(big.NewInt(part[0]), big.NewInt(86400))
	total.Add(total, big.NewInt(part[1]))
	total.Mul(total, big.NewInt(1_000_000))
	total.Add(total, big.NewInt(part[2]))
	total.Mul(total, big.NewInt(1000))
	if !total.IsInt64() {
		return 0, true, fmt.Errorf("pickle: %w: a timedelta of %d days does not fit in a time.Duration", ErrType, part[0])
	}
	return time.Duration(total.Int64()), true, nil
}

// asComplex reads builtins.complex.
func asComplex(o *Object) (complex128, bool) {
	if !o.Is("builtins", "complex") || o.New && len(o.Args) == 0 || len(o.Args) > 2 {
		return 0, false
	}
	var part [2]float64
	for i, a := range o.Args {
		switch a := a.(type) {
		case float64:
			part[i] = a
		case int64:
			part[i] = float64(a)
		default:
			return 0, false
		}
	}
	return complex(part[0], part[1]), true
}

// asDecimal returns the text of decimal.Decimal.
func asDecimal(o *Object) (string, bool) {
	if !o.Is("decimal", "Decimal") || len(o.Args) != 1 {
		return "", false
	}
	s, ok := o.Args[0].(string)
	return s, ok
}

// asFraction reads fractions.Fraction: two integers, or below Python 3.11 the text "n/d".
func asFraction(o *Object) (*big.Rat, bool) {
	if !o.Is("fractions", "Fraction") {
		return nil, false
	}
	switch len(o.Args) {
	case 1:
		s, ok := o.Args[0].(string)
		if !ok || len(s) > 2*defaultMaxIntDigits || strings.ContainsAny(s, "eE.xXpP_") {
			return nil, false
		}
		return new(big.Rat).SetString(s)
	case 2:
		n, ok1 := bigInteger(o.Args[0])
		d, ok2 := bigInteger(o.Args[1])
		if !ok1 || !ok2 || d.Sign() == 0 || n.BitLen() > maxRatBits || d.BitLen() > maxRatBits {
			return nil, false
		}
		return new(big.Rat).SetFrac(n, d), true
	}
	return nil, false
}

// maxRatBits bounds fractions, whose reduction is not linear.
const maxRatBits = 1 << 14

func bigInteger(v any) (*big.Int, bool) {
	switch v := v.(type) {
	case int64:
		return big.NewInt(v), true
	case *big.Int:
		return v, true
	}
	return nil, false
}

// asUUID reads uuid.UUID: its state holds the number as "int".
func asUUID(o *Object) ([16]byte, bool) {
	var id [16]byte
	if !o.Is("uuid", "UUID") {
		return id, false
	}
	fields, ok := o.State.(*Dict)
	if !ok {
		return id, false
	}
	v, _ := fields.GetString("int")
	n, ok := bigInteger(v)
	if !ok || n.Sign() < 0 || n.BitLen() > 128 {
		return id, false
	}
	n.FillBytes(id[:])
	return id, true
}

func uuidString(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// numpyScalar reads numpy's scalar(dtype, bytes) as bool, int64, uint64, float64, complex128, string or []byte. Other kinds of dtype
// are not read. It reads the bytes of long texts once.
func (b *budget) numpyScalar(o *Object) (any, bool, error) {
	g, ok := o.Class()
	if !ok || g.Name != "scalar" || g.Module != "numpy.core.multiarray" && g.Module != "numpy._core.multiarray" || len(o.Args) != 2 {
		return nil, false, nil
	}
	dtype, ok := o.Args[0].(*Object)
	if !ok || !dtype.Is("numpy", "dtype") || len(dtype.Args) == 0 {
		return nil, false, nil
	}
	code, ok := dtype.Args[0].(string)
	if !ok || len(code) < 2 || len(code) > 12 {
		return nil, false, nil
	}
	raw, ok := rawBytes(o.Args[1])
	if !ok {
		return nil, false, nil
	}
	bigEndian := false
	if state, ok := dtype.State.(Tuple); ok && len(state) > 1 && state[1] == ">" {
		bigEndian = true
	}
	switch code[0] {
	case 'U':
		if len(raw)%4 != 0 {
			return nil, false, nil
		}
		s, err := b.utf32(raw, bigEndian)
		return s, err == nil, err
	case 'S':
		return raw, true, nil
	}
	v, ok := numpyNumber(code, raw, bigEndian)
	return v, ok, nil
}

// utf32 reads UTF-32 padded with zeros.
func (b *budget) utf32(raw []byte, bigEndian bool) (string, error) {
	const shared = 64 // bytes above which it pays to know them again
	k := textKey{unsafe.SliceData(raw), len(raw), bigEndian}
	if len(raw) > shared {
		if s, ok := b.texts[k]; ok {
			return s, nil
		}
	}
	if err := b.spend(len(raw) / 16); err != nil {
		return "", err
	}
	char := binary.LittleEndian.Uint32
	if bigEndian {
		char = binary.BigEndian.Uint32
	}
	n := len(raw)
	for n > 0 && char(raw[n-4:]) == 0 {
		n -= 4
	}
	out := make([]byte, 0, n/4)
	for i := 0; i < n; i += 4 {
		out = appendScalar(out, min(char(raw[i:]), utf8.MaxRune))
	}
	s := unsafe.String(unsafe.SliceData(out), len(out)) // out is ours alone
	if len(raw) > shared {
		if b.texts == nil {
			b.texts = make(map[textKey]string)
		}
		b.texts[k] = s
	}
	return s, nil
}

// numpyNumber reads a number of a dtype such as f8.
func numpyNumber(code string, b []byte, bigEndian bool) (any, bool) {
	var order binary.ByteOrder = binary.LittleEndian
	if bigEndian {
		order = binary.BigEndian
	}
	if code[1:] != fmt.Sprint(len(b)) {
		return nil, false
	}
	f64 := func(b []byte) float64 { return math.Float64frombits(order.Uint64(b)) }
	f32 := func(b []byte) float64 { return float64(math.Float32frombits(order.Uint32(b))) }
	switch code {
	case "b1":
		return b[0] != 0, true
	case "i1":
		return int64(int8(b[0])), true
	case "i2":
		return int64(int16(order.Uint16(b))), true
	case "i4":
		return int64(int32(order.Uint32(b))), true
	case "i8":
		return int64(order.Uint64(b)), true
	case "u1":
		return uint64(b[0]), true
	case "u2":
		return uint64(order.Uint16(b)), true
	case "u4":
		return uint64(order.Uint32(b)), true
	case "u8":
		return order.Uint64(b), true
	case "f2":
		return float16(order.Uint16(b)), true
	case "f4":
		return f32(b), true
	case "f8":
		return f64(b), true
	case "c8":
		return complex(f32(b), f32(b[4:])), true
	case "c16":
		return complex(f64(b), f64(b[8:])), true
	}
	return nil, false
}

// float16 converts an IEEE 754 half.
func float16(h uint16) float64 {
	sign := 1.0
	if h&0x8000 != 0 {
		sign = -1
	}
	exp, frac := int(h>>10&0x1F), float64(h&0x3FF)
	switch exp {
	case 0:
		return sign * math.Ldexp(frac, -24)
	case 0x1F:
		if frac != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+frac, exp-25)
}

// asMapping returns the pairs of the dict types of collections, and of anything that had items set and has no fields.
func asMapping(o *Object) (*Dict, bool) {
	if o.Is("collections", "Counter") && len(o.Args) == 1 {
		d, ok := o.Args[0].(*Dict)
		return d, ok
	}
	if o.Pairs != nil {
		return o.Pairs, true
	}
	if g, ok := o.Class(); ok && g.Module == "collections" && (g.Name == "OrderedDict" || g.Name == "defaultdict" || g.Name == "Counter") {
		// Python 2 wrote OrderedDict([[key, value], ...]).
		if g.Name == "OrderedDict" && len(o.Args) == 1 {
			rows, ok := sequence(o.Args[0])
			if !ok {
				return nil, false
			}
			d := &Dict{}
			for _, row := range rows {
				kv, ok := sequence(row)
				if !ok || len(kv) != 2 {
					return nil, false
				}
				d.Set(kv[0], kv[1])
			}
			return d, true
		}
		return &Dict{}, true
	}
	return nil, false
}

// asSequence returns the items of deque, of list subclasses, and the arguments of what looks like a namedtuple.
func asSequence(o *Object) ([]any, bool) {
	if o.Is("collections", "deque") {
		if len(o.Items) == 0 && len(o.Args) > 0 {
			return sequence(o.Args[0])
		}
		return o.Items, true
	}
	if len(o.Items) > 0 {
		return o.Items, true
	}
	if o.New && !o.HasState && o.Pairs == nil && o.Kwargs == nil && len(o.Args) > 0 {
		return o.Args, true
	}
	return nil, false
}
