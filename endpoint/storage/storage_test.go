package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childVar); path != "" {
		child(path)
	}
	os.Exit(m.Run())
}

// noise is where contents are cut from.
var noise = func() []byte {
	b := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

// content is what an object of that seed holds. Nobody may change it.
func content(seed uint64, n int) []byte {
	at := int(seed % uint64(len(noise)-n+1))
	return noise[at : at+n : at+n]
}

// logs collects what the store logs.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// small are the options of most tests: files from 4096 bytes on.
func small(t testing.TB) Options {
	return Options{Path: filepath.Join(t.TempDir(), "blobs.db"), FileAbove: 4096, BusyTimeout: 20 * time.Second}
}

// mustOpen opens a store that the test closes, or the caller before.
func mustOpen(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustPut(t testing.TB, s *Store, id string, data []byte) {
	t.Helper()
	if err := s.Put(id, transport.FromBytes(data), objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func mustStat(t testing.TB, s *Store, id string) objects.Info {
	t.Helper()
	info, err := s.Stat(id)
	if err != nil {
		t.Fatalf("Stat %s: %v", id, err)
	}
	return info
}

// put stores data in pieces; size is what it announces.
func put(s objects.Store, id string, size int64, data []byte, piece int) error {
	in, err := s.Create(id, size, objects.PutOptions{})
	if err != nil {
		return err
	}
	defer in.Abort()
	for len(data) > 0 {
		mem, err := in.Next(min(piece, len(data)))
		if err != nil {
			return err
		}
		data = data[copy(mem, data):]
	}
	return in.Commit()
}

func check(t testing.TB, s *Store, id string, want []byte) {
	t.Helper()
	b, err := s.Get(id)
	if err != nil {
		t.Fatalf("Get %s: %v", id, err)
	}
	defer b.Release()
	if !bytes.Equal(b.Bytes(), want) {
		t.Fatalf("Get %s: %d bytes, not the %d that were stored, or others", id, b.Len(), len(want))
	}
	if info := mustStat(t, s, id); info.Size != int64(len(want)) {
		t.Fatalf("Stat %s: %d bytes, want %d", id, info.Size, len(want))
	}
}

func checkMissing(t testing.TB, s *Store, id string) {
	t.Helper()
	if b, err := s.Get(id); !errors.Is(err, transport.ErrNotFound) {
		b.Release()
		t.Fatalf("Get %s: %v, want ErrNotFound", id, err)
	}
	if s.Exists(id) {
		t.Fatalf("%s exists", id)
	}
}

// files are the names of objects' files in the directory.
func files(t testing.TB, o Options) []string {
	t.Helper()
	entries, err := os.ReadDir(o.Path + ".objects")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if _, ok := parseFileName(e.Name()); ok {
			names = append(names, e.Name())
		}
	}
	return names
}

// leakCheck fails the test if it ends with goroutines, buffers, mappings or descriptors that it did not have before. It must come before any Open.
func leakCheck(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	held := transport.DefaultPool.Stats().Held
	mapped, _ := transport.Live(transport.Mapped)
	open := descriptors()
	t.Cleanup(func() {
		for start := time.Now(); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Since(start) > 5*time.Second {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
		}
		if n := transport.DefaultPool.Stats().Held; n != held {
			t.Errorf("%d pooled buffers are out, %d before", n, held)
		}
		if n, _ := transport.Live(transport.Mapped); n != mapped {
			t.Errorf("%d mappings live, %d before", n, mapped)
		}
		if n := descriptors(); n != open {
			t.Errorf("%d descriptors are open, %d before", n, open)
		}
	})
}

// descriptors is how many are open; 0 where the system does not say.
func descriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// sizes where something changes, with FileAbove 4096.
var sizes = []int{0, 1, 100, 4095, 4096, 4097, 70_000, 1 << 20, 1<<20 + 1, 2<<20 + 17}

// Whatever is done to a Store, it says what a plain map says, also after it was closed and opened again.
func TestModel(t *testing.T) {
	leakCheck(t)
	o := small(t)
	o.NoSync = true // what was synced is another test's question
	s := mustOpen(t, o)
	r := rand.New(rand.NewPCG(3, 3))
	want := map[string][]byte{}
	versions := map[string]objects.Info{}
	var latest time.Time
	for range 400 {
		id := fmt.Sprintf("object/%d?ä", r.IntN(12))
		old, exists := want[id]
		stored := false
		switch op := r.IntN(12); op {
		case 0, 1, 2: // announced or not, in pieces
			data := content(r.Uint64(), sizes[r.IntN(len(sizes))])
			size := int64(len(data))
			if op == 0 {
				size = -1
			}
			if err := put(s, id, size, data, 1+r.IntN(300_000)); err != nil {
				t.Fatal(err)
			}
			want[id], stored = data, true
		case 3: // dropped half way, or too short
			data := content(r.Uint64(), sizes[r.IntN(len(sizes))])
			in, err := s.Create(id, int64(len(data))+1, objects.PutOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > 0 {
				if _, err := in.Next(len(data)); err != nil {
					t.Fatal(err)
				}
				if err := in.Commit(); !errors.Is(err, transport.ErrCorrupt) {
					t.Fatalf("Commit of too little: %v", err)
				}
			}
			in.Abort()
			if err := in.Commit(); err == nil {
				t.Fatal("Commit after Abort")
			}
		case 4, 5:
			data := content(r.Uint64(), sizes[r.IntN(len(sizes))])
			b := transport.FromBytes(data)
			if r.IntN(2) == 0 {
				b = transport.DefaultPool.Get(len(data))
				copy(b.Bytes(), data)
			}
			if err := s.Put(id, b, objects.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			want[id], stored = data, true
		case 6:
			if got := s.Evict(id); got != exists {
				t.Fatalf("Evict %s = %v", id, got)
			}
			delete(want, id)
			delete(versions, id)
		case 7:
			f, info, err := s.Open(id)
			switch {
			case !exists:
				if !errors.Is(err, transport.ErrNotFound) {
					t.Fatal(err)
				}
			case len(old) < int(o.FileAbove):
				if !errors.Is(err, errors.ErrUnsupported) {
					t.Fatal(err)
				}
			default:
				got, rerr := io.ReadAll(f)
				if err != nil || rerr != nil || !bytes.Equal(got, old) || info != versions[id] {
					t.Fatalf("Open %s: %v, %v, %d bytes, %+v", id, err, rerr, len(got), info)
				}
				f.Close()
			}
		case 8:
			if r.IntN(8) == 0 {
				mustClose(t, s)
				s = mustOpen(t, o)
			}
		default:
			if exists {
				check(t, s, id, old)
			} else {
				checkMissing(t, s, id)
			}
		}
		if stored {
			info := mustStat(t, s, id)
			if !info.ModTime.After(latest) {
				t.Fatalf("version %s, after %s", info.ModTime, latest)
			}
			versions[id], latest = info, info.ModTime
		}
		u := s.Usage()
		var total, inFiles, large int64
		for _, data := range want {
			total += int64(len(data))
			if len(data) >= int(o.FileAbove) {
				inFiles++
				large += int64(len(data))
			}
		}
		if u.Objects != int64(len(want)) || u.Bytes != total || u.Files != inFiles || u.FileBytes != large || u.Arriving != 0 || len(files(t, o)) != int(inFiles) {
			t.Fatalf("%+v and %d files, want %d objects of %d bytes", u, len(files(t, o)), len(want), total)
		}
		for id, info := range s.Keys() {
			if info != versions[id] {
				t.Fatalf("Keys: %s is %+v, want %+v", id, info, versions[id])
			}
		}
	}
	for id := range want {
		check(t, s, id, want[id])
		s.Evict(id)
	}
	if u := s.Usage(); u.Objects != 0 || u.Bytes != 0 || u.FileBytes != 0 {
		t.Errorf("in the end: %+v", u)
	}
	if len(s.maps.m) != 0 || len(s.arrivals.m) != 0 {
		t.Errorf("%d mappings and %d arrivals are remembered", len(s.maps.m), len(s.arrivals.m))
	}
}

// Many at once, on few objects: no mixture of two objects is ever seen, and what is read twice with one version is the same.
func TestConcurrent(t *testing.T) {
	leakCheck(t)
	l := &logs{}
	o := small(t)
	o.Logger = l.logger()
	s := mustOpen(t, o)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 9))
			for range 60 {
				id := string(rune('a' + r.IntN(6)))
				switch r.IntN(8) {
				case 0, 1, 2:
					n := []int{100, 4000, 100_000}[r.IntN(3)]
					size := int64(n)
					if r.IntN(2) == 0 {
						size = -1
					}
					if err := put(s, id, size, bytes.Repeat([]byte{byte(r.Uint32())}, n), 50_000); err != nil {
						t.Error(err)
					}
				case 3:
					s.Evict(id)
				default:
					before, err := s.Stat(id)
					b, gerr := s.Get(id)
					after, aerr := s.Stat(id)
					if gerr != nil {
						if !errors.Is(gerr, transport.ErrNotFound) {
							t.Error(gerr)
						}
						continue
					}
					if err == nil && aerr == nil && before == after && int64(b.Len()) != before.Size {
						t.Errorf("%d bytes of a version with %d", b.Len(), before.Size)
					}
					if data := b.Bytes(); bytes.Count(data, data[:1]) != len(data) {
						t.Error("bytes of two objects")
					}
					b.Release()
				}
			}
		})
	}
	wg.Wait()
	if u := s.Usage(); u.Commits >= u.Puts+u.Evictions {
		t.Logf("no transaction was shared: %+v", u)
	}
	if strings.Contains(l.String(), "another program") {
		t.Errorf("the index was read again for our own changes:\n%s", l)
	}
}

// Puts that come while a transaction is on its way share the next one.
func TestGroupCommit(t *testing.T) {
	o := small(t)
	hold := make(chan struct{})
	var entered sync.Once
	started := make(chan struct{})
	o.onCommit = func(before bool) {
		if before {
			entered.Do(func() { close(started); <-hold })
		}
	}
	s := mustOpen(t, o)
	var wg sync.WaitGroup
	wg.Go(func() { mustPut(t, s, "first", nil) })
	<-started
	const n = 200
	for i := range n {
		wg.Go(func() { mustPut(t, s, fmt.Sprint(i), content(uint64(i), 100)) })
	}
	for { // until all are in the queue
		s.w.mu.Lock()
		queued := len(s.w.queue)
		s.w.mu.Unlock()
		if queued == n {
			break
		}
		runtime.Gosched()
	}
	if s.Exists("first") {
		t.Error("visible before it was durable")
	}
	close(hold)
	wg.Wait()
	if u := s.Usage(); u.Commits != 2 || u.Puts != n+1 {
		t.Errorf("%d puts took %d transactions, want 2", u.Puts, u.Commits)
	}
	for i := range n {
		check(t, s, fmt.Sprint(i), content(uint64(i), 100))
	}
}

// Who reads a version keeps it when the object is replaced or deleted, whatever it was and becomes.
func TestReadersKeepTheirVersion(t *testing.T) {
	leakCheck(t)
	o := small(t)
	s := mustOpen(t, o)
	for _, before := range []int{10, 9000} {
		for _, after := range []int{-1, 20, 8000} {
			old := content(uint64(before), before)
			mustPut(t, s, "k", old)
			b, err := s.Get("k")
			if err != nil {
				t.Fatal(err)
			}
			f, _, _ := s.Open("k")
			if after < 0 {
				s.Evict("k")
				checkMissing(t, s, "k")
			} else {
				mustPut(t, s, "k", content(7, after))
				check(t, s, "k", content(7, after))
			}
			if !bytes.Equal(b.Bytes(), old) {
				t.Error("the bytes changed while they were held")
			}
			b.Release()
			if f != nil {
				if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, old) {
					t.Errorf("the file changed while it was held: %v", err)
				}
				f.Close()
			}
		}
	}
}

func TestLimits(t *testing.T) {
	o := small(t)
	o.MaxObject, o.Quota = 1_200_000, 2_000_000
	s := mustOpen(t, o)
	for _, size := range []int64{1_200_001, 1 << 62} {
		if _, err := s.Create("k", size, objects.PutOptions{}); !errors.Is(err, transport.ErrTooLarge) {
			t.Errorf("announced %d: %v", size, err)
		}
	}
	err := s.Put("k", transport.FromBytes(make([]byte, 1_234_567)), objects.PutOptions{})
	if !errors.Is(err, transport.ErrTooLarge) || !strings.Contains(err.Error(), "bytes value has size 1.235 MB which exceeds the 1.2 MB object limit") {
		t.Errorf("Put: %v", err)
	}
	if err := put(s, "k", -1, make([]byte, 1_200_001), 100_000); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("grown: %v", err)
	}
	if err := put(s, "k", 1_200_000, content(1, 1_200_000), 1<<20); err != nil {
		t.Error(err)
	}
	if _, err := s.Create("l", 800_001, objects.PutOptions{}); !errors.Is(err, transport.ErrFull) || !strings.Contains(err.Error(), "quota") {
		t.Errorf("beyond the quota: %v", err)
	}
	in, err := s.Create("l", 800_000, objects.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if u := s.Usage(); u.Arriving != 800_000 {
		t.Errorf("%+v", u)
	}
	for _, try := range []error{put(s, "m", 1, []byte{1}, 1), put(s, "m", -1, []byte{1}, 1), s.Put("m", transport.FromBytes([]byte{1}), objects.PutOptions{})} {
		if !errors.Is(try, transport.ErrFull) {
			t.Errorf("beyond what was announced: %v", try)
		}
	}
	in.Abort()
	mustPut(t, s, "m", []byte{1})
	s.Evict("k")
	if err := put(s, "n", 1_199_999, content(1, 1_199_999), 1<<20); err != nil {
		t.Errorf("after a deletion: %v", err)
	}
	if u := s.Usage(); u.Arriving != 0 || u.Bytes != 1_200_000 || u.Refusals == 0 || len(s.arrivals.m) != 0 {
		t.Errorf("%+v, %d arrivals", u, len(s.arrivals.m))
	}
	if n := len(files(t, o)); n != 1 {
		t.Errorf("%d files, want 1", n)
	}
	for _, key := range []string{"", strings.Repeat("k", objects.MaxID+1), "a\x00b", "\xff"} {
		if err := s.Put(key, transport.FromBytes(nil), objects.PutOptions{}); !errors.Is(err, transport.ErrInvalidKey) {
			t.Errorf("key %.10q: %v", key, err)
		}
	}
	if err := s.Put("k", transport.FromBytes(nil), objects.PutOptions{TTL: time.Second}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("time to live: %v", err)
	}
	if _, _, err := s.Share("m"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Share: %v", err)
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Adopt("k", f, 0, objects.PutOptions{}); !errors.Is(err, errors.ErrUnsupported) || f.Close() == nil {
		t.Errorf("Adopt: %v, or the file is open", err)
	}
}

// The texts are Python's: round(size, 3) with the zeros cut.
func TestReadable(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1 KB", 1_500: "1.5 KB", 1_234_567: "1.235 MB", 100_000_000: "100 MB", 2e9: "2 GB", 3e12: "3 TB"} {
		if got := readable(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func TestWait(t *testing.T) {
	leakCheck(t)
	s := mustOpen(t, small(t))
	errs := make(chan error, 3)
	for range 3 {
		go func() { errs <- s.Wait(t.Context(), "k") }()
	}
	for s.Usage().Waiting < 3 {
		runtime.Gosched()
	}
	mustPut(t, s, "other", nil)
	mustPut(t, s, "k", content(1, 5000))
	for range 3 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := s.Wait(t.Context(), "k"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx, "never"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	go func() { errs <- s.Wait(t.Context(), "never") }()
	for s.Usage().Waiting < 1 {
		runtime.Gosched()
	}
	mustClose(t, s)
	if err := <-errs; !errors.Is(err, transport.ErrClosed) {
		t.Error(err)
	}
	if len(s.waiters) != 0 {
		t.Errorf("%d waiters are left", len(s.waiters))
	}
}

// After Close everything fails with ErrClosed, and what was handed out stays valid. An object on its way in leaves no file.
func TestClose(t *testing.T) {
	leakCheck(t)
	o := small(t)
	s := mustOpen(t, o)
	mustPut(t, s, "k", content(1, 9000))
	b, err := s.Get("k")
	if err != nil {
		t.Fatal(err)
	}
	var arriving []objects.Incoming
	for _, size := range []int64{10, -1, 3 << 20} {
		in, err := s.Create("l", size, objects.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Next(10); err != nil {
			t.Fatal(err)
		}
		arriving = append(arriving, in)
	}
	mustClose(t, s)
	mustClose(t, s)
	if n := len(files(t, o)); n != 1 {
		t.Errorf("%d files after Close", n)
	}
	if _, err := os.Stat(o.Path + "-wal"); err == nil {
		t.Error("the log is left after Close")
	}
	if !bytes.Equal(b.Bytes(), content(1, 9000)) {
		t.Error("the bytes changed")
	}
	b.Release()
	for i, in := range arriving {
		if err := in.Commit(); !errors.Is(err, transport.ErrClosed) && i != 2 {
			t.Errorf("Commit: %v", err)
		}
		in.Abort()
	}
	_, err = s.Get("k")
	_, serr := s.Stat("k")
	_, cerr := s.Create("k", 1, objects.PutOptions{})
	_, _, oerr := s.Open("k")
	_, rerr := s.Remove("k")
	for _, err := range []error{err, serr, cerr, oerr, rerr, s.Put("k", transport.FromBytes(nil), objects.PutOptions{}), s.Wait(t.Context(), "k"), s.Fold(t.Context())} {
		if !errors.Is(err, transport.ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	}
	if s.Exists("k") || s.Evict("k") {
		t.Error("an object in a closed store")
	}
}

// Close during calls: each is done or fails with ErrClosed, and what was acknowledged is there.
func TestCloseDuringCalls(t *testing.T) {
	leakCheck(t)
	o := small(t)
	o.NoSync = true
	s := mustOpen(t, o)
	var wg sync.WaitGroup
	acked := make([]int, 4)
	for g := range acked {
		wg.Go(func() {
			for i := 0; ; i++ {
				err := put(s, fmt.Sprintf("%d/%d", g, i), -1, content(uint64(i), 3000+200*g*i%9000), 2500)
				if errors.Is(err, transport.ErrClosed) {
					acked[g] = i
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				b, err := s.Get(fmt.Sprintf("%d/%d", g, i))
				if err == nil {
					b.Release()
				} else if !errors.Is(err, transport.ErrClosed) {
					t.Error(err)
				}
			}
		})
	}
	for s.Usage().Puts < 50 {
		runtime.Gosched()
	}
	mustClose(t, s)
	wg.Wait()
	s = mustOpen(t, o)
	for g, n := range acked {
		for i := range n {
			check(t, s, fmt.Sprintf("%d/%d", g, i), content(uint64(i), 3000+200*g*i%9000))
		}
	}
}

func TestFold(t *testing.T) {
	leakCheck(t)
	o := small(t)
	s := mustOpen(t, o)
	want := map[string][]byte{}
	versions := map[string]objects.Info{}
	for i, n := range []int{10, 5000, 2 << 20, 100_000} {
		id := fmt.Sprint(i)
		want[id] = content(uint64(i), n)
		mustPut(t, s, id, want[id])
		versions[id] = mustStat(t, s, id)
	}
	b, err := s.Get("2")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	if err := s.Fold(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for id, data := range want {
			check(t, s, id, data)
			if got := mustStat(t, s, id); !got.ModTime.Equal(versions[id].ModTime) {
				t.Errorf("%s was version %s and is %s", id, versions[id].ModTime, got.ModTime)
			}
		}
		if u := s.Usage(); u.Files != 0 || u.FileBytes != 0 || u.Objects != 4 || len(files(t, o)) != 0 {
			t.Errorf("%+v, %d files", u, len(files(t, o)))
		}
		mustClose(t, s)
		s = mustOpen(t, o)
	}
	// One that SQLite cannot take: a file of that size, mostly a hole.
	mustPut(t, s, "after", content(1, 5000))
	big := &op{kind: opFile, key: "huge", size: FoldLimit + 1}
	n, f, err := s.newFile(-1)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Truncate(filepath.Join(o.Path+".objects", fileName(n)), big.size); err != nil {
		t.Fatal(err)
	}
	big.file = n
	if err := s.w.do(big); err != nil {
		t.Fatal(err)
	}
	if err := s.Fold(t.Context()); !errors.Is(err, transport.ErrTooLarge) || !strings.Contains(err.Error(), "huge") {
		t.Errorf("Fold of too much: %v", err)
	}
	if u := s.Usage(); u.Files != 1 {
		t.Errorf("the others were not moved: %+v", u)
	}
}

func TestOpenTwice(t *testing.T) {
	o := small(t)
	s := mustOpen(t, o)
	if _, err := Open(t.Context(), o); !errors.Is(err, transport.ErrUnavailable) || !strings.Contains(err.Error(), "another endpoint") {
		t.Errorf("second Open: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(o.Path, link); err == nil {
		if _, err := Open(t.Context(), Options{Path: link}); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("by another name: %v", err)
		}
	}
	mustClose(t, s)
	mustOpen(t, o)
}

func TestOpenFails(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		o    Options
		want error
		text string
	}{
		{Options{}, nil, "Options.Path"},
		{Options{Path: ":memory:"}, nil, "NewTable"},
		{Options{Path: filepath.Join(dir, "none", "blobs.db")}, os.ErrNotExist, "directory"},
		{Options{Path: filepath.Join(dir, "blobs.db"), Quota: -1}, nil, "negative"},
		{Options{Path: write("text", strings.Repeat("this is no database. ", 100))}, transport.ErrCorrupt, "move it away"},
		{Options{Path: dir}, transport.ErrUnavailable, "permissions"},
	} {
		if _, err := Open(t.Context(), c.o); err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v, want %v with %q", c.o, err, c.want, c.text)
		}
		if c.o.Path != "" && c.o.Path != dir {
			if _, err := os.Stat(c.o.Path + ".objects"); err == nil {
				t.Errorf("%s: the directory is left", c.o.Path)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Options{Path: filepath.Join(dir, "new.db")}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is done: %v", err)
	}
}

// Names that mean something in a URI or to SQLite are names.
func TestPaths(t *testing.T) {
	for _, name := range []string{"a b", "a?mode=memory", "a%20b", "a#b", "file:x", "ä"} {
		if runtime.GOOS == "windows" && strings.ContainsAny(name, "?:") {
			continue
		}
		o := Options{Path: filepath.Join(t.TempDir(), name)}
		s := mustOpen(t, o)
		mustPut(t, s, "k", []byte(name))
		mustClose(t, s)
		if st, err := os.Stat(o.Path); err != nil || st.Size() == 0 {
			t.Fatalf("%q: %v", name, err)
		}
		s = mustOpen(t, o)
		check(t, s, "k", []byte(name))
		mustClose(t, s)
	}
}

// What makes a commit durable: SQLite's defaults are others.
func TestSynchronous(t *testing.T) {
	for _, noSync := range []bool{false, true} {
		o := small(t)
		o.NoSync = noSync
		s := mustOpen(t, o)
		level, _, err := s.db.w.integer(t.Context(), `PRAGMA synchronous`)
		if want := map[bool]int64{false: 2, true: 0}[noSync]; err != nil || level != want {
			t.Errorf("NoSync %t: synchronous = %d, %v, want %d", noSync, level, err, want)
		}
		if mode, err := s.db.useLog(t.Context()); err != nil || mode != "wal" {
			t.Errorf("journal_mode = %s, %v", mode, err)
		}
	}
}

// Versions grow also when the clock goes back.
func TestVersionsWithoutClock(t *testing.T) {
	o := small(t)
	s := mustOpen(t, o)
	mustPut(t, s, "k", nil)
	mustClose(t, s)
	ahead := time.Now().Add(24 * time.Hour).UnixNano()
	sql(t, o.Path, fmt.Sprintf("UPDATE proxyplane_state SET last = %d", ahead))
	s = mustOpen(t, o)
	last := ahead
	for _, n := range []int{1, 5000, 2} {
		mustPut(t, s, "k", content(1, n))
		now := mustStat(t, s, "k").ModTime.UnixNano()
		if now <= last {
			t.Errorf("version %d after %d", now, last)
		}
		last = now
	}
	mustClose(t, s)
	s = mustOpen(t, o)
	if now := mustStat(t, s, "k").ModTime.UnixNano(); now != last {
		t.Errorf("version %d after it was opened again, %d before", now, last)
	}
}

// Leftovers are cleaned up at Open, and objects whose file is not right are missing.
func TestLeftovers(t *testing.T) {
	o := small(t)
	l := &logs{}
	o.Logger = l.logger()
	s := mustOpen(t, o)
	want := map[string][]byte{}
	byFile := map[string]string{}
	for i := range 4 {
		id := fmt.Sprint(i)
		want[id] = content(uint64(i), 5000+i)
		mustPut(t, s, id, want[id])
		byFile[id] = filepath.Join(o.Path+".objects", fileName(s.index[id].file))
	}
	mustPut(t, s, "small", []byte("value"))
	mustClose(t, s)
	if err := errors.Join(os.Remove(byFile["1"]), os.Truncate(byFile["2"], 100), os.WriteFile(filepath.Join(o.Path+".objects", fileName(77)), []byte("x"), 0o600),
		os.WriteFile(filepath.Join(o.Path+".objects", "notes.txt"), []byte("x"), 0o600), os.Truncate(filepath.Join(o.Path+".objects", reserveName), 5)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s = mustOpen(t, o)
		check(t, s, "0", want["0"])
		check(t, s, "3", want["3"])
		check(t, s, "small", []byte("value"))
		checkMissing(t, s, "1")
		checkMissing(t, s, "2")
		if u := s.Usage(); len(files(t, o)) != 2 || u.Objects != 3 || u.Bytes != 5000+5003+5 {
			t.Errorf("%+v, files %v", u, files(t, o))
		}
		mustClose(t, s)
	}
	for _, text := range []string{"missing", "another size", "notes.txt", fileName(77)} {
		if !strings.Contains(l.String(), text) {
			t.Errorf("no log of %q in:\n%s", text, l)
		}
	}
	if st, err := os.Stat(filepath.Join(o.Path+".objects", reserveName)); err != nil || st.Size() != reserveSize {
		t.Errorf("reserve: %v", err)
	}

	// Without the whole directory somebody must say that the objects may go.
	if err := os.Rename(o.Path+".objects", o.Path+".away"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Open(t.Context(), o); !errors.Is(err, transport.ErrCorrupt) || !strings.Contains(err.Error(), "put it back") {
			t.Fatalf("without the directory: %v", err)
		}
	}
	if err := os.Rename(o.Path+".away", o.Path+".objects"); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, o)
	check(t, s, "0", want["0"])
	check(t, s, "small", []byte("value"))
	if err := os.Remove(byFile["0"]); err != nil { // while it is open
		t.Fatal(err)
	}
	if _, err := s.Get("0"); !errors.Is(err, transport.ErrCorrupt) {
		t.Errorf("Get of an object whose file is gone: %v", err)
	}
	mustPut(t, s, "0", want["1"])
	check(t, s, "0", want["1"])
}
