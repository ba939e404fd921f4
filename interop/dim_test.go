package interop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/zmq"
)

// dimKind is one of proxystore_ex's distributed in-memory connectors.
type dimKind struct {
	name        string
	class       string
	interpreter func(t testing.TB) string
	ours        bool // whether this build has servers of ours for it, beside Python's
}

var zmqKind = dimKind{"zmq", "proxystore_ex.connectors.dim.zmq.ZeroMQConnector",
	func(t testing.TB) string { return testenv.Python(t, testenv.ProxyStore11) }, true}

// dimServer is a running object server, ours or Python's, that both sides reach.
type dimServer struct {
	kind dimKind
	name string // embedded, serve, python
	port int
	lib  bool // ours, both server and client, speak by libzmq
}

func (s dimServer) spec(more ...m) m {
	spec := m{"kind": s.kind.name, "address": "127.0.0.1", "port": s.port, "timeout": 30}
	for _, o := range more {
		for k, v := range o {
			spec[k] = v
		}
	}
	return spec
}

func (s dimServer) config(more ...m) connectors.Config {
	options := map[string]any{"address": "127.0.0.1", "interface": nil, "port": int64(s.port), "timeout": 30.0}
	if s.kind.name == "zmq" {
		options["chunk_length"] = nil
	}
	if s.lib {
		options["libzmq"] = true
	}
	for _, o := range more {
		for k, v := range o {
			options[k] = v
		}
	}
	return connectors.Config{Kind: s.kind.class, Options: options}
}

// freePort returns a port that nobody has now.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// embedded is a server that our connector starts in this process, and keeps while the test runs.
func embedded(t *testing.T, kind dimKind, lib bool) dimServer {
	t.Helper()
	s := dimServer{kind, "embedded", freePort(t), lib}
	st, err := proxyplane.Open(t.Context(), proxyplane.NewConfig("", s.config(m{"timeout": 0.2})), proxyplane.WithStores(proxyplane.NewStores()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// served is our binary's server.
func served(t *testing.T, kind dimKind, lib bool) dimServer {
	t.Helper()
	s := dimServer{kind, "serve", freePort(t), lib}
	cmd := exec.Command(binary(t), "serve", "--transport", kind.name, "--listen", fmt.Sprintf("127.0.0.1:%d", s.port), fmt.Sprintf("--libzmq=%v", lib))
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	t.Cleanup(stop)
	defer time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() }).Stop()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "ready "+kind.name+" ") {
		stop()
		t.Fatalf("proxyplane serve: %q, %v\n%s", line, err, &log)
	}
	return s
}

// python is Python's own server.
func python(t *testing.T, kind dimKind) dimServer {
	t.Helper()
	s := dimServer{kind, "python", freePort(t), false}
	stop := startPythonServer(t, s)
	t.Cleanup(stop)
	return s
}

func startPythonServer(t *testing.T, s dimServer) (stop func()) {
	t.Helper()
	cmd := exec.Command(s.kind.interpreter(t), "-W", "ignore", filepath.Join(testenv.Root(), "interop", "dim_server.py"), s.kind.name, fmt.Sprint(s.port))
	cmd.Env = append(os.Environ(), "UCX_TCP_CM_REUSEADDR=y") // one that is started again comes back to its port
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
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		in.Close()
		t.Fatalf("Python's %s server: %q, %v, %v", s.kind.name, line, err, cmd.Wait())
	}
	return sync.OnceFunc(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// eachServer runs f against every kind of server.
func eachServer(t *testing.T, kind dimKind, f func(t *testing.T, w *worker, s dimServer)) {
	t.Helper()
	w := workerOf(t, kind)
	t.Run("server=python", func(t *testing.T) { f(t, w, python(t, kind)) })
	if kind.name == "zmq" && zmq.HasLibzmq() {
		t.Run("server=python,libzmq", func(t *testing.T) {
			s := python(t, kind)
			s.lib = true
			f(t, w, s)
		})
	}
	for _, lib := range []bool{false, true} {
		if kind.ours && (!lib || kind.name == "zmq" && zmq.HasLibzmq()) {
			form := map[bool]string{true: ",libzmq"}[lib]
			t.Run("server=embedded"+form, func(t *testing.T) { f(t, w, embedded(t, kind, lib)) })
			t.Run("server=serve"+form, func(t *testing.T) { f(t, w, served(t, kind, lib)) })
		}
	}
}

// workerOf returns the worker that has the connector.
func workerOf(t *testing.T, kind dimKind) *worker {
	t.Helper()
	interpreter := kind.interpreter(t)
	if kind.name == "zmq" {
		return sharedWorker(t, testenv.ProxyStore11)
	}
	if workers[kind.name] == nil {
		workers[kind.name] = startWorkerOf(&untilTheEnd{TB: t}, interpreter)
	}
	return workers[kind.name]
}

// openConnector opens our connector of a server.
func openConnector(t *testing.T, s dimServer, more ...m) connectors.Connector {
	t.Helper()
	st, err := proxyplane.Open(t.Context(), proxyplane.NewConfig("", s.config(more...)), proxyplane.WithStores(proxyplane.NewStores()), proxyplane.WithCacheBytes(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return st.Connector()
}

// object is a number that stands for bytes, and their number.
type object [2]int

// pattern makes the object's bytes, as worker.py's function of that name does.
func (o object) pattern() []byte {
	block := make([]byte, 0, 2048*sha256.Size)
	for i := range 2048 {
		sum := sha256.Sum256(fmt.Appendf(nil, "%d/%d", o[0], i))
		block = append(block, sum[:]...)
	}
	block = block[:65521]
	return bytes.Repeat(block, o[1]/len(block)+1)[:o[1]]
}

// verify compares an object that came back, which it releases.
func (o object) verify(b *transport.Buffer, err error) error {
	if err != nil {
		return fmt.Errorf("object %v: %w", o, err)
	}
	defer b.Release()
	if !bytes.Equal(b.Bytes(), o.pattern()) {
		return fmt.Errorf("object %v: %d bytes that differ from it", o, b.Len())
	}
	return nil
}

// dimKey returns the key that worker.py answered with.
func dimKey(answer any) connectors.DIMKey {
	f := answer.([]any)
	return connectors.DIMKey{DIMType: f[0].(string), ObjID: f[1].(string), Size: int64(f[2].(float64)), PeerHost: f[3].(string), PeerPort: int64(f[4].(float64))}
}

func pyKeys(keys ...connectors.Key) []any {
	var all []any
	for _, k := range keys {
		all = append(all, keyJSON(k))
	}
	return all
}

// testDIMSizes moves objects of all sizes, with all lengths of chunks on both sides, both ways.
func testDIMSizes(t *testing.T, kind dimKind) {
	eachServer(t, kind, func(t *testing.T, w *worker, s dimServer) {
		chunks := []any{nil, 1000, 1 << 16, 1 << 20}
		if kind.name != "zmq" {
			chunks = chunks[:1]
		}
		for i, chunk := range chunks {
			var more m
			if chunk != nil {
				more = m{"chunk_length": chunk}
			}
			c := openConnector(t, s, more)
			sizes := []int{0, 1, 999, 1000, 1001, 1<<16 - 1, 1 << 16, 1<<16 + 1, 1 << 20, 3<<20 + 7}
			if chunk == nil {
				sizes = append(sizes, 20_000_000)
			}
			for _, size := range sizes {
				o := object{i, size}
				theirs := dimKey(w.do(t, m{"op": "connector-put", "spec": s.spec(more), "objects": []any{o}}).([]any)[0])
				if theirs.Size != int64(size) || theirs.DIMType != kind.name || theirs.PeerPort != int64(s.port) {
					t.Errorf("Python's key is %+v", theirs)
				}
				if err := o.verify(c.Get(t.Context(), theirs)); err != nil {
					t.Errorf("chunk_length %v: Python put, we got: %v", chunk, err)
				}
				mine, err := c.Put(t.Context(), transport.Slices{o.pattern()[:size/3], o.pattern()[size/3:]})
				if err != nil {
					t.Fatalf("chunk_length %v: put of %d bytes: %v", chunk, size, err)
				}
				k, ok := mine.(connectors.DIMKey)
				if !ok || k.Size != int64(size) || k.DIMType != kind.name || k.PeerPort != int64(s.port) || k.PeerHost != "127.0.0.1" {
					t.Errorf("our key is %+v", mine)
				}
				if _, err := w.try(m{"op": "connector-get", "spec": s.spec(more), "keys": pyKeys(mine), "objects": []any{o}}); err != nil {
					t.Errorf("chunk_length %v: we put, Python got: %v", chunk, err)
				}
				if err := c.Evict(t.Context(), theirs); err != nil {
					t.Error(err)
				}
				w.do(t, m{"op": "connector-evict", "spec": s.spec(more), "keys": pyKeys(mine)})
				for _, k := range []connectors.Key{theirs, mine} {
					if ok, err := c.Exists(t.Context(), k); ok || err != nil {
						t.Errorf("%v exists after evict, %v", k, err)
					}
				}
			}
		}
	})
}

// testDIMBatches: many objects by one call, in order, and missing ones among them.
func testDIMBatches(t *testing.T, kind dimKind) {
	eachServer(t, kind, func(t *testing.T, w *worker, s dimServer) {
		c := openConnector(t, s)
		var objects []object
		var slices []transport.Slices
		for i := range 20 {
			o := object{100 + i, i * 7919}
			objects, slices = append(objects, o), append(slices, transport.Slices{o.pattern()})
		}
		mine, err := connectors.PutBatch(t.Context(), c, slices)
		if err != nil {
			t.Fatal(err)
		}
		missing := connectors.DIMKey{DIMType: kind.name, ObjID: "nobody", Size: 3, PeerHost: "127.0.0.1", PeerPort: int64(s.port)}
		w.do(t, m{"op": "connector-get-batch", "spec": s.spec(), "keys": append(pyKeys(mine...), pyKeys(missing)...), "objects": append(anys(objects), nil)})
		var theirs []connectors.Key
		for _, k := range w.do(t, m{"op": "connector-put-batch", "spec": s.spec(), "objects": objects}).([]any) {
			theirs = append(theirs, dimKey(k))
		}
		got, err := connectors.GetBatch(t.Context(), c, theirs)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range got {
			if err := objects[i].verify(b, nil); err != nil {
				t.Error(err)
			}
		}

		// Nobody has it, and nobody minds evicting it.
		if b, err := c.Get(t.Context(), missing); !errors.Is(err, connectors.ErrNotFound) {
			t.Errorf("get of a missing object: %v, %v", b, err)
		}
		if ok, err := c.Exists(t.Context(), missing); ok || err != nil {
			t.Errorf("a missing object: %v, %v", ok, err)
		}
		if err := c.Evict(t.Context(), missing); err != nil {
			t.Error(err)
		}
		if w.do(t, m{"op": "connector-missing", "spec": s.spec(), "keys": pyKeys(missing)}).([]any)[0] != true {
			t.Error("Python has an object that nobody put")
		}
		w.do(t, m{"op": "connector-evict", "spec": s.spec(), "keys": pyKeys(missing)})
	})
}

func anys[T any](s []T) []any {
	var all []any
	for _, v := range s {
		all = append(all, v)
	}
	return all
}

// testDIMManyClients has processes with Python's connector and goroutines with ours work on one server at once.
func testDIMManyClients(t *testing.T, kind dimKind) {
	interpreter := kind.interpreter(t)
	var processes []*worker
	for range 3 {
		processes = append(processes, startWorkerOf(t, interpreter))
	}
	eachServer(t, kind, func(t *testing.T, _ *worker, s dimServer) {
		var wg sync.WaitGroup
		errs := make(chan error, 2*len(processes))
		for i, w := range processes {
			var objects []object
			for j := range 30 {
				objects = append(objects, object{1000*i + j, (j * j * 997) % 200_000})
			}
			wg.Go(func() {
				_, err := w.try(m{"op": "connector-churn", "spec": s.spec(), "objects": objects})
				errs <- err
			})
			c := openConnector(t, s)
			wg.Go(func() { errs <- churn(t.Context(), c, 5000+i) })
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// churn is worker.py's operation of that name, on our side.
func churn(ctx context.Context, c connectors.Connector, seed int) error {
	for j := range 30 {
		o := object{1000*seed + j, (j * j * 997) % 200_000}
		key, err := c.Put(ctx, transport.Slices{o.pattern()})
		if err != nil {
			return err
		}
		if err := o.verify(c.Get(ctx, key)); err != nil {
			return err
		}
		if err := c.Evict(ctx, key); err != nil {
			return err
		}
		if b, err := c.Get(ctx, key); !errors.Is(err, connectors.ErrNotFound) {
			return fmt.Errorf("after evict: %v, %w", b, err)
		}
	}
	return nil
}

// testDIMKilledClients kills Python clients while they send and receive large objects. The server goes on with the others as if nothing were.
func testDIMKilledClients(t *testing.T, kind dimKind) {
	if !kind.ours {
		return
	}
	interpreter := kind.interpreter(t)
	eachServer(t, kind, func(t *testing.T, w *worker, s dimServer) {
		if s.name == "python" {
			return // what Python's server makes of it is not our concern
		}
		c := openConnector(t, s)
		big := object{1, 50_000_000}
		key, err := c.Put(t.Context(), transport.Slices{big.pattern()})
		if err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			victim := startWorkerOf(t, interpreter)
			victim.do(t, m{"op": "connector-churn", "spec": s.spec(), "objects": []object{{2, 1000}}}) // it is connected
			order := m{"op": "connector-get", "spec": s.spec(), "keys": pyKeys(key, key, key, key), "objects": []object{big, big, big, big}}
			if round%2 == 0 {
				order = m{"op": "connector-put", "spec": s.spec(), "objects": []object{big, big, big, big}}
			}
			died := make(chan error, 1)
			go func() {
				_, err := victim.try(order)
				died <- err
			}()
			time.AfterFunc(time.Duration(rand.Int64N(int64(200*time.Millisecond))), func() { victim.process.Kill() })
			w.do(t, m{"op": "connector-churn", "spec": s.spec(), "objects": []object{{3, 100_000}, {4, 10}}})
			if err := <-died; err == nil {
				t.Log("it was done before it died")
			}
			if err := churn(t.Context(), c, round); err != nil {
				t.Error(err)
			}
		}
		if err := big.verify(c.Get(t.Context(), key)); err != nil {
			t.Error(err)
		}
	})
}

// testDIMServerRestart kills Python's server under our connector, which says so, and goes on with the next one.
func testDIMServerRestart(t *testing.T, kind dimKind) {
	s := dimServer{kind, "python", freePort(t), false}
	stop := startPythonServer(t, s)
	defer stop()
	c := openConnector(t, s)
	o := object{1, 10_000}
	key, err := c.Put(t.Context(), transport.Slices{o.pattern()})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if b, err := c.Get(t.Context(), key); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("without a server: %v, %v", b, err)
	}
	defer startPythonServer(t, s)()
	deadline := time.Now().Add(20 * time.Second)
	for { // a server that did not answer is not asked again at once
		b, err := c.Get(t.Context(), key)
		if errors.Is(err, connectors.ErrNotFound) {
			break
		}
		if !errors.Is(err, connectors.ErrUnavailable) || time.Now().After(deadline) {
			t.Fatalf("a new server, which has no objects: %v, %v", b, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if key, err = c.Put(t.Context(), transport.Slices{o.pattern()}); err != nil {
		t.Fatal(err)
	}
	if err := o.verify(c.Get(t.Context(), key)); err != nil {
		t.Error(err)
	}
}

// testDIMPolicy: what a proxy from Python may open is the receiver's decision, down to the host in its key.
func testDIMPolicy(t *testing.T, kind dimKind) {
	w := workerOf(t, kind)
	s := python(t, kind)
	resolve := func(data []byte, p proxyplane.Policy) error {
		t.Helper()
		proxy, err := proxyplane.ParseProxy[any](data)
		if err != nil {
			t.Fatal(err)
		}
		r := proxyplane.NewStores(proxyplane.WithPolicy(p))
		defer r.Close(t.Context())
		proxy.Bind(r)
		v, err := proxy.Resolve(t.Context())
		if err == nil {
			err = check("str", v)
		}
		return err
	}
	store := "policy" + fmt.Sprint(serial.Add(1))
	data := w.doBytes(t, m{"op": "proxy", "store": store, "spec": s.spec(), "value": "str", "dumps": "pickle5"})
	if err := resolve(data, proxyplane.Policy{}); err != nil {
		t.Errorf("loopback: %v", err)
	}
	if err := resolve(data, proxyplane.Policy{Kinds: []string{kind.name}}); err != nil {
		t.Errorf("an allowed kind: %v", err)
	}
	if err := resolve(data, proxyplane.Policy{Kinds: []string{"file", "redis"}}); !errors.Is(err, proxyplane.ErrDenied) {
		t.Errorf("another kind: %v", err)
	}
	key := connectors.DIMKey{DIMType: kind.name, ObjID: "x", Size: 1, PeerHost: "192.0.2.1", PeerPort: int64(s.port)}
	answer := w.do(t, m{"op": "connector-proxy", "store": store, "spec": s.spec(), "keys": pyKeys(key)})
	data, err := base64.StdEncoding.DecodeString(answer.([]any)[0].(string))
	if err != nil {
		t.Fatal(err)
	}
	if err := resolve(data, proxyplane.Policy{}); !errors.Is(err, proxyplane.ErrDenied) {
		t.Errorf("a key that leads elsewhere: %v", err)
	}
}

func TestZeroMQSizes(t *testing.T)         { testDIMSizes(t, zmqKind) }
func TestZeroMQBatches(t *testing.T)       { testDIMBatches(t, zmqKind) }
func TestZeroMQManyClients(t *testing.T)   { testDIMManyClients(t, zmqKind) }
func TestZeroMQKilledClients(t *testing.T) { testDIMKilledClients(t, zmqKind) }
func TestZeroMQServerRestart(t *testing.T) { testDIMServerRestart(t, zmqKind) }
func TestZeroMQPolicy(t *testing.T)        { testDIMPolicy(t, zmqKind) }

// TestZeroMQGarbage: messages of a real libzmq peer that are no RPC. Who sends them is told so, or hung up on; nobody else notices.
func TestZeroMQGarbage(t *testing.T) {
	w := workerOf(t, zmqKind)
	s := embedded(t, zmqKind, false)
	c := openConnector(t, s)
	encode := func(frames ...string) []any {
		var all []any
		for _, f := range frames {
			all = append(all, base64.StdEncoding.EncodeToString([]byte(f)))
		}
		return all
	}
	if pong := w.do(t, m{"op": "connector-raw", "spec": s.spec(), "frames": encode("ping"), "timeout": 10_000}); fmt.Sprint(pong) != fmt.Sprint(encode("pong")) {
		t.Errorf("ping: %v", pong)
	}
	if pong := w.do(t, m{"op": "connector-raw", "spec": s.spec(), "frames": encode("pi", "", "ng"), "timeout": 10_000}); fmt.Sprint(pong) != fmt.Sprint(encode("pong")) {
		t.Errorf("ping in parts: %v", pong)
	}
	for _, frames := range [][]any{encode(""), encode("hello"), encode("PK\n"), encode("PK\n\x80\x05N."), encode("PK\n", "\x80\x05cos\nsystem\n(S'false'\ntR."),
		encode("BS\nbytes"), encode("\x00\x00\x00")} {
		answer := w.do(t, m{"op": "connector-raw", "spec": s.spec(), "frames": frames, "timeout": 200})
		if parts, ok := answer.([]any); ok { // in a Python client an answer raises a Python exception; silence would have it wait for ever
			data, err := base64.StdEncoding.DecodeString(parts[0].(string))
			if err != nil || !bytes.HasPrefix(data, []byte("PK\n")) || !bytes.Contains(data, []byte("ValueError")) {
				t.Errorf("%v was answered by %q, %v", frames, data, err)
			}
		}
		w.do(t, m{"op": "connector-churn", "spec": s.spec(), "objects": []object{{1, 1000}}})
	}
	if err := churn(t.Context(), c, 1); err != nil {
		t.Error(err)
	}
}
