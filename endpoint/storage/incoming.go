package storage

import (
	"errors"
	"fmt"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

const (
	pieceSize  = 1 << 20 // memory of an object that goes to a file
	firstPiece = 64 << 10
	writeback  = 8 << 20 // bytes after which the system is told to begin writing them
)

// incoming is an object on its way in: in memory up to FileAbove, then in a file, with one piece in memory.
type incoming struct {
	s     *Store
	id    string
	size  int64             // announced; negative if not
	n     int64             // bytes that Next has given out
	taken int64             // bytes counted as arriving
	buf   *transport.Buffer // the whole object, or the latest piece of it
	used  int               // bytes of buf that Next has given out
	f     file              // nil while the object is in memory
	num   uint64            // its number
	wrote int64             // bytes in f
	begun int64             // of them, those whose writing was begun
	err   error             // why it cannot go on, or errEnded
}

var _ objects.Incoming = (*incoming)(nil)

var errEnded = errors.New("the object was committed or dropped before")

// Create implements [objects.Store]. An announced size is counted against the quota, and room on the disk is taken for it where the system can do
// that, so that a Commit later does not fail for lack of room. Memory that Next gives is valid until the next call of any method; Commit
// returns when the object is durable.
func (s *Store) Create(id string, size int64, o objects.PutOptions) (objects.Incoming, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.incoming.Done()
	if err := s.admit(id, size, o); err != nil {
		return nil, err
	}
	in := &incoming{s: s, id: id, size: max(size, -1)}
	if size > 0 {
		if err := s.reserve(size); err != nil {
			return nil, err
		}
		in.taken = size
	}
	if size >= s.o.FileAbove {
		if err := in.toFile(); err != nil {
			s.arriving.Add(-in.taken)
			return nil, err
		}
	}
	return in, nil
}

// toFile begins the object's file.
func (in *incoming) toFile() (err error) {
	in.num, in.f, err = in.s.newFile(in.size)
	return err
}

func (in *incoming) Next(n int) ([]byte, error) {
	if in.err != nil {
		return nil, in.err
	}
	n = max(n, 1)
	if in.size >= 0 {
		left := in.size - in.n
		if left == 0 {
			return nil, fmt.Errorf("%w: more bytes than the %d that were announced", transport.ErrTooLarge, in.size)
		}
		n = int(min(int64(n), left))
	}
	if in.buf == nil || in.used == in.buf.Len() {
		if err := in.room(); err != nil {
			in.fail(err)
			return nil, err
		}
	}
	n = min(n, in.buf.Len()-in.used)
	if in.size < 0 {
		err := in.s.fits(in.n + int64(n))
		if err == nil {
			err = in.s.reserve(int64(n))
		}
		if err != nil {
			return nil, err
		}
		in.taken += int64(n)
	}
	piece := in.buf.Bytes()[in.used : in.used+n : in.used+n]
	in.used += n
	in.n += int64(n)
	return piece, nil
}

// room makes buf one with room.
func (in *incoming) room() error {
	s := in.s
	switch {
	case in.f != nil:
		if in.buf == nil {
			in.buf = s.o.Pool.Get(in.piece())
			return nil
		}
		return in.flush()
	case in.buf == nil:
		n := int64(firstPiece)
		if in.size >= 0 {
			n = in.size
		}
		in.buf = s.o.Pool.Get(int(min(n, s.o.FileAbove)))
	case int64(in.used) < s.o.FileAbove:
		bigger := s.o.Pool.Get(int(min(2*int64(in.used), s.o.FileAbove)))
		copy(bigger.Bytes(), in.buf.Bytes())
		in.buf.Release()
		in.buf = bigger
	default: // it is one of the large ones
		if err := s.begin(); err != nil {
			return err
		}
		err := in.toFile()
		s.incoming.Done()
		if err != nil {
			return err
		}
		if err := in.flush(); err != nil {
			return err
		}
		in.buf.Release()
		in.buf = s.o.Pool.Get(in.piece())
	}
	return nil
}

func (in *incoming) piece() int {
	if in.size >= 0 {
		return int(min(pieceSize, in.size))
	}
	return pieceSize
}

// flush writes the piece to the file.
func (in *incoming) flush() error {
	s := in.s
	if err := s.begin(); err != nil { // a Close meanwhile has removed the file
		return err
	}
	defer s.incoming.Done()
	n, err := in.f.Write(in.buf.Bytes()[:in.used])
	in.wrote += int64(n)
	if err != nil {
		return s.fileError(err)
	}
	in.used = 0
	if !s.o.NoSync && in.wrote-in.begun >= writeback {
		in.f.flush(in.begun, in.wrote-in.begun)
		in.begun = in.wrote
	}
	return nil
}

func (in *incoming) Commit() error {
	if in.err != nil {
		return in.err
	}
	if in.size >= 0 && in.n != in.size {
		err := fmt.Errorf("%w: %d bytes came, %d were announced; the object is dropped", transport.ErrCorrupt, in.n, in.size)
		in.Abort()
		return err
	}
	err := in.commit()
	in.fail(err)
	in.err = errEnded
	return err
}

func (in *incoming) commit() error {
	s := in.s
	if err := s.begin(); err != nil {
		return err
	}
	defer s.incoming.Done()
	if in.f == nil && in.n >= s.o.FileAbove { // it has just grown so large
		if err := in.toFile(); err != nil {
			return err
		}
	}
	o := &op{kind: opRow, key: in.id, value: []byte{}}
	if in.f != nil {
		var err error
		if in.buf != nil && in.used > 0 {
			err = in.flush()
		}
		f := in.f
		in.f = nil
		if err := s.finish(in.num, f, err); err != nil {
			return err
		}
		o.kind, o.file, o.size = opFile, in.num, in.n
	} else if in.buf != nil {
		o.value = in.buf.Bytes()[:in.used]
	}
	return s.store(o)
}

// store has the writer store an object, and removes its file if that fails. The caller is between begin and incoming.Done.
func (s *Store) store(o *op) error {
	err := s.w.do(o)
	if err != nil && o.kind == opFile {
		s.dropFile(o.file)
	}
	return err
}

// fail gives back what in holds. err is what the next calls return.
func (in *incoming) fail(err error) {
	in.err = err
	in.s.arriving.Add(-in.taken)
	in.taken = 0
	in.buf.Release()
	in.buf = nil
	if in.f != nil {
		_ = in.f.Close() // it is removed
		in.f = nil
		in.s.dropFile(in.num)
	}
}

func (in *incoming) Abort() {
	if in.err == nil {
		in.fail(errEnded)
	}
	in.err = errEnded
}

// Put implements [objects.Store]. It returns when the object is durable; b is borrowed until then and released.
func (s *Store) Put(id string, b *transport.Buffer, o objects.PutOptions) error {
	defer b.Release()
	if err := s.begin(); err != nil {
		return err
	}
	defer s.incoming.Done()
	size := int64(b.Len())
	if err := s.admit(id, size, o); err != nil {
		return err
	}
	if err := s.reserve(size); err != nil {
		return err
	}
	defer s.arriving.Add(-size)
	if size < s.o.FileAbove {
		value := b.Bytes()
		if value == nil {
			value = []byte{} // nil would be NULL
		}
		return s.store(&op{kind: opRow, key: id, value: value})
	}
	n, err := s.save(b.Bytes())
	if err != nil {
		return err
	}
	return s.store(&op{kind: opFile, key: id, file: n, size: size})
}
