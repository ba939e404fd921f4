package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Extra is proxyplane.toml: what our endpoint can do beyond ProxyStore's. Relative paths are relative to the endpoint's directory. A key that is not
// known there is an error, so that a misspelled one does not quietly do nothing.
type Extra struct {
	HTTP    ExtraHTTP    `toml:"http"`
	Storage ExtraStorage `toml:"storage"`
	Relay   ExtraRelay   `toml:"relay"`
	Peer    ExtraPeer    `toml:"peer"`
	Log     ExtraLog     `toml:"log"`
}

// ExtraHTTP is how clients reach the endpoint.
type ExtraHTTP struct {
	Socket        string `toml:"socket"`         // path of a unix socket to listen on too (mode 0600); empty: none
	TLSCert       string `toml:"tls_cert"`       // PEM file of the certificate and its chain; with TLSKey
	TLSKey        string `toml:"tls_key"`        // PEM file
	TLSListen     string `toml:"tls_listen"`     // "host:port" for TLS; empty: TLS takes host:port of config.toml, if there is a certificate
	Plain         bool   `toml:"plain"`          // listen on host:port of config.toml without TLS; default true, false with only a socket or TLS
	TokenFile     string `toml:"token_file"`     // file with the token that requests must bring as Authorization: Bearer; empty: none is wanted
	Metrics       bool   `toml:"metrics"`        // serve /metrics; default true
	MaxConcurrent int    `toml:"max_concurrent"` // requests at once, beyond which they are refused with 503; 0: 4096
}

// ExtraStorage bounds and tunes the storage.
type ExtraStorage struct {
	Quota     int64 `toml:"quota"`      // bytes of all objects; 0: what memory or the disk takes
	FileAbove int64 `toml:"file_above"` // objects larger than that are files beside the database, bytes; 0: the storage's default
	Sync      bool  `toml:"sync"`       // acknowledged means on disk; default true
}

// ExtraRelay is how the endpoint talks to its relay.
type ExtraRelay struct {
	TokenFile string `toml:"token_file"` // file with a bearer token, instead of a Globus one
	CAFile    string `toml:"ca_file"`    // PEM file of the authorities that may have signed the relay's certificate; empty: the system's
}

// ExtraPeer is how endpoints of our kind reach each other.
type ExtraPeer struct {
	Listen    string   `toml:"listen"`     // "host:port" for TLS and QUIC from peers, "off", or ":0" (default): all addresses, any port
	Advertise []string `toml:"advertise"`  // "host:port" that peers are told beside those of this host: a forwarded port, say
	Lanes     int      `toml:"lanes"`      // parallel streams per transfer; 0: as many as are faster
	Compress  string   `toml:"compress"`   // "none" (or empty), "s2", "zstd", "auto"
	RelayOnly bool     `toml:"relay_only"` // only TURN candidates: hides this host's addresses
	Loopback  bool     `toml:"loopback"`   // loopback candidates too, for several endpoints on one host without a network
}

// ExtraLog is what log.txt holds.
type ExtraLog struct {
	Level  string `toml:"level"`  // "debug", "info" (or empty), "warn", "error"
	Format string `toml:"format"` // "text" (or empty) or "json"
}

// DefaultExtra is what holds without a proxyplane.toml.
func DefaultExtra() Extra {
	return Extra{HTTP: ExtraHTTP{Plain: true, Metrics: true}, Storage: ExtraStorage{Sync: true}, Peer: ExtraPeer{Listen: ":0"}}
}

func (e Extra) isDefault() bool {
	if len(e.Peer.Advertise) == 0 {
		e.Peer.Advertise = nil
	}
	return reflect.DeepEqual(e, DefaultExtra())
}

// Path returns a path of Extra as one in dir, and "" as it is.
func Path(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// SlogLevel returns Log.Level.
func (e Extra) SlogLevel() slog.Level {
	var l slog.Level
	if e.Log.Level != "" && l.UnmarshalText([]byte(e.Log.Level)) != nil {
		return slog.LevelInfo
	}
	return l
}

func (e Extra) validate(p *problems) {
	const in = ExtraFile + ": "
	hostport := func(name, v string) {
		if _, port, err := net.SplitHostPort(v); err != nil || port == "" {
			p.add(in+name, "%q is not host:port", v)
		}
	}
	h := e.HTTP
	if (h.TLSCert == "") != (h.TLSKey == "") {
		p.add(in+"http.tls_cert", "TLS wants both tls_cert and tls_key")
	}
	if h.TLSListen != "" {
		hostport("http.tls_listen", h.TLSListen)
		if h.TLSCert == "" {
			p.add(in+"http.tls_listen", "TLS wants tls_cert and tls_key")
		}
	}
	if !h.Plain && h.Socket == "" && h.TLSCert == "" {
		p.add(in+"http.plain", "nothing is left to listen on; set a socket, or tls_cert and tls_key")
	}
	if h.MaxConcurrent < 0 {
		p.add(in+"http.max_concurrent", "must not be negative")
	}
	if e.Storage.Quota < 0 || e.Storage.FileAbove < 0 {
		p.add(in+"storage", "sizes must not be negative")
	}
	if e.Peer.Listen != "off" {
		hostport("peer.listen", e.Peer.Listen)
	}
	for _, a := range e.Peer.Advertise {
		hostport("peer.advertise", a)
	}
	if e.Peer.Lanes < 0 || e.Peer.Lanes > 16 {
		p.add(in+"peer.lanes", "must be in range [0, 16]")
	}
	if !slices.Contains([]string{"", "none", "s2", "zstd", "auto"}, e.Peer.Compress) {
		p.add(in+"peer.compress", "%q is none of none, s2, zstd, auto", e.Peer.Compress)
	}
	if !slices.Contains([]string{"", "debug", "info", "warn", "error"}, e.Log.Level) {
		p.add(in+"log.level", "%q is none of debug, info, warn, error", e.Log.Level)
	}
	if !slices.Contains([]string{"", "text", "json"}, e.Log.Format) {
		p.add(in+"log.format", "%q is none of text, json", e.Log.Format)
	}
}

func readExtra(dir string) (Extra, error) {
	e := DefaultExtra()
	path := filepath.Join(dir, ExtraFile)
	data, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return e, err
	}
	e, err = ParseExtra(data)
	if err != nil {
		return e, fmt.Errorf("unable to parse (%s): %w", path, err)
	}
	return e, nil
}

// ParseExtra reads proxyplane.toml; what it does not say has its default.
func ParseExtra(data []byte) (Extra, error) {
	e := DefaultExtra()
	md, err := toml.Decode(string(data), &e)
	if err != nil {
		return Extra{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if unknown := md.Undecoded(); len(unknown) > 0 {
		names := make([]string, len(unknown))
		for i, k := range unknown {
			names[i] = k.String()
		}
		return Extra{}, fmt.Errorf("%w: unknown keys %s", ErrInvalid, strings.Join(names, ", "))
	}
	var p problems
	e.validate(&p)
	return e, p.err()
}

func (e Extra) encode() ([]byte, error) {
	if e.Peer.Advertise == nil {
		e.Peer.Advertise = []string{}
	}
	return encodeTOML(e)
}
