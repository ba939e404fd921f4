package endpoint

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/endpoint/config"
)

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// daemon is an endpoint that Run serves.
type daemon struct {
	dir   string
	cfg   config.Config
	addrs []string
	stop  func() error // ends it and returns Run's error
}

// configure makes an endpoint on loopback in a home of its own.
func configure(t testing.TB, change func(*config.Config)) (home, dir string) {
	t.Helper()
	home = t.TempDir()
	cfg, err := config.Configure(home, "ep", config.Options{Host: "127.0.0.1", Port: freePort(t)})
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(home, "ep")
	if change != nil {
		change(&cfg)
		if err := cfg.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	return home, dir
}

// start runs an endpoint until it is ready.
func start(t testing.TB, home string, o RunOptions) (*daemon, error) {
	t.Helper()
	dir, cfg, err := config.Prepare(t.Context(), home, "ep")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan []string, 1), make(chan error, 1)
	o.Ready = func(addrs []string) { ready <- addrs }
	go func() { ended <- Run(ctx, dir, cfg, o) }()
	select {
	case addrs := <-ready:
		d := &daemon{dir: dir, cfg: cfg, addrs: addrs}
		stopped := false
		d.stop = func() error {
			if stopped {
				return nil
			}
			stopped = true
			cancel()
			return <-ended
		}
		t.Cleanup(func() { d.stop() })
		return d, nil
	case err := <-ended:
		cancel()
		return nil, err
	}
}

// fetch does one request without keeping the connection.
func fetch(t testing.TB, tr *http.Transport, method, url string, body io.Reader, token string) (int, string) {
	t.Helper()
	tr.DisableKeepAlives = true
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Transport: tr}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func TestRun(t *testing.T) {
	noLeaks(t)
	home, dir := configure(t, func(c *config.Config) { c.Storage.DatabasePath = config.DatabaseFile })
	d, err := start(t, home, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	url := d.addrs[0]
	if len(d.addrs) != 1 || !strings.HasPrefix(url, "http://127.0.0.1:") || config.GetStatus(home, "ep") != config.Running {
		t.Error(d.addrs, config.GetStatus(home, "ep"))
	}
	small, large := random(1000), random(5<<20)
	for key, data := range map[string][]byte{"small": small, "large": large} {
		if code, text := fetch(t, &http.Transport{}, "POST", url+"/set?key="+key, bytes.NewReader(data), ""); code != 200 {
			t.Error(code, text)
		}
	}
	if _, err := start(t, home, RunOptions{}); !errors.Is(err, config.ErrRunning) {
		t.Error(err)
	}
	if err := Run(t.Context(), dir, d.cfg, RunOptions{}); !errors.Is(err, config.ErrRunning) {
		t.Error(err)
	}
	_, text := fetch(t, &http.Transport{}, "GET", url+"/status", nil, "")
	var st Status
	if err := json.Unmarshal([]byte(text), &st); err != nil || st.Storage.Kind != "database" || st.Storage.Objects != 2 || st.Storage.Files != 1 || st.Mode != "SOLO" || st.Relay != nil {
		t.Errorf("%v %s", err, text)
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
	if s := config.GetStatus(home, "ep"); s != config.Stopped {
		t.Error(s)
	}
	log, err := os.ReadFile(filepath.Join(dir, config.LogFile))
	if err != nil || !strings.Contains(string(log), "Serving endpoint "+d.cfg.UUID) || !strings.Contains(string(log), "Finished serving") {
		t.Errorf("%v %s", err, log)
	}

	// What was stored is there again, after a kill that left its pid file too.
	if err := os.WriteFile(filepath.Join(dir, config.PIDFile), []byte("999999999"), 0o644); err != nil {
		t.Fatal(err)
	}
	if d, err = start(t, home, RunOptions{}); err != nil {
		t.Fatal(err)
	}
	for key, data := range map[string][]byte{"small": small, "large": large} {
		if code, text := fetch(t, &http.Transport{}, "GET", url+"/get?key="+key, nil, ""); code != 200 || text != string(data) {
			t.Error(code, len(text))
		}
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

// TestRunListeners: a unix socket, TLS and a token.
func TestRunListeners(t *testing.T) {
	noLeaks(t)
	home, dir := configure(t, func(c *config.Config) {
		c.Extra.HTTP = config.ExtraHTTP{Socket: "s", TLSCert: "cert.pem", TLSKey: "key.pem", TokenFile: "token", Plain: true, TLSListen: "127.0.0.1:0"}
		c.Extra.Log = config.ExtraLog{Format: "json", Level: "debug"}
	})
	roots := writeCertificate(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(" secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := start(t, home, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	byUnix := func() *http.Transport {
		return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}
	}
	byTLS := func() *http.Transport {
		return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "endpoint"}, ForceAttemptHTTP2: true}
	}
	if fi, err := os.Stat(socket); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi.Mode(), err)
	}
	if len(d.addrs) != 3 || !strings.HasPrefix(d.addrs[0], "https://") || !strings.HasPrefix(d.addrs[1], "http://") || d.addrs[2] != "unix://"+socket {
		t.Fatal(d.addrs)
	}
	data := string(random(3 << 20))
	for i, via := range []struct {
		tr  func() *http.Transport
		url string
	}{{byUnix, "http://endpoint"}, {byTLS, d.addrs[0]}, {func() *http.Transport { return &http.Transport{} }, d.addrs[1]}} {
		if code, _ := fetch(t, via.tr(), "GET", via.url+"/endpoint", nil, ""); code != 401 {
			t.Error(i, code)
		}
		if code, text := fetch(t, via.tr(), "POST", via.url+"/set?key=k", strings.NewReader(data), "secret"); code != 200 {
			t.Error(i, code, text)
		}
		if code, text := fetch(t, via.tr(), "GET", via.url+"/get?key=k", nil, "secret"); code != 200 || text != data {
			t.Error(i, code, len(text))
		}
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is still there")
	}
	log, _ := os.ReadFile(filepath.Join(dir, config.LogFile))
	for line := range bytes.Lines(log) {
		if !json.Valid(line) {
			t.Errorf("not JSON: %s", line)
		}
	}
	if bytes.Contains(log, []byte("secret")) {
		t.Error("the token is in the log")
	}
}

// writeCertificate makes one for the name "endpoint" in dir.
func writeCertificate(t testing.TB, dir string) *x509.CertPool {
	t.Helper()
	cert, err := selfSigned("endpoint")
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	for name, data := range map[string][]byte{"cert.pem": certPEM, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool
}

func selfSigned(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// TestRunErrors: what is wrong is said, and nothing is left behind.
func TestRunErrors(t *testing.T) {
	noLeaks(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for want, change := range map[string]func(*config.Config){
		"another program has the port": func(c *config.Config) { c.Port = taken.Addr().(*net.TCPAddr).Port },
		"is not this host's":           func(c *config.Config) { c.Host = "192.0.2.1" },
		"token file":                   func(c *config.Config) { c.Extra.HTTP.TokenFile = "none" },
		"must hold one word":           func(c *config.Config) { c.Extra.HTTP.TokenFile = config.ConfigFile },
		"TLS":                          func(c *config.Config) { c.Extra.HTTP.TLSCert, c.Extra.HTTP.TLSKey = "none", "none" },
		"is not a socket":              func(c *config.Config) { c.Extra.HTTP.Socket = config.ConfigFile },
		"ca.pem":                       func(c *config.Config) { c.Relay.Address, c.Extra.Relay.CAFile = "wss://127.0.0.1:1", "ca.pem" },
		"ep/no":                        func(c *config.Config) { c.Storage.DatabasePath = "no/such/dir/blobs.db" },
	} {
		home, dir := configure(t, change)
		if _, err := start(t, home, RunOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want ...%s...", err, want)
		}
		if _, err := os.Stat(filepath.Join(dir, config.PIDFile)); err == nil {
			t.Error(want, "the pid file is still there")
		}
	}
	cfg := config.Default("ep", ownID.String(), 1)
	if err := Run(t.Context(), t.TempDir(), cfg, RunOptions{}); !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "no host") {
		t.Error(err)
	}
}

// TestRunWithoutRelay: HTTP does not wait for a relay that never answers, nor does the end.
func TestRunWithoutRelay(t *testing.T) {
	noLeaks(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, address := range []string{"ws://" + silent.Addr().String(), "ws://127.0.0.1:1", "ws://no-such-host.invalid"} {
		home, _ := configure(t, func(c *config.Config) {
			c.Relay.Address = address
			c.Relay.ICEServers = []config.ICEServer{{URLs: []string{"stun:192.0.2.1:3478"}}}
			c.Extra.Peer.Listen = "127.0.0.1:0"
		})
		begin := time.Now()
		d, err := start(t, home, RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Log("ready after", time.Since(begin))
		_, text := fetch(t, &http.Transport{}, "GET", d.addrs[0]+"/status", nil, "")
		var st Status
		if err := json.Unmarshal([]byte(text), &st); err != nil || st.Mode != "PEERING" || st.Relay == nil || st.Relay.Connected || st.Relay.Address != address {
			t.Errorf("%v %s", err, text)
		}
		if code, _ := fetch(t, &http.Transport{}, "POST", d.addrs[0]+"/set?key=k", strings.NewReader("x"), ""); code != 200 {
			t.Error(code)
		}
		begin = time.Now()
		if err := d.stop(); err != nil {
			t.Error(err)
		}
		t.Log("ended after", time.Since(begin))
	}
}

// TestRunDrains: a request under way when the end comes is answered, and one that does not end is cut off.
func TestRunDrains(t *testing.T) {
	noLeaks(t)
	for _, finish := range []bool{true, false} {
		home, dir := configure(t, func(c *config.Config) { c.Storage.DatabasePath = config.DatabaseFile })
		grace := 20 * time.Second
		if !finish {
			grace = 50 * time.Millisecond
		}
		d, err := start(t, home, RunOptions{Grace: grace})
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", strings.TrimPrefix(d.addrs[0], "http://"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "POST /set?key=k HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\nExpect: 100-continue\r\n\r\n")
		if _, err := c.Read(make([]byte, 100)); err != nil { // 100: the handler reads the body now
			t.Fatal(err)
		}
		c.Write(make([]byte, 1000))
		ended := make(chan error, 1)
		go func() { ended <- d.stop() }()
		if finish {
			for { // no new connections any more
				if n, err := net.Dial("tcp", strings.TrimPrefix(d.addrs[0], "http://")); err != nil {
					break
				} else {
					n.Close()
				}
				time.Sleep(time.Millisecond)
			}
			c.Write(make([]byte, 3000000-1000))
			answer := make([]byte, 100)
			n, err := c.Read(answer)
			if err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 200 ") {
				t.Errorf("%v %s", err, answer[:n])
			}
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		c.Close()
		if d, err = start(t, home, RunOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, text := fetch(t, &http.Transport{}, "GET", d.addrs[0]+"/exists?key=k", nil, ""); strings.Contains(text, "true") != finish {
			t.Error(finish, text)
		}
		if err := d.stop(); err != nil {
			t.Error(err)
		}
		if config.GetStatus(home, "ep") != config.Stopped {
			t.Error(dir)
		}
	}
}

// TestCertificateRenewal: a renewed certificate is served without a restart, and half of a renewal does no harm.
func TestCertificateRenewal(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir)
	c := &certificate{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	first, err := c.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	old, _ := os.ReadFile(c.key)
	writeCertificate(t, dir)
	renewed, _ := os.ReadFile(c.key)
	future := time.Now().Add(time.Hour)
	if err := errors.Join(os.WriteFile(c.key, old, 0o600), os.Chtimes(c.cert, future, future)); err != nil {
		t.Fatal(err)
	}
	if now, err := c.get(nil); err != nil || now != first {
		t.Error("looked again at once", err)
	}
	c.next = time.Time{}
	if now, err := c.get(nil); err != nil || now != first {
		t.Error("half of a renewal", err)
	}
	if err := os.WriteFile(c.key, renewed, 0o600); err != nil {
		t.Fatal(err)
	}
	c.next = time.Time{}
	if now, err := c.get(nil); err != nil || now == first {
		t.Error("not renewed", err)
	}
}

// TestStaleSocket: what a dead process has left is replaced, what a living one uses is not.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(t.Context(), path); !errors.Is(err, config.ErrRunning) {
		t.Error(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = listenUnix(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	l.Close()
}
