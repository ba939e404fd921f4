//go:build !race && !invariants

package rawmem

import (
	"bytes"
	"os"
	"testing"
)

// A process may have so many mappings and no more, and giving back what is in the middle of one makes two of it. Memory is taken and given back all
// the same, and the rest of the program can still map something.
func TestPagesMany(t *testing.T) {
	pieces := make([][]byte, 0, 150_000)
	for i := range cap(pieces) { // none is touched
		pieces = append(pieces, mapPages(ClassOf(MinPages+1+i%2*(2<<20))))
	}
	for i := 0; i < len(pieces); i += 3 {
		Free(pieces[i])
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(maps, []byte("\n")); n > 2*maxMappings {
		t.Errorf("%d mappings", n)
	}
	for i := range pieces {
		if i%3 != 0 {
			Free(pieces[i])
		}
	}
}
