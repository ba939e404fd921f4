package zmq

import (
	"context"
	"fmt"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// A link is a connection to one peer that moves ZeroMQ messages, which consist of parts (ZMTP calls them frames). The rest of the package stands on
// this alone. wire is the one in Go; the one over libzmq exists under build tag zmq.
//
// One goroutine at a time reads; any may send, interrupt and close.
type link interface {
	// next begins the next part of the message, skipping what was not read of the current part, and returns its length and whether more parts of
	// the message follow. io.EOF says that the peer closed between two messages; errors match transport.ErrUnavailable or ErrCorrupt, or are
	// native.ErrInterrupted: then the same call again goes on.
	next() (n int64, more bool, err error)

	// read reads the next len(dst) bytes of the part into dst and returns how many it read: all, unless err is not nil. After
	// native.ErrInterrupted the caller goes on with the rest. len(dst) is at most what is left of the part.
	read(dst []byte) (int, error)

	// take returns the whole part as a Buffer that the caller owns, if none of it was read and the link has it in memory of its own anyway.
	take() (*transport.Buffer, bool)

	// send sends one message, the first part of which is first followed by meta. What cut says becomes of body:
	//
	//	cut > 0        parts of cut bytes, the last shorter; one empty part if body is empty
	//	whole (0)      one part; none if body is empty
	//	asParts (-1)   each of body's slices is one part
	//
	// It borrows all three until it returns. Messages of different goroutines do not mix. It may block for as long as the peer does not read;
	// close ends that.
	send(first, meta []byte, body transport.Slices, cut int) error

	// interrupt makes a next or read that blocks now, or the next one that would, return native.ErrInterrupted once.
	interrupt()

	// trusted says that nobody on the way can read or change bytes unnoticed: CURVE, ipc, loopback.
	trusted() bool

	// remote names the peer, for logs and errors.
	remote() string

	// maxBody is the longest body of a native frame.
	maxBody() int

	// close ends the connection and every blocked call. Idempotent.
	close()
}

// A staler is a link that can tell whether the peer has hung up while nobody reads. It does not wait, and does not see everything.
type staler interface{ stale() bool }

// A hurrier is a link that can have a send fail, and break the link, unless all of the message has left already. From hurry until calm that holds
// for every send.
type hurrier interface {
	hurry()
	calm()
}

// A pacer is a link that sees how a long message leaves: until pace(0) a send fails, and breaks the link, if the peer takes less than stride of it
// in the time d. Who sends calls it.
type pacer interface{ pace(d time.Duration) }

const (
	whole   = 0
	asParts = -1
)

// An acceptor makes links of the peers that come in.
type acceptor interface {
	// address is what a client dials, with the port that was really taken.
	address() string
	// stop lets nobody new in. Idempotent.
	stop()
	// close stops, closes all links, and returns when every call of serve has returned. Idempotent.
	close()
}

// listenFunc starts to accept. For each peer that has shown itself to be a ZeroMQ peer (and, with CURVE, an allowed one) it calls serve in a goroutine
// of its own, and closes the link when serve returns. o is complete: defaults are filled in. ctx bounds only the start.
type listenFunc func(ctx context.Context, a address, o *ListenOptions, serve func(link)) (acceptor, error)

// connectFunc connects as a DEALER. o is complete. If hello is not nil, a message leaves first, as early as the
// mechanism allows: an empty part, as REQ sockets send it, and hello's small parts.
type connectFunc func(ctx context.Context, a address, o *DialOptions, hello [][]byte) (link, error)

// The forms of a link. Tests replace the defaults.
var (
	defaultListen  listenFunc  = listenPure
	defaultConnect connectFunc = connectPure

	libzmqListen  listenFunc  // nil without build tag zmq
	libzmqConnect connectFunc // likewise
)

var errNoLibzmq = fmt.Errorf("%w: option libzmq; build with CGO_ENABLED=1 -tags zmq and libzmq3-dev (zeromq-devel), or drop the option: the same wire is spoken without",
	transport.ErrNotBuilt)

// HasLibzmq reports whether this program has libzmq, for the options Libzmq.
func HasLibzmq() bool { return libzmqListen != nil }
