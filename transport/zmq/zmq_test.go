package zmq

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// leakCheck fails the test if, at its end, goroutines, descriptors or pooled buffers are left that were not there before. It comes first in a test.
func leakCheck(t testing.TB) {
	t.Helper()
	if r, w, err := os.Pipe(); err == nil { // the first use of the runtime's poller opens descriptors that stay
		r.Close()
		w.Close()
	}
	count := func() (int, int, int64) {
		fds, _ := os.ReadDir("/proc/self/fd")
		bufs, _ := transport.Live(transport.Pooled)
		return runtime.NumGoroutine(), len(fds), bufs
	}
	g, f, b := count()
	t.Cleanup(func() {
		for i := 0; ; i++ {
			g2, f2, b2 := count()
			if g2 <= g && f2 <= f && b2 <= b {
				return
			}
			if i == 500 {
				stacks := make([]byte, 1<<20)
				t.Errorf("left behind: %d goroutines, %d descriptors, %d buffers\n%s", g2-g, f2-f, b2-b, stacks[:runtime.Stack(stacks, true)])
				return
			}
			time.Sleep(10 * time.Millisecond) // what ends is not done yet
		}
	})
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	r.Read(b)
	return b
}

func newTable(t testing.TB) *objects.Table {
	t.Helper()
	table, err := objects.NewTable(objects.TableOptions{Memory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

// serve listens until the test ends.
func serve(t testing.TB, addr string, o ListenOptions) *Server {
	t.Helper()
	s, err := Listen(testContext(t), addr, newTable(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// echo is a Handler whose reply is the request.
func echo(_ context.Context, req *transport.Buffer) (transport.Slices, func(), error) {
	return transport.Slices{req.Bytes()}, req.Release, nil
}

// logs keeps what is logged.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// pyProcess is a Python program that talks with the test by lines.
type pyProcess struct {
	t     testing.TB
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
	err   bytes.Buffer
	once  sync.Once
}

// startPython starts script with args. It ends with the test.
func startPython(t testing.TB, script string, args ...string) *pyProcess {
	t.Helper()
	p := &pyProcess{t: t, cmd: exec.Command(testenv.Python(t, testenv.ProxyStore11), append([]string{"-c", script}, args...)...)}
	p.cmd.Stderr = &p.err
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.lines = in, bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(40*time.Second, func() { p.cmd.Process.Kill() })
	t.Cleanup(func() { kill.Stop() })
	t.Cleanup(p.stop)
	return p
}

// line returns the next line, or fails the test.
func (p *pyProcess) line() string {
	p.t.Helper()
	if !p.lines.Scan() {
		p.cmd.Wait()
		p.t.Fatalf("Python ended: %s", p.err.String())
	}
	return p.lines.Text()
}

// stop ends the program, which must not have failed.
func (p *pyProcess) stop() {
	p.once.Do(func() {
		p.in.Close()
		for p.lines.Scan() {
		}
		if err := p.cmd.Wait(); err != nil && !p.t.Failed() {
			p.t.Errorf("Python: %v\n%s", err, p.err.String())
		}
	})
}

// runPython runs script to its end and returns what it prints.
func runPython(t testing.TB, script string, args ...string) string {
	t.Helper()
	p := startPython(t, script, args...)
	var out []string
	for p.lines.Scan() {
		out = append(out, p.lines.Text())
	}
	p.stop()
	return strings.Join(out, "\n")
}

var uuidRE = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// rpcs is a small Handler for the pickled RPCs of proxystore_ex. It knows just enough of pickle to be spoken to by a real ZeroMQConnector: the answers
// have Python take the key out of the request.
type rpcs struct {
	mu   sync.Mutex
	objs map[string][]byte
}

func pyBytes(b []byte) []byte {
	return append(binary.LittleEndian.AppendUint64([]byte{0x8e}, uint64(len(b))), b...)
}

func (r *rpcs) handle(_ context.Context, req *transport.Buffer) (transport.Slices, func(), error) {
	defer req.Release()
	msg := req.Bytes()
	_, op, ok := bytes.Cut(msg, []byte("operation\x94\x8c"))
	if !ok || !bytes.HasPrefix(msg, []byte("PK\n")) {
		return nil, nil, fmt.Errorf("not an RPC: %.100q", msg)
	}
	op = op[1 : 1+op[0]]
	id := string(uuidRE.Find(msg))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.objs == nil {
		r.objs = map[string][]byte{}
	}
	data, exists := []byte("N"), []byte("N")
	switch string(op) {
	case "put":
		_, rest, _ := bytes.Cut(msg, []byte("\x8c\x04data\x94"))
		if rest[0] == 0x95 { // FRAME
			rest = rest[9:]
		}
		size := map[byte]int{'C': 1, 'B': 4, 0x8e: 8}[rest[0]]
		n := 0
		for i := size; i > 0; i-- {
			n = n<<8 | int(rest[i])
		}
		r.objs[id] = bytes.Clone(rest[1+size:][:n])
	case "get":
		if b, ok := r.objs[id]; ok {
			data = pyBytes(b)
		}
	case "exists":
		exists = []byte{0x89}
		if _, ok := r.objs[id]; ok {
			exists = []byte{0x88}
		}
	case "evict":
		delete(r.objs, id)
	}
	var out []byte
	out = append(out, "PK\n\x80\x04cproxystore_ex.connectors.dim.models\nRPCResponse\n("...)
	out = append(append(append(out, 'V'), op...), '\n')
	out = append(out, "cbuiltins\ngetattr\n(c_pickle\nloads\n("...)
	out = append(append(out, pyBytes(msg[3:])...), "tRVkey\ntR"...)
	out = append(append(append(out, data...), exists...), "tR."...)
	return transport.Slices{out[:3], out[3:]}, nil, nil
}
