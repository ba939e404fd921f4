package ucx

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrNotBuilt is what Open returns in a program without UCX.
var ErrNotBuilt = errors.New("UCX is not built in: build with -tags ucx and CGO_ENABLED=1, and with UCX's headers and pkg-config " +
	"(Debian and Ubuntu: libucx-dev; RPM systems: ucx-devel; clusters: module load ucx)")

// Features of a Context. Both sides of a connection should ask for the same.
type Features uint64

// The features, as libucp numbers them.
const (
	Tag    Features = 1 << 0
	RMA    Features = 1 << 1
	Wakeup Features = 1 << 4
	Stream Features = 1 << 5
	AM     Features = 1 << 6
)

// Options of a Context.
type Options struct {
	Name     string   // for libucp's own logs and tools
	Features Features // at least one
	Peers    int      // how many endpoints to expect; 0 if unknown. It changes which transports libucp picks on large fabrics
	// Config are libucp's settings without their prefix UCX_, over those of the environment: "TLS": "tcp". Those of one kind of transport also go
	// without its name, and to all kinds that have them: "KEEPIDLE" is UCX_TCP_KEEPIDLE. Those of connection managers (UCX_TCP_CM_...) can be set in
	// the environment alone. What nobody knows libucp only warns of.
	Config map[string]string
}

// WorkerOptions of a Worker.
type WorkerOptions struct {
	ClientID uint64 // told to listeners with each connection request, if not 0
	Inline   int    // active messages up to so many bytes come with the Event, longer ones as a Message. Default 2 KiB
}

const defaultInline = 2 << 10

var errCacheClosed = errors.New("ucx: the cache of registrations is closed")

// Status is an error of libucp.
type Status int32

// Those that callers tell apart.
const (
	ErrNoMemory        Status = -4
	ErrUnreachable     Status = -6
	ErrTruncated       Status = -9
	ErrNoDevice        Status = -14
	ErrBusy            Status = -15
	ErrCanceled        Status = -16
	ErrTimedOut        Status = -20
	ErrUnsupported     Status = -22
	ErrRejected        Status = -23
	ErrNotConnected    Status = -24
	ErrConnectionReset Status = -25
	ErrEndpointTimeout Status = -80
)

const inProgress = 1

// Error returns libucp's own words.
func (s Status) Error() string { return fmt.Sprintf("ucx: %s (%d)", statusText(s), int32(s)) }

// Kind of an Event.
type Kind uint32

// The kinds.
const (
	OpDone        Kind = 1 + iota // an operation has ended: Token, Err, and Length and Tag of what was received
	ActiveMessage                 // Header, and either Inline or Message
	Connection                    // a connection request: Token is the Listener's, Tag the client's id
	EndpointError                 // an endpoint is broken; it must still be closed, by force: Token is the Endpoint's, Err says why
)

// An Event is what came of Worker.Progress.
type Event struct {
	Kind    Kind
	Err     error // a Status, or nil
	Token   uint64
	Length  int
	Tag     uint64
	From    Handle  // the endpoint that an active message came from; 0 if the sender did not say (SendReply)
	Header  []byte  // of an active message; lent until the next Progress
	Inline  []byte  // its bytes, if few; lent until the next Progress
	Message Message // its bytes otherwise, for the caller to receive or release; zero if they are inline
	Conn    Conn    // of a connection request; the caller accepts or rejects it
}

// Handle names an endpoint of a Worker: equal while it is open, and used again afterwards.
type Handle uintptr

// A Message is the data of an active message that has not been handed over yet. Exactly one of its ends is due: RecvMessage, or Release.
type Message struct {
	ptr uintptr
	how uint32
	n   int
}

// How the bytes of a Message are held; as in shim.h.
const (
	messageInline = iota
	messageEager
	messageRendezvous
	messageCopied
)

// Len returns the number of bytes.
func (m Message) Len() int { return m.n }

// Remote reports whether the bytes are still in the sender's memory: then only RecvMessage gets them.
func (m Message) Remote() bool { return m.how == messageRendezvous }

// Valid reports whether there is a message.
func (m Message) Valid() bool { return m.ptr != 0 }

// A Conn is a connection request.
type Conn uintptr

// A Result says how an operation started. If Done, it has ended, and no Event comes; Length and Tag are those of what was received. Otherwise its
// Event comes.
type Result struct {
	Done   bool
	Length int
	Tag    uint64
	op     uintptr
}

// SendFlags of an active message.
type SendFlags uint32

// The flags, as libucp numbers them.
const (
	SendReply      SendFlags = 1 << 0 // tells the receiver which endpoint it came from
	SendEager      SendFlags = 1 << 1 // the bytes go with the message
	SendRendezvous SendFlags = 1 << 2 // the receiver fetches the bytes
)

// Purpose of what is open.
type Purpose uint8

// The purposes.
const (
	Contexts    Purpose = iota
	Workers             //
	Listeners           //
	Endpoints           //
	Connections         // requests neither accepted nor rejected
	Operations          // under way
	Messages            // neither received nor released
	Memories            // registered or allocated by libucp; Bytes counts them
	RemoteKeys          //
	numPurposes
)

var live [numPurposes]struct{ handles, bytes atomic.Int64 }

// Live returns how many of them are open, and the bytes behind them.
func Live(p Purpose) (handles, bytes int64) {
	return live[p].handles.Load(), live[p].bytes.Load()
}

// String returns the purpose in lower case.
func (p Purpose) String() string {
	names := [numPurposes]string{"contexts", "workers", "listeners", "endpoints", "connections", "operations", "messages", "memories", "remote keys"}
	if p < numPurposes {
		return names[p]
	}
	return fmt.Sprintf("purpose(%d)", uint8(p))
}

func opened(p Purpose, bytes int) {
	live[p].handles.Add(1)
	live[p].bytes.Add(int64(bytes))
}

func closed(p Purpose, bytes int) {
	live[p].handles.Add(-1)
	live[p].bytes.Add(-int64(bytes))
}
