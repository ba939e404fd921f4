package pickle

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

var benchSizes = []struct {
	name string
	n    int
}{{"1KiB", 1 << 10}, {"64KiB", 64 << 10}, {"1MiB", 1 << 20}, {"64MiB", 64 << 20}}

// benchValues are values of about n bytes, up to a size that is sensible for their kind.
func benchValues(n int) map[string]any {
	v := map[string]any{"bytes": []any{"header", make([]byte, n)}}
	if n > 1<<20 {
		return v
	}
	floats := make([]any, n/9)
	for i := range floats {
		floats[i] = float64(i)
	}
	v["floats"] = floats
	rows := make([]any, n/40)
	for i := range rows {
		rows[i] = map[string]any{"id": i, "name": fmt.Sprint("row-", i), "ok": true}
	}
	v["rows"] = rows
	return v
}

func BenchmarkDecode(b *testing.B) {
	for _, size := range benchSizes {
		for kind, v := range benchValues(size.n) {
			in, err := Marshal(v)
			if err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("kind=%s/size=%s", kind, size.name), func(b *testing.B) {
				b.SetBytes(int64(len(in)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Decode(in); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkDecodeStream(b *testing.B) {
	for _, size := range benchSizes {
		in, err := Marshal(make([]byte, size.n))
		if err != nil {
			b.Fatal(err)
		}
		b.Run("kind=bytes/size="+size.name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := NewDecoder(bytes.NewReader(in), Limits{}).Decode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, size := range benchSizes {
		for kind, v := range benchValues(size.n) {
			in, err := Marshal(v)
			if err != nil {
				b.Fatal(err)
			}
			for mode, encode := range map[string]func() error{
				"parts":  func() error { _, err := new(Encoder).Encode(v); return err },
				"stream": func() error { return new(Encoder).EncodeTo(io.Discard, v) },
			} {
				b.Run(fmt.Sprintf("kind=%s/size=%s/mode=%s", kind, size.name, mode), func(b *testing.B) {
					b.SetBytes(int64(len(in)))
					b.ReportAllocs()
					for b.Loop() {
						if err := encode(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

func BenchmarkConvert(b *testing.B) {
	type row struct {
		ID   int
		Name string
		OK   bool
	}
	for _, size := range benchSizes[:3] {
		in, err := Marshal(benchValues(size.n)["rows"])
		if err != nil {
			b.Fatal(err)
		}
		v, err := Decode(in)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("kind=rows/size="+size.name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				var rows []row
				if err := Convert(v, &rows); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
