//go:build !linux

package objects

import (
	"errors"
	"fmt"
	"os"
)

func maxShares() int64 { return 0 }

// Share implements [Store]: not on this system, which has no sealed memory files.
func (t *Table) Share(id string) (*os.File, int64, error) {
	if _, err := t.Stat(id); err != nil {
		return nil, 0, err
	}
	return nil, 0, fmt.Errorf("%w: sealed memory files need Linux", errors.ErrUnsupported)
}

// Adopt implements [Store]: not on this system, which has no sealed memory files.
func (t *Table) Adopt(_ string, f *os.File, _ int64, _ PutOptions) error {
	_ = f.Close()
	return fmt.Errorf("%w: sealed memory files need Linux", errors.ErrUnsupported)
}
