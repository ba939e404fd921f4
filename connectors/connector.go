package connectors

import (
	"context"
	"io"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// A Connector moves opaque bytes to and from one kind of storage. All methods may be called from many goroutines at once. A method that is
// given a key of another kind returns an error that is [ErrInvalidKey]; after Close every method but Config and Close returns [ErrClosed].
// Errors carry an [*OpError] and match the sentinels of this package by errors.Is; context errors and io.EOF pass as they are.
type Connector interface {
	// Put stores a new object under a new key. It borrows obj until it returns. When it has returned without error the object survives the
	// death of this process, for connectors that outlive it at all.
	Put(ctx context.Context, obj transport.Slices) (Key, error)

	// Get returns the object. The caller owns the Buffer and must Release it; its bytes are read-only. A missing object is [ErrNotFound].
	Get(ctx context.Context, key Key) (*transport.Buffer, error)

	// Exists reports whether Get would find the object now.
	Exists(ctx context.Context, key Key) (bool, error)

	// Evict deletes the object. A missing object is not an error, as in ProxyStore.
	Evict(ctx context.Context, key Key) error

	// Config returns enough to open an equal Connector, here or from Python. The caller owns the result. It works after Close too.
	Config() Config

	// Close releases what the connector holds and, where its configuration says so, the stored objects (each driver's "# Close" says which).
	// It waits for calls in flight. A second Close does nothing and returns nil.
	Close(ctx context.Context) error
}

// Deferrer makes a key before its object exists: ProxyStore's new_key and set, which futures and updates stand on.
type Deferrer interface {
	// NewKey returns a fresh key without an object.
	NewKey(ctx context.Context) (Key, error)
	// Set stores the object of a key, replacing an earlier one as a whole: no reader ever sees a mixture. It borrows obj.
	Set(ctx context.Context, key Key, obj transport.Slices) error
}

// BatchPutter stores many objects at once.
type BatchPutter interface {
	// PutBatch returns one key per object, in order. It borrows objs. On error nothing of the batch stays behind that the connector can remove.
	PutBatch(ctx context.Context, objs []transport.Slices) ([]Key, error)
}

// BatchGetter fetches many objects at once.
type BatchGetter interface {
	// GetBatch returns one Buffer per key, in order, nil where there is no object. The caller owns them all. On error there are none.
	GetBatch(ctx context.Context, keys []Key) ([]*transport.Buffer, error)
}

// BatchEvicter deletes many objects at once.
type BatchEvicter interface {
	// EvictBatch deletes the objects; missing ones are not an error.
	EvictBatch(ctx context.Context, keys []Key) error
}

// RangeGetter fetches part of an object.
type RangeGetter interface {
	// GetRange returns the n bytes from off, fewer if the object ends before, all to the end if n < 0. A negative off or one past the end is
	// [ErrInvalidRange]; off at the end gives an empty Buffer. The caller owns the Buffer.
	GetRange(ctx context.Context, key Key, off, n int64) (*transport.Buffer, error)
}

// BytesGetter fetches an object into ordinary Go memory where that is cheaper than Get and a copy.
type BytesGetter interface {
	// GetBytes returns the object in memory that the garbage collector owns. The bytes are read-only, as with Get.
	GetBytes(ctx context.Context, key Key) ([]byte, error)
}

// StreamPutter stores an object of huge or unknown size in bounded memory.
type StreamPutter interface {
	// PutStream starts an object. size is its length if known, else negative. ctx lives as long as the Writer.
	PutStream(ctx context.Context, size int64) (Writer, error)
}

// StreamGetter fetches an object in bounded memory.
type StreamGetter interface {
	// GetStream opens an object for reading. ctx lives as long as the Reader. A missing object is [ErrNotFound] here, not at the first Read.
	GetStream(ctx context.Context, key Key) (Reader, error)
}

// Mapper gives memory that is the storage itself.
type Mapper interface {
	// Map is Get that never copies: the Buffer stands on a file mapping, registered memory or the stored bytes. It returns
	// errors.ErrUnsupported for an object it cannot map.
	Map(ctx context.Context, key Key) (*transport.Buffer, error)
}

// Stater tells about an object without fetching it.
type Stater interface {
	// Stat returns the object's Info, or [ErrNotFound].
	Stat(ctx context.Context, key Key) (Info, error)
}

// Waiter blocks until an object appears, by event and not by polling.
type Waiter interface {
	// Wait returns nil as soon as the object exists, at once if it does already. It ends with ctx or with Close ([ErrClosed]).
	Wait(ctx context.Context, key Key) error
}

// Tagger chooses where an object goes by tags: the multi connector's subset_tags and superset_tags.
type Tagger interface {
	// PutTagged is Put with tags. A connector without policies does not implement it.
	PutTagged(ctx context.Context, obj transport.Slices, tags Tags) (Key, error)
}

// ClearCloser is Close with ProxyStore's clear argument, which overrides the configured one.
type ClearCloser interface {
	// CloseClear is Close, deleting stored objects if clear is true and keeping them otherwise.
	CloseClear(ctx context.Context, clear bool) error
}

// Info is what is known of an object without reading it.
type Info struct {
	Size    int64     // bytes
	ModTime time.Time // zero if unknown
}

// Tags constrain which of a multi connector's policies may take an object. As in Python's put, no tags are the empty set: a policy with
// superset_tags takes only objects that bring them.
type Tags struct {
	Subset   []string // must be a subset of the policy's subset_tags
	Superset []string // must be a superset of the policy's superset_tags
}

// A Writer takes one object piece by piece. Success and giving up are different calls: an object whose Writer is neither committed nor
// aborted never becomes visible. A Writer belongs to one goroutine at a time.
type Writer interface {
	io.Writer
	io.ReaderFrom
	// Commit publishes the object and returns its key. It fails if a size was announced and another number of bytes written. After an
	// error nothing is left behind.
	Commit() (Key, error)
	// Abort drops what was written. After Commit it does nothing, so that it can be deferred.
	Abort() error
}

// A Reader gives one object piece by piece, in order. It belongs to one goroutine at a time.
type Reader interface {
	io.Reader
	io.WriterTo
	io.Closer
	// Size returns the object's whole length in bytes.
	Size() int64
}
