package fuzz

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// placeholder stands in seeds for the directory that holds everything of one run, in as many bytes, so that the lengths in a pickle stay right.
const placeholder = "/proxyplane-fuzz-base-directory-________________________________________________________________________________________________"

// A sandbox is a directory tree with one directory that a policy allows and secrets all around it.
//
//	allowed/object     what a proxy may get
//	allowed/link       a symbolic link to ../outside, allowed/linked one to ../outside/object
//	outside/object     an object with the secret, as if of another user
//	secret             a file with the secret, with a marker beside it
type sandbox struct {
	base   string
	padded string // base, as long as placeholder
	secret []byte
	listed string // what is outside of allowed
}

func newSandbox(tb testing.TB) *sandbox {
	tb.Helper()
	base, err := filepath.EvalSymlinks(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	b := &sandbox{base: base, secret: []byte("secret-" + rand.Text())}
	if len(base) > len(placeholder) {
		tb.Fatalf("the temporary directory %s is too long a path; set TMPDIR to a shorter one", base)
	}
	b.padded = base + strings.Repeat("/", len(placeholder)-len(base))
	secret := append([]byte("BS\n"), b.secret...)
	write := func(name string, data []byte) {
		path := filepath.Join(base, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path+".ready", nil, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	write("allowed/object", []byte("BS\nallowed"))
	write("outside/object", secret)
	write("secret", secret)
	if err := errors.Join(os.Symlink("../outside", filepath.Join(base, "allowed/link")),
		os.Symlink("../outside/object", filepath.Join(base, "allowed/linked")),
		os.WriteFile(filepath.Join(base, "allowed/linked.ready"), nil, 0o600)); err != nil {
		tb.Fatal(err)
	}
	b.listed = b.outside(tb)
	return b
}

// here makes a seed one of this run.
func (b *sandbox) here(data []byte) []byte {
	return bytes.ReplaceAll(data, []byte(placeholder), []byte(b.padded))
}

// outside lists everything but what is in allowed. A file's time of access is in it, where the system tells and has not been told to leave it
// alone: reading moves it.
func (b *sandbox) outside(tb testing.TB) string {
	tb.Helper()
	var list strings.Builder
	walk := func(root string, skip ...string) {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			for _, s := range skip {
				if d.IsDir() && path == filepath.Join(root, s) {
					return fs.SkipDir
				}
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if d.IsDir() {
				fmt.Fprintln(&list, path, info.Mode())
			} else {
				fmt.Fprintln(&list, path, info.Mode(), info.Size(), info.ModTime().UnixNano(), accessed(info))
			}
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	walk(b.base, "allowed")
	return list.String()
}

// check fails if anything outside was touched or what came out has the secret in it.
func (b *sandbox) check(t *testing.T, outputs ...any) {
	t.Helper()
	if now := b.outside(t); now != b.listed {
		t.Errorf("touched what is outside of the allowed directory: was\n%snow\n%s", b.listed, now)
		b.listed = now
	}
	for _, o := range outputs {
		if strings.Contains(fmt.Sprintf("%s", o), string(b.secret)) {
			t.Errorf("the secret came out: %.300s", o)
		}
	}
}

// policy allows the sandbox's one directory and the connectors that touch no network.
func (b *sandbox) policy() proxyplane.Policy {
	return proxyplane.Policy{Kinds: []string{"file", "local", "multi"}, Dirs: []string{filepath.Join(b.base, "allowed")}, OnlyDirs: true}
}

// proxySeeds are proxies that try things, in every form, and those that real Pythons wrote.
func proxySeeds(tb testing.TB) [][]byte {
	tb.Helper()
	file := func(dir, key string) string {
		return fmt.Sprintf(`{"proxyplane":1,"flavour":"Proxy","key":{"kind":"file","key":[%q]},`+
			`"store":{"name":"s","connector":{"kind":"file","options":{"store_dir":%q,"clear":true}}},"evict":false}`, key, placeholder+dir)
	}
	multi := func(dir, key string) string {
		return fmt.Sprintf(`{"proxyplane":1,"flavour":"Proxy","key":{"kind":"multi","key":["a",{"kind":"file","key":[%q]}]},`+
			`"store":{"name":"s","connector":{"kind":"multi","options":{"a":["file",{"store_dir":%q},{}],"b":["redis",{"hostname":"192.0.2.1","port":1},{}]}}},"evict":true}`,
			key, placeholder+dir)
	}
	var seeds [][]byte
	for _, j := range []string{
		file("/allowed", "object"), file("/allowed/", "../secret"), file("/allowed", "../outside/object"), file("/allowed", "linked"),
		file("/allowed", "/etc/passwd"), file("/allowed", placeholder+"/secret"), file("/allowed", "object.ready"), file("/allowed", "link/object"),
		file("/allowed", "secret\x00"), file("/allowed", ".."), file("/allowed/link", "object"), file("/allowed/../outside", "object"), file("/outside", "object"),
		file("", "secret"), file("/allowed/new", "object"), file("/new", "object"),
		multi("/allowed", "object"), multi("/outside", "object"), multi("/allowed", "../secret"),
		strings.Replace(file("/allowed", "object"), `"evict":false`, `"evict":false,"polling":{"polling_interval":0.001,"polling_backoff_factor":1,"polling_interval_limit":null,"polling_timeout":0.002}`, 1),
		strings.Replace(file("/allowed", "object"), `"clear":true`, `"clear":true,"clear_all":true`, 1),
		strings.Replace(file("/allowed", "missing"), `"Proxy"`, `"OwnedProxy"`, 1),
		`{"proxyplane":1,"flavour":"Proxy","key":{"kind":"local","key":["x"]},"store":{"name":"s","connector":{"kind":"local","options":{"store_dict":{"x":"QlMKaGVsbG8="}}}},"evict":false}`,
		`{"proxyplane":1,"flavour":"Proxy","key":["x"],"store":{"name":"s","connector":{"kind":"redis","options":{"hostname":"localhost","port":1}}},"evict":false}`,
	} {
		seeds = append(seeds, []byte(j))
		p, err := proxyplane.ParseProxy[any]([]byte(j))
		if err != nil {
			continue // refused by its look already
		}
		for _, form := range []func() ([]byte, error){p.MarshalText, p.MarshalBinary,
			func() ([]byte, error) { return p.Pickle() }, func() ([]byte, error) { return p.Pickle(proxyplane.For(serialize.ProxyStore06)) }} {
			if data, err := form(); err == nil { // not all of them have all forms
				seeds = append(seeds, data)
			}
		}
	}
	paths, err := filepath.Glob(filepath.Join(testenv.Root(), "testdata", "*.pickle"))
	if err != nil || len(paths) == 0 {
		tb.Fatalf("no recorded proxies in testdata: %v", err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		seeds = append(seeds, data)
	}
	return seeds
}

// hostileProxy does to a proxy from outside all that a program may do to one that it received, and returns what it got.
func hostileProxy(t *testing.T, b *sandbox, data []byte) []byte {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	p, err := proxyplane.ParseProxy[*transport.Buffer](b.here(data))
	if err != nil {
		checkError(t, "parse", err)
		b.check(t, err)
		return nil
	}
	if _, err := proxyplane.Inspect(b.here(data)); err != nil {
		t.Errorf("a proxy parses but cannot be inspected: %v", err)
	}
	stores := proxyplane.NewStores(proxyplane.WithPolicy(b.policy()))
	p.Bind(stores)
	var got []byte
	v, err := p.Resolve(ctx)
	if err == nil && v != nil {
		got = bytes.Clone(v.Bytes())
		v.Release()
	}
	p.Forget()
	errs := []error{err}
	part, err := p.ReadRange(ctx, 0, -1)
	if err == nil {
		got = append(got, part.Bytes()...)
		part.Release()
	}
	errs = append(errs, err)
	r, err := p.Open(ctx)
	if err == nil {
		var body bytes.Buffer
		_, err = r.WriteTo(&body)
		got = append(got, body.Bytes()...)
		err = errors.Join(err, r.Close())
	}
	errs = append(errs, err)
	for _, err := range errs {
		if !errors.Is(err, context.DeadlineExceeded) { // of a future's proxy
			checkError(t, "resolve", err)
		}
	}
	// An owner evicts; that must stay within the allowed directory as well.
	errs = append(errs, p.Evict(ctx), stores.Close(ctx))
	b.check(t, got, errors.Join(errs...))
	checkMemory(t)
	b.restore(t)
	return got
}

// restore puts the one object back that a proxy may evict.
func (b *sandbox) restore(t *testing.T) {
	path := filepath.Join(b.base, "allowed", "object")
	if _, err := os.Lstat(path); err == nil {
		return
	}
	if err := errors.Join(os.WriteFile(path, []byte("BS\nallowed"), 0o600), os.WriteFile(path+".ready", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// FuzzProxyResolve resolves any bytes as a proxy under a policy that allows one directory. Nothing outside is read, made, changed or deleted, the
// secret never comes out, errors are the documented ones, and nothing leaks.
func FuzzProxyResolve(f *testing.F) {
	for _, s := range proxySeeds(f) {
		f.Add(s)
	}
	b := newSandbox(f)
	f.Fuzz(func(t *testing.T, data []byte) { hostileProxy(t, b, data) })
}

// TestSandbox proves that the fuzz target sees what it looks for: the allowed object does come out in every form, and a read and a new file outside
// are noticed.
func TestSandbox(t *testing.T) {
	b := newSandbox(t)
	resolved := 0
	for _, s := range proxySeeds(t) {
		if strings.Contains(string(hostileProxy(t, b, s)), "allowed") {
			resolved++
		}
	}
	if resolved < 8 {
		t.Errorf("only %d seeds resolve to the allowed object", resolved)
	}
	if !strings.Contains(b.listed, filepath.Join(b.base, "secret")) {
		t.Fatalf("the secret is not watched:\n%s", b.listed)
	}
	if _, err := os.ReadFile(filepath.Join(b.base, "secret")); err != nil {
		t.Fatal(err)
	}
	if now := b.outside(t); now == b.listed {
		t.Logf("reading is not noticed on %s (a file system without times of access); what is read still is", runtime.GOOS)
	}
	if err := os.WriteFile(filepath.Join(b.base, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if now := b.outside(t); now == b.listed {
		t.Error("a new file outside is not noticed")
	}
}

// FuzzKeyJSON uses any JSON as a key of a store that it does not belong to, or does: whatever a service would do with a key from a request.
func FuzzKeyJSON(f *testing.F) {
	for _, k := range []connectors.Key{
		connectors.FileKey{Filename: "object"}, connectors.FileKey{Filename: "../secret"}, connectors.FileKey{Filename: "linked"},
		connectors.FileKey{Filename: "link/object"}, connectors.FileKey{Filename: "object.ready"}, connectors.FileKey{}, connectors.FileKey{Filename: ".proxyplane-x"},
		connectors.FileKey{Filename: strings.Repeat("n", 250)}, connectors.LocalKey{ID: "../secret"},
		connectors.MultiKey{ConnectorName: "file", ConnectorKey: connectors.FileKey{Filename: "../outside/object"}},
		connectors.MultiKey{ConnectorName: "file", ConnectorKey: connectors.MultiKey{ConnectorName: "file", ConnectorKey: connectors.FileKey{Filename: "object"}}},
		connectors.MultiKey{ConnectorName: "local", ConnectorKey: connectors.FileKey{Filename: "object"}},
		connectors.NewGlobusKey("../secret", "a", "b"), connectors.RedisKey{RedisKey: "k"}, connectors.EndpointKey{ObjectID: "o"},
		connectors.DIMKey{DIMType: "zmq", ObjID: "o", Size: -1, PeerHost: "192.0.2.1", PeerPort: 1}, connectors.DAOSKey{Pool: "p"},
	} {
		j, err := connectors.MarshalKey(k)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(j)
	}
	f.Add([]byte(`["object"]`))
	f.Add([]byte(`["` + placeholder + `/secret"]`))
	b := newSandbox(f)
	ctx := context.Background()
	fileCfg := proxyplane.FileConnector(filepath.Join(b.base, "allowed"))
	var stores []*proxyplane.Store
	for _, cfg := range []connectors.Config{fileCfg, proxyplane.LocalConnector(), {Kind: "multi", Options: map[string]any{
		"file": []any{"file", fileCfg.Options, map[string]any{}}, "local": []any{"local", map[string]any{}, map[string]any{"priority": int64(1)}}}}} {
		s, err := proxyplane.Open(ctx, proxyplane.NewConfig("", cfg), proxyplane.WithStores(proxyplane.NewStores()), proxyplane.WithCacheBytes(0))
		if err != nil {
			f.Fatal(err)
		}
		f.Cleanup(func() {
			if err := s.Close(ctx); err != nil {
				f.Error(err)
			}
		})
		stores = append(stores, s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, s := range stores {
			key, err := connectors.UnmarshalKey(b.here(data), s.Config().Connector.Kind)
			if err != nil {
				checkError(t, "key", err)
				continue
			}
			again, err := connectors.MarshalKey(key)
			if err != nil {
				t.Fatalf("%s cannot be written: %v", connectors.FormatKey(key), err)
			}
			if k, err := connectors.UnmarshalKey(again, ""); err != nil || k.Identity() != key.Identity() || k != key {
				t.Fatalf("%s is written as %s, which reads as %v, %v", connectors.FormatKey(key), again, k, err)
			}
			useKey(t, b, s, key)
		}
		checkMemory(t)
	})
}

// useKey does to a key all that a store can do.
func useKey(t *testing.T, b *sandbox, s *proxyplane.Store, key proxyplane.Key) {
	ctx := context.Background()
	v, err := proxyplane.Get[*transport.Buffer](ctx, s, key)
	checkError(t, "get", err)
	if err == nil {
		b.check(t, v.Bytes())
		v.Release()
	}
	_, errExists := s.Exists(ctx, key)
	checkError(t, "exists", errExists)
	part, err := s.GetRange(ctx, key, 1, 1)
	checkError(t, "range", err)
	part.Release()
	r, err := s.OpenReader(ctx, key)
	checkError(t, "reader", err)
	if err == nil {
		err = r.Close()
	}
	errSet := connectors.Set(ctx, s.Connector(), key, transport.Slices{[]byte("BS\nset")})
	checkError(t, "set", errSet)
	if errSet == nil {
		if got, err := proxyplane.Get[[]byte](ctx, s, key); err != nil || string(got) != "set" {
			t.Errorf("%s was set, and got: %q, %v", connectors.FormatKey(key), got, err)
		}
	}
	errEvict := s.Evict(ctx, key)
	checkError(t, "evict", errEvict)
	if ok, err := s.Exists(ctx, key); ok || (err == nil) != (errEvict == nil) {
		t.Errorf("%s exists after evict: %v, %v; evict: %v", connectors.FormatKey(key), ok, err, errEvict)
	}
	b.check(t, errors.Join(err, errExists, errSet, errEvict))
	b.restore(t)
	if err := os.Symlink("../outside/object", filepath.Join(b.base, "allowed/linked")); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.base, "allowed/linked.ready"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}
