//go:build unix

package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// childVar names, in the environment of a process that is this binary again, the server that it is.
const childVar = "PROXYPLANE_BENCH_SERVER"

// servers by role. Each prints the address that it serves, by calling ready, and serves until standard input ends. They are processes of their
// own so that client and server share no Go scheduler and no memory, as in use.
var servers = map[string]func(arg string, ready func(addr string), stdin io.Reader) error{}

// runChild does what this process was started for.
func runChild(role string) error {
	role, arg, _ := strings.Cut(role, " ")
	serve := servers[role]
	if serve == nil {
		return fmt.Errorf("no server %q in this build", role)
	}
	return serve(arg, func(addr string) { fmt.Println(addr) }, os.Stdin)
}

// child is a server that a benchmark started. All of a run's benchmarks share it.
type child struct {
	addr string
	cmd  *exec.Cmd
	in   io.WriteCloser
}

var children struct {
	sync.Mutex
	m map[string]*child
}

// serverAt returns the address of the server of that role, which it starts if none of a run's benchmarks did.
func serverAt(b *testing.B, role string) string {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(exe, "-poll", pollFlag.String())
	cmd.Env = append(os.Environ(), childVar+"="+role)
	return start(b, role, cmd).addr
}

// start runs cmd, unless a child of that name runs already, and waits for its first line, which is its address.
func start(b *testing.B, name string, cmd *exec.Cmd) *child {
	b.Helper()
	children.Lock()
	defer children.Unlock()
	if c := children.m[name]; c != nil {
		return c
	}
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
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		in.Close()
		b.Fatalf("%s did not start: %v", name, errors.Join(err, cmd.Wait()))
	}
	c := &child{addr: strings.TrimSpace(addr), cmd: cmd, in: in}
	if children.m == nil {
		children.m = map[string]*child{}
	}
	children.m[name] = c
	return c
}

// stopChildren ends all of them: they end with their input.
func stopChildren() {
	children.Lock()
	defer children.Unlock()
	for _, c := range children.m {
		c.in.Close()
	}
	for name, c := range children.m {
		if err := c.cmd.Wait(); err != nil && !slices.Contains([]string{"libzmq"}, name) {
			fmt.Fprintf(os.Stderr, "bench: server %s: %v\n", name, err)
		}
	}
	children.m = nil
}

// untilEOF returns when the parent is gone or wants the process to end.
func untilEOF(stdin io.Reader) { io.Copy(io.Discard, stdin) }
