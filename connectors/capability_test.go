package connectors_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// memory is the least that is a Connector: the six methods. Everything else must work by falling back to them.
type memory struct {
	config  connectors.Config
	env     *connectors.Env
	putErr  func(n int) error // of the nth Put
	mu      sync.Mutex
	objects map[string][]byte
	puts    int
	closed  bool
	given   []*transport.Buffer // by Get, to find leaks
	checks  []time.Time         // when Exists was asked
}

func (m *memory) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts++
	if m.putErr != nil {
		if err := m.putErr(m.puts); err != nil {
			return nil, err
		}
	}
	if m.objects == nil {
		m.objects = map[string][]byte{}
	}
	id := strconv.Itoa(m.puts)
	m.objects[id] = obj.AppendTo(nil)
	return connectors.LocalKey{ID: id}, nil
}

func (m *memory) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	k, err := connectors.KeyAs[connectors.LocalKey]("local", key)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.objects[k.ID]
	if !ok {
		return nil, connectors.ErrNotFound
	}
	// A free function, so that the memory counts as not the garbage collector's.
	buf := transport.NewBuffer(slices.Clone(b), transport.Pooled, func(b []byte) { clear(b) })
	m.given = append(m.given, buf)
	return buf, nil
}

func (m *memory) Exists(ctx context.Context, key connectors.Key) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.checks = append(m.checks, time.Now()); len(m.checks) > 1000 {
		return false, errors.New("polled a thousand times")
	}
	_, ok := m.objects[key.Identity()]
	return ok, nil
}

func (m *memory) Evict(ctx context.Context, key connectors.Key) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, err := connectors.KeyAs[connectors.LocalKey]("local", key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key.Identity())
	return nil
}

func (m *memory) Config() connectors.Config { return m.config.Clone() }

func (m *memory) Close(context.Context) error {
	m.closed = true
	return nil
}

// leaks fails the test if a Buffer that Get gave is still held.
func (m *memory) leaks(t *testing.T) {
	t.Helper()
	for _, b := range m.given {
		if b.TryRetain() {
			t.Errorf("a Buffer of %d bytes was not released", b.Len())
		}
	}
}

// opaque is a decorator by the rule: every capability, each unsupported, and no Unwrap.
type opaque struct{ connectors.Connector }

func (opaque) NewKey(context.Context) (connectors.Key, error) { return nil, errors.ErrUnsupported }
func (opaque) Set(context.Context, connectors.Key, transport.Slices) error {
	return errors.ErrUnsupported
}
func (opaque) PutBatch(context.Context, []transport.Slices) ([]connectors.Key, error) {
	return nil, errors.ErrUnsupported
}
func (opaque) GetBatch(context.Context, []connectors.Key) ([]*transport.Buffer, error) {
	return nil, errors.ErrUnsupported
}
func (opaque) EvictBatch(context.Context, []connectors.Key) error { return errors.ErrUnsupported }
func (opaque) GetRange(context.Context, connectors.Key, int64, int64) (*transport.Buffer, error) {
	return nil, errors.ErrUnsupported
}
func (opaque) GetBytes(context.Context, connectors.Key) ([]byte, error) {
	return nil, errors.ErrUnsupported
}
func (opaque) PutStream(context.Context, int64) (connectors.Writer, error) {
	return nil, errors.ErrUnsupported
}
func (opaque) GetStream(context.Context, connectors.Key) (connectors.Reader, error) {
	return nil, errors.ErrUnsupported
}
func (opaque) Map(context.Context, connectors.Key) (*transport.Buffer, error) {
	return nil, errors.ErrUnsupported
}
func (opaque) Stat(context.Context, connectors.Key) (connectors.Info, error) {
	return connectors.Info{}, fmt.Errorf("wrapped: %w", errors.ErrUnsupported)
}
func (opaque) Wait(context.Context, connectors.Key) error { return errors.ErrUnsupported }
func (opaque) PutTagged(context.Context, transport.Slices, connectors.Tags) (connectors.Key, error) {
	return nil, errors.ErrUnsupported
}
func (opaque) CloseClear(context.Context, bool) error { return errors.ErrUnsupported }

// fallbacks runs f over a bare Connector and over a decorator that has every capability and supports none.
func fallbacks(t *testing.T, f func(t *testing.T, m *memory, c connectors.Connector)) {
	for _, name := range []string{"bare", "unsupported"} {
		t.Run(name, func(t *testing.T) {
			m := &memory{config: connectors.Config{Kind: "test"}}
			var c connectors.Connector = m
			if name == "unsupported" {
				c = opaque{m}
			}
			f(t, m, c)
			m.leaks(t)
		})
	}
}

func put(t *testing.T, c connectors.Connector, s string) connectors.Key {
	t.Helper()
	k, err := c.Put(t.Context(), transport.Slices{[]byte(s)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var missing = connectors.LocalKey{ID: "missing"}

func TestFallbackReads(t *testing.T) {
	fallbacks(t, func(t *testing.T, m *memory, c connectors.Connector) {
		ctx := t.Context()
		k := put(t, c, "0123456789")
		for _, r := range []struct {
			off, n int64
			want   string
		}{{0, -1, "0123456789"}, {0, 3, "012"}, {8, 5, "89"}, {10, -1, ""}, {10, 1, ""}, {4, 0, ""}, {0, 1 << 62, "0123456789"}} {
			b, err := connectors.GetRange(ctx, c, k, r.off, r.n)
			if err != nil || string(b.Bytes()) != r.want {
				t.Errorf("range %d+%d: %v", r.off, r.n, err)
			}
			b.Release()
		}
		for _, off := range []int64{-1, 11, 1 << 62} {
			if _, err := connectors.GetRange(ctx, c, k, off, 1); !errors.Is(err, connectors.ErrInvalidRange) {
				t.Errorf("offset %d: %v", off, err)
			}
		}
		if b, err := connectors.GetBytes(ctx, c, k); err != nil || string(b) != "0123456789" {
			t.Errorf("GetBytes: %q, %v (freed memory reads as zeros)", b, err)
		}
		if b, err := connectors.Map(ctx, c, k); err != nil || string(b.Bytes()) != "0123456789" {
			t.Errorf("Map: %v", err)
		} else {
			b.Release()
		}
		if i, err := connectors.Stat(ctx, c, k); err != nil || i.Size != 10 {
			t.Errorf("Stat: %v, %v", i, err)
		}
		r, err := connectors.GetStream(ctx, c, k)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != "0123456789" || r.Size() != 10 {
			t.Errorf("GetStream: %q of %d, %v", b, r.Size(), err)
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		for name, f := range map[string]func() error{
			"GetRange":  func() error { _, err := connectors.GetRange(ctx, c, missing, 0, -1); return err },
			"GetBytes":  func() error { _, err := connectors.GetBytes(ctx, c, missing); return err },
			"Map":       func() error { _, err := connectors.Map(ctx, c, missing); return err },
			"Stat":      func() error { _, err := connectors.Stat(ctx, c, missing); return err },
			"GetStream": func() error { _, err := connectors.GetStream(ctx, c, missing); return err },
		} {
			if err := f(); !errors.Is(err, connectors.ErrNotFound) {
				t.Errorf("%s of a missing object: %v", name, err)
			}
		}
	})
}

func TestFallbackBatches(t *testing.T) {
	fallbacks(t, func(t *testing.T, m *memory, c connectors.Connector) {
		ctx, cancel := context.WithCancel(t.Context())
		keys, err := connectors.PutBatch(ctx, c, []transport.Slices{{[]byte("a")}, {}, {[]byte("b"), []byte("c")}})
		if err != nil || len(keys) != 3 {
			t.Fatalf("%v, %v", keys, err)
		}
		bufs, err := connectors.GetBatch(ctx, c, []connectors.Key{keys[2], missing, keys[0], keys[1]})
		if err != nil || len(bufs) != 4 || bufs[1] != nil {
			t.Fatalf("%v, %v", bufs, err)
		}
		if got := string(bufs[0].Bytes()) + string(bufs[2].Bytes()) + string(bufs[3].Bytes()); got != "bca" {
			t.Errorf("got %q", got)
		}
		for _, b := range bufs {
			b.Release()
		}
		if _, err := connectors.GetBatch(ctx, c, []connectors.Key{keys[0], connectors.FileKey{}}); !errors.Is(err, connectors.ErrInvalidKey) {
			t.Errorf("a key of another kind: %v", err)
		}
		if err := connectors.EvictBatch(ctx, c, []connectors.Key{keys[0], missing, connectors.FileKey{}, keys[1], keys[2]}); !errors.Is(err, connectors.ErrInvalidKey) {
			t.Errorf("a key of another kind: %v", err)
		}
		if len(m.objects) != 0 {
			t.Errorf("the error kept others from being evicted: %v", m.objects)
		}
		if err := connectors.EvictBatch(ctx, c, nil); err != nil {
			t.Error(err)
		}
		// The third Put fails because the caller gave up: the first two go all the same.
		m.puts, m.putErr = 0, func(n int) error {
			if n == 3 {
				cancel()
				return ctx.Err()
			}
			return nil
		}
		keys, err = connectors.PutBatch(ctx, c, []transport.Slices{{[]byte("a")}, {[]byte("b")}, {[]byte("c")}, {[]byte("d")}})
		if !errors.Is(err, context.Canceled) || keys != nil || len(m.objects) != 0 {
			t.Errorf("%v, %v, left %v", keys, err, m.objects)
		}
	})
}

func TestFallbackPutStream(t *testing.T) {
	fallbacks(t, func(t *testing.T, m *memory, c connectors.Connector) {
		ctx := t.Context()
		want := bytes.Repeat([]byte("0123456789abcdef"), 50_000) // several parts
		for _, size := range []int64{-1, int64(len(want))} {
			w, err := connectors.PutStream(ctx, c, size)
			if err != nil {
				t.Fatal(err)
			}
			scratch := slices.Clone(want[:1000])
			if n, err := w.Write(scratch); n != 1000 || err != nil {
				t.Fatal(n, err)
			}
			clear(scratch) // the Writer must not have kept it
			if n, err := w.ReadFrom(iotest.HalfReader(bytes.NewReader(want[1000:]))); n != int64(len(want)-1000) || err != nil {
				t.Fatal(n, err)
			}
			if len(m.objects) != 0 {
				t.Error("visible before Commit")
			}
			k, err := w.Commit()
			if err != nil {
				t.Fatal(err)
			}
			if b, err := connectors.GetBytes(ctx, c, k); err != nil || !bytes.Equal(b, want) {
				t.Errorf("size %d: got %d bytes, %v", size, len(b), err)
			}
			if _, err := w.Commit(); !errors.Is(err, connectors.ErrClosed) {
				t.Errorf("second Commit: %v", err)
			}
			if _, err := w.Write([]byte("x")); !errors.Is(err, connectors.ErrClosed) {
				t.Errorf("Write after Commit: %v", err)
			}
			if err := w.Abort(); err != nil {
				t.Errorf("Abort after Commit: %v", err)
			}
			if err := c.Evict(ctx, k); err != nil {
				t.Error(err)
			}
		}
		for name, f := range map[string]func(w connectors.Writer) error{
			"too short": func(w connectors.Writer) error { _, err := w.Commit(); return err },
			"too long":  func(w connectors.Writer) error { _, _ = w.Write([]byte("12345")); _, err := w.Commit(); return err },
		} {
			w, err := connectors.PutStream(ctx, c, 4)
			if err != nil {
				t.Fatal(err)
			}
			if err := f(w); !errors.Is(err, connectors.ErrCorrupt) {
				t.Errorf("%s: %v", name, err)
			}
		}
		w, err := connectors.PutStream(ctx, c, -1)
		if err != nil {
			t.Fatal(err)
		}
		boom := errors.New("boom")
		if n, err := w.ReadFrom(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(boom))); n != 3 || !errors.Is(err, boom) {
			t.Errorf("%d, %v", n, err)
		}
		if err := errors.Join(w.Abort(), w.Abort()); err != nil {
			t.Error(err)
		}
		if _, err := w.Commit(); !errors.Is(err, connectors.ErrClosed) {
			t.Errorf("Commit after Abort: %v", err)
		}
		if len(m.objects) != 0 {
			t.Errorf("left behind: %d objects", len(m.objects))
		}
	})
}

func TestFallbackLacks(t *testing.T) {
	fallbacks(t, func(t *testing.T, m *memory, c connectors.Connector) {
		ctx := t.Context()
		if _, err := connectors.NewKey(ctx, c); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("NewKey: %v", err)
		}
		if err := connectors.Set(ctx, c, missing, nil); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("Set: %v", err)
		}
		if _, err := connectors.PutTagged(ctx, c, nil, connectors.Tags{Subset: []string{"x"}}); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("PutTagged: %v", err)
		}
		if k, err := connectors.PutTagged(ctx, c, transport.Slices{[]byte("x")}, connectors.Tags{}); err != nil || k == nil {
			t.Errorf("PutTagged without tags: %v", err)
		}
		if err := connectors.CloseClear(ctx, c, true); !errors.Is(err, errors.ErrUnsupported) || m.closed {
			t.Errorf("CloseClear(true): %v, closed %v", err, m.closed)
		}
		if err := connectors.CloseClear(ctx, c, false); err != nil || !m.closed {
			t.Errorf("CloseClear(false): %v, closed %v", err, m.closed)
		}
	})
}

// unwrapping is a decorator that only adds, and says what it is over.
type unwrapping struct{ connectors.Connector }

func (u unwrapping) Unwrap() connectors.Connector { return u.Connector }

func TestAs(t *testing.T) {
	m := &memory{}
	if _, ok := connectors.As[connectors.Stater](m); ok {
		t.Error("six methods are no Stater")
	}
	if s, ok := connectors.As[connectors.Stater](unwrapping{unwrapping{opaque{m}}}); !ok || s != connectors.Stater(opaque{m}) {
		t.Errorf("through Unwrap: %v, %v", s, ok)
	}
	if got, ok := connectors.As[*memory](unwrapping{m}); !ok || got != m {
		t.Error("a concrete type is not found")
	}
	if _, ok := connectors.As[*memory](opaque{m}); ok {
		t.Error("a decorator without Unwrap was reached around")
	}
	if _, ok := connectors.As[connectors.Stater](nil); ok {
		t.Error("nil has a capability")
	}
}

func TestWaitPolls(t *testing.T) {
	for name, c := range map[string]struct {
		p    connectors.Polling
		want []time.Duration // when Exists is asked, from the start
	}{
		"defaults": {connectors.Polling{}, []time.Duration{0, 1 * time.Second, 2 * time.Second, 3 * time.Second}},
		"backoff": {connectors.Polling{Interval: time.Millisecond, Backoff: 2},
			[]time.Duration{0, 1 * time.Millisecond, 3 * time.Millisecond, 7 * time.Millisecond}},
		"limit": {connectors.Polling{Interval: time.Second, Backoff: 10, Limit: 2 * time.Second},
			[]time.Duration{0, 1 * time.Second, 3 * time.Second, 5 * time.Second}},
		"limit below interval": {connectors.Polling{Interval: 5 * time.Second, Limit: 2 * time.Second},
			[]time.Duration{0, 5 * time.Second, 7 * time.Second, 9 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{objects: map[string][]byte{}}
				start := time.Now()
				go func() {
					time.Sleep(c.want[3] - time.Nanosecond)
					m.mu.Lock()
					m.objects[missing.ID] = nil
					m.mu.Unlock()
				}()
				if err := connectors.Wait(t.Context(), opaque{m}, missing, c.p); err != nil {
					t.Fatal(err)
				}
				var got []time.Duration
				for _, at := range m.checks {
					got = append(got, at.Sub(start))
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("polled at %v, want %v", got, c.want)
				}
			})
		})
	}
}

func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		start := time.Now()
		err := connectors.Wait(t.Context(), m, missing, connectors.Polling{Timeout: 10 * time.Second})
		if !errors.Is(err, connectors.ErrNotFound) || errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("own timeout after %v: %v", time.Since(start), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := connectors.Wait(ctx, m, missing, connectors.Polling{Timeout: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller's deadline: %v", err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		start = time.Now()
		if err := connectors.Wait(ctx, m, missing, connectors.Polling{Interval: time.Hour}); !errors.Is(err, context.Canceled) || time.Since(start) != time.Minute {
			t.Errorf("cancelled between polls: %v after %v", err, time.Since(start))
		}
		// Backoff must not overflow into a busy loop.
		m.checks = nil
		ctx, cancel = context.WithTimeout(t.Context(), 1000*time.Hour)
		defer cancel()
		if err := connectors.Wait(ctx, m, missing, connectors.Polling{Interval: time.Hour, Backoff: 1e18}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("steep backoff: %v", err)
		}
		if len(m.checks) > 10 {
			t.Errorf("steep backoff: %d polls in 1000 hours", len(m.checks))
		}
	})
}
