package dim

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// local is the Client of a Store in this process. A get gives a reference to what is stored.
type local struct{ store objects.Store }

var _ objects.Client = local{}

// step is how much is copied between two looks at the context.
const step = 4 << 20

func (l local) Put(ctx context.Context, id string, obj transport.Slices, o objects.PutOptions) error {
	in, err := l.store.Create(id, obj.Len(), o)
	if err != nil {
		return err
	}
	defer in.Abort()
	for _, part := range obj {
		if err := fill(ctx, in, part); err != nil {
			return err
		}
	}
	return in.Commit()
}

// fill copies p into an object on its way in.
func fill(ctx context.Context, in objects.Incoming, p []byte) error {
	for len(p) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		mem, err := in.Next(min(len(p), step))
		if err != nil {
			return err
		}
		p = p[copy(mem, p):]
	}
	return ctx.Err()
}

func (l local) Get(ctx context.Context, id string, off, n, _ int64) (*transport.Buffer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := l.store.Get(id)
	if err != nil {
		return nil, err
	}
	// A view, also of the whole: who releases it too often harms nobody else. It holds a reference of its own.
	defer b.Release()
	if n, err = connectors.ClipRange(int64(b.Len()), off, n); err != nil {
		return nil, err
	}
	return b.Slice(int(off), int(n)), nil
}

func (l local) GetBytes(ctx context.Context, id string, _ int64) ([]byte, error) {
	b, err := l.Get(ctx, id, 0, -1, -1)
	if err != nil {
		return nil, err
	}
	return b.Detach(), nil
}

func (l local) Map(ctx context.Context, id string) (*transport.Buffer, error) {
	return l.Get(ctx, id, 0, -1, -1)
}

func (l local) Exists(ctx context.Context, id string) (bool, error) {
	return l.store.Exists(id), ctx.Err()
}

func (l local) Stat(ctx context.Context, id string) (objects.Info, error) {
	if err := ctx.Err(); err != nil {
		return objects.Info{}, err
	}
	return l.store.Stat(id)
}

func (l local) Evict(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.store.Evict(id)
	return nil
}

func (l local) Wait(ctx context.Context, id string) error { return l.store.Wait(ctx, id) }

func (l local) PutStream(ctx context.Context, id string, size int64, o objects.PutOptions) (objects.Writer, error) {
	in, err := l.store.Create(id, size, o)
	if err != nil {
		return nil, err
	}
	return &localWriter{ctx: ctx, in: in}, nil
}

func (l local) GetStream(ctx context.Context, id string, off int64) (objects.Reader, error) {
	b, err := l.Get(ctx, id, 0, -1, -1)
	if err != nil {
		return nil, err
	}
	r := transport.NewReader(b)
	if _, err := connectors.ClipRange(r.Size(), off, -1); err != nil {
		r.Close()
		return nil, err
	}
	_, err = r.Seek(off, io.SeekStart)
	return r, err
}

func (l local) Ping(ctx context.Context) error { return ctx.Err() }

// Close does nothing: the server's owner ends the Store.
func (l local) Close() error { return nil }

// localWriter writes into the Store's memory.
type localWriter struct {
	ctx  context.Context // the Writer's lifetime, as PutStream says
	in   objects.Incoming
	done bool
}

var errDone = fmt.Errorf("the Writer was committed or aborted: %w", connectors.ErrClosed)

func (w *localWriter) Write(p []byte) (int, error) {
	if w.done {
		return 0, errDone
	}
	if err := fill(w.ctx, w.in, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ReadFrom goes through other memory: what Next returns must be filled whole, and r may give less.
func (w *localWriter) ReadFrom(r io.Reader) (int64, error) { return copyPooled(w, r) }

func (w *localWriter) Commit() error {
	if w.done {
		return errDone
	}
	w.done = true
	if err := w.ctx.Err(); err != nil {
		w.in.Abort()
		return err
	}
	return w.in.Commit()
}

func (w *localWriter) Abort() error {
	if !w.done {
		w.done = true
		w.in.Abort()
	}
	return nil
}

// copyChunk is what goes through memory at once between a stream and another reader or writer. Reading and writing are calls of their own, so that a
// source or sink that blocks does not hold up the connector's Close.
const copyChunk = 1 << 20

// copyPooled copies from r to w, through pooled memory.
func copyPooled(w io.Writer, r io.Reader) (total int64, err error) {
	chunk := transport.DefaultPool.Get(copyChunk)
	defer chunk.Release()
	for {
		n, err := r.Read(chunk.Bytes())
		if n > 0 {
			m, werr := w.Write(chunk.Bytes()[:n])
			total += int64(m)
			if werr == nil && m < n {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				return total, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
