package arrowipc

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// Compression is how column buffers are written.
type Compression int

// The compressions that polars knows.
const (
	Uncompressed Compression = iota
	LZ4
	Zstd
)

// Options changes what a codec does. The zero value is ready for use.
type Options struct {
	// MaxMemory bounds what decoding one object may allocate: decompressed columns, for the most part. Default 1 GiB, or 64 times the object
	// if that is more.
	MaxMemory int64
	// Compression of what is written. Default Uncompressed, as polars' write_ipc; compressed objects are read without a setting.
	Compression Compression
	// Unchecked leaves out the check of every offset and index. Reading the values of a hostile object may then panic.
	Unchecked bool
}

const (
	defaultMaxMemory = 1 << 30
	maxMemoryFactor  = 64
)

// Codec returns the codec with default options. It encodes arrow.Table, arrow.RecordBatch and non-empty []arrow.RecordBatch of one schema, and
// decodes to these: to an arrow.Table by default, to an arrow.RecordBatch only if the object has at most one. The caller owns what is decoded
// and must Release it (each batch of a slice).
func Codec() serialize.Codec { return CodecWith(Options{}) }

// CodecWith is Codec with options.
func CodecWith(o Options) serialize.Codec {
	return serialize.Codec{
		Tag:  serialize.TagPolars,
		Name: "arrow",
		Encodes: func(v any) bool {
			switch v := v.(type) {
			case arrow.Table, arrow.RecordBatch:
				return true
			case []arrow.RecordBatch:
				return len(v) > 0
			}
			return false
		},
		Encode: o.encode,
		Decode: o.decode,
	}
}

var (
	tableType   = reflect.TypeFor[arrow.Table]()
	batchType   = reflect.TypeFor[arrow.RecordBatch]()
	batchesType = reflect.TypeFor[[]arrow.RecordBatch]()
)

// decode reads a body. Whatever goes wrong inside, nothing of the object stays referenced.
func (o Options) decode(body *transport.Buffer, want reflect.Type) (v any, err error) {
	if want != nil && want != tableType && want != batchType && want != batchesType {
		return nil, fmt.Errorf("%w: an Arrow table is no Go %v, expected arrow.Table, arrow.RecordBatch or []arrow.RecordBatch",
			serialize.ErrType, want)
	}
	limit := o.MaxMemory
	if limit <= 0 {
		limit = max(defaultMaxMemory, maxMemoryFactor*int64(body.Len()))
	}
	d := &decoding{mem: &boundedAllocator{left: limit}}
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, fmt.Errorf("%w: reading Arrow IPC: %v", serialize.ErrCorrupt, p)
		}
		if err != nil {
			// Arrow drops references in deferred calls, but not all of them when it panics.
			d.abandon()
			if d.mem.exceeded {
				err = fmt.Errorf("%w: Arrow IPC object of %d bytes takes more than %d bytes of memory (Options.MaxMemory)",
					serialize.ErrTooLarge, body.Len(), limit)
			}
		}
	}()
	schema, batches, err := d.read(body, !o.Unchecked)
	if err != nil {
		return nil, err
	}
	switch want {
	case batchesType:
		return batches, nil
	case batchType:
		switch len(batches) {
		case 1:
			return batches[0], nil
		case 0:
			cols := make([]arrow.Array, schema.NumFields())
			for i, f := range schema.Fields() {
				cols[i] = array.MakeArrayOfNull(memory.NewGoAllocator(), f.Type, 0)
				defer cols[i].Release()
			}
			return array.NewRecordBatch(schema, cols, 0), nil
		}
		return nil, fmt.Errorf("%w: the object has %d record batches; decode it as arrow.Table or []arrow.RecordBatch", serialize.ErrType,
			len(batches))
	}
	t := array.NewTableFromRecords(schema, batches)
	for _, b := range batches {
		b.Release()
	}
	return t, nil
}

// decoding is the state of one decode.
type decoding struct {
	mem  *boundedAllocator
	refs []*bodyRef
}

// abandon drops the references that messages still hold on the object.
func (d *decoding) abandon() {
	for _, r := range d.refs {
		r.Free(nil)
	}
}

// bodyRef is the allocator of a buffer over a message's body; Arrow calls Free when nothing uses the body any more.
type bodyRef struct {
	once sync.Once
	view *transport.Buffer
}

func (r *bodyRef) Free([]byte)                   { r.once.Do(r.view.Release) }
func (r *bodyRef) Allocate(int) []byte           { panic("arrowipc: a received buffer cannot grow") }
func (r *bodyRef) Reallocate(int, []byte) []byte { panic("arrowipc: a received buffer cannot grow") }
func (d *decoding) ref(v *transport.Buffer) *bodyRef {
	r := &bodyRef{view: v}
	d.refs = append(d.refs, r)
	return r
}

// boundedAllocator is Go memory up to a limit. What is freed does not count again: the garbage collector may not have it yet.
type boundedAllocator struct {
	memory.GoAllocator
	mu       sync.Mutex
	left     int64
	exceeded bool
}

var errMemory = errors.New("memory limit reached")

func (a *boundedAllocator) take(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n < 0 || int64(n) > a.left {
		a.exceeded = true
		panic(errMemory)
	}
	a.left -= int64(n)
}

func (a *boundedAllocator) Allocate(n int) []byte {
	a.take(n)
	return a.GoAllocator.Allocate(n)
}

func (a *boundedAllocator) Reallocate(n int, b []byte) []byte {
	a.take(max(n-len(b), 0))
	return a.GoAllocator.Reallocate(n, b)
}

// read returns the batches of a file or stream, which the caller owns.
func (d *decoding) read(body *transport.Buffer, check bool) (*arrow.Schema, []arrow.RecordBatch, error) {
	if p := uintptr(unsafe.Pointer(unsafe.SliceData(body.Bytes()))); !unaligned && p%8 != 0 {
		// The tag leaves a mapped object's columns unaligned, which this machine cannot load.
		body = transport.FromBytes(append(make([]byte, 0, body.Len()), body.Bytes()...))
		defer body.Release()
	}
	parts, err := split(body.Bytes())
	if err != nil {
		return nil, nil, err
	}
	m := &messages{d: d, body: body, parts: parts}
	r, err := ipc.NewReaderFromMessageReader(m, ipc.WithAllocator(d.mem))
	if err != nil {
		return nil, nil, corrupt(err)
	}
	defer r.Release()
	var batches []arrow.RecordBatch
	for r.Next() {
		b := r.RecordBatch()
		if check {
			if err := array.ValidateRecordFull(b); err != nil {
				return nil, nil, corrupt(err)
			}
		}
		b.Retain()
		batches = append(batches, b)
	}
	if err := r.Err(); err != nil {
		return nil, nil, corrupt(err)
	}
	return r.Schema(), batches, nil
}

func corrupt(err error) error { return fmt.Errorf("%w: Arrow IPC: %w", serialize.ErrCorrupt, err) }

// encode returns the IPC file of a value in parts; columns are borrowed.
func (o Options) encode(v any) (_ transport.Slices, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: writing Arrow IPC: %v", serialize.ErrType, p)
		}
	}()
	var batches []arrow.RecordBatch
	var schema *arrow.Schema
	switch v := v.(type) {
	case arrow.RecordBatch:
		batches, schema = []arrow.RecordBatch{v}, v.Schema()
	case []arrow.RecordBatch:
		batches, schema = v, v[0].Schema()
	case arrow.Table:
		schema = v.Schema()
		r := array.NewTableReader(v, 0)
		defer r.Release()
		for r.Next() {
			b := r.RecordBatch()
			b.Retain()
			defer b.Release()
			batches = append(batches, b)
		}
	default:
		return nil, fmt.Errorf("%w: %T is no Arrow table", serialize.ErrType, v)
	}
	w := &collector{}
	if o.Compression == Uncompressed {
		for _, b := range batches {
			for _, col := range b.Columns() {
				w.borrow(col.Data())
			}
		}
		slices.SortFunc(w.own, func(a, b []byte) int {
			switch pa, pb := addr(a), addr(b); {
			case pa < pb:
				return -1
			case pa > pb:
				return 1
			}
			return len(a) - len(b)
		})
	}
	opts := []ipc.Option{ipc.WithSchema(schema), ipc.WithAllocator(memory.NewGoAllocator())}
	switch o.Compression {
	case Uncompressed:
	case LZ4:
		opts = append(opts, ipc.WithLZ4())
	case Zstd:
		opts = append(opts, ipc.WithZstd())
	default:
		return nil, fmt.Errorf("arrowipc: compression %d is unknown", o.Compression)
	}
	f, err := ipc.NewFileWriter(w, opts...)
	if err != nil {
		return nil, fmt.Errorf("arrowipc: %w", err)
	}
	for i, b := range batches {
		if err := f.Write(b); err != nil {
			return nil, fmt.Errorf("arrowipc: record batch %d: %w", i, err)
		}
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("arrowipc: %w", err)
	}
	return w.parts, nil
}

// borrowMin is the size from which a column's bytes become a part of their own instead of being copied.
const borrowMin = 4 << 10

// collector keeps what the Arrow library writes. Bytes of the value's own columns are kept as they are; everything else is copied, since the
// library may use its memory again.
type collector struct {
	parts transport.Slices
	own   [][]byte // the columns' buffers, by address
	open  bool     // the last part is a copy that may grow
}

func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// borrow notes the buffers of a column.
func (w *collector) borrow(data arrow.ArrayData) {
	for _, b := range data.Buffers() {
		if b != nil && b.Len() >= borrowMin {
			w.own = append(w.own, b.Bytes())
		}
	}
	for _, c := range data.Children() {
		w.borrow(c)
	}
	if dict := data.Dictionary(); dict != nil && !isNil(dict) {
		w.borrow(dict)
	}
}

// isNil reports a nil *array.Data in the interface, which columns without a dictionary have.
func isNil(d arrow.ArrayData) bool { a, ok := d.(*array.Data); return ok && a == nil }

// owned reports whether p lies in one of the columns' buffers.
func (w *collector) owned(p []byte) bool {
	i, _ := slices.BinarySearchFunc(w.own, addr(p), func(b []byte, at uintptr) int {
		if addr(b) > at {
			return 1
		}
		return -1
	})
	// Slices of one buffer may start at one address or overlap; the last few that start before p are enough to look at.
	for k := i - 1; k >= 0 && k >= i-8; k-- {
		if b := w.own[k]; addr(p)-addr(b)+uintptr(len(p)) <= uintptr(len(b)) {
			return true
		}
	}
	return false
}

func (w *collector) Write(p []byte) (int, error) {
	switch {
	case len(p) == 0:
	case len(p) >= borrowMin && w.owned(p):
		w.parts, w.open = append(w.parts, p[:len(p):len(p)]), false
	case w.open:
		last := len(w.parts) - 1
		w.parts[last] = append(w.parts[last], p...)
	default:
		w.parts, w.open = append(w.parts, append(make([]byte, 0, max(len(p), 512)), p...)), true
	}
	return len(p), nil
}
