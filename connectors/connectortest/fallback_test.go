package connectortest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/faulty"
	"github.com/proxyplane/proxyplane/connectors/local"
	"github.com/proxyplane/proxyplane/transport"
)

// The fallbacks of package connectors are tested here and not there, where the suite cannot be imported.

func registry() *connectors.Registry {
	r := &connectors.Registry{}
	r.Register(local.Driver())
	return r
}

func harness(t testing.TB, want []string, wrap func(connectors.Connector) connectors.Connector) connectortest.Harness {
	storage := t.Name()
	return connectortest.Harness{
		Open:     func(testing.TB) connectors.Connector { return wrap(local.New(local.Options{Storage: storage})) },
		Want:     want,
		Registry: registry(),
		Objects: func(testing.TB) int {
			c := local.New(local.Options{Storage: storage, IncludeDataInConfig: true})
			defer c.Close(context.Background())
			return len(c.Config().Options["store_dict"].(map[string]any))
		},
	}
}

// TestSixMethods runs the suite on a connector without any capability: every fallback must do what the capability promises.
func TestSixMethods(t *testing.T) {
	connectortest.Run(t, func(t testing.TB) connectortest.Harness { return harness(t, nil, connectortest.SixMethods) })
}

// TestUnwrapped runs it on a decorator that has only Unwrap: As must find what is below.
func TestUnwrapped(t *testing.T) {
	want := slices.DeleteFunc(connectortest.AllCapabilities(), func(n string) bool { return n == "Tagger" })
	connectortest.Run(t, func(t testing.TB) connectortest.Harness {
		return harness(t, want, func(c connectors.Connector) connectors.Connector {
			return unwrapping{connectortest.SixMethods(unwrapping{connectortest.SixMethods(c), c}), unwrapping{c, c}}
		})
	})
}

// unwrapping is a decorator that hands out what is below it.
type unwrapping struct {
	connectors.Connector
	below connectors.Connector
}

func (u unwrapping) Unwrap() connectors.Connector { return u.below }

// TestSixMethodsSmall runs it with a MaxSize that most checks must respect.
func TestSixMethodsSmall(t *testing.T) {
	connectortest.Run(t, func(t testing.TB) connectortest.Harness {
		h := harness(t, nil, connectortest.SixMethods)
		h.MaxSize = 1 << 20
		return h
	})
}

func TestAs(t *testing.T) {
	c := local.New(local.Options{})
	defer c.Close(t.Context())
	if _, ok := connectors.As[connectors.Waiter](unwrapping{connectortest.SixMethods(c), nil}); ok {
		t.Error("As finds what is not there, below an Unwrap that returns nil")
	}
	if _, ok := connectors.As[connectors.Waiter](nil); ok {
		t.Error("As finds a capability in nil")
	}
	if got, ok := connectors.As[*local.Connector](unwrapping{connectortest.SixMethods(c), c}); !ok || got != c {
		t.Errorf("As of the concrete type = %v, %t", got, ok)
	}
}

func TestLacking(t *testing.T) {
	ctx := t.Context()
	c := connectortest.SixMethods(local.New(local.Options{}))
	defer c.Close(ctx)
	for name, err := range map[string]error{
		"NewKey":     second(connectors.NewKey(ctx, c)),
		"Set":        connectors.Set(ctx, c, connectors.LocalKey{ID: "x"}, nil),
		"PutTagged":  second(connectors.PutTagged(ctx, c, nil, connectors.Tags{Superset: []string{}})),
		"CloseClear": connectors.CloseClear(ctx, c, true),
	} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s without the capability: %v, want errors.ErrUnsupported", name, err)
		}
	}
	if _, err := c.Put(ctx, nil); err != nil {
		t.Errorf("Put after a refused CloseClear: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// failAt fails one call of a connector without capabilities, so that a fallback breaks half way. calls must be the number of calls after which
// nothing fails any more.
func failAt(t *testing.T, inner connectors.Connector, use func(c connectors.Connector) error) (calls int64) {
	t.Helper()
	for n := int64(0); ; n++ {
		at := faulty.OnIndex(n, faulty.ErrInjected)
		err := use(connectortest.SixMethods(faulty.Wrap(inner, at)))
		if !at.Fired() {
			if err != nil {
				t.Fatalf("no call failed, and yet: %v", err)
			}
			return n
		}
		if !errors.Is(err, faulty.ErrInjected) {
			t.Errorf("call %d failed, and the operation says %v", n, err)
		}
	}
}

func objects(c *local.Connector) int { return len(c.Config().Options["store_dict"].(map[string]any)) }

func TestBatchFaults(t *testing.T) {
	ctx := t.Context()
	inner := local.New(local.Options{IncludeDataInConfig: true})
	defer inner.Close(ctx)
	objs := []transport.Slices{{[]byte("a")}, {[]byte("b")}, {[]byte("c")}}
	var keys []connectors.Key
	calls := failAt(t, inner, func(c connectors.Connector) (err error) {
		keys, err = connectors.PutBatch(ctx, c, objs)
		if n := objects(inner); err != nil && n != 0 {
			t.Errorf("a PutBatch that failed left %d objects", n)
		}
		return err
	})
	if calls != 3 {
		t.Errorf("PutBatch of 3 objects in %d calls", calls)
	}
	calls = failAt(t, inner, func(c connectors.Connector) error {
		bufs, err := connectors.GetBatch(ctx, c, keys)
		if err != nil && bufs != nil {
			t.Errorf("GetBatch that failed returned %v", bufs)
		}
		for _, b := range bufs {
			b.Release()
		}
		return err
	})
	if calls != 3 {
		t.Errorf("GetBatch of 3 keys in %d calls", calls)
	}
	failAt(t, inner, func(c connectors.Connector) error { return connectors.EvictBatch(ctx, c, keys) })
	if n := objects(inner); n != 0 {
		t.Errorf("EvictBatch, repeated until nothing failed, left %d objects", n)
	}

	// It goes on past what fails, and says so.
	keys, err := connectors.PutBatch(ctx, inner, objs)
	if err != nil {
		t.Fatal(err)
	}
	err = connectors.EvictBatch(ctx, connectortest.SixMethods(faulty.Wrap(inner, faulty.OnIndex(1, faulty.ErrInjected))), keys)
	if n := objects(inner); n != 1 || !errors.Is(err, faulty.ErrInjected) {
		t.Errorf("EvictBatch of 3 with one that fails left %d and says %v", n, err)
	}
}

// TestBatchCancelled shows that a batch that its context ends takes back what it stored.
func TestBatchCancelled(t *testing.T) {
	inner := local.New(local.Options{IncludeDataInConfig: true})
	defer inner.Close(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	c := connectortest.SixMethods(faulty.Wrap(inner, faulty.InjectorFunc(func(faulty.Call) error {
		if n++; n == 3 { // before the second put, the first being two questions
			cancel()
		}
		return nil
	})))
	_, err := connectors.PutBatch(ctx, c, make([]transport.Slices, 5))
	if got := objects(inner); got != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("PutBatch that was cancelled left %d objects and says %v", got, err)
	}
}

func TestStreamFallback(t *testing.T) {
	ctx := t.Context()
	inner := local.New(local.Options{IncludeDataInConfig: true})
	defer inner.Close(ctx)
	data := bytes.Repeat([]byte("0123456789abcdef"), 100_000) // past several parts
	calls := failAt(t, inner, func(c connectors.Connector) error {
		w, err := connectors.PutStream(ctx, c, int64(len(data)))
		if err != nil {
			return err
		}
		defer w.Abort()
		if _, err := w.Write(data[:100]); err != nil {
			return err
		}
		if _, err := w.ReadFrom(bytes.NewReader(data[100:])); err != nil {
			return err
		}
		key, err := w.Commit()
		if err != nil {
			return err
		}
		return errors.Join(c.Evict(ctx, key), func() error {
			_, err := w.Write(nil)
			if !errors.Is(err, connectors.ErrClosed) {
				return errors.New("Write after Commit succeeds")
			}
			return nil
		}())
	})
	if calls != 2 {
		t.Errorf("%d calls, want Put and Evict", calls)
	}
	if n := objects(inner); n > 1 { // the one whose Evict failed
		t.Errorf("%d objects left", n)
	}
	key, err := inner.Put(ctx, transport.Slices{data})
	if err != nil {
		t.Fatal(err)
	}
	failAt(t, inner, func(c connectors.Connector) error {
		r, err := connectors.GetStream(ctx, c, key)
		if err != nil {
			return err
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err == nil && !bytes.Equal(got, data) {
			err = errors.New("wrong bytes")
		}
		return err
	})
	for name, use := range map[string]func(c connectors.Connector) error{
		"GetRange": func(c connectors.Connector) error {
			b, err := connectors.GetRange(ctx, c, key, 5, 5)
			b.Release()
			return err
		},
		"GetBytes": func(c connectors.Connector) error { return second(connectors.GetBytes(ctx, c, key)) },
		"Stat":     func(c connectors.Connector) error { return second(connectors.Stat(ctx, c, key)) },
		"Wait":     func(c connectors.Connector) error { return connectors.Wait(ctx, c, key, connectors.Polling{}) },
		"Map": func(c connectors.Connector) error {
			b, err := connectors.Map(ctx, c, key)
			b.Release()
			return err
		},
	} {
		if calls := failAt(t, inner, use); calls != 1 {
			t.Errorf("%s in %d calls", name, calls)
		}
	}
}

// TestPolling counts the looks of the fallback of Wait on a clock of our own.
func TestPolling(t *testing.T) {
	for name, c := range map[string]struct {
		p     connectors.Polling
		after time.Duration // when the object appears; 0: never
		looks int64
		took  time.Duration
		err   error
	}{
		"there at once":       {connectors.Polling{}, -1, 1, 0, nil},
		"every second":        {connectors.Polling{}, 2500 * time.Millisecond, 4, 3 * time.Second, nil},
		"every 10 ms":         {connectors.Polling{Interval: 10 * time.Millisecond}, 95 * time.Millisecond, 11, 100 * time.Millisecond, nil},
		"doubling":            {connectors.Polling{Interval: time.Second, Backoff: 2}, 8 * time.Second, 5, 15 * time.Second, nil},
		"doubling to a limit": {connectors.Polling{Interval: time.Second, Backoff: 2, Limit: 3 * time.Second}, 8 * time.Second, 5, 9 * time.Second, nil},
		"timeout":             {connectors.Polling{Interval: time.Second, Timeout: 3500 * time.Millisecond}, 0, 4, 3500 * time.Millisecond, connectors.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := local.New(local.Options{})
				defer inner.Close(context.Background())
				key := connectors.LocalKey{ID: "key"}
				set := func() {
					if err := inner.Set(context.Background(), key, nil); err != nil {
						t.Error(err)
					}
				}
				if c.after < 0 {
					set()
				} else if c.after > 0 {
					defer time.AfterFunc(c.after, set).Stop()
				}
				looks := faulty.Counter(nil)
				start := time.Now()
				err := connectors.Wait(t.Context(), connectortest.SixMethods(faulty.Wrap(inner, looks)), key, c.p)
				if !errors.Is(err, c.err) || time.Since(start) != c.took || looks.Calls() != c.looks {
					t.Errorf("%v after %v and %d looks; want %v after %v and %d looks", err, time.Since(start), looks.Calls(), c.err, c.took, c.looks)
				}
			})
		})
	}
}

// TestWaitTimeout tells the waiter's own timeout from its caller's, by event as well as by polling.
func TestWaitTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := local.New(local.Options{})
		defer inner.Close(context.Background())
		key := connectors.LocalKey{ID: "never"}
		for _, c := range []connectors.Connector{inner, connectortest.SixMethods(inner)} {
			if err := connectors.Wait(t.Context(), c, key, connectors.Polling{Timeout: time.Minute}); !errors.Is(err, connectors.ErrNotFound) {
				t.Errorf("own timeout: %v, want ErrNotFound", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := connectors.Wait(ctx, c, key, connectors.Polling{Timeout: time.Minute}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the caller's timeout: %v, want context.DeadlineExceeded", err)
			}
			cancel()
		}
	})
}

func TestClipRange(t *testing.T) {
	for _, c := range []struct{ size, off, n, want int64 }{
		{10, 0, 5, 5}, {10, 0, 11, 10}, {10, 0, -1, 10}, {10, 10, -1, 0}, {10, 10, 1, 0}, {10, 9, 1 << 62, 1}, {0, 0, -1, 0}, {10, 3, 0, 0},
	} {
		if n, err := connectors.ClipRange(c.size, c.off, c.n); n != c.want || err != nil {
			t.Errorf("ClipRange(%d, %d, %d) = %d, %v; want %d", c.size, c.off, c.n, n, err, c.want)
		}
	}
	for _, off := range []int64{-1, 11, -1 << 63, 1<<63 - 1} {
		if _, err := connectors.ClipRange(10, off, -1); !errors.Is(err, connectors.ErrInvalidRange) {
			t.Errorf("ClipRange(10, %d, -1): %v, want ErrInvalidRange", off, err)
		}
	}
}

func TestCheckSize(t *testing.T) {
	for _, c := range []struct {
		announced, got int64
		ok             bool
	}{{-1, 5, true}, {0, 0, true}, {5, 5, true}, {0, 1, false}, {5, 4, false}} {
		if err := connectors.CheckSize(c.announced, c.got); (err == nil) != c.ok || err != nil && !errors.Is(err, connectors.ErrCorrupt) {
			t.Errorf("CheckSize(%d, %d) = %v", c.announced, c.got, err)
		}
	}
}
