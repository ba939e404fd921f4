package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// tmpDir returns a new directory, in memory where the system has a place for that.
func tmpDir(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat("/dev/shm"); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "proxyplane-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newConnector(t testing.TB, o Options) *Connector {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func open1(t testing.TB) (*Connector, string) {
	t.Helper()
	dir := tmpDir(t)
	c := newConnector(t, Options{StoreDir: dir})
	t.Cleanup(func() { c.Close(context.Background()) })
	return c, dir
}

func list(t testing.TB, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

func obj(parts ...string) transport.Slices {
	var s transport.Slices
	for _, p := range parts {
		s = append(s, []byte(p))
	}
	return s
}

func mustPut(t testing.TB, c *Connector, s transport.Slices) connectors.FileKey {
	t.Helper()
	k, err := c.Put(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return k.(connectors.FileKey)
}

func wantObject(t testing.TB, c *Connector, key connectors.Key, want string) {
	t.Helper()
	b, err := c.Get(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	if string(b.Bytes()) != want {
		t.Fatalf("object has %d bytes %.40q, want %d bytes %.40q", b.Len(), b.Bytes(), len(want), want)
	}
}

func hostileNames() []string {
	return []string{"", ".", "..", "../x", "a/b", "/etc/passwd", `a\b`, "a\x00b", "x.ready", ".ready", ".proxyplane-x", "../../../etc/passwd",
		strings.Repeat("n", 250), strings.Repeat("n", 5000), "x/", "./x"}
}

func hostileKeys() (keys []connectors.Key) {
	for _, n := range hostileNames() {
		keys = append(keys, connectors.FileKey{Filename: n})
	}
	return keys
}

func TestHostileNames(t *testing.T) {
	c, dir := open1(t)
	ctx := context.Background()
	for _, key := range hostileKeys() {
		_, err := c.Get(ctx, key)
		_, err2 := c.Exists(ctx, key)
		for _, err := range []error{err, err2, c.Set(ctx, key, obj("x")), c.Evict(ctx, key), c.Wait(ctx, key)} {
			if !errors.Is(err, connectors.ErrInvalidKey) {
				t.Errorf("%s: %v, want ErrInvalidKey", connectors.FormatKey(key), err)
			}
		}
	}
	longest := connectors.FileKey{Filename: strings.Repeat("n", maxName)}
	if err := c.Set(ctx, longest, obj("fits")); err != nil {
		t.Error(err)
	}
	wantObject(t, c, longest, "fits")
	if n := len(list(t, dir)); n != 2 {
		t.Errorf("%d files, want 2", n)
	}
}

// FuzzName checks that no accepted name reaches anything but one file and its marker.
func FuzzName(f *testing.F) {
	for _, n := range hostileNames() {
		f.Add(n)
	}
	f.Add("4a2f9e0c-7a39-4a30-8a69-0d5a2a4dd1a4")
	f.Add("...")
	f.Add("é\n\xff")
	parent := f.TempDir()
	dir := filepath.Join(parent, "store")
	c, err := New(Options{StoreDir: dir})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { c.Close(context.Background()) })
	f.Fuzz(func(t *testing.T, name string) {
		ctx := context.Background()
		key := connectors.FileKey{Filename: name}
		err := c.Set(ctx, key, obj("body"))
		if checkName(name) != nil {
			if !errors.Is(err, connectors.ErrInvalidKey) {
				t.Fatalf("%q: %v, want ErrInvalidKey", name, err)
			}
			return
		}
		if filepath.Base(name) != name || !filepath.IsLocal(name) {
			t.Fatalf("%q is not one path component", name)
		}
		if err != nil {
			return // the file system may refuse what it likes
		}
		wantObject(t, c, key, "body")
		if got, want := list(t, dir), []string{name, name + ready}; !slices.Equal(got, want) {
			t.Fatalf("files %q, want %q", got, want)
		}
		if got := list(t, parent); !slices.Equal(got, []string{"store"}) {
			t.Fatalf("files outside: %q", got)
		}
		if err := c.Evict(ctx, key); err != nil {
			t.Fatal(err)
		}
		if got := list(t, dir); len(got) != 0 {
			t.Fatalf("evict left %q", got)
		}
	})
}

// TestLayout checks the files that Python reads and writes.
func TestLayout(t *testing.T) {
	c, dir := open1(t)
	key := mustPut(t, c, obj("BS\n", "", "body"))
	if !looksLikeUUID(key.Filename) || key.Filename[14] != '4' || !strings.Contains("89ab", key.Filename[19:20]) {
		t.Errorf("key %s is no version-4 UUID", key.Filename)
	}
	if got, want := list(t, dir), []string{key.Filename, key.Filename + ".ready"}; !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	body, err := os.ReadFile(filepath.Join(dir, key.Filename))
	if err != nil || string(body) != "BS\nbody" {
		t.Errorf("object file: %q, %v", body, err)
	}
	marker, err := os.ReadFile(filepath.Join(dir, key.Filename+".ready"))
	if err != nil || len(marker) != 0 {
		t.Errorf("marker: %q, %v", marker, err)
	}
	if runtime.GOOS != "windows" {
		st, _ := os.Stat(filepath.Join(dir, key.Filename))
		ms, _ := os.Stat(filepath.Join(dir, key.Filename+".ready"))
		os.WriteFile(filepath.Join(dir, "plain"), nil, 0o666)
		pl, _ := os.Stat(filepath.Join(dir, "plain"))
		if st.Mode() != pl.Mode() || ms.Mode() != pl.Mode() {
			t.Errorf("modes %v and %v, want %v as any new file", st.Mode(), ms.Mode(), pl.Mode())
		}
	}
	// As Python writes.
	os.WriteFile(filepath.Join(dir, "theirs"), []byte("hi"), 0o666)
	theirs := connectors.FileKey{Filename: "theirs"}
	if ok, err := c.Exists(context.Background(), theirs); ok || err != nil {
		t.Errorf("exists without a marker: %t, %v", ok, err)
	}
	os.WriteFile(filepath.Join(dir, "theirs.ready"), nil, 0o666)
	wantObject(t, c, theirs, "hi")
}

func TestKeysDiffer(t *testing.T) {
	c, _ := open1(t)
	d, _ := open1(t)
	seen := map[string]bool{}
	for range 10000 {
		seen[c.newName()], seen[d.newName()] = true, true
	}
	if len(seen) != 20000 || c.ownPrefix() == d.ownPrefix() || !strings.HasPrefix(c.newName(), c.ownPrefix()) {
		t.Errorf("%d different keys of 20000, prefixes %s and %s", len(seen), c.ownPrefix(), d.ownPrefix())
	}
}

func TestMarkerWithoutObject(t *testing.T) {
	c, dir := open1(t)
	ctx := context.Background()
	os.WriteFile(filepath.Join(dir, "gone.ready"), nil, 0o666)
	key := connectors.FileKey{Filename: "gone"}
	if _, err := c.Get(ctx, key); !errors.Is(err, connectors.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	if ok, err := c.Exists(ctx, key); ok || err != nil {
		t.Errorf("Exists: %t, %v", ok, err)
	}
	if err := c.Evict(ctx, key); err != nil || len(list(t, dir)) != 0 {
		t.Errorf("Evict: %v, files %q", err, list(t, dir))
	}
}

func TestConfig(t *testing.T) {
	var reg connectors.Registry
	reg.Register(Driver())
	dir := filepath.Join(tmpDir(t), "s")
	ctx := context.Background()
	for _, opts := range []map[string]any{
		{"store_dir": dir},
		{"store_dir": dir, "clear": false, "buffering": 0},
		{"store_dir": dir, "clear": true, "buffering": 4096, "sync": true, "map_min_bytes": -1},
	} {
		c, err := reg.Open(ctx, connectors.Config{Kind: "file", Options: opts}, nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg := c.Config()
		if want := opts["clear"] != false; cfg.Options["clear"] != want {
			t.Errorf("clear is %v for %v", cfg.Options["clear"], opts)
		}
		d, err := reg.Open(ctx, cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !d.Config().Equal(cfg) {
			t.Errorf("%v became %v", cfg, d.Config())
		}
		py, err := reg.Travelling(cfg, true)
		if err != nil || len(py.Options) != 3 || py.Kind != "proxystore.connectors.file.FileConnector" {
			t.Errorf("for Python: %v, %v", py, err)
		}
		if err := errors.Join(c.Close(ctx), d.Close(ctx)); err != nil {
			t.Error(err)
		}
	}
	for _, opts := range []map[string]any{
		{}, {"store_dir": ""}, {"store_dir": 3}, {"store_dir": dir, "clear": "yes"}, {"store_dir": dir, "stroe_dir": "x"},
		{"store_dir": dir, "map_min_bytes": -2}, {"store_dir": "a\x00b"},
	} {
		if _, err := reg.Open(ctx, connectors.Config{Kind: "file", Options: opts}, nil); !errors.Is(err, connectors.ErrConfig) {
			t.Errorf("%v: %v, want ErrConfig", opts, err)
		}
	}
	locs, err := reg.Locations(connectors.Config{Kind: "file", Options: map[string]any{"store_dir": dir}}, nil)
	if err != nil || len(locs) != 1 || locs[0] != (connectors.Location{Kind: "file", Dir: dir}) {
		t.Errorf("Locations: %v, %v", locs, err)
	}
	if _, err := New(Options{}); !errors.Is(err, connectors.ErrConfig) {
		t.Errorf("New without a directory: %v", err)
	}
}

func TestReceived(t *testing.T) {
	var reg connectors.Registry
	reg.Register(Driver())
	dir := filepath.Join(tmpDir(t), "missing")
	ctx := context.Background()
	cfg := connectors.Config{Kind: "file", Options: map[string]any{"store_dir": dir, "clear_all": true}}
	if c, err := reg.Open(ctx, cfg, &connectors.Env{Received: true}); !errors.Is(err, connectors.ErrUnavailable) || c != nil {
		t.Errorf("a received configuration with a missing directory: %v, %v", c, err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory was made")
	}
	os.WriteFile(dir, nil, 0o666)
	if _, err := reg.Open(ctx, cfg, nil); !errors.Is(err, connectors.ErrConfig) {
		t.Errorf("a file as the directory: %v", err)
	}
	os.Remove(dir)
	os.Mkdir(dir, 0o777)
	os.WriteFile(filepath.Join(dir, "keep"), nil, 0o666)
	c, err := reg.Open(ctx, cfg, &connectors.Env{Received: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(ctx); err != nil || len(list(t, dir)) != 1 {
		t.Errorf("a received clear_all was obeyed (%v)", err)
	}
	out, err := reg.Travelling(cfg, false)
	if err != nil || out.Options["clear_all"] != nil {
		t.Errorf("clear_all travels: %v, %v", out, err)
	}
}

// TestNoObject gives connectors keys with the names of files that are no objects. These must stay as they are.
func TestNoObject(t *testing.T) {
	ctx := context.Background()
	var reg connectors.Registry
	reg.Register(Driver())
	uuid := "5c0ffc1c-0b0e-4d1e-9a83-0a8c3d4d2f10"
	for _, tc := range []struct {
		received bool
		name     string
		marker   string // "-": none
		mine     bool   // the connector may take the file for an object's
	}{
		{false, "thesis.tex", "-", false},
		{true, "thesis.tex", "-", false},
		{false, "thesis.tex", "content", false}, // thesis.tex.ready is somebody's too
		{true, "thesis.tex", "content", false},
		{true, uuid, "-", false},
		{false, uuid, "-", true}, // what a killed writer has left
		{false, "thesis.tex", "", true},
		{true, "thesis.tex", "", true},
		{true, uuid, "", true},
	} {
		t.Run(fmt.Sprintf("received=%t,name=%s,marker=%s", tc.received, tc.name, tc.marker), func(t *testing.T) {
			dir := tmpDir(t)
			opened, err := reg.Open(ctx, connectors.Config{Kind: "file", Options: map[string]any{"store_dir": dir, "clear": false}},
				&connectors.Env{Received: tc.received})
			if err != nil {
				t.Fatal(err)
			}
			c := opened.(*Connector)
			defer c.Close(ctx)
			path := filepath.Join(dir, tc.name)
			write := func() {
				err := os.WriteFile(path, []byte("five years"), 0o666)
				if tc.marker != "-" {
					err = errors.Join(err, os.WriteFile(path+ready, []byte(tc.marker), 0o666))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			key := connectors.FileKey{Filename: tc.name}
			for _, named := range []bool{false, true} {
				if named {
					c.dir.plain()
				}
				for name, f := range map[string]func() error{
					"Evict":      func() error { return c.Evict(ctx, key) },
					"EvictBatch": func() error { return c.EvictBatch(ctx, []connectors.Key{key}) },
				} {
					write()
					err := f()
					_, gone := os.Stat(path)
					if tc.mine != (gone != nil) || tc.mine && err != nil || tc.marker == "content" && !errors.Is(err, connectors.ErrCorrupt) {
						t.Errorf("%s: %v, and then the file: %v", name, err, gone)
					}
				}
				write()
				err := c.Set(ctx, key, obj("junk"))
				b, _ := os.ReadFile(path)
				if tc.mine != (string(b) == "junk") || !tc.mine && !errors.Is(err, connectors.ErrCorrupt) || tc.mine && err != nil {
					t.Errorf("Set: %v, and then the file is %q", err, b)
				}
				if n := len(list(t, dir)); n > 2 {
					t.Errorf("files %q", list(t, dir))
				}
				// A free name is everybody's: a future's key comes in a proxy.
				os.Remove(path)
				os.Remove(path + ready)
				for _, body := range []string{"first", "second"} {
					if err := c.Set(ctx, key, obj(body)); err != nil {
						t.Fatal(err)
					}
					wantObject(t, c, key, body)
				}
				if err := c.Evict(ctx, key); err != nil || len(list(t, dir)) != 0 {
					t.Errorf("Evict: %v, files %q", err, list(t, dir))
				}
			}
			// What it made itself is its own, marked or not.
			own := mustPut(t, c, obj("x"))
			os.Remove(filepath.Join(dir, own.Filename+ready))
			if err := c.Evict(ctx, own); err != nil || len(list(t, dir)) != 0 {
				t.Errorf("Evict of an own key: %v, files %q", err, list(t, dir))
			}
		})
	}
}

// TestConfirm swaps the directory under a path that was allowed, before it is opened and when it is opened anew.
func TestConfirm(t *testing.T) {
	ctx := context.Background()
	base, err := filepath.EvalSymlinks(tmpDir(t))
	if err != nil {
		t.Fatal(err)
	}
	allowed, secret, link := filepath.Join(base, "allowed"), filepath.Join(base, "secret"), filepath.Join(base, "link")
	leadTo := func(dir string) {
		os.Remove(link)
		if err := errors.Join(os.MkdirAll(dir, 0o777), os.Symlink(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	denied := errors.New("denied")
	env := &connectors.Env{Received: true, Confirm: func(l connectors.Location) error {
		if l != (connectors.Location{Kind: "file", Dir: allowed}) {
			return fmt.Errorf("%w: %v", denied, l)
		}
		return nil
	}}
	var reg connectors.Registry
	reg.Register(Driver())
	cfg := connectors.Config{Kind: "file", Options: map[string]any{"store_dir": link}}
	leadTo(secret)
	private := newConnector(t, Options{StoreDir: secret})
	defer private.Close(ctx)
	key := mustPut(t, private, obj("private"))
	if c, err := reg.Open(ctx, cfg, env); !errors.Is(err, denied) || c != nil {
		t.Fatalf("a link out of the allowed directory: %v, %v", c, err)
	}
	leadTo(allowed)
	opened, err := reg.Open(ctx, cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	c := opened.(*Connector)
	defer c.Close(ctx)
	mustPut(t, c, obj("x"))
	os.RemoveAll(allowed)
	leadTo(secret)
	if ok, _ := c.Exists(ctx, key); ok {
		t.Error("the connector moved to a directory that is not allowed")
	}
	if _, err := c.Get(ctx, key); err == nil {
		t.Error("and reads there")
	}
	if _, err := c.Put(ctx, obj("x")); !errors.Is(err, connectors.ErrUnavailable) || len(list(t, secret)) != 2 {
		t.Errorf("Put: %v, files %q", err, list(t, secret))
	}
	if err := c.Evict(ctx, key); err != nil || len(list(t, secret)) != 2 {
		t.Errorf("Evict: %v, files %q", err, list(t, secret))
	}
	leadTo(allowed)
	wantObject(t, c, mustPut(t, c, obj("back")), "back")
}

func TestClear(t *testing.T) {
	ctx := context.Background()
	base := tmpDir(t)
	outside := filepath.Join(base, "outside")
	os.WriteFile(outside, []byte("x"), 0o666)
	dir := filepath.Join(base, "a", "store")
	other := func() connectors.FileKey {
		c := newConnector(t, Options{StoreDir: dir})
		defer c.Close(ctx)
		return mustPut(t, c, obj("other"))
	}
	fill := func(c *Connector) {
		for range 100 {
			mustPut(t, c, obj("x"))
		}
		k, _ := c.NewKey(ctx)
		if err := c.Set(ctx, k, obj("y")); err != nil {
			t.Fatal(err)
		}
		w, err := c.PutStream(ctx, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(); err != nil {
			t.Fatal(err)
		}
	}

	c := newConnector(t, Options{StoreDir: dir, Clear: true})
	if !c.madeDir {
		t.Fatal("the directory is not new")
	}
	fill(c)
	if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a directory of our own stays")
	}
	if _, err := os.Stat(filepath.Dir(dir)); err != nil {
		t.Error("the parent is gone")
	}

	c = newConnector(t, Options{StoreDir: dir, Clear: true})
	fill(c)
	k := other()
	if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if got := list(t, dir); !slices.Equal(got, []string{k.Filename, k.Filename + ready}) {
		t.Errorf("left are %q, want the other connector's object", got)
	}

	c = newConnector(t, Options{StoreDir: dir, Clear: true})
	fill(c)
	if err := c.CloseClear(ctx, false); err != nil || len(list(t, dir)) != 206 {
		t.Errorf("CloseClear(false): %v, %d files", err, len(list(t, dir)))
	}
	c = newConnector(t, Options{StoreDir: dir})
	fill(c)
	if err := c.CloseClear(ctx, true); err != nil || len(list(t, dir)) != 206 {
		t.Errorf("CloseClear(true): %v, %d files", err, len(list(t, dir)))
	}

	c = newConnector(t, Options{StoreDir: dir, Clear: true, ClearAll: true})
	os.MkdirAll(filepath.Join(dir, "sub", "sub"), 0o777)
	os.Symlink(outside, filepath.Join(dir, "link"))
	os.Symlink(base, filepath.Join(dir, "sub", "up"))
	if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if got := list(t, base); !slices.Equal(got, []string{"a", "outside"}) || len(list(t, filepath.Join(base, "a"))) != 0 {
		t.Errorf("after clear_all: %q", got)
	}
	if err := c.Close(ctx); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// TestDirectoryReplaced is what happens when a Python store closes with clear and the next one starts.
func TestDirectoryReplaced(t *testing.T) {
	c, dir := open1(t)
	ctx := context.Background()
	key := mustPut(t, c, obj("old"))
	os.RemoveAll(dir)
	if ok, err := c.Exists(ctx, key); ok || err != nil {
		t.Errorf("Exists in a removed directory: %t, %v", ok, err)
	}
	if err := c.Evict(ctx, key); err != nil {
		t.Errorf("Evict in a removed directory: %v", err)
	}
	_, err := c.Put(ctx, obj("x"))
	if !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("Put into a removed directory: %v", err)
	}
	if err := c.Set(ctx, key, obj("x")); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("Set into a removed directory: %v", err)
	}
	if _, err := c.PutStream(ctx, -1); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("PutStream into a removed directory: %v", err)
	}
	for _, use := range []func(){
		func() { wantObject(t, c, mustPut(t, c, obj("new")), "new") },
		func() {
			if err := c.Set(ctx, key, obj("set")); err != nil {
				t.Error(err)
			}
			wantObject(t, c, key, "set")
		},
		func() {
			os.WriteFile(filepath.Join(dir, "p"), []byte("py"), 0o666)
			os.WriteFile(filepath.Join(dir, "p.ready"), nil, 0o666)
			wantObject(t, c, connectors.FileKey{Filename: "p"}, "py")
		},
	} {
		os.RemoveAll(dir)
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		use()
	}
}

func TestMemory(t *testing.T) {
	c, dir := open1(t)
	ctx := context.Background()
	for _, tc := range []struct {
		size int
		want transport.Backing
	}{{0, transport.GC}, {1, transport.GC}, {gcMax, transport.GC}, {gcMax + 1, transport.Pooled}, {defaultMapMin - 1, transport.Pooled},
		{defaultMapMin, transport.Mapped}, {3<<20 + 1, transport.Mapped}} {
		if tc.want == transport.Mapped && runtime.GOOS == "windows" {
			tc.want = transport.GC
		}
		data := bytes.Repeat([]byte("proxyplane"), tc.size/10+1)[:tc.size]
		key := mustPut(t, c, transport.Slices{data})
		b, err := c.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if b.Backing() != tc.want {
			t.Errorf("%d bytes are in %v memory, want %v", tc.size, b.Backing(), tc.want)
		}
		m, err := c.Map(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if tc.size > 0 && m.Backing() != transport.Mapped && canMap {
			t.Errorf("Map of %d bytes gives %v memory", tc.size, m.Backing())
		}
		// What is out stays as it is, whatever becomes of the key.
		if err := c.Set(ctx, key, transport.Slices{make([]byte, tc.size+5)}); err != nil {
			t.Fatal(err)
		}
		if err := c.Evict(ctx, key); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Bytes(), data) || !bytes.Equal(m.Bytes(), data) {
			t.Errorf("%d bytes changed under their readers", tc.size)
		}
		b.Release()
		m.Release()
	}
	never := newConnector(t, Options{StoreDir: dir, MapMinBytes: -1})
	defer never.Close(ctx)
	key := mustPut(t, never, transport.Slices{make([]byte, 1<<20)})
	b, err := never.Get(ctx, key)
	if err != nil || b.Backing() != transport.Pooled {
		t.Errorf("map_min_bytes of -1: %v, %v", b.Backing(), err)
	}
	b.Release()
	r, err := c.GetRange(ctx, key, 12345, 500<<10)
	if err != nil || r.Len() != 500<<10 {
		t.Fatal(r, err)
	}
	r.Release()
}

func TestManyParts(t *testing.T) {
	c, _ := open1(t)
	var s transport.Slices
	var want bytes.Buffer
	for i := range 5000 {
		p := []byte(fmt.Sprint(i % 7 * i))
		if i%3 == 0 {
			p = nil
		}
		s = append(s, p)
		want.Write(p)
	}
	big := make([]byte, 40<<20) // more than one system call takes
	big[len(big)-1] = 7
	s = append(s, big, []byte("end"))
	want.Write(big)
	want.WriteString("end")
	wantObject(t, c, mustPut(t, c, s), want.String())
}

func TestSweep(t *testing.T) {
	c, dir := open1(t)
	ctx := context.Background()
	whole := mustPut(t, c, obj("whole"))
	old := time.Now().Add(-48 * time.Hour)
	for _, name := range []string{tempName(), c.newName(), "notes.txt", c.newName() + ready, whole.Filename} {
		path := filepath.Join(dir, name)
		if name != whole.Filename {
			os.WriteFile(path, nil, 0o666)
		}
		os.Chtimes(path, old, old)
	}
	os.WriteFile(filepath.Join(dir, tempName()), nil, 0o666) // somebody is writing it now
	os.WriteFile(filepath.Join(dir, c.newName()), nil, 0o666)
	n, err := c.Sweep(ctx, 24*time.Hour)
	if err != nil || n != 2 {
		t.Errorf("Sweep removed %d (%v), want 2", n, err)
	}
	if got := len(list(t, dir)); got != 6 {
		t.Errorf("%d files left, want 6", got)
	}
	wantObject(t, c, whole, "whole")
}

// TestCloseWaits checks that Close waits for calls in flight, or goes with its context and finishes later.
func TestCloseWaits(t *testing.T) {
	c, dir := open1(t)
	c.opts.Clear = true
	mustPut(t, c, obj("x"))
	if !c.gate.Enter() { // a call in flight
		t.Fatal("closed")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close with a call in flight and a cancelled context: %v", err)
	}
	if len(list(t, dir)) != 2 {
		t.Error("cleared under a call in flight")
	}
	if _, err := c.Put(context.Background(), obj("x")); !errors.Is(err, connectors.ErrClosed) {
		t.Errorf("Put after Close: %v", err)
	}
	c.gate.Leave()
	for len(list(t, dir)) > 0 { // ends, or the test's deadline does
		time.Sleep(time.Millisecond)
	}
}
