package ucx

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/cgo/ucx"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// What ucx-py does (ucp/core.py): when an endpoint is made, both sides tell each other over its stream which tags they receive at, the listener first.
// An object is two tag messages, its length and itself. Who closes says so at the control tag, with the number of messages that he has sent.
const (
	peerInfoSize = 24
	controlSize  = 16
	controlClose = 1
)

// peerInfo is what the two sides tell each other: exchange_peer_info.
type peerInfo struct{ message, control uint64 }

func (p peerInfo) append(dst []byte) []byte {
	dst = binary.NativeEndian.AppendUint64(dst, p.message)
	dst = binary.NativeEndian.AppendUint64(dst, p.control)
	return binary.NativeEndian.AppendUint64(dst, p.sum())
}

// sum is hash64bits(message, control): it hashes their Python text.
func (p peerInfo) sum() uint64 {
	b := append([]byte(nil), '(')
	b = strconv.AppendUint(b, p.message, 10)
	b = append(b, ", "...)
	b = strconv.AppendUint(b, p.control, 10)
	h := sha1.Sum(append(b, ')'))
	return binary.BigEndian.Uint64(h[:])
}

func parsePeerInfo(b []byte) (p peerInfo, err error) {
	if len(b) != peerInfoSize {
		return p, fmt.Errorf("%w: %d bytes of peer information", transport.ErrCorrupt, len(b))
	}
	p.message, p.control = binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:])
	if p.sum() != binary.NativeEndian.Uint64(b[16:]) {
		return p, fmt.Errorf("%w: the checksum of the peer's information is wrong: it does not speak ucx-py's protocol", transport.ErrCorrupt)
	}
	return p, nil
}

// A talk is one endpoint in ucx-py's manner.
type talk struct {
	e      *engine
	p      *endpoint
	mine   peerInfo
	theirs peerInfo
	sent   uint64 // messages
	max    int64
	pool   *transport.Pool
	over   error // why there is nothing to wait for any more
	bye    op    // the receive of the control message
}

// attach makes the endpoint a talk. Under mu.
func (t *talk) attach(p *endpoint) {
	var b [16]byte
	_, _ = rand.Read(b[:])
	t.mine = peerInfo{binary.NativeEndian.Uint64(b[:]), binary.NativeEndian.Uint64(b[8:])}
	t.p = p
	p.fail = func() { t.end(fmt.Errorf("%w: the connection broke: %w", transport.ErrUnavailable, p.err)) }
	if p.err != nil {
		p.fail()
	}
}

// end makes all waits return, but those for libucp to give memory back. Under mu.
func (t *talk) end(err error) {
	if t.over == nil {
		t.over = err
		t.e.changed()
	}
}

// awaited is an operation of a talk.
type awaited struct {
	t     *talk
	o     *op
	orBye bool
}

func (a *awaited) ready() bool { return a.o.done || a.t.over != nil || a.orBye && a.t.bye.done }

// await waits for an operation, which ends too early only with its memory free again. Under mu.
func (t *talk) await(o *op, orBye bool) error {
	err := t.e.wait(&awaited{t, o, orBye})
	if o.done {
		return o.err
	}
	if err == nil {
		err = t.over
	}
	if err == nil {
		err = io.EOF
	}
	t.e.w.Cancel(o.result) // a receive by tag ends by that, everything else with its endpoint
	t.e.kick()
	t.p.close()
	if ferr := t.e.finish(o); o.done && ferr == nil {
		return nil // it had ended all the same
	}
	return err
}

// open exchanges the tags. Under mu.
func (t *talk) open(listener bool) error {
	send := func() error {
		b := t.mine.append(nil)
		o := new(op)
		token := t.e.next()
		r, err := t.p.ep.SendStream(b, token)
		t.e.started(o, token, r, err)
		o.hold(b)
		return t.await(o, false)
	}
	if listener {
		if err := send(); err != nil {
			return err
		}
	}
	b := make([]byte, peerInfoSize)
	o := new(op)
	token := t.e.next()
	r, err := t.p.ep.RecvStream(b, token)
	t.e.started(o, token, r, err)
	o.hold(b)
	if err := t.await(o, false); err != nil {
		return err
	}
	if t.theirs, err = parsePeerInfo(b); err != nil {
		return err
	}
	if !listener {
		return send()
	}
	return nil
}

// watchBye posts the receive of the control message. Under mu.
func (t *talk) watchBye() {
	b := make([]byte, controlSize)
	token := t.e.next()
	r, err := t.e.w.RecvTag(t.mine.control, ^uint64(0), b, token)
	t.e.started(&t.bye, token, r, err)
	t.bye.hold(b)
}

// recv receives one message of exactly len(b) bytes. Under mu.
func (t *talk) recv(b []byte, orBye bool) error {
	if t.p.ep == nil {
		return t.broken()
	}
	o := new(op)
	token := t.e.next()
	r, err := t.e.w.RecvTag(t.mine.message, ^uint64(0), b, token)
	t.e.started(o, token, r, err)
	o.hold(b)
	if err := t.await(o, orBye); err != nil {
		return err
	}
	if o.length != len(b) {
		return fmt.Errorf("%w: a message of %d bytes where %d were announced", transport.ErrCorrupt, o.length, len(b))
	}
	return nil
}

func (t *talk) broken() error {
	if t.over != nil {
		return t.over
	}
	return fmt.Errorf("%w: the connection broke", transport.ErrUnavailable)
}

// believed is how long a message may claim to be before memory for it is there. For a longer one it must have begun to arrive.
const believed = 64 << 10

// arriving waits for a message that nobody receives yet.
type arriving struct {
	t      *talk
	length int
	ok     bool
}

func (a *arriving) ready() bool {
	if !a.ok && a.t.p.ep != nil {
		a.length, _, a.ok = a.t.e.w.ProbeTag(a.t.mine.message, ^uint64(0))
	}
	return a.ok || a.t.over != nil
}

// announced waits for the message that was said to be n bytes long. libucp knows its length when its first piece is here. Under mu.
func (t *talk) announced(n int) error {
	a := &arriving{t: t}
	t.e.probing++
	err := t.e.wait(a)
	t.e.probing--
	switch {
	case err != nil:
		return err
	case !a.ok:
		return t.broken()
	case a.length != n:
		return fmt.Errorf("%w: a message of %d bytes where %d were announced", transport.ErrCorrupt, a.length, n)
	}
	return nil
}

// recvObject is recv_obj; the caller owns the Buffer. Under mu.
func (t *talk) recvObject(orBye bool) (*transport.Buffer, error) {
	var size [8]byte
	if err := t.recv(size[:], orBye); err != nil {
		return nil, err
	}
	n := binary.NativeEndian.Uint64(size[:])
	if n > uint64(t.max) {
		return nil, fmt.Errorf("%w: a message of %d bytes, at most %d are taken", transport.ErrTooLarge, n, t.max)
	}
	if n > believed {
		if err := t.announced(int(n)); err != nil {
			return nil, err
		}
	}
	b := t.pool.Get(int(n))
	if err := t.recv(b.Bytes(), false); err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

// send sends one message. Under mu.
func (t *talk) send(tag uint64, parts transport.Slices) error {
	if t.p.ep == nil || t.over != nil {
		return t.broken()
	}
	t.sent++
	o := new(op)
	for _, p := range parts {
		o.hold(p)
	}
	token := t.e.next()
	var r ucx.Result
	var err error
	switch {
	case parts.Len() == 0:
		r, err = t.p.ep.SendTag(tag, nil, token)
	case len(parts) == 1:
		r, err = t.p.ep.SendTag(tag, parts[0], token)
	default:
		r, err = t.p.ep.SendTagParts(tag, parts, token)
	}
	t.e.started(o, token, r, err)
	if o.done {
		o.unpin()
	}
	return t.await(o, false)
}

// sendObject is send_obj. Under mu.
func (t *talk) sendObject(obj transport.Slices) error {
	size := binary.NativeEndian.AppendUint64(nil, uint64(obj.Len()))
	if err := t.send(t.theirs.message, transport.Slices{size}); err != nil {
		return err
	}
	return t.send(t.theirs.message, obj)
}

// close ends the talk; politely: it says so first. Under mu.
func (t *talk) close(politely bool) {
	if politely && t.over == nil && t.p.ep != nil {
		late := time.AfterFunc(lingering, t.ender(transport.ErrClosed))
		defer late.Stop()
		b := binary.NativeEndian.AppendUint64(nil, controlClose)
		b = binary.NativeEndian.AppendUint64(b, t.sent)
		if t.send(t.theirs.control, transport.Slices{b}) == nil && t.p.ep != nil {
			o := new(op)
			token := t.e.next()
			r, err := t.p.ep.Flush(token)
			t.e.started(o, token, r, err)
			_ = t.await(o, false)
		}
	}
	t.p.close()
	if !t.bye.done {
		t.e.w.Cancel(t.bye.result)
		t.e.kick()
		_ = t.e.finish(&t.bye)
	}
	// A message that nobody receives any more would stay in libucp for ever.
	for range maxEarly {
		if _, _, ok := t.e.w.ProbeTag(t.mine.message, ^uint64(0)); !ok {
			return
		}
		o := new(op)
		token := t.e.next()
		r, err := t.e.w.RecvTag(t.mine.message, ^uint64(0), nil, token) // too short for it: libucp drops it
		t.e.started(o, token, r, err)
		if !o.done {
			t.e.w.Cancel(r)
			t.e.kick()
			_ = t.e.finish(o)
		}
	}
}

// python serves one client of ucx-py's. It takes conn.
func (s *Server) python(conn ucx.Conn) error {
	e := s.e
	e.lock()
	defer e.unlock()
	t := &talk{e: e, max: s.o.MaxMessage, pool: transport.DefaultPool}
	token := e.next()
	ep, err := e.w.Accept(conn, token)
	if err != nil {
		return err
	}
	t.attach(e.watch(ep, token, nil))
	defer t.close(false)
	stop := context.AfterFunc(s.ctx, func() {
		e.lock()
		t.end(transport.ErrClosed)
		e.unlock()
	})
	defer stop()
	patience, cancel := context.WithTimeout(s.ctx, s.o.HandshakeTimeout)
	late := context.AfterFunc(patience, func() {
		if s.ctx.Err() == nil {
			e.lock()
			t.end(fmt.Errorf("%w: no peer information", transport.ErrUnavailable))
			e.unlock()
		}
	})
	t.bye.done = true
	err = t.open(true)
	if !late() && err == nil {
		err = t.over
	}
	cancel()
	if err != nil {
		return err
	}
	t.bye.done = false
	t.watchBye()
	for {
		req, err := t.recvObject(true)
		if err != nil {
			return err
		}
		e.unlock()
		reply, release, err := s.o.Python(s.ctx, req)
		e.lock()
		if err == nil {
			err = t.sendObject(reply)
		}
		if release != nil {
			e.unlock()
			release()
			e.lock()
		}
		if err != nil {
			return err
		}
	}
}

// DialExchanger returns an Exchanger with the server of Python's UCXConnector at "host:port", or ours with a Python handler. As Python's client does, it
// makes an endpoint for each exchange; any number may be under way. ctx bounds only the start, which connects to nothing.
func DialExchanger(ctx context.Context, addr string, o DialOptions) (objects.Exchanger, error) {
	o = o.withDefaults()
	addrs, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	return dialExchanger(o, addrs)
}

func dialExchanger(o DialOptions, addrs []netip.AddrPort) (objects.Exchanger, error) {
	uc, err := openContext(addrs[0], o.Config, o.Keepalive, 0)
	if err != nil {
		return nil, err
	}
	e, err := newEngine(uc, ucx.WorkerOptions{}, o.BusyPoll)
	if err != nil {
		uc.Close()
		return nil, err
	}
	return newExchanger(o, uc, e, addrs), nil
}

func newExchanger(o DialOptions, uc *ucx.Context, e *engine, addrs []netip.AddrPort) *exchanger {
	x := &exchanger{o: o, uc: uc, e: e, addrs: addrs}
	x.ctx, x.cancel = context.WithCancelCause(context.Background())
	// An endpoint that is closed is not gone before its worker has made some progress more, and a server of ucx-py's stands still until it is: it flushes
	// its own endpoint, in a loop, when it lets go of it. So the worker is driven also when no exchange waits for anything.
	x.driver.Go(func() {
		e.lock()
		_ = e.wait(never{})
		e.unlock()
	})
	return x
}

type exchanger struct {
	o      DialOptions
	uc     *ucx.Context
	e      *engine
	addrs  []netip.AddrPort
	ctx    context.Context
	cancel context.CancelCauseFunc
	first  *talk // made by Connect, for the first exchange; under the engine's mu
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // of exchanges
	driver sync.WaitGroup
	once   sync.Once
}

// Exchange implements objects.Exchanger.
func (x *exchanger) Exchange(ctx context.Context, req transport.Slices) (*transport.Buffer, error) {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil, transport.ErrClosed
	}
	x.wg.Add(1)
	x.mu.Unlock()
	defer x.wg.Done()
	var errs []error
	for _, a := range x.addrs {
		b, connected, err := x.exchange(ctx, a, req)
		switch {
		case err == nil:
			return b, nil
		case x.ctx.Err() != nil:
			return nil, transport.ErrClosed
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case connected:
			return nil, err
		}
		errs = append(errs, fmt.Errorf("exchange with %v: %w", a, err))
	}
	return nil, errors.Join(errs...)
}

func (x *exchanger) exchange(ctx context.Context, a netip.AddrPort, req transport.Slices) (b *transport.Buffer, connected bool, err error) {
	e := x.e
	e.lock()
	defer e.unlock()
	t := x.takeFirst()
	if t == nil {
		token := e.next()
		ep, err := e.w.Connect(a, false, token)
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
		}
		if t, err = x.adopt(ctx, e.watch(ep, token, nil)); err != nil {
			return nil, false, err
		}
	}
	defer context.AfterFunc(ctx, t.ender(context.Canceled))()
	defer context.AfterFunc(x.ctx, t.ender(transport.ErrClosed))()
	if err = t.sendObject(req); err == nil {
		b, err = t.recvObject(false)
	}
	t.close(err == nil)
	return b, true, unavailable(err)
}

// takeFirst returns the talk that Connect made, if it is still good. Under mu.
func (x *exchanger) takeFirst() *talk {
	t := x.first
	x.first = nil
	if t == nil {
		return nil
	}
	x.e.progress(spins) // the server may have gone since
	if t.over != nil {
		t.close(false)
		return nil
	}
	return t
}

// adopt makes an endpoint a talk, whose tags it exchanges; on error it closes it. Under mu.
func (x *exchanger) adopt(ctx context.Context, p *endpoint) (*talk, error) {
	t := &talk{e: x.e, max: x.o.MaxMessage, pool: x.o.Pool}
	t.attach(p)
	t.bye.done = true
	defer context.AfterFunc(ctx, t.ender(context.Canceled))()
	defer context.AfterFunc(x.ctx, t.ender(transport.ErrClosed))()
	patience, cancel := context.WithTimeout(ctx, x.o.ConnectTimeout)
	defer cancel()
	defer context.AfterFunc(patience, t.ender(fmt.Errorf("%w: no answer within %v", transport.ErrUnavailable, x.o.ConnectTimeout)))()
	err := t.open(false)
	if err == nil {
		err = t.over
	}
	if err != nil {
		t.close(false)
		return nil, unavailable(err)
	}
	return t, nil
}

// ender returns a function that ends the talk.
func (t *talk) ender(err error) func() {
	return func() {
		t.e.lock()
		t.end(err)
		t.e.unlock()
	}
}

// unavailable makes an error of libucp's one of ours.
func unavailable(err error) error {
	var status ucx.Status
	if errors.As(err, &status) && !errors.Is(err, transport.ErrUnavailable) {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	return err
}

// Close implements objects.Exchanger.
func (x *exchanger) Close() error {
	x.once.Do(func() {
		x.mu.Lock()
		x.closed = true
		x.mu.Unlock()
		x.cancel(transport.ErrClosed)
		x.wg.Wait()
		x.e.lock()
		if x.first != nil {
			x.first.close(true)
			x.first = nil
		}
		x.e.stop(transport.ErrClosed)
		x.e.unlock()
		x.driver.Wait()
		x.e.lock()
		x.e.shut()
		x.e.unlock()
		x.uc.Close()
	})
	return nil
}
