package proxyplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/faulty"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/pickle"
	"github.com/proxyplane/proxyplane/transport"
)

// Each test here holds one rule that was broken once.

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// hook is asked about each call of a connector, as the injectors of faulty are, and can be set after the store is open.
type hook struct {
	f atomic.Pointer[func(faulty.Call) error]
}

func (h *hook) Inject(c faulty.Call) error {
	if f := h.f.Load(); f != nil {
		return (*f)(c)
	}
	return nil
}

func (h *hook) set(f func(faulty.Call) error) { h.f.Store(&f) }

func (h *hook) option() Option {
	return WithDecorator(func(c connectors.Connector) connectors.Connector { return faulty.Wrap(c, h) })
}

// reads reports whether a call fetches an object.
func reads(c faulty.Call) bool {
	switch c.Op {
	case faulty.Get, faulty.GetBytes, faulty.GetBatch, faulty.Map:
		return true
	}
	return false
}

// after runs f once: when the connector has fetched an object, before anybody above it knows.
func (h *hook) after(f func()) {
	var once sync.Once
	h.set(func(c faulty.Call) error {
		if c.After && reads(c) {
			once.Do(f)
		}
		return nil
	})
}

func hookedStore(t *testing.T) (*Store, *hook) {
	t.Helper()
	h := &hook{}
	return newTestStore(t, LocalConnector(), h.option(), WithPopulateTarget(false)), h
}

// bubbleStore is hookedStore within synctest: without the cache, whose goroutines take their time to end.
func bubbleStore(t *testing.T) (*Store, *hook) {
	t.Helper()
	h := &hook{}
	s, err := Open(t.Context(), NewConfig("", LocalConnector()), WithStores(NewStores()), WithCacheBytes(0), WithPopulateTarget(false), h.option())
	must(t, err)
	t.Cleanup(func() {
		h.f.Store(nil)
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, h
}

// received returns a proxy as if it had come from elsewhere, which finds its store in r.
func received[T any](t testing.TB, data []byte, r *Stores) *Proxy[T] {
	t.Helper()
	p, err := ParseProxy[T](data)
	must(t, err)
	p.Bind(r)
	return p
}

func closeStores(t testing.TB, r *Stores) {
	t.Helper()
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// wirePickle is the pickle of a proxy of a file object, with an option and factory fields of the test's.
func wirePickle(t testing.TB, option any, factory string, fields ...any) []byte {
	t.Helper()
	global := func(m, n string) pickle.Global { return pickle.Global{Module: m, Name: n} }
	cfg := dict("name", "n", "connector_type", "file", "connector_config", dict("store_dir", "/nowhere", "x", option))
	key := &pickle.Object{Callable: global("proxystore.connectors.file", "FileKey"), New: true, Args: pickle.Tuple{"k"}}
	f := &pickle.Object{Callable: global("proxystore.store.factory", factory), New: true, HasState: true,
		State: dict(append([]any{"key", key, "store_config", cfg, "evict", false}, fields...)...)}
	data, err := pickle.Marshal(&pickle.Object{Callable: global("proxystore.proxy", "_proxy_trampoline"), Args: pickle.Tuple{f, nil, nil}})
	must(t, err)
	return data
}

// TestNestedProxiesKeepTheirStores: a proxy within an object finds its store under the policy of the proxy around it.
func TestNestedProxiesKeepTheirStores(t *testing.T) {
	ctx := t.Context()
	base := t.TempDir()
	allowed := filepath.Join(base, "allowed")
	inner, outer := newTestStore(t, FileConnector(filepath.Join(base, "secret"))), newTestStore(t, FileConnector(allowed))
	strict := NewStores(WithPolicy(Policy{OnlyDirs: true, Dirs: []string{allowed}}))
	closeStores(t, strict)
	secret := mustProxy(t, inner, "private")
	type job struct {
		Input *Proxy[string] `pickle:"input"`
	}
	wire := func(p interface {
		Pickle(...PickleOption) ([]byte, error)
	}) []byte {
		data, err := p.Pickle()
		must(t, err)
		return data
	}
	list, err := received[[]*Proxy[string]](t, wire(mustProxy(t, outer, []any{secret})), strict).Resolve(ctx)
	must(t, err)
	m, err := received[map[string]*Proxy[string]](t, wire(mustProxy(t, outer, map[string]any{"a": secret})), strict).Resolve(ctx)
	must(t, err)
	s, err := received[job](t, wire(mustProxy(t, outer, job{secret})), strict).Resolve(ctx)
	must(t, err)
	deep := mustProxy(t, outer, []any{secret}) // in an object that is itself behind a proxy in an object
	proxies, err := received[[]*Proxy[[]*Proxy[string]]](t, wire(mustProxy(t, outer, []any{deep})), strict).Resolve(ctx)
	must(t, err)
	innermost, err := proxies[0].Resolve(ctx)
	must(t, err)
	for how, p := range map[string]*Proxy[string]{"list": list[0], "map": m["a"], "struct": s.Input, "deep": innermost[0]} {
		if v, err := p.Resolve(ctx); !errors.Is(err, ErrDenied) {
			t.Errorf("%s: resolved past the policy: %q, %v", how, v, err)
		}
	}
}

// TestOptionsAreBounded: parts that a pickle shares cost their sender nothing, so the receiver counts them all.
func TestOptionsAreBounded(t *testing.T) {
	var dag any = int64(1)
	for range 8 { // 4 G values in some hundred bytes
		items := make([]any, 16)
		for i := range items {
			items[i] = dag
		}
		dag = &pickle.List{Items: items}
	}
	mebibyte := &pickle.List{Items: []any{make([]byte, 1<<20)}}
	bytes := &pickle.List{}
	for range 65 {
		bytes.Items = append(bytes.Items, mebibyte)
	}
	for what, option := range map[string]any{"values": dag, "bytes": bytes} {
		if _, err := Inspect(wirePickle(t, option, "StoreFactory")); !errors.Is(err, ErrBadProxy) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Inspect(wirePickle(t, mebibyte, "StoreFactory")); err != nil {
		t.Errorf("one of many: %v", err)
	}
}

// TestReceivedStoresAreBounded: proxies of many stores hold few open, the latest used, and proxies of a closed one open it again.
func TestReceivedStoresAreBounded(t *testing.T) {
	ctx := t.Context()
	r := NewStores(WithMaxReceived(2))
	closeStores(t, r)
	dir := t.TempDir()
	wire := map[string][]byte{}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		s, err := Open(ctx, NewConfig(name, FileConnector(dir)), WithStores(NewStores()))
		must(t, err)
		wire[name] = forms(t, mustProxy(t, s, name))["json"]
		must(t, s.Close(ctx))
	}
	stores, proxies := map[string]*Store{}, map[string]*Proxy[string]{}
	use := func(name string) {
		t.Helper()
		p := received[string](t, wire[name], r)
		if v, err := p.Resolve(ctx); err != nil || v != name {
			t.Fatal(v, err)
		}
		s, err := p.Store(ctx)
		must(t, err)
		stores[name], proxies[name] = s, p
		if len(r.open) > 2 || len(r.received) > 2 {
			t.Errorf("%d stores are open, %d remembered", len(r.open), len(r.received))
		}
	}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		use(name)
	}
	first := stores["a"]
	proxies["a"].Forget()
	if v, err := proxies["a"].Resolve(ctx); err != nil || v != "a" { // the same proxy
		t.Errorf("%q, %v", v, err)
	}
	if s, err := proxies["a"].Store(ctx); err != nil || s == first || !first.closed.Load() {
		t.Errorf("the first store was not closed, %v", err)
	}
	use("b")
	again, err := proxies["a"].Store(ctx)
	must(t, err)
	use("a")
	use("c") // takes the place of b, which was not used for longest
	if again.closed.Load() || !stores["b"].closed.Load() {
		t.Errorf("closed: a %v, used a moment ago; b %v", again.closed.Load(), stores["b"].closed.Load())
	}
}

// TestDefaultNameHidesSecrets: a proxy tells its store's name to everybody, so the name must not be a way to test passwords.
func TestDefaultNameHidesSecrets(t *testing.T) {
	redis := func(password string) connectors.Config {
		c := RedisConnector("127.0.0.1", 1)
		if password != "" {
			c.Options["password"] = password
		}
		return c
	}
	multi := func(password string) connectors.Config {
		c := redis(password)
		return connectors.Config{Kind: "multi", Options: map[string]any{"a": []any{c.Kind, c.Options, map[string]any{}}}}
	}
	for kind, cfg := range map[string]func(string) connectors.Config{"redis": redis, "multi": multi} {
		names := map[string]bool{}
		for _, password := range []string{"", "hunter2", "qwerty"} {
			name, err := uniqueName(defaultDrivers(), cfg(password))
			must(t, err)
			names[name] = true
		}
		if len(names) != 1 {
			t.Errorf("%s: the name depends on the password: %v", kind, names)
		}
	}
	far, err := uniqueName(defaultDrivers(), RedisConnector("127.0.0.1", 2))
	must(t, err)
	if s := newTestStore(t, redis("hunter2")); s.Name() == far {
		t.Error("the name does not depend on the server")
	}
}

// TestSecretsAreNotPrinted: printing a store, its configuration or a proxy shows no option's value.
func TestSecretsAreNotPrinted(t *testing.T) {
	cfg := RedisConnector("127.0.0.1", 1)
	cfg.Options["password"] = "hunter2"
	s := newTestStore(t, cfg)
	p, err := ProxyFromKey[string](s, connectors.RedisKey{RedisKey: "k"})
	must(t, err)
	for what, v := range map[string]any{"store": s, "configuration": s.Config(), "pointer": &cfg, "connector": cfg, "proxy": p} {
		if text := fmt.Sprintf("%v %+v %s", v, v, v); strings.Contains(text, "hunter2") {
			t.Errorf("%s prints %s", what, text)
		}
	}
}

// TestPollingFloor: a proxy from elsewhere cannot make its resolver poll without pause.
func TestPollingFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := bubbleStore(t)
		var asked atomic.Int64
		h.set(func(c faulty.Call) error {
			switch {
			case c.Op == faulty.Wait:
				return errors.ErrUnsupported // so that it polls
			case c.Op == faulty.Exists && !c.After:
				asked.Add(1)
			}
			return nil
		})
		for _, polling := range []Polling{{Interval: 1, Backoff: 1}, {Interval: time.Second, Backoff: 1e-9}, {Interval: time.Second, Backoff: 1, Limit: 1}} {
			f, err := NewFuture[string](t.Context(), s, polling)
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			asked.Store(0)
			_, err = received[string](t, forms(t, f.Proxy())["json"], s.stores).Resolve(ctx)
			cancel()
			if n := asked.Load(); !errors.Is(err, context.DeadlineExceeded) || n == 0 || n > 1001 {
				t.Errorf("%+v: asked %d times in a second, %v", polling, n, err)
			}
		}
	})
}

// collect returns after the garbage collector has found what was garbage when it was called.
func collect() {
	for range 2 {
		found := make(chan struct{})
		func() {
			runtime.AddCleanup(new([16]byte), func(found chan struct{}) { close(found) }, found)
		}()
		for done := false; !done; {
			runtime.GC()
			select {
			case <-found:
				done = true
			case <-time.After(time.Millisecond):
			}
		}
	}
}

// TestOwnerStaysForItsCalls: an owner whose last use is a call that is under way is not given up before that has ended.
func TestOwnerStaysForItsCalls(t *testing.T) {
	ctx := t.Context()
	s, h := hookedStore(t)
	for name, call := range map[string]func(o *Owned[string]) error{
		"resolve": func(o *Owned[string]) error { return second(o.Resolve(ctx)) },
		"clone":   func(o *Owned[string]) error { return second(o.Clone(ctx)) },
		"update":  func(o *Owned[string]) error { return o.Update(ctx, "new") },
		"ref": func(o *Owned[string]) error {
			r, err := o.Borrow()
			must(t, err)
			return second(r.Resolve(ctx))
		},
		"mutable ref": func(o *Owned[string]) error {
			r, err := o.MutBorrow()
			must(t, err)
			return r.Update(ctx, "new")
		},
	} {
		key, err := s.Put(ctx, "old")
		must(t, err)
		h.set(func(c faulty.Call) error {
			if c.After || !reads(c) && c.Op != faulty.Set {
				return nil
			}
			collect()
			runtime.Gosched() // to whoever would evict it now
			if ok, err := s.conn.Exists(ctx, key); err != nil || !ok {
				t.Errorf("%s: evicted under way, %v", name, err)
			}
			return nil
		})
		err = func() error {
			p, err := ProxyFromKey[string](s, key)
			must(t, err)
			o, err := IntoOwned(p)
			must(t, err)
			return call(o)
		}()
		h.f.Store(nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// counted is a value that counts references, as arrow's tables do.
type counted struct{ refs *atomic.Int64 }

func (c counted) Release() { c.refs.Add(-1) }

func countedStore(t *testing.T) *Store {
	codecs := serialize.NewCodecs()
	must(t, codecs.Register(serialize.TypeCodec("Zy", "counted", func(counted) (transport.Slices, error) { return transport.Slices{[]byte("x")}, nil },
		func(*transport.Buffer) (counted, error) {
			c := counted{new(atomic.Int64)}
			c.refs.Store(1)
			return c, nil
		})))
	return newTestStore(t, LocalConnector(), WithCodecs(codecs), WithPopulateTarget(false))
}

// TestCountedValuesAreNotShared: who gets a value that counts references may release it, whatever others do with theirs.
func TestCountedValuesAreNotShared(t *testing.T) {
	ctx := t.Context()
	s := countedStore(t)
	key, err := s.Put(ctx, counted{})
	must(t, err)
	typed, err := ProxyFromKey[counted](s, key)
	must(t, err)
	untyped, err := ProxyFromKey[any](s, key)
	must(t, err)
	batch := func() (any, error) {
		values, err := s.GetBatch(ctx, []Key{key})
		return values[0], err
	}
	for name, get := range map[string]func() (any, error){
		"get":           func() (any, error) { return Get[counted](ctx, s, key) },
		"get any":       func() (any, error) { return s.Get(ctx, key) },
		"get batch":     batch,
		"proxy":         func() (any, error) { return typed.Resolve(ctx) },
		"proxy of any":  func() (any, error) { return untyped.Resolve(ctx) },
		"another proxy": func() (any, error) { return mustFromKey[counted](t, s, key).Resolve(ctx) },
	} {
		for range 3 {
			v, err := get()
			must(t, err)
			c := v.(counted)
			if n := c.refs.Load(); n != 1 {
				t.Errorf("%s: a value with %d references", name, n)
			}
			c.Release()
		}
	}
}

// TestMakersKeepTheirViews: a view or counted value is its maker's to release, so that no proxy keeps it as its target, whatever the proxy's type is.
func TestMakersKeepTheirViews(t *testing.T) {
	ctx := t.Context()
	s := countedStore(t)
	for _, v := range []any{transport.FromBytes([]byte("view")), counted{new(atomic.Int64)}} {
		batch, err := ProxyBatch(ctx, s, []any{v}, Populate(true))
		must(t, err)
		o, err := NewOwned[any](ctx, s, "old")
		must(t, err)
		must(t, o.Update(ctx, v))
		for how, p := range map[string]*Proxy[any]{"proxy": mustProxy(t, s, v, Populate(true)), "batch": batch[0], "update": o.p} {
			if p.Resolved() {
				t.Errorf("%s keeps a %T", how, v)
			}
		}
		must(t, o.Close(ctx))
		v.(releaser).Release()
	}
}

func mustFromKey[T any](t testing.TB, s *Store, key Key, opts ...PutOption) *Proxy[T] {
	t.Helper()
	p, err := ProxyFromKey[T](s, key, opts...)
	must(t, err)
	return p
}

func view(ctx context.Context, s *Store, key Key) error {
	b, err := Get[*transport.Buffer](ctx, s, key)
	if err == nil {
		b.Release()
	}
	return err
}

// TestEvictedIsNotCached: what was fetched before an Evict and arrives after it is not there for the next who asks.
func TestEvictedIsNotCached(t *testing.T) {
	ctx := t.Context()
	s, h := hookedStore(t)
	text := func(key Key) error { return second(Get[string](ctx, s, key)) }
	natural := func(key Key) error { return second(s.Get(ctx, key)) }
	buffer := func(key Key) error { return view(ctx, s, key) }
	batch := func(key Key) error { return second(GetBatch[string](ctx, s, []Key{key})) }
	views := func(key Key) error {
		bufs, err := GetBatch[*transport.Buffer](ctx, s, []Key{key})
		if err == nil {
			bufs[0].Release()
		}
		return err
	}
	none := func(Key) error { return nil }
	for name, c := range map[string]struct{ cache, fetch func(Key) error }{
		"get": {none, text}, "view": {none, buffer}, "batch": {none, batch}, "batch of views": {none, views},
		"view of a cached string": {text, buffer}, "string of a cached view": {buffer, text}, "any of a cached string": {text, natural},
	} {
		key, err := s.Put(ctx, "text")
		must(t, err)
		must(t, c.cache(key))
		evicted := false
		h.after(func() { evicted = true; must(t, s.Evict(ctx, key)) })
		if err := c.fetch(key); err != nil || !evicted {
			t.Errorf("%s: %v, evicted under way %v", name, err, evicted)
		}
		for again, get := range map[string]func(Key) error{"get": text, "view": buffer, "batch": batch} {
			if err := get(key); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s, then %s: %v", name, again, err)
			}
		}
		if ok, err := s.Exists(ctx, key); ok || err != nil || s.Cached(key) {
			t.Errorf("%s: exists after Evict, %v", name, err)
		}
	}
}

// TestUpdateDuringResolve: a resolve that began before an update does not bring the old object back.
func TestUpdateDuringResolve(t *testing.T) {
	ctx := t.Context()
	s, h := hookedStore(t)
	for name, update := range map[string]func(o *Owned[string]) error{
		"owner": func(o *Owned[string]) error { return o.Update(ctx, "new") },
		"reference": func(o *Owned[string]) error {
			r, err := o.MutBorrow()
			must(t, err)
			defer r.Release()
			return r.Update(ctx, "new")
		},
	} {
		o, err := NewOwned(ctx, s, "old")
		must(t, err)
		fetched, release := make(chan struct{}), make(chan struct{})
		h.after(func() { close(fetched); <-release })
		var wg sync.WaitGroup
		wg.Go(func() {
			if v, err := o.Resolve(ctx); err != nil {
				t.Errorf("%s: %q, %v", name, v, err)
			}
		})
		<-fetched
		err = update(o)
		close(release)
		wg.Wait()
		must(t, err)
		if v, err := o.Resolve(ctx); v != "new" || err != nil {
			t.Errorf("%s: after Update %q, %v", name, v, err)
		}
		if v, err := Get[string](ctx, s, o.Key()); v != "new" || err != nil {
			t.Errorf("%s: the store after Update: %q, %v", name, v, err)
		}
		must(t, o.Close(ctx))
	}
}

// TestUpdateExcludesOthers: while an update runs, nobody borrows, closes, gives up or sends away; after it, or its failure, everybody may.
func TestUpdateExcludesOthers(t *testing.T) {
	ctx := t.Context()
	s, h := hookedStore(t)
	boom := errors.New("boom")
	for _, fails := range []error{nil, boom} {
		for _, borrowed := range []bool{false, true} {
			o, err := NewOwned(ctx, s, "old")
			must(t, err)
			update := o.Update
			giveBack := func() {}
			if borrowed {
				r, err := o.MutBorrow()
				must(t, err)
				update, giveBack = r.Update, r.Release
			}
			in, release := make(chan struct{}), make(chan struct{})
			h.set(func(c faulty.Call) error {
				if c.Op != faulty.Set || c.After {
					return nil
				}
				close(in)
				<-release
				return fails
			})
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := update(ctx, "new"); !errors.Is(err, fails) {
					t.Errorf("update: %v, want %v", err, fails)
				}
			})
			<-in
			wg.Go(giveBack) // waits for the update
			for range 100 {
				runtime.Gosched() // and has a chance not to
			}
			for what, err := range map[string]error{"borrow": second(o.Borrow()), "borrow to write": second(o.MutBorrow()), "close": o.Close(ctx),
				"release": second(o.Release()), "pickle": second(o.Pickle()), "update": o.Update(ctx, "other")} {
				if !errors.Is(err, ErrBorrowed) {
					t.Errorf("%s during an update: %v", what, err)
				}
			}
			close(release)
			wg.Wait()
			h.f.Store(nil)
			ref, err := o.Borrow()
			must(t, err)
			ref.Release()
			must(t, o.Close(ctx))
			if ok, err := s.Exists(ctx, o.Key()); ok || err != nil {
				t.Errorf("the object outlived its owner, %v", err)
			}
		}
	}
}

// TestCloseAgain: an owner or lifetime that could not evict its objects still has them, and a second Close evicts them.
func TestCloseAgain(t *testing.T) {
	ctx := t.Context()
	boom := errors.New("boom")
	s, h := hookedStore(t)
	fail := func(c faulty.Call) error {
		if c.Op == faulty.Evict || c.Op == faulty.EvictBatch {
			return boom
		}
		return nil
	}
	check := func(name string, key Key, end func(context.Context) error) {
		t.Helper()
		h.set(fail)
		if err := end(ctx); !errors.Is(err, boom) {
			t.Errorf("%s: the first Close: %v", name, err)
		}
		h.f.Store(nil)
		if err := end(ctx); err != nil {
			t.Errorf("%s: the second Close: %v", name, err)
		}
		if ok, err := s.Exists(ctx, key); ok || err != nil {
			t.Errorf("%s: the object is still there, %v", name, err)
		}
		h.set(fail)
		if err := end(ctx); err != nil {
			t.Errorf("%s: the third Close: %v", name, err)
		}
		h.f.Store(nil)
	}
	o, err := NewOwned(ctx, s, "x")
	must(t, err)
	check("owner", o.Key(), o.Close)
	for name, l := range map[string]Lifetime{"context": ContextLifetime(context.Background()), "lease": LeaseLifetime(time.Hour), "static": &objects{}} {
		key, err := s.Put(ctx, "x", InLifetime(l))
		must(t, err)
		check(name, key, l.Close)
		if err := l.Add(s, key); !errors.Is(err, ErrLifetimeEnded) || !l.Done() {
			t.Errorf("%s: after Close: %v", name, err)
		}
	}
}

// TestOthersTypeErrors: who waits for a fetch as another type does not get that type's error.
func TestOthersTypeErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s, h := bubbleStore(t)
		key, err := s.Put(ctx, "text")
		must(t, err)
		started, release := make(chan struct{}), make(chan struct{})
		h.after(func() { close(started); <-release })
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := Get[map[string]int](ctx, s, key); !errors.Is(err, serialize.ErrType) {
				t.Errorf("a string as a map: %v", err)
			}
		})
		<-started
		p := mustFromKey[string](t, s, key)
		for name, get := range map[string]func() error{
			"get": func() error { return second(Get[string](ctx, s, key)) }, "any": func() error { return second(s.Get(ctx, key)) },
			"view": func() error { return view(ctx, s, key) }, "proxy": func() error { return second(p.Resolve(ctx)) },
		} {
			wg.Go(func() {
				if err := get(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		synctest.Wait() // all of them wait
		close(release)
		wg.Wait()
	})
}

// onOpened is a log handler that runs a function when a store says that it is open.
type onOpened struct {
	slog.Handler
	f func()
}

func (o onOpened) Enabled(context.Context, slog.Level) bool { return true }

func (o onOpened) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "store opened" {
		o.f()
	}
	return nil
}

// travelled returns the JSON of a proxy of "x" in a file store that is closed by now.
func travelled(t testing.TB, dir string) []byte {
	t.Helper()
	s, err := Open(t.Context(), NewConfig("n", FileConnector(dir)), WithStores(NewStores()))
	must(t, err)
	wire, err := json.Marshal(mustProxy(t, s, "x"))
	must(t, errors.Join(err, s.Close(t.Context())))
	return wire
}

// TestClosedWhileOpening: a received store that somebody closes before it is noted is not remembered, so that later proxies open their own.
func TestClosedWhileOpening(t *testing.T) {
	ctx := t.Context()
	wire := travelled(t, t.TempDir())
	var r *Stores
	var once sync.Once
	r = NewStores(WithStoreOptions(WithLogger(slog.New(onOpened{slog.DiscardHandler, func() {
		once.Do(func() {
			r.mu.Lock()
			stores := slices.Collect(maps.Keys(r.open)) // as another proxy would find it
			r.mu.Unlock()
			for _, s := range stores {
				if err := s.Close(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}}))))
	closeStores(t, r)
	if _, err := received[string](t, wire, r).Resolve(ctx); err != nil && !errors.Is(err, connectors.ErrClosed) {
		t.Errorf("the one whose store was closed: %v", err)
	}
	if _, err := received[string](t, wire, r).Resolve(ctx); err != nil {
		t.Errorf("one who came after: %v", err)
	}
}

// TestClosedStoreIsLookedUpAgain: a proxy whose store was closed finds it opened again, or opens it if it may.
func TestClosedStoreIsLookedUpAgain(t *testing.T) {
	ctx := t.Context()
	r := NewStores()
	closeStores(t, r)
	cfg := NewConfig("n", fileConfig(t))
	s, err := Open(ctx, cfg, WithStores(r))
	must(t, err)
	own := mustProxy(t, s, "x", Populate(false))
	wire, err := json.Marshal(own)
	must(t, errors.Join(err, s.Close(ctx)))
	if _, err := own.Resolve(ctx); !errors.Is(err, connectors.ErrClosed) {
		t.Errorf("of a closed store: %v", err)
	}
	p := received[string](t, wire, r)
	opened, err := p.Store(ctx)
	must(t, err)
	must(t, opened.Close(ctx)) // by somebody else
	if _, err := p.Resolve(ctx); err != nil {
		t.Errorf("received: %v", err)
	}
	if again, err := p.Store(ctx); err != nil || again == opened {
		t.Errorf("the same store, %v", err)
	}
	must(t, r.Close(ctx))

	reopened, err := Open(ctx, cfg, WithStores(r))
	must(t, err)
	defer reopened.Close(ctx)
	if _, err := own.Resolve(ctx); err != nil {
		t.Errorf("made here: %v", err)
	}
}

// TestInfiniteTimeout: Python's float("inf") is no limit, as None is.
func TestInfiniteTimeout(t *testing.T) {
	inf := math.Inf(1)
	p, err := ParseProxy[string](wirePickle(t, nil, "PollingStoreFactory",
		"_polling_interval", 1.0, "_polling_backoff_factor", 2.0, "_polling_interval_limit", inf, "_polling_timeout", inf))
	must(t, err)
	if want := (Polling{Interval: time.Second, Backoff: 2}); p.ref.polling == nil || *p.ref.polling != want {
		t.Errorf("%+v", p.ref.polling)
	}
}

// TestLocalStoresOfOneName: a proxy comes back to the one of two local stores that made it.
func TestLocalStoresOfOneName(t *testing.T) {
	ctx := t.Context()
	r := NewStores()
	for _, value := range []string{"a", "b", "c"} {
		s, err := Open(ctx, NewConfig("data", LocalConnector()), WithStores(r))
		must(t, err)
		defer s.Close(ctx)
		wire := forms(t, mustProxy(t, s, value))
		for range 8 { // whatever the order in which they are asked
			for _, form := range []string{"json", "text", "binary"} {
				if v, err := received[string](t, wire[form], r).Resolve(ctx); err != nil || v != value {
					t.Fatalf("%s: %q, %v", form, v, err)
				}
			}
		}
	}
}

// TestWaitersShareAFailure: many who resolve one future's proxy wait its timeout once, and not one after the other.
func TestWaitersShareAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s, h := bubbleStore(t)
		var waits atomic.Int64
		h.set(func(c faulty.Call) error {
			if c.Op == faulty.Wait && !c.After {
				waits.Add(1)
			}
			return nil
		})
		f, err := NewFuture[string](ctx, s, Polling{Timeout: time.Minute})
		must(t, err)
		p := f.Proxy()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := p.Resolve(ctx); !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := waits.Load(); n != 1 {
			t.Errorf("waited %d times", n)
		}
		must(t, f.Set(ctx, "late")) // a failure is not kept
		if v, err := p.Resolve(ctx); err != nil || v != "late" {
			t.Errorf("%q, %v", v, err)
		}
	})
}

// TestStoresCloseHonoursItsContext: Close does not wait longer than its caller wants for a store that is just being opened, and a second Close
// closes that.
func TestStoresCloseHonoursItsContext(t *testing.T) {
	wire := travelled(t, t.TempDir())
	in, release := make(chan struct{}), make(chan struct{})
	r := NewStores(WithStoreOptions(WithDecorator(func(c connectors.Connector) connectors.Connector {
		close(in)
		<-release
		return c
	})))
	p := received[string](t, wire, r)
	var opened *Store
	var wg sync.WaitGroup
	wg.Go(func() { opened, _ = p.Store(context.Background()) })
	<-in
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Close(over); !errors.Is(err, context.Canceled) {
		t.Errorf("close: %v", err)
	}
	close(release)
	wg.Wait()
	must(t, r.Close(t.Context()))
	if opened != nil && !opened.closed.Load() {
		t.Error("the store that was being opened stays open")
	}
	if _, err := received[string](t, wire, r).Store(t.Context()); !errors.Is(err, connectors.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestOpenReaderKnowsTheCodecs: a stream of an object that a codec of the store's own wrote can be opened.
func TestOpenReaderKnowsTheCodecs(t *testing.T) {
	ctx := t.Context()
	s := countedStore(t)
	key, err := s.Put(ctx, counted{})
	must(t, err)
	r, err := s.OpenReader(ctx, key)
	must(t, err)
	defer r.Close()
	if r.Tag() != "Zy" || r.Size() != 1 {
		t.Errorf("tag %s, size %d", r.Tag(), r.Size())
	}
}

// TestStreamsTakeNoTags: what a put cannot honour it refuses.
func TestStreamsTakeNoTags(t *testing.T) {
	ctx := t.Context()
	s, h := hookedStore(t)
	h.set(func(c faulty.Call) error {
		t.Errorf("%s in spite of tags", c.Op)
		return nil
	})
	for _, tags := range []PutOption{Tags([]string{"a"}, nil), Tags(nil, []string{"a"})} {
		if _, err := s.PutReader(ctx, strings.NewReader("x"), 1, tags); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%v", err)
		}
	}
	h.f.Store(nil)
}

// TestCacheCostsOfDecodedValues: a decoded pickle counts for about what it occupies, and bytes for what they are.
func TestCacheCostsOfDecodedValues(t *testing.T) {
	ctx := t.Context()
	const n = 1 << 12
	numbers := make([]any, n)
	for i := range numbers {
		numbers[i] = int64(i % 256)
	}
	held := func(v any) int64 {
		s := newTestStore(t, LocalConnector())
		key, err := s.Put(ctx, v)
		must(t, err)
		must(t, second(s.Get(ctx, key)))
		return s.CacheStats().Bytes
	}
	if size := held(numbers); size < int64(n*reflect.TypeFor[any]().Size())/2 {
		t.Errorf("%d numbers count for %d bytes", n, size)
	}
	if size := held(make([]byte, 1<<20)); size > 1<<20+1<<12 {
		t.Errorf("1 MiB counts for %d bytes", size)
	}
}

// TestFutureSetAfterItsLifetime: a future that is set when its lifetime is over leaves nothing behind.
func TestFutureSetAfterItsLifetime(t *testing.T) {
	ctx := t.Context()
	s, _ := hookedStore(t)
	l := ContextLifetime(context.Background())
	f, err := NewFuture[string](ctx, s, Polling{}, InLifetime(l))
	must(t, err)
	must(t, l.Close(ctx))
	if err := f.Set(ctx, "x"); !errors.Is(err, ErrLifetimeEnded) {
		t.Errorf("set: %v", err)
	}
	if ok, err := f.Done(ctx); ok || err != nil {
		t.Errorf("the object is there, %v", err)
	}
}

// TestNotProxiable: whatever Python sees as None, True or False is refused, however Go wraps it.
func TestNotProxiable(t *testing.T) {
	ctx := t.Context()
	s, h := hookedStore(t)
	h.set(func(c faulty.Call) error {
		t.Errorf("%s of what is not proxiable", c.Op)
		return nil
	})
	type flag bool
	yes, named := true, flag(true)
	pointer, nothing := &yes, (*int)(nil)
	for _, v := range []any{nil, true, nothing, &nothing, flag(false), pointer, &pointer, &named} {
		if _, err := NewProxy(ctx, s, v); !errors.Is(err, ErrNotProxiable) {
			t.Errorf("%T: %v", v, err)
		}
		if _, err := ProxyBatch(ctx, s, []any{v}); !errors.Is(err, ErrNotProxiable) {
			t.Errorf("%T in a batch: %v", v, err)
		}
		if _, err := NewOwned(ctx, s, v); !errors.Is(err, ErrNotProxiable) {
			t.Errorf("%T owned: %v", v, err)
		}
	}
	h.f.Store(nil)
	seven := 7
	if _, err := NewProxy(ctx, s, &seven); err != nil {
		t.Errorf("a pointer to what is proxiable: %v", err)
	}
}

// TestKeysOfAnotherKind: a key that no object of the store can have is refused, though the cache has one of that identity.
func TestKeysOfAnotherKind(t *testing.T) {
	ctx := t.Context()
	s, _ := hookedStore(t)
	key, err := s.Put(ctx, "x")
	must(t, err)
	must(t, second(Get[string](ctx, s, key)))
	for name, k := range map[string]Key{"nil": nil, "another kind": connectors.FileKey{Filename: key.Identity()}} {
		if s.Cached(k) {
			t.Errorf("%s: cached", name)
		}
		for what, err := range map[string]error{
			"get": second(Get[string](ctx, s, k)), "view": view(ctx, s, k), "exists": second(s.Exists(ctx, k)), "evict": s.Evict(ctx, k),
			"batch": second(GetBatch[string](ctx, s, []Key{key, k})), "object": second(s.GetObject(ctx, k)), "range": second(s.GetRange(ctx, k, 0, 1)),
			"reader": second(s.OpenReader(ctx, k)),
		} {
			if !errors.Is(err, connectors.ErrInvalidKey) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
	if !s.Cached(key) {
		t.Error("its own key is no longer cached")
	}
}
