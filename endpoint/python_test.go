package endpoint

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/endpoint/config"
	"github.com/proxyplane/proxyplane/internal/testenv"
)

// runPython runs a script in the environment that has ProxyStore's endpoints and returns what it prints.
func runPython(t *testing.T, script string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Python(t, testenv.ProxyStore11), append([]string{"-W", "ignore", "-c", script}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

const clientScript = `
import os, sys, uuid
import requests
from proxystore.endpoint import client
from proxystore.connectors.endpoint import EndpointConnector, EndpointConnectorError
from proxystore.store import Store

home, address, me = sys.argv[1:4]
session = requests.Session()
for s in (None, session):
    for size in (1, 1000, 10**6, 10**6 + 1) + ((20 * 10**6,) if s else ()):
        data = os.urandom(size)
        key = str(uuid.uuid4())
        for at in (None, me, uuid.UUID(me)) if size < 10**7 else (me,):
            assert client.get(address, key, at, s) is None
            assert client.exists(address, key, at, s) is False
            client.put(address, key, data, at, s)
            assert client.exists(address, key, at, s) is True
            assert client.get(address, key, at, s) == data, size
            client.evict(address, key, at, s)
            client.evict(address, key, at, s)
            assert client.exists(address, key, at, s) is False
# What Python's own endpoint answers with a code is a code here, and the connection goes on.
for key, data, at, code in (('k', b'', None, 400), ('k', b'x', 'junk', 400), ('k', os.urandom(30 * 10**6), None, 413)):
    try:
        client.put(address, key, data, at, session)
    except requests.exceptions.RequestException as e:
        assert e.response is not None and e.response.status_code == code, (code, e)
    else:
        raise AssertionError(code)
    assert client.exists(address, 'k', None, session) is False
for key in ('a b', 'a+b', 'a/b?c&d=e#f', 'ü€😀', '%41', ' ', '\n'):
    client.put(address, key, key.encode(), None, session)
    assert client.get(address, key, None, session) == key.encode(), key
    client.evict(address, key, None, session)

with EndpointConnector([me], proxystore_dir=home) as c:
    keys = c.put_batch([b'1', b'22', bytearray(b'333')])
    assert [bytes(b) for b in c.get_batch(keys)] == [b'1', b'22', b'333']
    key = c.new_key()
    assert not c.exists(key) and c.get(key) is None
    c.set(key, b'later')
    assert c.exists(key) and c.get(key) == b'later'
    for k in keys + [key]:
        c.evict(k)
        assert not c.exists(k)
    try:
        c.put(b'')
    except EndpointConnectorError as e:
        assert '400' in str(e)
    else:
        raise AssertionError('empty')
with Store('s', EndpointConnector([me], proxystore_dir=home), register=False) as store:
    value = {'x': list(range(1000)), 'y': b'z' * 10**6}
    assert store.get(store.put(value)) == value
print('all right')
`

// TestPythonClient: ProxyStore's own client, connector and store, on our endpoint.
func TestPythonClient(t *testing.T) {
	for _, database := range []string{"", config.DatabaseFile} {
		home, _ := configure(t, func(c *config.Config) { c.Storage.DatabasePath, c.Storage.MaxObjectSize = database, 20_000_000 })
		d, err := start(t, home, RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if out := runPython(t, clientScript, home, d.addrs[0], d.cfg.UUID); !strings.Contains(out, "all right") {
			t.Error(out)
		}
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	}
}

// pythonEndpoint starts ProxyStore's endpoint on a directory of ours.
func pythonEndpoint(t *testing.T, home string) (url string, stop func()) {
	t.Helper()
	cfg, err := config.Read(filepath.Join(home, "ep"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testenv.Python(t, testenv.ProxyStore11), "-W", "ignore", "-c", "from proxystore.endpoint.cli import cli; cli()", "start", "--no-detach", "ep")
	cmd.Env = append(os.Environ(), "PROXYSTORE_HOME="+home)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	stop = func() {
		begin := time.Now()
		defer func() { t.Log("Python ended after", time.Since(begin)) }()
		cmd.Process.Signal(syscall.SIGTERM)
		patience := time.NewTimer(10 * time.Second)
		defer patience.Stop()
		select {
		case <-ended:
		case <-patience.C:
			cmd.Process.Kill()
			<-ended
		}
	}
	t.Cleanup(stop)
	url = "http://127.0.0.1:" + strconv.Itoa(cfg.Port)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get(url + "/"); err == nil {
			resp.Body.Close()
			http.DefaultClient.CloseIdleConnections()
			return url, stop
		}
		select {
		case <-ended:
			t.Fatalf("Python's endpoint ended:\n%s", log.String())
		default:
		}
		if time.Now().After(deadline) {
			stop()
			t.Fatalf("Python's endpoint does not answer:\n%s", log.String())
		}
	}
}

// TestSameAnswersAsPython: status and text of odd requests, one by one, from ProxyStore's endpoint and ours; and either goes on with the directory of the
// other.
func TestSameAnswersAsPython(t *testing.T) {
	// An absolute path: with --no-detach Python takes a relative one from where it was started.
	home, _ := configure(t, func(c *config.Config) { c.Storage.DatabasePath = filepath.Join(t.TempDir(), config.DatabaseFile) })
	type request struct {
		method, path string
		body         string // "" none, "-" an empty one in chunks
		codeOnly     bool   // the text is the framework's
	}
	cfg, err := config.Read(filepath.Join(home, "ep"))
	if err != nil {
		t.Fatal(err)
	}
	other := goneID.String()
	requests := []request{
		{"GET", "/", "", false}, {"HEAD", "/", "", false}, {"POST", "/", "x", true}, {"OPTIONS", "/", "", false}, {"GET", "/nothing", "", true}, {"GET", "/get/", "", true},
		{"POST", "/endpoint", "", true}, {"DELETE", "/get?key=k", "", true}, {"PUT", "/set?key=k", "x", true}, {"GET", "/set?key=k", "", true}, {"GET", "/evict?key=k", "", true},
		{"POST", "/get?key=k", "x", true}, {"POST", "/exists?key=k", "x", true},
		{"GET", "/get", "", false}, {"GET", "/exists", "", false}, {"POST", "/set", "x", false}, {"POST", "/set", "", false}, {"POST", "/evict", "", false},
		{"GET", "/get?key", "", false}, {"GET", "/get?key=", "", false}, {"GET", "/exists?key=", "", false}, {"POST", "/evict?key=", "", false}, {"GET", "/get?Key=k", "", false},
		{"GET", "/get?key=k&endpoint=x", "", false}, {"GET", "/get?key=k&endpoint=", "", false}, {"GET", "/get?key=k&endpoint", "", false},
		{"GET", "/exists?key=k&endpoint=%3Cb%3E", "", false}, {"POST", "/set?key=k&endpoint=" + other[1:], "x", false}, {"POST", "/evict?key=k&endpoint=" + other + "0", "", false},
		{"GET", "/exists?key=k&endpoint=%7B" + strings.ReplaceAll(other, "-", "") + "%7D", "", false}, {"GET", "/exists?key=k&endpoint=urn:uuid:" + other, "", false},
		{"POST", "/set?key=k", "", false}, {"POST", "/set?key=k", "-", false}, {"POST", "/set?key=k&endpoint=x", "", false},
		{"POST", "/set?key=k", "first", false}, {"GET", "/get?key=k", "", false}, {"HEAD", "/get?key=k", "", false}, {"GET", "/exists?key=k", "", false}, {"HEAD", "/exists?key=k", "", false},
		{"POST", "/set?key=k", "second", false}, {"GET", "/get?key=k&key=other", "", false}, {"GET", "/get?key=other&key=k", "", false}, {"GET", "/get?x=1&&key=k&", "", false},
		{"GET", "/get?key=k&endpoint=" + cfg.UUID, "", false}, {"GET", "/get?key=k&endpoint=" + other, "", false}, // without peers every one is this one
		{"POST", "/set?key=a+b%20c%2Bd%c3%bc%ff%zz%e2%82", "odd", false}, {"GET", "/get?key=a%20b+c%2bd%C3%BC%FF%zz%e2%82", "", false}, {"GET", "/get?key=a%20b+c%2bd%C3%BC%25FF%zz%25E2%2582", "", false},
		{"POST", "/set?key=x;y=z", "semicolon", false}, {"GET", "/get?key=x%3By%3Dz", "", false}, {"GET", "/get?key=a=b", "", false},
		{"POST", "/evict?key=k", "", false}, {"POST", "/evict?key=k", "body", false}, {"GET", "/get?key=k", "", false}, {"GET", "/exists?key=k", "", false},
		{"POST", "/set?key=stays", "theirs", false},
	}
	type result struct {
		code int
		text string
	}
	ask := func(url string) []result {
		var all []result
		for _, r := range requests {
			var body io.Reader
			switch r.body {
			case "":
			case "-":
				body = chunked(nil)
			default:
				body = strings.NewReader(r.body)
			}
			code, text := fetch(t, &http.Transport{}, r.method, url+r.path, body, "")
			all = append(all, result{code, text})
		}
		return all
	}
	url, stop := pythonEndpoint(t, home)
	theirs := ask(url)
	large := random(3 << 20)
	if code, _ := fetch(t, &http.Transport{}, "POST", url+"/set?key=large", bytes.NewReader(large), ""); code != 200 {
		t.Error(code)
	}
	stop()
	d, err := start(t, home, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, text := fetch(t, &http.Transport{}, "GET", d.addrs[0]+"/get?key=stays", nil, ""); text != "theirs" {
		t.Errorf("%q is not what Python has stored", text)
	}
	if _, text := fetch(t, &http.Transport{}, "GET", d.addrs[0]+"/get?key=large", nil, ""); text != string(large) {
		t.Errorf("%d bytes are not what Python has stored", len(text))
	}
	for _, odd := range []string{"/evict?key=stays", "/evict?key=x;y=z", "/evict?key=a%20b+c%2bd%C3%BC%FF%zz%e2%82"} {
		fetch(t, &http.Transport{}, "POST", d.addrs[0]+odd, nil, "")
	}
	for i, ours := range ask(d.addrs[0]) {
		if r := requests[i]; ours.code != theirs[i].code || !r.codeOnly && ours.text != theirs[i].text {
			t.Errorf("%s %s %q: %v, Python %v", r.method, r.path, r.body, ours, theirs[i])
		}
	}
	if code, _ := fetch(t, &http.Transport{}, "POST", d.addrs[0]+"/set?key=stays", strings.NewReader("ours"), ""); code != 200 {
		t.Error(code)
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
	url, stop = pythonEndpoint(t, home)
	if _, text := fetch(t, &http.Transport{}, "GET", url+"/get?key=stays", nil, ""); text != "ours" {
		t.Errorf("Python finds %q", text)
	}
	stop()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
