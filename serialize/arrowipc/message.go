package arrowipc

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"

	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// unaligned says that this machine loads numbers from any address.
const unaligned = runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64" || runtime.GOARCH == "386" || runtime.GOARCH == "ppc64" ||
	runtime.GOARCH == "ppc64le" || runtime.GOARCH == "s390x" || runtime.GOARCH == "wasm"

const (
	magic        = "ARROW1"
	continuation = 0xFFFFFFFF

	// What schemas may have. Arrow reads them recursively and copies their texts, so both are bounded before it sees them.
	maxFieldDepth = 64
	maxFields     = 1 << 16
	maxSchemaText = 16 << 20
)

// part is one message: its flatbuffer, and where its body lies.
type part struct {
	meta      []byte
	off, size int
}

// messages gives an ipc.Reader the messages of a body. Each message's body holds a reference.
type messages struct {
	d     *decoding
	body  *transport.Buffer // borrowed
	parts []part
	last  *ipc.Message
}

// Message returns the next message, which is valid until the call after.
func (m *messages) Message() (*ipc.Message, error) {
	m.Release()
	if len(m.parts) == 0 {
		return nil, io.EOF
	}
	p := m.parts[0]
	m.parts = m.parts[1:]
	// A copy of the metadata: schemas and custom metadata may be looked at later than the body.
	meta := memory.NewBufferBytes(slices.Clone(p.meta))
	body := memory.NewBufferBytes(nil)
	if p.size > 0 {
		view := m.body.Slice(p.off, p.size)
		body = memory.NewBufferWithAllocator(view.Bytes(), m.d.ref(view))
	}
	m.last = ipc.NewMessage(meta, body)
	body.Release() // the message holds its own
	return m.last, nil
}

// Retain does nothing: one reader uses m.
func (m *messages) Retain() {}

// Release drops the last message.
func (m *messages) Release() {
	if m.last != nil {
		m.last.Release()
		m.last = nil
	}
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: Arrow IPC: %s", serialize.ErrCorrupt, fmt.Sprintf(format, args...))
}

// split finds the messages of a file or a stream: the schema first, then dictionaries and batches. It may panic on a hostile flatbuffer, which
// decode recovers.
func split(b []byte) ([]part, error) {
	var parts []part
	var err error
	if len(b) >= len(magic) && string(b[:len(magic)]) == magic {
		parts, err = splitFile(b)
	} else {
		parts, err = splitStream(b)
	}
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		return nil, bad("there is no schema")
	}
	schema, ok := root(parts[0].meta).table(2)
	if kind := root(parts[0].meta).uint8(1); !ok || kind != 1 {
		return nil, bad("the first message is of type %d, expected a schema", kind)
	}
	check, err := checkSchema(schema)
	if err != nil {
		return nil, err
	}
	for _, p := range parts[1:] {
		batch, ok := root(p.meta).table(2)
		views := check.views
		if ok && root(p.meta).uint8(1) == 2 {
			views = check.dicts[batch.int64(0)]
			batch, ok = batch.table(1)
		}
		if !ok {
			return nil, bad("a message has no record batch")
		}
		if err := checkBatch(batch, b[p.off:p.off+p.size], views); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// maxWindow bounds the history that a zstd frame may ask its decoder to allocate. What polars and Arrow write asks for 8 MiB at most.
const maxWindow = 128 << 20

// checkBatch checks what Arrow takes from a RecordBatch without looking: it allocates as many buffers as variadicBufferCounts says, even past
// that vector's end if there are more columns of views, and as large a window as a zstd frame says.
func checkBatch(batch fbTable, body []byte, views int) error {
	nodesAt, nodes := batch.vector(1, 16)
	for i := range nodes {
		if int64(binary.LittleEndian.Uint64(batch.b[nodesAt+16*i:])) < 0 {
			return bad("a column has a negative length")
		}
	}
	compression, compressed := batch.table(3)
	zstd := compressed && compression.uint8(0) == 1
	at, buffers := batch.vector(2, 16)
	for i := range buffers {
		off, n := binary.LittleEndian.Uint64(batch.b[at+16*i:]), binary.LittleEndian.Uint64(batch.b[at+16*i+8:])
		if off > uint64(len(body)) || n > uint64(len(body))-off {
			return bad("a buffer lies outside its body")
		}
		// A compressed buffer starts with its length, -1 if it is not compressed after all.
		if raw := body[off : off+n]; zstd && n > 8 && binary.LittleEndian.Uint64(raw) != math.MaxUint64 {
			if err := checkZstd(raw[8:]); err != nil {
				return err
			}
		}
	}
	at, n := batch.vector(4, 8)
	if n < views {
		return bad("a batch has %d columns of views and counts for %d", views, n)
	}
	for i, left := 0, uint64(buffers); i < n; i++ {
		count := binary.LittleEndian.Uint64(batch.b[at+8*i:])
		if count > left {
			return bad("a column of views claims %d buffers of %d", count, buffers)
		}
		left -= count
	}
	return nil
}

// checkZstd walks over the frames of a buffer (RFC 8878, section 3.1) and bounds their windows.
func checkZstd(b []byte) error {
	short := bad("a zstd frame is truncated")
	for len(b) > 0 {
		if len(b) < 8 {
			return short
		}
		id := binary.LittleEndian.Uint32(b)
		if id&^0xf == 0x184D2A50 { // a skippable frame
			n := binary.LittleEndian.Uint32(b[4:])
			if uint64(n) > uint64(len(b)-8) {
				return short
			}
			b = b[8+int(n):]
			continue
		}
		if id != 0xFD2FB528 {
			return bad("a buffer is not zstd")
		}
		desc := b[4]
		b = b[5:]
		window, single := uint64(0), desc&(1<<5) != 0
		if !single {
			log, mantissa := 10+uint(b[0]>>3), uint64(b[0]&7)
			window = 1<<log + (1<<log)/8*mantissa
			b = b[1:]
		}
		skip := []int{0, 1, 2, 4}[desc&3] // dictionary id
		size := []int{0, 2, 4, 8}[desc>>6]
		if single && size == 0 {
			size = 1
		}
		if len(b) < skip+size {
			return short
		}
		if single {
			var content [8]byte
			copy(content[:], b[skip:skip+size])
			window = binary.LittleEndian.Uint64(content[:])
			if size == 2 {
				window += 256
			}
		}
		if window > maxWindow {
			return fmt.Errorf("%w: Arrow IPC: a zstd frame asks for a window of %d bytes, the limit is %d", serialize.ErrTooLarge, window, maxWindow)
		}
		b = b[skip+size:]
		for last := false; !last; {
			if len(b) < 3 {
				return short
			}
			head := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
			n := int(head >> 3)
			if head>>1&3 == 1 { // one byte, repeated
				n = 1
			}
			if last = head&1 != 0; len(b)-3 < n {
				return short
			}
			b = b[3+n:]
		}
		if desc&(1<<2) != 0 { // checksum
			if len(b) < 4 {
				return short
			}
			b = b[4:]
		}
	}
	return nil
}

// splitFile reads the footer: flatbuffer, its length, magic.
func splitFile(b []byte) ([]part, error) {
	tail := len(b) - len(magic) - 4
	if tail < 8 || string(b[tail+4:]) != magic {
		return nil, bad("file of %d bytes does not end with %q: is it truncated?", len(b), magic)
	}
	size := binary.LittleEndian.Uint32(b[tail:])
	if size < 8 || int64(size) > int64(tail-8) {
		return nil, bad("the footer claims %d bytes of %d", size, tail)
	}
	raw := b[tail-int(size) : tail]
	footer := root(raw)
	schema, ok := footer.table(1)
	if !ok {
		return nil, bad("the footer has no schema")
	}
	parts := []part{{meta: schemaMessage(raw, schema.pos)}}
	room := int64(len(b)) // blocks lie side by side: many that are one would multiply the work
	for _, slot := range []int{2, 3} {
		at, n := footer.vector(slot, 24)
		for i := range n {
			block := raw[at+24*i : at+24*i+24]
			off := binary.LittleEndian.Uint64(block)
			metaLen := binary.LittleEndian.Uint32(block[8:])
			bodyLen := binary.LittleEndian.Uint64(block[16:])
			if off > uint64(len(b)) || metaLen > math.MaxInt32 || bodyLen > uint64(len(b)) ||
				uint64(metaLen)+bodyLen > uint64(len(b))-off {
				return nil, bad("block %d lies outside the file", i)
			}
			if room -= int64(metaLen) + int64(bodyLen); room < 0 {
				return nil, bad("blocks overlap")
			}
			meta, err := unframe(b[off : off+uint64(metaLen)])
			if err != nil {
				return nil, err
			}
			want := uint8(2) // a dictionary batch
			if slot == 3 {
				want = 3 // a record batch
			}
			if kind := root(meta).uint8(1); kind != want {
				return nil, bad("block %d is a message of type %d, expected %d", i, kind, want)
			}
			parts = append(parts, part{meta, int(off) + int(metaLen), int(bodyLen)})
		}
	}
	return parts, nil
}

// unframe removes the length, and the continuation mark that formats since 0.15 have before it.
func unframe(b []byte) ([]byte, error) {
	lead := 4
	if len(b) >= 8 && binary.LittleEndian.Uint32(b) == continuation {
		lead = 8
	}
	if len(b) < lead {
		return nil, bad("a message is too short")
	}
	n := binary.LittleEndian.Uint32(b[lead-4:])
	if int64(n) > int64(len(b)-lead) || n < 8 {
		return nil, bad("metadata of a message claims %d bytes of %d", n, len(b)-lead)
	}
	return b[lead : lead+int(n)], nil
}

// splitStream reads one message after the other, up to the end mark or the end.
func splitStream(b []byte) ([]part, error) {
	var parts []part
	for at := 0; at < len(b); {
		if len(b)-at < 4 {
			return nil, bad("the stream is truncated after %d bytes", at)
		}
		lead := 4
		if binary.LittleEndian.Uint32(b[at:]) == continuation {
			lead = 8
		}
		if len(b)-at < lead {
			return nil, bad("the stream is truncated after %d bytes", at)
		}
		n := binary.LittleEndian.Uint32(b[at+lead-4:])
		if n == 0 {
			break
		}
		if int64(n) > int64(len(b)-at-lead) || n < 8 {
			return nil, bad("metadata at %d claims %d bytes, %d are there (is it Arrow IPC?)", at, n, len(b)-at-lead)
		}
		meta := b[at+lead : at+lead+int(n)]
		at += lead + int(n)
		size := root(meta).int64(3)
		if size < 0 || size > int64(len(b)-at) {
			return nil, bad("the body at %d claims %d bytes, %d are there", at, size, len(b)-at)
		}
		parts = append(parts, part{meta, at, int(size)})
		at += int(size)
	}
	return parts, nil
}

// schemaMessage returns a Message flatbuffer around the Schema table at pos of a footer. Offsets in flatbuffers are relative and tables point
// forward, so a small table in front of the footer's bytes will do.
func schemaMessage(footer []byte, pos int) []byte {
	const head = 32
	b := make([]byte, head, head+len(footer))
	le := binary.LittleEndian
	le.PutUint32(b[0:], 16) // root: the table at 16
	// The vtable at 4: its size, the table's size, then the places of version, header_type and header in the table.
	for i, v := range []uint16{10, 12, 8, 10, 4} {
		le.PutUint16(b[4+2*i:], v)
	}
	le.PutUint32(b[16:], 16-4)                // the table: back to its vtable
	le.PutUint32(b[20:], uint32(head+pos-20)) // header
	le.PutUint16(b[24:], 4)                   // version: V5
	b[26] = 1                                 // header_type: Schema
	return append(b, footer...)
}

// checkSchema bounds what Arrow will read recursively.
func checkSchema(schema fbTable) (*schemaCheck, error) {
	if schema.int16(0) != 0 {
		return nil, fmt.Errorf("%w: Arrow IPC: big-endian data is not supported", serialize.ErrType)
	}
	c := &schemaCheck{dicts: make(map[int64]int)}
	err := c.metadata(schema, 2)
	if err == nil {
		c.views, err = c.fields(schema, 1, 0)
	}
	return c, err
}

type schemaCheck struct {
	fieldCount int
	text       int
	views      int           // columns of views in a record batch, nested ones too
	dicts      map[int64]int // and in the batch of a dictionary
}

func (c *schemaCheck) spend(n int) error {
	if c.text += n; c.text > maxSchemaText || n < 0 {
		return fmt.Errorf("%w: Arrow IPC: names and metadata of the schema exceed %d bytes", serialize.ErrTooLarge, maxSchemaText)
	}
	return nil
}

// fields checks a vector of Field tables and returns how many are views.
func (c *schemaCheck) fields(t fbTable, slot, depth int) (views int, err error) {
	at, n := t.vector(slot, 4)
	if depth > maxFieldDepth {
		return 0, fmt.Errorf("%w: Arrow IPC: types nest deeper than %d", serialize.ErrTooLarge, maxFieldDepth)
	}
	for i := range n {
		if c.fieldCount++; c.fieldCount > maxFields {
			return 0, fmt.Errorf("%w: Arrow IPC: more than %d fields", serialize.ErrTooLarge, maxFields)
		}
		f := t.at(at + 4*i)
		_, name := f.vector(0, 1)
		if err := c.spend(name); err != nil {
			return 0, err
		}
		// Types whose table has a text or a vector have it in slot 1 (Timestamp's zone, Union's ids).
		if typ, ok := f.table(3); ok && (f.uint8(2) == 10 || f.uint8(2) == 14) {
			_, text := typ.vector(1, 1)
			if err := c.spend(4 * text); err != nil {
				return 0, err
			}
		}
		if err := c.metadata(f, 6); err != nil {
			return 0, err
		}
		inside, err := c.fields(f, 5, depth+1)
		if err != nil {
			return 0, err
		}
		if kind := f.uint8(2); kind == 23 || kind == 24 { // BinaryView, Utf8View
			inside++
		}
		if dict, ok := f.table(4); ok { // the column has indexes; its type is in the dictionary's batch
			id := dict.int64(0)
			c.dicts[id] = max(c.dicts[id], inside)
			continue
		}
		views += inside
	}
	return views, nil
}

// metadata checks a vector of KeyValue tables.
func (c *schemaCheck) metadata(t fbTable, slot int) error {
	at, n := t.vector(slot, 4)
	for i := range n {
		kv := t.at(at + 4*i)
		_, k := kv.vector(0, 1)
		_, v := kv.vector(1, 1)
		if err := c.spend(64 + k + v); err != nil {
			return err
		}
	}
	return nil
}

// fbTable is a flatbuffer table. Reading outside the buffer panics, as it does in the Arrow library.
type fbTable struct {
	b   []byte
	pos int
}

func root(b []byte) fbTable { return fbTable{b, int(binary.LittleEndian.Uint32(b))} }

// field returns where a field is, 0 if it is absent.
func (t fbTable) field(slot int) int {
	vt := t.pos - int(int32(binary.LittleEndian.Uint32(t.b[t.pos:])))
	if at := 4 + 2*slot; at+2 <= int(binary.LittleEndian.Uint16(t.b[vt:])) {
		if off := int(binary.LittleEndian.Uint16(t.b[vt+at:])); off != 0 {
			return t.pos + off
		}
	}
	return 0
}

// at returns the table that the offset at p points to.
func (t fbTable) at(p int) fbTable { return fbTable{t.b, p + int(binary.LittleEndian.Uint32(t.b[p:]))} }

func (t fbTable) table(slot int) (fbTable, bool) {
	p := t.field(slot)
	if p == 0 {
		return fbTable{}, false
	}
	return t.at(p), true
}

// vector returns where a vector (or a string, of elements of 1 byte) starts and its length, which is known to lie inside the buffer.
func (t fbTable) vector(slot, elem int) (at, n int) {
	p := t.field(slot)
	if p == 0 {
		return 0, 0
	}
	p += int(binary.LittleEndian.Uint32(t.b[p:]))
	u := binary.LittleEndian.Uint32(t.b[p:])
	if int64(u)*int64(elem) > int64(len(t.b)-p-4) {
		panic("a vector reaches past the end")
	}
	return p + 4, int(u)
}

func (t fbTable) uint8(slot int) uint8 {
	if p := t.field(slot); p != 0 {
		return t.b[p]
	}
	return 0
}

func (t fbTable) int16(slot int) int16 {
	if p := t.field(slot); p != 0 {
		return int16(binary.LittleEndian.Uint16(t.b[p:]))
	}
	return 0
}

func (t fbTable) int64(slot int) int64 {
	if p := t.field(slot); p != 0 {
		return int64(binary.LittleEndian.Uint64(t.b[p:]))
	}
	return 0
}
