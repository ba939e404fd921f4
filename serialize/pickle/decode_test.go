package pickle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// opcodeCases has a pickle for each opcode and each of its forms that Python 3 does not write.
func opcodeCases() map[string]struct {
	in   string
	want any
} {
	type c = struct {
		in   string
		want any
	}
	obj := func(new bool, callable any, args ...any) *Object {
		if args == nil {
			args = Tuple{}
		}
		return &Object{Callable: callable, Args: args, New: new}
	}
	ab := Global{"a", "b"}
	return map[string]c{
		"INT":                     {"I42\n.", int64(42)},
		"INT false":               {"I00\n.", false},
		"INT true":                {"I01\n.", true},
		"INT big":                 {"I18446744073709551616\n.", bigOf("18446744073709551616")},
		"INT hex":                 {"I-0x10\n.", int64(-16)},
		"BININT":                  {"J\xff\xff\xff\xff.", int64(-1)},
		"BININT1":                 {"K\xff.", int64(255)},
		"BININT2":                 {"M\xff\xff.", int64(65535)},
		"LONG":                    {"L-5L\n.", int64(-5)},
		"LONG without L":          {"L5\n.", int64(5)},
		"LONG zero":               {"L0L\n.", int64(0)},
		"LONG big":                {"L-18446744073709551616L\n.", bigOf("-18446744073709551616")},
		"LONG1":                   {"\x8a\x02\x00\xff.", int64(-256)},
		"LONG1 empty":             {"\x8a\x00.", int64(0)},
		"LONG1 padded":            {"\x8a\x0a\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00.", int64(1)},
		"LONG1 padded negative":   {"\x8a\x09\xfe\xff\xff\xff\xff\xff\xff\xff\xff.", int64(-2)},
		"LONG4":                   {"\x8b\x01\x00\x00\x00\x80.", int64(-128)},
		"FLOAT":                   {"F1.5\n.", 1.5},
		"FLOAT inf":               {"F-inf\n.", math.Inf(-1)},
		"FLOAT overflow":          {"F1e999\n.", math.Inf(1)},
		"BINFLOAT":                {"G\x3f\xf8\x00\x00\x00\x00\x00\x00.", 1.5},
		"STRING":                  {`S'a\x41\101\n\\\'\q\t\r\a\b\f\v\"'` + "\n.", "aAA\n\\'\\q\t\r\a\b\f\v\""},
		"STRING double quotes":    {`S"it's"` + "\n.", "it's"},
		"STRING binary":           {`S'\xff\0'` + "\n.", []byte{0xff, 0}},
		"BINSTRING":               {"T\x02\x00\x00\x00ab.", "ab"},
		"BINSTRING binary":        {"T\x02\x00\x00\x00\xff\xfe.", []byte{0xff, 0xfe}},
		"SHORT_BINSTRING":         {"U\x02\xc3\xa9.", "é"},
		"BINBYTES":                {"B\x01\x00\x00\x00x.", []byte("x")},
		"SHORT_BINBYTES":          {"C\x01x.", []byte("x")},
		"BINBYTES8":               {"\x8e\x01\x00\x00\x00\x00\x00\x00\x00x.", []byte("x")},
		"BYTEARRAY8":              {"\x96\x01\x00\x00\x00\x00\x00\x00\x00x.", ByteArray("x")},
		"NEXT_BUFFER":             {"\x97\x97\x86.", Tuple{OutOfBand{0, false}, OutOfBand{1, false}}},
		"READONLY_BUFFER":         {"\x97\x98.", OutOfBand{0, true}},
		"READONLY_BUFFER bytes":   {"C\x01x\x98.", []byte("x")},
		"NONE":                    {"N.", nil},
		"NEWTRUE":                 {"\x88.", true},
		"NEWFALSE":                {"\x89.", false},
		"UNICODE":                 {"Va\\u00e9\\U0001f600\\n\xe9\\\\u0041\\\n.", "aé😀\\né\\\\u0041\\"},
		"UNICODE surrogate":       {"V\\udc80\n.", "\xED\xB2\x80"},
		"SHORT_BINUNICODE":        {"\x8c\x02\xc3\xa9.", "é"},
		"BINUNICODE":              {"X\x01\x00\x00\x00x.", "x"},
		"BINUNICODE8":             {"\x8d\x01\x00\x00\x00\x00\x00\x00\x00x.", "x"},
		"EMPTY_LIST APPEND":       {"]Na.", NewList(nil)},
		"APPENDS":                 {"](NNe.", NewList(nil, nil)},
		"LIST":                    {"(NK\x01l.", NewList(nil, int64(1))},
		"EMPTY_TUPLE":             {").", Tuple{}},
		"TUPLE":                   {"(NNNNt.", Tuple{nil, nil, nil, nil}},
		"TUPLE1":                  {"N\x85.", Tuple{nil}},
		"TUPLE2":                  {"NN\x86.", Tuple{nil, nil}},
		"TUPLE3":                  {"NNN\x87.", Tuple{nil, nil, nil}},
		"EMPTY_DICT SETITEM":      {"}K\x01Ns.", dictOf(int64(1), nil)},
		"SETITEMS":                {"}(K\x01NK\x02Nu.", dictOf(int64(1), nil, int64(2), nil)},
		"SETITEMS repeated":       {"}(K\x01N\x88\x88u.", dictOf(int64(1), true)},
		"DICT":                    {"(K\x01Nd.", dictOf(int64(1), nil)},
		"EMPTY_SET ADDITEMS":      {"\x8f(K\x01K\x02\x90.", &Set{Items: []any{int64(1), int64(2)}}},
		"FROZENSET":               {"(K\x01\x91.", &Set{Items: []any{int64(1)}, Frozen: true}},
		"POP":                     {"NK\x010.", nil},
		"POP at a mark":           {"N(0.", nil},
		"DUP":                     {"K\x012\x86.", Tuple{int64(1), int64(1)}},
		"POP_MARK":                {"N(K\x01K\x021.", nil},
		"PUT GET":                 {"K\x01p7\n0g7\n.", int64(1)},
		"BINPUT BINGET":           {"K\x01q\xff0h\xff.", int64(1)},
		"LONG_BINPUT LONG_BINGET": {"K\x01r\xff\xff\xff\xff0j\xff\xff\xff\xff.", int64(1)},
		"PUT of 2^64-1":           {"K\x01p18446744073709551615\n0g18446744073709551615\n.", int64(1)},
		"MEMOIZE":                 {"K\x01\x94K\x02\x9400h\x00h\x01\x86.", Tuple{int64(1), int64(2)}},
		"MEMOIZE after a gap":     {"K\x01p5\nK\x02\x94h\x01h\x05\x86.", Tuple{int64(2), int64(1)}},
		"EXT1":                    {"\x82\x05.", Extension{5}},
		"EXT2":                    {"\x83\x00\x01.", Extension{256}},
		"EXT4 called":             {"\x84\x00\x00\x01\x00)R.", obj(false, Extension{65536})},
		"GLOBAL":                  {"ca\nb\n.", ab},
		"GLOBAL python 2":         {"c__builtin__\nunicode\n.", Global{"builtins", "str"}},
		"GLOBAL exceptions":       {"cexceptions\nKeyError\n.", Global{"builtins", "KeyError"}},
		"GLOBAL StandardError":    {"cexceptions\nStandardError\n.", Global{"builtins", "Exception"}},
		"GLOBAL module":           {"cQueue\nQueue\n.", Global{"queue", "Queue"}},
		"GLOBAL protocol 3":       {"\x80\x03cQueue\nQueue\n.", Global{"Queue", "Queue"}},
		"GLOBAL dill NoneType":    {"\x80\x04c__builtin__\nNoneType\n.", Global{"builtins", "NoneType"}},
		"STACK_GLOBAL":            {"\x8c\x01a\x8c\x01b\x93.", ab},
		"REDUCE":                  {"cos\nsystem\n(S'rm -rf /'\ntR.", obj(false, Global{"os", "system"}, "rm -rf /")},
		"REDUCE of an object":     {"ca\nb\n)R)R.", obj(false, obj(false, ab))},
		"BUILD":                   {"ca\nb\n)R}b.", &Object{Callable: ab, Args: Tuple{}, State: NewDict(), HasState: true}},
		"BUILD None":              {"ca\nb\n)RNb.", &Object{Callable: ab, Args: Tuple{}, HasState: true}},
		"APPENDS to an object":    {"ca\nb\n)R(NNe.", &Object{Callable: ab, Args: Tuple{}, Items: []any{nil, nil}}},
		"SETITEMS of an object":   {"ca\nb\n)R(NNu.", &Object{Callable: ab, Args: Tuple{}, Pairs: dictOf(nil, nil)}},
		"INST":                    {"(K\x01ia\nb\n.", obj(false, ab, int64(1))},
		"INST without arguments":  {"(ia\nb\n.", obj(true, ab)},
		"OBJ":                     {"(ca\nb\nK\x01o.", obj(false, ab, int64(1))},
		"OBJ without arguments":   {"(ca\nb\no.", obj(true, ab)},
		"NEWOBJ":                  {"ca\nb\nN\x85\x81.", obj(true, ab, nil)},
		"NEWOBJ_EX":               {"ca\nb\n)}\x92.", &Object{Callable: ab, Args: Tuple{}, Kwargs: NewDict(), New: true}},
		"PROTO":                   {"\x80\x05N.", nil},
		"FRAME":                   {"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00N.", nil},
		"PERSID":                  {"Pid 7\n.", PersistentID{"id 7"}},
		"BINPERSID":               {"K\x07Q.", PersistentID{int64(7)}},

		"__newobj__":           {"ccopyreg\n__newobj__\n(ca\nb\nNtR.", obj(true, ab, nil)},
		"__newobj_ex__":        {"ccopyreg\n__newobj_ex__\n(ca\nb\n)}tR.", &Object{Callable: ab, Args: Tuple{}, Kwargs: NewDict(), New: true}},
		"_reconstructor":       {"ccopy_reg\n_reconstructor\n(ca\nb\nc__builtin__\nobject\nNtR.", obj(true, ab)},
		"_reconstructor float": {"ccopy_reg\n_reconstructor\n(ca\nb\nc__builtin__\nfloat\nF1.5\ntR.", obj(true, ab, 1.5)},
		"_reconstructor odd":   {"ccopy_reg\n_reconstructor\n(ca\nb\nc__builtin__\nlist\n}tR.", obj(false, Global{"copyreg", "_reconstructor"}, ab, Global{"builtins", "list"}, NewDict())},
		"set of tuple":         {"c__builtin__\nset\n((NttR.", &Set{Items: []any{nil}}},
		"bytes of int":         {"cbuiltins\nbytes\n(J\x00\x00\x00\x40tR.", obj(false, Global{"builtins", "bytes"}, int64(1<<30))},
		"bytearray latin-1":    {"c__builtin__\nbytearray\n(V\xff\nS'latin-1'\ntR.", ByteArray{255}},
		"encode beyond latin1": {"c_codecs\nencode\n(V\\u0100\nVlatin1\ntR.", obj(false, Global{"_codecs", "encode"}, "Ā", "latin1")},
		"encode utf-8":         {"c_codecs\nencode\n(Vx\nVutf-8\ntR.", obj(false, Global{"_codecs", "encode"}, "x", "utf-8")},
		"getattr of an object": {"cbuiltins\ngetattr\n(NS'x'\ntR.", obj(false, Global{"builtins", "getattr"}, nil, "x")},
		"dill ndarray":         {"cdill._dill\n_load_type\n(S'ndarray'\ntR.", Global{"numpy", "ndarray"}},
		"dill PartialType":     {"cdill._dill\n_load_type\n(S'PartialType'\ntR.", Global{"functools", "partial"}},
		"dill namedtuple":      {"cdill._dill\n_create_namedtuple\n(S'P'\n(S'x'\ntS'm'\ntR.", Global{"m", "P"}},
	}
}

func TestOpcodes(t *testing.T) {
	cases := opcodeCases()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := Decode([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if d := differ(got, c.want); d != "" {
				t.Fatalf("got %#v, want %#v: %s", got, c.want, d)
			}
			got, err = NewDecoder(iotest.HalfReader(strings.NewReader(c.in)), Limits{}).Decode()
			if err != nil {
				t.Fatal(err)
			}
			if d := differ(got, c.want); d != "" {
				t.Fatalf("streamed %#v, want %#v: %s", got, c.want, d)
			}
		})
	}
}

// TestEveryOpcodeIsHit makes sure that the cases above leave no opcode out.
func TestEveryOpcodeIsHit(t *testing.T) {
	all := ""
	for name := range opcodeCases() {
		all += " " + name + " "
	}
	for op, name := range opNames {
		if name == "" || byte(op) == opStop || byte(op) == opMark {
			continue
		}
		if !strings.Contains(all, " "+name+" ") {
			t.Errorf("%s has no case", name)
		}
		// The machine knows it: an error, if any, is not about an unknown opcode.
		if _, err := Decode([]byte{byte(op)}); err != nil && strings.Contains(err.Error(), "unknown opcode") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for op := range 256 {
		if opNames[op] == "" {
			if _, err := Decode([]byte{byte(op), '.'}); !errors.Is(err, ErrCorrupt) {
				t.Errorf("opcode %#x: %v, want ErrCorrupt", op, err)
			}
		}
	}
}

func le(width int, n uint64) string {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	return string(b[:width])
}

// hostile is the corpus of broken and malicious pickles, with the error each must give.
func hostile() map[string]struct {
	in   string
	want error
} {
	type c = struct {
		in   string
		want error
	}
	return map[string]c{
		"empty":                       {"", ErrTruncated},
		"STOP alone":                  {".", ErrCorrupt},
		"no STOP":                     {"N", ErrTruncated},
		"bytes after STOP":            {"N.N", ErrCorrupt},
		"protocol 6":                  {"\x80\x06N.", ErrCorrupt},
		"BINBYTES8 of 2^63-1":         {"\x8e" + le(8, math.MaxInt64) + "x", ErrTruncated},
		"BINBYTES8 of 2^64-1":         {"\x8e" + le(8, math.MaxUint64) + "x", ErrCorrupt},
		"BINBYTES of 4 GiB":           {"B\xff\xff\xff\xffx", ErrTruncated},
		"BYTEARRAY8 of 1 EiB":         {"\x96" + le(8, 1<<60) + "x", ErrTruncated},
		"BINUNICODE8 of 1 EiB":        {"\x8d" + le(8, 1<<60) + "x", ErrTruncated},
		"LONG4 of 2 GiB":              {"\x8b\xff\xff\xff\x7fx", ErrTruncated},
		"LONG4 negative":              {"\x8b\xff\xff\xff\xffx", ErrCorrupt},
		"BINSTRING negative":          {"T\xff\xff\xff\xffx", ErrCorrupt},
		"FRAME beyond the end":        {"\x95" + le(8, 1<<40) + "N.", ErrTruncated},
		"FRAME of 2^64-1":             {"\x95" + le(8, math.MaxUint64) + "N.", ErrCorrupt},
		"FRAME in FRAME":              {"\x95" + le(8, 11) + "\x95" + le(8, 1) + "N.", ErrCorrupt},
		"STOP inside FRAME":           {"\x95" + le(8, 4) + "N.NN", ErrCorrupt},
		"GET never stored":            {"h\x00.", ErrCorrupt},
		"GET negative":                {"g-1\n.", ErrCorrupt},
		"GET huge":                    {"g99999999999999999999\n.", ErrCorrupt},
		"GET long":                    {"g" + strings.Repeat("0", 100) + "\n.", ErrCorrupt},
		"PUT of nothing":              {"q\x00.", ErrCorrupt},
		"PUT at a mark":               {"N(q\x00.", ErrCorrupt},
		"MEMOIZE of nothing":          {"\x94.", ErrCorrupt},
		"POP of nothing":              {"0.", ErrCorrupt},
		"DUP of nothing":              {"2.", ErrCorrupt},
		"DUP at a mark":               {"N(2.", ErrCorrupt},
		"no mark":                     {"Nt.", ErrCorrupt},
		"POP_MARK without mark":       {"1.", ErrCorrupt},
		"APPENDS under a mark":        {"](((e.", ErrCorrupt},
		"APPENDS to nothing":          {"(Ne.", ErrCorrupt},
		"APPEND to a dict":            {"}Na.", ErrCorrupt},
		"APPEND under a mark":         {"](Na.", ErrCorrupt},
		"SETITEM of a list":           {"]NNs.", ErrCorrupt},
		"SETITEMS odd":                {"}(Nu.", ErrCorrupt},
		"DICT odd":                    {"(Nd.", ErrCorrupt},
		"ADDITEMS to a frozenset":     {"(\x91(N\x90.", ErrCorrupt},
		"ADDITEMS to a list":          {"](N\x90.", ErrCorrupt},
		"TUPLE3 of two":               {"NN\x87.", ErrCorrupt},
		"STACK_GLOBAL of ints":        {"K\x01K\x02\x93.", ErrCorrupt},
		"REDUCE of an int":            {"K\x01)R.", ErrCorrupt},
		"REDUCE with a list":          {"ca\nb\n]R.", ErrCorrupt},
		"NEWOBJ with a list":          {"ca\nb\n]\x81.", ErrCorrupt},
		"NEWOBJ_EX with a list":       {"ca\nb\n)]\x92.", ErrCorrupt},
		"OBJ without class":           {"(o.", ErrCorrupt},
		"OBJ of an int":               {"(K\x01o.", ErrCorrupt},
		"BUILD of a list":             {"]}b.", ErrCorrupt},
		"BUILD twice":                 {"ca\nb\n)R}b}b.", ErrCorrupt},
		"READONLY_BUFFER of None":     {"N\x98.", ErrCorrupt},
		"EXT1 zero":                   {"\x82\x00.", ErrCorrupt},
		"EXT4 negative":               {"\x84\xff\xff\xff\xff.", ErrCorrupt},
		"INT words":                   {"Iforty\n.", ErrCorrupt},
		"INT empty":                   {"I\n.", ErrCorrupt},
		"INT octal of Python 2":       {"I0755\n.", ErrCorrupt},
		"INT two signs":               {"I--5\n.", ErrCorrupt},
		"FLOAT words":                 {"Fone\n.", ErrCorrupt},
		"FLOAT hex":                   {"F0x1p3\n.", ErrCorrupt},
		"FLOAT empty":                 {"F\n.", ErrCorrupt},
		"FLOAT long":                  {"F" + strings.Repeat("1", 1<<20) + "\n.", ErrTooLarge},
		"LONG of a megabyte":          {"L" + strings.Repeat("7", 1<<20) + "L\n.", ErrTooLarge},
		"INT of a megabyte":           {"I" + strings.Repeat("7", 1<<20) + "\n.", ErrTooLarge},
		"STRING unquoted":             {"Sabc\n.", ErrCorrupt},
		"STRING half quoted":          {"S'abc\n.", ErrCorrupt},
		"STRING one quote":            {"S'\n.", ErrCorrupt},
		"STRING bad escape":           {`S'\xg0'` + "\n.", ErrCorrupt},
		"STRING short escape":         {`S'\x4'` + "\n.", ErrCorrupt},
		"STRING final backslash":      {`S'\'` + "\n.", ErrCorrupt},
		"STRING without newline":      {"S'abc'", ErrTruncated},
		"UNICODE bad escape":          {"V\\u12\n.", ErrCorrupt},
		"UNICODE beyond Unicode":      {"V\\U00110000\n.", ErrCorrupt},
		"BINUNICODE not UTF-8":        {"X\x01\x00\x00\x00\xff.", ErrCorrupt},
		"BINUNICODE half surrogate":   {"X\x02\x00\x00\x00\xed\xa0.", ErrCorrupt},
		"GLOBAL not UTF-8":            {"c\xff\nb\n.", ErrCorrupt},
		"PERSID not ASCII":            {"P\xff\n.", ErrCorrupt},
		"unknown opcode":              {"\xff.", ErrCorrupt},
		"depth by marks":              {strings.Repeat("(", 20_000) + strings.Repeat("t", 20_000) + ".", ErrTooLarge},
		"depth by TUPLE1":             {")" + strings.Repeat("\x85", 20_000) + ".", ErrTooLarge},
		"depth by lists":              {strings.Repeat("]", 20_000) + strings.Repeat("a", 19_999) + ".", ErrTooLarge},
		"depth by persistent ids":     {"N" + strings.Repeat("Q", 20_000) + ".", ErrTooLarge},
		"depth through the memo":      {patchedDepth(20_000), ErrTooLarge},
		"values by marks":             {strings.Repeat("(", 1<<20) + "N.", ErrTooLarge},
		"values by DUP":               {"N" + strings.Repeat("2", 1<<20) + ".", ErrTooLarge},
		"values by MEMOIZE":           {"N" + strings.Repeat("\x94", 1<<20) + ".", ErrTooLarge},
		"values by sets of one list":  {"(" + strings.Repeat("N", 1<<17) + "lq\x00(" + strings.Repeat("cbuiltins\nset\nh\x00\x85R", 1000) + "t.", ErrTooLarge},
		"bytes by one long key":       {"X" + le(4, 1<<20) + strings.Repeat("k", 1<<20) + "q\x000}(" + strings.Repeat("h\x00N", 10_000) + "u.", ErrTooLarge},
		"bytes by one encoded string": {"X" + le(4, 1<<20) + strings.Repeat("k", 1<<20) + "q\x000(" + strings.Repeat("c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R", 1000) + "t.", ErrTooLarge},
	}
}

// patchedDepth nests n lists, each put into its parent through the memo after the parent itself was placed.
func patchedDepth(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("]r" + le(4, uint64(i)))
		if i > 0 {
			b.WriteString("0j" + le(4, uint64(i-1)) + "j" + le(4, uint64(i)) + "a0")
		} else {
			b.WriteString("0")
		}
	}
	b.WriteString("j" + le(4, 0) + ".")
	return b.String()
}

func TestHostile(t *testing.T) {
	lim := Limits{MaxValues: 1 << 19}
	for name, c := range hostile() {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := DecodeWith([]byte(c.in), lim)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || syntax.Offset < 0 || syntax.Offset > int64(len(c.in)) {
				t.Fatalf("error %#v, want a *SyntaxError with an offset in the input", err)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 256<<20 {
				t.Fatalf("%d bytes allocated", got)
			}
			streamLimits := lim
			streamLimits.MaxBytes = 64 << 20
			if _, err := NewDecoder(strings.NewReader(c.in), streamLimits).Decode(); err == nil && name != "bytes after STOP" {
				t.Fatal("the stream decodes")
			}
		})
	}
}

// TestClaimedLengths streams length fields that claim more than there is: memory is taken as data arrives.
func TestClaimedLengths(t *testing.T) {
	for name, in := range map[string]string{
		"BINBYTES8":   "\x8e" + le(8, 1<<30) + "x",
		"BYTEARRAY8":  "\x96" + le(8, 1<<30) + "x",
		"BINUNICODE8": "\x8d" + le(8, 1<<30) + "x",
		"LONG4":       "\x8b" + le(4, 1<<29) + "x",
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := NewDecoder(strings.NewReader(in), Limits{}).Decode()
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrTruncated) {
			t.Errorf("%s: %v, want ErrTruncated", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
			t.Errorf("%s: %d bytes allocated for a claimed gigabyte", name, got)
		}
		if _, err := NewDecoder(strings.NewReader(in), Limits{MaxBytes: 1 << 20}).Decode(); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v, want ErrTooLarge", name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	if _, err := DecodeWith([]byte("]]]aa."), Limits{MaxDepth: 2}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("three levels: %v", err)
	}
	if _, err := DecodeWith([]byte("]]a."), Limits{MaxDepth: 2}); err != nil {
		t.Errorf("two levels: %v", err)
	}
	if _, err := DecodeWith([]byte("(NNNt."), Limits{MaxValues: 4}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("five values: %v", err)
	}
	if _, err := DecodeWith([]byte("X\x05\x00\x00\x00abcde."), Limits{MaxBytes: 4}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("five bytes: %v", err)
	}
	if _, err := DecodeWith([]byte("L"+strings.Repeat("9", 30)+"L\n."), Limits{MaxIntDigits: 20}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("thirty digits: %v", err)
	}
	// Exactly at the depth limit, with sharing, and a cycle is a leaf.
	if _, err := DecodeWith([]byte("]q\x00h\x00\x86."), Limits{MaxDepth: 2}); err != nil {
		t.Errorf("shared: %v", err)
	}
	if _, err := DecodeWith([]byte("]q\x00]h\x00aa."), Limits{MaxDepth: 2}); err != nil {
		t.Errorf("cycle of two: %v", err)
	}
}

func TestDecodePrefix(t *testing.T) {
	v, rest, err := DecodePrefix([]byte("K\x01.K\x02."), Limits{})
	if err != nil || v != int64(1) || string(rest) != "K\x02." {
		t.Fatalf("%v %q %v", v, rest, err)
	}
}

func TestBytesAlias(t *testing.T) {
	in := []byte("C\x03abc\x96\x01\x00\x00\x00\x00\x00\x00\x00x\x86.")
	v, err := Decode(in)
	if err != nil {
		t.Fatal(err)
	}
	b := v.(Tuple)[0].([]byte)
	if &b[0] != &in[2] || cap(b) != len(b) {
		t.Fatal("bytes do not alias the input with their own capacity")
	}
	if a := v.(Tuple)[1].(ByteArray); &a[0] != &in[14] {
		t.Fatal("a bytearray does not alias the input")
	}
}

func TestDecoderSequence(t *testing.T) {
	var in bytes.Buffer
	for i := range 3 {
		b, err := Marshal([]any{i, strings.Repeat("x", 100_000), bytes.Repeat([]byte{byte(i)}, 100_000)})
		if err != nil {
			t.Fatal(err)
		}
		in.Write(b)
	}
	in.WriteString("rest")
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(in.Bytes()), "data with error": iotest.DataErrReader(bytes.NewReader(in.Bytes())),
		"halves": iotest.HalfReader(bytes.NewReader(in.Bytes())),
	} {
		d := NewDecoder(r, Limits{})
		for i := range 3 {
			v, err := d.Decode()
			if err != nil {
				t.Fatalf("%s: pickle %d: %v", name, i, err)
			}
			items := v.(*List).Items
			if items[0] != int64(i) || len(items[1].(string)) != 100_000 || items[2].([]byte)[99_999] != byte(i) {
				t.Fatalf("%s: pickle %d is wrong", name, i)
			}
		}
		rest, err := io.ReadAll(io.MultiReader(d.Buffered(), r))
		if err != nil || string(rest) != "rest" {
			t.Fatalf("%s: %q, %v follow", name, rest, err)
		}
	}
}

func TestDecoderErrors(t *testing.T) {
	d := NewDecoder(strings.NewReader("N."), Limits{})
	if _, err := d.Decode(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Decode(); err != io.EOF {
		t.Fatalf("at the end: %v, want io.EOF", err)
	}
	boom := errors.New("boom")
	d = NewDecoder(io.MultiReader(strings.NewReader("C\x05ab"), iotest.ErrReader(boom)), Limits{})
	if _, err := d.Decode(); !errors.Is(err, boom) {
		t.Fatalf("reader error: %v", err)
	}
	d = NewDecoder(strings.NewReader("\xffN."), Limits{})
	_, first := d.Decode()
	if _, second := d.Decode(); first == nil || second != first {
		t.Fatalf("%v, then %v: an error must stay", first, second)
	}
	d = NewDecoder(strings.NewReader("N.N.h\x00."), Limits{})
	d.Decode()
	d.Decode()
	var syntax *SyntaxError
	if _, err := d.Decode(); !errors.As(err, &syntax) || syntax.Offset != 4 || syntax.Op != opBinget {
		t.Fatalf("%#v, want BINGET at offset 4 of the stream", err)
	}
}

func TestOnLargeBytes(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789"), 50_000)
	b, err := Marshal([]any{"small", big, []byte("little"), ByteArray(big), strings.Repeat("s", 200_000), 7})
	if err != nil {
		t.Fatal(err)
	}
	for _, readAll := range []bool{true, false} {
		var sizes []int64
		d := NewDecoder(iotest.HalfReader(bytes.NewReader(b)), Limits{MaxBytes: 1 << 10})
		var kept io.Reader
		d.OnLargeBytes(100_000, func(size int64, r io.Reader) (any, error) {
			sizes = append(sizes, size)
			kept = r
			if !readAll {
				_, err := io.CopyN(io.Discard, r, 3)
				return PersistentID{size}, err
			}
			n, err := io.Copy(io.Discard, r)
			return PersistentID{n}, err
		})
		v, err := d.Decode()
		if err != nil {
			t.Fatal(err)
		}
		want := NewList("small", PersistentID{int64(500_000)}, []byte("little"), PersistentID{int64(500_000)}, PersistentID{int64(200_000)}, int64(7))
		if d := differ(v, want); d != "" {
			t.Fatalf("readAll=%v: %s", readAll, d)
		}
		if len(sizes) != 3 {
			t.Fatalf("sizes %v", sizes)
		}
		if _, err := kept.Read(make([]byte, 1)); err == nil {
			t.Fatal("the reader works after the call")
		}
	}
	boom := errors.New("boom")
	d := NewDecoder(bytes.NewReader(b), Limits{})
	d.OnLargeBytes(1000, func(int64, io.Reader) (any, error) { return nil, boom })
	if _, err := d.Decode(); !errors.Is(err, boom) {
		t.Fatalf("%v, want the callback's error", err)
	}
	d = NewDecoder(bytes.NewReader(b[:1000]), Limits{})
	d.OnLargeBytes(1000, func(_ int64, r io.Reader) (any, error) {
		_, err := io.Copy(io.Discard, r)
		if !errors.Is(err, ErrTruncated) {
			t.Errorf("the callback reads %v, want ErrTruncated", err)
		}
		return nil, nil
	})
	if _, err := d.Decode(); !errors.Is(err, ErrTruncated) {
		t.Fatalf("%v, want ErrTruncated", err)
	}
}

func TestDict(t *testing.T) {
	d := NewDict()
	for i := range 100 {
		d.Set(fmt.Sprint(i), i)
	}
	d.Set("5", "five")
	if d.Len() != 100 {
		t.Fatalf("%d pairs", d.Len())
	}
	if v, ok := d.GetString("5"); !ok || v != "five" {
		t.Fatalf("%v %v", v, ok)
	}
	if _, ok := d.Get("100"); ok {
		t.Fatal("found what is not there")
	}
	i := 0
	for k := range d.All() {
		if k != fmt.Sprint(i) {
			t.Fatalf("key %v at %d", k, i)
		}
		i++
	}
	for _, n := range []int{0, 20} { // scanned and indexed
		d := NewDict()
		for i := range n {
			d.Set(fmt.Sprint("filler", i), nil)
		}
		d.Set(int64(1), "one")
		d.Set([]byte("b"), "bytes")
		d.Set("b", "str")
		d.Set(1.5, "float")
		d.Set(nil, "none")
		d.Set(bigOf("0x1ffffffffffffffff"), "big")
		d.Set(Global{"m", "n"}, "global")
		d.Set(Tuple{}, "first")
		d.Set(Tuple{}, "second")
		for _, c := range []struct{ k, want any }{
			{1, "one"}, {uint8(1), "one"}, {1.0, "one"}, {true, "one"}, {big.NewInt(1), "one"}, {[]byte("b"), "bytes"}, {"b", "str"},
			{float32(1.5), "float"}, {nil, "none"}, {bigOf("0x1ffffffffffffffff"), "big"}, {Global{"m", "n"}, "global"},
			{Tuple{}, nil}, {2, nil}, {bigOf("-0x1ffffffffffffffff"), nil}, {uint64(math.MaxUint64), nil},
		} {
			if v, _ := d.Get(c.k); v != c.want {
				t.Errorf("n=%d: Get(%v) = %v, want %v", n, c.k, v, c.want)
			}
		}
		if d.Len() != n+9 {
			t.Errorf("n=%d: %d pairs", n, d.Len())
		}
	}
	var none *Dict
	if _, ok := none.Get("x"); ok || none.Len() != 0 {
		t.Fatal("a nil Dict is not empty")
	}
	for range none.All() {
		t.Fatal("a nil Dict has pairs")
	}
}
