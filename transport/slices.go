package transport

import (
	"io"
	"net"
	"os"

	"github.com/proxyplane/proxyplane/internal/rawmem"
)

// Slices is one object in several parts, in order: a codec's header and the caller's own body leave together without being glued. Parts may
// be empty. Who passes Slices lends them until the callee returns.
type Slices [][]byte

// Len returns the number of bytes in all parts.
func (s Slices) Len() int64 {
	var n int64
	for _, p := range s {
		n += int64(len(p))
	}
	return n
}

// WriteTo writes all parts to w, by one vectored write where the operating system has one for w (network connections, unix sockets, files).
// It neither keeps nor changes s.
func (s Slices) WriteTo(w io.Writer) (int64, error) {
	if f, ok := w.(*os.File); ok && len(s) > 1 {
		return s.writeFile(f)
	}
	if len(s) == 1 {
		n, err := w.Write(s[0])
		return int64(n), err
	}
	nb := append(make(net.Buffers, 0, len(s)), s...) // net.Buffers.WriteTo eats its receiver
	return nb.WriteTo(w)
}

// Join returns the object as one run of bytes: the part itself if there is only one (then it lends what s lends), else a copy.
func (s Slices) Join() []byte {
	if len(s) == 1 {
		return s[0]
	}
	return s.AppendTo(rawmem.Make(int(s.Len()))[:0])
}

// AppendTo appends a copy of all parts to dst and returns it.
func (s Slices) AppendTo(dst []byte) []byte {
	for _, p := range s {
		dst = append(dst, p...)
	}
	return dst
}

// Reader returns a reader over the parts. It neither keeps s past the last read nor changes it.
func (s Slices) Reader() io.Reader { return &slicesReader{rest: s} }

type slicesReader struct {
	rest Slices
	off  int // within rest[0]
}

func (r *slicesReader) Read(p []byte) (int, error) {
	for len(r.rest) > 0 && r.off == len(r.rest[0]) {
		r.rest, r.off = r.rest[1:], 0
	}
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest[0][r.off:])
	r.off += n
	return n, nil
}
