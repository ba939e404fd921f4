package pickle

import (
	"errors"
	"fmt"
)

var (
	// ErrCorrupt says that the input is not a pickle this package can read: an unknown opcode, an operand of the wrong
	// kind, a memo entry that was never stored, bytes after the end.
	ErrCorrupt = errors.New("corrupt pickle")
	// ErrTooLarge says that a limit was reached, in decoding, converting or encoding.
	ErrTooLarge = errors.New("pickle exceeds a limit")
	// ErrTruncated says that the input ends in the middle of a pickle.
	ErrTruncated = errors.New("truncated pickle")
	// ErrCycle says that a value contains itself where that has no meaning: in Convert, ToGo, and in encoding Go pointers,
	// maps and slices.
	ErrCycle = errors.New("value contains itself")
	// ErrType says that a value has no counterpart of the wanted kind: a channel has no pickle, a str is no int.
	ErrType = errors.New("pickle type mismatch")
)

// SyntaxError says where and why decoding stopped. It unwraps to one of ErrCorrupt, ErrTooLarge and ErrTruncated.
type SyntaxError struct {
	Offset int64  // of the opcode, from the start of the pickle (of the stream, for a Decoder)
	Op     byte   // the opcode; 0 when there is none
	Msg    string // what was wrong
	kind   error
}

// Error describes the error with its place.
func (e *SyntaxError) Error() string {
	if e.Op == 0 {
		return fmt.Sprintf("pickle: %v at offset %d: %s", e.kind, e.Offset, e.Msg)
	}
	return fmt.Sprintf("pickle: %v at offset %d (%s): %s", e.kind, e.Offset, opName(e.Op), e.Msg)
}

// Unwrap returns the sentinel.
func (e *SyntaxError) Unwrap() error { return e.kind }
