//go:build cgo && ucx

package ucx

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	cucx "github.com/proxyplane/proxyplane/cgo/ucx"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

func exchangerTo(t testing.TB, addr string, o DialOptions) objects.Exchanger {
	t.Helper()
	x, err := DialExchanger(t.Context(), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

// exchanges is the client's side of TestExchange.
func exchanges(ctx context.Context, addr string) error {
	x, err := DialExchanger(ctx, addr, DialOptions{})
	if err != nil {
		return err
	}
	exchange := func(p []byte) error {
		got, err := x.Exchange(ctx, transport.Slices{p[:len(p)/3], p[len(p)/3:]})
		if err == nil && !bytes.Equal(got.Bytes(), append(p, '!')) {
			err = errors.New("got others")
		}
		got.Release()
		if err != nil {
			err = fmt.Errorf("%d bytes: %w", len(p), err)
		}
		return err
	}
	for _, n := range sizes {
		if err := exchange(random(n)); err != nil {
			return err
		}
	}
	if _, err := x.Exchange(ctx, transport.Slices{[]byte("fail")}); !errors.Is(err, transport.ErrUnavailable) {
		return fmt.Errorf("an exchange that the server cannot make sense of: %w", err)
	}
	errs := make(chan error)
	for g := range 16 {
		go func() {
			var err error
			for i := 0; i < 5 && err == nil; i++ {
				err = exchange(fmt.Appendf(nil, "%d of %d", i, g))
			}
			errs <- err
		}()
	}
	for range 16 {
		err = errors.Join(err, <-errs)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := x.Exchange(ended, transport.Slices{[]byte("ping")}); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("a cancelled exchange: %w", err)
	}
	err = errors.Join(err, x.Close())
	if _, err := x.Exchange(ctx, transport.Slices{[]byte("ping")}); !errors.Is(err, transport.ErrClosed) {
		return fmt.Errorf("after Close: %w", err)
	}
	for p := cucx.Contexts; p <= cucx.RemoteKeys; p++ {
		if h, _ := cucx.Live(p); h != 0 {
			err = errors.Join(err, fmt.Errorf("%d %v are left", h, p))
		}
	}
	return err
}

// TestExchange has its client in another process, and native clients beside.
func TestExchange(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{Python: echo})
	if _, said := process(t, "exchanger", s.Addr(), ""); said != "fine" {
		t.Errorf("the client says %q", said)
	}
	// Native clients are served by the same listener.
	c := dialTo(t, s.Addr(), DialOptions{})
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestExchangeEnds is about the end of an exchange's endpoint, while both sides do nothing else: a server of ucx-py's stands still until it comes.
func TestExchangeEnds(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{Python: echo})
	x := exchangerTo(t, s.Addr(), DialOptions{})
	for range 3 {
		b, err := x.Exchange(t.Context(), transport.Slices{[]byte("ping")})
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
		forgotten(t, s)
	}
}

// forgotten waits until a server has no connections, and their descriptors are closed.
func forgotten(t *testing.T, s *Server) {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.Addr())
	n, _ := strconv.Atoi(port)
	local := fmt.Sprintf("0100007F:%04X ", n)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // nothing tells when
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			t.Fatal(err)
		}
		open := 0
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			if len(f) > 3 && (f[1]+" " == local || f[2]+" " == local) && f[3] != "0A" && f[3] != "06" { // neither listening nor in TIME_WAIT
				open++
			}
		}
		if s.Stats().Conns == 0 && open == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections and %d sockets are left", s.Stats().Conns, open)
		}
	}
}

// TestExchangesHere has client and server in one process, with connections that come and go on two workers. See guard.c of cgo/ucx.
func TestExchangesHere(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{Python: echo})
	x := exchangerTo(t, s.Addr(), DialOptions{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 15 {
				msg := fmt.Appendf(nil, "%d of %d", i, g)
				b, err := x.Exchange(t.Context(), transport.Slices{msg})
				if err != nil || string(b.Bytes()) != string(msg)+"!" {
					t.Errorf("exchange %s: %v", msg, err)
				}
				b.Release()
			}
		})
	}
	wg.Wait()
	x.Close()
	forgotten(t, s)
}

// TestConnect sees who answers, and uses the connection.
func TestConnect(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{Python: echo})
	connect := func() *Conn {
		c, err := Connect(t.Context(), s.Addr(), DialOptions{})
		if err != nil || c.Peer() != PeerNative || c.Peer().String() != "native" {
			t.Fatal(c, err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	unused := connect()
	if err := errors.Join(unused.Close(), unused.Close()); err != nil {
		t.Error(err)
	}
	if _, err := unused.Client(t.Context()); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("a client of a closed connection: %v", err)
	}
	used := connect()
	c, err := used.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	used.Close() // does nothing
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := used.Exchanger(); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("a connection used twice: %v", err)
	}
	c.Close()
	x, err := connect().Exchanger()
	if err != nil {
		t.Fatal(err)
	}
	b, err := x.Exchange(t.Context(), transport.Slices{[]byte("ping")})
	if err != nil || string(b.Bytes()) != "ping!" {
		t.Errorf("an exchange with our server: %v", err)
	}
	b.Release()
	x.Close()
}

// TestLongClaims has clients of Python's protocol that announce long messages and do not send them: that takes no memory.
func TestLongClaims(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{Python: echo})
	x := exchangerTo(t, s.Addr(), DialOptions{}).(*exchanger)
	connect := func() *talk {
		token := x.e.next()
		ep, err := x.e.w.Connect(x.addrs[0], false, token)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x.adopt(t.Context(), x.e.watch(ep, token, nil))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	x.e.lock()
	defer x.e.unlock()
	before := pooled()
	for _, n := range []uint64{1 << 63, 1<<64 - 1, defaultMessage + 1} { // refused
		c := connect()
		if err := c.send(c.theirs.message, transport.Slices{binary.NativeEndian.AppendUint64(nil, n)}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.recvObject(false); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("a message of %d bytes: %v", n, err)
		}
		c.close(false)
	}
	claim := binary.NativeEndian.AppendUint64(nil, 1<<29)
	silent, liar, honest := connect(), connect(), connect()
	for _, c := range []*talk{silent, liar, honest} {
		if err := c.send(c.theirs.message, transport.Slices{claim}); err != nil {
			t.Fatal(err)
		}
	}
	if err := liar.send(liar.theirs.message, transport.Slices{make([]byte, 1000)}); err != nil {
		t.Fatal(err)
	}
	if _, err := liar.recvObject(false); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("a message of another length than announced: %v", err)
	}
	if after := pooled(); after > before {
		t.Errorf("%d bytes are held for claims", after-before)
	}
	for _, c := range []*talk{silent, liar, honest} {
		c.close(true)
	}
}

// TestHandshakeEnds has clients of Python's protocol that die in the handshake: the server forgets them, and goes on.
func TestHandshakeEnds(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{Python: echo})
	for _, when := range []string{"before", "half"} {
		for range 2 {
			cmd, _ := process(t, "dying", s.Addr(), when)
			_ = cmd.Wait()
		}
	}
	forgotten(t, s)
	if n := s.Stats().Python; n != 4 {
		t.Errorf("%d connections of Python's, there were 4", n)
	}
	b, err := exchangerTo(t, s.Addr(), DialOptions{}).Exchange(t.Context(), transport.Slices{[]byte("ping")})
	if err != nil || string(b.Bytes()) != "ping!" {
		t.Errorf("an exchange after that: %v", err)
	}
	b.Release()
}

// pooled returns the bytes of pooled buffers in use.
func pooled() int64 {
	_, n := transport.Live(transport.Pooled)
	return n
}

func TestExchangeRefused(t *testing.T) {
	leaks(t)
	s := serve(t, ListenOptions{})
	x := exchangerTo(t, s.Addr(), DialOptions{})
	if _, err := x.Exchange(t.Context(), transport.Slices{[]byte("ping")}); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("a server that speaks no ucx-py: %v", err)
	}
	s.Close()
	if _, err := x.Exchange(t.Context(), transport.Slices{[]byte("ping")}); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("no server: %v", err)
	}
}

// ucxpy runs a script with the real ucx-py.
func ucxpy(t *testing.T, script string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.PythonUCX(t), append([]string{"-W", "ignore", "-c", script}, args...)...)
	cmd.Env = append(os.Environ(), "UCX_TLS=tcp,self")
	cmd.Stderr = os.Stderr
	return cmd
}

const ucxpyClient = `
import asyncio, sys, ucp
async def one(port, n):
    ep = await ucp.create_endpoint('127.0.0.1', port)
    msg = bytes(i * 7 & 255 for i in range(min(n, 1000))) * max(n // 1000, 1)
    await ep.send_obj(msg)
    got = bytes(await ep.recv_obj())
    assert got == msg + b'!', (n, len(got))
    await ep.close()
async def main():
    port = int(sys.argv[1])
    for n in 0, 1, 1000, 9000, 100000, 5000000:
        await one(port, n)
    await asyncio.gather(*[one(port, 1000 * i) for i in range(8)])
    print('fine')
asyncio.run(main())
`

// ucxpyDying exits in the handshake: before it hears the server, or when it has heard it and said nothing.
const ucxpyDying = `
import asyncio, os, sys, ucp
from ucp import core, comm
async def now(*args, **kw): os._exit(7)
if sys.argv[2] == 'before':
    core.exchange_peer_info = now
else:
    comm.stream_send = now
asyncio.run(ucp.create_endpoint('127.0.0.1', int(sys.argv[1])))
`

const ucxpyServer = `
import asyncio, sys, ucp
async def handle(ep):
    msg = bytes(await ep.recv_obj())
    await ep.send_obj(msg + b'!')
async def main():
    l = ucp.create_listener(handle, 0)
    print(l.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    l.close()
asyncio.run(main())
`

// TestRealUCXPy is a client of ucx-py's against our listener, and ours against one of its listeners.
func TestRealUCXPy(t *testing.T) {
	testenv.PythonUCX(t)
	leaks(t)
	s := serve(t, ListenOptions{Python: echo})
	_, port, _ := net.SplitHostPort(s.Addr())
	if out, err := ucxpy(t, ucxpyClient, port).Output(); err != nil || string(out) != "fine\n" {
		t.Fatalf("ucx-py's client says %q, %v", out, err)
	}
	for _, when := range []string{"before", "between"} {
		var exit *exec.ExitError
		if err := ucxpy(t, ucxpyDying, port, when).Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("ucx-py's client was to exit with 7: %v", err)
		}
		forgotten(t, s)
	}
	cmd := ucxpy(t, ucxpyServer)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var addr string
	if _, err := fmt.Fscan(out, &addr); err != nil {
		t.Fatal(err)
	}
	x := exchangerTo(t, "127.0.0.1:"+addr, DialOptions{})
	for _, n := range sizes {
		p := random(n)
		got, err := x.Exchange(t.Context(), transport.Slices{p[:n/3], p[n/3:]})
		if err != nil || !bytes.Equal(got.Bytes(), append(p, '!')) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		got.Release()
	}
	// Connect knows it for what it is, and what it leaves unused harms nothing.
	for range 3 {
		for _, use := range []bool{false, true, true} {
			c, err := Connect(t.Context(), "127.0.0.1:"+addr, DialOptions{})
			if err != nil || c.Peer() != PeerPython {
				t.Fatal(c, err)
			}
			if _, err := c.Client(t.Context()); !errors.Is(err, ErrPythonPeer) {
				t.Errorf("a native client of Python's server: %v", err)
			}
			if use {
				x, err := c.Exchanger()
				if err != nil {
					t.Fatal(err)
				}
				for i := range 3 {
					got, err := x.Exchange(t.Context(), transport.Slices{[]byte("ping")})
					if err != nil || string(got.Bytes()) != "ping!" {
						t.Fatalf("exchange %d: %v", i, err)
					}
					got.Release()
				}
				x.Close()
			}
			c.Close()
		}
	}
	// A client that is idle after its exchange must not hold up others: the server flushes its endpoint in a loop that ends with ours.
	others := []objects.Exchanger{x, exchangerTo(t, "127.0.0.1:"+addr, DialOptions{}), exchangerTo(t, "127.0.0.1:"+addr, DialOptions{})}
	for i := range 30 {
		b, err := others[i%len(others)].Exchange(t.Context(), transport.Slices{[]byte("ping")})
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
		time.Sleep(time.Millisecond) // so that its worker is asleep
	}
	if _, err := Dial(t.Context(), "127.0.0.1:"+addr, DialOptions{}); !errors.Is(err, ErrPythonPeer) {
		t.Errorf("dialing Python's server: %v", err)
	}
	_ = cmd.Process.Kill() // it does not always end by itself
	_ = cmd.Wait()
}
