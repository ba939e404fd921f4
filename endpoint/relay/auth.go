package relay

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/proxyplane/proxyplane/transport"
)

// User is who a client belongs to. Clients of one user reach each other; two Users are the same if their IDs are.
type User struct {
	ID   string // unique, of the authenticator's making; "" is the one user of Anonymous
	Name string // for logs
}

// An Authenticator says who a client is. It is asked once per connection, when the client registers. Authenticate must be fit for concurrent use and borrows h.
// It returns an *[UnauthorizedError] or a *[ForbiddenError] to have the client closed with 4001 or 4002, which it does not come back from; any other error means that
// it cannot be said now who the client is: it is closed with 1011 and tries again.
type Authenticator interface {
	Authenticate(ctx context.Context, h http.Header) (User, error)
}

// UnauthorizedError says that credentials are missing or malformed. It wraps [transport.ErrDenied]. Its text is ProxyStore's.
type UnauthorizedError struct{ Text string }

func (e *UnauthorizedError) Error() string { return "UnauthorizedError: " + e.Text }

// Unwrap returns [transport.ErrDenied].
func (e *UnauthorizedError) Unwrap() error { return transport.ErrDenied }

// ForbiddenError says that a client may not do what it wants to. It wraps [transport.ErrDenied]. Its text is ProxyStore's.
type ForbiddenError struct{ Text string }

func (e *ForbiddenError) Error() string { return "ForbiddenError: " + e.Text }

// Unwrap returns [transport.ErrDenied].
func (e *ForbiddenError) Unwrap() error { return transport.ErrDenied }

// isRefusal tells a client that is refused from one of which nobody knows.
func isRefusal(err error) bool {
	_, unauthorized := errors.AsType[*UnauthorizedError](err)
	_, forbidden := errors.AsType[*ForbiddenError](err)
	return unauthorized || forbidden
}

// Anonymous returns an authenticator for which all clients belong to one user: ProxyStore's NullAuthenticator.
func Anonymous() Authenticator { return anonymous{} }

type anonymous struct{}

func (anonymous) Authenticate(context.Context, http.Header) (User, error) { return User{}, nil }

// bearer returns the token of an Authorization header, as proxystore's get_token_from_headers does.
func bearer(h http.Header) (string, error) {
	values := h.Values("Authorization")
	if len(values) == 0 {
		return "", &UnauthorizedError{"Request headers are missing authorization header."}
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if len(values) != 1 || !ok || scheme != "Bearer" || token == "" || strings.Contains(token, " ") || len(token) > maxToken {
		return "", &UnauthorizedError{"Bearer token in authorization header is malformed."}
	}
	return token, nil
}

// maxToken bounds the length of a token in bytes. Globus's have some 100, JWTs up to a few KB.
const maxToken = 8 << 10
