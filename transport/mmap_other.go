//go:build !unix

package transport

import (
	"io"
	"os"
)

// Map returns n bytes of f from off. This platform has no mapping here, so the bytes are read.
func Map(f *os.File, off, n int64) (*Buffer, error) {
	data := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(f, off, n), data); err != nil {
		return nil, err
	}
	return FromBytes(data), nil
}
