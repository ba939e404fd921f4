//go:build !race && !invariants

package invariants_test

import (
	"testing"
	"unsafe"

	"github.com/proxyplane/proxyplane/internal/invariants"
)

// In normal builds nothing is checked and nothing is paid.
func TestOff(t *testing.T) {
	var s invariants.Stack
	s.Record()
	b := []byte{1}
	invariants.Poison(b)
	if invariants.Enabled || s.String() != "" || b[0] != 1 || unsafe.Sizeof(s) != 0 {
		t.Errorf("enabled %v, stack %q of %d bytes, poisoned %v", invariants.Enabled, s.String(), unsafe.Sizeof(s), b)
	}
}
