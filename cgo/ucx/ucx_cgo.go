//go:build cgo && ucx

package ucx

/*
#cgo pkg-config: ucx
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "shim.h"

#cgo nocallback pxu_progress
#cgo nocallback pxu_am_send
#cgo nocallback pxu_am_recv
#cgo nocallback pxu_am_release
#cgo nocallback pxu_am_free
#cgo nocallback pxu_tag_send
#cgo nocallback pxu_tag_recv
#cgo nocallback pxu_tag_probe
#cgo nocallback pxu_stream_send
#cgo nocallback pxu_stream_recv
#cgo nocallback pxu_stream_ready
#cgo nocallback pxu_put
#cgo nocallback pxu_get
#cgo nocallback pxu_cancel
#cgo nocallback pxu_forget
#cgo noescape pxu_progress
#cgo noescape pxu_tag_probe
#cgo noescape pxu_stream_ready
#cgo nocallback ucp_worker_arm
#cgo noescape ucp_worker_arm
#cgo nocallback ucp_worker_signal
#cgo noescape ucp_worker_signal
*/
import "C"

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"
)

func statusText(s Status) string { return C.GoString(C.ucs_status_string(C.ucs_status_t(s))) }

// check turns a status of libucp into an error.
func check(s C.ucs_status_t) error {
	if s >= 0 {
		return nil
	}
	return Status(s)
}

// Version returns the version of the library that is loaded, and that of the headers it was built with.
//
// Implements: void ucp_get_version(unsigned *major, unsigned *minor, unsigned *release)
func Version() (loaded, built string) {
	var major, minor, release C.uint
	C.ucp_get_version(&major, &minor, &release)
	return fmt.Sprintf("%d.%d.%d", major, minor, release), fmt.Sprintf("%d.%d", C.UCP_API_MAJOR, C.UCP_API_MINOR)
}

// Guarded reports whether this program is safe from an abort that libucs has in store for processes with several Workers; see package comment.
func Guarded() bool { return C.pxu_guarded() != 0 }

// checkVersion refuses a library older than the headers, whose structs it would not understand.
func checkVersion(major, minor, wantMajor, wantMinor uint) error {
	if major != wantMajor || minor < wantMinor {
		return fmt.Errorf("ucx: the library loaded is %d.%d, the program was built for %d.%d: build with the headers of this library, or load a newer one",
			major, minor, wantMajor, wantMinor)
	}
	return nil
}

// A Context is libucp's view of the host's devices, with one set of settings.
type Context struct {
	h      C.ucp_context_h
	config string
}

// Open makes a Context.
//
// Implements: ucs_status_t ucp_config_read(const char *env_prefix, const char *filename, ucp_config_t **config),
// ucs_status_t ucp_config_modify(ucp_config_t *config, const char *name, const char *value),
// ucs_status_t ucp_init(const ucp_params_t *params, const ucp_config_t *config, ucp_context_h *context)
func Open(o Options) (*Context, error) {
	var major, minor, release C.uint
	C.ucp_get_version(&major, &minor, &release)
	if err := checkVersion(uint(major), uint(minor), C.UCP_API_MAJOR, C.UCP_API_MINOR); err != nil {
		return nil, err
	}
	if o.Features == 0 {
		return nil, errors.New("ucx: a context needs at least one feature")
	}
	var config *C.ucp_config_t
	if err := check(C.ucp_config_read(nil, nil, &config)); err != nil {
		return nil, fmt.Errorf("reading UCX's settings (UCX_* in the environment): %w", err)
	}
	defer C.ucp_config_release(config)
	for _, name := range slices.Sorted(maps.Keys(o.Config)) {
		value := o.Config[name]
		if strings.ContainsRune(name+value, 0) {
			return nil, fmt.Errorf("ucx: setting %q has a zero byte", name)
		}
		n, v := C.CString(strings.TrimPrefix(name, "UCX_")), C.CString(value)
		err := check(C.ucp_config_modify(config, n, v))
		C.free(unsafe.Pointer(n))
		C.free(unsafe.Pointer(v))
		if err != nil {
			return nil, fmt.Errorf("setting %s=%q (ucx_info -cf lists all): %w", name, value, err)
		}
	}
	name := C.CString(strings.ReplaceAll(o.Name, "\x00", ""))
	defer C.free(unsafe.Pointer(name))
	c := &Context{config: text(C.pxu_config_text(config))}
	if err := check(C.pxu_open(name, C.uint64_t(o.Features), C.size_t(max(o.Peers, 0)), config, &c.h)); err != nil {
		return nil, fmt.Errorf("opening UCX (UCX_LOG_LEVEL=info says more): %w", err)
	}
	opened(Contexts, 0)
	return c, nil
}

// text takes a C string and frees it.
func text(s *C.char) string {
	defer C.free(unsafe.Pointer(s))
	return C.GoString(s)
}

// Config returns the settings in force, as lines UCX_NAME=value.
//
// Implements: void ucp_config_print(const ucp_config_t *config, FILE *stream, const char *title, ucs_config_print_flags_t flags)
func (c *Context) Config() string { return c.config }

// Info returns libucp's description of the context: the devices and transports that it may use.
//
// Implements: void ucp_context_print_info(const ucp_context_h context, FILE *stream)
func (c *Context) Info() string { return text(C.pxu_context_text(c.h)) }

// Close frees the context. All that was made from it must be closed.
//
// Implements: void ucp_cleanup(ucp_context_h context)
func (c *Context) Close() {
	if c.h != nil {
		C.ucp_cleanup(c.h)
		c.h = nil
		closed(Contexts, 0)
	}
}

// Forget tells libucp's registration caches that mem, which it borrows, may be freed or get other pages. See the package comment.
//
// Implements: void ucm_vm_munmap(void *addr, size_t length)
func Forget(mem []byte) {
	if len(mem) > 0 {
		C.pxu_forget(unsafe.Pointer(unsafe.SliceData(mem)), C.size_t(len(mem)))
	}
}

// A Worker makes progress on everything that is connected to it.
type Worker struct {
	w      *C.pxu_worker
	fd     int
	events []Event
	closed atomic.Bool
}

// NewWorker makes a Worker. Its event descriptor is there only if the Context has Wakeup.
//
// Implements: ucs_status_t ucp_worker_create(ucp_context_h context, const ucp_worker_params_t *params, ucp_worker_h *worker),
// ucs_status_t ucp_worker_get_efd(ucp_worker_h worker, int *fd), ucs_status_t ucp_worker_query(ucp_worker_h worker, ucp_worker_attr_t *attr)
func (c *Context) NewWorker(o WorkerOptions) (*Worker, error) {
	if o.Inline <= 0 {
		o.Inline = defaultInline
	}
	w := &Worker{fd: -1}
	if err := check(C.pxu_worker_create(c.h, C.uint64_t(o.ClientID), C.uint32_t(o.Inline), &w.w)); err != nil {
		return nil, fmt.Errorf("making a UCX worker: %w", err)
	}
	var header C.size_t
	var mode C.int
	err := check(C.pxu_worker_limits(w.w, &header, &mode))
	if err == nil && mode == C.UCS_THREAD_MODE_SINGLE {
		err = errors.New("this UCX allows a worker one thread only: it must be built with --enable-mt, or at least for serialized use")
	}
	if err != nil {
		C.pxu_worker_destroy(w.w)
		return nil, fmt.Errorf("making a UCX worker: %w", err)
	}
	var fd C.int
	if check(C.ucp_worker_get_efd(w.w.worker, &fd)) == nil {
		w.fd = int(fd)
	}
	opened(Workers, 0)
	return w, nil
}

// MaxHeader returns the longest header of an active message.
func (w *Worker) MaxHeader() int {
	var header C.size_t
	var mode C.int
	if C.pxu_worker_limits(w.w, &header, &mode) != C.UCS_OK {
		return 0
	}
	return int(header)
}

// Info returns libucp's description of the worker.
//
// Implements: void ucp_worker_print_info(ucp_worker_h worker, FILE *stream)
func (w *Worker) Info() string { return text(C.pxu_worker_text(w.w)) }

// Progress does what there is to do and returns the events that came of it, lent until the next Progress. If there are none it tries idle times
// more. active reports whether anything moved. The error means that the worker has lost an event for want of memory and cannot go on.
//
// Implements: unsigned ucp_worker_progress(ucp_worker_h worker)
func (w *Worker) Progress(idle int) (events []Event, active bool, err error) {
	r := uint64(C.pxu_progress(w.w, C.uint32_t(idle)))
	active = r>>32 != 0
	n := int(uint32(r))
	if w.w.failed != 0 {
		err = Status(w.w.failed)
	}
	if n == 0 {
		return nil, active, err
	}
	w.events = w.events[:0]
	for i := range unsafe.Slice(w.w.events, n) {
		w.events = append(w.events, w.event(&unsafe.Slice(w.w.events, n)[i]))
	}
	return w.events, active, err
}

func (w *Worker) event(e *C.pxu_event) Event {
	out := Event{Kind: Kind(e.kind), Token: uint64(e.token), Length: int(e.length), Tag: uint64(e.tag)}
	if e.status < 0 {
		out.Err = Status(e.status)
	}
	switch e.kind {
	case C.PXU_OP:
		closed(Operations, 0)
	case C.PXU_CONN:
		out.Conn = Conn(uintptr(e.ptr))
		opened(Connections, 0)
	case C.PXU_AM:
		out.From = Handle(uintptr(e.ep))
		out.Header = w.arena(e.header_off, int(e.header_len))
		if e.how == C.PXU_AM_INLINE {
			out.Inline = w.arena(e.data_off, out.Length)
			break
		}
		out.Message = Message{ptr: uintptr(e.ptr), how: uint32(e.how), n: out.Length}
		opened(Messages, 0)
	}
	return out
}

func (w *Worker) arena(off C.uint32_t, n int) []byte {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(w.w.arena), int(off))), n)
}

// Arm prepares the descriptor to wake a sleeper. false means that there is something to do first: call Progress and try again.
//
// Implements: ucs_status_t ucp_worker_arm(ucp_worker_h worker)
func (w *Worker) Arm() (bool, error) {
	switch st := C.ucp_worker_arm(w.w.worker); st {
	case C.UCS_OK:
		return true, nil
	case C.UCS_ERR_BUSY:
		return false, nil
	default:
		return false, check(st)
	}
}

// Signal makes the descriptor ready. Unlike all else it may be called at any time before Close.
//
// Implements: ucs_status_t ucp_worker_signal(ucp_worker_h worker)
func (w *Worker) Signal() error { return check(C.ucp_worker_signal(w.w.worker)) }

// FD lends the descriptor that Arm arms, or -1. It lives until Close.
func (w *Worker) FD() int { return w.fd }

// Address returns what AcceptAddress of another Worker connects to, as bytes of the caller's.
//
// Implements: ucs_status_t ucp_worker_get_address(ucp_worker_h worker, ucp_address_t **address, size_t *length),
// void ucp_worker_release_address(ucp_worker_h worker, ucp_address_t *address)
func (w *Worker) Address() ([]byte, error) {
	var addr *C.ucp_address_t
	var n C.size_t
	if err := check(C.ucp_worker_get_address(w.w.worker, &addr, &n)); err != nil {
		return nil, err
	}
	defer C.ucp_worker_release_address(w.w.worker, addr)
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(addr)), int(n))...), nil
}

// Flush waits, by its Event, for all that was sent before.
//
// Implements: ucs_status_ptr_t ucp_worker_flush_nbx(ucp_worker_h worker, const ucp_request_param_t *param)
func (w *Worker) Flush(token uint64) (Result, error) {
	return result(C.pxu_worker_flush(w.w, C.uint64_t(token)))
}

// Cancel asks an operation that is under way to end; its Event still comes, with ErrCanceled or as if nothing had happened. Only receives by tag, and
// what has not begun to be sent, can be canceled; anything else ends by itself or with its endpoint.
//
// Implements: void ucp_request_cancel(ucp_worker_h worker, void *request)
func (w *Worker) Cancel(r Result) {
	if r.op != 0 {
		C.pxu_cancel(w.w, pointer(r.op))
	}
}

// Pending returns how many operations are under way.
func (w *Worker) Pending() int { return int(w.w.waiting) }

// Close frees the worker. Everything made from it must be closed, except endpoints that are not watched, and no operation may be under way but on
// these: whose Events no longer come.
//
// Implements: void ucp_worker_destroy(ucp_worker_h worker)
func (w *Worker) Close() {
	if w.closed.Swap(true) {
		return
	}
	live[Operations].handles.Add(-int64(w.w.waiting))
	C.pxu_worker_destroy(w.w)
	closed(Workers, 0)
}

// pointer makes a pointer of a C address that Go kept as a number.
func pointer(p uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

// result reports how an operation started.
func result(r C.pxu_result) (Result, error) {
	switch {
	case r.status < 0:
		return Result{Done: true}, Status(r.status)
	case r.status == inProgress:
		opened(Operations, 0)
		return Result{op: uintptr(r.request)}, nil
	}
	return Result{Done: true, Length: int(r.length), Tag: uint64(r.tag)}, nil
}

// data returns the address of b, also of an empty one.
func data(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }

// flat is an address as the shim takes it.
type flat struct {
	family C.int
	addr   [16]byte
	scope  C.uint32_t
	port   C.uint16_t
}

func flatten(a netip.AddrPort) (flat, error) {
	f := flat{port: C.uint16_t(a.Port())}
	addr := a.Addr().Unmap()
	switch {
	case addr.Is4():
		f.family = 4
		b := addr.As4()
		copy(f.addr[:], b[:])
	case addr.Is6():
		f.family = 6
		f.addr = addr.As16()
		if zone := addr.Zone(); zone != "" {
			index, err := zoneIndex(zone)
			if err != nil {
				return f, err
			}
			f.scope = C.uint32_t(index)
		}
	default:
		return f, fmt.Errorf("ucx: %v is no IP address", a)
	}
	return f, nil
}

func (f *flat) addrPort() netip.AddrPort {
	switch f.family {
	case 4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(f.addr[:4])), uint16(f.port))
	case 6:
		return netip.AddrPortFrom(netip.AddrFrom16(f.addr).WithZone(zoneName(uint32(f.scope))), uint16(f.port))
	}
	return netip.AddrPort{}
}

// A Listener turns connection requests into Events.
type Listener struct{ l *C.pxu_listener }

// Listen takes connection requests at addr; port 0 is any. Token comes with each of them.
//
// Implements: ucs_status_t ucp_listener_create(ucp_worker_h worker, const ucp_listener_params_t *params, ucp_listener_h *listener)
func (w *Worker) Listen(addr netip.AddrPort, token uint64) (*Listener, error) {
	f, err := flatten(addr)
	if err != nil {
		return nil, err
	}
	l := &Listener{}
	if err := check(C.pxu_listen(w.w, f.family, unsafe.Pointer(&f.addr), f.scope, f.port, C.uint64_t(token), &l.l)); err != nil {
		return nil, fmt.Errorf("listening at %v: %w", addr, err)
	}
	opened(Listeners, 0)
	return l, nil
}

// Addr returns the address with the port that was taken.
//
// Implements: ucs_status_t ucp_listener_query(ucp_listener_h listener, ucp_listener_attr_t *attr)
func (l *Listener) Addr() (netip.AddrPort, error) {
	var f flat
	if err := check(C.pxu_listener_addr(l.l, &f.family, unsafe.Pointer(&f.addr), &f.scope, &f.port)); err != nil {
		return netip.AddrPort{}, err
	}
	return f.addrPort(), nil
}

// Reject refuses a request. It takes c.
//
// Implements: ucs_status_t ucp_listener_reject(ucp_listener_h listener, ucp_conn_request_h conn_request)
func (l *Listener) Reject(c Conn) error {
	closed(Connections, 0)
	return check(C.pxu_listener_reject(l.l, pointer(uintptr(c))))
}

// Close ends listening. Requests that came before may still be accepted, but no longer rejected.
//
// Implements: void ucp_listener_destroy(ucp_listener_h listener)
func (l *Listener) Close() {
	if l.l != nil {
		C.pxu_listener_destroy(l.l)
		l.l = nil
		closed(Listeners, 0)
	}
}

// Addr returns who asks.
//
// Implements: ucs_status_t ucp_conn_request_query(ucp_conn_request_h conn_request, ucp_conn_request_attr_t *attr)
func (c Conn) Addr() (netip.AddrPort, error) {
	var f flat
	if err := check(C.pxu_conn_addr(pointer(uintptr(c)), &f.family, unsafe.Pointer(&f.addr), &f.scope, &f.port)); err != nil {
		return netip.AddrPort{}, err
	}
	return f.addrPort(), nil
}

// An Endpoint is a connection to one peer.
type Endpoint struct {
	w *Worker
	e *C.pxu_ep
}

func (w *Worker) endpoint(e *C.pxu_ep, s C.ucs_status_t, to string) (*Endpoint, error) {
	if err := check(s); err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", to, err)
	}
	opened(Endpoints, 0)
	return &Endpoint{w: w, e: e}, nil
}

// Connect starts a connection to a Listener. It returns at once: what cannot be reached shows by an EndpointError with this token. identify tells the
// listener the worker's ClientID.
//
// Implements: ucs_status_t ucp_ep_create(ucp_worker_h worker, const ucp_ep_params_t *params, ucp_ep_h *ep)
func (w *Worker) Connect(addr netip.AddrPort, identify bool, token uint64) (*Endpoint, error) {
	f, err := flatten(addr)
	if err != nil {
		return nil, err
	}
	var id C.int
	if identify {
		id = 1
	}
	var e *C.pxu_ep
	s := C.pxu_connect(w.w, f.family, unsafe.Pointer(&f.addr), f.scope, f.port, id, C.uint64_t(token), &e)
	return w.endpoint(e, s, addr.String())
}

// Accept turns a connection request into an Endpoint. It takes c, and may be called of another Worker than the Listener's.
func (w *Worker) Accept(c Conn, token uint64) (*Endpoint, error) {
	closed(Connections, 0)
	var e *C.pxu_ep
	s := C.pxu_accept(w.w, pointer(uintptr(c)), C.uint64_t(token), &e)
	return w.endpoint(e, s, "a client")
}

// ConnectWorker connects to the Worker with that Address, which it borrows. libucp trusts its contents. watch asks for EndpointErrors, as all other
// endpoints have them. Shared memory has none (as of 1.13 libucp chooses it only for endpoints that are not watched), so the caller must learn by
// other means that the peer is gone; then operations may never end, and the endpoint ends with its Worker: Abandon.
func (w *Worker) ConnectWorker(address []byte, watch bool, token uint64) (*Endpoint, error) {
	if len(address) == 0 {
		return nil, errors.New("ucx: empty worker address")
	}
	var e *C.pxu_ep
	var mode C.int
	if watch {
		mode = 1
	}
	s := C.pxu_connect_worker(w.w, data(address), mode, C.uint64_t(token), &e)
	return w.endpoint(e, s, "a worker")
}

// Handle names the endpoint in Events.
func (e *Endpoint) Handle() Handle { return Handle(uintptr(unsafe.Pointer(e.e.h))) }

// Info returns libucp's description of the endpoint: its lanes.
//
// Implements: void ucp_ep_print_info(ucp_ep_h ep, FILE *stream)
func (e *Endpoint) Info() string { return text(C.pxu_ep_text(e.e)) }

// Transports returns what libucp chose, without repetition: "posix/memory", "tcp/eth0", "rc_mlx5/mlx5_0:1". It is complete when the peer has
// answered.
func (e *Endpoint) Transports() []string { return lanes(e.Info()) }

// Flush waits, by its Event, until the peer has all that was sent.
//
// Implements: ucs_status_ptr_t ucp_ep_flush_nbx(ucp_ep_h ep, const ucp_request_param_t *param)
func (e *Endpoint) Flush(token uint64) (Result, error) {
	return result(C.pxu_ep_flush(e.w.w, e.e, C.uint64_t(token)))
}

// Close starts to close the endpoint: after what was sent has arrived or, by force, at once, when operations under way end with ErrCanceled. After it,
// only Free.
//
// Implements: ucs_status_ptr_t ucp_ep_close_nbx(ucp_ep_h ep, const ucp_request_param_t *param)
func (e *Endpoint) Close(force bool, token uint64) (Result, error) {
	var f C.int
	if force {
		f = 1
	}
	return result(C.pxu_ep_close(e.w.w, e.e, f, C.uint64_t(token)))
}

// Free ends the Endpoint, when its Close has ended and all its events have been taken.
func (e *Endpoint) Free() {
	if e.e != nil {
		C.pxu_ep_free(e.e)
		e.e = nil
		closed(Endpoints, 0)
	}
}

// HandleMessages makes active messages of that id Events.
//
// Implements: ucs_status_t ucp_worker_set_am_recv_handler(ucp_worker_h worker, const ucp_am_handler_param_t *param)
func (w *Worker) HandleMessages(id uint16) error { return check(C.pxu_am_handler(w.w, C.uint(id))) }

// SendMessage sends an active message. Header and body are as the package comment says of memory.
//
// Implements: ucs_status_ptr_t ucp_am_send_nbx(ucp_ep_h ep, unsigned id, const void *header, size_t header_length, const void *buffer, size_t count,
// const ucp_request_param_t *param)
func (e *Endpoint) SendMessage(id uint16, header, body []byte, f SendFlags, token uint64) (Result, error) {
	return result(C.pxu_am_send(e.w.w, e.e, C.uint(id), data(header), C.size_t(len(header)), data(body), C.size_t(len(body)), C.uint(f), C.uint64_t(token)))
}

// RecvMessage moves a message's bytes into dst, which must have room for all. It takes m, on error too. Eager bytes are copied before it returns.
//
// Implements: ucs_status_ptr_t ucp_am_recv_data_nbx(ucp_worker_h worker, void *data_desc, void *buffer, size_t count, const ucp_request_param_t *param)
func (w *Worker) RecvMessage(m Message, dst []byte, token uint64) (Result, error) {
	if len(dst) < m.n {
		w.ReleaseMessage(m)
		return Result{Done: true}, ErrTruncated
	}
	if m.how != messageRendezvous || m.n == 0 { // libucp 1.13 forgets an empty one that is fetched
		copy(dst, w.MessageBytes(m))
		w.ReleaseMessage(m)
		return Result{Done: true, Length: m.n}, nil
	}
	closed(Messages, 0)
	return result(C.pxu_am_recv(w.w, pointer(m.ptr), data(dst), C.size_t(m.n), C.uint64_t(token)))
}

// MessageBytes lends a message's bytes until it is released; nil if they are Remote.
func (w *Worker) MessageBytes(m Message) []byte {
	if m.how == messageRendezvous || m.ptr == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(pointer(m.ptr)), m.n)
}

// ReleaseMessage drops a message. The sender of a Remote one is told that it was received.
//
// Implements: void ucp_am_data_release(ucp_worker_h worker, void *data)
func (w *Worker) ReleaseMessage(m Message) {
	closed(Messages, 0)
	if m.how == messageCopied {
		C.pxu_am_free(w.w, pointer(m.ptr))
		return
	}
	C.pxu_am_release(w.w, pointer(m.ptr))
}

// SendTag sends a message to the receive that matches tag.
//
// Implements: ucs_status_ptr_t ucp_tag_send_nbx(ucp_ep_h ep, const void *buffer, size_t count, ucp_tag_t tag, const ucp_request_param_t *param)
func (e *Endpoint) SendTag(tag uint64, body []byte, token uint64) (Result, error) {
	return result(C.pxu_tag_send(e.w.w, e.e, C.uint64_t(tag), data(body), C.size_t(len(body)), C.uint64_t(token)))
}

// SendTagParts is SendTag of a message in several parts. The slice of them it borrows until it returns; the parts are as the package comment says of
// memory, and Go's must be pinned before.
func (e *Endpoint) SendTagParts(tag uint64, parts [][]byte, token uint64) (Result, error) {
	list := C.pxu_parts(C.size_t(max(len(parts), 1)))
	if list == nil {
		return Result{Done: true}, ErrNoMemory
	}
	n := 0
	for _, p := range parts {
		if len(p) > 0 {
			C.pxu_part(list, C.size_t(n), data(p), C.size_t(len(p)))
			n++
		}
	}
	return result(C.pxu_tag_sendv(e.w.w, e.e, C.uint64_t(tag), list, C.size_t(n), C.uint64_t(token)))
}

// RecvTag receives the next message whose tag equals tag in the bits of mask. One that is longer than dst is ErrTruncated.
//
// Implements: ucs_status_ptr_t ucp_tag_recv_nbx(ucp_worker_h worker, void *buffer, size_t count, ucp_tag_t tag, ucp_tag_t tag_mask,
// const ucp_request_param_t *param)
func (w *Worker) RecvTag(tag, mask uint64, dst []byte, token uint64) (Result, error) {
	return result(C.pxu_tag_recv(w.w, C.uint64_t(tag), C.uint64_t(mask), data(dst), C.size_t(len(dst)), C.uint64_t(token)))
}

// ProbeTag returns the length and the tag of a message that has arrived and that no receive waits for.
//
// Implements: ucp_tag_message_h ucp_tag_probe_nb(ucp_worker_h worker, ucp_tag_t tag, ucp_tag_t tag_mask, int remove, ucp_tag_recv_info_t *info)
func (w *Worker) ProbeTag(tag, mask uint64) (length int, sender uint64, ok bool) {
	var n, s C.uint64_t
	if C.pxu_tag_probe(w.w, C.uint64_t(tag), C.uint64_t(mask), &n, &s) == 0 {
		return 0, 0, false
	}
	return int(n), uint64(s), true
}

// SendStream sends bytes in order.
//
// Implements: ucs_status_ptr_t ucp_stream_send_nbx(ucp_ep_h ep, const void *buffer, size_t count, const ucp_request_param_t *param)
func (e *Endpoint) SendStream(body []byte, token uint64) (Result, error) {
	return result(C.pxu_stream_send(e.w.w, e.e, data(body), C.size_t(len(body)), C.uint64_t(token)))
}

// RecvStream receives exactly len(dst) bytes.
//
// Implements: ucs_status_ptr_t ucp_stream_recv_nbx(ucp_ep_h ep, void *buffer, size_t count, size_t *length, const ucp_request_param_t *param)
func (e *Endpoint) RecvStream(dst []byte, token uint64) (Result, error) {
	return result(C.pxu_stream_recv(e.w.w, e.e, data(dst), C.size_t(len(dst)), C.uint64_t(token)))
}

// StreamReady returns an endpoint whose stream has bytes that no RecvStream waits for, and each once until it is received from. 0: there is none.
//
// Implements: ssize_t ucp_stream_worker_poll(ucp_worker_h worker, ucp_stream_poll_ep_t *poll_eps, size_t max_eps, unsigned flags)
func (w *Worker) StreamReady() Handle {
	return Handle(uintptr(unsafe.Pointer(C.pxu_stream_ready(w.w))))
}

// Put writes body into the peer's memory at addr. The peer has it when a Flush after it has ended.
//
// Implements: ucs_status_ptr_t ucp_put_nbx(ucp_ep_h ep, const void *buffer, size_t count, uint64_t remote_addr, ucp_rkey_h rkey,
// const ucp_request_param_t *param)
func (e *Endpoint) Put(body []byte, addr uint64, key *RemoteKey, token uint64) (Result, error) {
	return result(C.pxu_put(e.w.w, e.e, data(body), C.size_t(len(body)), C.uint64_t(addr), key.h, C.uint64_t(token)))
}

// Get reads the peer's memory at addr into dst. local is the registration of dst, or nil.
//
// Implements: ucs_status_ptr_t ucp_get_nbx(ucp_ep_h ep, void *buffer, size_t count, uint64_t remote_addr, ucp_rkey_h rkey,
// const ucp_request_param_t *param)
func (e *Endpoint) Get(dst []byte, addr uint64, key *RemoteKey, local *Memory, token uint64) (Result, error) {
	var mem C.ucp_mem_h
	if local != nil {
		mem = local.h
	}
	return result(C.pxu_get(e.w.w, e.e, data(dst), C.size_t(len(dst)), C.uint64_t(addr), key.h, mem, C.uint64_t(token)))
}

// Memory is memory that devices may reach.
type Memory struct {
	c    *Context
	h    C.ucp_mem_h
	base uintptr
	n    int
	pin  runtime.Pinner
	own  bool
}

// Register lets devices reach mem, which stays pinned, and must stay allocated, until Close.
//
// Implements: ucs_status_t ucp_mem_map(ucp_context_h context, const ucp_mem_map_params_t *params, ucp_mem_h *memh),
// ucs_status_t ucp_mem_query(const ucp_mem_h memh, ucp_mem_attr_t *attr)
func (c *Context) Register(mem []byte) (*Memory, error) {
	if len(mem) == 0 {
		return nil, errors.New("ucx: no memory to register")
	}
	m := &Memory{c: c, n: len(mem)}
	m.pin.Pin(unsafe.SliceData(mem))
	if err := m.mapped(data(mem)); err != nil {
		m.pin.Unpin()
		return nil, fmt.Errorf("registering %d bytes (ulimit -l?): %w", m.n, err)
	}
	m.base = uintptr(data(mem)) // libucp may have rounded
	return m, nil
}

// Alloc returns new registered memory of libucp's, for which it chooses the kind that its devices reach best.
func (c *Context) Alloc(n int) (*Memory, error) {
	if n <= 0 {
		return nil, errors.New("ucx: no memory to allocate")
	}
	m := &Memory{c: c, n: n, own: true}
	if err := m.mapped(nil); err != nil {
		return nil, fmt.Errorf("allocating %d registered bytes: %w", n, err)
	}
	return m, nil
}

func (m *Memory) mapped(addr unsafe.Pointer) error {
	var base unsafe.Pointer
	if err := check(C.pxu_mem_map(m.c.h, addr, C.size_t(m.n), &m.h, &base)); err != nil {
		return err
	}
	m.base = uintptr(base)
	opened(Memories, m.n)
	return nil
}

// Bytes lends the memory of an Alloc until Close; nil for a Register.
func (m *Memory) Bytes() []byte {
	if !m.own || m.h == nil {
		return nil
	}
	return unsafe.Slice((*byte)(pointer(m.base)), m.n)
}

// Addr returns the address that the peer names.
func (m *Memory) Addr() uint64 { return uint64(m.base) }

// Len returns the number of bytes.
func (m *Memory) Len() int { return m.n }

// Key returns what the peer needs to reach the memory, as bytes of the caller's.
//
// Implements: ucs_status_t ucp_rkey_pack(ucp_context_h context, ucp_mem_h memh, void **rkey_buffer, size_t *size),
// void ucp_rkey_buffer_release(void *rkey_buffer)
func (m *Memory) Key() ([]byte, error) {
	var buf unsafe.Pointer
	var n C.size_t
	if err := check(C.ucp_rkey_pack(m.c.h, m.h, &buf, &n)); err != nil {
		return nil, err
	}
	defer C.ucp_rkey_buffer_release(buf)
	return append([]byte(nil), unsafe.Slice((*byte)(buf), int(n))...), nil
}

// Close ends the registration, and frees what Alloc allocated. No operation may use it any more.
//
// Implements: ucs_status_t ucp_mem_unmap(ucp_context_h context, ucp_mem_h memh)
func (m *Memory) Close() error {
	if m.h == nil {
		return nil
	}
	err := check(C.ucp_mem_unmap(m.c.h, m.h))
	m.h = nil
	m.pin.Unpin()
	closed(Memories, m.n)
	return err
}

// RemoteKey lets an Endpoint reach a peer's Memory.
type RemoteKey struct{ h C.ucp_rkey_h }

// UnpackKey reads a key that the peer packed, which it borrows.
//
// Implements: ucs_status_t ucp_ep_rkey_unpack(ucp_ep_h ep, const void *rkey_buffer, ucp_rkey_h *rkey)
func (e *Endpoint) UnpackKey(key []byte) (*RemoteKey, error) {
	if len(key) == 0 || len(key) > maxKey {
		return nil, fmt.Errorf("ucx: a remote key of %d bytes", len(key))
	}
	// libucp is not told the length. Zeros after the end keep whatever the bytes claim inside memory of ours.
	padded := make([]byte, keyRoom)
	copy(padded, key)
	k := &RemoteKey{}
	if err := check(C.ucp_ep_rkey_unpack(e.e.h, data(padded), &k.h)); err != nil {
		return nil, fmt.Errorf("unpacking a remote key: %w", err)
	}
	opened(RemoteKeys, 0)
	return k, nil
}

// Close frees the key. No operation may use it any more.
//
// Implements: void ucp_rkey_destroy(ucp_rkey_h rkey)
func (k *RemoteKey) Close() {
	if k.h != nil {
		C.ucp_rkey_destroy(k.h)
		k.h = nil
		closed(RemoteKeys, 0)
	}
}
