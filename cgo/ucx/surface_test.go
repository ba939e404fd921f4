package ucx

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// surface returns what a file exports, as text.
func surface(t *testing.T, name string) []string {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() {
				d.Body = nil
				var b bytes.Buffer
				if err := printer.Fprint(&b, fset, d); err != nil {
					t.Fatal(err)
				}
				out = append(out, strings.Join(strings.Fields(b.String()), " "))
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() {
						out = append(out, "type "+s.Name.Name)
					}
				case *ast.ValueSpec:
					for _, n := range s.Names {
						if n.IsExported() {
							out = append(out, "value "+n.Name)
						}
					}
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestSurface compares what the package exports with and without the tag.
func TestSurface(t *testing.T) {
	with, without := surface(t, "ucx_cgo.go"), surface(t, "ucx_stub.go")
	for _, d := range with {
		if !slices.Contains(without, d) {
			t.Errorf("only with the tag: %s", d)
		}
	}
	for _, d := range without {
		if !slices.Contains(with, d) {
			t.Errorf("only without the tag: %s", d)
		}
	}
	if len(with) < 50 {
		t.Errorf("only %d declarations were found", len(with))
	}
}

// TestNotBuilt: the text of the error says what to do, whoever wraps it.
func TestNotBuilt(t *testing.T) {
	for _, word := range []string{"-tags ucx", "CGO_ENABLED=1", "libucx-dev", "ucx-devel", "module load ucx"} {
		if !strings.Contains(ErrNotBuilt.Error(), word) {
			t.Errorf("%q does not say %q", ErrNotBuilt, word)
		}
	}
	if _, err := Open(Options{}); err == nil {
		t.Error("a context without features")
	} else if built, _ := Version(); built == "" != errors.Is(err, ErrNotBuilt) {
		t.Errorf("version %q and error %v", built, err)
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for p := range numPurposes + 1 {
		if s := p.String(); s == "" || seen[s] {
			t.Errorf("purpose %d is called %q", p, s)
		} else {
			seen[s] = true
		}
	}
	if s := ErrCanceled.Error(); !strings.Contains(s, "-16") {
		t.Errorf("a status without its number: %q", s)
	}
}

const epInfo = `#
# UCP endpoint 127.0.0.1:51234
#
#               peer: <no debug data>
#                 lane[0]:  0:tcp/lo.0 md[0]                -> md[0]/tcp/sysdev[255] am am_bw#0 keepalive wireup
#                 lane[1]:  3:posix/memory.0 md[2]          -> md[2]/posix/sysdev[255]
#                 lane[2]:  3:posix/memory.1 md[2]          -> md[2]/posix/sysdev[255]
#                 lane[3]:  8:rc_mlx5/mlx5_0:1.0 md[4]      -> md[4]/ib/sysdev[2] rma_bw#0
#                 lane[4]: cm rdmacm
#
#                tag_send: 0..<egr/short>..8185..<egr/bcopy>..(inf)
`

func TestLanes(t *testing.T) {
	if got := lanes(epInfo); !slices.Equal(got, []string{"tcp/lo", "posix/memory", "rc_mlx5/mlx5_0:1"}) {
		t.Errorf("lanes %q", got)
	}
}

func FuzzLanes(f *testing.F) {
	f.Add(epInfo)
	f.Add("lane[]:")
	f.Add("lane[0]: :/.")
	f.Fuzz(func(t *testing.T, info string) {
		for _, l := range lanes(info) {
			if !strings.Contains(l, "/") || strings.ContainsAny(l, " \n") {
				t.Errorf("a lane %q", l)
			}
		}
	})
}
