package native

import (
	"log/slog"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// HashMode says whether bodies carry an xxhash64, which costs about 0.1 ms per MiB and side. Headers always have a check of their own.
type HashMode uint8

// The hash modes. If one side says HashAlways there are sums, else if one says HashNever there are none, else if one side's Carrier is not Trusted.
const (
	HashAuto HashMode = iota
	HashAlways
	HashNever
)

// Compression of bodies, chosen per body: it is dropped for the rest of a body when the first chunk does not shrink enough to pay.
type Compression uint8

// The compressions. What the client asks for holds in both directions; if it asks for none, the server's choice holds.
const (
	CompressNone Compression = iota
	CompressS2               // fast: pays below about 10 Gbit/s
	CompressZstd             // denser: pays below about 2 Gbit/s
	CompressAuto             // none where the Carrier is Trusted; otherwise S2, and zstd where the peer takes bytes slowly
)

// The defaults of the options, and the bounds of what a peer can make this side do.
const (
	DefaultChunk       = 1 << 20
	DefaultWindow      = 8 << 20
	DefaultMaxRequests = 1024
)

// ClientOptions of a session. The zero value is useful.
type ClientOptions struct {
	Token    []byte          // shared secret; both sides prove that they know it, and neither sends it
	Hash     HashMode        // default HashAuto
	Compress Compression     // default CompressNone
	Chunk    int             // bytes of body per frame; default 1 MiB, at most what the Carrier and the server take
	Window   int64           // bytes that a stream may be ahead of its reader; default 8 MiB
	Pool     *transport.Pool // memory of what is received; default transport.DefaultPool
	Logger   *slog.Logger    // default: none

	// Trust is how many bytes of memory an answer's announced length alone may take, where the caller expected none or fewer; beyond it memory
	// grows as bytes come. Default 64 MiB.
	Trust int64
	// AdoptAbove is the length from which on Put hands the server a memory file instead of sending bytes, where the Carrier passes files; 0 is
	// never. The first Map of such an object copies nothing, but the put takes longer: at 256 MB and 1 GB 1.5 to 3 times the raw socket, and sending
	// 1.1 times, since the pages of a memory file are always fresh.
	AdoptAbove int64
	// HandshakeTimeout bounds NewClient, beside its ctx. Default 10 s.
	HandshakeTimeout time.Duration
	// CancelGrace is how long a call whose context has ended still waits for a frame to leave that it has begun to send. Then the connection is
	// closed, as it cannot go on after half a frame. Default 2 s.
	CancelGrace time.Duration
}

func (o ClientOptions) withDefaults() ClientOptions {
	o.Chunk = defaulted(o.Chunk, DefaultChunk)
	o.Window = defaulted(o.Window, DefaultWindow)
	o.Trust = defaulted(o.Trust, 64<<20)
	o.HandshakeTimeout = defaulted(o.HandshakeTimeout, 10*time.Second)
	o.CancelGrace = defaulted(o.CancelGrace, 2*time.Second)
	if o.Pool == nil {
		o.Pool = transport.DefaultPool
	}
	o.Logger = loggerOr(o.Logger)
	return o
}

// ServerOptions of all sessions of a Server. The zero value is useful.
type ServerOptions struct {
	Token    []byte      // shared secret; who does not prove that he knows it gets nothing. Default: none needed
	Hash     HashMode    // default HashAuto
	Compress Compression // default CompressNone
	Chunk    int         // bytes of body per frame; default 1 MiB

	// MaxRequests is how many requests of one session may be in flight; the client holds further ones back. As many waits, streams and uploads
	// in parts may be open besides. Default 1024.
	MaxRequests int
	// HandshakeTimeout is how long a peer may take to say who it is. Default 10 s.
	HandshakeTimeout time.Duration
	// StallTimeout cuts a peer that neither reads what it asked for nor sends what it announced: 256 KiB of an announced body, or one frame of
	// answer, must pass within it. A stream whose reader gives no credit is not a stall. Default 30 s; negative: never.
	StallTimeout time.Duration
	// UploadTimeout is how long an upload in parts may pause. Then what came of it is dropped, as it takes room in the Store, and the client is told.
	// Default 10 min; negative: never.
	UploadTimeout time.Duration
	// IdleTimeout ends a session that has asked for nothing for so long. Default: never.
	IdleTimeout time.Duration

	Instance string       // names this server, for Welcome; default random
	Host     string       // the host's boot id, for Welcome: who has the same may reach Local
	Local    string       // address of a unix socket of the same server, for Welcome
	Logger   *slog.Logger // default: none
}

func (o ServerOptions) withDefaults() ServerOptions {
	o.Chunk = defaulted(o.Chunk, DefaultChunk)
	o.MaxRequests = min(defaulted(o.MaxRequests, DefaultMaxRequests), 1<<20)
	o.HandshakeTimeout = defaulted(o.HandshakeTimeout, 10*time.Second)
	if o.StallTimeout == 0 {
		o.StallTimeout = 30 * time.Second
	}
	if o.UploadTimeout == 0 {
		o.UploadTimeout = 10 * time.Minute
	}
	o.Logger = loggerOr(o.Logger)
	return o
}

// Welcome is what a server says of itself when a session opens.
type Welcome struct {
	Version     int    // of the protocol
	Features    uint64 // FeatureX that both sides have
	MaxBody     int    // bytes of body per frame that the server takes
	MaxRequests int    // in flight
	Sums        bool   // whether bodies carry an xxhash64
	Compress    Compression
	Instance    string // names this server process
	Host        string // its host's boot id, if it said so
	Local       string // address of its unix socket, if it has one
}

// Features of a session, in Welcome.Features.
const (
	FeatureS2    uint64 = 1 << 0 // S2 blocks are understood
	FeatureZstd  uint64 = 1 << 1 // zstd frames are understood
	FeatureFiles uint64 = 1 << 2 // the Carrier passes descriptors and the system has sealed memory files: MAP and ADOPT
)

// Stats of a Server since it was made.
type Stats struct {
	Sessions  int64            // open now
	Accepted  int64            // sessions that were ever open
	Refused   int64            // handshakes that failed
	Requests  map[string]int64 // by operation
	Errors    int64            // answers with an error
	InFlight  int64            // requests now
	BytesIn   int64            // of bodies
	BytesOut  int64
	ChunksIn  int64 // frames with a body
	ChunksOut int64
}

func defaulted[T ~int | ~int64](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

func loggerOr(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
