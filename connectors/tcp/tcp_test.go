package tcp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/connectors/tcp"
	"github.com/proxyplane/proxyplane/internal/redistest"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	tcptransport "github.com/proxyplane/proxyplane/transport/tcp"
	"github.com/proxyplane/proxyplane/transport/zmq"
)

func put(t testing.TB, c connectors.Connector, data []byte) connectors.DIMKey {
	t.Helper()
	key, err := c.Put(t.Context(), transport.Slices{data})
	if err != nil {
		t.Fatal(err)
	}
	return key.(connectors.DIMKey)
}

// fails checks an error's sentinel and some of its words.
func fails(t testing.TB, err, sentinel error, words ...string) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Errorf("%v; want one that is %q", err, sentinel)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q says nothing of %q", err, w)
		}
	}
}

// TestConformanceTLS has certificates on both sides and a server that this process starts, reached from outside.
func TestConformanceTLS(t *testing.T) {
	cert := redistest.NewCertificates(t)
	connectortest.Run(t, maybeMap(func(t testing.TB) connectortest.Harness {
		opts := tcp.Options{TLS: true, CAFile: cert.CA, CertFile: cert.Cert, KeyFile: cert.Key, ClientCAFile: cert.CA}
		server := open(t, opts)
		opts.Port = int(server.Config().Options["port"].(int64))
		opts.ConnectOnly = true
		return connectortest.Harness{Want: capabilities, Registry: registry(), OutlivesClose: true,
			Open: func(t testing.TB) connectors.Connector { return open(t, opts) }}
	}))
}

// TestMapped: on the server's host an object is mapped, whoever put it and however.
func TestMapped(t *testing.T) {
	object := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	for _, addr := range []string{"tcp://127.0.0.1:0", "unix://DIR/s"} {
		s, _ := serve(t, strings.ReplaceAll(addr, "DIR", t.TempDir()), tcptransport.ListenOptions{})
		c, other := open(t, at(s.Addr())), open(t, at(s.Addr()))
		w, err := c.PutStream(t.Context(), -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(object); err != nil {
			t.Fatal(err)
		}
		streamed, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []connectors.Key{put(t, c, object), streamed} {
			b, err := other.Map(t.Context(), key)
			if runtime.GOOS != "linux" && errors.Is(err, errors.ErrUnsupported) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Bytes(), object) || b.Backing() != transport.Mapped {
				t.Errorf("%s: %s memory", addr, b.Backing())
			}
			b.Release()
		}
	}
}

// TestCredentials: who has the wrong ones learns what is wanted, and no object.
func TestCredentials(t *testing.T) {
	s, _ := serve(t, "tcp://127.0.0.1:0", tcptransport.ListenOptions{ServerOptions: native.ServerOptions{Token: []byte("right")}})
	right := at(s.Addr())
	right.Token = "right"
	key := put(t, open(t, right), []byte("object"))
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	byFile := at(s.Addr())
	byFile.TokenFile = file
	if b, err := open(t, byFile).GetBytes(t.Context(), key); err != nil || string(b) != "object" {
		t.Errorf("with token_file: %q, %v", b, err)
	}
	for _, token := range []string{"", "wrong"} {
		wrong := at(s.Addr())
		wrong.Token = token
		_, err := tcp.New(t.Context(), wrong)
		fails(t, err, connectors.ErrDenied, "token", s.Addr()[len("tcp://"):])
		_, err = open(t, tcp.Options{Options: dim.Options{Token: token}}).Get(t.Context(), key)
		fails(t, err, connectors.ErrDenied, "token")
	}
	// A server of this process is no way around its token either.
	own := open(t, tcp.Options{Options: dim.Options{Token: "own"}})
	key = put(t, own, []byte("object"))
	_, err := open(t, tcp.Options{}).Get(t.Context(), key)
	fails(t, err, connectors.ErrDenied, "token")
	_, err = tcp.New(t.Context(), tcp.Options{Options: dim.Options{Port: int(key.PeerPort)}})
	fails(t, err, connectors.ErrDenied, "token")
}

// TestOthersOnThePort: what is no server of ours is told apart, and named.
func TestOthersOnThePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	greet := make(chan string, 1)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, <-greet)
			greet <- "" // the next one gets nothing
			wg.Go(func() { io.Copy(io.Discard, c); c.Close() })
		}
	})
	port := l.Addr().(*net.TCPAddr).Port
	opts := tcp.Options{Options: dim.Options{Port: port, Timeout: 50 * time.Millisecond}}
	greet <- "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
	_, err = tcp.New(t.Context(), opts)
	fails(t, err, connectors.ErrCorrupt, "no tcp object server", l.Addr().String())
	_, err = tcp.New(t.Context(), opts) // silent
	fails(t, err, connectors.ErrUnavailable, "is taken by something", "set another port")

	s, err := zmq.Listen(t.Context(), "tcp://127.0.0.1:0", nil, zmq.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	o := at(s.Addr())
	o.Timeout = 200 * time.Millisecond
	_, err = tcp.New(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "use connector zmq") && !strings.Contains(err.Error(), "is taken by something") {
		t.Errorf("a ZeroMQ server: %v", err)
	}
}

func TestOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []tcp.Options{{CAFile: file}, {TLS: true, CertFile: file}, {TLS: true, CAFile: file}, {TLS: true, CertFile: file, KeyFile: file},
		{TLS: true, ClientCAFile: file}, {TLS: true, Options: dim.Options{Address: "unix:///x"}}, {BusyPoll: time.Minute}, {BusyPoll: -1},
		{TLS: true}, {Options: dim.Options{TokenFile: file + "missing"}}, {Options: dim.Options{SpillDir: file}}} {
		_, err := tcp.New(t.Context(), o)
		fails(t, err, connectors.ErrConfig, "option")
	}
	_, err := tcp.New(t.Context(), tcp.Options{Options: dim.Options{Address: "0.0.0.0"}})
	fails(t, err, connectors.ErrConfig, "option address")
	for name, value := range map[string]any{"hash": "sometimes", "compress": "zip", "connections": int64(1000), "no_such": true} {
		_, err := registry().Open(t.Context(), connectors.Config{Kind: "tcp", Options: map[string]any{name: value}}, nil)
		fails(t, err, connectors.ErrConfig, name)
	}
	// Every option comes back as it was, from a server that has them all.
	cert := redistest.NewCertificates(t)
	opts := map[string]any{"address": "127.0.0.1", "timeout": 2.5, "connections": int64(3), "ttl": 3600.0, "token": "secret", "insecure": true,
		"memory": int64(1 << 26), "max_object": int64(1 << 20), "spill_dir": t.TempDir(), "spill_bytes": int64(1 << 20), "hash": "always", "compress": "s2",
		"tls": true, "ca_file": cert.CA, "cert_file": cert.Cert, "key_file": cert.Key, "client_ca_file": cert.CA, "server_name": "redis.test",
		"no_same_host": true, "busy_poll": 0.00005}
	c, err := registry().Open(t.Context(), connectors.Config{Kind: "tcp", Options: opts}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	cfg := c.Config()
	port := cfg.Options["port"]
	opts["port"] = port
	if !cfg.Equal(connectors.Config{Kind: "tcp", Options: opts}) {
		t.Errorf("the configuration is %v, opened with %v", cfg.Options, opts)
	}
	// Another process of the same configuration finds the server.
	opts["connect_only"] = true
	other, err := registry().Open(t.Context(), connectors.Config{Kind: "tcp", Options: opts}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	key := put(t, other, bytes.Repeat([]byte("x"), 1<<19))
	if b, err := connectors.GetBytes(t.Context(), c, key); err != nil || len(b) != 1<<19 {
		t.Error(err)
	}
	_, err = other.Put(t.Context(), transport.Slices{make([]byte, 1<<20+1)})
	fails(t, err, connectors.ErrTooLarge)
	places, err := registry().Locations(cfg, nil)
	if err != nil || len(places) != 4 || places[0].Host != "127.0.0.1" {
		t.Errorf("locations: %v, %v", places, err)
	}
	out, err := registry().Travelling(cfg, false)
	if err != nil || out.Options["token"] != nil || out.Options["connect_only"] != nil || out.Options["tls"] != true {
		t.Errorf("what travels: %v, %v", out.Options, err)
	}
}

// TestRestart kills the server and starts it again while many use it: clear errors or the right bytes, nothing else.
func TestRestart(t *testing.T) {
	first, _ := serve(t, "tcp://127.0.0.1:0", tcptransport.ListenOptions{})
	opts := at(first.Addr())
	c := open(t, opts)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	worked := make(chan struct{}, 1<<20)
	for i := range 8 {
		wg.Go(func() {
			data := bytes.Repeat([]byte{byte(i)}, 100_000)
			for {
				select {
				case <-stop:
					return
				default:
				}
				key, err := c.Put(context.Background(), transport.Slices{data})
				if err == nil {
					var b *transport.Buffer
					if b, err = c.Get(context.Background(), key); err == nil {
						if !bytes.Equal(b.Bytes(), data) {
							t.Error("wrong bytes")
						}
						b.Release()
						c.Evict(context.Background(), key)
						select {
						case worked <- struct{}{}:
						default:
						}
						continue
					}
				}
				if !errors.Is(err, connectors.ErrUnavailable) && !errors.Is(err, connectors.ErrNotFound) {
					t.Errorf("while the server restarts: %v", err)
				}
			}
		})
	}
	s := first
	for range 5 {
		for range 50 {
			<-worked
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for len(worked) > 0 {
			<-worked
		}
		s, _ = serve(t, first.Addr(), tcptransport.ListenOptions{})
	}
	for range 50 {
		<-worked
	}
	close(stop)
	wg.Wait()
}

// TestReceivedSockets: a received configuration goes to no unix socket that was not allowed.
func TestReceivedSockets(t *testing.T) {
	s, _ := serve(t, "unix://"+t.TempDir()+"/s", tcptransport.ListenOptions{})
	key := put(t, open(t, at(s.Addr())), []byte("object"))
	var asked []connectors.Location
	errNo := errors.New("not there")
	c, err := registry().Open(t.Context(), connectors.Config{Kind: "tcp", Options: map[string]any{"busy_poll": 1.0, "connections": int64(64)}},
		&connectors.Env{Received: true, Confirm: func(l connectors.Location) error { asked = append(asked, l); return errNo }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if o := c.Config().Options; o["busy_poll"] != nil || o["connections"] != nil {
		t.Errorf("a received configuration sets our bounds: %v", o)
	}
	_, err = c.Get(t.Context(), key)
	fails(t, err, errNo)
	if len(asked) != 1 || asked[0] != (connectors.Location{Kind: "tcp", Dir: strings.TrimPrefix(s.Addr(), "unix://")}) {
		t.Errorf("asked about %v", asked)
	}
}
