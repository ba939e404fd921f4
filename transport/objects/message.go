package objects

import (
	"context"

	"github.com/proxyplane/proxyplane/transport"
)

// A Handler answers one message of a protocol that the transport does not know: the pickled RPCs of ProxyStore's Python clients. It takes req, which
// is the whole message in one run. The reply is lent until release is called, exactly once, also if err is not nil or reply is empty; release may
// be nil. An error means that the message makes no sense: the transport ends that peer's connection, or drops the message where it cannot.
type Handler func(ctx context.Context, req *transport.Buffer) (reply transport.Slices, release func(), err error)

// An Exchanger is the client's side of such a protocol: one message out, one message back. Exchanges may be in flight at once; an Exchanger that
// can have only one at a time makes the others wait.
type Exchanger interface {
	// Exchange sends req, which it borrows until it returns, and returns the reply, which the caller owns. Errors are as with [Client].
	Exchange(ctx context.Context, req transport.Slices) (*transport.Buffer, error)
	Close() error
}

// A Server serves a Store over one transport from the moment it is made.
type Server interface {
	// Addr is what a client dials, with the port that was really taken: "tcp://127.0.0.1:4100", "unix:///run/x.sock", ...
	Addr() string
	// Shutdown refuses new work, tells the clients, lets what is in flight end, and closes. When ctx ends first it closes at once and returns
	// the context's error.
	Shutdown(ctx context.Context) error
	// Close ends everything at once, and waits for its goroutines. Idempotent.
	Close() error
}
