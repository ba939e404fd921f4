//go:build unix

package bench

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

// peer is the Python process that all benchmarks of a run share.
var peer struct {
	sync.Mutex
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// pythonOp has ProxyStore do n operations and returns what they took together. The benchmark is skipped without the Python environment.
func pythonOp(b *testing.B, conn, where, op string, size, n int) time.Duration {
	b.Helper()
	interpreter := testenv.Python(b, testenv.ProxyStore11)
	peer.Lock()
	defer peer.Unlock()
	if peer.cmd == nil {
		cmd := exec.Command(interpreter, filepath.Join(testenv.Root(), "bench", "peers", "proxystore_peer.py"))
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		peer.cmd, peer.in, peer.out = cmd, in, bufio.NewReader(out)
	}
	if err := json.NewEncoder(peer.in).Encode(map[string]any{"conn": conn, "where": where, "op": op, "size": size, "n": n}); err != nil {
		b.Fatal(err)
	}
	line, err := peer.out.ReadBytes('\n')
	if err != nil {
		b.Fatal(err)
	}
	var answer struct {
		NS    int64
		Error string
	}
	if err := json.Unmarshal(line, &answer); err != nil || answer.Error != "" {
		b.Fatalf("ProxyStore: %s %v", answer.Error, err)
	}
	return time.Duration(answer.NS)
}

func stopPeer() {
	peer.Lock()
	defer peer.Unlock()
	if peer.cmd != nil {
		peer.in.Close() // it ends at the end of its input
		peer.cmd.Wait()
	}
}
