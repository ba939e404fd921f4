package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/connectors/dim/rpc"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
	"github.com/proxyplane/proxyplane/transport/ucx"
	"github.com/proxyplane/proxyplane/transport/zmq"
)

// serveTransports are what --transport takes.
var serveTransports = []string{"tcp", "unix", "zmq", "ucx"}

const serveHelp = `Hold objects in memory and serve them to connectors of other processes, until SIGINT or SIGTERM.

Each --listen is one address; --transport says of which kind, for all of them or, given as often as --listen, for each. One process serves all of its
addresses from the same memory: an object that Python puts over ZeroMQ is got over a unix socket without a copy. Who may connect:

  - on loopback and unix sockets (which are for your user only): everybody, or, with --token-file, who has the token;
  - elsewhere: who has the token, or a certificate signed by --tls-client-ca (tcp), or the CURVE key (zmq). --insecure lets everybody in.

Python's ZeroMQConnector has neither token nor keys: to serve it beyond loopback takes --insecure.

When all addresses are served, one line for each is printed to standard output: "ready TRANSPORT ADDRESS", or with --json one object. Logs go to
standard error. At the first SIGINT or SIGTERM nothing new is accepted, what is under way may end within --drain-timeout, and the exit code is 0; a
second signal ends the process at once. All objects are gone then.`

// serveFlags are the flags of serve, and partly of ping.
type serveFlags struct {
	transports, listen                 []string
	memory, maxObject, spillLimit      string
	spillDir                           string
	ttl, drain, busyPoll               time.Duration
	tokenFile                          string
	tlsCert, tlsKey, tlsClientCA       string
	curveSecret                        string
	curveClients                       []string
	insecure, libzmq                   bool
	metrics, logFormat, logLevel, hash string
	compress                           string
}

func (a *app) serveCmd() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve --listen ADDR [--transport tcp|unix|zmq|ucx] [...]",
		Short: "Serve objects from this process's memory",
		Long:  serveHelp,
		Example: `  proxyplane serve --transport tcp --listen 127.0.0.1:4100 --memory 4GiB
  proxyplane serve --transport zmq --listen 127.0.0.1:5555          # for Python's ZeroMQConnector(port=5555, address='127.0.0.1') too
  proxyplane serve --transport tcp --listen 10.1.2.3:4100 --transport unix --listen /run/user/1000/objects.sock --token-file token`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), &f) },
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.transports, "transport", nil, "tcp (default), unix, zmq or ucx (repeatable; unix:// and tls:// addresses need none)")
	fl.StringArrayVar(&f.listen, "listen", nil, "HOST:PORT, or the path of a unix socket; port 0 is one that the system picks (repeatable)")
	fl.StringVar(&f.memory, "memory", "", "memory for objects, such as 4GiB (default: half of the machine's)")
	fl.StringVar(&f.maxObject, "max-object", "", "length of the largest object (default: all of --memory)")
	fl.StringVar(&f.spillDir, "spill-dir", "", "directory for the least recently used objects when memory is full; without it such a put is refused")
	fl.StringVar(&f.spillLimit, "spill-limit", "", "most bytes in --spill-dir (default: what the disk takes)")
	fl.DurationVar(&f.ttl, "ttl", 0, "how long objects live that were put without a time of their own (default: until they are evicted)")
	fl.StringVar(&f.tokenFile, "token-file", "", "file with the secret that clients must know (option token or token_file of connectors)")
	fl.StringVar(&f.tlsCert, "tls-cert", "", "PEM file with the certificate for tcp, which is TLS then")
	fl.StringVar(&f.tlsKey, "tls-key", "", "PEM file with the key of --tls-cert")
	fl.StringVar(&f.tlsClientCA, "tls-client-ca", "", "PEM file with the authorities for clients' certificates, which they need then")
	fl.StringVar(&f.curveSecret, "curve-secret-file", "", "file with the server's secret key for zmq, in Z85; one that does not exist is made")
	fl.StringArrayVar(&f.curveClients, "curve-client", nil, "public key of a client that may connect (repeatable; default: all who know the server's public key)")
	fl.BoolVar(&f.insecure, "insecure", false, "let everybody in who can reach the address")
	fl.BoolVar(&f.libzmq, "libzmq", false, "serve zmq by libzmq, which needs build tag zmq; the default is the same wire in Go, which is faster")
	fl.StringVar(&f.metrics, "metrics-listen", "", "HOST:PORT for HTTP: /metrics for Prometheus, /healthz, /readyz")
	fl.DurationVar(&f.drain, "drain-timeout", 30*time.Second, "how long calls under way may take after the first signal; 0 cuts them off")
	fl.DurationVar(&f.busyPoll, "busy-poll", 0, "how long tcp and unix look for bytes before waiting; faster, and costs processors (50us is much)")
	fl.StringVar(&f.hash, "hash", "auto", "checksums of bodies: auto, always, never")
	fl.StringVar(&f.compress, "compress", "none", "compression of bodies for clients that ask for none: none, s2, zstd, auto")
	fl.StringVar(&f.logFormat, "log-format", "text", "text or json")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	for _, name := range []string{"token-file", "tls-cert", "tls-key", "tls-client-ca", "curve-secret-file"} {
		cmd.MarkFlagFilename(name)
	}
	cmd.MarkFlagDirname("spill-dir")
	for name, values := range map[string][]string{"transport": serveTransports, "log-format": logFormats, "log-level": logLevels, "hash": {"auto", "always", "never"},
		"compress": {"none", "s2", "zstd", "auto"}} {
		cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

var (
	logFormats = []string{"text", "json"}
	logLevels  = []string{"debug", "info", "warn", "error"}
)

// address is one place to serve or to reach.
type address struct {
	transport, addr string
	tls             bool // said by the address
}

// addresses pairs --transport with --listen.
func (f *serveFlags) addresses() ([]address, error) {
	if len(f.listen) == 0 {
		return nil, fail(exitUsage, "no --listen: say where to serve, as in: proxyplane serve --transport tcp --listen 127.0.0.1:4100")
	}
	if n := len(f.transports); n > 1 && n != len(f.listen) {
		return nil, fail(exitUsage, "%d times --transport and %d times --listen: give --transport once, or once for each --listen", n, len(f.listen))
	}
	list := make([]address, len(f.listen))
	for i, addr := range f.listen {
		transport := ""
		if len(f.transports) > 0 {
			transport = f.transports[min(i, len(f.transports)-1)]
		}
		e, err := parseAddress(transport, addr)
		if err != nil {
			return nil, err
		}
		list[i] = e
	}
	return list, nil
}

// parseAddress checks an address as people write it, or as a server says it. Without a transport it is that of the address, or tcp.
func parseAddress(transport, addr string) (address, error) {
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		scheme, rest = "", addr
	}
	secure := scheme == "tls"
	if secure {
		scheme = "tcp"
	}
	if transport == "" {
		if transport = scheme; scheme == "" {
			transport = "tcp"
		}
	}
	if err := checkOneOf("--transport", transport, serveTransports); err != nil {
		return address{}, err
	}
	if ok && scheme != transport && (secure || transport != "zmq" || scheme != "tcp") {
		return address{}, fail(exitUsage, "address %s is not of transport %s: correct --transport, or leave out %s", addr, transport, addr[:len(addr)-len(rest)])
	}
	if transport == "unix" {
		if rest == "" {
			return address{}, fail(exitUsage, "address %q: expected the path of a unix socket, such as /run/user/1000/objects.sock", addr)
		}
		path, err := filepath.Abs(rest)
		return address{transport: transport, addr: path}, err
	}
	rest, err := hostPort(rest)
	return address{transport: transport, addr: rest, tls: secure}, err
}

// hostPort checks an address of the network. Without a host it is on loopback: never all interfaces because nothing was said.
func hostPort(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fail(exitUsage, "address %q: expected HOST:PORT, such as 127.0.0.1:4100 or [::1]:4100", addr)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", fail(exitUsage, "address %q: the port must be from 0 to 65535", addr)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// parseSize reads a number of bytes: 1048576, 64MiB, 1.5GiB, 2GB.
func parseSize(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	upper := strings.ToUpper(text)
	number := strings.TrimRight(upper, "KMGTIB ")
	units := map[string]float64{"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
		"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
	unit, ok := units[strings.TrimSpace(upper[len(number):])]
	n, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || !(n*unit >= 1 && n*unit < 1<<62) {
		return 0, fail(exitUsage, "%s %q: use a number of bytes such as 4GiB, 500MB or 1048576", flag, text)
	}
	return int64(n * unit), nil
}

// serving is one address that is served.
type serving struct {
	transport string
	objects.Server
	stats func() native.Stats
}

func (a *app) serve(ctx context.Context, f *serveFlags) (err error) {
	list, err := f.addresses()
	if err != nil {
		return err
	}
	log, err := f.logger(a)
	if err != nil {
		return err
	}
	if err := f.check(list); err != nil {
		return err
	}
	table, err := f.table(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, table.Close()) }()
	listen, err := f.listener(log)
	if err != nil {
		return err
	}
	var servers []serving
	defer func() {
		for _, s := range servers {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, e := range list {
		s, err := listen(ctx, e, table)
		if err != nil {
			return listenError(e, err)
		}
		servers = append(servers, s)
		log.Info("serving", "transport", s.transport, "address", s.Addr())
	}
	ready := &atomic.Bool{}
	web, err := startMetrics(f.metrics, table, servers, ready)
	if err != nil {
		return err
	}
	defer web.close()
	ready.Store(true)
	if err := a.announce(servers, web); err != nil {
		return err
	}

	a.extendGrace(f.drain)
	<-ctx.Done()
	ready.Store(false)
	log.Info("draining", "reason", context.Cause(ctx).Error(), "timeout", f.drain.String())
	if f.drain == 0 {
		return nil // what is under way is not worth a wait, and is cut off by the servers' Close
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.drain)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(servers))
	for i, s := range servers {
		wg.Go(func() { errs[i] = s.Shutdown(limited) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			log.Warn("calls were still under way, and were cut off; give them longer by --drain-timeout", "timeout", f.drain.String())
			err = fmt.Errorf("%w: calls were still under way after %v, and were cut off (--drain-timeout)", connectors.ErrUnavailable, f.drain)
		}
		return err
	}
	log.Info("drained")
	return nil
}

// announce says that all is served.
func (a *app) announce(servers []serving, web *metricsServer) error {
	if a.json {
		type where struct {
			Transport string `json:"transport"`
			Address   string `json:"address"`
		}
		v := struct {
			Ready   bool    `json:"ready"`
			Listen  []where `json:"listen"`
			Metrics string  `json:"metrics,omitempty"`
		}{Ready: true, Metrics: web.url()}
		for _, s := range servers {
			v.Listen = append(v.Listen, where{s.transport, s.Addr()})
		}
		return a.printJSON(v)
	}
	for _, s := range servers {
		if _, err := fmt.Fprintf(a.out, "ready %s %s\n", s.transport, s.Addr()); err != nil {
			return err
		}
	}
	return nil
}

func (f *serveFlags) logger(a *app) (*slog.Logger, error) {
	if err := errors.Join(checkOneOf("--log-format", f.logFormat, logFormats), checkOneOf("--log-level", f.logLevel, logLevels)); err != nil {
		return nil, err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, err
	}
	o := &slog.HandlerOptions{Level: level}
	if f.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(a.err, o)), nil
	}
	return slog.New(slog.NewTextHandler(a.err, o)), nil
}

// check refuses flags that none of the addresses heeds: who sets them relies on what they protect.
func (f *serveFlags) check(list []address) error {
	has := func(transport string) bool {
		return slices.ContainsFunc(list, func(e address) bool { return e.transport == transport })
	}
	switch {
	case f.tlsCert+f.tlsKey+f.tlsClientCA != "" && !has("tcp"):
		return fail(exitUsage, "--tls-cert, --tls-key and --tls-client-ca are for --transport tcp, and no address is of it")
	case f.tlsCert == "" && slices.ContainsFunc(list, func(e address) bool { return e.tls }):
		return fail(exitUsage, "a tls:// address needs --tls-cert and --tls-key")
	case (f.curveSecret != "" || len(f.curveClients) > 0 || f.libzmq) && !has("zmq"):
		return fail(exitUsage, "--curve-secret-file, --curve-client and --libzmq are for --transport zmq, and no address is of it")
	}
	if f.metrics != "" {
		var err error
		if f.metrics, err = hostPort(f.metrics); err != nil {
			return fail(exitUsage, "--metrics-listen: %w", err)
		}
	}
	return nil
}

func (f *serveFlags) table(log *slog.Logger) (*objects.Table, error) {
	o := objects.TableOptions{SpillDir: f.spillDir, TTL: f.ttl, Logger: log}
	for _, size := range []struct {
		flag, text string
		to         *int64
	}{{"--memory", f.memory, &o.Memory}, {"--max-object", f.maxObject, &o.MaxObject}, {"--spill-limit", f.spillLimit, &o.SpillBytes}} {
		var err error
		if *size.to, err = parseSize(size.flag, size.text); err != nil {
			return nil, err
		}
	}
	switch {
	case f.ttl < 0 || f.drain < 0 || f.busyPoll < 0:
		return nil, fail(exitUsage, "--ttl, --drain-timeout and --busy-poll must not be negative")
	case f.spillLimit != "" && f.spillDir == "":
		return nil, fail(exitUsage, "--spill-limit needs --spill-dir")
	}
	table, err := objects.NewTable(o)
	if err != nil {
		return nil, fail(exitIO, "--spill-dir: %w; name a directory that this user may write to", err)
	}
	return table, nil
}

// listener reads the files that the flags name and returns what serves one address.
func (f *serveFlags) listener(log *slog.Logger) (func(context.Context, address, *objects.Table) (serving, error), error) {
	token, err := readToken(f.tokenFile)
	if err != nil {
		return nil, err
	}
	hash, ok := map[string]native.HashMode{"auto": native.HashAuto, "always": native.HashAlways, "never": native.HashNever}[f.hash]
	if !ok {
		return nil, checkOneOf("--hash", f.hash, []string{"auto", "always", "never"})
	}
	compress, ok := map[string]native.Compression{"none": native.CompressNone, "s2": native.CompressS2, "zstd": native.CompressZstd, "auto": native.CompressAuto}[f.compress]
	if !ok {
		return nil, checkOneOf("--compress", f.compress, []string{"none", "s2", "zstd", "auto"})
	}
	common := native.ServerOptions{Token: token, Hash: hash, Compress: compress, Logger: log}
	secure, err := f.tls()
	if err != nil {
		return nil, err
	}
	curve, err := f.curve(log)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, e address, table *objects.Table) (serving, error) {
		switch e.transport {
		case "zmq":
			o := zmq.ListenOptions{ServerOptions: common, Curve: curve, Insecure: f.insecure, Libzmq: f.libzmq,
				Python: rpc.NewHandler(table, rpc.HandlerOptions{Put: objects.PutOptions{TTL: f.ttl}, Logger: log})}
			s, err := zmq.Listen(ctx, "tcp://"+e.addr, table, o)
			if err != nil {
				return serving{}, err
			}
			return serving{e.transport, s, s.Stats}, nil
		case "ucx":
			o := ucx.ListenOptions{ServerOptions: common, Insecure: f.insecure, BusyPoll: f.busyPoll}
			if len(token) == 0 {
				o.Python = rpc.NewHandler(table, rpc.HandlerOptions{Put: objects.PutOptions{TTL: f.ttl}, Logger: log})
			}
			s, err := ucx.Listen(ctx, e.addr, table, o)
			if err != nil {
				return serving{}, err
			}
			return serving{e.transport, s, func() native.Stats { return s.Stats().Stats }}, nil
		}
		o := tcp.ListenOptions{ServerOptions: common, TLS: secure, Insecure: f.insecure, BusyPoll: f.busyPoll}
		addr := "tcp://" + e.addr
		switch {
		case e.transport == "unix":
			addr, o.TLS = "unix://"+e.addr, nil
		case secure != nil:
			addr = "tls://" + e.addr
		}
		s, err := tcp.Listen(ctx, addr, table, o)
		if err != nil {
			return serving{}, err
		}
		return serving{e.transport, s, func() native.Stats { return s.Stats().Stats }}, nil
	}, nil
}

// listenError says what to do about an address that cannot be served.
func listenError(e address, err error) error {
	switch {
	case errors.Is(err, connectors.ErrNotBuilt):
		return err
	case errors.Is(err, connectors.ErrDenied):
		return fail(exitUsage, "%w: give --token-file, --tls-client-ca with --tls-cert and --tls-key (tcp), --curve-secret-file (zmq), or --insecure", err)
	case dim.AddressInUse(err):
		return fail(exitUnavailable, "%s %s is taken: another server runs there already (see: proxyplane ping --transport %s %s), or another program; "+
			"take another port, or 0: %w", e.transport, e.addr, e.transport, e.addr, err)
	case dim.AddressForeign(err):
		return fail(exitUnavailable, "%s %s is no address of this machine (see: ip address); take one that is: %w", e.transport, e.addr, err)
	case errors.As(err, new(*net.DNSError)):
		return fail(exitUnavailable, "%s %s: %w; name an address of this machine", e.transport, e.addr, err)
	case errors.Is(err, fs.ErrNotExist):
		return fail(exitIO, "%s %s: %w; make the directory first", e.transport, e.addr, err)
	case errors.Is(err, fs.ErrPermission):
		return fail(exitIO, "%s %s: %w; this user may not listen there: take a port from 1024 on, or a path in a directory of your own", e.transport, e.addr, err)
	case errors.Is(err, connectors.ErrUnavailable), errors.Is(err, connectors.ErrConfig):
		return err
	}
	return fail(exitIO, "cannot serve %s %s: %w", e.transport, e.addr, err)
}

func readToken(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	token, err := readBounded(path, 4<<10)
	if err != nil {
		return nil, err
	}
	if token = bytes.TrimSpace(token); len(token) == 0 {
		return nil, fail(exitBadInput, "%s: empty; make a token with: head -c 32 /dev/urandom | base64 > %s", path, path)
	}
	return token, nil
}

// tls returns the configuration of a server, nil for none.
func (f *serveFlags) tls() (*tls.Config, error) {
	if f.tlsCert == "" && f.tlsKey == "" && f.tlsClientCA == "" {
		return nil, nil
	}
	if f.tlsCert == "" || f.tlsKey == "" {
		return nil, fail(exitUsage, "--tls-cert and --tls-key go together, and --tls-client-ca needs both")
	}
	cert, err := tls.LoadX509KeyPair(f.tlsCert, f.tlsKey)
	if err != nil {
		return nil, fail(exitBadInput, "--tls-cert and --tls-key: %w", err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}}
	if f.tlsClientCA != "" {
		pem, err := readBounded(f.tlsClientCA, 1<<20)
		if err != nil {
			return nil, err
		}
		cfg.ClientCAs, cfg.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fail(exitBadInput, "--tls-client-ca: %s holds no PEM certificate", f.tlsClientCA)
		}
	}
	return cfg, nil
}

// curve returns the server's keys, nil for none.
func (f *serveFlags) curve(log *slog.Logger) (*zmq.CurveServer, error) {
	if f.curveSecret == "" {
		if len(f.curveClients) > 0 {
			return nil, fail(exitUsage, "--curve-client needs --curve-secret-file")
		}
		return nil, nil
	}
	data, err := os.ReadFile(f.curveSecret)
	if errors.Is(err, fs.ErrNotExist) {
		_, secret, kerr := zmq.NewCurveKeys()
		if kerr != nil {
			return nil, kerr
		}
		data, err = []byte(secret.Z85()+"\n"), nil
		file, ferr := os.OpenFile(f.curveSecret, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if ferr == nil {
			_, ferr = file.Write(data)
			ferr = errors.Join(ferr, file.Close())
		}
		err = ferr
	}
	if err != nil {
		return nil, fail(exitIO, "--curve-secret-file: %w", err)
	}
	secret, err := zmq.ParseCurveKey(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, fail(exitBadInput, "--curve-secret-file: %w", err)
	}
	c := &zmq.CurveServer{PublicKey: secret.Public(), SecretKey: secret, AnyClient: len(f.curveClients) == 0}
	for _, text := range f.curveClients {
		k, err := zmq.ParseCurveKey(text)
		if err != nil {
			return nil, fail(exitUsage, "--curve-client: %w", err)
		}
		c.AllowedClients = append(c.AllowedClients, k)
	}
	log.Info("CURVE is on: connectors need this as option curve_server_key", "public_key", c.PublicKey.Z85())
	return c, nil
}

// metricsServer answers over HTTP.
type metricsServer struct {
	l   net.Listener
	srv *http.Server
	wg  sync.WaitGroup
}

func startMetrics(addr string, table *objects.Table, servers []serving, ready *atomic.Bool) (*metricsServer, error) {
	if addr == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fail(exitUnavailable, "--metrics-listen %s: %w; take another address or port", addr, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			http.Error(w, "not ready: starting or draining", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		b := bufio.NewWriter(w)
		writeMetrics(b, table.Stats(), servers)
		b.Flush()
	})
	m := &metricsServer{l: l, srv: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}}
	m.wg.Go(func() { m.srv.Serve(l) })
	return m, nil
}

func (m *metricsServer) url() string {
	if m == nil {
		return ""
	}
	return "http://" + m.l.Addr().String() + "/metrics"
}

func (m *metricsServer) close() {
	if m != nil {
		m.srv.Close()
		m.wg.Wait()
	}
}

// writeMetrics writes what Prometheus reads.
func writeMetrics(w *bufio.Writer, t objects.Stats, servers []serving) {
	metric := func(name, kind, help string) { fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	one := func(name, kind, help string, v int64) {
		metric("proxyplane_server_"+name, kind, help)
		fmt.Fprintf(w, "proxyplane_server_%s %d\n", name, v)
	}
	one("memory_limit_bytes", "gauge", "Bytes of memory that objects may take.", t.Limit)
	one("objects", "gauge", "Objects stored, in memory and spilled.", t.Objects)
	one("object_bytes", "gauge", "Bytes of objects in memory.", t.Bytes)
	one("reserved_bytes", "gauge", "Bytes announced or taken by arriving objects.", t.Reserved)
	one("lent_bytes", "gauge", "Bytes of deleted objects that readers still hold.", t.Lent)
	one("idle_bytes", "gauge", "Bytes of memory kept for the next objects.", t.Idle)
	one("spilled_objects", "gauge", "Objects on disk.", t.Spilled)
	one("spilled_bytes", "gauge", "Bytes of objects on disk.", t.SpilledSize)
	one("waiting_calls", "gauge", "Calls that wait for an object now.", t.Waiting)
	one("puts_total", "counter", "Objects stored.", t.Puts)
	one("hits_total", "counter", "Gets that found their object.", t.Hits)
	one("misses_total", "counter", "Gets that did not.", t.Misses)
	one("evictions_total", "counter", "Objects deleted by clients.", t.Evictions)
	one("expirations_total", "counter", "Objects deleted by their TTL.", t.Expirations)
	one("spills_total", "counter", "Objects moved to disk.", t.Spills)
	one("refusals_total", "counter", "Puts refused for lack of room or size.", t.Refusals)

	all := make([]native.Stats, len(servers))
	labels := make([]string, len(servers))
	for i, s := range servers {
		all[i] = s.stats()
		labels[i] = fmt.Sprintf("transport=%q,address=%q", s.transport, s.Addr())
	}
	each := func(name, kind, help string, v func(native.Stats) int64) {
		metric("proxyplane_server_"+name, kind, help)
		for i := range all {
			fmt.Fprintf(w, "proxyplane_server_%s{%s} %d\n", name, labels[i], v(all[i]))
		}
	}
	each("sessions", "gauge", "Sessions of the native protocol now.", func(s native.Stats) int64 { return s.Sessions })
	each("sessions_total", "counter", "Sessions that were ever open.", func(s native.Stats) int64 { return s.Accepted })
	each("refused_sessions_total", "counter", "Handshakes that failed.", func(s native.Stats) int64 { return s.Refused })
	each("errors_total", "counter", "Answers with an error.", func(s native.Stats) int64 { return s.Errors })
	each("in_flight", "gauge", "Requests under way.", func(s native.Stats) int64 { return s.InFlight })
	each("received_bytes_total", "counter", "Bytes of bodies received.", func(s native.Stats) int64 { return s.BytesIn })
	each("sent_bytes_total", "counter", "Bytes of bodies sent.", func(s native.Stats) int64 { return s.BytesOut })
	metric("proxyplane_server_requests_total", "counter", "Requests by operation.")
	for i, s := range all {
		ops := make([]string, 0, len(s.Requests))
		for op := range s.Requests {
			ops = append(ops, op)
		}
		slices.Sort(ops)
		for _, op := range ops {
			fmt.Fprintf(w, "proxyplane_server_requests_total{%s,op=%q} %d\n", labels[i], op, s.Requests[op])
		}
	}
}
