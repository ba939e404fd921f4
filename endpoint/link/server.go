package link

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

// ServerOptions of all peers of a Server. The zero value is useful.
type ServerOptions struct {
	// Segment is the most bytes of a body that are sent as one frame. Default 1 MiB.
	Segment int
	// MaxStreams is how many streams of one peer are served at a time, over all its Paths. Default 128.
	MaxStreams int
	// MaxUploads is how many objects of one peer may be on their way at a time, those of one segment aside. Default 2048.
	MaxUploads int
	// Memory is how many bytes of segments of one peer may be held: those that are coming and those that wait for earlier ones, and 1 KiB for each of
	// them. Default 256 MiB.
	Memory int64
	// TotalMemory is that of all peers together. Default 1 GiB.
	TotalMemory int64
	// Idle is how long an upload may pause, and for how long it is remembered once it has ended, so that who has lost the answer may ask again.
	// Default 5 min.
	Idle time.Duration
	// MaxEnded is how many ended uploads of one peer are remembered at most. Default 8192.
	MaxEnded int
	// Hash, Untrusted and Compress: see Options.
	Hash      native.HashMode
	Untrusted bool
	Compress  native.Compression
	// Pool is the memory of segments on their way in. Default transport.DefaultPool.
	Pool *transport.Pool
	// Logger is told of sessions, at debug level. Default: none.
	Logger *slog.Logger
}

func (o ServerOptions) withDefaults() ServerOptions {
	def(&o.Segment, DefaultSegment)
	def(&o.MaxStreams, 128)
	def(&o.MaxUploads, 2048)
	def(&o.Memory, DefaultMemory)
	def(&o.TotalMemory, 1<<30)
	def(&o.MaxEnded, 8192)
	if o.Idle <= 0 {
		o.Idle = 5 * time.Minute
	}
	o.Memory = max(o.Memory, 5*MaxSegment)
	o.TotalMemory = max(o.TotalMemory, o.Memory)
	if o.Pool == nil {
		o.Pool = transport.DefaultPool
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// A Server answers the Links of any number of peers from one Store. What is on its way in belongs to a peer, not to a Path: an upload goes on over the next
// one. All methods may be called concurrently.
type Server struct {
	store    objects.Store
	o        ServerOptions
	instance string
	recent   *recent
	in, out  meter
	held     atomic.Int64 // ServerOptions.TotalMemory bounds it

	mu     sync.Mutex
	peers  map[uuid.UUID]*servedPeer
	closed bool
}

// servedPeer is what the Server knows of one peer.
type servedPeer struct {
	s       *Server
	id      uuid.UUID
	up      *uploads
	native  *native.Server
	latest  string // instance of the peer
	serving int    // calls of Serve
	streams int
	forget  *time.Timer // runs while nothing is served
}

// NewServer returns a Server. It borrows store until Close.
func NewServer(store objects.Store, o ServerOptions) *Server {
	return &Server{store: store, o: o.withDefaults(), instance: rand.Text(), recent: newRecent(store), peers: map[uuid.UUID]*servedPeer{}}
}

// Serve answers peer on the streams that it opens on p, until p has ended, which gives nil, or ctx, or the Server is closed (ErrClosed). It borrows p, and
// waits for its goroutines. Several Paths of one peer may be served at the same time. instance names the peer's process, a later one by a greater string: when
// one is served first, what its predecessors had on their way is dropped, since nobody will bring the rest.
func (s *Server) Serve(ctx context.Context, peer uuid.UUID, instance string, p path.Path) error {
	sp, restarted, err := s.peer(peer, instance)
	if err != nil {
		return err
	}
	if restarted {
		sp.up.endAll(errReplaced)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer s.left(sp)
	defer wg.Wait()
	defer cancel()
	for {
		conn, err := p.Accept(ctx)
		if err != nil {
			select {
			case <-p.Done():
				return nil
			default:
			}
			if s.isClosed() {
				return errServerClosed
			}
			return err
		}
		if err := s.stream(sp, 1); err != nil {
			conn.Close()
			if errors.Is(err, transport.ErrClosed) {
				return err
			}
			s.o.Logger.Debug("stream refused", "peer", peer, "err", err)
			continue
		}
		wg.Go(func() {
			defer func() { _ = s.stream(sp, -1) }()
			c := &counted{tcp.NewCarrier(conn, tcp.CarrierOptions{Trusted: !s.o.Untrusted}), s}
			if err := sp.native.ServeCarrier(ctx, c); err != nil {
				s.o.Logger.Debug("stream ended", "peer", peer, "err", err)
			}
		})
	}
}

var errServerClosed = fmt.Errorf("%w: this server", transport.ErrClosed)

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// moved implements traffic.
func (s *Server) moved(in, out int64) {
	now := time.Now()
	if in > 0 {
		s.in.add(in, now)
	}
	if out > 0 {
		s.out.add(out, now)
	}
}

// peer returns the state of a peer that is about to be served, and whether an earlier instance of it was.
func (s *Server) peer(id uuid.UUID, instance string) (sp *servedPeer, restarted bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, errServerClosed
	}
	sp = s.peers[id]
	if sp == nil {
		sp = &servedPeer{s: s, id: id, latest: instance, up: newUploads(s.store, &s.o, &s.held)}
		sp.native = native.NewServer(&view{s.store, sp.up, s.recent}, native.ServerOptions{Hash: s.o.Hash, Compress: s.o.Compress, Chunk: s.o.Segment,
			Instance: s.instance, Logger: s.o.Logger})
		s.peers[id] = sp
	}
	if sp.forget != nil {
		sp.forget.Stop()
		sp.forget = nil
	}
	sp.serving++
	if restarted = instance > sp.latest; restarted {
		sp.latest = instance
	}
	return sp, restarted, nil
}

// left forgets a peer that does not come back.
func (s *Server) left(sp *servedPeer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sp.serving--; sp.serving > 0 || s.closed {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(2*s.o.Idle, func() { // its uploads have expired by then
		s.mu.Lock()
		defer s.mu.Unlock()
		if sp.forget == timer && !s.closed {
			delete(s.peers, sp.id)
			sp.forget = nil
			sp.up.close()
		}
	})
	sp.forget = timer
}

// stream counts one more stream, or less.
func (s *Server) stream(sp *servedPeer, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case n > 0 && s.closed:
		return errServerClosed
	case n > 0 && sp.streams >= s.o.MaxStreams:
		return fmt.Errorf("%w: %d streams are open", transport.ErrUnavailable, sp.streams)
	}
	sp.streams += n
	return nil
}

// Close ends all streams and drops what is on its way in. It closes neither the Store nor the Paths, whose Serve returns when they end or their context does.
// Idempotent.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	var all []*servedPeer
	for _, sp := range s.peers {
		all = append(all, sp)
		if sp.forget != nil {
			sp.forget.Stop()
		}
	}
	s.peers = map[uuid.UUID]*servedPeer{}
	s.mu.Unlock()
	for _, sp := range all {
		sp.native.Close()
		sp.up.close()
	}
	s.recent.close()
	return nil
}

// ServerStats are the counts of a Server since it was made.
type ServerStats struct {
	Peers             int     // that are served, or were a short while ago
	Streams           int     // open now
	Uploads           int     // of more than one segment, under way
	Held              int64   // bytes of segments that are coming or wait for earlier ones
	BytesIn, BytesOut int64   // on the wire, with the frames' own headers
	RateIn, RateOut   float64 // bytes per second lately
}

// Stats returns the counts so far. They need not be of one instant.
func (s *Server) Stats() ServerStats {
	var st ServerStats
	now := time.Now()
	st.BytesIn, st.RateIn = s.in.read(now)
	st.BytesOut, st.RateOut = s.out.read(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Peers, st.Held = len(s.peers), s.held.Load()
	for _, sp := range s.peers {
		st.Streams += sp.streams
		sp.up.mu.Lock()
		st.Uploads += len(sp.up.open)
		sp.up.mu.Unlock()
	}
	return st
}

// view is the Store as one peer sees it, under the ids of this package.
type view struct {
	store  objects.Store
	up     *uploads
	recent *recent
}

var _ objects.Store = (*view)(nil)

func (v *view) Create(id string, size int64, _ objects.PutOptions) (objects.Incoming, error) {
	return v.up.begin(id, size)
}

func (v *view) Put(id string, b *transport.Buffer, _ objects.PutOptions) error {
	defer b.Release()
	in, err := v.up.begin(id, int64(b.Len()))
	if err != nil {
		return err
	}
	for src := b.Bytes(); len(src) > 0; {
		mem, err := in.Next(len(src))
		if err != nil {
			in.Abort()
			return err
		}
		src = src[copy(mem, src):]
	}
	return in.Commit()
}

func (v *view) Get(id string) (*transport.Buffer, error) {
	key, err := parseObject(id)
	if err != nil {
		return nil, err
	}
	return v.recent.get(key)
}

func (v *view) Share(string) (*os.File, int64, error) { return nil, 0, errNoFiles() }

func (v *view) Adopt(_ string, f *os.File, _ int64, _ objects.PutOptions) error {
	f.Close()
	return errNoFiles()
}

func errNoFiles() error { return fmt.Errorf("files between endpoints: %w", errors.ErrUnsupported) }

func (v *view) Stat(id string) (objects.Info, error) {
	key, err := parseObject(id)
	if err != nil {
		return objects.Info{}, err
	}
	return v.store.Stat(key)
}

func (v *view) Exists(id string) bool {
	key, err := parseObject(id)
	return err == nil && v.store.Exists(key)
}

// Evict deletes an object, or gives up an upload.
func (v *view) Evict(id string) bool {
	if strings.HasPrefix(id, uploadPrefix) {
		upload, rest, err := parseUpload(id)
		return err == nil && rest == "" && v.up.abort(upload)
	}
	key, err := parseObject(id)
	if err != nil {
		return false
	}
	v.recent.drop(key)
	return v.store.Evict(key)
}

func (v *view) Wait(ctx context.Context, id string) error {
	key, err := parseObject(id)
	if err != nil {
		return err
	}
	return v.store.Wait(ctx, key)
}
