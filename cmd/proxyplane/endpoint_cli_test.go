package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startRelay runs a relay until the test ends, and returns its address.
func (e *env) startRelay(args ...string) (address string, cmd *exec.Cmd) {
	e.t.Helper()
	cmd = e.command(append([]string{"relay", "--listen", "127.0.0.1:0", "--json"}, args...)...)
	log := &lockedBuffer{}
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			e.t.Errorf("relay: %v\n%s", err, log)
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		e.t.Fatalf("relay %q is not ready: %v\n%s", args, err, log)
	}
	return unmarshal[struct{ Address string }](e.t, string(line)).Address, cmd
}

// endpoints gives the environment a ProxyStore home, whose endpoints are stopped when the test ends.
func (e *env) endpoints() (home string) {
	home = filepath.Join(e.dir, "home")
	e.vars = append(e.vars, "PROXYSTORE_HOME="+home)
	e.t.Cleanup(func() {
		entries, _ := os.ReadDir(home)
		for _, d := range entries {
			if e.t.Failed() {
				log, _ := os.ReadFile(filepath.Join(home, d.Name(), "log.txt"))
				e.t.Logf("%s: %s", d.Name(), log)
			}
			e.run("", "endpoint", "stop", d.Name())
		}
	})
	return home
}

// configure makes an endpoint and returns its UUID.
func (e *env) configure(name string, args ...string) string {
	e.t.Helper()
	out := e.ok("", append([]string{"endpoint", "configure", name, "--json"}, args...)...)
	return unmarshal[struct{ UUID string }](e.t, out).UUID
}

func TestEndpointLife(t *testing.T) {
	e := newEnv(t)
	home := e.endpoints()
	e.fails(exitNotFound, "does not exist", "", "endpoint", "start", "here")
	e.fails(exitNotFound, "does not exist", "", "endpoint", "status", "here")
	e.fails(exitUsage, "Name must", "", "endpoint", "configure", "../x")
	e.fails(exitUsage, "--port", "", "endpoint", "configure", "here", "--port", "70000")
	e.fails(exitUsage, "--ice-server", "", "endpoint", "configure", "here", "--ice-server", "http://x")
	e.fails(exitUsage, "contradict", "", "endpoint", "configure", "here", "--ice-server", "stun:x", "--no-ice-servers")
	e.fails(exitUsage, "--peer-channels", "", "endpoint", "configure", "here", "--peer-channels", "0")
	if out := e.ok("", "endpoint", "list"); !strings.Contains(out, "No valid endpoint configurations") {
		t.Fatal(out)
	}
	id := e.configure("here", "--persist", "--socket", "s", "--max-object", "20MB")
	e.fails(exitUsage, "already exists", "", "endpoint", "configure", "here")
	if r := e.run("", "endpoint", "status", "here"); r.code != exitNo || !strings.Contains(r.out, "STOPPED") {
		t.Fatal(r)
	}
	// What the command was given beside its standard streams does not stay open in the daemon: somebody may wait for its end.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	start := e.command("endpoint", "start", "here")
	start.ExtraFiles = []*os.File{w}
	raw, err := start.Output()
	w.Close()
	if out := string(raw); err != nil || !strings.Contains(out, "serves at http://127.0.0.1:") {
		t.Fatal(out, err)
	}
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal("the daemon has a pipe of who started it:", err)
	}
	e.fails(exitUsage, "running", "", "endpoint", "start", "here")
	e.fails(exitUsage, "running", "", "endpoint", "remove", "here")
	e.fails(exitUsage, "running", "", "endpoint", "fold", "here")
	if out := e.ok("", "endpoint", "list"); !strings.Contains(out, "RUNNING") || !strings.Contains(out, id) {
		t.Fatal(out)
	}
	e.fails(exitUsage, "--size", "", "endpoint", "test", "here", "--size", "100TB")
	if out := e.ok("", "endpoint", "test", "here"); !strings.Contains(out, "it works") {
		t.Fatal(out)
	}
	put := unmarshal[struct{ Key string }](t, e.ok("", "--json", "endpoint", "test", "here", "put", "grüße")).Key
	if out := e.ok("", "endpoint", "test", "here", "get", put); out != "grüße\n" {
		t.Fatalf("%q", out)
	}
	// A store reaches it too, as it would Python's.
	if err := os.WriteFile(filepath.Join(e.dir, "store.toml"), []byte(fmt.Sprintf("name = 'e'\n[connector]\nkind = 'endpoint'\n[connector.options]\nendpoints = ['%s']\n", id)), 0o600); err != nil {
		t.Fatal(err)
	}
	key := e.ok(strings.Repeat("x", 3<<20), "put", "--store", "store.toml", "-")
	if out := e.ok("", "get", "--store", "store.toml", "--key", key); len(out) != 3<<20 {
		t.Fatalf("%d bytes", len(out))
	}
	status := e.ok("", "endpoint", "status", "here")
	for _, want := range []string{id, "listens on", "stores", "database", "none, and so no peers"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	if !json.Valid([]byte(e.ok("", "--json", "endpoint", "status", "here"))) {
		t.Error("no JSON")
	}
	taken := fmt.Sprint(unmarshal[struct{ Listening []string }](t, e.ok("", "--json", "endpoint", "status", "here")).Listening[0])
	e.configure("second", "--port", taken[strings.LastIndexByte(taken, ':')+1:])
	e.fails(exitUnavailable, "change `port`", "", "endpoint", "start", "second")
	if out := e.ok("", "endpoint", "stop", "here"); !strings.Contains(out, "has been stopped") {
		t.Fatal(out)
	}
	if out := e.ok("", "endpoint", "stop", "here"); !strings.Contains(out, "is not running") {
		t.Fatal(out)
	}
	e.fails(exitUnavailable, "endpoint start", "", "endpoint", "test", "here")

	// What was stored is there after a restart, and after a fold for Python.
	if out := e.ok("", "endpoint", "fold", "here"); !strings.Contains(out, "2 objects") {
		t.Fatal(out)
	}
	e.ok("", "endpoint", "start", "here")
	if out := e.ok("", "endpoint", "test", "here", "get", put); out != "grüße\n" {
		t.Fatalf("%q", out)
	}
	// A killed daemon leaves a pid file, which does not keep the next from starting.
	pid := strings.TrimSpace(string(must(os.ReadFile(filepath.Join(home, "here", "daemon.pid")))))
	daemon, err := os.FindProcess(must(strconv.Atoi(pid)))
	if err != nil {
		t.Fatal(err)
	}
	daemon.Kill()
	for i := 0; !strings.Contains(e.ok("", "endpoint", "list"), "HANGING"); i++ {
		if i == 100 {
			t.Fatal("it is not hanging")
		}
		time.Sleep(20 * time.Millisecond)
	}
	e.ok("", "endpoint", "start", "here")
	if out := e.ok("", "endpoint", "test", "here", "exists", put); !strings.Contains(out, "true") {
		t.Fatal(out)
	}
	e.ok("", "endpoint", "test", "here", "evict", put)
	if r := e.run("", "endpoint", "test", "here", "exists", put); r.code != exitNo {
		t.Fatal(r)
	}
	e.fails(exitNotFound, "no such object", "", "endpoint", "test", "here", "get", put)
	if r := e.run("", "--json", "endpoint", "test", "here", "exists", put); r.code != exitNo || strings.TrimSpace(r.out) != `{"exists":false}` {
		t.Fatal(r)
	}
	e.ok("", "endpoint", "stop", "here")
	if out := e.ok("", "--json", "endpoint", "stop", "here"); strings.TrimSpace(out) != `{"name":"here","stopped":false}` {
		t.Fatal(out)
	}
	e.ok("", "endpoint", "remove", "here")
	e.fails(exitNotFound, "does not exist", "", "endpoint", "remove", "here")

	// A configuration that cannot be read is not the same as none.
	if err := os.WriteFile(filepath.Join(home, "second", "config.toml"), []byte("name = 'sec"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"start", "stop", "status", "test", "fold"} {
		e.fails(exitNotFound, "unable to parse", "", "endpoint", command, "second")
	}

	// One that cannot serve says why to who started it.
	e.configure("broken", "--token-file", "nowhere")
	e.fails(exitIO, "nowhere", "", "endpoint", "start", "broken")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestEndpointPeers: two endpoints of one host find each other through a relay that wants tokens, and say over what.
func TestEndpointPeers(t *testing.T) {
	e := newEnv(t)
	e.endpoints()
	for name, text := range map[string]string{"tokens": "secret-a alice\nsecret-b bob\n", "a": "secret-a\n", "b": "secret-b\n"} {
		if err := os.WriteFile(filepath.Join(e.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address, _ := e.startRelay("--token-file", "tokens")
	args := []string{"--relay-address", address, "--no-ice-servers", "--loopback"}
	one := e.configure("one", append(args, "--relay-token-file", "a")...)
	two := e.configure("two", append(args, "--relay-token-file", "a")...)
	other := e.configure("other", append(args, "--relay-token-file", "b")...)
	none := e.configure("none", args...)
	for _, name := range []string{"one", "two", "other"} {
		e.ok("", "endpoint", "start", name)
	}
	if r := e.run("", "endpoint", "start", "none"); r.code != 0 || !strings.Contains(r.err, "warning") || !strings.Contains(r.err, "uthoriz") {
		t.Fatal(r)
	}
	if out := e.ok("", "endpoint", "test", "one", "--remote", two); !strings.Contains(out, "it works") {
		t.Fatal(out)
	}
	if out := e.ok("", "endpoint", "status", "one"); !strings.Contains(out, "over tls") || !strings.Contains(out, two) || !strings.Contains(out, "speaks proxyplane") {
		t.Fatal(out)
	}
	if out := e.ok("", "endpoint", "status", "two"); !strings.Contains(out, one) {
		t.Fatal(out)
	}
	e.fails(exitDenied, "different user", "", "endpoint", "test", "one", "--remote", other)
	e.fails(exitUnavailable, "not registered", "", "endpoint", "test", "one", "--remote", none)
	if out := e.ok("", "endpoint", "status", "none"); !strings.Contains(out, "uthoriz") {
		t.Fatal(out)
	}
}

func TestRelayCommand(t *testing.T) {
	e := newEnv(t)
	e.fails(exitUsage, "--insecure", "", "relay", "--listen", "0.0.0.0:0")
	e.fails(exitUsage, "--config", "", "relay", "--config", "nowhere.toml")
	e.fails(exitUsage, "--turn-user", "", "relay", "--turn", "127.0.0.1:0", "--turn-user", "x")
	e.fails(exitUsage, "--turn HOST:PORT", "", "relay", "--turn-user", "a:b")
	e.fails(exitUsage, "--log-format", "", "relay", "--log-format", "xml")
	e.fails(exitUsage, "address", "", "relay", "--listen", "x")
	_, cmd := e.startRelay("--turn", "127.0.0.1:0", "--turn-user", "a:b", "--metrics-listen", "127.0.0.1:0", "--log-dir", "logs")
	if cmd.Process == nil || must(os.ReadFile(filepath.Join(e.dir, "logs", "server.log"))) == nil {
		t.Fatal("no log")
	}
}
