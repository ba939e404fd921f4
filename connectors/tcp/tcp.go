package tcp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

const kind = "tcp"

// Options configure a connector. The zero value has a server of this process on loopback, at a port that the system picks.
type Options struct {
	dim.Options

	TLS          bool   // speak TLS; the server's certificate is verified, always
	CAFile       string // PEM; who may sign the certificates of servers; default: the system's authorities
	CertFile     string // PEM; our certificate, as a server and for servers that ask for one
	KeyFile      string // PEM; the key of CertFile
	ClientCAFile string // PEM; a server that is started here serves only who has a certificate signed by one of these
	ServerName   string // the name in the certificates of servers; default: the host that is dialed

	NoSameHost bool          // stay on TCP even to servers on this host
	BusyPoll   time.Duration // how long to look for bytes before waiting for them, which is faster and costs a processor; default: not at all
}

// New returns a connector. It looks for a server at the address, and starts one if there is none.
func New(ctx context.Context, opts Options) (*dim.Connector, error) { return open(ctx, opts, nil) }

func open(ctx context.Context, opts Options, env *connectors.Env) (*dim.Connector, error) {
	t, err := Transport(kind, &opts)
	if err != nil {
		return nil, err
	}
	return dim.New(ctx, t, opts.Options, env, func(o dim.Options) connectors.Config {
		now := opts
		now.Options = o
		return connectors.Config{Kind: kind, Options: now.values()}
	})
}

// ensure refuses what contradicts itself, and makes paths absolute.
func (o *Options) ensure() error {
	bad := func(text string) error { return fmt.Errorf("%w: %s", connectors.ErrConfig, text) }
	switch {
	case !o.TLS && (o.CAFile != "" || o.CertFile != "" || o.KeyFile != "" || o.ClientCAFile != "" || o.ServerName != ""):
		return bad("options ca_file, cert_file, key_file, client_ca_file and server_name need tls")
	case (o.CertFile == "") != (o.KeyFile == ""):
		return bad("options cert_file and key_file go together")
	case o.TLS && strings.HasPrefix(o.Address, "unix://"):
		return bad("a unix socket has no TLS: drop option tls, or name a network address")
	case o.BusyPoll < 0 || o.BusyPoll > time.Second:
		return bad("option busy_poll must be from 0 to 1 second; some 50 µs are much")
	}
	for _, path := range []*string{&o.CAFile, &o.CertFile, &o.KeyFile, &o.ClientCAFile} {
		if err := dim.Absolute(path); err != nil {
			return err
		}
	}
	o.BusyPoll = o.BusyPoll.Round(time.Microsecond) // so that seconds as a float64, and back, are the same
	return nil
}

// Transport returns the native protocol over TCP for a connector of any kind. It reads the files that opts name.
func Transport(kind string, opts *Options) (*dim.Transport, error) {
	if err := opts.ensure(); err != nil {
		return nil, err
	}
	token, err := opts.Secret()
	if err != nil {
		return nil, err
	}
	o := *opts // as they are now
	server, client, err := o.tlsConfigs()
	if err != nil {
		return nil, err
	}
	serve, dial := o.Native(token)
	dialOpts := tcp.DialOptions{ClientOptions: dial, TLS: client, NoSameHost: o.NoSameHost, BusyPoll: o.BusyPoll}
	listenOpts := tcp.ListenOptions{ServerOptions: serve, TLS: server, Insecure: o.Insecure, NoSameHost: o.NoSameHost, BusyPoll: o.BusyPoll}
	return &dim.Transport{
		Kind: kind, NewStore: dim.NewTable,
		Scope: dim.Scope(string(token), fmt.Sprint(o.TLS, o.Insecure), o.CAFile, o.CertFile, o.KeyFile, o.ClientCAFile),
		Dialers: []dim.Dialer{{DIMType: "tcp", Dial: func(ctx context.Context, host string, port int) (objects.Client, error) {
			c, err := tcp.Dial(ctx, o.address(host, port), dialOpts)
			if err != nil {
				return nil, explain(err, host, port)
			}
			return c, nil
		}}},
		Listen: func(ctx context.Context, host string, port int, store objects.Store) (objects.Server, error) {
			if o.TLS && o.CertFile == "" {
				return nil, fmt.Errorf("%w: no server answers at %s, and one that is started here needs options cert_file and key_file", connectors.ErrConfig,
					o.address(host, port))
			}
			s, err := tcp.Listen(ctx, o.address(host, port), store, listenOpts)
			if errors.Is(err, connectors.ErrDenied) {
				return nil, fmt.Errorf("%w; those are options token, tls with client_ca_file, and insecure", err)
			}
			if err != nil {
				return nil, err
			}
			return s, nil
		}}, nil
}

// explain adds to an error of Dial what this package knows.
func explain(err error, host string, port int) error {
	if errors.Is(err, connectors.ErrCorrupt) {
		return fmt.Errorf("%w; if it is a server of Python's ZeroMQConnector, use connector zmq", err)
	}
	return err
}

func (o *Options) address(host string, port int) string {
	switch {
	case strings.HasPrefix(host, "unix://"):
		return host
	case o.TLS:
		return "tls://" + net.JoinHostPort(host, strconv.Itoa(port))
	}
	return "tcp://" + net.JoinHostPort(host, strconv.Itoa(port))
}

// tlsConfigs returns nil without TLS.
func (o *Options) tlsConfigs() (server, client *tls.Config, err error) {
	if !o.TLS {
		return nil, nil, nil
	}
	client = &tls.Config{ServerName: o.ServerName}
	server = &tls.Config{}
	if o.CAFile != "" {
		if client.RootCAs, err = certificates("ca_file", o.CAFile); err != nil {
			return nil, nil, err
		}
	}
	if o.ClientCAFile != "" {
		if server.ClientCAs, err = certificates("client_ca_file", o.ClientCAFile); err != nil {
			return nil, nil, err
		}
		server.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if o.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: options cert_file and key_file: %w", connectors.ErrConfig, err)
		}
		client.Certificates, server.Certificates = []tls.Certificate{cert}, []tls.Certificate{cert}
	}
	return server, client, nil
}

func certificates(option, path string) (*x509.CertPool, error) {
	pem, err := dim.ReadFile(option, path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%w: option %s: %s holds no PEM certificate", connectors.ErrConfig, option, path)
	}
	return pool, nil
}

// values is the inverse of parse.
func (o *Options) values() map[string]any {
	m := o.Values()
	for name, v := range map[string]string{"ca_file": o.CAFile, "cert_file": o.CertFile, "key_file": o.KeyFile, "client_ca_file": o.ClientCAFile,
		"server_name": o.ServerName} {
		if v != "" {
			m[name] = v
		}
	}
	for name, v := range map[string]bool{"tls": o.TLS, "no_same_host": o.NoSameHost} {
		if v {
			m[name] = true
		}
	}
	if o.BusyPoll != 0 {
		m["busy_poll"] = o.BusyPoll.Seconds()
	}
	return m
}

func parse(o *connectors.Options) Options {
	return Options{Options: dim.Parse(o, dim.Defaults{Loopback: true}), TLS: o.Bool("tls", false), CAFile: o.String("ca_file", ""), CertFile: o.String("cert_file", ""),
		KeyFile: o.String("key_file", ""), ClientCAFile: o.String("client_ca_file", ""), ServerName: o.String("server_name", ""),
		NoSameHost: o.Bool("no_same_host", false), BusyPoll: o.Seconds("busy_poll", 0)}
}

// Driver returns the driver of this connector, for a [connectors.Registry]. Its options are those of package dim, tls, ca_file, cert_file, key_file,
// client_ca_file, server_name, no_same_host and busy_poll.
func Driver() connectors.Driver {
	d := connectors.Driver{
		Kind:   kind,
		Secret: dim.SecretOptions,
		Open: func(ctx context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
			opts := parse(o)
			if err := o.Err(); err != nil {
				return nil, err
			}
			if env.Received {
				opts.Receive()
				opts.BusyPoll = 0
				opts.ClientCAFile = ""
			}
			c, err := open(ctx, opts, env)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Locations: func(o *connectors.Options, _ *connectors.Env) ([]connectors.Location, error) {
			opts := parse(o)
			if err := o.Err(); err != nil {
				return nil, err
			}
			if err := opts.ensure(); err != nil {
				return nil, err
			}
			return opts.Locations(kind, opts.CAFile, opts.CertFile, opts.KeyFile)
		},
	}
	d.Travel = func(_ *connectors.Registry, opts map[string]any, python bool) (map[string]any, error) {
		if python {
			return nil, fmt.Errorf("%w for connector tcp; use connector zmq, which moves objects over ZeroMQ and is Python's ZeroMQConnector, or write the proxy as "+
				"JSON for Go readers", connectors.ErrNotForPython)
		}
		return dim.Travel(&d, opts, false, nil)
	}
	return d
}
