package storage

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport"
)

// sql runs statements in the database from another connection, as another program does.
func sql(t testing.TB, path string, statements ...string) {
	t.Helper()
	d := &database{path: path, busy: 20 * time.Second}
	c, err := d.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, q := range statements {
		if _, err := c.exec(context.Background(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// script is a Python endpoint's storage that does what JSON lines say.
const script = `
import asyncio, json, sys, hashlib, sqlite3
from proxystore.endpoint.storage import SQLiteStorage

def noise(seed, n):
    return (hashlib.sha256(str(seed).encode()).digest() * (n // 32 + 1))[:n]

async def main():
    s = None
    lock = None
    for line in sys.stdin:
        c = json.loads(line)
        op, key = c["op"], c.get("key")
        r = None
        if op == "open":
            s = SQLiteStorage(c["path"], max_object_size=None)
            await s.db()
        elif op == "close":
            await s.close()
        elif op == "set":
            await s.set(key, noise(c["seed"], c["size"]))
        elif op == "get":
            r = await s.get(key)
            r = None if r is None else [len(r), hashlib.sha256(r).hexdigest()]
        elif op == "exists":
            r = await s.exists(key)
        elif op == "evict":
            await s.evict(key)
        elif op == "lock":
            lock = sqlite3.connect(c["path"], isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
        elif op == "unlock":
            lock.execute("ROLLBACK")
            lock.close()
        elif op == "check":
            async with (await s.db()).execute("PRAGMA integrity_check") as cursor:
                r = (await cursor.fetchone())[0]
        print(json.dumps(r), flush=True)

asyncio.run(main())
`

// python is a process with ProxyStore's own SQLiteStorage.
type python struct {
	t   testing.TB
	in  *json.Encoder
	out *bufio.Reader
	cmd *exec.Cmd
}

func startPython(t testing.TB) *python {
	t.Helper()
	cmd := exec.Command(testenv.Python(t, testenv.ProxyStore11), "-W", "ignore", "-c", script)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return &python{t, json.NewEncoder(in), bufio.NewReader(out), cmd}
}

// do runs one command and returns what Python returned.
func (p *python) do(op string, args map[string]any) any {
	p.t.Helper()
	c := map[string]any{"op": op}
	for k, v := range args {
		c[k] = v
	}
	if err := p.in.Encode(c); err != nil {
		p.t.Fatal(err)
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		p.t.Fatalf("%v: %v", c, err)
	}
	var r any
	if err := json.Unmarshal(line, &r); err != nil {
		p.t.Fatal(err)
	}
	return r
}

func (p *python) open(path string) { p.t.Helper(); p.do("open", map[string]any{"path": path}) }
func (p *python) set(key string, seed, size int) {
	p.t.Helper()
	p.do("set", map[string]any{"key": key, "seed": seed, "size": size})
}

// check fails if Python does not get what pythonNoise gives.
func (p *python) check(key string, want []byte) {
	p.t.Helper()
	r, _ := p.do("get", map[string]any{"key": key}).([]any)
	if len(r) != 2 || r[0] != float64(len(want)) || r[1] != sum(want) {
		p.t.Fatalf("Python gets %v for %s, want %d bytes", r, key, len(want))
	}
	if p.do("exists", map[string]any{"key": key}) != true {
		p.t.Fatalf("Python says that %s does not exist", key)
	}
}

func (p *python) checkMissing(key string) {
	p.t.Helper()
	if r := p.do("get", map[string]any{"key": key}); r != nil {
		p.t.Fatalf("Python gets %v for %s, want nothing", r, key)
	}
}

func args(key string) map[string]any { return map[string]any{"key": key} }

// Our database in Python's hands and back, and Python's in ours.
func TestPython(t *testing.T) {
	p := startPython(t)
	for _, first := range []string{"python", "ours"} {
		t.Run(first, func(t *testing.T) {
			p.t = t
			l := &logs{}
			o := small(t)
			o.Logger = l.logger()
			if first == "python" {
				p.open(o.Path)
				p.set("old", 1, 100)
				p.set("empty", 2, 0)
				p.set("large", 3, 3<<20)
				p.set("ä/?%", 4, 10)
				p.do("close", nil)
			}
			s := mustOpen(t, o)
			if first == "python" {
				check(t, s, "old", pythonNoise(1, 100))
				check(t, s, "empty", nil)
				check(t, s, "large", pythonNoise(3, 3<<20)) // in the database it stays
				check(t, s, "ä/?%", pythonNoise(4, 10))
				before := mustStat(t, s, "old")
				if before.ModTime.IsZero() || before == mustStat(t, s, "ä/?%") {
					t.Errorf("no versions: %+v", before)
				}
				mustClose(t, s)
				s = mustOpen(t, o)
				if now := mustStat(t, s, "old"); now != before {
					t.Errorf("the version of Python's object was %+v and is %+v", before, now)
				}
				if n := strings.Count(l.String(), "index"); n != 1 {
					t.Errorf("the index was made %d times:\n%s", n, l)
				}
			}
			mustPut(t, s, "small", content(5, 1000))
			mustPut(t, s, "none", nil)
			mustPut(t, s, "file", content(6, 10_000))
			mustPut(t, s, "replaced", content(7, 10_000))
			mustPut(t, s, "same", content(8, 50))
			mustPut(t, s, "gone", content(8, 50))
			versions := map[string]any{}
			for id, info := range s.Keys() {
				versions[id] = info
			}
			mustClose(t, s)

			p.open(o.Path)
			p.check("small", content(5, 1000))
			p.check("none", nil)
			p.checkMissing("file") // what the package comment says
			p.do("evict", args("file"))
			p.do("evict", args("gone"))
			p.set("replaced", 9, 20)
			p.do("evict", args("same"))
			p.set("same", 10, 50) // the same size, and perhaps the same row
			p.set("new", 11, 70_000)
			if first == "python" {
				p.check("large", pythonNoise(3, 3<<20))
				p.do("evict", args("large"))
			}
			p.do("close", nil)

			s = mustOpen(t, o)
			check(t, s, "small", content(5, 1000))
			check(t, s, "file", content(6, 10_000))
			check(t, s, "replaced", pythonNoise(9, 20))
			check(t, s, "same", pythonNoise(10, 50))
			check(t, s, "new", pythonNoise(11, 70_000))
			checkMissing(t, s, "gone")
			checkMissing(t, s, "large")
			if n := len(files(t, o)); n != 1 {
				t.Errorf("%d files; the one that Python replaced should be gone", n)
			}
			for id, info := range s.Keys() {
				changed := id == "replaced" || id == "same" || id == "new"
				if same := versions[id] == info; same == changed {
					t.Errorf("%s: version %+v, before %+v", id, info, versions[id])
				}
			}
			mustPut(t, s, "small", content(12, 900))
			if s.Evict("new"); s.Exists("new") {
				t.Error("new is still there")
			}
			if err := s.Fold(t.Context()); err != nil {
				t.Fatal(err)
			}
			mustClose(t, s)

			p.open(o.Path)
			p.check("file", content(6, 10_000))
			p.check("small", content(12, 900))
			p.checkMissing("new")
			if r := p.do("check", nil); r != "ok" {
				t.Errorf("integrity_check: %v", r)
			}
			p.do("close", nil)
		})
	}
}

// A Python endpoint at the same time is a mistake that must not break anything: its changes are seen at our next one at the latest.
func TestPythonAtTheSameTime(t *testing.T) {
	p := startPython(t)
	o := small(t)
	s := mustOpen(t, o)
	mustPut(t, s, "a", content(1, 100))
	mustPut(t, s, "file", content(2, 5000))
	mustPut(t, s, "b", content(3, 100))
	p.open(o.Path)
	p.set("a", 4, 200)
	p.set("file", 5, 10)
	p.set("c", 6, 10)
	p.do("evict", args("b"))
	check(t, s, "a", pythonNoise(4, 200)) // its row is gone, so that the index is asked
	checkMissing(t, s, "b")
	mustPut(t, s, "d", content(7, 10))
	check(t, s, "c", pythonNoise(6, 10))
	check(t, s, "file", pythonNoise(5, 10))
	p.check("d", content(7, 10))
	if n := len(files(t, o)); n != 0 {
		t.Errorf("%d files", n)
	}
	if u := s.Usage(); u.Objects != 4 || u.Bytes != 230 {
		t.Errorf("%+v", u)
	}
	p.do("close", nil)
}

// Python's lock is waited for, and not for ever.
func TestPythonLock(t *testing.T) {
	p := startPython(t)
	o := small(t)
	o.BusyTimeout = 20 * time.Millisecond
	s := mustOpen(t, o)
	mustPut(t, s, "k", content(1, 10))
	p.do("lock", map[string]any{"path": o.Path})
	for _, err := range []error{put(s, "l", -1, content(1, 10), 10), put(s, "l", 5000, content(1, 5000), 5000)} {
		if !errors.Is(err, transport.ErrUnavailable) || !strings.Contains(err.Error(), "another program") {
			t.Errorf("while Python writes: %v", err)
		}
	}
	if ok, err := s.Remove("k"); ok || !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("Remove while Python writes: %v, %v", ok, err)
	}
	if s.Evict("k") {
		t.Error("Evict while Python writes")
	}
	check(t, s, "k", content(1, 10))
	if n := len(files(t, o)); n != 0 {
		t.Errorf("%d files", n)
	}
	mustClose(t, s)
	if _, err := Open(t.Context(), o); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("Open while Python writes: %v", err)
	}
	o.BusyTimeout = time.Minute
	done := make(chan error, 1)
	go func() {
		s, err := Open(context.Background(), o)
		if err == nil {
			err = errors.Join(put(s, "l", -1, content(1, 10), 10), s.Close())
		}
		done <- err
	}()
	time.Sleep(50 * time.Millisecond) // so that it probably waits
	p.do("unlock", nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// VACUUM renumbers rows behind our back; so does who copies the tables but not the triggers.
func TestForeignTools(t *testing.T) {
	o := small(t)
	s := mustOpen(t, o)
	want := map[string][]byte{}
	for i := range 20 {
		id := fmt.Sprint(i)
		want[id] = content(uint64(i), 100)
		mustPut(t, s, id, want[id])
	}
	version := mustStat(t, s, "7")
	mustClose(t, s)
	sql(t, o.Path, `VACUUM`)
	s = mustOpen(t, o)
	sql(t, o.Path, `VACUUM`) // while it is open too
	for id := range want {
		check(t, s, id, want[id])
	}
	if got := mustStat(t, s, "7"); got != version {
		t.Errorf("version %+v, want %+v", got, version)
	}
	mustClose(t, s)
	sql(t, o.Path, `DROP TRIGGER proxyplane_insert`, `INSERT OR REPLACE INTO blobs(key, value) VALUES ('7', x'010203')`, `DELETE FROM proxyplane_objects WHERE key = '8'`,
		`INSERT INTO blobs(key, value) VALUES ('text', 'wörter'), (NULL, x'00'), (x'00', x'00')`, `UPDATE blobs SET key = 'nine' WHERE key = '9'`)
	want["7"], want["text"], want["nine"] = []byte{1, 2, 3}, []byte("wörter"), want["9"]
	delete(want, "9")
	s = mustOpen(t, o)
	for id := range want {
		check(t, s, id, want[id])
	}
	if u := s.Usage(); u.Objects != int64(len(want)) {
		t.Errorf("%d objects, want %d", u.Objects, len(want))
	}
	if got := mustStat(t, s, "7"); got == version {
		t.Error("the version of what was replaced is the old one")
	}
	mustClose(t, s)
	sql(t, o.Path, `DELETE FROM proxyplane_objects`, `DELETE FROM proxyplane_state`)
	s = mustOpen(t, o)
	for id := range want {
		check(t, s, id, want[id])
	}
	mustClose(t, s)
	sql(t, o.Path, fmt.Sprintf(`INSERT INTO blobs(rowid, key, value) VALUES (%d, 'end', x'00')`, int64(1<<63-1)))
	if _, err := Open(t.Context(), o); !errors.Is(err, transport.ErrCorrupt) {
		t.Errorf("a database whose rows are at their end: %v", err)
	}
}

// pythonNoise is noise of script.
func pythonNoise(seed, n int) []byte {
	h := sha256.Sum256([]byte(strconv.Itoa(seed)))
	return bytes.Repeat(h[:], n/32+1)[:n]
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
