package rpc

import (
	"errors"

	"github.com/proxyplane/proxyplane/serialize/pickle"
	"github.com/proxyplane/proxyplane/transport"
)

// errType is data of a type that no store reads.
var errType = errors.New("wrong type")

// classes pairs what went wrong with the built-in Python exception that says it, both ways. The first that matches counts.
var classes = []struct {
	err    error
	class  string
	advice string
}{
	{transport.ErrFull, "MemoryError", "evict objects, give them a TTL, raise the server's memory limit, or use another server"},
	{transport.ErrTooLarge, "OverflowError", "raise the server's limit for one object, or keep such objects in a file or endpoint connector"},
	{errType, "TypeError", ""},
	{transport.ErrInvalidKey, "ValueError", ""},
	{transport.ErrCorrupt, "ValueError", ""},
	{transport.ErrDenied, "PermissionError", ""},
	{transport.ErrUnavailable, "ConnectionError", "try again"},
	{transport.ErrClosed, "ConnectionError", "the server is going away"},
}

// exception returns the class and the text of the Python exception for err.
func exception(err error) (class, text string) {
	for _, c := range classes {
		if !errors.Is(err, c.err) {
			continue
		}
		text = "proxyplane: " + err.Error()
		if c.advice != "" {
			text += "; " + c.advice
		}
		return c.class, text
	}
	return "RuntimeError", "proxyplane: " + err.Error()
}

// ServerError is an exception that the server answered with. It unwraps to the sentinel that its class stands for, where there is one: MemoryError to
// transport.ErrFull, OverflowError to ErrTooLarge, PermissionError to ErrDenied, ConnectionError to ErrUnavailable.
type ServerError struct {
	Class string // the Python class, with its module unless that is builtins
	Text  string // its arguments
}

// Error names the class and the text.
func (e *ServerError) Error() string {
	if e.Text == "" {
		return "the server raised " + e.Class
	}
	return "the server raised " + e.Class + ": " + e.Text
}

// Unwrap returns the sentinel, or nil.
func (e *ServerError) Unwrap() error {
	switch e.Class {
	case "MemoryError":
		return transport.ErrFull
	case "OverflowError":
		return transport.ErrTooLarge
	case "PermissionError":
		return transport.ErrDenied
	case "ConnectionError", "ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError", "TimeoutError":
		return transport.ErrUnavailable
	}
	return nil
}

// newServerError reads a pickled exception. It can be anything, so anything gives an error.
func newServerError(v any) *ServerError {
	class, text := pickle.Exception(v)
	return &ServerError{Class: class, Text: text}
}
