package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	client "github.com/proxyplane/proxyplane/connectors/endpoint"
	"github.com/proxyplane/proxyplane/endpoint"
	"github.com/proxyplane/proxyplane/endpoint/config"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// served is an endpoint that a test runs, with its configuration below home.
type served struct {
	home  string
	id    string
	table *objects.Table
	conf  config.Config
}

// serve starts an endpoint of ours. plain makes it look like one of ProxyStore's: no more than its HTTP API.
func serve(t testing.TB, plain bool, change func(*config.Config, string)) *served {
	t.Helper()
	table, err := objects.NewTable(objects.TableOptions{Memory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	s := &served{home: t.TempDir(), id: uuid.NewString(), table: table}
	token := ""
	dir := filepath.Join(s.home, "test")
	s.conf = config.Default("test", s.id, 1)
	s.conf.HostType, s.conf.Host = config.HostStatic, "127.0.0.1"
	if change != nil {
		change(&s.conf, dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if f := s.conf.Extra.HTTP.TokenFile; f != "" {
		token = "secret"
		if err := os.WriteFile(filepath.Join(dir, f), []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e, err := endpoint.New(endpoint.Options{UUID: uuid.MustParse(s.id), Name: "test", Store: table, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	h := e.Handler()
	if plain {
		h = python(h, s.id)
	}
	srv := httptest.NewUnstartedServer(h)
	if path := s.conf.Extra.HTTP.Socket; path != "" {
		l, err := net.Listen("unix", filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		srv.Listener.Close()
		srv.Listener = l
		srv.Start()
	} else {
		srv.Start()
		_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
		s.conf.Port, _ = strconv.Atoi(port)
	}
	t.Cleanup(srv.Close)
	if err := s.conf.Write(dir); err != nil {
		t.Fatal(err)
	}
	return s
}

// python hides what proxystore-endpoint does not have: it answers every get in chunks, whole, and refuses what is empty.
func python(h http.Handler, id string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/endpoint":
			w.Write([]byte(`{"uuid": "` + id + `"}`))
			return
		case strings.HasPrefix(r.URL.Path, "/batch") || r.URL.Path == "/status" || r.Method == http.MethodHead:
			http.NotFound(w, r)
			return
		}
		for name := range r.Header {
			if name == "Range" || strings.HasPrefix(name, "If-") || strings.HasPrefix(name, "Proxyplane-") {
				r.Header.Del(name)
			}
		}
		q := r.URL.Query()
		q.Del("wait")
		r.URL.RawQuery = q.Encode()
		h.ServeHTTP(chunked{w}, r)
	})
}

type chunked struct{ http.ResponseWriter }

func (c chunked) WriteHeader(status int) {
	c.Header().Del("Content-Length")
	c.ResponseWriter.WriteHeader(status)
}

func (s *served) open(t testing.TB) *client.Connector {
	t.Helper()
	c, err := client.New(t.Context(), client.Options{Endpoints: []string{s.id}, ProxystoreDir: s.home})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var capabilities = []string{"Deferrer", "BatchPutter", "BatchGetter", "BatchEvicter", "RangeGetter", "BytesGetter", "StreamPutter", "StreamGetter", "Stater", "Waiter"}

// harness has an endpoint of its own for each check, since what a check leaves there is memory of this process.
func harness(change func(*config.Config, string)) func(testing.TB) connectortest.Harness {
	return func(t testing.TB) connectortest.Harness {
		s := serve(t, false, change)
		r := &connectors.Registry{}
		r.Register(client.Driver())
		return connectortest.Harness{
			Open: func(t testing.TB) connectors.Connector { return s.open(t) }, Want: capabilities, Registry: r, OutlivesClose: true,
			Objects: func(testing.TB) int { return int(s.table.Stats().Objects) },
			HostileKeys: []connectors.Key{connectors.EndpointKey{}, connectors.EndpointKey{ObjectID: "../../etc/passwd", EndpointID: s.id},
				connectors.EndpointKey{ObjectID: "a\r\nHost: b", EndpointID: s.id}, connectors.EndpointKey{ObjectID: strings.Repeat("k", 1<<17), EndpointID: s.id},
				connectors.EndpointKey{ObjectID: "a&endpoint=b#c", EndpointID: "&key=b"}},
		}
	}
}

func TestConformance(t *testing.T) { connectortest.Run(t, harness(nil)) }

func TestConformanceSocket(t *testing.T) {
	connectortest.Run(t, harness(func(c *config.Config, _ string) {
		c.Extra.HTTP.Socket, c.Extra.HTTP.TokenFile = "s", "token"
	}))
}

// TestPlain uses an endpoint that has no more than ProxyStore's. Real ones are in interop/.
func TestPlain(t *testing.T) {
	s := serve(t, true, nil)
	c := s.open(t)
	defer c.Close(t.Context())
	ctx := t.Context()
	data := make([]byte, 3<<20)
	key, err := c.Put(ctx, transport.Slices{data[:1<<20], data[1<<20:]})
	if err != nil {
		t.Fatal(err)
	}
	for _, get := range []func() (*transport.Buffer, error){
		func() (*transport.Buffer, error) { return c.Get(ctx, key) },
		func() (*transport.Buffer, error) { return c.GetRange(ctx, key, 0, -1) },
	} {
		b, err := get()
		if err != nil || b.Len() != len(data) {
			t.Fatal(err)
		}
		b.Release()
	}
	if b, err := c.GetRange(ctx, key, 5, 10); err != nil || b.Len() != 10 {
		t.Fatal(err)
	} else {
		b.Release()
	}
	r, err := connectors.GetStream(ctx, c, key) // falls back to the whole object
	if err != nil || r.Size() != int64(len(data)) {
		t.Fatal(err)
	}
	r.Close()
	if info, err := connectors.Stat(ctx, c, key); err != nil || info.Size != int64(len(data)) {
		t.Fatal(info, err)
	}
	keys, err := c.PutBatch(ctx, []transport.Slices{{data[:1]}, {data[:100]}})
	if err != nil {
		t.Fatal(err)
	}
	bufs, err := c.GetBatch(ctx, append(keys, connectors.EndpointKey{ObjectID: "missing"}))
	if err != nil || bufs[0].Len() != 1 || bufs[1].Len() != 100 || bufs[2] != nil {
		t.Fatal(bufs, err)
	}
	for _, b := range bufs {
		b.Release()
	}
	if err := c.EvictBatch(ctx, keys); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, nil); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "no bytes") {
		t.Fatal(err)
	}
	later, err := c.NewKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(30 * time.Millisecond)
		if err := c.Set(ctx, later, transport.Slices{data[:1]}); err != nil {
			t.Error(err)
		}
	}()
	if err := c.Wait(ctx, later); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(ctx); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
}

// TestFind: every way in which there is no endpoint says what to do.
func TestFind(t *testing.T) {
	s := serve(t, false, nil)
	other := uuid.NewString()
	for name, c := range map[string]struct {
		o    client.Options
		want string
	}{
		"none":    {client.Options{ProxystoreDir: s.home}, "at least one"},
		"no UUID": {client.Options{Endpoints: []string{"x"}, ProxystoreDir: s.home}, "option endpoints"},
		"unknown": {client.Options{Endpoints: []string{other}, ProxystoreDir: s.home}, "endpoint list"},
		"no home": {client.Options{Endpoints: []string{other}, ProxystoreDir: filepath.Join(s.home, "none")}, "endpoint list"},
	} {
		if _, err := client.New(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// One that was never started, one that does not run, and one whose port somebody else has.
	for name, change := range map[string]func(*config.Config){
		"never started":    func(c *config.Config) { c.HostType, c.Host = config.HostIP, "" },
		"refused":          func(c *config.Config) { c.Port = 1 },
		"endpoint " + s.id: func(c *config.Config) {},
	} {
		conf := s.conf
		conf.Name, conf.UUID = "other", other
		change(&conf)
		dir := filepath.Join(s.home, "other")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := conf.Write(dir); err != nil {
			t.Fatal(err)
		}
		_, err := client.New(t.Context(), client.Options{Endpoints: []string{other}, ProxystoreDir: s.home})
		if !errors.Is(err, connectors.ErrUnavailable) || !strings.Contains(err.Error(), strings.Trim(name, `"`)) && !strings.Contains(err.Error(), "is endpoint") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Of several, the one that answers.
	c, err := client.New(t.Context(), client.Options{Endpoints: []string{other, s.id}, ProxystoreDir: s.home})
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := c.Endpoint(); id != s.id {
		t.Fatal(id)
	}
	c.Close(context.Background())
}

// TestToken: without the token that its file names there is no way in.
func TestToken(t *testing.T) {
	s := serve(t, false, func(c *config.Config, _ string) { c.Extra.HTTP.TokenFile = "token" })
	c := s.open(t)
	key, err := c.Put(t.Context(), transport.Slices{[]byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	c.Close(t.Context())
	if err := os.WriteFile(filepath.Join(s.home, "test", "token"), []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := client.New(t.Context(), client.Options{Endpoints: []string{s.id}, ProxystoreDir: s.home}); err == nil {
		t.Fatal("a wrong token opened it, and would get", key)
	}
}

// TestBroken: an answer that ends early is an error that may be tried again, and gives nothing.
func TestBroken(t *testing.T) {
	c := stranger(t, 1, client.Options{MaxBytes: 2_000_000}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/exists":
			w.Write([]byte(`{"exists": "perhaps"}`))
		case "/get":
			w.Header().Set("Content-Length", "1000000")
			w.Write(make([]byte, 1000))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			http.Error(w, "boom", http.StatusInternalServerError)
		}
	})
	key, _ := c.NewKey(t.Context())
	if _, err := c.Get(t.Context(), key); !errors.Is(err, connectors.ErrUnavailable) || !connectors.Retryable(err) {
		t.Error(err)
	}
	if _, err := c.GetBytes(t.Context(), key); !errors.Is(err, connectors.ErrUnavailable) {
		t.Error(err)
	}
	r, err := c.GetStream(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.WriteTo(nowhere{}); !errors.Is(err, connectors.ErrUnavailable) {
		t.Error(err)
	}
	r.Close()
	if _, err := c.Exists(t.Context(), key); !errors.Is(err, connectors.ErrCorrupt) {
		t.Error(err)
	}
	if err := c.Set(t.Context(), key, transport.Slices{[]byte("x")}); !errors.Is(err, connectors.ErrUnavailable) || !strings.Contains(err.Error(), "boom") {
		t.Error(err)
	}
}

// stranger runs an HTTP server that is no endpoint but by its answer to GET /endpoint, and opens a connector to it.
func stranger(t *testing.T, proxyplane int, o client.Options, h http.HandlerFunc) *client.Connector {
	t.Helper()
	id := uuid.NewString()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/endpoint" {
			fmt.Fprintf(w, `{"uuid": "%s", "proxyplane": %d}`, id, proxyplane)
			return
		}
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	o.Endpoints, o.ProxystoreDir = []string{id}, t.TempDir()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	conf := config.Default("test", id, 1)
	conf.HostType, conf.Host = config.HostStatic, "127.0.0.1"
	conf.Port, _ = strconv.Atoi(port)
	dir := filepath.Join(o.ProxystoreDir, "test")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := conf.Write(dir); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// TestHanging: a batch that the endpoint does not answer ends with its context, although there is something to clean up that is not answered either.
func TestHanging(t *testing.T) {
	over := make(chan struct{})
	var evicts atomic.Int32
	c := stranger(t, 1, client.Options{}, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/batch/evict" {
			evicts.Add(1)
		}
		io.Copy(io.Discard, r.Body)
		select {
		case <-r.Context().Done():
		case <-over:
		}
	})
	t.Cleanup(func() { close(over) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.PutBatch(ctx, []transport.Slices{{[]byte("a")}, {[]byte("b")}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if evicts.Load() != 1 {
		t.Fatal("it did not try to clean up")
	}
}

// TestUnannounced: option max_bytes is exact for an answer without a length too.
func TestUnannounced(t *testing.T) {
	for _, most := range []int64{1000, 64 << 10, 100_000, 128 << 10} {
		var size int64
		c := stranger(t, 0, client.Options{MaxBytes: most}, func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			w.Write(make([]byte, size))
		})
		key, _ := c.NewKey(t.Context())
		for size = most - 1; size <= most+1; size++ {
			b, err := c.Get(t.Context(), key)
			switch {
			case size > most && !errors.Is(err, connectors.ErrTooLarge):
				t.Errorf("%d of at most %d bytes: %v", size, most, err)
			case size <= most && (err != nil || int64(b.Len()) != size):
				t.Errorf("%d of at most %d bytes: %v", size, most, err)
			}
			b.Release()
		}
	}
}

// TestPythonLimit: an object that proxystore-endpoint would answer with an error that could be anything is too large, and is not sent.
func TestPythonLimit(t *testing.T) {
	s := serve(t, true, func(c *config.Config, _ string) { c.Storage.MaxObjectSize = 1000 })
	c := s.open(t)
	defer c.Close(t.Context())
	if _, err := c.Put(t.Context(), transport.Slices{make([]byte, 1001)}); !errors.Is(err, connectors.ErrTooLarge) || connectors.Retryable(err) {
		t.Error(err)
	}
	w, err := c.PutStream(t.Context(), 1001)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, connectors.ErrTooLarge) {
		t.Error(err)
	}
	w.Abort()
	if _, err := c.Put(t.Context(), transport.Slices{make([]byte, 1000)}); err != nil {
		t.Error(err)
	}
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
