package interop

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/serialize"
)

// TestParsl: a proxy of ours goes through a real Parsl workflow, where only the worker resolves it, and the worker's result comes back as a proxy.
func TestParsl(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	dir := t.TempDir()
	st, err := proxyplane.Open(ctx, proxyplane.NewConfig("", proxyplane.FileConnector(filepath.Join(dir, "store"))), proxyplane.WithStores(stores(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close(ctx)
	p, err := proxyplane.NewProxy(ctx, st, array(count[float64](0, 1000), 10, 100))
	if err != nil {
		t.Fatal(err)
	}
	data, err := p.Pickle()
	if err != nil {
		t.Fatal(err)
	}
	in, out := filepath.Join(dir, "in.pickle"), filepath.Join(dir, "out.pickle")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, testenv.Python(t, testenv.ProxyStore11), filepath.Join(testenv.Root(), "interop", "parsl_app.py"), in, out,
		filepath.Join(dir, "results"))
	cmd.Dir = dir
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	if data, err = os.ReadFile(out); err != nil {
		t.Fatal(err)
	}
	q, err := proxyplane.ParseProxy[*serialize.Array](data)
	if err != nil {
		t.Fatal(err)
	}
	q.Bind(stores(t))
	a, err := q.Resolve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Release()
	defer q.Forget()
	got, err := serialize.Copy[float64](a)
	if err != nil {
		t.Fatal(err)
	}
	want := count[float64](0, 1000)
	for i := range want {
		want[i] *= 2
	}
	if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(a.Shape, []int{10, 100}) {
		t.Errorf("got %v of shape %v", got[:5], a.Shape)
	}
}
