package transport

import (
	"errors"
	"fmt"
)

// What can go wrong with an object, wherever it is. Package connectors has the same values under the same names; test with errors.Is.
var (
	ErrNotFound     = errors.New("no such object")
	ErrClosed       = errors.New("connector is closed")
	ErrTooLarge     = errors.New("too large")
	ErrFull         = errors.New("the server's memory limit is reached")
	ErrCorrupt      = errors.New("corrupt")
	ErrUnavailable  = errors.New("unavailable")
	ErrInvalidKey   = errors.New("invalid key")
	ErrInvalidRange = errors.New("invalid range")
	ErrDenied       = errors.New("denied by policy")

	// ErrNotBuilt is an [ErrUnavailable] that no waiting mends: the program lacks the connector.
	ErrNotBuilt = fmt.Errorf("%w in this program", ErrUnavailable)
)
