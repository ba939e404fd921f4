//go:build unix

package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

// zmqFloor compiles peers/zmqfloor.c and returns the program, or "" where there is no C compiler or no libzmq.
var zmqFloor = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "proxyplane-bench-")
	if err != nil {
		return ""
	}
	atEnd = append(atEnd, func() { os.RemoveAll(dir) })
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	program := filepath.Join(dir, "zmqfloor")
	if out, err := exec.Command(cc, "-O2", "-o", program, filepath.Join(testenv.Root(), "bench", "peers", "zmqfloor.c"), "-lzmq").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: without libzmq (install libzmq3-dev and a C compiler to see it): %v\n%s", err, out)
		return ""
	}
	return program
})

// libzmq is a client process of zmqfloor.c.
type libzmq struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	size int
}

func openLibzmq(b *testing.B, obj []byte) (rival, error) {
	program := zmqFloor()
	if program == "" {
		return nil, nil
	}
	at := start(b, "libzmq", exec.Command(program, "server")).addr
	cmd := exec.Command(program, "client", at)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &libzmq{cmd, in, bufio.NewReader(out), len(obj)}, cmd.Start()
}

func (z *libzmq) round(op string, flight int, until time.Duration) (sample, error) {
	if _, err := fmt.Fprintf(z.in, "%s %d %d %d\n", op, z.size, flight, until.Nanoseconds()); err != nil {
		return sample{}, err
	}
	line, err := z.out.ReadString('\n')
	if err != nil {
		return sample{}, fmt.Errorf("zmqfloor: %w", err)
	}
	var s sample
	words := strings.NewReader(line)
	if _, err := fmt.Fscan(words, &s.ops, (*int64)(&s.elapsed)); err != nil {
		return s, err
	}
	for range min(s.ops, keep) {
		var ns int64
		if _, err := fmt.Fscan(words, &ns); err != nil {
			return s, err
		}
		s.took = append(s.took, time.Duration(ns))
	}
	return s, nil
}

func (z *libzmq) close() {
	z.in.Close()
	z.cmd.Wait()
}
