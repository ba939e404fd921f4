package redis_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/redis"
	"github.com/proxyplane/proxyplane/internal/redistest"
	"github.com/proxyplane/proxyplane/transport"
)

// received opens a configuration as one that came in a proxy.
func received(t *testing.T, confirm func(connectors.Location) error, opts map[string]any) connectors.Connector {
	t.Helper()
	registry := &connectors.Registry{}
	registry.Register(redis.Driver())
	c, err := registry.Open(t.Context(), connectors.Config{Kind: "redis", Options: opts}, &connectors.Env{Received: true, Confirm: confirm})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(t.Context()) })
	return c
}

func TestReceivedDeletesNothing(t *testing.T) {
	s := redistest.Start(t)
	s.Do("SET", "foreign", "x")
	opts := map[string]any{"hostname": s.Host, "port": int64(s.Port), "clear": true, "clear_all": true, "max_bytes": int64(1 << 40),
		"pool_size": int64(1 << 16)}
	c := received(t, nil, opts)
	if cfg := c.Config().Options; cfg["max_bytes"] != nil || cfg["pool_size"] == int64(1<<16) {
		t.Errorf("a received configuration sets our bounds: %v", cfg)
	}
	if _, err := c.Put(t.Context(), transport.Slices{nil}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil || s.Do("DBSIZE") != ":2" {
		t.Errorf("a received clear was obeyed: %s keys are left, %v", s.Do("DBSIZE"), err)
	}
	registry := &connectors.Registry{}
	registry.Register(redis.Driver())
	out, err := registry.Travelling(connectors.Config{Kind: "redis", Options: opts}, false)
	if err != nil || out.Options["clear_all"] != nil {
		t.Errorf("clear_all travels: %v, %v", out, err)
	}
}

// speak accepts connections and answers each command by what answer returns for it, until the test ends.
func speak(t *testing.T, answer func(args []string) string) *net.TCPAddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					args, err := readCommand(r)
					if err != nil {
						return
					}
					io.WriteString(c, answer(args))
				}
			})
		}
	})
	return l.Addr().(*net.TCPAddr)
}

// readCommand reads a command whose arguments have no line ends.
func readCommand(r *bufio.Reader) ([]string, error) {
	head, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(head[1:]))
	args := make([]string, n)
	for i := range args {
		if _, err = r.ReadString('\n'); err == nil {
			args[i], err = r.ReadString('\n')
			args[i] = strings.TrimSpace(args[i])
		}
		if err != nil {
			return nil, err
		}
	}
	return args, err
}

// TestReceivedStaysWhereAllowed has a server of a received configuration lead elsewhere.
func TestReceivedStaysWhereAllowed(t *testing.T) {
	var visits atomic.Int32
	other := speak(t, func([]string) string { visits.Add(1); return "$5\r\nthere\r\n" })
	errNo := errors.New("not that host")
	for name, script := range map[string]struct {
		opts   map[string]any
		answer func(self *net.TCPAddr, host string, args []string) string
	}{
		"moved": {map[string]any{"cluster": true}, func(self *net.TCPAddr, host string, args []string) string {
			if args[0] == "CLUSTER" {
				return fmt.Sprintf("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n", self.Port)
			}
			return fmt.Sprintf("-MOVED 1 %s:%d\r\n", host, other.Port)
		}},
		"asked": {map[string]any{"cluster": true}, func(self *net.TCPAddr, host string, args []string) string {
			if args[0] == "CLUSTER" {
				return fmt.Sprintf("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n", self.Port)
			}
			return fmt.Sprintf("-ASK 1 %s:%d\r\n", host, other.Port)
		}},
		"slots": {map[string]any{"cluster": true}, func(_ *net.TCPAddr, host string, _ []string) string {
			return fmt.Sprintf("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$%d\r\n%s\r\n:%d\r\n", len(host), host, other.Port)
		}},
		"master": {map[string]any{"master_name": "m"}, func(_ *net.TCPAddr, host string, _ []string) string {
			return fmt.Sprintf("*2\r\n$%d\r\n%s\r\n$%d\r\n%d\r\n", len(host), host, len(strconv.Itoa(other.Port)), other.Port)
		}},
	} {
		for _, host := range []string{"localhost", "192.0.2.1"} { // the first can be reached, which would show; the second is nobody's
			t.Run(name+"/"+host, func(t *testing.T) {
				var self atomic.Pointer[net.TCPAddr]
				addr := speak(t, func(args []string) string {
					switch strings.ToUpper(args[0]) {
					case "HELLO", "CLIENT":
						return "-ERR unknown command\r\n"
					case "CLUSTER", "SENTINEL":
						args[0] = strings.ToUpper(args[0])
					}
					return script.answer(self.Load(), host, args)
				})
				self.Store(addr)
				script.opts["addrs"] = []any{addr.String()}
				visits.Store(0)
				var asked connectors.Location
				c := received(t, func(l connectors.Location) error { asked = l; return errNo }, script.opts)
				key := connectors.RedisKey{RedisKey: "k"}
				if _, err := c.Get(t.Context(), key); !errors.Is(err, errNo) || errors.Is(err, connectors.ErrUnavailable) {
					t.Errorf("get: %v, want the policy's error", err)
				}
				if want := (connectors.Location{Kind: "redis", Host: host}); asked != want {
					t.Errorf("asked about %+v, want %+v", asked, want)
				}
				if n := visits.Load(); n > 0 {
					t.Errorf("the other server had %d commands", n)
				}
				if name == "asked" || host != "localhost" {
					return
				}
				c = received(t, func(connectors.Location) error { return nil }, script.opts)
				if b, err := c.Get(t.Context(), key); err != nil || string(b.Bytes()) != "there" {
					t.Errorf("where it is allowed: %v", err)
				}
			})
		}
	}
}

// TestWaitWhileDialing has a wait hang in the login: neither another's context nor Close waits for it.
func TestWaitWhileDialing(t *testing.T) {
	began := make(chan struct{}, 10)
	addr := speak(t, func([]string) string { began <- struct{}{}; return "" })
	c := open(t, redis.Options{Hostname: "127.0.0.1", Port: addr.Port, DialTimeout: time.Hour})
	key := connectors.RedisKey{RedisKey: "k"}
	first := make(chan error, 1)
	go func() { first <- c.Wait(context.Background(), key) }()
	<-began
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.Wait(ctx, key); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a wait with a deadline: %v", err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-first; !errors.Is(err, connectors.ErrClosed) {
		t.Errorf("the wait that close ended: %v", err)
	}
}
