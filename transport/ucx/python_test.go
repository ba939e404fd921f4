//go:build cgo && ucx

package ucx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

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

// TestExchange has its client in another process: in one, UCX 1.13 may take an event of a descriptor that one worker has closed for one of another
// worker's that has got its number, and aborts (ucs_async_poll_missed).
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
	_ = cmd.Process.Kill() // it does not always end by itself
	_ = cmd.Wait()
}
