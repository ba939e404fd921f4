//go:build cgo && zmq

package zmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/cgo/zmq"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

const (
	// sendQueue is how many messages libzmq keeps for a peer that does not read. Long ones make the sender wait besides.
	sendQueue = 128
	// recvBatch is how many messages are received before they are handed out.
	recvBatch = 16
	// grace is how long after its link is closed a peer is hung up on, so that what was sent last leaves before.
	grace = 250 * time.Millisecond
	// partCost is what a part costs beside its bytes.
	partCost = 256
)

// queueMax is how many bytes may wait for the goroutine of a peer when one more message comes: beyond, it is hung up on. All peers' messages come
// from one socket, so that none of them can be made to wait but by making all wait. It must be far more than peers have in flight who wait for
// answers. Tests change it.
var queueMax = 1 << 30

// router is the acceptor over libzmq: one ROUTER socket, from which a goroutine receives for all peers, and to which they all send.
//
// A ROUTER names its peers, but does not say when one is gone, nor can it hang up on one. Both goes by the descriptor of the connection: each message
// says from which it came, and the socket's monitor which of them were closed.
type router struct {
	o     *ListenOptions
	serve func(link)
	addr  string
	local bool // a unix socket
	limit int
	ctx   *zmq.Context
	out   senders
	ready *zmq.Ready
	gone  sync.WaitGroup // goroutines of links
	sends sync.WaitGroup
	loops sync.WaitGroup

	mu      sync.Mutex // the socket belongs to who holds it
	sock    *zmq.Socket
	stopped bool
	closed  bool
	room    chan struct{} // closed when a peer's queue may have room again
	waiting int           // for room

	events  sync.Mutex // these belong to who holds it, the monitor's socket too
	mon     *zmq.Socket
	monitor *zmq.Ready
	open    map[int]bool      // descriptors of connections
	byFD    map[int][]*routed // who came over which
	lost    []*routed         // whose connection was closed, but who have not been told
	silent  map[int]*newcomer // connections over which no message has come yet

	peers map[string]*routed // by routing id; belongs to the goroutine that receives
	count int                // of peers that are served or were not hung up on
	end   chan struct{}      // closed when close begins
	done  chan struct{}      // and when it ends
	zap   *zmq.Ready
}

// listenLibzmq is listenFunc over libzmq.
func listenLibzmq(_ context.Context, a address, o *ListenOptions, serve func(link)) (acceptor, error) {
	fail := func(err error) (acceptor, error) {
		return nil, fmt.Errorf("zmq: listen on %s: %w", a, err)
	}
	if a.network == "unix" {
		if err := clearSocket(a.host); err != nil {
			return fail(err)
		}
	}
	r := &router{o: o, serve: serve, local: a.network == "unix", limit: libzmqBody, room: make(chan struct{}), end: make(chan struct{}),
		done: make(chan struct{}),
		open: map[int]bool{}, silent: map[int]*newcomer{}, byFD: map[int][]*routed{}, peers: map[string]*routed{}}
	var err error
	if r.ctx, err = zmq.NewContext(ioThreads(), 16); err != nil {
		return fail(err)
	}
	r.out.ctx = r.ctx
	if err := r.start(a); err != nil {
		r.close()
		return fail(err)
	}
	return r, nil
}

// start listens. After an error the router must be closed all the same.
func (r *router) start(a address) error {
	var keys func(*zmq.Socket) error
	if c := r.o.Curve; c != nil {
		r.limit = maxBoxed
		keys = func(s *zmq.Socket) error {
			return errors.Join(s.Set(zmq.CurveServer, 1), s.SetBytes(zmq.CurveSecretKey, c.SecretKey[:]))
		}
		if !c.AnyClient {
			if err := r.authenticate(c); err != nil {
				return err
			}
		}
	}
	s, err := newLibzmqSocket(r.ctx, a, zmq.Router, r.o.MaxMessage, r.o.HandshakeTimeout, keys)
	if err != nil {
		return err
	}
	r.sock = s
	if err := errors.Join(s.Set(zmq.RouterMandatory, 1), s.Set(zmq.SendHWM, sendQueue)); err != nil {
		return err
	}
	if r.ready, err = s.Ready(); err != nil {
		return err
	}
	if r.mon, err = r.ctx.Monitor(s, zmq.AllEvents); err != nil {
		return err
	}
	if r.monitor, err = r.mon.Ready(); err != nil {
		return err
	}
	if err := s.Bind(a.endpoint()); err != nil {
		return err
	}
	if r.addr, err = s.LastEndpoint(); err != nil {
		return err
	}
	if r.local && !strings.HasPrefix(a.host, "@") {
		if err := os.Chmod(a.host, 0o600); err != nil { // whoever may connect may read and write every object
			return err
		}
	}
	r.loops.Go(r.run)
	r.loops.Go(r.watch)
	return nil
}

func (r *router) address() string { return r.addr }

// stop implements acceptor. The address stays bound, since libzmq would close the connections with the listener: who comes is hung up on.
func (r *router) stop() {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
}

// close implements acceptor.
func (r *router) close() {
	r.stop()
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	if again {
		<-r.done
		return
	}
	defer close(r.done)
	close(r.end)
	if r.ready != nil {
		r.ready.Wake() // run closes the links, and goes on receiving, as libzmq's connections end only with its help
	}
	r.gone.Wait()
	r.sends.Wait()
	for _, ready := range []*zmq.Ready{r.ready, r.monitor, r.zap} {
		if ready != nil {
			ready.Close()
		}
	}
	r.loops.Wait()
	for _, p := range r.peers {
		p.finish()
	}
	if r.sock != nil {
		r.sock.Close()
	}
	r.events.Lock()
	if r.mon != nil {
		r.mon.Close()
		r.mon = nil // a cut that comes too late must find no descriptor to believe in
		for fd := range r.silent {
			r.heard(fd)
		}
	}
	r.events.Unlock()
	r.ctx.Close()
	r.out.close()
	if path, ok := strings.CutPrefix(r.addr, "ipc://"); ok && !strings.HasPrefix(path, "@") {
		os.Remove(path) // not every libzmq does
	}
}

// run receives for all peers.
func (r *router) run() {
	var batch []*part // messages, one after the other
	some := func() bool {
		batch = r.receive(batch)
		return len(batch) > 0
	}
	for {
		batch = batch[:0]
		err := r.ready.Wait(some)
		if err != nil && err != zmq.ErrWoken {
			releaseAll(batch)
			return
		}
		select {
		case <-r.end:
			for _, p := range r.peers {
				p.close() // what was sent leaves while the socket lingers
			}
		default:
		}
		r.events.Lock()
		lost := r.lost
		r.lost = nil
		r.events.Unlock()
		for more := len(lost) > 0; more; { // all that they have sent comes first
			n := len(batch)
			batch = r.receive(batch)
			more = len(batch) > n
		}
		for at, i := 0, 0; i < len(batch); i++ {
			if !batch[i].More() {
				r.dispatch(batch[at : i+1])
				at = i + 1
			}
		}
		clear(batch)
		for _, p := range lost {
			p.finish()
			if r.peers[string(p.id)] == p {
				delete(r.peers, string(p.id))
			}
			if !p.refused {
				r.count--
			}
		}
	}
}

// receive receives messages until there are none, or enough, and appends their parts to batch.
func (r *router) receive(batch []*part) []*part {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range recvBatch {
		for at := len(batch); ; {
			p := newPart()
			if err := r.sock.Receive(&p.Message); err != nil {
				parts.Put(p)
				releaseAll(batch[at:]) // none, but when the context ends
				r.mayHaveRoom()
				return batch[:at]
			}
			if batch = append(batch, p); !p.More() {
				break
			}
		}
	}
	return batch
}

func releaseAll(m []*part) {
	for _, p := range m {
		p.release()
	}
}

// mayHaveRoom makes senders that wait try again. The caller holds mu.
func (r *router) mayHaveRoom() {
	if r.waiting > 0 {
		r.waiting = 0
		close(r.room)
		r.room = make(chan struct{})
	}
}

// dispatch hands a message to its peer. It takes m, whose first part is the peer's routing id.
func (r *router) dispatch(m []*part) {
	p := r.peers[string(m[0].Bytes())]
	if p == nil {
		p = r.admit(m)
	}
	m[0].release()
	m = m[1:]
	if n := p.backlog(); n > queueMax {
		r.o.Logger.Warn("zmq: a peer was hung up on: it sends more than is read", "peer", p.name, "bytes", n, "limit", queueMax)
		p.close()
		r.cut(p)
	}
	if !p.push(m) {
		releaseAll(m)
	}
}

// admit makes a peer of who sent m.
func (r *router) admit(m []*part) *routed {
	fd := -1
	if len(m) > 1 {
		fd = m[1].SourceFD()
	}
	p := &routed{r: r, id: bytes.Clone(m[0].Bytes()), fd: fd, signal: make(chan struct{}, 1),
		dead: make(chan struct{})}
	r.peers[string(p.id)] = p
	r.events.Lock()
	r.follow() // what happened to this descriptor before
	switch {
	case r.open[fd]:
		r.heard(fd)
		p.connected = true
		r.byFD[fd] = append(r.byFD[fd], p)
		p.name, p.local = peerName(fd) // the descriptor may be closed by now, and another's: then follow says so
		r.follow()
	case fd >= 0:
		p.name = "a peer that is gone"
		r.lost = append(r.lost, p)
		r.ready.Wake()
	default: // a libzmq that does not say: that the peer is gone shows when something is sent to it
		p.name = "a peer"
	}
	r.events.Unlock()
	p.local = p.local || r.local || r.o.Curve != nil
	r.mu.Lock()
	stopped := r.stopped
	r.mu.Unlock()
	if r.count >= r.o.MaxConnections || stopped {
		p.refused = true
		p.close()
		if !stopped {
			r.o.Logger.Warn("zmq: a peer was turned away: too many connections", "peer", p.name, "limit", r.o.MaxConnections)
		}
		r.cut(p)
		return p
	}
	r.count++
	r.gone.Go(func() {
		r.serve(p)
		p.close()
	})
	return p
}

// peerName returns who is at the other end of a connection, and whether that is on this host.
func peerName(fd int) (string, bool) {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return "a peer that is gone", false
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		a := net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
		return a.String(), a.IP.IsLoopback()
	case *unix.SockaddrInet6:
		a := net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
		return a.String(), a.IP.IsLoopback()
	}
	return "a local peer", true
}

// watch follows the connections.
func (r *router) watch() {
	r.monitor.Wait(func() bool {
		r.events.Lock()
		r.follow()
		lost := len(r.lost) > 0
		r.events.Unlock()
		if lost {
			r.ready.Wake()
		}
		return false
	})
}

// follow takes note of what the monitor says. libzmq says that a descriptor's connection has ended before it closes the descriptor. The caller holds
// events.
func (r *router) follow() {
	for {
		e, err := r.mon.NextEvent()
		if err != nil {
			return
		}
		switch e.Kind {
		case zmq.Accepted:
			r.open[e.Value] = true
			if r.o.StallTimeout > 0 {
				n := &newcomer{fd: e.Value}
				n.timer = time.AfterFunc(r.o.StallTimeout, func() { r.hurry(n) })
				r.heard(e.Value)
				r.silent[e.Value] = n
			}
		case zmq.Disconnected, zmq.Closed:
			delete(r.open, e.Value)
			r.heard(e.Value)
			for _, p := range r.byFD[e.Value] {
				p.connected = false
				r.lost = append(r.lost, p)
			}
			delete(r.byFD, e.Value)
		case zmq.HandshakeAuth:
			r.o.Logger.Warn("zmq: a peer was refused: its key is not allowed", "status", e.Value)
		case zmq.AcceptFailed:
			r.o.Logger.Warn("zmq: accept failed", "address", r.addr, "error", zmq.Errno(e.Value))
		}
	}
}

// newcomer is a connection over which no whole message has come: libzmq does not show it to us otherwise.
type newcomer struct {
	fd    int
	timer *time.Timer
	got   uint64 // bytes that it had sent when we looked last
}

// heard says that fd is no newcomer any more. The caller holds events.
func (r *router) heard(fd int) {
	if n := r.silent[fd]; n != nil {
		n.timer.Stop()
		delete(r.silent, fd)
	}
}

// hurry hangs up on a newcomer who has sent nothing lately. Of a unix socket one cannot know.
func (r *router) hurry(n *newcomer) {
	r.events.Lock()
	defer r.events.Unlock()
	if r.mon == nil || r.local {
		return
	}
	fd, err := unix.FcntlInt(uintptr(n.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if r.follow(); r.silent[n.fd] != n { // as in cut
		return
	}
	if got, known := received(fd); !known || got != n.got {
		n.got = got
		n.timer.Reset(r.o.StallTimeout)
		return
	}
	name, _ := peerName(fd)
	r.o.Logger.Warn("zmq: a peer was hung up on", "peer", name, "error", fmt.Errorf("%w: nothing came or went for %v", transport.ErrUnavailable,
		r.o.StallTimeout))
	unix.Shutdown(fd, unix.SHUT_RDWR)
}

// cut ends the connection of a peer. libzmq notices that, and the monitor tells.
func (r *router) cut(p *routed) {
	r.events.Lock()
	defer r.events.Unlock()
	if r.mon == nil {
		return
	}
	if r.follow(); !p.connected {
		return
	}
	fd, err := unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return
	}
	// It is this connection's, and stays so, if libzmq has not closed its own until now.
	if r.follow(); p.connected {
		unix.Shutdown(fd, unix.SHUT_RDWR)
	}
	unix.Close(fd)
	if len(r.lost) > 0 {
		r.ready.Wake()
	}
}

// routed is a link over the router.
type routed struct {
	r         *router
	id        []byte
	name      string
	local     bool
	fd        int
	connected bool // by the router's events
	refused   bool
	sending   atomic.Int32 // sends that wait
	stall     atomic.Int64 // a time.Duration: see pacer

	reading sync.Mutex // incoming belongs to who holds it
	incoming

	writing sync.Mutex // one message at a time

	mu          sync.Mutex
	queue, room []*part
	bytes       int
	ended       bool // nothing will come any more
	interrupted bool
	closed      bool
	later       *time.Timer
	signal      chan struct{} // look again
	dead        chan struct{} // closed with ended or closed
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// push appends a message. It takes m, unless it returns false.
func (p *routed) push(m []*part) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.ended {
		return false
	}
	p.queue = append(p.queue, m...)
	if len(p.queue) == len(m) && cap(p.queue) <= 64 {
		p.room = p.queue // from its start, for when it is empty again
	}
	for _, part := range m {
		p.bytes += len(part.Bytes()) + partCost
	}
	notify(p.signal)
	return true
}

func (p *routed) backlog() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes
}

// finish says that the connection has ended. What came before can be read.
func (p *routed) finish() {
	p.mu.Lock()
	if !p.ended && !p.closed {
		close(p.dead)
	}
	p.ended = true
	if p.later != nil {
		p.later.Stop()
	}
	p.mu.Unlock()
	notify(p.signal)
}

// next implements link.
func (p *routed) next() (int64, bool, error) {
	p.reading.Lock()
	defer p.reading.Unlock()
	p.drop()
	for {
		p.mu.Lock()
		switch {
		case p.closed:
			p.mu.Unlock()
			return 0, false, p.broken(nil)
		case len(p.queue) > 0:
			part := p.queue[0]
			p.queue[0] = nil
			if p.queue = p.queue[1:]; len(p.queue) == 0 {
				p.queue = p.room[:0]
			}
			p.bytes -= len(part.Bytes()) + partCost
			p.mu.Unlock()
			return p.begin(part)
		case p.ended:
			p.mu.Unlock()
			return 0, false, io.EOF
		case p.interrupted:
			p.interrupted = false
			p.mu.Unlock()
			return 0, false, native.ErrInterrupted
		}
		p.mu.Unlock()
		<-p.signal
	}
}

// read implements link.
func (p *routed) read(dst []byte) (int, error) {
	p.reading.Lock()
	defer p.reading.Unlock()
	return p.incoming.read(dst)
}

// take implements link.
func (p *routed) take() (*transport.Buffer, bool) {
	p.reading.Lock()
	defer p.reading.Unlock()
	return p.incoming.take()
}

func (p *routed) broken(err error) error {
	if err == nil {
		err = net.ErrClosed
	}
	return fmt.Errorf("zmq: %s: %w: the connection broke: %w", p.name, transport.ErrUnavailable, err)
}

// send implements link.
func (p *routed) send(first, meta []byte, body transport.Slices, cut int) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	r := p.r
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return p.broken(nil)
	}
	r.sends.Add(1)
	defer r.sends.Done()
	out, err := r.out.get(r.sock)
	if err != nil {
		r.mu.Unlock()
		return p.broken(err)
	}
	p.sending.Add(1)
	defer p.sending.Add(-1)
	defer r.out.put(out)
	stall := time.Duration(p.stall.Load())
	var late <-chan time.Time
	for {
		if err = r.sock.Send(p.id, true); err == zmq.ErrAgain {
			r.sock.Events() // looks at what the peer has read
			r.mayHaveRoom()
			err = r.sock.Send(p.id, true)
		}
		if err != zmq.ErrAgain {
			break
		}
		room := r.room
		r.waiting++
		r.mu.Unlock()
		if late == nil && stall > 0 {
			t := time.NewTimer(stall)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-room:
		case <-p.dead:
			out.wait()
			return p.broken(nil)
		case <-late:
			out.wait()
			r.cut(p)
			return p.broken(fmt.Errorf("nothing came or went for %v", stall))
		}
		r.mu.Lock()
	}
	if err == nil {
		err = out.message(first, meta, body, cut)
	}
	e, _ := r.sock.Events() // sending may have swallowed the signal that something came
	r.mayHaveRoom()
	r.mu.Unlock()
	if e&zmq.CanReceive != 0 {
		r.ready.Nudge()
	}
	if stall > 0 {
		if e := p.paced(out, stall, body.Len(), cut); err == nil {
			err = e
		}
	}
	out.wait()
	if err != nil {
		return p.broken(err)
	}
	return nil
}

// pace implements pacer.
func (p *routed) pace(d time.Duration) { p.stall.Store(int64(max(d, 0))) }

// paced returns when libzmq has let go of a message of n bytes, or hangs up on a peer that takes too little of it in the time d.
func (p *routed) paced(out *outgoing, d time.Duration, n int64, cut int) error {
	if cut <= 0 {
		d *= time.Duration(1 + n/stride) // all that is known is whether all has left
	}
	t := time.NewTicker(d)
	defer t.Stop()
	out.tick.End()
	for left := out.tick.Held(); !out.tick.WaitUnless(t.C); {
		now := out.tick.Held()
		if int64(left-now)*int64(max(cut, 0)) < stride && now > 0 {
			p.r.cut(p)
			return fmt.Errorf("nothing came or went for %v", d)
		}
		left = now
	}
	return nil
}

// interrupt implements link.
func (p *routed) interrupt() {
	p.mu.Lock()
	p.interrupted = true
	p.mu.Unlock()
	notify(p.signal)
}

func (p *routed) trusted() bool  { return p.local }
func (p *routed) remote() string { return p.name }
func (p *routed) maxBody() int   { return p.r.limit }

// close implements link.
func (p *routed) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	busy := p.sending.Load() > 0 // a send waits, and shall end
	if !p.ended {
		close(p.dead)
		if !busy {
			p.later = time.AfterFunc(grace, func() { p.r.cut(p) })
		}
	}
	p.mu.Unlock()
	if busy {
		p.r.cut(p)
	}
	notify(p.signal)
	p.reading.Lock() // next has returned, or sees that it is closed
	p.incoming.end(p.broken(nil))
	p.mu.Lock()
	releaseAll(p.queue)
	p.queue, p.bytes = nil, 0
	p.mu.Unlock()
	p.reading.Unlock()
}

// authenticate answers libzmq's questions who may connect (RFC 27).
func (r *router) authenticate(c *CurveServer) error {
	s, err := r.ctx.NewSocket(zmq.Rep)
	if err != nil {
		return err
	}
	ready, err := s.Ready()
	if err == nil {
		err = errors.Join(s.Set(zmq.Linger, 0), s.Bind("inproc://zeromq.zap.01"))
	}
	if err != nil {
		s.Close()
		return err
	}
	r.zap = ready
	r.loops.Go(func() {
		defer s.Close()
		ready.Wait(func() bool {
			for {
				var ask [][]byte
				for more := true; more; {
					var m zmq.Message
					if s.Receive(&m) != nil {
						return false
					}
					ask = append(ask, bytes.Clone(m.Bytes()))
					more = m.More()
					m.Close()
				}
				status, text := "400", "not allowed"
				if len(ask) == 7 && string(ask[0]) == "1.0" && string(ask[5]) == "CURVE" && len(ask[6]) == len(CurveKey{}) {
					if key := CurveKey(ask[6]); slices.Contains(c.AllowedClients, key) {
						status, text = "200", "OK"
					} else {
						r.o.Logger.Warn("zmq: a peer was refused", "address", string(ask[3]), "error",
							fmt.Errorf("%w: it has the key %s, which is not allowed", transport.ErrDenied, key.Z85()))
					}
				}
				if len(ask) < 2 {
					ask = append(ask, nil, nil)
				}
				for i, p := range []string{"1.0", string(ask[1]), status, text, "", ""} {
					s.Send([]byte(p), i < 5)
				}
			}
		})
	})
	return nil
}
