package proxyplane

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
)

// pythonTOML is what ProxyStore 1.1.0 wrote for a file store.
const pythonTOML = `name = "example"
cache_size = 16
metrics = false
populate_target = true
auto_register = false

[connector]
kind = "proxystore.connectors.file.FileConnector"

[connector.options]
store_dir = "/tmp/proxystore-cache"
clear = true
buffering = -1
`

func TestTOML(t *testing.T) {
	c, err := ParseTOML([]byte(pythonTOML))
	if err != nil {
		t.Fatal(err)
	}
	want := NewConfig("example", connectors.Config{Kind: "proxystore.connectors.file.FileConnector",
		Options: map[string]any{"store_dir": "/tmp/proxystore-cache", "clear": true, "buffering": int64(-1)}})
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v", c)
	}
	short, err := ParseTOML([]byte("name = \"s\"\n[connector]\nkind = \"file\"\n[connector.options]\nstore_dir = \"x\"\n"))
	if err != nil || short.CacheSize != 16 || !short.PopulateTarget {
		t.Errorf("%+v, %v", short, err)
	}
	multi := NewConfig("m", connectors.Config{Kind: "multi", Options: map[string]any{
		"a": []any{"proxystore.connectors.local.LocalConnector", map[string]any{}, map[string]any{"priority": int64(1), "host_pattern": nil, "max_size_bytes": int64(1<<63 - 1)}},
	}})
	path := filepath.Join(t.TempDir(), "multi.toml")
	if err := WriteConfig(path, multi); err != nil {
		t.Fatal(err)
	}
	back, err := ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	delete(multi.Connector.Options["a"].([]any)[2].(map[string]any), "host_pattern") // TOML has no null; Python leaves it out too
	if !reflect.DeepEqual(back, multi) {
		t.Errorf("got %+v\nwant %+v", back, multi)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

func TestBadTOML(t *testing.T) {
	for name, text := range map[string]string{
		"not toml":      "name = ",
		"unknown key":   pythonTOML + "\n[connector.more]\nx = 1\n",
		"unknown top":   "colour = \"red\"\n" + pythonTOML,
		"wrong type":    strings.Replace(pythonTOML, "16", `"sixteen"`, 1),
		"no name":       strings.Replace(pythonTOML, `name = "example"`, "", 1),
		"no connector":  "name = \"x\"\n",
		"negative":      strings.Replace(pythonTOML, "16", "-1", 1),
		"huge":          strings.Repeat("#", 2<<20),
		"a date option": strings.Replace(pythonTOML, "clear = true", "clear = 2020-01-01", 1),
	} {
		if _, err := ParseTOML([]byte(text)); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadConfig(filepath.Join(t.TempDir(), "none.toml")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzParseTOML(f *testing.F) {
	f.Add([]byte(pythonTOML))
	f.Add([]byte("name=''\n[connector]\nkind='multi'\n[connector.options]\na=['x',{},{}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseTOML(data)
		if err != nil {
			return
		}
		out, err := c.TOML()
		if err != nil {
			t.Fatalf("read but cannot be written: %v", err)
		}
		back, err := ParseTOML(out)
		if err != nil {
			t.Fatalf("written but cannot be read: %v\n%s", err, out)
		}
		again, err := back.TOML()
		if err != nil || !bytes.Equal(out, again) {
			t.Fatalf("not a fixed point: %v\n%s\n%s", err, out, again)
		}
	})
}

func FuzzParseProxy(f *testing.F) {
	for _, name := range []string{"plain.pickle", "dill.pickle", "future.pickle", "owned.pickle", "plain06.pickle", "protocol0.pickle", "multi.pickle", "local.pickle"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"proxyplane":1,"flavour":"Proxy","key":{"kind":"file","key":["x"]},"store":{"name":"n","connector":{"kind":"file","options":{"store_dir":"/x"}}},"evict":false}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseProxy[any](data)
		if err != nil {
			if !errors.Is(err, ErrBadProxy) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if _, err := Inspect(data); err != nil {
			t.Fatal(err)
		}
		out, err := p.MarshalJSON()
		if err != nil {
			return // a configuration that does not travel
		}
		back, err := ParseProxy[any](out)
		if err != nil || back.Key().Identity() != p.Key().Identity() || back.Evicts() != p.Evicts() || back.Flavour() != p.Flavour() {
			t.Fatalf("changed on the way: %v\n%s", err, out)
		}
	})
}
