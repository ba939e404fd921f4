package relay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/proxyplane/proxyplane/transport"
)

// client is one connection to a [Server]. While it is idle it is one goroutine, which reads; a second one writes while there is something to be written.
type client struct {
	s       *Server
	conn    *websocket.Conn
	raw     net.Conn      // below conn; closing it cuts off the client
	header  http.Header   // of the handshake, until it has registered
	limiter *rate.Limiter // nil: no limit
	seen    atomic.Int64  // when it last sent something, Unix nanoseconds
	pinging atomic.Bool

	// Of the goroutine that reads.
	limit int         // bytes of a message
	timer *time.Timer // closes the connection if it does not register

	// Guarded by s.mu. user is written before registered is set for the first time, and never again.
	registered bool
	gone       bool
	uuid       uuid.UUID
	name       string
	user       User
	since      time.Time

	mu      sync.Mutex
	queue   [][]byte // encoded messages
	writing bool     // a goroutine empties the queue
	shutOff bool     // nothing is queued any more
}

// errShut means that the connection is being closed by somebody else.
var errShut = errors.New("relay: connection is being closed")

func (c *client) remote() string { return c.raw.RemoteAddr().String() }

// serve starts to read, which ends when the connection does. The caller counts it in s.wg, and is done with it.
func (c *client) serve() {
	s := c.s
	c.limit = min(s.o.MaxMessage, maxUnregistered)
	c.timer = time.AfterFunc(s.o.RegistrationTimeout, func() {
		s.mu.Lock()
		late := !c.registered && !c.gone && !s.closing
		if late {
			s.wg.Add(1)
		}
		s.mu.Unlock()
		if late {
			defer s.wg.Done()
			c.shut(websocket.StatusPolicyViolation, "No registration was received in time.")
		}
	})
	go c.step()
}

// step reads one message and deals with it. Then the next goroutine does, as one that has dealt with a message has a large stack, which it would keep while it waits.
func (c *client) step() {
	err := c.read()
	if err == nil {
		go c.step()
		return
	}
	defer c.s.wg.Done()
	c.end(err)
}

// end closes the connection and removes it from the server's books.
func (c *client) end(err error) {
	s := c.s
	c.timer.Stop()
	code, reason := closeOf(err)
	s.mu.Lock()
	c.gone = true
	registered, id, name := c.registered, c.uuid, c.name
	s.remove(c)
	s.mu.Unlock()
	if registered {
		s.o.Logger.Info("unregistered a client", "uuid", id, "name", name, "remote", c.remote(), "reason", err)
	} else {
		s.o.Logger.Debug("connection ended", "remote", c.remote(), "reason", err)
	}
	if code != 0 {
		c.shut(code, reason)
	}
	c.raw.Close()
	c.conn.CloseNow()
	c.drop()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// closeOf returns the code and reason that err is told to the client with; no code if it is past hearing.
func closeOf(err error) (websocket.StatusCode, string) {
	if denied, ok := errors.AsType[*UnauthorizedError](err); ok {
		return CloseUnauthorized, denied.Error()
	}
	if denied, ok := errors.AsType[*ForbiddenError](err); ok {
		return CloseForbidden, denied.Error()
	}
	switch {
	case errors.Is(err, transport.ErrTooLarge):
		return CloseTooLarge, "Message length exceeds limit."
	case errors.Is(err, transport.ErrCorrupt):
		return CloseUnknownMessage, "Unknown message type."
	case errors.Is(err, transport.ErrFull):
		return websocket.StatusTryAgainLater, "The relay server has too many clients."
	case errors.Is(err, errNoAnswer):
		return websocket.StatusInternalError, "The authentication service is not available."
	}
	return 0, ""
}

// errNoAnswer means that the authenticator could not tell.
var errNoAnswer = errors.New("authentication failed")

// read waits for one message and deals with it.
func (c *client) read() error {
	kind, r, err := c.conn.Reader(context.Background()) // a context that can end would cost memory all the time; closing raw ends it too
	if err != nil {
		return err
	}
	return c.receive(kind, r)
}

func (c *client) receive(kind websocket.MessageType, r io.Reader) error {
	s := c.s
	data, err := io.ReadAll(io.LimitReader(r, int64(c.limit)+1))
	if err != nil {
		return err
	}
	c.touch()
	if c.isShut() {
		return errShut
	}
	if len(data) > c.limit {
		s.counters.malformed.Add(1)
		return fmt.Errorf("a message is %w: the limit is %d bytes", transport.ErrTooLarge, c.limit)
	}
	if kind != websocket.MessageText {
		s.counters.malformed.Add(1)
		return fmt.Errorf("%w: got message as bytes but expected str", transport.ErrCorrupt)
	}
	m, err := Decode(data)
	if err != nil {
		s.counters.malformed.Add(1)
		return err
	}
	c.throttle()
	switch m := m.(type) {
	case Registration:
		if err := c.authenticate(); err != nil {
			return err
		}
		if err := s.register(c, m); err != nil {
			return c.denied(err)
		}
		c.timer.Stop()
		c.limit = s.o.MaxMessage
		s.o.Logger.Info("registered a client", "uuid", m.UUID, "name", truncate(m.Name, maxName), "user", c.user.Name, "remote", c.remote())
	case PeerConnection:
		if err := s.forward(c, m); err != nil {
			return c.denied(err)
		}
	default:
		s.counters.malformed.Add(1)
		return fmt.Errorf("%w: a client sent %T", transport.ErrCorrupt, m)
	}
	return nil
}

// authenticate finds out who c is, once. As long as c is not registered only its own goroutine looks at user.
func (c *client) authenticate() error {
	if c.header == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.s.ctx, 30*time.Second)
	defer cancel()
	user, err := c.s.o.Authenticator.Authenticate(ctx, c.header)
	if err != nil {
		if isRefusal(err) {
			return c.denied(err)
		}
		c.s.o.Logger.Error("cannot authenticate clients", "remote", c.remote(), "error", err)
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	c.user, c.header = user, nil
	return nil
}

// denied counts err, and logs it if it is about permissions.
func (c *client) denied(err error) error {
	switch {
	case isRefusal(err):
		c.s.counters.denied.Add(1)
		c.s.o.Logger.Warn("refused a client", "remote", c.remote(), "error", err)
	case errors.Is(err, transport.ErrFull):
		c.s.counters.refused.Add(1)
		c.s.o.Logger.Warn("too many clients", "remote", c.remote(), "user", c.user.Name)
	}
	return err
}

// throttle waits until the client may have sent what it has. Meanwhile it is not read, so that it is slowed down by TCP.
func (c *client) throttle() {
	if c.limiter == nil {
		return
	}
	delay := c.limiter.Reserve().Delay()
	if delay == 0 {
		return
	}
	c.s.counters.throttled.Add(1)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.s.ctx.Done():
	}
}

// pinged is called by the reader for each ping of the client, which it then answers.
func (c *client) pinged(context.Context, []byte) bool {
	c.touch()
	c.throttle()
	return true
}

func (c *client) touch() { c.seen.Store(time.Now().UnixNano()) }

// silent reports whether the client must be pinged, and if so claims that.
func (c *client) silent(now time.Time) bool {
	return now.UnixNano()-c.seen.Load() >= int64(c.s.o.KeepAlive) && c.pinging.CompareAndSwap(false, true)
}

func (c *client) ping() {
	defer c.pinging.Store(false)
	ctx, cancel := context.WithTimeout(c.s.ctx, c.s.o.KeepAlive)
	defer cancel()
	err := c.conn.Ping(ctx)
	switch {
	case err == nil:
		c.touch()
	case errors.Is(err, context.DeadlineExceeded):
		c.s.counters.dead.Add(1)
		c.s.o.Logger.Info("a client does not answer", "remote", c.remote())
		c.raw.Close()
	}
}

// enqueue has data sent without waiting for that. It keeps data. It reports false if too much is waiting already, or the client is being closed.
func (c *client) enqueue(data []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shutOff || len(c.queue) >= c.s.o.QueueMessages {
		return false
	}
	if c.s.queued.Add(int64(len(data))) > c.s.o.QueueBytes {
		c.s.queued.Add(-int64(len(data)))
		return false
	}
	c.queue = append(c.queue, data)
	if !c.writing {
		c.writing = true
		c.s.wg.Go(c.write) // the caller is itself counted there, so that this does not race with the end
	}
	return true
}

// write empties the queue.
func (c *client) write() {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 {
			c.queue, c.writing = nil, false
			c.mu.Unlock()
			return
		}
		data := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), c.s.o.WriteTimeout)
		err := c.conn.Write(ctx, websocket.MessageText, data)
		late := ctx.Err() != nil
		cancel()
		c.s.queued.Add(-int64(len(data)))
		if err != nil {
			if late {
				c.s.counters.slow.Add(1)
				c.s.o.Logger.Warn("a client does not read its messages", "remote", c.remote())
			}
			c.raw.Close()
			c.drop()
		}
	}
}

// drop empties the queue without sending, and lets nothing in any more.
func (c *client) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shutOff = true
	for _, data := range c.queue {
		c.s.queued.Add(-int64(len(data)))
	}
	c.queue = nil
}

func (c *client) isShut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shutOff
}

// shut closes the connection with a code and reason. It waits some seconds for the client to answer. What the queue holds is lost.
func (c *client) shut(code websocket.StatusCode, reason string) {
	c.s.mu.Lock()
	c.gone = true
	c.s.remove(c)
	c.s.mu.Unlock()
	c.drop()
	c.conn.Close(code, truncate(reason, 123)) // what fits into a control frame
	c.raw.Close()
}

// smallBuffers is a ResponseWriter whose Hijack returns buffers made for many idle connections.
type smallBuffers struct {
	http.ResponseWriter
	conn net.Conn
}

// A registration and most control frames fit into it; larger messages bypass it.
const bufferSize = 512

func (w *smallBuffers) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if n := brw.Reader.Buffered(); n > 0 {
		early, err := brw.Reader.Peek(n)
		if err != nil {
			conn.Close()
			return nil, nil, err
		}
		conn = &prefixConn{Conn: conn, prefix: bytes.Clone(early)}
	}
	w.conn = conn
	return conn, bufio.NewReadWriter(bufio.NewReaderSize(conn, bufferSize), bufio.NewWriterSize(conn, bufferSize)), nil
}

// prefixConn reads what had been read too early before all else.
type prefixConn struct {
	net.Conn
	prefix []byte
}

func (c *prefixConn) Read(p []byte) (int, error) {
	if len(c.prefix) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.prefix)
	if c.prefix = c.prefix[n:]; len(c.prefix) == 0 {
		c.prefix = nil
	}
	return n, nil
}

// addressLimiter bounds how often each network may do something.
type addressLimiter struct {
	limit rate.Limit
	burst int

	mu      sync.Mutex
	byNet   map[netip.Addr]*rate.Limiter
	trimmed time.Time
}

// maxNetworks bounds the books of an addressLimiter. Who owns more networks than that gets around it.
const maxNetworks = 1 << 16

func newAddressLimiter(limit rate.Limit, burst int) *addressLimiter {
	return &addressLimiter{limit: limit, burst: burst, byNet: map[netip.Addr]*rate.Limiter{}}
}

func (l *addressLimiter) allow(remote string) bool {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return true // not of an IP network
	}
	addr := ap.Addr().Unmap().WithZone("")
	if addr.Is6() {
		addr = netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.byNet[addr]
	if one == nil {
		if len(l.byNet) >= maxNetworks {
			clear(l.byNet)
		}
		one = rate.NewLimiter(l.limit, l.burst)
		l.byNet[addr] = one
	}
	return one.Allow()
}

// trim forgets, once a minute, those who have not been there for a while.
func (l *addressLimiter) trim(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.trimmed) < time.Minute {
		return
	}
	l.trimmed = now
	for addr, one := range l.byNet {
		if one.TokensAt(now) >= float64(l.burst) {
			delete(l.byNet, addr)
		}
	}
}
