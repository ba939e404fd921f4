//go:build cgo && zmq

package zmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/cgo/zmq"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

// With libzmq, links are made of its sockets: a DEALER for each connection of a client, and one ROUTER for all peers of a server. What is as in Go:
// the wire, what is refused, and when a peer is hung up on. What is not: a message is in memory whole, down to its last part, before anybody hears of
// it, so that a peer who sends parts without end costs memory without bound, and one who announces a long part gets the address space for it. On a
// network that is not trusted use CURVE or the form in Go.
//
// Since libzmq cannot stop to read from one peer of a ROUTER alone, a peer whose messages pile up is not slowed down, as TCP would do it, but hung up
// on (queueMax). How a long message leaves shows by the parts of it that libzmq has let go of. A message of one part leaves in one step.
func init() { libzmqListen, libzmqConnect = listenLibzmq, connectLibzmq }

const (
	// refMin is the length from which a part is sent from where it is. Below, it is copied: waiting until libzmq's thread has let go of the
	// memory takes longer.
	refMin = 32 << 10
	// takeMin is the length from which a received part becomes a Buffer of its own. Shorter ones are pieces of libzmq's receive buffers, of which
	// they would hold far more than they are long.
	takeMin = 16 << 10
	// libzmqBody bounds the body of a native frame, which must be there as a whole.
	libzmqBody = 64 << 20
	// never is when libzmq tries to reconnect, in milliseconds: a link is one connection. It adds up to as much again.
	never = 1e9
	// lingering is how long what was sent last may take to leave when a socket closes.
	lingering = 200 * time.Millisecond
)

// newLibzmqSocket opens a socket with the options of both sides. keys sets those of CURVE, or is nil.
func newLibzmqSocket(c *zmq.Context, a address, typ zmq.Type, maxMessage int64, handshake time.Duration, keys func(*zmq.Socket) error) (*zmq.Socket,
	error) {
	s, err := c.NewSocket(typ)
	if err != nil {
		return nil, err
	}
	v6 := 1
	if ip := net.ParseIP(hostOf(a)); ip != nil && ip.To4() != nil {
		v6 = 0 // else it would be known by an address of IPv6
	}
	for o, v := range map[zmq.IntOption]int{
		zmq.Linger: zmq.Milliseconds(lingering), zmq.SendHWM: 0, zmq.RecvHWM: 0, zmq.IPv6: v6, zmq.HandshakeTimeout: zmq.Milliseconds(handshake),
		zmq.ReconnectInterval: never, zmq.ConnectTimeout: zmq.Milliseconds(handshake),
		// As Go's own connections, so that dead hosts are noticed. ZeroMQ's heartbeats would need a peer that always reads.
		zmq.TCPKeepalive: 1, zmq.KeepaliveIdle: 15, zmq.KeepaliveInterval: 15, zmq.KeepaliveCount: 9,
	} {
		err = errors.Join(err, s.Set(o, v))
	}
	if err == nil {
		err = s.SetMaxMessage(max(maxMessage, libzmqBody))
	}
	if err == nil && keys != nil {
		if !zmq.Has("curve") {
			err = fmt.Errorf("%w: this libzmq was built without CURVE: install one with libsodium, or build without tag zmq", transport.ErrUnavailable)
		} else {
			err = keys(s)
		}
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// endpoint spells an address as libzmq does, for listening or connecting.
func (a address) endpoint() string {
	if a.network == "tcp" {
		if host, port, err := net.SplitHostPort(a.host); err == nil && host == "" {
			return "tcp://*:" + port
		}
	}
	return a.String()
}

// part is a received part. Its memory goes round: a Buffer over it, once released, gives it back.
type part struct {
	zmq.Message
	free func([]byte)
}

var parts sync.Pool

func newPart() *part {
	if p, _ := parts.Get().(*part); p != nil {
		return p
	}
	p := &part{}
	p.free = func([]byte) { p.release() }
	return p
}

func (p *part) release() {
	p.Close()
	parts.Put(p)
}

// incoming is the reading half of a link, once a message is there.
type incoming struct {
	cur  *part
	off  int
	more bool  // cur was not the last part of its message
	shut error // why there is no current part any more: the link is closed
}

// begin makes p the current part.
func (in *incoming) begin(p *part) (int64, bool, error) {
	in.cur, in.off, in.more = p, 0, p.More()
	return int64(len(p.Bytes())), in.more, nil
}

// end lets go of the current part, for good.
func (in *incoming) end(why error) {
	in.drop()
	in.shut = why
}

// drop lets go of the current part.
func (in *incoming) drop() {
	if in.cur != nil {
		in.cur.release()
		in.cur = nil
	}
}

func (in *incoming) read(dst []byte) (int, error) {
	left := 0
	switch {
	case in.cur == nil && in.shut != nil:
		return 0, in.shut
	case in.cur != nil:
		left = len(in.cur.Bytes()) - in.off
	}
	if len(dst) > left {
		return 0, corrupt("%d bytes wanted of a part that has %d", len(dst), left)
	}
	if len(dst) > 0 {
		copy(dst, in.cur.Bytes()[in.off:])
		in.off += len(dst)
	}
	return len(dst), nil
}

func (in *incoming) take() (*transport.Buffer, bool) {
	if in.cur == nil || in.off > 0 || len(in.cur.Bytes()) < takeMin {
		return nil, false
	}
	p := in.cur
	in.cur = nil
	return transport.NewBuffer(p.Bytes(), transport.CMemory, p.free), true
}

// outgoing sends a message part by part. The socket's lock is held meanwhile, but not in wait.
type outgoing struct {
	sock   *zmq.Socket
	tick   *zmq.Ticket
	joined []*transport.Buffer // what had to be glued: ZeroMQ knows no part of several pieces
	min    int                 // parts shorter than that are copied
}

// message sends what link.send says. The first of its sends may fail with zmq.ErrAgain, and then nothing was sent.
func (o *outgoing) message(first, meta []byte, body transport.Slices, cut int) error {
	total := body.Len()
	more := total > 0 || cut > 0 || cut == asParts && len(body) > 0
	o.min = refMin
	if cut > 0 && total >= refMin {
		o.min = 1 // of a long message nothing is copied: the parts that are left tell how it leaves
	}
	if len(meta) > 0 {
		var small [2048]byte
		first = append(append(small[:0], first...), meta...)
	}
	if err := o.sock.Send(first, more); err != nil {
		return err
	}
	switch {
	case cut == whole && total == 0:
		return nil
	case cut == asParts:
		for i, p := range body {
			o.pin(p)
			if err := o.part(p, i < len(body)-1); err != nil {
				return err
			}
		}
		return nil
	case cut == whole:
		cut = int(total)
	}
	for _, p := range body {
		o.pin(p)
	}
	if total == 0 {
		return o.part(nil, false)
	}
	for at := (cursor{body: body}); total > 0; {
		n := min(total, int64(cut))
		total -= n
		p := at.take(n)
		if int64(len(p)) < n { // the part goes across pieces
			b := transport.DefaultPool.Get(int(n))
			o.joined = append(o.joined, b)
			dst := append(b.Bytes()[:0], p...)
			for int64(len(dst)) < n {
				dst = append(dst, at.take(n-int64(len(dst)))...)
			}
			o.pin(dst)
			p = dst
		}
		if err := o.part(p, total > 0); err != nil {
			return err
		}
	}
	return nil
}

func (o *outgoing) pin(p []byte) {
	if len(p) >= o.min {
		o.tick.Pin(p)
	}
}

func (o *outgoing) part(p []byte, more bool) error {
	if len(p) < o.min {
		return o.sock.Send(p, more)
	}
	return o.sock.SendRef(p, more, o.tick)
}

// wait returns when libzmq has let go of everything.
func (o *outgoing) wait() {
	o.tick.Wait()
	for i, b := range o.joined {
		b.Release()
		o.joined[i] = nil
	}
	o.joined = o.joined[:0]
}

// senders keeps outgoings for reuse, with their tickets.
type senders struct {
	ctx  *zmq.Context
	mu   sync.Mutex
	idle []*outgoing
}

func (s *senders) get(sock *zmq.Socket) (*outgoing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.idle); n > 0 {
		o := s.idle[n-1]
		s.idle = s.idle[:n-1]
		o.sock = sock
		o.tick.Begin()
		return o, nil
	}
	t, err := s.ctx.NewTicket()
	if err != nil {
		return nil, err
	}
	t.Begin()
	return &outgoing{sock: sock, tick: t}, nil
}

// put takes o back, after its wait.
func (s *senders) put(o *outgoing) {
	o.sock = nil
	s.mu.Lock()
	s.idle = append(s.idle, o)
	s.mu.Unlock()
}

// close frees the tickets, none of which may be in use.
func (s *senders) close() {
	for _, o := range s.idle {
		o.tick.Close()
	}
	s.idle = nil
}

// clients is the context that all clients of the process share while there are any: each has threads.
var clients struct {
	sync.Mutex
	*clientContext
}

type clientContext struct {
	zmq  *zmq.Context
	out  senders
	refs int // links, their sends, and the goroutines of their monitors
}

// ioThreads is how many threads libzmq gets: one is good for a GB/s or more.
func ioThreads() int { return max(1, min(4, runtime.GOMAXPROCS(0)/4)) }

// holdClients returns the shared context, which the caller releases.
func holdClients() (*clientContext, error) {
	clients.Lock()
	defer clients.Unlock()
	if clients.clientContext == nil {
		c, err := zmq.NewContext(ioThreads(), 1<<16-1)
		if err != nil {
			return nil, err
		}
		clients.clientContext = &clientContext{zmq: c, out: senders{ctx: c}}
	}
	clients.refs++
	return clients.clientContext, nil
}

func (c *clientContext) hold() {
	clients.Lock()
	c.refs++
	clients.Unlock()
}

func (c *clientContext) release() {
	clients.Lock()
	c.refs--
	last := c.refs == 0
	if last {
		clients.clientContext = nil
	}
	clients.Unlock()
	if last {
		c.zmq.Close()
		c.out.close()
	}
}

// dealer is a link over a DEALER of its own.
type dealer struct {
	reading sync.Mutex // incoming belongs to who holds it
	incoming
	shared *clientContext
	name   string
	local  bool
	limit  int
	ready  *zmq.Ready
	recv   func() bool // tries to receive; made once, since it is called for each message

	mu   sync.Mutex // the socket belongs to who holds it
	sock *zmq.Socket
	got  *part   // what recv received
	err  error   // why it did not
	down bool    // the connection has ended, and the socket is closed
	rest []*part // what came before that
	over bool    // the link is closed

	hurried bool      // see hurrier
	leaving *outgoing // whose end a send waits for
	gaveUp  bool      // a message was given up

	writing sync.Mutex   // one message at a time, so that close knows of all
	fd      atomic.Int64 // libzmq's descriptor, which it may have closed by now
	monitor *zmq.Ready
	watched sync.WaitGroup
}

// connectLibzmq is connectFunc over libzmq.
func connectLibzmq(ctx context.Context, a address, o *DialOptions, hello [][]byte) (link, error) {
	shared, err := holdClients()
	if err != nil {
		return nil, fmt.Errorf("zmq: %s: %w: %w", a, transport.ErrUnavailable, err)
	}
	d := &dealer{shared: shared, name: a.String(), local: a.network == "unix", limit: libzmqBody}
	if ip := net.ParseIP(hostOf(a)); ip != nil {
		d.local = ip.IsLoopback()
	}
	var keys func(*zmq.Socket) error
	if c := o.Curve; c != nil {
		d.local, d.limit = true, maxBoxed
		keys = func(s *zmq.Socket) error {
			return errors.Join(s.SetBytes(zmq.CurveServerKey, c.ServerKey[:]), s.SetBytes(zmq.CurvePublicKey, c.PublicKey[:]),
				s.SetBytes(zmq.CurveSecretKey, c.SecretKey[:]))
		}
	}
	d.recv = func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.receive()
	}
	if err := d.open(ctx, a, o, hello, keys); err != nil {
		d.close()
		if e := ctx.Err(); e == nil && !errors.Is(err, transport.ErrDenied) {
			err = fmt.Errorf("zmq: %s: %w: %w", a, transport.ErrUnavailable, err)
		}
		return nil, err
	}
	return d, nil
}

func hostOf(a address) string {
	host, _, _ := net.SplitHostPort(a.host)
	if host == "localhost" {
		return "127.0.0.1"
	}
	return host
}

// open connects and returns when the handshake is done. After an error the link must be closed all the same.
func (d *dealer) open(ctx context.Context, a address, o *DialOptions, hello [][]byte, keys func(*zmq.Socket) error) error {
	var err error
	if d.sock, err = newLibzmqSocket(d.shared.zmq, a, zmq.Dealer, o.MaxMessage, o.HandshakeTimeout, keys); err != nil {
		return err
	}
	if d.ready, err = d.sock.Ready(); err != nil {
		return err
	}
	mon, err := d.shared.zmq.Monitor(d.sock, zmq.AllEvents)
	if err != nil {
		return err
	}
	if d.monitor, err = mon.Ready(); err != nil {
		d.sock.StopMonitor()
		mon.Close()
		return err
	}
	state := make(chan error, 1)
	d.shared.hold()
	d.watched.Go(func() { d.watch(mon, o.Curve != nil, state) })
	d.mu.Lock() // the connection may end before the hello is sent, and watch close the socket
	err = d.sock.Connect(a.endpoint())
	if hello != nil && err == nil {
		for i, p := range append([][]byte{nil}, hello...) {
			err = errors.Join(err, d.sock.Send(p, i < len(hello)))
		}
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case err := <-state:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watch follows the connection: it tells state how connecting went, and the reader when the connection has ended. It owns mon.
func (d *dealer) watch(mon *zmq.Socket, curve bool, state chan error) {
	defer d.shared.release()
	defer mon.Close()
	tell := func(err error) {
		select {
		case state <- err:
		default:
		}
	}
	end := func() {
		d.mu.Lock()
		d.hangUp()
		d.mu.Unlock()
		d.ready.Wake()
	}
	d.monitor.Wait(func() bool {
		for {
			e, err := mon.NextEvent()
			switch {
			case err == zmq.ErrAgain:
				return false
			case err != nil:
				return true
			}
			switch e.Kind {
			case zmq.Connected:
				d.fd.Store(int64(e.Value))
			case zmq.HandshakeDone:
				tell(nil)
			case zmq.HandshakeAuth:
				tell(fmt.Errorf("zmq: %s: %w: the server refuses this client's key (status %d)", d.name, transport.ErrDenied, e.Value))
				end()
			case zmq.HandshakeFailed, zmq.HandshakeProtocol:
				err := fmt.Errorf("the handshake failed (event %#x, code %#x): the server wants CURVE or does not speak ZeroMQ", e.Kind, uint32(e.Value))
				if curve {
					err = errors.New("the handshake failed: the server has another key, or does not speak CURVE")
				}
				// The server does not say why it hangs up.
				tell(fmt.Errorf("zmq: %s: %w: %w: %w", d.name, transport.ErrDenied, transport.ErrUnavailable, err))
				end()
			case zmq.ConnectRetried:
				tell(errors.New("nobody answers there, or there is no such host"))
				end()
			case zmq.Disconnected:
				tell(errors.New("the server hung up during the handshake"))
				end()
			case zmq.MonitorStopped:
				return true
			}
		}
	})
}

// hangUp closes the socket after the connection has ended: what it holds for the server would wait for another. What came is kept. The caller holds
// mu.
func (d *dealer) hangUp() {
	if d.down || d.over {
		return
	}
	d.down = true
	for {
		p := newPart()
		if d.sock.Receive(&p.Message) != nil {
			parts.Put(p)
			break
		}
		d.rest = append(d.rest, p)
	}
	d.sock.Set(zmq.Linger, 0)
	d.sock.Close()
}

// receive tries to receive a part, and reports whether next has something to look at. The caller holds mu.
func (d *dealer) receive() bool {
	if d.over {
		d.err = fmt.Errorf("zmq: %s: %w: the connection is closed", d.name, transport.ErrUnavailable)
		return true
	}
	if d.down {
		if d.err = io.EOF; d.gaveUp {
			d.err = fmt.Errorf("zmq: %s: %w: the connection was closed in the middle of a message", d.name, transport.ErrUnavailable)
		}
		if len(d.rest) > 0 {
			d.got, d.err = d.rest[0], nil
			d.rest = d.rest[1:]
		}
		return true
	}
	p := newPart()
	err := d.sock.Receive(&p.Message)
	if err == nil {
		d.got, d.err = p, nil
		return true
	}
	parts.Put(p)
	if err == zmq.ErrAgain {
		return false
	}
	d.err = fmt.Errorf("zmq: %s: %w: %w", d.name, transport.ErrUnavailable, err)
	return true
}

// next implements link.
func (d *dealer) next() (int64, bool, error) {
	d.reading.Lock()
	defer d.reading.Unlock()
	d.drop()
	for {
		err := d.ready.Wait(d.recv)
		switch {
		case err == zmq.ErrWoken:
			d.mu.Lock()
			done := (d.down || d.over) && d.receive()
			d.mu.Unlock()
			if !done {
				return 0, false, native.ErrInterrupted
			}
		case err != nil:
			return 0, false, fmt.Errorf("zmq: %s: %w: the connection is closed", d.name, transport.ErrUnavailable)
		}
		if d.err != nil {
			return 0, false, d.err
		}
		p := d.got
		d.got = nil
		return d.begin(p)
	}
}

// read implements link.
func (d *dealer) read(dst []byte) (int, error) {
	d.reading.Lock()
	defer d.reading.Unlock()
	return d.incoming.read(dst)
}

// take implements link.
func (d *dealer) take() (*transport.Buffer, bool) {
	d.reading.Lock()
	defer d.reading.Unlock()
	return d.incoming.take()
}

// send implements link.
func (d *dealer) send(first, meta []byte, body transport.Slices, cut int) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	if d.over || d.down {
		d.mu.Unlock()
		return fmt.Errorf("zmq: %s: %w: the connection is closed", d.name, transport.ErrUnavailable)
	}
	d.shared.hold()
	defer d.shared.release()
	out, err := d.shared.out.get(d.sock)
	if err != nil {
		d.mu.Unlock()
		return err
	}
	err = out.message(first, meta, body, cut)
	var e zmq.Events
	if err == nil {
		e, err = d.sock.Events() // sending may have swallowed the signal that something came
	}
	out.tick.End()
	d.leaving = out
	if d.hurried {
		d.giveUp()
	}
	d.mu.Unlock()
	if e&zmq.CanReceive != 0 {
		d.ready.Nudge()
	}
	out.wait()
	d.mu.Lock()
	d.leaving = nil
	down := d.down || d.over
	d.mu.Unlock()
	d.shared.out.put(out)
	if err == nil && down && body.Len() >= refMin { // it was let go of, which need not mean that it has left
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("zmq: %s: %w: the connection broke: %w", d.name, transport.ErrUnavailable, err)
	}
	return nil
}

// hurry and calm implement hurrier. A message of which libzmq has copied all will leave, and counts as if it had left.
func (d *dealer) hurry() {
	d.mu.Lock()
	d.hurried = true
	d.giveUp()
	d.mu.Unlock()
}

func (d *dealer) calm() {
	d.mu.Lock()
	d.hurried = false
	d.mu.Unlock()
}

// giveUp breaks the link if libzmq has not let go of all of the message that is leaving: there is no other way to have its memory back. The caller
// holds mu.
func (d *dealer) giveUp() {
	if d.leaving == nil || d.leaving.tick.Held() == 0 || d.down || d.over {
		return
	}
	d.gaveUp = true
	d.hangUp()
	d.ready.Wake()
}

// stale implements staler: libzmq's thread may not have looked at the connection yet.
func (d *dealer) stale() bool {
	d.mu.Lock()
	down := d.down || d.over
	d.mu.Unlock()
	if down {
		return true
	}
	var b [1]byte
	n, _, err := unix.Recvfrom(int(d.fd.Load()), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n == 0 && err == nil || err == unix.EBADF
}

// interrupt implements link.
func (d *dealer) interrupt() { d.ready.Wake() }

func (d *dealer) trusted() bool  { return d.local }
func (d *dealer) remote() string { return d.name }
func (d *dealer) maxBody() int   { return d.limit }

// close implements link.
func (d *dealer) close() {
	d.mu.Lock()
	if d.over {
		d.mu.Unlock()
		return
	}
	d.over = true
	if d.sock != nil && !d.down {
		if !d.writing.TryLock() {
			d.sock.Set(zmq.Linger, 0) // a send is under way, and shall end
		} else {
			d.writing.Unlock()
		}
		d.sock.Close()
	}
	d.mu.Unlock()
	if d.monitor != nil {
		d.monitor.Close()
	}
	d.watched.Wait()
	if d.ready != nil {
		d.ready.Close()
	}
	d.reading.Lock()
	d.incoming.end(fmt.Errorf("zmq: %s: %w: the connection is closed", d.name, transport.ErrUnavailable))
	for _, p := range d.rest {
		p.release()
	}
	d.rest = nil
	d.reading.Unlock()
	d.shared.release()
}
