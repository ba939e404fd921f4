package proxyplane

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
)

func TestPolicyHosts(t *testing.T) {
	p := Policy{Hosts: []string{"db.example", "*.cluster.example", "10.1.0.0/16", "192.0.2.7"}}
	for host, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "[::1]": true, "::ffff:127.0.0.1": true, "LOCALHOST.": true,
		"db.example": true, "DB.example": true, "a.cluster.example": true, "10.1.2.3": true, "192.0.2.7": true, "::ffff:10.1.2.3": true,
		"cluster.example": false, "evil-db.example": false, "db.example.evil": false, "10.2.0.1": false, "localhost.evil": false, "0.0.0.0": false,
		"169.254.169.254": false, "127.0.0.1.nip.io": false, "": true,
	} {
		err := p.Check([]connectors.Location{{Kind: "redis", Host: host}})
		if (err == nil) != want || err != nil && !errors.Is(err, ErrDenied) {
			t.Errorf("%q: %v", host, err)
		}
	}
	if err := (Policy{Kinds: []string{"file"}}).Check([]connectors.Location{{Kind: "redis", Host: "localhost"}}); !errors.Is(err, ErrDenied) {
		t.Errorf("kind: %v", err)
	}
	if err := AllowAll.Check([]connectors.Location{{Kind: "redis", Host: "far.example"}, {Kind: "file", Dir: "/nowhere"}}); err != nil {
		t.Error(err)
	}
}

func TestPolicyDirs(t *testing.T) {
	base := t.TempDir()
	mine, link := filepath.Join(base, "mine"), filepath.Join(base, "link")
	if err := errors.Join(os.MkdirAll(filepath.Join(mine, "deep"), 0o700), os.Symlink("/proc", link)); err != nil {
		t.Fatal(err)
	}
	check := func(p Policy, dir string) error { return p.Check([]connectors.Location{{Kind: "file", Dir: dir}}) }
	if err := check(Policy{}, mine); err != nil {
		t.Errorf("a directory of the user's own: %v", err)
	}
	if err := check(Policy{}, filepath.Join(base, "none")); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("a directory that is not there: %v", err)
	}
	for _, dir := range []string{"/proc/self", "/sys", "/dev", link} {
		if err := check(Policy{}, dir); !errors.Is(err, ErrDenied) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	only := Policy{Dirs: []string{mine}, OnlyDirs: true}
	if err := check(only, filepath.Join(mine, "deep")); err != nil {
		t.Error(err)
	}
	if err := check(only, base); !errors.Is(err, ErrDenied) {
		t.Errorf("outside: %v", err)
	}
	if err := check(only, mine+"/../"); !errors.Is(err, ErrDenied) {
		t.Errorf("dotted: %v", err)
	}
}

// TestPolicyFiles: a proxy must not make us send the user's own files to a server of its choice.
func TestPolicyFiles(t *testing.T) {
	cfg := RedisConnector("localhost", 1)
	secret := filepath.Join(t.TempDir(), "id_rsa")
	if err := os.WriteFile(secret, []byte("PRIVATE"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Options["password_file"] = secret
	p := &Proxy[[]byte]{ref: reference{key: connectors.RedisKey{RedisKey: "x"}, received: &Config{Name: "n", Connector: cfg}}}
	p.Bind(NewStores())
	if _, err := p.Resolve(t.Context()); !errors.Is(err, ErrDenied) {
		t.Errorf("a file of the user's: %v", err)
	}
	if err := (Policy{Dirs: []string{filepath.Dir(secret)}}).Check([]connectors.Location{{Kind: "redis", File: secret}}); err != nil {
		t.Errorf("below an allowed directory: %v", err)
	}
}

// TestReceivedProxiesCreateNothing: a proxy that names a directory which does not exist must not make one, nor may a denied one be touched.
func TestReceivedProxiesCreateNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	r := reference{key: connectors.FileKey{Filename: "x"}, received: &Config{Name: "n", Connector: FileConnector(dir)}}
	for _, p := range []Policy{{}, {Dirs: []string{"*"}}, AllowAll} {
		q := &Proxy[[]byte]{ref: r}
		q.Bind(NewStores(WithPolicy(p)))
		if _, err := q.Resolve(t.Context()); err == nil {
			t.Errorf("%+v: resolved", p)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%+v: the directory was created", p)
		}
	}
	remote := &Proxy[[]byte]{ref: reference{key: connectors.RedisKey{RedisKey: "x"}, received: &Config{Name: "n", Connector: RedisConnector("192.0.2.1", 6379)}}}
	remote.Bind(NewStores())
	if _, err := remote.Resolve(t.Context()); !errors.Is(err, ErrDenied) {
		t.Errorf("a host that is not allowed: %v", err)
	}
}

// TestHostileKeys: a key in a proxy never leaves its directory.
func TestHostileKeys(t *testing.T) {
	base := t.TempDir()
	store := filepath.Join(base, "store")
	secret := filepath.Join(base, "secret")
	if err := errors.Join(os.Mkdir(store, 0o700), os.WriteFile(secret, []byte("BS\nsecret"), 0o600), os.WriteFile(secret+".ready", nil, 0o600),
		os.Symlink(secret, filepath.Join(store, "link")), os.WriteFile(filepath.Join(store, "link.ready"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	r := NewStores()
	defer r.Close(t.Context())
	for _, name := range []string{"../secret", "../../etc/passwd", secret, ".", "..", "", "a/b", "link", "x\x00y"} {
		q := &Proxy[[]byte]{ref: reference{key: connectors.FileKey{Filename: name}, evict: true, received: &Config{Name: "n", Connector: FileConnector(store)}}}
		q.Bind(r)
		if v, err := q.Resolve(t.Context()); err == nil {
			t.Errorf("%q: read %q", name, v)
		}
		if err := q.Evict(t.Context()); err == nil && name != "link" {
			t.Errorf("%q: evicted", name)
		}
	}
	if _, err := os.Stat(secret); err != nil {
		t.Errorf("deleted from outside: %v", err)
	}
}
