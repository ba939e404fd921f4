package relay

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport"
)

const fullConfig = `
host = "0.0.0.0"
port = 8701
certfile = "cert.pem"
keyfile = "key.pem"
max_message_bytes = 65536
[auth]
method = "globus"
[auth.kwargs]
client_id = "id"
client_secret = "secret"
audience = "x"
[logging]
log_dir = "/var/log/relay"
default_level = "WARNING"
websockets_level = 30
current_client_interval = 10
current_client_limit = 5
default_log_level = "INFO"
[proxyplane]
insecure = true
globus_service_url = "https://auth.example.org"
max_clients = 100
max_clients_per_user = 10
handshakes_per_second = 1.5
messages_per_second = 2.0
registration_timeout = "3s"
write_timeout = "4s"
keep_alive = "1m"
log_format = "json"
[proxyplane.turn]
address = "0.0.0.0:3478"
relay_address = "192.0.2.1"
realm = "r"
users = {alice = "pw"}
min_port = 1
max_port = 2
allow_peers = ["10.0.0.0/8"]
`

func TestConfig(t *testing.T) {
	c, err := ParseConfig([]byte(fullConfig))
	if err != nil {
		t.Fatal(err)
	}
	if c.Address() != "0.0.0.0:8701" || c.CertFile != "cert.pem" || c.MaxMessageBytes != 65536 || c.Auth.Kwargs["client_secret"] != "secret" || c.Level() != slog.LevelWarn ||
		c.Proxyplane.MaxClients != 100 || time.Duration(c.Proxyplane.KeepAlive) != time.Minute || c.Proxyplane.Turn.Users["alice"] != "pw" || !c.Authenticated() ||
		c.Logging.LogDir != "/var/log/relay" || c.Proxyplane.Turn.AllowPeers[0] != "10.0.0.0/8" {
		t.Errorf("%+v", c)
	}
	c, err = ParseConfig(nil)
	if err != nil || c.Address() != "127.0.0.1:8700" || c.Level() != slog.LevelInfo || c.Logging.CurrentClientInterval != 60 || c.Authenticated() {
		t.Errorf("%+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"prot = 1":                     "unknown key prot; there are auth, certfile, host, keyfile, logging, max_message_bytes, port, proxyplane",
		"[auth]\nuser = 1":             "unknown key auth.user; there are auth.kwargs, auth.method",
		"[proxyplane]\nx = 1":          "unknown key proxyplane.x; there are proxyplane.globus_service_url, proxyplane.handshakes_per_second",
		"[proxyplane.turn]\nx = 1":     "unknown key proxyplane.turn.x; there are proxyplane.turn.address",
		"[serving]\nport = 1":          "unknown key serving",
		"[auth.kwargs]\nid = 1":        "unknown key auth.kwargs.id; there are audience, client_id, client_secret",
		"[auth.kwargs]\nclient_id = 1": "must be a string",
		"[auth]\nmethod = 'x'":         "there is globus",
		"[auth]\nmethod='globus'\n[proxyplane]\ntokens_file='x'": "exclude each other",
		"port = '1'":                              "port",
		"port = 65536":                            "ports go from",
		"host = 1":                                "host",
		"max_message_bytes = 0":                   "must be positive",
		"keyfile = 'x'":                           "keyfile needs a certfile",
		"[logging]\ndefault_level = 'LOUD'":       "there are DEBUG",
		"[logging]\ndefault_level = 1.5":          "a level is",
		"[logging]\ncurrent_client_interval = -1": "negative",
		"[proxyplane]\nlog_format = 'xml'":        "there are text, json",
		"[proxyplane]\nkeep_alive = '-1s'":        "negative",
		"[proxyplane]\nkeep_alive = 'x'":          "duration",
		"[":                                       "toml",
	} {
		if c, err := ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v; want %s", text, c, err, want)
		}
	}
	if l, err := level(int64(10)); err != nil || l != slog.LevelDebug {
		t.Error(l, err)
	}
	if l, err := level(int64(40)); err != nil || l != slog.LevelError {
		t.Error(l, err)
	}
}

func TestConfigOptions(t *testing.T) {
	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	if err := os.WriteFile(tokens, []byte("a b"), 0o600); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := writeCertificate(t, dir, "x")
	t.Setenv(clientIDVariable, "")
	for text, want := range map[string]string{
		"":                           "",
		"host = 'localhost'":         "",
		"host = '::1'":               "",
		"host = '0.0.0.0'":           "without authentication",
		"host = ''":                  "all interfaces",
		"host = 'relay.example.org'": "proxyplane.insecure = true",
		"host = '::'\n[proxyplane]\ninsecure = true":                                                   "",
		"host = '::'\n[proxyplane]\ntokens_file = '" + tokens + "'":                                    "",
		"host = '::'\n[proxyplane]\ntokens_file = '" + tokens + "x'":                                   "no such file",
		"certfile = '" + certFile + "'\nkeyfile = '" + keyFile + "'":                                   "",
		"certfile = '" + certFile + "'":                                                                "certificate",
		"[auth]\nmethod = 'globus'":                                                                    clientIDVariable,
		"host = '0.0.0.0'\n[auth]\nmethod = 'globus'\nkwargs = {client_id = 'x', client_secret = 'y'}": "",
	} {
		c, err := ParseConfig([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		o, err := c.ServerOptions(testLog(t))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
			continue
		}
		if strings.Contains(want, "without") && !errors.Is(err, transport.ErrDenied) {
			t.Errorf("%v", err)
		}
		if err == nil {
			s, err := NewServer(o)
			if err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			s.Close()
		}
	}
	path := filepath.Join(dir, "relay.toml")
	if _, err := ReadConfig(path); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("port = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadConfig(path); err != nil || c.Port != 1 {
		t.Error(c, err)
	}
}

// TestConfigPython: ProxyStore's relay reads the same file, with the same values.
func TestConfigPython(t *testing.T) {
	python := testenv.Python(t, testenv.ProxyStore11)
	path := filepath.Join(t.TempDir(), "relay.toml")
	if err := os.WriteFile(path, []byte(fullConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Host, Certfile, Keyfile string
		Port                    int
		Max                     int `json:"max_message_bytes"`
		Auth                    struct {
			Method string
			Kwargs map[string]string
		}
		Logging struct {
			Dir      string `json:"log_dir"`
			Interval int    `json:"current_client_interval"`
			Limit    int    `json:"current_client_limit"`
			Level    string `json:"default_level"`
		}
	}
	runPython(t, python, "", &got, nil, `
import json, sys
from proxystore.p2p.relay.config import RelayServingConfig
print(RelayServingConfig.from_toml(sys.argv[1]).model_dump_json())
`, path)
	if got.Host != c.Host || got.Port != c.Port || got.Certfile != c.CertFile || got.Keyfile != c.KeyFile || got.Max != c.MaxMessageBytes || got.Auth.Method != c.Auth.Method ||
		got.Auth.Kwargs["client_id"] != c.Auth.Kwargs["client_id"] || got.Logging.Dir != c.Logging.LogDir || got.Logging.Interval != c.Logging.CurrentClientInterval ||
		got.Logging.Limit != c.Logging.CurrentClientLimit || got.Logging.Level != c.Logging.DefaultLevel {
		data, err := json.Marshal(got)
		t.Errorf("Python reads %s, %v", data, err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(fullConfig))
	f.Add([]byte("a.b.c = 1\n[auth.kwargs.x]\ny = 2"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := ParseConfig(data); err == nil {
			c.Level()
			c.Address()
		}
	})
}
