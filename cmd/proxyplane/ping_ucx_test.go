//go:build unix && cgo && ucx

package main

import (
	"bufio"
	"os/exec"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport/native"
)

// TestPingPythonUCX reaches, as ping does, the server of ProxyStore's UCXConnector.
func TestPingPythonUCX(t *testing.T) {
	interpreter := testenv.PythonUCX(t)
	const script = `
import socket, threading, time
from proxystore_ex.connectors.dim import ucx
with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    port = s.getsockname()[1]
def ready():
    while True:
        with socket.socket() as s:
            if s.connect_ex(('127.0.0.1', port)) == 0:
                break
        time.sleep(0.05)
    print(port, flush=True)
threading.Thread(target=ready, daemon=True).start()
ucx.start_server(port)
`
	cmd := exec.Command(interpreter, "-W", "ignore", "-c", script)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	at := address{transport: "ucx", addr: "127.0.0.1:" + strings.TrimSpace(port)}
	for range 2 {
		client, over, err := dialAddress(t.Context(), at, native.ClientOptions{}, nil, "", false)
		if err != nil || over != "ucx (Python's server)" {
			t.Fatalf("over %q, %v", over, err)
		}
		if err := client.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}
