package relay

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
)

// ClientOptions say how a [Client] reaches its relay. Address, Name and UUID are needed.
type ClientOptions struct {
	Address string    // ws://host:port or wss://host:port, with or without a path
	Name    string    // shown to peers and in the relay's logs; default: the host's name
	UUID    uuid.UUID // under which peers reach this client

	// Header returns what the handshake carries beside the usual, which is where credentials go: see [TokenFile] and [GlobusTokens]. It is called for every
	// connection, so that it can renew them; one call at a time. An error is treated as a refusal by the relay, unless it wraps transport.ErrUnavailable: that passes.
	Header func(ctx context.Context) (http.Header, error)

	// TLS is for wss:// addresses; nil: the system's certificate authorities. See [ClientTLS]. It is cloned.
	TLS *tls.Config

	// Dial opens connections to the relay or the proxy; default: net.Dialer. Proxies are those of the environment, as net/http has them.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	Logger     *slog.Logger  // default: none
	Timeout    time.Duration // for connecting and registering, and for each write; default 10 s
	KeepAlive  time.Duration // between pings, each of which must be answered in as much time; default 20 s
	MaxMessage int           // bytes, both ways; default DefaultMaxMessage
	Queue      int           // messages that wait for Receive; older ones are dropped when it is full; default 256
}

// How long a client waits before attempt n of a row of failed ones; then it doubles up to maxBackoff. The first are quick, because a relay that restarts is back soon.
const maxBackoff = time.Minute

var quickBackoffs = [...]time.Duration{100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond}

// refusedBackoff is how long a client that was refused waits before it shows its credentials again, which may be better then; then it doubles up to maxBackoff.
const refusedBackoff = 5 * time.Second

// stable is how long a connection must have lived for the backoff to start anew.
const stable = 10 * time.Second

// closeTime is how long Close waits for the relay to answer it.
const closeTime = time.Second

// ClientState says how a [Client] stands with its relay.
type ClientState struct {
	Connected bool      // registered at the relay now
	Final     bool      // it has given up: Err says why, and only a new Client will try again
	Since     time.Time // when Connected or Final changed last
	Err       error     // why it is not connected; nil while it is, and before the first attempt has ended
	Dropped   uint64    // messages received and dropped, because nobody called Receive
}

// A Client keeps an endpoint registered at a relay, and sends and receives messages there. All methods may be called concurrently.
type Client struct {
	o      ClientOptions
	http   *http.Client
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	done   chan struct{} // closed when run has ended
	in     chan PeerConnection
	out    chan outgoing // not buffered: who holds a message in it is waiting

	mu      sync.Mutex
	state   ClientState
	changed chan struct{} // closed and replaced at each change of state
	final   chan struct{} // closed with state.Final
}

// outgoing is a message of Send on its way to the goroutine that writes.
type outgoing struct {
	ctx  context.Context
	data []byte
	err  chan error // buffered
}

// NewClient returns a client that connects in the background, and again whenever it has lost the connection, until Close. It fails only if the options make no sense.
//
// After a close with 4001 or 4002 it has given up, unless there is a Header function, which may have better credentials in a while: then it tries after 5 s, and
// ever more slowly, down to once a minute.
// After 4004 it has given up in any case, because the other one that has our UUID would be thrown out otherwise, and in turn throw us out.
func NewClient(o ClientOptions) (*Client, error) {
	if !strings.HasPrefix(o.Address, "ws://") && !strings.HasPrefix(o.Address, "wss://") {
		return nil, fmt.Errorf("relay: the address of a relay must start with ws:// or wss://; got %q", o.Address)
	}
	u, err := url.Parse(o.Address)
	if err != nil || u.Hostname() == "" {
		return nil, fmt.Errorf("relay: %q is no address of a relay; it should be like wss://relay.example.org:8700", o.Address)
	}
	if o.UUID == uuid.Nil {
		return nil, errors.New("relay: a client needs a UUID")
	}
	if o.Name == "" {
		if o.Name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("relay: a client needs a name, and the host has none: %w", err)
		}
	}
	if _, err := Encode(Registration{Name: o.Name, UUID: o.UUID}); err != nil {
		return nil, err
	}
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	o.KeepAlive = cmp.Or(o.KeepAlive, 20*time.Second)
	o.MaxMessage = cmp.Or(o.MaxMessage, DefaultMaxMessage)
	o.Queue = cmp.Or(o.Queue, 256)
	if o.Timeout < 0 || o.KeepAlive < 0 || o.MaxMessage < 0 || o.Queue < 0 {
		return nil, errors.New("relay: timeouts and limits of a client must not be negative")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if u.Scheme == "ws" && o.Header != nil && !isLoopback(u.Hostname()) {
		o.Logger.Warn("credentials go to the relay unencrypted; use a wss:// address", "relay", o.Address)
	}
	c := &Client{
		o: o,
		http: &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: o.Dial, TLSClientConfig: o.TLS.Clone(), TLSHandshakeTimeout: o.Timeout,
			MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		}},
		done:    make(chan struct{}),
		in:      make(chan PeerConnection, o.Queue),
		out:     make(chan outgoing),
		state:   ClientState{Since: time.Now()},
		changed: make(chan struct{}),
		final:   make(chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	go c.run()
	return c, nil
}

// ClientTLS returns a configuration for [ClientOptions].TLS. With verify false it accepts whatever certificate the relay has, as ProxyStore's
// relay.verify_certificate=false does. The certificates of caFile (PEM) are accepted beside the system's; "" is none.
func ClientTLS(verify bool, caFile string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: !verify} //nolint:gosec // the user has asked for it
	if caFile == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("relay: certificate authorities: %w", err)
	}
	if cfg.RootCAs, err = x509.SystemCertPool(); err != nil {
		cfg.RootCAs = x509.NewCertPool()
	}
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("relay: %s has no certificate in PEM format", caFile)
	}
	return cfg, nil
}

// State returns how the client stands with its relay now.
func (c *Client) State() ClientState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Wait returns nil once the client is registered at its relay, and otherwise the reason why it is not: when ctx ends, when the client has given up or is closed.
func (c *Client) Wait(ctx context.Context) error {
	for {
		c.mu.Lock()
		state, changed := c.state, c.changed
		c.mu.Unlock()
		if state.Connected {
			return nil
		}
		if err := c.stopped(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
		case <-ctx.Done():
			return c.explain(ctx.Err())
		}
	}
}

// Send sends m through the relay to m.PeerUUID. It waits for a connection as long as ctx, and returns once the message is on its way; whether the peer is there is
// said by a message that comes back with Error set. An empty SourceUUID or SourceName is filled in. Errors: [transport.ErrTooLarge], [transport.ErrClosed], the
// client's State().Err when it has given up, and ctx's error together with the reason for the wait.
func (c *Client) Send(ctx context.Context, m PeerConnection) error {
	if m.SourceUUID == uuid.Nil {
		m.SourceUUID = c.o.UUID
	}
	m.SourceName = cmp.Or(m.SourceName, c.o.Name)
	data, err := Encode(m)
	if err != nil {
		return err
	}
	if len(data) > c.o.MaxMessage {
		return fmt.Errorf("relay: a message of %d bytes is %w; the limit is %d", len(data), transport.ErrTooLarge, c.o.MaxMessage)
	}
	out := outgoing{ctx: ctx, data: data, err: make(chan error, 1)}
	for {
		if err := ctx.Err(); err != nil {
			return c.explain(err)
		}
		if err := c.stopped(); err != nil {
			return err
		}
		select {
		case c.out <- out:
		case <-ctx.Done():
			return c.explain(ctx.Err())
		case <-c.final:
			return c.stopped()
		case <-c.ctx.Done():
			return c.stopped()
		}
		select {
		case err = <-out.err:
			if err == nil {
				return nil
			} // the connection broke: the next one gets it
		case <-ctx.Done():
			return c.explain(ctx.Err())
		}
	}
}

// Receive returns the next message from a peer, or one of our own that the relay could not deliver (Error is set then). Errors: ctx's, [transport.ErrClosed], and
// State().Err when the client has given up.
func (c *Client) Receive(ctx context.Context) (PeerConnection, error) {
	select {
	case m := <-c.in: // also what came before the end
		return m, nil
	default:
	}
	select {
	case m := <-c.in:
		return m, nil
	case <-ctx.Done():
		return PeerConnection{}, ctx.Err()
	case <-c.final:
		return PeerConnection{}, c.stopped()
	case <-c.ctx.Done():
		return PeerConnection{}, c.stopped()
	}
}

// Close unregisters the client, makes all calls return and waits for its goroutines. A relay that does not answer is left after a second. It may be called again.
func (c *Client) Close() error {
	c.cancel()
	<-c.done
	return nil
}

// stopped returns why nothing can be sent or received any more, or nil.
func (c *Client) stopped() error {
	if c.ctx.Err() != nil {
		return fmt.Errorf("relay: the client is closed: %w", transport.ErrClosed)
	}
	if s := c.State(); s.Final {
		return s.Err
	}
	return nil
}

// explain adds to the error of a context why there is no connection.
func (c *Client) explain(err error) error {
	if s := c.State(); !s.Connected && s.Err != nil {
		return fmt.Errorf("relay: no connection to %s: %w: %w", c.o.Address, err, s.Err)
	}
	return err
}

func (c *Client) set(change func(*ClientState)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.state
	change(&c.state)
	if c.state.Connected != before.Connected || c.state.Final != before.Final {
		c.state.Since = time.Now()
	}
	if c.state.Final && !before.Final {
		close(c.final)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) run() {
	defer close(c.done)
	defer c.http.CloseIdleConnections()
	for attempt, refused := 0, 0; ; {
		conn, err := c.connect()
		if err == nil {
			start := time.Now()
			refused = 0
			c.set(func(s *ClientState) { s.Connected, s.Err = true, nil })
			c.o.Logger.Info("registered at the relay", "relay", c.o.Address, "uuid", c.o.UUID, "name", c.o.Name)
			err = c.session(conn)
			if time.Since(start) >= stable {
				attempt = 0
			}
		}
		if c.ctx.Err() != nil {
			c.set(func(s *ClientState) { s.Connected, s.Err = false, transport.ErrClosed })
			return
		}
		err, again := c.judge(err)
		c.set(func(s *ClientState) { s.Connected, s.Err, s.Final = false, err, again == never })
		if again == never {
			c.o.Logger.Error("gave up the relay", "relay", c.o.Address, "error", err)
			return
		}
		var pause time.Duration
		if again == slowly {
			pause = min(refusedBackoff<<min(refused, 10), maxBackoff)
			pause += rand.N(pause / 10)
			refused++
			attempt = 0 // the relay is there
		} else {
			pause = backoff(attempt)
			attempt++
		}
		c.o.Logger.Warn("no connection to the relay", "relay", c.o.Address, "error", err, "retry_in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			timer.Stop()
		}
	}
}

// backoff returns the pause before the attempt after n failed ones, give or take a quarter, so that the clients of a relay that was away do not come all at once.
func backoff(n int) time.Duration {
	d := maxBackoff
	if n < len(quickBackoffs) {
		d = quickBackoffs[n]
	} else if n -= len(quickBackoffs); n < 6 {
		d = time.Second << n
	}
	return d*3/4 + rand.N(d/2)
}

// How a client goes on after a failure.
type again int

const (
	soon again = iota
	slowly
	never
)

// credentialsError is a failure of the Header function.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "relay: no credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// judge says how to go on after err, and what to tell the user.
func (c *Client) judge(err error) (error, again) {
	if _, ok := errors.AsType[*credentialsError](err); ok {
		if errors.Is(err, transport.ErrUnavailable) {
			return err, soon
		}
		return err, slowly
	}
	closed, ok := errors.AsType[websocket.CloseError](err)
	if !ok {
		return fmt.Errorf("relay: %s: %w: %w", c.o.Address, transport.ErrUnavailable, err), soon
	}
	next := never
	if c.o.Header != nil {
		next = slowly
	}
	switch closed.Code {
	case CloseUnauthorized:
		return fmt.Errorf("relay: %s wants to know who we are: %w: %q; log in (proxystore-globus-auth login) or configure the relay's token", c.o.Address,
			transport.ErrDenied, closed.Reason), next
	case CloseForbidden:
		todo := "log in again (proxystore-globus-auth logout, then login) or ask for a new token"
		if strings.Contains(closed.Reason, "already registered") {
			todo = "if the endpoint's directory was copied from another user's, configure a new endpoint"
		}
		return fmt.Errorf("relay: %s refuses us: %w: %q; %s", c.o.Address, transport.ErrDenied, closed.Reason, todo), next
	case CloseDuplicate:
		return fmt.Errorf("relay: %s: %w: UUID %s was registered from elsewhere: the endpoint runs in two places; stop one and restart the other, or configure a new endpoint (%q)",
			c.o.Address, transport.ErrUnavailable, c.o.UUID, closed.Reason), never
	case CloseTooLarge:
		return fmt.Errorf("relay: %s: the last message was %w: %q; raise max_message_bytes of the relay", c.o.Address, transport.ErrTooLarge, closed.Reason), soon
	}
	return fmt.Errorf("relay: %s: %w: closed with code %d %q", c.o.Address, transport.ErrUnavailable, closed.Code, closed.Reason), soon
}

// connect opens a connection and registers.
func (c *Client) connect() (*websocket.Conn, error) {
	var header http.Header
	if c.o.Header != nil {
		// Refreshing a token takes requests of its own.
		ctx, cancel := context.WithTimeout(c.ctx, 3*c.o.Timeout)
		h, err := c.o.Header(ctx)
		cancel()
		if err != nil {
			return nil, &credentialsError{err}
		}
		header = h
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.o.Timeout)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, c.o.Address, &websocket.DialOptions{HTTPClient: c.http, HTTPHeader: header.Clone()})
	if err != nil {
		if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("the server answers %s: is there a relay at this address? %w", response.Status, err)
		}
		return nil, err
	}
	conn.SetReadLimit(int64(c.o.MaxMessage))
	if err := c.register(ctx, conn); err != nil {
		conn.CloseNow()
		return nil, err
	}
	return conn, nil
}

func (c *Client) register(ctx context.Context, conn *websocket.Conn) error {
	data, err := Encode(Registration{Name: c.o.Name, UUID: c.o.UUID})
	if err != nil {
		return err
	}
	if err := conn.Write(ctx, websocket.MessageText, data); err != nil {
		return err
	}
	_, data, err = conn.Read(ctx)
	if err != nil {
		return err
	}
	m, err := Decode(data)
	if err != nil {
		return fmt.Errorf("unable to decode response message from relay server: %w", err)
	}
	switch m := m.(type) {
	case Response:
		if !m.Success {
			return fmt.Errorf("failed to register as peer with the relay server: %q", m.Message)
		}
		return nil
	default:
		return fmt.Errorf("the relay server replied with an unexpected message: %T", m)
	}
}

// session reads from a registered connection, and lets others write to it, until it ends. It takes conn. When the client is closed it says so to the relay.
func (c *Client) session(conn *websocket.Conn) error {
	ctx, cancel := context.WithCancel(context.Background()) // not c.ctx: the closing handshake needs the reader
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.CloseNow()
	defer cancel()
	var pinged error // written before conn is closed, read after
	wg.Go(func() { c.write(ctx, conn) })
	wg.Go(func() {
		if err := c.keepAlive(ctx, conn); err != nil {
			pinged = err
			conn.CloseNow()
		}
	})
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-c.ctx.Done():
			timer := time.AfterFunc(closeTime, cancel) // ends the reader, and with it the connection
			defer timer.Stop()
			conn.Close(websocket.StatusNormalClosure, "")
		}
	})
	err := c.read(ctx, conn)
	cancel()
	conn.CloseNow()
	wg.Wait()
	if pinged != nil {
		return pinged
	}
	return err
}

func (c *Client) read(ctx context.Context, conn *websocket.Conn) error {
	for {
		kind, data, err := conn.Read(ctx)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the connection was cut: %w", io.ErrUnexpectedEOF)
			}
			return err
		}
		if kind != websocket.MessageText {
			c.o.Logger.Warn("ignored a binary message of the relay", "bytes", len(data))
			continue
		}
		m, err := Decode(data)
		if err != nil {
			c.o.Logger.Warn("ignored a message of the relay", "error", err)
			continue
		}
		switch m := m.(type) {
		case PeerConnection:
			c.deliver(m)
		case Response:
			c.o.Logger.Warn("the relay reports an error", "message", m.Message)
		default:
			c.o.Logger.Warn("ignored a message that only clients send", "type", fmt.Sprintf("%T", m))
		}
	}
}

// deliver puts m where Receive finds it. Signalling is worthless when it is old, so that the oldest message makes room.
func (c *Client) deliver(m PeerConnection) {
	for {
		select {
		case c.in <- m:
			return
		default:
		}
		select {
		case <-c.in:
			c.mu.Lock()
			c.state.Dropped++
			n := c.state.Dropped
			c.mu.Unlock()
			c.o.Logger.Warn("dropped a message of the relay, nobody receives them", "dropped", n)
		default:
		}
	}
}

func (c *Client) write(ctx context.Context, conn *websocket.Conn) {
	for {
		select {
		case out := <-c.out:
			if out.ctx.Err() != nil {
				out.err <- out.ctx.Err()
				continue
			}
			// Not the caller's context: when it ends in the middle of a write the connection would be lost.
			wctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
			err := conn.Write(wctx, websocket.MessageText, out.data)
			cancel()
			out.err <- err
			if err != nil {
				conn.CloseNow()
				return
			}
		case <-c.ctx.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

func (c *Client) keepAlive(ctx context.Context, conn *websocket.Conn) error {
	tick := time.NewTicker(c.o.KeepAlive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.ctx.Done():
			return nil
		case <-tick.C:
		}
		pctx, cancel := context.WithTimeout(ctx, c.o.KeepAlive)
		err := conn.Ping(pctx)
		cancel()
		if ctx.Err() != nil || c.ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("the relay did not answer a ping within %v", c.o.KeepAlive)
		}
		if err != nil {
			return nil // the reader knows better why
		}
	}
}

// isLoopback reports whether a host, by name or address, can only be this one.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback() || strings.EqualFold(host, "localhost")
}
