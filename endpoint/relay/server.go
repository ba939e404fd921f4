package relay

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/proxyplane/proxyplane/transport"
)

// Close codes of ProxyStore's relay, see the package's comment.
const (
	CloseUnknownMessage websocket.StatusCode = 4000
	CloseUnauthorized   websocket.StatusCode = 4001
	CloseForbidden      websocket.StatusCode = 4002
	CloseTooLarge       websocket.StatusCode = 4003
	CloseDuplicate      websocket.StatusCode = 4004
)

// ServerOptions configure a [Server]. The zero value serves everybody as one user, without TLS. Where a limit has a default, a negative number is no limit.
type ServerOptions struct {
	Authenticator Authenticator // default: Anonymous
	TLS           *tls.Config   // for Serve; nil: none. See ServerTLS. It is cloned
	Logger        *slog.Logger  // default: none

	MaxMessage        int // bytes of a message; default DefaultMaxMessage. Must not be negative
	MaxClients        int // registered clients; default 20,000. Beyond it they are closed with 1013
	MaxClientsPerUser int // default: none

	HandshakesPerSecond float64 // of one IPv4 address or IPv6 /64 network; default 50. Beyond it the answer is HTTP 429
	HandshakeBurst      int     // default: ten times as many
	MessagesPerSecond   float64 // of one client, pings included; default 50. Beyond it the client is read more slowly
	MessageBurst        int     // default: ten times as many

	QueueMessages int   // that wait for one client; default 64. Beyond it, or beyond QueueBytes, the sender gets its message back with an error
	QueueBytes    int64 // that wait for all clients together; default 256 MiB

	RegistrationTimeout time.Duration // from the handshake to the registration; default 10 s
	WriteTimeout        time.Duration // for each message; a client that does not take it by then is cut off; default 10 s
	KeepAlive           time.Duration // a client that was silent for so long is pinged, and cut off if it does not answer in as much time; default 30 s

	Handler http.Handler // for requests that are no WebSocket handshakes, but for /health: metrics, say; default: none

	LogInterval time.Duration // between log records that say who is connected; default none
	LogLimit    int           // the most clients that such a record lists by name; default none
}

// maxUnregistered bounds the messages of who has not said yet who he is.
const maxUnregistered = 64 << 10

// maxName bounds what is kept of a client's name, for logs.
const maxName = 256

// Server is a relay. Make it with [NewServer]; all methods may be called concurrently.
type Server struct {
	o          ServerOptions
	http       *http.Server
	ctx        context.Context // ends with Close
	cancel     context.CancelFunc
	handshakes *addressLimiter // nil: no limit
	wg         sync.WaitGroup  // every goroutine of the server
	queued     atomic.Int64    // bytes that wait for clients
	counters   counters

	mu      sync.Mutex
	closing bool
	conns   map[*client]struct{}
	byUUID  map[uuid.UUID]*client
	byUser  map[string]int // registered clients
}

type counters struct {
	handshakes, limited, registrations, replaced, denied, forwarded, forwardedBytes, undeliverable, slow, dead, throttled, malformed, refused atomic.Uint64
}

// Stats are a server's numbers. Those that are not said to be of now only grow.
type Stats struct {
	Connections int   // now, registered or not
	Clients     int   // registered now
	Users       int   // with a registered client now
	QueuedBytes int64 // waiting for clients now

	Handshakes      uint64 // connections accepted
	RateLimited     uint64 // connections refused because one address made too many
	Refused         uint64 // connections and registrations refused because there were too many clients
	Registrations   uint64
	Replaced        uint64 // closed because the same user registered the UUID again (4004)
	Denied          uint64 // closed by the authenticator, or because the UUID is another user's (4001, 4002)
	Malformed       uint64 // closed because of a message that could not be read (4000, 4003)
	Forwarded       uint64 // messages passed on
	ForwardedBytes  uint64
	Undeliverable   uint64 // messages sent back with an error
	Slow            uint64 // closed because they did not read
	Dead            uint64 // closed because they did not answer a ping
	ThrottledEvents uint64 // messages that had to wait because their client sends too many
}

// ClientInfo describes a registered client.
type ClientInfo struct {
	UUID   uuid.UUID
	Name   string
	User   User
	Remote string    // address
	Since  time.Time // its registration
}

// NewServer returns a server that serves nobody yet, see Serve and Handler. Close must be called.
func NewServer(o ServerOptions) (*Server, error) {
	if o.MaxMessage < 0 || o.RegistrationTimeout < 0 || o.WriteTimeout < 0 || o.KeepAlive < 0 || o.LogInterval < 0 {
		return nil, errors.New("relay: the message size and the timeouts of a server must not be negative")
	}
	if o.Authenticator == nil {
		o.Authenticator = Anonymous()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	const none = 1 << 30
	defaultTo(&o.MaxMessage, DefaultMaxMessage, 0)
	defaultTo(&o.MaxClients, 20_000, none)
	defaultTo(&o.MaxClientsPerUser, none, none)
	defaultTo(&o.HandshakesPerSecond, 50, float64(rate.Inf))
	defaultTo(&o.HandshakeBurst, int(min(10*o.HandshakesPerSecond+1, none)), none)
	defaultTo(&o.MessagesPerSecond, 50, float64(rate.Inf))
	defaultTo(&o.MessageBurst, int(min(10*o.MessagesPerSecond+1, none)), none)
	defaultTo(&o.QueueMessages, 64, none)
	defaultTo(&o.QueueBytes, 256<<20, 1<<62)
	defaultTo(&o.RegistrationTimeout, 10*time.Second, 0)
	defaultTo(&o.WriteTimeout, 10*time.Second, 0)
	defaultTo(&o.KeepAlive, 30*time.Second, 0)

	s := &Server{o: o, conns: map[*client]struct{}{}, byUUID: map[uuid.UUID]*client{}, byUser: map[string]int{}}
	if o.HandshakesPerSecond < float64(rate.Inf) {
		s.handshakes = newAddressLimiter(rate.Limit(o.HandshakesPerSecond), o.HandshakeBurst)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var protocols http.Protocols
	protocols.SetHTTP1(true) // WebSockets over HTTP/2 are another protocol, which no client of ProxyStore speaks
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.serveHTTP), Protocols: &protocols, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	s.wg.Go(s.sweep)
	return s, nil
}

func defaultTo[T int | int64 | float64 | time.Duration](v *T, def, none T) {
	if *v == 0 {
		*v = def
	} else if *v < 0 {
		*v = none
	}
}

// Serve accepts clients on l until Shutdown or Close, and returns nil then. It takes l. With ServerOptions.TLS it speaks TLS. It may be called for several listeners.
func (s *Server) Serve(l net.Listener) error {
	if s.o.TLS != nil {
		cfg := s.o.TLS.Clone()
		cfg.NextProtos = []string{"http/1.1"}
		l = tls.NewListener(l, cfg)
	}
	defer l.Close()
	s.o.Logger.Info("relay server is listening", "address", l.Addr().String(), "tls", s.o.TLS != nil)
	err := s.http.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("relay: serve %s: %w", l.Addr(), err)
}

// Handler returns what Serve serves, for servers that are more than a relay: WebSocket clients on every path, GET /health, which answers 200 with a JSON object, or 503
// when the server is shutting down, and ServerOptions.Handler.
func (s *Server) Handler() http.Handler { return s.http.Handler }

// Shutdown takes no more clients, closes those that are there with 1001, so that they go elsewhere or come back later, and waits until they are gone. When ctx ends
// before that they are cut off, and its error is returned. Nothing of the server runs after it.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	conns := make([]*client, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
		s.wg.Add(1)
	}
	s.mu.Unlock()
	for _, c := range conns {
		go func() {
			defer s.wg.Done()
			c.shut(websocket.StatusGoingAway, "The relay server is shutting down.")
		}()
	}
	s.cancel()
	idle := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(idle)
	}()
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
	}
	select {
	case <-idle:
	case <-ctx.Done():
		err = ctx.Err()
		s.http.Close()
		s.mu.Lock()
		for c := range s.conns {
			c.raw.Close()
		}
		s.mu.Unlock()
		<-idle
	}
	return err
}

// Close cuts off all clients and waits until nothing of the server runs. It may be called after Shutdown, and again.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Stats returns the server's numbers.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	st := Stats{Connections: len(s.conns), Clients: len(s.byUUID), Users: len(s.byUser)}
	s.mu.Unlock()
	n := &s.counters
	st.QueuedBytes = s.queued.Load()
	st.Handshakes, st.RateLimited, st.Refused = n.handshakes.Load(), n.limited.Load(), n.refused.Load()
	st.Registrations, st.Replaced, st.Denied, st.Malformed = n.registrations.Load(), n.replaced.Load(), n.denied.Load(), n.malformed.Load()
	st.Forwarded, st.ForwardedBytes, st.Undeliverable = n.forwarded.Load(), n.forwardedBytes.Load(), n.undeliverable.Load()
	st.Slow, st.Dead, st.ThrottledEvents = n.slow.Load(), n.dead.Load(), n.throttled.Load()
	return st
}

// Clients returns the registered clients, by name.
func (s *Server) Clients() []ClientInfo {
	s.mu.Lock()
	infos := make([]ClientInfo, 0, len(s.byUUID))
	for id, c := range s.byUUID {
		infos = append(infos, ClientInfo{UUID: id, Name: c.name, User: c.user, Remote: c.remote(), Since: c.since})
	}
	s.mu.Unlock()
	slices.SortFunc(infos, func(a, b ClientInfo) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), bytes.Compare(a.UUID[:], b.UUID[:]))
	})
	return infos
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	closing := s.closing
	if !closing {
		s.wg.Add(1)
		defer s.wg.Done()
	}
	// Those that have not registered yet count only here; a quarter more than the clients is room enough for them.
	full := len(s.conns) >= s.o.MaxClients+s.o.MaxClients/4+16
	s.mu.Unlock()
	if r.Header.Get("Upgrade") == "" {
		if r.URL.Path == "/health" {
			s.health(w, r, closing)
			return
		}
		if s.o.Handler != nil {
			s.o.Handler.ServeHTTP(w, r)
			return
		}
	}
	if s.handshakes != nil && !s.handshakes.allow(r.RemoteAddr) {
		s.counters.limited.Add(1)
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many connections from this address; try again later", http.StatusTooManyRequests)
		return
	}
	if full || closing {
		s.counters.refused.Add(1)
		w.Header().Set("Retry-After", "10")
		http.Error(w, "the relay has too many clients or is shutting down; try again later", http.StatusServiceUnavailable)
		return
	}
	c := &client{s: s, header: r.Header}
	if s.o.MessagesPerSecond < float64(rate.Inf) {
		c.limiter = rate.NewLimiter(rate.Limit(s.o.MessagesPerSecond), s.o.MessageBurst)
	}
	c.touch()
	// net/http's buffers of 4 KiB each would stay as long as the connection, which is idle nearly all the time.
	hijacker := &smallBuffers{ResponseWriter: w}
	conn, err := websocket.Accept(hijacker, r, &websocket.AcceptOptions{OnPingReceived: c.pinged})
	if err != nil {
		s.o.Logger.Debug("no WebSocket handshake", "remote", r.RemoteAddr, "error", err)
		return
	}
	c.conn, c.raw = conn, hijacker.conn
	conn.SetReadLimit(-1) // ours closes with 4003
	s.counters.handshakes.Add(1)

	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		c.raw.Close()
		conn.CloseNow()
		return
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	c.serve() // in goroutines of its own: that of net/http has a large stack by now and holds the request
}

func (s *Server) health(w http.ResponseWriter, r *http.Request, closing bool) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "use GET", http.StatusMethodNotAllowed)
		return
	}
	status, code := "ok", http.StatusOK
	if closing {
		status, code = "closing", http.StatusServiceUnavailable
	}
	s.mu.Lock()
	clients := len(s.byUUID)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{"status": status, "clients": clients})
}

// sweep pings silent clients, and keeps the books.
func (s *Server) sweep() {
	interval := max(min(time.Second, s.o.KeepAlive/4), time.Millisecond)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	logged := time.Now()
	var silent []*client
	for {
		select {
		case <-s.ctx.Done():
			return
		case now := <-tick.C:
			silent = silent[:0]
			s.mu.Lock()
			for c := range s.conns {
				if c.silent(now) {
					silent = append(silent, c)
					s.wg.Add(1)
				}
			}
			s.mu.Unlock()
			for _, c := range silent {
				go func() {
					defer s.wg.Done()
					c.ping()
				}()
			}
			clear(silent)
			if s.handshakes != nil {
				s.handshakes.trim(now)
			}
			if s.o.LogInterval > 0 && now.Sub(logged) >= s.o.LogInterval {
				logged = now
				s.logClients()
			}
		}
	}
}

func (s *Server) logClients() {
	st := s.Stats()
	attrs := []any{"clients", st.Clients, "users", st.Users, "connections", st.Connections, "forwarded", st.Forwarded}
	if st.Clients > 0 && st.Clients < s.o.LogLimit {
		var names []string
		for _, c := range s.Clients() {
			names = append(names, fmt.Sprintf("%s %s %s %s", c.Name, c.UUID, c.User.Name, c.Remote))
		}
		attrs = append(attrs, "list", names)
	}
	s.o.Logger.Info("connected clients", attrs...)
}

// register enters c under m.UUID, and throws out who was there before. On error it is not registered.
func (s *Server) register(c *client, m Registration) error {
	ok, err := Encode(Response{Success: true})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.byUUID[m.UUID]
	if old != nil && old.user.ID != c.user.ID {
		return &ForbiddenError{fmt.Sprintf("The client UUID %s is already registered to another user.", m.UUID)}
	}
	if s.closing || c.gone {
		return errShut
	}
	replaces := old
	if replaces == nil && c.registered {
		replaces = c // a client that registers again under another UUID gives up the one before
	}
	if replaces == nil && (len(s.byUUID) >= s.o.MaxClients || s.byUser[c.user.ID] >= s.o.MaxClientsPerUser) {
		return fmt.Errorf("relay: too many clients: %w", transport.ErrFull)
	}
	if old != nil && old != c {
		s.remove(old)
		s.counters.replaced.Add(1)
		s.wg.Go(func() {
			old.shut(CloseDuplicate, "Relay received a registration with the same ID. This might mean that the endpoint is running in multiple locations.")
		})
	}
	s.remove(c)
	c.registered, c.uuid, c.name, c.since = true, m.UUID, strings.Clone(truncate(m.Name, maxName)), time.Now()
	s.byUUID[m.UUID] = c
	s.byUser[c.user.ID]++
	s.counters.registrations.Add(1)
	c.enqueue(ok) // before anybody can see c, because a client takes the first message for this one
	return nil
}

// remove takes c out of the books of registered clients, with s.mu held.
func (s *Server) remove(c *client) {
	if !c.registered {
		return
	}
	c.registered = false
	delete(s.byUUID, c.uuid)
	if s.byUser[c.user.ID]--; s.byUser[c.user.ID] == 0 {
		delete(s.byUser, c.user.ID)
	}
}

// forward passes m on, or back with an error.
func (s *Server) forward(c *client, m PeerConnection) error {
	s.mu.Lock()
	registered, self, target := c.registered, c.uuid, s.byUUID[m.PeerUUID]
	s.mu.Unlock()
	log := s.o.Logger.With("from", self, "to", m.PeerUUID, "type", m.DescriptionType)
	var problem string
	switch {
	case !registered:
		return &ForbiddenError{"Client has not registered and authenticated with the relay server."}
	case m.SourceUUID != self:
		problem = fmt.Sprintf("The source UUID %s of the message is not the UUID that its sender has registered.", m.SourceUUID)
	case target == nil:
		problem = fmt.Sprintf("Cannot forward peer connection message to peer %s because this peer is not registered this relay server.", m.PeerUUID)
	case target.user.ID != c.user.ID:
		problem = fmt.Sprintf("The requested peer %s is owned by a different user.", m.PeerUUID)
	}
	if problem == "" {
		data, err := Encode(m)
		if err != nil {
			return err
		}
		if target.enqueue(data) {
			s.counters.forwarded.Add(1)
			s.counters.forwardedBytes.Add(uint64(len(data)))
			log.Debug("forwarded a message", "bytes", len(data))
			return nil
		}
		problem = fmt.Sprintf("Cannot forward peer connection message to peer %s because it does not read its messages; try again later.", m.PeerUUID)
	}
	s.counters.undeliverable.Add(1)
	log.Warn("could not forward a message", "reason", problem)
	m.Error = problem
	data, err := Encode(m)
	if err != nil {
		return err
	}
	c.enqueue(data)
	return nil
}

func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
