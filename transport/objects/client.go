package objects

import (
	"context"
	"io"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// MaxID is the longest id of an object, in bytes.
const MaxID = 1024

// Info is what is known of an object without reading it.
type Info struct {
	Size    int64     // bytes
	ModTime time.Time // when it was put; zero if unknown
}

// PutOptions of one object.
type PutOptions struct {
	TTL time.Duration // how long the object lives; 0 is the server's default, which may be for ever
}

// A Client reaches the objects of one server. All methods may be called by many goroutines at once. Errors match the sentinels of package
// transport: [transport.ErrNotFound], ErrFull, ErrTooLarge (the object alone exceeds a limit), ErrInvalidRange, ErrDenied (token, certificate),
// ErrUnavailable (the server is out of reach, draining, or the connection broke: the call may be repeated), ErrCorrupt, ErrClosed; context errors
// pass as they are. A method that the server's protocol cannot serve returns errors.ErrUnsupported, and the caller falls back.
type Client interface {
	// Put stores the object, replacing an earlier one of that id. It borrows obj until it returns. When it has returned without error the
	// server holds the object.
	Put(ctx context.Context, id string, obj transport.Slices, o PutOptions) error

	// Get returns n bytes from off, or all from off if n < 0 (fewer if the object ends before; a negative off or one past the end is
	// ErrInvalidRange). size is the length that the caller expects the whole object to have, or -1: it lets memory be ready before the answer
	// comes, and is never trusted. The caller owns the Buffer.
	Get(ctx context.Context, id string, off, n, size int64) (*transport.Buffer, error)

	// GetBytes is Get of a whole object into memory that the garbage collector owns.
	GetBytes(ctx context.Context, id string, size int64) ([]byte, error)

	// Map is Get of a whole object that copies nothing: a mapping of the server's own memory, on the same host. errors.ErrUnsupported otherwise.
	Map(ctx context.Context, id string) (*transport.Buffer, error)

	Exists(ctx context.Context, id string) (bool, error)
	Stat(ctx context.Context, id string) (Info, error)
	// Evict deletes the object. A missing one is not an error.
	Evict(ctx context.Context, id string) error
	// Wait returns nil as soon as the object exists.
	Wait(ctx context.Context, id string) error

	// PutStream starts an object that is written piece by piece; size is negative if unknown. ctx lives as long as the Writer.
	PutStream(ctx context.Context, id string, size int64, o PutOptions) (Writer, error)
	// GetStream opens an object for reading from off, in bounded memory. ctx lives as long as the Reader.
	GetStream(ctx context.Context, id string, off int64) (Reader, error)

	// Ping does one round trip.
	Ping(ctx context.Context) error
	// Close ends the connection. Calls in flight fail with ErrClosed. Idempotent.
	Close() error
}

// A Writer takes one object piece by piece; it belongs to one goroutine at a time. Neither committed nor aborted, it never becomes visible.
type Writer interface {
	io.Writer
	io.ReaderFrom
	// Commit publishes the object. It fails if a size was announced and another number of bytes written.
	Commit() error
	// Abort drops it. After Commit it does nothing.
	Abort() error
}

// A Reader gives one object piece by piece, in order; it belongs to one goroutine at a time.
type Reader interface {
	io.Reader
	io.WriterTo
	io.Closer
	// Size returns the object's whole length in bytes, also if reading began later.
	Size() int64
}
