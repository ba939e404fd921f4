//go:build cgo && zmq

package zmq

/*
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"syscall"
)

// Errno is an error number of libzmq. It matches the operating system's of the same number: errors.Is(err, syscall.EADDRINUSE).
type Errno int

// ErrAgain says that a call would have had to wait.
const ErrAgain = Errno(C.EAGAIN)

// Errors that only ZeroMQ has.
const (
	ErrState       = Errno(C.EFSM)           // the socket's pattern does not allow that now
	ErrTerm        = Errno(C.ETERM)          // the context is being closed
	ErrUnreachable = Errno(C.EHOSTUNREACH)   // a ROUTER with RouterMandatory knows no such peer
	ErrProtocol    = Errno(C.ENOCOMPATPROTO) // the socket's type does not go with that endpoint
)

// Error returns libzmq's text.
func (e Errno) Error() string { return C.GoString(C.zmq_strerror(C.int(e))) }

// Is reports whether target is the same number of the operating system.
func (e Errno) Is(target error) bool {
	n, ok := target.(syscall.Errno)
	return ok && int(n) == int(e)
}

func wrap(what string, code C.int) error {
	if code == 0 {
		return nil
	}
	return fmt.Errorf("libzmq: %s: %w", what, Errno(code))
}

// Version is major, minor and patch.
type Version [3]int

// String returns it with dots.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

// Versions returns the version of the headers that this program was compiled with, and of the library that it runs with.
//
// Implements: void zmq_version (int *major, int *minor, int *patch)
func Versions() (compiled, loaded Version) {
	var major, minor, patch C.int
	C.zmq_version(&major, &minor, &patch)
	return Version{C.ZMQ_VERSION_MAJOR, C.ZMQ_VERSION_MINOR, C.ZMQ_VERSION_PATCH}, Version{int(major), int(minor), int(patch)}
}

// CheckVersion reports a library that is not the one that was compiled against, in a way that matters: another major version, or an older minor.
func CheckVersion() error {
	compiled, loaded := Versions()
	return compatible(compiled, loaded)
}

func compatible(compiled, loaded Version) error {
	if loaded[0] != compiled[0] || loaded[1] < compiled[1] {
		return fmt.Errorf("libzmq %s was loaded, but this program was built for %s: install that one, or build the program again", loaded, compiled)
	}
	return nil
}

// Has reports whether the library was built with "curve", "ipc", ...
//
// Implements: int zmq_has (const char *capability)
func Has(capability string) bool {
	s := C.CString(capability)
	defer free(s)
	return C.zmq_has(s) == 1
}
