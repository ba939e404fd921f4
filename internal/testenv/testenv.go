// Package testenv finds what tests need beside Go: redis-server, python3, and the Python environments that scripts/setup makes. `go test ./...`
// is green anywhere with a Go toolchain, so a test whose need is not there is skipped with a word on how to get it. Under PROXYPLANE_REQUIRE=1,
// which scripts/test sets after installing everything, it fails instead.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// Versions of ProxyStore with an environment of their own.
const (
	ProxyStore11 = "1.1" // 1.1.0, with proxystore-ex 0.1.5, NumPy, pandas, polars, dill, cloudpickle, redis
	ProxyStore06 = "0.6" // 0.6.5, with NumPy, dill, cloudpickle, redis
)

// Root returns the directory of the module.
var Root = sync.OnceValue(func() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
})

// Python returns the interpreter of the environment for that version of ProxyStore. PROXYPLANE_PYTHON_1_1 and PROXYPLANE_PYTHON_0_6 name another.
func Python(t testing.TB, version string) string {
	t.Helper()
	env := map[string]string{ProxyStore11: "PROXYPLANE_PYTHON_1_1", ProxyStore06: "PROXYPLANE_PYTHON_0_6"}[version]
	if p := os.Getenv(env); p != "" {
		return p
	}
	p := filepath.Join(Root(), ".venv-"+version, "bin", "python")
	if _, err := os.Stat(p); err != nil {
		missing(t, "no Python environment with ProxyStore "+version+" (run ./scripts/setup, or set "+env+" to an interpreter that has it)")
	}
	return p
}

// Python3 returns a python3 that needs nothing but its standard library.
func Python3(t testing.TB) string {
	t.Helper()
	return program(t, "python3")
}

// Redis returns the path of redis-server.
func Redis(t testing.TB) string {
	t.Helper()
	return program(t, "redis-server")
}

func program(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		missing(t, "no "+name+" on PATH (run ./scripts/setup, or install the package of that name)")
	}
	return p
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("PROXYPLANE_REQUIRE") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}
