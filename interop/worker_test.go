package interop

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

// worker is a Python process that does what JSON lines tell it.
type worker struct {
	t       testing.TB
	mu      sync.Mutex
	in      io.WriteCloser
	out     *bufio.Reader
	limit   interface{ SetReadDeadline(time.Time) error }
	process *os.Process
}

// patience is how long Python may take for one command: some of its clients wait for ever when something goes wrong.
const patience = 2 * time.Minute

// startWorker starts worker.py in the environment of a ProxyStore version. It ends with the test.
func startWorker(t testing.TB, version string) *worker {
	t.Helper()
	return startWorkerOf(t, testenv.Python(t, version))
}

// startWorkerOf is startWorker with another interpreter.
func startWorkerOf(t testing.TB, interpreter string) *worker {
	t.Helper()
	cmd := exec.Command(interpreter, "-W", "ignore", filepath.Join(testenv.Root(), "interop", "worker.py"))
	cmd.Stderr = os.Stderr
	cmd.Dir = t.TempDir()
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
	w := &worker{t: t, in: in, out: bufio.NewReaderSize(out, 1<<20), limit: out.(*os.File), process: cmd.Process}
	t.Cleanup(func() {
		in.Close() // the worker ends at the end of its input
		cmd.Wait()
	})
	return w
}

// workers are the processes that all tests share, by version. TestMain ends them.
var workers = map[string]*worker{}

// sharedWorker returns the worker of a version. Tests of this package do not run in parallel.
func sharedWorker(t *testing.T, version string) *worker {
	t.Helper()
	if workers[version] == nil {
		workers[version] = startWorker(&untilTheEnd{TB: t}, version)
	}
	return workers[version]
}

// untilTheEnd is a test whose cleanups wait for TestMain.
type untilTheEnd struct{ testing.TB }

var cleanups []func()

func (u *untilTheEnd) Cleanup(f func()) { cleanups = append(cleanups, f) }

func (u *untilTheEnd) TempDir() string {
	dir, err := os.MkdirTemp("", "proxyplane-interop-")
	if err != nil {
		u.Fatal(err)
	}
	u.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestMain(t *testing.M) {
	code := t.Run()
	for _, f := range slices.Backward(cleanups) {
		f()
	}
	os.Exit(code)
}

// m is a command, or an answer, in JSON.
type m = map[string]any

// try runs one command and returns its answer or Python's error.
func (w *worker) try(cmd m) (any, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	line, err := json.Marshal(cmd)
	if err != nil {
		return nil, err
	}
	if _, err := w.in.Write(append(line, '\n')); err != nil {
		return nil, fmt.Errorf("python worker: %w", err)
	}
	w.limit.SetReadDeadline(time.Now().Add(patience))
	answer, err := w.out.ReadBytes('\n')
	if err != nil {
		w.process.Kill() // whatever it is doing, its answers would be those to earlier commands
		return nil, fmt.Errorf("python worker: %w", err)
	}
	var a struct {
		OK    any    `json:"ok"`
		Error string `json:"error"`
		Trace string `json:"trace"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, err
	}
	if a.Error != "" {
		return nil, fmt.Errorf("python: %s\n%s", a.Error, a.Trace)
	}
	return a.OK, nil
}

// do runs one command that must succeed.
func (w *worker) do(t testing.TB, cmd m) any {
	t.Helper()
	a, err := w.try(cmd)
	if err != nil {
		t.Fatalf("%v: %v", cmd["op"], err)
	}
	return a
}

// doBytes runs one command that answers with bytes.
func (w *worker) doBytes(t testing.TB, cmd m) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(w.do(t, cmd).(string))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
