package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/proxyplane/proxyplane/transport"
)

// Fold moves the objects that are files into the database, so that Python's endpoint can serve them. Versions stay as they are. Objects beyond
// [FoldLimit] stay files, and then Fold returns an ErrTooLarge that names them after it has moved all others. Each object is in memory while it
// is moved. It may be called at any time; objects that are stored meanwhile may stay files. On error, or when ctx ends, what was moved is moved.
func (s *Store) Fold(ctx context.Context) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.incoming.Done()
	s.mu.RLock()
	files := map[string]entry{}
	for key, e := range s.index {
		if e.file != 0 {
			files[key] = e
		}
	}
	s.mu.RUnlock()
	var large int
	var example string
	var size int64
	for key, e := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.size > FoldLimit {
			large++
			if e.size > size {
				example, size = key, e.size
			}
			continue
		}
		if err := s.fold(key, e); err != nil {
			return fmt.Errorf("move %q into the database: %w", key, err)
		}
	}
	if large > 0 {
		return fmt.Errorf("%w: %d objects have more than the %d bytes that SQLite takes, and stay files that a Python endpoint does not see; the largest is "+
			"%q of %d bytes: evict them, or serve them from here", transport.ErrTooLarge, large, FoldLimit, example, size)
	}
	return nil
}

func (s *Store) fold(key string, e entry) error {
	b, err := s.mapFile(key, e)
	if errors.Is(err, errGone) {
		if now, ok := s.lookup(key); !ok || now != e {
			return nil // deleted or replaced meanwhile
		}
		return fmt.Errorf("%w: its file %s is missing or was changed", transport.ErrCorrupt, fileName(e.file))
	}
	if err != nil {
		return err
	}
	defer b.Release()
	return s.w.do(&op{kind: opFold, key: key, value: b.Bytes(), file: e.file})
}
