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
	p, ok := FindPython(version)
	if !ok {
		missing(t, "no Python environment with ProxyStore "+version+" (run ./scripts/setup, or set "+pythonVars[version]+" to an interpreter that has it)")
	}
	return p
}

var pythonVars = map[string]string{ProxyStore11: "PROXYPLANE_PYTHON_1_1", ProxyStore06: "PROXYPLANE_PYTHON_0_6"}

// FindPython is Python for who can do without.
func FindPython(version string) (interpreter string, ok bool) {
	if p := os.Getenv(pythonVars[version]); p != "" {
		return p, true
	}
	p := filepath.Join(Root(), ".venv-"+version, "bin", "python")
	_, err := os.Stat(p)
	return p, err == nil
}

// PythonUCX returns an interpreter that has proxystore-ex and can import ucp, as PROXYPLANE_PYTHON_UCX names it. No package index has ucx-py in a form
// that scripts/setup could install, so that the test is skipped without it, under PROXYPLANE_REQUIRE too.
func PythonUCX(t testing.TB) string {
	t.Helper()
	p, ok := FindPythonUCX()
	if !ok {
		t.Skip("no Python with ucx-py (set PROXYPLANE_PYTHON_UCX to an interpreter that has proxystore-ex and can import ucp)")
	}
	return p
}

// FindPythonUCX is PythonUCX for who can do without.
var FindPythonUCX = sync.OnceValues(func() (interpreter string, ok bool) {
	p := os.Getenv("PROXYPLANE_PYTHON_UCX")
	return p, p != "" && exec.Command(p, "-W", "ignore", "-c", "import ucp, proxystore_ex").Run() == nil
})

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
