package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"

	"github.com/proxyplane/proxyplane/transport"
)

// Names in our directory beside those of the objects' files.
const (
	lockName    = "lock"
	reserveName = "reserve"
)

// reserveSize is given up on a full disk so that the log has room for deletions.
const reserveSize = 1 << 20

// directory is where the objects' files are. Tests put their own layer here, which fails, or forgets what was not synced.
type directory interface {
	create(name string) (file, error) // a new file; fs.ErrExist if there is one
	open(name string) (*os.File, error)
	remove(name string) error
	sync() error // the names: what was created and removed
	list() ([]listed, error)
	lock() (*os.File, error) // ErrUnavailable if somebody else has it
	close() error
}

// file is one that is being written.
type file interface {
	Write([]byte) (int, error)
	Sync() error
	Close() error
	allocate(size int64) error // room on the disk for as many bytes, where that can be had in advance
	flush(off, n int64)        // starts to write them to the disk; only makes Sync shorter
}

type listed struct {
	name string
	size int64
}

// fileName is the name of a file: never made from a key.
func fileName(n uint64) string { return fmt.Sprintf("%016x", n) }

func parseFileName(name string) (uint64, bool) {
	n, err := strconv.ParseUint(name, 16, 64)
	return n, err == nil && n != 0 && fileName(n) == name
}

// rootDirectory is a directory of the operating system.
type rootDirectory struct{ root *os.Root }

func openDirectory(name string) (directory, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &rootDirectory{root}, nil
}

func (d *rootDirectory) create(name string) (file, error) {
	f, err := d.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (d *rootDirectory) open(name string) (*os.File, error) { return d.root.Open(name) }

func (d *rootDirectory) remove(name string) error { return d.root.Remove(name) }

func (d *rootDirectory) sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	err = syncNames(f)
	return errors.Join(err, f.Close())
}

func (d *rootDirectory) list() ([]listed, error) {
	entries, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	files := make([]listed, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		size := info.Size()
		if !info.Mode().IsRegular() {
			size = -1 // never that of an object
		}
		files = append(files, listed{e.Name(), size})
	}
	return files, nil
}

func (d *rootDirectory) lock() (*os.File, error) {
	f, err := d.root.OpenFile(lockName, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%w: another endpoint has this store open: stop it first (%w)", transport.ErrUnavailable, err)
	}
	return f, nil
}

func (d *rootDirectory) close() error { return d.root.Close() }

type diskFile struct{ *os.File }

func (f diskFile) allocate(size int64) error { return allocate(f.File, size) }
func (f diskFile) flush(off, n int64)        { startWriteback(f.File, off, n) }

// syncDirectory makes the names in a directory durable.
func syncDirectory(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	err = syncNames(f)
	return errors.Join(err, f.Close())
}

// newFile makes a file for an object of that size, or of unknown size if it is negative. It is removed by dropFile, or becomes an object's in the
// writer; until then Close removes it.
func (s *Store) newFile(size int64) (uint64, file, error) {
	for {
		n := rand.Uint64()>>1 | 1 // SQLite's integers have a sign
		f, err := s.dir.create(fileName(n))
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			s.arrivals.Lock()
			s.arrivals.m[n] = struct{}{}
			s.arrivals.Unlock()
			if size > 0 {
				if err = f.allocate(size); err != nil {
					_ = f.Close()
					s.dropFile(n)
				}
			}
		}
		if err != nil {
			return 0, nil, s.fileError(err)
		}
		return n, f, nil
	}
}

// arrived takes the file out of those that Close removes.
func (s *Store) arrived(n uint64) {
	s.arrivals.Lock()
	delete(s.arrivals.m, n)
	s.arrivals.Unlock()
}

// dropFile removes the file of an object that is gone, or never came. One that stays is removed by the next Open.
func (s *Store) dropFile(n uint64) {
	s.arrived(n)
	s.maps.Lock()
	delete(s.maps.m, n)
	s.maps.Unlock()
	if err := s.dir.remove(fileName(n)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrClosed) {
		s.log.Warn("a file that belongs to no object stays until the store is opened again", "file", fileName(n), "error", err)
	}
}

// fileError gives an error of our files its class.
func (s *Store) fileError(err error) error {
	switch {
	case isFull(err):
		s.refusals.Add(1)
		return noSpace(s.o.Path, err)
	case errors.Is(err, fs.ErrClosed):
		return transport.ErrClosed
	}
	return &failure{transport.ErrUnavailable, err, fmt.Sprintf("unavailable: a file in %s.objects: check the disk, its permissions and the limit of open files",
		s.o.Path)}
}

// openFile opens an object's file for reading. errGone if there is none of the right size: touching a mapping beyond the end would kill us.
func (s *Store) openFile(e entry) (*os.File, error) {
	f, err := s.dir.open(fileName(e.file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errGone
	}
	if err != nil {
		return nil, s.fileError(err)
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, s.fileError(err)
	}
	if st.Size() != e.size {
		_ = f.Close()
		return nil, errGone
	}
	return f, nil
}

// mapFile returns the object mapped; readers at the same time share one mapping.
func (s *Store) mapFile(id string, e entry) (*transport.Buffer, error) {
	s.maps.Lock()
	if b := s.maps.m[e.file]; b != nil && b.TryRetain() {
		s.maps.Unlock()
		return b, nil
	}
	s.maps.Unlock()
	f, err := s.openFile(e)
	if err != nil {
		return nil, err
	}
	b, err := transport.Map(f, 0, e.size)
	_ = f.Close()
	if err != nil {
		return nil, s.fileError(err)
	}
	s.maps.Lock()
	s.maps.m[e.file] = b
	s.maps.Unlock()
	if now, ok := s.lookup(id); !ok || now.file != e.file { // dropFile may have been here before
		s.maps.Lock()
		delete(s.maps.m, e.file)
		s.maps.Unlock()
	}
	return b, nil
}

// save writes an object that is in memory to a new file, durably but for the file's name. It borrows data.
func (s *Store) save(data []byte) (uint64, error) {
	n, f, err := s.newFile(int64(len(data)))
	if err != nil {
		return 0, err
	}
	for off := 0; off < len(data) && err == nil; {
		piece := data[off:min(off+writeback, len(data))]
		if _, err = f.Write(piece); err == nil && !s.o.NoSync && len(data) > writeback {
			f.flush(int64(off), int64(len(piece)))
		}
		off += len(piece)
	}
	if err := s.finish(n, f, err); err != nil {
		return 0, err
	}
	return n, nil
}

// finish makes a file durable and closes it. If that fails, or err says that writing has, the file is removed.
func (s *Store) finish(n uint64, f file, err error) error {
	if err == nil && !s.o.NoSync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		s.dropFile(n)
		return s.fileError(err)
	}
	return nil
}

// makeReserve takes room on the disk that freeReserve gives back. Without it deletions on a full disk may fail, no more.
func (s *Store) makeReserve() {
	if s.reserved {
		return
	}
	f, err := s.dir.create(reserveName)
	if err == nil {
		noise := make([]byte, reserveSize) // not zeros, which some file systems do not store
		_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
		_, err = f.Write(noise)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			_ = s.dir.remove(reserveName)
		}
	}
	s.reserved = err == nil || errors.Is(err, fs.ErrExist)
	if !s.reserved && !isFull(err) {
		s.log.Warn("no room could be put aside for deletions on a full disk", "error", err)
	}
}

func (s *Store) freeReserve() bool {
	if !s.reserved {
		return false
	}
	s.reserved = false
	return s.dir.remove(reserveName) == nil
}
