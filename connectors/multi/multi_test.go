package multi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/local"
	"github.com/proxyplane/proxyplane/transport"
)

// registry returns one with this driver and the local one.
func registry() *connectors.Registry {
	r := &connectors.Registry{}
	r.Register(local.Driver())
	r.Register(Driver())
	return r
}

func newMulti(t testing.TB, children map[string]Child, opts ...Option) *Connector {
	t.Helper()
	m, err := New(children, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// smallLarge returns a multi connector with objects of up to 10 bytes in one child and others in another.
func smallLarge(t testing.TB) *Connector {
	return newMulti(t, map[string]Child{
		"small": {local.New(local.Options{}), Policy{Priority: 1, MaxSizeBytes: 10}},
		"large": {local.New(local.Options{}), Policy{MinSizeBytes: 11}},
	})
}

// count returns how many objects are in a local connector that was made with IncludeDataInConfig.
func count(c *local.Connector) int {
	return len(c.Config().Options["store_dict"].(map[string]any))
}

func sized(n int) transport.Slices { return transport.Slices{make([]byte, n)} }

func childOf(k connectors.Key) string { return k.(connectors.MultiKey).ConnectorName }

// wrong is a key of a kind that no child here has.
var wrong = connectors.FileKey{Filename: "f"}

func TestRoutesAsPython(t *testing.T) {
	r := readRecorded(t)
	children := map[string]Child{}
	for name, p := range r.Routes.Policies {
		children[name] = Child{local.New(local.Options{}), mustPolicy(t, p)}
	}
	m := newMulti(t, children, WithHostname(r.Hostname))
	for _, row := range r.Routes.Rows {
		k, err := m.PutTagged(t.Context(), sized(int(row.Size)), connectors.Tags{Subset: row.Subset, Superset: row.Superset})
		switch {
		case row.Child == nil:
			if !errors.Is(err, connectors.ErrNoPolicy) {
				t.Errorf("%+v: %v, %v; Python finds no policy", row, k, err)
			}
		case err != nil || childOf(k) != *row.Child:
			t.Errorf("%+v: %v, %v; Python chooses %s", row, k, err, *row.Child)
		}
		if len(row.Subset)+len(row.Superset) == 0 {
			if plain, err := m.Put(t.Context(), sized(int(row.Size))); err != nil || childOf(plain) != *row.Child {
				t.Errorf("Put of %d bytes: %v, %v; Python chooses %s", row.Size, plain, err, *row.Child)
			}
		}
	}
	// A child that is not for this host gets no new objects, and serves its keys.
	inner, err := children["elsewhere"].Connector.Put(t.Context(), sized(1))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := m.Exists(t.Context(), connectors.MultiKey{ConnectorName: "elsewhere", ConnectorKey: inner}); !ok || err != nil {
		t.Errorf("the key of a child for other hosts: %v, %v", ok, err)
	}
}

func TestTiesGoByName(t *testing.T) {
	for range 20 { // a map's order is random
		children := map[string]Child{}
		for _, n := range []string{"c", "b", "a", "d"} {
			children[n] = Child{local.New(local.Options{}), Policy{}}
		}
		if k, err := newMulti(t, children).Put(t.Context(), nil); err != nil || childOf(k) != "a" {
			t.Fatalf("%v, %v", k, err)
		}
	}
}

func TestNoPolicy(t *testing.T) {
	m := newMulti(t, map[string]Child{"small": {local.New(local.Options{}), Policy{MaxSizeBytes: 10, SubsetTags: []string{"x"}}}})
	ctx := t.Context()
	for name, f := range map[string]func() error{
		"Put":                func() error { _, err := m.Put(ctx, sized(11)); return err },
		"PutTagged":          func() error { _, err := m.PutTagged(ctx, sized(1), connectors.Tags{Subset: []string{"y"}}); return err },
		"PutBatch":           func() error { _, err := m.PutBatch(ctx, []transport.Slices{sized(1), sized(11)}); return err },
		"PutStream":          func() error { _, err := m.PutStream(ctx, 11); return err },
		"PutStream, unknown": func() error { _, err := m.PutStream(ctx, -1); return err },
	} {
		if err := f(); !errors.Is(err, connectors.ErrNoPolicy) || !strings.Contains(err.Error(), `child "small" takes 0 to 10 bytes`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := m.PutTagged(ctx, sized(7), connectors.Tags{Subset: []string{"q"}}); !strings.Contains(err.Error(), `7 bytes, subset tags ["q"]`) {
		t.Errorf("the message does not say what was put: %v", err)
	}
	if _, err := m.NewKey(ctx); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("NewKey without an unlimited child: %v", err)
	}
}

// keyCalls are the calls that take one key.
func keyCalls(m connectors.Connector) map[string]func(ctx context.Context, k connectors.Key) error {
	return map[string]func(ctx context.Context, k connectors.Key) error{
		"Get":    func(ctx context.Context, k connectors.Key) error { b, err := m.Get(ctx, k); b.Release(); return err },
		"Exists": func(ctx context.Context, k connectors.Key) error { _, err := m.Exists(ctx, k); return err },
		"Evict":  m.Evict,
		"GetRange": func(ctx context.Context, k connectors.Key) error {
			_, err := connectors.GetRange(ctx, m, k, 0, 1)
			return err
		},
		"GetBytes": func(ctx context.Context, k connectors.Key) error {
			_, err := connectors.GetBytes(ctx, m, k)
			return err
		},
		"Map":  func(ctx context.Context, k connectors.Key) error { _, err := connectors.Map(ctx, m, k); return err },
		"Stat": func(ctx context.Context, k connectors.Key) error { _, err := connectors.Stat(ctx, m, k); return err },
		"Wait": func(ctx context.Context, k connectors.Key) error {
			return connectors.Wait(ctx, m, k, connectors.Polling{})
		},
		"GetStream": func(ctx context.Context, k connectors.Key) error {
			_, err := connectors.GetStream(ctx, m, k)
			return err
		},
		"Set": func(ctx context.Context, k connectors.Key) error { return connectors.Set(ctx, m, k, nil) },
		"GetBatch": func(ctx context.Context, k connectors.Key) error {
			_, err := connectors.GetBatch(ctx, m, []connectors.Key{k})
			return err
		},
		"EvictBatch": func(ctx context.Context, k connectors.Key) error {
			return connectors.EvictBatch(ctx, m, []connectors.Key{k})
		},
	}
}

func TestInvalidKeys(t *testing.T) {
	m := smallLarge(t)
	for name, c := range map[string]struct {
		key  connectors.Key
		says string
	}{
		"nil":             {nil, "needs a multi key"},
		"another kind":    {connectors.LocalKey{ID: "x"}, "needs a multi key"},
		"unknown child":   {connectors.MultiKey{ConnectorName: "tiny", ConnectorKey: connectors.LocalKey{ID: "x"}}, `no child "tiny"; there are ["large" "small"]`},
		"no inner key":    {connectors.MultiKey{ConnectorName: "small"}, `child "small" needs a LocalKey`},
		"wrong inner key": {connectors.MultiKey{ConnectorName: "small", ConnectorKey: wrong}, `child "small" needs a LocalKey, not FileKey(filename="f")`},
		"nested":          {connectors.MultiKey{ConnectorName: "small", ConnectorKey: connectors.MultiKey{ConnectorName: "small"}}, "needs a LocalKey"},
		"hostile name":    {connectors.MultiKey{ConnectorName: strings.Repeat("x", 10_000)}, "there are"},
	} {
		for op, f := range keyCalls(m) {
			err := f(t.Context(), c.key)
			if !errors.Is(err, connectors.ErrInvalidKey) || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 1000 {
				t.Errorf("%s, %s: %.300v", op, name, err)
			}
			var oe *connectors.OpError
			if !errors.As(err, &oe) || oe.Kind != "multi" {
				t.Errorf("%s, %s: no OpError of multi: %v", op, name, err)
			}
		}
	}
}

func TestBatchesAcrossChildren(t *testing.T) {
	ctx := t.Context()
	m := smallLarge(t)
	var objs []transport.Slices
	for i := range 30 {
		objs = append(objs, transport.Slices{[]byte(fmt.Sprint(i)), make([]byte, i)})
	}
	keys, err := m.PutBatch(ctx, objs)
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range keys {
		if want := map[bool]string{true: "small", false: "large"}[objs[i].Len() <= 10]; childOf(k) != want {
			t.Errorf("object %d is in %s", i, childOf(k))
		}
	}
	gone := connectors.MultiKey{ConnectorName: "large", ConnectorKey: connectors.LocalKey{ID: "gone"}}
	bufs, err := m.GetBatch(ctx, append(slices.Clone(keys), gone))
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range bufs[:len(keys)] {
		if string(b.Bytes()) != string(objs[i].Join()) {
			t.Errorf("object %d came back as %q", i, b.Bytes())
		}
		b.Release()
	}
	if bufs[len(keys)] != nil {
		t.Error("a missing object has a Buffer")
	}
	// One bad key does not keep the others from being evicted.
	if err := m.EvictBatch(ctx, append(slices.Clone(keys), wrong)); !errors.Is(err, connectors.ErrInvalidKey) {
		t.Errorf("EvictBatch: %v", err)
	}
	for i, k := range keys {
		if ok, err := m.Exists(ctx, k); ok || err != nil {
			t.Errorf("object %d: %v, %v", i, ok, err)
		}
	}
	for _, f := range []func() (int, error){
		func() (int, error) { k, err := m.PutBatch(ctx, nil); return len(k), err },
		func() (int, error) { b, err := m.GetBatch(ctx, nil); return len(b), err },
		func() (int, error) { return 0, m.EvictBatch(ctx, nil) },
	} {
		if n, err := f(); n != 0 || err != nil {
			t.Errorf("empty batch: %d, %v", n, err)
		}
	}
}

// failing is a child whose calls fail with err once it is set. It has the six methods only, over a local connector.
type failing struct {
	connectors.Connector
	mu       sync.Mutex
	err      error
	closeErr error
	closed   int
}

func (f *failing) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *failing) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *failing) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	if err := f.failure(); err != nil {
		return nil, err
	}
	return f.Connector.Put(ctx, obj)
}

func (f *failing) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	if err := f.failure(); err != nil {
		return nil, err
	}
	return f.Connector.Get(ctx, key)
}

func (f *failing) Close(ctx context.Context) error {
	f.closed++
	return errors.Join(f.closeErr, f.Connector.Close(ctx))
}

// TestOneChildFails: the other one goes on, and no batch leaves half of itself behind.
func TestOneChildFails(t *testing.T) {
	ctx := t.Context()
	store := local.New(local.Options{IncludeDataInConfig: true})
	bad := &failing{Connector: local.New(local.Options{})}
	m := newMulti(t, map[string]Child{
		"good": {store, Policy{Priority: 1, MaxSizeBytes: 10}},
		"bad":  {bad, Policy{}},
	})
	goodKey, err := m.Put(ctx, sized(1))
	if err != nil {
		t.Fatal(err)
	}
	badKey, err := m.Put(ctx, sized(20))
	if err != nil {
		t.Fatal(err)
	}
	bad.fail(fmt.Errorf("link is down: %w", connectors.ErrUnavailable))
	if _, err := m.Get(ctx, badKey); !errors.Is(err, connectors.ErrUnavailable) || !connectors.Retryable(err) {
		t.Errorf("Get from the failing child: %v", err)
	}
	if b, err := m.Get(ctx, goodKey); err != nil {
		t.Errorf("Get from the other: %v", err)
	} else {
		b.Release()
	}
	if _, err := m.GetBatch(ctx, []connectors.Key{goodKey, badKey}); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("GetBatch from both: %v", err)
	}
	before := count(store)
	if keys, err := m.PutBatch(ctx, []transport.Slices{sized(1), sized(20), sized(2)}); !errors.Is(err, connectors.ErrUnavailable) || keys != nil {
		t.Errorf("PutBatch to both: %v, %v", keys, err)
	}
	if n := count(store); n != before {
		t.Errorf("the failed batch left %d objects", n-before)
	}
	// Small objects do not need the failing child.
	if _, err := m.PutBatch(ctx, []transport.Slices{sized(1), sized(2)}); err != nil {
		t.Error(err)
	}
}

func TestDeferredKeys(t *testing.T) {
	ctx := t.Context()
	m := newMulti(t, map[string]Child{
		"small":    {local.New(local.Options{}), Policy{Priority: 4, MaxSizeBytes: 10}},
		"tagged":   {local.New(local.Options{}), Policy{Priority: 3, SupersetTags: []string{"x"}}},
		"six only": {&failing{Connector: local.New(local.Options{})}, Policy{Priority: 2}},
		"large":    {local.New(local.Options{}), Policy{Priority: 1, MinSizeBytes: 11}},
	})
	k, err := m.NewKey(ctx)
	if err != nil || childOf(k) != "large" {
		t.Fatalf("%v, %v: only one child has no limit, needs no tags and can defer", k, err)
	}
	if ok, err := m.Exists(ctx, k); ok || err != nil {
		t.Errorf("before Set: %v, %v", ok, err)
	}
	for _, n := range []int{5, 50} { // less than the child's minimum too
		if err := m.Set(ctx, k, sized(n)); err != nil {
			t.Errorf("Set of %d bytes: %v", n, err)
		}
		if i, err := m.Stat(ctx, k); err != nil || i.Size != int64(n) {
			t.Errorf("after Set of %d bytes: %v, %v", n, i, err)
		}
	}
	small, err := m.Put(ctx, sized(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Set(ctx, small, sized(11)); !errors.Is(err, connectors.ErrTooLarge) {
		t.Errorf("Set above the child's maximum: %v", err)
	}
	if i, err := m.Stat(ctx, small); err != nil || i.Size != 1 {
		t.Errorf("a refused Set changed the object: %v, %v", i, err)
	}
}

func TestStreamRoutes(t *testing.T) {
	ctx := t.Context()
	m := smallLarge(t)
	for size, want := range map[int64]string{0: "small", 10: "small", 11: "large", -1: "large"} {
		w, err := m.PutStream(ctx, size)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, max(size, 0))); err != nil {
			t.Fatal(err)
		}
		k, err := w.Commit()
		if err != nil || childOf(k) != want {
			t.Errorf("%d bytes: %v, %v; want child %s", size, k, err, want)
		}
	}
}

func TestConfigAsPython(t *testing.T) {
	ctx := t.Context()
	r := readRecorded(t)
	// Python's host is not ours: give every pattern of it the name of this one.
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	opts, err := connectors.NormalizeOptions(r.Config)
	if err != nil {
		t.Fatal(err)
	}
	opts["here"].([]any)[2].(map[string]any)["host_pattern"] = []any{"no-such-host", escape(host)}
	cfg := connectors.Config{Kind: "MultiConnector", Options: opts}
	want := cfg.Clone()
	c, err := registry().Open(ctx, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	got := c.Config()
	if got.Kind != class.String() {
		t.Errorf("kind is %q", got.Kind)
	}
	if !reflect.DeepEqual(got.Options["there"], want.Options["there"]) {
		t.Errorf("the dormant child became %v", got.Options["there"])
	}
	for _, name := range []string{"small", "here"} {
		g, w := got.Options[name].([]any), want.Options[name].([]any)
		if len(g) != 3 || g[0] != w[0] || !reflect.DeepEqual(g[2], w[2]) {
			t.Errorf("child %s: %v, Python has %v", name, g, w)
		}
	}
	// What has been opened opens again as the same, also by way of JSON.
	data, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var back connectors.Config
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // sys.maxsize is no float64
	if err := dec.Decode(&back); err != nil {
		t.Fatal(err)
	}
	for _, again := range []connectors.Config{got, back} {
		d, err := registry().Open(ctx, again, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !d.Config().Equal(got) {
			t.Errorf("opened again: %v, was %v", d.Config(), got)
		}
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	// The caller owns a Config.
	got.Options["there"].([]any)[2].(map[string]any)["priority"] = int64(99)
	if !reflect.DeepEqual(c.Config().Options["there"], want.Options["there"]) {
		t.Error("changing a Config changed the connector")
	}
	key := connectors.MultiKey{ConnectorName: "there", ConnectorKey: connectors.LocalKey{ID: "x"}}
	for op, f := range keyCalls(c) {
		if err := f(ctx, key); !errors.Is(err, ErrDormant) || !strings.Contains(err.Error(), `"there" is for hosts ["login"]`) ||
			connectors.Retryable(err) {
			t.Errorf("%s on a dormant child: %v", op, err)
		}
	}
}

func escape(host string) string { return strings.NewReplacer(".", `\.`, "-", `\-`).Replace(host) }

// entryOf returns a child's entry in the options.
func entryOf(kind string, opts, policy map[string]any) []any { return []any{kind, opts, policy} }

func TestConfigRefused(t *testing.T) {
	none := map[string]any{}
	deep := map[string]any{"x": entryOf("local", none, none)}
	for range 8 {
		deep = map[string]any{"x": entryOf("multi", deep, none)}
	}
	for name, c := range map[string]struct {
		opts map[string]any
		says string
	}{
		"no child":       {none, "at least one child"},
		"not a list":     {map[string]any{"a": "local"}, `child "a"`},
		"two elements":   {map[string]any{"a": []any{"local", none}}, "must be [class path, {options}, {policy}]"},
		"wrong elements": {map[string]any{"a": []any{none, "local", none}}, "must be [class path"},
		"policy field":   {map[string]any{"a": entryOf("local", none, map[string]any{"max_size": int64(1)})}, "option max_size is unknown"},
		"pattern":        {map[string]any{"a": entryOf("local", none, map[string]any{"host_pattern": "(?!x)"})}, `host_pattern "(?!x)"`},
		"child's option": {map[string]any{"a": entryOf("local", map[string]any{"colour": "red"}, none)}, "option colour is unknown"},
		"child's kind":   {map[string]any{"a": entryOf("locl", none, none)}, `unknown connector kind "locl"`},
		"nested":         {deep, "nested more than 8 deep"},
	} {
		_, err := registry().Open(t.Context(), connectors.Config{Kind: "multi", Options: c.opts}, nil)
		if !errors.Is(err, connectors.ErrConfig) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(nil); !errors.Is(err, connectors.ErrConfig) {
		t.Errorf("New without children: %v", err)
	}
	if _, err := New(map[string]Child{"a": {}}); !errors.Is(err, connectors.ErrConfig) {
		t.Errorf("New with a child without connector: %v", err)
	}
	if _, err := New(map[string]Child{"a": {local.New(local.Options{}), Policy{HostPattern: []string{"("}}}}); !errors.Is(err, connectors.ErrConfig) {
		t.Errorf("New with a bad pattern: %v", err)
	}
}

// tracked is a driver that counts what it opens and closes, and fails while down.
type tracked struct {
	mu           sync.Mutex
	down         bool
	opened, shut int
}

func (d *tracked) driver() connectors.Driver {
	drv := local.Driver()
	drv.Kind, drv.Class = "redis", connectors.Class{Module: "proxystore.connectors.redis", Name: "RedisConnector"}
	drv.Secret = []string{"storage"}
	open := drv.Open
	drv.Open = func(ctx context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.down {
			return nil, connectors.ErrUnavailable
		}
		d.opened++
		c, err := open(ctx, o, env)
		return &trackedConn{c, d}, err
	}
	return drv
}

type trackedConn struct {
	connectors.Connector
	d *tracked
}

func (c *trackedConn) Config() connectors.Config {
	cfg := c.Connector.Config()
	cfg.Kind = "proxystore.connectors.redis.RedisConnector"
	return cfg
}

func (c *trackedConn) Close(ctx context.Context) error {
	c.d.shut++
	return c.Connector.Close(ctx)
}

// twoKinds is a configuration with a local child and a tracked one.
func twoKinds() connectors.Config {
	none := map[string]any{}
	return connectors.Config{Kind: "multi", Options: map[string]any{
		"a local":   entryOf("local", map[string]any{"storage": "multi-two-kinds"}, map[string]any{"priority": int64(1), "max_size_bytes": int64(10)}),
		"b tracked": entryOf("redis", map[string]any{"storage": "multi-tracked"}, none),
	}}
}

func TestOpenAllOrNothing(t *testing.T) {
	ctx := t.Context()
	up, down := &tracked{}, &tracked{down: true}
	r := registry()
	r.Register(up.driver())
	d := down.driver()
	d.Kind, d.Class = "zmq", connectors.Class{Module: "x", Name: "Y"}
	r.Register(d)
	cfg := twoKinds()
	cfg.Options["c down"] = entryOf("zmq", map[string]any{}, map[string]any{})
	if _, err := r.Open(ctx, cfg, nil); !errors.Is(err, connectors.ErrUnavailable) || !strings.Contains(err.Error(), `"c down"`) {
		t.Fatalf("%v", err)
	}
	if up.opened != 1 || up.shut != 1 {
		t.Errorf("the child that could be opened: opened %d times, closed %d times", up.opened, up.shut)
	}
}

func TestReceivedOpensOnDemand(t *testing.T) {
	ctx := t.Context()
	d := &tracked{down: true}
	r := registry()
	r.Register(d.driver())
	env := &connectors.Env{Received: true}
	cfg := twoKinds()
	cfg.Options["c unknown"] = entryOf("lab.OwnConnector", map[string]any{}, map[string]any{"min_size_bytes": int64(1 << 40)})
	want := cfg.Clone()
	m, err := r.Open(ctx, cfg, env)
	if err != nil {
		t.Fatalf("a child that is down, and one of unknown kind: %v", err)
	}
	// A key of the child that works.
	k, err := m.Put(ctx, sized(1))
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.Get(ctx, k)
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
	if _, err := m.Put(ctx, sized(100)); !errors.Is(err, connectors.ErrUnavailable) || !strings.Contains(err.Error(), `opening child "b tracked"`) {
		t.Errorf("the child that is down: %v", err)
	}
	unknown := connectors.MultiKey{ConnectorName: "c unknown", ConnectorKey: connectors.LocalKey{}}
	if _, err := m.Get(ctx, unknown); !errors.Is(err, connectors.ErrConfig) {
		t.Errorf("the child of unknown kind: %v", err)
	}
	// It comes up: the failure is not remembered, and many that need it open it once.
	d.mu.Lock()
	d.down = false
	d.mu.Unlock()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := m.Put(ctx, sized(100)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if d.opened != 1 {
		t.Errorf("opened %d times", d.opened)
	}
	if got := m.Config(); !reflect.DeepEqual(got.Options, want.Options) {
		t.Errorf("the configuration became %v, was %v", got, want)
	}
	if err := m.Close(ctx); err != nil || d.shut != 1 {
		t.Errorf("Close: %v, the child was closed %d times", err, d.shut)
	}
	if l, err := r.Locations(cfg, env); err != nil || len(l) != 2 {
		t.Errorf("locations of what was received: %v, %v", l, err)
	}
	if _, err := r.Locations(cfg, nil); !errors.Is(err, connectors.ErrConfig) {
		t.Errorf("locations of what was configured here: %v", err)
	}
}

func TestLocationsRecurse(t *testing.T) {
	none := map[string]any{}
	inner := map[string]any{"x": entryOf("local", none, none), "y": entryOf("local", none, none),
		"away": entryOf("nosuch", none, map[string]any{"host_pattern": "no-such-host"})}
	l, err := registry().Locations(connectors.Config{Kind: "multi", Options: map[string]any{
		"a": entryOf("multi", inner, none), "b": entryOf("local", none, none)}}, nil)
	if want := []connectors.Location{{Kind: "local"}, {Kind: "local"}, {Kind: "local"}}; err != nil || !reflect.DeepEqual(l, want) {
		t.Errorf("%v, %v", l, err)
	}
}

func TestNested(t *testing.T) {
	ctx := t.Context()
	m := newMulti(t, map[string]Child{"outer": {smallLarge(t), Policy{}}})
	k, err := m.Put(ctx, sized(50))
	if err != nil || childOf(k) != "outer" || childOf(k.(connectors.MultiKey).ConnectorKey) != "large" {
		t.Fatalf("%v, %v", k, err)
	}
	c, err := registry().Open(ctx, m.Config(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if i, err := connectors.Stat(ctx, c, k); err != nil || i.Size != 50 {
		t.Errorf("through the configuration: %v, %v", i, err)
	}
}

func TestTravel(t *testing.T) {
	r := registry()
	r.Register((&tracked{}).driver())
	cfg := twoKinds()
	cfg.Options["dormant"] = entryOf("redis", map[string]any{"storage": "secret", "max_bytes": int64(1)}, map[string]any{"host_pattern": "no-such-host"})
	before := cfg.Clone()
	got, err := r.Travelling(cfg, false)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(cfg, before) {
		t.Errorf("the source became %v", cfg)
	}
	want := before.Clone()
	want.Options["b tracked"].([]any)[1] = map[string]any{}
	want.Options["dormant"].([]any)[1] = map[string]any{"max_bytes": int64(1)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("to Go: %v, want %v", got, want)
	}
	if got, err = r.Travelling(cfg, true); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"a local":   "proxystore.connectors.local.LocalConnector",
		"b tracked": "proxystore.connectors.redis.RedisConnector",
	} {
		e := got.Options[name].([]any)
		if e[0] != path || len(e[1].(map[string]any)) != 0 {
			t.Errorf("%s to Python: %v", name, e)
		}
	}
	cfg.Options["dormant"].([]any)[0] = "lab.OwnConnector"
	if _, err := r.Travelling(cfg, false); !errors.Is(err, connectors.ErrConfig) || !strings.Contains(err.Error(), `child "dormant"`) {
		t.Errorf("a child whose secrets nobody here knows: %v", err)
	}
}

func TestCloseAll(t *testing.T) {
	ctx := t.Context()
	boom := errors.New("boom")
	a := &failing{Connector: local.New(local.Options{}), closeErr: boom}
	b := &failing{Connector: local.New(local.Options{})}
	m, err := New(map[string]Child{"a": {a, Policy{Priority: 1}}, "b": {b, Policy{}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(ctx); !errors.Is(err, boom) || !strings.Contains(err.Error(), `child "a"`) {
		t.Errorf("Close: %v", err)
	}
	if err := m.Close(ctx); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if a.closed != 1 || b.closed != 1 {
		t.Errorf("closed %d and %d times", a.closed, b.closed)
	}
	key := connectors.MultiKey{ConnectorName: "a", ConnectorKey: connectors.LocalKey{ID: "x"}}
	for op, f := range keyCalls(m) {
		if err := f(ctx, key); !errors.Is(err, connectors.ErrClosed) {
			t.Errorf("%s after Close: %v", op, err)
		}
	}
	for op, f := range map[string]func() error{
		"Put":       func() error { _, err := m.Put(ctx, nil); return err },
		"PutBatch":  func() error { _, err := m.PutBatch(ctx, nil); return err },
		"NewKey":    func() error { _, err := m.NewKey(ctx); return err },
		"PutStream": func() error { _, err := m.PutStream(ctx, 1); return err },
	} {
		if err := f(); !errors.Is(err, connectors.ErrClosed) {
			t.Errorf("%s after Close: %v", op, err)
		}
	}
	if len(m.Config().Options) != 2 {
		t.Errorf("Config after Close: %v", m.Config())
	}
}

func TestCloseClear(t *testing.T) {
	ctx := t.Context()
	const name = "multi-close-clear"
	witness := local.New(local.Options{Storage: name, IncludeDataInConfig: true})
	defer witness.Close(ctx)
	six := &failing{Connector: local.New(local.Options{})}
	m, err := New(map[string]Child{"can": {local.New(local.Options{Storage: name}), Policy{Priority: 1}}, "cannot": {six, Policy{}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Put(ctx, sized(1)); err != nil {
		t.Fatal(err)
	}
	err = connectors.CloseClear(ctx, m, true)
	if err == nil || errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), `child "cannot"`) {
		t.Errorf("a child that cannot clear: %v", err)
	}
	if count(witness) != 0 || six.closed != 1 {
		t.Errorf("%d objects are left, the other child was closed %d times", count(witness), six.closed)
	}
}

// TestCloseWaits: a call in flight is waited for; a Wait is ended.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		slow := &slowPut{Connector: local.New(local.Options{}), pause: time.Hour}
		m, err := New(map[string]Child{"slow": {slow, Policy{}}, "waits": {local.New(local.Options{}), Policy{Priority: -1}}})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		putErr, waitErr := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := m.Put(ctx, sized(1))
			putErr <- err
		}()
		go func() {
			waitErr <- m.Wait(ctx, connectors.MultiKey{ConnectorName: "waits", ConnectorKey: connectors.LocalKey{ID: "never"}})
		}()
		synctest.Wait()
		second := make(chan error, 1)
		go func() {
			time.Sleep(time.Minute)
			second <- m.Close(ctx)
		}()
		if err := m.Close(ctx); err != nil {
			t.Error(err)
		}
		if got := time.Since(start); got != time.Hour {
			t.Errorf("Close took %v, the call in flight an hour", got)
		}
		if err := <-putErr; err != nil {
			t.Errorf("the call in flight: %v", err)
		}
		if err := <-waitErr; !errors.Is(err, connectors.ErrClosed) {
			t.Errorf("the Wait: %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("a Close beside it: %v", err)
		}
	})
}

// TestCloseGivesUp: when its context ends, Close closes the children all the same.
func TestCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowPut{Connector: local.New(local.Options{}), pause: time.Hour}
		other := &failing{Connector: local.New(local.Options{})}
		m, err := New(map[string]Child{"slow": {slow, Policy{Priority: 1}}, "other": {other, Policy{}}})
		if err != nil {
			t.Fatal(err)
		}
		go m.Put(t.Context(), sized(1))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || other.closed != 1 {
			t.Errorf("%v; the other child was closed %d times", err, other.closed)
		}
		time.Sleep(2 * time.Hour) // the Put ends
	})
}

// TestCloseWhileOpening: a child that a call is opening when Close gives up is closed once it is open, and another Close waits for that.
func TestCloseWhileOpening(t *testing.T) {
	for _, clear := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := &tracked{}
			slow := d.driver()
			open := slow.Open
			slow.Open = func(ctx context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
				time.Sleep(time.Hour)
				return open(ctx, o, env)
			}
			r := registry()
			r.Register(slow)
			c, err := r.Open(t.Context(), twoKinds(), &connectors.Env{Received: true})
			if err != nil {
				t.Fatal(err)
			}
			m := c.(*Connector)
			put := make(chan error, 2)
			for range 2 {
				go func() {
					_, err := m.Put(t.Context(), sized(100))
					put <- err
				}()
			}
			synctest.Wait()
			for range 2 { // the second gives up too, and must not say that all is closed
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if err := m.CloseClear(ctx, clear); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Close while a child is being opened: %v", err)
				}
				cancel()
			}
			start := time.Now()
			// The tracked child cannot clear, which whoever closes last hears.
			if err := m.Close(t.Context()); (err != nil) != clear || clear && !strings.Contains(err.Error(), "objects are kept") {
				t.Errorf("the Close after that: %v", err)
			}
			if d.opened != 1 || d.shut != 1 {
				t.Errorf("after %v the child was opened %d times and closed %d times", time.Since(start), d.opened, d.shut)
			}
			<-put // what became of the Puts is not said
			<-put
			if _, err := m.Put(t.Context(), sized(100)); !errors.Is(err, connectors.ErrClosed) {
				t.Errorf("Put after Close: %v", err)
			}
		})
	}
}

// TestMalformedChildKeepsSecrets: whoever forgets the policy must not find the password in a log.
func TestMalformedChildKeepsSecrets(t *testing.T) {
	opts := map[string]any{"password": "hunter2"}
	for want, child := range map[string]any{
		"[a string, a table]":                         []any{"redis", opts},
		"[a string, a string, a table, a table, ...]": []any{"hunter2", "hunter2", opts, opts, opts},
		"a table":  opts,
		"a string": "hunter2",
		"nothing":  nil,
	} {
		cfg := connectors.Config{Kind: "multi", Options: map[string]any{"a": child}}
		_, err1 := registry().Open(t.Context(), cfg, nil)
		_, err2 := registry().Locations(cfg, nil)
		_, err3 := registry().Travelling(cfg, false)
		for _, err := range []error{err1, err2, err3} {
			if !errors.Is(err, connectors.ErrConfig) || strings.Contains(err.Error(), "hunter2") || !strings.HasSuffix(err.Error(), "not "+want) {
				t.Errorf("%v, want one that ends in %q", err, want)
			}
		}
	}
}

// TestChildrenAreReceivedToo: children are opened under the same suspicion as their parent.
func TestChildrenAreReceivedToo(t *testing.T) {
	ctx := t.Context()
	denied := errors.New("denied")
	dir := t.TempDir()
	cfg := connectors.Config{Kind: "multi", Options: map[string]any{
		"inner": entryOf("multi", map[string]any{"files": entryOf("file", map[string]any{"store_dir": dir}, map[string]any{})}, map[string]any{})}}
	var asked []connectors.Location
	m, err := registryWithFile().Open(ctx, cfg, &connectors.Env{Received: true, Confirm: func(l connectors.Location) error {
		asked = append(asked, l)
		return denied
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(ctx)
	if _, err := m.Put(ctx, sized(1)); !errors.Is(err, denied) || len(asked) != 1 || asked[0].Kind != "file" {
		t.Errorf("%v; asked about %v", err, asked)
	}
}

// slowPut is a child whose Put takes a while.
type slowPut struct {
	connectors.Connector
	pause time.Duration
}

func (s *slowPut) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	time.Sleep(s.pause)
	return s.Connector.Put(ctx, obj)
}

// TestWaitPollsAsAsked: over a child that knows no event, the caller's polling is used.
func TestWaitPollsAsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		loc := local.New(local.Options{})
		m, err := New(map[string]Child{"six": {&failing{Connector: loc}, Policy{}}})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close(ctx)
		inner, err := loc.NewKey(ctx)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		go func() {
			time.Sleep(time.Hour)
			if err := loc.Set(ctx, inner, nil); err != nil {
				t.Error(err)
			}
		}()
		key := connectors.MultiKey{ConnectorName: "six", ConnectorKey: inner}
		if err := connectors.Wait(ctx, m, key, connectors.Polling{Interval: 40 * time.Minute}); err != nil || time.Since(start) != 80*time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestTOML: a configuration file can say it all, in one line per child. TOML has no None, so that an absent host_pattern stands for it.
func TestTOML(t *testing.T) {
	var cfg connectors.Config
	if _, err := toml.Decode(`
		kind = "multi"
		[options]
		small = ["local", {}, {priority = 1, max_size_bytes = 100}]
		large = ["local", {max_bytes = 1000000}, {host_pattern = ["no-such-host", ".*"], subset_tags = ["big"]}]
		other = ["lab.OwnConnector", {path = "/x"}, {host_pattern = "no-such-host"}]
	`, &cfg); err != nil {
		t.Fatal(err)
	}
	c, err := registry().Open(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	for n, want := range map[int]string{100: "small", 101: "large"} {
		if k, err := c.Put(t.Context(), sized(n)); err != nil || childOf(k) != want {
			t.Errorf("%d bytes: %v, %v", n, k, err)
		}
	}
}
