package storage

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/proxyplane/proxyplane/transport"
)

// opKind is what an op does.
type opKind uint8

const (
	opRow    opKind = iota // store value in the database
	opFile                 // store the object that is in a file already
	opRemove               // delete the object
	opRepair               // make the index right for one key, whose row is not where it was
	opFold                 // move value, which is that of a file, into the database, unless the object is not in that file any more
)

// op is one change. The writer sets err and found, and then closes done.
type op struct {
	kind  opKind
	key   string
	value []byte // of opRow and opFold; lent until done
	file  uint64 // of opFile and opFold
	size  int64
	err   error
	found bool // by opRemove and opFold
	done  chan struct{}

	set bool  // there is a new entry
	now entry // it
}

// Limits of one transaction, so that its log stays small and nobody waits long.
const (
	groupOps   = 1024
	groupBytes = 16 << 20
)

// writer is the goroutine that changes the database: it takes all ops that have come while the transaction before was on its way to the disk, and
// does them in one.
type writer struct {
	s       *Store
	mu      sync.Mutex
	queue   []*op
	wake    chan struct{} // holds one value when there is something to do
	ended   chan struct{}
	running sync.Mutex // held from before a transaction commits until the index says so
	last    int64      // the version given last
	version int64      // of the database, by PRAGMA data_version; another number is another program's doing
}

const (
	dataVersion  = `PRAGMA data_version`
	advanceState = `UPDATE proxyplane_state SET last = max(last, ?1) WHERE id = 1`
	readState    = `SELECT last FROM proxyplane_state WHERE id = 1`
	insertBlob   = `INSERT OR REPLACE INTO blobs(rowid, key, value) VALUES (?1, ?2, ?3)`
	deleteBlob   = `DELETE FROM blobs WHERE key = ?1`
	insertObject = `INSERT OR REPLACE INTO proxyplane_objects(key, size, mod, row, file) VALUES (?1, ?2, ?3, NULL, ?4)`
	deleteObject = `DELETE FROM proxyplane_objects WHERE key = ?1`
	keepVersion  = `UPDATE proxyplane_objects SET mod = ?2 WHERE key = ?1`
	findBlob     = `SELECT rowid FROM blobs WHERE key = ?1`
	moveBlob     = `INSERT OR REPLACE INTO proxyplane_objects(key, size, mod, row, file) SELECT key, ?2, ?3, rowid, NULL FROM blobs WHERE key = ?1`
)

func (w *writer) start(s *Store) {
	w.s, w.wake, w.ended = s, make(chan struct{}, 1), make(chan struct{})
	go w.run()
}

// do hands o to the writer and waits for it. The caller is between begin and incoming.Done.
func (w *writer) do(o *op) error {
	o.done = make(chan struct{})
	w.mu.Lock()
	w.queue = append(w.queue, o)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	<-o.done
	return o.err
}

// settle waits until what has been committed is in the index.
func (w *writer) settle() {
	w.running.Lock()
	w.running.Unlock() //nolint:staticcheck // waiting is all
}

// stop ends the goroutine. Nobody calls do any more.
func (w *writer) stop() {
	close(w.wake)
	<-w.ended
}

func (w *writer) run() {
	defer close(w.ended)
	for range w.wake {
		for {
			group := w.take()
			if len(group) == 0 {
				break
			}
			w.commit(group)
			for _, o := range group {
				close(o.done)
			}
		}
	}
}

// take removes the next group from the queue.
func (w *writer) take() []*op {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, size := 0, 0
	for n < len(w.queue) && n < groupOps && (n == 0 || size+len(w.queue[n].value) <= groupBytes) {
		size += len(w.queue[n].value)
		n++
	}
	group := slices.Clone(w.queue[:n])
	rest := copy(w.queue, w.queue[n:])
	clear(w.queue[rest:])
	w.queue = w.queue[:rest]
	return group
}

// commit does a group in one transaction. If that fails, each alone, since one that is too much for the disk must not fail the others.
func (w *writer) commit(group []*op) {
	s := w.s
	if slices.ContainsFunc(group, func(o *op) bool { return o.kind == opFile }) && !s.o.NoSync {
		if err := s.dir.sync(); err != nil {
			err = s.fileError(err)
			for _, o := range group {
				if o.kind == opFile {
					o.err = err
				}
			}
			group = slices.DeleteFunc(slices.Clone(group), func(o *op) bool { return o.err != nil })
		}
	}
	if len(group) == 0 {
		return
	}
	err := w.try(group)
	if err != nil && len(group) > 1 && !errors.Is(err, transport.ErrUnavailable) {
		for _, o := range group {
			w.single(o)
		}
	} else if err != nil {
		w.retry(group, err)
	}
	if !s.reserved && !errors.Is(err, transport.ErrFull) {
		s.makeReserve()
	}
}

func (w *writer) single(o *op) {
	if err := w.try([]*op{o}); err != nil {
		w.retry([]*op{o}, err)
	}
}

// retry does a group again that has failed with err, if something can be done about that.
func (w *writer) retry(group []*op, err error) {
	s := w.s
	if errors.Is(err, transport.ErrFull) {
		// The log may hold nothing that is needed any more. If that does not help, a deletion gets what was put aside for it.
		_ = s.db.checkpoint()
		if err = w.try(group); errors.Is(err, transport.ErrFull) && group[0].kind == opRemove && s.freeReserve() {
			err = w.try(group)
		}
	}
	if err != nil {
		for _, o := range group {
			o.err, o.found = err, false
			if errors.Is(err, transport.ErrFull) {
				s.refusals.Add(1)
			}
		}
	}
}

// try does a group in one transaction, and then tells the index. It fails as a whole; an op that is wrong in itself fails alone.
func (w *writer) try(group []*op) error {
	s := w.s
	if s.o.onCommit != nil {
		s.o.onCommit(true)
	}
	w.running.Lock()
	defer w.running.Unlock()
	ctx := context.Background()
	c := s.db.w
	if _, err := c.exec(ctx, `BEGIN IMMEDIATE`); err != nil {
		return s.db.explain(err)
	}
	err := w.changes(ctx, group)
	if err == nil {
		_, err = c.exec(ctx, `COMMIT`)
	}
	if err != nil {
		_, _ = c.exec(ctx, `ROLLBACK`) // fails if SQLite has done it already
	}
	if s.o.onCommit != nil {
		s.o.onCommit(false)
	}
	if err != nil {
		return s.db.explain(err)
	}
	s.commits.Add(1)
	w.publish(group)
	return nil
}

// changes runs the statements of a group.
func (w *writer) changes(ctx context.Context, group []*op) error {
	s, c := w.s, w.s.db.w
	version, _, err := c.integer(ctx, dataVersion)
	if err != nil {
		return err
	}
	if w.version != version {
		if err := s.reload(); err != nil {
			return err
		}
	}
	w.version = version
	if _, err := c.exec(ctx, advanceState, time.Now().UnixNano()); err != nil {
		return err
	}
	last, ok, err := c.integer(ctx, readState)
	if err != nil {
		return err
	}
	if !ok || last > maxVersion {
		return s.db.foreign(errors.New("proxyplane_state is not ours any more: open the store again"))
	}
	w.last = last
	for _, o := range group {
		o.err, o.set, o.found = nil, false, false
		if err := w.change(ctx, o); err != nil {
			if e, ok := errors.AsType[*sqlite.Error](err); ok {
				switch e.Code() & 0xff {
				case lib.SQLITE_TOOBIG, lib.SQLITE_CONSTRAINT, lib.SQLITE_MISMATCH: // this statement alone was undone
					o.err = s.db.explain(err)
					continue
				}
			}
			return err
		}
	}
	return nil
}

// change runs the statements of one op.
func (w *writer) change(ctx context.Context, o *op) error {
	s, c := w.s, w.s.db.w
	w.last++
	mod := w.last
	switch o.kind {
	case opRow:
		// The version is the row's number too: so a reader that looks for the row finds this version, or nothing. The trigger does the rest.
		if _, err := c.exec(ctx, insertBlob, mod, o.key, o.value); err != nil {
			return err
		}
		o.set, o.now = true, entry{size: int64(len(o.value)), mod: mod, row: mod}
	case opFile:
		if _, err := c.exec(ctx, deleteBlob, o.key); err != nil {
			return err
		}
		if _, err := c.exec(ctx, advanceState, mod); err != nil {
			return err
		}
		if _, err := c.exec(ctx, insertObject, o.key, o.size, mod, int64(o.file)); err != nil {
			return err
		}
		o.set, o.now = true, entry{size: o.size, mod: mod, file: o.file}
	case opRemove:
		n, err := c.exec(ctx, deleteBlob, o.key)
		if err != nil {
			return err
		}
		m, err := c.exec(ctx, deleteObject, o.key)
		if err != nil {
			return err
		}
		o.found = n > 0 || m > 0
	case opFold:
		e, ok := s.lookup(o.key)
		if o.found = ok && e.file == o.file; !o.found {
			return nil
		}
		if _, err := c.exec(ctx, insertBlob, mod, o.key, o.value); err != nil {
			return err
		}
		if _, err := c.exec(ctx, keepVersion, o.key, e.mod); err != nil {
			return err
		}
		o.set, o.now = true, entry{size: e.size, mod: e.mod, row: mod}
	case opRepair:
		return w.repair(ctx, o)
	}
	return nil
}

// repair looks the key up in blobs. Its version stays: had another program replaced the value, the trigger would have changed that.
func (w *writer) repair(ctx context.Context, o *op) error {
	s, c := w.s, w.s.db.w
	e, ok := s.lookup(o.key)
	if !ok || e.file != 0 {
		return nil
	}
	row, ok, err := c.integer(ctx, findBlob, o.key)
	if err != nil {
		return err
	}
	if !ok {
		_, err = c.exec(ctx, deleteObject, o.key)
		return err
	}
	if _, err := c.exec(ctx, moveBlob, o.key, e.size, e.mod); err != nil {
		return err
	}
	o.set, o.now = true, entry{size: e.size, mod: e.mod, row: row}
	return nil
}

// publish makes what was committed visible, and removes the files of what is gone.
func (w *writer) publish(group []*op) {
	s := w.s
	var gone []uint64
	s.mu.Lock()
	for _, o := range group {
		if o.err != nil || o.kind == opFold && !o.found {
			continue
		}
		old, had := s.index[o.key]
		if o.set {
			s.index[o.key] = o.now
			s.count(o.now, 1)
			s.wake(o.key)
		} else if o.kind == opRemove || o.kind == opRepair && old.file == 0 {
			delete(s.index, o.key)
		} else {
			continue
		}
		if had {
			s.count(old, -1)
			if old.file != 0 && old.file != o.now.file {
				gone = append(gone, old.file)
			}
		}
		switch o.kind {
		case opRow, opFile:
			s.puts.Add(1)
		case opRemove:
			s.evictions.Add(1)
		}
	}
	s.mu.Unlock()
	for _, o := range group {
		if o.kind == opFile && o.err == nil {
			s.arrived(o.file)
		}
	}
	for _, n := range gone {
		s.dropFile(n)
	}
}

// reload reads the index again, since another program has changed the database. It runs in the writer's transaction, before its changes.
func (s *Store) reload() error {
	index, err := s.db.objects()
	if err != nil {
		return err
	}
	s.log.Info("another program has changed the database; its index is read again", "path", s.o.Path, "objects", len(index))
	var gone []uint64
	s.mu.Lock()
	for key, e := range s.index {
		s.count(e, -1)
		if now := index[key]; e.file != 0 && now.file != e.file {
			gone = append(gone, e.file)
		}
	}
	for key, e := range index {
		s.count(e, 1)
		s.wake(key)
	}
	s.index = index
	s.mu.Unlock()
	for _, n := range gone {
		s.dropFile(n)
	}
	return nil
}
