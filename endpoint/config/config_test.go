package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

const someUUID = "5a1f9cb5-4a0b-4c5c-9f0e-0c3a6ec3c6a8"

func minimal(more string) string {
	return "name = \"ep\"\nuuid = \"" + someUUID + "\"\nport = 1234\n" + more
}

// python runs a script in the environment that has ProxyStore's endpoints; what it prints is JSON into v.
func python(t *testing.T, v any, script string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Python(t, testenv.ProxyStore11), append([]string{"-W", "ignore", "-c", script}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	if err := json.Unmarshal(out, v); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// samples are configurations that must survive every round trip.
func samples() map[string]Config {
	solo := Default("solo", someUUID, 1)
	full := Default("Full_-9", strings.ToUpper(someUUID), 65535)
	full.Host, full.HostType = "node-1.example.org", HostStatic
	full.Relay = Relay{Address: "wss://relay.example.org:8700/x?y=1", Auth: Auth{Method: "globus", Kwargs: map[string]any{
		"a": int64(1), "b": "two", "c": []any{"x", int64(2)}, "d": map[string]any{"e": 1.5, "f": true}, "g h\n": "\x01\x1b\u00e9\U0001f600\"\\\t"}},
		ICEServers:   []ICEServer{{URLs: []string{"stun:a:1"}}, {URLs: []string{"turn:b:2", "turns:c:3?transport=tcp"}, Username: "u", Credential: "p\"w"}},
		PeerChannels: 8, VerifyCertificate: false}
	full.Storage = Storage{DatabasePath: "/tmp/with space/é/blobs.db", MaxObjectSize: 1 << 40}
	noICE := Default("no-ice", "urn:uuid:{"+someUUID+"}", 80)
	noICE.Relay.ICEServers = []ICEServer{}
	return map[string]Config{"solo": solo, "full": full, "no-ice": noICE}
}

func TestRoundTrip(t *testing.T) {
	for name, c := range samples() {
		dir := filepath.Join(t.TempDir(), "a", "b")
		if err := c.Write(dir); err != nil {
			t.Fatal(err)
		}
		got, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		if c.Relay.Auth.Kwargs == nil {
			c.Relay.Auth.Kwargs = map[string]any{}
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf("%s: wrote\n%+v, read\n%+v", name, c, got)
		}
		if _, err := os.Stat(filepath.Join(dir, ExtraFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a %s that says nothing was written", name, ExtraFile)
		}
		data, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := got.Encode(); !bytes.Equal(again, data) {
			t.Errorf("%s: encoding is not a fixed point:\n%s\n%s", name, data, again)
		}
	}
}

// TestPythonReadsOurs: our files mean to Python what they mean to us, and what Python writes of it means the same to us again.
func TestPythonReadsOurs(t *testing.T) {
	home := t.TempDir()
	for name, c := range samples() {
		if err := c.Write(filepath.Join(home, name)); err != nil {
			t.Fatal(err)
		}
	}
	const script = `
import sys, json, os
from proxystore.endpoint.config import read_config, write_config
out = {}
for d in os.listdir(sys.argv[1]):
    p = os.path.join(sys.argv[1], d)
    cfg = read_config(p)
    out[d] = cfg.model_dump()
    write_config(cfg, p)
print(json.dumps(out))
`
	var theirs map[string]struct {
		Name, UUID, Host string
		HostType         string `json:"host_type"`
		Port             int
		Relay            struct {
			Address string
			Auth    struct {
				Method string
				Kwargs map[string]any
			}
			ICE      []ICEServerJSON `json:"ice_servers"`
			Channels int             `json:"peer_channels"`
			Verify   bool            `json:"verify_certificate"`
		}
		Storage struct {
			Path string `json:"database_path"`
			Max  int64  `json:"max_object_size"`
		}
	}
	python(t, &theirs, script, home)
	for name, c := range samples() {
		got := theirs[name]
		if got.Name != c.Name || got.UUID != c.UUID || got.Host != c.Host || got.HostType != c.HostType || got.Port != c.Port ||
			got.Relay.Address != c.Relay.Address || got.Relay.Auth.Method != c.Relay.Auth.Method || got.Relay.Channels != c.Relay.PeerChannels ||
			got.Relay.Verify != c.Relay.VerifyCertificate || got.Storage.Path != c.Storage.DatabasePath || got.Storage.Max != c.Storage.MaxObjectSize ||
			(got.Relay.ICE == nil) != (c.Relay.ICEServers == nil) || len(got.Relay.ICE) != len(c.Relay.ICEServers) {
			t.Errorf("%s: Python reads\n%+v of\n%+v", name, got, c)
		}
		for i, s := range c.Relay.ICEServers {
			if g := got.Relay.ICE[i]; !slices.Equal(g.URLs, s.URLs) || g.Username != s.Username || g.Credential != s.Credential {
				t.Errorf("%s: Python reads %+v of %+v", name, g, s)
			}
		}
		if c.Relay.Auth.Kwargs == nil {
			c.Relay.Auth.Kwargs = map[string]any{}
		}
		if back, err := Read(filepath.Join(home, name)); err != nil || !reflect.DeepEqual(back, c) {
			t.Errorf("%s: after Python's write_config: %v\n%+v, was\n%+v", name, err, back, c)
		}
	}
}

// ICEServerJSON is how Python dumps one.
type ICEServerJSON struct {
	URLs                 []string
	Username, Credential string
}

// oddFiles are configurations at the edge; true: valid.
var oddFiles = map[string]bool{
	minimal(""): true,
	"":          false,
	"name = ":   false,
	minimal("unknown = 1\n[relay]\nunknown = 2\n[storage]\nunknown = 3\n[other]\nx = 1"):                              true,
	minimal("[relay.auth]\nunknown = 1"):                                                                              false,
	minimal("[[relay.ice_servers]]\nurls = \"stun:x\"\nunknown = 1"):                                                  false,
	minimal("[[relay.ice_servers]]\nurls = \"stun:x\""):                                                               true,
	minimal("[[relay.ice_servers]]\nurls = [\"stun:x\", \"turn:y\"]\nusername = \"\"\ncredential = \"c\""):            true,
	minimal("[[relay.ice_servers]]\nurls = [1]"):                                                                      false,
	minimal("[[relay.ice_servers]]\nusername = \"u\""):                                                                false,
	minimal("[relay]\nice_servers = []"):                                                                              true,
	minimal("[relay]\nice_servers = [{urls = \"stun:x\"}]"):                                                           true,
	minimal("[relay]\nice_servers = \"stun:x\""):                                                                      false,
	minimal("[relay]\naddress = \"http://x\""):                                                                        false,
	minimal("[relay]\naddress = \"ws://\""):                                                                           true,
	minimal("[relay]\naddress = \"\""):                                                                                false,
	minimal("[relay]\npeer_channels = 0"):                                                                             false,
	minimal("[relay]\npeer_channels = 1.0"):                                                                           false,
	minimal("[relay]\nverify_certificate = 1"):                                                                        false,
	minimal("[relay]\nauth = {method = \"globus\", kwargs = {x = 1979-05-27T07:32:00Z, y = [[1], [\"a\"]], z = {}}}"): true,
	minimal("[relay]\nauth = {method = \"none\"}"):                                                                    false,
	minimal("[relay]\nauth = {method = \"\"}"):                                                                        false,
	minimal("[relay]\nauth = \"globus\""):                                                                             false,
	minimal("relay = 1"):                                                                                              false,
	minimal("[storage]\nmax_object_size = 0"):                                                                         false,
	minimal("[storage]\nmax_object_size = 1e8"):                                                                       false,
	minimal("[storage]\nmax_object_size = 1"):                                                                         true,
	minimal("[storage]\ndatabase_path = 1"):                                                                           false,
	minimal("[storage]\ndatabase_path = \"\""):                                                                        true,
	minimal("host = \"\""):                                                                                            true,
	minimal("host = 1"):                                                                                               false,
	minimal("host_type = \"IP\""):                                                                                     false,
	minimal("host_type = \"static\""):                                                                                 true,
	"name = \"a b\"\nuuid = \"" + someUUID + "\"\nport = 1":                                                           false,
	"name = \"\"\nuuid = \"" + someUUID + "\"\nport = 1":                                                              false,
	"name = \"é\"\nuuid = \"" + someUUID + "\"\nport = 1":                                                             false,
	"name = \"a\"\nuuid = \"x\"\nport = 1":                                                                            false,
	"name = \"a\"\nuuid = \"{00000000000000000000000000000000}\"\nport = 1":                                           true,
	"name = \"a\"\nuuid = 1\nport = 1":                                                                                false,
	"name = \"a\"\nuuid = \"" + someUUID + "\"\nport = 0":                                                             false,
	"name = \"a\"\nuuid = \"" + someUUID + "\"\nport = 65536":                                                         false,
	"name = \"a\"\nuuid = \"" + someUUID + "\"\nport = true":                                                          false,
	"name = \"a\"\nuuid = \"" + someUUID + "\"\nport = \"1\"":                                                         false,
	"name = \"a\"\nuuid = \"" + someUUID + "\"\nport = 0x10":                                                          true,
	"name = \"a\"\nuuid = \"" + someUUID + "\"":                                                                       false,
	"uuid = \"" + someUUID + "\"\nport = 1":                                                                           false,
	"name = \"a\"\nname = \"b\"\nuuid = \"" + someUUID + "\"\nport = 1":                                               false,
	"\xff" + minimal(""):                                                                                              false,
}

func TestOddFiles(t *testing.T) {
	for data, ok := range oddFiles {
		_, err := Parse([]byte(data))
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", data, err)
		}
	}
}

// TestOddFilesInPython: Python agrees about each.
func TestOddFilesInPython(t *testing.T) {
	home := t.TempDir()
	i := 0
	want := map[string]bool{}
	for data, ok := range oddFiles {
		dir := filepath.Join(home, string(rune('a'+i%26))+string(rune('a'+i/26)))
		i++
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ConfigFile), []byte(data), 0o666); err != nil {
			t.Fatal(err)
		}
		want[dir] = ok
	}
	const script = `
import sys, json, os
from proxystore.endpoint.config import read_config, get_configs
out = {}
for d in os.listdir(sys.argv[1]):
    p = os.path.join(sys.argv[1], d)
    try:
        read_config(p)
        out[p] = True
    except ValueError as e:
        out[p] = False
print(json.dumps({'ok': out, 'configs': len(get_configs(sys.argv[1]))}))
`
	var got struct {
		OK      map[string]bool `json:"ok"`
		Configs int             `json:"configs"`
	}
	python(t, &got, script, home)
	for dir, ok := range want {
		if got.OK[dir] != ok {
			data, _ := os.ReadFile(filepath.Join(dir, ConfigFile))
			t.Errorf("Python says %v of %q", got.OK[dir], data)
		}
	}
	if all, err := List(home); err != nil || len(all) != got.Configs {
		t.Errorf("List: %d endpoints, %v; Python's get_configs %d", len(all), err, got.Configs)
	}
}

var uuidTexts = []string{someUUID, strings.ToUpper(someUUID), "{" + someUUID + "}", "urn:uuid:" + someUUID, "uuid:urn:" + someUUID, strings.ReplaceAll(someUUID, "-", ""),
	"", "x", "-", "{}", someUUID + "0", someUUID[1:], "{{" + someUUID, "5a1f9cb54a0b4c5c9f0e0c3a6ec3c6a-8-", "00000000000000000000000000000000",
	"ffffffffffffffffffffffffffffffff", "0x00000000000000000000000000ffff", "0X000000000000000000000000000fff", "0x_0000000000000000000000000ffff",
	"+0000000000000000000000000000001", "_0000000000000000000000000000001", "0000000000000000000000000000001_", "000000000000000_0000000000000001",
	"00000000000000__0000000000000001", " 000000000000000000000000000001 ", "\t\n\v\f\r00000000000000000000000000\x1c", "+ 000000000000000000000000000001",
	"+-00000000000000000000000000001", "0x000000000000000000000000000000", "0x+00000000000000000000000000000", "g0000000000000000000000000000000",
	"0x0x0000000000000000000000000000", "0x______________________________0", "0_x00000000000000000000000000000", "00x00000000000000000000000000000"}

func TestParseUUIDAsPython(t *testing.T) {
	in, err := json.Marshal(uuidTexts)
	if err != nil {
		t.Fatal(err)
	}
	var want [][2]string
	python(t, &want, `
import sys, json, uuid
out = []
for s in json.loads(sys.argv[1]):
    try:
        out.append([str(uuid.UUID(s)), str(uuid.UUID(s, version=4))])
    except ValueError:
        out.append(['', ''])
print(json.dumps(out))
`, string(in))
	for i, s := range uuidTexts {
		var got [2]string
		if u, err := ParseUUID(s); err == nil {
			got[0] = u.String()
		}
		if u, err := ParseUUID4(s); err == nil {
			got[1] = u.String()
		}
		if got != want[i] {
			t.Errorf("%q: %q, Python %q", s, got, want[i])
		}
	}
}

func TestHome(t *testing.T) {
	t.Setenv("PROXYSTORE_HOME", "/x/../y")
	t.Setenv("XDG_DATA_HOME", "/xdg")
	t.Setenv("HOME", "/home/me")
	if got := Home(); got != "/y" {
		t.Error(got)
	}
	os.Unsetenv("PROXYSTORE_HOME")
	if got := Home(); got != "/xdg/proxystore" {
		t.Error(got)
	}
	t.Setenv("XDG_DATA_HOME", "")
	if got := Home(); got != "/home/me/.local/share/proxystore" {
		t.Error(got)
	}
}

func TestDatabase(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	for in, want := range map[string]string{"": "", ":memory:": "", "/a//b.db": "/a/b.db", "b.db": "/ep/b.db", "~/b.db": "/home/me/b.db"} {
		if got := (Config{Storage: Storage{DatabasePath: in}}).Database("/ep"); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestExtra(t *testing.T) {
	dir := t.TempDir()
	c := Default("ep", someUUID, 1)
	c.Extra = Extra{HTTP: ExtraHTTP{Socket: "ep.sock", TLSCert: "c.pem", TLSKey: "k.pem", TLSListen: ":443", TokenFile: "/run/token", MaxConcurrent: 9},
		Storage: ExtraStorage{Quota: 1 << 40, FileAbove: 4096, Sync: true}, Relay: ExtraRelay{TokenFile: "t", CAFile: "ca.pem"},
		Peer: ExtraPeer{Listen: "10.0.0.1:7000", Advertise: []string{"nat.example.org:7000"}, Lanes: 8, Compress: "zstd", RelayOnly: true, Loopback: true},
		Log:  ExtraLog{Level: "debug", Format: "json"}}
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if err != nil || !reflect.DeepEqual(got.Extra, c.Extra) {
		t.Fatalf("%v: %+v", err, got.Extra)
	}
	c.Extra = DefaultExtra() // must replace what is there
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	if got, err = Read(dir); err != nil || !got.Extra.isDefault() {
		t.Fatalf("%v: %+v", err, got.Extra)
	}
	for _, bad := range []string{"[http]\nsokcet = \"x\"", "x = 1", "[http]\nplain = false", "[http]\ntls_cert = \"x\"", "[peer]\nlisten = \"x\"", "[peer]\nlanes = 100",
		"[peer]\ncompress = \"rar\"", "[log]\nlevel = \"loud\"", "[log]\nformat = \"xml\"", "[storage]\nquota = -1", "[http]\ntls_listen = \":1\"", "="} {
		if _, err := ParseExtra([]byte(bad)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if e, err := ParseExtra([]byte("[http]\nplain = false\nsocket = \"s\"\n[log]\nlevel=\"warn\"")); err != nil || e.HTTP.Plain || !e.HTTP.Metrics || e.SlogLevel() != 4 {
		t.Errorf("%+v, %v", e, err)
	}
	if Path("/ep", "") != "" || Path("/ep", "s") != "/ep/s" || Path("/ep", "/s") != "/s" {
		t.Error("Path")
	}
}

func TestSecretsAreNotForAll(t *testing.T) {
	dir := t.TempDir()
	c := samples()["full"]
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, ConfigFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

func TestReadErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigFile), make([]byte, maxFile+1), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	home := t.TempDir()
	if _, err := Configure(home, "ep", Options{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "ep", ExtraFile), []byte("junk"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(filepath.Join(home, "ep")); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if all, err := List(home); err != nil || len(all) != 1 || GetStatus(home, "ep") != Stopped {
		t.Error(all, err)
	}
	if all, err := List(filepath.Join(dir, "none")); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
	bad := Default("ep", someUUID, 1)
	bad.Storage.DatabasePath = "\xff"
	if err := bad.Write(dir); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// FuzzParse: whatever is in a file, it is refused or survives writing and reading.
func FuzzParse(f *testing.F) {
	for data := range oddFiles {
		f.Add([]byte(data))
	}
	for _, c := range samples() {
		data, err := c.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		out, err := c.Encode()
		if err != nil {
			return // a string that is not UTF-8 cannot come from a file, but times with odd zones can
		}
		back, err := Parse(out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		again, err := back.Encode()
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%v\n%s\n%s", err, out, again)
		}
	})
}
