package link

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

func FuzzID(f *testing.F) {
	upload := uuid.MustParse("00112233-4455-6677-8899-aabbccddeeff")
	for _, s := range []segmentID{{upload, 0, 0, false, "k"}, {upload, 1 << 40, -1, true, "a/b/?/c"}, {upload, math.MaxInt64, math.MaxInt64, true, strings.Repeat("k", MaxKey)}} {
		if len(s.String()) > objects.MaxID {
			f.Fatalf("an id of %d bytes", len(s.String()))
		}
		f.Add(s.String())
	}
	for _, id := range []string{"", "o/", "o/k", "up/", abortID(upload), abortID(upload) + "/", abortID(upload) + "/0/1/2/k", abortID(upload) + "/00/1/0/k", abortID(upload) + "/-1/1/0/k",
		abortID(upload) + "/9223372036854775808/?/0/k", abortID(upload) + "/2/1/0/k", strings.ToUpper(abortID(upload)), abortID(upload) + "/0/1/0/"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if key, err := parseObject(id); err == nil && (objectID(key) != id || checkKey(key) != nil) {
			t.Fatalf("%q: key %q", id, key)
		} else if err != nil && !errors.Is(err, transport.ErrInvalidKey) {
			t.Fatal(err)
		}
		if upload, rest, err := parseUpload(id); err == nil && abortID(upload)+rest != id {
			t.Fatalf("%q: %v and %q", id, upload, rest)
		}
		s, err := parseSegment(id)
		if err != nil {
			if !errors.Is(err, transport.ErrInvalidKey) {
				t.Fatal(err)
			}
			return
		}
		if s.String() != id || s.off < 0 || s.size < -1 || checkKey(s.key) != nil {
			t.Fatalf("%q became %+v, %q", id, s, s.String())
		}
	})
}

// testUploads is the state of one peer over a table.
func testUploads(t *testing.T, o ServerOptions) (*uploads, *objects.Table) {
	table, err := objects.NewTable(objects.TableOptions{Memory: 256 << 20, MaxObject: 200 << 20, IdleMemory: -1})
	if err != nil {
		t.Fatal(err)
	}
	o = o.withDefaults()
	us := newUploads(table, &o, new(atomic.Int64))
	t.Cleanup(func() {
		us.close()
		table.Close()
	})
	return us, table
}

// send sends one segment as a native server does.
func send(us *uploads, s segmentID, data []byte) error {
	return (&view{store: us.store, up: us, recent: newRecent(us.store)}).Put(s.String(), transport.FromBytes(data), objects.PutOptions{})
}

func stored(t *testing.T, table *objects.Table, key string) []byte {
	t.Helper()
	b, err := table.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	return bytes.Clone(b.Bytes())
}

func TestUploadOrder(t *testing.T) {
	leaks(t)
	us, table := testUploads(t, ServerOptions{})
	data := payload(1000, 1)
	cuts := []int{0, 100, 350, 351, 900, 1000}
	for seed := range uint64(40) {
		key := fmt.Sprint("k", seed)
		id := segmentID{upload: uuid.New(), size: 1000, key: key}
		order := payload(64, seed)
		if seed%2 == 0 {
			id.size = -1
		}
		sent := 0
		var todo []int
		for i := range len(cuts) - 1 {
			todo = append(todo, i)
		}
		for _, r := range order { // in random order, some of them twice
			if len(todo) == 0 {
				break
			}
			at := int(r) % len(todo)
			i := todo[at]
			s := id
			s.off, s.acked = int64(cuts[i]), sent > 0
			if cuts[i+1] == 1000 {
				s.size = 1000
			}
			if err := send(us, s, data[cuts[i]:cuts[i+1]]); err != nil {
				t.Fatalf("seed %d: segment %d: %v", seed, i, err)
			}
			if sent++; r < 128 {
				todo = append(todo[:at], todo[at+1:]...)
			}
			if _, err := table.Stat(key); err == nil && sent < len(cuts)-1 {
				t.Fatal("published too early")
			}
		}
		same(t, key, stored(t, table, key), data)
		// all again: what has ended is answered as before
		last := id
		last.off, last.size, last.acked = 900, 1000, true
		if err := send(us, last, data[900:]); err != nil {
			t.Fatal(err)
		}
	}
	if n := us.bytes.Load(); n != 0 || len(us.open) != 0 {
		t.Fatalf("%d bytes, %d uploads", n, len(us.open))
	}
}

func TestUploadHostile(t *testing.T) {
	leaks(t)
	us, table := testUploads(t, ServerOptions{MaxUploads: 3, Memory: 20 << 20, MaxEnded: 5})
	id := segmentID{upload: uuid.New(), size: 1000, key: "k"}
	at := func(off, size int64) segmentID {
		s := id
		s.off, s.size = off, size
		return s
	}
	if err := send(us, at(10, 1000), make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		id   segmentID
		n    int
		want error
	}{
		"beyond the end":    {at(990, 1000), 11, transport.ErrInvalidRange},
		"another size":      {at(20, 1001), 10, transport.ErrInvalidRange},
		"other length":      {at(10, 1000), 11, transport.ErrInvalidRange},
		"empty":             {at(20, 1000), 0, transport.ErrInvalidRange},
		"overflow":          {segmentID{upload: uuid.New(), off: math.MaxInt64 - 5, size: -1, key: "k"}, 10, transport.ErrInvalidRange},
		"too far":           {segmentID{upload: uuid.New(), off: uploadWindow, size: 100 << 20, key: "k"}, 10, transport.ErrInvalidRange},
		"beyond the limit":  {segmentID{upload: uuid.New(), off: 0, size: 1 << 50, key: "k"}, 10, transport.ErrTooLarge},
		"a long segment":    {segmentID{upload: uuid.New(), off: 0, size: -1, key: "k"}, MaxSegment + 1, transport.ErrTooLarge},
		"unknown upload":    {segmentID{upload: uuid.New(), off: 5, size: 100, acked: true, key: "k"}, 10, transport.ErrUnavailable},
		"no id":             {segmentID{upload: uuid.New(), off: 5, size: 100}, 10, transport.ErrInvalidKey},
		"another key":       {func() segmentID { s := at(20, 1000); s.key = "other"; return s }(), 10, transport.ErrInvalidRange},
		"a length unknown?": {at(0, 1000), 1001, transport.ErrInvalidRange},
	} {
		if err := send(us, c.id, make([]byte, c.n)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := us.begin(at(20, 1000).String(), -1); !errors.Is(err, transport.ErrInvalidRange) {
		t.Error(err)
	}
	// The same segment with other content: the first counts, and nothing is mixed.
	if err := send(us, at(10, 1000), bytes.Repeat([]byte{7}, 10)); err != nil {
		t.Error(err)
	}
	// Cut in another way while an earlier one is missing: what overlaps is dropped.
	if err := send(us, at(15, 1000), bytes.Repeat([]byte{9}, 10)); err != nil {
		t.Error(err)
	}
	if err := send(us, at(0, 1000), bytes.Repeat([]byte{1}, 10)); err != nil {
		t.Error(err)
	}
	if err := send(us, at(15, 1000), bytes.Repeat([]byte{9}, 10)); !errors.Is(err, transport.ErrInvalidRange) {
		t.Error(err)
	}
	if err := send(us, at(20, 1000), bytes.Repeat([]byte{2}, 980)); err != nil {
		t.Error(err)
	}
	same(t, "assembled", stored(t, table, "k"), append(append(bytes.Repeat([]byte{1}, 10), make([]byte, 10)...), bytes.Repeat([]byte{2}, 980)...))
	if n := us.bytes.Load(); n != 0 {
		t.Errorf("%d bytes held", n)
	}
	// Memory: what waits for the beginning is bounded, and the beginning always finds room.
	big := segmentID{upload: uuid.New(), size: 60 << 20, key: "big"}
	var refused int
	for off := int64(1 << 20); off < 30<<20; off += 1 << 20 {
		big.off = off
		var remote *native.RemoteError
		if err := send(us, big, make([]byte, 1<<20)); errors.As(err, &remote) && remote.Status == native.StatusBusy {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n := us.bytes.Load(); refused == 0 || n > 20<<20 {
		t.Errorf("%d refused, %d bytes held", refused, n)
	}
	big.off = 0
	if err := send(us, big, make([]byte, 1<<20)); err != nil {
		t.Error(err)
	}
	if n := us.bytes.Load(); n != 0 {
		t.Errorf("%d bytes held", n)
	}
	// A size said too late that others contradict.
	odd := segmentID{upload: uuid.New(), off: 50, size: -1, key: "odd"}
	if err := send(us, odd, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	odd.off, odd.size = 20, 40
	if err := send(us, odd, make([]byte, 20)); !errors.Is(err, transport.ErrInvalidRange) {
		t.Error(err)
	}
	// Uploads are counted.
	busy := 0
	for range 10 {
		s := segmentID{upload: uuid.New(), off: 0, size: -1, key: "n"}
		var remote *native.RemoteError
		if err := send(us, s, make([]byte, 10)); errors.As(err, &remote) && remote.Status == native.StatusBusy {
			busy++
		}
		us.abort(uuid.New())
	}
	if busy == 0 || len(us.open) != 3 || len(us.ended) > 6 || len(us.order) != len(us.ended) {
		t.Errorf("%d refused, %d open, %d ended", busy, len(us.open), len(us.ended))
	}
	// Given up: later segments are refused, and the room is free again.
	if !us.abort(big.upload) || us.abort(big.upload) {
		t.Error("abort")
	}
	big.off = 1 << 20
	if err := send(us, big, make([]byte, 10)); err == nil {
		t.Error("a segment of an upload that was given up was taken")
	}
}

// TestUploadIdle is about uploads that do not go on.
func TestUploadIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		us, table := testUploads(t, ServerOptions{Idle: time.Minute})
		s := segmentID{upload: uuid.New(), size: 100 << 20, key: "k"}
		for range 5 {
			if err := send(us, s, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			s.off += 1000
			s.acked = true
			time.Sleep(50 * time.Second)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if len(us.open) != 0 || us.bytes.Load() != 0 {
			t.Fatal("it is still there")
		}
		if err := send(us, s, make([]byte, 1000)); !errors.Is(err, transport.ErrUnavailable) {
			t.Fatal(err)
		}
		if st := table.Stats(); st.Reserved != 0 {
			t.Fatalf("%+v", st)
		}
		time.Sleep(2 * time.Minute)
		us.mu.Lock()
		us.prune(time.Now())
		n := len(us.ended)
		us.mu.Unlock()
		if n != 0 {
			t.Fatal(n, "remembered")
		}
	})
}

// TestRecent checks that an object is opened once for many segments, and never an old version.
func TestRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, err := objects.NewTable(objects.TableOptions{Memory: 64 << 20, IdleMemory: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer table.Close()
		r := newRecent(table)
		defer r.close()
		for i := range 10 {
			want := payload(1<<20, uint64(i))
			if err := table.Put("k", transport.FromBytes(bytes.Clone(want)), objects.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				b, err := r.get("k")
				if err != nil {
					t.Fatal(err)
				}
				same(t, "recent", b.Bytes(), want)
				b.Release()
			}
			time.Sleep(time.Millisecond)
		}
		table.Evict("k")
		if _, err := r.get("k"); !errors.Is(err, transport.ErrNotFound) {
			t.Fatal(err)
		}
		time.Sleep(5 * recentFor)
		synctest.Wait()
		if len(r.m) != 0 {
			t.Fatal("kept")
		}
	})
}
