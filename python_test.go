package proxyplane

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/pickle"
)

func recorded(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".pickle"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestRecordedProxies reads what real ProxyStore wrote (testdata/record.py); interop/ does the same live.
func TestRecordedProxies(t *testing.T) {
	for _, version := range []string{"", "06"} {
		form := map[string]string{"": "pickle", "06": "pickle-0.6"}[version]
		for name, want := range map[string]struct {
			flavour Flavour
			evict   bool
			class   string
		}{
			"plain": {class: "builtins.bytes"}, "protocol0": {class: "builtins.bytes"}, "protocol2": {class: "builtins.bytes"}, "dill": {class: "builtins.bytes"},
			"cloudpickle": {class: "builtins.bytes"}, "evict": {evict: true}, "future": {}, "owned": {flavour: OwnedFlavour}, "ref": {flavour: RefFlavour},
			"refmut": {flavour: RefMutFlavour},
		} {
			data := recorded(t, name+version)
			p, err := ParseProxy[any](data)
			if err != nil {
				t.Errorf("%s%s: %v", name, version, err)
				continue
			}
			info, err := Inspect(data)
			if err != nil {
				t.Fatal(err)
			}
			if p.Flavour() != want.flavour || p.Evicts() != want.evict || info.Form != form || info.Kind != "file" || info.Store != "recorded" ||
				info.Options["store_dir"] != "/tmp/proxystore-recorded" || info.Options["clear"] != false {
				t.Errorf("%s%s: %+v", name, version, info)
			}
			if version == "" && want.class != "" && info.Class != want.class {
				t.Errorf("%s: class %q", name, info.Class)
			}
			if _, err := json.Marshal(p); err != nil {
				t.Errorf("%s%s does not travel on: %v", name, version, err)
			}
		}
		r, err := parse(recorded(t, "future"+version))
		if err != nil || r.polling == nil || r.polling.Interval != 500*time.Millisecond || r.polling.Timeout != 3*time.Second || r.polling.Limit != 0 {
			t.Errorf("future%s: %+v, %v", version, r.polling, err)
		}
		if r, err = parse(recorded(t, "redis"+version)); err != nil || r.key != (connectors.RedisKey{RedisKey: "some-key"}) ||
			r.received.Connector.Options["port"] != int64(6399) {
			t.Errorf("redis%s: %+v, %v", version, r, err)
		}
		r, err = parse(recorded(t, "multi"+version))
		if err != nil {
			t.Fatal(err)
		}
		if key, ok := r.key.(connectors.MultiKey); !ok || key.ConnectorName != "file" || key.ConnectorKey.Kind() != "file" {
			t.Errorf("multi%s: %v", version, r.key)
		}
		child, ok := r.received.Connector.Options["file"].([]any)
		if !ok || child[0] != "proxystore.connectors.file.FileConnector" || child[2].(map[string]any)["max_size_bytes"] != int64(1000) {
			t.Errorf("multi%s: %v", version, r.received.Connector.Options)
		}
		p, err := ParseProxy[string](recorded(t, "deserializer"+version))
		if err != nil {
			t.Fatal(err)
		}
		p.Bind(NewStores(WithPolicy(AllowAll)))
		if _, err := p.Resolve(t.Context()); err == nil {
			t.Errorf("deserializer%s: resolved", version)
		}
		if info, err := Inspect(recorded(t, "deserializer"+version)); err != nil || !strings.Contains(info.Deserializer, "pickle.loads") {
			t.Errorf("deserializer%s: %q, %v", version, info.Deserializer, err)
		}
		q, err := ParseProxy[string](recorded(t, "local"+version)) // it brings its data along
		if err != nil {
			t.Fatal(err)
		}
		stores := NewStores()
		q.Bind(stores)
		if v, err := q.Resolve(t.Context()); err != nil || v != "inside" {
			t.Errorf("local%s: %q, %v", version, v, err)
		}
		if err := stores.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestEmittedPickle looks at the structure that we write; that Python loads it is interop's to show.
func TestEmittedPickle(t *testing.T) {
	s := newTestStore(t, fileConfig(t))
	p := mustProxy(t, s, map[string]int{"a": 1}, Evict())
	data, err := p.Pickle()
	if err != nil {
		t.Fatal(err)
	}
	v, err := pickle.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	o := v.(*pickle.Object)
	factory := o.Args[0].(*pickle.Object)
	if !o.Is("proxystore.proxy", "_proxy_trampoline") || !factory.Is("proxystore.store.factory", "StoreFactory") || !factory.New {
		t.Errorf("%+v", o)
	}
	if o.Args[1] != (pickle.Global{Module: "builtins", Name: "dict"}) {
		t.Errorf("class %v: Parsl would resolve the proxy at submit", o.Args[1])
	}
	config, _ := factory.State.(*pickle.Dict).GetString("store_config")
	if !config.(*pickle.Object).Is("proxystore.store.config", "StoreConfig.model_validate") {
		t.Errorf("config %+v", config)
	}
	again, err := p.Pickle()
	if err != nil || string(again) != string(data) {
		t.Error("the same proxy pickles differently")
	}
}

func TestSecretsStay(t *testing.T) {
	cfg := RedisConnector("localhost", 1)
	cfg.Options["password"] = "hunter2"
	r := &reference{key: connectors.RedisKey{RedisKey: "k"}, received: &Config{Name: "n", Connector: cfg}}
	j, err := r.marshalJSON()
	if err != nil || strings.Contains(string(j), "hunter2") {
		t.Errorf("%s, %v", j, err)
	}
	if _, err := r.pickle(serialize.ProxyStore11); !errors.Is(err, connectors.ErrNotForPython) {
		t.Errorf("Python's connector cannot authenticate: %v", err)
	}
	delete(cfg.Options, "password")
	if _, err := r.pickle(serialize.ProxyStore11); err != nil {
		t.Error(err)
	}
	cfg.Options["tls"] = true // Python's connector would talk to the wrong thing in the clear
	if _, err := r.pickle(serialize.ProxyStore11); !errors.Is(err, connectors.ErrNotForPython) {
		t.Error(err)
	}
}

func TestClassOfValues(t *testing.T) {
	type named []byte
	for _, c := range []struct {
		v    any
		want string
	}{
		{[]byte{}, "bytes"}, {"", "str"}, {1, "int"}, {uint8(1), "int"}, {1.5, "float"}, {[]int{}, "list"}, {map[string]int{}, "dict"}, {named{}, "bytes"},
		{complex(1, 2), "complex"}, {&serialize.Array{}, "ndarray"}, {struct{}{}, ""}, {time.Now(), ""},
	} {
		if got := pythonClass(reflect.TypeOf(c.v)); got.Name != c.want {
			t.Errorf("%T: %v, want %s", c.v, got, c.want)
		}
	}
}
