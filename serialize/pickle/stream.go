package pickle

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	firstWindow   = 4 << 10  // first size of the read buffer
	streamWindow  = 64 << 10 // its size once reads fill it, and the first size of a buffer for a value of unproved length
	keepWindow    = 1 << 20  // a larger read buffer is not kept between pickles
	maxEmptyReads = 100
)

// Decoder reads pickles from a stream, one after the other. It reads ahead: Buffered returns what it has read too much.
// Buffers grow as data arrives and never by what a length field claims. A Decoder is for one goroutine.
type Decoder struct {
	m   machine
	lim Limits
	err error
}

// NewDecoder returns a Decoder of r. The limits hold for each pickle.
func NewDecoder(r io.Reader, lim Limits) *Decoder {
	return &Decoder{m: machine{r: r}, lim: lim.withDefaults(streamMaxBytes)}
}

// OnLargeBytes hands bytes, bytearray and str values of at least min bytes to fn instead of buffering them, and uses what
// fn returns as the value. The reader gives exactly size bytes (UTF-8 for a str), is valid during the call only, and may be
// left partly read. An error of fn ends decoding and is returned wrapped. A nil fn turns this off. Protocol 0 has no
// lengths, so its values are never handed out.
func (d *Decoder) OnLargeBytes(min int64, fn func(size int64, r io.Reader) (any, error)) {
	d.m.largeMin, d.m.large = min, fn
}

// Decode reads the next pickle. It returns io.EOF when the stream ends before it. Any error is final: where the next pickle
// would start is unknown. Errors of the reader are returned wrapped, syntax errors are *SyntaxError.
func (d *Decoder) Decode() (any, error) {
	if d.err != nil {
		return nil, d.err
	}
	old := &d.m
	m := machine{buf: old.buf, pos: old.pos, base: old.base, r: old.r, rerr: old.rerr, largeMin: old.largeMin, large: old.large, lim: d.lim}
	if m.pos == len(m.buf) {
		if m.rerr == nil {
			m.read()
		}
		if m.pos == len(m.buf) && m.rerr == io.EOF {
			d.err = io.EOF
			return nil, d.err
		}
	}
	v, err := m.run()
	if err != nil {
		d.err = err
		return nil, err
	}
	rest := m.buf
	if cap(m.buf) > keepWindow && len(m.buf)-m.pos < streamWindow {
		rest = slices.Clone(m.buf[m.pos:])
		m.base += int64(m.pos)
		m.pos = 0
	}
	d.m = machine{buf: rest, pos: m.pos, base: m.base, r: m.r, rerr: m.rerr, largeMin: m.largeMin, large: m.large}
	return v, nil
}

// Buffered returns what was read beyond the last pickle. It is valid until the next Decode.
func (d *Decoder) Buffered() io.Reader {
	return &bufferedReader{d.m.buf[d.m.pos:]}
}

type bufferedReader struct{ b []byte }

func (r *bufferedReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

// more reads more input behind buf[pos:], or fails. It may move buf.
func (m *machine) more() error {
	if m.r == nil {
		return m.truncated()
	}
	if m.rerr != nil {
		return m.readError()
	}
	if m.pos > 0 {
		n := copy(m.buf, m.buf[m.pos:])
		m.base += int64(m.pos)
		m.buf, m.pos = m.buf[:n], 0
	}
	m.read()
	return nil
}

// read appends one read to buf, growing it when it is full, and keeps the reader's error.
func (m *machine) read() {
	switch {
	case m.buf == nil:
		m.buf = make([]byte, 0, firstWindow)
	case len(m.buf) == cap(m.buf) || m.filled && cap(m.buf) < streamWindow:
		m.buf = slices.Grow(m.buf, max(streamWindow, len(m.buf)))
	}
	n, err := readSome(m.r, m.buf[len(m.buf):cap(m.buf)])
	m.buf = m.buf[:len(m.buf)+n]
	m.filled = len(m.buf) == cap(m.buf)
	m.rerr = err
}

// readSome reads at least one byte or returns an error.
func readSome(r io.Reader, p []byte) (int, error) {
	for range maxEmptyReads {
		n, err := r.Read(p)
		if n < 0 || n > len(p) {
			return 0, fmt.Errorf("reader returned %d bytes for a buffer of %d", n, len(p))
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// readError returns what the end of the input means in the middle of a pickle.
func (m *machine) readError() error {
	if errors.Is(m.rerr, io.EOF) {
		return m.truncated()
	}
	return fmt.Errorf("pickle: reading at offset %d: %w", m.base+int64(len(m.buf)), m.rerr)
}

// streamRead reads up to len(p) bytes of payload: first what is in buf, then straight from the reader.
func (m *machine) streamRead(p []byte) (int, error) {
	if m.pos < len(m.buf) {
		n := copy(p, m.buf[m.pos:])
		m.pos += n
		return n, nil
	}
	if m.r == nil {
		return 0, m.truncated()
	}
	if m.rerr != nil {
		return 0, m.readError()
	}
	n, err := readSome(m.r, p)
	m.base += int64(n) // buf is used up, so that the window moves past what was read
	m.rerr = err
	return n, nil
}

// streamPayload returns a copy of the next n bytes, whose memory is taken as they arrive.
func (m *machine) streamPayload(n int64) ([]byte, error) {
	have := int64(len(m.buf) - m.pos)
	out := make([]byte, 0, min(n, max(have, streamWindow)))
	for int64(len(out)) < n {
		if len(out) == cap(out) {
			grown := make([]byte, len(out), min(n, 2*int64(cap(out))))
			copy(grown, out)
			out = grown
		}
		k, err := m.streamRead(out[len(out):cap(out)])
		if err != nil {
			return nil, err
		}
		out = out[:len(out)+k]
	}
	return out, nil
}

// largeReader reads one value for OnLargeBytes.
type largeReader struct {
	m    *machine
	left int64
	err  error
}

func (r *largeReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.m.streamRead(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	r.err = err
	return n, err
}

// handOut gives a value of n bytes to the OnLargeBytes function.
func (m *machine) handOut(n int64) (any, error) {
	r := &largeReader{m: m, left: n}
	v, err := m.large(n, r)
	if r.err != nil {
		return nil, r.err // whatever fn made of it, the value is incomplete
	}
	if err != nil {
		return nil, fmt.Errorf("pickle: large value of %d bytes at offset %d: %w", n, m.opAt, err)
	}
	for r.left > 0 {
		if m.pos == len(m.buf) {
			if err := m.more(); err != nil {
				return nil, err
			}
		}
		k := int(min(r.left, int64(len(m.buf)-m.pos)))
		m.pos += k
		r.left -= int64(k)
	}
	r.err = errors.New("pickle: read after OnLargeBytes returned")
	if isContainer(v) {
		// A structure made elsewhere: have its depth checked with the rest.
		m.shared = true
		m.containers = max(m.containers, m.lim.MaxDepth+1)
	}
	return v, nil
}
