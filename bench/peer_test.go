//go:build unix

package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

// peer is a Python process with ProxyStore that all benchmarks of a run share.
type peer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// peers by interpreter.
var peers struct {
	sync.Mutex
	m map[string]*peer
}

// order is what a peer is to do; see proxystore_peer.py.
type order struct {
	Conn  string `json:"conn"`
	Where string `json:"where"`
	Op    string `json:"op"`
	Size  int    `json:"size"`
	N     int    `json:"n,omitempty"`
	Until *int64 `json:"until,omitempty"` // nanoseconds
}

type answer struct {
	NS    int64
	Took  []int64
	Error string
}

// ask has the peer of an interpreter do one order.
func ask(interpreter string, o order) (answer, error) {
	peers.Lock()
	defer peers.Unlock()
	p := peers.m[interpreter]
	if p == nil {
		cmd := exec.Command(interpreter, "-W", "ignore", filepath.Join(testenv.Root(), "bench", "peers", "proxystore_peer.py"))
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return answer{}, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return answer{}, err
		}
		if err := cmd.Start(); err != nil {
			return answer{}, err
		}
		p = &peer{cmd, in, bufio.NewReader(out)}
		if peers.m == nil {
			peers.m = map[string]*peer{}
		}
		peers.m[interpreter] = p
	}
	if err := json.NewEncoder(p.in).Encode(o); err != nil {
		return answer{}, err
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil || a.Error != "" {
		return a, fmt.Errorf("ProxyStore: %s %w", a.Error, err)
	}
	return a, nil
}

// pythonOp has ProxyStore do n operations and returns what they took together. The benchmark is skipped without the Python environment.
func pythonOp(b *testing.B, conn, where, op string, size, n int) time.Duration {
	b.Helper()
	a, err := ask(testenv.Python(b, testenv.ProxyStore11), order{Conn: conn, Where: where, Op: op, Size: size, N: n})
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(a.NS)
}

// python is ProxyStore's connector as a rival. It cannot have more than one request under way, so that flight is always 1.
type pythonRival struct {
	interpreter, conn string
	size              int
}

func (r *pythonRival) round(op string, _ int, until time.Duration) (sample, error) {
	ns := until.Nanoseconds()
	a, err := ask(r.interpreter, order{Conn: r.conn, Op: op, Size: r.size, Until: &ns})
	if err != nil {
		return sample{}, err
	}
	s := sample{elapsed: time.Duration(a.NS), ops: len(a.Took)}
	for _, t := range a.Took {
		s.took = append(s.took, time.Duration(t))
	}
	return s, nil
}

func (r *pythonRival) close() {}

func stopPeers() {
	peers.Lock()
	defer peers.Unlock()
	for _, p := range peers.m {
		p.in.Close() // it ends at the end of its input
		p.cmd.Wait()
	}
	peers.m = nil
}
