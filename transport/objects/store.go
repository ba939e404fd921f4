package objects

import (
	"context"
	"os"

	"github.com/proxyplane/proxyplane/transport"
)

// A Store is what a server serves from. All methods may be called by many goroutines at once; none blocks but Wait. Errors are those of
// [Client].
type Store interface {
	// Create makes room for an object that is about to arrive. size is its length, or negative if unknown. A size beyond the Store's limits is
	// refused here, with ErrTooLarge or ErrFull and a text that says what to do, before any memory is taken for it.
	Create(id string, size int64, o PutOptions) (Incoming, error)
	// Put stores a whole object that is in memory already. It takes b, on error too.
	Put(id string, b *transport.Buffer, o PutOptions) error
	// Get returns the object; the caller owns a reference.
	Get(id string) (*transport.Buffer, error)
	// Share returns a descriptor of read-only memory that holds exactly the object, for a peer on the same host to map. The caller owns f.
	// errors.ErrUnsupported where there is no such memory.
	Share(id string) (f *os.File, size int64, err error)
	// Adopt stores an object that a peer on the same host put into memory it shares: f is a memory file. It takes f, on error too. It refuses
	// memory that the peer could still change or shrink.
	Adopt(id string, f *os.File, size int64, o PutOptions) error
	Stat(id string) (Info, error)
	Exists(id string) bool
	// Evict deletes the object and reports whether there was one. Buffers that were handed out stay valid.
	Evict(id string) bool
	// Wait returns nil as soon as the object exists, ErrClosed when the Store is closed, or the context's error.
	Wait(ctx context.Context, id string) error
}

// Incoming is an object on its way in. It belongs to one goroutine at a time, and ends with Commit or Abort.
type Incoming interface {
	// Next returns memory for the next bytes, at least 1 and at most n of them, which the caller fills whole before it calls Next again. It
	// fails with ErrFull or ErrTooLarge when the object outgrows the limits. For an announced size the memory of all calls is one run, so that
	// the object is never moved; nothing is touched before it is asked for.
	Next(n int) ([]byte, error)
	// Commit publishes the object. It fails if an announced size is not what came; then the object is dropped.
	Commit() error
	// Abort drops it. After Commit it does nothing.
	Abort()
}
