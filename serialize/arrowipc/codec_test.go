package arrowipc_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/arrowipc"
	"github.com/proxyplane/proxyplane/transport"
)

func codecs(t testing.TB, o arrowipc.Options) *serialize.Codecs {
	t.Helper()
	c := serialize.NewCodecs()
	if err := c.Register(arrowipc.CodecWith(o)); err != nil {
		t.Fatal(err)
	}
	return c
}

func recorded(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".obj"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pooled returns a Buffer whose memory is overwritten after the last Release.
func pooled(obj []byte) *transport.Buffer {
	return transport.NewBuffer(slices.Clone(obj), transport.Pooled, func(b []byte) { clear(b) })
}

// noLeak checks that every Buffer was released.
func noLeak(t testing.TB) {
	t.Helper()
	if n, _ := transport.Live(transport.Pooled); n != 0 {
		t.Errorf("%d buffers leaked", n)
	}
}

// text prints a table's columns, one per line.
func text(tab arrow.Table) string {
	var b strings.Builder
	for i := range int(tab.NumCols()) {
		c := tab.Column(i)
		fmt.Fprintf(&b, "%s: ", c.Name())
		for _, chunk := range c.Data().Chunks() {
			for k := range chunk.Len() {
				fmt.Fprintf(&b, "%s ", chunk.ValueStr(k))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

const frame = `a: 1 2 (null) 
s: x a string longer than twelve bytes (null) 
f: 1.5 2 3 
l: [1] [2,3] (null) 
d: 2020-01-01 2020-01-01 2020-01-01 
c: p q p 
b: eA== eQ== eg== 
t: 2020-01-01T00:00:00 2020-01-01T00:00:00 2020-01-01T00:00:00 
bo: true false (null) 
st: {"x":1,"y":"q"} {"x":1,"y":"q"} {"x":1,"y":"q"} 
dec: 1 2 3 
i8: 1 2 3 
e: u v u 
`

func TestGolden(t *testing.T) {
	c := codecs(t, arrowipc.Options{})
	for _, name := range []string{"proxystore", "empty", "no-columns", "two-batches", "lz4", "zstd", "oldest", "stream"} {
		buf := pooled(recorded(t, name))
		v, err := c.Decode(buf)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			buf.Release()
			continue
		}
		buf.Release() // the table has its own references
		tab := v.(arrow.Table)
		switch name {
		case "empty":
			if tab.NumRows() != 0 || tab.NumCols() != 13 {
				t.Errorf("%s: %d rows, %d columns", name, tab.NumRows(), tab.NumCols())
			}
		case "no-columns":
			if tab.NumRows() != 0 || tab.NumCols() != 0 {
				t.Errorf("%s: %d rows, %d columns", name, tab.NumRows(), tab.NumCols())
			}
		case "lz4", "zstd":
			chunks := tab.Column(1).Data().Chunks()
			last := chunks[len(chunks)-1]
			if tab.NumRows() != 1000 || last.ValueStr(last.Len()-1) != "the same long string, again and again" {
				t.Errorf("%s: %d rows", name, tab.NumRows())
			}
		default:
			if got := text(tab); got != frame {
				t.Errorf("%s: got\n%s\nwant\n%s", name, got, frame)
			}
		}
		// And again through our own writer.
		for _, comp := range []arrowipc.Compression{arrowipc.Uncompressed, arrowipc.LZ4, arrowipc.Zstd} {
			c := codecs(t, arrowipc.Options{Compression: comp})
			parts, err := c.Encode(tab)
			if err != nil {
				t.Errorf("%s, compression %d: %v", name, comp, err)
				continue
			}
			buf := pooled(parts.Join())
			again, err := serialize.DecodeAs[arrow.Table](c, buf)
			buf.Release()
			if err != nil {
				t.Errorf("%s, compression %d: %v", name, comp, err)
				continue
			}
			if text(again) != text(tab) || !again.Schema().Equal(tab.Schema()) {
				t.Errorf("%s, compression %d: comes back as\n%s", name, comp, text(again))
			}
			again.Release()
		}
		tab.Release()
	}
	noLeak(t)
}

func TestWant(t *testing.T) {
	c := codecs(t, arrowipc.Options{})
	one, two, empty := pooled(recorded(t, "proxystore")), pooled(recorded(t, "two-batches")), pooled(recorded(t, "empty"))
	b, err := serialize.DecodeAs[arrow.RecordBatch](c, one)
	if err != nil || b.NumRows() != 3 {
		t.Fatalf("%v, %v", b, err)
	}
	b.Release()
	if _, err := serialize.DecodeAs[arrow.RecordBatch](c, two); !errors.Is(err, serialize.ErrType) {
		t.Errorf("two batches as one: %v", err)
	}
	bs, err := serialize.DecodeAs[[]arrow.RecordBatch](c, two)
	if err != nil || len(bs) != 2 {
		t.Fatalf("%v, %v", bs, err)
	}
	for _, b := range bs {
		b.Release()
	}
	if b, err := serialize.DecodeAs[arrow.RecordBatch](c, empty); err != nil || b.NumRows() != 0 || b.NumCols() != 13 {
		t.Errorf("%v, %v", b, err)
	} else {
		b.Release()
	}
	if _, err := serialize.DecodeAs[map[string]any](c, one); !errors.Is(err, serialize.ErrType) {
		t.Errorf("a table as a map: %v", err)
	}
	if o, err := serialize.DecodeAs[*serialize.Opaque](c, one); err != nil || o.Class() != "polars.DataFrame" {
		t.Errorf("%v, %v", o, err)
	} else {
		o.Release()
	}
	one.Release()
	two.Release()
	empty.Release()
	noLeak(t)
}

// batch returns a record batch with n numbers.
func batch(n int) arrow.RecordBatch {
	schema := arrow.NewSchema([]arrow.Field{{Name: "x", Type: arrow.PrimitiveTypes.Float64}}, nil)
	b := array.NewRecordBuilder(memory.NewGoAllocator(), schema)
	defer b.Release()
	col := b.Field(0).(*array.Float64Builder)
	col.Reserve(n)
	for i := range n {
		col.UnsafeAppend(float64(i))
	}
	return b.NewRecordBatch()
}

func TestZeroCopy(t *testing.T) {
	c := codecs(t, arrowipc.Options{})
	b := batch(1 << 16)
	defer b.Release()
	parts, err := c.Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	col := b.Column(0).Data().Buffers()[1].Bytes()
	borrowed := slices.ContainsFunc(parts, func(p []byte) bool { return len(p) >= 1<<19 && &p[0] == &col[0] })
	if !borrowed {
		t.Error("encoding copies the column")
	}
	buf := pooled(parts.Join())
	got, err := serialize.DecodeAs[arrow.RecordBatch](c, buf)
	if err != nil {
		t.Fatal(err)
	}
	raw, mem := got.Column(0).Data().Buffers()[1].Bytes(), buf.Bytes()
	inside := false
	for i := range mem {
		inside = inside || &mem[i] == &raw[0]
	}
	if !inside {
		t.Error("decoding copies the column")
	}
	buf.Release()
	if n, _ := transport.Live(transport.Pooled); n != 1 {
		t.Errorf("the batch holds %d buffers", n)
	}
	kept := got.Column(0)
	kept.Retain()
	got.Release()
	if v := kept.(*array.Float64).Value(1 << 15); v != 1<<15 {
		t.Errorf("a column that outlives its batch reads %v", v)
	}
	kept.Release()
	noLeak(t)
}

func TestHostile(t *testing.T) {
	c := codecs(t, arrowipc.Options{MaxMemory: 1 << 20})
	for _, name := range []string{"proxystore", "lz4", "stream"} {
		obj := recorded(t, name)
		for n := 3; n < len(obj); n += 7 {
			if name == "lz4" {
				n += 100
			}
			buf := pooled(obj[:min(n, len(obj)-1)])
			if v, err := c.Decode(buf); err == nil && name != "stream" {
				t.Errorf("%s cut to %d bytes decodes", name, n)
			} else if err == nil {
				v.(arrow.Table).Release() // a stream without end mark is complete after any message
			} else if !errors.Is(err, serialize.ErrCorrupt) {
				t.Errorf("%s cut to %d bytes: %v", name, n, err)
			}
			buf.Release()
		}
	}
	small := codecs(t, arrowipc.Options{MaxMemory: 1000})
	buf := pooled(recorded(t, "zstd"))
	if _, err := small.Decode(buf); !errors.Is(err, serialize.ErrTooLarge) {
		t.Errorf("decompression beyond MaxMemory: %v", err)
	}
	buf.Release()
	noLeak(t)
}

func FuzzDecode(f *testing.F) {
	for _, name := range []string{"proxystore", "empty", "no-columns", "two-batches", "oldest", "stream", "zstd"} {
		f.Add(recorded(f, name)[3:])
	}
	c := serialize.NewCodecs()
	if err := c.Register(arrowipc.CodecWith(arrowipc.Options{MaxMemory: 16 << 20})); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		buf := pooled(append([]byte(serialize.TagPolars+"\n"), body...))
		v, err := c.Decode(buf)
		buf.Release()
		if err == nil {
			tab := v.(arrow.Table)
			if tab.NumRows() < 1<<16 {
				_ = text(tab) // every value of a decoded table can be read
			}
			tab.Release()
		}
		noLeak(t)
	})
}

func BenchmarkDecode(b *testing.B) {
	c := codecs(b, arrowipc.Options{})
	for _, rows := range []int{1 << 10, 1 << 20} {
		rec := batch(rows)
		parts, err := c.Encode(rec)
		if err != nil {
			b.Fatal(err)
		}
		buf := transport.FromBytes(parts.Join())
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			b.SetBytes(int64(buf.Len()))
			b.ReportAllocs()
			for b.Loop() {
				v, err := c.Decode(buf)
				if err != nil {
					b.Fatal(err)
				}
				v.(arrow.Table).Release()
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	c := codecs(b, arrowipc.Options{})
	rec := batch(1 << 20)
	b.SetBytes(8 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Encode(rec); err != nil {
			b.Fatal(err)
		}
	}
}
