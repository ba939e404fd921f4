package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// A Channel carries messages to the peer and back, whole, and in any order. Package webrtc's data channels are such. Writing and reading may happen at the
// same time, each by one goroutine at a time for all that a Session does.
type Channel interface {
	Label() string
	// WriteSlices sends one message made of parts, which it borrows. It blocks while too much is waiting to leave.
	WriteSlices(parts ...[]byte) error
	// Read reads one message. io.ErrShortBuffer if p is too short for it.
	Read(p []byte) (int, error)
	// Close ends the channel, and every call that blocks on it.
	Close() error
}

// Options of a Session. The zero value is useful.
type Options struct {
	MaxObject int64 // bytes of an object, either way; default 100,000,000 as ProxyStore's max_object_size
	// Budget is the memory that messages which are not whole yet may take, in bytes, and those that are being served once more; default what four of the
	// longest take, and at least 256 MiB.
	Budget int64
	Pool   *transport.Pool // memory of what is received; default transport.DefaultPool
	Logger *slog.Logger    // default: none
}

// maxServing is how many requests of the peer may be under way. Python's endpoint serves one at a time.
const maxServing = 4096

// Session speaks with one peer: it asks, and answers from a Store. All methods may be called by many goroutines at once. Errors match transport.ErrNotFound,
// ErrTooLarge, ErrFull, ErrCorrupt (the peer's answer makes no sense), ErrInvalidKey, ErrUnavailable (the channels ended: try again), ErrClosed, or are a
// *[PeerError] with what the peer raised; context errors pass as they are.
type Session struct {
	channels []Channel
	turns    []sync.Mutex // one for each channel's writing
	store    objects.Store
	o        Options
	wg       sync.WaitGroup
	serving  chan struct{}
	stream   atomic.Uint32
	stats    struct{ in, out, asked, served, errs atomic.Int64 }

	in struct { // what readers share
		sync.Mutex
		*assembler
		served int64     // bytes of requests that are being served
		fewer  sync.Cond // of served, or the end
	}

	mu      sync.Mutex
	pending map[string]chan *request // by uuid
	err     error                    // why done is closed
	done    chan struct{}
}

// Stats of a Session since it was made.
type Stats struct {
	BytesIn, BytesOut int64 // of messages
	Asked, Served     int64 // requests
	Errors            int64 // messages that made no sense
}

// New returns a Session over the channels, which it takes. It serves the peer's requests from store until it ends.
func New(channels []Channel, store objects.Store, o Options) *Session {
	if o.MaxObject <= 0 {
		o.MaxObject = 100_000_000
	}
	if o.Budget <= 0 {
		o.Budget = max(4*(o.MaxObject+overhead), 256<<20)
	}
	if o.Pool == nil {
		o.Pool = transport.DefaultPool
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Session{
		channels: channels, turns: make([]sync.Mutex, len(channels)), store: store, o: o,
		serving: make(chan struct{}, maxServing), pending: map[string]chan *request{}, done: make(chan struct{}),
	}
	s.in.fewer.L = &s.in.Mutex
	s.in.assembler = newAssembler(o.Pool, o.MaxObject+overhead, o.Budget)
	if len(channels) == 0 {
		s.end(fmt.Errorf("%w: a connection to a peer without channels", transport.ErrUnavailable))
	}
	for _, c := range channels {
		s.wg.Add(1)
		go s.read(c)
	}
	return s
}

// Done is closed when the Session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the Session has ended, nil before.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Stats returns the counts so far.
func (s *Session) Stats() Stats {
	return Stats{s.stats.in.Load(), s.stats.out.Load(), s.stats.asked.Load(), s.stats.served.Load(), s.stats.errs.Load()}
}

// Close ends the Session and its channels, and waits for its goroutines. Calls in flight fail with ErrClosed. Idempotent.
func (s *Session) Close() error {
	s.end(fmt.Errorf("%w: this connection to a peer", transport.ErrClosed))
	s.wg.Wait()
	return nil
}

// end ends the Session, once.
func (s *Session) end(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
		close(s.done)
	}
	s.mu.Unlock()
	if !first {
		return
	}
	for _, c := range s.channels {
		c.Close()
	}
	s.in.Lock()
	s.in.close()
	s.in.Unlock()
	s.in.fewer.Broadcast()
}

// read takes in what comes on one channel until it ends.
func (s *Session) read(c Channel) {
	defer s.wg.Done()
	buf := make([]byte, maxChunk)
	for {
		n, err := c.Read(buf)
		if err != nil {
			if errors.Is(err, io.ErrShortBuffer) {
				err = corrupt("a chunk of more than %d bytes", maxChunk)
			} else {
				err = fmt.Errorf("%w: the peer's channel %s ended: %w", transport.ErrUnavailable, c.Label(), err)
			}
			s.end(err)
			return
		}
		s.stats.in.Add(int64(n))
		if err := s.take(buf[:n]); err != nil {
			s.o.Logger.Warn("ended the connection to a peer that breaks the protocol", "channel", c.Label(), "err", err)
			s.stats.errs.Add(1)
			s.end(err)
			return
		}
	}
}

// take takes in one chunk.
func (s *Session) take(chunk []byte) error {
	h, data, err := parseChunk(chunk)
	if err != nil {
		return err
	}
	s.in.Lock()
	for s.in.streams != nil && s.in.served > s.o.Budget { // the store is slower than the peer, whose channels hold it up now
		s.in.fewer.Wait()
	}
	if s.in.streams == nil {
		s.in.Unlock()
		return nil // ended
	}
	msg, gone, err := s.in.add(h, data)
	s.in.Unlock()
	if err != nil || msg == nil && gone == nil {
		return err
	}
	var r *request
	if gone != nil {
		if r, err = decodeDropped(gone); err == nil {
			r.err = gone.err
		}
	} else {
		r, err = decode(msg)
	}
	if err != nil {
		// Python logs such a message and goes on; so does this.
		msg.Release()
		s.stats.errs.Add(1)
		s.o.Logger.Warn("a message of a peer cannot be read", "err", err)
		return nil
	}
	if r.kind == kindResponse {
		msg.Release()
		s.answered(r)
		return nil
	}
	select {
	case s.serving <- struct{}{}:
	default:
		r.release()
		msg.Release()
		return corrupt("more than %d requests are under way", maxServing)
	}
	var size int64
	if msg != nil {
		size = int64(msg.Len())
	}
	s.in.Lock()
	s.in.served += size
	s.in.Unlock()
	s.wg.Go(func() { // Close waits only after the readers, of which this is one
		s.serve(r, msg)
		s.in.Lock()
		s.in.served -= size
		s.in.Unlock()
		s.in.fewer.Broadcast()
	})
	return nil
}

// answered hands a response to who waits for it.
func (s *Session) answered(r *request) {
	s.mu.Lock()
	defer s.mu.Unlock() // handed over under the lock, so that forget finds either the entry or the answer
	waiting := s.pending[r.id]
	delete(s.pending, r.id)
	if waiting == nil { // nobody any more
		r.release()
		return
	}
	waiting <- r // has room
}

// serve answers one request. It takes r and msg, which may be nil.
func (s *Session) serve(r *request, msg *transport.Buffer) {
	defer func() { <-s.serving }()
	s.stats.served.Add(1)
	answer := &request{kind: kindResponse, op: r.op, id: r.id, key: r.key, tag06: r.tag06, err: r.err}
	var obj *transport.Buffer
	if answer.err == nil {
		obj, answer.err = s.do(r, msg, answer)
	}
	r.release()
	msg.Release()
	defer obj.Release()
	if answer.err != nil {
		s.o.Logger.Info("refused a peer's request", "op", fmt.Sprintf("%.20s", r.op), "key", fmt.Sprintf("%.100s", r.key), "err", answer.err)
	}
	var data []byte
	if obj != nil {
		data = obj.Bytes()
	}
	out, err := answer.encode(data, obj != nil)
	if err == nil {
		err = s.send(context.Background(), out) // ends when the Session does
	}
	if err != nil {
		s.o.Logger.Debug("an answer did not leave", "op", r.op, "err", err)
	}
}

// do does what the request asks. The caller owns the object of a get; r's data may be gone afterwards.
func (s *Session) do(r *request, msg *transport.Buffer, answer *request) (*transport.Buffer, error) {
	if err := checkKey(r.key); err != nil {
		return nil, err
	}
	switch r.op {
	case opExists:
		answer.exists = s.store.Exists(r.key)
	case opEvict:
		s.store.Evict(r.key)
	case opGet:
		obj, err := s.store.Get(r.key)
		if errors.Is(err, transport.ErrNotFound) {
			return nil, nil
		}
		return obj, err
	case opSet:
		if r.data == nil {
			return nil, corrupt("a set without data")
		}
		if n := int64(r.data.Len()); n > s.o.MaxObject {
			return nil, fmt.Errorf("%w: an object of %d bytes, the limit is %d", transport.ErrTooLarge, n, s.o.MaxObject)
		}
		obj := r.data
		r.data = nil
		if extra := msg.Len() - obj.Len(); extra > obj.Len()/8 {
			own := transport.FromBytes(bytes.Clone(obj.Bytes())) // the message would cost more than the copy
			obj.Release()
			obj = own
		}
		return nil, s.store.Put(r.key, obj, objects.PutOptions{})
	default:
		return nil, corrupt("unknown operation %.40q: evict, exists, get and set are known", r.op)
	}
	return nil, nil
}

// checkKey reports what is wrong with a key.
func checkKey(key string) error {
	switch {
	case key == "" || len(key) > objects.MaxID:
		return fmt.Errorf("%w: an object's key has 1 to %d bytes, this one %d", transport.ErrInvalidKey, objects.MaxID, len(key))
	case !utf8.ValidString(key):
		return fmt.Errorf("%w: the object's key is not UTF-8, which Python needs", transport.ErrInvalidKey)
	}
	return nil
}

// send sends one message, whose parts it borrows. When ctx ends on the way the message is ended as nonsense: without its last chunks the peer would keep
// what came of it for ever.
func (s *Session) send(ctx context.Context, msg transport.Slices) error {
	stream := s.stream.Add(1)
	var cancelled error
	return errors.Join(chunks(msg, stream, func(i uint32, parts ...[]byte) error {
		if cancelled == nil {
			cancelled = ctx.Err()
		}
		var short [headerSize + 1]byte
		if cancelled != nil {
			if i == 0 {
				return cancelled
			}
			h, _, err := parseChunk(bytes.Join(parts, nil))
			if err != nil {
				return err
			}
			h.length = uint32(len(short))
			h.append(short[:0])
			parts = [][]byte{short[:]}
		}
		c := int(i) % len(s.channels)
		s.turns[c].Lock()
		err := s.channels[c].WriteSlices(parts...)
		s.turns[c].Unlock()
		if err != nil {
			s.end(fmt.Errorf("%w: sending to the peer: %w", transport.ErrUnavailable, err)) // it has half a message, and may wait for the rest for ever
			return s.Err()
		}
		n := 0
		for _, p := range parts {
			n += len(p)
		}
		s.stats.out.Add(int64(n))
		return nil
	}), cancelled)
}

// call sends a request and waits for its response, which the caller releases.
func (s *Session) call(ctx context.Context, op, key string, data []byte, has bool) (*request, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	r := &request{kind: kindRequest, op: op, id: uuid.NewString(), key: key}
	msg, err := r.encode(data, has)
	if err != nil {
		return nil, err
	}
	answer := make(chan *request, 1)
	s.mu.Lock()
	if err := s.err; err != nil {
		s.mu.Unlock()
		return nil, err
	}
	s.pending[r.id] = answer
	s.mu.Unlock()
	defer s.forget(r.id, answer)
	s.stats.asked.Add(1)
	if err := s.send(ctx, msg); err != nil {
		return nil, err
	}
	select {
	case a := <-answer:
		if a.err != nil {
			a.release()
			return nil, fmt.Errorf("%s: %w", op, a.err)
		}
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.done:
		return nil, s.Err()
	}
}

// forget makes sure that an answer which nobody takes is released.
func (s *Session) forget(id string, answer chan *request) {
	s.mu.Lock()
	_, waiting := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if waiting {
		return
	}
	select {
	case a := <-answer:
		a.release()
	default: // it was taken
	}
}

// Get returns the object, whole. The caller owns it.
func (s *Session) Get(ctx context.Context, key string) (*transport.Buffer, error) {
	r, err := s.call(ctx, opGet, key, nil, false)
	if err != nil {
		return nil, err
	}
	if r.data == nil {
		return nil, fmt.Errorf("%w: %.100q at the peer", transport.ErrNotFound, key)
	}
	return r.data, nil
}

// Set stores the object, replacing an earlier one. It borrows obj until it returns.
func (s *Session) Set(ctx context.Context, key string, obj transport.Slices) error {
	if n := obj.Len(); n > s.o.MaxObject {
		return fmt.Errorf("%w: an object of %d bytes; a peer that speaks ProxyStore's protocol takes at most %d", transport.ErrTooLarge, n, s.o.MaxObject)
	}
	r, err := s.call(ctx, opSet, key, obj.Join(), true)
	if err != nil {
		return err
	}
	r.release()
	return nil
}

// Exists reports whether the peer has the object.
func (s *Session) Exists(ctx context.Context, key string) (bool, error) {
	r, err := s.call(ctx, opExists, key, nil, false)
	if err != nil {
		return false, err
	}
	r.release()
	exists, ok := r.exists.(bool)
	if !ok {
		return false, corrupt("the peer's answer does not say whether %.100q exists", key)
	}
	return exists, nil
}

// Evict deletes the object. A missing one is not an error.
func (s *Session) Evict(ctx context.Context, key string) error {
	r, err := s.call(ctx, opEvict, key, nil, false)
	if err != nil {
		return err
	}
	r.release()
	return nil
}
