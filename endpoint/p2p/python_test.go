package p2p

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// program is ProxyStore's own Endpoint, whose peer manager sends chunks through pipes. Chunks are its own too: Chunk, chunkify, reconstruct.
const program = `
import asyncio, json, struct, sys, uuid
from collections import defaultdict
from proxystore.endpoint.endpoint import Endpoint
from proxystore.endpoint.storage import DictStorage
from proxystore.p2p.chunks import Chunk, chunkify, reconstruct
from proxystore.p2p.connection import MAX_CHUNK_SIZE_BYTES

OTHER = uuid.uuid4()

class Pipes:
    name, uuid = 'python', uuid.uuid4()
    def __init__(self):
        self.queue, self.chunks, self.sent = asyncio.Queue(), defaultdict(list), 0
    async def async_init(self): pass
    async def close(self): pass
    async def recv(self): return await self.queue.get()
    async def send(self, peer, message, timeout=30):
        self.sent += 1
        for chunk in chunkify(message, MAX_CHUNK_SIZE_BYTES, self.sent):
            write(b'c', bytes(chunk))

def write(kind, b):
    sys.stdout.buffer.write(kind + struct.pack('>I', len(b)) + b); sys.stdout.buffer.flush()

async def command(ep, c):
    try:
        if c['op'] == 'set':
            r = await ep.set(c['key'], bytes(i * 7 % 256 for i in range(c['n'])), OTHER)
        elif c['op'] == 'get':
            r = await ep.get(c['key'], OTHER)
            r = None if r is None else [len(r), r == bytes(i * 7 % 256 for i in range(len(r)))]
        elif c['op'] == 'partial':
            r = len(ep._peer_manager.chunks)
        else:
            r = await getattr(ep, c['op'])(c['key'], OTHER)
        write(b'r', json.dumps({'id': c['id'], 'result': r}).encode())
    except Exception as e:
        write(b'r', json.dumps({'id': c['id'], 'error': type(e).__name__ + ': ' + str(e)}).encode())

async def main():
    pm = Pipes()
    ep = await Endpoint(peer_manager=pm, storage=DictStorage(max_object_size=4_000_000))
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    while True:
        try:
            head = await reader.readexactly(5)
        except asyncio.IncompleteReadError:
            return
        b = await reader.readexactly(struct.unpack('>I', head[1:])[0])
        if head[:1] == b'c':
            chunk = Chunk.from_bytes(b)
            pm.chunks[chunk.stream_id].append(chunk)
            if len(pm.chunks[chunk.stream_id]) == chunk.seq_len:
                await pm.queue.put((OTHER, reconstruct(pm.chunks.pop(chunk.stream_id))))
        else:
            t = asyncio.create_task(command(ep, json.loads(b))); tasks.add(t); t.add_done_callback(tasks.discard)
asyncio.run(main())
`

// python is the program: a Channel, and commands.
type python struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	out    *bufio.Reader
	mu     sync.Mutex
	in     io.WriteCloser
	calls  map[int]chan map[string]any
	id     int
}

func startPython(t *testing.T) *python {
	t.Helper()
	p := &python{cmd: exec.Command(testenv.Python(t, testenv.ProxyStore11), "-c", program), calls: map[int]chan map[string]any{}}
	p.cmd.Stderr = &p.stderr
	p.in, _ = p.cmd.StdinPipe()
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReaderSize(out, 1<<20)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, &p.stderr)
		}
	})
	return p
}

func (p *python) Label() string { return "p2p-0-1" }
func (p *python) Close() error  { return p.in.Close() }

func (p *python) write(kind byte, parts ...[]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.in.Write(append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(transport.Slices(parts).Len())), bytes.Join(parts, nil)...))
	return err
}

func (p *python) WriteSlices(parts ...[]byte) error { return p.write('c', parts...) }

func (p *python) Read(b []byte) (int, error) {
	for {
		var head [5]byte
		if _, err := io.ReadFull(p.out, head[:]); err != nil {
			return 0, err
		}
		n := int(binary.BigEndian.Uint32(head[1:]))
		if head[0] == 'c' {
			return io.ReadFull(p.out, b[:n])
		}
		raw := make([]byte, n)
		if _, err := io.ReadFull(p.out, raw); err != nil {
			return 0, err
		}
		var r map[string]any
		if err := json.Unmarshal(raw, &r); err != nil {
			return 0, err
		}
		p.mu.Lock()
		p.calls[int(r["id"].(float64))] <- r
		p.mu.Unlock()
	}
}

// call lets Python's endpoint ask ours.
func (p *python) call(t *testing.T, op, key string, n int) map[string]any {
	t.Helper()
	p.mu.Lock()
	p.id++
	id, c := p.id, make(chan map[string]any, 1)
	p.calls[id] = c
	p.mu.Unlock()
	b, _ := json.Marshal(map[string]any{"id": id, "op": op, "key": key, "n": n})
	if err := p.write('x', b); err != nil {
		t.Fatal(err)
	}
	return <-c
}

// TestPython: ProxyStore's own endpoint asks ours, and ours asks it.
func TestPython(t *testing.T) {
	p := startPython(t)
	store := table(t)
	s := New([]Channel{p}, store, Options{MaxObject: 5_000_000})
	defer s.Close()
	ctx := t.Context()
	for _, n := range []int{1, 255, 256, 1000, chunkSize - 1, chunkSize, chunkSize + 1, 1_000_000} {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(i * 7)
		}
		key := fmt.Sprint("to python ", n)
		if err := s.Set(ctx, key, transport.Slices{data}); err != nil {
			t.Fatal(n, err)
		}
		got, err := s.Get(ctx, key)
		if err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Fatal(n, err)
		}
		got.Release()
		if ok, err := s.Exists(ctx, key); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := s.Evict(ctx, key); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(ctx, key); !errors.Is(err, transport.ErrNotFound) {
			t.Fatal(err)
		}

		key = fmt.Sprint("from python ", n)
		if r := p.call(t, "set", key, n); r["error"] != nil {
			t.Fatal(r)
		}
		if b, err := store.Get(key); err != nil || !bytes.Equal(b.Bytes(), data) {
			t.Fatal(n, err)
		} else {
			b.Release()
		}
		if r := p.call(t, "get", key, 0); fmt.Sprint(r["result"]) != fmt.Sprint([]any{float64(n), true}) {
			t.Fatal(r)
		}
		if r := p.call(t, "exists", key, 0); r["result"] != true {
			t.Fatal(r)
		}
		if r := p.call(t, "evict", key, 0); r["error"] != nil {
			t.Fatal(r)
		}
		if r := p.call(t, "get", key, 0); r["error"] != nil || r["result"] != nil {
			t.Fatal(r)
		}
	}

	// Errors arrive as what Python's endpoint raises.
	if err := s.Set(ctx, "k", transport.Slices{make([]byte, 4_500_000)}); !errors.Is(err, transport.ErrTooLarge) || !strings.Contains(err.Error(), "object limit") {
		t.Fatal(err)
	}
	if r := p.call(t, "set", "k", 6_000_000); !strings.HasPrefix(fmt.Sprint(r["error"]), "ObjectSizeExceededError: too large: a message of 5") {
		t.Fatal(r)
	}
	s.store = &fullStore{Store: store}
	if r := p.call(t, "set", "k", 100); !strings.HasPrefix(fmt.Sprint(r["error"]), "PeerRequestError: the server's memory limit is reached: evict something") {
		t.Fatal(r)
	}
	// What cannot be read does not end Python's endpoint, nor does a set that was given up.
	for i, data := range []string{"PK\nnonsense", "XX\n"} {
		if err := p.WriteSlices(header{typeBytes, headerSize + uint32(len(data)), uint32(1000 + i), 0, 1}.append(nil), []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := s.Exists(ctx, "k"); ok || err != nil {
		t.Fatal(ok, err)
	}
	if r := p.call(t, "partial", "", 0); r["result"] != 0.0 {
		t.Fatal(r)
	}
}

type fullStore struct{ objects.Store }

func (fullStore) Put(_ string, b *transport.Buffer, _ objects.PutOptions) error {
	b.Release()
	return fmt.Errorf("%w: evict something", transport.ErrFull)
}
