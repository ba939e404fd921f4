package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/internal/dataset"
)

// TestProxies makes proxies of every form of object in every format and resolves them.
func TestProxies(t *testing.T) {
	e := newEnv(t)
	npy, _ := dataset.Read("coordinates.npy")
	for _, format := range proxyFormats {
		for _, c := range []struct{ as, in, class, raw string }{
			{"bytes", "\x00\x01", "builtins.bytes", "BS\n\x00\x01"},
			{"str", "text", "builtins.str", "US\ntext"},
			{"npy", string(npy), "numpy.ndarray", "NP\n" + string(npy)},
			{"json", `{"a":[1,2.5]}` + "\n", "builtins.dict", ""},
			{"json", "[]\n", "builtins.list", ""},
			{"json", "7\n", "builtins.int", ""},
			{"raw", "US\nraw", "builtins.str", "US\nraw"},
		} {
			e.write("in", c.in)
			e.ok("", "proxy", "--as", c.as, "--format", format, "in", "-o", "p")
			want := strings.TrimPrefix(c.in, "US\n")
			if got := e.ok("", "resolve", "p"); got != want {
				t.Errorf("%s %s: got %.60q", format, c.as, got)
			}
			if got := e.ok(e.read("p"), "resolve", "-", "-o", "out"); got != "" || e.read("out") != want {
				t.Errorf("%s %s with -o: got %.60q", format, c.as, got)
			}
			if raw := e.ok("", "resolve", "--raw", "p"); c.raw != "" && format != "pickle-0.6" && raw != c.raw {
				t.Errorf("%s %s --raw: %.60q", format, c.as, raw)
			} else if format == "pickle-0.6" && c.as != "raw" && raw[0] != '0' {
				t.Errorf("0.6.5 cannot read %.60q", raw)
			}
			info := unmarshal[proxyplane.ProxyInfo](t, e.ok("", "inspect", "--json", "p"))
			if info.Form != format || info.Class != c.class || info.Store != "cli-test" || info.Kind != "file" || info.Evict || !info.Populate ||
				info.Options["store_dir"] != e.objects {
				t.Errorf("%s %s: %+v", format, c.as, info)
			}
		}
	}
	e.fails(exitBadInput, "cannot be behind a proxy", "true", "proxy", "--as", "json", "-")
	e.fails(exitUsage, "--format", "", "proxy", "--format", "xml", "-")
	e.fails(exitUsage, "either a FILE", "", "proxy")
}

func TestProxyOfKey(t *testing.T) {
	e := newEnv(t)
	key := e.ok("x", "put", "-")
	e.ok("", "proxy", "--key", key, "--format", "json", "-o", "p")
	if got := e.ok("", "resolve", "p"); got != "x" {
		t.Errorf("got %q", got)
	}
	out := e.ok("", "proxy", "--key", key, "-o", "p", "--json")
	if l := unmarshal[struct{ Output, Kind string }](t, out); l.Output != "p" || l.Kind != "file" {
		t.Errorf("summary %s", out)
	}
}

// TestFailedProxyLeavesNoObject: when the proxy cannot be written, nobody could ever name the object.
func TestFailedProxyLeavesNoObject(t *testing.T) {
	e := newEnv(t)
	e.fails(exitIO, "does not exist", "x", "proxy", "-", "-o", "no/such/dir/p")
	if left := e.stored(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestEvictOnResolve(t *testing.T) {
	e := newEnv(t)
	e.ok("once", "proxy", "--evict", "-", "-o", "p")
	if got := e.ok("", "resolve", "--range", "1:2", "p"); got != "nc" {
		t.Errorf("range: %q", got)
	}
	e.fails(exitIO, "does not exist", "", "resolve", "p", "-o", "no/such/dir/x")
	if len(e.stored()) != 1 {
		t.Fatal("a range or a failed resolve evicted the object")
	}
	if got := e.ok("", "resolve", "p"); got != "once" || len(e.stored()) != 0 {
		t.Errorf("got %q, %d objects left", got, len(e.stored()))
	}
	e.fails(exitNotFound, "evicted", "", "resolve", "p")
}

func TestResolveWaitsForFuture(t *testing.T) {
	e := newEnv(t)
	f, err := proxyplane.NewFuture[string](t.Context(), e.store(), proxyplane.Polling{Interval: time.Hour, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	data, err := f.Proxy().Pickle()
	if err != nil {
		t.Fatal(err)
	}
	e.write("p", string(data))
	e.fails(exitNotFound, "waited", "", "resolve", "--timeout", "50ms", "p")
	cmd := e.command("resolve", "p")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.Set(t.Context(), "at last"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(out)
	if err != nil || string(got) != "at last" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if out := e.ok("", "inspect", "p"); !strings.Contains(out, "future") {
		t.Errorf("inspect: %s", out)
	}
}

// jsonProxyOf returns a proxy with another connector.
func jsonProxyOf(t *testing.T, e *env, kind string, options map[string]any, key string) string {
	t.Helper()
	var p map[string]any
	text := e.ok("x", "proxy", "--format", "json", "-")
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	p["store"] = map[string]any{"name": "elsewhere", "connector": map[string]any{"kind": kind, "options": options}}
	p["key"] = json.RawMessage(key)
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPolicy(t *testing.T) {
	e := newEnv(t)
	file := func(dir string) string {
		return jsonProxyOf(t, e, "file", map[string]any{"store_dir": dir}, `{"kind":"file","key":["x"]}`)
	}
	far := jsonProxyOf(t, e, "redis", map[string]any{"hostname": "192.0.2.1", "port": 6379}, `{"kind":"redis","key":["x"]}`)
	e.fails(exitDenied, "--allow-host", far, "resolve", "-")
	e.fails(exitDenied, "--allow-host", far, "resolve", "--allow-host", "192.0.3.0/24", "-")
	e.fails(exitDenied, "--allow-dir", file("/proc"), "resolve", "-")
	e.fails(exitDenied, "--allow-kind", file(e.objects), "resolve", "--allow-kind", "redis", "-")
	e.fails(exitUsage, "--allow-kind", file(e.objects), "resolve", "--allow-kind", "nonsense", "-")
	e.fails(exitUnavailable, "", file(filepath.Join(e.dir, "missing")), "resolve", "-")
	if _, err := os.Stat(filepath.Join(e.dir, "missing")); err == nil {
		t.Error("a received proxy made a directory")
	}
	near := jsonProxyOf(t, e, "redis", map[string]any{"hostname": "127.0.0.1", "port": 1}, `{"kind":"redis","key":["x"]}`)
	e.fails(exitUnavailable, "", near, "resolve", "-")
	e.fails(exitUnavailable, "", jsonProxyOf(t, e, "daos", nil, `{"kind":"daos","key":["p","c","n","k"]}`), "resolve", "-")
	e.fails(exitBadInput, "", jsonProxyOf(t, e, "file", map[string]any{"store_dir": e.objects, "bogus": 1}, `{"kind":"file","key":["x"]}`), "resolve", "-")
	// A place that the policy allows, by flag and by environment: code 3 says that it was opened.
	e.fails(exitNotFound, "", file(e.objects), "resolve", "--allow-dir", e.dir, "--allow-kind", "file", "-")
	foreign := filepath.Join(e.dir, "foreign")
	if err := os.Mkdir(foreign, 0o777); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // only root can give a directory away
		if err := os.Chown(foreign, 54321, 54321); err != nil {
			t.Fatal(err)
		}
		e.fails(exitDenied, "not a directory of yours", file(foreign), "resolve", "-")
	}
	e.fails(exitNotFound, "", file(foreign), "resolve", "--allow-dir", foreign, "-")
	e.vars = []string{"PROXYPLANE_ALLOW_DIRS=/nowhere" + string(filepath.ListSeparator) + foreign}
	e.fails(exitNotFound, "", file(foreign), "resolve", "-")
	e.vars = []string{"PROXYPLANE_ALLOW_KINDS=redis,multi"}
	e.fails(exitDenied, "--allow-kind", file(e.objects), "resolve", "-")
}

func TestHostileProxies(t *testing.T) {
	e := newEnv(t)
	for _, key := range []string{`["../.."]`, `["../../../../etc/passwd"]`, `["/etc/passwd"]`, `["a/../b"]`} {
		p := jsonProxyOf(t, e, "file", map[string]any{"store_dir": e.objects}, `{"kind":"file","key":`+key+`}`)
		e.fails(exitBadInput, "key", p, "resolve", "-")
	}
	good := e.ok("x", "proxy", "-")
	for _, n := range []int{0, 1, 2, 10, len(good) / 2, len(good) - 1} {
		e.fails(exitBadInput, "", good[:n], "resolve", "-")
		if r := e.run(good[:n], "inspect", "-"); r.code != exitBadInput {
			t.Errorf("inspect of %d bytes: %+v", n, r)
		}
	}
	// os.system must not run, whatever reads it.
	bomb := "\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch pwned\x85R."
	e.fails(exitBadInput, "not a proxy", bomb, "resolve", "-")
	r := e.run(bomb, "inspect", "-")
	if r.code != exitBadInput || !strings.Contains(r.out, "posix.system") || !strings.Contains(r.err, "a pickle, but not of a proxy") {
		t.Errorf("inspect of a bomb: %+v", r)
	}
	if _, err := os.Stat(filepath.Join(e.dir, "pwned")); err == nil {
		t.Fatal("the pickle ran")
	}
	js := unmarshal[struct{ Error, What, Pickle string }](t, e.run(bomb, "inspect", "--json", "-").out)
	if !strings.Contains(js.Pickle, "posix.system") {
		t.Errorf("inspect --json of a bomb: %+v", js)
	}
	if r := e.run("BS\nabc", "inspect", "-"); r.code != exitBadInput || !strings.Contains(r.err, "a stored object with tag BS and 3 bytes") {
		t.Errorf("inspect of an object: %+v", r)
	}
	// Names in proxies must not drive the terminal.
	esc := jsonProxyOf(t, e, "file", map[string]any{"store_dir": "/\x1b[2J\u009b"}, `{"kind":"file","key":["\u001b[31m"]}`)
	if r := e.run(esc, "inspect", "-"); strings.ContainsAny(r.out+r.err, "\x1b\u009b") || r.code != 0 {
		t.Errorf("control characters pass: %+v", r)
	}
}

func TestInspect(t *testing.T) {
	e := newEnv(t)
	e.ok("x", "proxy", "--evict", "-", "-o", "p")
	out := e.ok("", "inspect", "p")
	for _, want := range []string{"form ", "pickle", "flavour ", "Proxy", "cli-test", "file (proxystore.connectors.file.FileConnector)", e.objects, "yes, when resolved"} {
		if !strings.Contains(out, want) {
			t.Errorf("inspect lacks %q:\n%s", want, out)
		}
	}
	secret := jsonProxyOf(t, e, "redis", map[string]any{"hostname": "h", "port": 1, "password": "hunter2"}, `{"kind":"redis","key":["x"]}`)
	for _, args := range [][]string{{"inspect", "-"}, {"inspect", "--json", "-"}} {
		if out := e.ok(secret, args...); strings.Contains(out, "hunter2") || !strings.Contains(out, redacted) {
			t.Errorf("inspect shows a password: %s", out)
		}
	}
	e.fails(exitIO, "no such file", "", "inspect", "missing")
}

// TestResolveWithOwnStore: --store lends its own configuration to proxies of it.
func TestResolveWithOwnStore(t *testing.T) {
	e := newEnv(t)
	e.ok("x", "proxy", "-", "-o", "p")
	if got := e.ok("", "resolve", "--store", "s.toml", "p"); got != "x" {
		t.Errorf("got %q", got)
	}
	e.vars = []string{"PROXYPLANE_ALLOW_KINDS=redis"}
	e.fails(exitDenied, "", "", "resolve", "p")
	if got := e.ok("", "resolve", "--store", "s.toml", "p"); got != "x" {
		t.Errorf("the policy applied to the user's own store: %q", got)
	}
}
