package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
)

func TestConfigCommands(t *testing.T) {
	e := newEnv(t)
	e.ok("", "config", "new", "--kind", "file", "--option", "store_dir=here", "-o", "n.toml")
	cfg, err := proxyplane.ReadConfig(filepath.Join(e.dir, "n.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if dir := cfg.Connector.Options["store_dir"]; dir != filepath.Join(e.dir, "here") || cfg.Connector.Options["clear"] != false || !strings.HasPrefix(cfg.Name, "file-") {
		t.Errorf("new wrote %+v", cfg)
	}
	if info, err := os.Stat(filepath.Join(e.dir, "n.toml")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	e.fails(exitUsage, "exists; use --force", "", "config", "new", "--kind", "file", "--option", "store_dir=x", "-o", "n.toml")
	e.ok("", "config", "new", "--kind", "file", "--option", "store_dir=x", "-o", "n.toml", "--force")
	e.fails(exitUsage, "no --kind", "", "config", "new")
	e.fails(exitUsage, "unknown connector kind", "", "config", "new", "--kind", "carrier-pigeon")
	e.fails(exitUsage, "NAME=VALUE", "", "config", "new", "--kind", "file", "--option", "store_dir")
	e.fails(exitUsage, "store_dir", "", "config", "new", "--kind", "file")
	e.fails(exitUsage, "bogus", "", "config", "new", "--kind", "file", "--option", "store_dir=x", "--option", "bogus=1")
	e.fails(exitUnavailable, "", "", "config", "new", "--kind", "globus")

	if out := e.ok("", "config", "check"); !strings.Contains(out, "ok: configuration, open, put, exists, get, evict") || len(e.stored()) != 0 {
		t.Errorf("check: %s, left %v", out, e.stored())
	}
	check := unmarshal[struct {
		OK      bool
		Checked []string
	}](t, e.ok("", "config", "check", "--json", "--offline"))
	if !check.OK || len(check.Checked) != 1 {
		t.Errorf("check --offline --json: %+v", check)
	}
	e.write("broken.toml", "name = \"x\"\n[connector\n")
	e.fails(exitUsage, "broken.toml", "", "config", "check", "-s", "broken.toml")
	e.write("typo.toml", "name = \"x\"\ncolour = 1\n[connector]\nkind = \"file\"\n[connector.options]\nstore_dir = \"/tmp\"\n")
	e.fails(exitUsage, "unknown keys colour", "", "config", "check", "-s", "typo.toml")

	e.write("redis.toml", "name = \"r\"\n[connector]\nkind = \"redis\"\n[connector.options]\nhostname = \"127.0.0.1\"\nport = 1\npassword = \"hunter2\"\n")
	e.write("multi.toml", `name = "m"
[connector]
kind = "multi"
[connector.options]
small = ["redis", {hostname = "127.0.0.1", port = 1, password = "hunter2"}, {priority = 1}]
`)
	for _, file := range []string{"redis.toml", "multi.toml"} {
		for _, args := range [][]string{{"config", "show", "-s", file}, {"config", "show", "--json", "-s", file}} {
			if out := e.ok("", args...); strings.Contains(out, "hunter2") || !strings.Contains(out, redacted) {
				t.Errorf("%q: %s", args, out)
			}
		}
		r := e.run("", "config", "check", "-s", file)
		if r.code != exitUnavailable || strings.Contains(r.out+r.err, "hunter2") {
			t.Errorf("check of a server that is not there: %+v", r)
		}
	}
}

func TestDoctorAndVersion(t *testing.T) {
	e := newEnv(t)
	d := unmarshal[diagnosis](t, e.ok("", "doctor", "--json"))
	var kinds []string
	for _, c := range d.Connectors {
		kinds = append(kinds, c.Kind)
		if !c.Yes && c.Note == "" {
			t.Errorf("nothing says why %s is missing", c.Kind)
		}
		if c.Kind == "file" && !c.Yes {
			t.Error("no file connector")
		}
	}
	for _, k := range connectors.KnownKinds() {
		if !slices.Contains(kinds, k) {
			t.Errorf("doctor does not mention %s", k)
		}
	}
	if len(d.Libraries) == 0 || len(d.Python) == 0 || d.Version.Go == "" {
		t.Errorf("doctor: %+v", d)
	}
	if out := e.ok("", "doctor"); !strings.Contains(out, "connectors\n") || !strings.Contains(out, "libraries\n") {
		t.Errorf("doctor: %s", out)
	}
	if out := e.ok("", "version"); !strings.HasPrefix(out, "proxyplane ") {
		t.Errorf("version: %s", out)
	}
	if v := unmarshal[buildVersion](t, e.ok("", "version", "--json")); v.Cgo {
		t.Errorf("built with CGO_ENABLED=0: %+v", v)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := e.ok("", "completion", shell); len(out) < 1000 {
			t.Errorf("completion for %s: %s", shell, out)
		}
	}
	if r := e.run("", "__complete", "put", "--as", ""); r.code != 0 || !strings.Contains(r.out, "npy\n") {
		t.Errorf("completion of --as: %+v", r)
	}
}

func TestHelp(t *testing.T) {
	e := newEnv(t)
	if out := e.ok(""); !strings.Contains(out, "proxyplane demo") {
		t.Errorf("no arguments: %s", out)
	}
	topic := e.ok("", "help", "exit-codes")
	for _, c := range exitCodes {
		if !strings.Contains(topic, fmt.Sprintf("%3d  %s", c.code, c.class)) {
			t.Errorf("help exit-codes lacks %d: %s", c.code, topic)
		}
	}
	doc, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range exitCodes {
		if !strings.Contains(string(doc), fmt.Sprintf("| %d | %s |", c.code, c.class)) {
			t.Errorf("docs/cli.md lacks exit code %d", c.code)
		}
	}
	for _, c := range newApp().root().Commands() {
		if !c.Hidden && c.Runnable() && !strings.Contains(string(doc), "`"+c.Name()) && !strings.Contains(string(doc), "`proxyplane "+c.Name()) {
			t.Errorf("docs/cli.md lacks the command %s", c.Name())
		}
	}
	e.fails(exitUsage, "unknown command", "", "frobnicate")
	e.fails(exitUsage, "see proxyplane get --help", "", "get", "--bogus")
	e.fails(exitUsage, "demo-worker", "", "demo-worker", "x")
}

// TestKillDuringPut kills puts at random moments: what is in the store afterwards is whole.
func TestKillDuringPut(t *testing.T) {
	e := newEnv(t)
	content := strings.Repeat("0123456789abcdef", 1<<20)
	e.write("in", content)
	s := e.store()
	// Without its last byte an object must never appear.
	cmd := e.command("put", "-")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, content); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if left := e.stored(); len(left) > 0 {
		t.Fatalf("an unfinished object is visible: %v", left)
	}
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, seed))
	for i := range 12 {
		cmd := e.command("put", "in")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		for _, ready := range e.stored() {
			name := strings.TrimSuffix(filepath.Base(ready), ".ready")
			got, err := proxyplane.Get[string](t.Context(), s, connectors.FileKey{Filename: name})
			if err == nil && got != content {
				err = fmt.Errorf("%d bytes, put %d", len(got), len(content))
			}
			if err != nil {
				t.Fatalf("run %d, seed %d: object %s: %v", i, seed, name, err)
			}
		}
	}
}

// signalled starts the program, sends a signal once ready says so, and returns the exit code.
func signalled(t *testing.T, cmd *exec.Cmd, sig os.Signal, ready func()) (code int, stderr string) {
	t.Helper()
	var errOut strings.Builder
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready()
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	return cmd.ProcessState.ExitCode(), errOut.String()
}

func TestSignals(t *testing.T) {
	e := newEnv(t)
	for sig, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		// A put that waits for more input.
		cmd := e.command("put", "-")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		code, msg := signalled(t, cmd, sig, func() { io.WriteString(in, strings.Repeat("x", 4<<20)) })
		if code != want || !strings.Contains(msg, "nothing half-written") {
			t.Errorf("put and %v: exit code %d, %s", sig, code, msg)
		}
	}
	left, err := os.ReadDir(e.objects)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the store: %v (%v)", left, err)
	}

	// A resolve that waits for a future's value, with -o.
	f, err := proxyplane.NewFuture[string](t.Context(), e.store(), proxyplane.Polling{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := f.Proxy().Pickle()
	if err != nil {
		t.Fatal(err)
	}
	cmd := e.command("resolve", "-", "-o", "out")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	code, msg := signalled(t, cmd, syscall.SIGTERM, func() {
		in.Write(data)
		in.Close()
		time.Sleep(100 * time.Millisecond)
	})
	if code != 143 {
		t.Errorf("resolve and SIGTERM: exit code %d, %s", code, msg)
	}
	if _, err := os.Stat(filepath.Join(e.dir, "out")); err == nil {
		t.Error("an output file was written")
	}
}

func TestDemo(t *testing.T) {
	e := newEnv(t)
	out := e.ok("", "demo", "--size", "2", "--dir", e.tmp)
	for _, want := range []string{"zones.json", "transitions.npy", "ndarray", "0 of 3.1 MiB have moved", "woken by an event", "nothing is left behind", "Try next"} {
		if !strings.Contains(out, want) {
			t.Errorf("demo lacks %q:\n%s", want, out)
		}
	}
	e.write("mine.csv", "a,b\n1,2\n")
	e.write("mine.bin", "\x00\xff")
	e.write("broken.npy", "no array")
	e.write("empty", "")
	r := unmarshal[demoReport](t, e.ok("", "demo", "--json", "--size", "1", "mine.csv", "mine.bin", "broken.npy", "empty"))
	if !r.Clean || !r.Evicted || r.Checked != 5*3+3 || len(r.Files) != 5 || r.Received.Proxies != 5 || r.Received.Bytes == 0 || r.Range.Bytes != 4096 {
		t.Errorf("demo --json: %+v", r)
	}
	if _, err := os.Stat(r.Dir); err == nil {
		t.Errorf("%s is still there", r.Dir)
	}
	for _, f := range r.Files {
		if want := map[string]string{"mine.csv": "str", "mine.bin": "bytes", "broken.npy": "bytes", "empty": "bytes"}[f.Name]; want != "" && f.Type != want {
			t.Errorf("%s is %s, want %s", f.Name, f.Type, want)
		}
	}
	e.fails(exitIO, "no such file", "", "demo", "missing")
	e.fails(exitUsage, "--size", "", "demo", "--size", "0")
	r2 := e.run("", "demo", "--size", "1", "--dir", e.tmp, "--python", filepath.Join(e.dir, "no-python"))
	if r2.code != exitUnavailable || !strings.Contains(r2.err, "pip install proxystore") {
		t.Errorf("demo without Python: %+v", r2)
	}
}

// TestDemoWithoutReader closes the pipe that the demonstration prints to, as head does.
func TestDemoWithoutReader(t *testing.T) {
	e := newEnv(t)
	cmd := e.command("demo", "--size", "1", "--dir", e.tmp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var msg strings.Builder
	cmd.Stderr = &msg
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Read(make([]byte, 1))
	out.Close()
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitPipe || msg.Len() > 0 {
		t.Errorf("exit code %d, %s", code, msg.String())
	}
	if left, _ := os.ReadDir(e.tmp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDemoInterrupted interrupts the demonstration in the middle: nothing stays, neither files nor the second process.
func TestDemoInterrupted(t *testing.T) {
	e := newEnv(t)
	cmd := e.command("demo", "--size", "1", "--dir", e.tmp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	code, msg := signalled(t, cmd, syscall.SIGINT, func() {
		var seen strings.Builder
		buf := make([]byte, 4096)
		for !strings.Contains(seen.String(), "does not exist yet") { // it now waits for the future
			n, err := out.Read(buf)
			if err != nil {
				t.Error(err)
				return
			}
			seen.Write(buf[:n])
		}
	})
	if code != 130 {
		t.Errorf("exit code %d: %s", code, msg)
	}
	if left, _ := os.ReadDir(e.tmp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
