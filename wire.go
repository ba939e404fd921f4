package proxyplane

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
)

// ErrBadProxy is the error of decoding something that is no proxy, or one that is damaged.
var ErrBadProxy = errors.New("not a proxy")

// Proxies among Go programs are JSON. As text they are this prefix and the JSON in base64url; as binary (gob uses it), the other prefix and the
// JSON as it is. docs/formats.md describes them.
const (
	textPrefix   = "proxy1:"
	binaryPrefix = "PPX1"
	jsonVersion  = 1
)

// maxProxySize bounds what is decoded as a proxy: it holds a key and a configuration. The one large kind is a proxy of a local store that
// carries its data (include_data_in_config).
const maxProxySize = 64 << 20

// jsonProxy is the JSON form.
type jsonProxy struct {
	Version      int             `json:"proxyplane"`
	Flavour      string          `json:"flavour"`
	Key          json.RawMessage `json:"key"`
	Store        tomlConfig      `json:"store"`
	Evict        bool            `json:"evict"`
	Class        string          `json:"class,omitempty"`
	Polling      *FutureInfo     `json:"polling,omitempty"`
	Deserializer string          `json:"deserializer,omitempty"`
}

// FutureInfo says how a future's proxy waits for its object, with ProxyStore's names and units: seconds, nil for no limit.
type FutureInfo struct {
	Interval float64  `json:"polling_interval"`
	Backoff  float64  `json:"polling_backoff_factor"`
	Limit    *float64 `json:"polling_interval_limit"`
	Timeout  *float64 `json:"polling_timeout"`
}

// config returns the configuration of the reference's store as it may leave the process.
func (r *reference) config(python bool) (Config, error) {
	if r.key == nil {
		return Config{}, errEmptyProxy
	}
	var cfg Config
	switch {
	case r.received != nil: // as it came, so that a proxy passed on is the same proxy
		cfg = *r.received
	case r.store != nil:
		cfg = r.store.Config()
	default:
		return Config{}, errEmptyProxy
	}
	drivers := r.home().drivers
	if r.store != nil {
		drivers = r.store.drivers
	}
	c, err := drivers.Travelling(cfg.Connector, python)
	if errors.Is(err, connectors.ErrUnavailable) && r.received != nil {
		c, err = cfg.Connector.Clone(), nil // a kind that we cannot open can still be passed on
	}
	cfg.Connector = c
	return cfg, err
}

// MarshalJSON returns the proxy's JSON form, without secrets.
func (p *Proxy[T]) MarshalJSON() ([]byte, error) { return p.travelling().marshalJSON() }

func (r *reference) marshalJSON() ([]byte, error) {
	cfg, err := r.config(false)
	if err != nil {
		return nil, err
	}
	j := jsonProxy{Version: jsonVersion, Flavour: r.flavour.String(), Evict: r.evict, Deserializer: r.foreign}
	if j.Store, err = cfg.layout(); err != nil {
		return nil, err
	}
	if j.Key, err = connectors.MarshalKey(r.key); err != nil {
		return nil, err
	}
	if r.class != (connectors.Class{}) {
		j.Class = r.class.String()
	}
	if r.polling != nil {
		j.Polling = futureInfo(*r.polling)
	}
	return json.Marshal(j)
}

func futureInfo(p Polling) *FutureInfo {
	j := &FutureInfo{Interval: p.Interval.Seconds(), Backoff: p.Backoff}
	if p.Interval <= 0 {
		j.Interval = 1
	}
	if p.Backoff <= 0 {
		j.Backoff = 1
	}
	optional := func(d time.Duration) *float64 {
		if d <= 0 {
			return nil
		}
		s := d.Seconds()
		return &s
	}
	j.Limit, j.Timeout = optional(p.Limit), optional(p.Timeout)
	return j
}

func (j FutureInfo) polling() (*Polling, error) {
	p := &Polling{Backoff: j.Backoff}
	for _, f := range []struct {
		dst *time.Duration
		s   *float64
	}{{&p.Interval, &j.Interval}, {&p.Limit, j.Limit}, {&p.Timeout, j.Timeout}} {
		if f.s == nil {
			continue
		}
		if !(*f.s >= 0 && *f.s < 1e9) {
			return nil, fmt.Errorf("%w: a polling time of %v s", ErrBadProxy, *f.s)
		}
		*f.dst = time.Duration(*f.s * float64(time.Second))
	}
	if !(j.Backoff >= 0 && j.Backoff < 1e9) {
		return nil, fmt.Errorf("%w: a polling backoff of %v", ErrBadProxy, j.Backoff)
	}
	return p, nil
}

// UnmarshalJSON makes p the proxy that data describes. It contacts nothing.
func (p *Proxy[T]) UnmarshalJSON(data []byte) error { return p.receive(parseJSON(data)) }

// receive makes p a received proxy, unless err.
func (p *Proxy[T]) receive(r reference, err error) error {
	if err != nil {
		return err
	}
	r.stores = p.ref.stores // Bind may have come first
	p.mu.Lock()
	p.ref = r
	p.mu.Unlock()
	p.target.Store(nil)
	return nil
}

func parseJSON(data []byte) (reference, error) {
	if len(data) > maxProxySize {
		return reference{}, fmt.Errorf("%w: %d bytes; a proxy has at most %d", ErrBadProxy, len(data), maxProxySize)
	}
	var j jsonProxy
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return reference{}, fmt.Errorf("%w: JSON: %w", ErrBadProxy, err)
	}
	if dec.More() {
		return reference{}, fmt.Errorf("%w: more after the JSON of a proxy", ErrBadProxy)
	}
	if j.Version != jsonVersion {
		return reference{}, fmt.Errorf("%w: version %d of the JSON form; this program reads %d", ErrBadProxy, j.Version, jsonVersion)
	}
	r := reference{evict: j.Evict, foreign: j.Deserializer, form: "json"}
	var err error
	if r.flavour, err = parseFlavour(j.Flavour); err != nil {
		return r, err
	}
	if j.Class != "" {
		dot := strings.LastIndexByte(j.Class, '.')
		if dot < 1 || dot == len(j.Class)-1 {
			return r, fmt.Errorf("%w: class %.100q; expected a dotted path such as builtins.bytes", ErrBadProxy, j.Class)
		}
		r.class = connectors.Class{Module: j.Class[:dot], Name: j.Class[dot+1:]}
	}
	if j.Polling != nil {
		if r.polling, err = j.Polling.polling(); err != nil {
			return r, err
		}
	}
	cfg, err := j.Store.config()
	if err != nil {
		return r, fmt.Errorf("%w: %w", ErrBadProxy, err)
	}
	if len(j.Key) == 0 {
		return r, fmt.Errorf("%w: no key", ErrBadProxy)
	}
	r.key, err = connectors.UnmarshalKey(j.Key, cfg.Connector.Kind)
	if err != nil {
		return r, fmt.Errorf("%w: %w", ErrBadProxy, err)
	}
	r.received = &cfg
	return r, nil
}

func parseFlavour(name string) (Flavour, error) {
	for f := Plain; f <= RefMutFlavour; f++ {
		if f.String() == name {
			return f, nil
		}
	}
	return Plain, fmt.Errorf("%w: flavour %.100q; expected Proxy, OwnedProxy, RefProxy or RefMutProxy", ErrBadProxy, name)
}

// MarshalText returns the proxy as one word, for environment variables and command lines.
func (p *Proxy[T]) MarshalText() ([]byte, error) {
	j, err := p.travelling().marshalJSON()
	if err != nil {
		return nil, err
	}
	return base64.RawURLEncoding.AppendEncode([]byte(textPrefix), j), nil
}

// UnmarshalText makes p the proxy that data describes. It contacts nothing.
func (p *Proxy[T]) UnmarshalText(data []byte) error { return p.receive(parseText(data)) }

func parseText(data []byte) (reference, error) {
	body, ok := bytes.CutPrefix(bytes.TrimSpace(data), []byte(textPrefix))
	if !ok {
		return reference{}, fmt.Errorf("%w: text without the prefix %s", ErrBadProxy, textPrefix)
	}
	if len(body) > 2*maxProxySize {
		return reference{}, fmt.Errorf("%w: %d bytes of text", ErrBadProxy, len(body))
	}
	j, err := base64.RawURLEncoding.AppendDecode(nil, body)
	if err != nil {
		return reference{}, fmt.Errorf("%w: text: %w", ErrBadProxy, err)
	}
	r, err := parseJSON(j)
	r.form = "text"
	return r, err
}

// MarshalBinary returns the proxy's binary form. encoding/gob uses it.
func (p *Proxy[T]) MarshalBinary() ([]byte, error) {
	j, err := p.travelling().marshalJSON()
	return append([]byte(binaryPrefix), j...), err
}

// UnmarshalBinary makes p the proxy that data describes. It contacts nothing.
func (p *Proxy[T]) UnmarshalBinary(data []byte) error { return p.receive(parseBinary(data)) }

func parseBinary(data []byte) (reference, error) {
	body, ok := bytes.CutPrefix(data, []byte(binaryPrefix))
	if !ok {
		return reference{}, fmt.Errorf("%w: binary form without the prefix %s", ErrBadProxy, binaryPrefix)
	}
	r, err := parseJSON(body)
	r.form = "binary"
	return r, err
}

// ParseProxy decodes a proxy in any of its forms: pickle of ProxyStore (any protocol, 1.1.0 and 0.6.5, plain, owned, reference and future proxies,
// also by dill and cloudpickle), JSON, text or binary. It contacts nothing and executes nothing; what the proxy may open is decided at Resolve.
func ParseProxy[T any](data []byte) (*Proxy[T], error) {
	r, err := parse(data)
	if err != nil {
		return nil, err
	}
	p := &Proxy[T]{}
	return p, p.receive(r, nil)
}

func parse(data []byte) (reference, error) {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	switch {
	case len(trimmed) == 0:
		return reference{}, fmt.Errorf("%w: empty", ErrBadProxy)
	case trimmed[0] == '{':
		return parseJSON(trimmed)
	case bytes.HasPrefix(trimmed, []byte(textPrefix)):
		return parseText(trimmed)
	case bytes.HasPrefix(data, []byte(binaryPrefix)):
		return parseBinary(data)
	}
	return parsePickle(data)
}

// ProxyInfo is what a proxy says, for people and programs that want to look before they resolve.
type ProxyInfo struct {
	Store        string          `json:"store"`
	Kind         string          `json:"kind"`      // short kind of the connector, or its Python path if it is none of ours
	Connector    string          `json:"connector"` // Python path of the connector
	Options      map[string]any  `json:"options"`
	Key          json.RawMessage `json:"key"` // as by connectors.MarshalKey
	Evict        bool            `json:"evict"`
	Flavour      string          `json:"flavour"`                // Proxy, OwnedProxy, RefProxy or RefMutProxy
	Form         string          `json:"form"`                   // pickle, pickle-0.6, json, text or binary
	Class        string          `json:"class,omitempty"`        // Python class of the target, if the proxy tells
	Future       *FutureInfo     `json:"future,omitempty"`       // of a future's proxy
	Deserializer string          `json:"deserializer,omitempty"` // a Python function that the object needs
	CacheSize    int             `json:"cache_size"`
	Metrics      bool            `json:"metrics"`
	Populate     bool            `json:"populate_target"`
	Register     bool            `json:"auto_register"`
}

// Inspect tells what a proxy in any of its forms says, without contacting anything.
func Inspect(data []byte) (ProxyInfo, error) {
	r, err := parse(data)
	if err != nil {
		return ProxyInfo{}, err
	}
	c := r.received
	info := ProxyInfo{Store: c.Name, Kind: c.Connector.Kind, Connector: c.Connector.Kind, Options: c.Connector.Options, Evict: r.evict,
		Flavour: r.flavour.String(), Form: r.form, Deserializer: r.foreign,
		CacheSize: c.CacheSize, Metrics: c.Metrics, Populate: c.PopulateTarget, Register: c.AutoRegister}
	if k, ok := connectors.LookupKind(info.Kind); ok {
		info.Kind, info.Connector = k.Kind, k.Path()
	}
	if r.class != (connectors.Class{}) {
		info.Class = r.class.String()
	}
	if r.polling != nil {
		info.Future = futureInfo(*r.polling)
	}
	info.Key, err = connectors.MarshalKey(r.key)
	return info, err
}
