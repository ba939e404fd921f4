package connectortest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// checkContext cancels before, during and after.
func checkContext(s *suite) {
	c := s.open()
	data := payload(10_000, 1)
	key, gone := s.put(c, data), s.missing(c)
	before := s.count()
	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	expired, cancel := context.WithDeadline(s.ctx, time.Unix(0, 0))
	defer cancel()
	for _, op := range s.applicable(c) {
		k := key
		if op.name == "Wait" {
			k = gone
		}
		if err := op.call(cancelled, c, k, one([]byte("no"))); !errors.Is(err, context.Canceled) || errors.Is(err, errLeftover) {
			s.Errorf("%s with a cancelled context: %v, want context.Canceled", op.name, err)
		}
		if err := op.call(expired, c, k, one([]byte("no"))); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errLeftover) {
			s.Errorf("%s with an expired context: %v, want context.DeadlineExceeded", op.name, err)
		}
	}
	s.holds(c, key, data)
	s.lacks(c, gone)
	s.counted(before, "after calls with a cancelled context")

	// During: the call ends with its own result or with the context's, and the connector is as good as before.
	big := payload(int(min(4<<20, s.MaxSize)), 2)
	for i := range 20 {
		ctx, cancel := context.WithCancel(s.ctx)
		g := group{s: s}
		g.run(func() {
			for range i * i {
				runtime.Gosched()
			}
			cancel()
		})
		key, err := c.Put(ctx, one(big))
		switch {
		case err == nil:
			s.holds(c, key, big)
			b, err := c.Get(ctx, key)
			if err == nil {
				if d := differ(b.Bytes(), big); d != "" {
					s.Errorf("Get while its context was cancelled: %s", d)
				}
				b.Release()
			} else if !errors.Is(err, context.Canceled) {
				s.Errorf("Get while its context was cancelled: %v", err)
			}
			s.evict(c, key)
		case !errors.Is(err, context.Canceled):
			s.Errorf("Put while its context was cancelled: %v", err)
		}
		g.wg.Wait()
		cancel()
	}
	s.counted(before, "after puts that were cancelled on the way")

	// After: what a call gave does not depend on its context.
	ctx, cancel := context.WithCancel(s.ctx)
	after, err := c.Put(ctx, one(big))
	if err != nil {
		s.Fatalf("Put: %v", err)
	}
	b, err := c.Get(ctx, after)
	if err != nil {
		s.Fatalf("Get: %v", err)
	}
	cancel()
	if d := differ(b.Bytes(), big); d != "" {
		s.Errorf("Buffer after its context was cancelled: %s", d)
	}
	b.Release()
	s.holds(c, after, big)
	s.evict(c, after)
}

func checkClose(s *suite) {
	a, other := s.open(), s.open()
	data := payload(10_000, 1)
	key := s.put(a, data)
	ops := s.applicable(a)
	cfg := a.Config()
	w := s.putStream(s.ctx, a, -1)
	if _, err := w.Write(data); err != nil {
		s.Fatalf("Write: %v", err)
	}
	r, err := connectors.GetStream(s.ctx, a, key)
	if err != nil {
		s.Fatalf("GetStream: %v", err)
	}
	for i := range 2 {
		if err := a.Close(s.ctx); err != nil {
			s.Errorf("Close number %d: %v", i+1, err)
		}
	}
	for _, op := range ops {
		err := op.call(s.ctx, a, key, one(data))
		if why := isErr(a, err, connectors.ErrClosed); why != "" {
			s.Errorf("%s after Close: %s", op.name, why)
		}
		if errors.Is(err, errLeftover) {
			s.Errorf("%s after Close: %v", op.name, err)
		}
	}
	if key, err := w.Commit(); !errors.Is(err, connectors.ErrClosed) {
		s.Errorf("Commit after the connector's Close = %v, %v; want ErrClosed", key, err)
	}
	if err := w.Abort(); err != nil {
		s.Errorf("Abort after the connector's Close: %v", err)
	}
	buf := make([]byte, len(data)+1)
	if n, _ := r.Read(buf); !bytes.Equal(buf[:n], data[:n]) {
		s.Error("a Reader gives wrong bytes after the connector's Close")
	}
	if err := r.Close(); err != nil {
		s.Errorf("Close of a Reader after the connector's Close: %v", err)
	}
	if again := a.Config(); again.Kind != cfg.Kind {
		s.Errorf("Config after Close has kind %q, want %q", again.Kind, cfg.Kind)
	}
	if err := connectors.CloseClear(s.ctx, a, false); err != nil {
		s.Errorf("CloseClear after Close: %v", err)
	}
	if s.OutlivesClose {
		s.holds(other, key, data)
	}
	// Another connector of the storage goes on.
	key = s.put(other, data)
	s.holds(other, key, data)
	s.evict(other, key)

	// A Close whose context is over closes all the same, at the latest the next one does.
	c := s.open()
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	if err := c.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
		s.Errorf("Close with a cancelled context: %v", err)
	}
	if err := c.Close(s.ctx); err != nil {
		s.Errorf("Close after a Close with a cancelled context: %v", err)
	}
	if _, err := c.Put(s.ctx, nil); !errors.Is(err, connectors.ErrClosed) {
		s.Errorf("Put after such a Close: %v", err)
	}
}

// checkCloseDuringCalls closes a connector that many goroutines are using, twice at once.
func checkCloseDuringCalls(s *suite) {
	data := payload(5000, 1)
	for round := range 6 {
		c := s.open()
		ops := s.applicable(c)
		shared, gone := s.put(c, data), s.missing(c)
		var calls atomic.Int64
		g := group{s: s}
		for i := range 8 {
			g.run(func() {
				var held []*transport.Buffer
				defer func() {
					for _, b := range held {
						if d := differ(b.Bytes(), data); d != "" {
							s.Errorf("Buffer got while closing: %s", d)
						}
						b.Release()
					}
				}()
				mine, err := c.Put(s.ctx, one(data))
				for n := i; err == nil; n++ {
					calls.Add(1)
					op := ops[n%len(ops)]
					key := shared
					if op.name == "Evict" || op.name == "EvictBatch" || op.name == "Set" {
						key = mine
					}
					if err = op.call(s.ctx, c, key, one(data)); err == nil {
						var b *transport.Buffer
						if b, err = c.Get(s.ctx, shared); err == nil && len(held) < 50 {
							held = append(held, b)
						} else {
							b.Release()
						}
					}
				}
				if !errors.Is(err, connectors.ErrClosed) {
					s.Errorf("call during Close: %v; want nil or ErrClosed", err)
				}
				for _, op := range ops { // it does not open again
					if err := op.call(s.ctx, c, shared, one(data)); !errors.Is(err, connectors.ErrClosed) {
						s.Errorf("%s after another call gave ErrClosed: %v; want ErrClosed", op.name, err)
					}
				}
			})
		}
		for range 3 {
			g.run(func() {
				if err := connectors.Wait(s.ctx, c, gone, polling); !errors.Is(err, connectors.ErrClosed) {
					s.Errorf("Wait during Close: %v, want ErrClosed", err)
				}
			})
		}
		for calls.Load() < int64(round*round*8) {
			runtime.Gosched()
			if s.ctx.Err() != nil {
				s.Fatalf("no call came through within %v", deadline)
			}
		}
		for range 2 {
			g.run(func() {
				if err := c.Close(s.ctx); err != nil {
					s.Errorf("Close during calls: %v", err)
				}
			})
		}
		g.wg.Wait()
	}
}

// checkConcurrent has many goroutines work on objects of their own: nobody may ever see another's bytes.
func checkConcurrent(s *suite) {
	cs := []connectors.Connector{s.open(), s.open()}
	before := s.count()
	g := group{s: s}
	for i := range 8 {
		g.run(func() {
			for n := range 25 {
				data := payload((i*31+n*997)%20_000, i*1000+n)
				a, b := cs[n%2], cs[i%2]
				key, err := a.Put(s.ctx, split(data, 3, len(data)+1))
				if err != nil {
					s.Errorf("Put: %v", err)
					return
				}
				buf, err := b.Get(s.ctx, key)
				if err != nil {
					s.Errorf("Get: %v", err)
					return
				}
				if d := differ(buf.Bytes(), data); d != "" {
					s.Errorf("Get among many: %s", d)
				}
				if err := b.Evict(s.ctx, key); err != nil {
					s.Errorf("Evict: %v", err)
				}
				if ok, err := a.Exists(s.ctx, key); ok || err != nil {
					s.Errorf("Exists after Evict = %t, %v", ok, err)
				}
				if d := differ(buf.Bytes(), data); d != "" {
					s.Errorf("Buffer after Evict among many: %s", d)
				}
				buf.Release()
			}
		})
	}
	g.wg.Wait()
	s.counted(before, "after all objects were evicted")
}

// version makes an object that tells from any of its bytes what all the others must be.
func version(v int) []byte {
	return bytes.Repeat([]byte{byte(v)}, []int{1000, 70_000, 5, 300_000}[v%4]+v%4)
}

// torn says what is wrong with bytes that should be one version.
func torn(got []byte) string {
	if len(got) == 0 {
		return "no bytes"
	}
	return differ(got, version(int(got[0])))
}

// checkTorn has readers and writers of one key.
func checkTorn(s *suite) {
	cs := []connectors.Connector{s.open(), s.open()}
	if !s.defers(cs[0]) || s.MaxSize < 400_000 {
		return
	}
	key := s.newKey(cs[0])
	s.set(cs[0], key, version(0))
	var writing atomic.Int32
	g := group{s: s}
	for i, c := range cs {
		writing.Add(1)
		g.run(func() {
			defer writing.Add(-1)
			for n := range 40 {
				if err := connectors.Set(s.ctx, c, key, split(version(n*2+i), 1000)); err != nil {
					s.Errorf("Set: %v", err)
					return
				}
			}
		})
		for way := range 3 {
			g.run(func() {
				var held []*transport.Buffer
				for len(held) < 10 || writing.Load() > 0 && s.ctx.Err() == nil {
					switch way {
					case 0:
						b, err := c.Get(s.ctx, key)
						if err != nil {
							s.Errorf("Get of a key that is being set: %v", err)
							return
						}
						held = append(held, b)
						if d := torn(b.Bytes()); d != "" {
							s.Errorf("Get of a key that is being set: %s", d)
						}
						if len(held) > 50 {
							held[0].Release()
							held = held[1:]
						}
						continue
					case 1:
						got, err := connectors.GetBytes(s.ctx, c, key)
						if err != nil {
							s.Errorf("GetBytes of a key that is being set: %v", err)
							return
						}
						if d := torn(got); d != "" {
							s.Errorf("GetBytes of a key that is being set: %s", d)
						}
					case 2:
						r, err := connectors.GetStream(s.ctx, c, key)
						if err != nil {
							s.Errorf("GetStream of a key that is being set: %v", err)
							return
						}
						var got bytes.Buffer
						_, err = r.WriteTo(&got)
						if d := torn(got.Bytes()); err != nil || d != "" {
							s.Errorf("Reader of a key that is being set: %v %s", err, d)
						}
						r.Close()
					}
					held = append(held, nil)
				}
				for _, b := range held {
					if b != nil {
						if d := torn(b.Bytes()); d != "" {
							s.Errorf("Buffer after its key was set again: %s", d)
						}
						b.Release()
					}
				}
			})
		}
	}
	g.wg.Wait()
	s.evict(cs[0], key)
}

func checkWait(s *suite) {
	a, b := s.open(), s.open()
	wait := func(ctx context.Context, c connectors.Connector, key connectors.Key) error {
		return connectors.Wait(ctx, c, key, polling)
	}
	data := []byte("here")
	there := s.put(a, data)
	for _, c := range []connectors.Connector{a, b} {
		if err := wait(s.ctx, c, there); err != nil {
			s.Errorf("Wait for an object that is there: %v", err)
		}
	}
	gone := s.missing(a)
	for i := range 5 {
		ctx, cancel := context.WithTimeout(s.ctx, time.Duration(i)*time.Millisecond)
		if err := wait(ctx, a, gone); !errors.Is(err, context.DeadlineExceeded) {
			s.Errorf("Wait for what does not come: %v, want context.DeadlineExceeded", err)
		}
		cancel()
	}
	err := connectors.Wait(s.ctx, a, gone, connectors.Polling{Interval: time.Millisecond, Timeout: 3 * time.Millisecond})
	if !errors.Is(err, connectors.ErrNotFound) {
		s.Errorf("Wait with a timeout of its own: %v, want ErrNotFound", err)
	}

	if s.defers(a) {
		for i := range 12 {
			key, never := s.newKey(a), s.newKey(a)
			ctx, cancel := context.WithCancel(s.ctx)
			waiting, others := group{s: s}, group{s: s}
			for n := range 16 {
				c := []connectors.Connector{a, b}[n%2]
				waiting.run(func() {
					if err := wait(s.ctx, c, key); err != nil {
						s.Errorf("Wait: %v", err)
						return
					}
					s.holds(c, key, data)
				})
			}
			others.run(func() {
				if err := wait(ctx, b, never); !errors.Is(err, context.Canceled) {
					s.Errorf("Wait for an object that is not set while another is: %v, want context.Canceled", err)
				}
			})
			time.Sleep(time.Duration(i) * 200 * time.Microsecond) // set before, while and after the waiters begin
			s.set([]connectors.Connector{a, b}[i/2%2], key, data)
			waiting.wg.Wait()
			cancel()
			others.wg.Wait()
			s.evict(a, key)
		}
	}

	for i := range 5 {
		c := s.open()
		g := group{s: s}
		for range 8 {
			g.run(func() {
				if err := wait(s.ctx, c, gone); !errors.Is(err, connectors.ErrClosed) {
					s.Errorf("Wait when its connector closes: %v, want ErrClosed", err)
				}
			})
		}
		time.Sleep(time.Duration(i) * 300 * time.Microsecond)
		if err := c.Close(s.ctx); err != nil {
			s.Errorf("Close with waiters: %v", err)
		}
		g.wg.Wait()
	}
}

// checkConfig takes the configuration through every form that it has.
func checkConfig(s *suite) {
	c := s.open()
	cfg := c.Config()
	if k, ok := connectors.LookupKind(cfg.Kind); ok && cfg.Kind != k.Path() {
		s.Errorf("Config has kind %q; every version of ProxyStore understands the full path %q only", cfg.Kind, k.Path())
	}
	canonical, err := cfg.Canonical()
	if err != nil {
		s.Fatalf("Canonical: %v", err)
	}
	same := func(what string, got connectors.Config) {
		s.Helper()
		text, err := got.Canonical()
		if err != nil || !bytes.Equal(text, canonical) {
			s.Errorf("Config %s is %s (%v), want %s", what, text, err, canonical)
		}
	}
	mine := c.Config()
	for k := range mine.Options {
		mine.Options[k] = "changed by the caller, who owns the result"
	}
	same("after the caller changed an earlier one", c.Config())
	if s.Registry == nil {
		return
	}

	var decoded connectors.Config
	text, err := json.Marshal(cfg)
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		err = d.Decode(&decoded)
	}
	if err != nil {
		s.Fatalf("Config as JSON: %v", err)
	}
	travelling, err := s.Registry.Travelling(cfg, false)
	if err != nil {
		s.Fatalf("Travelling: %v", err)
	}
	if _, err := s.Registry.Travelling(cfg, true); err != nil && !errors.Is(err, connectors.ErrNotForPython) {
		s.Errorf("Travelling, for Python: %v; want nil or ErrNotForPython", err)
	}
	driver, err := s.Registry.Driver(cfg.Kind)
	if err != nil {
		s.Fatalf("the Registry has no driver for the connector's own kind %q: %v", cfg.Kind, err)
	}
	if k := kind(c); k != "" && driver.Kind != k {
		s.Errorf("driver for %q has kind %q, want %q", cfg.Kind, driver.Kind, k)
	}
	secret := func(string, connectors.Config) map[string]any { // what does not travel, the receiver must have
		m := map[string]any{}
		for _, name := range driver.Secret {
			if v, ok := cfg.Options[name]; ok {
				m[name] = v
			}
		}
		return m
	}
	data := payload(10_000, 1)
	key := s.put(c, data)
	for _, form := range []struct {
		name string
		cfg  connectors.Config
	}{
		{"reopened", cfg}, {"reopened by its short kind", connectors.Config{Kind: driver.Kind, Options: cfg.Options}},
		{"reopened from JSON", decoded}, {"reopened from what travels", travelling},
	} {
		original := form.cfg.Clone()
		again, err := s.Registry.Open(s.ctx, form.cfg, &connectors.Env{Secrets: secret})
		if err != nil {
			s.Errorf("%s: %v", form.name, err)
			continue
		}
		s.opened = append(s.opened, again)
		if !form.cfg.Equal(original) {
			s.Errorf("%s: Open changed the configuration that it borrowed", form.name)
		}
		same(form.name, again.Config())
		s.holds(again, key, data)
		back := s.put(again, data)
		s.holds(c, back, data)
		s.evict(c, back)
	}
	if _, err := s.Registry.Locations(cfg, nil); err != nil {
		s.Errorf("Locations: %v", err)
	}
	wrong := cfg.Clone()
	wrong.Options["no_such_option"] = "x"
	if again, err := s.Registry.Open(s.ctx, wrong, nil); !errors.Is(err, connectors.ErrConfig) {
		s.Errorf("Open with an unknown option: %v, want ErrConfig", err)
		if err == nil {
			again.Close(s.ctx)
		}
	}
	if err := c.Close(s.ctx); err != nil {
		s.Errorf("Close: %v", err)
	}
	same("after Close", c.Config())
}

// checkCloseClear closes one connector while another holds the storage.
func checkCloseClear(s *suite) {
	if !s.wants("ClearCloser") && !slices.Contains(s.Want, "ClearCloser?") {
		if err := connectors.CloseClear(s.ctx, s.open(), true); !errors.Is(err, errors.ErrUnsupported) {
			s.Errorf("CloseClear(true) without the capability: %v, want errors.ErrUnsupported", err)
		}
		c := s.open()
		if err := connectors.CloseClear(s.ctx, c, false); err != nil {
			s.Errorf("CloseClear(false): %v", err)
		}
		if _, err := c.Put(s.ctx, nil); !errors.Is(err, connectors.ErrClosed) {
			s.Errorf("Put after CloseClear(false): %v, want ErrClosed", err)
		}
		return
	}
	a, b, other := s.open(), s.open(), s.open()
	data := payload(5000, 1)
	key := s.put(a, data)
	held := s.get(a, key)
	defer held.Release()
	if err := connectors.CloseClear(s.ctx, a, false); err != nil {
		s.Errorf("CloseClear(false): %v", err)
	}
	s.holds(other, key, data)
	err := connectors.CloseClear(s.ctx, b, true)
	if errors.Is(err, errors.ErrUnsupported) && !s.wants("ClearCloser") {
		s.evict(other, key)
		return
	}
	if err != nil {
		s.Errorf("CloseClear(true): %v", err)
	}
	for i, c := range []connectors.Connector{other, s.open()} {
		if ok, err := c.Exists(s.ctx, key); ok || err != nil {
			s.Errorf("Exists after CloseClear(true), connector %d = %t, %v; want false", i, ok, err)
		}
	}
	if d := differ(held.Bytes(), data); d != "" {
		s.Errorf("Buffer after CloseClear(true): %s", d)
	}
	for name, c := range map[string]connectors.Connector{"false": a, "true": b} {
		if _, err := c.Put(s.ctx, nil); !errors.Is(err, connectors.ErrClosed) {
			s.Errorf("Put after CloseClear(%s): %v, want ErrClosed", name, err)
		}
		if err := connectors.CloseClear(s.ctx, c, true); err != nil {
			s.Errorf("second CloseClear: %v", fmt.Errorf("after CloseClear(%s): %w", name, err))
		}
	}
}
