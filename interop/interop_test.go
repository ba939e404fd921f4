package interop

import (
	"encoding/base64"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/redistest"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/serialize"
)

// versions are the ProxyStore releases that we are compatible with, with the format in which we write for each.
var versions = []struct {
	name   string
	format serialize.Format
}{{testenv.ProxyStore11, serialize.ProxyStore11}, {testenv.ProxyStore06, serialize.ProxyStore06}}

// side is one connector as both sides open it.
type side struct {
	name  string
	store string            // its store's name in worker.py, never used twice
	spec  m                 // for worker.py
	cfg   connectors.Config // for us
	// shared is false for a connector whose objects stay in the process, so that only proxies that carry them can pass.
	shared bool
}

// kind is the connector's short name.
func (s side) kind() string {
	kind, _, _ := strings.Cut(s.name, "-")
	return kind
}

// serial makes names that no other test has: the worker of a version serves all tests.
var serial atomic.Int64

func sides(t *testing.T) []side {
	t.Helper()
	dir, multi := t.TempDir(), t.TempDir()
	server := redistest.Start(t)
	host, port := server.Host, server.Port
	policy := func(low, high int64) map[string]any {
		return map[string]any{"priority": int64(0), "host_pattern": ".*", "min_size_bytes": low, "max_size_bytes": high,
			"subset_tags": []any{}, "superset_tags": []any{}}
	}
	small, large := policy(0, 1000), policy(1001, 1<<63-1)
	fileSpec, redisSpec := m{"kind": "file", "store_dir": multi}, m{"kind": "redis", "hostname": host, "port": port}
	n := strconv.FormatInt(serial.Add(1), 10)
	return []side{
		{"file", "file" + n, m{"kind": "file", "store_dir": dir}, proxyplane.FileConnector(dir), true},
		{"redis", "redis" + n, redisSpec, proxyplane.RedisConnector(host, port), true},
		{"multi", "multi" + n, m{"kind": "multi", "children": m{"small": m{"connector": redisSpec, "policy": small}, "large": m{"connector": fileSpec, "policy": large}}},
			connectors.Config{Kind: "multi", Options: map[string]any{
				"small": []any{"proxystore.connectors.redis.RedisConnector", proxyplane.RedisConnector(host, port).Options, small},
				"large": []any{"proxystore.connectors.file.FileConnector", proxyplane.FileConnector(multi).Options, large},
			}}, true},
		{"local", "local" + n, m{"kind": "local"}, connectors.Config{Kind: "local", Options: map[string]any{"include_data_in_config": true}}, false},
	}
}

// dimSides are the distributed in-memory connectors, with a server of ours and with Python's. Only proxystore-ex for 1.1.0 has them.
func dimSides(t *testing.T) []side {
	t.Helper()
	var all []side
	for _, server := range []dimServer{embedded(t, zmqKind, false), python(t, zmqKind)} {
		n := strconv.FormatInt(serial.Add(1), 10)
		all = append(all, side{"zmq-" + server.name, "zmq" + n, server.spec(), server.config(), true})
	}
	return all
}

// openStore opens our store of a side, for a worker of one version, under a name that is unique to the test.
func openStore(t *testing.T, s side) *proxyplane.Store {
	t.Helper()
	name := strings.ReplaceAll(t.Name(), "/", "-")
	st, err := proxyplane.Open(t.Context(), proxyplane.NewConfig(name, s.cfg), proxyplane.WithStores(stores(t)), proxyplane.WithPopulateTarget(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close(t.Context()) })
	return st
}

// stores returns a set of stores as another process would have it.
func stores(t *testing.T) *proxyplane.Stores {
	r := proxyplane.NewStores()
	t.Cleanup(func() {
		if err := r.Close(t.Context()); err != nil && !errors.Is(err, t.Context().Err()) {
			t.Error(err)
		}
	})
	return r
}

// each runs f for every version and connector, with a worker of that version.
func each(t *testing.T, f func(t *testing.T, w *worker, format serialize.Format, s side)) {
	for _, v := range versions {
		t.Run("proxystore="+v.name, func(t *testing.T) {
			w := sharedWorker(t, v.name)
			all := sides(t)
			if v.name == testenv.ProxyStore11 {
				all = append(all, dimSides(t)...)
			}
			for _, s := range all {
				t.Run("conn="+s.name, func(t *testing.T) { f(t, w, v.format, s) })
			}
		})
	}
}

func names() []string { return slices.Sorted(maps.Keys(values)) }

func pyKey(key proxyplane.Key) any { return keyJSON(key) }

func keyJSON(key proxyplane.Key) m {
	fields := key.Tuple()
	for i, f := range fields {
		if inner, ok := f.(proxyplane.Key); ok {
			fields[i] = keyJSON(inner)
		}
	}
	return m{"kind": key.Kind(), "key": fields}
}

// goKey returns the key of a tuple that worker.py answered with.
func goKey(t *testing.T, s side, size int, tuple any) proxyplane.Key {
	t.Helper()
	fields := tuple.([]any)
	switch s.kind() {
	case "zmq":
		return dimKey(tuple)
	case "file":
		return connectors.FileKey{Filename: fields[0].(string)}
	case "redis":
		return connectors.RedisKey{RedisKey: fields[0].(string)}
	case "multi":
		inner := fields[1].([]any)[0].(string)
		if fields[0] == "small" {
			return connectors.MultiKey{ConnectorName: "small", ConnectorKey: connectors.RedisKey{RedisKey: inner}}
		}
		return connectors.MultiKey{ConnectorName: fields[0].(string), ConnectorKey: connectors.FileKey{Filename: inner}}
	}
	t.Fatalf("no key for %s", s.name)
	return nil
}

// TestPythonPutsWeGet: every kind of value, through every connector.
func TestPythonPutsWeGet(t *testing.T) {
	each(t, func(t *testing.T, w *worker, _ serialize.Format, s side) {
		if !s.shared {
			return // its proxies carry the data: TestPythonProxies
		}
		st := openStore(t, s)
		for _, name := range names() {
			tuple := w.do(t, m{"op": "put", "store": s.store, "spec": s.spec, "value": name})
			key := goKey(t, s, 0, tuple)
			got, err := st.Get(t.Context(), key)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if err := check(name, got); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err := st.Evict(t.Context(), key); err != nil {
				t.Error(err)
			}
			if w.do(t, m{"op": "exists", "store": s.store, "spec": s.spec, "key": pyKey(key)}) != false {
				t.Errorf("%s: Python still sees it after our Evict", name)
			}
		}
	})
}

// TestWePutPythonGets: every kind of value that Go has, through every connector.
func TestWePutPythonGets(t *testing.T) {
	each(t, func(t *testing.T, w *worker, format serialize.Format, s side) {
		if !s.shared {
			return
		}
		st := openStore(t, s)
		for _, name := range names() {
			v := values[name]
			if v.put == nil {
				continue
			}
			key, err := st.Put(t.Context(), v.put, proxyplane.As(format))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if _, err := w.try(m{"op": "get", "store": s.store, "spec": s.spec, "value": name, "key": pyKey(key), "loose": v.loose || name == "nested" || name == "dict"}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			w.do(t, m{"op": "evict", "store": s.store, "spec": s.spec, "key": pyKey(key)})
			if ok, err := st.Connector().Exists(t.Context(), key); ok || err != nil {
				t.Errorf("%s: we still see it after Python's evict, %v", name, err)
			}
		}
	})
}

// TestPythonProxies: proxies of every pickler and every flavour decode and resolve here.
func TestPythonProxies(t *testing.T) {
	each(t, func(t *testing.T, w *worker, _ serialize.Format, s side) {
		for _, dumps := range []string{"pickle0", "pickle1", "pickle2", "pickle3", "pickle4", "pickle5", "dill", "cloudpickle"} {
			for _, name := range []string{"bytes", "str", "nested", "f8"} {
				data := w.doBytes(t, m{"op": "proxy", "store": s.store, "spec": s.spec, "value": name, "dumps": dumps})
				p, err := proxyplane.ParseProxy[any](data)
				if err != nil {
					t.Errorf("%s %s: %v", dumps, name, err)
					continue
				}
				p.Bind(stores(t))
				got, err := p.Resolve(t.Context())
				if err == nil {
					err = check(name, got)
				}
				if err != nil {
					t.Errorf("%s %s: %v", dumps, name, err)
				}
			}
		}
		data := w.doBytes(t, m{"op": "proxy", "store": s.store, "spec": s.spec, "value": "str", "dumps": "pickle5", "evict": true, "populate": false})
		p, err := proxyplane.ParseProxy[string](data)
		if err != nil {
			t.Fatal(err)
		}
		p.Bind(stores(t))
		if v, err := p.Resolve(t.Context()); err != nil || v != "plain text" || !p.Evicts() {
			t.Errorf("evicting proxy: %q, %v", v, err)
		}
		if s.shared && w.do(t, m{"op": "exists", "store": s.store, "spec": s.spec, "key": pyKey(p.Key())}) != false {
			t.Error("our resolve did not evict Python's object")
		}
		for _, flavour := range []string{"OwnedProxy", "RefProxy", "RefMutProxy"} {
			for _, dumps := range []string{"pickle5", "dill"} {
				if dumps == "dill" && s.name == "local" {
					continue // the owner's state is in the worker only
				}
				data := w.doBytes(t, m{"op": "proxy", "store": s.store, "spec": s.spec, "value": "str", "dumps": dumps, "flavour": flavour, "id": "own"})
				p, err := proxyplane.ParseProxy[string](data)
				if err != nil {
					t.Errorf("%s %s: %v", flavour, dumps, err)
					continue
				}
				p.Bind(stores(t))
				if v, err := p.Resolve(t.Context()); err != nil || v != "plain text" || p.Flavour().String() != flavour {
					t.Errorf("%s: %q, %v, %v", flavour, v, p.Flavour(), err)
				}
				w.do(t, m{"op": "drop", "id": "own"})
			}
		}
	})
}

// TestPythonFutures: a proxy of what Python has not set yet waits here until it has.
func TestPythonFutures(t *testing.T) {
	each(t, func(t *testing.T, w *worker, _ serialize.Format, s side) {
		if s.name == "local" || s.name == "multi" || s.kind() == "zmq" { // the original's multi and zmq connectors cannot defer
			return
		}
		data := w.doBytes(t, m{"op": "proxy", "store": s.store, "spec": s.spec, "value": "nested", "dumps": "pickle5", "flavour": "future", "id": "f"})
		p, err := proxyplane.ParseProxy[any](data)
		if err != nil {
			t.Fatal(err)
		}
		p.Bind(stores(t))
		got := make(chan error, 1)
		go func() {
			v, err := p.Resolve(t.Context())
			if err == nil {
				err = check("nested", v)
			}
			got <- err
		}()
		select {
		case err := <-got:
			t.Fatalf("resolved before it was set: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		w.do(t, m{"op": "set-result", "id": "f"})
		if err := <-got; err != nil {
			t.Error(err)
		}
	})
}

// TestOurProxies: our proxies are transparent, lazy proxystore proxies in Python, through pickle, dill and cloudpickle, and go on from there.
func TestOurProxies(t *testing.T) {
	each(t, func(t *testing.T, w *worker, format serialize.Format, s side) {
		for _, loads := range []string{"pickle", "python-pickle", "dill", "cloudpickle"} {
			for _, through := range [][]string{nil, {"pickle"}, {"dill"}, {"cloudpickle", "pickle"}} {
				for _, name := range []string{"bytes", "str", "f8", "dict", "list"} {
					st := openStore(t, s)
					v := values[name]
					p, err := proxyplane.NewProxy(t.Context(), st, v.put, proxyplane.As(format))
					if err != nil {
						t.Fatal(err)
					}
					data, err := p.Pickle(proxyplane.For(format))
					if err != nil {
						t.Fatal(err)
					}
					answer, err := w.try(m{"op": "resolve", "loads": loads, "through": through, "data": base64.StdEncoding.EncodeToString(data), "value": name,
						"loose": name == "dict", "isinstance": true, "unregister": true})
					if err != nil {
						t.Errorf("%s by %s through %v: %v", name, loads, through, err)
						continue
					}
					if a := answer.(m); a["evict"] != false || a["store"] != st.Name() {
						t.Errorf("%v", a)
					}
					st.Close(t.Context())
				}
			}
		}
	})
}

// TestOurProxiesOfAllKinds: evicting, owned, borrowed and future proxies of ours in Python.
func TestOurProxiesOfAllKinds(t *testing.T) {
	each(t, func(t *testing.T, w *worker, format serialize.Format, s side) {
		if !s.shared {
			return
		}
		ctx := t.Context()
		st := openStore(t, s)
		resolve := func(what string, data []byte, err error, more m) {
			t.Helper()
			if err != nil {
				t.Errorf("%s: %v", what, err)
				return
			}
			cmd := m{"op": "resolve", "loads": "pickle", "data": base64.StdEncoding.EncodeToString(data), "value": "str"}
			maps.Copy(cmd, more)
			if _, err := w.try(cmd); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		p, err := proxyplane.NewProxy(ctx, st, "plain text", proxyplane.As(format), proxyplane.Evict())
		if err != nil {
			t.Fatal(err)
		}
		data, err := p.Pickle(proxyplane.For(format))
		resolve("evict", data, err, nil)
		if ok, err := st.Connector().Exists(ctx, p.Key()); ok || err != nil {
			t.Errorf("Python's resolve did not evict our object, %v", err)
		}
		o, err := proxyplane.NewOwned(ctx, st, "plain text", proxyplane.As(format))
		if err != nil {
			t.Fatal(err)
		}
		ref, err := o.Borrow()
		if err != nil {
			t.Fatal(err)
		}
		data, err = ref.Pickle(proxyplane.For(format))
		resolve("ref", data, err, m{"flavour": "RefProxy"})
		ref.Release()
		mut, err := o.MutBorrow()
		if err != nil {
			t.Fatal(err)
		}
		data, err = mut.Pickle(proxyplane.For(format))
		resolve("refmut", data, err, m{"flavour": "RefMutProxy"})
		mut.Release()
		key := o.Key()
		data, err = o.Pickle(proxyplane.For(format))
		resolve("owned", data, err, m{"flavour": "OwnedProxy"})
		gone := false
		for range 100 { // Python's owner evicts when it is collected
			if ok, err := st.Connector().Exists(ctx, key); err == nil && !ok {
				gone = true
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if !gone {
			t.Error("Python's owner did not evict our object")
		}
		f, err := proxyplane.NewFuture[string](ctx, st, proxyplane.Polling{Interval: 10 * time.Millisecond, Timeout: 30 * time.Second}, proxyplane.As(format))
		if errors.Is(err, errors.ErrUnsupported) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err = f.Proxy().Pickle(proxyplane.For(format))
		set := make(chan error, 1)
		go func() {
			time.Sleep(50 * time.Millisecond)
			set <- f.Set(ctx, "plain text")
		}()
		resolve("future", data, err, nil)
		if err := <-set; err != nil {
			t.Error(err)
		}
	})
}

// TestTOML: store configurations, both ways.
func TestTOML(t *testing.T) {
	w := sharedWorker(t, testenv.ProxyStore11)
	for _, s := range append(sides(t), dimSides(t)...) {
		t.Run("conn="+s.name, func(t *testing.T) {
			ctx := t.Context()
			path := filepath.Join(t.TempDir(), "python.toml")
			if s.name != "local" && s.kind() != "zmq" { // a store_dict with LocalKeys is no TOML, nor is an interface that is None, in Python neither
				w.do(t, m{"op": "toml-write", "store": s.store, "spec": s.spec, "path": path})
				cfg, err := proxyplane.ReadConfig(path)
				if err != nil {
					t.Fatal(err)
				}
				st, err := proxyplane.Open(ctx, cfg, proxyplane.WithStores(stores(t)))
				if err != nil {
					t.Fatal(err)
				}
				defer st.CloseClear(ctx, false)
				key, err := st.Put(ctx, "plain text")
				if err != nil {
					t.Fatal(err)
				}
				w.do(t, m{"op": "get", "store": s.store, "spec": s.spec, "value": "str", "key": pyKey(key)})
			}
			ours := openStore(t, s)
			path = filepath.Join(t.TempDir(), "ours.toml")
			if err := proxyplane.WriteConfig(path, ours.Config()); err != nil {
				t.Fatal(err)
			}
			cmd := m{"op": "toml-read", "path": path}
			if s.name == "file" || s.name == "redis" || s.kind() == "zmq" { // the original cannot open a multi connector from its configuration
				cmd["value"] = "str"
			}
			answer := w.do(t, cmd).(m)
			if cfg := answer["config"].(m); cfg["name"] != ours.Name() || cfg["cache_size"] != 16.0 {
				t.Errorf("Python read %v", cfg)
			}
			if cmd["value"] != nil {
				if v, err := ours.Get(ctx, goKey(t, s, 0, answer["key"])); err != nil || v != "plain text" {
					t.Errorf("%v, %v", v, err)
				}
			}
		})
	}
}

// TestOriginalCannotDoMulti records why our pickles of multi proxies are made as they are: should ProxyStore mend it, this test says so.
func TestOriginalCannotDoMulti(t *testing.T) {
	w := sharedWorker(t, testenv.ProxyStore11)
	var multi side
	for _, s := range sides(t) {
		if s.name == "multi" {
			multi = s
		}
	}
	data := w.do(t, m{"op": "proxy", "store": multi.store, "spec": multi.spec, "value": "str", "dumps": "pickle5"})
	other := startWorker(t, testenv.ProxyStore11)
	if _, err := other.try(m{"op": "resolve", "loads": "pickle", "data": data, "value": "str"}); err == nil {
		t.Error("Python's own multi proxy resolved in another process: the workaround in python.go is not needed any more")
	} else if !strings.Contains(err.Error(), "unexpected keyword argument") {
		t.Errorf("it fails for another reason: %v", err)
	}
}
