package interop

import (
	"fmt"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	arrays "github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/arrowipc"
)

// TestDataFrames: polars frames are Arrow tables here, both ways; pandas frames pass through unopened.
func TestDataFrames(t *testing.T) {
	w := sharedWorker(t, testenv.ProxyStore11)
	ctx := t.Context()
	for _, s := range sides(t)[:1] { // it is the codec that is tested, not the connector
		codecs := serialize.NewCodecs()
		if err := codecs.Register(arrowipc.Codec()); err != nil {
			t.Fatal(err)
		}
		st, err := proxyplane.Open(ctx, proxyplane.NewConfig("frames", s.cfg), proxyplane.WithStores(stores(t)), proxyplane.WithCodecs(codecs))
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close(ctx)

		key := goKey(t, s, 0, w.do(t, m{"op": "put", "store": s.store, "spec": s.spec, "value": "polars"}))
		table, err := proxyplane.Get[arrow.Table](ctx, st, key)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(table.Column(0).Data().Chunk(0), table.Column(1).Data().Chunk(0)); got != "[1 2 3] [0.5 (null) 2.5]" || table.NumRows() != 3 {
			t.Errorf("got %s", got)
		}

		b := arrays.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{
			{Name: "n", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, {Name: "x", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
			{Name: "s", Type: arrow.BinaryTypes.LargeString, Nullable: true}}, nil))
		defer b.Release()
		b.Field(0).(*arrays.Int64Builder).AppendValues([]int64{1, 2, 3}, nil)
		b.Field(1).(*arrays.Float64Builder).AppendValues([]float64{0.5, 0, 2.5}, []bool{true, false, true})
		b.Field(2).(*arrays.LargeStringBuilder).AppendValues([]string{"a", "βγ", ""}, []bool{true, true, false})
		record := b.NewRecordBatch()
		defer record.Release()
		key, err = st.Put(ctx, record)
		if err != nil {
			t.Fatal(err)
		}
		w.do(t, m{"op": "get", "store": s.store, "spec": s.spec, "value": "polars", "key": pyKey(key)})

		key = goKey(t, s, 0, w.do(t, m{"op": "put", "store": s.store, "spec": s.spec, "value": "pandas"}))
		frame, err := proxyplane.Get[*serialize.Opaque](ctx, st, key)
		if err != nil {
			t.Fatal(err)
		}
		defer frame.Release()
		if frame.Class() != "pandas.DataFrame" {
			t.Errorf("class %q", frame.Class())
		}
		key, err = st.Put(ctx, frame)
		if err != nil {
			t.Fatal(err)
		}
		w.do(t, m{"op": "get", "store": s.store, "spec": s.spec, "value": "pandas", "key": pyKey(key)})
	}
}
