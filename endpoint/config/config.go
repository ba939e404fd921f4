package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/internal/atomicfile"
)

// Names of files in an endpoint's directory.
const (
	ConfigFile   = "config.toml"
	DatabaseFile = "blobs.db"
	LogFile      = "log.txt"
	PIDFile      = "daemon.pid"
	ExtraFile    = "proxyplane.toml"
)

// ProxyStore's defaults.
const (
	DefaultMaxObjectSize = 100_000_000 // bytes
	DefaultRelay         = "wss://relay.proxystore.dev"
)

// Ways to find the address that an endpoint listens on, for [Config.HostType].
const (
	HostIP     = "ip"     // the IPv4 address of this host's name
	HostFQDN   = "fqdn"   // this host's full name
	HostStatic = "static" // what Host says
)

// ErrInvalid is a configuration that cannot be used; the text names each field and what it must be.
var ErrInvalid = errors.New("invalid endpoint configuration")

// Config is ProxyStore's EndpointConfig, and what this program adds to it.
type Config struct {
	Name     string // letters, digits, '-' and '_'; also the directory's name
	UUID     string // as written; [ParseUUID] reads it
	Host     string // what it listens on and clients connect to; empty until it has been started once (None)
	HostType string // HostIP, HostFQDN or HostStatic
	Port     int    // 1 to 65535
	Relay    Relay
	Storage  Storage
	Extra    Extra
}

// Relay is how the endpoint finds its peers.
type Relay struct {
	Address           string // ws:// or wss://; empty: no peers
	Auth              Auth
	ICEServers        []ICEServer // nil: the default public STUN servers; empty but not nil: none
	PeerChannels      int         // data channels per connection to a peer, at least 1
	VerifyCertificate bool
}

// Auth is how the endpoint proves to the relay who it is.
type Auth struct {
	Method string // "" or "globus"
	Kwargs map[string]any
}

// ICEServer is a STUN or TURN server.
type ICEServer struct {
	URLs       []string // stun:host:port, turn:host:port?transport=udp, ...
	Username   string   // empty: none
	Credential string
}

// Storage is where the objects are.
type Storage struct {
	DatabasePath  string // empty or ":memory:": in memory
	MaxObjectSize int64  // bytes, at least 1
}

// Default returns the configuration that a file has with nothing in it but these.
func Default(name, id string, port int) Config {
	return Config{Name: name, UUID: id, Port: port, HostType: HostIP, Relay: Relay{PeerChannels: 1, VerifyCertificate: true},
		Storage: Storage{MaxObjectSize: DefaultMaxObjectSize}, Extra: DefaultExtra()}
}

// Database returns the database's path: absolute, or relative to dir as for Python's daemon, whose working directory that is. Empty means
// that objects are in memory only.
func (c Config) Database(dir string) string {
	p := c.Storage.DatabasePath
	switch {
	case p == "" || p == ":memory:":
		return ""
	case p == "~" || strings.HasPrefix(p, "~/"):
		return filepath.Join(userHome(), strings.TrimPrefix(p, "~"))
	case filepath.IsAbs(p):
		return filepath.Clean(p)
	}
	return filepath.Join(dir, p)
}

// Validate returns all that is wrong with c, as one ErrInvalid.
func (c Config) Validate() error {
	var p problems
	if !ValidName(c.Name) {
		p.add("name", "Name must only contain alphanumeric characters, dashes, and underscores. Got %s.", c.Name)
	}
	if _, err := ParseUUID(c.UUID); err != nil {
		p.add("uuid", "\"%s\" is not a valid UUID4 string.", c.UUID)
	}
	if c.Port < 1 || c.Port > 65535 {
		p.add("port", "Port must be in range [1, 65535].")
	}
	if !slices.Contains([]string{HostFQDN, HostIP, HostStatic}, c.HostType) {
		p.add("host_type", "Input should be 'fqdn', 'ip' or 'static'.")
	}
	if a := c.Relay.Address; a != "" && !strings.HasPrefix(a, "ws://") && !strings.HasPrefix(a, "wss://") {
		p.add("relay.address", "Server must start with ws:// or wss://.")
	}
	if m := c.Relay.Auth.Method; m != "" && m != "globus" {
		p.add("relay.auth.method", "Input should be 'globus'.")
	}
	for i, s := range c.Relay.ICEServers {
		if len(s.URLs) == 0 {
			p.add(fmt.Sprintf("relay.ice_servers.%d.urls", i), "Field required.")
		}
	}
	if c.Relay.PeerChannels < 1 {
		p.add("relay.peer_channels", "Peer channels must be >= 1.")
	}
	if c.Storage.MaxObjectSize < 1 {
		p.add("storage.max_object_size", "Max object size must be None or greater than zero.")
	}
	c.Extra.validate(&p)
	return p.err()
}

// ValidName reports whether an endpoint may be called that. A name is also a directory's, so that this keeps paths out.
func ValidName(name string) bool {
	for _, r := range name {
		if !(r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '-') {
			return false
		}
	}
	return name != ""
}

// Home returns the directory of all endpoints: $PROXYSTORE_HOME, else $XDG_DATA_HOME/proxystore, else ~/.local/share/proxystore.
// Source: proxystore.utils.environment.home_dir.
func Home() string {
	p, ok := os.LookupEnv("PROXYSTORE_HOME")
	if !ok {
		prefix := os.Getenv("XDG_DATA_HOME")
		if prefix == "" {
			prefix = filepath.Join(userHome(), ".local", "share")
		}
		p = filepath.Join(prefix, "proxystore")
	}
	if abs, err := filepath.Abs(p); err == nil {
		return abs
	}
	return p
}

// userHome is Python's expanduser("~"): $HOME, else what the system has on record.
func userHome() string {
	if h, err := os.UserHomeDir(); err == nil {
		return h
	}
	if u, err := user.Current(); err == nil {
		return u.HomeDir
	}
	return "~"
}

// Read reads the configuration in dir. A directory without one gives fs.ErrNotExist, one that makes no sense ErrInvalid.
// Source: proxystore.endpoint.config.read_config.
func Read(dir string) (Config, error) {
	c, err := readMain(dir)
	if err != nil {
		return Config{}, err
	}
	c.Extra, err = readExtra(dir)
	return c, err
}

func readMain(dir string) (Config, error) {
	path := filepath.Join(dir, ConfigFile)
	data, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("endpoint directory %s does not contain a valid configuration: %w", dir, err)
	}
	if err != nil {
		return Config{}, err
	}
	c, err := Parse(data)
	if err != nil {
		return Config{}, fmt.Errorf("unable to parse (%s): %w", path, err)
	}
	return c, nil
}

// maxFile bounds a configuration file: they have some hundred bytes.
const maxFile = 1 << 20

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrInvalid, path, maxFile)
	}
	return data, err
}

// Write writes both files into dir, which it makes if need be, each whole or not at all. proxyplane.toml is written only if it says something or
// exists already.
func (c Config) Write(dir string) error {
	if err := c.Validate(); err != nil {
		return err
	}
	extra, err := c.Extra.encode()
	if err != nil {
		return err
	}
	if err := c.writeMain(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, ExtraFile)
	if _, err := os.Stat(path); c.Extra.isDefault() && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return atomicfile.Write(path, extra, mode(path, false))
}

// writeMain writes config.toml alone.
func (c Config) writeMain(dir string) error {
	data, err := c.Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil { // as Python; the umask decides
		return err
	}
	path := filepath.Join(dir, ConfigFile)
	secret := len(c.Relay.Auth.Kwargs) > 0 || slices.ContainsFunc(c.Relay.ICEServers, func(s ICEServer) bool { return s.Credential != "" })
	return atomicfile.Write(path, data, mode(path, secret))
}

// mode is what a file has already, so that a user's choice survives; a new one is for all to read unless it holds a secret.
func mode(path string, secret bool) fs.FileMode {
	if fi, err := os.Stat(path); err == nil {
		return fi.Mode().Perm()
	}
	if secret {
		return 0o600
	}
	return 0o644
}

// Entry is an endpoint that List has found.
type Entry struct {
	Dir    string
	Config Config
}

// List returns the endpoints below home, by directory; what is not a valid configuration is passed over, and a home that does not exist has none.
// Source: proxystore.endpoint.config.get_configs.
func List(home string) ([]Entry, error) {
	root, err := filepath.EvalSymlinks(home)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Entry
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path == root {
				return err
			}
			return fs.SkipDir // unreadable: not ours to complain about
		}
		if !d.IsDir() || path == root {
			return nil
		}
		if strings.HasSuffix(d.Name(), DatabaseFile+".objects") {
			return fs.SkipDir // package storage's, with a file for each large object
		}
		c, err := readMain(path)
		if err != nil {
			return nil
		}
		if c.Extra, err = readExtra(path); err != nil {
			c.Extra = DefaultExtra() // its start will say what is wrong there; it still is an endpoint
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		all = append(all, Entry{Dir: filepath.Join(home, rel), Config: c})
		return nil
	})
	return all, err
}

// Options of a new endpoint. The zero value is what ProxyStore's configure_endpoint does with neither a relay nor persistence.
type Options struct {
	Host         string // HostIP (default), HostFQDN, or an address
	Port         int    // 0: one from 10240 to 20480 at random
	PeerChannels int    // default 1
	Persist      bool   // objects are kept in a database in the endpoint's directory
	Relay        string // address; empty: none
	RelayAuth    bool   // the relay wants Globus tokens
	ICEServers   []ICEServer
	Extra        *Extra // nil: DefaultExtra
}

// New returns a configuration with a new UUID. It makes nothing on disk.
// Source: proxystore.endpoint.commands.configure_endpoint.
func New(home, name string, o Options) (Config, error) {
	if o.Port == 0 {
		o.Port = 10*1024 + rand.IntN(10*1024+1)
	}
	c := Default(name, uuid.NewString(), o.Port)
	switch h := strings.ToLower(strings.TrimSpace(o.Host)); h {
	case "", HostIP:
	case HostFQDN:
		c.HostType = HostFQDN
	default:
		c.HostType, c.Host = HostStatic, o.Host
	}
	c.Relay.Address, c.Relay.ICEServers = o.Relay, o.ICEServers
	if o.RelayAuth {
		c.Relay.Auth.Method = "globus"
	}
	if o.PeerChannels != 0 {
		c.Relay.PeerChannels = o.PeerChannels
	}
	if o.Persist {
		c.Storage.DatabasePath = filepath.Join(home, name, DatabaseFile)
	}
	if o.Extra != nil {
		c.Extra = *o.Extra
	}
	return c, c.Validate()
}

// Configure makes the directory of a new endpoint in home. An endpoint or anything else of that name is fs.ErrExist.
func Configure(home, name string, o Options) (Config, error) {
	c, err := New(home, name, o)
	if err != nil {
		return Config{}, err
	}
	dir := filepath.Join(home, name)
	if err := os.MkdirAll(home, 0o777); err != nil {
		return Config{}, err
	}
	if err := os.Mkdir(dir, 0o777); errors.Is(err, fs.ErrExist) {
		return Config{}, fmt.Errorf("an endpoint named %s already exists; to reconfigure the endpoint, remove and try again: %w", name, fs.ErrExist)
	} else if err != nil {
		return Config{}, err
	}
	return c, c.Write(dir)
}

// ResolveHost returns the address to listen on, by HostType. Looking a name up takes as long as ctx and the system allow.
func (c Config) ResolveHost(ctx context.Context) (string, error) {
	switch c.HostType {
	case HostStatic:
		if c.Host == "" {
			return "", fmt.Errorf("%w: missing static host address in config; set the `host` field or change the `host_type` to \"ip\" or \"fqdn\"", ErrInvalid)
		}
		return c.Host, nil
	case HostFQDN:
		return fqdn(ctx)
	}
	name, err := os.Hostname()
	if err != nil {
		return "", err
	}
	addrs, err := net.DefaultResolver.LookupIP(ctx, "ip4", name) // as Python's gethostbyname: IPv4 only
	if err != nil {
		return "", fmt.Errorf("this host's name %q has no IPv4 address; add it to /etc/hosts, or set host_type = \"static\" and host to an address: %w", name, err)
	}
	return addrs[0].String(), nil
}

// fqdn is Python's socket.getfqdn: the first name with a dot that the system knows for this host, else its bare name.
func fqdn(ctx context.Context) (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		return name, nil // as Python
	}
	names, _ := net.DefaultResolver.LookupAddr(ctx, addrs[0])
	for _, n := range names {
		if n = strings.TrimSuffix(n, "."); strings.Contains(n, ".") {
			return n, nil
		}
	}
	if len(names) > 0 {
		return strings.TrimSuffix(names[0], "."), nil
	}
	return name, nil
}

// ParseUUID reads a UUID as Python's uuid.UUID does: hexadecimal digits with "urn:", "uuid:", braces and hyphens anywhere.
func ParseUUID(s string) (uuid.UUID, error) {
	h := strings.ReplaceAll(strings.ReplaceAll(s, "urn:", ""), "uuid:", "")
	h = strings.ReplaceAll(strings.Trim(h, "{}"), "-", "")
	if len(h) != 32 {
		return uuid.UUID{}, fmt.Errorf("%q is not a valid UUID", s)
	}
	return pythonHex(h, s)
}

// ParseUUID4 is uuid.UUID(s, version=4): any UUID, in which it sets the bits of version and variant. Requests to an endpoint are read so.
func ParseUUID4(s string) (uuid.UUID, error) {
	u, err := ParseUUID(s)
	if err != nil {
		return u, err
	}
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u, nil
}

// pythonHex reads 32 characters as Python's int(h, 16) does, which takes more than digits: white space around them, a sign, 0x, and single
// underscores between digits. Digits of other scripts it takes too; we do not.
func pythonHex(h, whole string) (uuid.UUID, error) {
	var u uuid.UUID
	fail := fmt.Errorf("%q is not a valid UUID", whole)
	h = strings.Trim(h, " \t\n\v\f\r")
	negative := strings.HasPrefix(h, "-")
	if h != "" && (h[0] == '-' || h[0] == '+') {
		h = h[1:]
	}
	if len(h) > 1 && h[0] == '0' && h[1]|0x20 == 'x' {
		h = strings.TrimPrefix(h[2:], "_")
	}
	if h == "" || strings.HasPrefix(h, "_") || strings.HasSuffix(h, "_") || strings.Contains(h, "__") {
		return u, fail
	}
	h = strings.ReplaceAll(h, "_", "")
	for i := range h {
		c := h[len(h)-1-i]
		var d byte
		switch {
		case c >= '0' && c <= '9':
			d = c - '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			d = c | 0x20 - 'a' + 10
		default:
			return uuid.UUID{}, fail
		}
		u[15-i/2] |= d << (4 * (i % 2))
	}
	if negative && u != (uuid.UUID{}) {
		return uuid.UUID{}, fail
	}
	return u, nil
}

// problems collects what is wrong with a configuration.
type problems []string

func (p *problems) add(field, format string, args ...any) {
	*p = append(*p, field+": "+fmt.Sprintf(format, args...))
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrInvalid, strings.Join(p, "; "))
}

// Encode returns config.toml, as Python's tomli_w would write it but for layout: what is None is absent.
func (c Config) Encode() ([]byte, error) {
	type auth struct {
		Method string         `toml:"method,omitempty"`
		Kwargs map[string]any `toml:"kwargs"`
	}
	type server struct {
		URLs       []string `toml:"urls"`
		Username   string   `toml:"username,omitempty"`
		Credential string   `toml:"credential,omitempty"`
	}
	type relay struct {
		Address           string `toml:"address,omitempty"`
		ICEServers        any    `toml:"ice_servers"`
		PeerChannels      int    `toml:"peer_channels"`
		VerifyCertificate bool   `toml:"verify_certificate"`
		Auth              auth   `toml:"auth"`
	}
	type storage struct {
		DatabasePath  string `toml:"database_path,omitempty"`
		MaxObjectSize int64  `toml:"max_object_size"`
	}
	r := relay{c.Relay.Address, nil, c.Relay.PeerChannels, c.Relay.VerifyCertificate, auth{c.Relay.Auth.Method, c.Relay.Auth.Kwargs}}
	if r.Auth.Kwargs == nil {
		r.Auth.Kwargs = map[string]any{}
	}
	if s := c.Relay.ICEServers; s != nil && len(s) == 0 {
		r.ICEServers = []any{} // written, unlike an empty list of tables: it is not the default
	} else if s != nil {
		servers := make([]server, len(s))
		for i, v := range s {
			servers[i] = server(v)
		}
		r.ICEServers = servers
	}
	return encodeTOML(struct {
		Name     string  `toml:"name"`
		UUID     string  `toml:"uuid"`
		Port     int     `toml:"port"`
		Host     string  `toml:"host,omitempty"`
		HostType string  `toml:"host_type"`
		Relay    relay   `toml:"relay"`
		Storage  storage `toml:"storage"`
	}{c.Name, c.UUID, c.Port, c.Host, c.HostType, r, storage{c.Storage.DatabasePath, c.Storage.MaxObjectSize}})
}

func encodeTOML(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := toml.NewEncoder(&b)
	enc.Indent = ""
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: cannot be written as TOML: %w", ErrInvalid, err)
	}
	if !bytes.Equal(bytes.ToValidUTF8(b.Bytes(), nil), b.Bytes()) {
		return nil, fmt.Errorf("%w: a value is not UTF-8, which TOML must be; choose another path or name", ErrInvalid)
	}
	return b.Bytes(), nil
}
