package native

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// Reopen opens an object for reading from off, over a new connection if the last one broke.
type Reopen func(ctx context.Context, off int64) (objects.Reader, error)

// ResumeOptions of a resuming reader.
type ResumeOptions struct {
	// Attempts is how many openings in a row may fail, or give not a byte, before the reader gives up. Default 4. Pauses between them are Reopen's.
	Attempts int
}

// resumer is a Reader over one Reader after the other.
type resumer struct {
	ctx   context.Context //nolint:containedctx // documented: it lives as long as the Reader
	open  Reopen
	o     ResumeOptions
	r     objects.Reader // nil after a fault
	info  objects.Info
	start int64
	off   int64
	tries int // openings since the last byte
	err   error
}

// NewResumer opens an object from off and returns a Reader that goes on by range when the connection breaks (any error that matches
// transport.ErrUnavailable), as long as the object is the same: if its size or, where Readers have an Info method as [Reader] does, its time has
// changed, reading ends with ErrCorrupt; if the server knows no time, a reader that has begun does not go on. ctx lives as long as the Reader.
func NewResumer(ctx context.Context, off int64, open Reopen, o ResumeOptions) (objects.Reader, error) {
	o.Attempts = defaulted(o.Attempts, 4)
	r := &resumer{ctx: ctx, open: open, o: o, start: off, off: off}
	r.info.Size = -1
	if err := r.ready(); err != nil {
		return nil, err
	}
	return r, nil
}

// infoOf returns what is known of the object, and whether that should tell its version.
func infoOf(r objects.Reader) (info objects.Info, versions bool) {
	if v, ok := r.(interface{ Info() objects.Info }); ok {
		return v.Info(), true
	}
	return objects.Info{Size: r.Size()}, false
}

// ready makes sure that there is a Reader at off.
func (r *resumer) ready() error {
	for r.r == nil && r.err == nil {
		if r.tries++; r.tries > r.o.Attempts {
			return fmt.Errorf("%w: stopped at byte %d after %d attempts", transport.ErrUnavailable, r.off, r.o.Attempts)
		}
		in, err := r.open(r.ctx, r.off)
		if err != nil {
			if r.retry(err) {
				continue
			}
			return r.err
		}
		info, versions := infoOf(in)
		if r.info.Size >= 0 && info == r.info && versions && info.ModTime.IsZero() && r.off > r.start {
			in.Close()
			r.err = fmt.Errorf("%w: stopped at byte %d; the server cannot tell whether what it has is still the same object", transport.ErrUnavailable, r.off)
			return r.err
		}
		if r.info.Size >= 0 && info != r.info {
			in.Close()
			r.err = fmt.Errorf("%w: the object was replaced while it was read, at byte %d", transport.ErrCorrupt, r.off)
			return r.err
		}
		r.r, r.info = in, info
	}
	return r.err
}

// retry decides whether to open again after err, which is final otherwise.
func (r *resumer) retry(err error) bool {
	if r.r != nil {
		r.r.Close()
		r.r = nil
	}
	if r.ctx.Err() == nil && errors.Is(err, transport.ErrUnavailable) && r.tries < r.o.Attempts {
		return true
	}
	r.err = err
	return false
}

func (r *resumer) took(n int64) {
	r.off += n
	if n > 0 {
		r.tries = 0
	}
}

func (r *resumer) Read(p []byte) (int, error) {
	for {
		if err := r.ready(); err != nil {
			return 0, err
		}
		n, err := r.r.Read(p)
		r.took(int64(n))
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		again := r.retry(err)
		if n > 0 {
			return n, nil
		}
		if !again {
			return 0, r.err
		}
	}
}

// errWriter tells a fault of the destination from one of the source.
type errWriter struct {
	w   io.Writer
	err error
}

func (w *errWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.err = err
	return n, err
}

func (r *resumer) WriteTo(w io.Writer) (int64, error) {
	var total int64
	to := &errWriter{w: w}
	for {
		if err := r.ready(); err != nil {
			return total, err
		}
		n, err := r.r.WriteTo(to)
		total += n
		r.took(n)
		if err == nil || to.err != nil {
			return total, err
		}
		if !r.retry(err) {
			return total, r.err
		}
	}
}

// Size returns the object's whole length in bytes.
func (r *resumer) Size() int64 { return r.info.Size }

// Info returns what the server knows of the version that is read.
func (r *resumer) Info() objects.Info { return r.info }

func (r *resumer) Close() error {
	if errors.Is(r.err, transport.ErrClosed) {
		return nil
	}
	r.err = fmt.Errorf("%w: this reader", transport.ErrClosed)
	if r.r == nil {
		return nil
	}
	err := r.r.Close()
	r.r = nil
	return err
}
