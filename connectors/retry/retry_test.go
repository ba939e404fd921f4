package retry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/local"
	"github.com/proxyplane/proxyplane/transport"
)

func TestDecorator(t *testing.T) {
	connectortest.RunDecorator(t, func(c connectors.Connector) connectors.Connector { return Wrap(c, Policy{Base: time.Nanosecond}) })
}

// flaky fails every call as long as errs lasts, and then is the local connector. It notes when it was called.
type flaky struct {
	*local.Connector
	errs  []error
	calls []time.Time
}

func (f *flaky) next() error {
	f.calls = append(f.calls, time.Now())
	if len(f.errs) == 0 {
		return nil
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return err
}

func (f *flaky) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.Connector.Put(ctx, obj)
}

func (f *flaky) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.Connector.Get(ctx, key)
}

func (f *flaky) Exists(ctx context.Context, key connectors.Key) (bool, error) {
	if err := f.next(); err != nil {
		return false, err
	}
	return f.Connector.Exists(ctx, key)
}

func (f *flaky) Evict(ctx context.Context, key connectors.Key) error {
	return errors.Join(f.next(), f.Connector.Evict(ctx, key))
}

func (f *flaky) NewKey(ctx context.Context) (connectors.Key, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.Connector.NewKey(ctx)
}

func (f *flaky) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	return errors.Join(f.next(), f.Connector.Set(ctx, key, obj))
}

func (f *flaky) PutTagged(ctx context.Context, obj transport.Slices, _ connectors.Tags) (connectors.Key, error) {
	return f.Put(ctx, obj)
}

func (f *flaky) PutBatch(ctx context.Context, objs []transport.Slices) ([]connectors.Key, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.Connector.PutBatch(ctx, objs)
}

func (f *flaky) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.Connector.GetBatch(ctx, keys)
}

func (f *flaky) EvictBatch(ctx context.Context, keys []connectors.Key) error {
	return errors.Join(f.next(), f.Connector.EvictBatch(ctx, keys))
}

func (f *flaky) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.Connector.GetRange(ctx, key, off, n)
}

func (f *flaky) GetBytes(ctx context.Context, key connectors.Key) ([]byte, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.Connector.GetBytes(ctx, key)
}

func (f *flaky) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.Connector.PutStream(ctx, size)
}

func (f *flaky) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.Connector.GetStream(ctx, key)
}

func (f *flaky) Map(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.Connector.Map(ctx, key)
}

func (f *flaky) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	if err := f.next(); err != nil {
		return connectors.Info{}, err
	}
	return f.Connector.Stat(ctx, key)
}

func (f *flaky) Wait(ctx context.Context, key connectors.Key) error {
	if err := f.next(); err != nil {
		return err
	}
	return f.Connector.Wait(ctx, key)
}

var (
	refused = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	reset   = fmt.Errorf("in the middle: %w", syscall.ECONNRESET)
)

// operations is every call that may be repeated; the puts are those that make a new object.
func operations(c connectors.Connector, key connectors.Key) (safe, puts map[string]func(context.Context) error) {
	keys := []connectors.Key{key}
	safe = map[string]func(context.Context) error{
		"Get":      func(ctx context.Context) error { b, err := c.Get(ctx, key); b.Release(); return err },
		"Exists":   func(ctx context.Context) error { _, err := c.Exists(ctx, key); return err },
		"Evict":    func(ctx context.Context) error { return c.Evict(ctx, connectors.LocalKey{ID: "other"}) },
		"NewKey":   func(ctx context.Context) error { _, err := connectors.NewKey(ctx, c); return err },
		"Set":      func(ctx context.Context) error { return connectors.Set(ctx, c, key, transport.Slices{[]byte("new")}) },
		"GetBatch": func(ctx context.Context) error { _, err := connectors.GetBatch(ctx, c, keys); return err },
		"EvictBatch": func(ctx context.Context) error {
			return connectors.EvictBatch(ctx, c, []connectors.Key{connectors.LocalKey{ID: "x"}})
		},
		"GetRange": func(ctx context.Context) error {
			b, err := connectors.GetRange(ctx, c, key, 0, 1)
			b.Release()
			return err
		},
		"GetBytes": func(ctx context.Context) error { _, err := connectors.GetBytes(ctx, c, key); return err },
		"Map":      func(ctx context.Context) error { b, err := connectors.Map(ctx, c, key); b.Release(); return err },
		"Stat":     func(ctx context.Context) error { _, err := connectors.Stat(ctx, c, key); return err },
		"Wait":     func(ctx context.Context) error { return connectors.Wait(ctx, c, key, connectors.Polling{}) },
		"GetStream": func(ctx context.Context) error {
			r, err := connectors.GetStream(ctx, c, key)
			if err == nil {
				err = r.Close()
			}
			return err
		},
		"PutStream": func(ctx context.Context) error {
			w, err := connectors.PutStream(ctx, c, -1)
			if err == nil {
				err = w.Abort()
			}
			return err
		},
	}
	obj := transport.Slices{[]byte("x")}
	puts = map[string]func(context.Context) error{
		"Put": func(ctx context.Context) error { _, err := c.Put(ctx, obj); return err },
		"PutTagged": func(ctx context.Context) error {
			_, err := connectors.PutTagged(ctx, c, obj, connectors.Tags{Subset: []string{}})
			return err
		},
		"PutBatch": func(ctx context.Context) error {
			_, err := connectors.PutBatch(ctx, c, []transport.Slices{obj})
			return err
		},
	}
	return safe, puts
}

// TestRepeats says for every call and every class of error how often it is made.
func TestRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			err       error
			p         Policy
			safe, put int
		}{
			"not connected":            {refused, Policy{}, 4, 4},
			"connection lost":          {reset, Policy{}, 4, 1},
			"connection lost, put too": {reset, Policy{RepeatPut: true}, 4, 4},
			"unavailable":              {connectors.ErrUnavailable, Policy{}, 4, 1},
			"two attempts":             {refused, Policy{Attempts: 2}, 2, 2},
			"one attempt":              {refused, Policy{Attempts: 1}, 1, 1},
			"missing":                  {connectors.ErrNotFound, Policy{RepeatPut: true}, 1, 1},
			"corrupt":                  {connectors.ErrCorrupt, Policy{RepeatPut: true}, 1, 1},
			"cancelled":                {fmt.Errorf("%w: %w", context.Canceled, refused), Policy{RepeatPut: true}, 1, 1},
		} {
			loc := local.New(local.Options{})
			key, err := loc.Put(t.Context(), transport.Slices{[]byte("object")})
			if err != nil {
				t.Fatal(err)
			}
			f := &flaky{Connector: loc}
			safe, puts := operations(Wrap(f, c.p), key)
			for kind, ops := range map[int]map[string]func(context.Context) error{c.safe: safe, -c.put: puts} {
				want := max(kind, -kind)
				for op, call := range ops {
					f.errs, f.calls = []error{c.err, c.err, c.err, c.err, c.err, c.err}, nil
					if err := call(t.Context()); !errors.Is(err, c.err) || len(f.calls) != want {
						t.Errorf("%s, %s: called %d times, want %d; %v", name, op, len(f.calls), want, err)
					} else if want > 1 && !strings.Contains(err.Error(), fmt.Sprintf("after %d attempts", want)) {
						t.Errorf("%s, %s: the error hides the attempts: %v", name, op, err)
					}
					if want == 1 {
						continue
					}
					f.errs, f.calls = []error{c.err}, nil
					if err := call(t.Context()); err != nil || len(f.calls) != 2 {
						t.Errorf("%s, %s, failing once: called %d times, %v", name, op, len(f.calls), err)
					}
				}
			}
			if err := loc.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{Connector: local.New(local.Options{})}
		for range 6 {
			f.errs = append(f.errs, refused)
		}
		c := Wrap(f, Policy{Attempts: 7, Base: time.Second, Max: 5 * time.Second, Jitter: -1})
		defer c.Close(t.Context())
		if _, err := c.Put(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		var got []time.Duration
		for i, at := range f.calls[1:] {
			got = append(got, at.Sub(f.calls[i]))
		}
		if s := fmt.Sprint(got); s != "[1s 2s 4s 5s 5s 5s]" {
			t.Errorf("pauses are %s", s)
		}
	})
	for _, p := range []Policy{{Base: time.Second, Max: time.Minute, Jitter: 0.5}, {Base: 1, Max: math.MaxInt64, Jitter: 1}, {Base: math.MaxInt64, Max: 1, Jitter: 0.1}} {
		for n := 1; n < 200; n++ {
			full := p
			full.Jitter = 0
			if d, limit := p.pause(n), full.pause(n); d < 0 || d > limit || limit > p.Max || float64(d) < (1-p.Jitter)*float64(limit)-1 {
				t.Fatalf("%+v: pause %d is %v of %v", p, n, d, limit)
			}
		}
	}
}

func TestContextEndsPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{Connector: local.New(local.Options{}), errs: []error{refused, refused, refused}}
		c := Wrap(f, Policy{Base: time.Hour, Max: time.Hour})
		defer c.Close(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := c.Put(ctx, nil)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) || connectors.Retryable(err) || time.Since(start) != time.Minute ||
			len(f.calls) != 1 {
			t.Errorf("%v after %v and %d calls", err, time.Since(start), len(f.calls))
		}
	})
}
