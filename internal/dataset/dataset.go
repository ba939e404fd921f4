// Package dataset holds a small real dataset, 1.2 MB in five files of different kinds, for the demo command, examples and tests. README.md says
// where each file comes from and under which terms.
package dataset

import (
	"embed"
	"io/fs"
	"slices"
)

//go:embed files
var files embed.FS

// Names returns the names of the files, sorted. The caller owns the slice.
func Names() []string {
	entries, err := fs.ReadDir(files, "files")
	if err != nil {
		panic(err) // embedded, so that it cannot fail
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	slices.Sort(names)
	return names
}

// Read returns the content of a file, which the caller owns. An unknown name is fs.ErrNotExist.
func Read(name string) ([]byte, error) { return fs.ReadFile(files, "files/"+name) }
