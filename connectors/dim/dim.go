package dim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/gate"
	"github.com/proxyplane/proxyplane/internal/uuid4"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// Transport is one way to reach object servers, and to be one. A connector's package makes it from its options.
type Transport struct {
	Kind    string   // of the connector, as errors have it
	Dialers []Dialer // for the keys that the connector takes, the preferred first: new keys have the type of the one whose server was found

	// Listen starts a server of the first Dialer's type; port 0 is one that the system picks.
	Listen func(ctx context.Context, host string, port int, store objects.Store) (objects.Server, error)
	// NewStore makes the Store of such a server.
	NewStore func(o *Options) (*Store, error)
	// Scope is equal for connectors that may share a server within the process: a digest of token and certificates.
	Scope string
	// KeepServer leaves a server running when its last connector is closed, as Python's UCXConnector does, until StopServers or the process's end.
	KeepServer bool
}

// Dialer connects to servers that keys with this dim_type name.
type Dialer struct {
	DIMType string
	Dial    func(ctx context.Context, host string, port int) (objects.Client, error)
}

// A Connector keeps objects in object servers. All methods may be called by many goroutines at once.
type Connector struct {
	kind    string
	t       *Transport
	opts    Options
	config  func(o Options) connectors.Config
	confirm func(connectors.Location) error // for a received configuration, if its policy wants to know
	foreign bool                            // received
	puts    objects.PutOptions
	log     *slog.Logger
	pool    *pool

	own  peer           // where new objects go; without a host if that is not known yet
	node *node          // the server there, if it is in this process and shared
	near objects.Client // to it, past the network
	find chan struct{}  // taken by who looks for own, if lazy

	gate    *gate.Gate
	life    context.Context // ends when Close begins
	endLife context.CancelFunc
	once    sync.Once
	closed  chan struct{} // closed when Close is over
	mu      sync.Mutex
	writers map[*writer]struct{} // open ones
}

// maxTries bounds how often a call is made when connections break.
const maxTries = 4

// dialTimeout is how long a connection to a peer may take, if option timeout is not longer.
const dialTimeout = 10 * time.Second

// New returns a connector whose objects go to the server at the configured address, which it starts if there is none. config is the inverse
// of how opts were read; it gets them with the real port. env may be nil.
func New(ctx context.Context, t *Transport, opts Options, env *connectors.Env, config func(Options) connectors.Config) (*Connector, error) {
	if err := opts.ensure(); err != nil {
		return nil, err
	}
	if env == nil {
		env = &connectors.Env{}
	}
	c := &Connector{kind: t.Kind, t: t, opts: opts, config: config, puts: objects.PutOptions{TTL: opts.TTL}, log: env.Logger, gate: gate.New(),
		find: make(chan struct{}, 1), closed: make(chan struct{}), writers: map[*writer]struct{}{}}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.life, c.endLife = context.WithCancel(context.Background())
	if c.foreign = env.Received; c.foreign {
		c.confirm = env.Confirm
	}
	c.pool = newPool(opts.connections(), max(dialTimeout, opts.Timeout), c.dial)
	if c.lazy() {
		return c, nil
	}
	if err := c.findOwn(ctx); err != nil {
		c.pool.close()
		c.endLife()
		return nil, err
	}
	return c, nil
}

// lazy reports whether where the connector's own server is turns out when somebody puts: it starts none, and may never need one.
func (c *Connector) lazy() bool { return c.foreign || c.opts.ConnectOnly }

// dialer returns how to reach servers of that type.
func (t *Transport) dialer(dimType string) *Dialer {
	for i := range t.Dialers {
		if t.Dialers[i].DIMType == dimType {
			return &t.Dialers[i]
		}
	}
	return nil
}

// dial connects to a peer, which came from anywhere.
func (c *Connector) dial(ctx context.Context, at peer) (objects.Client, error) {
	if c.confirm != nil {
		if err := c.confirm(at.location(c.kind)); err != nil {
			return nil, refused{err}
		}
	}
	client, err := c.t.dialer(at.dimType).Dial(ctx, at.host, at.port)
	switch {
	case err == nil:
		return client, nil
	case errors.Is(err, connectors.ErrCorrupt):
		return nil, fmt.Errorf("%w; what listens at %s is no %s object server: correct the port, or start one elsewhere with proxyplane serve --transport %s", err, at,
			at.dimType, at.dimType)
	case errors.Is(err, connectors.ErrDenied):
		return nil, fmt.Errorf("%w; the server at %s wants another token or certificate: set option token or token_file to the one it was started with", err, at)
	}
	return nil, err
}

// findOwn finds or, if it may, starts the server for new objects.
func (c *Connector) findOwn(ctx context.Context) error {
	host, err := c.opts.host(ctx)
	if err != nil {
		return err
	}
	first := peer{c.t.Dialers[0].DIMType, host, c.opts.Port}
	for !c.lazy() {
		n, err := joinNode(ctx, first, c.t, &c.opts)
		if errors.Is(err, errAbandoned) {
			continue
		}
		if err != nil {
			return err
		}
		if n != nil {
			c.adopt(n, first)
			return nil
		}
		break
	}
	if c.opts.Port == 0 && !first.unix() {
		if c.lazy() {
			return fmt.Errorf("%w: option port is 0, which is only good for a server of one's own; set it to the port of the server", connectors.ErrConfig)
		}
	} else {
		at, err := c.probe(ctx, host)
		switch {
		case err == nil:
			c.own = at
			return nil
		case ctx.Err() != nil, !startable(err), c.foreign:
			return err
		case c.lazy():
			return fmt.Errorf("%w; start one there with proxyplane serve --transport %s; option connect_only, which commands set, keeps the connector from starting one itself",
				err, first.dimType)
		}
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
		return fmt.Errorf("%w: option address: %s is no address that others could dial; name one of this machine, or set option interface",
			connectors.ErrConfig, host)
	}
	for {
		n, err := startNode(ctx, first, c.t, &c.opts)
		switch {
		case err == nil:
			c.adopt(n, first)
			c.log.Info("object server started", "kind", c.kind, "address", c.own.String())
			return nil
		case errors.Is(err, errAbandoned):
			continue
		case AddressInUse(err): // another process was faster, or it is something else
			at, perr := c.probe(ctx, host)
			if perr != nil {
				return fmt.Errorf("%w: %s is taken by something that does not answer as an object server (%w; %w); stop it, or set another port or path (port 0 picks one)",
					connectors.ErrUnavailable, first, err, perr)
			}
			c.own = at
			return nil
		case AddressForeign(err):
			return fmt.Errorf("%w: no server answers at %s, and none can be started here, since that is no address of this machine (%w); correct option address, "+
				"or start proxyplane serve there", connectors.ErrUnavailable, first, err)
		case addressForbidden(err):
			return fmt.Errorf("%w: no server answers at %s, and this user may not start one there: %w", connectors.ErrConfig, first, err)
		}
		return err
	}
}

// startable reports whether the error of a probe means that nobody is there.
func startable(err error) bool {
	return errors.Is(err, connectors.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// adopt makes a server of this process the one for new objects.
func (c *Connector) adopt(n *node, at peer) {
	at.port = n.port
	c.own, c.node, c.near = at, n, local{n.store.Store}
	c.opts.Port = n.port
	if limits := c.opts.limits(); limits != "" && limits != n.limits {
		c.log.Warn("the object server of this process at this address was started with other limits, which hold; set the same ones for all connectors, or another port",
			"kind", c.kind, "address", at.String(), "wanted", limits, "hold", n.limits)
	}
}

// probe looks for a server at the configured address, as long as option timeout says.
func (c *Connector) probe(ctx context.Context, host string) (peer, error) {
	var errs []error
	var missing error
	for _, d := range c.t.Dialers {
		at := peer{d.DIMType, host, c.opts.Port}
		limited, cancel := context.WithTimeout(ctx, c.opts.Timeout)
		err := c.reach(limited, at)
		cancel()
		if err == nil {
			return at, nil
		}
		if ctx.Err() != nil {
			return peer{}, ctx.Err()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: no object server answers at %s within %v", connectors.ErrUnavailable, at, c.opts.Timeout)
		}
		if errors.Is(err, connectors.ErrNotBuilt) {
			missing = err
			continue
		}
		errs = append(errs, err)
	}
	if errs == nil {
		return peer{}, missing
	}
	for _, err := range errs { // what says that somebody is there counts most
		if !startable(err) {
			return peer{}, err
		}
	}
	return peer{}, errors.Join(errs...)
}

// reach does a round trip to a server.
func (c *Connector) reach(ctx context.Context, at peer) error {
	cn, err := c.pool.get(ctx, at)
	if err != nil {
		return err
	}
	err = cn.client.Ping(ctx)
	c.pool.put(at, cn, err)
	return err
}

// home returns the server for new objects.
func (c *Connector) home(ctx context.Context) (peer, error) {
	if !c.lazy() {
		return c.own, nil // it does not change any more
	}
	select {
	case c.find <- struct{}{}:
	case <-ctx.Done():
		return peer{}, ctx.Err()
	}
	defer func() { <-c.find }()
	if c.own.host == "" {
		if err := c.findOwn(ctx); err != nil {
			return peer{}, err
		}
	}
	return c.own, nil
}

func (p peer) unix() bool { return strings.HasPrefix(p.host, unixScheme) }

func (c *Connector) wrap(op string, key connectors.Key, err error) error {
	if err == nil {
		return nil
	}
	return connectors.WrapError(op, c.kind, key, err)
}

func (c *Connector) closedError(op string, key connectors.Key) error {
	return &connectors.OpError{Op: op, Kind: c.kind, Key: key, Err: connectors.ErrClosed}
}

// enter begins a call; without error the caller must call gate.Leave.
func (c *Connector) enter(ctx context.Context, op string, key connectors.Key) error {
	if !c.gate.Enter() {
		return c.closedError(op, key)
	}
	if err := ctx.Err(); err != nil {
		c.gate.Leave()
		return err
	}
	return nil
}

// start begins a call on a key; without error the caller must call gate.Leave.
func (c *Connector) start(ctx context.Context, op string, key connectors.Key) (connectors.DIMKey, peer, error) {
	if err := c.enter(ctx, op, key); err != nil {
		return connectors.DIMKey{}, peer{}, err
	}
	k, at, err := c.place(key)
	if err != nil {
		c.gate.Leave()
		return k, at, c.wrap(op, key, err)
	}
	return k, at, nil
}

// place returns where the object of a key is. Keys come in proxies from anywhere.
func (c *Connector) place(key connectors.Key) (connectors.DIMKey, peer, error) {
	k, err := connectors.KeyAs[connectors.DIMKey](c.kind, key)
	if err != nil {
		return k, peer{}, err
	}
	at := peer{k.DIMType, k.PeerHost, int(k.PeerPort)}
	bad := func(what string) error { return fmt.Errorf("%w: %s", connectors.ErrInvalidKey, what) }
	switch {
	case c.t.dialer(k.DIMType) == nil:
		return k, at, bad(fmt.Sprintf("its dim_type is %.20q; this connector takes %s", k.DIMType, c.t.types()))
	case k.ObjID == "" || len(k.ObjID) > objects.MaxID || strings.ContainsFunc(k.ObjID, unicode.IsControl):
		return k, at, bad(fmt.Sprintf("obj_id must have 1 to %d bytes and no control characters", objects.MaxID))
	case at.unix():
		if k.DIMType != "tcp" || k.PeerPort != 0 || !validSocket(k.PeerHost) {
			return k, at, bad(fmt.Sprintf("peer_host %.100q is no socket that this transport can have: tcp has unix:// and an absolute path, with port 0", k.PeerHost))
		}
	case !validHost(k.PeerHost):
		return k, at, bad(fmt.Sprintf("peer_host %.100q is no host name and no address", k.PeerHost))
	case k.PeerPort < 1 || k.PeerPort > 65535:
		return k, at, bad(fmt.Sprintf("peer_port %d is not from 1 to 65535", k.PeerPort))
	}
	return k, at, nil
}

// validHost reports whether s is an IP address or looks like a host name: nothing that could mean something else within an address.
func validHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() == "" {
			return true
		}
		s = a.Zone() // which may be anything, as far as that package is concerned
	}
	if s == "" || len(s) > 253 {
		return false
	}
	for _, r := range []byte(s) {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_') {
			return false
		}
	}
	return true
}

// validSocket reports whether s is unix:// and a path that a socket can have, from the root on.
func validSocket(s string) bool {
	path, ok := strings.CutPrefix(s, unixScheme)
	return ok && filepath.IsAbs(path) && !strings.ContainsFunc(path, unicode.IsControl) && len(path) <= 107
}

func (t *Transport) types() string {
	var names []string
	for _, d := range t.Dialers {
		names = append(names, d.DIMType)
	}
	return strings.Join(names, " and ")
}

// inside returns the Client of this process's own server, if that is at.
func (c *Connector) inside(at peer) (objects.Client, bool) {
	if c.node == nil || at != c.own {
		return nil, false
	}
	return c.near, true
}

// do makes one call on a server, again on another connection if the one it had breaks.
func (c *Connector) do(ctx context.Context, at peer, call func(objects.Client) error) error {
	if l, ok := c.inside(at); ok {
		return c.explain(at, call(l))
	}
	for try := 1; ; try++ {
		cn, err := c.pool.get(ctx, at)
		if err != nil {
			return c.explain(at, err)
		}
		err = call(cn.client)
		c.pool.put(at, cn, err)
		switch {
		case !broken(err):
			return c.explain(at, err)
		case ctx.Err() != nil:
			return ctx.Err()
		case c.life.Err() != nil: // Close has begun: it is not tried again
			return connectors.ErrClosed
		case try == maxTries:
			return c.explain(at, err)
		}
	}
}

// explain says what to do about an error of a server.
func (c *Connector) explain(at peer, err error) error {
	var no refused
	switch {
	case err == nil:
		return nil
	case errors.As(err, &no):
		return no.error
	case c.life.Err() == nil && errors.Is(err, connectors.ErrClosed): // not this connector, but the server or the connection
		return fmt.Errorf("%w: the object server at %s has ended (%v)", connectors.ErrUnavailable, at, err)
	case errors.Is(err, connectors.ErrFull):
		return fmt.Errorf("%w (object server %s; of one within a process these are options memory and spill_dir)", err, at)
	case errors.Is(err, connectors.ErrNotFound):
		return fmt.Errorf("%w: it was evicted, expired, or the server at %s was started anew", err, at)
	case errors.Is(err, connectors.ErrUnavailable) && !errors.Is(err, connectors.ErrNotBuilt):
		return fmt.Errorf("%w (object server %s; if it has ended its objects are gone: start it, and store them anew)", err, at)
	}
	return err
}

// newKey returns a key for an object at the server at.
func newKey(at peer, id string, size int64) connectors.DIMKey {
	return connectors.DIMKey{DIMType: at.dimType, ObjID: id, Size: size, PeerHost: at.host, PeerPort: int64(at.port)}
}

// Put implements [connectors.Connector].
func (c *Connector) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	if err := c.enter(ctx, "put", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	at, err := c.home(ctx)
	if err != nil {
		return nil, c.wrap("put", nil, err)
	}
	key, err := c.put(ctx, at, obj)
	if err != nil {
		return nil, c.wrap("put", nil, err)
	}
	return key, nil
}

// put stores an object under a new key. Nothing stays behind of one that fails, if the server can still be reached.
func (c *Connector) put(ctx context.Context, at peer, obj transport.Slices) (connectors.DIMKey, error) {
	id := uuid4.New()
	sent := false
	err := c.do(ctx, at, func(cl objects.Client) error {
		sent = true
		return cl.Put(ctx, id, obj, c.puts)
	})
	if err != nil {
		if sent {
			c.takeBack(ctx, at, err, id)
		}
		return connectors.DIMKey{}, err
	}
	return newKey(at, id, obj.Len()), nil
}

// takeBack evicts what a put that failed may have left: the answer is lost, the object need not be.
func (c *Connector) takeBack(ctx context.Context, at peer, err error, id string) {
	if !broken(err) && ctx.Err() == nil {
		return // refused by the server
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	c.do(undo, at, func(cl objects.Client) error { return cl.Evict(undo, id) })
}

// sizeHint is what a key says of its object's length, -1 for nothing.
func sizeHint(k connectors.DIMKey) int64 {
	if k.Size <= 0 { // 0 is also what a key has that was made before its object
		return -1
	}
	return k.Size
}

// Get implements [connectors.Connector]. An object of a server within the process is the stored memory itself.
func (c *Connector) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	return c.get(ctx, "get", key, 0, -1)
}

func (c *Connector) get(ctx context.Context, op string, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	k, at, err := c.start(ctx, op, key)
	if err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	b, err := c.fetch(ctx, at, k, off, n)
	if err != nil {
		return nil, c.wrap(op, key, err)
	}
	return b, nil
}

func (c *Connector) fetch(ctx context.Context, at peer, k connectors.DIMKey, off, n int64) (b *transport.Buffer, err error) {
	size := sizeHint(k)
	err = c.do(ctx, at, func(cl objects.Client) (err error) {
		b, err = cl.Get(ctx, k.ObjID, off, n, size)
		return err
	})
	return b, err
}

// Exists implements [connectors.Connector].
func (c *Connector) Exists(ctx context.Context, key connectors.Key) (found bool, err error) {
	k, at, err := c.start(ctx, "exists", key)
	if err != nil {
		return false, err
	}
	defer c.gate.Leave()
	err = c.do(ctx, at, func(cl objects.Client) (err error) {
		found, err = cl.Exists(ctx, k.ObjID)
		return err
	})
	return found, c.wrap("exists", key, err)
}

// Evict implements [connectors.Connector].
func (c *Connector) Evict(ctx context.Context, key connectors.Key) error {
	k, at, err := c.start(ctx, "evict", key)
	if err != nil {
		return err
	}
	defer c.gate.Leave()
	return c.wrap("evict", key, c.evict(ctx, at, k.ObjID))
}

func (c *Connector) evict(ctx context.Context, at peer, id string) error {
	return c.do(ctx, at, func(cl objects.Client) error { return cl.Evict(ctx, id) })
}

// Config implements [connectors.Connector]. It has the real port, and the token, if that was given as such.
func (c *Connector) Config() connectors.Config { return c.config(c.opts) }

// Address returns where the server for new objects is, as host:port or unix:///path, and whether it is in this process. It is empty for a
// connector that starts none and that nothing was put into yet.
func (c *Connector) Address() (addr string, inProcess bool) {
	if c.lazy() {
		c.find <- struct{}{}
		defer func() { <-c.find }()
	}
	if c.own.host == "" {
		return "", false
	}
	return c.own.String(), c.node != nil
}

// Close implements [connectors.Connector]. See the package's "# Close". If ctx ends while calls are in flight it cuts them off and returns the
// context's error.
func (c *Connector) Close(ctx context.Context) (err error) {
	first := false
	c.once.Do(func() { first = true })
	if !first {
		select {
		case <-c.closed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(c.closed)
	c.gate.Shut()
	c.endLife()
	select {
	case <-c.gate.Drained():
	case <-ctx.Done():
		c.pool.close()
		<-c.gate.Drained()
		err = ctx.Err()
	}
	c.mu.Lock()
	left := slices.Collect(maps.Keys(c.writers))
	c.mu.Unlock()
	for _, w := range left { // nobody is in a call on one, but for Abort, and nobody gets into one
		w.abort()
	}
	c.pool.close()
	if c.node != nil {
		err = errors.Join(err, c.node.leave(ctx))
	}
	return c.wrap("close", nil, err)
}
