//go:build !(darwin || linux || openbsd)

package transport

import "os"

// writeFile writes the parts one after the other: no portable vectored write for files here.
func (s Slices) writeFile(f *os.File) (int64, error) {
	var total int64
	for _, p := range s {
		n, err := f.Write(p)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
