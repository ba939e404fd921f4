package dim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// drain is how long a server that ends waits for the calls of others.
const drain = 5 * time.Second

// node is an object server within this process, which its connectors on the same address share.
type node struct {
	asked  address
	scope  string
	ready  chan struct{} // closed when the server runs or failed to start
	err    error         // set before ready is closed
	store  *Store
	server objects.Server
	port   int    // the real one
	limits string // what it was started with
	// Of the lock:
	refs  int
	kept  bool          // does not end with the last connector
	ended chan struct{} // nil while it runs, closed when it is gone
}

// nodes are the servers of this process, by the address that was asked for; those with port 0 by the real one as well. One that is ending is among them
// until its port is free.
var nodes struct {
	sync.Mutex
	m map[address]*node
}

// address is where a connector wants its server.
type address struct {
	peer
	scope string // with port 0, where servers that differ in credentials, limits or lifetime are no conflict
}

func newAddress(at peer, t *Transport, o *Options) address {
	if at.port != 0 || at.unix() {
		return address{at, ""}
	}
	return address{at, fmt.Sprint(t.KeepServer, t.Scope, o.limits())}
}

// Store is the Store of a server within the process, and what ends it.
type Store struct {
	objects.Store
	Close func() error
}

// lookup returns the running server of this process at an address, nil if there is none. One that is ending it waits for: a connector that got to it over
// the network would have a server that is gone with the next call. The lock is held, but not while lookup waits.
func lookup(ctx context.Context, at address) (*node, error) {
	for {
		n := nodes.m[at]
		if n == nil || n.ended == nil {
			return n, nil
		}
		nodes.Unlock()
		select {
		case <-n.ended:
		case <-ctx.Done():
		}
		nodes.Lock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// joinNode returns the running server of this process at an address, with a reference; nil if there is none, or one with other credentials: that one
// is for the network to refuse.
func joinNode(ctx context.Context, at peer, t *Transport, o *Options) (*node, error) {
	nodes.Lock()
	n, err := lookup(ctx, newAddress(at, t, o))
	if n == nil || n.scope != t.Scope {
		nodes.Unlock()
		return nil, err
	}
	n.refs++
	n.kept = n.kept || t.KeepServer
	nodes.Unlock()
	return n, n.wait(ctx)
}

// errAbandoned is what those get who waited for a start that was given up by whoever made it.
var errAbandoned = errors.New("the start of the server was cancelled")

// wait waits for the start of n. On error the caller's reference is gone.
func (n *node) wait(ctx context.Context) error {
	select {
	case <-n.ready:
		if n.err != nil {
			n.leave(context.Background())
		}
		return n.err
	case <-ctx.Done():
		n.leave(context.WithoutCancel(ctx))
		return ctx.Err()
	}
}

// startNode starts a server at an address, or joins the one that another connector started meanwhile.
func startNode(ctx context.Context, at peer, t *Transport, o *Options) (*node, error) {
	asked := newAddress(at, t, o)
	nodes.Lock()
	n, err := lookup(ctx, asked)
	if err != nil {
		nodes.Unlock()
		return nil, err
	}
	if n != nil {
		if n.scope != t.Scope {
			nodes.Unlock()
			return nil, fmt.Errorf("%w: this process has a server at %s already, with another token or other certificates; open the connector with the same ones",
				connectors.ErrConfig, at)
		}
		n.refs++
		n.kept = n.kept || t.KeepServer
		nodes.Unlock()
		return n, n.wait(ctx)
	}
	n = &node{asked: asked, scope: t.Scope, limits: o.limits(), ready: make(chan struct{}), refs: 1, kept: t.KeepServer}
	if nodes.m == nil {
		nodes.m = map[address]*node{}
	}
	nodes.m[asked] = n
	nodes.Unlock()

	err = n.start(ctx, t, o)
	nodes.Lock()
	if err != nil {
		delete(nodes.m, asked)
	} else if at.port != n.port {
		at.port = n.port
		nodes.m[newAddress(at, t, o)] = n
	}
	nodes.Unlock()
	if n.err = err; err != nil && ctx.Err() != nil {
		n.err = errAbandoned
	}
	close(n.ready)
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (n *node) start(ctx context.Context, t *Transport, o *Options) error {
	store, err := t.NewStore(o)
	if err != nil {
		return err
	}
	server, err := t.Listen(ctx, n.asked.host, n.asked.port, store.Store)
	if err == nil {
		n.port, err = portOf(n.asked.peer, server.Addr())
		if err != nil {
			err = errors.Join(err, server.Close())
		}
	}
	if err != nil {
		return errors.Join(err, store.Close())
	}
	n.store, n.server = store, server
	return nil
}

// portOf returns the port of an address as [objects.Server.Addr] gives it.
func portOf(at peer, addr string) (int, error) {
	if strings.HasPrefix(at.host, unixScheme) {
		return 0, nil
	}
	_, text, err := net.SplitHostPort(addr[strings.LastIndex(addr, "/")+1:])
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// leave drops a reference. With the last one the server ends, unless it is kept.
func (n *node) leave(ctx context.Context) error {
	nodes.Lock()
	n.refs--
	if n.refs > 0 || n.kept || n.ended != nil || nodes.m[n.asked] != n { // the last: it never started
		nodes.Unlock()
		return nil
	}
	n.ended = make(chan struct{})
	nodes.Unlock()
	return n.stop(ctx)
}

// stop ends a server that is marked as ending, and drops its objects. Buffers that were handed out stay valid.
func (n *node) stop(ctx context.Context) error {
	defer func() {
		nodes.Lock()
		defer nodes.Unlock()
		maps.DeleteFunc(nodes.m, func(_ address, other *node) bool { return other == n })
		close(n.ended)
	}()
	limited, cancel := context.WithTimeout(ctx, drain)
	defer cancel()
	err := n.server.Shutdown(limited)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = nil // somebody else's call took longer
	}
	return errors.Join(err, n.server.Close(), n.store.Close())
}

// StopServers ends the servers that connectors of this process started and that still run. Their objects are gone.
func StopServers(ctx context.Context) error {
	var all []*node
	nodes.Lock()
	for _, n := range nodes.m {
		select {
		case <-n.ready:
			if n.ended == nil {
				n.ended = make(chan struct{})
				all = append(all, n)
			}
		default: // it is being started, by somebody who wants it
		}
	}
	nodes.Unlock()
	var errs []error
	for _, n := range all {
		errs = append(errs, n.stop(ctx))
	}
	return errors.Join(errs...)
}

// ownHost returns the address of this machine that others know it by: that of its host name, as Python's connector takes it.
func ownHost(ctx context.Context) (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", name)
	if err != nil || len(addrs) == 0 {
		return "", fmt.Errorf("%w: this machine's name %q has no address (%v); set option address or interface", connectors.ErrConfig, name, err)
	}
	return addrs[0].Unmap().String(), nil
}

// interfaceHost returns the address of a network interface, IPv4 if it has one, as Python's get_ip_address does.
func interfaceHost(name string) (string, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return "", fmt.Errorf("%w: option interface: %q: %w", connectors.ErrConfig, name, err)
	}
	addrs, err := i.Addrs()
	if err != nil {
		return "", fmt.Errorf("%w: option interface: %q: %w", connectors.ErrConfig, name, err)
	}
	six := ""
	for _, a := range addrs {
		prefix, ok := a.(*net.IPNet)
		switch {
		case !ok || prefix.IP.IsLinkLocalUnicast():
		case prefix.IP.To4() != nil:
			return prefix.IP.String(), nil
		case six == "":
			six = prefix.IP.String()
		}
	}
	if six == "" {
		return "", fmt.Errorf("%w: option interface: %q has no address", connectors.ErrConfig, name)
	}
	return six, nil
}
