package endpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/link"
	"github.com/proxyplane/proxyplane/internal/gate"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// Peers are the other endpoints, as *peer.Manager reaches them. All methods may be called by many goroutines at once. Errors match the sentinels of
// package transport, as those of objects.Client do; ErrNotFound means the object, never the peer.
type Peers interface {
	// Get opens n bytes from off for reading, or all from off if n < 0. The caller closes the Reader. ctx lives as long as it.
	Get(ctx context.Context, peer uuid.UUID, key string, off, n int64) (link.Reader, error)
	// Put stores an object of size bytes, or of all that body has if size is negative. It borrows body.
	Put(ctx context.Context, peer uuid.UUID, key string, size int64, body io.Reader) error
	Exists(ctx context.Context, peer uuid.UUID, key string) (bool, error)
	Evict(ctx context.Context, peer uuid.UUID, key string) error
	Stat(ctx context.Context, peer uuid.UUID, key string) (objects.Info, error)
	// Wait returns nil as soon as the object exists.
	Wait(ctx context.Context, peer uuid.UUID, key string) error
}

// Opener is what a Store has whose objects are files: Open returns one, which the caller closes, or errors.ErrUnsupported for an object that is none.
type Opener interface {
	Open(id string) (*os.File, objects.Info, error)
}

// remover is what a Store has that can fail to delete.
type remover interface {
	Remove(id string) (bool, error)
}

// Defaults of Options.
const (
	DefaultStall         = 300 * time.Second // Python's body_timeout
	DefaultMaxConcurrent = 4096
)

// Options of an Endpoint. UUID and Store are needed.
type Options struct {
	UUID  uuid.UUID
	Name  string
	Store objects.Store // the objects of this endpoint; borrowed until the last request has ended
	Peers Peers         // nil: there are none, and every request is for this endpoint; borrowed likewise

	MaxObject     int64         // bytes of the largest object that clients may store here; 0: what Store takes
	Token         string        // that requests must bring as Authorization: Bearer; empty: none
	MaxConcurrent int           // requests at once, and as many that wait for objects; 0: DefaultMaxConcurrent
	Stall         time.Duration // how long a client may send or take nothing in the middle of a body; 0: DefaultStall
	NoMetrics     bool          // neither count nor serve /metrics

	Status func() Status // for /status and the metrics; nil: what Endpoint itself knows
	Logger *slog.Logger  // told of requests (debug) and of failures; nil: silence
}

// Endpoint answers requests for objects, its own from Store and those of others through Peers. All methods may be called by many goroutines at once.
type Endpoint struct {
	o       Options
	opener  Opener // nil if the Store has no files
	token   *[sha256.Size]byte
	log     *slog.Logger
	metrics *metrics // nil if off
	slots   chan struct{}
	waits   chan struct{}
	ending  atomic.Bool
	ended   context.Context // its end is that of waits for objects that do not exist yet
	end     context.CancelFunc
	running *gate.Gate     // requests
	commits [64]sync.Mutex // by hash of the key: between looking whether it exists and Commit, for If-None-Match
	started time.Time
}

// New returns an Endpoint. It starts nothing.
func New(o Options) (*Endpoint, error) {
	if o.Store == nil || o.UUID == uuid.Nil {
		return nil, errors.New("an endpoint needs a UUID and a Store")
	}
	if o.MaxConcurrent <= 0 {
		o.MaxConcurrent = DefaultMaxConcurrent
	}
	if o.Stall <= 0 {
		o.Stall = DefaultStall
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Endpoint{o: o, log: o.Logger, slots: make(chan struct{}, o.MaxConcurrent), waits: make(chan struct{}, o.MaxConcurrent), started: time.Now(), running: gate.New()}
	e.ended, e.end = context.WithCancel(context.Background())
	e.opener, _ = o.Store.(Opener)
	if o.Token != "" {
		sum := sha256.Sum256([]byte(o.Token))
		e.token = &sum
	}
	if !o.NoMetrics {
		e.metrics = newMetrics(e)
	}
	return e, nil
}

// Drain makes /health say that the end is near, so that who asks sends no more, and ends the waits for objects that do not exist yet.
func (e *Endpoint) Drain() {
	e.ending.Store(true)
	e.end()
}

// Close refuses new requests and waits for those under way, which end soon if their connections are closed. It leaves Store and Peers open. Idempotent.
func (e *Endpoint) Close() {
	e.Drain()
	e.running.Shut()
	<-e.running.Drained()
}

// local reports whether requests for that endpoint are for this one. Source: Endpoint._is_peer_request.
func (e *Endpoint) local(at uuid.UUID) bool {
	return e.o.Peers == nil || at == uuid.Nil || at == e.o.UUID
}

// canonical makes our own UUID uuid.Nil, also where a request's reading as version 4 has changed it (Python then asks the relay for itself).
func (e *Endpoint) canonical(at uuid.UUID) uuid.UUID {
	own := e.o.UUID
	own[6], own[8] = own[6]&0x0f|0x40, own[8]&0x3f|0x80
	if at == own || at == e.o.UUID {
		return uuid.Nil
	}
	return at
}

// maxKey bounds keys.
const maxKey = objects.MaxID

func checkKey(key string) error {
	if len(key) > maxKey {
		return fmt.Errorf("%w: it has %d bytes, at most %d are possible", transport.ErrInvalidKey, len(key), maxKey)
	}
	return nil
}

// PeerError is what a peer could not do.
type PeerError struct {
	Peer uuid.UUID
	Err  error
}

// Error is ProxyStore's text of a PeerRequestError.
func (e *PeerError) Error() string {
	return fmt.Sprintf("Request to peer %s failed: %v", e.Peer, e.Err)
}

// Unwrap returns Err.
func (e *PeerError) Unwrap() error { return e.Err }

func peerError(at uuid.UUID, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return &PeerError{at, err}
}

// Exists reports whether an endpoint has the object; uuid.Nil is this one, here and in the other methods.
func (e *Endpoint) Exists(ctx context.Context, key string, at uuid.UUID) (bool, error) {
	if err := checkKey(key); err != nil {
		return false, err
	}
	if e.local(at) {
		return e.o.Store.Exists(key), nil
	}
	ok, err := e.o.Peers.Exists(ctx, at, key)
	return ok, peerError(at, err)
}

// Evict deletes an object. A missing one is not an error.
func (e *Endpoint) Evict(ctx context.Context, key string, at uuid.UUID) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if !e.local(at) {
		return peerError(at, e.o.Peers.Evict(ctx, at, key))
	}
	if r, ok := e.o.Store.(remover); ok {
		_, err := r.Remove(key)
		return err
	}
	e.o.Store.Evict(key)
	return nil
}

// Stat returns what is known of an object.
func (e *Endpoint) Stat(ctx context.Context, key string, at uuid.UUID) (objects.Info, error) {
	if err := checkKey(key); err != nil {
		return objects.Info{}, err
	}
	if e.local(at) {
		return e.o.Store.Stat(key)
	}
	info, err := e.o.Peers.Stat(ctx, at, key)
	return info, peerError(at, err)
}

// Wait returns nil as soon as the object exists.
func (e *Endpoint) Wait(ctx context.Context, key string, at uuid.UUID) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if e.local(at) {
		return e.o.Store.Wait(ctx, key)
	}
	return peerError(at, e.o.Peers.Wait(ctx, at, key))
}

// object is one that is ready to be sent, in one of three forms. close it.
type object struct {
	info   objects.Info
	file   *os.File
	buffer *transport.Buffer
	reader link.Reader // of the range that was asked for; the others are the whole object
}

func (o *object) close() {
	switch {
	case o.file != nil:
		o.file.Close()
	case o.reader != nil:
		o.reader.Close()
	default:
		o.buffer.Release()
	}
}

// open opens an object, of a peer only its range.
func (e *Endpoint) open(ctx context.Context, key string, at uuid.UUID, off, n int64) (*object, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if !e.local(at) {
		rd, err := e.o.Peers.Get(ctx, at, key, off, n)
		if err != nil {
			return nil, peerError(at, err)
		}
		info := rd.Info()
		info.Size = rd.Size()
		return &object{info: info, reader: rd}, nil
	}
	if e.opener != nil {
		f, info, err := e.opener.Open(key)
		if err == nil {
			return &object{info: info, file: f}, nil
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return nil, err
		}
	}
	// Stat before Get: if the object is replaced in between, the new bytes go by the old version's name, and who asks for changes later gets them
	// again. The other way round he would never learn.
	info, err := e.o.Store.Stat(key)
	if err != nil {
		return nil, err
	}
	b, err := e.o.Store.Get(key)
	if err != nil {
		return nil, err
	}
	if int64(b.Len()) != info.Size {
		info = objects.Info{Size: int64(b.Len())} // replaced; a version without a name is not remembered by anybody
	}
	return &object{info: info, buffer: b}, nil
}

// errEmpty is a set without bytes, in ProxyStore's words.
var errEmpty = errors.New("received empty payload")

// errExists is a conditional set of what is there.
var errExists = errors.New("an object of that key exists already")

// setOptions of one object.
type setOptions struct {
	empty  bool // an object without bytes is meant
	absent bool // store it only if there is none of that key
}

// Set stores an object, replacing an earlier one: size bytes of body, or all it has if size is negative. It borrows body until it returns. An empty
// object is stored like any other. Nobody sees it before it is whole, and when Set has returned without error it is there.
func (e *Endpoint) Set(ctx context.Context, key string, at uuid.UUID, size int64, body io.Reader) error {
	return e.set(ctx, key, at, size, body, setOptions{empty: true})
}

func (e *Endpoint) set(ctx context.Context, key string, at uuid.UUID, size int64, body io.Reader, o setOptions) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if size == 0 && !o.empty {
		return errEmpty
	}
	if o.absent {
		if ok, err := e.Exists(ctx, key, at); err != nil {
			return err
		} else if ok {
			return errExists
		}
	}
	if e.local(at) {
		return e.setLocal(ctx, key, size, body, o)
	}
	if size < 0 && !o.empty {
		first := make([]byte, 1)
		if _, err := io.ReadFull(body, first); errors.Is(err, io.EOF) {
			return errEmpty
		} else if err != nil {
			return err
		}
		body = io.MultiReader(bytes.NewReader(first), body)
	}
	return peerError(at, e.o.Peers.Put(ctx, at, key, size, body))
}

// piece is how much of a body is read at a time.
const piece = 1 << 20

func (e *Endpoint) tooLarge(size int64) error {
	return fmt.Errorf("%w: %s is more than the %s that an object may have here; raise max_object_size in the endpoint's configuration",
		transport.ErrTooLarge, readable(size), readable(e.o.MaxObject))
}

func (e *Endpoint) setLocal(ctx context.Context, key string, size int64, body io.Reader, o setOptions) error {
	limited := e.o.MaxObject > 0
	if limited && size > e.o.MaxObject {
		return e.tooLarge(size)
	}
	in, err := e.o.Store.Create(key, size, objects.PutOptions{})
	if err != nil {
		return err
	}
	defer in.Abort()
	if size >= 0 {
		for left := size; left > 0; {
			mem, err := in.Next(int(min(left, piece)))
			if err != nil {
				return err
			}
			if _, err := io.ReadFull(body, mem); err != nil {
				return unexpected(err)
			}
			left -= int64(len(mem))
		}
	} else {
		// How much comes next is not known before it is here, and Next wants to know.
		scratch := transport.DefaultPool.Get(256 << 10)
		defer scratch.Release()
		var got int64
		for buf := scratch.Bytes(); ; {
			n, err := fill(body, buf)
			got += int64(n)
			if limited && got > e.o.MaxObject {
				return e.tooLarge(got)
			}
			for p := buf[:n]; len(p) > 0; {
				mem, err := in.Next(len(p))
				if err != nil {
					return err
				}
				p = p[copy(mem, p):]
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
		if got == 0 && !o.empty {
			return errEmpty
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !o.absent {
		return in.Commit()
	}
	mu := &e.commits[hash(key)%uint32(len(e.commits))]
	mu.Lock()
	defer mu.Unlock()
	if e.o.Store.Exists(key) {
		return errExists
	}
	return in.Commit()
}

// fill reads until p is full or r ends or fails. Unlike io.ReadFull it leaves r's error as it is: io.EOF is a body's end, io.ErrUnexpectedEOF a body that
// was cut off.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

// hash is FNV-1a.
func hash(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readable is ProxyStore's bytes_to_readable.
func readable(size int64) string {
	for _, u := range []struct {
		unit string
		size float64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}} {
		if float64(size) >= u.size {
			return fmt.Sprintf("%.4g %s", float64(size)/u.size, u.unit)
		}
	}
	return fmt.Sprintf("%d B", size)
}
