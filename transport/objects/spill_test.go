package objects

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

// spilledFiles returns the names of all files with objects below dir.
func spilledFiles(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, spillLock) {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// spilling returns a Table with room for three objects of 100,000 bytes, and its directory.
func spilling(t *testing.T, o TableOptions) (*Table, string) {
	o.Memory, o.SpillDir = 350_000, filepath.Join(t.TempDir(), "made", "here")
	return newTable(t, o), o.SpillDir
}

func putN(table *Table, i int) error {
	data := bytes.Repeat([]byte{byte(i)}, 100_000)
	return put(table, fmt.Sprint(i), 100_000, data, 100_000, PutOptions{})
}

func wantN(t *testing.T, table *Table, ids ...int) {
	t.Helper()
	for _, i := range ids {
		b, err := table.Get(fmt.Sprint(i))
		if err != nil || b.Len() != 100_000 || b.Bytes()[0] != byte(i) || b.Bytes()[99_999] != byte(i) {
			t.Errorf("object %d: %v, or other bytes", i, err)
		}
		b.Release()
	}
}

// spilledNow reports which objects are on disk.
func spilledNow(table *Table) (ids []string) {
	for i := range 10 {
		id := fmt.Sprint(i)
		s := table.shard(id)
		s.mu.RLock()
		if e := s.m[id]; e != nil && e.buf == nil {
			ids = append(ids, id)
		}
		s.mu.RUnlock()
	}
	return ids
}

func TestSpill(t *testing.T) {
	table, dir := spilling(t, TableOptions{})
	for i := range 3 {
		check(t, putN(table, i))
	}
	wantN(t, table, 0) // now 1 is the least recently used
	check(t, putN(table, 3))
	if got := fmt.Sprint(spilledNow(table)); got != "[1]" {
		t.Errorf("on disk: %s", got)
	}
	wantN(t, table, 1, 2) // 1 is read from disk and stays there
	check(t, putN(table, 4), putN(table, 5))
	if got := fmt.Sprint(spilledNow(table)); got != "[0 1 3]" && got != "[0 1 2]" { // 2 was used when 3 was put, as far as anybody can tell
		t.Errorf("on disk: %s", got)
	}
	wantN(t, table, 0, 1, 2, 3, 4, 5)
	st := table.Stats()
	if st.Objects != 6 || st.Bytes != 300_000 || st.Spilled != 3 || st.SpilledSize != 300_000 || st.Spills != 3 || len(spilledFiles(t, dir)) != 3 {
		t.Errorf("%+v, files %v", st, spilledFiles(t, dir))
	}
	b, err := table.Get("1")
	check(t, err)
	again, err := table.Get("1")
	check(t, err)
	if b != again {
		t.Error("mapped twice")
	}
	again.Release()
	for i := range 6 {
		if !table.Evict(fmt.Sprint(i)) {
			t.Errorf("Evict %d", i)
		}
	}
	if b.Bytes()[50_000] != 1 {
		t.Error("other bytes after Evict")
	}
	b.Release()
	if st := table.Stats(); st.Spilled != 0 || st.SpilledSize != 0 || table.spill.taken.Load() != 0 || len(spilledFiles(t, dir)) != 0 {
		t.Errorf("%+v, files %v", st, spilledFiles(t, dir))
	}
	check(t, putN(table, 1), putN(table, 2), putN(table, 3), putN(table, 4), table.Close())
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != spillPrefix+spillLock {
		t.Errorf("left: %v, %v", left, err)
	}
}

// An object larger than what is free may need several to go, and one that no reader lets go of makes room only later.
func TestSpillHeld(t *testing.T) {
	table, _ := spilling(t, TableOptions{})
	for i := range 3 {
		check(t, putN(table, i))
	}
	b, err := table.Get("0")
	check(t, err)
	check(t, wants(put(table, "large", 300_000, make([]byte, 300_000), 300_000, PutOptions{}), transport.ErrFull, "in use", "300000"))
	if st := table.Stats(); st.Lent != 100_000 || st.Spilled != 3 {
		t.Errorf("%+v", st)
	}
	b.Release()
	check(t, put(table, "large", 350_000, make([]byte, 350_000), 350_000, PutOptions{}))
	wantN(t, table, 0, 1, 2)
	check(t, wants(put(table, "huge", 350_001, nil, 1, PutOptions{}), transport.ErrTooLarge))
}

// A full or broken disk is an error that says so; nothing is lost, and when it is mended all goes on.
func TestSpillFaults(t *testing.T) {
	for _, fault := range []error{syscall.ENOSPC, syscall.EIO} {
		table, dir := spilling(t, TableOptions{})
		for i := range 3 {
			check(t, putN(table, i))
		}
		for _, after := range []int{0, 1, 99_999} {
			table.spill.write = func(f *os.File, b []byte) (int, error) {
				n, err := f.Write(b[:after])
				if err != nil {
					return n, err
				}
				return n, &os.PathError{Op: "write", Path: f.Name(), Err: fault}
			}
			err := putN(table, 3)
			check(t, wants(err, transport.ErrFull, fault.Error()))
			if files := spilledFiles(t, dir); len(files) != 0 || table.spill.taken.Load() != 0 {
				t.Errorf("left: %v", files)
			}
			wantN(t, table, 0, 1, 2)
		}
		table.spill.write = func(f *os.File, b []byte) (int, error) { return f.Write(b[:10]) } // a disk that lies
		check(t, wants(putN(table, 3), transport.ErrFull, "10 of 100000"))
		table.spill.write = (*os.File).Write
		check(t, putN(table, 3))
		wantN(t, table, 0, 1, 2, 3)
		if st := table.Stats(); st.Spilled != 1 || st.Refusals != 4 {
			t.Errorf("%+v", st)
		}
	}
}

func TestSpillQuota(t *testing.T) {
	table, _ := spilling(t, TableOptions{SpillBytes: 210_000})
	for i := range 5 {
		check(t, putN(table, i))
	}
	check(t, wants(putN(table, 5), transport.ErrFull, "--spill-bytes 210000"))
	wantN(t, table, 0, 1, 2, 3, 4)
	table.Evict(spilledNow(table)[0])
	check(t, putN(table, 5))
}

// A file that somebody else shortened or deleted is an error, and not a crash.
func TestSpillDamaged(t *testing.T) {
	table, dir := spilling(t, TableOptions{})
	for i := range 5 {
		check(t, putN(table, i))
	}
	files := spilledFiles(t, dir)
	if len(files) != 2 {
		t.Fatal(files)
	}
	check(t, os.Truncate(files[0], 99_999), os.Remove(files[1]))
	for _, id := range spilledNow(table) {
		_, err := table.Get(id)
		check(t, wants(err, transport.ErrCorrupt))
		_, _, err = table.Share(id)
		if err == nil {
			t.Error("Share of a damaged object")
		}
		if !table.Evict(id) {
			t.Error("a damaged object cannot be deleted")
		}
	}
	wantN(t, table, 2, 3, 4)
}

// While one object is written, others are read and deleted, and it itself too.
func TestSpillBlocksNobody(t *testing.T) {
	table, dir := spilling(t, TableOptions{})
	for i := range 3 {
		check(t, putN(table, i))
	}
	wantN(t, table, 1, 2)
	writing, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	table.spill.write = func(f *os.File, b []byte) (int, error) {
		once.Do(func() { close(writing); <-goOn })
		return f.Write(b)
	}
	done := make(chan error)
	go func() { done <- putN(table, 3) }()
	<-writing
	wantN(t, table, 0, 1, 2)
	check(t, put(table, "small", 5, []byte("small"), 5, PutOptions{}))
	if !table.Evict("0") { // the one that is being written
		t.Error("Evict")
	}
	check(t, put(table, "0", 5, []byte("other"), 5, PutOptions{}))
	close(goOn)
	check(t, <-done)
	b, err := table.Get("0")
	if err != nil || string(b.Bytes()) != "other" {
		t.Errorf("%v, or the old object", err)
	}
	b.Release()
	if n := len(spilledFiles(t, dir)); int64(n) != table.Stats().Spilled {
		t.Errorf("%d files, %+v", n, table.Stats())
	}
}

// Servers share a directory. A dead one's objects are removed by the next that starts; a living one's are not, nor what is not ours.
func TestSpillLeftovers(t *testing.T) {
	dir := t.TempDir()
	o := TableOptions{Memory: 350_000, SpillDir: dir}
	alive := newTable(t, o)
	for i := range 5 {
		check(t, putN(alive, i))
	}
	dead := newTable(t, o)
	for i := range 5 {
		check(t, putN(dead, i))
	}
	check(t, dead.spill.lock.Close()) // as its end would
	foreign := filepath.Join(dir, "proxyplane-other", "x")
	check(t, os.MkdirAll(filepath.Dir(foreign), 0o700), os.WriteFile(foreign, nil, 0o600))
	check(t, os.WriteFile(filepath.Join(dir, spillPrefix+"file"), nil, 0o600))
	early := filepath.Join(dir, spillPrefix+thisHost()+"-early") // died before it had a lock
	elsewhere := filepath.Join(dir, spillPrefix+"another-1")     // whether that server lives cannot be seen from here
	check(t, os.Mkdir(early, 0o700), os.Mkdir(elsewhere, 0o700))
	outside := t.TempDir() // a trap
	check(t, os.WriteFile(filepath.Join(outside, "keep"), nil, 0o600), os.Symlink(outside, filepath.Join(dir, spillPrefix+thisHost()+"-link")))

	newTable(t, o)
	if _, err := os.Stat(filepath.Join(dir, dead.spill.name)); !canLock != (err == nil) {
		t.Errorf("a dead server's directory: %v", err)
	}
	if _, err := os.Stat(early); !canLock != (err == nil) {
		t.Errorf("a directory without a lock: %v", err)
	}
	for _, name := range []string{foreign, elsewhere, filepath.Join(dir, spillPrefix+"file"), filepath.Join(outside, "keep")} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	wantN(t, alive, 0, 1, 2, 3, 4)
}

func TestSpillDirUnusable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := NewTable(TableOptions{SpillDir: dir}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// Close while a put spills: both end, and nothing is left.
func TestSpillClose(t *testing.T) {
	table, dir := spilling(t, TableOptions{})
	for i := range 3 {
		check(t, putN(table, i))
	}
	writing, goOn := make(chan struct{}), make(chan struct{})
	table.spill.write = func(f *os.File, b []byte) (int, error) {
		close(writing)
		<-goOn
		return f.Write(b)
	}
	put, closed := make(chan error), make(chan error)
	go func() { put <- putN(table, 3) }()
	<-writing
	go func() { closed <- table.Close() }()
	for !table.closed.Load() {
		runtime.Gosched()
	}
	close(goOn)
	if err := <-put; !errors.Is(err, transport.ErrClosed) {
		t.Error(err)
	}
	check(t, <-closed)
	if files := spilledFiles(t, dir); len(files) != 0 || table.mem.used.Load() != 0 {
		t.Errorf("left: %v, %d bytes", files, table.mem.used.Load())
	}
}

// What cannot have room whatever is spilled drives nothing to disk.
func TestSpillInVain(t *testing.T) {
	table, _ := spilling(t, TableOptions{})
	in, err := table.Create("arriving", 200_000, PutOptions{})
	check(t, err)
	check(t, putN(table, 0))
	_, err = table.Create("too much", 200_000, PutOptions{})
	check(t, wants(err, transport.ErrFull, "are arriving"))
	if n := table.Stats().Spills; n != 0 {
		t.Errorf("%d objects were spilled", n)
	}
	in.Abort()
	in, err = table.Create("fits now", 300_000, PutOptions{})
	check(t, err)
	in.Abort()
	wantN(t, table, 0)
}
