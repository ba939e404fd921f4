package endpoint

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/proxyplane/proxyplane/endpoint/config"
)

// listeners are all that a configuration asks for.
func listeners(ctx context.Context, dir string, cfg config.Config) (all []net.Listener, addrs []string, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				l.Close()
			}
		}
	}()
	var lc net.ListenConfig
	add := func(scheme string, l net.Listener, err error) error {
		if err != nil {
			return err
		}
		all, addrs = append(all, l), append(addrs, scheme+"://"+l.Addr().String())
		return nil
	}
	h := cfg.Extra.HTTP
	main := net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.Port))
	if (h.Plain || h.TLSCert != "" && h.TLSListen == "") && cfg.Host == "" {
		return nil, nil, fmt.Errorf("%w: no host to listen on; start the endpoint by its name, or set `host`", config.ErrInvalid)
	}
	if h.TLSCert != "" {
		on := h.TLSListen
		if on == "" {
			on, h.Plain = main, false
		}
		tc, err := serverTLS(config.Path(dir, h.TLSCert), config.Path(dir, h.TLSKey))
		if err != nil {
			return all, nil, err
		}
		l, err := lc.Listen(ctx, "tcp", on)
		if err := add("https", l, err); err != nil {
			return all, nil, portError(err)
		}
		all[len(all)-1] = tls.NewListener(l, tc)
	}
	if h.Plain {
		l, err := lc.Listen(ctx, "tcp", main)
		if err := add("http", l, err); err != nil {
			return all, nil, portError(err)
		}
	}
	if h.Socket != "" {
		l, err := listenUnix(ctx, config.Path(dir, h.Socket))
		if err := add("unix", l, err); err != nil {
			return all, nil, err
		}
	}
	return all, addrs, nil
}

func portError(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; another program has the port: stop it, or change `port` in %s", err, config.ConfigFile)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w; the address is not this host's: change `host_type` or `host` in %s", err, config.ConfigFile)
	}
	return err
}

// listenUnix listens on a socket that only this user can connect to. What a dead process has left there is replaced, and nothing else.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("%s is not a socket; choose another path for `socket` in %s", path, config.ExtraFile)
		}
		var d net.Dialer
		if c, err := d.DialContext(ctx, "unix", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("%s: %w: another process listens there", path, config.ErrRunning)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error { return chmodSocket(rc, 0o600) }}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// serverTLS serves the certificate of two files, and a renewed one soon after they have changed.
func serverTLS(cert, key string) (*tls.Config, error) {
	c := &certificate{cert: cert, key: key}
	if _, err := c.get(nil); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}, nil
}

type certificate struct {
	cert, key string

	mu     sync.Mutex
	loaded *tls.Certificate
	times  [2]time.Time
	next   time.Time // when to look again
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Before(c.next) {
		return c.loaded, nil
	}
	c.next = now.Add(10 * time.Second)
	var times [2]time.Time
	for i, path := range []string{c.cert, c.key} {
		if fi, err := os.Stat(path); err == nil {
			times[i] = fi.ModTime()
		}
	}
	if c.loaded != nil && times == c.times {
		return c.loaded, nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		if c.loaded != nil {
			return c.loaded, nil // half of a renewal; the old one may still do
		}
		return nil, err
	}
	c.loaded, c.times = &pair, times
	return c.loaded, nil
}

// server returns the HTTP server with its limits: headers come soon and are small, idle connections end; bodies have their times from the Endpoint.
func server(h http.Handler, log *slog.Logger) *http.Server {
	var p http.Protocols
	p.SetHTTP1(true) // HTTP/2 would copy what sendfile need not, and its windows are made for small answers
	return &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 32 << 10, Protocols: &p,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
}

// readToken reads the token that clients must bring.
func readToken(path string, log *slog.Logger) (string, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	if fi.Size() > 64<<10 {
		return "", fmt.Errorf("token file: %s has %d bytes; it should hold one line", path, fi.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	data = bytes.TrimSpace(data)
	if len(data) == 0 || bytes.ContainsAny(data, " \t\r\n") {
		return "", fmt.Errorf("token file: %s must hold one word; make one with: openssl rand -hex 32 > %s", path, path)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		log.Warn("others may read the token file; chmod 600 it", "path", path)
	}
	return string(data), nil
}
