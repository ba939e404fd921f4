package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

const (
	// DefaultFileAbove is Options.FileAbove where it is 0. From some 128 KiB on files are faster; a higher bound leaves more objects where Python sees them.
	DefaultFileAbove = 256 << 10
	// FoldLimit is the most bytes that an object in the database may have: SQLite's own limit for a row, less room for the key.
	FoldLimit = 1_000_000_000 - 4096

	defaultBusy = 5 * time.Second
)

// Options of a [Store].
type Options struct {
	// Path is the database. Its directory must exist; the file is made if it does not. Large objects are in the directory Path + ".objects".
	Path string
	// FileAbove is the size in bytes from which an object is a file. 0 is [DefaultFileAbove]; at most [FoldLimit]. What is smaller is in memory
	// while it arrives.
	FileAbove int64
	// MaxObject is the length of the largest object in bytes. 0 is no limit.
	MaxObject int64
	// Quota is how many bytes all objects may have together, those that arriving objects have announced included. A replaced version counts until
	// the new one is stored. 0 is no limit but the disk.
	Quota int64
	// NoSync leaves it to the operating system when bytes go to disk: faster, and a power loss may lose the latest objects.
	NoSync bool
	// BusyTimeout is how long a call waits for another program that writes to the database. 0 is 5 seconds.
	BusyTimeout time.Duration
	// Pool gives memory for arriving objects. nil is [transport.DefaultPool].
	Pool *transport.Pool
	// Logger is told of leftovers, damage and failures that no caller sees. nil is silence.
	Logger *slog.Logger

	open     func(dir string) (directory, error) // for tests: another layer for our files
	onCommit func(before bool)                   // for tests: called by the writer before each transaction, and after its commit before anybody knows
}

// Usage is what a [Store] holds. Under concurrent use the numbers need not be of one instant.
type Usage struct {
	Objects   int64 // in the database and in files
	Bytes     int64 // theirs
	Files     int64 // objects in files
	FileBytes int64 // theirs
	Arriving  int64 // bytes that arriving objects have announced or brought
	Quota     int64 // Options.Quota
	MaxObject int64 // Options.MaxObject
	Puts      int64 // objects stored since Open
	Evictions int64 // objects deleted since Open
	Commits   int64 // transactions since Open; Puts and Evictions share them
	Refusals  int64 // puts refused since Open: too large, over the quota, or the disk was full
	Waiting   int64 // calls of Wait that wait now
}

// A Store holds objects in a database and in files; see the package comment. All methods may be called by many goroutines at once. Get reads the
// disk, and Put, Commit and Evict wait for it; Stat, Exists and all calls about what does not exist answer from memory (some 165 bytes for each
// key). Close it.
type Store struct {
	o    Options
	log  *slog.Logger
	db   *database
	dir  directory
	lock *os.File // held as long as the Store is open

	mu      sync.RWMutex // guards what follows
	index   map[string]entry
	waiters map[string]*waiters
	closed  bool
	done    chan struct{} // closed with closed

	held      atomic.Int64 // bytes of objects
	arriving  atomic.Int64
	files     atomic.Int64
	fileBytes atomic.Int64
	puts      atomic.Int64
	evictions atomic.Int64
	commits   atomic.Int64
	refusals  atomic.Int64
	waiting   atomic.Int64

	maps struct {
		sync.Mutex
		m map[uint64]*transport.Buffer // the latest mapping of a file, perhaps released already; no reference of ours
	}

	arrivals struct {
		sync.Mutex
		m map[uint64]struct{} // files of objects on their way in
	}
	reserved bool // there is a reserve; belongs to Open, then to the writer

	w        writer
	incoming sync.WaitGroup // calls between begin and end, so that Close can wait for them
	closing  sync.Once
	closeErr error
}

// entry is where an object is. Exactly one of row and file is not 0.
type entry struct {
	size int64
	mod  int64 // Unix nanoseconds; the version
	row  int64 // in blobs
	file uint64
}

func (e entry) info() objects.Info { return objects.Info{Size: e.size, ModTime: time.Unix(0, e.mod)} }

type waiters struct {
	ch chan struct{} // closed when the object appears
	n  int
}

var _ objects.Store = (*Store)(nil)

// Open opens the store, or makes it. ctx ends a long wait for another program, or a long first look at a large database; it is not kept. What a
// killed process has left is removed. Errors: ErrUnavailable if somebody else has the store open or writes to the database, ErrCorrupt if the
// database is damaged or not one of ProxyStore's; the text says what to do.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Path == "" || o.Path == ":memory:" {
		return nil, errors.New("storage: Options.Path must name a file; for objects in memory use objects.NewTable")
	}
	o.FileAbove = min(cmp.Or(o.FileAbove, DefaultFileAbove), FoldLimit)
	if o.FileAbove < 1 || o.MaxObject < 0 || o.Quota < 0 || o.BusyTimeout < 0 {
		return nil, fmt.Errorf("storage: negative limit: FileAbove %d, MaxObject %d, Quota %d, BusyTimeout %s", o.FileAbove, o.MaxObject, o.Quota, o.BusyTimeout)
	}
	o.BusyTimeout = cmp.Or(o.BusyTimeout, defaultBusy)
	if o.Pool == nil {
		o.Pool = transport.DefaultPool
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.open == nil {
		o.open = openDirectory
	}
	path, err := resolve(o.Path)
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	o.Path = path
	s := &Store{o: o, log: o.Logger, index: map[string]entry{}, waiters: map[string]*waiters{}, done: make(chan struct{})}
	s.maps.m = map[uint64]*transport.Buffer{}
	s.arrivals.m = map[uint64]struct{}{}
	if err := s.open(ctx); err != nil {
		s.release()
		return nil, fmt.Errorf("storage: open %s: %w", path, err)
	}
	s.w.start(s)
	return s, nil
}

// resolve follows links as Python does, so that the directory is beside the same file whatever name leads there.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("the database's directory: %w", err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// open takes the lock, opens the database and reads what is there.
func (s *Store) open(ctx context.Context) error {
	name := s.o.Path + ".objects"
	made := os.Mkdir(name, 0o700)
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return made
	}
	var err error
	if s.dir, err = s.o.open(name); err != nil {
		return err
	}
	if s.lock, err = s.dir.lock(); err != nil {
		return err
	}
	if s.db, err = openDatabase(ctx, s.o); err == nil {
		err = s.load(made == nil)
	}
	if err == nil && !s.o.NoSync {
		err = syncDirectory(filepath.Dir(s.o.Path)) // the names of the database and of the directory
	}
	if err != nil {
		if made == nil { // left there it would look as if somebody had agreed to go on without the files; see load
			_ = s.dir.remove(lockName) // while it is locked, so that nobody else can have it
			_ = os.Remove(name)
		}
		return err
	}
	s.makeReserve()
	return nil
}

func (s *Store) release() {
	if s.db != nil {
		s.closeErr = s.db.close()
	}
	if s.dir != nil {
		_ = s.dir.close()
	}
	if s.lock != nil {
		_ = s.lock.Close()
	}
}

// load fills the index, and removes files that belong to no object and objects whose file is not there.
func (s *Store) load(fresh bool) error {
	var err error
	if s.w.version, _, err = s.db.w.integer(context.Background(), dataVersion); err != nil {
		return s.db.explain(err)
	}
	index, err := s.db.objects()
	if err != nil {
		return err
	}
	onDisk, err := s.dir.list()
	if err != nil {
		return err
	}
	sizes := make(map[uint64]int64, len(onDisk))
	for _, f := range onDisk {
		if n, ok := parseFileName(f.name); ok {
			sizes[n] = f.size
		} else if f.name == reserveName && f.size != reserveSize {
			_ = s.dir.remove(reserveName) // half written; it is made again
		} else if f.name != lockName && f.name != reserveName {
			s.log.Warn("an unknown file among the objects stays; remove it", "file", f.name)
		}
	}
	var lost []string
	for key, e := range index {
		if e.file == 0 {
			continue
		}
		size, ok := sizes[e.file]
		switch {
		case !ok:
			s.log.Error("the file of an object is missing: somebody removed it; the object is lost", "key", key, "file", fileName(e.file), "bytes", e.size)
		case size != e.size:
			s.log.Error("the file of an object has another size: somebody changed it; the object is lost", "key", key, "file", fileName(e.file),
				"bytes", size, "want", e.size)
		default:
			delete(sizes, e.file)
			continue
		}
		lost = append(lost, key)
	}
	if fresh && len(lost) > 0 {
		return fmt.Errorf("%w: the directory %s.objects with the files of %d objects is missing: put it back, or make an empty directory of that name "+
			"to go on without these objects", transport.ErrCorrupt, s.o.Path, len(lost))
	}
	if len(lost) > 0 {
		if err := s.db.forget(lost); err != nil {
			return err
		}
		for _, key := range lost {
			delete(index, key)
		}
	}
	for n := range sizes {
		s.log.Info("removing a file that belongs to no object: what a killed process left, or a version that was replaced", "file", fileName(n), "bytes", sizes[n])
		if err := s.dir.remove(fileName(n)); err != nil {
			s.log.Warn("a file that belongs to no object stays", "file", fileName(n), "error", err)
		}
	}
	s.index = index
	for _, e := range index {
		s.count(e, 1)
	}
	return nil
}

// count adds e to the sums, or takes it out for a sign of -1.
func (s *Store) count(e entry, sign int64) {
	s.held.Add(sign * e.size)
	if e.file != 0 {
		s.files.Add(sign)
		s.fileBytes.Add(sign * e.size)
	}
}

// begin is called by whoever will use the database or the directory, and ends with s.incoming.Done. It fails when s is closed.
func (s *Store) begin() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return transport.ErrClosed
	}
	s.incoming.Add(1)
	return nil
}

// lookup is find that does not mind that s is closed.
func (s *Store) lookup(id string) (entry, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.index[id]
	return e, ok
}

func (s *Store) find(id string) (entry, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return entry{}, transport.ErrClosed
	}
	e, ok := s.index[id]
	if !ok {
		return entry{}, transport.ErrNotFound
	}
	return e, nil
}

// Stat implements [objects.Store]. It does not touch the disk.
func (s *Store) Stat(id string) (objects.Info, error) {
	e, err := s.find(id)
	if err != nil {
		return objects.Info{}, err
	}
	return e.info(), nil
}

// Exists implements [objects.Store]. It does not touch the disk.
func (s *Store) Exists(id string) bool {
	_, err := s.find(id)
	return err == nil
}

// Get implements [objects.Store]. An object in a file is mapped: nobody else may shorten the file while it is. One in the database is read into
// memory of the garbage collector.
func (s *Store) Get(id string) (*transport.Buffer, error) {
	var b *transport.Buffer
	_, err := s.read(id, func(e entry) (err error) {
		if e.file != 0 {
			b, err = s.mapFile(id, e)
			return err
		}
		value, err := s.db.value(id, e)
		if err != nil {
			return err
		}
		b = transport.FromBytes(value)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Open returns the file of an object, for sendfile, and what it holds. The caller owns f, which stays the same version whatever happens to the
// object. errors.ErrUnsupported where the bytes are in the database: then [Store.Get] copies less.
func (s *Store) Open(id string) (*os.File, objects.Info, error) {
	var f *os.File
	e, err := s.read(id, func(e entry) (err error) {
		if e.file == 0 {
			return fmt.Errorf("an object in the database: %w", errors.ErrUnsupported)
		}
		f, err = s.openFile(e)
		return err
	})
	if err != nil {
		return nil, objects.Info{}, err
	}
	return f, e.info(), nil
}

// read calls get with where the object is, again if it was replaced or deleted meanwhile.
func (s *Store) read(id string, get func(entry) error) (entry, error) {
	if err := s.begin(); err != nil {
		return entry{}, err
	}
	defer s.incoming.Done()
	repaired := false
	for {
		e, err := s.find(id)
		if err != nil {
			return entry{}, err
		}
		err = get(e)
		if err == nil || !errors.Is(err, errGone) {
			return e, err
		}
		s.w.settle() // the transaction that changed the object may not be in the index yet
		now, ferr := s.find(id)
		switch {
		case ferr != nil || now != e:
			continue
		case e.file != 0:
			return entry{}, fmt.Errorf("%w: the file %s of the object in %s.objects is missing or was changed: put it back from a copy, or put the object again",
				transport.ErrCorrupt, fileName(e.file), s.o.Path)
		case repaired:
			return entry{}, fmt.Errorf("%w: the database's value of the object is not what its index says: check it with sqlite3 %s 'PRAGMA integrity_check'",
				transport.ErrCorrupt, s.o.Path)
		}
		repaired = true
		if err := s.w.do(&op{kind: opRepair, key: id}); err != nil { // another program deleted it, replaced it, or vacuumed
			return entry{}, err
		}
	}
}

// Share implements [objects.Store]: a file could be changed by a peer that has a descriptor of it, so there is nothing to share.
func (s *Store) Share(id string) (*os.File, int64, error) {
	if _, err := s.find(id); err != nil {
		return nil, 0, err
	}
	return nil, 0, fmt.Errorf("an object on disk: %w", errors.ErrUnsupported)
}

// Adopt implements [objects.Store]: it cannot, and takes f all the same.
func (s *Store) Adopt(_ string, f *os.File, _ int64, _ objects.PutOptions) error {
	_ = f.Close() // nothing was written to it
	return fmt.Errorf("memory of a peer for an object on disk: %w", errors.ErrUnsupported)
}

// Evict implements [objects.Store]. If the database cannot be written the object stays, which the Logger is told; [Store.Remove] returns the error.
func (s *Store) Evict(id string) bool {
	ok, err := s.Remove(id)
	if err != nil && !errors.Is(err, transport.ErrClosed) {
		s.log.Error("an object could not be deleted", "key", id, "error", err)
	}
	return ok
}

// Remove deletes the object and reports whether there was one, when that is durable.
func (s *Store) Remove(id string) (bool, error) {
	if err := s.begin(); err != nil {
		return false, err
	}
	defer s.incoming.Done()
	if _, err := s.find(id); err != nil {
		return false, nil
	}
	o := &op{kind: opRemove, key: id}
	err := s.w.do(o)
	return o.found && err == nil, err
}

// Wait implements [objects.Store].
func (s *Store) Wait(ctx context.Context, id string) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return transport.ErrClosed
	}
	if _, ok := s.index[id]; ok {
		s.mu.Unlock()
		return nil
	}
	if err := ctx.Err(); err != nil {
		s.mu.Unlock()
		return err
	}
	w := s.waiters[id]
	if w == nil {
		w = &waiters{ch: make(chan struct{})}
		s.waiters[id] = w
	}
	w.n++
	s.mu.Unlock()
	s.waiting.Add(1)
	defer s.waiting.Add(-1)

	var err error
	select {
	case <-w.ch:
	case <-ctx.Done():
		err = ctx.Err()
	case <-s.done:
		err = transport.ErrClosed
	}
	s.mu.Lock()
	if w.n--; w.n == 0 && s.waiters[id] == w {
		delete(s.waiters, id)
	}
	s.mu.Unlock()
	return err
}

// wake wakes who waits for the object. s.mu is held.
func (s *Store) wake(id string) {
	if w := s.waiters[id]; w != nil {
		close(w.ch)
		delete(s.waiters, id)
	}
}

// Usage returns what s holds.
func (s *Store) Usage() Usage {
	s.mu.RLock()
	n := int64(len(s.index))
	s.mu.RUnlock()
	return Usage{
		Objects: n, Bytes: s.held.Load(), Files: s.files.Load(), FileBytes: s.fileBytes.Load(), Arriving: s.arriving.Load(),
		Quota: s.o.Quota, MaxObject: s.o.MaxObject, Puts: s.puts.Load(), Evictions: s.evictions.Load(), Commits: s.commits.Load(),
		Refusals: s.refusals.Load(), Waiting: s.waiting.Load(),
	}
}

// Keys iterates over the objects that exist now, in no order: one that is deleted during the iteration is left out, one that is stored during it
// may be. The loop may call any method of s.
func (s *Store) Keys() iter.Seq2[string, objects.Info] {
	return func(yield func(string, objects.Info) bool) {
		s.mu.RLock()
		keys := make([]string, 0, len(s.index))
		for key := range s.index {
			keys = append(keys, key)
		}
		s.mu.RUnlock()
		for _, key := range keys {
			if e, ok := s.lookup(key); ok && !yield(key, e.info()) {
				return
			}
		}
	}
}

// Close waits for calls that are under way, writes everything into the database file proper and closes it. Objects that are still on their way in
// fail with ErrClosed, as do later calls; who waits is woken. Buffers and files that were handed out stay valid. Idempotent.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		close(s.done)
		s.mu.Unlock()
		s.incoming.Wait()
		s.w.stop()
		if err := s.db.checkpoint(); err != nil {
			s.log.Warn("the database's log could not be moved into the database; nothing is lost, it stays beside it", "path", s.o.Path, "error", err)
		}
		s.arrivals.Lock()
		for n := range s.arrivals.m { // their owners find out when they go on
			_ = s.dir.remove(fileName(n)) // else the next Open does it
		}
		s.arrivals.Unlock()
		s.release()
	})
	return s.closeErr
}

// admit checks an object before any memory is taken for it. A negative size is unknown.
func (s *Store) admit(id string, size int64, o objects.PutOptions) error {
	switch {
	case len(id) == 0 || len(id) > objects.MaxID:
		return fmt.Errorf("%w: %d bytes long, not 1 to %d", transport.ErrInvalidKey, len(id), objects.MaxID)
	case !utf8.ValidString(id) || strings.IndexByte(id, 0) >= 0:
		return fmt.Errorf("%w: a key in the database is UTF-8 text without zero bytes", transport.ErrInvalidKey)
	case o.TTL > 0:
		return fmt.Errorf("an object with a time to live in a database, which has none: %w; delete it instead", errors.ErrUnsupported)
	}
	return s.fits(size)
}

// fits checks the size alone. The text is that of ProxyStore's ObjectSizeExceededError.
func (s *Store) fits(size int64) error {
	if s.o.MaxObject > 0 && size > s.o.MaxObject {
		s.refusals.Add(1)
		return fmt.Errorf("%w: bytes value has size %s which exceeds the %s object limit; cut it, or raise max_object_size", transport.ErrTooLarge,
			readable(size), readable(s.o.MaxObject))
	}
	return nil
}

// readable is proxystore.utils.data.bytes_to_readable.
func readable(n int64) string {
	v, suffix := float64(n), "B"
	switch {
	case n >= 1e12:
		v, suffix = v/1e12, "TB"
	case n >= 1e9:
		v, suffix = v/1e9, "GB"
	case n >= 1e6:
		v, suffix = v/1e6, "MB"
	case n >= 1e3:
		v, suffix = v/1e3, "KB"
	}
	text := strings.TrimRight(strings.TrimRight(strconv.FormatFloat(v, 'f', 3, 64), "0"), ".")
	return cmp.Or(text, "0") + " " + suffix
}

// reserve counts n more arriving bytes against the quota.
func (s *Store) reserve(n int64) error {
	all := s.arriving.Add(n)
	if held := s.held.Load(); s.o.Quota > 0 && n > 0 && all+held > s.o.Quota {
		s.arriving.Add(-n)
		s.refusals.Add(1)
		return &failure{class: transport.ErrFull, text: fmt.Sprintf("the endpoint's disk quota is reached: %d bytes of %d are taken, %d of them by objects on "+
			"their way in, and %d more were asked for; evict objects, or raise the quota", all-n+held, s.o.Quota, all-n, n)}
	}
	return nil
}
