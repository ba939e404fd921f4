//go:build race || invariants

package invariants

import (
	"fmt"
	"runtime/debug"
)

// Enabled reports whether this build checks invariants.
const Enabled = true

// Poison overwrites b, so that whoever still reads memory that was given back sees garbage at once instead of plausible old data.
func Poison(b []byte) {
	if len(b) == 0 {
		return
	}
	b[0] = 0xdb
	for n := 1; n < len(b); n *= 2 { // byte by byte, the race detector takes seconds for a large object
		copy(b[n:], b[:n])
	}
}

// Stack remembers where something happened. It is empty in normal builds.
type Stack struct{ s []byte }

// Record keeps the caller's stack.
func (s *Stack) Record() { s.s = debug.Stack() }

// String returns the recorded stack under a heading, or nothing if none was recorded.
func (s *Stack) String() string {
	if len(s.s) == 0 {
		return ""
	}
	return fmt.Sprintf("\nrecorded at:\n%s", s.s)
}
