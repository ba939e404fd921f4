package relay

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/proxyplane/proxyplane/transport"
)

// DefaultPort is where relays listen if nothing else is said.
const DefaultPort = 8700

// Config is a relay's configuration file: that of ProxyStore's relay (proxystore/p2p/relay/config.py, RelayServingConfig), and a table [proxyplane] with what that
// one does not have. ProxyStore's relay ignores the table, so that both can run from one file. Unknown keys are errors.
type Config struct {
	Host            string        `toml:"host"` // default: 127.0.0.1, whereas ProxyStore's relay listens everywhere
	Port            int           `toml:"port"` // default DefaultPort
	CertFile        string        `toml:"certfile"`
	KeyFile         string        `toml:"keyfile"` // default: in CertFile
	Auth            ConfigAuth    `toml:"auth"`
	Logging         ConfigLogging `toml:"logging"`
	MaxMessageBytes int           `toml:"max_message_bytes"` // default DefaultMaxMessage
	Proxyplane      ConfigExtra   `toml:"proxyplane"`
}

// ConfigAuth says how clients are authenticated.
type ConfigAuth struct {
	Method string         `toml:"method"` // "globus", or "" for nobody
	Kwargs map[string]any `toml:"kwargs"` // client_id, client_secret, audience
}

// ConfigLogging is what to log. The levels are numbers of Python's logging or its names.
type ConfigLogging struct {
	LogDir                string `toml:"log_dir"`
	DefaultLevel          any    `toml:"default_level"` // default INFO
	WebsocketsLevel       any    `toml:"websockets_level"`
	CurrentClientInterval int    `toml:"current_client_interval"` // seconds between records of who is connected; default 60, 0 is never
	CurrentClientLimit    int    `toml:"current_client_limit"`    // with a list if they are fewer; default 32

	// Names in the documentation of ProxyStore's relay, which it ignores.
	DefaultLogLevel                any `toml:"default_log_level"`
	WebsocketsLogLevel             any `toml:"websockets_log_level"`
	ConnectedClientLoggingInterval any `toml:"connected_client_logging_interval"`
	ConnectedClientLoggingLimit    any `toml:"connected_client_logging_limit"`
}

// ConfigExtra is the table [proxyplane]. Limits are as in ServerOptions.
type ConfigExtra struct {
	Insecure bool `toml:"insecure"` // serve everybody as one user beyond this host

	TokensFile       string `toml:"tokens_file"`        // authenticate by the tokens in this file, see Tokens
	GlobusServiceURL string `toml:"globus_service_url"` // another service than Globus's

	MaxClients          int      `toml:"max_clients"`
	MaxClientsPerUser   int      `toml:"max_clients_per_user"`
	HandshakesPerSecond float64  `toml:"handshakes_per_second"`
	MessagesPerSecond   float64  `toml:"messages_per_second"`
	RegistrationTimeout Duration `toml:"registration_timeout"`
	WriteTimeout        Duration `toml:"write_timeout"`
	KeepAlive           Duration `toml:"keep_alive"`
	LogFormat           string   `toml:"log_format"` // "text" (default) or "json"

	Turn *ConfigTurn `toml:"turn"` // nil: none
}

// ConfigTurn is the table [proxyplane.turn]: a STUN and TURN server beside the relay, see package turn for what the fields mean.
type ConfigTurn struct {
	Address      string            `toml:"address"`
	RelayAddress string            `toml:"relay_address"`
	Realm        string            `toml:"realm"`
	Users        map[string]string `toml:"users"` // passwords by name
	MinPort      int               `toml:"min_port"`
	MaxPort      int               `toml:"max_port"`
	AllowPeers   []string          `toml:"allow_peers"` // networks of private addresses that may be peers
}

// Duration is a time.Duration that is written like "10s" or "1m30s".
type Duration time.Duration

// UnmarshalText reads what time.ParseDuration does.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// DefaultConfig returns the configuration of an empty file.
func DefaultConfig() Config {
	return Config{Host: "127.0.0.1", Port: DefaultPort, Logging: ConfigLogging{CurrentClientInterval: 60, CurrentClientLimit: 32}}
}

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 1 << 20

// ReadConfig reads a configuration file.
func ReadConfig(path string) (Config, error) {
	data, err := readFileBounded(path, maxConfig, false)
	if err != nil {
		return Config{}, fmt.Errorf("relay: configuration: %w", err)
	}
	c, err := ParseConfig(data)
	if err != nil {
		return Config{}, fmt.Errorf("relay: configuration %s: %w", path, err)
	}
	return c, nil
}

// ParseConfig reads the text of a configuration file. An unknown key is an error that lists those that exist beside it.
func ParseConfig(data []byte) (Config, error) {
	c := DefaultConfig()
	meta, err := toml.Decode(string(data), &c)
	if err != nil {
		return Config{}, err
	}
	var problems []error
	for _, key := range meta.Undecoded() {
		if len(key) > 2 && key[0] == "auth" && key[1] == "kwargs" {
			continue
		}
		problems = append(problems, fmt.Errorf("unknown key %s; there are %s", key, strings.Join(keysBeside(key), ", ")))
	}
	known := []string{"audience", "client_id", "client_secret"}
	for _, name := range slices.Sorted(maps.Keys(c.Auth.Kwargs)) {
		if !slices.Contains(known, name) {
			problems = append(problems, fmt.Errorf("unknown key auth.kwargs.%s; there are %s", name, strings.Join(known, ", ")))
		} else if _, ok := c.Auth.Kwargs[name].(string); !ok {
			problems = append(problems, fmt.Errorf("auth.kwargs.%s must be a string", name))
		}
	}
	if m := c.Auth.Method; m != "" && m != "globus" {
		problems = append(problems, fmt.Errorf("unknown auth.method %q; there is globus (for tokens set proxyplane.tokens_file)", m))
	}
	if c.Auth.Method != "" && c.Proxyplane.TokensFile != "" {
		problems = append(problems, errors.New("auth.method and proxyplane.tokens_file exclude each other"))
	}
	if c.Port < 0 || c.Port > 65535 {
		problems = append(problems, fmt.Errorf("port %d is none; ports go from 0 to 65535", c.Port))
	}
	if meta.IsDefined("max_message_bytes") && c.MaxMessageBytes <= 0 {
		problems = append(problems, errors.New("max_message_bytes must be positive"))
	}
	if c.KeyFile != "" && c.CertFile == "" {
		problems = append(problems, errors.New("keyfile needs a certfile"))
	}
	if f := c.Proxyplane.LogFormat; f != "" && f != "text" && f != "json" {
		problems = append(problems, fmt.Errorf("unknown proxyplane.log_format %q; there are text, json", f))
	}
	if c.Logging.CurrentClientInterval < 0 {
		problems = append(problems, errors.New("logging.current_client_interval must not be negative"))
	}
	for _, d := range []Duration{c.Proxyplane.RegistrationTimeout, c.Proxyplane.WriteTimeout, c.Proxyplane.KeepAlive} {
		if d < 0 {
			problems = append(problems, errors.New("the times in [proxyplane] must not be negative"))
			break
		}
	}
	if _, err := level(c.Logging.DefaultLevel); err != nil {
		problems = append(problems, fmt.Errorf("logging.default_level: %w", err))
	}
	return c, errors.Join(problems...)
}

// keysBeside returns the keys that exist in the table of key, as far down as it exists.
func keysBeside(key toml.Key) []string {
	t := reflect.TypeFor[Config]()
	var path string
	for _, name := range key[:len(key)-1] {
		f, ok := fieldNamed(t, name)
		if !ok || f.Kind() != reflect.Struct {
			break
		}
		t, path = f, path+name+"."
	}
	var names []string
	for f := range t.Fields() {
		names = append(names, path+f.Tag.Get("toml"))
	}
	slices.Sort(names)
	return names
}

func fieldNamed(t reflect.Type, name string) (reflect.Type, bool) {
	for f := range t.Fields() {
		if f.Tag.Get("toml") == name {
			if f.Type.Kind() == reflect.Pointer {
				return f.Type.Elem(), true
			}
			return f.Type, true
		}
	}
	return nil, false
}

// Level returns the configured level of logs. Python's CRITICAL is above all of slog's.
func (c Config) Level() slog.Level {
	l, err := level(c.Logging.DefaultLevel)
	if err != nil {
		return slog.LevelInfo // ParseConfig has refused it
	}
	return l
}

func level(v any) (slog.Level, error) {
	switch v := v.(type) {
	case nil:
		return slog.LevelInfo, nil
	case int64: // 10 is DEBUG, 20 INFO, 30 WARNING, 40 ERROR, 50 CRITICAL
		return slog.Level((min(max(v, 0), 100) - 20) * 4 / 10), nil
	case string:
		levels := map[string]slog.Level{
			"DEBUG": slog.LevelDebug, "INFO": slog.LevelInfo, "WARNING": slog.LevelWarn, "WARN": slog.LevelWarn, "ERROR": slog.LevelError, "CRITICAL": slog.LevelError + 4,
			"NOTSET": slog.LevelDebug,
		}
		if l, ok := levels[strings.ToUpper(v)]; ok {
			return l, nil
		}
		return 0, fmt.Errorf("unknown level %q; there are DEBUG, INFO, WARNING, ERROR, CRITICAL", v)
	default:
		return 0, fmt.Errorf("a level is a number or a name, not %v", v)
	}
}

// Address returns where the relay listens, as net.Listen takes it.
func (c Config) Address() string {
	return net.JoinHostPort(c.Host, strconv.Itoa(c.Port))
}

// Authenticated reports whether clients must show credentials.
func (c Config) Authenticated() bool { return c.Auth.Method != "" || c.Proxyplane.TokensFile != "" }

// ServerOptions returns the options of a server with this configuration. It reads the files that are named there and, for Globus, the environment. To listen beyond this
// host without authentication is refused unless Proxyplane.Insecure is set: everybody who can connect could have any endpoint's peer connections. log may be nil.
func (c Config) ServerOptions(log *slog.Logger) (ServerOptions, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	x := c.Proxyplane
	o := ServerOptions{
		Logger: log, MaxMessage: c.MaxMessageBytes, MaxClients: x.MaxClients, MaxClientsPerUser: x.MaxClientsPerUser,
		HandshakesPerSecond: x.HandshakesPerSecond, MessagesPerSecond: x.MessagesPerSecond, RegistrationTimeout: time.Duration(x.RegistrationTimeout),
		WriteTimeout: time.Duration(x.WriteTimeout), KeepAlive: time.Duration(x.KeepAlive),
		LogInterval: time.Duration(c.Logging.CurrentClientInterval) * time.Second, LogLimit: c.Logging.CurrentClientLimit,
	}
	local := isLoopback(c.Host)
	switch {
	case x.TokensFile != "":
		tokens, err := NewTokens(x.TokensFile)
		if err != nil {
			return ServerOptions{}, err
		}
		o.Authenticator = tokens
	case c.Auth.Method == "globus":
		kwarg := func(name string) string { s, _ := c.Auth.Kwargs[name].(string); return s }
		globus, err := NewGlobus(GlobusOptions{
			ClientID: kwarg("client_id"), ClientSecret: kwarg("client_secret"), Audience: kwarg("audience"), ServiceURL: x.GlobusServiceURL,
		})
		if err != nil {
			return ServerOptions{}, err
		}
		o.Authenticator = globus
	case c.Auth.Method != "":
		return ServerOptions{}, fmt.Errorf("relay: unknown authentication method %q; there is globus", c.Auth.Method)
	case !local && !x.Insecure:
		return ServerOptions{}, fmt.Errorf("relay: listening on %s without authentication: %w: set auth.method or proxyplane.tokens_file, host = \"127.0.0.1\", "+
			"or proxyplane.insecure = true if everybody who can connect may", cmp.Or(c.Host, "all interfaces"), transport.ErrDenied)
	case !local:
		log.Warn("everybody who can connect may use this relay", "address", c.Address())
	}
	if c.CertFile != "" {
		cfg, err := ServerTLS(c.CertFile, c.KeyFile, log)
		if err != nil {
			return ServerOptions{}, err
		}
		o.TLS = cfg
	} else if !local && c.Authenticated() {
		log.Warn("clients send their tokens unencrypted unless a proxy in front of this relay has TLS; set certfile and keyfile", "address", c.Address())
	}
	return o, nil
}
