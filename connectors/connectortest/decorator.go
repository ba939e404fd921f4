package connectortest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/local"
	"github.com/proxyplane/proxyplane/transport"
)

// RunDecorator checks a decorator that must see every call, over the local connector. No capability may be lost unsaid: wrap's connector has
// each one, passes it on, and answers errors.ErrUnsupported only where the inner connector lacks it; unsupported names the capabilities that
// the decorator gives up on purpose (a compressing one has no Mapper). And none may be reached around the layer: what connectors.As finds is
// never the inner connector. The whole suite runs on wrap over all capabilities, and over the six methods alone.
//
// wrap is called many times; what it returns takes the inner connector and closes it. A decorator with a configuration of its own must still
// give the inner one's Config, or test the difference itself.
func RunDecorator(t *testing.T, wrap func(inner connectors.Connector) connectors.Connector, unsupported ...string) {
	t.Run("Rules", func(t *testing.T) {
		for _, rule := range decoratorRules(wrap, unsupported) {
			t.Error(rule)
		}
	})
	t.Run("Full", func(t *testing.T) {
		Run(t, func(t testing.TB) Harness {
			var want []string
			for _, name := range AllCapabilities() {
				if name == "Tagger" || slices.Contains(unsupported, name) {
					name += "?"
				}
				want = append(want, name)
			}
			return decorated(t, want, wrap)
		})
	})
	t.Run("SixMethods", func(t *testing.T) {
		Run(t, func(t testing.TB) Harness {
			var want []string
			for _, name := range AllCapabilities() {
				want = append(want, name+"?")
			}
			return decorated(t, want, func(c connectors.Connector) connectors.Connector { return wrap(SixMethods(c)) })
		})
	})
}

// decorated is a harness over a local storage of its own.
func decorated(t testing.TB, want []string, wrap func(connectors.Connector) connectors.Connector) Harness {
	reg := &connectors.Registry{}
	reg.Register(local.Driver())
	opts := local.Options{Storage: t.Name()}
	return Harness{
		Open:     func(testing.TB) connectors.Connector { return wrap(local.New(opts)) },
		Want:     want,
		Registry: reg,
		Objects:  func(testing.TB) int { return storedLocally(opts.Storage) },
	}
}

// storedLocally counts the objects of a local storage.
func storedLocally(storage string) int {
	c := local.New(local.Options{Storage: storage, IncludeDataInConfig: true})
	defer c.Close(context.Background())
	return len(c.Config().Options["store_dict"].(map[string]any))
}

// SixMethods returns c without any capability, to test the fallbacks of package connectors and of decorators.
func SixMethods(c connectors.Connector) connectors.Connector { return sixMethods{c} }

// sixMethods has the methods of the interface that it embeds, and no others.
type sixMethods struct{ connectors.Connector }

// decoratorRules returns what a decorator does against the rules.
func decoratorRules(wrap func(connectors.Connector) connectors.Connector, unsupported []string) []string {
	var broken []string
	inner := &probe{Connector: local.New(local.Options{})}
	outer := wrap(inner)
	defer outer.Close(context.Background())
	for _, k := range capabilities {
		found, ok := k.has(outer)
		switch {
		case !ok && !slices.Contains(unsupported, k.name):
			broken = append(broken, "capability "+k.name+" is lost: connectors.As does not find it")
		case ok && isInner(found, inner):
			broken = append(broken, "capability "+k.name+" is reached around the layer: connectors.As finds the inner connector; the decorator must "+
				"implement it, or have no Unwrap")
		}
	}
	if u, ok := outer.(interface{ Unwrap() connectors.Connector }); ok && u.Unwrap() != nil {
		broken = append(broken, "the decorator has Unwrap, so that a capability to come will be reached around the layer")
	}
	for _, use := range uses {
		before := inner.calls.Load()
		err := use.call(outer)
		switch {
		case slices.Contains(unsupported, use.name):
		case errors.Is(err, errors.ErrUnsupported):
			broken = append(broken, "capability "+use.name+" is lost: it answers errors.ErrUnsupported over an inner connector that has it")
		case inner.calls.Load() == before:
			broken = append(broken, "capability "+use.name+" does not reach the inner connector")
		}
	}

	bare := wrap(SixMethods(local.New(local.Options{})))
	defer bare.Close(context.Background())
	for _, use := range uses {
		if err := use.call(bare); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, connectors.ErrNotFound) {
			broken = append(broken, "capability "+use.name+" over an inner connector that lacks it: "+err.Error()+"; want errors.ErrUnsupported")
		}
	}
	return broken
}

// isInner reports whether a capability is that of inner itself.
func isInner(found any, inner connectors.Connector) bool {
	return reflect.TypeOf(found).Comparable() && found == any(inner)
}

// uses call each capability once. Whether the call succeeds does not matter, only where it goes.
var uses = []struct {
	name string
	call func(c connectors.Connector) error
}{
	{"Deferrer", with(func(d connectors.Deferrer) error {
		key, err := d.NewKey(context.Background())
		return errors.Join(err, d.Set(context.Background(), key, one([]byte("x"))))
	})},
	{"BatchPutter", with(func(b connectors.BatchPutter) error {
		_, err := b.PutBatch(context.Background(), []transport.Slices{one([]byte("x"))})
		return err
	})},
	{"BatchGetter", with(func(b connectors.BatchGetter) error {
		bufs, err := b.GetBatch(context.Background(), []connectors.Key{nobody})
		return released(err, bufs...)
	})},
	{"BatchEvicter", with(func(b connectors.BatchEvicter) error {
		return b.EvictBatch(context.Background(), []connectors.Key{nobody})
	})},
	{"RangeGetter", with(func(r connectors.RangeGetter) error {
		b, err := r.GetRange(context.Background(), nobody, 0, -1)
		return released(err, b)
	})},
	{"BytesGetter", with(func(g connectors.BytesGetter) error {
		_, err := g.GetBytes(context.Background(), nobody)
		return err
	})},
	{"StreamPutter", with(func(p connectors.StreamPutter) error {
		w, err := p.PutStream(context.Background(), -1)
		if err != nil {
			return err
		}
		return w.Abort()
	})},
	{"StreamGetter", with(func(g connectors.StreamGetter) error {
		r, err := g.GetStream(context.Background(), nobody)
		if err != nil {
			return err
		}
		return r.Close()
	})},
	{"Mapper", with(func(m connectors.Mapper) error {
		b, err := m.Map(context.Background(), nobody)
		return released(err, b)
	})},
	{"Stater", with(func(s connectors.Stater) error {
		_, err := s.Stat(context.Background(), nobody)
		return err
	})},
	{"Waiter", with(func(w connectors.Waiter) error {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := w.Wait(ctx, nobody); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})},
	{"Tagger", with(func(t connectors.Tagger) error {
		_, err := t.PutTagged(context.Background(), one([]byte("x")), connectors.Tags{Subset: []string{"tag"}})
		return err
	})},
	{"ClearCloser", with(func(c connectors.ClearCloser) error { return c.CloseClear(context.Background(), false) })}, // the last, for it closes
}

// nobody is a key without an object.
var nobody = connectors.LocalKey{ID: "nobody"}

// with makes a use of a T; a connector without one is unsupported.
func with[T any](use func(T) error) func(connectors.Connector) error {
	return func(c connectors.Connector) error {
		t, ok := connectors.As[T](c)
		if !ok {
			return errors.ErrUnsupported
		}
		return use(t)
	}
}

// probe is a local connector that has every capability and counts its calls.
type probe struct {
	*local.Connector
	calls atomic.Int64 // a decorator may call from goroutines of its own
}

func (p *probe) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	p.calls.Add(1)
	return p.Connector.Put(ctx, obj)
}

func (p *probe) NewKey(ctx context.Context) (connectors.Key, error) {
	p.calls.Add(1)
	return p.Connector.NewKey(ctx)
}

func (p *probe) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	p.calls.Add(1)
	return p.Connector.Set(ctx, key, obj)
}

func (p *probe) PutBatch(ctx context.Context, objs []transport.Slices) ([]connectors.Key, error) {
	p.calls.Add(1)
	return p.Connector.PutBatch(ctx, objs)
}

func (p *probe) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	p.calls.Add(1)
	return p.Connector.GetBatch(ctx, keys)
}

func (p *probe) EvictBatch(ctx context.Context, keys []connectors.Key) error {
	p.calls.Add(1)
	return p.Connector.EvictBatch(ctx, keys)
}

func (p *probe) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	p.calls.Add(1)
	return p.Connector.GetRange(ctx, key, off, n)
}

func (p *probe) GetBytes(ctx context.Context, key connectors.Key) ([]byte, error) {
	p.calls.Add(1)
	return p.Connector.GetBytes(ctx, key)
}

func (p *probe) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	p.calls.Add(1)
	return p.Connector.PutStream(ctx, size)
}

func (p *probe) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	p.calls.Add(1)
	return p.Connector.GetStream(ctx, key)
}

func (p *probe) Map(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	p.calls.Add(1)
	return p.Connector.Map(ctx, key)
}

func (p *probe) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	p.calls.Add(1)
	return p.Connector.Stat(ctx, key)
}

func (p *probe) Wait(ctx context.Context, key connectors.Key) error {
	p.calls.Add(1)
	return p.Connector.Wait(ctx, key)
}

// PutTagged makes the probe a Tagger; the tags do not matter.
func (p *probe) PutTagged(ctx context.Context, obj transport.Slices, _ connectors.Tags) (connectors.Key, error) {
	p.calls.Add(1)
	return p.Connector.Put(ctx, obj)
}

func (p *probe) CloseClear(ctx context.Context, clear bool) error {
	p.calls.Add(1)
	return p.Connector.CloseClear(ctx, clear)
}
