package proxyplane

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/faulty"
	"github.com/proxyplane/proxyplane/metrics"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// newStore returns a store of the test's own, closed at its end, in Stores of its own.
func newTestStore(t testing.TB, cfg connectors.Config, opts ...Option) *Store {
	t.Helper()
	s, err := Open(context.Background(), NewConfig("", cfg), append([]Option{WithStores(NewStores())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		noLeaks(t)
	})
	return s
}

// noLeaks fails the test if memory is still held that is not the garbage collector's. Cleanups of dropped proxies run some time after a collection.
func noLeaks(t testing.TB) {
	t.Helper()
	for try := 0; ; try++ {
		var held []string
		for b := transport.Pooled; b <= transport.Registered; b++ {
			if n, size := transport.Live(b); n != 0 {
				held = append(held, b.String())
				_ = size
			}
		}
		if len(held) == 0 {
			return
		}
		if try == 100 {
			t.Errorf("still held after the test: %v memory", held)
			return
		}
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
}

func fileConfig(t testing.TB) connectors.Config { return FileConnector(t.TempDir()) }

// configs are the connectors that need no server; every test of the store's own behaviour runs on each.
func configs(t *testing.T, f func(t *testing.T, cfg connectors.Config)) {
	t.Run("local", func(t *testing.T) { f(t, LocalConnector()) })
	t.Run("file", func(t *testing.T) { f(t, fileConfig(t)) })
}

type point struct {
	X, Y int
	Name string
}

func roundTrip[T any](t *testing.T, s *Store, put any, want T) {
	t.Helper()
	ctx := t.Context()
	key, err := s.Put(ctx, put)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // fetched, then cached
		got, err := Get[T](ctx, s, key)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %#v, want %#v", got, want)
		}
	}
	if err := s.Evict(ctx, key); err != nil {
		t.Fatal(err)
	}
	if _, err := Get[T](ctx, s, key); !errors.Is(err, ErrNotFound) {
		t.Fatalf("after Evict: %v", err)
	}
}

func TestRoundTrips(t *testing.T) {
	configs(t, func(t *testing.T, cfg connectors.Config) {
		s := newTestStore(t, cfg)
		roundTrip(t, s, []byte("hello"), []byte("hello"))
		roundTrip(t, s, []byte{}, []byte{})
		roundTrip(t, s, "text", "text")
		roundTrip[any](t, s, "text", "text")
		roundTrip(t, s, 7, 7)
		roundTrip[any](t, s, 7, int64(7))
		roundTrip(t, s, 2.5, 2.5)
		roundTrip(t, s, point{1, 2, "p"}, point{1, 2, "p"})
		roundTrip(t, s, map[string]int{"a": 1}, map[string]int{"a": 1})
		roundTrip[any](t, s, []string{"a", "b"}, []any{"a", "b"})
		roundTrip(t, s, []point{{1, 2, "a"}, {3, 4, "b"}}, []point{{1, 2, "a"}, {3, 4, "b"}})
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		roundTrip(t, s, big, big)
	})
}

func TestViews(t *testing.T) {
	configs(t, func(t *testing.T, cfg connectors.Config) {
		ctx := t.Context()
		s := newTestStore(t, cfg)
		want := bytes.Repeat([]byte("abcdefgh"), 1<<17)
		key, err := s.Put(ctx, want)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Get[*transport.Buffer](ctx, s, key)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Get[*transport.Buffer](ctx, s, key)
		if err != nil {
			t.Fatal(err)
		}
		a.Release()
		if err := s.Evict(ctx, key); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Bytes(), want) { // the view outlives the object
			t.Error("wrong content")
		}
		b.Release()

		data := make([]float64, 1<<16)
		for i := range data {
			data[i] = math.Sqrt(float64(i))
		}
		arr, err := serialize.NewArray(data, 256, 256)
		if err != nil {
			t.Fatal(err)
		}
		key, err = s.Put(ctx, arr)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Get[*serialize.Array](ctx, s, key)
		if err != nil {
			t.Fatal(err)
		}
		v, err := serialize.View[float64](got)
		if err != nil || !reflect.DeepEqual(v, data) {
			t.Errorf("array differs, %v", err)
		}
		got.Release()
		rows, err := Get[[][]float64](ctx, s, key)
		if err != nil || len(rows) != 256 || !reflect.DeepEqual(rows[1], data[256:512]) {
			t.Errorf("slices differ, %v", err)
		}
	})
}

// TestTypesDoNotMix: what one caller cached as its type must not reach a caller who asks for another.
func TestTypesDoNotMix(t *testing.T) {
	ctx := t.Context()
	s := newTestStore(t, fileConfig(t))
	key, err := s.Put(ctx, point{1, 2, "p"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"X": int64(1), "Y": int64(2), "Name": "p"}
	for range 3 {
		if p, err := Get[point](ctx, s, key); err != nil || p != (point{1, 2, "p"}) {
			t.Fatal(p, err)
		}
		if v, err := s.Get(ctx, key); err != nil || !reflect.DeepEqual(v, want) {
			t.Fatal(v, err)
		}
		o, err := Get[*serialize.Opaque](ctx, s, key)
		if err != nil || o.Tag() != serialize.TagPickle {
			t.Fatal(o, err)
		}
		o.Release()
	}
	if _, err := Get[[]byte](ctx, s, key); !errors.Is(err, serialize.ErrType) {
		t.Errorf("a struct as []byte: %v", err)
	}
}

func TestBatch(t *testing.T) {
	configs(t, func(t *testing.T, cfg connectors.Config) {
		ctx := t.Context()
		s := newTestStore(t, cfg)
		keys, err := s.PutBatch(ctx, []any{[]byte("a"), "b", 3})
		if err != nil || len(keys) != 3 {
			t.Fatal(keys, err)
		}
		for range 2 {
			got, err := s.GetBatch(ctx, keys)
			if err != nil || !reflect.DeepEqual(got, []any{[]byte("a"), "b", int64(3)}) {
				t.Fatal(got, err)
			}
		}
		if err := s.Evict(ctx, keys[1]); err != nil {
			t.Fatal(err)
		}
		got, err := s.GetBatch(ctx, keys)
		if !errors.Is(err, ErrNotFound) || !reflect.DeepEqual(got, []any{[]byte("a"), nil, int64(3)}) {
			t.Fatal(got, err)
		}
		views, err := GetBatch[*transport.Buffer](ctx, s, keys[:1])
		if err != nil || string(views[0].Bytes()) != "a" {
			t.Fatal(err)
		}
		views[0].Release()
		if got, err := s.GetBatch(ctx, nil); err != nil || len(got) != 0 {
			t.Fatal(got, err)
		}
	})
}

func TestStreams(t *testing.T) {
	configs(t, func(t *testing.T, cfg connectors.Config) {
		ctx := t.Context()
		s := newTestStore(t, cfg)
		want := bytes.Repeat([]byte("stream "), 1<<18)
		for _, size := range []int64{int64(len(want)), -1} {
			key, err := s.PutReader(ctx, bytes.NewReader(want), size)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Get[[]byte](ctx, s, key)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatal(len(got), err)
			}
			r, err := s.OpenReader(ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			if r.Size() != int64(len(want)) || r.Tag() != serialize.TagBytes {
				t.Errorf("size %d, tag %s", r.Size(), r.Tag())
			}
			var b bytes.Buffer
			if _, err := r.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), want) {
				t.Error("stream differs", err)
			}
			r.Close()
			part, err := s.GetRange(ctx, key, 7, 6)
			if err != nil || string(part.Bytes()) != "stream" {
				t.Fatal(err)
			}
			part.Release()
			if _, err := s.GetRange(ctx, key, int64(len(want))+1, 1); !errors.Is(err, connectors.ErrInvalidRange) {
				t.Errorf("past the end: %v", err)
			}
			if _, err := s.GetRange(ctx, key, -1, 1); !errors.Is(err, connectors.ErrInvalidRange) {
				t.Errorf("before the start: %v", err)
			}
		}
		broken := iotest.ErrReader(errors.New("tape broke"))
		if _, err := s.PutReader(ctx, io.MultiReader(bytes.NewReader(want), broken), -1); err == nil || !strings.Contains(err.Error(), "tape broke") {
			t.Errorf("broken source: %v", err)
		}
		for _, part := range []int{5, len(want)} { // cut off, as a network body says it
			if _, err := s.PutReader(ctx, io.MultiReader(bytes.NewReader(want[:part]), iotest.ErrReader(io.ErrUnexpectedEOF)), -1); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("a source cut off after %d bytes: %v", part, err)
			}
		}
		if _, err := s.PutReader(ctx, bytes.NewReader(want), 5); err == nil {
			t.Error("a wrong size was accepted")
		}
	})
}

// TestSharedFetch: concurrent gets of one key reach the connector once, and one caller who gives up does not fail the others.
func TestSharedFetch(t *testing.T) {
	ctx := t.Context()
	var fetches atomic.Int64
	started, release := make(chan struct{}), make(chan struct{})
	gate := func(c connectors.Connector) connectors.Connector { return &gated{c, &fetches, started, release} }
	s := newTestStore(t, LocalConnector(), WithDecorator(gate))
	key, err := s.Put(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	first, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := Get[string](first, s, key); !errors.Is(err, context.Canceled) {
			t.Errorf("the caller who gave up: %v", err)
		}
	})
	<-started
	for range 8 {
		wg.Go(func() {
			if v, err := Get[string](ctx, s, key); err != nil || v != "x" {
				t.Errorf("%q, %v", v, err)
			}
		})
	}
	time.Sleep(10 * time.Millisecond) // so that most of them wait
	cancel()
	<-started // another caller took over
	close(release)
	wg.Wait()
	if n := fetches.Load(); n != 2 {
		t.Errorf("%d fetches; want one given up and one for all", n)
	}
}

// gated is a connector whose Get waits.
type gated struct {
	connectors.Connector
	n       *atomic.Int64
	started chan struct{}
	release chan struct{}
}

func (g *gated) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	g.n.Add(1)
	g.started <- struct{}{}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-g.release:
	}
	return g.Connector.Get(ctx, key)
}

func TestErrorsSurface(t *testing.T) {
	ctx := t.Context()
	boom := errors.New("boom")
	toggle := faulty.Toggle(faulty.Always(boom))
	s := newTestStore(t, LocalConnector(), WithDecorator(func(c connectors.Connector) connectors.Connector { return faulty.Wrap(c, toggle) }))
	key, err := s.Put(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	toggle.On(true)
	defer toggle.On(false)
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, boom) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = s.Put(ctx, "y")
	check("put", err)
	_, err = s.Get(ctx, key)
	check("get", err)
	_, err = s.Exists(ctx, key)
	check("exists", err)
	check("evict", s.Evict(ctx, key))
	_, err = s.PutBatch(ctx, []any{"a", "b"})
	check("put batch", err)
	_, err = s.GetBatch(ctx, []Key{key})
	check("get batch", err)
	_, err = s.PutReader(ctx, strings.NewReader("x"), -1)
	check("put reader", err)
	_, err = s.OpenReader(ctx, key)
	check("open reader", err)
	_, err = s.GetRange(ctx, key, 0, 1)
	check("range", err)
	_, err = NewFuture[string](ctx, s, Polling{})
	check("future", err)
	p, err := ProxyFromKey[string](s, key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Resolve(ctx)
	check("resolve", err)
}

func TestClosed(t *testing.T) {
	ctx := t.Context()
	s := newTestStore(t, LocalConnector())
	key, err := s.Put(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, key); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(ctx), s.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"put": second(s.Put(ctx, "x")), "get": second(s.Get(ctx, key)), "exists": second(s.Exists(ctx, key)), "evict": s.Evict(ctx, key),
		"range": second(s.GetRange(ctx, key, 0, 1)), "reader": second(s.OpenReader(ctx, key)), "put reader": second(s.PutReader(ctx, strings.NewReader("x"), 1)),
	} {
		if !errors.Is(err, connectors.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if s.Config().Connector.Kind == "" {
		t.Error("Config does not work after Close")
	}
}

func second[T any](_ T, err error) error { return err }

func TestNilKeysAndValues(t *testing.T) {
	ctx := t.Context()
	s := newTestStore(t, LocalConnector())
	for what, err := range map[string]error{
		"get": second(s.Get(ctx, nil)), "exists": second(s.Exists(ctx, nil)), "evict": s.Evict(ctx, nil), "batch": second(s.GetBatch(ctx, []Key{nil})),
		"proxy": second(ProxyFromKey[int](s, nil)), "foreign": second(s.Get(ctx, connectors.FileKey{Filename: "x"})),
	} {
		if !errors.Is(err, connectors.ErrInvalidKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := NewProxy[any](ctx, s, nil); !errors.Is(err, ErrNotProxiable) {
		t.Errorf("nil: %v", err)
	}
	if _, err := ProxyBatch(ctx, s, []bool{true}); !errors.Is(err, ErrNotProxiable) {
		t.Errorf("bool: %v", err)
	}
	if _, err := s.Put(ctx, make(chan int)); err == nil {
		t.Error("a channel was put")
	}
}

func TestMetrics(t *testing.T) {
	ctx := t.Context()
	s := newTestStore(t, LocalConnector(), WithMetrics())
	key, err := s.Put(ctx, []byte("12345"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := Get[[]byte](ctx, s, key); err != nil {
			t.Fatal(err)
		}
	}
	rec, ok := s.Metrics().GetMetrics(key.Identity())
	if !ok {
		t.Fatal("no metrics of the key")
	}
	// The names are Python's.
	for _, name := range []string{"store.put", "store.put.serialize", "store.put.connector", "store.get", "store.get.connector", "store.get.deserialize"} {
		if rec.Times[name].Count == 0 {
			t.Errorf("no time %s", name)
		}
	}
	if rec.Counters["store.get.cache_hits"] != 2 || rec.Counters["store.get.cache_misses"] != 1 {
		t.Errorf("counters %v", rec.Counters)
	}
	if rec.Attributes["store.put.object_size"] != int64(8) || rec.Attributes["store.get.object_size"] != int64(8) {
		t.Errorf("attributes %v", rec.Attributes)
	}
	if st := s.CacheStats(); st.Hits != 2 || st.Bytes == 0 {
		t.Errorf("cache %+v", st)
	}
	off := newTestStore(t, LocalConnector())
	if _, ok := off.Metrics().GetMetrics("x"); ok {
		t.Error("metrics although off")
	}
	_ = metrics.Put
}

func TestSpansAndLogs(t *testing.T) {
	ctx := t.Context()
	spans := tracetest.NewSpanRecorder()
	var logs bytes.Buffer
	s := newTestStore(t, LocalConnector(), WithTracer(trace.NewTracerProvider(trace.WithSpanProcessor(spans))),
		WithLogger(slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	p, err := NewProxy(ctx, s, "x", Populate(false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Resolve(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, connectors.LocalKey{ID: "none"}); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	var names []string
	for _, sp := range spans.Ended() {
		names = append(names, sp.Name())
	}
	for _, want := range []string{"proxyplane.store.put", "proxyplane.store.proxy", "proxyplane.factory.resolve", "proxyplane.store.get"} {
		if !strings.Contains(strings.Join(names, " "), want) {
			t.Errorf("no span %s in %v", want, names)
		}
	}
	if !strings.Contains(logs.String(), "store.put") {
		t.Errorf("log: %s", logs.String())
	}
}

func TestDefaultNameIsTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	a, b, c := newTestStore(t, FileConnector(dir)), newTestStore(t, FileConnector(dir)), newTestStore(t, fileConfig(t))
	if a.Name() != b.Name() || a.Name() == c.Name() {
		t.Errorf("names %q, %q, %q", a.Name(), b.Name(), c.Name())
	}
}
