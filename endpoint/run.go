package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/config"
	"github.com/proxyplane/proxyplane/endpoint/peer"
	"github.com/proxyplane/proxyplane/endpoint/relay"
	"github.com/proxyplane/proxyplane/endpoint/storage"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// DefaultGrace is how long Run lets requests end that are under way when it is told to end. It is less than config.DefaultGrace, after which a stopped
// endpoint is killed.
const DefaultGrace = 5 * time.Second

// DefaultSTUN is the server that endpoints ask for their public address if nothing is configured: the one that aiortc asks.
const DefaultSTUN = "stun:stun.l.google.com:19302"

// RunOptions of Run. The zero value is useful.
type RunOptions struct {
	// Logger gets what happens; nil: log.txt in the endpoint's directory, as its configuration says.
	Logger *slog.Logger
	// LogTo also gets what goes to log.txt: standard error of an endpoint in the foreground, say. Not used with Logger.
	LogTo io.Writer
	// LogLevel replaces the configured level, if it is not nil. Not used with Logger.
	LogLevel *slog.Level
	// Grace is how long requests under way may take after ctx has ended; 0: DefaultGrace.
	Grace time.Duration
	// Ready is called once requests are answered, with the addresses: "http://host:port", "https://...", "unix:///path".
	Ready func(addrs []string)
	// Peering may change how peers are reached, before anything is started: for tests and benches.
	Peering func(*relay.ClientOptions, *peer.Options)
}

// Run serves the endpoint in dir until ctx ends: it writes the pid file (an endpoint that runs already is config.ErrRunning), opens the storage, listens,
// connects to the relay in the background, and serves. HTTP never waits for relay, STUN or names. Then it stops listening, lets requests under way end,
// and closes everything; its error is nil if that was what ended it. cfg.Host must be set, which [config.Prepare] does.
func Run(ctx context.Context, dir string, cfg config.Config, o RunOptions) (err error) {
	if err := cfg.Validate(); err != nil {
		return err
	}
	id, err := config.ParseUUID(cfg.UUID)
	if err != nil {
		return err
	}
	log := o.Logger
	if log == nil {
		l, f, err := openLog(dir, cfg.Extra, o)
		if err != nil {
			return err
		}
		log = l
		defer f.Close()
	}
	defer func() {
		if err != nil {
			log.Error("endpoint failed", "error", err)
		}
	}()
	removePID, err := config.WritePID(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removePID()) }()

	ls, addrs, err := listeners(ctx, dir, cfg)
	if err != nil {
		return err
	}
	closeListeners := sync.OnceFunc(func() {
		for _, l := range ls {
			l.Close()
		}
	})
	defer closeListeners()

	store, storeStatus, closeStore, err := openStore(ctx, dir, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStore()) }()

	peering, err := openPeers(id, dir, cfg, store, log, o.Peering)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, peering.close()) }()

	eo := Options{UUID: id, Name: cfg.Name, Store: store, MaxObject: cfg.Storage.MaxObjectSize, MaxConcurrent: cfg.Extra.HTTP.MaxConcurrent,
		NoMetrics: !cfg.Extra.HTTP.Metrics, Logger: log, Status: func() Status {
			s := Status{Listening: addrs, Storage: storeStatus()}
			peering.status(cfg, &s)
			return s
		}}
	if peering.manager != nil { // a nil *peer.Manager in the interface would not be nil
		eo.Peers = peering.manager
	}
	if path := config.Path(dir, cfg.Extra.HTTP.TokenFile); path != "" {
		if eo.Token, err = readToken(path, log); err != nil {
			return err
		}
	}
	e, err := New(eo)
	if err != nil {
		return err
	}
	return serve(ctx, e, ls, addrs, cfg, log, o)
}

// serve answers requests until ctx ends or a listener fails.
func serve(ctx context.Context, e *Endpoint, ls []net.Listener, addrs []string, cfg config.Config, log *slog.Logger, o RunOptions) error {
	requests, cancelRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelRequests()
	srv := server(e.Handler(), log)
	srv.BaseContext = func(net.Listener) context.Context { return requests }
	failed := make(chan error, len(ls))
	var wg sync.WaitGroup
	for _, l := range ls {
		wg.Go(func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	log.Info(fmt.Sprintf("Serving endpoint %s (%s) on %s:%d", e.o.UUID, cfg.Name, cfg.Host, cfg.Port), "addresses", addrs, "mode", e.Status().Mode)
	if o.Ready != nil {
		o.Ready(addrs)
	}
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-failed:
	}
	e.Drain()
	grace := o.Grace
	if grace <= 0 {
		grace = DefaultGrace
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		log.Warn("requests under way were cut off", "after", grace)
		cancelRequests()
		srv.Close()
	}
	wg.Wait()
	e.Close() // the server does not wait for its handlers, and they use what is closed next
	log.Info("Finished serving endpoint: " + cfg.Name)
	return failure
}

// openLog opens the log file of an endpoint.
func openLog(dir string, e config.Extra, o RunOptions) (*slog.Logger, io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(dir, config.LogFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, err
	}
	ho := &slog.HandlerOptions{Level: e.SlogLevel()}
	if o.LogLevel != nil {
		ho.Level = *o.LogLevel
	}
	var w io.Writer = f
	if o.LogTo != nil {
		w = io.MultiWriter(f, o.LogTo)
	}
	var h slog.Handler = slog.NewTextHandler(w, ho)
	if e.Log.Format == "json" {
		h = slog.NewJSONHandler(w, ho)
	}
	return slog.New(h), f, nil
}

// openStore opens what holds the objects.
func openStore(ctx context.Context, dir string, cfg config.Config, log *slog.Logger) (objects.Store, func() StorageStatus, func() error, error) {
	path := cfg.Database(dir)
	x := cfg.Extra.Storage
	if path == "" {
		log.Warn("Database path not provided. Data will not be persisted")
		t, err := objects.NewTable(objects.TableOptions{Memory: x.Quota, MaxObject: cfg.Storage.MaxObjectSize, Logger: log})
		if err != nil {
			return nil, nil, nil, err
		}
		return t, func() StorageStatus { return tableStatus(t) }, t.Close, nil
	}
	log.Info("Using SQLite database for storage", "path", path)
	s, err := storage.Open(ctx, storage.Options{Path: path, FileAbove: x.FileAbove, MaxObject: cfg.Storage.MaxObjectSize, Quota: x.Quota, NoSync: !x.Sync, Logger: log})
	if err != nil {
		return nil, nil, nil, err
	}
	return s, func() StorageStatus {
		u := s.Usage()
		return StorageStatus{Kind: "database", Path: path, Objects: u.Objects, Bytes: u.Bytes, Files: u.Files, FileBytes: u.FileBytes, Arriving: u.Arriving, Quota: u.Quota}
	}, s.Close, nil
}

// peering is the endpoint's side towards others: both nil without a relay.
type peering struct {
	client  *relay.Client
	manager *peer.Manager
}

func openPeers(id uuid.UUID, dir string, cfg config.Config, store objects.Store, log *slog.Logger, change func(*relay.ClientOptions, *peer.Options)) (peering, error) {
	r, x := cfg.Relay, cfg.Extra
	if r.Address == "" {
		return peering{}, nil
	}
	tc, err := relay.ClientTLS(r.VerifyCertificate, config.Path(dir, x.Relay.CAFile))
	if err != nil {
		return peering{}, err
	}
	ro := relay.ClientOptions{Address: r.Address, Name: cfg.Name, UUID: id, TLS: tc, Logger: log}
	switch {
	case x.Relay.TokenFile != "":
		ro.Header = relay.TokenFile(config.Path(dir, x.Relay.TokenFile))
	case r.Auth.Method == "globus":
		tokens, err := relay.NewGlobusTokens(relay.GlobusTokensOptions{Database: filepath.Join(config.Home(), relay.GlobusTokensFile)})
		if err != nil {
			return peering{}, err
		}
		ro.Header = tokens.Header
	}
	servers := []webrtc.Server{{URLs: []string{DefaultSTUN}}}
	if r.ICEServers != nil {
		servers = nil
		for _, s := range r.ICEServers {
			servers = append(servers, webrtc.Server{URLs: s.URLs, Username: s.Username, Credential: s.Credential})
		}
	}
	po := peer.Options{UUID: id, Name: cfg.Name, Store: store, MaxObject: cfg.Storage.MaxObjectSize, Servers: servers, Channels: r.PeerChannels,
		Listen: x.Peer.Listen, Advertise: x.Peer.Advertise, Lanes: x.Peer.Lanes, Compress: compression(x.Peer.Compress),
		Loopback: x.Peer.Loopback, RelayOnly: x.Peer.RelayOnly, Logger: log}
	if change != nil {
		change(&ro, &po)
	}
	c, err := relay.NewClient(ro)
	if err != nil {
		return peering{}, err
	}
	po.Relay = c
	m, err := peer.New(po)
	if err != nil {
		return peering{}, errors.Join(err, c.Close())
	}
	return peering{c, m}, nil
}

func compression(name string) native.Compression {
	switch name {
	case "s2":
		return native.CompressS2
	case "zstd":
		return native.CompressZstd
	case "auto":
		return native.CompressAuto
	}
	return native.CompressNone
}

// close ends the connections to peers while there is still a relay to tell them, and then that.
func (p peering) close() error {
	if p.manager == nil {
		return nil
	}
	return errors.Join(p.manager.Close(), p.client.Close())
}

func (p peering) status(cfg config.Config, s *Status) {
	if p.manager == nil {
		return
	}
	st := p.client.State()
	s.Relay = &RelayStatus{Address: cfg.Relay.Address, Connected: st.Connected, GaveUp: st.Final, Since: st.Since}
	if st.Err != nil {
		s.Relay.Error = st.Err.Error()
	}
	ms := p.manager.Status()
	s.Peers = ms
	for _, one := range ms.Peers {
		if len(one.Paths) > 0 {
			s.PeersConnected++
		}
	}
}
