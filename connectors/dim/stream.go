package dim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/uuid4"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// stream is what Reader and Writer have in common: an operation that lives for many calls.
type stream struct {
	c      *Connector
	ctx    context.Context // the stream's lifetime, as GetStream and PutStream say
	life   context.Context // the same, until the connector's Close
	cancel context.CancelFunc
	op     string
	key    connectors.Key // nil for a Writer
	id     string
	at     peer
	cn     *conn // nil for a server within the process, and when it has none (any more)
	err    error // why it ended; it stays ended
}

func (c *Connector) newStream(ctx context.Context, op string, key connectors.Key, id string, at peer) stream {
	s := stream{c: c, ctx: ctx, op: op, key: key, id: id, at: at}
	s.life, s.cancel = c.bound(ctx)
	return s
}

// open has fn open the stream on a connection that it then holds, again on another one if that breaks.
func (s *stream) open(fn func(objects.Client) error) error {
	if l, ok := s.c.inside(s.at); ok {
		return fn(l)
	}
	for try := 1; ; try++ {
		cn, err := s.c.pool.get(s.life, s.at)
		if err != nil {
			return err
		}
		if err = fn(cn.client); err == nil {
			s.cn = cn
			return nil
		}
		s.c.pool.put(s.at, cn, err)
		if !broken(err) || try == maxTries || s.life.Err() != nil {
			return err
		}
	}
}

// drop gives the connection back after the last call on it ended with err.
func (s *stream) drop(err error) {
	if s.cn != nil {
		s.c.pool.put(s.at, s.cn, err)
		s.cn = nil
	}
}

// enter begins a call on the stream; without error the caller must call c.gate.Leave.
func (s *stream) enter() error {
	if err := s.c.enter(s.ctx, s.op, s.key); err != nil {
		return err
	}
	if s.err != nil {
		s.c.gate.Leave()
		return s.err
	}
	return nil
}

// explain makes err one for the caller.
func (s *stream) explain(err error) error {
	if err == nil {
		return nil
	}
	if e := s.c.ended(s.ctx, err); e != err {
		return s.c.wrap(s.op, s.key, e)
	}
	return s.c.wrap(s.op, s.key, s.c.explain(s.at, err))
}

// reader reads one object, over as many connections as it takes.
type reader struct {
	stream
	inner objects.Reader // nil at the end
	size  int64
	off   int64
	mod   time.Time // of what is read; zero if the server does not say
	stuck int       // connections that broke since the last byte
}

// GetStream implements [connectors.StreamGetter]. The object is that of the moment of the call, whatever is set or evicted later. Where the
// connection breaks reading goes on over another one, if the server still has the same object.
func (c *Connector) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	k, at, err := c.start(ctx, "get_stream", key)
	if err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	r := &reader{stream: c.newStream(ctx, "get_stream", key, k.ObjID, at)}
	err = r.open(func(cl objects.Client) (err error) {
		r.inner, err = cl.GetStream(r.life, r.id, 0)
		return err
	})
	if err != nil {
		r.cancel()
		return nil, r.explain(err)
	}
	r.size = r.inner.Size()
	r.mod = modTime(r.inner)
	return r, nil
}

// modTime returns when the object that r reads was stored, the zero time if r does not know.
func modTime(r objects.Reader) time.Time {
	if i, ok := r.(interface{ Info() objects.Info }); ok {
		return i.Info().ModTime
	}
	return time.Time{}
}

func (r *reader) Size() int64 { return r.size }

func (r *reader) Read(p []byte) (int, error) {
	if err := r.enter(); err != nil {
		return 0, err
	}
	defer r.c.gate.Leave()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if r.off == r.size {
			return 0, io.EOF
		}
		n, err := r.inner.Read(p[:min(int64(len(p)), r.size-r.off)])
		r.off += int64(n)
		if n > 0 {
			r.stuck = 0
			if r.off == r.size {
				r.finish(nil)
			} else if err != nil { // the next Read meets it again, or finds it mended
				if err = r.resume(err); err != nil {
					return n, err
				}
			}
			return n, nil
		}
		if err != nil {
			if err = r.resume(err); err != nil {
				return 0, err
			}
		}
	}
}

// resume goes on after err on another connection. It returns nil if it can.
func (r *reader) resume(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	r.inner.Close()
	r.drop(err)
	r.inner = nil
	if r.stuck++; broken(err) && r.stuck <= maxTries && !r.mod.IsZero() && r.life.Err() == nil {
		err = r.open(func(cl objects.Client) (err error) {
			r.inner, err = cl.GetStream(r.life, r.id, r.off)
			return err
		})
		switch {
		case err == nil && r.inner.Size() == r.size && modTime(r.inner).Equal(r.mod):
			return nil
		case err == nil, errors.Is(err, connectors.ErrNotFound), errors.Is(err, connectors.ErrInvalidRange):
			err = fmt.Errorf("%w: the connection broke, and meanwhile the object was replaced or evicted; read it again", connectors.ErrUnavailable)
		}
	}
	err = r.explain(err)
	r.finish(err)
	return err
}

// finish ends the stream but for the answer that all further calls get: err, or the end of the object.
func (r *reader) finish(err error) {
	if r.inner != nil {
		r.inner.Close()
		r.inner = nil
	}
	r.drop(err)
	r.cancel()
	r.err = err
}

func (r *reader) WriteTo(w io.Writer) (int64, error) { return copyPooled(w, r) }

func (r *reader) Close() error {
	if !errors.Is(r.err, errReaderClosed) {
		r.finish(r.c.wrap(r.op, r.key, errReaderClosed))
	}
	return nil
}

var errReaderClosed = fmt.Errorf("read after the Reader's Close: %w", connectors.ErrClosed)

// writer writes one object.
type writer struct {
	stream
	inner     objects.Writer
	over      sync.Once // inner is committed or aborted: by its owner, or by the connector's Close at the same time
	size, got int64
}

// abort drops what was written.
func (w *writer) abort() { w.over.Do(func() { w.inner.Abort() }) }

// PutStream implements [connectors.StreamPutter]. A Writer whose connection breaks fails: what was written is gone with it.
func (c *Connector) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	if err := c.enter(ctx, "put_stream", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	at, err := c.home(ctx)
	if err != nil {
		return nil, c.wrap("put_stream", nil, err)
	}
	size = max(size, -1)
	w := &writer{stream: c.newStream(ctx, "put_stream", nil, uuid4.New(), at), size: size}
	err = w.open(func(cl objects.Client) (err error) {
		w.inner, err = cl.PutStream(w.life, w.id, size, c.puts)
		return err
	})
	if err != nil {
		w.cancel()
		return nil, w.explain(err)
	}
	c.mu.Lock()
	c.writers[w] = struct{}{}
	c.mu.Unlock()
	return w, nil
}

func (w *writer) Write(p []byte) (int, error) {
	if err := w.enter(); err != nil {
		return 0, err
	}
	defer w.c.gate.Leave()
	if w.size >= 0 && w.got+int64(len(p)) > w.size {
		return 0, w.fail(connectors.CheckSize(w.size, w.got+int64(len(p))))
	}
	n, err := w.inner.Write(p)
	w.got += int64(n)
	if err != nil {
		return n, w.fail(err)
	}
	return n, nil
}

func (w *writer) ReadFrom(r io.Reader) (int64, error) { return copyPooled(w, r) }

// fail makes err the Writer's end, and drops what was written.
func (w *writer) fail(err error) error {
	used := err
	err = w.explain(err)
	w.abort()
	w.finish(used, err)
	return err
}

// finish ends the Writer. used is what its last call ended with, err what further ones get.
func (w *writer) finish(used, err error) {
	w.c.mu.Lock()
	delete(w.c.writers, w)
	w.c.mu.Unlock()
	w.drop(used)
	w.cancel()
	w.err = err
}

func (w *writer) Commit() (connectors.Key, error) {
	if err := w.enter(); err != nil {
		w.Abort()
		return nil, err
	}
	defer w.c.gate.Leave()
	if err := connectors.CheckSize(w.size, w.got); err != nil {
		return nil, w.fail(err)
	}
	if err := w.inner.Commit(); err != nil {
		err = w.fail(err)
		w.c.takeBack(w.ctx, w.at, err, w.id)
		return nil, err
	}
	w.over.Do(func() {})
	w.finish(nil, w.c.wrap(w.op, nil, errDone))
	return newKey(w.at, w.id, w.got), nil
}

func (w *writer) Abort() error {
	if w.err == nil {
		w.abort()
		w.finish(nil, w.c.wrap(w.op, nil, errDone))
	}
	return nil
}
