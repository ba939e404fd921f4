//go:build cgo && zmq

package zmq

/*
#cgo noescape pp_send_copy
#cgo nocallback pp_send_copy
#cgo nocallback pp_send_ref
#cgo noescape pp_recv
#cgo nocallback pp_recv
#cgo noescape pp_msg_close
#cgo nocallback pp_msg_close
#cgo noescape pp_msg_get
#cgo nocallback pp_msg_get
#cgo noescape pp_msg_gets
#cgo nocallback pp_msg_gets
#cgo noescape pp_set
#cgo nocallback pp_set
#cgo noescape pp_get
#cgo nocallback pp_get
#cgo nocallback pp_events
#cgo nocallback pp_close
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"
)

// Type of a socket.
type Type int

// The types.
const (
	Req    = Type(C.ZMQ_REQ)
	Rep    = Type(C.ZMQ_REP)
	Dealer = Type(C.ZMQ_DEALER)
	Router = Type(C.ZMQ_ROUTER)
	Pair   = Type(C.ZMQ_PAIR)
)

// IntOption is a socket option whose value is an int.
type IntOption int

// The options; zmq_setsockopt(3) explains them. Times are in milliseconds.
const (
	Linger            = IntOption(C.ZMQ_LINGER)
	SendHWM           = IntOption(C.ZMQ_SNDHWM)
	RecvHWM           = IntOption(C.ZMQ_RCVHWM)
	SendBuffer        = IntOption(C.ZMQ_SNDBUF)
	RecvBuffer        = IntOption(C.ZMQ_RCVBUF)
	IPv6              = IntOption(C.ZMQ_IPV6)
	Backlog           = IntOption(C.ZMQ_BACKLOG)
	Immediate         = IntOption(C.ZMQ_IMMEDIATE)
	ReconnectInterval = IntOption(C.ZMQ_RECONNECT_IVL)
	ConnectTimeout    = IntOption(C.ZMQ_CONNECT_TIMEOUT)
	HandshakeTimeout  = IntOption(C.ZMQ_HANDSHAKE_IVL)
	HeartbeatInterval = IntOption(C.ZMQ_HEARTBEAT_IVL)
	HeartbeatTimeout  = IntOption(C.ZMQ_HEARTBEAT_TIMEOUT)
	HeartbeatTTL      = IntOption(C.ZMQ_HEARTBEAT_TTL)
	TCPKeepalive      = IntOption(C.ZMQ_TCP_KEEPALIVE) // 0 or 1
	KeepaliveIdle     = IntOption(C.ZMQ_TCP_KEEPALIVE_IDLE)
	KeepaliveInterval = IntOption(C.ZMQ_TCP_KEEPALIVE_INTVL)
	KeepaliveCount    = IntOption(C.ZMQ_TCP_KEEPALIVE_CNT)
	RouterMandatory   = IntOption(C.ZMQ_ROUTER_MANDATORY)
	RouterHandover    = IntOption(C.ZMQ_ROUTER_HANDOVER)
	CurveServer       = IntOption(C.ZMQ_CURVE_SERVER)
	Mechanism         = IntOption(C.ZMQ_MECHANISM) // read only: 0 is NULL, 2 is CURVE
)

// BytesOption is a socket option whose value is a string of bytes.
type BytesOption int

// The options. Keys are 32 bytes.
const (
	RoutingID      = BytesOption(C.ZMQ_ROUTING_ID)
	ZAPDomain      = BytesOption(C.ZMQ_ZAP_DOMAIN)
	CurvePublicKey = BytesOption(C.ZMQ_CURVE_PUBLICKEY)
	CurveSecretKey = BytesOption(C.ZMQ_CURVE_SECRETKEY)
	CurveServerKey = BytesOption(C.ZMQ_CURVE_SERVERKEY)
)

// Socket is a ZeroMQ socket. One goroutine at a time may use it: who shares it has a lock. No method waits.
type Socket struct {
	ptr       unsafe.Pointer
	monitored bool
}

// NewSocket opens a socket.
//
// Implements: void *zmq_socket (void *context, int type)
func (c *Context) NewSocket(t Type) (*Socket, error) {
	s := &Socket{}
	if err := wrap("new socket", C.pp_socket(c.ptr, C.int(t), &s.ptr)); err != nil {
		return nil, err
	}
	live.sockets.Add(1)
	return s, nil
}

// Close closes the socket, which must not be used after. What was sent leaves within the time of Linger. Idempotent.
//
// Implements: int zmq_close (void *socket)
func (s *Socket) Close() error {
	if s.ptr == nil {
		return nil
	}
	err := errors.Join(s.StopMonitor(), wrap("close", C.pp_close(s.ptr)))
	s.ptr = nil
	live.sockets.Add(-1)
	return err
}

// Set sets an option. Most must be set before Bind and Connect.
//
// Implements: int zmq_setsockopt (void *socket, int option_name, const void *option_value, size_t option_len)
func (s *Socket) Set(o IntOption, value int) error {
	v := C.int(value)
	return wrap(fmt.Sprintf("set option %d to %d", o, value), C.pp_set(s.ptr, C.int(o), (*C.char)(unsafe.Pointer(&v)), C.size_t(unsafe.Sizeof(v))))
}

// SetBytes sets an option. It borrows value.
func (s *Socket) SetBytes(o BytesOption, value []byte) error {
	return wrap(fmt.Sprintf("set option %d", o), C.pp_set(s.ptr, C.int(o), memory(value), C.size_t(len(value))))
}

// SetMaxMessage bounds the parts that peers may send, in bytes; a longer one ends the connection. Negative is no bound.
func (s *Socket) SetMaxMessage(n int64) error {
	return wrap("set MAXMSGSIZE", C.pp_set(s.ptr, C.ZMQ_MAXMSGSIZE, (*C.char)(unsafe.Pointer(&n)), C.size_t(unsafe.Sizeof(n))))
}

// Get returns an option.
//
// Implements: int zmq_getsockopt (void *socket, int option_name, void *option_value, size_t *option_len)
func (s *Socket) Get(o IntOption) (int, error) {
	var v C.int
	n := C.size_t(unsafe.Sizeof(v))
	err := wrap(fmt.Sprintf("get option %d", o), C.pp_get(s.ptr, C.int(o), unsafe.Pointer(&v), &n))
	return int(v), err
}

// LastEndpoint returns where the socket was bound or connected last, with the port that was really taken.
func (s *Socket) LastEndpoint() (string, error) {
	var b [1024]byte
	n := C.size_t(len(b))
	if err := wrap("get LAST_ENDPOINT", C.pp_get(s.ptr, C.ZMQ_LAST_ENDPOINT, unsafe.Pointer(&b), &n)); err != nil {
		return "", err
	}
	return string(bytes.TrimRight(b[:n], "\x00")), nil
}

// Bind listens.
//
// Implements: int zmq_bind (void *socket, const char *endpoint)
func (s *Socket) Bind(endpoint string) error {
	e := C.CString(endpoint)
	defer free(e)
	return wrap("bind "+endpoint, C.pp_bind(s.ptr, e))
}

// Unbind stops listening. Connections stay.
//
// Implements: int zmq_unbind (void *socket, const char *endpoint)
func (s *Socket) Unbind(endpoint string) error {
	e := C.CString(endpoint)
	defer free(e)
	return wrap("unbind "+endpoint, C.pp_unbind(s.ptr, e))
}

// Connect begins to connect.
//
// Implements: int zmq_connect (void *socket, const char *endpoint)
func (s *Socket) Connect(endpoint string) error {
	e := C.CString(endpoint)
	defer free(e)
	return wrap("connect "+endpoint, C.pp_connect(s.ptr, e))
}

// Events are what a socket is ready for.
type Events int

// The events.
const (
	CanReceive Events = C.ZMQ_POLLIN
	CanSend    Events = C.ZMQ_POLLOUT
)

// Events returns what the socket is ready for now. Any other call may have made it ready without a signal to who waits.
func (s *Socket) Events() (Events, error) {
	n := C.pp_events(s.ptr)
	if n < 0 {
		return 0, Errno(-n)
	}
	return Events(n), nil
}

// Send sends a part, which libzmq copies. It borrows p. If more, the rest of the message must follow. Errors are an Errno, such as ErrAgain.
//
// Implements: int zmq_send (void *socket, const void *buf, size_t len, int flags)
func (s *Socket) Send(p []byte, more bool) error {
	if n := C.pp_send_copy(s.ptr, memory(p), C.size_t(len(p)), flag(more)); n != 0 {
		return Errno(n)
	}
	return nil
}

// SendRef sends a part that libzmq takes from where it is, until t says that it is done. p is in memory that t has pinned, and not empty.
//
// Implements: int zmq_msg_init_data (zmq_msg_t *msg, void *data, size_t size, zmq_free_fn *ffn, void *hint),
// int zmq_msg_send (zmq_msg_t *msg, void *socket, int flags)
func (s *Socket) SendRef(p []byte, more bool, t *Ticket) error {
	if n := C.pp_send_ref(s.ptr, memory(p), C.size_t(len(p)), flag(more), t.ptr); n != 0 {
		return Errno(n)
	}
	return nil
}

// memory returns where p is. It is typed: behind an unsafe.Pointer, the check of what is handed to C would look at the whole of a structure that p
// may be a small part of, and find pointers.
func memory(p []byte) *C.char { return (*C.char)(unsafe.Pointer(unsafe.SliceData(p))) }

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// Message is a received part, in libzmq's memory.
type Message struct {
	raw  *[8]uint64 // a zmq_msg_t; in words, because it is aligned as they are; apart, since short parts lie within and may be handed to C
	data []byte
	more bool
	open atomic.Bool
}

// Receive receives a part into m, which must be closed or new. Errors are an Errno; then there is nothing to close. Once the first part of a message
// is there, so are the others.
//
// Implements: int zmq_msg_recv (zmq_msg_t *msg, void *socket, int flags)
func (s *Socket) Receive(m *Message) error {
	if m.raw == nil {
		m.raw = new([8]uint64)
	}
	var data C.uintptr_t
	var size C.size_t
	var more, inside C.int
	if n := C.pp_recv(s.ptr, m.ptr(), &data, &size, &more, &inside); n != 0 {
		return Errno(n)
	}
	m.more = more != 0
	switch {
	case size == 0:
		m.data = nil
	case inside != 0: // libzmq keeps some 30 bytes within the zmq_msg_t
		m.data = unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(m.raw), uintptr(data))), int(size))
	default:
		m.data = unsafe.Slice(cPointer(uintptr(data)), int(size))
	}
	m.open.Store(true)
	live.messages.Add(1)
	live.bytes.Add(int64(size))
	return nil
}

// cPointer makes a pointer of an address in C's memory, which the collector does not know.
func cPointer(addr uintptr) *byte { return *(**byte)(unsafe.Pointer(&addr)) }

func (m *Message) ptr() *C.uint64_t { return (*C.uint64_t)(unsafe.Pointer(m.raw)) }

// Bytes lends the bytes until Close.
func (m *Message) Bytes() []byte { return m.data }

// More reports whether more parts of the message follow.
func (m *Message) More() bool { return m.more }

// SourceFD returns the descriptor of the connection that the part came from, or -1. It is libzmq's, and may be closed and used for something else at
// any time.
//
// Implements: int zmq_msg_get (const zmq_msg_t *msg, int property)
func (m *Message) SourceFD() int { return int(C.pp_msg_get(m.ptr(), C.ZMQ_SRCFD)) }

// Property returns a property of the connection, such as "Peer-Address" or "Socket-Type", or "".
//
// Implements: const char *zmq_msg_gets (const zmq_msg_t *msg, const char *property)
func (m *Message) Property(name string) string {
	s := C.CString(name)
	defer free(s)
	return C.GoString(C.pp_msg_gets(m.ptr(), s))
}

// Close frees the memory. Any goroutine may call it, also when the socket and the context are closed. Idempotent.
//
// Implements: int zmq_msg_close (zmq_msg_t *msg)
func (m *Message) Close() {
	if !m.open.Swap(false) {
		return
	}
	live.messages.Add(-1)
	live.bytes.Add(-int64(len(m.data)))
	m.data = nil
	C.pp_msg_close(m.ptr())
}

// EventKind says what happened to a connection.
type EventKind uint16

// The kinds; zmq_socket_monitor(3) explains them.
const (
	Connected         = EventKind(C.ZMQ_EVENT_CONNECTED)
	ConnectDelayed    = EventKind(C.ZMQ_EVENT_CONNECT_DELAYED)
	ConnectRetried    = EventKind(C.ZMQ_EVENT_CONNECT_RETRIED)
	Accepted          = EventKind(C.ZMQ_EVENT_ACCEPTED)
	AcceptFailed      = EventKind(C.ZMQ_EVENT_ACCEPT_FAILED)
	Closed            = EventKind(C.ZMQ_EVENT_CLOSED)
	Disconnected      = EventKind(C.ZMQ_EVENT_DISCONNECTED)
	HandshakeDone     = EventKind(C.ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
	HandshakeFailed   = EventKind(C.ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL)
	HandshakeProtocol = EventKind(C.ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL)
	HandshakeAuth     = EventKind(C.ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
	MonitorStopped    = EventKind(C.ZMQ_EVENT_MONITOR_STOPPED)
	AllEvents         = EventKind(C.ZMQ_EVENT_ALL)
)

// Event is something that happened to a connection. Value depends on Kind: a descriptor, an error number, a code.
type Event struct {
	Kind     EventKind
	Value    int
	Endpoint string
}

// monitors numbers the endpoints of monitors, which are names in a context.
var monitors atomic.Uint64

// Monitor returns a socket that receives the events of s: NextEvent reads them. It must stay open until s is closed or its StopMonitor was called:
// libzmq's I/O thread waits for room in it, for ever if it is closed, and with it all connections of the context.
//
// Implements: int zmq_socket_monitor (void *socket, const char *endpoint, int events)
func (c *Context) Monitor(s *Socket, kinds EventKind) (*Socket, error) {
	m, err := c.NewSocket(Pair) // first: a monitor whose events nobody receives could not be stopped
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("inproc://proxyplane.monitor.%d", monitors.Add(1))
	e := C.CString(name)
	defer free(e)
	err = errors.Join(m.Set(Linger, 0), m.Set(RecvHWM, 0))
	if err == nil {
		err = wrap("monitor", C.pp_monitor(s.ptr, e, C.int(kinds)))
	}
	if err == nil {
		s.monitored = true
		err = m.Connect(name) // what it needs is there
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// StopMonitor ends the events of s: the last one that its monitor receives is MonitorStopped.
func (s *Socket) StopMonitor() error {
	if !s.monitored {
		return nil
	}
	s.monitored = false
	return wrap("stop monitor", C.pp_monitor(s.ptr, nil, 0))
}

// NextEvent receives an event from a monitor. Errors are those of Receive.
func (s *Socket) NextEvent() (Event, error) {
	var m Message
	if err := s.Receive(&m); err != nil {
		return Event{}, err
	}
	defer m.Close()
	b := m.Bytes()
	if len(b) != 6 || !m.More() {
		return Event{}, fmt.Errorf("libzmq: an event of %d bytes", len(b))
	}
	e := Event{Kind: EventKind(binary.NativeEndian.Uint16(b)), Value: int(int32(binary.NativeEndian.Uint32(b[2:])))}
	var endpoint Message
	if err := s.Receive(&endpoint); err != nil {
		return Event{}, err
	}
	defer endpoint.Close()
	e.Endpoint = string(endpoint.Bytes())
	return e, nil
}

// Milliseconds is a time for an IntOption: at least 1 if it is not zero.
func Milliseconds(d time.Duration) int {
	if d <= 0 {
		return 0
	}
	return int(max(1, min(d.Milliseconds(), 1<<31-1)))
}
