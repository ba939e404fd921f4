package connectortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/local"
	"github.com/proxyplane/proxyplane/transport"
)

// recorder stands in for the *testing.T of one check, so that its failing is a result and not ours.
type recorder struct {
	testing.TB // for the methods that a check does not need

	name     string
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (r *recorder) fail(msg string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, msg)
}

func (r *recorder) Name() string              { return r.name }
func (r *recorder) Helper()                   {}
func (r *recorder) Error(args ...any)         { r.fail(fmt.Sprintln(args...)) }
func (r *recorder) Errorf(f string, a ...any) { r.fail(fmt.Sprintf(f, a...)) }
func (r *recorder) Fatal(args ...any)         { r.Error(args...); runtime.Goexit() }
func (r *recorder) Fatalf(f string, a ...any) { r.Errorf(f, a...); runtime.Goexit() }
func (r *recorder) Failed() bool              { return len(r.failures) > 0 }
func (r *recorder) Cleanup(f func())          { r.cleanups = append(r.cleanups, f) }

// guard runs f to its end, its Goexit or its panic, which is a failure.
func (r *recorder) guard(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				r.fail(fmt.Sprintf("panic: %v\n%s", p, debug.Stack()))
			}
		}()
		f()
	}()
	<-done
}

// result runs one check, cleanups included, and returns its failures.
func result(t *testing.T, name string, h func(testing.TB) Harness) []string {
	r := &recorder{TB: t, name: t.Name()}
	i := slices.IndexFunc(checks, func(c check) bool { return c.name == name })
	if i < 0 {
		t.Fatalf("there is no check %s", name)
	}
	r.guard(func() { runCheck(r, h, checks[i].run) })
	for _, f := range slices.Backward(r.cleanups) {
		r.guard(f)
	}
	return r.failures
}

// base is a right connector with every capability, for the broken ones to spoil.
type base = *local.Connector

// id returns what local calls the object, whatever the key.
func id(key connectors.Key) string {
	if key == nil {
		return ""
	}
	return key.Identity()
}

// broken are connectors that each do one thing wrong, and the check that must find it. The text is part of what the check must say.
var broken = map[string]struct {
	check, says string
	spoil       func(c base) connectors.Connector
}{
	"keeps the caller's bytes":        {"Borrow", "want", func(c base) connectors.Connector { return &keepsBytes{c} }},
	"eats the caller's slices":        {"Parts", "Slices are changed", func(c base) connectors.Connector { return &eatsSlices{c} }},
	"drops parts past 1,024":          {"Parts", "want", func(c base) connectors.Connector { return &dropsParts{c} }},
	"truncates":                       {"RoundTrip", "want", func(c base) connectors.Connector { return &truncates{c} }},
	"leaks a buffer":                  {"RoundTrip", "buffers of pool memory", func(c base) connectors.Connector { return &leaksBuffer{c} }},
	"retains once too often":          {"Buffers", "more than one reference", func(c base) connectors.Connector { return &leaksBuffer{c} }},
	"frees what it handed out":        {"Buffers", "after the last Release", func(c base) connectors.Connector { return &freesEarly{base: c} }},
	"returns a released buffer":       {"RoundTrip", "after the last Release", func(c base) connectors.Connector { return &returnsFreed{c} }},
	"frees twice":                     {"RoundTrip", "panic", func(c base) connectors.Connector { return &freesTwice{c} }},
	"lends pool memory as bytes":      {"Bytes", "want", func(c base) connectors.Connector { return &lendsPool{c} }},
	"shares mutable memory":           {"Buffers", "after its key was set again", func(c base) connectors.Connector { return &overwrites{base: c, mem: map[string][]byte{}} }},
	"missing is nil":                  {"Missing", "error is <nil>", func(c base) connectors.Connector { return &missingIsNil{c} }},
	"missing without OpError":         {"Missing", "carries no *OpError", func(c base) connectors.Connector { return &bareError{c} }},
	"buffer beside an error":          {"Missing", "gives a Buffer", func(c base) connectors.Connector { return &bufferAndError{c} }},
	"error of another kind":           {"Missing", "Kind", func(c base) connectors.Connector { return &otherKind{c} }},
	"evict of missing fails":          {"Evict", "Evict(", func(c base) connectors.Connector { return &evictFails{c} }},
	"evict does nothing":              {"Evict", "missing object", func(c base) connectors.Connector { return &evictsNot{c} }},
	"exists always":                   {"Evict", "missing object", func(c base) connectors.Connector { return &existsAlways{c} }},
	"batch put in wrong order":        {"Batch", "differ", func(c base) connectors.Connector { return &wrongOrder{c} }},
	"batch get in key order":          {"Batch", "wrong object", func(c base) connectors.Connector { return &sortsBatch{c} }},
	"batch get of missing fails":      {"Batch", "GetBatch", func(c base) connectors.Connector { return &batchFails{c} }},
	"batch leaks on error":            {"Batch", "buffers of pool memory", func(c base) connectors.Connector { return &batchLeaks{c} }},
	"range off by one":                {"Range", "want", func(c base) connectors.Connector { return &offByOne{c} }},
	"range past the end is empty":     {"Range", "invalid range", func(c base) connectors.Connector { return &rangeLenient{c} }},
	"panics after Close":              {"Close", "panic", func(c base) connectors.Connector { return &panicsClosed{base: c} }},
	"second Close fails":              {"Close", "Close number 2", func(c base) connectors.Connector { return &closesOnce{base: c} }},
	"works after Close":               {"Close", "after Close", func(c base) connectors.Connector { return &neverCloses{c} }},
	"not found after Close":           {"Close", "connector is closed", func(c base) connectors.Connector { return &closedIsMissing{c} }},
	"not found while closing":         {"CloseDuringCalls", "want ErrClosed", func(c base) connectors.Connector { return &closedIsMissing{c} }},
	"loses objects at Close":          {"OutlivesClose", "want true", nil},
	"keeps objects at clear":          {"CloseClear", "want false", func(c base) connectors.Connector { return &clearsNot{c} }},
	"torn set":                        {"Torn", "differ", func(c base) connectors.Connector { return &tornSet{c} }},
	"set appends":                     {"Set", "differ", func(c base) connectors.Connector { return &setAppends{c} }},
	"new key is not new":              {"Set", "twice", func(c base) connectors.Connector { return &sameKey{c} }},
	"new key exists":                  {"Set", "Exists of a new key", func(c base) connectors.Connector { return &newKeyExists{c} }},
	"wrong Config":                    {"Config", "reopened", func(c base) connectors.Connector { return &wrongConfig{c} }},
	"Config lends its map":            {"Config", "changed an earlier one", func(c base) connectors.Connector { return &lendsConfig{c, c.Config()} }},
	"Config with the short kind":      {"Config", "full path", func(c base) connectors.Connector { return &shortKind{c} }},
	"loses a capability":              {"Capabilities", "RangeGetter is lost", func(c base) connectors.Connector { return SixMethods(c) }},
	"gains a capability":              {"Capabilities", "Tagger is there", func(c base) connectors.Connector { return &probe{Connector: c} }},
	"unsupported unsaid":              {"Set", "Want names Deferrer", func(c base) connectors.Connector { return &unsupportedSet{c} }},
	"takes foreign keys":              {"Keys", "key of no or another kind", func(c base) connectors.Connector { return &anyKey{c} }},
	"opens hostile keys":              {"Keys", "hostile", func(c base) connectors.Connector { return &hostileKey{c} }},
	"ignores the context":             {"Context", "want context.Canceled", func(c base) connectors.Connector { return &noContext{c} }},
	"Wait returns at once":            {"Wait", "Wait", func(c base) connectors.Connector { return &waitsNot{c} }},
	"Wait sleeps through Set":         {"Wait", "Wait", func(c base) connectors.Connector { return &waitsForever{c} }},
	"Close does not wake":             {"Wait", "closes", func(c base) connectors.Connector { return &sleepsOn{c} }},
	"Abort commits":                   {"PutStreamFaults", "objects in the storage", func(c base) connectors.Connector { return &abortCommits{c} }},
	"wrong size is fine":              {"PutStreamFaults", "ErrCorrupt", func(c base) connectors.Connector { return &anySize{c} }},
	"Writer keeps the caller's bytes": {"Borrow", "want", func(c base) connectors.Connector { return &keepsWritten{c} }},
	"ReadFrom stops early":            {"PutStream", "short", func(c base) connectors.Connector { return &stopsEarly{c} }},
	"Reader has no size":              {"GetStream", "Size", func(c base) connectors.Connector { return &noSize{c} }},
	"Reader reads after Close":        {"GetStream", "after Close", func(c base) connectors.Connector { return &readsOn{c} }},
	"WriteTo starts over":             {"GetStream", "WriteTo after Read", func(c base) connectors.Connector { return &startsOver{c} }},
	"wrong Stat":                      {"Stat", "Stat of", func(c base) connectors.Connector { return &wrongStat{c} }},
	"Map goes with Evict":             {"Map", "after the last Release", func(c base) connectors.Connector { return &freesEarly{base: c} }},
	"leaks goroutines":                {"RoundTrip", "goroutine still runs", func(c base) connectors.Connector { return &leaksGoroutine{c} }},
	"leaks files":                     {"RoundTrip", "file descriptor", func(c base) connectors.Connector { return &leaksFile{c} }},
	"leaves objects":                  {"RoundTrip", "objects in the storage", func(c base) connectors.Connector { return &leavesObjects{c} }},
	"mixes up concurrent puts":        {"Concurrent", "", func(c base) connectors.Connector { return &lastKey{base: c} }},
	"tags ignored":                    {"Tags", "PutTagged", func(c base) connectors.Connector { return &probe{Connector: c} }},
	"large is cut":                    {"Large", "want", func(c base) connectors.Connector { return &cutsLarge{c} }},
}

func brokenHarness(t testing.TB, spoil func(base) connectors.Connector) Harness {
	reg := &connectors.Registry{}
	reg.Register(local.Driver())
	storage := t.Name()
	return Harness{
		Open: func(testing.TB) connectors.Connector {
			c := local.New(local.Options{Storage: storage})
			if spoil == nil {
				return c
			}
			return spoil(c)
		},
		Want:          slices.DeleteFunc(AllCapabilities(), func(n string) bool { return n == "Tagger" }),
		Registry:      reg,
		OutlivesClose: spoil == nil, // which is not true of local
		HostileKeys:   []connectors.Key{connectors.LocalKey{ID: "../../etc/passwd"}},
		Objects:       func(testing.TB) int { return storedLocally(storage) },
	}
}

// TestRejects shows that the suite is worth something: each broken connector is found, by the check that is meant to, and for the right reason.
func TestRejects(t *testing.T) {
	defer func(d, p time.Duration) { deadline, patience = d, p }(deadline, patience)
	for _, name := range slices.Sorted(maps.Keys(broken)) {
		b := broken[name]
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			deadline, patience = 10*time.Second, 20*time.Millisecond
			if strings.HasPrefix(name, "Wait") || name == "Close does not wake" {
				deadline = 300 * time.Millisecond
			}
			got := result(t, b.check, func(t testing.TB) Harness { return brokenHarness(t, b.spoil) })
			if len(got) == 0 {
				t.Fatalf("check %s passes a connector that %s", b.check, name)
			}
			if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, b.says) }) {
				t.Errorf("check %s rejects a connector that %s, but nothing in it says %q:\n%s", b.check, name, b.says, strings.Join(got, "\n"))
			}
		})
	}
}

// TestEveryCheckRejects shows that no check is empty: for each there is a connector that it rejects.
func TestEveryCheckRejects(t *testing.T) {
	rejecting := map[string]bool{}
	for _, b := range broken {
		rejecting[b.check] = true
	}
	for _, c := range checks {
		if !rejecting[c.name] {
			t.Errorf("no broken connector is rejected by check %s", c.name)
		}
	}
}

// TestRecorder shows that the recorder itself passes what is right.
func TestRecorder(t *testing.T) {
	for _, name := range []string{"Capabilities", "Missing", "Close", "Keys", "Config"} {
		spoil := func(c base) connectors.Connector { return c }
		if got := result(t, name, func(t testing.TB) Harness { return brokenHarness(t, spoil) }); len(got) > 0 {
			t.Errorf("check %s rejects a connector that is right:\n%s", name, strings.Join(got, "\n"))
		}
	}
}

type keepsBytes struct{ base }

func (c *keepsBytes) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	return c.base.PutOwned(ctx, obj.Join())
}

type eatsSlices struct{ base }

func (c *eatsSlices) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	var all bytes.Buffer
	nb := net.Buffers(obj)
	nb.WriteTo(&all)
	return c.base.PutOwned(ctx, all.Bytes())
}

type dropsParts struct{ base }

func (c *dropsParts) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	return c.base.Put(ctx, obj[:min(len(obj), 1024)])
}

type truncates struct{ base }

func (c *truncates) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	return c.base.GetRange(ctx, key, 0, 64<<10)
}

type cutsLarge struct{ base }

func (c *cutsLarge) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	return c.base.GetRange(ctx, key, 0, 32<<20)
}

// pooled gives an object in memory of a pool.
func pooled(ctx context.Context, c base, key connectors.Key) (*transport.Buffer, error) {
	data, err := c.GetBytes(ctx, key)
	if err != nil {
		return nil, err
	}
	b := transport.DefaultPool.Get(len(data))
	copy(b.Bytes(), data)
	return b, nil
}

type leaksBuffer struct{ base }

func (c *leaksBuffer) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	b, err := pooled(ctx, c.base, key)
	if err != nil {
		return nil, err
	}
	return b.Retain(), nil
}

// freesEarly drops at Evict what readers still hold.
type freesEarly struct {
	base
	mu  sync.Mutex
	out []*transport.Buffer
}

func (c *freesEarly) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	b, err := pooled(ctx, c.base, key)
	if err == nil {
		c.mu.Lock()
		c.out = append(c.out, b)
		c.mu.Unlock()
	}
	return b, err
}

func (c *freesEarly) Map(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	return c.Get(ctx, key)
}

func (c *freesEarly) Evict(ctx context.Context, key connectors.Key) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.out {
		if b.TryRetain() {
			b.Release()
			b.Release()
		}
	}
	c.out = nil
	return c.base.Evict(ctx, key)
}

type returnsFreed struct{ base }

func (c *returnsFreed) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	b, err := c.base.Get(ctx, key)
	b.Release()
	return b, err
}

type freesTwice struct{ base }

func (c *freesTwice) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	inner, err := pooled(ctx, c.base, key)
	if err != nil {
		return nil, err
	}
	return transport.NewBuffer(inner.Bytes(), transport.GC, func([]byte) { inner.Release(); inner.Release() }), nil
}

type lendsPool struct{ base }

func (c *lendsPool) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	return pooled(ctx, c.base, key)
}

func (c *lendsPool) GetBytes(ctx context.Context, key connectors.Key) ([]byte, error) {
	b, err := pooled(ctx, c.base, key)
	if err != nil {
		return nil, err
	}
	data := b.Bytes()
	b.Release()
	return data, nil
}

// overwrites writes a new object over the memory of the old one.
type overwrites struct {
	base
	mem map[string][]byte
}

func (c *overwrites) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	data := obj.AppendTo(nil)
	if mem, ok := c.mem[id(key)]; ok && len(mem) == len(data) {
		copy(mem, data)
		return nil
	}
	if err := c.base.Set(ctx, key, obj); err != nil {
		return err
	}
	b, err := c.base.GetBytes(ctx, key)
	c.mem[id(key)] = b
	return err
}

type missingIsNil struct{ base }

func (c *missingIsNil) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	b, err := c.base.Get(ctx, key)
	if errors.Is(err, connectors.ErrNotFound) {
		return nil, nil
	}
	return b, err
}

type bareError struct{ base }

func (c *bareError) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	b, err := c.base.Get(ctx, key)
	if errors.Is(err, connectors.ErrNotFound) {
		return nil, connectors.ErrNotFound
	}
	return b, err
}

type bufferAndError struct{ base }

func (c *bufferAndError) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	b, err := c.base.Get(ctx, key)
	if err != nil {
		b = transport.FromBytes(nil)
	}
	return b, err
}

type otherKind struct{ base }

func (c *otherKind) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	b, err := c.base.Get(ctx, key)
	if errors.Is(err, connectors.ErrNotFound) {
		err = &connectors.OpError{Op: "get", Kind: "redis", Key: key, Err: connectors.ErrNotFound}
	}
	return b, err
}

type evictFails struct{ base }

func (c *evictFails) Evict(ctx context.Context, key connectors.Key) error {
	if ok, err := c.base.Exists(ctx, key); !ok && err == nil {
		return connectors.ErrNotFound
	}
	return c.base.Evict(ctx, key)
}

type evictsNot struct{ base }

func (c *evictsNot) Evict(context.Context, connectors.Key) error { return nil }

type existsAlways struct{ base }

func (c *existsAlways) Exists(context.Context, connectors.Key) (bool, error) { return true, nil }

type wrongOrder struct{ base }

func (c *wrongOrder) PutBatch(ctx context.Context, objs []transport.Slices) ([]connectors.Key, error) {
	keys, err := c.base.PutBatch(ctx, objs)
	slices.Reverse(keys)
	return keys, err
}

type sortsBatch struct{ base }

func (c *sortsBatch) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b connectors.Key) int { return strings.Compare(id(a), id(b)) })
	return c.base.GetBatch(ctx, keys)
}

type batchFails struct{ base }

func (c *batchFails) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	var bufs []*transport.Buffer
	for _, k := range keys {
		b, err := c.base.Get(ctx, k)
		if err != nil {
			return nil, err
		}
		bufs = append(bufs, b)
	}
	return bufs, nil
}

type batchLeaks struct{ base }

func (c *batchLeaks) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	var bufs []*transport.Buffer
	for _, k := range keys {
		b, err := pooled(ctx, c.base, k)
		if err != nil && !errors.Is(err, connectors.ErrNotFound) {
			return nil, err
		}
		bufs = append(bufs, b)
	}
	return bufs, nil
}

type offByOne struct{ base }

func (c *offByOne) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	if n > 0 {
		n--
	}
	return c.base.GetRange(ctx, key, off, n)
}

type rangeLenient struct{ base }

func (c *rangeLenient) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	b, err := c.base.GetRange(ctx, key, off, n)
	if errors.Is(err, connectors.ErrInvalidRange) {
		return transport.FromBytes(nil), nil
	}
	return b, err
}

type panicsClosed struct {
	base
	closed bool
}

func (c *panicsClosed) Close(ctx context.Context) error {
	c.closed = true
	return c.base.Close(ctx)
}

func (c *panicsClosed) Exists(ctx context.Context, key connectors.Key) (bool, error) {
	if c.closed {
		panic("exists: connector is closed")
	}
	return c.base.Exists(ctx, key)
}

type closesOnce struct {
	base
	closed bool
}

func (c *closesOnce) Close(ctx context.Context) error {
	if c.closed {
		return connectors.ErrClosed
	}
	c.closed = true
	return c.base.Close(ctx)
}

type neverCloses struct{ base }

func (c *neverCloses) Close(context.Context) error { return nil }

// closedIsMissing forgets to look whether it is closed.
type closedIsMissing struct{ base }

func (c *closedIsMissing) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	b, err := c.base.Get(ctx, key)
	if errors.Is(err, connectors.ErrClosed) {
		err = &connectors.OpError{Op: "get", Kind: "local", Key: key, Err: connectors.ErrNotFound}
	}
	return b, err
}

type clearsNot struct{ base }

func (c *clearsNot) CloseClear(ctx context.Context, _ bool) error {
	return c.base.CloseClear(ctx, false)
}

// tornSet shows half of the new object with half of the old one for a moment.
type tornSet struct{ base }

func (c *tornSet) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	data := obj.AppendTo(nil)
	if old, err := c.base.GetBytes(ctx, key); err == nil {
		half := transport.Slices{data[:len(data)/2], old[len(old)/2:]}
		if err := c.base.Set(ctx, key, half); err != nil {
			return err
		}
		time.Sleep(100 * time.Microsecond)
	}
	return c.base.Set(ctx, key, obj)
}

type setAppends struct{ base }

func (c *setAppends) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	if old, err := c.base.GetBytes(ctx, key); err == nil {
		obj = append(transport.Slices{old}, obj...)
	}
	return c.base.Set(ctx, key, obj)
}

type sameKey struct{ base }

func (c *sameKey) NewKey(context.Context) (connectors.Key, error) {
	return connectors.LocalKey{ID: "new"}, nil
}

type newKeyExists struct{ base }

func (c *newKeyExists) NewKey(ctx context.Context) (connectors.Key, error) {
	return c.base.Put(ctx, nil)
}

type unsupportedSet struct{ base }

func (c *unsupportedSet) NewKey(context.Context) (connectors.Key, error) {
	return nil, errors.ErrUnsupported
}

type wrongConfig struct{ base }

func (c *wrongConfig) Config() connectors.Config {
	cfg := c.base.Config()
	delete(cfg.Options, "storage")
	return cfg
}

type lendsConfig struct {
	base
	cfg connectors.Config
}

func (c *lendsConfig) Config() connectors.Config { return c.cfg }

type shortKind struct{ base }

func (c *shortKind) Config() connectors.Config {
	cfg := c.base.Config()
	cfg.Kind = "local"
	return cfg
}

type anyKey struct{ base }

func (c *anyKey) Exists(ctx context.Context, key connectors.Key) (bool, error) {
	return c.base.Exists(ctx, connectors.LocalKey{ID: id(key)})
}

type hostileKey struct{ base }

func (c *hostileKey) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	if id(key) == "../../etc/passwd" {
		return transport.FromBytes([]byte("root")), nil
	}
	return c.base.Get(ctx, key)
}

type noContext struct{ base }

func (c *noContext) Get(_ context.Context, key connectors.Key) (*transport.Buffer, error) {
	return c.base.Get(context.Background(), key)
}

type waitsNot struct{ base }

func (c *waitsNot) Wait(context.Context, connectors.Key) error { return nil }

// waitsForever looks once and then has no ears.
type waitsForever struct{ base }

func (c *waitsForever) Wait(ctx context.Context, key connectors.Key) error {
	if ok, err := c.base.Exists(ctx, key); ok || err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// sleepsOn polls the storage through another connector, so that its own Close does not reach it.
type sleepsOn struct{ base }

func (c *sleepsOn) Wait(ctx context.Context, key connectors.Key) error {
	other := local.New(local.Options{Storage: c.base.Config().Options["storage"].(string)})
	defer other.Close(ctx)
	return other.Wait(ctx, key)
}

type abortCommits struct{ base }

func (c *abortCommits) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	w, err := c.base.PutStream(ctx, -1)
	return &committing{w}, err
}

type committing struct{ connectors.Writer }

func (w *committing) Abort() error {
	w.Writer.Commit()
	return nil
}

type anySize struct{ base }

func (c *anySize) PutStream(ctx context.Context, _ int64) (connectors.Writer, error) {
	return c.base.PutStream(ctx, -1)
}

// keepsWritten collects the parts themselves.
type keepsWritten struct{ base }

func (c *keepsWritten) PutStream(ctx context.Context, _ int64) (connectors.Writer, error) {
	w, err := c.base.PutStream(ctx, -1)
	return &keeping{w, nil}, err
}

type keeping struct {
	connectors.Writer
	parts transport.Slices
}

func (w *keeping) Write(p []byte) (int, error) {
	w.parts = append(w.parts, p)
	return len(p), nil
}

func (w *keeping) Commit() (connectors.Key, error) {
	if _, err := w.parts.WriteTo(w.Writer); err != nil {
		return nil, err
	}
	return w.Writer.Commit()
}

type stopsEarly struct{ base }

func (c *stopsEarly) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	w, err := c.base.PutStream(ctx, -1)
	return &impatient{w}, err
}

type impatient struct{ connectors.Writer }

func (w *impatient) ReadFrom(r io.Reader) (int64, error) {
	return w.Writer.ReadFrom(io.LimitReader(r, 50_000))
}

type noSize struct{ base }

func (c *noSize) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	r, err := c.base.GetStream(ctx, key)
	return &sizeless{r}, err
}

type sizeless struct{ connectors.Reader }

func (*sizeless) Size() int64 { return -1 }

type readsOn struct{ base }

func (c *readsOn) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	r, err := c.base.GetStream(ctx, key)
	return &open{r}, err
}

type open struct{ connectors.Reader }

func (*open) Close() error { return nil }

type startsOver struct{ base }

func (c *startsOver) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	r, err := c.base.GetStream(ctx, key)
	if err != nil {
		return nil, err
	}
	data, err := c.base.GetBytes(ctx, key)
	return &rewinding{r, data}, err
}

type rewinding struct {
	connectors.Reader
	data []byte
}

func (r *rewinding) WriteTo(w io.Writer) (int64, error) { return one(r.data).WriteTo(w) }

type wrongStat struct{ base }

func (c *wrongStat) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	info, err := c.base.Stat(ctx, key)
	info.Size &^= 1
	return info, err
}

type leaksGoroutine struct{ base }

func (c *leaksGoroutine) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	go time.Sleep(500 * time.Millisecond)
	return c.base.Put(ctx, obj)
}

type leaksFile struct{ base }

// leaked keeps the garbage collector from closing them.
var leaked []*os.File

func (c *leaksFile) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	leaked = append(leaked, f)
	return c.base.Put(ctx, obj)
}

type leavesObjects struct{ base }

func (c *leavesObjects) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	if _, err := c.base.Put(ctx, obj); err != nil {
		return nil, err
	}
	return c.base.Put(ctx, obj)
}

// lastKey returns the key of whichever Put came last.
type lastKey struct {
	base
	mu  sync.Mutex
	key connectors.Key
}

func (c *lastKey) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	key, err := c.base.Put(ctx, obj)
	c.mu.Lock()
	c.key = key
	c.mu.Unlock()
	time.Sleep(50 * time.Microsecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.key, err
}
