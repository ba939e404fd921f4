package faults

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/endpoint"
	"github.com/proxyplane/proxyplane/endpoint/peer"
	"github.com/proxyplane/proxyplane/internal/testenv"
)

// patience is how long anything may take that comes for sure. Only a failing test waits that long.
const patience = 90 * time.Second

// program is the binary under test.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		f.Value.Set("6") // they wait, most of the time
	}
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "proxyplane")
	args := []string{"build", "-o", program}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/proxyplane")...)
	cmd.Dir = testenv.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// lab is a *netlab.Lab, which is not on every system.
type lab interface {
	Command(site, name string, args ...string) *exec.Cmd
	Client(site string) *http.Client
	Addr(site string) netip.Addr
}

// site is where programs run: this host, or a namespace of a network.
type site struct {
	lab  lab
	name string
}

func (s site) command(args ...string) *exec.Cmd {
	if s.lab == nil {
		return exec.Command(program, args...)
	}
	return s.lab.Command(s.name, program, args...)
}

// client returns an HTTP client that has no time limits of its own.
func (s site) client(t *testing.T) *http.Client {
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
	if s.lab != nil {
		c = s.lab.Client(s.name)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// daemon is a process of the program, which has said that it is ready.
type daemon struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	log   *syncBuffer
	ready string
	gone  chan struct{}
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// startDaemon starts the program and waits until it is ready. It ends with the test, which fails if the program has panicked or raced.
func startDaemon(t *testing.T, s site, name string, env []string, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, name: name, cmd: s.command(args...), log: &syncBuffer{}, gone: make(chan struct{})}
	d.cmd.Env = append(os.Environ(), env...)
	d.cmd.Stderr = d.log
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	d.cmd.Stdout = in
	err = d.cmd.Start()
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		d.cmd.Wait()
		close(d.gone)
	}()
	t.Cleanup(func() {
		d.stop()
		text := d.log.String()
		for _, bad := range []string{"DATA RACE", "panic: ", "fatal error: "} {
			if strings.Contains(text, bad) {
				t.Errorf("%s: %s", name, bad)
			}
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", name, text[max(0, len(text)-12000):])
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s is not ready: %v", name, err)
	}
	d.ready = line
	return d
}

func (d *daemon) signal(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Error(err)
	}
}

// stop ends the process as an operator would.
func (d *daemon) stop() {
	d.signal(syscall.SIGTERM)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-d.gone:
	case <-timer.C:
		d.t.Errorf("%s does not end", d.name)
		d.kill()
	}
}

// kill ends the process at once.
func (d *daemon) kill() {
	d.signal(syscall.SIGKILL)
	<-d.gone
}

// relay is one that can be started again at the same address.
type relay struct {
	*daemon
	t       *testing.T
	s       site
	args    []string
	address string // ws://host:port
}

func startRelay(t *testing.T, s site, args ...string) *relay {
	t.Helper()
	r := &relay{t: t, s: s, args: args}
	listen := "127.0.0.1:0"
	if s.lab != nil {
		listen = s.lab.Addr(s.name).String() + ":8700"
		r.args = append(r.args, "--insecure")
	}
	r.start(listen)
	return r
}

func (r *relay) start(listen string) {
	r.t.Helper()
	r.daemon = startDaemon(r.t, r.s, "relay", nil, append([]string{"relay", "--json", "--listen", listen}, r.args...)...)
	var ready struct{ Address string }
	if err := json.Unmarshal([]byte(r.ready), &ready); err != nil {
		r.t.Fatalf("%q: %v", r.ready, err)
	}
	r.address = ready.Address
}

// again starts it where it was.
func (r *relay) again() {
	r.t.Helper()
	r.start(strings.TrimPrefix(r.address, "ws://"))
}

// node is an endpoint.
type node struct {
	*daemon
	t    *testing.T
	s    site
	name string
	home string
	uuid string
	base string // http://host:port
	http *http.Client

	limit time.Duration // for a request and its answer; 0: 2*patience
}

// configure makes an endpoint in a home of its own.
func configure(t *testing.T, s site, r *relay, name string, args ...string) *node {
	t.Helper()
	return configureIn(t, t.TempDir(), s, r, name, args...)
}

func configureIn(t *testing.T, home string, s site, r *relay, name string, args ...string) *node {
	t.Helper()
	n := &node{t: t, s: s, name: name, home: home, http: s.client(t)}
	args = append([]string{"endpoint", "configure", name, "--json", "--no-ice-servers"}, args...)
	if s.lab == nil {
		args = append(args, "--loopback")
	}
	if r != nil {
		args = append(args, "--relay-address", r.address)
	}
	out, code := n.cli(args...)
	var made struct{ UUID string }
	if err := json.Unmarshal([]byte(out), &made); code != 0 || err != nil {
		t.Fatalf("configure: exit code %d, %s", code, out)
	}
	n.uuid = made.UUID
	return n
}

// startNode makes and starts an endpoint.
func startNode(t *testing.T, s site, r *relay, name string, args ...string) *node {
	t.Helper()
	n := configure(t, s, r, name, args...)
	n.start()
	if r != nil { // it serves before it is registered, and asking for who is not is refused at once
		for i := 0; i < 100 && !n.status().Relay.Connected; i++ {
			time.Sleep(20 * time.Millisecond)
		}
	}
	return n
}

func (n *node) start() {
	n.t.Helper()
	n.daemon = startDaemon(n.t, n.s, n.name, []string{"PROXYSTORE_HOME=" + n.home}, "endpoint", "start", n.name, "--no-detach", "--json")
	var ready struct{ Addresses []string }
	if err := json.Unmarshal([]byte(n.ready), &ready); err != nil || len(ready.Addresses) == 0 {
		n.t.Fatalf("%q: %v", n.ready, err)
	}
	n.base = ready.Addresses[0]
}

// cli runs a command of the program for this endpoint's home, and returns what it printed.
func (n *node) cli(args ...string) (out string, code int) {
	n.t.Helper()
	cmd := n.s.command(args...)
	cmd.Env = append(os.Environ(), "PROXYSTORE_HOME="+n.home)
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		n.t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// statusText is what a user sees.
func (n *node) statusText() string {
	out, _ := n.cli("endpoint", "status", n.name)
	return out
}

type status struct {
	endpoint.Status
	Peers peer.Status `json:"peers"`
}

func (n *node) status() (s status) {
	n.t.Helper()
	a := n.do("GET", "/status", nil, nil)
	if err := json.Unmarshal([]byte(a.text), &s); err != nil {
		n.t.Fatalf("%s: /status: %v\n%s", n.name, err, a)
	}
	return s
}

// peer returns what n knows of other.
func (n *node) peer(other *node) peer.PeerStatus {
	for _, p := range n.status().Peers.Peers {
		if p.UUID.String() == other.uuid {
			return p
		}
	}
	return peer.PeerStatus{}
}

// answer to a request; code 0: there was none.
type answer struct {
	code int
	text string
	err  error
}

func (a answer) String() string {
	return fmt.Sprintf("status %d, error %v, %.2000q", a.code, a.err, a.text)
}

func where(key string, at *node) string {
	q := url.Values{"key": {key}}
	if at != nil {
		q.Set("endpoint", at.uuid)
	}
	return "?" + q.Encode()
}

func (n *node) request(method, path string, body io.Reader, header http.Header) (*http.Response, error) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	// Nothing takes so long; and a test that hangs says less than one that fails.
	timer := time.AfterFunc(cmp.Or(n.limit, 2*patience), cancel)
	r, err := http.NewRequestWithContext(ctx, method, n.base+path, body)
	if err != nil {
		n.t.Fatal(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	resp, err := n.http.Do(r)
	if err != nil {
		timer.Stop()
		cancel()
		return nil, err
	}
	resp.Body = &timedBody{resp.Body, timer, cancel}
	return resp, nil
}

type timedBody struct {
	io.ReadCloser
	timer  *time.Timer
	cancel context.CancelFunc
}

func (b *timedBody) Close() error {
	b.timer.Stop()
	defer b.cancel()
	return b.ReadCloser.Close()
}

func (n *node) do(method, path string, body io.Reader, header http.Header) answer {
	n.t.Helper()
	resp, err := n.request(method, path, body, header)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(text), err}
}

// put stores data at the endpoint at (nil: n itself) through n.
func (n *node) put(key string, at *node, data []byte) answer {
	n.t.Helper()
	return n.do("POST", "/set"+where(key, at), bytes.NewReader(data), nil)
}

func (n *node) evict(key string, at *node) answer {
	n.t.Helper()
	return n.do("POST", "/evict"+where(key, at), nil, nil)
}

func (n *node) exists(key string, at *node) bool {
	n.t.Helper()
	a := n.do("GET", "/exists"+where(key, at), nil, nil)
	if a.code != 200 {
		n.t.Fatalf("%s: exists: %v", n.name, a)
	}
	return strings.Contains(a.text, "true")
}

// mustPut fails the test if the object is not stored.
func (n *node) mustPut(key string, at *node, data []byte) {
	n.t.Helper()
	if a := n.put(key, at, data); a.code != 200 {
		n.t.Fatalf("%s: put %s: %v", n.name, key, a)
	}
}

// mustGet fails the test if the object is not there, or another.
func (n *node) mustGet(key string, at *node, want []byte) {
	n.t.Helper()
	a := n.do("GET", "/get"+where(key, at), nil, nil)
	if a.code != 200 || a.err != nil || a.text != string(want) {
		a.text = a.text[:min(len(a.text), 2000)]
		n.t.Fatalf("%s: get %s: %d bytes wanted; %v", n.name, key, len(want), a)
	}
}

// upload is a put whose body the test sends piece by piece.
type upload struct {
	t      *testing.T
	w      *io.PipeWriter
	data   []byte
	off    int
	answer chan answer
}

// upload begins a put of data, of which nothing is sent yet.
func (n *node) upload(key string, at *node, data []byte) *upload {
	n.t.Helper()
	r, w := io.Pipe()
	u := &upload{t: n.t, w: w, data: data, answer: make(chan answer, 1)}
	n.t.Cleanup(func() { w.CloseWithError(errors.New("the test has ended")) })
	req, err := http.NewRequestWithContext(n.t.Context(), "POST", n.base+"/set"+where(key, at), r)
	if err != nil {
		n.t.Fatal(err)
	}
	req.ContentLength = int64(len(data))
	go func() {
		resp, err := n.http.Do(req)
		if err != nil {
			r.CloseWithError(err)
			u.answer <- answer{err: err}
			return
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		r.CloseWithError(io.ErrClosedPipe) // it answered before it had everything
		u.answer <- answer{resp.StatusCode, string(text), err}
	}()
	return u
}

// send sends the next n bytes. It reports whether somebody took them.
func (u *upload) send(n int) bool {
	m, err := u.w.Write(u.data[u.off : u.off+n])
	u.off += m
	return err == nil
}

// finish sends the rest, and returns the answer.
func (u *upload) finish() answer {
	u.t.Helper()
	if u.send(len(u.data) - u.off) {
		u.w.Close()
	}
	timer := time.NewTimer(2 * patience)
	defer timer.Stop()
	select {
	case a := <-u.answer:
		return a
	case <-timer.C:
		u.t.Fatal("a put never ends")
		return answer{}
	}
}

// download is a get whose body the test takes piece by piece.
type download struct {
	t    *testing.T
	resp *http.Response
	want []byte
	off  int
}

// download begins a get of an object that must be want.
func (n *node) download(key string, at *node, want []byte) *download {
	n.t.Helper()
	resp, err := n.request("GET", "/get"+where(key, at), nil, nil)
	if err != nil || resp.StatusCode != 200 {
		n.t.Fatalf("get: %v, %v", resp, err)
	}
	n.t.Cleanup(func() { resp.Body.Close() })
	return &download{t: n.t, resp: resp, want: want}
}

// take reads n bytes, and fails the test if they are wrong. It returns the error that came earlier.
func (d *download) take(n int) error {
	d.t.Helper()
	buf := make([]byte, min(n, 1<<20))
	for n > 0 {
		m, err := d.resp.Body.Read(buf[:min(n, len(buf))])
		if d.off+m > len(d.want) || !bytes.Equal(buf[:m], d.want[d.off:d.off+m]) {
			d.t.Fatalf("wrong bytes at %d", d.off)
		}
		d.off += m
		n -= m
		if err != nil {
			return err
		}
	}
	return nil
}

// rest reads to the end. It returns nil if the object came whole.
func (d *download) rest() error {
	d.t.Helper()
	err := d.take(len(d.want) + 1)
	d.resp.Body.Close()
	if err == io.EOF {
		if d.off != len(d.want) {
			d.t.Fatalf("a get ended without error after %d of %d bytes", d.off, len(d.want))
		}
		return nil
	}
	return err
}

// eventually waits until f returns nil.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: never: %v", what, err)
}

// comes waits until the endpoint answers a put to at with 200, and returns what it said before.
func (n *node) comes(key string, at *node, data []byte) {
	n.t.Helper()
	eventually(n.t, "a new put", func() error {
		if a := n.put(key, at, data); a.code != 200 {
			return errors.New(a.String())
		}
		return nil
	})
	n.mustGet(key, at, data)
}

// connected waits until the endpoint is registered at its relay.
func (n *node) connected() {
	n.t.Helper()
	eventually(n.t, n.name+" at its relay", func() error {
		if s := n.status(); !s.Relay.Connected {
			return errors.New(s.Relay.Error)
		}
		return nil
	})
}

// settled returns what is stored at n once nothing is on its way to it: a put that has failed here may take a moment to be given up there.
func (n *node) settled() (s endpoint.StorageStatus) {
	n.t.Helper()
	eventually(n.t, "nothing on its way to "+n.name, func() error {
		if s = n.status().Storage; s.Arriving != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	return s
}

// content returns n bytes that are the same for the same seed.
func content(seed, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1}).Read(b)
	return b
}

// contains fails the test if a text does not match all of these.
func contains(t *testing.T, what, text string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(text) {
			t.Errorf("%s: no %q in\n%.4000s", what, p, text)
		}
	}
}
