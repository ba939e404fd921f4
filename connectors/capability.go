package connectors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// As returns the first connector in c's chain of decorators that is a T.
func As[T any](c Connector) (T, bool) {
	for c != nil {
		if t, ok := c.(T); ok {
			return t, true
		}
		u, ok := c.(interface{ Unwrap() Connector })
		if !ok {
			break
		}
		c = u.Unwrap()
	}
	var none T
	return none, false
}

// unsupported is true for the answer of a decorator whose inner connector lacks the capability.
func unsupported(err error) bool { return errors.Is(err, errors.ErrUnsupported) }

// lacks is the error where a capability cannot be replaced by the six methods.
func lacks(c Connector, what string) error {
	return fmt.Errorf("connector %s has no %s: %w", c.Config().Kind, what, errors.ErrUnsupported)
}

// NewKey makes a key before its object. It fails with errors.ErrUnsupported if c cannot.
func NewKey(ctx context.Context, c Connector) (Key, error) {
	if d, ok := As[Deferrer](c); ok {
		return d.NewKey(ctx)
	}
	return nil, lacks(c, "deferred keys")
}

// Set stores the object of a key. It borrows obj. It fails with errors.ErrUnsupported if c cannot.
func Set(ctx context.Context, c Connector, key Key, obj transport.Slices) error {
	if d, ok := As[Deferrer](c); ok {
		return d.Set(ctx, key, obj)
	}
	return lacks(c, "deferred keys")
}

// PutTagged stores an object where the tags say. Without tags it is Put; with tags on a connector without policies it fails.
func PutTagged(ctx context.Context, c Connector, obj transport.Slices, tags Tags) (Key, error) {
	if tags.Subset == nil && tags.Superset == nil {
		return c.Put(ctx, obj)
	}
	if t, ok := As[Tagger](c); ok {
		return t.PutTagged(ctx, obj, tags)
	}
	return nil, lacks(c, "tags (only a multi connector has)")
}

// PutBatch stores objects in order, all or none as far as c can take them back. It borrows objs.
func PutBatch(ctx context.Context, c Connector, objs []transport.Slices) ([]Key, error) {
	if b, ok := As[BatchPutter](c); ok {
		if keys, err := b.PutBatch(ctx, objs); !unsupported(err) {
			return keys, err
		}
	}
	keys := make([]Key, 0, len(objs))
	for _, obj := range objs {
		k, err := c.Put(ctx, obj)
		if err != nil {
			// The batch fails because of err; what is already stored must not stay behind even if ctx is what ended it.
			return nil, errors.Join(err, EvictBatch(context.WithoutCancel(ctx), c, keys))
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// GetBatch fetches objects in order; a missing one is nil. The caller owns the Buffers.
func GetBatch(ctx context.Context, c Connector, keys []Key) ([]*transport.Buffer, error) {
	if b, ok := As[BatchGetter](c); ok {
		if bufs, err := b.GetBatch(ctx, keys); !unsupported(err) {
			return bufs, err
		}
	}
	bufs := make([]*transport.Buffer, len(keys))
	for i, k := range keys {
		b, err := c.Get(ctx, k)
		if err != nil && !errors.Is(err, ErrNotFound) {
			for _, b := range bufs {
				b.Release()
			}
			return nil, err
		}
		bufs[i] = b
	}
	return bufs, nil
}

// EvictBatch deletes objects. It tries them all and returns the errors joined.
func EvictBatch(ctx context.Context, c Connector, keys []Key) error {
	if len(keys) == 0 {
		return nil
	}
	if b, ok := As[BatchEvicter](c); ok {
		if err := b.EvictBatch(ctx, keys); !unsupported(err) {
			return err
		}
	}
	var errs []error
	for _, k := range keys {
		errs = append(errs, c.Evict(ctx, k))
	}
	return errors.Join(errs...)
}

// ClipRange returns the length of the part that a range of n bytes from off has of an object of size bytes, by the rules of
// [RangeGetter.GetRange].
func ClipRange(size, off, n int64) (int64, error) {
	if off < 0 || off > size {
		return 0, fmt.Errorf("%w: offset %d of an object of %d bytes", ErrInvalidRange, off, size)
	}
	if rest := size - off; n < 0 || n > rest {
		n = rest
	}
	return n, nil
}

// GetRange fetches part of an object, as [RangeGetter.GetRange] does. The fallback fetches it whole and returns a view.
func GetRange(ctx context.Context, c Connector, key Key, off, n int64) (*transport.Buffer, error) {
	if r, ok := As[RangeGetter](c); ok {
		if b, err := r.GetRange(ctx, key, off, n); !unsupported(err) {
			return b, err
		}
	}
	b, err := c.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer b.Release() // the view holds its own reference
	n, err = ClipRange(int64(b.Len()), off, n)
	if err != nil {
		return nil, WrapError("get", key.Kind(), key, err)
	}
	return b.Slice(int(off), int(n)), nil
}

// GetBytes fetches an object into memory that the garbage collector owns. The bytes are read-only: they may be the stored ones.
func GetBytes(ctx context.Context, c Connector, key Key) ([]byte, error) {
	if g, ok := As[BytesGetter](c); ok {
		if b, err := g.GetBytes(ctx, key); !unsupported(err) {
			return b, err
		}
	}
	b, err := c.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return b.Detach(), nil
}

// Map is Get that never copies, where c can do so, and otherwise plain Get.
func Map(ctx context.Context, c Connector, key Key) (*transport.Buffer, error) {
	if m, ok := As[Mapper](c); ok {
		if b, err := m.Map(ctx, key); !unsupported(err) {
			return b, err
		}
	}
	return c.Get(ctx, key)
}

// Stat tells an object's size without fetching it, where c can; the fallback fetches it.
func Stat(ctx context.Context, c Connector, key Key) (Info, error) {
	if s, ok := As[Stater](c); ok {
		if i, err := s.Stat(ctx, key); !unsupported(err) {
			return i, err
		}
	}
	b, err := c.Get(ctx, key)
	if err != nil {
		return Info{}, err
	}
	defer b.Release()
	return Info{Size: int64(b.Len())}, nil
}

// GetStream opens an object for reading in bounded memory. The fallback holds it whole.
func GetStream(ctx context.Context, c Connector, key Key) (Reader, error) {
	if s, ok := As[StreamGetter](c); ok {
		if r, err := s.GetStream(ctx, key); !unsupported(err) {
			return r, err
		}
	}
	b, err := c.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return transport.NewReader(b), nil
}

// PutStream starts an object that is written piece by piece in bounded memory; size is negative if unknown. The fallback collects it in memory
// and puts it at Commit.
func PutStream(ctx context.Context, c Connector, size int64) (Writer, error) {
	if s, ok := As[StreamPutter](c); ok {
		if w, err := s.PutStream(ctx, size); !unsupported(err) {
			return w, err
		}
	}
	return &collectWriter{ctx: ctx, c: c, size: size}, nil
}

// collectWriter is the fallback of PutStream. Its parts grow, so that no byte is copied twice.
type collectWriter struct {
	ctx   context.Context // the Writer's lifetime, as PutStream says
	c     Connector
	size  int64
	parts transport.Slices
	done  bool
}

// collectPart is the least that one part holds.
const collectPart = 256 << 10

func (w *collectWriter) Write(p []byte) (int, error) {
	if w.done {
		return 0, fmt.Errorf("write after Commit or Abort: %w", ErrClosed)
	}
	n := len(p)
	for len(p) > 0 {
		last := w.room()
		k := min(len(p), cap(*last)-len(*last))
		*last = append(*last, p[:k]...)
		p = p[k:]
	}
	return n, nil
}

func (w *collectWriter) ReadFrom(r io.Reader) (int64, error) {
	if w.done {
		return 0, fmt.Errorf("write after Commit or Abort: %w", ErrClosed)
	}
	var total int64
	for {
		last := w.room()
		n, err := r.Read((*last)[len(*last):cap(*last)])
		*last = (*last)[:len(*last)+n]
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// room returns the last part, with space in it.
func (w *collectWriter) room() *[]byte {
	if n := len(w.parts); n == 0 || len(w.parts[n-1]) == cap(w.parts[n-1]) {
		grow := max(collectPart, int(min(w.parts.Len(), 64<<20)))
		w.parts = append(w.parts, make([]byte, 0, grow))
	}
	return &w.parts[len(w.parts)-1]
}

func (w *collectWriter) Commit() (Key, error) {
	if w.done {
		return nil, fmt.Errorf("second Commit, or Commit after Abort: %w", ErrClosed)
	}
	w.done = true
	if err := CheckSize(w.size, w.parts.Len()); err != nil {
		return nil, err
	}
	return w.c.Put(w.ctx, w.parts)
}

func (w *collectWriter) Abort() error {
	w.done, w.parts = true, nil
	return nil
}

// CheckSize compares what a Writer was told at PutStream with what it got. A negative announced size fits everything.
func CheckSize(announced, got int64) error {
	if announced >= 0 && announced != got {
		return fmt.Errorf("%w: %d bytes written of %d announced", ErrCorrupt, got, announced)
	}
	return nil
}

// Polling is how to wait for an object where the connector knows no event: ProxyStore's four polling options.
type Polling struct {
	Interval time.Duration // first pause; default 1 s, as in ProxyStore
	Backoff  float64       // factor from pause to pause; default 1
	Limit    time.Duration // longest pause; 0: no limit
	Timeout  time.Duration // give up after this long; 0: never
}

// minPause keeps a polling interval that came in a proxy from becoming a busy loop; maxPause bounds the pauses of a steep backoff without a limit.
const minPause = time.Millisecond

const maxPause time.Duration = 1 << 62

// Wait returns as soon as the object exists: by event if c is a [Waiter], else by polling. It ends with ctx, and with [ErrNotFound] after
// p.Timeout.
func Wait(ctx context.Context, c Connector, key Key, p Polling) error {
	if p.Timeout <= 0 {
		return wait(ctx, c, key, p)
	}
	deadline := time.Now().Add(p.Timeout)
	bounded, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	err := wait(bounded, c, key, p)
	// Our own timeout is told apart from the caller's by the clock, since a connection that was given the deadline may notice it before the
	// context's timer has fired.
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && !time.Now().Before(deadline) {
		return fmt.Errorf("%w: waited %v for %s to be set", ErrNotFound, p.Timeout, FormatKey(key))
	}
	return err
}

func wait(ctx context.Context, c Connector, key Key, p Polling) error {
	if w, ok := As[Waiter](c); ok {
		if err := w.Wait(ctx, key); !unsupported(err) {
			return err
		}
	}
	pause := p.Interval
	if pause <= 0 {
		pause = time.Second
	}
	pause = max(pause, minPause)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if ok, err := c.Exists(ctx, key); ok || err != nil {
			return err
		}
		timer.Reset(pause)
		if p.Backoff > 0 {
			pause = time.Duration(min(float64(pause)*p.Backoff, float64(maxPause))) // before it overflows
		}
		if p.Limit > 0 {
			pause = min(pause, p.Limit)
		}
		pause = max(pause, minPause)
	}
}

// CloseClear closes c, overriding its configured clear. A connector that never deletes on Close is just closed, unless clear is true, which
// then is errors.ErrUnsupported.
func CloseClear(ctx context.Context, c Connector, clear bool) error {
	if cc, ok := As[ClearCloser](c); ok {
		if err := cc.CloseClear(ctx, clear); !unsupported(err) {
			return err
		}
	}
	if clear {
		return lacks(c, "clear on close")
	}
	return c.Close(ctx)
}
