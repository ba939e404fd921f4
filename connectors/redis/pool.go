package redis

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
)

// maxIdle is how long a connection may wait for its next use: shorter than the limits of common firewalls and load balancers.
const maxIdle = 4 * time.Minute

// dialer opens connections that are logged in and have their database selected.
type dialer struct {
	network  string // "tcp" or "unix"
	tls      *tls.Config
	opts     *Options
	password func() (string, error)
	trust    int64                           // see conn
	known    map[string]bool                 // the hosts that the configuration names
	confirm  func(connectors.Location) error // asked about every other host; may be nil
}

// refused is the policy's error about a host that a server named.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// dial returns a fresh connection. resp3 is for a watcher, which needs push messages.
func (d *dialer) dial(ctx context.Context, addr string, resp3 bool) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.opts.DialTimeout)
	defer cancel()
	raw, nc, err := d.connect(ctx, addr)
	if err != nil {
		return nil, err
	}
	cn := newConn(raw, nc, addr, d.opts.Timeout)
	cn.trust, cn.cluster = d.trust, d.opts.Cluster
	stop := context.AfterFunc(ctx, cn.abort)
	err = d.login(cn, resp3)
	if !stop() || err != nil {
		raw.Close()
		if err == nil || ctx.Err() != nil {
			err = fmt.Errorf("login took longer than %v: %w", d.opts.DialTimeout, context.Cause(ctx))
		}
		return nil, err
	}
	return cn, nil
}

func (d *dialer) connect(ctx context.Context, addr string) (raw, nc net.Conn, err error) {
	if host, _, err := net.SplitHostPort(addr); d.confirm != nil && d.network == "tcp" && (err != nil || !d.known[host]) {
		if err == nil {
			err = d.confirm(connectors.Location{Kind: kind, Host: host})
		}
		if err != nil {
			return nil, nil, refused{fmt.Errorf("a server led to %s: %w", addr, err)}
		}
	}
	var nd net.Dialer
	raw, err = nd.DialContext(ctx, d.network, addr)
	if err != nil {
		return nil, nil, err
	}
	if d.tls == nil {
		return raw, raw, nil
	}
	cfg := d.tls
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName = addr
		if host, _, err := net.SplitHostPort(addr); err == nil {
			cfg.ServerName = host
		}
	}
	t := tls.Client(raw, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, nil, fmt.Errorf("TLS with %s: %w", addr, err)
	}
	return raw, t, nil
}

// login sends what must come first, in one round trip.
func (d *dialer) login(cn *conn, resp3 bool) error {
	password, err := d.password()
	if err != nil {
		return err
	}
	user := d.opts.Username
	switch {
	case resp3 && password == "":
		cn.command(2, "HELLO")
		cn.arg("3")
	case resp3:
		if user == "" {
			user = "default"
		}
		cn.command(5, "HELLO")
		cn.arg("3")
		cn.arg("AUTH")
		cn.arg(user)
		cn.arg(password)
	case password != "" && user != "":
		cn.command(3, "AUTH")
		cn.arg(user)
		cn.arg(password)
	case password != "":
		cn.command(2, "AUTH")
		cn.arg(password)
	}
	if d.opts.DB != 0 {
		cn.command(2, "SELECT")
		cn.number(int64(d.opts.DB))
	}
	if resp3 {
		cn.command(3, "CLIENT")
		cn.arg("TRACKING")
		cn.arg("ON")
	}
	if len(cn.out) == 0 {
		return nil
	}
	err = d.loggedIn(cn, resp3, password != "")
	if password != "" {
		err = secretive(err)
	}
	return err
}

// loggedIn sends what login wrote, and reads the answers.
func (d *dialer) loggedIn(cn *conn, resp3, auth bool) error {
	if err := cn.flush(); err != nil {
		return err
	}
	if resp3 {
		if err := cn.skip(0); err != nil { // the answer to HELLO tells of the server
			return err
		}
	} else if auth {
		if err := cn.status("OK"); err != nil {
			return err
		}
	}
	if d.opts.DB != 0 {
		if err := cn.status("OK"); err != nil {
			return err
		}
	}
	if resp3 {
		return cn.status("OK")
	}
	return nil
}

// readPassword returns where a connection gets the password from: a file is read again for each, so that it may change.
func readPassword(o *Options) func() (string, error) {
	return func() (string, error) {
		if o.PasswordFile == "" {
			return o.Password, nil
		}
		data, err := os.ReadFile(o.PasswordFile)
		if err != nil {
			return "", fmt.Errorf("%w: option password_file: %w", connectors.ErrConfig, err)
		}
		return strings.TrimRight(string(data), "\r\n"), nil
	}
}

// pool keeps the connections of one connector, by address. Calls share a bounded number of them; streams and watchers have their own beside.
type pool struct {
	dialer *dialer
	turns  chan struct{} // one token per call that may run at once

	mu    sync.Mutex
	idle  map[string][]*conn // a stack each: the connection used last is the warmest
	live  map[*conn]struct{}
	ended bool
}

func newPool(d *dialer, size int) *pool {
	return &pool{dialer: d, turns: make(chan struct{}, size), idle: map[string][]*conn{}, live: map[*conn]struct{}{}}
}

// turn waits until a call may run; the caller then calls endTurn.
func (p *pool) turn(ctx context.Context) error {
	select {
	case p.turns <- struct{}{}:
		return nil
	default:
	}
	select {
	case p.turns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pool) endTurn() { <-p.turns }

// get returns a connection to addr, an idle one unless fresh is asked for. reused says which it is.
func (p *pool) get(ctx context.Context, addr string, fresh bool) (cn *conn, reused bool, err error) {
	for {
		p.mu.Lock()
		idle := p.idle[addr]
		if n := len(idle); n == 0 || fresh || time.Since(idle[n-1].used) >= maxIdle {
			p.dropIdle(addr) // if fresh is set their server went away too, and else they have waited for even longer
			p.mu.Unlock()
			break
		}
		cn = idle[len(idle)-1]
		idle[len(idle)-1] = nil
		p.idle[addr] = idle[:len(idle)-1]
		p.mu.Unlock()
		if cn.quiet() {
			cn.got, cn.readMark = false, time.Time{}
			return cn, true, nil
		}
		p.discard(cn)
	}

	cn, err = p.dial(ctx, addr, false)
	return cn, false, err
}

// dial opens a connection that does not count for the bound.
func (p *pool) dial(ctx context.Context, addr string, resp3 bool) (*conn, error) {
	cn, err := p.dialer.dial(ctx, addr, resp3)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		cn.abort()
		return nil, connectors.ErrClosed
	}
	p.live[cn] = struct{}{}
	cn.got = false
	return cn, nil
}

// dropIdle closes the idle connections to addr. The caller holds mu.
func (p *pool) dropIdle(addr string) {
	for _, cn := range p.idle[addr] {
		cn.abort()
		delete(p.live, cn)
	}
	delete(p.idle, addr)
}

// put takes a connection back. One that is broken, or has bytes nobody asked for, is closed.
func (p *pool) put(cn *conn) {
	if cn.keep && !cn.broken {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if cn.broken || p.ended || cn.br.Buffered() > 0 || len(cn.out) > 0 || len(p.idle[cn.addr]) >= cap(p.turns) {
		cn.abort()
		delete(p.live, cn)
		return
	}
	cn.used = time.Now()
	p.idle[cn.addr] = append(p.idle[cn.addr], cn)
}

// discard closes a connection.
func (p *pool) discard(cn *conn) {
	cn.broken = true
	p.put(cn)
}

// end closes every connection, those in use too.
func (p *pool) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for cn := range p.live {
		cn.abort()
	}
	clear(p.live)
	clear(p.idle)
}
