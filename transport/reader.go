package transport

import (
	"bytes"
	"io"
	"sync/atomic"
)

// BufferReader reads a Buffer. It has Read, ReadAt, Seek, WriteTo (one write, no copy) and Size from bytes.Reader, and Close.
type BufferReader struct {
	bytes.Reader
	buf atomic.Pointer[Buffer]
}

// NewReader returns a reader over b. It takes b and releases it at Close.
func NewReader(b *Buffer) *BufferReader {
	r := &BufferReader{}
	r.Reset(b.Bytes())
	r.buf.Store(b)
	return r
}

// Close releases the Buffer. A second Close does nothing. Reading afterwards gives io.EOF, never freed memory; Close must not run at the same
// time as a read.
func (r *BufferReader) Close() error {
	if b := r.buf.Swap(nil); b != nil {
		r.Reset(nil)
		b.Release()
	}
	return nil
}

var (
	_ io.ReadSeekCloser = (*BufferReader)(nil)
	_ io.WriterTo       = (*BufferReader)(nil)
	_ io.ReaderAt       = (*BufferReader)(nil)
)
