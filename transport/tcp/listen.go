package tcp

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

const (
	defaultMaxConns  = 4096
	defaultHandshake = 10 * time.Second
	// refuseGrace is how long a connection beyond the limit lives, so that its client can read why it is closed.
	refuseGrace = time.Second
	// maxRefusing bounds how many such there are; those beyond are closed at once.
	maxRefusing = 64
	// maxSocketPath is how long the path of a unix socket may be; elsewhere than on Linux it may be less.
	maxSocketPath = 107
	// wsaRefused is what Windows has for ECONNREFUSED.
	wsaRefused = syscall.Errno(10061)
)

// ListenOptions of a server. The zero value is useful.
type ListenOptions struct {
	// ServerOptions are those of the protocol. Instance, Host and Local are set here.
	native.ServerOptions

	// TLS is needed for "tls://": it has the server's certificate, and, where only clients with a certificate may come, ClientCAs and ClientAuth
	// (tls.RequireAndVerifyClientCert).
	TLS *tls.Config
	// Insecure serves everybody who can reach a host that is not loopback. Without it such a host needs a Token or client certificates.
	Insecure bool
	// NoSameHost does without the unix socket by which clients on this host reach a TCP server faster. Where TLS may ask for client certificates and there
	// is no Token there is none anyway, since nobody would show his certificate there.
	NoSameHost bool
	// RuntimeDir is where that socket is, in a directory of its own that is for this user only. Default: $XDG_RUNTIME_DIR, or the directory for
	// temporary files.
	RuntimeDir string
	// MaxConns is how many connections there may be at a time, those included that have not said yet who they are. Default: 4096.
	MaxConns int
	// SocketMode are the permissions of a "unix://" socket. Default: 0600.
	SocketMode fs.FileMode

	// BusyPoll is how long a read looks for bytes before it waits to be woken. 0: not at all. See the package's text.
	BusyPoll time.Duration
	// SendBuffer and ReceiveBuffer are the sizes of the sockets' buffers in the kernel. 0: the system's.
	SendBuffer, ReceiveBuffer int
}

// Stats of a Server since it was made.
type Stats struct {
	native.Stats
	Conns       int64 // connections now
	Turned      int64 // connections that were closed because MaxConns were open
	TLSFailures int64 // TLS handshakes that failed
	AcceptFails int64 // errors of accept: descriptors or memory ran out, for example
}

// A Server serves one Store. It implements objects.Server.
type Server struct {
	o      ListenOptions
	log    *slog.Logger
	native *native.Server
	addr   string
	local  string // path of the socket for clients of this host, or empty

	listeners []net.Listener
	clean     []func() // what is to be done about them before they are closed
	ctx       context.Context
	cancel    context.CancelFunc
	stopOnce  sync.Once
	wg        sync.WaitGroup // accepting and serving

	mu      sync.Mutex
	stopped bool
	conns   map[net.Conn]struct{} // so that Close ends those whose handshake is not done

	refusing                     atomic.Int32
	turned, tlsFails, acceptFail atomic.Int64
}

var _ objects.Server = (*Server)(nil)

// Listen serves store on addr from now on. It borrows store until the Server is closed. A missing host means 127.0.0.1. ctx bounds only the start.
//
// A unix socket that exists is replaced if nobody answers on it.
func Listen(ctx context.Context, addr string, store objects.Store, o ListenOptions) (*Server, error) {
	a, err := parseAddress(addr)
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, log: o.Logger, conns: map[net.Conn]struct{}{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.o.MaxConns <= 0 {
		s.o.MaxConns = defaultMaxConns
	}
	if s.o.HandshakeTimeout <= 0 {
		s.o.HandshakeTimeout = defaultHandshake
	}
	if s.o.SocketMode == 0 {
		s.o.SocketMode = 0o600
	}
	if s.o.Instance == "" {
		s.o.Instance = rand.Text()
	}
	s.o.Host, s.o.Local = bootID(), ""
	if a.network == "unix" {
		err = s.listenPath(ctx, a)
	} else {
		err = s.listenHost(ctx, a)
	}
	if err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.native = native.NewServer(store, s.o.ServerOptions)
	for i, l := range s.listeners {
		secure := a.scheme == "tls" && i == 0
		s.wg.Go(func() { s.accept(l, secure) })
	}
	return s, nil
}

// listenPath listens on the unix socket that was asked for.
func (s *Server) listenPath(ctx context.Context, a address) error {
	path, err := filepath.Abs(a.rest)
	if err != nil {
		return err
	}
	if len(path) > maxSocketPath {
		return fmt.Errorf("unix://%s: a socket's path has at most %d bytes, this has %d: take a shorter path", path, maxSocketPath, len(path))
	}
	unlock, err := lockDir(ctx, filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return err
	}
	l, err := listenUnix(path, s.o.SocketMode.Perm())
	if err != nil {
		return err
	}
	made, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return err
	}
	s.listeners = append(s.listeners, l)
	s.clean = append(s.clean, func() {
		if now, err := os.Lstat(path); err == nil && os.SameFile(made, now) { // not that of a successor
			os.Remove(path)
		}
	})
	s.addr = "unix://" + path
	return nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is no socket: remove it, or take another path", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, wsaRefused) {
		return fmt.Errorf("unix://%s: %w: another server may be using it: stop that, or take another path", path, syscall.EADDRINUSE)
	}
	return os.Remove(path)
}

// listenUnix makes a socket that has these permissions from the start, and that Close does not remove.
func listenUnix(path string, mode fs.FileMode) (*net.UnixListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error { return chmodSocket(rc, uint32(mode)) }}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	if err := os.Chmod(path, mode); err != nil { // the umask, or a system that goes by that alone
		ul.Close()
		os.Remove(path)
		return nil, err
	}
	return ul, nil
}

// listenHost listens on TCP, and on a unix socket beside it.
func (s *Server) listenHost(ctx context.Context, a address) error {
	if a.host == "" {
		a.rest = "127.0.0.1" + a.rest
	}
	mutual, asks := false, false // whether TLS checks all clients' certificates for sure, or may want some
	if a.scheme == "tls" {
		if s.o.TLS == nil || len(s.o.TLS.Certificates) == 0 && s.o.TLS.GetCertificate == nil && s.o.TLS.GetConfigForClient == nil {
			return errors.New("tls:// needs a certificate: set ListenOptions.TLS.Certificates")
		}
		// Without ClientCAs the system's authorities would do, who issue certificates to everybody.
		mutual = s.o.TLS.ClientAuth >= tls.RequireAndVerifyClientCert && s.o.TLS.ClientCAs != nil
		asks = s.o.TLS.ClientAuth != tls.NoClientCert || s.o.TLS.GetConfigForClient != nil
		s.o.TLS = tuneTLS(s.o.TLS.Clone())
	}
	ta, err := net.ResolveTCPAddr("tcp", a.rest)
	if err != nil {
		return err
	}
	if !ta.IP.IsLoopback() && !s.o.Insecure && !mutual && len(s.o.Token) == 0 {
		return fmt.Errorf("%w: %s can be reached from other hosts: set a Token, TLS client certificates (ClientAuth and ClientCAs), or Insecure if all may come",
			transport.ErrDenied, a.rest)
	}
	l, err := (&net.ListenConfig{KeepAliveConfig: keepAlive}).Listen(ctx, "tcp", ta.String())
	if err != nil {
		return err
	}
	s.listeners = append(s.listeners, l)
	s.addr = a.scheme + "://" + l.Addr().String()
	if s.o.NoSameHost || asks && len(s.o.Token) == 0 || s.o.Host == "" {
		return nil
	}
	ul, err := listenLocal(s.o.RuntimeDir)
	if err != nil {
		s.log.Debug("clients on this host will use TCP", "error", err)
		return nil
	}
	s.local = ul.Addr().String()
	s.o.Local = "unix://" + s.local
	s.listeners = append(s.listeners, ul)
	s.clean = append(s.clean, func() { removeLocal(s.local) })
	return nil
}

// Addr returns what a client dials.
func (s *Server) Addr() string { return s.addr }

// Local returns the address of the unix socket that clients on the same host find by themselves, or "".
func (s *Server) Local() string { return s.o.Local }

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	n := len(s.conns)
	s.mu.Unlock()
	return Stats{Stats: s.native.Stats(), Conns: int64(n), Turned: s.turned.Load(), TLSFailures: s.tlsFails.Load(), AcceptFails: s.acceptFail.Load()}
}

// accept takes connections until the listener is closed.
func (s *Server) accept(l net.Listener, secure bool) {
	var pause time.Duration
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.admit(nc, secure)
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		// Descriptors or memory ran out, or the client was gone before we came: no reason to end, nor to try without a pause.
		s.acceptFail.Add(1)
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.log.Warn("accept", "address", l.Addr().String(), "error", err, "pause", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
		}
		timer.Stop()
	}
}

// admit serves nc on a goroutine of its own, if there is room.
func (s *Server) admit(nc net.Conn, secure bool) {
	s.mu.Lock()
	room := len(s.conns) < s.o.MaxConns
	if s.stopped {
		s.mu.Unlock()
		nc.Close()
		return
	}
	if !room && (secure || s.refusing.Load() >= maxRefusing) {
		s.mu.Unlock()
		s.turned.Add(1)
		nc.Close()
		return
	}
	if room {
		s.conns[nc] = struct{}{}
	} else {
		s.refusing.Add(1)
	}
	s.wg.Add(1)
	s.mu.Unlock()
	if room {
		go s.serve(nc, secure)
	} else {
		go s.refuse(nc)
	}
}

// serve runs one connection to its end.
func (s *Server) serve(nc net.Conn, secure bool) {
	defer s.wg.Done()
	defer func() {
		nc.Close()
		s.mu.Lock()
		delete(s.conns, nc)
		s.mu.Unlock()
	}()
	tune(nc, s.o.StallTimeout, s.o.SendBuffer, s.o.ReceiveBuffer)
	stream := nc
	if secure {
		ctx, cancel := context.WithTimeout(s.ctx, s.o.HandshakeTimeout)
		tc := tls.Server(polling(nc, s.o.BusyPoll), s.o.TLS)
		err := tc.HandshakeContext(ctx)
		cancel()
		if err != nil {
			s.tlsFails.Add(1)
			s.log.Debug("TLS handshake", "client", peerName(nc), "error", err)
			return
		}
		stream = tc
	}
	c := newCarrier(stream, CarrierOptions{BusyPoll: s.o.BusyPoll, Stall: s.o.StallTimeout})
	c.first = byte(native.TypeHello)
	// The session has a limit of its own for the handshake; this one holds for bytes that never become a frame.
	slow := time.AfterFunc(s.o.HandshakeTimeout, func() { nc.Close() })
	c.ready = func() { slow.Stop() }
	err := s.native.ServeCarrier(s.ctx, c.carrier())
	slow.Stop()
	if err != nil {
		s.log.Debug("session", "client", peerName(nc), "error", err)
	}
}

// refuse says that there are too many connections, and closes this one when the client has had time to read that.
func (s *Server) refuse(nc net.Conn) {
	defer s.wg.Done()
	defer s.refusing.Add(-1)
	defer nc.Close()
	s.turned.Add(1)
	nc.SetDeadline(time.Now().Add(refuseGrace))
	stop := context.AfterFunc(s.ctx, func() { nc.Close() })
	defer stop()
	text := fmt.Sprintf("the server has its %d connections: try again later, or raise MaxConns", s.o.MaxConns)
	if native.Refuse(newCarrier(nc, CarrierOptions{Stall: -1}), native.StatusBusy, text) != nil {
		return
	}
	if w, ok := nc.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
	}
	io.CopyN(io.Discard, nc, 64<<10) // closing over bytes that nobody read would take the answer back
}

// stop ends the listening.
func (s *Server) stop() {
	s.stopOnce.Do(func() {
		s.mu.Lock()
		s.stopped = true
		s.mu.Unlock()
		for _, f := range s.clean { // while we listen nobody takes a socket for dead, replaces it, and has his own removed by us
			f()
		}
		for _, l := range s.listeners {
			l.Close()
		}
	})
}

// Shutdown takes no more connections, tells the clients, lets what is in flight end, and closes. When ctx ends first it closes at once and returns
// the context's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	err := s.native.Shutdown(ctx)
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	return err
}

// Close ends everything at once, and waits for its goroutines. It does not close the Store. Idempotent.
func (s *Server) Close() error {
	s.stop()
	s.cancel()
	err := s.native.Close()
	s.mu.Lock()
	for nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}
