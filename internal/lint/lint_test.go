package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

const module = "github.com/proxyplane/proxyplane"

type pkg struct {
	ImportPath string
	Imports    []string
	Dir        string
	GoFiles    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Dir,GoFiles", "./...")
	cmd.Dir = testenv.Root()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// rel returns an import path of this module without the module, "" for the root and false for others.
func rel(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func under(path string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return path == d || strings.HasPrefix(path, d+"/") })
}

// TestArrows: root -> connectors -> transport -> cgo, and nobody but programs imports the root.
func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		from, ok := rel(p.ImportPath)
		if !ok {
			continue
		}
		for _, imp := range p.Imports {
			to, ok := rel(imp)
			if !ok {
				if under(from, "transport", "cgo", "serialize/pickle") && strings.Contains(imp, "redis") {
					t.Errorf("%s imports %s: a connector's library belongs into its connector", from, imp)
				}
				continue
			}
			switch {
			case to == "" && !under(from, "cmd", "examples", "bench", "interop", "fuzz"):
				t.Errorf("%s imports the root package: move what it needs down, or itself up into cmd", from)
			case under(from, "transport") && under(to, "connectors", "cache", "serialize", "metrics", "endpoint"):
				t.Errorf("%s imports %s: transport knows only bytes", from, to)
			case under(from, "cgo") && !under(to, "cgo", "internal"):
				t.Errorf("%s imports %s: cgo wraps C and knows no policy", from, to)
			case under(from, "serialize") && under(to, "connectors"):
				t.Errorf("%s imports %s: a codec does not know where objects are", from, to)
			case under(from, "endpoint") && under(to, "connectors", "cache", "metrics"):
				t.Errorf("%s imports %s: an endpoint serves bytes, whoever put them", from, to)
			case under(from, "connectors") && under(to, "endpoint") && to != "endpoint/config":
				t.Errorf("%s imports %s: a connector asks an endpoint over HTTP, and needs only to find it", from, to)
			case under(from, "connectors") && under(to, "cache", "metrics"):
				t.Errorf("%s imports %s: that is the store's", from, to)
			}
		}
	}
}

// TestLibrariesAreQuiet: a library neither prints nor exits nor logs on its own, and does not leak timers.
func TestLibrariesAreQuiet(t *testing.T) {
	forbidden := map[string]string{
		"fmt.Print": "return it, or log through the slog.Logger you were given", "fmt.Println": "return it, or log through the slog.Logger you were given",
		"fmt.Printf": "return it, or log through the slog.Logger you were given", "log.Printf": "use the slog.Logger you were given",
		"log.Println": "use the slog.Logger you were given", "log.Fatal": "return an error", "os.Exit": "return an error",
		"time.After": "use time.NewTimer and stop it", "runtime.SetFinalizer": "use runtime.AddCleanup",
		"os.MkdirTemp": "take a directory from the caller", "uuid.EnableRandPool": "it changes the whole process",
	}
	for _, p := range packages(t) {
		name, ok := rel(p.ImportPath)
		if !ok || under(name, "cmd", "bench", "fuzz", "interop", "examples", "internal/testenv", "internal/redistest", "connectors/connectortest") {
			continue
		}
		for _, file := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok {
					if instead, bad := forbidden[x.Name+"."+sel.Sel.Name]; bad {
						t.Errorf("%s: %s.%s: %s", fset.Position(n.Pos()), x.Name, sel.Sel.Name, instead)
					}
				}
				return true
			})
		}
	}
}

// TestNoSkips: a test is skipped only through testenv, which fails instead where everything must run.
func TestNoSkips(t *testing.T) {
	err := filepath.WalkDir(testenv.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (strings.HasPrefix(name, ".") && name != "." || name == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.Contains(path, "internal/testenv") || strings.Contains(path, "internal/lint") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(src), "\n") {
			for _, call := range []string{"t.Skip", "b.Skip", "tb.Skip"} {
				if strings.Contains(line, call) && !strings.Contains(line, "fuzz:") {
					t.Errorf("%s:%d: %s: run it everywhere, or ask testenv for what it needs (in a fuzz target say why after // fuzz:)", path, i+1, call)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
