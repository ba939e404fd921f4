package interop

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/serialize"
)

// cli runs our binary, which is built once for the package.
func cli(t *testing.T, stdin []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(binary(t), args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("proxyplane %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

var (
	built string
	tags  []string // that the binary is built with: those of the tests
)

func binary(t *testing.T) string {
	t.Helper()
	if built == "" {
		until := &untilTheEnd{TB: t}
		path := filepath.Join(until.TempDir(), "proxyplane")
		cmd := exec.Command("go", "build", "-tags", strings.Join(tags, ","), "-o", path, "./cmd/proxyplane")
		cmd.Dir = testenv.Root()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
		built = path
	}
	return built
}

// cliValues are the values that the command line can say, by its --as.
func cliValues(t *testing.T) map[string]struct {
	as   string
	data []byte
} {
	t.Helper()
	npy := func(a *serialize.Array) []byte {
		obj, err := serialize.Encode(a)
		if err != nil {
			t.Fatal(err)
		}
		return obj.Join()[serialize.TagLen:]
	}
	return map[string]struct {
		as   string
		data []byte
	}{
		"bytes":    {"bytes", values["bytes"].put.([]byte)},
		"bytes-1M": {"bytes", values["bytes-1M"].put.([]byte)},
		"str":      {"str", []byte("plain text")},
		"f8":       {"npy", npy(values["f8"].put.(*serialize.Array))},
		"dict":     {"json", []byte(`{"a": 1, "b": [1, 2, 3], "c": {"d": "e"}}`)},
	}
}

// TestCommandLine: real ProxyStore and our binary, through every shared connector, both ways.
func TestCommandLine(t *testing.T) {
	each(t, func(t *testing.T, w *worker, format serialize.Format, s side) {
		if !s.shared {
			return
		}
		toml := filepath.Join(t.TempDir(), "store.toml")
		if err := proxyplane.WriteConfig(toml, proxyplane.NewConfig("cli-"+s.store, s.cfg)); err != nil {
			t.Fatal(err)
		}
		flavour, old := "pickle", format == serialize.ProxyStore06
		if old {
			flavour = "pickle-0.6"
		}
		for name, v := range cliValues(t) {
			if !old { // put writes 1.1.0's tags
				var put struct {
					Kind string
					Key  json.RawMessage
					Size int
				}
				line := cli(t, v.data, "put", "--store", toml, "--as", v.as, "-")
				if err := json.Unmarshal(line, &put); err != nil || put.Kind != s.kind() || put.Size != len(v.data) {
					t.Fatalf("put printed %s, %v", line, err)
				}
				var key any
				if err := json.Unmarshal(put.Key, &key); err != nil {
					t.Fatal(err)
				}
				w.do(t, m{"op": "get", "store": s.store, "spec": s.spec, "value": name, "key": m{"kind": put.Kind, "key": key}, "loose": true})
				cli(t, nil, "exists", "--store", toml, "--key", string(line))
				cli(t, nil, "evict", "--store", toml, "--key", string(line))
				if err := exec.Command(binary(t), "exists", "--store", toml, "--key", string(line)).Run(); err == nil {
					t.Errorf("%s: exists after evict", name)
				}
			}
			theirs := goKey(t, s, 0, w.do(t, m{"op": "put", "store": s.store, "spec": s.spec, "value": name}))
			key, err := json.Marshal(pyKey(theirs))
			if err != nil {
				t.Fatal(err)
			}
			if got := cli(t, nil, "get", "--store", toml, "--key", string(key)); !sameOutput(v.as, got, v.data) {
				t.Errorf("%s: got %.200q", name, got)
			}

			path := filepath.Join(t.TempDir(), "proxy")
			cli(t, v.data, "proxy", "--store", toml, "--as", v.as, "--format", flavour, "-", "-o", path)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, loads := range []string{"pickle", "dill"} {
				w.do(t, m{"op": "resolve", "loads": loads, "data": base64.StdEncoding.EncodeToString(data), "value": name, "loose": true, "isinstance": true})
			}
			if got := cli(t, nil, "resolve", path); !sameOutput(v.as, got, v.data) {
				t.Errorf("%s: got %.200q", name, got)
			}
			for _, dumps := range []string{"pickle5", "dill"} {
				if err := os.WriteFile(path, w.doBytes(t, m{"op": "proxy", "store": s.store, "spec": s.spec, "value": name, "dumps": dumps}), 0o600); err != nil {
					t.Fatal(err)
				}
				if got := cli(t, nil, "resolve", path); !sameOutput(v.as, got, v.data) {
					t.Errorf("%s: got %.200q", name, got)
				}
				var info proxyplane.ProxyInfo
				if err := json.Unmarshal(cli(t, nil, "inspect", "--json", path), &info); err != nil || info.Store != s.store || info.Kind != s.kind() {
					t.Errorf("inspect: %+v, %v", info, err)
				}
			}
		}
	})
}

// sameOutput compares what the command line wrote with what went in: JSON by value, the rest byte by byte.
func sameOutput(as string, got, want []byte) bool {
	if as != "json" {
		return bytes.Equal(got, want)
	}
	var a, b any
	return json.Unmarshal(got, &a) == nil && json.Unmarshal(want, &b) == nil && same(b, a) == nil
}
