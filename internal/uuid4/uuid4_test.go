package uuid4

import (
	"testing"

	"github.com/google/uuid"
)

func TestNew(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		s := New()
		u, err := uuid.Parse(s)
		if err != nil || u.Version() != 4 || u.Variant() != uuid.RFC4122 || u.String() != s || seen[s] {
			t.Fatalf("%q: %v", s, err)
		}
		seen[s] = true
	}
}
