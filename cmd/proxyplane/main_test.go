package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
)

// binary is the real program, which the tests run as scripts do.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "proxyplane-cli-test-")
	if err == nil {
		binary = filepath.Join(dir, "proxyplane")
		cmd := exec.Command("go", "build", "-o", binary, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// result is what one run of the program gave.
type result struct {
	code     int
	out, err string
}

// env is a test's own place: a store, a working directory, and a temporary directory that must be empty afterwards.
type env struct {
	t       *testing.T
	dir     string // working directory
	objects string
	tmp     string
	vars    []string
}

func newEnv(t *testing.T) *env {
	t.Helper()
	dir := t.TempDir()
	e := &env{t: t, dir: dir, objects: filepath.Join(dir, "objects"), tmp: filepath.Join(dir, "tmp")}
	if err := os.Mkdir(e.tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := proxyplane.NewConfig("cli-test", proxyplane.FileConnector(e.objects))
	if err := proxyplane.WriteConfig(filepath.Join(dir, "s.toml"), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := filepath.Glob(filepath.Join(dir, "*.tmp-*"))
		hidden, _ := filepath.Glob(filepath.Join(dir, ".*.tmp-*"))
		inTmp, _ := filepath.Glob(filepath.Join(e.tmp, "*"))
		if left = append(append(left, hidden...), inTmp...); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v (%v)", left, err)
		}
	})
	return e
}

func (e *env) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), "TMPDIR="+e.tmp, "PROXYPLANE_STORE=s.toml", "PROXYPLANE_ALLOW_HOSTS=", "PROXYPLANE_ALLOW_DIRS=", "PROXYPLANE_ALLOW_KINDS=")
	cmd.Env = append(cmd.Env, e.vars...)
	return cmd
}

// run runs the program with that standard input.
func (e *env) run(stdin string, args ...string) result {
	e.t.Helper()
	cmd := e.command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		e.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// ok runs the program and wants success without a word on standard error.
func (e *env) ok(stdin string, args ...string) string {
	e.t.Helper()
	r := e.run(stdin, args...)
	if r.code != 0 || r.err != "" {
		e.t.Fatalf("proxyplane %q: exit code %d, %s", args, r.code, r.err)
	}
	return r.out
}

// fails runs the program and wants that exit code, a message with these words, nothing on standard output and no usage text.
func (e *env) fails(code int, words string, stdin string, args ...string) {
	e.t.Helper()
	r := e.run(stdin, args...)
	if r.code != code || !strings.Contains(r.err, words) {
		e.t.Errorf("proxyplane %q: exit code %d and %q, want %d and ...%s...", args, r.code, r.err, code, words)
	}
	if r.out != "" || strings.Contains(r.err, "Usage:") || strings.Contains(r.err, "goroutine ") {
		e.t.Errorf("proxyplane %q also says: %s%s", args, r.out, r.err)
	}
}

func (e *env) write(name, content string) {
	e.t.Helper()
	if err := os.WriteFile(filepath.Join(e.dir, name), []byte(content), 0o600); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) read(name string) string {
	e.t.Helper()
	data, err := os.ReadFile(filepath.Join(e.dir, name))
	if err != nil {
		e.t.Fatal(err)
	}
	return string(data)
}

// stored returns the names of whole objects in the store's directory, and fails if there is anything else that a reader could see.
func (e *env) stored() []string {
	e.t.Helper()
	ready, err := filepath.Glob(filepath.Join(e.objects, "*.ready"))
	if err != nil {
		e.t.Fatal(err)
	}
	return ready
}

// store opens the test's store in this process.
func (e *env) store() *proxyplane.Store {
	e.t.Helper()
	cfg, err := proxyplane.ReadConfig(filepath.Join(e.dir, "s.toml"))
	if err != nil {
		e.t.Fatal(err)
	}
	s, err := proxyplane.Open(e.t.Context(), cfg)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() {
		if err := s.CloseClear(e.t.Context(), false); err != nil && e.t.Context().Err() == nil {
			e.t.Error(err)
		}
	})
	return s
}

func unmarshal[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	dec := json.NewDecoder(strings.NewReader(text))
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Fatalf("more than one JSON value: %s", text)
	}
	return v
}

// keyOf reads put's line.
func keyOf(t *testing.T, line string) connectors.Key {
	t.Helper()
	key, err := connectors.UnmarshalKey([]byte(line), "")
	if err != nil {
		t.Fatal(err)
	}
	return key
}
