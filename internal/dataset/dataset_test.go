package dataset

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
)

// TestSums compares the files with the sums that README.md states.
func TestSums(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	names := Names()
	if len(names) != 5 {
		t.Errorf("%d files, README.md lists 5", len(names))
	}
	total := 0
	for _, name := range names {
		data, err := Read(name)
		if err != nil {
			t.Fatal(err)
		}
		total += len(data)
		if line := fmt.Sprintf("%x  %s\n", sha256.Sum256(data), name); !strings.Contains(string(readme), line) {
			t.Errorf("README.md lacks the line %s", line)
		}
	}
	if total > 2<<20 {
		t.Errorf("%d bytes; everybody who builds the program carries them, so keep them below 2 MiB", total)
	}
}

func TestUnknownName(t *testing.T) {
	if _, err := Read("../dataset.go"); !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading outside of the files: %v", err)
	}
}
