package file

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"golang.org/x/sys/unix"
)

// TestSpecialFiles puts what is not a regular file in an object's place. None may hang, be followed or be read.
func TestSpecialFiles(t *testing.T) {
	c, dir := open1(t)
	ctx := context.Background()
	secret := filepath.Join(t.TempDir(), "secret")
	os.WriteFile(secret, []byte("secret"), 0o600)
	make1 := map[string]func(path string) error{
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o666) },
		"directory": func(p string) error { return os.Mkdir(p, 0o777) },
		"socket": func(p string) error {
			l, err := net.Listen("unix", p)
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		},
		"link":        func(p string) error { return os.Symlink(secret, p) },
		"link-inside": func(p string) error { return os.Symlink("fifo", p) },
	}
	for name, mk := range make1 {
		for _, place := range []string{name, name + "2" + ready} {
			if err := mk(filepath.Join(dir, place)); err != nil {
				t.Fatal(err)
			}
		}
		os.WriteFile(filepath.Join(dir, name+ready), nil, 0o666)
		os.WriteFile(filepath.Join(dir, name+"2"), []byte("x"), 0o666)
		for _, key := range []connectors.FileKey{{Filename: name}, {Filename: name + "2"}} {
			_, e1 := c.Get(ctx, key)
			_, e2 := c.GetBytes(ctx, key)
			_, e3 := c.GetStream(ctx, key)
			_, e4 := c.Stat(ctx, key)
			_, e5 := c.Exists(ctx, key)
			_, e6 := c.Map(ctx, key)
			for i, err := range []error{e1, e2, e3, e4, e5, e6} {
				if !errors.Is(err, connectors.ErrCorrupt) {
					t.Errorf("%s, operation %d: %v, want ErrCorrupt", key.Filename, i+1, err)
				}
			}
		}
	}
	// Set replaces the link, not what it points to; Evict removes it.
	key := connectors.FileKey{Filename: "link"}
	if err := c.Set(ctx, key, obj("mine")); err != nil {
		t.Fatal(err)
	}
	wantObject(t, c, key, "mine")
	os.Remove(filepath.Join(dir, "link"))
	os.Symlink(secret, filepath.Join(dir, "link"))
	if err := c.Evict(ctx, key); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(secret); string(b) != "secret" {
		t.Errorf("the file outside is now %q, %v", b, err)
	}
}

// TestSweepBesideCommit sweeps between a stream's object and its marker, when the stream's last write is long ago.
func TestSweepBesideCommit(t *testing.T) {
	ctx := context.Background()
	for _, mode := range []string{"anonymous", "named"} {
		c, dir := open1(t)
		if mode == "named" {
			c.dir.plain()
		}
		sweeper := newConnector(t, Options{StoreDir: dir})
		defer sweeper.Close(ctx)
		w, err := c.PutStream(ctx, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("slow")); err != nil {
			t.Fatal(err)
		}
		if err := unix.Futimes(w.(*writer).t.h.fd, []unix.Timeval{{Sec: 1}, {Sec: 1}}); err != nil {
			t.Fatal(err)
		}
		c.dir.faults = func(call string) error {
			if call == "mark" {
				if n, err := sweeper.Sweep(ctx, 24*time.Hour); n != 0 || err != nil {
					t.Errorf("%s: Sweep removed %d (%v)", mode, n, err)
				}
			}
			return nil
		}
		wantObject(t, c, commit(t, w), "slow")
	}
}

// TestErrors checks what the operating system's errors become.
func TestErrors(t *testing.T) {
	c, _ := open1(t)
	for _, tc := range []struct {
		errno syscall.Errno
		want  error
		says  string
	}{
		{syscall.ENOSPC, nil, "is full"},
		{syscall.EDQUOT, nil, "is full"},
		{syscall.EACCES, os.ErrPermission, "no permission"},
		{syscall.EROFS, nil, "read-only"},
		{syscall.EMFILE, connectors.ErrUnavailable, "ulimit -n"},
		{syscall.ENAMETOOLONG, connectors.ErrInvalidKey, "no name this long"},
		{syscall.EFBIG, connectors.ErrTooLarge, "no file this large"},
		{syscall.EIO, connectors.ErrUnavailable, "does not answer"},
	} {
		c.dir.faults = func(string) error { return tc.errno }
		_, err := c.Put(context.Background(), obj("x"))
		var oe *connectors.OpError
		if !errors.Is(err, tc.errno) || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) || !errors.As(err, &oe) {
			t.Errorf("%v became %v", tc.errno, err)
		}
	}
	c.dir.faults = nil
}

func openFDs(t testing.TB) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

// TestFaults lets every single system call of every operation fail once, and looks each time at what is left.
func TestFaults(t *testing.T) {
	ctx := context.Background()
	body := obj("TAG\n", strings.Repeat("b", 300<<10)) // large enough for a batch to fan out
	whole := string(body.Join())
	for _, mode := range []string{"default", "named", "sync"} {
		for _, op := range []struct {
			name string
			// run does the operation. key has the object "old" when it starts.
			run func(c *Connector, key connectors.Key) (connectors.Key, error)
		}{
			{"put", func(c *Connector, _ connectors.Key) (connectors.Key, error) { return c.Put(ctx, body) }},
			{"set-new", func(c *Connector, _ connectors.Key) (connectors.Key, error) {
				k, err := c.NewKey(ctx)
				if err != nil {
					return nil, err
				}
				return k, c.Set(ctx, k, body)
			}},
			{"set-replace", func(c *Connector, key connectors.Key) (connectors.Key, error) { return key, c.Set(ctx, key, body) }},
			{"set-name", func(c *Connector, _ connectors.Key) (connectors.Key, error) {
				k := connectors.FileKey{Filename: "no uuid"}
				if err := c.Set(ctx, k, body); err != nil {
					return nil, err
				}
				return k, nil
			}},
			{"putbatch", func(c *Connector, _ connectors.Key) (connectors.Key, error) {
				keys, err := connectors.PutBatch(ctx, c, slices.Repeat(asBatch(body), 5))
				if err != nil {
					return nil, err
				}
				return keys[4], nil
			}},
			{"stream", func(c *Connector, _ connectors.Key) (connectors.Key, error) {
				w, err := c.PutStream(ctx, int64(len(whole)))
				if err != nil {
					return nil, err
				}
				defer w.Abort()
				// A caller that ignores an error must not get half an object either.
				for _, p := range body {
					w.Write(p)
				}
				return w.Commit()
			}},
			{"evict", func(c *Connector, key connectors.Key) (connectors.Key, error) { return nil, c.Evict(ctx, key) }},
			{"get", func(c *Connector, key connectors.Key) (connectors.Key, error) {
				b, err := c.Get(ctx, key)
				b.Release()
				return nil, err
			}},
			{"close", func(c *Connector, key connectors.Key) (connectors.Key, error) { return nil, c.CloseClear(ctx, true) }},
		} {
			t.Run(mode+"/"+op.name, func(t *testing.T) {
				for n := 1; ; n++ {
					if n > 100 {
						t.Fatal("never succeeds")
					}
					dir := tmpDir(t)
					c := newConnector(t, Options{StoreDir: dir, Sync: mode == "sync"})
					if mode == "named" {
						c.dir.plain()
					}
					c.dir.faults = func(string) error { return nil }
					old := mustPut(t, c, obj("old"))
					fds := openFDs(t)
					in := injector{at: n}
					c.dir.faults = in.call
					key, err := op.run(c, old)
					if op.name == "close" {
						fds-- // the directory
					}
					c.dir.faults = nil
					harmless := op.name == "get" && in.what == "close" // the bytes are read by then
					if (err != nil) != in.fired && !harmless {
						t.Errorf("call %d (%s) failed: %t; error %v", n, in.what, in.fired, err)
					}
					if err != nil && !errors.Is(err, errInjected) {
						t.Errorf("call %d (%s): the cause is lost in %v", n, in.what, err)
					}
					if got := openFDs(t); got != fds {
						t.Errorf("call %d (%s): %d descriptors, %d before", n, in.what, got, fds)
					}
					checkWhole(t, dir, n, in.what, whole)
					if err != nil && key == nil && op.name != "evict" && op.name != "get" && op.name != "close" {
						if got := list(t, dir); len(got) != 2 {
							t.Errorf("call %d (%s) failed, and left %q", n, in.what, got)
						}
					}
					if err == nil && key != nil {
						wantObject(t, c, key, whole)
					}
					c.Close(ctx)
					os.RemoveAll(dir)
					if !in.fired {
						if n < 3 {
							t.Errorf("only %d calls go through the seam", n-1)
						}
						return
					}
				}
			})
		}
	}
}

func asBatch[T any](one T) []T { return []T{one} }

var errInjected = errors.New("injected")

// injector lets the call with number at fail.
type injector struct {
	mu    sync.Mutex
	n, at int
	fired bool
	what  string
}

func (in *injector) call(what string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.n++; in.n == in.at {
		in.fired, in.what = true, what
		return errInjected
	}
	return nil
}

// checkWhole checks that every object with a marker is whole, and that nothing lies about that Sweep would not take.
func checkWhole(t *testing.T, dir string, n int, what, whole string) {
	t.Helper()
	for _, name := range list(t, dir) {
		base, marker := strings.CutSuffix(name, ready)
		if !marker {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, base))
		if err != nil || string(b) != whole && string(b) != "old" {
			t.Errorf("call %d (%s): object %s with a marker has %d bytes, %v", n, what, base, len(b), err)
		}
	}
}

// TestWaitAcrossProcesses is many waiters of one connector, and the objects come through others, one of them as Python would make them.
func TestWaitAcrossProcesses(t *testing.T) {
	c, dir := open1(t)
	ctx := context.Background()
	var keys []connectors.Key
	for range 200 {
		k, _ := c.NewKey(ctx)
		keys = append(keys, k, k)
	}
	errs := make(chan error, len(keys))
	for _, k := range keys {
		go func() { errs <- c.Wait(ctx, k) }()
	}
	d := newConnector(t, Options{StoreDir: dir})
	defer d.Close(ctx)
	time.Sleep(5 * time.Millisecond) // some wait by now, some do not yet: both must work
	for i := 0; i < len(keys); i += 2 {
		name := keys[i].(connectors.FileKey).Filename
		if i%4 == 0 {
			os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o666)
			os.WriteFile(filepath.Join(dir, name+ready), nil, 0o666)
		} else if err := d.Set(ctx, keys[i], obj("x")); err != nil {
			t.Fatal(err)
		}
	}
	for range keys {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	c.waits.mu.Lock()
	if len(c.waits.waiters) != 0 || c.waits.watch.wd >= 0 {
		t.Errorf("after the last waiter: %d names, watch %d", len(c.waits.waiters), c.waits.watch.wd)
	}
	c.waits.mu.Unlock()
}

// TestWaitEvent checks that it is the event that wakes, and not the poll: with the polls' own look failing, only an event can.
func TestWaitEvent(t *testing.T) {
	c, dir := open1(t)
	woken := make(chan string, 4)
	w := newWatch(dir, func(name string) { woken <- name })
	if w == nil || !w.on() || !w.on() {
		t.Fatal("no watch")
	}
	defer w.close()
	key := mustPut(t, c, obj("x"))
	if a, b := <-woken, <-woken; a != key.Filename || b != key.Filename+ready {
		t.Errorf("events for %q and %q", a, b)
	}
	w.off()
	mustPut(t, c, obj("unseen"))
	w.on()
	os.RemoveAll(dir)
	os.Mkdir(dir, 0o777)
	// The kernel speaks of a removed directory when its last user lets go: here when the connector notices and moves on.
	if ok, err := c.Exists(context.Background(), key); ok || err != nil {
		t.Error(ok, err)
	}
	if a := <-woken; a != "" {
		t.Errorf("event for %q, want the one for everybody: the directory is gone", a)
	}
	if !w.on() {
		t.Error("a directory that is back is not watched")
	}
}

// TestWaitDirectoryReplaced waits over the removal of the directory.
func TestWaitDirectoryReplaced(t *testing.T) {
	c, dir := open1(t)
	ctx := context.Background()
	key, _ := c.NewKey(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Wait(ctx, key) }()
	for c.waitersNow() == 0 {
		runtime.Gosched()
	}
	os.RemoveAll(dir)
	os.Mkdir(dir, 0o777)
	d := newConnector(t, Options{StoreDir: dir})
	defer d.Close(ctx)
	if err := d.Set(ctx, key, obj("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (c *Connector) waitersNow() int {
	c.waits.mu.Lock()
	defer c.waits.mu.Unlock()
	return len(c.waits.waiters)
}

// TestWaitEnds ends waits by context and by Close.
func TestWaitEnds(t *testing.T) {
	c, _ := open1(t)
	key, _ := c.NewKey(context.Background())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- c.Wait(ctx, key) }()
	for c.waitersNow() == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	go func() { done <- c.Wait(context.Background(), key) }()
	for c.waitersNow() == 0 {
		runtime.Gosched()
	}
	if err := c.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, connectors.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// FuzzEvents checks the parser of inotify's events.
func FuzzEvents(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 'a', '.', 'r', 'e', 'a', 'd', 'y', 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		w := &watch{wd: -1, fd: -1, wake: func(name string) {
			if n += len(name); n > len(b) || strings.Contains(name, "\x00") {
				t.Fatalf("names of %d bytes from %d; last %q", n, len(b), name)
			}
		}}
		w.events(b)
	})
}
