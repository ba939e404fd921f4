package config

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

// endpointIn makes an endpoint on a static address.
func endpointIn(t *testing.T, home, name string) (dir string) {
	t.Helper()
	if _, err := Configure(home, name, Options{Host: "127.0.0.1", Port: freePort(t)}); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(home, name)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func writePID(t *testing.T, dir, content string) string {
	t.Helper()
	path := filepath.Join(dir, PIDFile)
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// deadPID is a number that no process has any more.
func deadPID(t *testing.T) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestConfigure(t *testing.T) {
	home := filepath.Join(t.TempDir(), "new")
	c, err := Configure(home, "ep", Options{Persist: true, Relay: DefaultRelay, RelayAuth: true, PeerChannels: 3})
	if err != nil {
		t.Fatal(err)
	}
	if c.Port < 10240 || c.Port > 20480 || c.HostType != HostIP || c.Host != "" || c.Relay.Auth.Method != "globus" || c.Relay.PeerChannels != 3 ||
		c.Storage.DatabasePath != filepath.Join(home, "ep", DatabaseFile) {
		t.Errorf("%+v", c)
	}
	if _, err := Configure(home, "ep", Options{}); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	for _, bad := range []Options{{Port: -1}, {PeerChannels: -1}, {Relay: "http://x"}} {
		if _, err := Configure(home, "bad", bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, name := range []string{"", "..", "a/b", "a b"} {
		if _, err := Configure(home, name, Options{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	all, err := List(home)
	if err != nil || len(all) != 1 || all[0].Dir != filepath.Join(home, "ep") || all[0].Config.UUID != c.UUID {
		t.Errorf("%+v, %v", all, err)
	}
	for host, want := range map[string]string{" IP ": HostIP, "fqdn": HostFQDN, "10.1.2.3": HostStatic} {
		c, err := New(home, "x", Options{Host: host})
		if err != nil || c.HostType != want || (c.Host != "") != (want == HostStatic) {
			t.Errorf("%q: %+v, %v", host, c, err)
		}
	}
}

func TestStatuses(t *testing.T) {
	home := t.TempDir()
	check := func(name string, want Status) {
		t.Helper()
		if got := GetStatus(home, name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	check("none", Unknown)
	if err := os.Mkdir(filepath.Join(home, "empty"), 0o777); err != nil {
		t.Fatal(err)
	}
	check("empty", Unknown)
	dir := endpointIn(t, home, "ep")
	check("ep", Stopped)
	writePID(t, dir, strconv.Itoa(os.Getpid())+"\n")
	check("ep", Running)
	writePID(t, dir, strconv.Itoa(deadPID(t)))
	check("ep", Hanging)
	for _, junk := range []string{"", "x", "0", "-1", "99999999999999999999"} {
		writePID(t, dir, junk)
		check("ep", Hanging)
	}
	if s := []string{Unknown.String(), Running.String(), Stopped.String(), Hanging.String()}; strings.Join(s, " ") != "UNKNOWN RUNNING STOPPED HANGING" {
		t.Error(s)
	}
}

// TestReusedNumber: a process that is younger than the pid file did not write it.
func TestReusedNumber(t *testing.T) {
	if runtime.GOOS != "linux" {
		return
	}
	home := t.TempDir()
	dir := endpointIn(t, home, "ep")
	path := writePID(t, dir, strconv.Itoa(os.Getpid()))
	old := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	if got := GetStatus(home, "ep"); got != Hanging {
		t.Error(got)
	}
	if stopped, err := Stop(t.Context(), home, "ep", time.Second); stopped || err != nil { // and so this process lives on
		t.Error(stopped, err)
	}
	if got := GetStatus(home, "ep"); got != Stopped {
		t.Error(got)
	}
}

func TestPrepare(t *testing.T) {
	home := t.TempDir()
	if _, _, err := Prepare(t.Context(), home, "none"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	if _, _, err := Prepare(t.Context(), home, "../x"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	dir := endpointIn(t, home, "ep")
	got, c, err := Prepare(t.Context(), home, "ep")
	if err != nil || got != dir || c.Host != "127.0.0.1" {
		t.Fatal(got, c, err)
	}
	path := writePID(t, dir, strconv.Itoa(os.Getpid()))
	if _, _, err := Prepare(t.Context(), home, "ep"); !errors.Is(err, ErrRunning) {
		t.Error(err)
	}
	writePID(t, dir, strconv.Itoa(deadPID(t))) // died here
	if _, _, err := Prepare(t.Context(), home, "ep"); err != nil {
		t.Error(err)
	}

	// An address that was found is written back; one that is another host's stops us if there is a pid file.
	c.HostType, c.Host = HostIP, "192.0.2.1"
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	writePID(t, dir, strconv.Itoa(deadPID(t)))
	if _, _, err := Prepare(t.Context(), home, "ep"); !errors.Is(err, ErrOtherHost) || !strings.Contains(err.Error(), "192.0.2.1") || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	if _, err := Stop(t.Context(), home, "ep", 0); !errors.Is(err, ErrOtherHost) {
		t.Error(err)
	}
	if err := Remove(home, "ep"); !errors.Is(err, ErrRunning) {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	host, err := Config{HostType: HostIP}.ResolveHost(t.Context())
	if err != nil {
		t.Fatal(err) // the machine does not know its own name; Python could not start either
	}
	if _, c, err = Prepare(t.Context(), home, "ep"); err != nil || c.Host != host {
		t.Error(c.Host, err)
	}
	if again, err := Read(dir); err != nil || again.Host != host {
		t.Error(again.Host, err)
	}

	c.HostType, c.Host = HostStatic, ""
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Prepare(t.Context(), home, "ep"); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "missing static host") {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigFile), []byte(strings.Replace(minimal(""), "1234", "0", 1)), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Prepare(t.Context(), home, "ep"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "[1, 65535]") {
		t.Error(err)
	}
}

// TestPrepareKeepsComments: a start that changes nothing leaves the file as its owner wrote it.
func TestPrepareKeepsComments(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, "ep")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	text := minimal("# mine\nhost_type = \"static\"\nhost = \"127.0.0.1\"\n")
	if err := os.WriteFile(filepath.Join(dir, ConfigFile), []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Prepare(t.Context(), home, "ep"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, ConfigFile)); err != nil || string(got) != text {
		t.Errorf("%v: %s", err, got)
	}
}

func TestWritePID(t *testing.T) {
	home := t.TempDir()
	dir := endpointIn(t, home, "ep")
	remove, err := WritePID(dir)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := readPID(filepath.Join(dir, PIDFile)); err != nil || pid != os.Getpid() || GetStatus(home, "ep") != Running {
		t.Error(pid, err)
	}
	if _, err := WritePID(dir); !errors.Is(err, ErrRunning) {
		t.Error(err)
	}
	if err := errors.Join(remove(), remove()); err != nil || GetStatus(home, "ep") != Stopped {
		t.Error(err)
	}
	path := writePID(t, dir, strconv.Itoa(deadPID(t)))
	if remove, err = WritePID(dir); err != nil {
		t.Fatal(err)
	}
	writePID(t, dir, "1") // somebody else's by now
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("removed another's file:", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}

// TestWritePIDRace: of many that find a stale file at once, one wins.
func TestWritePIDRace(t *testing.T) {
	home := t.TempDir()
	dir := endpointIn(t, home, "ep")
	dead := strconv.Itoa(deadPID(t))
	for range 20 {
		path := writePID(t, dir, dead)
		var wg sync.WaitGroup
		var mu sync.Mutex
		wins := 0
		for range 8 {
			wg.Go(func() {
				_, err := WritePID(dir)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					wins++
				} else if !errors.Is(err, ErrRunning) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if wins != 1 {
			t.Errorf("%d won", wins)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRemove(t *testing.T) {
	home := t.TempDir()
	dir := endpointIn(t, home, "ep")
	if err := Remove(home, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := Remove(home, "."); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	writePID(t, dir, strconv.Itoa(os.Getpid()))
	if err := Remove(home, "ep"); !errors.Is(err, ErrRunning) {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, PIDFile)); err != nil {
		t.Fatal(err)
	}
	if err := Remove(home, "ep"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestHelperProcess is not a test: Stop's tests run it as a process that ends, or does not, when it is asked.
func TestHelperProcess(t *testing.T) {
	switch os.Getenv("PROXYPLANE_TEST_HELPER") {
	case "stubborn":
		ignoreTerm()
		fallthrough
	case "obedient", "misconfigured":
		os.Stdout.WriteString("ready\n")
		time.Sleep(time.Minute)
	}
}

func TestStop(t *testing.T) {
	home := t.TempDir()
	dir := endpointIn(t, home, "ep")
	if _, err := Stop(t.Context(), home, "none", 0); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	if stopped, err := Stop(t.Context(), home, "ep", 0); stopped || err != nil {
		t.Error(stopped, err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	for _, kind := range []string{"obedient", "misconfigured", "stubborn"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHelperProcess$")
		cmd.Env = append(os.Environ(), "PROXYPLANE_TEST_HELPER="+kind)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { cmd.Wait(); close(ended) }()
		path := writePID(t, dir, strconv.Itoa(cmd.Process.Pid))
		grace := time.Minute
		file := filepath.Join(dir, ConfigFile)
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if kind == "misconfigured" {
			if err := os.WriteFile(file, []byte("port = ["), 0o600); err != nil {
				t.Fatal(err)
			}
			if s := GetStatus(home, "ep"); s != Unknown {
				t.Error(s)
			}
			if err := Remove(home, "ep"); !errors.Is(err, ErrRunning) {
				t.Error(err)
			}
		}
		if kind == "stubborn" {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if _, err := Stop(ctx, home, "ep", grace); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			cancel()
			grace = 50 * time.Millisecond
		}
		if stopped, err := Stop(t.Context(), home, "ep", grace); !stopped || err != nil {
			t.Error(kind, stopped, err)
		}
		if err := os.WriteFile(file, before, 0o600); err != nil {
			t.Fatal(err)
		}
		<-ended
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Error(kind, err)
		}
	}
}

// TestWithPythonsDaemon: we see, and stop, an endpoint that Python started, and Python sees what we do.
func TestWithPythonsDaemon(t *testing.T) {
	interpreter := testenv.Python(t, testenv.ProxyStore11)
	home := t.TempDir()
	cli := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), interpreter, append([]string{"-W", "ignore", "-c",
			"from proxystore.endpoint.cli import cli; cli()"}, args...)...)
		cmd.Env = append(os.Environ(), "PROXYSTORE_HOME="+home)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	dir := endpointIn(t, home, "ours")
	if out := cli("list"); !strings.Contains(out, "ours") || !strings.Contains(out, "STOPPED") {
		t.Error(out)
	}
	cli("start", "ours")
	deadline := time.Now().Add(30 * time.Second)
	for GetStatus(home, "ours") != Running {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(dir, LogFile))
			t.Fatalf("%v\n%s", GetStatus(home, "ours"), log)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, _, err := Prepare(t.Context(), home, "ours"); !errors.Is(err, ErrRunning) {
		t.Error(err)
	}
	if stopped, err := Stop(t.Context(), home, "ours", 0); !stopped || err != nil {
		t.Error(stopped, err)
	}
	remove, err := WritePID(dir) // as if we ran it
	if err != nil {
		t.Fatal(err)
	}
	var got [2]string
	python(t, &got, `
import sys, json, os
from proxystore.endpoint.commands import get_status
a = get_status('ours', sys.argv[1]).name
os.remove(os.path.join(sys.argv[1], 'ours', 'daemon.pid'))
b = get_status('ours', sys.argv[1]).name
print(json.dumps([a, b]))
`, home)
	if got != [2]string{"RUNNING", "STOPPED"} {
		t.Error(got)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if got, want := fqdnAndIP(t); got != want {
		t.Errorf("addresses of this host: %v, Python %v", got, want)
	}
}

func fqdnAndIP(t *testing.T) (ours, theirs [2]string) {
	t.Helper()
	python(t, &theirs, "import json, socket; print(json.dumps([socket.getfqdn(), socket.gethostbyname(socket.gethostname())]))")
	for i, kind := range []string{HostFQDN, HostIP} {
		h, err := Config{HostType: kind}.ResolveHost(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ours[i] = h
	}
	return ours, theirs
}
