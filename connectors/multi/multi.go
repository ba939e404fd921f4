package multi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/gate"
	"github.com/proxyplane/proxyplane/transport"
)

// ErrDormant is the error for a key of a child that is only open on other hosts. It comes with [connectors.ErrInvalidKey]: trying again does not
// help.
var ErrDormant = errors.New("its connector is dormant on this host")

// Child is one of the connectors and what it is for.
type Child struct {
	Connector connectors.Connector
	Policy    Policy
}

// Option changes how New makes a Connector, for this process only: it does not travel.
type Option func(*Connector) error

// WithHostname sets the name that host patterns are matched against. The default is the operating system's.
func WithHostname(name string) Option {
	return func(m *Connector) error {
		m.hostname = name
		return nil
	}
}

// Connector is a connectors.Connector over several others, with every capability. It may be used by many goroutines at once.
type Connector struct {
	hostname string
	children map[string]*child
	order    []*child // by priority
	dormant  map[string]dormant

	calls    *gate.Gate
	closing  context.Context // done when Close begins; ends waits
	beginEnd context.CancelCauseFunc
	closed   chan struct{} // closed when Close has finished, and no child is open
	late     error         // what closing children went wrong after Close had given up; to be read once closed is
}

// dormant is a child for other hosts.
type dormant struct {
	raw    any // its configuration, word for word
	policy Policy
}

// child is a connector, open or to be opened.
type child struct {
	name    string
	policy  Policy
	onHost  bool
	class   connectors.Class                                        // of its keys; zero if unknown
	raw     any                                                     // its configuration, if it is opened on demand
	open    func(ctx context.Context) (connectors.Connector, error) // nil if it is open from the start
	opening chan struct{}                                           // a lock that gives way to ctx
	ended   atomic.Bool                                             // it must not be opened any more
	conn    atomic.Pointer[connectors.Connector]
}

// New returns a Connector over children, by name. It takes the children's connectors: Close closes them. On error they stay the caller's. A child
// whose host pattern does not match serves its keys but gets no new objects, as in Python.
func New(children map[string]Child, opts ...Option) (*Connector, error) {
	m, err := newConnector(opts...)
	if err != nil {
		return nil, err
	}
	for name, c := range children {
		if c.Connector == nil {
			return nil, fmt.Errorf("%w: child %q has no connector", connectors.ErrConfig, name)
		}
		on, err := c.Policy.ValidOnHost(m.hostname)
		if err != nil {
			return nil, fmt.Errorf("child %q: %w", name, err)
		}
		ch := &child{name: name, policy: c.Policy, onHost: on, class: keyClass(c.Connector.Config().Kind)}
		ch.policy.HostPattern = slices.Clone(c.Policy.HostPattern)
		ch.policy.SubsetTags, ch.policy.SupersetTags = slices.Clone(c.Policy.SubsetTags), slices.Clone(c.Policy.SupersetTags)
		ch.conn.Store(&c.Connector)
		m.children[name] = ch
	}
	return m, m.ready()
}

func newConnector(opts ...Option) (*Connector, error) {
	m := &Connector{children: map[string]*child{}, dormant: map[string]dormant{}, closed: make(chan struct{})}
	m.calls = gate.New()
	m.closing, m.beginEnd = context.WithCancelCause(context.Background())
	for _, o := range opts {
		if err := o(m); err != nil {
			return nil, err
		}
	}
	if m.hostname == "" {
		var err error
		if m.hostname, err = hostname(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// hostname returns what Python's proxystore.utils.hostname does.
func hostname() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("%w: the host name, for host patterns: %v", connectors.ErrConfig, err)
	}
	return name, nil
}

// ready checks and sorts the children once they are all there.
func (m *Connector) ready() error {
	if len(m.children)+len(m.dormant) == 0 {
		return fmt.Errorf("%w: a multi connector needs at least one child", connectors.ErrConfig)
	}
	m.order = slices.SortedFunc(maps.Values(m.children), func(a, b *child) int {
		return cmp.Or(cmp.Compare(b.policy.Priority, a.policy.Priority), strings.Compare(a.name, b.name))
	})
	return nil
}

// keyClass returns the class of the keys that a kind of connector makes, or zero if the kind is not one of ProxyStore's.
func keyClass(kind string) connectors.Class {
	known, _ := connectors.LookupKind(kind)
	return known.KeyClass
}

// get returns the child's connector, opening it if it was not needed so far. A failure is not remembered.
func (c *child) get(ctx context.Context) (connectors.Connector, error) {
	if p := c.conn.Load(); p != nil {
		return *p, nil
	}
	select {
	case c.opening <- struct{}{}:
		defer func() { <-c.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if p := c.conn.Load(); p != nil {
		return *p, nil
	}
	if c.ended.Load() {
		return nil, connectors.ErrClosed
	}
	conn, err := c.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening child %q: %w", c.name, err)
	}
	c.conn.Store(&conn)
	return conn, nil
}

// orEmpty makes of no options an empty dict, which is what Python needs to see.
func orEmpty(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

// route returns the child for a new object. As with Python's put, tags that are not given count as none, so that a child with superset tags is
// never chosen by accident.
func (m *Connector) route(size int64, tags connectors.Tags) (*child, error) {
	if tags.Superset == nil {
		tags.Superset = []string{}
	}
	for _, c := range m.order {
		if c.onHost && c.policy.Valid(size, tags) {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%w: %d bytes, subset tags %q, superset tags %q; %s", connectors.ErrNoPolicy, size, tags.Subset, tags.Superset,
		m.describe())
}

// describe lists the policies for messages.
func (m *Connector) describe() string {
	var parts []string
	for _, c := range m.order {
		s := fmt.Sprintf("child %q takes %d to %d bytes", c.name, c.policy.MinSizeBytes, c.policy.maxSize())
		if len(c.policy.SubsetTags)+len(c.policy.SupersetTags) > 0 {
			s += fmt.Sprintf(" with subset tags %q and superset tags %q", c.policy.SubsetTags, c.policy.SupersetTags)
		}
		if !c.onHost {
			s += fmt.Sprintf(" on hosts %q (this is %q)", c.policy.HostPattern, m.hostname)
		}
		parts = append(parts, s)
	}
	for _, name := range slices.Sorted(maps.Keys(m.dormant)) {
		parts = append(parts, fmt.Sprintf("child %q is dormant on this host", name))
	}
	return strings.Join(parts, "; ")
}

// unsized returns the children for objects whose size is not known yet, best first: those without an upper limit.
func (m *Connector) unsized() []*child {
	var list []*child
	for _, c := range m.order {
		if c.onHost && c.policy.maxSize() == math.MaxInt64 && len(c.policy.SupersetTags) == 0 {
			list = append(list, c)
		}
	}
	return list
}

// owner returns the child that a key belongs to and the child's own key.
func (m *Connector) owner(key connectors.Key) (*child, connectors.Key, error) {
	k, err := connectors.KeyAs[connectors.MultiKey]("multi", key)
	if err != nil {
		return nil, nil, err
	}
	c, ok := m.children[k.ConnectorName]
	if !ok {
		if d, ok := m.dormant[k.ConnectorName]; ok {
			return nil, nil, fmt.Errorf("%w: %w: child %q is for hosts %q, and this is %q", connectors.ErrInvalidKey, ErrDormant, k.ConnectorName,
				d.policy.HostPattern, m.hostname)
		}
		names := append(slices.Collect(maps.Keys(m.children)), slices.Collect(maps.Keys(m.dormant))...)
		slices.Sort(names)
		return nil, nil, fmt.Errorf("%w: no child %.200q; there are %q", connectors.ErrInvalidKey, k.ConnectorName, names)
	}
	if k.ConnectorKey == nil || c.class != (connectors.Class{}) && c.class != k.ConnectorKey.Class() {
		return nil, nil, fmt.Errorf("%w: child %q needs a %s, not %s", connectors.ErrInvalidKey, c.name, c.class.Name,
			connectors.FormatKey(k.ConnectorKey))
	}
	return c, k.ConnectorKey, nil
}

// onKey runs f with the child's connector and key. It is the frame of every call on one key.
func onKey[T any](ctx context.Context, m *Connector, op string, key connectors.Key,
	f func(c connectors.Connector, key connectors.Key) (T, error)) (T, error) {
	var none T
	if !m.calls.Enter() {
		return none, connectors.WrapError(op, "multi", key, connectors.ErrClosed)
	}
	defer m.calls.Leave()
	c, inner, err := m.owner(key)
	if err != nil {
		return none, connectors.WrapError(op, "multi", key, err)
	}
	conn, err := c.get(ctx)
	if err != nil {
		return none, connectors.WrapError(op, "multi", key, err)
	}
	t, err := f(conn, inner)
	if err != nil {
		return none, connectors.WrapError(op, "multi", key, err)
	}
	return t, nil
}

// nothing is the result of a call that returns only an error.
type nothing struct{}

// Put implements connectors.Connector. An object that no policy takes is [connectors.ErrNoPolicy].
func (m *Connector) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	return m.put(ctx, obj, connectors.Tags{})
}

// PutTagged implements connectors.Tagger.
func (m *Connector) PutTagged(ctx context.Context, obj transport.Slices, tags connectors.Tags) (connectors.Key, error) {
	return m.put(ctx, obj, tags)
}

func (m *Connector) put(ctx context.Context, obj transport.Slices, tags connectors.Tags) (connectors.Key, error) {
	if !m.calls.Enter() {
		return nil, connectors.WrapError("put", "multi", nil, connectors.ErrClosed)
	}
	defer m.calls.Leave()
	c, err := m.route(obj.Len(), tags)
	if err != nil {
		return nil, connectors.WrapError("put", "multi", nil, err)
	}
	conn, err := c.get(ctx)
	if err != nil {
		return nil, connectors.WrapError("put", "multi", nil, err)
	}
	k, err := conn.Put(ctx, obj)
	return c.key("put", k, err)
}

// key returns the key for an object of the child, or the child's error.
func (c *child) key(op string, inner connectors.Key, err error) (connectors.Key, error) {
	if err != nil {
		return nil, connectors.WrapError(op, "multi", nil, err)
	}
	return connectors.MultiKey{ConnectorName: c.name, ConnectorKey: inner}, nil
}

// Get implements connectors.Connector.
func (m *Connector) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	return onKey(ctx, m, "get", key, func(c connectors.Connector, k connectors.Key) (*transport.Buffer, error) { return c.Get(ctx, k) })
}

// Exists implements connectors.Connector.
func (m *Connector) Exists(ctx context.Context, key connectors.Key) (bool, error) {
	return onKey(ctx, m, "exists", key, func(c connectors.Connector, k connectors.Key) (bool, error) { return c.Exists(ctx, k) })
}

// Evict implements connectors.Connector.
func (m *Connector) Evict(ctx context.Context, key connectors.Key) error {
	_, err := onKey(ctx, m, "evict", key, func(c connectors.Connector, k connectors.Key) (nothing, error) { return nothing{}, c.Evict(ctx, k) })
	return err
}

// Config implements connectors.Connector: MultiConnector.config(), dormant children included.
func (m *Connector) Config() connectors.Config {
	opts := make(map[string]any, len(m.children)+len(m.dormant))
	for name, d := range m.dormant {
		opts[name] = d.raw
	}
	for name, c := range m.children {
		if c.open != nil {
			opts[name] = c.raw // whether it is open by now must not show
		}
	}
	cfg := connectors.Config{Kind: class.String(), Options: opts}.Clone()
	for name, c := range m.children {
		if c.open == nil {
			inner := (*c.conn.Load()).Config()
			cfg.Options[name] = []any{inner.Kind, orEmpty(inner.Options), c.policy.options()}
		}
	}
	return cfg
}

// Close implements connectors.Connector. It closes every open child even if one fails, and returns all their errors. Waits end with
// [connectors.ErrClosed]; other calls in flight are waited for as long as ctx lives. A child that one of them is still opening then is closed as soon
// as it is open; another Close waits for that.
func (m *Connector) Close(ctx context.Context) error {
	return m.close(ctx, false, func(ctx context.Context, conn connectors.Connector) error { return conn.Close(ctx) })
}

// CloseClear implements connectors.ClearCloser. To clear, children that were not opened so far are opened. A child that cannot delete its objects
// is closed all the same, and named in the error.
func (m *Connector) CloseClear(ctx context.Context, clear bool) error {
	return m.close(ctx, clear, func(ctx context.Context, conn connectors.Connector) error {
		err := connectors.CloseClear(ctx, conn, clear)
		if errors.Is(err, errors.ErrUnsupported) {
			// Not wrapped: the caller would take it for "this connector cannot clear", and try to close again what is closed.
			err = errors.Join(fmt.Errorf("objects are kept: %v", err), conn.Close(ctx))
		}
		return err
	})
}

// close ends the connector and then every child that is open, or every child at all.
func (m *Connector) close(ctx context.Context, all bool, end func(context.Context, connectors.Connector) error) error {
	if !m.calls.Shut() {
		select { // another Close is at it, or has been
		case <-m.closed:
			return connectors.WrapError("close", "multi", nil, m.late)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.beginEnd(connectors.ErrClosed)
	var errs []error
	select {
	case <-m.calls.Drained():
	case <-ctx.Done():
		errs = append(errs, ctx.Err()) // the children drain their own calls
	}
	var late []*child
	for _, c := range m.order {
		opening, err := c.close(ctx, all, end)
		if opening {
			late = append(late, c)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("closing child %q: %w", c.name, err))
		}
	}
	if len(late) == 0 {
		close(m.closed)
	} else {
		go m.closeLate(context.WithoutCancel(ctx), late, end)
	}
	return connectors.WrapError("close", "multi", nil, errors.Join(errs...))
}

// close ends the child if it is open, or opens it to end it. It reports whether a call that Close could not wait for is opening it just now.
func (c *child) close(ctx context.Context, open bool, end func(context.Context, connectors.Connector) error) (opening bool, err error) {
	if open {
		_, err = c.get(ctx)
	}
	c.ended.Store(true)
	if p := c.conn.Load(); p != nil {
		return false, end(ctx, *p)
	}
	select {
	case c.opening <- struct{}{}:
		defer func() { <-c.opening }()
	default:
		return true, errors.Join(err, errors.New("a call is still opening it; it is closed then"))
	}
	if p := c.conn.Load(); p != nil { // opened between the two looks
		return false, end(ctx, *p)
	}
	return false, err
}

// closeLate ends the children that were being opened when Close gave up.
func (m *Connector) closeLate(ctx context.Context, late []*child, end func(context.Context, connectors.Connector) error) {
	defer close(m.closed)
	var errs []error
	for _, c := range late {
		c.opening <- struct{}{}
		if p := c.conn.Load(); p != nil {
			if err := end(ctx, *p); err != nil {
				errs = append(errs, fmt.Errorf("closing child %q: %w", c.name, err))
			}
		}
		<-c.opening
	}
	m.late = errors.Join(errs...)
}
