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
	return parts, checkSchema(schema)
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
func checkSchema(schema fbTable) error {
	if schema.int16(0) != 0 {
		return fmt.Errorf("%w: Arrow IPC: big-endian data is not supported", serialize.ErrType)
	}
	c := &schemaCheck{}
	if err := c.metadata(schema, 2); err != nil {
		return err
	}
	return c.fields(schema, 1, 0)
}

type schemaCheck struct {
	fieldCount int
	text       int
}

func (c *schemaCheck) spend(n int) error {
	if c.text += n; c.text > maxSchemaText || n < 0 {
		return fmt.Errorf("%w: Arrow IPC: names and metadata of the schema exceed %d bytes", serialize.ErrTooLarge, maxSchemaText)
	}
	return nil
}

// fields checks a vector of Field tables.
func (c *schemaCheck) fields(t fbTable, slot, depth int) error {
	at, n := t.vector(slot, 4)
	if depth > maxFieldDepth {
		return fmt.Errorf("%w: Arrow IPC: types nest deeper than %d", serialize.ErrTooLarge, maxFieldDepth)
	}
	for i := range n {
		if c.fieldCount++; c.fieldCount > maxFields {
			return fmt.Errorf("%w: Arrow IPC: more than %d fields", serialize.ErrTooLarge, maxFields)
		}
		f := t.at(at + 4*i)
		_, name := f.vector(0, 1)
		if err := c.spend(name); err != nil {
			return err
		}
		// Types whose table has a text or a vector have it in slot 1 (Timestamp's zone, Union's ids).
		if typ, ok := f.table(3); ok && (f.uint8(2) == 10 || f.uint8(2) == 14) {
			_, text := typ.vector(1, 1)
			if err := c.spend(4 * text); err != nil {
				return err
			}
		}
		if err := c.metadata(f, 6); err != nil {
			return err
		}
		if err := c.fields(f, 5, depth+1); err != nil {
			return err
		}
	}
	return nil
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
