package connectors_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
)

// every is one key of every class, and of every shape that a class has.
var every = []connectors.Key{
	connectors.FileKey{Filename: "f2f6c1b4"},
	connectors.FileKey{},
	connectors.RedisKey{RedisKey: `quote " back \ slash`},
	connectors.LocalKey{ID: "\u00e9\u4e16\U0001f600"},
	connectors.EndpointKey{ObjectID: "o", EndpointID: "e"},
	connectors.EndpointKey{ObjectID: "o"},
	connectors.DIMKey{DIMType: "zmq", ObjID: "o", Size: 1 << 40, PeerHost: "10.0.0.1", PeerPort: 5555},
	connectors.DIMKey{DIMType: "ucx", ObjID: "o", PeerHost: "::1", PeerPort: 1},
	connectors.DIMKey{DIMType: "margo", ObjID: "o", Size: -1},
	connectors.DAOSKey{Pool: "p", Container: "c", Namespace: "n", DictKey: "d"},
	connectors.NewGlobusKey("f", "t1", "t2"),
	connectors.NewGlobusKey("f", "t1"),
	connectors.NewGlobusKey("f"),
	connectors.MultiKey{ConnectorName: "small", ConnectorKey: connectors.RedisKey{RedisKey: "r"}},
	connectors.MultiKey{ConnectorName: "outer", ConnectorKey: connectors.MultiKey{ConnectorName: "inner",
		ConnectorKey: connectors.NewGlobusKey("f", "t")}},
	singleTask,
}

// singleTask is a GlobusKey whose task id is one string, as before ProxyStore 0.5.2.
var singleTask = must(connectors.NewKeyFromTuple(connectors.GlobusKey{}.Class(), []any{"f", "t"}))

func must(k connectors.Key, err error) connectors.Key {
	if err != nil {
		panic(err)
	}
	return k
}

func TestKeyRoundTrips(t *testing.T) {
	for _, k := range every {
		data, err := connectors.MarshalKey(k)
		if err != nil {
			t.Errorf("%#v: %v", k, err)
			continue
		}
		if got, err := connectors.UnmarshalKey(data, ""); err != nil || got != k {
			t.Errorf("%s: got %#v, %v; want %#v", data, got, err, k)
		}
		// The kind in the data wins over the one the caller expects.
		if got, err := connectors.UnmarshalKey(data, "local"); err != nil || got != k {
			t.Errorf("%s as local: got %#v, %v", data, got, err)
		}
		var j struct{ Key json.RawMessage }
		if err := json.Unmarshal(data, &j); err != nil {
			t.Fatal(err)
		}
		if got, err := connectors.UnmarshalKey(j.Key, k.Kind()); err != nil || got != k {
			t.Errorf("bare tuple %s: got %#v, %v", j.Key, got, err)
		}
		if got, err := connectors.NewKeyFromTuple(k.Class(), k.Tuple()); err != nil || got != k {
			t.Errorf("tuple %v: got %#v, %v", k.Tuple(), got, err)
		}
		if known, ok := connectors.LookupKind(k.Kind()); !ok || known.KeyClass != k.Class() {
			t.Errorf("%s: its kind %q is of keys %s", k.Class(), k.Kind(), known.KeyClass)
		}
		if m := map[connectors.Key]int{k: 1}; m[k] != 1 {
			t.Errorf("%s cannot be a map key", k.Class())
		}
	}
}

func TestKeyJSON(t *testing.T) {
	for _, c := range []struct {
		key  connectors.Key
		want string
	}{
		{connectors.FileKey{Filename: "f"}, `{"kind":"file","key":["f"]}`},
		{connectors.EndpointKey{ObjectID: "o"}, `{"kind":"endpoint","key":["o",null]}`},
		{connectors.DIMKey{DIMType: "ucx", ObjID: "o", Size: 3, PeerHost: "h", PeerPort: 4}, `{"kind":"ucx","key":["ucx","o",3,"h",4]}`},
		{singleTask, `{"kind":"globus","key":["f","t"]}`},
		{connectors.NewGlobusKey("f", "t"), `{"kind":"globus","key":["f",["t"]]}`},
		{connectors.MultiKey{ConnectorName: "m", ConnectorKey: connectors.LocalKey{ID: "i"}}, `{"kind":"multi","key":["m",{"kind":"local","key":["i"]}]}`},
	} {
		if got, err := connectors.MarshalKey(c.key); err != nil || string(got) != c.want {
			t.Errorf("got %s, %v; want %s", got, err, c.want)
		}
	}
}

func TestKeyRefused(t *testing.T) {
	deep := strings.Repeat(`{"kind":"multi","key":["m",`, 50) + `{"kind":"local","key":["i"]}` + strings.Repeat("]}", 50)
	for _, data := range []string{
		``, `null`, `{}`, `[]`, `1`, `"x"`, `{"key":["f"]}`, `{"kind":"file"}`, `{"kind":"file","key":[]}`, `{"kind":"file","key":["a","b"]}`,
		`{"kind":"file","key":[1]}`, `{"kind":"file","key":[null]}`, `{"kind":"file","key":[true]}`, `{"kind":"file","key":[1.5]}`,
		`{"kind":"nosuch","key":["f"]}`, `{"kind":"multi","key":["m","i"]}`, `{"kind":"multi","key":["m",null]}`, `{"kind":"multi","key":["m",["i"]]}`,
		`{"kind":"endpoint","key":["o",""]}`, `{"kind":"endpoint","key":["o",1]}`, `{"kind":"zmq","key":["tcp","o",1,"h",1]}`,
		`{"kind":"zmq","key":["zmq","o","1","h",1]}`, `{"kind":"globus","key":["f",[1]]}`, `{"kind":"globus","key":["f",null]}`,
		`{"kind":"daos","key":["a","b","c"]}`, `{"kind":"zmq","key":["zmq","o",9223372036854775808,"h",1]}`, deep,
	} {
		if k, err := connectors.UnmarshalKey([]byte(data), ""); !errors.Is(err, connectors.ErrInvalidKey) {
			t.Errorf("%.100s: got %v, %v", data, k, err)
		} else if len(err.Error()) > 600 {
			t.Errorf("%.100s: the message has %d bytes", data, len(err.Error()))
		}
	}
	if _, err := connectors.MarshalKey(nil); !errors.Is(err, connectors.ErrInvalidKey) {
		t.Errorf("nil key: %v", err)
	}
	if _, err := connectors.NewKeyFromTuple(connectors.Class{Module: "os", Name: "system"}, []any{"x"}); !errors.Is(err, connectors.ErrInvalidKey) {
		t.Errorf("unknown class: %v", err)
	}
	if _, err := connectors.KeyAs[connectors.FileKey]("file", connectors.RedisKey{}); !errors.Is(err, connectors.ErrInvalidKey) {
		t.Errorf("another kind: %v", err)
	}
	if _, err := connectors.KeyAs[connectors.FileKey]("file", nil); !errors.Is(err, connectors.ErrInvalidKey) {
		t.Errorf("nil key: %v", err)
	}
}

func TestKeyIdentity(t *testing.T) {
	multi := func(name string, k connectors.Key) connectors.Key {
		return connectors.MultiKey{ConnectorName: name, ConnectorKey: k}
	}
	// Keys of one connector within a line name different objects, though their fields, glued together, are the same text.
	for _, keys := range [][]connectors.Key{
		{connectors.FileKey{Filename: "a"}, connectors.FileKey{Filename: "b"}},
		{connectors.EndpointKey{ObjectID: "a", EndpointID: "bc"}, connectors.EndpointKey{ObjectID: "ab", EndpointID: "c"}, connectors.EndpointKey{ObjectID: "abc"}},
		{connectors.DIMKey{DIMType: "zmq", ObjID: "o", PeerHost: "h1", PeerPort: 1}, connectors.DIMKey{DIMType: "zmq", ObjID: "o", PeerHost: "h", PeerPort: 11},
			connectors.DIMKey{DIMType: "ucx", ObjID: "o", PeerHost: "h", PeerPort: 11}},
		{connectors.DAOSKey{Pool: "a", Container: "bc"}, connectors.DAOSKey{Pool: "ab", Container: "c"}, connectors.DAOSKey{Pool: "ab", Namespace: "c"},
			connectors.DAOSKey{Pool: "ab", DictKey: "c"}},
		{multi("a", connectors.FileKey{Filename: "bc"}), multi("ab", connectors.FileKey{Filename: "c"}), multi("a", connectors.RedisKey{RedisKey: "bc"}),
			multi("a", multi("b", connectors.FileKey{Filename: "c"})), multi("a", nil), multi("a4:file2:bc", nil)},
	} {
		seen := map[string]connectors.Key{}
		for _, k := range keys {
			if other, ok := seen[k.Identity()]; ok {
				t.Errorf("%v and %v have the same identity %q", k, other, k.Identity())
			}
			seen[k.Identity()] = k
		}
	}
	// Same objects: GlobusKey compares by file name, and a DIM key's size is no part of what it names.
	for _, pair := range [][2]connectors.Key{
		{connectors.NewGlobusKey("f", "t"), connectors.NewGlobusKey("f")},
		{singleTask, connectors.NewGlobusKey("f", "other")},
		{multi("g", singleTask), multi("g", connectors.NewGlobusKey("f"))},
		{connectors.DIMKey{DIMType: "zmq", ObjID: "o", Size: 1}, connectors.DIMKey{DIMType: "zmq", ObjID: "o", Size: 2}},
	} {
		if pair[0] == pair[1] || pair[0].Identity() != pair[1].Identity() {
			t.Errorf("%v and %v: identities %q and %q", pair[0], pair[1], pair[0].Identity(), pair[1].Identity())
		}
	}
}

func TestFormatKey(t *testing.T) {
	for _, c := range []struct {
		key  connectors.Key
		want string
	}{
		{nil, "None"},
		{connectors.FileKey{Filename: "f"}, `FileKey(filename="f")`},
		{connectors.EndpointKey{ObjectID: "o"}, `EndpointKey(object_id="o", endpoint_id=None)`},
		{connectors.DIMKey{DIMType: "zmq", ObjID: "o", Size: 1, PeerHost: "h", PeerPort: 2},
			`DIMKey(dim_type="zmq", obj_id="o", size=1, peer_host="h", peer_port=2)`},
		{connectors.MultiKey{ConnectorName: "m", ConnectorKey: connectors.LocalKey{ID: "i"}}, `MultiKey(connector_name="m", connector_key=LocalKey(id="i"))`},
		{connectors.MultiKey{ConnectorName: "m"}, `MultiKey(connector_name="m", connector_key=None)`},
		{connectors.LocalKey{ID: "line\nbreak"}, `LocalKey(id="line\nbreak")`},
	} {
		if got := connectors.FormatKey(c.key); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	if got := connectors.FormatKey(connectors.LocalKey{ID: strings.Repeat("x", 10_000)}); len(got) > 200 {
		t.Errorf("a long id gives %d bytes", len(got))
	}
}

func TestGlobusTaskIDs(t *testing.T) {
	for _, ids := range [][]string{nil, {"a"}, {"a", "b", "c"}} {
		k := connectors.NewGlobusKey("f", ids...)
		if got := k.TaskIDs(); fmt.Sprint(got) != fmt.Sprint(ids) {
			t.Errorf("got %q, want %q", got, ids)
		}
		if got := k.Tuple()[1]; reflect.TypeOf(got) != reflect.TypeFor[[]string]() {
			t.Errorf("%q: the tuple has a %T", ids, got)
		}
	}
	if got := singleTask.Tuple()[1]; got != "t" {
		t.Errorf("one task id became %v", got)
	}
}

func FuzzUnmarshalKey(f *testing.F) {
	for _, k := range every {
		data, err := connectors.MarshalKey(k)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "")
	}
	f.Add([]byte(`["f"]`), "file")
	f.Add([]byte(`["zmq","o",1,"h",1]`), "ZeroMQConnector")
	f.Add([]byte(`["f",["","a\u0000b"]]`), "globus")
	f.Fuzz(func(t *testing.T, data []byte, kind string) {
		k, err := connectors.UnmarshalKey(data, kind)
		if err != nil {
			if !errors.Is(err, connectors.ErrInvalidKey) {
				t.Fatalf("not ErrInvalidKey: %v", err)
			}
			return
		}
		again, err := connectors.MarshalKey(k)
		if err != nil {
			t.Fatal(err)
		}
		k2, err := connectors.UnmarshalKey(again, "")
		if err != nil || k2 != k {
			t.Fatalf("%s became %s: %#v, then %#v, %v", data, again, k, k2, err)
		}
		if third, _ := connectors.MarshalKey(k2); !bytes.Equal(third, again) {
			t.Fatalf("%s, then %s", again, third)
		}
		if k.Identity() != k2.Identity() || connectors.FormatKey(k) == "" {
			t.Fatalf("%#v", k)
		}
	})
}
