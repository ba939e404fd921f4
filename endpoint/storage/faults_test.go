package storage

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// lossy is a directory that knows what a power loss would leave of it, and fails when it is told to.
type lossy struct {
	directory
	mu      sync.Mutex
	files   map[string]*lossyFile
	removed map[string][]byte // what was under names whose removal was not synced
	calls   int
	failAt  int   // the number of the call that fails, and all later ones; 0 is none
	failure error // with this
}

type lossyFile struct {
	file
	d      *lossy
	data   []byte
	synced int  // bytes that are on the disk for certain
	named  bool // so is its name
}

func newLossy(dir string) (*lossy, error) {
	d, err := openDirectory(dir)
	if err != nil {
		return nil, err
	}
	return &lossy{directory: d, files: map[string]*lossyFile{}, removed: map[string][]byte{}}, nil
}

// step counts a call that could fail. d.mu is held.
func (d *lossy) step() error {
	d.calls++
	if d.failAt > 0 && d.calls >= d.failAt {
		return d.failure
	}
	return nil
}

func (d *lossy) fail(at int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls, d.failAt, d.failure = 0, at, err
}

func (d *lossy) create(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f, err := d.directory.create(name)
	if err != nil {
		return nil, err
	}
	d.files[name] = &lossyFile{file: f, d: d}
	return d.files[name], nil
}

func (d *lossy) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.files[name]; f != nil && f.named {
		d.removed[name] = f.data
	}
	delete(d.files, name)
	return d.directory.remove(name)
}

func (d *lossy) sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return &fs.PathError{Op: "sync", Path: ".", Err: err}
	}
	for _, f := range d.files {
		f.named = true
	}
	clear(d.removed)
	return d.directory.sync()
}

func (f *lossyFile) Write(p []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step(); err != nil {
		n, _ := f.file.Write(p[:len(p)/2])
		return n, &fs.PathError{Op: "write", Err: err}
	}
	f.data = append(f.data, p...)
	return f.file.Write(p)
}

func (f *lossyFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step(); err != nil {
		return &fs.PathError{Op: "sync", Err: err}
	}
	f.synced = len(f.data)
	return f.file.Sync()
}

func (f *lossyFile) allocate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step(); err != nil {
		return &fs.PathError{Op: "fallocate", Err: err}
	}
	return f.file.allocate(size)
}

// crash writes what a power loss now could leave.
func (d *lossy) crash(r *rand.Rand, into string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.Mkdir(into, 0o700); err != nil {
		return err
	}
	for name, f := range d.files {
		if !f.named && r.IntN(2) == 0 {
			continue
		}
		data := bytes.Clone(f.data[:f.synced])
		if rest := f.data[f.synced:]; len(rest) > 0 { // some of it came, some as zeros, some not at all
			rest = bytes.Clone(rest[:r.IntN(len(rest)+1)])
			if len(rest) > 0 {
				clear(rest[r.IntN(len(rest)):])
			}
			data = append(data, rest...)
		}
		if err := os.WriteFile(filepath.Join(into, name), data, 0o600); err != nil {
			return err
		}
	}
	for name, data := range d.removed {
		if r.IntN(2) == 0 {
			if err := os.WriteFile(filepath.Join(into, name), data, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// dbState is the SQLite file and its log at a moment when nobody writes them.
type dbState struct{ db, wal []byte }

// readFiles reads them. It costs SQLite its locks on them (a close drops all that a process has), which nobody else wants here.
func readFiles(path string) (dbState, error) {
	db, err := os.ReadFile(path)
	if err != nil {
		return dbState{}, err
	}
	wal, err := os.ReadFile(path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return dbState{db, wal}, err
}

func (s dbState) write(path string) error {
	return errors.Join(os.WriteFile(path, s.db, 0o600), os.WriteFile(path+"-wal", s.wal, 0o600))
}

// A power loss at any moment loses nothing acknowledged: files are cut to what was synced, the log is torn inside the transaction that was under way.
func TestPowerLoss(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0)) // of the writer's goroutine
	root := t.TempDir()
	path := filepath.Join(root, "blobs.db")
	var d *lossy
	var mu sync.Mutex
	want := map[string]*state{}
	type loss struct {
		path string
		want map[string]*state
	}
	var losses []loss
	var before *dbState
	var frozen map[string]*state
	clone := func(want map[string]*state) map[string]*state {
		c := maps.Clone(want)
		for k, v := range c {
			w := *v
			c[k] = &w
		}
		return c
	}
	snapshot := func() map[string]*state {
		mu.Lock()
		defer mu.Unlock()
		return clone(want)
	}
	save := func(s dbState, w map[string]*state) {
		p := filepath.Join(root, fmt.Sprintf("loss%d.db", len(losses)))
		if err := errors.Join(s.write(p), d.crash(r, p+".objects")); err != nil {
			t.Error(err)
		}
		losses = append(losses, loss{p, clone(w)})
	}
	o := Options{Path: path, FileAbove: 4096}
	o.open = func(dir string) (_ directory, err error) {
		d, err = newLossy(dir)
		return d, err
	}
	o.onCommit = func(starts bool) {
		if starts {
			before = nil
			if r.IntN(4) == 0 && len(losses) < 40 {
				frozen = snapshot()
				s, err := readFiles(path)
				if err != nil {
					t.Error(err)
					return
				}
				before = &s
				if r.IntN(3) == 0 {
					save(s, frozen)
				}
			}
			return
		}
		if before == nil {
			return
		}
		after, err := readFiles(path)
		if err != nil {
			t.Error(err)
			return
		}
		if bytes.Equal(after.db, before.db) && len(after.wal) > len(before.wal) && bytes.HasPrefix(after.wal, before.wal) && r.IntN(3) > 0 {
			torn := bytes.Clone(after.wal)
			at := len(before.wal) + r.IntN(len(torn)-len(before.wal))
			switch r.IntN(3) {
			case 0:
				torn = torn[:at]
			case 1:
				clear(torn[at:])
			default:
				clear(torn[at:min(at+512, len(torn))])
			}
			after.wal = torn
			save(after, frozen) // those of this transaction were not acknowledged
			return
		}
		save(after, snapshot())
	}
	s := mustOpen(t, o)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(g+1)))
			for range 80 {
				key := fmt.Sprintf("%d/%d", g, r.IntN(4))
				seed, n := r.Uint64N(1<<20), []int{0, 1, 300, 4095, 4096, 20_000, 70_000}[r.IntN(7)]
				data, what := content(seed, n), fmt.Sprintf("%d %d", seed, n)
				if r.IntN(4) == 0 {
					what = "-"
				}
				mu.Lock()
				if want[key] == nil {
					want[key] = &state{}
				}
				want[key].pending = what
				mu.Unlock()
				var err error
				switch {
				case what == "-":
					_, err = s.Remove(key)
				case r.IntN(2) == 0:
					err = put(s, key, -1, data, 10_000)
				default:
					err = s.Put(key, transport.FromBytes(data), objects.PutOptions{})
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				*want[key] = state{acked: what}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	mustClose(t, s)
	t.Logf("%d power losses", len(losses))
	for _, l := range losses {
		verify(t, Options{Path: l.path, FileAbove: 4096, NoSync: true}, l.want)
	}
	if len(losses) == 0 {
		t.Error("no power loss was tried")
	}
}

// A full disk at any call fails the put alone, with nothing left; the next one works.
func TestNoSpace(t *testing.T) {
	leakCheck(t)
	var d *lossy
	o := small(t)
	o.open = func(dir string) (_ directory, err error) {
		d, err = newLossy(dir)
		return d, err
	}
	s := mustOpen(t, o)
	mustPut(t, s, "old", content(1, 9000))
	mustPut(t, s, "small", content(2, 90))
	data := content(3, 2_500_000)
	full := &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	ways := map[string]func() error{
		"put":       func() error { return s.Put("old", transport.FromBytes(data), objects.PutOptions{}) },
		"announced": func() error { return put(s, "old", int64(len(data)), data, 300_000) },
		"growing":   func() error { return put(s, "old", -1, data, 300_000) },
	}
	for name, way := range ways {
		failed := 0
		for at := 1; ; at++ {
			d.fail(at, full.Err)
			err := way()
			d.fail(0, nil)
			if err == nil {
				break
			}
			failed++
			if !errors.Is(err, transport.ErrFull) || !strings.Contains(err.Error(), "make room") {
				t.Fatalf("%s, call %d: %v", name, at, err)
			}
			check(t, s, "old", content(1, 9000))
			if u := s.Usage(); u.Arriving != 0 || u.Bytes != 9090 || len(files(t, o)) != 1 || len(s.arrivals.m) != 0 {
				t.Fatalf("%s, call %d: %+v, %d files", name, at, u, len(files(t, o)))
			}
			d.fail(at, errors.New("the disk is on fire"))
			if err := way(); !errors.Is(err, transport.ErrUnavailable) {
				t.Fatalf("%s, call %d: %v, want ErrUnavailable", name, at, err)
			}
			d.fail(0, nil)
		}
		if failed < 4 {
			t.Errorf("%s: only %d calls could fail", name, failed)
		}
		check(t, s, "old", data)
		mustPut(t, s, "old", content(1, 9000))
		check(t, s, "small", content(2, 90))
	}
}

// A full database: what does not fit is refused, what does is stored, and deletions make room again.
func TestDatabaseFull(t *testing.T) {
	leakCheck(t)
	s := mustOpen(t, small(t))
	mustPut(t, s, "old", content(1, 4000))
	pages, _, err := s.db.w.integer(context.Background(), `PRAGMA page_count`)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.w.query(context.Background(), fmt.Sprintf(`PRAGMA max_page_count = %d`, pages+20), func([]driver.Value) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var stored []string
	for i := range 60 {
		wg.Go(func() {
			key := fmt.Sprint(i)
			err := s.Put(key, transport.FromBytes(content(uint64(i), 4000)), objects.PutOptions{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				stored = append(stored, key)
			} else if !errors.Is(err, transport.ErrFull) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(stored) < 5 || len(stored) > 30 {
		t.Errorf("%d objects were stored", len(stored))
	}
	check(t, s, "old", content(1, 4000))
	for i := range 60 {
		key := fmt.Sprint(i)
		if s.Exists(key) {
			check(t, s, key, content(uint64(i), 4000))
			stored = stored[1:]
		}
	}
	if len(stored) != 0 {
		t.Errorf("%d objects that were acknowledged are missing", len(stored))
	}
	for key := range s.Keys() {
		if key != "old" && !s.Evict(key) {
			t.Errorf("%s could not be deleted", key)
		}
	}
	mustPut(t, s, "new", content(1, 3000))
	check(t, s, "new", content(1, 3000))
	if u := s.Usage(); u.Arriving != 0 || u.Objects != 2 || u.Refusals == 0 {
		t.Errorf("%+v", u)
	}
}
