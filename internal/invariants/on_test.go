//go:build race || invariants

package invariants_test

import (
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/internal/invariants"
)

func TestOn(t *testing.T) {
	var s invariants.Stack
	if !invariants.Enabled || s.String() != "" {
		t.Errorf("enabled %v, stack %q before Record", invariants.Enabled, s.String())
	}
	s.Record()
	if text := s.String(); !strings.Contains(text, "recorded at:") || !strings.Contains(text, "TestOn") {
		t.Errorf("stack %q", text)
	}
	b := []byte{1, 2, 3}
	invariants.Poison(b[:2])
	if b[0] != 0xdb || b[1] != 0xdb || b[2] != 3 {
		t.Errorf("poisoned %v", b)
	}
	invariants.Poison(nil)
}
