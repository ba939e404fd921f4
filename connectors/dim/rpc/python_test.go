package rpc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// prelude of the Python programs below: messages go over a pipe, each after its length.
const prelude = `
import contextlib, json, struct, sys
from proxystore.serialize import deserialize, serialize
from proxystore_ex.connectors.dim.zmq import ZeroMQConnector, ZeroMQServer
def send(b):
    sys.stdout.buffer.write(struct.pack('<Q', len(b)) + b); sys.stdout.buffer.flush()
def recv():
    head = sys.stdin.buffer.read(8)
    if not head: sys.exit()
    return sys.stdin.buffer.read(struct.unpack('<Q', head)[0])
`

// pipe is a Python program with messages in and out.
type pipe struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err bytes.Buffer
}

func start(t *testing.T, program string) *pipe {
	t.Helper()
	p := &pipe{cmd: exec.Command(testenv.Python(t, testenv.ProxyStore11), "-c", prelude+program)}
	p.cmd.Stderr = &p.err
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.in.Close()
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("Python: %v\n%s", err, &p.err)
		}
	})
	return p
}

func (p *pipe) send(parts ...[]byte) error {
	if err := binary.Write(p.in, binary.LittleEndian, transport.Slices(parts).Len()); err != nil {
		return err
	}
	_, err := transport.Slices(parts).WriteTo(p.in)
	return err
}

func (p *pipe) recv() ([]byte, error) {
	var n uint64
	if err := binary.Read(p.out, binary.LittleEndian, &n); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, err := io.ReadFull(p.out, b)
	return b, err
}

// Exchange makes the program a server.
func (p *pipe) Exchange(_ context.Context, req transport.Slices) (*transport.Buffer, error) {
	if err := p.send(req...); err != nil {
		return nil, err
	}
	b, err := p.recv()
	if err != nil {
		return nil, err
	}
	return transport.FromBytes(b), nil
}

func (p *pipe) Close() error { return nil }

// TestPythonServer has Python's ZeroMQServer serve our Client.
func TestPythonServer(t *testing.T) {
	c := NewClient(start(t, `
server = ZeroMQServer()
server.data['bytearray'] = bytearray(b'abc')
def full(key, data): raise MemoryError('no room for ' + key)
while True:
    m = recv()
    if m == b'ping':
        send(b'pong'); continue
    rpc = deserialize(m)
    if rpc.key.obj_id == 'full': server.put = full
    assert isinstance(rpc.key, tuple) and rpc.key.peer_host == 'node' and rpc.key.peer_port == 70000, rpc
    if rpc.operation == 'put': assert type(rpc.data) is bytes and rpc.key.size == len(rpc.data)
    send(serialize(server.handle_rpc(rpc)))
`), "zmq", ClientOptions{Host: "node", Port: 70000})
	ctx := t.Context()
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 255, 256, 60_000, frameLimit, frameLimit + 1, 3_000_000} {
		obj := bytes.Repeat([]byte("x\x00\xff"), n/3+1)[:n]
		for _, parts := range []transport.Slices{{obj}, {obj[:n/2], nil, obj[n/2:]}} {
			if err := c.Put(ctx, "é😀", parts, objects.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			got, err := c.GetBytes(ctx, "é😀", int64(n))
			if err != nil || !bytes.Equal(got, obj) {
				t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
			}
		}
	}
	if b, err := c.GetBytes(ctx, "bytearray", -1); err != nil || string(b) != "abc" {
		t.Errorf("a bytearray: %q, %v", b, err)
	}
	if ok, err := c.Exists(ctx, "é😀"); !ok || err != nil {
		t.Errorf("Exists: %v, %v", ok, err)
	}
	if err := c.Evict(ctx, "é😀"); err != nil {
		t.Error(err)
	}
	if ok, err := c.Exists(ctx, "é😀"); ok || err != nil {
		t.Errorf("Exists after Evict: %v, %v", ok, err)
	}
	if _, err := c.Get(ctx, "é😀", 0, -1, -1); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("Get after Evict: %v", err)
	}
	err := c.Put(ctx, "full", nil, objects.PutOptions{})
	if !errors.Is(err, transport.ErrFull) || !strings.Contains(err.Error(), "MemoryError: no room for full") {
		t.Errorf("Put into a full server: %v", err)
	}
}

// TestPythonClient has our Handler serve Python's ZeroMQConnector, whose own code checks the answers.
func TestPythonClient(t *testing.T) {
	s := newStore(t)
	h := NewHandler(s, HandlerOptions{})
	p := start(t, `
class Pipe:
    @contextlib.contextmanager
    def connect(self, url): yield
    def send_multipart(self, parts): send(b''.join(parts))
    def recv_multipart(self): return [recv()]
c = object.__new__(ZeroMQConnector)
c.socket, c.chunk_length, c.address, c.port = Pipe(), 65536, '127.0.0.1', 5555
out = {}
for n in 0, 1, 255, 256, 60000, 65536, 65537, 3000000:
    for kind in bytes, bytearray, memoryview:
        key = c.put(kind(b'h' * n))
        got = c.get(key)
        assert type(got) is bytes and got == b'h' * n, (n, kind)
        assert c.exists(key)
        c.evict(key); c.evict(key)
        assert not c.exists(key) and c.get(key) is None
keys = c.put_batch([b'a', b'b'])
assert c.get_batch(keys) == [b'a', b'b']
def refused(f, *args):
    try: f(*args)
    except Exception as e: return [type(e).__module__, type(e).__name__, str(e)]
out['str'] = refused(c.put, 'text')
out['none'] = refused(c._send_rpcs, [type('X', (), {'key': keys[0], 'operation': 'put'})()])
out['full'] = refused(c.put, b'FULL' * 100000)
out['id'] = refused(c.get, keys[0]._replace(obj_id=5))
send(json.dumps(out).encode())
`)
	var last []byte
	for {
		msg, err := p.recv()
		if err != nil {
			break
		}
		if bytes.HasPrefix(msg, []byte("{")) {
			last = msg
			break
		}
		s.fail = nil
		if bytes.Contains(msg, []byte("FULL")) {
			s.fail = transport.ErrFull
		}
		reply, release, err := h(t.Context(), message(t, msg))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.send(reply...); err != nil {
			t.Fatal(err)
		}
		if release != nil {
			release()
		}
	}
	var out map[string][]string
	if err := json.Unmarshal(last, &out); err != nil {
		t.Fatalf("%v in %q", err, last)
	}
	for name, want := range map[string][2]string{
		"str": {"TypeError", "serialize it first"}, "none": {"ValueError", "not an RPC"}, "full": {"MemoryError", "raise the server's memory limit"},
		"id": {"ValueError", "field 1 of the DIMKey is int64"},
	} {
		got := out[name]
		if len(got) != 3 || got[0] != "builtins" || got[1] != want[0] || !strings.Contains(got[2], want[1]) {
			t.Errorf("%s: Python raised %q, want %q", name, got, want)
		}
	}
}
