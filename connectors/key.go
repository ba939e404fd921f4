package connectors

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// A Key names one object in one connector. The types below have the fields of ProxyStore's NamedTuples, in their order. All are comparable,
// so that a Key can be a map key; identity for caches is Identity, since Python compares some keys by fewer fields than they have.
type Key interface {
	// Kind returns the short kind of the connector that made the key: "file", "redis", ... For a DIM key it is its dim_type.
	Kind() string
	// Identity is equal for two keys of one connector if and only if they name the same object.
	Identity() string
	// Tuple returns the fields in Python's order: string, int64, []string (a tuple of strings), nil or, in a MultiKey, a Key.
	Tuple() []any
	// Class returns the Python class of the key.
	Class() Class
}

// Class is the import path of a Python class.
type Class struct{ Module, Name string }

// String returns the dotted path.
func (c Class) String() string { return c.Module + "." + c.Name }

// FileKey is proxystore.connectors.file.FileKey.
type FileKey struct{ Filename string }

// RedisKey is proxystore.connectors.redis.RedisKey.
type RedisKey struct{ RedisKey string }

// LocalKey is proxystore.connectors.local.LocalKey.
type LocalKey struct{ ID string }

// MultiKey is proxystore.connectors.multi.MultiKey: the name of one of the connectors, and that connector's key.
type MultiKey struct {
	ConnectorName string
	ConnectorKey  Key
}

// EndpointKey is proxystore.connectors.endpoint.EndpointKey. EndpointID is empty where Python has None.
type EndpointKey struct{ ObjectID, EndpointID string }

// DIMKey is proxystore_ex.connectors.dim.models.DIMKey, the key of the distributed in-memory connectors zmq, ucx and margo.
type DIMKey struct {
	DIMType  string
	ObjID    string
	Size     int64
	PeerHost string
	PeerPort int64
}

// DAOSKey is proxystore_ex.connectors.daos.DAOSKey.
type DAOSKey struct{ Pool, Container, Namespace, DictKey string }

// GlobusKey is proxystore.connectors.globus.GlobusKey. Its task id is one string (as before ProxyStore 0.5.2) or a tuple of strings; make one
// with [NewGlobusKey] so that it stays comparable.
type GlobusKey struct {
	Filename string
	tasks    string // joined by NUL
	tuple    bool
}

// NewGlobusKey returns a key with a tuple of task ids, none of which may be empty or contain NUL.
func NewGlobusKey(filename string, taskIDs ...string) GlobusKey {
	return GlobusKey{Filename: filename, tasks: strings.Join(taskIDs, "\x00"), tuple: true}
}

// TaskIDs returns the Globus transfer tasks that carry the object, never nil.
func (k GlobusKey) TaskIDs() []string {
	if k.tasks == "" {
		return []string{}
	}
	return strings.Split(k.tasks, "\x00")
}

func (FileKey) Kind() string     { return "file" }
func (RedisKey) Kind() string    { return "redis" }
func (LocalKey) Kind() string    { return "local" }
func (MultiKey) Kind() string    { return "multi" }
func (EndpointKey) Kind() string { return "endpoint" }
func (k DIMKey) Kind() string    { return k.DIMType }
func (DAOSKey) Kind() string     { return "daos" }
func (GlobusKey) Kind() string   { return "globus" }

func (k FileKey) Identity() string  { return k.Filename }
func (k RedisKey) Identity() string { return k.RedisKey }
func (k LocalKey) Identity() string { return k.ID }
func (k MultiKey) Identity() string {
	if k.ConnectorKey == nil {
		return identity(k.ConnectorName)
	}
	// As identity does, in one allocation, since it is on the way of every cached get: a kind has no colon, and the last part needs no length.
	return strconv.Itoa(len(k.ConnectorName)) + ":" + k.ConnectorName + k.ConnectorKey.Kind() + ":" + k.ConnectorKey.Identity()
}
func (k EndpointKey) Identity() string { return identity(k.ObjectID, k.EndpointID) }
func (k DIMKey) Identity() string {
	return identity(k.DIMType, k.ObjID, k.PeerHost, strconv.FormatInt(k.PeerPort, 10))
}
func (k DAOSKey) Identity() string   { return identity(k.Pool, k.Container, k.Namespace, k.DictKey) }
func (k GlobusKey) Identity() string { return k.Filename } // as GlobusKey.__eq__: the task ids come later than the file

// identity joins parts so that different parts never give the same string.
func identity(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(strconv.Itoa(len(p)))
		b.WriteByte(':')
		b.WriteString(p)
	}
	return b.String()
}

func (k FileKey) Tuple() []any  { return []any{k.Filename} }
func (k RedisKey) Tuple() []any { return []any{k.RedisKey} }
func (k LocalKey) Tuple() []any { return []any{k.ID} }
func (k MultiKey) Tuple() []any { return []any{k.ConnectorName, k.ConnectorKey} }
func (k EndpointKey) Tuple() []any {
	if k.EndpointID == "" {
		return []any{k.ObjectID, nil}
	}
	return []any{k.ObjectID, k.EndpointID}
}
func (k DIMKey) Tuple() []any  { return []any{k.DIMType, k.ObjID, k.Size, k.PeerHost, k.PeerPort} }
func (k DAOSKey) Tuple() []any { return []any{k.Pool, k.Container, k.Namespace, k.DictKey} }
func (k GlobusKey) Tuple() []any {
	if !k.tuple {
		return []any{k.Filename, k.tasks}
	}
	return []any{k.Filename, k.TaskIDs()}
}

func (FileKey) Class() Class     { return Class{"proxystore.connectors.file", "FileKey"} }
func (RedisKey) Class() Class    { return Class{"proxystore.connectors.redis", "RedisKey"} }
func (LocalKey) Class() Class    { return Class{"proxystore.connectors.local", "LocalKey"} }
func (MultiKey) Class() Class    { return Class{"proxystore.connectors.multi", "MultiKey"} }
func (EndpointKey) Class() Class { return Class{"proxystore.connectors.endpoint", "EndpointKey"} }
func (DIMKey) Class() Class      { return Class{"proxystore_ex.connectors.dim.models", "DIMKey"} }
func (DAOSKey) Class() Class     { return Class{"proxystore_ex.connectors.daos", "DAOSKey"} }
func (GlobusKey) Class() Class   { return Class{"proxystore.connectors.globus", "GlobusKey"} }

// keyFields says how to build each class's key from its tuple.
var keyFields = map[string]struct {
	fields []string
	build  func(t []any) (Key, bool)
}{
	FileKey{}.Class().String():  {[]string{"filename"}, text1(func(s string) Key { return FileKey{s} })},
	RedisKey{}.Class().String(): {[]string{"redis_key"}, text1(func(s string) Key { return RedisKey{s} })},
	LocalKey{}.Class().String(): {[]string{"id"}, text1(func(s string) Key { return LocalKey{s} })},
	MultiKey{}.Class().String(): {[]string{"connector_name", "connector_key"}, func(t []any) (Key, bool) {
		name, ok1 := t[0].(string)
		key, ok2 := t[1].(Key)
		return MultiKey{name, key}, ok1 && ok2
	}},
	EndpointKey{}.Class().String(): {[]string{"object_id", "endpoint_id"}, func(t []any) (Key, bool) {
		id, ok := t[0].(string)
		ep, _ := t[1].(string)
		return EndpointKey{id, ep}, ok && (t[1] == nil || ep != "")
	}},
	DIMKey{}.Class().String(): {[]string{"dim_type", "obj_id", "size", "peer_host", "peer_port"}, func(t []any) (Key, bool) {
		var k DIMKey
		var ok [5]bool
		k.DIMType, ok[0] = t[0].(string)
		k.ObjID, ok[1] = t[1].(string)
		k.Size, ok[2] = t[2].(int64)
		k.PeerHost, ok[3] = t[3].(string)
		k.PeerPort, ok[4] = t[4].(int64)
		return k, ok == [5]bool{true, true, true, true, true} && (k.DIMType == "zmq" || k.DIMType == "ucx" || k.DIMType == "margo" || k.DIMType == "tcp")
	}},
	DAOSKey{}.Class().String(): {[]string{"pool", "container", "namespace", "dict_key"}, func(t []any) (Key, bool) {
		var s [4]string
		for i := range s {
			var ok bool
			if s[i], ok = t[i].(string); !ok {
				return nil, false
			}
		}
		return DAOSKey{s[0], s[1], s[2], s[3]}, true
	}},
	GlobusKey{}.Class().String(): {[]string{"filename", "task_id"}, func(t []any) (Key, bool) {
		name, ok := t[0].(string)
		switch ids := t[1].(type) {
		case string:
			return GlobusKey{Filename: name, tasks: ids}, ok
		case []string:
			for _, id := range ids { // they are UUIDs; these two would not come back as they went
				if id == "" || strings.ContainsRune(id, 0) {
					return nil, false
				}
			}
			return NewGlobusKey(name, ids...), ok
		}
		return nil, false
	}},
}

func text1(make func(string) Key) func([]any) (Key, bool) {
	return func(t []any) (Key, bool) {
		s, ok := t[0].(string)
		return make(s), ok
	}
}

// NewKeyFromTuple returns the Key of a Python class with these fields, which are as [Key.Tuple] gives them. It fails with [ErrInvalidKey] for
// an unknown class or fields of the wrong number or type.
func NewKeyFromTuple(class Class, tuple []any) (Key, error) {
	f, ok := keyFields[class.String()]
	if !ok {
		return nil, fmt.Errorf("%w: %s is not the key class of a known connector", ErrInvalidKey, class)
	}
	if len(tuple) != len(f.fields) {
		return nil, fmt.Errorf("%w: %s has %d fields %v, got %d", ErrInvalidKey, class.Name, len(f.fields), f.fields, len(tuple))
	}
	k, ok := f.build(tuple)
	if !ok {
		return nil, fmt.Errorf("%w: %s(%s) with values %.200v", ErrInvalidKey, class.Name, strings.Join(f.fields, ", "), tuple)
	}
	return k, nil
}

// jsonKey is the JSON form of a Key, also within a MultiKey.
type jsonKey struct {
	Kind string            `json:"kind"`
	Key  []json.RawMessage `json:"key"`
}

// MarshalKey returns the JSON form of a key, {"kind":"file","key":["..."]}: the connector's short kind and Python's tuple. The key inside a
// MultiKey has the same form.
func MarshalKey(key Key) ([]byte, error) {
	if key == nil {
		return nil, fmt.Errorf("%w: nil", ErrInvalidKey)
	}
	j := jsonKey{Kind: key.Kind()}
	for _, f := range key.Tuple() {
		var b []byte
		var err error
		if inner, ok := f.(Key); ok {
			b, err = MarshalKey(inner)
		} else {
			b, err = json.Marshal(f)
		}
		if err != nil {
			return nil, err
		}
		j.Key = append(j.Key, b)
	}
	return json.Marshal(j)
}

// UnmarshalKey reads what [MarshalKey] writes. It also takes the bare tuple (["..."]) if kind is not empty, as the kind of connector that
// the key belongs to.
func UnmarshalKey(data []byte, kind string) (Key, error) { return unmarshalKey(data, kind, 0) }

// maxKeyDepth bounds how deep multi connectors may nest in a key from outside.
const maxKeyDepth = 8

func unmarshalKey(data []byte, kind string, depth int) (Key, error) {
	if depth > maxKeyDepth {
		return nil, fmt.Errorf("%w: nested more than %d deep", ErrInvalidKey, maxKeyDepth)
	}
	j := jsonKey{Kind: kind}
	err := json.Unmarshal(data, &j.Key)
	bare := err == nil
	if !bare {
		j.Key = nil
		err = json.Unmarshal(data, &j)
	}
	if err != nil {
		return nil, fmt.Errorf(`%w: not JSON of the form {"kind":"file","key":["..."]}: %v`, ErrInvalidKey, err)
	}
	if j.Kind == "" {
		return nil, fmt.Errorf(`%w: no "kind" in %.100s`, ErrInvalidKey, data)
	}
	known, ok := LookupKind(j.Kind)
	if !ok {
		return nil, fmt.Errorf("%w: unknown kind %q; known are %s", ErrInvalidKey, j.Kind, strings.Join(KnownKinds(), ", "))
	}
	tuple := make([]any, len(j.Key))
	for i, raw := range j.Key {
		var err error
		if tuple[i], err = unmarshalField(raw, depth); err != nil {
			return nil, err
		}
	}
	key, err := NewKeyFromTuple(known.KeyClass, tuple)
	if err == nil && !bare && key.Kind() != known.Kind { // of several kinds with keys of one class
		return nil, fmt.Errorf("%w: a %s key that says it is of kind %s", ErrInvalidKey, key.Kind(), known.Kind)
	}
	return key, err
}

func unmarshalField(raw json.RawMessage, depth int) (any, error) {
	switch raw[0] {
	case '{':
		return unmarshalKey(raw, "", depth+1)
	case '[':
		var ids []string
		if err := json.Unmarshal(raw, &ids); err != nil {
			return nil, fmt.Errorf("%w: %.100s: %v", ErrInvalidKey, raw, err)
		}
		return ids, nil
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	case 'n':
		return nil, nil
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%w: field %.50s is neither a string nor an integer", ErrInvalidKey, raw)
	}
	return n, nil
}

// FormatKey returns a key as Python prints it, shortened, for messages.
func FormatKey(key Key) string {
	if key == nil {
		return "None"
	}
	fields := keyFields[key.Class().String()].fields
	var b strings.Builder
	b.WriteString(key.Class().Name)
	b.WriteByte('(')
	for i, v := range key.Tuple() {
		if i > 0 {
			b.WriteString(", ")
		}
		if i < len(fields) {
			b.WriteString(fields[i] + "=")
		}
		switch v := v.(type) {
		case Key:
			b.WriteString(FormatKey(v))
		case string:
			if len(v) > 100 {
				v = v[:100] + "..."
			}
			b.WriteString(strconv.Quote(v))
		case nil:
			b.WriteString("None")
		default:
			fmt.Fprint(&b, v)
		}
	}
	b.WriteByte(')')
	return b.String()
}
