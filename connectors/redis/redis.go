package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/gate"
	"github.com/proxyplane/proxyplane/internal/uuid4"
	"github.com/proxyplane/proxyplane/transport"
)

const (
	// pooled is the size from which Get takes pooled memory. Below, the garbage collector's small objects are as cheap.
	pooled = 32 << 10
	// maxHops bounds how often one call follows redirections or tries a new connection.
	maxHops = 5
)

// Connector stores objects in Redis. All methods may be called by many goroutines at once.
type Connector struct {
	opts    Options // complete
	poolSet bool    // the caller chose PoolSize
	pool    *pool
	router  router
	made    *made // nil unless the connector deletes its objects at Close

	gate    *gate.Gate
	gone    chan struct{} // closed when Close begins
	once    sync.Once
	closed  chan struct{} // closed when Close is over
	watches watches
}

// New returns a connector. It contacts nobody yet, as Python's does not; it reads the TLS files.
func New(opts Options) (*Connector, error) { return newConnector(opts, trustOwn, nil) }

// newConnector is New with what a received configuration changes: how much memory the server is trusted with, and who is asked about the hosts that
// a cluster or a sentinel names.
func newConnector(opts Options, trust int64, confirm func(connectors.Location) error) (*Connector, error) {
	poolSet := opts.PoolSize > 0
	if err := opts.ensure(); err != nil {
		return nil, err
	}
	tlsConfig, err := opts.tlsConfig()
	if err != nil {
		return nil, err
	}
	c := &Connector{opts: opts, poolSet: poolSet, gone: make(chan struct{}), closed: make(chan struct{})}
	d := &dialer{network: "tcp", tls: tlsConfig, opts: &c.opts, password: readPassword(&c.opts), trust: trust,
		known: map[string]bool{opts.Hostname: true}, confirm: confirm}
	for _, addr := range opts.Addrs {
		host, _, _ := net.SplitHostPort(addr) // ensure has looked at it
		d.known[host] = true
	}
	switch {
	case opts.Cluster:
		c.router = newCluster(&c.opts, d)
	case opts.MasterName != "":
		c.router = newFailover(&c.opts, d)
	default:
		var addr string
		d.network, addr = c.opts.addr()
		c.router = fixed(addr)
	}
	c.pool = newPool(d, opts.PoolSize)
	if opts.Clear {
		c.made = newMade()
	}
	c.gate = gate.New()
	c.watches.byAddr = map[string]*post{}
	return c, nil
}

func wrap(op string, key connectors.Key, err error) error {
	return connectors.WrapError(op, kind, key, err)
}

func closedError(op string, key connectors.Key) error {
	return &connectors.OpError{Op: op, Kind: kind, Key: key, Err: connectors.ErrClosed}
}

// enter begins a call; without error the caller must call gate.Leave.
func (c *Connector) enter(ctx context.Context, op string, key connectors.Key) error {
	if !c.gate.Enter() {
		return closedError(op, key)
	}
	if err := ctx.Err(); err != nil {
		c.gate.Leave()
		return err
	}
	return nil
}

// start begins a call on a key; without error the caller must call gate.Leave.
func (c *Connector) start(ctx context.Context, op string, key connectors.Key) (string, error) {
	if err := c.enter(ctx, op, key); err != nil {
		return "", err
	}
	id, err := idOf(key)
	if err != nil {
		c.gate.Leave()
		return "", wrap(op, key, err)
	}
	return id, nil
}

// maxID bounds a key. ProxyStore's are UUIDs.
const maxID = 4 << 10

// idOf returns what the server knows the object by. Keys come in proxies from anywhere, together with the address of the server: one with line ends
// in it could speak another protocol to something that is no Redis.
func idOf(key connectors.Key) (string, error) {
	k, err := connectors.KeyAs[connectors.RedisKey](kind, key)
	if err != nil {
		return "", err
	}
	if len(k.RedisKey) > maxID || !printable(k.RedisKey) {
		return "", fmt.Errorf("%w: a redis key has at most %d bytes and no control characters", connectors.ErrInvalidKey, maxID)
	}
	return k.RedisKey, nil
}

// printable reports whether s is free of control characters.
func printable(s string) bool {
	return !strings.ContainsFunc(s, unicode.IsControl)
}

// exec runs fn on a connection to the server of id. fn sends and reads all its replies, and returns the first error; it runs again where the first
// time cannot have had an answer, so that what it does must be safe to do twice.
func (c *Connector) exec(ctx context.Context, id string, fn func(*conn) error) error {
	if err := c.pool.turn(ctx); err != nil {
		return err
	}
	defer c.pool.endTurn()
	addr, err := c.router.addr(ctx, id)
	if err != nil {
		return explain(err, "")
	}
	return c.execAt(ctx, &id, addr, fn)
}

// query runs a command whose one argument is id by exec; read reads the reply.
func (c *Connector) query(ctx context.Context, name, id string, read func(*conn) error) error {
	return c.exec(ctx, id, func(cn *conn) error {
		cn.command(2, name)
		cn.arg(id)
		if err := cn.flush(); err != nil {
			return err
		}
		return read(cn)
	})
}

// execAt is exec where the caller has a turn and knows the address. With a nil id it does not look for another server.
func (c *Connector) execAt(ctx context.Context, id *string, addr string, fn func(*conn) error) error {
	fresh, ask := false, false
	for hops := 0; ; hops++ {
		cn, reused, err := c.pool.get(ctx, addr, fresh)
		stale := false
		if err == nil {
			err = c.run(ctx, cn, ask, fn)
			stale = reused && !cn.got
			c.pool.put(cn)
		}
		if err == nil {
			return nil
		}
		if err := ended(ctx); err != nil {
			return err
		}
		next, again := c.next(ctx, id, addr, err, stale, &ask)
		if !again || hops == maxHops {
			return explain(err, addr)
		}
		fresh = stale && next == addr
		addr = next
	}
}

// next decides whether and where to try again after err.
func (c *Connector) next(ctx context.Context, id *string, addr string, err error, stale bool, ask *bool) (string, bool) {
	var se *serverError
	if errors.As(err, new(refused)) {
		return "", false
	}
	if errors.As(err, &se) {
		to, isAsk, ok := redirect(se, addr)
		if ok && c.opts.Cluster && id != nil {
			if !isAsk {
				c.router.doubt(ctx, addr)
			}
			*ask = isAsk
			return to, true
		}
		if se.code() != "READONLY" {
			return "", false
		}
	} else if errors.Is(err, connectors.ErrCorrupt) || errors.Is(err, connectors.ErrTooLarge) || errors.Is(err, connectors.ErrConfig) {
		return "", false
	} else if timedOut(err) {
		c.router.doubt(ctx, addr)
		return "", false // it took long enough already
	} else if stale {
		return addr, true // the server went away while the connection was idle; it may be back
	}
	// The server is gone, or is no master any more.
	c.router.doubt(ctx, addr)
	if id == nil {
		return "", false
	}
	to, err := c.router.addr(ctx, *id)
	*ask = false
	return to, err == nil && to != addr
}

// ended is ctx.Err, but does not wait for the timer of a deadline that has passed: the network may notice it first.
func ended(ctx context.Context) error {
	if d, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// run lets fn use cn, and ends it with ctx.
func (c *Connector) run(ctx context.Context, cn *conn, ask bool, fn func(*conn) error) error {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, cn.interrupt)
		defer func() {
			if !stop() {
				cn.broken = true
			}
		}()
	}
	cn.asking = ask
	return fn(cn)
}

// checkSize refuses an object that no server takes before anything is sent.
func (c *Connector) checkSize(n int64) error {
	if n > c.opts.MaxBytes {
		return fmt.Errorf("%w: %d bytes, and Redis takes %d (its proto-max-bulk-len, our option max_bytes); keep such objects in a file or endpoint "+
			"connector, or raise both", connectors.ErrTooLarge, n, c.opts.MaxBytes)
	}
	return nil
}

// writeSet adds a SET command.
func (c *Connector) writeSet(cn *conn, id string, obj transport.Slices) {
	if c.opts.TTL == 0 {
		cn.command(3, "SET")
	} else {
		cn.command(5, "SET")
	}
	cn.arg(id)
	cn.value(obj)
	c.writeTTL(cn)
}

// writeTTL adds the end of a SET command.
func (c *Connector) writeTTL(cn *conn) {
	if c.opts.TTL > 0 {
		cn.arg("PX")
		cn.number(c.opts.TTL.Milliseconds())
	}
}

// set stores an object. If new is true, nobody has a key to it unless set succeeds.
func (c *Connector) set(ctx context.Context, op string, key connectors.Key, id string, obj transport.Slices, new bool) error {
	if err := c.checkSize(obj.Len()); err != nil {
		return wrap(op, key, err)
	}
	c.made.add(id)
	return wrap(op, key, c.exec(ctx, id, func(cn *conn) error {
		c.writeSet(cn, id, obj)
		if err := cn.flush(); err != nil {
			return err
		}
		err := cn.status("OK")
		if new && cn.broken {
			cn.takeBack(id)
		}
		return err
	}))
}

// Put implements [connectors.Connector]. It copies nothing but small parts: large ones go to the socket from where they are.
func (c *Connector) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	if err := c.enter(ctx, "put", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	id := uuid4.New()
	if err := c.set(ctx, "put", nil, id, obj, true); err != nil {
		return nil, err
	}
	return connectors.RedisKey{RedisKey: id}, nil
}

// NewKey implements [connectors.Deferrer]. It asks nobody.
func (c *Connector) NewKey(ctx context.Context) (connectors.Key, error) {
	if err := c.enter(ctx, "new_key", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	return connectors.RedisKey{RedisKey: uuid4.New()}, nil
}

// Set implements [connectors.Deferrer]. If the connection is lost before any answer it may set twice, with other clients' Sets between.
func (c *Connector) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	id, err := c.start(ctx, "set", key)
	if err != nil {
		return err
	}
	defer c.gate.Leave()
	return c.set(ctx, "set", key, id, obj, false)
}

// missing is the error for an object that is not there.
func (c *Connector) missing(op string, key connectors.Key) error {
	return &connectors.OpError{Op: op, Kind: kind, Key: key, Err: fmt.Errorf("%w: it was evicted, expired, or is in another server or database",
		connectors.ErrNotFound)}
}

// Get implements [connectors.Connector]. A large object is in pooled memory: Release it, or it leaks; a small one is in the garbage collector's.
func (c *Connector) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	id, err := c.start(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	var b *transport.Buffer
	var found bool
	err = c.query(ctx, "GET", id, func(cn *conn) (err error) {
		b, found, err = cn.buffer(c.opts.MaxBytes)
		return err
	})
	if err != nil {
		return nil, wrap("get", key, err)
	}
	if !found {
		return nil, c.missing("get", key)
	}
	return b, nil
}

// count runs a command that has one key and answers with a number.
func (c *Connector) count(ctx context.Context, op, name string, key connectors.Key) (n int64, err error) {
	id, err := c.start(ctx, op, key)
	if err != nil {
		return 0, err
	}
	defer c.gate.Leave()
	err = c.query(ctx, name, id, func(cn *conn) (err error) {
		n, err = cn.int()
		return err
	})
	if err == nil && name == "DEL" {
		c.made.remove(id)
	}
	return n, wrap(op, key, err)
}

// Exists implements [connectors.Connector].
func (c *Connector) Exists(ctx context.Context, key connectors.Key) (bool, error) {
	n, err := c.count(ctx, "exists", "EXISTS", key)
	return n > 0, err
}

// Evict implements [connectors.Connector]. It is DEL for every size: UNLINK frees a string in the server's main thread as well.
func (c *Connector) Evict(ctx context.Context, key connectors.Key) error {
	_, err := c.count(ctx, "evict", "DEL", key)
	return err
}

// Config implements [connectors.Connector]. It has the passwords in it, if they were given as such.
func (c *Connector) Config() connectors.Config { return c.opts.config(c.poolSet) }

// Close implements [connectors.Connector]. See the package's "# Close".
func (c *Connector) Close(ctx context.Context) error {
	return c.shut(ctx, c.opts.Clear, c.opts.ClearAll)
}

// CloseClear implements [connectors.ClearCloser]: true deletes what Close would with Clear set, false nothing at all. A connector without Clear
// or ClearAll has not kept its keys, so that true is errors.ErrUnsupported there, and nothing is closed.
func (c *Connector) CloseClear(ctx context.Context, clear bool) error {
	if clear && c.made == nil && !c.opts.ClearAll {
		return fmt.Errorf("redis: clear at Close needs a connector that was opened with clear (which keeps its keys) or clear_all: %w",
			errors.ErrUnsupported)
	}
	return c.shut(ctx, clear && c.opts.Clear, clear && c.opts.ClearAll)
}

// shut closes c. If ctx ends while calls are in flight or objects are being deleted, it cuts them off and returns the context's error.
func (c *Connector) shut(ctx context.Context, clearMade, clearAll bool) (err error) {
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
	close(c.gone)
	c.gate.Shut()
	select {
	case <-c.gate.Drained():
	case <-ctx.Done():
		c.pool.end()
		<-c.gate.Drained()
		err = ctx.Err()
	}
	if err == nil && clearAll {
		err = c.flushAll(ctx)
	} else if err == nil && clearMade {
		err = c.evictMany(ctx, c.made.all())
	}
	c.pool.end()
	c.watches.wait()
	return wrap("close", nil, errors.Join(err, c.router.close()))
}

// flushAll deletes everything in the database, on each of a cluster's masters.
func (c *Connector) flushAll(ctx context.Context) error {
	addrs, err := c.masters(ctx)
	for _, addr := range addrs {
		err = errors.Join(err, c.execAt(ctx, nil, addr, func(cn *conn) error {
			cn.command(1, "FLUSHDB")
			if err := cn.flush(); err != nil {
				return err
			}
			return cn.status("OK")
		}))
	}
	return err
}

// made remembers the keys of the objects that a connector put. A nil made remembers nothing. UUIDs, which nearly all are, take 16 bytes.
type made struct {
	mu     sync.Mutex
	ids    map[uuid.UUID]struct{}
	others map[string]struct{}
}

func newMade() *made { return &made{ids: map[uuid.UUID]struct{}{}, others: map[string]struct{}{}} }

// asUUID returns an id as a UUID if that is its one spelling.
func asUUID(id string) (uuid.UUID, bool) {
	if len(id) != 36 {
		return uuid.UUID{}, false
	}
	u, err := uuid.Parse(id)
	return u, err == nil && u.String() == id
}

func (m *made) add(id string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if u, ok := asUUID(id); ok {
		m.ids[u] = struct{}{}
	} else {
		m.others[id] = struct{}{}
	}
}

func (m *made) remove(id string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if u, ok := asUUID(id); ok {
		delete(m.ids, u)
	} else {
		delete(m.others, id)
	}
}

func (m *made) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]string, 0, len(m.ids)+len(m.others))
	for u := range m.ids {
		ids = append(ids, u.String())
	}
	for id := range m.others {
		ids = append(ids, id)
	}
	return ids
}

// afterwards returns a context for taking back what a failed call has done: it does not end with the call's, and not late either.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
}
