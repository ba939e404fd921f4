package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/all"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/zmq"
)

// running is a server that runs.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	listen []struct{ Transport, Address string }
	web    string
	log    *lockedBuffer
	once   sync.Once
}

// lockedBuffer is a buffer that a process writes while the test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve starts a server and waits until it is ready.
func (e *env) serve(args ...string) *running {
	e.t.Helper()
	r := &running{t: e.t, cmd: e.command(append([]string{"serve", "--json"}, args...)...), log: &lockedBuffer{}}
	r.cmd.Stderr = r.log
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { r.stop(syscall.SIGKILL) })
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		r.cmd.Wait()
		e.t.Fatalf("serve %q is not ready: %v\n%s", args, err, r.log)
	}
	v := unmarshal[struct {
		Ready   bool
		Listen  []struct{ Transport, Address string }
		Metrics string
	}](e.t, string(line))
	if !v.Ready {
		e.t.Fatalf("serve: %s", line)
	}
	r.listen, r.web = v.Listen, strings.TrimSuffix(v.Metrics, "/metrics")
	return r
}

// stop signals the server and returns its exit code.
func (r *running) stop(sig syscall.Signal) int {
	r.once.Do(func() {
		r.cmd.Process.Signal(sig)
		r.cmd.Wait()
	})
	return r.cmd.ProcessState.ExitCode()
}

// port returns the port of the i-th address.
func (r *running) port(i int) int64 {
	addr := r.listen[i].Address
	var n json.Number = json.Number(addr[strings.LastIndexByte(addr, ':')+1:])
	port, err := n.Int64()
	if err != nil {
		r.t.Fatal(addr, err)
	}
	return port
}

// get fetches a page of the metrics server.
func (r *running) get(path string) (int, string) {
	r.t.Helper()
	resp, err := http.Get(r.web + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func openConnector(t *testing.T, kind string, opts map[string]any) connectors.Connector {
	t.Helper()
	c, err := all.Registry().Open(t.Context(), connectors.Config{Kind: kind, Options: opts}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// TestServe has one process serve several transports from the same memory, be looked at, and drain.
func TestServe(t *testing.T) {
	e := newEnv(t)
	socket := filepath.Join(e.dir, "objects.sock")
	s := e.serve("--transport", "tcp", "--listen", "127.0.0.1:0", "--transport", "unix", "--listen", "objects.sock", "--transport", "zmq", "--listen", ":0",
		"--metrics-listen", "127.0.0.1:0", "--memory", "64MiB", "--max-object", "32MB", "--log-format", "json")
	if len(s.listen) != 3 || s.listen[1].Address != "unix://"+socket {
		t.Fatalf("ready: %+v", s.listen)
	}
	tcp := openConnector(t, "tcp", map[string]any{"port": s.port(0)})
	unix := openConnector(t, "tcp", map[string]any{"address": "unix://" + socket})
	zmq := openConnector(t, "zmq", map[string]any{"address": "127.0.0.1", "port": s.port(2)})
	object := bytes.Repeat([]byte("object"), 200_000)
	key, err := tcp.Put(t.Context(), transport.Slices{object})
	if err != nil {
		t.Fatal(err)
	}
	k := key.(connectors.DIMKey)
	same := map[connectors.Connector]connectors.DIMKey{tcp: k,
		unix: {DIMType: "tcp", ObjID: k.ObjID, PeerHost: "unix://" + socket}, zmq: {DIMType: "zmq", ObjID: k.ObjID, PeerHost: "127.0.0.1", PeerPort: s.port(2)}}
	for c, key := range same {
		if b, err := connectors.GetBytes(t.Context(), c, key); err != nil || !bytes.Equal(b, object) {
			t.Errorf("%v: %v", key, err)
		}
	}
	if _, err := tcp.Put(t.Context(), transport.Slices{make([]byte, 33<<20)}); !strings.Contains(err.Error(), "too large") {
		t.Errorf("an object beyond --max-object: %v", err)
	}

	for i, args := range [][]string{{"127.0.0.1:" + s.listen[0].Address[len("tcp://127.0.0.1:"):]}, {"--transport", "unix", "objects.sock"}, {s.listen[1].Address},
		{"--transport", "zmq", s.listen[2].Address}} {
		if out := e.ok("", append([]string{"ping"}, args...)...); !strings.Contains(out, "answers over") {
			t.Errorf("ping %d: %s", i, out)
		}
	}
	if v := unmarshal[map[string]any](t, e.ok("", "ping", "--json", s.listen[0].Address)); v["seconds"].(float64) <= 0 {
		t.Errorf("ping --json: %v", v)
	}
	if code, body := s.get("/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %s", code, body)
	}
	if code, _ := s.get("/readyz"); code != 200 {
		t.Errorf("/readyz: %d", code)
	}
	code, page := s.get("/metrics")
	for _, want := range []string{"proxyplane_server_objects 1\n", "proxyplane_server_object_bytes 1200000\n", "proxyplane_server_memory_limit_bytes 67108864\n", "proxyplane_server_refusals_total 1\n",
		`proxyplane_server_sessions{transport="zmq",address="tcp://127.0.0.1:`, "# TYPE proxyplane_server_puts_total counter", `op="`} {
		if !strings.Contains(page, want) {
			t.Errorf("/metrics (%d) lacks %s", code, want)
		}
	}
	if problems, err := promlint.New(strings.NewReader(page)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("/metrics: %v, %v", problems, err)
	}

	// An object that is being read when the signal comes is read to its end.
	r, err := connectors.GetStream(t.Context(), tcp, key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) != len(object)-1000 {
		t.Errorf("an object that was being read: %d bytes more, %v", len(rest), err)
	}
	r.Close()
	if code := s.stop(syscall.Signal(0)); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.log)
	}
	if log := s.log.String(); !strings.Contains(log, `"msg":"drained"`) {
		t.Errorf("log: %s", log)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is still there")
	}
	if _, err := tcp.Get(t.Context(), key); !connectors.Retryable(err) {
		t.Errorf("a server that has ended: %v", err)
	}
}

// TestServeKilled kills the server under load and starts another one at its addresses: every call gives the right bytes, or says that the server is out of
// reach or has no such object. What was mapped stays.
func TestServeKilled(t *testing.T) {
	e := newEnv(t)
	socket := filepath.Join(e.dir, "s")
	s := e.serve("--listen", "127.0.0.1:0", "--transport", "tcp", "--listen", "127.0.0.1:0", "--transport", "zmq", "--listen", "s", "--transport", "unix")
	all := []connectors.Connector{openConnector(t, "tcp", map[string]any{"port": s.port(0)}), openConnector(t, "tcp", map[string]any{"port": s.port(0), "no_same_host": true}),
		openConnector(t, "zmq", map[string]any{"address": "127.0.0.1", "port": s.port(1)}), openConnector(t, "tcp", map[string]any{"address": "unix://" + socket})}
	var wg sync.WaitGroup
	worked := make(chan int, 1000)
	stop := make(chan struct{})
	for i, c := range all {
		for j := range 2 {
			data := bytes.Repeat([]byte{byte(i), byte(j), 1}, 100_000)
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					key, err := c.Put(context.Background(), transport.Slices{data})
					if err == nil {
						var b []byte
						if b, err = connectors.GetBytes(context.Background(), c, key); err == nil {
							if !bytes.Equal(b, data) {
								t.Error("wrong bytes")
							}
							select {
							case worked <- i:
							default:
							}
							c.Evict(context.Background(), key)
							continue
						}
					}
					if !errors.Is(err, connectors.ErrUnavailable) && !errors.Is(err, connectors.ErrNotFound) {
						t.Errorf("while the server is killed: %v", err)
					}
				}
			})
		}
	}
	everyone := func() {
		for len(worked) > 0 {
			<-worked
		}
		for seen := map[int]bool{}; len(seen) < len(all); {
			seen[<-worked] = true
		}
	}
	everyone()
	object := bytes.Repeat([]byte("mapped"), 100_000)
	key, err := all[3].Put(t.Context(), transport.Slices{object})
	if err != nil {
		t.Fatal(err)
	}
	view, err := connectors.Map(t.Context(), all[3], key)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Release()
	s.stop(syscall.SIGKILL)
	sockets, err := filepath.Glob(filepath.Join(e.dir, "tmp", "proxyplane-*")) // which a server that is killed cannot take away
	if err != nil || len(sockets) != 1 {
		t.Errorf("left behind: %v, %v", sockets, err)
	}
	next := e.serve("--listen", strings.TrimPrefix(s.listen[0].Address, "tcp://"), "--transport", "tcp", "--listen", s.listen[1].Address, "--transport", "zmq", "--listen", "s",
		"--transport", "unix")
	everyone()
	close(stop)
	wg.Wait()
	for _, dir := range sockets {
		os.RemoveAll(dir)
	}
	if !bytes.Equal(view.Bytes(), object) {
		t.Error("what was mapped has changed with the end of the server")
	}
	if _, err := all[3].Get(t.Context(), key); !errors.Is(err, connectors.ErrNotFound) {
		t.Errorf("an object of the server that was killed: %v", err)
	}
	if code := next.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d\n%s", code, next.log)
	}
}

// TestServeDrainWaits: who waits for an object that may never come does not hold up the end of the server.
func TestServeDrainWaits(t *testing.T) {
	e := newEnv(t)
	s := e.serve("--listen", "127.0.0.1:0", "--transport", "tcp", "--listen", "127.0.0.1:0", "--transport", "zmq", "--metrics-listen", ":0")
	var ended []chan error
	for i, kind := range []string{"tcp", "zmq"} {
		c := openConnector(t, kind, map[string]any{"address": "127.0.0.1", "port": s.port(i)})
		key, err := c.(connectors.Deferrer).NewKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- connectors.Wait(t.Context(), c, key, connectors.Polling{}) }()
		ended = append(ended, done)
	}
	for {
		if _, page := s.get("/metrics"); strings.Contains(page, "proxyplane_server_waiting_calls 2\n") {
			break
		}
	}
	if code := s.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.log)
	}
	for _, done := range ended {
		if err := <-done; !errors.Is(err, connectors.ErrUnavailable) {
			t.Errorf("the wait ended with %v", err)
		}
	}
}

// TestServeDrainTimeout has a call outlast the drain.
func TestServeDrainTimeout(t *testing.T) {
	e := newEnv(t)
	s := e.serve("--listen", "127.0.0.1:0", "--drain-timeout", "10ms")
	c := openConnector(t, "tcp", map[string]any{"port": s.port(0)})
	w, err := connectors.PutStream(t.Context(), c, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	if code := s.stop(syscall.SIGINT); code != 130 || !strings.Contains(s.log.String(), "stopped by signal") || !strings.Contains(s.log.String(), "cut off") {
		t.Errorf("exit code %d: %s", code, s.log)
	}
	s = e.serve("--listen", "127.0.0.1:0", "--drain-timeout", "0")
	openConnector(t, "tcp", map[string]any{"port": s.port(0)})
	if code := s.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("without a drain: exit code %d: %s", code, s.log)
	}
}

// TestServeStore uses a server through a store file, from several commands. No command starts a server of its own.
func TestServeStore(t *testing.T) {
	e := newEnv(t)
	e.write("token", "secret\n")
	s := e.serve("--transport", "zmq", "--listen", "127.0.0.1:0", "--token-file", "token", "--spill-dir", "spill", "--memory", "16MiB", "--ttl", "1h")
	port := s.listen[0].Address[strings.LastIndexByte(s.listen[0].Address, ':')+1:]
	e.ok("", "config", "new", "--kind", "zmq", "--option", "address=127.0.0.1", "--option", "port="+port, "--option", "token_file="+filepath.Join(e.dir, "token"), "-o", "z.toml")
	e.ok("", "config", "check", "-s", "z.toml")
	for range 3 { // more than fits into memory
		content := strings.Repeat("0123456789abcdef", 1<<19)
		e.write("in", content)
		line := e.ok("", "put", "-s", "z.toml", "in")
		if out := e.ok(line, "get", "-s", "z.toml", "--key", "-"); out != content {
			t.Errorf("get: %d bytes", len(out))
		}
	}
	e.fails(exitDenied, "token", "", "ping", "--transport", "zmq", s.listen[0].Address)
	e.ok("", "ping", "--transport", "zmq", "--token-file", "token", s.listen[0].Address)
	e.ok("", "proxy", "-s", "z.toml", "--format", "json", "-o", "p.json", "in")
	if data, err := os.ReadFile(filepath.Join(e.dir, "p.json")); err != nil || strings.Contains(string(data), "secret") {
		t.Errorf("the proxy: %s, %v", data, err)
	}
	e.fails(exitDenied, "allow-dir", "", "resolve", "p.json") // it reads token_file
	e.ok("", "resolve", "--allow-dir", e.dir, "p.json", "-o", "out")
	e.fails(exitUsage, "token_file", "", "proxy", "-s", "z.toml", "in") // Python cannot show a token
	if code := s.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d: %s", code, s.log)
	}
	if r := e.run("", "put", "-s", "z.toml", "in"); r.code != exitUnavailable || !strings.Contains(r.err, "proxyplane serve --transport zmq") {
		t.Errorf("put without a server: %+v", r)
	}
	e.ok("", "config", "new", "--kind", "tcp", "--option", "port=1", "-o", "t.toml")
	e.fails(exitUsage, "use connector zmq", "", "proxy", "-s", "t.toml", "--key", `["tcp","x",1,"127.0.0.1",1]`, "-o", "out")
}

func TestServeUsage(t *testing.T) {
	e := newEnv(t)
	e.write("empty", "")
	e.write("text", "no certificate")
	for _, c := range []struct {
		code  int
		words string
		args  []string
	}{
		{exitUsage, "no --listen", nil},
		{exitUsage, "--transport", []string{"--transport", "pigeon", "--listen", ":0"}},
		{exitUsage, "once for each", []string{"--transport", "tcp", "--transport", "zmq", "--listen", ":0", "--listen", ":0", "--listen", ":0"}},
		{exitUsage, "HOST:PORT", []string{"--listen", "nowhere"}},
		{exitUsage, "port must be", []string{"--listen", "127.0.0.1:99999"}},
		{exitUsage, "not of transport", []string{"--transport", "tcp", "--listen", "zmq://127.0.0.1:0"}},
		{exitUsage, "--memory", []string{"--listen", ":0", "--memory", "much"}},
		{exitUsage, "--memory", []string{"--listen", ":0", "--memory", "0.1"}}, // which must not become the default
		{exitUsage, "--memory", []string{"--listen", ":0", "--memory", "0"}},
		{exitUsage, "[::1]:4100", []string{"--listen", "::1:4100"}},
		{exitUsage, "path of a unix socket", []string{"--transport", "unix", "--listen", ""}},
		{exitUsage, "HOST:PORT", []string{"--listen", ":0", "--metrics-listen", "nowhere"}},
		{exitUsage, "needs --tls-cert", []string{"--listen", "tls://127.0.0.1:0"}},
		{exitUsage, "for --transport tcp", []string{"--listen", "unix://s", "--tls-cert", "x", "--tls-key", "y"}},
		{exitUsage, "for --transport zmq", []string{"--listen", ":0", "--curve-secret-file", "x"}},
		{exitUsage, "for --transport zmq", []string{"--listen", ":0", "--libzmq"}},
		{exitUnavailable, "no address of this machine", []string{"--listen", "192.0.2.1:0", "--insecure"}},
		{exitUnavailable, "no address of this machine", []string{"--transport", "zmq", "--listen", "192.0.2.1:0", "--insecure"}},
		{exitIO, "make the directory", []string{"--listen", "unix:///no/such/dir/s"}},
		{exitIO, "may write to", []string{"--listen", ":0", "--spill-dir", "text/x"}},
		{exitUsage, "--spill-dir", []string{"--listen", ":0", "--spill-limit", "1GiB"}},
		{exitUsage, "negative", []string{"--listen", ":0", "--ttl", "-1s"}},
		{exitUsage, "--log-level", []string{"--listen", ":0", "--log-level", "loud"}},
		{exitUsage, "--insecure", []string{"--listen", "0.0.0.0:0"}},
		{exitUsage, "--insecure", []string{"--transport", "zmq", "--listen", "0.0.0.0:0"}},
		{exitUsage, "go together", []string{"--listen", ":0", "--tls-cert", "text"}},
		{exitBadInput, "--tls-cert", []string{"--listen", ":0", "--tls-cert", "text", "--tls-key", "text"}},
		{exitBadInput, "head -c 32", []string{"--listen", ":0", "--token-file", "empty"}},
		{exitIO, "no such file", []string{"--listen", ":0", "--token-file", "missing"}},
		{exitUsage, "--curve-secret-file", []string{"--transport", "zmq", "--listen", ":0", "--curve-client", "x"}},
		{exitBadInput, "CURVE key", []string{"--transport", "zmq", "--listen", ":0", "--curve-secret-file", "text"}},
		{exitUnavailable, "-tags ucx", []string{"--transport", "ucx", "--listen", ":0"}},
	} {
		r := e.run("", append([]string{"serve"}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.err, c.words) || r.out != "" {
			t.Errorf("serve %q: %+v; want code %d and ...%s...", c.args, r, c.code, c.words)
		}
	}
	s := e.serve("--listen", "127.0.0.1:0", "--transport", "zmq", "--curve-secret-file", "made")
	if info, err := os.Stat(filepath.Join(e.dir, "made")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the CURVE key: %v, %v", info, err)
	}
	text, err := os.ReadFile(filepath.Join(e.dir, "made"))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := zmq.ParseCurveKey(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	e.ok("", "ping", "--transport", "zmq", "--curve-server-key", secret.Public().Z85(), s.listen[0].Address)
	r := e.run("", "serve", "--transport", "zmq", "--listen", s.listen[0].Address)
	if r.code != exitUnavailable || !strings.Contains(r.err, "is taken") {
		t.Errorf("an address that is taken: %+v", r)
	}
	e.fails(exitUnavailable, "127.0.0.1:1", "", "ping", "127.0.0.1:1")
	e.fails(exitUsage, "--count", "", "ping", "--count", "0", "127.0.0.1:1")
}
