package connectors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/proxyplane/proxyplane/transport"
)

// What can go wrong, whatever the connector. Test with errors.Is. Those of an object are package transport's.
var (
	ErrNotFound     = transport.ErrNotFound
	ErrClosed       = transport.ErrClosed
	ErrTooLarge     = transport.ErrTooLarge
	ErrFull         = transport.ErrFull // no room now; evict something, raise the limit or give the server a directory to spill to
	ErrCorrupt      = transport.ErrCorrupt
	ErrUnavailable  = transport.ErrUnavailable
	ErrInvalidKey   = transport.ErrInvalidKey
	ErrInvalidRange = transport.ErrInvalidRange
	ErrDenied       = transport.ErrDenied
	ErrConfig       = errors.New("bad configuration")
	ErrNoPolicy     = errors.New("no policy takes this object")

	// ErrNotBuilt is an [ErrUnavailable] that no waiting mends: the program lacks the connector.
	ErrNotBuilt = transport.ErrNotBuilt
)

// OpError says which operation of which connector failed on which key. It unwraps to its cause.
type OpError struct {
	Op   string // "put", "get", ...
	Kind string // the connector's short kind
	Key  Key    // nil if the operation has none yet
	Err  error
}

func (e *OpError) Error() string {
	if e.Key == nil {
		return fmt.Sprintf("%s %s: %v", e.Kind, e.Op, e.Err)
	}
	return fmt.Sprintf("%s %s %s: %v", e.Kind, e.Op, FormatKey(e.Key), e.Err)
}

func (e *OpError) Unwrap() error { return e.Err }

// WrapError returns err as an *OpError. It passes nil, io.EOF, errors.ErrUnsupported and context errors as they are, and does not wrap an
// OpError of the same kind again.
func WrapError(op, kind string, key Key, err error) error {
	if err == nil || err == io.EOF || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	var oe *OpError
	if errors.As(err, &oe) && oe.Kind == kind {
		return err
	}
	return &OpError{Op: op, Kind: kind, Key: key, Err: err}
}

// Retryable reports whether the same call may succeed later without anybody changing anything: the other side was out of reach or busy.
// Context errors are not retryable, since it was the caller who gave up.
func Retryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNotBuilt) {
		return false
	}
	if errors.Is(err, ErrUnavailable) {
		return true
	}
	for _, e := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.EAGAIN, syscall.EINTR, syscall.ETIMEDOUT,
		io.ErrUnexpectedEOF, net.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// keyError is the error for a key of another connector's kind, or none at all.
func keyError(want string, key Key) error {
	if key == nil {
		return fmt.Errorf("%w: nil; this connector needs a %s key", ErrInvalidKey, want)
	}
	return fmt.Errorf("%w: a %s key; this connector needs a %s key", ErrInvalidKey, key.Kind(), want)
}

// KeyAs returns key as a K, or an [ErrInvalidKey] that names the kind that the connector needs.
func KeyAs[K Key](kind string, key Key) (K, error) {
	k, ok := key.(K)
	if !ok {
		return k, keyError(kind, key)
	}
	return k, nil
}
