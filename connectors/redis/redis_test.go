package redis_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
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

func at(s *redistest.Server) redis.Options { return redis.Options{Hostname: s.Host, Port: s.Port} }

func mustPut(t testing.TB, c *redis.Connector, data []byte) connectors.Key {
	t.Helper()
	key, err := c.Put(t.Context(), transport.Slices{data})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// mustHold fetches an object and compares it.
func mustHold(t testing.TB, c *redis.Connector, key connectors.Key, want []byte) {
	t.Helper()
	b, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	if !bytes.Equal(b.Bytes(), want) {
		t.Fatalf("%v: %d bytes differ from the %d that were put", key, b.Len(), len(want))
	}
}

// random returns n bytes in which no stretch repeats.
func random(n int, seed byte) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	return data
}

func TestConfig(t *testing.T) {
	registry := &connectors.Registry{}
	registry.Register(redis.Driver())
	certs := redistest.NewCertificates(t)
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]map[string]any{
		"nothing":  {},
		"python":   {"hostname": "h", "port": int64(1), "clear": true},
		"socket":   {"socket": "/run/redis.sock", "db": int64(3)},
		"cluster":  {"addrs": []any{"a:1", "[::1]:2"}, "cluster": true, "username": "u", "password": "hush"},
		"sentinel": {"addrs": "a:1", "master_name": "m", "sentinel_username": "u", "sentinel_password": "hush", "password_file": secret},
		"tls":      {"hostname": "h", "tls": true, "ca_file": certs.CA, "cert_file": certs.Cert, "key_file": certs.Key, "server_name": "redis.test"},
		"limits":   {"ttl": 0.1, "timeout": 1.001, "dial_timeout": 0.003, "pool_size": int64(7), "max_bytes": int64(1 << 40)},
	} {
		first, err := registry.Open(t.Context(), connectors.Config{Kind: "redis", Options: opts}, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		cfg := first.Config()
		second, err := registry.Open(t.Context(), cfg, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !second.Config().Equal(cfg) {
			t.Errorf("%s: %v became %v", name, cfg, second.Config())
		}
		for k, v := range opts {
			if got := cfg.Options[k]; k != "addrs" && got != v {
				t.Errorf("%s: option %s is %v, want %v", name, k, got, v)
			}
		}
		_, err = registry.Travelling(cfg, true)
		if wantErr := name != "nothing" && name != "python" && name != "limits"; wantErr != errors.Is(err, connectors.ErrNotForPython) {
			t.Errorf("%s: travelling to Python: %v", name, err)
		}
		out, err := registry.Travelling(cfg, false)
		if err != nil || strings.Contains(fmt.Sprint(out), "hush") {
			t.Errorf("%s: travels as %v, %v", name, out, err)
		}
		if _, err := registry.Locations(cfg, nil); err != nil {
			t.Errorf("%s: locations: %v", name, err)
		}
		for _, c := range []connectors.Connector{first, second} {
			if err := c.Close(t.Context()); err != nil {
				t.Errorf("%s: close without use: %v", name, err)
			}
		}
	}
	for _, opts := range []redis.Options{
		{Socket: "s", Hostname: "h"}, {Socket: "s", Addrs: []string{"a:1"}, Cluster: true}, {Addrs: []string{"a:1"}}, {Cluster: true}, {MasterName: "m"},
		{Addrs: []string{"a:1"}, Cluster: true, MasterName: "m"}, {Addrs: []string{"a"}, Cluster: true}, {Addrs: []string{"a:1"}, Cluster: true, DB: 1},
		{Addrs: []string{"a:1"}, Cluster: true, Port: 1}, {DB: -1}, {Port: -1}, {Port: 1 << 16}, {Password: "hush", PasswordFile: "f"}, {Username: "u"}, {Password: "hush\r\nFLUSHALL"},
		{CAFile: "f"}, {TLS: true, CertFile: certs.Cert}, {TLS: true, Socket: "s"}, {TTL: -1}, {TTL: 1}, {MaxBytes: -1}, {TLS: true, CAFile: "/none"},
		{TLS: true, CAFile: certs.Key}, {TLS: true, CertFile: certs.CA, KeyFile: certs.Key},
	} {
		_, err := redis.New(opts)
		if !errors.Is(err, connectors.ErrConfig) || strings.Contains(fmt.Sprint(err), "hush") {
			t.Errorf("%+v: %v, want ErrConfig", opts, err)
		}
	}
	loc, err := registry.Locations(connectors.Config{Kind: "redis", Options: map[string]any{"addrs": []any{"[::1]:1", "b:2"}, "cluster": true,
		"password_file": secret}}, nil)
	want := []connectors.Location{{Kind: "redis", Host: "::1"}, {Kind: "redis", Host: "b"}, {Kind: "redis", File: secret}}
	if err != nil || fmt.Sprint(loc) != fmt.Sprint(want) {
		t.Errorf("locations are %v, %v, want %v", loc, err, want)
	}
}

// TestErrors provokes what a server or a network can say, and looks at the sentinel and at the advice.
func TestErrors(t *testing.T) {
	s := redistest.Start(t)
	locked := redistest.Start(t, "--requirepass", "hush")
	locked.Password = "hush"
	tlsOnly := redistest.StartTLS(t)
	small := redistest.Start(t, "--proto-max-bulk-len", "1048576", "--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
	noAuth := redistest.Start(t, "--rename-command", "AUTH", "")
	silent, http, gone := listen(t, nil), listen(t, []byte("HTTP/1.1 400 Bad Request\r\n\r\n")), "127.0.0.1:1"
	s.Do("LPUSH", "list", "x")

	hostPort := func(addr string, o redis.Options) redis.Options {
		host, port, _ := net.SplitHostPort(addr)
		o.Hostname = host
		fmt.Sscan(port, &o.Port)
		return o
	}
	get := func(ctx context.Context, c *redis.Connector) error {
		_, err := c.Get(ctx, connectors.RedisKey{RedisKey: "list"})
		return err
	}
	put := func(n int) func(ctx context.Context, c *redis.Connector) error {
		return func(ctx context.Context, c *redis.Connector) error {
			_, err := c.Put(ctx, transport.Slices{random(n, 1)})
			return err
		}
	}
	for _, c := range []struct {
		name   string
		opts   redis.Options
		call   func(context.Context, *redis.Connector) error
		want   error
		advice string
	}{
		{"list", at(s), get, connectors.ErrInvalidKey, "WRONGTYPE"},
		{"list by range", at(s), func(ctx context.Context, c *redis.Connector) error {
			_, err := c.GetRange(ctx, connectors.RedisKey{RedisKey: "list"}, 0, 1)
			return err
		}, connectors.ErrInvalidKey, "WRONGTYPE"},
		{"list in a batch", at(s), func(ctx context.Context, c *redis.Connector) error {
			_, err := c.GetBatch(ctx, []connectors.Key{connectors.RedisKey{RedisKey: "a"}, connectors.RedisKey{RedisKey: "list"}})
			return err
		}, connectors.ErrInvalidKey, "WRONGTYPE"},
		{"no password", at(locked), get, connectors.ErrConfig, "option password"},
		{"no password, large", at(locked), put(1 << 20), connectors.ErrConfig, "option password"},
		{"wrong password", hostPort(locked.Addr(), redis.Options{Password: "hush-hush"}), get, connectors.ErrConfig, "correct option password"},
		{"wrong user", hostPort(locked.Addr(), redis.Options{Username: "u", Password: "hush"}), get, connectors.ErrConfig, "username"},
		{"password unasked for", hostPort(s.Addr(), redis.Options{Password: "hush"}), get, connectors.ErrConfig, "drop option password"},
		{"server without AUTH", hostPort(noAuth.Addr(), redis.Options{Password: "hush"}), get, nil, "the server says: ERR"},
		{"cluster without AUTH", redis.Options{Addrs: []string{noAuth.Addr()}, Cluster: true, Password: "hush"}, get, connectors.ErrUnavailable, "ERR"},
		{"sentinel without AUTH", redis.Options{Addrs: []string{noAuth.Addr()}, MasterName: "m", SentinelPassword: "hush"}, get,
			connectors.ErrUnavailable, "ERR"},
		{"no password file", hostPort(s.Addr(), redis.Options{PasswordFile: "/none"}), get, connectors.ErrConfig, "password_file"},
		{"database", hostPort(s.Addr(), redis.Options{DB: 999}), get, connectors.ErrConfig, "option db"},
		{"nobody there", hostPort(gone, redis.Options{}), get, connectors.ErrUnavailable, gone},
		{"no socket", redis.Options{Socket: "/none"}, get, connectors.ErrUnavailable, "/none"},
		{"silence", hostPort(silent, redis.Options{Timeout: 50 * time.Millisecond}), get, connectors.ErrUnavailable, "option"},
		{"silence at login", hostPort(silent, redis.Options{Password: "hush", DialTimeout: 50 * time.Millisecond}), get, connectors.ErrUnavailable, "dial_timeout"},
		{"web server", hostPort(http, redis.Options{}), get, connectors.ErrCorrupt, "is that a Redis server"},
		{"TLS to plain", hostPort(s.Addr(), redis.Options{TLS: true, DialTimeout: 100 * time.Millisecond}), get, connectors.ErrUnavailable, s.Addr()},
		{"plain to TLS", at(tlsOnly), get, nil, ""},
		{"unknown authority", hostPort(tlsOnly.Addr(), redis.Options{TLS: true}), get, connectors.ErrUnavailable, "certificate"},
		{"wrong name", hostPort(tlsOnly.Addr(), redis.Options{TLS: true, CAFile: tlsOnly.TLS.CA, ServerName: "other"}), get, connectors.ErrUnavailable, "other"},
		{"too large for us", hostPort(s.Addr(), redis.Options{MaxBytes: 1000}), put(1001), connectors.ErrTooLarge, "max_bytes"},
		{"too large for the server", at(small), put(2 << 20), connectors.ErrTooLarge, "proto-max-bulk-len"},
		{"server full", at(small), func(ctx context.Context, c *redis.Connector) error {
			for range 10 {
				if err := put(1<<20-1)(ctx, c); err != nil {
					return err
				}
			}
			return nil
		}, connectors.ErrUnavailable, "memory is full"},
		{"stream announced too large", at(s), func(ctx context.Context, c *redis.Connector) error {
			_, err := c.PutStream(ctx, 1<<30)
			return err
		}, connectors.ErrTooLarge, "max_bytes"},
		{"stream grown too large", hostPort(s.Addr(), redis.Options{MaxBytes: 5 << 20}), func(ctx context.Context, c *redis.Connector) error {
			w, err := c.PutStream(ctx, -1)
			if err != nil {
				return err
			}
			_, err = w.ReadFrom(bytes.NewReader(make([]byte, 6<<20)))
			return err
		}, connectors.ErrTooLarge, "max_bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := open(t, c.opts)
			err := c.call(t.Context(), conn)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.advice) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.advice)
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "hush") {
				t.Errorf("the password is in %#v", err)
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v looks like the caller's deadline", err)
			}
			if conn.Config(); connectors.Retryable(err) != errors.Is(err, connectors.ErrUnavailable) && c.want != nil {
				t.Errorf("%v: retryable is %v", err, connectors.Retryable(err))
			}
		})
	}
	if n := s.Do("DBSIZE"); n != ":1" {
		t.Errorf("there are %s keys left besides the list", n)
	}
}

// listen accepts connections, sends greeting, and says no more.
func listen(t *testing.T, greeting []byte) string {
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
				c.Write(greeting)
				io.Copy(io.Discard, c)
			})
		}
	})
	return l.Addr().String()
}

// TestServerRestarts kills the server under load. Errors must be clear, and what comes back must be right.
func TestServerRestarts(t *testing.T) {
	s := redistest.Start(t)
	c := open(t, at(s))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range byte(4) {
		data := random(1000+int(g)*400_000, g)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				key, err := c.Put(t.Context(), transport.Slices{data[:10], data[10:]})
				if err == nil {
					var b *transport.Buffer
					if b, err = c.Get(t.Context(), key); err == nil {
						if !bytes.Equal(b.Bytes(), data) {
							t.Error("wrong bytes")
						}
						b.Release()
						err = c.Evict(t.Context(), key)
					}
				}
				if err != nil && !errors.Is(err, connectors.ErrUnavailable) && !errors.Is(err, connectors.ErrNotFound) {
					t.Errorf("an unclear error: %v", err)
				}
			}
		})
	}
	for range 3 {
		time.Sleep(50 * time.Millisecond)
		s.Kill()
		time.Sleep(20 * time.Millisecond)
		s.Restart()
	}
	close(stop)
	wg.Wait()
	mustHold(t, c, mustPut(t, c, []byte("again")), []byte("again"))
	// A connection that went stale while idle is not the caller's problem, nor is a pool full of them.
	s.Kill()
	s.Restart()
	key := mustPut(t, c, random(3<<20, 9))
	s.Do("CLIENT", "KILL", "TYPE", "normal")
	mustHold(t, c, key, random(3<<20, 9))
}

// cutter passes bytes on to a server, and hangs up after so many of them came back.
type cutter struct {
	addr  string
	mu    sync.Mutex
	limit int64
}

func (p *cutter) set(limit int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = limit
}

func newCutter(t *testing.T, server string) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &cutter{addr: l.Addr().String(), limit: 1 << 60}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", server)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			limit := p.limit
			p.mu.Unlock()
			wg.Go(func() {
				io.Copy(out, in)
				out.Close()
			})
			wg.Go(func() {
				io.CopyN(in, out, limit)
				in.Close()
				out.Close()
			})
		}
	})
	return p
}

func TestConnectionCut(t *testing.T) {
	s := redistest.Start(t)
	p := newCutter(t, s.Addr())
	direct := open(t, at(s))
	data := random(200_000, 1)
	key := mustPut(t, direct, data)
	host, port, _ := net.SplitHostPort(p.addr)
	opts := redis.Options{Hostname: host}
	fmt.Sscan(port, &opts.Port)
	for _, limit := range []int64{0, 1, 5, 8, 9, 10, 1000, 16 << 10, 100_000, 200_008, 200_009} { // the reply has 9+200,000+2 bytes
		p.set(limit)
		c := open(t, opts)
		check := func(op string, err error) {
			t.Helper()
			if !errors.Is(err, connectors.ErrUnavailable) || !connectors.Retryable(err) {
				t.Errorf("%s cut after %d bytes: %v", op, limit, err)
			}
		}
		_, err := c.Get(t.Context(), key)
		check("Get", err)
		_, err = c.GetBytes(t.Context(), key)
		check("GetBytes", err)
		_, err = c.GetBatch(t.Context(), []connectors.Key{key, key})
		check("GetBatch", err)
		_, err = c.GetRange(t.Context(), key, 0, -1)
		check("GetRange", err)
		r, err := c.GetStream(t.Context(), key)
		if err == nil {
			var got bytes.Buffer
			_, err = r.WriteTo(&got)
			if !bytes.HasPrefix(data, got.Bytes()) {
				t.Errorf("the stream cut after %d bytes has wrong bytes", limit)
			}
			r.Close()
		}
		check("GetStream", err)
	}
	p.set(1 << 60)
	mustHold(t, open(t, opts), key, data)
}

func TestStreamIsASnapshot(t *testing.T) {
	s := redistest.Start(t)
	c := open(t, at(s))
	old, young := random(20<<20, 1), random(20<<20, 2)
	key := mustPut(t, c, old)
	for _, change := range []func() error{
		func() error { return c.Set(t.Context(), key, transport.Slices{young}) },
		func() error { return c.Evict(t.Context(), key) },
	} {
		want, err := c.GetBytes(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.GetStream(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 1000)
		if _, err := io.ReadFull(r, head); err != nil {
			t.Fatal(err)
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		rest := bytes.NewBuffer(head)
		if _, err := io.Copy(rest, r); err != nil || !bytes.Equal(rest.Bytes(), want) {
			t.Errorf("the stream gave %d bytes that are not the object's, %v", rest.Len(), err)
		}
		r.Close()
	}
}

func TestStreamPut(t *testing.T) {
	s := redistest.Start(t)
	opts := at(s)
	opts.TTL = time.Hour
	c := open(t, opts)
	data := random(9<<20, 1)
	for _, size := range []int64{-1, int64(len(data))} {
		w, err := c.PutStream(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := w.ReadFrom(bytes.NewReader(data)); err != nil || n != int64(len(data)) {
			t.Fatal(n, err)
		}
		if size < 0 { // a part is on the server, and goes by itself if we die now
			if ttl := s.Do("PTTL", partOf(t, s)); ttl == ":-1" {
				t.Error("the unfinished object never expires")
			}
		}
		key, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		mustHold(t, c, key, data)
		if ttl := s.Do("PTTL", key.(connectors.RedisKey).RedisKey); ttl == ":-1" || len(ttl) < len(":3000000") {
			t.Errorf("size %d: the object's ttl is %s ms, want an hour", size, ttl)
		}
		if err := c.Evict(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	// What was written vanishes under the Writer.
	w, err := c.PutStream(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	s.Do("DEL", partOf(t, s))
	if key, err := w.Commit(); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("Commit of an object whose beginning is gone: %v, %v", key, err)
	}
	if n := s.Do("DBSIZE"); n != ":0" {
		t.Errorf("%s keys are left behind", n)
	}
}

// partOf returns the one key on the server.
func partOf(t *testing.T, s *redistest.Server) string {
	t.Helper()
	if n := s.Do("DBSIZE"); n != ":1" {
		t.Fatalf("there are %s keys, want one", n)
	}
	return s.Do("RANDOMKEY")
}

func TestClear(t *testing.T) {
	s := redistest.Start(t)
	s.Do("SET", "foreign", "x")
	opts := at(s)
	opts.Clear = true
	c := open(t, opts)
	mustPut(t, c, []byte("one"))
	evicted := mustPut(t, c, []byte("two"))
	if err := c.Evict(t.Context(), evicted); err != nil {
		t.Fatal(err)
	}
	s.Do("SET", evicted.(connectors.RedisKey).RedisKey, "now another's")
	if err := c.Set(t.Context(), connectors.RedisKey{RedisKey: "any"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutBatch(t.Context(), make([]transport.Slices, 200)); err != nil {
		t.Fatal(err)
	}
	w, err := c.PutStream(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.Do("DBSIZE"); n != ":2" {
		t.Errorf("%s keys are left, want the foreign one and the one that another made", n)
	}
	c = open(t, opts)
	mustPut(t, c, nil)
	if err := c.CloseClear(t.Context(), false); err != nil || s.Do("DBSIZE") != ":3" {
		t.Errorf("CloseClear(false): %v, and %s keys", err, s.Do("DBSIZE"))
	}
	if err := open(t, at(s)).CloseClear(t.Context(), true); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("CloseClear(true) without clear: %v", err)
	}
	opts.ClearAll = true
	if err := open(t, opts).Close(t.Context()); err != nil || s.Do("DBSIZE") != ":0" {
		t.Errorf("clear_all: %v, and %s keys", err, s.Do("DBSIZE"))
	}
}

func TestWait(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "plain", "on", ">p", "~*", "+@all", "-client") // may not track, so that Wait polls
	polling := at(s)
	polling.Username, polling.Password = "plain", "p"
	for name, opts := range map[string]redis.Options{"events": at(s), "polling": polling} {
		c := open(t, opts)
		const waiters = 50
		var wg sync.WaitGroup
		for i := range waiters {
			wg.Go(func() {
				if err := c.Wait(t.Context(), connectors.RedisKey{RedisKey: fmt.Sprint(name, i%10)}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		for i := range 10 {
			time.Sleep(5 * time.Millisecond)
			switch i % 3 {
			case 0:
				s.Do("SET", fmt.Sprint(name, i), "x")
			case 1:
				s.Do("FLUSHALL") // and with it what the server remembers of us
				s.Do("MSET", fmt.Sprint(name, i), "x")
				for j := range i {
					s.Do("SET", fmt.Sprint(name, j), "x")
				}
			case 2:
				s.Do("SET", "tmp", "x")
				s.Do("RENAME", "tmp", fmt.Sprint(name, i))
			}
		}
		wg.Wait()
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for !strings.Contains(s.Do("INFO", "clients"), "tracking_clients:0") {
		time.Sleep(time.Millisecond)
	}
	// The server dies and comes back while somebody waits.
	c := open(t, at(s))
	done := make(chan error, 1)
	go func() { done <- c.Wait(t.Context(), connectors.RedisKey{RedisKey: "late"}) }()
	for !strings.Contains(s.Do("INFO", "clients"), "tracking_clients:1") {
		time.Sleep(time.Millisecond)
	}
	s.Do("CLIENT", "KILL", "TYPE", "normal")
	time.Sleep(20 * time.Millisecond)
	s.Do("SET", "late", "x")
	if err := <-done; err != nil {
		t.Errorf("a wait over a lost connection: %v", err)
	}
	go func() { done <- c.Wait(t.Context(), connectors.RedisKey{RedisKey: "never"}) }()
	time.Sleep(20 * time.Millisecond)
	s.Kill()
	if err := <-done; !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("a wait on a dead server: %v", err)
	}
}

// TestLateBytes has bytes come while a connection is idle: they answer nobody.
func TestLateBytes(t *testing.T) {
	certs := redistest.NewCertificates(t)
	cert, err := tls.LoadX509KeyPair(certs.Cert, certs.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]redis.Options{"plain": {}, "TLS": {TLS: true, CAFile: certs.CA}} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		opts.Hostname, opts.Port = "127.0.0.1", l.Addr().(*net.TCPAddr).Port
		if opts.TLS {
			l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})
		}
		late, sent := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer c.Close()
					for r := bufio.NewReader(c); ; {
						if _, err := readCommand(r); err != nil {
							return
						}
						io.WriteString(c, "$4\r\nmine\r\n")
						<-late
						io.WriteString(c, "$6\r\nothers\r\n")
						sent <- struct{}{}
					}
				})
			}
		})
		c := open(t, opts)
		for i := range 3 {
			b, err := c.GetBytes(t.Context(), connectors.RedisKey{RedisKey: "k"})
			if err != nil || string(b) != "mine" {
				t.Errorf("%s: get %d gives %q, %v", name, i, b, err)
			}
			late <- struct{}{}
			<-sent
		}
		c.Close(t.Context())
		l.Close()
		wg.Wait()
	}
}

// testClusterAsks has all slots of one server on the move to another, so that each new key there is to be asked for elsewhere, once per command.
func testClusterAsks(t *testing.T, nodes []*redistest.Server) {
	const slots = 5461 // a third
	c := open(t, redis.Options{Addrs: []string{nodes[0].Addr(), nodes[1].Addr()}, Cluster: true})
	ids := []string{nodes[0].Do("CLUSTER", "MYID"), nodes[1].Do("CLUSTER", "MYID")}
	for i, state := range []string{"MIGRATING", "IMPORTING"} {
		conn, err := net.Dial("unix", nodes[i].Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var all strings.Builder
		for slot := range slots {
			fmt.Fprintf(&all, "CLUSTER SETSLOT %d %s %s\r\n", slot, state, ids[1-i])
		}
		go io.WriteString(conn, all.String())
		replies := make([]byte, slots*len("+OK\r\n"))
		if _, err := io.ReadFull(conn, replies); err != nil || strings.Trim(string(replies), "+OK\r\n") != "" {
			t.Fatalf("setting slots: %v, %.40q", err, replies)
		}
	}
	data := random(5<<20, 1)
	for range 8 { // a third of them are on the move
		w, err := c.PutStream(t.Context(), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		key, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		mustHold(t, c, key, data)
		if info, err := c.Stat(t.Context(), key); err != nil || info.Size != int64(len(data)) {
			t.Errorf("stat: %+v, %v", info, err)
		}
		b, err := c.GetRange(t.Context(), key, 1000, 10)
		if err != nil || !bytes.Equal(b.Bytes(), data[1000:1010]) {
			t.Errorf("range: %v", err)
		}
		b.Release()
		if err := c.Evict(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		// An object of unknown size is renamed, which a cluster refuses while the slot moves and the new name is not there yet.
		if w, err = c.PutStream(t.Context(), -1); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if key, err = w.Commit(); err == nil {
			mustHold(t, c, key, data)
			err = c.Evict(t.Context(), key)
		}
		if err != nil && !errors.Is(err, connectors.ErrUnavailable) {
			t.Errorf("unknown size: %v", err)
		}
	}
	for _, s := range nodes {
		if n := s.Do("DBSIZE"); n != ":0" {
			t.Errorf("%s keys are left behind", n)
		}
	}
}

// TestClusterSendsAround has a server that always leads on: that is a cluster in disorder, and no mistake of ours.
func TestClusterSendsAround(t *testing.T) {
	var self atomic.Pointer[net.TCPAddr]
	addr := speak(t, func(args []string) string {
		switch strings.ToUpper(args[0]) {
		case "CLUSTER":
			return fmt.Sprintf("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n", self.Load().Port)
		case "GET":
			return fmt.Sprintf("-MOVED 1 127.0.0.1:%d\r\n", self.Load().Port)
		}
		return "-ERR unknown command\r\n"
	})
	self.Store(addr)
	c := open(t, redis.Options{Addrs: []string{addr.String()}, Cluster: true})
	if _, err := c.Get(t.Context(), connectors.RedisKey{RedisKey: "k"}); !errors.Is(err, connectors.ErrUnavailable) || !strings.Contains(err.Error(), "moving") {
		t.Errorf("got %v", err)
	}
}

// testClusterMoves moves a slot while a connector uses it.
func testClusterMoves(t *testing.T, nodes []*redistest.Server) {
	c := open(t, redis.Options{Addrs: []string{nodes[1].Addr()}, Cluster: true})
	data := random(100_000, 1)
	var keys []connectors.Key
	for i := range 20 { // {x} puts them all in one slot
		key := connectors.RedisKey{RedisKey: fmt.Sprintf("{x}%d", i)}
		if err := c.Set(t.Context(), key, transport.Slices{data}); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	slot := strings.TrimPrefix(nodes[0].Do("CLUSTER", "KEYSLOT", "{x}"), ":")
	from, to := nodes[2], nodes[1] // {x} is in the last third
	if n := from.Do("DBSIZE"); n != ":20" {
		t.Fatalf("the server of {x} has %s keys", n)
	}
	waited := make(chan error, 1)
	go func() { waited <- c.Wait(t.Context(), connectors.RedisKey{RedisKey: "{x}later"}) }()
	to.Do("CLUSTER", "SETSLOT", slot, "IMPORTING", from.Do("CLUSTER", "MYID"))
	from.Do("CLUSTER", "SETSLOT", slot, "MIGRATING", to.Do("CLUSTER", "MYID"))
	for i := range 10 { // half of them: those answer ASK now
		from.Do("MIGRATE", to.Host, fmt.Sprint(to.Port), fmt.Sprintf("{x}%d", i), "0", "5000")
	}
	check := func() {
		t.Helper()
		for _, key := range keys {
			mustHold(t, c, key, data)
		}
		bufs, err := c.GetBatch(t.Context(), keys)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range bufs {
			if b == nil || !bytes.Equal(b.Bytes(), data) {
				t.Error("the batch has wrong bytes")
			}
			b.Release()
		}
	}
	check()
	for i := 10; i < 20; i++ {
		from.Do("MIGRATE", to.Host, fmt.Sprint(to.Port), fmt.Sprintf("{x}%d", i), "0", "5000")
	}
	for _, s := range []*redistest.Server{to, from, nodes[0]} {
		s.Do("CLUSTER", "SETSLOT", slot, "NODE", to.Do("CLUSTER", "MYID"))
	}
	check()
	to.Do("SET", "{x}later", "x")
	if err := <-waited; err != nil {
		t.Errorf("a wait over the move: %v", err)
	}
	objs := make([]transport.Slices, 300)
	for i := range objs {
		objs[i] = transport.Slices{{byte(i)}, data[:i]}
	}
	batch, err := c.PutBatch(t.Context(), objs)
	if err != nil {
		t.Fatal(err)
	}
	bufs, err := c.GetBatch(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range bufs {
		if !bytes.Equal(b.Bytes(), objs[i].Join()) {
			t.Errorf("object %d of the batch is wrong", i)
		}
		b.Release()
	}
	single := open(t, at(from)) // who forgot the option is told
	if _, err := single.Get(t.Context(), keys[0]); !errors.Is(err, connectors.ErrConfig) || !strings.Contains(err.Error(), "cluster") {
		t.Errorf("a cluster's server without option cluster: %v", err)
	}
}

func TestSentinel(t *testing.T) {
	master := redistest.Start(t, "--repl-diskless-sync-delay", "0") // else it waits 5 s for further replicas
	replica := redistest.StartReplica(t, master)
	sentinel := redistest.StartSentinel(t, "main", master)
	sentinel.Try("SENTINEL", "DEBUG", "INFO-PERIOD", "100", "PING-PERIOD", "100", "ASK-PERIOD", "100") // Redis 7; older ones take longer to look
	c := open(t, redis.Options{Addrs: []string{"127.0.0.1:1", sentinel.Addr()}, MasterName: "main"})
	data := random(100_000, 1)
	key := mustPut(t, c, data)
	mustHold(t, c, key, data)
	for !strings.Contains(sentinel.Do("INFO", "sentinel"), "slaves=1") {
		time.Sleep(10 * time.Millisecond)
	}
	for !strings.Contains(replica.Do("DBSIZE"), ":1") {
		time.Sleep(time.Millisecond)
	}
	if _, err := open(t, at(replica)).Put(t.Context(), nil); !errors.Is(err, connectors.ErrUnavailable) || !strings.Contains(err.Error(), "replica") {
		t.Errorf("put on a replica: %v", err)
	}
	if _, err := open(t, redis.Options{Addrs: []string{sentinel.Addr()}, MasterName: "other"}).Put(t.Context(), nil); !strings.Contains(fmt.Sprint(err), "master_name") {
		t.Errorf("a master that the sentinel does not know: %v", err)
	}
	for { // it takes a while to think that the replica is good enough
		if _, err := sentinel.Try("SENTINEL", "FAILOVER", "main"); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for strings.Contains(replica.Do("INFO", "replication"), "role:slave") {
		time.Sleep(5 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := c.Set(ctx, key, transport.Slices{data[:10]})
		if err == nil && strings.Contains(replica.Do("STRLEN", key.(connectors.RedisKey).RedisKey), ":10") {
			break
		}
		if err != nil && !errors.Is(err, connectors.ErrUnavailable) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	mustHold(t, c, key, data[:10])
}

func TestCancelTakesBack(t *testing.T) {
	s := redistest.Start(t)
	c := open(t, at(s))
	data := random(2<<20, 1)
	for i := range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*20)*time.Microsecond)
		key, err := c.Put(ctx, transport.Slices{data})
		if err == nil {
			err = c.Evict(t.Context(), key)
		} else if errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Do("DBSIZE"); n != ":0" {
		t.Errorf("%s objects are left of puts that were cancelled", n)
	}
}
