package objects

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/transport"
)

// spillPrefix begins the names of the servers' directories; then comes the host, since a lock need not be seen from another one that shares the
// file system. A file named spillLock inside is locked for as long as its server lives.
const (
	spillPrefix = "proxyplane-spill-"
	spillLock   = "lock"
)

// spill is the part of a Table on disk: a directory of its own, with one file for each object.
type spill struct {
	parent  *os.Root
	name    string // of the own directory, in parent
	root    *os.Root
	lock    *os.File
	quota   int64
	log     *slog.Logger
	objects atomic.Int64
	bytes   atomic.Int64 // of objects
	taken   atomic.Int64 // on disk
	spills  atomic.Int64
	closed  atomic.Bool
	write   func(*os.File, []byte) (int, error) // os.File.Write; tests make it fail

	mu      sync.Mutex // held while room is made
	queue   []candidate
	failing bool
}

// spilled names a file; the zero value is none.
type spilled struct{ n uint64 }

func (f spilled) String() string { return strconv.FormatUint(f.n, 16) }

type candidate struct {
	e    *entry
	used int64
}

func openSpill(o TableOptions) (*spill, error) {
	if err := os.MkdirAll(o.SpillDir, 0o700); err != nil {
		return nil, err
	}
	parent, err := os.OpenRoot(o.SpillDir)
	if err != nil {
		return nil, err
	}
	s := &spill{parent: parent, quota: o.SpillBytes, log: o.Logger, write: (*os.File).Write}
	if err := s.open(); err != nil {
		_ = parent.Close()
		return nil, err
	}
	return s, nil
}

// open makes the own directory and removes those of servers that are dead. Both are done under a lock, so that nobody takes a directory for dead
// whose server is just about to lock it.
func (s *spill) open() error {
	all, err := s.parent.OpenFile(spillPrefix+spillLock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer all.Close()
	if err := lockFile(all, true); err != nil {
		return err
	}
	prefix := spillPrefix + thisHost() + "-"
	if canLock {
		s.clean(prefix)
	}
	s.name = prefix + strconv.FormatUint(rand.Uint64(), 16)
	if err := s.parent.Mkdir(s.name, 0o700); err != nil {
		return err
	}
	if s.root, err = s.parent.OpenRoot(s.name); err != nil {
		return err
	}
	if s.lock, err = s.root.OpenFile(spillLock, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		_ = s.root.Close()
		return err
	}
	if err := lockFile(s.lock, false); err != nil {
		_ = s.lock.Close()
		_ = s.root.Close()
		return err
	}
	return nil
}

// thisHost is the host's name in letters that any file system takes.
func thisHost() string {
	name, _ := os.Hostname() // without one, all that have none are the same
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// clean removes the directories of that prefix whose server does not live any more.
func (s *spill) clean(prefix string) {
	entries, err := fs.ReadDir(s.parent.FS(), ".")
	if err != nil {
		s.log.Warn("leftovers of dead servers stay", "dir", s.parent.Name(), "error", err)
		return
	}
	for _, d := range entries {
		if !d.IsDir() || !strings.HasPrefix(d.Name(), prefix) {
			continue
		}
		f, err := s.parent.OpenFile(d.Name()+"/"+spillLock, os.O_RDWR, 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // without a lock its server died before it had one
			s.log.Warn("a directory of spilled objects stays", "dir", d.Name(), "error", err)
			continue
		}
		if err == nil {
			if lockFile(f, false) != nil { // its server lives
				_ = f.Close()
				continue
			}
			_ = f.Close()
		}
		if err := s.parent.RemoveAll(d.Name()); err != nil {
			s.log.Warn("a dead server's spilled objects stay", "dir", d.Name(), "error", err)
			continue
		}
		s.log.Info("removed a dead server's spilled objects", "dir", d.Name())
	}
}

// onDisk is how much a file of that size takes there.
func onDisk(size int64) int64 { return (size + 4095) &^ 4095 }

// save writes an object to a new file. It borrows b.
func (s *spill) save(b *transport.Buffer) (spilled, error) {
	size := int64(b.Len())
	if s.quota > 0 && s.taken.Load()+onDisk(size) > s.quota { // only one goroutine saves
		return spilled{}, fmt.Errorf("%d bytes on disk, of --spill-bytes %d", s.taken.Load(), s.quota)
	}
	file := spilled{rand.Uint64() | 1}
	f, err := s.root.OpenFile(file.String(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return spilled{}, err
	}
	n, err := s.write(f, b.Bytes())
	if err == nil && n != b.Len() {
		err = fmt.Errorf("wrote %d of %d bytes", n, b.Len())
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		if rerr := s.root.Remove(file.String()); rerr != nil {
			s.log.Warn("a half written file stays", "file", file.String(), "error", rerr)
		}
		return spilled{}, err
	}
	s.objects.Add(1)
	s.bytes.Add(size)
	s.taken.Add(onDisk(size))
	return file, nil
}

// read returns the object in file, mapped.
func (s *spill) read(file spilled, size int64) (*transport.Buffer, error) {
	f, err := s.root.Open(file.String())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: somebody else removed a spilled object: %w", transport.ErrCorrupt, err)
	}
	if err != nil {
		return nil, unreadable(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, unreadable(err)
	}
	if st.Size() != size { // touching what is not there would kill us
		return nil, fmt.Errorf("%w: a spilled object has %d of %d bytes: somebody else changed its file", transport.ErrCorrupt, st.Size(), size)
	}
	b, err := transport.Map(f, 0, size)
	if err != nil {
		return nil, unreadable(err)
	}
	return b, nil
}

func unreadable(err error) error {
	return fmt.Errorf("%w: a spilled object cannot be read now: %w: descriptors, mappings and the disk may be at their limits", transport.ErrUnavailable, err)
}

// remove deletes a file whose object is gone.
func (s *spill) remove(file spilled, size int64) {
	s.objects.Add(-1)
	s.bytes.Add(-size)
	if err := s.root.Remove(file.String()); err != nil && !s.closed.Load() { // close removes them all
		s.log.Warn("the file of a deleted object stays", "file", file.String(), "error", err)
	}
	s.taken.Add(-onDisk(size))
}

func (s *spill) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed.Store(true)
	s.queue = nil
	_ = s.root.Close()
	err := s.parent.RemoveAll(s.name)
	_ = s.lock.Close() // after the directory, or somebody might take it for dead and log so
	_ = s.parent.Close()
	return err
}

// makeRoom spills objects, least recently used first, until n bytes could be counted. It waits for others who do the same.
func (t *Table) makeRoom(n int64) error {
	s := t.spill
	s.mu.Lock()
	defer s.mu.Unlock()
	for scanned := 0; !t.mem.take(n); {
		if s.closed.Load() || t.closed.Load() {
			return transport.ErrClosed
		}
		if arriving := t.mem.reserved.Load(); n > t.mem.limit-arriving { // then nothing need move to disk in vain
			return fmt.Errorf("%d bytes are arriving", arriving)
		}
		if len(s.queue) == 0 {
			if s.queue = t.oldest(); len(s.queue) == 0 || scanned == maxScans {
				return errors.New("all that is left in memory is in use")
			}
			scanned++
		}
		c := s.queue[0]
		s.queue = s.queue[1:]
		freed, err := t.spillEntry(c)
		if err != nil {
			if !s.failing { // once, not for each put that is refused
				s.failing = true
				s.log.Warn("spilling fails; objects stay in memory and new ones are refused", "bytes", c.e.size, "error", err)
			}
			return err
		}
		s.failing = false
		if freed {
			scanned = 0
		}
	}
	return nil
}

const (
	maxScans = 3    // in a row without any success, since everything found was used again meanwhile
	maxQueue = 4096 // objects found by one scan
)

// oldest returns objects in memory, the least recently used first.
func (t *Table) oldest() []candidate {
	var found []candidate
	shorten := func() {
		slices.SortFunc(found, func(a, b candidate) int { return int(a.used - b.used) })
		if len(found) > maxQueue {
			clear(found[maxQueue:])
			found = found[:maxQueue]
		}
	}
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		for _, e := range s.m {
			if e.buf != nil && e.size > 0 {
				found = append(found, candidate{e, e.used.Load()})
				if len(found) >= 4*maxQueue {
					shorten()
				}
			}
		}
		s.mu.RUnlock()
	}
	shorten()
	return found
}

// spillEntry moves one object to disk, unless it was used since it was found. Nothing is locked while it is written.
func (t *Table) spillEntry(c candidate) (bool, error) {
	e, s := c.e, t.shard(c.e.id)
	s.mu.RLock()
	if s.m[e.id] != e || e.buf == nil || e.used.Load() != c.used {
		s.mu.RUnlock()
		return false, nil
	}
	b := e.buf.Retain()
	s.mu.RUnlock()
	defer b.Release()
	file, err := t.spill.save(b)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	if s.m[e.id] != e || e.buf != b { // deleted, replaced or shared meanwhile
		s.mu.Unlock()
		t.spill.remove(file, e.size)
		return false, nil
	}
	gone := dropped{buf: e.buf, foreign: e.foreign, share: e.share}
	e.buf, e.foreign, e.share, e.file = nil, false, nil, file
	s.bytes.Add(-e.size)
	s.mu.Unlock()
	t.spill.spills.Add(1)
	t.drop(gone)
	return true, nil
}
