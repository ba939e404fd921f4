package peer

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/relay"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

const childRelay, childUUID = "PROXYPLANE_TEST_PEER_RELAY", "PROXYPLANE_TEST_PEER_UUID"

// TestMain runs the process that TestKill kills, if that is what this process is.
func TestMain(m *testing.M) {
	if addr := os.Getenv(childRelay); addr != "" {
		child(addr, uuid.MustParse(os.Getenv(childUUID)))
		return
	}
	code := m.Run()
	if left := leaked(); code == 0 && len(left) > 0 { // of the tests that run at the same time
		fmt.Fprintf(os.Stderr, "%d goroutines are left:\n%s\n", len(left), strings.Join(left, "\n\n"))
		code = 1
	}
	os.Exit(code)
}

func child(addr string, id uuid.UUID) {
	c, err := relay.NewClient(relay.ClientOptions{Address: "ws://" + addr, Name: "child", UUID: id})
	if err != nil {
		panic(err)
	}
	store, err := objects.NewTable(objects.TableOptions{Memory: 64 << 20})
	if err != nil {
		panic(err)
	}
	store.Put("k", transport.FromBytes(content(100_000)), objects.PutOptions{})
	if _, err := New(Options{UUID: id, Relay: c, Store: store, Listen: "127.0.0.1:0", Loopback: true}); err != nil {
		panic(err)
	}
	for !c.State().Connected {
		time.Sleep(time.Millisecond)
	}
	os.Stdout.WriteString("ready\n")
	io.Copy(io.Discard, os.Stdin) // until the test ends
}

func startChild(t *testing.T, addr string, id uuid.UUID) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childRelay+"="+addr, childUUID+"="+id.String())
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
		cmd.Process.Kill()
		cmd.Wait()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// A peer that is killed and comes back: the request that notices waits until it is there again.
func TestKill(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	r := startRelay(t, nil)
	id := ids(2)
	n := newNode(t, r.client(id[0]), id[0], nil)
	cmd := startChild(t, r.addr, id[1])
	get(t, ctx, n, id[1], "k", 0, -1)
	cmd.Process.Kill()
	cmd.Wait()
	done := make(chan error)
	go func() {
		_, err := tryGet(ctx, n, id[1], "k", 0, -1)
		done <- err
	}()
	startChild(t, r.addr, id[1])
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
