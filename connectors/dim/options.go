package dim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// Options are those that all these connectors have. Address, Interface, Port and Timeout are Python's.
type Options struct {
	Address   string        // of the server for new objects; for tcp also unix:///path; default: this machine's address (tcp: 127.0.0.1)
	Interface string        // network interface whose address it is, if Address is empty
	Port      int           // 0: a server within the process, at a port that the system picks
	Timeout   time.Duration // how long to look for a server before one is started; default: 1 s

	ConnectOnly bool // start no server, and look for one only when something is put; never travels
	Connections int  // to each peer, at most; default: one per CPU, from 2 to 4
	TTL         time.Duration

	Token     string // secret that servers and clients share
	TokenFile string // instead of Token; line breaks and spaces at its end are no part of it
	Insecure  bool   // a server that is started here may listen beyond loopback without token or certificates

	// Of a server that is started here.
	Memory     int64  // bytes that it holds at most; default: half of the machine's
	MaxObject  int64  // length of its largest object; default: Memory
	SpillDir   string // directory for objects when memory is full
	SpillBytes int64  // bytes that go there at most

	Hash     string // checksums of bodies: auto (default: where the network could damage them), always, never
	Compress string // of bodies: none (default), s2, zstd, auto

	loopback bool // the default of Address
}

// Defaults of Options.
const (
	defaultTimeout = time.Second
	maxConnections = 64
)

// Defaults are what differs between connectors.
type Defaults struct {
	Loopback bool // the default address is loopback, and not this machine's own
}

// OptionNames are the options that [Parse] reads beside Python's.
var OptionNames = []string{"connect_only", "connections", "ttl", "token", "token_file", "insecure", "memory", "max_object", "spill_dir", "spill_bytes", "hash",
	"compress"}

// SecretOptions never travel. connect_only is no secret, but a receiver starts no server in any case.
var SecretOptions = []string{"token", "connect_only"}

// Parse reads the common options.
func Parse(o *connectors.Options, d Defaults) Options {
	opts := Options{
		Address: o.String("address", ""), Interface: o.String("interface", ""), Port: int(o.Int("port", 0, 0, math.MaxUint16)),
		Timeout: o.Seconds("timeout", defaultTimeout), ConnectOnly: o.Bool("connect_only", false),
		Connections: int(o.Int("connections", 0, 0, maxConnections)), TTL: o.Seconds("ttl", 0),
		Token: o.String("token", ""), TokenFile: o.String("token_file", ""), Insecure: o.Bool("insecure", false),
		Memory: o.Int("memory", 0, 0, math.MaxInt64), MaxObject: o.Int("max_object", 0, 0, math.MaxInt64), SpillDir: o.String("spill_dir", ""),
		SpillBytes: o.Int("spill_bytes", 0, 0, math.MaxInt64), Hash: o.String("hash", ""), Compress: o.String("compress", ""), loopback: d.Loopback,
	}
	if _, ok := hashModes[opts.Hash]; !ok {
		o.Fail("hash", "must be auto, always or never")
	}
	if _, ok := compressions[opts.Compress]; !ok {
		o.Fail("compress", "must be none, s2, zstd or auto")
	}
	return opts
}

var (
	hashModes    = map[string]native.HashMode{"": native.HashAuto, "auto": native.HashAuto, "always": native.HashAlways, "never": native.HashNever}
	compressions = map[string]native.Compression{"": native.CompressNone, "none": native.CompressNone, "s2": native.CompressS2,
		"zstd": native.CompressZstd, "auto": native.CompressAuto}
)

// Values is the inverse of [Parse]. Defaults are left out, but for what Python has.
func (o Options) Values() map[string]any {
	m := map[string]any{"port": int64(o.Port), "timeout": o.Timeout.Seconds()}
	for name, v := range map[string]string{"address": o.Address, "interface": o.Interface, "token": o.Token, "token_file": o.TokenFile, "spill_dir": o.SpillDir,
		"hash": o.Hash, "compress": o.Compress} {
		if v != "" {
			m[name] = v
		}
	}
	for name, v := range map[string]bool{"connect_only": o.ConnectOnly, "insecure": o.Insecure} {
		if v {
			m[name] = true
		}
	}
	for name, v := range map[string]int64{"connections": int64(o.Connections), "memory": o.Memory, "max_object": o.MaxObject, "spill_bytes": o.SpillBytes} {
		if v != 0 {
			m[name] = v
		}
	}
	if o.TTL != 0 {
		m["ttl"] = o.TTL.Seconds()
	}
	return m
}

// Receive takes back what a stranger's configuration must not choose.
func (o *Options) Receive() {
	o.Connections = 0
	o.Timeout = min(o.Timeout, dialTimeout)
}

// ensure fills in the defaults and refuses what contradicts itself.
func (o *Options) ensure() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", connectors.ErrConfig, fmt.Sprintf(format, args...))
	}
	switch path, isUnix := strings.CutPrefix(o.Address, unixScheme); {
	case isUnix && (!validSocket(o.Address) || len(path) > 100):
		return bad("option address: a unix socket is unix:// and an absolute path of at most 100 bytes")
	case isUnix && o.Port != 0:
		return bad("option port goes with a network address, not with a unix socket")
	case !isUnix && o.Address != "" && !validHost(o.Address):
		return bad("option address: %.100q is no host name and no address; it has no port in it, and IPv6 stands without brackets", o.Address)
	case o.Port < 0 || o.Port > math.MaxUint16:
		return bad("option port must be from 0 to 65535")
	case o.Token != "" && o.TokenFile != "":
		return bad("option token excludes token_file")
	case o.Timeout < 0 || o.TTL < 0 || o.Memory < 0 || o.MaxObject < 0 || o.SpillBytes < 0 || o.Connections < 0:
		return bad("options timeout, ttl, memory, max_object, spill_bytes and connections must not be negative")
	case o.SpillBytes > 0 && o.SpillDir == "":
		return bad("option spill_bytes needs spill_dir")
	}
	for _, d := range []*time.Duration{&o.Timeout, &o.TTL} {
		*d = d.Round(time.Microsecond) // so that seconds as a float64, and back, are the same
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	for _, path := range []*string{&o.TokenFile, &o.SpillDir} {
		if err := Absolute(path); err != nil {
			return err
		}
	}
	return nil
}

// Absolute makes a path absolute, since who receives a configuration runs elsewhere.
func Absolute(path *string) error {
	if *path == "" {
		return nil
	}
	abs, err := filepath.Abs(*path)
	if err != nil {
		return err
	}
	*path = abs
	return nil
}

// host returns where the server for new objects is.
func (o *Options) host(ctx context.Context) (string, error) {
	switch {
	case o.Address != "":
		return o.Address, nil
	case o.Interface != "":
		return interfaceHost(o.Interface)
	case o.loopback:
		return "127.0.0.1", nil
	}
	return ownHost(ctx)
}

// limits says in words what a server that is started with o may hold; empty if o sets nothing.
func (o *Options) limits() string {
	var words []string
	for name, v := range map[string]int64{"memory": o.Memory, "max_object": o.MaxObject, "spill_bytes": o.SpillBytes} {
		if v != 0 {
			words = append(words, fmt.Sprintf("%s=%d", name, v))
		}
	}
	if o.SpillDir != "" {
		words = append(words, "spill_dir="+o.SpillDir)
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

func (o *Options) connections() int {
	if o.Connections > 0 {
		return o.Connections
	}
	return min(max(runtime.GOMAXPROCS(0), 2), 4)
}

// Locations returns what opening a connector would touch: the server, if it is named (those that keys name are confirmed later), and files.
func (o *Options) Locations(kind string, files ...string) ([]connectors.Location, error) {
	if err := o.ensure(); err != nil {
		return nil, err
	}
	all := []connectors.Location{{Kind: kind}}
	if o.Address != "" {
		all[0] = peer{host: o.Address}.location(kind)
	}
	for _, path := range append([]string{o.TokenFile}, files...) {
		if path != "" {
			if err := Absolute(&path); err != nil {
				return nil, err
			}
			all = append(all, connectors.Location{Kind: kind, File: path})
		}
	}
	return all, nil
}

// maxFile bounds a token, a key or certificates from a file.
const maxFile = 1 << 20

// ReadFile reads the small file that an option names.
func ReadFile(option, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: option %s: %w", connectors.ErrConfig, option, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%w: option %s: %w", connectors.ErrConfig, option, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: option %s: %s has more than %d bytes", connectors.ErrConfig, option, path, maxFile)
	}
	return data, nil
}

// Secret returns the token, nil for none.
func (o *Options) Secret() ([]byte, error) {
	switch {
	case o.Token != "" && o.TokenFile != "":
		return nil, fmt.Errorf("%w: option token excludes token_file", connectors.ErrConfig)
	case o.Token != "":
		return []byte(o.Token), nil
	case o.TokenFile == "":
		return nil, nil
	}
	token, err := ReadFile("token_file", o.TokenFile)
	if err != nil {
		return nil, err
	}
	if token = bytes.TrimSpace(token); len(token) == 0 {
		return nil, fmt.Errorf("%w: option token_file: %s is empty", connectors.ErrConfig, o.TokenFile)
	}
	return token, nil
}

// Native returns the options of the protocol's two sides.
func (o *Options) Native(token []byte) (native.ServerOptions, native.ClientOptions) {
	hash, compress := hashModes[o.Hash], compressions[o.Compress]
	return native.ServerOptions{Token: token, Hash: hash, Compress: compress}, native.ClientOptions{Token: token, Hash: hash, Compress: compress}
}

// NewTable makes the Store of a server as the options say.
func NewTable(o *Options) (*Store, error) {
	t, err := objects.NewTable(objects.TableOptions{Memory: o.Memory, MaxObject: o.MaxObject, SpillDir: o.SpillDir, SpillBytes: o.SpillBytes, TTL: o.TTL})
	if err != nil {
		return nil, fmt.Errorf("%w: option spill_dir: %w", connectors.ErrConfig, err)
	}
	return &Store{Store: t, Close: t.Close}, nil
}

// Scope returns a digest of what connectors must have in common to share a server.
func Scope(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Travel does what [connectors.Registry.Travelling] does by a driver's lists, except that an essential option that fine names is none.
func Travel(d *connectors.Driver, opts map[string]any, python bool, fine func(name string) bool) (map[string]any, error) {
	for name, v := range opts {
		if python && slices.Contains(d.Essential, name) && v != nil && v != "" && v != false && !fine(name) {
			return nil, fmt.Errorf("%w for option %s of connector %s; write the proxy as JSON for Go readers, or use a connector without it",
				connectors.ErrNotForPython, name, d.Kind)
		}
	}
	for name := range opts {
		if slices.Contains(d.Secret, name) || python && !slices.Contains(d.PythonOptions, name) {
			delete(opts, name)
		}
	}
	return opts, nil
}
