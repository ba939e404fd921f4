// Package retry repeats calls that failed because the other side was out of reach or busy ([connectors.Retryable]), where repeating is safe.
//
// # What is repeated
//
//   - Get, Exists, Evict, Stat, Map, ranges, batches of these, Wait: they may run any number of times.
//   - Set: the same object under the same key. NewKey: it stores nothing.
//   - GetStream and PutStream until they are open. What fails later is the caller's to repeat, who alone knows what has been written or read.
//   - Put, PutTagged and PutBatch only if the failure proves that nothing was stored, because the connection was never made. Every Put makes a new
//     key: one that failed half-way may have stored an object that nobody has the key of, and each repetition may add one.
//     [Policy].RepeatPut accepts that.
//
// Close is never repeated. Neither is anything after the caller's context has ended.
package retry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// Policy says how often and how fast to repeat. The zero Policy is a good one.
type Policy struct {
	Attempts  int           // calls in all, the first included; default 4
	Base      time.Duration // first pause; default 50 ms. Each next one is twice as long
	Max       time.Duration // longest pause; default 2 s
	Jitter    float64       // part of each pause that is random, up to 1; default 0.5; negative: none
	RepeatPut bool          // repeat Put, PutTagged and PutBatch on every retryable error
}

// connector implements every capability and has no Unwrap: nothing reaches around it.
type connector struct {
	inner connectors.Connector
	p     Policy
}

// Wrap returns a connector that repeats what fails on inner. It takes inner: closing the result closes it. Capabilities are those of inner; the
// others answer errors.ErrUnsupported.
func Wrap(inner connectors.Connector, p Policy) connectors.Connector {
	if p.Attempts <= 0 {
		p.Attempts = 4
	}
	if p.Base <= 0 {
		p.Base = 50 * time.Millisecond
	}
	if p.Max <= 0 {
		p.Max = 2 * time.Second
	}
	if p.Jitter == 0 {
		p.Jitter = 0.5
	}
	p.Jitter = min(max(p.Jitter, 0), 1)
	return &connector{inner, p}
}

// pause returns how long to wait after the nth failure, n from 1.
func (p Policy) pause(n int) time.Duration {
	d := p.Max
	if n < 32 && p.Base < p.Max>>(n-1) { // no shift overflows
		d = p.Base << (n - 1)
	}
	return d - time.Duration(p.Jitter*rand.Float64()*float64(d))
}

// unstored reports whether the error proves that the other side got nothing: there was no connection.
func unstored(err error) bool {
	var oe *net.OpError
	return errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &oe) && oe.Op == "dial"
}

// put is the condition for repeating a call that makes a new object.
func (c *connector) put(err error) bool {
	return connectors.Retryable(err) && (c.p.RepeatPut || unstored(err))
}

// do calls f until it succeeds, fails for good, or has been called often enough.
func do[T any](ctx context.Context, p Policy, again func(error) bool, f func() (T, error)) (T, error) {
	for n := 1; ; n++ {
		t, err := f()
		if err == nil || !again(err) {
			return t, err
		}
		var none T
		if n >= p.Attempts {
			if n > 1 {
				err = fmt.Errorf("after %d attempts: %w", n, err)
			}
			return none, err
		}
		timer := time.NewTimer(p.pause(n))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return none, fmt.Errorf("%w, waiting to try again after %d attempts: %w", ctx.Err(), n, err)
		}
	}
}

// try is do for the capability C of the inner connector.
func try[C, T any](ctx context.Context, c *connector, again func(error) bool, f func(C) (T, error)) (T, error) {
	capable, ok := connectors.As[C](c.inner)
	if !ok {
		var none T
		return none, errors.ErrUnsupported
	}
	return do(ctx, c.p, again, func() (T, error) { return f(capable) })
}

// nothing is the result of a call that returns only an error.
type nothing = struct{}

// Put implements connectors.Connector. See the package comment for when it is repeated.
func (c *connector) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	return do(ctx, c.p, c.put, func() (connectors.Key, error) { return c.inner.Put(ctx, obj) })
}

// Get implements connectors.Connector.
func (c *connector) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	return do(ctx, c.p, connectors.Retryable, func() (*transport.Buffer, error) { return c.inner.Get(ctx, key) })
}

// Exists implements connectors.Connector.
func (c *connector) Exists(ctx context.Context, key connectors.Key) (bool, error) {
	return do(ctx, c.p, connectors.Retryable, func() (bool, error) { return c.inner.Exists(ctx, key) })
}

// Evict implements connectors.Connector.
func (c *connector) Evict(ctx context.Context, key connectors.Key) error {
	_, err := do(ctx, c.p, connectors.Retryable, func() (nothing, error) { return nothing{}, c.inner.Evict(ctx, key) })
	return err
}

// Config implements connectors.Connector. It is the inner one's: repeating is a matter of this process.
func (c *connector) Config() connectors.Config { return c.inner.Config() }

// Close implements connectors.Connector. Calls that wait to be repeated then fail with [connectors.ErrClosed].
func (c *connector) Close(ctx context.Context) error { return c.inner.Close(ctx) }

// CloseClear implements connectors.ClearCloser.
func (c *connector) CloseClear(ctx context.Context, clear bool) error {
	if cc, ok := connectors.As[connectors.ClearCloser](c.inner); ok {
		return cc.CloseClear(ctx, clear)
	}
	return errors.ErrUnsupported
}

// NewKey implements connectors.Deferrer.
func (c *connector) NewKey(ctx context.Context) (connectors.Key, error) {
	return try(ctx, c, connectors.Retryable, func(d connectors.Deferrer) (connectors.Key, error) { return d.NewKey(ctx) })
}

// Set implements connectors.Deferrer.
func (c *connector) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	_, err := try(ctx, c, connectors.Retryable, func(d connectors.Deferrer) (nothing, error) { return nothing{}, d.Set(ctx, key, obj) })
	return err
}

// PutTagged implements connectors.Tagger.
func (c *connector) PutTagged(ctx context.Context, obj transport.Slices, tags connectors.Tags) (connectors.Key, error) {
	return try(ctx, c, c.put, func(t connectors.Tagger) (connectors.Key, error) { return t.PutTagged(ctx, obj, tags) })
}

// PutBatch implements connectors.BatchPutter.
func (c *connector) PutBatch(ctx context.Context, objs []transport.Slices) ([]connectors.Key, error) {
	return try(ctx, c, c.put, func(b connectors.BatchPutter) ([]connectors.Key, error) { return b.PutBatch(ctx, objs) })
}

// GetBatch implements connectors.BatchGetter.
func (c *connector) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	return try(ctx, c, connectors.Retryable, func(b connectors.BatchGetter) ([]*transport.Buffer, error) { return b.GetBatch(ctx, keys) })
}

// EvictBatch implements connectors.BatchEvicter.
func (c *connector) EvictBatch(ctx context.Context, keys []connectors.Key) error {
	_, err := try(ctx, c, connectors.Retryable, func(b connectors.BatchEvicter) (nothing, error) { return nothing{}, b.EvictBatch(ctx, keys) })
	return err
}

// GetRange implements connectors.RangeGetter.
func (c *connector) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	return try(ctx, c, connectors.Retryable, func(r connectors.RangeGetter) (*transport.Buffer, error) { return r.GetRange(ctx, key, off, n) })
}

// GetBytes implements connectors.BytesGetter.
func (c *connector) GetBytes(ctx context.Context, key connectors.Key) ([]byte, error) {
	return try(ctx, c, connectors.Retryable, func(g connectors.BytesGetter) ([]byte, error) { return g.GetBytes(ctx, key) })
}

// PutStream implements connectors.StreamPutter.
func (c *connector) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	return try(ctx, c, connectors.Retryable, func(s connectors.StreamPutter) (connectors.Writer, error) { return s.PutStream(ctx, size) })
}

// GetStream implements connectors.StreamGetter.
func (c *connector) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	return try(ctx, c, connectors.Retryable, func(s connectors.StreamGetter) (connectors.Reader, error) { return s.GetStream(ctx, key) })
}

// Map implements connectors.Mapper.
func (c *connector) Map(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	return try(ctx, c, connectors.Retryable, func(m connectors.Mapper) (*transport.Buffer, error) { return m.Map(ctx, key) })
}

// Stat implements connectors.Stater.
func (c *connector) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	return try(ctx, c, connectors.Retryable, func(s connectors.Stater) (connectors.Info, error) { return s.Stat(ctx, key) })
}

// Wait implements connectors.Waiter.
func (c *connector) Wait(ctx context.Context, key connectors.Key) error {
	_, err := try(ctx, c, connectors.Retryable, func(w connectors.Waiter) (nothing, error) { return nothing{}, w.Wait(ctx, key) })
	return err
}
