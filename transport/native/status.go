package native

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/proxyplane/proxyplane/transport"
)

// Status is the outcome of a request, in Header.Code of an answer.
type Status uint16

// The statuses. A client takes one that it does not know for StatusInternal.
const (
	StatusOK           Status = 0
	StatusNotFound     Status = 1
	StatusFull         Status = 2
	StatusTooLarge     Status = 3
	StatusInvalidRange Status = 4
	StatusDenied       Status = 5
	StatusUnavailable  Status = 6
	StatusCorrupt      Status = 7
	StatusUnsupported  Status = 8
	StatusInvalidKey   Status = 9
	StatusCancelled    Status = 10 // because the client asked for it
	StatusDeadline     Status = 11 // the time that the client gave is over
	StatusBusy         Status = 12 // too many requests of this session are in flight
	StatusDraining     Status = 13 // the server is about to end; another may have the object
	StatusVersion      Status = 14 // no version of the protocol in common
	StatusInternal     Status = 15
)

var statusErrors = [...]struct {
	err  error
	text string // what is said where the server says nothing
}{
	StatusOK:           {errors.New("no error"), "no error"},
	StatusNotFound:     {transport.ErrNotFound, ""},
	StatusFull:         {transport.ErrFull, ""},
	StatusTooLarge:     {transport.ErrTooLarge, ""},
	StatusInvalidRange: {transport.ErrInvalidRange, ""},
	StatusDenied:       {transport.ErrDenied, ""},
	StatusUnavailable:  {transport.ErrUnavailable, ""},
	StatusCorrupt:      {transport.ErrCorrupt, ""},
	StatusUnsupported:  {errors.ErrUnsupported, ""},
	StatusInvalidKey:   {transport.ErrInvalidKey, ""},
	StatusCancelled:    {context.Canceled, ""},
	StatusDeadline:     {context.DeadlineExceeded, ""},
	StatusBusy:         {transport.ErrUnavailable, "the server has too many requests of this connection in flight; try again later"},
	StatusDraining:     {transport.ErrUnavailable, "the server is shutting down; connect again, perhaps to another"},
	StatusVersion:      {transport.ErrUnavailable, "no version of the protocol in common"},
	StatusInternal:     {errors.New("the server failed"), ""},
}

// A RemoteError is what the other side answered. It matches the sentinel of its Status.
type RemoteError struct {
	Status Status
	Text   string // for people, without control characters; may be empty
}

// Error returns the sentinel's text and the peer's own, where that says more.
func (e *RemoteError) Error() string {
	base := statusErrors[e.known()]
	text := e.Text
	if text == "" {
		text = base.text
	}
	if text == "" || text == base.err.Error() {
		return base.err.Error()
	}
	return fmt.Sprintf("%v: %s", base.err, text)
}

// Unwrap returns the sentinel.
func (e *RemoteError) Unwrap() error { return statusErrors[e.known()].err }

func (e *RemoteError) known() Status {
	if int(e.Status) < len(statusErrors) {
		return e.Status
	}
	return StatusInternal
}

// statusOf finds the status that says err to a client, and the text beside it.
func statusOf(err error) (Status, string) {
	var remote *RemoteError
	if errors.As(err, &remote) {
		return remote.known(), remote.Text
	}
	for _, s := range [...]Status{StatusNotFound, StatusFull, StatusTooLarge, StatusInvalidRange, StatusDenied, StatusCorrupt, StatusUnsupported,
		StatusInvalidKey, StatusCancelled, StatusDeadline, StatusUnavailable} {
		if base := statusErrors[s].err; errors.Is(err, base) {
			if err == base { //nolint:errorlint // only the text is compared: nothing was added to it
				return s, ""
			}
			return s, strings.TrimPrefix(err.Error(), base.Error()+": ") // the client says that part by itself
		}
	}
	if errors.Is(err, transport.ErrClosed) { // the Store's end is the server's end
		return StatusUnavailable, "the server's store is closed"
	}
	return StatusInternal, err.Error()
}
