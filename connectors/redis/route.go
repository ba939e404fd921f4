package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	goredis "github.com/redis/go-redis/v9"

	"github.com/proxyplane/proxyplane/connectors"
)

// router says which server has a key.
type router interface {
	// addr returns the server of a key. It may ask the cluster or the sentinels.
	addr(ctx context.Context, key string) (string, error)
	// doubt tells that the server at addr failed, or answered as one that should not have been asked.
	doubt(ctx context.Context, addr string)
	close() error
}

// fixed is the router for one server.
type fixed string

func (f fixed) addr(context.Context, string) (string, error) { return string(f), nil }
func (fixed) doubt(context.Context, string)                  {}
func (fixed) close() error                                   { return nil }

// go-redis logs lost connections by a logger of its own package, to stderr unless told otherwise, and a library must not print. There is no logger
// per client. A program that wants those lines calls SetLogger in its main, which runs after this.
func init() { goredis.SetLogger(silent{}) }

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// cluster finds a key's server by go-redis, which keeps the table of slots up to date.
type cluster struct {
	password func() (string, error)
	client   *goredis.ClusterClient
}

// forGoRedis opens go-redis's connections as our own, so that nobody is dialed that may not be.
func (d *dialer) forGoRedis(ctx context.Context, _, addr string) (net.Conn, error) {
	_, nc, err := d.connect(ctx, addr)
	return nc, err
}

func newCluster(o *Options, d *dialer) *cluster {
	return &cluster{d.password, goredis.NewClusterClient(&goredis.ClusterOptions{
		Addrs: o.Addrs, CredentialsProviderContext: credentials(o.Username, d.password), Dialer: d.forGoRedis, TLSConfig: d.tls, Protocol: 2,
		DialTimeout: o.DialTimeout, ReadTimeout: o.DialTimeout, DialerRetries: 1, MaxRetries: -1, MaxRedirects: 3, PoolSize: 2,
		ContextTimeoutEnabled: true, DisableIdentity: true,
	})}
}

// credentials gives go-redis what the other connections use.
func credentials(user string, password func() (string, error)) func(context.Context) (string, string, error) {
	return func(context.Context) (string, string, error) {
		p, err := password()
		return user, p, err
	}
}

func (c *cluster) addr(ctx context.Context, key string) (string, error) {
	node, err := c.client.MasterForKey(ctx, key)
	if err != nil {
		if e := ended(ctx); e != nil {
			return "", e
		}
		if p, e := c.password(); p != "" || e != nil {
			err = secretive(err)
		}
		return "", fmt.Errorf("finding the cluster's server of a slot: %w", err)
	}
	return node.Options().Addr, nil
}

func (c *cluster) doubt(ctx context.Context, _ string) {
	c.client.ReloadState(context.WithoutCancel(ctx))
}

func (c *cluster) close() error { return c.client.Close() }

// failover finds the master by the sentinels, and keeps the answer until somebody doubts it.
type failover struct {
	o       *Options
	clients []*goredis.SentinelClient
	turn    chan struct{} // one asks, the others wait for the answer

	mu     sync.Mutex
	master string
}

func newFailover(o *Options, d *dialer) *failover {
	f := &failover{o: o, turn: make(chan struct{}, 1)}
	for _, addr := range o.Addrs {
		f.clients = append(f.clients, goredis.NewSentinelClient(&goredis.Options{
			Addr: addr, Username: o.SentinelUsername, Password: o.SentinelPassword, Dialer: d.forGoRedis, TLSConfig: d.tls, Protocol: 2,
			DialTimeout: o.DialTimeout, ReadTimeout: o.DialTimeout, DialerRetries: 1, MaxRetries: -1, PoolSize: 2,
			ContextTimeoutEnabled: true, DisableIdentity: true,
		}))
	}
	return f
}

func (f *failover) addr(ctx context.Context, _ string) (string, error) {
	if addr := f.known(); addr != "" {
		return addr, nil
	}
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if addr := f.known(); addr != "" {
		return addr, nil
	}
	var errs []error
	for i, client := range f.clients {
		hostPort, err := client.GetMasterAddrByName(ctx, f.o.MasterName).Result()
		if err == nil && len(hostPort) == 2 {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.master = net.JoinHostPort(hostPort[0], hostPort[1])
			return f.master, nil
		}
		if e := ended(ctx); e != nil {
			return "", e
		}
		if errors.Is(err, goredis.Nil) {
			err = fmt.Errorf("it knows no master %q; set master_name as its configuration names it", f.o.MasterName)
		}
		if f.o.SentinelPassword != "" {
			err = secretive(err)
		}
		errs = append(errs, fmt.Errorf("sentinel %s: %w", f.o.Addrs[i], err))
	}
	return "", fmt.Errorf("%w: no sentinel knows the master: %w", connectors.ErrUnavailable, errors.Join(errs...))
}

// known returns the master's address, if nobody doubts it.
func (f *failover) known() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.master
}

func (f *failover) doubt(_ context.Context, addr string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.master == addr {
		f.master = ""
	}
}

func (f *failover) close() error {
	var errs []error
	for _, client := range f.clients {
		errs = append(errs, client.Close())
	}
	return errors.Join(errs...)
}

// redirect reads the address out of "MOVED 3999 host:port" or "ASK 3999 host:port", the answer to from.
func redirect(e *serverError, from string) (addr string, ask, ok bool) {
	code, rest, _ := strings.Cut(e.text, " ")
	if code != "MOVED" && code != "ASK" {
		return "", false, false
	}
	_, addr, ok = strings.Cut(rest, " ")
	if strings.HasPrefix(addr, ":") && strings.Count(addr, ":") == 1 { // the host that was asked
		host, _, err := net.SplitHostPort(from)
		if err != nil {
			return "", false, false
		}
		addr = net.JoinHostPort(strings.Trim(host, "[]"), addr[1:])
	} else if i := strings.LastIndexByte(addr, ':'); i > 0 && strings.Contains(addr[:i], ":") && addr[0] != '[' {
		addr = net.JoinHostPort(addr[:i], addr[i+1:]) // IPv6 without brackets, as Redis writes it
	}
	return addr, code == "ASK", ok && addr != ""
}

// masters returns the addresses of the cluster's masters.
func (c *cluster) masters(ctx context.Context) ([]string, error) {
	var mu sync.Mutex
	var addrs []string
	err := c.client.ForEachMaster(ctx, func(_ context.Context, node *goredis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		addrs = append(addrs, node.Options().Addr)
		return nil
	})
	return addrs, err
}
