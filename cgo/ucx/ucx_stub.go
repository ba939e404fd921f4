//go:build !cgo || !ucx

package ucx

import "net/netip"

// What follows has the surface of ucx_cgo.go. Only Open, Version and Forget can be reached, since nothing else can be made.

func statusText(Status) string { return "UCX is not built in" }

// Version returns the version of the library that is loaded, and that of the headers it was built with.
func Version() (loaded, built string) { return "", "" }

// Guarded reports whether this program is safe from an abort that libucs has in store for processes with several Workers.
func Guarded() bool { return true }

// A Context is libucp's view of the host's devices, with one set of settings.
type Context struct{ _ [0]func() }

// Open makes a Context.
func Open(o Options) (*Context, error) { return nil, ErrNotBuilt }

// Config returns the settings in force, as lines UCX_NAME=value.
func (c *Context) Config() string { return "" }

// Info returns libucp's description of the context: the devices and transports that it may use.
func (c *Context) Info() string { return "" }

// Close frees the context. All that was made from it must be closed.
func (c *Context) Close() {}

// Forget tells libucp's registration caches that mem, which it borrows, may be freed or get other pages. See the package comment.
func Forget(mem []byte) {}

// A Worker makes progress on everything that is connected to it.
type Worker struct{ _ [0]func() }

// NewWorker makes a Worker. Its event descriptor is there only if the Context has Wakeup.
func (c *Context) NewWorker(o WorkerOptions) (*Worker, error) { return nil, ErrNotBuilt }

// MaxHeader returns the longest header of an active message.
func (w *Worker) MaxHeader() int { return 0 }

// Info returns libucp's description of the worker.
func (w *Worker) Info() string { return "" }

// Progress does what there is to do and returns the events that came of it, lent until the next Progress. If there are none it tries idle times
// more. active reports whether anything moved. The error means that the worker has lost an event for want of memory and cannot go on.
func (w *Worker) Progress(idle int) (events []Event, active bool, err error) {
	return nil, false, ErrNotBuilt
}

// Arm prepares the descriptor to wake a sleeper. false means that there is something to do first: call Progress and try again.
func (w *Worker) Arm() (bool, error) { return false, ErrNotBuilt }

// Signal makes the descriptor ready. Unlike all else it may be called at any time before Close.
func (w *Worker) Signal() error { return ErrNotBuilt }

// FD lends the descriptor that Arm arms, or -1. It lives until Close.
func (w *Worker) FD() int { return 0 }

// Address returns what AcceptAddress of another Worker connects to, as bytes of the caller's.
func (w *Worker) Address() ([]byte, error) { return nil, ErrNotBuilt }

// Flush waits, by its Event, for all that was sent before.
func (w *Worker) Flush(token uint64) (Result, error) { return Result{Done: true}, ErrNotBuilt }

// Cancel asks an operation that is under way to end; its Event still comes, with ErrCanceled or as if nothing had happened. Only receives by tag, and
// what has not begun to be sent, can be canceled; anything else ends by itself or with its endpoint.
func (w *Worker) Cancel(r Result) {}

// Pending returns how many operations are under way.
func (w *Worker) Pending() int { return 0 }

// Close frees the worker. Everything made from it must be closed, except endpoints that are not watched, and no operation may be under way but on
// these: whose Events no longer come.
func (w *Worker) Close() {}

// A Listener turns connection requests into Events.
type Listener struct{ _ [0]func() }

// Listen takes connection requests at addr; port 0 is any. Token comes with each of them.
func (w *Worker) Listen(addr netip.AddrPort, token uint64) (*Listener, error) {
	return nil, ErrNotBuilt
}

// Addr returns the address with the port that was taken.
func (l *Listener) Addr() (netip.AddrPort, error) { return netip.AddrPort{}, ErrNotBuilt }

// Reject refuses a request. It takes c.
func (l *Listener) Reject(c Conn) error { return ErrNotBuilt }

// Close ends listening. Requests that came before may still be accepted, but no longer rejected.
func (l *Listener) Close() {}

// Addr returns who asks.
func (c Conn) Addr() (netip.AddrPort, error) { return netip.AddrPort{}, ErrNotBuilt }

// An Endpoint is a connection to one peer.
type Endpoint struct{ _ [0]func() }

// Connect starts a connection to a Listener. It returns at once: what cannot be reached shows by an EndpointError with this token. identify tells the
// listener the worker's ClientID.
func (w *Worker) Connect(addr netip.AddrPort, identify bool, token uint64) (*Endpoint, error) {
	return nil, ErrNotBuilt
}

// Accept turns a connection request into an Endpoint. It takes c, and may be called of another Worker than the Listener's.
func (w *Worker) Accept(c Conn, token uint64) (*Endpoint, error) { return nil, ErrNotBuilt }

// ConnectWorker connects to the Worker with that Address, which it borrows. libucp trusts its contents. watch asks for EndpointErrors, as all other
// endpoints have them. Shared memory has none (as of 1.13 libucp chooses it only for endpoints that are not watched), so the caller must learn by
// other means that the peer is gone; then operations may never end, and the endpoint ends with its Worker: Abandon.
func (w *Worker) ConnectWorker(address []byte, watch bool, token uint64) (*Endpoint, error) {
	return nil, ErrNotBuilt
}

// Handle names the endpoint in Events.
func (e *Endpoint) Handle() Handle { return 0 }

// Info returns libucp's description of the endpoint: its lanes.
func (e *Endpoint) Info() string { return "" }

// Transports returns what libucp chose, without repetition: "posix/memory", "tcp/eth0", "rc_mlx5/mlx5_0:1". It is complete when the peer has
// answered.
func (e *Endpoint) Transports() []string { return nil }

// Flush waits, by its Event, until the peer has all that was sent.
func (e *Endpoint) Flush(token uint64) (Result, error) { return Result{Done: true}, ErrNotBuilt }

// Close starts to close the endpoint: after what was sent has arrived or, by force, at once, when operations under way end with ErrCanceled. After it,
// only Free.
func (e *Endpoint) Close(force bool, token uint64) (Result, error) {
	return Result{Done: true}, ErrNotBuilt
}

// Free ends the Endpoint, when its Close has ended and all its events have been taken.
func (e *Endpoint) Free() {}

// HandleMessages makes active messages of that id Events.
func (w *Worker) HandleMessages(id uint16) error { return ErrNotBuilt }

// SendMessage sends an active message. Header and body are as the package comment says of memory.
func (e *Endpoint) SendMessage(id uint16, header, body []byte, f SendFlags, token uint64) (Result, error) {
	return Result{Done: true}, ErrNotBuilt
}

// RecvMessage moves a message's bytes into dst, which must have room for all. It takes m, on error too. Eager bytes are copied before it returns.
func (w *Worker) RecvMessage(m Message, dst []byte, token uint64) (Result, error) {
	return Result{Done: true}, ErrNotBuilt
}

// MessageBytes lends a message's bytes until it is released; nil if they are Remote.
func (w *Worker) MessageBytes(m Message) []byte { return nil }

// ReleaseMessage drops a message. The sender of a Remote one is told that it was received.
func (w *Worker) ReleaseMessage(m Message) {}

// SendTag sends a message to the receive that matches tag.
func (e *Endpoint) SendTag(tag uint64, body []byte, token uint64) (Result, error) {
	return Result{Done: true}, ErrNotBuilt
}

// SendTagParts is SendTag of a message in several parts. The slice of them it borrows until it returns; the parts are as the package comment says of
// memory, and Go's must be pinned before.
func (e *Endpoint) SendTagParts(tag uint64, parts [][]byte, token uint64) (Result, error) {
	return Result{Done: true}, ErrNotBuilt
}

// RecvTag receives the next message whose tag equals tag in the bits of mask. One that is longer than dst is ErrTruncated.
func (w *Worker) RecvTag(tag, mask uint64, dst []byte, token uint64) (Result, error) {
	return Result{Done: true}, ErrNotBuilt
}

// ProbeTag returns the length and the tag of a message that has arrived and that no receive waits for.
func (w *Worker) ProbeTag(tag, mask uint64) (length int, sender uint64, ok bool) { return 0, 0, false }

// SendStream sends bytes in order.
func (e *Endpoint) SendStream(body []byte, token uint64) (Result, error) {
	return Result{Done: true}, ErrNotBuilt
}

// RecvStream receives exactly len(dst) bytes.
func (e *Endpoint) RecvStream(dst []byte, token uint64) (Result, error) {
	return Result{Done: true}, ErrNotBuilt
}

// StreamReady returns an endpoint whose stream has bytes that no RecvStream waits for, and each once until it is received from. 0: there is none.
func (w *Worker) StreamReady() Handle { return 0 }

// Put writes body into the peer's memory at addr. The peer has it when a Flush after it has ended.
func (e *Endpoint) Put(body []byte, addr uint64, key *RemoteKey, token uint64) (Result, error) {
	return Result{Done: true}, ErrNotBuilt
}

// Get reads the peer's memory at addr into dst. local is the registration of dst, or nil.
func (e *Endpoint) Get(dst []byte, addr uint64, key *RemoteKey, local *Memory, token uint64) (Result, error) {
	return Result{Done: true}, ErrNotBuilt
}

// Memory is memory that devices may reach.
type Memory struct{ _ [0]func() }

// Register lets devices reach mem, which stays pinned, and must stay allocated, until Close.
func (c *Context) Register(mem []byte) (*Memory, error) { return nil, ErrNotBuilt }

// Alloc returns new registered memory of libucp's, for which it chooses the kind that its devices reach best.
func (c *Context) Alloc(n int) (*Memory, error) { return nil, ErrNotBuilt }

// Bytes lends the memory of an Alloc until Close; nil for a Register.
func (m *Memory) Bytes() []byte { return nil }

// Addr returns the address that the peer names.
func (m *Memory) Addr() uint64 { return 0 }

// Len returns the number of bytes.
func (m *Memory) Len() int { return 0 }

// Key returns what the peer needs to reach the memory, as bytes of the caller's.
func (m *Memory) Key() ([]byte, error) { return nil, ErrNotBuilt }

// Close ends the registration, and frees what Alloc allocated. No operation may use it any more.
func (m *Memory) Close() error { return ErrNotBuilt }

// RemoteKey lets an Endpoint reach a peer's Memory.
type RemoteKey struct{ _ [0]func() }

// UnpackKey reads a key that the peer packed, which it borrows.
func (e *Endpoint) UnpackKey(key []byte) (*RemoteKey, error) { return nil, ErrNotBuilt }

// Close frees the key. No operation may use it any more.
func (k *RemoteKey) Close() {}
