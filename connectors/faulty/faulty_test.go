package faulty_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/faulty"
	"github.com/proxyplane/proxyplane/connectors/local"
	"github.com/proxyplane/proxyplane/transport"
)

// never lets everything go on.
var never = faulty.InjectorFunc(func(faulty.Call) error { return nil })

func TestDecorator(t *testing.T) {
	connectortest.RunDecorator(t, func(inner connectors.Connector) connectors.Connector { return faulty.Wrap(inner, never) })
}

func newLocal(t *testing.T) *local.Connector {
	c := local.New(local.Options{IncludeDataInConfig: true})
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

func objects(c *local.Connector) int { return len(c.Config().Options["store_dict"].(map[string]any)) }

// tagging gives local the one capability that it lacks.
type tagging struct{ *local.Connector }

func (c tagging) PutTagged(ctx context.Context, obj transport.Slices, _ connectors.Tags) (connectors.Key, error) {
	return c.Put(ctx, obj)
}

var obj = transport.Slices{[]byte("0123"), []byte("456789")}

// calls uses every method and capability of c but Close; the streams' own calls follow below.
func calls(ctx context.Context, c *faulty.Connector, key connectors.Key) map[faulty.Op]func() error {
	release := func(b *transport.Buffer, err error) error {
		if b != nil && err != nil {
			return errors.New("a Buffer beside an error")
		}
		b.Release()
		return err
	}
	return map[faulty.Op]func() error{
		faulty.Put:      func() error { return second(c.Put(ctx, obj)) },
		faulty.Get:      func() error { return release(c.Get(ctx, key)) },
		faulty.Exists:   func() error { return second(c.Exists(ctx, key)) },
		faulty.Evict:    func() error { return c.Evict(ctx, connectors.LocalKey{ID: "nobody"}) },
		faulty.NewKey:   func() error { return second(c.NewKey(ctx)) },
		faulty.Set:      func() error { return c.Set(ctx, key, obj) },
		faulty.PutBatch: func() error { return second(c.PutBatch(ctx, []transport.Slices{obj, obj})) },
		faulty.GetBatch: func() error {
			bufs, err := c.GetBatch(ctx, []connectors.Key{key, key})
			for _, b := range bufs {
				b.Release()
			}
			return err
		},
		faulty.EvictBatch: func() error { return c.EvictBatch(ctx, []connectors.Key{connectors.LocalKey{ID: "nobody"}}) },
		faulty.GetRange:   func() error { return release(c.GetRange(ctx, key, 1, 2)) },
		faulty.GetBytes:   func() error { return second(c.GetBytes(ctx, key)) },
		faulty.Map:        func() error { return release(c.Map(ctx, key)) },
		faulty.Stat:       func() error { return second(c.Stat(ctx, key)) },
		faulty.Wait:       func() error { return c.Wait(ctx, key) },
		faulty.PutTagged:  func() error { return second(c.PutTagged(ctx, obj, connectors.Tags{})) },
		faulty.PutStream: func() error {
			w, err := c.PutStream(ctx, -1)
			if err != nil {
				return err
			}
			return w.Abort()
		},
		faulty.GetStream: func() error {
			r, err := c.GetStream(ctx, key)
			if err != nil {
				return err
			}
			return r.Close()
		},
	}
}

func second[T any](_ T, err error) error { return err }

// TestEveryCallFails fails each call before it begins and after it has succeeded, and no other call.
func TestEveryCallFails(t *testing.T) {
	ctx := t.Context()
	inner := tagging{newLocal(t)}
	key, err := inner.Put(ctx, obj)
	if err != nil {
		t.Fatal(err)
	}
	for op, call := range calls(ctx, faulty.Wrap(inner, never), key) {
		if err := call(); err != nil {
			t.Errorf("%s without faults: %v", op, err)
		}
	}
	for op := range calls(ctx, nil, key) {
		for name, inj := range map[string]faulty.Injector{
			"before": faulty.ByOp(faulty.Always(faulty.ErrInjected), op),
			"after":  faulty.ByOp(faulty.LostAnswer(faulty.Always(faulty.ErrInjected)), op),
		} {
			count := faulty.Counter(inj)
			c := faulty.Wrap(inner, count)
			for other, call := range calls(ctx, c, key) {
				err := call()
				if other != op {
					if err != nil {
						t.Errorf("%s fails with %v; only %s should, %s", other, err, op, name)
					}
					continue
				}
				var oe *connectors.OpError
				if !errors.Is(err, faulty.ErrInjected) || !errors.As(err, &oe) || oe.Op != string(op) || oe.Kind != "local" {
					t.Errorf("%s, failing %s: %v; want the injected error in an OpError of it", op, name, err)
				}
			}
			if count.Errors() != 1 {
				t.Errorf("%s, failing %s: %d errors injected, want 1", op, name, count.Errors())
			}
		}
	}
	b, err := inner.Get(ctx, key) // what all the faults did not harm
	if err != nil || string(b.Bytes()) != "0123456789" {
		t.Errorf("the object after all: %v", err)
	}
	b.Release()
}

// counting gives objects in pool memory, so that a lost answer that is not released shows.
type counting struct {
	*local.Connector
	pool *transport.Pool
}

func (c counting) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	data, err := c.GetBytes(ctx, key)
	if err != nil {
		return nil, err
	}
	b := c.pool.Get(len(data))
	copy(b.Bytes(), data)
	return b, nil
}

func (c counting) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	return connectors.GetBatch(ctx, connectortest.SixMethods(c), keys)
}

func (c counting) GetRange(ctx context.Context, key connectors.Key, _, _ int64) (*transport.Buffer, error) {
	return c.Get(ctx, key)
}

func (c counting) Map(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	return c.Get(ctx, key)
}

func TestLostAnswerReleases(t *testing.T) {
	ctx := t.Context()
	inner := counting{newLocal(t), transport.NewPool(1 << 20)}
	key, err := inner.Put(ctx, obj)
	if err != nil {
		t.Fatal(err)
	}
	c := faulty.Wrap(inner, faulty.LostAnswer(faulty.Always(faulty.ErrInjected)))
	all := calls(ctx, c, key)
	for _, op := range []faulty.Op{faulty.Get, faulty.GetBatch, faulty.GetRange, faulty.Map} {
		if err := all[op](); !errors.Is(err, faulty.ErrInjected) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if s := inner.pool.Stats(); s.Held != 0 || s.Gets != 5 {
		t.Errorf("%d buffers are still held, of %d; want 0 of 5", s.Held, s.Gets)
	}
}

// TestLostAnswerIsDone shows that the inner connector has done what nobody learned of.
func TestLostAnswerIsDone(t *testing.T) {
	ctx := t.Context()
	inner := newLocal(t)
	lost := faulty.Wrap(inner, faulty.LostAnswer(faulty.Always(faulty.ErrInjected)))
	if key, err := lost.Put(ctx, obj); key != nil || !errors.Is(err, faulty.ErrInjected) || objects(inner) != 1 {
		t.Errorf("Put with a lost answer = %v, %v with %d objects stored; want 1", key, err, objects(inner))
	}
	before := faulty.Wrap(inner, faulty.Always(faulty.ErrInjected))
	if _, err := before.Put(ctx, obj); !errors.Is(err, faulty.ErrInjected) || objects(inner) != 1 {
		t.Errorf("Put that fails at once: %v with %d objects stored; want no more", err, objects(inner))
	}
	if err := before.Close(ctx); !errors.Is(err, faulty.ErrInjected) {
		t.Errorf("Close: %v", err)
	}
	if _, err := inner.Put(ctx, obj); err != nil {
		t.Errorf("the inner connector is closed by a Close that failed at once: %v", err)
	}
	if err := lost.CloseClear(ctx, true); !errors.Is(err, faulty.ErrInjected) {
		t.Errorf("CloseClear: %v", err)
	}
	if _, err := inner.Put(ctx, obj); !errors.Is(err, connectors.ErrClosed) {
		t.Errorf("the inner connector is open after a CloseClear whose answer was lost: %v", err)
	}
	if k := before.Config().Kind; k != inner.Config().Kind {
		t.Errorf("Config has kind %q", k)
	}
}

// TestStreamFaults fails each call of a stream, in turn, and then each byte.
func TestStreamFaults(t *testing.T) {
	ctx := t.Context()
	data := bytes.Repeat([]byte("0123456789"), 20)
	feeds := map[string]func(w connectors.Writer) (int64, error){
		"Write": func(w connectors.Writer) (total int64, err error) {
			for i := 0; i < len(data) && err == nil; i += 50 {
				var n int
				n, err = w.Write(data[i : i+50])
				total += int64(n)
			}
			return total, err
		},
		"ReadFrom": func(w connectors.Writer) (int64, error) { return w.ReadFrom(bytes.NewReader(data)) },
	}
	drains := map[string]func(r connectors.Reader) ([]byte, error){
		"Read": func(r connectors.Reader) ([]byte, error) { return io.ReadAll(struct{ io.Reader }{r}) },
		"WriteTo": func(r connectors.Reader) ([]byte, error) {
			var got bytes.Buffer
			_, err := r.WriteTo(&got)
			return got.Bytes(), err
		},
	}
	for name, feed := range feeds {
		inner := newLocal(t)
		store := func(c connectors.Connector) error {
			w, err := connectors.PutStream(ctx, c, -1)
			if err != nil {
				return err
			}
			defer w.Abort()
			if _, err := feed(w); err != nil {
				return err
			}
			key, err := w.Commit()
			if err != nil {
				return err
			}
			return inner.Evict(ctx, key)
		}
		for n := int64(0); ; n++ {
			at := faulty.OnIndex(n, faulty.ErrInjected)
			err := store(faulty.Wrap(inner, at))
			if objects(inner) != 0 {
				t.Fatalf("%s, call %d failed: %d objects left", name, n, objects(inner))
			}
			if err == nil { // the only call left is the deferred Abort
				if n < 3 {
					t.Errorf("%s: only %d calls could fail", name, n)
				}
				break
			}
			if !errors.Is(err, faulty.ErrInjected) {
				t.Errorf("%s, call %d failed: %v", name, n, err)
			}
		}
		for _, n := range []int64{0, 1, 49, 50, 51, 199} {
			w, err := faulty.Wrap(inner, faulty.AtByte(n, faulty.ErrInjected)).PutStream(ctx, -1)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := feed(w); got != n || !errors.Is(err, faulty.ErrInjected) {
				t.Errorf("%s failing at byte %d = %d, %v", name, n, got, err)
			}
			var oe *connectors.OpError
			if _, err := feed(w); !errors.As(err, &oe) && n < 50 {
				t.Errorf("%s, again: %v is no OpError", name, err)
			}
			w.Abort()
		}
		w, err := faulty.Wrap(inner, faulty.AtByte(200, faulty.ErrInjected)).PutStream(ctx, -1)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := feed(w); got != 200 || err != nil {
			t.Errorf("%s of 200 bytes failing at byte 200 = %d, %v; it ends before", name, got, err)
		}
		w.Abort()
	}
	for name, drain := range drains {
		inner := newLocal(t)
		key, err := inner.Put(ctx, transport.Slices{data})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int64{0, 1, 100, 199, 200} {
			r, err := faulty.Wrap(inner, faulty.AtByte(n, faulty.ErrInjected)).GetStream(ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			got, err := drain(r)
			if n < 200 != errors.Is(err, faulty.ErrInjected) || !bytes.Equal(got, data[:n]) {
				t.Errorf("%s failing at byte %d: %d bytes, %v", name, n, len(got), err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		r, err := faulty.Wrap(inner, faulty.ByOp(faulty.Always(faulty.ErrInjected), faulty.Read, faulty.CloseRead)).GetStream(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := drain(r); len(got) != 0 || !errors.Is(err, faulty.ErrInjected) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if err := r.Close(); !errors.Is(err, faulty.ErrInjected) {
			t.Errorf("Close: %v", err)
		}
	}
}

// TestLostCommit is the worst that a stream can do: the object is there and its key is lost.
func TestLostCommit(t *testing.T) {
	inner := newLocal(t)
	w, err := faulty.Wrap(inner, faulty.ByOp(faulty.LostAnswer(faulty.Always(faulty.ErrInjected)), faulty.Commit)).PutStream(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if key, err := w.Commit(); key != nil || !errors.Is(err, faulty.ErrInjected) || objects(inner) != 1 {
		t.Errorf("Commit = %v, %v with %d objects stored; want 1", key, err, objects(inner))
	}
}

func TestInjectors(t *testing.T) {
	a, b := errors.New("a"), errors.New("b")
	call := faulty.Call{Op: faulty.Get}
	on := faulty.Toggle(faulty.Always(a))
	if on.Inject(call) != nil {
		t.Error("Toggle is on at the start")
	}
	on.On(true)
	if on.Inject(call) != a {
		t.Error("Toggle does not turn on")
	}
	on.On(false)
	if on.Inject(call) != nil {
		t.Error("Toggle does not turn off")
	}
	if got := faulty.Any(never, faulty.ByOp(faulty.Always(a), faulty.Put), faulty.Always(b)).Inject(call); got != b {
		t.Errorf("Any gives %v, want b", got)
	}
	count := faulty.Counter(nil)
	var wg sync.WaitGroup
	at := faulty.OnIndex(50, a)
	fired := faulty.Counter(faulty.Any(count, at))
	for range 10 {
		wg.Go(func() {
			for range 10 {
				fired.Inject(call)
				fired.Inject(faulty.Call{Op: faulty.Get, After: true})
			}
		})
	}
	wg.Wait()
	if count.Calls() != 100 || fired.Calls() != 100 || fired.Errors() != 1 || !at.Fired() || count.Errors() != 0 {
		t.Errorf("%d and %d calls, %d errors; want 100, 100 and 1", count.Calls(), fired.Calls(), fired.Errors())
	}
}
