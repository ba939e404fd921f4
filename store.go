package proxyplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/proxyplane/proxyplane/cache"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/all"
	"github.com/proxyplane/proxyplane/metrics"
	"github.com/proxyplane/proxyplane/serialize"
)

// Key names one object in one store. It is a [connectors.Key].
type Key = connectors.Key

// ErrNotFound is the error of getting an object that is not there: never put, or evicted.
var ErrNotFound = connectors.ErrNotFound

// ErrNotProxiable is the error of putting nil or a bool behind a proxy, which ProxyStore refuses as well.
var ErrNotProxiable = errors.New("not proxiable")

// defaultCacheBytes bounds the resolve cache of a store that was not told otherwise.
const defaultCacheBytes = 256 << 20

// A Store puts objects into a connector and gets them back, through a codec on one side and a cache on the other. All methods may be called
// from many goroutines at once.
type Store struct {
	name    string
	kind    string // of the keys, empty for a connector that nobody knows
	conn    connectors.Connector
	cfg     Config // without Connector, which the connector itself tells
	stores  *Stores
	drivers *connectors.Registry
	codecs  *serialize.Codecs
	cache   *cache.Cache
	metrics *metrics.StoreMetrics // nil if off
	log     *slog.Logger
	tracer  trace.Tracer // nil if off

	// identity is computed once: the canonical configurations by which a received proxy recognises this store, as Go and as Python write them.
	identity func() [2][]string

	received bool         // opened for a received proxy
	used     atomic.Int64 // by clock, if received

	closed  atomic.Bool
	closing sync.Once
	closeE  error
}

// An Option changes how a store works in this process. What travels is in Config; WithMetrics, WithPopulateTarget and WithRegister set fields of it.
type Option func(*storeOptions) error

type storeOptions struct {
	cfg        *Config
	cacheBytes int64
	codecs     *serialize.Codecs
	drivers    *connectors.Registry
	stores     *Stores
	log        *slog.Logger
	tracer     trace.Tracer
	wrap       []func(connectors.Connector) connectors.Connector
	received   bool
	confirm    func(connectors.Location) error
	secrets    func(kind string, c connectors.Config) map[string]any
}

// WithCacheBytes bounds the resolve cache to n bytes of objects; 0 turns it off. The default is 256 MiB, which file mappings do not occupy.
func WithCacheBytes(n int64) Option {
	return func(o *storeOptions) error {
		if n < 0 {
			return fmt.Errorf("%w: a cache of %d bytes", ErrConfig, n)
		}
		o.cacheBytes = n
		return nil
	}
}

// WithMetrics turns ProxyStore's metrics on; see [Store.Metrics].
func WithMetrics() Option {
	return func(o *storeOptions) error { o.cfg.Metrics = true; return nil }
}

// WithPopulateTarget says whether a proxy holds the value that it was made from, already resolved.
func WithPopulateTarget(on bool) Option {
	return func(o *storeOptions) error { o.cfg.PopulateTarget = on; return nil }
}

// WithRegister registers the store under its name, in the default Stores or those of [WithStores].
func WithRegister() Option {
	return func(o *storeOptions) error { o.cfg.AutoRegister = true; return nil }
}

// WithStores makes the store, and the proxies made from it, use these Stores instead of the process's default ones.
func WithStores(r *Stores) Option {
	return func(o *storeOptions) error { o.stores = r; return nil }
}

// WithCodecs sets the codecs. The default is serialize.Default, which a program may add its own codecs to.
func WithCodecs(c *serialize.Codecs) Option {
	return func(o *storeOptions) error { o.codecs = c; return nil }
}

// WithDrivers sets the registry that opens connectors. The default has every driver of this module.
func WithDrivers(r *connectors.Registry) Option {
	return func(o *storeOptions) error { o.drivers = r; return nil }
}

// WithLogger sets the logger: debug records for operations, warnings for what goes wrong where nobody is told. The default discards.
func WithLogger(l *slog.Logger) Option {
	return func(o *storeOptions) error { o.log = l; return nil }
}

// WithTracer makes an OpenTelemetry span of each operation. The default makes none.
func WithTracer(p trace.TracerProvider) Option {
	return func(o *storeOptions) error {
		o.tracer = p.Tracer("github.com/proxyplane/proxyplane")
		return nil
	}
}

// WithDecorator puts a layer (retry, observe, ...) around the connector. Later ones are further out.
func WithDecorator(wrap func(connectors.Connector) connectors.Connector) Option {
	return func(o *storeOptions) error { o.wrap = append(o.wrap, wrap); return nil }
}

func applyOptions(cfg *Config, opts []Option) (storeOptions, error) {
	o := storeOptions{cfg: cfg, cacheBytes: defaultCacheBytes}
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return o, err
		}
	}
	if o.stores == nil {
		o.stores = DefaultStores()
	}
	if o.drivers == nil {
		o.drivers = o.stores.drivers
	}
	if o.codecs == nil {
		o.codecs = serialize.Default
	}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Open opens the connector that cfg describes and returns a store on it.
func Open(ctx context.Context, cfg Config, opts ...Option) (*Store, error) {
	o, err := applyOptions(&cfg, opts)
	if err != nil {
		return nil, err
	}
	c, err := o.drivers.Open(ctx, cfg.Connector, &connectors.Env{Logger: o.log, Received: o.received, Confirm: o.confirm, Secrets: o.secrets})
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", cfg.Name, err)
	}
	s, err := newStore(cfg, c, o)
	if err != nil {
		return nil, errors.Join(err, connectors.CloseClear(context.WithoutCancel(ctx), c, false))
	}
	return s, nil
}

// NewStore returns a store on a connector that is open already. It takes c: closing the store closes it. An empty name means one made from
// the connector's configuration.
func NewStore(name string, c connectors.Connector, opts ...Option) (*Store, error) {
	cfg := NewConfig(name, c.Config())
	o, err := applyOptions(&cfg, opts)
	if err != nil {
		return nil, err
	}
	return newStore(cfg, c, o)
}

func newStore(cfg Config, c connectors.Connector, o storeOptions) (*Store, error) {
	for _, wrap := range o.wrap {
		c = wrap(c)
	}
	if cfg.Name == "" {
		var err error
		if cfg.Name, err = uniqueName(o.drivers, c.Config()); err != nil {
			return nil, err
		}
	}
	if cfg.CacheSize == 0 {
		o.cacheBytes = 0
	}
	rc, err := cache.New(o.cacheBytes)
	if err != nil {
		return nil, err
	}
	s := &Store{
		name: cfg.Name, kind: keyKind(c.Config().Kind), conn: c, cfg: cfg, stores: o.stores, drivers: o.drivers, codecs: o.codecs.For(o.stores), cache: rc, log: o.log,
		tracer: o.tracer,
	}
	s.identity = sync.OnceValue(s.identities)
	s.received = o.received
	s.touch()
	if cfg.Metrics {
		s.metrics = metrics.New(0)
	}
	if cfg.AutoRegister {
		if err := o.stores.Register(s); err != nil {
			rc.Close()
			return nil, err
		}
	}
	o.stores.track(s)
	s.log.Info("store opened", "store", s.name, "connector", c.Config().Kind)
	return s, nil
}

// Name returns the name by which Python finds the store.
func (s *Store) Name() string { return s.name }

// String names the store without its configuration, in which there may be secrets.
func (s *Store) String() string { return fmt.Sprintf("Store(%s, %s)", s.name, s.conn.Config().Kind) }

// Connector lends the connector, decorators included.
func (s *Store) Connector() connectors.Connector { return s.conn }

// Config returns what it takes to open an equal store elsewhere.
func (s *Store) Config() Config {
	c := s.cfg
	c.Connector = s.conn.Config()
	return c
}

// Metrics returns what was recorded, nil if metrics are off. A nil *StoreMetrics may be used and is empty.
func (s *Store) Metrics() *metrics.StoreMetrics { return s.metrics }

// CacheStats tells how the resolve cache does.
func (s *Store) CacheStats() cache.Stats { return s.cache.Stats() }

// Close closes the store and its connector, and unregisters the store if it registered itself. What Close does to stored objects is the
// connector's configured clear. Values and views handed out stay valid. A second Close returns what the first did.
func (s *Store) Close(ctx context.Context) error {
	return s.close(func() error { return s.conn.Close(ctx) })
}

// CloseClear is Close that deletes the stored objects if clear is true and keeps them otherwise, whatever the configuration says.
func (s *Store) CloseClear(ctx context.Context, clear bool) error {
	return s.close(func() error { return connectors.CloseClear(ctx, s.conn, clear) })
}

func (s *Store) close(closeConnector func() error) error {
	s.closing.Do(func() {
		s.closed.Store(true)
		s.stores.forget(s)
		s.closeE = closeConnector()
		s.cache.Close()
		s.log.Info("store closed", "store", s.name, "error", s.closeE)
	})
	return s.closeE
}

// identities returns the canonical forms of this store's connector as a proxy could carry them, written by Go and written for Python: with all
// options as the connector tells them, and with those that it was opened with.
func (s *Store) identities() (ids [2][]string) {
	for form, python := range []bool{false, true} {
		for _, cfg := range []connectors.Config{s.conn.Config(), s.cfg.Connector} {
			if id := travellingForm(s.drivers, cfg, python); id != "" {
				ids[form] = append(ids[form], id)
			}
		}
	}
	return ids
}

// travellingForm returns what identifies a configuration as Go or as Python sees it, empty for one that cannot travel so.
func travellingForm(drivers *connectors.Registry, cfg connectors.Config, python bool) string {
	c, err := drivers.Travelling(cfg, python)
	if err != nil {
		return ""
	}
	id, err := c.Canonical()
	if err != nil {
		return ""
	}
	return string(id)
}

// keyKind returns the short kind of a connector's keys, empty if it is none of the known ones.
func keyKind(kind string) string {
	k, _ := connectors.LookupKind(kind)
	return k.Kind
}

// traced reports whether somebody records operations, so that shortcuts must not leave any out.
func (s *Store) traced() bool { return s.tracer != nil || s.metrics != nil }

// operation is one timed call: metrics, a span and a debug record. Its zero cost when all three are off matters: a cached get takes some tens
// of nanoseconds.
type operation struct {
	s     *Store
	name  string
	start time.Time
	span  trace.Span
}

// begin starts an operation. ctx carries the span, if any.
func (s *Store) begin(ctx context.Context, name string) (context.Context, operation) {
	op := operation{s: s, name: name}
	if s.traced() || s.log.Enabled(ctx, slog.LevelDebug) {
		op.start = time.Now()
	}
	if s.tracer != nil {
		ctx, op.span = s.tracer.Start(ctx, "proxyplane."+name, trace.WithAttributes(
			attribute.String("proxyplane.store", s.name), attribute.String("proxyplane.connector", s.cfg.Connector.Kind)))
	}
	return ctx, op
}

// end finishes an operation on a key, which may be nil. size is the object's bytes, negative if unknown.
func (op *operation) end(ctx context.Context, key Key, size int64, err error) {
	if op.start.IsZero() {
		return
	}
	took := time.Since(op.start)
	if op.s.metrics != nil && err == nil && key != nil {
		op.s.metrics.AddTime(op.name, key.Identity(), took)
	}
	if op.span != nil {
		if key != nil {
			op.span.SetAttributes(attribute.String("proxyplane.key", connectors.FormatKey(key)))
		}
		if size >= 0 {
			op.span.SetAttributes(attribute.Int64("proxyplane.size", size))
		}
		if err != nil {
			op.span.RecordError(err)
			op.span.SetStatus(codes.Error, err.Error())
		}
		op.span.End()
	}
	if op.s.log.Enabled(ctx, slog.LevelDebug) {
		op.s.log.DebugContext(ctx, op.name, "store", op.s.name, "key", logKey{key}, "size", size, "took", took, "error", err)
	}
}

// logKey formats a key only if the record is written.
type logKey struct{ key Key }

func (k logKey) LogValue() slog.Value { return slog.StringValue(connectors.FormatKey(k.key)) }

// stage times one part of an operation for the metrics.
func (s *Store) stage(name string, key Key, start time.Time) {
	if s.metrics != nil && key != nil {
		s.metrics.AddTime(name, key.Identity(), time.Since(start))
	}
}

// size notes an object's size for the metrics. When they are off it costs neither the key's identity nor the boxed number.
func (s *Store) size(name string, key Key, n int64) {
	if s.metrics != nil {
		s.metrics.AddAttribute(name, key.Identity(), n)
	}
}

// now is time.Now if somebody will look at it.
func (s *Store) now() time.Time {
	if s.metrics == nil {
		return time.Time{}
	}
	return time.Now()
}

var defaultDrivers = sync.OnceValue(all.Registry)
