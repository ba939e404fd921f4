package relay

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport"
)

// pythonClient is a script that uses ProxyStore's RelayClient. It reads commands, one JSON list a line, and answers each with a line.
const pythonClient = `
import asyncio, json, sys, uuid
from proxystore.p2p.relay.client import RelayClient
from proxystore.p2p.relay.messages import *
import websockets

async def main():
    loop = asyncio.get_running_loop()
    clients = {}
    while True:
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        op, name, *args = json.loads(line)
        try:
            if op == 'connect':
                address, id, token = args
                c = RelayClient(address, client_name=name, client_uuid=uuid.UUID(id), reconnect_task=False, timeout=20,
                                extra_headers={'Authorization': token} if token else None)
                clients[name] = c
                await c.connect(retry=False)
                out = None
            elif op == 'send':
                source, peer, kind, description, error = args
                await clients[name].send(PeerConnectionRequest(uuid.UUID(source), name, uuid.UUID(peer), kind, description, error))
                out = None
            elif op == 'text':
                await clients[name].websocket.send(args[0])
                out = None
            elif op == 'raw':
                # Not the client's recv, which would connect again instead of saying how the connection ended.
                out = json.loads(encode_relay_message(decode_relay_message(await asyncio.wait_for(clients[name]._websocket.recv(), 20))))
            elif op == 'recv':
                out = json.loads(encode_relay_message(await asyncio.wait_for(clients[name].recv(), 20)))
            elif op == 'close':
                await clients[name].close()
                out = None
        except websockets.exceptions.ConnectionClosed as e:
            out = [e.rcvd.code, e.rcvd.reason] if e.rcvd else [1006, '']
        except Exception as e:
            out = type(e).__name__ + ': ' + str(e)
        print(json.dumps(out), flush=True)

asyncio.run(main())
`

type python struct {
	t   testing.TB
	in  io.WriteCloser
	out *bufio.Reader
}

// startPython runs a script like pythonClient until the test ends.
func startPython(t testing.TB, script string, env ...string) *python {
	t.Helper()
	interpreter := testenv.Python(t, testenv.ProxyStore11)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, interpreter, "-c", script)
	cmd.Env = append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
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
		if err := cmd.Wait(); err != nil {
			t.Errorf("python: %v", err)
		}
		cancel()
		if stderr.Len() > 0 {
			t.Logf("python says:\n%s", stderr.String())
		}
	})
	return &python{t, in, bufio.NewReader(out)}
}

// do has one command done and returns what it answers, as JSON.
func (p *python) do(command ...any) string {
	p.t.Helper()
	line, err := json.Marshal(command)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		p.t.Fatal(err)
	}
	answer, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(answer)
}

func (p *python) want(want string, command ...any) {
	p.t.Helper()
	if got := p.do(command...); !strings.Contains(got, want) {
		p.t.Errorf("%v: %s, want %s", command, got, want)
	}
}

// TestPythonClients: two of ProxyStore's clients and one of ours at our server, and all that can go wrong.
func TestPythonClients(t *testing.T) {
	p := startPython(t, pythonClient)
	ctx := testContext(t)
	s, addr := startServer(t, ServerOptions{Authenticator: byName{}, MaxMessage: 200_000})
	address := "ws://" + addr
	a, b, id := uuid.NewString(), uuid.NewString(), uuid.New()
	p.want(`null`, "connect", "a", address, a, "Bearer alice")
	p.want(`null`, "connect", "b", address, b, "Bearer alice")
	p.want(`null`, "send", "a", a, b, "offer", "v=0\r\né𝄞", nil)
	p.want(`{"source_uuid": "`+a+`", "source_name": "a", "peer_uuid": "`+b+`", "description_type": "offer", "description": "v=0\r\n\u00e9\ud834\udd1e", "error": null, `+
		`"message_type": "peer_connection"}`, "recv", "b")

	ours := startClient(t, address, func(o *ClientOptions) {
		o.UUID, o.Header = id, func(context.Context) (http.Header, error) { return userHeader("alice"), nil }
	})
	p.want(`null`, "connect", "b", address, b, "Bearer alice") // again: the first b gets 4004
	if err := ours.Send(ctx, PeerConnection{PeerUUID: uuid.MustParse(a), DescriptionType: "answer", Description: "x"}); err != nil {
		t.Fatal(err)
	}
	p.want(`"source_name": "go", "peer_uuid": "`+a+`", "description_type": "answer", "description": "x", "error": null`, "recv", "a")
	p.want(`null`, "send", "a", a, id.String(), "answer", "y", "some error")
	if m, err := ours.Receive(ctx); err != nil || m != (PeerConnection{uuid.MustParse(a), "a", id, "answer", "y", "some error"}) {
		t.Errorf("%+v, %v", m, err)
	}

	nobody := uuid.NewString()
	p.want(`null`, "send", "a", a, nobody, "offer", "x", nil)
	p.want(`because this peer is not registered this relay server.`, "recv", "a")
	p.want(`null`, "connect", "m", address, uuid.NewString(), "Bearer mallory")
	m := ""
	for _, c := range s.Clients() {
		if c.Name == "m" {
			m = c.UUID.String()
		}
	}
	p.want(`null`, "send", "m", m, a, "offer", "x", nil)
	p.want(`The requested peer `+a+` is owned by a different user.`, "recv", "m")
	p.want(`null`, "send", "m", b, m, "offer", "x", nil)
	p.want(`The source UUID `+b+` of the message is not the UUID`, "recv", "m")

	p.want(`[4001, "UnauthorizedError: Request headers are missing authorization header."]`, "connect", "x", address, nobody, "")
	p.want(`[4001, "UnauthorizedError: Bearer token in authorization header is malformed."]`, "connect", "x", address, nobody, "Bearer")
	p.want(`[4002, "ForbiddenError: Token is expired or has been revoked."]`, "connect", "x", address, nobody, "Bearer bad")
	p.want(`[4002, "ForbiddenError: The client UUID `+a+` is already registered to another user."]`, "connect", "x", address, a, "Bearer mallory")
	p.want(`null`, "connect", "x", address, nobody, "Bearer alice")
	p.want(`null`, "text", "x", "{}")
	p.want(`[4000, "Unknown message type."]`, "raw", "x")
	p.want(`null`, "connect", "x", address, nobody, "Bearer alice")
	p.want(`null`, "text", "x", strings.Repeat("x", 200_001))
	p.want(`[4003, "Message length exceeds limit."]`, "raw", "x")

	p.want(`null`, "connect", "a2", address, a, "Bearer alice")
	const twice = "Relay received a registration with the same ID. This might mean that the endpoint is running in multiple locations."
	p.want(`[4004, "`+twice+`"]`, "raw", "a")
	p.want("RelayRegistrationError: "+twice, "recv", "a") // it stays away
	p.want(`null`, "close", "a2")
	eventually(t, "a2 is unregistered", func() bool { return s.Stats().Clients == 3 })
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(ctx) }()
	p.want(`[1001, "The relay server is shutting down."]`, "raw", "b")
	p.want(`null`, "close", "m") // nobody reads from it else
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// startPythonRelay runs proxystore-relay until the test ends, and returns its address and a function that ends it sooner.
func startPythonRelay(t testing.TB, port int, config string, env ...string) (string, func()) {
	t.Helper()
	interpreter := testenv.Python(t, testenv.ProxyStore11)
	if port == 0 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port = l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	path := filepath.Join(t.TempDir(), "relay.toml")
	if err := os.WriteFile(path, fmt.Appendf(nil, "host = '127.0.0.1'\nport = %d\n%s", port, config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(filepath.Dir(interpreter), "proxystore-relay"), "--config", path)
	cmd.Env = append(os.Environ(), env...)
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop := func() {
		if ended {
			return
		}
		ended = true
		cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		defer timer.Stop()
		cmd.Wait()
		if t.Failed() {
			t.Logf("proxystore-relay says:\n%s", output.String())
		}
	}
	t.Cleanup(stop)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	eventually(t, "proxystore-relay listens", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return addr, stop
}

// TestPythonRelay: our clients and one of ProxyStore's at ProxyStore's relay, which restarts.
func TestPythonRelay(t *testing.T) {
	p := startPython(t, pythonClient)
	ctx := testContext(t)
	addr, stop := startPythonRelay(t, 0, "max_message_bytes = 100000\n")
	a, b := startClient(t, "ws://"+addr, nil), startClient(t, "ws://"+addr, nil)
	for _, c := range []*Client{a, b} {
		if err := c.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	exchange := func() {
		t.Helper()
		want := PeerConnection{a.o.UUID, "go", b.o.UUID, "offer", "v=0\r\n é𝄞", ""}
		if err := a.Send(ctx, want); err != nil {
			t.Fatal(err)
		}
		if m, err := b.Receive(ctx); err != nil || m != want {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	exchange()
	if err := a.Send(ctx, PeerConnection{PeerUUID: one, DescriptionType: "offer"}); err != nil {
		t.Fatal(err)
	}
	if m, err := a.Receive(ctx); err != nil || m.Error != "Cannot forward peer connection message to peer "+one.String()+" because this peer is not registered this relay server." {
		t.Errorf("%+v, %v", m, err)
	}
	id := uuid.NewString()
	p.want(`null`, "connect", "p", "ws://"+addr, id, "")
	if err := a.Send(ctx, PeerConnection{PeerUUID: uuid.MustParse(id), DescriptionType: "offer", Description: "x", Error: "y"}); err != nil {
		t.Fatal(err)
	}
	p.want(`"peer_uuid": "`+id+`", "description_type": "offer", "description": "x", "error": "y"`, "recv", "p")
	p.want(`null`, "close", "p")

	// Too large a message costs the connection, which comes back.
	if err := a.Send(ctx, PeerConnection{PeerUUID: b.o.UUID, Description: strings.Repeat("x", 100_000)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is too large", func() bool { return errors.Is(a.State().Err, transport.ErrTooLarge) || !a.State().Connected })
	if err := a.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	exchange()

	stop()
	eventually(t, "both notice", func() bool { return !a.State().Connected && !b.State().Connected })
	var port int
	if _, err := fmt.Sscanf(addr, "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	startPythonRelay(t, port, "")
	for _, c := range []*Client{a, b} {
		if err := c.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	exchange()

	second := startClient(t, "ws://"+addr, func(o *ClientOptions) { o.UUID = a.o.UUID })
	if err := second.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Receive(ctx); err == nil || !strings.Contains(err.Error(), "runs in two places") || !a.State().Final {
		t.Errorf("%v", err)
	}
}

// TestPythonRelayWithGlobus: our client and ProxyStore's relay, which asks the same service as ours about tokens.
func TestPythonRelayWithGlobus(t *testing.T) {
	g := newGlobusService(t)
	g.set(func() {
		g.tokens["good"] = active(`["`+GlobusResourceServer+`"]`, time.Now().Add(time.Hour).Unix())
	})
	ctx := testContext(t)
	addr, _ := startPythonRelay(t, 0, fmt.Sprintf("[auth]\nmethod = 'globus'\n[auth.kwargs]\nclient_id = '%s'\nclient_secret = '%s'\n", testClient, testSecret),
		"GLOBUS_SDK_SERVICE_URL_AUTH="+g.URL)
	header := func(token string) func(o *ClientOptions) {
		return func(o *ClientOptions) {
			o.Header = func(context.Context) (http.Header, error) { return userHeader(token), nil }
		}
	}
	good := startClient(t, "ws://"+addr, header("good"))
	if err := good.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	bad := startClient(t, "ws://"+addr, header("bad"))
	eventually(t, "refused", func() bool {
		err := bad.State().Err
		return errors.Is(err, transport.ErrDenied) && strings.Contains(err.Error(), "ForbiddenError: Token is expired or has been revoked.")
	})
	none := startClient(t, "ws://"+addr, nil)
	if err := none.Wait(ctx); !errors.Is(err, transport.ErrDenied) || !strings.Contains(err.Error(), "UnauthorizedError: Request headers are missing authorization header.") {
		t.Errorf("%v", err)
	}
}
