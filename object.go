package proxyplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/cache"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/metrics"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// A PutOption changes one put.
type PutOption func(*putOptions)

type putOptions struct {
	tags     connectors.Tags
	lifetime Lifetime
	evict    bool
	format   serialize.Format
	raw      bool
	populate *bool
}

// Tags constrains where a multi connector puts the object: its subset_tags and superset_tags.
func Tags(subset, superset []string) PutOption {
	return func(o *putOptions) { o.tags = connectors.Tags{Subset: subset, Superset: superset} }
}

// InLifetime evicts the object when the lifetime ends.
func InLifetime(l Lifetime) PutOption { return func(o *putOptions) { o.lifetime = l } }

// Evict makes the proxy evict its object once resolved. It excludes InLifetime.
func Evict() PutOption { return func(o *putOptions) { o.evict = true } }

// As writes the object in another version's format, for readers with ProxyStore 0.6.5.
func As(f serialize.Format) PutOption { return func(o *putOptions) { o.format = f } }

// Raw puts a value of type []byte or transport.Slices as the whole object, which must be encoded already.
func Raw() PutOption { return func(o *putOptions) { o.raw = true } }

// Populate overrides the store's PopulateTarget for one proxy.
func Populate(on bool) PutOption { return func(o *putOptions) { o.populate = &on } }

// putOpts applies options. Without any it does not allocate, which the pointer that options take would.
func putOpts(opts []PutOption) putOptions {
	if len(opts) == 0 {
		return putOptions{}
	}
	var o putOptions
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// encode returns v as an object. Large bytes are borrowed from v.
func (s *Store) encode(v any, o putOptions) (transport.Slices, error) {
	if !o.raw {
		return s.codecs.EncodeFormat(v, o.format)
	}
	switch v := v.(type) {
	case []byte:
		return transport.Slices{v}, nil
	case transport.Slices:
		return v, nil
	}
	return nil, fmt.Errorf("%w: Raw takes []byte or transport.Slices, not %T", serialize.ErrType, v)
}

// Put stores v under a new key. It borrows v until it returns.
func (s *Store) Put(ctx context.Context, v any, opts ...PutOption) (Key, error) {
	o := putOpts(opts)
	ctx, op := s.begin(ctx, metrics.Put)
	start := s.now()
	obj, err := s.encode(v, o)
	if err != nil {
		op.end(ctx, nil, -1, err)
		return nil, err
	}
	encoded := s.now()
	key, err := connectors.PutTagged(ctx, s.conn, obj, o.tags)
	if s.metrics != nil && err == nil {
		id := key.Identity()
		s.metrics.AddTime(metrics.PutSerialize, id, encoded.Sub(start))
		s.metrics.AddTime(metrics.PutConnector, id, time.Since(encoded))
		s.metrics.AddAttribute(metrics.PutObjectSize, id, obj.Len())
	}
	if err == nil && o.lifetime != nil {
		err = s.attach(ctx, o.lifetime, key)
	}
	op.end(ctx, key, obj.Len(), err)
	if err != nil {
		return nil, err
	}
	return key, nil
}

// attach hands keys to a lifetime; keys that it no longer takes must not outlive the failed call.
func (s *Store) attach(ctx context.Context, l Lifetime, keys ...Key) error {
	if err := l.Add(s, keys...); err != nil {
		return errors.Join(err, s.evictAll(context.WithoutCancel(ctx), keys))
	}
	return nil
}

// PutBatch stores many values at once and returns their keys in order. It borrows them. On error nothing of the batch stays behind.
func (s *Store) PutBatch(ctx context.Context, values []any, opts ...PutOption) ([]Key, error) {
	o := putOpts(opts)
	ctx, op := s.begin(ctx, metrics.PutBatch)
	start := s.now()
	objs := make([]transport.Slices, len(values))
	var size int64
	for i, v := range values {
		obj, err := s.encode(v, o)
		if err != nil {
			op.end(ctx, nil, -1, err)
			return nil, fmt.Errorf("value %d of the batch: %w", i, err)
		}
		objs[i] = obj
		size += obj.Len()
	}
	encoded := s.now()
	keys, err := s.putBatch(ctx, objs, o.tags)
	if err == nil && o.lifetime != nil {
		err = s.attach(ctx, o.lifetime, keys...)
	}
	if err != nil {
		op.end(ctx, nil, size, err)
		return nil, err
	}
	if s.metrics != nil {
		id := keysID(keys)
		s.metrics.AddTime(metrics.PutBatchSerialize, id, encoded.Sub(start))
		s.metrics.AddTime(metrics.PutBatchConnector, id, time.Since(encoded))
		s.metrics.AddAttribute(metrics.PutBatchObjectSizes, id, size)
		s.metrics.AddTime(metrics.PutBatch, id, time.Since(start))
	}
	op.end(ctx, nil, size, nil)
	return keys, nil
}

func (s *Store) putBatch(ctx context.Context, objs []transport.Slices, tags connectors.Tags) ([]Key, error) {
	if tags.Subset == nil && tags.Superset == nil {
		return connectors.PutBatch(ctx, s.conn, objs)
	}
	keys := make([]Key, 0, len(objs))
	for _, obj := range objs {
		k, err := connectors.PutTagged(ctx, s.conn, obj, tags)
		if err != nil {
			return nil, errors.Join(err, connectors.EvictBatch(context.WithoutCancel(ctx), s.conn, keys))
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func keysID(keys []Key) string {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.Identity()
	}
	return metrics.KeyOf(ids)
}

// Get returns the object in its natural Go form; see [Get] for a form of your choice.
func (s *Store) Get(ctx context.Context, key Key) (any, error) { return Get[any](ctx, s, key) }

// isView reports whether T stands on the connector's memory or counts references of its own (an arrow table), so that each caller needs one for
// itself and no value is shared.
func isView[T any]() bool {
	switch any((*T)(nil)).(type) {
	case *[]byte, *string, *any:
		return false
	case **transport.Buffer, **serialize.Array, **serialize.Opaque:
		return true
	}
	t := reflect.TypeFor[T]()
	view, ok := views.Load(t)
	if !ok {
		view, _ = views.LoadOrStore(t, t.Implements(releaserType))
	}
	return view.(bool)
}

// releaser is a value that counts references.
type releaser interface{ Release() }

var (
	releaserType = reflect.TypeFor[releaser]()
	views        sync.Map // reflect.Type to whether it is a releaser; asking reflection each time costs more than a cached get
)

// Get returns the object of a key as a T: from the cache, or from the connector, which concurrent callers share. The package comment says who
// owns what. A missing object is [ErrNotFound]; an object that is no T is serialize.ErrType.
func Get[T any](ctx context.Context, s *Store, key Key) (T, error) {
	var none T
	if err := s.checkKey(key); err != nil {
		return none, err
	}
	if s.closed.Load() {
		return none, fmt.Errorf("get from store %s: %w", s.name, connectors.ErrClosed)
	}
	ctx, op := s.begin(ctx, metrics.Get)
	v, size, err := get[T](ctx, s, key)
	op.end(ctx, key, size, err)
	return v, err
}

func get[T any](ctx context.Context, s *Store, key Key) (v T, size int64, err error) {
	if isView[T]() {
		obj, err := s.object(ctx, key)
		if err != nil {
			return v, -1, err
		}
		defer obj.Release()
		v, err = decode[T](s, key, obj)
		return v, int64(obj.Len()), err
	}
	t, err := valueOf[T](ctx, s, key)
	if err != nil {
		return v, -1, err
	}
	return t.v, t.size, nil
}

// errPrivate is the error of a fetch whose value must not be shared: each caller decodes one for itself.
var errPrivate = errors.New("value counts references")

// valueOf returns an object's value through the cache. T is no view.
func valueOf[T any](ctx context.Context, s *Store, key Key) (*target[T], error) {
	id := key.Identity()
	for range 3 {
		if t := cached[T](s, key); t != nil {
			return t, nil
		}
		mine := false
		e, err := s.cache.FetchMissed(ctx, id, func(ctx context.Context) (cache.Entry, error) {
			mine = true
			t, err := load[T](ctx, s, key)
			switch {
			case err != nil:
				return cache.Entry{}, err
			case counts(t.v):
				any(t.v).(releaser).Release()
				return cache.Entry{}, errPrivate
			}
			return cache.Entry{Value: t, Size: t.cost()}, nil
		})
		s.metrics.AddCounter(metrics.CacheMisses, id, 1)
		if errors.Is(err, errPrivate) || err != nil && !mine && errors.Is(err, serialize.ErrType) {
			return load[T](ctx, s, key) // what did not fit somebody else's type may fit ours
		}
		if err != nil {
			return nil, err
		}
		e.Buf.Release()
		if t, ok := e.Value.(*target[T]); ok {
			return t, nil
		}
		// It is cached, or was just fetched, as another type. Only one is kept: ours from now on.
		s.cache.Evict(id)
	}
	return load[T](ctx, s, key) // two types that take turns; neither need be cached
}

// counts reports whether a value that was got as an any counts references. Those over static memory only look so.
func counts(v any) bool {
	switch v.(type) {
	case *serialize.Array, *serialize.Opaque:
		return false
	}
	_, ok := v.(releaser)
	return ok
}

// cost returns what a value occupies in the cache: decoded pickles are several times as large as their bytes.
func (t *target[T]) cost() int64 {
	switch any(t.v).(type) {
	case []byte, string, *serialize.Array, *serialize.Opaque:
		return t.size
	}
	return 6 * t.size
}

// cached returns an object's value if the cache has it as a T, else nil. What it holds as another type is another value: Get[any] must not
// return what Get[MyStruct] cached.
func cached[T any](s *Store, key Key) *target[T] {
	id := key.Identity()
	e, ok := s.cache.Get(id)
	if !ok {
		return nil
	}
	e.Buf.Release()
	t, ok := e.Value.(*target[T])
	if ok {
		s.metrics.AddCounter(metrics.CacheHits, id, 1)
	}
	return t
}

// object returns the whole object, tag included, through the cache. The caller owns the Buffer.
func (s *Store) object(ctx context.Context, key Key) (*transport.Buffer, error) {
	id := key.Identity()
	fetch := func(ctx context.Context) (cache.Entry, error) {
		start := s.now()
		buf, err := connectors.Map(ctx, s.conn, key)
		if err != nil {
			return cache.Entry{}, err
		}
		s.stage(metrics.GetConnector, key, start)
		s.size(metrics.GetObjectSize, key, int64(buf.Len()))
		return cache.Entry{Buf: buf, Size: int64(buf.Len())}, nil
	}
	for range 3 {
		if e, ok := s.cache.Get(id); ok && e.Buf != nil {
			s.metrics.AddCounter(metrics.CacheHits, id, 1)
			return e.Buf, nil
		}
		mine := false
		e, err := s.cache.FetchMissed(ctx, id, func(ctx context.Context) (cache.Entry, error) {
			mine = true
			return fetch(ctx)
		})
		s.metrics.AddCounter(metrics.CacheMisses, id, 1)
		if err != nil && !mine && (errors.Is(err, serialize.ErrType) || errors.Is(err, errPrivate)) {
			break // somebody else's decoding failed, not the fetch
		}
		if err != nil || e.Buf != nil {
			return e.Buf, err
		}
		s.cache.Evict(id) // it is cached as a value; see valueOf
	}
	e, err := fetch(ctx)
	return e.Buf, err
}

// load gets an object from the connector and decodes it into a value.
func load[T any](ctx context.Context, s *Store, key Key) (*target[T], error) {
	start := s.now()
	obj, err := connectors.GetBytes(ctx, s.conn, key)
	if err != nil {
		return nil, err
	}
	s.stage(metrics.GetConnector, key, start)
	return valueIn[T](s, key, obj)
}

// valueIn decodes an object in memory that the garbage collector owns.
func valueIn[T any](s *Store, key Key, obj []byte) (*target[T], error) {
	start := s.now()
	v, err := decode[T](s, key, transport.Static(obj)) // arrays in v are shared by all who get it, and need no Release
	if err != nil {
		return nil, err
	}
	s.stage(metrics.GetDeserialize, key, start)
	s.size(metrics.GetObjectSize, key, int64(len(obj)))
	return &target[T]{v: v, size: int64(len(obj))}, nil
}

// decode makes a T of an object. It borrows obj; views hold a reference of their own.
func decode[T any](s *Store, key Key, obj *transport.Buffer) (T, error) {
	v, err := serialize.DecodeAs[T](s.codecs, obj)
	if err != nil {
		err = fmt.Errorf("store %s: object %s: %w", s.name, connectors.FormatKey(key), err)
	}
	return v, err
}

// GetBatch returns the objects of many keys in their natural form, in order; the errors of missing ones are joined, with nil in their place.
func (s *Store) GetBatch(ctx context.Context, keys []Key) ([]any, error) {
	return GetBatch[any](ctx, s, keys)
}

// GetBatch returns the objects of many keys as Ts, in order. Objects that are cached are not fetched again; what is fetched is not cached, since it
// would be a moment old. If any is missing or no T, its place holds the zero T and the error tells of each; the others are valid all the same, and
// views among them must be released.
func GetBatch[T any](ctx context.Context, s *Store, keys []Key) ([]T, error) {
	values := make([]T, len(keys))
	var missing []int
	for i, k := range keys {
		if err := s.checkKey(k); err != nil {
			return nil, fmt.Errorf("key %d of the batch: %w", i, err)
		}
		if !s.cache.Has(k.Identity()) {
			missing = append(missing, i)
		}
	}
	want := make([]Key, len(missing))
	for j, i := range missing {
		want[j] = keys[i]
	}
	fetched := map[int]*transport.Buffer{}
	if len(want) > 0 {
		bufs, err := connectors.GetBatch(ctx, s.conn, want)
		if err != nil {
			return nil, err
		}
		for j, i := range missing {
			fetched[i] = bufs[j]
		}
	}
	var errs []error
	for i, k := range keys {
		var err error
		if buf, ok := fetched[i]; ok {
			values[i], err = decodeFetched[T](s, k, buf)
		} else {
			values[i], err = Get[T](ctx, s, k)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("key %d of the batch, %s: %w", i, connectors.FormatKey(k), err))
		}
	}
	return values, errors.Join(errs...)
}

// decodeFetched decodes a fetched object. It takes buf, which is nil for a missing object.
func decodeFetched[T any](s *Store, key Key, buf *transport.Buffer) (v T, err error) {
	if buf == nil {
		return v, ErrNotFound
	}
	if isView[T]() {
		defer buf.Release()
		return decode[T](s, key, buf)
	}
	t, err := valueIn[T](s, key, buf.Detach())
	if err != nil {
		return v, err
	}
	return t.v, nil
}

// GetObject returns the whole object as it is stored, tag included, past cache and codecs. The caller owns the Buffer.
func (s *Store) GetObject(ctx context.Context, key Key) (*transport.Buffer, error) {
	return connectors.Map(ctx, s.conn, key)
}

// Exists reports whether the object is there now, in the cache or in the connector.
func (s *Store) Exists(ctx context.Context, key Key) (bool, error) {
	if err := s.checkKey(key); err != nil {
		return false, err
	}
	ctx, op := s.begin(ctx, metrics.Exists)
	ok := s.Cached(key)
	var err error
	if !ok {
		start := s.now()
		ok, err = s.conn.Exists(ctx, key)
		s.stage(metrics.ExistsConnector, key, start)
	}
	op.end(ctx, key, -1, err)
	return ok, err
}

// Cached reports whether a Get would be answered from the cache.
func (s *Store) Cached(key Key) bool { return s.checkKey(key) == nil && s.cache.Has(key.Identity()) }

// checkKey refuses what no object of this store can have: a key of another kind could have the same identity as one of ours in the cache.
func (s *Store) checkKey(key Key) error {
	if key == nil {
		return fmt.Errorf("%w: nil", connectors.ErrInvalidKey)
	}
	if kind := key.Kind(); s.kind != "" && kind != s.kind {
		return fmt.Errorf("%w: a %s key; store %s needs %s keys", connectors.ErrInvalidKey, kind, s.name, s.kind)
	}
	return nil
}

// Evict deletes the object, from this store's cache too. A missing object is not an error.
func (s *Store) Evict(ctx context.Context, key Key) error {
	if err := s.checkKey(key); err != nil {
		return err
	}
	ctx, op := s.begin(ctx, metrics.Evict)
	start := s.now()
	err := s.conn.Evict(ctx, key)
	s.stage(metrics.EvictConnector, key, start)
	s.cache.Evict(key.Identity()) // also after an error: whether the object is gone is then unknown
	op.end(ctx, key, -1, err)
	return err
}

// evictAll deletes many objects.
func (s *Store) evictAll(ctx context.Context, keys []Key) error {
	err := connectors.EvictBatch(ctx, s.conn, keys)
	for _, k := range keys {
		s.cache.Evict(k.Identity())
	}
	return err
}

// set stores the object of a key that exists already or was made by NewKey. It borrows v.
func (s *Store) set(ctx context.Context, key Key, v any, o putOptions) error {
	ctx, op := s.begin(ctx, metrics.Set)
	start := s.now()
	obj, err := s.encode(v, o)
	if err != nil {
		op.end(ctx, key, -1, err)
		return err
	}
	s.stage(metrics.SetSerialize, key, start)
	start = s.now()
	err = connectors.Set(ctx, s.conn, key, obj)
	s.stage(metrics.SetConnector, key, start)
	s.size(metrics.SetObjectSize, key, obj.Len())
	s.cache.Evict(key.Identity())
	op.end(ctx, key, obj.Len(), err)
	return err
}

// PutReader stores all that r gives as one object of bytes, in bounded memory where the connector can stream. size is the number of bytes if it
// is known, else negative; a known one lets a multi connector choose. If r fails, or gives another number of bytes, nothing stays behind.
func (s *Store) PutReader(ctx context.Context, r io.Reader, size int64, opts ...PutOption) (key Key, err error) {
	o := putOpts(opts)
	if o.tags.Subset != nil || o.tags.Superset != nil {
		return nil, fmt.Errorf("%w: Tags with a stream; put the object as a whole", errors.ErrUnsupported)
	}
	ctx, op := s.begin(ctx, metrics.Put)
	var n int64
	defer func() { op.end(ctx, key, n, err) }()
	tag := serialize.BytesTag
	switch {
	case o.raw:
		tag = ""
	case o.format == serialize.ProxyStore06:
		tag = serialize.TagBytes06 + "\n"
	}
	if size < 0 {
		var head *transport.Buffer
		if head, r, size, err = peek(r); err != nil {
			return nil, fmt.Errorf("put: %w", err)
		}
		defer head.Release()
	}
	if size >= 0 {
		size += int64(len(tag))
	}
	w, err := connectors.PutStream(ctx, s.conn, size)
	if err != nil {
		return nil, err
	}
	defer w.Abort() // nothing after Commit
	if _, err = io.WriteString(w, tag); err != nil {
		return nil, err
	}
	if n, err = w.ReadFrom(r); err != nil {
		return nil, fmt.Errorf("put after %d bytes: %w", n, err)
	}
	if key, err = w.Commit(); err != nil {
		return nil, err
	}
	if o.lifetime != nil {
		if err = s.attach(ctx, o.lifetime, key); err != nil {
			return nil, err
		}
	}
	return key, nil
}

// peekSize is how far a source of unknown size is read ahead: most turn out to be small, and one whose size is known can go wherever a multi
// connector's policies say.
const peekSize = 256 << 10

// peek reads the beginning of r. It returns a reader of everything, and the size if r is over already. The caller must release head when it
// is done with the reader.
func peek(r io.Reader) (head *transport.Buffer, all io.Reader, size int64, err error) {
	head = transport.DefaultPool.Get(peekSize)
	n := 0
	for n < peekSize && err == nil {
		var k int
		k, err = r.Read(head.Bytes()[n:])
		n += k
	}
	switch {
	case err == io.EOF: // and not ErrUnexpectedEOF, by which a source says that it was cut off
		return head, bytes.NewReader(head.Bytes()[:n]), int64(n), nil
	case err != nil:
		head.Release()
		return nil, nil, 0, err
	}
	return head, io.MultiReader(bytes.NewReader(head.Bytes()), r), -1, nil
}

// ObjectReader reads the body of one object. It belongs to one goroutine at a time.
type ObjectReader struct {
	connectors.Reader
	tag string
}

// Tag returns the object's codec: "BS" for bytes, "US" for text, and so on.
func (r *ObjectReader) Tag() string { return r.tag }

// Size returns the number of bytes in the body.
func (r *ObjectReader) Size() int64 { return r.Reader.Size() - serialize.TagLen }

// OpenReader opens an object for reading its body (without the tag) in bounded memory, past the cache. ctx lives as long as the reader.
func (s *Store) OpenReader(ctx context.Context, key Key) (*ObjectReader, error) {
	r, err := connectors.GetStream(ctx, s.conn, key)
	if err != nil {
		return nil, err
	}
	prefix := make([]byte, serialize.TagLen)
	n, err := io.ReadFull(r, prefix)
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		var tag string
		if tag, _, err = s.codecs.PayloadOffset(prefix[:n]); err == nil {
			return &ObjectReader{r, tag}, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("store %s: object %s: %w", s.name, connectors.FormatKey(key), err), r.Close())
}

// GetRange returns n bytes of an object's body (without the tag) from off, fewer at its end, all to the end if n < 0. It fetches no more than
// that where the connector can. The caller owns the Buffer. An off past the end is connectors.ErrInvalidRange.
func (s *Store) GetRange(ctx context.Context, key Key, off, n int64) (*transport.Buffer, error) {
	if off < 0 {
		return nil, fmt.Errorf("%w: offset %d", connectors.ErrInvalidRange, off)
	}
	return connectors.GetRange(ctx, s.conn, key, off+serialize.TagLen, n)
}
