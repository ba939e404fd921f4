package pickle

import (
	"bytes"
	"fmt"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"math"
	"math/big"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// loader reads pickles, each after its length in decimal and a newline. It loads each one with the C and with the Python
// unpickler, writes repr(value), and the value pickled again at every protocol.
const loader = `
import pickle, sys, types, collections
mod = types.ModuleType('shapes'); sys.modules['shapes'] = mod
class Plain:
    def __eq__(self, other): return type(self) is type(other) and self.__dict__ == other.__dict__
    def __repr__(self): return f'Plain({self.__dict__})'
class MyList(list): pass
class MyDict(dict): pass
class Kw:
    def __new__(cls, *args, **kwargs):
        self = object.__new__(cls); self.got = args, kwargs; return self
    def __eq__(self, other): return self.got == other.got
    def __repr__(self): return f'Kw{self.got}'
    def __getnewargs_ex__(self): return self.got
    def __getstate__(self): return None
Point = collections.namedtuple('Point', 'x y')
for c in Plain, MyList, MyDict, Kw, Point:
    c.__module__ = 'shapes'; setattr(mod, c.__name__, c)
read, write = sys.stdin.buffer, sys.stdout.buffer
def out(b):
    write.write(b'%d\n' % len(b)); write.write(b)
while True:
    line = read.readline()
    if not line: break
    data = read.read(int(line))
    a, b = pickle.loads(data), pickle._loads(data)
    shown = repr(a) if len(data) < 5000 else type(a).__name__
    if repr(b) != repr(a): shown = f'C and Python unpicklers differ: {a!r} {b!r}'
    out(shown.encode('utf-8', 'surrogatepass'))
    for protocol in range(6):
        out(pickle.dumps(a, protocol))
`

// TestPython has a real Python load what we encode, checks what it sees, and decodes what it writes at each protocol.
func TestPython(t *testing.T) {
	python := testenv.Python3(t)
	large := bytes.Repeat([]byte("b"), 100_000)
	shared := NewList(int64(1))
	self := NewList()
	self.Items = append(self.Items, self)
	selfTuple := NewList()
	selfTuple.Items = append(selfTuple.Items, Tuple{selfTuple, int64(1), int64(2), int64(3)})
	var numbers []float64
	for i := range 20_000 {
		numbers = append(numbers, float64(i))
	}
	shape := func(name string) Global { return Global{"shapes", name} }
	cases := []struct {
		v    any
		repr string // "" when too long to say
	}{
		{nil, "None"}, {true, "True"}, {false, "False"},
		{[]int{0, 255, 256, 65535, 65536, -1, math.MinInt32, math.MaxInt32, math.MinInt64, math.MaxInt64},
			"[0, 255, 256, 65535, 65536, -1, -2147483648, 2147483647, -9223372036854775808, 9223372036854775807]"},
		{[]any{uint64(math.MaxUint64), bigOf("-0x800000000000000000"), bigOf("0x7fffffffffffffffff"), bigOf("-0x800000000000000001")},
			"[18446744073709551615, -2361183241434822606848, 2361183241434822606847, -2361183241434822606849]"},
		{[]float64{1.5, math.Inf(-1), math.Copysign(0, -1)}, "[1.5, -inf, -0.0]"},
		{"é😀\n", `'é😀\n'`},
		{"a\xED\xA0\x80b", `'a\ud800b'`},
		{[]byte{0, 255}, `b'\x00\xff'`},
		{ByteArray("ab"), `bytearray(b'ab')`}, {ByteArray{}, `bytearray(b'')`},
		{[]any{Tuple{}, Tuple{1}, Tuple{1, 2}, Tuple{1, 2, 3}, Tuple{1, 2, 3, 4}}, "[(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]"},
		{map[string]any{"b": []string{"x"}, "a": nil}, "{'a': None, 'b': ['x']}"},
		{map[string]struct{}{"x": {}}, "{'x'}"},
		{&Set{Items: []any{1}, Frozen: true}, "frozenset({1})"}, {&Set{}, "set()"},
		{map[[2]int]bool{{1, 2}: true}, "{(1, 2): True}"},
		{struct {
			Name string `pickle:"name"`
			Skip int    `pickle:"-"`
		}{"n", 1}, "{'name': 'n'}"},
		{time.Date(2024, 2, 29, 23, 59, 58, 123456000, time.UTC), "datetime.datetime(2024, 2, 29, 23, 59, 58, 123456, tzinfo=datetime.timezone.utc)"},
		{time.Date(2024, 2, 29, 23, 59, 58, 0, time.FixedZone("x", 3600)),
			"datetime.datetime(2024, 2, 29, 23, 59, 58, tzinfo=datetime.timezone(datetime.timedelta(seconds=3600)))"},
		{-time.Second, "datetime.timedelta(days=-1, seconds=86399)"},
		{complex(1, -2), "(1-2j)"}, {big.NewRat(-3, 6), "Fraction(-1, 2)"},
		{Global{"builtins", "bytes"}, "<class 'bytes'>"}, {Global{"collections", "OrderedDict.fromkeys"}, "<built-in method fromkeys of type object at "},
		{[]any{shared, shared}, "[[1], [1]]"},
		{self, "[[...]]"}, {selfTuple, "[([...], 1, 2, 3)]"},
		{&Object{Callable: shape("Plain"), New: true, State: dictOf("x", 1), HasState: true}, "Plain({'x': 1})"},
		{&Object{Callable: shape("MyList"), New: true, Items: []any{1, 2}}, "[1, 2]"},
		{&Object{Callable: shape("MyDict"), New: true, Pairs: dictOf("a", 1)}, "{'a': 1}"},
		{&Object{Callable: shape("Point"), New: true, Args: Tuple{1, "b"}}, "Point(x=1, y='b')"},
		{&Object{Callable: shape("Kw"), New: true, Args: Tuple{1}, Kwargs: dictOf("a", 2)}, "Kw((1,), {'a': 2})"},
		{&Object{Callable: Global{"collections", "deque"}, Items: []any{1}}, "deque([1])"},
		{[]any{"x", large, "y", strings.Repeat("s", 100_000), ByteArray(large)}, "list"},
		{numbers, "list"}, {longMap(3000), "dict"},
	}
	for _, protocol := range []int{4, 5} {
		for _, inline := range []int{1, 0, -1} {
			t.Run(fmt.Sprintf("protocol=%d/inline=%d", protocol, inline), func(t *testing.T) {
				e := &Encoder{Protocol: protocol, InlineMax: inline}
				var in bytes.Buffer
				for _, c := range cases {
					parts, err := e.Encode(c.v)
					if err != nil {
						t.Fatal(err)
					}
					b := bytes.Join(parts, nil)
					fmt.Fprintf(&in, "%d\n%s", len(b), b)
				}
				cmd := exec.CommandContext(t.Context(), python, "-c", loader)
				cmd.Stdin = &in
				var stderr strings.Builder
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("python3: %v\n%s", err, stderr.String())
				}
				next := func() []byte {
					line, rest, ok := bytes.Cut(out, []byte("\n"))
					var n int
					if _, err := fmt.Sscan(string(line), &n); !ok || err != nil || n > len(rest) {
						t.Fatalf("python3 wrote %.40q, expected a length", line)
					}
					out = rest[n:]
					return rest[:n]
				}
				for _, c := range cases {
					if got := string(next()); got != c.repr && !(strings.HasSuffix(c.repr, " at ") && strings.HasPrefix(got, c.repr)) {
						t.Errorf("Python sees %s, want %s", got, c.repr)
					}
					b, err := Marshal(c.v)
					if err != nil {
						t.Fatal(err)
					}
					want, err := Decode(b)
					if err != nil {
						t.Fatal(err)
					}
					for p := range 6 {
						got, err := Decode(next())
						if err != nil {
							t.Fatalf("%s at protocol %d: %v", c.repr, p, err)
						}
						if lossy(c.repr, p) {
							continue
						}
						if d := differ(got, want); d != "" {
							t.Errorf("%s from Python at protocol %d differs %s", c.repr, p, d)
						}
					}
				}
			})
		}
	}
}

// lossy has what Python itself writes in another form at some protocols.
func lossy(repr string, protocol int) bool {
	return strings.HasPrefix(repr, "Kw(") && protocol < 4 || // functools.partial
		strings.HasPrefix(repr, "<built-in method") // getattr(class, name) at some protocols
}

func longMap(n int) map[string]int {
	m := make(map[string]int, n)
	for i := range n {
		m[fmt.Sprintf("key-%05d", i)] = i
	}
	return m
}
