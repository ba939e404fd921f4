//go:build cgo && ucx

package ucx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cucx "github.com/proxyplane/proxyplane/cgo/ucx"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// other is the main function of the test binary as another process: a server, or a client that puts and gets without end.
func other(role string) {
	ctx := context.Background()
	die := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, role, err)
			os.Exit(1)
		}
	}
	addr, tls := os.Getenv("PROXYPLANE_UCX_ADDR"), os.Getenv("PROXYPLANE_UCX_CONFIG")
	switch role {
	case "server":
		table, err := objects.NewTable(objects.TableOptions{})
		die(err)
		s, err := Listen(ctx, addr, table, ListenOptions{Config: config(tls), Workers: 64})
		die(err)
		fmt.Println(s.Addr())
		_, _ = io.Copy(io.Discard, os.Stdin)
		die(s.Close())
	case "exchanger":
		die(exchanges(ctx, addr))
		fmt.Println("fine")
	case "dying": // as a client of Python's protocol, before its part of the handshake or in the middle of it
		a, err := netip.ParseAddrPort(addr)
		die(err)
		uc, err := openContext(a, config("tcp"), defaultKeepalive, 0)
		die(err)
		e, err := newEngine(uc, cucx.WorkerOptions{}, 0)
		die(err)
		e.lock()
		ep, err := e.w.Connect(a, false, e.next())
		die(err)
		for e.w.StreamReady() == 0 {
			e.progress(spins)
		}
		if tls == "half" {
			o := &op{}
			token := e.next()
			r, err := ep.SendStream(make([]byte, 11), token)
			e.started(o, token, r, err)
			die(e.finish(o))
		}
		fmt.Println("dies")
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "client":
		c, err := Dial(ctx, addr, DialOptions{Config: config(tls)})
		die(err)
		fmt.Println("connected")
		obj := transport.Slices{random(32 << 20)}
		for {
			die(c.Put(ctx, "big", obj, objects.PutOptions{}))
			b, err := c.Get(ctx, "big", 0, -1, -1)
			die(err)
			b.Release()
		}
	}
}

// process starts one, and returns the first line that it writes.
func process(t *testing.T, role, addr, tls string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PROXYPLANE_UCX_ROLE="+role, "PROXYPLANE_UCX_ADDR="+addr, "PROXYPLANE_UCX_CONFIG="+tls)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var line string
	for { // UCX logs to the same place
		if _, err := fmt.Fscanln(out, &line); line != "" && !strings.HasPrefix(line, "[") {
			break
		} else if errors.Is(err, io.EOF) {
			t.Fatalf("the %s says nothing", role)
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return cmd, line
}

// TestProcesses has the server in another process, which is killed and comes back at the same port.
func TestProcesses(t *testing.T) {
	want := map[string]string{"tcp": "tcp/lo", "posix": "posix/memory", "sysv": "sysv/memory", "cma": "cma/memory", "all": "posix/memory"}
	forVariants(t, func(t *testing.T, tls string) {
		leaks(t)
		cmd, addr := process(t, "server", "127.0.0.1:0", tls)
		dial := func() *Client { return dialTo(t, addr, DialOptions{Config: config(tls)}) }
		c := dial()
		name := t.Name()[strings.LastIndexByte(t.Name(), '/')+1:]
		if name != "all" && !slices.Contains(c.Transports(), want[name]) {
			t.Errorf("UCX chose %v, want %s", c.Transports(), want[name])
		}
		for _, n := range append(sizes, 64<<20) {
			obj := transport.Slices{[]byte("BS\n"), random(n)}
			if err := c.Put(t.Context(), "o", obj, objects.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			b, err := c.Get(t.Context(), "o", 0, -1, -1)
			if err != nil || !bytes.Equal(b.Bytes(), obj.Join()) {
				t.Fatalf("%d bytes: got others, %v", n, err)
			}
			b.Release()
		}
		// Calls are under way when the server dies.
		errs := make(chan error, 4)
		go func() { errs <- c.Wait(t.Context(), "never") }()
		for i := range 3 {
			go func() {
				obj := transport.Slices{random(16 << 20)}
				for {
					if err := c.Put(t.Context(), fmt.Sprint(i), obj, objects.PutOptions{}); err != nil {
						errs <- err
						return
					}
				}
			}()
		}
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if err := <-errs; !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("the server was killed: %v", err)
			}
		}
		if err := c.Ping(t.Context()); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("the server was killed: %v", err)
		}
		c.Close()
		if _, err := Dial(t.Context(), addr, DialOptions{Config: config(tls)}); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("there is no server: %v", err)
		}
		_, addr = process(t, "server", addr, tls)
		c = dial()
		if err := c.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		c.Close()
	})
}

// TestClientKilled kills a client in the middle of long transfers. The server goes on, and forgets it.
func TestClientKilled(t *testing.T) {
	forVariants(t, func(t *testing.T, tls string) {
		leaks(t)
		s := serve(t, ListenOptions{Config: config(tls)})
		for range 3 {
			cmd, _ := process(t, "client", s.Addr(), tls)
			for s.native.Stats().BytesIn < 40<<20 {
				time.Sleep(time.Millisecond) // transfers are under way; nothing tells when
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			c := dialTo(t, s.Addr(), DialOptions{Config: config(tls)})
			if err := c.Ping(t.Context()); err != nil {
				t.Error(err)
			}
			c.Close()
		}
		for end := time.Now().Add(10 * time.Second); s.Stats().Conns > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d connections are left", s.Stats().Conns)
			}
		}
	})
}

// TestCloseDuringCalls closes clients and servers while calls are under way.
func TestCloseDuringCalls(t *testing.T) {
	forVariants(t, func(t *testing.T, tls string) {
		leaks(t)
		for _, who := range []string{"client", "server"} {
			s := serve(t, ListenOptions{Config: config(tls)})
			c := dialTo(t, s.Addr(), DialOptions{Config: config(tls)})
			var wg sync.WaitGroup
			started := make(chan struct{}, 8)
			for g := range 8 {
				wg.Go(func() {
					obj := transport.Slices{random(3 << 20)}
					for i := 0; ; i++ {
						err := c.Put(t.Context(), fmt.Sprint(g), obj, objects.PutOptions{})
						if err == nil {
							var b *transport.Buffer
							if b, err = c.Get(t.Context(), fmt.Sprint(g), 0, -1, -1); err == nil {
								if !bytes.Equal(b.Bytes(), obj[0]) {
									t.Error("wrong bytes")
								}
								b.Release()
							}
						}
						if i == 0 {
							started <- struct{}{}
						}
						if err != nil {
							if !errors.Is(err, transport.ErrClosed) && !errors.Is(err, transport.ErrUnavailable) {
								t.Errorf("closing the %s: %v", who, err)
							}
							return
						}
					}
				})
			}
			for range 8 {
				<-started
			}
			if who == "client" {
				c.Close()
			} else if err := s.Close(); err != nil {
				t.Error(err)
			}
			wg.Wait()
		}
	})
}
