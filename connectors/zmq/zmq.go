package zmq

import (
	"context"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/connectors/dim/rpc"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/zmq"
)

const kind = "zmq"

var class = connectors.Class{Module: "proxystore_ex.connectors.dim.zmq", Name: "ZeroMQConnector"}

// Options configure a connector. The zero value has a server of this process, at this machine's address and a port that the system picks.
type Options struct {
	dim.Options
	ChunkLength int  // of messages to and from Python, in bytes per frame; default: 64 KiB, as Python's
	Libzmq      bool // speak the same wire by libzmq, which is slower and needs build tag zmq; received, it is ignored where libzmq is not built in

	CurveServerKey        string   // the server's public key, in Z85: speak CURVE with it, and with nobody else
	CurveSecretFile       string   // file with our secret key in Z85, by which the server knows us; default: one made up
	CurveServerSecretFile string   // file with the secret key of a server that is started here
	CurveClients          []string // public keys of those who may connect to it; default: all who know its public key
}

// New returns a connector. It looks for a server at the address, and starts one if there is none.
func New(ctx context.Context, opts Options) (*dim.Connector, error) { return open(ctx, opts, nil) }

func open(ctx context.Context, opts Options, env *connectors.Env) (*dim.Connector, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", connectors.ErrConfig, fmt.Sprintf(format, args...))
	}
	if opts.ChunkLength < 0 {
		return nil, bad("option chunk_length must not be negative")
	}
	if strings.Contains(opts.Address, "://") {
		return nil, bad("option address: name a host; keys have no room for a socket's path")
	}
	if opts.CurveSecretFile != "" && opts.CurveServerKey == "" {
		return nil, bad("option curve_secret_file needs curve_server_key")
	}
	if opts.Libzmq && !zmq.HasLibzmq() {
		return nil, fmt.Errorf("%w: option libzmq; build with CGO_ENABLED=1 -tags zmq and libzmq3-dev (zeromq-devel), or drop the option: the same wire is spoken without",
			connectors.ErrNotBuilt)
	}
	if opts.ChunkLength == 0 {
		opts.ChunkLength = zmq.DefaultChunkLength
	}
	for _, path := range []*string{&opts.CurveSecretFile, &opts.CurveServerSecretFile} {
		if err := dim.Absolute(path); err != nil {
			return nil, err
		}
	}
	token, err := opts.Secret()
	if err != nil {
		return nil, err
	}
	serve, dial := opts.Native(token)
	client, err := opts.curveClient()
	if err != nil {
		return nil, err
	}
	dialOpts := zmq.DialOptions{ClientOptions: dial, Curve: client, ChunkLength: opts.ChunkLength, Libzmq: opts.Libzmq}
	t := &dim.Transport{Kind: kind, NewStore: dim.NewTable,
		Scope: dim.Scope(string(token), opts.CurveServerKey, opts.CurveSecretFile, opts.CurveServerSecretFile, strings.Join(opts.CurveClients, " "),
			fmt.Sprint(opts.Insecure)),
		Dialers: []dim.Dialer{{DIMType: kind, Dial: func(ctx context.Context, host string, port int) (objects.Client, error) {
			return dialPeer(ctx, host, port, dialOpts)
		}}},
		Listen: func(ctx context.Context, host string, port int, store objects.Store) (objects.Server, error) {
			curve, err := opts.curveServer()
			if err != nil {
				return nil, err
			}
			put := objects.PutOptions{TTL: opts.TTL}
			return listen(ctx, host, port, store, zmq.ListenOptions{ServerOptions: serve, Curve: curve, ChunkLength: opts.ChunkLength, Insecure: opts.Insecure,
				Libzmq: opts.Libzmq, Python: rpc.NewHandler(store, rpc.HandlerOptions{Put: put})})
		}}
	return dim.New(ctx, t, opts.Options, env, func(o dim.Options) connectors.Config {
		now := opts
		now.Options = o
		return now.config()
	})
}

func address(host string, port int) string {
	return "tcp://" + net.JoinHostPort(host, strconv.Itoa(port))
}

// listen starts a server. A nil *zmq.Server must not become an objects.Server.
func listen(ctx context.Context, host string, port int, store objects.Store, o zmq.ListenOptions) (objects.Server, error) {
	s, err := zmq.Listen(ctx, address(host, port), store, o)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// dialPeer connects to a server of ours or of Python's.
func dialPeer(ctx context.Context, host string, port int, o zmq.DialOptions) (objects.Client, error) {
	c, err := zmq.Connect(ctx, address(host, port), o)
	if err != nil {
		return nil, err
	}
	defer c.Close() // does nothing once c is in use
	if c.Peer() == zmq.PeerPython {
		if o.Curve != nil || len(o.Token) > 0 {
			return nil, fmt.Errorf("%w: a server of Python answers at %s, which can prove nothing; drop options token and curve_server_key to talk to it all the same",
				connectors.ErrDenied, address(host, port))
		}
		x, err := c.Exchanger()
		if err != nil {
			return nil, err
		}
		return rpc.NewClient(x, kind, rpc.ClientOptions{Host: host, Port: port}), nil
	}
	client, err := c.Client(ctx)
	if err != nil {
		return nil, err
	}
	return client, nil
}

// readKey reads a key from a file, whose first word it is.
func readKey(option, path string) (k zmq.CurveKey, err error) {
	data, err := dim.ReadFile(option, path)
	if err != nil {
		return k, err
	}
	words := strings.Fields(string(data))
	if len(words) == 0 {
		return k, fmt.Errorf("%w: option %s: %s is empty", connectors.ErrConfig, option, path)
	}
	if k, err = zmq.ParseCurveKey(words[0]); err != nil {
		return k, fmt.Errorf("%w: option %s: %w", connectors.ErrConfig, option, err)
	}
	return k, nil
}

func (o *Options) curveClient() (*zmq.CurveClient, error) {
	if o.CurveServerKey == "" {
		return nil, nil
	}
	c := &zmq.CurveClient{}
	var err error
	if c.ServerKey, err = zmq.ParseCurveKey(o.CurveServerKey); err != nil {
		return nil, fmt.Errorf("%w: option curve_server_key: %w", connectors.ErrConfig, err)
	}
	if o.CurveSecretFile == "" {
		c.PublicKey, c.SecretKey, err = zmq.NewCurveKeys()
		return c, err
	}
	c.SecretKey, err = readKey("curve_secret_file", o.CurveSecretFile)
	c.PublicKey = c.SecretKey.Public()
	return c, err
}

func (o *Options) curveServer() (*zmq.CurveServer, error) {
	switch {
	case o.CurveServerSecretFile != "":
	case o.CurveServerKey != "":
		return nil, fmt.Errorf("%w: no server answers, and one that is started here needs the secret of curve_server_key: set option curve_server_secret_file, "+
			"or start proxyplane serve --transport zmq with it", connectors.ErrConfig)
	default:
		return nil, nil
	}
	secret, err := readKey("curve_server_secret_file", o.CurveServerSecretFile)
	if err != nil {
		return nil, err
	}
	c := &zmq.CurveServer{PublicKey: secret.Public(), SecretKey: secret, AnyClient: len(o.CurveClients) == 0}
	if o.CurveServerKey != c.PublicKey.Z85() {
		return nil, fmt.Errorf("%w: option curve_server_key must be the public key of curve_server_secret_file: %s", connectors.ErrConfig, c.PublicKey.Z85())
	}
	for _, text := range o.CurveClients {
		k, err := zmq.ParseCurveKey(text)
		if err != nil {
			return nil, fmt.Errorf("%w: option curve_clients: %w", connectors.ErrConfig, err)
		}
		c.AllowedClients = append(c.AllowedClients, k)
	}
	return c, nil
}

// config is the inverse of parse.
func (o *Options) config() connectors.Config {
	m := o.Values()
	m["chunk_length"] = int64(o.ChunkLength)
	if o.Libzmq {
		m["libzmq"] = true
	}
	for name, v := range map[string]string{"curve_server_key": o.CurveServerKey, "curve_secret_file": o.CurveSecretFile,
		"curve_server_secret_file": o.CurveServerSecretFile} {
		if v != "" {
			m[name] = v
		}
	}
	if len(o.CurveClients) > 0 {
		list := make([]any, len(o.CurveClients))
		for i, k := range o.CurveClients {
			list[i] = k
		}
		m["curve_clients"] = list
	}
	return connectors.Config{Kind: class.String(), Options: m}
}

func parse(o *connectors.Options) Options {
	return Options{Options: dim.Parse(o, dim.Defaults{}), ChunkLength: int(o.Int("chunk_length", 0, 0, math.MaxInt32)), Libzmq: o.Bool("libzmq", false),
		CurveServerKey: o.String("curve_server_key", ""), CurveSecretFile: o.String("curve_secret_file", ""),
		CurveServerSecretFile: o.String("curve_server_secret_file", ""), CurveClients: o.Strings("curve_clients")}
}

// Driver returns the driver of this connector, for a [connectors.Registry]. Its options are Python's address, interface, port, chunk_length and timeout;
// those of package dim; and libzmq, curve_server_key, curve_secret_file, curve_server_secret_file and curve_clients.
func Driver() connectors.Driver {
	d := connectors.Driver{
		Kind:          kind,
		Class:         class,
		PythonOptions: []string{"address", "interface", "port", "chunk_length", "timeout"},
		Essential:     []string{"curve_server_key", "token", "token_file"}, // token unless insecure: see Travel
		Secret:        dim.SecretOptions,
		Open: func(ctx context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
			opts := parse(o)
			if err := o.Err(); err != nil {
				return nil, err
			}
			if env.Received {
				opts.Receive()
				opts.CurveServerSecretFile, opts.CurveClients = "", nil // no server is started
				opts.Libzmq = opts.Libzmq && zmq.HasLibzmq()
			}
			c, err := open(ctx, opts, env)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Locations: func(o *connectors.Options, env *connectors.Env) ([]connectors.Location, error) {
			opts := parse(o)
			if err := o.Err(); err != nil {
				return nil, err
			}
			return opts.Locations(kind, opts.CurveSecretFile)
		},
	}
	d.Travel = func(_ *connectors.Registry, opts map[string]any, python bool) (map[string]any, error) {
		return dim.Travel(&d, opts, python, func(name string) bool {
			return opts["insecure"] == true && strings.HasPrefix(name, "token") // such a server lets Python in without
		})
	}
	return d
}
