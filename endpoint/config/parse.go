package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Parse reads config.toml with the rules that pydantic's strict mode has for EndpointConfig: no value is converted, keys that it does not know are
// passed over at the top and in [relay] and [storage], and refused in [relay.auth] and the ICE servers. Errors match ErrInvalid and name every
// field that is wrong.
func Parse(data []byte) (Config, error) {
	var raw map[string]any
	if err := toml.Unmarshal(data, &raw); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	d := decoder{p: new(problems)}
	c := Default("", "", 0)
	t := d.table("", raw, nil)
	t.required("name", "uuid", "port")
	field(t, "name", &c.Name)
	field(t, "uuid", &c.UUID)
	field(t, "host", &c.Host)
	field(t, "host_type", &c.HostType)
	integer(t, "port", &c.Port)
	if r, ok := t.sub("relay", nil); ok {
		field(r, "address", &c.Relay.Address)
		if v, ok := r.raw["address"]; ok && v == "" {
			d.p.add("relay.address", "Server must start with ws:// or wss://.")
		}
		integer(r, "peer_channels", &c.Relay.PeerChannels)
		field(r, "verify_certificate", &c.Relay.VerifyCertificate)
		if a, ok := r.sub("auth", []string{"method", "kwargs"}); ok {
			field(a, "method", &c.Relay.Auth.Method)
			if v, ok := a.raw["method"]; ok && v == "" {
				d.p.add("relay.auth.method", "Input should be 'globus'.")
			}
			if k, ok := a.sub("kwargs", nil); ok {
				c.Relay.Auth.Kwargs = k.raw
			}
		}
		if list, ok := r.list("ice_servers"); ok {
			c.Relay.ICEServers = []ICEServer{}
			for i, v := range list {
				s, ok := d.asTable(fmt.Sprintf("relay.ice_servers.%d", i), v, []string{"urls", "username", "credential"})
				if !ok {
					continue
				}
				server := ICEServer{}
				s.required("urls")
				s.strings("urls", &server.URLs, true)
				field(s, "username", &server.Username)
				field(s, "credential", &server.Credential)
				c.Relay.ICEServers = append(c.Relay.ICEServers, server)
			}
		}
	}
	if s, ok := t.sub("storage", nil); ok {
		field(s, "database_path", &c.Storage.DatabasePath)
		integer(s, "max_object_size", &c.Storage.MaxObjectSize)
	}
	if err := d.p.err(); err != nil {
		return Config{}, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// decoder turns TOML's values into fields without converting any.
type decoder struct{ p *problems }

type table struct {
	d    decoder
	path string // "" or "relay." and so on
	raw  map[string]any
}

// table opens a table; known is what it may hold, nil for anything.
func (d decoder) table(path string, raw map[string]any, known []string) table {
	if path != "" {
		path += "."
	}
	if known != nil {
		for _, k := range slices.Sorted(maps.Keys(raw)) {
			if !slices.Contains(known, k) {
				d.p.add(path+k, "Extra inputs are not permitted; known are %s.", strings.Join(known, ", "))
			}
		}
	}
	return table{d, path, raw}
}

func (d decoder) asTable(path string, v any, known []string) (table, bool) {
	raw, ok := v.(map[string]any)
	if !ok {
		d.p.add(path, "Input should be a table, got %s.", typeName(v))
		return table{}, false
	}
	return d.table(path, raw, known), true
}

func (t table) sub(key string, known []string) (table, bool) {
	v, ok := t.raw[key]
	if !ok {
		return table{}, false
	}
	return t.d.asTable(t.path+key, v, known)
}

func (t table) required(keys ...string) {
	for _, k := range keys {
		if _, ok := t.raw[k]; !ok {
			t.d.p.add(t.path+k, "Field required.")
		}
	}
}

// list returns an array, however TOML spelled it.
func (t table) list(key string) ([]any, bool) {
	switch v := t.raw[key].(type) {
	case nil:
		return nil, false
	case []any:
		return v, true
	case []map[string]any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = v[i]
		}
		return list, true
	default:
		t.d.p.add(t.path+key, "Input should be a list, got %s.", typeName(v))
		return nil, false
	}
}

// strings reads a list of strings; single allows one string in its place.
func (t table) strings(key string, to *[]string, single bool) {
	if s, ok := t.raw[key].(string); ok && single {
		*to = []string{s}
		return
	}
	list, ok := t.list(key)
	if !ok {
		return
	}
	*to = make([]string, 0, len(list))
	for i, v := range list {
		s, ok := v.(string)
		if !ok {
			t.d.p.add(fmt.Sprintf("%s%s.%d", t.path, key, i), "Input should be a valid string, got %s.", typeName(v))
			continue
		}
		*to = append(*to, s)
	}
}

// field reads a value of exactly that type, if it is there.
func field[T string | bool](t table, key string, to *T) {
	v, ok := t.raw[key]
	if !ok {
		return
	}
	if x, ok := v.(T); ok {
		*to = x
		return
	}
	t.d.p.add(t.path+key, "Input should be a valid %T, got %s.", *to, typeName(v))
}

func integer[T int | int64](t table, key string, to *T) {
	v, ok := t.raw[key]
	if !ok {
		return
	}
	x, ok := v.(int64)
	if !ok {
		t.d.p.add(t.path+key, "Input should be a valid integer, got %s.", typeName(v))
		return
	}
	if *to = T(x); int64(*to) != x { // an int of 32 bits
		t.d.p.add(t.path+key, "%d is out of range.", x)
	}
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "a list"
	case time.Time:
		return "a time"
	}
	return fmt.Sprintf("%T", v)
}
