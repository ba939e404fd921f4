package faulty

import (
	"errors"
	"slices"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/connectors"
)

// ErrInjected is the error to inject if it does not matter which.
var ErrInjected = errors.New("injected error")

// Op names a call. The values are those that the connectors' own errors carry.
type Op string

// The calls that an Injector is asked about.
const (
	Put        Op = "put"
	Get        Op = "get"
	Exists     Op = "exists"
	Evict      Op = "evict"
	Close      Op = "close"
	NewKey     Op = "new_key"
	Set        Op = "set"
	PutBatch   Op = "put_batch"
	GetBatch   Op = "get_batch"
	EvictBatch Op = "evict_batch"
	GetRange   Op = "get_range"
	GetBytes   Op = "get_bytes"
	PutStream  Op = "put_stream"
	GetStream  Op = "get_stream"
	Map        Op = "map"
	Stat       Op = "stat"
	Wait       Op = "wait"
	PutTagged  Op = "put_tagged"
	CloseClear Op = "close_clear"
	Write      Op = "stream_write"  // every piece that goes into a Writer, by Write or ReadFrom
	Commit     Op = "stream_commit" // of a Writer
	Abort      Op = "stream_abort"  // of a Writer
	Read       Op = "stream_read"   // every piece that comes out of a Reader, by Read or WriteTo
	CloseRead  Op = "stream_close"  // of a Reader
)

// A Call is what an Injector is asked about.
type Call struct {
	Op    Op
	Key   connectors.Key // nil if the call has none
	After bool           // false: about to begin; true: the inner connector has done it, with success

	// Of Write and Read: the piece is Len bytes from Off of the object.
	Off, Len int64
}

// An Injector decides which calls fail. It may be asked by many goroutines at once.
type Injector interface {
	// Inject returns the error that the call shall have, nil if it shall go on.
	Inject(Call) error
}

// InjectorFunc is a function as an Injector.
type InjectorFunc func(Call) error

// Inject calls f.
func (f InjectorFunc) Inject(c Call) error { return f(c) }

// Always fails every call before it begins.
func Always(err error) Injector {
	return InjectorFunc(func(c Call) error {
		if c.After {
			return nil
		}
		return err
	})
}

// ByOp passes the calls of some kinds to inj, and lets the others go on.
func ByOp(inj Injector, ops ...Op) Injector {
	return InjectorFunc(func(c Call) error {
		if !slices.Contains(ops, c.Op) {
			return nil
		}
		return inj.Inject(c)
	})
}

// Any asks all of them, in order, until one gives an error.
func Any(injs ...Injector) Injector {
	return InjectorFunc(func(c Call) error {
		for _, inj := range injs {
			if err := inj.Inject(c); err != nil {
				return err
			}
		}
		return nil
	})
}

// LostAnswer lets calls begin and asks inj when they have succeeded, as if they were about to begin: a put that stored its object and then
// fails, a get whose bytes are dropped.
func LostAnswer(inj Injector) Injector {
	return InjectorFunc(func(c Call) error {
		if !c.After {
			return nil
		}
		c.After = false
		return inj.Inject(c)
	})
}

// Index is an Injector that fails one call.
type Index struct {
	left atomic.Int64
	err  error
}

// OnIndex fails call number n, counted from 0, before it begins, and no other. Stream pieces count too.
func OnIndex(n int64, err error) *Index {
	i := &Index{err: err}
	i.left.Store(n)
	return i
}

// Inject implements [Injector].
func (i *Index) Inject(c Call) error {
	if c.After || i.left.Add(-1) != -1 {
		return nil
	}
	return i.err
}

// Fired reports whether the call has come.
func (i *Index) Fired() bool { return i.left.Load() < 0 }

// Switch is an Injector that can be turned on and off.
type Switch struct {
	on  atomic.Bool
	inj Injector
}

// Toggle returns a Switch before inj. It is off.
func Toggle(inj Injector) *Switch { return &Switch{inj: inj} }

// On makes the Switch ask its Injector, or not.
func (s *Switch) On(on bool) { s.on.Store(on) }

// Inject implements [Injector].
func (s *Switch) Inject(c Call) error {
	if !s.on.Load() {
		return nil
	}
	return s.inj.Inject(c)
}

// Count is an Injector that counts.
type Count struct {
	calls, errs atomic.Int64
	inj         Injector
}

// Counter returns a Count before inj, which may be nil to count only.
func Counter(inj Injector) *Count { return &Count{inj: inj} }

// Inject implements [Injector].
func (c *Count) Inject(call Call) error {
	if !call.After {
		c.calls.Add(1)
	}
	if c.inj == nil {
		return nil
	}
	err := c.inj.Inject(call)
	if err != nil {
		c.errs.Add(1)
	}
	return err
}

// Calls returns how many calls have begun, those that failed at once included.
func (c *Count) Calls() int64 { return c.calls.Load() }

// Errors returns how many errors were injected. A test compares it with those that it saw.
func (c *Count) Errors() int64 { return c.errs.Load() }

// AtByte fails every stream, in or out, when n bytes have gone through it. A stream that is shorter does not fail.
func AtByte(n int64, err error) Injector {
	return InjectorFunc(func(c Call) error {
		if c.After || c.Op != Write && c.Op != Read || n < c.Off || n >= c.Off+c.Len {
			return nil
		}
		return &short{n - c.Off, err}
	})
}

// short is an error that comes after the first n bytes of a piece.
type short struct {
	n   int64
	err error
}

func (s *short) Error() string { return s.err.Error() }
func (s *short) Unwrap() error { return s.err }
