package connectors_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
)

type timeout struct{ error }

func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return false }

func TestRetryable(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{context.Canceled, false},
		{context.DeadlineExceeded, false}, // also a net.Error with Timeout
		{fmt.Errorf("call: %w", context.DeadlineExceeded), false},
		{errors.Join(connectors.ErrUnavailable, context.Canceled), false},
		{connectors.ErrUnavailable, true},
		{&connectors.OpError{Op: "get", Kind: "redis", Err: fmt.Errorf("loading: %w", connectors.ErrUnavailable)}, true},
		{syscall.ECONNREFUSED, true},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, true},
		{syscall.ECONNRESET, true},
		{syscall.EPIPE, true},
		{syscall.EAGAIN, true},
		{syscall.EINTR, true},
		{syscall.ETIMEDOUT, true},
		{io.ErrUnexpectedEOF, true},
		{net.ErrClosed, true},
		{&net.OpError{Op: "read", Err: timeout{errors.New("i/o timeout")}}, true},
		{os.ErrDeadlineExceeded, true},
		{io.EOF, false},
		{connectors.ErrNotFound, false},
		{connectors.ErrClosed, false},
		{connectors.ErrTooLarge, false},
		{connectors.ErrCorrupt, false},
		{connectors.ErrInvalidKey, false},
		{connectors.ErrInvalidRange, false},
		{connectors.ErrConfig, false},
		{connectors.ErrNoPolicy, false},
		{connectors.ErrDenied, false},
		{errors.ErrUnsupported, false},
		{syscall.ENOSPC, false},
		{syscall.EACCES, false},
	} {
		if got := connectors.Retryable(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

func TestWrapError(t *testing.T) {
	key := connectors.FileKey{Filename: "f"}
	for _, err := range []error{nil, io.EOF, context.Canceled, fmt.Errorf("x: %w", context.DeadlineExceeded), fmt.Errorf("x: %w", errors.ErrUnsupported)} {
		if got := connectors.WrapError("get", "file", key, err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
	err := connectors.WrapError("get", "file", key, connectors.ErrNotFound)
	if got, want := err.Error(), `file get FileKey(filename="f"): no such object`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, connectors.ErrNotFound) {
		t.Error("the cause is lost")
	}
	if again := connectors.WrapError("get range", "file", key, fmt.Errorf("more: %w", err)); again.Error() != "more: "+err.Error() {
		t.Errorf("wrapped twice: %v", again)
	}
	outer := connectors.WrapError("get", "multi", connectors.MultiKey{ConnectorName: "a", ConnectorKey: key}, err)
	var oe *connectors.OpError
	if !errors.As(outer, &oe) || oe.Kind != "multi" || !errors.Is(outer, connectors.ErrNotFound) {
		t.Errorf("an outer connector's error: %v", outer)
	}
	if got, want := connectors.WrapError("put", "file", nil, syscall.ENOSPC).Error(), "file put: "+syscall.ENOSPC.Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := connectors.WrapError("get", "file", key, io.ErrUnexpectedEOF); !errors.As(err, &oe) {
		t.Errorf("io.ErrUnexpectedEOF is an error like others, got %v", err)
	}
}
