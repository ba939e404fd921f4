package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

// The kinds of relays, endpoints and clients in these tests.
const (
	pythons = "python"
	ours    = "ours"
)

// process is a relay or an endpoint under test.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  string
	gone chan struct{}
}

// startProcess runs a program until the test ends. A failed test shows the end of what it said.
func startProcess(t testing.TB, name string, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(program, args...), log: filepath.Join(t.TempDir(), name+".log"), gone: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	f, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.gone)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s (%s) said:\n%s", name, filepath.Base(program), p.tail())
		}
	})
	return p
}

func (p *process) tail() []byte {
	text, _ := os.ReadFile(p.log)
	return text[max(0, len(text)-4000):]
}

// stop ends the process as an operator would.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-p.gone:
	case <-timer.C:
		p.t.Errorf("%s does not end: killed", p.log)
		p.cmd.Process.Kill()
		<-p.gone
	}
}

// await polls until ready returns no error.
func (p *process) await(ready func() error) {
	p.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = ready(); err == nil {
			return
		}
		select {
		case <-p.gone:
			p.t.Fatalf("%s ended:\n%s", p.log, p.tail())
		default:
		}
	}
	p.t.Fatalf("%s is not ready: %v", p.log, err)
}

// pythonBin is a program of the environment that has ProxyStore's endpoints.
func pythonBin(t testing.TB, name string) string {
	t.Helper()
	return filepath.Join(filepath.Dir(testenv.Python(t, testenv.ProxyStore11)), name)
}

// startRelay starts a relay of that kind and returns its address.
func startRelay(t *testing.T, kind string) string {
	t.Helper()
	port := fmt.Sprint(freePort(t))
	var p *process
	if kind == pythons {
		p = startProcess(t, "python-relay", nil, pythonBin(t, "proxystore-relay"), "--host", "127.0.0.1", "--port", port, "--log-level", "debug")
	} else {
		p = startProcess(t, "our-relay", nil, binary(t), "relay", "--host", "127.0.0.1", "--port", port)
	}
	p.await(func() error {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err
	})
	return "ws://127.0.0.1:" + port
}

// node is an endpoint that runs.
type node struct {
	*process
	kind, name, home, uuid, base string
}

// endpointConfig writes a configuration as proxystore-endpoint does, and returns the endpoint without a process.
func endpointConfig(t *testing.T, name, home, relay, database string, channels int) *node {
	t.Helper()
	n := &node{name: name, home: home, uuid: uuid.NewString()}
	port := freePort(t)
	n.base = fmt.Sprintf("http://127.0.0.1:%d", port)
	text := fmt.Sprintf("name = %q\nuuid = %q\nport = %d\nhost = \"127.0.0.1\"\nhost_type = \"static\"\n\n[relay]\n", name, n.uuid, port)
	if relay != "" {
		text += fmt.Sprintf("address = %q\n", relay)
	}
	text += fmt.Sprintf("ice_servers = []\npeer_channels = %d\nverify_certificate = false\n\n[relay.auth]\nkwargs = {}\n\n[storage]\nmax_object_size = 1000000000\n", channels)
	if database != "" {
		text += fmt.Sprintf("database_path = %q\n", database)
	}
	if err := os.MkdirAll(n.dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.dir(), "config.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) dir() string { return filepath.Join(n.home, n.name) }

func (n *node) env() []string { return []string{"PROXYSTORE_HOME=" + n.home} }

// launch starts the endpoint by that kind's program; await waits for it.
func (n *node) launch(t *testing.T, kind string) {
	t.Helper()
	n.kind = kind
	if kind == pythons {
		n.process = startProcess(t, n.name, n.env(), pythonBin(t, "proxystore-endpoint"), "--log-level", "DEBUG", "start", "--no-detach", n.name)
	} else {
		n.process = startProcess(t, n.name, n.env(), binary(t), "endpoint", "start", "--no-detach", n.name)
	}
}

func (n *node) up() {
	n.t.Helper()
	n.await(func() error {
		resp, err := http.Get(n.base + "/endpoint")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var a struct{ UUID string }
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
			return err
		}
		if a.UUID != n.uuid {
			return fmt.Errorf("the endpoint says that it is %q", a.UUID)
		}
		return n.registered()
	})
}

// registered returns an error as long as the endpoint is not registered at its relay. ProxyStore's serves nothing before it is.
func (n *node) registered() error {
	resp, err := http.Get(n.base + "/status")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var s struct {
		Relay *struct {
			Connected bool
			Error     string
		}
	}
	if resp.StatusCode == http.StatusOK {
		err = json.NewDecoder(resp.Body).Decode(&s)
	}
	if err == nil && s.Relay != nil && !s.Relay.Connected {
		err = fmt.Errorf("the endpoint is not registered: %s", s.Relay.Error)
	}
	return err
}

// startNode starts an endpoint of that kind.
func startNode(t *testing.T, kind, name, relay string, channels int) *node {
	t.Helper()
	n := endpointConfig(t, name, t.TempDir(), relay, "", channels)
	n.launch(t, kind)
	return n
}

// request is one operation of the HTTP API for an object at an endpoint ("": the one that is asked).
func (n *node) request(ctx context.Context, op, key, at string, body []byte) (int, []byte, error) {
	q := url.Values{"key": {key}}
	if at != "" {
		q.Set("endpoint", at)
	}
	method := http.MethodGet
	if op == "set" || op == "evict" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, n.base+"/"+op+"?"+q.Encode(), bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// ok is request that must succeed.
func (n *node) ok(t *testing.T, op, key, at string, body []byte) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	status, answer, err := n.request(ctx, op, key, at, body)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s /%s of %s at %s: %d %.300s %v", n.name, op, key, at, status, answer, err)
	}
	return answer
}

func (n *node) exists(t *testing.T, key, at string) bool {
	t.Helper()
	var a struct{ Exists *bool }
	if answer := n.ok(t, "exists", key, at, nil); json.Unmarshal(answer, &a) != nil || a.Exists == nil {
		t.Fatalf("/exists answered %q", answer)
	}
	return *a.Exists
}

// connector is how the Python worker reaches its endpoint.
func (n *node) connector() m {
	return m{"kind": "endpoint", "endpoints": []string{n.uuid}, "proxystore_dir": n.home}
}

func endpointKey(id, at string) m { return m{"kind": "endpoint", "key": []string{id, at}} }

// startEndpointWorker is startWorker with endpoint_worker.py.
func startEndpointWorker(t *testing.T) *worker {
	t.Helper()
	cmd := exec.Command(testenv.Python(t, testenv.ProxyStore11), "-W", "ignore", filepath.Join(testenv.Root(), "interop", "endpoint_worker.py"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return &worker{t: t, in: in, out: bufio.NewReaderSize(out, 1<<20), limit: out.(*os.File), process: cmd.Process}
}

// waiting lets a test that mostly waits for time-outs or for Python to start run beside the others that do. They share no worker.
func waiting(t *testing.T) {
	t.Helper()
	binary(t) // and pythonBin: before they run at once
	pythonBin(t, "proxystore-endpoint")
	t.Parallel()
}

// combination is who is on which side, over whose relay.
type combination struct{ relay, a, b string }

func (c combination) String() string { return "relay=" + c.relay + "/A=" + c.a + "/B=" + c.b }

// TestEndpointPeers: objects between two endpoints of either kind over a relay of either kind, with a Python client (EndpointConnector) at A, and plain
// HTTP at B, both ways, in all sizes around the borders of chunks.
func TestEndpointPeers(t *testing.T) {
	w := startEndpointWorker(t)
	nodes := map[combination]*node{} // by relay and kind; a is "A" or "B"
	for _, relay := range []string{pythons, ours} {
		address := startRelay(t, relay)
		for _, kind := range []string{pythons, ours} {
			for channels, site := range []string{"A", "B"} { // A has one channel per peer, B two: the offerer decides
				name := site + "-" + kind + "-at-" + relay
				nodes[combination{relay, kind, site}] = startNode(t, kind, name, address, channels+1)
			}
		}
	}
	for _, n := range nodes {
		n.up()
	}
	for _, relay := range []string{pythons, ours} {
		for _, ka := range []string{pythons, ours} {
			for _, kb := range []string{pythons, ours} {
				c := combination{relay, ka, kb}
				t.Run(c.String(), func(t *testing.T) {
					sizes := []int{1, 1000, 32<<10 - 1, 32 << 10, 32<<10 + 1, 1_000_000}
					if c == (combination{ours, ours, pythons}) || c == (combination{pythons, pythons, ours}) {
						sizes = append(sizes, 100_000_000)
					}
					testPeers(t, w, nodes[combination{relay, ka, "A"}], nodes[combination{relay, kb, "B"}], sizes)
				})
			}
		}
	}
}

func testPeers(t *testing.T, w *worker, a, b *node, sizes []int) {
	spec := a.connector()
	for i, size := range sizes {
		o := object{9000 + i, size}
		data := o.pattern()
		begin := time.Now()
		// B has it, A gets it.
		id := uuid.NewString()
		b.ok(t, "set", id, "", data)
		key := endpointKey(id, b.uuid)
		w.do(t, m{"op": "connector-get", "spec": spec, "keys": []m{key}, "objects": []object{o}})
		if got := w.do(t, m{"op": "connector-exists", "spec": spec, "keys": []m{key}}).([]any); got[0] != true {
			t.Fatalf("%d bytes: the peer's object does not exist", size)
		}
		w.do(t, m{"op": "connector-evict", "spec": spec, "keys": []m{key}})
		if b.exists(t, id, "") {
			t.Fatalf("%d bytes: there after the peer's evict", size)
		}
		if got := w.do(t, m{"op": "connector-missing", "spec": spec, "keys": []m{key}}).([]any); got[0] != true {
			t.Fatalf("%d bytes: the peer's object is there after evict", size)
		}
		if size >= 100_000_000 { // Python needs some 15 s to send or to receive that; the smaller ones have shown the other ways
			t.Logf("%d bytes: %v", size, time.Since(begin).Round(time.Millisecond))
			continue
		}
		// A has it, B gets it.
		put := w.do(t, m{"op": "connector-put", "spec": spec, "objects": []object{o}}).([]any)[0].([]any)
		id = put[0].(string)
		if put[1] != a.uuid {
			t.Fatalf("put at %v", put[1])
		}
		if got := b.ok(t, "get", id, a.uuid, nil); !bytes.Equal(got, data) {
			t.Fatalf("%d bytes came as %d others", size, len(got))
		}
		if !b.exists(t, id, a.uuid) {
			t.Fatalf("%d bytes: A's object does not exist for B", size)
		}
		b.ok(t, "evict", id, a.uuid, nil)
		if b.exists(t, id, a.uuid) || a.exists(t, id, "") {
			t.Fatalf("%d bytes: there after B's evict", size)
		}
		if status, answer, err := b.request(t.Context(), "get", id, a.uuid, nil); err != nil || status != http.StatusNotFound {
			t.Fatalf("get of a missing object at a peer: %d %.200s %v", status, answer, err)
		}
		// A sets it at B, B sets it at A.
		id = uuid.NewString()
		w.do(t, m{"op": "endpoint-set", "spec": spec, "key": []string{id, b.uuid}, "object": o})
		if got := b.ok(t, "get", id, "", nil); !bytes.Equal(got, data) {
			t.Fatalf("%d bytes were set as %d others", size, len(got))
		}
		b.ok(t, "evict", id, "", nil)
		id = uuid.NewString()
		b.ok(t, "set", id, a.uuid, data)
		w.do(t, m{"op": "connector-get", "spec": spec, "keys": []m{endpointKey(id, a.uuid)}, "objects": []object{o}})
		w.do(t, m{"op": "connector-evict", "spec": spec, "keys": []m{endpointKey(id, a.uuid)}})
		t.Logf("%d bytes: %v", size, time.Since(begin).Round(time.Millisecond))
	}
}

// TestEndpointPeerErrors: an endpoint that nobody knows is an error of either kind's peer, and soon.
func TestEndpointPeerErrors(t *testing.T) {
	waiting(t)
	for _, relay := range []string{pythons, ours} {
		t.Run(relay, func(t *testing.T) {
			waiting(t)
			n := startNode(t, ours, "alone", startRelay(t, relay), 1)
			n.up()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			status, answer, err := n.request(ctx, "get", "k", uuid.NewString(), nil)
			if err != nil || status != http.StatusInternalServerError || len(answer) == 0 {
				t.Fatalf("%d %s %v", status, answer, err)
			}
			t.Logf("%s", answer)
		})
	}
}

// TestEndpointGlare: both sides make their first request at about the same moment, so that both may offer. Each round has a new endpoint of ours.
//
// ProxyStore cannot take that: an offer that comes when its own is under way ends the whole endpoint ("Cannot handle offer in signaling state", and
// SystemExit from its background task), also between two of its own. Where the offers cross, nothing that we do can prevent it; then we must say so, and
// find the peer when it is back.
func TestEndpointGlare(t *testing.T) {
	waiting(t)
	for _, relay := range []string{pythons, ours} {
		t.Run("relay="+relay, func(t *testing.T) {
			waiting(t)
			address := startRelay(t, relay)
			for _, kind := range []string{pythons, ours} {
				t.Run("peer="+kind, func(t *testing.T) {
					waiting(t)
					b := startNode(t, kind, "B", address, 1)
					b.up()
					b.ok(t, "set", "k", "", []byte("at B"))
					for _, delay := range []time.Duration{0, 10 * time.Millisecond, 30 * time.Millisecond} {
						glare(t, address, b, delay)
					}
				})
			}
		})
	}
}

// glare starts a new endpoint of ours, which asks b a little after b has asked it.
func glare(t *testing.T, relay string, b *node, delay time.Duration) {
	a := startNode(t, ours, "A-after-"+delay.String(), relay, 1)
	a.up()
	defer a.stop()
	a.ok(t, "set", "k", "", []byte("at A"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	errs := make(chan error, 2)
	ask := func(from, at *node, want string) {
		status, answer, err := from.request(ctx, "get", "k", at.uuid, nil)
		if err == nil && (status != http.StatusOK || string(answer) != want) {
			err = fmt.Errorf("%s asked %s: %d %.200q", from.name, at.name, status, answer)
		}
		errs <- err
	}
	begin := time.Now()
	go ask(b, a, "at A")
	time.Sleep(delay)
	go ask(a, b, "at B")
	err := errors.Join(<-errs, <-errs)
	t.Logf("%v apart: after %v: %v", delay, time.Since(begin).Round(time.Millisecond), err)
	if err != nil {
		timer := time.NewTimer(5 * time.Second)
		defer timer.Stop()
		select {
		case <-b.gone:
		case <-timer.C:
		}
		log, _ := os.ReadFile(b.log)
		if b.kind != pythons || !bytes.Contains(log, []byte("Cannot handle offer in signaling state")) {
			t.Errorf("%v apart: %v", delay, err)
		}
	}
	select {
	case <-b.gone:
		b.launch(t, b.kind)
		b.up()
		b.ok(t, "set", "k", "", []byte("at B"))
	default:
	}
	// Whatever the first requests met, the next ones find a peer.
	if got := a.ok(t, "get", "k", b.uuid, nil); string(got) != "at B" {
		t.Errorf("%q", got)
	}
	if got := b.ok(t, "get", "k", a.uuid, nil); string(got) != "at A" {
		t.Errorf("%q", got)
	}
}

// TestEndpointPeerRestarts: a Python peer that was killed, and comes back, is found again, and so are we by it.
func TestEndpointPeerRestarts(t *testing.T) {
	waiting(t)
	address := startRelay(t, ours)
	a := startNode(t, ours, "A", address, 1)
	b := startNode(t, pythons, "B", address, 1)
	a.up()
	b.up()
	both := func() {
		t.Helper()
		a.ok(t, "set", "a", "", []byte("at A"))
		b.ok(t, "set", "b", "", []byte("at B"))
		if got := a.ok(t, "get", "b", b.uuid, nil); string(got) != "at B" {
			t.Fatalf("%q", got)
		}
		if got := b.ok(t, "get", "a", a.uuid, nil); string(got) != "at A" {
			t.Fatalf("%q", got)
		}
	}
	both()
	b.cmd.Process.Kill()
	<-b.gone
	b.launch(t, pythons)
	b.up()
	both()
	a.cmd.Process.Kill()
	<-a.gone
	a.launch(t, ours)
	a.up()
	// Python has one connection per peer, and gives a new offer to the old one as long as it has that: until its consent checks fail, after some 30 s.
	// Until then nobody can connect to it, and requests fail.
	begin := time.Now()
	for {
		status, answer, err := a.request(t.Context(), "exists", "b", b.uuid, nil)
		t.Logf("%v after a kill: %d %.300s %v", time.Since(begin).Round(time.Millisecond), status, answer, err)
		if err == nil && status == http.StatusOK {
			break
		}
		if time.Since(begin) > patience {
			t.Fatal("our new process does not find the Python peer")
		}
	}
	both()
}

// TestEndpointDirectory: either program runs the directory that the other has configured, reads what it has stored, and stops what it has started.
func TestEndpointDirectory(t *testing.T) {
	waiting(t)
	for _, first := range []string{pythons, ours} {
		t.Run("configured by "+first, func(t *testing.T) {
			waiting(t)
			home := t.TempDir()
			env := append(os.Environ(), "PROXYSTORE_HOME="+home)
			run := func(kind string, args ...string) string {
				t.Helper()
				cmd := exec.Command(pythonBin(t, "proxystore-endpoint"), args...)
				if kind == ours {
					cmd = exec.Command(binary(t), append([]string{"endpoint"}, args...)...)
				}
				cmd.Env = env
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				context.AfterFunc(ctx, func() {
					if cmd.Process != nil {
						cmd.Process.Kill()
					}
				})
				out, err := cmd.CombinedOutput()
				if err != nil {
					log, _ := os.ReadFile(filepath.Join(home, "e", "log.txt"))
					t.Fatalf("%s %v: %v\n%s\n%s", filepath.Base(cmd.Path), args, err, out, log[max(0, len(log)-4000):])
				}
				return string(out)
			}
			port := fmt.Sprint(freePort(t))
			run(first, "configure", "e", "--host", "127.0.0.1", "--port", port, "--no-relay-server", "--persist")
			n := &node{process: &process{t: t, log: filepath.Join(home, "e", "log.txt"), gone: make(chan struct{})}, name: "e", home: home, base: "http://127.0.0.1:" + port}
			list := run(pythons, "list")
			if !strings.Contains(list, "STOPPED") || !strings.Contains(run(ours, "list"), "STOPPED") {
				t.Fatalf("list: %s", list)
			}
			n.uuid = uuidOf(t, list)
			objects := []object{{9100, 1}, {9101, 1000}, {9102, 1_000_000}, {9103, 10_000_000}} // the last is a file, with us
			second := map[string]string{pythons: ours, ours: pythons}[first]
			for i, kind := range []string{first, second, first} {
				run(kind, "start", "e")
				t.Cleanup(func() { // of a failed test
					cmd := exec.Command(binary(t), "endpoint", "stop", "e")
					cmd.Env = env
					cmd.Run()
				})
				n.up()
				for j := range i { // what the others have stored
					for _, o := range objects {
						key := fmt.Sprint(j, "-", o[0])
						if got := n.ok(t, "get", key, "", nil); !bytes.Equal(got, o.pattern()) {
							t.Fatalf("%s: object %v of run %d is not what was stored", kind, o, j)
						}
						if !n.exists(t, key, "") {
							t.Fatalf("%s: object %v of run %d does not exist", kind, o, j)
						}
					}
				}
				if i == 2 {
					for _, o := range objects { // a blob of the other's
						n.ok(t, "evict", fmt.Sprint(1, "-", o[0]), "", nil)
						if n.exists(t, fmt.Sprint(1, "-", o[0]), "") {
							t.Fatalf("%s: object %v is there after evict", kind, o)
						}
					}
				}
				for _, o := range objects {
					n.ok(t, "set", fmt.Sprint(i, "-", o[0]), "", o.pattern())
				}
				other := map[string]string{pythons: ours, ours: pythons}[kind]
				if l := run(other, "list"); !strings.Contains(l, "RUNNING") {
					t.Fatalf("%s does not see that %s runs it: %s", other, kind, l)
				}
				run(other, "stop", "e")
				if l := run(kind, "list"); !strings.Contains(l, "STOPPED") {
					t.Fatalf("%s was stopped by %s: %s", kind, other, l)
				}
				if kind == ours {
					run(ours, "fold", "e") // Python does not look for files beside its database
				}
			}
			run(second, "remove", "e")
			if _, err := os.Stat(filepath.Join(home, "e")); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("not removed: %v", err)
			}
		})
	}
}

// uuidOf finds the UUID in a text.
func uuidOf(t *testing.T, text string) string {
	t.Helper()
	for f := range strings.FieldsSeq(text) {
		if id, err := uuid.Parse(f); err == nil {
			return id.String()
		}
	}
	t.Fatalf("no UUID in %q", text)
	return ""
}
