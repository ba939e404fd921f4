package path

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

const (
	// stagger is how long an address has until the next is tried beside it (RFC 8305 section 8 recommends it).
	stagger = 250 * time.Millisecond
	// maxAttempts is how many addresses are tried at once.
	maxAttempts = 4
	// maxSpares bounds DialOptions.Spares.
	maxSpares = 8
	// redial is how long the dialer waits after a spare could not be dialed, at first and at most.
	redialMin, redialMax = 250 * time.Millisecond, 5 * time.Second
)

// DialOptions of DialTLS. Certificate and Verify are required.
type DialOptions struct {
	// Certificate is shown to the listener.
	Certificate tls.Certificate
	// Verify says whether the listener's certificate, in DER, is the expected one. It is asked for each connection of the path, by many goroutines at once. It
	// must not keep der.
	Verify func(der []byte) error

	// AttemptTimeout is how long one address may take for the TCP connection, the handshake and the listener's word. Default 10 s.
	AttemptTimeout time.Duration
	// Streams is how many streams there may be in either direction, spares among those of the listener. Default 64.
	Streams int
	// Spares is how many connections are kept ready for streams that the listener's side opens. Default 2, at most 8.
	Spares int
	// Ping is how often the control connection is used; 4 pings unanswered are the end. Default 3 s.
	Ping time.Duration
	// Logger is told what failed, at Debug. Default: none.
	Logger *slog.Logger
}

// DialTLS establishes a Path to the TLSListener that is at one of addrs, "host:port", of which the first 16 count. They are tried in turn, each 250 ms after
// the last or as soon as one has failed, at most 4 at once; the first one where somebody with the right certificate takes the path wins.
// ctx bounds the call, not the Path. Errors match transport.ErrUnavailable, ErrDenied too if somebody else answered at one of them or did not accept our
// certificate, or are ctx's own.
func DialTLS(ctx context.Context, addrs []string, o DialOptions) (Path, error) {
	if len(o.Certificate.Certificate) == 0 || o.Verify == nil {
		return nil, errors.New("path: DialOptions.Certificate and Verify are required")
	}
	o.AttemptTimeout = orDefault(o.AttemptTimeout, DefaultHandshakeTimeout)
	o.Streams = orDefault(o.Streams, DefaultStreams)
	o.Spares = min(orDefault(o.Spares, DefaultSpares), maxSpares, o.Streams)
	o.Ping = orDefault(o.Ping, DefaultPing)
	o.Logger = orDiscard(o.Logger)
	d := &dialer{conf: tlsConfig(o.Certificate, o.Verify), timeout: o.AttemptTimeout}
	rand.Read(d.id[:])
	c, err := race(ctx, order(addrs), d.control, func(c control) { hangUp(c.c) })
	if err != nil {
		return nil, err
	}
	d.addr = c.c.RemoteAddr().String() // not its name, which may mean several machines
	p := newTLSPath(c.c, o.Streams, o.Ping, o.Logger)
	p.measured(c.rtt)
	p.open = func(ctx context.Context) (*tls.Conn, error) { return d.dial(ctx, roleClient) }
	p.start()
	for range o.Spares {
		p.wg.Go(func() { p.keepSpare(d) })
	}
	return p, nil
}

// order checks addresses that a peer announced, and lets the families take turns, so that one that does not work costs little.
func order(addrs []string) []string {
	var four, six []string
	for _, a := range addrs[:min(len(addrs), maxAddrs)] {
		host, port, err := net.SplitHostPort(a)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" || len(host) > 253 {
			continue
		}
		ip, err := netip.ParseAddr(host)
		switch {
		case err != nil: // a name
			four = append(four, a)
		case ip.IsUnspecified() || ip.IsMulticast():
		case ip.Unmap().Is4():
			four = append(four, a)
		default:
			six = append(six, a)
		}
	}
	var out []string
	for i := range max(len(four), len(six)) {
		if i < len(six) {
			out = append(out, six[i])
		}
		if i < len(four) {
			out = append(out, four[i])
		}
	}
	return out
}

// race makes attempts at addrs until one succeeds, and gives the others that do to lose. It returns when all attempts have ended.
func race[T any](ctx context.Context, addrs []string, attempt func(ctx context.Context, addr string) (T, error), lose func(T)) (won T, err error) {
	if len(addrs) == 0 {
		return won, fmt.Errorf("path: %w: the peer announced no address that could be dialed", transport.ErrUnavailable)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		v    T
		addr string
		err  error
	}
	results := make(chan result)
	next := time.NewTimer(0)
	defer next.Stop()
	var failed []error
	running, done, found := 0, ctx.Done(), false
	for running > 0 || !found && len(addrs) > 0 && ctx.Err() == nil {
		start := next.C
		if found || running == maxAttempts || len(addrs) == 0 {
			start = nil
		}
		select {
		case <-start:
			addr := addrs[0]
			addrs = addrs[1:]
			running++
			go func() {
				v, err := attempt(ctx, addr)
				results <- result{v, addr, err}
			}()
			next.Reset(stagger)
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				failed = append(failed, fmt.Errorf("%s: %w", r.addr, r.err))
				next.Reset(0)
			case found:
				lose(r.v)
			default:
				won, found = r.v, true
				cancel() // the others
			}
		case <-done:
			done = nil // no more attempts; those that run end by themselves
		}
	}
	switch {
	case found:
		return won, nil
	case ctx.Err() != nil:
		return won, fmt.Errorf("path: dialing the peer: %w", context.Cause(ctx))
	}
	return won, fmt.Errorf("path: %w: no address of the peer could be reached: %w", transport.ErrUnavailable, errors.Join(failed...))
}

// dialer makes the connections of one path.
type dialer struct {
	conf    *tls.Config
	timeout time.Duration
	id      pathID
	addr    string
}

type control struct {
	c   *tls.Conn
	rtt time.Duration
}

// control dials the control connection at one address.
func (d *dialer) control(ctx context.Context, addr string) (control, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, fmt.Errorf("%w: no answer within %v", transport.ErrUnavailable, d.timeout))
	defer cancel()
	begun := time.Now()
	c, err := d.connect(ctx, addr, roleControl)
	if err != nil {
		return control{}, err
	}
	sent := time.Now()
	stop := context.AfterFunc(ctx, func() { c.NetConn().SetDeadline(begun) })
	var b [welcomeSize]byte
	_, err = io.ReadFull(c, b[:])
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil && string(b[:]) != magic+string(roleControl) {
		err = fmt.Errorf("%w: the listener does not speak this protocol", transport.ErrCorrupt)
	}
	if err != nil {
		hangUp(c)
		return control{}, dialError(ctx, err)
	}
	return control{c, time.Since(sent)}, nil
}

// dial makes another connection of the path.
func (d *dialer) dial(ctx context.Context, role byte) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, fmt.Errorf("%w: no answer within %v", transport.ErrUnavailable, d.timeout))
	defer cancel()
	c, err := d.connect(ctx, d.addr, role)
	if err != nil {
		return nil, fmt.Errorf("path: a connection to %s: %w", d.addr, err)
	}
	return c, nil
}

// connect dials, does the handshake and sends the preamble.
func (d *dialer) connect(ctx context.Context, addr string, role byte) (*tls.Conn, error) {
	nd := net.Dialer{KeepAliveConfig: keepAlive}
	nc, err := nd.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, dialError(ctx, err)
	}
	tune(nc)
	c := tls.Client(&batchConn{Conn: nc}, d.conf)
	if err := c.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, dialError(ctx, err)
	}
	if _, err := c.Write(preamble(role, d.id)); err != nil { // fits into any socket's buffer
		nc.Close()
		return nil, dialError(ctx, err)
	}
	return c, nil
}

// dialError says what went wrong, in terms of package transport's errors.
func dialError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var alert tls.AlertError
	var oe *net.OpError
	switch {
	case errors.Is(err, transport.ErrDenied), errors.Is(err, transport.ErrUnavailable), errors.Is(err, transport.ErrCorrupt):
		return err
	case errors.As(err, &alert), errors.As(err, &oe) && oe.Op == "remote error": // TLS's alerts
		return fmt.Errorf("%w: the listener does not accept our certificate: %w", transport.ErrDenied, err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the listener hung up", transport.ErrUnavailable)
	}
	return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
}

// keepSpare keeps one spare connection there for the listener's side, and hands it to Accept when it is taken.
func (p *tlsPath) keepSpare(d *dialer) {
	wait := redialMin
	for p.ctx.Err() == nil {
		if acquire(p.ctx, p, p.accepted) != nil {
			return
		}
		c, err := d.dial(p.ctx, roleSpare)
		if err == nil {
			wait = redialMin
			if p.keep(c) != nil {
				return
			}
			if err = awaitTaken(c); err == nil {
				if s, err := p.stream(c, p.accepted); err == nil {
					p.accepts <- s // has room for all slots
				}
				continue
			}
			p.drop(c)
		}
		<-p.accepted
		if p.ctx.Err() != nil {
			return
		}
		p.log.Debug("path: a spare connection failed", "peer", d.addr, "error", err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-p.done:
			t.Stop()
			return
		}
		wait = min(2*wait, redialMax)
	}
}

// awaitTaken returns when the listener's side takes a spare.
func awaitTaken(c *tls.Conn) error {
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	if b[0] != taken {
		return fmt.Errorf("%w: a spare connection began with %q", transport.ErrCorrupt, b[0])
	}
	return nil
}
