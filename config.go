package proxyplane

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/atomicfile"
)

// Config is ProxyStore's StoreConfig: what it takes to open an equal store elsewhere. It is what a proxy carries, and what a TOML file holds.
type Config struct {
	// Name is how Python finds the store: two stores of one name in one Python process are one. Empty means a name made from the connector's
	// configuration, which is right unless a Python program looks the store up by name.
	Name string
	// Connector is where the objects are.
	Connector connectors.Config
	// CacheSize is Python's number of cached objects. Here 0 turns the resolve cache off and anything else leaves it bounded by bytes
	// ([WithCacheBytes]). [NewConfig] sets ProxyStore's default of 16.
	CacheSize int
	// Metrics turns ProxyStore's metrics on.
	Metrics bool
	// PopulateTarget makes a proxy hold the value it was made from, already resolved. [NewConfig] sets it, as ProxyStore does.
	PopulateTarget bool
	// AutoRegister registers the store under its name when it is opened.
	AutoRegister bool
}

// NewConfig returns a Config with ProxyStore's defaults.
func NewConfig(name string, connector connectors.Config) Config {
	return Config{Name: name, Connector: connector, CacheSize: 16, PopulateTarget: true}
}

// FileConnector returns the configuration of a file connector on dir, which Close leaves in place.
func FileConnector(dir string) connectors.Config {
	return connectors.Config{Kind: "file", Options: map[string]any{"store_dir": dir, "clear": false}}
}

// LocalConnector returns the configuration of a connector in this process's memory.
func LocalConnector() connectors.Config { return connectors.Config{Kind: "local"} }

// RedisConnector returns the configuration of a Redis connector.
func RedisConnector(host string, port int) connectors.Config {
	return connectors.Config{Kind: "redis", Options: map[string]any{"hostname": host, "port": int64(port)}}
}

// ErrConfig is a configuration that cannot be used; the message says what to change.
var ErrConfig = connectors.ErrConfig

// uniqueName is the default store name: Python finds stores by name only, so that one name with another configuration would make proxies
// unresolvable. Secrets are not in it: the name travels, and must not be a way to test guesses.
func uniqueName(drivers *connectors.Registry, c connectors.Config) (string, error) {
	if t, err := drivers.Travelling(c, false); err == nil {
		c = t
	}
	canonical, err := c.Canonical()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(canonical)
	return "proxyplane-" + hex.EncodeToString(sum[:8]), nil
}

// tomlConfig is StoreConfig's layout in TOML and in JSON, where absent fields mean the defaults.
type tomlConfig struct {
	Name           string        `toml:"name" json:"name"`
	CacheSize      *int          `toml:"cache_size,omitempty" json:"cache_size,omitempty"`
	Metrics        *bool         `toml:"metrics,omitempty" json:"metrics,omitempty"`
	PopulateTarget *bool         `toml:"populate_target,omitempty" json:"populate_target,omitempty"`
	AutoRegister   *bool         `toml:"auto_register,omitempty" json:"auto_register,omitempty"`
	Connector      tomlConnector `toml:"connector" json:"connector"`
}

type tomlConnector struct {
	Kind    string         `toml:"kind" json:"kind"`
	Options map[string]any `toml:"options" json:"options"`
}

func (c Config) layout() (tomlConfig, error) {
	options, err := connectors.NormalizeOptions(c.Connector.Options)
	if err != nil {
		return tomlConfig{}, err
	}
	return tomlConfig{c.Name, &c.CacheSize, &c.Metrics, &c.PopulateTarget, &c.AutoRegister,
		tomlConnector{c.Connector.Kind, connectors.WithoutNil(options).(map[string]any)}}, nil
}

func (l tomlConfig) config() (Config, error) {
	if l.Connector.Kind == "" {
		return Config{}, fmt.Errorf("%w: no connector kind; expected a table [connector] with kind = \"file\" or another", ErrConfig)
	}
	options, err := connectors.NormalizeOptions(l.Connector.Options)
	if err != nil {
		return Config{}, err
	}
	c := NewConfig(l.Name, connectors.Config{Kind: l.Connector.Kind, Options: options})
	set(&c.CacheSize, l.CacheSize)
	set(&c.Metrics, l.Metrics)
	set(&c.PopulateTarget, l.PopulateTarget)
	set(&c.AutoRegister, l.AutoRegister)
	if c.CacheSize < 0 {
		return Config{}, fmt.Errorf("%w: cache_size is %d; use 0 to turn the cache off", ErrConfig, c.CacheSize)
	}
	return c, nil
}

func set[T any](dst, src *T) {
	if src != nil {
		*dst = *src
	}
}

// maxConfigSize bounds a TOML file: a store configuration is some hundred bytes.
const maxConfigSize = 1 << 20

// ParseTOML reads what ProxyStore's StoreConfig.write_toml and [Config.TOML] write. As in Python, unknown keys are errors.
// Source: proxystore.store.config.StoreConfig, proxystore.utils.config.
func ParseTOML(data []byte) (Config, error) {
	if len(data) > maxConfigSize {
		return Config{}, fmt.Errorf("%w: %d bytes of TOML; a store configuration has at most %d", ErrConfig, len(data), maxConfigSize)
	}
	var l tomlConfig
	md, err := toml.NewDecoder(bytes.NewReader(data)).Decode(&l)
	if err != nil {
		return Config{}, fmt.Errorf("%w: not a store configuration in TOML: %w", ErrConfig, err)
	}
	var names []string
	for _, k := range md.Undecoded() {
		// Options are any; the library does not count tables within arrays there as decoded, though they are.
		if len(k) < 3 || k[0] != "connector" || k[1] != "options" {
			names = append(names, k.String())
		}
	}
	if len(names) > 0 {
		return Config{}, fmt.Errorf("%w: unknown keys %s; known are name, cache_size, metrics, populate_target, auto_register, connector.kind, connector.options",
			ErrConfig, strings.Join(names, ", "))
	}
	if l.Name == "" && !md.IsDefined("name") {
		return Config{}, fmt.Errorf("%w: no store name; add name = \"...\" (an empty one means: made from the connector)", ErrConfig)
	}
	return l.config()
}

// TOML returns the configuration in the form that StoreConfig.from_toml reads.
func (c Config) TOML() ([]byte, error) {
	l, err := c.layout()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := toml.NewEncoder(&b)
	enc.Indent = ""
	if err := enc.Encode(l); err != nil {
		return nil, fmt.Errorf("%w: cannot be written as TOML: %w", ErrConfig, err)
	}
	return b.Bytes(), nil
}

// ReadConfig reads a TOML file.
func ReadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	c, err := ParseTOML(data)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// WriteConfig writes a TOML file, whole or not at all. It holds secrets if the configuration does, so it is readable by its owner only.
func WriteConfig(path string, c Config) error {
	data, err := c.TOML()
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600)
}

// errLocalElsewhere explains the one connector whose objects never leave the process.
var errLocalElsewhere = fmt.Errorf("%w: local objects live in the process that made them, and no store of this process holds this one; "+
	"use a file, redis or multi connector, or include_data_in_config", connectors.ErrUnavailable)

// sorted iterates over a map in the order of its keys, so that equal configurations are written as equal bytes.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
