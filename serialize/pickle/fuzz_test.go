package pickle

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"
)

// fuzzLimits keep one input cheap.
var fuzzLimits = Limits{MaxDepth: 200, MaxValues: 1 << 16, MaxBytes: 1 << 20, MaxIntDigits: 500}

func addSeeds(f *testing.F) {
	for _, e := range golden(f) {
		if len(e.Pickle) < 1000 {
			f.Add(e.Pickle)
		}
	}
	for _, c := range opcodeCases() {
		f.Add([]byte(c.in))
	}
	for _, c := range hostile() {
		if len(c.in) < 1000 {
			f.Add([]byte(c.in))
		}
	}
}

// FuzzDecode decodes anything without a panic, the same by slice and by stream; and what it decodes encodes to a pickle of
// an equal value.
func FuzzDecode(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		v, rest, err := DecodePrefix(in, fuzzLimits)
		streamed, streamErr := NewDecoder(iotest.HalfReader(bytes.NewReader(in)), Limits{MaxDepth: 200, MaxValues: 1 << 16, MaxBytes: 4 << 20, MaxIntDigits: 500}).Decode()
		if err != nil {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrTruncated) {
				t.Fatalf("error %#v is no SyntaxError with a sentinel", err)
			}
			if streamErr == nil && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("the slice fails with %v, the stream decodes", err)
			}
			return
		}
		if len(rest) > len(in) {
			t.Fatal("more rest than input")
		}
		if streamErr != nil {
			t.Fatalf("the slice decodes, the stream fails with %v", streamErr)
		}
		if d := differ(v, streamed); d != "" {
			t.Fatalf("slice and stream differ: %s", d)
		}
		if err := Dump(io.Discard, v); err != nil {
			t.Fatal(err)
		}
		for _, protocol := range []int{4, 5} {
			parts, err := (&Encoder{Protocol: protocol, InlineMax: 16}).Encode(v)
			if err != nil {
				if hasBuffers(v) {
					return // out-of-band buffers can only be written in the order of their numbers
				}
				t.Fatalf("decoded value does not encode: %v", err)
			}
			again, err := DecodeWith(bytes.Join(parts, nil), Limits{})
			if err != nil {
				t.Fatalf("encoded value does not decode: %v", err)
			}
			if d := differ(v, again); d != "" {
				t.Fatalf("protocol %d: differs after encoding: %s", protocol, d)
			}
		}
	})
}

func hasBuffers(v any) bool {
	seen := make(map[any]bool)
	var find func(v any) bool
	find = func(v any) bool {
		if _, ok := v.(OutOfBand); ok {
			return true
		}
		if id := identity(v); id != nil {
			if seen[id] {
				return false
			}
			seen[id] = true
		}
		found := false
		children(v, func(c any) { found = found || find(c) })
		return found
	}
	return find(v)
}

// FuzzConvert converts whatever decodes into types of every kind: errors are fine, panics are not, and neither is work
// beyond the limits.
func FuzzConvert(f *testing.F) {
	addSeeds(f)
	type nested struct {
		A     any
		Key   string
		Size  int
		X     *nested
		Inner map[string]nested
		List  []nested
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := DecodeWith(in, fuzzLimits)
		if err != nil {
			return
		}
		ToGo(v)
		for _, into := range []any{
			new(any), new(bool), new(int8), new(uint64), new(float32), new(complex128), new(string), new([]byte), new([16]byte),
			new([]any), new([]int), new([]string), new([3]any), new(map[string]any), new(map[any]any), new(map[string]struct{}), new([]Pair),
			new(nested), new([]nested), new(map[[2]int]string), new(time.Time), new(time.Duration), new(*Dict), new(Tuple), new(**int), new(io.Reader),
		} {
			if err := ConvertWith(v, into, fuzzLimits); err != nil {
				continue
			}
		}
		// What Convert makes of any value can be encoded unless it is of a kind that has no pickle.
		var x any
		if Convert(v, &x) == nil {
			if _, err := Marshal(x); err != nil && !errors.Is(err, ErrType) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("%T from Convert does not encode: %v", x, err)
			}
		}
	})
}
