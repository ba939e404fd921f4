package tcp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// ALPN is the protocol's name in TLS. A server that is configured for others needs it among them.
const ALPN = "proxyplane/1"

const defaultConnect = 10 * time.Second

// sameHostTimeout is how long a client tries to reach a server over its unix socket.
const sameHostTimeout = time.Second

// DialOptions of a client. The zero value is useful.
type DialOptions struct {
	native.ClientOptions

	// TLS configures "tls://". Default: the system's authorities, and the address's host as the server's name. Its Certificates are for servers
	// that ask for one.
	TLS *tls.Config
	// NoSameHost stays on TCP or TLS even if the server is on this host. Otherwise the client moves to the unix socket that such a server announces,
	// if the host's boot id is the same, the socket is in this program's file system, it belongs to a process of the same user or of root, and the
	// very same server answers there. If any of that fails, TCP it stays, and nobody is told but the Logger at debug level.
	NoSameHost bool
	// Dialer makes the connection; network is "tcp" or "unix". Default: net.Dialer. With one of your own there is no moving to a unix socket.
	Dialer func(ctx context.Context, network, addr string) (net.Conn, error)
	// ConnectTimeout bounds the connection and TLS's handshake, beside Dial's ctx. Default: 10 s.
	ConnectTimeout time.Duration

	// BusyPoll is how long a read looks for bytes before it waits to be woken. 0: not at all. See the package's text.
	BusyPoll time.Duration
	// Stall is how long the server may make no progress in the middle of a frame, in either direction, before the connection counts as broken.
	// Default: 30 s; negative: for ever.
	Stall time.Duration
	// SendBuffer and ReceiveBuffer are the sizes of the socket's buffers in the kernel. 0: the system's.
	SendBuffer, ReceiveBuffer int
}

// A Client is one session with a server. It implements objects.Client.
type Client struct {
	*native.Client
	network string
}

var _ objects.Client = (*Client)(nil)

// Network returns what the session runs over: "tcp", "tls" or "unix".
func (c *Client) Network() string { return c.network }

// Dial connects to a server. ctx bounds only that. An error matches transport.ErrUnavailable if nobody answers there, transport.ErrDenied if the
// two do not trust each other; an end of ctx passes as it is.
func Dial(ctx context.Context, addr string, o DialOptions) (*Client, error) {
	a, err := parseAddress(addr)
	if err != nil {
		return nil, err
	}
	if a.network == "tcp" && a.host == "" {
		a.host = "localhost"
		a.rest = a.host + a.rest
	}
	nc, err := connectTo(ctx, a, &o)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, dialError(addr, err)
	}
	c, err := native.NewClient(ctx, NewCarrier(nc, CarrierOptions{BusyPoll: o.BusyPoll, Stall: o.Stall}), o.ClientOptions)
	if err != nil {
		if a.scheme == "tls" && isAlert(err) { // TLS 1.3 says only now that it wants a certificate
			err = dialError(addr, err)
		}
		return nil, err
	}
	if a.network == "tcp" && !o.NoSameHost && o.Dialer == nil {
		if local := sameHost(ctx, c.Welcome(), &o); local != nil {
			c.Close()
			return &Client{local, "unix"}, nil
		}
	}
	return &Client{c, a.scheme}, nil
}

// connectTo makes the connection that a session can begin on.
func connectTo(ctx context.Context, a address, o *DialOptions) (net.Conn, error) {
	timeout := o.ConnectTimeout
	if timeout <= 0 {
		timeout = defaultConnect
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dial := o.Dialer
	if dial == nil {
		dial = (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext
	}
	nc, err := dial(ctx, a.network, a.rest)
	if err != nil {
		return nil, err
	}
	tune(nc, o.Stall, o.SendBuffer, o.ReceiveBuffer)
	if a.scheme != "tls" {
		return nc, nil
	}
	cfg := &tls.Config{}
	if o.TLS != nil {
		cfg = o.TLS.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = a.host
	}
	tc := tls.Client(polling(nc, o.BusyPoll), tuneTLS(cfg))
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, err
	}
	return tc, nil
}

// tuneTLS sets in cfg, which is ours, what its owner did not.
func tuneTLS(cfg *tls.Config) *tls.Config {
	cfg.DynamicRecordSizingDisabled = true // small records at the start are for web browsers
	if cfg.MinVersion == 0 {
		cfg.MinVersion = tls.VersionTLS13
	}
	if cfg.NextProtos == nil {
		cfg.NextProtos = []string{ALPN}
	}
	return cfg
}

func dialError(addr string, err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: %s: %w: set DialOptions.TLS.RootCAs to the server's authority", transport.ErrDenied, addr, err)
	case errors.As(err, &name), errors.As(err, &invalid):
		return fmt.Errorf("%w: %s: %w: dial the name that is in the certificate, or set DialOptions.TLS.ServerName", transport.ErrDenied, addr, err)
	case isAlert(err):
		return fmt.Errorf("%w: %s: the server refused TLS: %w: it may want a client certificate, in DialOptions.TLS.Certificates",
			transport.ErrDenied, addr, err)
	case errors.As(err, &record):
		return fmt.Errorf("%w: %s: %w: is it a tcp:// server?", transport.ErrUnavailable, addr, err)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: %s: no server has that socket: %w", transport.ErrUnavailable, addr, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: %s: %w", transport.ErrDenied, addr, err)
	}
	return fmt.Errorf("%w: dialing %s: %w", transport.ErrUnavailable, addr, err)
}

// isAlert reports whether err is what the other side said by TLS.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4}

// tune sets the options of a socket. What the system refuses it does without.
func tune(nc net.Conn, stall time.Duration, send, receive int) {
	if b, ok := nc.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}); ok {
		if send > 0 {
			b.SetWriteBuffer(send)
		}
		if receive > 0 {
			b.SetReadBuffer(receive)
		}
	}
	tc, ok := nc.(*net.TCPConn) // which has TCP_NODELAY set already
	if !ok {
		return
	}
	tc.SetKeepAliveConfig(keepAlive)
	if stall == 0 {
		stall = defaultStall
	}
	if stall > 0 {
		userTimeout(tc, stall)
	}
}
