package proxyplane

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

func mustProxy[T any](t testing.TB, s *Store, v T, opts ...PutOption) *Proxy[T] {
	t.Helper()
	p, err := NewProxy(context.Background(), s, v, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProxyResolves(t *testing.T) {
	configs(t, func(t *testing.T, cfg connectors.Config) {
		ctx := t.Context()
		s := newTestStore(t, cfg)
		p := mustProxy(t, s, "value", Populate(false))
		if p.Resolved() {
			t.Error("resolved before anybody asked")
		}
		for range 2 {
			if v, err := p.Resolve(ctx); err != nil || v != "value" {
				t.Fatal(v, err)
			}
		}
		if !p.Resolved() {
			t.Error("not resolved after Resolve")
		}
		p.Forget()
		if err := p.Evict(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Resolve(ctx); !errors.Is(err, ErrNotFound) {
			t.Errorf("after Evict: %v", err)
		}
		if populated := mustProxy(t, s, "value"); !populated.Resolved() {
			t.Error("PopulateTarget did not populate")
		}
		if l, err := LockedProxy(ctx, s, "value"); err != nil || l.Unlock().Key() == nil {
			t.Error(err)
		}
		batch, err := ProxyBatch(ctx, s, []string{"a", "b"}, Populate(false))
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"a", "b"} {
			if v, err := batch[i].Resolve(ctx); err != nil || v != want {
				t.Error(v, err)
			}
		}
	})
}

func TestEvictOnResolve(t *testing.T) {
	configs(t, func(t *testing.T, cfg connectors.Config) {
		ctx := t.Context()
		s := newTestStore(t, cfg)
		p := mustProxy(t, s, []byte("once"), Evict(), Populate(false))
		var wg sync.WaitGroup
		for range 8 { // all of them get it, although it is gone after the first
			wg.Go(func() {
				if v, err := p.Resolve(ctx); err != nil || string(v) != "once" {
					t.Errorf("%q, %v", v, err)
				}
			})
		}
		wg.Wait()
		if ok, err := s.Exists(ctx, p.Key()); ok || err != nil {
			t.Errorf("exists %v, %v", ok, err)
		}
		if _, err := NewProxy(ctx, s, "x", Evict(), InLifetime(StaticLifetime())); !errors.Is(err, ErrConfig) {
			t.Errorf("Evict with a lifetime: %v", err)
		}
	})
}

// TestProxyOfView: each Resolve gives a reference of its own, and the proxy's own goes back with Forget or with the proxy.
func TestProxyOfView(t *testing.T) {
	ctx := t.Context()
	s := newTestStore(t, fileConfig(t), WithCacheBytes(0))
	want := bytes.Repeat([]byte("x"), 1<<20)
	key, err := s.Put(ctx, want)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ProxyFromKey[*transport.Buffer](s, key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.Resolve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Resolve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a.Release()
	p.Forget()
	if !bytes.Equal(b.Bytes(), want) {
		t.Error("wrong content")
	}
	b.Release()
	noLeaks(t)
	c, err := p.Resolve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
	runtime.KeepAlive(p)
	p = nil
	noLeaks(t) // the mapping goes with the proxy
}

func TestResolveAsync(t *testing.T) {
	ctx := t.Context()
	s := newTestStore(t, fileConfig(t))
	p := mustProxy(t, s, "later", Populate(false))
	p.ResolveAsync(ctx)
	if v, err := p.Resolve(ctx); err != nil || v != "later" {
		t.Fatal(v, err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	q, err := ProxyFromKey[*transport.Buffer](s, p.Key())
	if err != nil {
		t.Fatal(err)
	}
	q.ResolveAsync(cancelled) // its failure is not kept
	v, err := q.Resolve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	v.Release()
	q.Forget()
}

func TestPartialResolution(t *testing.T) {
	configs(t, func(t *testing.T, cfg connectors.Config) {
		ctx := t.Context()
		s := newTestStore(t, cfg)
		p := mustProxy(t, s, []byte("0123456789"), Populate(false))
		b, err := p.ReadRange(ctx, 3, 4)
		if err != nil || string(b.Bytes()) != "3456" {
			t.Fatal(err)
		}
		b.Release()
		r, err := p.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if r.Size() != 10 || p.Resolved() {
			t.Error(r.Size(), p.Resolved())
		}
	})
}

// forms are all the ways in which a proxy travels.
func forms[T any](t *testing.T, p *Proxy[T]) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	add := func(name string, b []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m[name] = b
	}
	b, err := p.Pickle()
	add("pickle", b, err)
	b, err = p.Pickle(For(serialize.ProxyStore06))
	add("pickle-0.6", b, err)
	b, err = json.Marshal(p)
	add("json", b, err)
	b, err = p.MarshalText()
	add("text", b, err)
	b, err = p.MarshalBinary()
	add("binary", b, err)
	return m
}

func TestProxyTravels(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	s := newTestStore(t, FileConnector(dir))
	p := mustProxy(t, s, []byte("luggage"))
	for name, data := range forms(t, p) {
		t.Run(name, func(t *testing.T) {
			there := NewStores() // as in another process
			defer there.Close(ctx)
			q, err := ParseProxy[[]byte](data)
			if err != nil {
				t.Fatal(err)
			}
			q.Bind(there)
			if q.Resolved() {
				t.Error("arrived resolved")
			}
			if v, err := q.Resolve(ctx); err != nil || string(v) != "luggage" {
				t.Fatal(v, err)
			}
			info, err := Inspect(data)
			if err != nil || info.Kind != "file" || info.Form != name || info.Options["store_dir"] != dir || info.Class != "builtins.bytes" || info.Store != s.Name() {
				t.Errorf("%+v, %v", info, err)
			}
			again := forms(t, q) // passed on
			if r, err := ParseProxy[[]byte](again["pickle"]); err != nil || r.Key() != p.Key() {
				t.Error(err)
			}
			if bytes.Count(again["json"], []byte("store_dir")) != 1 {
				t.Errorf("%s", again["json"])
			}
		})
	}
	// The maker's own process finds its own store and opens no second one.
	q, err := ParseProxy[[]byte](forms(t, p)["json"])
	if err != nil {
		t.Fatal(err)
	}
	q.Bind(s.stores)
	if found, err := GetStore(ctx, q); err != nil || found != s {
		t.Errorf("another store, %v", err)
	}
}

// TestProxiesWithinValues: proxies travel inside structs, and inside objects of the store itself.
func TestProxiesWithinValues(t *testing.T) {
	ctx := t.Context()
	s := newTestStore(t, fileConfig(t))
	type job struct {
		Name  string         `json:"name" pickle:"name"`
		Input *Proxy[string] `json:"input" pickle:"input"`
	}
	want := job{"a", mustProxy(t, s, "in")}
	check := func(how string, got job) {
		t.Helper()
		got.Input.Bind(s.stores)
		if v, err := got.Input.Resolve(ctx); err != nil || v != "in" || got.Name != "a" {
			t.Errorf("%s: %v, %v", how, v, err)
		}
	}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var viaJSON job
	if err := json.Unmarshal(data, &viaJSON); err != nil {
		t.Fatal(err)
	}
	check("json", viaJSON)

	var buf bytes.Buffer
	if err := gob.NewEncoder(&buf).Encode(want); err != nil {
		t.Fatal(err)
	}
	var viaGob job
	if err := gob.NewDecoder(&buf).Decode(&viaGob); err != nil {
		t.Fatal(err)
	}
	check("gob", viaGob)

	outer := mustProxy(t, s, want, Populate(false))
	viaStore, err := outer.Resolve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	check("object", viaStore)
	if natural, err := s.Get(ctx, outer.Key()); err != nil {
		t.Error(err)
	} else if _, ok := natural.(map[string]any)["name"]; !ok {
		t.Errorf("%v", natural)
	}
}

func TestBadProxies(t *testing.T) {
	s := newTestStore(t, fileConfig(t))
	good := forms(t, mustProxy(t, s, "x"))
	bad := map[string][]byte{
		"nothing": nil, "space": []byte("  \n"), "prose": []byte("hello"), "empty json": []byte("{}"), "json of something else": []byte(`{"a":1}`),
		"version": bytes.Replace(good["json"], []byte(`"proxyplane":1`), []byte(`"proxyplane":9`), 1),
		"flavour": bytes.Replace(good["json"], []byte(`"flavour":"Proxy"`), []byte(`"flavour":"Ghost"`), 1),
		"text":    []byte("proxy1:%%%"), "binary": []byte("PPX1"), "os.system": []byte("cos\nsystem\n(S'touch /tmp/pwned'\ntR."),
		"not a proxy": []byte("\x80\x04K\x01."),
	}
	for name, data := range good {
		bad["truncated "+name] = data[:len(data)-7]
		bad["more after "+name] = append(bytes.Clone(data), "xyz"...)
	}
	for name, data := range bad {
		if _, err := ParseProxy[any](data); !errors.Is(err, ErrBadProxy) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Inspect(data); !errors.Is(err, ErrBadProxy) {
			t.Errorf("inspect %s: %v", name, err)
		}
	}
	if _, err := ParseProxy[any](bad["os.system"]); !strings.Contains(err.Error(), "os.system") {
		t.Errorf("the message does not say what it is: %v", err)
	}
	var empty Proxy[int]
	if _, err := empty.Resolve(t.Context()); err == nil {
		t.Error("an empty proxy resolved")
	}
	if _, err := json.Marshal(&empty); err == nil {
		t.Error("an empty proxy travelled")
	}
}

func TestFutures(t *testing.T) {
	configs(t, func(t *testing.T, cfg connectors.Config) {
		ctx := t.Context()
		s := newTestStore(t, cfg)
		f, err := NewFuture[string](ctx, s, Polling{Interval: time.Hour}) // by event, or the test never ends
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := f.Done(ctx); ok || err != nil {
			t.Error(ok, err)
		}
		data, err := f.Proxy().Pickle()
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseProxy[string](data)
		if err != nil {
			t.Fatal(err)
		}
		q.Bind(s.stores)
		got := make(chan string, 2)
		for _, resolve := range []func(context.Context) (string, error){f.Result, q.Resolve} {
			go func() {
				v, err := resolve(ctx)
				if err != nil {
					v = err.Error()
				}
				got <- v
			}()
		}
		time.Sleep(5 * time.Millisecond)
		if err := f.Set(ctx, "done"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if v := <-got; v != "done" {
				t.Error(v)
			}
		}
		never, err := NewFuture[string](ctx, s, Polling{Interval: time.Millisecond, Timeout: 20 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := never.Result(ctx); !errors.Is(err, ErrNotFound) {
			t.Errorf("after the timeout: %v", err)
		}
		cancelled, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		if _, err := never.Proxy().Resolve(cancelled); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrNotFound) {
			t.Errorf("after the caller's deadline: %v", err)
		}
	})
}

func TestOwnership(t *testing.T) {
	ctx := t.Context()
	s := newTestStore(t, LocalConnector())
	o, err := NewOwned(ctx, s, "v1")
	if err != nil {
		t.Fatal(err)
	}
	is := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	r1, err := o.Borrow()
	is("borrow", err, nil)
	r2, err := o.Borrow()
	is("second borrow", err, nil)
	_, err = o.MutBorrow()
	is("mutable borrow beside readers", err, ErrBorrowed)
	is("update while borrowed", o.Update(ctx, "no"), ErrBorrowed)
	is("close while borrowed", o.Close(ctx), ErrBorrowed)
	_, err = o.Pickle()
	is("pickle while borrowed", err, ErrBorrowed)
	r1.Release()
	r1.Release()
	r2.Release()
	_, err = r1.Resolve(ctx)
	is("released reference", err, ErrInvalidRef)
	w, err := o.MutBorrow()
	is("mutable borrow", err, nil)
	_, err = o.Borrow()
	is("borrow beside a writer", err, ErrBorrowed)
	is("update", w.Update(ctx, "v2"), nil)
	w.Release()
	if v, err := o.Resolve(ctx); v != "v2" || err != nil {
		t.Error(v, err)
	}
	c, err := o.Clone(ctx)
	is("clone", err, nil)
	is("update", o.Update(ctx, "v3"), nil)
	if v, err := c.Resolve(ctx); v != "v2" || err != nil {
		t.Error(v, err)
	}
	data, err := c.Pickle()
	is("pickle", err, nil)
	_, err = c.Resolve(ctx)
	is("the owner that was sent away", err, ErrInvalidRef)
	p, err := ParseProxy[string](data)
	is("parse", err, nil)
	if p.Flavour() != OwnedFlavour {
		t.Error(p.Flavour())
	}
	p.Bind(s.stores)
	there, err := IntoOwned(p)
	is("into owned", err, nil)
	key := there.Key()
	is("close", there.Close(ctx), nil)
	is("close again", there.Close(ctx), nil)
	if ok, _ := s.Exists(ctx, key); ok {
		t.Error("the object outlived its owner")
	}
	key = o.Key()
	plain, err := o.Release()
	is("release", err, nil)
	if v, err := plain.Resolve(ctx); v != "v3" || err != nil {
		t.Error(v, err)
	}
	_, err = o.Borrow()
	is("borrow from nobody", err, ErrInvalidRef)
	if ok, _ := s.Exists(ctx, key); !ok {
		t.Error("Release evicted the object")
	}
}

// TestDroppedOwner: an owner that nobody closes still takes its object along.
func TestDroppedOwner(t *testing.T) {
	ctx := t.Context()
	s := newTestStore(t, LocalConnector())
	key := func() Key {
		o, err := NewOwned(ctx, s, "x")
		if err != nil {
			t.Fatal(err)
		}
		return o.Key()
	}()
	for range 200 {
		runtime.GC()
		if ok, err := s.Exists(ctx, key); err != nil {
			t.Fatal(err)
		} else if !ok {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("the object is still there")
}

func TestLifetimes(t *testing.T) {
	ctx := t.Context()
	s := newTestStore(t, LocalConnector())
	exists := func(keys ...Key) (n int) {
		for _, k := range keys {
			if ok, err := s.Exists(ctx, k); err != nil {
				t.Fatal(err)
			} else if ok {
				n++
			}
		}
		return n
	}
	l := ContextLifetime(context.Background())
	k1, err := s.Put(ctx, "a", InLifetime(l))
	if err != nil {
		t.Fatal(err)
	}
	p := mustProxy(t, s, "b", InLifetime(l))
	q := mustProxy(t, s, "c")
	if err := AddProxy(ctx, l, q); err != nil {
		t.Fatal(err)
	}
	if n := exists(k1, p.Key(), q.Key()); n != 3 {
		t.Fatal(n)
	}
	if err := errors.Join(l.Close(ctx), l.Close(ctx)); err != nil || !l.Done() {
		t.Fatal(err)
	}
	if n := exists(k1, p.Key(), q.Key()); n != 0 {
		t.Errorf("%d objects outlived their lifetime", n)
	}
	k2, err := s.Put(ctx, "late", InLifetime(l))
	if !errors.Is(err, ErrLifetimeEnded) || k2 != nil {
		t.Errorf("a lifetime that is over took %v, %v", k2, err)
	}
}

func TestContextAndLeaseLifetimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s, err := Open(ctx, NewConfig("", LocalConnector()), WithStores(NewStores()), WithCacheBytes(0))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(context.Background())
		gone := func(k Key) bool { ok, _ := s.Exists(ctx, k); return !ok }

		bounded, cancel := context.WithCancel(ctx)
		key, err := s.Put(ctx, "x", InLifetime(ContextLifetime(bounded)))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		if !gone(key) {
			t.Error("the object outlived its context")
		}

		lease := LeaseLifetime(10 * time.Second)
		if key, err = s.Put(ctx, "x", InLifetime(lease)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)
		if err := lease.Extend(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if gone(key) {
			t.Error("the lease ended although it was extended")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !gone(key) || !lease.Done() {
			t.Error("the lease did not end")
		}
		if err := lease.Extend(time.Second); !errors.Is(err, ErrLifetimeEnded) {
			t.Error(err)
		}
	})
}

func TestStores(t *testing.T) {
	ctx := t.Context()
	r := NewStores()
	cfg := NewConfig("named", fileConfig(t))
	s, err := r.GetOrCreate(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	if again, err := r.GetOrCreate(ctx, cfg); err != nil || again != s {
		t.Error("a second store", err)
	}
	other := NewConfig("named", fileConfig(t))
	if _, err := r.GetOrCreate(ctx, other); !errors.Is(err, ErrStoreExists) {
		t.Errorf("another connector under the same name: %v", err)
	}
	if err := r.Register(s); err != nil {
		t.Error("registering twice:", err)
	}
	if !reflect.DeepEqual(r.Names(), []string{"named"}) {
		t.Error(r.Names())
	}
	r.Unregister("named")
	if _, ok := r.Get("named"); ok {
		t.Error("still registered")
	}
}

// TestSameNameOtherConnector: in Python the second store of a name hides the first one's proxies. Here each proxy finds its own objects.
func TestSameNameOtherConnector(t *testing.T) {
	ctx := t.Context()
	r := NewStores()
	defer r.Close(ctx)
	var proxies []*Proxy[string]
	for _, v := range []string{"a", "b"} {
		s, err := Open(ctx, NewConfig("same", fileConfig(t)), WithStores(NewStores()))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(ctx)
		p, err := ParseProxy[string](forms(t, mustProxy(t, s, v))["pickle"])
		if err != nil {
			t.Fatal(err)
		}
		p.Bind(r)
		proxies = append(proxies, p)
	}
	for i, want := range []string{"a", "b"} {
		if v, err := proxies[i].Resolve(ctx); err != nil || v != want {
			t.Error(v, err)
		}
	}
}
