package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/local"
	"github.com/proxyplane/proxyplane/transport"
)

func registry() *connectors.Registry {
	r := &connectors.Registry{}
	r.Register(local.Driver())
	return r
}

var capabilities = slices.DeleteFunc(connectortest.AllCapabilities(), func(name string) bool { return name == "Tagger" })

func harness(t testing.TB) connectortest.Harness {
	opts := local.Options{Storage: t.Name()}
	return connectortest.Harness{
		Open:     func(testing.TB) connectors.Connector { return local.New(opts) },
		Want:     capabilities,
		Registry: registry(),
		Objects: func(testing.TB) int {
			c := local.New(local.Options{Storage: opts.Storage, IncludeDataInConfig: true})
			defer c.Close(context.Background())
			return len(stored(c))
		},
	}
}

func TestConformance(t *testing.T) { connectortest.Run(t, harness) }

// TestConformanceBounded runs the suite where every put is counted.
func TestConformanceBounded(t *testing.T) {
	connectortest.Run(t, func(t testing.TB) connectortest.Harness {
		h := harness(t)
		opts := local.Options{Storage: t.Name(), MaxBytes: 70 << 20}
		h.Open = func(testing.TB) connectors.Connector { return local.New(opts) }
		return h
	})
}

func BenchmarkConformance(b *testing.B) { connectortest.Bench(b, harness) }

func stored(c connectors.Connector) map[string]any {
	return c.Config().Options["store_dict"].(map[string]any)
}

func one(s string) transport.Slices { return transport.Slices{[]byte(s)} }

func put(t *testing.T, c connectors.Connector, s string) connectors.Key {
	t.Helper()
	key, err := c.Put(t.Context(), one(s))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func get(t *testing.T, c connectors.Connector, key connectors.Key) string {
	t.Helper()
	b, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	return string(b.Bytes())
}

func TestKeyIsUUID4(t *testing.T) {
	c := local.New(local.Options{})
	defer c.Close(t.Context())
	for range 100 {
		id, err := uuid.Parse(put(t, c, "").Identity())
		if err != nil || id.Version() != 4 || id.Variant() != uuid.RFC4122 {
			t.Fatalf("key %s: version %d, %v", id, id.Version(), err)
		}
	}
}

func TestStorages(t *testing.T) {
	ctx := t.Context()
	a, other := local.New(local.Options{}), local.New(local.Options{})
	defer other.Close(ctx)
	key := put(t, a, "data")
	if ok, _ := other.Exists(ctx, key); ok {
		t.Error("two connectors without a name share a storage")
	}
	b, err := registry().Open(ctx, a.Config(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(ctx); err != nil {
		t.Error(err)
	}
	if got := get(t, b, key); got != "data" {
		t.Errorf("after the first connector's Close the other one gets %q", got)
	}
	if err := b.Close(ctx); err != nil {
		t.Error(err)
	}
	c, err := registry().Open(ctx, a.Config(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if ok, err := c.Exists(ctx, key); ok || err != nil {
		t.Errorf("the storage outlives its last connector: %t, %v", ok, err)
	}
	if _, err := c.Get(ctx, key); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("error of a missing object does not say why it may be missing: %v", err)
	}
}

// TestReceived shows that a configuration from a proxy reaches no storage of this process, neither one that is there nor one that comes later.
func TestReceived(t *testing.T) {
	ctx := t.Context()
	mine := local.New(local.Options{Storage: "received-mine"})
	defer mine.Close(ctx)
	key := put(t, mine, "private")
	for _, name := range []string{"received-mine", "received-later"} {
		cfg := connectors.Config{Kind: "local", Options: map[string]any{"storage": name, "store_dict": map[string]any{"planted": []byte("theirs")}}}
		theirs, err := registry().Open(ctx, cfg, &connectors.Env{Received: true})
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close(ctx)
		planted := connectors.LocalKey{ID: "planted"}
		if got := get(t, theirs, planted); got != "theirs" {
			t.Errorf("what came in the proxy is %q", got)
		}
		if ok, err := theirs.Exists(ctx, key); ok || err != nil {
			t.Errorf("a received configuration sees this process's object: %t, %v", ok, err)
		}
		c := local.New(local.Options{Storage: name})
		defer c.Close(ctx)
		if ok, err := c.Exists(ctx, planted); ok || err != nil {
			t.Errorf("storage %s holds a stranger's object: %t, %v", name, ok, err)
		}
		if got := theirs.Config().Options["storage"]; got == name {
			t.Error("the stranger's storage name is used")
		}
	}
}

func TestStoreDict(t *testing.T) {
	ctx := t.Context()
	a := local.New(local.Options{IncludeDataInConfig: true})
	defer a.Close(ctx)
	key := put(t, a, "data")
	empty := put(t, a, "")
	cfg := a.Config()
	if want := map[string]any{key.Identity(): []byte("data"), empty.Identity(): []byte{}}; !reflect.DeepEqual(stored(a), want) {
		t.Errorf("store_dict is %v, want %v", stored(a), want)
	}
	stored(a)[key.Identity()].([]byte)[0] = 'X' // the caller owns the result
	if got := get(t, a, key); got != "data" {
		t.Errorf("the object is %q after the caller changed the Config that it owns", got)
	}

	// Elsewhere, which another storage name stands for, the data comes along, also through JSON.
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var decoded connectors.Config
	if err := json.Unmarshal(text, &decoded); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []connectors.Config{cfg.Clone(), decoded} {
		delete(cfg.Options, "storage")
		b, err := registry().Open(ctx, cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := get(t, b, key); got != "data" {
			t.Errorf("elsewhere the object is %q", got)
		}
		if got := get(t, b, empty); got != "" {
			t.Errorf("elsewhere the empty object is %q", got)
		}
		b.Close(ctx)
		if n := len(stored(b)); n != 0 {
			t.Errorf("after Close the Config still holds %d objects", n)
		}
	}

	// Here the storage is newer than its configuration.
	if err := a.Evict(ctx, key); err != nil {
		t.Fatal(err)
	}
	b, err := registry().Open(ctx, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(ctx)
	if ok, _ := b.Exists(ctx, key); ok {
		t.Error("opening an old configuration brings back an evicted object")
	}
}

func TestStoreDictIsCopied(t *testing.T) {
	mine := []byte("data")
	c := local.New(local.Options{StoreDict: map[string][]byte{"id": mine}})
	defer c.Close(t.Context())
	mine[0] = 'X'
	if got := get(t, c, connectors.LocalKey{ID: "id"}); got != "data" {
		t.Errorf("the object is %q after the caller changed its bytes", got)
	}
}

func TestBadOptions(t *testing.T) {
	for name, opts := range map[string]map[string]any{
		"unknown":           {"storge": "x"},
		"storage":           {"storage": int64(1)},
		"negative":          {"max_bytes": int64(-1)},
		"store_dict":        {"store_dict": "x"},
		"value":             {"store_dict": map[string]any{"id": int64(1)}},
		"not base64":        {"store_dict": map[string]any{"id": "?"}},
		"include as string": {"include_data_in_config": "yes"},
	} {
		cfg := connectors.Config{Kind: "local", Options: opts}
		if c, err := registry().Open(t.Context(), cfg, nil); !errors.Is(err, connectors.ErrConfig) {
			t.Errorf("%s: Open = %v, %v; want ErrConfig", name, c, err)
		}
		if _, err := registry().Locations(cfg, nil); !errors.Is(err, connectors.ErrConfig) && name != "unknown" {
			t.Errorf("%s: Locations: %v, want ErrConfig", name, err)
		}
	}
}

func TestTravelling(t *testing.T) {
	c := local.New(local.Options{Storage: "here", MaxBytes: 5, IncludeDataInConfig: true})
	defer c.Close(t.Context())
	got, err := registry().Travelling(c.Config(), true)
	want := connectors.Config{Kind: "proxystore.connectors.local.LocalConnector",
		Options: map[string]any{"include_data_in_config": true, "store_dict": map[string]any{}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("for Python: %v, %v; want %v", got, err, want)
	}
	if loc, err := registry().Locations(c.Config(), nil); err != nil || !slices.Equal(loc, []connectors.Location{{Kind: "local"}}) {
		t.Errorf("Locations = %v, %v; want one that stays in the process", loc, err)
	}
}

func TestMaxBytes(t *testing.T) {
	ctx := t.Context()
	a := local.New(local.Options{MaxBytes: 10, IncludeDataInConfig: true})
	defer a.Close(ctx)
	unbounded := local.New(local.Options{Storage: a.Config().Options["storage"].(string)})
	defer unbounded.Close(ctx)
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, connectors.ErrTooLarge) || !strings.Contains(err.Error(), "max_bytes") {
			t.Errorf("%s: %v, want ErrTooLarge and what to do", what, err)
		}
	}
	key := put(t, a, "0123456789")
	_, err := a.Put(ctx, one("x"))
	refused("Put past the bound", err)
	refused("Set to more", a.Set(ctx, key, one("0123456789x")))
	if err := a.Set(ctx, key, one("012345678")); err != nil {
		t.Errorf("Set to less: %v", err)
	}
	keys, err := a.PutBatch(ctx, []transport.Slices{one("x"), one("y")})
	refused(fmt.Sprint("PutBatch past the bound, with keys ", keys), err)
	if n := len(stored(a)); n != 1 {
		t.Errorf("after a PutBatch that was refused there are %d objects, want 1", n)
	}
	put(t, a, "x") // what the batch took is free again
	_, err = a.PutOwned(ctx, []byte("x"))
	refused("PutOwned past the bound", err)
	if err := a.Evict(ctx, key); err != nil {
		t.Error(err)
	}
	if err := a.Evict(ctx, key); err != nil {
		t.Error(err)
	}
	put(t, a, "012345678") // evicting twice frees once
	_, err = a.Put(ctx, one("x"))
	refused("Put after evicting twice", err)

	_, err = a.PutStream(ctx, 11)
	refused("PutStream of more than ever fits", err)
	w, err := a.PutStream(ctx, -1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.ReadFrom(strings.NewReader(strings.Repeat("x", 1000)))
	refused("ReadFrom of more than ever fits", err)
	_, err = w.Write([]byte(strings.Repeat("x", 1000)))
	refused("Write of more than ever fits", err)
	w.Abort()
	if _, err := unbounded.Put(ctx, one("more")); err != nil {
		t.Errorf("Put through a connector without a bound: %v", err)
	}
	if err := a.CloseClear(ctx, true); err != nil {
		t.Error(err)
	}
	b := local.New(local.Options{Storage: a.Config().Options["storage"].(string), MaxBytes: 10})
	defer b.Close(ctx)
	put(t, b, "0123456789") // clearing frees all
}

// TestNoCopy shows that all readers stand on one memory, and that what is owned is not copied to get there.
func TestNoCopy(t *testing.T) {
	ctx := t.Context()
	c := local.New(local.Options{})
	defer c.Close(ctx)
	mine := []byte("0123456789")
	key, err := c.PutOwned(ctx, mine)
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.GetRange(ctx, key, 5, 2)
	if err != nil {
		t.Fatal(err)
	}
	data, err := c.GetBytes(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if &first.Bytes()[0] != &mine[0] || &second.Bytes()[0] != &mine[5] || &data[0] != &mine[0] {
		t.Error("a copy was made")
	}
	if n := cap(second.Bytes()); n != 2 {
		t.Errorf("a range has capacity %d: an append would write the stored bytes", n)
	}
	first.Release()
	second.Release()
}

// TestHugeAnnouncement shows that a size that is only claimed takes no memory to speak of, and cannot panic.
func TestHugeAnnouncement(t *testing.T) {
	c := local.New(local.Options{})
	defer c.Close(t.Context())
	w, err := c.PutStream(t.Context(), math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := w.Commit(); !errors.Is(err, connectors.ErrCorrupt) {
		t.Errorf("Commit of 1 byte of far more: %v, want ErrCorrupt", err)
	}
}

// TestWaitersLeaveNothing shows, on a clock that stands still unless all sleep, that waiting neither polls nor leaves anything.
func TestWaitersLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := local.New(local.Options{})
		key := connectors.LocalKey{ID: "later"}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := c.Wait(t.Context(), key); err != nil {
					t.Error(err)
				}
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if err := c.Wait(ctx, key); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait() // all sleep
		cancel()
		synctest.Wait()
		if err := c.Set(t.Context(), key, nil); err != nil {
			t.Error(err)
		}
		wg.Wait()
		closing := connectors.LocalKey{ID: "never"}
		wg.Go(func() {
			if err := c.Wait(t.Context(), closing); !errors.Is(err, connectors.ErrClosed) {
				t.Error(err)
			}
		})
		synctest.Wait()
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// FuzzOpen opens whatever configuration comes: it is refused as such, or Config, Open, Config is a fixed point.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"storage":"s","max_bytes":10,"include_data_in_config":true,"store_dict":{"id":"ZGF0YQ==","e":""}}`))
	f.Add([]byte(`{"include_data_in_config":false,"store_dict":null}`))
	f.Add([]byte(`{"store_dict":{"id":[1,2]}}`))
	f.Add([]byte(`{"max_bytes":1e30}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		var opts map[string]any
		if d.Decode(&opts) != nil {
			return
		}
		a, err := registry().Open(t.Context(), connectors.Config{Kind: "local", Options: opts}, nil)
		if err != nil {
			if !errors.Is(err, connectors.ErrConfig) {
				t.Fatalf("%v is no ErrConfig", err)
			}
			return
		}
		defer a.Close(t.Context())
		b, err := registry().Open(t.Context(), a.Config(), nil)
		if err != nil {
			t.Fatalf("its own configuration %v is refused: %v", a.Config(), err)
		}
		defer b.Close(t.Context())
		if !a.Config().Equal(b.Config()) {
			t.Fatalf("%v became %v", a.Config(), b.Config())
		}
	})
}

func ExampleConnector_PutOwned() {
	ctx := context.Background()
	c := local.New(local.Options{})
	defer c.Close(ctx)
	key, err := c.PutOwned(ctx, []byte("given away, not copied"))
	if err != nil {
		panic(err)
	}
	obj, err := c.Get(ctx, key)
	if err != nil {
		panic(err)
	}
	defer obj.Release()
	fmt.Printf("%s\n", obj.Bytes())
	// Output: given away, not copied
}
