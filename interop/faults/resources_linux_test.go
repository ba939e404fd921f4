package faults

import (
	"bytes"
	"cmp"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite"
)

// many puts n objects at once to at through a, gets them at once, and evicts them.
func many(t *testing.T, a, at *node, n int) {
	t.Helper()
	object := func(i int) []byte {
		size := 1 + i*i%3000
		if i%20 == 0 {
			size = 300_000 + i*97 // sent in segments
		}
		return content(i, size)
	}
	all := func(what string, f func(key string, data []byte) error) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, n)
		for i := range n {
			wg.Go(func() { errs[i] = f(fmt.Sprint("many/", i), object(i)) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatalf("%s of %d objects at once: %.4000v", what, n, err)
		}
	}
	defer a.http.CloseIdleConnections() // a server that ends waits for those that were never used
	all("puts", func(key string, data []byte) error {
		if got := a.put(key, at, data); got.code != 200 {
			return fmt.Errorf("%s: %v", key, got)
		}
		return nil
	})
	all("gets", func(key string, data []byte) error {
		got := a.do("GET", "/get"+where(key, at), nil, nil)
		if got.code != 200 || got.err != nil || got.text != string(data) {
			return fmt.Errorf("%s: status %d, %d of %d bytes, %w", key, got.code, len(got.text), len(data), got.err)
		}
		return nil
	})
	if s := at.settled(); s.Objects < int64(n) {
		t.Errorf("%d objects were stored: %+v", n, s)
	}
	all("evicts", func(key string, _ []byte) error {
		if got := a.evict(key, at); got.code != 200 {
			return fmt.Errorf("%s: %v", key, got)
		}
		return nil
	})
}

// TestEndpointMany: a thousand objects at once.
func TestEndpointMany(t *testing.T) {
	t.Parallel()
	r := startRelay(t, here)
	a, b := startNode(t, here, r, "a"), startNode(t, here, r, "b", "--persist")
	a.connected()
	b.connected()
	many(t, a, b, thousand) // the first ones find no path yet
	if s := b.status(); s.Storage.Objects != 0 {
		t.Errorf("after the evicts: %+v", s.Storage)
	}
}

// TestEndpointFullDisk: as TestEndpointQuota, on a disk that is really full, where this process may mount one.
func TestEndpointFullDisk(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	if err := unix.Mount("tmpfs", home, "tmpfs", 0, "size=24m,mode=0700"); err != nil {
		t.Logf("no disk of our own: %v", err)
		return
	}
	t.Cleanup(func() {
		if err := unix.Unmount(home, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r := startRelay(t, here)
	a, b := startNode(t, here, r, "a"), configureIn(t, home, here, r, "b", "--persist")
	b.start()
	a.comes("first", b, []byte("x"))
	a.evict("first", b)
	full(t, a, b, "no space left|disk is full", func() { // also what is full can be started again, and has all it had
		b.kill()
		b.start()
		b.connected()
	})
}

// pattern is an endless stream in which each 64 KiB tell their place.
type pattern struct {
	block []byte
	off   int64
}

func newPattern(seed int) *pattern { return &pattern{block: content(seed, 64<<10)} }

// next returns what comes next, at most n bytes. It is valid until the call after.
func (p *pattern) next(n int64) []byte {
	at := p.off % int64(len(p.block))
	binary.BigEndian.PutUint64(p.block, uint64(p.off-at))
	n = min(n, int64(len(p.block))-at)
	p.off += n
	return p.block[at : at+n]
}

func (p *pattern) Read(b []byte) (n int, err error) {
	for n < len(b) {
		n += copy(b[n:], p.next(int64(len(b)-n)))
	}
	return n, nil
}

// Write compares.
func (p *pattern) Write(b []byte) (n int, err error) {
	for n < len(b) {
		want := p.next(int64(len(b) - n))
		if !bytes.Equal(b[n:n+len(want)], want) {
			return n, fmt.Errorf("wrong bytes at %d", p.off-int64(len(want)))
		}
		n += len(want)
	}
	return n, nil
}

// zeros is what a sparse file must be read as.
type zeros struct{ n int64 }

var noBytes [64 << 10]byte

func (z *zeros) Write(b []byte) (int, error) {
	for p := b; len(p) > 0; {
		n := min(len(p), len(noBytes))
		if !bytes.Equal(p[:n], noBytes[:n]) {
			return 0, fmt.Errorf("no zeros from %d on", z.n)
		}
		p = p[n:]
	}
	z.n += int64(len(b))
	return len(b), nil
}

// bytesOf reads a size such as 100G.
func bytesOf(t *testing.T, s string) int64 {
	t.Helper()
	units := map[byte]int64{'M': 1e6, 'G': 1e9, 'T': 1e12}
	n, err := strconv.ParseInt(s[:len(s)-1], 10, 32)
	unit := units[s[len(s)-1]]
	if err != nil || n < 1 || unit == 0 {
		t.Fatalf("SIZE=%s: use a number of M, G or T", s)
	}
	return n * unit
}

// watch returns a function that says how much memory of its own a process had at most since, in bytes. Pages of files that it has mapped are not its own: they are
// the system's cache, of which there may be as much as there is room for.
func (d *daemon) watch(t *testing.T) (most func() int64) {
	t.Helper()
	field := regexp.MustCompile(`(?:RssAnon|RssShmem):\s+(\d+) kB`)
	var peak atomic.Int64
	look := func() {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid)) // nothing once it has ended
		var n int64
		for _, m := range field.FindAllSubmatch(text, -1) {
			v, _ := strconv.ParseInt(string(m[1]), 10, 64)
			n += v << 10
		}
		peak.Store(max(peak.Load(), n))
	}
	look()
	if peak.Load() == 0 {
		t.Fatalf("%s: /proc says nothing of its memory", d.name)
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				look()
			case <-end:
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(end)
		<-ended
	})
	return peak.Load
}

// TestEndpointFlatMemory relays SIZE bytes (default 2G) in each direction between two endpoints, as objects of 2 GB, and takes parts of one that has SIZE bytes.
func TestEndpointFlatMemory(t *testing.T) {
	t.Parallel()
	const part, limit = 2_000_000_000, 600_000_000
	total := bytesOf(t, cmp.Or(os.Getenv("SIZE"), "2G"))
	r := startRelay(t, here)
	a, b := startNode(t, here, r, "a", "--max-object", "10TB"), startNode(t, here, r, "b", "--max-object", "10TB", "--persist")
	watched := map[string]func() int64{"a": a.watch(t), "b": b.watch(t), "the relay": r.watch(t)}
	check := func(when string) {
		t.Helper()
		for name, most := range watched {
			t.Logf("%s: %s had at most %d MB", when, name, most()/1e6)
			if most() > limit && !raceEnabled {
				t.Errorf("%s: %s had %d bytes of memory, more than %d", when, name, most(), int64(limit))
			}
		}
	}
	get := func(key string, header http.Header, w io.Writer, want int64) {
		t.Helper()
		resp, err := a.request("GET", "/get"+where(key, b), nil, header)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if n, err := io.CopyBuffer(w, resp.Body, make([]byte, 1<<20)); err != nil || n != want || resp.StatusCode/100 != 2 {
			t.Fatalf("%s: %d of %d bytes, %v", resp.Status, n, want, err)
		}
	}
	a.limit = 2*patience + time.Duration(total/10e6)*time.Second
	size := min(total, part)
	if raceEnabled {
		size /= 10 // the race detector is slow, and its memory says nothing
	}
	for done := int64(0); done < total; done += part {
		body := struct{ io.Reader }{io.LimitReader(newPattern(int(done/part)), size)} // of unknown length
		if got := a.do("POST", "/set"+where("large", b), body, nil); got.code != 200 {
			t.Fatal(got)
		}
		get("large", nil, newPattern(int(done/part)), size)
		if done == 0 || done+part >= total {
			check(fmt.Sprint("after ", (done+part)/1e9, " GB"))
		}
	}
	a.evict("large", b)

	// An object of any length is there without its bytes if its file has none.
	head := content(30, 1_000_000)
	a.mustPut("sparse", b, head)
	b.stop()
	huge := max(total, 1_000_000_000_000)
	stretch(t, filepath.Join(b.home, b.name, "blobs.db"), "sparse", huge)
	b.start()
	watched["b, started again"] = b.watch(t)
	b.connected()
	for _, off := range []int64{1_000_000, 1<<32 - 7, huge - 10_000_000} {
		get("sparse", http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", off, off+9_999_999)}}, &zeros{}, 10_000_000)
	}
	if total > part {
		get("sparse", http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", len(head), int64(len(head))+total-1)}}, &zeros{}, total)
		check(fmt.Sprint("after ", total/1e9, " GB of one object"))
	}
	// Who stops reading stops its sender.
	resp, err := a.request("GET", "/get"+where("sparse", b), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	check("at the end")
}

// stretch makes an object, which is a file, longer by a hole at its end.
func stretch(t *testing.T, database, key string, size int64) {
	t.Helper()
	db, err := sql.Open("sqlite", database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var file int64
	if err := db.QueryRow("UPDATE proxyplane_objects SET size = ? WHERE key = ? RETURNING file", size, key).Scan(&file); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(database+".objects", fmt.Sprintf("%016x", file)), size); err != nil {
		t.Fatal(err)
	}
}

// fds returns what a process has open.
func (d *daemon) fds() (open []string) {
	d.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			open = append(open, to)
		}
	}
	slices.Sort(open)
	return open
}

// goroutines ends a process with its stacks, and returns how many goroutines each line of code had started.
func (d *daemon) goroutines() map[string]int {
	d.t.Helper()
	d.signal(syscall.SIGQUIT)
	<-d.gone
	_, stacks, ok := strings.Cut(d.log.String(), "SIGQUIT: quit")
	if !ok {
		d.t.Fatalf("%s: no stacks", d.name)
	}
	by := map[string]int{}
	for g := range strings.SplitSeq(stacks, "\n\n") {
		if m := regexp.MustCompile(`(?m)^goroutine \d+ .*\[`).FindString(g); m == "" || strings.HasPrefix(m, "goroutine 0 ") {
			continue
		}
		creator := "main"
		if m := regexp.MustCompile(`(?m)^created by (\S+) in goroutine \d+\n\s+\S*/(\S+:\d+)`).FindStringSubmatch(g); m != nil {
			creator = m[1] + " " + m[2]
		}
		by[creator]++
	}
	return by
}

func sum(by map[string]int) (n int) {
	for _, v := range by {
		n += v
	}
	return n
}

// TestEndpointNothingLeaks compares an endpoint that has seen all kinds of faults with one that has seen none.
func TestEndpointNothingLeaks(t *testing.T) {
	t.Parallel()
	r := startRelay(t, here)
	// With a number of lanes that stays as it is: those that a transfer adds are there as long as the path, and are no leak.
	a, b := startNode(t, here, r, "a", "--lanes", "4"), startNode(t, here, r, "b", "--lanes", "4", "--persist", "--max-object", "60MB")
	data := content(40, large)
	// A few transfers both ways open all streams that there will be.
	warm := func() {
		t.Helper()
		a.comes("first", b, []byte("first"))
		b.comes("first", a, []byte("first"))
		var wg sync.WaitGroup
		for i := range 8 {
			key := fmt.Sprint("warm", i)
			wg.Go(func() {
				a.put(key, b, data[:8_000_000])
				a.do("GET", "/get"+where(key, b), nil, nil)
				a.evict(key, b)
			})
			wg.Go(func() {
				b.put(key, a, data[:8_000_000])
				b.do("GET", "/get"+where(key, a), nil, nil)
				b.evict(key, a)
			})
		}
		wg.Wait()
		a.evict("first", nil)
		b.evict("first", nil)
	}
	idle := func(n *node) {
		t.Helper()
		if s := n.settled(); s.Objects != 0 {
			t.Errorf("%s: %+v", n.name, s)
		}
		n.http.CloseIdleConnections()
	}
	warm()
	idle(a)
	idle(b)
	fdsA, fdsB, paths := a.fds(), b.fds(), len(a.peer(b).Paths)
	stacks := a.goroutines()
	a.start()

	warm()
	for round := range 3 {
		many(t, a, b, 100)
		b.mustPut("there", nil, data)
		get, put := a.download("there", b, data), a.upload("here", b, data)
		gone, away := a.download("there", b, data), a.upload("away", b, data)
		for _, d := range []*download{get, gone} {
			if err := d.take(500_000); err != nil {
				t.Fatal(err)
			}
		}
		put.send(large / 5)
		away.send(large / 5)
		gone.resp.Body.Close() // clients that go
		away.w.CloseWithError(errors.New("gone"))
		switch round {
		case 0:
			b.kill()
			b.start()
		case 1:
			r.kill()
			r.again()
		}
		get.rest()
		put.finish()
		a.connected()
		b.connected()
		a.comes("back", b, []byte("back"))
		if stranger := (&node{uuid: uuid.NewString()}); round != 1 { // a relay that has just begun may not know everybody yet: that is waited for
			if got := a.put("x", stranger, []byte("x")); got.code != 500 {
				t.Errorf("a put to nobody: %v", got)
			}
		}
		if got := a.do("POST", "/set"+where("x", b), struct{ io.Reader }{io.LimitReader(newPattern(0), 70_000_000)}, nil); got.code != 413 {
			t.Errorf("a put of too much: %v", got)
		}
		for _, key := range []string{"there", "here", "back", "x"} {
			a.evict(key, b)
		}
	}
	warm()
	idle(a)
	idle(b)
	const slack = 6                             // a stream of a path more or less
	spare := max(0, len(a.peer(b).Paths)-paths) // a QUIC path that was there before TLS stays, and has some 15 goroutines
	for n, before := range map[*node][]string{a: fdsA, b: fdsB} {
		eventually(t, n.name+" closes what it had open", func() error {
			n.http.CloseIdleConnections()
			if now := n.fds(); len(now) > len(before)+slack {
				return fmt.Errorf("%d instead of %d: %q, instead of %q", len(now), len(before), now, before)
			}
			return nil
		})
	}
	now := a.goroutines()
	t.Logf("%d goroutines, %d before; %d paths more; %d descriptors before", sum(now), sum(stacks), spare, len(fdsA))
	if sum(now) > sum(stacks)+2*slack+20*spare {
		for at, n := range now {
			if n > stacks[at] {
				t.Errorf("%d goroutines instead of %d that %s has started", n, stacks[at], at)
			}
		}
	}
}
